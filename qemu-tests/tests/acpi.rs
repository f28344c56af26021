//! ACPI: the tables as compilers and guests read them, the power button, and power-off.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use qemu_tests::fw_cfg::file;
use qemu_tests::initramfs::Initramfs;
use qemu_tests::{Emulator, Instance, ask_both, packages, skip};
use serde_json::json;

/// Answers of an emulator that has nothing else to do.
const SOON: Duration = Duration::from_secs(20);
/// A guest may take so long; other tests and emulators have the same processors.
const PATIENCE: Duration = Duration::from_secs(400);

/// Boards whose tables are looked at.
const BOARDS: &[&str] = &[
    "-M pc -device vmgenid",
    "-M pc",
    "-M pc -smp 2,maxcpus=4 -serial null -serial null -device pvpanic",
    "-M pc -smp 255 -m 4G",
    "-M pc -smp 4 -m 128 -object memory-backend-ram,id=a,size=96M -object memory-backend-ram,id=b,size=32M \
     -numa node,memdev=a -numa node,memdev=b -numa dist,src=0,dst=1,val=15",
    "-M microvm -smp 3 -serial null",
    "-M microvm",
    "-M microvm,pic=off,rtc=off,pit=off,isa-serial=off",
];

fn number(answer: std::io::Result<String>) -> u64 {
    let answer = answer.expect("an answer");
    let digits = answer.strip_prefix("OK 0x").expect("a number");
    u64::from_str_radix(digits, 16).expect("a number")
}

fn passive(options: &str) -> Instance {
    Emulator::Thimble
        .launcher()
        .args(Emulator::Thimble.passive_args())
        .args(options.split_whitespace())
        .with_qtest()
        .start()
}

/// The tables of a file, in order, each with the checksum that firmware would give it.
fn tables(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut tables = Vec::new();
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= 36) {
        if rest[0] == 0 {
            at += 1;
            continue;
        }
        let length = u32::from_le_bytes(rest[4..8].try_into().expect("4 bytes")) as usize;
        let mut table = rest[..length].to_vec();
        if !table.starts_with(b"FACS") {
            let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
            table[9] = table[9].wrapping_sub(sum);
        }
        tables.push(table);
        at += length;
    }
    tables
}

