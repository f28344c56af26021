//! A disk's queues in the hands of another thread.
//!
//! [`VirtioBlock::lend`] makes a copy that serves the queues, with guest memory and nothing else of the
//! machine; until [`VirtioBlock::take_back`] the disk itself leaves them alone. Registers are still the
//! disk's own: before the guest reaches one that has to do with queues, or interrupts go where only the
//! machine can let them go, the copy is taken back.
//!
//! Whoever has the copy may look for buffers without being notified ([`VirtioBlock::hush`]).

use super::VirtioBlock;
use crate::devices::block::{DriveId, Outcome, Request, Segments};
use crate::memory::GuestRam;
use crate::virtio::ISR_QUEUE;
use crate::virtio::status::DRIVER_OK;

impl VirtioBlock {
    /// Hands the queues out, if a driver drives the disk.
    pub fn lend(&mut self) -> Option<Self> {
        let driven = self.common.status() & DRIVER_OK != 0 && self.common.works();
        if self.is_lent || self.cancelled || !driven {
            return None;
        }
        let copy = self.clone();
        self.is_lent = true;
        // The copy has them.
        self.kicked = 0;
        Some(copy)
    }

    /// Whether somebody has the queues.
    pub fn is_lent(&self) -> bool {
        self.is_lent
    }

    /// Goes on with what the queues have become, as [`VirtioBlock::lend`] gave them. What was notified
    /// meanwhile is looked at.
    pub fn take_back(&mut self, ram: &dyn GuestRam, copy: &Self) {
        if !self.is_lent || copy.drive != self.drive {
            return;
        }
        let kicked = self.kicked;
        *self = copy.clone();
        self.hush(ram, false);
        self.kicked |= kicked;
    }

    /// Whether there may be buffers, or requests to be handed out again.
    pub fn poll(&mut self, ram: &dyn GuestRam) -> bool {
        if !self.common.works() {
            return false;
        }
        for (index, queue) in (0..).zip(self.common.queues()) {
            // What is wrong with it shows when it is taken from.
            if !matches!(queue.ring.is_empty(ram), Ok(true)) {
                self.kicked |= 1 << index;
            }
        }
        self.kicked != 0 || self.again != 0
    }

    /// Says whether the driver need not notify, because queues are looked at by [`VirtioBlock::poll`].
    pub fn hush(&mut self, ram: &dyn GuestRam, is_quiet: bool) {
        let features = self.common.features();
        for index in 0..self.common.queues().len() as u16 {
            let Some(queue) = self.common.queue_mut(index) else {
                return;
            };
            let ring = &mut queue.ring;
            if ring.is_quiet() == is_quiet {
                continue;
            }
            let hushed = ring.hush(ram, features, is_quiet);
            let waits = hushed.and_then(|()| match is_quiet {
                true => Ok(true),
                // A buffer may have come just before.
                false => ring.wait(ram, features).and_then(|()| ring.is_empty(ram)),
            });
            match waits {
                Ok(true) => {}
                Ok(false) => self.kicked |= 1 << index,
                Err(error) => self.common.fail(error),
            }
        }
    }

    /// The next request, as [`crate::devices::block::BlockController::next_request`].
    pub fn next_request<'a>(
        &mut self,
        ram: &dyn GuestRam,
        segments: &'a mut Segments,
    ) -> Option<Request<'a>> {
        self.next(ram, segments)
    }

    /// A request has ended, as [`crate::devices::block::BlockController::request_done`].
    pub fn request_done(&mut self, ram: &dyn GuestRam, tag: u32, outcome: Outcome) {
        self.done(ram, tag, outcome);
    }

    /// Takes a queue whose driver is to be interrupted, if `can` says that it can be without the
    /// machine. The ISR status shows it from now on.
    pub fn take_interrupt(&mut self, can: impl Fn(u16) -> bool) -> Option<u16> {
        let common = &mut self.common;
        let raised = |index: &u16| common.raised >> index & 1 != 0 && can(*index);
        let index = (0..common.queues.len() as u16).find(raised)?;
        common.raised &= !(1 << index);
        common.state.isr |= ISR_QUEUE;
        Some(index)
    }

    /// Whether the driver is to be told something that takes the machine.
    pub fn wants_machine(&self) -> bool {
        self.common.raised != 0 || self.common.config_raised
    }

    /// Somebody is to look at queues that he has.
    pub(super) fn take_notified(&mut self) -> Option<DriveId> {
        let is_notified = self.is_lent && self.kicked != 0;
        if is_notified {
            self.kicked = 0;
        }
        is_notified.then_some(self.drive)
    }
}
