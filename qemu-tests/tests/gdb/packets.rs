//! Packets by hand: what both emulators answer, what QMP's clients see meanwhile, and bad input.

use std::time::Duration;

use qemu_tests::{Emulator, Instance, QmpClient, packages, skip};
use serde_json::{Value, json};

use super::remote::Remote;
use super::{PATIENCE, launcher};

/// The image's places, from its ELF file.
fn symbol(name: &str) -> u64 {
    use object::{Object, ObjectSymbol};
    let file = std::fs::read(qemu_tests::images::elf("debugged")).expect("the image's file");
    let elf = object::File::parse(&*file).expect("an ELF file");
    let found = elf.symbols().find(|symbol| symbol.name() == Ok(name));
    found.expect("a place of the image").address()
}

fn status(client: &mut QmpClient) -> String {
    let status = client.execute("query-status", json!({})).expect("a status");
    status["status"].as_str().expect("a text").to_string()
}

/// What has happened so far, in order; a status is asked for so that all has come.
fn events(client: &mut QmpClient) -> Vec<String> {
    status(client);
    let mut names = Vec::new();
    while let Ok(event) = client.event(Duration::from_millis(100)) {
        names.push(event["event"].as_str().expect("a text").to_string());
    }
    names
}

fn connect(instance: &Instance) -> (Remote, QmpClient) {
    let mut client = instance.qmp();
    client.negotiate();
    (Remote::connect(instance), client)
}

#[test]
fn packets_are_answered_alike() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let packets = [
        // QEMU tells of single registers only who has read which there are.
        "qXfer:features:read:target.xml:0,1",
        "?",
        "qC",
        "qfThreadInfo",
        "qAttached",
        "qAttached:1",
        "vCont?",
        "Hg0",
        "Hc-1",
        "Hc0",
        "Hg2",
        "Hg1",
        "Hg9",
        "H",
        "Hx1",
        "T1",
        "T2",
        "T3",
        "qThreadExtraInfo,1",
        "g",
        "p0",
        "p10",
        "p11",
        "p12",
        "p17",
        "p1b",
        "p1f",
        "p20",
        "p29",
        "p2a",
        "p31",
        "p41",
        "p42",
        "pff",
        "P3=8877665544332211",
        "p3",
        "P10=f0ff000000000000",
        "m0,4",
        "m1000,10",
        "m0,ffff",
        "mf0000000,4",
        "M1000,4:deadbeef",
        "m1000,4",
        "M0,2:90",
        "m",
        "mzz,1",
        "m0",
        "M0,1",
        "Z0,1000,1",
        "z0,1000,1",
        "Z1,1000,1",
        "z1,1000,1",
        "Z2,1000,4",
        "Z3,1000,4",
        "Z4,1000,4",
        "z2,1000,4",
        "z3,1000,4",
        "z4,1000,4",
        "Z2,1000,0",
        "Z5,0,1",
        "Z9,0,1",
        "z9,0,1",
        "Z0,1000",
        "qqemu.sstepbits",
        "qqemu.sstep",
        "Qqemu.sstep=5",
        "qqemu.sstep",
        "Qqemu.sstep=9",
        "Qqemu.sstep=7",
        "qqemu.PhyMemMode",
        "Qqemu.PhyMemMode:1",
        "qqemu.PhyMemMode",
        "mffff0,1",
        "Qqemu.PhyMemMode:0",
        "qRcmd,zz",
        "!",
        "vMustReplyEmpty",
        "vFile:open",
        "qTStatus",
        "qOffsets",
        "qSymbol::",
        "qCRC:0,10",
        "xx",
        "",
        "vCont;x",
        "vCont;s:9",
        "qSupported:multiprocess+",
        "qC",
        "?",
        "T1",
        "Tp1.2",
        "Hgp1.2",
        "Hgp0.0",
    ];
    let [qemu, thimble] = Emulator::BOTH.map(|emulator| {
        let instance = launcher(emulator, "tcg").args(["-smp", "2"]).start();
        let mut remote = Remote::connect(&instance);
        let answers = packets.map(|packet| (packet, remote.ask(packet)));
        answers.to_vec()
    });
    for (qemu, mut thimble) in qemu.into_iter().zip(thimble) {
        match qemu.0 {
            // QEMU tells one thread at a time.
            "qfThreadInfo" => {
                assert_eq!((qemu.1.as_str(), thimble.1.as_str()), ("m01", "m01,02"));
                continue;
            }
            // It has a few more.
            "qSupported:multiprocess+" => thimble.1.truncate(qemu.1.len()),
            // What does not parse is unknown to it.
            "mzz,1" | "vCont;x" if qemu.1.is_empty() && thimble.1 == "E22" => {
                continue;
            }
            // QEMU passes over what is no text, and says that it can be extended.
            "qRcmd,zz" | "!" => {
                assert_eq!(qemu.1, "OK");
                continue;
            }
            // QEMU leaves the tag word zero: each register is in use then.
            "g" => {
                let ftag = 2 * (16 * 8 + 8 + 4 + 6 * 4 + 3 * 8 + 6 * 8 + 80 + 8);
                thimble.1.replace_range(ftag..ftag + 8, "00000000");
            }
            _ => {}
        }
        assert_eq!(thimble, qemu);
    }
}

