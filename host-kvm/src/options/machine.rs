//! The board, the accelerators, memory and processors: `-machine -accel -m -smp`.

use thimble_core::devices::pflash::UNITS_MAX;
use thimble_core::firmware::smbios::EntryPoint;
use thimble_core::qom::cpu_type;
use thimble_monitor::schema::results::MachineInfo;

use super::opts::{Kind, Opts, OptsTable, Reason, SubOption};

/// Which board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineKind {
    /// i440FX and PIIX3.
    Pc,
    /// Devices without PCI.
    Microvm,
    /// Memory and processors only.
    None,
}

impl MachineKind {
    /// Processors at most. The empty machine has none, but takes `-smp 1`.
    const fn cpus_max(self) -> u32 {
        match self {
            Self::Pc | Self::Microvm => CPUS_MAX,
            Self::None => 1,
        }
    }

    /// The id of the memory backend that guest RAM is made of where none is named.
    pub const fn ram_id(self) -> &'static str {
        match self {
            Self::Pc => "pc.ram",
            Self::Microvm => "microvm.ram",
            Self::None => "ram",
        }
    }
}

/// A board that `-machine` names.
struct MachineName {
    name: &'static str,
    alias: Option<&'static str>,
    kind: MachineKind,
    doc: &'static str,
}

/// The table of boards; the first is the default.
static MACHINES: &[MachineName] = &[
    MachineName {
        name: "pc-i440fx-7.2",
        alias: Some("pc"),
        kind: MachineKind::Pc,
        doc: "Standard PC (i440FX + PIIX)",
    },
    MachineName {
        name: "microvm",
        alias: None,
        kind: MachineKind::Microvm,
        doc: "small machine without PCI",
    },
    MachineName {
        name: "none",
        alias: None,
        kind: MachineKind::None,
        doc: "empty machine",
    },
];

/// The model of processors that `-cpu` says nothing of.
pub const DEFAULT_CPU: &str = "qemu64";

/// Tells of every board.
pub fn visit_machines(visit: &mut dyn FnMut(&MachineInfo<'_>)) {
    let cpu_type = cpu_type(DEFAULT_CPU);
    for (index, machine) in MACHINES.iter().enumerate() {
        let has_cpus = machine.kind != MachineKind::None;
        visit(&MachineInfo {
            name: machine.name,
            alias: machine.alias,
            is_default: (index == 0).then_some(true),
            cpu_max: machine.kind.cpus_max().into(),
            hotpluggable_cpus: false,
            numa_mem_supported: false,
            deprecated: false,
            default_cpu_type: has_cpus.then_some(cpu_type.as_str()),
            default_ram_id: Some(machine.kind.ram_id()),
        });
    }
}

/// Who models interrupt controllers and timers under KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelIrqchip {
    /// All of them in the kernel.
    On,
    /// The local APICs in the kernel.
    Split,
    /// None in the kernel.
    Off,
}

/// What runs guest code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// KVM.
    Kvm,
    /// The software CPU.
    Tcg,
    /// Nothing: a test program drives the devices.
    Qtest,
}

impl Accel {
    /// The name in `-accel`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
            Self::Qtest => "qtest",
        }
    }

    fn find(name: &str) -> Result<Self, Reason> {
        match name {
            "kvm" => Ok(Self::Kvm),
            "tcg" => Ok(Self::Tcg),
            "qtest" => Ok(Self::Qtest),
            _ => Err(format!("invalid accelerator {name}")),
        }
    }
}

