//! The proof that the core needs neither std nor a heap, and kernels given with `-kernel`.
//!
//! The image `core_proof` is a kernel entered by PVH. It plays recorded device tests and QMP sessions to the core inside a
//! guest; this process plays the same, and the text has to be the same. The expectation of what a loader tells a kernel is
//! QEMU's.

#[allow(dead_code)]
#[path = "../../firmware/builder.rs"]
mod builder;

// Not from the crate thimble-firmware: see its feature `core-proof`.
#[allow(unreachable_pub)]
#[path = "../../firmware/src/replay.rs"]
mod replay;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use object::read::elf::ElfFile64;
use object::{Endianness, Object, ObjectSymbol};
use qemu_tests::{Emulator, packages, workspace_dir};
use replay::{Memory, replay};

/// How long a kernel may run: each byte of its text is a way out of the guest.
const PATIENCE: Duration = Duration::from_secs(50);

/// The first words that the image prints: QEMU's firmware uses the same port before.
const FIRST_WORDS: &str = "start information: ";

fn core_proof() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let target = workspace_dir().join("target/images");
        builder::build_kernel(&builder::CORE_PROOF, workspace_dir(), &target)
            .unwrap_or_else(|error| panic!("{error}"))
    })
}

/// What a kernel prints on the debug console.
fn run(emulator: Emulator, kernel: &Path, options: &[&str]) -> String {
    let instance = emulator
        .launcher()
        .args(match emulator {
            Emulator::Qemu => ["-accel", "tcg"],
            Emulator::Thimble => ["-accel", "kvm"],
        })
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-M", "pc", "-m", "64", "-no-reboot"])
        .args(["-debugcon", "file:{dir}/console"])
        .args(["-global", "isa-debugcon.iobase=0x402"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
        .args(["-kernel", kernel.to_str().expect("a plain path")])
        .args(options)
        .start();
    let status = instance.wait(PATIENCE);
    let console = std::fs::read(instance.dir().join("console")).expect("the console's file");
    let text = String::from_utf8_lossy(&console).into_owned();
    let end: String = text.chars().rev().take(400).collect();
    let end: String = end.chars().rev().collect();
    assert_eq!(status.code(), Some(33), "{}\n{end}", instance.report());
    text
}

/// A file in a folder of the build, for the options of both emulators.
fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, bytes).expect("a file");
    path
}

/// The replay in this process, on a stack on which unoptimised code may move a machine a few times.
fn expected() -> String {
    static MEMORY: Mutex<Memory> = Mutex::new(Memory::new());
    let run = || {
        let mut memory = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        replay(&mut memory, &mut text).expect("a String takes everything");
        text
    };
    let thread = std::thread::Builder::new().stack_size(16 << 20);
    let thread = thread.spawn(run).expect("a thread");
    thread.join().expect("no panic")
}

#[test]
fn the_core_answers_the_same_on_bare_metal() {
    let expected = expected();
    // Far too little would show a replay that gave up.
    assert!(expected.lines().count() > 3000 && expected.ends_with("== end\n"));
    assert!(
        expected == self::expected(),
        "a replay depends on the one before"
    );
    if !packages::qemu_and_kvm() {
        return;
    }
    let told = format!("{FIRST_WORDS}true\ncommand line: \ninitrd: none\n");
    for emulator in Emulator::BOTH {
        let text = run(emulator, core_proof(), &[]);
        let start = text.find(FIRST_WORDS).expect("the image's own text");
        let text = text[start..].strip_prefix(&told);
        let text = text.unwrap_or_else(|| panic!("{emulator:?}: not {told}"));
        assert_same(emulator, text, &expected);
    }
}

/// Byte for byte, with a message that shows the place.
fn assert_same(emulator: Emulator, text: &str, expected: &str) {
    if text == expected {
        return;
    }
    let mut section = "";
    let mut lines = expected.lines();
    for (number, line) in text.lines().enumerate() {
        let wanted = lines.next();
        if line.starts_with("==") {
            section = line;
        }
        assert_eq!(
            Some(line),
            wanted,
            "{emulator:?}: line {number}, in {section}"
        );
    }
    panic!("{emulator:?}: the text ends early or has other line ends");
}

#[test]
fn pvh_kernels_are_told_command_line_and_initrd() {
    if !packages::qemu_and_kvm() {
        return;
    }
    let bytes: Vec<u8> = (0..5000u32).map(|index| (index % 251) as u8).collect();
    let initrd = file("core-proof.initrd", &bytes);
    let append = "tell  \"quoted\" a=b,c \u{e9}";
    let options = [
        "-append",
        append,
        "-initrd",
        initrd.to_str().expect("a plain path"),
    ];
    let [qemu, thimble] = Emulator::BOTH.map(|emulator| run(emulator, core_proof(), &options));
    let start = qemu.find(FIRST_WORDS).expect("the image's own text");
    assert_eq!(qemu[start..], thimble);
    let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
    let line = append.as_bytes().escape_ascii();
    let expected =
        format!("{FIRST_WORDS}true\ncommand line: {line}\ninitrd: 5000 bytes, sum {sum:#x}\n");
    assert_eq!(thimble, expected);
}