/// What QMP's clients see of a debugger's work.
#[test]
fn states_and_events() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let (in_real, counting) = (symbol("in_real"), symbol("counting"));
    let [qemu, thimble] = Emulator::BOTH.map(|emulator| {
        let instance = launcher(emulator, "tcg").start();
        let (mut remote, mut client) = connect(&instance);
        let mut seen = vec![json!("start")];
        let mut note = |what: &str, answer: String, client: &mut QmpClient| {
            seen.push(json!([what, answer, status(client), events(client)]));
        };
        let told = |remote: &mut Remote| remote.packet().expect("a packet");
        note("connected", remote.ask("?"), &mut client);
        note("set", remote.ask(&format!("Z0,{in_real:x},1")), &mut client);
        note("hit", remote.ask("c"), &mut client);
        note("step", remote.ask("s"), &mut client);
        note("step", remote.ask("vCont;s:1"), &mut client);
        // Another client lets it run to the next breakpoint, which nobody has asked the debugger to tell.
        note(
            "set",
            remote.ask(&format!("Z1,{counting:x},1")),
            &mut client,
        );
        note("hit", remote.ask("c"), &mut client);
        note(
            "taken",
            remote.ask(&format!("z1,{counting:x},1")),
            &mut client,
        );
        remote.send("c");
        client.wait_event("RESUME", PATIENCE);
        note("runs", "".into(), &mut client);
        client.execute("stop", json!({})).expect("it stops");
        note("stopped", told(&mut remote), &mut client);
        remote.send("vCont;c");
        client.wait_event("RESUME", PATIENCE);
        remote.raw(&[3]);
        note("interrupted", told(&mut remote), &mut client);
        // A reset keeps the breakpoint.
        client.execute("system_reset", json!({})).expect("a reset");
        note("reset", "".into(), &mut client);
        note("hit", remote.ask("c"), &mut client);
        note("detached", remote.ask("D"), &mut client);
        drop(remote);
        client.execute("stop", json!({})).expect("it stops");
        client.execute("cont", json!({})).expect("it runs");
        note("alone", "".into(), &mut client);
        let mut next = Remote::connect(&instance);
        let mut answer = next.ask("qC");
        if answer.starts_with('T') {
            // QEMU tells it of a stop that it has not asked for.
            answer = told(&mut next);
        }
        note("another", answer, &mut client);
        next.send("k");
        let code = instance.wait(PATIENCE).code();
        seen.push(json!(code));
        seen
    });
    for (qemu, thimble) in qemu.iter().zip(&thimble) {
        assert_eq!(thimble, qemu);
    }
    assert_eq!(thimble.last(), Some(&Value::from(0)));
}

/// The reasons of stops, with addresses.
#[test]
fn stops_say_why() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let places = ["word", "block", "behind", "bump", "in_long"].map(symbol);
    let [word, block, behind, bump, in_long] = places;
    let [qemu, thimble] = Emulator::BOTH.map(|emulator| {
        let instance = launcher(emulator, "tcg").start();
        let mut remote = Remote::connect(&instance);
        // QEMU tells of single registers only who has read which there are.
        remote.ask("qXfer:features:read:target.xml:0,100");
        let mut answers = Vec::new();
        for (set, gone) in [
            (format!("Z1,{in_long:x},1"), true),
            (format!("Z0,{bump:x},1"), true),
            (format!("Z2,{word:x},4"), true),
            (format!("Z3,{word:x},4"), true),
            (format!("Z4,{block:x},1"), true),
            (format!("Z2,{behind:x},4"), false),
        ] {
            answers.push(remote.ask(&set));
            answers.push(remote.ask("vCont;c"));
            answers.push(remote.ask("p10"));
            if gone {
                answers.push(remote.ask(&set.replace('Z', "z")));
            }
        }
        answers
    });
    assert_eq!(thimble, qemu);
    assert!(thimble[5].starts_with("T05thread:01;"), "{thimble:?}");
    assert_eq!(thimble[9], format!("T05thread:01;watch:{word:016x};"));
}

