//! The loop: blocks of instructions, and what is looked at between them.
//!
//! Source for the order of what is looked at: Intel SDM volume 3, table 6-2 "Priority Among
//! Concurrent Events".

use super::code::{BLOCK_MAX, Block};
use super::execute::ends_block;
use super::micro::Flow;
use super::{BLOCK_RIP, Bus, Cpu, Exception, Outcome, Raised, SHADOW_SS, Watch, slow};
use crate::cpu::Activity;
use crate::cpu::decode::{CodeSize, DecodeError, Instruction, LENGTH_MAX, SegmentRegister, decode};
use crate::trace::events as trace;
use x86_64::registers::rflags::RFlags;

/// Bytes of a page.
const PAGE: u64 = 4096;
/// Bytes of code that are read at a time: those of most blocks.
const READ_AHEAD: usize = 64;

/// Why [`Cpu::run`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// As many instructions as asked for were executed.
    Budget,
    /// [`Attention::leave`](super::Attention::leave) was seen.
    Leave,
    /// HLT, or the processor waits for its start: nothing to do before [`Signals`](super::Signals)
    /// are raised.
    Idle,
    /// A triple fault: the processor has shut down, and only a reset or INIT helps.
    Shutdown,
    /// What a debugger asked for by [`Cpu::set_debugger`]: [`Cpu::take_hit`] tells.
    Debug,
}

impl Cpu {
    /// Runs at most so many instructions, and as many that raise an exception instead of being
    /// executed, which may be all of them. With [counted time](Bus::count_time) both are one number.
    pub fn run(&mut self, bus: &mut Bus<'_>, instructions: u64) -> Stop {
        let end = self.spent(bus).wrapping_add(instructions);
        let mut exceptions = instructions;
        let mut again = false;
        if self.marks_seen != bus.code.marked() {
            // Another processor has decoded code that this one could store to unnoticed.
            self.marks_seen = bus.code.marked();
            self.mmu.tlb().forget_host();
        }
        loop {
            if bus.code_written() {
                bus.code.forget_written(bus.marks);
            }
            if self.slow | u32::from(bus.signals.raised()) != 0
                && let Some(stop) = self.look_around(bus)
            {
                return stop;
            }
            let left = end.wrapping_sub(self.spent(bus));
            if left == 0 {
                return Stop::Budget;
            }
            let outcome = if self.slow | u32::from(again) == 0 {
                bus.begin_block();
                self.run_block(bus, left)
            } else {
                self.run_carefully(bus, left, again)
            };
            again = false;
            if outcome.is_ok() {
                self.progressed();
            } else {
                self.untouched();
                if bus.counts() && self.raised.is_none() {
                    again = true;
                    continue;
                }
                self.faults = self.faults.wrapping_add(1);
                bus.settle(self.time());
                if self.deliver_raised(bus).is_err() {
                    return Stop::Shutdown;
                }
                // A handler that raises one itself at its first instruction never executes any.
                let Some(left) = exceptions.checked_sub(1) else {
                    return Stop::Budget;
                };
                exceptions = left;
            }
        }
    }

    /// What counts against the budget.
    fn spent(&self, bus: &Bus<'_>) -> u64 {
        if bus.counts() {
            self.time()
        } else {
            self.instructions
        }
    }

    /// Runs what there is reason to be careful with: one instruction that is begun `again`, as it asks
    /// for something that depends on time, or as [`slow`] says.
    #[cold]
    fn run_carefully(&mut self, bus: &mut Bus<'_>, left: u64, again: bool) -> Outcome {
        if again {
            bus.settle(self.time());
            return self.step(bus);
        }
        if self.slow == slow::WATCHED {
            bus.begin_block();
        } else {
            bus.settle(self.time());
        }
        self.run_slowly(bus, left)
    }

    /// The instruction asks for something that depends on time, and must be begun again if it is not
    /// known how far the processor is.
    #[inline]
    pub(super) fn exactly(&mut self, bus: &Bus<'_>) -> Outcome {
        if bus.exact() {
            Ok(())
        } else {
            Err(self.later())
        }
    }

    /// Gives the instruction up, to be begun again by itself.
    #[cold]
    pub(super) fn later(&mut self) -> Raised {
        self.raised = None;
        Raised
    }

