//! stop, cont, system_reset, system_wakeup, quit, x-exit-preconfig, set-action and watchdog-set-action: what guests do then, and how
//! processes end.

use std::time::{Duration, Instant};

use qemu_tests::{Instance, QmpClient};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    SOON, answer, ask, command_with, compare, connect, counts, doubleword, emulators, events,
    negotiated, passive, refused, roms, status, wait_console, wait_until, with_rom,
};

#[test]
fn stop_and_cont_hold_the_guest_and_let_it_go() {
    for emulator in emulators() {
        let instance = with_rom(emulator, &roms::counter()).args(["-S"]).start();
        let mut client = negotiated(&instance);
        assert_eq!(status(&mut client), "prelaunch");
        assert!(!counts(&instance, &mut client));
        assert_eq!(doubleword(&instance, &mut client, 0x504), 0, "it has run");
        for _ in 0..2 {
            assert_eq!(ask(&mut client, "cont"), json!({}));
            assert_eq!(status(&mut client), "running");
            assert!(counts(&instance, &mut client), "{emulator:?}");
            assert_eq!(ask(&mut client, "stop"), json!({}));
            assert_eq!(status(&mut client), "paused");
            assert!(!counts(&instance, &mut client), "{emulator:?}");
            let seen = events(&mut client);
            assert_eq!(seen, [json!(["RESUME", null]), json!(["STOP", null])]);
        }
        assert_eq!(doubleword(&instance, &mut client, 0x504), 1, "one start");
    }
}

#[test]
fn a_reset_starts_the_guest_again() {
    for emulator in emulators() {
        let instance = with_rom(emulator, &roms::counter()).start();
        let mut client = negotiated(&instance);
        for starts in 1..4 {
            wait_until("the guest starts", || {
                doubleword(&instance, &mut client, 0x504) == starts
            });
            assert_eq!(ask(&mut client, "system_reset"), json!({}));
            let event = client.wait_event("RESET", SOON);
            assert_eq!(
                event["data"],
                json!({"guest": false, "reason": "host-qmp-system-reset"})
            );
        }
        wait_console(&instance, "SSSS");
        // While it is stopped, too; it starts with the next cont.
        ask(&mut client, "stop");
        ask(&mut client, "system_reset");
        client.wait_event("RESET", SOON);
        assert_eq!(doubleword(&instance, &mut client, 0x504), 4);
        assert_eq!(status(&mut client), "prelaunch");
        ask(&mut client, "cont");
        wait_console(&instance, "SSSSS");
    }
}

#[test]
fn quit_ends_the_process_and_tells_every_monitor() {
    for emulator in emulators() {
        let instance = with_rom(emulator, &roms::counter())
            .args(["-qmp", "unix:{dir}/other,server=on,wait=off"])
            .start();
        let mut client = negotiated(&instance);
        let mut other = connect(&instance, "other");
        other.negotiate();
        wait_console(&instance, "S");
        assert_eq!(ask(&mut client, "quit"), json!({}));
        for client in [&mut client, &mut other] {
            let event = client.wait_event("SHUTDOWN", SOON);
            assert_eq!(
                event["data"],
                json!({"guest": false, "reason": "host-qmp-quit"})
            );
            assert!(client.closed(SOON), "{emulator:?}");
        }
        assert_eq!(instance.wait(SOON).code(), Some(0), "{}", instance.report());
        assert!(!instance.dir().join("qmp.sock").exists());
        assert!(!instance.dir().join("other").exists());
    }
}

/// What wakes up, has to have been suspended; and where that can't be, the refusal says so, as query-current-machine does.
#[test]
fn a_machine_that_does_not_sleep_is_not_woken() {
    for emulator in emulators() {
        for board in ["pc", "microvm", "none"] {
            let launcher = emulator.launcher().args(emulator.passive_args());
            let instance = launcher.args(["-M", board]).with_qmp().start();
            let mut client = negotiated(&instance);
            let machine = ask(&mut client, "query-current-machine");
            let sentence = match machine["wakeup-suspend-support"].as_bool() {
                Some(true) => "Unable to wake up: guest is not in suspended state",
                Some(false) => "wake-up from suspend is not supported by this guest",
                None => panic!("{machine}"),
            };
            assert_eq!(
                refused(&mut client, "system_wakeup", json!({})),
                format!("GenericError: {sentence}"),
                "{emulator:?} {board}"
            );
            assert!(events(&mut client).is_empty());
            assert_eq!(status(&mut client), "prelaunch");
        }
    }
}

