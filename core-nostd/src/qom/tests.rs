//! Tests of the object model: the tables are consistent with themselves and with the tree, and
//! paths lead where QEMU's do.

use super::types::Type;
use super::*;
use crate::cpu::{features, models};
use crate::devices::class::PropertyValues;
use crate::devices::{debug_exit, debugcon, serial};
use crate::irq::LocalApic;
use crate::irq::lapic::LocalApicWiring;
use crate::machine::{Board, CLASSES, Config, Irqchip, Machine, Place};
use crate::memory::ArrayRam;
use std::borrow::ToOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use proptest::prelude::*;

static RAM: ArrayRam<0x1000> = ArrayRam::new();
static ROM: [u8; 0x1000] = [0xf4; 0x1000];

/// A host with three character devices.
struct Host {
    processor: Processor,
    qtest: bool,
    built: bool,
}

impl Host {
    fn new(qtest: bool) -> Self {
        Self {
            processor: Processor::from_model(models::find("qemu64").unwrap()),
            qtest,
            built: true,
        }
    }
}

impl Outside for Host {
    fn built(&self) -> bool {
        self.built
    }

    fn settings(&self) -> Settings<'_> {
        Settings {
            firmware: "boot.rom",
            mem_merge: true,
            smbios_64: true,
            memory: 128 << 20,
            cpus: 3,
            max_cpus: 6,
            sockets: 1,
            cores: 3,
            threads: 2,
            ..Settings::default()
        }
    }

    fn processor(&self) -> &Processor {
        &self.processor
    }

    fn chardevs(&self, visit: &mut dyn FnMut(Chardev<'_>)) {
        let socket = ChardevKind::Socket { connected: true };
        for (id, kind) in [
            ("c0", ChardevKind::Null),
            ("serial0", ChardevKind::Stdio),
            ("compat_monitor0", socket),
        ] {
            visit(Chardev { id, kind });
        }
    }

    fn console(&self, console: ConsoleId) -> Option<&str> {
        match console.0 {
            0 => Some("serial0"),
            1 => Some("c0"),
            _ => None,
        }
    }

    fn qtest(&self) -> Option<(&str, &str)> {
        self.qtest.then_some(("c0", ""))
    }

    fn objects(&self, visit: &mut dyn FnMut(UserObject<'_>)) {
        let objects = [("ram", "memory-backend-ram"), ("io", "iothread")];
        for (id, type_name) in objects.into_iter().filter(|_| self.built) {
            visit(UserObject { id, type_name });
        }
    }

    fn object_value(&self, position: usize, property: &str, take: &mut dyn FnMut(QomValue<'_>)) {
        match (position, property) {
            (0, "host-nodes") => take(QomValue::Numbers(&[1, 3])),
            (1, "poll-max-ns") => take(QomValue::Int(5)),
            _ => take(QomValue::Bool(true)),
        }
    }

    fn memory_backend(&self) -> Option<usize> {
        self.built.then_some(0)
    }
}

fn machine(board: Board, irqchip: Irqchip) -> Machine<'static> {
    machine_with(board, irqchip, true, &mut [])
}

fn machine_with(
    board: Board,
    irqchip: Irqchip,
    pit: bool,
    local_apics: &'static mut [LocalApic],
) -> Machine<'static> {
    let config = Config {
        board,
        irqchip,
        pit,
        rom: &ROM,
        cpus: 3,
        max_cpus: 6,
        local_apics,
        ..Config::new(&RAM, 0x1000)
    };
    let mut machine = Machine::new(config).unwrap();
    if board != Board::None {
        let values = |class| PropertyValues::new(class);
        machine
            .plug_at(&values(&serial::CLASS), Place::Board)
            .unwrap();
        let mut second = values(&serial::CLASS);
        second.set("irq", "5").unwrap();
        machine.plug_at(&second, Place::Id("com2")).unwrap();
        machine.plug(&values(&debugcon::CLASS)).unwrap();
        machine.plug(&values(&debug_exit::CLASS)).unwrap();
    }
    machine
}

