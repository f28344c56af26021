//! What Debian's Linux kernel finds on the boards, beside QEMU's: interrupts, ports, clocks, PCI functions, SMBIOS tables, and the date.
//!
//! Both guests print the same files and programs' outputs. Lines that only one of them has are a failure, or stand in
//! the board's list with what they come from; an entry that says nothing true any more is one, too.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use qemu_tests::initramfs::Initramfs;
use qemu_tests::{Emulator, Instance, packages, skip, skip_part, workspace_dir};

/// A guest may take so long; other tests and emulators have the same processors.
const PATIENCE: Duration = Duration::from_secs(240);

/// What the guests do. Each part of the output begins with a line of its own.
const INIT: &str = r#"
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
dmesg -n 1
echo == interrupts
# Numbers of interrupts aside: who has which, and how it comes.
sed -n 's/^ *\([0-9]*\): *\([0-9]* \+\)*/\1 /p' /proc/interrupts | sed 's/  */ /g; s/ *$//'
echo == ioports
sed 's/^ *//' /proc/ioports
echo == memory
grep -iE 'hpet|apic|rom|reserved' /proc/iomem | grep -viE 'crash|kernel' | sed 's/^ *//'
echo == clocks
cat /sys/devices/system/clocksource/clocksource0/available_clocksource | tr ' ' '\n' | grep .
echo current $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)
grep 'Clock Event Device' /proc/timer_list
echo == hpet
dmesg | grep -i 'hpet' | grep -vE 'ACPI: |rtc_cmos|tsc' | sed 's/^\[[^]]*\] //'
echo == rtc
# Where the clock stands in the order of ACPI's devices is nobody's business, nor is the second.
cut -d ' ' -f 1 /sys/class/rtc/rtc0/name
cat /sys/class/rtc/rtc0/date
cut -d : -f 1 /sys/class/rtc/rtc0/time
dmesg | grep -i 'rtc_cmos' | sed 's/^\[[^]]*\] //; s/00:0[0-9]/pnp/; s/T[0-9:]* UTC ([0-9]*)/ and a time/'
echo == pci
ls -1 /sys/bus/pci/devices
[ -x /bin/lspci ] && lspci -nn
echo == acpi
dmesg | grep -E 'ACPI: [A-Z]{4} 0x' | sed 's/.*ACPI: \([A-Z]*\).*/\1/' | sort
ls /sys/bus/acpi/devices | grep -v '^device:' | sort
echo == dmi
for file in /sys/class/dmi/id/*; do [ -f $file ] && echo ${file##*/} $(cat $file); done
[ -x /bin/dmidecode ] && dmidecode
echo == end
poweroff -f
"#;

/// Whose line it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Only {
    Qemu,
    Thimble,
}

/// Lines of only one guest, by the part of the output, from their beginnings on, and why.
type Differences = &'static [(Only, &'static str, &'static str, &'static str)];