/// What `-machine` and `-accel` say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineOptions {
    /// The board.
    pub kind: MachineKind,
    /// The name it was asked for by, aliases resolved: `pc-i440fx-7.2`.
    pub name: &'static str,
    /// Accelerators in the order to try; empty: KVM, then the software CPU.
    pub accels: Vec<Accel>,
    /// Who models interrupt controllers; `None`: the fastest.
    pub kernel_irqchip: Option<KernelIrqchip>,
    /// Whether guest RAM is part of a core dump.
    pub dump_guest_core: bool,
    /// Whether equal pages of guest RAM may be merged with those of other processes.
    pub mem_merge: bool,
    /// The id of the memory backend that guest RAM is made of, if one is named.
    pub memory_backend: Option<String>,
    /// A PC's chips of the system flash: names of their drives or nodes.
    pub pflash: [Option<String>; UNITS_MAX],
    /// Whether firmware may expect a graphical console.
    pub graphics: bool,
    /// microvm: whether there is a serial port.
    pub isa_serial: bool,
    /// Whether there is an interval timer.
    pub pit: bool,
    /// Whether there are both 8259 interrupt controllers.
    pub pic: bool,
    /// microvm: whether there is a real-time clock; `None`: where the accelerator has no clock of its own for guests.
    pub rtc: Option<bool>,
    /// microvm: whether option ROMs are loaded.
    pub option_roms: bool,
    /// Whether there is ACPI.
    pub acpi: bool,
    /// Which SMBIOS structures there are.
    pub smbios: EntryPoint,
    /// Whether a PC has an HPET.
    pub hpet: bool,
    /// microvm: whether there is a second I/O APIC; `None`: where the controllers allow it.
    pub ioapic2: Option<bool>,
    /// microvm: whether a kernel's command line gets what the kernel can't find by itself.
    pub auto_kernel_cmdline: bool,
}

impl Default for MachineOptions {
    fn default() -> Self {
        Self {
            kind: MachineKind::Pc,
            name: "pc-i440fx-7.2",
            accels: Vec::new(),
            kernel_irqchip: None,
            dump_guest_core: true,
            mem_merge: true,
            memory_backend: None,
            pflash: [None, None],
            graphics: true,
            isa_serial: true,
            pit: true,
            pic: true,
            rtc: None,
            option_roms: true,
            acpi: true,
            smbios: EntryPoint::Bits32,
            hpet: true,
            ioapic2: None,
            auto_kernel_cmdline: true,
        }
    }
}

const IRQCHIP: Kind = Kind::Word(&["on", "off", "split"]);
const ON_OFF_AUTO: Kind = Kind::Word(&["on", "off", "auto"]);
const NOT_MODELLED: &str = "it is not modelled";

