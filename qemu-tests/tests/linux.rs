//! Debian's Linux kernel with a busybox on an initial RAM disk, on the software CPU: it comes to its init, runs programs, and ends.
//!
//! What busybox's applets print is compared with QEMU 7.2's guest, and what two programs compute with the host itself. The boards and
//! numbers of processors that a usual run leaves out are in `cargo xtask test --long`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use qemu_tests::initramfs::Initramfs;
use qemu_tests::{Emulator, Instance, packages, skip, skip_part, source_dir, workspace_dir};

/// A guest may take so long; other tests and emulators have the same processors.
const PATIENCE: Duration = Duration::from_secs(600);

/// Extensions that `guest/numbers.c` has tests for, as `/proc/cpuinfo` calls them.
const EXTENSIONS: [&str; 7] = [
    "sse3",
    "ssse3",
    "sse4_1",
    "sse4_2",
    "aes",
    "pclmulqdq",
    "sha_ni",
];

/// What init does first. A kernel that warns of something says so after `kernel:`.
const BEGIN: &str = "
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
dmesg -n 1
echo cpus $(grep -c ^processor /proc/cpuinfo)
";
const END: &str = "
echo == kernel
dmesg | grep -E 'WARNING:|BUG:|Oops|Call Trace|unknown, using generic'
echo == end
reboot -f
";

/// How a guest is made and started.
struct Guest<'a> {
    kernel: &'a Path,
    initrd: &'a Path,
    machine: &'a str,
    cpus: usize,
    options: &'a [&'a str],
    /// Words for the kernel's command line.
    append: &'a str,
}

impl Guest<'_> {
    fn start(&self, emulator: Emulator) -> Instance {
        let text = |path: &Path| path.to_str().expect("a plain path").to_string();
        // A panic ends the guest, and so the test. Linux looks whether it gets five ticks in the time of ten, and panics if not:
        // on a busy host an emulator whose guest goes by the host's clock can't promise that.
        let append = format!(
            "console=ttyS0 quiet panic=-1 no_timer_check {}",
            self.append
        );
        emulator
            .launcher()
            .args(["-accel", "tcg", "-nodefaults", "-display", "none", "-M"])
            .args([self.machine, "-m", "256", "-smp", &self.cpus.to_string()])
            .args(["-serial", "stdio", "-no-reboot"])
            .args(["-kernel", &text(self.kernel), "-append", &append])
            .args(["-initrd", &text(self.initrd)])
            .args(self.options)
            .lifetime(PATIENCE)
            .start()
    }
}

/// The part of a guest's output that begins behind `== NAME`, up to the next such line.
fn section(output: &str, name: &str) -> Option<String> {
    let start = format!("== {name}\n");
    let (_, rest) = output.split_once(&start)?;
    let (part, _) = rest.split_once("== ")?;
    Some(part.to_string())
}

/// Waits for a guest's end: its output without carriage returns.
fn output(guest: &Instance) -> String {
    let status = guest.wait(PATIENCE);
    assert!(status.success(), "{status}: {}", guest.report());
    let text = String::from_utf8_lossy(&guest.stdout()).replace('\r', "");
    assert!(text.contains("== end\n"), "{}", guest.report());
    if guest.emulator() == Emulator::Thimble {
        assert_eq!(section(&text, "kernel").as_deref(), Some(""), "{text}");
    }
    text
}

/// A folder for files that are made once and used by all tests here.
fn folder() -> PathBuf {
    let folder = workspace_dir().join("target/linux");
    std::fs::create_dir_all(&folder).expect("a folder in target");
    folder
}

/// Writes a file whole, whatever other processes do with one of this name.
fn write(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    let new = folder().join(format!("{name}.new-{}", std::process::id()));
    std::fs::write(&new, bytes).expect("a file in target");
    std::fs::rename(&new, &path).expect("a file in target");
    path
}

/// Compiles a program of `guest/`, or `None` where there is no compiler.
fn compile(source: &str, compiler: &str, options: &[&str]) -> Option<PathBuf> {
    let program = folder().join(source.replace('.', "-"));
    let new = program.with_extension(format!("new-{}", std::process::id()));
    let output = Command::new(compiler)
        .args(options)
        .arg("-o")
        .arg(&new)
        .arg(source_dir().join("guest").join(source))
        .args((compiler == "gcc").then_some("-lm"))
        .output()
        .ok()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{source}: {errors}");
    std::fs::rename(&new, &program).expect("a file in target");
    Some(program)
}

