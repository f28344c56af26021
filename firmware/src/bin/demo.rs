//! The demo: a banner with what a guest sees of its machine. Ends by a reset, so that `-no-reboot` turns it into the end with status 0.
#![no_std]
#![no_main]

use core::arch::x86_64::__cpuid;

use thimble_firmware::fw_cfg::{self, FwCfg, RAM};
use thimble_firmware::{io, power, say};

thimble_firmware::image!(main);

fn main() -> ! {
    say!("");
    say!("   .-=-.    Thimble");
    say!("  /:::::\\   a virtual machine that fits on a fingertip");
    say!(" /:::::::\\");
    say!(" '-------'  this is 64-bit Rust in ring 3, from a 64 KiB ROM");
    say!("");
    let mut text = [0; 48];
    say!("  processor    {}", brand(&mut text));
    let mut text = [0; 12];
    let leaf = __cpuid(0);
    say!(
        "  vendor       {}",
        words(&[leaf.ebx, leaf.edx, leaf.ecx], &mut text)
    );
    let mut text = [0; 12];
    say!("  accelerator  {}", accelerator(&mut text));
    match FwCfg::find() {
        Some(device) => {
            say!("  cores        {}", device.u16(fw_cfg::NB_CPUS));
            for range in device
                .memory()
                .ranges()
                .iter()
                .filter(|range| range.kind == RAM)
            {
                let last = range.start.wrapping_add(range.length).wrapping_sub(1);
                say!(
                    "  memory       {} KiB from {:#x} to {last:#x}",
                    range.length >> 10,
                    range.start
                );
            }
        }
        None => say!("  fw_cfg       none"),
    }
    let [second, minute, hour, day, month, year, century] = [0, 2, 4, 7, 8, 9, 0x32].map(io::cmos);
    say!(
        "  clock        {century:02x}{year:02x}-{month:02x}-{day:02x} {hour:02x}:{minute:02x}:{second:02x}"
    );
    let start = io::tsc();
    for number in 0..100_000u32 {
        core::hint::black_box(number);
    }
    say!(
        "  speed        {} TSC ticks for a loop of 100000",
        io::tsc().wrapping_sub(start)
    );
    say!("");
    say!("  Bye.");
    power::reset()
}

fn words<'a>(registers: &[u32], text: &'a mut [u8]) -> &'a str {
    for (to, word) in text.chunks_exact_mut(4).zip(registers) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    core::str::from_utf8(text)
        .unwrap_or("?")
        .trim_matches(['\0', ' '])
}

fn brand(text: &mut [u8; 48]) -> &str {
    if __cpuid(0x8000_0000).eax < 0x8000_0004 {
        return "without a name";
    }
    let mut registers = [0; 12];
    for (leaf, to) in (0x8000_0002..).zip(registers.chunks_exact_mut(4)) {
        let answer = __cpuid(leaf);
        to.copy_from_slice(&[answer.eax, answer.ebx, answer.ecx, answer.edx]);
    }
    words(&registers, text)
}

fn accelerator(text: &mut [u8; 12]) -> &str {
    if __cpuid(1).ecx >> 31 == 0 {
        return "none that tells";
    }
    let leaf = __cpuid(0x4000_0000);
    words(&[leaf.ebx, leaf.ecx, leaf.edx], text)
}
