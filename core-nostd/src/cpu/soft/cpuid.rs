//! What the processor says of itself: features by name, CPUID, and which instructions there are.
//!
//! Source: Intel SDM volume 2, CPUID, and the "CPUID Feature Flag" column of each instruction; AMD's
//! CPUID specification for leaves from 8000_0000h.
//!
//! The host gives the leaves before the first state ([`Cpu::set_cpuid`]) and they never change; only
//! what CPUID reads from control registers and IA32_APIC_BASE is filled in when it is executed.
//! Instructions are checked once, when they are decoded (`Cpu::admit`).
//!
//! The rule of [`SUPPORTED`]: a bit enters with the last of its instructions.

use super::{Bus, Cpu, Outcome};
use crate::cpu::decode::{Fpu, Instruction, Operand, Operation, Packed, RegisterClass, Sse};
use crate::cpu::features::{
    AMD_ALIASES, EXT_1_ECX, EXT_1_EDX, EXT_8_EBX, FeatureSet, LEAF_1_ECX, LEAF_1_EDX, LEAF_6_EAX,
    LEAF_7_EBX, LEAF_7_ECX, LEAF_7_EDX, Register, WORD_INFO, WORDS, XSAVE_EAX,
};
use crate::cpu::gpr::{RAX, RBX, RCX, RDX};
use crate::cpu::mmu::PagingModel;
use x86_64::registers::control::Cr4Flags;
use x86_64::registers::model_specific::ApicBaseFlags;

/// Leaves and sub-leaves at most.
pub const CPUID_MAX: usize = 64;

/// What CPUID gives for one leaf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CpuidEntry {
    /// EAX on input.
    pub leaf: u32,
    /// ECX on input, where it matters.
    pub subleaf: u32,
    /// Whether ECX on input matters.
    pub has_subleaf: bool,
    /// Result.
    pub eax: u32,
    /// Result.
    pub ebx: u32,
    /// Result.
    pub ecx: u32,
    /// Result.
    pub edx: u32,
}

impl CpuidEntry {
    const fn get(&self, register: Register) -> u32 {
        match register {
            Register::Eax => self.eax,
            Register::Ebx => self.ebx,
            Register::Ecx => self.ecx,
            Register::Edx => self.edx,
        }
    }
}

/// More leaves than [`CPUID_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyLeaves;

/// The leaves. Valid when zero: none.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Cpuid {
    entries: [CpuidEntry; CPUID_MAX],
    count: usize,
}

/// A feature: index of its word in a [`FeatureSet`], and its bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Feature(usize, u32);

macro_rules! features {
    ($($name:ident = $word:ident, $bit:literal, $text:literal;)*) => {
        impl Feature {
            $(pub(super) const $name: Self = Self($word, $bit);)*
        }

        /// All of them with their names.
        #[cfg(test)]
        const NAMED: &[(Feature, &str)] = &[$((Feature::$name, $text),)*];
    };
}

