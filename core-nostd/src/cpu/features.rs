//! CPUID feature bits by name.
//!
//! Names are QEMU's, which users type in `-cpu NAME,+x,-y`; bits follow the Intel SDM (CPUID
//! instruction), AMD's CPUID specification and the KVM paravirtual leaf. Features of Centaur
//! processors, SGX sub-leaves and VMX capabilities are not listed.

/// Registers of CPUID that hold feature bits.
pub const WORDS: usize = 14;

/// Feature bits, a word per [`WORD_INFO`] entry.
pub type FeatureSet = [u32; WORDS];

/// A register that CPUID returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// EAX.
    Eax,
    /// EBX.
    Ebx,
    /// ECX.
    Ecx,
    /// EDX.
    Edx,
}

impl Register {
    /// The register's name in capitals.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Eax => "EAX",
            Self::Ebx => "EBX",
            Self::Ecx => "ECX",
            Self::Edx => "EDX",
        }
    }
}

/// Where CPUID shows a word of features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WordInfo {
    /// EAX on input.
    pub leaf: u32,
    /// ECX on input, where the leaf has sub-leaves.
    pub subleaf: u32,
    /// Which result.
    pub register: Register,
}

const fn word(leaf: u32, subleaf: u32, register: Register) -> WordInfo {
    WordInfo {
        leaf,
        subleaf,
        register,
    }
}

/// All words.
pub const WORD_INFO: [WordInfo; WORDS] = [
    word(1, 0, Register::Edx),
    word(1, 0, Register::Ecx),
    word(7, 0, Register::Ebx),
    word(7, 0, Register::Ecx),
    word(7, 0, Register::Edx),
    word(7, 1, Register::Eax),
    word(0x80000001, 0, Register::Edx),
    word(0x80000001, 0, Register::Ecx),
    word(0x80000007, 0, Register::Edx),
    word(0x80000008, 0, Register::Ebx),
    word(0x8000000a, 0, Register::Edx),
    word(0x40000001, 0, Register::Eax),
    word(13, 1, Register::Eax),
    word(6, 0, Register::Eax),
];

/// Index of CPUID.1:EDX.
pub const LEAF_1_EDX: usize = 0;
/// Index of CPUID.1:ECX.
pub const LEAF_1_ECX: usize = 1;
/// Index of CPUID.7.0:EBX.
pub const LEAF_7_EBX: usize = 2;
/// Index of CPUID.7.0:ECX.
pub const LEAF_7_ECX: usize = 3;
/// Index of CPUID.7.0:EDX.
pub const LEAF_7_EDX: usize = 4;
/// Index of CPUID.80000001H:EDX.
pub const EXT_1_EDX: usize = 6;
/// Index of CPUID.80000001H:ECX.
pub const EXT_1_ECX: usize = 7;
/// Index of CPUID.80000007H:EDX.
pub const EXT_7_EDX: usize = 8;
/// Index of CPUID.80000008H:EBX.
pub const EXT_8_EBX: usize = 9;
/// Index of CPUID.8000000AH:EDX.
pub const EXT_A_EDX: usize = 10;
/// Index of KVM's CPUID.40000001H:EAX.
pub const KVM_EAX: usize = 11;
/// Index of CPUID.0DH.1:EAX.
pub const XSAVE_EAX: usize = 12;
/// Index of CPUID.6:EAX.
pub const LEAF_6_EAX: usize = 13;

/// Bits of CPUID.80000001H:EDX that repeat CPUID.1:EDX on AMD's processors.
pub const AMD_ALIASES: u32 = 0x0183_f3ff;

