//! Instructions as text, in the syntax that AT&T's assembler began and GNU's goes on with: sources before the destination,
//! a letter for the size behind mnemonics, `%` before registers and `$` before constants.
//!
//! It is the form in which QEMU shows guest code, down to spaces and to how numbers are written: constants from 10 up in
//! hexadecimal; negative ones where the instruction extends a sign, except those of AND, OR and XOR; a branch's target as
//! an address. Names are the SDM's where those and QEMU's disassembler differ (it has `salb`, `ud2b`, `feni8087_nop`).
//!
//! Shown is what the decoder knows, which is what the software CPU executes. Deliberately left out: prefixes that
//! change nothing (except segments, whose absence would surprise), symbols, and instructions of absent features, which
//! are bytes.

#[cfg(test)]
mod tests;

use core::fmt::{self, Display, Write};

use super::form::Spec;
use super::{
    Base, CodeSize, DecodeError, Decoder, Fpu, Instruction, Memory, Operand, Operation, Packed,
    Register, RegisterClass, Size, Sse,
};

/// Letters of the longest mnemonic with its prefixes.
const MNEMONIC_MAX: usize = 40;
/// Columns that a mnemonic takes at least, with a space behind it.
const MNEMONIC_COLUMN: usize = 8;

/// An instruction with what its text needs besides: how its constants were written, and prefixes that do nothing.
#[derive(Clone, Copy, Debug)]
pub struct Disassembled {
    instruction: Instruction,
    operands: [Spec; 3],
    mode: CodeSize,
    /// The last segment prefix, even if it does nothing.
    segment: Option<&'static str>,
}

/// Decodes the instruction that `bytes` begin with, for printing. Bytes behind it are ignored.
pub fn disassemble(bytes: &[u8], mode: CodeSize) -> Result<Disassembled, DecodeError> {
    let mut decoder = Decoder::new(bytes, mode);
    let entry = decoder.opcode(|_| ())?;
    let form = decoder.resolve(entry, |_| ())?;
    let mut segment = None;
    for byte in bytes {
        match byte {
            0x26 => segment = Some("%es:"),
            0x2e => segment = Some("%cs:"),
            0x36 => segment = Some("%ss:"),
            0x3e => segment = Some("%ds:"),
            0x64 => segment = Some("%fs:"),
            0x65 => segment = Some("%gs:"),
            0x66 | 0x67 | 0xf0 | 0xf2 | 0xf3 => {}
            0x40..=0x4f if mode == CodeSize::Bits64 => {}
            _ => break,
        }
    }
    Ok(Disassembled {
        instruction: decoder.finish(form)?,
        operands: form.operands,
        mode,
        segment,
    })
}

/// Bytes of an instruction in its line of a listing; more follow on lines of their own.
const BYTES_SHOWN: usize = 8;

/// Writes the instruction that `bytes` begin with as a listing has it: address, bytes, text, and a line feed. What is no
/// instruction is a byte. Returns how many bytes that was: 0, and nothing is written, if there are too few to know.
///
/// # Errors
/// What `to` says.
pub fn list(
    to: &mut dyn Write,
    address: u64,
    bytes: &[u8],
    mode: CodeSize,
) -> Result<usize, fmt::Error> {
    let decoded = disassemble(bytes, mode);
    let length = match &decoded {
        Ok(decoded) => decoded.instruction.length().into(),
        Err(DecodeError::NeedMore) => 0,
        Err(DecodeError::Undefined | DecodeError::TooLong) => 1,
    };
    let bytes = bytes.get(..length).unwrap_or_default();
    for (line, bytes) in (0..).zip(bytes.chunks(BYTES_SHOWN)) {
        let first = address.wrapping_add(line * BYTES_SHOWN as u64);
        write!(to, "{first:#010x}: ")?;
        for byte in bytes {
            write!(to, " {byte:02x}")?;
        }
        if line == 0 {
            let gap = 3 * (BYTES_SHOWN - bytes.len()) + 2;
            write!(to, "{:gap$}", "")?;
            match (&decoded, bytes) {
                (Ok(decoded), _) => write!(to, "{}", decoded.at(address))?,
                (Err(_), [byte, ..]) => write!(to, "{:<MNEMONIC_COLUMN$} {byte:#04x}", ".byte")?,
                (Err(_), []) => {}
            }
        }
        to.write_char('\n')?;
    }
    Ok(bytes.len())
}

