//! Drives, the media in them, and the block nodes that these are.

use core::fmt;

use crate::QmpError;
use crate::schema::BlockdevChangeReadOnlyMode;
use crate::schema::arguments::{BlockIOThrottle, BlockLatencyHistogramSet, BlockdevOptions};
use crate::schema::results::{BlockDeviceInfo, BlockInfo, BlockStats};

/// How a command names a drive. Both are as the client wrote them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriveName<'a> {
    /// By its own name.
    Drive(&'a [u8]),
    /// By the id of its device, or that one's path in the object tree.
    Device(&'a [u8]),
}

/// Another medium for a drive.
#[derive(Clone, Copy, Debug)]
pub struct NewMedium<'a> {
    /// The image.
    pub filename: &'a [u8],
    /// Its format, if it is told.
    pub format: Option<&'a [u8]>,
    /// Whether it takes writes.
    pub read_only: BlockdevChangeReadOnlyMode,
    /// The guest's lock of the tray does not count.
    pub force: bool,
}

/// Why a command of [`Blocks::storage_command`] says nothing.
// There is no heap to box an error.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub enum Unheard {
    /// It is refused.
    Refused(QmpError),
    /// What it says does not fit.
    Full,
}

impl From<QmpError> for Unheard {
    fn from(error: QmpError) -> Self {
        Self::Refused(error)
    }
}

impl From<fmt::Error> for Unheard {
    fn from(_: fmt::Error) -> Self {
        Self::Full
    }
}

/// What commands ask about drives and block nodes. Errors are in QEMU's words.
pub trait Blocks {
    /// Opens an image as a node.
    fn blockdev_add(&mut self, options: &BlockdevOptions<'_>) -> Result<(), QmpError>;

    /// Closes a node that nobody uses.
    fn blockdev_del(&mut self, node: &[u8]) -> Result<(), QmpError>;

    /// Changes the options of nodes.
    fn blockdev_reopen<'m>(
        &mut self,
        options: &mut dyn Iterator<Item = BlockdevOptions<'m>>,
    ) -> Result<(), QmpError>;

    /// Tells of all nodes, the newest first; unless `flat`, each with the images below it.
    fn visit_block_nodes(&self, flat: bool, visit: &mut dyn FnMut(&BlockDeviceInfo<'_>));

    /// Tells of all drives.
    fn visit_drives(&self, visit: &mut dyn FnMut(&BlockInfo<'_>));

    /// Tells what all drives have done, or all nodes.
    fn visit_block_stats(&self, nodes: bool, visit: &mut dyn FnMut(&BlockStats<'_>));

    /// Lets a write beyond an offset be told of.
    fn set_write_threshold(&mut self, node: &[u8], threshold: u64) -> Result<(), QmpError>;

    /// Takes a medium out.
    fn eject(&mut self, drive: DriveName<'_>, force: bool) -> Result<(), QmpError>;

    /// Opens a tray.
    fn open_tray(&mut self, drive: DriveName<'_>, force: bool) -> Result<(), QmpError>;

    /// Closes a tray.
    fn close_tray(&mut self, drive: DriveName<'_>) -> Result<(), QmpError>;

    /// Takes the medium out of an open tray.
    fn remove_medium(&mut self, drive: DriveName<'_>) -> Result<(), QmpError>;

    /// Puts a node into an open tray.
    fn insert_medium(&mut self, drive: DriveName<'_>, node: &[u8]) -> Result<(), QmpError>;

    /// Puts another medium in place of the one that is there.
    fn change_medium(
        &mut self,
        drive: DriveName<'_>,
        medium: NewMedium<'_>,
    ) -> Result<(), QmpError>;

    /// Changes an image's length; one of the names is that of the drive or the node.
    fn block_resize(
        &mut self,
        drive: Option<&[u8]>,
        node: Option<&[u8]>,
        size: i64,
    ) -> Result<(), QmpError>;

    /// Sets how fast a drive may be.
    fn set_drive_throttle(
        &mut self,
        drive: DriveName<'_>,
        limits: &BlockIOThrottle<'_>,
    ) -> Result<(), QmpError>;

    /// Counts requests by how long they take.
    fn set_latency_histogram(
        &mut self,
        arguments: &BlockLatencyHistogramSet<'_>,
    ) -> Result<(), QmpError>;

    /// Makes a drive of what an option `-drive` says, without a device.
    fn drive_add(&mut self, options: &[u8]) -> Result<(), QmpError>;

    /// Opens an image as a node, of what an option `-blockdev` says.
    fn node_add(&mut self, options: &[u8]) -> Result<(), QmpError>;

    /// Takes a drive away, and its medium from its device, if it has one; or closes a node.
    fn drive_del(&mut self, name: &[u8]) -> Result<(), QmpError>;

    /// Reads or writes a drive, or the node of this name, by a command of QEMU's program `qemu-io`. What
    /// it shows goes to the process' standard output, what keeps it from its work into `say`.
    fn storage_command(
        &mut self,
        drive: DriveName<'_>,
        words: &[u8],
        say: &mut dyn fmt::Write,
    ) -> Result<(), Unheard>;
}
