//! What a micro-operation does, read back from the number of its function.

use super::super::fast::{self, Form};
use super::super::micro::Place;
use crate::cpu::decode::Size;

/// Binary operations by their number, see [`fast::binary_index`].
pub(super) const ADC: u8 = 1;
pub(super) const SBB: u8 = 3;
pub(super) const CMP: u8 = 7;
pub(super) const TEST: u8 = 8;
pub(super) const MOV: u8 = 9;

/// A micro-operation's kind.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    /// Whatever has no translation.
    Other,
    Nothing,
    /// On XMM registers.
    Media,
    /// MOV of a 64-bit immediate.
    MoveLong,
    Binary(u8, Form, Size),
    Lea(Size),
    /// Whether signed, where from, from which size to which.
    Extend(bool, Option<Place>, Size, Size),
    /// INC, DEC, NEG, NOT.
    Unary(u8, Option<Place>, Size),
    /// SHL, SHR, SAR, ROL, ROR.
    Shift(u8, Size),
    /// Whether by an immediate.
    Multiply(bool, Size),
    /// Whether an immediate.
    Push(bool, Size),
    Pop(Size),
    Setcc,
    Cmov(Size),
    /// Whether in 64-bit mode.
    JumpIf(bool, u8),
    Jump(bool),
    Call(bool),
    Return(bool),
}

const SIZES: [Size; 4] = [Size::Byte, Size::Word, Size::Dword, Size::Qword];

const fn place(number: usize) -> Option<Place> {
    match number {
        0 => None,
        1 => Some(Place::Flat),
        _ => Some(Place::Segmented),
    }
}

const fn form(number: usize) -> Form {
    let place = if number.is_multiple_of(2) {
        Place::Flat
    } else {
        Place::Segmented
    };
    match number {
        0 => Form::RegisterRegister,
        1 => Form::RegisterImmediate,
        2 | 3 => Form::RegisterMemory(place),
        4 | 5 => Form::MemoryRegister(place),
        _ => Form::MemoryImmediate(place),
    }
}

/// The kind of micro-operations with this function.
pub(super) fn shape(handler: u16) -> Shape {
    let handler = handler as usize;
    let size = |from: usize| SIZES[(handler - from) % 4];
    let number = |from: usize| (handler - from) / 4;
    match handler {
        fast::JUMP_IF_AT..fast::COUNT => {
            let number = handler - fast::JUMP_IF_AT;
            Shape::JumpIf(number >= 16, number as u8 % 16)
        }
        fast::CMOV_AT.. if handler < fast::COUNT => Shape::Cmov(size(fast::CMOV_AT)),
        fast::POP_AT.. if handler < fast::COUNT => Shape::Pop(size(fast::POP_AT)),
        fast::PUSH_AT.. if handler < fast::COUNT => {
            Shape::Push(number(fast::PUSH_AT) == 1, size(fast::PUSH_AT))
        }
        fast::MULTIPLY_AT.. if handler < fast::COUNT => {
            Shape::Multiply(number(fast::MULTIPLY_AT) == 1, size(fast::MULTIPLY_AT))
        }
        fast::SHIFT_AT.. if handler < fast::COUNT => {
            Shape::Shift(number(fast::SHIFT_AT) as u8, size(fast::SHIFT_AT))
        }
        fast::UNARY_AT.. if handler < fast::COUNT => {
            let number = number(fast::UNARY_AT);
            let (operation, place) = (number / 3, place(number % 3));
            // Rare ones in memory are left to the general way.
            if operation >= 2 && place.is_some() {
                return Shape::Other;
            }
            Shape::Unary(operation as u8, place, size(fast::UNARY_AT))
        }
        fast::EXTEND_AT.. if handler < fast::COUNT => {
            let number = handler - fast::EXTEND_AT;
            let (kind, to) = (number / 3, SIZES[number % 3 + 1]);
            Shape::Extend(kind >= 9, place(kind % 3), SIZES[kind / 3 % 3], to)
        }
        fast::LEA_AT.. if handler < fast::COUNT => Shape::Lea(size(fast::LEA_AT)),
        fast::BINARY_AT.. if handler < fast::COUNT => {
            let number = number(fast::BINARY_AT);
            let (operation, form) = ((number / Form::COUNT) as u8, form(number % Form::COUNT));
            let register = matches!(
                form,
                Form::RegisterRegister | Form::RegisterImmediate | Form::RegisterMemory(_)
            );
            if matches!(operation, ADC | SBB) && !register {
                return Shape::Other;
            }
            Shape::Binary(operation, form, size(fast::BINARY_AT))
        }
        _ => single(handler as u16),
    }
}

const fn single(handler: u16) -> Shape {
    match handler {
        fast::NOTHING => Shape::Nothing,
        fast::MEDIA => Shape::Media,
        fast::MOVE_LONG => Shape::MoveLong,
        fast::SETCC => Shape::Setcc,
        fast::JUMP => Shape::Jump(false),
        fast::JUMP_LONG => Shape::Jump(true),
        fast::CALL => Shape::Call(false),
        fast::CALL_LONG => Shape::Call(true),
        fast::RETURN => Shape::Return(false),
        fast::RETURN_LONG => Shape::Return(true),
        _ => Shape::Other,
    }
}
