//! Queues of virtio disks, lent to threads of the host.
//!
//! The host decides when queues are lent: while processors run, and never when the machine is saved or
//! reset. It asks for a disk's by [`Machine::lend_disk`], and gives them back by [`Machine::take_back`]
//! before any call that may reach the disk. Of a processor's accesses those are told by
//! [`Machine::port_reaches_lent`] and [`Machine::memory_reaches_lent`].

use super::drives::{Owner, VirtioDisk};
use super::microvm::Target;
use super::{Host, Machine, PciSlot, Port};
use crate::devices::block::{DriveId, Outcome, Request, Segments};
use crate::devices::{Context, Width};
use crate::irq::{MSI_BASE, MSI_END, Msi};
use crate::memory::{Backing, GuestRam};
use crate::virtio::QUEUES_MAX;
use crate::virtio::block::VirtioBlock;
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

impl VirtioDisk {
    fn lend(&mut self) -> Option<VirtioBlock> {
        match self {
            Self::Pci(disk) => disk.lend(),
            Self::Mmio(disk) => disk.lend(),
        }
    }

    /// The message by which a queue's interrupts go, if they go by one.
    fn message(&self, queue: u16) -> Option<Msi> {
        self.pci()?.message(queue)
    }

    fn take_back(&mut self, cx: &mut Context<'_>, copy: &VirtioBlock) {
        let ram = cx.ram;
        match self {
            Self::Pci(disk) => disk.with_device(cx, |disk, _| disk.take_back(ram, copy)),
            Self::Mmio(disk) => disk.with_device(cx, |disk, _| disk.take_back(ram, copy)),
        }
    }
}

