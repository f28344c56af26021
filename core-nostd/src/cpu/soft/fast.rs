//! The functions that execute micro-operations: common instructions, each compiled for its operand
//! size and the kind of its operands.
//!
//! They have the C calling convention because that one passes a micro-operation in registers.
#![allow(improper_ctypes_definitions)]

mod media;

pub(super) use media::{Kind, Media, Source};

use super::access::{Intent, Word};
use super::execute::ends_block;
use super::micro::{Flow, Handler, Micro, Place};
use super::{Bus, Cpu, Outcome, slow};
use crate::cpu::alu::{self, LazyFlags};
use crate::cpu::decode::{Condition, Instruction, Operation, SegmentRegister, Size};
use crate::cpu::gpr::{RCX, RSP};
use crate::cpu::mmu::Access;

/// An operation of two operands.
trait Binary {
    /// Whether the first operand is written.
    const STORES: bool = true;
    /// Whether the first operand is read.
    const LOADS: bool = true;
    /// Result and flags.
    fn apply<W: Word>(a: W, b: W, flags: LazyFlags) -> (W, LazyFlags);
}

macro_rules! binary_operations {
    ($($name:ident $stores:literal $loads:literal |$a:ident, $b:ident, $flags:ident| $result:expr;)+) => {$(
        struct $name;

        impl Binary for $name {
            const STORES: bool = $stores;
            const LOADS: bool = $loads;

            #[inline(always)]
            fn apply<W: Word>($a: W, $b: W, $flags: LazyFlags) -> (W, LazyFlags) {
                $result
            }
        }
    )+};
}

binary_operations! {
    Add true true |a, b, _flags| alu::add(a, b);
    Adc true true |a, b, flags| alu::adc(a, b, flags);
    Sub true true |a, b, _flags| alu::sub(a, b);
    Sbb true true |a, b, flags| alu::sbb(a, b, flags);
    And true true |a, b, _flags| alu::and(a, b);
    Or true true |a, b, _flags| alu::or(a, b);
    Xor true true |a, b, _flags| alu::xor(a, b);
    Cmp false true |a, b, _flags| (a, alu::cmp(a, b));
    Test false true |a, b, _flags| (a, alu::test(a, b));
    Mov true false |_a, b, flags| (b, flags);
}

/// The number of an operation in [`BINARY`].
pub(super) const fn binary_index(operation: Operation) -> Option<usize> {
    Some(match operation {
        Operation::Add => 0,
        Operation::Adc => 1,
        Operation::Sub => 2,
        Operation::Sbb => 3,
        Operation::And => 4,
        Operation::Or => 5,
        Operation::Xor => 6,
        Operation::Cmp => 7,
        Operation::Test => 8,
        Operation::Mov => 9,
        _ => return None,
    })
}

/// Whether there are functions for an operation that changes memory: the common ones.
pub(super) const fn changes_memory(operation: Operation) -> bool {
    !matches!(
        operation,
        Operation::Adc | Operation::Sbb | Operation::Neg | Operation::Not
    )
}

/// What an operation's operands are, destination first.
#[derive(Clone, Copy)]
pub(super) enum Form {
    RegisterRegister,
    RegisterImmediate,
    RegisterMemory(Place),
    MemoryRegister(Place),
    MemoryImmediate(Place),
}

impl Form {
    pub(super) const COUNT: usize = 8;

    const fn index(self) -> usize {
        match self {
            Self::RegisterRegister => 0,
            Self::RegisterImmediate => 1,
            Self::RegisterMemory(place) => 2 + place as usize,
            Self::MemoryRegister(place) => 4 + place as usize,
            Self::MemoryImmediate(place) => 6 + place as usize,
        }
    }
}

/// Where an address is.
trait Address {
    /// The operand's linear address if no check is needed.
    const FLAT: bool;
}

struct Flat;
struct Segmented;

impl Address for Flat {
    const FLAT: bool = true;
}

impl Address for Segmented {
    const FLAT: bool = false;
}

impl Cpu {
    /// The offset that a micro-operation's address parts give.
    #[inline(always)]
    fn micro_offset(&self, m: Micro) -> u64 {
        let base = self.registers[usize::from(m.base) % super::REGISTERS];
        let index = self.registers[usize::from(m.index) % super::REGISTERS];
        base.wrapping_add(index << m.scale())
            .wrapping_add(m.displacement as u64)
    }