pub(super) static MACHINE: OptsTable = OptsTable {
    name: "machine",
    implied: Some("type"),
    options: &[
        SubOption::new("type", Kind::Text, "the board ('-machine help' lists them)"),
        SubOption::new(
            "accel",
            Kind::Text,
            "accelerators in order, with colons between",
        ),
        SubOption::new("kernel-irqchip", IRQCHIP, "interrupt controllers in KVM"),
        SubOption::new(
            "dump-guest-core",
            Kind::Bool,
            "guest RAM is part of a core dump",
        ),
        SubOption::new("mem-merge", Kind::Bool, "equal pages may be merged"),
        SubOption::new(
            "graphics",
            Kind::Bool,
            "firmware may expect a graphical console",
        ),
        SubOption::new("kernel", Kind::Text, "the same as -kernel"),
        SubOption::new("initrd", Kind::Text, "the same as -initrd"),
        SubOption::new("append", Kind::Text, "the same as -append"),
        SubOption::new("firmware", Kind::Text, "the same as -bios"),
        SubOption::new("isa-serial", Kind::Bool, "microvm: a serial port"),
        SubOption::new("usb", Kind::Only(&["off"], NOT_MODELLED), "USB controller"),
        SubOption::new(
            "vmport",
            Kind::Only(&["off", "auto"], NOT_MODELLED),
            "VMware's port",
        ),
        SubOption::new("hpet", Kind::Bool, "pc: high precision event timers"),
        SubOption::new("acpi", ON_OFF_AUTO, "ACPI: its hardware and tables"),
        SubOption::new(
            "smm",
            Kind::Only(&["off", "auto"], NOT_MODELLED),
            "system management mode",
        ),
        SubOption::new("smbus", Kind::Only(&["off"], NOT_MODELLED), "SMBus"),
        SubOption::new("sata", Kind::Only(&["off"], NOT_MODELLED), "SATA"),
        SubOption::new("hmat", Kind::Only(&["off"], NOT_MODELLED), "HMAT"),
        SubOption::new("nvdimm", Kind::Only(&["off"], NOT_MODELLED), "NVDIMM"),
        SubOption::new(
            "i8042",
            Kind::Only(&["on"], "it is part of the board"),
            "keyboard controller",
        ),
        SubOption::new("pic", ON_OFF_AUTO, "8259 PICs"),
        SubOption::new(
            "smbios-entry-point-type",
            Kind::Word(&["32", "64"]),
            "pc: SMBIOS 2.8 or 3.0",
        ),
        SubOption::new("pit", ON_OFF_AUTO, "8254 PIT"),
        SubOption::new(
            "rtc",
            ON_OFF_AUTO,
            "microvm: RTC; without KVM there is one by default",
        ),
        SubOption::new("memory-encryption", Kind::Absent(NOT_MODELLED), ""),
        SubOption::new("confidential-guest-support", Kind::Absent(NOT_MODELLED), ""),
        SubOption::new(
            "memory-backend",
            Kind::Text,
            "id of the memory backend that guest RAM is made of",
        ),
        SubOption::new(
            "pflash0",
            Kind::Text,
            "pc: node with the firmware, in flash",
        ),
        SubOption::new(
            "pflash1",
            Kind::Text,
            "pc: node with the firmware's settings, in flash",
        ),
        SubOption::new("suppress-vmdesc", Kind::Absent("there is no migration"), ""),
        SubOption::new("max-ram-below-4g", Kind::Absent("the split is fixed"), ""),
        SubOption::new("max-fw-size", Kind::Absent("the limit is fixed"), ""),
        SubOption::new("dtb", Kind::Absent("there are no device trees"), ""),
        SubOption::new("dumpdtb", Kind::Absent("there are no device trees"), ""),
        SubOption::new("pcie", Kind::Only(&["off", "auto"], NOT_MODELLED), ""),
        SubOption::new("ioapic2", ON_OFF_AUTO, "microvm: a second I/O APIC"),
        SubOption::new(
            "x-option-roms",
            Kind::Bool,
            "microvm: option ROMs are loaded",
        ),
        SubOption::new(
            "auto-kernel-cmdline",
            Kind::Bool,
            "microvm: what a kernel can't find by itself is added to its command line",
        ),
    ],
};

/// What `-machine` sets outside [`MachineOptions`].
#[derive(Default)]
pub(super) struct MachineFiles {
    pub(super) kernel: Option<String>,
    pub(super) initrd: Option<String>,
    pub(super) append: Option<String>,
    pub(super) firmware: Option<String>,
}

impl MachineOptions {
    /// Checks that the board has room for so many processors.
    pub(super) fn check_cpus(&self, count: u32) -> Result<(), Reason> {
        let most = self.kind.cpus_max();
        if count > most {
            return Err(format!(
                "Invalid SMP CPUs {count}. The max CPUs supported by machine '{}' is {most}",
                self.name
            ));
        }
        Ok(())
    }

    /// The text of `-machine help`, or of `-machine NAME,help`.
    pub(super) fn help(text: &str) -> String {
        if text.contains(',') {
            return MACHINE.help();
        }
        let mut list = String::from("Supported machines are:\n");
        for (index, machine) in MACHINES.iter().enumerate() {
            let MachineName { name, doc, .. } = machine;
            let default = if index == 0 { " (default)" } else { "" };
            if let Some(alias) = machine.alias {
                list.push_str(&format!("{alias:<20} {doc} (alias of {name}){default}\n"));
                list.push_str(&format!("{name:<20} {doc}\n"));
            } else {
                list.push_str(&format!("{name:<20} {doc}{default}\n"));
            }
        }
        list
    }

