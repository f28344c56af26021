//! Tests of the whole command line.

use proptest::prelude::*;
use thimble_core::devices::class::{Property, PropertyKind, Value};
use thimble_core::machine::actions::{PanicAction, RebootAction, ShutdownAction, WatchdogAction};

use super::*;
use crate::chardev::spec::Backend;
use crate::log::Items;

static SERIAL: DeviceClass = DeviceClass {
    name: "isa-serial",
    parent: "isa-device",
    bus: Some("ISA"),
    doc: "serial port",
    user_creatable: true,
    properties: &[
        Property {
            name: "chardev",
            kind: PropertyKind::Chardev,
            default: Value::Unset,
            doc: "its other end",
        },
        Property {
            name: "iobase",
            kind: PropertyKind::Uint16,
            default: Value::Uint(0x3f8),
            doc: "first port",
        },
    ],
};
static PIC: DeviceClass = DeviceClass {
    name: "isa-i8259",
    parent: "isa-device",
    bus: Some("ISA"),
    doc: "",
    user_creatable: false,
    properties: &[],
};
static CLASSES: &[&DeviceClass] = &[&SERIAL, &PIC, &thimble_core::devices::parallel::CLASS];

fn try_parse(line: &[&str]) -> Result<Parsed, String> {
    parse(line.iter().map(OsString::from), CLASSES).map_err(|error| error.to_string())
}

fn run(line: &str) -> Result<Options, String> {
    let words: Vec<_> = line.split(' ').filter(|word| !word.is_empty()).collect();
    match try_parse(&words)? {
        Parsed::Run(options) => Ok(*options),
        Parsed::Print(text) => Err(text),
    }
}

#[test]
fn a_whole_command_line() {
    let options = run(
        "-M pc,accel=kvm:tcg --m 64 -smp 2 -nodefaults -no-user-config -display none -S \
         -no-reboot -no-shutdown -name guest=g,debug-threads=on -bios b.bin -cpu qemu64,+x \
         -chardev socket,id=c,path=/s,server=on,wait=off -mon chardev=c,mode=control \
         -qmp unix:/q,server,nowait -serial stdio -serial none -debugcon file:/d \
         -device isa-serial,id=s,iobase=0x2f8 -global isa-serial.iobase=0x3e8 \
         -rtc base=2000-01-01,clock=vm -uuid 00112233-4455-6677-8899-aabbccddeeff \
         -msg timestamp=on -overcommit mem-lock=on -pidfile /p -d cpu_reset -D /l -L /a -echr 0x14",
    )
    .unwrap();
    assert_eq!(options.memory, 64 << 20);
    assert_eq!(options.machine.accels, [Accel::Kvm, Accel::Tcg]);
    assert_eq!((options.smp.cpus, options.smp.cores), (2, 2));
    assert!(options.paused && options.nodefaults && !options.preconfig);
    assert_eq!(options.actions.reboot, RebootAction::Shutdown);
    assert_eq!(options.actions.shutdown, ShutdownAction::Pause);
    assert_eq!(options.name.as_deref(), Some("g"));
    assert_eq!(options.cpu.as_deref(), Some("qemu64,+x"));
    let monitors: Vec<_> = options
        .monitors
        .iter()
        .map(|m| m.chardev.as_str())
        .collect();
    assert_eq!(monitors, ["c", "compat_monitor0"]);
    assert_eq!(options.serials, [Some("serial0".to_owned()), None]);
    assert_eq!(options.debugcons, [Some("debugcon0".to_owned())]);
    assert_eq!(options.devices[0].properties.uint("iobase"), Some(0x2f8));
    assert_eq!(options.defaults_of(&SERIAL).uint("iobase"), Some(0x3e8));
    assert_eq!(options.rtc.base, RtcBase::At(946_684_800));
    assert_eq!(options.escape_key, 0x14);
    assert_eq!(options.search_path().next(), Some("/a"));
    assert_eq!(options.log.items, Items::CPU_RESET);
    assert_eq!(options.log_file.as_deref(), Some("/l"));
    assert!(options.missing.is_empty() && options.warnings.is_empty());
}