impl Machine<'_> {
    /// Whether a drive's queues can be lent at all.
    pub fn is_lendable(&self, drive: DriveId) -> bool {
        matches!(self.drives.owner(drive), Some(Owner::VirtioBlk(_)))
    }

    fn virtio_disk(&self, index: u8) -> Option<&VirtioDisk> {
        self.buses.disks.get(usize::from(index))?.as_ref()
    }

    /// Lends the queues of a disk, if it has any, a driver drives it, and nobody has them.
    pub fn lend_disk(&mut self, drive: DriveId) -> Option<Lent> {
        let Owner::VirtioBlk(index) = self.drives.owner(drive)? else {
            return None;
        };
        // Messages to anywhere else are writes to memory.
        let in_machine = !self.apics.is_empty();
        let lender = self.buses.disks.get_mut(usize::from(index))?.as_mut()?;
        let disk = lender.lend()?;
        let messages = core::array::from_fn(|queue| {
            let message = lender.message(queue as u16)?;
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
        let disk = self.buses.disks.get_mut(usize::from(index));
        if let Some(disk) = disk.and_then(Option::as_mut) {
            disk.take_back(context!(self, now), &lent.disk);
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
            let at = gpa.wrapping_add(byte);
            if let Some((claim, offset)) = self.buses.memory.find(at) {
                let at = claim.offset.wrapping_add(offset);
                return self.reaches_lent(claim.function, claim.bar, at, is_write);
            }
            match self.microvm.target(at) {
                // Of any function.
                Some((Target::Configuration, _)) => true,
                Some((Target::Virtio(place), offset)) => {
                    let index = self.microvm.disk(place);
                    let disk = index.and_then(|index| self.virtio_disk(index)?.mmio());
                    disk.is_some_and(|disk| {
                        disk.device().is_lent() && !(is_write && disk.is_doorbell(offset))
                    })
                }
                _ => false,
            }
        })
    }

    fn reaches_lent(&self, function: u8, bar: u8, offset: u64, is_write: bool) -> bool {
        let placed = self.buses.functions.get(function.into());
        let Some(PciSlot::VirtioBlk(index)) = placed.map(|placed| placed.function) else {
            return false;
        };
        let disk = self.virtio_disk(index).and_then(VirtioDisk::pci);
        disk.is_some_and(|disk| {
            disk.device().is_lent() && !(is_write && disk.is_doorbell(bar.into(), offset))
        })
    }

    /// Shows where the driver of a drive notifies it. Nothing where it can't.
    pub fn visit_doorbells(&self, drive: DriveId, visit: &mut dyn FnMut(Doorbell)) {
        let Some(Owner::VirtioBlk(index)) = self.drives.owner(drive) else {
            return;
        };
        let is_it = |function: u8| {
            let placed = self.buses.functions.get(function.into());
            placed.is_some_and(|placed| placed.function == PciSlot::VirtioBlk(index))
        };
        let is_bus = |gpa: u64| {
            let region = self.map.find(gpa);
            region.is_none_or(|region| region.read == Backing::Bus)
        };
        match self.virtio_disk(index) {
            Some(VirtioDisk::Pci(disk)) => disk.visit_doorbells(&mut |doorbell| {
                let reaches = match doorbell {
                    Doorbell::Port { port, .. } => match self.decoded.find(port) {
                        Some((Port::Function { claim, .. }, _)) => {
                            let claim = self.buses.ports.get(usize::from(claim));
                            claim.is_some_and(|claim| is_it(claim.function))
                        }
                        _ => false,
                    },
                    Doorbell::Memory(gpa) | Doorbell::Register { gpa, .. } => {
                        let claim = self.buses.memory.find(gpa);
                        is_bus(gpa) && claim.is_some_and(|(claim, _)| is_it(claim.function))
                    }
                };
                if reaches {
                    visit(doorbell);
                }
            }),
            Some(VirtioDisk::Mmio(disk)) => {
                // The board's addresses are taken by nothing else.
                if let Some(place) = self.virtio_place_of(drive) {
                    disk.visit_doorbells(self.virtio_place(place).address.into(), visit);
                }
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Recorder, machine_without};
    use super::super::{Board, Irqchip};
    use super::*;
    use crate::devices::block::Medium;
    use crate::devices::class::PropertyValues;
    use crate::irq::IrqLine;
    use crate::pci::gpex;
    use crate::virtio::block::{MMIO_CLASS, PCI_CLASS};

    /// Registers of a disk in memory.
    const QUEUE_NUM: u64 = 0x38;
    const QUEUE_PFN: u64 = 0x40;
    const QUEUE_NOTIFY: u64 = 0x50;
    const INTERRUPT_STATUS: u64 = 0x60;
    const INTERRUPT_ACK: u64 = 0x64;
    const STATUS: u64 = 0x70;

    /// Where the driver has its rings, and a request's header, data and status.
    const RINGS: u64 = 0x1_0000;
    const HEADER: u64 = 0x2_0000;

    fn write(machine: &mut Machine<'_>, host: &mut Recorder, gpa: u64, value: u32) {
        machine.physical_write(host, 0, gpa, &value.to_le_bytes());
    }

    fn read(machine: &mut Machine<'_>, host: &mut Recorder, gpa: u64) -> u32 {
        let mut bytes = [0; 4];
        machine.physical_read(host, 0, gpa, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// A machine with a disk on its express bus and one in memory, of which this gives the first address and the drive.
    fn with_disks(host: &mut Recorder) -> (Machine<'static>, u64, DriveId) {
        let mut machine = machine_without(Board::Microvm, Irqchip::Machine, |config| {
            (config.pcie, config.acpi) = (true, true);
        });
        machine.plug(&PropertyValues::new(&PCI_CLASS)).unwrap();
        machine.plug(&PropertyValues::new(&MMIO_CLASS)).unwrap();
        let drive = machine.plugged().last().unwrap().drive().unwrap();
        let medium = Medium {
            bytes: 1 << 20,
            read_only: false,
            write_cache: true,
        };
        machine.medium_changed(host, 0, drive, Some(medium));
        let place = machine.virtio_places().next().unwrap();
        (machine, place.address.into(), drive)
    }

    /// Does what a driver does, with a queue of 8 and one request in it, of which it has not told.
    fn drive_it(machine: &mut Machine<'_>, host: &mut Recorder, base: u64) {
        for (register, value) in [
            (0x28, 0x1000),
            (QUEUE_NUM, 8),
            (QUEUE_PFN, (RINGS >> 12) as u32),
            (STATUS, 7),
        ] {
            write(machine, host, base + register, value);
        }
        // Reads the first sector: header, data, status.
        let pieces = [(0, 16, 1), (0x1000, 512, 3), (0x2000, 1, 2)];
        for (index, (at, length, flags)) in (0..).zip(pieces) {
            let descriptor = RINGS + 16 * index;
            for (offset, value) in [
                (0, (HEADER + at) as u32),
                (8, length),
                (12, flags | (index as u32 + 1) << 16),
            ] {
                write(machine, host, descriptor + offset, value);
            }
        }
        // The available ring: no flags, one buffer, which is the first.
        write(machine, host, RINGS + 128, 1 << 16);
    }

    #[test]
    fn a_disk_in_memory_is_lent_and_interrupts_by_the_machine() {
        let mut host = Recorder::default();
        let (mut machine, base, drive) = with_disks(&mut host);
        assert!(machine.is_lendable(drive));
        assert!(machine.lend_disk(drive).is_none(), "no driver drives it");
        drive_it(&mut machine, &mut host, base);
        let mut lent = machine.lend_disk(drive).unwrap();
        let mut doorbells = std::vec::Vec::new();
        machine.visit_doorbells(drive, &mut |doorbell| doorbells.push(doorbell));
        let gpa = base + QUEUE_NOTIFY;
        assert_eq!(doorbells, [Doorbell::Register { gpa, queue: 0 }]);
        let ram = machine.ram;
        assert!(lent.poll(ram));
        let tag = lent.next_request(ram, &mut Segments::new()).unwrap().tag;
        lent.request_done(ram, tag, Ok(()));
        assert!(lent.interrupt(|_| panic!("it has no messages")));
        machine.take_back(&mut host, 0, &lent);
        assert_eq!(read(&mut machine, &mut host, base + INTERRUPT_STATUS), 1);
        let line = IrqLine::new(machine.virtio_places().next().unwrap().irq);
        assert!(machine.lines.level(line));
        write(&mut machine, &mut host, base + INTERRUPT_ACK, 1);
        assert!(!machine.lines.level(line));
        // A request of the driver is heard by whoever has the queues.
        let lent = machine.lend_disk(drive).unwrap();
        write(&mut machine, &mut host, gpa, 0);
        machine.take_back(&mut host, 0, &lent);
        write(&mut machine, &mut host, base + STATUS, 0);
        assert!(machine.lend_disk(drive).is_none(), "it was reset");
    }

    #[test]
    fn accesses_that_reach_lent_queues_are_told() {
        let mut host = Recorder::default();
        let (mut machine, base, drive) = with_disks(&mut host);
        drive_it(&mut machine, &mut host, base);
        let reaches = |machine: &Machine<'_>, gpa: u64, is_write: bool| {
            machine.memory_reaches_lent(gpa, 4, is_write)
        };
        assert!(!reaches(&machine, base + INTERRUPT_STATUS, false));
        let _lent = machine.lend_disk(drive).unwrap();
        assert!(reaches(&machine, base + INTERRUPT_STATUS, false));
        assert!(reaches(&machine, base + STATUS, true));
        // To notify it is what the other one is to hear, and a read is not.
        assert!(!reaches(&machine, base + QUEUE_NOTIFY, true));
        assert!(reaches(&machine, base + QUEUE_NOTIFY, false));
        // An access that begins before it ends in it.
        assert!(reaches(&machine, base + QUEUE_NOTIFY - 2, true));
        // Any function's configuration, neighbours, RAM.
        assert!(reaches(&machine, gpex::ECAM + 4, true));
        assert!(!reaches(&machine, base - 0x200, true));
        assert!(!reaches(&machine, RINGS, true));
    }
}
