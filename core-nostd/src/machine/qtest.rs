//! Carries out the requests of the qtest protocol on a machine that no processor runs.
//!
//! The virtual clock moves only by `clock_step` and `clock_set`. A request's interrupt lines are
//! reported before its answer: `IRQ raise N`, `IRQ lower N`; those that changed since the request before, because
//! a disk has read what it was asked for, too.

use core::fmt::{self, Write};
use core::sync::atomic::AtomicU8;

use super::{Host, Machine};
use crate::devices::block::{self, DriveId};
use crate::devices::{ConsoleId, GuestEvent, PowerRequest};
use crate::formats::qtest::{
    Encoding, LineBuffer, Request, RequestError, decode, encode_base64, parse,
};
use crate::irq::{IrqLine, Msi};
use crate::trace::events;

/// Bytes that bulk requests move at a time: a multiple of 3, for base64.
const CHUNK: usize = 3 << 9;

/// Name of the device whose inputs are the board's interrupt lines 0 to 23.
const IO_APIC: &str = "ioapic";

/// Name of the device whose output is the processor's INTR pin.
const PIC: &str = "isa-i8259";

/// Name of a device's unnamed group of inputs.
const UNNAMED_INPUTS: &str = "unnamed-gpio-in";

/// Timers that fire one by one within one step of the clock. Behind them devices see the rest of
/// the step at once, as on a host that was late, so that no request takes forever.
pub const FIRINGS_MAX: u32 = 1_000_000;

/// Inputs of the I/O APIC.
const IO_APIC_INPUTS: u8 = 24;

/// Whose interrupt lines are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Intercept {
    IoApicInputs,
    PicOutput,
}

/// One connection of a device test.
#[derive(Debug)]
pub struct Qtest<'b> {
    lines: LineBuffer<'b>,
    /// Timers that fire one by one within one step of the clock: [`FIRINGS_MAX`], or fewer where steps have to be quick.
    pub firings: u32,
    intercept: Option<Intercept>,
    /// Levels of the I/O APIC's inputs after the last request, a bit each.
    levels: u32,
}

impl<'b> Qtest<'b> {
    /// A new connection. `buffer` holds one request line, and is as long as the longest that is
    /// accepted: [`crate::formats::qtest::LINE_MAX`] bytes, unless memory is scarce.
    pub fn new(buffer: &'b mut [u8]) -> Self {
        Self {
            lines: LineBuffer::new(buffer),
            firings: FIRINGS_MAX,
            intercept: None,
            levels: 0,
        }
    }

    /// Starts over for another client.
    pub fn reset(&mut self) {
        self.lines.clear();
        self.intercept = None;
    }

    /// Takes input up to the end of one request, carries it out and writes the answer. Returns
    /// how many bytes it took. `clock` is the virtual clock in nanoseconds.
    pub fn feed<H: Host>(
        &mut self,
        machine: &mut Machine<'_>,
        host: &mut H,
        clock: &mut u64,
        input: &[u8],
        out: &mut impl Write,
    ) -> usize {
        let (taken, line) = self.lines.feed(input);
        let Some(line) = line else {
            return taken;
        };
        if let Ok(line) = line {
            events::qtest_command(line.as_ref());
        }
        let request = line.and_then(parse);
        let mut reporter = Reporter {
            host,
            out,
            intercept: self.intercept,
        };
        let changed = machine.driven ^ self.levels;
        for gsi in (0..IO_APIC_INPUTS).filter(|gsi| changed >> gsi & 1 != 0) {
            if self.intercept == Some(Intercept::IoApicInputs) {
                reporter.report(gsi, machine.driven >> gsi & 1 != 0);
            }
        }
        let answered = match request {
            Ok(request) => {
                let intercept = &mut self.intercept;
                Executor {
                    machine,
                    reporter: &mut reporter,
                    clock,
                    firings: self.firings,
                    intercept,
                }
                .run(request)
            }
            Err(error) => fail(reporter.out, error),
        };
        // Writing fails only where the host has closed the connection.
        let _ = answered;
        self.levels = machine.driven;
        taken
    }
}

