//! The object model: types, the tree of objects, and their properties.

use core::str;

use thimble_core::qmp::Sink;
use thimble_core::qom::{self, PropertyInfo, QomValue};

use super::Context;
use crate::Owner;
use crate::error::Fail;
use crate::reply::{ListReply, Reply};
use crate::schema::{Any, arguments, results};

/// A name from a client. One with a zero byte in it is no text, and names nothing.
pub(super) fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap_or("\u{0}")
}

fn push<S: Sink>(list: &mut ListReply<'_, S>, property: PropertyInfo<'_>) {
    list.push(&results::ObjectPropertyInfo {
        name: property.name,
        r#type: property.kind,
        description: property.description,
        default_value: property.default.map(Any),
    });
}

pub(crate) fn qom_list<'m, O: Owner, S: Sink>(
    context: &mut Context<'_, O>,
    arguments: arguments::QomList<'m>,
    list: &mut ListReply<'_, S>,
) -> Result<(), Fail<'m>> {
    let path = text(arguments.path);
    let mut result = Ok(());
    context.owner.visit_objects(&mut |tree| {
        result = tree.list(path, &mut |property| push(list, property));
    });
    Ok(result?)
}

pub(crate) fn qom_get<'m, O: Owner, S: Sink>(
    context: &mut Context<'_, O>,
    arguments: arguments::QomGet<'m>,
    reply: &mut Reply<'_, S>,
) -> Result<(), Fail<'m>> {
    let (path, property) = (text(arguments.path), text(arguments.property));
    let (mut result, mut written) = (Ok(()), Ok(()));
    context.owner.visit_objects(&mut |tree| {
        let mut take = |value: QomValue<'_>| written = reply.value(&Any(value));
        result = tree.get(path, property, &mut take);
    });
    result?;
    Ok(written?)
}

pub(crate) fn qom_list_types<'m, O: Owner, S: Sink>(
    _context: &mut Context<'_, O>,
    arguments: arguments::QomListTypes<'m>,
    list: &mut ListReply<'_, S>,
) -> Result<(), Fail<'m>> {
    let implements = arguments.implements.map(text);
    qom::types(implements, arguments.r#abstract, &mut |kind| {
        list.push(&results::ObjectTypeInfo {
            name: kind.name,
            r#abstract: kind.is_abstract.then_some(true),
            parent: kind.parent,
        });
    });
    Ok(())
}

pub(crate) fn qom_list_properties<'m, O: Owner, S: Sink>(
    _context: &mut Context<'_, O>,
    arguments: arguments::QomListProperties<'m>,
    list: &mut ListReply<'_, S>,
) -> Result<(), Fail<'m>> {
    let name = text(arguments.typename);
    Ok(qom::type_properties(name, &mut |property| {
        push(list, property);
    })?)
}

pub(crate) fn device_list_properties<'m, O: Owner, S: Sink>(
    _context: &mut Context<'_, O>,
    arguments: arguments::DeviceListProperties<'m>,
    list: &mut ListReply<'_, S>,
) -> Result<(), Fail<'m>> {
    let name = text(arguments.typename);
    Ok(qom::device_properties(name, &mut |property| {
        push(list, property);
    })?)
}
