//! Limits of drives: what passes within ten seconds when there is always more to do, as a part of what may.

use std::io::BufRead as _;
use std::time::{Duration, Instant};

use super::emulator::{Emulator, Qmp};
use super::{Bench, Row};

/// For how long is looked.
const SPAN: Duration = Duration::from_secs(10);
/// Requests that wait at most.
const WAITING: u64 = 256;
/// Bytes of a request.
const REQUEST: u64 = 16384;

/// Limits, and what may pass within [`SPAN`] under them.
struct Limits {
    name: &'static str,
    options: &'static str,
    requests: f64,
}

/// With a burst the bucket is as large as the burst, and leaks at the limit's rate meanwhile.
const LIMITS: [Limits; 3] = [
    Limits {
        name: "500 requests/s",
        options: "iops=500",
        requests: 500.0 * 10.0,
    },
    Limits {
        name: "4 MiB/s",
        options: "bps=4194304",
        requests: 256.0 * 10.0,
    },
    Limits {
        name: "100 requests/s, 400 for 2 s",
        options: "iops=100,throttling.iops-total-max=400,throttling.iops-total-max-length=2",
        requests: 800.0 + 100.0 * 10.0,
    },
];

/// How much of what may pass does.
pub(super) fn limits(bench: &Bench) -> Result<Vec<Row>, String> {
    let socket = bench.folder.join("qmp.sock");
    let monitor = format!("unix:{},server=on,wait=off", socket.display());
    let mut rows = Vec::new();
    for limits in &LIMITS {
        let drive = format!("if=none,id=d,driver=null-co,size=1G,{}", limits.options);
        let options = ["-accel", "tcg", "-S", "-qmp", &monitor, "-drive", &drive];
        bench.announce(limits.name, &options);
        let passed = bench.alternate(1, |emulator| passed(emulator, &options, &socket))?;
        let part = |runs: &[f64]| runs.first().map_or(0.0, |count| count / limits.requests);
        let (ours, theirs) = (part(&passed.thimble), part(&passed.qemu));
        let show = |part: f64| format!("{:.1} %", part * 100.0);
        rows.push(Row {
            measure: format!("what passes a limit of {} in 10 s", limits.name),
            thimble: show(ours),
            qemu: show(theirs),
            ratio: None,
            target: Some(("within 5 %", (ours - 1.0).abs() <= 0.05)),
        });
    }
    Ok(rows)
}

/// Requests that end within [`SPAN`].
fn passed(emulator: &Emulator, options: &[&str], socket: &std::path::Path) -> Result<f64, String> {
    // One that was killed has left it.
    let _ = std::fs::remove_file(socket);
    let mut running = emulator.spawn(options)?;
    let mut client = running.qmp(socket)?;
    let read = format!(
        "{{\"execute\":\"human-monitor-command\",\"arguments\":{{\"command-line\":\"qemu-io d \\\"aio_read -q 0 {REQUEST}\\\"\"}}}}"
    );
    let began = Instant::now();
    let mut asked = 0;
    loop {
        let done = done(&mut client)?;
        if began.elapsed() >= SPAN {
            return Ok(done as f64);
        }
        let more = (done + WAITING).saturating_sub(asked);
        ask(&mut client, &read, more)?;
        asked += more;
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a command many times, and then waits for all replies: one by one they would take longer than the requests.
fn ask(client: &mut Qmp, command: &str, times: u64) -> Result<(), String> {
    for _ in 0..times {
        client.send(command)?;
    }
    let mut line = String::new();
    for _ in 0..times {
        line.clear();
        let read = client.stream().read_line(&mut line);
        read.map_err(|error| format!("QMP: {error}"))?;
        if !line.starts_with("{\"return\"") {
            return Err(format!("qemu-io: {line}"));
        }
    }
    Ok(())
}

/// Requests that have ended.
fn done(client: &mut Qmp) -> Result<u64, String> {
    let reply = client.command("{\"execute\":\"query-blockstats\"}")?;
    let stats: serde_json::Value =
        serde_json::from_str(reply).map_err(|error| format!("query-blockstats: {error}"))?;
    stats["return"][0]["stats"]["rd_operations"]
        .as_u64()
        .ok_or_else(|| format!("query-blockstats: {reply}"))
}
