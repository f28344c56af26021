//! What the decoder makes of an instruction's bytes: a small value, apart from the encoding.
//!
//! Names are those of the Intel SDM. An [`Instruction`] is 24 bytes; its parts are read by methods.

use super::operation::Operation;

/// The size of code: CS.D and CS.L (SDM volume 3, 3.4.5 and 5.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeSize {
    /// Real mode, virtual-8086 mode, and segments with CS.D clear.
    Bits16,
    /// Segments with CS.D set, in protected and compatibility mode.
    Bits32,
    /// 64-bit mode.
    Bits64,
}

/// Why bytes are no instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// The bytes end inside the instruction: fetch more, or raise what the fetch raises.
    NeedMore,
    /// The processor raises #UD.
    Undefined,
    /// The instruction has more than [`LENGTH_MAX`] bytes: #GP(0).
    TooLong,
}

/// Bytes of the longest instruction.
pub const LENGTH_MAX: usize = 15;

/// The size of an operand or an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Size {
    /// 8 bits.
    Byte,
    /// 16 bits.
    Word,
    /// 32 bits.
    Dword,
    /// 64 bits.
    Qword,
}

impl Size {
    /// 1, 2, 4 or 8.
    pub const fn bytes(self) -> u8 {
        1 << self as u8
    }

    /// 8, 16, 32 or 64.
    pub const fn bits(self) -> u8 {
        8 << self as u8
    }

    /// The bits of such a value in a 64-bit word.
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits())
    }
}

/// A segment register, by its number in encodings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentRegister {
    /// ES, 0.
    Es,
    /// CS, 1.
    Cs,
    /// SS, 2.
    Ss,
    /// DS, 3.
    Ds,
    /// FS, 4.
    Fs,
    /// GS, 5.
    Gs,
}

impl SegmentRegister {
    /// The register of a number from an encoding; there are six.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Es,
            1 => Self::Cs,
            2 => Self::Ss,
            3 => Self::Ds,
            4 => Self::Fs,
            5 => Self::Gs,
            _ => return None,
        })
    }
}

/// Which file of registers a register belongs to, and at which size it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterClass {
    /// Bits 7..0 of a general register: AL to R15B, with SPL, BPL, SIL and DIL at 4 to 7.
    Gpr8,
    /// Bits 15..8 of AX, CX, DX or BX (0 to 3): AH to BH.
    Gpr8High,
    /// AX to R15W.
    Gpr16,
    /// EAX to R15D.
    Gpr32,
    /// RAX to R15.
    Gpr64,
    /// ES to GS, numbered as [`SegmentRegister`].
    Segment,
    /// CR0, CR2, CR3, CR4, CR8.
    Control,
    /// DR0 to DR7; 4 and 5 are 6 and 7, or #UD with CR4.DE.
    Debug,
    /// ST(0) to ST(7).
    X87,
    /// MM0 to MM7.
    Mmx,
    /// XMM0 to XMM15.
    Xmm,
}

/// A register as an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// Which kind.
    pub class: RegisterClass,
    /// Its number, 0 to 15.
    pub number: u8,
}

/// What an effective address starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// Nothing: the displacement is the address.
    None,
    /// A general register's number, at the address size.
    Register(u8),
    /// The address of the next instruction.
    Rip,
}

/// A memory operand. The effective address is the sum of the parts, cut to the address size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The segment, after overrides.
    pub segment: SegmentRegister,
    /// See [`Base`].
    pub base: Base,
    /// A general register's number, at the address size.
    pub index: Option<u8>,
    /// The index counts this many times: 1, 2, 4 or 8.
    pub scale: u8,
    /// Sign-extended; of MOV's direct offsets up to 64 bits that are an address.
    pub displacement: i64,
}

/// An operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// There is none at this place.
    None,
    /// A register.
    Register(Register),
    /// Memory; [`Instruction::memory_size`] bytes.
    Memory(Memory),
    /// A constant, sign-extended to the operand's size where the SDM says so; upper bits are zero.
    Immediate(u64),
    /// A branch target's distance from the next instruction. The sum is cut to the operand size.
    Relative(i64),
    /// A far branch's target.
    Far {
        /// The code segment selector.
        selector: u16,
        /// EIP, or IP where the operand size is 16 bits.
        offset: u32,
    },
}

