//! Objects that users make: threads, memory, secrets.

use thimble_core::qmp::Sink;
use thimble_core::qom::{QomError, Settable};

use super::Context;
use super::qom::text;
use crate::error::Fail;
use crate::owner::objects::{Changeable, NewValue};
use crate::reply::ListReply;
use crate::schema::arguments;
use crate::{Owner, QmpError};

pub(crate) fn object_add<'m, O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
    arguments: arguments::ObjectOptions<'m>,
) -> Result<(), Fail<'m>> {
    Ok(context.owner.object_add(&arguments)?)
}

pub(crate) fn object_del<'m, O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
    arguments: arguments::ObjectDel<'m>,
) -> Result<(), Fail<'m>> {
    Ok(context.owner.object_del(arguments.id)?)
}

pub(crate) fn query_iothreads<O: Owner + ?Sized, S: Sink>(
    context: &mut Context<'_, O>,
    list: &mut ListReply<'_, S>,
) -> Result<(), Fail<'static>> {
    context.owner.visit_iothreads(&mut |thread| {
        list.push(thread);
    });
    Ok(())
}

pub(crate) fn query_memdev<O: Owner + ?Sized, S: Sink>(
    context: &mut Context<'_, O>,
    list: &mut ListReply<'_, S>,
) -> Result<(), Fail<'static>> {
    context.owner.visit_memdevs(&mut |memory| {
        list.push(memory);
    });
    Ok(())
}

pub(crate) fn qom_set<'m, O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
    arguments: arguments::QomSet<'m>,
) -> Result<(), Fail<'m>> {
    let (path, property) = (text(arguments.path), text(arguments.property));
    let whose = settable(context.owner, path, property)?;
    let value = NewValue::Json(arguments.value);
    Ok(context.owner.object_set(whose, property, value)?)
}

/// Whose property it is, if it can be changed.
pub(crate) fn settable<'m, O: Owner + ?Sized>(
    owner: &O,
    path: &'m str,
    property: &'m str,
) -> Result<Changeable, Fail<'m>> {
    let mut settable = Err(QomError::NoObject(path));
    owner.visit_objects(&mut |tree| settable = tree.settable(path, property));
    Err(Fail::Owner(match settable? {
        Settable::Object(position) => return Ok(Changeable::Object(position)),
        Settable::Drive(drive) => return Ok(Changeable::Drive(drive)),
        Settable::Device(kind, Some(id)) => QmpError::generic(format_args!(
            "Attempt to set property '{property}' on device '{id}' (type '{kind}') after it was realized"
        )),
        Settable::Device(kind, None) => QmpError::generic(format_args!(
            "Attempt to set property '{property}' on anonymous device (type '{kind}') after it was realized"
        )),
        Settable::Machine(kind) => QmpError::generic(format_args!(
            "Property '{kind}.{property}' can't be changed once the machine is built"
        )),
    }))
}