    /// The linear address of a micro-operation's memory.
    #[inline(always)]
    fn micro_linear<A: Address, W: Word>(&mut self, m: Micro, intent: Intent) -> Outcome<u64> {
        let offset = self.micro_offset(m);
        if A::FLAT && self.data_checks == 0 {
            Ok(offset)
        } else {
            self.linear_anywhere(m, offset, W::SIZE, intent)
        }
    }

    /// The same with all checks. Apart from the rest, because that is in each function.
    #[inline(never)]
    fn linear_anywhere(
        &mut self,
        m: Micro,
        offset: u64,
        length: usize,
        intent: Intent,
    ) -> Outcome<u64> {
        self.linear(m.segment(), offset & m.mask(), length, intent)
    }

    /// Makes the page at a linear address ready and executes the micro-operation once more; where it
    /// can't be, the instruction the long way.
    #[cold]
    #[inline(never)]
    fn not_ready(&mut self, bus: &mut Bus<'_>, m: Micro, linear: u64, access: Access) -> Flow {
        if self.mmu.prepare(bus, linear, self.mode, access) {
            m.execute(self, bus)
        } else {
            self.long_way(bus)
        }
    }

    /// Executes the instruction at RIP from its bytes: its memory is a device's, holds code, is in two
    /// pages, or can't be accessed.
    #[cold]
    #[inline(never)]
    fn long_way(&mut self, bus: &mut Bus<'_>) -> Flow {
        match self.fetch(bus) {
            Ok(instruction) => {
                self.execute_here(bus, &instruction, ends_block(instruction.operation()))
            }
            Err(_) => Flow::Raised,
        }
    }

    /// Executes the instruction at RIP, whatever it is; `last` if it [ends its block](ends_block).
    fn execute_here(&mut self, bus: &mut Bus<'_>, i: &Instruction, last: bool) -> Flow {
        let next = self.behind(i.length());
        self.next_rip = next;
        if self.execute(bus, i).is_err() {
            return Flow::Raised;
        }
        let slow = self.slow & !slow::WATCHED != 0;
        if last || self.next_rip != next || bus.code_written() || slow {
            self.rip = self.next_rip;
            return Flow::Exit;
        }
        Flow::Next
    }

    /// The linear address of an offset in the stack.
    #[inline(always)]
    fn stack_linear(&mut self, offset: u64, length: usize, intent: Intent) -> Outcome<u64> {
        if self.bits64() && self.data_checks == 0 {
            Ok(offset)
        } else {
            self.stack_linear_anywhere(offset, length, intent)
        }
    }

    /// The same with all checks.
    #[inline(never)]
    fn stack_linear_anywhere(
        &mut self,
        offset: u64,
        length: usize,
        intent: Intent,
    ) -> Outcome<u64> {
        self.linear(SegmentRegister::Ss, offset, length, intent)
    }
}

/// The immediate operand.
#[inline(always)]
fn immediate<W: Word>(m: Micro) -> W {
    alu::Word::truncate(m.immediate as i64 as u64)
}

extern "C-unwind" fn register_register<O: Binary, W: Word>(
    cpu: &mut Cpu,
    _: &mut Bus<'_>,
    m: Micro,
) -> Flow {
    let (a, b) = (cpu.register::<W>(m.a.into()), cpu.register::<W>(m.b.into()));
    let (value, flags) = O::apply(a, b, cpu.flags);
    if O::LOADS {
        cpu.flags = flags;
    }
    if O::STORES {
        cpu.set_register(m.a.into(), value);
    }
    Flow::Next
}

extern "C-unwind" fn register_immediate<O: Binary, W: Word>(
    cpu: &mut Cpu,
    _: &mut Bus<'_>,
    m: Micro,
) -> Flow {
    let a = cpu.register::<W>(m.a.into());
    let (value, flags) = O::apply(a, immediate(m), cpu.flags);
    if O::LOADS {
        cpu.flags = flags;
    }
    if O::STORES {
        cpu.set_register(m.a.into(), value);
    }
    Flow::Next
}

