//! A driver for a disk behind virtio-blk, on PCI or in memory, by the legacy interface, for images in ring 3.
//!
//! Virtio 1.2: 2.7 (split virtqueues), 4.1.4.8 (the legacy interface of PCI), 4.2.4 (that in memory), 5.2 (block devices).
//! Nothing interrupts: the queue's rings are looked at until the answer is there.

use core::sync::atomic::{Ordering, fence};

use crate::io::{self, inb, inl, inw, outb, outl, outw};
use crate::{power, say};

/// Where the registers of a device on PCI are put.
const PORTS: u16 = 0xc000;
/// Registers of a device on PCI.
mod port {
    pub(crate) const GUEST_FEATURES: u16 = 4;
    pub(crate) const QUEUE_ADDRESS: u16 = 8;
    pub(crate) const QUEUE_SIZE: u16 = 12;
    pub(crate) const QUEUE_SELECT: u16 = 14;
    pub(crate) const QUEUE_NOTIFY: u16 = 16;
    pub(crate) const STATUS: u16 = 18;
    /// Of the device's own registers the first: its size in sectors.
    pub(crate) const CAPACITY: u16 = 20;
}

/// Where microvm has places for devices in memory, how far apart, and how many.
const PLACES: u64 = 0xfeb0_0000;
const PLACE: u64 = 0x200;
const PLACES_MAX: u64 = 24;
/// Registers of a device in memory.
mod reg {
    pub(crate) const MAGIC: u64 = 0;
    pub(crate) const VERSION: u64 = 4;
    pub(crate) const DEVICE_ID: u64 = 8;
    pub(crate) const GUEST_FEATURES: u64 = 0x20;
    pub(crate) const GUEST_PAGE_SIZE: u64 = 0x28;
    pub(crate) const QUEUE_SELECT: u64 = 0x30;
    pub(crate) const QUEUE_SIZE_MAX: u64 = 0x34;
    pub(crate) const QUEUE_SIZE: u64 = 0x38;
    pub(crate) const QUEUE_ALIGN: u64 = 0x3c;
    pub(crate) const QUEUE_PAGE: u64 = 0x40;
    pub(crate) const QUEUE_NOTIFY: u64 = 0x50;
    pub(crate) const STATUS: u64 = 0x70;
    /// Of the device's own registers the first: its size in sectors.
    pub(crate) const CAPACITY: u64 = 0x100;
}
/// The text "virt".
const MAGIC: u32 = 0x7472_6976;
/// The device type of disks.
const DISK: u32 = 2;
/// A queue in memory has no size before a driver gives it one.
const QUEUE_SIZE: u16 = 256;

/// The rings, page by page; requests' headers and statuses; buffers.
const RINGS: u64 = 0x10_0000;
const HEADERS: u64 = 0x12_0000;
const STATUSES: u64 = 0x13_0000;
const BUFFERS: u64 = 0x20_0000;
/// Bytes of a request's buffer.
pub const BUFFER: u64 = 0x2_0000;

/// Requests under way at most, each with a buffer of its own.
pub const DEPTH_MAX: u16 = 32;
const PAGE: u64 = 4096;
/// Bytes of a sector.
pub const SECTOR: u64 = 512;

/// That the device knows flushes.
const FEATURE_FLUSH: u32 = 1 << 9;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads into its buffer.
    Read,
    /// Writes its buffer.
    Write,
    /// Makes what was written durable.
    Flush,
}

const CHAINED: u16 = 1;
const DEVICE_WRITES: u16 = 2;
const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// Where the registers are.
#[derive(Clone, Copy)]
enum Registers {
    Ports,
    Memory(u64),
}

impl Registers {
    /// Finds the first disk with a legacy interface.
    fn find() -> Option<Self> {
        let id = |device| [0, 1, 2, 3].map(|at| io::pci(device, 0, at));
        if let Some(device) = (0..32).find(|&device| id(device) == [0xf4, 0x1a, 0x01, 0x10]) {
            for (at, byte) in u32::from(PORTS | 1).to_le_bytes().into_iter().enumerate() {
                io::set_pci(device, 0, 0x10 + at as u8, byte);
            }
            // I/O, memory, bus master.
            io::set_pci(device, 0, 4, 7);
            return Some(Self::Ports);
        }
        let mut places = (0..PLACES_MAX).map(|place| PLACES + PLACE * place);
        let is_disk = |base: &u64| {
            let wanted = [
                (reg::MAGIC, MAGIC),
                (reg::VERSION, 1),
                (reg::DEVICE_ID, DISK),
            ];
            wanted
                .iter()
                .all(|(register, value)| read::<u32>(base + register) == *value)
        };
        places.find(is_disk).map(Self::Memory)
    }

    fn set_status(self, status: u8) {
        match self {
            Self::Ports => outb(PORTS + port::STATUS, status),
            Self::Memory(base) => write(base + reg::STATUS, u32::from(status)),
        }
    }

    fn status(self) -> u8 {
        match self {
            Self::Ports => inb(PORTS + port::STATUS),
            Self::Memory(base) => read::<u32>(base + reg::STATUS) as u8,
        }
    }

    fn set_features(self, features: u32) {
        match self {
            Self::Ports => outl(PORTS + port::GUEST_FEATURES, features),
            Self::Memory(base) => write(base + reg::GUEST_FEATURES, features),
        }
    }

