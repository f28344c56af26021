//! Trace events: switched by QMP, by the human monitor and by options, and told of by the same lines as QEMU's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use qemu_tests::{Emulator, Instance, Launcher, QmpClient, packages, source_dir};
use serde_json::{Value, json};

use crate::{
    SOON, answer, ask, command_with, compare, emulators, negotiated, out_of_band, passive, refused,
    roms, status, wait_console, wait_until, with_rom, with_rom_under,
};

/// Events whose lines are QEMU's, one by one, for the same requests of a test.
const SAME: [&str; 34] = [
    "apm_io_read",
    "apm_io_write",
    "cpu_in",
    "cpu_out",
    "fdc_ioport_read",
    "fdc_ioport_write",
    "fw_cfg_read",
    "fw_cfg_select",
    "ioapic_clear_remote_irr",
    "ioapic_eoi_broadcast",
    "ioapic_mem_read",
    "ioapic_mem_write",
    "pci_cfg_read",
    "pci_cfg_write",
    "pckbd_kbd_read_data",
    "pckbd_kbd_read_status",
    "pckbd_kbd_write_command",
    "pckbd_kbd_write_data",
    "pckbd_outport_write",
    "pic_ioport_read",
    "pic_ioport_write",
    "piix4_gpe_readb",
    "piix4_gpe_writeb",
    "port92_read",
    "port92_write",
    "ps2_keyboard_set_translation",
    "ps2_mouse_reset",
    "ps2_read_data",
    "ps2_reset_keyboard",
    "ps2_set_ledstate",
    "ps2_write_keyboard",
    "ps2_write_mouse",
    "serial_read",
    "serial_write",
];

/// Those of which QEMU tells again and again what has not changed.
const SAME_CHANGES: [&str; 2] = ["serial_update_parameters", "x86_gsi_interrupt"];

/// A script whose accesses are cut into pieces in another way: what is read is compared where it is said why.
const CUT_OTHERWISE: &str = "widths.qtest";

/// The device tests' scripts: name, options and requests.
fn scripts() -> Vec<(String, Vec<String>, Vec<String>)> {
    let mut paths: Vec<PathBuf> = fs::read_dir(source_dir().join("qtest"))
        .expect("the folder of scripts")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|end| end == "qtest"))
        .collect();
    paths.sort();
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    let script = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("a script");
        let (first, rest) = text.split_once('\n').expect("lines");
        let args = first.strip_prefix("# args:").expect("options");
        let requests = rest
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(str::to_owned)
            .collect();
        let name = path.file_name().expect("a name").to_string_lossy();
        (name.into_owned(), words(args), requests)
    };
    paths.into_iter().map(script).collect()
}

/// What is traced between two writes of port 80h, around these requests.
fn traced_requests(
    emulator: Emulator,
    events: &[&str],
    args: &[String],
    requests: &[String],
) -> Vec<String> {
    let launcher = emulator.launcher();
    let list = launcher.dir().join("events");
    fs::write(&list, events.join("\n") + "\ncpu_out\n").expect("a file");
    let instance = launcher
        .args(emulator.passive_args())
        .args(args)
        .args(["-trace", "events={dir}/events", "-D", "{dir}/log"])
        .with_qtest()
        .with_qmp()
        .start();
    let mut client = instance.qtest();
    let around = ["outb 0x80 0xaa", "outb 0x80 0xab"].map(str::to_owned);
    let all = around[..1].iter().chain(requests).chain(&around[1..]);
    let ended = all
        .into_iter()
        .any(|request| client.request(request).is_err());
    if !ended {
        let mut client = negotiated(&instance);
        command_with(&mut client, "quit", json!({}));
    }
    instance.wait(SOON);
    let log = fs::read_to_string(instance.dir().join("log")).expect("a log");
    let begin = "cpu_out addr 0x80(b) value 170";
    let end = "cpu_out addr 0x80(b) value 171";
    log.lines()
        .skip_while(|line| *line != begin)
        .skip(1)
        .take_while(|line| *line != end)
        .map(str::to_owned)
        .collect()
}

