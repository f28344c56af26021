//! human-monitor-command: lines side by side. Texts are compared by their words: spaces between them are not.
//!
//! QEMU's disassembler is the oracle of ours, too: for every form of every instruction, without a guest.

use std::fmt::Write as _;

use qemu_tests::{Emulator, Instance, Launcher, QmpClient};
use serde_json::json;
use thimble_core::cpu::decode::{
    Choice, CodeSize, Encoding, Map, Operation, Packed as OnIntegers, Shape, disassemble,
    encoding_of, encodings,
};

use crate::{
    SOON, answer, command_with, compare, console, counts, emulators, negotiated, passive, refused,
    roms, status, wait_console, wait_until, with_rom, with_rom_of_any_mode,
};

/// Where the listings are: in the ROM, which all guests map one to one.
const LISTING: usize = 0xf_8000;

/// What a line writes: words with single spaces, `|` between lines.
fn say(client: &mut QmpClient, line: &str) -> String {
    words(&tell(client, line))
}

/// What a line writes, as it is.
fn tell(client: &mut QmpClient, line: &str) -> String {
    let arguments = json!({"command-line": line});
    let text = command_with(client, "human-monitor-command", arguments);
    let text = text.as_str().expect("a text");
    assert!(text.is_empty() || text.ends_with("\r\n"), "{text:?}");
    text.to_string()
}

fn words(text: &str) -> String {
    let lines: Vec<String> = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    lines.join("|")
}

/// Says the same lines to emulators that `guest` has started.
fn compare_lines(
    test: &str,
    emulators: &[Emulator],
    guest: impl Fn(Emulator) -> (Instance, QmpClient),
    lines: &str,
) {
    let mut answers = Vec::new();
    for emulator in emulators {
        let (_instance, mut client) = guest(*emulator);
        let said = lines.lines().map(|line| {
            let input = line.escape_debug().to_string();
            (input, say(&mut client, line))
        });
        answers.push(said.collect());
    }
    compare(test, &answers);
}

/// A guest's ROM with a listing in it.
fn with_listing(mut rom: Vec<u8>, listing: &[u8]) -> Vec<u8> {
    let at = LISTING & 0xffff;
    rom[at..at + 0x200].copy_from_slice(&listing[..0x200]);
    rom
}

/// Formats, sizes, counts, expressions, registers and errors.
#[test]
fn lines_say_the_same() {
    let rom = with_listing(roms::counter(), &roms::listing_16());
    let guest = |emulator| {
        let instance = with_rom(emulator, &rom).start();
        let mut client = negotiated(&instance);
        wait_console(&instance, "S");
        command_with(&mut client, "stop", json!({}));
        (instance, client)
    };
    let mut lines = include_str!("../../qmp/human.list").to_string();
    for command in ["x", "xp"] {
        let _ = writeln!(lines, "{command}/110i {LISTING:#x}");
    }
    compare_lines("commands-human", &emulators(), guest, &lines);
}

/// Registers, translated addresses and code in the mode of this guest.
fn check_mode(test: &str, rom: &[u8]) {
    let guest = |emulator| {
        let instance = with_rom_of_any_mode(emulator, rom).start();
        let client = negotiated(&instance);
        wait_console(&instance, "P");
        (instance, client)
    };
    let mut lines = include_str!("../../qmp/human-paging.list").to_string();
    let _ = writeln!(lines, "x/125i {LISTING:#x}");
    compare_lines(test, &emulators(), guest, &lines);
}

#[test]
fn lines_say_the_same_in_protected_mode() {
    let rom = with_listing(roms::paging_32(), &roms::listing_32());
    check_mode("commands-human-32", &rom);
}

#[test]
fn lines_say_the_same_in_long_mode() {
    let rom = with_listing(roms::paging_64(), &roms::listing_64());
    check_mode("commands-human-64", &rom);
}

/// Arguments, and what is wrong with them, of every command.
#[test]
fn arguments_are_understood_alike() {
    let rom = roms::counter();
    let guest = |emulator| {
        let instance = with_rom(emulator, &rom).start();
        let mut client = negotiated(&instance);
        wait_console(&instance, "S");
        command_with(&mut client, "stop", json!({}));
        (instance, client)
    };
    let lines = include_str!("../../qmp/human-arguments.list");
    compare_lines("commands-human-arguments", &emulators(), guest, lines);
}

