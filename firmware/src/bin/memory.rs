//! The memory map, the edges of RAM, ROM under writes, and shadowing by the i440FX's PAM registers (datasheet 290549, section 3.2.17).
#![no_std]
#![no_main]

use thimble_firmware::fw_cfg::FwCfg;
use thimble_firmware::{io, power, say};

thimble_firmware::image!(main);

/// Where the code runs that switches the F segment.
const SHADOW_CODE: u64 = 0x3_0000;

core::arch::global_asm!(
    ".section .rodata.shadow, \"a\"",
    "shadow_start:",
    "mov edx, 0xcfd",
    "mov al, 0x30",
    "out dx, al",
    "mov esi, 0xffff0000",
    "mov edi, 0xf0000",
    "mov ecx, 0x4000",
    "rep movsd",
    "ret",
    "shadow_end:",
);

unsafe extern "C" {
    static shadow_start: [u8; 0];
    static shadow_end: [u8; 0];
}

/// Prints a byte, what two writes make of it, and puts it back.
fn probe(name: &str, address: u64) {
    // SAFETY: addresses outside of this program's variables.
    unsafe {
        let before: u8 = io::read(address);
        io::write(address, 0x5au8);
        let first: u8 = io::read(address);
        io::write(address, 0xa5u8);
        let second: u8 = io::read(address);
        io::write(address, before);
        say!("{name} {address:08x} {before:02x} then {first:02x} {second:02x}");
    }
}

fn main() -> ! {
    let Some(device) = FwCfg::find() else {
        say!("no fw_cfg");
        power::end(power::DONE)
    };
    let memory = device.memory();
    let mut total = 0;
    for range in memory.ranges() {
        // Accelerators and versions reserve different pages, so only RAM is told.
        if range.kind == 1 {
            total += range.length;
            say!("ram {:#x} {:#x}", range.start, range.length);
        }
    }
    say!("ram in all {total:#x}");
    let end = memory.low_end();
    say!(
        "cmos 30 {:02x} 31 {:02x} 34 {:02x} 35 {:02x}",
        io::cmos(0x30),
        io::cmos(0x31),
        io::cmos(0x34),
        io::cmos(0x35)
    );
    probe("last byte of RAM", end - 1);
    probe("behind RAM", end);
    probe("behind RAM by 1 MiB", end + 0x10_0000);
    probe("base memory end", 0x9_ffff);
    probe("first of extended memory", 0x10_0000);
    probe("rom", 0xf_fff3);
    probe("rom below 4 GiB", 0xffff_fff3);
    // SAFETY: reads only; a quad across the end of RAM.
    let across: u64 = unsafe {
        (end as usize as *const u8)
            .wrapping_sub(4)
            .cast::<u64>()
            .read_unaligned()
    };
    say!("across the end {across:016x}");

    // PAM5 and PAM6 cover E0000h to EFFFFh in pieces of 16 KiB, PAM0 bits 4-5 F0000h: 1 reads RAM, 2 writes it.
    // This program runs in F0000h, so the pieces of the E segment are switched, and of F only writing.
    say!(
        "pam {:02x?}",
        [0x59, 0x5a, 0x5b, 0x5c, 0x5d, 0x5e, 0x5f].map(|register| io::pci(0, 0, register))
    );
    for mode in [0x00, 0x11, 0x22, 0x33] {
        io::set_pci(0, 0, 0x5e, mode);
        say!("pam5 {:02x}", io::pci(0, 0, 0x5e));
        probe("e0000", 0xe_0000);
        probe("e4000", 0xe_4000);
    }
    io::set_pci(0, 0, 0x5e, 0x33);
    // SAFETY: RAM under the E segment.
    unsafe { io::write(0xe_0000, 0x77u8) };
    io::set_pci(0, 0, 0x5e, 0x11);
    probe("written, then read only", 0xe_0000);
    io::set_pci(0, 0, 0x5e, 0x00);
    probe("switched off", 0xe_0000);
    // A few instructions in low RAM switch the F segment and copy the ROM from below 4 GiB.
    // SAFETY: the page is nobody's, the code leaves nothing changed but the segment, which has the same bytes afterwards.
    unsafe {
        let (start, end) = (&raw const shadow_start as u64, &raw const shadow_end as u64);
        for at in start..end {
            io::write(SHADOW_CODE + at - start, io::read::<u8>(at));
        }
        io::pci(0, 0, 0x59);
        core::mem::transmute::<usize, extern "C" fn()>(SHADOW_CODE as usize)();
    }
    say!("pam0 {:02x}, running from RAM", io::pci(0, 0, 0x59));
    probe("shadow", 0xf_fff8);
    io::set_pci(0, 0, 0x59, 0x10);
    probe("write-protected shadow", 0xf_fff8);
    io::set_pci(0, 0, 0x59, 0x00);
    probe("rom again", 0xf_fff8);
    power::end(power::DONE)
}
