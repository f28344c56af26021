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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::soft::Stop;
    use crate::cpu::soft::testing::{Guest, Told};
    use std::vec::Vec;

    const fn delivery(cause: Cause, vector: u8) -> Delivery {
        Delivery {
            cause,
            vector,
            error_code: None,
            cr2: 0,
        }
    }

    #[test]
    fn everything_in_its_order() {
        let mut guest = Guest::new();
        guest.cpu.set_watch(Watch::all());
        // Vectors 40h and 6.
        guest.put(0x100, &[0, 0x20, 0, 0]);
        guest.put(0x18, &[0, 0x30, 0, 0]);
        // mov al, 1; int 40h; ud2. Handlers: iret; hlt.
        guest.put(0x1000, &[0xb0, 1, 0xcd, 0x40, 0x0f, 0x0b]);
        guest.put(0x2000, &[0xcf]);
        guest.put(0x3000, &[0xf4]);
        assert_eq!(guest.run(100), Stop::Idle);
        let told = [
            Told::Decoded(0x1000, [0xb0, 1, 0xcd, 0x40].into()),
            Told::Entered(0x1000),
            Told::Delivered(delivery(Cause::Software, 0x40), 0x1002),
            Told::Decoded(0x2000, [0xcf].into()),
            Told::Entered(0x2000),
            Told::Decoded(0x1004, [0x0f, 0x0b].into()),
            Told::Entered(0x1004),
            Told::Delivered(delivery(Cause::Exception, 6), 0x1004),
            Told::Decoded(0x3000, [0xf4].into()),
            Told::Entered(0x3000),
        ];
        assert_eq!(guest.board.told, told);
    }

    #[test]
    fn only_what_is_watched_and_through_resets() {
        for (watch, count) in [
            (Watch::empty(), 0),
            (Watch::DECODED, 1),
            (Watch::ENTERED, 3),
        ] {
            let mut guest = Guest::long();
            guest.cpu.set_watch(watch);
            guest.change(|state| state.rip = 0x1000);
            // mov [rip+1000h], al; jmp to its start: a store does not end a block.
            guest.put(0x1000, &[0x88, 0x05, 0, 0x10, 0, 0, 0xeb, 0xf8]);
            assert_eq!(guest.run(6), Stop::Budget);
            assert_eq!(guest.board.told.len(), count, "{watch:?}");
            assert_eq!(guest.state().rip, 0x1000);
            assert_eq!(guest.cpu.instructions(), 6);
        }
    }

    #[test]
    fn what_is_not_kept_is_told_of_each_time() {
        let mut guest = Guest::long();
        guest.cpu.set_watch(Watch::DECODED);
        // mov ax, 1234h, in two pages.
        let code = [0x66, 0xb8, 0x34, 0x12];
        guest.put(0x1ffd, &code);
        for _ in 0..2 {
            guest.change(|state| state.rip = 0x1ffd);
            guest.run(1);
        }
        let told = Told::Decoded(0x1ffd, code.into());
        assert_eq!(guest.board.told, [told.clone(), told]);
    }

    #[test]
    fn an_interrupt_is_no_exception_whatever_its_vector() {
        let mut guest = Guest::protected();
        guest.cpu.set_watch(Watch::DELIVERED);
        guest.change(|state| {
            state.rflags |= 1 << 9;
            state.idtr.limit = 0;
        });
        guest.board.interrupts.push_back(8);
        guest.signals.raise();
        assert_eq!(guest.execute(&[0xf4], 100), Stop::Shutdown);
        let told: Vec<_> = guest
            .board
            .told
            .iter()
            .map(|told| match told {
                Told::Delivered(delivery, _) => {
                    (delivery.cause, delivery.vector, delivery.error_code)
                }
                _ => panic!("not watched"),
            })
            .collect();
        // #GP names the gate and says that the event came from outside.
        let expected = [
            (Cause::Hardware, 8, None),
            (Cause::Exception, 13, Some(8 << 3 | 3)),
            (Cause::Exception, 8, Some(0)),
        ];
        assert_eq!(told, expected);
    }
}
