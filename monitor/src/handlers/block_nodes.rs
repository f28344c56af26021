//! Block nodes.

use thimble_core::qmp::Sink;

use super::Context;
use crate::Owner;
use crate::error::Fail;
use crate::reply::ListReply;
use crate::schema::arguments;

pub(crate) fn blockdev_add<'m, O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
    arguments: arguments::BlockdevOptions<'m>,
) -> Result<(), Fail<'m>> {
    Ok(context.owner.blockdev_add(&arguments)?)
}

pub(crate) fn blockdev_del<'m, O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
    arguments: arguments::BlockdevDel<'m>,
) -> Result<(), Fail<'m>> {
    Ok(context.owner.blockdev_del(arguments.node_name)?)
}

pub(crate) fn x_blockdev_del<'m, O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
    arguments: arguments::XBlockdevDel<'m>,
) -> Result<(), Fail<'m>> {
    Ok(context.owner.blockdev_del(arguments.node_name)?)
}

pub(crate) fn blockdev_reopen<'m, O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
    arguments: arguments::BlockdevReopen<'m>,
) -> Result<(), Fail<'m>> {
    let mut options = arguments.options;
    Ok(context.owner.blockdev_reopen(&mut options)?)
}

pub(crate) fn x_blockdev_reopen<'m, O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
    arguments: arguments::BlockdevOptions<'m>,
) -> Result<(), Fail<'m>> {
    let mut options = core::iter::once(arguments);
    Ok(context.owner.blockdev_reopen(&mut options)?)
}

pub(crate) fn query_named_block_nodes<'m, O: Owner + ?Sized, S: Sink>(
    context: &mut Context<'_, O>,
    arguments: arguments::QueryNamedBlockNodes,
    list: &mut ListReply<'_, S>,
) -> Result<(), Fail<'m>> {
    let flat = arguments.flat.unwrap_or_default();
    context
        .owner
        .visit_block_nodes(flat, &mut |node| list.push(node));
    Ok(())
}

pub(crate) fn block_set_write_threshold<'m, O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
    arguments: arguments::BlockSetWriteThreshold<'m>,
) -> Result<(), Fail<'m>> {
    let (node, threshold) = (arguments.node_name, arguments.write_threshold);
    Ok(context.owner.set_write_threshold(node, threshold)?)
}
