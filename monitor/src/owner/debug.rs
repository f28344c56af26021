//! What a debugger outside of the guest asks of the machine's owner.

use thimble_core::cpu::CpuState;
use thimble_core::cpu::debugger::{Break, Hit, Resume};
use thimble_core::machine::Machine;
use thimble_core::memory::Backing;

use crate::QmpError;

/// How processors make single steps, as gdb's `qqemu.sstep` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stepping {
    /// Interrupts wait until the step is done.
    pub no_interrupts: bool,
    /// The virtual clock stands still meanwhile.
    pub no_timers: bool,
}

/// A processor that a debugger's wish has stopped, and with it all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DebugStop {
    /// The processor's index.
    pub cpu: u32,
    /// Why.
    pub hit: Hit,
}

/// There is no room for another one, or the accelerator can't have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakRefused;

/// What a debugger does to the machine. Processors' indices are below `Owner::cpus`.
pub trait Debugger {
    /// Changes the state of a processor of a stopped VM, where `change` says that it did; false if it can't be in that
    /// state, which it then is not.
    fn change_processor(
        &mut self,
        index: u32,
        change: &mut dyn FnMut(&mut CpuState) -> bool,
    ) -> bool;

    /// Writes RAM at guest physical addresses, whether the guest could do that or not. False if it is not RAM everywhere,
    /// and then something may be written.
    fn write_ram(&mut self, gpa: u64, from: &[u8]) -> bool;

    /// Sets a breakpoint or watchpoint for all processors, if it is not set. `cpu` is whose linear addresses are meant.
    ///
    /// # Errors
    /// If there are too many.
    fn set_break(&mut self, cpu: u32, what: Break) -> Result<(), BreakRefused>;

    /// Takes one away, if it is set.
    fn remove_break(&mut self, what: Break);

    /// Takes all away.
    fn clear_breaks(&mut self);

    /// How single steps can be made; the default, too.
    fn stepping(&self) -> Stepping;

    /// Lets the VM run, and each processor as `resume` says. False, and nothing else, if it can't.
    fn resume_processors(&mut self, stepping: Stepping, resume: &dyn Fn(u32) -> Resume) -> bool;

    /// What has stopped the VM in run state `debug`; tells it once.
    fn take_debug_stop(&mut self) -> Option<DebugStop>;

    /// Ends the process at once, successfully: the debugger kills its target.
    fn kill(&mut self);

    /// Serves debuggers on this device from now on, in place of any other, or on none with `none`.
    ///
    /// # Errors
    /// Why the device can't be had.
    fn serve_debugger(&mut self, device: &[u8]) -> Result<(), QmpError>;
}

/// Writes a machine's RAM at guest physical addresses. False if it is not RAM everywhere; what lies before is written then.
pub fn write_ram(machine: &Machine<'_>, mut gpa: u64, mut from: &[u8]) -> bool {
    while !from.is_empty() {
        let region = machine.memory_map().find(gpa);
        let Some(region) = region.filter(|region| region.read == Backing::Ram) else {
            return false;
        };
        let room = usize::try_from(region.length - (gpa - region.gpa)).unwrap_or(usize::MAX);
        let (part, rest) = from.split_at(room.min(from.len()));
        if machine.ram().write(gpa, part).is_err() {
            return false;
        }
        gpa = gpa.wrapping_add(part.len() as u64);
        from = rest;
    }
    true
}
