//! Debug registers, single steps and breakpoints.
//!
//! Source: Intel SDM volume 3, chapter "Debug, Branch Profile, TSC, …", 17.2 and 17.3.

use super::access::Intent;
use super::{Cpu, Outcome};
use crate::cpu::decode::{Instruction, Size};

impl Cpu {
    /// Raises #DB where an instruction breakpoint is at RIP.
    pub(super) fn check_breakpoints(&mut self) -> Outcome {
        Ok(())
    }

    /// An instruction that began with EFLAGS.TF set is done.
    pub(super) fn single_stepped(&mut self, instruction: &Instruction) {
        let _ = instruction;
    }

    /// Notes a data access where a breakpoint may be.
    pub(super) fn watch(&mut self, linear: u64, length: usize, intent: Intent) {
        let _ = (linear, length, intent);
    }

    /// Notes the use of a port where a breakpoint may be.
    pub(super) fn watch_port(&mut self, port: u16, size: Size) {
        let _ = (port, size);
    }
}