extern "C-unwind" fn register_memory<O: Binary, W: Word, A: Address>(
    cpu: &mut Cpu,
    bus: &mut Bus<'_>,
    m: Micro,
) -> Flow {
    let Ok(linear) = cpu.micro_linear::<A, W>(m, Intent::Read) else {
        return Flow::Raised;
    };
    let Some(b) = cpu.mmu.try_read::<W>(linear, cpu.mode) else {
        return cpu.not_ready(bus, m, linear, Access::Read);
    };
    let a = cpu.register::<W>(m.a.into());
    let (value, flags) = O::apply(a, b, cpu.flags);
    if O::LOADS {
        cpu.flags = flags;
    }
    if O::STORES {
        cpu.set_register(m.a.into(), value);
    }
    Flow::Next
}

#[inline(always)]
fn memory_value<O: Binary, W: Word, A: Address>(
    cpu: &mut Cpu,
    bus: &mut Bus<'_>,
    m: Micro,
    b: W,
) -> Flow {
    let intent = if O::STORES {
        Intent::Write
    } else {
        Intent::Read
    };
    let Ok(linear) = cpu.micro_linear::<A, W>(m, intent) else {
        return Flow::Raised;
    };
    let flags = cpu.flags;
    let done = if !O::LOADS {
        cpu.mmu.try_write(linear, cpu.mode, b).then_some(flags)
    } else if !O::STORES {
        let a = cpu.mmu.try_read::<W>(linear, cpu.mode);
        a.map(|a| O::apply(a, b, flags).1)
    } else {
        cpu.mmu
            .try_modify(linear, cpu.mode, |a: W| O::apply(a, b, flags))
    };
    let Some(flags) = done else {
        let access = if O::STORES {
            Access::Write
        } else {
            Access::Read
        };
        return cpu.not_ready(bus, m, linear, access);
    };
    if O::LOADS {
        cpu.flags = flags;
    }
    Flow::Next
}

extern "C-unwind" fn memory_register<O: Binary, W: Word, A: Address>(
    cpu: &mut Cpu,
    bus: &mut Bus<'_>,
    m: Micro,
) -> Flow {
    let b = cpu.register::<W>(m.b.into());
    memory_value::<O, W, A>(cpu, bus, m, b)
}

extern "C-unwind" fn memory_immediate<O: Binary, W: Word, A: Address>(
    cpu: &mut Cpu,
    bus: &mut Bus<'_>,
    m: Micro,
) -> Flow {
    memory_value::<O, W, A>(cpu, bus, m, immediate(m))
}

extern "C-unwind" fn lea_of<W: Word>(cpu: &mut Cpu, _: &mut Bus<'_>, m: Micro) -> Flow {
    let offset = cpu.micro_offset(m) & m.mask();
    cpu.set_register::<W>(m.a.into(), alu::Word::truncate(offset));
    Flow::Next
}

#[inline(always)]
fn extended<S: Word, D: Word, const SIGNED: bool>(value: S) -> D {
    alu::Word::truncate(if SIGNED {
        value.sign_extend()
    } else {
        value.zero_extend()
    })
}

extern "C-unwind" fn extend_register<S: Word, D: Word, const SIGNED: bool>(
    cpu: &mut Cpu,
    _: &mut Bus<'_>,
    m: Micro,
) -> Flow {
    let value = extended::<S, D, SIGNED>(cpu.register(m.b.into()));
    cpu.set_register(m.a.into(), value);
    Flow::Next
}

extern "C-unwind" fn extend_memory<S: Word, D: Word, const SIGNED: bool, A: Address>(
    cpu: &mut Cpu,
    bus: &mut Bus<'_>,
    m: Micro,
) -> Flow {
    let Ok(linear) = cpu.micro_linear::<A, S>(m, Intent::Read) else {
        return Flow::Raised;
    };
    let Some(value) = cpu.mmu.try_read::<S>(linear, cpu.mode) else {
        return cpu.not_ready(bus, m, linear, Access::Read);
    };
    cpu.set_register(m.a.into(), extended::<S, D, SIGNED>(value));
    Flow::Next
}

/// An operation of one operand.
trait Unary {
    fn apply<W: Word>(a: W, flags: LazyFlags) -> (W, LazyFlags);
}

macro_rules! unary_operations {
    ($($name:ident |$a:ident, $flags:ident| $result:expr;)+) => {$(
        struct $name;

        impl Unary for $name {
            #[inline(always)]
            fn apply<W: Word>($a: W, $flags: LazyFlags) -> (W, LazyFlags) {
                $result
            }
        }
    )+};
}

unary_operations! {
    Inc |a, flags| alu::inc(a, flags);
    Dec |a, flags| alu::dec(a, flags);
    Neg |a, _flags| alu::neg(a);
    Not |a, flags| (alu::not(a), flags);
}

