//! Starts every other processor by INIT and SIPI through the local APIC (SDM volume 3, 9.4.4), one after the other.
//!
//! Each runs a few instructions of real mode: it takes a lock, prints `ap` and its APIC id, counts itself and halts.
#![no_std]
#![no_main]

use thimble_firmware::fw_cfg::{self, FwCfg};
use thimble_firmware::{io, power, say, trap};

thimble_firmware::image!(main);

const TRAMPOLINE: u64 = 0x2_0000;
const LOCK: u64 = TRAMPOLINE + 0x800;
const STARTED: u64 = TRAMPOLINE + 0x802;
const APIC: u64 = 0xfee0_0000;
const ICR_LOW: u64 = APIC + 0x300;
const ICR_HIGH: u64 = APIC + 0x310;
/// Ticks to wait for a processor: about a second.
const PATIENCE: u64 = 3_000_000_000;

core::arch::global_asm!(
    r#"
.section .rodata.trampoline, "a"
.code16
ap_start:
    movw %cs, %ax
    movw %ax, %ds
1:  movb $1, %al
    xchgb %al, 0x800
    testb %al, %al
    jz 2f
    pause
    jmp 1b
2:  movl $1, %eax
    cpuid
    shrl $24, %ebx
    movw $0x402, %dx
    movb $0x61, %al
    outb %al, %dx
    movb $0x70, %al
    outb %al, %dx
    movb $0x20, %al
    outb %al, %dx
    movb %bl, %al
    shrb $4, %al
    cmpb $10, %al
    jb 3f
    addb $39, %al
3:  addb $48, %al
    outb %al, %dx
    movb %bl, %al
    andb $15, %al
    cmpb $10, %al
    jb 4f
    addb $39, %al
4:  addb $48, %al
    outb %al, %dx
    movb $10, %al
    outb %al, %dx
    movb $0, 0x800
    lock incb 0x802
5:  cli
    hlt
    jmp 5b
ap_end:
.code64
"#,
    options(att_syntax)
);

unsafe extern "C" {
    static ap_start: [u8; 0];
    static ap_end: [u8; 0];
}

fn main() -> ! {
    let cpus = FwCfg::find().map_or(1, |device| device.u16(fw_cfg::NB_CPUS));
    let base = trap::read_msr(0x1b);
    // SAFETY: the local APIC's registers.
    let (id, version) = unsafe {
        (
            io::read::<u32>(APIC + 0x20) >> 24,
            io::read::<u32>(APIC + 0x30) & 0xff,
        )
    };
    say!("cpus {cpus}, base {base:#x}, id {id}, version {version:02x}");
    // SAFETY: the trampoline's page is nobody else's; the symbols enclose its code.
    unsafe {
        let (start, end) = (&raw const ap_start as u64, &raw const ap_end as u64);
        for at in start..end {
            io::write(TRAMPOLINE + at - start, io::read::<u8>(at));
        }
        io::write(LOCK, 0u8);
        io::write(STARTED, 0u8);
    }
    for target in 1..u32::from(cpus).min(255) {
        command(target, 0x4500);
        command(target, 0x4600 | (TRAMPOLINE >> 12) as u32);
        let began = io::tsc();
        // SAFETY: the counter that processors increment.
        let started = || u32::from(unsafe { io::read::<u8>(STARTED) });
        while started() < target && io::tsc().wrapping_sub(began) < PATIENCE {}
        say!("started {}", started());
    }
    power::end(power::DONE)
}

/// Sends an interrupt command to one processor.
fn command(target: u32, low: u32) {
    // SAFETY: the local APIC's registers.
    unsafe {
        io::write(ICR_HIGH, target << 24);
        io::write(ICR_LOW, low);
        while io::read::<u32>(ICR_LOW) & 1 << 12 != 0 {}
    }
}
