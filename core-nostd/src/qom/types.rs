//! The types of objects: names, parents and properties.
//!
//! Device types are the device classes, processor types the processor models; only what is
//! neither is listed here. Names and parents are those of QEMU 7.2, as `qom-list-types` shows
//! them. A type is here only if objects of it exist, or something that exists descends from it.

use super::tree::VIRTIO_BACKEND;
use super::{PropertyInfo, QomError, QomValue, TypeInfo};
use crate::cpu::{features, models};
use crate::devices::class::{DeviceClass, PCI_PROPERTIES, Property, Value};
use crate::machine::CLASSES;
use crate::virtio::block;

/// Bytes of a type's name at most.
pub const TYPE_NAME_MAX: usize = 64;

/// The name of a type that is put together.
pub type TypeName = heapless::String<TYPE_NAME_MAX>;

/// What the names of processor types end with, behind the model's.
const CPU_SUFFIX: &str = "-x86_64-cpu";

/// Models that are made from what the accelerator can show, and the types they descend from.
const HOST_MODELS: [(&str, &str); 2] = [("host", "max-x86_64-cpu"), ("max", "x86_64-cpu")];

/// From a type to `object` at most, itself included.
const DEPTH_MAX: usize = 8;

/// A property that all objects of a type have.
pub(super) struct TypeProperty {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    doc: &'static str,
    /// What it is before a device is built.
    default: Option<QomValue<'static>>,
}

const fn property(name: &'static str, kind: &'static str, doc: &'static str) -> TypeProperty {
    TypeProperty {
        name,
        kind,
        doc,
        default: None,
    }
}

const fn preset(
    name: &'static str,
    kind: &'static str,
    doc: &'static str,
    default: QomValue<'static>,
) -> TypeProperty {
    TypeProperty {
        name,
        kind,
        doc,
        default: Some(default),
    }
}

/// The default of what the board or the model decides.
const OPEN: QomValue<'static> = QomValue::Uint(u32::MAX as u64);
/// The same, with a sign.
const NOWHERE: QomValue<'static> = QomValue::Int(-1);

/// A type that is neither a device class nor a processor model.
pub(super) struct PlainType {
    name: &'static str,
    parent: Option<&'static str>,
    is_abstract: bool,
    properties: &'static [TypeProperty],
    /// Whether objects of the type, or of its descendants, can be made by users: it has QEMU's one interface that is
    /// modelled here.
    user_creatable: bool,
}

/// The interface of types that `object-add` takes.
const USER_CREATABLE: &str = "user-creatable";
/// What interfaces descend from.
const INTERFACE: &str = "interface";

const fn base(
    name: &'static str,
    parent: &'static str,
    properties: &'static [TypeProperty],
) -> PlainType {
    PlainType {
        name,
        parent: Some(parent),
        is_abstract: true,
        properties,
        user_creatable: false,
    }
}

/// A type of objects that users make, or one that such a type descends from.
const fn creatable(
    name: &'static str,
    parent: &'static str,
    is_abstract: bool,
    properties: &'static [TypeProperty],
) -> PlainType {
    PlainType {
        name,
        parent: Some(parent),
        is_abstract,
        properties,
        user_creatable: true,
    }
}

const fn concrete(
    name: &'static str,
    parent: &'static str,
    properties: &'static [TypeProperty],
) -> PlainType {
    PlainType {
        name,
        parent: Some(parent),
        is_abstract: false,
        properties,
        user_creatable: false,
    }
}

static BUS: &[TypeProperty] = &[property("realized", "bool", "whether it is in use")];

/// The machine's link to what its RAM is made of.
pub(super) const MEMORY_BACKEND: &str = "memory-backend";

static EVENT_LOOP: &[TypeProperty] = &[property(
    "aio-max-batch",
    "int",
    "pieces of work between two looks at descriptors",
)];

static IOTHREAD: &[TypeProperty] = &[
    property("poll-grow", "int", "what a short time is multiplied by"),
    property("poll-max-ns", "int", "ns to look for work before sleeping"),
    property("poll-shrink", "int", "what a useless time is divided by"),
];

static MEMORY: &[TypeProperty] = &[
    property("dump", "bool", "whether core dumps have it"),
    property("host-nodes", "int", "NUMA nodes of the host"),
    property("merge", "bool", "whether equal pages may be merged"),
    property("policy", "HostMemPolicy", "which of these nodes it is from"),
    property("prealloc", "bool", "all of it is there from the start"),
    property("prealloc-threads", "int", "threads that see to that"),
    property("reserve", "bool", "swap space is set aside for it"),
    property("share", "bool", "whether other processes may see it"),
    property("size", "int", "bytes"),
    property("x-use-canonical-path-for-ramblock-id", "bool", ""),
];