extern "C-unwind" fn unary_register<O: Unary, W: Word>(
    cpu: &mut Cpu,
    _: &mut Bus<'_>,
    m: Micro,
) -> Flow {
    let (value, flags) = O::apply(cpu.register::<W>(m.a.into()), cpu.flags);
    cpu.flags = flags;
    cpu.set_register(m.a.into(), value);
    Flow::Next
}

extern "C-unwind" fn unary_memory<O: Unary, W: Word, A: Address>(
    cpu: &mut Cpu,
    bus: &mut Bus<'_>,
    m: Micro,
) -> Flow {
    let Ok(linear) = cpu.micro_linear::<A, W>(m, Intent::Write) else {
        return Flow::Raised;
    };
    let flags = cpu.flags;
    match cpu
        .mmu
        .try_modify(linear, cpu.mode, |a: W| O::apply(a, flags))
    {
        Some(flags) => cpu.flags = flags,
        None => return cpu.not_ready(bus, m, linear, Access::Write),
    }
    Flow::Next
}

/// A shift or rotation by an immediate, or by CL, whose low bits an immediate leaves zero.
trait Shift {
    fn apply<W: Word>(a: W, count: u8, flags: LazyFlags) -> (W, LazyFlags);
}

macro_rules! shifts {
    ($($name:ident $function:ident;)+) => {$(
        struct $name;

        impl Shift for $name {
            #[inline(always)]
            fn apply<W: Word>(a: W, count: u8, flags: LazyFlags) -> (W, LazyFlags) {
                alu::$function(a, count, flags)
            }
        }
    )+};
}

shifts! {
    Shl shl;
    Shr shr;
    Sar sar;
    Rol rol;
    Ror ror;
}

extern "C-unwind" fn shift_register<O: Shift, W: Word>(
    cpu: &mut Cpu,
    _: &mut Bus<'_>,
    m: Micro,
) -> Flow {
    let counted = if usize::from(m.b) == RCX {
        cpu.registers[RCX] as u8
    } else {
        m.immediate as u8
    };
    let (value, flags) = O::apply(cpu.register::<W>(m.a.into()), counted, cpu.flags);
    cpu.flags = flags;
    cpu.set_register(m.a.into(), value);
    Flow::Next
}

extern "C-unwind" fn multiply_register<W: Word>(cpu: &mut Cpu, _: &mut Bus<'_>, m: Micro) -> Flow {
    let (a, b) = (cpu.register::<W>(m.a.into()), cpu.register::<W>(m.b.into()));
    let (product, flags) = alu::imul(a, b, cpu.flags);
    cpu.flags = flags;
    cpu.set_register(m.a.into(), product);
    Flow::Next
}

extern "C-unwind" fn multiply_immediate<W: Word>(cpu: &mut Cpu, _: &mut Bus<'_>, m: Micro) -> Flow {
    let (product, flags) = alu::imul(cpu.register::<W>(m.b.into()), immediate(m), cpu.flags);
    cpu.flags = flags;
    cpu.set_register(m.a.into(), product);
    Flow::Next
}

/// Pushes a value.
#[inline(always)]
fn push_value<W: Word>(cpu: &mut Cpu, bus: &mut Bus<'_>, m: Micro, value: W) -> Flow {
    let top = cpu.stack_pointer().wrapping_sub(W::SIZE as u64) & cpu.stack_mask;
    let Ok(linear) = cpu.stack_linear(top, W::SIZE, Intent::Write) else {
        return Flow::Raised;
    };
    if !cpu.mmu.try_write(linear, cpu.mode, value) {
        return cpu.not_ready(bus, m, linear, Access::Write);
    }
    cpu.set_stack_pointer(top);
    Flow::Next
}

extern "C-unwind" fn push_register<W: Word>(cpu: &mut Cpu, bus: &mut Bus<'_>, m: Micro) -> Flow {
    let value = cpu.register::<W>(m.a.into());
    push_value(cpu, bus, m, value)
}

extern "C-unwind" fn push_immediate<W: Word>(cpu: &mut Cpu, bus: &mut Bus<'_>, m: Micro) -> Flow {
    push_value::<W>(cpu, bus, m, immediate(m))
}

