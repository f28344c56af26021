//! What QMP commands do to the VM.

use thimble_core::devices::ShutdownCause;
use thimble_core::machine::RunState;
use thimble_monitor::{Event, KvmInfo, Owner, QmpError, Timestamp};

use super::{Vm, save};

impl Owner for Vm {
    fn run_state(&self) -> RunState {
        self.run_state
    }

    fn stop(&mut self) -> Result<(), QmpError> {
        if self.run_state == RunState::Running {
            self.halt(RunState::Paused);
        }
        Ok(())
    }

    fn cont(&mut self) -> Result<(), QmpError> {
        if self.run_state != RunState::Running {
            self.start();
        }
        Ok(())
    }

    fn system_reset(&mut self) -> Result<(), QmpError> {
        self.reset(ShutdownCause::HostQmpSystemReset);
        Ok(())
    }

    fn quit(&mut self) {
        self.shut_down(ShutdownCause::HostQmpQuit);
    }

    fn pmemsave(&mut self, address: u64, size: u64, filename: &[u8]) -> Result<(), QmpError> {
        save::physical_memory(&self.shared, address, size, filename)
    }

    fn name(&self) -> Option<&str> {
        self.settings.name.as_deref()
    }

    fn uuid(&self) -> [u8; 16] {
        self.settings.uuid
    }

    fn kvm(&self) -> KvmInfo {
        KvmInfo {
            enabled: self.settings.kvm,
            present: true,
        }
    }

    fn take_event(&mut self) -> Option<(Event, Timestamp)> {
        let event = self.events.pop_front()?;
        self.told.push_back(event);
        Some(event)
    }
}
