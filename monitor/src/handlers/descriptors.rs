//! Descriptors that clients pass.

use thimble_core::qmp::{Sink, SinkFull, Writer};

use super::Context;
use crate::error::Fail;
use crate::owner::SetMember;
use crate::reply::ListReply;
use crate::schema::{arguments, results};
use crate::{Owner, QmpError};

const NONE_CAME: &[u8] = b"No file descriptor supplied via SCM_RIGHTS";

pub(crate) fn getfd<'m, O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
    arguments: arguments::Getfd<'m>,
) -> Result<(), Fail<'m>> {
    let name = arguments.fdname;
    let valid = !name.first().is_some_and(u8::is_ascii_digit);
    if !context.owner.getfd(name, valid)? {
        return Err(Fail::generic(&[NONE_CAME]));
    }
    if !valid {
        let text = b"Parameter 'fdname' expects a name not starting with a digit";
        return Err(Fail::generic(&[text]));
    }
    Ok(())
}

pub(crate) fn closefd<'m, O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
    arguments: arguments::Closefd<'m>,
) -> Result<(), Fail<'m>> {
    if !context.owner.closefd(arguments.fdname) {
        return Err(Fail::generic(&[
            b"File descriptor named '",
            arguments.fdname,
            b"' not found",
        ]));
    }
    Ok(())
}

pub(crate) fn add_fd<'m, O: Owner>(
    context: &mut Context<'_, O>,
    arguments: arguments::AddFd<'m>,
) -> Result<results::AddfdInfo, Fail<'m>> {
    let added = context.owner.add_fd(arguments.fdset_id, arguments.opaque)?;
    let (fdset_id, fd) = added.ok_or_else(|| Fail::generic(&[NONE_CAME]))?;
    Ok(results::AddfdInfo {
        fdset_id,
        fd: fd.into(),
    })
}

pub(crate) fn remove_fd<O: Owner>(
    context: &mut Context<'_, O>,
    arguments: arguments::RemoveFd,
) -> Result<(), Fail<'static>> {
    let arguments::RemoveFd { fdset_id, fd } = arguments;
    if context.owner.remove_fd(fdset_id, fd) {
        return Ok(());
    }
    let error = match fd {
        Some(fd) => QmpError::generic(format_args!(
            "File descriptor named 'fdset-id:{fdset_id}, fd:{fd}' not found"
        )),
        None => QmpError::generic(format_args!(
            "File descriptor named 'fdset-id:{fdset_id}' not found"
        )),
    };
    Err(error.into())
}

pub(crate) fn query_fdsets<O: Owner, S: Sink>(
    context: &mut Context<'_, O>,
    list: &mut ListReply<'_, S>,
) -> Result<(), Fail<'static>> {
    context
        .owner
        .visit_fdsets(&mut |id, members| list.stream(|w| put_set(w, id, members)));
    Ok(())
}

/// An FdsetInfo. A set may be longer than what is written at once.
fn put_set<S: Sink>(
    w: &mut Writer<'_, S>,
    id: i64,
    members: &mut dyn Iterator<Item = SetMember<'_>>,
) -> Result<(), SinkFull> {
    w.begin_object()?;
    w.key(b"fdset-id")?;
    w.int(id)?;
    w.key(b"fds")?;
    w.begin_array()?;
    for member in members {
        w.begin_object()?;
        w.key(b"fd")?;
        w.int(member.fd.into())?;
        if let Some(opaque) = member.opaque {
            w.key(b"opaque")?;
            w.bytes(opaque)?;
        }
        w.end_object()?;
    }
    w.end_array()?;
    w.end_object()
}