/// Runs a test on every kind of tree.
fn each_tree(test: impl Fn(Tree<'_>)) {
    for board in [Board::Pc, Board::Microvm, Board::None] {
        for irqchip in [Irqchip::Machine, Irqchip::Split, Irqchip::Host] {
            let machine = machine(board, irqchip);
            for (qtest, built) in [(false, true), (true, true), (true, false)] {
                let outside = &Host {
                    built,
                    ..Host::new(qtest)
                };
                test(Tree {
                    machine: &machine,
                    outside,
                });
            }
        }
    }
}

fn on_pc(test: impl Fn(Tree<'_>)) {
    let machine = machine(Board::Pc, Irqchip::Machine);
    let outside = &Host::new(false);
    test(Tree {
        machine: &machine,
        outside,
    });
}

#[test]
fn local_apics_are_of_whoever_models_them() {
    let apic = LocalApic::new(LocalApicWiring {
        id: 0,
        bootstrap: true,
        x2apic: false,
        tsc_deadline: false,
        address_bits: 36,
    });
    let path = "/machine/unattached/device[0]/lapic";
    for (irqchip, name) in [
        (Irqchip::Machine, "Str(\"apic\")"),
        (Irqchip::Split, "Str(\"kvm-apic\")"),
    ] {
        let apics = std::vec![apic.clone(); 3].leak();
        let machine = machine_with(Board::Pc, irqchip, true, apics);
        let outside = &Host::new(false);
        let tree = Tree {
            machine: &machine,
            outside,
        };
        assert_eq!(get(tree, path, "type"), name);
        assert_eq!(get(tree, path, "version"), "Uint(20)");
    }
}

fn paths(tree: Tree<'_>) -> Vec<String> {
    let mut paths = Vec::new();
    tree.each(tree::Node::Root, 8, &mut |node| {
        paths.push(tree.path(node).unwrap().as_str().to_owned());
    });
    paths
}

fn list(tree: Tree<'_>, path: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let listed = tree.list(path, &mut |property| {
        let old = all.insert(property.name.to_owned(), property.kind.to_owned());
        assert_eq!(old, None, "{path} lists {} twice", property.name);
    });
    listed.unwrap_or_else(|error| panic!("{path}: {error}"));
    all
}

/// A value in the notation of [`core::fmt::Debug`], or the error's sentence.
fn get(tree: Tree<'_>, path: &str, property: &str) -> String {
    let mut value = None;
    let got = tree.get(path, property, &mut |got| {
        assert_eq!(value.replace(format!("{got:?}")), None, "two values");
    });
    match got {
        Ok(()) => value.expect("a value"),
        Err(error) => error.to_string(),
    }
}

fn all_types() -> Vec<(String, Option<String>, bool)> {
    let mut all = Vec::new();
    types(None, true, &mut |this| {
        all.push((
            this.name.to_owned(),
            this.parent.map(str::to_owned),
            this.is_abstract,
        ));
    });
    all
}

#[test]
fn types_descend_from_object() {
    let all = all_types();
    let names: BTreeSet<_> = all.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names.len(), all.len(), "names are unique");
    for (name, parent, is_abstract) in &all {
        let root = if implements(name, "object") {
            "object"
        } else {
            "interface"
        };
        assert!(implements(name, root), "{name}");
        assert!(name.len() < TYPE_NAME_MAX && Type::find(name).is_some());
        match parent {
            Some(parent) => assert!(names.contains(parent.as_str()), "{name}: {parent}"),
            None => assert_eq!(name, root),
        }
        // Nothing that nothing is made of.
        let mut concrete = 0;
        types(Some(name), false, &mut |_| concrete += 1);
        assert!(concrete > 0, "{name}");
        assert_eq!(*is_abstract, !types_without_abstract().contains(name));
    }
}

fn types_without_abstract() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    types(None, false, &mut |this| {
        assert!(!this.is_abstract);
        names.insert(this.name.to_owned());
    });
    names
}

