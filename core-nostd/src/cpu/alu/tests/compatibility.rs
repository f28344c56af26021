//! Decimal adjustment against the processor. 64-bit mode lacks these instructions, so they run in
//! Linux's 32-bit code segment, from a page below 4 GiB.

use core::arch::asm;
use std::prelude::v1::*;

use super::{earlier_flags, undefined_flags_comparable};
use crate::cpu::alu::{
    AF, CF, DivideError, LazyFlags, STATUS, aaa, aad, aam, aas, daa, das, undefined,
};

/// Linux: the user's 64-bit and 32-bit code segments.
const CODE_64: u16 = 0x33;
const CODE_32: u16 = 0x23;

const MAP_BYTES: usize = 0x2000;
/// Offsets in the mapping: the 64-bit entry, the 32-bit code, the 64-bit exit.
const ENTER: usize = 0;
const CODE: usize = 0x100;
const LEAVE: usize = 0x200;
/// The caller's stack pointer; the far pointer to the 32-bit code; the end of a stack.
const SAVED: usize = 0x800;
const FAR: usize = 0x810;
const STACK: usize = MAP_BYTES;

const SYS_MMAP: usize = 9;
const SYS_MUNMAP: usize = 11;
/// PROT_READ, PROT_WRITE, PROT_EXEC.
const READ_WRITE_EXECUTE: usize = 7;
/// MAP_PRIVATE, MAP_ANONYMOUS, MAP_32BIT.
const PRIVATE_LOW: usize = 0x62;

/// Whether there is a present 32-bit code segment behind the selector.
fn has_32_bit_code() -> bool {
    let rights: u32;
    let valid: u8;
    // SAFETY: LAR reads a descriptor's rights and never faults in long mode.
    unsafe {
        asm!(
            "lar {rights:e}, {selector:e}",
            "setz {valid}",
            selector = in(reg) u32::from(CODE_32),
            rights = inout(reg) 0u32 => rights,
            valid = out(reg_byte) valid,
        );
    }
    // Type code, S, DPL 3, P; D without L.
    valid != 0 && rights & 0xf800 == 0xf800 && rights & 0x60_0000 == 0x40_0000
}

/// One instruction of 32-bit mode, ready to run.
struct Instruction {
    base: usize,
}

