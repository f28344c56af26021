//! Trace points: what can be told of the machine while it works, each by itself switched on and off.
//!
//! [`events`] is the one table of them, of all layers: names, arguments, formats. From it derive a function for each event, which
//! its layer calls where the thing happens, and the lists of names that users see. Where QEMU 7.2 traces the same thing,
//! name and text are as its log shows them, so that habits and scripts carry over; what identifies an object there by an address
//! is its number here, or is left out.
//!
//! A point that is off costs a load of one byte and a branch that is not taken. One that is on makes a [`Line`] on the stack, of
//! at most [`LINE_MAX`] bytes, and hands it to the [`Sink`] that the host has installed; there is no lock and no heap in here.
//! State and sink belong to the process, not to a machine.
//!
//! Not in here: what guests run between two accesses. The software CPU's blocks have no points; `-d exec` tells of them.

pub mod events;

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64};
use core::{ptr, str};

use crate::irq::lapic::CPUS_MAX;
use crate::qmp::SinkFull;
use events::{COUNT, Event, TABLE, VCPU};

/// Bytes of a line at most; a longer one ends with three dots.
pub const LINE_MAX: usize = 1024;

/// Whether each event is on: for one that belongs to processors, whether it is on for any of them.
static STATES: [AtomicU8; COUNT] = [const { AtomicU8::new(0) }; COUNT];

/// For the events that belong to processors, in the order of [`VCPU`]: a bit for each processor that it is on for.
static PROCESSORS: [[AtomicU64; CPUS_MAX.div_ceil(64)]; VCPU.len()] =
    [const { [const { AtomicU64::new(0) }; CPUS_MAX.div_ceil(64)] }; VCPU.len()];

/// Where lines go.
static SINK: AtomicPtr<Sink> = AtomicPtr::new(ptr::null_mut());

/// A place for lines: what the host does with one, without a newline. Called by any thread, with locks of the machine held: it must
/// not wait.
#[derive(Debug)]
pub struct Sink(pub fn(&[u8]));

/// Says where lines go from now on.
pub fn install(sink: &'static Sink) {
    SINK.store(ptr::from_ref(sink).cast_mut(), Release);
}

fn send(line: &[u8]) {
    let sink = SINK.load(Acquire);
    // SAFETY: the pointer is null, or from a reference to a sink that is there for ever and never changes.
    #[allow(unsafe_code)]
    let sink = unsafe { sink.as_ref() };
    if let Some(Sink(take)) = sink {
        take(line);
    }
}

/// Name and format of a row.
fn parts(row: &str) -> (&str, &str) {
    row.split_once(' ').unwrap_or((row, ""))
}

impl Event {
    /// All events, in the order of their table.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..COUNT).filter_map(Self::from_index)
    }

    /// All events with their names, in the same order: [`Event::name`] has to look for its row.
    pub fn names() -> impl Iterator<Item = (Self, &'static str)> {
        let rows = TABLE.lines().map(|row| parts(row).0);
        Self::all().zip(rows)
    }

    /// The event of this name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        let mut names = Self::names();
        let found = names.find(|(_, known)| known.as_bytes() == name);
        found.map(|(event, _)| event)
    }

    /// Name and format, with a space between them.
    fn row(self) -> (&'static str, &'static str) {
        parts(TABLE.lines().nth(self as usize).unwrap_or_default())
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// Which of [`VCPU`] it is.
    fn processors(self) -> Option<&'static [AtomicU64]> {
        let index = VCPU.iter().position(|event| *event == self)?;
        Some(PROCESSORS.get(index)?.as_slice())
    }

    /// Whether it belongs to processors, and can be switched for each of them.
    pub fn is_vcpu(self) -> bool {
        VCPU.contains(&self)
    }

    /// Whether it is on, for any processor.
    #[inline(always)]
    pub fn is_on(self) -> bool {
        STATES[self as usize].load(Relaxed) != 0
    }

    /// Whether it is on for a processor.
    pub fn is_on_for(self, cpu: u32) -> bool {
        self.processors()
            .and_then(|words| words.get(cpu as usize / 64))
            .is_some_and(|word| word.load(Relaxed) >> (cpu % 64) & 1 != 0)
    }

    /// Switches it, for all processors.
    pub fn set(self, on: bool) {
        for word in self.processors().unwrap_or_default() {
            word.store(if on { u64::MAX } else { 0 }, Relaxed);
        }
        STATES[self as usize].store(on.into(), Relaxed);
    }

    /// Switches it for one processor. Nothing happens if it does not belong to processors.
    pub fn set_for(self, cpu: u32, on: bool) {
        let Some(words) = self.processors() else {
            return;
        };
        if let Some(word) = words.get(cpu as usize / 64) {
            let bit = 1 << (cpu % 64);
            match on {
                true => word.fetch_or(bit, Relaxed),
                false => word.fetch_and(!bit, Relaxed),
            };
        }
        let any = words.iter().any(|word| word.load(Relaxed) != 0);
        STATES[self as usize].store(any.into(), Relaxed);
    }

    /// Tells of it: numbers and texts take the places of its format in their order.
    #[cold]
    #[inline(never)]
    pub fn tell(self, numbers: &[u64], texts: &[&[u8]]) {
        if self.is_vcpu() && !self.is_on_for(numbers.first().map_or(0, |cpu| *cpu as u32)) {
            return;
        }
        let (name, format) = self.row();
        let mut line = Line::new(name);
        // What does not fit is said by dots.
        let _ = line.format(format, numbers, texts);
        line.send();
    }

    /// The same with numbers only: those behind the last that its format has don't matter.
    #[cold]
    #[inline(never)]
    pub(crate) fn tell_numbers(self, a: u64, b: u64, c: u64, d: u64, e: u64) {
        self.tell(&[a, b, c, d, e], &[]);
    }

    /// The same with one text.
    #[cold]
    #[inline(never)]
    pub(crate) fn tell_text(self, text: &[u8], a: u64, b: u64, c: u64) {
        self.tell(&[a, b, c], &[text]);
    }
}

