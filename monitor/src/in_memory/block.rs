//! Drives of an owner without a process: there are none, as there are no files.

use core::fmt;

use thimble_core::machine::Host;

use crate::error::ErrorClass;
use crate::owner::block::{Blocks, DriveName, NewMedium, Unheard};
use crate::schema::arguments::{BlockIOThrottle, BlockLatencyHistogramSet, BlockdevOptions};
use crate::schema::results::{BlockDeviceInfo, BlockInfo, BlockStats};
use crate::{InMemory, QmpError};

fn text(name: &[u8]) -> &str {
    core::str::from_utf8(name).unwrap_or_default()
}

fn no_device(name: &[u8]) -> QmpError {
    let name = text(name);
    QmpError::new(
        ErrorClass::DeviceNotFound,
        format_args!("Device '{name}' not found"),
    )
}

fn no_node(name: &[u8]) -> QmpError {
    let name = text(name);
    QmpError::generic(format_args!("Failed to find node with node-name='{name}'"))
}

/// There is neither a drive nor a node of these names.
pub(super) fn neither(drive: &[u8], node: &[u8]) -> QmpError {
    let (drive, node) = (text(drive), text(node));
    QmpError::generic(format_args!(
        "Cannot find device='{drive}' nor node-name='{node}'"
    ))
}

fn no_drive(drive: DriveName<'_>) -> QmpError {
    match drive {
        DriveName::Drive(name) | DriveName::Device(name) => no_device(name),
    }
}

impl<H: Host> Blocks for InMemory<'_, H> {
    fn blockdev_add(&mut self, options: &BlockdevOptions<'_>) -> Result<(), QmpError> {
        let name = text(options.node_name.unwrap_or_default());
        Err(QmpError::generic(format_args!(
            "node '{name}': only a process has images"
        )))
    }

    fn blockdev_del(&mut self, node: &[u8]) -> Result<(), QmpError> {
        Err(no_node(node))
    }

    fn blockdev_reopen<'m>(
        &mut self,
        options: &mut dyn Iterator<Item = BlockdevOptions<'m>>,
    ) -> Result<(), QmpError> {
        match options.next() {
            None => Ok(()),
            Some(options) => match options.node_name {
                Some(node) => Err(no_node(node)),
                None => Err(QmpError::generic(format_args!("node-name not specified"))),
            },
        }
    }

    fn visit_block_nodes(&self, _flat: bool, _visit: &mut dyn FnMut(&BlockDeviceInfo<'_>)) {}

    fn visit_drives(&self, _visit: &mut dyn FnMut(&BlockInfo<'_>)) {}

    fn visit_block_stats(&self, _nodes: bool, _visit: &mut dyn FnMut(&BlockStats<'_>)) {}

    fn set_write_threshold(&mut self, node: &[u8], _threshold: u64) -> Result<(), QmpError> {
        let node = text(node);
        Err(QmpError::generic(format_args!("Device '{node}' not found")))
    }

    fn eject(&mut self, drive: DriveName<'_>, _force: bool) -> Result<(), QmpError> {
        Err(no_drive(drive))
    }

    fn open_tray(&mut self, drive: DriveName<'_>, _force: bool) -> Result<(), QmpError> {
        Err(no_drive(drive))
    }

    fn close_tray(&mut self, drive: DriveName<'_>) -> Result<(), QmpError> {
        Err(no_drive(drive))
    }

    fn remove_medium(&mut self, drive: DriveName<'_>) -> Result<(), QmpError> {
        Err(no_drive(drive))
    }

    fn insert_medium(&mut self, drive: DriveName<'_>, _node: &[u8]) -> Result<(), QmpError> {
        Err(no_drive(drive))
    }

    fn change_medium(
        &mut self,
        drive: DriveName<'_>,
        _medium: NewMedium<'_>,
    ) -> Result<(), QmpError> {
        Err(no_drive(drive))
    }

    fn block_resize(
        &mut self,
        drive: Option<&[u8]>,
        node: Option<&[u8]>,
        _size: i64,
    ) -> Result<(), QmpError> {
        Err(neither(drive.unwrap_or_default(), node.unwrap_or_default()))
    }

    fn set_drive_throttle(
        &mut self,
        drive: DriveName<'_>,
        _limits: &BlockIOThrottle<'_>,
    ) -> Result<(), QmpError> {
        Err(no_drive(drive))
    }

    fn set_latency_histogram(
        &mut self,
        arguments: &BlockLatencyHistogramSet<'_>,
    ) -> Result<(), QmpError> {
        Err(no_device(arguments.id))
    }

    fn drive_add(&mut self, _options: &[u8]) -> Result<(), QmpError> {
        Err(QmpError::generic(format_args!("only a process has images")))
    }

    fn node_add(&mut self, options: &[u8]) -> Result<(), QmpError> {
        self.drive_add(options)
    }

    fn drive_del(&mut self, name: &[u8]) -> Result<(), QmpError> {
        Err(no_device(name))
    }

    fn storage_command(
        &mut self,
        drive: DriveName<'_>,
        _words: &[u8],
        _say: &mut dyn fmt::Write,
    ) -> Result<(), Unheard> {
        Err(no_drive(drive).into())
    }
}
