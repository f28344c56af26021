//! The process around the VM: the binary, the background, signals, the terminal, power states, and what must not
//! stop it.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use qemu_tests::{
    Emulator, Instance, Launcher, QmpClient, ask_both, packages, skip, skip_part, thimble_binary,
};
use rustix::process::{Pid, Signal};
use rustix::termios::{LocalModes, Termios, tcgetattr};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

/// A ROM of 64 KiB with real-mode code at its start, where the reset vector jumps.
fn rom(code: &[u8]) -> Vec<u8> {
    let mut rom = vec![0xf4; 0x1_0000];
    rom[..code.len()].copy_from_slice(code);
    rom[0xfff0..0xfff3].copy_from_slice(&[0xe9, 0x0d, 0x00]);
    rom
}

/// Counts in the doubleword at 500h, for ever.
const COUNTER: &[u8] = &[
    0x31, 0xc0, // xor ax, ax
    0x8e, 0xd8, // mov ds, ax
    0x66, 0xff, 0x06, 0x00, 0x05, // inc dword [0x500]
    0xeb, 0xf9, // jmp to the inc
];

fn with_rom(launcher: Launcher, code: &[u8]) -> Launcher {
    std::fs::write(launcher.dir().join("test.rom"), rom(code)).expect("a file");
    launcher
        .args(["-nodefaults", "-display", "none", "-M", "pc", "-m", "16"])
        .args(["-bios", "{dir}/test.rom"])
        .with_qmp()
}

/// Thimble with this ROM.
fn guest(code: &[u8]) -> Launcher {
    with_rom(Emulator::Thimble.launcher(), code).args(["-accel", packages::accelerator()])
}

fn negotiated(instance: &Instance) -> QmpClient {
    let mut client = instance.qmp();
    client.negotiate();
    client
}

fn status(client: &mut QmpClient) -> String {
    let reply = client.execute("query-status", json!({})).expect("a status");
    reply["status"].as_str().expect("a name").to_string()
}

/// Four bytes of guest memory.
fn memory(instance: &Instance, client: &mut QmpClient, address: u64) -> u32 {
    let file = instance.dir().join("memory");
    let arguments = json!({"val": address, "size": 4, "filename": file.to_str()});
    assert_eq!(client.execute("pmemsave", arguments), Ok(json!({})));
    let bytes = std::fs::read(&file).expect("the file");
    u32::from_le_bytes(bytes.try_into().expect("four bytes"))
}