/// An operand in a byte: a register's class and number, or (class 0) where to find it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot(u8);

impl Slot {
    pub(super) const NONE: Self = Self(0);
    /// What ModRM names, or a direct offset.
    pub(super) const MEMORY: Self = Self(1);
    pub(super) const IMMEDIATE: Self = Self(2);
    /// The byte after a first immediate.
    pub(super) const SECOND: Self = Self(3);
    pub(super) const RELATIVE: Self = Self(4);
    pub(super) const FAR: Self = Self(5);
    /// A direct offset, kept in the immediate.
    pub(super) const OFFSET: Self = Self(6);
    /// rSI in the instruction's segment: where a string comes from.
    pub(super) const SOURCE: Self = Self(7);
    /// rDI in ES: where a string goes to.
    pub(super) const DESTINATION: Self = Self(8);
    /// rDI in the instruction's segment: where a masked store goes to.
    pub(super) const MASKED: Self = Self(9);

    pub(super) const fn register(class: RegisterClass, number: u8) -> Self {
        Self((class as u8 + 1) << 4 | number & 15)
    }

    const fn as_register(self) -> Option<Register> {
        use RegisterClass::*;
        let class = match self.0 >> 4 {
            1 => Gpr8,
            2 => Gpr8High,
            3 => Gpr16,
            4 => Gpr32,
            5 => Gpr64,
            6 => Segment,
            7 => Control,
            8 => Debug,
            9 => X87,
            10 => Mmx,
            11 => Xmm,
            _ => return None,
        };
        Some(Register {
            class,
            number: self.0 & 15,
        })
    }
}

/// [`Instruction::base`]: no base.
pub(super) const BASE_NONE: u8 = 0xff;
/// [`Instruction::base`]: relative to the next instruction.
pub(super) const BASE_RIP: u8 = 0xfe;
/// [`Instruction::index`]: no index.
pub(super) const INDEX_NONE: u8 = 0x1f;
/// The shift of the scale's logarithm in [`Instruction::index`].
pub(super) const SCALE_SHIFT: u8 = 6;

/// [`Instruction::prefixes`]: F0h.
pub(super) const LOCK: u8 = 1 << 0;
/// [`Instruction::prefixes`]: F3h.
pub(super) const REP: u8 = 1 << 1;
/// [`Instruction::prefixes`]: F2h.
pub(super) const REPNE: u8 = 1 << 2;

/// A decoded instruction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    pub(super) immediate: u64,
    pub(super) displacement: i32,
    pub(super) operation: Operation,
    pub(super) operands: [Slot; 3],
    pub(super) base: u8,
    pub(super) index: u8,
    pub(super) memory_size: u8,
    pub(super) length: u8,
    pub(super) operand_size: Size,
    /// The address size's logarithm above bit 4, prefixes below.
    pub(super) prefixes: u8,
    pub(super) segment: SegmentRegister,
}

const _: () = assert!(size_of::<Instruction>() == 24);

impl Instruction {
    /// What it does.
    pub const fn operation(&self) -> Operation {
        self.operation
    }

    /// The same operands with another operation: what an opcode means on a processor without its feature.
    pub const fn with_operation(mut self, operation: Operation) -> Self {
        self.operation = operation;
        self
    }

    /// Its bytes, 1 to [`LENGTH_MAX`].
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// The effective operand size: Byte for byte forms; what RIP is cut to for near branches; what stack
    /// slots are cut to for PUSH, POP, CALL, RET and their like.
    pub const fn operand_size(&self) -> Size {
        self.operand_size
    }

    /// The effective address size, of memory operands and of the count register of REP, LOOP and JCXZ. Never Byte.
    pub const fn address_size(&self) -> Size {
        match self.prefixes >> 4 {
            1 => Size::Word,
            2 => Size::Dword,
            _ => Size::Qword,
        }
    }

    /// Bytes of a memory operand; 0 where there is none, where it is not accessed (LEA, INVLPG), and where
    /// the operation says how large it is (FXSAVE, XSAVE and the x87 environment and state).
    pub const fn memory_size(&self) -> u8 {
        self.memory_size
    }

