//! Disks: reads through virtio-blk from a file in the page cache, by an image that makes them natively in ring 3.

use std::io::Write as _;

use super::measures::CONSOLE;
use super::phases::{Phase, kvm_usable, middle, phases};
use super::{Bench, Pair, Row, row};
use crate::images;

/// Runs of each emulator.
const RUNS: usize = 7;
/// MiB of the file.
const FILE_MIB: u64 = 256;

/// What each phase of `disk_speed` is to reach, as a part of QEMU's.
const TARGETS: [(&str, &str, f64); 3] = [
    ("random-1", "at least 1.2 times", 1.2),
    ("random-32", "at least 1.2 times", 1.2),
    ("sequential", "at least QEMU's", 1.0),
];

/// Requests a second.
pub(super) fn reads(bench: &Bench) -> Result<Vec<Row>, String> {
    if !kvm_usable() {
        println!("reads through virtio-blk: skipped, there is no /dev/kvm");
        return Ok(Vec::new());
    }
    let rom = images::rom("disk_speed")?;
    let file = bench.folder.join("disk.img");
    fill(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let drive = format!("file={},format=raw,if=none,id=disk", file.display());
    let mut options = vec!["-bios", &rom];
    options.extend(CONSOLE);
    options.extend(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
    options.extend(["-drive", &drive, "-device", "virtio-blk-pci,drive=disk"]);
    bench.announce("reads through virtio-blk", &options);
    let runs = bench.alternate(bench.runs.min(RUNS), |emulator| phases(emulator, &options));
    let removed = std::fs::remove_file(&file);
    let runs = runs?;
    removed.map_err(|error| format!("{}: {error}", file.display()))?;
    let names = runs.thimble.first().map_or(&[][..], |first| &first[..]);
    let rows = names.iter().enumerate().map(|(index, Phase { name, .. })| {
        let medians = Pair {
            thimble: middle(&runs.thimble, index),
            qemu: middle(&runs.qemu, index),
        };
        let target = TARGETS.iter().find(|target| target.0 == name);
        let target = target.map(|&(_, text, least)| (text, medians.ratio() >= least));
        let show = |rate: f64| format!("{:.1} thousand/s", rate / 1e3);
        row(
            &format!("virtio-blk reads under KVM: {name}"),
            &medians,
            show,
            target,
        )
    });
    Ok(rows.collect())
}

/// Makes a file without holes, which is in the page cache then.
fn fill(path: &std::path::Path) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    let block: Vec<u8> = (0..1u32 << 18)
        .flat_map(|word| word.wrapping_mul(0x9e37_79b9).to_le_bytes())
        .collect();
    (0..FILE_MIB).try_for_each(|_| file.write_all(&block))
}
