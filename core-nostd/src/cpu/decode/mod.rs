//! The instruction decoder of the software CPU: bytes in, an [`Instruction`] out.
//!
//! It follows the Intel SDM, volume 2 (chapter 2 for the format, appendix A for the opcode maps), as current
//! processors do. Decoded are the integer and system instructions, BMI1 and BMI2, ADX, the x87, MMX and SSE up to
//! SSE4.2, AES, SHA and PCLMULQDQ. What a processor without further features makes #UD is [`DecodeError::Undefined`]:
//! AVX and AVX-512 (their prefixes are recognised, and BMI's VEX forms decoded), XOP, 3DNow!, VMX, SVM, SMX, SGX, TSX,
//! MPX, GFNI, key locker, user interrupts and shadow stacks. The opcodes that are reserved as hints (0F 18 to 1F) are
//! NOP.
//!
//! What depends on more than the bytes and the size of code is left to the executor: CPUID features, real and
//! virtual-8086 mode (no VEX, ARPL, LAR, LSL, SLDT, STR, VERR, VERW …), privilege, CR4 bits.
//!
//! Where processors differ, this is an Intel: near branches ignore 66h in 64-bit mode, far pointers have 64-bit
//! offsets with REX.W, and 0F 0D with a register is NOP. LOCK with MOV CR0 is #UD, not CR8.
mod form;
mod format;
mod forms;
mod instruction;
mod one_byte;
mod operation;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
mod three_byte;
mod two_byte;
mod vex;
mod x87;

use form::{Entry, Form, MAY_LOCK, MOD_IGNORED, MODRM, NOT_64, ONLY_64, SizeRule, Spec};
pub use format::{Disassembled, disassemble, list};
pub use forms::{Choice, Encoding, Map, Shape, encoding_of, encodings};
use instruction::{BASE_NONE, BASE_RIP, INDEX_NONE, LOCK, REP, REPNE, SCALE_SHIFT, Slot};
pub use instruction::{
    Base, CodeSize, DecodeError, Instruction, LENGTH_MAX, Memory, Operand, Register, RegisterClass,
    SegmentRegister, Size,
};
pub use operation::{Condition, Fpu, Operation, Packed, Sse};

/// REX.W: 64-bit operands.
const REX_W: u8 = 1 << 3;
/// REX.R: bit 3 of ModRM.reg.
const REX_R: u8 = 1 << 2;
/// REX.X: bit 3 of SIB.index.
const REX_X: u8 = 1 << 1;
/// REX.B: bit 3 of ModRM.rm, SIB.base or the opcode's register.
const REX_B: u8 = 1 << 0;

/// [`Entry::Prefix`]: none.
const PREFIX_NONE: u8 = 0;
/// [`Entry::Prefix`]: 66h.
const PREFIX_66: u8 = 1;
/// [`Entry::Prefix`]: F3h.
const PREFIX_F3: u8 = 2;
/// [`Entry::Prefix`]: F2h.
const PREFIX_F2: u8 = 3;

/// Decodes the instruction that `bytes` begin with. Bytes behind it are ignored.
pub fn decode(bytes: &[u8], mode: CodeSize) -> Result<Instruction, DecodeError> {
    let mut decoder = Decoder::new(bytes, mode);
    let entry = decoder.opcode(|_| ())?;
    let form = decoder.resolve(entry, |_| ())?;
    decoder.finish(form)
}

/// Where decoding is.
struct Decoder<'b> {
    bytes: &'b [u8],
    at: usize,
    mode: CodeSize,
    /// 66h was seen.
    operand_prefix: bool,
    /// The mandatory prefix, unless there is a VEX prefix: the last of F2h and F3h, else 66h.
    mandatory: u8,
    segment_prefix: Option<SegmentRegister>,
    /// A REX prefix right before the opcode, which makes SPL of AH.
    rex_present: bool,
    /// The low four bits of REX, or what VEX says instead.
    rex: u8,
    /// VEX.vvvv.
    vvvv: u8,
    opcode: u8,
    modrm: Option<u8>,
    /// What is known of the result.
    made: Instruction,
}

