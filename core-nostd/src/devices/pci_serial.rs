//! PCI serial ports: `pci-serial`, `pci-serial-2x` and `pci-serial-4x` of the virtual PCI vendor 1B36h.
//!
//! One to four 16550A ([`super::serial`]) of eight ports each, one behind the other in the range of
//! base address register 0, which is I/O. INTA# is asserted as long as any of them asks for an
//! interrupt. Guests find it by its class, 0700h with programming interface 02h (16550
//! compatible), or by its IDs. Deliberate difference from QEMU's: none that a guest can see; what
//! each UART lacks is said there.

use serde::{Deserialize, Serialize};

use super::class::{DeviceClass, Property, PropertyKind, Value};
use super::serial::{self, Serial, SerialWiring};
use super::{Context, PortDevice, Width};
use crate::pci::config::SavedConfig;
use crate::pci::{BarKind, ConfigSpace, Identity, PciFunction};
use crate::state::{SavedState, StateError};
use crate::time::TimerId;

/// UARTs of one function at most.
pub const PORTS_MAX: usize = 4;

/// Programming interface: 16550 compatible.
const PROG_IF: u8 = 0x02;

/// Class code: communication, serial.
const CLASS_CODE: u32 = 0x0700;

const PROG_IF_PROPERTY: Property = Property {
    name: "prog_if",
    kind: PropertyKind::Uint8,
    default: Value::Uint(PROG_IF as u64),
    doc: "programming interface in the class code",
};

const fn line(name: &'static str) -> Property {
    Property {
        name,
        kind: PropertyKind::Chardev,
        default: Value::Unset,
        doc: "character device at the other end of a line",
    }
}

/// What `-device pci-serial` takes.
pub static CLASS: DeviceClass = DeviceClass {
    name: "pci-serial",
    parent: "pci-device",
    bus: Some("PCI"),
    doc: "PCI serial port",
    user_creatable: true,
    properties: &[
        Property {
            name: "baudbase",
            kind: PropertyKind::Uint32,
            default: Value::Uint(serial::BAUD_BASE as u64),
            doc: "bits a second at divisor 1",
        },
        line("chardev"),
        PROG_IF_PROPERTY,
    ],
};

/// What `-device pci-serial-2x` takes.
pub static CLASS_2X: DeviceClass = DeviceClass {
    name: "pci-serial-2x",
    parent: "pci-device",
    bus: Some("PCI"),
    doc: "two PCI serial ports",
    user_creatable: true,
    properties: &[line("chardev1"), line("chardev2"), PROG_IF_PROPERTY],
};

/// What `-device pci-serial-4x` takes.
pub static CLASS_4X: DeviceClass = DeviceClass {
    name: "pci-serial-4x",
    parent: "pci-device",
    bus: Some("PCI"),
    doc: "four PCI serial ports",
    user_creatable: true,
    properties: &[
        line("chardev1"),
        line("chardev2"),
        line("chardev3"),
        line("chardev4"),
        PROG_IF_PROPERTY,
    ],
};

/// How many UARTs a class has; 0 for a class of other devices.
pub fn ports_of(class: &DeviceClass) -> usize {
    match class.name {
        name if name == CLASS.name => 1,
        name if name == CLASS_2X.name => 2,
        name if name == CLASS_4X.name => 4,
        _ => 0,
    }
}

/// Serial ports on the PCI bus.
#[derive(Debug)]
pub struct PciSerial {
    config: ConfigSpace,
    ports: heapless::Vec<Serial, PORTS_MAX>,
}

/// Saved form, version 1.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    config: SavedConfig,
    ports: heapless::Vec<serial::Saved, PORTS_MAX>,
}