/// What page tables map, and all registers, in each mode of paging.
#[test]
fn processors_look_the_same() {
    for (test, rom) in [
        ("commands-human-look-32", roms::paging_32()),
        ("commands-human-look-pae", roms::paging_pae()),
        ("commands-human-look-64", roms::paging_64()),
    ] {
        let guest = |emulator| {
            let instance = with_rom_of_any_mode(emulator, &rom).start();
            let mut client = negotiated(&instance);
            wait_console(&instance, "P");
            command_with(&mut client, "stop", json!({}));
            (instance, client)
        };
        let lines = include_str!("../../qmp/human-look.list");
        compare_lines(test, &emulators(), guest, lines);
    }
}

/// The same while the guest runs, without a halt that anyone sees.
#[test]
fn a_look_at_a_running_guest_does_not_stop_it() {
    let instance = with_rom(Emulator::Thimble, &roms::counter()).start();
    let mut client = negotiated(&instance);
    wait_console(&instance, "S");
    for _ in 0..20 {
        let text = say(&mut client, "info registers");
        assert!(text.contains("|EAX=") && text.contains("HLT=0"), "{text}");
        assert!(say(&mut client, "info lapic").contains("|SPIV "));
    }
    assert_eq!(status(&mut client), "running");
    assert!(counts(&instance, &mut client));
}

/// Interrupt controllers, with something else in them than at power-on.
#[test]
fn controllers_look_the_same() {
    let rom = roms::controllers();
    let guest = |emulator| {
        let instance = with_rom_of_any_mode(emulator, &rom).start();
        let mut client = negotiated(&instance);
        wait_console(&instance, "P");
        wait_until("the timer ticks", || {
            say(&mut client, "info pic").contains("|pic0: irr=01 ")
        });
        command_with(&mut client, "stop", json!({}));
        (instance, client)
    };
    let lines = "info lapic\ninfo lapic 0\ninfo lapic 1\ninfo pic";
    compare_lines("commands-human-controllers", &emulators(), guest, lines);
}

/// To the letter, spaces included; and what a board does not have it does not show.
#[test]
fn boards_show_what_they_have() {
    let setups = [
        ("none", "info pci\ninfo pic\ninfo irq\ninfo mice\ninfo numa"),
        (
            "microvm",
            "info pci\ninfo pic\ninfo irq\ninfo mice\ninfo numa",
        ),
        ("pc", "info pci\ninfo pic\ninfo mice\ninfo numa"),
    ];
    for (board, lines) in setups {
        let mut answers = Vec::new();
        for emulator in emulators() {
            let launcher = emulator.launcher().args(emulator.passive_args());
            let instance = launcher.args(["-M", board]).with_qmp().start();
            let mut client = negotiated(&instance);
            let ask = |line: &str| {
                let arguments = json!({"command-line": line});
                command_with(&mut client, "human-monitor-command", arguments)
            };
            answers.push(lines.lines().map(ask).collect::<Vec<_>>());
        }
        if let [qemu, thimble] = &answers[..] {
            assert_eq!(qemu, thimble, "{board}");
        }
    }
}

/// The interval timer's line rises again and again.
#[test]
fn interrupts_are_counted() {
    for emulator in emulators() {
        let instance = with_rom_of_any_mode(emulator, &roms::controllers()).start();
        let mut client = negotiated(&instance);
        wait_console(&instance, "P");
        let count = |text: &str| -> Vec<u64> {
            let lines = text.split('|').filter_map(|line| line.strip_prefix("0: "));
            lines
                .map(|count| count.parse().expect("a number"))
                .collect()
        };
        let mut last = Vec::new();
        wait_until("the timer ticks", || {
            let text = say(&mut client, "info irq");
            if text.contains("not available") {
                return true;
            }
            assert!(text.starts_with("IRQ statistics for ioapic:"), "{text}");
            assert!(text.contains("|IRQ statistics for isa-i8259:"), "{text}");
            let now = count(&text);
            let more = now.len() == 2 && last.len() == 2 && now[0] > last[0] && now[1] > last[1];
            last = now;
            more
        });
    }
}

