//! The VM, looked at by the human monitor.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use thimble_core::cpu::CpuState;
use thimble_core::devices::Width;
use thimble_core::machine::{Controllers, Machine, RunState};
use thimble_monitor::{Inspection, QmpError};

use super::owner::refused;
use super::snapshot::at;
use super::{Accelerator, Vm};
use crate::kvm::Irqchip;

/// What the kernel tells of this process' pages: 8 bytes each (Documentation/admin-guide/mm/pagemap.rst).
const PAGE_MAP: &str = "/proc/self/pagemap";
/// The page is in memory.
const PRESENT: u64 = 1 << 63;
/// Its frame's number; zero for those who may not know.
const FRAME: u64 = (1 << 55) - 1;

impl Inspection for Vm {
    fn look_at_processor(
        &mut self,
        index: u32,
        look: &mut dyn FnMut(&CpuState),
    ) -> Result<(), QmpError> {
        let Some(processors) = &self.processors else {
            // As after a reset.
            look(&CpuState::power_on(0, index == 0, 0));
            return Ok(());
        };
        if self.run_state == RunState::Running {
            processors.pause();
        }
        let state = processors.state(index);
        self.go_on();
        look(&*state.map_err(refused)?);
        Ok(())
    }

    fn look_at_machine(&mut self, look: &mut dyn FnMut(&Machine<'_>)) {
        look(&self.shared.lock().machine);
    }

    fn controllers(&mut self) -> Result<Controllers, QmpError> {
        let guarded = self.shared.lock();
        match self.shared.accelerator() {
            Accelerator::Kvm(kvm) if kvm.irqchip() == Irqchip::On => {
                let now = guarded.clock.now();
                drop(guarded);
                kvm.controllers(at(now))
                    .map_err(|error| QmpError::generic(format_args!("{error}")))
            }
            _ => Ok(guarded.machine.controllers()),
        }
    }

    fn port_read(&mut self, port: u16, width: Width) -> u32 {
        self.shared
            .call(|machine, bridge, now| machine.pio_read(bridge, now, port, width))
    }

    fn port_write(&mut self, port: u16, width: Width, value: u32) {
        self.shared
            .call(|machine, bridge, now| machine.pio_write(bridge, now, port, width, value));
    }

    fn host_physical(&self, address: usize) -> Result<u64, QmpError> {
        /// Of x86-64.
        const PAGE: u64 = 4096;
        let address = address as u64;
        let mut entry = [0; 8];
        File::open(PAGE_MAP)
            .and_then(|file| file.read_exact_at(&mut entry, address / PAGE * 8))
            .map_err(|error| QmpError::generic(format_args!("{PAGE_MAP}: {error}")))?;
        let entry = u64::from_ne_bytes(entry);
        if entry & PRESENT == 0 {
            return Err(QmpError::generic(format_args!("Page not present")));
        }
        match entry & FRAME {
            0 => Err(QmpError::generic(format_args!(
                "{PAGE_MAP} tells frames only to processes with CAP_SYS_ADMIN"
            ))),
            frame => Ok(frame * PAGE + address % PAGE),
        }
    }

    fn visit_chardevs(&self, visit: &mut dyn FnMut(&str, &str)) {
        let chardevs = &self.shared.lock().chardevs;
        for id in chardevs.ids() {
            let (label, connected) = (chardevs.label(id), chardevs.describe(id));
            if chardevs.is_shared(id) {
                visit(label, "mux");
                visit(&format!("{label}-base"), &connected);
            } else {
                visit(label, &connected);
            }
        }
    }
}