features! {
    VME = LEAF_1_EDX, 1, "vme";
    DE = LEAF_1_EDX, 2, "de";
    PSE = LEAF_1_EDX, 3, "pse";
    TSC = LEAF_1_EDX, 4, "tsc";
    MSR = LEAF_1_EDX, 5, "msr";
    PAE = LEAF_1_EDX, 6, "pae";
    MCE = LEAF_1_EDX, 7, "mce";
    CX8 = LEAF_1_EDX, 8, "cx8";
    APIC = LEAF_1_EDX, 9, "apic";
    SEP = LEAF_1_EDX, 11, "sep";
    MTRR = LEAF_1_EDX, 12, "mtrr";
    PGE = LEAF_1_EDX, 13, "pge";
    MCA = LEAF_1_EDX, 14, "mca";
    CMOV = LEAF_1_EDX, 15, "cmov";
    PAT = LEAF_1_EDX, 16, "pat";
    CLFSH = LEAF_1_EDX, 19, "clflush";
    MMX = LEAF_1_EDX, 23, "mmx";
    FXSR = LEAF_1_EDX, 24, "fxsr";
    SSE = LEAF_1_EDX, 25, "sse";
    SSE2 = LEAF_1_EDX, 26, "sse2";
    SSE3 = LEAF_1_ECX, 0, "pni";
    PCLMUL = LEAF_1_ECX, 1, "pclmulqdq";
    SSSE3 = LEAF_1_ECX, 9, "ssse3";
    CX16 = LEAF_1_ECX, 13, "cx16";
    PCID = LEAF_1_ECX, 17, "pcid";
    SSE41 = LEAF_1_ECX, 19, "sse4.1";
    SSE42 = LEAF_1_ECX, 20, "sse4.2";
    X2APIC = LEAF_1_ECX, 21, "x2apic";
    MOVBE = LEAF_1_ECX, 22, "movbe";
    POPCNT = LEAF_1_ECX, 23, "popcnt";
    TSC_DEADLINE = LEAF_1_ECX, 24, "tsc-deadline";
    AES = LEAF_1_ECX, 25, "aes";
    XSAVE = LEAF_1_ECX, 26, "xsave";
    RDRAND = LEAF_1_ECX, 30, "rdrand";
    HYPERVISOR = LEAF_1_ECX, 31, "hypervisor";
    FSGSBASE = LEAF_7_EBX, 0, "fsgsbase";
    TSC_ADJUST = LEAF_7_EBX, 1, "tsc-adjust";
    BMI1 = LEAF_7_EBX, 3, "bmi1";
    SMEP = LEAF_7_EBX, 7, "smep";
    BMI2 = LEAF_7_EBX, 8, "bmi2";
    ERMS = LEAF_7_EBX, 9, "erms";
    INVPCID = LEAF_7_EBX, 10, "invpcid";
    RDSEED = LEAF_7_EBX, 18, "rdseed";
    ADX = LEAF_7_EBX, 19, "adx";
    SMAP = LEAF_7_EBX, 20, "smap";
    CLFLUSHOPT = LEAF_7_EBX, 23, "clflushopt";
    CLWB = LEAF_7_EBX, 24, "clwb";
    SHA = LEAF_7_EBX, 29, "sha-ni";
    UMIP = LEAF_7_ECX, 2, "umip";
    PKU = LEAF_7_ECX, 3, "pku";
    LA57 = LEAF_7_ECX, 16, "la57";
    RDPID = LEAF_7_ECX, 22, "rdpid";
    PKS = LEAF_7_ECX, 31, "pks";
    FSRM = LEAF_7_EDX, 4, "fsrm";
    SERIALIZE = LEAF_7_EDX, 14, "serialize";
    SYSCALL = EXT_1_EDX, 11, "syscall";
    NX = EXT_1_EDX, 20, "nx";
    MMXEXT = EXT_1_EDX, 22, "mmxext";
    FFXSR = EXT_1_EDX, 25, "fxsr-opt";
    PAGE_1GB = EXT_1_EDX, 26, "pdpe1gb";
    RDTSCP = EXT_1_EDX, 27, "rdtscp";
    LM = EXT_1_EDX, 29, "lm";
    LAHF = EXT_1_ECX, 0, "lahf-lm";
    ABM = EXT_1_ECX, 5, "abm";
    PREFETCHW = EXT_1_ECX, 8, "3dnowprefetch";
    WBNOINVD = EXT_8_EBX, 9, "wbnoinvd";
    XSAVEOPT = XSAVE_EAX, 0, "xsaveopt";
    XSAVEC = XSAVE_EAX, 1, "xsavec";
    XGETBV1 = XSAVE_EAX, 2, "xgetbv1";
    XSAVES = XSAVE_EAX, 3, "xsaves";
    ARAT = LEAF_6_EAX, 2, "arat";
}

const fn set(features: &[Feature]) -> FeatureSet {
    let mut set = [0; WORDS];
    let mut at = 0;
    while at < features.len() {
        set[features[at].0] |= 1 << features[at].1;
        at += 1;
    }
    set
}

/// The features that this processor has: what a model may show.
pub const SUPPORTED: FeatureSet = {
    use Feature as F;
    let mut set = set(&[
        F::VME,
        F::DE,
        F::PSE,
        F::TSC,
        F::MSR,
        F::PAE,
        F::MCE,
        F::CX8,
        F::APIC,
        F::SEP,
        F::MTRR,
        F::PGE,
        F::MCA,
        F::CMOV,
        F::PAT,
        F::CLFSH,
        F::MMX,
        F::FXSR,
        F::SSE,
        F::SSE2,
        F::SSE3,
        F::PCLMUL,
        F::SSSE3,
        F::CX16,
        F::PCID,
        F::SSE41,
        F::SSE42,
        F::X2APIC,
        F::MOVBE,
        F::POPCNT,
        F::TSC_DEADLINE,
        F::AES,
        F::XSAVE,
        F::RDRAND,
        F::HYPERVISOR,
        F::FSGSBASE,
        F::TSC_ADJUST,
        F::BMI1,
        F::SMEP,
        F::BMI2,
        F::ERMS,
        F::INVPCID,
        F::RDSEED,
        F::ADX,
        F::SMAP,
        F::CLFLUSHOPT,
        F::CLWB,
        F::SHA,
        F::UMIP,
        F::PKU,
        F::LA57,
        F::RDPID,
        F::PKS,
        F::FSRM,
        F::SERIALIZE,
        F::SYSCALL,
        F::NX,
        F::MMXEXT,
        F::FFXSR,
        F::PAGE_1GB,
        F::RDTSCP,
        F::LM,
        F::LAHF,
        F::ABM,
        F::PREFETCHW,
        F::WBNOINVD,
        F::XSAVEOPT,
        F::XSAVEC,
        F::XGETBV1,
        F::XSAVES,
        F::ARAT,
    ]);
    // FPU, PSE-36, self snoop, which nothing is without caches, and HTT, which is topology.
    set[LEAF_1_EDX] |= 1 << 0 | 1 << 17 | 1 << 27 | 1 << 28;
    // Topology, too: CmpLegacy, TopologyExtensions.
    set[EXT_1_ECX] |= 1 << 1 | 1 << 22;
    set[EXT_1_EDX] |= set[LEAF_1_EDX] & AMD_ALIASES;
    set
};

