//! PCI buses and what is on them.

use core::fmt::{self, Write as _};

use thimble_core::machine::{Machine, PciDevice};
use thimble_core::pci::{BarKind, BusId};

use super::table::{Command, command};
use super::{Call, Done, Text};
use crate::handlers::{Outcome, pci};

pub(super) static INFO: &[Command] = &[command(
    "pci",
    "",
    &[],
    "show the PCI buses and what is on them",
    info_pci,
)];

fn info_pci<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let (mut written, text) = (Ok(()), &mut call.text);
    call.context.owner.visit_objects(&mut |tree| {
        // Other boards have no buses to show.
        if tree.machine.has_pci() {
            written = devices(text, tree.machine, BusId::Root);
        }
    });
    written?;
    Ok(Outcome::Done)
}

fn devices(text: &mut Text<'_>, machine: &Machine<'_>, bus: BusId) -> fmt::Result {
    let mut written = Ok(());
    machine.visit_pci(bus, &mut |found| {
        if written.is_ok() {
            written = device(text, machine, found);
        }
    });
    written
}

fn device(text: &mut Text<'_>, machine: &Machine<'_>, device: &PciDevice<'_>) -> fmt::Result {
    let address = device.address;
    let (bus, slot, function) = (address.bus, address.device(), address.function());
    writeln!(text, "  Bus {bus:2}, device {slot:3}, function {function}:")?;
    match pci::class(device) {
        (_, Some(desc)) => write!(text, "    {desc}")?,
        (class, None) => write!(text, "    Class {class:04}")?,
    }
    let (vendor, id, subsystem) = pci::ids(device);
    writeln!(text, ": PCI device {vendor:04x}:{id:04x}")?;
    if let Some((vendor, id)) = subsystem {
        writeln!(text, "      PCI subsystem {vendor:04x}:{id:04x}")?;
    }
    if let (pin @ 1.., irq) = pci::interrupt(device) {
        let pin = char::from(b'A'.wrapping_add(pin - 1));
        writeln!(text, "      IRQ {irq}, pin {pin}")?;
    }
    if let Some((bridge, _)) = device.bridge {
        let (secondary, subordinate) = (bridge.secondary(), bridge.subordinate());
        writeln!(text, "      BUS {}.", bridge.primary())?;
        writeln!(text, "      secondary bus {secondary}.")?;
        writeln!(text, "      subordinate bus {subordinate}.")?;
        let (base, limit) = bridge.io_range();
        writeln!(text, "      IO range [0x{base:04x}, 0x{limit:04x}]")?;
        for (name, (base, limit)) in [
            ("", bridge.memory_range()),
            ("prefetchable ", bridge.prefetchable_range()),
        ] {
            writeln!(
                text,
                "      {name}memory range [0x{base:08x}, 0x{limit:08x}]"
            )?;
        }
    }
    for region in pci::regions(device) {
        let base = region.address as u64;
        // That of one that does not answer is nonsense, as in QEMU.
        let last = base.wrapping_add(region.size).wrapping_sub(1);
        write!(text, "      BAR{}: ", region.bar)?;
        let (bits, prefetchable) = match region.kind {
            BarKind::Io => {
                writeln!(text, "I/O at 0x{base:04x} [0x{last:04x}].")?;
                continue;
            }
            BarKind::Memory32 { prefetchable } => (32, prefetchable),
            BarKind::Memory64 { prefetchable } => (64, prefetchable),
        };
        let kind = if prefetchable { " prefetchable" } else { "" };
        writeln!(
            text,
            "{bits} bit{kind} memory at 0x{base:08x} [0x{last:08x}]."
        )?;
    }
    writeln!(text, "      id \"{}\"", device.id)?;
    match pci::below(device) {
        Some(bus) => devices(text, machine, bus),
        None => Ok(()),
    }
}