/// A line without addresses of the emulator's own, which only QEMU's have.
fn plain(line: &str) -> String {
    let own = |word: &&str| {
        word.strip_prefix("0x")
            .is_none_or(|digits| digits.len() <= 10)
    };
    line.split(' ').filter(own).collect::<Vec<_>>().join(" ")
}

/// Lines by the names of their events.
fn by_event(lines: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut events = BTreeMap::<String, Vec<String>>::new();
    for line in lines {
        let line = plain(line);
        let (name, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let list = events.entry(name.to_owned()).or_default();
        if !SAME_CHANGES.contains(&name) {
            list.push(rest.trim_end().to_owned());
            continue;
        }
        // Changes only: of each line by itself, where it is one of lines.
        let subject = |rest: &str| rest.split(" level:").next().map(str::to_owned);
        let lines = rest.contains(" level:");
        let before = list
            .iter()
            .rev()
            .find(|old| !lines || subject(old) == subject(rest));
        let known = match before {
            Some(before) => before == rest,
            // A line is low at first.
            None => rest.ends_with(" level:0"),
        };
        if !known {
            list.push(rest.to_owned());
        }
    }
    events
}

/// Every device test's script makes the same lines on both emulators.
#[test]
fn devices_trace_the_same() {
    if packages::qemu().is_none() {
        return qemu_tests::skip("qemu-system-x86 is missing");
    }
    let events: Vec<&str> = SAME.iter().chain(&SAME_CHANGES).copied().collect();
    let mut compared = BTreeMap::<&str, usize>::new();
    for (name, args, requests) in scripts() {
        if name == CUT_OTHERWISE {
            continue;
        }
        let [qemu, thimble] = Emulator::BOTH.map(|emulator| {
            let lines = traced_requests(emulator, &events, &args, &requests);
            by_event(&lines)
        });
        for event in &events {
            let [ours, theirs] = [&thimble, &qemu].map(|lines| lines.get(*event).cloned());
            let [ours, theirs] = [ours.unwrap_or_default(), theirs.unwrap_or_default()];
            // QEMU's test drives the I/O APIC's inputs, and we the lines that end there.
            let apart = requests
                .iter()
                .any(|request| request.starts_with("set_irq_in"));
            if *event == "x86_gsi_interrupt" && apart {
                continue;
            }
            assert_eq!(ours, theirs, "{name}: {event}");
            *compared.entry(event).or_default() += theirs.len();
        }
    }
    for event in events {
        // The mouse is reset with the machine only, which no script does without an end.
        let least = usize::from(event != "ps2_mouse_reset");
        assert!(compared[event] >= least, "{event} was never compared");
    }
}

/// Names and texts of events that `-trace *` told of.
fn names(log: &str) -> BTreeSet<String> {
    log.lines()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect()
}

fn log_of(instance: &Instance) -> String {
    let log = fs::read(instance.dir().join("log")).expect("a log");
    String::from_utf8_lossy(&log).into_owned()
}

/// What all device tests' scripts make Thimble tell of.
fn of_scripts() -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    for (_, args, mut requests) in scripts() {
        requests.insert(0, "readl 0xfd000000".to_owned());
        requests.insert(0, "writel 0xfd000000 1".to_owned());
        // Long enough for the watchdog, the clock's interrupts and ACPI's timer.
        let periodic = [
            "outb 0x70 0xa",
            "outb 0x71 0x26",
            "outb 0x70 0xb",
            "outb 0x71 0x42",
        ];
        requests.extend(periodic.map(str::to_owned));
        requests.push("outw 0xb002 1".to_owned());
        requests.push("clock_step 40000000000".to_owned());
        let lines = traced_requests(Emulator::Thimble, &["*"], &args, &requests);
        seen.append(&mut names(&lines.join("\n")));
    }
    seen
}

fn quit(instance: &Instance, client: &mut QmpClient) -> BTreeSet<String> {
    command_with(client, "quit", json!({}));
    instance.wait(SOON);
    names(&log_of(instance))
}