impl PciSerial {
    /// A function with a UART for each of `timeouts`, the timers of their receivers: 1, 2 or 4.
    /// `baud_base` is in bits a second at divisor 1.
    pub fn new(timeouts: &[TimerId], baud_base: u32, prog_if: u8) -> Self {
        let mut ports = heapless::Vec::new();
        for timeout in timeouts.iter().take(PORTS_MAX) {
            let wiring = SerialWiring {
                irq: None,
                receive_timeout: *timeout,
            };
            // There is room: see above.
            let _ = ports.push(Serial::new(wiring, baud_base));
        }
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x1b36,
            device: match ports.len() {
                0 | 1 => 0x0002,
                2 => 0x0003,
                _ => 0x0004,
            },
            revision: 1,
            class: CLASS_CODE << 8 | u32::from(prog_if),
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
            multifunction: false,
            interrupt_pin: 1,
        });
        config.allow_from(0x40);
        let size = u64::from(serial::PORTS) * ports.len().next_power_of_two() as u64;
        let fits = config.set_bar(0, BarKind::Io, size);
        debug_assert!(fits, "8 to 32 ports");
        Self { config, ports }
    }

    /// How many UARTs it has.
    pub fn ports(&self) -> usize {
        self.ports.len()
    }

    /// Bytes that the guest has sent by a UART, as [`Serial::transmitted`].
    pub fn transmitted(&self, port: usize) -> &[u8] {
        self.ports.get(port).map_or(&[], Serial::transmitted)
    }

    /// See [`Serial::sent`].
    pub fn sent(&mut self, cx: &mut Context<'_>, port: usize, count: usize) {
        if let Some(serial) = self.ports.get_mut(port) {
            serial.sent(cx, count);
        }
        self.update_intx();
    }

    /// See [`Serial::receive_room`].
    pub fn receive_room(&self, port: usize) -> usize {
        self.ports.get(port).map_or(0, Serial::receive_room)
    }

    /// See [`Serial::receive`].
    pub fn receive(&mut self, cx: &mut Context<'_>, port: usize, bytes: &[u8]) -> usize {
        let serial = self.ports.get_mut(port);
        let taken = serial.map_or(0, |serial| serial.receive(cx, bytes));
        self.update_intx();
        taken
    }

    /// The timer of one of the receivers has fired; others are ignored.
    pub fn timer(&mut self, cx: &mut Context<'_>, id: TimerId) {
        for serial in &mut self.ports {
            serial.timer(cx, id);
        }
        self.update_intx();
    }

    fn update_intx(&mut self) {
        self.config
            .set_intx(self.ports.iter().any(Serial::interrupt));
    }

    /// The UART at an offset of the range, and its register.
    fn port_at(&mut self, offset: u64) -> Option<(&mut Serial, u16)> {
        let ports = u64::from(serial::PORTS);
        let serial = self.ports.get_mut((offset / ports) as usize)?;
        Some((serial, (offset % ports) as u16))
    }
}

impl PciFunction for PciSerial {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn reset(&mut self, cx: &mut Context<'_>) {
        self.config.reset();
        for serial in &mut self.ports {
            serial.reset(cx);
        }
        self.update_intx();
    }

    fn widest(&self, _bar: usize) -> Width {
        Serial::WIDEST
    }

    fn bar_read(&mut self, cx: &mut Context<'_>, _bar: usize, offset: u64, width: Width) -> u64 {
        let Some((serial, register)) = self.port_at(offset) else {
            return width.ones();
        };
        let value = serial.pio_read(cx, register, width);
        self.update_intx();
        value.into()
    }

    fn bar_write(
        &mut self,
        cx: &mut Context<'_>,
        _bar: usize,
        offset: u64,
        width: Width,
        value: u64,
    ) {
        if let Some((serial, register)) = self.port_at(offset) {
            serial.pio_write(cx, register, width, value as u32);
            self.update_intx();
        }
    }
}

impl SavedState for PciSerial {
    const NAME: &'static str = CLASS.name;
    const VERSION: u16 = 1;
    type Saved = Saved;

    fn save(&self) -> Saved {
        let Self { config, ports } = self;
        Saved {
            config: config.save(),
            ports: ports.iter().map(SavedState::save).collect(),
        }
    }

