//! Kernels given with `-kernel`, in both emulators: what loaders tell them, in every form of file.
//!
//! The kernels print what they find and no verdicts, so that QEMU's output is the expectation. QEMU runs them on its software CPU,
//! behind SeaBIOS.

#[allow(dead_code)]
#[path = "../../firmware/builder.rs"]
mod builder;

use std::path::{Path, PathBuf};
use std::time::Duration;

use qemu_tests::{Emulator, packages, skip, workspace_dir};

/// How long a kernel may run. QEMU's software CPU shares the machine with the other tests.
const PATIENCE: Duration = Duration::from_secs(40);

/// The kernel's own text begins so; before it is the firmware's.
const FIRST_WORDS: [&str; 2] = ["cr0 ", "data "];

const MULTIBOOT_MAGIC: u32 = 0x1bad_b002;
/// The header says where the file goes.
const MULTIBOOT_ADDRESSES: u32 = 1 << 16;

fn image(kernel: &builder::Kernel) -> Vec<u8> {
    let target = workspace_dir().join("target/images");
    let path = builder::build_kernel(kernel, workspace_dir(), &target);
    let path = path.unwrap_or_else(|error| panic!("{error}"));
    std::fs::read(path).expect("the linked kernel")
}

fn folder() -> PathBuf {
    let folder = workspace_dir().join("target/images/kernels");
    std::fs::create_dir_all(&folder).expect("a folder in target");
    folder
}

fn file(name: &str, bytes: &[u8]) -> String {
    let path = folder().join(name);
    // Tests in other threads may run a file of this name: they have the old one or the new one.
    let new = path.with_extension(format!("new-{:?}", std::thread::current().id()));
    std::fs::write(&new, bytes).expect("a file in target");
    std::fs::rename(&new, &path).expect("a file in target");
    path.to_str().expect("a plain path").to_string()
}