const PC: Differences = &[
    (Only::Qemu, "ioports", "0070-0077 : rtc0", PORTS),
    (Only::Thimble, "ioports", "0070-0071 : rtc0", PORTS),
    (Only::Qemu, "ioports", "c000-c00f : 0000:00:01.1", SEABIOS),
    (
        Only::Thimble,
        "ioports",
        "1000-100f : 0000:00:01.1",
        SEABIOS,
    ),
    (Only::Qemu, "ioports", "03d4-03d5 : cga", SEABIOS),
    (
        Only::Qemu,
        "ioports",
        "0700-070f : 0000:00:01.3",
        "the functions' SMBus is not modelled",
    ),
    (Only::Thimble, "ioports", "0600-063f : pnp", RESOURCES),
    (Only::Thimble, "ioports", "afe0-afe3 : pnp", RESOURCES),
    (
        Only::Qemu,
        "memory",
        "000c0000-000c05ff : Video ROM",
        SEABIOS,
    ),
    (
        Only::Qemu,
        "memory",
        "0ffe0000-0fffffff : Reserved",
        SEABIOS,
    ),
    (
        Only::Qemu,
        "memory",
        "fd00000000-ffffffffff : Reserved",
        "a hole of AMD's processors, above all RAM that there can be",
    ),
    (
        Only::Qemu,
        "rtc",
        "rtc_cmos pnp: alarms up to one day, y3k, 242",
        PORTS,
    ),
    (
        Only::Thimble,
        "rtc",
        "rtc_cmos pnp: alarms up to one day, y3k, 114",
        PORTS,
    ),
    (
        Only::Qemu,
        "rtc",
        "rtc_cmos pnp: RTC can wake from S4",
        "S4",
    ),
    (Only::Qemu, "acpi", "ACPI0010:00", PROCESSORS),
    (Only::Qemu, "acpi", "LNXCPU:0", PROCESSORS),
    (Only::Thimble, "acpi", "ACPI0007:0", PROCESSORS),
    (
        Only::Qemu,
        "acpi",
        "PNP0A06:0",
        "nothing is plugged in by way of ACPI",
    ),
    (
        Only::Qemu,
        "acpi",
        "PNP0C0F:04",
        "the link of the system control interrupt, which can't be moved",
    ),
    (Only::Thimble, "acpi", "PNP0C02:00", RESOURCES),
    (Only::Qemu, "acpi", "RSDT", LISTS),
    (Only::Thimble, "acpi", "XSDT", LISTS),
    (Only::Qemu, "dmi", "9 structures", SEABIOS),
    (Only::Qemu, "dmi", "Address: 0xE8000", SEABIOS),
    (Only::Qemu, "dmi", "BIOS ", SEABIOS),
    (Only::Qemu, "dmi", "Characteristics:", SEABIOS),
    (Only::Qemu, "dmi", "Handle 0x0000", SEABIOS),
    (Only::Qemu, "dmi", "ROM Size", SEABIOS),
    (Only::Qemu, "dmi", "Release Date", SEABIOS),
    (Only::Qemu, "dmi", "Runtime Size", SEABIOS),
    (Only::Qemu, "dmi", "Table at", SEABIOS),
    (Only::Qemu, "dmi", "Targeted content", SEABIOS),
    (Only::Qemu, "dmi", "Vendor: SeaBIOS", SEABIOS),
    (Only::Qemu, "dmi", "Version: 1.", SEABIOS),
    (Only::Qemu, "dmi", "bios_", SEABIOS),
    (Only::Qemu, "dmi", "modalias ", SEABIOS),
    (Only::Qemu, "dmi", "uevent ", SEABIOS),
    (Only::Thimble, "dmi", "8 structures", SEABIOS),
    (Only::Thimble, "dmi", "Table at", SEABIOS),
    (Only::Thimble, "dmi", "modalias ", SEABIOS),
    (Only::Thimble, "dmi", "uevent ", SEABIOS),
];

const MICROVM: Differences = &[
    (
        Only::Qemu,
        "interrupts",
        "48 IO-APIC 9-edge ACPI:Ged",
        NUMBERS,
    ),
    (
        Only::Thimble,
        "interrupts",
        "49 IO-APIC 9-edge ACPI:Ged",
        NUMBERS,
    ),
    (Only::Qemu, "interrupts", "49 IO-APIC 4-edge ttyS0", NUMBERS),
    (
        Only::Thimble,
        "interrupts",
        "51 IO-APIC 4-edge ttyS0",
        NUMBERS,
    ),
    (Only::Qemu, "ioports", "0070-0077 : rtc0", PORTS),
    (Only::Thimble, "ioports", "0070-0071 : rtc0", PORTS),
    (Only::Qemu, "ioports", "03d4-03d5 : cga", SEABIOS),
    (
        Only::Qemu,
        "rtc",
        "rtc_cmos pnp: alarms up to one day, 242",
        PORTS,
    ),
    (
        Only::Thimble,
        "rtc",
        "rtc_cmos pnp: alarms up to one day, y3k, 114",
        "QEMU's description of the hardware has no register for the century",
    ),
    (Only::Thimble, "acpi", "ACPI0007:0", PROCESSORS),
];

const NUMBERS: &str = "Linux numbers them in the order in which drivers ask for them";
const PORTS: &str = "QEMU tells of six ports more than the clock has";
const SEABIOS: &str = "QEMU's guest comes through SeaBIOS, ours by the boot ROM";
const RESOURCES: &str = "the DSDT tells of the ports of power management";
const PROCESSORS: &str = "processors are devices in the DSDT, as ACPI 6 has them";
const LISTS: &str = "both lists of tables are there, and Linux takes the wider";

/// A folder for files that are made once and used by all tests here.
fn folder() -> PathBuf {
    let folder = workspace_dir().join("target/linux");
    std::fs::create_dir_all(&folder).expect("a folder in target");
    folder
}

/// Programs and libraries that a dynamically linked program of the host needs, itself first.
fn with_libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output();
    let text = output.map_or(String::new(), |output| {
        String::from_utf8_lossy(&output.stdout).into_owned()
    });
    let words = text.split_whitespace().filter(|word| word.starts_with('/'));
    words.map(PathBuf::from).collect()
}

