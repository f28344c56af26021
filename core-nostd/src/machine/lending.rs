//! Queues of virtio disks, lent to threads of the host.
//!
//! The host decides when queues are lent: while processors run, and never when the machine is saved or
//! reset. It asks for a disk's by [`Machine::lend_disk`], and gives them back by [`Machine::take_back`]
//! before any call that may reach the disk. Of a processor's accesses those are told by
//! [`Machine::port_reaches_lent`] and [`Machine::memory_reaches_lent`].

use super::drives::Owner;
use super::{Host, Machine, PciSlot, Port};
use crate::devices::block::{DriveId, Outcome, Request, Segments};
use crate::devices::{Context, Width};
use crate::irq::{MSI_BASE, MSI_END, Msi};
use crate::memory::{Backing, GuestRam};
use crate::virtio::QUEUES_MAX;
use crate::virtio::block::{VirtioBlkPci, VirtioBlock};
use crate::virtio::transport::Doorbell;

/// A disk's queues, with what it takes to serve them and to interrupt the driver.
#[derive(Clone, Debug)]
pub struct Lent {
    disk: VirtioBlock,
    /// What each queue's interrupts are; none if they go by way of the machine.
    messages: [Option<Msi>; QUEUES_MAX],
}

impl Lent {
    /// Whose they are.
    pub fn drive(&self) -> DriveId {
        self.disk.drive()
    }

    /// Whether there may be something to do.
    pub fn poll(&mut self, ram: &dyn GuestRam) -> bool {
        self.disk.poll(ram)
    }

    /// Says whether the driver need not notify: who has the queues looks by [`Lent::poll`].
    pub fn hush(&mut self, ram: &dyn GuestRam, is_quiet: bool) {
        self.disk.hush(ram, is_quiet);
    }

    /// The next request, with its pieces of guest memory in `segments`.
    pub fn next_request<'a>(
        &mut self,
        ram: &dyn GuestRam,
        segments: &'a mut Segments,
    ) -> Option<Request<'a>> {
        self.disk.next_request(ram, segments)
    }

    /// A request has ended.
    pub fn request_done(&mut self, ram: &dyn GuestRam, tag: u32, outcome: Outcome) {
        self.disk.request_done(ram, tag, outcome);
    }

    /// Sends the interrupts that are due, and says whether there are others: the queues are given back
    /// for those.
    pub fn interrupt(&mut self, mut send: impl FnMut(Msi)) -> bool {
        let messages = self.messages;
        let message = |queue: u16| messages.get(usize::from(queue)).copied().flatten();
        while let Some(queue) = self.disk.take_interrupt(|queue| message(queue).is_some()) {
            if let Some(message) = message(queue) {
                send(message);
            }
        }
        self.disk.wants_machine()
    }
}