/// What Intel's compiler says of a file.
fn iasl(options: &[&str], path: &Path) -> String {
    let output = Command::new("iasl").args(options).arg(path).output();
    let output = output.expect("iasl");
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn tables_are_read_without_complaint() {
    if packages::program("iasl", "acpica-tools").is_none() {
        return skip("acpica-tools is missing");
    }
    for options in BOARDS {
        let thimble = passive(options);
        let mut client = thimble.qtest();
        let bytes = file(&mut client, "etc/acpi/tables").expect("tables");
        let mut names = Vec::new();
        for table in tables(&bytes) {
            let name = String::from_utf8_lossy(&table[..4]).into_owned();
            let path = thimble.dir().join(format!("{name}.dat"));
            std::fs::write(&path, table).expect("a file");
            let said = complaints(&path);
            assert!(said.is_empty(), "{options}: {name}: {said:?}");
            let source = path.with_extension("dsl");
            // The identifier in the SSDT, which guests know, is not of the form that the compiler wants.
            if name == "DSDT" {
                let said = iasl(&[], &source);
                let clean = "0 Errors, 0 Warnings, 0 Remarks";
                assert!(said.contains(clean), "{options}: {said}");
            }
            names.push(name);
        }
        let reduced = options.contains("microvm");
        let mut expected = vec![
            "FACS", "DSDT", "FACP", "APIC", "HPET", "SRAT", "SLIT", "WAET", "SSDT", "RSDT", "XSDT",
        ];
        expected.retain(|name| match *name {
            "HPET" | "WAET" => !reduced,
            "SRAT" | "SLIT" => options.contains("numa"),
            "SSDT" => options.contains("vmgenid"),
            _ => true,
        });
        assert_eq!(names, expected, "{options}");
    }
}

/// Tables that one of both has and the other has not, with the reason.
const TABLES_OF_ONE: &[(&str, &str)] = &[
    (
        "pc XSDT",
        "ours alone: 64-bit addresses, as ACPI from version 2 on wants them",
    ),
    (
        "microvm RSDT",
        "ours alone: for guests that do not look for the XSDT",
    ),
    (
        "microvm FACS",
        "ours alone: ACPI wants one, even where firmware and system share no lock",
    ),
];

/// The tables that both have are the same, and the disassembler complains about none of ours that it takes from QEMU.
#[test]
fn tables_are_those_of_qemu() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    if packages::program("iasl", "acpica-tools").is_none() {
        return skip("acpica-tools is missing");
    }
    let pc = format!("{} {}", BOARDS[0], BOARDS[4].trim_start_matches("-M pc"));
    // With a table that the user brings, of which nobody knows what it means.
    let user = "-acpitable sig=TEST,rev=3,oem_id=MYOEM,data={dir}/data";
    let mut seen = Vec::new();
    for options in [format!("{pc} {user}"), BOARDS[6].to_owned()] {
        let board = if options.contains("microvm") {
            "microvm"
        } else {
            "pc"
        };
        let [qemu, thimble] = ask_both(|emulator| {
            let launcher = emulator.launcher().args(emulator.passive_args());
            std::fs::write(launcher.dir().join("data"), [7; 24]).expect("a file");
            let instance = launcher
                .args(options.split_whitespace())
                .with_qtest()
                .start();
            let bytes = file(&mut instance.qtest(), "etc/acpi/tables").expect("tables");
            let read = |table: Vec<u8>| {
                let name = String::from_utf8_lossy(&table[..4]).into_owned();
                let path = instance.dir().join(format!("{name}.dat"));
                std::fs::write(&path, table).expect("a file");
                (name, complaints(&path))
            };
            tables(&bytes).into_iter().map(read).collect::<Vec<_>>()
        });
        let has = |side: &[(String, Vec<String>)], name: &str| {
            side.iter().any(|(other, _)| other == name)
        };
        for (name, _) in qemu.iter().chain(&thimble) {
            if has(&qemu, name) != has(&thimble, name) {
                let which = format!("{board} {name}");
                let is_known = TABLES_OF_ONE.iter().any(|(known, _)| *known == which);
                assert!(is_known, "{options}: {name}: {qemu:?} {thimble:?}");
                seen.push(which);
            }
        }
        for (name, said) in &thimble {
            let known = qemu.iter().find(|(other, _)| other == name);
            let known = known.map_or(&[][..], |(_, said)| said);
            assert!(
                said.iter().all(|line| known.contains(line)),
                "{options}: {name}: {said:?} {known:?}"
            );
        }
    }
    for (name, reason) in TABLES_OF_ONE {
        assert!(
            seen.iter().any(|seen| seen == name),
            "{name} is everybody's now, not {reason}"
        );
    }
}

/// What the disassembler complains about in a file, and what it can't make sense of.
fn complaints(path: &Path) -> Vec<String> {
    let said = iasl(&["-d"], path);
    let complains = |line: &&str| {
        let line = line.to_lowercase();
        line.contains("warning") || line.contains("error") || line.contains("invalid")
    };
    let mut all: Vec<String> = said.lines().filter(complains).map(String::from).collect();
    let text = std::fs::read_to_string(path.with_extension("dsl")).unwrap_or_default();
    let puzzles = |line: &&str| {
        ["Incorrect", "Unknown", "ERROR"]
            .iter()
            .any(|word| line.contains(word))
    };
    all.extend(text.lines().filter(puzzles).map(String::from));
    all
}

