//! 16550A UART, as on a PC's COM ports.
//!
//! It follows National Semiconductor's PC16550D data sheet (1995); where the sheet leaves a choice
//! or QEMU departs from it in a way that a guest can see, it does as QEMU 7.2 was observed to do:
//! OUT2 does not gate the interrupt, the modem status register has no delta bits in loopback, a
//! break that the guest sends is not heard in loopback, and switching the FIFOs on or off raises
//! the transmitter interrupt.
//!
//! The model does no I/O. It is a byte sink ([`Serial::receive`]) and a byte source
//! ([`Serial::transmitted`], [`Serial::sent`]) with the chip's own registers as flow control:
//! bytes that nobody takes stay in the transmitter, which shows as not empty until they are taken. A byte
//! that is taken at once leaves no time in between, so a guest never waits for a baud rate.
//!
//! Not modelled: the duration of characters on the line, except for the receiver's time-out;
//! parity and framing errors, which a byte channel can not have; DMA signalling (RXRDY and TXRDY);
//! a break sent by the guest is shown by [`Serial::sends_break`] only; waking the machine.

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

use super::class::{DeviceClass, Property, PropertyKind, Value};
use super::{Context, PortDevice, Width};
use crate::irq::IrqLine;
use crate::state::{SavedState, StateError};
use crate::time::{SECOND, TimerId};
use crate::trace::events as trace;

/// Ports that it takes.
pub const PORTS: u16 = 8;

/// Bytes in each FIFO.
pub const FIFO_SIZE: usize = 16;

/// Bits a second at divisor 1, for the usual 1.8432 MHz crystal.
pub const BAUD_BASE: u32 = 115_200;

/// What traces tell of a divisor of 0, which divides nothing: what QEMU says.
const RATE_WITHOUT_DIVISOR: u32 = 3500;

/// What `-device isa-serial` takes.
pub static CLASS: DeviceClass = DeviceClass {
    name: "isa-serial",
    parent: "isa-device",
    bus: Some("ISA"),
    doc: "16550A serial port",
    user_creatable: true,
    properties: &[
        Property {
            name: "baudbase",
            kind: PropertyKind::Uint32,
            default: Value::Uint(BAUD_BASE as u64),
            doc: "bits a second at divisor 1",
        },
        Property {
            name: "chardev",
            kind: PropertyKind::Chardev,
            default: Value::Unset,
            doc: "character device at the other end of the line",
        },
        Property {
            name: "index",
            kind: PropertyKind::Uint32,
            default: Value::Uint(u32::MAX as u64),
            doc: "COM port less 1, which gives iobase and irq; the next free one by default",
        },
        Property {
            name: "iobase",
            kind: PropertyKind::Uint32,
            default: Value::Uint(u32::MAX as u64),
            doc: "first port; by index by default",
        },
        Property {
            name: "irq",
            kind: PropertyKind::Uint32,
            default: Value::Uint(u32::MAX as u64),
            doc: "ISA interrupt; by index by default",
        },
    ],
};

// Offsets of registers.

/// Receiver buffer (read), transmitter holding (write), or divisor latch's low byte.
const DATA: u16 = 0;
/// Interrupt enable, or divisor latch's high byte.
const IER: u16 = 1;
/// Interrupt identification (read), FIFO control (write).
const IIR_FCR: u16 = 2;
/// Line control.
const LCR: u16 = 3;
/// Modem control.
const MCR: u16 = 4;
/// Line status.
const LSR: u16 = 5;
/// Modem status.
const MSR: u16 = 6;
/// Scratch.
const SCR: u16 = 7;

/// Interrupt identification: no interrupt is pending.
const IIR_NONE: u8 = 0x01;
/// Interrupt identification: modem status, the lowest priority.
const IIR_MODEM: u8 = 0x00;
/// Interrupt identification: transmitter holding register empty.
const IIR_THRE: u8 = 0x02;
/// Interrupt identification: received data available.
const IIR_RECEIVED: u8 = 0x04;
/// Interrupt identification: receiver line status, the highest priority.
const IIR_LINE: u8 = 0x06;
/// Interrupt identification: character time-out.
const IIR_TIMEOUT: u8 = 0x0c;
/// Interrupt identification: the FIFOs are enabled.
const IIR_FIFOS: u8 = 0xc0;

/// Characters without a receiver access until the time-out interrupt.
const TIMEOUT_CHARACTERS: u64 = 4;

/// Divisor after power-on: 9600 baud.
const DIVISOR_RESET: u16 = 12;