    /// A LOCK prefix, which the instruction allows. XCHG with memory is locked without.
    pub const fn lock(&self) -> bool {
        self.prefixes & LOCK != 0
    }

    /// F3h, where it is no part of the opcode: REP, or REPE of CMPS and SCAS. Others ignore it.
    pub const fn rep(&self) -> bool {
        self.prefixes & REP != 0
    }

    /// F2h, where it is no part of the opcode: REPNE of CMPS and SCAS, REP of other string instructions.
    pub const fn repne(&self) -> bool {
        self.prefixes & REPNE != 0
    }

    /// Of an x87 instruction the eleven bits that FXSAVE calls its opcode: those of the first byte that differ, and
    /// ModRM.
    pub const fn x87_opcode(&self) -> u16 {
        self.immediate as u16
    }

    /// The segment of the memory operand, or of what MONITOR's rAX points to, after overrides. String destinations
    /// are in ES whatever this says.
    pub const fn segment(&self) -> SegmentRegister {
        self.segment
    }

    /// The operand at a place from 0 to 2, in the SDM's order: destination first.
    pub fn operand(&self, place: usize) -> Operand {
        let slot = self.operands.get(place).copied().unwrap_or(Slot::NONE);
        if let Some(register) = slot.as_register() {
            return Operand::Register(register);
        }
        // RSI and RDI.
        let string = |segment, register| {
            Operand::Memory(Memory {
                segment,
                base: Base::Register(register),
                index: None,
                scale: 1,
                displacement: 0,
            })
        };
        match slot {
            Slot::MEMORY => Operand::Memory(self.modrm_memory()),
            Slot::OFFSET => Operand::Memory(Memory {
                segment: self.segment,
                base: Base::None,
                index: None,
                scale: 1,
                displacement: self.immediate as i64,
            }),
            Slot::SOURCE => string(self.segment, 6),
            Slot::DESTINATION => string(SegmentRegister::Es, 7),
            Slot::MASKED => string(self.segment, 7),
            // Only ENTER has two, and its first has 16 bits.
            Slot::IMMEDIATE if self.operands.contains(&Slot::SECOND) => {
                Operand::Immediate(self.immediate & 0xffff)
            }
            Slot::IMMEDIATE => Operand::Immediate(self.immediate),
            Slot::SECOND => Operand::Immediate(self.immediate >> 16 & 0xff),
            Slot::RELATIVE => Operand::Relative(self.immediate as i64),
            Slot::FAR => Operand::Far {
                selector: (self.immediate >> 32) as u16,
                offset: self.immediate as u32,
            },
            _ => Operand::None,
        }
    }

    /// The operands, up to the first that is none.
    pub fn operands(&self) -> impl Iterator<Item = Operand> {
        let instruction = *self;
        (0..3)
            .map(move |place| instruction.operand(place))
            .take_while(|operand| *operand != Operand::None)
    }

    /// The memory operand, the first if there are two.
    pub fn memory(&self) -> Option<Memory> {
        self.operands().find_map(|operand| match operand {
            Operand::Memory(memory) => Some(memory),
            _ => None,
        })
    }

    fn modrm_memory(&self) -> Memory {
        let index = self.index & INDEX_NONE;
        Memory {
            segment: self.segment,
            base: match self.base {
                BASE_NONE => Base::None,
                BASE_RIP => Base::Rip,
                number => Base::Register(number),
            },
            index: (index != INDEX_NONE).then_some(index),
            scale: 1 << (self.index >> SCALE_SHIFT),
            displacement: self.displacement.into(),
        }
    }
}

impl core::fmt::Debug for Instruction {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Instruction")
            .field("operation", &self.operation)
            .field("operands", &[0, 1, 2].map(|place| self.operand(place)))
            .field("length", &self.length)
            .field("operand_size", &self.operand_size)
            .field("address_size", &self.address_size())
            .field("memory_size", &self.memory_size)
            .field("lock", &self.lock())
            .field("rep", &self.rep())
            .field("repne", &self.repne())
            .finish()
    }
}
