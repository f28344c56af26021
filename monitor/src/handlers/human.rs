//! The human monitor by QMP.

use thimble_core::qmp::Sink;

use super::machine::cpu_index;
use super::{Context, Outcome};
use crate::Owner;
use crate::error::Fail;
use crate::hmp::{self, Text};
use crate::reply::Reply;
use crate::schema::arguments;

pub(crate) fn human_monitor_command<'m, O: Owner, S: Sink>(
    context: &mut Context<'_, O>,
    arguments: arguments::HumanMonitorCommand<'m>,
    reply: &mut Reply<'_, S>,
) -> Result<Outcome, Fail<'m>> {
    // Whatever processor the line chooses is chosen for the rest of the line.
    let mut cpu = match arguments.cpu_index {
        Some(index) => cpu_index(context.owner, "cpu-index", index)?,
        None => context.session.cpu,
    };
    let owner = &mut *context.owner;
    let mut outcome = Outcome::Done;
    // Descriptors are QMP's own.
    owner.swap_monitor();
    let written = reply.text(|sink| {
        let text = &mut Text::new(sink);
        outcome = hmp::execute(arguments.command_line, &mut *owner, &mut cpu, text)?;
        Ok(())
    });
    owner.swap_monitor();
    written?;
    Ok(outcome)
}
