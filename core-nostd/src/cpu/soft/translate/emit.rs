//! An assembler for the few x86-64 instructions that translations are made of.
//!
//! Source: Intel SDM volume 2, chapter 2 "Instruction Format", and the instructions' entries.
#![allow(unsafe_code)]

use crate::cpu::decode::Size;

/// Host registers by their numbers in encodings.
pub(super) const RAX: u8 = 0;
pub(super) const RCX: u8 = 1;
pub(super) const RDX: u8 = 2;
pub(super) const RBX: u8 = 3;
pub(super) const RSP: u8 = 4;
pub(super) const RBP: u8 = 5;
pub(super) const RSI: u8 = 6;
pub(super) const RDI: u8 = 7;
pub(super) const R8: u8 = 8;
pub(super) const R9: u8 = 9;
pub(super) const R10: u8 = 10;
pub(super) const R11: u8 = 11;
pub(super) const R12: u8 = 12;
pub(super) const R13: u8 = 13;
pub(super) const R14: u8 = 14;
pub(super) const R15: u8 = 15;

/// Opcodes; two-byte ones with 0Fh above.
pub(super) mod opcode {
    /// `MOV r, r/m`; one less for bytes.
    pub(in super::super) const LOAD: u16 = 0x8b;
    /// `MOV r/m, r`; one less for bytes.
    pub(in super::super) const STORE: u16 = 0x89;
    /// `MOV r/m, imm`; one less for bytes.
    pub(in super::super) const STORE_IMMEDIATE: u16 = 0xc7;
    /// `TEST r/m, r`; one less for bytes.
    pub(in super::super) const TEST: u16 = 0x85;
    /// Group 1: an ALU operation named by the register field, with a byte or doubleword.
    pub(in super::super) const GROUP1_BYTE: u16 = 0x80;
    pub(in super::super) const GROUP1: u16 = 0x81;
    pub(in super::super) const GROUP1_SHORT: u16 = 0x83;
    /// Group 2: shifts by an immediate byte, and by CL; one less for bytes.
    pub(in super::super) const SHIFT_IMMEDIATE: u16 = 0xc1;
    pub(in super::super) const SHIFT_CL: u16 = 0xd3;
    /// Group 3: TEST with an immediate, NOT, NEG; one less for bytes.
    pub(in super::super) const GROUP3: u16 = 0xf7;
    /// Group 5: INC, DEC, JMP; INC and DEC of bytes are one less.
    pub(in super::super) const GROUP5: u16 = 0xff;
    pub(in super::super) const LEA: u16 = 0x8d;
    pub(in super::super) const MOVSXD: u16 = 0x63;
    /// MOVZX of a byte, one more for a word.
    pub(in super::super) const MOVZX: u16 = 0x0fb6;
    /// MOVSX of a byte, one more for a word.
    pub(in super::super) const MOVSX: u16 = 0x0fbe;
    pub(in super::super) const IMUL: u16 = 0x0faf;
    pub(in super::super) const IMUL_IMMEDIATE: u16 = 0x69;
    /// Plus the condition.
    pub(in super::super) const CMOV: u16 = 0x0f40;
    pub(in super::super) const SETCC: u16 = 0x0f90;
    /// Group 8: BT with an immediate byte.
    pub(in super::super) const BIT_IMMEDIATE: u16 = 0x0fba;
    /// Group 15, with these in the register field.
    pub(in super::super) const GROUP15: u16 = 0x0fae;
    pub(in super::super) const LDMXCSR: u8 = 2;
    pub(in super::super) const STMXCSR: u8 = 3;
}

/// ALU operations by their number in group 1; eight times that is their opcode.
pub(super) mod alu {
    pub(in super::super) const ADD: u8 = 0;
    pub(in super::super) const OR: u8 = 1;
    pub(in super::super) const AND: u8 = 4;
    pub(in super::super) const SUB: u8 = 5;
    pub(in super::super) const XOR: u8 = 6;
    pub(in super::super) const CMP: u8 = 7;
    /// `op r, r/m` as an opcode.
    pub(in super::super) const fn load(operation: u8) -> u16 {
        operation as u16 * 8 + 3
    }
}

/// An operand: a register or memory.
#[derive(Clone, Copy)]
pub(super) enum Rm {
    Register(u8),
    /// Base, index with its shift, displacement.
    Memory(Option<u8>, Option<(u8, u8)>, i32),
}

/// Memory at a register.
pub(super) const fn at(base: u8, displacement: i32) -> Rm {
    Rm::Memory(Some(base), None, displacement)
}

/// A place that a jump's distance goes to.
#[derive(Clone, Copy)]
pub(super) struct Site(pub(super) u32);

/// Memory that code goes to: where it is written, and where it is executed.
#[derive(Clone, Copy)]
pub(super) struct Assembler {
    write: usize,
    pub(super) position: u32,
    end: u32,
    /// Something did not fit; what was written is of no use.
    pub(super) full: bool,
}

impl Assembler {
    /// # Safety
    /// `length` bytes at the address `write` are nobody else's, and valid for stores while it lives.
    pub(super) unsafe fn new(write: usize, position: u32, length: u32) -> Self {
        Self {
            write,
            position,
            end: length,
            full: false,
        }
    }

    pub(super) fn byte(&mut self, value: u8) {
        if self.position >= self.end {
            self.full = true;
            return;
        }
        let to = core::ptr::with_exposed_provenance_mut::<u8>(self.write + self.position as usize);
        // SAFETY: below `end`, as promised to `new`.
        unsafe { to.write(value) };
        self.position += 1;
    }

    pub(super) fn bytes(&mut self, values: &[u8]) {
        for value in values {
            self.byte(*value);
        }
    }

