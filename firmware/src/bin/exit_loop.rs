//! For measurement: exits of several kinds from ring 3, in TSC ticks each. Its numbers differ from run to run.
#![no_std]
#![no_main]

use core::hint::black_box;

use thimble_firmware::{io, power, say};

thimble_firmware::image!(main);

const ROUNDS: u64 = 20_000;

fn measure(name: &str, mut action: impl FnMut()) {
    action();
    let start = io::tsc();
    for _ in 0..ROUNDS {
        action();
    }
    say!("{name} {} ticks", io::tsc().wrapping_sub(start) / ROUNDS);
}

fn main() -> ! {
    say!("rounds {ROUNDS}");
    measure("nothing", || {
        black_box(0);
    });
    measure("out to port 80", || io::outb(0x80, 0));
    measure("in from port 80", || {
        io::inb(0x80);
    });
    // SAFETY: behind RAM, nothing is there.
    measure("read behind RAM", || unsafe {
        black_box(io::read::<u32>(0xd000_0000));
    });
    power::end(power::DONE)
}
