//! RDMSR and WRMSR.
//!
//! Source: Intel SDM volume 4 (numbers, fields), volume 2 (RDMSR, WRMSR), volume 3, 12.11 (MTRRs),
//! 12.12 (PAT), 16.3 (machine checks), 18.17 (time stamp counter); AMD64 APM volume 2 for EFER and
//! the C001_xxxxh range. A register that is not here is #GP(0), as on a processor.
//!
//! Registers that systems read without asking CPUID have constant values, the same ones that KVM
//! shows its guests, so that a guest finds them on both accelerators. Not modelled: performance
//! counters, last-branch records, microcode, power states; the memory types of MTRRs and PAT, which
//! are kept; what IA32_MISC_ENABLE turns off.

use super::cpuid::Feature;
use super::{Bus, Cpu, Outcome};
use crate::cpu::decode::SegmentRegister;
use crate::cpu::gpr::{RAX, RCX, RDX};
use crate::cpu::msr::index::{
    CSTAR, IA32_MISC_ENABLE, IA32_MTRR_DEF_TYPE, IA32_MTRR_FIX4K_C0000, IA32_MTRR_FIX16K_80000,
    IA32_MTRR_FIX16K_A0000, IA32_MTRR_FIX64K_00000, IA32_MTRR_PHYSBASE0, IA32_PAT,
    IA32_SYSENTER_CS, IA32_SYSENTER_EIP, IA32_SYSENTER_ESP, IA32_TSC, IA32_TSC_ADJUST,
    IA32_TSC_DEADLINE, KERNEL_GS_BASE, LSTAR, SFMASK, STAR, TSC_AUX,
};
use crate::cpu::msr::{MTRR_VARIABLE, Msrs};
use crate::trace::events as trace;
use x86_64::registers::control::Cr0Flags;
use x86_64::registers::model_specific::{ApicBaseFlags, EferFlags};

const IA32_PLATFORM_ID: u32 = 0x17;
const IA32_APIC_BASE: u32 = 0x1b;
const EBL_CR_POWERON: u32 = 0x2a;
const EBC_FREQUENCY_ID: u32 = 0x2c;
const SMI_COUNT: u32 = 0x34;
const IA32_BIOS_UPDT_TRIG: u32 = 0x79;
const IA32_BIOS_SIGN_ID: u32 = 0x8b;
const FSB_FREQUENCY: u32 = 0xcd;
const PLATFORM_INFO: u32 = 0xce;
const IA32_MTRRCAP: u32 = 0xfe;
const BBL_CR_CTL3: u32 = 0x11e;
const MISC_FEATURES_ENABLES: u32 = 0x140;
const IA32_MCG_CAP: u32 = 0x179;
const IA32_MCG_STATUS: u32 = 0x17a;
const IA32_MCG_CTL: u32 = 0x17b;
const IA32_PERF_STATUS: u32 = 0x198;
const IA32_PERF_CTL: u32 = 0x199;
const IA32_DEBUGCTL: u32 = 0x1d9;
const LAST_BRANCH_FROM_IP: u32 = 0x1db;
const LAST_INTERRUPT_TO_IP: u32 = 0x1de;
const IA32_MC0_CTL: u32 = 0x400;
const IA32_PKRS: u32 = 0x6e1;
const X2APIC_FIRST: u32 = 0x800;
const X2APIC_LAST: u32 = 0x8ff;
const IA32_XSS: u32 = 0xda0;
const EFER: u32 = 0xc000_0080;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const SYSCFG: u32 = 0xc001_0010;
const HWCR: u32 = 0xc001_0015;
const K7_CLK_CTL: u32 = 0xc001_001b;
const NB_CFG: u32 = 0xc001_001f;
const PATCH_LOADER: u32 = 0xc001_0020;
const INT_PENDING: u32 = 0xc001_0055;
const MMIO_CONF_BASE: u32 = 0xc001_0058;
const SMM_ADDRESS: u32 = 0xc001_0112;
const SMM_MASK: u32 = 0xc001_0113;
const DC_CFG: u32 = 0xc001_1022;
const BU_CFG2: u32 = 0xc001_102a;