bitflags! {
    /// Interrupt enable register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct InterruptEnable: u8 {
        /// ERBFI: received data available.
        const RECEIVED = 1 << 0;
        /// ETBEI: transmitter holding register empty.
        const THRE = 1 << 1;
        /// ELSI: receiver line status.
        const LINE = 1 << 2;
        /// EDSSI: modem status.
        const MODEM = 1 << 3;
    }

    /// FIFO control register: the bits that are kept.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct FifoControl: u8 {
        /// FIFOs are on.
        const ENABLE = 1 << 0;
        /// Empties the receiver's FIFO; clears itself.
        const RESET_RECEIVER = 1 << 1;
        /// Empties the transmitter's FIFO; clears itself.
        const RESET_TRANSMITTER = 1 << 2;
        /// DMA mode select.
        const DMA = 1 << 3;
        /// Low bit of the receiver's trigger level.
        const TRIGGER_LOW = 1 << 6;
        /// High bit of the receiver's trigger level.
        const TRIGGER_HIGH = 1 << 7;
    }

    /// Line control register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct LineControl: u8 {
        /// Word length of 5 to 8 bits.
        const WORD_LENGTH = 3;
        /// Two stop bits.
        const STOP_BITS = 1 << 2;
        /// Parity enable.
        const PARITY = 1 << 3;
        /// Even parity select.
        const EVEN_PARITY = 1 << 4;
        /// Stick parity.
        const STICK_PARITY = 1 << 5;
        /// Set break.
        const BREAK = 1 << 6;
        /// Divisor latch access bit.
        const DLAB = 1 << 7;
    }

    /// Modem control register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct ModemControl: u8 {
        /// Data terminal ready.
        const DTR = 1 << 0;
        /// Request to send.
        const RTS = 1 << 1;
        /// OUT1.
        const OUT1 = 1 << 2;
        /// OUT2.
        const OUT2 = 1 << 3;
        /// Loopback.
        const LOOP = 1 << 4;
    }

    /// Line status register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct LineStatus: u8 {
        /// DR: data ready.
        const DATA_READY = 1 << 0;
        /// OE: overrun error.
        const OVERRUN = 1 << 1;
        /// PE: parity error.
        const PARITY = 1 << 2;
        /// FE: framing error.
        const FRAMING = 1 << 3;
        /// BI: break interrupt.
        const BREAK = 1 << 4;
        /// THRE: transmitter holding register empty.
        const THRE = 1 << 5;
        /// TEMT: transmitter empty.
        const TEMT = 1 << 6;
        /// What raises the receiver line status interrupt.
        const ERRORS = 0x1e;
        /// THRE and TEMT.
        const EMPTY = 0x60;
    }

    /// Modem status register, whose upper half is the modem's inputs: see [`Serial::set_modem`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ModemStatus: u8 {
        /// Clear to send has changed.
        const DCTS = 1 << 0;
        /// Data set ready has changed.
        const DDSR = 1 << 1;
        /// Ring indicator has ended.
        const TERI = 1 << 2;
        /// Data carrier detect has changed.
        const DDCD = 1 << 3;
        /// Clear to send.
        const CTS = 1 << 4;
        /// Data set ready.
        const DSR = 1 << 5;
        /// Ring indicator.
        const RI = 1 << 6;
        /// Data carrier detect.
        const DCD = 1 << 7;
        /// What raises the modem status interrupt.
        const DELTAS = 0x0f;
    }
}

impl FifoControl {
    /// What stays in the register.
    const KEPT: Self = Self::ENABLE
        .union(Self::DMA)
        .union(Self::TRIGGER_LOW)
        .union(Self::TRIGGER_HIGH);

    /// Bytes in the receiver's FIFO that raise the interrupt.
    const fn trigger(self) -> u8 {
        match self.bits() >> 6 {
            0 => 1,
            1 => 4,
            2 => 8,
            _ => 14,
        }
    }
}

/// What a serial port is connected to.
#[derive(Clone, Copy, Debug)]
pub struct SerialWiring {
    /// Its interrupt; none where what it is part of asks [`Serial::interrupt`] after each call.
    pub irq: Option<IrqLine>,
    /// Its timer for the receiver's character time-out.
    pub receive_timeout: TimerId,
}

/// A 16550A UART.
#[derive(Debug)]
pub struct Serial {
    baud_base: u32,
    wiring: SerialWiring,
    state: State,
}

/// A FIFO: the oldest byte comes first.
#[derive(Clone, Copy, Debug, Default)]
struct Fifo {
    bytes: [u8; FIFO_SIZE],
    length: u8,
}

impl Fifo {
    fn as_slice(&self) -> &[u8] {
        self.bytes
            .get(..usize::from(self.length))
            .unwrap_or_default()
    }

    /// Adds a byte and says whether there was room.
    fn push(&mut self, byte: u8) -> bool {
        let slot = self.bytes.get_mut(usize::from(self.length));
        let room = slot.is_some();
        if let Some(slot) = slot {
            *slot = byte;
            self.length += 1;
        }
        room
    }

    /// Takes `count` bytes, or all where there are fewer, from the front.
    fn drop_front(&mut self, count: usize) {
        let count = count.min(self.length.into());
        self.bytes.copy_within(count.., 0);
        self.length -= count as u8;
    }

    fn pop(&mut self) -> Option<u8> {
        let byte = self.as_slice().first().copied();
        self.drop_front(1);
        byte
    }

    fn clear(&mut self) {
        self.length = 0;
    }
}