extern "C-unwind" fn pop_register<W: Word>(cpu: &mut Cpu, bus: &mut Bus<'_>, m: Micro) -> Flow {
    let top = cpu.stack_pointer();
    let Ok(linear) = cpu.stack_linear(top, W::SIZE, Intent::Read) else {
        return Flow::Raised;
    };
    let Some(value) = cpu.mmu.try_read::<W>(linear, cpu.mode) else {
        return cpu.not_ready(bus, m, linear, Access::Read);
    };
    cpu.set_stack_pointer(top.wrapping_add(W::SIZE as u64));
    cpu.set_register(m.a.into(), value);
    Flow::Next
}

/// A condition by its number.
#[inline(always)]
fn holds(cpu: &Cpu, condition: u8) -> bool {
    cpu.flags.holds(Condition::from_opcode(condition))
}

extern "C-unwind" fn set_condition(cpu: &mut Cpu, _: &mut Bus<'_>, m: Micro) -> Flow {
    let value = u8::from(holds(cpu, m.b));
    cpu.set_register(m.a.into(), value);
    Flow::Next
}

extern "C-unwind" fn move_condition<W: Word>(cpu: &mut Cpu, _: &mut Bus<'_>, m: Micro) -> Flow {
    let from = if holds(cpu, m.immediate as u8) {
        m.b
    } else {
        m.a
    };
    let value = cpu.register::<W>(from.into());
    cpu.set_register(m.a.into(), value);
    Flow::Next
}

/// Goes to a relative target in 64-bit mode.
#[inline(always)]
fn jump_long(cpu: &mut Cpu, m: Micro) -> Flow {
    let target = cpu
        .rip
        .wrapping_add(m.length.into())
        .wrapping_add(m.immediate as u64);
    // In the same half of the address space it is as canonical as this instruction.
    if (target ^ cpu.rip) >> 47 == 0 || cpu.check_target(target).is_ok() {
        cpu.rip = target;
        return Flow::Leave;
    }
    Flow::Raised
}

/// Goes to a relative target.
#[inline(always)]
fn jump_legacy(cpu: &mut Cpu, m: Micro) -> Flow {
    let target = cpu.behind(m.length).wrapping_add(m.immediate as u64) & m.branch_size().mask();
    if cpu.check_target(target).is_err() {
        return Flow::Raised;
    }
    cpu.rip = target;
    Flow::Leave
}

#[inline(always)]
fn jump<const LONG: bool>(cpu: &mut Cpu, m: Micro) -> Flow {
    if LONG {
        jump_long(cpu, m)
    } else {
        jump_legacy(cpu, m)
    }
}

extern "C-unwind" fn jump_always<const LONG: bool>(
    cpu: &mut Cpu,
    _: &mut Bus<'_>,
    m: Micro,
) -> Flow {
    jump::<LONG>(cpu, m)
}

extern "C-unwind" fn jump_if<const LONG: bool, const CONDITION: u8>(
    cpu: &mut Cpu,
    _: &mut Bus<'_>,
    m: Micro,
) -> Flow {
    if holds(cpu, CONDITION) {
        jump::<LONG>(cpu, m)
    } else {
        Flow::Next
    }
}

extern "C-unwind" fn call_long(cpu: &mut Cpu, bus: &mut Bus<'_>, m: Micro) -> Flow {
    let (start, next) = (cpu.rip, cpu.rip.wrapping_add(m.length.into()));
    let target = next.wrapping_add(m.immediate as u64);
    if (target ^ start) >> 47 != 0 {
        return cpu.long_way(bus);
    }
    match push_value(cpu, bus, m, next) {
        Flow::Next => {
            cpu.rip = target;
            Flow::Leave
        }
        other => other,
    }
}

extern "C-unwind" fn return_long(cpu: &mut Cpu, bus: &mut Bus<'_>, m: Micro) -> Flow {
    let top = cpu.registers[RSP];
    let Ok(linear) = cpu.stack_linear(top, 8, Intent::Read) else {
        return Flow::Raised;
    };
    let Some(target) = cpu.mmu.try_read::<u64>(linear, cpu.mode) else {
        return cpu.not_ready(bus, m, linear, Access::Read);
    };
    if (target ^ cpu.rip) >> 47 != 0 {
        return cpu.long_way(bus);
    }
    cpu.registers[RSP] = top.wrapping_add(8);
    cpu.rip = target;
    Flow::Leave
}

