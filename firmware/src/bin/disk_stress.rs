//! For tests of disks: writes a virtio disk's first pages and reads them again, for ever.
//!
//! It prints `R` when it starts, `.` after each round, `E` and what was wrong when a page is not what was written. A page holds its own number and that of the round.
#![no_std]
#![no_main]

use thimble_firmware::console::DEBUG_PORT;
use thimble_firmware::io::{self, outb};
use thimble_firmware::virtio_disk::{DEPTH_MAX, Disk, Kind, SECTOR};
use thimble_firmware::{power, say};

thimble_firmware::image!(main);

const PAGE: u64 = 4096;

/// Pages that it uses at most.
const PAGES_MAX: u64 = 256;

fn words(slot: u16) -> impl Iterator<Item = u64> {
    (0..PAGE / 8).map(move |word| Disk::buffer(slot) + 8 * word)
}

fn fill(slot: u16, value: u64) {
    for (index, word) in (0..).zip(words(slot)) {
        // SAFETY: in the driver's buffers, where nothing of the program is.
        unsafe { io::write::<u64>(word, value + index) };
    }
}

fn holds(slot: u16, value: u64) -> bool {
    // SAFETY: as above.
    let read = |word| unsafe { io::read::<u64>(word) };
    (0..)
        .zip(words(slot))
        .all(|(index, word): (u64, u64)| read(word) == value + index)
}

/// Writes or reads all pages.
fn pass(disk: &mut Disk, pages: u64, round: u64, kind: Kind) {
    let value = |page: u64| round << 32 | page << 16;
    // Which page each slot is about.
    let mut about = [0; DEPTH_MAX as usize];
    let (mut started, mut ended) = (0, 0);
    let mut start = |disk: &mut Disk, about: &mut [u64], slot: u16| {
        if started < pages {
            // An odd step, so that it comes by all pages of a power of two.
            let page = started * 73 % pages;
            about[usize::from(slot)] = page;
            fill(slot, if kind == Kind::Write { value(page) } else { 0 });
            disk.add(slot, kind, page * (PAGE / SECTOR), PAGE as u32);
            started += 1;
        }
    };
    for slot in 0..DEPTH_MAX {
        start(disk, &mut about, slot);
    }
    disk.notify();
    while ended < pages {
        if let Some(slot) = disk.take() {
            let page = about[usize::from(slot)];
            if kind == Kind::Read && !holds(slot, value(page)) {
                say!("E round {round} page {page}");
                power::end(1);
            }
            ended += 1;
            start(disk, &mut about, slot);
            disk.notify();
        }
        core::hint::spin_loop();
    }
}

fn main() -> ! {
    outb(DEBUG_PORT, b'R');
    let Some(mut disk) = Disk::start() else {
        say!("E no virtio-blk with a legacy interface");
        power::end(1)
    };
    let pages = (disk.sectors() * SECTOR / PAGE).min(PAGES_MAX);
    for round in 1.. {
        for kind in [Kind::Write, Kind::Read] {
            pass(&mut disk, pages, round, kind);
        }
        outb(DEBUG_PORT, b'.');
    }
    power::end(1)
}
