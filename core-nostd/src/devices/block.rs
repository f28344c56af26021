//! What disk controllers ask of the process' block layer, and what they hear from it.
//!
//! A controller never waits: it hands out [`Request`]s, and hears of the end of each by
//! [`BlockController::request_done`], in any order. It bounds how many it has under way, so the
//! block layer takes every one. A request names the guest memory that it moves; only what passes through a
//! controller's own buffer (programmed I/O, ATAPI replies) travels as bytes.
//!
//! What happens to a request that fails is the block layer's to say (`werror`, `rerror`): one that
//! stops the machine stays with the block layer, which tries it again when the machine goes on,
//! and the controller hears nothing of it. What is under way belongs to the controller's saved
//! state: after loading it hands it all out again.

use super::Context;

/// Drives that a machine has at most.
pub const DRIVES_MAX: usize = 32;

/// Bytes of a sector, the unit of ATA, ATAPI's emulated disks and virtio-blk.
pub const SECTOR: u64 = 512;

/// One attachment of a controller to the block layer: a disk, or a drive for media.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DriveId(pub u8);

/// A piece of guest memory. Whether there is RAM is for the block layer to check: what is not RAM
/// fails the request with [`Failure::Memory`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Guest physical address.
    pub gpa: u64,
    /// Bytes.
    pub length: u32,
}

/// Pieces of guest memory that one request names at most.
pub const SEGMENTS_MAX: usize = 1024;

/// Pieces of guest memory: room that a controller is lent to lay a request out in.
pub type Segments = heapless::Vec<Segment, SEGMENTS_MAX>;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Read `length` bytes.
    Read,
    /// Write `length` bytes.
    Write {
        /// They are on stable storage before the request ends.
        force_unit_access: bool,
    },
    /// What was written by requests that have ended is on stable storage before this one ends.
    Flush,
    /// The contents of the range are no longer needed.
    Discard,
    /// The range reads as zeros from now on.
    WriteZeroes {
        /// Its storage may be given up.
        may_unmap: bool,
    },
}

/// Where the bytes of a request come from or go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data<'a> {
    /// There are none: flush, discard, write zeros.
    None,
    /// Guest memory, piece by piece; their lengths add up to the request's.
    Guest(&'a [Segment]),
    /// What is to be written, from the controller's own buffer.
    Write(&'a [u8]),
    /// What is read is wanted with the end of the request, for the controller's own buffer.
    Read,
}

/// A request of a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Whose it is.
    pub drive: DriveId,
    /// The controller's name for it, unique among the drive's requests under way.
    pub tag: u32,
    /// What is to be done.
    pub operation: Operation,
    /// The first byte on the drive.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Their place on the guest's side.
    pub data: Data<'a>,
}

/// Why a request has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The storage could not do it.
    Io,
    /// The storage is full.
    NoSpace,
    /// There is no medium.
    NoMedium,
    /// The drive takes no writes.
    ReadOnly,
    /// The range is not wholly on the drive, or not made of whole blocks.
    Range,
    /// Guest memory that the request names is not RAM.
    Memory,
    /// The storage knows no such operation.
    Unsupported,
}

/// How a request has ended.
pub type Outcome = Result<(), Failure>;

/// A medium that is in a drive: what a controller shows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Medium {
    /// Its size in bytes, whole sectors; the block layer rounds a file's up.
    pub bytes: u64,
    /// Whether it takes no writes.
    pub read_only: bool,
    /// Whether writes end before they are on stable storage, so that the guest has to flush.
    pub write_cache: bool,
}

/// A drive's tray, for those that have one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tray {
    /// It is open.
    pub open: bool,
    /// The guest keeps it from being opened.
    pub locked: bool,
}

/// A controller of drives. `drive` is always one of its own.
pub trait BlockController {
    /// The next request that has not been handed out. Asked after each call to the controller
    /// until there is none. `segments` is room for its pieces of guest memory, of any content: one
    /// such table serves all controllers, since a request is laid out only when it is handed out.
    fn next_request<'a>(
        &'a mut self,
        cx: &mut Context<'_>,
        segments: &'a mut Segments,
    ) -> Option<Request<'a>>;

    /// A drive whose requests under way the controller has given up, as a reset does. Asked before
    /// [`BlockController::next_request`] until there is none. The end of such a request, should it
    /// still come, is no news to the controller.
    fn take_cancelled(&mut self) -> Option<DriveId>;

    /// A drive whose queues are lent to somebody who is to look at them: the driver says that there is
    /// something. Asked before [`BlockController::next_request`].
    fn take_notified(&mut self) -> Option<DriveId> {
        None
    }

    /// A request has ended. `bytes` are what was read for [`Data::Read`], as many as were asked for
    /// unless it failed, and else empty.
    fn request_done(
        &mut self,
        cx: &mut Context<'_>,
        drive: DriveId,
        tag: u32,
        outcome: Outcome,
        bytes: &[u8],
    );

    /// The medium is another one, has another size, or has gone.
    fn medium_changed(&mut self, cx: &mut Context<'_>, drive: DriveId, medium: Option<Medium>);

    /// The tray, for drives that have one.
    fn tray(&self, drive: DriveId) -> Option<Tray> {
        let _ = drive;
        None
    }

    /// Somebody outside wants the medium back: the guest sees it as a press on the eject button.
    fn eject_requested(&mut self, cx: &mut Context<'_>, drive: DriveId) {
        let _ = (cx, drive);
    }

    /// The tray is moved from outside, locked or not.
    fn move_tray(&mut self, cx: &mut Context<'_>, drive: DriveId, open: bool) {
        let _ = (cx, drive, open);
    }
}
