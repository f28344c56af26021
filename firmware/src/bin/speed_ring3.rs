//! For measurement: phases of ring-3 code that say how many instructions they run, as those of `asm/speed64.s` do. A
//! hypervisor runs them natively even where it is a guest that can't run ring 0 so.
#![no_std]
#![no_main]

use core::arch::asm;

use thimble_firmware::console::DEBUG_PORT;
use thimble_firmware::io::{outb, outsb};
use thimble_firmware::power;

thimble_firmware::image!(main);

/// Turns of each loop.
const TURNS: u32 = 2_000_000;

/// Prints a phase's line and its marks around what it does.
fn phase(name: &[u8], instructions: u32, work: fn()) {
    let digits: [u8; 8] = core::array::from_fn(|place| {
        let digit = (instructions >> (28 - 4 * place)) as u8 & 0xf;
        b"0123456789abcdef"[usize::from(digit)]
    });
    for text in [name, b" ", &digits, b"\n"] {
        outsb(DEBUG_PORT, text);
    }
    outb(DEBUG_PORT, b'<');
    work();
    outb(DEBUG_PORT, b'>');
}

/// Integer arithmetic and integer SSE2 in turns, with a load and a store: 20 instructions a turn.
fn mixed() {
    let mut words = [0x1234_5678_9abc_def0_u64; 4];
    // SAFETY: changes the words only, which are 32 bytes, and what it says.
    unsafe {
        asm!(
            "movdqu xmm0, [{words}]",
            "pxor xmm1, xmm1",
            "movdqu xmm2, [{words}]",
            "2:",
            "add {a}, {b}",
            "imul {a}, {a}, 0x343fd",
            "add {a}, 0x269ec3",
            "mov {b}, {a}",
            "shr {b}, 7",
            "xor {b}, {a}",
            "movd xmm3, {b}",
            "paddd xmm0, xmm3",
            "pshufd xmm3, xmm0, 0x1b",
            "pxor xmm1, xmm3",
            "paddq xmm2, xmm1",
            "pmuludq xmm3, xmm2",
            "psrlq xmm3, 9",
            "por xmm1, xmm3",
            "movdqu [{words}], xmm2",
            "mov {b}, [{words} + 8]",
            "and {b}, 0xffffff",
            "lea {b}, [{b} + {a} * 2]",
            "dec {turns:e}",
            "jnz 2b",
            words = in(reg) words.as_mut_ptr(),
            a = inout(reg) 12345_u64 => _,
            b = inout(reg) 77_u64 => _,
            turns = inout(reg) TURNS => _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            options(nostack)
        );
    }
}

/// Integer SSE2 alone: 10 instructions a turn.
fn vectors() {
    // SAFETY: changes registers only.
    unsafe {
        asm!(
            "movd xmm0, {turns:e}",
            "pshufd xmm1, xmm0, 0",
            "movdqa xmm2, xmm1",
            "2:",
            "paddd xmm0, xmm1",
            "pshufd xmm3, xmm0, 0x39",
            "pxor xmm2, xmm3",
            "pmullw xmm3, xmm0",
            "paddw xmm2, xmm3",
            "punpcklbw xmm3, xmm2",
            "psubb xmm0, xmm3",
            "pand xmm1, xmm2",
            "dec {turns:e}",
            "jnz 2b",
            turns = inout(reg) TURNS => _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            options(nostack)
        );
    }
}

/// Arithmetic of doubles: 8 instructions a turn.
fn floats() {
    // SAFETY: changes registers only; the default MXCSR masks all exceptions.
    unsafe {
        asm!(
            "cvtsi2sd xmm0, {turns:e}",
            "movapd xmm1, xmm0",
            "movapd xmm2, xmm0",
            "2:",
            "mulsd xmm1, xmm0",
            "addsd xmm2, xmm1",
            "divsd xmm1, xmm0",
            "subpd xmm2, xmm1",
            "sqrtsd xmm3, xmm2",
            "maxsd xmm2, xmm3",
            "dec {turns:e}",
            "jnz 2b",
            turns = inout(reg) TURNS => _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            options(nostack)
        );
    }
}

fn main() -> ! {
    phase(b"mixed", TURNS * 20, mixed);
    phase(b"sse2-integer", TURNS * 10, vectors);
    phase(b"sse2-double", TURNS * 8, floats);
    power::end(power::DONE)
}