#[test]
fn types_are_found_by_ancestor() {
    let below = |ancestor, with_abstract| {
        let mut names = Vec::new();
        types(Some(ancestor), with_abstract, &mut |this| {
            names.push(this.name.to_owned());
        });
        names.sort();
        names
    };
    assert_eq!(below("isa-serial", false), ["isa-serial"]);
    assert_eq!(below("pic-common", false), ["isa-i8259", "kvm-i8259"]);
    assert_eq!(
        below("pic-common", true),
        ["isa-i8259", "kvm-i8259", "pic-common"]
    );
    assert_eq!(
        below("machine", false),
        ["microvm-machine", "none-machine", "pc-i440fx-7.2-machine"]
    );
    assert_eq!(
        below("max-x86_64-cpu", true),
        ["host-x86_64-cpu", "max-x86_64-cpu"]
    );
    assert_eq!(below("", true), [""; 0]);
    assert_eq!(below("nope", true), [""; 0]);
    assert!(!implements("nope", "nope"));
}

#[test]
fn every_class_has_what_its_type_says() {
    for class in CLASSES {
        assert!(implements(class.name, class.parent), "{}", class.name);
        assert!(implements(class.name, "device"), "{}", class.name);
        let bus = class.bus.map(|bus| implements(bus, "bus"));
        assert_ne!(bus, Some(false), "{}", class.name);
    }
}

#[test]
fn objects_have_the_properties_of_their_types() {
    each_tree(|tree| {
        for path in paths(tree) {
            let name = get(tree, &path, "type");
            let name = name.split('"').nth(1).unwrap();
            let mut of_type = BTreeMap::new();
            type_properties(name, &mut |property| {
                let old = of_type.insert(property.name.to_owned(), property.kind.to_owned());
                assert_eq!(old, None, "{name} has {} twice", property.name);
                assert_eq!(property.default, None);
            })
            .unwrap();
            let mut of_object = list(tree, &path);
            of_object.retain(|name, kind| {
                let instance = kind.starts_with("child<") || name.starts_with("child[");
                !instance && !["rtc_state", "rtc-time", "date"].contains(&name.as_str())
            });
            assert_eq!(of_object, of_type, "{path}");
        }
    });
}

#[test]
fn paths_lead_back() {
    each_tree(|tree| {
        let paths = paths(tree);
        let unique: BTreeSet<_> = paths.iter().collect();
        assert_eq!(unique.len(), paths.len());
        for path in &paths {
            let node = tree.find(path).unwrap();
            assert_eq!(tree.path(node).unwrap().as_str(), path);
            // Processors have hundreds of flags.
            let listed = list(tree, path);
            for (name, kind) in listed.iter().filter(|(_, kind)| *kind != "bool") {
                let value = get(tree, path, name);
                assert!(!value.ends_with("not found"), "{path} {name}: {value}");
                if kind.starts_with("child<") {
                    let slash = if path == "/" { "" } else { path };
                    assert_eq!(value, format!("Str(\"{slash}/{name}\")"));
                } else if kind.starts_with("link<") && value != "Str(\"\")" {
                    let to = value.split('"').nth(1).unwrap();
                    assert!(unique.contains(&to.to_owned()), "{path} {name}: {to}");
                }
            }
        }
    });
}

/// What follows the timer moves up, as with QEMU's `-machine pit=off`.
#[test]
fn boards_without_a_timer_have_no_gap() {
    let machine = machine_with(Board::Pc, Irqchip::Machine, false, &mut []);
    let outside = &Host::new(false);
    let tree = Tree {
        machine: &machine,
        outside,
    };
    assert_eq!(get(tree, "/machine", "pit"), "Str(\"off\")");
    for (number, type_name) in [(11, "mc146818rtc"), (12, "isa-serial"), (14, "i8042")] {
        let path = format!("/machine/unattached/device[{number}]");
        assert_eq!(get(tree, &path, "type"), format!("Str(\"{type_name}\")"));
    }
}

