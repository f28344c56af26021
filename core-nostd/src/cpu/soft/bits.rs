//! Shifts, rotates and instructions on single bits: base set, BMI1, BMI2, LZCNT, POPCNT, CRC32.

use super::access::{Word, sized};
use super::integer::source_size;
use super::{Bus, Cpu, Outcome};
use crate::cpu::alu::{self, LazyFlags};
use crate::cpu::decode::{Instruction, Operand, Operation};

/// An operation by a count, which changes its operand.
type Shift<W> = fn(W, u8, LazyFlags) -> (W, LazyFlags);
/// BT and its kin.
type BitTest<W> = fn(W, W, LazyFlags) -> (W, LazyFlags);

impl Cpu {
    /// SHL, SHR, SAR, ROL, ROR, RCL, RCR.
    pub(super) fn shift(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        fn operation<W: Word>(operation: Operation) -> Shift<W> {
            match operation {
                Operation::Shl => alu::shl,
                Operation::Shr => alu::shr,
                Operation::Sar => alu::sar,
                Operation::Rol => alu::rol,
                Operation::Ror => alu::ror,
                Operation::Rcl => alu::rcl,
                _ => alu::rcr,
            }
        }
        sized!(i.operand_size(), W => {
            let operate = operation::<W>(i.operation());
            let (count, flags) = (self.read::<u8>(bus, i, 1)?, self.flags);
            if let Some(flags) = self.update(bus, i, 0, |a: W| operate(a, count, flags))? {
                self.flags = flags;
            }
        });
        Ok(())
    }

    /// SHLD, SHRD.
    pub(super) fn double_shift(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let left = i.operation() == Operation::Shld;
        sized!(i.operand_size(), W => {
            let (low, flags) = (self.read::<W>(bus, i, 1)?, self.flags);
            let count = self.read::<u8>(bus, i, 2)?;
            let flags = self.update(bus, i, 0, |a: W| {
                if left {
                    alu::shld(a, low, count, flags)
                } else {
                    alu::shrd(a, low, count, flags)
                }
            })?;
            if let Some(flags) = flags {
                self.flags = flags;
            }
        });
        Ok(())
    }

    /// BT, BTS, BTR, BTC: a register's index reaches memory outside of the operand.
    pub(super) fn bit_test(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        fn operation<W: Word>(operation: Operation) -> BitTest<W> {
            match operation {
                Operation::Bts => alu::bts,
                Operation::Btr => alu::btr,
                Operation::Btc => alu::btc,
                _ => |a, index, flags| (a, alu::bt(a, index, flags)),
            }
        }
        let test_only = i.operation() == Operation::Bt;
        sized!(i.operand_size(), W => {
            let operate = operation::<W>(i.operation());
            let (index, flags) = (self.read::<W>(bus, i, 1)?, self.flags);
            let far = matches!(i.operand(1), Operand::Register(_));
            let flags = if i.memory().is_some() {
                let (segment, mut offset) = self.memory_at(i)?;
                if far {
                    offset = offset.wrapping_add(alu::bit_displacement(index) as u64)
                        & i.address_size().mask();
                }
                if test_only {
                    let a = self.load::<W>(bus, segment, offset)?;
                    operate(a, index, flags).1
                } else {
                    self.modify(bus, segment, offset, i.lock(), |a: W| operate(a, index, flags))?
                }
            } else if test_only {
                operate(self.read::<W>(bus, i, 0)?, index, flags).1
            } else {
                let (value, flags) = operate(self.read::<W>(bus, i, 0)?, index, flags);
                self.write(bus, i, 0, value)?;
                flags
            };
            self.flags = flags;
        });
        Ok(())
    }

    /// BSF, BSR, TZCNT, LZCNT, POPCNT.
    pub(super) fn count_bits(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        sized!(i.operand_size(), W => {
            let source = self.read::<W>(bus, i, 1)?;
            let (result, flags) = match i.operation() {
                Operation::Bsf => alu::bsf(source),
                Operation::Bsr => alu::bsr(source),
                operation => {
                    let (count, flags) = match operation {
                        Operation::Tzcnt => alu::tzcnt(source, self.flags),
                        Operation::Lzcnt => alu::lzcnt(source, self.flags),
                        _ => alu::popcnt(source),
                    };
                    (Some(count), flags)
                }
            };
            // BSF and BSR of 0 leave their destination alone.
            if let Some(result) = result {
                self.write(bus, i, 0, result)?;
            }
            self.flags = flags;
        });
        Ok(())
    }

    /// ANDN, BEXTR, BLSI, BLSMSK, BLSR, BZHI.
    pub(super) fn bmi(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        sized!(i.operand_size(), W => {
            let first = self.read::<W>(bus, i, 1)?;
            let second = self.read::<W>(bus, i, 2)?;
            let (result, flags) = match i.operation() {
                Operation::Andn => alu::andn(first, second),
                Operation::Bextr => alu::bextr(first, second),
                Operation::Bzhi => alu::bzhi(first, second),
                Operation::Blsi => alu::blsi(first),
                Operation::Blsmsk => alu::blsmsk(first),
                _ => alu::blsr(first),
            };
            self.write(bus, i, 0, result)?;
            self.flags = flags;
        });
        Ok(())
    }

    /// PDEP, PEXT, RORX, SARX, SHLX, SHRX: no flags.
    pub(super) fn bmi_without_flags(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        use alu::Word as _;
        sized!(i.operand_size(), W => {
            let first = self.read::<W>(bus, i, 1)?;
            let second = self.read::<W>(bus, i, 2)?;
            let result = match i.operation() {
                Operation::Pdep => alu::pdep(first, second),
                Operation::Pext => alu::pext(first, second),
                Operation::Rorx => alu::rorx(first, second.zero_extend() as u8),
                Operation::Sarx => alu::sarx(first, second),
                Operation::Shlx => alu::shlx(first, second),
                _ => alu::shrx(first, second),
            };
            self.write(bus, i, 0, result)
        })
    }

    /// CRC32: the operand size is the destination's, the source has its own.
    pub(super) fn crc32(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let crc = self.read::<u32>(bus, i, 0)?;
        let crc = sized!(source_size(i), S => alu::crc32(crc, self.read::<S>(bus, i, 1)?));
        self.write(bus, i, 0, u64::from(crc))
    }
}
