//! `pci-testdev` of the virtual PCI vendor 1B36h: what KVM's unit tests measure port-I/O and MMIO exits
//! with.
//!
//! Follows QEMU's public description of the device ("pci-testdev", docs/specs). Two ranges, memory
//! (BAR 0, 4 KiB) and I/O (BAR 1, 256 ports), begin with the same header: the number of the test,
//! the width and the offset of the access to make, the data to write, how many of those accesses the
//! device has counted, and the test's name. A write to the first byte chooses a test by its number in
//! the range that is written to, and begins to count anew; a number that does not exist makes the
//! header all zeros. `membar` adds a third range, 64-bit and prefetchable, with nothing in it.
//!
//! Each range has three tests. In the second and third an event notifier takes accesses of the
//! exact width (and, in the third, the exact data) before the device hears of them, so that they are
//! not counted; there is no notifier to wake here, but the accesses are lost to the count all the
//! same.

use serde::{Deserialize, Serialize};

use super::class::{DeviceClass, Property, PropertyKind, Value};
use super::{Context, Width};
use crate::pci::config::SavedConfig;
use crate::pci::{BarKind, ConfigSpace, Identity, PciFunction};
use crate::state::{SavedState, StateError};

/// What `-device pci-testdev` takes.
pub static CLASS: DeviceClass = DeviceClass {
    name: "pci-testdev",
    parent: "pci-device",
    bus: Some("PCI"),
    doc: "memory and ports to try PCI with",
    user_creatable: true,
    properties: &[Property {
        name: "membar",
        kind: PropertyKind::Size,
        default: Value::Uint(0),
        doc: "bytes of a third range, a power of two from 16; 0 for none",
    }],
};

/// The memory range, and its bytes.
const MEMORY: (usize, u64) = (0, 0x1000);
/// The I/O range, and its ports.
const IO: (usize, u64) = (1, 0x100);
/// The range of `membar`.
const EMPTY: usize = 2;

/// Where the first test's access goes in the memory range; the others' follow.
const MEMORY_OFFSET: u8 = 0;
/// The high half of [`MEMORY_OFFSET`]'s 16 bits.
const MEMORY_OFFSET_HIGH: u8 = 0x08;
/// Where the first test's access goes in the I/O range; the others' follow, by the numbers of all
/// tests.
const IO_OFFSET: u8 = 0x80;

/// Tests of one range.
const TESTS: u8 = 3;

/// Offset of the count, 32 bits.
const COUNT: usize = 12;
/// Offset of the name.
const NAME: usize = 16;
/// Bytes of the header.
const HEADER: usize = 48;

/// Data of tests that look at it.
const DATA: u8 = 0xfa;
/// Data of the test that does not.
const ANY_DATA: u8 = 0xce;

/// What a test's notifier takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notifier {
    /// There is none.
    None,
    /// Any data.
    Wildcard,
    /// The test's data.
    DataMatch,
}

const NOTIFIERS: [Notifier; TESTS as usize] =
    [Notifier::None, Notifier::Wildcard, Notifier::DataMatch];

/// Names, without what says which range it is.
const NAMES: [&str; TESTS as usize] = ["no-eventfd", "wildcard-eventfd", "datamatch-eventfd"];

/// The device.
#[derive(Clone, Debug)]
pub struct PciTestdev {
    config: ConfigSpace,
    state: State,
}

/// Guest-visible state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    /// The test by its number among all: those of memory come first.
    test: Option<u8>,
    count: u32,
}

/// Saved form, version 1.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    config: SavedConfig,
    test: Option<u8>,
    count: u32,
}

