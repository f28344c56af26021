//! Processors.

use core::fmt::Write as _;

use super::table::{Command, Kind, command, required};
use super::{Call, Done};
use crate::handlers::Outcome;

pub(super) static COMMANDS: &[Command] = &[command(
    "cpu",
    "index",
    &[required(Kind::Int32)],
    "choose the processor that other commands are about",
    cpu,
)];

pub(super) static INFO: &[Command] = &[command(
    "cpus",
    "",
    &[],
    "show the processors, and which of them is chosen",
    cpus,
)];

fn cpu<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let index = u32::try_from(call.arguments.int(0)).ok();
    match index.filter(|index| *index < call.context.owner.cpus()) {
        Some(index) => call.context.session.cpu = index,
        None => writeln!(call.text, "invalid CPU index")?,
    }
    Ok(Outcome::Done)
}

fn cpus<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    for index in 0..call.context.owner.cpus() {
        let mark = if index == call.cpu() { '*' } else { ' ' };
        let thread = call.context.owner.cpu_state(index)?.thread_id;
        writeln!(call.text, "{mark} CPU #{index}: thread_id={thread}")?;
    }
    Ok(Outcome::Done)
}