/// Registers of one value, which may be written and stay the same.
const CONSTANT: [(u32, u64); 20] = [
    (IA32_PLATFORM_ID, 0),
    (EBL_CR_POWERON, 0),
    // The bus runs at 133 MHz.
    (EBC_FREQUENCY_ID, 1 << 24),
    (IA32_BIOS_UPDT_TRIG, 0),
    // Any microcode: systems complain of old ones.
    (IA32_BIOS_SIGN_ID, 1 << 32),
    (FSB_FREQUENCY, 3),
    (BBL_CR_CTL3, 0xbe70_2111),
    (IA32_PERF_CTL, 0),
    (LAST_BRANCH_FROM_IP, 0),
    (0x1dc, 0),
    (0x1dd, 0),
    (LAST_INTERRUPT_TO_IP, 0),
    (SYSCFG, 0),
    (K7_CLK_CTL, 0x2000_0000),
    (NB_CFG, 0),
    (PATCH_LOADER, 0),
    (INT_PENDING, 0),
    (MMIO_CONF_BASE, 0),
    (DC_CFG, 0),
    (BU_CFG2, 0),
];

/// Registers that can only be read.
const READ_ONLY: [(u32, u64); 5] = [
    (SMI_COUNT, 0),
    // CPUID can be made to fault.
    (PLATFORM_INFO, 1 << 31),
    // Voltage and ratio of a processor that runs at its only speed.
    (IA32_PERF_STATUS, 4 << 40 | 1000),
    (SMM_ADDRESS, 0),
    (SMM_MASK, 0),
];

/// IA32_MTRRCAP: eight variable ranges, fixed ranges, write combining.
const MTRRCAP: u64 = 1 << 10 | 1 << 8 | MTRR_VARIABLE as u64;
/// IA32_MTRR_DEF_TYPE: enable bits.
const MTRR_ENABLES: u64 = 3 << 10;
/// IA32_MCG_CAP: ten banks, IA32_MCG_CTL is there.
const MCG_BANKS: u32 = 10;
const MCG_CAP: u64 = 1 << 8 | MCG_BANKS as u64;
/// IA32_MCG_STATUS: RIPV, EIPV, MCIP.
const MCG_STATUS_BITS: u64 = 0b111;
/// IA32_MISC_ENABLE: bits that are documented. Those without effect are kept.
const MISC_ENABLE_BITS: u64 = 0x4_00c5_1889;
/// MISC_FEATURES_ENABLES: CPUID raises #GP(0) with a CPL over 0.
const CPUID_FAULTING: u64 = 1;
/// HWCR: McStatusWrEn, banks' status may be written.
const MC_STATUS_WRITE: u64 = 1 << 18;
/// HWCR: TLB flush filter and its like, of no effect.
const HWCR_IGNORED: u64 = 1 << 3 | 1 << 6 | 1 << 8;

/// The bits of protection keys' rights and of other registers of 32 bits.
const LOW: u64 = 0xffff_ffff;

/// Memory types that MTRRs may hold: UC, WC, WT, WP, WB.
const fn mtrr_type(kind: u8) -> bool {
    matches!(kind, 0 | 1 | 4 | 5 | 6)
}

/// What is kept in [`Msrs::other`]; 0 until it is written, if not said otherwise.
fn kept(msrs: &Msrs, index: u32) -> Option<u64> {
    let at = msrs.other.binary_search_by_key(&index, |msr| msr.index);
    at.ok()
        .and_then(|at| msrs.other.get(at))
        .map(|msr| msr.value)
}