extern "C-unwind" fn call_legacy(cpu: &mut Cpu, bus: &mut Bus<'_>, m: Micro) -> Flow {
    let next = cpu.behind(m.length);
    let target = next.wrapping_add(m.immediate as u64) & m.branch_size().mask();
    if cpu.check_target(target).is_err() {
        return Flow::Raised;
    }
    let pushed = match m.branch_size() {
        Size::Word => push_value(cpu, bus, m, next as u16),
        _ => push_value(cpu, bus, m, next as u32),
    };
    if pushed == Flow::Next {
        cpu.rip = target;
        return Flow::Leave;
    }
    pushed
}

extern "C-unwind" fn return_legacy(cpu: &mut Cpu, bus: &mut Bus<'_>, m: Micro) -> Flow {
    let top = cpu.stack_pointer();
    let length = usize::from(m.branch_size().bytes());
    let Ok(linear) = cpu.stack_linear(top, length, Intent::Read) else {
        return Flow::Raised;
    };
    let target = match m.branch_size() {
        Size::Word => cpu.mmu.try_read::<u16>(linear, cpu.mode).map(u64::from),
        _ => cpu.mmu.try_read::<u32>(linear, cpu.mode).map(u64::from),
    };
    let Some(target) = target else {
        return cpu.not_ready(bus, m, linear, Access::Read);
    };
    if target > u64::from(cpu.segment(SegmentRegister::Cs).limit) {
        return cpu.long_way(bus);
    }
    cpu.set_stack_pointer(top.wrapping_add(length as u64));
    cpu.rip = target;
    Flow::Leave
}

extern "C-unwind" fn nothing(_: &mut Cpu, _: &mut Bus<'_>, _: Micro) -> Flow {
    Flow::Next
}

/// MOV of an immediate that has 64 bits: the displacement is the lower half.
extern "C-unwind" fn move_long(cpu: &mut Cpu, _: &mut Bus<'_>, m: Micro) -> Flow {
    let value = (m.immediate as u64) << 32 | u64::from(m.displacement as u32);
    cpu.set_register(m.a.into(), value);
    Flow::Next
}

/// An instruction without a function of its own.
extern "C-unwind" fn general(cpu: &mut Cpu, bus: &mut Bus<'_>, m: Micro) -> Flow {
    let instruction = *bus.code.instruction(m.immediate as u32);
    cpu.execute_here(bus, &instruction, m.a != 0)
}

/// A function for each operand size.
macro_rules! widths {
    ($function:ident $(, $type:ty)*) => {
        [
            $function::<$($type,)* u8> as Handler,
            $function::<$($type,)* u16>,
            $function::<$($type,)* u32>,
            $function::<$($type,)* u64>,
        ]
    };
    (@ $function:ident, $address:ty $(, $type:ty)*) => {
        [
            $function::<$($type,)* u8, $address> as Handler,
            $function::<$($type,)* u16, $address>,
            $function::<$($type,)* u32, $address>,
            $function::<$($type,)* u64, $address>,
        ]
    };
}

macro_rules! forms {
    // In memory it is left to the general way.
    (register $operation:ty) => {
        [
            widths!(register_register, $operation),
            widths!(register_immediate, $operation),
            widths!(@ register_memory, Flat, $operation),
            widths!(@ register_memory, Segmented, $operation),
            [general; 4],
            [general; 4],
            [general; 4],
            [general; 4],
        ]
    };
    ($operation:ty) => {
        [
            widths!(register_register, $operation),
            widths!(register_immediate, $operation),
            widths!(@ register_memory, Flat, $operation),
            widths!(@ register_memory, Segmented, $operation),
            widths!(@ memory_register, Flat, $operation),
            widths!(@ memory_register, Segmented, $operation),
            widths!(@ memory_immediate, Flat, $operation),
            widths!(@ memory_immediate, Segmented, $operation),
        ]
    };
}

const BINARY: [[[Handler; 4]; Form::COUNT]; 10] = [
    forms!(Add),
    forms!(register Adc),
    forms!(Sub),
    forms!(register Sbb),
    forms!(And),
    forms!(Or),
    forms!(Xor),
    forms!(Cmp),
    forms!(Test),
    forms!(Mov),
];

const LEA: [Handler; 4] = widths!(lea_of);

