//! The protocol itself: negotiation, version, lists of commands, events and options.

use thimble_core::qmp::Sink;

use super::Context;
use crate::error::Fail;
use crate::reply::ListReply;
use crate::schema::{QMPCapability, SCHEMA, arguments, results};
use crate::{ErrorClass, Owner};

/// What `query-version` and the greeting tell.
pub(crate) const VERSION: results::VersionInfo<'_> = results::VersionInfo {
    qemu: results::VersionTriple {
        major: 7,
        minor: 2,
        micro: 0,
    },
    package: concat!("thimble ", env!("CARGO_PKG_VERSION")),
};

pub(crate) fn qmp_capabilities<'m, O: Owner>(
    context: &mut Context<'_, O>,
    arguments: arguments::QmpCapabilities<'m>,
) -> Result<(), Fail<'m>> {
    if context.session.complete {
        return Err(Fail::class(
            ErrorClass::CommandNotFound,
            &[b"Capabilities negotiation is already complete, command ignored"],
        ));
    }
    let mut enable = arguments.enable.into_iter().flatten();
    context.session.oob = enable.any(|capability| capability == QMPCapability::Oob);
    context.session.complete = true;
    Ok(())
}

pub(crate) fn query_version<O: Owner>(
    _context: &mut Context<'_, O>,
) -> Result<results::VersionInfo<'static>, Fail<'static>> {
    Ok(VERSION)
}

pub(crate) fn query_commands<O: Owner, S: Sink>(
    _context: &mut Context<'_, O>,
    list: &mut ListReply<'_, S>,
) -> Result<(), Fail<'static>> {
    for command in SCHEMA.commands {
        let name = SCHEMA.name(command.name);
        list.push(&results::CommandInfo { name });
    }
    Ok(())
}

pub(crate) fn query_events<O: Owner, S: Sink>(
    _context: &mut Context<'_, O>,
    list: &mut ListReply<'_, S>,
) -> Result<(), Fail<'static>> {
    for event in SCHEMA.events {
        let name = SCHEMA.name(event.name);
        list.push(&results::EventInfo { name });
    }
    Ok(())
}

pub(crate) fn quit<O: Owner + ?Sized>(context: &mut Context<'_, O>) -> Result<(), Fail<'static>> {
    context.owner.quit();
    Ok(())
}

pub(crate) fn query_command_line_options<'m, O: Owner, S: Sink>(
    context: &mut Context<'_, O>,
    arguments: arguments::QueryCommandLineOptions<'m>,
    list: &mut ListReply<'_, S>,
) -> Result<(), Fail<'m>> {
    let mut found = arguments.option.is_none();
    context.owner.visit_options(&mut |option| {
        if arguments
            .option
            .is_none_or(|wanted| option.option.as_bytes() == wanted)
        {
            found = true;
            list.push(option);
        }
    });
    match (found, arguments.option) {
        (false, Some(option)) => Err(Fail::generic(&[b"invalid option name: ", option])),
        _ => Ok(()),
    }
}
