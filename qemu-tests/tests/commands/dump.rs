//! dump-guest-memory and what belongs to it: files side by side, read back and compared with pmemsave, and by gdb and readelf; failures
//! leave no file; the monitors answer meanwhile.
//!
//! The emulators' ROMs lie elsewhere, and so does what is mapped: of memory those ranges are compared that all have.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use qemu_tests::{Emulator, Instance, QmpClient, packages, skip};
use rustix::process::{Resource, Rlimit};
use serde_json::{Value, json};

use crate::{
    NEVER, SOON, answer, ask, command_with, compare, compare_answers, connect, content, emulators,
    events, negotiated, passive, physical, refused, roms, status, wait_console, wait_until,
    with_rom, with_rom_of_any_mode,
};

/// Bytes of the guests' RAM.
const RAM: usize = 16 << 20;
const PAGE: usize = 4096;

fn number(bytes: &[u8], at: usize, size: usize) -> u64 {
    let mut number = [0; 8];
    number[..size].copy_from_slice(&bytes[at..at + size]);
    u64::from_le_bytes(number)
}

/// A program header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    kind: u64,
    offset: usize,
    linear: u64,
    physical: u64,
    file_size: usize,
    size: u64,
}

/// An ELF core file.
struct Elf {
    bytes: Vec<u8>,
    segments: Vec<Segment>,
}

impl Elf {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).expect("the file");
        let (at, count) = (number(&bytes, 32, 8), number(&bytes, 56, 2));
        let segment = |index| {
            let header = &bytes[(at + 56 * index) as usize..];
            Segment {
                kind: number(header, 0, 4),
                offset: number(header, 8, 8) as usize,
                linear: number(header, 16, 8),
                physical: number(header, 24, 8),
                file_size: number(header, 32, 8) as usize,
                size: number(header, 40, 8),
            }
        };
        let segments = (0..count).map(segment).collect();
        Self { bytes, segments }
    }

    fn loads(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|segment| segment.kind == 1)
    }

    fn content(&self, segment: &Segment) -> &[u8] {
        &self.bytes[segment.offset..segment.offset + segment.file_size]
    }

    /// Name, type and content of each note.
    fn notes(&self) -> Vec<(String, u64, Vec<u8>)> {
        let mut segments = self.segments.iter();
        let notes = segments.find(|segment| segment.kind == 4).expect("notes");
        let mut rest = self.content(notes);
        let mut found = Vec::new();
        while !rest.is_empty() {
            let (name, size) = (number(rest, 0, 4) as usize, number(rest, 4, 4) as usize);
            let start = 12 + name.next_multiple_of(4);
            let text = String::from_utf8_lossy(&rest[12..12 + name]).into_owned();
            let note = rest[start..start + size].to_vec();
            found.push((text, number(rest, 8, 4), note));
            rest = &rest[start + size.next_multiple_of(4)..];
        }
        found
    }

    /// What the header and the section headers say, but for places and sizes, which follow from what is in the file.
    fn facts(&self) -> String {
        let bytes = &self.bytes;
        let sections = number(bytes, 40, 8) as usize;
        // The last section has the names.
        let names = &bytes[sections + 64..];
        let (at, size) = (number(names, 24, 8) as usize, number(names, 32, 8) as usize);
        assert_eq!(at + size, bytes.len());
        // QEMU takes a pointer's size for the header's.
        format!(
            "{:02x?} {:02x?} {:?} {} {}",
            &bytes[..32],
            &bytes[54..56],
            [
                number(bytes, 58, 2),
                number(bytes, 60, 2),
                number(bytes, 62, 2)
            ],
            bytes[at..].escape_ascii(),
            number(names, 4, 4),
        )
    }

    /// The bytes of RAM from an address on, by physical addresses.
    fn physical(&self, address: u64, size: usize) -> Vec<u8> {
        let mut loads = self.loads();
        let found = loads.find(|load| {
            load.physical <= address && address - load.physical < load.file_size as u64
        });
        let found = found.unwrap_or_else(|| panic!("{address:#x}"));
        let start = (address - found.physical) as usize;
        self.content(found)[start..start + size].to_vec()
    }
}

fn file(instance: &Instance) -> PathBuf {
    instance.dir().join("dump")
}