/// What a guest makes it tell of, with one way to run it.
fn of_guest(rom: &[u8], accelerator: &str, printed: &str) -> BTreeSet<String> {
    let instance = with_rom_under(Emulator::Thimble, rom, accelerator)
        .args(["-trace", "*", "-D", "{dir}/log", "-smp", "2"])
        .args(["-chardev", "socket,id=s,server=on,wait=off,path={dir}/s"])
        .start();
    let mut client = negotiated(&instance);
    wait_console(&instance, printed);
    command_with(&mut client, "stop", json!({}));
    command_with(&mut client, "system_reset", json!({}));
    command_with(&mut client, "system_powerdown", json!({}));
    quit(&instance, &mut client)
}

/// What monitors make it tell of.
fn of_monitors() -> BTreeSet<String> {
    let instance = passive(Emulator::Thimble)
        .args(["-trace", "*", "-D", "{dir}/log"])
        .args(["-serial", "unix:{dir}/serial,server=on,wait=off"])
        .start();
    let mut client = out_of_band(&instance);
    drop(UnixStream::connect(instance.dir().join("serial")).expect("a connection"));
    // The fifo is a file that nobody reads yet: what comes behind waits.
    let fifo = instance.dir().join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.expect("mkfifo").success());
    let saving = json!({"val": 0, "size": 1 << 20, "filename": fifo.to_str()});
    client.send_command("pmemsave", &saving);
    client.send_command("query-status", &json!({}));
    client
        .send_raw(b"{\"exec-oob\": \"query-yank\", \"id\": 7}")
        .expect("sent");
    assert_eq!(client.message(SOON).expect("an answer")["id"], 7);
    assert_eq!(fs::read(&fifo).expect("memory").len(), 1 << 20);
    for _ in 0..2 {
        client.message(SOON).expect("an answer");
    }
    client.send_raw(b"nonsense\n").expect("sent");
    client.message(SOON).expect("an error");
    let line = json!({"command-line": "info status"});
    command_with(&mut client, "human-monitor-command", line);
    instance.signal(rustix::process::Signal::TERM);
    assert!(instance.wait(SOON).success());
    names(&log_of(&instance))
}

/// Every event of the list is told of by something.
#[test]
fn every_event_is_told_of() {
    let instance = passive(Emulator::Thimble).args(["-trace", "help"]).start();
    assert!(instance.wait(SOON).success());
    let listed = String::from_utf8(instance.stdout()).expect("text");
    let listed: BTreeSet<String> = listed.lines().map(str::to_owned).collect();
    assert!(listed.len() > 200, "{listed:#?}");
    // Commands have two each, and one site for all.
    let (commands, listed): (BTreeSet<_>, BTreeSet<_>) = listed
        .into_iter()
        .partition(|name| name.starts_with("qmp_enter_") || name.starts_with("qmp_exit_"));
    assert!(listed.len() > 100, "{listed:#?}");
    let mut seen = of_scripts();
    seen.append(&mut of_guest(&roms::vectors_64(), "tcg", "P"));
    let mut hidden = vec![
        // What only a running guest notices: tests of the devices do.
        "ps2_keyboard_event",
        "ps2_mouse_event",
        "ps2_put_keycode",
        "serial_receive",
        "vmstate_load",
        "vmstate_save",
        // Disks, flash and sleep: tests of their models, of SeaBIOS and of Linux come through.
        "block_done",
        "block_request",
        "bmdma_cmd_write",
        "guest_error_virtio",
        "ide_atapi_cmd",
        "ide_ctrl_write",
        "ide_exec_cmd",
        "ide_ioport_read",
        "ide_ioport_write",
        "ide_status_read",
        "pflash_io_read",
        "pflash_io_write",
        "pflash_mode_read_array",
        "pflash_reset",
        "pflash_write_block_erase",
        "pflash_write_block_flush",
        "pflash_write_unknown",
        "system_wakeup_request",
        "virtio_blk_handle",
        "virtio_blk_req_complete",
        "virtio_mmio_guest_page",
        "virtio_mmio_queue_write",
        "virtio_mmio_read",
        "virtio_mmio_setting_irq",
        "virtio_mmio_write_offset",
        "virtio_queue_notify",
        "virtio_set_status",
        "virtqueue_flush",
        // What none of these guests does: tests of the models do.
        "apic_acknowledge",
        "apic_local_deliver",
        "apic_deliver_irq",
        "apic_mem_readl",
        "apic_mem_writel",
        "cpu_get_apic_base",
        "cpu_set_apic_base",
        "guest_error_apic_destination",
        "guest_error_rdmsr",
        "guest_error_wrmsr",
        "pic_interrupt",
        "tb_invalidate_page",
        "kvm_send_msi",
        "kvm_set_irq",
    ];
    if packages::kvm_usable() {
        for irqchip in ["on", "split"] {
            let accelerator = format!("kvm,kernel-irqchip={irqchip}");
            seen.append(&mut of_guest(&roms::counter(), &accelerator, "S"));
        }
    } else {
        qemu_tests::skip_part("/dev/kvm can't be used");
        hidden.extend(
            listed
                .iter()
                .filter(|name| name.starts_with("kvm_"))
                .map(String::as_str),
        );
    }
    seen.append(&mut of_monitors());
    let missing: Vec<_> = listed
        .iter()
        .filter(|name| !seen.contains(*name) && !hidden.contains(&name.as_str()))
        .collect();
    assert!(missing.is_empty(), "never told of: {missing:?}");
    for used in ["enter_query_status", "exit_query_status", "exit_pmemsave"] {
        let used = format!("qmp_{used}");
        assert!(commands.contains(&used) && seen.contains(&used), "{used}");
    }
    let unknown: Vec<_> = seen
        .iter()
        .filter(|name| !listed.contains(*name) && !commands.contains(*name))
        .collect();
    assert!(unknown.is_empty(), "not in the list: {unknown:?}");
}

