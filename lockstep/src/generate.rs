//! Makes cases: an instruction of a form, and registers and memory that make it do something.

use thimble_core::cpu::FpuState;
use thimble_core::cpu::decode::{
    Base, CodeSize, Instruction, Memory, Operand, Operation, Register, RegisterClass,
    SegmentRegister, Size,
};
use thimble_core::cpu::gpr;

use crate::assemble::{self, Assembled};
use crate::case::{CS, Case, DS, ES, FS, GS, Patch, SS, World};
use crate::forms::{self, Form};
use crate::lanes;
use crate::layout::{
    CODE, DATA, HOLE, KERNEL_CODE, KERNEL_CODE_32, KERNEL_DATA, READ_ONLY, STACK, STACK_END,
    USER_CODE, USER_CODE_32, USER_DATA, WINDOW, WINDOW_BYTES, local_selector,
};
use crate::media;
use crate::process::STACK_HIGH;
use crate::random::Random;
use crate::x87;

/// Flags: those of arithmetic.
const STATUS: u64 = 0x8d5;
/// Reserved one, and interrupts.
const FLAGS: u64 = 0x202;
const TF: u64 = 1 << 8;
const DF: u64 = 1 << 10;
const NT: u64 = 1 << 14;
const AC: u64 = 1 << 18;
const ID: u64 = 1 << 21;

/// Where stacks and cases begin in the code pages, at most.
const CODE_END: u64 = 0x2000;

/// What a window holds before patches: HLT wherever there may be code, and numbers.
pub(crate) fn base(random: &mut Random) -> Vec<u8> {
    let mut window = vec![0; WINDOW_BYTES];
    window[CODE as usize..CODE_END as usize].fill(0xf4);
    for range in [DATA..HOLE, STACK..STACK_END] {
        let range = range.start as usize..range.end as usize;
        for word in window[range].chunks_exact_mut(8) {
            word.copy_from_slice(&random.value().to_le_bytes());
        }
    }
    window
}

/// A case of one instruction.
pub(crate) struct Made {
    pub(crate) case: Case,
    pub(crate) instruction: Instruction,
}

/// A case of this form; `None` where this world's code has no such instruction.
pub(crate) fn case(form: &Form, world: World, random: &mut Random) -> Option<Made> {
    let assembled = assemble::assemble(form, world.code_size(), random)?;
    if world == World::Kernel32
        && assembled.instruction.operand_size() == Size::Word
        && branches(form.shape.operation)
    {
        // The window is out of its reach, and there is no telling what lies where it goes.
        return None;
    }
    let mut maker = Maker::new(world, assembled, random);
    let targets = maker.make();
    // Without paging whatever is found at another address is run as code.
    let astray = !world.long()
        && branches(form.shape.operation)
        && targets
            .iter()
            .any(|(memory, at)| maker.linear(memory) != WINDOW.wrapping_add(*at));
    (!astray).then(|| maker.finish())
}

/// Registers with numbers of all kinds, where they matter.
fn vectors(operation: Operation, random: &mut Random) -> Option<Box<FpuState>> {
    if let Operation::Fpu(_) | Operation::Wait = operation {
        return Some(x87::vectors(random));
    }
    if !forms::has_vectors(operation) {
        return None;
    }
    // MMX registers are the x87's.
    let mut vectors = match random.percent(70) {
        true => x87::vectors(random),
        false => Box::new(FpuState {
            ftw: 0xff,
            ..FpuState::default()
        }),
    };
    for register in &mut vectors.xmm {
        *register = match operation {
            Operation::Packed(name) => lanes::operand(name, random),
            _ => media::operand(operation, random),
        };
    }
    vectors.mxcsr = media::mxcsr(operation, random);
    for register in &mut vectors.st {
        let number = match operation {
            Operation::Packed(name) => lanes::operand(name, random) as u64,
            _ => random.value(),
        };
        register[..8].copy_from_slice(&number.to_le_bytes());
    }
    Some(vectors)
}