/// A dump's arguments: to this file, and some more.
fn arguments(path: &Path, more: &Value) -> Value {
    let mut arguments = json!({"paging": false, "protocol": format!("file:{}", path.display())});
    for (name, value) in more.as_object().expect("an object") {
        arguments[name] = value.clone();
    }
    arguments
}

/// Dumps to a file and waits for the end.
fn dump(instance: &Instance, client: &mut QmpClient, more: &Value) -> PathBuf {
    let path = file(instance);
    let reply = command_with(client, "dump-guest-memory", arguments(&path, more));
    assert_eq!(reply, json!({}));
    path
}

#[test]
fn arguments_are_checked_as_by_qemu() {
    let dump = |more: Value| ("dump-guest-memory", arguments(Path::new("{dir}/d"), &more));
    let to = |protocol: &str| {
        let arguments = json!({"paging": false, "protocol": protocol});
        ("dump-guest-memory", arguments)
    };
    let commands = [
        dump(json!({})),
        dump(json!({"detach": false, "format": "elf"})),
        dump(json!({"format": "kdump-zlib"})),
        dump(json!({"format": "kdump-lzo"})),
        dump(json!({"format": "kdump-snappy"})),
        dump(json!({"format": "zip"})),
        dump(json!({"format": "kdump-zlib", "paging": true})),
        dump(json!({"format": "kdump-lzo", "paging": true})),
        dump(json!({"format": "kdump-zlib", "begin": 0, "length": 4096})),
        dump(json!({"format": "kdump-zlib", "begin": 0})),
        dump(json!({"begin": 0})),
        dump(json!({"length": 10})),
        dump(json!({"begin": 0, "length": 0})),
        dump(json!({"begin": -1, "length": 5})),
        dump(json!({"begin": 1_i64 << 32, "length": 1})),
        dump(json!({"begin": 1_i64 << 32, "length": -1_i64 << 33})),
        dump(json!({"begin": i64::MIN, "length": 5})),
        dump(json!({"begin": 1_i64 << 30, "length": 4096})),
        dump(json!({"begin": 5, "length": 5})),
        dump(json!({"begin": (1_i64 << 32) - 1, "length": 5})),
        dump(json!({"begin": 0, "length": -5})),
        dump(json!({"paging": 1})),
        to("x:{dir}/d"),
        to(""),
        to("file"),
        to("file:"),
        to("file:{dir}/none/d"),
        to("file:{dir}"),
        to("fd:nothing"),
        to("fd:5"),
        to("fd:"),
        to("file:/dev/full"),
        ("dump-guest-memory", json!({"paging": false})),
        ("dump-guest-memory", json!({"protocol": "file:{dir}/d"})),
        ("query-status", json!({})),
    ];
    compare_answers("commands-dump", passive, &commands);
}

/// What is not built in is told of: QEMU has Windows' format, too.
#[test]
fn the_formats_are_told() {
    let instance = passive(Emulator::Thimble).start();
    let mut client = negotiated(&instance);
    let formats = ask(&mut client, "query-dump-guest-memory-capability");
    assert_eq!(formats, json!({"formats": ["elf", "kdump-zlib"]}));
    let path = file(&instance);
    for format in ["kdump-lzo", "kdump-snappy", "win-dmp"] {
        let asked = arguments(&path, &json!({"format": format}));
        let text = refused(&mut client, "dump-guest-memory", asked);
        assert_eq!(text, format!("GenericError: {format} is not available now"));
    }
    assert_eq!(content(&path), None);
}

/// Registers as numbers, of which segments' attributes are those that processors keep: QEMU has bits of the limit and the base there, too.
fn registers(note: &(String, u64, Vec<u8>)) -> String {
    let (name, kind, content) = note;
    let mut content = content.clone();
    // The processor's model, in RDX of one that has done nothing yet.
    let (rdx, rip) = match (name.as_str(), content.len()) {
        ("QEMU\0", _) => (32, 136),
        (_, 336) => (208, 240),
        _ => (80, 120),
    };
    if number(&content, rip, 4) == 0xfff0 {
        content[rdx..rdx + 4].fill(0);
    }
    if name.starts_with("QEMU") {
        for segment in 0..8 {
            let at = 152 + 24 * segment + 8;
            content[at] = 0;
            content[at + 2] &= 0xf0;
            content[at + 3] = 0;
            // Accessed or not: of a register whose selector is null.
            if content[at - 8] == 0 && content[at - 7] == 0 {
                content[at..at + 4].fill(0);
            }
        }
    }
    format!("{name:?} {kind} {content:02x?}")
}

