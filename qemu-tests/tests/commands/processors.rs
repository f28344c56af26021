//! query-cpus, query-cpus-fast, query-gic-capabilities, query-kvm and inject-nmi: threads that exist, states that are true,
//! handlers that run.

use qemu_tests::{Emulator, Instance, packages, skip_part};
use serde_json::{Value, json};

use crate::{
    NEVER, ask, command_with, compare, console, counts, emulators, negotiated, passive, refused,
    roms, wait_console, wait_until, with_rom,
};

/// The user time, in clock ticks, that a thread of the emulator has had; `None` if it has no such thread.
fn processor_time(instance: &Instance, thread: &Value) -> Option<u64> {
    let pid = instance.pid().as_raw_nonzero();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/stat")).ok()?;
    // The fields behind the name, which may hold anything: state first, then user and system time 11 and 12 further.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(number(11)? + number(12)?)
}

#[test]
fn processors_are_listed_with_their_threads() {
    let mut answers = Vec::new();
    for emulator in emulators() {
        let mut asked = Vec::new();
        for smp in [
            "1",
            "2",
            "4,sockets=1,cores=2,threads=2",
            "2,maxcpus=4",
            "3,sockets=3",
        ] {
            let instance = with_rom(emulator, &roms::counter())
                .args(["-S", "-smp", smp])
                .start();
            let mut client = negotiated(&instance);
            let mut list = ask(&mut client, "query-cpus-fast");
            let mut threads = Vec::new();
            for (index, processor) in list.as_array_mut().expect("a list").iter_mut().enumerate() {
                assert_eq!(processor["cpu-index"], json!(index));
                let thread = &mut processor["thread-id"];
                assert!(
                    processor_time(&instance, thread).is_some(),
                    "{emulator:?}: there is no thread {thread}"
                );
                threads.push(thread.take());
            }
            let count = smp.split(',').next().map(str::parse::<usize>);
            assert_eq!(Some(Ok(threads.len())), count);
            if emulator == Emulator::Thimble || smp == "1" {
                // QEMU's software CPU may run several in one thread, and ours does.
                let count = match packages::accelerator() {
                    "tcg" => Some(Ok(1)),
                    _ => count,
                };
                threads.sort_by_key(ToString::to_string);
                threads.dedup();
                assert_eq!(Some(Ok(threads.len())), count, "{threads:?}");
            }
            asked.push((smp.to_string(), list.to_string()));
        }
        answers.push(asked);
    }
    compare("commands-processors", &answers);
}

#[test]
fn the_listed_thread_runs_the_guest() {
    for emulator in emulators() {
        let instance = with_rom(emulator, &roms::counter()).args(["-S"]).start();
        let mut client = negotiated(&instance);
        let list = ask(&mut client, "query-cpus-fast");
        let thread = &list[0]["thread-id"];
        let time = || processor_time(&instance, thread).expect("a thread");
        let before = time();
        std::thread::sleep(NEVER);
        assert!(time() <= before + 1, "it runs before the guest does");
        ask(&mut client, "cont");
        wait_until("the thread runs", || time() >= before + 5);
        ask(&mut client, "stop");
        let stopped = time();
        std::thread::sleep(NEVER);
        assert!(time() <= stopped + 1, "it runs while the VM is stopped");
    }
}

#[test]
fn the_empty_machine_has_no_processors() {
    for emulator in emulators() {
        let launcher = emulator.launcher().args(emulator.passive_args());
        let instance = launcher.args(["-M", "none"]).with_qmp().start();
        let mut client = negotiated(&instance);
        assert_eq!(ask(&mut client, "query-cpus-fast"), json!([]));
        if emulator == Emulator::Thimble {
            assert_eq!(ask(&mut client, "query-cpus"), json!([]));
            assert_eq!(
                refused(&mut client, "cpu", json!({"index": 0})),
                "GenericError: Parameter 'index' expects a CPU number"
            );
        }
    }
}

