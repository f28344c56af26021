//! What CPUID shows the guest: a processor model masked by what the accelerator can show, `-cpu`
//! switches on top, and the topology.
//!
//! Leaves are numbered as in the Intel SDM (CPUID instruction) and AMD's CPUID specification; the
//! hypervisor leaves are KVM's own paravirtual interface.

use std::fmt;

use thimble_core::cpu::features::{self, FeatureSet, Register, WORD_INFO, WORDS};
use thimble_core::cpu::models::{self, CpuModel, MODELS};
pub use thimble_core::cpu::soft::cpuid::CpuidEntry as Leaf;
use thimble_core::irq::lapic::LocalApicWiring;

/// First leaf of the extended ones.
const EXTENDED: u32 = 0x8000_0000;
/// First of the hypervisor's leaves.
const HYPERVISOR: u32 = 0x4000_0000;
/// CPUID.1:ECX: there is a hypervisor.
const HYPERVISOR_BIT: u32 = 1 << 31;
/// CPUID.1:ECX: x2APIC.
const X2APIC_BIT: u32 = 1 << 21;
/// CPUID.1:ECX: the local APIC's timer can wait for the time stamp counter.
const TSC_DEADLINE_BIT: u32 = 1 << 24;
/// CPUID.1:ECX: XSAVE.
const XSAVE_BIT: u32 = 1 << 26;
/// How the vendors begin whose processors are AMD's or alike: AuthenticAMD, HygonGenuine.
const AMD: [[u8; 4]; 2] = [*b"Auth", *b"Hygo"];
/// CPUID.7:ECX: protection keys of user-mode addresses.
const PKU_BIT: u32 = 1 << 3;
/// CPUID.7:ECX: paging with five levels, and linear addresses of 57 bits.
const LA57_BIT: u32 = 1 << 16;
/// CPUID.0Dh: XSAVE's component of protection keys.
const PKRU_COMPONENT: u32 = 9;
/// CPUID.0Dh, sub-leaf 0, EAX: no other components than those of the legacy area.
const X87_AND_SSE: u32 = 0b11;
/// Bytes of the legacy area and the header of XSAVE.
const LEGACY_AREA: u32 = 576;
/// CPUID.1:ECX: CR4.OSXSAVE is set; the accelerator follows the guest.
const OSXSAVE_BIT: u32 = 1 << 27;
/// CPUID.1:EDX: several logical processors share a package.
const HTT_BIT: u32 = 1 << 28;
/// Physical address bits of models that are not the host.
const MODEL_PHYS_BITS: u32 = 40;

/// Why `-cpu` was refused.
#[derive(Debug)]
pub enum CpuError {
    /// There is no model of this name.
    Model(String),
    /// There is no feature of this name.
    Feature(String),
    /// A switch is neither `+x`, `-x`, nor `x=on|off`.
    Switch(String),
    /// The property does not take the value.
    Value(&'static str, String),
    /// So many physical address bits are impossible.
    PhysBits(u64),
    /// `host`, and there is no host to take after: the name of the accelerator that has one.
    NeedsHost(&'static str),
    /// `enforce`, and the accelerator can't show these.
    Missing {
        /// Who can't: [`Offer::name`].
        name: &'static str,
        /// The features.
        features: String,
    },
    /// The accelerator did not answer.
    Accelerator(String),
}

impl fmt::Display for CpuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(name) => write!(f, "unable to find CPU model '{name}'"),
            Self::Feature(name) => write!(f, "Property '{name}' not found"),
            Self::Switch(text) => {
                write!(
                    f,
                    "'{text}' is not a switch: use +feature, -feature or feature=on|off"
                )
            }
            Self::Value(name, value) => {
                write!(f, "Property '{name}' doesn't take value '{value}'")
            }
            // QEMU's words.
            Self::PhysBits(bits) => {
                write!(f, "phys-bits should be between 32 and 52  (but is {bits})")
            }
            Self::NeedsHost(accelerator) => write!(f, "CPU model 'host' requires {accelerator}"),
            Self::Missing { name, features } => {
                write!(f, "{name} doesn't support requested features: {features}")
            }
            Self::Accelerator(error) => f.write_str(error),
        }
    }
}

/// How many processors share what.
#[derive(Clone, Copy, Debug)]
pub struct Topology {
    /// Packages.
    pub sockets: u32,
    /// Cores in each.
    pub cores: u32,
    /// Threads of each core.
    pub threads: u32,
}