#[test]
fn without_acpi_there_is_nothing_of_it() {
    for options in ["-M pc -no-acpi", "-M pc,acpi=off", "-M microvm,acpi=off"] {
        let thimble = passive(options);
        let mut client = thimble.qtest();
        for name in ["etc/acpi/tables", "etc/acpi/rsdp", "etc/table-loader"] {
            assert_eq!(file(&mut client, name), None, "{options}");
        }
        assert_eq!(number(client.request("inw 0x604")), 0xffff);
        if options.contains("pc") {
            client.request("outl 0xcf8 0x80000b00").expect("alive");
            assert_eq!(number(client.request("inl 0xcfc")), 0xffff_ffff);
        }
    }
}

/// What QEMU says of sleeping states, of which users may hide some.
#[test]
fn firmware_is_told_of_the_same_states() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    for globals in [
        &[][..],
        &["disable_s3=1", "disable_s4=1"],
        &["disable_s4=0", "s4_val=5"],
        &["disable_s3=200"],
    ] {
        let [qemu, thimble] = ask_both(|emulator| {
            let mut launcher = emulator.launcher().args(emulator.passive_args());
            for global in globals {
                launcher = launcher.args(["-global", &format!("PIIX4_PM.{global}")]);
            }
            let instance = launcher.args(["-M", "pc"]).with_qtest().start();
            file(&mut instance.qtest(), "etc/system-states")
        });
        assert_eq!(thimble, qemu, "{globals:?}");
    }
}

#[test]
fn the_power_button_is_noticed() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let [qemu, thimble] = ask_both(|emulator| {
        let instance = emulator
            .launcher()
            .args(emulator.passive_args())
            .args(["-M", "pc"])
            .with_qtest()
            .with_qmp()
            .start();
        let mut qmp = instance.qmp();
        qmp.negotiate();
        let mut qtest = instance.qtest();
        for request in [
            "outl 0xcf8 0x80000b40",
            "outl 0xcfc 0x601",
            "outl 0xcf8 0x80000b80",
            "outl 0xcfc 0x1",
            "outw 0x600 0xffff",
            "outw 0x602 0x0100",
        ] {
            assert_eq!(qtest.request(request).expect("an answer"), "OK");
        }
        let before = number(qtest.request("inw 0x600"));
        assert_eq!(qmp.execute("system_powerdown", json!({})), Ok(json!({})));
        let event = qmp.wait_event("POWERDOWN", SOON);
        let after = number(qtest.request("inw 0x600"));
        assert_eq!(qtest.request("outw 0x600 0x100").expect("alive"), "OK");
        let cleared = number(qtest.request("inw 0x600"));
        (event["event"].clone(), before, after, cleared)
    });
    assert_eq!(thimble, qemu);
    assert_eq!((thimble.1, thimble.2, thimble.3), (0, 0x100, 0));
}

#[test]
fn seabios_puts_the_tables_where_guests_look() {
    let Some(bios) = packages::seabios() else {
        return skip("the Debian package seabios is missing");
    };
    let thimble = Emulator::Thimble
        .launcher()
        .args(["-accel", "tcg", "-nodefaults", "-display", "none"])
        .args(["-M", "pc", "-m", "32", "-smp", "2"])
        .args(["-bios", bios.to_str().expect("a plain path")])
        .args(["-debugcon", "stdio", "-global", "isa-debugcon.iobase=0x402"])
        .with_qmp()
        .start();
    let came = thimble.wait_stdout("No bootable device", PATIENCE);
    assert!(came, "{}", thimble.report());
    let mut qmp = thimble.qmp();
    qmp.negotiate();
    let path = thimble.dir().join("memory");
    let text = path.to_str().expect("a plain path");
    let arguments = json!({"val": 0, "size": 32 << 20, "filename": text});
    assert_eq!(qmp.execute("pmemsave", arguments), Ok(json!({})));
    let memory = std::fs::read(&path).expect("memory");
    let sum = |at: usize, length: usize| {
        let bytes = memory[at..at + length].iter();
        bytes.fold(0u8, |sum, byte| sum.wrapping_add(*byte))
    };
    let long = |at: usize| {
        let bytes = memory[at..at + 8].try_into().expect("8 bytes");
        u64::from_le_bytes(bytes) as usize
    };
    let length = |at: usize| long(at + 4) & 0xffff_ffff;
    let mut places = (0xe_0000..0x10_0000).step_by(16);
    let rsdp = places
        .find(|at| memory[*at..].starts_with(b"RSD PTR "))
        .expect("an RSDP");
    assert_eq!((sum(rsdp, 20), sum(rsdp, 36)), (0, 0));
    let xsdt = long(rsdp + 24);
    assert_eq!(&memory[xsdt..xsdt + 4], b"XSDT");
    let mut names = String::new();
    for entry in (xsdt + 36..xsdt + length(xsdt)).step_by(8) {
        let table = long(entry);
        assert_eq!(sum(table, length(table)), 0);
        names.push_str(&String::from_utf8_lossy(&memory[table..table + 4]));
        names.push(' ');
    }
    assert_eq!(names, "FACP APIC HPET WAET ");
}