/// Waits until the guest has counted on from `from`, and returns how far.
fn counted(instance: &Instance, client: &mut QmpClient, from: u32) -> u32 {
    let deadline = Instant::now() + SOON;
    loop {
        let now = memory(instance, client, 0x500);
        if now != from {
            return now;
        }
        assert!(Instant::now() < deadline, "stuck\n{}", instance.report());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_binary_is_static() {
    let bytes = std::fs::read(thimble_binary()).expect("the binary");
    assert!(bytes.starts_with(b"\x7fELF\x02"));
    let number = |at: usize, size: usize| {
        let bytes = bytes[at..at + size].iter().rev();
        bytes.fold(0, |value, byte| value << 8 | usize::from(*byte))
    };
    let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    const PT_LOAD: usize = 1;
    const PT_DYNAMIC: usize = 2;
    const PT_INTERP: usize = 3;
    let kinds: Vec<_> = (0..count).map(|i| number(table + i * size, 4)).collect();
    assert!(kinds.contains(&PT_LOAD));
    assert!(!kinds.contains(&PT_INTERP), "wants a program interpreter");
    assert!(!kinds.contains(&PT_DYNAMIC), "wants shared libraries");
}

/// A daemon, killed when dropped.
struct Daemon(PathBuf);

impl Daemon {
    fn pid(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(&self.0).ok()?;
        Pid::from_raw(text.trim().parse().ok()?)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

fn gone(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.map_or(true, |stat| stat.contains(") Z"))
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_daemon_stands_when_its_caller_returns() {
    let caller = Emulator::Thimble
        .launcher()
        .args(Emulator::Thimble.passive_args())
        .args(["-daemonize", "-pidfile", "{dir}/pid"])
        .with_qmp()
        .start();
    let daemon = Daemon(caller.dir().join("pid"));
    assert_eq!(caller.wait(SOON).code(), Some(0), "{}", caller.report());
    // No patience from here on: all has to be there already.
    let pid = daemon.pid().expect("the pid file");
    assert_ne!(pid, caller.pid());
    let socket = caller.dir().join("qmp.sock");
    drop(std::os::unix::net::UnixStream::connect(&socket).expect("a socket that listens"));
    let mut client = QmpClient::connect(&socket, SOON).expect("a socket that listens");
    client.negotiate();
    assert_eq!(status(&mut client), "prelaunch");
    let cwd = std::fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero()));
    assert_eq!(cwd.expect("a process"), Path::new("/"));
    assert_eq!(client.execute("quit", json!({})), Ok(json!({})));
    wait_until("the daemon ends", || gone(pid));
    assert!(!socket.exists() && !caller.dir().join("pid").exists());
}

#[test]
fn a_daemons_error_reaches_the_caller() {
    let caller = Emulator::Thimble
        .launcher()
        .args(Emulator::Thimble.passive_args())
        .args(["-daemonize", "-pidfile", "{dir}/pid", "-bios", "{dir}/no"])
        .with_qmp()
        .start();
    let daemon = Daemon(caller.dir().join("pid"));
    assert_eq!(caller.wait(SOON).code(), Some(1), "{}", caller.report());
    let text = caller.stderr();
    assert!(
        text.contains("-bios") && text.lines().count() == 1,
        "{text}"
    );
    wait_until("the files are gone", || {
        daemon.pid().is_none() && !caller.dir().join("qmp.sock").exists()
    });
}

#[test]
fn sigterm_ends_a_running_guest() {
    let thimble = guest(COUNTER).args(["-pidfile", "{dir}/pid"]).start();
    let mut client = negotiated(&thimble);
    counted(&thimble, &mut client, 0);
    thimble.signal(Signal::TERM);
    let event = client.wait_event("SHUTDOWN", SOON);
    assert_eq!(
        event["data"],
        json!({"guest": false, "reason": "host-signal"})
    );
    assert_eq!(thimble.wait(SOON).code(), Some(0), "{}", thimble.report());
    for file in ["pid", "qmp.sock"] {
        assert!(!thimble.dir().join(file).exists(), "{file} is left");
    }
}

/// Asks for a reset by port 92h, on and on.
const RESETS: &[u8] = &[
    0xb0, 0x02, // mov al, 2: A20 stays open, or the next instruction would be elsewhere
    0xe6, 0x92, // out 0x92, al
    0x0c, 0x01, // or al, 1
    0xe6, 0x92, // out 0x92, al
    0xeb, 0xfe, // jmp here
];

fn accelerated(emulator: Emulator, code: &[u8]) -> Launcher {
    let accel = match emulator {
        Emulator::Qemu => "tcg",
        Emulator::Thimble => packages::accelerator(),
    };
    with_rom(emulator.launcher(), code).args(["-accel", accel])
}

/// What a client sees when the guest resets itself under `options`, and the exit status.
fn reset_under(options: &[&str]) -> [(Vec<Value>, Option<i32>); 2] {
    ask_both(|emulator| {
        let instance = accelerated(emulator, RESETS)
            .args(["-S"])
            .args(options)
            .start();
        let mut client = negotiated(&instance);
        assert_eq!(client.execute("cont", json!({})), Ok(json!({})));
        let mut seen = Vec::new();
        while let Ok(event) = client.event(Duration::from_secs(1)) {
            seen.push(json!([event["event"], event["data"]]));
            if seen.len() == 3 {
                break;
            }
        }
        if options.contains(&"-no-shutdown") {
            seen.push(json!(status(&mut client)));
            let refused = client
                .execute("cont", json!({}))
                .expect_err("not without a reset");
            seen.push(json!(refused.to_string()));
            assert!(client.execute("system_reset", json!({})).is_ok());
            // The events of both, before or after the reply.
            while client.event(Duration::from_millis(200)).is_ok() {}
            seen.push(json!(status(&mut client)));
            assert!(client.execute("quit", json!({})).is_ok());
        } else if !options.contains(&"-no-reboot") {
            instance.signal(Signal::KILL);
        }
        (seen, instance.wait(SOON).code())
    })
}

#[test]
fn a_guests_reset_does_what_the_options_say() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    for options in [&[][..], &["-no-reboot"], &["-no-reboot", "-no-shutdown"]] {
        let [qemu, thimble] = reset_under(options);
        assert_eq!(qemu, thimble, "{options:?}");
    }
}

/// The image for resets, whose fifth and last is a triple fault.
#[test]
fn every_kind_of_reset_is_told() {
    let image = qemu_tests::images::all().find(|image| image.name == "resets");
    let rom = image.expect("the image").rom();
    let thimble = Emulator::Thimble
        .launcher()
        .args([
            "-accel",
            packages::accelerator(),
            "-S",
            "-nodefaults",
            "-display",
            "none",
        ])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
        .args(["-bios", rom.to_str().expect("a plain path")])
        .with_qmp()
        .start();
    let mut client = negotiated(&thimble);
    assert_eq!(client.execute("cont", json!({})), Ok(json!({})));
    for _ in 0..5 {
        let event = client.wait_event("RESET", SOON);
        assert_eq!(
            event["data"],
            json!({"guest": true, "reason": "guest-reset"})
        );
    }
    assert_eq!(thimble.wait(SOON).code(), Some(33), "{}", thimble.report());
}

/// Jumps to where no memory is, which no KVM can run; the second time round it counts instead.
const INTERNAL_ERROR: &[u8] = &[
    0x31, 0xc0, // xor ax, ax
    0x8e, 0xd8, // mov ds, ax
    0x80, 0x3e, 0x00, 0x06, 0x5a, // cmp byte [0x600], 0x5a
    0x74, 0x0a, // je to the inc
    0xc6, 0x06, 0x00, 0x06, 0x5a, // mov byte [0x600], 0x5a
    0xea, 0x00, 0x00, 0x00, 0xa0, // jmp a000:0000
    0x66, 0xff, 0x06, 0x00, 0x05, // inc dword [0x500]
    0xeb, 0xf9, // jmp to the inc
];

#[test]
fn what_kvm_cannot_run_stops_the_vm_only() {
    if packages::accelerator() != "kvm" {
        return skip("only KVM has instructions that it can't run");
    }
    let thimble = guest(INTERNAL_ERROR).start();
    let mut client = negotiated(&thimble);
    wait_until("the guest stops", || {
        status(&mut client) == "internal-error"
    });
    // The dump comes by a thread that reads standard error.
    wait_until("the register dump", || thimble.stderr().contains("CR0"));
    let text = thimble.stderr();
    for name in ["KVM", "RIP", "CS", "CR0"] {
        let found = text.to_uppercase().contains(name);
        assert!(found, "no {name} in the register dump: {text}");
    }
    let refused = client
        .execute("cont", json!({}))
        .expect_err("a reset is required");
    assert!(refused.description.contains("eset"), "{refused}");
    assert_eq!(memory(&thimble, &mut client, 0x500), 0);
    assert!(client.execute("system_reset", json!({})).is_ok());
    assert!(client.execute("cont", json!({})).is_ok());
    counted(&thimble, &mut client, 0);
    assert_eq!(status(&mut client), "running");
}

#[test]
fn the_debug_exit_gives_the_status() {
    for value in [0_u8, 0x10, 0x7f] {
        let code = [0xb0, value, 0xe6, 0xf4, 0xeb, 0xfe];
        let device = ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"];
        let thimble = guest(&code).args(device).start();
        let expected = i32::from(value) << 1 | 1;
        assert_eq!(
            thimble.wait(SOON).code(),
            Some(expected),
            "{}",
            thimble.report()
        );
        assert!(!thimble.dir().join("qmp.sock").exists());
    }
}

/// A terminal: the side that a user types on, and the side for the emulator.
fn terminal() -> (std::fs::File, std::fs::File) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&user).expect("a terminal");
    unlockpt(&user).expect("a terminal");
    let name = ptsname(&user, Vec::new()).expect("a name");
    let name = Path::new(name.to_str().expect("a plain name"));
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
    let emulator =
        rustix::fs::open(name, flags, rustix::fs::Mode::empty()).expect("the other side");
    (user.into(), emulator.into())
}

