//! A way out when a connection hangs.

use thimble_core::qmp::Sink;

use super::Context;
use crate::error::Fail;
use crate::reply::ListReply;
use crate::schema::{arguments, results};
use crate::{ErrorClass, Owner};

pub(crate) fn yank<'m, O: Owner>(
    context: &mut Context<'_, O>,
    arguments: arguments::Yank<'m>,
) -> Result<(), Fail<'m>> {
    let ids = || {
        arguments.instances.clone().map(|instance| {
            let arguments::YankInstanceVariant::Chardev(chardev) = instance.variant;
            chardev.id
        })
    };
    // All or nothing.
    for id in ids() {
        let mut known = false;
        context
            .owner
            .visit_yankable(&mut |yankable| known |= yankable.as_bytes() == id);
        if !known {
            return Err(Fail::class(
                ErrorClass::DeviceNotFound,
                &[b"Instance not found"],
            ));
        }
    }
    for id in ids() {
        context.owner.yank(id);
    }
    Ok(())
}

pub(crate) fn query_yank<O: Owner, S: Sink>(
    context: &mut Context<'_, O>,
    list: &mut ListReply<'_, S>,
) -> Result<(), Fail<'static>> {
    context.owner.visit_yankable(&mut |id| {
        list.push(&results::YankInstance {
            variant: results::YankInstanceVariant::Chardev(results::YankInstanceChardev { id }),
        });
    });
    Ok(())
}
