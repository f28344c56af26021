//! Every QMP command's real effect, by one script on both emulators where QEMU 7.2 has the command.
//!
//! A command that only answered success would be noticed here: files hold what the guest's memory holds, guests count or stand
//! still, handlers run, processes end, connections drop, options appear where the command line has them. Answers are compared with
//! QEMU's, word for word where they are errors; what must differ is in `differences.list`.
//!
//! Guests are small ROMs: see [`roms`]. Thimble runs them with KVM or, as `THIMBLE_ACCEL` says, with its software CPU, QEMU
//! with its own.

mod bad_storage;
mod block;
mod block_human;
mod block_nodes;
mod clock;
mod crate_types;
mod descriptors;
mod disk_failures;
mod disk_properties;
mod disk_threads;
mod disks;
mod dump;
mod human;
mod identity;
mod input;
mod logs;
mod memory;
mod objects;
mod pci;
mod power;
mod processors;
mod roms;
mod schema;
mod sessions;
mod sleep;
mod throttle;
mod trace;
mod trays;
mod user_objects;
mod wire;

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use qemu_tests::{Comparison, Emulator, Instance, Launcher, QmpClient, packages, skip_part};
use serde_json::{Value, json};

/// How long anything may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// How long one waits for what must not come.
pub(crate) const NEVER: Duration = Duration::from_millis(200);

/// The emulators that can run here: QEMU first, or Thimble alone where QEMU can't be had.
pub(crate) fn emulators() -> Vec<Emulator> {
    if packages::qemu().is_some() {
        return Emulator::BOTH.to_vec();
    }
    skip_part("qemu-system-x86 is missing");
    vec![Emulator::Thimble]
}

/// An emulator whose devices stand and whose guest never runs: a pc of 16 MiB, unless the options say otherwise.
pub(crate) fn passive(emulator: Emulator) -> Launcher {
    let launcher = emulator.launcher().args(emulator.passive_args());
    launcher.args(["-M", "pc", "-m", "16"]).with_qmp()
}

/// An emulator that can run this ROM: a pc of 16 MiB with a debug console into `{dir}/console`.
pub(crate) fn with_rom(emulator: Emulator, rom: &[u8]) -> Launcher {
    with_rom_under(emulator, rom, packages::accelerator())
}

/// The same for a ROM with a processor mode that KVM on this host may not run: the software CPU does then.
pub(crate) fn with_rom_of_any_mode(emulator: Emulator, rom: &[u8]) -> Launcher {
    let under = match emulator {
        Emulator::Thimble if !memory::runs_here(rom) => "tcg",
        _ => packages::accelerator(),
    };
    with_rom_under(emulator, rom, under)
}

/// The same with a choice of what Thimble runs it with.
pub(crate) fn with_rom_under(emulator: Emulator, rom: &[u8], accelerator: &str) -> Launcher {
    let launcher = emulator.launcher();
    std::fs::write(launcher.dir().join("guest.rom"), rom).expect("a file");
    launcher
        .args(match emulator {
            Emulator::Qemu => ["-accel", "tcg"],
            Emulator::Thimble => ["-accel", accelerator],
        })
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-M", "pc", "-m", "16", "-bios", "{dir}/guest.rom"])
        .args(["-debugcon", "file:{dir}/console"])
        .args(["-global", "isa-debugcon.iobase=0x402"])
        .with_qmp()
}

/// A client of the emulator's first monitor, past negotiation.
pub(crate) fn negotiated(instance: &Instance) -> QmpClient {
    let mut client = instance.qmp();
    client.negotiate();
    client
}

/// A client of the monitor at this socket of the run's own directory.
pub(crate) fn connect(instance: &Instance, socket: &str) -> QmpClient {
    let path = instance.dir().join(socket);
    QmpClient::connect(&path, SOON)
        .unwrap_or_else(|error| panic!("no connection: {error}\n{}", instance.report()))
}

/// A client with out-of-band execution.
pub(crate) fn out_of_band(instance: &Instance) -> QmpClient {
    let mut client = instance.qmp();
    let reply = client.execute("qmp_capabilities", json!({"enable": ["oob"]}));
    assert_eq!(reply, Ok(json!({})));
    client
}

/// A JSON object with more members, which take the place of those that it has.
pub(crate) fn with(mut object: Value, more: Value) -> Value {
    let members = object.as_object_mut().expect("members");
    members.extend(more.as_object().expect("members").clone());
    object
}

/// A command without arguments that has to succeed.
pub(crate) fn ask(client: &mut QmpClient, command: &str) -> Value {
    command_with(client, command, json!({}))
}

/// A command that has to succeed.
pub(crate) fn command_with(client: &mut QmpClient, command: &str, arguments: Value) -> Value {
    client
        .execute(command, arguments.clone())
        .unwrap_or_else(|error| panic!("{command} {arguments}: {error}"))
}

