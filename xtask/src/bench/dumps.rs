//! Dumps of guest memory: from the command to its reply, into a file in the page cache.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use super::emulator::{Emulator, Qmp, Running};
use super::measures::ns;
use super::{Bench, Row, row, time};

/// Runs of what takes long.
const RUNS: usize = 5;

const MIB: usize = 1 << 20;

/// Bytes that are written into guest memory at a time.
const PIECE: usize = MIB / 4;

/// Something to compress: words that grow, every fourth one as good as random, and every other page with zeros behind.
fn piece(seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let words = (0..PIECE as u32 / 4).map(|index| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        match (index >> 10 & 1, index >> 8 & 3, index & 3) {
            (1, 2.., _) => 0,
            (_, _, 3) => state,
            _ => index >> 4,
        }
    });
    words.flat_map(u32::to_le_bytes).collect()
}

/// A stopped guest whose memory is full.
struct Guest {
    running: Running,
    qmp: Qmp,
}

fn guest(bench: &Bench, emulator: &Emulator, mib: usize, full: bool) -> Result<Guest, String> {
    let text = |error: std::io::Error| error.to_string();
    let sockets = ["qmp.sock", "qtest.sock"].map(|name| bench.folder.join(name));
    for socket in &sockets {
        let _ = fs::remove_file(socket);
    }
    let [qmp, qtest] = sockets
        .each_ref()
        .map(|socket| format!("unix:{},server=on,wait=off", socket.display()));
    let size = mib.to_string();
    let options = [
        "-accel",
        "tcg",
        "-S",
        "-m",
        &size,
        "-qmp",
        &qmp,
        "-qtest",
        &qtest,
        "-qtest-log",
        "none",
    ];
    let mut running = emulator.spawn(&options)?;
    let qmp = running.qmp(&sockets[0])?;
    let stream = UnixStream::connect(&sockets[1]).map_err(text)?;
    let mut replies = BufReader::new(stream.try_clone().map_err(text)?);
    let mut ask = |request: String| {
        (&stream).write_all(request.as_bytes()).map_err(text)?;
        let mut reply = String::new();
        replies.read_line(&mut reply).map_err(text)?;
        match reply.starts_with("OK") {
            true => Ok(()),
            false => Err(format!("qtest: {reply}")),
        }
    };
    let high = (mib - 1) * MIB;
    if full {
        for (index, at) in (MIB..MIB + high).step_by(PIECE).enumerate() {
            let bytes = piece(index as u32);
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            ask(format!("write {at:#x} {PIECE:#x} 0x{digits}\n"))?;
        }
    } else {
        ask(format!("memset {MIB:#x} {high:#x} 0x5a\n"))?;
    }
    Ok(Guest { running, qmp })
}

/// An ELF file of 1 GiB, and a compressed one of 128 MiB.
pub(super) fn dumps(bench: &Bench) -> Result<Vec<Row>, String> {
    let target = bench.folder.join("dump");
    let mut rows = Vec::new();
    for (what, mib, format) in [
        ("dump of 1 GiB, ELF", 1024, "elf"),
        ("dump of 128 MiB, kdump-zlib", 128, "kdump-zlib"),
    ] {
        bench.announce(what, &["-S", "-m", &mib.to_string()]);
        let results = bench.alternate(bench.runs.min(RUNS), |emulator| {
            let mut guest = guest(bench, emulator, mib, format != "elf")?;
            let taken = dump(&mut guest, &target, format)?;
            drop(guest.running);
            Ok(taken)
        })?;
        let medians = results.medians();
        let kept = medians.ratio() <= 1.0;
        rows.push(row(what, &medians, time, Some(("at most QEMU's", kept))));
    }
    let _ = fs::remove_file(target);
    Ok(rows)
}

fn dump(guest: &mut Guest, target: &Path, format: &str) -> Result<f64, String> {
    let _ = fs::remove_file(target);
    let command = format!(
        "{{\"execute\":\"dump-guest-memory\",\"arguments\":{{\"paging\":false,\"format\":\"{format}\",\"protocol\":\"file:{}\"}}}}",
        target.display()
    );
    let asked = Instant::now();
    let reply = guest.qmp.command(&command)?;
    match reply.starts_with("{\"return\"") {
        true => Ok(ns(asked.elapsed())),
        false => Err(format!("dump-guest-memory: {reply}")),
    }
}
