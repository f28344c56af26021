//! The properties of objects and their values.

use core::fmt::Write as _;

use super::tree::{Edge, Name, Node, Settable};
use super::types::{self, Type, TypeName};
use super::{ChardevKind, PropertyInfo, QomError, QomValue, Settings, Tree};
use crate::devices::block::SECTOR;
use crate::devices::class::{
    BOOT_INDEX, PCI_ADDR, PCI_MULTIFUNCTION, PCI_ROMFILE, PropertyKind, Value,
};
use crate::devices::{fdc, ged, hpet, ide, kernel, pflash, vmgenid};
use crate::machine::{Board, Place, Plugged};
use crate::pci::{Address, i440fx, piix3, piix4_pm};
use crate::time::calendar::date_from_days;
use crate::virtio::transport::{IOEVENTFD, mmio};

/// Ports and edge/level masks of the two 8259A, as on every PC: `iobase`, `elcr_addr`,
/// `elcr_mask`.
const PICS: [(u64, u64, u64); 2] = [(0x20, 0x4d0, 0xf8), (0xa0, 0x4d1, 0xde)];

/// First ports of the DMA controllers, what their units are shifted by, first ports of their page registers.
const DMAS: [(i64, i64, i64); 2] = [(0x00, 0, 0x80), (0xc0, 1, 0x88)];
/// What the real-time clock shows: as a property of its own, and as one of the machine's.
const RTC_DATE: &str = "date";
const RTC_TIME: &str = "rtc-time";

/// First port of the 8254.
const PIT_BASE: u64 = 0x40;