impl PciTestdev {
    /// The device after power-on. `membar` is the size of a third range in bytes, 0 for none; `None`
    /// if it can't have that size.
    pub fn new(membar: u64) -> Option<Self> {
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x1b36,
            device: 0x0005,
            revision: 0,
            class: 0x00_ff00,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
            multifunction: false,
            interrupt_pin: 0,
        });
        config.allow_from(0x40);
        let prefetchable = false;
        let mut fits = config.set_bar(MEMORY.0, BarKind::Memory32 { prefetchable }, MEMORY.1)
            && config.set_bar(IO.0, BarKind::Io, IO.1);
        if membar != 0 {
            let prefetchable = true;
            fits &= config.set_bar(EMPTY, BarKind::Memory64 { prefetchable }, membar);
        }
        fits.then_some(Self {
            config,
            state: State::default(),
        })
    }

    /// The header as it reads now.
    fn header(&self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        let Some(test) = self.state.test else {
            return header;
        };
        let (is_memory, index) = (test < TESTS, usize::from(test % TESTS));
        let (low, high) = target(test);
        header[0] = test;
        header[1] = Width::Byte.bytes();
        header[4] = low;
        header[5] = high;
        header[8] = data(index);
        header[COUNT..NAME].copy_from_slice(&self.state.count.to_le_bytes());
        let range = if is_memory { "mmio-" } else { "portio-" };
        let name = range.bytes().chain(NAMES[index].bytes());
        for (to, byte) in header[NAME..].iter_mut().zip(name) {
            *to = byte;
        }
        header
    }

    /// Chooses a test of a range.
    fn choose(&mut self, bar: usize, number: u8) {
        let first = if bar == MEMORY.0 { 0 } else { TESTS };
        self.state = State {
            test: (number < TESTS).then_some(first + number),
            count: 0,
        };
    }

    /// A byte is written at an offset of a range.
    fn write_byte(&mut self, bar: usize, offset: u64, value: u8) {
        if offset == 0 {
            self.choose(bar, value);
            return;
        }
        let Some(test) = self.state.test else {
            return;
        };
        let index = usize::from(test % TESTS);
        let counts = NOTIFIERS[index] == Notifier::Wildcard || value == data(index);
        if self.is_target(bar, offset) && counts {
            self.state.count = self.state.count.wrapping_add(1);
        }
    }

    /// Whether an offset of a range is where the test's access goes.
    fn is_target(&self, bar: usize, offset: u64) -> bool {
        self.state.test.is_some_and(|test| {
            let (low, high) = target(test);
            let range = if test < TESTS { MEMORY.0 } else { IO.0 };
            bar == range && offset == u64::from(u16::from_le_bytes([low, high]))
        })
    }

    /// Whether the notifier of the test takes a write.
    fn is_taken(&self, bar: usize, offset: u64, width: Width, value: u8) -> bool {
        let Some(test) = self.state.test else {
            return false;
        };
        let index = usize::from(test % TESTS);
        self.is_target(bar, offset)
            && width == Width::Byte
            && match NOTIFIERS[index] {
                Notifier::None => false,
                Notifier::Wildcard => true,
                Notifier::DataMatch => value == data(index),
            }
    }
}

/// The data of a test, by its number in its range.
fn data(index: usize) -> u8 {
    match NOTIFIERS[index] {
        Notifier::Wildcard => ANY_DATA,
        Notifier::None | Notifier::DataMatch => DATA,
    }
}

/// Where a test's access goes: the low and the high byte of the offset.
fn target(test: u8) -> (u8, u8) {
    match test < TESTS {
        true => (MEMORY_OFFSET + test, MEMORY_OFFSET_HIGH),
        false => (IO_OFFSET + test, 0),
    }
}

impl PciFunction for PciTestdev {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn reset(&mut self, _cx: &mut Context<'_>) {
        self.config.reset();
        self.state = State::default();
    }

    fn bar_read(&mut self, _cx: &mut Context<'_>, bar: usize, offset: u64, width: Width) -> u64 {
        if bar == EMPTY {
            return 0;
        }
        let header = self.header();
        (0..width.bytes()).rev().fold(0, |value, byte| {
            let at = offset.wrapping_add(byte.into());
            let at = usize::try_from(at).unwrap_or(HEADER);
            value << 8 | u64::from(header.get(at).copied().unwrap_or(0))
        })
    }

    fn bar_write(
        &mut self,
        _cx: &mut Context<'_>,
        bar: usize,
        offset: u64,
        width: Width,
        value: u64,
    ) {
        if bar == EMPTY || self.is_taken(bar, offset, width, value as u8) {
            return;
        }
        let bytes = value.to_le_bytes();
        for (byte, at) in bytes.into_iter().zip(offset..).take(width as usize) {
            self.write_byte(bar, at, byte);
        }
    }
}

impl SavedState for PciTestdev {
    const NAME: &'static str = CLASS.name;
    const VERSION: u16 = 1;
    type Saved = Saved;

    fn save(&self) -> Saved {
        let Self {
            config,
            state: State { test, count },
        } = self;
        Saved {
            config: config.save(),
            test: *test,
            count: *count,
        }
    }

