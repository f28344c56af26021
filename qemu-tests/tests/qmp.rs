//! QMP side by side: the same bytes into both emulators, and the answers compared as values.
//!
//! Each case is sent on a connection of its own, followed by the parser reset byte and a command whose id ends the
//! answer. What differs by nature is made equal by [`normalise`], explicitly.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use qemu_tests::{
    Comparison, Emulator, Instance, QmpClient, ask_both, packages, program_output, skip, source_dir,
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

/// Ends the answer to a case.
const SENTINEL: &str = "the sentinel";

fn start(emulator: Emulator) -> Instance {
    emulator
        .launcher()
        .args(emulator.passive_args())
        .args(["-M", "pc", "-m", "16", "-name", "guest"])
        .args(["-uuid", "12345678-9abc-def0-1234-56789abcdef0"])
        .with_qmp()
        .start()
}

/// Makes equal what may differ between two programs: timestamps and the package's version.
fn normalise(message: &mut Value) {
    if let Some(timestamp) = message.get_mut("timestamp") {
        assert!(timestamp["seconds"].is_u64() && timestamp["microseconds"].is_u64());
        *timestamp = json!("a time");
    }
    for path in ["/QMP/version", "/return"] {
        if let Some(version) = message.pointer_mut(path) {
            if let Some(package) = version.get_mut("package") {
                assert!(package.is_string());
                *package = json!("a package");
            }
            if let Some(micro) = version.pointer_mut("/qemu/micro") {
                assert!(micro.is_u64());
                *micro = json!(0);
            }
        }
    }
}

/// Sends the pieces, and returns every message up to the sentinel's.
fn exchange(instance: &Instance, negotiate: bool, pieces: &[&[u8]]) -> Vec<Value> {
    let mut client = instance.qmp();
    if negotiate {
        client.negotiate();
    }
    for (index, piece) in pieces.iter().enumerate() {
        if index > 0 {
            std::thread::sleep(Duration::from_millis(3));
        }
        client.send_raw(piece).expect("the connection stands");
    }
    let sentinel = format!("\u{0}{{\"execute\": \"query-name\", \"id\": \"{SENTINEL}\"}}\n");
    let mut sentinel = sentinel.into_bytes();
    sentinel[0] = 0xff;
    client.send_raw(&sentinel).expect("the connection stands");
    let mut messages = Vec::new();
    loop {
        let mut message = client.message(SOON).unwrap_or_else(|error| {
            let sent: Vec<_> = pieces.iter().map(|p| String::from_utf8_lossy(p)).collect();
            panic!("after {sent:?}: {error}\n{}", instance.report())
        });
        if message["id"] == SENTINEL {
            return messages;
        }
        normalise(&mut message);
        messages.push(message);
    }
}

/// A case is bytes in a readable spelling: `|` between pieces that are sent apart, `\n`, `\r`, `\t`, `\0` and
/// `\xHH` for bytes, `\\` and `\|` for themselves. A line that starts with `!` is sent before negotiation.
fn decode(case: &str) -> Vec<Vec<u8>> {
    let mut pieces = vec![Vec::new()];
    let mut bytes = case.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'|' {
            pieces.push(Vec::new());
            continue;
        }
        let decoded = if byte == b'\\' {
            match bytes.next() {
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(b'0') => 0,
                Some(b'x') => {
                    let digits = [bytes.next(), bytes.next()].map(|digit| digit.unwrap_or(b'?'));
                    let digits = std::str::from_utf8(&digits).expect("ASCII");
                    u8::from_str_radix(digits, 16).expect("two hexadecimal digits")
                }
                Some(other) => other,
                None => panic!("a lone backslash ends {case}"),
            }
        } else {
            byte
        };
        pieces.last_mut().expect("one at least").push(decoded);
    }
    pieces
}

#[test]
fn cases_are_decoded() {
    assert_eq!(
        decode(r"a\n|\xff\\\|"),
        [b"a\n".to_vec(), b"\xff\\|".to_vec()]
    );
}