/// A multiboot kernel without ELF: prints its command line and the number of its modules, and ends with status 33.
fn multiboot_kernel() -> Vec<u8> {
    const LOAD: u32 = 0x10_0000;
    const MAGIC: u32 = 0x1bad_b002;
    const ADDRESSES: u32 = 1 << 16;
    const HEADER: u32 = 32;
    #[rustfmt::skip]
    const CODE: &[u8] = &[
        0x8b, 0x73, 0x10,           //    movl 16(%ebx), %esi     the command line
        0x66, 0xba, 0x02, 0x04,     //    movw $0x402, %dx
        0xac,                       // 1: lodsb
        0x84, 0xc0,                 //    testb %al, %al
        0x74, 0x03,                 //    jz 2f
        0xee,                       //    outb %al, %dx
        0xeb, 0xf8,                 //    jmp 1b
        0x8b, 0x43, 0x14,           // 2: movl 20(%ebx), %eax     the number of modules
        0x04, b'0',                 //    addb $'0', %al
        0xee,                       //    outb %al, %dx
        0xb0, 0x10,                 //    movb $0x10, %al
        0xe6, 0xf4,                 //    outb %al, $0xf4
        0xf4,                       // 3: hlt
        0xeb, 0xfd,                 //    jmp 3b
    ];
    let end = LOAD + HEADER + CODE.len() as u32;
    let checksum = 0u32.wrapping_sub(MAGIC.wrapping_add(ADDRESSES));
    let header = [
        MAGIC,
        ADDRESSES,
        checksum,
        LOAD,
        LOAD,
        end,
        end,
        LOAD + HEADER,
    ];
    let mut file: Vec<u8> = header
        .iter()
        .flat_map(|field| field.to_le_bytes())
        .collect();
    file.extend_from_slice(CODE);
    file
}

#[test]
fn multiboot_kernels_are_told_command_line_and_modules() {
    if !packages::qemu_and_kvm() {
        return;
    }
    let kernel = file("multiboot.bin", &multiboot_kernel());
    let initrd = file("multiboot.initrd", b"a module");
    let initrd = initrd.to_str().expect("a plain path");
    for (options, told) in [
        (vec!["-append", "one two"], "one two0"),
        (vec!["-append", "one two", "-initrd", initrd], "one two1"),
    ] {
        let [qemu, thimble] = Emulator::BOTH.map(|emulator| run(emulator, &kernel, &options));
        // The kernel's path is in front of the command line. QEMU's firmware has printed, too.
        assert_eq!(thimble, format!("{} {told}", kernel.display()));
        assert!(qemu.ends_with(&thimble), "{qemu}");
    }
}

/// What of std, of the crate alloc or of a C library's heap is in a linked program; and what it lacks.
///
/// This is the second check. The first is that the image links at all: the compiler refuses std beside the image's own panic
/// handler, and the crate alloc without an allocator.
fn foreign(elf: &[u8]) -> Vec<String> {
    const HEAP: &[&str] = &[
        "malloc",
        "calloc",
        "realloc",
        "free",
        "posix_memalign",
        "aligned_alloc",
        "mmap",
        "munmap",
        "brk",
        "sbrk",
    ];
    const FOLDERS: &[&str] = &["library/std/src", "library/alloc/src"];
    let file = ElfFile64::<Endianness>::parse(elf).expect("an ELF file");
    let mut found = Vec::new();
    let mut named = 0;
    for symbol in file.symbols() {
        let name = symbol.name().expect("a name");
        named += usize::from(!name.is_empty());
        if symbol.is_undefined() && !name.is_empty() {
            found.push(format!("undefined: {name}"));
        }
        let full = format!("{:#}", rustc_demangle::demangle(name));
        let last = full.rsplit("::").next().unwrap_or("");
        let heap = HEAP.contains(&last) || last.starts_with("__rust_") && last.contains("alloc");
        let of_crate = ["std::", "alloc::"].iter().any(|path| {
            full.match_indices(path).any(|(at, _)| {
                let before = full[..at].chars().next_back();
                !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
            })
        });
        if heap || of_crate {
            found.push(full);
        }
    }
    // Locations of panics, and the names of compilation units.
    for folder in FOLDERS {
        if elf
            .windows(folder.len())
            .any(|part| part == folder.as_bytes())
        {
            found.push(folder.to_string());
        }
    }
    assert!(named > 100, "the program has been stripped");
    found
}

#[test]
fn nothing_of_std_or_a_heap_is_linked() {
    let image = std::fs::read(core_proof()).expect("the image");
    assert_eq!(foreign(&image), [""; 0]);
    let file = ElfFile64::<Endianness>::parse(&*image).expect("an ELF file");
    let has = |part: &str| {
        let mut names = file.symbols().filter_map(|symbol| symbol.name().ok());
        names.any(|name| format!("{:#}", rustc_demangle::demangle(name)).contains(part))
    };
    // The check would be worth nothing on an image that lacks what it is about.
    for part in [
        "thimble_core::machine",
        "thimble_core::qmp",
        "thimble_monitor",
    ] {
        assert!(has(part), "{part} is not in the image");
    }
}

#[test]
fn the_check_finds_std_and_a_heap() {
    let this = std::fs::read("/proc/self/exe").expect("this test's own program");
    let found = foreign(&this);
    for part in [
        "std::",
        "alloc::",
        "__rust_alloc",
        "undefined: malloc",
        "library/std/src",
    ] {
        assert!(
            found.iter().any(|name| name.contains(part)),
            "{part} was not found"
        );
    }
}