/// A list without the order in which its elements are, which is QEMU's own.
fn sorted(text: &str) -> String {
    let Some(Value::Array(mut list)) = serde_json::from_str::<Value>(text)
        .ok()
        .map(|answer| answer["return"].clone())
    else {
        return text.to_owned();
    };
    list.sort_by_key(Value::to_string);
    Value::Array(list).to_string()
}

/// Names, patterns, processors and mistakes by QMP.
#[test]
fn states_are_told_and_set_the_same() {
    const GET: &str = "trace-event-get-state";
    const SET: &str = "trace-event-set-state";
    let commands = [
        (GET, json!({"name": "serial_read"})),
        (GET, json!({"name": "serial_write*"})),
        (SET, json!({"name": "serial_*", "enable": true})),
        (GET, json!({"name": "serial_read"})),
        (GET, json!({"name": "serial_w?it*"})),
        (GET, json!({"name": "pic_set_irq"})),
        (
            SET,
            json!({"name": "serial_read", "enable": false, "ignore-unavailable": true}),
        ),
        (GET, json!({"name": "seria*_read"})),
        (GET, json!({"name": "guest_cpu_reset"})),
        (GET, json!({"name": "guest_cpu_reset", "vcpu": 0})),
        (
            SET,
            json!({"name": "guest_cpu_reset", "enable": true, "vcpu": 1}),
        ),
        (GET, json!({"name": "guest_cpu_reset", "vcpu": 0})),
        (GET, json!({"name": "guest_cpu_reset", "vcpu": 1})),
        (GET, json!({"name": "guest_cpu_reset"})),
        (
            SET,
            json!({"name": "guest_cpu_re*", "enable": false, "vcpu": 1}),
        ),
        (GET, json!({"name": "guest_cpu_reset"})),
        (SET, json!({"name": "guest_cpu_reset", "enable": true})),
        (GET, json!({"name": "guest_cpu_reset", "vcpu": 1})),
        (SET, json!({"name": "serial_*", "enable": false, "vcpu": 0})),
        (GET, json!({"name": "serial_write"})),
        (GET, json!({"name": "serial_*", "vcpu": 0})),
        (GET, json!({"name": "serial_read", "vcpu": 0})),
        (
            SET,
            json!({"name": "serial_read", "vcpu": 0, "enable": true}),
        ),
        (GET, json!({"name": "guest_cpu_reset", "vcpu": 2})),
        (GET, json!({"name": "nosuch", "vcpu": 2})),
        (GET, json!({"name": "*", "vcpu": -1})),
        (
            SET,
            json!({"name": "guest_cpu_reset", "vcpu": 4294967296_i64, "enable": true}),
        ),
        (GET, json!({"name": "nosuch"})),
        (GET, json!({"name": "nosuch*"})),
        (GET, json!({"name": ""})),
        (GET, json!({"name": "serial_rea?"})),
        (GET, json!({"name": "serial_[a-z]*"})),
        (SET, json!({"name": "nosuch", "enable": true})),
        (
            SET,
            json!({"name": "nosuch", "enable": true, "ignore-unavailable": true}),
        ),
        (SET, json!({"name": "nosuch*", "enable": true})),
        (SET, json!({"name": "serial_read"})),
        (SET, json!({"enable": true})),
        (SET, json!({"name": "serial_read", "enable": 1})),
        (GET, json!({"name": "qmp_*_query_status"})),
        (
            SET,
            json!({"name": "qmp_enter_query_status", "enable": true}),
        ),
        (GET, json!({"name": "qmp_*_query_status"})),
        (GET, json!({"name": "qmp_exit_query_command_line_options"})),
    ];
    let mut answers = Vec::new();
    for emulator in emulators() {
        let instance = with_rom(emulator, &roms::counter())
            .args(["-S", "-smp", "2"])
            .start();
        let mut client = negotiated(&instance);
        let asked = commands.iter().map(|(command, arguments)| {
            let text = answer(&instance, &mut client, command, arguments);
            if *command == SET {
                std::thread::sleep(TAKEN_UP);
            }
            (format!("{command} {arguments}"), sorted(&text))
        });
        answers.push(asked.collect());
    }
    compare("commands-trace", &answers);
}

