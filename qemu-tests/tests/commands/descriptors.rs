//! getfd, closefd, add-fd, remove-fd and query-fdsets, and what the command line does with inherited descriptors.
//!
//! What a descriptor does is seen from the other end of a pipe, which tells when nobody holds it any longer, and in /proc. Numbers that
//! descriptors have in the emulator are compared by the order in which they come up.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use qemu_tests::{Emulator, Instance, Launcher, QmpClient};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketType, socket, socketpair};
use serde_json::{Value, json};

use crate::{
    NEVER, SOON, ask, command_with, compare, connect, emulators, negotiated, out_of_band, passive,
    roms, wait_until,
};

/// A pipe: the end to read from, which does not wait, and the end to pass.
fn pipe() -> (File, OwnedFd) {
    let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
    rustix::io::ioctl_fionbio(&reader, true).expect("a pipe");
    (reader.into(), writer)
}

/// Whether nobody holds the writing end any longer.
fn closed(reader: &mut File) -> bool {
    matches!(reader.read(&mut [0]), Ok(0))
}

fn wait_closed(what: &str, reader: &mut File) {
    wait_until(what, || closed(reader));
}

/// How many descriptors for files of this name in the run's directory the emulator holds.
fn held(instance: &Instance, name: &str) -> usize {
    let path = instance.dir().join(name);
    let directory = format!("/proc/{}/fd", instance.pid().as_raw_nonzero());
    let entries = std::fs::read_dir(directory).expect("the process lives");
    entries
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter(|target| *target == path)
        .count()
}

fn text_of(result: Result<Value, qemu_tests::QmpError>) -> String {
    match result {
        Ok(value) => json!({"return": value}).to_string(),
        Err(error) => error.to_string(),
    }
}

/// Answers with the numbers of descriptors replaced by a letter for each.
#[derive(Default)]
struct Script {
    answers: Vec<(String, String)>,
    numbers: Vec<i64>,
}

impl Script {
    fn name(&mut self, number: i64) -> String {
        let known = self.numbers.iter().position(|known| *known == number);
        let index = known.unwrap_or_else(|| {
            self.numbers.push(number);
            self.numbers.len() - 1
        });
        char::from(b'A' + index as u8).to_string()
    }

    fn hide(&mut self, value: &mut Value) {
        match value {
            Value::Array(values) => values.iter_mut().for_each(|value| self.hide(value)),
            Value::Object(members) => {
                for (name, value) in members {
                    match value.as_i64() {
                        Some(number) if name == "fd" => *value = json!(self.name(number)),
                        _ => self.hide(value),
                    }
                }
            }
            _ => {}
        }
    }

