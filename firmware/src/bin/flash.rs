//! The system flash as a guest sees it: this program is in the chip that ends at 4 GiB, another one of 8 KiB lies below it. A store
//! that changes what a chip gives is followed by a load at once: no accelerator may answer from what was mapped before.
#![no_std]
#![no_main]

use thimble_firmware::{io, power, say};

thimble_firmware::image!(main);

/// The first chip, of 64 KiB.
const CODE: u64 = 0xffff_0000;
/// The second chip.
const DATA: u64 = CODE - 0x2000;

fn read(address: u64) -> u8 {
    // SAFETY: a chip's address, where no object lies that is ever written.
    unsafe { io::read(address) }
}

fn write(address: u64, value: u8) {
    // SAFETY: as above.
    unsafe { io::write(address, value) }
}

/// A command, and what is read next; then the contents again.
fn asks(name: &str, command: u8, offset: u64) {
    write(DATA + offset, command);
    let first = read(DATA + offset);
    write(DATA + offset, 0xff);
    say!("{name} {first:02x} then {:02x}", read(DATA + offset));
}

fn main() -> ! {
    say!("contents {:02x} {:02x}", read(DATA), read(CODE + 0xfff0));
    asks("status", 0x70, 0);
    asks("identifier", 0x90, 1);
    asks("query", 0x98, 0x10);
    for (at, byte) in [(0x100, 0x5a), (0x101, 0xa5), (0x1fff, 0x00)] {
        write(DATA + at, 0x40);
        write(DATA + at, byte);
        say!("programmed {at:x}: {:02x}", read(DATA));
    }
    write(DATA, 0xff);
    say!(
        "bytes {:02x} {:02x} {:02x}",
        read(DATA + 0x100),
        read(DATA + 0x101),
        read(DATA + 0x1fff)
    );
    write(DATA + 0x200, 0xe8);
    write(DATA + 0x200, 15);
    for at in 0..16 {
        write(DATA + 0x200 + at, 0x80 | at as u8);
    }
    write(DATA + 0x200, 0xd0);
    let status = read(DATA);
    write(DATA, 0xff);
    say!(
        "buffer {status:02x}: {:02x} {:02x}",
        read(DATA + 0x200),
        read(DATA + 0x20f)
    );
    write(DATA + 0x1000, 0x20);
    write(DATA + 0x1000, 0xd0);
    let status = read(DATA);
    write(DATA, 0xff);
    say!(
        "erased {status:02x}: {:02x} {:02x}",
        read(DATA + 0xfff),
        read(DATA + 0x1fff)
    );
    // This chip is read-only. The copy below 1 MiB, from where the program runs, stays.
    write(CODE, 0x40);
    write(CODE, 0x00);
    let status = read(CODE);
    write(CODE, 0x50);
    say!(
        "read-only {status:02x}: {:02x} {:02x}",
        read(CODE + 0xfff0),
        read(0xf_fff0)
    );
    // What is written by wider stores, across the border of sectors, is seen by wider loads.
    for round in 0..4u32 {
        write(DATA, 0x10);
        // SAFETY: as above.
        unsafe { io::write(DATA + 0xffc, 0x0302_0100 + round) };
        write(DATA, 0xff);
        // SAFETY: as above.
        let word: u32 = unsafe { io::read(DATA + 0xffc) };
        say!("round {round}: {word:08x}");
    }
    power::end(power::DONE)
}