/// Whether it may go elsewhere.
fn branches(operation: Operation) -> bool {
    use Operation::*;
    matches!(
        operation,
        Call | CallFar | Iret | Jcc(_) | Jcxz | Jmp | JmpFar | Loop | Loope | Loopne | Ret | Retf
    )
}

struct Maker<'r> {
    random: &'r mut Random,
    made: Assembled,
    case: Case,
    /// Offset of the code in the window.
    code: u64,
}

/// Data selectors whose base is the window.
const WINDOW_DATA: [u16; 6] = [
    local_selector(2),
    local_selector(3),
    local_selector(2),
    local_selector(3),
    local_selector(5),
    local_selector(7),
];

/// Any selectors that may be loaded or looked at.
const SELECTORS: [u16; 25] = [
    0,
    3,
    KERNEL_CODE,
    KERNEL_DATA,
    KERNEL_DATA | 3,
    USER_DATA,
    USER_DATA & !3,
    USER_CODE,
    USER_CODE_32,
    local_selector(0),
    local_selector(1),
    local_selector(2),
    local_selector(3),
    local_selector(4),
    local_selector(5),
    local_selector(6),
    local_selector(7),
    local_selector(8),
    local_selector(9),
    local_selector(10),
    local_selector(11),
    local_selector(12),
    local_selector(2) & !3,
    local_selector(40),
    0x8003,
];

impl<'r> Maker<'r> {
    fn new(world: World, made: Assembled, random: &'r mut Random) -> Self {
        let mut gpr = [0; 16];
        for register in &mut gpr {
            *register = random.value();
            if world.code_size() != CodeSize::Bits64 {
                *register &= 0xffff_ffff;
            }
        }
        let length = made.bytes.len() as u64;
        use Operation::*;
        let branch = matches!(
            made.instruction.operation(),
            Call | Jmp | Ret | Loop | Loope | Loopne | Jcxz
        );
        // Without paging there is something behind the code.
        let end = world.long();
        let code = match random.below(100) {
            // Where limits are.
            0..20 if branch && end => CODE_END - length,
            // On both pages.
            0..5 => 0x1000 - random.below(length + 1),
            // On the last bytes there are, or past them.
            5..8 if end => CODE_END - random.below(length + 1),
            _ => 0x800 + random.below(0x400),
        };
        let case = Case {
            world,
            code: Vec::new(),
            patches: Vec::new(),
            gpr,
            rip: 0,
            rflags: FLAGS | random.next() & STATUS,
            selectors: [0; 6],
            bases: [0; 2],
            vectors: vectors(made.instruction.operation(), random),
        };
        Self {
            random,
            made,
            case,
            code,
        }
    }

    fn finish(self) -> Made {
        Made {
            case: self.case,
            instruction: self.made.instruction,
        }
    }

    fn operation(&self) -> Operation {
        self.made.instruction.operation()
    }

    fn operand_size(&self) -> Size {
        self.made.instruction.operand_size()
    }

    fn long(&self) -> bool {
        self.case.world.code_size() == CodeSize::Bits64
    }

    fn patch(&mut self, at: u64, bytes: &[u8]) {
        self.case.patches.push(Patch {
            at,
            bytes: bytes.to_vec(),
        });
    }

    /// Fills in the case. The answers are memory operands, and offsets in the window that they were meant for.
    fn make(&mut self) -> Vec<(Memory, u64)> {
        self.segments();
        self.flags();
        let cs = self.case.segment(CS);
        if !self.long() && (WINDOW + self.code).wrapping_sub(cs.base) > u64::from(cs.limit) {
            // Nobody gets there.
            self.code -= 1;
        }
        self.case.rip = (WINDOW + self.code).wrapping_sub(cs.base);
        self.stack_pointer();
        self.registers();
        self.fixed_immediates();
        let targets = self.memory();
        self.contents(&targets);
        self.clamp_stack();
        self.case.code = self.made.bytes.clone();
        targets
    }