/// Whoever knows of them is told which kind of breakpoint it was.
#[test]
fn kinds_of_breakpoints() {
    let instance = launcher(Emulator::Thimble, "tcg").start();
    let mut remote = Remote::connect(&instance);
    remote.ask("qSupported:swbreak+;hwbreak+");
    for (kind, place, name) in [(0, "in_real", "swbreak"), (1, "in_long", "hwbreak")] {
        let at = format!("{kind},{:x},1", symbol(place));
        remote.ask(&format!("Z{at}"));
        assert_eq!(remote.ask("c"), format!("T05thread:01;{name}:;"));
        remote.ask(&format!("z{at}"));
    }
}

#[test]
fn bad_packets_do_no_harm() {
    let instance = launcher(Emulator::Thimble, "tcg").start();
    let (mut remote, mut client) = connect(&instance);
    // Cut, and begun again.
    remote.raw(b"$m0,");
    assert_eq!(remote.ask("qC"), "QC01");
    // A sum that is wrong is asked for again, and the answer, too.
    remote.raw(b"$qC#00");
    assert_eq!(remote.byte(), Some(b'-'));
    remote.raw(b"$qC#b4");
    assert_eq!(remote.packet().as_deref(), Some("QC01"));
    remote.raw(b"-");
    assert_eq!(remote.packet().as_deref(), Some("QC01"));
    // Huge, with its sum and without an end.
    let huge = "m".repeat(1 << 20);
    assert_eq!(remote.ask(&huge), "E22");
    remote.raw(b"$");
    remote.raw(huge.as_bytes());
    assert_eq!(remote.ask("qC"), "QC01");
    // Addresses that don't exist.
    for packet in [
        "mfffffffffffffff0,20",
        "m1000000,1",
        "M1000000,1:00",
        "X1000000,1:x",
        "mfec00000,1000000",
        "c,",
        "vCont;s:ffffffffffffffff",
        "Z0,10000000000000000,1",
        "Z2,0,ffffffffffffffffff",
    ] {
        let answer = remote.ask(packet);
        assert!(answer == "E14" || answer == "E22", "{packet}: {answer}");
    }
    // As many as there is room for.
    let full = (0..1000).find(|n| remote.ask(&format!("Z0,{n:x},1")) != "OK");
    assert_eq!(full, Some(128));
    let full = (0..1000).find(|n| remote.ask(&format!("Z2,{n:x},1")) != "OK");
    assert_eq!(full, Some(32));
    // Bytes that are no packets at all.
    remote.raw(&[0, 0xff, b'#', b'}', b'*', b'%', b'\n', 3, 3, b'+', b'-']);
    assert_eq!(remote.packet().as_deref(), Some("E22"));
    assert_eq!(status(&mut client), "prelaunch");
    // Without acknowledgments nobody asks for sums.
    assert_eq!(remote.ask("QStartNoAckMode"), "OK");
    remote.raw(b"$qC#00");
    assert_eq!(remote.packet().as_deref(), Some("QC01"));
}

/// Who asks without reading loses its connection, and nothing else happens.
#[test]
fn a_debugger_that_does_not_read() {
    let instance = launcher(Emulator::Thimble, "tcg")
        .lifetime(3 * PATIENCE)
        .start();
    let (mut remote, mut client) = connect(&instance);
    let asked = (0..100_000).find(|_| !remote.try_send("m0,800"));
    assert!(asked.is_some(), "{}", instance.report());
    drop(remote);
    assert_eq!(status(&mut client), "prelaunch");
    let mut next = Remote::connect(&instance);
    assert_eq!(next.ask("qC"), "QC01");
}