/// Where a processor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its package.
    pub socket: u32,
    /// Its core in the package.
    pub core: u32,
    /// Its thread in the core.
    pub thread: u32,
}

impl Topology {
    /// Bits of an APIC id that number threads, and threads and cores.
    fn shifts(self) -> (u32, u32) {
        let bits = |count: u32| count.max(1).next_power_of_two().trailing_zeros();
        let threads = bits(self.threads);
        (threads, threads + bits(self.cores))
    }

    /// A processor's APIC id: numbers of package, core and thread in bit fields that are wide
    /// enough. It is the index where all counts are powers of two.
    pub fn apic_id(self, index: u32) -> u32 {
        let (thread_bits, package_bits) = self.shifts();
        let Place {
            socket,
            core,
            thread,
        } = self.place(index);
        thread | (core << thread_bits) | (socket << package_bits)
    }

    /// Where a processor is.
    pub fn place(self, index: u32) -> Place {
        let (threads, cores) = (self.threads.max(1), self.cores.max(1));
        Place {
            socket: index / threads / cores,
            core: index / threads % cores,
            thread: index % threads,
        }
    }

    /// Logical processors in a package.
    fn in_package(self) -> u32 {
        self.cores * self.threads
    }
}

/// Where the features of a processor come from.
#[derive(Clone, Copy, Debug)]
enum Base {
    /// All that the accelerator can show.
    Max,
    /// The same, where that is what the host has.
    Host,
    Model(&'static CpuModel),
}

/// `-cpu`, taken apart.
#[derive(Clone, Debug)]
pub struct CpuSpec {
    base: Base,
    plus: FeatureSet,
    minus: FeatureSet,
    enforce: bool,
    check: bool,
    /// Whether KVM shows itself.
    kvm: bool,
    /// `vendor=`.
    vendor: Option<[u8; 12]>,
    /// Physical address bits, where they are not the accelerator's.
    phys_bits: Option<u32>,
}

impl CpuSpec {
    /// Reads `MODEL[,+x][,-y][,z=on|off][,enforce][,check][,kvm=on|off][,vendor=TEXT][,phys-bits=N]
    /// [,host-phys-bits=on|off]`, and `migratable=on|off` behind `host` and `max`.
    pub fn parse(text: &str) -> Result<Self, CpuError> {
        let mut words = text.split(',');
        let name = words.next().unwrap_or_default();
        let base = match name {
            "host" => Base::Host,
            "max" => Base::Max,
            _ => Base::Model(models::find(name).ok_or_else(|| CpuError::Model(name.to_owned()))?),
        };
        let mut spec = Self {
            base,
            plus: [0; WORDS],
            minus: [0; WORDS],
            enforce: false,
            check: true,
            kvm: true,
            vendor: None,
            phys_bits: None,
        };
        for word in words {
            match word.split_once('=') {
                Some((name, value)) => spec.property(word, name, value)?,
                None => spec.switch(word)?,
            }
        }
        Ok(spec)
    }

    fn property(&mut self, word: &str, name: &str, value: &str) -> Result<(), CpuError> {
        let wrong = |name| CpuError::Value(name, value.to_owned());
        match name {
            "vendor" => {
                let vendor = value.as_bytes().try_into().map_err(|_| wrong("vendor"))?;
                self.vendor = Some(vendor);
            }
            "phys-bits" => {
                let bits: u64 = value.parse().map_err(|_| wrong("phys-bits"))?;
                self.phys_bits = match bits {
                    // The default.
                    0 => None,
                    32..=52 => Some(bits as u32),
                    _ => return Err(CpuError::PhysBits(bits)),
                };
            }
            "host-phys-bits" => match (value, self.phys_bits) {
                ("off" | "no" | "false" | "n", None) => self.phys_bits = Some(MODEL_PHYS_BITS),
                ("on" | "off" | "yes" | "no" | "true" | "false" | "y" | "n", _) => {}
                _ => return Err(wrong("host-phys-bits")),
            },
            "migratable" if matches!(self.base, Base::Host | Base::Max) => {
                // The one feature that KVM shows and that stays behind when a guest moves.
                match value {
                    "on" | "yes" | "true" | "y" => self.switch("-invtsc")?,
                    "off" | "no" | "false" | "n" => {}
                    _ => return Err(wrong("migratable")),
                }
            }
            _ => return self.switch(word),
        }
        Ok(())
    }