    pub(super) fn set(&mut self, text: &str) -> Result<MachineFiles, Reason> {
        let given = MACHINE.parse_with(text, |key| key.replace('_', "-"))?;
        if let Some(name) = given.text("type") {
            let found = MACHINES
                .iter()
                .find(|machine| machine.name == name || machine.alias == Some(name))
                .ok_or_else(|| {
                    format!("unsupported machine type '{name}' ('-machine help' lists them)")
                })?;
            self.kind = found.kind;
            self.name = found.name;
        }
        if let Some(accels) = given.text("accel") {
            self.accels = accels
                .split(':')
                .map(Accel::find)
                .collect::<Result<_, _>>()?;
        }
        self.set_irqchip(&given);
        let flag = |name: &str, now: bool| given.bool(name).unwrap_or(now);
        self.dump_guest_core = flag("dump-guest-core", self.dump_guest_core);
        self.mem_merge = flag("mem-merge", self.mem_merge);
        self.memory_backend = given.owned("memory-backend").or(self.memory_backend.take());
        self.graphics = flag("graphics", self.graphics);
        self.hpet = flag("hpet", self.hpet);
        self.isa_serial = flag("isa-serial", self.isa_serial);
        if let Some(pit) = given.text("pit") {
            self.pit = pit != "off";
        }
        if let Some(pic) = given.text("pic") {
            self.pic = pic != "off";
        }
        self.option_roms = flag("x-option-roms", self.option_roms);
        if let Some(acpi) = given.text("acpi") {
            self.acpi = acpi != "off";
        }
        self.auto_kernel_cmdline = flag("auto-kernel-cmdline", self.auto_kernel_cmdline);
        for (key, choice) in [("ioapic2", &mut self.ioapic2), ("rtc", &mut self.rtc)] {
            match given.text(key) {
                Some("auto") => *choice = None,
                Some(word) => *choice = Some(word == "on"),
                None => {}
            }
        }
        if self.kind != MachineKind::Microvm {
            for key in [
                "isa-serial",
                "auto-kernel-cmdline",
                "ioapic2",
                "pcie",
                "rtc",
                "x-option-roms",
            ] {
                if given.text(key).is_some() {
                    return Err(format!("Property '{}-machine.{key}' not found", self.name));
                }
            }
        }
        if let Some(entry) = given.text("smbios-entry-point-type") {
            if self.kind != MachineKind::Pc {
                return Err(format!(
                    "Property '{}.smbios-entry-point-type' not found",
                    self.name
                ));
            }
            self.smbios = match entry {
                "64" => EntryPoint::Bits64,
                _ => EntryPoint::Bits32,
            };
        }
        for (unit, pflash) in self.pflash.iter_mut().enumerate() {
            let Some(name) = given.owned(&format!("pflash{unit}")) else {
                continue;
            };
            if self.kind != MachineKind::Pc {
                let machine = self.name;
                return Err(format!(
                    "Property '{machine}-machine.pflash{unit}' not found"
                ));
            }
            *pflash = Some(name).filter(|name| !name.is_empty());
        }
        if given.text("hpet").is_some() && self.kind != MachineKind::Pc {
            return Err(format!("Property '{}-machine.hpet' not found", self.name));
        }
        Ok(MachineFiles {
            kernel: given.owned("kernel"),
            initrd: given.owned("initrd"),
            append: given.owned("append"),
            firmware: given.owned("firmware"),
        })
    }

    fn set_irqchip(&mut self, given: &Opts) {
        match given.text("kernel-irqchip") {
            Some("on") => self.kernel_irqchip = Some(KernelIrqchip::On),
            Some("split") => self.kernel_irqchip = Some(KernelIrqchip::Split),
            Some("off") => self.kernel_irqchip = Some(KernelIrqchip::Off),
            _ => {}
        }
    }

