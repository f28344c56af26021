//! Translations: blocks that run often, as code of the host.
//!
//! What is translated is not the guest's code but the micro-operations that the interpreter has made
//! of it, a block at a time, once it has been entered [`WARM`] times. Both do the same to the bit: a
//! translation does inline what is common, and calls the interpreter's function for all else, and for
//! a load or store whose page is not in the hot table. Between two blocks it looks at what the
//! interpreter looks at: signals, overwritten code, the budget. Whatever concerns it comes back to
//! the loop in `run`.
//!
//! The core maps no memory. The host lends a [`CodeMemory`], which lies at two addresses: one to
//! write to, one to execute at. So nothing is ever writable and executable at the same address, and
//! nothing is remapped while guests run. Without it the interpreter is alone, with the same results.
//!
//! - Guest registers: eleven have a host register each while translations run ([`PINNED`]); the
//!   others, and all of them outside, are in [`Cpu`].
//! - Status flags: the host's, as its instructions leave them, as long as nothing needs them, then
//!   [`LazyFlags`](crate::cpu::alu::LazyFlags) whose flags are all known. What the manual leaves
//!   undefined, and hence host processors do differently, is made as `alu` makes it.
//! - XMM registers: in the host's of the same number from their first use in a block on, see [`media`].
//!   MXCSR: the host's, from the first arithmetic on numbers to the next function of Rust.
//! - Loads and stores: the same comparison with the hot table as the interpreter's.
//! - Where code goes on: within a page a jump from translation to translation; elsewhere by the hot
//!   table and the table of blocks, in host code too ([`stubs`]).
//!
//! A translation holds for the guest physical address of its block and for a [`Context`]. It ends with
//! its block: nobody finds it then, and those that jump to it are in the same page and end with it.
//! When the memory is full, all are forgotten.
#![allow(unsafe_code)]

mod block;
mod emit;
mod media;
mod shape;
mod stubs;
#[cfg(test)]
mod tests;

use core::mem::offset_of;

use super::code::{BLOCK_MAX, Block, CodeCache, MICROS};
use super::micro::{Flow, GENERAL};
use super::{BLOCK_RIP, Bus, Cpu, Outcome, Raised, sse};
use crate::cpu::alu::LazyFlags;
use crate::cpu::decode::{CodeSize, SegmentRegister};
use crate::cpu::mmu::{TLB_OFFSET, layout};
use stubs::Stubs;

/// How often a block is interpreted before it is translated. Most of what runs at all runs less often.
const WARM: u32 = 8;
/// Room that a block must find: the longest are a good part of it.
const BLOCK_ROOM: u32 = 64 << 10;
/// Translations begin at multiples of so much.
const ALIGNMENT: u32 = 16;
/// The most memory that is of use: what offsets in [`Block`] reach.
const MEMORY_MAX: usize = 64 << 20;

/// What a processor must be like for a translation to hold, in one byte; 0 is none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Context(u8);

impl Context {
    const NONE: Self = Self(0);
    const LONG: u8 = 8;

    /// The [`Mode`](crate::cpu::mmu::Mode) of accesses, by number.
    fn mode(self) -> usize {
        usize::from(self.0 & 3) - 1
    }

    /// 64-bit mode; else 32-bit mode with flat CS, DS, ES and SS.
    fn long(self) -> bool {
        self.0 & Self::LONG != 0
    }

    fn size(self) -> CodeSize {
        if self.long() {
            CodeSize::Bits64
        } else {
            CodeSize::Bits32
        }
    }
}

/// Memory for host code, which a host lends.
#[derive(Clone, Copy, Debug)]
pub struct CodeMemory {
    write: usize,
    execute: usize,
    length: usize,
    /// How often a block is interpreted before it is translated.
    warm: u32,
}

impl CodeMemory {
    /// Memory that can be written at one address and executed at another.
    ///
    /// # Safety
    /// `length` bytes at `write` are valid for stores, those at `execute` are the same memory and
    /// executable, nobody else uses them, and all this stays so as long as the [`CodeCache`] lives that
    /// it is lent to.
    pub unsafe fn new(write: *mut u8, execute: *const u8, length: usize) -> Self {
        Self {
            write: write.expose_provenance(),
            execute: execute.expose_provenance(),
            length: length.min(MEMORY_MAX),
            warm: WARM,
        }
    }

