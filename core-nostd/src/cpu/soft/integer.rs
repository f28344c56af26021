//! Arithmetic, logic, moves and conversions on general registers and memory.

use super::access::{Word, sized};
use super::{Bus, Cpu, Exception, Outcome};
use crate::cpu::alu::{self, DivideError, LazyFlags};
use crate::cpu::decode::{Instruction, Operation, Register, RegisterClass, Size};
use crate::cpu::gpr::{RAX, RBX, RCX, RDX};

/// An operation of two operands that changes the first: result and flags.
type Binary<W> = fn(W, W, LazyFlags) -> (W, LazyFlags);
/// An operation of one operand that changes it.
type Unary<W> = fn(W, LazyFlags) -> (W, LazyFlags);

impl Cpu {
    /// ADD, ADC, SUB, SBB, AND, OR, XOR.
    pub(super) fn binary(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        fn operation<W: Word>(operation: Operation) -> Binary<W> {
            match operation {
                Operation::Add => |a, b, _| alu::add(a, b),
                Operation::Adc => alu::adc,
                Operation::Sub => |a, b, _| alu::sub(a, b),
                Operation::Sbb => alu::sbb,
                Operation::And => |a, b, _| alu::and(a, b),
                Operation::Or => |a, b, _| alu::or(a, b),
                _ => |a, b, _| alu::xor(a, b),
            }
        }
        sized!(i.operand_size(), W => {
            let operate = operation::<W>(i.operation());
            let (source, flags) = (self.read::<W>(bus, i, 1)?, self.flags);
            if let Some(flags) = self.update(bus, i, 0, |a: W| operate(a, source, flags))? {
                self.flags = flags;
            }
        });
        Ok(())
    }

    /// CMP, TEST: flags only.
    pub(super) fn compare(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        sized!(i.operand_size(), W => {
            let a = self.read::<W>(bus, i, 0)?;
            let b = self.read::<W>(bus, i, 1)?;
            self.flags = if i.operation() == Operation::Cmp {
                alu::cmp(a, b)
            } else {
                alu::test(a, b)
            };
        });
        Ok(())
    }

    /// INC, DEC, NEG, NOT.
    pub(super) fn unary(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        fn operation<W: Word>(operation: Operation) -> Unary<W> {
            match operation {
                Operation::Inc => alu::inc,
                Operation::Dec => alu::dec,
                Operation::Neg => |a, _| alu::neg(a),
                _ => |a, flags| (alu::not(a), flags),
            }
        }
        sized!(i.operand_size(), W => {
            let (operate, flags) = (operation::<W>(i.operation()), self.flags);
            if let Some(flags) = self.update(bus, i, 0, |a: W| operate(a, flags))? {
                self.flags = flags;
            }
        });
        Ok(())
    }

    /// MOV between general registers, memory and immediates.
    pub(super) fn mov(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        sized!(i.operand_size(), W => {
            let value = self.read::<W>(bus, i, 1)?;
            self.write(bus, i, 0, value)
        })
    }

    /// MOVZX, MOVSX, MOVSXD: the source has a size of its own.
    pub(super) fn mov_extended(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let signed = i.operation() != Operation::Movzx;
        let value = sized!(source_size(i), S => {
            let value = self.read::<S>(bus, i, 1)?;
            if signed { alu::Word::sign_extend(value) } else { alu::Word::zero_extend(value) }
        });
        sized!(i.operand_size(), W => self.write(bus, i, 0, <W as alu::Word>::truncate(value)))
    }

    /// LEA.
    pub(super) fn lea(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let (_, offset) = self.memory_at(i)?;
        sized!(i.operand_size(), W => self.write(bus, i, 0, <W as alu::Word>::truncate(offset)))
    }

    /// XCHG: locked if one is memory.
    pub(super) fn xchg(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        sized!(i.operand_size(), W => {
            // The decoder puts memory first.
            let other = self.read::<W>(bus, i, 1)?;
            let old = if i.memory().is_some() {
                let (segment, offset) = self.memory_at(i)?;
                self.modify(bus, segment, offset, true, |old: W| (other, old))?
            } else {
                let old = self.read::<W>(bus, i, 0)?;
                self.write(bus, i, 0, other)?;
                old
            };
            self.write(bus, i, 1, old)
        })
    }

    /// XADD.
    pub(super) fn xadd(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        sized!(i.operand_size(), W => {
            let addend = self.read::<W>(bus, i, 1)?;
            // The sum goes last: both operands may be one register.
            let (old, flags) = if i.memory().is_some() {
                let (segment, offset) = self.memory_at(i)?;
                self.modify(bus, segment, offset, i.lock(), |old: W| {
                    let (sum, flags) = alu::add(old, addend);
                    (sum, (old, flags))
                })?
            } else {
                let old = self.read::<W>(bus, i, 0)?;
                (old, alu::add(old, addend).1)
            };
            self.write(bus, i, 1, old)?;
            if i.memory().is_none() {
                self.write(bus, i, 0, alu::add(old, addend).0)?;
            }
            self.flags = flags;
        });
        Ok(())
    }

