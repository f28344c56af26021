//! What CPUID can show on the software CPU, besides the features that the core says.
//!
//! Caches are those of a common processor, and what QEMU shows where nothing is told of the host's:
//! 32 KiB for data and code each, 2 MiB (4 MiB in leaf 4), 16 MiB. There are no caches to be found out about: guests
//! plan by such numbers, and a division by zero would follow from none.

use thimble_core::cpu::features::{EXT_1_ECX, LEAF_1_ECX, LEAF_1_EDX, Register, WORD_INFO, WORDS};
use thimble_core::cpu::soft::cpuid::SUPPORTED;

use crate::cpuid::{Leaf, Offer};

/// Highest leaves.
const BASIC_MAX: u32 = 0xd;
const EXTENDED_MAX: u32 = 0x8000_000a;
/// First of the hypervisor's leaves.
const HYPERVISOR: u32 = 0x4000_0000;
const HYPERVISOR_MAX: u32 = 0x4000_0001;
/// The hypervisor's first leaf says so, as QEMU's translator does, which guests know.
const SIGNATURE: [u32; 3] = [0x5447_4354, 0x4354_4743, 0x4743_5447];
/// CPUID.1:ECX: there is a hypervisor.
const HYPERVISOR_BIT: u32 = 1 << 31;
/// CPUID.1:EDX: there is a local APIC.
const APIC_BIT: u32 = 1 << 9;
/// CPUID.80000001:ECX: nested virtualisation, which the default model has and this processor has not.
const SVM_BIT: u32 = 1 << 2;
/// Family 15, model 107, stepping 1, as QEMU's: `max` where no host is taken after.
const SIGNATURE_MAX: u32 = 0x6_0fb1;
/// Its vendor: EBX, ECX, EDX, "AuthenticAMD".
const VENDOR_MAX: [u32; 3] = [0x6874_7541, 0x444d_4163, 0x6974_6e65];
const BRAND_MAX: &[u8; 48] =
    b"Thimble software CPU\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
/// Bytes of a line that CLFLUSH flushes, in units of 8.
const CLFLUSH_LINE: u32 = 8;
/// Bits of linear and physical addresses.
const ADDRESS_BITS: u32 = 48 << 8 | 40;

