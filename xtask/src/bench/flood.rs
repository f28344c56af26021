//! Memory under a flood: clients that send much and read nothing.

use std::io::{ErrorKind, Write as _};
use std::time::{Duration, Instant};

use super::emulator::{Emulator, Qmp, Running};
use super::wire::Monitors;
use super::{Bench, QUERY_STATUS, Row, bytes, row, time};

/// Bytes that a client tries to send.
const FLOOD: usize = 100_000_000;

/// Runs of each emulator: one takes seconds, and the memory it takes hardly varies.
const RUNS: usize = 3;

/// A client whose peer takes nothing for so long gives up: its peer protects itself.
const STUCK: Duration = Duration::from_millis(500);

/// An emulator that takes the flood slowly is watched no longer.
const LONGEST: Duration = Duration::from_secs(10);

/// Resident memory may grow so much: a few pages that were not touched before.
const GROWTH_MAX: f64 = 64.0 * 1024.0;

/// What one flood did.
struct Flooded {
    /// Bytes by which resident memory grew at most.
    growth: f64,
    /// Bytes taken from the client.
    taken: f64,
    /// Nanoseconds for a command of another client in the end.
    other: f64,
}

/// What a flood consists of.
struct Flood {
    measure: &'static str,
    /// Sent once.
    first: String,
    /// Sent again and again.
    again: String,
}

fn floods() -> [Flood; 2] {
    let id = "a".repeat(1_000);
    [
        Flood {
            measure: "100 MB of commands with ids of 1 KB, no reply read",
            first: String::new(),
            again: format!("{{\"execute\":\"query-status\",\"id\":\"{id}\"}}").repeat(60),
        },
        Flood {
            measure: "one string of 100 MB",
            first: "{\"execute\":\"".to_string(),
            again: "a".repeat(1 << 16),
        },
    ]
}

fn resident(running: &Running) -> Result<f64, String> {
    Ok(running.status("VmRSS:")? * 1024.0)
}

/// One message that fills the session's buffers about as far as they go, so that they are not taken for growth.
fn warm_up(connection: &mut Qmp) -> Result<(), String> {
    let list = "[],".repeat(2_000);
    let string = "a".repeat(110_000);
    let arguments = format!("{{\"list\":[{list}0],\"string\":\"{string}\"}}");
    let command = format!("{{\"execute\":\"query-status\",\"arguments\":{arguments}}}");
    connection.command(&command)?;
    connection.command(QUERY_STATUS)?;
    Ok(())
}

fn flood(monitors: &Monitors, emulator: &Emulator, flood: &Flood) -> Result<Flooded, String> {
    let (running, mut connections) = monitors.start(emulator)?;
    for connection in &mut connections {
        warm_up(connection)?;
    }
    let [client, other] = connections.as_mut_slice() else {
        return Err("two connections are expected".to_string());
    };
    let text = |error: std::io::Error| error.to_string();
    let stream = client.stream().get_mut();
    stream.set_nonblocking(true).map_err(text)?;
    let before = resident(&running)?;
    let (mut taken, mut most) = (0, before);
    let started = Instant::now();
    let mut progress = started;
    let mut chunk = flood.first.as_bytes();
    while taken < FLOOD && progress.elapsed() < STUCK && started.elapsed() < LONGEST {
        if chunk.is_empty() {
            chunk = flood.again.as_bytes();
            most = most.max(resident(&running)?);
        }
        match stream.write(chunk) {
            Ok(count) => {
                taken += count;
                chunk = &chunk[count..];
                progress = Instant::now();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(format!("the flood: {error}")),
        }
    }
    let asked = Instant::now();
    other.command(QUERY_STATUS)?;
    let answered = asked.elapsed();
    most = most.max(resident(&running)?);
    Ok(Flooded {
        growth: most - before,
        taken: taken as f64,
        other: answered.as_nanos() as f64,
    })
}

/// Growth of resident memory.
pub(super) fn memory(bench: &Bench) -> Result<Vec<Row>, String> {
    let monitors = Monitors::new(bench, 2)?;
    let mut rows = Vec::new();
    for kind in &floods() {
        bench.announce(kind.measure, &monitors.options());
        let results = bench.alternate(bench.runs.min(RUNS), |emulator| {
            flood(&monitors, emulator, kind)
        })?;
        let part = |pick: fn(&Flooded) -> f64| results.map(pick).medians();
        let (growth, taken) = (part(|run| run.growth), part(|run| run.taken));
        let kib = |bytes: f64| format!("{:.0} KiB", bytes / 1024.0);
        let mut grown = row(
            &format!("growth of resident memory by {}", kind.measure),
            &growth,
            kib,
            Some(("at most 64 KiB", growth.thimble <= GROWTH_MAX)),
        );
        grown.thimble += &format!(", of the flood {} taken", bytes(taken.thimble));
        grown.qemu += &format!(", of the flood {} taken", bytes(taken.qemu));
        rows.push(grown);
        rows.push(row(
            "another client's `query-status` then",
            &part(|run| run.other),
            time,
            None,
        ));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floods_are_what_they_are_said_to_be() {
        let [commands, string] = floods();
        let mut texts = serde_json::Deserializer::from_str(&commands.again)
            .into_iter::<serde_json::Value>()
            .map(Result::unwrap);
        assert!(texts.all(|command| command["execute"] == "query-status"));
        assert!(!string.again.contains('"'));
    }
}