static MEMORY_FILE: &[TypeProperty] = &[
    property("align", "int", "what its address is a multiple of"),
    property("discard-data", "bool", "the content goes with the object"),
    property("mem-path", "string", "the file, or a directory"),
    property("pmem", "bool", "persistent memory"),
    property("readonly", "bool", "whether it can only be read"),
];

static MEMORY_MEMFD: &[TypeProperty] = &[
    property("hugetlb", "bool", "made of huge pages"),
    property("hugetlbsize", "int", "bytes of such a page"),
    property("seal", "bool", "it can't grow or shrink"),
];

static SECRET_COMMON: &[TypeProperty] = &[
    property("format", "QCryptoSecretFormat", "how it is written"),
    property("iv", "string", "initialization vector, in base64"),
    property("keyid", "string", "the secret it is encrypted with"),
    property("loaded", "bool", "whether it is known"),
];

static SECRET: &[TypeProperty] = &[
    property("data", "string", "the secret as it was given"),
    property("file", "string", "the file that it is in"),
];

static THROTTLE_GROUP: &[TypeProperty] = &[
    property("limits", "ThrottleLimits", ""),
    property("x-bps-total", "int", ""),
    property("x-bps-total-max", "int", ""),
    property("x-bps-total-max-length", "int", ""),
    property("x-bps-read", "int", ""),
    property("x-bps-read-max", "int", ""),
    property("x-bps-read-max-length", "int", ""),
    property("x-bps-write", "int", ""),
    property("x-bps-write-max", "int", ""),
    property("x-bps-write-max-length", "int", ""),
    property("x-iops-total", "int", ""),
    property("x-iops-total-max", "int", ""),
    property("x-iops-total-max-length", "int", ""),
    property("x-iops-read", "int", ""),
    property("x-iops-read-max", "int", ""),
    property("x-iops-read-max-length", "int", ""),
    property("x-iops-write", "int", ""),
    property("x-iops-write-max", "int", ""),
    property("x-iops-write-max-length", "int", ""),
    property("x-iops-size", "int", ""),
];

/// Properties of all machines.
static MACHINE: &[TypeProperty] = &[
    property("append", "string", "kernel command line"),
    property(
        "dump-guest-core",
        "bool",
        "guest RAM is part of a core dump",
    ),
    property("firmware", "string", "firmware image"),
    property(
        "graphics",
        "bool",
        "firmware may expect a graphical console",
    ),
    property("initrd", "string", "initial RAM disk"),
    property("kernel", "string", "kernel image"),
    property("mem-merge", "bool", "equal pages may be merged"),
    property("memory", "MemorySizeConfiguration", "guest RAM"),
    property(
        MEMORY_BACKEND,
        "link<memory-backend>",
        "what guest RAM is made of",
    ),
    property(
        "smp",
        "SMPConfiguration",
        "processors and how they are arranged",
    ),
    property("usb", "bool", "USB controller"),
];

static X86_MACHINE: &[TypeProperty] = &[
    property("acpi", "OnOffAuto", "ACPI"),
    property("pic", "OnOffAuto", "8259 PICs"),
    property("pit", "OnOffAuto", "8254 PIT"),
    property("smm", "OnOffAuto", "system management mode"),
];

static PC_MACHINE: &[TypeProperty] = &[
    property("hpet", "bool", "HPET"),
    property("i8042", "bool", "keyboard controller"),
    property("sata", "bool", "SATA"),
    property("smbios-entry-point-type", "str", "SMBIOS 2.8 or 3.0"),
    property("smbus", "bool", "SMBus"),
    property("vmport", "OnOffAuto", "VMware's port"),
];

static MICROVM_MACHINE: &[TypeProperty] = &[
    property(
        "auto-kernel-cmdline",
        "bool",
        "devices are added to the command line",
    ),
    property("ioapic2", "OnOffAuto", "second I/O APIC"),
    property("isa-serial", "bool", "a serial port"),
    property("pcie", "OnOffAuto", "PCI Express"),
    property("rtc", "OnOffAuto", "real-time clock"),
    property("x-option-roms", "bool", "option ROMs"),
];

