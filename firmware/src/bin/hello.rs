//! Prints one line from ring 3 of long mode and ends.
#![no_std]
#![no_main]

thimble_firmware::image!(main);

fn main() -> ! {
    let code: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, cs", out(reg) code) };
    thimble_firmware::say!("hello from ring {}", code & 3);
    thimble_firmware::power::end(thimble_firmware::power::DONE)
}