/// Names by word and bit; empty where a bit has none. The AMD repetitions have none.
static NAMES: [[&str; 32]; WORDS] = [
    [
        "fpu", "vme", "de", "pse", "tsc", "msr", "pae", "mce", "cx8", "apic", "", "sep", "mtrr",
        "pge", "mca", "cmov", "pat", "pse36", "pn", "clflush", "", "ds", "acpi", "mmx", "fxsr",
        "sse", "sse2", "ss", "ht", "tm", "ia64", "pbe",
    ],
    [
        "pni",
        "pclmulqdq",
        "dtes64",
        "monitor",
        "ds-cpl",
        "vmx",
        "smx",
        "est",
        "tm2",
        "ssse3",
        "cid",
        "",
        "fma",
        "cx16",
        "xtpr",
        "pdcm",
        "",
        "pcid",
        "dca",
        "sse4.1",
        "sse4.2",
        "x2apic",
        "movbe",
        "popcnt",
        "tsc-deadline",
        "aes",
        "xsave",
        "",
        "avx",
        "f16c",
        "rdrand",
        "hypervisor",
    ],
    [
        "fsgsbase",
        "tsc-adjust",
        "sgx",
        "bmi1",
        "hle",
        "avx2",
        "",
        "smep",
        "bmi2",
        "erms",
        "invpcid",
        "rtm",
        "",
        "",
        "mpx",
        "",
        "avx512f",
        "avx512dq",
        "rdseed",
        "adx",
        "smap",
        "avx512ifma",
        "pcommit",
        "clflushopt",
        "clwb",
        "intel-pt",
        "avx512pf",
        "avx512er",
        "avx512cd",
        "sha-ni",
        "avx512bw",
        "avx512vl",
    ],
    [
        "",
        "avx512vbmi",
        "umip",
        "pku",
        "",
        "waitpkg",
        "avx512vbmi2",
        "",
        "gfni",
        "vaes",
        "vpclmulqdq",
        "avx512vnni",
        "avx512bitalg",
        "",
        "avx512-vpopcntdq",
        "",
        "la57",
        "",
        "",
        "",
        "",
        "",
        "rdpid",
        "",
        "bus-lock-detect",
        "cldemote",
        "",
        "movdiri",
        "movdir64b",
        "",
        "sgxlc",
        "pks",
    ],
    [
        "",
        "",
        "avx512-4vnniw",
        "avx512-4fmaps",
        "fsrm",
        "",
        "",
        "",
        "avx512-vp2intersect",
        "",
        "md-clear",
        "",
        "",
        "",
        "serialize",
        "",
        "tsx-ldtrk",
        "",
        "",
        "arch-lbr",
        "",
        "",
        "amx-bf16",
        "avx512-fp16",
        "amx-tile",
        "amx-int8",
        "spec-ctrl",
        "stibp",
        "",
        "arch-capabilities",
        "core-capability",
        "ssbd",
    ],
    [
        "",
        "",
        "",
        "",
        "avx-vnni",
        "avx512-bf16",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
    ],
    [
        "", "", "", "", "", "", "", "", "", "", "", "syscall", "", "", "", "", "", "", "", "",
        "nx", "", "mmxext", "", "", "fxsr-opt", "pdpe1gb", "rdtscp", "", "lm", "3dnowext", "3dnow",
    ],
    [
        "lahf-lm",
        "cmp-legacy",
        "svm",
        "extapic",
        "cr8legacy",
        "abm",
        "sse4a",
        "misalignsse",
        "3dnowprefetch",
        "osvw",
        "ibs",
        "xop",
        "skinit",
        "wdt",
        "",
        "lwp",
        "fma4",
        "tce",
        "",
        "nodeid-msr",
        "",
        "tbm",
        "topoext",
        "perfctr-core",
        "perfctr-nb",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
    ],
    [
        "", "", "", "", "", "", "", "", "invtsc", "", "", "", "", "", "", "", "", "", "", "", "",
        "", "", "", "", "", "", "", "", "", "", "",
    ],
    [
        "clzero",
        "",
        "xsaveerptr",
        "",
        "",
        "",
        "",
        "",
        "",
        "wbnoinvd",
        "",
        "",
        "ibpb",
        "",
        "ibrs",
        "amd-stibp",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "amd-ssbd",
        "virt-ssbd",
        "amd-no-ssb",
        "",
        "",
        "",
        "",
        "",
    ],
    [
        "npt",
        "lbrv",
        "svm-lock",
        "nrip-save",
        "tsc-scale",
        "vmcb-clean",
        "flushbyasid",
        "decodeassists",
        "",
        "",
        "pause-filter",
        "",
        "pfthreshold",
        "avic",
        "",
        "v-vmsave-vmload",
        "vgif",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "svme-addr-chk",
        "",
        "",
        "",
    ],
    [
        "kvmclock",
        "kvm-nopiodelay",
        "kvm-mmu",
        "kvmclock",
        "kvm-asyncpf",
        "kvm-steal-time",
        "kvm-pv-eoi",
        "kvm-pv-unhalt",
        "",
        "kvm-pv-tlb-flush",
        "",
        "kvm-pv-ipi",
        "kvm-poll-control",
        "kvm-pv-sched-yield",
        "kvm-asyncpf-int",
        "kvm-msi-ext-dest-id",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "kvmclock-stable-bit",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
    ],
    [
        "xsaveopt", "xsavec", "xgetbv1", "xsaves", "xfd", "", "", "", "", "", "", "", "", "", "",
        "", "", "", "", "", "", "", "", "", "", "", "", "", "", "", "", "",
    ],
    [
        "", "", "arat", "", "", "", "", "", "", "", "", "", "", "", "", "", "", "", "", "", "", "",
        "", "", "", "", "", "", "", "", "", "",
    ],
];