fn is_raw(modes: &Termios) -> bool {
    !modes
        .local_modes
        .intersects(LocalModes::ICANON | LocalModes::ECHO)
}

/// What `end` does to a process on a terminal has to restore it.
fn terminal_is_restored(end: impl Fn(&Instance, &mut std::fs::File)) {
    let (mut user, emulator) = terminal();
    let before = tcgetattr(&emulator).expect("a terminal");
    assert!(!is_raw(&before));
    let input = emulator.try_clone().expect("a descriptor");
    let thimble = Emulator::Thimble
        .launcher()
        .args(["-accel", "qtest", "-nographic", "-vga", "none"])
        .args(["-net", "none", "-parallel", "none"])
        .input(Stdio::from(input))
        .start();
    wait_until("the terminal is raw", || {
        tcgetattr(&emulator).is_ok_and(|modes| is_raw(&modes))
    });
    end(&thimble, &mut user);
    assert_eq!(thimble.wait(SOON).code(), Some(0), "{}", thimble.report());
    let after = tcgetattr(&emulator).expect("a terminal");
    assert_eq!(before.local_modes, after.local_modes);
    assert_eq!(before.input_modes, after.input_modes);
    assert_eq!(before.output_modes, after.output_modes);
    assert_eq!(before.control_modes, after.control_modes);
}