/// The leaf of XSAVE's components.
const XSAVE_LEAF: u32 = 0xd;
/// First of the extended leaves.
const EXTENDED: u32 = 0x8000_0000;
/// First of the hypervisor's.
const HYPERVISOR: u32 = 0x4000_0000;
/// CPUID.1:ECX.OSXSAVE.
const OSXSAVE: u32 = 1 << 27;
/// CPUID.1:EDX.APIC, and its repetition on AMD's processors.
const APIC: u32 = 1 << 9;
/// CPUID.7.0:ECX.OSPKE.
const OSPKE: u32 = 1 << 4;

impl Cpuid {
    fn entries(&self) -> &[CpuidEntry] {
        &self.entries[..self.count.min(CPUID_MAX)]
    }

    /// A leaf as given.
    pub(super) fn find(&self, leaf: u32, subleaf: u32) -> Option<&CpuidEntry> {
        self.entries()
            .iter()
            .find(|e| e.leaf == leaf && (!e.has_subleaf || e.subleaf == subleaf))
    }

    /// Whether the vendor is one whose processors give zeros for leaves that there are not.
    fn is_amd(&self) -> bool {
        // "Auth" of AuthenticAMD, "Hygo" of HygonGenuine.
        self.find(0, 0)
            .is_some_and(|e| [*b"Auth", *b"Hygo"].contains(&e.ebx.to_le_bytes()))
    }

    /// A leaf as the instruction finds it, but for what changes.
    fn answer(&self, leaf: u32, subleaf: u32) -> CpuidEntry {
        if let Some(entry) = self.find(leaf, subleaf) {
            return *entry;
        }
        // Topology goes on saying where the processor is.
        if leaf == 0xb || leaf == 0x1f {
            return self.find(leaf, 1).map_or_else(Default::default, |e| {
                let (ecx, edx) = (subleaf & 0xff, e.edx);
                CpuidEntry {
                    ecx,
                    edx,
                    ..Default::default()
                }
            });
        }
        let highest = |first| self.find(first, 0).map_or(0, |entry| entry.eax);
        let beyond = match leaf {
            EXTENDED.. => leaf > highest(EXTENDED),
            HYPERVISOR.. => leaf > highest(HYPERVISOR),
            _ => leaf > highest(0),
        };
        if beyond && !self.is_amd() {
            // An Intel gives its highest basic leaf instead.
            let found = self.find(highest(0), subleaf);
            return found.copied().unwrap_or_default();
        }
        CpuidEntry::default()
    }
}

impl Cpu {
    /// What CPUID is to say, and what follows from it. Before the first
    /// [`Cpu::set_state`]; the processors that share a code cache have the same features.
    ///
    /// # Errors
    /// There are more leaves than [`CPUID_MAX`]; nothing has changed.
    pub fn set_cpuid(&mut self, entries: &[CpuidEntry]) -> Result<(), TooManyLeaves> {
        let places = self.cpuid.entries.get_mut(..entries.len());
        places.ok_or(TooManyLeaves)?.copy_from_slice(entries);
        self.cpuid.count = entries.len();
        for (word, info) in self.features.iter_mut().zip(WORD_INFO) {
            let entry = self.cpuid.find(info.leaf, info.subleaf);
            *word = entry.map_or(0, |entry| entry.get(info.register));
        }
        Ok(())
    }

    /// Whether CPUID says that there is a feature.
    #[inline]
    pub(super) fn has(&self, feature: Feature) -> bool {
        self.features[feature.0] >> feature.1 & 1 != 0
    }

    /// Family, model and stepping, which RDX shows after a reset.
    pub(super) fn signature(&self) -> u32 {
        self.cpuid.find(1, 0).map_or(0, |entry| entry.eax)
    }

    /// Bits of a physical address, 32 to 52.
    pub(super) fn physical_bits(&self) -> u8 {
        match self.cpuid.find(0x8000_0008, 0) {
            Some(entry) => (entry.eax as u8).clamp(32, 52),
            None if self.has(Feature::PAE) => 36,
            None => 32,
        }
    }

    /// What the memory management unit is to know.
    pub(super) fn paging_model(&self) -> PagingModel {
        PagingModel {
            physical_bits: self.physical_bits(),
            gib_pages: self.has(Feature::PAGE_1GB),
        }
    }