impl<'b> Decoder<'b> {
    fn new(bytes: &'b [u8], mode: CodeSize) -> Self {
        Self {
            bytes,
            at: 0,
            mode,
            operand_prefix: false,
            mandatory: PREFIX_NONE,
            segment_prefix: None,
            rex_present: false,
            rex: 0,
            vvvv: 0,
            opcode: 0,
            modrm: None,
            made: Instruction {
                immediate: 0,
                displacement: 0,
                operation: Operation::Nop,
                operands: [Slot::NONE; 3],
                base: BASE_NONE,
                index: INDEX_NONE,
                memory_size: 0,
                length: 0,
                operand_size: Size::Byte,
                prefixes: 0,
                segment: SegmentRegister::Ds,
            },
        }
    }

    fn long(&self) -> bool {
        self.mode == CodeSize::Bits64
    }

    fn peek(&self) -> Result<u8, DecodeError> {
        if self.at >= LENGTH_MAX {
            return Err(DecodeError::TooLong);
        }
        self.bytes
            .get(self.at)
            .copied()
            .ok_or(DecodeError::NeedMore)
    }

    fn next(&mut self) -> Result<u8, DecodeError> {
        let byte = self.peek()?;
        self.at += 1;
        Ok(byte)
    }

    /// Takes a little-endian number of up to eight bytes.
    fn number(&mut self, bytes: u8) -> Result<u64, DecodeError> {
        let end = self.at + usize::from(bytes.min(8));
        match self.bytes.get(self.at..end) {
            Some(little) if end <= LENGTH_MAX => {
                self.at = end;
                let number = little.iter().rev();
                Ok(number.fold(0, |number, byte| number << 8 | u64::from(*byte)))
            }
            // Whichever limit is first.
            _ if self.bytes.len() < LENGTH_MAX => Err(DecodeError::NeedMore),
            _ => Err(DecodeError::TooLong),
        }
    }

    /// Takes a number and extends its sign to 64 bits.
    fn signed(&mut self, bytes: u8) -> Result<i64, DecodeError> {
        let unused = 64 - 8 * u32::from(bytes.clamp(1, 8));
        Ok((self.number(bytes)? << unused) as i64 >> unused)
    }

    fn modrm(&mut self) -> Result<u8, DecodeError> {
        if let Some(modrm) = self.modrm {
            return Ok(modrm);
        }
        let modrm = self.next()?;
        self.modrm = Some(modrm);
        Ok(modrm)
    }