/// All that the guest sees.
#[derive(Clone, Copy, Debug)]
struct State {
    /// Receiver buffer register, used while the FIFOs are off.
    rbr: u8,
    receiver: Fifo,
    /// Bytes that were written and not yet taken; one at most while the FIFOs are off.
    transmitter: Fifo,
    ier: InterruptEnable,
    fcr: FifoControl,
    lcr: LineControl,
    mcr: ModemControl,
    lsr: LineStatus,
    msr: ModemStatus,
    scr: u8,
    divisor: u16,
    /// The transmitter interrupt is due: it has become empty and nobody has asked why.
    thre_pending: bool,
    /// The character time-out has passed.
    timeout_pending: bool,
    /// When the character time-out passes.
    timeout_at: Option<u64>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            rbr: 0,
            receiver: Fifo::default(),
            transmitter: Fifo::default(),
            ier: InterruptEnable::empty(),
            fcr: FifoControl::empty(),
            lcr: LineControl::empty(),
            mcr: ModemControl::OUT2,
            lsr: LineStatus::EMPTY,
            msr: ModemStatus::CTS
                .union(ModemStatus::DSR)
                .union(ModemStatus::DCD),
            scr: 0,
            divisor: DIVISOR_RESET,
            thre_pending: false,
            timeout_pending: false,
            timeout_at: None,
        }
    }
}

/// Saved form, version 1. Registers hold the data sheet's bits.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    rbr: u8,
    receiver: heapless::Vec<u8, FIFO_SIZE>,
    transmitter: heapless::Vec<u8, FIFO_SIZE>,
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    lsr: u8,
    msr: u8,
    scr: u8,
    divisor: u16,
    thre_pending: bool,
    timeout_pending: bool,
    timeout_at: Option<u64>,
}

impl Serial {
    /// A port after power-on, of a modem that is ready. `baud_base` is in bits a second at
    /// divisor 1: [`BAUD_BASE`] on PCs.
    pub fn new(wiring: SerialWiring, baud_base: u32) -> Self {
        Self {
            baud_base,
            wiring,
            state: State::default(),
        }
    }

    /// Power-on state; bytes on their way in and out are lost.
    pub fn reset(&mut self, cx: &mut Context<'_>) {
        self.state = State::default();
        cx.timers.disarm(self.wiring.receive_timeout);
        self.update_irq(cx);
    }

    /// Bytes that the guest has sent, oldest first: offer them to the host after each access.
    #[inline]
    pub fn transmitted(&self) -> &[u8] {
        self.state.transmitter.as_slice()
    }

    /// The host has taken the first `count` bytes of [`Serial::transmitted`].
    pub fn sent(&mut self, cx: &mut Context<'_>, count: usize) {
        let state = &mut self.state;
        if count == 0 || state.transmitter.length == 0 {
            return;
        }
        state.transmitter.drop_front(count);
        if state.transmitter.length == 0 {
            state.lsr |= LineStatus::EMPTY;
            state.thre_pending = true;
            self.update_irq(cx);
        }
    }

    /// Bytes that [`Serial::receive`] takes now. None in loopback, which cuts the line off: the
    /// host keeps its bytes until the guest has left it.
    pub fn receive_room(&self) -> usize {
        let state = &self.state;
        if state.mcr.contains(ModemControl::LOOP) {
            0
        } else if state.fcr.contains(FifoControl::ENABLE) {
            FIFO_SIZE - state.receiver.as_slice().len()
        } else {
            usize::from(!state.lsr.contains(LineStatus::DATA_READY))
        }
    }

