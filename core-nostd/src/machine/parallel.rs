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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::Width;
    use crate::machine::Config;
    use crate::machine::tests::Recorder;
    use crate::memory::ArrayRam;

    fn values(set: &[(&str, &str)]) -> PropertyValues {
        let mut values = PropertyValues::new(&parallel::CLASS);
        for (name, text) in set {
            values.set(name, text).unwrap();
        }
        values
    }

    #[test]
    fn ports_stand_where_they_are_told_to() {
        let ram = ArrayRam::<0x1000>::new();
        let mut machine = Machine::new(Config::new(&ram, 0x1000)).unwrap();
        let mut plug = |set: &[(&str, &str)]| machine.plug(&values(set));
        assert_eq!(plug(&[("irq", "16")]), Err(DeviceError::Property("irq")));
        assert_eq!(plug(&[("index", "3")]), Err(DeviceError::ParallelMax));
        let second = Ok(Some(ConsoleId(FIRST_CONSOLE + 1)));
        assert_eq!(plug(&[("index", "1"), ("iobase", "0x268")]), second);
        assert_eq!(plug(&[("index", "1")]), Err(DeviceError::ParallelTaken(1)));
        assert_eq!(plug(&[]), Ok(Some(ConsoleId(FIRST_CONSOLE))));
        assert_eq!(plug(&[]), Ok(Some(ConsoleId(FIRST_CONSOLE + 2))));
        assert_eq!(plug(&[]), Err(DeviceError::ParallelMax));
        let mut host = Recorder::default();
        for port in [0x269, 0x379, 0x3bd] {
            let status = machine.pio_read(&mut host, 0, port, Width::Byte);
            assert_eq!(status, 0xd9, "{port:#x}");
        }
        assert_eq!(machine.pio_read(&mut host, 0, 0x279, Width::Byte), 0xff);
    }

    #[test]
    fn a_byte_waits_for_its_console() {
        let ram = ArrayRam::<0x1000>::new();
        let mut machine = Machine::new(Config::new(&ram, 0x1000)).unwrap();
        let console = machine.plug(&values(&[])).unwrap().unwrap();
        let mut host = Recorder {
            room: Some(0),
            ..Recorder::default()
        };
        for (port, value) in [(0x378, 0x41), (0x37a, 0x0d), (0x37a, 0x0c)] {
            machine.pio_write(&mut host, 0, port, Width::Byte, value);
        }
        assert_eq!(machine.pio_read(&mut host, 0, 0x379, Width::Byte), 0x59);
        assert_eq!(machine.pio_read(&mut host, 0, 0x379, Width::Byte), 0x59);
        host.room = None;
        machine.console_writable(&mut host, 0, console);
        assert_eq!(host.console, [(console.0, b'A')]);
        assert_eq!(host.lost, 0);
        assert_eq!(machine.pio_read(&mut host, 0, 0x379, Width::Byte), 0x59);
        assert_eq!(machine.pio_read(&mut host, 0, 0x379, Width::Byte), 0x19);
        assert_eq!(machine.pio_read(&mut host, 0, 0x379, Width::Byte), 0xd9);
    }
}
