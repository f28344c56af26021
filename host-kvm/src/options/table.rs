//! The table of options: the source of parsing and of `-help`.

use super::builder::Builder;
use super::opts::Reason;
use crate::monitors::Language;

/// What an option does.
#[derive(Clone, Copy)]
pub(super) enum Action {
    /// It takes no argument.
    Flag(fn(&mut Builder) -> Result<(), Reason>),
    /// It takes one; the text is its form in the help.
    Value(&'static str, fn(&mut Builder, &str) -> Result<(), Reason>),
}

/// One option.
pub(super) struct OptionRow {
    /// Its names, without hyphens; the first one is in the help.
    pub(super) names: &'static [&'static str],
    pub(super) action: Action,
    /// One line.
    pub(super) help: &'static str,
}

const fn flag(
    names: &'static [&'static str],
    run: fn(&mut Builder) -> Result<(), Reason>,
    help: &'static str,
) -> OptionRow {
    OptionRow {
        names,
        action: Action::Flag(run),
        help,
    }
}

const fn value(
    names: &'static [&'static str],
    form: &'static str,
    run: fn(&mut Builder, &str) -> Result<(), Reason>,
    help: &'static str,
) -> OptionRow {
    OptionRow {
        names,
        action: Action::Value(form, run),
        help,
    }
}