    fn load(&mut self, saved: Saved, _cx: &mut Context<'_>) -> Result<(), StateError> {
        let Saved {
            config,
            test,
            count,
        } = saved;
        if test.is_some_and(|test| test >= 2 * TESTS) {
            return Err(StateError::Invalid("test"));
        }
        self.config.load(config)?;
        self.state = State { test, count };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;
    use crate::pci::config::assert_registers;
    use crate::state::lifecycle_tests;
    use std::vec::Vec;

    fn device() -> PciTestdev {
        PciTestdev::new(0).unwrap()
    }

    fn write(device: &mut PciTestdev, bar: usize, offset: u64, width: Width, value: u64) {
        device.bar_write(&mut Bench::new().context(), bar, offset, width, value);
    }

    fn read(device: &mut PciTestdev, bar: usize, offset: u64) -> u32 {
        device.bar_read(&mut Bench::new().context(), bar, offset, Width::Dword) as u32
    }

    lifecycle_tests!(PciTestdev, device(), |device, _bench| {
        write(device, IO.0, 0, Width::Byte, 1);
    });

    /// Observed with QEMU 7.2.
    #[test]
    fn registers_after_power_on() {
        let device = PciTestdev::new(0x1_0000).unwrap();
        let set = [
            (0x00, 0x0005_1b36),
            (0x08, 0x00ff_0000),
            (0x14, 0x0000_0001),
            (0x18, 0x0000_000c),
            (0x2c, 0x1100_1af4),
        ];
        assert_registers(&device, &set);
        assert!(PciTestdev::new(24).is_none());
        assert!(PciTestdev::new(8).is_none());
        assert!(PciTestdev::new(u64::MAX).is_none());
    }

    /// Observed with QEMU 7.2.
    #[test]
    fn headers_of_all_tests() {
        let mut device = device();
        let mut seen = Vec::new();
        for (bar, number) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)] {
            write(&mut device, bar, 0, Width::Byte, number);
            let header: Vec<u32> = (0..3).map(|i| read(&mut device, bar, 4 * i)).collect();
            assert_eq!(read(&mut device, 1 - bar, 4), header[1], "both show it");
            let name = device.header()[NAME..].to_vec();
            let name: Vec<u8> = name.into_iter().take_while(|byte| *byte != 0).collect();
            seen.push((header, std::string::String::from_utf8(name).unwrap()));
        }
        let expected = [
            ([0x100, 0x800, 0xfa], "mmio-no-eventfd"),
            ([0x101, 0x801, 0xce], "mmio-wildcard-eventfd"),
            ([0x102, 0x802, 0xfa], "mmio-datamatch-eventfd"),
            ([0x103, 0x83, 0xfa], "portio-no-eventfd"),
            ([0x104, 0x84, 0xce], "portio-wildcard-eventfd"),
            ([0x105, 0x85, 0xfa], "portio-datamatch-eventfd"),
        ];
        for ((header, name), (expected, text)) in seen.iter().zip(expected) {
            assert_eq!((header.as_slice(), name.as_str()), (&expected[..], text));
        }
        write(&mut device, 0, 0, Width::Byte, 3);
        assert_eq!(device.header(), [0; HEADER]);
        assert_eq!(read(&mut device, 0, 0xffc), 0);
        assert_eq!(read(&mut device, EMPTY, 0), 0);
    }

    /// Observed with QEMU 7.2: which accesses are counted.
    #[test]
    fn counts_what_no_notifier_takes() {
        use Width::{Byte, Dword, Word};
        let mut device = device();
        for (number, width, value, counted) in [
            (0, Byte, 0xfa, 1),
            (0, Byte, 0xfb, 0),
            (0, Word, 0x1fa, 1),
            (0, Dword, 0x2_00fa, 1),
            (1, Byte, 0xce, 0),
            (1, Byte, 0xcf, 0),
            (1, Word, 0xcf, 1),
            (1, Dword, 0, 1),
            (2, Byte, 0xfa, 0),
            (2, Byte, 0xfb, 0),
            (2, Word, 0x1fa, 1),
            (2, Word, 0x1fb, 0),
        ] {
            for (bar, offset) in [(0, 0x800), (1, 0x83)] {
                write(&mut device, bar, 0, Byte, number);
                write(&mut device, bar, offset + number, width, value);
                let count = read(&mut device, bar, 12);
                assert_eq!(count, counted, "{number} {width:?} {value:#x}");
                write(&mut device, 1 - bar, offset + number, Byte, 0xfa);
                assert_eq!(read(&mut device, bar, 12), counted, "the other range");
                write(&mut device, bar, offset + number + 3, Byte, 0xfa);
                assert_eq!(read(&mut device, bar, 12), counted, "elsewhere");
            }
        }
    }

    #[test]
    fn a_test_that_does_not_exist_is_refused() {
        let mut device = device();
        let mut saved = device.save();
        saved.test = Some(6);
        let result = device.load(saved, &mut Bench::new().context());
        assert_eq!(result, Err(StateError::Invalid("test")));
    }
}