/// By source and destination: 8 to 16, 32, 64; 16 to 16, 32, 64; 32 to 16, 32, 64.
macro_rules! extensions {
    ($signed:literal) => {
        [
            extensions!(@ $signed, u8),
            extensions!(@ $signed, u16),
            extensions!(@ $signed, u32),
        ]
    };
    (@ $signed:literal, $source:ty) => {
        [
            [
                extend_register::<$source, u16, $signed> as Handler,
                extend_register::<$source, u32, $signed>,
                extend_register::<$source, u64, $signed>,
            ],
            [
                extend_memory::<$source, u16, $signed, Flat>,
                extend_memory::<$source, u32, $signed, Flat>,
                extend_memory::<$source, u64, $signed, Flat>,
            ],
            [
                extend_memory::<$source, u16, $signed, Segmented>,
                extend_memory::<$source, u32, $signed, Segmented>,
                extend_memory::<$source, u64, $signed, Segmented>,
            ],
        ]
    };
}

const EXTEND: [[[[Handler; 3]; 3]; 3]; 2] = [extensions!(false), extensions!(true)];

macro_rules! unary_forms {
    ($operation:ty) => {
        [
            widths!(unary_register, $operation),
            widths!(@ unary_memory, Flat, $operation),
            widths!(@ unary_memory, Segmented, $operation),
        ]
    };
}

const UNARY: [[[Handler; 4]; 3]; 4] = [
    unary_forms!(Inc),
    unary_forms!(Dec),
    [widths!(unary_register, Neg), [general; 4], [general; 4]],
    [widths!(unary_register, Not), [general; 4], [general; 4]],
];

const SHIFT: [[Handler; 4]; 5] = [
    widths!(shift_register, Shl),
    widths!(shift_register, Shr),
    widths!(shift_register, Sar),
    widths!(shift_register, Rol),
    widths!(shift_register, Ror),
];

const MULTIPLY: [[Handler; 4]; 2] = [widths!(multiply_register), widths!(multiply_immediate)];
const PUSH: [[Handler; 4]; 2] = [widths!(push_register), widths!(push_immediate)];
const POP: [Handler; 4] = widths!(pop_register);
const CMOV: [Handler; 4] = widths!(move_condition);

macro_rules! conditions {
    ($long:literal: $($number:literal)+) => {
        [$(jump_if::<$long, $number> as Handler),+]
    };
}

const JUMP_IF: [[Handler; 16]; 2] = [
    conditions!(false: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15),
    conditions!(true: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15),
];

const SINGLE: [Handler; 11] = [
    general,
    nothing,
    set_condition,
    jump_always::<false>,
    jump_always::<true>,
    call_legacy,
    call_long,
    return_legacy,
    return_long,
    move_long,
    media::media,
];

/// NOP.
pub(super) const NOTHING: u16 = 1;
/// SETcc with a register.
pub(super) const SETCC: u16 = 2;
/// Branches; one more is the form of 64-bit mode.
pub(super) const JUMP: u16 = 3;
pub(super) const JUMP_LONG: u16 = JUMP + 1;
pub(super) const CALL: u16 = 5;
pub(super) const CALL_LONG: u16 = CALL + 1;
pub(super) const RETURN: u16 = 7;
pub(super) const RETURN_LONG: u16 = RETURN + 1;
/// MOV of an immediate that has 64 bits to a register.
pub(super) const MOVE_LONG: u16 = 9;
/// Instructions on XMM registers.
pub(super) const MEDIA: u16 = 10;

pub(super) const BINARY_AT: usize = SINGLE.len();
pub(super) const LEA_AT: usize = BINARY_AT + 10 * Form::COUNT * 4;
pub(super) const EXTEND_AT: usize = LEA_AT + 4;
pub(super) const UNARY_AT: usize = EXTEND_AT + 2 * 3 * 3 * 3;
pub(super) const SHIFT_AT: usize = UNARY_AT + 4 * 3 * 4;
pub(super) const MULTIPLY_AT: usize = SHIFT_AT + 5 * 4;
pub(super) const PUSH_AT: usize = MULTIPLY_AT + 2 * 4;
pub(super) const POP_AT: usize = PUSH_AT + 2 * 4;
pub(super) const CMOV_AT: usize = POP_AT + 4;
pub(super) const JUMP_IF_AT: usize = CMOV_AT + 4;
/// Functions.
pub(super) const COUNT: usize = JUMP_IF_AT + 2 * 16;