#[test]
fn one_debugger_after_the_other() {
    let instance = launcher(Emulator::Thimble, "tcg").start();
    let (mut first, mut client) = connect(&instance);
    assert_eq!(first.ask(&format!("Z0,{:x},1", symbol("in_real"))), "OK");
    let mut second = Remote::connect(&instance);
    second.send("qC");
    assert!(second.is_quiet());
    assert_eq!(first.ask("qC"), "QC01");
    first.send("c");
    assert!(first.packet().is_some());
    // The first one's breakpoints go with it, and the guest stands where it stood.
    drop(first);
    assert_eq!(second.packet().as_deref(), Some("QC01"));
    assert_eq!(status(&mut client), "debug");
    second.send("c");
    client.wait_event("RESUME", PATIENCE);
    assert!(second.is_quiet());
    // A connection that ends while the guest runs lets it run.
    drop(second);
    assert_eq!(status(&mut client), "running");
    let mut third = Remote::connect(&instance);
    assert_eq!(third.ask("qC"), "QC01");
    assert_eq!(status(&mut client), "paused");
}

#[test]
fn the_human_monitor_opens_and_closes_the_door() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let [qemu, thimble] = Emulator::BOTH.map(|emulator| {
        let instance = launcher(emulator, "tcg").start();
        let mut client = instance.qmp();
        client.negotiate();
        let mut say = |line: &str| {
            let line = line.replace("{dir}", instance.dir().to_str().expect("a plain path"));
            let arguments = json!({ "command-line": line });
            let text = client.execute("human-monitor-command", arguments);
            let text = text.expect("a text").as_str().expect("a text").to_string();
            text.replace(instance.dir().to_str().expect("a plain path"), "{dir}")
        };
        let mut first = Remote::connect(&instance);
        let mut seen = vec![first.ask("qC"), say("gdbserver none")];
        // QEMU keeps the connection without serving it any more.
        seen.push(say("gdbserver unix:{dir}/other.sock,server=on,wait=off"));
        std::fs::remove_file(instance.dir().join("gdb.sock")).ok();
        std::fs::rename(
            instance.dir().join("other.sock"),
            instance.dir().join("gdb.sock"),
        )
        .expect("the new socket");
        let mut second = Remote::connect(&instance);
        seen.push(second.ask("qC"));
        seen.push(say("gdbserver foo"));
        seen
    });
    assert_eq!(thimble, qemu);
    assert!(thimble[1].starts_with("Disabled gdbserver"));
}

#[test]
fn a_machine_without_processors() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let [qemu, thimble] = Emulator::BOTH.map(|emulator| {
        let instance = emulator
            .launcher()
            .args(["-M", "none", "-display", "none", "-gdb", "tcp:127.0.0.1:0"])
            .start();
        let code = instance.wait(PATIENCE).code();
        let text = instance.stderr();
        let said = text
            .split_once("gdbstub: ")
            .map(|(_, said)| said.to_string());
        (code, said)
    });
    assert_eq!(thimble, qemu);
}

/// A run whose time goes by instructions is the same with a debugger that looks, steps and lets go.
#[test]
fn counted_time_does_not_notice() {
    let run = |debug: bool| {
        let rom = qemu_tests::images::rom("counted");
        let instance = Emulator::Thimble
            .launcher()
            .args(["-accel", "tcg", "-nodefaults", "-display", "none"])
            .args(["-M", "pc", "-m", "8", "-cpu", "max", "-smp", "2"])
            .args(["-debugcon", "file:{dir}/console"])
            .args(["-global", "isa-debugcon.iobase=0x402"])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
            .args(["-rtc", "base=2020-01-01T23:59:59,clock=vm"])
            .args(["-icount", "3", "-seed", "5", "-S"])
            .args(["-bios", rom.to_str().expect("a plain path")])
            .args(["-gdb", "unix:{dir}/gdb.sock,server=on,wait=off"])
            .start();
        let mut remote = Remote::connect(&instance);
        if debug {
            // Steps take interrupts where they would be taken.
            assert_eq!(remote.ask("qqemu.sstepbits"), "ENABLE=1");
            for step in 0..3000 {
                let packet = if step % 3 == 0 { "s" } else { "vCont;s:1;c" };
                assert!(remote.ask(packet).starts_with("T05"));
                if step % 100 == 0 {
                    remote.ask("g");
                    remote.ask("m1000,100");
                }
            }
            for _ in 0..20 {
                remote.send("c");
                std::thread::sleep(Duration::from_millis(1));
                remote.raw(&[3]);
                let told = remote.packet().expect("a packet");
                if told.starts_with('W') {
                    break;
                }
            }
        }
        remote.send("c");
        let status = instance.wait(3 * PATIENCE);
        assert_eq!(status.code(), Some(33), "{}", instance.report());
        std::fs::read_to_string(instance.dir().join("console")).expect("the console's file")
    };
    let alone = run(false);
    assert_eq!(alone.lines().count(), 31, "{alone}");
    assert_eq!(run(true), alone);
}
