//! What a log of the processor is made from: blocks that are decoded and entered, and deliveries.
//!
//! A processor tells its [`Platform`](super::Platform) of these once [`Cpu::set_watch`] has asked for them,
//! and pays nothing before: decoding and deliveries are rare, and a processor whose blocks are watched
//! stops between all of them.

use bitflags::bitflags;

use super::code::BLOCK_MAX;
use super::exception::{Arrival, Source};
use super::{Bus, Cpu, Outcome, slow};
use crate::cpu::Registers;
use crate::cpu::decode::{Instruction, LENGTH_MAX, SegmentRegister};

/// Bytes of a page.
const PAGE: u64 = 4096;

bitflags! {
    /// What a processor tells its platform of.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Watch: u8 {
        /// Code that is decoded: [`Platform::decoded`](super::Platform::decoded).
        const DECODED = 1 << 0;
        /// Blocks that are entered: [`Platform::entered`](super::Platform::entered). Slows down a lot.
        const ENTERED = 1 << 1;
        /// Deliveries: [`Platform::delivered`](super::Platform::delivered).
        const DELIVERED = 1 << 2;
    }
}

/// Why something is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// An exception that the processor raises; INT1, too, which is one in all but its length.
    Exception,
    /// An interrupt from a controller, or the NMI.
    Hardware,
    /// INT n, INT3 or INTO.
    Software,
}

/// An interrupt or exception that a processor is about to deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Why.
    pub cause: Cause,
    /// The vector.
    pub vector: u8,
    /// The error code of exceptions that have one.
    pub error_code: Option<u32>,
    /// CR2, which a page fault has set.
    pub cr2: u64,
}

impl Cpu {
    /// Sets what the platform is told of from now on. It stays through resets.
    pub fn set_watch(&mut self, watch: Watch) {
        self.watched = watch;
        self.changed_waiting();
    }

    fn registers(&self) -> Registers {
        let mut gpr = [0; 16];
        gpr.copy_from_slice(&self.registers[..16]);
        Registers {
            gpr,
            rip: self.rip,
            rflags: self.rflags(),
            segments: self.segments,
            paging: self.mmu.registers().paging,
        }
    }

    /// Runs what comes next while [`slow`] gives a reason to be careful: one instruction, or a block
    /// if only that it is watched is the reason.
    #[cold]
    pub(super) fn run_slowly(&mut self, bus: &mut Bus<'_>, left: u64) -> Outcome {
        if self.slow & slow::WATCHED == 0 {
            return self.step(bus);
        }
        let (linear, _) = self.code_address()?;
        let gpa = match self.mmu.fetch_address(bus, linear, self.mode) {
            Ok(gpa) => gpa,
            Err(fault) => return Err(self.access_fault(fault, SegmentRegister::Cs)),
        };
        let careful = self.slow != slow::WATCHED;
        if !careful && bus.code.find(gpa, self.code_size).is_none() {
            // It is listed first.
            self.decode_block(bus, gpa);
        }
        let registers = self.registers();
        bus.platform.entered(linear, &registers);
        if careful {
            self.step(bus)
        } else {
            self.run_block(bus, left)
        }
    }

    /// Tells of the block at RIP, which is at this guest physical address and within a page.
    pub(super) fn tell_decoded(&mut self, bus: &mut Bus<'_>, gpa: u64, length: usize) {
        let mut bytes = [0; BLOCK_MAX * LENGTH_MAX];
        if let Some(bytes) = bytes.get_mut(..length)
            && let Ok((linear, _)) = self.code_address()
        {
            bus.platform.read(gpa, bytes);
            bus.platform.decoded(linear, bytes, self.code_size);
        }
    }

    /// Tells of an instruction at RIP that was fetched by itself, unless it begins a block that is
    /// known.
    pub(super) fn tell_fetched(&mut self, bus: &mut Bus<'_>, instruction: &Instruction) {
        let Ok((linear, _)) = self.code_address() else {
            return;
        };
        let known = self
            .mmu
            .fetch_address(bus, linear, self.mode)
            .is_ok_and(|gpa| bus.code.find(gpa, self.code_size).is_some());
        if known {
            return;
        }
        let mut bytes = [0; LENGTH_MAX];
        let (mut rest, mut at) = (&mut bytes[..instruction.length().into()], linear);
        while !rest.is_empty() {
            let in_page = rest.len().min((PAGE - at % PAGE) as usize);
            let (piece, further) = rest.split_at_mut(in_page);
            // It has just been fetched: nothing has changed in between.
            if self.mmu.fetch(bus, at, self.mode, piece).is_err() {
                return;
            }
            at = at.wrapping_add(in_page as u64);
            rest = further;
        }
        let length = usize::from(instruction.length());
        bus.platform
            .decoded(linear, &bytes[..length], self.code_size);
    }

    /// Tells of what is about to be delivered.
    #[cold]
    pub(super) fn tell_delivered(&mut self, bus: &mut Bus<'_>, event: &Arrival) {
        let delivery = Delivery {
            cause: match event.source {
                Source::Exception => Cause::Exception,
                Source::Interrupt => Cause::Hardware,
                Source::Software | Source::SoftwareByNumber => Cause::Software,
            },
            vector: event.vector,
            error_code: event.error,
            cr2: self.cr2,
        };
        let registers = self.registers();
        bus.platform.delivered(&delivery, &registers);
    }
}