impl Disassembled {
    /// The instruction.
    pub const fn instruction(&self) -> &Instruction {
        &self.instruction
    }

    /// The text of the instruction at `address`: RIP, in the code segment.
    pub const fn at(&self, address: u64) -> impl Display {
        Text {
            decoded: *self,
            address,
        }
    }
}

/// A disassembled instruction at its address.
struct Text {
    decoded: Disassembled,
    address: u64,
}

impl Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decoded = &self.decoded;
        let mut mnemonic = heapless::String::new();
        decoded.mnemonic(&mut mnemonic)?;
        let mut places = [0, 1, 2].map(|place| (place, decoded.instruction.operand(place)));
        let count = decoded.instruction.operands().count();
        decoded.arrange(&mut places[..count]);
        let mut printed = false;
        for (place, operand) in places[..count].iter().rev() {
            if !decoded.shows(*place) {
                continue;
            }
            match printed {
                false => write!(f, "{mnemonic:<MNEMONIC_COLUMN$} ")?,
                true => f.write_str(", ")?,
            }
            printed = true;
            decoded.operand(f, *place, *operand, self.address)?;
        }
        match printed {
            false => f.write_str(&mnemonic),
            true => Ok(()),
        }
    }
}

/// Writes in small letters: names of operations as their enums have them.
struct Small<'t>(&'t mut heapless::String<MNEMONIC_MAX>);

impl Write for Small<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut small = text.chars().map(|letter| letter.to_ascii_lowercase());
        small.try_for_each(|letter| self.0.push(letter).map_err(|_| fmt::Error))
    }
}

/// The letter behind the mnemonics of operations on integers.
const fn letter(size: Size) -> &'static str {
    match size {
        Size::Byte => "b",
        Size::Word => "w",
        Size::Dword => "l",
        Size::Qword => "q",
    }
}

/// A constant: up to 9 as it is, in hexadecimal from there on.
fn number(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    match value {
        0..=9 => write!(f, "{value}"),
        _ => write!(f, "{value:#x}"),
    }
}

/// A constant with its sign.
fn signed(f: &mut fmt::Formatter<'_>, value: i64) -> fmt::Result {
    if value < 0 {
        f.write_char('-')?;
    }
    number(f, value.unsigned_abs())
}

/// Extends the sign of a number of a size.
const fn extend(value: u64, size: Size) -> i64 {
    let unused = 64 - size.bits() as u32;
    (value << unused) as i64 >> unused
}

fn register(f: &mut fmt::Formatter<'_>, register: Register) -> fmt::Result {
    /// Letters of the first eight, without what tells their size.
    const NAMES: [&str; 8] = ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di"];
    const BYTES: [&str; 8] = ["al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil"];
    const HIGH: [&str; 4] = ["ah", "ch", "dh", "bh"];
    const SEGMENTS: [&str; 8] = ["es", "cs", "ss", "ds", "fs", "gs", "?", "?"];
    let Register { class, number } = register;
    let low = usize::from(number & 7);
    let name = NAMES[low];
    f.write_char('%')?;
    match (class, number) {
        (RegisterClass::Gpr8, 0..8) => f.write_str(BYTES[low]),
        (RegisterClass::Gpr8, _) => write!(f, "r{number}b"),
        (RegisterClass::Gpr8High, _) => f.write_str(HIGH[low & 3]),
        (RegisterClass::Gpr16, 0..8) => f.write_str(name),
        (RegisterClass::Gpr16, _) => write!(f, "r{number}w"),
        (RegisterClass::Gpr32, 0..8) => write!(f, "e{name}"),
        (RegisterClass::Gpr32, _) => write!(f, "r{number}d"),
        (RegisterClass::Gpr64, 0..8) => write!(f, "r{name}"),
        (RegisterClass::Gpr64, _) => write!(f, "r{number}"),
        (RegisterClass::Segment, _) => f.write_str(SEGMENTS[low]),
        (RegisterClass::Control, _) => write!(f, "cr{number}"),
        (RegisterClass::Debug, _) => write!(f, "dr{number}"),
        (RegisterClass::X87, _) => write!(f, "st({number})"),
        (RegisterClass::Mmx, _) => write!(f, "mm{number}"),
        (RegisterClass::Xmm, _) => write!(f, "xmm{number}"),
    }
}

