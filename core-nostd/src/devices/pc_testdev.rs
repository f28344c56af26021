//! QEMU's `pc-testdev`: what test suites for processors and virtual machine monitors ask of a PC
//! beside its real devices. kvm-unit-tests is the best known of them.
//!
//! No hardware has it; the behaviour is QEMU 7.2's, observed over its qtest protocol:
//!
//! | where | what |
//! |---|---|
//! | E0h to E3h | a 32-bit register that reads back, by bytes, words and whole |
//! | E4h to E7h | a doubleword written here is a guest physical address: the host takes the page there out of the guest's mappings, so that the next access faults it in again |
//! | E8h to EBh | the same register as at E0h |
//! | 2000h to 2017h | a byte each for GSI 0 to 23: zero lowers the line, all else raises it |
//! | FF000000h | 64 KiB that read back, but are reached as MMIO |
//!
//! What differs from QEMU: 7.2 ends with a failed assertion when a line above 15 is written, and
//! keeps register and memory over a reset; here a reset clears them, as it does with all devices.
//! A line has one level, whoever drives it: the last one to do so counts.

use core::sync::atomic::{AtomicU8, Ordering};

use serde::{Deserialize, Serialize};

use super::class::DeviceClass;
use super::{Context, Effect, PortDevice, Width};
use crate::irq::IrqLine;
use crate::state::{SavedState, StateError};
use crate::trace::events as trace;

/// First port of the registers.
pub const BASE: u16 = 0xe0;

/// Ports from [`BASE`] on.
pub const PORTS: u16 = 12;

/// First port of the interrupt lines.
pub const LINES_BASE: u16 = 0x2000;

/// Ports from [`LINES_BASE`] on, one a line.
pub const LINES: u16 = 24;

/// Guest physical address of the memory.
pub const MEMORY_BASE: u64 = 0xff00_0000;

/// Bytes of the memory.
pub const MEMORY: usize = 0x1_0000;

/// Offset of the first line's register in [`PortDevice`]'s calls.
pub const LINES_OFFSET: u16 = 0x10;

/// Pages of the memory, as they are saved.
pub const PAGES: usize = MEMORY / PAGE;

/// Bytes of a page.
const PAGE: usize = 4096;

/// Offset of the register that takes the address of a page.
const FLUSH: u16 = 4;
/// Offset of the data register's other place.
const BYTES: u16 = 8;

/// What `-device pc-testdev` takes: nothing.
pub static CLASS: DeviceClass = DeviceClass {
    name: "pc-testdev",
    parent: "isa-device",
    bus: Some("ISA"),
    doc: "ports, lines and memory for test suites",
    user_creatable: true,
    properties: &[],
};

/// The device, over memory that the host lends.
#[derive(Debug)]
pub struct PcTestdev<'m> {
    memory: &'m [AtomicU8],
    state: State,
}

/// What the guest has written, but for the memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    /// The register.
    data: u32,
    /// Lines that are driven high, a bit each.
    lines: u32,
}

/// Saved form, version 1. The memory is saved by [`Page`]s.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    data: u32,
    lines: u32,
}

impl<'m> PcTestdev<'m> {
    /// The device with cleared memory, [`MEMORY`] bytes at most; what is missing reads 0.
    pub fn new(memory: &'m [AtomicU8]) -> Self {
        clear(memory);
        Self {
            memory,
            state: State::default(),
        }
    }

    /// Clears register and memory, and lowers the lines that it drives.
    pub fn reset(&mut self, cx: &mut Context<'_>) {
        self.drive(cx, 0);
        self.state = State::default();
        clear(self.memory);
    }

