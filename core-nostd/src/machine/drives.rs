//! Drives: which controller each belongs to, and the way of requests between controllers and the
//! host.
//!
//! A drive gets its number when its device is plugged in ([`super::Plugged::drive`]); the host then tells of
//! its medium. After each call to a controller the machine hands the host what the controller wants
//! done.

use super::{Board, DeviceError, Host, Machine, PciSlot};
use crate::devices::block::{
    BlockController, DRIVES_MAX, DriveId, Medium, Outcome, Segments, Tray,
};
use crate::devices::class::{PropertyValues, Value};
use crate::devices::{Context, ide};
use crate::trace::events as trace;
use crate::virtio::block::{VirtioBlkMmio, VirtioBlkPci, VirtioBlock};

/// Virtio disks that there are at most.
pub const VIRTIO_BLKS_MAX: usize = 8;

/// CMOS: the types of the first two disks, a nibble each; Fh for one that is told elsewhere.
const CMOS_DISK_TYPES: u8 = 0x12;
/// CMOS: how firmware is to translate cylinders, heads and sectors, two bits for each disk.
const CMOS_TRANSLATIONS: u8 = 0x39;
/// CMOS, of the first two disks: where the type is, where the geometry begins, and the nibble.
const CMOS_DISKS: [(u8, u8, u8); 2] = [(0x19, 0x1b, 0xf0), (0x1a, 0x24, 0x0f)];
/// CMOS: the type of a disk whose geometry is told.
const CMOS_DISK_KIND: u8 = 47;

/// Whose a drive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A virtio disk, by its index.
    VirtioBlk(u8),
    /// The IDE controller.
    Ide,
    /// The floppy disk controller.
    Floppy,
}

/// A virtio disk behind its transport.
#[expect(
    clippy::large_enum_variant,
    reason = "a pool has room for the largest, and there is no heap"
)]
pub(super) enum VirtioDisk {
    Pci(VirtioBlkPci),
    Mmio(VirtioBlkMmio),
}

impl VirtioDisk {
    fn controller(&mut self) -> &mut dyn BlockController {
        match self {
            Self::Pci(disk) => disk,
            Self::Mmio(disk) => disk,
        }
    }

    fn device(&self) -> &VirtioBlock {
        match self {
            Self::Pci(disk) => disk.device(),
            Self::Mmio(disk) => disk.device(),
        }
    }

    fn drive(&self) -> DriveId {
        self.device().drive()
    }

    /// One on PCI.
    pub(super) fn pci(&self) -> Option<&VirtioBlkPci> {
        match self {
            Self::Pci(disk) => Some(disk),
            Self::Mmio(_) => None,
        }
    }

    /// The same, to change it.
    pub(super) fn pci_mut(&mut self) -> Option<&mut VirtioBlkPci> {
        match self {
            Self::Pci(disk) => Some(disk),
            Self::Mmio(_) => None,
        }
    }

    /// One in memory.
    pub(super) fn mmio(&self) -> Option<&VirtioBlkMmio> {
        match self {
            Self::Pci(_) => None,
            Self::Mmio(disk) => Some(disk),
        }
    }

    /// The same, to change it.
    pub(super) fn mmio_mut(&mut self) -> Option<&mut VirtioBlkMmio> {
        match self {
            Self::Pci(_) => None,
            Self::Mmio(disk) => Some(disk),
        }
    }
}

/// All drives.
pub(super) struct Drives {
    owners: [Option<Owner>; DRIVES_MAX],
    /// Where controllers lay requests out.
    segments: Segments,
}

impl Drives {
    pub(super) const fn new() -> Self {
        Self {
            owners: [None; DRIVES_MAX],
            segments: Segments::new(),
        }
    }

    /// A number that no drive has.
    pub(super) fn vacant(&self) -> Option<DriveId> {
        let free = self.owners.iter().position(Option::is_none)?;
        Some(DriveId(free as u8))
    }

