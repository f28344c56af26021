//! Prints one line from ring 3 of long mode and ends.
#![no_std]
#![no_main]

thimble_firmware::image!(main);

fn main() -> ! {
    let (code, flags): (u64, u64);
    // SAFETY: reads registers.
    unsafe { core::arch::asm!("mov {}, cs", "pushfq", "pop {}", out(reg) code, out(reg) flags) };
    thimble_firmware::say!("hello from ring {} with IOPL {}", code & 3, flags >> 12 & 3);
    thimble_firmware::power::end(thimble_firmware::power::DONE)
}