#[test]
fn inherited_descriptors_go_into_sets() {
    let options = run("-add-fd fd=5,set=0 -add-fd opaque=a,,b,set=0x10,fd=4294967301").unwrap();
    let [first, second] = &*options.add_fds else {
        panic!("two of them");
    };
    assert_eq!((first.fd, first.set, &first.opaque), (5, 0, &None));
    assert_eq!(first.origin, "-add-fd fd=5,set=0");
    // No number is cut down to one that may be open.
    assert_eq!((second.fd, second.set), (i32::MAX, 16));
    assert_eq!(second.opaque.as_deref(), Some("a,b"));
}

#[test]
fn log_items_add_up() {
    let options = run("-d in_asm,int -d exec").unwrap();
    assert_eq!(options.log.items, Items::IN_ASM | Items::INT | Items::EXEC);
    assert_eq!(run("").unwrap().log.items, Items::empty());
    for (line, item) in [("-d op", "'op'"), ("-d int,", "''"), ("-d int,,exec", "''")] {
        let text = run(line).unwrap_err();
        assert!(text.contains(&format!("no log item {item}")), "{text}");
    }
}

#[test]
fn defaults_follow_the_board() {
    let plain = run("").unwrap();
    assert_eq!(plain.serials.len(), 1);
    assert_eq!(plain.chardevs[0].spec.backend, Backend::Null);
    for what in ["CD-ROM", "network card"] {
        assert!(plain.missing.contains(&what), "{what}");
    }
    let vga = |line| {
        let missing = run(line).unwrap().missing;
        let mut found = missing.into_iter().filter(|what| what.starts_with("VGA"));
        found.next()
    };
    assert!(vga("").unwrap().contains("serial port"));
    assert_eq!(vga("-serial none"), Some("VGA (as with -vga none)"));
    assert_eq!(vga("-M graphics=off"), Some("VGA (as with -vga none)"));
    assert_eq!(vga("-vga none"), None);
    for (line, on_serial) in [
        ("", true),
        ("-serial none", false),
        ("-vga none", false),
        ("-nographic", false),
        ("-M graphics=off", false),
        ("-nodefaults -serial null", false),
        ("-M microvm", false),
    ] {
        assert_eq!(run(line).unwrap().serial_console, on_serial, "{line}");
    }
    assert_eq!(plain.parallels, [Some("parallel0".to_owned())]);
    for line in [
        "-parallel none",
        "-chardev null,id=a -device isa-parallel,chardev=a",
        "-M microvm",
        "-nodefaults",
    ] {
        let options = run(line).unwrap();
        assert_eq!(options.parallels.iter().flatten().count(), 0, "{line}");
    }
    let text = run(&"-parallel null ".repeat(4)).unwrap_err();
    assert!(text.ends_with("too many parallel ports"), "{text}");
    let graphic = run("-nographic -net none -parallel none").unwrap();
    assert_eq!(graphic.missing, ["CD-ROM"]);
    assert!(graphic.chardevs[0].spec.mux);
    assert_eq!(
        graphic.chardevs[0].spec.backend,
        Backend::Stdio {
            signal: Some(false)
        }
    );
    assert!(
        !run("-nographic -monitor none").unwrap().chardevs[0]
            .spec
            .mux
    );
    for line in ["-nodefaults", "-M none", "-nodefaults -nographic"] {
        let options = run(line).unwrap();
        assert!(
            options.serials.is_empty() && options.missing.is_empty(),
            "{line}"
        );
    }
    assert_eq!(
        run("-nodefaults -serial stdio").unwrap().chardevs[0]
            .spec
            .backend,
        Backend::Stdio { signal: Some(true) }
    );
    let qtest = run("-nodefaults -qtest unix:/q").unwrap();
    assert_eq!(qtest.machine.accels, [Accel::Qtest]);
}