/// Lines of the human monitor.
#[test]
fn the_human_monitor_says_the_same() {
    let lines = [
        "trace-event serial_read on",
        "info trace-events serial_read",
        "info trace-events serial_w*",
        "info trace-events guest_cpu_reset 0",
        "info trace-events serial_* 0",
        "info trace-events nosuch",
        "info trace-events nosuch*",
        "info trace-events * 7",
        "info trace-events serial_read 99",
        "info trace-events serial_read -1",
        "trace-event nosuch on",
        "trace-event guest_cpu_reset on 5",
        "trace-event guest_cpu_reset on 0",
        "info trace-events guest_cpu_reset",
        "trace-event serial* on 0",
        "trace-event serial_read off 0",
        "trace-event serial_read",
        "trace-event serial_read maybe",
        "trace-event",
        "trace-event serial_read on 0 5",
        "trace-event serial_read off",
        "info trace-events serial_read",
        "log",
        "log none",
        "log int exec",
        "log trace:pic_set*",
        "info trace-events pic_set_irq",
        "logfile",
        "logfile a b",
        "logfile /nosuch/file",
        "logfile \"\"",
        "logfile /tmp/%s",
    ];
    let mut answers = Vec::new();
    for emulator in emulators() {
        let instance = passive(emulator).start();
        let mut client = negotiated(&instance);
        let said = lines.iter().map(|line| {
            let switches = line.starts_with("trace-event");
            let line = json!({"command-line": line});
            let text = command_with(&mut client, "human-monitor-command", line.clone());
            if switches {
                std::thread::sleep(TAKEN_UP);
            }
            (line.to_string(), text.to_string())
        });
        answers.push(said.collect());
    }
    compare("commands-trace-human", &answers);
}

/// A line of the human monitor, and its text.
fn say(client: &mut QmpClient, line: &str) -> String {
    let text = command_with(
        client,
        "human-monitor-command",
        json!({"command-line": line}),
    );
    text.as_str().expect("a text").to_owned()
}

/// How long QEMU's processors may take to take up what is traced of them.
const TAKEN_UP: Duration = Duration::from_millis(100);

