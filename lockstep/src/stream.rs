//! Streams: random sequences of integer instructions with forward branches, strings, and code that changes itself.
//!
//! A few registers point into the window and are never written, so that memory operands are found; what leaves flags
//! undefined is followed by a CMP, which defines them all. Truncated after any step a stream is a case, too: so the
//! first instruction that differs is found.

use std::fmt;

use thimble_core::cpu::decode::{
    Base, CodeSize, Fpu as Name, Instruction, Operand, Operation, RegisterClass, SegmentRegister,
    Size, decode,
};
use thimble_core::cpu::gpr;

use crate::assemble;
use crate::case::{CS, Case, World};
use crate::forms::{self, Form, Oracle, Plan};
use crate::layout::{
    DATA, KERNEL_CODE, KERNEL_CODE_32, KERNEL_DATA, STACK, USER_CODE, USER_CODE_32, USER_DATA,
    WINDOW, local_selector,
};
use crate::process::STACK_HIGH;
use crate::random::Random;
use crate::x87;

/// Steps of a stream: at least, and more.
const LENGTH: (u64, u64) = (20, 31);
/// Registers that point into the window.
const POINTERS: [u8; 2] = [3, 5];
/// In 64-bit mode these, too.
const LONG_POINTERS: [u8; 2] = [14, 15];

/// A few instructions, one for most steps.
struct Step {
    bytes: Vec<u8>,
    /// Steps that a branch at the end passes over.
    over: usize,
}

/// A sequence of steps, and the state that it begins with.
pub(crate) struct Stream {
    start: Case,
    steps: Vec<Step>,
}

impl Stream {
    /// A stream of forms that may be run.
    pub(crate) fn new(forms: &[Form], world: World, oracle: Oracle, random: &mut Random) -> Self {
        let mut stream = Self {
            start: start(world, random),
            steps: Vec::new(),
        };
        if oracle == Oracle::Process && random.percent(50) {
            let mut vectors = x87::vectors(random);
            // All exceptions are masked, and none is pending.
            vectors.fcw |= 0x3f;
            vectors.fsw &= !0x8080;
            stream.start.vectors = Some(vectors);
        }
        let length = LENGTH.0 + random.below(LENGTH.1);
        let usable = |form: &&Form| {
            forms::plan(form, world, oracle) == Plan::Run && suits(form.shape.operation)
        };
        let usable: Vec<&Form> = forms.iter().filter(usable).collect();
        let mut position = 0;
        for _ in 0..length {
            let step = stream.step(&usable, position, random);
            position += step.bytes.len() as u64;
            stream.steps.push(step);
        }
        stream.resolve();
        stream
    }

    /// Its steps.
    pub(crate) fn len(&self) -> usize {
        self.steps.len()
    }

    /// The case of its first steps.
    pub(crate) fn case(&self, steps: usize) -> Case {
        let mut case = self.start.clone();
        let steps = self.steps.iter().take(steps);
        case.code = steps.flat_map(|step| step.bytes.clone()).collect();
        case
    }

    fn step(&self, forms: &[&Form], position: u64, random: &mut Random) -> Step {
        let world = self.start.world;
        let bytes = match random.below(100) {
            0..8 => {
                // Jcc, or LOOP with its kin; the distance comes later.
                let opcode = match random.below(8) {
                    0 => 0xe0 + random.below(4) as u8,
                    _ => 0x70 + random.below(16) as u8,
                };
                return Step {
                    bytes: vec![opcode, 0],
                    over: 1 + random.below(3) as usize,
                };
            }
            8..13 => self.string(random),
            13..15 => self.own_code(position, random),
            _ => loop {
                let form = random.pick(forms);
                let Some(made) = assemble::assemble(form, world.code_size(), random) else {
                    continue;
                };
                if let Some(bytes) = self.fit(made, position, random) {
                    break bytes;
                }
            },
        };
        Step { bytes, over: 0 }
    }