impl Cpu {
    /// RDMSR.
    pub(super) fn read_msr_instruction(&mut self, bus: &mut Bus<'_>) -> Outcome {
        self.check_privileged()?;
        self.exactly(bus)?;
        let Some(value) = self.msr(bus, self.register(RCX)) else {
            trace::guest_error_rdmsr(self.register(RCX));
            return self.protection();
        };
        self.set_register(RAX, value as u32);
        self.set_register(RDX, (value >> 32) as u32);
        Ok(())
    }

    /// WRMSR.
    pub(super) fn write_msr_instruction(&mut self, bus: &mut Bus<'_>) -> Outcome {
        self.check_privileged()?;
        self.exactly(bus)?;
        let value =
            u64::from(self.register::<u32>(RDX)) << 32 | u64::from(self.register::<u32>(RAX));
        if self.set_msr(bus, self.register(RCX), value).is_none() {
            trace::guest_error_wrmsr(self.register(RCX), value);
            return self.protection();
        }
        Ok(())
    }

    /// Whether CPUID is #GP(0) outside of CPL 0.
    pub(super) fn cpuid_faults(&self) -> bool {
        kept(&self.msrs, MISC_FEATURES_ENABLES).is_some_and(|value| value & CPUID_FAULTING != 0)
    }

    /// IA32_PKRS as kept.
    pub(super) fn kept_pkrs(&self) -> u32 {
        kept(&self.msrs, IA32_PKRS).unwrap_or(0) as u32
    }

    /// The feature that a register comes with.
    fn feature_of_msr(index: u32) -> Option<Feature> {
        use Feature as F;
        Some(match index {
            IA32_TSC => F::TSC,
            IA32_APIC_BASE => F::APIC,
            IA32_TSC_ADJUST => F::TSC_ADJUST,
            IA32_SYSENTER_CS..=IA32_SYSENTER_EIP => F::SEP,
            IA32_PAT => F::PAT,
            IA32_MTRRCAP | IA32_MTRR_PHYSBASE0..=0x20f | IA32_MTRR_DEF_TYPE => F::MTRR,
            IA32_MTRR_FIX64K_00000
            | IA32_MTRR_FIX16K_80000
            | IA32_MTRR_FIX16K_A0000
            | IA32_MTRR_FIX4K_C0000..=0x26f => F::MTRR,
            IA32_MCG_CAP..=IA32_MCG_CTL => F::MCA,
            IA32_MC0_CTL.. if index < IA32_MC0_CTL + 4 * MCG_BANKS => F::MCA,
            IA32_TSC_DEADLINE => F::TSC_DEADLINE,
            IA32_PKRS => F::PKS,
            X2APIC_FIRST..=X2APIC_LAST => F::X2APIC,
            IA32_XSS => F::XSAVES,
            STAR => F::SYSCALL,
            LSTAR | CSTAR | SFMASK | FS_BASE | GS_BASE | KERNEL_GS_BASE => F::LM,
            _ => return None,
        })
    }

    fn msr_absent(&self, index: u32) -> bool {
        Self::feature_of_msr(index).is_some_and(|feature| !self.has(feature))
            || index == TSC_AUX && !self.has(Feature::RDTSCP) && !self.has(Feature::RDPID)
    }