impl Tree<'_> {
    /// Visits the properties of the object at `path`: the result of `qom-list`.
    ///
    /// # Errors
    /// [`QomError::NoObject`], [`QomError::Ambiguous`].
    pub fn list<'p>(
        &self,
        path: &'p str,
        visit: &mut dyn FnMut(PropertyInfo<'_>),
    ) -> Result<(), QomError<'p>> {
        let node = self.find(path)?;
        let mut info = |name: &str, kind: &str| {
            visit(PropertyInfo {
                name,
                kind,
                description: None,
                default: None,
            });
        };
        self.edges(node, &mut |name, edge, to| {
            info(name, &self.edge_kind(edge, to));
        });
        self.values(node, &mut |name, kind, _| info(name, kind));
        Ok(())
    }

    /// Hands the value of a property of the object at `path` to `take`: the result of `qom-get`.
    ///
    /// # Errors
    /// [`QomError::NoObject`] also for an ambiguous path, [`QomError::NoProperty`],
    /// [`QomError::LongPath`].
    pub fn get<'p>(
        &self,
        path: &'p str,
        property: &'p str,
        take: &mut dyn FnMut(QomValue<'_>),
    ) -> Result<(), QomError<'p>> {
        let node = self.find(path).map_err(|_| QomError::NoObject(path))?;
        let mut linked = None;
        self.edges(node, &mut |name, _, to| {
            if name == property {
                linked = Some(to);
            }
        });
        if let Some(linked) = linked {
            take(QomValue::Str(&self.path(linked)?));
            return Ok(());
        }
        let mut found = false;
        self.values(node, &mut |name, _, value| {
            if name == property && !found {
                found = true;
                take(value);
            }
        });
        if found {
            Ok(())
        } else {
            Err(QomError::NoProperty(self.type_name(node), property))
        }
    }

    /// Tells whether and how a property can be changed: what `qom-set` begins with.
    ///
    /// # Errors
    /// [`QomError::NoObject`] also for an ambiguous path, [`QomError::NoProperty`], [`QomError::ReadOnly`].
    pub fn settable<'p>(&self, path: &'p str, property: &'p str) -> Result<Settable, QomError<'p>> {
        let node = self.find(path).map_err(|_| QomError::NoObject(path))?;
        let (mut linked, mut known) = (false, false);
        self.edges(node, &mut |name, _, _| {
            linked |= name == property && property != types::MEMORY_BACKEND;
            known |= name == property;
        });
        self.values(node, &mut |name, _, _| known |= name == property);
        let node = self.owner(node, property);
        let kind = self.type_name(node);
        if !known {
            return Err(QomError::NoProperty(kind, property));
        }
        let state = matches!(property, "type" | "hotpluggable" | "hotplugged" | "loaded");
        if matches!(property, RTC_TIME | RTC_DATE) {
            // The machine's is the clock's.
            let mut clock = TypeName::new();
            let _ = clock.push_str(crate::devices::rtc::CLASS.name);
            return Err(QomError::ReadOnly(clock, RTC_DATE));
        }
        if linked || state || property == "parent_bus" {
            return Err(QomError::ReadOnly(kind, property));
        }
        if let Some(drive) = self.drive_of_property(node, property) {
            return Ok(Settable::Drive(drive));
        }
        match node {
            Node::Object(position) => Ok(Settable::Object(position.into())),
            Node::Machine => Ok(Settable::Machine(kind)),
            Node::Plugged(index) => {
                let plugged = self.machine.plugged().get(usize::from(index));
                Ok(Settable::Device(
                    kind,
                    match plugged.map(|p| p.place()) {
                        Some(Place::Id(id)) => Name::try_from(id).ok(),
                        _ => None,
                    },
                ))
            }
            _ if self.class(node).is_some() || matches!(node, Node::Cpu(_)) => {
                Ok(Settable::Device(kind, None))
            }
            _ => Err(QomError::ReadOnly(kind, property)),
        }
    }

    /// The type of a property that names another object.
    fn edge_kind(&self, edge: Edge, to: Node) -> Name {
        let mut kind = Name::new();
        // The longest type's name fits with what goes around it.
        let _ = match edge {
            Edge::Child => write!(kind, "child<{}>", self.type_name(to)),
            Edge::Link(Some(wanted)) => write!(kind, "link<{wanted}>"),
            Edge::Link(None) => write!(kind, "link<{}>", self.type_name(to)),
        };
        kind
    }

    /// Visits the properties of an object that name no other one.
    fn values(&self, node: Node, visit: &mut dyn FnMut(&str, &str, QomValue<'_>)) {
        visit("type", "string", QomValue::Str(&self.type_name(node)));
        match node {
            Node::Machine => return self.machine_values(visit),
            Node::SystemBus => visit("realized", "bool", QomValue::Bool(false)),
            Node::PciBus
            | Node::BelowBridge(_)
            | Node::IdeBus(_)
            | Node::FloppyBus
            | Node::VirtioBus(_)
            | Node::BehindBus(_) => {
                visit("realized", "bool", QomValue::Bool(true));
            }
            Node::IsaBus => {
                // What QEMU says of microvm's bus, which no device carries.
                let realized = self.machine.board() == Board::Pc;
                visit("realized", "bool", QomValue::Bool(realized));
            }
            Node::Chardev(index) => {
                if let Some(ChardevKind::Socket { connected }) = self.chardev(index) {
                    visit("connected", "bool", QomValue::Bool(connected));
                }
            }
            Node::Object(position) => return self.object_values(position.into(), visit),
            Node::Rtc => self.date(RTC_DATE, visit),
            Node::Qtest => {
                if let Some((chardev, log)) = self.outside.qtest() {
                    visit("chardev", "string", QomValue::Str(chardev));
                    visit("log", "string", QomValue::Str(log));
                }
            }
            _ => {}
        }
        let is_processor = matches!(node, Node::Cpu(_) | Node::Lapic(_));
        if is_processor || self.class(node).is_some() || node == Node::IsaBridge {
            visit(
                "hotpluggable",
                "bool",
                QomValue::Bool(is_processor || self.is_pluggable(node)),
            );
            visit("hotplugged", "bool", QomValue::Bool(false));
            visit("realized", "bool", QomValue::Bool(true));
            if self.parent_bus(node).is_none() {
                visit("parent_bus", "link<bus>", QomValue::Str(""));
            }
        }
        if let Node::Cpu(index) = node {
            self.processor_values(index.into(), visit);
        }
        self.class_values(node, visit);
    }

    /// The properties of an object that a user has made: those of its type.
    fn object_values(&self, position: usize, visit: &mut dyn FnMut(&str, &str, QomValue<'_>)) {
        let kind = self.type_name(Node::Object(position as u16));
        let line = Type::find(&kind).map(Type::line).unwrap_or_default();
        for property in line.iter().rev().flat_map(|this| this.plain_properties()) {
            if property.name != "type" {
                self.outside
                    .object_value(position, property.name, &mut |value| {
                        visit(property.name, property.kind, value);
                    });
            }
        }
    }

    /// The properties that a device's class describes.
    pub(super) fn class_values(&self, node: Node, visit: &mut dyn FnMut(&str, &str, QomValue<'_>)) {
        let Some(class) = self.class(node) else {
            return;
        };
        for property in class.all_properties() {
            let (name, kind) = (property.name, property.kind);
            if kind == PropertyKind::Drive {
                self.drive_name(node, &mut |drive| {
                    visit(name, kind.name(), QomValue::Str(drive))
                });
                continue;
            }
            let value = match node {
                Node::Plugged(index) | Node::Behind(index) => {
                    let plugged = self.machine.plugged().get(usize::from(index));
                    if kind == PropertyKind::Chardev {
                        let consoles = plugged.map_or(&[][..], |plugged| plugged.consoles());
                        let console = consoles.iter().find(|(of, _)| *of == name);
                        let id = console.and_then(|(_, console)| self.outside.console(*console));
                        visit(name, kind.name(), QomValue::Str(id.unwrap_or("")));
                        continue;
                    }
                    if name == PCI_ROMFILE {
                        let function = plugged.and_then(|plugged| plugged.function());
                        let rom = function.map(|index| self.machine.pci_rom(index).name);
                        visit(name, kind.name(), QomValue::Str(rom.unwrap_or("")));
                        continue;
                    }
                    if name == vmgenid::GUID {
                        let mut text = heapless::String::<36>::new();
                        if let Some(id) = self.machine.generation() {
                            // There is room for a UUID.
                            let _ = write!(text, "{id}");
                        }
                        visit(name, kind.name(), QomValue::Str(&text));
                        continue;
                    }
                    // What it links to is no value.
                    if kind == PropertyKind::IoThread && self.thread(node).is_some() {
                        continue;
                    }
                    match self.machine.floppy_unit(index.into()) {
                        Some(unit) => self.floppy_value(index, unit, name),
                        None => plugged.map_or(Value::Unset, |plugged| self.settled(plugged, name)),
                    }
                }
                _ => self
                    .board_value(node, name)
                    .unwrap_or_else(|| property.default.clone()),
            };
            let value = match &value {
                _ if node == Node::Pit && name == kernel::LOST_TICK_POLICY => {
                    QomValue::Str(self.outside.settings().lost_tick_policy)
                }
                Value::Unset if name == BOOT_INDEX => QomValue::Int(-1),
                Value::Unset => QomValue::Str(""),
                Value::Bool(on) => QomValue::Bool(*on),
                Value::Uint(number) => QomValue::Uint(*number),
                Value::Int(number) => QomValue::Int(*number),
                Value::Text(text) => QomValue::Str(text),
                Value::Word(word) => QomValue::Str(word),
            };
            visit(name, kind.name(), value);
        }
    }

    /// A property of what was plugged in: as it was given, or what the device has made of it.
    fn settled(&self, plugged: &Plugged, name: &str) -> Value {
        let own = |name: &str| self.machine.disk_value(plugged.drive()?, name);
        let given = plugged.value(name);
        match (name, &given) {
            ("vectors", Value::Uint(vectors)) if *vectors == u64::from(u32::MAX) => {
                match own("num-queues") {
                    Some(Value::Uint(queues)) => Value::Uint(queues + 1),
                    _ => given,
                }
            }
            // On this bus old drivers are served.
            ("disable-legacy", Value::Word("auto")) => Value::Word("off"),
            _ => own(name).unwrap_or(given),
        }
    }

    /// A property of a floppy drive: what was settled, as QEMU shows it.
    fn floppy_value(&self, index: u8, unit: u8, name: &str) -> Value {
        let plugged = self.machine.plugged().get(usize::from(index));
        match (name, self.machine.floppy_controller()) {
            ("drive-type", Some(controller)) => Value::Word(controller.kind(unit).name()),
            ("logical_block_size" | "physical_block_size", _) => Value::Uint(SECTOR),
            _ => plugged.map_or(Value::Unset, |plugged| plugged.value(name)),
        }
    }

    /// What the board has set on one of its devices, where that is not the class's default.
    fn board_value(&self, node: Node, name: &str) -> Option<Value> {
        let value = match (node, name) {
            (Node::Pic(index), "master") => return Some(Value::Bool(index == 0)),
            (Node::Pic(index), _) => {
                let (base, elcr, mask) = PICS.get(usize::from(index))?;
                match name {
                    "iobase" => *base,
                    "elcr_addr" => *elcr,
                    "elcr_mask" => *mask,
                    _ => return None,
                }
            }
            (Node::Dma(index), _) => {
                let (base, shift, pages) = DMAS.get(usize::from(index))?;
                return Some(Value::Int(match name {
                    "base" => *base,
                    "dshift" => *shift,
                    "page-base" => *pages,
                    // There are none.
                    _ => -1,
                }));
            }
            (Node::Fdc, fdc::FALLBACK) => {
                let controller = self.machine.floppy_controller()?;
                return Some(Value::Word(controller.fallback().name()));
            }
            (Node::Fdc, name) => {
                let unit = fdc::BOOT_INDICES.iter().position(|own| *own == name)?;
                let path = fdc::BOOT_PATHS.get(unit)?;
                let index = self.machine.boot_index_of(path).unwrap_or(-1);
                return Some(Value::Int(index.into()));
            }
            (Node::Pit, "iobase") => PIT_BASE,
            (Node::Ged, _) => ged::POWER_BUTTON.into(),
            (Node::Transport(_), mmio::FORCE_LEGACY) => {
                return Some(Value::Bool(self.machine.has_legacy_virtio()));
            }
            (Node::Transport(_), IOEVENTFD) => {
                return Some(Value::Bool(self.machine.has_virtio_ioeventfd()));
            }
            (Node::Hpet, "hpet-intcap") => hpet::INTCAP.into(),
            (Node::Hpet, hpet::MSI) => return Some(Value::Bool(self.machine.has_hpet_msi())),
            // The years of the registers are those of a century that CMOS tells.
            (Node::Rtc, "base_year") => return Some(Value::Int(0)),
            (Node::Rtc, kernel::LOST_TICK_POLICY) if self.machine.rtc_slews() => {
                return Some(Value::Word("slew"));
            }
            (Node::HostBridge, PCI_ADDR) => return Some(address(i440fx::ADDRESS)),
            (Node::IsaBridge, PCI_ADDR) => return Some(address(piix3::ADDRESS)),
            (Node::IsaBridge, PCI_MULTIFUNCTION) => return Some(Value::Bool(true)),
            (Node::Ide, PCI_ADDR) => return Some(address(ide::ADDRESS)),
            (Node::PowerManagement, PCI_ADDR) => return Some(address(piix4_pm::ADDRESS)),
            (Node::PowerManagement, name) => {
                let sleep = self.machine.sleep_states();
                match name {
                    piix4_pm::DISABLE_S3 => u64::from(!sleep.s3),
                    piix4_pm::DISABLE_S4 => u64::from(!sleep.s4),
                    piix4_pm::S4_VAL => sleep.s4_type.into(),
                    _ => return None,
                }
            }
            (Node::Flash(unit), _) => {
                let mut chips = self.machine.flash();
                let chip = chips.find(|chip| chip.unit() == unit)?;
                match name {
                    "name" => {
                        return heapless::String::try_from(chip.name())
                            .ok()
                            .map(Value::Text);
                    }
                    "num-blocks" => (chip.cells().len() / pflash::SECTOR) as u64,
                    "sector-length" => pflash::SECTOR as u64,
                    "width" => 1,
                    _ => return None,
                }
            }
            (Node::Lapic(index), "id") => self.topology(index.into()).apic_id.into(),
            _ => return None,
        };
        Some(Value::Uint(value))
    }

    fn machine_values(&self, visit: &mut dyn FnMut(&str, &str, QomValue<'_>)) {
        let settings = self.outside.settings();
        let board = self.type_name(Node::Machine);
        let uint = |number: u32| QomValue::Uint(number.into());
        let smp = [
            ("cores", uint(settings.cores)),
            ("threads", uint(settings.threads)),
            ("cpus", uint(settings.cpus)),
            ("sockets", uint(settings.sockets)),
            ("dies", uint(1)),
            ("clusters", uint(1)),
            ("maxcpus", uint(settings.max_cpus)),
        ];
        let memory = [("size", QomValue::Uint(settings.memory))];
        let line = Type::find(&board).map(Type::line).unwrap_or_default();
        for property in line.iter().rev().flat_map(|this| this.plain_properties()) {
            let value = match property.name {
                // Every object has shown it already.
                "type" => continue,
                types::MEMORY_BACKEND if self.memory_backend().is_some() => continue,
                types::MEMORY_BACKEND => QomValue::Str(""),
                "memory" => QomValue::Members(&memory),
                "smp" => QomValue::Members(&smp),
                "pit" if self.machine.has_pit() => QomValue::Str("on"),
                "pic" if self.machine.has_pic() => QomValue::Str("on"),
                "rtc" if self.machine.has_rtc() => QomValue::Str("on"),
                "hpet" => QomValue::Bool(self.machine.has_hpet()),
                "pcie" if self.machine.has_express() => QomValue::Str("on"),
                "ioapic2" if self.machine.has_second_ioapic() => QomValue::Str("on"),
                "acpi" if self.machine.has_acpi() => QomValue::Str("on"),
                name => machine_value(&settings, name),
            };
            visit(property.name, property.kind, value);
        }
        // Where a chip's drive can also be asked for.
        for chip in self.flash_chips() {
            let name = if chip.unit() == 0 {
                "pflash0"
            } else {
                "pflash1"
            };
            self.drive_name(Node::Flash(chip.unit()), &mut |drive| {
                visit(name, PropertyKind::Drive.name(), QomValue::Str(drive));
            });
        }
        self.date(RTC_TIME, visit);
    }

    /// What the real-time clock shows, in the form of C's `struct tm`, if there is a clock.
    fn date(&self, name: &str, visit: &mut dyn FnMut(&str, &str, QomValue<'_>)) {
        let seconds = self.machine.rtc_seconds(self.outside.now());
        let Some(seconds) = seconds.filter(|_| self.outside.built()) else {
            return;
        };
        let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (year, month, day) = date_from_days(day);
        let members = [
            ("tm_year", year - 1900),
            ("tm_mon", month - 1),
            ("tm_mday", day),
            ("tm_hour", second / 3600),
            ("tm_min", second / 60 % 60),
            ("tm_sec", second % 60),
        ]
        .map(|(name, value)| (name, QomValue::Int(value)));
        visit(name, "struct tm", QomValue::Members(&members));
    }

    fn processor_values(&self, index: u32, visit: &mut dyn FnMut(&str, &str, QomValue<'_>)) {
        let cpu = self.outside.processor();
        let place = self.topology(index);
        let int = |number: u32| QomValue::Int(number.into());
        let uint = |number: u32| QomValue::Uint(number.into());
        visit("apic-id", "uint32", uint(place.apic_id));
        visit("core-id", "int32", int(place.core));
        visit("family", "int", int(cpu.family));
        visit("level", "uint32", uint(cpu.level));
        visit("model", "int", int(cpu.model));
        visit("model-id", "string", QomValue::Str(&cpu.brand));
        visit("socket-id", "int32", int(place.socket));
        visit("stepping", "int", int(cpu.stepping));
        visit("thread-id", "int32", int(place.thread));
        visit("vendor", "string", QomValue::Str(&cpu.vendor));
        visit("xlevel", "uint32", uint(cpu.xlevel));
        types::feature_names(&mut |name, word, bits| {
            let on = cpu.features[word] & bits == bits;
            visit(name, "bool", QomValue::Bool(on));
        });
    }

    fn topology(&self, index: u32) -> Topology {
        let settings = self.outside.settings();
        let (threads, cores) = (settings.threads.max(1), settings.cores.max(1));
        let (thread, core) = (index % threads, index / threads % cores);
        let socket = index / threads / cores;
        let thread_bits = threads.next_power_of_two().trailing_zeros();
        let core_bits = cores.next_power_of_two().trailing_zeros();
        Topology {
            thread,
            core,
            socket,
            apic_id: socket << ((thread_bits + core_bits) & 31)
                | core << (thread_bits & 31)
                | thread,
        }
    }
}

/// The value of a PCI device's `addr`.
fn address(address: Address) -> Value {
    Value::Int(address.devfn().into())
}

/// Where a processor is. Fields of the APIC id take a power of two each, so that ids may leave
/// gaps.
struct Topology {
    thread: u32,
    core: u32,
    socket: u32,
    apic_id: u32,
}

/// A property of a machine that is neither a structure nor another object.
fn machine_value<'s>(settings: &Settings<'s>, name: &str) -> QomValue<'s> {
    match name {
        "append" => QomValue::Str(settings.append),
        "dump-guest-core" => QomValue::Bool(settings.dump_guest_core),
        "firmware" => QomValue::Str(settings.firmware),
        "graphics" => QomValue::Bool(settings.graphics),
        "initrd" => QomValue::Str(settings.initrd),
        "isa-serial" => QomValue::Bool(settings.isa_serial),
        "x-option-roms" => QomValue::Bool(settings.option_roms),
        "auto-kernel-cmdline" => QomValue::Bool(settings.auto_kernel_cmdline),
        "kernel" => QomValue::Str(settings.kernel),
        "smbios-entry-point-type" if settings.smbios_64 => QomValue::Str("64"),
        "smbios-entry-point-type" => QomValue::Str("32"),
        "mem-merge" => QomValue::Bool(settings.mem_merge),
        // Parts of the board, always there.
        "i8042" => QomValue::Bool(true),
        // What is not modelled.
        "acpi" | "ioapic2" | "pcie" | "pic" | "pit" | "rtc" | "smm" | "vmport" => {
            QomValue::Str("off")
        }
        _ => QomValue::Bool(false),
    }
}
