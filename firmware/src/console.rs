//! The console: the debug port 402h, and COM1 (16550) at 3F8h.
//!
//! No register of the UART is programmed for speed, because nothing but the data register matters to an emulator's
//! byte stream. An absent UART reads FFh and is left alone.

use core::fmt;

use crate::io::{inb, outb, outsb};

/// Debug console port, where SeaBIOS writes too.
pub const DEBUG_PORT: u16 = 0x402;
/// COM1.
pub const COM1: u16 = 0x3f8;
/// Line status register, transmitter holding register empty.
const LSR_THRE: u8 = 1 << 5;
/// How often a full transmitter is asked before its byte is given up.
const PATIENCE: u32 = 1 << 16;

/// Both outputs, as a formatter's sink.
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        outsb(DEBUG_PORT, text.as_bytes());
        text.bytes().for_each(serial);
        Ok(())
    }
}

fn serial(byte: u8) {
    if byte == b'\n' {
        serial(b'\r');
    }
    for _ in 0..PATIENCE {
        match inb(COM1 + 5) {
            0xff => return,
            status if status & LSR_THRE != 0 => return outb(COM1, byte),
            _ => {}
        }
    }
}
