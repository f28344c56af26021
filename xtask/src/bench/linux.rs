//! Debian's Linux kernel on the software CPU beside QEMU's translator: from the start of the process to where init runs.

use super::measures::ns;
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
    let options = [
        "-accel",
        "tcg",
        "-m",
        "256",
        "-serial",
        "stdio",
        "-kernel",
        &kernel,
        "-initrd",
        &initrd,
        "-append",
        "console=ttyS0",
    ];
    bench.announce("Linux to init", &options);
    let results = bench.alternate(bench.runs.min(RUNS), |emulator| {
        let mut running = emulator.spawn(&options)?;
        let mut line = Vec::new();
        loop {
            match running.next_byte_if_any()? {
                None => return Err("the guest ended before init".to_string()),
                Some((b'\n', _)) => line.clear(),
                Some((byte, at)) => {
                    line.push(byte);
                    if line.ends_with(MARK) {
                        return Ok(ns(at - running.spawned));
                    }
                }
            }
        }
    })?;
    let medians = results.medians();
    let kept = medians.ratio() <= LIMIT;
    Ok(vec![row(
        "spawn to Linux' init, software CPU",
        &medians,
        time,
        Some(("at most 4 times QEMU's", kept)),
    )])
}
