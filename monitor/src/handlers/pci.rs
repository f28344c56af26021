//! PCI buses and what is on them.

use thimble_core::devices::Width;
use thimble_core::machine::{Machine, PciDevice};
use thimble_core::pci::{BarKind, BusId, ROM_BAR, bridge::Window, reg};
use thimble_core::qmp::{Sink, SinkFull, Writer};

use super::Context;
use crate::Owner;
use crate::error::Fail;
use crate::reply::{ListReply, element};
use crate::schema::results::{
    PciBusInfo, PciDeviceClass, PciDeviceId, PciMemoryRange, PciMemoryRegion,
};

/// Classes in QEMU's words; others have none.
const CLASSES: [(u16, &str); 24] = [
    (0x0001, "VGA controller"),
    (0x0100, "SCSI controller"),
    (0x0101, "IDE controller"),
    (0x0102, "Floppy controller"),
    (0x0103, "IPI controller"),
    (0x0104, "RAID controller"),
    (0x0106, "SATA controller"),
    (0x0180, "Storage controller"),
    (0x0200, "Ethernet controller"),
    (0x0280, "Network controller"),
    (0x0300, "VGA controller"),
    (0x0380, "Display controller"),
    (0x0401, "Audio controller"),
    (0x0403, "Audio controller"),
    (0x0500, "RAM controller"),
    (0x0600, "Host bridge"),
    (0x0601, "ISA bridge"),
    (0x0604, "PCI bridge"),
    (0x0680, "Bridge"),
    (0x0700, "Serial port"),
    (0x0701, "Parallel port"),
    (0x0900, "Keyboard"),
    (0x0902, "Mouse"),
    (0x0c03, "USB controller"),
];

/// Bytes of a range, and where it begins while it answers.
pub(crate) struct Region {
    pub(crate) bar: usize,
    pub(crate) kind: BarKind,
    pub(crate) address: i64,
    pub(crate) size: u64,
}

/// A device's class.
pub(crate) fn class(device: &PciDevice<'_>) -> (u16, Option<&'static str>) {
    let class = device.config.read(reg::CLASS_CODE + 1, Width::Word) as u16;
    let known = CLASSES.iter().find(|(known, _)| *known == class);
    (class, known.map(|(_, text)| *text))
}

/// A device's IDs: vendor, device, and the subsystem's two, which bridges do not have.
pub(crate) fn ids(device: &PciDevice<'_>) -> (u16, u16, Option<(u16, u16)>) {
    let word = |at| device.config.read(at, Width::Word) as u16;
    let subsystem = (word(reg::SUBSYSTEM_VENDOR_ID), word(reg::SUBSYSTEM_ID));
    (
        word(reg::VENDOR_ID),
        word(reg::DEVICE_ID),
        (!device.config.is_bridge()).then_some(subsystem),
    )
}

/// A device's interrupt pin, and the interrupt that firmware has noted.
pub(crate) fn interrupt(device: &PciDevice<'_>) -> (u8, u8) {
    let config = device.config;
    (
        config.byte(reg::INTERRUPT_PIN),
        config.byte(reg::INTERRUPT_LINE),
    )
}

/// A device's ranges.
pub(crate) fn regions(device: &PciDevice<'_>) -> impl Iterator<Item = Region> {
    let config = device.config;
    (0..=ROM_BAR).filter_map(move |bar| {
        let (kind, size) = config.bar_kind(bar)?;
        let address = config.bar(bar).map_or(-1, |(address, _)| address as i64);
        Some(Region {
            bar,
            kind,
            address,
            size,
        })
    })
}

/// The bus below a bridge, once it has a number.
pub(crate) fn below(device: &PciDevice<'_>) -> Option<BusId> {
    let (bridge, below) = device.bridge?;
    (bridge.secondary() != 0).then_some(below)
}

fn range((base, limit): Window) -> PciMemoryRange {
    PciMemoryRange {
        base: base as i64,
        limit: limit as i64,
    }
}

pub(crate) fn query_pci<O: Owner, S: Sink>(
    context: &mut Context<'_, O>,
    list: &mut ListReply<'_, S>,
) -> Result<(), Fail<'static>> {
    context.owner.visit_objects(&mut |tree| {
        if !tree.machine.has_pci() {
            return;
        }
        list.stream(|writer| {
            writer.begin_object()?;
            writer.key(b"bus")?;
            writer.int(0)?;
            devices(writer, tree.machine, BusId::Root)?;
            writer.end_object()
        });
    });
    Ok(())
}

/// Writes a bus's devices. Bridges nest no deeper than there are bridges.
fn devices<S: Sink>(
    writer: &mut Writer<'_, S>,
    machine: &Machine<'_>,
    bus: BusId,
) -> Result<(), SinkFull> {
    writer.key(b"devices")?;
    writer.begin_array()?;
    let mut written = Ok(());
    machine.visit_pci(bus, &mut |found| {
        if written.is_ok() {
            written = device(writer, machine, found);
        }
    });
    written?;
    writer.end_array()
}

fn device<S: Sink>(
    writer: &mut Writer<'_, S>,
    machine: &Machine<'_>,
    device: &PciDevice<'_>,
) -> Result<(), SinkFull> {
    let int = |writer: &mut Writer<'_, S>, name: &[u8], value: u8| {
        writer.key(name)?;
        writer.int(value.into())
    };
    writer.begin_object()?;
    int(writer, b"bus", device.address.bus)?;
    int(writer, b"slot", device.address.device())?;
    int(writer, b"function", device.address.function())?;
    let (class, desc) = class(device);
    writer.key(b"class_info")?;
    let class = class.into();
    element(writer, &PciDeviceClass { desc, class })?;
    let (vendor, id, subsystem) = ids(device);
    writer.key(b"id")?;
    let ids = PciDeviceId {
        device: id.into(),
        vendor: vendor.into(),
        subsystem: subsystem.map(|(_, id)| id.into()),
        subsystem_vendor: subsystem.map(|(vendor, _)| vendor.into()),
    };
    element(writer, &ids)?;
    let (pin, irq) = interrupt(device);
    if pin != 0 {
        int(writer, b"irq", irq)?;
    }
    int(writer, b"irq_pin", pin)?;
    writer.key(b"qdev_id")?;
    writer.str(device.id)?;
    if let Some((bridge, _)) = device.bridge {
        writer.key(b"pci_bridge")?;
        writer.begin_object()?;
        writer.key(b"bus")?;
        let bus = PciBusInfo {
            number: bridge.primary().into(),
            secondary: bridge.secondary().into(),
            subordinate: bridge.subordinate().into(),
            io_range: range(bridge.io_range()),
            memory_range: range(bridge.memory_range()),
            prefetchable_range: range(bridge.prefetchable_range()),
        };
        element(writer, &bus)?;
        if let Some(bus) = below(device) {
            devices(writer, machine, bus)?;
        }
        writer.end_object()?;
    }
    writer.key(b"regions")?;
    writer.begin_array()?;
    for region in regions(device) {
        let (kind, memory) = match region.kind {
            BarKind::Io => ("io", None),
            BarKind::Memory32 { prefetchable } => ("memory", Some((prefetchable, false))),
            BarKind::Memory64 { prefetchable } => ("memory", Some((prefetchable, true))),
        };
        let region = PciMemoryRegion {
            bar: region.bar as i64,
            r#type: kind,
            address: region.address,
            size: region.size as i64,
            prefetch: memory.map(|(prefetchable, _)| prefetchable),
            mem_type_64: memory.map(|(_, is_64)| is_64),
        };
        element(writer, &region)?;
    }
    writer.end_array()?;
    writer.end_object()
}
