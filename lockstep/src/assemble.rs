//! Bytes of an instruction of a form, with whatever prefixes and operands the form allows.

use thimble_core::cpu::decode::{
    Choice, CodeSize, Instruction, Map, Operation, decode, encoding_of,
};

use crate::forms::Form;
use crate::random::Random;

/// Instruction bytes, and where in them things are.
#[derive(Clone, Debug)]
pub(crate) struct Assembled {
    pub(crate) bytes: Vec<u8>,
    pub(crate) instruction: Instruction,
    /// Offset and bytes of the displacement or direct offset, if there is one.
    pub(crate) displacement: Option<(usize, usize)>,
    /// Offset of the immediate.
    pub(crate) immediate: usize,
}

/// Attempts before a form is given up for this code size.
const ATTEMPTS: u32 = 40;

/// An instruction of the form; `None` where the code size has none.
pub(crate) fn assemble(form: &Form, mode: CodeSize, random: &mut Random) -> Option<Assembled> {
    for attempt in 0..ATTEMPTS {
        // Decorations that the form doesn't allow are left out in the end.
        let made = build(form, mode, random, attempt < ATTEMPTS / 2);
        if let Some(made) = made {
            return Some(made);
        }
    }
    None
}

pub(crate) fn is_string(operation: Operation) -> bool {
    use Operation::*;
    matches!(operation, Movs | Cmps | Stos | Lods | Scas | Ins | Outs)
}

fn build(form: &Form, mode: CodeSize, random: &mut Random, decorate: bool) -> Option<Assembled> {
    let long = mode == CodeSize::Bits64;
    let (mut mandatory, mut register_wide, mut register_b) = (None, None, None);
    let (mut reg, mut rm) = (random.byte() & 7, random.byte() & 7);
    let mut memory = form.shape.memory;
    for choice in form.encoding.choices() {
        match choice {
            Choice::Reg(number) => reg = number,
            Choice::Rm(number) => rm = number,
            Choice::Mod(number) => memory = Some(number == 0),
            Choice::Prefix(number) => mandatory = Some(number),
            Choice::RexB(number) => register_b = Some(number),
            Choice::RexW(number) => register_wide = Some(number),
            Choice::Long(_) => {}
        }
    }
    let in_memory = form.shape.modrm && memory.unwrap_or_else(|| random.percent(55));
    let vex = matches!(form.encoding.map, Map::Vex38 | Map::Vex3a);
    let mut prefixes = Vec::new();
    if !vex {
        match mandatory {
            Some(0) => {}
            Some(1) => prefixes.push(0x66),
            Some(number) => {
                prefixes.push(if number == 2 { 0xf3 } else { 0xf2 });
                if decorate && random.percent(20) {
                    prefixes.push(0x66);
                }
            }
            None => {
                if decorate && random.percent(25) {
                    prefixes.push(0x66);
                }
                let often = if is_string(form.shape.operation) {
                    30
                } else {
                    2
                };
                if decorate && random.percent(often) {
                    prefixes.push(0xf3);
                }
                if decorate && random.percent(often) {
                    prefixes.push(0xf2);
                }
            }
        }
        if form.shape.may_lock && in_memory && random.percent(20) {
            prefixes.push(0xf0);
        }
    }
    if decorate && random.percent(12) {
        prefixes.push(0x67);
    }
    if decorate && random.percent(15) {
        prefixes.push(random.pick(&[0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65]));
    }
    for place in (1..prefixes.len()).rev() {
        prefixes.swap(place, random.below(place as u64 + 1) as usize);
    }
    let short_addresses = match mode {
        CodeSize::Bits64 => false,
        CodeSize::Bits32 => prefixes.contains(&0x67),
        CodeSize::Bits16 => !prefixes.contains(&0x67),
    };
    let mut bytes = prefixes;
    let mut rex = match decorate || register_b == Some(1) || register_wide == Some(1) {
        true => random.byte() & 0xf,
        false => 0,
    };
    if let Some(b) = register_b {
        rex = rex & !1 | b;
    }
    if let Some(w) = register_wide {
        rex = rex & !8 | w << 3;
    }
    if vex {
        let map = if form.encoding.map == Map::Vex38 {
            2
        } else {
            3
        };
        // R, X and B are inverted; R and X clear would be LES outside 64-bit mode.
        let (mut inverted, mut wide) = (random.byte() & 0xe0, random.byte() & 0x80);
        let mut vvvv = random.byte() & 0xf;
        if !long {
            inverted |= 0xc0;
            vvvv |= 8;
        }
        if !decorate {
            vvvv = 0xf;
        }
        if let Some(w) = register_wide {
            wide = w << 7;
        }
        bytes.extend([
            0xc4,
            inverted | map,
            wide | vvvv << 3 | mandatory.unwrap_or(0),
        ]);
    } else {
        let needed = register_b == Some(1) || register_wide == Some(1);
        if long && (needed || decorate && random.percent(60)) {
            bytes.push(0x40 | rex);
        }
        match form.encoding.map {
            Map::Two => bytes.push(0x0f),
            Map::Three38 => bytes.extend([0x0f, 0x38]),
            Map::Three3a => bytes.extend([0x0f, 0x3a]),
            _ => {}
        }
    }
    bytes.push(form.encoding.opcode);
    let mut displacement = None;
    if form.shape.modrm {
        let mode_bits = match in_memory {
            true => random.below(3) as u8,
            false => 3,
        };
        bytes.push(mode_bits << 6 | reg << 3 | rm);
        if in_memory {
            let size;
            if short_addresses {
                size = match mode_bits {
                    0 if rm == 6 => 2,
                    0 => 0,
                    number => usize::from(number),
                };
            } else {
                let mut base = rm;
                if rm == 4 {
                    let sib = random.byte();
                    bytes.push(sib);
                    base = sib & 7;
                }
                size = match mode_bits {
                    0 if base == 5 => 4,
                    0 => 0,
                    1 => 1,
                    _ => 4,
                };
            }
            if size != 0 {
                displacement = Some((bytes.len(), size));
                let value = if size == 1 || random.percent(60) {
                    random.byte() as i8 as u64
                } else {
                    random.value()
                };
                bytes.extend(&value.to_le_bytes()[..size]);
            }
        }
    }
    let immediate = bytes.len();
    let value = match random.percent(50) {
        true => random.value(),
        false => random.next(),
    };
    bytes.extend(value.to_le_bytes());
    bytes.extend(random.next().to_le_bytes());
    let instruction = decode(&bytes, mode).ok()?;
    let length = usize::from(instruction.length());
    if encoding_of(&bytes, mode) != Ok(form.encoding) {
        return None;
    }
    bytes.truncate(length);
    // MOV's direct offsets.
    if form.encoding.map == Map::One && matches!(form.encoding.opcode, 0xa0..=0xa3) {
        displacement = Some((immediate, length - immediate));
    }
    Some(Assembled {
        bytes,
        instruction,
        displacement,
        immediate,
    })
}