#[test]
fn the_terminal_is_restored_after_the_escape() {
    terminal_is_restored(|_, user| user.write_all(b"abc\x01x").expect("typing"));
}

#[test]
fn the_terminal_is_restored_after_sigterm() {
    terminal_is_restored(|thimble, _| thimble.signal(Signal::TERM));
}

#[test]
fn a_client_that_does_not_read_stalls_nobody() {
    let thimble = guest(COUNTER)
        .args(["-qmp", "unix:{dir}/second.sock,server=on,wait=off"])
        .args(["-qmp", "unix:{dir}/third.sock,server=on,wait=off"])
        .start();
    let mut deaf = negotiated(&thimble);
    let [mut second, mut third] = ["second.sock", "third.sock"].map(|name| {
        let mut client = QmpClient::connect(&thimble.dir().join(name), SOON).expect("a monitor");
        client.negotiate();
        client
    });
    let sent = deaf.flood(b"{\"execute\": \"query-commands\"}\n");
    assert!(
        sent > 100,
        "the server stopped reading after {sent} commands"
    );
    let mut count = counted(&thimble, &mut second, 0);
    let began = Instant::now();
    for _ in 0..100 {
        assert_eq!(status(&mut second), "running");
        assert_eq!(status(&mut third), "running");
    }
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    // Events go to everybody; the deaf client's wait, or cost it its connection.
    for _ in 0..50 {
        assert_eq!(second.execute("stop", json!({})), Ok(json!({})));
        assert_eq!(third.execute("cont", json!({})), Ok(json!({})));
    }
    count = counted(&thimble, &mut third, count);
    counted(&thimble, &mut second, count);
}