    fn switch(&mut self, word: &str) -> Result<(), CpuError> {
        let (name, on) = if let Some(name) = word.strip_prefix('+') {
            (name, true)
        } else if let Some(name) = word.strip_prefix('-') {
            (name, false)
        } else {
            match word.split_once('=') {
                None => (word, true),
                Some((name, "on" | "yes" | "true" | "y")) => (name, true),
                Some((name, "off" | "no" | "false" | "n")) => (name, false),
                Some(_) => return Err(CpuError::Switch(word.to_owned())),
            }
        };
        match name {
            // What is so in any case, unless phys-bits= says otherwise.
            "host-phys-bits" if on => {}
            "enforce" => self.enforce = on,
            "check" => self.check = on,
            "kvm" => self.kvm = on,
            _ => {
                let set = features::find(name).ok_or_else(|| CpuError::Feature(name.to_owned()))?;
                for (i, bits) in set.into_iter().enumerate() {
                    let (to, from) = match on {
                        true => (&mut self.plus, &mut self.minus),
                        false => (&mut self.minus, &mut self.plus),
                    };
                    to[i] |= bits;
                    from[i] &= !bits;
                }
            }
        }
        Ok(())
    }
}

/// The text of `-cpu help`.
pub fn cpu_help() -> String {
    use fmt::Write as _;
    let mut text = String::from("Available CPUs:\n");
    for model in &MODELS {
        let _ = writeln!(text, "x86 {:<20}  {}", model.name, model.brand);
    }
    for (name, brand) in [
        ("host", "all that the host's KVM can show"),
        ("max", "all that the accelerator can show"),
    ] {
        let _ = writeln!(text, "x86 {name:<20}  {brand}");
    }
    text.push_str("\nRecognized CPUID flags:\n");
    let mut line = String::from(" ");
    for name in features::names() {
        if line.len() + name.len() > 75 {
            let _ = writeln!(text, "{line}");
            line = String::from(" ");
        }
        let _ = write!(line, " {name}");
    }
    let _ = writeln!(text, "{line}");
    text
}

/// What an accelerator can show.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Its name where it lacks something.
    pub name: &'static str,
    /// Who has `-cpu host`, unless it is this one.
    pub host_is: Option<&'static str>,
    /// All leaves, with all features. A model's numbers and names take the place of those in here.
    pub leaves: Vec<Leaf>,
    /// Feature bits that it can show though no leaf does.
    pub besides: FeatureSet,
    /// Feature bits that leaves show, and that a guest gets nothing of.
    pub without: FeatureSet,
    /// Feature bits of models that no guest gets unless it asks for them.
    pub withheld: FeatureSet,
    /// Feature bits that belong to every guest, as far as they can be shown.
    pub always: FeatureSet,
    /// What the hypervisor's first leaf says.
    pub hypervisor: [u32; 3],
}

impl Offer {
    /// The feature bits that can be shown.
    fn available(&self) -> FeatureSet {
        let mut set = self.besides;
        for (word, info) in set.iter_mut().zip(WORD_INFO) {
            let at = |leaf: &&Leaf| (leaf.leaf, leaf.subleaf) == (info.leaf, info.subleaf);
            if let Some(mut leaf) = self.leaves.iter().find(at).copied() {
                *word |= *register_of(&mut leaf, info.register);
            }
        }
        for (word, without) in set.iter_mut().zip(self.without) {
            *word &= !without;
        }
        set
    }
}

/// The CPUID leaves of all processors, but for what differs between them.
#[derive(Clone, Debug)]
pub struct CpuidTable {
    leaves: Vec<Leaf>,
    topology: Topology,
}

