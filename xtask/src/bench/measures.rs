//! What is measured, and how.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::emulator::{Emulator, RAM_MIB, Running};
use super::{Bench, Pair, QUERY_STATUS, Row, bare, bytes, median, roms, row, time};
use crate::{build, dist};

type Rows = Result<Vec<Row>, String>;

const CONT: &str = "{\"execute\":\"cont\"}";

/// Round trips in all, and commands before memory is looked at.
const COMMANDS: usize = 10_000;

/// Turns of the guest's loop between two marks, and marks: the time between them has no start-up in it.
const TURNS: u32 = 500;
const MARKS: usize = 9;

pub(super) fn ns(duration: Duration) -> f64 {
    duration.as_nanos() as f64
}

/// A console on standard output that guests write to at port 402h.
pub(super) const CONSOLE: [&str; 4] =
    ["-debugcon", "stdio", "-global", "isa-debugcon.iobase=0x402"];

/// Options for a stopped guest with a QMP socket, and the socket's path.
pub(super) struct Stopped {
    pub(super) rom: String,
    socket: PathBuf,
    chardev: String,
}

impl Stopped {
    pub(super) fn new(bench: &Bench) -> Result<Self, String> {
        let socket = bench.folder.join("qmp.sock");
        Ok(Self {
            rom: bench.rom("first-write.rom", &roms::first_write())?,
            chardev: format!("unix:{},server=on,wait=off", socket.display()),
            socket,
        })
    }

    fn options(&self) -> Vec<&str> {
        let mut options = vec!["-S", "-bios", &self.rom, "-qmp", &self.chardev];
        options.extend(CONSOLE);
        options
    }

    fn spawn(&self, emulator: &Emulator) -> Result<Running, String> {
        // A stale socket would refuse, and be found before the new one.
        let _ = fs::remove_file(&self.socket);
        emulator.spawn(&self.options())
    }
}

/// Spawn to the reply of query-status, and cont to the first port write in the same process.
pub(super) fn start(bench: &Bench) -> Rows {
    let stopped = Stopped::new(bench)?;
    bench.announce(
        "start to query-status, then cont to the first port write",
        &stopped.options(),
    );
    let results = bench.alternate(bench.runs, |emulator| {
        let mut running = stopped.spawn(emulator)?;
        let mut qmp = running.qmp(&stopped.socket)?;
        qmp.command(QUERY_STATUS)?;
        let started = running.spawned.elapsed();
        let asked = Instant::now();
        qmp.send(CONT)?;
        let written = running.next_byte()?;
        Ok((ns(started), ns(written - asked)))
    })?;
    let part = |pick: fn(&(f64, f64)) -> f64| results.map(pick).medians();
    let (started, continued) = (part(|run| run.0), part(|run| run.1));
    Ok(vec![
        row(
            "spawn to the reply of `query-status`",
            &started,
            time,
            Some(("at most 1/15", started.ratio() <= 1.0 / 15.0)),
        ),
        row(
            "`cont` to the guest's first port write",
            &continued,
            time,
            None,
        ),
    ])
}

/// Spawn to the first port write of a guest that starts at once.
pub(super) fn boot(bench: &Bench) -> Rows {
    let rom = bench.rom("first-write.rom", &roms::first_write())?;
    let mut options = vec!["-bios", &rom];
    options.extend(CONSOLE);
    bench.announce("start to the first port write", &options);
    let results = bench.alternate(bench.runs, |emulator| {
        let mut running = emulator.spawn(&options)?;
        Ok(ns(running.next_byte()? - running.spawned))
    })?;
    let medians = results.medians();
    Ok(vec![row(
        "spawn to the guest's first port write, 64 KiB ROM",
        &medians,
        time,
        Some(("at most 1/10", medians.ratio() <= 0.1)),
    )])
}

/// Round trips of query-status.
pub(super) fn round_trip(bench: &Bench) -> Rows {
    let stopped = Stopped::new(bench)?;
    bench.announce(
        "10,000 round trips of query-status each, over all runs",
        &stopped.options(),
    );
    let results = bench.alternate(bench.runs, |emulator| {
        let mut running = stopped.spawn(emulator)?;
        let mut qmp = running.qmp(&stopped.socket)?;
        let mut times = Vec::new();
        for _ in 0..COMMANDS.div_ceil(bench.runs) {
            let asked = Instant::now();
            qmp.command(QUERY_STATUS)?;
            times.push(ns(asked.elapsed()));
        }
        Ok(times)
    })?;
    let medians = Pair {
        thimble: results.thimble.concat(),
        qemu: results.qemu.concat(),
    }
    .medians();
    Ok(vec![row(
        "QMP round trip of `query-status`",
        &medians,
        time,
        Some(("at most 1/4", medians.ratio() <= 0.25)),
    )])
}