/// Each line, and what its error has to say. The option as given leads every error.
#[test]
fn errors_name_the_option() {
    for (line, part) in [
        ("-foo", "invalid option"),
        ("--foo", "invalid option"),
        ("-", "disk images"),
        ("disk.img", "disk images"),
        ("-m", "requires an argument"),
        ("-m 12q", "Parameter 'size' expects a non-negative number"),
        ("-m 99999999999999999999", "out of range"),
        ("-m 64,foo=1", "Invalid parameter 'foo'"),
        ("-m 1024G", "more than the most"),
        ("-smp 0", "greater than zero"),
        ("-smp 4,maxcpus=2", "Invalid CPU topology"),
        ("-smp 300", "255"),
        ("-M foo", "unsupported machine type 'foo'"),
        ("-machine pc,foo=on", "Invalid parameter 'foo'"),
        ("-M pc,accel=foo", "invalid accelerator foo"),
        ("-accel foo", "invalid accelerator foo"),
        ("-accel", "requires an argument"),
        ("-chardev foo,id=a", "'foo' is not a valid char driver name"),
        ("-chardev socket", "no id specified"),
        ("-serial foo", "'foo' is not a valid char driver"),
        ("-serial chardev:nope", "\"nope\" not found"),
        ("-serial pipe:x", "'pipe' is not available"),
        ("-qmp foo", "'foo'"),
        ("-monitor foo", "'foo' is not a valid char driver"),
        ("-monitor vc", "'vc' is not available"),
        ("-mon chardev=foo,mode=control", "\"foo\" not found"),
        ("-mon foo", "\"foo\" not found"),
        ("-mon foo,mode=x", "Parameter 'mode'"),
        (
            "-mon foo,pretty=on",
            "'pretty' is not compatible with HMP monitors",
        ),
        ("-qtest mon:stdio", "mon: isn't supported"),
        ("-mon id=x", "'chardev' is missing"),
        ("-uuid foo", "wrong format"),
        ("-rtc foo", "Invalid parameter 'foo'"),
        ("-rtc base=foo", "invalid datetime"),
        ("-rtc clock=foo", "host, rt, vm"),
        ("-name a,bar=1", "Invalid parameter 'bar'"),
        ("-msg timestamp=x", "expects 'on' or 'off'"),
        ("-overcommit foo=1", "Invalid parameter 'foo'"),
        ("-echr foo", "code of a key"),
        ("-add-fd set=1", "fd option is required"),
        ("-add-fd fd=5", "set option is required"),
        ("-add-fd fd=5,set=0x8000000000000000", "non-negative"),
        ("-add-fd fd=a,set=1", "Parameter 'fd' expects a number"),
        ("-add-fd 5", "Invalid parameter '5'"),
        ("-action foo=reset", "Invalid parameter 'foo'"),
        ("-action reset", "Invalid parameter 'reset'"),
        ("-action reboot=foo", "expects one of reset, shutdown"),
        ("-action panic=debug", "exit-failure, none"),
        ("-action shutdown=", "expects one of poweroff, pause"),
        ("-action", "requires an argument"),
        ("-watchdog-action foo", "inject-nmi"),
        ("-watchdog-action help", "expects one of"),
        ("-watchdog ib700", "not available"),
        ("-d foo", "no log item 'foo'"),
        ("-display gtk", "no display"),
        ("-vga std", "no VGA"),
        ("-drive if=scsi,file=x", "not available"),
        ("-runas nobody", "not available"),
        ("-initrd x", "only allowed with -kernel"),
        ("-append x", "only allowed with -kernel"),
        ("-device foo", "'foo' is not a valid device model name"),
        ("-device isa-i8259", "not pluggable"),
        (
            "-device isa-serial,foo=1",
            "Property 'isa-serial.foo' not found",
        ),
        (
            "-device isa-serial,iobase=x",
            "Parameter 'iobase' expects integer",
        ),
        ("-device isa-serial,iobase=65536", "uint16"),
        ("-device isa-serial,id=1", "identifier"),
        ("-device isa-serial,chardev=c", "\"c\" not found"),
        ("-device iobase=1", "'driver' is missing"),
        ("-device {\"driver\":\"isa-serial\"}", "JSON"),
        (
            "-global isa-serial.foo=1",
            "Property 'isa-serial.foo' not found",
        ),
        (
            "-global isa-serial.iobase=x",
            "Parameter 'iobase' expects integer",
        ),
        ("-global foo", "Invalid parameter 'foo'"),
    ] {
        let error = run(line).unwrap_err();
        // The argument of an option that is not there is not looked at.
        let unknown = ["invalid option", "of QEMU is not available"];
        let named = match line.split_once(' ') {
            Some((option, _)) if unknown.iter().any(|end| error.ends_with(end)) => option,
            _ => line,
        };
        assert!(error.starts_with(&format!("{named}: ")), "{line}: {error}");
        assert!(error.contains(part), "{line}: {error}");
        assert!(!error.contains('\n'), "{line}: {error}");
    }
}