/// What a file holds once nothing more is written into it.
fn settled(path: &Path) -> String {
    let mut before = None;
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        if before.as_ref() == Some(&text) {
            return text;
        }
        before = Some(text);
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// What is switched while the VM runs goes to where it is sent while it runs.
#[test]
fn log_and_traces_follow_the_human_monitor() {
    let instance = with_rom_under(Emulator::Thimble, &roms::counter(), "tcg").start();
    let mut client = negotiated(&instance);
    wait_console(&instance, "S");
    assert!(say(&mut client, "log nosuch").starts_with("Log items (comma separated):\r\nnone"));
    let [first, second] = ["first", "second"].map(|name| instance.dir().join(name));
    let text = |path: &PathBuf| fs::read_to_string(path).unwrap_or_default();
    assert_eq!(
        say(&mut client, &format!("logfile {}", first.display())),
        ""
    );
    assert_eq!(say(&mut client, "log exec,trace:runstate_set"), "");
    wait_until("blocks", || text(&first).matches("Trace 0: [").count() > 10);
    command_with(&mut client, "stop", json!({}));
    wait_until("a state", || {
        text(&first).contains("runstate_set current_run_state 9 (running) new_state 4 (paused)\n")
    });
    assert_eq!(
        say(&mut client, &format!("logfile {}", second.display())),
        ""
    );
    let before = settled(&first);
    command_with(&mut client, "cont", json!({}));
    wait_until("blocks", || {
        text(&second).matches("Trace 0: [").count() > 10
    });
    assert!(
        text(&second)
            .starts_with("runstate_set current_run_state 4 (paused) new_state 9 (running)\n")
    );
    assert_eq!(say(&mut client, "log none"), "");
    assert_eq!(say(&mut client, "trace-event runstate_set off"), "");
    command_with(&mut client, "stop", json!({}));
    let after = settled(&second);
    command_with(&mut client, "cont", json!({}));
    command_with(&mut client, "quit", json!({}));
    assert!(instance.wait(SOON).success());
    assert_eq!(text(&first), before);
    assert_eq!(text(&second), after);
}

/// Lines about the VM and its monitor as QEMU has them.
#[test]
fn the_process_traces_the_same() {
    let events = [
        "qmp_*",
        "runstate_set",
        "vm_state_notify",
        "monitor_qmp_err*",
        "monitor_qmp_cmd*",
        "handle_*",
    ];
    let mut answers = Vec::new();
    for emulator in emulators() {
        let launcher = with_rom(emulator, &roms::counter()).args(["-D", "{dir}/log"]);
        let launcher = events
            .iter()
            .fold(launcher, |launcher, event| launcher.args(["-trace", event]));
        let instance = launcher.start();
        let mut client = negotiated(&instance);
        wait_console(&instance, "S");
        for command in ["stop", "query-status", "query-kvm", "cont", "stop"] {
            ask(&mut client, command);
        }
        refused(&mut client, "nosuch", json!({"a": [1, {"b": null}, "c\n"]}));
        refused(
            &mut client,
            "qom-get",
            json!({"path": "/nosuch", "property": "type"}),
        );
        client.send_raw(b"nonsense\n").expect("sent");
        client.message(SOON).expect("an error");
        say(&mut client, "info status");
        assert_eq!(status(&mut client), "paused");
        command_with(&mut client, "quit", json!({}));
        assert!(instance.wait(SOON).success());
        let log = log_of(&instance);
        let mut told = BTreeMap::<String, Vec<String>>::new();
        for line in log.lines() {
            let (name, rest) = line.split_once(' ').expect("a name");
            // Which monitor it is, is each one's own; ours has no number for the human one.
            let rest = match rest.strip_prefix("mon ") {
                Some(rest) => rest.split_once(' ').map_or("", |(_, rest)| rest),
                None => rest,
            };
            let rest = rest.strip_prefix("req: ").unwrap_or(rest);
            let (text, success) = match (name.starts_with("qmp_exit_"), rest.rsplit_once(' ')) {
                (true, Some((text, success))) => (text, success),
                _ => (rest, ""),
            };
            let mut shown = text.trim_end().to_owned();
            if let Ok(mut value) = serde_json::from_str::<Value>(text) {
                if let Some(object) = value.as_object_mut() {
                    object.remove("id");
                }
                shown = value.to_string();
            }
            // QEMU asks itself for its version; and what there is, is not the same.
            if !["query_version", "query_kvm", "in_band"]
                .iter()
                .any(|end| name.ends_with(end))
            {
                told.entry(name.to_owned())
                    .or_default()
                    .push(format!("{shown} {success}"));
            } else if name == "monitor_qmp_err_in_band" {
                told.entry(name.to_owned()).or_default().push(shown);
            }
        }
        // It stops the guest at its end, which is nobody's business.
        let told = told.into_iter().map(|(name, mut lines)| {
            if ["runstate_set", "vm_state_notify"].contains(&name.as_str()) {
                lines.truncate(3);
            }
            if name == "handle_hmp_command" {
                lines = lines
                    .iter()
                    .map(|line| line.replace("mon xcaafd ", ""))
                    .collect();
            }
            (name, lines.join("\n"))
        });
        answers.push(told.collect::<Vec<_>>());
    }
    let [qemu, thimble] = answers.as_slice() else {
        return;
    };
    assert_eq!(thimble, qemu);
}

/// What might be secret is in no line.
#[test]
fn secrets_are_not_traced() {
    let instance = passive(Emulator::Thimble)
        .args(["-trace", "*", "-D", "{dir}/log"])
        .start();
    let mut client = negotiated(&instance);
    let secret = json!({"qom-type": "secret", "id": "s", "data": "hunter2"});
    let _ = client.execute("object-add", secret);
    let property = json!({"path": "/objects/s", "property": "data", "value": "hunter2"});
    let _ = client.execute("qom-set", property);
    for line in [
        "object_add secret,id=s,data=hunter2",
        "set_password vnc hunter2",
        "x hunter2",
    ] {
        say(&mut client, line);
    }
    command_with(&mut client, "quit", json!({}));
    assert!(instance.wait(SOON).success());
    let log = log_of(&instance);
    let told: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("hunter2"))
        .collect();
    // The one in which it is no secret, as far as one can know; and the parser's answer about it.
    assert!(!told.is_empty());
    assert!(
        told.iter()
            .all(|line| line.contains("x hunter2") || line.contains("unknown register")),
        "{told:#?}"
    );
}

