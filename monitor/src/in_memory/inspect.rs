//! The machine in memory, looked at.

use thimble_core::cpu::CpuState;
use thimble_core::devices::Width;
use thimble_core::machine::{Controllers, Host, Machine};

use super::InMemory;
use crate::QmpError;
use crate::owner::Inspection;

impl<H: Host> Inspection for InMemory<'_, H> {
    /// The processor that debuggers see, with the registers that are shown of it.
    fn look_at_processor(
        &mut self,
        _index: u32,
        look: &mut dyn FnMut(&CpuState),
    ) -> Result<(), QmpError> {
        let registers = &self.registers;
        let mut state = self.debugged.state.clone();
        state.gpr = registers.gpr;
        state.rip = registers.rip;
        state.rflags = registers.rflags;
        [state.es, state.cs, state.ss, state.ds, state.fs, state.gs] = registers.segments;
        state.cr0 = registers.paging.cr0;
        state.cr3 = registers.paging.cr3;
        state.cr4 = registers.paging.cr4;
        state.efer = registers.paging.efer;
        look(&state);
        Ok(())
    }

    fn look_at_machine(&mut self, look: &mut dyn FnMut(&Machine<'_>)) {
        look(&self.machine);
    }

    fn controllers(&mut self) -> Result<Controllers, QmpError> {
        Ok(self.machine.controllers())
    }

    fn port_read(&mut self, port: u16, width: Width) -> u32 {
        self.machine.pio_read(&mut self.host, 0, port, width)
    }

    fn port_write(&mut self, port: u16, width: Width, value: u32) {
        self.machine
            .pio_write(&mut self.host, 0, port, width, value);
    }

    fn host_physical(&self, _address: usize) -> Result<u64, QmpError> {
        Err(QmpError::generic(format_args!(
            "There is no host whose addresses could be told"
        )))
    }

    fn visit_chardevs(&self, visit: &mut dyn FnMut(&str, &str)) {
        visit(Self::CHARDEV, "null");
    }
}