/// Every option, in the order of the help.
pub(super) static OPTIONS: &[OptionRow] = &[
    flag(&["help", "h"], Builder::help, "print this text and exit"),
    flag(&["version"], Builder::version, "print the version and exit"),
    value(
        &["machine", "M"],
        "[type=]NAME[,PROP=VALUE...]",
        Builder::machine,
        "the board ('help' lists them)",
    ),
    value(
        &["accel"],
        "NAME[,PROP=VALUE...]",
        Builder::accel,
        "what runs guest code: kvm, tcg or qtest; repeat for a second choice",
    ),
    flag(
        &["enable-kvm"],
        |b| b.accel("kvm"),
        "the same as -accel kvm",
    ),
    value(
        &["cpu"],
        "MODEL[,+FEATURE][,-FEATURE][,PROP=VALUE...]",
        |b, v| b.text(v, |o| &mut o.cpu),
        "the processor",
    ),
    value(
        &["smp"],
        "[cpus=]N[,maxcpus=N][,sockets=N][,cores=N][,threads=N]",
        Builder::smp,
        "processors (default 1)",
    ),
    value(
        &["m"],
        "[size=]SIZE",
        Builder::memory,
        "guest RAM, in MiB or with a suffix (default 128)",
    ),
    value(
        &["mem-path"],
        "FILE",
        |b, v| b.text(v, |o| &mut o.memory_path),
        "make guest RAM of this file, or of one in this directory",
    ),
    flag(
        &["mem-prealloc"],
        |b| b.set(|o| o.memory_prealloc = true),
        "memory is there from the start, whole",
    ),
    value(
        &["object"],
        "TYPE,id=ID[,PROP=VALUE...]",
        Builder::object,
        "make an object ('help' lists the types, 'TYPE,help' the properties); also in JSON",
    ),
    value(
        &["bios"],
        "FILE",
        |b, v| b.text(v, |o| &mut o.bios),
        "firmware image",
    ),
    value(
        &["kernel"],
        "FILE",
        |b, v| b.text(v, |o| &mut o.kernel),
        "kernel image",
    ),
    value(
        &["initrd"],
        "FILE",
        |b, v| b.text(v, |o| &mut o.initrd),
        "initial RAM disk for the kernel",
    ),
    value(
        &["append"],
        "TEXT",
        |b, v| b.text(v, |o| &mut o.append),
        "command line for the kernel",
    ),
    value(
        &["boot"],
        "[order=]LETTERS[,once=LETTERS][,menu=on|off][,splash=FILE][,splash-time=MS][,reboot-timeout=MS][,strict=on|off]",
        Builder::boot,
        "what firmware boots from: a and b floppies, c hard disks, d CD-ROMs, n networks ('help' lists the rest)",
    ),
    flag(
        &["no-fd-bootchk"],
        |b| b.set(|o| o.boot.no_floppy_signature = true),
        "boot from floppies without a signature, too",
    ),
    value(
        &["option-rom"],
        "[romfile=]FILE[,bootindex=N]",
        Builder::option_rom,
        "a ROM for the firmware to run",
    ),
    value(
        &["L"],
        "DIR",
        Builder::data_dir,
        "look for firmware there first ('help' lists the directories)",
    ),
    value(
        &["blockdev"],
        "[driver=]DRIVER,node-name=NAME[,PROP=VALUE...]",
        Builder::blockdev,
        "a block node; also in JSON",
    ),
    value(
        &["drive"],
        "[file=FILE][,if=none|ide|virtio|floppy|pflash][,format=raw][,id=ID][,media=disk|cdrom][,readonly=on|off][,snapshot=on|off]\
         [,cache=MODE][,discard=MODE][,werror=ACTION][,rerror=ACTION][,throttling.LIMIT=N][,PROP=VALUE...]",
        Builder::drive,
        "a drive and its image; if=pflash: flash of the board, whose unit 0 holds the firmware and unit 1 its settings",
    ),
    value(
        &["hda"],
        "FILE",
        |b, v| b.short_drive(v, "index=0,media=disk"),
        "the first IDE disk",
    ),
    value(
        &["hdb"],
        "FILE",
        |b, v| b.short_drive(v, "index=1,media=disk"),
        "the second",
    ),
    value(
        &["hdc"],
        "FILE",
        |b, v| b.short_drive(v, "index=2,media=disk"),
        "the third",
    ),
    value(
        &["hdd"],
        "FILE",
        |b, v| b.short_drive(v, "index=3,media=disk"),
        "the fourth",
    ),
    value(
        &["cdrom"],
        "FILE",
        |b, v| b.short_drive(v, "index=2,media=cdrom"),
        "the CD-ROM",
    ),
    value(
        &["fda"],
        "FILE",
        |b, v| b.short_drive(v, "if=floppy,index=0"),
        "the first floppy disk",
    ),
    value(
        &["fdb"],
        "FILE",
        |b, v| b.short_drive(v, "if=floppy,index=1"),
        "the second",
    ),
    value(
        &["pflash"],
        "FILE",
        Builder::pflash,
        "the same as -drive if=pflash,file=FILE",
    ),
    value(
        &["device"],
        "CLASS[,PROP=VALUE...]",
        Builder::device,
        "add a device ('help' lists the classes, 'CLASS,help' the properties)",
    ),
    value(
        &["global"],
        "CLASS.PROP=VALUE",
        Builder::global,
        "default of a property for all devices of a class",
    ),
    value(
        &["chardev"],
        "BACKEND,id=ID[,...]",
        Builder::chardev,
        "a character device ('help' lists the backends)",
    ),
    value(
        &["serial"],
        "CHARDEV",
        |b, v| b.console(v, "serial", |o| &mut o.serials),
        "next serial port: unix:PATH, tcp:HOST:PORT, telnet:HOST:PORT, file:PATH, stdio, pty, null, none, chardev:ID; \
         behind mon: with a human monitor that the escape key switches to",
    ),
    value(
        &["debugcon"],
        "CHARDEV",
        |b, v| b.console(v, "debugcon", |o| &mut o.debugcons),
        "a debug console, port 0xe9 by default",
    ),
    value(
        &["qmp"],
        "CHARDEV",
        |b, v| b.monitor(v, Language::Qmp { pretty: false }),
        "a QMP monitor",
    ),
    value(
        &["qmp-pretty"],
        "CHARDEV",
        |b, v| b.monitor(v, Language::Qmp { pretty: true }),
        "the same with replies spread over lines",
    ),
    value(
        &["mon"],
        "[chardev=]ID[,mode=readline|control][,pretty=on|off][,id=NAME]",
        Builder::mon,
        "a monitor on a -chardev: for people (readline, the default) or QMP",
    ),
    value(
        &["monitor"],
        "CHARDEV",
        |b, v| b.monitor(v, Language::Human),
        "a human monitor",
    ),
    value(
        &["qtest"],
        "CHARDEV",
        Builder::qtest,
        "a test program drives the devices",
    ),
    value(
        &["qtest-log"],
        "FILE",
        |b, v| b.text(v, |o| &mut o.qtest_log),
        "log of the test protocol ('none': no log)",
    ),
    value(
        &["gdb"],
        "CHARDEV",
        Builder::gdb,
        "wait for a debugger there: tcp::PORT, unix:PATH,server=on,wait=off, stdio, none, chardev:ID",
    ),
    flag(&["s"], |b| b.gdb("tcp::1234"), "the same as -gdb tcp::1234"),
    value(
        &["echr"],
        "KEY",
        Builder::escape_key,
        "code of the escape key of mon: and mux=on (default 1, Ctrl-A)",
    ),
    flag(
        &["nographic"],
        |b| b.set(|o| o.nographic = true),
        "no display; the serial port and a human monitor are on the terminal (Ctrl-A h helps)",
    ),
    value(
        &["display"],
        "none",
        Builder::display,
        "the display, which is not available: 'none'",
    ),
    value(
        &["vga"],
        "none",
        |b, v| b.only_none(v, "VGA"),
        "the graphics card, which is not available: 'none'",
    ),
    value(
        &["vnc"],
        "none",
        |b, v| b.only_none(v, "VNC server"),
        "the VNC server, which is not available: 'none'",
    ),
    value(
        &["net", "nic"],
        "none",
        |b, v| b.only_none(v, "network card"),
        "the network card, which is not available: 'none'",
    ),
    value(
        &["parallel"],
        "CHARDEV",
        |b, v| b.console(v, "parallel", |o| &mut o.parallels),
        "next parallel port, with a printer that passes on what it gets",
    ),
    value(
        &["audiodev"],
        "[driver=]none,id=ID[,timer-period=MICROSECONDS]",
        Builder::audiodev,
        "a place for the sound of sound cards, of which there are none; also in JSON",
    ),
    flag(
        &["nodefaults"],
        |b| b.set(|o| o.nodefaults = true),
        "no default devices",
    ),
    flag(
        &["no-user-config"],
        |_| Ok(()),
        "read no configuration files; none are ever read",
    ),
    flag(
        &["no-hpet"],
        |b| b.set(|o| o.machine.hpet = false),
        "the same as -machine hpet=off",
    ),
    flag(
        &["no-acpi"],
        |b| b.set(|o| o.machine.acpi = false),
        "the same as -machine acpi=off",
    ),
    flag(
        &["S"],
        |b| b.set(|o| o.paused = true),
        "do not start the guest",
    ),
    flag(
        &["snapshot"],
        |b| b.set(|o| o.snapshot = true),
        "let what drives write go to temporary files, unless they say otherwise",
    ),
    flag(
        &["preconfig"],
        |b| b.set(|o| o.preconfig = true),
        "wait for the QMP command x-exit-preconfig before anything else",
    ),
    flag(
        &["no-reboot"],
        |b| b.action("reboot=shutdown"),
        "the same as -action reboot=shutdown: exit instead of resetting",
    ),
    flag(
        &["no-shutdown"],
        |b| b.action("shutdown=pause"),
        "the same as -action shutdown=pause: stop instead of exiting at shutdown",
    ),
    value(
        &["add-fd"],
        "fd=N,set=M[,opaque=TEXT]",
        Builder::add_fd,
        "put the inherited descriptor N into the set that /dev/fdset/M names",
    ),
    value(
        &["action"],
        "EVENT=ACTION[,...]",
        Builder::action,
        "what a reset, shutdown, panic or late watchdog does ('help' lists the actions)",
    ),
    value(
        &["watchdog-action"],
        "ACTION",
        Builder::watchdog_action,
        "the same as -action watchdog=ACTION",
    ),
    value(
        &["name"],
        "[guest=]NAME[,process=NAME][,debug-threads=on|off]",
        Builder::name,
        "name of the guest",
    ),
    value(&["uuid"], "UUID", Builder::uuid, "UUID of the guest"),
    value(
        &["numa"],
        "node[,nodeid=N][,cpus=N[-N]][,memdev=ID]|dist,src=N,dst=N,val=N|cpu,node-id=N[,...]",
        Builder::numa,
        "NUMA nodes with their memory backends and processors, and distances between them",
    ),
    value(
        &["acpitable"],
        "[FIELD=VALUE,...]data|file=FILE[:FILE...]",
        Builder::acpi_table,
        "one more ACPI table: fields sig, rev, oem_id, oem_table_id, oem_rev, asl_compiler_id, asl_compiler_rev",
    ),
    value(
        &["smbios"],
        "file=FILE|type=N[,FIELD=VALUE...]",
        Builder::smbios,
        "what SMBIOS structures tell: types 0, 1, 2, 3, 4, 8, 11, 17, 41, or a file of them",
    ),
    value(
        &["rtc"],
        "[base=utc|localtime|DATE][,clock=host|rt|vm]",
        Builder::rtc,
        "the real-time clock",
    ),
    value(
        &["icount"],
        "[shift=]N|auto[,sleep=on|off][,align=off]",
        Builder::icount,
        "software CPU: time goes by instructions, of 2^N ns each",
    ),
    value(
        &["seed"],
        "N",
        Builder::seed,
        "software CPU: random numbers are those of this seed",
    ),
    value(
        &["overcommit"],
        "[mem-lock=on|off][,cpu-pm=on|off]",
        Builder::overcommit,
        "whether to lock memory, and to leave idling to the guest",
    ),
    value(
        &["msg"],
        "[timestamp=on|off][,guest-name=on|off]",
        Builder::msg,
        "what stands before messages",
    ),
    value(
        &["d"],
        "ITEM,...",
        Builder::log_items,
        "what to log ('help' lists the items)",
    ),
    value(
        &["D"],
        "FILE",
        |b, v| b.text(v, |o| &mut o.log_file),
        "where to log and trace (default: standard error)",
    ),
    value(
        &["dfilter"],
        "START..END,START+LENGTH,...",
        Builder::log_filter,
        "log code at these addresses only",
    ),
    value(
        &["trace"],
        "[enable=]PATTERN[,events=FILE][,file=FILE]",
        Builder::trace,
        "trace events ('help' lists them)",
    ),
    value(
        &["pidfile"],
        "FILE",
        |b, v| b.text(v, |o| &mut o.pidfile),
        "write the process id there",
    ),
    flag(
        &["daemonize"],
        |b| b.set(|o| o.daemonize = true),
        "go to the background when everything stands",
    ),
];