fn elf_side_by_side(test: &str, rom: &[u8], options: &[&str], arguments: &Value) {
    let mut answers = Vec::new();
    for emulator in emulators() {
        let instance = with_rom_of_any_mode(emulator, rom).args(options).start();
        let mut client = negotiated(&instance);
        wait_console(&instance, "P");
        ask(&mut client, "stop");
        let path = dump(&instance, &mut client, arguments);
        let elf = Elf::read(&path);
        let mut told = vec![("header".to_string(), elf.facts())];
        for (index, note) in elf.notes().iter().enumerate() {
            told.push((format!("note {index}"), registers(note)));
        }
        // Which page is where: the pieces themselves may be cut in other places, and QEMU sets the upper bits of all addresses.
        const LOW: u64 = (1 << 48) - 1;
        let pages: BTreeMap<u64, u64> = elf
            .loads()
            .flat_map(|load| {
                assert_eq!(load.size % PAGE as u64, 0);
                (0..load.size / PAGE as u64)
                    .map(|page| page * PAGE as u64)
                    .map(|page| (LOW & (load.linear + page), load.physical + page))
            })
            .filter(|(_, physical)| {
                *physical < 0xa_0000 || (0x10_0000..0xf000_0000).contains(physical)
            })
            .collect();
        told.push(("pages".to_string(), format!("{pages:x?}")));
        answers.push(told);
        for load in elf.loads().filter(|load| load.file_size > 0) {
            let size = load.file_size;
            let memory = physical(&instance, &mut client, load.physical as i64, size);
            assert!(memory == elf.content(load), "{emulator:?} {load:x?}");
        }
    }
    compare(test, &answers);
}

#[test]
fn an_elf_file_is_qemus() {
    let none = json!({});
    elf_side_by_side(
        "commands-dump-elf",
        &roms::paging_32(),
        &["-smp", "2"],
        &none,
    );
    elf_side_by_side("commands-dump-elf", &roms::paging_64(), &[], &none);
}

#[test]
fn a_part_is_qemus() {
    for (begin, length) in [(0x1000, 0x3000), (0x9_f000, 0x1000), (0xf_f000, 0x2000)] {
        let part = json!({"begin": begin, "length": length});
        elf_side_by_side("commands-dump-elf", &roms::paging_32(), &[], &part);
        let part = json!({"begin": begin, "length": length, "paging": true});
        elf_side_by_side("commands-dump-elf", &roms::paging_64(), &[], &part);
    }
}

#[test]
fn linear_addresses_are_qemus() {
    let paging = json!({"paging": true});
    for rom in [roms::paging_32(), roms::paging_64(), roms::vectors_16()] {
        elf_side_by_side("commands-dump-paging", &rom, &["-smp", "2"], &paging);
    }
}

/// The pages of a compressed dump, by their numbers.
fn kdump_pages(path: &Path) -> (Vec<u8>, BTreeMap<u64, Vec<u8>>) {
    let bytes = std::fs::read(path).expect("the file");
    let big = |at: usize| i64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight"));
    assert_eq!(bytes[..16], *b"makedumpfile\0\0\0\0");
    assert_eq!((big(16), big(24)), (1, 1));
    let mut flat = Vec::new();
    let mut at = 4096;
    while big(at) >= 0 {
        let (offset, size) = (big(at) as usize, big(at + 8) as usize);
        if flat.len() < offset + size {
            flat.resize(offset + size, 0);
        }
        flat[offset..offset + size].copy_from_slice(&bytes[at + 16..at + 16 + size]);
        at += 16 + size;
    }
    assert_eq!(at + 16, bytes.len(), "nothing behind the end");
    let blocks = |at| number(&flat, at, 4) as usize;
    let bitmap = (1 + blocks(432)) * PAGE;
    let half = blocks(436) * PAGE / 2;
    assert_eq!(
        flat[bitmap..bitmap + half],
        flat[bitmap + half..bitmap + 2 * half]
    );
    let numbers = (0..half * 8).filter(|bit| flat[bitmap + bit / 8] >> (bit % 8) & 1 != 0);
    let descriptors = bitmap + 2 * half;
    let page = |(index, number_of_page)| {
        let descriptor = &flat[descriptors + 24 * index..];
        let (at, size) = (
            number(descriptor, 0, 8) as usize,
            number(descriptor, 8, 4) as usize,
        );
        let stored = &flat[at..at + size];
        let page = match number(descriptor, 12, 4) {
            0 => stored.to_vec(),
            1 => miniz_oxide::inflate::decompress_to_vec_zlib(stored).expect("zlib"),
            flags => panic!("{flags}"),
        };
        assert_eq!(page.len(), PAGE);
        (number_of_page as u64, page)
    };
    let pages = numbers.enumerate().map(page).collect();
    (flat, pages)
}