/// Properties of all processors, beside the feature bits.
static CPU: &[TypeProperty] = &[
    preset("apic-id", "uint32", "initial APIC id", OPEN),
    preset("core-id", "int32", "core within the socket", NOWHERE),
    property("family", "int", "CPUID family, the extended one added"),
    preset("level", "uint32", "highest basic CPUID leaf", OPEN),
    property("model", "int", "CPUID model"),
    property("model-id", "string", "CPUID brand string"),
    preset("socket-id", "int32", "socket", NOWHERE),
    property("stepping", "int", "CPUID stepping"),
    preset("thread-id", "int32", "thread within the core", NOWHERE),
    property("vendor", "string", "CPUID vendor"),
    preset("xlevel", "uint32", "highest extended CPUID leaf", OPEN),
];

static KVM: &[TypeProperty] = &[property(
    "kernel-irqchip",
    "on|off|split",
    "interrupt controllers in the kernel",
)];

static TCG: &[TypeProperty] = &[property("thread", "string", "threads of processors")];

static QTEST: &[TypeProperty] = &[
    property("chardev", "string", "character device of the protocol"),
    property("log", "string", "file that the protocol is logged to"),
];

static SOCKET: &[TypeProperty] = &[property("connected", "bool", "whether a peer is there")];

/// What every device has; `device-list-properties` leaves these out.
static DEVICE: &[TypeProperty] = &[
    property(
        "hotpluggable",
        "bool",
        "whether it could come and go with the machine running",
    ),
    property(
        "hotplugged",
        "bool",
        "whether it came with the machine running",
    ),
    property("parent_bus", "link<bus>", "the bus it is on"),
    property("realized", "bool", "whether it is in use"),
];

static TYPES: &[PlainType] = &[
    PlainType {
        name: "object",
        parent: None,
        is_abstract: true,
        properties: &[property("type", "string", "")],
        user_creatable: false,
    },
    PlainType {
        name: INTERFACE,
        parent: None,
        is_abstract: true,
        properties: &[],
        user_creatable: false,
    },
    base(USER_CREATABLE, INTERFACE, &[]),
    // Not abstract in QEMU either.
    concrete("accel", "object", &[]),
    concrete("kvm-accel", "accel", KVM),
    concrete("qtest-accel", "accel", &[]),
    concrete("tcg-accel", "accel", TCG),
    base("bus", "object", &[]),
    concrete("IDE", "bus", BUS),
    concrete("floppy-bus", "bus", BUS),
    concrete("ISA", "bus", BUS),
    concrete("PCI", "bus", BUS),
    concrete("PCIE", "PCI", &[]),
    concrete("System", "bus", BUS),
    base("virtio-bus", "bus", &[]),
    concrete("virtio-mmio-bus", "virtio-bus", BUS),
    concrete("virtio-pci-bus", "virtio-bus", BUS),
    base("chardev", "object", &[]),
    base("chardev-fd", "chardev", &[]),
    concrete("chardev-file", "chardev-fd", &[]),
    concrete("chardev-null", "chardev", &[]),
    concrete("chardev-socket", "chardev", SOCKET),
    concrete("chardev-stdio", "chardev-fd", &[]),
    concrete("container", "object", &[]),
    base("device", "object", DEVICE),
    base("apic-common", "device", &[]),
    base("cpu", "device", &[]),
    base("x86_64-cpu", "cpu", CPU),
    base("isa-device", "device", &[]),
    base("pic-common", "isa-device", &[]),
    base("pit-common", "isa-device", &[]),
    base("pci-device", "device", &[]),
    base("base-pci-bridge", "pci-device", &[]),
    base("pci-piix3", "pci-device", &[]),
    base("pci-ide", "pci-device", &[]),
    base("ide-device", "device", &[]),
    base("virtio-pci", "pci-device", &[]),
    base("virtio-blk-pci-base", "virtio-pci", &[]),
    base("virtio-device", "device", &[]),
    base("sys-bus-device", "device", &[]),
    concrete("acpi-ged", "sys-bus-device", &[]),
    base("fw_cfg", "sys-bus-device", &[]),
    base("ioapic-common", "sys-bus-device", &[]),
    concrete("isabus-bridge", "sys-bus-device", &[]),
    base("pci-host-bridge", "sys-bus-device", &[]),
    base("pcie-host-bridge", "pci-host-bridge", &[]),
    creatable("event-loop-base", "object", true, EVENT_LOOP),
    creatable("iothread", "event-loop-base", false, IOTHREAD),
    base("machine", "object", MACHINE),
    concrete("none-machine", "machine", &[]),
    base("x86-machine", "machine", X86_MACHINE),
    base("generic-pc-machine", "x86-machine", PC_MACHINE),
    concrete("pc-i440fx-7.2-machine", "generic-pc-machine", &[]),
    concrete("microvm-machine", "x86-machine", MICROVM_MACHINE),
    creatable("memory-backend", "object", true, MEMORY),
    creatable("memory-backend-file", "memory-backend", false, MEMORY_FILE),
    creatable(
        "memory-backend-memfd",
        "memory-backend",
        false,
        MEMORY_MEMFD,
    ),
    creatable("memory-backend-ram", "memory-backend", false, &[]),
    concrete("qtest", "object", QTEST),
    creatable("secret_common", "object", true, SECRET_COMMON),
    creatable("secret", "secret_common", false, SECRET),
    creatable("throttle-group", "object", false, THROTTLE_GROUP),
];