    /// Takes prefixes and the opcode, and looks it up.
    fn opcode(&mut self, chosen: impl FnOnce(Map)) -> Result<&'static Entry, DecodeError> {
        let mut address_prefix = false;
        let mut repeat = PREFIX_NONE;
        loop {
            let byte = self.next()?;
            match byte {
                // In 64-bit mode these are accepted and do nothing.
                0x26 | 0x2e | 0x36 | 0x3e => {
                    if !self.long() {
                        self.segment_prefix = SegmentRegister::from_number(byte >> 3 & 3);
                    }
                }
                0x64 => self.segment_prefix = Some(SegmentRegister::Fs),
                0x65 => self.segment_prefix = Some(SegmentRegister::Gs),
                0x66 => self.operand_prefix = true,
                0x67 => address_prefix = true,
                0xf0 => self.made.prefixes |= LOCK,
                0xf2 => repeat = PREFIX_F2,
                0xf3 => repeat = PREFIX_F3,
                0x40..=0x4f if self.long() => {
                    self.rex_present = true;
                    self.rex = byte & 0xf;
                    continue;
                }
                _ => {
                    self.opcode = byte;
                    break;
                }
            }
            // A REX prefix counts only right before the opcode.
            self.rex_present = false;
            self.rex = 0;
        }
        self.mandatory = match repeat {
            PREFIX_NONE if self.operand_prefix => PREFIX_66,
            repeat => repeat,
        };
        self.made.prefixes |= match repeat {
            PREFIX_F3 => REP,
            PREFIX_F2 => REPNE,
            _ => 0,
        };
        let address_size = match (self.mode, address_prefix) {
            (CodeSize::Bits16, false) | (CodeSize::Bits32, true) => Size::Word,
            (CodeSize::Bits64, false) => Size::Qword,
            _ => Size::Dword,
        };
        self.made.prefixes |= (address_size as u8) << 4;
        let map = match self.opcode {
            0x0f => {
                self.opcode = self.next()?;
                match self.opcode {
                    0x38 => {
                        self.opcode = self.next()?;
                        Map::Three38
                    }
                    0x3a => {
                        self.opcode = self.next()?;
                        Map::Three3a
                    }
                    _ => Map::Two,
                }
            }
            // LES, LDS and BOUND have memory operands: what would be a register is a prefix.
            0xc4 | 0xc5 | 0x62 if self.long() || self.peek()? >= 0xc0 => self.vex()?,
            _ => Map::One,
        };
        chosen(map);
        Ok(map.entry(self.opcode))
    }

    /// Takes the rest of a VEX prefix, and the opcode (SDM volume 2, 2.3.5).
    fn vex(&mut self) -> Result<Map, DecodeError> {
        if self.mandatory != PREFIX_NONE || self.rex_present || self.made.prefixes & LOCK != 0 {
            return Err(DecodeError::Undefined);
        }
        let mut map = 1;
        let last = match self.opcode {
            0xc5 => {
                // R is inverted, as all of these bits.
                let last = self.next()?;
                self.rex = if last & 0x80 == 0 { REX_R } else { 0 };
                last & 0x7f
            }
            0xc4 => {
                let first = self.next()?;
                let last = self.next()?;
                map = first & 0x1f;
                self.rex = !first >> 5 & 7 | if last & 0x80 != 0 { REX_W } else { 0 };
                last
            }
            // EVEX, which is all AVX-512.
            _ => return Err(DecodeError::Undefined),
        };
        self.vvvv = !last >> 3 & 0xf;
        if !self.long() {
            self.rex &= REX_W;
        }
        self.mandatory = last & 3;
        self.opcode = self.next()?;
        // VEX.L: none of these has 256 bits.
        if last & 4 != 0 {
            return Err(DecodeError::Undefined);
        }
        match map {
            2 => Ok(Map::Vex38),
            3 => Ok(Map::Vex3a),
            _ => Err(DecodeError::Undefined),
        }
    }

    /// Follows an entry to the form it leads to, and tells each choice on the way.
    fn resolve(
        &mut self,
        entry: &'static Entry,
        mut chosen: impl FnMut(Choice),
    ) -> Result<&'static Form, DecodeError> {
        let mut entry = entry;
        // Maps nest five deep at most.
        for _ in 0..8 {
            let (choice, entries): (_, &'static [Entry]) = match entry {
                Entry::Undefined => return Err(DecodeError::Undefined),
                Entry::Form(form) => return Ok(form),
                Entry::Reg(group) => (Choice::Reg(self.modrm()? >> 3 & 7), &group[..]),
                Entry::Rm(group) => (Choice::Rm(self.modrm()? & 7), &group[..]),
                Entry::Mod(either) => (Choice::Mod((self.modrm()? >= 0xc0).into()), &either[..]),
                Entry::Prefix(four) => {
                    self.made.prefixes &= !(REP | REPNE);
                    (Choice::Prefix(self.mandatory & 3), &four[..])
                }
                Entry::RexB(either) => (Choice::RexB((self.rex & REX_B != 0).into()), &either[..]),
                Entry::RexW(either) => (Choice::RexW((self.rex & REX_W != 0).into()), &either[..]),
                Entry::Long(either) => (Choice::Long(self.long().into()), &either[..]),
            };
            chosen(choice);
            entry = entries
                .get(usize::from(choice.number()))
                .ok_or(DecodeError::Undefined)?;
        }
        Err(DecodeError::Undefined)
    }

    fn operand_size(&self, rule: SizeRule) -> Size {
        let wide = self.rex & REX_W != 0;
        let by_default = match (self.mode, self.operand_prefix) {
            _ if wide => Size::Qword,
            (CodeSize::Bits16, false) => Size::Word,
            (CodeSize::Bits16, true) | (_, false) => Size::Dword,
            (_, true) => Size::Word,
        };
        match rule {
            SizeRule::B => Size::Byte,
            SizeRule::V => by_default,
            SizeRule::Z => by_default.min(Size::Dword),
            SizeRule::Y if wide && self.long() => Size::Qword,
            SizeRule::Y => Size::Dword,
            SizeRule::D64 if self.long() && !self.operand_prefix => Size::Qword,
            SizeRule::D64 => by_default,
            SizeRule::F64 if self.long() => Size::Qword,
            SizeRule::F64 => by_default,
            SizeRule::N if self.long() => Size::Qword,
            SizeRule::N => Size::Dword,
        }
    }

    /// Takes what follows the opcode, and makes the instruction.
    fn finish(mut self, form: &'static Form) -> Result<Instruction, DecodeError> {
        let forbidden = if self.long() { NOT_64 } else { ONLY_64 };
        if form.flags & forbidden != 0 {
            return Err(DecodeError::Undefined);
        }
        // VEX.vvvv that names no operand must be ones.
        if self.vvvv != 0 && !form.operands.contains(&Spec::By) {
            return Err(DecodeError::Undefined);
        }
        self.made.operation = form.operation;
        self.made.operand_size = self.operand_size(form.size);
        let mut in_memory = false;
        if form.flags & MODRM != 0 {
            in_memory = self.modrm()? < 0xc0 && form.flags & MOD_IGNORED == 0;
        }
        let locked = self.made.prefixes & LOCK != 0;
        if locked && !(in_memory && form.flags & MAY_LOCK != 0) {
            return Err(DecodeError::Undefined);
        }
        self.made.segment = SegmentRegister::Ds;
        if in_memory {
            self.memory()?;
        }
        if let Some(segment) = self.segment_prefix {
            self.made.segment = segment;
        }
        for (place, spec) in form.operands.into_iter().enumerate() {
            if spec == Spec::No {
                break;
            }
            self.made.operands[place] = self.operand(spec, in_memory)?;
        }
        if let Operation::Fpu(_) = form.operation {
            self.made.immediate = u64::from(self.opcode & 7) << 8 | u64::from(self.modrm()?);
        }
        self.made.length = self.at as u8;
        Ok(self.made)
    }

    /// Takes SIB and displacement (SDM volume 2, tables 2-1 to 2-3).
    fn memory(&mut self) -> Result<(), DecodeError> {
        let modrm = self.modrm()?;
        let (mode, rm) = (modrm >> 6, modrm & 7);
        if self.made.address_size() == Size::Word {
            // BX, BP, SI and DI by their numbers.
            let (base, index) = match rm {
                0 => (3, 6),
                1 => (3, 7),
                2 => (5, 6),
                3 => (5, 7),
                4 => (6, INDEX_NONE),
                5 => (7, INDEX_NONE),
                6 if mode == 0 => (BASE_NONE, INDEX_NONE),
                6 => (5, INDEX_NONE),
                _ => (3, INDEX_NONE),
            };
            self.made.base = base;
            self.made.index = index;
            if base == 5 {
                self.made.segment = SegmentRegister::Ss;
            }
            self.made.displacement = match mode {
                0 if base == BASE_NONE => self.signed(2)?,
                0 => 0,
                1 => self.signed(1)?,
                _ => self.signed(2)?,
            } as i32;
            return Ok(());
        }
        let mut base = rm;
        if rm == 4 {
            let sib = self.next()?;
            base = sib & 7;
            let index = sib >> 3 & 7 | (self.rex & REX_X) << 2;
            if index != 4 {
                self.made.index = index | sib >> 6 << SCALE_SHIFT;
            }
        }
        let displacement = match (mode, base) {
            (0, 5) => 4,
            (0, _) => 0,
            (1, _) => 1,
            _ => 4,
        };
        if (mode, base) == (0, 5) {
            // With a SIB byte it's absolute, without it follows RIP in 64-bit mode.
            self.made.base = if rm == 5 && self.long() {
                BASE_RIP
            } else {
                BASE_NONE
            };
        } else {
            self.made.base = base | (self.rex & REX_B) << 3;
            if matches!(self.made.base, 4 | 5) {
                self.made.segment = SegmentRegister::Ss;
            }
        }
        if displacement != 0 {
            self.made.displacement = self.signed(displacement)? as i32;
        }
        Ok(())
    }

    /// A general register of a size; without REX, 4 to 7 are AH to BH.
    fn general(&self, size: Size, number: u8) -> Slot {
        match size {
            Size::Byte if !self.rex_present && (4..8).contains(&number) => {
                Slot::register(RegisterClass::Gpr8High, number & 3)
            }
            Size::Byte => Slot::register(RegisterClass::Gpr8, number),
            Size::Word => Slot::register(RegisterClass::Gpr16, number),
            Size::Dword => Slot::register(RegisterClass::Gpr32, number),
            Size::Qword => Slot::register(RegisterClass::Gpr64, number),
        }
    }

    fn constant(&mut self, value: u64, size: Size) -> Slot {
        self.made.immediate = value & size.mask();
        Slot::IMMEDIATE
    }

    fn sized_memory(&mut self, bytes: u8, slot: Slot) -> Slot {
        self.made.memory_size = bytes;
        slot
    }

    /// What ModRM names: memory of a number of bytes, or the given register.
    fn either(&mut self, in_memory: bool, bytes: u8, register: Slot) -> Slot {
        if in_memory {
            self.sized_memory(bytes, Slot::MEMORY)
        } else {
            register
        }
    }

    /// What ModRM names, which must be memory.
    fn only_memory(&mut self, in_memory: bool, bytes: u8) -> Result<Slot, DecodeError> {
        if !in_memory {
            return Err(DecodeError::Undefined);
        }
        Ok(self.sized_memory(bytes, Slot::MEMORY))
    }

    fn operand(&mut self, spec: Spec, in_memory: bool) -> Result<Slot, DecodeError> {
        use RegisterClass::*;
        let modrm = self.modrm.unwrap_or(0);
        let reg = modrm >> 3 & 7 | (self.rex & REX_R) << 1;
        let rm = modrm & 7 | (self.rex & REX_B) << 3;
        let low = self.opcode & 7 | (self.rex & REX_B) << 3;
        let size = self.made.operand_size;
        let z = |decoder: &Self| decoder.operand_size(SizeRule::Z);
        let y = |decoder: &Self| decoder.operand_size(SizeRule::Y);
        let n = |decoder: &Self| decoder.operand_size(SizeRule::N);
        let general = |decoder: &mut Self, size: Size| {
            let register = decoder.general(size, rm);
            decoder.either(in_memory, size.bytes(), register)
        };
        Ok(match spec {
            Spec::No => Slot::NONE,
            Spec::Eb => general(self, Size::Byte),
            Spec::Ew => general(self, Size::Word),
            Spec::Ev => general(self, size),
            Spec::Ez => general(self, z(self)),
            Spec::Ey => general(self, y(self)),
            Spec::RvMw => {
                let register = self.general(size, rm);
                self.either(in_memory, 2, register)
            }
            Spec::RyMb => {
                let register = self.general(y(self), rm);
                self.either(in_memory, 1, register)
            }
            Spec::RyMw => {
                let register = self.general(y(self), rm);
                self.either(in_memory, 2, register)
            }
            Spec::RyMd => {
                let register = self.general(y(self), rm);
                self.either(in_memory, 4, register)
            }
            Spec::Rv | Spec::Ry | Spec::Nq | Spec::Ux if in_memory => {
                return Err(DecodeError::Undefined);
            }
            Spec::Rv => self.general(size, rm),
            Spec::Ry => self.general(y(self), rm),
            Spec::Rn => self.general(n(self), rm),
            Spec::Gb => self.general(Size::Byte, reg),
            Spec::Gw => self.general(Size::Word, reg),
            Spec::Gv => self.general(size, reg),
            Spec::Gy => self.general(y(self), reg),
            Spec::Gn => self.general(n(self), reg),
            Spec::M => self.only_memory(in_memory, 0)?,
            Spec::Mb => self.only_memory(in_memory, 1)?,
            Spec::Mw => self.only_memory(in_memory, 2)?,
            Spec::Md => self.only_memory(in_memory, 4)?,
            Spec::Mq => self.only_memory(in_memory, 8)?,
            Spec::Mt => self.only_memory(in_memory, 10)?,
            Spec::Mdq => self.only_memory(in_memory, 16)?,
            Spec::Mv => self.only_memory(in_memory, size.bytes())?,
            Spec::My => self.only_memory(in_memory, y(self).bytes())?,
            Spec::Mp => self.only_memory(in_memory, size.bytes() + 2)?,
            Spec::Ma => self.only_memory(in_memory, 2 * size.bytes())?,
            Spec::Ms => self.only_memory(in_memory, if self.long() { 10 } else { 6 })?,
            Spec::Sw | Spec::SwLoad => {
                let number = modrm >> 3 & 7;
                if SegmentRegister::from_number(number).is_none()
                    || (spec == Spec::SwLoad && number == SegmentRegister::Cs as u8)
                {
                    return Err(DecodeError::Undefined);
                }
                Slot::register(Segment, number)
            }
            Spec::Cn if !matches!(reg, 0 | 2 | 3 | 4 | 8) => return Err(DecodeError::Undefined),
            Spec::Cn => Slot::register(Control, reg),
            Spec::Dn if reg >= 8 => return Err(DecodeError::Undefined),
            Spec::Dn => Slot::register(Debug, reg),
            Spec::Zb => self.general(Size::Byte, low),
            Spec::Zv => self.general(size, low),
            Spec::Al => Slot::register(Gpr8, 0),
            Spec::Ax => Slot::register(Gpr16, 0),
            Spec::Rax => self.general(size, 0),
            Spec::Eax => self.general(z(self), 0),
            Spec::Cl => Slot::register(Gpr8, 1),
            Spec::Dx => Slot::register(Gpr16, 2),
            Spec::Es => Slot::register(Segment, SegmentRegister::Es as u8),
            Spec::Cs => Slot::register(Segment, SegmentRegister::Cs as u8),
            Spec::Ss => Slot::register(Segment, SegmentRegister::Ss as u8),
            Spec::Ds => Slot::register(Segment, SegmentRegister::Ds as u8),
            Spec::Fs => Slot::register(Segment, SegmentRegister::Fs as u8),
            Spec::Gs => Slot::register(Segment, SegmentRegister::Gs as u8),
            Spec::One => self.constant(1, Size::Byte),
            Spec::Ib => {
                let value = self.number(1)?;
                self.constant(value, Size::Byte)
            }
            Spec::SIb => {
                let value = self.signed(1)?;
                self.constant(value as u64, size)
            }
            Spec::Iw => {
                let value = self.number(2)?;
                self.constant(value, Size::Word)
            }
            Spec::I2b => {
                self.made.immediate |= self.number(1)? << 16;
                Slot::SECOND
            }
            Spec::Iz => {
                let value = self.signed(z(self).bytes())?;
                self.constant(value as u64, size)
            }
            Spec::Iv => {
                let value = self.number(size.bytes())?;
                self.constant(value, size)
            }
            Spec::Jb => self.relative(1)?,
            // In 64-bit mode the distance has 32 bits even with 66h.
            Spec::Jz => self.relative(size.min(Size::Dword).bytes())?,
            Spec::Ap => {
                let offset = self.number(size.bytes())?;
                self.made.immediate = offset | self.number(2)? << 32;
                Slot::FAR
            }
            Spec::Ob | Spec::Ov => {
                self.made.immediate = self.number(self.made.address_size().bytes())?;
                self.sized_memory(size.bytes(), Slot::OFFSET)
            }
            Spec::Xb => self.sized_memory(1, Slot::SOURCE),
            Spec::Xv => self.sized_memory(size.bytes(), Slot::SOURCE),
            Spec::Xz => self.sized_memory(z(self).bytes(), Slot::SOURCE),
            Spec::Yb => self.sized_memory(1, Slot::DESTINATION),
            Spec::Yv => self.sized_memory(size.bytes(), Slot::DESTINATION),
            Spec::Yz => self.sized_memory(z(self).bytes(), Slot::DESTINATION),
            Spec::Bb => {
                self.made.base = 3;
                self.sized_memory(1, Slot::MEMORY)
            }
            Spec::By if self.long() => self.general(y(self), self.vvvv),
            Spec::By => self.general(y(self), self.vvvv & 7),
            Spec::Pq => Slot::register(Mmx, reg & 7),
            Spec::Qd => self.either(in_memory, 4, Slot::register(Mmx, rm & 7)),
            Spec::Qq => self.either(in_memory, 8, Slot::register(Mmx, rm & 7)),
            Spec::Nq => Slot::register(Mmx, rm & 7),
            Spec::Vx => Slot::register(Xmm, reg),
            Spec::Ww => self.either(in_memory, 2, Slot::register(Xmm, rm)),
            Spec::Wd => self.either(in_memory, 4, Slot::register(Xmm, rm)),
            Spec::Wq => self.either(in_memory, 8, Slot::register(Xmm, rm)),
            Spec::Wx => self.either(in_memory, 16, Slot::register(Xmm, rm)),
            Spec::Ux => Slot::register(Xmm, rm),
            Spec::MaskedQ => self.sized_memory(8, Slot::MASKED),
            Spec::MaskedX => self.sized_memory(16, Slot::MASKED),
            Spec::St0 => Slot::register(X87, 0),
            Spec::Sti => Slot::register(X87, modrm & 7),
        })
    }

    fn relative(&mut self, bytes: u8) -> Result<Slot, DecodeError> {
        self.made.immediate = self.signed(bytes)? as u64;
        Ok(Slot::RELATIVE)
    }
}
