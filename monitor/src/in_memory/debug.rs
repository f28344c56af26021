//! A debugger's view of the machine in memory: a processor's state that nobody runs, and the machine's RAM.

use thimble_core::cpu::debugger::{Break, Breaks, Resume};
use thimble_core::cpu::{CpuState, Registers};
use thimble_core::machine::{Host, RunState};

use super::InMemory;
use crate::{BreakRefused, DebugStop, Debugger, Event, QmpError, Stepping, write_ram};

/// What a debugger sees and has set.
pub struct Debugged {
    /// Every processor's state.
    pub state: CpuState,
    /// Breakpoints and watchpoints.
    pub breaks: Breaks,
    /// Why the machine is said to have stopped.
    pub stop: Option<DebugStop>,
    /// How the first processor was to go on.
    pub resumed: Resume,
    /// Whether the end of the process was asked for.
    pub killed: bool,
}

impl Debugged {
    pub(super) fn new() -> Self {
        Self {
            state: CpuState::power_on(0, true, 0),
            breaks: Breaks::new(),
            stop: None,
            resumed: Resume::Run,
            killed: false,
        }
    }
}

impl<H: Host> Debugger for InMemory<'_, H> {
    fn change_processor(
        &mut self,
        _index: u32,
        change: &mut dyn FnMut(&mut CpuState) -> bool,
    ) -> bool {
        let mut state = self.debugged.state.clone();
        if !change(&mut state) {
            return true;
        }
        let valid = state.validate().is_ok();
        if valid {
            self.registers = Registers::from(&state);
            self.debugged.state = state;
        }
        valid
    }

    fn write_ram(&mut self, gpa: u64, from: &[u8]) -> bool {
        write_ram(&self.machine, gpa, from)
    }

    fn set_break(&mut self, _cpu: u32, what: Break) -> Result<(), BreakRefused> {
        self.debugged.breaks.insert(what).map_err(|_| BreakRefused)
    }

    fn remove_break(&mut self, what: Break) {
        self.debugged.breaks.remove(what);
    }

    fn clear_breaks(&mut self) {
        self.debugged.breaks.clear();
    }

    fn stepping(&self) -> Stepping {
        Stepping {
            no_interrupts: true,
            no_timers: true,
        }
    }

    fn resume_processors(&mut self, _stepping: Stepping, resume: &dyn Fn(u32) -> Resume) -> bool {
        if self.run_state.needs_reset() {
            return false;
        }
        self.debugged.resumed = resume(0);
        if self.run_state != RunState::Running {
            self.run_state = RunState::Running;
            self.happen(Event::Resume);
        }
        true
    }

    fn take_debug_stop(&mut self) -> Option<DebugStop> {
        self.debugged.stop.take()
    }

    fn kill(&mut self) {
        self.debugged.killed = true;
    }

    // There are no devices.
    fn serve_debugger(&mut self, device: &[u8]) -> Result<(), QmpError> {
        match device {
            b"none" => Ok(()),
            _ => Err(QmpError::generic(format_args!("there are no devices"))),
        }
    }
}