/// The class of general registers of a size.
const fn general(size: Size) -> RegisterClass {
    match size {
        Size::Byte => RegisterClass::Gpr8,
        Size::Word => RegisterClass::Gpr16,
        Size::Dword => RegisterClass::Gpr32,
        Size::Qword => RegisterClass::Gpr64,
    }
}

/// Integer and system operations whose mnemonics have no letter for the size.
const fn is_plain(operation: Operation) -> bool {
    use Operation::*;
    matches!(
        operation,
        Aaa | Aad
            | Aam
            | Aas
            | Arpl
            | Bound
            | Clac
            | Clc
            | Cld
            | Clflush
            | Clflushopt
            | Cli
            | Clts
            | Clwb
            | Cmc
            | Cmpxchg16b
            | Cmpxchg8b
            | Cpuid
            | Daa
            | Das
            | Endbr32
            | Endbr64
            | Enter
            | Hlt
            | Int
            | Int1
            | Int3
            | Into
            | Invd
            | Invlpg
            | Invpcid
            | Lahf
            | Leave
            | Lfence
            | Loop
            | Loope
            | Loopne
            | Mfence
            | Monitor
            | Mwait
            | Pause
            | Prefetchnta
            | Prefetcht0
            | Prefetcht1
            | Prefetcht2
            | Prefetchw
            | Prefetchwt1
            | Prefetch
            | Rdmsr
            | Rdpid
            | Rdpkru
            | Rdpmc
            | Rdtsc
            | Rdtscp
            | Rsm
            | Sahf
            | Salc
            | Serialize
            | Setcc(_)
            | Sfence
            | Stac
            | Stc
            | Std
            | Sti
            | Swapgs
            | Syscall
            | Sysenter
            | Sysexit
            | Ud0
            | Ud1
            | Ud2
            | Verr
            | Verw
            | Wait
            | Wbinvd
            | Wbnoinvd
            | Wrmsr
            | Wrpkru
            | Xgetbv
            | Xsetbv
    )
}

impl Disassembled {
    fn in_memory(&self) -> bool {
        self.instruction.memory().is_some()
    }

    /// Writes prefixes that count, and the mnemonic.
    fn mnemonic(&self, to: &mut heapless::String<MNEMONIC_MAX>) -> fmt::Result {
        use Operation::*;
        let instruction = &self.instruction;
        let size = instruction.operand_size();
        let suffix = letter(size);
        if instruction.lock() {
            to.write_str("lock ")?;
        }
        match instruction.operation() {
            Movs | Stos | Lods | Ins | Outs if instruction.rep() => to.write_str("rep ")?,
            Cmps | Scas if instruction.rep() => to.write_str("repe ")?,
            Movs | Stos | Lods | Ins | Outs | Cmps | Scas if instruction.repne() => {
                to.write_str("repne ")?;
            }
            _ => {}
        }
        match instruction.operation() {
            Jcc(condition) => write!(Small(to), "j{condition:?}"),
            Setcc(condition) => write!(Small(to), "set{condition:?}"),
            Cmovcc(condition) => write!(Small(to), "cmov{condition:?}{suffix}"),
            Cbw => to.write_str(match size {
                Size::Byte | Size::Word => "cbtw",
                Size::Dword => "cwtl",
                Size::Qword => "cltq",
            }),
            Cwd => to.write_str(match size {
                Size::Byte | Size::Word => "cwtd",
                Size::Dword => "cltd",
                Size::Qword => "cqto",
            }),
            CallFar => write!(to, "lcall{suffix}"),
            JmpFar => write!(to, "ljmp{suffix}"),
            Retf => write!(to, "lret{suffix}"),
            Jmp if matches!(instruction.operand(0), Operand::Relative(_)) => to.write_str("jmp"),
            Jcxz => to.write_str(match instruction.address_size() {
                Size::Byte | Size::Word => "jcxz",
                Size::Dword => "jecxz",
                Size::Qword => "jrcxz",
            }),
            Movsx | Movzx => {
                let stem = match instruction.operation() {
                    Movsx => "movs",
                    _ => "movz",
                };
                let source = match self.operands[1] {
                    Spec::Eb => "b",
                    _ => "w",
                };
                write!(to, "{stem}{source}{suffix}")
            }
            Movsxd if size == Size::Qword => to.write_str("movslq"),
            Movsxd => to.write_str("movsxd"),
            MovControl | MovDebug => to.write_str(if self.mode == CodeSize::Bits64 {
                "movq"
            } else {
                "movl"
            }),
            MovSegment | Sldt | Str | Smsw if self.in_memory() => {
                let name = match instruction.operation() {
                    MovSegment => "movw",
                    Sldt => "sldtw",
                    Str => "strw",
                    _ => "smsww",
                };
                to.write_str(name)
            }
            MovSegment => write!(to, "mov{suffix}"),
            Lldt | Ltr | Lmsw => write!(Small(to), "{:?}w", instruction.operation()),
            Mov if size == Size::Qword && self.operands[1] == Spec::Iv => to.write_str("movabsq"),
            Mov if self
                .operands
                .iter()
                .any(|spec| matches!(spec, Spec::Ob | Spec::Ov)) =>
            {
                let wide = instruction.address_size() == Size::Qword;
                write!(to, "mov{}{suffix}", if wide { "abs" } else { "" })
            }
            Xlat => to.write_str("xlatb"),
            Nop if instruction.operands().next().is_none() => to.write_str("nop"),
            Fxsave | Fxrstor | Xsave | Xrstor | Xsavec | Xsaveopt | Xsaves | Xrstors => {
                let wide = if size == Size::Qword { "64" } else { "" };
                write!(Small(to), "{:?}{wide}", instruction.operation())
            }
            Fpu(name) => self.fpu_mnemonic(to, name),
            Sse(name) => self.sse_mnemonic(to, name),
            Packed(name) => write!(Small(to), "{name:?}"),
            plain if is_plain(plain) => write!(Small(to), "{plain:?}"),
            sized => write!(Small(to), "{sized:?}{suffix}"),
        }
    }

