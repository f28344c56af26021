//! The translation of one block.

use super::emit::{Assembler, R11, RAX, RCX, RDX, Rm, Site, alu, at, opcode};
use super::media::Held;
use super::shape::{ADC, CMP, MOV, SBB, Shape, TEST, shape};
use super::stubs::{CPU, PINNED, Stubs, hot_index};
use super::{
    BLOCK_ROOM, Block, Call, Context, FLAGS, GENERATION, HOT, RIP, distance, frame, register,
};
use crate::cpu::alu::{AF, CF, PF, SF, ZF};
use crate::cpu::decode::{Operand, Operation, SegmentRegister, Size};
use crate::cpu::gpr::{RCX as GUEST_RCX, RSP as GUEST_RSP};
use crate::cpu::mmu::{Access, layout};
use crate::cpu::soft::code::{BLOCK_MAX, CodeCache};
use crate::cpu::soft::fast::Form;
use crate::cpu::soft::micro::{self, GENERAL, Micro, Place};
use crate::cpu::soft::{BLOCK_RIP, Cpu, ZERO};
use crate::cpu::state::Segment;
use core::mem::offset_of;

/// Ways aside of a block: an instruction has up to five.
const ASIDES_MAX: usize = 5 * BLOCK_MAX + 8;
/// Bytes of a page.
const PAGE: i64 = 4096;
/// Conditions that do not ask for OF: B to A, S to NP.
const WITHOUT_OVERFLOW: core::ops::RangeInclusive<u8> = 2..=11;
/// Conditions of the host's own.
const BELOW: u8 = 2;
pub(super) const EQUAL: u8 = 4;
pub(super) const NOT_EQUAL: u8 = 5;

/// What the host's flags are good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// They are not the guest's.
    Lost,
    /// All six are the guest's.
    Exact,
    /// After a logical operation: AF is to be 0.
    Logic,
    /// After a shift: AF is to be 1, and OF is made by a rule.
    Shift(Overflow),
}

/// OF after a shift.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overflow {
    /// CF differs from SF.
    Left,
    /// As it is.
    Same,
    Clear,
}

/// What a micro-operation has to do with flags.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flags {
    /// Nothing.
    None,
    /// It sets all, and asks for none.
    Sets,
    /// It sets some, or all or none of them by a count.
    Changes,
    /// It asks for some.
    Reads,
    /// All must be in memory: the interpreter's function may be called.
    Needs,
}

/// Code behind the block that it seldom goes to.
enum Aside {
    /// Executes an instruction by its function, and goes on, with the host's flags if wanted.
    Execute {
        site: Site,
        call: Call,
        back: u32,
        flags: bool,
        xmm: Held,
        /// Where to go on instead if only the guest's MXCSR had to be loaded.
        floats: Option<u32>,
    },
    /// Brings flags in memory into the form of translations.
    Flags { site: Site, back: u32, xmm: Held },
    /// To an offset in the page, from a jump that could go directly.
    Link { site: Site, offset: u32 },
    /// To the loop before this block, whose instructions were taken from the budget, or not.
    Begin { site: Site, taken: bool },
    /// To the loop, to an offset from the page.
    Leave { site: Site, offset: i32 },
}

pub(super) struct Translator<'c> {
    pub(super) asm: Assembler,
    stubs: Stubs,
    cache: &'c CodeCache,
    context: Context,
    /// Guest physical address of the page.
    page: u64,
    /// Offset of the block in it.
    start: u32,
    entry: u32,
    /// Index of its first micro-operation.
    first: u32,
    micros: &'c [Micro],
    /// Whether flags are asked for before each of them, and at the end.
    live: [bool; BLOCK_MAX + 1],
    /// That of now, its offset in the page, and that behind it.
    index: usize,
    offset: u32,
    next: u32,
    host: Host,
    /// Flags in memory are the guest's.
    stored: bool,
    /// They are in the form of translations.
    plain: bool,
    asides: heapless::Vec<Aside, ASIDES_MAX>,
    /// The first of `asides` that goes back behind the instruction of now.
    open: usize,
    /// XMM registers.
    pub(super) xmm: Held,
    /// Instructions on them are known to raise nothing.
    pub(super) xmm_usable: bool,
}

impl CodeCache {
    /// Translates a block: where that begins. `None` if there is no room for any.
    pub(super) fn translate(&mut self, gpa: u64, block: &Block, context: Context) -> Option<u32> {
        let room = match self.translations_mut().room(BLOCK_ROOM) {
            Some(room) => room,
            None => {
                self.forget_translations();
                self.translations_mut().room(BLOCK_ROOM)?
            }
        };
        let mut micros = heapless::Vec::<Micro, BLOCK_MAX>::new();
        for index in 0..u32::from(block.count) {
            micros.push(*self.micro(block.first + index)).ok()?;
        }
        let mut translator = Translator {
            entry: room.position,
            asm: room,
            stubs: self.translations().stubs,
            cache: self,
            context,
            page: gpa & !(PAGE as u64 - 1),
            start: gpa as u32 % PAGE as u32,
            first: block.first,
            micros: &micros,
            live: [true; BLOCK_MAX + 1],
            index: 0,
            offset: gpa as u32 % PAGE as u32,
            next: 0,
            host: Host::Lost,
            stored: true,
            plain: false,
            asides: heapless::Vec::new(),
            open: 0,
            xmm: Held::default(),
            xmm_usable: false,
        };
        translator.block()?;
        let (entry, end) = (translator.entry, translator.asm.position);
        self.translations_mut().used = end;
        Some(entry)
    }
}

