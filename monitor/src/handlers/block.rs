//! Drives and the media in them.

use thimble_core::qmp::Sink;

use super::Context;
use crate::error::Fail;
use crate::owner::block::{DriveName, NewMedium};
use crate::reply::ListReply;
use crate::schema::{BlockdevChangeReadOnlyMode, arguments};
use crate::{Owner, QmpError};

/// Which drive a command means.
fn drive<'m>(device: Option<&'m [u8]>, id: Option<&'m [u8]>) -> Result<DriveName<'m>, QmpError> {
    match (device, id) {
        (Some(device), None) => Ok(DriveName::Drive(device)),
        (None, Some(id)) => Ok(DriveName::Device(id)),
        _ => Err(QmpError::generic(format_args!(
            "Need exactly one of 'device' and 'id'"
        ))),
    }
}

pub(crate) fn query_block<O: Owner + ?Sized, S: Sink>(
    context: &mut Context<'_, O>,
    list: &mut ListReply<'_, S>,
) -> Result<(), Fail<'static>> {
    context.owner.visit_drives(&mut |drive| list.push(drive));
    Ok(())
}

pub(crate) fn query_blockstats<'m, O: Owner + ?Sized, S: Sink>(
    context: &mut Context<'_, O>,
    arguments: arguments::QueryBlockstats,
    list: &mut ListReply<'_, S>,
) -> Result<(), Fail<'m>> {
    let nodes = arguments.query_nodes.unwrap_or_default();
    context
        .owner
        .visit_block_stats(nodes, &mut |stats| list.push(stats));
    Ok(())
}

pub(crate) fn eject<'m, O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
    arguments: arguments::Eject<'m>,
) -> Result<(), Fail<'m>> {
    let drive = drive(arguments.device, arguments.id)?;
    Ok(context
        .owner
        .eject(drive, arguments.force.unwrap_or_default())?)
}

pub(crate) fn blockdev_open_tray<'m, O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
    arguments: arguments::BlockdevOpenTray<'m>,
) -> Result<(), Fail<'m>> {
    let drive = drive(arguments.device, arguments.id)?;
    let force = arguments.force.unwrap_or_default();
    Ok(context.owner.open_tray(drive, force)?)
}

pub(crate) fn blockdev_close_tray<'m, O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
    arguments: arguments::BlockdevCloseTray<'m>,
) -> Result<(), Fail<'m>> {
    let drive = drive(arguments.device, arguments.id)?;
    Ok(context.owner.close_tray(drive)?)
}

pub(crate) fn blockdev_remove_medium<'m, O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
    arguments: arguments::BlockdevRemoveMedium<'m>,
) -> Result<(), Fail<'m>> {
    let drive = DriveName::Device(arguments.id);
    Ok(context.owner.remove_medium(drive)?)
}

pub(crate) fn blockdev_insert_medium<'m, O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
    arguments: arguments::BlockdevInsertMedium<'m>,
) -> Result<(), Fail<'m>> {
    let drive = DriveName::Device(arguments.id);
    Ok(context.owner.insert_medium(drive, arguments.node_name)?)
}

pub(crate) fn x_blockdev_remove_medium<'m, O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
    arguments: arguments::XBlockdevRemoveMedium<'m>,
) -> Result<(), Fail<'m>> {
    let drive = drive(arguments.device, arguments.id)?;
    Ok(context.owner.remove_medium(drive)?)
}

pub(crate) fn x_blockdev_insert_medium<'m, O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
    arguments: arguments::XBlockdevInsertMedium<'m>,
) -> Result<(), Fail<'m>> {
    let drive = drive(arguments.device, arguments.id)?;
    Ok(context.owner.insert_medium(drive, arguments.node_name)?)
}

pub(crate) fn blockdev_change_medium<'m, O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
    arguments: arguments::BlockdevChangeMedium<'m>,
) -> Result<(), Fail<'m>> {
    let drive = drive(arguments.device, arguments.id)?;
    let retain = BlockdevChangeReadOnlyMode::Retain;
    let medium = NewMedium {
        filename: arguments.filename,
        format: arguments.format,
        read_only: arguments.read_only_mode.unwrap_or(retain),
        force: arguments.force.unwrap_or_default(),
    };
    Ok(context.owner.change_medium(drive, medium)?)
}

pub(crate) fn change<'m, O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
    arguments: arguments::Change<'m>,
) -> Result<(), Fail<'m>> {
    let medium = NewMedium {
        filename: arguments.target,
        format: arguments.arg,
        read_only: BlockdevChangeReadOnlyMode::Retain,
        force: false,
    };
    let drive = DriveName::Drive(arguments.device);
    Ok(context.owner.change_medium(drive, medium)?)
}

pub(crate) fn block_resize<'m, O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
    arguments: arguments::BlockResize<'m>,
) -> Result<(), Fail<'m>> {
    let (device, node) = (arguments.device, arguments.node_name);
    Ok(context.owner.block_resize(device, node, arguments.size)?)
}

pub(crate) fn block_passwd<'m, O: Owner + ?Sized>(
    _context: &mut Context<'_, O>,
    _arguments: arguments::BlockPasswd<'m>,
) -> Result<(), Fail<'m>> {
    // The words of the last QEMU that had the command.
    let text = b"Setting block passwords directly is no longer supported";
    Err(Fail::generic(&[text]))
}

pub(crate) fn block_set_io_throttle<'m, O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
    arguments: arguments::BlockIOThrottle<'m>,
) -> Result<(), Fail<'m>> {
    let drive = drive(arguments.device, arguments.id)?;
    Ok(context.owner.set_drive_throttle(drive, &arguments)?)
}

pub(crate) fn block_latency_histogram_set<'m, O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
    arguments: arguments::BlockLatencyHistogramSet<'m>,
) -> Result<(), Fail<'m>> {
    Ok(context.owner.set_latency_histogram(&arguments)?)
}
