//! What microvm has where a PC has its chipset: ACPI's event device, a second I/O APIC, places for virtio devices in memory, each with
//! an interrupt of its own, and where it is asked for a PCI Express host bridge. Addresses and interrupts are those of QEMU's board.

use super::drives::{Owner, VirtioDisk};
use super::pci::place;
use super::ports::piece;
use super::{Board, Config, Context, DeviceError, Host, ID_MAX, Machine};
use crate::devices::Width;
use crate::devices::block::{DRIVES_MAX, DriveId};
use crate::devices::class::{DeviceClass, PropertyValues};
use crate::devices::ged::{self, Ged};
use crate::firmware::acpi::VirtioPlace;
use crate::irq::{IoApic, IrqLine, ioapic};
use crate::pci::{Gpex, gpex};
use crate::trace::events as trace;
use crate::virtio::block;
use crate::virtio::transport::mmio;

/// Places for virtio devices that the board has at most.
pub const TRANSPORTS_MAX: usize = 24;

/// Address of the first place; the others follow.
pub const VIRTIO_BASE: u64 = 0xfeb0_0000;
/// Places, and the interrupt of the first: on a second I/O APIC, on the inputs of the first that a PC gives to PCI, or among those of
/// ISA for guests that know of one controller alone.
const ON_SECOND: (u8, u8) = (TRANSPORTS_MAX as u8, ioapic::PINS as u8);
const ON_FIRST: (u8, u8) = (8, 16);
const WITHOUT_ACPI: (u8, u8) = (8, 5);

/// The interrupt of the event device.
const GED_LINE: IrqLine = super::board::line::SCI;

/// The buses' names begin so; a number follows.
pub const BUS_PREFIX: &str = "virtio-mmio-bus.";
/// The buses' type.
pub const BUS_TYPE: &str = "virtio-mmio-bus";
/// What devices ask for.
pub(super) const DEVICE_BUS: &str = "virtio-bus";

/// These devices; on another board none of them.
pub(super) struct Microvm {
    pub(super) ged: Option<Ged>,
    pub(super) ioapic2: Option<IoApic>,
    pub(super) gpex: Option<Gpex>,
    /// Places, and the interrupt of the first.
    transports: (u8, u8),
    legacy: bool,
    ioeventfd: bool,
    /// The disk at each place, by its index.
    places: [Option<u8>; TRANSPORTS_MAX],
}

/// What answers at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Configuration,
    GedEvents,
    GedRegisters,
    Virtio(u8),
}

impl Target {
    /// What QEMU calls it.
    const fn name(self) -> &'static str {
        match self {
            Self::Configuration => "pcie-mmcfg-mmio",
            Self::GedEvents => "acpi-ged",
            Self::GedRegisters => "acpi-ged-regs",
            Self::Virtio(_) => "virtio-mmio",
        }
    }

    /// The widest access that it takes whole.
    const fn widest(self) -> Width {
        match self {
            Self::GedRegisters => Width::Byte,
            Self::Configuration | Self::GedEvents | Self::Virtio(_) => Width::Dword,
        }
    }
}

impl Microvm {
    pub(super) fn new(config: &Config<'_>) -> Self {
        let is_it = config.board == Board::Microvm;
        let acpi = is_it && config.acpi;
        // The host's controllers know of one I/O APIC.
        let second = acpi && config.ioapic2 && config.irqchip.in_machine();
        Self {
            ged: acpi.then(|| Ged::new(GED_LINE)),
            ioapic2: second.then(IoApic::new),
            gpex: (acpi && config.pcie).then(Gpex::new),
            transports: match (is_it, acpi, second) {
                (false, ..) => (0, 0),
                (_, false, _) => WITHOUT_ACPI,
                (_, _, false) => ON_FIRST,
                _ => ON_SECOND,
            },
            legacy: config.virtio_mmio_legacy,
            ioeventfd: config.virtio_mmio_ioeventfd,
            places: [None; TRANSPORTS_MAX],
        }
    }

    /// Ranges that answer, ascending: the first address and the length.
    fn ranges(&self) -> impl Iterator<Item = (Target, u64, u64)> + use<> {
        let configuration = (Target::Configuration, gpex::ECAM, gpex::ECAM_LENGTH);
        let configuration = self.gpex.is_some().then_some(configuration);
        let ged = [
            (Target::GedEvents, ged::EVENTS, ged::EVENTS_LENGTH),
            (Target::GedRegisters, ged::REGISTERS, ged::REGISTERS_LENGTH),
        ];
        let ged = self.ged.is_some().then_some(ged);
        let virtio = (0..self.transports.0)
            .map(|place| (Target::Virtio(place), address_of(place), mmio::LENGTH));
        let ged = ged.into_iter().flatten();
        configuration.into_iter().chain(ged).chain(virtio)
    }

    /// What answers at an address, with the offset there.
    pub(super) fn target(&self, gpa: u64) -> Option<(Target, u64)> {
        let mut ranges = self.ranges();
        let (target, start, _) =
            ranges.find(|(_, start, size)| gpa.wrapping_sub(*start) < *size)?;
        Some((target, gpa - start))
    }