    /// The same, with blocks being translated after so many runs, 200 at most, instead of as many as
    /// pay: for tests.
    #[must_use]
    pub fn after(self, runs: u32) -> Self {
        let warm = runs.min(200);
        Self { warm, ..self }
    }
}

/// Translations of a [`CodeCache`]. Valid when zero: none, and no memory for any.
#[repr(C)]
pub(super) struct Translations {
    /// Of no length if there is none.
    memory: CodeMemory,
    /// Bytes in use.
    used: u32,
    stubs: Stubs,
    /// A jump that was taken and could go to its target directly.
    link: Link,
}

/// A jump's place, and its target by guest physical address and context.
#[derive(Clone, Copy)]
#[repr(C)]
struct Link {
    site: u32,
    context: u8,
    target: u64,
}

/// What translated code and the rest tell each other. Addresses are valid while it runs.
#[repr(C)]
pub(super) struct Frame {
    /// Instructions that may still run.
    left: u64,
    /// RIP of the first byte of the page that runs.
    page: u64,
    /// The same of where a lookup has gone, and its translation's address.
    next_page: u64,
    next_code: u64,
    /// Addresses: [`Signals`](super::Signals)' flag, that of overwritten code, the code cache, code,
    /// entries and frames of the hot table for fetches in this mode.
    signals: usize,
    written: usize,
    cache: usize,
    execute: usize,
    hot: usize,
    frames: usize,
    bus: usize,
    /// The context, and what keys of blocks have of it.
    context: u64,
    size: u64,
    /// Guest physical address of a link's target.
    target: u64,
    /// Instructions executed before, and those that could run.
    before: u64,
    budget: u64,
    raised: u64,
    /// The host's MXCSR is the guest's, and that of [`Cpu`] is out of date: 1, else 0.
    floats: u64,
    /// MXCSR of all other code.
    mxcsr: u64,
}

/// Where things are from the register that points at them: behind [`Cpu`]'s general registers, so that
/// these need short distances.
const BIAS: usize = 128;

/// The distance of something at an offset in [`Cpu`].
const fn distance(offset: usize) -> i32 {
    offset as i32 - BIAS as i32
}

/// The distance of a register of the file.
const fn register(number: usize) -> i32 {
    distance(offset_of!(Cpu, registers) + number * 8)
}

macro_rules! frame {
    ($field:ident) => {
        $crate::cpu::soft::translate::distance(
            core::mem::offset_of!($crate::cpu::soft::Cpu, frame)
                + core::mem::offset_of!($crate::cpu::soft::translate::Frame, $field),
        )
    };
}
use frame;

const RIP: i32 = distance(offset_of!(Cpu, rip));
const MXCSR: i32 = distance(offset_of!(Cpu, fpu.mxcsr));
const FLAGS: i32 = distance(offset_of!(Cpu, flags) + LazyFlags::BITS_OFFSET);
const GENERATION: i32 = distance(offset_of!(Cpu, mmu) + TLB_OFFSET + layout::GENERATION);
const HOT: usize = offset_of!(Cpu, mmu) + TLB_OFFSET + layout::HOT;
const FRAMES: usize = offset_of!(Cpu, mmu) + TLB_OFFSET + layout::FRAMES;

const _: () = assert!(MICROS <= 1 << 20 && BLOCK_MAX < 1 << 7);

/// What a call of an instruction's function needs to know, in 64 bits.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Call(u64);

impl Call {
    /// Nothing is executed; flags are brought into the form that translations read.
    const FLAGS_ONLY: Self = Self(1 << 62);
    /// Afterwards flags are brought into that form.
    const FLAGS: u64 = 1 << 63;

    /// The micro-operation by its index, offsets in the page of it and of its block, its place in the
    /// block, and the block's count.
    fn new(index: u32, offset: u32, block: u32, place: usize, count: usize) -> Self {
        Self(
            u64::from(index)
                | u64::from(offset) << 20
                | u64::from(block) << 32
                | (place as u64) << 44
                | (count as u64) << 51,
        )
    }

    const fn bits(self, from: u32, count: u32) -> u64 {
        self.0 >> from & ((1 << count) - 1)
    }
}

/// What [`execute`] says to the code that has called it.
#[repr(u32)]
enum Then {
    /// The next instruction follows.
    Next = 0,
    /// RIP says what follows, and if there is a translation it may run.
    Chain = 1,
    /// Back to the loop.
    Leave = 2,
}