/// What buttons do, and what they say: nothing.
#[test]
fn lines_act_as_commands_do() {
    for emulator in emulators() {
        let instance = with_rom(emulator, &roms::counter()).args(["-S"]).start();
        let mut client = negotiated(&instance);
        assert_eq!(
            say(&mut client, "info status"),
            "VM status: paused (prelaunch)"
        );
        for (go, halt) in [("cont", "stop"), ("c", "s")] {
            assert_eq!(say(&mut client, go), "");
            assert_eq!(status(&mut client), "running");
            assert!(counts(&instance, &mut client), "{emulator:?}");
            assert_eq!(say(&mut client, "info status"), "VM status: running");
            assert_eq!(say(&mut client, halt), "");
            assert_eq!(say(&mut client, "info status"), "VM status: paused");
            assert!(!counts(&instance, &mut client), "{emulator:?}");
        }
        assert_eq!(say(&mut client, "system_powerdown"), "");
        client.wait_event("POWERDOWN", SOON);
        assert_eq!(say(&mut client, "system_reset"), "");
        let event = client.wait_event("RESET", SOON);
        assert_eq!(event["data"]["reason"], "host-qmp-system-reset");
        assert_eq!(say(&mut client, "cont"), "");
        wait_console(&instance, "SS");
        // A port of the guest's.
        assert_eq!(say(&mut client, "o/b 0x402 '!'"), "");
        assert_eq!(say(&mut client, "o /b 0x402 0x3f"), "");
        wait_console(&instance, "SS!?");
        // CMOS, index and data at once.
        assert_eq!(say(&mut client, "o/h 0x70 0x5a30"), "");
        assert_eq!(say(&mut client, "i/b 0x71"), "portb[0x0071] = 0x5a");
        let arguments = json!({"command-line": "q"});
        let _ = client.execute("human-monitor-command", arguments);
        client.wait_event("SHUTDOWN", SOON);
    }
}

#[test]
fn an_nmi_arrives() {
    for emulator in emulators() {
        let instance = with_rom_of_any_mode(emulator, &roms::nmi()).start();
        let mut client = negotiated(&instance);
        wait_until("the guest is ready", || !console(&instance).is_empty());
        let ready = console(&instance);
        assert_eq!(say(&mut client, "nmi"), "");
        wait_console(&instance, &format!("{ready}N"));
    }
}

#[test]
fn memory_is_saved() {
    for emulator in emulators() {
        let instance = with_rom_of_any_mode(emulator, &roms::paging_32()).start();
        let mut client = negotiated(&instance);
        wait_console(&instance, "P");
        let file = instance.dir().join("a file");
        let name = file.to_str().expect("a plain path");
        for (line, expected) in [
            (format!("memsave 0x400000 0x1800 \"{name}\""), ['A', 'B']),
            (format!("pmemsave 0x20000 0x1800 \"{name}\""), ['A', '\0']),
        ] {
            assert_eq!(say(&mut client, &line), "");
            let bytes = std::fs::read(&file).expect("the file");
            let pages = expected.map(|letter| letter as u8);
            assert_eq!(bytes.len(), 0x1800);
            assert!(bytes[..0x1000].iter().all(|byte| *byte == pages[0]));
            assert!(bytes[0x1000..].iter().all(|byte| *byte == pages[1]));
        }
        let refused = say(&mut client, "memsave 0x402000 4 \"/tmp/never there\"");
        assert!(refused.starts_with("Error: "), "{refused}");
        assert_eq!(say(&mut client, "p/d 7"), "7", "and it goes on");
    }
}

/// The addresses are each process' own, and are checked for being possible.
#[test]
fn the_host_has_guest_memory() {
    for emulator in emulators() {
        let instance = with_rom(emulator, &roms::pattern()).start();
        let mut client = negotiated(&instance);
        wait_console(&instance, "W");
        let hex = |text: &str| {
            let (_, digits) = text
                .rsplit_once("is 0x")
                .unwrap_or_else(|| panic!("{text}"));
            u64::from_str_radix(digits, 16).expect("a number")
        };
        let low = say(&mut client, "gpa2hva 0x1000");
        assert!(
            low.starts_with("Host virtual address for 0x1000 (pc.ram) is "),
            "{low}"
        );
        let high = say(&mut client, "gpa2hva 0x1ff0");
        assert_eq!(hex(&high) - hex(&low), 0xff0);
        let rom = say(&mut client, "gpa2hva 0xffff0");
        assert!(
            rom.starts_with("Host virtual address for 0xffff0 (pc.bios) is "),
            "{rom}"
        );
        // Root may know.
        let frame = say(&mut client, "gpa2hpa 0x1234");
        let told = frame.starts_with("Host physical address for 0x1234 (pc.ram) is ");
        assert!(told || frame.contains("/proc/self/pagemap"), "{frame}");
        if told {
            assert_eq!(hex(&frame) & 0xfff, 0x234);
        }
    }
}