    /// Reads a register; `None` is #GP(0).
    fn msr(&mut self, bus: &mut Bus<'_>, index: u32) -> Option<u64> {
        if self.msr_absent(index) {
            return None;
        }
        let constant = CONSTANT.iter().chain(&READ_ONLY);
        if let Some((_, value)) = constant.into_iter().find(|known| known.0 == index) {
            return Some(*value);
        }
        let or_zero = |cpu: &Self| Some(kept(&cpu.msrs, index).unwrap_or(0));
        match index {
            IA32_TSC => Some(self.tsc(bus)),
            IA32_APIC_BASE => Some(bus.platform.apic_base()),
            EFER => Some(self.efer().bits()),
            FS_BASE => Some(self.segment(SegmentRegister::Fs).base),
            GS_BASE => Some(self.segment(SegmentRegister::Gs).base),
            IA32_TSC_DEADLINE | X2APIC_FIRST..=X2APIC_LAST => bus.platform.apic_read_msr(index),
            IA32_MTRRCAP => Some(MTRRCAP),
            IA32_MCG_CAP => Some(MCG_CAP),
            IA32_MCG_CTL => Some(kept(&self.msrs, index).unwrap_or(u64::MAX)),
            IA32_MC0_CTL.. if index < IA32_MC0_CTL + 4 * MCG_BANKS => {
                let of_control = if index.is_multiple_of(4) { u64::MAX } else { 0 };
                Some(kept(&self.msrs, index).unwrap_or(of_control))
            }
            IA32_MCG_STATUS | IA32_DEBUGCTL | MISC_FEATURES_ENABLES | HWCR | IA32_XSS => {
                or_zero(self)
            }
            IA32_PKRS => Some(self.mmu.registers().pkrs.into()),
            // What else is in a field; the list also keeps registers that are not here.
            _ if kept(&self.msrs, index).is_none() => self.msrs.get(index),
            _ => None,
        }
    }

    /// Writes a register; `None` is #GP(0).
    fn set_msr(&mut self, bus: &mut Bus<'_>, index: u32, value: u64) -> Option<()> {
        let check = |good: bool| good.then_some(());
        check(!self.msr_absent(index))?;
        if CONSTANT.iter().any(|known| known.0 == index) {
            return Some(());
        }
        let low_only = value & !LOW == 0;
        let address_bits = u64::MAX >> (64 - self.physical_bits());
        match index {
            IA32_TSC => {
                // The adjustment goes along (volume 3, 18.17.3).
                let change = value.wrapping_sub(self.tsc(bus));
                self.move_tsc(bus, change);
                if self.has(Feature::TSC_ADJUST) {
                    self.msrs.tsc_adjust = self.msrs.tsc_adjust.wrapping_add(change);
                }
                return Some(());
            }
            IA32_TSC_ADJUST => {
                let change = value.wrapping_sub(self.msrs.tsc_adjust);
                self.move_tsc(bus, change);
            }
            IA32_APIC_BASE => {
                let flags = ApicBaseFlags::from_bits_retain(value);
                let known = ApicBaseFlags::BSP.bits()
                    | ApicBaseFlags::X2APIC_ENABLE.bits()
                    | ApicBaseFlags::LAPIC_ENABLE.bits()
                    | address_bits & !0xfff;
                let x2apic = flags.contains(ApicBaseFlags::X2APIC_ENABLE);
                check(value & !known == 0 && (!x2apic || self.has(Feature::X2APIC)))?;
                check(bus.platform.set_apic_base(value))?;
                // Where its registers are is for the memory map to say.
                self.mmu.tlb().forget_host();
                bus.signals.raise();
                return Some(());
            }
            EFER => return self.set_efer(value),
            FS_BASE | GS_BASE => {
                check(self.canonical_base(value))?;
                let register = if index == FS_BASE {
                    SegmentRegister::Fs
                } else {
                    SegmentRegister::Gs
                };
                self.set_segment_base(register, value);
                return Some(());
            }
            IA32_TSC_DEADLINE | X2APIC_FIRST..=X2APIC_LAST => {
                let tsc = self.tsc(bus);
                check(bus.platform.apic_write_msr(index, value, tsc))?;
                bus.signals.raise();
                return Some(());
            }
            IA32_SYSENTER_CS | STAR => {}
            IA32_SYSENTER_ESP | IA32_SYSENTER_EIP | LSTAR | CSTAR | KERNEL_GS_BASE => {
                check(self.canonical_base(value))?;
            }
            SFMASK | TSC_AUX => check(low_only)?,
            IA32_PKRS => {
                check(low_only)?;
                self.mmu.write_pkrs(value as u32);
            }
            IA32_MISC_ENABLE => check(value & !MISC_ENABLE_BITS == 0)?,
            IA32_PAT => check(value.to_le_bytes().into_iter().all(|kind| {
                // UC- is one more than MTRRs have.
                mtrr_type(kind) || kind == 7
            }))?,
            IA32_MTRR_DEF_TYPE => {
                check(value & !MTRR_ENABLES <= 0xff && mtrr_type(value as u8))?;
            }
            IA32_MTRR_PHYSBASE0..=0x20f if index.is_multiple_of(2) => {
                check(value & !(address_bits & !0xfff) <= 0xff && mtrr_type(value as u8))?;
            }
            IA32_MTRR_PHYSBASE0..=0x20f => check(value & !(address_bits & !0x7ff) == 0)?,
            IA32_MTRR_FIX64K_00000
            | IA32_MTRR_FIX16K_80000
            | IA32_MTRR_FIX16K_A0000
            | IA32_MTRR_FIX4K_C0000..=0x26f => {
                check(value.to_le_bytes().into_iter().all(mtrr_type))?;
            }
            IA32_MCG_STATUS => check(value & !MCG_STATUS_BITS == 0)?,
            IA32_MCG_CTL => check(value == 0 || value == u64::MAX)?,
            IA32_MC0_CTL.. if index < IA32_MC0_CTL + 4 * MCG_BANKS => {
                let writable = kept(&self.msrs, HWCR).unwrap_or(0) & MC_STATUS_WRITE != 0;
                check(match index % 4 {
                    0 => value == 0 || value == u64::MAX,
                    1 => value == 0 || writable,
                    _ => true,
                })?;
            }
            IA32_DEBUGCTL | IA32_XSS => check(value == 0)?,
            MISC_FEATURES_ENABLES => check(value & !CPUID_FAULTING == 0)?,
            HWCR => {
                let value = value & !HWCR_IGNORED;
                check(value & !MC_STATUS_WRITE == 0)?;
                return check(self.msrs.set(index, value));
            }
            _ => return None,
        }
        check(self.msrs.set(index, value))
    }

