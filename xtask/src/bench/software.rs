//! The software CPU beside QEMU's translator: instructions a second, memory, idle guests, guests that never rest, start-up.
//!
//! The guests are images of `firmware/`; the counts of their [`phases`](super::phases) are instructions.

use std::fs;
use std::time::{Duration, Instant};

use super::emulator::{Emulator, RAM_MIB, Running};
use super::measures::{CONSOLE, Stopped, ns, private_dirty};
use super::phases::{Phase, middle, phase, phases};
use super::{Bench, Pair, QUERY_STATUS, Row, bytes, median, row, time};
use crate::images;
use qemu_tests::packages::kvm_usable;

type Rows = Result<Vec<Row>, String>;

/// Runs of what takes long.
const RUNS: usize = 5;
const TCG: [&str; 2] = ["-accel", "tcg"];

/// Instructions a second to reach, for the phases in [`LIMITED`].
const SPEED_MIN: f64 = 60e6;
/// Phases that have a limit.
const LIMITED: [&str; 3] = ["integer", "copy", "branches"];

/// What the software CPU may take: `MEMORY_MAX` of the host's module `soft`.
const MEMORY_MAX: f64 = (16 << 20) as f64;

/// How long an idle guest is watched.
const IDLE: Duration = Duration::from_secs(3);
/// Part of one host CPU that it may use.
const IDLE_MAX: f64 = 0.01;

/// Round trips while the guest spins, in each run.
const COMMANDS: usize = 200;
/// Nanoseconds that half of them may take.
const ROUND_TRIP_MAX: f64 = 10e6;

/// Options for an image under the software CPU, with the console on standard output.
fn options(rom: &str) -> Vec<&str> {
    let mut options = TCG.to_vec();
    options.extend(["-bios", rom]);
    options.extend(CONSOLE);
    options
}

fn show_speed(speed: f64) -> String {
    format!("{:.1} million/s", speed / 1e6)
}

/// Instructions a second of a ring-3 program, which KVM runs natively: that figure stands with the measure's name.
pub(super) fn ring3(bench: &Bench) -> Rows {
    let rom = images::rom("speed_ring3")?;
    let with = |accel: &'static str| {
        let mut options = vec!["-accel", accel, "-bios", &rom];
        options.extend(CONSOLE);
        options.extend(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
        options
    };
    bench.announce("instructions a second in ring 3", &with("tcg"));
    let count = bench.runs.min(RUNS);
    let runs = bench.alternate(count, |emulator| phases(emulator, &with("tcg")))?;
    let native = if kvm_usable() {
        bench
            .alternate(count, |emulator| phases(emulator, &with("kvm")))?
            .thimble
    } else {
        Vec::new()
    };
    let names = runs.thimble.first().map_or(&[][..], |first| &first[..]);
    let rows = names.iter().enumerate().map(|(index, Phase { name, .. })| {
        let medians = Pair {
            thimble: middle(&runs.thimble, index),
            qemu: middle(&runs.qemu, index),
        };
        let natively = match native.is_empty() {
            true => "there is no KVM to compare with".to_string(),
            false => format!("with KVM natively {}", show_speed(middle(&native, index))),
        };
        let measure = format!("software CPU, ring 3: {name} ({natively})");
        row(&measure, &medians, show_speed, None)
    });
    Ok(rows.collect())
}

/// Instructions a second, by the kind of code.
pub(super) fn speed(bench: &Bench) -> Rows {
    let mut rows = Vec::new();
    for (image, mode) in [("speed64", "64-bit"), ("speed32", "32-bit")] {
        let rom = images::rom(image)?;
        let mut options = options(&rom);
        options.extend(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
        bench.announce("instructions a second of the software CPU", &options);
        let runs = bench.alternate(bench.runs.min(RUNS), |emulator| phases(emulator, &options))?;
        let names = runs.thimble.first().map_or(&[][..], |first| &first[..]);
        for (index, Phase { name, .. }) in names.iter().enumerate() {
            let medians = Pair {
                thimble: middle(&runs.thimble, index),
                qemu: middle(&runs.qemu, index),
            };
            let limited = LIMITED.contains(&name.as_str());
            rows.push(row(
                &format!("software CPU, {mode} code: {name}"),
                &medians,
                show_speed,
                limited.then_some(("at least 60 million/s", medians.thimble >= SPEED_MIN)),
            ));
        }
    }
    Ok(rows)
}

/// Private dirty memory less guest RAM.
fn private(running: &Running) -> Result<f64, String> {
    let path = format!("/proc/{}/smaps", running.id());
    let smaps = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    Ok(private_dirty(&smaps, RAM_MIB << 10) as f64 * 1024.0)
}

/// Memory that the software CPU takes above what the process takes with KVM: before the guest runs and after its loop of integers.
///
/// Where there is no KVM, all of the process's memory above guest RAM stands for it.
pub(super) fn memory(bench: &Bench) -> Rows {
    let rom = images::rom("speed64")?;
    let with = |accel: &'static str, stopped: bool| {
        let mut options = vec!["-accel", accel, "-bios", &rom];
        options.extend(CONSOLE);
        options.extend(stopped.then_some("-S"));
        options
    };
    let kvm = kvm_usable();
    bench.announce("memory of the software CPU", &with("tcg", false));
    let stopped = |emulator: &Emulator, accel| {
        let running = emulator.spawn(&with(accel, true))?;
        std::thread::sleep(Duration::from_millis(200));
        private(&running)
    };
    let results = bench.alternate(bench.runs.min(RUNS), |emulator| {
        let base = if kvm { stopped(emulator, "kvm")? } else { 0.0 };
        let before = stopped(emulator, "tcg")?;
        let mut running = emulator.spawn(&with("tcg", false))?;
        let run = phase(&mut running)?;
        let after = private(&running)?;
        run.ok_or("the guest ran no loop")?;
        Ok((before - base, after - base))
    })?;
    let rows = [
        (
            "memory of the software CPU, the guest being stopped",
            results.map(|run| run.0).medians(),
        ),
        (
            "memory of the software CPU after a loop of integers",
            results.map(|run| run.1).medians(),
        ),
    ];
    Ok(rows
        .into_iter()
        .map(|(measure, medians)| {
            let kept = medians.thimble <= MEMORY_MAX;
            row(measure, &medians, bytes, Some(("at most 16 MiB", kept)))
        })
        .collect())
}