    /// The memory.
    pub fn memory(&self) -> &'m [AtomicU8] {
        self.memory
    }

    /// Reads memory at `gpa`: the part of `to` that lies in the device's range is filled.
    pub fn mmio_read(&self, gpa: u64, to: &mut [u8]) {
        let Some((from, at)) = overlap(gpa, self.memory.len(), to.len()) else {
            return;
        };
        let cells = self.memory.get(from..).unwrap_or(&[]);
        let bytes = to.get_mut(at..).unwrap_or(&mut []);
        for (byte, cell) in bytes.iter_mut().zip(cells) {
            *byte = cell.load(Ordering::Relaxed);
        }
    }

    /// Writes memory at `gpa`: the part of `from` that lies in the device's range is taken.
    pub fn mmio_write(&mut self, gpa: u64, from: &[u8]) {
        let Some((to, at)) = overlap(gpa, self.memory.len(), from.len()) else {
            return;
        };
        let cells = self.memory.get(to..).unwrap_or(&[]);
        for (byte, cell) in from.get(at..).unwrap_or(&[]).iter().zip(cells) {
            cell.store(*byte, Ordering::Relaxed);
        }
    }

    /// Drives the lines from the levels that they have now to new ones.
    fn drive(&mut self, cx: &mut Context<'_>, lines: u32) {
        let old = core::mem::replace(&mut self.state.lines, lines);
        for line in 0..LINES as u8 {
            if (old | lines) >> line & 1 != 0 {
                cx.lines.set(IrqLine::new(line), lines >> line & 1 != 0);
            }
        }
    }

    fn write_line(&mut self, cx: &mut Context<'_>, line: u16, level: bool) {
        if line < LINES {
            let bit = 1 << line;
            self.state.lines = self.state.lines & !bit | u32::from(level) << line;
            cx.lines.set(IrqLine::new(line as u8), level);
        }
    }
}

impl PortDevice for PcTestdev<'_> {
    const WIDEST: Width = Width::Dword;

    fn pio_read(&mut self, _cx: &mut Context<'_>, offset: u16, width: Width) -> u32 {
        let data = match offset {
            0..FLUSH => self.state.data >> (8 * offset),
            BYTES..PORTS => self.state.data >> (8 * (offset - BYTES)),
            _ => 0,
        };
        let value = data & width.ones() as u32;
        trace::testdev_read(offset, value);
        value
    }

    fn pio_write(&mut self, cx: &mut Context<'_>, offset: u16, width: Width, value: u32) {
        trace::testdev_write(offset, value);
        let place = match offset {
            0..FLUSH => offset,
            BYTES..PORTS => offset - BYTES,
            FLUSH if width == Width::Dword => {
                cx.effects.push(Effect::FlushPage(value));
                return;
            }
            LINES_OFFSET.. => return self.write_line(cx, offset - LINES_OFFSET, value as u8 != 0),
            _ => return,
        };
        let shift = 8 * place;
        let mask = (width.ones() as u32) << shift;
        self.state.data = self.state.data & !mask | value << shift & mask;
    }
}

impl SavedState for PcTestdev<'_> {
    const NAME: &'static str = CLASS.name;
    const VERSION: u16 = 1;
    type Saved = Saved;

    fn save(&self) -> Saved {
        let State { data, lines } = self.state;
        Saved { data, lines }
    }

    fn load(&mut self, saved: Saved, cx: &mut Context<'_>) -> Result<(), StateError> {
        let Saved { data, lines } = saved;
        if lines >> LINES != 0 {
            return Err(StateError::Invalid("lines"));
        }
        self.drive(cx, lines);
        self.state = State { data, lines };
        Ok(())
    }
}

/// A page of the device's memory, as a section of its own: the whole is too much for one.
#[derive(Debug)]
pub struct Page<'m>(&'m [AtomicU8]);

/// Bytes of a page, in arrays of sizes that serde takes.
type PageBytes = [[[u8; 32]; 32]; 4];

/// Saved form of a [`Page`], version 1.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedPage {
    /// Nothing where all bytes are zero.
    bytes: Option<PageBytes>,
}

impl<'m> Page<'m> {
    /// A page of the memory, from 0 to [`PAGES`] - 1.
    pub fn new(memory: &'m [AtomicU8], index: usize) -> Self {
        let page = memory.chunks(PAGE).nth(index);
        Self(page.unwrap_or(&[]))
    }
}