/// Private dirty memory above guest RAM after mixed commands.
pub(super) fn memory(bench: &Bench) -> Rows {
    const MIXED: [&str; 13] = [
        QUERY_STATUS,
        "{\"execute\":\"query-name\"}",
        "{\"execute\":\"query-version\",\"id\":7}",
        "{\"execute\":\"query-kvm\"}",
        CONT,
        "{\"execute\":\"query-uuid\",\"id\":{\"a\":[1,2,3]}}",
        "{\"execute\":\"query-commands\"}",
        "{\"execute\":\"no-such-command\"}",
        "{\"execute\":\"stop\"}",
        "{\"execute\":\"query-status\",\"arguments\":{\"unknown\":true}}",
        "{\"execute\":\"pmemsave\",\"arguments\":{\"val\":\"text\"}}",
        "{\"arguments\":{}}",
        "{\"execute\":3}",
    ];
    // Pages of a file that was just built count as dirty until they are on the disk.
    fs::File::open(&bench.thimble.program)
        .and_then(|file| file.sync_all())
        .map_err(|error| format!("{}: {error}", bench.thimble.program.display()))?;
    let stopped = Stopped::new(bench)?;
    bench.announce(
        "private dirty memory less guest RAM after 10,000 mixed commands",
        &stopped.options(),
    );
    let results = bench.alternate(bench.runs.min(5), |emulator| {
        let mut running = stopped.spawn(emulator)?;
        let mut qmp = running.qmp(&stopped.socket)?;
        for command in MIXED.iter().cycle().take(COMMANDS) {
            qmp.command(command)?;
        }
        let path = format!("/proc/{}/smaps", running.id());
        let smaps = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        Ok(private_dirty(&smaps, RAM_MIB << 10) as f64 * 1024.0)
    })?;
    let medians = results.medians();
    let most = 2.0 * 1024.0 * 1024.0;
    Ok(vec![row(
        "private dirty memory above guest RAM, after 10,000 commands",
        &medians,
        bytes,
        Some(("at most 2 MiB", medians.thimble <= most)),
    )])
}

/// KiB of private dirty memory, without writable mappings of exactly `ram` KiB.
///
/// A guest that touches no RAM is expected: should the kernel have merged its mapping with another one, what
/// the emulator wrote there counts.
pub(super) fn private_dirty(smaps: &str, ram: u64) -> u64 {
    let (mut sum, mut writable, mut size) = (0, false, 0);
    let number = |text: &str| text.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok();
    for line in smaps.lines() {
        let Some((key, value)) = line.split_once(':') else {
            writable = line.split(' ').nth(1).is_some_and(|p| p.starts_with("rw"));
            continue;
        };
        match key {
            "Size" => size = number(value).unwrap_or(0),
            "Private_Dirty" if !(writable && size == ram) => sum += number(value).unwrap_or(0),
            // The first line of a mapping has colons in its device number, and in some names.
            _ if key.contains('-') => {
                writable = line.split(' ').nth(1).is_some_and(|p| p.starts_with("rw"));
            }
            _ => {}
        }
    }
    sum
}

/// The binary beside an empty one, and QEMU with its libraries.
pub(super) fn size(bench: &Bench) -> Rows {
    let length = |path: &Path| {
        let data = fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok::<_, String>(data.len() as f64)
    };
    let thimble = length(&bench.thimble.program)?;
    let empty = length(&dist::empty()?)?;
    let mut qemu = length(&bench.qemu.program)?;
    let own = qemu;
    let mut libraries = 0;
    let output = Command::new("ldd")
        .arg(&bench.qemu.program)
        .output()
        .map_err(|error| format!("ldd: {error}"))?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some(path) = line.split_whitespace().find(|word| word.starts_with('/')) {
            qemu += length(Path::new(path))?;
            libraries += 1;
        }
    }
    println!(
        "size: an empty static Rust program, built the same way: {}",
        bytes(empty)
    );
    let medians = Pair { thimble, qemu };
    let mut row = row(
        "binary with its libraries",
        &medians,
        bytes,
        Some(("at most 2 MB", thimble <= 2e6)),
    );
    let above = bytes(thimble - empty);
    row.thimble += &format!(", static: {above} above an empty program");
    row.qemu += &format!(": {} and {libraries} libraries", bytes(own));
    Ok(vec![row])
}