/// What QEMU 7.2 was observed to have at the same paths.
#[test]
fn the_pc_is_numbered_as_in_qemu() {
    on_pc(|tree| {
        for (path, type_name) in [
            ("/machine", "pc-i440fx-7.2-machine"),
            ("/machine/unattached/device[0]", "qemu64-x86_64-cpu"),
            ("/machine/unattached/device[2]", "qemu64-x86_64-cpu"),
            ("/machine/unattached/device[3]", "qemu64-x86_64-cpu"),
            ("/machine/unattached/device[4]", "i440FX"),
            ("/machine/unattached/device[5]", "PIIX3"),
            ("/machine/unattached/device[5]/isa.0", "ISA"),
            ("/machine/unattached/device[8]", "isa-i8259"),
            ("/machine/unattached/device[9]", "isa-i8259"),
            ("/machine/unattached/device[11]", "mc146818rtc"),
            ("/machine/unattached/device[12]", "isa-pit"),
            ("/machine/unattached/device[13]", "isa-pcspk"),
            ("/machine/unattached/device[14]", "isa-serial"),
            ("/machine/unattached/device[16]", "i8042"),
            ("/machine/unattached/device[19]", "port92"),
            ("/machine/unattached/device[21]", "PIIX4_PM"),
            ("/machine/unattached/sysbus/child[2]", "i440FX-pcihost"),
            ("/machine/i440fx/pci.0/child[1]", "PIIX3"),
            ("/machine/i440fx/pci.0/child[3]", "PIIX4_PM"),
            ("isa.0/child[4]", "mc146818rtc"),
            ("isa.0/child[7]", "isa-serial"),
            ("isa.0/child[13]", "isa-serial"),
            ("isa.0/child[14]", "isa-debugcon"),
            ("/machine/peripheral/com2", "isa-serial"),
            ("/machine/peripheral-anon/device[0]", "isa-debugcon"),
            ("/machine/peripheral-anon/device[1]", "isa-debug-exit"),
            ("/chardevs/serial0", "chardev-stdio"),
            ("/objects", "container"),
        ] {
            assert_eq!(
                get(tree, path, "type"),
                format!("Str({type_name:?})"),
                "{path}"
            );
        }
        let mut path = String::new();
        tree.cpu_path(1, &mut path).unwrap();
        assert_eq!(path, "/machine/unattached/device[2]");
    });
}

#[test]
fn a_machine_that_is_not_built_has_no_devices() {
    let machine = machine(Board::Pc, Irqchip::Host);
    let outside = &Host {
        built: false,
        ..Host::new(false)
    };
    let tree = Tree {
        machine: &machine,
        outside,
    };
    assert_eq!(
        paths(tree),
        [
            "/",
            "/chardevs",
            "/chardevs/c0",
            "/chardevs/serial0",
            "/chardevs/compat_monitor0",
            "/machine",
            "/machine/peripheral",
            "/machine/peripheral-anon",
            "/machine/unattached",
            "/machine/unattached/sysbus",
        ]
    );
    assert_eq!(
        get(tree, "/machine", "type"),
        "Str(\"pc-i440fx-7.2-machine\")"
    );
}

#[test]
fn paths_are_read_as_in_qemu() {
    on_pc(|tree| {
        let found = |path| {
            tree.find(path)
                .map(|node| tree.path(node).unwrap().to_string())
        };
        let ok = |path: &str| Ok(path.to_owned());
        for path in ["/", "//"] {
            assert_eq!(found(path), ok("/"));
        }
        for path in ["machine", "/machine/", "/machine//", "//machine"] {
            assert_eq!(found(path), ok("/machine"));
        }
        for path in [
            "com2",
            "peripheral//com2",
            "com2/",
            "/machine/peripheral/com2",
        ] {
            assert_eq!(found(path), ok("/machine/peripheral/com2"));
        }
        assert_eq!(found("rtc_state"), ok("/machine/unattached/device[11]"));
        let bus = "/machine/unattached/device[5]/isa.0";
        assert_eq!(found("com2/parent_bus"), ok(bus));
        assert_eq!(found("com2/parent_bus/child[13]/parent_bus"), ok(bus));
        for path in ["", "device[0]", "parent_bus", "child[2]"] {
            assert_eq!(found(path), Err(QomError::Ambiguous(path)));
        }
        for path in [
            "/nope",
            "nope",
            ".",
            "..",
            "/machine/..",
            "/machine/.",
            "/type",
            "type",
            "/machine/unattached/device[0",
            "/machine/unattached/device[00]",
            "/machine/unattached/device[1]",
            "/machine/peripheral/com2/chardev",
            "device[99]",
            "/é",
            "\0",
        ] {
            assert_eq!(found(path), Err(QomError::NoObject(path)));
        }
        let round = format!("com2{}", "/parent_bus/child[13]".repeat(1000));
        assert_eq!(tree.find(&round), Err(QomError::LongPath));
        let long = "/x".repeat(100_000);
        assert_eq!(tree.find(&long), Err(QomError::NoObject(&long)));
        assert!(tree.find(&"/".repeat(100_000)).is_ok());
    });
}

