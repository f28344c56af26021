//! Descriptors that clients pass.

use super::table::{Command, Kind, command, required};
use super::{Call, Done};
use crate::handlers::{self, Outcome};
use crate::schema::arguments;

pub(super) static COMMANDS: &[Command] = &[
    command(
        "closefd",
        "name",
        &[required(Kind::Text)],
        "close a descriptor that was passed and has this name",
        closefd,
    ),
    command(
        "getfd",
        "name",
        &[required(Kind::Text)],
        "give a descriptor that was passed over the monitor's socket a name",
        getfd,
    ),
];

fn closefd<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let fdname = call.arguments.text(0);
    handlers::closefd(&mut call.context, arguments::Closefd { fdname })?;
    Ok(Outcome::Done)
}

fn getfd<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let fdname = call.arguments.text(0);
    handlers::getfd(&mut call.context, arguments::Getfd { fdname })?;
    Ok(Outcome::Done)
}