/// Writes and reads every port in turn, in three widths, with values that follow no pattern, and one address in each
/// 16 MiB of the 4 GiB beside. The state is in RAM, since some writes reset the machine.
const GARBAGE: &[u8] = &[
    0x2e, 0x66, 0x0f, 0x01, 0x16, 0x60, 0x00, // lgdtl cs:[0x60]
    0x0f, 0x20, 0xc0, // mov eax, cr0
    0x0c, 0x01, // or al, 1
    0x0f, 0x22, 0xc0, // mov cr0, eax
    0xbb, 0x08, 0x00, // mov bx, 8
    0x8e, 0xdb, // mov ds, bx
    // The loop.
    0x66, 0x69, 0x3e, 0x00, 0x05, 0x6d, 0x4e, 0xc6, 0x41, // imul edi, [0x500], 0x41c64e6d
    0x66, 0x81, 0xc7, 0x39, 0x30, 0x00, 0x00, // add edi, 0x3039
    0x66, 0x89, 0x3e, 0x00, 0x05, // mov [0x500], edi
    0x66, 0xff, 0x06, 0x04, 0x05, // inc dword [0x504]
    0x8b, 0x16, 0x04, 0x05, // mov dx, [0x504]
    0x66, 0x89, 0xf8, // mov eax, edi
    0x66, 0xc1, 0xc8, 0x0b, // ror eax, 11
    0xee, 0xec, // out dx, al; in al, dx
    0xef, 0xed, // out dx, ax; in ax, dx
    0x66, 0xef, 0x66, 0xed, // out dx, eax; in eax, dx
    0x67, 0x66, 0x89, 0x07, // mov [edi], eax
    0x67, 0x66, 0x8b, 0x07, // mov eax, [edi]
    0xeb, 0xc9, // jmp to the loop
    0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4,
    0xf4, 0xf4, 0xf4, 0xf4, 0xf4, // to 60h:
    0x17, 0x00, 0x68, 0x00, 0xff, 0xff, 0, 0, // the limit and base of the table at ffff0068h
    0, 0, 0, 0, 0, 0, 0, 0, // its entry 0
    0xff, 0xff, 0, 0, 0, 0x93, 0xcf, 0, // all memory
    0, 0, 0, 0, 0, 0, 0, 0,
];

