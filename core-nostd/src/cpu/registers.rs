//! The registers that say where a processor is and what it sees: what a monitor or a debugger looks at first.
//!
//! A part of [`CpuState`] that an accelerator can tell while the guest runs, without collecting the rest. Not here: x87,
//! SSE, descriptor tables, MSRs and the local APIC.

use super::decode::CodeSize;
use super::mmu::{PagingMode, PagingRegisters};
use super::state::{CpuState, Segment};

/// A processor's general registers, segments and paging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// General registers by [`gpr`](super::gpr)'s indices.
    pub gpr: [u64; 16],
    /// RIP.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// ES, CS, SS, DS, FS and GS: by their numbers in encodings.
    pub segments: [Segment; 6],
    /// How linear addresses are translated.
    pub paging: PagingRegisters,
}

impl Registers {
    /// The code segment.
    pub const fn cs(&self) -> &Segment {
        &self.segments[1]
    }

    /// How the code that runs is decoded (Intel SDM volume 3, 3.4.5).
    pub fn code_size(&self) -> CodeSize {
        let long_mode = matches!(self.paging.mode(), PagingMode::Level4 | PagingMode::Level5);
        match (long_mode && self.cs().long, self.cs().big) {
            (true, _) => CodeSize::Bits64,
            (false, true) => CodeSize::Bits32,
            (false, false) => CodeSize::Bits16,
        }
    }

    /// The linear address of the next instruction: without CS in 64-bit code, and of 32 bits in any other.
    pub fn pc(&self) -> u64 {
        match self.code_size() {
            CodeSize::Bits64 => self.rip,
            _ => self.cs().base.wrapping_add(self.rip) & u64::from(u32::MAX),
        }
    }
}

impl From<&CpuState> for Registers {
    fn from(state: &CpuState) -> Self {
        Self {
            gpr: state.gpr,
            rip: state.rip,
            rflags: state.rflags,
            segments: [state.es, state.cs, state.ss, state.ds, state.fs, state.gs],
            paging: state.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_code_and_where_it_is() {
        let mut registers = Registers::from(&CpuState::power_on(0, true, 0));
        assert_eq!(registers.code_size(), CodeSize::Bits16);
        assert_eq!(registers.pc(), 0xffff_fff0);
        // The sum wraps at 4 GiB.
        registers.rip = 0x1_0010;
        assert_eq!(registers.pc(), 0x10);
        registers.segments[1].big = true;
        assert_eq!(registers.code_size(), CodeSize::Bits32);
        // CS.L means nothing outside long mode.
        registers.segments[1].long = true;
        assert_eq!(registers.code_size(), CodeSize::Bits32);
        registers.paging.cr0 = 1 << 31 | 1;
        registers.paging.cr4 = 1 << 5;
        registers.paging.efer = 1 << 8 | 1 << 10;
        assert_eq!(registers.code_size(), CodeSize::Bits64);
        registers.rip = 0xffff_ffff_8000_0000;
        assert_eq!(registers.pc(), 0xffff_ffff_8000_0000);
    }
}
