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
    // All or nothing. Block nodes and migrations have no connections yet.
    for instance in arguments.instances.clone() {
        let mut known = false;
        if let arguments::YankInstanceVariant::Chardev(chardev) = instance.variant {
            context
                .owner
                .visit_yankable(&mut |id| known |= id.as_bytes() == chardev.id);
        }
        if !known {
            return Err(Fail::class(
                ErrorClass::DeviceNotFound,
                &[b"Instance not found"],
            ));
        }
    }
    for instance in arguments.instances {
        if let arguments::YankInstanceVariant::Chardev(chardev) = instance.variant {
            context.owner.yank(chardev.id);
        }
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