/// Whether a name is one of those that a pattern means: `*` stands for any characters, `?` for one.
pub fn matches(pattern: &[u8], name: &[u8]) -> bool {
    // Where to go on when what follows the last star does not fit: the star takes one more.
    let (mut p, mut n, mut star) = (0, 0, None);
    loop {
        match (pattern.get(p), name.get(n)) {
            (Some(b'*'), _) => {
                star = Some((p + 1, n));
                p += 1;
                continue;
            }
            (Some(want), Some(have)) if *want == b'?' || want == have => {
                (p, n) = (p + 1, n + 1);
                continue;
            }
            (None, None) => return true,
            _ => {}
        }
        match star {
            Some((after, from)) if from < name.len() => {
                (p, n) = (after, from + 1);
                star = Some((after, n));
            }
            _ => return false,
        }
    }
}

/// A line as it comes to be: the event's name, a space, and text.
#[derive(Debug)]
pub struct Line {
    bytes: heapless::Vec<u8, LINE_MAX>,
    cut: bool,
}

impl Line {
    /// The line of an event of this name, or the beginning of one.
    pub fn new(name: &str) -> Self {
        let mut line = Self {
            bytes: heapless::Vec::new(),
            cut: false,
        };
        line.put(name.as_bytes());
        line.put(b" ");
        line
    }

    /// Appends text. Control characters, which a client or a guest might fake lines with, are question marks.
    pub fn put(&mut self, text: &[u8]) {
        for byte in text {
            let byte = if byte.is_ascii_control() { b'?' } else { *byte };
            if self.bytes.push(byte).is_err() {
                self.cut = true;
                return;
            }
        }
    }

    /// Whether nothing more fits.
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// Hands the line to where lines go.
    pub fn send(mut self) {
        if self.cut {
            self.bytes.truncate(LINE_MAX - 3);
            // There is room again.
            let _ = self.bytes.extend_from_slice(b"...");
        }
        send(&self.bytes);
    }

    /// Appends a number in a base up to 16, with zeros before it up to a width.
    fn number(&mut self, mut number: u64, base: u64, width: usize) {
        let mut digits = [b'0'; 20];
        let mut at = digits.len();
        while number != 0 || at == digits.len() {
            at -= 1;
            digits[at] = b"0123456789abcdef"[(number % base) as usize];
            number /= base;
        }
        at = at.min(digits.len() - width.min(digits.len()));
        self.put(&digits[at..]);
    }

    /// Appends a format: `{}` is a number, `{d}` a signed one, `{x}` one in hexadecimal digits, `{4x}` at least four of them,
    /// `{c}` a character, `{s}` a text.
    fn format(&mut self, mut format: &str, numbers: &[u64], texts: &[&[u8]]) -> Option<()> {
        let (mut numbers, mut texts) = (numbers.iter(), texts.iter());
        while let Some((before, rest)) = format.split_once('{') {
            let (spec, after) = rest.split_once('}')?;
            self.put(before.as_bytes());
            format = after;
            match spec.as_bytes() {
                b"s" => self.put(texts.next()?),
                b"c" => self.put(&[*numbers.next()? as u8]),
                b"d" => {
                    let number = *numbers.next()? as i64;
                    if number < 0 {
                        self.put(b"-");
                    }
                    self.number(number.unsigned_abs(), 10, 1);
                }
                [width @ .., b'x'] => {
                    let width = str::from_utf8(width).ok()?.parse().unwrap_or(1);
                    self.number(*numbers.next()?, 16, width);
                }
                _ => self.number(*numbers.next()?, 10, 1),
            }
        }
        self.put(format.as_bytes());
        Some(())
    }
}

impl crate::qmp::Sink for Line {
    fn put(&mut self, bytes: &[u8]) -> Result<(), SinkFull> {
        Self::put(self, bytes);
        match self.cut {
            true => Err(SinkFull),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