impl CpuidTable {
    /// What `spec` shows on this accelerator, and a line for each feature that it lacks.
    ///
    /// # Errors
    /// If the accelerator has no `host`, or lacks what is enforced.
    pub fn new(
        offer: Offer,
        spec: &CpuSpec,
        topology: Topology,
    ) -> Result<(Self, Vec<String>), CpuError> {
        let available = offer.available();
        let mut wanted = match (spec.base, offer.host_is) {
            (Base::Host, Some(accelerator)) => return Err(CpuError::NeedsHost(accelerator)),
            (Base::Host | Base::Max, _) => available,
            (Base::Model(model), _) => {
                let mut features = model.features;
                for (word, withheld) in features.iter_mut().zip(offer.withheld) {
                    *word &= !withheld;
                }
                features
            }
        };
        for (word, wanted) in wanted.iter_mut().enumerate() {
            *wanted |= offer.always[word] & available[word];
            *wanted = (*wanted | spec.plus[word]) & !spec.minus[word];
        }
        let lacks: Vec<String> = (0..WORDS)
            .flat_map(|word| (0..32).map(move |bit| (word, bit)))
            .filter(|&(word, bit)| wanted[word] & !available[word] & 1 << bit != 0)
            .map(|(word, bit)| describe(word, bit))
            .collect();
        let name = offer.name;
        if spec.enforce && !lacks.is_empty() {
            let features = lacks.join(", ");
            return Err(CpuError::Missing { name, features });
        }
        let warn = |lack| format!("{name} doesn't support requested feature: {lack}");
        let warnings = lacks.into_iter().filter(|_| spec.check).map(warn).collect();

        let mut leaves = offer.leaves;
        if let Base::Model(model) = spec.base {
            show_model(&mut leaves, model, offer.hypervisor);
        }
        for (info, (want, have)) in WORD_INFO.iter().zip(wanted.into_iter().zip(available)) {
            let at = |leaf: &&mut Leaf| (leaf.leaf, leaf.subleaf) == (info.leaf, info.subleaf);
            if let Some(leaf) = leaves.iter_mut().find(at) {
                // Bits that no name stands for are the model's business only where it is the host.
                *register_of(leaf, info.register) = want & have;
            }
        }
        for leaf in &mut leaves {
            if let Some(vendor) = &spec.vendor
                && (leaf.leaf == 0 || leaf.leaf == EXTENDED)
            {
                let word = |at: usize| {
                    u32::from_le_bytes([vendor[at], vendor[at + 1], vendor[at + 2], vendor[at + 3]])
                };
                (leaf.ebx, leaf.edx, leaf.ecx) = (word(0), word(4), word(8));
            }
            if let Some(bits) = spec.phys_bits
                && leaf.leaf == 0x8000_0008
            {
                leaf.eax = leaf.eax & !0xff | bits;
            }
        }
        let of =
            |leaves: &[Leaf], number: u32| leaves.iter().find(|leaf| leaf.leaf == number).copied();
        let amd = of(&leaves, 0).is_some_and(|leaf| AMD.contains(&leaf.ebx.to_le_bytes()));
        let xsave = of(&leaves, 1).is_some_and(|leaf| leaf.ecx & XSAVE_BIT != 0);
        for leaf in &mut leaves {
            // AMD's tell of caches elsewhere; without XSAVE there is nothing to tell of its area.
            if amd && matches!(leaf.leaf, 2 | 4) || !xsave && leaf.leaf == 0xd {
                (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0);
            }
        }
        if !spec.kvm {
            leaves.retain(|leaf| leaf.leaf & 0xf000_0000 != HYPERVISOR);
            for leaf in leaves.iter_mut().filter(|leaf| leaf.leaf == 1) {
                leaf.ecx &= !HYPERVISOR_BIT;
            }
        }
        Ok((Self { leaves, topology }, warnings))
    }

    /// EAX of leaf 1: what EDX holds after a reset.
    pub fn signature(&self) -> u32 {
        self.registers(1, 0)[0]
    }

    /// EAX, EBX, ECX and EDX of a leaf, but for what differs between processors; zeros for one that
    /// is not there.
    pub fn registers(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        self.leaves
            .iter()
            .find(|have| (have.leaf, have.subleaf) == (leaf, subleaf))
            .map_or([0; 4], |e| [e.eax, e.ebx, e.ecx, e.edx])
    }

    /// The features that processors show.
    pub fn features(&self) -> FeatureSet {
        WORD_INFO.map(|info| {
            let [eax, ebx, ecx, edx] = self.registers(info.leaf, info.subleaf);
            match info.register {
                Register::Eax => eax,
                Register::Ebx => ebx,
                Register::Ecx => ecx,
                Register::Edx => edx,
            }
        })
    }

    /// Bits of a physical address (leaf 80000008h).
    pub fn physical_bits(&self) -> u8 {
        match self.registers(0x8000_0008, 0)[0] as u8 {
            // Processors from before the leaf.
            0 => 36,
            bits => bits.min(52),
        }
    }

    /// The local APIC that a processor is shown with, by its index; its id is cut to 8 bits.
    pub fn local_apic(&self, index: u32) -> LocalApicWiring {
        let ecx = self.registers(1, 0)[2];
        LocalApicWiring {
            id: self.apic_id(index) as u8,
            bootstrap: index == 0,
            x2apic: ecx & X2APIC_BIT != 0,
            tsc_deadline: ecx & TSC_DEADLINE_BIT != 0,
            address_bits: self.physical_bits(),
        }
    }