    /// Selects the queue, and gives its size.
    fn queue_size(self) -> u16 {
        match self {
            Self::Ports => {
                outw(PORTS + port::QUEUE_SELECT, 0);
                inw(PORTS + port::QUEUE_SIZE)
            }
            Self::Memory(base) => {
                write(base + reg::GUEST_PAGE_SIZE, PAGE as u32);
                write(base + reg::QUEUE_SELECT, 0u32);
                let most: u32 = read(base + reg::QUEUE_SIZE_MAX);
                let size = QUEUE_SIZE.min(most as u16);
                write(base + reg::QUEUE_SIZE, u32::from(size));
                write(base + reg::QUEUE_ALIGN, PAGE as u32);
                size
            }
        }
    }

    fn set_queue_page(self, page: u32) {
        match self {
            Self::Ports => outl(PORTS + port::QUEUE_ADDRESS, page),
            Self::Memory(base) => write(base + reg::QUEUE_PAGE, page),
        }
    }

    fn notify(self) {
        match self {
            Self::Ports => outw(PORTS + port::QUEUE_NOTIFY, 0),
            Self::Memory(base) => write(base + reg::QUEUE_NOTIFY, 0u32),
        }
    }

    fn sectors(self) -> u64 {
        let [low, high] = match self {
            Self::Ports => [0, 4].map(|half| inl(PORTS + port::CAPACITY + half)),
            Self::Memory(base) => [0, 4].map(|half| read(base + reg::CAPACITY + half)),
        };
        u64::from(low) | u64::from(high) << 32
    }
}

/// A disk that was started, with its only virtqueue, of legacy layout.
pub struct Disk {
    registers: Registers,
    sectors: u64,
    available: u64,
    used: u64,
    size: u16,
    added: u16,
    seen: u16,
}

fn write<T: Copy>(address: u64, value: T) {
    // SAFETY: all that is written here lies between 1 and 8 MiB, where nothing of the program is, or is a register.
    unsafe { io::write(address, value) }
}

fn read<T: Copy>(address: u64) -> T {
    // SAFETY: as above.
    unsafe { io::read(address) }
}

impl Disk {
    /// Finds the first one and starts it; `None` if there is none with this interface.
    pub fn start() -> Option<Self> {
        let registers = Registers::find()?;
        registers.set_status(0);
        registers.set_status(3);
        registers.set_features(FEATURE_FLUSH);
        let size = registers.queue_size();
        let available = RINGS + 16 * u64::from(size);
        let used = (available + 6 + 2 * u64::from(size)).next_multiple_of(PAGE);
        for slot in 0..DEPTH_MAX {
            let status = STATUSES + u64::from(slot);
            descriptor(slot * 3 + 2, 0, status, 1, DEVICE_WRITES);
        }
        // What is there may be from before a reset.
        write(used, [0u16; 2]);
        write(available, [NO_INTERRUPT, 0]);
        registers.set_queue_page((RINGS / PAGE) as u32);
        registers.set_status(7);
        let disk = Self {
            registers,
            sectors: registers.sectors(),
            available,
            used,
            size,
            added: 0,
            seen: 0,
        };
        (size >= 3 * DEPTH_MAX && registers.status() == 7).then_some(disk)
    }

    /// How many sectors it has.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Adds a request of `length` bytes from or to the buffer of its slot, of which there are [`DEPTH_MAX`], without telling the
    /// device. A flush has neither a place nor a length.
    pub fn add(&mut self, slot: u16, kind: Kind, sector: u64, length: u32) {
        // VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_FLUSH
        let (code, flags) = match kind {
            Kind::Read => (0u32, DEVICE_WRITES),
            Kind::Write => (1, 0),
            Kind::Flush => (4, 0),
        };
        let header = HEADERS + 16 * u64::from(slot);
        write(header, [code, 0]);
        write(header + 8, sector);
        write(STATUSES + u64::from(slot), 0xffu8);
        let (first, status) = (slot * 3, slot * 3 + 2);
        let data = match kind {
            Kind::Flush => status,
            Kind::Read | Kind::Write => first + 1,
        };
        descriptor(first, data, header, 16, CHAINED);
        descriptor(
            first + 1,
            status,
            Self::buffer(slot),
            length,
            CHAINED | flags,
        );
        write(
            self.available + 4 + 2 * u64::from(self.added % self.size),
            first,
        );
        self.added = self.added.wrapping_add(1);
    }

    /// The address of a slot's buffer of [`BUFFER`] bytes.
    pub fn buffer(slot: u16) -> u64 {
        BUFFERS + u64::from(slot) * BUFFER
    }

    /// Tells the device of what was added, if it wants to hear of it.
    pub fn notify(&self) {
        fence(Ordering::SeqCst);
        write(self.available + 2, self.added);
        fence(Ordering::SeqCst);
        if read::<u16>(self.used) & NO_NOTIFY == 0 {
            self.registers.notify();
        }
    }

    /// The slot of a request that has ended. One that failed ends the image.
    pub fn take(&mut self) -> Option<u16> {
        if read::<u16>(self.used + 2) == self.seen {
            return None;
        }
        fence(Ordering::SeqCst);
        let head: u32 = read(self.used + 4 + 8 * u64::from(self.seen % self.size));
        self.seen = self.seen.wrapping_add(1);
        let slot = head as u16 / 3;
        let status: u8 = read(STATUSES + u64::from(slot));
        if status != 0 {
            say!("a request has failed: status {status}");
            power::end(1);
        }
        Some(slot)
    }
}

fn descriptor(index: u16, next: u16, address: u64, length: u32, flags: u16) {
    let at = RINGS + 16 * u64::from(index);
    write(at, address);
    write(at + 8, length);
    write(at + 12, flags);
    write(at + 14, next);
}
