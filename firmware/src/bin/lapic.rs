//! The local APIC of the first processor: registers, interrupts to itself, priorities and the timer.
//! Prints only what does not depend on speed.
#![no_std]
#![no_main]

use thimble_firmware::io::outb;
use thimble_firmware::{io, power, say, trap};

thimble_firmware::image!(main);

const APIC: u64 = 0xfee0_0000;
const TPR: u64 = 0x80;
const PPR: u64 = 0xa0;
const EOI: u64 = 0xb0;
const LDR: u64 = 0xd0;
const DFR: u64 = 0xe0;
const SVR: u64 = 0xf0;
const ISR: u64 = 0x100;
const TMR: u64 = 0x180;
const IRR: u64 = 0x200;
const ICR_LOW: u64 = 0x300;
const ICR_HIGH: u64 = 0x310;
const LVT_TIMER: u64 = 0x320;
const LVT_LINT0: u64 = 0x350;
const LVT_ERROR: u64 = 0x370;
const TIMER_INITIAL: u64 = 0x380;
const TIMER_CURRENT: u64 = 0x390;
const TIMER_DIVIDE: u64 = 0x3e0;

const MASKED: u32 = 1 << 16;
const PERIODIC: u32 = 1 << 17;
/// To the processor itself.
const SELF: u32 = 1 << 18;
/// By logical id.
const LOGICAL: u32 = 1 << 11;
/// Clock divided by one.
const UNDIVIDED: u32 = 0xb;

fn read(register: u64) -> u32 {
    // SAFETY: a register of the local APIC.
    unsafe { io::read(APIC + register) }
}

fn write(register: u64, value: u32) {
    // SAFETY: a register of the local APIC.
    unsafe { io::write(APIC + register, value) };
}

/// The register of vectors 20h to 3Fh.
fn word(first: u64) -> u32 {
    read(first + 0x10)
}

fn requests(what: &str) {
    say!(
        "{what}: requested {:#x}, in service {:#x}, level {:#x}, priority {:#x}",
        word(IRR),
        word(ISR),
        word(TMR),
        read(PPR)
    );
}

/// Waits for an interrupt, and says which vectors came.
fn take(what: &str) {
    let before: [u32; 16] = core::array::from_fn(|i| trap::count(0x20 + i));
    trap::wait();
    for (i, before) in before.iter().enumerate() {
        let more = trap::count(0x20 + i) - before;
        if more != 0 {
            say!("{what}: vector {:#x} {more} times", 0x20 + i);
        }
    }
}

fn registers() {
    for register in [0x20, 0x30, TPR, PPR, LDR, DFR, SVR, ICR_LOW, ICR_HIGH] {
        say!("register {register:#x}: {:#x}", read(register));
    }
    // But for LINT0: emulators open it for the 8259A before any firmware has run, or don't.
    let entries = (LVT_TIMER..=LVT_ERROR).step_by(0x10);
    for register in entries.filter(|register| *register != LVT_LINT0) {
        say!("entry {register:#x}: {:#x}", read(register));
    }
    for register in [TIMER_INITIAL, TIMER_CURRENT, TIMER_DIVIDE] {
        say!("timer {register:#x}: {:#x}", read(register));
    }
}

fn main() -> ! {
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    registers();
    // All entries are masked while it is disabled.
    write(LVT_ERROR, 0x2e);
    say!("disabled: entry {:#x}", read(LVT_ERROR));
    write(SVR, 0x1ff);
    write(LVT_LINT0, MASKED);
    for (register, value) in [
        (TPR, 0xf0),
        (LDR, 0x0200_0000),
        (LVT_ERROR, 0x2e),
        (LVT_TIMER, MASKED | 0x2d),
        (TIMER_DIVIDE, UNDIVIDED),
        (ICR_HIGH, 0xff00_0000),
    ] {
        write(register, value);
        say!("wrote {register:#x}: {:#x}", read(register));
    }
    requests("highest task");
    write(TPR, 0);

    write(ICR_LOW, SELF | 0x22);
    say!("command {:#x}", read(ICR_LOW));
    requests("sent");
    take("to itself");
    requests("taken");
    write(EOI, 0);
    requests("ended");

    // By physical and by logical id, and to nobody.
    for (high, low) in [
        (0, 0x23),
        (0x0200_0000, LOGICAL | 0x24),
        (0xff00_0000, 0x25),
        (0x0100_0000, 0x26),
        (0x0100_0000, LOGICAL | 0x27),
    ] {
        write(ICR_HIGH, high);
        write(ICR_LOW, low);
        requests("sent");
    }
    // Of one class: the highest first, and the next behind its end.
    for _ in 0..3 {
        take("by class");
        requests("taken");
        write(EOI, 0);
    }
    requests("ended");

    write(TPR, 0x20);
    write(ICR_LOW, SELF | 0x2f);
    requests("held by the task");
    write(TPR, 0x1f);
    take("let through");
    write(EOI, 0);
    write(TPR, 0);

    write(TIMER_INITIAL, 1_000_000);
    let started = read(TIMER_CURRENT);
    say!("counting {}", started > 0 && started <= 1_000_000);
    while read(TIMER_CURRENT) != 0 {}
    requests("ended while masked");
    write(LVT_TIMER, 0x2d);
    requests("unmasked");
    write(TIMER_INITIAL, 1_000_000);
    take("timer");
    say!("once {:#x} {}", read(TIMER_INITIAL), read(TIMER_CURRENT));
    write(EOI, 0);
    write(LVT_TIMER, PERIODIC | 0x2c);
    write(TIMER_INITIAL, 20_000_000);
    for _ in 0..3 {
        take("periodic timer");
        write(EOI, 0);
    }
    let now = read(TIMER_CURRENT);
    say!("going on {}", now > 0 && now <= 20_000_000);
    write(TIMER_INITIAL, 0);
    say!("stopped {}", read(TIMER_CURRENT));

    write(SVR, 0xff);
    say!("disabled: {:#x} {:#x}", read(LVT_TIMER), read(LVT_ERROR));
    power::end(power::DONE)
}
