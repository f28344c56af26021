//! What Debian's Linux kernel finds on the boards, beside QEMU's: interrupts, ports, clocks, PCI functions, SMBIOS tables, and the date.
//!
//! Both guests print the same files and programs' outputs. Lines that only one of them has are a failure, or stand in
//! [`DIFFERENCES`] with what they come from; an entry that says nothing true any more is one, too.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use qemu_tests::initramfs::Initramfs;
use qemu_tests::{Emulator, Instance, packages, skip, skip_part, workspace_dir};

/// A guest may take so long; other tests and emulators have the same processors.
const PATIENCE: Duration = Duration::from_secs(600);

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
dmesg | grep -i 'hpet' | sed 's/^\[[^]]*\] //'
echo == rtc
cat /sys/class/rtc/rtc0/name /sys/class/rtc/rtc0/date
cut -d : -f 1 /sys/class/rtc/rtc0/time
dmesg | grep -i 'rtc_cmos' | sed 's/^\[[^]]*\] //; s/T[0-9:]* UTC ([0-9]*)/TIME/'
echo == pci
lspci
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

/// Lines of only one guest, by the board and the part of the output, from their beginnings on, and why.
const DIFFERENCES: &[(&str, &str, Only, &str, &str)] = &[];

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

/// The initial RAM disk; without dmidecode where that can't be had.
fn initrd() -> Option<PathBuf> {
    let mut archive = Initramfs::busybox(INIT)?;
    match packages::program("dmidecode", "dmidecode") {
        Some(program) => {
            archive.program_file("bin/dmidecode", &program);
            for library in with_libraries(&program) {
                archive.program_at_its_place(&library);
            }
        }
        None => skip_part("the Debian package dmidecode is missing"),
    }
    let path = folder().join(format!("machine-{}.cpio", std::process::id()));
    std::fs::write(&path, archive.finish()).expect("a file in target");
    Some(path)
}

fn start(emulator: Emulator, board: &str, kernel: &Path, initrd: &Path) -> Instance {
    let text = |path: &Path| path.to_str().expect("a plain path").to_string();
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
        .args([
            "-append",
            "console=ttyS0 quiet panic=-1 no_timer_check nokaslr",
        ])
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

fn compare(board: &str) {
    let Some(kernel) = packages::linux() else {
        return skip("the Debian package linux-image-cloud-amd64 is missing");
    };
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let Some(initrd) = initrd() else {
        return skip("the Debian package busybox-static is missing");
    };
    // Both at once: they are what takes time here.
    let guests = Emulator::BOTH.map(|emulator| start(emulator, board, &kernel, &initrd));
    let [qemu, thimble] = guests.each_ref().map(parts);
    let _ = std::fs::remove_file(&initrd);
    let mut known: Vec<_> = DIFFERENCES.iter().filter(|row| row.0 == board).collect();
    let mut unknown = String::new();
    let mut used = BTreeSet::new();
    for ((name, theirs), (same, ours)) in qemu.iter().zip(&thimble) {
        assert_eq!(name, same);
        assert!(!ours.is_empty(), "{name}: {}", guests[1].report());
        let sides = [
            (Only::Qemu, theirs.difference(ours)),
            (Only::Thimble, ours.difference(theirs)),
        ];
        for (whose, lines) in sides {
            for line in lines {
                let row = known.iter().position(|(_, part, who, start, _)| {
                    part == name && *who == whose && line.starts_with(start)
                });
                match row {
                    Some(row) => drop(used.insert(row)),
                    None => unknown += &format!("{name}: only {whose:?}: {line}\n"),
                }
            }
        }
    }
    let mut row = 0;
    known.retain(|_| {
        row += 1;
        !used.contains(&(row - 1))
    });
    assert!(
        unknown.is_empty() && known.is_empty(),
        "{board}:\n{unknown}stale: {known:#?}"
    );
}

#[test]
fn linux_finds_the_same_pc() {
    compare("pc");
}