/// Everything that is shown of devices here, QEMU shows as well: it has more.
#[test]
fn devices_look_the_same() {
    let mut shown = Vec::new();
    for emulator in emulators() {
        let instance = passive(emulator)
            .args(["-chardev", "null,id=nothing"])
            .args(["-serial", "chardev:nothing"])
            .args(["-device", "pvpanic,id=alarm"])
            .start();
        let mut client = negotiated(&instance);
        shown.push([
            say(&mut client, "info qom-tree"),
            say(&mut client, "info qom-tree /machine/unattached"),
            say(&mut client, "info qtree"),
            say(&mut client, "info chardev"),
        ]);
        let tree = say(&mut client, "info mtree");
        for line in [
            "0000000000000070-0000000000000071 (prio 0, i/o): rtc",
            "00000000000003f8-00000000000003ff (prio 0, i/o): serial",
            "0000000000000cf8-0000000000000cfb (prio 0, i/o): pci-conf-idx",
            "00000000fec00000-00000000fec00fff (prio 0, i/o): ioapic",
            "address-space: memory",
            "address-space: I/O",
        ] {
            assert!(tree.split('|').any(|shown| shown == line), "{line}: {tree}");
        }
        let roms = say(&mut client, "info roms");
        assert!(roms.contains("mem=rom name=\""), "{roms}");
        assert!(roms.contains("/rom@etc/acpi/tables size=0x"), "{roms}");
    }
    let [qemu, thimble] = shown.as_slice() else {
        return;
    };
    assert!(thimble[3].contains("nothing: filename=null"));
    for (qemu, thimble) in qemu.iter().zip(thimble) {
        // A path, and properties that QEMU has in a part of the device.
        let others = ["compat_monitor", "baudbase = ", "chardev = "];
        let alike = |line: &&str| !others.iter().any(|other| line.starts_with(other));
        for line in thimble.split('|').filter(alike) {
            assert!(qemu.split('|').any(|shown| shown == line), "{line}: {qemu}");
        }
    }
    assert!(
        thimble[2].contains("|dev: pvpanic, id \"alarm\"|"),
        "{}",
        thimble[2]
    );
}

/// By the argument, whose values are checked.
#[test]
fn the_processor_is_chosen() {
    let mut answers = Vec::new();
    for emulator in emulators() {
        let instance = passive(emulator).args(["-smp", "2"]).start();
        let mut client = negotiated(&instance);
        let asked = [0, 1, 2, -1].map(|cpu| {
            let arguments = json!({"command-line": "p/x $cs.base+$eip", "cpu-index": cpu});
            let text = answer(&instance, &mut client, "human-monitor-command", &arguments);
            (arguments.to_string(), text)
        });
        answers.push(asked.to_vec());
    }
    compare("commands-human-cpu", &answers);
}

/// The help has the same names and arguments; its sentences are our own.
#[test]
fn help_has_the_same_commands() {
    let mut heads = Vec::new();
    for emulator in emulators() {
        let instance = passive(emulator).start();
        let mut client = negotiated(&instance);
        let all = tell(&mut client, "help");
        assert_eq!(all, tell(&mut client, "?"));
        let info = tell(&mut client, "help info");
        assert_eq!(info, tell(&mut client, "info"));
        let mut known = Vec::new();
        for (text, before) in [(all, ""), (info, "info ")] {
            for line in text.lines().filter(|line| line.contains(" -- ")) {
                let (head, sentence) = line.split_once(" -- ").expect("a sentence");
                assert!(!sentence.is_empty());
                let name = head.strip_prefix(before).expect("the command");
                let name = name.split([' ', '|']).next().unwrap_or_default();
                if name != "info" && emulator == Emulator::Thimble {
                    let one = tell(&mut client, &format!("help {before}{name}"));
                    assert!(one.starts_with(line), "{one}");
                }
                known.push(head.trim().to_string());
            }
        }
        heads.push(known);
    }
    let [qemu, thimble] = heads.as_slice() else {
        return;
    };
    // Flags that are not there, and commands whose names stand there twice in QEMU's help.
    let others = [
        "info mtree [-f]",
        "getfd name",
        "closefd name",
        // QEMU's stands on several lines.
        "drive_add [-n] [[<domain>:]<bus>:]<slot> [file=file][,if=type][,option=value][,...]",
    ];
    let alike = |head: &&String| !others.contains(&head.as_str());
    for head in thimble.iter().filter(alike) {
        assert!(qemu.contains(head), "{head}: {qemu:?}");
    }
    assert!(thimble.len() >= 40, "{thimble:?}");
}

