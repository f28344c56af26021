//! What the machine is made of: devices, buses, objects, controllers, and where they stand.

use core::fmt::{self, Write as _};

use thimble_core::irq::ioapic;
use thimble_core::machine::listing::Range;
use thimble_core::machine::{Board, Irqchip, Machine};
use thimble_core::qom::{BusLine, QomValue};

use super::block::write_size;
use super::table::{Command, Kind, command, flag, optional};
use super::{Call, Done, Text, apic};
use crate::handlers::Outcome;

/// The files that firmware builds tables of ACPI from.
const ACPI_FILES: [&str; 3] = ["etc/acpi/rsdp", "etc/acpi/tables", "etc/table-loader"];

/// Lines of the ISA bus.
const ISA_LINES: usize = 16;

/// Where a firmware's image ends.
const ROM_END: u64 = 1 << 32;

pub(super) static INFO: &[Command] = &[
    command("chardev", "", &[], "show the character devices", chardev),
    command(
        "irq",
        "",
        &[],
        "show how often interrupts were asked for",
        irq,
    ),
    command(
        "mtree",
        "[-f]",
        &[flag(b'f')],
        "show what stands at which addresses of memory and of ports, as it is seen (-f: the same)",
        mtree,
    ),
    command("pic", "", &[], "show the I/O APIC and both PICs", pic),
    command(
        "qom-tree",
        "[path]",
        &[optional(Kind::Text)],
        "show an object and what it is made of",
        qom_tree,
    ),
    command("qtree", "", &[], "show the devices on each bus", qtree),
    command("roms", "", &[], "show what firmware is made of", roms),
];

fn chardev<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let (text, mut shown) = (&mut call.text, Ok(()));
    call.context.owner.visit_chardevs(&mut |id, connected| {
        if shown.is_ok() {
            shown = writeln!(text, "{id}: filename={connected}");
        }
    });
    shown?;
    Ok(Outcome::Done)
}

fn pic<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let mut is_there = false;
    let look = &mut |machine: &Machine<'_>| is_there = machine.board() != Board::None;
    call.context.owner.look_at_machine(look);
    if is_there {
        let controllers = call.context.owner.controllers()?;
        apic::board(&controllers, &mut call.text)?;
    }
    Ok(Outcome::Done)
}

/// Each controller counts what it sees: an I/O APIC its inputs, the PICs the lines of the ISA bus.
fn irq<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let text = &mut call.text;
    let mut shown = Ok(());
    call.context.owner.look_at_machine(&mut |machine| {
        if machine.board() == Board::None {
            return;
        }
        let raised = machine.raised_lines().split_at_checked(ioapic::PINS);
        let (first, second) = raised.unwrap_or_default();
        let isa = first.get(..ISA_LINES).filter(|_| machine.has_pic());
        let second = machine.has_second_ioapic().then_some(second);
        for (name, raised) in [
            ("ioapic", Some(first)),
            ("isa-i8259", isa),
            ("ioapic", second),
        ] {
            let Some(raised) = raised else { continue };
            if machine.irqchip() == Irqchip::Host {
                shown = shown
                    .and_then(|()| writeln!(text, "IRQ statistics not available for kvm-{name}."));
                continue;
            }
            shown = shown.and_then(|()| writeln!(text, "IRQ statistics for {name}:"));
            for (line, count) in raised.iter().enumerate() {
                if *count > 0 {
                    shown = shown.and_then(|()| writeln!(text, "{line:2}: {count}"));
                }
            }
        }
    });
    shown?;
    Ok(Outcome::Done)
}

fn mtree<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let text = &mut call.text;
    let mut shown = Ok(());
    call.context.owner.look_at_machine(&mut |machine| {
        shown = writeln!(text, "address-space: memory");
        let show = &mut |range: &Range| {
            if shown.is_ok() {
                shown = line(range, text);
            }
        };
        machine.visit_memory(show);
        if shown.is_ok() {
            shown = writeln!(text, "\naddress-space: I/O");
        }
        machine.visit_ports(&mut |range: &Range| {
            if shown.is_ok() {
                shown = line(range, text);
            }
        });
    });
    shown?;
    Ok(Outcome::Done)
}