#[test]
fn a_compressed_file_is_qemus_and_has_every_page() {
    let mut answers = Vec::new();
    for emulator in emulators() {
        let instance = with_rom(emulator, &roms::pattern())
            .args(["-smp", "2"])
            .start();
        let mut client = negotiated(&instance);
        wait_console(&instance, "W");
        ask(&mut client, "stop");
        // What compresses badly, and what is stored as it is.
        let path = dump(&instance, &mut client, &json!({"format": "kdump-zlib"}));
        let (flat, pages) = kdump_pages(&path);
        let memory = physical(&instance, &mut client, 0, RAM);
        for (index, page) in memory.chunks(PAGE).enumerate() {
            match pages.get(&(index as u64)) {
                Some(found) => assert!(found == page, "{emulator:?}: page {index:#x}"),
                None => assert!((0xa0..0xf0).contains(&index), "{index:#x}"),
            }
        }
        let top = physical(&instance, &mut client, 0xffff_f000, PAGE);
        assert_eq!(pages[&0xf_ffff], top);
        // The header, and what is told of notes; not how many bytes those are.
        let header = [&flat[..432], &flat[436..464], &flat[4096..4152]];
        let text = header.map(|part| format!("{}", part.escape_ascii()));
        answers.push(vec![("header".to_string(), text.join(" "))]);
        let notes = &flat[4096 + 104..][..number(&flat, 4096 + 56, 8) as usize];
        let elf = dump(&instance, &mut client, &json!({}));
        let elf = Elf::read(&elf);
        assert_eq!(elf.content(&elf.segments[0]), notes, "{emulator:?}");
    }
    compare("commands-dump-kdump", &answers);
}

#[test]
fn events_and_states_come_in_order() {
    let mut seen = Vec::new();
    for emulator in emulators() {
        let instance = with_rom(emulator, &roms::counter()).start();
        let mut client = negotiated(&instance);
        wait_console(&instance, "S");
        let mut told = vec![ask(&mut client, "query-dump")];
        for more in [
            json!({}),
            json!({"detach": true}),
            json!({"format": "kdump-zlib"}),
        ] {
            let path = dump(&instance, &mut client, &more);
            wait_until("it ends", || {
                ask(&mut client, "query-dump")["status"] == "completed"
            });
            assert!(path.exists());
            for event in events(&mut client) {
                let [name, data] = [&event[0], &event[1]];
                if name == "DUMP_COMPLETED" {
                    let result = &data["result"];
                    assert_eq!(result["completed"], result["total"], "{event}");
                    assert!(result["total"].as_u64() > Some(15 << 20), "{event}");
                    assert_eq!(*result, ask(&mut client, "query-dump"));
                    told.push(json!([name, result["status"], data.get("error")]));
                } else {
                    told.push(event);
                }
            }
            told.push(json!(status(&mut client)));
        }
        // One that fails at once.
        let failing = arguments(Path::new("/dev/full"), &json!({}));
        let text = refused(&mut client, "dump-guest-memory", failing);
        told.push(json!(text));
        for mut event in events(&mut client) {
            if let Some(total) = event.pointer_mut("/1/result/total") {
                *total = json!(0);
            }
            told.push(event);
        }
        told.push(json!(status(&mut client)));
        seen.push(told);
    }
    if let [qemu, thimble] = &seen[..] {
        assert_eq!(qemu, thimble);
    }
    let [thimble] = &seen[seen.len() - 1..] else {
        unreachable!()
    };
    assert_eq!(thimble[0]["status"], "none");
}