    /// A drive has an owner from now on, or has none any more.
    pub(super) fn set_owner(&mut self, drive: DriveId, owner: Option<Owner>) {
        if let Some(entry) = self.owners.get_mut(usize::from(drive.0)) {
            *entry = owner;
        }
    }

    pub(super) fn owner(&self, drive: DriveId) -> Option<Owner> {
        self.owners.get(usize::from(drive.0)).copied().flatten()
    }
}

/// The controller of an owner, from fields of the machine that no context borrows.
macro_rules! controller {
    ($machine:expr, $owner:expr) => {
        match $owner {
            Owner::VirtioBlk(index) => {
                let disks = &mut $machine.buses.disks;
                let disk = disks.get_mut(usize::from(index)).and_then(Option::as_mut);
                disk.map(VirtioDisk::controller)
            }
            Owner::Ide => Some(&mut $machine.ide as &mut dyn BlockController),
            Owner::Floppy => Some(&mut $machine.fdc as &mut dyn BlockController),
        }
    };
}

impl Machine<'_> {
    /// A request has ended. `bytes` are what was read for [`crate::devices::block::Data::Read`].
    pub fn block_done<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        drive: DriveId,
        tag: u32,
        outcome: Outcome,
        bytes: &[u8],
    ) {
        trace::block_done(drive.0, tag, outcome.is_ok());
        self.with_controller(host, now, drive, |controller, cx| {
            controller.request_done(cx, drive, tag, outcome, bytes);
        });
    }

    /// The medium of a drive is another one, has another size, or has gone. Told of the first one as
    /// soon as the device has been plugged in.
    pub fn medium_changed<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        drive: DriveId,
        medium: Option<Medium>,
    ) {
        let is_first = self
            .ide_disk(drive)
            .is_some_and(|disk| disk.medium().is_none());
        self.with_controller(host, now, drive, |controller, cx| {
            controller.medium_changed(cx, drive, medium);
        });
        if is_first {
            self.describe_disks();
        }
    }

    /// An IDE disk, if this drive is one.
    fn ide_disk(&self, drive: DriveId) -> Option<&ide::drive::Drive> {
        let disks = (0..4).filter_map(|number| self.ide.drive(number));
        let mut disks = disks.filter(|disk| !disk.is_cdrom());
        disks.find(|disk| disk.id() == drive)
    }

    /// Tells firmware of IDE disks' geometry in CMOS, as PCs have done since the AT.
    fn describe_disks(&mut self) {
        let mut types = 0;
        let mut translations = 0;
        for number in 0..4 {
            let disk = self.ide.drive(number).filter(|disk| !disk.is_cdrom());
            let Some(disk) = disk.filter(|disk| disk.medium().is_some()) else {
                continue;
            };
            translations |= disk.translation_code() << (2 * number);
            let (cylinders, heads, sectors) = disk.default_geometry();
            let Some((kind, at, nibble)) = CMOS_DISKS.get(usize::from(number)).copied() else {
                continue;
            };
            types |= nibble;
            let [low, high] = cylinders.to_le_bytes();
            // No write precompensation; a control byte that says if there are more than 8 heads.
            let control = 0xc0 | u8::from(heads > 8) << 3;
            let table = [low, high, heads, 0xff, 0xff, control, low, high, sectors];
            self.rtc.set_cmos(kind, CMOS_DISK_KIND);
            for (index, value) in (at..).zip(table) {
                self.rtc.set_cmos(index, value);
            }
        }
        self.rtc.set_cmos(CMOS_DISK_TYPES, types);
        self.rtc.set_cmos(CMOS_TRANSLATIONS, translations);
    }

    /// The tray of a drive, if it has one.
    pub fn tray(&mut self, drive: DriveId) -> Option<Tray> {
        let owner = self.drives.owner(drive)?;
        controller!(self, owner)?.tray(drive)
    }

    /// Somebody outside wants the medium of a drive back: the guest is told, as by a button.
    pub fn eject_requested<H: Host>(&mut self, host: &mut H, now: u64, drive: DriveId) {
        self.with_controller(host, now, drive, |controller, cx| {
            controller.eject_requested(cx, drive);
        });
    }

    /// The tray of a drive is moved from outside, locked or not.
    pub fn move_tray<H: Host>(&mut self, host: &mut H, now: u64, drive: DriveId, open: bool) {
        self.with_controller(host, now, drive, |controller, cx| {
            controller.move_tray(cx, drive, open);
        });
    }

    /// Hands out what a loaded state has under way. The host calls it when the guest goes on.
    pub fn resume_drives<H: Host>(&mut self, host: &mut H, now: u64) {
        for index in 0..DRIVES_MAX {
            if let Some(owner) = self.drives.owner(DriveId(index as u8)) {
                self.pump(host, now, owner);
            }
        }
    }

    fn with_controller<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        drive: DriveId,
        call: impl FnOnce(&mut dyn BlockController, &mut Context<'_>),
    ) {
        let Some(owner) = self.drives.owner(drive) else {
            return;
        };
        if let Some(controller) = controller!(self, owner) {
            call(controller, context!(self, now));
        }
        self.pump(host, now, owner);
    }

    /// Hands the host what a controller wants done, and lets its interrupt follow.
    pub(super) fn pump<H: Host>(&mut self, host: &mut H, now: u64, owner: Owner) {
        self.settle_owner(host, now, owner);
        while let Some(controller) = controller!(self, owner) {
            while let Some(drive) = controller.take_cancelled() {
                host.block_cancel(drive);
            }
            if let Some(drive) = controller.take_notified() {
                host.queue_notified(drive);
            }
            let segments = &mut self.drives.segments;
            let Some(request) = controller.next_request(context!(self, now), segments) else {
                break;
            };
            trace::block_request(request.drive.0, request.tag, request.offset, request.length);
            host.block(request);
            self.settle_owner(host, now, owner);
        }
        self.settle_owner(host, now, owner);
    }

    pub(super) fn settle_owner<H: Host>(&mut self, host: &mut H, now: u64, owner: Owner) {
        match owner {
            Owner::VirtioBlk(index) => self.drive_slot(PciSlot::VirtioBlk(index)),
            // Its interrupts are the board's own lines.
            Owner::Ide => {}
            Owner::Floppy => self.fdc.move_by_dma(context!(self, now), &mut self.dma),
        }
        self.drain(host, now, None);
    }

    /// What follows an access to the floppy disk controller, or to the DMA controller behind it.
    pub(super) fn pump_floppies<H: Host>(&mut self, host: &mut H, now: u64) {
        self.pump(host, now, Owner::Floppy);
    }

    /// What follows an access to a function: requests, if it is a controller of drives.
    pub(super) fn pump_slot<H: Host>(&mut self, host: &mut H, now: u64, slot: PciSlot) {
        match slot {
            PciSlot::VirtioBlk(index) => self.pump(host, now, Owner::VirtioBlk(index)),
            PciSlot::Ide => self.pump(host, now, Owner::Ide),
            _ => {}
        }
    }

    /// The drive of a function, if it is a disk.
    pub(super) fn drive_of(&self, function: usize) -> Option<DriveId> {
        match self.buses.functions.get(function)?.function {
            PciSlot::VirtioBlk(index) => {
                let disk = self.buses.disks.get(usize::from(index))?.as_ref()?;
                Some(disk.drive())
            }
            _ => None,
        }
    }

    /// Plugs an IDE drive into the bus of this name, or into one with a place for it.
    pub(super) fn plug_ide(
        &mut self,
        values: &PropertyValues,
        bus: Option<&str>,
    ) -> Result<DriveId, DeviceError> {
        let class = values.class();
        if self.board != Board::Pc {
            return Err(DeviceError::NoBus(class.name, "IDE"));
        }
        let is_free = |number: &u8| self.ide.drive(*number).is_none();
        let channel = match bus {
            Some(name) => match ide::BUSES.iter().position(|bus| *bus == name) {
                Some(channel) => channel as u8,
                None => return Err(self.wrong_bus(class.name, name)),
            },
            // As QEMU looks for a place: on the second channel first.
            None => {
                let mut channels = [1, 0].into_iter();
                let has_place = |channel: &u8| (0..2).any(|unit| is_free(&(2 * channel + unit)));
                channels.find(has_place).unwrap_or(1)
            }
        };
        let unit = match values.uint("unit") {
            Some(unit) if unit < 2 => unit as u8,
            Some(unit) if unit != u64::from(u32::MAX) => return Err(DeviceError::NoUnit(unit)),
            // As QEMU chooses: where there is a first one it is a second one.
            _ => u8::from(!is_free(&(2 * channel))),
        };
        let number = 2 * channel + unit;
        if !is_free(&number) {
            return Err(DeviceError::UnitTaken(unit));
        }
        let kind = match class.name == ide::drive::CD_CLASS.name {
            true => ide::drive::Kind::Cdrom,
            false => ide::drive::Kind::Disk,
        };
        let settings = ide::drive::Settings::new(kind, values, number);
        let settings = settings.map_err(DeviceError::Property)?;
        let id = self.drives.vacant();
        let id = id.ok_or(DeviceError::TooMany(DRIVES_MAX))?;
        self.ide.add(number, ide::drive::Drive::new(id, settings));
        self.drives.set_owner(id, Some(Owner::Ide));
        Ok(id)
    }

    /// What a property of a disk or a drive came to, where its device has settled that.
    pub(crate) fn disk_value(&self, drive: DriveId, name: &str) -> Option<Value> {
        match self.drives.owner(drive)? {
            Owner::VirtioBlk(index) => {
                let disk = self.buses.disks.get(usize::from(index))?.as_ref()?;
                disk.device().settled(name)
            }
            Owner::Ide => {
                let mut drives = (0..4).filter_map(|number| self.ide.drive(number));
                drives.find(|ide| ide.id() == drive)?.settled(name)
            }
            Owner::Floppy => None,
        }
    }

    /// The IDE channel that a device, by its position in [`Machine::plugged`], is on.
    pub(crate) fn ide_channel(&self, position: usize) -> Option<u8> {
        let drive = self.plugged.get(position)?.drive()?;
        self.ide_number(drive).map(|number| number / 2)
    }

    /// The number of an IDE drive among the four.
    pub(super) fn ide_number(&self, drive: DriveId) -> Option<u8> {
        (0..4).find(|number| self.ide.drive(*number).is_some_and(|d| d.id() == drive))
    }

    /// Why a device can't go on a bus of this name.
    pub(super) fn wrong_bus(&self, class: &'static str, name: &str) -> DeviceError {
        if self.find_pci_bus(name).is_some() {
            return DeviceError::WrongBus(class, "PCI");
        }
        if name == "isa.0" {
            return DeviceError::WrongBus(class, "ISA");
        }
        if self.find_virtio_bus(name).is_some() {
            return DeviceError::WrongBus(class, super::BUS_TYPE);
        }
        let name = &name[..name.floor_char_boundary(super::ID_MAX)];
        DeviceError::BusNotFound(name.try_into().unwrap_or_default())
    }

    /// A function that was a controller of drives is no more; what it had under way is dropped.
    pub(super) fn forget_drives<H: Host>(&mut self, host: &mut H, now: u64, function: usize) {
        let Some(drive) = self.drive_of(function) else {
            return;
        };
        if let Some(owner) = self.drives.owner(drive) {
            self.pump(host, now, owner);
        }
        self.drives.set_owner(drive, None);
    }
}