/// The initial RAM disk; without programs that can't be had.
fn initrd(board: &str) -> Option<PathBuf> {
    let mut archive = Initramfs::busybox(INIT)?;
    for (name, package) in [("dmidecode", "dmidecode"), ("lspci", "pciutils")] {
        let Some(program) = packages::program(name, package) else {
            skip_part(&format!("the Debian package {package} is missing"));
            continue;
        };
        archive.program_file(&format!("bin/{name}"), &program);
        for library in with_libraries(&program) {
            archive.program_at_its_place(&library);
        }
    }
    // What lspci calls functions by.
    let names = Path::new("/usr/share/misc/pci.ids");
    if names.exists() {
        archive.program_at_its_place(names);
    }
    let path = folder().join(format!("machine-{board}-{}.cpio", std::process::id()));
    std::fs::write(&path, archive.finish()).expect("a file in target");
    Some(path)
}

fn start(emulator: Emulator, board: &str, kernel: &Path, initrd: &Path) -> Instance {
    let text = |path: &Path| path.to_str().expect("a plain path").to_string();
    let append = match board {
        "pc" => "console=ttyS0 quiet panic=-1 no_timer_check nokaslr",
        // On QEMU's microvm Linux may find no clock to measure the time-stamp counter against, and stop.
        _ => {
            "console=ttyS0 quiet panic=-1 no_timer_check nokaslr tsc_early_khz=1000000 tsc=reliable"
        }
    };
    emulator
        .launcher()
        .args([
            "-accel",
            "tcg",
            "-nodefaults",
            "-display",
            "none",
            "-vga",
            "none",
        ])
        .args(["-M", board, "-m", "256", "-smp", "2", "-serial", "stdio"])
        .args([
            "-no-reboot",
            "-kernel",
            &text(kernel),
            "-initrd",
            &text(initrd),
        ])
        .args(["-append", append])
        .args(["-rtc", "base=2020-02-29T11:00:00,clock=vm"])
        .lifetime(PATIENCE)
        .start()
}

/// The parts of a guest's output, by name, as sets of lines.
fn parts(guest: &Instance) -> Vec<(String, BTreeSet<String>)> {
    let status = guest.wait(PATIENCE);
    assert!(status.success(), "{status}: {}", guest.report());
    let text = String::from_utf8_lossy(&guest.stdout()).replace('\r', "");
    let (text, _) = text.split_once("== end\n").unwrap_or_else(|| {
        panic!("{}", guest.report());
    });
    let parts = text.split("== ").skip(1);
    parts
        .map(|part| {
            let (name, lines) = part.split_once('\n').expect("a line of its own");
            let lines = lines.lines().map(|line| line.trim().to_string());
            (
                name.to_string(),
                lines.filter(|line| !line.is_empty()).collect(),
            )
        })
        .collect()
}

#[test]
fn linux_finds_the_same_pc() {
    compare("pc", PC);
}

#[test]
fn linux_finds_the_same_microvm() {
    compare("microvm", MICROVM);
}

/// With I/O APICs alone. Without clocks, too, QEMU's guest gets no further than looking for them.
#[test]
fn linux_finds_the_same_microvm_without_8259s() {
    compare("microvm,pic=off", MICROVM);
}

/// Runs Linux on both emulators' board, and compares what it says.
fn compare(board: &str, differences: Differences) {
    let Some(kernel) = packages::linux() else {
        return skip("the Debian package linux-image-cloud-amd64 is missing");
    };
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let Some(initrd) = initrd(board) else {
        return skip("the Debian package busybox-static is missing");
    };
    // Both at once: they are what takes time here.
    let guests = Emulator::BOTH.map(|emulator| start(emulator, board, &kernel, &initrd));
    let [qemu, thimble] = guests.each_ref().map(parts);
    let _ = std::fs::remove_file(&initrd);
    let mut stale: Vec<_> = differences.iter().collect();
    let mut unknown = String::new();
    for ((name, theirs), (same, ours)) in qemu.iter().zip(&thimble) {
        assert_eq!(name, same);
        // A part that neither has is one that the board does not have.
        assert!(
            !ours.is_empty() || theirs.is_empty() || board != "pc",
            "{name}: {}",
            guests[1].report()
        );
        let sides = [
            (Only::Qemu, theirs.difference(ours)),
            (Only::Thimble, ours.difference(theirs)),
        ];
        for (whose, lines) in sides {
            for line in lines {
                let covers = |row: &(Only, &str, &str, &str)| {
                    row.0 == whose && row.1 == name && line.starts_with(row.2)
                };
                if differences.iter().any(covers) {
                    stale.retain(|row| !covers(row));
                } else {
                    unknown += &format!("{name}: only {whose:?}: {line}\n");
                }
            }
        }
    }
    assert!(
        unknown.is_empty() && stale.is_empty(),
        "{unknown}stale: {stale:#?}"
    );
}