/// Processor time that a process has used so far, all its threads together.
fn processor_time(running: &Running) -> Result<f64, String> {
    let path = format!("/proc/{}/task", running.id());
    let show = |error: std::io::Error| format!("{path}: {error}");
    let mut sum = 0.0;
    for thread in fs::read_dir(&path).map_err(show)? {
        let path = thread.map_err(show)?.path().join("schedstat");
        // A thread that ends meanwhile has nothing more to add.
        if let Ok(text) = fs::read_to_string(path) {
            sum += text
                .split_whitespace()
                .next()
                .and_then(|number| number.parse().ok())
                .unwrap_or(0.0);
        }
    }
    Ok(sum)
}

/// Part of a host CPU that a guest takes which waits.
pub(super) fn idle(bench: &Bench) -> Rows {
    let kinds = [
        ("idle", "idle guest without interrupts: part of a host CPU"),
        ("idle_ticks", "idle guest with 100 ticks a second"),
    ];
    let mut rows = Vec::new();
    for (image, measure) in kinds {
        let rom = images::rom(image)?;
        let options = options(&rom);
        bench.announce(measure, &options);
        let results = bench.alternate(bench.runs.min(RUNS), |emulator| {
            let mut running = emulator.spawn(&options)?;
            running.next_byte()?;
            std::thread::sleep(Duration::from_millis(100));
            let (before, since) = (processor_time(&running)?, Instant::now());
            std::thread::sleep(IDLE);
            Ok((processor_time(&running)? - before) / ns(since.elapsed()))
        })?;
        let medians = results.medians();
        rows.push(row(
            measure,
            &medians,
            |part| format!("{:.2} %", part * 100.0),
            Some(("under 1 %", medians.thimble < IDLE_MAX)),
        ));
    }
    Ok(rows)
}

/// Round trips of query-status while the guest spins.
pub(super) fn spinning(bench: &Bench) -> Rows {
    let kinds = [
        ("spin", "QMP round trip while the guest jumps to itself"),
        (
            "spin_ports",
            "QMP round trip while the guest writes to a port",
        ),
    ];
    let mut rows = Vec::new();
    for (image, measure) in kinds {
        let rom = images::rom(image)?;
        let socket = bench.folder.join("qmp.sock");
        let chardev = format!("unix:{},server=on,wait=off", socket.display());
        let mut options = options(&rom);
        options.extend(["-qmp", &chardev]);
        bench.announce(measure, &options);
        let results = bench.alternate(bench.runs.min(RUNS), |emulator| {
            // A stale socket would refuse, and be found before the new one.
            let _ = fs::remove_file(&socket);
            let mut running = emulator.spawn(&options)?;
            running.next_byte()?;
            let mut qmp = running.qmp(&socket)?;
            let mut times = Vec::with_capacity(COMMANDS);
            for _ in 0..COMMANDS {
                let asked = Instant::now();
                qmp.command(QUERY_STATUS)?;
                times.push(ns(asked.elapsed()));
            }
            Ok(times)
        })?;
        let mut all = Pair {
            thimble: results.thimble.concat(),
            qemu: results.qemu.concat(),
        };
        let worst = |times: &[f64]| time(times.iter().copied().fold(0.0, f64::max));
        let (ours, theirs) = (worst(&all.thimble), worst(&all.qemu));
        let medians = Pair {
            thimble: median(&mut all.thimble),
            qemu: median(&mut all.qemu),
        };
        let kept = medians.thimble <= ROUND_TRIP_MAX;
        let mut row = row(measure, &medians, time, Some(("at most 10 ms", kept)));
        row.thimble += &format!(", worst {ours}");
        row.qemu += &format!(", worst {theirs}");
        rows.push(row);
    }
    Ok(rows)
}

/// Spawn to the first port write.
pub(super) fn boot(bench: &Bench) -> Rows {
    let rom = Stopped::new(bench)?.rom;
    let first = options(&rom);
    bench.announce("start to the first port write, software CPU", &first);
    let results = bench.alternate(bench.runs, |emulator| {
        let mut running = emulator.spawn(&first)?;
        Ok(ns(running.next_byte()? - running.spawned))
    })?;
    let medians = results.medians();
    Ok(vec![row(
        "spawn to the guest's first port write, software CPU",
        &medians,
        time,
        Some(("under 2 ms", medians.thimble < 2e6)),
    )])
}
