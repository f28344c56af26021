//! The parallel port of a PC at 378h, 278h or 3BCh, with a printer on it that passes bytes on to a console.
//!
//! Follows the IBM PC AT technical reference's printer adapter, and Centronics' handshake as QEMU's `isa-parallel` shows it on
//! plain character devices. The guest puts a byte on the data lines and pulses STROBE while the printer is selected; the
//! printer is busy then, and each look at the status takes it a step on: busy, acknowledging, ready. The interrupt
//! rises with a write to the control lines that ends STROBE, or finds it ended, if interrupts were wanted before. Setting INIT
//! low makes the printer ready at once.
//!
//! Deliberate difference: QEMU finds the registers of a port by the lowest three bits of their numbers, so that those at 3BCh
//! begin at 3C0h there.
//!
//! A printer whose console does not take the byte stays busy until it does, and hears no strobe meanwhile: no byte is lost.
//!
//! Not modelled: input from the other side (the data lines read as ones in that direction), and EPP and ECP, whose registers
//! read as ones: QEMU has EPP on a host's own parallel port alone.

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

use super::class::{DeviceClass, Property, PropertyKind, Value};
use super::{Context, PortDevice, Width};
use crate::irq::IrqLine;
use crate::state::{SavedState, StateError};
use crate::trace::events as trace;

/// Ports from the first one on; those behind the third one read as ones.
pub const PORTS: u16 = 8;

/// The interrupt unless `irq` says otherwise.
pub const IRQ: u8 = 7;

/// What `-device isa-parallel` takes.
pub static CLASS: DeviceClass = DeviceClass {
    name: "isa-parallel",
    parent: "isa-device",
    bus: Some("ISA"),
    doc: "parallel port",
    user_creatable: true,
    properties: &[
        Property {
            name: "chardev",
            kind: PropertyKind::Chardev,
            default: Value::Unset,
            doc: "character device that the bytes go to",
        },
        Property {
            name: "index",
            kind: PropertyKind::Uint32,
            default: Value::Uint(u32::MAX as u64),
            doc: "number of the port, from 0; the next free one by default",
        },
        Property {
            name: "iobase",
            kind: PropertyKind::Uint32,
            default: Value::Uint(u32::MAX as u64),
            doc: "first port; by its number by default",
        },
        Property {
            name: "irq",
            kind: PropertyKind::Uint32,
            default: Value::Uint(IRQ as u64),
            doc: "interrupt",
        },
    ],
};

/// Offset of the data lines.
const DATA: u16 = 0;
/// Offset of the printer's lines.
const STATUS: u16 = 1;
/// Offset of the lines to the printer.
const CONTROL: u16 = 2;

bitflags! {
    /// The printer's lines. Those with a bar are low where they say something.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Status: u8 {
        /// A transfer took too long; as on a port with EPP, until the printer is reset.
        const TIMEOUT = 1 << 0;
        /// No fault.
        const NOT_FAULT = 1 << 3;
        /// The printer is selected.
        const SELECT = 1 << 4;
        /// It does not acknowledge.
        const NOT_ACKNOWLEDGE = 1 << 6;
        /// It is not busy.
        const NOT_BUSY = 1 << 7;
    }
}

bitflags! {
    /// The lines to the printer, and two that stay in the adapter.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Control: u8 {
        /// The data lines have a byte.
        const STROBE = 1 << 0;
        /// The printer need not reset itself.
        const NOT_INIT = 1 << 2;
        /// The printer is asked to listen.
        const SELECT = 1 << 3;
        /// Interrupts are wanted.
        const INTERRUPT = 1 << 4;
        /// The data lines are read.
        const DIRECTION = 1 << 5;
        /// Bits that are always set.
        const FIXED = 3 << 6;
        const _ = !0;
    }
}

/// What the printer shows when it has nothing to do.
const READY: Status = Status::NOT_BUSY
    .union(Status::NOT_ACKNOWLEDGE)
    .union(Status::SELECT)
    .union(Status::NOT_FAULT);

/// What the port shows after power-on.
const RESET_CONTROL: Control = Control::SELECT
    .union(Control::NOT_INIT)
    .union(Control::FIXED);

