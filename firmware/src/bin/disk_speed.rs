//! For measurement: phases of reads through virtio-blk, in ring 3, so that a hypervisor runs them natively even where
//! it is a guest that can't run ring 0 so. Each phase says how many requests it makes, between marks, as `speed_ring3` does.
#![no_std]
#![no_main]

use thimble_firmware::console::DEBUG_PORT;
use thimble_firmware::io::{outb, outsb};
use thimble_firmware::virtio_disk::{BUFFER, Disk, Kind, SECTOR};
use thimble_firmware::{power, say};

thimble_firmware::image!(main);

const PAGE: u64 = 4096;

/// Makes `count` requests of `length` bytes, `depth` at a time, wherever `place` says.
fn phase(
    name: &[u8],
    disk: &mut Disk,
    (count, depth, length): (u32, u16, u32),
    mut place: impl FnMut() -> u64,
) {
    let digits: [u8; 8] = core::array::from_fn(|place| {
        let digit = (count >> (28 - 4 * place)) as u8 & 0xf;
        b"0123456789abcdef"[usize::from(digit)]
    });
    for text in [name, b" ", &digits, b"\n"] {
        outsb(DEBUG_PORT, text);
    }
    outb(DEBUG_PORT, b'<');
    let (mut started, mut ended) = (0, 0);
    for slot in 0..depth {
        disk.add(slot, Kind::Read, place(), length);
        started += 1;
    }
    disk.notify();
    while ended < count {
        let mut again = false;
        while let Some(slot) = disk.take() {
            ended += 1;
            if started < count {
                disk.add(slot, Kind::Read, place(), length);
                started += 1;
                again = true;
            }
        }
        if again {
            disk.notify();
        }
        core::hint::spin_loop();
    }
    outb(DEBUG_PORT, b'>');
}

fn main() -> ! {
    let Some(mut disk) = Disk::start() else {
        say!("no virtio-blk with a legacy interface");
        power::end(1)
    };
    let sectors = disk.sectors();
    let pages = sectors * SECTOR / PAGE;
    let mut random = 0x1234_5678_9abc_def1u64;
    let mut anywhere = || {
        // Marsaglia's xorshift.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % pages * (PAGE / SECTOR)
    };
    const SMALL: u32 = PAGE as u32;
    const LARGE: u32 = BUFFER as u32;
    phase(b"random-1", &mut disk, (20_000, 1, SMALL), &mut anywhere);
    phase(b"random-32", &mut disk, (100_000, 32, SMALL), &mut anywhere);
    let mut next = 0;
    phase(b"sequential", &mut disk, (8_000, 4, LARGE), || {
        let sector = next;
        next = (next + BUFFER / SECTOR) % (sectors / (BUFFER / SECTOR) * (BUFFER / SECTOR));
        sector
    });
    power::end(power::DONE)
}