    /// The APIC id of a processor, by its index: its number in KVM.
    pub fn apic_id(&self, index: u32) -> u32 {
        self.topology.apic_id(index)
    }

    /// The leaves of one processor, by its index.
    pub fn for_cpu(&self, index: u32) -> Vec<Leaf> {
        let apic_id = self.apic_id(index);
        let mut leaves = self.leaves.clone();
        let (thread_bits, package_bits) = self.topology.shifts();
        let count = self.topology.in_package();
        let [_, _, extended, _] = self.registers(7, 0);
        let protection_keys = extended & PKU_BIT != 0;
        let five_levels = extended & LA57_BIT != 0;
        // Made anew below, with one entry a level.
        leaves.retain(|leaf| leaf.leaf != 0xb && leaf.leaf != 0x1f);
        for leaf in &mut leaves {
            match leaf.leaf {
                1 => {
                    leaf.ebx = leaf.ebx & 0xff00 | apic_id << 24;
                    leaf.edx &= !HTT_BIT;
                    if count > 1 {
                        leaf.ebx |= count.min(255) << 16;
                        leaf.edx |= HTT_BIT;
                    }
                    // The accelerator sets it when the guest sets CR4.OSXSAVE.
                    leaf.ecx &= !OSXSAVE_BIT;
                }
                4 if leaf.eax & 0x1f != 0 => {
                    // Sharing: by level 1 and 2 the threads of a core, by level 3 the package.
                    let level = leaf.eax >> 5 & 7;
                    let sharing = if level < 3 { thread_bits } else { package_bits };
                    let cores = package_bits - thread_bits;
                    leaf.eax =
                        leaf.eax & 0x3fff | ((1 << sharing) - 1) << 14 | ((1 << cores) - 1) << 26;
                }
                // Components of features that are not shown are not there.
                0xd if leaf.subleaf == 0 && !protection_keys => {
                    leaf.eax &= !(1 << PKRU_COMPONENT);
                    if leaf.eax == X87_AND_SSE {
                        leaf.ecx = LEGACY_AREA;
                    }
                }
                0xd if leaf.subleaf == PKRU_COMPONENT && !protection_keys => {
                    (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0);
                }
                0x8000_0008 => {
                    let linear = if five_levels { 57 } else { 48 };
                    leaf.eax = leaf.eax & !0xff00 | linear << 8;
                    leaf.ecx =
                        leaf.ecx & !0xf0ff | package_bits << 12 | count.saturating_sub(1).min(255);
                }
                0x8000_001e => {
                    leaf.eax = apic_id;
                    leaf.ebx = apic_id >> thread_bits & 0xff
                        | self.topology.threads.saturating_sub(1) << 8;
                    leaf.ecx = apic_id >> package_bits & 0xff;
                }
                _ => {}
            }
        }
        if self.registers(0, 0)[0] >= 0xb {
            const THREADS: u32 = 1;
            const CORES: u32 = 2;
            let levels = [
                (thread_bits, self.topology.threads, THREADS),
                (package_bits, count, CORES),
                (0, 0, 0),
            ];
            for (level, (shift, processors, kind)) in levels.into_iter().enumerate() {
                leaves.push(Leaf {
                    leaf: 0xb,
                    subleaf: level as u32,
                    has_subleaf: true,
                    eax: shift,
                    ebx: processors,
                    ecx: kind << 8 | level as u32,
                    edx: apic_id,
                });
            }
        }
        leaves
    }
}

fn register_of(leaf: &mut Leaf, register: Register) -> &mut u32 {
    match register {
        Register::Eax => &mut leaf.eax,
        Register::Ebx => &mut leaf.ebx,
        Register::Ecx => &mut leaf.ecx,
        Register::Edx => &mut leaf.edx,
    }
}

/// The first feature of a set that another lacks, as `CPUID.01H:ECX.sse3 [bit 0]`.
pub fn first_missing(wanted: &FeatureSet, have: &FeatureSet) -> Option<String> {
    let lacks = wanted.iter().zip(have).map(|(wanted, have)| wanted & !have);
    let (word, lacks) = lacks.enumerate().find(|(_, lacks)| *lacks != 0)?;
    Some(describe(word, lacks.trailing_zeros()))
}

