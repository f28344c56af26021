//! The human monitor by QMP.

use thimble_core::qmp::Sink;

use super::Context;
use super::machine::cpu_index;
use crate::Owner;
use crate::error::Fail;
use crate::hmp::{self, Text};
use crate::reply::Reply;
use crate::schema::arguments;

pub(crate) fn human_monitor_command<'m, O: Owner, S: Sink>(
    context: &mut Context<'_, O>,
    arguments: arguments::HumanMonitorCommand<'m>,
    reply: &mut Reply<'_, S>,
) -> Result<(), Fail<'m>> {
    let cpu = match arguments.cpu_index {
        Some(index) => cpu_index(context.owner, "cpu-index", index)?,
        None => context.session.cpu,
    };
    let owner = &mut *context.owner;
    Ok(
        reply
            .text(|sink| hmp::execute(arguments.command_line, owner, cpu, &mut Text::new(sink)))?,
    )
}