fn fail(out: &mut impl Write, error: RequestError<'_>) -> fmt::Result {
    // The one answer of its own kind, as device tests know it from QEMU.
    let verdict = match error {
        RequestError::Digits => "ERR",
        _ => "FAIL",
    };
    writeln!(out, "{verdict} {error}")
}

/// Tells the client of interrupt lines, and the host of everything.
struct Reporter<'a, H, W> {
    host: &'a mut H,
    out: &'a mut W,
    intercept: Option<Intercept>,
}

impl<H, W: Write> Reporter<'_, H, W> {
    fn report(&mut self, number: u8, level: bool) {
        let verb = if level { "raise" } else { "lower" };
        let _ = writeln!(self.out, "IRQ {verb} {number}");
    }
}

impl<H: Host, W: Write> Host for Reporter<'_, H, W> {
    fn console_write(&mut self, console: ConsoleId, bytes: &[u8]) -> usize {
        self.host.console_write(console, bytes)
    }

    fn console_lost(&mut self, console: ConsoleId) {
        self.host.console_lost(console);
    }

    fn set_gsi(&mut self, gsi: u8, level: bool) {
        if self.intercept == Some(Intercept::IoApicInputs) && gsi < IO_APIC_INPUTS {
            self.report(gsi, level);
        }
        self.host.set_gsi(gsi, level);
    }

    fn set_intr(&mut self, level: bool) {
        if self.intercept == Some(Intercept::PicOutput) {
            self.report(0, level);
        }
        self.host.set_intr(level);
    }

    fn msi(&mut self, message: Msi) {
        self.host.msi(message);
    }

    fn route_changed(&mut self, pin: u8, message: Option<Msi>) {
        self.host.route_changed(pin, message);
    }

    fn attention(&mut self, cpu: u16) {
        self.host.attention(cpu);
    }

    fn power(&mut self, request: PowerRequest) {
        self.host.power(request);
    }

    fn guest_event(&mut self, event: GuestEvent) {
        self.host.guest_event(event);
    }

    fn block(&mut self, request: block::Request<'_>) {
        self.host.block(request);
    }

    fn block_cancel(&mut self, drive: DriveId) {
        self.host.block_cancel(drive);
    }

    fn tray_moved(&mut self, drive: DriveId, open: bool) {
        self.host.tray_moved(drive, open);
    }

    fn memory_remapped(&mut self) {
        self.host.memory_remapped();
    }

    fn mute_pit(&mut self, muted: bool) {
        self.host.mute_pit(muted);
    }

    fn flash_changed(&mut self, unit: u8, offset: u32, bytes: &[AtomicU8]) -> bool {
        self.host.flash_changed(unit, offset, bytes)
    }

    fn set_a20(&mut self, enabled: bool) {
        self.host.set_a20(enabled);
    }
}

struct Executor<'a, 'm, 'r, H, W> {
    machine: &'a mut Machine<'m>,
    reporter: &'a mut Reporter<'r, H, W>,
    clock: &'a mut u64,
    firings: u32,
    intercept: &'a mut Option<Intercept>,
}