    /// The index of the disk at a place.
    pub(super) fn disk(&self, place: u8) -> Option<u8> {
        self.places.get(usize::from(place)).copied().flatten()
    }

    /// The part of an access of `length` bytes to `gpa` that comes next from `done` on: who takes it, the offset there, and where in
    /// the access it is.
    fn next(&self, gpa: u64, length: usize, done: usize) -> Option<(Target, u64, usize, Width)> {
        let from = gpa.checked_add(done as u64)?;
        let mut ranges = self.ranges();
        let (target, start, size) = ranges.find(|(_, start, size)| start + size > from)?;
        let first = start.max(from);
        let at = usize::try_from(first - gpa)
            .ok()
            .filter(|at| *at < length)?;
        let left = usize::try_from(start + size - first).ok()?;
        let offset = first - start;
        let width = piece(offset, left.min(length - at), target.widest());
        Some((target, offset, at, width))
    }
}

/// The disk at a place and its index, from fields of the machine that no context borrows.
macro_rules! disk_at {
    ($machine:expr, $place:expr) => {
        $machine.microvm.disk($place).and_then(|index| {
            let disk = $machine.buses.disks.get_mut(usize::from(index))?;
            Some((index, disk.as_mut()?.mmio_mut()?))
        })
    };
}

/// Where the registers of a place are.
const fn address_of(place: u8) -> u64 {
    VIRTIO_BASE + place as u64 * mmio::LENGTH
}