const fn leaf(leaf: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> Leaf {
    Leaf {
        leaf,
        subleaf: 0,
        has_subleaf: false,
        eax,
        ebx,
        ecx,
        edx,
    }
}

const fn subleaf(number: u32, subleaf: u32, registers: [u32; 4]) -> Leaf {
    Leaf {
        subleaf,
        has_subleaf: true,
        ..leaf(number, registers)
    }
}

/// A cache in leaf 4: kind (1 data, 2 code, 3 both), level, ways, sets; lines of 64 bytes.
const fn cache(index: u32, kind: u32, level: u32, ways: u32, sets: u32) -> Leaf {
    /// WBINVD need not reach caches below.
    const ALONE: u32 = 1 << 0;
    /// Level 3 has what those below have, and is indexed by more than a part of the address.
    const INCLUSIVE: u32 = 1 << 1;
    const COMPLEX: u32 = 1 << 2;
    const SELF_INITIALIZING: u32 = 1 << 8;
    const LINE: u32 = 64 - 1;
    let ways = (ways - 1) << 22;
    subleaf(
        4,
        index,
        [
            kind | level << 5 | SELF_INITIALIZING,
            ways | LINE,
            sets - 1,
            if level == 3 {
                INCLUSIVE | COMPLEX
            } else {
                ALONE
            },
        ],
    )
}

/// What the software CPU can show.
pub fn offer() -> Offer {
    let [vendor_b, vendor_c, vendor_d] = VENDOR_MAX;
    let [hypervisor_b, hypervisor_c, hypervisor_d] = SIGNATURE;
    let brand = |at: usize| {
        core::array::from_fn(|i| {
            let mut word = [0; 4];
            word.copy_from_slice(&BRAND_MAX[at + 4 * i..][..4]);
            u32::from_le_bytes(word)
        })
    };
    let vendor = |highest| [highest, vendor_b, vendor_c, vendor_d];
    let mut leaves = vec![
        leaf(0, vendor(BASIC_MAX)),
        leaf(1, [SIGNATURE_MAX, CLFLUSH_LINE << 8, 0, 0]),
        // 32 KiB, 32 KiB, 2 MiB and 16 MiB, by number.
        leaf(2, [0x01, 0, 0x4d, 0x2c_307d]),
        cache(0, 1, 1, 8, 64),
        cache(1, 2, 1, 8, 64),
        cache(2, 3, 2, 16, 4096),
        cache(3, 3, 3, 16, 16384),
        subleaf(4, 4, [0; 4]),
        leaf(5, [0; 4]),
        leaf(6, [0; 4]),
        subleaf(7, 0, [0; 4]),
        // XSAVE: x87 and SSE in the legacy area, which has a header behind it; PKRU's eight bytes at 2688.
        subleaf(0xd, 0, [0x203, 576, 2696, 0]),
        subleaf(0xd, 1, [0; 4]),
        subleaf(0xd, 9, [8, 2688, 0, 0]),
        leaf(
            HYPERVISOR,
            [HYPERVISOR_MAX, hypervisor_b, hypervisor_c, hypervisor_d],
        ),
        leaf(HYPERVISOR_MAX, [0; 4]),
        leaf(0x8000_0000, vendor(EXTENDED_MAX)),
        leaf(0x8000_0001, [SIGNATURE_MAX, 0, 0, 0]),
        leaf(0x8000_0002, brand(0)),
        leaf(0x8000_0003, brand(16)),
        leaf(0x8000_0004, brand(32)),
        // Level 1: 64 KiB, two ways, in lines of 64 bytes; tables of 255 translations.
        leaf(
            0x8000_0005,
            [0x01ff_01ff, 0x01ff_01ff, 0x4002_0140, 0x4002_0140],
        ),
        // Level 2: 512 KiB, 16 ways; level 3: 16 MiB, 16 ways.
        leaf(0x8000_0006, [0, 0x4200_4200, 0x0200_8140, 0x0080_8140]),
        leaf(0x8000_0007, [0; 4]),
        leaf(0x8000_0008, [ADDRESS_BITS, 0, 0, 0]),
        leaf(EXTENDED_MAX, [0; 4]),
    ];
    for (info, word) in WORD_INFO.iter().zip(SUPPORTED) {
        let at = |leaf: &&mut Leaf| (leaf.leaf, leaf.subleaf) == (info.leaf, info.subleaf);
        if let Some(leaf) = leaves.iter_mut().find(at) {
            match info.register {
                Register::Eax => leaf.eax |= word,
                Register::Ebx => leaf.ebx |= word,
                Register::Ecx => leaf.ecx |= word,
                Register::Edx => leaf.edx |= word,
            }
        }
    }
    let mut withheld = [0; WORDS];
    withheld[EXT_1_ECX] = SVM_BIT;
    let mut always = [0; WORDS];
    always[LEAF_1_ECX] = HYPERVISOR_BIT;
    always[LEAF_1_EDX] = APIC_BIT;
    Offer {
        name: "TCG",
        host_is: Some("KVM"),
        leaves,
        besides: [0; WORDS],
        without: [0; WORDS],
        withheld,
        always,
        hypervisor: SIGNATURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpuid::{CpuSpec, CpuidTable, Topology};

    fn table(text: &str) -> (CpuidTable, Vec<String>) {
        let topology = Topology {
            sockets: 1,
            cores: 1,
            threads: 1,
        };
        CpuidTable::new(offer(), &CpuSpec::parse(text).unwrap(), topology).unwrap()
    }

    #[test]
    fn the_vendor_is_spelled_in_its_order() {
        for text in ["max", "qemu64"] {
            let (table, _) = table(text);
            let [_, ebx, ecx, edx] = table.registers(0, 0);
            let vendor = [ebx, edx, ecx].map(u32::to_le_bytes).concat();
            assert_eq!(vendor, b"AuthenticAMD", "{text}");
            assert_eq!(table.signature(), 0x6_0fb1);
            // Its caches are in other leaves.
            assert_eq!(table.registers(4, 0), [0; 4]);
        }
    }

    /// What QEMU 7.2 shows of these models, feature for feature.
    #[test]
    fn models_up_to_westmere_are_whole() {
        for (text, ecx) in [
            ("qemu64", 0x8000_2001),
            ("Conroe", 0x8000_0201),
            ("Penryn", 0x8008_2201),
            ("Nehalem", 0x8098_2201),
            ("Westmere", 0x8298_2203),
        ] {
            let (table, warnings) = table(text);
            assert_eq!(warnings, [""; 0], "{text}");
            assert_eq!(table.registers(1, 0)[2], ecx, "{text}");
            assert_eq!(table.registers(1, 0)[3], 0x078b_fbfd, "{text}");
            assert_eq!(table.registers(0xd, 0), [0; 4], "{text} has no XSAVE");
        }
        let (_, warnings) = table("SandyBridge");
        let lacks = "TCG doesn't support requested feature: CPUID.01H:ECX.avx [bit 28]";
        assert_eq!(warnings, [lacks]);
    }

    #[test]
    fn topology_is_there_without_x2apic() {
        let (table, _) = table("Nehalem");
        let leaves = table.for_cpu(0);
        let levels = leaves.iter().filter(|leaf| leaf.leaf == 0xb).count();
        assert_eq!(levels, 3);
        let first = leaves
            .iter()
            .find(|leaf| leaf.leaf == 1)
            .map(|leaf| leaf.ebx);
        assert_eq!(first, Some(CLFLUSH_LINE << 8));
    }
}
