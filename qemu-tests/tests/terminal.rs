//! The human monitor as people and scripts have it: keys in, a screen out, side by side with QEMU; shared terminals, telnet,
//! pseudo-terminals, and clients that mean harm.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use qemu_tests::{Emulator, Instance, Launcher, packages, skip_part};
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);
const PROMPT: &str = "(qemu) ";

/// The emulators that can run here.
fn emulators() -> Vec<Emulator> {
    if packages::qemu().is_some() {
        return Emulator::BOTH.to_vec();
    }
    skip_part("qemu-system-x86 is missing");
    vec![Emulator::Thimble]
}

fn passive(emulator: Emulator) -> Launcher {
    let launcher = emulator.launcher().args(emulator.passive_args());
    launcher.args(["-M", "pc", "-m", "16"])
}

/// A client of a monitor's socket, and everything that came.
struct Client {
    socket: UnixStream,
    seen: Vec<u8>,
}

impl Client {
    fn connect(instance: &Instance, name: &str) -> Self {
        let deadline = Instant::now() + SOON;
        loop {
            match UnixStream::connect(instance.dir().join(name)) {
                Ok(socket) => {
                    socket
                        .set_read_timeout(Some(Duration::from_millis(20)))
                        .expect("a socket");
                    let seen = Vec::new();
                    return Self { socket, seen };
                }
                Err(error) => assert!(Instant::now() < deadline, "{error}: {}", instance.report()),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn types(&mut self, keys: &[u8]) {
        self.socket.write_all(keys).expect("typing");
    }

    /// Reads until what came ends like this.
    fn until(&mut self, end: &str) -> &[u8] {
        let deadline = Instant::now() + SOON;
        let mut buffer = [0; 1 << 16];
        while !self.seen.ends_with(end.as_bytes()) {
            match self.socket.read(&mut buffer) {
                Ok(0) => panic!("the end, and not {end:?}: {}", self.text()),
                Ok(count) => self.seen.extend_from_slice(&buffer[..count]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
            assert!(Instant::now() < deadline, "no {end:?}: {}", self.text());
        }
        &self.seen
    }

    /// Types what shows that everything before was seen: an empty line, and then this sum.
    fn settle(&mut self) {
        self.types(b"\rprint/d 987653+1\r");
        self.until("\r\n987654\r\n(qemu) ");
    }

    fn text(&self) -> String {
        let from = self.seen.len().saturating_sub(2000);
        String::from_utf8_lossy(&self.seen[from..]).into_owned()
    }
}

/// What a terminal shows in the end: lines without the spaces behind them. The greeting's names are left out.
fn screen(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut lines: Vec<Vec<char>> = vec![Vec::new()];
    let (mut row, mut column) = (0, 0);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\r' => column = 0,
            '\n' => {
                row += 1;
                if row == lines.len() {
                    lines.push(Vec::new());
                }
            }
            '\x1b' => {
                assert_eq!(chars.next(), Some('['));
                let mut number = String::new();
                let last = loop {
                    match chars.next().expect("a whole sequence") {
                        c @ ('0'..='9' | ';') => number.push(c),
                        c => break c,
                    }
                };
                let count = number.parse().unwrap_or(1);
                match last {
                    'C' => column += count,
                    'D' => column -= count,
                    'K' => lines[row].truncate(column),
                    'J' | 'H' => {
                        // A new screen is a new line here.
                        lines.push(Vec::new());
                        (row, column) = (lines.len() - 1, 0);
                    }
                    other => panic!("CSI {number} {other}"),
                }
            }
            c => {
                let line = &mut lines[row];
                line.resize(line.len().max(column + 1), ' ');
                line[column] = c;
                column += 1;
            }
        }
    }
    let lines = lines.into_iter().map(|line| {
        let line: String = line.into_iter().collect();
        let line = line.trim_end();
        let Some(at) = line.find(" monitor - type 'help' for more information") else {
            return line.to_string();
        };
        let (before, behind) = line.split_at(at);
        let name = before.find("QEMU").or(before.find("Thimble"));
        before[..name.expect("a name")].to_string() + "NAME" + behind
    });
    let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    lines.join("\n")
}

const MONITOR: [&str; 2] = ["-monitor", "unix:{dir}/mon,server=on,wait=off"];

#[test]
fn the_same_keys_show_the_same() {
    let scripts: [&[u8]; 16] = [
        b"abc",
        b"\r\n\n\r",
        b"print/d 1+1\ninfo history\r",
        b"p 1\rp 2\rp 1\r\x1b[A\x1b[A\x1b[A\x1b[A\x1b[B\x1bOA\x1bOB\r",
        b"p 1\r\x1b[A\x7f2\rp 9\x1b[A\x1b[B",
        b"abcdef\x1b[D\x1b[D\x1b[D\x7f\x08x\x1b[C\x1b[3~y\x01z\x05!\x1b[1~<\x1b[4~>",
        b"abcdef\x1b[1~1\x1b[4~4\x1bOH2\x1bOF3\x1bOD\x1bOC",
        b"abc def ghi\x17\x17jkl\x1b[D\x1b[D\x04",
        b"abc\x1b[D\x1b[D\x04\x0cxyz\x0c",
        b"\x7f\x08\x04\x17\x1b[D\x1b[C\x1b[3~ok",
        b"info hist\t\r",
        b"help info hist\t\x7f\x7f\r\x1b[A",
        b"watchdog_action p\to\t\r",
        b"wat\tnon\t\rzzz\t\rxx\t",
        b"watchdog_action px\x1b[D\t\x1b[C!",
        b"a\x00b\x03\x1ac\x1b[99~d\xc3\xa9",
    ];
    for keys in scripts {
        let screens: Vec<_> = emulators()
            .into_iter()
            .map(|emulator| {
                let instance = passive(emulator).args(MONITOR).start();
                let mut client = Client::connect(&instance, "mon");
                client.until(PROMPT);
                client.types(keys);
                client.settle();
                screen(&client.seen)
            })
            .collect();
        let first = &screens[0];
        assert!(first.starts_with("NAME monitor - type 'help'"), "{first}");
        assert!(screens.iter().all(|screen| screen == first), "{screens:#?}");
    }
}

#[test]
fn what_was_typed_outlives_a_connection() {
    for emulator in emulators() {
        let instance = passive(emulator).args(MONITOR).args(["-smp", "2"]).start();
        let mut client = Client::connect(&instance, "mon");
        client.until(PROMPT);
        client.types(b"print/d 5\rcpu 1\rleft over");
        client.until(match emulator {
            Emulator::Qemu => "left over\x1b[K",
            Emulator::Thimble => "left over",
        });
        drop(client);
        let mut client = Client::connect(&instance, "mon");
        client.until(PROMPT);
        client.types(b"\x1b[A\x1b[A\rinfo cpus\rinfo history\r");
        client.settle();
        let shown = screen(&client.seen);
        assert!(shown.contains("(qemu) print/d 5\n5\n"), "{shown}");
        assert!(shown.contains("\n* CPU #1"), "{shown}");
        let history = "0: 'cpu 1'\n1: 'print/d 5'\n2: 'info cpus'\n3: 'info history'\n";
        assert!(shown.contains(history), "{shown}");
    }
}

#[test]
fn each_monitor_is_one_of_its_own() {
    let instance = passive(Emulator::Thimble)
        .args(MONITOR)
        .args(["-smp", "2", "-chardev"])
        .args(["socket,id=c,path={dir}/other,server=on,wait=off"])
        .args(["-mon", "c,mode=readline"])
        .with_qmp()
        .start();
    let mut clients = ["mon", "other"].map(|name| Client::connect(&instance, name));
    for client in &mut clients {
        client.until(PROMPT);
    }
    clients[0].types(b"cpu 1\r");
    clients[0].until(PROMPT);
    for client in &mut clients {
        client.types(b"info history\rinfo cpus\r");
        client.settle();
    }
    assert!(screen(&clients[0].seen).contains("\n* CPU #1"));
    assert!(screen(&clients[1].seen).contains("\n* CPU #0"));
    // Events are QMP's.
    let mut qmp = instance.qmp();
    qmp.negotiate();
    clients[0].types(b"stop\rquit\r");
    let event = qmp.event(SOON).expect("an event");
    assert_eq!(event["event"], "SHUTDOWN", "{event}");
    assert_eq!(instance.wait(SOON).code(), Some(0));
    let shown = screen(&clients[1].seen);
    assert!(shown.ends_with(PROMPT.trim_end()), "{shown}");
}

/// Prints a mark, and from then on whatever it is told, over the first serial port.
const ECHO: &[u8] = &[
    0xba, 0xf8, 0x03, 0xb0, b'!', 0xee, // out 0x3f8, '!'
    0xba, 0xfd, 0x03, // mov dx, 0x3fd
    0xec, // in al, dx
    0xa8, 0x01, // test al, 1
    0x74, 0xfb, // jz to the in
    0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xec, 0xee, // in al, dx; out dx, al
    0xeb, 0xf1, // jmp to the start of the loop
];

/// An emulator whose guest echoes what its serial port hears.
fn echoing(emulator: Emulator) -> Launcher {
    let mut rom = vec![0xf4; 0x1_0000];
    rom[..ECHO.len()].copy_from_slice(ECHO);
    rom[0xfff0..0xfff3].copy_from_slice(&[0xe9, 0x0d, 0x00]);
    let launcher = emulator.launcher();
    std::fs::write(launcher.dir().join("echo.rom"), rom).expect("a file");
    let accelerator = match emulator {
        Emulator::Qemu => "tcg",
        Emulator::Thimble => packages::accelerator(),
    };
    launcher
        .args(["-accel", accelerator, "-M", "pc", "-m", "16"])
        .args(["-bios", "{dir}/echo.rom", "-display", "none"])
}

/// A terminal: the side that a user types on, and the side for the emulator.
fn terminal() -> (std::fs::File, Stdio) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&user).expect("a terminal");
    unlockpt(&user).expect("a terminal");
    let name = ptsname(&user, Vec::new()).expect("a name");
    let mut options = std::fs::File::options();
    let emulator = options
        .read(true)
        .write(true)
        .open(name.to_str().expect("a plain name"))
        .expect("the other side");
    (user.into(), emulator.into())
}

/// Types on a terminal, waiting after each piece for the text that it brings, and returns all that was shown.
fn on_a_terminal(launcher: Launcher, script: &[(&[u8], &str)]) -> (Instance, String) {
    let (mut user, emulator) = terminal();
    let instance = launcher.input(emulator).start();
    let mut seen = 0;
    for (keys, text) in script {
        user.write_all(keys).expect("typing");
        let deadline = Instant::now() + SOON;
        loop {
            let output = instance.stdout();
            let fresh = String::from_utf8_lossy(&output[seen..]).into_owned();
            if let Some(at) = fresh.find(text) {
                // No character is cut: texts are ASCII, and so is what comes before.
                seen += at + text.len();
                break;
            }
            assert!(
                Instant::now() < deadline,
                "{text:?} after {:?}: {fresh:?}\n{}",
                String::from_utf8_lossy(keys),
                instance.report()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let output = instance.stdout();
    // The terminal is held until now: without it, the emulator would see its input's end.
    drop(user);
    (instance, String::from_utf8_lossy(&output).into_owned())
}

#[test]
fn a_guest_and_a_monitor_share_a_terminal() {
    let mut screens = Vec::new();
    for emulator in emulators() {
        for options in [
            &["-nodefaults", "-serial", "mon:stdio"][..],
            &["-nographic", "-vga", "none", "-net", "none"],
            &[
                "-nodefaults",
                "-chardev",
                "stdio,id=c,mux=on",
                "-mon",
                "c",
                "-serial",
                "chardev:c",
            ],
            &["-nodefaults", "-serial", "mon:stdio", "-echr", "0x14"],
        ] {
            let key = if options.contains(&"0x14") { 0x14 } else { 1 };
            let escaped = |byte| [key, byte];
            let script: [(&[u8], &str); 11] = [
                (b"", "!"),
                (b"hello", "hello"),
                (&escaped(b'c'), "(qemu) "),
                (b"p 6*7\r", "0x2a\r\n(qemu) "),
                (b"left over", "left over"),
                (&escaped(b'c'), "\r\n"),
                (b"again", "again"),
                (&escaped(key), "\x01"),
                (&escaped(b'b'), "\0"),
                (&escaped(b'c'), "(qemu) "),
                (b"info history\r", "(qemu) "),
            ];
            let mut script = script.to_vec();
            let sent = [key];
            let sent = std::str::from_utf8(&sent).expect("ASCII");
            script[7].1 = sent;
            let launcher = echoing(emulator).args(options);
            let (instance, shown) = on_a_terminal(launcher, &script);
            drop(instance);
            // QEMU shows each line of its monitor's again for each key.
            let shown = screen(shown.as_bytes()).replace(char::from(key), "^");
            screens.push((options, shown));
        }
    }
    let (_, first) = &screens[0];
    assert!(first.starts_with("!hello"), "{first}");
    for (options, shown) in &screens {
        assert_eq!(shown, first, "{options:?}");
    }
}

#[test]
fn commands_of_the_escape_key() {
    let launcher = echoing(Emulator::Thimble).args(["-nodefaults", "-serial", "mon:stdio"]);
    let (instance, shown) = on_a_terminal(
        launcher,
        &[
            (b"", "!"),
            (b"\x01h", "C-a c"),
            (b"\x01s\x01?", "C-a C-a"),
            (b"\x01ta\nb\n", "] b\n"),
            (b"\x01tc\nd\n", "c\nd\n"),
            (b"\x01x", "terminated"),
        ],
    );
    assert_eq!(instance.wait(SOON).code(), Some(0));
    assert!(shown.contains("a\n[00:00:0"), "{shown:?}");
}

#[test]
fn monitors_are_where_they_are_asked_for() {
    for (options, first) in [
        (&["-nodefaults", "-monitor", "stdio"][..], PROMPT),
        (
            &["-nodefaults", "-chardev", "stdio,id=c", "-mon", "c"],
            PROMPT,
        ),
        (&["-nographic", "-serial", "null"], PROMPT),
        // The guest has the terminal alone.
        (&["-nographic", "-monitor", "none"], "!"),
        (&["-nographic", "-qmp", "null"], "!"),
        (
            &[
                "-nographic",
                "-monitor",
                "unix:{dir}/mon,server=on,wait=off",
            ],
            "!",
        ),
    ] {
        for emulator in emulators() {
            let launcher = echoing(emulator).args(options);
            let (instance, shown) = on_a_terminal(launcher, &[(b"", first)]);
            drop(instance);
            assert_eq!(
                shown.contains(PROMPT),
                first == PROMPT,
                "{options:?}: {shown}"
            );
        }
    }
}

#[test]
fn a_monitor_by_telnet() {
    let mut talks = Vec::new();
    for emulator in emulators() {
        let instance = passive(emulator)
            .args([
                "-chardev",
                "socket,id=c,path={dir}/telnet,server=on,wait=off,telnet=on",
            ])
            .args(["-mon", "c"])
            .start();
        let mut client = Client::connect(&instance, "telnet");
        client.until(PROMPT);
        let (offer, rest) = client.seen.split_at(12);
        let offer = offer.to_vec();
        client.seen = rest.to_vec();
        // Confirmations, and functions that mean nothing.
        client.types(
            b"\xff\xfd\x01\xff\xfd\x03\xff\xfd\x00\xff\xfb\x00print/d 1\xff\xf1\xff\xff\x7f+1\r",
        );
        if emulator == Emulator::Thimble {
            client.settle();
            // A byte of 255 is one on the screen, too.
            assert!(client.seen.windows(2).any(|pair| pair == [0xff, 0xff]));
            let mut halves = 0;
            client.seen.retain(|byte| {
                halves = if *byte == 0xff { halves + 1 } else { 0 };
                halves != 2
            });
            let shown = screen(&client.seen);
            assert!(shown.contains("print/d 1+1\n2\n"), "{shown}");
        }
        talks.push(offer);
    }
    assert!(talks.iter().all(|talk| *talk == talks[0]), "{talks:?}");
}

#[test]
fn a_monitor_on_a_pseudo_terminal() {
    let instance = passive(Emulator::Thimble).args(["-monitor", "pty"]).start();
    assert!(
        instance.wait_stdout("(label compat_monitor0)\n", SOON),
        "{}",
        instance.report()
    );
    let text = String::from_utf8(instance.stdout()).expect("text");
    let note = text
        .strip_prefix("char device redirected to ")
        .expect("the note");
    let path = note.split(' ').next().expect("a path");
    let mut options = std::fs::File::options();
    let mut user = options
        .read(true)
        .write(true)
        .open(path)
        .expect("a terminal");
    let mut seen = Vec::new();
    let mut read_until = |user: &mut std::fs::File, end: &str| {
        while !seen.ends_with(end.as_bytes()) {
            let mut buffer = [0; 256];
            let count = user.read(&mut buffer).expect("text");
            seen.extend_from_slice(&buffer[..count]);
        }
    };
    read_until(&mut user, PROMPT);
    user.write_all(b"print/d 1+1\r").expect("typing");
    read_until(&mut user, "\r\n2\r\n(qemu) ");
    user.write_all(b"quit\r").expect("typing");
    assert_eq!(instance.wait(SOON).code(), Some(0));
}

#[test]
fn pretty_replies() {
    let mut answers = Vec::new();
    for emulator in emulators() {
        for options in [
            &["-qmp-pretty", "unix:{dir}/pretty,server=on,wait=off"][..],
            &[
                "-chardev",
                "socket,id=c,path={dir}/pretty,server=on,wait=off",
                "-mon",
                "c,mode=control,pretty=on",
            ],
        ] {
            let instance = passive(emulator).args(options).start();
            let mut client = Client::connect(&instance, "pretty");
            client.until("\r\n}\r\n");
            client.types(b"{'execute':'qmp_capabilities'}");
            client.until("{\r\n    }\r\n}\r\n");
            client.seen.clear();
            client.types(b"{'execute':'query-status','id':[{},[],'{[,:]}']}");
            client.types(b"{'execute':'query-version','arguments':{'a':1}}");
            client.types(b"{'execute':'query-fdsets','id':'last'}");
            // The id is first in an error, and last elsewhere.
            let deadline = Instant::now() + SOON;
            while !client.text().contains("\"last\"") || !client.text().ends_with("\n}\r\n") {
                assert!(Instant::now() < deadline, "{}", client.text());
                client.until("}\r\n");
                let mut more = [0; 256];
                if let Ok(count) = client.socket.read(&mut more) {
                    client.seen.extend_from_slice(&more[..count]);
                }
            }
            let text = client.text();
            let stream = serde_json::Deserializer::from_str(&text).into_iter();
            let values: Vec<serde_json::Value> = stream.map(|value| value.expect("JSON")).collect();
            assert_eq!(values[0]["return"]["running"], json!(false));
            // Members may be in another order.
            let mut lines: Vec<_> = text
                .split("\r\n")
                .map(|line| line.trim_end_matches(','))
                .filter(|line| !line.contains("last"))
                .map(str::to_string)
                .collect();
            lines.sort();
            answers.push(lines);
        }
    }
    assert!(
        answers.iter().all(|lines| *lines == answers[0]),
        "{answers:#?}"
    );
}

#[test]
fn clients_that_mean_harm() {
    let instance = passive(Emulator::Thimble)
        .args(MONITOR)
        .args(["-monitor", "unix:{dir}/second,server=on,wait=off"])
        .with_qmp()
        .start();
    let mut qmp = instance.qmp();
    qmp.negotiate();
    let mut client = Client::connect(&instance, "mon");
    client.until(PROMPT);
    // A line without end, and bytes of all kinds.
    let mut noise: Vec<u8> = (0..=255_u8)
        .filter(|byte| !b"\r\n\t".contains(byte))
        .collect();
    noise.extend(vec![b'x'; 1 << 20]);
    let mut writer = client.socket.try_clone().expect("a descriptor");
    let typing = std::thread::spawn(move || writer.write_all(&noise).expect("typing"));
    let mut buffer = [0; 1 << 16];
    while !typing.is_finished() {
        let _ = client.socket.read(&mut buffer);
    }
    typing.join().expect("typed");
    client.settle();
    // Commands with long answers that nobody reads: the others are served.
    let mut deaf = Client::connect(&instance, "second");
    deaf.until(PROMPT);
    deaf.socket.set_nonblocking(true).expect("a socket");
    let deadline = Instant::now() + SOON;
    while deaf.socket.write(b"xp/50000xb 0\r").is_ok() {
        assert!(Instant::now() < deadline, "everything is taken");
    }
    for _ in 0..10 {
        assert!(qmp.execute("query-status", json!({})).is_ok());
        client.settle();
    }
    // Its answers are whole once it reads.
    deaf.socket.set_nonblocking(false).expect("a socket");
    deaf.seen.clear();
    let last = "000000000000c348: 0x";
    while !deaf.text().contains(last) {
        assert!(deaf.seen.len() < 1 << 22, "no end of {}", deaf.text());
        let count = deaf.socket.read(&mut buffer).unwrap_or_default();
        deaf.seen.extend_from_slice(&buffer[..count]);
        assert!(Instant::now() < deadline, "no end of {}", deaf.text());
    }
    drop(deaf);
    drop(client);
    let mut client = Client::connect(&instance, "second");
    client.until(PROMPT);
    client.types(b"\x04\x1b[q\r");
    client.until(PROMPT);
    client.types(b"xp/999999xb 0\r");
    client.until("Error: The reply is larger than the output limit (4194304 bytes)\r\n(qemu) ");
    client.types(b"quit\rquit\r");
    assert_eq!(instance.wait(SOON).code(), Some(0));
}