/// Executes an instruction by the interpreter's function.
///
/// # Safety
/// `cpu` is what translated code runs with, and its frame is filled in.
unsafe extern "sysv64" fn execute(cpu: *mut Cpu, call: Call) -> Then {
    // SAFETY: translated code has the only references, from `run_translated`, and does not use them now.
    let cpu = unsafe { &mut *cpu };
    if call.0 == Call::FLAGS_ONLY.0 {
        cpu.flags = LazyFlags::from_rflags(cpu.flags.status());
        return Then::Next;
    }
    // SAFETY: as above; the frame has its address.
    let bus = unsafe { &mut *core::ptr::with_exposed_provenance_mut::<Bus<'_>>(cpu.frame.bus) };
    let then = cpu.execute_for_translation(bus, call);
    if call.0 & Call::FLAGS != 0 {
        cpu.flags = LazyFlags::from_rflags(cpu.flags.status());
    }
    then
}

impl Cpu {
    fn execute_for_translation(&mut self, bus: &mut Bus<'_>, call: Call) -> Then {
        let micro = *bus.code.micro(call.bits(0, 20) as u32);
        let (place, count) = (call.bits(44, 7), call.bits(51, 7));
        let mask = if self.bits64() { u64::MAX } else { 0xffff_ffff };
        let page = self.frame.page;
        self.registers[BLOCK_RIP] = page.wrapping_add(call.bits(32, 12)) & mask;
        self.rip = page.wrapping_add(call.bits(20, 12)) & mask;
        // As if this block were not begun, until it ends.
        self.frame.left = self.frame.left.wrapping_add(count);
        self.count_translated();
        let flow = micro.handler()(self, bus, micro);
        match flow {
            Flow::Next
                if micro.handler != GENERAL || self.context().0 == self.frame.context as u8 =>
            {
                self.frame.left = self.frame.left.wrapping_sub(count);
                return Then::Next;
            }
            Flow::Next => self.rip = self.rip.wrapping_add(micro.length.into()) & mask,
            Flow::Leave | Flow::Exit => {}
            Flow::Raised => {
                self.frame.left = self.frame.left.wrapping_sub(place);
                self.frame.raised = 1;
                return Then::Leave;
            }
        }
        self.frame.left = self.frame.left.wrapping_sub(place + 1);
        self.count_translated();
        if self.slow == 0 && self.enter_context() {
            Then::Chain
        } else {
            Then::Leave
        }
    }

    /// Counts what translated code has executed.
    fn count_translated(&mut self) {
        let frame = &self.frame;
        let done = frame.budget.wrapping_sub(frame.left);
        self.instructions = frame.before.wrapping_add(done);
    }

    /// What translations could run.
    fn context(&self) -> Context {
        if self.data_checks != 0 {
            return Context::NONE;
        }
        let mode = self.mode as u8 + 1;
        match self.code_size {
            CodeSize::Bits64 => Context(mode | Context::LONG),
            CodeSize::Bits32 => {
                let cs = self.segment(SegmentRegister::Cs);
                let flat = [
                    SegmentRegister::Es,
                    SegmentRegister::Ss,
                    SegmentRegister::Ds,
                ]
                .iter()
                .all(|segment| self.flat & 1 << *segment as u8 != 0);
                let whole = cs.base == 0 && cs.limit == u32::MAX;
                if flat && whole && self.stack_mask == 0xffff_ffff {
                    Context(mode)
                } else {
                    Context::NONE
                }
            }
            CodeSize::Bits16 => Context::NONE,
        }
    }

    /// Tells translated code the context; false if none may run.
    fn enter_context(&mut self) -> bool {
        let context = self.context();
        if context == Context::NONE {
            return false;
        }
        if self.frame.context != u64::from(context.0) {
            let here = (&raw const *self).expose_provenance();
            let mode = context.mode();
            self.frame.context = context.0.into();
            self.frame.size = context.size() as u64 + 1;
            self.frame.hot = here + HOT + mode * layout::MODE;
            self.frame.frames = here + FRAMES + mode * layout::MODE_FRAMES;
        }
        true
    }

    /// Runs the translation of a block, if there is or should be one. The processor is at the
    /// block's beginning, and nothing waits.
    #[inline]
    pub(super) fn try_translated(
        &mut self,
        bus: &mut Bus<'_>,
        gpa: u64,
        block: &Block,
        left: u64,
    ) -> Option<Outcome> {
        if !bus.code.translates() || left < block.count.into() {
            return None;
        }
        if block.host < bus.code.translations().memory.warm {
            bus.code.set_host(gpa, self.code_size, block.host + 1);
            return None;
        }
        let context = self.context();
        if context == Context::NONE {
            return None;
        }
        let entry = block.translation(context);
        let entry = match entry {
            Some(entry) if bus.code.translations().link.site == 0 => entry,
            _ => bus.code.warm(gpa, block, context)?,
        };
        Some(self.run_translated(bus, entry, left))
    }

    /// Runs translations from one on.
    fn run_translated(&mut self, bus: &mut Bus<'_>, entry: u32, left: u64) -> Outcome {
        let translations = bus.code.translations();
        let memory = translations.memory;
        // The next lookup of the context must not trust what another run has left.
        self.frame.context = 0;
        self.enter_context();
        let (enter, code) = (
            memory.execute + translations.stubs.enter as usize,
            memory.execute + entry as usize,
        );
        self.frame.execute = memory.execute;
        self.frame.left = left;
        self.frame.budget = left;
        self.frame.before = self.instructions;
        self.frame.raised = 0;
        self.frame.floats = 0;
        self.frame.mxcsr = sse::DEFAULT.into();
        self.frame.page = self.rip & !0xfff;
        self.frame.signals = (&raw const *bus.signals.flag()).expose_provenance();
        self.frame.written = (&raw const *bus.marks.written_flag()).expose_provenance();
        self.frame.cache = (&raw const *bus.code).expose_provenance();
        self.frame.bus = (&raw mut *bus).cast::<u8>().expose_provenance();
        let enter = core::ptr::with_exposed_provenance::<u8>(enter);
        // SAFETY: `stubs` has written a function of this type there.
        let enter: unsafe extern "sysv64" fn(*mut Cpu, usize) -> u32 =
            unsafe { core::mem::transmute(enter) };
        // SAFETY: the frame is filled in, and `code` is where a translation begins.
        let site = unsafe { enter(self, code) };
        self.count_translated();
        bus.code.translations_mut().link = Link {
            site,
            context: self.frame.context as u8,
            target: self.frame.target,
        };
        if self.frame.raised != 0 {
            return Err(Raised);
        }
        Ok(())
    }
}

impl Block {
    /// Where its translation is in the code memory.
    #[inline]
    fn translation(&self, context: Context) -> Option<u32> {
        let found = self.host & 0xff == u32::from(context.0) && self.host > 0xff;
        found.then_some(self.host >> 8 << ALIGNMENT.trailing_zeros())
    }

    /// What [`Block::host`] is with a translation.
    const fn host(entry: u32, context: Context) -> u32 {
        (entry / ALIGNMENT) << 8 | context.0 as u32
    }
}

impl CodeCache {
    /// Lends it memory for host code: from now on blocks that run often are translated.
    pub fn lend(&mut self, memory: CodeMemory) {
        self.forget_all();
        let translations = self.translations_mut();
        if stubs::supported() {
            translations.memory = memory;
        }
    }

    /// Whether there are translations.
    #[inline]
    pub fn translates(&self) -> bool {
        self.translations().memory.length != 0
    }

    /// A block was found and is not translated, or another jump could go to it: its translation, if
    /// it has become warm enough.
    #[inline(never)]
    fn warm(&mut self, gpa: u64, block: &Block, context: Context) -> Option<u32> {
        let entry = match block.translation(context) {
            Some(entry) => entry,
            None => {
                if block.host > 0xff {
                    // It is another context's; if it comes back it has to warm up again.
                    self.set_host(gpa, context.size(), 0);
                    return None;
                }
                let entry = self.translate(gpa, block, context)?;
                self.set_host(gpa, context.size(), Block::host(entry, context));
                entry
            }
        };
        let translations = self.translations_mut();
        let link = core::mem::replace(
            &mut translations.link,
            Link {
                site: 0,
                context: 0,
                target: 0,
            },
        );
        if link.site != 0 && link.target == gpa && link.context == context.0 {
            translations.aim(link.site, entry);
        }
        Some(entry)
    }
}

impl Translations {
    /// Forgets all.
    pub(super) fn forget(&mut self) {
        self.link.site = 0;
        self.used = 0;
    }
}