    fn segments(&mut self) {
        let world = self.case.world;
        let narrow = self.made.instruction.address_size() == Size::Word;
        let random = &mut *self.random;
        let mut selectors = [0; 6];
        match world {
            World::User64 => {
                selectors[CS] = USER_CODE;
                selectors[SS] = USER_DATA;
                for base in &mut self.case.bases {
                    *base = match random.below(8) {
                        0 => random.next() >> 17,
                        1 => 0xffff_ffff_ffff_f000,
                        2 => random.byte().into(),
                        _ => 0,
                    };
                }
            }
            World::Kernel64 => {
                selectors = [KERNEL_DATA; 6];
                selectors[CS] = KERNEL_CODE;
                selectors[FS] = 0;
                selectors[GS] = 0;
            }
            World::User32 | World::User16 | World::Kernel32 => {
                let user = world.user();
                let flat = if user { USER_DATA } else { KERNEL_DATA };
                for number in [ES, DS, FS, GS] {
                    let by_window = random.percent(if narrow { 85 } else { 25 });
                    selectors[number] = match (by_window, random.below(100)) {
                        (_, 0..4) => 0,
                        (_, 4..7) => local_selector(4),
                        (_, 7..10) => local_selector(10),
                        (_, 10..12) => local_selector(0),
                        (_, 12..14) => local_selector(1),
                        (true, _) => random.pick(&WINDOW_DATA),
                        (false, _) => flat,
                    };
                }
                selectors[SS] = match random.percent(if world == World::User32 { 20 } else { 60 }) {
                    true if user => random.pick(&[local_selector(2), local_selector(3)]),
                    _ => flat,
                };
                if narrow && user && random.percent(80) {
                    selectors[SS] = local_selector(2);
                }
                selectors[CS] = match (world, random.below(10)) {
                    (World::Kernel32, _) => KERNEL_CODE_32,
                    (World::User32, 0) => local_selector(0),
                    (World::User32, 1) => local_selector(6),
                    (World::User32, 2 | 3) => local_selector(11),
                    (World::User32, _) => USER_CODE_32,
                    (_, 0) => local_selector(9),
                    _ => local_selector(1),
                };
            }
            World::Real16 => {
                selectors = [(WINDOW >> 4) as u16; 6];
                for number in [ES, DS, FS, GS] {
                    if random.percent(15) {
                        selectors[number] = (WINDOW >> 4) as u16 + random.below(0x200) as u16;
                    }
                }
            }
        }
        self.case.selectors = selectors;
    }

    fn flags(&mut self) {
        use Operation::*;
        let random = &mut *self.random;
        let string = matches!(
            self.made.instruction.operation(),
            Movs | Cmps | Stos | Lods | Scas | Ins | Outs
        );
        let flags = &mut self.case.rflags;
        if random.percent(if string { 40 } else { 3 }) {
            *flags |= DF;
        }
        if self.case.world.user() {
            if random.percent(4) {
                *flags |= AC;
            }
            if random.percent(3) {
                *flags |= TF;
            }
            if random.percent(3) {
                *flags |= ID;
            }
            if random.percent(2) {
                *flags |= NT;
            }
        }
    }

    /// RSP, in the stack mostly.
    fn stack_pointer(&mut self) {
        use Operation::*;
        let uses = matches!(
            self.operation(),
            Call | CallFar
                | Enter
                | Int
                | Int1
                | Int3
                | Into
                | Iret
                | Leave
                | Pop
                | Popa
                | Popf
                | Push
                | Pusha
                | Pushf
                | Ret
                | Retf
        );
        let real = self.case.world == World::Real16;
        let random = &mut *self.random;
        let offset = match random.below(100) {
            0..75 => STACK + 0x200 + random.below((STACK_END - STACK - 0x400) / 8) * 8,
            75..83 => STACK + 0x200 + random.below(STACK_END - STACK - 0x400),
            83..88 => STACK_END - random.below(40),
            88..93 => STACK + random.below(40),
            93..95 => READ_ONLY + random.below(0x1000),
            // Wild, if that isn't the end of all.
            _ if uses || !self.case.world.user() => STACK + 0x800,
            _ => {
                if real {
                    return;
                }
                self.clamp_stack();
                return;
            }
        };
        let ss = self.case.segment(SS);
        self.case.gpr[gpr::RSP] = (WINDOW + offset).wrapping_sub(ss.base) & self.size_of_code();
        self.clamp_stack();
    }