    /// One `-accel`.
    pub(super) fn add_accel(&mut self, text: &str) -> Result<(), Reason> {
        let given = ACCEL.parse(text)?;
        let name = given.text("accel").ok_or("Parameter 'accel' is missing")?;
        let accel = Accel::find(name)?;
        for (key, _) in given.iter() {
            let known = match accel {
                Accel::Kvm => matches!(key, "accel" | "kernel-irqchip"),
                Accel::Tcg => {
                    matches!(key, "accel" | "thread" | "one-insn-per-tb" | "split-wx")
                }
                Accel::Qtest => key == "accel",
            };
            if !known {
                return Err(format!("Property '{name}-accel.{key}' not found"));
            }
        }
        self.set_irqchip(&given);
        self.accels.push(accel);
        Ok(())
    }
}

/// The text of `-accel help`.
pub(super) const ACCEL_HELP: &str = "Accelerators supported:\nkvm\ntcg\nqtest\n";

pub(super) static ACCEL: OptsTable = OptsTable {
    name: "accel",
    implied: Some("accel"),
    options: &[
        SubOption::new("accel", Kind::Text, "kvm, tcg or qtest"),
        SubOption::new(
            "kernel-irqchip",
            IRQCHIP,
            "kvm: interrupt controllers in the kernel",
        ),
        SubOption::new(
            "thread",
            Kind::Only(&["single"], "processors take turns"),
            "tcg: threads",
        ),
        SubOption::new(
            "tb-size",
            Kind::Absent("the code cache has a fixed size"),
            "",
        ),
        SubOption::new(
            "one-insn-per-tb",
            Kind::Only(&["off"], "the log of blocks tells what runs"),
            "",
        ),
        SubOption::new(
            "split-wx",
            Kind::Only(&["off"], "there is no translator"),
            "",
        ),
        SubOption::new("igd-passthru", Kind::Absent(NOT_MODELLED), ""),
        SubOption::new("kvm-shadow-mem", Kind::Absent("the kernel decides"), ""),
        SubOption::new(
            "dirty-ring-size",
            Kind::Absent("there is no dirty ring"),
            "",
        ),
        SubOption::new("notify-vmexit", Kind::Absent("it is not done"), ""),
        SubOption::new("notify-window", Kind::Absent("it is not done"), ""),
    ],
};

/// Guest RAM without `-m`, in bytes.
pub const MEMORY_DEFAULT: u64 = 128 << 20;
/// Guest RAM is a multiple of this, in bytes.
pub const MEMORY_UNIT: u64 = 8 << 10;
/// The most guest RAM, in bytes: what fits below 2^40 with room for devices.
pub const MEMORY_MAX: u64 = 1 << 39;

pub(super) static MEMORY: OptsTable = OptsTable {
    name: "memory",
    implied: Some("size"),
    options: &[
        SubOption::new("size", Kind::Size(20), "guest RAM, in MiB without a suffix"),
        SubOption::new("slots", Kind::Number, "slots for memory hotplug: 0"),
        SubOption::new(
            "maxmem",
            Kind::Size(0),
            "the most there can be: the same as size",
        ),
    ],
};

/// The argument of `-m`, in bytes: a multiple of 8 KiB, at most [`MEMORY_MAX`]; `None` for 0, which is as if it were
/// not given.
pub(super) fn parse_memory(text: &str) -> Result<Option<u64>, Reason> {
    let given = MEMORY.parse(text)?;
    let asked = given.size("size", 20).filter(|size| *size > 0);
    let size = asked.unwrap_or(MEMORY_DEFAULT);
    if size > MEMORY_MAX {
        return Err(format!(
            "{} MiB is more than the most there can be, {} MiB",
            size >> 20,
            MEMORY_MAX >> 20
        ));
    }
    if given.number("slots").unwrap_or(0) != 0 || given.size("maxmem", 0).unwrap_or(size) != size {
        return Err("memory hotplug ('slots', 'maxmem' beyond 'size') is not available".to_owned());
    }
    Ok(asked.map(|size| size.next_multiple_of(MEMORY_UNIT)))
}

