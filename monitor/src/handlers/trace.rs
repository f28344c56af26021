//! Trace events: which there are, and which are traced.

use thimble_core::qmp::Sink;

use super::Context;
use crate::Owner;
use crate::error::{Fail, QmpError};
use crate::reply::ListReply;
use crate::schema::{TraceEventState, arguments, results};
use crate::trace;

/// Checks which processor and which events are meant, as QEMU does: a name that is no pattern must be that of an event, and of one
/// that belongs to processors if a processor is meant.
pub(crate) fn meant_processor<'m, O: Owner + ?Sized>(
    owner: &O,
    name: &'m [u8],
    vcpu: Option<i64>,
) -> Result<Option<u32>, Fail<'m>> {
    let cpu = match vcpu {
        Some(index) => {
            // QEMU's number has 32 bits.
            let index = index as u32;
            let cpu = Some(index).filter(|cpu| *cpu < owner.cpus());
            Some(cpu.ok_or_else(|| QmpError::generic(format_args!("invalid vCPU index {index}")))?)
        }
        None => None,
    };
    if name.contains(&b'*') {
        return Ok(cpu);
    }
    let mut found = None;
    trace::visit(b"*", |point, known| {
        if known.as_bytes() == name {
            found = Some(point);
        }
    });
    match found {
        None => Err(Fail::generic(&[b"unknown event \"", name, b"\""])),
        Some(point) if cpu.is_some() && !point.is_vcpu() => Err(Fail::generic(&[
            b"event \"",
            name,
            b"\" is not vCPU-specific",
        ])),
        Some(_) => Ok(cpu),
    }
}

pub(crate) fn trace_event_get_state<'m, O: Owner, S: Sink>(
    context: &mut Context<'_, O>,
    arguments: arguments::TraceEventGetState<'m>,
    list: &mut ListReply<'_, S>,
) -> Result<(), Fail<'m>> {
    let cpu = meant_processor(context.owner, arguments.name, arguments.vcpu)?;
    trace::visit(arguments.name, |point, name| {
        let Some(on) = point.state(cpu) else {
            return;
        };
        list.push(&results::TraceEventInfo {
            name,
            state: match on {
                true => TraceEventState::Enabled,
                false => TraceEventState::Disabled,
            },
            vcpu: point.is_vcpu(),
        });
    });
    Ok(())
}

pub(crate) fn trace_event_set_state<'m, O: Owner>(
    context: &mut Context<'_, O>,
    arguments: arguments::TraceEventSetState<'m>,
) -> Result<(), Fail<'m>> {
    let cpu = meant_processor(context.owner, arguments.name, arguments.vcpu)?;
    // No event is unavailable.
    let _ = arguments.ignore_unavailable;
    trace::visit(arguments.name, |point, _| point.set(arguments.enable, cpu));
    Ok(())
}