#[test]
fn the_same_bytes_get_the_same_answers() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let text = std::fs::read_to_string(source_dir().join("qmp/bytes.list")).expect("the cases");
    let instances = Emulator::BOTH.map(start);
    let mut comparison = Comparison::new("qmp-bytes");
    for line in text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
    {
        let (negotiate, case) = match line.strip_prefix('!') {
            Some(case) => (false, case),
            None => (true, line),
        };
        let pieces = decode(case);
        let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        let [qemu, thimble] = instances
            .each_ref()
            .map(|instance| Value::Array(exchange(instance, negotiate, &pieces)).to_string());
        comparison.add(line, &qemu, &thimble);
    }
    comparison.finish();
}

#[test]
fn greetings_have_the_same_shape() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let [qemu, thimble] = ask_both(|emulator| {
        let instance = start(emulator);
        let mut greeting = instance.qmp().greeting().clone();
        normalise(&mut greeting);
        greeting
    });
    assert_eq!(qemu, thimble);
}

/// Replies and events of one session, as a list that both emulators have to produce.
#[test]
fn a_session_runs_the_same() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let steps: &[(&str, Value)] = &[
        ("query-status", json!({})),
        ("query-name", json!({})),
        ("query-uuid", json!({})),
        ("query-version", json!({})),
        ("cont", json!({})),
        ("query-status", json!({})),
        ("cont", json!({})),
        ("stop", json!({})),
        ("stop", json!({})),
        ("query-status", json!({})),
        ("system_reset", json!({})),
        ("query-status", json!({})),
        (
            "pmemsave",
            json!({"val": 0, "size": 16, "filename": "{dir}/memory"}),
        ),
        (
            "pmemsave",
            json!({"val": 0, "size": 16, "filename": "{dir}/no/such"}),
        ),
        (
            "pmemsave",
            json!({"val": 0x7f00_0000_0000_u64, "size": 16, "filename": "{dir}/memory"}),
        ),
        ("pmemsave", json!({"val": 0, "size": 16})),
        ("pmemsave", json!({"val": "0", "size": 16, "filename": "x"})),
        ("quit", json!({})),
    ];
    let [qemu, thimble] = ask_both(|emulator| {
        // The guest spins in its reset vector's loop: it neither writes nor ends.
        let launcher = emulator.launcher();
        let rom = launcher.dir().join("spin.rom");
        std::fs::write(&rom, spin_rom()).expect("a file");
        let accelerator: &[&str] = match emulator {
            Emulator::Qemu => &["-accel", "tcg", "-nodefaults", "-display", "none"],
            Emulator::Thimble => &["-nodefaults", "-display", "none"],
        };
        let instance = launcher
            .args(accelerator)
            .args([
                "-S",
                "-M",
                "pc",
                "-m",
                "16",
                "-name",
                "guest",
                "-bios",
                "{dir}/spin.rom",
            ])
            .with_qmp()
            .start();
        let mut client = instance.qmp();
        client.negotiate();
        let mut log = Vec::new();
        for (command, arguments) in steps {
            let directory = instance.dir().to_str().expect("a plain path");
            let text = arguments.to_string().replace("{dir}", directory);
            let arguments: Value = serde_json::from_str(&text).expect("still JSON");
            let reply = client.execute(command, arguments);
            let mut reply = match reply {
                Ok(value) => json!({"return": value}),
                Err(error) => json!({"error": error.to_string()}),
            };
            normalise(&mut reply);
            // Events come before or after their command's reply; a pause puts them into this step.
            let mut events = Vec::new();
            while let Ok(mut event) = client.event(Duration::from_millis(150)) {
                normalise(&mut event);
                events.push(event.to_string());
            }
            let text = format!("{command}: {reply} {events:?}").replace(directory, "{dir}");
            log.push(text);
        }
        assert!(client.closed(SOON), "{}", instance.report());
        assert_eq!(instance.wait(SOON).code(), Some(0), "{}", instance.report());
        log
    });
    let mut comparison = Comparison::new("qmp-session");
    for (index, (command, arguments)) in steps.iter().enumerate() {
        comparison.add(
            &format!("{} {command} {arguments}", index + 1),
            &qemu[index],
            &thimble[index],
        );
    }
    comparison.finish();
}

