//! Ways to end.

use crate::io::{inb, outb};
use crate::trap;

/// Port where runners place isa-debug-exit; a write of `n` ends the emulator with status `2n + 1`.
pub const DEBUG_EXIT: u16 = 0xf4;
/// What images write there when they are through: status 33.
pub const DONE: u8 = 0x10;

/// Ends through isa-debug-exit; without that device the processor stops for good.
pub fn end(status: u8) -> ! {
    outb(DEBUG_EXIT, status);
    stop()
}

/// Stops the processor with interrupts off at the controllers.
pub fn stop() -> ! {
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    loop {
        trap::wait();
    }
}

/// Resets the machine: the reset control register CF9h, then port 92h, then a triple fault for
/// boards that have neither.
pub fn reset() -> ! {
    outb(0xcf9, 0x02);
    outb(0xcf9, 0x06);
    outb(0x92, inb(0x92) & !1);
    outb(0x92, inb(0x92) | 1);
    trap::triple_fault()
}