/// Processors and how they are told to be arranged; the product of sockets, cores and threads
/// is `max_cpus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Smp {
    /// Processors at the start, 1 to `max_cpus`.
    pub cpus: u32,
    /// The most there can be, at most [`CPUS_MAX`].
    pub max_cpus: u32,
    /// Sockets.
    pub sockets: u32,
    /// Cores of a socket.
    pub cores: u32,
    /// Threads of a core.
    pub threads: u32,
}

/// Processors at most: what 8-bit APIC ids allow.
pub const CPUS_MAX: u32 = 255;

impl Default for Smp {
    fn default() -> Self {
        Self {
            cpus: 1,
            max_cpus: 1,
            sockets: 1,
            cores: 1,
            threads: 1,
        }
    }
}

pub(super) static SMP: OptsTable = OptsTable {
    name: "smp-opts",
    implied: Some("cpus"),
    options: &[
        SubOption::new("cpus", Kind::Number, "processors at the start"),
        SubOption::new("maxcpus", Kind::Number, "the most there can be"),
        SubOption::new("sockets", Kind::Number, "sockets"),
        SubOption::new(
            "dies",
            Kind::Only(&["1"], "a socket has one die"),
            "dies of a socket",
        ),
        SubOption::new(
            "clusters",
            Kind::Only(&["1"], "a die has one cluster"),
            "clusters of a die",
        ),
        SubOption::new("cores", Kind::Number, "cores of a socket"),
        SubOption::new("threads", Kind::Number, "threads of a core"),
    ],
};