#[test]
fn preconfig_waits_for_its_command() {
    let commands = [
        "query-status",
        "query-version",
        "query-name",
        "query-uuid",
        "query-kvm",
        "query-machines",
        "query-cpus-fast",
        "query-current-machine",
        "query-migrate-capabilities",
        "query-target",
        "query-yank",
        "inject-nmi",
        "system_wakeup",
        "system_reset",
        "stop",
        "cont",
        "memsave",
        "qom-list",
        "qom-get",
        "qom-list-properties",
        "device-list-properties",
        "set-action",
        "watchdog-set-action",
        "nosuch",
        "x-exit-preconfig",
        "query-status",
        "query-yank",
        "x-exit-preconfig",
        "query-status",
    ];
    let mut answers = Vec::new();
    for emulator in emulators() {
        let mut asked = Vec::new();
        for stay in [false, true] {
            let mut launcher = with_rom(emulator, &roms::counter()).args(["--preconfig"]);
            if stay {
                launcher = launcher.args(["-S"]);
            }
            let instance = launcher.start();
            let mut client = negotiated(&instance);
            for (number, command) in commands.iter().enumerate() {
                let text = answer(&instance, &mut client, command, &json!({}));
                if *command != "query-version" {
                    asked.push((format!("{number} {command} {stay}"), text));
                }
                if number == 0 {
                    std::thread::sleep(Duration::from_millis(100));
                    assert_eq!(crate::console(&instance), "", "the guest has run");
                }
            }
            asked.push((
                format!("events {stay}"),
                json!(events(&mut client)).to_string(),
            ));
            if stay {
                assert_eq!(crate::console(&instance), "", "-S holds");
                ask(&mut client, "cont");
            }
            wait_console(&instance, "S");
            assert_eq!(status(&mut client), "running");
        }
        // The way out that needs no guest.
        let instance = passive(emulator).args(["--preconfig"]).start();
        let mut client = negotiated(&instance);
        assert_eq!(ask(&mut client, "quit"), json!({}));
        assert_eq!(instance.wait(SOON).code(), Some(0), "{}", instance.report());
        answers.push(asked);
    }
    compare("commands-preconfig", &answers);
}

/// What a guest's doing leads to: up to so many events, then the run state or the exit status.
fn outcome(instance: &Instance, client: &mut QmpClient, at_most: usize) -> Value {
    let mut seen = Vec::new();
    let deadline = Instant::now() + Duration::from_millis(700);
    while seen.len() < at_most {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(message) = client.message(left) else {
            break;
        };
        // The reply to cont comes somewhere between the events, or the process ends before it.
        if message.get("event").is_some() {
            seen.push(json!([message["event"], message["data"]]));
        }
    }
    // A process that ends closes its monitors first.
    let ended = client.closed(Duration::from_millis(100)) || instance.try_wait().is_some();
    if ended {
        return json!([seen, instance.wait(SOON).code()]);
    }
    let state = status(client);
    instance.signal(Signal::KILL);
    json!([seen, state])
}

/// One guest under actions that were set over QMP, with the most events to wait for.
type Case = (
    &'static str,
    fn() -> Vec<u8>,
    &'static [&'static str],
    Vec<Value>,
    usize,
);

fn run_cases(test: &str, command: &str, cases: &[Case]) {
    let mut answers = Vec::new();
    for emulator in emulators() {
        let mut asked = Vec::new();
        for (name, rom, options, settings, at_most) in cases {
            let instance = with_rom(emulator, &rom())
                .args(["-S"])
                .args(*options)
                .start();
            let mut client = negotiated(&instance);
            for setting in settings {
                assert_eq!(
                    command_with(&mut client, command, setting.clone()),
                    json!({})
                );
            }
            client.send_command("cont", &json!({}));
            let result = outcome(&instance, &mut client, *at_most);
            asked.push((
                format!("{name} {options:?} {}", json!(settings)),
                result.to_string(),
            ));
        }
        answers.push(asked);
    }
    compare(test, &answers);
}