/// A pipe that nobody reads holds a dump up: what monitors answer then.
#[test]
fn while_a_dump_hangs_monitors_answer() {
    let mut answers = Vec::new();
    for emulator in emulators() {
        let instance = with_rom(emulator, &roms::counter())
            .args(["-qmp", "unix:{dir}/other,server=on,wait=off"])
            .start();
        let mut client = negotiated(&instance);
        wait_console(&instance, "S");
        let (reader, writer) = pipe();
        pass(&mut client, &writer);
        drop(writer);
        let asked = json!({"paging": false, "protocol": "fd:pipe", "detach": true});
        assert_eq!(
            command_with(&mut client, "dump-guest-memory", asked),
            json!({})
        );
        let mut other = connect(&instance, "other");
        other.negotiate();
        let mut told = Vec::new();
        for (command, arguments) in [
            ("query-status", json!({})),
            ("stop", json!({})),
            ("cont", json!({})),
            (
                "dump-guest-memory",
                json!({"paging": false, "protocol": "file:{dir}/d"}),
            ),
            (
                "dump-guest-memory",
                json!({"paging": false, "protocol": "x"}),
            ),
            (
                "human-monitor-command",
                json!({"command-line": "dump-guest-memory {dir}/d"}),
            ),
            ("inject-nmi", json!({})),
            ("query-status", json!({})),
        ] {
            for client in [&mut client, &mut other] {
                let text = answer(&instance, client, command, &arguments);
                told.push((format!("{command} {arguments}"), text));
            }
        }
        if emulator == Emulator::Thimble {
            // It ends QEMU.
            let text = refused(&mut other, "system_reset", json!({}));
            assert_eq!(
                text,
                "GenericError: There is a dump in process, please wait."
            );
        }
        let active = ask(&mut other, "query-dump");
        assert_eq!(active["status"], "active");
        assert!(active["completed"].as_u64() < active["total"].as_u64());
        let line = json!({"command-line": "info dump"});
        let text = command_with(&mut other, "human-monitor-command", line);
        let text = text.as_str().expect("a text");
        assert!(text.starts_with("Status: active\r\nFinished: 0."), "{text}");
        assert!(text.ends_with(" %\r\n"), "{text}");
        events(&mut client);
        drop(reader);
        let event = client.wait_event("DUMP_COMPLETED", SOON);
        let told_error = event["data"]["error"].as_str().expect("an error");
        told.push(("error".to_string(), told_error.to_string()));
        client.wait_event("RESUME", SOON);
        told.push(("status".to_string(), status(&mut client)));
        assert_eq!(ask(&mut other, "query-dump")["status"], "failed");
        answers.push(told);
    }
    compare("commands-dump-hangs", &answers);
}

fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe().expect("a pipe")
}

/// Passes a descriptor under the name `pipe`.
fn pass(client: &mut QmpClient, fd: &OwnedFd) {
    let passed = client.execute_with("getfd", &json!({"fdname": "pipe"}), &[fd.as_fd()]);
    assert_eq!(passed, Ok(json!({})));
}

#[test]
fn a_passed_pipe_gets_the_same_as_a_file() {
    for emulator in emulators() {
        let instance = passive(emulator).start();
        let mut client = negotiated(&instance);
        for format in ["elf", "kdump-zlib"] {
            let path = dump(&instance, &mut client, &json!({"format": format}));
            let expected = std::fs::read(path).expect("the file");
            let (reader, writer) = pipe();
            pass(&mut client, &writer);
            drop(writer);
            let reading = std::thread::spawn(move || {
                let mut bytes = Vec::new();
                File::from(reader).read_to_end(&mut bytes).expect("a pipe");
                bytes
            });
            let asked = json!({"paging": false, "protocol": "fd:pipe", "format": format});
            assert_eq!(
                command_with(&mut client, "dump-guest-memory", asked.clone()),
                json!({})
            );
            // It is closed at the end, and its name is free.
            let got = reading.join().expect("no panic");
            assert!(got == expected, "{emulator:?} {format}");
            let text = refused(&mut client, "dump-guest-memory", asked);
            assert!(
                text.ends_with("File descriptor named 'pipe' has not been found"),
                "{text}"
            );
        }
    }
}