    /// What of a register counts in this code.
    fn size_of_code(&self) -> u64 {
        if self.long() { u64::MAX } else { 0xffff_ffff }
    }

    /// With a 16-bit stack in ring 3 the upper half of ESP is one that an oracle can set.
    fn clamp_stack(&mut self) {
        if self.case.world.user() && !self.long() && !self.case.segment(SS).big {
            let pointer = &mut self.case.gpr[gpr::RSP];
            *pointer = *pointer & 0xffff | STACK_HIGH;
        }
    }

    /// Registers with a meaning for the operation.
    fn registers(&mut self) {
        use Operation::*;
        let size = self.operand_size();
        let random = &mut *self.random;
        let g = &mut self.case.gpr;
        match self.made.instruction.operation() {
            Movs | Cmps | Stos | Lods | Scas | Ins | Outs | Loop | Loope | Loopne | Jcxz => {
                let mask = self.made.instruction.address_size().mask();
                let user = self.case.world.user();
                let count = match random.below(100) {
                    0..55 => random.below(6),
                    55..85 => random.below(60),
                    // Without protection strings would run over the code.
                    95.. if user => random.value(),
                    _ => 0,
                };
                g[gpr::RCX] = g[gpr::RCX] & !mask | count & mask;
                // What is compared may be equal.
                if random.percent(40) {
                    g[gpr::RAX] = random.below(4);
                }
            }
            Div | Idiv => {
                let signed = self.made.instruction.operation() == Idiv;
                if random.percent(75) {
                    if size == Size::Byte {
                        let small = random.byte() >> 1 & random.byte();
                        g[gpr::RAX] = g[gpr::RAX] & !0xffff | u64::from(small) << 4;
                    } else if signed {
                        let sign = g[gpr::RAX] >> (size.bits() - 1) & 1;
                        let upper = 0u64.wrapping_sub(sign) & size.mask();
                        g[gpr::RDX] = g[gpr::RDX] & !size.mask() | upper;
                    } else {
                        let upper = random.value() & random.value() & size.mask() >> 1;
                        g[gpr::RDX] = g[gpr::RDX] & !size.mask() | upper;
                    }
                }
            }
            Shl | Shr | Sar | Rol | Ror | Rcl | Rcr | Shld | Shrd if random.percent(70) => {
                g[gpr::RCX] = g[gpr::RCX] & !0xff | random.below(70);
            }
            Wrfsbase | Wrgsbase if random.percent(70) => {
                for register in g.iter_mut() {
                    *register = (*register as i64).wrapping_shl(17).wrapping_shr(17) as u64;
                }
            }
            Leave | Enter => {
                let offset = STACK + 0x100 + random.below(0x1d00);
                let bp = (WINDOW + offset)
                    .wrapping_sub(self.case.world.segment(self.case.selectors[SS]).base);
                if random.percent(90) {
                    g[gpr::RBP] = bp;
                }
            }
            _ => {}
        }
        if !self.long() {
            for register in &mut self.case.gpr {
                *register &= 0xffff_ffff;
            }
        }
    }