#[test]
fn a_guest_that_writes_garbage_everywhere_harms_nobody() {
    assert_eq!(
        &GARBAGE[0x60..0x62],
        &[0x17, 0x00],
        "the code is as long as it says"
    );
    let thimble = guest(GARBAGE)
        .args(["-serial", "null", "-debugcon", "null"])
        .args(["-serial", "file:{dir}/serial"])
        .start();
    let mut client = negotiated(&thimble);
    // Seconds, on a host with nothing else to do.
    let deadline = Instant::now() + Duration::from_secs(90);
    let mut states = Vec::new();
    loop {
        let now = status(&mut client);
        if now == "internal-error" {
            // A write to the local APIC can send the processor where nothing is.
            assert!(client.execute("system_reset", json!({})).is_ok());
            assert!(client.execute("cont", json!({})).is_ok());
        } else {
            assert_eq!(now, "running", "{}", thimble.report());
        }
        if states.last() != Some(&now) {
            states.push(now);
        }
        let done = memory(&thimble, &mut client, 0x504);
        if done > 0xffff {
            break;
        }
        assert!(Instant::now() < deadline, "at port {done:#x}: {states:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(client.execute("quit", json!({})).is_ok());
    assert_eq!(thimble.wait(SOON).code(), Some(0), "{}", thimble.report());
}

/// Reads a port for ever, and so takes the machine's lock as often as it can.
const BUSY: &[u8] = &[
    0xe4, 0x80, // in al, 0x80
    0xeb, 0xfc, // jmp to the in
];

/// Computes for ever.
const SPIN: &[u8] = &[0xeb, 0xfe];

/// HLT with interrupts off, again and again.
const IDLE: &[u8] = &[
    0xfa, // cli
    0xf4, // hlt
    0xeb, 0xfd, // jmp to the hlt
];

/// How long an answer takes is the machine's load more than anything else: what counts is that a guest can't keep the monitor
/// waiting for ever.
#[test]
fn the_monitor_answers_whatever_the_guest_does() {
    for code in [SPIN, BUSY, IDLE] {
        for smp in ["1", "3"] {
            let thimble = guest(code).args(["-smp", smp]).start();
            let mut client = negotiated(&thimble);
            let began = Instant::now();
            for _ in 0..50 {
                assert_eq!(status(&mut client), "running");
                // The last one waits for its start, or halts before long.
                let halted = smp != "1" || code == IDLE;
                loop {
                    let list = client.execute("query-cpus", json!({})).expect("a list");
                    let last = list.as_array().and_then(|list| list.last());
                    if last.expect("a processor")["halted"] == halted {
                        break;
                    }
                    assert!(began.elapsed() < SOON, "{list}");
                }
                for command in ["stop", "cont", "system_reset"] {
                    assert_eq!(client.execute(command, json!({})), Ok(json!({})));
                }
                // Past the reset.
                std::thread::sleep(Duration::from_millis(2));
            }
            assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
        }
    }
}

/// Ticks of 10 ms that a process has computed.
fn computed(instance: &Instance) -> u64 {
    let path = format!("/proc/{}/stat", instance.pid().as_raw_nonzero());
    let stat = std::fs::read_to_string(path).expect("a process");
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .expect("its name")
        .1
        .split(' ')
        .collect();
    // User and system time are fields 14 and 15; the first two are gone.
    let field = |number: usize| fields[number - 2].parse::<u64>().expect("a number");
    field(14) + field(15)
}

#[test]
fn a_guest_that_has_halted_costs_nothing() {
    let thimble = guest(IDLE).args(["-smp", "2"]).start();
    let mut client = negotiated(&thimble);
    assert_eq!(status(&mut client), "running");
    std::thread::sleep(Duration::from_millis(200));
    let before = computed(&thimble);
    std::thread::sleep(Duration::from_secs(2));
    let spent = computed(&thimble) - before;
    assert!(spent <= 4, "{spent} ticks in two seconds");
}

#[test]
fn stop_and_cont_two_hundred_times() {
    let thimble = guest(COUNTER).args(["-smp", "2"]).start();
    let mut client = negotiated(&thimble);
    let began = Instant::now();
    let mut count = counted(&thimble, &mut client, 0);
    for round in 0..200 {
        assert_eq!(
            client.execute("stop", json!({})),
            Ok(json!({})),
            "round {round}"
        );
        if round % 20 == 0 {
            let stopped = memory(&thimble, &mut client, 0x500);
            std::thread::sleep(Duration::from_millis(10));
            assert_eq!(
                memory(&thimble, &mut client, 0x500),
                stopped,
                "stopped is stopped"
            );
            assert!(client.execute("cont", json!({})).is_ok());
            count = counted(&thimble, &mut client, stopped);
        } else {
            assert_eq!(
                client.execute("cont", json!({})),
                Ok(json!({})),
                "round {round}"
            );
        }
    }
    counted(&thimble, &mut client, count);
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}

/// Thimble with four processors.
fn four_processors() -> Launcher {
    let accel = packages::accelerator();
    let args = ["-accel", accel, "-nodefaults", "-display", "none"];
    Emulator::Thimble.launcher().args(args).args(["-smp", "4"])
}

#[test]
fn the_demo_finds_four_processors() {
    let thimble = four_processors()
        .args(["-bios", "demo.rom", "-serial", "stdio", "-no-reboot"])
        .start();
    assert_eq!(thimble.wait(SOON).code(), Some(0), "{}", thimble.report());
    let text = String::from_utf8_lossy(&thimble.stdout()).into_owned();
    assert!(text.contains("cores        4"), "{text}");
    assert!(text.contains("Bye."), "{text}");
}

#[test]
fn seabios_finds_four_processors() {
    let Some(bios) = packages::seabios() else {
        return skip("the Debian package seabios is missing");
    };
    let thimble = four_processors()
        .args(["-bios", bios.to_str().expect("a plain path")])
        .args(["-debugcon", "stdio", "-global", "isa-debugcon.iobase=0x402"])
        .start();
    assert!(
        thimble.wait_stdout("Found 4 cpu(s)", SOON),
        "{}",
        thimble.report()
    );
}

#[test]
fn a_console_socket_carries_both_ways() {
    // Sends back what it receives, one higher.
    let echo = [
        0xba, 0xfd, 0x03, // mov dx, 0x3fd
        0xec, // in al, dx
        0xa8, 0x01, // test al, 1
        0x74, 0xfb, // jz to the in
        0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xec, // in al, dx
        0xfe, 0xc0, // inc al
        0xee, // out dx, al
        0xeb, 0xef, // jmp to the start
    ];
    let thimble = guest(&echo)
        .args(["-serial", "unix:{dir}/console.sock,server=on,wait=off"])
        .start();
    drop(negotiated(&thimble));
    let path = thimble.dir().join("console.sock");
    let mut console = std::os::unix::net::UnixStream::connect(path).expect("the console");
    console.set_read_timeout(Some(SOON)).expect("a socket");
    let sent: Vec<u8> = (0..1000_u32).map(|i| (i % 251) as u8).collect();
    console.write_all(&sent).expect("the connection stands");
    let mut received = vec![0; sent.len()];
    console
        .read_exact(&mut received)
        .expect("an answer to each byte");
    let expected: Vec<u8> = sent.iter().map(|byte| byte + 1).collect();
    assert!(received == expected, "bytes were lost or changed");
    if packages::qemu().is_none() {
        skip_part("qemu-system-x86 is missing");
    }
}

/// The log of `-d` in the file of `-D`: each reset, while the guest goes on; and a line for what KVM can't tell.
#[test]
fn resets_are_logged() {
    let kvm = packages::accelerator() == "kvm";
    let items = if kvm { "cpu_reset,in_asm" } else { "cpu_reset" };
    let instance = guest(COUNTER)
        .args(["-d", items, "-D", "{dir}/log"])
        .start();
    let mut client = negotiated(&instance);
    let log = || std::fs::read_to_string(instance.dir().join("log")).expect("the log");
    let before = log().matches("CPU Reset (CPU 0)").count();
    // On a busy host a guest may not come to run between two resets.
    let (mut resets, deadline) = (0, Instant::now() + SOON);
    let ran = || log().contains("RIP=00000000000000");
    while resets < 3 || !ran() {
        assert!(Instant::now() < deadline, "{}", log());
        assert_eq!(client.execute("system_reset", json!({})), Ok(json!({})));
        client.event(SOON).expect("RESET");
        resets += 1;
    }
    // A thread of its own writes the log.
    let logged = || log().matches("CPU Reset (CPU 0)").count();
    while logged() < before + resets {
        assert!(Instant::now() < deadline, "{}", log());
        std::thread::sleep(Duration::from_millis(1));
    }
    let text = log();
    assert_eq!(logged(), before + resets, "{text}");
    assert!(!text.contains("IN:"), "{text}");
    let told =
        "thimble: -d in_asm: nothing to log, as only the software CPU sees each instruction\n";
    assert_eq!(instance.stderr(), if kvm { told } else { "" });
    assert_eq!(status(&mut client), "running");
}