impl Instruction {
    /// `None`, said aloud, where the system does not allow it.
    fn new(bytes: &[u8]) -> Option<Self> {
        let base: isize;
        // SAFETY: A new anonymous mapping, where nothing was.
        unsafe {
            asm!(
                "syscall",
                inout("rax") SYS_MMAP as isize => base,
                in("rdi") 0,
                in("rsi") MAP_BYTES,
                in("rdx") READ_WRITE_EXECUTE,
                in("r10") PRIVATE_LOW,
                in("r8") -1isize,
                in("r9") 0,
                out("rcx") _,
                out("r11") _,
            );
        }
        if base < 0 || !has_32_bit_code() {
            std::eprintln!("SKIPPED: decimal adjustment, as there is no 32-bit code here");
            return None;
        }
        let this = Self {
            base: base as usize,
        };
        let low = |offset: usize| ((this.base + offset) as u32).to_le_bytes();
        // mov [SAVED], rsp; mov esp, STACK; push rdx; popfq; jmp far [FAR]
        let mut enter = std::vec![0x48, 0x89, 0x24, 0x25];
        enter.extend(low(SAVED));
        enter.push(0xbc);
        enter.extend(low(STACK));
        enter.extend([0x52, 0x9d, 0xff, 0x2c, 0x25]);
        enter.extend(low(FAR));
        this.write(ENTER, &enter);
        // The instruction; pushfd; jmp CODE_64:LEAVE
        let mut code = bytes.to_vec();
        code.extend([0x9c, 0xea]);
        code.extend(low(LEAVE));
        code.extend(CODE_64.to_le_bytes());
        this.write(CODE, &code);
        // mov edx, [rsp]; mov rsp, [SAVED]; ret
        let mut leave = std::vec![0x8b, 0x14, 0x24, 0x48, 0x8b, 0x24, 0x25];
        leave.extend(low(SAVED));
        leave.push(0xc3);
        this.write(LEAVE, &leave);
        let mut far = low(CODE).to_vec();
        far.extend(CODE_32.to_le_bytes());
        this.write(FAR, &far);
        Some(this)
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        let to = (self.base + offset) as *mut u8;
        // SAFETY: All offsets are far enough from the end of the mapping.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    /// AX and the status flags after it.
    fn run(&self, ax: u16, flags: u64) -> (u16, u64) {
        let mut rax = u64::from(ax);
        let mut rdx = (flags & STATUS) | 0x202;
        // SAFETY: The code changes A, D, flags and its own stack. 32-bit mode need not keep the
        // registers that it does not have.
        unsafe {
            asm!(
                "call {entry}",
                entry = in(reg) self.base + ENTER,
                inout("rax") rax,
                inout("rdx") rdx,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _,
                out("r12") _, out("r13") _, out("r14") _, out("r15") _,
            );
        }
        (rax as u16, rdx & STATUS)
    }
}

impl Drop for Instruction {
    fn drop(&mut self) {
        // SAFETY: The mapping is this value's own and no code in it runs.
        unsafe {
            asm!(
                "syscall",
                inout("rax") SYS_MUNMAP => _,
                in("rdi") self.base,
                in("rsi") MAP_BYTES,
                out("rcx") _,
                out("r11") _,
            );
        }
    }
}

/// Every AX, with CF and AF in all combinations and the other flags varied.
fn compare(bytes: &[u8], undefined: u64, ours: impl Fn(u16, LazyFlags) -> (u16, LazyFlags)) {
    let Some(instruction) = Instruction::new(bytes) else {
        return;
    };
    let known = if undefined_flags_comparable() {
        STATUS
    } else {
        STATUS & !undefined
    };
    let others = earlier_flags::<u8>();
    for ax in 0..=u16::MAX {
        for flags in [0, CF, AF, CF | AF] {
            let others = others[usize::from(ax) % others.len()].status() & !(CF | AF);
            let input = LazyFlags::from_rflags(others | flags);
            let (expected, expected_flags) = instruction.run(ax, input.status());
            let (got, got_flags) = ours(ax, input);
            let got_flags = got_flags.status();
            assert!(
                got == expected && (got_flags ^ expected_flags) & known == 0,
                "{bytes:x?} of {ax:#x}, flags {:#x} gave {got:#x} with {got_flags:#x}, \
                 the processor {expected:#x} with {expected_flags:#x}",
                input.status(),
            );
        }
    }
}

/// An operation on AL as one on AX.
fn on_al(f: fn(u8, LazyFlags) -> (u8, LazyFlags)) -> impl Fn(u16, LazyFlags) -> (u16, LazyFlags) {
    move |ax, flags| {
        let (al, flags) = f(ax as u8, flags);
        ((ax & 0xff00) | u16::from(al), flags)
    }
}

#[test]
fn packed_digits_are_exact() {
    compare(&[0x27], undefined::DECIMAL_ADJUST, on_al(daa));
    compare(&[0x2f], undefined::DECIMAL_ADJUST, on_al(das));
}

#[test]
fn unpacked_digits_are_exact() {
    compare(&[0x37], undefined::ASCII_ADJUST, aaa);
    compare(&[0x3f], undefined::ASCII_ADJUST, aas);
}

#[test]
fn digits_of_any_base_are_exact() {
    for base in [1, 2, 7, 10, 16, 0x80, 0xff] {
        compare(&[0xd4, base], undefined::ASCII_BASE, |ax, _| {
            aam(ax as u8, base).expect("not zero")
        });
    }
    for base in [0, 1, 10, 16, 0x80, 0xff] {
        compare(&[0xd5, base], undefined::ASCII_BASE, |ax, _| aad(ax, base));
    }
    assert_eq!(aam(5, 0).err(), Some(DivideError));
}
