//! What is added to a kernel's command line: what a kernel on microvm can't find by itself (`auto-kernel-cmdline`).
//!
//! Without ACPI these are virtio devices in memory, as QEMU writes them (Linux' `virtio_mmio.device=`). On the software CPU it is the speed of
//! the time-stamp counter, too: this board has no clock that Linux could measure it against for sure, and a guess that a busy host
//! has spoilt would stay. The counter is the virtual clock, so it needs no other to watch it.

use thimble_core::firmware::acpi::VirtioPlace;
use thimble_core::virtio::transport::mmio;

use crate::options::{MachineKind, Options};

/// The command line for a kernel that is to be told of devices at these places, ascending, and of a counter with so many ticks a second.
pub(super) fn of(options: &Options, devices: &[VirtioPlace], tsc_hz: Option<u64>) -> String {
    let mut line = options.append.clone().unwrap_or_default();
    let machine = &options.machine;
    if machine.kind != MachineKind::Microvm || !machine.auto_kernel_cmdline {
        return line;
    }
    if !machine.acpi {
        for place in devices.iter().rev() {
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