impl Machine<'_> {
    /// Whether there is a second I/O APIC.
    pub fn has_second_ioapic(&self) -> bool {
        self.microvm.ioapic2.is_some()
    }

    /// Whether there is a PCI Express host bridge.
    pub fn has_express(&self) -> bool {
        self.microvm.gpex.is_some()
    }

    /// The first of that bridge's interrupts, if there is one: inputs of the first I/O APIC that virtio devices leave.
    pub(super) fn express_irq(&self) -> Option<u8> {
        let irq = match self.has_second_ioapic() {
            true => 16,
            false => 12,
        };
        self.has_express().then_some(irq)
    }

    /// What nobody answers in the windows of the bus reads as ones.
    fn fill_windows(&self, gpa: u64, to: &mut [u8]) {
        if !self.has_express() {
            return;
        }
        for (at, byte) in (0..).zip(to) {
            let address = gpa.wrapping_add(at);
            if gpex::WINDOWS
                .iter()
                .any(|(first, last)| (*first..=*last).contains(&address))
            {
                *byte = 0xff;
            }
        }
    }

    /// Whether ACPI is the reduced one, with an event device.
    pub fn has_event_device(&self) -> bool {
        self.microvm.ged.is_some()
    }

    /// How many places for virtio devices in memory there are.
    pub fn virtio_transports(&self) -> u8 {
        self.microvm.transports.0
    }

    /// Whether their registers are those before virtio 1.0.
    pub fn has_legacy_virtio(&self) -> bool {
        self.microvm.legacy
    }

    /// Whether the host's kernel takes notifications of them.
    pub fn has_virtio_ioeventfd(&self) -> bool {
        self.microvm.ioeventfd
    }

    /// Address and interrupt of a place for a virtio device.
    pub fn virtio_place(&self, number: u8) -> VirtioPlace {
        VirtioPlace {
            number,
            address: address_of(number) as u32,
            irq: self.microvm.transports.1.saturating_add(number),
        }
    }

    /// The places that have devices, ascending.
    pub fn virtio_places(&self) -> impl Iterator<Item = VirtioPlace> {
        let places = (0..).zip(&self.microvm.places);
        let taken = places.filter(|(_, device)| device.is_some());
        taken.map(|(number, _)| self.virtio_place(number))
    }

    /// The place of the device that has a drive, if it is one of these.
    pub(crate) fn virtio_place_of(&self, drive: DriveId) -> Option<u8> {
        let is_it = |index: &u8| {
            let disk = self.buses.disks.get(usize::from(*index));
            let disk = disk.and_then(|disk| disk.as_ref()?.mmio());
            disk.is_some_and(|disk| disk.device().drive() == drive)
        };
        let mut places = self.microvm.places.iter();
        let place = places.position(|place| place.as_ref().is_some_and(is_it))?;
        Some(place as u8)
    }

    /// Visits ranges of addresses with their names, ascending.
    pub(super) fn visit_microvm(&self, visit: &mut dyn FnMut(u64, u64, &'static str)) {
        for (target, start, length) in self.microvm.ranges() {
            visit(start, start + (length - 1), target.name());
        }
    }

    /// The place of a bus of this name.
    pub(super) fn find_virtio_bus(&self, name: &str) -> Option<u8> {
        let number = name.strip_prefix(BUS_PREFIX)?;
        let mut places = 0..self.microvm.transports.0;
        places.find(|place| number.parse() == Ok(*place) && !number.starts_with('+'))
    }

    /// Plugs a virtio device into the bus of this name, or into the last one that is free, as QEMU chooses.
    pub(super) fn plug_virtio_mmio(
        &mut self,
        values: &PropertyValues,
        bus: Option<&str>,
    ) -> Result<DriveId, DeviceError> {
        let class = values.class();
        let is_free = |place: &u8| self.microvm.places[usize::from(*place)].is_none();
        let number = match bus {
            Some(name) => match self.find_virtio_bus(name) {
                Some(place) if is_free(&place) => place,
                Some(_) => return Err(DeviceError::BusFull(text(name))),
                None => return Err(self.wrong_bus(class.name, name)),
            },
            None => {
                let last = (0..self.microvm.transports.0).rev().find(is_free);
                last.ok_or(DeviceError::NoBus(class.name, DEVICE_BUS))?
            }
        };
        let drive = self.drives.vacant();
        let drive = drive.ok_or(DeviceError::TooMany(DRIVES_MAX))?;
        let line = IrqLine::new(self.virtio_place(number).irq);
        let disk = block::mmio(values, self.cpus.1, drive, self.microvm.legacy, line);
        let disk = disk.map_err(DeviceError::Property)?;
        let index = place(&mut self.buses.disks, VirtioDisk::Mmio(disk))?;
        self.microvm.places[usize::from(number)] = Some(index);
        self.drives.set_owner(drive, Some(Owner::VirtioBlk(index)));
        Ok(drive)
    }

    /// Why a device of another kind can't go on a bus of this name, if it is one of these.
    pub(super) fn no_virtio_device(&self, class: &DeviceClass, name: &str) -> Option<DeviceError> {
        self.find_virtio_bus(name)?;
        Some(DeviceError::WrongBus(class.name, BUS_TYPE))
    }

    /// Reads where no memory answers; gives whether any of these devices did.
    pub(super) fn microvm_read<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        gpa: u64,
        to: &mut [u8],
    ) -> bool {
        let mut done = 0;
        self.fill_windows(gpa, to);
        while let Some((target, offset, at, width)) = self.microvm.next(gpa, to.len(), done) {
            let microvm = &mut self.microvm;
            let value = match target {
                Target::Configuration => self.ecam_read(offset, width),
                Target::GedEvents => match &mut microvm.ged {
                    Some(ged) => ged.events_read(width),
                    None => 0,
                },
                // They can't be read.
                Target::GedRegisters => 0,
                Target::Virtio(place) => match disk_at!(self, place) {
                    Some((_, disk)) => disk.mmio_read(offset, width),
                    None => mmio::vacant_read(self.microvm.legacy, offset, width),
                },
            };
            let (address, name) = (gpa + at as u64, target.name().as_bytes());
            trace::memory_region_ops_read(address, value.into(), width.bytes(), name);
            done = at + width as usize;
            if let Some(bytes) = to.get_mut(at..done) {
                bytes.copy_from_slice(&value.to_le_bytes()[..width as usize]);
            }
            self.drain(host, now, None);
        }
        done > 0
    }

    /// Writes where no memory answers; gives whether any of these devices took it.
    pub(super) fn microvm_write<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        gpa: u64,
        from: &[u8],
    ) -> bool {
        let mut done = 0;
        while let Some((target, offset, at, width)) = self.microvm.next(gpa, from.len(), done) {
            done = at + width as usize;
            let bytes = from.get(at..done).unwrap_or(&[]).iter().rev();
            let value = bytes.fold(0, |value, byte| value << 8 | u32::from(*byte));
            let (address, name) = (gpa + at as u64, target.name().as_bytes());
            trace::memory_region_ops_write(address, value.into(), width.bytes(), name);
            let mut owner = None;
            match target {
                Target::Configuration => self.ecam_write(host, now, offset, width, value),
                // It takes no writes.
                Target::GedEvents => {}
                Target::GedRegisters => {
                    if let Some(ged) = &mut self.microvm.ged {
                        ged.write(context!(self, now), offset, value as u8);
                    }
                }
                Target::Virtio(place) => {
                    if let Some((index, disk)) = disk_at!(self, place) {
                        disk.mmio_write(context!(self, now), offset, width, value);
                        owner = Some(Owner::VirtioBlk(index));
                    }
                }
            }
            match owner {
                Some(owner) => self.pump(host, now, owner),
                None => self.drain(host, now, None),
            }
        }
        done > 0
    }

    pub(super) fn reset_microvm(&mut self, now: u64) {
        for disk in self.buses.disks.iter_mut().flatten() {
            if let Some(disk) = disk.mmio_mut() {
                disk.reset(context!(self, now));
            }
        }
        if let Some(ged) = &mut self.microvm.ged {
            ged.reset(context!(self, now));
        }
        if let Some(ioapic) = &mut self.microvm.ioapic2 {
            ioapic.reset(context!(self, now));
        }
    }
}

/// As much of a name as an error shows.
fn text(name: &str) -> heapless::String<ID_MAX> {
    let name = name.get(..name.floor_char_boundary(ID_MAX));
    name.unwrap_or_default().try_into().unwrap_or_default()
}
