//! Two 8259A and the 8254: initialisation, masks, requests, interrupts, end of interrupt. Prints only what does not depend on speed.
#![no_std]
#![no_main]

use thimble_firmware::io::{inb, outb};
use thimble_firmware::{io, power, say, trap};

thimble_firmware::image!(main);

const MASTER: u16 = 0x20;
const SLAVE: u16 = 0xa0;
const EOI: u8 = 0x20;
/// OCW3: read the request register, the in-service register.
const READ_IRR: u8 = 0x0a;
const READ_ISR: u8 = 0x0b;

fn set_up(master_vector: u8, slave_vector: u8) {
    for (port, vector, cascade) in [(MASTER, master_vector, 4), (SLAVE, slave_vector, 2)] {
        outb(port, 0x11);
        outb(port + 1, vector);
        outb(port + 1, cascade);
        outb(port + 1, 0x01);
        outb(port + 1, 0xff);
    }
}

fn status(port: u16, what: u8) -> u8 {
    outb(port, what);
    inb(port)
}

fn timer(mode: u8, count: u16) {
    outb(0x43, 0x30 | mode << 1);
    let [low, high] = count.to_le_bytes();
    outb(0x40, low);
    outb(0x40, high);
}

/// Waits for a request bit without taking the interrupt; false if it does not come.
fn requested(port: u16, bit: u8) -> bool {
    (0..2_000_000).any(|_| status(port, READ_IRR) & bit != 0)
}

fn main() -> ! {
    // Virtual wire: the local APIC is on, and hands the 8259A's line through (SDM volume 3, 11.4.3 and 11.5.1).
    // SAFETY: the local APIC's registers.
    unsafe {
        io::write(0xfee0_00f0, 0x1ffu32);
        io::write(0xfee0_0350, 0x700u32);
    }
    set_up(0x20, 0x28);
    say!("masks {:02x} {:02x}", inb(0x21), inb(0xa1));
    outb(0x21, 0xaa);
    outb(0xa1, 0x55);
    say!("masks written {:02x} {:02x}", inb(0x21), inb(0xa1));
    outb(0x21, 0xff);
    outb(0xa1, 0xff);

    timer(0, 0x1000);
    say!("one shot requested {}", requested(MASTER, 1));
    say!(
        "masked: count {} isr {:02x}",
        trap::count(0x20),
        status(MASTER, READ_ISR)
    );
    outb(0x21, 0xfe);
    trap::wait();
    say!(
        "taken: count {} isr {:02x} irr {:02x}",
        trap::count(0x20),
        status(MASTER, READ_ISR),
        status(MASTER, READ_IRR) & 1
    );
    outb(MASTER, EOI);
    say!("after EOI: isr {:02x}", status(MASTER, READ_ISR));

    timer(2, 11932);
    for tick in 1..=5 {
        let before = trap::count(0x20);
        trap::wait();
        let isr = status(MASTER, READ_ISR);
        outb(MASTER, EOI);
        say!(
            "tick {tick}: {} interrupt, isr {isr:02x}",
            trap::count(0x20) - before
        );
    }
    outb(0x21, 0xff);
    outb(0x43, 0xe2);
    say!("status of counter 0 {:02x}", inb(0x40) & 0x3f);

    // Channel 2 by its gate: the output is bit 5 of port 61h.
    outb(0x61, 0x00);
    outb(0x43, 0xb0);
    outb(0x42, 0x00);
    outb(0x42, 0x10);
    say!("gate off: output {}", inb(0x61) >> 5 & 1);
    outb(0x61, 0x01);
    let high = (0..2_000_000).any(|_| inb(0x61) & 0x20 != 0);
    say!(
        "gate on: output comes {high}, port 61 low bits {:02x}",
        inb(0x61) & 3
    );
    outb(0x43, 0xe8);
    say!("status of counter 2 {:02x}", inb(0x42) & 0xbf);

    // The slave, by the RTC's periodic interrupt. Its cause is read before that is enabled, and no more until it has come:
    // the PIC would keep the edge of one that nobody is told the cause of.
    outb(0x70, 0x0c);
    inb(0x71);
    outb(0x70, 0x0b);
    outb(0x71, 0x42);
    outb(0x21, 0xfb);
    outb(0xa1, 0xfe);
    trap::wait();
    let (isr, slave_isr) = (status(MASTER, READ_ISR), status(SLAVE, READ_ISR));
    outb(0x70, 0x0c);
    say!(
        "rtc: count {} isr {isr:02x} {slave_isr:02x} cause {:02x}",
        trap::count(0x28),
        inb(0x71) & 0xc0
    );
    outb(SLAVE, EOI);
    outb(MASTER, EOI);
    say!(
        "after EOI: isr {:02x} {:02x}",
        status(MASTER, READ_ISR),
        status(SLAVE, READ_ISR)
    );
    outb(0x70, 0x0b);
    outb(0x71, 0x02);
    power::end(power::DONE)
}