fn number(bytes: &[u8], at: usize, count: usize) -> u64 {
    let field = bytes[at..at + count].iter().rev();
    field.fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// ELF32 with the contents of an ELF64 file. Its headers are shorter, so that they fit where the others were, and all else stays.
fn narrow(wide: &[u8]) -> Vec<u8> {
    let mut file = wide.to_vec();
    let (table, count) = (number(wide, 32, 8) as usize, number(wide, 56, 2) as usize);
    assert_eq!(table, 64, "the program headers follow the file's header");
    file[..64 + 56 * count].fill(0);
    let mut put = |at: usize, value: u64, bytes: usize| {
        file[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
    };
    put(0, number(wide, 0, 4), 4);
    // 32 bits, little-endian, version 1; executable, 80386, version 1.
    for (at, value) in [(4, 1), (5, 1), (6, 1), (16, 2), (18, 3), (20, 1)] {
        put(at, value, 1);
    }
    put(24, number(wide, 24, 8), 4);
    put(28, 52, 4);
    for (at, value) in [(40, 52), (42, 32), (44, count as u64)] {
        put(at, value, 2);
    }
    for index in 0..count {
        let (from, to) = (64 + 56 * index, 52 + 32 * index);
        // Type, offset, virtual and physical address, sizes in the file and in memory, flags, alignment.
        let fields = [
            (0, 4),
            (8, 8),
            (16, 8),
            (24, 8),
            (32, 8),
            (40, 8),
            (4, 4),
            (48, 8),
        ];
        for (place, (at, bytes)) in fields.into_iter().enumerate() {
            put(to + 4 * place, number(wide, from + at, bytes), 4);
        }
    }
    file
}

/// The first segment alone, with a multiboot header whose addresses count.
fn flat(wide: &[u8]) -> Vec<u8> {
    assert_eq!(
        number(wide, 64, 4),
        1,
        "the first header is that of a segment"
    );
    let (offset, size) = (number(wide, 72, 8) as usize, number(wide, 96, 8) as usize);
    let mut file = wide[offset..offset + size].to_vec();
    let checksum = 0u32.wrapping_sub(MULTIBOOT_MAGIC + MULTIBOOT_ADDRESSES);
    assert_eq!(number(&file, 0, 4), u64::from(MULTIBOOT_MAGIC));
    file[4..8].copy_from_slice(&MULTIBOOT_ADDRESSES.to_le_bytes());
    file[8..12].copy_from_slice(&checksum.to_le_bytes());
    file
}

/// What a kernel prints on the debug console.
fn run(emulator: Emulator, accel: &str, kernel: &str, options: &[&str]) -> String {
    let instance = emulator
        .launcher()
        .args(["-accel", accel])
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-M", "pc", "-m", "64", "-no-reboot"])
        .args(["-debugcon", "file:{dir}/console"])
        .args(["-global", "isa-debugcon.iobase=0x402"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
        .args(["-kernel", kernel])
        .args(options)
        .start();
    let status = instance.wait(PATIENCE);
    let console = std::fs::read(instance.dir().join("console")).expect("the console's file");
    let text = String::from_utf8_lossy(&console).into_owned();
    assert_eq!(status.code(), Some(33), "{}\n{text}", instance.report());
    let start = FIRST_WORDS.iter().find_map(|words| text.find(words));
    let start = start.expect("the kernel's own text");
    text[start..].to_string()
}

/// Both emulators print the same, and so does ours with either arrangement of interrupt controllers and on its own software CPU.
fn compare(name: &str, kernel: &str, options: &[&str]) -> String {
    let qemu = run(Emulator::Qemu, "tcg", kernel, options);
    for accel in ["kvm,kernel-irqchip=on", "kvm,kernel-irqchip=split", "tcg"] {
        let thimble = run(Emulator::Thimble, accel, kernel, options);
        let (mut ours, mut theirs) = (thimble.lines(), qemu.lines());
        for number in 1.. {
            let pair = (theirs.next(), ours.next());
            if pair == (None, None) {
                break;
            }
            assert_eq!(
                pair.0, pair.1,
                "{name}, {accel}: line {number} of\n{thimble}"
            );
        }
    }
    qemu
}

#[test]
fn multiboot_kernels_are_told_the_same() {
    if !packages::qemu_and_kvm() {
        return;
    }
    let wide = image(&builder::TOLD_MULTIBOOT);
    let elf = file("multiboot.elf", &narrow(&wide));
    let aout = file("multiboot.flat", &flat(&wide));
    let bytes: Vec<u8> = (0..5000u32).map(|index| (index % 251) as u8).collect();
    let (first, second) = (file("first", &bytes), file("se,cond", b"two"));
    let one = format!("{first} a=b \"c\"");
    let two = format!("{first},{} x  y", second.replace(',', ",,"));
    for kernel in [&elf, &aout] {
        let text = compare("no options", kernel, &[]);
        assert!(
            text.contains(&format!("command line: {kernel} \n")),
            "{text}"
        );
        compare("a line", kernel, &["-append", "one  two='3' \u{e9}"]);
        compare("a module", kernel, &["-initrd", &one]);
        let text = compare("modules", kernel, &["-append", "x", "-initrd", &two]);
        assert!(text.contains(&format!("text: {second} x  y\n")), "{text}");
        let cpu = "qemu64,-cx16,lahf_lm=off,nx=off,vendor=GenuineIntel";
        let text = compare("features", kernel, &["-cpu", cpu]);
        assert!(text.contains("leaf 1 ecx 00000000\n"), "{text}");
    }
}

#[test]
fn pvh_kernels_are_told_the_same() {
    if !packages::qemu_and_kvm() {
        return;
    }
    let wide = image(&builder::TOLD_PVH);
    let initrd = file("initrd", b"some initial disk");
    let kernels = [file("pvh.elf64", &wide), file("pvh.elf32", &narrow(&wide))];
    for kernel in &kernels {
        compare("no options", kernel, &[]);
        compare("a line", kernel, &["-append", "one  two='3' \u{e9}"]);
        let text = compare("an initrd", kernel, &["-append", "x", "-initrd", &initrd]);
        assert!(text.contains("modules 00000001\n"), "{text}");
    }
}

/// A line as test suites run, but for what makes the output comparable.
#[test]
fn a_test_suites_line_runs() {
    if !packages::qemu_and_kvm() {
        return;
    }
    let kernel = file("testdev.flat", &narrow(&image(&builder::TESTDEV)));
    let environment = file("environment", b"KERNEL_VERSION=6\n");
    let options = [
        "-device",
        "pc-testdev",
        "-vnc",
        "none",
        "-serial",
        "stdio",
        "-machine",
        "pit=off",
        "-global",
        "kvm-pit.lost_tick_policy=discard",
        "-smp",
        "2",
        "-m",
        "1G",
        "-append",
        "a test",
        "-initrd",
        &environment,
        "-cpu",
        "max,+x2apic",
    ];
    let text = compare("pc-testdev", &kernel, &options);
    assert!(text.contains("port 61 000000ff\n"), "{text}");
    assert!(text.contains("processors 00000002\n"), "{text}");
}

/// Test suites look whether the device is there before they use it.
#[test]
fn the_list_of_devices_names_it_alike() {
    let Some(qemu) = packages::qemu() else {
        return skip("qemu-system-x86 is missing");
    };
    for program in [qemu, qemu_tests::thimble_binary()] {
        for help in ["?", "help"] {
            let output = std::process::Command::new(&program)
                .args(["-device", help])
                .output()
                .expect("the emulator starts");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let line = "name \"pc-testdev\", bus ISA";
            assert!(text.contains(line), "{}: {text}", program.display());
        }
    }
}

/// What an emulator says before it ends with status 1, without its name.
fn refusal(emulator: Emulator, options: &[&str]) -> String {
    let instance = emulator
        .launcher()
        .args(emulator.passive_args())
        .args(options)
        .start();
    let status = instance.wait(PATIENCE);
    assert_eq!(status.code(), Some(1), "{}", instance.report());
    let said = instance.stderr();
    let line = said.lines().next().unwrap_or_default();
    line.split_once(": ")
        .map_or(line, |(_, rest)| rest)
        .to_string()
}

#[test]
fn files_that_are_not_there_are_said_in_the_same_words() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let wide = image(&builder::TOLD_MULTIBOOT);
    let kernel = file("multiboot-refused.elf", &narrow(&wide));
    let wide = file("multiboot.elf64", &wide);
    let pvh = file("pvh-refused.elf64", &image(&builder::TOLD_PVH));
    let kernel = kernel.as_str();
    for options in [
        &["-kernel", "_NO_FILE_4Uhere_"][..],
        &["-kernel", "/nowhere/x", "-append", "y"],
        &["-kernel", kernel, "-initrd", "/nowhere/x"],
        &["-kernel", kernel, "-initrd", "/nowhere/x with text"],
        &["-kernel", kernel, "-initrd", "/nowhere/a,,b"],
        &["-kernel", kernel, "-initrd", ","],
        &["-kernel", &pvh, "-initrd", "/nowhere/x"],
        &["-kernel", &pvh, "-initrd", "/nowhere/x,/nowhere/y z"],
        &["-kernel", &wide],
    ] {
        let [qemu, thimble] = Emulator::BOTH.map(|emulator| refusal(emulator, options));
        let thimble = thimble
            .strip_prefix(&format!("-kernel {wide}: "))
            .unwrap_or(&thimble);
        assert_eq!(qemu, thimble, "{options:?}");
    }
    assert!(Path::new(kernel).is_file());
}
