//! Debian's Linux kernel on the software CPU beside QEMU's translator: from the start of the process to where init runs.

use super::{Bench, Row, row, time};
use qemu_tests::initramfs::Initramfs;
use qemu_tests::packages;

/// Runs of what takes seconds.
const RUNS: usize = 9;
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
        let boot = |options: &[&str]| emulator.time_to(MARK, options);
        microvm_first = !microvm_first;
        if microvm_first {
            let microvm = boot(&microvm)?;
            return Ok((boot(&pc)?, microvm));
        }
        Ok((boot(&pc)?, boot(&microvm)?))
    })?;
    let on_pc = results.map(|times| times.0).medians();
    let on_microvm = results.map(|times| times.1).medians();
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
    ])
}