    /// Bytes arrive on the line. Returns how many were taken, as far as there is room.
    pub fn receive(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.receive_room());
        trace::serial_receive(bytes.len(), count);
        for byte in bytes.iter().take(count) {
            self.shift_in(*byte);
        }
        if count != 0 {
            self.restart_timeout(cx);
            self.update_irq(cx);
        }
        count
    }

    /// The line was held in a break, which arrives as a zero with the break bit.
    pub fn receive_break(&mut self, cx: &mut Context<'_>) {
        if self.state.mcr.contains(ModemControl::LOOP) {
            return;
        }
        self.shift_in(0);
        self.state.lsr |= LineStatus::BREAK;
        self.restart_timeout(cx);
        self.update_irq(cx);
    }

    /// Whether the guest holds the line in a break.
    pub const fn sends_break(&self) -> bool {
        self.state.lcr.contains(LineControl::BREAK)
    }

    /// The modem's outputs: data terminal ready, request to send.
    pub const fn dtr_rts(&self) -> (bool, bool) {
        let mcr = self.state.mcr;
        (
            mcr.contains(ModemControl::DTR),
            mcr.contains(ModemControl::RTS),
        )
    }

    /// The modem's inputs, in the upper half of `inputs`, are now these.
    pub fn set_modem(&mut self, cx: &mut Context<'_>, inputs: ModemStatus) {
        let inputs = inputs.difference(ModemStatus::DELTAS);
        let old = self.state.msr;
        let changed = old ^ inputs;
        let mut deltas = old & ModemStatus::DELTAS;
        deltas.set(
            ModemStatus::DCTS,
            changed.contains(ModemStatus::CTS) || deltas.contains(ModemStatus::DCTS),
        );
        deltas.set(
            ModemStatus::DDSR,
            changed.contains(ModemStatus::DSR) || deltas.contains(ModemStatus::DDSR),
        );
        let ring_ended = old.contains(ModemStatus::RI) && !inputs.contains(ModemStatus::RI);
        deltas.set(
            ModemStatus::TERI,
            ring_ended || deltas.contains(ModemStatus::TERI),
        );
        deltas.set(
            ModemStatus::DDCD,
            changed.contains(ModemStatus::DCD) || deltas.contains(ModemStatus::DDCD),
        );
        self.state.msr = inputs | deltas;
        self.update_irq(cx);
    }

    /// The timer has fired.
    pub fn timer(&mut self, cx: &mut Context<'_>, id: TimerId) {
        if id != self.wiring.receive_timeout || self.state.timeout_at.is_none() {
            return;
        }
        self.state.timeout_at = None;
        if self.state.receiver.length != 0 {
            self.state.timeout_pending = true;
            self.update_irq(cx);
        }
    }

    /// One character arrives, from the line or through loopback.
    fn shift_in(&mut self, byte: u8) {
        let state = &mut self.state;
        if state.fcr.contains(FifoControl::ENABLE) {
            // A character that finds the FIFO full is lost; one that finds the buffer register full
            // replaces what is there.
            if !state.receiver.push(byte) {
                state.lsr |= LineStatus::OVERRUN;
            }
        } else {
            if state.lsr.contains(LineStatus::DATA_READY) {
                state.lsr |= LineStatus::OVERRUN;
            }
            state.rbr = byte;
        }
        state.lsr |= LineStatus::DATA_READY;
    }

    /// Starts the character time-out anew, or stops it where there is nothing to read.
    fn restart_timeout(&mut self, cx: &mut Context<'_>) {
        let state = &mut self.state;
        if state.fcr.contains(FifoControl::ENABLE) && state.receiver.length != 0 {
            let deadline = cx
                .now
                .saturating_add(TIMEOUT_CHARACTERS * character(self.baud_base, state));
            state.timeout_at = Some(deadline);
            cx.timers.arm(self.wiring.receive_timeout, deadline);
        } else if state.timeout_at.take().is_some() {
            cx.timers.disarm(self.wiring.receive_timeout);
        }
    }

    /// The interrupt identification register's low half: the most urgent interrupt.
    fn pending(&self) -> u8 {
        let state = &self.state;
        let ier = state.ier;
        let filled = !state.fcr.contains(FifoControl::ENABLE)
            || state.receiver.length >= state.fcr.trigger();
        if ier.contains(InterruptEnable::LINE) && state.lsr.intersects(LineStatus::ERRORS) {
            IIR_LINE
        } else if ier.contains(InterruptEnable::RECEIVED) && state.timeout_pending {
            IIR_TIMEOUT
        } else if ier.contains(InterruptEnable::RECEIVED)
            && state.lsr.contains(LineStatus::DATA_READY)
            && filled
        {
            IIR_RECEIVED
        } else if ier.contains(InterruptEnable::THRE) && state.thre_pending {
            IIR_THRE
        } else if ier.contains(InterruptEnable::MODEM) && state.msr.intersects(ModemStatus::DELTAS)
        {
            IIR_MODEM
        } else {
            IIR_NONE
        }
    }

    /// Whether it asks for an interrupt.
    pub fn interrupt(&self) -> bool {
        self.pending() != IIR_NONE
    }

    fn update_irq(&mut self, cx: &mut Context<'_>) {
        let pending = self.pending();
        trace::serial_update_irq(pending);
        if let Some(irq) = self.wiring.irq {
            cx.lines.set(irq, pending != IIR_NONE);
        }
    }

    fn set_divisor(&mut self, divisor: u16) {
        self.state.divisor = divisor;
        self.tell_parameters();
    }

    fn set_line_control(&mut self, lcr: LineControl) {
        self.state.lcr = lcr;
        self.tell_parameters();
    }

    fn tell_parameters(&self) {
        let State { lcr, divisor, .. } = self.state;
        let parity = match lcr {
            lcr if !lcr.contains(LineControl::PARITY) => b'N',
            lcr if lcr.contains(LineControl::EVEN_PARITY) => b'E',
            _ => b'O',
        };
        let word = 5 + (lcr & LineControl::WORD_LENGTH).bits();
        let stop = 1 + u8::from(lcr.contains(LineControl::STOP_BITS));
        let rate = match divisor {
            0 => RATE_WITHOUT_DIVISOR,
            divisor => self.baud_base / u32::from(divisor),
        };
        trace::serial_update_parameters(rate, parity, word, stop);
    }

    /// The guest hands a byte to the transmitter.
    #[inline]
    fn transmit(&mut self, cx: &mut Context<'_>, byte: u8) {
        let state = &mut self.state;
        state.thre_pending = false;
        if state.mcr.contains(ModemControl::LOOP) {
            self.update_irq(cx);
            self.shift_in(byte);
            self.state.thre_pending = true;
            self.restart_timeout(cx);
            self.update_irq(cx);
            return;
        }
        state.lsr -= LineStatus::EMPTY;
        if !state.fcr.contains(FifoControl::ENABLE) {
            state.transmitter.clear();
        } else if state.transmitter.length as usize == FIFO_SIZE {
            // The guest ignored THRE: the oldest byte is pushed out.
            state.transmitter.drop_front(1);
        }
        state.transmitter.push(byte);
        if !state.ier.is_empty() {
            self.update_irq(cx);
        }
    }

    fn read_data(&mut self, cx: &mut Context<'_>) -> u8 {
        let state = &mut self.state;
        let byte = if state.fcr.contains(FifoControl::ENABLE) {
            let byte = state.receiver.pop().unwrap_or(0);
            if state.receiver.length == 0 {
                state.lsr -= LineStatus::DATA_READY | LineStatus::BREAK;
            }
            byte
        } else {
            state.lsr -= LineStatus::DATA_READY | LineStatus::BREAK;
            state.rbr
        };
        state.timeout_pending = false;
        self.restart_timeout(cx);
        self.update_irq(cx);
        byte
    }

    fn write_ier(&mut self, cx: &mut Context<'_>, value: u8) {
        let state = &mut self.state;
        let new = InterruptEnable::from_bits_truncate(value);
        let changed = new ^ state.ier;
        state.ier = new;
        if changed.contains(InterruptEnable::THRE) {
            // Switching it on while the transmitter is empty asks for an interrupt at once.
            state.thre_pending =
                new.contains(InterruptEnable::THRE) && state.lsr.contains(LineStatus::THRE);
        }
        self.update_irq(cx);
    }

    fn write_fcr(&mut self, cx: &mut Context<'_>, value: u8) {
        let state = &mut self.state;
        let value = FifoControl::from_bits_truncate(value);
        let switched = (value ^ state.fcr).contains(FifoControl::ENABLE);
        let reset = value.contains(FifoControl::ENABLE);
        if switched || reset && value.contains(FifoControl::RESET_RECEIVER) {
            state.receiver.clear();
            state.lsr -= LineStatus::DATA_READY | LineStatus::BREAK;
            state.timeout_pending = false;
        }
        if switched || reset && value.contains(FifoControl::RESET_TRANSMITTER) {
            state.transmitter.clear();
            state.lsr |= LineStatus::EMPTY;
            state.thre_pending = true;
        }
        state.fcr = value & FifoControl::KEPT;
        if !reset {
            state.fcr = FifoControl::empty();
        }
        if state.receiver.length == 0 {
            self.restart_timeout(cx);
        }
        self.update_irq(cx);
    }

    fn read_iir(&mut self, cx: &mut Context<'_>) -> u8 {
        let pending = self.pending();
        if pending == IIR_THRE {
            self.state.thre_pending = false;
            self.update_irq(cx);
        }
        let fifos = self.state.fcr.contains(FifoControl::ENABLE);
        pending | if fifos { IIR_FIFOS } else { 0 }
    }

    fn read_lsr(&mut self, cx: &mut Context<'_>) -> u8 {
        let lsr = self.state.lsr;
        if lsr.intersects(LineStatus::ERRORS) {
            self.state.lsr -= LineStatus::ERRORS;
            self.update_irq(cx);
        }
        lsr.bits()
    }

    fn read_msr(&mut self, cx: &mut Context<'_>) -> u8 {
        let state = &mut self.state;
        if state.mcr.contains(ModemControl::LOOP) {
            let mut looped = ModemStatus::empty();
            looped.set(ModemStatus::CTS, state.mcr.contains(ModemControl::RTS));
            looped.set(ModemStatus::DSR, state.mcr.contains(ModemControl::DTR));
            looped.set(ModemStatus::RI, state.mcr.contains(ModemControl::OUT1));
            looped.set(ModemStatus::DCD, state.mcr.contains(ModemControl::OUT2));
            return looped.bits();
        }
        let msr = state.msr;
        if msr.intersects(ModemStatus::DELTAS) {
            state.msr -= ModemStatus::DELTAS;
            self.update_irq(cx);
        }
        msr.bits()
    }
}

