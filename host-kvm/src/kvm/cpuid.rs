//! What CPUID shows the guest: a processor model masked by what KVM can show, `-cpu` switches on
//! top, and the topology.
//!
//! Leaves are numbered as in the Intel SDM (CPUID instruction) and AMD's CPUID specification; the
//! hypervisor leaves are KVM's own paravirtual interface.

use std::fmt;

use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2,
};
use kvm_ioctls::Kvm;
use thimble_core::cpu::features::{
    self, EXT_1_ECX, FeatureSet, KVM_EAX, LEAF_1_ECX, LEAF_1_EDX, Register, WORD_INFO, WORDS,
};
use thimble_core::cpu::models::{self, CpuModel, MODELS};

use super::error::KvmError;
use super::vm::{Irqchip, Vm, x2apic_outside};

/// First leaf of the extended ones.
const EXTENDED: u32 = 0x8000_0000;
/// First of the hypervisor's leaves.
const HYPERVISOR: u32 = 0x4000_0000;
/// CPUID.1:ECX: there is a hypervisor.
const HYPERVISOR_BIT: u32 = 1 << 31;
/// CPUID.1:ECX: x2APIC, and the timer's deadline mode: both come from the in-kernel local APIC; the
/// machine's own ones have the first where the kernel lets its registers through.
const X2APIC_BIT: u32 = 1 << 21;
/// See [`X2APIC_BIT`].
const TSC_DEADLINE_BIT: u32 = 1 << 24;
/// CPUID.1:ECX: CR4.OSXSAVE is set; the kernel follows the guest.
const OSXSAVE_BIT: u32 = 1 << 27;
/// CPUID.1:EDX: several logical processors share a package.
const HTT_BIT: u32 = 1 << 28;
/// CPUID.1:EDX: there is a local APIC.
const APIC_BIT: u32 = 1 << 9;
/// Features of models that no guest gets under KVM unless it asks for them, as in QEMU: ACPI's
/// thermal control, MONITOR, and nested virtualization.
const NOT_UNDER_KVM: [(usize, u32); 3] = [
    (LEAF_1_EDX, 1 << 22),
    (LEAF_1_ECX, 1 << 3),
    (EXT_1_ECX, 1 << 2),
];
/// CPUID.40000001:EAX: what the kernel does by its own local APICs only: asynchronous page faults,
/// ends of interrupts in memory, wake-ups of halted processors, several interrupts in one call,
/// yielding to another processor, and wide destinations of messages.
const IN_KERNEL_APIC: u32 =
    1 << 4 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 11 | 1 << 13 | 1 << 14 | 1 << 15;
/// Physical address bits of models that are not the host.
const MODEL_PHYS_BITS: u32 = 40;
/// What the hypervisor's first leaf says.
const KVM_SIGNATURE: [u32; 3] = [0x4b4d_564b, 0x564b_4d56, 0x4d];

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
    /// `enforce`, and the kernel can't show these.
    Missing(String),
    /// The kernel did not answer.
    Kvm(KvmError),
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
            Self::Missing(names) => write!(f, "host doesn't support requested features: {names}"),
            Self::Kvm(error) => error.fmt(f),
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
    /// All that KVM can show.
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
    /// Physical address bits, where they are not the host's.
    phys_bits: Option<u32>,
}