/// A command that has to fail: the error's class and sentence.
pub(crate) fn refused(client: &mut QmpClient, command: &str, arguments: Value) -> String {
    match client.execute(command, arguments.clone()) {
        Ok(value) => panic!("{command} {arguments} succeeds: {value}"),
        Err(error) => error.to_string(),
    }
}

/// A command's answer as text, whether success or error; `{dir}` in place of the run's own directory, in what is sent as in what
/// comes back.
pub(crate) fn answer(
    instance: &Instance,
    client: &mut QmpClient,
    command: &str,
    arguments: &Value,
) -> String {
    let directory = instance.dir().to_str().expect("a plain path");
    let text = arguments.to_string().replace("{dir}", directory);
    let arguments = serde_json::from_str(&text).expect("still JSON");
    let text = match client.execute(command, arguments) {
        Ok(value) => json!({"return": value}).to_string(),
        Err(error) => error.to_string(),
    };
    text.replace(directory, "{dir}")
}

/// The run state.
pub(crate) fn status(client: &mut QmpClient) -> String {
    let reply = ask(client, "query-status");
    let status = reply["status"].as_str().expect("a name").to_string();
    assert_eq!(reply["running"], status == "running", "{reply}");
    status
}

/// Waits until `done`.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What the guest has printed.
pub(crate) fn console(instance: &Instance) -> String {
    std::fs::read_to_string(instance.dir().join("console")).unwrap_or_default()
}

/// Waits until the guest has printed exactly this.
pub(crate) fn wait_console(instance: &Instance, text: &str) {
    let deadline = Instant::now() + SOON;
    while console(instance) != text {
        let printed = console(instance);
        assert!(
            Instant::now() < deadline,
            "{printed} and not {text}\n{}",
            instance.report()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Guest memory by physical address.
pub(crate) fn physical(
    instance: &Instance,
    client: &mut QmpClient,
    address: i64,
    size: usize,
) -> Vec<u8> {
    let file = instance.dir().join("physical");
    let arguments = json!({"val": address, "size": size, "filename": file.to_str()});
    assert_eq!(command_with(client, "pmemsave", arguments), json!({}));
    let bytes = std::fs::read(&file).expect("the file");
    std::fs::remove_file(&file).expect("the file");
    assert_eq!(bytes.len(), size);
    bytes
}

/// A doubleword of guest memory.
pub(crate) fn doubleword(instance: &Instance, client: &mut QmpClient, address: i64) -> u32 {
    let bytes = physical(instance, client, address, 4);
    u32::from_le_bytes(bytes.try_into().expect("four bytes"))
}

/// Whether the doubleword at 500h, where guests count, moves.
pub(crate) fn counts(instance: &Instance, client: &mut QmpClient) -> bool {
    let before = doubleword(instance, client, 0x500);
    let deadline = Instant::now() + NEVER;
    while Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
        if doubleword(instance, client, 0x500) != before {
            return true;
        }
    }
    false
}

/// Events without their times, until none comes for a while.
pub(crate) fn events(client: &mut QmpClient) -> Vec<Value> {
    let mut seen = Vec::new();
    while let Ok(event) = client.event(NEVER) {
        assert!(event["timestamp"]["seconds"].is_u64(), "{event}");
        seen.push(json!([event["event"], event["data"]]));
    }
    seen
}

/// Compares what both emulators answered: each a list of input and answer, with the same inputs.
pub(crate) fn compare(test: &str, answers: &[Vec<(String, String)>]) {
    let [qemu, thimble] = answers else {
        return;
    };
    let mut comparison = Comparison::new(test);
    assert_eq!(qemu.len(), thimble.len());
    for ((input, qemu), (same, thimble)) in qemu.iter().zip(thimble) {
        assert_eq!(input, same);
        comparison.add(input, qemu, thimble);
    }
    comparison.finish();
}

/// Sends these commands to one monitor of each emulator and compares the answers.
pub(crate) fn compare_answers(
    test: &str,
    launch: impl Fn(Emulator) -> Launcher,
    commands: &[(&str, Value)],
) -> Vec<Vec<(String, String)>> {
    let mut answers = Vec::new();
    for emulator in emulators() {
        let instance = launch(emulator).start();
        let mut client = negotiated(&instance);
        let asked = commands.iter().map(|(command, arguments)| {
            let text = answer(&instance, &mut client, command, arguments);
            (format!("{command} {arguments}"), text)
        });
        answers.push(asked.collect());
    }
    compare(test, &answers);
    answers
}

/// Whether the other end has closed this connection; what it sent before is dropped.
pub(crate) fn ends(stream: &mut UnixStream, timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    let mut buffer = [0; 4096];
    stream.set_read_timeout(Some(NEVER)).expect("a socket");
    while Instant::now() < deadline {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return true,
            _ => {}
        }
    }
    false
}

/// The file's content, or `None` where there is no such file.
pub(crate) fn content(path: &Path) -> Option<Vec<u8>> {
    std::fs::read(path).ok()
}