/// Nanoseconds that a character takes: start bit, word, parity and stop bits.
fn character(baud_base: u32, state: &State) -> u64 {
    let lcr = state.lcr;
    let bits = 7
        + u64::from((lcr & LineControl::WORD_LENGTH).bits())
        + u64::from(lcr.contains(LineControl::PARITY))
        + u64::from(lcr.contains(LineControl::STOP_BITS));
    let divisor = u64::from(state.divisor.max(1));
    SECOND * bits * divisor / u64::from(baud_base.max(1))
}

impl PortDevice for Serial {
    fn pio_read(&mut self, cx: &mut Context<'_>, offset: u16, _width: Width) -> u32 {
        let dlab = self.state.lcr.contains(LineControl::DLAB);
        let value = match offset {
            DATA if dlab => self.state.divisor as u8,
            DATA => self.read_data(cx),
            IER if dlab => (self.state.divisor >> 8) as u8,
            IER => self.state.ier.bits(),
            IIR_FCR => self.read_iir(cx),
            LCR => self.state.lcr.bits(),
            MCR => self.state.mcr.bits(),
            LSR => self.read_lsr(cx),
            MSR => self.read_msr(cx),
            SCR => self.state.scr,
            _ => 0xff,
        };
        trace::serial_read(offset, value);
        value.into()
    }

    #[inline]
    fn pio_write(&mut self, cx: &mut Context<'_>, offset: u16, _width: Width, value: u32) {
        let value = value as u8;
        trace::serial_write(offset, value);
        let dlab = self.state.lcr.contains(LineControl::DLAB);
        match offset {
            DATA if !dlab => self.transmit(cx, value),
            DATA => self.set_divisor(self.state.divisor & 0xff00 | u16::from(value)),
            IER if dlab => {
                self.set_divisor(self.state.divisor & 0x00ff | u16::from(value) << 8);
            }
            IER => self.write_ier(cx, value),
            IIR_FCR => self.write_fcr(cx, value),
            LCR => self.set_line_control(LineControl::from_bits_truncate(value)),
            MCR => self.state.mcr = ModemControl::from_bits_truncate(value),
            SCR => self.state.scr = value,
            // The status registers' test writes have no effect.
            _ => {}
        }
    }
}