/// A type, wherever it is described.
#[derive(Clone, Copy)]
pub(super) enum Type {
    Plain(&'static PlainType),
    Device(&'static DeviceClass),
    /// The parent of a processor type.
    Cpu(&'static str),
}

impl Type {
    pub(super) fn find(name: &str) -> Option<Self> {
        if let Some(plain) = TYPES.iter().find(|plain| plain.name == name) {
            return Some(Self::Plain(plain));
        }
        if let Some(class) = CLASSES.iter().find(|class| class.name == name) {
            return Some(Self::Device(class));
        }
        let model = name.strip_suffix(CPU_SUFFIX)?;
        if let Some((_, parent)) = HOST_MODELS.iter().find(|(host, _)| *host == model) {
            return Some(Self::Cpu(parent));
        }
        models::find(model).map(|_| Self::Cpu("x86_64-cpu"))
    }

    fn parent(self) -> Option<&'static str> {
        match self {
            Self::Plain(plain) => plain.parent,
            Self::Device(class) => Some(class.parent),
            Self::Cpu(parent) => Some(parent),
        }
    }

    fn is_abstract(self) -> bool {
        matches!(self, Self::Plain(plain) if plain.is_abstract)
    }

    /// The properties that a type which is no device's adds to those of its parent.
    pub(super) fn plain_properties(self) -> &'static [TypeProperty] {
        match self {
            Self::Plain(plain) => plain.properties,
            Self::Device(_) | Self::Cpu(_) => &[],
        }
    }

    /// The type and its ancestors, `object` last.
    pub(super) fn line(self) -> heapless::Vec<Self, DEPTH_MAX> {
        let mut line = heapless::Vec::new();
        let mut next = Some(self);
        while let Some(this) = next {
            if line.push(this).is_err() {
                break;
            }
            next = this.parent().and_then(Self::find);
        }
        line
    }
}

/// The name of the type of a processor model's processors.
pub fn cpu_type(model: &str) -> TypeName {
    let mut name = TypeName::new();
    // Models with longer names do not exist.
    let _ = name.push_str(model);
    let _ = name.push_str(CPU_SUFFIX);
    name
}

/// Whether a type is another one or descends from it. A type that does not exist does neither.
pub fn implements(name: &str, ancestor: &str) -> bool {
    let Some(first) = Type::find(name) else {
        return false;
    };
    name == ancestor || {
        let line = first.line();
        let creatable = matches!(first, Type::Plain(plain) if plain.user_creatable);
        line.iter().any(|this| this.parent() == Some(ancestor))
            || (creatable && matches!(ancestor, USER_CREATABLE | INTERFACE))
    }
}

/// Visits the types that are or descend from `ancestor`, abstract ones only if asked for: the
/// result of `qom-list-types`.
pub fn types(ancestor: Option<&str>, with_abstract: bool, visit: &mut dyn FnMut(TypeInfo<'_>)) {
    let mut offer = |name: &str, this: Type| {
        if (this.is_abstract() && !with_abstract)
            || ancestor.is_some_and(|ancestor| !implements(name, ancestor))
        {
            return;
        }
        visit(TypeInfo {
            name,
            parent: this.parent(),
            is_abstract: this.is_abstract(),
        });
    };
    for plain in TYPES {
        offer(plain.name, Type::Plain(plain));
    }
    for class in CLASSES {
        offer(class.name, Type::Device(class));
    }
    for model in &models::MODELS {
        let mut name = TypeName::new();
        for version in ["", "-v1"] {
            name.clear();
            let _ = name.push_str(model.name);
            let _ = name.push_str(version);
            if models::find(&name).is_none() {
                continue;
            }
            offer(&cpu_type(&name), Type::Cpu("x86_64-cpu"));
        }
    }
    for (model, parent) in HOST_MODELS {
        offer(&cpu_type(model), Type::Cpu(parent));
    }
}

/// Visits the properties that objects of a type have: the result of `qom-list-properties`.
///
/// # Errors
/// [`QomError::NoClass`].
pub fn type_properties<'n>(
    name: &'n str,
    visit: &mut dyn FnMut(PropertyInfo<'_>),
) -> Result<(), QomError<'n>> {
    let this = Type::find(name).ok_or(QomError::NoClass(name))?;
    if implements(name, INTERFACE) && !implements(name, "object") {
        return Err(QomError::Interface);
    }
    for ancestor in this.line().iter().rev() {
        own_properties(*ancestor, false, visit);
    }
    Ok(())
}

/// Visits the properties that `-device` takes for a type, or that belong to its devices alone: the
/// result of `device-list-properties`.
///
/// # Errors
/// [`QomError::NoDevice`], or [`QomError::NotDevice`] for an abstract type, too.
pub fn device_properties<'n>(
    name: &'n str,
    visit: &mut dyn FnMut(PropertyInfo<'_>),
) -> Result<(), QomError<'n>> {
    let this = Type::find(name).ok_or(QomError::NoDevice(name))?;
    if this.is_abstract() || !implements(name, "device") {
        return Err(QomError::NotDevice);
    }
    for ancestor in this.line().iter().rev() {
        let common =
            matches!(ancestor, Type::Plain(plain) if matches!(plain.name, "object" | "device"));
        if !common {
            own_properties(*ancestor, true, visit);
        }
    }
    Ok(())
}

