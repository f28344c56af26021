//! Ways to reset, one a round. A CMOS byte, which survives a reset, counts the rounds. Run without `-no-reboot`.
#![no_std]
#![no_main]

use thimble_firmware::io::{cmos, inb, outb, set_cmos};
use thimble_firmware::{power, say, trap};

thimble_firmware::image!(main);

/// Scratch byte of the CMOS, and the mark beside it that tells the first round from garbage.
const ROUND: u8 = 0x60;
const MARK: u8 = 0x61;
const MARKED: u8 = 0xc3;

fn main() -> ! {
    if cmos(MARK) != MARKED {
        set_cmos(MARK, MARKED);
        set_cmos(ROUND, 0);
    }
    let round = cmos(ROUND);
    set_cmos(ROUND, round.wrapping_add(1));
    // SAFETY: the debug console's own state is not in RAM; the byte at 200000h is nobody's.
    let kept = unsafe { thimble_firmware::io::read::<u8>(0x20_0000) };
    say!(
        "round {round}: port 92 {:02x} cf9 {:02x} 8042 {:02x} ram {kept:02x}",
        inb(0x92),
        inb(0xcf9),
        inb(0x64)
    );
    // SAFETY: as above.
    unsafe { thimble_firmware::io::write(0x20_0000, 0x40 + round) };
    match round {
        0 => outb(0x64, 0xfe),
        1 => {
            outb(0x92, inb(0x92) & !1);
            outb(0x92, inb(0x92) | 1);
        }
        2 => {
            outb(0xcf9, 0x02);
            outb(0xcf9, 0x06);
        }
        3 => {
            outb(0xcf9, 0x0a);
            outb(0xcf9, 0x0e);
        }
        4 => trap::triple_fault(),
        _ => {
            set_cmos(MARK, 0);
            power::end(power::DONE)
        }
    }
    for _ in 0..1_000_000 {
        inb(0x80);
    }
    say!("round {round}: no reset came");
    power::end(power::DONE)
}
