//! Disks: reads through virtio-blk from a file in the page cache, by an image that makes them natively in ring 3, and by Linux on
//! the software CPU.

use std::io::Write as _;

use super::emulator::Emulator;
use super::measures::CONSOLE;
use super::phases::{Phase, middle, phase, phases};
use super::{Bench, Pair, Row, row};
use crate::images;
use qemu_tests::initramfs::Initramfs;
use qemu_tests::packages;

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

/// What the disk is on, and what that takes.
const PLACES: [(&str, [&str; 4]); 2] = [
    (
        "virtio-blk",
        ["-M", "pc", "-device", "virtio-blk-pci,drive=disk"],
    ),
    (
        "virtio-blk in memory",
        ["-M", "microvm", "-device", "virtio-blk-device,drive=disk"],
    ),
];

/// Requests a second.
pub(super) fn reads(bench: &Bench) -> Result<Vec<Row>, String> {
    if !packages::kvm_usable() {
        println!("reads through virtio-blk: skipped, there is no /dev/kvm");
        return Ok(Vec::new());
    }
    let rom = images::rom("disk_speed")?;
    let file = bench.folder.join("disk.img");
    fill(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let drive = format!("file={},format=raw,if=none,id=disk", file.display());
    let mut all = Vec::new();
    for (name, place) in PLACES {
        let mut options = vec!["-bios", &rom, "-drive", &drive];
        options.extend(CONSOLE);
        options.extend(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
        options.extend(place);
        bench.announce(&format!("reads through {name}"), &options);
        let runs = bench.alternate(bench.runs.min(RUNS), |emulator| phases(emulator, &options));
        all.push((name, runs));
    }
    std::fs::remove_file(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let mut shown = Vec::new();
    for (name, runs) in all {
        shown.extend(rows(&format!("{name} reads under KVM"), &runs?));
    }
    Ok(shown)
}

/// A row for each phase.
fn rows(of: &str, runs: &Pair<Vec<Vec<Phase>>>) -> Vec<Row> {
    let names = runs.thimble.first().map_or(&[][..], |first| &first[..]);
    let rows = names.iter().enumerate().map(|(index, Phase { name, .. })| {
        let medians = Pair {
            thimble: middle(&runs.thimble, index),
            qemu: middle(&runs.qemu, index),
        };
        let target = TARGETS.iter().find(|target| target.0 == name);
        let target = target.map(|&(_, text, least)| (text, medians.ratio() >= least));
        let show = |rate: f64| format!("{:.1} thousand/s", rate / 1e3);
        row(&format!("{of}: {name}"), &medians, show, target)
    });
    rows.collect()
}

/// What Linux reads: name, bytes of a request, requests, and whether past its page cache.
const LINUX_READS: [(&str, &str, u32, bool); 3] = [
    ("dd 4 KiB direct", "4k", 4000, true),
    ("dd 128 KiB direct", "128k", 1000, true),
    ("dd through the cache", "128k", 400, false),
];

/// What stands before the first phase.
const BEGIN: &[u8] = b"== begin";

/// Requests a second, by Debian's Linux and busybox.
pub(super) fn linux_reads(bench: &Bench) -> Result<Vec<Row>, String> {
    let Some((kernel, modules)) = packages::linux_with(packages::DISK_MODULES) else {
        println!("reads by Linux: skipped, Debian's linux-image-cloud-amd64 is missing");
        return Ok(Vec::new());
    };
    let virtio = modules.iter().filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("virtio")
    });
    let virtio: Vec<_> = virtio.collect();
    let mut init = String::from(
        "export PATH=/bin\n/bin/busybox --install -s /bin\nmount -t proc proc /proc\nmount -t devtmpfs dev /dev\ndmesg -n 1\n",
    );
    for path in &virtio {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        init += &format!("insmod /bin/{name}\n");
    }
    init += "stty -echo -onlcr\necho == begin\n";
    for (name, bytes, count, is_direct) in LINUX_READS {
        let flags = if is_direct { "iflag=direct" } else { "" };
        let name = name.replace(' ', "_");
        init += &format!(
            "echo {name} {count:x}; printf '<'; dd if=/dev/vda of=/dev/null bs={bytes} count={count} {flags} 2>/dev/null; printf '>'\n"
        );
    }
    init += "echo o > /proc/sysrq-trigger\nsleep 1000\n";
    let Some(mut archive) = Initramfs::busybox(&init) else {
        println!("reads by Linux: skipped, Debian's busybox-static is missing");
        return Ok(Vec::new());
    };
    for path in virtio {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        archive.program_file(&format!("bin/{name}"), path);
    }
    let initrd = bench.rom("disk-initrd", &archive.finish())?;
    let kernel = kernel.to_string_lossy();
    let file = bench.folder.join("disk.img");
    fill(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let drive = format!("file={},format=raw,if=virtio", file.display());
    let options = [
        "-accel",
        "tcg",
        "-m",
        "256",
        "-serial",
        "stdio",
        "-drive",
        &drive,
        "-kernel",
        &*kernel,
        "-initrd",
        &initrd,
        "-append",
        "console=ttyS0 quiet no_timer_check",
    ];
    bench.announce("reads through virtio-blk by Linux", &options);
    let runs = bench.alternate(bench.runs.min(RUNS), |emulator| {
        linux_phases(emulator, &options)
    });
    let removed = std::fs::remove_file(&file);
    let runs = runs?;
    removed.map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(rows("virtio-blk reads by Linux, software CPU", &runs))
}

/// The phases of a run of Linux, whose kernel may have told something before.
fn linux_phases(emulator: &Emulator, options: &[&str]) -> Result<Vec<Phase>, String> {
    let mut running = emulator.spawn(options)?;
    let mut line = Vec::new();
    loop {
        match running.next_byte_if_any()? {
            None => return Err("Linux ended before it read anything".to_owned()),
            Some((b'\n', _)) if line.ends_with(BEGIN) => break,
            Some((b'\n', _)) => line.clear(),
            Some((byte, _)) => line.push(byte),
        }
    }
    let mut phases = Vec::new();
    while phases.len() < LINUX_READS.len()
        && let Some(Phase { name, speed }) = phase(&mut running)?
    {
        let name = name.replace('_', " ");
        phases.push(Phase { name, speed });
    }
    Ok(phases)
}

/// Makes a file without holes, which is in the page cache then.
fn fill(path: &std::path::Path) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    let block: Vec<u8> = (0..1u32 << 18)
        .flat_map(|word| word.wrapping_mul(0x9e37_79b9).to_le_bytes())
        .collect();
    (0..FILE_MIB).try_for_each(|_| file.write_all(&block))
}
