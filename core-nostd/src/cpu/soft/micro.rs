//! Micro-operations: what blocks are made of.
//!
//! A [`Micro`] is an instruction of the common kinds in 16 bytes, with the number of the function
//! that executes it; all others are [`GENERAL`] and name a decoded [`Instruction`]. The functions are
//! in `fast`; what they do is said by `alu`, and by `execute` for what they leave.

use super::code::BLOCK_MAX;
use super::fast::{self, HANDLERS};
use super::integer::source_size;
use super::{BLOCK_RIP, Bus, Cpu, ZERO};
use crate::cpu::decode::{
    Base, CodeSize, Instruction, LENGTH_MAX, Memory, Operand, Operation, Register, RegisterClass,
    SegmentRegister, Size,
};

/// How an instruction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Flow {
    /// The next one follows.
    Next,
    /// It is done, and RIP says what follows; nothing has changed of how code is found.
    Leave,
    /// It is done, and RIP says what follows, whatever else has changed.
    Exit,
    /// It has raised an exception.
    Raised,
}

/// What executes a micro-operation.
#[allow(improper_ctypes_definitions)]
pub(super) type Handler = extern "C-unwind" fn(&mut Cpu, &mut Bus<'_>, Micro) -> Flow;

/// [`Micro::handler`] of instructions without a function of their own.
pub(super) const GENERAL: u16 = 0;

/// A micro-operation.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Micro {
    /// Index of [`HANDLERS`].
    pub(super) handler: u16,
    /// Bytes of the instruction.
    pub(super) length: u8,
    /// A register: the destination, if it is one.
    pub(super) a: u8,
    /// Another one: the source, if it is one.
    pub(super) b: u8,
    /// Base register of the address, or [`BLOCK_RIP`] or [`ZERO`].
    pub(super) base: u8,
    /// Index register of the address, or [`ZERO`].
    pub(super) index: u8,
    /// Bits 1 to 0: the index is shifted by so much; 3 to 2: the address size; 6 to 4: the segment.
    pub(super) address: u8,
    pub(super) displacement: i32,
    /// An immediate operand, sign-extended; the distance of a branch; [`GENERAL`]: the index of the
    /// instruction, which is the last of its block if `a` is not zero.
    pub(super) immediate: i32,
}

const _: () = assert!(size_of::<Micro>() == 16 && REGISTERS_FIT);
const REGISTERS_FIT: bool =
    BLOCK_RIP < 32 && ZERO < 32 && BLOCK_MAX * LENGTH_MAX < i32::MAX as usize;

/// Where an address is: each memory form has a function for both.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In 64-bit mode, at a 64-bit address, in a segment without base.
    Flat,
    /// Anywhere.
    Segmented,
}

impl Micro {
    /// The address's index, shifted.
    #[inline]
    pub(super) fn scale(self) -> u32 {
        (self.address & 3).into()
    }

    /// The address size as a mask.
    #[inline]
    pub(super) fn mask(self) -> u64 {
        match self.address >> 2 & 3 {
            1 => 0xffff,
            2 => 0xffff_ffff,
            _ => u64::MAX,
        }
    }

    /// The segment.
    #[inline]
    pub(super) fn segment(self) -> SegmentRegister {
        SegmentRegister::from_number(self.address >> 4).unwrap_or(SegmentRegister::Ds)
    }

    /// The operand size of branches.
    #[inline]
    pub(super) fn branch_size(self) -> Size {
        match self.a {
            1 => Size::Word,
            2 => Size::Dword,
            _ => Size::Qword,
        }
    }
}

/// A general register's number, unless it is the upper byte of one.
pub(super) fn general(operand: Operand) -> Option<u8> {
    use RegisterClass::{Gpr8, Gpr16, Gpr32, Gpr64};
    match operand {
        Operand::Register(Register {
            class: Gpr8 | Gpr16 | Gpr32 | Gpr64,
            number,
        }) => Some(number),
        _ => None,
    }
}

/// An immediate operand that keeps its value when it is cut to 32 bits and extended again.
fn immediate(operand: Operand, size: Size) -> Option<i32> {
    let Operand::Immediate(value) = operand else {
        return None;
    };
    let value = value & size.mask();
    let extended = value as i32 as i64 as u64 & size.mask();
    (extended == value).then_some(value as i32)
}

/// Notes an address; `offset` is that of the next instruction in the block.
pub(super) fn address(
    micro: &mut Micro,
    memory: &Memory,
    i: &Instruction,
    code: CodeSize,
    offset: u64,
) -> Option<Place> {
    let mut displacement = memory.displacement;
    micro.base = match memory.base {
        Base::None => ZERO as u8,
        Base::Register(number) => number,
        Base::Rip => {
            displacement = displacement.wrapping_add(offset as i64);
            BLOCK_RIP as u8
        }
    };
    micro.index = memory.index.unwrap_or(ZERO as u8);
    micro.displacement = displacement.try_into().ok()?;
    let size = i.address_size();
    micro.address =
        memory.scale.trailing_zeros() as u8 | (size as u8) << 2 | (memory.segment as u8) << 4;
    let based = matches!(memory.segment, SegmentRegister::Fs | SegmentRegister::Gs);
    Some(
        if code == CodeSize::Bits64 && size == Size::Qword && !based {
            Place::Flat
        } else {
            Place::Segmented
        },
    )
}