/// The argument of `-smp`. What is not given is computed as QEMU's boards since 6.2 do: cores
/// before sockets before threads.
pub(super) fn parse_smp(text: &str) -> Result<Smp, Reason> {
    let given = SMP.parse(text)?;
    let number = |name: &str| -> Result<Option<u32>, Reason> {
        match given.number(name) {
            Some(0) => Err(format!("'{name}' must be greater than zero")),
            Some(n) => u32::try_from(n)
                .ok()
                .filter(|&n| n <= CPUS_MAX)
                .map(Some)
                .ok_or_else(|| {
                    format!("'{name}={n}' is more than the {CPUS_MAX} processors there can be")
                }),
            None => Ok(None),
        }
    };
    let (cpus, max) = (number("cpus")?, number("maxcpus")?);
    let (mut sockets, mut cores, mut threads) =
        (number("sockets")?, number("cores")?, number("threads")?);
    // Each factor is at most 255: the products can't wrap.
    let total = max.or(cpus);
    if let Some(total) = total {
        if cores.is_none() {
            let known = *sockets.get_or_insert(1) * *threads.get_or_insert(1);
            cores = Some(total / known);
        } else if sockets.is_none() {
            let known = cores.unwrap_or(1) * *threads.get_or_insert(1);
            sockets = Some(total / known);
        } else if threads.is_none() {
            threads = Some(total / (cores.unwrap_or(1) * sockets.unwrap_or(1)));
        }
    }
    let (sockets, cores, threads) = (
        sockets.unwrap_or(1),
        cores.unwrap_or(1),
        threads.unwrap_or(1),
    );
    let product = sockets * cores * threads;
    let max_cpus = total.unwrap_or(product);
    let cpus = cpus.unwrap_or(max_cpus);
    if max_cpus > CPUS_MAX {
        return Err(format!(
            "Invalid SMP CPUs {max_cpus}. The max CPUs supported is {CPUS_MAX}"
        ));
    }
    if product != max_cpus {
        return Err(format!(
            "Invalid CPU topology: product of the hierarchy must match maxcpus: sockets ({sockets}) * cores ({cores}) * threads ({threads}) != maxcpus ({max_cpus})"
        ));
    }
    if cpus > max_cpus {
        return Err(format!(
            "Invalid CPU topology: maxcpus must be equal to or greater than smp: maxcpus ({max_cpus}) < smp_cpus ({cpus})"
        ));
    }
    Ok(Smp {
        cpus,
        max_cpus,
        sockets,
        cores,
        threads,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_sizes() {
        for (text, size) in [
            ("64", 64 << 20),
            ("1.5G", 3 << 29),
            ("1k", 8192),
            ("size=2G,maxmem=2G,slots=0", 2 << 30),
            ("0", MEMORY_DEFAULT),
            ("", MEMORY_DEFAULT),
        ] {
            let given = parse_memory(text).map(|given| given.unwrap_or(MEMORY_DEFAULT));
            assert_eq!(given, Ok(size), "{text}");
        }
        for text in [
            "12q",
            "-1",
            "1T",
            "64,slots=2",
            "64,maxmem=128M",
            "64,foo=1",
        ] {
            assert!(parse_memory(text).is_err(), "{text}");
        }
    }

    #[test]
    fn topologies() {
        let smp = |text: &str| {
            parse_smp(text).map(|s| (s.cpus, s.max_cpus, s.sockets, s.cores, s.threads))
        };
        assert_eq!(smp("4"), Ok((4, 4, 1, 4, 1)));
        assert_eq!(smp("2,maxcpus=4"), Ok((2, 4, 1, 4, 1)));
        assert_eq!(smp("4,sockets=2"), Ok((4, 4, 2, 2, 1)));
        assert_eq!(smp("8,cores=2,threads=2"), Ok((8, 8, 2, 2, 2)));
        assert_eq!(smp("8,cores=2,sockets=2"), Ok((8, 8, 2, 2, 2)));
        assert_eq!(smp("sockets=2,cores=3"), Ok((6, 6, 2, 3, 1)));
        for text in [
            "0",
            "x",
            "foo=1",
            "4,maxcpus=2",
            "cpus=3,cores=2",
            "2,sockets=0",
            "256",
            "4,dies=2",
            "sockets=255,cores=255,threads=255",
            "1,sockets=2",
        ] {
            assert!(smp(text).is_err(), "{text}");
        }
    }

    #[test]
    fn machines() {
        let mut machine = MachineOptions::default();
        machine
            .set("pc,accel=kvm:tcg,kernel-irqchip=split,usb=off")
            .unwrap();
        assert_eq!(machine.accels, [Accel::Kvm, Accel::Tcg]);
        assert_eq!(machine.kernel_irqchip, Some(KernelIrqchip::Split));
        machine.set("kernel_irqchip=on,pit=off").unwrap();
        assert_eq!(machine.kernel_irqchip, Some(KernelIrqchip::On));
        assert!(!machine.pit);
        machine.set("pit=auto").unwrap();
        assert!(machine.pit);
        machine.set("dump-guest-core=off").unwrap();
        assert_eq!(
            (machine.kind, machine.dump_guest_core),
            (MachineKind::Pc, false)
        );
        for text in [
            "q35",
            "pc,usb=on",
            "pc,accel=foo",
            "pc,foo=1",
            "pc,kernel-irqchip=x",
            "pc,isa-serial=on",
            "pit=maybe",
        ] {
            assert!(machine.set(text).is_err(), "{text}");
        }
        assert!(machine.add_accel("tcg,kernel-irqchip=on").is_err());
        for text in [
            "tcg,thread=multi",
            "tcg,tb-size=32",
            "tcg,one-insn-per-tb=on",
            "tcg,split-wx=on",
            "kvm,thread=single",
        ] {
            assert!(machine.add_accel(text).is_err(), "{text}");
        }
        assert!(machine.add_accel("tcg,thread=single,split-wx=off").is_ok());
    }
}