/// A parallel port with its printer.
#[derive(Debug)]
pub struct Parallel {
    irq: IrqLine,
    state: State,
}

/// Guest-visible state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    data: u8,
    status: Status,
    control: Control,
    interrupt: bool,
    /// The byte that the console has not taken yet.
    waiting: Option<u8>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            data: 0xff,
            status: READY.union(Status::TIMEOUT),
            control: RESET_CONTROL,
            interrupt: false,
            waiting: None,
        }
    }
}

/// Saved form of [`Parallel`], version 1.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedParallel {
    data: u8,
    status: u8,
    control: u8,
    interrupt: bool,
    waiting: Option<u8>,
}

impl Parallel {
    /// A port after power-on.
    pub fn new(irq: IrqLine) -> Self {
        Self {
            irq,
            state: State::default(),
        }
    }

    /// The state after power-on. A byte that the console has not taken is lost.
    pub fn reset(&mut self, cx: &mut Context<'_>) {
        self.state = State::default();
        self.drive(cx);
    }

    /// The byte that the console is to take.
    pub fn transmitted(&self) -> Option<u8> {
        self.state.waiting
    }

    /// The console has taken the byte.
    pub fn sent(&mut self) {
        self.state.waiting = None;
    }

    fn drive(&self, cx: &mut Context<'_>) {
        cx.lines.set(self.irq, self.state.interrupt);
    }

    fn read_status(&mut self, cx: &mut Context<'_>) -> Status {
        let State {
            status,
            control,
            waiting,
            ..
        } = self.state;
        self.state.interrupt = false;
        let strobe = control.contains(Control::STROBE);
        if !status.contains(Status::NOT_BUSY) && !strobe && waiting.is_none() {
            // The printer is a step further at the next look.
            self.state.status = match status.contains(Status::NOT_ACKNOWLEDGE) {
                true => status.difference(Status::NOT_ACKNOWLEDGE),
                false => status.union(Status::NOT_ACKNOWLEDGE | Status::NOT_BUSY),
            };
        }
        self.drive(cx);
        status
    }

    fn write_control(&mut self, cx: &mut Context<'_>, value: u8) {
        let state = &mut self.state;
        let control = Control::from_bits_retain(value).union(Control::FIXED);
        if !control.contains(Control::NOT_INIT) {
            state.status = READY;
        } else if control.contains(Control::SELECT) {
            if control.contains(Control::STROBE) {
                let begins = !state.control.contains(Control::STROBE);
                state.status.remove(Status::NOT_BUSY);
                if begins && state.waiting.is_none() {
                    state.waiting = Some(state.data);
                }
            } else if state.control.contains(Control::INTERRUPT) {
                state.interrupt = true;
            }
        }
        state.control = control;
        self.drive(cx);
    }
}

impl PortDevice for Parallel {
    fn pio_read(&mut self, cx: &mut Context<'_>, offset: u16, _width: Width) -> u32 {
        let value = match offset {
            DATA if self.state.control.contains(Control::DIRECTION) => 0xff,
            DATA => self.state.data,
            STATUS => self.read_status(cx).bits(),
            CONTROL => self.state.control.bits(),
            _ => 0xff,
        };
        trace::parallel_ioport_read(offset, value, b"SW");
        value.into()
    }

    fn pio_write(&mut self, cx: &mut Context<'_>, offset: u16, _width: Width, value: u32) {
        let value = value as u8;
        trace::parallel_ioport_write(offset, value, b"SW");
        match offset {
            DATA => self.state.data = value,
            CONTROL => self.write_control(cx, value),
            _ => {}
        }
    }
}

impl SavedState for Parallel {
    const NAME: &'static str = CLASS.name;
    const VERSION: u16 = 1;
    type Saved = SavedParallel;

    fn save(&self) -> SavedParallel {
        let State {
            data,
            status,
            control,
            interrupt,
            waiting,
        } = self.state;
        SavedParallel {
            data,
            status: status.bits(),
            control: control.bits(),
            interrupt,
            waiting,
        }
    }

