//! Sleep: of a machine that nobody runs, and that sleeps when its state is set so.

use thimble_core::devices::acpi_pm::WakeReason;
use thimble_core::machine::{Host, RunState};

use super::InMemory;
use crate::Event;
use crate::owner::Sleep;

impl<H: Host> Sleep for InMemory<'_, H> {
    fn can_sleep(&self) -> bool {
        self.machine.can_sleep()
    }

    fn wake(&mut self) {
        self.machine.wake(&mut self.host, 0, WakeReason::Button);
        self.run_state = RunState::Running;
        self.happen(Event::Wakeup);
    }
}
