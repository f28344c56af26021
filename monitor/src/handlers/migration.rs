//! Moving a virtual machine to another host.

use thimble_core::qmp::Sink;

use super::Context;
use crate::Owner;
use crate::error::Fail;
use crate::reply::ListReply;
use crate::schema::{MigrationCapability, arguments, results};

pub(crate) fn migrate_set_capabilities<'m, O: Owner>(
    context: &mut Context<'_, O>,
    arguments: arguments::MigrateSetCapabilities<'m>,
) -> Result<(), Fail<'m>> {
    for status in arguments.capabilities {
        match status.capability {
            MigrationCapability::Events => *context.owner.migration_events() = status.state,
        }
    }
    Ok(())
}

pub(crate) fn query_migrate_capabilities<O: Owner, S: Sink>(
    context: &mut Context<'_, O>,
    list: &mut ListReply<'_, S>,
) -> Result<(), Fail<'static>> {
    list.push(&results::MigrationCapabilityStatus {
        capability: MigrationCapability::Events,
        state: *context.owner.migration_events(),
    });
    Ok(())
}
