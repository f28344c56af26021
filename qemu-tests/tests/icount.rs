//! Time by instructions, and random numbers by a seed: runs that repeat themselves, and what both emulators say of the
//! options.

use std::time::Duration;

use qemu_tests::{Emulator, Instance, Launcher, images, packages, skip};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(60);

/// Runs of each kind.
const RUNS: usize = 3;

/// How often a guest is held.
const LOOKS: usize = 12;

/// The image that prints all that depends on time and chance.
fn launcher(options: &[&str]) -> Launcher {
    Emulator::Thimble
        .launcher()
        .args(["-accel", "tcg", "-nodefaults", "-display", "none"])
        .args(["-M", "pc", "-m", "8", "-cpu", "max"])
        .args(["-debugcon", "file:{dir}/console"])
        .args(["-global", "isa-debugcon.iobase=0x402"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
        .args(["-rtc", "base=2020-01-01T23:59:59,clock=vm"])
        .args([
            "-bios",
            images::rom("counted").to_str().expect("a plain path"),
        ])
        .args(options)
}

/// What it has printed by its end.
fn printed(instance: &Instance) -> String {
    let status = instance.wait(PATIENCE);
    assert_eq!(status.code(), Some(33), "{}", instance.report());
    std::fs::read_to_string(instance.dir().join("console")).expect("the console's file")
}

fn run(options: &[&str]) -> String {
    let text = printed(&launcher(options).start());
    assert_eq!(text.lines().count(), 31, "{text}");
    text
}

#[test]
fn runs_repeat_themselves() {
    for options in [
        &["-icount", "3"][..],
        &["-icount", "3,sleep=off"],
        &["-icount", "0", "-smp", "2"],
        &["-icount", "3", "-smp", "3"],
        &["-icount", "6,sleep=off", "-smp", "4"],
    ] {
        let options = [options, &["-seed", "5"]].concat();
        let first = run(&options);
        for _ in 1..RUNS {
            assert_eq!(run(&options), first, "{options:?}");
        }
    }
}

/// A wait takes time, or none; the guest can't tell.
#[test]
fn sleep_is_not_seen() {
    let awake = run(&["-icount", "3,sleep=off", "-seed", "1"]);
    assert_eq!(run(&["-icount", "3,sleep=on", "-seed", "1"]), awake);
}

#[test]
fn seeds_tell_runs_apart() {
    // Numbers of another length take longer to print, so that what follows is not comparable.
    let first = |options: &[&str]| {
        let text = run(options);
        let (before, random) = text.lines().next()?.split_once(", random ")?;
        Some((before.to_owned(), random.to_owned()))
    };
    let [one, two, three, again] = [
        &["-icount", "3", "-seed", "1"][..],
        &["-icount", "3", "-seed", "2"],
        &["-icount", "3"],
        &["-icount", "3"],
    ]
    .map(|options| first(options).expect("a line"));
    assert_eq!([&one.0; 3], [&two.0, &three.0, &again.0]);
    assert!(one.1 != two.1 && two.1 != three.1 && three.1 != again.1);
}

/// Who looks at the guest, or holds it for a while, changes nothing.
#[test]
fn nobody_is_noticed() {
    let options = ["-icount", "0", "-smp", "3", "-seed", "9"];
    let alone = run(&options);
    let instance = launcher(&options).args(["-S"]).with_qmp().start();
    let mut client = instance.qmp();
    client.negotiate();
    client.execute("cont", json!({})).expect("a start");
    // It takes much longer than all of them.
    for _ in 0..LOOKS {
        std::thread::sleep(Duration::from_millis(1));
        let look = json!({"command-line": "info registers -a"});
        for (command, arguments) in [
            ("human-monitor-command", look),
            ("stop", json!({})),
            ("cont", json!({})),
        ] {
            client.execute(command, arguments).expect("an answer");
        }
    }
    assert_eq!(printed(&instance), alone);
}

/// The clock of a guest that adapts goes with the host's, whether it works or waits.
#[test]
fn an_adapting_clock_goes_on() {
    let text = run(&["-icount", "auto"]);
    assert!(text.starts_with("start 0: tsc "), "{text}");
}

#[test]
fn refusals_are_alike() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    for options in [
        &["-icount", "help"][..],
        &["-icount", "shift=11"],
        &["-icount", "shift=x"],
        &["-icount", "shift=-1"],
        &["-icount", "shift="],
        &["-icount", "shift=3,foo=1"],
        &["-icount", "shift=3,sleep=maybe"],
        &["-seed", "x"],
        &["-seed", "-1"],
        &["-seed", ""],
        &["-seed", "99999999999999999999999"],
        &["-accel", "kvm", "-icount", "shift=3"],
    ] {
        if options.contains(&"kvm") && !packages::kvm_usable() {
            continue;
        }
        let answers = Emulator::BOTH.map(|emulator| {
            let instance = emulator
                .launcher()
                .args(["-display", "none", "-nodefaults", "-S"])
                .args(options)
                .start();
            assert_eq!(instance.wait(PATIENCE).code(), Some(1), "{options:?}");
            let text = instance.stderr();
            let line = text.lines().next().unwrap_or_default();
            let (_, rest) = line.split_once(": ").unwrap_or_default();
            rest.to_owned()
        });
        assert_eq!(answers[0], answers[1], "{options:?}");
    }
    for options in [
        ["-icount", "shift=3,align=on"],
        ["-icount", "shift=3,rr=record,rrfile=x"],
    ] {
        let instance = Emulator::Thimble.launcher().args(options).start();
        assert_eq!(instance.wait(PATIENCE).code(), Some(1));
        assert!(
            instance.stderr().contains("is not available"),
            "{}",
            instance.report()
        );
    }
}