/// QEMU has had no query-cpus since 6.0.
#[test]
fn query_cpus_tells_what_each_processor_does() {
    let instance = with_rom(Emulator::Thimble, &roms::counter())
        .args(["-S", "-smp", "2"])
        .start();
    let mut client = negotiated(&instance);
    let list = ask(&mut client, "query-cpus");
    let fast = ask(&mut client, "query-cpus-fast");
    let list = list.as_array().expect("a list");
    assert_eq!(list.len(), 2);
    for (processor, fast) in list.iter().zip(fast.as_array().expect("a list")) {
        assert_eq!(processor["CPU"], fast["cpu-index"]);
        assert_eq!(processor["thread_id"], fast["thread-id"]);
    }
    // At the reset vector, before the first instruction; the second one waits for its start-up.
    assert_eq!(list[0]["pc"], json!(0xffff_fff0_u32));
    assert_eq!(list[0]["halted"], false);
    assert_eq!(list[1]["halted"], true);
    assert_eq!(list[0]["current"], true);
    assert_eq!(list[1]["current"], false);
    assert_eq!(
        command_with(&mut client, "cpu", json!({"index": 1})),
        json!({})
    );
    let list = ask(&mut client, "query-cpus");
    assert_eq!(list[0]["current"], false);
    assert_eq!(list[1]["current"], true);

    // In its loop, at the ROM's start; and on it goes.
    ask(&mut client, "cont");
    wait_console(&instance, "S");
    let place = |client: &mut qemu_tests::QmpClient| {
        let list = ask(client, "query-cpus");
        list[0]["pc"].as_u64().expect("an address")
    };
    for _ in 0..20 {
        let pc = place(&mut client);
        assert!((0xffff_0000..0xffff_0020).contains(&pc), "{pc:#x}");
    }
    assert!(counts(&instance, &mut client), "asking stops the guest");
    ask(&mut client, "stop");
    let stopped = place(&mut client);
    assert_eq!(place(&mut client), stopped);
}

/// ARM's interrupt controllers don't exist here; QEMU lists the command only for ARM since 6.2.
#[test]
fn there_are_no_gic_capabilities() {
    let instance = passive(Emulator::Thimble).start();
    let mut client = negotiated(&instance);
    assert_eq!(ask(&mut client, "query-gic-capabilities"), json!([]));
}

#[test]
fn query_kvm_tells_what_runs_the_guest() {
    for emulator in emulators() {
        for (accelerator, enabled) in [("tcg", false), ("kvm", true)] {
            if enabled && !packages::kvm_usable() {
                skip_part("/dev/kvm can't be used");
                continue;
            }
            let instance = emulator
                .launcher()
                .args(["-accel", accelerator, "-S", "-nodefaults"])
                .args(["-display", "none", "-M", "pc", "-m", "16"])
                .with_qmp()
                .start();
            let mut client = negotiated(&instance);
            assert_eq!(
                ask(&mut client, "query-kvm"),
                json!({"enabled": enabled, "present": true}),
                "{emulator:?}"
            );
        }
    }
}

#[test]
fn an_nmi_comes_where_the_local_apic_lets_it() {
    for emulator in emulators() {
        let irqchips: &[&str] = match emulator {
            Emulator::Qemu => &["pc"],
            // Its default, and the machine's own local APICs.
            Emulator::Thimble if packages::kvm_usable() => &["pc", "pc,kernel-irqchip=off"],
            Emulator::Thimble => &["pc"],
        };
        for machine in irqchips {
            nmis(emulator, machine);
        }
    }
}

fn nmis(emulator: Emulator, machine: &str) {
    let start = |rom: &[u8]| {
        let launcher = with_rom(emulator, rom);
        launcher.args(["-machine", machine]).start()
    };
    let instance = start(&roms::nmi());
    let mut client = negotiated(&instance);
    wait_console(&instance, "R");
    for printed in ["RN", "RNN", "RNNN"] {
        assert_eq!(ask(&mut client, "inject-nmi"), json!({}));
        wait_console(&instance, printed);
    }
    assert!(counts(&instance, &mut client), "the guest goes on");

    // One that comes while the VM is stopped is not lost.
    ask(&mut client, "stop");
    assert_eq!(ask(&mut client, "inject-nmi"), json!({}));
    std::thread::sleep(NEVER);
    assert_eq!(console(&instance), "RNNN");
    ask(&mut client, "cont");
    wait_console(&instance, "RNNNN");

    let instance = start(&roms::nmi_masked());
    let mut client = negotiated(&instance);
    wait_console(&instance, "R");
    assert_eq!(ask(&mut client, "inject-nmi"), json!({}));
    std::thread::sleep(NEVER);
    assert_eq!(console(&instance), "R", "{emulator:?} {machine}");
    assert!(counts(&instance, &mut client), "the guest goes on");
}

#[test]
fn without_processors_there_is_nobody_to_interrupt() {
    for emulator in emulators() {
        let launcher = emulator.launcher().args(emulator.passive_args());
        let instance = launcher.args(["-M", "none"]).with_qmp().start();
        let mut client = negotiated(&instance);
        assert_eq!(
            refused(&mut client, "inject-nmi", json!({})),
            "GenericError: this feature or command is not currently supported"
        );
    }
}
