//! The firmware configuration device: selector port 510h, data port 511h, DMA address port 514h (big-endian halves).
//!
//! Sizes and numbers are little-endian, those of the list of files big-endian.

use core::sync::atomic::{Ordering, compiler_fence};

use crate::io::{inb, inl, insb, outl, outw};

/// "QEMU", the device's mark.
pub const SIGNATURE: u16 = 0x00;
/// Feature bits; bit 1 is DMA.
pub const ID: u16 = 0x01;
/// Number of processors, two bytes.
pub const NB_CPUS: u16 = 0x05;
/// The list of named files: a big-endian count, then entries of 64 bytes.
pub const FILE_DIR: u16 = 0x19;

const SELECT: u16 = 0x510;
const DATA: u16 = 0x511;
const DMA: u16 = 0x514;
const DMA_ERROR: u32 = 1;
const DMA_READ: u32 = 2;
const DMA_SKIP: u32 = 4;
const DMA_SELECT: u32 = 8;
/// Named files looked at; more than any machine has.
const FILES_MAX: u32 = 256;

#[repr(C, align(16))]
struct DmaAccess {
    control: u32,
    length: u32,
    address: u64,
}

/// The device, once its signature has been seen.
#[derive(Clone, Copy)]
pub struct FwCfg {
    dma: bool,
}

impl FwCfg {
    /// Looks for the device.
    pub fn find() -> Option<Self> {
        let mut mark = [0; 4];
        outw(SELECT, SIGNATURE);
        insb(DATA, &mut mark);
        if &mark != b"QEMU" {
            return None;
        }
        let port = Self { dma: false };
        Some(Self {
            dma: port.u32(ID) & 2 != 0 && inl(DMA) == u32::from_le_bytes(*b"QEMU"),
        })
    }

    /// A four-byte item.
    pub fn u32(self, key: u16) -> u32 {
        let mut bytes = [0; 4];
        self.by_port(key, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// A two-byte item.
    pub fn u16(self, key: u16) -> u16 {
        let mut bytes = [0; 2];
        self.by_port(key, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    /// Reads an item from `offset` on; false if the device reports an error.
    pub fn read(self, key: u16, offset: u32, into: &mut [u8]) -> bool {
        // SAFETY: a slice is memory to write to, and memory is identity mapped.
        unsafe { self.read_to(key, offset, into.as_mut_ptr() as u64, into.len() as u32) }
    }

    /// Reads an item from `offset` on to physical memory; false if the device reports an error.
    ///
    /// # Safety
    /// `length` bytes at `address` are RAM below 4 GiB that nothing else uses.
    pub unsafe fn read_to(self, key: u16, offset: u32, address: u64, length: u32) -> bool {
        if self.dma {
            return dma(u32::from(key) << 16 | DMA_SELECT | DMA_SKIP, offset, 0)
                && dma(DMA_READ, length, address);
        }
        outw(SELECT, key);
        for _ in 0..offset {
            inb(DATA);
        }
        // SAFETY: the caller's word.
        insb(DATA, unsafe {
            core::slice::from_raw_parts_mut(address as usize as *mut u8, length as usize)
        });
        true
    }

    /// The key and size of a named file.
    pub fn file(self, name: &str) -> Option<(u16, u32)> {
        outw(SELECT, FILE_DIR);
        let mut count = [0; 4];
        insb(DATA, &mut count);
        for _ in 0..u32::from_be_bytes(count).min(FILES_MAX) {
            let mut entry = [0; 64];
            insb(DATA, &mut entry);
            let text = &entry[8..];
            if text.starts_with(name.as_bytes()) && text.get(name.len()) == Some(&0) {
                let size = u32::from_be_bytes([entry[0], entry[1], entry[2], entry[3]]);
                return Some((u16::from_be_bytes([entry[4], entry[5]]), size));
            }
        }
        None
    }

    /// RAM and reserved ranges, from `etc/e820`, or from CMOS 34h/35h (RAM above 16 MiB in 64 KiB units) where the file is absent.
    pub fn memory(self) -> MemoryMap {
        let mut map = MemoryMap::default();
        if let Some((key, size)) = self.file("etc/e820") {
            for at in 0..(size / 20).min(MEMORY_MAX as u32) {
                let mut bytes = [0; 20];
                self.read(key, at * 20, &mut bytes);
                let number = |from: usize, count: usize| {
                    bytes[from..from + count]
                        .iter()
                        .rev()
                        .fold(0, |value, byte| value << 8 | u64::from(*byte))
                };
                map.push(Range {
                    start: number(0, 8),
                    length: number(8, 8),
                    kind: number(16, 4) as u32,
                });
            }
        }
        if !map.ranges().iter().any(|range| range.kind == RAM) {
            map = MemoryMap::from_cmos();
        }
        map
    }

    fn by_port(self, key: u16, into: &mut [u8]) {
        outw(SELECT, key);
        insb(DATA, into);
    }
}

fn dma(control: u32, length: u32, address: u64) -> bool {
    let mut access = DmaAccess {
        control: control.to_be(),
        length: length.to_be(),
        address: address.to_be(),
    };
    let at = &raw mut access;
    compiler_fence(Ordering::SeqCst);
    outl(DMA, 0);
    outl(DMA + 4, (at as usize as u32).to_be());
    compiler_fence(Ordering::SeqCst);
    loop {
        // SAFETY: our own structure, which the device changes.
        let control = u32::from_be(unsafe { (&raw const (*at).control).read_volatile() });
        if control & DMA_ERROR != 0 {
            return false;
        }
        if control == 0 {
            return true;
        }
    }
}

/// Ranges kept of a memory map.
pub const MEMORY_MAX: usize = 16;
/// The e820 type of RAM.
pub const RAM: u32 = 1;

/// A range of physical memory, typed as e820 does.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    /// 1 RAM, 2 reserved.
    pub kind: u32,
}

/// A short memory map.
#[derive(Clone, Copy, Default)]
pub struct MemoryMap {
    ranges: [Range; MEMORY_MAX],
    used: usize,
}

impl MemoryMap {
    /// The map that CMOS 34h/35h tells.
    pub fn from_cmos() -> Self {
        let above_16m = u64::from(u16::from_le_bytes([
            crate::io::cmos(0x34),
            crate::io::cmos(0x35),
        ])) << 16;
        let above_1m = u64::from(u16::from_le_bytes([
            crate::io::cmos(0x30),
            crate::io::cmos(0x31),
        ])) << 10;
        let end = if above_16m > 0 {
            above_16m + (16 << 20)
        } else {
            above_1m + (1 << 20)
        };
        let mut map = Self::default();
        map.push(Range {
            start: 0,
            length: end,
            kind: RAM,
        });
        map
    }

    /// Adds a range; the map keeps the first [`MEMORY_MAX`].
    pub fn push(&mut self, range: Range) {
        if let Some(slot) = self.ranges.get_mut(self.used) {
            *slot = range;
            self.used += 1;
        }
    }

    /// The ranges.
    pub fn ranges(&self) -> &[Range] {
        self.ranges.get(..self.used).unwrap_or(&[])
    }

    /// The first address behind the RAM that begins at or below 1 MiB, at most 3.5 GiB.
    pub fn low_end(&self) -> u64 {
        let low = |range: &&Range| range.kind == RAM && range.start <= 0x10_0000;
        let end = self
            .ranges()
            .iter()
            .filter(low)
            .map(|range| range.start.saturating_add(range.length))
            .max();
        end.unwrap_or(0).min(0xe000_0000)
    }
}