/// QEMU's other options: refused by name.
pub(super) static ABSENT: &[&str] = &[
    "async-teardown",
    "audio",
    "audio-help",
    "chroot",
    "compat",
    "dtb",
    "dump-vmstate",
    "enable-sync-profile",
    "fsdev",
    "full-screen",
    "fw_cfg",
    "incoming",
    "iscsi",
    "k",
    "loadvm",
    "mtdblock",
    "netdev",
    "only-migratable",
    "perfmap",
    "plugin",
    "portrait",
    "readconfig",
    "rotate",
    "runas",
    "run-with",
    "sandbox",
    "sd",
    "sdl",
    "semihosting",
    "set",
    "singlestep",
    "spice",
    "tb-size",
    "tpmdev",
    "usb",
    "usbdevice",
    "virtfs",
    "watchdog",
    "win2k-hack",
    "xen-attach",
    "xen-domid",
    "xen-domid-restrict",
];

/// The text of `-help`.
pub(super) fn help() -> String {
    let mut text =
        String::from("usage: thimble [options]\n\nOptions, each with one or two hyphens:\n");
    for row in OPTIONS {
        text.push('-');
        text.push_str(row.names[0]);
        for name in &row.names[1..] {
            text.push_str(" | -");
            text.push_str(name);
        }
        if let Action::Value(form, _) = row.action {
            text.push(' ');
            text.push_str(form);
        }
        text.push_str("\n        ");
        text.push_str(row.help);
        text.push('\n');
    }
    text
}