    /// CMPXCHG. Memory is written in either case, as the bus cycle is.
    pub(super) fn cmpxchg(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        sized!(i.operand_size(), W => {
            let source = self.read::<W>(bus, i, 1)?;
            let accumulator = self.register::<W>(RAX);
            let old = if i.memory().is_some() {
                self.update(bus, i, 0, |old: W| {
                    (if old == accumulator { source } else { old }, old)
                })?
            } else {
                // A register that differs is left alone whole: 32 bits are not zero-extended.
                let old = self.read::<W>(bus, i, 0)?;
                if old == accumulator {
                    self.write(bus, i, 0, source)?;
                }
                Some(old)
            };
            if let Some(old) = old {
                self.flags = alu::cmp(accumulator, old);
                if old != accumulator {
                    self.set_register(RAX, old);
                }
            }
        });
        Ok(())
    }

    /// CMPXCHG8B, CMPXCHG16B.
    pub(super) fn cmpxchg_double(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let (segment, offset) = self.memory_at(i)?;
        if i.operation() == Operation::Cmpxchg8b {
            let pair = |cpu: &Self, high, low| {
                u64::from(cpu.register::<u32>(high)) << 32 | u64::from(cpu.register::<u32>(low))
            };
            let (expected, new) = (pair(self, RDX, RAX), pair(self, RCX, RBX));
            let old = self.modify(bus, segment, offset, i.lock(), |old: u64| {
                (if old == expected { new } else { old }, old)
            })?;
            if old != expected {
                self.set_register(RAX, old as u32);
                self.set_register(RDX, (old >> 32) as u32);
            }
            self.flags = self.flags.with_zero(old == expected);
            return Ok(());
        }
        self.aligned_area(i, 16)?;
        let pair = |cpu: &Self, high: usize, low: usize| {
            u128::from(cpu.registers[high]) << 64 | u128::from(cpu.registers[low])
        };
        let (expected, new) = (pair(self, RDX, RAX), pair(self, RCX, RBX));
        // Both halves lie in one page, which the first access has found writable: the processors
        // that could come between take turns with this one.
        let low = self.modify(bus, segment, offset, false, |old: u64| (old, old))?;
        let mut high = [0; 8];
        self.load_bytes(bus, segment, offset.wrapping_add(8), &mut high)?;
        let old = u128::from(u64::from_le_bytes(high)) << 64 | u128::from(low);
        let equal = old == expected;
        let stored = if equal { new } else { old };
        self.store_bytes(bus, segment, offset, &stored.to_le_bytes())?;
        if !equal {
            self.registers[RAX] = old as u64;
            self.registers[RDX] = (old >> 64) as u64;
        }
        self.flags = self.flags.with_zero(equal);
        Ok(())
    }

    /// CMOVcc: memory is read in either case, and a 32-bit destination loses its upper half.
    pub(super) fn cmov(&mut self, bus: &mut Bus<'_>, i: &Instruction, holds: bool) -> Outcome {
        sized!(i.operand_size(), W => {
            let source = self.read::<W>(bus, i, 1)?;
            let value = if holds { source } else { self.read::<W>(bus, i, 0)? };
            self.write(bus, i, 0, value)
        })
    }

    /// MUL, and IMUL with one operand.
    pub(super) fn multiply(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let signed = i.operation() == Operation::Imul;
        sized!(i.operand_size(), W => {
            let (a, b) = (self.register::<W>(RAX), self.read::<W>(bus, i, 0)?);
            let (low, high, flags) = if signed {
                alu::imul_wide(a, b, self.flags)
            } else {
                alu::mul_wide(a, b, self.flags)
            };
            self.set_double(low, high);
            self.flags = flags;
        });
        Ok(())
    }

    /// AX, or rDX and rAX.
    fn set_double<W: Word>(&mut self, low: W, high: W) {
        if W::BITS == 8 {
            let ax = high.zero_extend() << 8 | low.zero_extend();
            self.set_register(RAX, ax as u16);
        } else {
            self.set_register(RAX, low);
            self.set_register(RDX, high);
        }
    }

    /// IMUL with two or three operands.
    pub(super) fn multiply_signed(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let three = i.operands().count() == 3;
        sized!(i.operand_size(), W => {
            let a = self.read::<W>(bus, i, if three { 1 } else { 0 })?;
            let b = self.read::<W>(bus, i, if three { 2 } else { 1 })?;
            let (product, flags) = alu::imul(a, b, self.flags);
            self.write(bus, i, 0, product)?;
            self.flags = flags;
        });
        Ok(())
    }