impl SavedState for Serial {
    const NAME: &'static str = CLASS.name;
    const VERSION: u16 = 1;
    type Saved = Saved;

    fn save(&self) -> Saved {
        let State {
            rbr,
            receiver,
            transmitter,
            ier,
            fcr,
            lcr,
            mcr,
            lsr,
            msr,
            scr,
            divisor,
            thre_pending,
            timeout_pending,
            timeout_at,
        } = &self.state;
        Saved {
            rbr: *rbr,
            receiver: receiver.as_slice().iter().copied().collect(),
            transmitter: transmitter.as_slice().iter().copied().collect(),
            ier: ier.bits(),
            fcr: fcr.bits(),
            lcr: lcr.bits(),
            mcr: mcr.bits(),
            lsr: lsr.bits(),
            msr: msr.bits(),
            scr: *scr,
            divisor: *divisor,
            thre_pending: *thre_pending,
            timeout_pending: *timeout_pending,
            timeout_at: *timeout_at,
        }
    }

    fn load(&mut self, saved: Saved, cx: &mut Context<'_>) -> Result<(), StateError> {
        use StateError::Invalid;
        let Saved {
            rbr,
            receiver,
            transmitter,
            ier,
            fcr,
            lcr,
            mcr,
            lsr,
            msr,
            scr,
            divisor,
            thre_pending,
            timeout_pending,
            timeout_at,
        } = saved;
        let fcr = FifoControl::from_bits(fcr)
            .filter(|fcr| FifoControl::KEPT.contains(*fcr))
            .ok_or(Invalid("fcr"))?;
        let fifos = fcr.contains(FifoControl::ENABLE);
        if !fifos && !receiver.is_empty() {
            return Err(Invalid("receiver"));
        }
        if !fifos && transmitter.len() > 1 {
            return Err(Invalid("transmitter"));
        }
        let lsr = LineStatus::from_bits(lsr).ok_or(Invalid("lsr"))?;
        let ready = lsr.contains(LineStatus::DATA_READY);
        let empty = lsr & LineStatus::EMPTY;
        let expected = if transmitter.is_empty() {
            LineStatus::EMPTY
        } else {
            LineStatus::empty()
        };
        if fifos && ready == receiver.is_empty() || empty != expected {
            return Err(Invalid("lsr"));
        }
        if timeout_at.is_some() && receiver.is_empty() {
            return Err(Invalid("timeout_at"));
        }
        if timeout_pending && receiver.is_empty() {
            return Err(Invalid("timeout_pending"));
        }
        let fifo = |bytes: &[u8]| {
            let mut fifo = Fifo::default();
            for byte in bytes {
                fifo.push(*byte);
            }
            fifo
        };
        self.state = State {
            rbr,
            receiver: fifo(&receiver),
            transmitter: fifo(&transmitter),
            ier: InterruptEnable::from_bits(ier).ok_or(Invalid("ier"))?,
            fcr,
            lcr: LineControl::from_bits_truncate(lcr),
            mcr: ModemControl::from_bits(mcr).ok_or(Invalid("mcr"))?,
            lsr,
            msr: ModemStatus::from_bits_truncate(msr),
            scr,
            divisor,
            thre_pending,
            timeout_pending,
            timeout_at,
        };
        match timeout_at {
            Some(deadline) => cx.timers.arm(self.wiring.receive_timeout, deadline),
            None => cx.timers.disarm(self.wiring.receive_timeout),
        }
        self.update_irq(cx);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;
    use crate::state::{lifecycle_tests, load, save};

    const IRQ: IrqLine = IrqLine::new(4);
    const FIFOS_ON: u8 = 0x07;

    fn new() -> Serial {
        let wiring = SerialWiring {
            irq: Some(IRQ),
            receive_timeout: TimerId::new(5),
        };
        Serial::new(wiring, BAUD_BASE)
    }

    lifecycle_tests!(Serial, new(), |device, bench| {
        bench.out(device, IIR_FCR, 0x81);
        bench.out(device, IER, 0x0f);
        bench.out(device, SCR, 0x5a);
        bench.out(device, DATA, b'A');
        device.receive(&mut bench.context(), b"xyz");
        device.set_modem(&mut bench.context(), ModemStatus::RI);
    });

    /// The port with its interrupt's level, and a host that takes bytes at once.
    struct Line {
        bench: Bench,
        serial: Serial,
    }

    impl Line {
        fn new() -> Self {
            Self {
                bench: Bench::new(),
                serial: new(),
            }
        }

        fn out(&mut self, offset: u16, value: u8) {
            self.bench.out(&mut self.serial, offset, value);
            let count = self.serial.transmitted().len();
            self.serial.sent(&mut self.bench.context(), count);
        }

        fn inb(&mut self, offset: u16) -> u8 {
            self.bench.inb(&mut self.serial, offset)
        }

        fn irq(&self) -> bool {
            self.bench.lines.level(IRQ)
        }
    }

    #[test]
    fn registers_after_power_on() {
        let mut line = Line::new();
        let values = core::array::from_fn(|offset| line.inb(offset as u16));
        assert_eq!(values, [0, 0, 0x01, 0, 0x08, 0x60, 0xb0, 0]);
        line.out(LCR, 0x83);
        assert_eq!((line.inb(DATA), line.inb(IER)), (0x0c, 0));
        line.out(IER, 0x12);
        assert_eq!((line.inb(DATA), line.inb(IER)), (0x0c, 0x12));
    }

    #[test]
    fn unused_bits_do_not_stick() {
        let mut line = Line::new();
        for (offset, kept) in [(IER, 0x0f), (LCR, 0xff), (MCR, 0x1f), (SCR, 0xff)] {
            line.out(offset, 0xff);
            assert_eq!(line.inb(offset), kept);
        }
        line.out(LSR, 0);
        assert_eq!(line.inb(LSR), 0x60);
    }

    #[test]
    fn identifying_the_transmitter_interrupt_clears_it() {
        let mut line = Line::new();
        line.out(MCR, 0);
        line.out(IER, 0x02);
        assert!(line.irq(), "OUT2 does not gate");
        assert_eq!(line.inb(IIR_FCR), 0x02);
        assert!(!line.irq());
        line.out(IER, 0x02);
        assert_eq!(line.inb(IIR_FCR), 0x01);
        line.out(DATA, b'A');
        assert!(line.irq());
        assert_eq!(line.inb(LSR), 0x60);
        assert_eq!(line.inb(IIR_FCR), 0x02);
    }

    #[test]
    fn bytes_that_nobody_takes_stay() {
        let mut bench = Bench::new();
        let mut serial = new();
        bench.out(&mut serial, IER, 0x02);
        bench.out(&mut serial, IIR_FCR, FIFOS_ON);
        for byte in b"ab" {
            bench.out(&mut serial, DATA, *byte);
        }
        assert_eq!(serial.transmitted(), b"ab");
        assert_eq!(bench.inb(&mut serial, LSR), 0);
        assert!(!bench.lines.level(IRQ));
        serial.sent(&mut bench.context(), 1);
        assert_eq!(serial.transmitted(), b"b");
        assert_eq!(bench.inb(&mut serial, LSR), 0);
        serial.sent(&mut bench.context(), 7);
        assert_eq!(bench.inb(&mut serial, LSR), 0x60);
        assert!(bench.lines.level(IRQ));
        for byte in 0..20 {
            bench.out(&mut serial, DATA, byte);
        }
        assert_eq!(serial.transmitted().first(), Some(&4));
        assert_eq!(serial.transmitted().len(), FIFO_SIZE);
    }

    #[test]
    fn loopback_without_fifos_overruns() {
        let mut line = Line::new();
        line.out(MCR, 0x10);
        line.out(DATA, 0x56);
        line.out(DATA, 0x57);
        assert_eq!((line.inb(LSR), line.inb(LSR)), (0x63, 0x61));
        assert_eq!((line.inb(DATA), line.inb(DATA)), (0x57, 0x57));
        assert_eq!(line.inb(LSR), 0x60);
        assert!(line.serial.transmitted().is_empty());
        assert_eq!(line.serial.receive_room(), 0);
    }

    #[test]
    fn loopback_turns_the_modem_lines_around() {
        let mut line = Line::new();
        for (mcr, msr) in [
            (0x11, 0x20),
            (0x12, 0x10),
            (0x14, 0x40),
            (0x18, 0x80),
            (0x1f, 0xf0),
            (0, 0xb0),
        ] {
            line.out(MCR, mcr);
            assert_eq!(line.inb(MSR), msr);
        }
    }

    #[test]
    fn a_full_fifo_loses_the_newest() {
        let mut line = Line::new();
        line.out(MCR, 0x10);
        line.out(IIR_FCR, FIFOS_ON);
        line.out(IER, 0x05);
        for byte in 1..=17 {
            line.out(DATA, byte);
        }
        assert_eq!(line.inb(IIR_FCR), 0xc6);
        assert_eq!((line.inb(LSR), line.inb(LSR)), (0x63, 0x61));
        assert_eq!(line.inb(IIR_FCR), 0xc4);
        for byte in 1..=16 {
            assert!(line.irq());
            assert_eq!(line.inb(DATA), byte);
        }
        assert!(!line.irq());
        assert_eq!(line.inb(LSR), 0x60);
        assert_eq!(line.inb(DATA), 0);
    }

    #[test]
    fn the_trigger_level_holds_the_interrupt_back() {
        let mut line = Line::new();
        line.out(IIR_FCR, 0x87);
        line.out(IER, 0x01);
        assert_eq!(line.serial.receive(&mut line.bench.context(), &[1; 7]), 7);
        assert_eq!((line.irq(), line.inb(LSR)), (false, 0x61));
        assert_eq!(line.serial.receive(&mut line.bench.context(), &[2]), 1);
        assert_eq!(line.inb(IIR_FCR), 0xc4);
        assert_eq!((line.inb(DATA), line.irq()), (1, false));
        line.out(IIR_FCR, 0x41);
        assert!(line.irq(), "a lower level counts at once");
        line.out(IIR_FCR, 0x43);
        assert_eq!((line.irq(), line.inb(LSR)), (false, 0x60));
    }

    #[test]
    fn silence_raises_the_time_out() {
        let mut line = Line::new();
        line.out(LCR, 0x03);
        line.out(IIR_FCR, 0x81);
        line.out(IER, 0x01);
        line.serial.receive(&mut line.bench.context(), b"ab");
        // Four characters of ten bits at 9600 baud.
        let deadline = line.bench.timers.next_deadline().unwrap();
        assert_eq!(deadline, 4_166_664);
        let id = line.bench.timers.take_expired(deadline).unwrap();
        line.bench.now = deadline;
        line.serial.timer(&mut line.bench.context(), id);
        assert!(line.irq());
        assert_eq!(line.inb(IIR_FCR), 0xcc);
        assert_eq!(line.inb(DATA), b'a');
        assert!(!line.irq());
        assert_eq!(line.bench.timers.next_deadline(), Some(2 * deadline));
        assert_eq!(line.inb(DATA), b'b');
        assert_eq!(line.bench.timers.next_deadline(), None);
    }

    #[test]
    fn room_is_what_receive_takes() {
        let mut line = Line::new();
        assert_eq!(line.serial.receive_room(), 1);
        assert_eq!(line.serial.receive(&mut line.bench.context(), b"ab"), 1);
        assert_eq!(line.serial.receive_room(), 0);
        assert_eq!(line.inb(DATA), b'a');
        line.out(IIR_FCR, FIFOS_ON);
        assert_eq!(line.serial.receive(&mut line.bench.context(), &[7; 20]), 16);
        assert_eq!(line.serial.receive(&mut line.bench.context(), b"z"), 0);
        assert_eq!(line.inb(LSR), 0x61, "back-pressure is no overrun");
    }

    #[test]
    fn interrupts_come_by_priority() {
        let mut line = Line::new();
        line.out(MCR, 0x10);
        line.out(DATA, 1);
        line.out(DATA, 2);
        line.out(IER, 0x0f);
        assert_eq!(line.inb(IIR_FCR), 0x06);
        assert_eq!(line.inb(LSR), 0x63);
        assert_eq!(line.inb(IIR_FCR), 0x04);
        assert_eq!(line.inb(DATA), 2);
        assert_eq!(line.inb(IIR_FCR), 0x02);
        assert_eq!((line.inb(IIR_FCR), line.irq()), (0x01, false));
    }

    #[test]
    fn modem_changes_show_once() {
        let mut line = Line::new();
        line.out(IER, 0x08);
        let inputs = ModemStatus::CTS | ModemStatus::RI;
        line.serial.set_modem(&mut line.bench.context(), inputs);
        assert!(line.irq());
        assert_eq!(line.inb(IIR_FCR), 0x00);
        assert_eq!(line.inb(MSR), 0x5a);
        assert_eq!((line.irq(), line.inb(MSR)), (false, 0x50));
        let inputs = ModemStatus::CTS;
        line.serial.set_modem(&mut line.bench.context(), inputs);
        assert_eq!(line.inb(MSR), 0x14);
    }

    #[test]
    fn a_break_is_a_zero_with_a_mark() {
        let mut line = Line::new();
        line.out(IER, 0x04);
        line.serial.receive_break(&mut line.bench.context());
        assert!(line.irq());
        assert_eq!((line.inb(LSR), line.inb(DATA)), (0x71, 0));
        line.out(LCR, 0x43);
        assert!(line.serial.sends_break());
    }

    #[test]
    fn loading_drives_the_line_and_the_timer() {
        let mut line = Line::new();
        line.out(IIR_FCR, 0x01);
        line.out(IER, 0x01);
        line.serial.receive(&mut line.bench.context(), b"a");
        let mut bytes = [0; 256];
        let length = save(&line.serial, &mut bytes).unwrap();
        let (mut bench, mut other) = (Bench::new(), new());
        load(&mut other, &bytes[..length], &mut bench.context()).unwrap();
        assert!(bench.lines.level(IRQ));
        assert_eq!(
            bench.timers.next_deadline(),
            line.bench.timers.next_deadline()
        );
    }

    #[test]
    fn contradictory_state_is_refused() {
        fn refused(field: &'static str, spoil: fn(&mut Saved)) {
            let (mut bench, mut serial) = (Bench::new(), new());
            let mut saved = serial.save();
            spoil(&mut saved);
            assert_eq!(
                serial.load(saved, &mut bench.context()),
                Err(StateError::Invalid(field))
            );
        }
        refused("fcr", |saved| saved.fcr = 0x02);
        refused("ier", |saved| saved.ier = 0x10);
        refused("mcr", |saved| saved.mcr = 0x20);
        refused("lsr", |saved| saved.lsr = 0);
        refused("lsr", |saved| {
            saved.fcr = 1;
            saved.lsr |= 1;
        });
        refused("receiver", |saved| saved.receiver.push(1).unwrap());
        refused("timeout_at", |saved| saved.timeout_at = Some(1));
        refused("timeout_pending", |saved| saved.timeout_pending = true);
    }
}