    /// Does what waits; comes back with `slow` only for what concerns the next instruction.
    #[cold]
    fn look_around(&mut self, bus: &mut Bus<'_>) -> Option<Stop> {
        bus.settle(self.time());
        let due = self.slow & slow::DEBUGGER != 0 && self.debugger_is_due();
        let mut leave = false;
        if bus.signals.take() {
            loop {
                let attention = bus.platform.attend();
                self.interrupt_waits = attention.interrupt;
                let Some(event) = attention.event else {
                    self.changed_waiting();
                    leave = attention.leave;
                    break;
                };
                self.event(bus, event);
            }
        }
        if leave && !due {
            return Some(Stop::Leave);
        }
        if self.events.triple_fault {
            return Some(Stop::Shutdown);
        }
        if self.activity == Activity::SipiReceived {
            self.start();
        }
        if self.events.under_way() && self.resume_delivery(bus).is_err() {
            return Some(Stop::Shutdown);
        }
        // Traps of the instruction before; MOV SS holds them back.
        if self.debug_trap != 0 && self.events.shadow & SHADOW_SS == 0 {
            let bits = self.take_debug_trap();
            let _ = self.raise(Exception::Debug(bits));
            if self.deliver_raised(bus).is_err() {
                return Some(Stop::Shutdown);
            }
        }
        if due {
            return Some(Stop::Debug);
        }
        if self.events.shadow == 0
            && !self.steps_over_interrupts()
            && self.take_interrupts(bus).is_err()
        {
            return Some(Stop::Shutdown);
        }
        if self.activity != Activity::Running {
            return Some(Stop::Idle);
        }
        if self.slow & slow::DEBUGGER != 0 && (self.debugger_is_due() || self.debugger_breaks()) {
            // The step was the delivery of an interrupt, or the processor is where it is to stop.
            return Some(Stop::Debug);
        }
        None
    }

    /// Runs one instruction from its bytes, with all that is looked at for each one.
    pub(super) fn step(&mut self, bus: &mut Bus<'_>) -> Outcome {
        if self.slow & slow::BREAKPOINTS != 0 {
            self.check_breakpoints()?;
        }
        if self.slow & slow::RESUME != 0 {
            // Where it is to stay, the instruction sets it again.
            self.system_flags &= !RFlags::RESUME_FLAG.bits();
            self.slow &= !slow::RESUME;
        }
        let shadow = core::mem::take(&mut self.events.shadow);
        let trap = self.slow & slow::TRAP != 0;
        if shadow != 0 {
            self.changed_waiting();
        }
        let instruction = self.fetch(bus)?;
        if self.watched.contains(Watch::DECODED) {
            self.tell_fetched(bus, &instruction);
        }
        self.execute_at(bus, &instruction)?;
        if trap {
            self.single_stepped(&instruction);
        }
        if shadow != 0 {
            self.changed_waiting();
        }
        Ok(())
    }

    /// Executes an instruction that lies at RIP.
    fn execute_at(&mut self, bus: &mut Bus<'_>, instruction: &Instruction) -> Outcome {
        self.next_rip = self.behind(instruction.length());
        self.execute(bus, instruction)?;
        self.rip = self.next_rip;
        self.instructions = self.instructions.wrapping_add(1);
        Ok(())
    }

    /// The linear address of code, and how many bytes of it CS allows from there on.
    pub(super) fn code_address(&mut self) -> Outcome<(u64, u64)> {
        if self.bits64() {
            if !self.canonical(self.rip) {
                return self.protection();
            }
            return Ok((self.rip, LENGTH_MAX as u64));
        }
        let cs = self.segment(SegmentRegister::Cs);
        let (base, limit) = (cs.base, u64::from(cs.limit));
        if self.rip > limit {
            return self.protection();
        }
        let linear = base.wrapping_add(self.rip) & 0xffff_ffff;
        Ok((linear, limit - self.rip + 1))
    }

    /// Fetches and decodes the instruction at RIP.
    pub(super) fn fetch(&mut self, bus: &mut Bus<'_>) -> Outcome<Instruction> {
        let (linear, allowed) = self.code_address()?;
        let most = allowed.min(LENGTH_MAX as u64) as usize;
        let in_page = most.min((PAGE - linear % PAGE) as usize);
        let mut bytes = [0; LENGTH_MAX];
        let mut known = 0;
        for end in [in_page, most] {
            let at = linear.wrapping_add(known as u64);
            let to = &mut bytes[known..end];
            if !to.is_empty()
                && let Err(fault) = self.mmu.fetch(bus, at, self.mode, to)
            {
                return Err(self.access_fault(fault, SegmentRegister::Cs));
            }
            known = end;
            match decode(&bytes[..known], self.code_size) {
                Ok(instruction) => match self.admit(instruction) {
                    Some(instruction) => return Ok(instruction),
                    None => return self.undefined(),
                },
                Err(DecodeError::NeedMore) => {}
                Err(DecodeError::Undefined) => return self.undefined(),
                Err(DecodeError::TooLong) => return self.protection(),
            }
        }
        // It passes the limit of CS.
        self.protection()
    }

