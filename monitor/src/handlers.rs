//! The command handlers: small functions from checked arguments to a result.

use core::fmt::Write as _;

use serde::Serialize;
use thimble_core::machine::RunState;
use thimble_core::qmp::{Sink, Value};

use crate::command::COMMANDS;
use crate::error::Fail;
use crate::reply::Reply;
use crate::session::Negotiation;
use crate::{ErrorClass, Owner};

/// Which function executes a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handler {
    QmpCapabilities,
    QueryVersion,
    QueryCommands,
    QueryStatus,
    QueryName,
    QueryUuid,
    QueryKvm,
    Stop,
    Cont,
    SystemReset,
    Pmemsave,
    Quit,
}

/// Arguments that the checker has accepted.
#[derive(Clone, Copy)]
pub(crate) struct Args<'m>(pub(crate) Option<Value<'m>>);

impl<'m> Args<'m> {
    fn get(self, name: &str) -> Option<Value<'m>> {
        self.0?.get(name.as_bytes())
    }

    fn int(self, name: &str) -> i64 {
        self.get(name).and_then(Value::int).unwrap_or_default()
    }

    fn bytes(self, name: &str) -> &'m [u8] {
        self.get(name).and_then(Value::bytes).unwrap_or_default()
    }
}

/// The QMP level that is kept.
#[derive(Serialize)]
pub(crate) struct VersionInfo {
    qemu: VersionTriple,
    package: &'static str,
}

#[derive(Serialize)]
struct VersionTriple {
    major: u8,
    minor: u8,
    micro: u8,
}

/// What `query-version` and the greeting tell.
pub(crate) const VERSION: VersionInfo = VersionInfo {
    qemu: VersionTriple {
        major: 7,
        minor: 2,
        micro: 0,
    },
    package: concat!("thimble ", env!("CARGO_PKG_VERSION")),
};

#[derive(Serialize)]
struct StatusInfo {
    running: bool,
    singlestep: bool,
    status: &'static str,
}

#[derive(Serialize)]
struct UuidInfo<'u> {
    #[serde(rename = "UUID")]
    uuid: &'u str,
}

/// Executes a command whose arguments have been checked.
pub(crate) fn run<'m, O: Owner, S: Sink>(
    handler: Handler,
    args: Args<'m>,
    session: &mut Negotiation,
    owner: &mut O,
    reply: &mut Reply<'_, S>,
) -> Result<(), Fail<'m>> {
    match handler {
        Handler::QmpCapabilities => return qmp_capabilities(args, session),
        Handler::QueryVersion => reply.typed(&VERSION)?,
        Handler::QueryCommands => query_commands(reply)?,
        Handler::QueryStatus => {
            let state = owner.run_state();
            reply.typed(&StatusInfo {
                running: state == RunState::Running,
                singlestep: false,
                status: state.name(),
            })?;
        }
        Handler::QueryName => query_name(owner, reply)?,
        Handler::QueryUuid => query_uuid(owner, reply)?,
        Handler::QueryKvm => reply.typed(&owner.kvm())?,
        Handler::Stop => owner.stop()?,
        Handler::Cont => return cont(owner),
        Handler::SystemReset => owner.system_reset()?,
        Handler::Pmemsave => return pmemsave(args, owner),
        Handler::Quit => owner.quit(),
    }
    Ok(())
}

fn qmp_capabilities<'m>(args: Args<'m>, session: &mut Negotiation) -> Result<(), Fail<'m>> {
    if session.complete {
        return Err(Fail::class(
            ErrorClass::CommandNotFound,
            &[b"Capabilities negotiation is already complete, command ignored"],
        ));
    }
    // `oob` is the one capability, so the checker lets no other through.
    session.oob = args
        .get("enable")
        .is_some_and(|list| list.elements().next().is_some());
    session.complete = true;
    Ok(())
}

fn query_commands<S: Sink>(reply: &mut Reply<'_, S>) -> Result<(), Fail<'static>> {
    let mut w = reply.writer()?;
    w.begin_array()?;
    for command in COMMANDS {
        w.begin_object()?;
        w.key(b"name")?;
        w.str(command.name)?;
        w.end_object()?;
    }
    Ok(w.end_array()?)
}

fn query_name<O: Owner, S: Sink>(owner: &O, reply: &mut Reply<'_, S>) -> Result<(), Fail<'static>> {
    let mut w = reply.writer()?;
    w.begin_object()?;
    if let Some(name) = owner.name() {
        w.key(b"name")?;
        w.str(name)?;
    }
    Ok(w.end_object()?)
}

fn query_uuid<O: Owner, S: Sink>(owner: &O, reply: &mut Reply<'_, S>) -> Result<(), Fail<'static>> {
    let mut text = heapless::String::<36>::new();
    for (index, byte) in owner.uuid().into_iter().enumerate() {
        let dash = if matches!(index, 4 | 6 | 8 | 10) {
            "-"
        } else {
            ""
        };
        // 32 digits and four dashes always fit.
        let _ = write!(text, "{dash}{byte:02x}");
    }
    Ok(reply.typed(&UuidInfo { uuid: &text })?)
}

fn cont<'m, O: Owner>(owner: &mut O) -> Result<(), Fail<'m>> {
    match owner.run_state() {
        RunState::InternalError | RunState::Shutdown => Err(Fail::generic(&[
            b"Resetting the Virtual Machine is required",
        ])),
        _ => Ok(owner.cont()?),
    }
}

fn pmemsave<'m, O: Owner>(args: Args<'m>, owner: &mut O) -> Result<(), Fail<'m>> {
    let size = u64::try_from(args.int("size"))
        .map_err(|_| Fail::generic(&[b"Parameter 'size' expects a size that is not negative"]))?;
    // Addresses from 2^63 up are written as negative numbers.
    let address = args.int("val") as u64;
    Ok(owner.pmemsave(address, size, args.bytes("filename"))?)
}