impl SavedState for Page<'_> {
    const NAME: &'static str = "pc-testdev-page";
    const VERSION: u16 = 1;
    type Saved = SavedPage;

    fn save(&self) -> SavedPage {
        let mut bytes = PageBytes::default();
        for (byte, cell) in flat(&mut bytes).iter_mut().zip(self.0) {
            *byte = cell.load(Ordering::Relaxed);
        }
        let empty = bytes == PageBytes::default();
        SavedPage {
            bytes: (!empty).then_some(bytes),
        }
    }

    fn load(&mut self, saved: SavedPage, _cx: &mut Context<'_>) -> Result<(), StateError> {
        let SavedPage { bytes } = saved;
        for (byte, cell) in flat(&mut bytes.unwrap_or_default()).iter().zip(self.0) {
            cell.store(*byte, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn flat(bytes: &mut PageBytes) -> &mut [u8] {
    bytes.as_flattened_mut().as_flattened_mut()
}

fn clear(memory: &[AtomicU8]) {
    for cell in memory {
        cell.store(0, Ordering::Relaxed);
    }
}

/// Where an access of `length` bytes at `gpa` meets memory of `size` bytes at [`MEMORY_BASE`]: the
/// offset in the memory, and the one in the access.
fn overlap(gpa: u64, size: usize, length: usize) -> Option<(usize, usize)> {
    let (from, at) = match gpa.checked_sub(MEMORY_BASE) {
        Some(into) => (usize::try_from(into).ok()?, 0),
        None => (0, usize::try_from(MEMORY_BASE - gpa).ok()?),
    };
    (from < size && at < length).then_some((from, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;
    use crate::irq::LineChange;
    use crate::state::{lifecycle_tests, load, save};
    use std::vec::Vec;

    fn memory() -> &'static [AtomicU8] {
        let cells: Vec<AtomicU8> = (0..MEMORY).map(|_| AtomicU8::new(0)).collect();
        cells.leak()
    }

    fn device() -> PcTestdev<'static> {
        PcTestdev::new(memory())
    }

    lifecycle_tests!(PcTestdev<'static>, device(), |device, bench| {
        bench.out(device, 1, 0x55);
        bench.out(device, LINES_OFFSET + 23, 1);
    });

    fn read(device: &mut PcTestdev<'_>, offset: u16, width: Width) -> u32 {
        device.pio_read(&mut Bench::new().context(), offset, width)
    }

    fn write(device: &mut PcTestdev<'_>, offset: u16, width: Width, value: u32) {
        device.pio_write(&mut Bench::new().context(), offset, width, value);
    }

    #[test]
    fn one_register_reads_back_at_two_places() {
        let mut device = device();
        write(&mut device, 0, Width::Dword, 0x1234_5678);
        assert_eq!(read(&mut device, 0, Width::Byte), 0x78);
        assert_eq!(read(&mut device, 2, Width::Word), 0x1234);
        assert_eq!(read(&mut device, BYTES + 3, Width::Byte), 0x12);
        write(&mut device, BYTES + 2, Width::Byte, 0xff77);
        assert_eq!(read(&mut device, 0, Width::Dword), 0x1277_5678);
        write(&mut device, 2, Width::Word, 0xabcd);
        assert_eq!(read(&mut device, BYTES, Width::Dword), 0xabcd_5678);
    }

    #[test]
    fn whole_doublewords_flush_pages() {
        let (mut device, mut bench) = (device(), Bench::new());
        let mut out = |width, value| {
            device.pio_write(&mut bench.context(), FLUSH, width, value);
            bench.effects.take()
        };
        assert_eq!(out(Width::Byte, 1), None);
        assert_eq!(out(Width::Word, 0x1000), None);
        assert_eq!(
            out(Width::Dword, 0x12_3456),
            Some(Effect::FlushPage(0x12_3456))
        );
        for width in [Width::Byte, Width::Word, Width::Dword] {
            assert_eq!(read(&mut device, FLUSH, width), 0);
        }
        assert_eq!(read(&mut device, 0, Width::Dword), 0);
    }

    #[test]
    fn lines_follow_their_bytes() {
        let (mut device, mut bench) = (device(), Bench::new());
        for (number, value) in [(0, 1), (15, 0x80), (23, 2), (23, 0), (24, 1), (15, 1)] {
            bench.out(&mut device, LINES_OFFSET + number, value);
        }
        let mut next = || {
            let LineChange { line, level } = bench.lines.take_change()?;
            Some((line.number(), level))
        };
        assert_eq!(next(), Some((0, true)));
        assert_eq!(next(), Some((15, true)));
        assert_eq!(next(), Some((23, true)));
        assert_eq!(next(), Some((23, false)));
        assert_eq!(next(), None);
        assert_eq!(bench.inb(&mut device, LINES_OFFSET), 0);
        device.reset(&mut bench.context());
        assert!((0..24).all(|line| !bench.lines.level(IrqLine::new(line))));
    }

    #[test]
    fn loading_drives_lines_and_refuses_others() {
        let (mut first, mut bench) = (device(), Bench::new());
        bench.out(&mut first, LINES_OFFSET + 9, 1);
        let mut bytes = [0; 64];
        let length = save(&first, &mut bytes).unwrap();
        let (mut second, mut bench) = (device(), Bench::new());
        bench.out(&mut second, LINES_OFFSET + 3, 1);
        load(&mut second, &bytes[..length], &mut bench.context()).unwrap();
        assert!(bench.lines.level(IrqLine::new(9)));
        assert!(!bench.lines.level(IrqLine::new(3)));
        first.state.lines = 1 << LINES;
        let length = save(&first, &mut bytes).unwrap();
        let refused = load(&mut second, &bytes[..length], &mut bench.context());
        assert_eq!(refused, Err(StateError::Invalid("lines")));
    }

    #[test]
    fn memory_reads_back_within_its_bounds() {
        let mut device = device();
        let end = MEMORY_BASE + MEMORY as u64;
        device.mmio_write(MEMORY_BASE - 2, &[1, 2, 3, 4]);
        device.mmio_write(end - 1, &[5, 6]);
        device.mmio_write(end, &[7]);
        device.mmio_write(u64::MAX, &[8]);
        let mut back = [0xee; 5];
        device.mmio_read(MEMORY_BASE - 2, &mut back);
        assert_eq!(back, [0xee, 0xee, 3, 4, 0]);
        let mut back = [0xee; 3];
        device.mmio_read(end - 2, &mut back);
        assert_eq!(back, [0, 5, 0xee]);
        device.mmio_read(0, &mut back);
        assert_eq!(back, [0, 5, 0xee]);
        device.reset(&mut Bench::new().context());
        device.mmio_read(end - 2, &mut back);
        assert_eq!(back, [0, 0, 0xee]);
    }

    #[test]
    fn pages_are_saved_one_by_one() {
        let mut first = device();
        first.mmio_write(MEMORY_BASE + 3 * PAGE as u64 + 5, b"thimble");
        let (mut bytes, mut bench) = (std::vec![0; 2 * PAGE], Bench::new());
        let second = device();
        second.memory()[0].store(9, Ordering::Relaxed);
        for index in 0..PAGES {
            let length = save(&Page::new(first.memory(), index), &mut bytes).unwrap();
            assert_eq!(length > 64, index == 3, "{index}");
            let mut page = Page::new(second.memory(), index);
            load(&mut page, &bytes[..length], &mut bench.context()).unwrap();
        }
        let value = |cell: &AtomicU8| cell.load(Ordering::Relaxed);
        let values =
            |device: &PcTestdev<'_>| -> Vec<u8> { device.memory().iter().map(value).collect() };
        assert_eq!(values(&first), values(&second));
        assert!(Page::new(first.memory(), PAGES).0.is_empty());
    }
}
