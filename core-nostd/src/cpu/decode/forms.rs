//! The rows of the opcode maps as a list, for tools that must run every form of every instruction or count what ran.

use super::form::{Entry, MAY_LOCK, MODRM, NOT_64, ONLY_64, Spec};
use super::operation::Operation;
use super::{CodeSize, DecodeError, Decoder, one_byte, three_byte, two_byte, vex};

/// An opcode map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Map {
    /// The opcode is the first byte.
    One,
    /// Behind 0Fh.
    Two,
    /// Behind 0F 38.
    Three38,
    /// Behind 0F 3A.
    Three3a,
    /// Behind a VEX prefix that says 0F 38.
    Vex38,
    /// Behind a VEX prefix that says 0F 3A.
    Vex3a,
}

impl Map {
    /// All maps.
    pub const ALL: [Self; 6] = [
        Self::One,
        Self::Two,
        Self::Three38,
        Self::Three3a,
        Self::Vex38,
        Self::Vex3a,
    ];

    pub(super) fn entry(self, opcode: u8) -> &'static Entry {
        let at = usize::from(opcode);
        match self {
            Self::One => &one_byte::ONE_BYTE[at],
            Self::Two => &two_byte::TWO_BYTE[at],
            Self::Three38 => &three_byte::MAP_38[at],
            Self::Three3a => &three_byte::MAP_3A[at],
            Self::Vex38 => vex::map_38(opcode),
            Self::Vex3a => vex::map_3a(opcode),
        }
    }
}

/// What tells forms of one opcode apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Choice {
    /// ModRM.reg.
    Reg(u8),
    /// ModRM.rm.
    Rm(u8),
    /// ModRM.mod: 0 is memory, 1 a register.
    Mod(u8),
    /// The mandatory prefix: 0 is none, 1 is 66h, 2 is F3h, 3 is F2h.
    Prefix(u8),
    /// REX.B.
    RexB(u8),
    /// REX.W.
    RexW(u8),
    /// 1 in 64-bit mode.
    Long(u8),
}

impl Choice {
    /// The number in it.
    pub const fn number(self) -> u8 {
        match self {
            Self::Reg(number)
            | Self::Rm(number)
            | Self::Mod(number)
            | Self::Prefix(number)
            | Self::RexB(number)
            | Self::RexW(number)
            | Self::Long(number) => number,
        }
    }
}

/// Choices that lead to a form, at most.
const CHOICES_MAX: usize = 5;

/// A form of an instruction, by the way that leads to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Encoding {
    /// The map.
    pub map: Map,
    /// The opcode in the map.
    pub opcode: u8,
    choices: [Option<Choice>; CHOICES_MAX],
}

impl Encoding {
    const fn new(map: Map, opcode: u8) -> Self {
        Self {
            map,
            opcode,
            choices: [None; CHOICES_MAX],
        }
    }

    /// The choices that lead to the form, in the order in which they are made.
    pub fn choices(&self) -> impl Iterator<Item = Choice> {
        self.choices.into_iter().flatten()
    }

    fn choose(&mut self, choice: Choice) {
        if let Some(free) = self.choices.iter_mut().find(|choice| choice.is_none()) {
            *free = Some(choice);
        }
    }
}

/// What a form's bytes must be like, besides its [`Encoding`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The operation.
    pub operation: Operation,
    /// There is a ModRM byte.
    pub modrm: bool,
    /// ModRM names memory, or else a register, in every instruction of the form; `None` if both are right.
    pub memory: Option<bool>,
    /// The form may be locked when ModRM names memory.
    pub may_lock: bool,
    /// The form is there outside 64-bit mode.
    pub in_legacy: bool,
    /// The form is there in 64-bit mode.
    pub in_long: bool,
}

/// Visits all forms, in the order of maps and opcodes.
pub fn encodings(visit: &mut dyn FnMut(&Encoding, &Shape)) {
    for map in Map::ALL {
        for opcode in 0..=0xff {
            walk(map.entry(opcode), Encoding::new(map, opcode), visit);
        }
    }
}