impl<H: Host, W: Write> Executor<'_, '_, '_, H, W> {
    fn run(&mut self, request: Request<'_>) -> fmt::Result {
        let now = *self.clock;
        match request {
            Request::In(port, width) => {
                let value = self.machine.pio_read(self.reporter, now, port, width);
                return writeln!(self.reporter.out, "OK {value:#06x}");
            }
            Request::Out(port, width, value) => {
                self.machine
                    .pio_write(self.reporter, now, port, width, value);
            }
            Request::Read(gpa, width) => {
                let mut bytes = [0; 8];
                let used = &mut bytes[..width as usize];
                self.machine.physical_read(self.reporter, now, gpa, used);
                return writeln!(self.reporter.out, "OK {:#018x}", u64::from_le_bytes(bytes));
            }
            Request::Write(gpa, width, value) => {
                let bytes = &value.to_le_bytes()[..width as usize];
                self.machine.physical_write(self.reporter, now, gpa, bytes);
            }
            Request::ReadBytes(gpa, size, encoding) => return self.read_bytes(gpa, size, encoding),
            Request::WriteBytes(gpa, size, encoding, text) => match decode(text, encoding) {
                Ok(bytes) => self.write_bytes(gpa, size, bytes.chain(core::iter::repeat(0))),
                Err(error) => return fail(self.reporter.out, error),
            },
            Request::Fill(gpa, size, value) => {
                self.write_bytes(gpa, size, core::iter::repeat(value));
            }
            Request::Endianness => return self.reporter.out.write_str("OK little\n"),
            Request::InterceptIn(IO_APIC) => return self.intercept(Intercept::IoApicInputs),
            Request::InterceptOut(PIC) if self.machine.has_pic() => {
                return self.intercept(Intercept::PicOutput);
            }
            Request::InterceptIn(_) | Request::InterceptOut(_) => {
                return self.reporter.out.write_str("FAIL Unknown device\n");
            }
            Request::SetIrqIn {
                device,
                name,
                number,
                level,
            } => {
                let known = device == IO_APIC && name == UNNAMED_INPUTS;
                match u8::try_from(number) {
                    Ok(number) if known && number < IO_APIC_INPUTS => {
                        self.machine
                            .set_line(self.reporter, now, IrqLine::new(number), level);
                    }
                    _ if known => {
                        let range = format_args!("Invalid number '{number}'");
                        return writeln!(self.reporter.out, "FAIL {range}");
                    }
                    _ => return self.reporter.out.write_str("FAIL Unknown device\n"),
                }
            }
            Request::ClockStep(step) => {
                let target = match step {
                    Some(step) => now.saturating_add(step),
                    None => self.machine.next_deadline().unwrap_or(now).max(now),
                };
                return self.clock_to(target);
            }
            Request::ClockSet(target) => return self.clock_to(target),
        }
        self.reporter.out.write_str("OK\n")
    }

    /// Lets each timer up to `target` fire at its own time. The clock never runs backwards.
    fn clock_to(&mut self, target: u64) -> fmt::Result {
        for _ in 0..self.firings {
            let next = self.machine.next_deadline();
            let Some(deadline) = next.filter(|next| *next <= target) else {
                break;
            };
            *self.clock = deadline.max(*self.clock);
            self.machine.advance(self.reporter, *self.clock);
        }
        *self.clock = target.max(*self.clock);
        self.machine.advance(self.reporter, *self.clock);
        writeln!(self.reporter.out, "OK {}", *self.clock)
    }

    fn intercept(&mut self, intercept: Intercept) -> fmt::Result {
        let already = *self.intercept.get_or_insert(intercept) != intercept;
        self.reporter.out.write_str(match already {
            true => "FAIL IRQ intercept already enabled\n",
            false => "OK\n",
        })
    }

    fn read_bytes(&mut self, mut gpa: u64, mut size: u64, encoding: Encoding) -> fmt::Result {
        self.reporter.out.write_str(match encoding {
            Encoding::Hexadecimal => "OK 0x",
            Encoding::Base64 => "OK ",
        })?;
        let mut chunk = [0; CHUNK];
        while size > 0 {
            let length = size.min(CHUNK as u64);
            let bytes = &mut chunk[..length as usize];
            self.machine
                .physical_read(self.reporter, *self.clock, gpa, bytes);
            match encoding {
                Encoding::Hexadecimal => {
                    for byte in bytes {
                        write!(self.reporter.out, "{byte:02x}")?;
                    }
                }
                Encoding::Base64 => encode_base64(bytes, self.reporter.out)?,
            }
            gpa = gpa.wrapping_add(length);
            size -= length;
        }
        self.reporter.out.write_char('\n')
    }

    fn write_bytes(&mut self, mut gpa: u64, mut size: u64, mut data: impl Iterator<Item = u8>) {
        let mut chunk = [0; CHUNK];
        while size > 0 {
            let length = size.min(CHUNK as u64);
            let bytes = &mut chunk[..length as usize];
            bytes.fill_with(|| data.next().unwrap_or(0));
            self.machine
                .physical_write(self.reporter, *self.clock, gpa, bytes);
            gpa = gpa.wrapping_add(length);
            size -= length;
        }
    }
}