/// The programs that compute, each by its name in the guest.
fn numbers() -> Vec<(&'static str, PathBuf)> {
    // Sums in the order that is written, and rounded as the program has said.
    let c = [
        "-O2",
        "-static",
        "-frounding-math",
        "-ffp-contract=off",
        "-fno-builtin-memcmp",
    ];
    let rust = [
        "--edition=2024",
        "-O",
        "-Cstrip=symbols",
        "-Ctarget-feature=+crt-static",
    ];
    let c = packages::program("gcc", "gcc").and_then(|_| compile("numbers.c", "gcc", &c));
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_string());
    let rust = compile("numbers.rs", &rustc, &rust);
    if c.is_none() {
        skip_part("the Debian package gcc is missing");
    }
    if rust.is_none() {
        skip_part("there is no rustc");
    }
    let both = [("c", c), ("rust", rust)];
    both.into_iter()
        .filter_map(|(name, path)| Some((name, path?)))
        .collect()
}

/// The extensions of this machine's processors that the programs test.
fn extensions() -> Vec<&'static str> {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = text.lines().find(|line| line.starts_with("flags"));
    let flags: Vec<&str> = flags.unwrap_or_default().split_whitespace().collect();
    // Linux calls SSE3 by its code name.
    let has = |name: &str| flags.contains(&if name == "sse3" { "pni" } else { name });
    EXTENSIONS.into_iter().filter(|name| has(name)).collect()
}

/// A guest with these programs and this script.
fn initrd(name: &str, script: &str, programs: &[(&'static str, PathBuf)]) -> Option<PathBuf> {
    let mut archive = Initramfs::busybox(&format!("{BEGIN}{script}{END}"))?;
    archive.program_file("bin/applets", &source_dir().join("guest/applets.sh"));
    for (name, path) in programs {
        archive.program_file(&format!("bin/numbers-{name}"), path);
    }
    Some(write(name, &archive.finish()))
}

/// Differences of two texts, by lines, for the message of a failed test.
fn assert_same(what: &str, expected: &str, found: &str) {
    let lines = expected.lines().zip(found.lines());
    let differing: Vec<String> = lines
        .filter(|(expected, found)| expected != found)
        .map(|(expected, found)| format!("expected {expected}\n   found {found}"))
        .collect();
    assert!(differing.is_empty(), "{what}:\n{}", differing.join("\n"));
    assert_eq!(expected, found, "{what}");
}

const APPLETS: &str = "echo == applets\nsh /bin/applets\n";

#[test]
fn programs_run_as_under_qemu_and_on_the_host() {
    let Some(kernel) = packages::linux() else {
        return skip("the Debian package linux-image-cloud-amd64 is missing");
    };
    let programs = numbers();
    let extensions = extensions();
    let mut script = APPLETS.to_string();
    script += "grep -m 1 vendor_id /proc/cpuinfo\n";
    for (name, _) in &programs {
        script += &format!(
            "echo == {name}\n/bin/numbers-{name} {}\n",
            extensions.join(" ")
        );
    }
    let (Some(ours), Some(theirs)) = (
        initrd("programs.cpio", &script, &programs),
        initrd("applets.cpio", APPLETS, &[]),
    ) else {
        return skip("the Debian package busybox-static is missing");
    };
    let guest = |initrd, options| Guest {
        kernel: &kernel,
        initrd,
        machine: "pc",
        cpus: 1,
        options,
        append: "reboot=k",
    };
    // Both at once: they are what takes time here.
    let thimble = guest(&ours, &["-cpu", "max"]).start(Emulator::Thimble);
    let qemu = packages::qemu().map(|_| guest(&theirs, &[]).start(Emulator::Qemu));
    let thimble = output(&thimble);
    assert!(thimble.contains("cpus 1\n"), "{thimble}");
    for (name, path) in &programs {
        let host = Command::new(path).args(&extensions).output();
        let host = host.expect("a program that was compiled here");
        let host = String::from_utf8_lossy(&host.stdout);
        let found = section(&thimble, name).unwrap_or_default();
        assert_same(name, &host, &found);
    }
    let Some(qemu) = qemu else {
        return skip_part("the Debian package qemu-system-x86 is missing");
    };
    let expected = section(&output(&qemu), "applets").expect("the script was run");
    let found = section(&thimble, "applets").expect("the script was run");
    let (found, vendor) = found.split_once("vendor_id").expect("a line of cpuinfo");
    assert!(vendor.trim().ends_with(": AuthenticAMD"), "{vendor}");
    assert_same("applets", &expected, found);
}

/// The board without PCI, four processors, and the way to end that needs no device.
#[test]
fn a_microvm_with_four_processors_comes_to_init() {
    let Some(kernel) = packages::linux() else {
        return skip("the Debian package linux-image-cloud-amd64 is missing");
    };
    let script =
        "for cpu in 0 1 2 3; do taskset $((1 << cpu)) sh -c 'echo on its own' & done; wait\n";
    let Some(initrd) = initrd("init.cpio", script, &[]) else {
        return skip("the Debian package busybox-static is missing");
    };
    let guest = Guest {
        kernel: &kernel,
        initrd: &initrd,
        machine: "microvm",
        cpus: 4,
        options: &[],
        append: "reboot=t",
    };
    let text = output(&guest.start(Emulator::Thimble));
    assert!(text.contains("cpus 4\n"), "{text}");
    assert_eq!(text.matches("on its own\n").count(), 4, "{text}");
}

/// What Linux finds on the PCI buses, each function in a line with the sizes and kinds of its ranges, and what a PCI serial port does
/// for it. Where ranges are is for firmware and Linux to say, which differ.
const PCI: &str = "
mount -t sysfs sys /sys
echo == pci
for path in /sys/bus/pci/devices/*; do
    cd $path
    line=$(echo ${path##*/} $(cat vendor device class subsystem_vendor subsystem_device revision))
    while read first last flags; do
        [ $flags = 0x0000000000000000 ] || line=\"$line $((last - first + 1)):$((flags & 0x2300))\"
    done < resource
    echo $line
