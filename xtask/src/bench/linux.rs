//! Debian's Linux kernel on the software CPU beside QEMU's translator: from the start of the process to where init runs.

use super::{Bench, Row, row, time};
use qemu_tests::initramfs::Initramfs;
use qemu_tests::packages;

/// Runs of what takes seconds.
const RUNS: usize = 5;
/// Times QEMU's time that it may take.
const LIMIT: f64 = 4.0;
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
    let mut rows = Vec::new();
    let mut times = Vec::new();
    for board in ["pc", "microvm"] {
        let options = [
            "-accel", "tcg", "-M", board, "-m", "256", "-serial", "stdio", "-kernel", &*kernel,
            "-initrd", &initrd, "-append", append,
        ];
        bench.announce(&format!("Linux to init on {board}"), &options);
        let results = bench.time_to(MARK, bench.runs.min(RUNS), &options)?;
        let medians = results.medians();
        times.push(medians.thimble);
        let target = match times[..] {
            [pc, microvm] => ("no slower than on pc", microvm <= pc),
            _ => ("at most 4 times QEMU's", medians.ratio() <= LIMIT),
        };
        let measure = format!("spawn to Linux' init on {board}, software CPU");
        rows.push(row(&measure, &medians, time, Some(target)));
    }
    Ok(rows)
}
