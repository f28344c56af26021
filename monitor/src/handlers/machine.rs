//! The machine: boards, processors, accelerator, identity.

use core::fmt::Write as _;

use thimble_core::qmp::Sink;

use super::Context;
use crate::error::Fail;
use crate::reply::ListReply;
use crate::schema::{SysEmuTarget, arguments, results};
use crate::{Owner, QmpError};

pub(crate) fn query_target<O: Owner>(
    _context: &mut Context<'_, O>,
) -> Result<results::TargetInfo, Fail<'static>> {
    Ok(results::TargetInfo {
        arch: SysEmuTarget::X8664,
    })
}

pub(crate) fn query_machines<O: Owner, S: Sink>(
    context: &mut Context<'_, O>,
    list: &mut ListReply<'_, S>,
) -> Result<(), Fail<'static>> {
    context
        .owner
        .visit_machines(&mut |machine| list.push(machine));
    Ok(())
}

pub(crate) fn query_current_machine<O: Owner>(
    context: &mut Context<'_, O>,
) -> Result<results::CurrentMachineParams, Fail<'static>> {
    Ok(results::CurrentMachineParams {
        wakeup_suspend_support: context.owner.can_sleep(),
    })
}

pub(crate) fn query_name<'c, O: Owner + ?Sized>(
    context: &'c mut Context<'_, O>,
) -> Result<results::NameInfo<'c>, Fail<'static>> {
    let name = context.owner.name();
    Ok(results::NameInfo { name })
}

pub(crate) fn query_uuid<'c, O: Owner + ?Sized>(
    context: &'c mut Context<'_, O>,
) -> Result<results::UuidInfo<'c>, Fail<'static>> {
    for (index, byte) in context.owner.uuid().into_iter().enumerate() {
        let dash = if matches!(index, 4 | 6 | 8 | 10) {
            "-"
        } else {
            ""
        };
        // 32 digits and four dashes always fit.
        let _ = write!(context.text, "{dash}{byte:02x}");
    }
    let uuid = &context.text;
    Ok(results::UuidInfo { uuid })
}

pub(crate) fn query_vm_generation_id<'c, O: Owner + ?Sized>(
    context: &'c mut Context<'_, O>,
) -> Result<results::GuidInfo<'c>, Fail<'static>> {
    let Some(id) = context.owner.generation() else {
        return Err(Fail::generic(&[b"VM Generation ID device not found"]));
    };
    // A UUID always fits.
    let _ = write!(context.text, "{id}");
    let guid = &context.text;
    Ok(results::GuidInfo { guid })
}

pub(crate) fn query_kvm<O: Owner>(
    context: &mut Context<'_, O>,
) -> Result<results::KvmInfo, Fail<'static>> {
    Ok(context.owner.kvm())
}

pub(crate) fn query_cpus<O: Owner, S: Sink>(
    context: &mut Context<'_, O>,
    list: &mut ListReply<'_, S>,
) -> Result<(), Fail<'static>> {
    for index in 0..context.owner.cpus() {
        let state = context.owner.cpu_state(index)?;
        list.push(&results::CpuInfo {
            cpu: index.into(),
            current: context.session.cpu == index,
            halted: state.halted,
            // Addresses from 2^63 up are written as negative numbers.
            pc: state.pc as i64,
            thread_id: state.thread_id.into(),
        });
    }
    Ok(())
}

pub(crate) fn query_cpus_fast<O: Owner, S: Sink>(
    context: &mut Context<'_, O>,
    list: &mut ListReply<'_, S>,
) -> Result<(), Fail<'static>> {
    for index in 0..context.owner.cpus() {
        context.owner.visit_cpu(index, &mut |cpu| list.push(cpu));
    }
    Ok(())
}

pub(crate) fn cpu<O: Owner>(
    context: &mut Context<'_, O>,
    arguments: arguments::Cpu,
) -> Result<(), Fail<'static>> {
    context.session.cpu = cpu_index(context.owner, "index", arguments.index)?;
    Ok(())
}

/// A processor's index from the argument `name`.
pub(super) fn cpu_index<O: Owner + ?Sized>(
    owner: &O,
    name: &str,
    index: i64,
) -> Result<u32, QmpError> {
    u32::try_from(index)
        .ok()
        .filter(|index| *index < owner.cpus())
        .ok_or_else(|| QmpError::generic(format_args!("Parameter '{name}' expects a CPU number")))
}

pub(crate) fn query_gic_capabilities<O: Owner, S: Sink>(
    _context: &mut Context<'_, O>,
    _list: &mut ListReply<'_, S>,
) -> Result<(), Fail<'static>> {
    // An Arm guest's controller: no x86 machine has one.
    Ok(())
}