    /// Runs the block at RIP, or one instruction where there can't be one, and those that follow it
    /// within the page.
    pub(super) fn run_block(&mut self, bus: &mut Bus<'_>, mut left: u64) -> Outcome {
        let (linear, mut allowed) = self.code_address()?;
        let gpa = match self.mmu.fetch_address(bus, linear, self.mode) {
            Ok(gpa) => gpa,
            Err(fault) => return Err(self.access_fault(fault, SegmentRegister::Cs)),
        };
        let size = self.code_size;
        let (page, rip_page) = (gpa & !(PAGE - 1), self.rip.wrapping_sub(linear % PAGE));
        loop {
            let into = self.rip.wrapping_sub(rip_page);
            let block = match bus.code.find(page | into, size) {
                Some(block) => block,
                None => match self.decode_block(bus, page | into) {
                    Some(block) => block,
                    None => return self.step(bus),
                },
            };
            if size != CodeSize::Bits64 && u64::from(block.length) > allowed {
                return self.step(bus);
            }
            let count = left.min(block.count.into()) as u16;
            if let Some(outcome) = self.try_translated(bus, page | into, &block, left) {
                return outcome;
            }
            self.registers[BLOCK_RIP] = self.rip;
            let mut rip = self.rip;
            let mut flow = Flow::Next;
            let mut done = 0;
            while done < count {
                let micro = bus.code.micro(block.first + u32::from(done));
                // Apart from the copy, which is handed on as two words then.
                let (handler, length) = (micro.handler(), micro.length);
                self.rip = rip;
                flow = handler(self, bus, *micro);
                if flow != Flow::Next {
                    break;
                }
                done += 1;
                rip = rip.wrapping_add(length.into());
            }
            match flow {
                Flow::Next if size == CodeSize::Bits64 => self.rip = rip,
                Flow::Next => self.rip = rip & 0xffff_ffff,
                Flow::Leave | Flow::Exit => done += 1,
                Flow::Raised => {
                    self.instructions = self.instructions.wrapping_add(done.into());
                    return Err(Raised);
                }
            }
            self.instructions = self.instructions.wrapping_add(done.into());
            left -= u64::from(done);
            let into = self.rip.wrapping_sub(rip_page);
            if left == 0
                || into >= PAGE
                || self.slow | u32::from(bus.signals.raised()) != 0
                || bus.code_written()
                || flow == Flow::Exit
            {
                return Ok(());
            }
            if size != CodeSize::Bits64 {
                let limit = u64::from(self.segment(SegmentRegister::Cs).limit);
                let Some(further) = limit.checked_sub(self.rip) else {
                    return Ok(());
                };
                allowed = further + 1;
            }
        }
    }

    /// Decodes the block at a guest physical address, up to its page's end. `None` where there is no
    /// memory to keep it for, or its first instruction is in two pages or is none.
    #[cold]
    pub(super) fn decode_block(&mut self, bus: &mut Bus<'_>, gpa: u64) -> Option<Block> {
        let memory = bus.platform.page(gpa & !(PAGE - 1));
        memory.pointer?;
        if bus.code.mark(bus.marks, gpa) {
            // Own stores are noticed from now on, too; the others' when their turn comes.
            self.mmu.tlb().forget_writes(gpa & !(PAGE - 1));
            self.marks_seen = bus.code.marked();
        }
        let mut instructions = heapless::Vec::<Instruction, BLOCK_MAX>::new();
        let in_page = (PAGE - gpa % PAGE) as usize;
        // Bytes from `start` to `end` of the block are at hand.
        let mut bytes = [0; READ_AHEAD];
        let (mut start, mut end) = (0, 0);
        let mut length = 0;
        while length < in_page {
            if end < in_page && end - length < LENGTH_MAX {
                (start, end) = (length, in_page.min(length + READ_AHEAD));
                bus.platform
                    .read(gpa + length as u64, &mut bytes[..end - start]);
            }
            let most = LENGTH_MAX.min(end - length);
            let decoded = decode(&bytes[length - start..][..most], self.code_size).ok();
            let Some(instruction) = decoded.and_then(|instruction| self.admit(instruction)) else {
                break;
            };
            if instructions.push(instruction).is_err() {
                break;
            }
            length += usize::from(instruction.length());
            if ends_block(instruction.operation()) {
                break;
            }
        }
        if instructions.is_empty() {
            return None;
        }
        trace::translate_block(gpa, length);
        if self.watched.contains(Watch::DECODED) {
            self.tell_decoded(bus, gpa, length);
        }
        Some(bus.code.insert(gpa, self.code_size, &instructions))
    }
}