    /// Makes an instruction suit a stream, if that's possible.
    fn fit(
        &self,
        made: assemble::Assembled,
        position: u64,
        random: &mut Random,
    ) -> Option<Vec<u8>> {
        let long = self.start.world.code_size() == CodeSize::Bits64;
        let mut bytes = made.bytes;
        if let Some((at, size)) = made.displacement {
            let memory = made.instruction.memory()?;
            let next = self.start.rip + position + bytes.len() as u64;
            let anywhere = WINDOW + DATA + random.below(0x2f00);
            let value = match memory.base {
                Base::Register(_) => random.byte() as i8 as u64,
                Base::Rip => anywhere.wrapping_sub(next),
                Base::None if size == 1 => return None,
                // The window's offset is the same behind a base.
                Base::None => {
                    anywhere.wrapping_sub(self.start.segment(memory.segment as usize).base)
                }
            };
            bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
        }
        let i = decode(&bytes, self.start.world.code_size()).ok()?;
        let pointer = |number: u8| {
            POINTERS.contains(&number)
                || usize::from(number) == gpr::RSP
                || long && LONG_POINTERS.contains(&number)
        };
        for operand in i.operands() {
            match operand {
                Operand::Register(register) => {
                    let source = i.operation() == Operation::Push;
                    if register.class == RegisterClass::X87 {
                        continue;
                    }
                    let general = matches!(
                        register.class,
                        RegisterClass::Gpr8
                            | RegisterClass::Gpr8High
                            | RegisterClass::Gpr16
                            | RegisterClass::Gpr32
                            | RegisterClass::Gpr64
                    );
                    if !general || !source && pointer(register.number) {
                        return None;
                    }
                }
                Operand::Memory(memory) if i.operation() != Operation::Lea => {
                    let found = match memory.base {
                        Base::Register(number) => pointer(number),
                        Base::None | Base::Rip => made.displacement.is_some(),
                    };
                    let near = memory.displacement.unsigned_abs() < 0x100;
                    let near = near || !matches!(memory.base, Base::Register(_));
                    let indexed = matches!(
                        i.operation(),
                        Operation::Bt | Operation::Bts | Operation::Btr | Operation::Btc
                    ) && matches!(i.operand(1), Operand::Register(_));
                    if !found
                        || !near
                        || indexed
                        || memory.index.is_some()
                        || memory.segment == SegmentRegister::Cs
                        || narrow(&i, self.start.world)
                    {
                        return None;
                    }
                }
                _ => {}
            }
        }
        use Operation::*;
        match i.operation() {
            // Results that the manual leaves open.
            Shld | Shrd | Bswap if i.operand_size() == Size::Word => return None,
            // Most divisions fault, which would be the end.
            Div | Idiv | Aam if random.percent(90) => return None,
            // Of the x87 there are many.
            Fpu(_) if self.start.vectors.is_none() || random.percent(75) => return None,
            // Selectors of 64-bit mode are what some store and others don't.
            Fpu(Name::Fnstenv | Name::Fnsave) if long => return None,
            // 0F 0D with a register is #UD on some.
            Nop => return None,
            _ => {}
        }
        if leaves_undefined(i.operation()) {
            // CMP of two registers.
            bytes.extend([0x39, 0xc0 | random.byte() & 0x3f]);
        }
        Some(bytes)
    }

    /// A string instruction with registers that suit it.
    fn string(&self, random: &mut Random) -> Vec<u8> {
        let world = self.start.world;
        let base = self.start.segment(0).base;
        let mut bytes = Vec::new();
        let mut load = |opcode: u8, value: u64| {
            if world.code_size() == CodeSize::Bits16 {
                bytes.push(0x66);
            }
            bytes.push(opcode);
            bytes.extend(&value.to_le_bytes()[..4]);
        };
        for register in [0xbe, 0xbf] {
            let linear = WINDOW + DATA + 0x400 + random.below(0x2000);
            load(register, linear.wrapping_sub(base));
        }
        load(0xb9, random.below(20));
        match random.below(4) {
            0 => bytes.push(0xf2),
            1 => {}
            _ => bytes.push(0xf3),
        }
        if random.percent(30) {
            bytes.push(0x66);
        }
        if world.code_size() == CodeSize::Bits64 && random.percent(30) {
            bytes.push(0x48);
        }
        let opcodes = [0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf];
        bytes.push(random.pick(&opcodes));
        bytes
    }

    /// A store to the immediate of the next instruction.
    fn own_code(&self, position: u64, random: &mut Random) -> Vec<u8> {
        let here = self.start.rip + position;
        let mut bytes = match self.start.world.code_size() {
            CodeSize::Bits64 => vec![0xc6, 0x05, 1, 0, 0, 0],
            CodeSize::Bits32 => {
                let mut bytes = vec![0xc6, 0x05];
                bytes.extend((here as u32 + 8).to_le_bytes());
                bytes
            }
            CodeSize::Bits16 => {
                let mut bytes = vec![0xc6, 0x06];
                bytes.extend((here as u16 + 6).to_le_bytes());
                bytes
            }
        };
        // ADD AL, imm8.
        bytes.extend([random.byte(), 0x04, random.byte()]);
        bytes
    }

    /// Fills in the distances of branches.
    fn resolve(&mut self) {
        for place in 0..self.steps.len() {
            let over = self.steps[place].over;
            if over == 0 {
                continue;
            }
            let passed = self.steps.iter().skip(place + 1).take(over);
            let distance: usize = passed.map(|step| step.bytes.len()).sum();
            self.steps[place].bytes[1] = distance.min(0x7f) as u8;
        }
    }
}

/// Whether 16-bit addresses don't reach the window.
fn narrow(i: &Instruction, world: World) -> bool {
    i.address_size() == Size::Word && world.code_size() == CodeSize::Bits32
}