impl Machine<'_> {
    /// Whether a drive's queues can be lent at all.
    pub fn is_lendable(&self, drive: DriveId) -> bool {
        match self.drives.owner(drive) {
            Some(Owner::VirtioBlk(index)) => self.pci_disk(index).is_some(),
            _ => false,
        }
    }

    /// A virtio disk on PCI, by its index.
    fn pci_disk(&self, index: u8) -> Option<&VirtioBlkPci> {
        let disk = self.buses.disks.get(usize::from(index));
        disk.and_then(|disk| disk.as_ref()?.pci())
    }

    /// Lends the queues of a disk, if it has any, a driver drives it, and nobody has them.
    pub fn lend_disk(&mut self, drive: DriveId) -> Option<Lent> {
        let Owner::VirtioBlk(index) = self.drives.owner(drive)? else {
            return None;
        };
        // Messages to anywhere else are writes to memory.
        let in_machine = !self.apics.is_empty();
        let disk = self.buses.disks.get_mut(usize::from(index))?;
        let function = disk.as_mut()?.pci_mut()?;
        let disk = function.lend()?;
        let messages = core::array::from_fn(|queue| {
            let message = function.message(queue as u16)?;
            let is_interrupt = (MSI_BASE..MSI_END).contains(&message.address);
            (is_interrupt && !in_machine).then_some(message)
        });
        Some(Lent { disk, messages })
    }

    /// Goes on with the queues that [`Machine::lend_disk`] has lent.
    pub fn take_back<H: Host>(&mut self, host: &mut H, now: u64, lent: &Lent) {
        let Some(owner @ Owner::VirtioBlk(index)) = self.drives.owner(lent.drive()) else {
            return;
        };
        let ram = self.ram;
        let disk = self.buses.disks.get_mut(usize::from(index));
        if let Some(function) = disk.and_then(|disk| disk.as_mut()?.pci_mut()) {
            let cx = context!(self, now);
            function.with_device(cx, |disk, _| disk.take_back(ram, &lent.disk));
        }
        // Requests that nobody has taken are still to be lent.
        self.settle_owner(host, now, owner);
    }

    /// Whether an access to `width` bytes at a port is for a disk whose queues are lent, other than to
    /// notify it.
    pub fn port_reaches_lent(&self, port: u16, width: Width, is_write: bool) -> bool {
        (0..width as u16).any(|byte| {
            let Some((device, offset)) = self.decoded.find(port.wrapping_add(byte)) else {
                return false;
            };
            match device {
                // Of any function.
                Port::PciData => true,
                Port::Function { claim, .. } => {
                    let claim = self.buses.ports.get(usize::from(claim));
                    claim.is_some_and(|claim| {
                        let at = u64::from(claim.offset.wrapping_add(offset));
                        self.reaches_lent(claim.function, claim.bar, at, is_write)
                    })
                }
                _ => false,
            }
        })
    }

    /// The same of `length` bytes of memory, at most 8.
    pub fn memory_reaches_lent(&self, gpa: u64, length: usize, is_write: bool) -> bool {
        (0..length.min(8) as u64).any(|byte| {
            let found = self.buses.memory.find(gpa.wrapping_add(byte));
            found.is_some_and(|(claim, offset)| {
                let at = claim.offset.wrapping_add(offset);
                self.reaches_lent(claim.function, claim.bar, at, is_write)
            })
        })
    }

    fn reaches_lent(&self, function: u8, bar: u8, offset: u64, is_write: bool) -> bool {
        let placed = self.buses.functions.get(function.into());
        let Some(PciSlot::VirtioBlk(index)) = placed.map(|placed| placed.function) else {
            return false;
        };
        self.pci_disk(index).is_some_and(|disk| {
            disk.device().is_lent() && !(is_write && disk.is_doorbell(bar.into(), offset))
        })
    }

    /// Shows where the driver of a drive notifies it. Nothing where it can't.
    pub fn visit_doorbells(&self, drive: DriveId, visit: &mut dyn FnMut(Doorbell)) {
        let Some(Owner::VirtioBlk(index)) = self.drives.owner(drive) else {
            return;
        };
        let Some(disk) = self.pci_disk(index) else {
            return;
        };
        let is_it = |function: u8| {
            let placed = self.buses.functions.get(function.into());
            placed.is_some_and(|placed| placed.function == PciSlot::VirtioBlk(index))
        };
        disk.visit_doorbells(&mut |doorbell| {
            let reaches = match doorbell {
                Doorbell::Port { port, .. } => match self.decoded.find(port) {
                    Some((Port::Function { claim, .. }, _)) => {
                        let claim = self.buses.ports.get(usize::from(claim));
                        claim.is_some_and(|claim| is_it(claim.function))
                    }
                    _ => false,
                },
                Doorbell::Memory(gpa) => {
                    let claim = self.buses.memory.find(gpa);
                    let is_bus = self.map.find(gpa);
                    is_bus.is_none_or(|region| region.read == Backing::Bus)
                        && claim.is_some_and(|(claim, _)| is_it(claim.function))
                }
            };
            if reaches {
                visit(doorbell);
            }
        });
    }
}