    /// Moves the time stamp counter. What the local APIC's timer waits for moves along.
    fn move_tsc(&mut self, bus: &mut Bus<'_>, change: u64) {
        self.tsc_offset = self.tsc_offset.wrapping_add(change);
        if !self.has(Feature::TSC_DEADLINE) {
            return;
        }
        if let Some(deadline) = bus.platform.apic_read_msr(IA32_TSC_DEADLINE)
            && deadline != 0
        {
            let tsc = self.tsc(bus);
            bus.platform
                .apic_write_msr(IA32_TSC_DEADLINE, deadline, tsc);
            bus.signals.raise();
        }
    }

    /// WRMSR to EFER.
    fn set_efer(&mut self, value: u64) -> Option<()> {
        let old = self.efer();
        let mut known = EferFlags::LONG_MODE_ACTIVE;
        known.set(
            EferFlags::SYSTEM_CALL_EXTENSIONS,
            self.has(Feature::SYSCALL),
        );
        known.set(EferFlags::LONG_MODE_ENABLE, self.has(Feature::LM));
        known.set(EferFlags::NO_EXECUTE_ENABLE, self.has(Feature::NX));
        known.set(EferFlags::FAST_FXSAVE_FXRSTOR, self.has(Feature::FFXSR));
        if value & !known.bits() != 0 {
            return None;
        }
        let mut new = EferFlags::from_bits_retain(value);
        // LMA is the processor's: what is written there is ignored.
        new.set(
            EferFlags::LONG_MODE_ACTIVE,
            old.contains(EferFlags::LONG_MODE_ACTIVE),
        );
        let changed = new ^ old;
        if changed.contains(EferFlags::LONG_MODE_ENABLE) && self.cr0().contains(Cr0Flags::PAGING) {
            return None;
        }
        self.mmu.write_efer(new.bits());
        self.changed_mode();
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::soft::Exception;
    use crate::cpu::soft::cpuid::entries_of;
    use crate::cpu::soft::testing::Guest;

    const GP: Result<(), Exception> = Err(Exception::GP0);

    fn write(guest: &mut Guest, index: u32, value: u64) -> Result<(), Exception> {
        let registers = [(RCX, index.into()), (RAX, value), (RDX, value >> 32)];
        guest.attempt_with(&registers, &[0x0f, 0x30])
    }

    fn read(guest: &mut Guest, index: u32) -> Result<u64, Exception> {
        let registers = [(RCX, index.into()), (RAX, u64::MAX), (RDX, u64::MAX)];
        guest.attempt_with(&registers, &[0x0f, 0x32])?;
        let state = guest.state();
        Ok(state.gpr[RDX] << 32 | state.gpr[RAX])
    }

    #[test]
    fn what_is_written_is_read() {
        let mut guest = Guest::long();
        let kernel = 0xffff_8000_1234_5678;
        for (index, value) in [
            (IA32_SYSENTER_CS, 0x10),
            (IA32_SYSENTER_ESP, kernel),
            (IA32_SYSENTER_EIP, kernel),
            (STAR, 0x0013_0008_1234_5678),
            (LSTAR, kernel),
            (CSTAR, kernel),
            (SFMASK, 0x4_7700),
            (KERNEL_GS_BASE, kernel),
            (FS_BASE, kernel),
            (GS_BASE, 1 << 47),
            (TSC_AUX, 0xffff_ffff),
            (IA32_PAT, 0x0001_0405_0607_0406),
            (IA32_MISC_ENABLE, 0x4_00c5_1889),
            (IA32_MTRR_DEF_TYPE, 0xc06),
            (IA32_MTRR_PHYSBASE0, 0xff_c000_0005),
            (0x20f, 0xff_8000_0800),
            (IA32_MTRR_FIX64K_00000, 0x0606_0504_0100_0606),
            (0x26f, 0x0606_0606_0606_0606),
            (IA32_MCG_STATUS, 7),
            (IA32_MCG_CTL, 0),
            (0x400, 0),
            (0x401, 0),
            (0x402, u64::MAX),
            (MISC_FEATURES_ENABLES, 1),
            (IA32_PKRS, 0x5555_5555),
            (IA32_APIC_BASE, 0xfee0_0100),
        ] {
            assert_eq!(write(&mut guest, index, value), Ok(()), "{index:#x}");
            assert_eq!(read(&mut guest, index), Ok(value), "{index:#x}");
        }
        assert_eq!(guest.cpu.mmu.registers().pkrs, 0x5555_5555);
        assert_eq!(guest.state().gs.base, 1 << 47);
    }

    #[test]
    fn bad_values_are_refused() {
        let mut guest = Guest::long();
        for (index, value) in [
            (EFER, 1 << 1),
            (EFER, 1 << 12),
            (EFER, 0),
            (IA32_SYSENTER_ESP, 1 << 62),
            (LSTAR, 1 << 62),
            (KERNEL_GS_BASE, 1 << 56),
            (FS_BASE, 1 << 60),
            (SFMASK, 1 << 32),
            (TSC_AUX, 1 << 32),
            (IA32_PAT, 2),
            (IA32_PAT, 0x03 << 56),
            (IA32_MISC_ENABLE, 2),
            (IA32_MTRR_DEF_TYPE, 2),
            (IA32_MTRR_DEF_TYPE, 1 << 9),
            (IA32_MTRR_PHYSBASE0, 7),
            (IA32_MTRR_PHYSBASE0, 1 << 8),
            (IA32_MTRR_PHYSBASE0, 1 << 40),
            (0x201, 1 << 10),
            (0x210, 0),
            (0x26f, 2 << 32),
            (IA32_MTRRCAP, 0),
            (IA32_MCG_CAP, 0),
            (IA32_MCG_STATUS, 8),
            (IA32_MCG_CTL, 1),
            (0x400, 1),
            (0x401, 1),
            (0x400 + 4 * MCG_BANKS, 0),
            (IA32_DEBUGCTL, 1),
            (IA32_XSS, 1),
            (IA32_PKRS, 1 << 32),
            (MISC_FEATURES_ENABLES, 2),
            (IA32_APIC_BASE, 1),
            (IA32_APIC_BASE, 1 << 40),
            (SMI_COUNT, 0),
            (0x1234, 0),
            (0xc000_0200, 0),
        ] {
            assert_eq!(write(&mut guest, index, value), GP, "{index:#x} {value:#x}");
        }
        for index in [0x1234, 0x210, 0x400 + 4 * MCG_BANKS, 0xc1, u32::MAX] {
            assert_eq!(read(&mut guest, index), Err(Exception::GP0), "{index:#x}");
        }
        // The list keeps registers for whoever knows them, not for the guest.
        guest.change(|state| assert!(state.msrs.set(0x4b56_4d02, 7)));
        assert_eq!(read(&mut guest, 0x4b56_4d02), Err(Exception::GP0));
        assert_eq!(guest.state().msrs.get(0x4b56_4d02), Some(7));
    }

    #[test]
    fn efer() {
        let mut guest = Guest::long();
        // LMA is not to be written, and LME not while there is paging.
        assert_eq!(write(&mut guest, EFER, 0x901), Ok(()));
        assert_eq!(guest.state().efer, 0xd01);
        assert_eq!(write(&mut guest, EFER, 0x401), GP);
        let mut guest = Guest::protected();
        assert_eq!(write(&mut guest, EFER, 0x4d01), Ok(()));
        assert_eq!(guest.state().efer, 0x4901);
        let mut none = [u32::MAX; crate::cpu::features::WORDS];
        none[crate::cpu::features::EXT_1_EDX] = 0;
        guest.cpu.set_cpuid(&entries_of(&none)).unwrap();
        for bit in [0, 8, 11, 14] {
            assert_eq!(write(&mut guest, EFER, 1 << bit), GP);
        }
        assert_eq!(write(&mut guest, LSTAR, 0), GP);
        assert_eq!(write(&mut guest, STAR, 0), GP);
    }

    #[test]
    fn time_and_its_adjustment() {
        let mut guest = Guest::long();
        assert_eq!(write(&mut guest, IA32_TSC, 1 << 40), Ok(()));
        let time = read(&mut guest, IA32_TSC).unwrap();
        assert!((1 << 40..(1 << 40) + 100).contains(&time));
        let adjust = read(&mut guest, IA32_TSC_ADJUST).unwrap();
        assert!(((1 << 40) - 100..1 << 40).contains(&adjust), "{adjust:#x}");
        assert_eq!(write(&mut guest, IA32_TSC_ADJUST, 0), Ok(()));
        assert!(read(&mut guest, IA32_TSC).unwrap() < 1000);
    }

    #[test]
    fn constants() {
        let mut guest = Guest::long();
        assert_eq!(read(&mut guest, IA32_MTRRCAP), Ok(0x508));
        assert_eq!(read(&mut guest, IA32_MCG_CAP), Ok(0x10a));
        assert_eq!(read(&mut guest, IA32_MCG_CTL), Ok(u64::MAX));
        assert_eq!(read(&mut guest, 0x404), Ok(u64::MAX));
        assert_eq!(write(&mut guest, IA32_BIOS_SIGN_ID, 0), Ok(()));
        assert_eq!(read(&mut guest, IA32_BIOS_SIGN_ID), Ok(1 << 32));
        // HWCR lets a bank's status be written.
        assert_eq!(write(&mut guest, HWCR, 1 << 18 | 1 << 6), Ok(()));
        assert_eq!(read(&mut guest, HWCR), Ok(1 << 18));
        assert_eq!(write(&mut guest, 0x405, 5), Ok(()));
        // Not in CPL 3.
        let mut guest = Guest::long().user();
        assert_eq!(read(&mut guest, IA32_MTRRCAP), Err(Exception::GP0));
    }
}