/// A disk that gets full at every place that matters: the words are those that QEMU was observed to say, and no file stays.
#[test]
fn full_disks_are_told_and_leave_no_file() {
    let elf = [
        (0, "write elf header: File too large"),
        (63, "write elf header: File too large"),
        (64, "write program header table: File too large"),
        (343, "write program header table: File too large"),
        (344, "write section headers: File too large"),
        (0x300, "write elf notes"),
        (0x2000, "save memory: File too large"),
        (0x10_0000, "save memory: File too large"),
    ];
    let kdump = [
        (0, "write start flat header"),
        (4095, "write start flat header"),
        (4096, "write disk dump header"),
        (4500, "write disk dump header"),
        (4600, "write kdump sub header"),
        (4750, "write notes"),
        (6000, "set dump_bitmap"),
        (70_000, "set dump_bitmap"),
    ];
    for (format, limits) in [("elf", elf), ("kdump-zlib", kdump)] {
        for (limit, what) in limits {
            let instance = passive(Emulator::Thimble).start();
            let mut client = negotiated(&instance);
            ask(&mut client, "query-status");
            let limit = Rlimit {
                current: Some(limit),
                maximum: Some(limit),
            };
            rustix::process::prlimit(Some(instance.pid()), Resource::Fsize, limit)
                .expect("a child");
            let path = file(&instance);
            let asked = arguments(&path, &json!({"format": format}));
            let text = refused(&mut client, "dump-guest-memory", asked);
            let expected = format!("GenericError: dump: failed to {what}");
            assert_eq!(text, expected, "{format} {limit:?}");
            assert_eq!(content(&path), None);
            assert_eq!(ask(&mut client, "query-dump")["status"], "failed");
        }
    }
}

/// Who ends the process while a dump hangs does not wait for it, and no file stays.
#[test]
fn quit_gives_a_dump_up() {
    let instance = passive(Emulator::Thimble)
        .args(["-qmp", "unix:{dir}/other,server=on,wait=off"])
        .start();
    let mut client = negotiated(&instance);
    let fifo = instance.dir().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).expect("a FIFO");
    // In open(2), which waits for a reader: the VM is not stopped yet, and what is no dump goes on.
    client.send_command("dump-guest-memory", &arguments(&fifo, &json!({})));
    assert!(client.message(NEVER).is_err(), "it waits");
    let mut other = connect(&instance, "other");
    other.negotiate();
    let text = refused(
        &mut other,
        "dump-guest-memory",
        arguments(&fifo, &json!({})),
    );
    assert!(text.ends_with("please wait."), "{text}");
    assert_eq!(ask(&mut other, "query-dump")["status"], "none");
    assert_eq!(ask(&mut other, "cont"), json!({}));
    assert_eq!(ask(&mut other, "stop"), json!({}));
    assert_eq!(ask(&mut other, "quit"), json!({}));
    assert_eq!(instance.wait(SOON).code(), Some(0), "{}", instance.report());
    assert!(fifo.exists());
}