    /// AT&T's mnemonics of subtraction and division are exchanged where the destination isn't ST(0). Theirs is an old
    /// error that all assemblers of the syntax share.
    fn fpu_mnemonic(&self, to: &mut heapless::String<MNEMONIC_MAX>, name: Fpu) -> fmt::Result {
        use super::Fpu::*;
        let name = match name {
            other if self.operands[1] != Spec::St0 => other,
            Fsub => Fsubr,
            Fsubr => Fsub,
            Fdiv => Fdivr,
            Fdivr => Fdiv,
            Fsubp => Fsubrp,
            Fsubrp => Fsubp,
            Fdivp => Fdivrp,
            Fdivrp => Fdivp,
            other => other,
        };
        let suffix = match (name, self.instruction.memory_size()) {
            (
                Fadd | Fmul | Fcom | Fcomp | Fsub | Fsubr | Fdiv | Fdivr | Fld | Fst | Fstp,
                bytes,
            ) => match bytes {
                4 => "s",
                8 => "l",
                10 => "t",
                _ => "",
            },
            (
                Fiadd | Fimul | Ficom | Ficomp | Fisub | Fisubr | Fidiv | Fidivr | Fild | Fist
                | Fistp | Fisttp,
                bytes,
            ) => match bytes {
                2 => "s",
                4 => "l",
                _ => "ll",
            },
            _ => "",
        };
        write!(Small(to), "{name:?}{suffix}")
    }

    fn sse_mnemonic(&self, to: &mut heapless::String<MNEMONIC_MAX>, name: Sse) -> fmt::Result {
        use super::Sse::*;
        let suffix = match name {
            Cvtsi2ss | Cvtsi2sd => letter(self.instruction.operand_size()),
            _ => "",
        };
        match (name, self.predicate()) {
            (Cmpps, Some(predicate)) => write!(to, "cmp{predicate}ps"),
            (Cmppd, Some(predicate)) => write!(to, "cmp{predicate}pd"),
            (Cmpss, Some(predicate)) => write!(to, "cmp{predicate}ss"),
            (Cmpsd, Some(predicate)) => write!(to, "cmp{predicate}sd"),
            _ => write!(Small(to), "{name:?}{suffix}"),
        }
    }