#[test]
fn errors_are_worded_as_in_qemu() {
    on_pc(|tree| {
        let message = |error: QomError<'_>| (error.to_string(), error.is_device_not_found());
        let listed = |path| message(tree.list(path, &mut |_| {}).unwrap_err());
        let not_found = |text: &str| (text.to_owned(), true);
        let generic = |text: &str| (text.to_owned(), false);
        assert_eq!(listed("nope"), not_found("Device 'nope' not found"));
        assert_eq!(listed(""), generic("Path '' is ambiguous"));
        let got = |path, property| message(tree.get(path, property, &mut |_| {}).unwrap_err());
        assert_eq!(got("", "type"), not_found("Device '' not found"));
        assert_eq!(
            got("/machine", "nope"),
            generic("Property 'pc-i440fx-7.2-machine.nope' not found")
        );
        assert_eq!(got("com2", ""), generic("Property 'isa-serial.' not found"));
        let of_type = |name| message(type_properties(name, &mut |_| {}).unwrap_err());
        assert_eq!(of_type("pc"), not_found("Class 'pc' not found"));
        let of_device = |name| message(device_properties(name, &mut |_| {}).unwrap_err());
        assert_eq!(of_device("nope"), not_found("Device 'nope' not found"));
        for name in ["object", "device", "isa-device", "ISA", "none-machine"] {
            assert_eq!(
                of_device(name),
                generic("Parameter 'typename' expects a non-abstract device type")
            );
        }
    });
}

#[test]
fn devices_show_their_own_properties_and_defaults() {
    let mut shown = Vec::new();
    device_properties("isa-serial", &mut |property| {
        let default = property.default.map(|value| format!("{value:?}"));
        shown.push((property.name.to_owned(), property.kind.to_owned(), default));
    })
    .unwrap();
    let ones = Some("Uint(4294967295)".to_owned());
    let want = |name: &str, kind: &str, default: &Option<String>| {
        (name.to_owned(), kind.to_owned(), default.clone())
    };
    assert_eq!(
        shown,
        [
            want("baudbase", "uint32", &Some("Uint(115200)".to_owned())),
            want("chardev", "str", &None),
            want("index", "uint32", &ones),
            want("iobase", "uint32", &ones),
            want("irq", "uint32", &ones),
        ]
    );
}

#[test]
fn inherited_properties_have_defaults() {
    let default_of = |name: &str, wanted: &str| {
        let mut found = None;
        device_properties(name, &mut |property| {
            if property.name == wanted {
                found = Some(format!("{:?}", property.default));
            }
        })
        .unwrap();
        found.unwrap()
    };
    assert_eq!(default_of("PIIX3", "addr"), "Some(Int(-1))");
    assert_eq!(default_of("qemu64-x86_64-cpu", "core-id"), "Some(Int(-1))");
    assert_eq!(default_of("host-x86_64-cpu", "lm"), "None");
}

#[test]
fn features_are_those_of_the_command_line() {
    let mut all = [0; features::WORDS];
    super::types::feature_names(&mut |name, word, bits| {
        let mut set = [0; features::WORDS];
        set[word] = bits;
        assert_eq!(features::find(name), Some(set), "{name}");
        all[word] |= bits;
    });
    for name in features::names() {
        let set = features::find(name).unwrap();
        assert!(set.iter().zip(all).all(|(bits, all)| bits & !all == 0));
    }
}