    /// CPUID.
    pub(super) fn cpuid_instruction(&mut self, bus: &mut Bus<'_>) -> Outcome {
        if self.cpl != 0 && self.cpuid_faults() {
            return self.protection();
        }
        let (leaf, subleaf) = (self.register::<u32>(RAX), self.register::<u32>(RCX));
        let mut entry = self.cpuid.answer(leaf, subleaf);
        let apic = bus.platform.apic_base() & ApicBaseFlags::LAPIC_ENABLE.bits() != 0;
        match (leaf, subleaf) {
            (1, _) => {
                entry.ecx &= !OSXSAVE;
                if self.cr4().contains(Cr4Flags::OSXSAVE) {
                    entry.ecx |= OSXSAVE;
                }
                if !apic {
                    entry.edx &= !APIC;
                }
            }
            (0x8000_0001, _) if !apic => entry.edx &= !APIC,
            (7, 0) => {
                entry.ecx &= !OSPKE;
                if self.cr4().contains(Cr4Flags::PROTECTION_KEY_USER) {
                    entry.ecx |= OSPKE;
                }
            }
            (XSAVE_LEAF, 0) if self.has(Feature::XSAVE) => {
                entry.ebx = self.xsave_bytes(self.xcr0, false);
            }
            (XSAVE_LEAF, 1) if self.has(Feature::XSAVEC) || self.has(Feature::XSAVES) => {
                entry.ebx = self.xsave_bytes(self.xcr0, true);
            }
            _ => {}
        }
        self.set_register(RAX, entry.eax);
        self.set_register(RBX, entry.ebx);
        self.set_register(RCX, entry.ecx);
        self.set_register(RDX, entry.edx);
        Ok(())
    }

    /// The instruction that these bytes are on this processor: the same, another where an opcode
    /// had a meaning before its feature came, or none.
    pub(super) fn admit(&self, i: Instruction) -> Option<Instruction> {
        use Operation as O;
        let Some(feature) = self.feature_of(&i) else {
            return Some(i);
        };
        if self.has(feature) {
            return Some(i);
        }
        Some(i.with_operation(match i.operation() {
            O::Lzcnt => O::Bsr,
            O::Tzcnt => O::Bsf,
            O::Wbnoinvd => O::Wbinvd,
            _ => return None,
        }))
    }

    /// The feature that an instruction belongs to, unless it is always there.
    fn feature_of(&self, i: &Instruction) -> Option<Feature> {
        use Feature as F;
        use Operation as O;
        Some(match i.operation() {
            O::Adcx | O::Adox => F::ADX,
            O::Andn | O::Bextr | O::Blsi | O::Blsmsk | O::Blsr | O::Tzcnt => F::BMI1,
            O::Bzhi | O::Mulx | O::Pdep | O::Pext => F::BMI2,
            O::Rorx | O::Sarx | O::Shlx | O::Shrx => F::BMI2,
            O::Lzcnt => F::ABM,
            O::Popcnt => F::POPCNT,
            O::Movbe => F::MOVBE,
            O::Crc32 => F::SSE42,
            O::Cmovcc(_) => F::CMOV,
            O::Cmpxchg8b => F::CX8,
            O::Cmpxchg16b => F::CX16,
            O::Lahf | O::Sahf if self.bits64() => F::LAHF,
            O::Clac | O::Stac => F::SMAP,
            O::Clflush => F::CLFSH,
            O::Clflushopt => F::CLFLUSHOPT,
            O::Clwb => F::CLWB,
            O::Fxsave | O::Fxrstor => F::FXSR,
            O::Invpcid => F::INVPCID,
            O::Lfence | O::Mfence | O::Movnti => F::SSE2,
            O::Sfence => F::SSE,
            O::Rdfsbase | O::Rdgsbase | O::Wrfsbase | O::Wrgsbase => F::FSGSBASE,
            O::Rdmsr | O::Wrmsr => F::MSR,
            O::Rdpid => F::RDPID,
            O::Rdpkru | O::Wrpkru => F::PKU,
            O::Rdrand => F::RDRAND,
            O::Rdseed => F::RDSEED,
            O::Rdtsc => F::TSC,
            O::Rdtscp => F::RDTSCP,
            O::Serialize => F::SERIALIZE,
            O::Swapgs => F::LM,
            O::Syscall | O::Sysret => F::SYSCALL,
            O::Sysenter | O::Sysexit => F::SEP,
            O::Wbnoinvd => F::WBNOINVD,
            O::Xgetbv | O::Xsetbv | O::Xsave | O::Xrstor => F::XSAVE,
            O::Xsaveopt => F::XSAVEOPT,
            O::Xsavec => F::XSAVEC,
            O::Xsaves | O::Xrstors => F::XSAVES,
            O::Fpu(fpu) => return feature_of_fpu(fpu),
            O::Sse(sse) => feature_of_sse(sse),
            O::Packed(packed) => feature_of_packed(packed, i),
            _ => return None,
        })
    }
}