/// A text that no reply can hold is an error that says so, and the monitor goes on.
#[test]
fn too_much_text_is_refused() {
    let instance = passive(Emulator::Thimble).start();
    let mut client = negotiated(&instance);
    let arguments = json!({"command-line": "xp/15000000xb 0"});
    let error = refused(&mut client, "human-monitor-command", arguments);
    assert!(error.contains("output limit (4194304 bytes)"), "{error}");
    assert_eq!(say(&mut client, "p/x 7"), "0x7");
}

/// Numbers that look random and are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    /// A byte, often one that sign extension or a short form makes something of.
    fn byte(&mut self) -> u8 {
        match self.below(5) {
            0 => 0xff,
            1 => 0,
            _ => self.below(256) as u8,
        }
    }
}

/// Bytes that begin with an instruction of this form, if luck will have it.
fn bytes_of(encoding: &Encoding, shape: &Shape, mode: CodeSize, numbers: &mut Numbers) -> [u8; 16] {
    let mut rex = match mode {
        CodeSize::Bits64 if numbers.below(2) == 0 => Some(numbers.below(16) as u8),
        _ => None,
    };
    let memory = shape.memory.unwrap_or(numbers.below(2) == 0);
    let mut modrm = match memory {
        true => [0, 0x40, 0x80][numbers.below(3) as usize],
        false => 0xc0,
    } | numbers.below(64) as u8;
    let mut prefix = 0;
    for choice in encoding.choices() {
        match choice {
            Choice::Reg(number) => modrm = modrm & !0x38 | number << 3,
            Choice::Rm(number) => modrm = modrm & !7 | number,
            Choice::Prefix(number) => prefix = number,
            Choice::RexB(1) => rex = Some(rex.unwrap_or(0) | 1),
            Choice::RexB(_) => rex = rex.map(|rex| rex & !1),
            Choice::RexW(1) => rex = Some(rex.unwrap_or(0) | 8),
            Choice::RexW(_) => rex = rex.map(|rex| rex & !8),
            Choice::Mod(_) | Choice::Long(_) => {}
        }
    }
    let mut bytes = Vec::new();
    let vex = match encoding.map {
        Map::Vex38 => 2,
        Map::Vex3a => 3,
        _ => 0,
    };
    if vex == 0 {
        bytes.extend([0x66, 0xf3, 0xf2].get(usize::from(prefix).wrapping_sub(1)));
        bytes.extend(rex.map(|rex| 0x40 | rex));
    }
    match encoding.map {
        Map::One => {}
        Map::Two => bytes.push(0x0f),
        Map::Three38 => bytes.extend([0x0f, 0x38]),
        Map::Three3a => bytes.extend([0x0f, 0x3a]),
        Map::Vex38 | Map::Vex3a => {
            let rex = rex.unwrap_or(0);
            let register = (numbers.below(16) as u8) << 3;
            bytes.extend([
                0xc4,
                (!rex & 7) << 5 | vex,
                (rex & 8) << 4 | register | prefix,
            ]);
        }
    }
    bytes.push(encoding.opcode);
    if shape.modrm {
        bytes.push(modrm);
    }
    bytes.resize_with(16, || numbers.byte());
    std::array::from_fn(|at| bytes[at])
}