#[test]
fn set_action_decides_what_follows_a_reset_or_a_panic() {
    const NONE: &[&str] = &[];
    const PANIC: &[&str] = &["-device", "pvpanic"];
    let reset = |name, rom, settings, at_most| -> Case { (name, rom, NONE, settings, at_most) };
    let panic = |settings| -> Case { ("panic", roms::panic, PANIC, settings, 4) };
    run_cases(
        "commands-set-action",
        "set-action",
        &[
            reset("cf9", roms::reset_cf9, vec![], 3),
            reset("cf9", roms::reset_cf9, vec![json!({})], 3),
            reset(
                "cf9",
                roms::reset_cf9,
                vec![json!({"reboot": "shutdown"})],
                3,
            ),
            reset("64", roms::reset_64, vec![json!({"reboot": "shutdown"})], 3),
            reset(
                "fault",
                roms::triple_fault,
                vec![json!({"reboot": "shutdown"})],
                3,
            ),
            reset("64", roms::reset_64, vec![json!({"reboot": "reset"})], 3),
            reset(
                "64",
                roms::reset_64,
                vec![json!({"reboot": "shutdown"}), json!({"reboot": "reset"})],
                3,
            ),
            reset(
                "64",
                roms::reset_64,
                vec![json!({"reboot": "shutdown", "shutdown": "pause"})],
                4,
            ),
            reset(
                "64",
                roms::reset_64,
                vec![
                    json!({"shutdown": "pause"}),
                    json!({"reboot": "shutdown"}),
                    json!({}),
                ],
                4,
            ),
            reset("64", roms::reset_64, vec![json!({"shutdown": "pause"})], 3),
            (
                "64",
                roms::reset_64,
                &["-no-reboot"],
                vec![json!({"reboot": "reset"})],
                3,
            ),
            (
                "64",
                roms::reset_64,
                &["-no-reboot", "-no-shutdown"],
                vec![json!({"shutdown": "poweroff"})],
                3,
            ),
            (
                "exit",
                roms::debug_exit,
                &["-device", "isa-debug-exit,iobase=0xf4"],
                vec![json!({"shutdown": "pause"})],
                3,
            ),
            panic(vec![]),
            panic(vec![json!({"panic": "pause"})]),
            panic(vec![json!({"panic": "shutdown"})]),
            panic(vec![json!({"panic": "exit-failure"})]),
            panic(vec![json!({"panic": "none"})]),
            panic(vec![json!({"panic": "shutdown", "shutdown": "pause"})]),
        ],
    );
}

#[test]
fn actions_of_the_watchdog_follow_its_expiry() {
    const WATCHDOG: &[&str] = &["-device", "ib700"];
    let case = |settings| -> Case { ("watchdog", roms::watchdog, WATCHDOG, settings, 4) };
    let names = [
        "reset",
        "shutdown",
        "poweroff",
        "pause",
        "debug",
        "none",
        "inject-nmi",
    ];
    for (command, member) in [
        ("watchdog-set-action", "action"),
        ("set-action", "watchdog"),
    ] {
        let cases: Vec<Case> = names
            .iter()
            .map(|name| case(vec![json!({member: name})]))
            .collect();
        run_cases("commands-watchdog", command, &cases);
    }
    run_cases(
        "commands-watchdog",
        "watchdog-set-action",
        &[
            case(vec![]),
            case(vec![json!({"action": "none"}), json!({"action": "pause"})]),
        ],
    );
}

/// One bad member, and nothing of the whole is done.
#[test]
fn a_refused_set_action_changes_nothing() {
    for emulator in emulators() {
        let instance = with_rom(emulator, &roms::reset_64()).args(["-S"]).start();
        let mut client = negotiated(&instance);
        for arguments in [
            json!({"reboot": "shutdown", "panic": "nosuch"}),
            json!({"reboot": "shutdown", "watchdog": 1}),
            json!({"reboot": "shutdown", "extra": "none"}),
        ] {
            refused(&mut client, "set-action", arguments);
        }
        ask(&mut client, "cont");
        client.wait_event("RESET", SOON);
        client.wait_event("RESET", SOON);
    }
}