/// A run that ends by itself: whether well, and what it says on standard error.
fn run(launcher: Launcher) -> (bool, String) {
    let instance = launcher.start();
    let success = instance.wait(SOON).success();
    (success, instance.stderr())
}

/// Options: lists, patterns, files, time stamps.
#[test]
fn options_say_what_is_traced() {
    let launcher = passive(Emulator::Thimble);
    fs::write(
        launcher.dir().join("events"),
        "# names\n\nrunstate_set\n-vm_state_notify\nnosuch\n",
    )
    .expect("a file");
    let instance = launcher
        .args(["-trace", "vm_*,events={dir}/events", "-trace", "nosuch"])
        .args(["-d", "trace:machine_reset", "-msg", "timestamp=on"])
        .args(["-D", "{dir}/%d"])
        .start();
    let mut client = negotiated(&instance);
    for command in ["cont", "system_reset", "stop", "quit"] {
        ask(&mut client, command);
    }
    assert!(instance.wait(SOON).success());
    let pid = instance.pid().as_raw_nonzero().to_string();
    let log = fs::read_to_string(instance.dir().join(&pid)).expect("a log");
    let mut told = Vec::new();
    for line in log.lines() {
        let (stamp, line) = line.split_once(':').expect("a time");
        let (process, time) = stamp.split_once('@').expect("a process");
        assert_eq!(process, pid);
        let (seconds, micros) = time.split_once('.').expect("a fraction");
        assert!(seconds.parse::<u64>().expect("seconds") > 1_700_000_000);
        assert!(micros.len() == 6 && micros.parse::<u32>().is_ok(), "{line}");
        told.push(line.split(' ').next().expect("a name").to_owned());
    }
    assert_eq!(told, ["runstate_set", "machine_reset", "runstate_set"]);
    let said = instance.stderr();
    assert!(
        said.contains("-trace nosuch: trace event 'nosuch' does not exist"),
        "{said}"
    );
    assert!(
        said.contains("events:5: trace event 'nosuch' does not exist"),
        "{said}"
    );
}