    /// A command with descriptors.
    fn pass(
        &mut self,
        client: &mut QmpClient,
        command: &str,
        arguments: Value,
        fds: &[BorrowedFd<'_>],
    ) {
        let mut result = client.execute_with(command, &arguments, fds);
        if let Ok(value) = &mut result {
            self.hide(value);
        }
        let mut asked = arguments.clone();
        self.hide(&mut asked);
        let input = format!("{command} {asked} with {} descriptors", fds.len());
        let mut text = text_of(result);
        if let Some(number) = arguments["fd"].as_i64() {
            text = text.replace(&format!("fd:{number}'"), "fd:FD'");
        }
        self.answers.push((input, text));
    }

    /// A command without.
    fn ask(&mut self, client: &mut QmpClient, command: &str, arguments: Value) {
        self.pass(client, command, arguments, &[]);
    }

    /// Something that is seen.
    fn see(&mut self, what: &str, seen: impl ToString) {
        self.answers.push((what.to_string(), seen.to_string()));
    }
}

/// Runs a script on both emulators, and compares.
fn both(test: &str, launch: impl Fn(Emulator) -> Launcher, run: impl Fn(&Instance, &mut Script)) {
    let mut answers = Vec::new();
    for emulator in emulators() {
        let instance = launch(emulator).start();
        let mut script = Script::default();
        run(&instance, &mut script);
        answers.push(script.answers);
    }
    compare(test, &answers);
}

/// A machine without a guest, which "runs" from the start.
fn idle(emulator: Emulator) -> Launcher {
    let launcher = emulator.launcher().args(["-accel", "tcg"]);
    let launcher = launcher.args(["-M", "none", "-nodefaults", "-display", "none"]);
    launcher.with_qmp()
}

#[test]
fn a_descriptor_gets_a_name_and_is_closed_by_it() {
    both("getfd", passive, |instance, script| {
        let mut client = negotiated(instance);
        let client = &mut client;
        let name = |name: &str| json!({"fdname": name});
        script.ask(client, "getfd", name("a"));
        script.ask(client, "closefd", name("a"));
        let (mut reader, writer) = pipe();
        script.pass(client, "getfd", name("a"), &[writer.as_fd()]);
        drop(writer);
        // There was one only.
        script.ask(client, "getfd", name("b"));
        script.see("open", !closed(&mut reader));
        // The same name again.
        let (mut second, writer) = pipe();
        script.pass(client, "getfd", name("a"), &[writer.as_fd()]);
        drop(writer);
        wait_closed("the one that had the name", &mut reader);
        script.see("open", !closed(&mut second));
        script.ask(client, "closefd", name("b"));
        script.ask(client, "closefd", name("a"));
        wait_closed("closed by its name", &mut second);
        script.ask(client, "closefd", name("a"));

        // Names that are none, and odd ones.
        for bad in ["1", "0x", "9lives"] {
            let (mut reader, writer) = pipe();
            script.pass(client, "getfd", name(bad), &[writer.as_fd()]);
            drop(writer);
            wait_closed("of a bad name", &mut reader);
            script.ask(client, "getfd", name(bad));
            script.ask(client, "closefd", name(bad));
        }
        for odd in ["", " ", "-1", "\u{e9}\"'"] {
            let (mut reader, writer) = pipe();
            script.pass(client, "getfd", name(odd), &[writer.as_fd()]);
            drop(writer);
            script.see("open", !closed(&mut reader));
            script.ask(client, "closefd", name(odd));
            wait_closed("of an odd name", &mut reader);
        }
        for bad in [
            json!({}),
            json!({"fdname": 1}),
            json!({"fdname": "a", "x": 1}),
        ] {
            script.ask(client, "getfd", bad.clone());
            script.ask(client, "closefd", bad);
        }
    });
}

#[test]
fn of_several_descriptors_the_first_counts() {
    both("getfd several", passive, |instance, script| {
        let mut client = negotiated(instance);
        for count in [2, 16, 17, 40] {
            let (mut readers, writers): (Vec<_>, Vec<_>) = (0..count).map(|_| pipe()).unzip();
            let fds: Vec<_> = writers.iter().map(AsFd::as_fd).collect();
            script.pass(&mut client, "getfd", json!({"fdname": "a"}), &fds);
            drop(fds);
            drop(writers);
            for reader in &mut readers[1..] {
                wait_closed("another than the first", reader);
            }
            script.see("open", !closed(&mut readers[0]));
            script.ask(&mut client, "getfd", json!({"fdname": "b"}));
            script.ask(&mut client, "closefd", json!({"fdname": "a"}));
            wait_closed("the first", &mut readers[0]);
        }
    });
}

/// A descriptor waits for a command that takes one, until another message with descriptors comes, or the connection ends.
#[test]
fn a_descriptor_waits_for_its_command() {
    both("getfd later", passive, |instance, script| {
        let mut client = negotiated(instance);
        let client = &mut client;
        let (mut first, writer) = pipe();
        script.pass(client, "query-name", json!({}), &[writer.as_fd()]);
        drop(writer);
        script.see("open", !closed(&mut first));
        let (mut second, writer) = pipe();
        // An argument is missing: the command is not executed.
        script.pass(client, "getfd", json!({}), &[writer.as_fd()]);
        drop(writer);
        wait_closed("one that no command took", &mut first);
        script.pass(client, "nosuch", json!({}), &[]);
        script.ask(client, "getfd", json!({"fdname": "late"}));
        script.see("open", !closed(&mut second));

        // With white space before the command, as the `qemu.qmp` package does it.
        let (mut spaced, writer) = pipe();
        let sent = client.send_with(b" ", &[writer.as_fd()]);
        sent.expect("the connection stands");
        drop(writer);
        script.ask(client, "getfd", json!({"fdname": "late"}));
        wait_closed("the one that had the name", &mut second);
        script.see("open", !closed(&mut spaced));

        // Two messages in one go, each with its own.
        let (pipes, writers): (Vec<_>, Vec<_>) = (0..2).map(|_| pipe()).unzip();
        let [mut third, mut fourth] = <[File; 2]>::try_from(pipes).expect("two");
        for (name, writer) in ["c", "d"].iter().zip(&writers) {
            let text = json!({"execute": "getfd", "arguments": {"fdname": name}}).to_string();
            let sent = client.send_with(text.as_bytes(), &[writer.as_fd()]);
            sent.expect("the connection stands");
        }
        drop(writers);
        for _ in 0..2 {
            let reply = client.message(SOON).expect("a reply");
            script.see("reply", reply);
        }
        script.ask(client, "closefd", json!({"fdname": "c"}));
        wait_closed("the first one's", &mut third);
        script.see("open", !closed(&mut fourth));
        script.ask(client, "closefd", json!({"fdname": "d"}));
        wait_closed("the second one's", &mut fourth);

        // With the first byte of a message that comes in pieces.
        let (mut fifth, writer) = pipe();
        let text = r#"{"execute": "getfd", "arguments": {"fdname": "e"}}"#;
        let (start, end) = text.split_at(7);
        let sent = client.send_with(start.as_bytes(), &[writer.as_fd()]);
        sent.expect("the connection stands");
        drop(writer);
        std::thread::sleep(NEVER);
        client
            .send_raw(end.as_bytes())
            .expect("the connection stands");
        script.see("reply", client.message(SOON).expect("a reply"));
        script.see("open", !closed(&mut fifth));
    });
}

/// Names are the monitor's and not the connection's; what no command took is the connection's.
#[test]
fn names_outlive_the_connection() {
    let launch =
        |emulator| passive(emulator).args(["-qmp", "unix:{dir}/second.sock,server=on,wait=off"]);
    both("getfd reconnect", launch, |instance, script| {
        let mut client = negotiated(instance);
        let (mut named, writer) = pipe();
        script.pass(
            &mut client,
            "getfd",
            json!({"fdname": "a"}),
            &[writer.as_fd()],
        );
        drop(writer);
        let (mut waiting, writer) = pipe();
        script.pass(&mut client, "query-name", json!({}), &[writer.as_fd()]);
        drop(writer);
        script.see("open", !closed(&mut waiting));
        let mut other = connect(instance, "second.sock");
        other.negotiate();
        script.ask(&mut other, "getfd", json!({"fdname": "a"}));
        script.ask(&mut other, "closefd", json!({"fdname": "a"}));
        drop(client);
        wait_closed("one that no command took", &mut waiting);
        script.see("open", !closed(&mut named));
        let mut client = negotiated(instance);
        script.ask(&mut client, "getfd", json!({"fdname": "b"}));
        script.ask(&mut client, "closefd", json!({"fdname": "a"}));
        wait_closed("by another client", &mut named);
    });
}

/// With out-of-band commands, and any kind of descriptor.
#[test]
fn descriptors_of_all_kinds_come_beside_out_of_band_commands() {
    both("getfd oob", passive, |instance, script| {
        let mut client = out_of_band(instance);
        let directory = File::open("/").expect("a directory");
        let place = rustix::fs::open("/", OFlags::PATH, Mode::empty()).expect("a place");
        let (socket, _other) = UnixStream::pair().expect("sockets");
        let (reader, writer) = pipe();
        let all = [
            directory.as_fd(),
            place.as_fd(),
            socket.as_fd(),
            reader.as_fd(),
            writer.as_fd(),
        ];
        for fd in all {
            script.pass(&mut client, "getfd", json!({"fdname": "a"}), &[fd]);
            script.pass(&mut client, "add-fd", json!({"fdset-id": 1}), &[fd]);
            // Commands that come out of band may not take them.
            let text = r#"{"exec-oob": "getfd", "arguments": {"fdname": "b"}}"#;
            let sent = client.send_with(text.as_bytes(), &[fd]);
            sent.expect("the connection stands");
            script.see("reply", client.message(SOON).expect("a reply"));
            script.ask(&mut client, "getfd", json!({"fdname": "b"}));
            script.ask(&mut client, "closefd", json!({"fdname": "b"}));
        }
        script.ask(&mut client, "closefd", json!({"fdname": "a"}));
        script.ask(&mut client, "query-fdsets", json!({}));
    });
}

/// What the human monitor is told over QMP has no monitor, and no descriptors. They stay QMP's.
#[test]
fn the_human_monitor_has_its_own_descriptors() {
    both("getfd human", passive, |instance, script| {
        let mut client = negotiated(instance);
        let client = &mut client;
        let line = |line: &str| json!({"command-line": line});
        let (mut reader, writer) = pipe();
        let command = "human-monitor-command";
        script.pass(client, command, line("getfd a"), &[writer.as_fd()]);
        drop(writer);
        script.ask(client, "closefd", json!({"fdname": "a"}));
        script.ask(client, "getfd", json!({"fdname": "a"}));
        for text in ["closefd a", "closefd", "getfd", "getfd 1", "getfd a b"] {
            script.ask(client, command, line(text));
        }
        script.see("open", !closed(&mut reader));
        script.ask(client, "closefd", json!({"fdname": "a"}));
        wait_closed("by QMP", &mut reader);
    });
}

/// Thimble's own limits: descriptors with names, and in sets; their texts.
#[test]
fn there_are_limits() {
    let instance = passive(Emulator::Thimble).start();
    let mut client = negotiated(&instance);
    let file = File::create(instance.dir().join("many")).expect("a file");
    let fds = [file.as_fd()];
    for index in 0..1000 {
        let name = json!({"fdname": format!("n{index}")});
        let answer = text_of(client.execute_with("getfd", &name, &fds));
        match index {
            0..256 => assert_eq!(answer, r#"{"return":{}}"#),
            _ => assert_eq!(
                answer,
                "GenericError: No more than 256 file descriptors can have names at a time"
            ),
        }
    }
    assert_eq!(held(&instance, "many"), 256);
    let answer = client.execute_with("getfd", &json!({"fdname": "n7"}), &fds);
    assert_eq!(answer, Ok(json!({})));
    command_with(&mut client, "closefd", json!({"fdname": "n8"}));
    let long = json!({"fdname": "n".repeat(256)});
    let answer = text_of(client.execute_with("getfd", &long, &fds));
    let words = "GenericError: A file descriptor's name has at most 255 bytes";
    assert_eq!(answer, words);
    assert_eq!(held(&instance, "many"), 255);
    for index in 0..1000 {
        let answer = client.execute_with("add-fd", &json!({"fdset-id": index % 10}), &fds);
        match (index, answer) {
            (0..256, answer) => assert!(answer.is_ok()),
            (_, answer) => assert_eq!(
                text_of(answer),
                "GenericError: No more than 256 file descriptors can be in sets at a time"
            ),
        }
    }
    let long = json!({"opaque": "n".repeat(4097)});
    let answer = text_of(client.execute_with("add-fd", &long, &fds));
    let words = "GenericError: A file descriptor's opaque text has at most 4096 bytes";
    assert_eq!(answer, words);
    assert_eq!(held(&instance, "many"), 511);
    // Those that were held before may still be asked for.
    let sets = ask(&mut client, "query-fdsets");
    assert_eq!(sets.as_array().map(Vec::len), Some(10));
}

#[test]
fn sets_are_filled_listed_and_emptied() {
    both("fdsets", idle, |instance, script| {
        let mut client = negotiated(instance);
        let client = &mut client;
        let file = File::create(instance.dir().join("file")).expect("a file");
        let fds = [file.as_fd()];
        script.ask(client, "query-fdsets", json!({}));
        script.ask(client, "add-fd", json!({}));
        script.pass(client, "add-fd", json!({}), &fds);
        script.pass(client, "add-fd", json!({"opaque": "one"}), &fds);
        let two = json!({"fdset-id": 1, "opaque": "t\u{e9}\"o"});
        script.pass(client, "add-fd", two, &fds);
        script.pass(client, "add-fd", json!({"fdset-id": 7, "opaque": ""}), &fds);
        script.pass(client, "add-fd", json!({"fdset-id": i64::MAX}), &fds);
        script.pass(client, "add-fd", json!({"fdset-id": 3}), &fds);
        script.pass(client, "add-fd", json!({}), &fds);
        for bad in [
            json!({"fdset-id": -1}),
            json!({"fdset-id": i64::MIN, "opaque": "x"}),
            json!({"fdset-id": "1"}),
            json!({"opaque": 1}),
            json!({"fdset-id": 1, "fd": 1}),
        ] {
            script.pass(client, "add-fd", bad, &fds);
            script.ask(client, "add-fd", json!({"fdset-id": -1}));
        }
        script.ask(client, "query-fdsets", json!({}));
        script.see("held", held(instance, "file"));
        for bad in [
            json!({}),
            json!({"fd": 3}),
            json!({"fdset-id": 99}),
            json!({"fdset-id": -1}),
            json!({"fdset-id": "x"}),
        ] {
            script.ask(client, "remove-fd", bad);
        }
        for fd in [-1_i64, 9999, i64::MAX, i64::MIN, 0x1_0000_0000] {
            let answer = client.execute("remove-fd", json!({"fdset-id": 1, "fd": fd}));
            script.see(&format!("remove {fd}"), text_of(answer));
        }
        let fd_of = |client: &mut QmpClient, set: i64| {
            let sets = ask(client, "query-fdsets");
            let mut sets = sets.as_array().expect("a list").clone().into_iter();
            let set = sets.find(|one| one["fdset-id"] == set).expect("the set");
            set["fds"][0]["fd"].clone()
        };
        let fd = fd_of(client, 1);
        script.ask(client, "remove-fd", json!({"fdset-id": 3, "fd": fd}));
        script.ask(client, "remove-fd", json!({"fdset-id": 1, "fd": fd}));
        script.ask(client, "remove-fd", json!({"fdset-id": 1, "fd": fd}));
        script.ask(client, "query-fdsets", json!({}));
        script.ask(client, "remove-fd", json!({"fdset-id": 7}));
        script.ask(client, "remove-fd", json!({"fdset-id": 7}));
        script.ask(client, "query-fdsets", json!({}));
        script.see("held", held(instance, "file"));

        // A VM that stands still keeps what is removed.
        script.ask(client, "stop", json!({}));
        script.ask(client, "remove-fd", json!({"fdset-id": 3}));
        script.ask(client, "query-fdsets", json!({}));
        script.see("held", held(instance, "file"));
        script.ask(client, "cont", json!({}));
        script.see("held", held(instance, "file"));
        script.ask(client, "remove-fd", json!({"fdset-id": 3}));
        script.ask(client, "query-fdsets", json!({}));
        script.see("held", held(instance, "file"));
    });
}

/// Unused descriptors go when the last client does, unless the VM stands still.
#[test]
fn the_last_client_takes_unused_sets_along() {
    let launch =
        |emulator| idle(emulator).args(["-qmp", "unix:{dir}/second.sock,server=on,wait=off"]);
    both("fdsets clients", launch, |instance, script| {
        let file = File::create(instance.dir().join("file")).expect("a file");
        let fds = [file.as_fd()];
        let mut client = negotiated(instance);
        let mut other = connect(instance, "second.sock");
        other.negotiate();
        script.pass(&mut client, "add-fd", json!({}), &fds);
        drop(client);
        // The first is gone when another can come.
        let mut client = negotiated(instance);
        script.ask(&mut client, "query-fdsets", json!({}));
        script.ask(&mut client, "stop", json!({}));
        drop((client, other));
        let mut client = negotiated(instance);
        script.ask(&mut client, "query-fdsets", json!({}));
        script.ask(&mut client, "cont", json!({}));
        script.see("held", held(instance, "file"));
        drop(client);
        wait_until("closed", || held(instance, "file") == 0);
        let mut client = negotiated(instance);
        script.ask(&mut client, "query-fdsets", json!({}));
    });
}

/// What a guest says goes where the set of `-add-fd` leads, also when the set is emptied meanwhile.
#[test]
fn a_character_device_writes_to_a_set() {
    let results: Vec<_> = emulators()
        .into_iter()
        .map(|emulator| {
            let launcher = emulator.launcher();
            let path = launcher.dir().join("guest.rom");
            std::fs::write(path, roms::counter()).expect("a file");
            let mut output = rustix::fs::memfd_create("out", rustix::fs::MemfdFlags::CLOEXEC)
                .map(File::from)
                .expect("a file");
            output.write_all(b"what was there").expect("a file");
            let number = {
                // For writing only, as the device asks for it.
                let path = format!("/proc/self/fd/{}", output.as_raw_fd());
                File::options().write(true).open(path).expect("a file")
            };
            let add = format!("fd={},set=5,opaque=console", number.as_raw_fd());
            let instance = launcher
                .args(["-accel", "tcg", "-nodefaults", "-no-user-config"])
                .args(["-display", "none", "-M", "pc", "-m", "16", "-S"])
                .args(["-bios", "{dir}/guest.rom", "-add-fd", &add])
                .args(["-debugcon", "file:/dev/fdset/5"])
                .args(["-global", "isa-debugcon.iobase=0x402"])
                .with_qmp()
                .inherit(number)
                .start();
            let mut client = negotiated(&instance);
            let mut script = Script::default();
            script.ask(&mut client, "query-fdsets", json!({}));
            script.ask(&mut client, "cont", json!({}));
            script.ask(&mut client, "remove-fd", json!({"fdset-id": 5}));
            script.ask(&mut client, "query-fdsets", json!({}));
            script.ask(&mut client, "remove-fd", json!({"fdset-id": 5}));
            let gone = client.execute("remove-fd", json!({"fdset-id": 5, "fd": 3}));
            script.see("remove 3", text_of(gone));
            let mut text = String::new();
            wait_until("the guest's word", || {
                text.clear();
                output.rewind().expect("a file");
                output.read_to_string(&mut text).expect("text");
                text == "S"
            });
            script.answers
        })
        .collect();
    compare("fdsets chardev", &results);
}

/// What comes of writing the words of [`roms::pattern`] to a set's file.
fn save(client: &mut QmpClient, set: i64) -> String {
    let file = format!("/dev/fdset/{set}");
    let arguments = json!({"val": 0x1000, "size": 0x8000, "filename": file});
    text_of(client.execute("pmemsave", arguments))
}

/// Thimble takes a set's name for every file: images of guests, logs, and files that commands write.
#[test]
fn every_file_may_come_from_a_set() {
    let launcher = Emulator::Thimble.launcher();
    let directory = launcher.dir().to_path_buf();
    let rom = roms::pattern();
    let create = |name: &str| {
        let mut options = File::options();
        options.read(true).write(true).create(true);
        options.open(directory.join(name)).expect("a file")
    };
    let mut bios = create("bios");
    bios.write_all(&rom).expect("a file");
    // Its position is at its end.
    let bios_read = File::open(directory.join("bios")).expect("a file");
    let log = File::create(directory.join("log")).expect("a file");
    let console = File::create(directory.join("console")).expect("a file");
    let adds = [(&bios_read, 1), (&log, 2), (&console, 3)];
    let adds = adds.map(|(file, set)| format!("fd={},set={set}", file.as_raw_fd()));
    let instance = launcher
        .args(["-accel", "tcg", "-nodefaults", "-no-user-config"])
        .args(["-display", "none", "-M", "pc", "-m", "16"])
        .args([
            "-add-fd", &adds[0], "-add-fd", &adds[1], "-add-fd", &adds[2],
        ])
        .args([
            "-bios",
            "/dev/fdset/1",
            "-d",
            "int,in_asm",
            "-D",
            "/dev/fdset/2",
        ])
        .args(["-debugcon", "file:/dev/fdset/3"])
        .args(["-global", "isa-debugcon.iobase=0x402"])
        .with_qmp()
        .inherit(bios_read)
        .inherit(log)
        .inherit(console)
        .start();
    crate::wait_console(&instance, "W");
    let mut client = negotiated(&instance);
    let saved = File::create(directory.join("saved")).expect("a file");
    let both = create("both");
    let (socket, _other) = UnixStream::pair().expect("sockets");
    let full = File::options()
        .write(true)
        .open("/dev/full")
        .expect("a device");
    let fds = [
        (10, saved.as_fd()),
        (11, both.as_fd()),
        (12, socket.as_fd()),
        (13, full.as_fd()),
    ];
    for (set, fd) in fds {
        let added = client.execute_with("add-fd", &json!({"fdset-id": set}), &[fd]);
        assert!(added.is_ok(), "{added:?}");
    }
    let expected: Vec<u8> = (0x1000_u16..0x9000)
        .step_by(2)
        .flat_map(|offset| (offset ^ 0xa55a).to_le_bytes())
        .collect();
    // Twice: each time from the beginning.
    for _ in 0..2 {
        assert_eq!(save(&mut client, 10), r#"{"return":{}}"#);
        assert!(std::fs::read(directory.join("saved")).expect("a file") == expected);
    }
    for (set, error) in [
        (9, "No such file or directory"),
        (-1, "Invalid argument"),
        // For reading, or both.
        (1, "Permission denied"),
        (11, "Permission denied"),
        (12, "Permission denied"),
    ] {
        let words = format!("GenericError: Could not open '/dev/fdset/{set}': {error}");
        assert_eq!(save(&mut client, set), words);
    }
    let words = "GenericError: An IO error has occurred";
    assert_eq!(save(&mut client, 13), words);
    // Into a pipe, which has no beginning.
    let (mut reader, writer) = rustix::pipe::pipe()
        .map(|(r, w)| (File::from(r), w))
        .expect("a pipe");
    let added = client.execute_with("add-fd", &json!({"fdset-id": 20}), &[writer.as_fd()]);
    assert!(added.is_ok());
    drop(writer);
    let arguments = json!({"val": 0x1000, "size": 0x8000, "filename": "/dev/fdset/20"});
    client.send_command("pmemsave", &arguments);
    let mut bytes = vec![0; expected.len()];
    reader.read_exact(&mut bytes).expect("the memory");
    assert!(bytes == expected);
    assert_eq!(client.message(SOON).expect("a reply")["return"], json!({}));
    command_with(&mut client, "remove-fd", json!({"fdset-id": 20}));
    let mut end = Vec::new();
    reader.read_to_end(&mut end).expect("the end");
    assert!(end.is_empty());
    command_with(&mut client, "quit", json!({}));
    assert!(instance.wait(SOON).success());
    let log = std::fs::read_to_string(directory.join("log")).expect("a file");
    assert!(log.contains("stos"), "{log}");
}

/// The last line of what the emulator says of its command line, from the option's own words on.
fn complaint(instance: &Instance) -> String {
    assert_eq!(instance.wait(SOON).code(), Some(1), "{}", instance.report());
    let text = instance.stderr();
    let line = text.lines().last().unwrap_or_default();
    let (_, line) = line.split_once(": ").expect("a program's name");
    line.to_string()
}

type Make = fn() -> OwnedFd;

#[test]
fn what_cannot_be_inherited_is_refused() {
    let file = || File::open("/").expect("a directory");
    let mut answers = Vec::new();
    for emulator in emulators() {
        let mut script = Script::default();
        for bad in [
            "set=1",
            "fd=FD",
            "fd=0,set=1",
            "fd=2,set=1",
            "fd=999,set=1",
            "fd=99999999999,set=1",
            "fd=one,set=1",
            "fd=FD,set=one",
            "fd=FD,set=1,other=1",
        ] {
            let file = file();
            let number = file.as_raw_fd().to_string();
            let instance = idle(emulator)
                .args(["-add-fd", &bad.replace("FD", &number)])
                .inherit(file)
                .start();
            let said = complaint(&instance).replace(&format!("fd={number},"), "fd=FD,");
            script.see(bad, said.replace(&format!("fd={number}:"), "fd=FD:"));
        }
        // A set whose descriptor is of the wrong kind or mode.
        for path in [
            "/dev/fdset/1",
            "/dev/fdset/2",
            "/dev/fdset/x",
            "/dev/fdset/",
        ] {
            let file = file();
            let add = format!("fd={},set=1", file.as_raw_fd());
            let chardev = format!("file,id=c,path={path}");
            let instance = idle(emulator)
                .args(["-add-fd", &add, "-chardev", &chardev])
                .inherit(file)
                .start();
            script.see(path, complaint(&instance));
        }
        let sockets: [(&str, Make, &str); 6] = [
            ("a directory", || File::open("/").expect("it").into(), ""),
            ("a pipe", || pipe().1, ",server=on,wait=off"),
            (
                "a datagram socket",
                || socket(AddressFamily::UNIX, SocketType::DGRAM, None).expect("it"),
                ",server=on,wait=off",
            ),
            (
                "a socket without an address",
                || socket(AddressFamily::UNIX, SocketType::STREAM, None).expect("it"),
                ",server=on,wait=off",
            ),
            (
                "a connected socket",
                || {
                    let (unix, stream) = (AddressFamily::UNIX, SocketType::STREAM);
                    let flags = rustix::net::SocketFlags::CLOEXEC;
                    socketpair(unix, stream, flags, None).expect("it").0
                },
                ",server=on,wait=off",
            ),
            (
                "a client that connects again",
                || UnixStream::pair().expect("it").0.into(),
                ",reconnect=1",
            ),
        ];
        for (what, make, options) in sockets {
            let fd = make();
            let number = fd.as_raw_fd().to_string();
            let instance = idle(emulator)
                .args(["-chardev", &format!("socket,id=c,fd={number}{options}")])
                .inherit(fd)
                .start();
            let said = complaint(&instance).replace(&format!("'{number}'"), "'FD'");
            script.see(what, said.replace(&format!("fd={number}"), "fd=FD"));
        }
        for number in ["-1", "999", "name", "0x10"] {
            let chardev = format!("socket,id=c,fd={number},server=on,wait=off");
            let instance = idle(emulator).args(["-chardev", &chardev]).start();
            script.see(number, complaint(&instance));
        }
        answers.push(script.answers);
    }
    compare("inherited", &answers);
}

/// A monitor on a socket that the parent process listens on, and one on a connection that stands.
#[test]
fn monitors_on_inherited_sockets() {
    both(
        "inherited monitors",
        |emulator| {
            let launcher = emulator.launcher().args(emulator.passive_args());
            let path = launcher.dir().join("listening");
            let listener = UnixListener::bind(path).expect("a socket");
            let chardev = format!("socket,id=c,fd={},server=on,wait=off", listener.as_raw_fd());
            launcher
                .args(["-M", "none", "-chardev", &chardev])
                .args(["-mon", "chardev=c,mode=control"])
                .inherit(listener)
        },
        |instance, script| {
            for _ in 0..2 {
                let mut client = connect(instance, "listening");
                client.negotiate();
                let (mut reader, writer) = pipe();
                let name = json!({"fdname": "a"});
                script.pass(&mut client, "getfd", name.clone(), &[writer.as_fd()]);
                drop(writer);
                script.see("open", !closed(&mut reader));
                script.ask(&mut client, "closefd", name);
                wait_closed("by its name", &mut reader);
            }
        },
    );
    for emulator in emulators() {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        let chardev = format!("socket,id=c,fd={}", theirs.as_raw_fd());
        let _instance = emulator
            .launcher()
            .args(emulator.passive_args())
            .args(["-M", "none", "-chardev", &chardev])
            .args(["-mon", "chardev=c,mode=control"])
            .inherit(theirs)
            .start();
        let mut greeting = [0; 8];
        ours.set_read_timeout(Some(SOON)).expect("a socket");
        (&ours).read_exact(&mut greeting).expect("a greeting");
        assert_eq!(&greeting, b"{\"QMP\": ");
    }
}
