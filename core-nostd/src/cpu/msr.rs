//! Model-specific registers: those every processor has by name, the others in a bounded list.
//!
//! Numbers and names: Intel SDM volume 4, AMD64 APM volume 2 appendix A, and the KVM
//! paravirtual interface for the 4B564Dxxh and 11h/12h ranges.

use serde::{Deserialize, Serialize};

/// Registers that have no field of their own and are kept all the same, at most.
pub const OTHER_MSRS_MAX: usize = 256;

/// Memory type range registers with variable ranges.
pub const MTRR_VARIABLE: usize = 8;

/// Registers' numbers.
#[allow(missing_docs)]
pub mod index {
    pub const IA32_TSC: u32 = 0x10;
    pub const IA32_TSC_ADJUST: u32 = 0x3b;
    pub const IA32_SYSENTER_CS: u32 = 0x174;
    pub const IA32_SYSENTER_ESP: u32 = 0x175;
    pub const IA32_SYSENTER_EIP: u32 = 0x176;
    pub const IA32_MISC_ENABLE: u32 = 0x1a0;
    pub const IA32_MTRR_PHYSBASE0: u32 = 0x200;
    pub const IA32_MTRR_FIX64K_00000: u32 = 0x250;
    pub const IA32_MTRR_FIX16K_80000: u32 = 0x258;
    pub const IA32_MTRR_FIX16K_A0000: u32 = 0x259;
    pub const IA32_MTRR_FIX4K_C0000: u32 = 0x268;
    pub const IA32_PAT: u32 = 0x277;
    pub const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
    pub const IA32_TSC_DEADLINE: u32 = 0x6e0;
    pub const STAR: u32 = 0xc000_0081;
    pub const LSTAR: u32 = 0xc000_0082;
    pub const CSTAR: u32 = 0xc000_0083;
    pub const SFMASK: u32 = 0xc000_0084;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub const TSC_AUX: u32 = 0xc000_0103;
    pub const KVM_WALL_CLOCK: u32 = 0x11;
    pub const KVM_SYSTEM_TIME: u32 = 0x12;
    pub const KVM_WALL_CLOCK_NEW: u32 = 0x4b56_4d00;
    pub const KVM_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
}

/// One register and its value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub struct MsrValue {
    /// Number, as RDMSR takes it in ECX.
    pub index: u32,
    /// Value.
    pub value: u64,
}

/// All model-specific registers but EFER and APIC_BASE, FS and GS base, which are elsewhere in
/// the processor's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Msrs {
    /// Time stamp counter.
    pub tsc: u64,
    /// Its adjustment.
    pub tsc_adjust: u64,
    /// TSC value at which the APIC timer fires; 0: not armed.
    pub tsc_deadline: u64,
    /// What RDTSCP and RDPID show.
    pub tsc_aux: u64,
    /// SYSENTER: CS.
    pub sysenter_cs: u64,
    /// SYSENTER: ESP.
    pub sysenter_esp: u64,
    /// SYSENTER: EIP.
    pub sysenter_eip: u64,
    /// SYSCALL: selectors.
    pub star: u64,
    /// SYSCALL: RIP in long mode.
    pub lstar: u64,
    /// SYSCALL: RIP in compatibility mode.
    pub cstar: u64,
    /// SYSCALL: flags to clear.
    pub sfmask: u64,
    /// SWAPGS.
    pub kernel_gs_base: u64,
    /// Enabled features; bit 0 is fast strings.
    pub misc_enable: u64,
    /// Page attribute table.
    pub pat: u64,
    /// MTRRs: default type and enable bits.
    pub mtrr_def_type: u64,
    /// MTRRs: one of 64 KiB, two of 16 KiB and eight of 4 KiB granularity.
    pub mtrr_fixed: [u64; 11],
    /// MTRRs: base and mask pairs.
    pub mtrr_variable: [[u64; 2]; MTRR_VARIABLE],
    /// The rest, ascending by number.
    pub other: heapless::Vec<MsrValue, OTHER_MSRS_MAX>,
}