/// `CPUID.01H:ECX.sse3 [bit 0]`.
fn describe(word: usize, bit: u32) -> String {
    let info = WORD_INFO[word];
    let (leaf, register) = (info.leaf, info.register.name());
    let dot = if features::name(word, bit).is_empty() {
        ""
    } else {
        "."
    };
    let name = features::name(word, bit);
    format!("CPUID.{leaf:02X}H:{register}{dot}{name} [bit {bit}]")
}

/// Makes leaves tell of a model: vendor, numbers, brand, and no leaf beyond its highest.
fn show_model(leaves: &mut Vec<Leaf>, model: &CpuModel, hypervisor: [u32; 3]) {
    let text = |bytes: &[u8], at: usize| {
        let word = core::array::from_fn(|i| bytes.get(at + i).copied().unwrap_or(0));
        u32::from_le_bytes(word)
    };
    let vendor = model.vendor.as_bytes();
    let brand = model.brand.as_bytes();
    // No accelerator can raise what it has no leaves for.
    leaves.retain(|leaf| match leaf.leaf & 0xf000_0000 {
        0 => leaf.leaf <= model.level,
        EXTENDED => leaf.leaf <= model.xlevel,
        _ => true,
    });
    for leaf in leaves.iter_mut() {
        match leaf.leaf {
            0 => leaf.eax = leaf.eax.min(model.level),
            1 => leaf.eax = models::signature(model.family, model.model, model.stepping),
            EXTENDED => leaf.eax = leaf.eax.min(model.xlevel),
            0x8000_0001 => {
                leaf.eax = models::signature(model.family, model.model, model.stepping);
            }
            0x8000_0002..=0x8000_0004 => {
                let at = (leaf.leaf - 0x8000_0002) as usize * 16;
                leaf.eax = text(brand, at);
                leaf.ebx = text(brand, at + 4);
                leaf.ecx = text(brand, at + 8);
                leaf.edx = text(brand, at + 12);
            }
            _ => {}
        }
        if leaf.leaf == 0 || leaf.leaf == EXTENDED {
            leaf.ebx = text(vendor, 0);
            leaf.edx = text(vendor, 4);
            leaf.ecx = text(vendor, 8);
        }
        if leaf.leaf == HYPERVISOR {
            [leaf.ebx, leaf.ecx, leaf.edx] = hypervisor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches() {
        let spec = CpuSpec::parse("qemu64,+avx,-sse2,x2apic=off,enforce").unwrap();
        assert!(spec.enforce);
        assert_eq!(spec.plus, features::find("avx").unwrap());
        let mut minus = features::find("sse2").unwrap();
        minus[features::LEAF_1_ECX] |= X2APIC_BIT;
        assert_eq!(spec.minus, minus);
        let again = CpuSpec::parse("host,-avx,+avx").unwrap();
        assert_eq!(again.minus, [0; WORDS]);
    }

    #[test]
    fn refusals_name_the_culprit() {
        for (text, culprit) in [
            ("z80", "z80"),
            ("qemu64,+turbo", "turbo"),
            ("qemu64,avx=maybe", "avx=maybe"),
            ("qemu64,", "''"),
            ("qemu64,vendor=Intel", "'Intel'"),
            ("qemu64,phys-bits=53", "but is 53"),
            ("qemu64,phys-bits=x", "'x'"),
            ("qemu64,host-phys-bits=x", "'x'"),
            ("qemu64,migratable=on", "'migratable'"),
            ("max,migratable=x", "'x'"),
        ] {
            let error = CpuSpec::parse(text).unwrap_err().to_string();
            assert!(error.contains(culprit), "{text}: {error}");
        }
    }

    #[test]
    fn apic_ids_leave_gaps() {
        let ids = |cores, threads| {
            let topology = Topology {
                sockets: 2,
                cores,
                threads,
            };
            [0, 1, 2, 3, 4, 5].map(|index| topology.apic_id(index))
        };
        assert_eq!(ids(1, 1), [0, 1, 2, 3, 4, 5]);
        assert_eq!(ids(2, 2), [0, 1, 2, 3, 4, 5]);
        assert_eq!(ids(3, 1), [0, 1, 2, 4, 5, 6]);
        assert_eq!(ids(3, 2), [0, 1, 2, 3, 4, 5]);
        assert_eq!(ids(1, 3), [0, 1, 2, 4, 5, 6]);
    }
}