impl Translator<'_> {
    /// All of it. `None` if it did not fit, which room is kept for.
    fn block(&mut self) -> Option<()> {
        self.find_live();
        self.begin();
        let mut ended = false;
        for index in 0..self.micros.len() {
            let micro = self.micros[index];
            self.index = index;
            self.next = self.offset + u32::from(micro.length);
            self.open = self.asides.len();
            ended = self.micro(micro);
            let back = self.asm.position;
            for aside in &mut self.asides[self.open..] {
                if let Aside::Execute { back: to, xmm, .. } = aside {
                    *to = back;
                    xmm.loaded = self.xmm.loaded;
                }
            }
            self.offset = self.next;
        }
        if !ended {
            self.index = self.micros.len();
            self.release_xmm();
            self.store_flags();
            self.go(i64::from(self.next));
        }
        for index in 0..self.asides.len() {
            self.aside(index);
        }
        self.asm.align();
        (!self.asm.full && !self.asides.is_full()).then_some(())
    }

    /// Which flags are dead.
    fn find_live(&mut self) {
        for index in (0..self.micros.len()).rev() {
            self.live[index] = match self.flags_of(self.micros[index]) {
                Flags::None | Flags::Changes => self.live[index + 1],
                Flags::Sets => false,
                Flags::Reads | Flags::Needs => true,
            };
        }
    }

    /// Whether flags are asked for after the instruction.
    pub(super) fn live_after(&self) -> bool {
        self.live[self.index + 1]
    }

    fn flags_of(&self, m: Micro) -> Flags {
        match shape(m.handler) {
            Shape::Nothing | Shape::MoveLong | Shape::Lea(_) | Shape::Extend(_, None, ..) => {
                Flags::None
            }
            Shape::Binary(MOV, Form::RegisterRegister | Form::RegisterImmediate, _) => Flags::None,
            Shape::Binary(ADC | SBB, Form::RegisterRegister | Form::RegisterImmediate, _) => {
                Flags::Reads
            }
            Shape::Binary(_, Form::RegisterRegister | Form::RegisterImmediate, _) => Flags::Sets,
            // NOT changes none.
            Shape::Unary(3, None, _) => Flags::None,
            Shape::Unary(2, None, _) => Flags::Sets,
            Shape::Unary(_, None, _) => Flags::Changes,
            Shape::Shift(..) | Shape::Multiply(..) => Flags::Changes,
            Shape::Setcc | Shape::Cmov(_) => Flags::Reads,
            _ => Flags::Needs,
        }
    }

    /// What is looked at between blocks.
    fn begin(&mut self) {
        let asm = &mut self.asm;
        for flag in [frame!(signals), frame!(written)] {
            asm.load(RAX, at(CPU, flag));
            asm.alu(Size::Byte, alu::CMP, at(RAX, 0), 0);
            let site = asm.jump_if(NOT_EQUAL);
            let _ = self.asides.push(Aside::Begin { site, taken: false });
        }
        let count = self.micros.len() as i32;
        asm.alu(Size::Qword, alu::SUB, at(CPU, frame!(left)), count);
        let site = asm.jump_if(BELOW);
        let _ = self.asides.push(Aside::Begin { site, taken: true });
    }

    /// One instruction; whether the block has ended by it.
    fn micro(&mut self, m: Micro) -> bool {
        let shape = shape(m.handler);
        if let Shape::JumpIf(..)
        | Shape::Jump(_)
        | Shape::Call(_)
        | Shape::Return(_)
        | Shape::Other = shape
        {
            self.release_xmm();
        }
        let done = match shape {
            Shape::Nothing => true,
            Shape::Media => self.media(m),
            Shape::Binary(operation, form, size) => self.binary(m, operation, form, size),
            Shape::Lea(size) => self.lea(m, size),
            Shape::Extend(signed, place, from, to) => self.extend(m, signed, place, from, to),
            Shape::Unary(operation, place, size) => self.unary(m, operation, place, size),
            Shape::Shift(operation, size) => self.shift(m, operation, size),
            Shape::Multiply(immediate, size) => self.multiply(m, immediate, size),
            Shape::Push(immediate, size) => self.push(m, immediate, size),
            Shape::Pop(size) => self.pop(m, size),
            Shape::Setcc => {
                self.host_flags(m.b);
                let to = self.read(m.a, RAX);
                self.asm.op(
                    Size::Byte,
                    opcode::SETCC | u16::from(m.b & 15),
                    0,
                    Rm::Register(to),
                );
                self.written(m.a, RAX);
                true
            }
            Shape::Cmov(size) => {
                let condition = m.immediate as u8 & 15;
                self.host_flags(condition);
                let from = self.read(m.b, RDX);
                let to = self.read(m.a, RAX);
                let opcode = opcode::CMOV | u16::from(condition);
                if size == Size::Byte {
                    return self.other();
                }
                self.asm.op(size, opcode, to, Rm::Register(from));
                self.written(m.a, RAX);
                true
            }
            Shape::JumpIf(long, condition) if self.branches(m, long) => {
                self.jump_if(m, condition);
                return true;
            }
            Shape::Jump(long) if self.branches(m, long) => {
                self.store_flags();
                self.jump(m);
                return true;
            }
            Shape::Call(long) if self.branches(m, long) => {
                self.call_function(m);
                return true;
            }
            Shape::Return(long) if self.branches(m, long) => {
                self.return_from_function();
                return true;
            }
            Shape::Other if m.handler == GENERAL && self.branch_anywhere(m) => return true,
            Shape::MoveLong => self.load_long(m),
            _ => false,
        };
        if !done {
            self.other();
        }
        false
    }

    /// Calls the interpreter's function.
    fn other(&mut self) -> bool {
        self.release_xmm();
        self.store_flags();
        let call = self.call();
        self.asm.set_wide(RAX, call.0);
        self.asm.call(self.stubs.call);
        (self.host, self.stored, self.plain) = (Host::Lost, true, false);
        false
    }

    /// The instruction as the interpreter's.
    fn call(&self) -> Call {
        let index = self.first + self.index as u32;
        Call::new(
            index,
            self.offset,
            self.start,
            self.index,
            self.micros.len(),
        )
    }

    /// The code for an instruction that needs its function jumps away on this condition.
    pub(super) fn unless(&mut self, condition: u8, flags: bool) {
        let site = self.asm.jump_if(condition);
        self.execute_aside(site, flags, None);
    }

    pub(super) fn execute_aside(&mut self, site: Site, flags: bool, floats: Option<u32>) {
        let _ = self.asides.push(Aside::Execute {
            site,
            call: self.call(),
            back: 0,
            flags,
            xmm: self.xmm,
            floats,
        });
    }

    // Registers.

    /// A guest register in a host register: its own, or this one.
    pub(super) fn read(&mut self, guest: u8, scratch: u8) -> u8 {
        let guest = usize::from(guest % 16);
        match PINNED.get(guest) {
            Some(host) => *host,
            None => {
                self.asm.load(scratch, at(CPU, register(guest)));
                scratch
            }
        }
    }

    /// The host register that a guest register's new value goes to, with the old one if it is kept in
    /// part.
    pub(super) fn target(&mut self, guest: u8, scratch: u8, size: Size) -> u8 {
        if matches!(size, Size::Byte | Size::Word) {
            return self.read(guest, scratch);
        }
        *PINNED.get(usize::from(guest % 16)).unwrap_or(&scratch)
    }

    /// Keeps what [`Self::read`] has put into a scratch register and was changed.
    pub(super) fn written(&mut self, guest: u8, scratch: u8) {
        let guest = usize::from(guest % 16);
        if PINNED.get(guest).is_none() {
            self.asm.store(at(CPU, register(guest)), scratch);
        }
    }

    // Flags.

    /// The guest's flags are those that the host's last instruction has set.
    pub(super) fn flags_set(&mut self, host: Host) {
        (self.host, self.stored, self.plain) = (host, false, false);
    }

    /// Stores flags to memory, if they are not there and anyone asks for them. The host's are lost.
    pub(super) fn store_flags(&mut self) {
        if !self.stored && self.live[self.index] {
            self.write_flags();
            (self.stored, self.plain) = (true, true);
        }
        self.host = Host::Lost;
    }

    /// The code for it. At the end of a block both ways out have it.
    fn write_flags(&mut self) {
        const KEPT: i32 = (CF | PF | ZF | SF) as i32;
        let asm = &mut self.asm;
        let low = |asm: &mut Assembler, mask| {
            // LAHF; MOVZX EAX, AH
            asm.bytes(&[0x9f, 0x0f, 0xb6, 0xc4]);
            asm.alu(Size::Dword, alu::AND, Rm::Register(RAX), mask);
        };
        match self.host {
            Host::Lost => return,
            Host::Logic => low(asm, KEPT & !(CF as i32)),
            Host::Exact | Host::Shift(Overflow::Same) => {
                asm.set(RAX, 0);
                // LAHF; SETO AL; ROR AX, 8; SHL AH, 3
                asm.bytes(&[0x9f, 0x0f, 0x90, 0xc0, 0x66, 0xc1, 0xc8, 8, 0xc0, 0xe4, 3]);
                if self.host != Host::Exact {
                    asm.alu(Size::Dword, alu::OR, Rm::Register(RAX), AF as i32);
                }
            }
            Host::Shift(overflow) => {
                low(asm, KEPT);
                if overflow == Overflow::Left {
                    // CF goes to where SF is, then their difference to where OF is.
                    asm.op(Size::Dword, opcode::STORE, RAX, Rm::Register(RDX));
                    asm.op(Size::Dword, opcode::SHIFT_IMMEDIATE, 4, Rm::Register(RDX));
                    asm.byte(7);
                    asm.op(Size::Dword, alu::load(alu::XOR), RDX, Rm::Register(RAX));
                    asm.alu(Size::Dword, alu::AND, Rm::Register(RDX), SF as i32);
                    asm.op(Size::Dword, opcode::SHIFT_IMMEDIATE, 4, Rm::Register(RDX));
                    asm.byte(4);
                    asm.op(Size::Dword, alu::load(alu::OR), RAX, Rm::Register(RDX));
                }
                asm.alu(Size::Dword, alu::OR, Rm::Register(RAX), AF as i32);
            }
        }
        asm.store(at(CPU, FLAGS), RAX);
    }

    /// Flags in memory get the form of translations.
    fn plain_flags(&mut self) {
        if self.plain {
            return;
        }
        self.asm.alu(Size::Dword, alu::CMP, at(CPU, FLAGS + 4), 0);
        let site = self.asm.jump_if(NOT_EQUAL);
        let back = self.asm.position;
        let xmm = self.xmm;
        let _ = self.asides.push(Aside::Flags { site, back, xmm });
        self.plain = true;
    }

    /// The host's flags become the guest's, as far as a condition asks for them.
    fn host_flags(&mut self, condition: u8) {
        let good = match self.host {
            Host::Lost => false,
            Host::Exact | Host::Logic => true,
            Host::Shift(_) => WITHOUT_OVERFLOW.contains(&(condition & 15)),
        };
        if good {
            return;
        }
        self.store_flags();
        self.plain_flags();
        self.load_flags();
        self.host = Host::Exact;
    }

    /// Flags of memory, in the form of translations.
    fn load_flags(&mut self) {
        self.asm.op(Size::Dword, opcode::LOAD, RAX, at(CPU, FLAGS));
        // ROR AX, 8; ADD AL, 78h: 8, which stands for OF, overflows; SAHF
        self.asm.bytes(&[0x66, 0xc1, 0xc8, 8, 0x04, 0x78, 0x9e]);
    }

    /// CF of flags in memory, which are plain.
    fn load_carry(&mut self) {
        self.asm
            .op(Size::Dword, opcode::BIT_IMMEDIATE, 4, at(CPU, FLAGS));
        self.asm.byte(0);
    }

    // Memory.

    /// Whether an address can be formed inline.
    pub(super) fn reaches(&self, m: Micro, place: Place) -> bool {
        if m.mask() == 0xffff || usize::from(m.base) == BLOCK_RIP && self.displacement(m).is_none()
        {
            return false;
        }
        let segment = m.segment();
        match (place, self.context.long()) {
            (Place::Flat, _) => true,
            (Place::Segmented, true) => m.mask() == u64::MAX,
            (Place::Segmented, false) => {
                m.mask() == 0xffff_ffff
                    && matches!(
                        segment,
                        SegmentRegister::Es | SegmentRegister::Ss | SegmentRegister::Ds
                    )
            }
        }
    }

    /// The displacement, from the page if it counts from RIP.
    fn displacement(&self, m: Micro) -> Option<i32> {
        if usize::from(m.base) == BLOCK_RIP {
            m.displacement.checked_add_unsigned(self.start)
        } else {
            Some(m.displacement)
        }
    }

    /// An offset as an operand of LEA; RAX and RDX are used.
    fn offset_of(&mut self, m: Micro) -> Rm {
        let base = match usize::from(m.base) {
            ZERO => None,
            BLOCK_RIP => {
                self.asm.load(RAX, at(CPU, frame!(page)));
                Some(RAX)
            }
            _ => Some(self.read(m.base, RAX)),
        };
        let index = match usize::from(m.index) {
            ZERO => None,
            _ => Some((self.read(m.index, RDX), m.scale() as u8)),
        };
        Rm::Memory(base, index, self.displacement(m).unwrap_or(0))
    }

    /// The host address of memory comes into RAX. Flags are lost, unless they are in memory.
    fn memory(&mut self, m: Micro, place: Place, size: Size, access: Access, flags: bool) {
        self.memory_of(m, place, size.bytes().into(), access, flags);
    }

    /// The same of so many bytes, at most a page.
    pub(super) fn memory_of(
        &mut self,
        m: Micro,
        place: Place,
        bytes: i32,
        access: Access,
        flags: bool,
    ) {
        let offset = self.offset_of(m);
        let narrow = m.mask() == 0xffff_ffff;
        let width = if narrow { Size::Dword } else { Size::Qword };
        self.asm.op(width, opcode::LEA, RAX, offset);
        let segment = m.segment();
        let based = matches!(segment, SegmentRegister::Fs | SegmentRegister::Gs);
        if place == Place::Segmented && self.context.long() && based {
            let base = offset_of!(Cpu, segments)
                + segment as usize * size_of::<Segment>()
                + offset_of!(Segment, base);
            self.asm.op(
                Size::Qword,
                alu::load(alu::ADD),
                RAX,
                at(CPU, distance(base)),
            );
        }
        self.host_address(bytes, access, flags);
    }

    /// The linear address in RAX, of so many bytes, becomes a host address.
    fn host_address(&mut self, bytes: i32, access: Access, flags: bool) {
        let asm = &mut self.asm;
        asm.op(Size::Dword, opcode::STORE, RAX, Rm::Register(RDX));
        // The last byte's tag: it is none of this entry's if it is in the next page.
        asm.lea(R11, at(RAX, bytes - 1));
        hot_index(asm, RDX);
        asm.alu(Size::Qword, alu::OR, Rm::Register(R11), 0xfff);
        asm.op(Size::Qword, alu::load(alu::SUB), R11, at(CPU, GENERATION));
        let mode = HOT + self.context.mode() * layout::MODE;
        let entry = |offset: usize| Rm::Memory(Some(CPU), Some((RDX, 0)), distance(mode + offset));
        let tag = entry(layout::TAGS + 8 * access as usize);
        asm.op(Size::Qword, alu::load(alu::CMP), R11, tag);
        self.unless(NOT_EQUAL, flags);
        self.asm
            .op(Size::Qword, alu::load(alu::ADD), RAX, entry(layout::HOST));
    }

    // Instructions. They say whether they have done it.

    fn binary(&mut self, m: Micro, operation: u8, form: Form, size: Size) -> bool {
        let stores = !matches!(operation, CMP | TEST);
        let kind = match operation {
            4..=6 | TEST => Host::Logic,
            _ => Host::Exact,
        };
        let carries = matches!(operation, ADC | SBB);
        // By its number in group 1, where OR comes second.
        let number = match operation {
            5 => alu::OR,
            4 => alu::AND,
            1 => 2,
            2 => alu::SUB,
            other => other,
        };
        let wide = u16::from(size != Size::Byte);
        // `op r/m, r`; two more is `op r, r/m`.
        let opcode = match operation {
            TEST => opcode::TEST - 1,
            MOV => opcode::STORE - 1,
            _ => u16::from(number) * 8,
        } + wide;
        match form {
            Form::RegisterRegister | Form::RegisterImmediate => {
                if carries {
                    self.host_flags(BELOW);
                }
                let to = if operation == MOV {
                    self.target(m.a, RAX, size)
                } else {
                    self.read(m.a, RAX)
                };
                if let Form::RegisterRegister = form {
                    let from = self.read(m.b, RDX);
                    self.asm.op(size, opcode, from, Rm::Register(to));
                } else {
                    self.with_immediate(m, operation, number, size, Rm::Register(to));
                }
                if stores {
                    self.written(m.a, RAX);
                }
            }
            Form::RegisterMemory(place) => {
                if !self.reaches(m, place) {
                    return false;
                }
                self.store_flags();
                if carries {
                    self.plain_flags();
                }
                let flags = operation != MOV && self.live_after();
                self.memory(m, place, size, Access::Read, flags);
                if carries {
                    self.load_carry();
                }
                let to = if operation == MOV {
                    self.target(m.a, RDX, size)
                } else {
                    self.read(m.a, RDX)
                };
                let opcode = if operation == TEST {
                    opcode
                } else {
                    opcode + 2
                };
                self.asm.op(size, opcode, to, at(RAX, 0));
                if stores {
                    self.written(m.a, RDX);
                }
            }
            Form::MemoryRegister(place) | Form::MemoryImmediate(place) => {
                if !self.reaches(m, place) {
                    return false;
                }
                self.store_flags();
                let access = if stores { Access::Write } else { Access::Read };
                let flags = operation != MOV && self.live_after();
                self.memory(m, place, size, access, flags);
                if let Form::MemoryRegister(_) = form {
                    let from = self.read(m.b, RDX);
                    self.asm.op(size, opcode, from, at(RAX, 0));
                } else {
                    self.with_immediate(m, operation, number, size, at(RAX, 0));
                }
            }
        }
        if operation != MOV {
            self.flags_set(kind);
        }
        true
    }

    /// A binary operation with an immediate operand.
    fn with_immediate(&mut self, m: Micro, operation: u8, number: u8, size: Size, rm: Rm) {
        match (operation, size, rm) {
            // Not sign-extended, and shorter.
            (MOV, Size::Dword, Rm::Register(to)) => self.asm.set(to, m.immediate as u32),
            (MOV, ..) => {
                self.asm.sized(size, opcode::STORE_IMMEDIATE, 0, rm);
                self.asm.immediate(size, m.immediate);
            }
            (TEST, ..) => {
                self.asm.sized(size, opcode::GROUP3, 0, rm);
                self.asm.immediate(size, m.immediate);
            }
            _ => self.asm.alu(size, number, rm, m.immediate),
        }
    }

    fn lea(&mut self, m: Micro, size: Size) -> bool {
        let counts = usize::from(m.base) == BLOCK_RIP;
        if m.mask() == 0xffff || size == Size::Byte || counts && self.displacement(m).is_none() {
            return false;
        }
        let of = self.offset_of(m);
        if m.mask() == 0xffff_ffff && size == Size::Qword {
            // Cut to 32 bits.
            let to = self.target(m.a, RAX, size);
            self.asm.op(Size::Dword, opcode::LEA, to, of);
        } else {
            // The base may be in RAX, and a part of the target may be kept.
            let to = self.target(m.a, R11, size);
            self.asm.op(size, opcode::LEA, to, of);
            self.written(m.a, R11);
            return true;
        }
        self.written(m.a, RAX);
        true
    }

    fn extend(
        &mut self,
        m: Micro,
        signed: bool,
        place: Option<Place>,
        from: Size,
        size: Size,
    ) -> bool {
        let (width, opcode) = match (from, size) {
            (Size::Byte, _) if signed => (size, opcode::MOVSX),
            (Size::Byte, _) => (size, opcode::MOVZX),
            (Size::Word, Size::Dword | Size::Qword) if signed => (size, opcode::MOVSX + 1),
            (Size::Word, Size::Dword | Size::Qword) => (size, opcode::MOVZX + 1),
            (Size::Dword, Size::Qword) if signed => (size, opcode::MOVSXD),
            (Size::Dword, Size::Qword) => (Size::Dword, opcode::LOAD),
            _ => (size, opcode::LOAD),
        };
        let source = match place {
            None => Rm::Register(self.read(m.b, RDX)),
            Some(place) => {
                if !self.reaches(m, place) {
                    return false;
                }
                self.store_flags();
                self.memory(m, place, from, Access::Read, false);
                at(RAX, 0)
            }
        };
        let to = self.target(m.a, R11, size);
        self.asm.op(width, opcode, to, source);
        self.written(m.a, R11);
        true
    }

    fn unary(&mut self, m: Micro, operation: u8, place: Option<Place>, size: Size) -> bool {
        let (opcode, digit) = match operation {
            0 => (opcode::GROUP5, 0),
            1 => (opcode::GROUP5, 1),
            2 => (opcode::GROUP3, 3),
            _ => (opcode::GROUP3, 2),
        };
        // INC and DEC keep CF.
        let carries = operation < 2 && self.live_after();
        match place {
            None => {
                if carries {
                    self.host_flags(BELOW);
                }
                let to = self.read(m.a, RAX);
                self.asm.sized(size, opcode, digit, Rm::Register(to));
                self.written(m.a, RAX);
            }
            Some(place) => {
                if operation >= 2 || !self.reaches(m, place) {
                    return false;
                }
                self.store_flags();
                if carries {
                    self.plain_flags();
                }
                self.memory(m, place, size, Access::Write, carries);
                if carries {
                    self.load_carry();
                }
                self.asm.sized(size, opcode, digit, at(RAX, 0));
            }
        }
        if operation < 3 {
            self.flags_set(Host::Exact);
        }
        true
    }

    fn shift(&mut self, m: Micro, operation: u8, size: Size) -> bool {
        let by_register = usize::from(m.b) == GUEST_RCX;
        let mask = if size == Size::Qword { 63 } else { 31 };
        let count = m.immediate as u8 & mask;
        let rotates = operation >= 3;
        // Some flags are kept, or all, or no host has them as they should be.
        let wanted = self.live_after();
        let wide = count >= 8 * size.bytes();
        if wanted && (by_register || rotates || wide) {
            return false;
        }
        let digit = match operation {
            0 => 4,
            1 => 5,
            2 => 7,
            3 => 0,
            _ => 1,
        };
        let to = self.read(m.a, RAX);
        if by_register {
            const _: () = assert!(PINNED[GUEST_RCX] == RCX);
            self.asm
                .sized(size, opcode::SHIFT_CL, digit, Rm::Register(to));
        } else if count == 0 {
            // The upper half is cleared all the same.
            if size == Size::Dword {
                self.asm.op(size, opcode::LOAD, to, Rm::Register(to));
            }
            self.written(m.a, RAX);
            return true;
        } else {
            self.asm
                .sized(size, opcode::SHIFT_IMMEDIATE, digit, Rm::Register(to));
            self.asm.byte(count);
        }
        self.written(m.a, RAX);
        let overflow = match operation {
            0 => Overflow::Left,
            1 if count == 1 => Overflow::Same,
            _ => Overflow::Clear,
        };
        self.flags_set(Host::Shift(overflow));
        true
    }

    fn multiply(&mut self, m: Micro, immediate: bool, size: Size) -> bool {
        if self.live_after() || size == Size::Byte {
            return false;
        }
        if immediate {
            let from = self.read(m.b, RDX);
            let to = self.target(m.a, RAX, size);
            self.asm
                .op(size, opcode::IMUL_IMMEDIATE, to, Rm::Register(from));
            self.asm.immediate(size, m.immediate);
        } else {
            let from = self.read(m.b, RDX);
            let to = self.read(m.a, RAX);
            self.asm.op(size, opcode::IMUL, to, Rm::Register(from));
        }
        self.written(m.a, RAX);
        self.flags_set(Host::Lost);
        true
    }

    /// MOV of a 64-bit immediate.
    fn load_long(&mut self, m: Micro) -> bool {
        let value = (m.immediate as u64) << 32 | u64::from(m.displacement as u32);
        let to = self.target(m.a, RAX, Size::Qword);
        self.asm.set_wide(to, value);
        self.written(m.a, RAX);
        true
    }

    // The stack.

    /// The size of addresses.
    fn width(&self) -> Size {
        if self.context.long() {
            Size::Qword
        } else {
            Size::Dword
        }
    }

    /// The stack pointer moves.
    fn move_stack(&mut self, bytes: i32) {
        let pointer = PINNED[GUEST_RSP];
        self.asm
            .op(self.width(), opcode::LEA, pointer, at(pointer, bytes));
    }

    /// The host address of the word that is pushed comes into RAX.
    fn pushed(&mut self) {
        let width = self.width();
        let down = -i32::from(width.bytes());
        self.asm
            .op(width, opcode::LEA, RAX, at(PINNED[GUEST_RSP], down));
        self.host_address(width.bytes().into(), Access::Write, false);
    }

    fn push(&mut self, m: Micro, immediate: bool, size: Size) -> bool {
        if size != self.width() {
            return false;
        }
        self.store_flags();
        self.pushed();
        if immediate {
            self.with_immediate(m, MOV, 0, size, at(RAX, 0));
        } else {
            let from = self.read(m.a, RDX);
            self.asm.op(size, opcode::STORE, from, at(RAX, 0));
        }
        self.move_stack(-i32::from(size.bytes()));
        true
    }

    fn pop(&mut self, m: Micro, size: Size) -> bool {
        if size != self.width() {
            return false;
        }
        self.store_flags();
        self.popped();
        self.move_stack(size.bytes().into());
        let to = self.target(m.a, RDX, size);
        self.asm.op(size, opcode::LOAD, to, at(RAX, 0));
        self.written(m.a, RDX);
        true
    }

    /// The host address of the word on top of the stack comes into RAX.
    fn popped(&mut self) {
        let width = self.width();
        self.asm
            .op(width, opcode::LOAD, RAX, Rm::Register(PINNED[GUEST_RSP]));
        self.host_address(width.bytes().into(), Access::Read, false);
    }

    // Branches.

    /// Whether a branch can be made inline: it is of this mode, and of the usual size.
    fn branches(&self, m: Micro, long: bool) -> bool {
        long == self.context.long()
            && m.branch_size() == self.width()
            && i32::try_from(self.target_of(m)).is_ok()
    }

    /// A branch's target, from the page.
    fn target_of(&self, m: Micro) -> i64 {
        i64::from(self.next) + i64::from(m.immediate)
    }

    /// RIP of an offset from the page comes into a register.
    fn rip(&mut self, register: u8, offset: i64) {
        self.asm.load(register, at(CPU, frame!(page)));
        self.asm.op(
            self.width(),
            opcode::LEA,
            register,
            at(register, offset as i32),
        );
    }

    fn jump_if(&mut self, m: Micro, condition: u8) {
        self.host_flags(condition);
        let taken = self.asm.jump_if(condition);
        let (host, stored) = (self.host, self.stored);
        if !stored {
            self.write_flags();
        }
        self.go(i64::from(self.next));
        self.asm.bind(taken);
        self.host = host;
        if !stored {
            self.write_flags();
        }
        self.jump(m);
    }

    /// Goes to the target of a branch. Flags are in memory.
    fn jump(&mut self, m: Micro) {
        let target = self.target_of(m);
        if (0..PAGE).contains(&target) {
            return self.link(target as u32);
        }
        self.rip(RAX, target);
        self.find();
        self.follow();
    }

    /// RIP in RAX becomes the address of its translation. If there is none the instruction's function
    /// executes it, and refuses its target, if it must be.
    fn find(&mut self) {
        self.asm.call(self.stubs.lookup);
        self.asm
            .op(Size::Qword, opcode::TEST, RAX, Rm::Register(RAX));
        self.unless(EQUAL, false);
    }

    /// Goes on at an offset from the page, behind the block.
    fn go(&mut self, offset: i64) {
        if offset < PAGE {
            return self.link(offset as u32);
        }
        self.rip(RAX, offset);
        self.asm.call(self.stubs.lookup);
        self.asm
            .op(Size::Qword, opcode::TEST, RAX, Rm::Register(RAX));
        let site = self.asm.jump_if(EQUAL);
        let offset = offset as i32;
        let _ = self.asides.push(Aside::Leave { site, offset });
        self.follow();
    }

    /// Goes to what a lookup has found and is in RAX.
    fn follow(&mut self) {
        self.asm.load(RDX, at(CPU, frame!(next_page)));
        self.asm.store(at(CPU, frame!(page)), RDX);
        self.asm
            .op(Size::Dword, opcode::GROUP5, 4, Rm::Register(RAX));
    }

    /// Goes to an offset in the page: to its translation if there is one, now or later.
    fn link(&mut self, offset: u32) {
        let known = if offset == self.start {
            Some(self.entry)
        } else {
            let found = self
                .cache
                .find(self.page | u64::from(offset), self.context.size());
            found.and_then(|block| block.translation(self.context))
        };
        match known {
            Some(entry) => self.asm.jump_to(entry),
            None => {
                let site = self.asm.jump();
                let _ = self.asides.push(Aside::Link { site, offset });
            }
        }
    }

    fn call_function(&mut self, m: Micro) {
        self.store_flags();
        let target = self.target_of(m);
        if (0..PAGE).contains(&target) {
            self.push_next();
            self.link(target as u32);
        } else {
            self.rip(RAX, target);
            self.call_found();
        }
    }

    /// Calls what is at RIP in RAX.
    fn call_found(&mut self) {
        self.find();
        self.asm.store(at(CPU, frame!(next_code)), RAX);
        self.push_next();
        self.asm.load(RAX, at(CPU, frame!(next_code)));
        self.follow();
    }

    /// Pushes the address of the next instruction.
    fn push_next(&mut self) {
        let width = self.width();
        self.pushed();
        self.rip(RDX, i64::from(self.next));
        self.asm.op(width, opcode::STORE, RDX, at(RAX, 0));
        self.move_stack(-i32::from(width.bytes()));
    }

    fn return_from_function(&mut self) {
        self.store_flags();
        self.popped();
        let width = self.width();
        self.asm.op(width, opcode::LOAD, RAX, at(RAX, 0));
        self.find();
        self.move_stack(width.bytes().into());
        self.follow();
    }

    /// JMP and CALL to where a register or memory says; whether it is one.
    fn branch_anywhere(&mut self, m: Micro) -> bool {
        let width = self.width();
        let instruction = *self.cache.instruction(m.immediate as u32);
        let calls = match instruction.operation() {
            Operation::Jmp => false,
            Operation::Call => true,
            _ => return false,
        };
        if instruction.operand_size() != width {
            return false;
        }
        match instruction.operand(0) {
            Operand::Memory(memory) => {
                let mut m = m;
                let (size, next) = (self.context.size(), self.next - self.start);
                let place = micro::address(&mut m, &memory, &instruction, size, next.into());
                let Some(place) = place.filter(|place| self.reaches(m, *place)) else {
                    return false;
                };
                self.store_flags();
                self.memory(m, place, width, Access::Read, false);
                self.asm.op(width, opcode::LOAD, RAX, at(RAX, 0));
            }
            operand => {
                let Some(register) = micro::general(operand) else {
                    return false;
                };
                self.store_flags();
                let from = self.read(register, RAX);
                self.asm.op(width, opcode::LOAD, RAX, Rm::Register(from));
            }
        }
        if calls {
            self.call_found();
        } else {
            self.find();
            self.follow();
        }
        true
    }

    /// What lies behind the block.
    fn aside(&mut self, index: usize) {
        let (exit, call) = (self.stubs.exit, self.stubs.call);
        match self.asides[index] {
            Aside::Execute {
                site,
                call: Call(bits),
                back,
                flags,
                xmm,
                floats,
            } => {
                self.asm.bind(site);
                if let Some(resume) = floats {
                    self.load_mxcsr(resume);
                }
                self.store_xmm(xmm.changed);
                let wanted = if flags { Call::FLAGS } else { 0 };
                self.asm.set_wide(RAX, bits | wanted);
                self.asm.call(call);
                self.load_xmm(xmm.loaded);
                if flags {
                    self.load_flags();
                }
                self.asm.jump_to(back);
            }
            Aside::Flags { site, back, xmm } => {
                self.asm.bind(site);
                self.store_xmm(xmm.changed);
                self.asm.set_wide(RAX, Call::FLAGS_ONLY.0);
                self.asm.call(call);
                self.load_xmm(xmm.loaded);
                self.asm.jump_to(back);
            }
            Aside::Link { site, offset } => {
                self.asm.bind(site);
                self.asm.set_wide(RAX, self.page | u64::from(offset));
                self.asm.store(at(CPU, frame!(target)), RAX);
                self.leave_at(offset.into());
                self.asm.set(RAX, site.0);
                self.asm.jump_to(exit);
            }
            Aside::Begin { site, taken } => {
                self.asm.bind(site);
                if taken {
                    let count = self.micros.len() as i32;
                    self.asm
                        .alu(Size::Qword, alu::ADD, at(CPU, frame!(left)), count);
                }
                self.leave_at(self.start.into());
                self.asm.set(RAX, 0);
                self.asm.jump_to(exit);
            }
            Aside::Leave { site, offset } => {
                self.asm.bind(site);
                self.leave_at(offset.into());
                self.asm.set(RAX, 0);
                self.asm.jump_to(exit);
            }
        }
    }

    /// RIP becomes that of an offset from the page.
    fn leave_at(&mut self, offset: i64) {
        self.rip(RAX, offset);
        self.asm.store(at(CPU, RIP), RAX);
    }
}