/// Short and long forms set the same, and the last one counts.
#[test]
fn actions_add_up() {
    let actions = |line: &str| run(line).unwrap().actions;
    assert_eq!(actions(""), Actions::default());
    let all = actions("-action reboot=shutdown,panic=exit-failure -action watchdog=inject-nmi");
    assert_eq!(all.reboot, RebootAction::Shutdown);
    assert_eq!(all.shutdown, ShutdownAction::Poweroff);
    assert_eq!(all.panic, PanicAction::ExitFailure);
    assert_eq!(all.watchdog, WatchdogAction::InjectNmi);
    assert_eq!(actions("-no-reboot"), actions("-action reboot=shutdown"));
    assert_eq!(actions("-no-shutdown"), actions("-action shutdown=pause"));
    assert_eq!(
        actions("-watchdog-action debug"),
        actions("-action watchdog=debug")
    );
    for line in [
        "-no-reboot -action reboot=reset",
        "-action reboot=shutdown,reboot=reset",
        "-action watchdog=none -watchdog-action reset",
    ] {
        assert_eq!(actions(line), Actions::default(), "{line}");
    }
    assert!(run("--preconfig").unwrap().preconfig && run("-preconfig -S").unwrap().paused);
}

/// Errors that take two options: the second one is named.
#[test]
fn options_that_exclude_each_other() {
    for (first, second) in [
        ("-chardev null,id=a", "-chardev null,id=a"),
        ("-serial stdio", "-serial stdio"),
        (
            "-chardev null,id=a -serial chardev:a",
            "-debugcon chardev:a",
        ),
        (
            "-chardev null,id=a -serial chardev:a",
            "-device isa-serial,chardev=a",
        ),
        ("-device isa-serial,id=a", "-device isa-serial,id=a"),
        ("-machine accel=tcg", "-accel kvm"),
        ("-accel kvm", "-machine accel=tcg"),
        ("-daemonize", "-serial stdio"),
        (
            "-serial null -serial null -serial null -serial null",
            "-serial null",
        ),
    ] {
        let error = run(&format!("{first} {second}")).unwrap_err();
        assert!(error.starts_with(&format!("{second}: ")), "{error}");
    }
    assert!(
        run("-nographic -daemonize")
            .unwrap_err()
            .contains("-daemonize")
    );
}

#[test]
fn globals_of_unknown_classes_are_warnings() {
    let options =
        run("-global foo.bar=1 -global driver=isa-serial,property=iobase,value=5").unwrap();
    assert_eq!(options.warnings, ["global foo.bar has invalid class name"]);
    assert_eq!(options.defaults_of(&SERIAL).uint("iobase"), Some(5));
}

