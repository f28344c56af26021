//! Drives: which controller each belongs to, and the way of requests between controllers and the
//! host.
//!
//! A drive gets its number when its device is plugged in ([`super::Plugged::drive`]); the host then tells of
//! its medium. After each call to a controller the machine hands the host what the controller wants
//! done.

use super::{Host, Machine, PciSlot};
use crate::devices::Context;
use crate::devices::block::{
    BlockController, DRIVES_MAX, DriveId, Medium, Outcome, Segments, Tray,
};
use crate::trace::events as trace;

/// Virtio disks on PCI that there are at most.
pub const VIRTIO_BLKS_MAX: usize = 8;

/// Whose a drive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A virtio disk on PCI, by its index.
    VirtioBlk(u8),
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
    pub(super) fn free(&self) -> Option<DriveId> {
        let free = self.owners.iter().position(Option::is_none)?;
        Some(DriveId(free as u8))
    }

    /// A drive has an owner from now on, or has none any more.
    pub(super) fn set_owner(&mut self, drive: DriveId, owner: Option<Owner>) {
        if let Some(entry) = self.owners.get_mut(usize::from(drive.0)) {
            *entry = owner;
        }
    }

    fn owner(&self, drive: DriveId) -> Option<Owner> {
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
                disk.map(|disk| disk as &mut dyn BlockController)
            }
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
        self.with_controller(host, now, drive, |controller, cx| {
            controller.medium_changed(cx, drive, medium);
        });
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
    fn pump<H: Host>(&mut self, host: &mut H, now: u64, owner: Owner) {
        self.settle_owner(host, now, owner);
        while let Some(controller) = controller!(self, owner) {
            while let Some(drive) = controller.take_cancelled() {
                host.block_cancel(drive);
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

    fn settle_owner<H: Host>(&mut self, host: &mut H, now: u64, owner: Owner) {
        match owner {
            Owner::VirtioBlk(index) => self.drive_slot(PciSlot::VirtioBlk(index)),
        }
        self.drain(host, now, None);
    }

    /// What follows an access to a function: requests, if it is a controller of drives.
    pub(super) fn pump_slot<H: Host>(&mut self, host: &mut H, now: u64, slot: PciSlot) {
        if let PciSlot::VirtioBlk(index) = slot {
            self.pump(host, now, Owner::VirtioBlk(index));
        }
    }

    /// The drive of a function, if it is a disk.
    pub(super) fn drive_of(&self, function: usize) -> Option<DriveId> {
        match self.buses.functions.get(function)?.function {
            PciSlot::VirtioBlk(index) => {
                let disk = self.buses.disks.get(usize::from(index))?.as_ref()?;
                Some(disk.device().drive())
            }
            _ => None,
        }
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