/// Where QEMU's disassembler has another name, doesn't know what is newer than it, or is wrong.
fn excused(operation: Operation, mode: CodeSize, ours: &str, theirs: &str) -> bool {
    use Operation::*;
    let parts = |text: &str| {
        let (name, rest) = text.split_once(' ').unwrap_or((text, ""));
        (name.to_string(), rest.to_string())
    };
    let ((name, rest), (other, other_rest)) = (parts(ours), parts(theirs));
    // REX.W that changes nothing makes a wider register of one that is written.
    let narrow = |text: &str| text.replace("%r", "%e").replace("d", "");
    match operation {
        // Newer than it, not there for it with REX or with some ModRM bytes.
        Nop | Serialize | Rdpkru | Wrpkru | Prefetch | Prefetchw | Prefetchwt1 | Lfence
        | Mfence | Sfence | MovSegment | Endbr32 | Endbr64 | Ud0 | Ud1
            if theirs.starts_with(".byte") =>
        {
            true
        }
        // Other names.
        Shl => other.starts_with("sal") && rest == other_rest,
        Rol => other == "rol" && rest == other_rest,
        Nop => other.starts_with("nop"),
        Ud0 | Ud1 => other.starts_with("ud"),
        Packed(OnIntegers::Movq) if mode == CodeSize::Bits64 => other == "movd",
        // ST(0) besides, where another opcode means the same; and what an older coprocessor knew.
        Fpu(_) => {
            let fewer = other_rest.replace(", %st(0)", "").replace("%st(0), ", "");
            (name == other && rest == fewer) || rest.is_empty()
        }
        // It takes them for those of older processors.
        Wbnoinvd | Pause | Clwb | Clflushopt | Rdpid | Tzcnt | Lzcnt => true,
        // It extends the sign of their constants, or of a size that doesn't count.
        Rorx | Retf => name == other,
        Movsxd => other == "movslq",
        MovSegment | Sldt | Lfs | Lgs | Lss => narrow(&rest) == narrow(&other_rest),
        Lar | Lsl | Sse(_) | Packed(_) if name == other && narrow(&rest) == narrow(&other_rest) => {
            true
        }
        // In 16-bit code it takes prefixes that are parts of opcodes for those of sizes.
        Adcx | Adox | Bswap | Cbw | Crc32 | Cwd | Invpcid | Movsx | Movzx | Popcnt | Sse(_)
        | Packed(_)
            if mode == CodeSize::Bits16 =>
        {
            true
        }
        // One form among many has a letter for the size.
        Sse(_) => other.strip_suffix('q') == Some(&name) && rest == other_rest,
        _ => false,
    }
}

/// All forms of all instructions of a mode, in the words of QEMU's disassembler.
fn check_forms(mode: CodeSize, launcher: Launcher, ready: Option<&str>) {
    /// Instructions of a form.
    const EACH: usize = 3;
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut code: Vec<[u8; 16]> = Vec::new();
    encodings(&mut |encoding, shape| {
        let there = match mode {
            CodeSize::Bits64 => shape.in_long,
            _ => shape.in_legacy,
        };
        let attempts = (0..if there { 200 } else { 0 })
            .map(|_| bytes_of(encoding, shape, mode, &mut numbers))
            .filter(|bytes| encoding_of(bytes, mode) == Ok(*encoding));
        code.extend(attempts.take(EACH));
    });
    std::fs::write(launcher.dir().join("code"), code.as_flattened()).expect("a file");
    let loader = "loader,file={dir}/code,addr=0x100000,force-raw=on";
    let instance = launcher.args(["-device", loader]).start();
    let mut client = negotiated(&instance);
    if let Some(text) = ready {
        wait_console(&instance, text);
    }
    let mut differences = String::new();
    for (index, bytes) in (0..).zip(&code) {
        let address = 0x10_0000 + 16 * index;
        let text = say(&mut client, &format!("x/1i {address:#x}"));
        // Bytes are two digits, and no mnemonic is.
        let first = text.split('|').next().unwrap_or_default();
        let is_byte =
            |word: &&str| word.len() == 2 && word.bytes().all(|digit| digit.is_ascii_hexdigit());
        let theirs: Vec<&str> = first.split(' ').skip(1).skip_while(is_byte).collect();
        let theirs = theirs.join(" ");
        let decoded = disassemble(bytes, mode).expect("it was decoded before");
        let ours = words(&decoded.at(address).to_string());
        let operation = decoded.instruction().operation();
        if ours != theirs && !excused(operation, mode, &ours, &theirs) {
            let _ = writeln!(
                differences,
                "{bytes:02x?} {operation:?}: `{ours}`, QEMU `{theirs}`"
            );
        }
    }
    assert!(code.len() > 2900, "{}", code.len());
    assert!(differences.is_empty(), "{mode:?}:\n{differences}");
}

#[test]
fn all_forms_in_16_bit_code() {
    if emulators().contains(&Emulator::Qemu) {
        check_forms(CodeSize::Bits16, passive(Emulator::Qemu), None);
    }
}

#[test]
fn all_forms_in_32_bit_code() {
    if emulators().contains(&Emulator::Qemu) {
        let launcher = with_rom(Emulator::Qemu, &roms::paging_32());
        check_forms(CodeSize::Bits32, launcher, Some("P"));
    }
}

#[test]
fn all_forms_in_64_bit_code() {
    if emulators().contains(&Emulator::Qemu) {
        let launcher = with_rom(Emulator::Qemu, &roms::paging_64());
        check_forms(CodeSize::Bits64, launcher, Some("P"));
    }
}