/// The state before a stream.
fn start(world: World, random: &mut Random) -> Case {
    let mut gpr = [0; 16];
    for register in &mut gpr {
        *register = random.value();
    }
    let (code, data) = match world {
        World::User64 => (USER_CODE, USER_DATA),
        World::User32 => (USER_CODE_32, USER_DATA),
        World::User16 => (local_selector(1), local_selector(2)),
        World::Kernel64 => (KERNEL_CODE, KERNEL_DATA),
        World::Kernel32 => (KERNEL_CODE_32, KERNEL_DATA),
        World::Real16 => ((WINDOW >> 4) as u16, (WINDOW >> 4) as u16),
    };
    let mut selectors = [data; 6];
    selectors[CS] = code;
    if world == World::User64 {
        // Natively these are null.
        selectors = [0, code, data, 0, 0, 0];
    }
    let base = match world.code_size() {
        CodeSize::Bits64 => 0,
        _ => world.segment(data).base,
    };
    let mut point = |number: usize, offset: u64| {
        gpr[number] = WINDOW + offset - base;
    };
    point(3, DATA + 0x200 + random.below(0x800));
    point(5, DATA + 0x1200 + random.below(0x800));
    point(14, DATA + 0x2200 + random.below(0x800));
    point(15, STACK + 0x200 + random.below(0x200));
    point(gpr::RSP, STACK + 0x1000);
    if world.user() && world.code_size() == CodeSize::Bits16 {
        gpr[gpr::RSP] |= STACK_HIGH;
    }
    if world.code_size() != CodeSize::Bits64 {
        for register in &mut gpr {
            *register &= 0xffff_ffff;
        }
    }
    let mut case = Case {
        world,
        code: Vec::new(),
        patches: Vec::new(),
        gpr,
        rip: 0,
        rflags: 0x202 | random.next() & 0x8d5,
        selectors,
        bases: [0; 2],
        vectors: None,
    };
    let offset = 0x100 + random.below(0xf00);
    case.rip = (WINDOW + offset).wrapping_sub(case.segment(CS).base);
    case
}

/// Operations that a stream may have.
fn suits(operation: Operation) -> bool {
    use Operation::*;
    if let Fpu(name) = operation {
        use Name::*;
        // Random words would unmask exceptions, and processors differ in C1 after FCOMI.
        return !matches!(
            name,
            Fldcw | Fldenv | Frstor | Fcomi | Fcomip | Fucomi | Fucomip
        );
    }
    matches!(
        operation,
        Aaa | Aad
            | Aam
            | Aas
            | Adc
            | Adcx
            | Add
            | Adox
            | And
            | Andn
            | Bextr
            | Blsi
            | Blsmsk
            | Blsr
            | Bsf
            | Bsr
            | Bswap
            | Bt
            | Btc
            | Btr
            | Bts
            | Bzhi
            | Cbw
            | Clc
            | Cld
            | Cmc
            | Cmovcc(_)
            | Cmp
            | Cmpxchg
            | Cmpxchg8b
            | Crc32
            | Cwd
            | Daa
            | Das
            | Dec
            | Div
            | Idiv
            | Imul
            | Inc
            | Lahf
            | Lea
            | Lzcnt
            | Mov
            | Movbe
            | Movnti
            | Movsx
            | Movsxd
            | Movzx
            | Mul
            | Mulx
            | Neg
            | Nop
            | Not
            | Or
            | Pdep
            | Pext
            | Pop
            | Popcnt
            | Push
            | Rcl
            | Rcr
            | Rol
            | Ror
            | Rorx
            | Sahf
            | Salc
            | Sar
            | Sarx
            | Sbb
            | Setcc(_)
            | Shl
            | Shld
            | Shlx
            | Shr
            | Shrd
            | Shrx
            | Stc
            | Std
            | Sub
            | Test
            | Tzcnt
            | Xadd
            | Xchg
            | Xlat
            | Xor
    )
}

/// Operations after which some flag may be undefined.
fn leaves_undefined(operation: Operation) -> bool {
    use Operation::*;
    matches!(
        operation,
        Aaa | Aad
            | Aam
            | Aas
            | And
            | Andn
            | Bextr
            | Blsi
            | Blsmsk
            | Blsr
            | Bsf
            | Bsr
            | Bt
            | Btc
            | Btr
            | Bts
            | Bzhi
            | Daa
            | Das
            | Div
            | Idiv
            | Imul
            | Lzcnt
            | Mul
            | Or
            | Rcl
            | Rcr
            | Rol
            | Ror
            | Sar
            | Shl
            | Shld
            | Shr
            | Shrd
            | Test
            | Tzcnt
            | Xor
    )
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, step) in (1..).zip(&self.steps) {
            writeln!(f, "  {number:3} {:02x?}", step.bytes)?;
            let mut rest = &step.bytes[..];
            while let Ok(instruction) = decode(rest, self.start.world.code_size()) {
                writeln!(f, "      {instruction:?}")?;
                rest = &rest[usize::from(instruction.length())..];
            }
        }
        Ok(())
    }
}
