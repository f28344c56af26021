//! A driver of virtio-blk on PCI, in ring 3, so that a hypervisor runs it natively even where it is a guest that can't run
//! ring 0 so.
//!
//! Virtio 1.2: 2.7 (split virtqueues), 4.1.4.8 (the legacy interface of PCI), 5.2 (block devices). Nothing interrupts: the
//! queue's rings are looked at until the answer is there.

use core::sync::atomic::{Ordering, fence};

use crate::io::{self, inb, inl, inw, outb, outl, outw};

/// Where the legacy registers are put.
const BASE: u16 = 0xc000;
/// Legacy registers.
mod reg {
    pub(crate) const GUEST_FEATURES: u16 = 4;
    pub(crate) const QUEUE_ADDRESS: u16 = 8;
    pub(crate) const QUEUE_SIZE: u16 = 12;
    pub(crate) const QUEUE_SELECT: u16 = 14;
    pub(crate) const QUEUE_NOTIFY: u16 = 16;
    pub(crate) const STATUS: u16 = 18;
    /// Of the device's own registers the first: its size in sectors.
    pub(crate) const CAPACITY: u16 = 20;
}

/// The rings, page by page; requests' headers and statuses; buffers.
const RINGS: u64 = 0x10_0000;
const HEADERS: u64 = 0x12_0000;
const STATUSES: u64 = 0x13_0000;
const BUFFERS: u64 = 0x20_0000;
/// Bytes of a buffer at most.
pub const BUFFER: u64 = 0x2_0000;

/// Requests under way at most.
pub const DEPTH_MAX: u16 = 32;
/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Bytes of a sector.
pub const SECTOR: u64 = 512;

const CHAINED: u16 = 1;
const DEVICE_WRITES: u16 = 2;
const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// A virtqueue of legacy layout.
pub struct Queue {
    available: u64,
    used: u64,
    size: u16,
    added: u16,
    seen: u16,
}

/// Where the bytes of a request are.
pub fn buffer(slot: u16) -> u64 {
    BUFFERS + u64::from(slot) * BUFFER
}

fn write<T: Copy>(address: u64, value: T) {
    // SAFETY: all that is written here lies between 1 and 8 MiB, where nothing of the program is.
    unsafe { io::write(address, value) }
}

fn read<T: Copy>(address: u64) -> T {
    // SAFETY: as above.
    unsafe { io::read(address) }
}

impl Queue {
    /// Finds the device and starts it: the queue, and the disk's size in sectors.
    pub fn start() -> Option<(Self, u64)> {
        let id = |device| [0, 1, 2, 3].map(|at| io::pci(device, 0, at));
        let device = (0..32).find(|&device| id(device) == [0xf4, 0x1a, 0x01, 0x10])?;
        for (at, byte) in u32::from(BASE | 1).to_le_bytes().into_iter().enumerate() {
            io::set_pci(device, 0, 0x10 + at as u8, byte);
        }
        // I/O, memory, bus master.
        io::set_pci(device, 0, 4, 7);
        outb(BASE + reg::STATUS, 0);
        outb(BASE + reg::STATUS, 3);
        outl(BASE + reg::GUEST_FEATURES, 0);
        outw(BASE + reg::QUEUE_SELECT, 0);
        let size = inw(BASE + reg::QUEUE_SIZE);
        let available = RINGS + 16 * u64::from(size);
        let used = (available + 6 + 2 * u64::from(size)).next_multiple_of(PAGE);
        for slot in 0..DEPTH_MAX {
            let (header, status) = (u64::from(slot) * 16 + HEADERS, STATUSES + u64::from(slot));
            descriptor(slot * 3, header, 16, CHAINED);
            descriptor(slot * 3 + 2, status, 1, DEVICE_WRITES);
        }
        // What is there may be from before a reset.
        write(used, [0u16; 2]);
        write(available, [NO_INTERRUPT, 0]);
        outl(BASE + reg::QUEUE_ADDRESS, (RINGS / PAGE) as u32);
        outb(BASE + reg::STATUS, 7);
        let capacity =
            u64::from(inl(BASE + reg::CAPACITY)) | u64::from(inl(BASE + reg::CAPACITY + 4)) << 32;
        let queue = Self {
            available,
            used,
            size,
            added: 0,
            seen: 0,
        };
        (size >= 3 * DEPTH_MAX && inb(BASE + reg::STATUS) == 7).then_some((queue, capacity))
    }

    /// Adds a read without telling the device.
    pub fn add(&mut self, slot: u16, sector: u64, length: u32) {
        self.add_request(slot, false, sector, length);
    }

    /// Adds a read, or a write of what [`buffer`] has, without telling the device.
    pub fn add_request(&mut self, slot: u16, is_write: bool, sector: u64, length: u32) {
        // VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT
        write(HEADERS + 16 * u64::from(slot), [u32::from(is_write), 0]);
        write(HEADERS + 16 * u64::from(slot) + 8, sector);
        write(STATUSES + u64::from(slot), 0xffu8);
        let flags = match is_write {
            true => CHAINED,
            false => CHAINED | DEVICE_WRITES,
        };
        descriptor(slot * 3 + 1, buffer(slot), length, flags);
        write(
            self.available + 4 + 2 * u64::from(self.added % self.size),
            slot * 3,
        );
        self.added = self.added.wrapping_add(1);
    }

    /// Tells the device of what was added, if it wants to hear of it.
    pub fn notify(&self) {
        fence(Ordering::SeqCst);
        write(self.available + 2, self.added);
        fence(Ordering::SeqCst);
        if read::<u16>(self.used) & NO_NOTIFY == 0 {
            outw(BASE + reg::QUEUE_NOTIFY, 0);
        }
    }

    /// A request that has ended, and its status: 0 if it was done.
    pub fn take(&mut self) -> Option<(u16, u8)> {
        if read::<u16>(self.used + 2) == self.seen {
            return None;
        }
        fence(Ordering::SeqCst);
        let head: u32 = read(self.used + 4 + 8 * u64::from(self.seen % self.size));
        self.seen = self.seen.wrapping_add(1);
        let slot = head as u16 / 3;
        Some((slot, read(STATUSES + u64::from(slot))))
    }
}

fn descriptor(index: u16, address: u64, length: u32, flags: u16) {
    let at = RINGS + 16 * u64::from(index);
    write(at, address);
    write(at + 8, length);
    write(at + 12, flags);
    write(at + 14, index + 1);
}