fn line(range: &Range, text: &mut Text<'_>) -> fmt::Result {
    let (first, last, kind) = (range.first, range.last, range.kind.name());
    write!(
        text,
        "  {first:016x}-{last:016x} (prio 0, {kind}): {}",
        range.name
    )?;
    if range.offset != 0 {
        write!(text, " @{:016x}", range.offset)?;
    }
    writeln!(text)
}

fn qom_tree<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let asked = call.arguments.optional_text(0).unwrap_or(b"/machine");
    let path = core::str::from_utf8(asked).unwrap_or_default();
    let text = &mut call.text;
    let (mut found, mut shown) = (false, Ok(()));
    call.context.owner.visit_objects(&mut |tree| {
        let done = tree.outline(path, &mut |depth, name, kind| {
            if shown.is_ok() {
                shown = writeln!(text, "{:indent$}/{name} ({kind})", "", indent = 2 * depth);
            }
        });
        found = done.is_ok();
    });
    shown?;
    if !found {
        let after = b"' could not be resolved.\n";
        call.text.pieces(&[b"Path '", asked, after])?;
    }
    Ok(Outcome::Done)
}

fn qtree<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let text = &mut call.text;
    let mut shown = Ok(());
    call.context.owner.visit_objects(&mut |tree| {
        tree.buses(&mut |depth, line| {
            if shown.is_ok() {
                shown = bus_line(depth, &line, text);
            }
        });
    });
    shown?;
    Ok(Outcome::Done)
}

fn bus_line(depth: usize, line: &BusLine<'_>, text: &mut Text<'_>) -> fmt::Result {
    let indent = 2 * depth;
    write!(text, "{:indent$}", "")?;
    match line {
        BusLine::Bus(name, kind) => writeln!(text, "bus: {name}\n{:indent$}  type {kind}", ""),
        BusLine::Device(kind, id) => writeln!(text, "dev: {kind}, id \"{id}\""),
        BusLine::Size(name, bytes) => {
            write!(text, "{name} = {bytes} (")?;
            write_size(*bytes, text)?;
            writeln!(text, ")")
        }
        BusLine::Property(name, value) => {
            write!(text, "{name} = ")?;
            match value {
                QomValue::Bool(on) => writeln!(text, "{on}"),
                // Of a PCI function: its device, and which of that it is.
                QomValue::Int(place) if *name == "addr" => {
                    writeln!(text, "{:02x}.{}", place >> 3, place & 7)
                }
                QomValue::Int(number) => writeln!(text, "{number} ({number:#x})"),
                QomValue::Uint(number) => writeln!(text, "{number} ({number:#x})"),
                QomValue::Str(value) => writeln!(text, "\"{value}\""),
                // No device has such a property.
                QomValue::Members(_) | QomValue::Numbers(_) => writeln!(text, "{{}}"),
            }
        }
    }
}

fn roms<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let text = &mut call.text;
    let mut shown = Ok(());
    call.context.owner.visit_objects(&mut |tree| {
        let size = tree.machine.rom().len();
        if size > 0 {
            let (from, path) = (ROM_END - size as u64, tree.outside.settings().firmware);
            let name = path.rsplit('/').next().unwrap_or(path);
            shown = writeln!(
                text,
                "addr={from:016x} size=0x{size:06x} mem=rom name=\"{name}\""
            );
        }
        tree.machine.visit_files(&mut |name, size| {
            if shown.is_ok() && ACPI_FILES.contains(&name) {
                shown = writeln!(text, "/rom@{name} size=0x{size:06x} name=\"{name}\"");
            }
        });
    });
    shown?;
    Ok(Outcome::Done)
}