    /// Immediates with a meaning for the operation.
    fn fixed_immediates(&mut self) {
        use Operation::*;
        let at = self.made.immediate;
        let paging = self.case.world.long();
        let random = &mut *self.random;
        let bytes = &mut self.made.bytes;
        let (end, number) = (bytes.len(), bytes.get(at).copied());
        let mut put = |at: usize, value: u64, size: usize| {
            if let Some(place) = bytes.get_mut(at..at + size) {
                place.copy_from_slice(&value.to_le_bytes()[..size]);
            }
        };
        match self.made.instruction.operation() {
            Enter => {
                put(at, random.below(0x200), 2);
                put(at + 2, random.pick(&[0, 0, 0, 1, 2, 3, 5, 31, 33, 0xff]), 1);
            }
            // This would call the kernel under the case.
            Int if number == Some(0x80) => {
                put(at, 0x81, 1);
            }
            Jmp | Call if end - at >= 2 && (!paging || random.percent(90)) => {
                let distance = (random.below(0xe00) as i64 - 0x700) as u64;
                put(at, distance, end - at);
            }
            Jcc(_) if end - at >= 2 && (!paging || random.percent(90)) => {
                let distance = (random.below(0xe00) as i64 - 0x700) as u64;
                put(at, distance, end - at);
            }
            JmpFar | CallFar if end > at => {
                let size = end - at - 2;
                let selector = self.far_selector();
                let offset = self.code_pointer(selector);
                let bytes = &mut self.made.bytes;
                bytes[at..at + size].copy_from_slice(&offset.to_le_bytes()[..size]);
                bytes[at + size..at + size + 2].copy_from_slice(&selector.to_le_bytes());
            }
            Ret | Retf if end - at == 2 && random.percent(80) => put(at, random.below(64), 2),
            _ => {}
        }
        self.decode_again();
    }

    fn decode_again(&mut self) {
        let mode = self.case.world.code_size();
        if let Ok(instruction) = thimble_core::cpu::decode::decode(&self.made.bytes, mode) {
            self.made.instruction = instruction;
        }
    }

    /// A selector to go to.
    fn far_selector(&mut self) -> u16 {
        let own = self.case.selectors[CS];
        if self.case.world == World::Real16 {
            return own;
        }
        match self.random.below(10) {
            0..4 => own,
            4..9 => self.random.pick(&[
                USER_CODE_32,
                USER_CODE,
                local_selector(0),
                local_selector(1),
                local_selector(6),
                local_selector(9),
                local_selector(11),
            ]),
            _ => self.random.pick(&SELECTORS),
        }
    }

    /// An offset in a code segment, where HLT is.
    fn code_pointer(&mut self, selector: u16) -> u64 {
        let base = self.case.world.segment(selector).base;
        let offset = match self.random.below(100) {
            0..92 => {
                let offset = self.random.below(0x1ff0);
                // Not into the instruction.
                match offset.abs_diff(self.code) < 32 {
                    true => 0x100,
                    false => offset,
                }
            }
            // Without paging there is nothing but code.
            _ if !self.case.world.long() => 0x100,
            92..96 => return self.random.value(),
            _ => DATA + self.random.below(0x1000),
        };
        (WINDOW + offset).wrapping_sub(base)
    }

    /// A selector to load.
    fn data_selector(&mut self) -> u16 {
        if self.case.world == World::Real16 {
            return (WINDOW >> 4) as u16 + self.random.below(0x400) as u16;
        }
        self.random.pick(&SELECTORS)
    }

    /// Chooses where memory operands lie, and sets registers and displacements so. The answers are offsets in the
    /// window.
    fn memory(&mut self) -> Vec<(Memory, u64)> {
        let operands: Vec<Memory> = self
            .made
            .instruction
            .operands()
            .filter_map(|operand| match operand {
                Operand::Memory(memory) => Some(memory),
                _ => None,
            })
            .collect();
        let mut targets = Vec::new();
        for memory in operands {
            let size = u64::from(self.made.instruction.memory_size()).max(1);
            let target = self.target(size);
            self.reach(&memory, target);
            // A register that both use belongs to the last.
            targets.push((memory, target.wrapping_sub(WINDOW)));
        }
        targets
    }