impl CpuSpec {
    /// Reads `MODEL[,+x][,-y][,z=on|off][,enforce][,check][,kvm=on|off][,vendor=TEXT][,phys-bits=N]
    /// [,host-phys-bits=on|off]`, and `migratable=on|off` behind `host` and `max`.
    pub fn parse(text: &str) -> Result<Self, CpuError> {
        let mut words = text.split(',');
        let name = words.next().unwrap_or_default();
        let base = match name {
            "host" | "max" => Base::Host,
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
            "migratable" if matches!(self.base, Base::Host) => {
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
    for name in ["host", "max"] {
        let _ = writeln!(text, "x86 {name:<20}  all that the host's KVM can show");
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

/// The CPUID leaves of all processors, but for what differs between them.
#[derive(Clone, Debug)]
pub struct CpuidTable {
    entries: Vec<kvm_cpuid_entry2>,
    topology: Topology,
}

impl CpuidTable {
    /// What `spec` shows on this kernel, and a line for each feature that it lacks.
    pub fn new(
        kvm: &Kvm,
        irqchip: Irqchip,
        spec: &CpuSpec,
        topology: Topology,
    ) -> Result<(Self, Vec<String>), CpuError> {
        let supported = Vm::supported_cpuid(kvm).map_err(CpuError::Kvm)?;
        let mut entries = supported.as_slice().to_vec();
        let mut available = available(&entries);
        if !irqchip.has_apics() {
            available[LEAF_1_ECX] &= !TSC_DEADLINE_BIT;
            if !x2apic_outside(kvm) {
                available[LEAF_1_ECX] &= !X2APIC_BIT;
            }
            available[KVM_EAX] &= !IN_KERNEL_APIC;
        }
        let mut wanted = match spec.base {
            Base::Host => available,
            Base::Model(model) => {
                let mut features = model.features;
                for (word, bit) in NOT_UNDER_KVM {
                    features[word] &= !bit;
                }
                features
            }
        };
        // These belong to every guest here, whatever its model is.
        wanted[LEAF_1_ECX] |= HYPERVISOR_BIT | available[LEAF_1_ECX] & X2APIC_BIT;
        wanted[LEAF_1_EDX] |= APIC_BIT;
        wanted[KVM_EAX] |= available[KVM_EAX];
        for (word, (plus, minus)) in wanted.iter_mut().zip(spec.plus.iter().zip(spec.minus)) {
            *word = (*word | plus) & !minus;
        }
        let lacks: Vec<String> = (0..WORDS)
            .flat_map(|word| (0..32).map(move |bit| (word, bit)))
            .filter(|&(word, bit)| wanted[word] & !available[word] & 1 << bit != 0)
            .map(|(word, bit)| describe(word, bit))
            .collect();
        if spec.enforce && !lacks.is_empty() {
            return Err(CpuError::Missing(lacks.join(", ")));
        }
        let warn = |lack| format!("host doesn't support requested feature: {lack}");
        let warnings = lacks.into_iter().filter(|_| spec.check).map(warn).collect();

        if let Base::Model(model) = spec.base {
            show_model(&mut entries, model);
        }
        for (info, (want, have)) in WORD_INFO.iter().zip(wanted.into_iter().zip(available)) {
            let register = |entry| register_of(entry, info.register);
            let at = |e: &&mut kvm_cpuid_entry2| (e.function, e.index) == (info.leaf, info.subleaf);
            if let Some(entry) = entries.iter_mut().find(at) {
                // Bits that no name stands for are the model's business only where it is the host.
                *register(entry) = want & have;
            }
        }
        for entry in &mut entries {
            if let Some(vendor) = &spec.vendor
                && (entry.function == 0 || entry.function == EXTENDED)
            {
                let word = |at: usize| {
                    u32::from_le_bytes([vendor[at], vendor[at + 1], vendor[at + 2], vendor[at + 3]])
                };
                (entry.ebx, entry.edx, entry.ecx) = (word(0), word(4), word(8));
            }
            if let Some(bits) = spec.phys_bits
                && entry.function == 0x8000_0008
            {
                entry.eax = entry.eax & !0xff | bits;
            }
        }
        if !spec.kvm {
            entries.retain(|entry| entry.function & 0xf000_0000 != HYPERVISOR);
            for entry in entries.iter_mut().filter(|entry| entry.function == 1) {
                entry.ecx &= !HYPERVISOR_BIT;
            }
        }
        Ok((Self { entries, topology }, warnings))
    }

    /// EAX of leaf 1: what EDX holds after a reset.
    pub fn signature(&self) -> u32 {
        self.entries
            .iter()
            .find(|entry| entry.function == 1)
            .map_or(0, |entry| entry.eax)
    }

    /// EAX, EBX, ECX and EDX of a leaf, but for what differs between processors; zeros for one that
    /// is not there.
    pub fn registers(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        self.entries
            .iter()
            .find(|entry| (entry.function, entry.index) == (leaf, subleaf))
            .map_or([0; 4], |e| [e.eax, e.ebx, e.ecx, e.edx])
    }

    /// The APIC id of a processor, by its index: its number in KVM.
    pub fn apic_id(&self, index: u32) -> u32 {
        self.topology.apic_id(index)
    }

    /// The leaves of one processor, by its index.
    pub fn for_cpu(&self, index: u32) -> Result<CpuId, KvmError> {
        let apic_id = self.apic_id(index);
        let mut entries = self.entries.clone();
        let (thread_bits, package_bits) = self.topology.shifts();
        let count = self.topology.in_package();
        let x2apic = entries
            .iter()
            .any(|e| e.function == 1 && e.ecx & X2APIC_BIT != 0);
        // Made anew below, with one entry a level.
        entries.retain(|entry| entry.function != 0xb && entry.function != 0x1f);
        for entry in &mut entries {
            match entry.function {
                1 => {
                    entry.ebx = entry.ebx & 0xff00 | apic_id << 24 | count.min(255) << 16;
                    entry.edx = if count > 1 {
                        entry.edx | HTT_BIT
                    } else {
                        entry.edx & !HTT_BIT
                    };
                    // The kernel sets it when the guest sets CR4.OSXSAVE.
                    entry.ecx &= !OSXSAVE_BIT;
                }
                4 if entry.eax & 0x1f != 0 => {
                    // Sharing: by level 1 and 2 the threads of a core, by level 3 the package.
                    let level = entry.eax >> 5 & 7;
                    let sharing = if level < 3 { thread_bits } else { package_bits };
                    let cores = package_bits - thread_bits;
                    entry.eax =
                        entry.eax & 0x3fff | ((1 << sharing) - 1) << 14 | ((1 << cores) - 1) << 26;
                }
                0x8000_0008 => {
                    entry.ecx =
                        entry.ecx & !0xf0ff | package_bits << 12 | count.saturating_sub(1).min(255);
                }
                0x8000_001e => {
                    entry.eax = apic_id;
                    entry.ebx = apic_id >> thread_bits & 0xff
                        | self.topology.threads.saturating_sub(1) << 8;
                    entry.ecx = apic_id >> package_bits & 0xff;
                }
                _ => {}
            }
        }
        if x2apic && self.highest_basic() >= 0xb {
            const THREADS: u32 = 1;
            const CORES: u32 = 2;
            let levels = [
                (thread_bits, self.topology.threads, THREADS),
                (package_bits, count, CORES),
                (0, 0, 0),
            ];
            for (level, (shift, processors, kind)) in levels.into_iter().enumerate() {
                entries.push(kvm_cpuid_entry2 {
                    function: 0xb,
                    index: level as u32,
                    flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                    eax: shift,
                    ebx: processors,
                    ecx: kind << 8 | level as u32,
                    edx: apic_id,
                    ..Default::default()
                });
            }
        }
        CpuId::from_entries(&entries[..entries.len().min(KVM_MAX_CPUID_ENTRIES)])
            .map_err(|_| KvmError::Unsupported("this many CPUID leaves"))
    }

    fn highest_basic(&self) -> u32 {
        self.entries
            .iter()
            .find(|entry| entry.function == 0)
            .map_or(0, |entry| entry.eax)
    }
}

fn register_of(entry: &mut kvm_cpuid_entry2, register: Register) -> &mut u32 {
    match register {
        Register::Eax => &mut entry.eax,
        Register::Ebx => &mut entry.ebx,
        Register::Ecx => &mut entry.ecx,
        Register::Edx => &mut entry.edx,
    }
}

/// The feature bits that the kernel can show.
fn available(entries: &[kvm_cpuid_entry2]) -> FeatureSet {
    let mut set = [0; WORDS];
    for (word, info) in set.iter_mut().zip(WORD_INFO) {
        let at = |e: &&kvm_cpuid_entry2| (e.function, e.index) == (info.leaf, info.subleaf);
        if let Some(mut entry) = entries.iter().find(at).copied() {
            *word = *register_of(&mut entry, info.register);
        }
    }
    // The kernel lists neither of these: the first is the monitor's to say, the others come with
    // the in-kernel local APIC.
    set[LEAF_1_ECX] |= HYPERVISOR_BIT | X2APIC_BIT | TSC_DEADLINE_BIT;
    set[LEAF_1_EDX] |= APIC_BIT | HTT_BIT;
    set
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
fn show_model(entries: &mut Vec<kvm_cpuid_entry2>, model: &CpuModel) {
    let text = |bytes: &[u8], at: usize| {
        let word = core::array::from_fn(|i| bytes.get(at + i).copied().unwrap_or(0));
        u32::from_le_bytes(word)
    };
    let vendor = model.vendor.as_bytes();
    let brand = model.brand.as_bytes();
    // KVM can't raise what the host has no leaves for.
    entries.retain(|entry| match entry.function & 0xf000_0000 {
        0 => entry.function <= model.level,
        EXTENDED => entry.function <= model.xlevel,
        _ => true,
    });
    for entry in entries.iter_mut() {
        match entry.function {
            0 => entry.eax = entry.eax.min(model.level),
            1 => entry.eax = models::signature(model.family, model.model, model.stepping),
            EXTENDED => entry.eax = entry.eax.min(model.xlevel),
            0x8000_0001 => {
                entry.eax = models::signature(model.family, model.model, model.stepping);
            }
            0x8000_0002..=0x8000_0004 => {
                let at = (entry.function - 0x8000_0002) as usize * 16;
                entry.eax = text(brand, at);
                entry.ebx = text(brand, at + 4);
                entry.ecx = text(brand, at + 8);
                entry.edx = text(brand, at + 12);
            }
            _ => {}
        }
        if entry.function == 0 || entry.function == EXTENDED {
            entry.ebx = text(vendor, 0);
            entry.edx = text(vendor, 4);
            entry.ecx = text(vendor, 8);
        }
        if entry.function == HYPERVISOR {
            [entry.ebx, entry.ecx, entry.edx] = KVM_SIGNATURE;
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
        minus[LEAF_1_ECX] |= X2APIC_BIT;
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

    #[test]
    fn models_mask_the_host() {
        let Ok(kvm) = super::super::vm::open() else {
            eprintln!("SKIPPED: no usable /dev/kvm");
            return;
        };
        let topology = Topology {
            sockets: 1,
            cores: 2,
            threads: 2,
        };
        let spec = CpuSpec::parse("qemu64,-sse2").unwrap();
        let (table, _) = CpuidTable::new(&kvm, Irqchip::On, &spec, topology).unwrap();
        let leaves = table.for_cpu(3).unwrap();
        let leaf = |function, index| {
            let at = |e: &&kvm_cpuid_entry2| (e.function, e.index) == (function, index);
            *leaves.as_slice().iter().find(at).unwrap()
        };
        assert_eq!(leaf(1, 0).ebx >> 16, 0x0304);
        assert_eq!(leaf(1, 0).edx & 1 << 26, 0, "sse2 is off");
        assert_ne!(leaf(1, 0).edx & 1 << 25, 0, "sse is on");
        assert_eq!(leaf(0xb, 0).eax, 1);
        assert_eq!(leaf(0xb, 1).ebx, 4);
        assert_eq!(leaf(0xb, 1).edx, 3);
        assert_eq!(table.signature(), leaf(1, 0).eax);
        let spec = "max,vendor=GenuineIntel,phys-bits=36,host-phys-bits=off,migratable=on";
        let spec = CpuSpec::parse(spec).unwrap();
        let (table, _) = CpuidTable::new(&kvm, Irqchip::On, &spec, topology).unwrap();
        let [_, ebx, ecx, edx] = table.registers(0, 0);
        assert_eq!(
            [ebx, edx, ecx].map(u32::to_le_bytes).concat(),
            b"GenuineIntel"
        );
        assert_eq!(table.registers(0x8000_0008, 0)[0] & 0xff, 36);
        assert_eq!(table.registers(0x8000_0007, 0)[3] & 1 << 8, 0, "invtsc");
        let enforce = CpuSpec::parse("qemu64,+ia64,enforce").unwrap();
        let error = CpuidTable::new(&kvm, Irqchip::On, &enforce, topology)
            .unwrap_err()
            .to_string();
        assert!(error.contains("ia64"), "{error}");
    }
}