#[test]
fn help_texts() {
    for (line, part) in [
        ("-help", "-machine | -M"),
        ("-version", "7.2.0"),
        ("-M help", "pc-i440fx-7.2"),
        ("-machine pc,help", "kernel-irqchip="),
        ("-accel help", "tcg"),
        ("-device help", "name \"isa-serial\", bus ISA"),
        ("-device isa-serial,help", "iobase=<uint16>"),
        ("-chardev help", "socket"),
        ("-d help", "cpu_reset"),
        ("-d ?", "in_asm"),
        ("-action help", "panic=pause|shutdown|exit-failure|none"),
        ("-L /x -L help", "/x\n"),
    ] {
        let text = run(line).unwrap_err();
        assert!(text.contains(part), "{line}: {text}");
    }
    assert!(!run("-device help").unwrap_err().contains("i8259"));
}

#[test]
fn a_name_stands_once_in_the_tables() {
    let mut names: Vec<_> = table::OPTIONS.iter().flat_map(|row| row.names).collect();
    names.extend(table::ABSENT);
    names.sort();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn an_error_is_one_line() {
    let error = try_parse(&["-m", "1\n2"]).unwrap_err();
    assert!(!error.contains('\n'), "{error}");
}

fn word() -> impl Strategy<Value = String> {
    let names: Vec<String> = table::OPTIONS
        .iter()
        .flat_map(|row| row.names)
        .map(|name| format!("-{name}"))
        .collect();
    let pieces = vec![
        "pc",
        "size",
        "=",
        ",",
        ",,",
        "64",
        "0x",
        "id",
        "chardev",
        "socket",
        "path",
        "host",
        "port",
        "server",
        "no",
        "on",
        "off",
        "tcp:",
        "unix:",
        "file:",
        "mon:",
        "stdio",
        ":",
        "[",
        "]",
        "isa-serial",
        "iobase",
        "driver",
        "cpus",
        "cores",
        "1.5G",
        "99999999999999999999",
        "base",
        "2006-02-",
        "help",
        "é",
        ".",
        "-",
        "T",
        "255",
    ];
    prop_oneof![
        prop::sample::select(names),
        prop::collection::vec(prop::sample::select(pieces), 0..8).prop_map(|p| p.concat()),
        any::<String>(),
    ]
}

proptest! {
    #[test]
    fn arbitrary_arguments_never_panic(words in prop::collection::vec(word(), 0..6)) {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        if let Err(error) = try_parse(&words) {
            prop_assert!(!error.contains('\n'));
        }
    }
}

#[test]
fn monitors_share_devices_where_they_may() {
    let error = |line: &str| run(line).unwrap_err();
    let shared = "-chardev null,id=c,mux=on -mon c -mon c -serial chardev:c -mon c,mode=control";
    let options = run(shared).unwrap();
    let languages: Vec<_> = options.monitors.iter().map(|m| m.language).collect();
    let (human, qmp) = (Language::Human, Language::Qmp { pretty: false });
    assert_eq!(languages, [human, human, qmp]);
    assert_eq!(
        error(&format!("{shared} -mon c")),
        "-mon c: Device 'c' is in use"
    );
    assert_eq!(
        error("-mon c -chardev null,id=c -mon c"),
        "-mon c: chardev \"c\" is already in use"
    );
    assert!(error("-monitor stdio -serial stdio").contains("multiple character devices"));
    // A monitor comes with a console behind mon:, and with -nographic, if there is no other.
    for (line, chardevs) in [
        ("-nodefaults -serial mon:stdio", &["serial0"][..]),
        ("-nodefaults -debugcon mon:null", &["debugcon0"]),
        ("-nographic", &["serial0"]),
        ("-nographic -serial null", &["compat_monitor0"]),
        ("-nographic -M none", &["compat_monitor0"]),
        ("-nographic -nodefaults", &[]),
        ("-nographic -monitor none", &[]),
        ("-nographic -qmp-pretty null", &["compat_monitor0"]),
        (
            "-monitor null -qmp null",
            &["compat_monitor0", "compat_monitor1"],
        ),
        ("-nodefaults", &[]),
    ] {
        let options = run(line).unwrap();
        let found: Vec<_> = options
            .monitors
            .iter()
            .map(|m| m.chardev.as_str())
            .collect();
        assert_eq!(found, chardevs, "{line}");
    }
}