done
cd /
echo == serial
for line in $(grep 16550A /proc/tty/driver/serial | cut -d : -f 1); do
    [ $line = 0 ] && continue
    stty -F /dev/ttyS$line raw
    echo through line $line > /dev/ttyS$line
    irq=$(grep ^$line: /proc/tty/driver/serial | sed 's/.*irq:\\([0-9]*\\).*/\\1/')
    seen=no
    grep \"^ *$irq:.*ttyS$line\" /proc/interrupts && seen=yes
    echo line $line tx $(grep ^$line: /proc/tty/driver/serial | sed 's/.*tx:\\([0-9]*\\).*/\\1/')
done
";

#[test]
fn linux_sees_pci_devices_and_their_interrupts() {
    let Some(kernel) = packages::linux() else {
        return skip("the Debian package linux-image-cloud-amd64 is missing");
    };
    let Some(initrd) = initrd("pci.cpio", PCI, &[]) else {
        return skip("the Debian package busybox-static is missing");
    };
    let options = [
        "-device",
        "pci-bridge,chassis_nr=1,id=one,shpc=off",
        "-chardev",
        "file,id=line,path={dir}/line",
        "-device",
        "pci-serial,chardev=line",
        "-device",
        "pci-testdev,membar=1M",
        "-device",
        "i6300esb",
        "-chardev",
        "file,id=below,path={dir}/below",
        "-device",
        "pci-serial,bus=one,addr=5,chardev=below",
    ];
    let guest = Guest {
        kernel: &kernel,
        initrd: &initrd,
        machine: "pc",
        cpus: 1,
        options: &options,
        append: "reboot=k 8250.nr_uarts=8",
    };
    let thimble = guest.start(Emulator::Thimble);
    let qemu = packages::qemu().map(|_| guest.start(Emulator::Qemu));
    let text = output(&thimble);
    let found = section(&text, "pci").expect("the script was run");
    assert!(found.contains("0000:00:05.0 0x8086 0x25ab"), "{found}");
    let lines = section(&text, "serial").expect("the script was run");
    // The lines of the two ports, by which Linux has counted what it sent, at an interrupt of theirs.
    let told = ["line", "below"].map(|name| {
        let path = thimble.dir().join(name);
        std::fs::read_to_string(path).unwrap_or_default()
    });
    for (name, text) in ["line", "below"].iter().zip(&told) {
        assert!(
            text.starts_with("through line "),
            "{name}: {text:?}\n{lines}\n{found}"
        );
    }
    let Some(qemu) = qemu else {
        return skip_part("the Debian package qemu-system-x86 is missing");
    };
    let expected = section(&output(&qemu), "pci").expect("the script was run");
    assert_same("PCI devices", &expected, &found);
}