/// Visits what an entry leads to. Entries nest as deep as the tables do.
fn walk(entry: &Entry, encoding: Encoding, visit: &mut dyn FnMut(&Encoding, &Shape)) {
    let (choice, entries): (fn(u8) -> Choice, &[Entry]) = match entry {
        Entry::Undefined => return,
        Entry::Form(form) => {
            let any = |specs: &[Spec]| form.operands.iter().any(|spec| specs.contains(spec));
            let chosen = encoding.choices().find_map(|choice| match choice {
                Choice::Mod(number) => Some(number == 0),
                _ => None,
            });
            use Spec::*;
            let memory = if any(&[M, Mb, Mw, Md, Mq, Mt, Mdq, Mv, My, Mp, Ma, Ms]) {
                Some(true)
            } else if any(&[Rv, Ry, Nq, Ux]) {
                Some(false)
            } else {
                chosen
            };
            let modrm = form.flags & MODRM != 0
                || encoding.choices().any(|choice| {
                    matches!(choice, Choice::Reg(_) | Choice::Rm(_) | Choice::Mod(_))
                });
            let shape = Shape {
                operation: form.operation,
                modrm,
                memory,
                may_lock: form.flags & MAY_LOCK != 0,
                in_legacy: form.flags & ONLY_64 == 0 && !long(&encoding, true),
                in_long: form.flags & NOT_64 == 0 && !long(&encoding, false),
            };
            visit(&encoding, &shape);
            return;
        }
        Entry::Reg(entries) => (Choice::Reg, &entries[..]),
        Entry::Rm(entries) => (Choice::Rm, &entries[..]),
        Entry::Mod(entries) => (Choice::Mod, &entries[..]),
        Entry::Prefix(entries) => (Choice::Prefix, &entries[..]),
        Entry::RexB(entries) => (Choice::RexB, &entries[..]),
        Entry::RexW(entries) => (Choice::RexW, &entries[..]),
        Entry::Long(entries) => (Choice::Long, &entries[..]),
    };
    for (number, entry) in (0..).zip(entries) {
        let mut encoding = encoding;
        encoding.choose(choice(number));
        walk(entry, encoding, visit);
    }
}

/// Whether the way to a form needs 64-bit mode, or its absence.
fn long(encoding: &Encoding, long: bool) -> bool {
    encoding.choices().any(|choice| match choice {
        Choice::Long(number) => (number == 1) == long,
        Choice::RexB(1) | Choice::RexW(1) => long,
        _ => false,
    })
}

/// The form of the instruction that `bytes` begin with.
pub fn encoding_of(bytes: &[u8], mode: CodeSize) -> Result<Encoding, DecodeError> {
    let mut decoder = Decoder::new(bytes, mode);
    let mut map = Map::One;
    let entry = decoder.opcode(|chosen| map = chosen)?;
    let mut encoding = Encoding::new(map, decoder.opcode);
    let form = decoder.resolve(entry, |choice| encoding.choose(choice))?;
    decoder.finish(form)?;
    Ok(encoding)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::vec::Vec;

    use super::super::decode;
    use super::*;

    /// Bytes of a form, with nothing but what it asks for.
    fn bytes(encoding: &Encoding, shape: &Shape) -> (Vec<u8>, CodeSize) {
        let mut modrm = if shape.memory == Some(true) {
            0x06
        } else {
            0xc0
        };
        let (mut prefix, mut rex) = (0, 0);
        for choice in encoding.choices() {
            match choice {
                Choice::Reg(number) => modrm |= number << 3,
                Choice::Rm(number) => modrm |= number,
                Choice::Prefix(number) => prefix = number,
                Choice::RexB(number) => rex |= number,
                Choice::RexW(number) => rex |= number << 3,
                Choice::Mod(_) | Choice::Long(_) => {}
            }
        }
        let mut bytes = Vec::new();
        let vex = matches!(encoding.map, Map::Vex38 | Map::Vex3a);
        if prefix != 0 && !vex {
            bytes.push([0x66, 0xf3, 0xf2][usize::from(prefix) - 1]);
        }
        if rex != 0 {
            bytes.push(0x40 | rex);
        }
        match encoding.map {
            Map::One => {}
            Map::Two => bytes.push(0x0f),
            Map::Three38 => bytes.extend([0x0f, 0x38]),
            Map::Three3a => bytes.extend([0x0f, 0x3a]),
            Map::Vex38 => bytes.extend([0xc4, 0xe2, 0x78 | prefix]),
            Map::Vex3a => bytes.extend([0xc4, 0xe3, 0x78 | prefix]),
        }
        bytes.push(encoding.opcode);
        if shape.modrm {
            bytes.push(modrm);
        }
        bytes.extend([0; 10]);
        bytes.truncate(15);
        let mode = match shape.in_long {
            true => CodeSize::Bits64,
            false => CodeSize::Bits32,
        };
        (bytes, mode)
    }

    #[test]
    fn every_form_is_reached_by_its_encoding() {
        let mut seen = BTreeSet::new();
        encodings(&mut |encoding, shape| {
            let (bytes, mode) = bytes(encoding, shape);
            assert_eq!(
                encoding_of(&bytes, mode),
                Ok(*encoding),
                "{bytes:02x?} {shape:?}"
            );
            let instruction = decode(&bytes, mode).unwrap();
            assert_eq!(instruction.operation(), shape.operation, "{bytes:02x?}");
            if shape.in_long != shape.in_legacy {
                let other = match shape.in_long {
                    true => CodeSize::Bits32,
                    false => CodeSize::Bits64,
                };
                assert_ne!(encoding_of(&bytes, other), Ok(*encoding), "{bytes:02x?}");
            }
            assert!(shape.in_long || shape.in_legacy);
            assert!(seen.insert(*encoding), "{encoding:?}");
        });
        assert!(seen.len() > 1000, "{}", seen.len());
    }
}