#[test]
fn models_that_are_versions_have_none() {
    assert!(implements("Haswell-v1-x86_64-cpu", "x86_64-cpu"));
    assert!(implements("Haswell-noTSX-x86_64-cpu", "x86_64-cpu"));
    assert!(!implements("Haswell-noTSX-v1-x86_64-cpu", "object"));
    assert!(!implements("qemu64-v1-v1-x86_64-cpu", "object"));
}

#[test]
fn values_are_what_the_board_decided() {
    on_pc(|tree| {
        let slave = "/machine/unattached/device[9]";
        for (path, property, value) in [
            ("com2", "index", "Uint(1)"),
            ("com2", "iobase", "Uint(760)"),
            ("com2", "irq", "Uint(5)"),
            ("com2", "chardev", "Str(\"c0\")"),
            ("com2", "realized", "Bool(true)"),
            ("com2", "hotpluggable", "Bool(false)"),
            ("/machine/unattached/device[14]", "irq", "Uint(4)"),
            (
                "/machine/unattached/device[14]",
                "chardev",
                "Str(\"serial0\")",
            ),
            ("/machine/peripheral-anon/device[0]", "iobase", "Uint(233)"),
            ("/machine/peripheral-anon/device[0]", "chardev", "Str(\"\")"),
            ("/machine/peripheral-anon/device[1]", "iosize", "Uint(2)"),
            (slave, "iobase", "Uint(160)"),
            (slave, "elcr_addr", "Uint(1233)"),
            (slave, "elcr_mask", "Uint(222)"),
            (slave, "master", "Bool(false)"),
            ("/machine/unattached/device[5]", "addr", "Int(8)"),
            ("rtc_state", "base_year", "Int(0)"),
            ("/machine", "kernel", "Str(\"\")"),
            ("/machine", "firmware", "Str(\"boot.rom\")"),
            ("/machine", "mem-merge", "Bool(true)"),
            ("/machine", "hpet", "Bool(true)"),
            ("/machine", "pit", "Str(\"on\")"),
            ("/machine", "smbios-entry-point-type", "Str(\"64\")"),
            (
                "/machine",
                "memory",
                "Members([(\"size\", Uint(134217728))])",
            ),
            ("/machine/unattached/device[3]", "core-id", "Int(1)"),
            ("/machine/unattached/device[3]", "thread-id", "Int(0)"),
            ("/machine/unattached/device[3]", "apic-id", "Uint(2)"),
            ("/machine/unattached/device[3]", "lm", "Bool(true)"),
            ("/machine/unattached/device[3]", "avx", "Bool(false)"),
            ("/machine/unattached/device[3]", "parent_bus", "Str(\"\")"),
            ("compat_monitor0", "connected", "Bool(true)"),
        ] {
            assert_eq!(get(tree, path, property), value, "{path} {property}");
        }
    });
}

#[test]
fn ids_are_checked() {
    let mut machine = machine(Board::Pc, Irqchip::Host);
    let values = PropertyValues::new(&debug_exit::CLASS);
    let mut plug = |id: &str| {
        let plugged = machine.plug_at(&values, Place::Id(id));
        plugged.map_err(|error| error.to_string())
    };
    assert!(plug("com2").unwrap_err().contains("has this id"));
    assert!(plug(&"x".repeat(65)).unwrap_err().contains("64 bytes"));
    assert_eq!(plug("exit"), Ok(None));
    assert_eq!(machine.plugged().len(), 5, "what failed left nothing");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_path_has_an_answer(path in "(/|[a-z0-9.]{0,3}|device\\[[0-9]{0,2}\\]|machine|isa\\.0|child\\[1\\]|parent_bus|unattached|\\PC){0,12}", property in "\\PC{0,12}") {
        on_pc(|tree| {
            let _ = tree.list(&path, &mut |_| {});
            let _ = tree.get(&path, &property, &mut |_| {});
            let _ = type_properties(&path, &mut |_| {});
            let _ = device_properties(&path, &mut |_| {});
            types(Some(&path), true, &mut |_| {});
        });
    }
}