impl Msrs {
    /// After power-on.
    pub fn power_on() -> Self {
        Self {
            misc_enable: 1,
            pat: 0x0007_0406_0007_0406,
            ..Self::default()
        }
    }

    fn field(&mut self, index: u32) -> Option<&mut u64> {
        Some(match index {
            index::IA32_TSC => &mut self.tsc,
            index::IA32_TSC_ADJUST => &mut self.tsc_adjust,
            index::IA32_TSC_DEADLINE => &mut self.tsc_deadline,
            index::TSC_AUX => &mut self.tsc_aux,
            index::IA32_SYSENTER_CS => &mut self.sysenter_cs,
            index::IA32_SYSENTER_ESP => &mut self.sysenter_esp,
            index::IA32_SYSENTER_EIP => &mut self.sysenter_eip,
            index::STAR => &mut self.star,
            index::LSTAR => &mut self.lstar,
            index::CSTAR => &mut self.cstar,
            index::SFMASK => &mut self.sfmask,
            index::KERNEL_GS_BASE => &mut self.kernel_gs_base,
            index::IA32_MISC_ENABLE => &mut self.misc_enable,
            index::IA32_PAT => &mut self.pat,
            index::IA32_MTRR_DEF_TYPE => &mut self.mtrr_def_type,
            index::IA32_MTRR_FIX64K_00000 => &mut self.mtrr_fixed[0],
            index::IA32_MTRR_FIX16K_80000 => &mut self.mtrr_fixed[1],
            index::IA32_MTRR_FIX16K_A0000 => &mut self.mtrr_fixed[2],
            index::IA32_MTRR_FIX4K_C0000..=0x26f => {
                let n = (index - index::IA32_MTRR_FIX4K_C0000) as usize;
                &mut self.mtrr_fixed[3 + n]
            }
            index::IA32_MTRR_PHYSBASE0..=0x20f => {
                let n = (index - index::IA32_MTRR_PHYSBASE0) as usize;
                &mut self.mtrr_variable[n / 2][n % 2]
            }
            _ => return None,
        })
    }

    /// The register's value; `None` where it is not kept.
    pub fn get(&mut self, index: u32) -> Option<u64> {
        if let Some(field) = self.field(index) {
            return Some(*field);
        }
        let at = self.other.binary_search_by_key(&index, |msr| msr.index);
        Some(self.other.get(at.ok()?)?.value)
    }

    /// Sets a register; false where the list of those without a field is full.
    pub fn set(&mut self, index: u32, value: u64) -> bool {
        if let Some(field) = self.field(index) {
            *field = value;
            return true;
        }
        match self.other.binary_search_by_key(&index, |msr| msr.index) {
            Ok(at) => {
                self.other[at].value = value;
                true
            }
            Err(at) => self.other.insert(at, MsrValue { index, value }).is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_list() {
        let mut msrs = Msrs::power_on();
        assert_eq!(msrs.get(index::IA32_PAT), Some(0x0007_0406_0007_0406));
        assert!(msrs.set(0x26f, 7) && msrs.set(0x20f, 8));
        assert_eq!((msrs.mtrr_fixed[10], msrs.mtrr_variable[7][1]), (7, 8));
        assert!(msrs.other.is_empty());
        assert_eq!(msrs.get(0x4b56_4d02), None);
        for i in (0..OTHER_MSRS_MAX as u32).rev() {
            assert!(msrs.set(0x1000 + i, u64::from(i)));
        }
        assert!(!msrs.set(0x9000, 1));
        assert!(msrs.set(0x1005, 99));
        assert_eq!(msrs.get(0x1005), Some(99));
        assert!(
            msrs.other
                .windows(2)
                .all(|pair| pair[0].index < pair[1].index)
        );
    }
}
