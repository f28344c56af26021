//! For tests of disks: writes a virtio disk's first pages and reads them again, for ever.
//!
//! It prints `R` when it starts, `.` after each round, `E` and what was wrong when a request fails or a page is not what was
//! written. A page holds its own number and that of the round.
#![no_std]
#![no_main]

use thimble_firmware::console::DEBUG_PORT;
use thimble_firmware::io::{self, outb};
use thimble_firmware::virtio_blk::{DEPTH_MAX, PAGE, Queue, SECTOR, buffer};
use thimble_firmware::{power, say};

thimble_firmware::image!(main);

/// Pages that it uses at most.
const PAGES_MAX: u64 = 256;

fn words(slot: u16) -> impl Iterator<Item = u64> {
    (0..PAGE / 8).map(move |word| buffer(slot) + 8 * word)
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
fn pass(queue: &mut Queue, pages: u64, round: u64, is_write: bool) {
    let value = |page: u64| round << 32 | page << 16;
    // Which page each slot is about.
    let mut about = [0; DEPTH_MAX as usize];
    let (mut started, mut ended) = (0, 0);
    let mut start = |queue: &mut Queue, about: &mut [u64], slot: u16| {
        if started < pages {
            // An odd step, so that it comes by all pages of a power of two.
            let page = started * 73 % pages;
            about[usize::from(slot)] = page;
            fill(slot, if is_write { value(page) } else { 0 });
            queue.add_request(slot, is_write, page * (PAGE / SECTOR), PAGE as u32);
            started += 1;
        }
    };
    for slot in 0..DEPTH_MAX {
        start(queue, &mut about, slot);
    }
    queue.notify();
    while ended < pages {
        if let Some((slot, status)) = queue.take() {
            let page = about[usize::from(slot)];
            if status != 0 || !is_write && !holds(slot, value(page)) {
                say!("E round {round} page {page} write {is_write} status {status}");
                power::end(1);
            }
            ended += 1;
            start(queue, &mut about, slot);
            queue.notify();
        }
        core::hint::spin_loop();
    }
}

fn main() -> ! {
    outb(DEBUG_PORT, b'R');
    let Some((mut queue, sectors)) = Queue::start() else {
        say!("E no virtio-blk with a legacy interface");
        power::end(1)
    };
    let pages = (sectors * SECTOR / PAGE).min(PAGES_MAX);
    for round in 1.. {
        for is_write in [true, false] {
            pass(&mut queue, pages, round, is_write);
        }
        outb(DEBUG_PORT, b'.');
    }
    power::end(1)
}