const fn feature_of_fpu(fpu: Fpu) -> Option<Feature> {
    use Fpu::*;
    match fpu {
        Fcmovb | Fcmovbe | Fcmove | Fcmovnb | Fcmovnbe | Fcmovne | Fcmovnu | Fcmovu | Fcomi
        | Fcomip | Fucomi | Fucomip => Some(Feature::CMOV),
        Fisttp => Some(Feature::SSE3),
        _ => None,
    }
}

const fn feature_of_sse(sse: Sse) -> Feature {
    use Sse::*;
    match sse {
        Addps | Addss | Andnps | Andps | Cmpps | Cmpss | Comiss | Cvtpi2ps | Cvtps2pi
        | Cvtsi2ss | Cvtss2si | Cvttps2pi | Cvttss2si | Divps | Divss | Ldmxcsr | Maxps | Maxss
        | Minps | Minss | Movaps | Movhlps | Movhps | Movlhps | Movlps | Movmskps | Movntps
        | Movss | Movups | Mulps | Mulss | Orps | Rcpps | Rcpss | Rsqrtps | Rsqrtss | Shufps
        | Sqrtps | Sqrtss | Stmxcsr | Subps | Subss | Ucomiss | Unpckhps | Unpcklps | Xorps => {
            Feature::SSE
        }
        Addsubpd | Addsubps | Haddpd | Haddps | Hsubpd | Hsubps | Movddup | Movshdup | Movsldup => {
            Feature::SSE3
        }
        Blendpd | Blendps | Blendvpd | Blendvps | Dppd | Dpps | Extractps | Insertps | Roundpd
        | Roundps | Roundsd | Roundss => Feature::SSE41,
        _ => Feature::SSE2,
    }
}

/// Forms with an MMX register are older than those with XMM registers.
fn feature_of_packed(packed: Packed, i: &Instruction) -> Feature {
    use Packed::*;
    let class = |operand| match operand {
        Operand::Register(register) => Some(register.class),
        _ => None,
    };
    let mmx = i
        .operands()
        .any(|operand| class(operand) == Some(RegisterClass::Mmx));
    let xmm = i
        .operands()
        .any(|operand| class(operand) == Some(RegisterClass::Xmm));
    match packed {
        Lddqu => Feature::SSE3,
        Pabsb | Pabsd | Pabsw | Palignr | Phaddd | Phaddsw | Phaddw | Phsubd | Phsubsw | Phsubw
        | Pmaddubsw | Pmulhrsw | Pshufb | Psignb | Psignd | Psignw => Feature::SSSE3,
        Mpsadbw | Movntdqa | Packusdw | Pblendvb | Pblendw | Pcmpeqq | Pextrb | Pextrd | Pextrq
        | Phminposuw | Pinsrb | Pinsrd | Pinsrq | Pmaxsb | Pmaxsd | Pmaxud | Pmaxuw | Pminsb
        | Pminsd | Pminud | Pminuw | Pmovsxbd | Pmovsxbq | Pmovsxbw | Pmovsxdq | Pmovsxwd
        | Pmovsxwq | Pmovzxbd | Pmovzxbq | Pmovzxbw | Pmovzxdq | Pmovzxwd | Pmovzxwq | Pmuldq
        | Pmulld | Ptest => Feature::SSE41,
        // A word to memory is a later form than a word to a register.
        Pextrw if i.memory().is_some() => Feature::SSE41,
        Pcmpgtq | Pcmpestri | Pcmpestrm | Pcmpistri | Pcmpistrm => Feature::SSE42,
        Aesdec | Aesdeclast | Aesenc | Aesenclast | Aesimc | Aeskeygenassist => Feature::AES,
        Pclmulqdq => Feature::PCLMUL,
        Sha1msg1 | Sha1msg2 | Sha1nexte | Sha1rnds4 | Sha256msg1 | Sha256msg2 | Sha256rnds2 => {
            Feature::SHA
        }
        _ if xmm || !mmx && packed != Emms => Feature::SSE2,
        Paddq | Psubq | Pmuludq => Feature::SSE2,
        // AMD's extensions of MMX are the integer part of SSE.
        Maskmovq | Movntq | Pavgb | Pavgw | Pextrw | Pinsrw | Pmaxsw | Pmaxub | Pminsw | Pminub
        | Pmovmskb | Pmulhuw | Psadbw | Pshufw => Feature::SSE,
        _ => Feature::MMX,
    }
}