    /// A linear address.
    fn target(&mut self, size: u64) -> u64 {
        let user64 = self.case.world == World::User64;
        let string = assemble::is_string(self.operation());
        let random = &mut *self.random;
        let offset = match random.below(100) {
            0..45 => DATA + random.below((READ_ONLY - DATA - 64) / 16) * 16,
            45..72 => DATA + random.below(READ_ONLY - DATA - 64),
            72..80 => DATA + 0x1000 - random.below(size + 1),
            80..85 => READ_ONLY + random.below(0x1000 - size),
            85..88 => READ_ONLY - random.below(size + 1),
            88..91 => HOLE - random.below(size + 1),
            91..93 => HOLE + random.below(0x1000),
            93..94 => DATA - random.below(size + 1),
            94..96 => STACK + random.below(0x1000),
            // A string instruction would run over itself.
            96..97 if !string => CODE + random.below(0x700),
            96..97 => DATA,
            _ if user64 => {
                return match random.below(5) {
                    0 => 0x8000_0000_0000 | random.next() >> 4,
                    1 => 0xffff_8000_0000_0000 | random.next() >> 18,
                    2 => 0x7fff_ffff_ffff - random.below(16),
                    3 => u64::MAX - random.below(16),
                    _ => random.next() >> 32 & 0xefff_ffff,
                };
            }
            _ => return random.next() >> 33,
        };
        WINDOW + offset
    }

    /// Where a memory operand lies, outside of 64-bit mode.
    fn linear(&self, memory: &Memory) -> u64 {
        let register = |number: u8| self.case.gpr[usize::from(number & 15)];
        let base = match memory.base {
            Base::Register(number) => register(number),
            _ => 0,
        };
        let index = memory.index.map_or(0, register);
        let displacement = self
            .made
            .instruction
            .memory()
            .map_or(0, |memory| memory.displacement as u64);
        let offset = base
            .wrapping_add(index.wrapping_mul(memory.scale.into()))
            .wrapping_add(displacement)
            & self.made.instruction.address_size().mask();
        let segment = self.case.segment(memory.segment as usize);
        segment.base.wrapping_add(offset) & 0xffff_ffff
    }

    fn reach(&mut self, memory: &Memory, target: u64) {
        use Operation::*;
        let instruction = self.made.instruction;
        let mask = instruction.address_size().mask();
        let segment = self.case.segment(memory.segment as usize);
        let base = match memory.segment {
            SegmentRegister::Fs | SegmentRegister::Gs => segment.base,
            _ if self.long() => 0,
            _ => segment.base,
        };
        let mut ea = target.wrapping_sub(base);
        if self.operation() == Xlat {
            ea = ea.wrapping_sub(self.case.gpr[gpr::RAX] & 0xff);
        }
        let set = |register: &mut u64, value: u64| *register = *register & !mask | value & mask;
        let scale = u64::from(memory.scale);
        let displacement = memory.displacement as u64;
        let keep_stack = |number: u8| usize::from(number) == gpr::RSP;
        match (memory.base, memory.index) {
            (Base::Register(b), None) => {
                set(
                    &mut self.case.gpr[usize::from(b)],
                    ea.wrapping_sub(displacement),
                );
            }
            (Base::Register(b), Some(i)) if b == i => {
                let wanted = ea.wrapping_sub(displacement);
                let value = match scale {
                    1 => wanted >> 1,
                    // Odd numbers have an inverse.
                    _ => wanted.wrapping_mul(inverse(scale + 1)),
                };
                set(&mut self.case.gpr[usize::from(b)], value);
            }
            (Base::Register(b), Some(i)) => {
                if self.random.percent(70) {
                    let small = self.random.below(0x100).wrapping_sub(0x80);
                    set(&mut self.case.gpr[usize::from(i)], small);
                }
                let index = self.case.gpr[usize::from(i)].wrapping_mul(scale);
                set(
                    &mut self.case.gpr[usize::from(b)],
                    ea.wrapping_sub(displacement).wrapping_sub(index),
                );
            }
            (Base::None, Some(i)) => {
                let small = self.random.below(0x100);
                set(&mut self.case.gpr[usize::from(i)], small);
                self.displace(ea.wrapping_sub(small.wrapping_mul(scale)));
            }
            (Base::None, None) => self.displace(ea),
            (Base::Rip, _) => {
                let next = self.case.rip.wrapping_add(self.made.bytes.len() as u64);
                self.displace(ea.wrapping_sub(next));
            }
        }
        let stack = match memory.base {
            Base::Register(b) => keep_stack(b),
            _ => false,
        };
        if stack {
            self.clamp_stack();
        }
        if !self.long() {
            for register in &mut self.case.gpr {
                *register &= 0xffff_ffff;
            }
        }
    }

