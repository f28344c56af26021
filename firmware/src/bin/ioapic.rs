//! The I/O APIC: edges of the 8254 at input 2, and the RTC's line as a level, with its end told by the local APIC.
//! Prints only what does not depend on speed.
#![no_std]
#![no_main]

use thimble_firmware::io::{inb, outb};
use thimble_firmware::{io, power, say, trap};

thimble_firmware::image!(main);

const IOAPIC: u64 = 0xfec0_0000;
const APIC: u64 = 0xfee0_0000;
const TIMER: u32 = 2;
const RTC: u32 = 8;
const LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;

fn select(register: u32) {
    // SAFETY: IOREGSEL.
    unsafe { io::write(IOAPIC, register) };
}

fn read(register: u32) -> u32 {
    select(register);
    // SAFETY: IOWIN.
    unsafe { io::read(IOAPIC + 0x10) }
}

fn write(register: u32, value: u32) {
    select(register);
    // SAFETY: IOWIN.
    unsafe { io::write(IOAPIC + 0x10, value) };
}

fn entry(pin: u32) -> u32 {
    read(0x10 + 2 * pin)
}

fn set_entry(pin: u32, value: u32) {
    write(0x11 + 2 * pin, 0);
    write(0x10 + 2 * pin, value);
}

fn end_of_interrupt() {
    // SAFETY: the local APIC's EOI register.
    unsafe { io::write(APIC + 0xb0, 0u32) };
}

fn cmos(register: u8) -> u8 {
    outb(0x70, register);
    inb(0x71)
}

fn set_cmos(register: u8, value: u8) {
    outb(0x70, register);
    outb(0x71, value);
}

fn main() -> ! {
    // SAFETY: the local APIC's registers: on, and the 8259A's line kept out.
    unsafe {
        io::write(APIC + 0xf0, 0x1ffu32);
        io::write(APIC + 0x350, MASKED);
    }
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    say!("inputs {}", (read(1) >> 16 & 0xff) + 1);
    say!("entry 23 {:#x}", entry(23));

    outb(0x43, 0x34);
    outb(0x40, 0x9c);
    outb(0x40, 0x2e);
    set_entry(TIMER, 0x22);
    for tick in 1..=3 {
        let before = trap::count(0x22);
        trap::wait();
        end_of_interrupt();
        say!("tick {tick}: {} interrupt", trap::count(0x22) - before);
    }
    set_entry(TIMER, MASKED | 0x22);
    // One that came before the mask.
    outb(0x43, 0x30);
    end_of_interrupt();

    cmos(0x0c);
    set_cmos(0x0b, 0x42);
    set_entry(RTC, LEVEL | 0x28);
    for turn in 1..=3 {
        trap::wait();
        say!(
            "level {turn}: count {} entry {:#x}",
            trap::count(0x28),
            entry(RTC)
        );
        if turn == 3 {
            set_cmos(0x0b, 0x02);
            cmos(0x0c);
        }
        // The line is high but for the last time: it comes again. What is left behind at the end is not printed: some
        // hosts that are guests themselves end an interrupt as they deliver it.
        end_of_interrupt();
    }
    set_entry(RTC, MASKED);
    power::end(power::DONE)
}