fn qtest(instance: &Instance, lines: &[String]) {
    let mut qtest = instance.qtest();
    for line in lines {
        let reply = qtest.request(line).expect("an answer");
        assert!(reply.starts_with("OK"), "{line}: {reply}");
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Lets a guest that does not run write into the file of vmcoreinfo: its format, a size and an address.
fn tell(instance: &Instance, key: u16, format: u16, size: u32, address: u64) {
    let mut told = [0; 16];
    told[2..4].copy_from_slice(&format.to_le_bytes());
    told[4..8].copy_from_slice(&size.to_le_bytes());
    told[8..].copy_from_slice(&address.to_le_bytes());
    let mut request = (u32::from(key) << 16 | 8 | 16).to_be_bytes().to_vec();
    request.extend(16_u32.to_be_bytes());
    request.extend(0x2000_u64.to_be_bytes());
    qtest(
        instance,
        &[
            format!("write 0x2000 16 0x{}", hexadecimal(&told)),
            format!("write 0x1000 16 0x{}", hexadecimal(&request)),
            format!("outl 0x518 {:#x}", 0x1000_u32.swap_bytes()),
        ],
    );
}

/// The key of a file of fw_cfg.
fn key(instance: &Instance, name: &str) -> u16 {
    let mut qtest = instance.qtest();
    let mut ask = |line: &str| qtest.request(line).expect("an answer");
    ask("outw 0x510 0x19");
    let mut byte = || {
        let reply = ask("inb 0x511");
        u8::from_str_radix(reply.rsplit('x').next().expect("a number"), 16).expect("a byte")
    };
    let files = (0..4).fold(0, |count, _| count << 8 | usize::from(byte()));
    for _ in 0..files {
        let entry: Vec<u8> = (0..64).map(|_| byte()).collect();
        if entry[8..].starts_with(name.as_bytes()) && entry[8 + name.len()] == 0 {
            return u16::from_be_bytes([entry[4], entry[5]]);
        }
    }
    panic!("no {name}");
}

/// A note whose name has this size, and whose content that one, whatever there is.
fn guest_note(name: u32, content: u32, text: &str) -> Vec<u8> {
    let mut note = name.to_le_bytes().to_vec();
    note.extend(content.to_le_bytes());
    note.extend([0; 4]);
    note.extend(b"VMCOREINFO\0\0");
    note.extend(text.as_bytes());
    note.resize(note.len().next_multiple_of(4), 0);
    note
}

#[test]
fn what_the_guest_tells_of_itself_is_in_the_dump() {
    const TEXT: &str = "OSRELEASE=1\nNUMBER(phys_base)=4096\nSIZE(page)=64\n";
    const AT: u64 = 0x3000;
    let mut answers = Vec::new();
    for emulator in emulators() {
        let instance = passive(emulator)
            .args(["-device", "vmcoreinfo"])
            .with_qtest()
            .start();
        let mut client = negotiated(&instance);
        let key = key(&instance, "etc/vmcoreinfo");
        let note = guest_note(11, TEXT.len() as u32, TEXT);
        let put = |at: u64, bytes: &[u8]| {
            let line = format!("write {at:#x} {} 0x{}", bytes.len(), hexadecimal(bytes));
            qtest(&instance, &[line]);
        };
        put(AT, &note);
        let size = note.len() as u32;
        let mut told = Vec::new();
        let mut look = |what: &str| {
            let path = dump(&instance, &mut client, &json!({}));
            let notes = Elf::read(&path).notes();
            let guest: Vec<_> = notes
                .iter()
                .filter(|(name, ..)| !["CORE\0", "QEMU\0"].contains(&name.as_str()))
                .collect();
            (what.to_string(), format!("{guest:?}"))
        };
        told.push(look("nothing told"));
        assert_eq!(told[0].1, "[]");
        tell(&instance, key, 1, size, AT);
        told.push(look("all of it"));
        assert_ne!(told[1].1, "[]");
        tell(&instance, key, 1, 11, AT);
        told.push(look("too small"));
        tell(&instance, key, 1, u32::MAX, AT);
        told.push(look("too large"));
        tell(&instance, key, 2, size, AT);
        told.push(look("another format"));
        tell(&instance, key, 0, size, AT);
        told.push(look("no format"));
        // Hostile ones.
        for (name, content) in [(u32::MAX, 4), (11, u32::MAX), (1 << 20, 4), (11, 1 << 31)] {
            put(AT, &guest_note(name, content, TEXT));
            tell(&instance, key, 1, size, AT);
            told.push(look(&format!("a note of {name:#x} and {content:#x}")));
        }
        if emulator == Emulator::Thimble {
            for address in [u64::MAX, RAM as u64 - 8, 1 << 40] {
                tell(&instance, key, 1, size, address);
                assert_eq!(look("not in memory").1, "[]");
            }
        }
        put(AT, &note);
        tell(&instance, key, 1, size, AT);
        let path = dump(&instance, &mut client, &json!({"format": "kdump-zlib"}));
        let (flat, _) = kdump_pages(&path);
        let sub = &flat[4096..];
        let (at, length) = (number(sub, 32, 8) as usize, number(sub, 40, 8) as usize);
        assert_eq!(flat[at..at + length], *TEXT.as_bytes(), "{emulator:?}");
        // QEMU 7.2 makes another number of it.
        if emulator == Emulator::Thimble {
            assert_eq!(number(sub, 0, 8), 4096);
        }
        answers.push(told);
    }
    compare("commands-dump-note", &answers);
}

#[test]
fn there_is_one_vmcoreinfo() {
    let text = |emulator: Emulator| {
        let launcher = passive(emulator).args(["-device", "vmcoreinfo", "-device", "vmcoreinfo"]);
        let instance = launcher.start();
        assert_eq!(instance.wait(SOON).code(), Some(1));
        instance.stderr()
    };
    for emulator in emulators() {
        let said = text(emulator);
        assert!(
            said.contains("at most one vmcoreinfo device is permitted"),
            "{said}"
        );
    }
}

#[test]
fn the_human_monitor_says_what_qemus_says() {
    let lines = [
        "info dump",
        "dump-guest-memory",
        "dump-guest-memory -z -l {dir}/d",
        "dump-guest-memory -z -s {dir}/d",
        "dump-guest-memory -p -z {dir}/d",
        "dump-guest-memory -z {dir}/d 0 4096",
        "dump-guest-memory {dir}/d 0",
        "dump-guest-memory {dir}/none/d",
        "dump-guest-memory -l {dir}/d",
        "dump-guest-memory -R {dir}/d",
        "dump-guest-memory /dev/full",
        "info dump",
        "dump-guest-memory -p {dir}/d",
        "dump-guest-memory -z {dir}/d",
        "dump-guest-memory {dir}/d 0x1000 0x10+1",
        "info dump",
    ];
    let commands = lines.map(|line| ("human-monitor-command", json!({"command-line": line})));
    compare_answers("commands-dump-human", passive, &commands);
    let instance = passive(Emulator::Thimble).start();
    let mut client = negotiated(&instance);
    let path = file(&instance);
    let mut say = |line: String| {
        let arguments = json!({"command-line": line});
        command_with(&mut client, "human-monitor-command", arguments)
    };
    assert_eq!(
        say(format!("dump-guest-memory {} 0x1000 0x11", path.display())),
        json!("")
    );
    let elf = Elf::read(&path);
    assert_eq!(
        elf.loads()
            .map(|load| (load.physical, load.size))
            .collect::<Vec<_>>(),
        [(0x1000, 0x11)]
    );
    assert_eq!(
        say(format!("dump-guest-memory -z {}", path.display())),
        json!("")
    );
    assert!(kdump_pages(&path).1.len() > 3000);
    assert_eq!(
        say(format!("dump-guest-memory -d {}", path.display())),
        json!("")
    );
    wait_until("it ends", || {
        say("info dump".to_string()) == json!("Status: completed\r\n")
    });
    assert_eq!(Elf::read(&path).physical(0x10_0000, 16), [0; 16]);
}

/// gdb and readelf read what we write.
#[test]
fn gdb_and_readelf_read_it() {
    let (Some(gdb), Some(readelf)) = (
        packages::program("gdb", "gdb"),
        packages::program("readelf", "binutils"),
    ) else {
        return skip("there is no gdb, or no readelf");
    };
    let instance = with_rom_of_any_mode(Emulator::Thimble, &roms::paging_64()).start();
    let mut client = negotiated(&instance);
    wait_console(&instance, "P");
    let path = dump(&instance, &mut client, &json!({"paging": true}));
    let output = |command: &mut Command| {
        let output = command.output().expect("it runs");
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let text = output(Command::new(readelf).arg("-aW").arg(&path));
    for part in [
        "CORE (Core file)",
        "X86-64",
        "NT_PRSTATUS",
        "0xffff800000000000",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // The program that the core file is of is not there.
    let text = Command::new(gdb)
        .args(["-batch", "-nx", "-core"])
        .arg(&path)
        .args([
            "-ex",
            "info registers cs rflags",
            "-ex",
            "x/16cb 0xffff800000020000",
        ])
        .output()
        .expect("gdb");
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert_eq!(text.matches("65 'A'").count(), 16, "{text}");
    assert!(text.contains("cs             0x"), "{text}");
}