/// Leaves of a processor without a model, which has these features: for tests and fuzzers.
pub fn entries_of(features: &FeatureSet) -> heapless::Vec<CpuidEntry, CPUID_MAX> {
    let mut entries = heapless::Vec::<CpuidEntry, CPUID_MAX>::new();
    for (info, word) in WORD_INFO.iter().zip(features) {
        let at = |e: &CpuidEntry| (e.leaf, e.subleaf) == (info.leaf, info.subleaf);
        let place = match entries.iter().position(at) {
            Some(place) => place,
            None => {
                // There are fewer words of features than entries.
                let _ = entries.push(CpuidEntry {
                    leaf: info.leaf,
                    subleaf: info.subleaf,
                    has_subleaf: matches!(info.leaf, 7 | XSAVE_LEAF),
                    ..Default::default()
                });
                entries.len() - 1
            }
        };
        let entry = &mut entries[place];
        *match info.register {
            Register::Eax => &mut entry.eax,
            Register::Ebx => &mut entry.ebx,
            Register::Ecx => &mut entry.ecx,
            Register::Edx => &mut entry.edx,
        } = *word;
    }
    for entry in &mut entries {
        if entry.leaf == 0x8000_0008 {
            entry.eax = 48 << 8 | 40;
        }
    }
    let basic = [
        (0, 0, 0x1f, 0),
        (XSAVE_LEAF, 0, 0x203, 0),
        (XSAVE_LEAF, 9, 8, 2688),
    ];
    for (leaf, subleaf, eax, ebx) in basic {
        let _ = entries.push(CpuidEntry {
            leaf,
            subleaf,
            has_subleaf: leaf != 0,
            eax,
            ebx,
            ..Default::default()
        });
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::features;
    use crate::cpu::models::find;
    use crate::cpu::soft::Exception;
    use crate::cpu::soft::testing::Guest;
    use std::vec::Vec;

    #[test]
    fn features_have_their_names() {
        for (feature, name) in NAMED {
            assert_eq!(features::name(feature.0, feature.1), *name);
        }
    }

    /// EAX, EBX, ECX, EDX.
    fn cpuid(guest: &mut Guest, leaf: u32, subleaf: u32) -> [u32; 4] {
        let registers = [(RAX, leaf.into()), (RCX, subleaf.into())];
        guest.attempt_with(&registers, &[0x0f, 0xa2]).unwrap();
        let gpr = guest.state().gpr;
        [RAX, RBX, RCX, RDX].map(|number| gpr[number].try_into().unwrap())
    }

    fn entry(leaf: u32, subleaf: Option<u32>, [eax, ebx, ecx, edx]: [u32; 4]) -> CpuidEntry {
        CpuidEntry {
            leaf,
            subleaf: subleaf.unwrap_or(0),
            has_subleaf: subleaf.is_some(),
            eax,
            ebx,
            ecx,
            edx,
        }
    }

    #[test]
    fn what_control_registers_show() {
        let mut guest = Guest::long();
        assert_eq!(cpuid(&mut guest, 1, 0)[2] & OSXSAVE, 0);
        assert_eq!(cpuid(&mut guest, 7, 0)[2] & OSPKE, 0);
        assert_eq!(cpuid(&mut guest, 0xd, 0)[1], 576);
        guest.change(|state| {
            state.cr4 |= 1 << 18 | 1 << 22;
            state.xcr0 = 0x203;
        });
        assert_ne!(cpuid(&mut guest, 1, 0)[2] & OSXSAVE, 0);
        assert_ne!(cpuid(&mut guest, 7, 0)[2] & OSPKE, 0);
        assert_eq!(cpuid(&mut guest, 0xd, 0)[1], 2688 + 8);
        assert_eq!(cpuid(&mut guest, 0xd, 1)[1], 576 + 8);
        assert_ne!(cpuid(&mut guest, 1, 0)[3] & APIC, 0);
        guest.board.apic_base = 0xfee0_0000;
        assert_eq!(cpuid(&mut guest, 1, 0)[3] & APIC, 0);
        assert_eq!(cpuid(&mut guest, 0x8000_0001, 0)[3] & APIC, 0);
    }

    #[test]
    fn leaves_that_are_not_there() {
        let vendor = |text: &[u8; 4]| u32::from_le_bytes(*text);
        for (name, beyond) in [(b"Genu", [7, 0, 0, 0]), (b"Auth", [0; 4])] {
            let mut guest = Guest::long();
            let entries = [
                entry(0, None, [0xd, vendor(name), 0, 0]),
                entry(0xb, Some(0), [1, 2, 0x100, 5]),
                entry(0xb, Some(1), [3, 4, 0x201, 5]),
                entry(0xd, Some(0), [7, 0, 0, 0]),
                entry(EXTENDED, None, [0x8000_0001, 0, 0, 0]),
                entry(0x8000_0001, None, [9, 0, 0, 0]),
            ];
            guest.cpu.set_cpuid(&entries).unwrap();
            assert_eq!(cpuid(&mut guest, 5, 0), [0; 4]);
            assert_eq!(cpuid(&mut guest, 0xb, 1), [3, 4, 0x201, 5]);
            assert_eq!(cpuid(&mut guest, 0xb, 0x102), [0, 0, 2, 5]);
            for leaf in [0x0e, 0x3fff_ffff, 0x4000_0001, 0x8000_0002, u32::MAX] {
                assert_eq!(cpuid(&mut guest, leaf, 0), beyond, "{leaf:#x}");
            }
            assert_eq!(cpuid(&mut guest, 0x8000_0001, 77), [9, 0, 0, 0]);
        }
        let mut guest = Guest::new();
        let many = [CpuidEntry::default(); CPUID_MAX + 1];
        assert_eq!(guest.cpu.set_cpuid(&many), Err(TooManyLeaves));
        assert_eq!(guest.cpu.set_cpuid(&many[1..]), Ok(()));
    }

    #[test]
    fn cpuid_can_fault() {
        let mut guest = Guest::long().user();
        assert_eq!(guest.attempt(&[0x0f, 0xa2]), Ok(()));
        guest.change(|state| assert!(state.msrs.set(0x140, 1)));
        assert_eq!(guest.attempt(&[0x0f, 0xa2]), Err(Exception::GP0));
        guest.change(|state| (state.cs.dpl, state.ss.dpl) = (0, 0));
        assert_eq!(guest.attempt(&[0x0f, 0xa2]), Ok(()));
    }

    /// Each instruction that a feature brings, in 64-bit mode.
    const BROUGHT: &[(Feature, &[u8])] = &[
        (Feature::ADX, &[0x66, 0x0f, 0x38, 0xf6, 0xc0]),
        (Feature::BMI1, &[0xc4, 0xe2, 0x78, 0xf2, 0xc0]),
        (Feature::BMI2, &[0xc4, 0xe2, 0x78, 0xf5, 0xc0]),
        (Feature::BMI2, &[0xc4, 0xe3, 0x7b, 0xf0, 0xc0, 1]),
        (Feature::POPCNT, &[0xf3, 0x0f, 0xb8, 0xc0]),
        (Feature::MOVBE, &[0x0f, 0x38, 0xf0, 0x03]),
        (Feature::SSE42, &[0xf2, 0x0f, 0x38, 0xf0, 0xc0]),
        (Feature::CMOV, &[0x0f, 0x44, 0xc0]),
        (Feature::CX8, &[0x0f, 0xc7, 0x0b]),
        (Feature::CX16, &[0x48, 0x0f, 0xc7, 0x0b]),
        (Feature::LAHF, &[0x9f]),
        (Feature::SMAP, &[0x0f, 0x01, 0xcb]),
        (Feature::CLFSH, &[0x0f, 0xae, 0x3b]),
        (Feature::CLFLUSHOPT, &[0x66, 0x0f, 0xae, 0x3b]),
        (Feature::CLWB, &[0x66, 0x0f, 0xae, 0x33]),
        (Feature::FXSR, &[0x0f, 0xae, 0x03]),
        (Feature::INVPCID, &[0x66, 0x0f, 0x38, 0x82, 0x03]),
        (Feature::SSE2, &[0x0f, 0xae, 0xf0]),
        (Feature::SSE2, &[0x0f, 0xc3, 0x03]),
        (Feature::SSE, &[0x0f, 0xae, 0xf8]),
        (Feature::FSGSBASE, &[0xf3, 0x0f, 0xae, 0xc0]),
        (Feature::MSR, &[0x0f, 0x32]),
        (Feature::RDPID, &[0xf3, 0x0f, 0xc7, 0xf8]),
        (Feature::PKU, &[0x0f, 0x01, 0xee]),
        (Feature::RDRAND, &[0x0f, 0xc7, 0xf0]),
        (Feature::RDSEED, &[0x0f, 0xc7, 0xf8]),
        (Feature::TSC, &[0x0f, 0x31]),
        (Feature::RDTSCP, &[0x0f, 0x01, 0xf9]),
        (Feature::SERIALIZE, &[0x0f, 0x01, 0xe8]),
        (Feature::XSAVE, &[0x0f, 0x01, 0xd0]),
        (Feature::XSAVE, &[0x0f, 0xae, 0x23]),
        (Feature::XSAVEOPT, &[0x0f, 0xae, 0x33]),
        (Feature::XSAVEC, &[0x0f, 0xc7, 0x23]),
        (Feature::XSAVES, &[0x0f, 0xc7, 0x2b]),
        (Feature::MMX, &[0x0f, 0xef, 0xc0]),
        (Feature::MMX, &[0x0f, 0x77]),
        (Feature::SSE, &[0x0f, 0x57, 0xc0]),
        (Feature::SSE, &[0x0f, 0xd7, 0xc0]),
        (Feature::SSE2, &[0x66, 0x0f, 0xef, 0xc0]),
        (Feature::SSE2, &[0x0f, 0xd4, 0xc0]),
        (Feature::SSE2, &[0xf3, 0x0f, 0x6f, 0x03]),
        (Feature::SSE3, &[0xf2, 0x0f, 0x12, 0xc0]),
        (Feature::SSSE3, &[0x66, 0x0f, 0x38, 0x00, 0xc0]),
        (Feature::SSE41, &[0x66, 0x0f, 0x38, 0x17, 0xc0]),
        (Feature::SSE41, &[0x66, 0x0f, 0x3a, 0x15, 0x03, 0]),
        (Feature::SSE42, &[0x66, 0x0f, 0x38, 0x37, 0xc0]),
        (Feature::SSE42, &[0x66, 0x0f, 0x3a, 0x63, 0xc0, 0]),
        (Feature::PCLMUL, &[0x66, 0x0f, 0x3a, 0x44, 0xc0, 0]),
        (Feature::AES, &[0x66, 0x0f, 0x38, 0xdc, 0xc0]),
        (Feature::AES, &[0x66, 0x0f, 0x3a, 0xdf, 0xc0, 0]),
        (Feature::SHA, &[0x0f, 0x38, 0xc8, 0xc0]),
        (Feature::SHA, &[0x0f, 0x3a, 0xcc, 0xc0, 0]),
    ];

    fn without(feature: Feature) -> Guest {
        let mut set = [u32::MAX; WORDS];
        set[feature.0] &= !(1 << feature.1);
        let mut guest = Guest::long();
        guest.cpu.set_cpuid(&entries_of(&set)).unwrap();
        guest.change(|state| {
            state.cr4 |= 1 << 9 | 1 << 16 | 1 << 18 | 1 << 22;
            state.gpr[RBX] = 0x3000;
            state.gpr[RCX] = 0;
        });
        guest
    }

    #[test]
    fn instructions_come_with_their_features() {
        for (feature, code) in BROUGHT {
            let mut guest = without(Feature::ARAT);
            let registers = [(RAX, 0), (RCX, 0x10)];
            let registers = match code {
                [0x0f, 0x32] => &registers[..],
                _ => &[(RAX, 0), (RCX, 0)],
            };
            assert_eq!(guest.attempt_with(registers, code), Ok(()), "{code:02x?}");
            let mut guest = without(*feature);
            assert_eq!(guest.attempt(code), Err(Exception::UD), "{code:02x?}");
            // Blocks know it, too.
            guest.change(|state| state.rip = 0x1000);
            guest.run(1);
            assert_ne!(guest.state().rip, 0x1000 + code.len() as u64);
        }
    }

    #[test]
    fn opcodes_that_meant_something_before() {
        // lzcnt eax, ecx is bsr; tzcnt is bsf, of 0 apart in what it leaves.
        for (feature, code, with, before) in [
            (Feature::ABM, [0xf3, 0x0f, 0xbd, 0xc1], 27, 4),
            (Feature::BMI1, [0xf3, 0x0f, 0xbc, 0xc1], 4, 4),
        ] {
            for (mut guest, expected) in
                [(without(Feature::ARAT), with), (without(feature), before)]
            {
                assert_eq!(guest.attempt_with(&[(RCX, 0x10)], &code), Ok(()));
                assert_eq!(guest.state().gpr[RAX], expected);
            }
        }
        let mut guest = without(Feature::BMI1);
        let registers = [(RAX, 7), (RCX, 0)];
        assert_eq!(
            guest.attempt_with(&registers, &[0xf3, 0x0f, 0xbc, 0xc1]),
            Ok(())
        );
        assert_eq!(guest.state().gpr[RAX], 7);
        assert_eq!(
            without(Feature::WBNOINVD).attempt(&[0xf3, 0x0f, 0x09]),
            Ok(())
        );
        // VEX is no prefix in real and virtual-8086 mode.
        for code in [
            [0xc4, 0xe2, 0x78, 0xf2, 0xc0],
            [0xc4, 0xe2, 0x7b, 0xf6, 0xc0],
        ] {
            assert_eq!(Guest::new().attempt(&code), Err(Exception::UD));
            assert_eq!(Guest::v86().attempt(&code), Err(Exception::UD));
            assert_eq!(Guest::protected().attempt(&code), Ok(()));
        }
    }

    #[test]
    fn models_lack_only_what_is_known() {
        // What QEMU's default model asks for and does not get: nested virtualisation.
        let model = find("qemu64").unwrap();
        let lacks: Vec<&str> = (0..WORDS)
            .flat_map(|word| (0..32).map(move |bit| (word, bit)))
            .filter(|&(word, bit)| (model.features[word] & !SUPPORTED[word]) >> bit & 1 != 0)
            .map(|(word, bit)| features::name(word, bit))
            .collect();
        assert_eq!(lacks, ["svm"]);
    }
}
