//! What the human monitor looks at: processors and devices as they are at this instant.

use thimble_core::cpu::CpuState;
use thimble_core::devices::Width;
use thimble_core::machine::{Controllers, Machine};

use crate::QmpError;

/// Looks into the machine, and at its ports. Methods may hold the guest up for as long as a look takes, and not longer.
pub trait Inspection {
    /// Shows the whole state of a processor; `index` is below [`Owner::cpus`](crate::Owner::cpus).
    ///
    /// # Errors
    /// If the accelerator can't tell.
    fn look_at_processor(
        &mut self,
        index: u32,
        look: &mut dyn FnMut(&CpuState),
    ) -> Result<(), QmpError>;

    /// Shows the machine: its memory, its ports, what it is made of.
    fn look_at_machine(&mut self, look: &mut dyn FnMut(&Machine<'_>));

    /// The interrupt controllers and the interval timer, whoever models them.
    ///
    /// # Errors
    /// If the accelerator can't tell.
    fn controllers(&mut self) -> Result<Controllers, QmpError>;

    /// Reads a port, as a processor does.
    fn port_read(&mut self, port: u16, width: Width) -> u32;

    /// Writes a port, as a processor does.
    fn port_write(&mut self, port: u16, width: Width, value: u32);

    /// The host's physical address of a byte of this process.
    ///
    /// # Errors
    /// If the host doesn't tell, or has the byte nowhere in memory.
    fn host_physical(&self, address: usize) -> Result<u64, QmpError>;

    /// Visits character devices: their ids and what they are connected to.
    fn visit_chardevs(&self, visit: &mut dyn FnMut(&str, &str));
}