    /// Changes the displacement, if there is room for it.
    fn displace(&mut self, value: u64) {
        let Some((at, size)) = self.made.displacement else {
            return;
        };
        self.made.bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
        self.decode_again();
    }

    fn get(&self, register: Register) -> u64 {
        let value = self.case.gpr[usize::from(register.number & 15)];
        match register.class {
            RegisterClass::Gpr8High => value >> 8 & 0xff,
            _ => value,
        }
    }

    /// Puts what the operation looks for into its operand: a register, or memory at the target.
    fn give(&mut self, place: usize, targets: &[(Memory, u64)], bytes: &[u8]) {
        match self.made.instruction.operand(place) {
            Operand::Register(register) => {
                let mut value = [0; 8];
                let length = bytes.len().min(8);
                value[..length].copy_from_slice(&bytes[..length]);
                let value = u64::from_le_bytes(value);
                let to = &mut self.case.gpr[usize::from(register.number & 15)];
                match register.class {
                    RegisterClass::Gpr8High => *to = *to & !0xff00 | (value & 0xff) << 8,
                    _ => {
                        let mask = u64::MAX >> (64 - 8 * length.max(1));
                        *to = *to & !mask | value & mask;
                    }
                }
            }
            Operand::Memory(_) => {
                if let Some((_, at)) = targets.first()
                    && *at < WINDOW_BYTES as u64
                {
                    self.patch(*at, bytes);
                }
            }
            _ => {}
        }
    }

    /// Puts words on top of the stack.
    fn on_stack(&mut self, bytes: &[u8]) {
        let ss = self.case.segment(SS);
        let mut pointer = self.case.gpr[gpr::RSP];
        if !self.long() && !ss.big {
            pointer &= 0xffff;
        }
        let base = if self.long() { 0 } else { ss.base };
        let at = pointer.wrapping_add(base).wrapping_sub(WINDOW);
        if at < WINDOW_BYTES as u64 {
            self.patch(at, bytes);
        }
    }

