//! The devices that the host's kernel models with `kernel-irqchip=on`: their classes only. With
//! `kernel-irqchip=split` it models the local APICs alone.
//!
//! The guest sees the same hardware as with the machine's own models: two 8259A, an 8254, an
//! I/O APIC and a local APIC for each processor. Names follow QEMU's, which users and management
//! tools look for.

use super::class::{DeviceClass, Property, PropertyKind, Value};

/// Class of the two 8259A.
pub static PIC_CLASS: DeviceClass = DeviceClass {
    name: "kvm-i8259",
    parent: "pic-common",
    bus: Some("ISA"),
    doc: "Intel 8259A interrupt controller, in the kernel",
    user_creatable: false,
    properties: crate::irq::pic::CLASS.properties,
};

/// Class of the 8254.
pub static PIT_CLASS: DeviceClass = DeviceClass {
    name: "kvm-pit",
    parent: "pit-common",
    bus: Some("ISA"),
    doc: "Intel 8254 interval timer, in the kernel",
    user_creatable: false,
    properties: &[
        Property {
            name: "iobase",
            kind: PropertyKind::Uint32,
            default: Value::Uint(0xffff_ffff),
            doc: "first port",
        },
        Property {
            name: LOST_TICK_POLICY,
            kind: PropertyKind::Word {
                name: "LostTickPolicy",
                words: &["discard", "delay", "slew"],
            },
            default: Value::Word("delay"),
            doc: "what becomes of ticks that the guest is too late for",
        },
    ],
};

/// The timer's property that says what becomes of lost ticks.
pub const LOST_TICK_POLICY: &str = "lost_tick_policy";

/// Class of the 82093AA.
pub static IOAPIC_CLASS: DeviceClass = DeviceClass {
    name: "kvm-ioapic",
    parent: "ioapic-common",
    bus: Some("System"),
    doc: "Intel 82093AA I/O APIC, in the kernel",
    user_creatable: false,
    properties: &[Property {
        name: "gsi_base",
        kind: PropertyKind::Uint32,
        default: Value::Uint(0),
        doc: "global system interrupt of the first input",
    }],
};

/// Class of a processor's local APIC.
pub static APIC_CLASS: DeviceClass = DeviceClass {
    name: "kvm-apic",
    parent: "apic-common",
    bus: None,
    doc: "local APIC, in the kernel",
    user_creatable: false,
    properties: crate::irq::lapic::PROPERTIES,
};