/// Other spellings that are understood.
static ALIASES: [(&str, &str); 14] = [
    ("sse3", "pni"),
    ("sse4-1", "sse4.1"),
    ("sse4-2", "sse4.2"),
    ("xd", "nx"),
    ("i64", "lm"),
    ("ffxsr", "fxsr-opt"),
    ("pclmuldq", "pclmulqdq"),
    ("xsave-opt", "xsaveopt"),
    ("kvm-clock", "kvmclock"),
    ("cmp_legacy", "cmp-legacy"),
    ("nrip_save", "nrip-save"),
    ("svm_lock", "svm-lock"),
    ("rdtsc-p", "rdtscp"),
    ("lahf_lm", "lahf-lm"),
];

/// The feature's name; empty for a bit that has none.
pub const fn name(word: usize, bit: u32) -> &'static str {
    if word < WORDS && bit < 32 {
        NAMES[word][bit as usize]
    } else {
        ""
    }
}

/// The names of a word's bits; empty for a bit that has none.
pub fn word_names(word: usize) -> &'static [&'static str; 32] {
    NAMES.get(word).unwrap_or(&[""; 32])
}

/// All bits that bear `name`, underscores counting as hyphens. A few names stand for several.
pub fn find(name: &str) -> Option<FeatureSet> {
    let name = ALIASES
        .iter()
        .find(|alias| same(alias.0, name))
        .map_or(name, |alias| alias.1);
    let mut set = [0; WORDS];
    for (word, names) in NAMES.iter().enumerate() {
        for (bit, known) in names.iter().enumerate() {
            if !known.is_empty() && same(known, name) {
                set[word] |= 1 << bit;
            }
        }
    }
    set.iter().any(|word| *word != 0).then_some(set)
}

fn same(known: &str, typed: &str) -> bool {
    let hyphen = |byte: u8| if byte == b'_' { b'-' } else { byte };
    known.len() == typed.len()
        && known
            .bytes()
            .zip(typed.bytes())
            .all(|(a, b)| hyphen(a) == hyphen(b))
}

/// Iterates over the feature names, for help texts.
pub fn names() -> impl Iterator<Item = &'static str> {
    NAMES
        .iter()
        .flatten()
        .copied()
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_by_all_spellings() {
        let sse41 = find("sse4.1").unwrap();
        assert_eq!(sse41[LEAF_1_ECX], 1 << 19);
        assert_eq!(find("sse4_1"), Some(sse41));
        assert_eq!(find("lahf_lm"), find("lahf-lm"));
        assert_eq!(find("kvmclock").unwrap()[KVM_EAX], 0b1001);
        assert_eq!(find(""), None);
        assert_eq!(find("fooo"), None);
    }

    #[test]
    fn names_are_unique_but_for_kvmclock() {
        for (at, feature) in names().enumerate() {
            let again = names().skip(at + 1).any(|other| other == feature);
            assert!(!again || feature == "kvmclock", "{feature}");
        }
    }
}