    fn load(&mut self, saved: SavedParallel, cx: &mut Context<'_>) -> Result<(), StateError> {
        let SavedParallel {
            data,
            status,
            control,
            interrupt,
            waiting,
        } = saved;
        let control = Control::from_bits_retain(control);
        if !control.contains(Control::FIXED) {
            return Err(StateError::Invalid("control"));
        }
        self.state = State {
            data,
            status: Status::from_bits(status).ok_or(StateError::Invalid("status"))?,
            control,
            interrupt,
            waiting,
        };
        self.drive(cx);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;
    use crate::state::{lifecycle_tests, load, save};

    const LINE: IrqLine = IrqLine::new(IRQ);

    lifecycle_tests!(Parallel, Parallel::new(LINE), |device, bench| {
        bench.out(device, DATA, b'A');
        bench.out(device, CONTROL, 0x0d);
    });

    #[test]
    fn a_strobe_sends_the_byte_once_and_the_printer_acknowledges() {
        let (mut bench, mut port) = (Bench::new(), Parallel::new(LINE));
        assert_eq!(bench.inb(&mut port, STATUS), 0xd9);
        bench.out(&mut port, DATA, b'A');
        bench.out(&mut port, CONTROL, 0x0d);
        bench.out(&mut port, CONTROL, 0x0d);
        assert_eq!(port.transmitted(), Some(b'A'));
        port.sent();
        bench.out(&mut port, CONTROL, 0x0d);
        assert_eq!(port.transmitted(), None);
        bench.out(&mut port, CONTROL, 0x0c);
        let status: [u8; 4] = core::array::from_fn(|_| bench.inb(&mut port, STATUS));
        assert_eq!(status, [0x59, 0x19, 0xd9, 0xd9]);
    }

    #[test]
    fn a_console_that_takes_nothing_keeps_the_printer_busy() {
        let (mut bench, mut port) = (Bench::new(), Parallel::new(LINE));
        for byte in *b"AB" {
            bench.out(&mut port, DATA, byte);
            bench.out(&mut port, CONTROL, 0x0d);
            bench.out(&mut port, CONTROL, 0x0c);
        }
        assert_eq!(bench.inb(&mut port, STATUS), 0x59);
        assert_eq!(bench.inb(&mut port, STATUS), 0x59);
        // Saved and loaded in between, the byte is still there.
        let mut bytes = [0; 64];
        let length = save(&port, &mut bytes).unwrap();
        let mut other = Parallel::new(LINE);
        load(&mut other, &bytes[..length], &mut bench.context()).unwrap();
        assert_eq!(other.transmitted(), Some(b'A'));
        other.sent();
        assert_eq!(bench.inb(&mut other, STATUS), 0x59);
        assert_eq!(bench.inb(&mut other, STATUS), 0x19);
        assert_eq!(bench.inb(&mut other, STATUS), 0xd9);
    }

    #[test]
    fn a_deselected_printer_hears_nothing() {
        let (mut bench, mut port) = (Bench::new(), Parallel::new(LINE));
        bench.out(&mut port, CONTROL, 0x05);
        assert_eq!(port.transmitted(), None);
        assert_eq!(bench.inb(&mut port, STATUS), 0xd9);
        // Without INIT it is reset, whatever else is asked of it.
        bench.out(&mut port, CONTROL, 0x09);
        assert_eq!(port.transmitted(), None);
        assert_eq!(bench.inb(&mut port, STATUS), 0xd8);
    }

    #[test]
    fn the_interrupt_lasts_until_the_status_is_read() {
        let (mut bench, mut port) = (Bench::new(), Parallel::new(LINE));
        bench.out(&mut port, CONTROL, 0x1c);
        bench.out(&mut port, CONTROL, 0x1d);
        assert!(!bench.lines.level(LINE));
        bench.out(&mut port, CONTROL, 0x0c);
        assert!(bench.lines.level(LINE));
        bench.inb(&mut port, STATUS);
        assert!(!bench.lines.level(LINE));
    }

    #[test]
    fn impossible_states_are_refused() {
        let (mut bench, mut port) = (Bench::new(), Parallel::new(LINE));
        for spoil in [
            (|saved: &mut SavedParallel| saved.status |= 2) as fn(&mut SavedParallel),
            |saved| saved.control &= !0x80,
        ] {
            let mut saved = port.save();
            spoil(&mut saved);
            assert!(port.load(saved, &mut bench.context()).is_err());
        }
    }
}
