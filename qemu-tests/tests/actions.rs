//! What is done when the guest resets, powers off, panics, lets its watchdog expire or sets its clock: small ROMs
//! under both emulators, and what a client sees.

use std::time::{Duration, Instant};

use qemu_tests::{
    Emulator, Instance, Launcher, QmpClient, ask_both, connection_closed, packages, skip,
    thimble_binary,
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

/// After so long nothing more is expected.
const QUIET: Duration = Duration::from_millis(400);

/// Where guests count.
const COUNT: u64 = 0x500;

const IB700: [&str; 2] = ["-device", "ib700"];
const PVPANIC: [&str; 2] = ["-device", "pvpanic"];
const PVPANIC_PCI: [&str; 2] = ["-device", "pvpanic-pci"];
const I6300ESB: [&str; 2] = ["-device", "i6300esb"];

/// Real-mode code that lets the first PCI device that is plugged in, at slot 2, have its first range of memory at
/// A0000h, and ES point there.
fn placed() -> Vec<u8> {
    let mut code = Vec::new();
    for (register, value) in [(0x10, 0xa_0000), (0x04, 2)] {
        code.extend(configured(register, value));
    }
    code.extend([0xb8, 0x00, 0xa0, 0x8e, 0xc0]); // mov ax, 0xa000; mov es, ax
    code
}

/// Real-mode code that sets a register of that device: `mov dx, port; mov eax, value; out dx, eax` twice.
fn configured(register: u8, value: u32) -> Vec<u8> {
    let address = 0x8000_1000 | u32::from(register);
    let mut code = Vec::new();
    for (port, value) in [(0xf8, address), (0xfc, value)] {
        code.extend([0xba, port, 0x0c, 0x66, 0xb8]);
        code.extend(value.to_le_bytes());
        code.extend([0x66, 0xef]);
    }
    code
}

/// `mov byte [es:at], value`
fn stored(at: u8, value: u8) -> [u8; 6] {
    [0x26, 0xc6, 0x06, at, 0, value]
}

/// `mov dx, port; mov al, value; out dx, al` for each.
fn outs(writes: &[(u16, u8)]) -> Vec<u8> {
    let one = |&(port, value): &(u16, u8)| {
        let [low, high] = port.to_le_bytes();
        [0xba, low, high, 0xb0, value, 0xee]
    };
    writes.iter().flat_map(one).collect()
}

/// Real-mode code that runs `body` at the first boot only, and counts at [`COUNT`] for ever after it.
fn guest(body: &[u8]) -> Vec<u8> {
    let skip = u8::try_from(5 + body.len()).expect("a short body");
    let mut code = vec![
        0x31, 0xc0, // xor ax, ax
        0x8e, 0xd8, // mov ds, ax
        0x80, 0x3e, 0x00, 0x06, 0x5a, // cmp byte [0x600], 0x5a
        0x74, skip, // je behind the body
        0xc6, 0x06, 0x00, 0x06, 0x5a, // mov byte [0x600], 0x5a
    ];
    code.extend_from_slice(body);
    code.extend_from_slice(&[
        0x66, 0xff, 0x06, 0x00, 0x05, // inc dword [0x500]
        0xeb, 0xf9, // jmp to the inc
    ]);
    code
}

/// A run of a ROM that holds this code, stopped at its start.
fn stopped(emulator: Emulator, code: &[u8], options: &[&str]) -> Instance {
    let mut rom = vec![0xf4; 0x1_0000];
    rom[..code.len()].copy_from_slice(code);
    rom[0xfff0..0xfff3].copy_from_slice(&[0xe9, 0x0d, 0x00]);
    let accel = match emulator {
        Emulator::Qemu => "tcg",
        Emulator::Thimble => packages::accelerator(),
    };
    let launcher: Launcher = emulator.launcher();
    std::fs::write(launcher.dir().join("test.rom"), rom).expect("a file");
    launcher
        .args(["-nodefaults", "-display", "none", "-M", "pc", "-m", "16"])
        .args(["-accel", accel, "-bios", "{dir}/test.rom", "-S"])
        .args(options)
        .with_qmp()
        .start()
}

fn negotiated(instance: &Instance) -> QmpClient {
    let mut client = instance.qmp();
    client.negotiate();
    client
}

/// Whether these tests can run.
fn possible() -> bool {
    assert!(thimble_binary().is_file());
    let possible = packages::qemu().is_some();
    if !possible {
        skip("qemu-system-x86 is missing");
    }
    possible
}

fn status(client: &mut QmpClient) -> Value {
    client.execute("query-status", json!({})).expect("a status")
}

fn count(instance: &Instance, client: &mut QmpClient) -> u32 {
    let file = instance.dir().join("memory");
    let arguments = json!({"val": COUNT, "size": 4, "filename": file.to_str()});
    assert_eq!(client.execute("pmemsave", arguments), Ok(json!({})));
    let bytes = std::fs::read(&file).expect("the file");
    u32::from_le_bytes(bytes.try_into().expect("four bytes"))
}

/// Whether the guest counts, as opposed to standing still.
fn counts(instance: &Instance, client: &mut QmpClient) -> bool {
    let before = count(instance, client);
    let deadline = Instant::now() + Duration::from_secs(1);
    while Instant::now() < deadline {
        if count(instance, client) != before {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// An event without its time.
fn bare(event: &Value) -> Value {
    match event.get("data") {
        Some(data) => json!([event["event"], data]),
        None => json!([event["event"]]),
    }
}

/// Events up to `main`, and those that follow within [`QUIET`]; and whether the connection has ended with them.
fn events(client: &mut QmpClient, main: &str) -> (Vec<Value>, bool) {
    let mut seen = Vec::new();
    let deadline = Instant::now() + SOON;
    let mut patience = SOON;
    loop {
        match client.event(patience) {
            Ok(event) => {
                if event["event"] == main {
                    patience = QUIET;
                }
                seen.push(bare(&event));
            }
            Err(error) => return (seen, connection_closed(&error)),
        }
        assert!(Instant::now() < deadline, "no end of events: {seen:?}");
    }
}

/// Events until none comes for so long; and whether the connection has ended with them.
fn events_within(client: &mut QmpClient, quiet: Duration) -> (Vec<Value>, bool) {
    let mut seen = Vec::new();
    loop {
        match client.event(quiet) {
            Ok(event) => seen.push(bare(&event)),
            Err(error) => return (seen, connection_closed(&error)),
        }
    }
}

/// Everything that a client sees of a guest after `commands`, up to `main` and on: events; then the status, whether
/// the guest runs, what `cont` says, and the same again after it and after a reset; or the exit status of the process.
fn story(
    emulator: Emulator,
    code: &[u8],
    options: &[&str],
    commands: &[(&str, Value)],
    main: &str,
) -> Value {
    let instance = stopped(emulator, code, options);
    let mut client = negotiated(&instance);
    for (command, arguments) in commands {
        assert_eq!(client.execute(command, arguments.clone()), Ok(json!({})));
    }
    assert_eq!(client.execute("cont", json!({})), Ok(json!({})));
    let (mut told, ended) = events(&mut client, main);
    if ended {
        let code = instance.wait(SOON).code();
        return json!({"events": told, "exit": code});
    }
    let status_after = |client: &mut QmpClient| json!([status(client), counts(&instance, client)]);
    let mut later = vec![status_after(&mut client)];
    for command in ["cont", "system_reset"] {
        let reply = client.execute(command, json!({}));
        later.push(match reply {
            Ok(value) => value,
            Err(error) => json!(error.to_string()),
        });
        later.push(status_after(&mut client));
    }
    told.extend(events_within(&mut client, Duration::from_millis(50)).0);
    assert_eq!(client.execute("quit", json!({})), Ok(json!({})));
    let code = instance.wait(SOON).code();
    json!({"events": told, "later": later, "exit": code})
}

/// Compares the story of one ROM under several settings, each as long as options of one word.
fn compare(code: &[u8], device: &[&str], settings: &[&str], main: &str) {
    let mut failures = Vec::new();
    for setting in settings {
        let mut options = device.to_vec();
        options.extend(setting.split_whitespace());
        let [qemu, thimble] = ask_both(|emulator| story(emulator, code, &options, &[], main));
        if qemu != thimble {
            failures.push(format!("{setting}:\nqemu    {qemu}\nthimble {thimble}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn every_watchdog_action_does_what_it_says() {
    if !possible() {
        return;
    }
    let settings = [
        "",
        "-action watchdog=reset",
        "-watchdog-action shutdown",
        "-action watchdog=poweroff",
        "-action watchdog=poweroff,shutdown=pause",
        "-watchdog-action pause",
        "-action watchdog=debug",
        "-action watchdog=none",
        // With LINT1 masked, as it is after power-on, nothing reaches a processor.
        "-action watchdog=inject-nmi",
        "-action watchdog=reset,reboot=shutdown",
        "-action watchdog=reset -no-reboot -no-shutdown",
    ];
    compare(
        &guest(&outs(&[(0x443, 0x0f)])),
        &IB700,
        &settings,
        "WATCHDOG",
    );
}

/// Lets the PCI watchdog count, with some milliseconds for both stages.
fn late() -> Vec<u8> {
    let mut code = placed();
    for stage in [0, 4] {
        code.extend([stored(0xc, 0x80), stored(0xc, 0x86)].concat());
        // mov dword [es:stage], 8
        code.extend([0x26, 0x66, 0xc7, 0x06, stage, 0, 8, 0, 0, 0]);
    }
    code.extend(configured(0x68, 0));
    // QEMU takes bytes of this register only: mov dx, 0xcfc; mov al, 2; out dx, al
    code.extend(outs(&[(0xcfc, 2)]));
    code
}

#[test]
fn the_pci_watchdog_does_what_every_action_says() {
    if !possible() {
        return;
    }
    let settings = [
        "",
        "-action watchdog=shutdown",
        "-action watchdog=poweroff",
        "-action watchdog=pause",
        "-action watchdog=debug",
        "-action watchdog=none",
        "-action watchdog=inject-nmi",
    ];
    compare(&guest(&late()), &I6300ESB, &settings, "WATCHDOG");
}

/// Compares the story of one ROM under several settings that a client makes.
fn compare_set(code: &[u8], device: &[&str], settings: &[(&str, Value)], main: &str) {
    let mut failures = Vec::new();
    for setting in settings {
        let commands = std::slice::from_ref(setting);
        let [qemu, thimble] = ask_both(|emulator| story(emulator, code, device, commands, main));
        if qemu != thimble {
            failures.push(format!("{setting:?}:\nqemu    {qemu}\nthimble {thimble}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn clients_set_the_watchdog_action() {
    if !possible() {
        return;
    }
    let settings = [
        ("watchdog-set-action", json!({"action": "pause"})),
        ("watchdog-set-action", json!({"action": "poweroff"})),
        ("watchdog-set-action", json!({"action": "none"})),
        ("set-action", json!({"watchdog": "shutdown"})),
        ("set-action", json!({"watchdog": "debug"})),
        ("set-action", json!({"reboot": "shutdown"})),
    ];
    compare_set(
        &guest(&outs(&[(0x443, 0x0f)])),
        &IB700,
        &settings,
        "WATCHDOG",
    );
}

#[test]
fn clients_set_the_panic_action() {
    if !possible() {
        return;
    }
    let settings = [
        ("set-action", json!({})),
        ("set-action", json!({"panic": "pause"})),
        ("set-action", json!({"panic": "exit-failure"})),
        ("set-action", json!({"panic": "none"})),
        ("set-action", json!({"shutdown": "pause"})),
        (
            "set-action",
            json!({"shutdown": "pause", "panic": "exit-failure"}),
        ),
    ];
    compare_set(
        &guest(&outs(&[(0x505, 1)])),
        &PVPANIC,
        &settings,
        "GUEST_PANICKED",
    );
}

#[test]
fn clients_are_told_what_no_action_is() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let requests = [
        ("set-action", json!({"panic": "debug"})),
        ("set-action", json!({"reboot": "pause"})),
        ("set-action", json!({"shutdown": 1})),
        ("set-action", json!({"watchdog": ""})),
        ("set-action", json!({"nosuch": "reset"})),
        ("watchdog-set-action", json!({})),
        ("watchdog-set-action", json!({"action": "nosuch"})),
        ("x-exit-preconfig", json!({})),
    ];
    let [qemu, thimble] = ask_both(|emulator| {
        let launcher = emulator.launcher().args(emulator.passive_args());
        let instance = launcher.with_qmp().start();
        let mut client = negotiated(&instance);
        let ask = |(command, arguments): &(&str, Value)| client.execute(command, arguments.clone());
        requests.iter().map(ask).collect::<Vec<_>>()
    });
    assert!(qemu.iter().all(Result::is_err), "{qemu:?}");
    assert_eq!(qemu, thimble);
}

#[test]
fn a_watchdogs_line_reaches_the_log() {
    if !possible() {
        return;
    }
    let said = ask_both(|emulator| {
        let code = guest(&outs(&[(0x443, 0x0f)]));
        let instance = stopped(
            emulator,
            &code,
            &["-device", "ib700", "-action", "watchdog=debug"],
        );
        let mut client = negotiated(&instance);
        assert_eq!(client.execute("cont", json!({})), Ok(json!({})));
        client.wait_event("WATCHDOG", SOON);
        assert_eq!(client.execute("quit", json!({})), Ok(json!({})));
        instance.wait(SOON);
        instance
            .stderr()
            .trim_start_matches("thimble: ")
            .to_string()
    });
    assert_eq!(said[0], "watchdog: timer fired\n");
    assert_eq!(said[0], said[1]);
}

#[test]
fn every_panic_action_does_what_it_says() {
    if !possible() {
        return;
    }
    let settings = [
        "",
        "-action panic=pause",
        "-action panic=shutdown",
        "-action panic=exit-failure",
        "-action panic=none",
        "-no-shutdown",
        "-action shutdown=pause,panic=pause",
        "-action shutdown=pause,panic=exit-failure",
        "-action shutdown=pause,panic=none",
    ];
    let code = guest(&outs(&[(0x505, 1)]));
    compare(&code, &PVPANIC, &settings, "GUEST_PANICKED");
}

#[test]
fn a_panic_by_pci_does_what_every_action_says() {
    if !possible() {
        return;
    }
    let settings = [
        "",
        "-action panic=pause",
        "-action panic=shutdown",
        "-action panic=exit-failure",
        "-action panic=none",
        "-action shutdown=pause,panic=shutdown",
    ];
    // By the second of its bytes, which is the same.
    let code = [placed(), stored(1, 1).to_vec()].concat();
    compare(&guest(&code), &PVPANIC_PCI, &settings, "GUEST_PANICKED");
    let code = [placed(), stored(0, 2).to_vec()].concat();
    compare(&guest(&code), &PVPANIC_PCI, &[""], "GUEST_CRASHLOADED");
}

#[test]
fn a_crash_kernel_is_left_to_run() {
    if !possible() {
        return;
    }
    let settings = ["", "-action panic=pause", "-no-shutdown"];
    let code = guest(&outs(&[(0x505, 2)]));
    compare(&code, &PVPANIC, &settings, "GUEST_CRASHLOADED");
    // Each write is told, and what says nothing is not.
    let code = guest(&outs(&[(0x505, 2), (0x505, 0xfc), (0x505, 2), (0x505, 3)]));
    compare(&code, &PVPANIC, &["-action panic=none"], "GUEST_PANICKED");
}

/// Reports 200 panics that a crash kernel takes care of, as fast as it can.
const REPORTS: &[u8] = &[
    0xb9, 0xc8, 0x00, // mov cx, 200
    0xba, 0x05, 0x05, // mov dx, 0x505
    0xb0, 0x02, // mov al, 2
    0xee, // out dx, al
    0xe2, 0xfd, // loop to the out
];

#[test]
fn no_report_is_lost_and_the_guest_goes_on_after_each() {
    if !possible() {
        return;
    }
    let told = ask_both(|emulator| {
        let instance = stopped(emulator, &guest(REPORTS), &PVPANIC);
        let mut client = negotiated(&instance);
        assert_eq!(client.execute("cont", json!({})), Ok(json!({})));
        let (seen, _) = events(&mut client, "GUEST_CRASHLOADED");
        let reports = seen.iter().filter(|event| event[0] == "GUEST_CRASHLOADED");
        (reports.count(), counts(&instance, &mut client))
    });
    assert_eq!(told, [(200, true); 2]);
}

#[test]
fn a_shutdown_action_applies_to_stopped_guests_too() {
    if !possible() {
        return;
    }
    let [qemu, thimble] = ask_both(|emulator| {
        let instance = stopped(emulator, &guest(&[]), &["-no-reboot", "-no-shutdown"]);
        let mut client = negotiated(&instance);
        let mut seen = Vec::new();
        for command in ["system_reset", "cont", "stop", "system_reset"] {
            assert_eq!(client.execute(command, json!({})), Ok(json!({})));
            seen.extend(events_within(&mut client, QUIET).0);
            seen.push(status(&mut client));
        }
        seen
    });
    assert_eq!(qemu, thimble);
}

/// What both say, in events, to requests of the qtest protocol to a guest that never runs.
fn untouched(requests: &[&str], options: &[&str]) -> [Value; 2] {
    ask_both(|emulator| {
        let instance = emulator
            .launcher()
            .args(emulator.passive_args())
            .args(options)
            .with_qmp()
            .with_qtest()
            .start();
        let mut client = negotiated(&instance);
        let mut qtest = instance.qtest();
        for request in requests {
            assert_eq!(qtest.request(request).expect("an answer"), "OK");
        }
        let (seen, ended) = events(&mut client, "GUEST_PANICKED");
        if ended {
            return json!([seen, instance.wait(SOON).code()]);
        }
        json!([seen, status(&mut client)])
    })
}

#[test]
fn a_panic_does_not_pause_what_does_not_run() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    for action in ["pause", "shutdown", "exit-failure", "none"] {
        for shutdown in ["poweroff", "pause"] {
            let action = format!("panic={action},shutdown={shutdown}");
            let options = ["-device", "pvpanic", "-action", &action];
            let [qemu, thimble] = untouched(&["outb 0x505 1"], &options);
            assert_eq!(qemu, thimble, "{action}");
        }
    }
}

#[test]
fn firmware_finds_the_panic_port() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    for option in [
        "pvpanic",
        "pvpanic,ioport=0x1234",
        "pvpanic,events=1,ioport=0",
    ] {
        let [qemu, thimble] = ask_both(|emulator| {
            let instance = emulator
                .launcher()
                .args(emulator.passive_args())
                .args(["-device", option])
                .with_qtest()
                .start();
            let mut qtest = instance.qtest();
            fw_cfg_file(&mut qtest, "etc/pvpanic-port")
        });
        assert_eq!(qemu, thimble, "{option}");
        assert_eq!(qemu.expect("the file").len(), 2, "{option}");
    }
}

/// A file's bytes by the directory of fw_cfg.
fn fw_cfg_file(qtest: &mut qemu_tests::QtestClient, name: &str) -> Option<Vec<u8>> {
    let mut ask = |request: &str| qtest.request(request).expect("an answer");
    let mut bytes = |key: u16, count: usize| -> Vec<u8> {
        if key != 0 {
            ask(&format!("outw 0x510 {key:#x}"));
        }
        (0..count)
            .map(|_| {
                let answer = ask("inb 0x511");
                let digits = answer.strip_prefix("OK 0x").expect("a byte");
                u8::from_str_radix(digits, 16).expect("a byte")
            })
            .collect()
    };
    const DIRECTORY: u16 = 0x19;
    let files = bytes(DIRECTORY, 4);
    let files = u32::from_be_bytes(files.try_into().expect("four bytes"));
    for _ in 0..files {
        let entry = bytes(0, 64);
        let found = entry[8..].split(|byte| *byte == 0).next();
        if found == Some(name.as_bytes()) {
            let size = u32::from_be_bytes(entry[..4].try_into().expect("four bytes"));
            let key = u16::from_be_bytes(entry[4..6].try_into().expect("two bytes"));
            return Some(bytes(key, size as usize));
        }
    }
    None
}

/// Starts the watchdog for two seconds, and tells that it has.
fn with_running_watchdog(emulator: Emulator) -> (Instance, QmpClient) {
    let code = guest(&outs(&[(0x443, 0x0e)]));
    let instance = stopped(
        emulator,
        &code,
        &["-device", "ib700", "-watchdog-action", "pause"],
    );
    let mut client = negotiated(&instance);
    assert_eq!(client.execute("cont", json!({})), Ok(json!({})));
    assert!(counts(&instance, &mut client));
    (instance, client)
}

#[test]
fn a_watchdog_waits_its_time_and_stands_with_the_guest() {
    if !possible() {
        return;
    }
    let both = ask_both(|emulator| {
        let (_instance, mut client) = with_running_watchdog(emulator);
        assert_eq!(client.execute("stop", json!({})), Ok(json!({})));
        client.wait_event("STOP", SOON);
        let early = client.event(Duration::from_millis(2500)).is_ok();
        assert_eq!(client.execute("cont", json!({})), Ok(json!({})));
        let began = Instant::now();
        client.wait_event("WATCHDOG", SOON);
        // It had run for a part of its time before.
        let waited = began.elapsed();
        (
            early,
            waited > Duration::from_millis(200),
            waited < SOON / 4,
        )
    });
    assert_eq!(both, [(false, true, true); 2]);
}

#[test]
fn a_reset_stops_the_watchdog() {
    if !possible() {
        return;
    }
    let both = ask_both(|emulator| {
        let (_instance, mut client) = with_running_watchdog(emulator);
        assert_eq!(client.execute("system_reset", json!({})), Ok(json!({})));
        client.wait_event("RESET", SOON);
        client.event(Duration::from_millis(2500)).is_ok()
    });
    assert_eq!(both, [false; 2]);
}

/// Lets NMIs through LINT1 of the local APIC, starts the watchdog, and waits; the NMI's handler counts.
const NMI: &[u8] = &[
    0x31, 0xc0, // xor ax, ax
    0x8e, 0xd8, // mov ds, ax
    0x8e, 0xd0, // mov ss, ax
    0xbc, 0x00, 0x70, // mov sp, 0x7000
    0xc7, 0x06, 0x08, 0x00, 0x60, 0x00, // mov word [8], 0x60
    0xc7, 0x06, 0x0a, 0x00, 0x00, 0xf0, // mov word [10], 0xf000
    0x2e, 0x66, 0x0f, 0x01, 0x16, 0x70, 0x00, // lgdtl cs:[0x70]
    0x0f, 0x20, 0xc0, // mov eax, cr0
    0x0c, 0x01, // or al, 1
    0x0f, 0x22, 0xc0, // mov cr0, eax
    0xbb, 0x08, 0x00, // mov bx, 8
    0x8e, 0xdb, // mov ds, bx
    0x24, 0xfe, // and al, 0xfe
    0x0f, 0x22, 0xc0, // mov cr0, eax
    0x66, 0xbf, 0xf0, 0x00, 0xe0, 0xfe, // mov edi, 0xfee000f0: spurious interrupts
    0x67, 0x66, 0xc7, 0x07, 0xff, 0x01, 0x00, 0x00, // mov dword [edi], 0x1ff: APIC on
    0x66, 0xbf, 0x60, 0x03, 0xe0, 0xfe, // mov edi, 0xfee00360: LVT LINT1
    0x67, 0x66, 0xc7, 0x07, 0x00, 0x04, 0x00, 0x00, // mov dword [edi], 0x400: NMI
    0xba, 0x43, 0x04, // mov dx, 0x443
    0xb0, 0x0f, // mov al, 15
    0xee, // out dx, al
    0xeb, 0xfe, // jmp here
    0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4,
    0xf4, // to 60h:
    0x66, 0xff, 0x06, 0x00, 0x05, // inc dword [0x500]
    0xcf, // iret
    0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, // to 70h:
    0x17, 0x00, 0x78, 0x00, 0xff, 0xff, 0, 0, // the limit and base of the table at ffff0078h
    0, 0, 0, 0, 0, 0, 0, 0, // its entry 0
    0xff, 0xff, 0, 0, 0, 0x93, 0xcf, 0, // all memory
    0, 0, 0, 0, 0, 0, 0, 0,
];

#[test]
fn a_watchdogs_nmi_reaches_the_guest() {
    if !possible() {
        return;
    }
    assert_eq!(
        (NMI[0x60], NMI[0x70]),
        (0x66, 0x17),
        "the code is as long as it says"
    );
    let counted = ask_both(|emulator| {
        let options = ["-device", "ib700", "-action", "watchdog=inject-nmi"];
        let instance = stopped(emulator, NMI, &options);
        let mut client = negotiated(&instance);
        assert_eq!(client.execute("cont", json!({})), Ok(json!({})));
        client.wait_event("WATCHDOG", SOON);
        std::thread::sleep(QUIET);
        let status = status(&mut client)["status"].clone();
        (count(&instance, &mut client), status)
    });
    assert_eq!(counted[0], (1, json!("running")));
    assert_eq!(counted[0], counted[1]);
}

/// The offset of the next RTC_CHANGE, and the members of its data.
fn rtc_offset(client: &mut QmpClient) -> (i64, Vec<String>) {
    let event = client.wait_event("RTC_CHANGE", SOON);
    let data = event["data"].as_object().expect("data");
    let mut names: Vec<_> = data.keys().cloned().collect();
    names.sort();
    (data["offset"].as_i64().expect("seconds"), names)
}

/// Sets the clock's minutes to 10 at each boot.
const SETS_CLOCK: &[(u16, u8)] = &[(0x70, 0x02), (0x71, 0x10)];

#[test]
fn a_guest_that_sets_its_clock_is_told_of() {
    if !possible() {
        return;
    }
    for (clock, late) in [("host", 0), ("rt", 0), ("vm", 3)] {
        let base = format!("base=2020-02-29T23:59:30,clock={clock}");
        let both = ask_both(|emulator| {
            let mut code = outs(SETS_CLOCK);
            code.extend_from_slice(&[0xeb, 0xfe]);
            let instance = stopped(emulator, &code, &["-rtc", &base]);
            let mut client = negotiated(&instance);
            assert_eq!(client.execute("cont", json!({})), Ok(json!({})));
            let first = rtc_offset(&mut client);
            assert_eq!(client.execute("stop", json!({})), Ok(json!({})));
            std::thread::sleep(Duration::from_secs(3));
            assert_eq!(client.execute("system_reset", json!({})), Ok(json!({})));
            assert_eq!(client.execute("cont", json!({})), Ok(json!({})));
            [first, rtc_offset(&mut client)]
        });
        let [qemu, thimble] = both;
        // The second time, a clock that stood with the guest is late against the host's.
        for (index, expected) in [(0, -49 * 60), (1, -49 * 60 - late)] {
            for (offset, names) in [&qemu[index], &thimble[index]] {
                assert!(
                    (offset - expected).abs() <= 1,
                    "{clock}: {qemu:?} {thimble:?}"
                );
                assert_eq!(*names, ["offset", "qom-path"]);
            }
        }
    }
}

#[test]
fn the_clock_is_named_by_its_path() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    for processors in ["1", "3"] {
        let paths = ask_both(|emulator| {
            let instance = emulator
                .launcher()
                .args(emulator.passive_args())
                .args(["-M", "pc", "-smp", processors])
                .with_qmp()
                .with_qtest()
                .start();
            let mut client = negotiated(&instance);
            let mut qtest = instance.qtest();
            for (port, value) in SETS_CLOCK {
                let request = format!("outb {port:#x} {value:#x}");
                assert_eq!(qtest.request(&request).expect("an answer"), "OK");
            }
            client.wait_event("RTC_CHANGE", SOON)["data"]["qom-path"].clone()
        });
        assert!(paths[0].is_string());
        assert_eq!(paths[0], paths[1]);
    }
}

/// A run that waits for `x-exit-preconfig`.
fn preconfigured(emulator: Emulator, options: &[&str]) -> (Instance, QmpClient) {
    // Without the -S of the other tests.
    let launcher = emulator.launcher();
    std::fs::write(launcher.dir().join("test.rom"), [0xf4; 0x1_0000]).expect("a file");
    let instance = launcher
        .args(["-nodefaults", "-display", "none", "-M", "pc"])
        .args(["-bios", "{dir}/test.rom"])
        .args(options)
        .with_qmp()
        .start();
    let client = negotiated(&instance);
    (instance, client)
}

#[test]
fn preconfig_waits_for_a_client() {
    if !possible() {
        return;
    }
    for options in [&["--preconfig"][..], &["-preconfig", "-no-shutdown"]] {
        let [qemu, thimble] = ask_both(|emulator| {
            let (instance, mut client) = preconfigured(emulator, options);
            let early = client.event(QUIET).map(|event| bare(&event)).ok();
            let status = status(&mut client);
            let reply = client.execute("quit", json!({}));
            (early, status, reply, instance.wait(SOON).code())
        });
        assert_eq!(qemu, thimble, "{options:?}");
    }
}

#[test]
fn preconfig_ends_when_a_client_says_so() {
    if !possible() {
        return;
    }
    let commands = [
        ("cont", json!({})),
        ("stop", json!({})),
        ("system_reset", json!({})),
        ("watchdog-set-action", json!({"action": "none"})),
        ("set-action", json!({"panic": "none"})),
        ("query-status", json!({})),
        ("x-exit-preconfig", json!({})),
        ("query-status", json!({})),
        ("x-exit-preconfig", json!({})),
        ("stop", json!({})),
        ("x-exit-preconfig", json!({})),
        ("cont", json!({})),
        ("query-status", json!({})),
    ];
    for options in [&["--preconfig"][..], &["--preconfig", "-S"]] {
        let [qemu, thimble] = ask_both(|emulator| {
            let (_instance, mut client) = preconfigured(emulator, options);
            let mut seen = Vec::new();
            for (command, arguments) in &commands {
                let reply = match client.execute(command, arguments.clone()) {
                    Ok(value) => value,
                    Err(error) => json!(error.to_string()),
                };
                let (told, _) = events_within(&mut client, QUIET / 4);
                seen.push(json!([command, reply, told]));
            }
            seen
        });
        assert_eq!(qemu, thimble, "{options:?}");
    }
}
