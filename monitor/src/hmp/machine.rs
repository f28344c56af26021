//! What the machine is, and what it is doing.

use core::fmt::Write as _;

use super::table::{Command, command};
use super::{Call, Done};
use crate::handlers::{self, Outcome, VERSION};

pub(super) static INFO: &[Command] = &[
    command("kvm", "", &[], "show whether KVM runs the guest", kvm),
    command("name", "", &[], "show the VM's name", name).in_preconfig(),
    command("status", "", &[], "show whether the guest runs", status).in_preconfig(),
    command("uuid", "", &[], "show the VM's UUID", uuid).in_preconfig(),
    command(
        "vm-generation-id",
        "",
        &[],
        "show the guest's generation",
        generation,
    ),
    command("version", "", &[], "show which version this is", version).in_preconfig(),
];

fn kvm<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let kvm = call.context.owner.kvm();
    let shown = match (kvm.present, kvm.enabled) {
        (false, _) => "not compiled",
        (true, false) => "disabled",
        (true, true) => "enabled",
    };
    writeln!(call.text, "kvm support: {shown}")?;
    Ok(Outcome::Done)
}

fn name<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    if let Some(name) = handlers::query_name(&mut call.context)?.name {
        writeln!(call.text, "{name}")?;
    }
    Ok(Outcome::Done)
}

fn status<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let info = handlers::query_status(&mut call.context)?;
    let running = if info.running { "running" } else { "paused" };
    write!(call.text, "VM status: {running}")?;
    // Why it doesn't, where that isn't that it was told to.
    if !matches!(info.status.name(), "running" | "paused") {
        write!(call.text, " ({})", info.status.name())?;
    }
    writeln!(call.text)?;
    Ok(Outcome::Done)
}

fn uuid<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let info = handlers::query_uuid(&mut call.context)?;
    writeln!(call.text, "{}", info.uuid)?;
    Ok(Outcome::Done)
}

fn generation<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let info = handlers::query_vm_generation_id(&mut call.context)?;
    writeln!(call.text, "{}", info.guid)?;
    Ok(Outcome::Done)
}

fn version<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let qemu = &VERSION.qemu;
    let (major, minor, micro) = (qemu.major, qemu.minor, qemu.micro);
    writeln!(call.text, "{major}.{minor}.{micro} {}", VERSION.package)?;
    Ok(Outcome::Done)
}
