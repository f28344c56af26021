//! What is added to a kernel's command line: what a kernel on microvm can't find by itself (`auto-kernel-cmdline`).
//!
//! Without ACPI these are virtio devices in memory, as QEMU writes them (Linux' `virtio_mmio.device=`). On the software CPU it is the speed of
//! the time-stamp counter, too: this board has no clock that Linux could measure it against for sure, and a guess that a busy host
//! has spoilt would stay. The counter is the virtual clock, so it needs no other to watch it.

use thimble_core::machine::{BUS_PREFIX, virtio_without_acpi};
use thimble_core::virtio::block::MMIO_CLASS;
use thimble_core::virtio::transport::mmio;

use crate::options::{MachineKind, Options};

/// The command line, for a counter with so many ticks a second if the kernel is to be told of it.
pub(super) fn of(options: &Options, tsc_hz: Option<u64>) -> String {
    let mut line = options.append.clone().unwrap_or_default();
    let machine = &options.machine;
    if machine.kind != MachineKind::Microvm || !machine.auto_kernel_cmdline {
        return line;
    }
    if !machine.acpi {
        let buses = options.devices.iter();
        let disks = buses.filter(|device| device.properties.class().name == MMIO_CLASS.name);
        let mut free: Vec<_> = virtio_without_acpi().collect();
        let mut taken = Vec::new();
        for disk in disks {
            // A name that is none of these is refused when the device is plugged in.
            let number = disk
                .bus
                .as_deref()
                .and_then(|bus| bus.strip_prefix(BUS_PREFIX));
            let at = match number {
                Some(number) => free
                    .iter()
                    .position(|place| place.number.to_string() == number),
                None => free.len().checked_sub(1),
            };
            taken.extend(at.map(|at| free.remove(at)));
        }
        taken.sort_by_key(|place| core::cmp::Reverse(place.number));
        for place in taken {
            let (length, address, irq) = (mmio::LENGTH, place.address, place.irq);
            line += &format!(" virtio_mmio.device={length}@{address:#010x}:{irq}");
        }
    }
    if let Some(hz) = tsc_hz
        && !line.contains("tsc")
    {
        let khz = hz / 1000;
        line += &format!(" tsc_early_khz={khz} tsc=reliable");
    }
    line
}