    /// What lies where the operation looks for it.
    fn contents(&mut self, targets: &[(Memory, u64)]) {
        use Operation::*;
        let size = self.operand_size();
        let bytes = usize::from(size.bytes());
        let instruction = self.made.instruction;
        let word = |value: u64| value.to_le_bytes()[..bytes].to_vec();
        match self.operation() {
            Fpu(_) if instruction.memory().is_some() => {
                let operand = x87::operand(&instruction, self.random);
                self.give(0, targets, &operand);
            }
            Jmp | Call if !matches!(instruction.operand(0), Operand::Relative(_)) => {
                let pointer = self.code_pointer(self.case.selectors[CS]);
                self.give(0, targets, &word(pointer));
            }
            JmpFar | CallFar => {
                let selector = self.far_selector();
                let mut far = word(self.code_pointer(selector));
                far.extend(selector.to_le_bytes());
                self.give(0, targets, &far);
            }
            Ret => {
                let pointer = self.code_pointer(self.case.selectors[CS]);
                self.on_stack(&word(pointer));
            }
            Retf | Iret => {
                let selector = self.far_selector();
                let mut frame = word(self.code_pointer(selector));
                frame.extend(word(selector.into()));
                let flags = FLAGS | self.random.next() & (STATUS | DF | AC | ID);
                frame.extend(word(flags));
                let pointer = WINDOW + STACK + self.random.below(0x2000);
                frame.extend(word(pointer));
                let stack = match self.random.percent(80) {
                    true => self.case.selectors[SS],
                    false => self.data_selector(),
                };
                frame.extend(word(stack.into()));
                self.on_stack(&frame);
            }
            Pop => {
                if let Operand::Register(Register {
                    class: RegisterClass::Segment,
                    ..
                }) = instruction.operand(0)
                {
                    let selector = self.data_selector();
                    self.on_stack(&selector.to_le_bytes());
                }
            }
            Popf => {
                let mut flags = self.random.next();
                if self.random.percent(90) {
                    flags &= !TF;
                }
                self.on_stack(&word(flags));
            }
            MovSegment => {
                let selector = self.data_selector();
                self.give(1, targets, &selector.to_le_bytes());
            }
            Lds | Les | Lfs | Lgs | Lss => {
                let mut far = word(self.random.value());
                far.extend(self.data_selector().to_le_bytes());
                self.give(1, targets, &far);
            }
            Lar | Lsl => {
                let selector = self.data_selector();
                self.give(1, targets, &selector.to_le_bytes());
            }
            Verr | Verw | Arpl => {
                let selector = self.data_selector();
                self.give(0, targets, &selector.to_le_bytes());
            }
            Cmpxchg if self.random.percent(50) => {
                let value = self.case.gpr[gpr::RAX];
                self.give(0, targets, &word(value));
            }
            Cmpxchg8b if self.random.percent(50) => {
                let g = &self.case.gpr;
                let value = g[gpr::RAX] & 0xffff_ffff | g[gpr::RDX] << 32;
                self.give(0, targets, &value.to_le_bytes());
            }
            Cmpxchg16b if self.random.percent(50) => {
                let g = &self.case.gpr;
                let value = [g[gpr::RAX].to_le_bytes(), g[gpr::RDX].to_le_bytes()].concat();
                self.give(0, targets, &value);
            }
            Bound => {
                let Operand::Register(index) = instruction.operand(0) else {
                    return;
                };
                let index = self.get(index) as i64;
                let random = &mut *self.random;
                let below = index.wrapping_sub(random.below(5) as i64 - 1);
                let above = index.wrapping_add(random.below(5) as i64 - 1);
                let mut bounds = word(below as u64);
                bounds.extend(word(above as u64));
                self.give(1, targets, &bounds);
            }
            Sse(thimble_core::cpu::decode::Sse::Ldmxcsr) => {
                let value = media::loaded(self.random);
                self.give(0, targets, &value.to_le_bytes());
            }
            Sse(_) if matches!(instruction.operand(1), Operand::Memory(_)) => {
                let value = media::operand(self.operation(), self.random);
                self.give(1, targets, &value.to_le_bytes());
            }
            Packed(name) => {
                if matches!(instruction.operand(1), Operand::Memory(_)) {
                    let value = lanes::operand(name, self.random);
                    self.give(1, targets, &value.to_le_bytes());
                }
                for number in [gpr::RAX, gpr::RDX] {
                    if forms::compares_text(name) && !self.addresses(number as u8) {
                        self.case.gpr[number] = lanes::length(self.random) & self.size_of_code();
                    }
                }
            }
            Bt | Bts | Btr | Btc => {
                if let Operand::Register(bit) = instruction.operand(1)
                    && self.random.percent(85)
                    && !self.addresses(bit.number)
                {
                    let bit_number =
                        self.random.below(0x400).wrapping_sub(0x200) & self.size_of_code();
                    self.case.gpr[usize::from(bit.number & 15)] = bit_number;
                }
            }
            _ => {}
        }
    }

    /// Whether memory operands are found by this register.
    fn addresses(&self, number: u8) -> bool {
        self.made
            .instruction
            .operands()
            .any(|operand| match operand {
                Operand::Memory(memory) => {
                    memory.base == Base::Register(number) || memory.index == Some(number)
                }
                _ => false,
            })
    }
}

/// The inverse of 3, 5 or 9 by multiplication of 64-bit numbers.
const fn inverse(number: u64) -> u64 {
    // Each step of Newton's method doubles the bits that are right, three at first.
    let mut inverse = number;
    let mut step = 0;
    while step < 5 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(number.wrapping_mul(inverse)));
        step += 1;
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_numbers_have_inverses() {
        for number in [3, 5, 9] {
            assert_eq!(inverse(number).wrapping_mul(number), 1);
        }
    }
}