const fn put(table: &mut [Handler; TABLE], at: usize, handlers: &[Handler]) {
    let mut i = 0;
    while i < handlers.len() {
        table[at + i] = handlers[i];
        i += 1;
    }
}

/// Entries of the table, a power of two so that an index needs no check.
const TABLE: usize = 1024;
const _: () = assert!(COUNT <= TABLE);

/// All functions, by [`Micro::handler`]; unused entries are [`general`].
pub(super) static HANDLERS: [Handler; TABLE] = {
    let mut table = [general as Handler; TABLE];
    put(&mut table, 0, &SINGLE);
    put(&mut table, BINARY_AT, BINARY.as_flattened().as_flattened());
    put(&mut table, LEA_AT, &LEA);
    put(
        &mut table,
        EXTEND_AT,
        EXTEND.as_flattened().as_flattened().as_flattened(),
    );
    put(&mut table, UNARY_AT, UNARY.as_flattened().as_flattened());
    put(&mut table, SHIFT_AT, SHIFT.as_flattened());
    put(&mut table, MULTIPLY_AT, MULTIPLY.as_flattened());
    put(&mut table, PUSH_AT, PUSH.as_flattened());
    put(&mut table, POP_AT, &POP);
    put(&mut table, CMOV_AT, &CMOV);
    put(&mut table, JUMP_IF_AT, JUMP_IF.as_flattened());
    table
};

/// An index of [`HANDLERS`]; all are below [`TABLE`].
const fn index(at: usize) -> u16 {
    at as u16
}

/// A binary operation, by [`binary_index`].
pub(super) const fn binary(operation: usize, form: Form, size: Size) -> u16 {
    index(BINARY_AT + (operation * Form::COUNT + form.index()) * 4 + size as usize)
}

pub(super) use media::translate as media;

/// LEA.
pub(super) const fn lea(size: Size) -> u16 {
    index(LEA_AT + size as usize)
}

/// A register, or memory at a place.
const fn operand(place: Option<Place>) -> usize {
    match place {
        None => 0,
        Some(place) => 1 + place as usize,
    }
}

/// MOVZX and MOVSX: from a byte, word or doubleword to more.
pub(super) const fn extend(
    signed: bool,
    place: Option<Place>,
    source: Size,
    size: Size,
) -> Option<u16> {
    if matches!(source, Size::Qword) || matches!(size, Size::Byte) {
        return None;
    }
    let kind = (signed as usize * 3 + source as usize) * 3 + operand(place);
    Some(index(EXTEND_AT + kind * 3 + size as usize - 1))
}

/// INC, DEC, NEG, NOT.
pub(super) const fn unary(operation: Operation, place: Option<Place>, size: Size) -> u16 {
    let number = match operation {
        Operation::Inc => 0,
        Operation::Dec => 1,
        Operation::Neg => 2,
        _ => 3,
    };
    index(UNARY_AT + (number * 3 + operand(place)) * 4 + size as usize)
}

/// SHL, SHR, SAR, ROL, ROR.
pub(super) const fn shift(operation: Operation, size: Size) -> u16 {
    let number = match operation {
        Operation::Shl => 0,
        Operation::Shr => 1,
        Operation::Sar => 2,
        Operation::Rol => 3,
        _ => 4,
    };
    index(SHIFT_AT + number * 4 + size as usize)
}

/// IMUL of two registers, or of a register and an immediate.
pub(super) const fn multiply(immediate: bool, size: Size) -> u16 {
    index(MULTIPLY_AT + immediate as usize * 4 + size as usize)
}

/// PUSH of a register or an immediate.
pub(super) const fn push(immediate: bool, size: Size) -> u16 {
    index(PUSH_AT + immediate as usize * 4 + size as usize)
}

/// POP to a register.
pub(super) const fn pop(size: Size) -> u16 {
    index(POP_AT + size as usize)
}

/// CMOVcc with registers.
pub(super) const fn cmov(size: Size) -> u16 {
    index(CMOV_AT + size as usize)
}

/// Relative branches, and RET without operand.
pub(super) const fn branch(operation: Operation, long: bool) -> Option<u16> {
    Some(match operation {
        Operation::Jcc(condition) => index(JUMP_IF_AT + long as usize * 16 + condition as usize),
        Operation::Jmp => JUMP + long as u16,
        Operation::Call => CALL + long as u16,
        Operation::Ret => RETURN + long as u16,
        _ => return None,
    })
}
