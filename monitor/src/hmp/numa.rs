//! NUMA nodes.

use core::fmt;

use thimble_core::firmware::Numa;

use super::table::{Command, command};
use super::{Call, Done};
use crate::handlers::Outcome;

pub(super) static INFO: &[Command] = &[command(
    "numa",
    "",
    &[],
    "show the NUMA nodes with their processors and memory",
    numa,
)];

fn numa<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let cpus = call.context.owner.cpus();
    let text = &mut call.text;
    let mut shown = Ok(());
    call.context
        .owner
        .look_at_machine(&mut |machine| shown = show(text, machine.numa(), cpus));
    shown?;
    Ok(Outcome::Done)
}

fn show(text: &mut dyn fmt::Write, numa: &Numa<'_>, cpus: u32) -> fmt::Result {
    writeln!(text, "{} nodes", numa.memory.len())?;
    for (node, bytes) in (0..).zip(numa.memory) {
        write!(text, "node {node} cpus:")?;
        // As QEMU: a processor that is yet to come is not shown.
        for cpu in (0..cpus).filter(|cpu| numa.node_of(*cpu) == Some(node)) {
            write!(text, " {cpu}")?;
        }
        writeln!(text, "\nnode {node} size: {} MB", bytes >> 20)?;
        writeln!(text, "node {node} plugged: 0 MB")?;
    }
    Ok(())
}