/// Mistakes end the start with one line.
#[test]
fn mistakes_are_refused() {
    let cases: [(&[&str], &str); 8] = [
        (&["-trace", "foo=bar"], "Invalid parameter 'foo'"),
        (
            &["-trace", "events=/nosuch/file"],
            "No such file or directory",
        ),
        (
            &["-trace", "*,file=/nosuch/file"],
            "No such file or directory",
        ),
        (&["-D", "/nosuch/file"], "No such file or directory"),
        (&["-trace", "file=a", "-D", "b"], "one file"),
        (&["-trace", "file=a%s"], "%d"),
        (&["-dfilter", "0x10..0x5"], "Invalid range"),
        (&["-d", "op_opt"], "no log item 'op_opt'"),
    ];
    for (args, text) in cases {
        let (success, said) = run(passive(Emulator::Thimble).args(args));
        assert!(!success, "{args:?}");
        assert!(
            said.contains(text) && said.lines().count() == 1,
            "{args:?}: {said}"
        );
    }
}

/// A log that can't be written is no reason to stop.
#[test]
fn a_full_disk_harms_nobody() {
    let instance = with_rom(Emulator::Thimble, &roms::counter())
        .args(["-trace", "*", "-D", "/dev/full"])
        .start();
    let mut client = negotiated(&instance);
    wait_console(&instance, "S");
    wait_until("a message", || instance.stderr().contains("the log ends"));
    assert_eq!(status(&mut client), "running");
    command_with(&mut client, "quit", json!({}));
    assert!(instance.wait(SOON).success());
    assert_eq!(instance.stderr().matches("the log ends").count(), 1);
}

/// `-dfilter`: blocks of some addresses only.
#[test]
fn blocks_are_filtered_by_address() {
    let mut answers = Vec::new();
    for emulator in emulators() {
        let instance = with_rom_under(emulator, &roms::vectors_16(), "tcg")
            .args([
                "-d",
                "in_asm",
                "-D",
                "{dir}/log",
                "-dfilter",
                "0xfffffff0+0x10,0xf0000..0xf0010",
            ])
            .start();
        let mut client = negotiated(&instance);
        wait_console(&instance, "P");
        command_with(&mut client, "quit", json!({}));
        assert!(instance.wait(SOON).success());
        let log = log_of(&instance);
        let first = log
            .split("IN:")
            .skip(1)
            .filter_map(|block| block.trim_start().split(':').next());
        let first: BTreeSet<String> = first.map(str::to_owned).collect();
        assert!(!first.is_empty());
        answers.push(first);
    }
    assert_eq!(answers.first(), answers.last());
}

/// `-d guest_errors` and `-d unimp`: what a guest does wrong, and asks for in vain.
#[test]
fn what_guests_do_wrong_is_logged() {
    let instance = Emulator::Thimble
        .launcher()
        .args(Emulator::Thimble.passive_args())
        .args(["-d", "guest_errors,unimp", "-D", "{dir}/log"])
        .with_qtest()
        .with_qmp()
        .start();
    let mut client = instance.qtest();
    for request in [
        "inb 0x5678",
        "outw 0x5678 0x1234",
        "readl 0xfd000000",
        "outb 0x64 0x99",
        "inb 0x64",
    ] {
        client.request(request).expect("an answer");
    }
    let mut client = negotiated(&instance);
    command_with(&mut client, "quit", json!({}));
    assert!(instance.wait(SOON).success());
    let log = log_of(&instance);
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(
        lines,
        [
            "guest_error_port_read addr 0x5678 size 1",
            "guest_error_port_write addr 0x5678 size 1 value 0x34",
            "guest_error_port_write addr 0x5679 size 1 value 0x12",
            "guest_error_memory_read addr 0xfd000000 size 4",
            "unimp_pckbd_command 0x99",
        ]
    );
}