    /// What a comparison of SSE looks for, in place of its constant (SDM volume 2, CMPPD).
    fn predicate(&self) -> Option<&'static str> {
        const PREDICATES: [&str; 8] = ["eq", "lt", "le", "unord", "neq", "nlt", "nle", "ord"];
        let Operation::Sse(Sse::Cmpps | Sse::Cmppd | Sse::Cmpss | Sse::Cmpsd) =
            self.instruction.operation()
        else {
            return None;
        };
        match self.instruction.operand(2) {
            Operand::Immediate(value) => PREDICATES.get(usize::try_from(value).ok()?).copied(),
            _ => None,
        }
    }

    /// Puts operands in another order where the syntax is not the SDM's backwards.
    fn arrange(&self, operands: &mut [(usize, Operand)]) {
        let swaps = match self.instruction.operation() {
            Operation::Enter => true,
            Operation::Xchg => self.operands[1] == Spec::Rax,
            _ => false,
        };
        if swaps {
            operands.reverse();
        }
    }

    /// Whether an operand is shown. Some are in the mnemonic.
    fn shows(&self, place: usize) -> bool {
        use super::Fpu::*;
        match self.instruction.operation() {
            Operation::Xlat => false,
            Operation::Packed(Packed::Maskmovq | Packed::Maskmovdqu) => place > 0,
            Operation::Sse(_) if place == 2 => self.predicate().is_none(),
            Operation::Fpu(
                Fcmovb | Fcmovbe | Fcmove | Fcmovnb | Fcmovnbe | Fcmovne | Fcmovnu | Fcmovu,
            ) => true,
            // ST(0) as the destination, or as what is taken off the stack, is understood.
            Operation::Fpu(Faddp | Fmulp | Fsubp | Fsubrp | Fdivp | Fdivrp) => place == 0,
            Operation::Fpu(_) => place > 0 || self.operands[0] != Spec::St0,
            _ => true,
        }
    }

    fn operand(
        &self,
        f: &mut fmt::Formatter<'_>,
        place: usize,
        operand: Operand,
        address: u64,
    ) -> fmt::Result {
        use Operation::*;
        let operation = self.instruction.operation();
        let size = self.instruction.operand_size();
        if matches!(operation, Call | Jmp | CallFar | JmpFar)
            && matches!(operand, Operand::Register(_) | Operand::Memory(_))
        {
            f.write_char('*')?;
        }
        match operand {
            Operand::None => Ok(()),
            // Shown at the operand size, though 16 bits count.
            Operand::Register(Register { class, number })
                if operation == MovSegment && class != RegisterClass::Segment =>
            {
                let class = general(size);
                register(f, Register { class, number })
            }
            Operand::Register(shown) => register(f, shown),
            Operand::Memory(memory) => self.memory(f, memory, self.operands.get(place)),
            Operand::Immediate(value) => {
                f.write_char('$')?;
                let unsigned = matches!(operation, And | Or | Xor);
                match self.operands.get(place) {
                    Some(Spec::SIb) if !unsigned => signed(f, extend(value, size)),
                    Some(Spec::Iz) if !unsigned && size == Size::Qword => signed(f, value as i64),
                    Some(Spec::Iw) if operation == Enter => signed(f, extend(value, Size::Word)),
                    Some(Spec::I2b) => signed(f, extend(value, Size::Byte)),
                    _ => number(f, value),
                }
            }
            Operand::Relative(distance) => {
                let next = address.wrapping_add(self.instruction.length().into());
                number(f, next.wrapping_add_signed(distance) & size.mask())
            }
            Operand::Far { selector, offset } => {
                write!(f, "${selector:#x}:${offset:#x}")
            }
        }
    }

    fn memory(
        &self,
        f: &mut fmt::Formatter<'_>,
        memory: Memory,
        spec: Option<&Spec>,
    ) -> fmt::Result {
        let size = self.instruction.address_size();
        match spec {
            // ES, whatever prefixes say; 64-bit mode has no such thing.
            Some(Spec::Yb | Spec::Yv | Spec::Yz) if self.mode != CodeSize::Bits64 => {
                f.write_str("%es:")?;
            }
            Some(Spec::Yb | Spec::Yv | Spec::Yz) => {}
            _ => f.write_str(self.segment.unwrap_or(""))?,
        }
        let alone = memory.base == Base::None && memory.index.is_none();
        if alone {
            return number(f, memory.displacement as u64 & size.mask());
        }
        if memory.displacement != 0 {
            signed(f, memory.displacement)?;
        }
        f.write_char('(')?;
        let class = general(size);
        match memory.base {
            Base::None => {}
            Base::Register(number) => register(f, Register { class, number })?,
            Base::Rip if size == Size::Dword => f.write_str("%eip")?,
            Base::Rip => f.write_str("%rip")?,
        }
        if let Some(number) = memory.index {
            f.write_str(", ")?;
            register(f, Register { class, number })?;
            if memory.scale > 1 {
                write!(f, ", {}", memory.scale)?;
            }
        }
        f.write_char(')')
    }
}