#[test]
fn objects_of_users_stand_in_the_tree() {
    let (machine, host) = (machine(Board::Pc, Irqchip::Machine), Host::new(false));
    let tree = Tree {
        machine: &machine,
        outside: &host,
    };
    let get = |path: &str, property: &str| {
        let mut text = String::new();
        let found = tree.get(path, property, &mut |value| text = format!("{value:?}"));
        found.map_or_else(|error| error.to_string(), |()| text)
    };
    assert_eq!(get("/objects", "io"), "Str(\"/objects/io\")");
    assert_eq!(get("io", "poll-max-ns"), "Int(5)");
    assert_eq!(get("/objects/io", "type"), "Str(\"iothread\")");
    assert_eq!(get("/objects/ram", "host-nodes"), "Numbers([1, 3])");
    assert_eq!(get("/machine", "memory-backend"), "Str(\"/objects/ram\")");
    assert_eq!(get("/machine/memory-backend", "merge"), "Bool(true)");
    let mut listed = Vec::new();
    tree.list("/objects/io", &mut |info| {
        listed.push(format!("{} {}", info.name, info.kind));
    })
    .unwrap();
    let expected = [
        "type string",
        "aio-max-batch int",
        "poll-grow int",
        "poll-max-ns int",
        "poll-shrink int",
    ];
    assert_eq!(listed, expected);

    let settable = |path: &'static str, property: &'static str| {
        let settable = tree.settable(path, property);
        settable.map_err(|error| error.to_string())
    };
    assert_eq!(settable("io", "poll-grow"), Ok(Settable::Object(1)));
    assert_eq!(settable("/objects/ram", "size"), Ok(Settable::Object(0)));
    let text = |text: &str| Err(text.to_string());
    for (path, property, expected) in [
        ("io", "nix", text("Property 'iothread.nix' not found")),
        (
            "io",
            "type",
            text("Property 'iothread.type' is not writable"),
        ),
        (
            "/objects",
            "io",
            text("Property 'container.io' is not writable"),
        ),
        ("/nix", "x", text("Device '/nix' not found")),
        (
            "com2",
            "parent_bus",
            text("Property 'isa-serial.parent_bus' is not writable"),
        ),
    ] {
        assert_eq!(settable(path, property), expected, "{path} {property}");
    }
    let kind = TypeName::try_from("isa-serial").unwrap();
    let id = Name::try_from("com2").ok();
    assert_eq!(settable("com2", "irq"), Ok(Settable::Device(kind, id)));
    let kind = TypeName::try_from("pc-i440fx-7.2-machine").unwrap();
    for property in ["usb", "memory-backend"] {
        assert_eq!(
            settable("/machine", property),
            Ok(Settable::Machine(kind.clone()))
        );
    }
    assert_eq!(
        settable("/machine", "rtc_state"),
        text("Property 'pc-i440fx-7.2-machine.rtc_state' is not writable")
    );
}

#[test]
fn what_users_can_make_has_an_interface() {
    let names = |ancestor, with_abstract| {
        let mut names = Vec::new();
        types(Some(ancestor), with_abstract, &mut |kind| {
            names.push(kind.name.to_string());
        });
        names
    };
    let concrete = [
        "iothread",
        "memory-backend-file",
        "memory-backend-memfd",
        "memory-backend-ram",
        "secret",
        "throttle-group",
    ];
    assert_eq!(names("user-creatable", false), concrete);
    assert_eq!(names("interface", false), concrete);
    assert!(names("user-creatable", true).contains(&"user-creatable".to_string()));
    assert!(!names("object", true).contains(&"user-creatable".to_string()));
    assert_eq!(names("memory-backend", false), concrete[1..4]);
    let error = type_properties("user-creatable", &mut |_| {});
    assert_eq!(error, Err(QomError::Interface));
}
