//! What the QMP wire carries: commands a second over one connection and over eight, and a large argument.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Barrier;
use std::time::Instant;

use super::emulator::{Emulator, Qmp, Running};
use super::{Bench, QUERY_STATUS, Row, median, roms, row, time};

/// Connections of the measures with several.
const CONNECTIONS: usize = 8;

/// Commands of one run, in all connections together.
const COMMANDS: usize = 4_000;

/// Commands that a pipelining client has under way: it sends so many, then waits for all their replies.
const BURST: usize = 100;

/// Bytes of the large argument.
const ARGUMENT: usize = 60_000;

/// How often the large argument is sent in one run.
const ARGUMENTS: usize = 3;

/// An emulator with a stopped guest and several QMP sockets.
pub(super) struct Monitors {
    sockets: Vec<PathBuf>,
    options: Vec<String>,
}

impl Monitors {
    pub(super) fn new(bench: &Bench, count: usize) -> Result<Self, String> {
        let rom = bench.rom("first-write.rom", &roms::first_write())?;
        let sockets: Vec<_> = (0..count)
            .map(|index| bench.folder.join(format!("qmp-{index}.sock")))
            .collect();
        let monitors = sockets.iter().flat_map(|socket| {
            let chardev = format!("unix:{},server=on,wait=off", socket.display());
            ["-qmp".to_string(), chardev]
        });
        let stopped = ["-S".to_string(), "-bios".to_string(), rom];
        Ok(Self {
            options: stopped.into_iter().chain(monitors).collect(),
            sockets,
        })
    }

    pub(super) fn options(&self) -> Vec<&str> {
        self.options.iter().map(String::as_str).collect()
    }

    /// Starts the emulator and negotiates on all sockets.
    pub(super) fn start(&self, emulator: &Emulator) -> Result<(Running, Vec<Qmp>), String> {
        for socket in &self.sockets {
            // A stale socket would refuse, and be found before the new one.
            let _ = std::fs::remove_file(socket);
        }
        let mut running = emulator.spawn(&self.options())?;
        let connections = self.sockets.iter().map(|socket| running.qmp(socket));
        let connections = connections.collect::<Result<_, _>>()?;
        Ok((running, connections))
    }
}

/// Sends `bursts` times `burst` commands and waits for the replies of each burst.
fn drive(
    stream: &mut BufReader<UnixStream>,
    burst: usize,
    bursts: usize,
) -> Result<(), std::io::Error> {
    let commands = QUERY_STATUS.repeat(burst);
    let mut reply = Vec::new();
    for _ in 0..bursts {
        stream.get_mut().write_all(commands.as_bytes())?;
        for _ in 0..burst {
            reply.clear();
            stream.read_until(b'\n', &mut reply)?;
            if !reply.starts_with(b"{\"return\"") {
                return Err(std::io::ErrorKind::InvalidData.into());
            }
        }
    }
    Ok(())
}

/// Commands a second of one emulator with this many connections and commands under way in each.
fn rate(monitors: &Monitors, emulator: &Emulator, burst: usize) -> Result<f64, String> {
    let (_running, mut connections) = monitors.start(emulator)?;
    let each = COMMANDS / connections.len();
    let bursts = each / burst;
    // The clock starts when all threads stand ready, and ends with the last of them.
    let barrier = Barrier::new(connections.len() + 1);
    let elapsed = std::thread::scope(|scope| {
        let threads: Vec<_> = connections
            .iter_mut()
            .map(|connection| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let stream = connection.stream();
                    let warm = drive(stream, burst, 1);
                    barrier.wait();
                    warm.and_then(|()| drive(stream, burst, bursts))
                })
            })
            .collect();
        barrier.wait();
        let started = Instant::now();
        for thread in threads {
            match thread.join() {
                Ok(done) => done.map_err(|error| format!("QMP: {error}"))?,
                Err(_) => return Err("a client's thread panicked".to_string()),
            }
        }
        Ok(started.elapsed())
    })?;
    let commands = bursts * burst * connections.len();
    Ok(commands as f64 / elapsed.as_secs_f64())
}

/// A rate of commands.
fn rate_text(rate: f64) -> String {
    format!("{:.1} thousand/s", rate / 1e3)
}

/// Commands a second: one at a time and pipelined, over one connection and over several.
pub(super) fn rates(bench: &Bench) -> Result<Vec<Row>, String> {
    const KINDS: [(usize, usize, &str); 4] = [
        (1, 1, "`query-status` a second, one connection"),
        (1, BURST, "the same, 100 pipelined"),
        (CONNECTIONS, 1, "`query-status` a second, eight connections"),
        (CONNECTIONS, BURST, "the same, 100 pipelined on each"),
    ];
    let mut rows = Vec::new();
    for (connections, burst, measure) in KINDS {
        let monitors = Monitors::new(bench, connections)?;
        bench.announce(measure, &monitors.options());
        let results = bench.alternate(bench.runs, |emulator| rate(&monitors, emulator, burst))?;
        let medians = results.medians();
        rows.push(row(
            measure,
            &medians,
            rate_text,
            Some(("at least 5 times", medians.ratio() >= 5.0)),
        ));
    }
    Ok(rows)
}

/// Round trips of a command with a large argument that it does not know, as a string and as a list.
pub(super) fn argument(bench: &Bench) -> Result<Vec<Row>, String> {
    let string = format!("\"{}\"", "a".repeat(ARGUMENT));
    let number = "123456789012345";
    let list = format!(
        "[{}{number}]",
        format!("{number},").repeat(ARGUMENT / (number.len() + 1) - 1)
    );
    let kinds = [
        ("round trip with a string of 60 KB", string),
        ("round trip with a list of 60 KB", list),
    ];
    let monitors = Monitors::new(bench, 1)?;
    let mut rows = Vec::new();
    for (measure, value) in kinds {
        let command =
            format!("{{\"execute\":\"query-status\",\"arguments\":{{\"unknown\":{value}}}}}");
        bench.announce(measure, &monitors.options());
        let results = bench.alternate(bench.runs, |emulator| {
            let (_running, mut connections) = monitors.start(emulator)?;
            let mut times = Vec::with_capacity(ARGUMENTS);
            for _ in 0..ARGUMENTS {
                for connection in &mut connections {
                    let asked = Instant::now();
                    let reply = connection.command(&command)?;
                    times.push(asked.elapsed().as_nanos() as f64);
                    if !reply.contains("Parameter 'unknown' is unexpected") {
                        return Err(format!("another answer than expected: {reply}"));
                    }
                }
            }
            Ok(median(&mut times))
        })?;
        let medians = results.medians();
        rows.push(row(
            measure,
            &medians,
            time,
            Some(("less than QEMU's", medians.ratio() < 1.0)),
        ));
    }
    Ok(rows)
}