/// Linux on both boards finds all processors and the serial port's interrupt, has no complaint about the tables,
/// and powers off.
#[test]
fn linux_powers_off() {
    let Some(kernel) = packages::linux() else {
        return skip("the Debian package linux-image-cloud-amd64 can't be had");
    };
    let init = "
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
dmesg -n 1
cat /sys/class/dmi/id/sys_vendor /sys/class/dmi/id/product_name
echo cpus $(grep -c ^processor /proc/cpuinfo)
grep -E 'IO-APIC.*(ttyS0|acpi|ACPI)' /proc/interrupts | sed 's/.*IO-APIC/IO-APIC/'
dmesg | grep -iE 'ACPI.*(error|warning|exception|firmware bug)|APIC.*(error|bug)'
echo end
poweroff -f
";
    let Some(archive) = Initramfs::busybox(init) else {
        return skip("the Debian package busybox-static is missing");
    };
    let archive = archive.finish();
    // The other combinations are the tests' of Linux itself.
    for (board, cpus) in [("pc", 2), ("microvm", 1)] {
        let launcher = Emulator::Thimble.launcher();
        let initrd = launcher.dir().join("initrd");
        std::fs::write(&initrd, &archive).expect("a file");
        let guest = launcher
            .args([
                "-accel",
                "tcg",
                "-nodefaults",
                "-display",
                "none",
                "-M",
                board,
            ])
            .args(["-m", "256", "-smp", &cpus.to_string(), "-serial", "stdio"])
            .args(["-kernel", kernel.to_str().expect("a plain path")])
            .args(["-initrd", initrd.to_str().expect("a plain path")])
            .args(["-append", "console=ttyS0 quiet panic=-1"])
            .lifetime(PATIENCE)
            .start();
        let status = guest.wait(PATIENCE);
        assert!(status.success(), "{status}: {}", guest.report());
        let text = String::from_utf8_lossy(&guest.stdout()).replace('\r', "");
        let Some((names, text)) = text.split_once(&format!("cpus {cpus}\n")) else {
            panic!("{}", guest.report());
        };
        // SMBIOS is the PC's alone, as with QEMU.
        let is_told = names.ends_with("QEMU\nStandard PC (i440FX + PIIX, 1996)\n");
        assert_eq!(is_told, board == "pc", "{names}");
        let (said, _) = text.split_once("end\n").expect("an end");
        let mut lines: Vec<&str> = said.lines().collect();
        lines.sort_unstable();
        let lines: Vec<String> = lines
            .iter()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        let events = match board {
            "pc" => "IO-APIC 9-fasteoi acpi",
            _ => "IO-APIC 9-edge ACPI:Ged",
        };
        let expected = ["IO-APIC 4-edge ttyS0", events];
        assert_eq!(lines, expected, "{board}");
    }
}