/// 64 KiB of ROM whose reset vector jumps to itself.
fn spin_rom() -> Vec<u8> {
    let mut rom = vec![0xf4; 0x1_0000];
    rom[0xfff0..0xfff2].copy_from_slice(&[0xeb, 0xfe]);
    rom
}

#[test]
fn every_command_is_listed_once_and_known() {
    let thimble = start(Emulator::Thimble);
    let mut client = thimble.qmp();
    client.negotiate();
    let list = client.execute("query-commands", json!({})).expect("a list");
    let mut names: Vec<&str> = list
        .as_array()
        .expect("a list")
        .iter()
        .map(|command| command["name"].as_str().expect("a name"))
        .collect();
    for needed in [
        "qmp_capabilities",
        "query-version",
        "query-commands",
        "query-status",
        "query-name",
        "query-uuid",
        "query-kvm",
        "stop",
        "cont",
        "system_reset",
        "pmemsave",
        "quit",
    ] {
        assert!(names.contains(&needed), "{needed} is missing");
    }
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn query_kvm_tells_the_accelerator() {
    let passive = start(Emulator::Thimble);
    let mut client = passive.qmp();
    client.negotiate();
    let reply = client.execute("query-kvm", json!({})).expect("a reply");
    assert_eq!(reply["enabled"], false, "{reply}");
    assert_eq!(reply["present"], true, "{reply}");
    if !packages::kvm_usable() {
        return qemu_tests::skip_part("/dev/kvm can't be used");
    }
    let active = Emulator::Thimble
        .launcher()
        .args(["-accel", "kvm", "-S", "-nodefaults", "-display", "none"])
        .with_qmp()
        .start();
    let mut client = active.qmp();
    client.negotiate();
    let reply = client.execute("query-kvm", json!({})).expect("a reply");
    assert_eq!(reply, json!({"enabled": true, "present": true}));
}

#[test]
fn several_connections_one_after_another() {
    let thimble = start(Emulator::Thimble);
    for _ in 0..20 {
        let mut client = thimble.qmp();
        client.negotiate();
        let reply = client.execute("query-name", json!({}));
        assert_eq!(reply, Ok(json!({"name": "guest"})));
    }
    // One that leaves in the middle of a command, and one that leaves without reading its replies.
    let mut client = thimble.qmp();
    client.send_raw(b"{\"execute\": ").expect("a connection");
    drop(client);
    let mut client = thimble.qmp();
    client.negotiate();
    client.flood(b"{\"execute\": \"query-commands\"}\n");
    drop(client);
    let mut client = thimble.qmp();
    client.negotiate();
    assert!(client.execute("query-status", json!({})).is_ok());
}

#[test]
fn hostile_input_leaves_connection_and_vm_alive() {
    let thimble = start(Emulator::Thimble);
    let deep = "[".repeat(100_000);
    let long_string = format!("{{\"execute\": \"{}", "x".repeat(4 << 20));
    let many = format!("[{}", "1,".repeat(1 << 20));
    let digits = format!("{{\"id\": {}", "9".repeat(1 << 20));
    for input in [deep, long_string, many, digits] {
        let mut client = thimble.qmp();
        client.negotiate();
        client
            .send_raw(input.as_bytes())
            .expect("the connection stands");
        let mut reset = b"\xff{\"execute\": \"query-status\", \"id\": \"alive\"}".to_vec();
        reset.push(b'\n');
        client.send_raw(&reset).expect("the connection stands");
        let mut errors = 0;
        loop {
            let message = client.message(SOON).expect("a reply");
            if message["id"] == "alive" {
                assert!(message.get("return").is_some(), "{message}");
                break;
            }
            assert!(message.get("error").is_some(), "{message}");
            errors += 1;
        }
        assert!(errors > 0);
    }
}

#[test]
fn two_monitors_see_the_same_events() {
    let thimble = Emulator::Thimble
        .launcher()
        .args(Emulator::Thimble.passive_args())
        .args(["-qmp", "unix:{dir}/second.sock,server=on,wait=off"])
        .with_qmp()
        .start();
    let mut first = thimble.qmp();
    let second = thimble.dir().join("second.sock");
    let mut second = QmpClient::connect(&second, SOON).expect("the other monitor");
    first.negotiate();
    second.negotiate();
    assert_eq!(first.execute("system_reset", json!({})), Ok(json!({})));
    let [one, two] = [&mut first, &mut second].map(|client| {
        let mut event = client.wait_event("RESET", SOON);
        normalise(&mut event);
        event
    });
    assert_eq!(one, two);
    assert_eq!(
        one["data"],
        json!({"guest": false, "reason": "host-qmp-system-reset"})
    );
    // A monitor that has not negotiated hears nothing.
    drop(first);
    let mut silent = thimble.qmp();
    assert_eq!(second.execute("system_reset", json!({})), Ok(json!({})));
    second.wait_event("RESET", SOON);
    assert!(silent.message(Duration::from_millis(200)).is_err());
}

/// The Python package `qemu.qmp`, which libvirt's neighbours use, drives both emulators by one script.
#[test]
fn the_python_client_works() {
    let Some(python) = qemu_tests::python::with_qemu_qmp() else {
        return skip("the Python package qemu.qmp can't be had");
    };
    let script = source_dir().join("clients/lifecycle.py");
    let run = |emulator: Emulator| {
        let launcher = emulator.launcher();
        std::fs::write(launcher.dir().join("spin.rom"), spin_rom()).expect("a file");
        let accelerator: &[&str] = match emulator {
            Emulator::Qemu => &["-accel", "tcg"],
            Emulator::Thimble => &[],
        };
        let instance = launcher
            .args(accelerator)
            .args(["-nodefaults", "-display", "none", "-M", "pc", "-m", "16"])
            .args(["-bios", "{dir}/spin.rom"])
            .with_qmp()
            .start();
        let output = program_output(
            Command::new(&python)
                .arg(&script)
                .arg(instance.dir().join("qmp.sock"))
                .arg(instance.dir().join("memory")),
            SOON,
        );
        assert!(output.status.success(), "{output:?}\n{}", instance.report());
        assert_eq!(instance.wait(SOON).code(), Some(0), "{}", instance.report());
        String::from_utf8(output.stdout).expect("text")
    };
    let thimble = run(Emulator::Thimble);
    if packages::qemu().is_none() {
        return qemu_tests::skip_part("qemu-system-x86 is missing");
    }
    assert_eq!(run(Emulator::Qemu), thimble);
}

/// Bytes that trickle in, one at a time, make the same commands.
#[test]
fn a_byte_at_a_time() {
    let thimble = start(Emulator::Thimble);
    let mut client = thimble.qmp();
    client.negotiate();
    let path = thimble.dir().join("qmp.sock");
    let begin = Instant::now();
    for byte in b"{'execute': 'query-name', 'id': [1, {'a': null}]}" {
        client.send_raw(&[*byte]).expect("a connection");
    }
    let message = client.message(SOON).expect("a reply");
    assert_eq!(
        message,
        json!({"return": {"name": "guest"}, "id": [1, {"a": null}]})
    );
    assert!(begin.elapsed() < SOON);
    // A second client waits in the socket's queue while the first is served.
    let mut waiting = UnixStream::connect(path).expect("a queue");
    waiting.write_all(b"{}").expect("a buffer");
    assert!(client.execute("query-status", json!({})).is_ok());
}