#[test]
#[ignore = "long"]
fn applets_on_every_board() {
    let Some(kernel) = packages::linux() else {
        return skip("the Debian package linux-image-cloud-amd64 is missing");
    };
    let Some(initrd) = initrd("applets-long.cpio", APPLETS, &[]) else {
        return skip("the Debian package busybox-static is missing");
    };
    if packages::qemu().is_none() {
        return skip("the Debian package qemu-system-x86 is missing");
    }
    let guest = |machine, cpus, append| Guest {
        kernel: &kernel,
        initrd: &initrd,
        machine,
        cpus,
        options: &[],
        append,
    };
    let qemu = output(&guest("pc", 1, "reboot=k").start(Emulator::Qemu));
    let expected = section(&qemu, "applets").expect("the script was run");
    for (machine, cpus, append) in [
        ("pc", 1, "reboot=t"),
        ("pc", 4, "reboot=k"),
        ("microvm", 1, "reboot=t"),
        ("microvm", 4, "reboot=k"),
    ] {
        let text = output(&guest(machine, cpus, append).start(Emulator::Thimble));
        assert!(text.contains(&format!("cpus {cpus}\n")), "{text}");
        let found = section(&text, "applets").expect("the script was run");
        assert_same(&format!("{machine}, {cpus}"), &expected, &found);
    }
}

/// Debian's memtest86+, which is a kernel by its file's form, comes through its first tests.
#[test]
fn memtest_finds_no_errors() {
    let Some(memtest) = packages::memtest() else {
        return skip("the Debian package memtest86+ is missing");
    };
    let memtest = memtest.to_str().expect("a plain path");
    let guest = Emulator::Thimble
        .launcher()
        .args([
            "-accel",
            "tcg",
            "-nodefaults",
            "-display",
            "none",
            "-m",
            "64",
        ])
        .args(["-serial", "stdio", "-kernel", memtest])
        .args(["-append", "console=ttyS0,115200"])
        .lifetime(PATIENCE)
        .start();
    // It draws its screen anew each second, and some tests take less. Those with lower numbers are over.
    let comes_through = |text: &str| {
        let numbers = text.split('#').skip(1).filter_map(|rest| {
            let (number, name) = rest.split_once(' ')?;
            let number: u32 = number.parse().ok()?;
            name.trim_start().starts_with('[').then_some(number)
        });
        numbers.max() >= Some(4)
    };
    let deadline = Instant::now() + PATIENCE;
    let text = loop {
        let text = String::from_utf8_lossy(&guest.stdout()).into_owned();
        if comes_through(&text) {
            break text;
        }
        assert!(Instant::now() < deadline, "{}", guest.report());
        std::thread::sleep(Duration::from_millis(100));
    };
    let counts = || text.split("Errors: ").skip(1);
    assert!(counts().next().is_some(), "{text}");
    assert!(counts().all(|count| count.starts_with("0 ")), "{text}");
}

/// What is no kernel, or one that can't be started, ends with a line that names the option.
#[test]
fn hopeless_kernels_are_refused() {
    let mut kernel = vec![0; 0x1000];
    kernel[0x202..0x208].copy_from_slice(b"HdrS\x0f\x02");
    let refuse = |bytes: &[u8], options: &[&str], reason: &str| {
        let path = write("hopeless", bytes);
        let path = path.to_str().expect("a plain path");
        let thimble = Emulator::Thimble
            .launcher()
            .args([
                "-accel",
                "tcg",
                "-display",
                "none",
                "-nodefaults",
                "-kernel",
            ])
            .args([path])
            .args(options)
            .start();
        let status = thimble.wait(Duration::from_secs(30));
        assert_eq!(status.code(), Some(1), "{}", thimble.report());
        let reason = reason.replace("KERNEL", path);
        assert_eq!(thimble.stderr(), format!("thimble: {reason}\n"));
    };
    let zimage = "-kernel KERNEL: the Linux kernel is a zImage, of which only bzImages are started";
    refuse(&kernel, &[], zimage);
    kernel[0x211] = 1;
    let mut old = kernel.clone();
    old[0x206..0x208].copy_from_slice(&[1, 2]);
    let reason = "-kernel KERNEL: the Linux kernel's boot protocol is 2.01, but 2.02 is the oldest that is spoken";
    refuse(&old, &[], reason);
    let truncated = "-kernel KERNEL: the kernel file is truncated";
    refuse(&kernel[..0x800], &[], truncated);
    // One of 1.5 KiB that is entered at its beginning.
    kernel[0x214..0x218].copy_from_slice(&0x10_0000u32.to_le_bytes());
    let long = "x".repeat(256);
    let reason =
        "-append: the command line is longer than the 255 bytes that the Linux kernel takes";
    refuse(&kernel, &["-append", &long], reason);
    let reason = "-append: invalid 'vga=' kernel parameter.";
    refuse(&kernel, &["-append", "vga=x"], reason);
}
