//! Prints what depends on time and chance: time stamps, counts of the PIT and of the local APIC's timer, how far loops
//! come between interrupts, random numbers, and what other processors do meanwhile. Where time goes by instructions
//! (`-icount`), with a seed and a clock that starts at a fixed time, every run prints the same.
//!
//! With more than one processor the others count in memory, each in its own way: with PAUSE, without, and one that
//! sleeps until it is told to count.
#![no_std]
#![no_main]

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

use thimble_firmware::fw_cfg::{self, FwCfg};
use thimble_firmware::io::{cmos, inb, outb};
use thimble_firmware::{io, power, say, trap};

thimble_firmware::image!(main);

const APIC: u64 = 0xfee0_0000;
const EOI: u64 = APIC + 0xb0;
const SVR: u64 = APIC + 0xf0;
const ICR_LOW: u64 = APIC + 0x300;
const ICR_HIGH: u64 = APIC + 0x310;
const LVT_TIMER: u64 = APIC + 0x320;
const TIMER_INITIAL: u64 = APIC + 0x380;
const TIMER_CURRENT: u64 = APIC + 0x390;
const TIMER_DIVIDE: u64 = APIC + 0x3e0;
const VECTOR: u32 = 0x29;

const TRAMPOLINE: u64 = 0x2_0000;
/// Where the other processors count: not in the page of their code, which would be decoded again each time.
const COUNTS: u64 = TRAMPOLINE + 0x1000;

core::arch::global_asm!(
    r#"
.section .rodata.trampoline, "a"
.code16
ap_start:
    movw %cs, %ax
    movw %ax, %ds
    movl $1, %eax
    cpuid
    shrl $24, %ebx
    cmpb $2, %bl
    jb 1f
    je 2f
3:  cli
    hlt
    jmp 3b
# Counts as fast as it can.
1:  lock incl 0x1004
    jmp 1b
# Waits for the count of the first one to change, and counts how often it did.
2:  movl 0x1004, %eax
4:  pause
    cmpl 0x1004, %eax
    je 4b
    incl 0x1008
    jmp 2b
ap_end:
.code64
"#,
    options(att_syntax)
);

unsafe extern "C" {
    static ap_start: [u8; 0];
    static ap_end: [u8; 0];
}

/// What the loop between two interrupts adds to.
static WORK: AtomicU32 = AtomicU32::new(0);

fn read(register: u64) -> u32 {
    // SAFETY: a register of the local APIC, or a count.
    unsafe { io::read(register) }
}

fn write(register: u64, value: u32) {
    // SAFETY: as above.
    unsafe { io::write(register, value) };
}

/// Sixty-four bits of RDRAND.
fn random() -> u64 {
    let value: u64;
    // SAFETY: changes nothing but the register.
    unsafe { asm!("2: rdrand {0}", "jnc 2b", out(reg) value) };
    value
}

/// What the PIT's counter 0 reads.
fn pit() -> u16 {
    outb(0x43, 0);
    u16::from_le_bytes([inb(0x40), inb(0x40)])
}

fn moment(what: &str, number: u32) {
    say!(
        "{what} {number}: tsc {}, pit {:04x}, timer {:x}, work {}, others {} {}, second {:02x}, random {:016x}",
        io::tsc(),
        pit(),
        read(TIMER_CURRENT),
        WORK.load(Ordering::Relaxed),
        read(COUNTS + 4),
        read(COUNTS + 8),
        cmos(0),
        random()
    );
}

fn main() -> ! {
    let cpus = FwCfg::find().map_or(1, |device| device.u16(fw_cfg::NB_CPUS));
    write(SVR, 0x1ff);
    write(TIMER_DIVIDE, 0xb);
    for port in [0x21, 0xa1] {
        outb(port, 0xff);
    }
    moment("start", 0);
    // SAFETY: the trampoline's page is nobody else's; the symbols enclose its code.
    unsafe {
        let (start, end) = (&raw const ap_start as u64, &raw const ap_end as u64);
        for at in start..end {
            io::write(TRAMPOLINE + at - start, io::read::<u8>(at));
        }
        io::write(COUNTS, [0u32; 4]);
    }
    for target in 1..u32::from(cpus).min(255) {
        for command in [0x4500, 0x4600 | (TRAMPOLINE >> 12) as u32] {
            write(ICR_HIGH, target << 24);
            write(ICR_LOW, command);
        }
    }
    // Interrupts that come between any two instructions of a loop.
    write(LVT_TIMER, VECTOR);
    for number in 0..20 {
        let before = trap::count(VECTOR as usize);
        write(TIMER_INITIAL, 200_000 + 12_345 * number);
        trap::enable_interrupts();
        while trap::count(VECTOR as usize) == before {
            WORK.fetch_add(1, Ordering::Relaxed);
        }
        write(EOI, 0);
        moment("interrupt", number);
    }
    // And that end a wait.
    for number in 0..10 {
        write(TIMER_INITIAL, 3_000_000 + 77_777 * number);
        trap::wait();
        write(EOI, 0);
        moment("wait", number);
    }
    power::end(power::DONE)
}
