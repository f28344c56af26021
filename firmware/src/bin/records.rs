//! Writes numbered records to a disk behind virtio-blk, round and round, and says on the debug port which of them are durable: all up to
//! a number whose flush has ended. Meanwhile the next ones are on their way. It goes on behind the records that it finds.
//!
//! A record has 4 KiB: words of 64 bits, first its number, then `number * STEP + index`. Number `n` lies in slot `n` modulo their
//! number. Slots without one are zero.
#![no_std]
#![no_main]

use thimble_firmware::virtio_disk::{Disk, Kind, SECTOR};
use thimble_firmware::{io, power, say};

thimble_firmware::image!(main);

/// Bytes of a record.
const RECORD: u32 = 4096;
const SECTORS: u64 = RECORD as u64 / SECTOR;
/// What makes words of different records differ.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
/// Records that are written together.
const BATCH: u16 = 8;
/// The slot of flushes.
const FLUSH: u16 = BATCH;

/// The disk, and which requests of it are under way.
struct Records {
    disk: Disk,
    slots: u64,
    /// Records of the batch that are not yet written.
    writing: u16,
    /// The number up to which a flush is under way.
    flushing: Option<u64>,
}

impl Records {
    /// Takes what has ended; says what is durable.
    fn poll(&mut self) {
        while let Some(slot) = self.disk.take() {
            if slot != FLUSH {
                self.writing -= 1;
            } else if let Some(number) = self.flushing.take() {
                say!("durable {number}");
            }
        }
        core::hint::spin_loop();
    }

    /// The highest number on the disk.
    fn last(&mut self) -> u64 {
        let mut last = 0;
        for slot in 0..self.slots {
            self.disk.add(0, Kind::Read, slot * SECTORS, RECORD);
            self.disk.notify();
            while self.disk.take().is_none() {
                core::hint::spin_loop();
            }
            // SAFETY: a buffer, which nobody writes any more.
            last = last.max(unsafe { io::read(Disk::buffer(0)) });
        }
        last
    }

    /// Adds a record of the batch.
    fn add(&mut self, slot: u16, number: u64) {
        let at = |index: u64| Disk::buffer(slot) + 8 * index;
        for index in 1..u64::from(RECORD) / 8 {
            let word = number.wrapping_mul(STEP).wrapping_add(index);
            // SAFETY: a buffer, which the device doesn't use now.
            unsafe { io::write(at(index), word) };
        }
        // SAFETY: as above.
        unsafe { io::write(at(0), number) };
        let sector = number % self.slots * SECTORS;
        self.disk.add(slot, Kind::Write, sector, RECORD);
        self.writing += 1;
    }
}

fn main() -> ! {
    let Some(disk) = Disk::start() else {
        say!("no virtio-blk with a legacy interface");
        power::end(1)
    };
    let slots = disk.sectors() / SECTORS;
    let mut records = Records {
        disk,
        slots,
        writing: 0,
        flushing: None,
    };
    let mut number = records.last();
    say!("found {number}");
    loop {
        for slot in 0..BATCH {
            number += 1;
            records.add(slot, number);
        }
        records.disk.notify();
        while records.writing > 0 || records.flushing.is_some() {
            records.poll();
        }
        records.flushing = Some(number);
        records.disk.add(FLUSH, Kind::Flush, 0, 0);
        records.disk.notify();
    }
}