/// The properties that a type adds to those of its parent.
fn own_properties(this: Type, with_defaults: bool, visit: &mut dyn FnMut(PropertyInfo<'_>)) {
    match this {
        Type::Plain(plain) => {
            for property in plain.properties {
                visit(PropertyInfo {
                    name: property.name,
                    kind: property.kind,
                    description: Some(property.doc).filter(|doc| !doc.is_empty()),
                    default: property.default.filter(|_| with_defaults),
                });
            }
            if plain.name == "pci-device" {
                class_properties(PCI_PROPERTIES, with_defaults, visit);
            }
            if plain.name == "x86_64-cpu" {
                feature_names(&mut |name, _, _| {
                    visit(PropertyInfo {
                        name,
                        kind: "bool",
                        description: None,
                        default: None,
                    });
                });
            }
        }
        Type::Device(class) => {
            class_properties(class.properties, with_defaults, visit);
            class_properties(class.shared(), with_defaults, visit);
            if class.name == block::PCI_NAME {
                visit(PropertyInfo {
                    name: VIRTIO_BACKEND,
                    kind: "child<virtio-blk-device>",
                    description: None,
                    default: None,
                });
            }
        }
        Type::Cpu(_) => {}
    }
}

fn class_properties(
    properties: &[Property],
    with_defaults: bool,
    visit: &mut dyn FnMut(PropertyInfo<'_>),
) {
    for property in properties {
        visit(PropertyInfo {
            name: property.name,
            kind: property.kind.name(),
            description: Some(property.doc),
            default: default_of(property).filter(|_| with_defaults),
        });
    }
}

fn default_of(property: &Property) -> Option<QomValue<'_>> {
    match &property.default {
        Value::Unset => None,
        Value::Bool(on) => Some(QomValue::Bool(*on)),
        Value::Uint(number) => Some(QomValue::Uint(*number)),
        Value::Int(number) => Some(QomValue::Int(*number)),
        Value::Text(text) => Some(QomValue::Str(text)),
        Value::Word(word) => Some(QomValue::Str(word)),
    }
}

/// Visits each name of a CPUID feature once, with the word and the bits that it stands for: several
/// bits of one name are in the same word.
pub(super) fn feature_names(visit: &mut dyn FnMut(&'static str, usize, u32)) {
    for word in 0..features::WORDS {
        let names = features::word_names(word);
        for (bit, name) in names.iter().enumerate() {
            let known = names.iter().take(bit).any(|earlier| earlier == name);
            if name.is_empty() || known {
                continue;
            }
            let same = names.iter().enumerate().filter(|(_, other)| *other == name);
            let bits = same.fold(0, |bits, (other, _)| bits | 1 << other);
            visit(name, word, bits);
        }
    }
}