    fn load(&mut self, saved: Saved, cx: &mut Context<'_>) -> Result<(), StateError> {
        let Saved { config, ports } = saved;
        if ports.len() != self.ports.len() {
            return Err(StateError::Invalid("ports"));
        }
        self.config.load(config)?;
        for (serial, saved) in self.ports.iter_mut().zip(ports) {
            serial.load(saved, cx)?;
        }
        self.update_intx();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;
    use crate::pci::config::assert_registers;
    use crate::state::lifecycle_tests;

    const TIMERS: [TimerId; 4] = [
        TimerId::new(9),
        TimerId::new(10),
        TimerId::new(11),
        TimerId::new(12),
    ];
    const IER: u64 = 1;
    const IIR: u64 = 2;
    const MCR: u64 = 4;
    const LSR: u64 = 5;

    fn device(ports: usize) -> PciSerial {
        PciSerial::new(&TIMERS[..ports], serial::BAUD_BASE, PROG_IF)
    }

    fn write(device: &mut PciSerial, bench: &mut Bench, offset: u64, value: u8) {
        device.bar_write(&mut bench.context(), 0, offset, Width::Byte, value.into());
    }

    fn read(device: &mut PciSerial, bench: &mut Bench, offset: u64) -> u8 {
        device.bar_read(&mut bench.context(), 0, offset, Width::Byte) as u8
    }

    lifecycle_tests!(PciSerial, device(2), |device, bench| {
        device.config_write(&mut bench.context(), 0x10, Width::Dword, 0xc000);
        write(device, bench, 8 + IER, 0x02);
    });

    /// Observed with QEMU 7.2.
    #[test]
    fn registers_after_power_on() {
        for (ports, id, bar) in [(1, 2, 0xfff9), (2, 3, 0xfff1), (4, 4, 0xffe1)] {
            let mut device = device(ports);
            let set = [
                (0x00, 0x0000_1b36 | id << 16),
                (0x08, 0x0700_0201),
                (0x10, 0x0000_0001),
                (0x2c, 0x1100_1af4),
                (0x3c, 0x0000_0100),
            ];
            assert_registers(&device, &set);
            let cx = &mut Bench::new();
            device.config_write(&mut cx.context(), 0x10, Width::Dword, u32::MAX);
            let value = device.config_read(0x10, Width::Dword);
            assert_eq!(value, 0xffff_0000 | bar);
            assert_eq!(device.ports(), ports);
        }
    }

    #[test]
    fn each_uart_has_its_own_registers_and_line() {
        let (mut device, mut bench) = (device(4), Bench::new());
        for port in 0..4 {
            write(&mut device, &mut bench, 8 * port as u64, b'a' + port);
            assert_eq!(device.transmitted(port.into()), [b'a' + port]);
        }
        device.sent(&mut bench.context(), 2, 1);
        assert!(device.transmitted(2).is_empty());
        assert_eq!(read(&mut device, &mut bench, 16 + LSR), 0x60);
        assert_eq!(read(&mut device, &mut bench, 24 + LSR), 0x00);
        assert_eq!(device.receive(&mut bench.context(), 1, b"xy"), 1);
        assert_eq!(read(&mut device, &mut bench, 8), b'x');
        assert_eq!(device.receive_room(1), 1);
        assert_eq!(device.receive_room(4), 0);
        assert_eq!(device.receive(&mut bench.context(), 4, b"z"), 0);
        assert!(device.transmitted(9).is_empty());
    }

    #[test]
    fn the_pin_is_high_while_any_asks() {
        let (mut device, mut bench) = (device(2), Bench::new());
        assert!(!device.config().intx());
        write(&mut device, &mut bench, IER, 0x02);
        write(&mut device, &mut bench, 8 + IER, 0x02);
        assert!(device.config().intx());
        assert_eq!(read(&mut device, &mut bench, IIR), 0x02);
        assert!(device.config().intx(), "the other one still does");
        assert_eq!(device.config_read(4, Width::Dword), 0x0008_0000);
        // Disabled in the command register.
        device.config_write(&mut bench.context(), 4, Width::Word, 0x400);
        assert!(!device.config().intx());
        assert_eq!(device.config_read(6, Width::Word), 0x0008);
        device.config_write(&mut bench.context(), 4, Width::Word, 0);
        assert_eq!(read(&mut device, &mut bench, 8 + IIR), 0x02);
        assert!(!device.config().intx());
        // Nothing of it goes to a line of its own.
        assert_eq!(bench.lines.take_change(), None);
    }

    #[test]
    fn receivers_time_out() {
        let (mut device, mut bench) = (device(2), Bench::new());
        write(&mut device, &mut bench, 8 + IIR, 0xc1);
        write(&mut device, &mut bench, 8 + MCR, 0x08);
        write(&mut device, &mut bench, 8 + IER, 0x01);
        assert_eq!(device.receive(&mut bench.context(), 1, b"q"), 1);
        assert!(!device.config().intx());
        bench.now = bench.timers.next_deadline().unwrap();
        let id = bench.timers.take_expired(bench.now).unwrap();
        assert_eq!(id, TIMERS[1]);
        device.timer(&mut bench.context(), id);
        assert!(device.config().intx());
    }

    #[test]
    fn loading_raises_the_pin_again() {
        let (mut device_, mut bench) = (device(1), Bench::new());
        write(&mut device_, &mut bench, IER, 0x02);
        let mut other = device(1);
        other.load(device_.save(), &mut bench.context()).unwrap();
        assert!(other.config().intx());
        let mut four = device(4);
        assert!(four.load(device_.save(), &mut bench.context()).is_err());
    }
}