/// The micro-operation of an instruction, if there is a function for it. `offset` is that of the
/// next instruction in the block.
pub(super) fn translate(i: &Instruction, code: CodeSize, offset: u64) -> Option<Micro> {
    use Operation::*;
    let (first, second) = (i.operand(0), i.operand(1));
    let in_memory = matches!(first, Operand::Memory(_));
    if i.lock() || in_memory && !fast::changes_memory(i.operation()) {
        return None;
    }
    let mut micro = Micro {
        length: i.length(),
        base: ZERO as u8,
        index: ZERO as u8,
        ..Micro::default()
    };
    let size = i.operand_size();
    let long = code == CodeSize::Bits64;
    if let (Mov, Operand::Immediate(value)) = (i.operation(), second)
        && immediate(second, size).is_none()
    {
        micro.a = general(first)?;
        micro.displacement = value as i32;
        micro.immediate = (value >> 32) as i32;
        micro.handler = fast::MOVE_LONG;
        return Some(micro);
    }
    if let Some(binary) = fast::binary_index(i.operation()) {
        let form = match (first, second) {
            (Operand::Memory(memory), source) => {
                let place = address(&mut micro, &memory, i, code, offset)?;
                match general(source) {
                    Some(register) => {
                        micro.b = register;
                        fast::Form::MemoryRegister(place)
                    }
                    None => {
                        micro.immediate = immediate(source, size)?;
                        fast::Form::MemoryImmediate(place)
                    }
                }
            }
            (_, Operand::Memory(memory)) => {
                micro.a = general(first)?;
                fast::Form::RegisterMemory(address(&mut micro, &memory, i, code, offset)?)
            }
            (_, source) => {
                micro.a = general(first)?;
                match general(source) {
                    Some(register) => {
                        micro.b = register;
                        fast::Form::RegisterRegister
                    }
                    None => {
                        micro.immediate = immediate(source, size)?;
                        fast::Form::RegisterImmediate
                    }
                }
            }
        };
        micro.handler = fast::binary(binary, form, size);
        return Some(micro);
    }
    micro.handler = match i.operation() {
        Lea => {
            micro.a = general(first)?;
            let Operand::Memory(memory) = second else {
                return None;
            };
            address(&mut micro, &memory, i, code, offset)?;
            fast::lea(size)
        }
        Movzx | Movsx | Movsxd => {
            micro.a = general(first)?;
            let signed = i.operation() != Movzx;
            match second {
                Operand::Memory(memory) => {
                    let place = address(&mut micro, &memory, i, code, offset)?;
                    fast::extend(signed, Some(place), source_size(i), size)?
                }
                _ => {
                    micro.b = general(second)?;
                    fast::extend(signed, None, source_size(i), size)?
                }
            }
        }
        Inc | Dec | Neg | Not => match first {
            Operand::Memory(memory) => {
                let place = address(&mut micro, &memory, i, code, offset)?;
                fast::unary(i.operation(), Some(place), size)
            }
            _ => {
                micro.a = general(first)?;
                fast::unary(i.operation(), None, size)
            }
        },
        Shl | Shr | Sar | Rol | Ror => {
            micro.a = general(first)?;
            match second {
                Operand::Immediate(count) => {
                    micro.b = ZERO as u8;
                    micro.immediate = count as u8 as i32;
                }
                _ => micro.b = general(second)?,
            }
            fast::shift(i.operation(), size)
        }
        Imul if i.operands().count() > 1 => {
            micro.a = general(first)?;
            let (source, factor) = if i.operands().count() == 3 {
                (second, Some(immediate(i.operand(2), size)?))
            } else {
                (second, None)
            };
            micro.b = general(source)?;
            if let Some(factor) = factor {
                micro.immediate = factor;
            }
            fast::multiply(factor.is_some(), size)
        }
        Push => match general(first) {
            Some(register) => {
                micro.a = register;
                fast::push(false, size)
            }
            None => {
                micro.immediate = immediate(first, size)?;
                fast::push(true, size)
            }
        },
        Pop => {
            micro.a = general(first)?;
            fast::pop(size)
        }
        Setcc(condition) => {
            micro.a = general(first)?;
            micro.b = condition as u8;
            fast::SETCC
        }
        Cmovcc(condition) => {
            micro.a = general(first)?;
            micro.b = general(second)?;
            micro.immediate = condition as i32;
            fast::cmov(size)
        }
        Jcc(_) | Jmp | Call => {
            let Operand::Relative(distance) = first else {
                return None;
            };
            micro.immediate = distance.try_into().ok()?;
            micro.a = size as u8;
            fast::branch(i.operation(), long)?
        }
        Ret if first == Operand::None => {
            micro.a = size as u8;
            if long && size != Size::Qword {
                return None;
            }
            fast::branch(i.operation(), long)?
        }
        Sse(_) | Packed(_) => fast::media(&mut micro, i, code, offset)?,
        Nop => fast::NOTHING,
        _ => return None,
    };
    Some(micro)
}

impl Micro {
    /// The function that executes it.
    #[inline]
    pub(super) fn handler(&self) -> Handler {
        HANDLERS[usize::from(self.handler) % HANDLERS.len()]
    }

    /// Executes it.
    #[inline]
    pub(super) fn execute(self, cpu: &mut Cpu, bus: &mut Bus<'_>) -> Flow {
        self.handler()(cpu, bus, self)
    }
}
