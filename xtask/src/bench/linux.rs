//! Debian's Linux kernel on the software CPU beside QEMU's translator: from the start of the process to where init runs.

use super::emulator::Emulator;
use super::{Bench, Row, row, time};
use qemu_tests::initramfs::Initramfs;
use qemu_tests::packages;

/// Runs of what takes seconds.
const RUNS: usize = 9;
/// Times QEMU's time that it may take.
const LIMIT: f64 = 4.0;
/// Boots in a row that may come to a stop.
const TRIES: usize = 10;
/// What init prints.
const MARK: &[u8] = b"init runs";

/// Boots with one processor, 256 MiB and a serial console.
pub(super) fn boot(bench: &Bench) -> Result<Vec<Row>, String> {
    // Init waits to be killed; what it prints is no line of its own before.
    let init = "echo init runs\nwhile :; do /bin/busybox sleep 1000; done\n";
    let (Some(kernel), Some(initrd)) = (packages::linux(), Initramfs::busybox(init)) else {
        println!(
            "Linux is not measured: Debian's linux-image-cloud-amd64 or busybox-static is missing"
        );
        return Ok(Vec::new());
    };
    let initrd = bench.rom("linux-initrd", &initrd.finish())?;
    let kernel = kernel.to_string_lossy();
    // Without the last word a busy host makes Linux panic, in both: see `qemu-tests/tests/linux.rs`.
    let append = "console=ttyS0 no_timer_check";
    let options = |board| {
        [
            "-accel", "tcg", "-M", board, "-m", "256", "-serial", "stdio", "-kernel", &*kernel,
            "-initrd", &initrd, "-append", append,
        ]
    };
    let (pc, microvm) = (options("pc"), options("microvm"));
    bench.announce("Linux to init on pc", &pc);
    bench.announce("Linux to init on microvm, beside it", &microvm);
    // The boards by turns, and who is first too: a machine that changes its pace does not change which is faster.
    let mut microvm_first = false;
    let results = bench.alternate(bench.runs.min(RUNS), |emulator| {
        let boot = |options| emulator.time_to(MARK, options);
        microvm_first = !microvm_first;
        if microvm_first {
            let microvm = boot_at_last(emulator, &microvm)?;
            return Ok((boot(&pc)?, microvm));
        }
        Ok((boot(&pc)?, boot_at_last(emulator, &microvm)?))
    })?;
    let on_pc = results.map(|times| times.0).medians();
    let on_microvm = results.map(|times| times.1.time).medians();
    let stops = results.map(|times| times.1.stops as f64);
    let stops = [stops.thimble, stops.qemu].map(|stops| stops.iter().sum::<f64>());
    Ok(vec![
        row(
            "spawn to Linux' init on pc, software CPU",
            &on_pc,
            time,
            Some(("at most 4 times QEMU's", on_pc.ratio() <= LIMIT)),
        ),
        row(
            "spawn to Linux' init on microvm, software CPU",
            &on_microvm,
            time,
            Some(("no slower than on pc", on_microvm.thimble <= on_pc.thimble)),
        ),
        Row {
            measure: format!(
                "boots of Linux on microvm that stop on the way to {} that don't",
                results.thimble.len()
            ),
            thimble: stops[0].to_string(),
            qemu: stops[1].to_string(),
            ratio: None,
            target: Some(("none", stops[0] == 0.0)),
        },
    ])
}

/// A boot that reaches init.
struct Boot {
    /// Nanoseconds.
    time: f64,
    /// Boots before it that did not.
    stops: usize,
}

/// Boots until init runs. On QEMU's microvm Linux may find no clock to measure the time-stamp counter against, and stop.
fn boot_at_last(emulator: &Emulator, options: &[&str]) -> Result<Boot, String> {
    let mut stops = 0;
    loop {
        match emulator.time_to(MARK, options) {
            Ok(time) => return Ok(Boot { time, stops }),
            Err(error) if stops == TRIES => return Err(error),
            Err(error) => println!("  {}: {error}; once more", emulator.name),
        }
        stops += 1;
    }
}