    /// DIV, IDIV.
    pub(super) fn divide(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let signed = i.operation() == Operation::Idiv;
        sized!(i.operand_size(), W => {
            let divisor = self.read::<W>(bus, i, 0)?;
            let (high, low) = if <W as alu::Word>::BITS == 8 {
                let ax = self.registers[RAX];
                (alu::Word::truncate(ax >> 8), alu::Word::truncate(ax))
            } else {
                (self.register::<W>(RDX), self.register::<W>(RAX))
            };
            let division = if signed {
                alu::idiv(high, low, divisor, self.flags)
            } else {
                alu::div(high, low, divisor, self.flags)
            };
            match division {
                Ok(division) => {
                    self.set_double(division.quotient, division.remainder);
                    self.flags = division.flags;
                }
                Err(DivideError) => return Err(self.raise(Exception::DivideError)),
            }
        });
        Ok(())
    }

    /// CBW, CWDE, CDQE.
    pub(super) fn sign_extend_accumulator(&mut self, i: &Instruction) {
        match i.operand_size() {
            Size::Byte | Size::Word => self.set_register(RAX, alu::cbw(self.register(RAX))),
            Size::Dword => self.set_register(RAX, alu::cwde(self.register(RAX))),
            Size::Qword => self.set_register(RAX, alu::cdqe(self.register(RAX))),
        }
    }

    /// CWD, CDQ, CQO.
    pub(super) fn sign_fill(&mut self, i: &Instruction) {
        sized!(i.operand_size(), W => {
            self.set_register(RDX, alu::sign_fill(self.register::<W>(RAX)));
        });
    }

    /// AAA, AAS, AAD, AAM, DAA, DAS.
    pub(super) fn decimal(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let (al, ax) = (self.register::<u8>(RAX), self.register::<u16>(RAX));
        let base = self.read::<u8>(bus, i, 0)?;
        let (ax, flags) = match i.operation() {
            Operation::Daa | Operation::Das => {
                let (al, flags) = if i.operation() == Operation::Daa {
                    alu::daa(al, self.flags)
                } else {
                    alu::das(al, self.flags)
                };
                (ax & 0xff00 | u16::from(al), flags)
            }
            Operation::Aaa => alu::aaa(ax, self.flags),
            Operation::Aas => alu::aas(ax, self.flags),
            Operation::Aad => alu::aad(ax, base),
            _ => match alu::aam(al, base) {
                Ok(result) => result,
                Err(DivideError) => return Err(self.raise(Exception::DivideError)),
            },
        };
        self.set_register(RAX, ax);
        self.flags = flags;
        Ok(())
    }

    /// LAHF, SAHF. In 64-bit mode CPUID says whether there are these.
    pub(super) fn flags_and_ah(&mut self, i: &Instruction) {
        let ah = (self.registers[RAX] >> 8) as u8;
        if i.operation() == Operation::Sahf {
            self.flags = self.flags.sahf(ah);
        } else {
            let flags = u64::from(self.flags.lahf());
            self.registers[RAX] = self.registers[RAX] & !0xff00 | flags << 8;
        }
    }

    /// BSWAP.
    pub(super) fn bswap(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        sized!(i.operand_size(), W => {
            let value = self.read::<W>(bus, i, 0)?;
            self.write(bus, i, 0, alu::bswap(value))
        })
    }

    /// MOVBE.
    pub(super) fn movbe(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        sized!(i.operand_size(), W => {
            let value = self.read::<W>(bus, i, 1)?;
            self.write(bus, i, 0, alu::movbe(value))
        })
    }

    /// ADCX, ADOX, MULX.
    pub(super) fn multi_precision(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        sized!(i.operand_size(), W => {
            if i.operation() == Operation::Mulx {
                let (low, high) = alu::mulx(self.register::<W>(RDX), self.read::<W>(bus, i, 2)?);
                // If both are one register, it gets the high half.
                self.write(bus, i, 1, low)?;
                return self.write(bus, i, 0, high);
            }
            let (a, b) = (self.read::<W>(bus, i, 0)?, self.read::<W>(bus, i, 1)?);
            let (sum, flags) = if i.operation() == Operation::Adcx {
                alu::adcx(a, b, self.flags)
            } else {
                alu::adox(a, b, self.flags)
            };
            self.write(bus, i, 0, sum)?;
            self.flags = flags;
        });
        Ok(())
    }
}

/// The size of a source that has one of its own: that of MOVZX, MOVSX, MOVSXD and CRC32.
pub(super) fn source_size(i: &Instruction) -> Size {
    match i.operand(1) {
        crate::cpu::decode::Operand::Register(Register { class, .. }) => match class {
            RegisterClass::Gpr8 | RegisterClass::Gpr8High => Size::Byte,
            RegisterClass::Gpr16 => Size::Word,
            RegisterClass::Gpr32 => Size::Dword,
            _ => Size::Qword,
        },
        _ => match i.memory_size() {
            1 => Size::Byte,
            2 => Size::Word,
            4 => Size::Dword,
            _ => Size::Qword,
        },
    }
}