/// A port-I/O exit above a bare KVM_RUN loop.
pub(super) fn exit(bench: &Bench) -> Rows {
    let code = roms::exit_loop(TURNS);
    let rom = bench.rom("exits.rom", &code)?;
    let mut options = vec!["-bios", &rom];
    options.extend(CONSOLE);
    let exits = f64::from(TURNS * roms::UNROLLED);
    bench.announce(
        "a guest that writes to port 80h, against a KVM_RUN loop in this program",
        &options,
    );
    let cost = |marks: &[Instant]| {
        let mut pieces: Vec<_> = marks.windows(2).map(|m| ns(m[1] - m[0]) / exits).collect();
        median(&mut pieces)
    };
    // All on one processor: the price of an exit differs from one to the next by more than what is looked for.
    let everywhere = sched_getaffinity(None).map_err(|error| error.to_string())?;
    let mut one = CpuSet::new();
    let last = (0..CpuSet::MAX_CPU)
        .rev()
        .find(|cpu| everywhere.is_set(*cpu));
    one.set(last.unwrap_or(0));
    sched_setaffinity(None, &one).map_err(|error| error.to_string())?;
    let mut yardsticks = Vec::new();
    let results = bench.alternate(bench.runs, |emulator| {
        // The yardstick before and after, so that a machine that changes its pace does not change the difference.
        let bare = || Ok::<_, String>(cost(&bare::run(&code, MARKS / 2 + 1)?));
        let before = bare()?;
        let marks = {
            let mut running = emulator.spawn(&options)?;
            let marks = (0..MARKS).map(|_| running.next_byte());
            marks.collect::<Result<Vec<_>, String>>()?
        };
        let yardstick = (before + bare()?) / 2.0;
        yardsticks.push(yardstick);
        Ok(cost(&marks) - yardstick)
    });
    sched_setaffinity(None, &everywhere).map_err(|error| error.to_string())?;
    let results = results?;
    println!("  the bare loop: {} an exit", spread(&yardsticks));
    println!("  above it: Thimble {}", spread(&results.thimble));
    println!("  above it: QEMU {}", spread(&results.qemu));
    let medians = results.medians();
    let mut row = row(
        "port-I/O exit above a bare `KVM_RUN` loop",
        &medians,
        time,
        Some(("at most 300 ns, aim 100", medians.thimble <= 300.0)),
    );
    if medians.thimble <= 0.0 {
        row.ratio = None;
    }
    Ok(vec![row])
}

/// Threads, resident memory and system calls up to the reply of query-status.
pub(super) fn process(bench: &Bench) -> Rows {
    let stopped = Stopped::new(bench)?;
    let results = bench.alternate(1, |emulator| {
        let mut running = stopped.spawn(emulator)?;
        let mut qmp = running.qmp(&stopped.socket)?;
        qmp.command(QUERY_STATUS)?;
        Ok((
            running.status("Threads:")?,
            running.status("VmRSS:")? * 1024.0,
        ))
    })?;
    let first = |pick: fn(&(f64, f64)) -> f64| Pair {
        thimble: results.thimble.first().map_or(f64::NAN, pick),
        qemu: results.qemu.first().map_or(f64::NAN, pick),
    };
    let count = |count: f64| format!("{count:.0}");
    let mut rows = vec![
        row(
            "threads, the guest being stopped",
            &first(|run| run.0),
            count,
            None,
        ),
        row("resident memory then", &first(|run| run.1), bytes, None),
    ];
    if build::find_program("strace").is_none() {
        println!("system calls are not counted: there is no strace");
        return Ok(rows);
    }
    let log = bench.folder.join("strace.log");
    let calls = bench.alternate(1, |emulator| {
        let _ = fs::remove_file(&stopped.socket);
        let log = log.to_string_lossy();
        let strace = ["strace", "-f", "-qq", "-o", &log];
        let mut running = emulator.spawn_under(&strace, &stopped.options())?;
        let mut qmp = running.qmp(&stopped.socket)?;
        qmp.command(QUERY_STATUS)?;
        let text = fs::read_to_string(&*log).map_err(|error| format!("{log}: {error}"))?;
        // Killed, strace would leave its child alone.
        qmp.send("{\"execute\":\"quit\"}")?;
        running.wait()?;
        let calls = text.lines().filter(|line| !line.contains(" resumed>"));
        Ok(calls.filter(|line| line.contains('(')).count() as f64)
    })?;
    rows.push(row(
        "system calls up to the reply of `query-status`",
        &calls.medians(),
        count,
        None,
    ));
    Ok(rows)
}

/// Median and quartiles of times.
fn spread(values: &[f64]) -> String {
    let mut values = values.to_vec();
    let middle = median(&mut values);
    let quarter = |quarter: usize| values.get(values.len() * quarter / 4).copied();
    let (low, high) = (quarter(1), quarter(3));
    let show = |value: Option<f64>| time(value.unwrap_or(f64::NAN));
    format!("{} (quartiles {}, {})", time(middle), show(low), show(high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_ram_does_not_count() {
        let smaps = "\
00400000-00500000 r-xp 00000000 08:01 12 /bin/thimble
Size:               1024 kB
Private_Dirty:         4 kB
7f0000000000-7f0004000000 rw-p 00000000 00:00 0
Size:              65536 kB
Private_Dirty:       300 kB
7f0004000000-7f0008000000 ---p 00000000 00:00 0
Size:              65536 kB
Private_Dirty:         8 kB
7ffe00000000-7ffe00021000 rw-p 00000000 00:00 0 [stack]
Size:                132 kB
Private_Dirty:        16 kB
VmFlags: rd wr
";
        assert_eq!(private_dirty(smaps, 65536), 28);
    }
}
