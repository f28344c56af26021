//! Parallel ports of a board: where they are, and who gets their bytes.

use super::board::{DeviceError, ISA_IRQS, port_of};
use super::{Host, Machine, PARALLEL_MAX, PCI_UARTS_MAX, Port, pci};
use crate::devices::ConsoleId;
use crate::devices::class::PropertyValues;
use crate::devices::parallel::{self, Parallel};
use crate::irq::IrqLine;

/// First ports by index, as on every PC.
const BASES: [u16; PARALLEL_MAX] = [0x378, 0x278, 0x3bc];

/// Consoles behind those of PCI serial functions.
const FIRST_CONSOLE: u8 = pci::FIRST_CONSOLE + PCI_UARTS_MAX as u8;

impl Machine<'_> {
    pub(super) fn plug_parallel(
        &mut self,
        values: &PropertyValues,
    ) -> Result<ConsoleId, DeviceError> {
        let index = match values.uint("index") {
            // All ones: the next free one.
            Some(index) if index != u64::from(u32::MAX) => index,
            _ => {
                let free = self.parallels.iter().position(Option::is_none);
                free.unwrap_or(PARALLEL_MAX) as u64
            }
        };
        let slot = usize::try_from(index).unwrap_or(PARALLEL_MAX);
        let Some(base) = BASES.get(slot) else {
            return Err(DeviceError::ParallelMax);
        };
        if self.parallels[slot].is_some() {
            return Err(DeviceError::ParallelTaken(index));
        }
        let base = port_of(values, *base)?;
        let irq = values.uint("irq").unwrap_or(parallel::IRQ.into());
        if irq >= ISA_IRQS {
            return Err(DeviceError::Property("irq"));
        }
        self.ports
            .add(base, parallel::PORTS, Port::Parallel(slot as u8))
            .map_err(DeviceError::Ports)?;
        self.parallels[slot] = Some(Parallel::new(IrqLine::new(irq as u8)));
        Ok(ConsoleId(FIRST_CONSOLE + slot as u8))
    }

    /// The parallel port whose bytes a console gets.
    pub(super) fn parallel_of(&self, console: ConsoleId) -> Option<u8> {
        let index = console.0.checked_sub(FIRST_CONSOLE)?;
        (usize::from(index) < PARALLEL_MAX).then_some(index)
    }

    /// The first port of a parallel port that stands where its number says.
    pub(super) fn parallel_base(console: ConsoleId) -> Option<(u8, u16)> {
        let index = console.0.checked_sub(FIRST_CONSOLE)?;
        Some((index, *BASES.get(usize::from(index))?))
    }

    /// Offers the host what a parallel port's printer has.
    pub(super) fn transmit_parallel<H: Host>(&mut self, host: &mut H, index: u8) {
        let port = self.parallels.get_mut(usize::from(index));
        if let Some(port) = port.and_then(Option::as_mut)
            && let Some(byte) = port.transmitted()
            && host.console_write(ConsoleId(FIRST_CONSOLE + index), &[byte]) > 0
        {
            port.sent();
        }
    }
}
