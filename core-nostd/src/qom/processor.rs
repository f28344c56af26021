//! What CPUID shows of a processor, as properties tell it (Intel SDM volume 2A, CPUID).

use crate::cpu::features::{FeatureSet, Register, WORD_INFO};
use crate::cpu::models::CpuModel;

/// Bytes of a model's name at most.
pub const MODEL_NAME_MAX: usize = 32;

/// Leaf of the highest extended leaf.
const EXTENDED: u32 = 0x8000_0000;
/// The three leaves of the brand string.
const BRAND: [u32; 3] = [0x8000_0002, 0x8000_0003, 0x8000_0004];

/// What CPUID shows of a processor. It is the same for all of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processor {
    /// The model of `-cpu`, without features: `qemu64`.
    pub name: heapless::String<MODEL_NAME_MAX>,
    /// Leaf 0: EBX, EDX, ECX.
    pub vendor: heapless::String<12>,
    /// Family with the extended family added.
    pub family: u32,
    /// Model, 8 bits.
    pub model: u32,
    /// Stepping, 4 bits.
    pub stepping: u32,
    /// Highest basic leaf.
    pub level: u32,
    /// Highest extended leaf; 0: none.
    pub xlevel: u32,
    /// Brand string.
    pub brand: heapless::String<48>,
    /// Feature bits.
    pub features: FeatureSet,
}

/// As much of a text as fits.
fn cut<const N: usize>(text: &str) -> heapless::String<N> {
    let mut cut = heapless::String::new();
    for letter in text.chars() {
        if cut.push(letter).is_err() {
            break;
        }
    }
    cut
}

/// The text in registers: up to the first NUL, and what is not ASCII as question marks.
fn text<const N: usize>(registers: impl Iterator<Item = u32>) -> heapless::String<N> {
    let bytes = registers.flat_map(u32::to_le_bytes);
    let mut text = heapless::String::new();
    for byte in bytes.take_while(|byte| *byte != 0) {
        let letter = if byte.is_ascii() { byte.into() } else { '?' };
        if text.push(letter).is_err() {
            break;
        }
    }
    text
}

impl Processor {
    /// A model, with all that belongs to it.
    pub fn from_model(model: &CpuModel) -> Self {
        Self {
            name: cut(model.name),
            vendor: cut(model.vendor),
            family: model.family,
            model: model.model,
            stepping: model.stepping,
            level: model.level,
            xlevel: model.xlevel,
            brand: cut(model.brand),
            features: model.features,
        }
    }

    /// What a guest sees. `cpuid` gives EAX, EBX, ECX and EDX of a leaf and sub-leaf, zeros for
    /// one that is not there.
    pub fn from_cpuid(name: &str, cpuid: &dyn Fn(u32, u32) -> [u32; 4]) -> Self {
        let [level, ebx, ecx, edx] = cpuid(0, 0);
        let [signature, ..] = cpuid(1, 0);
        let [xlevel, ..] = cpuid(EXTENDED, 0);
        let family = signature >> 8 & 15;
        let extended = if family == 15 {
            signature >> 20 & 0xff
        } else {
            0
        };
        let mut features = FeatureSet::default();
        for (word, info) in features.iter_mut().zip(WORD_INFO) {
            let [eax, ebx, ecx, edx] = cpuid(info.leaf, info.subleaf);
            *word = match info.register {
                Register::Eax => eax,
                Register::Ebx => ebx,
                Register::Ecx => ecx,
                Register::Edx => edx,
            };
        }
        Self {
            name: cut(name),
            vendor: text([ebx, edx, ecx].into_iter()),
            family: family + extended,
            model: (signature >> 4 & 15) | (signature >> 16 & 15) << 4,
            stepping: signature & 15,
            level,
            xlevel,
            brand: text(BRAND.into_iter().flat_map(|leaf| cpuid(leaf, 0))),
            features,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::features::LEAF_1_EDX;
    use crate::cpu::models;

    #[test]
    fn registers_tell_the_model() {
        let model = models::find("qemu64").unwrap();
        let word = |text: &str, at: usize| {
            let bytes = text.as_bytes();
            let byte = |i: usize| bytes.get(at + i).copied().unwrap_or(0);
            u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)])
        };
        let cpuid = |leaf: u32, subleaf: u32| {
            let mut registers = match leaf {
                0 => [
                    model.level,
                    word(model.vendor, 0),
                    word(model.vendor, 8),
                    word(model.vendor, 4),
                ],
                1 | 0x8000_0001 => [
                    models::signature(model.family, model.model, model.stepping),
                    0,
                    0,
                    0,
                ],
                EXTENDED => [model.xlevel, 0, 0, 0],
                0x8000_0002..=0x8000_0004 => {
                    let at = (leaf - 0x8000_0002) as usize * 16;
                    [0, 4, 8, 12].map(|more| word(model.brand, at + more))
                }
                _ => [0; 4],
            };
            for (info, bits) in WORD_INFO.iter().zip(model.features) {
                if (info.leaf, info.subleaf) == (leaf, subleaf) {
                    registers[match info.register {
                        Register::Eax => 0,
                        Register::Ebx => 1,
                        Register::Ecx => 2,
                        Register::Edx => 3,
                    }] |= bits;
                }
            }
            registers
        };
        let mut shown = Processor::from_cpuid("qemu64", &cpuid);
        assert_ne!(shown.features[LEAF_1_EDX], 0);
        shown.features = model.features;
        assert_eq!(shown, Processor::from_model(model));
    }

    #[test]
    fn texts_are_cut_to_what_fits() {
        let shown = Processor::from_cpuid(&"é".repeat(40), &|_, _| [0xffff_ffff; 4]);
        assert_eq!(shown.name.as_str(), "é".repeat(16));
        assert_eq!(shown.vendor.as_str(), "?".repeat(12));
        assert_eq!(shown.brand.len(), 48);
    }
}