    pub(super) fn dword(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    /// An instruction with a register and an operand. `opcode` is that for words and more; bytes
    /// have their own.
    pub(super) fn op(&mut self, size: Size, opcode: u16, register: u8, rm: Rm) {
        if size == Size::Word {
            self.byte(0x66);
        }
        let mut rex = 0x40 | u8::from(size == Size::Qword) << 3 | register >> 3 << 2;
        match rm {
            Rm::Register(rm) => rex |= rm >> 3,
            Rm::Memory(base, index, _) => {
                rex |= base.map_or(0, |base| base >> 3);
                rex |= index.map_or(0, |(index, _)| index >> 3 << 1);
            }
        }
        // SPL to DIL are those of bytes with any REX.
        let narrow = matches!(opcode, opcode::MOVZX | opcode::MOVSX) || size == Size::Byte;
        if rex != 0x40 || narrow {
            self.byte(rex);
        }
        if opcode > 0xff {
            self.byte(0x0f);
        }
        self.byte(opcode as u8);
        let register = (register & 7) << 3;
        let (base, index, displacement) = match rm {
            Rm::Register(rm) => return self.byte(0xc0 | register | rm & 7),
            Rm::Memory(base, index, displacement) => (base, index, displacement),
        };
        let short = i8::try_from(displacement);
        let mode = match (base, short) {
            (None, _) => 0,
            (Some(base), Ok(0)) if base & 7 != RBP => 0,
            (_, Ok(_)) => 0x40,
            _ => 0x80,
        };
        let low = base.map_or(RBP, |base| base & 7);
        if index.is_some() || base.is_none() || low == RSP {
            self.byte(mode | register | RSP);
            let (index, scale) = index.unwrap_or((RSP, 0));
            self.byte(scale << 6 | (index & 7) << 3 | low);
        } else {
            self.byte(mode | register | low);
        }
        match (base, mode, short) {
            (Some(_), 0, _) => {}
            (_, 0x40, Ok(short)) => self.byte(short as u8),
            _ => self.dword(displacement as u32),
        }
    }

    /// An operation with its own opcode for bytes.
    pub(super) fn sized(&mut self, size: Size, opcode: u16, register: u8, rm: Rm) {
        self.op(size, opcode - u16::from(size == Size::Byte), register, rm);
    }

    /// An operation of group 1 with an immediate operand.
    pub(super) fn alu(&mut self, size: Size, operation: u8, rm: Rm, immediate: i32) {
        if size == Size::Byte {
            self.op(size, opcode::GROUP1_BYTE, operation, rm);
            self.byte(immediate as u8);
        } else if i8::try_from(immediate).is_ok() {
            self.op(size, opcode::GROUP1_SHORT, operation, rm);
            self.byte(immediate as u8);
        } else {
            self.op(size, opcode::GROUP1, operation, rm);
            self.immediate(size, immediate);
        }
    }

    /// An immediate operand of an operation of this size.
    pub(super) fn immediate(&mut self, size: Size, value: i32) {
        match size {
            Size::Byte => self.byte(value as u8),
            Size::Word => self.bytes(&(value as u16).to_le_bytes()),
            _ => self.dword(value as u32),
        }
    }

    /// `MOV register, [..]` of 64 bits.
    pub(super) fn load(&mut self, register: u8, from: Rm) {
        self.op(Size::Qword, opcode::LOAD, register, from);
    }

    /// `MOV [..], register` of 64 bits.
    pub(super) fn store(&mut self, to: Rm, register: u8) {
        self.op(Size::Qword, opcode::STORE, register, to);
    }

    /// `LEA` of 64 bits.
    pub(super) fn lea(&mut self, register: u8, of: Rm) {
        self.op(Size::Qword, opcode::LEA, register, of);
    }

    /// `MOV register, imm32`, the upper half cleared.
    pub(super) fn set(&mut self, register: u8, value: u32) {
        if register >= 8 {
            self.byte(0x41);
        }
        self.byte(0xb8 | register & 7);
        self.dword(value);
    }

    /// `MOV register, imm64`.
    pub(super) fn set_wide(&mut self, register: u8, value: u64) {
        self.byte(0x48 | register >> 3);
        self.byte(0xb8 | register & 7);
        self.bytes(&value.to_le_bytes());
    }

    /// `Jcc` to a place that [`Self::bind`] says.
    pub(super) fn jump_if(&mut self, condition: u8) -> Site {
        self.bytes(&[0x0f, 0x80 | condition]);
        self.site()
    }

    /// `JMP` to a place that [`Self::bind`] says.
    pub(super) fn jump(&mut self) -> Site {
        self.byte(0xe9);
        self.site()
    }

    /// `CALL`.
    pub(super) fn call(&mut self, target: u32) {
        self.byte(0xe8);
        let site = self.site();
        self.aim(site, target);
    }

    /// `JMP`.
    pub(super) fn jump_to(&mut self, target: u32) {
        let site = self.jump();
        self.aim(site, target);
    }

    fn site(&mut self) -> Site {
        let site = Site(self.position);
        self.dword(0);
        site
    }

    /// Lets a jump go here.
    pub(super) fn bind(&mut self, site: Site) {
        self.aim(site, self.position);
    }

    /// Lets a jump go somewhere.
    pub(super) fn aim(&mut self, site: Site, target: u32) {
        let position = core::mem::replace(&mut self.position, site.0);
        if !self.full {
            self.dword(target.wrapping_sub(site.0 + 4));
        }
        self.position = position;
    }

    /// Goes on at a multiple of 16; what is between traps.
    pub(super) fn align(&mut self) {
        while !self.position.is_multiple_of(16) && !self.full {
            self.byte(0xcc);
        }
    }
}
