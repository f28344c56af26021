//! The PC with all of its devices: what they cost in memory, and SeaBIOS among them up to where it gives up.

use std::fs;

use super::emulator::RAM_MIB;
use super::measures::{CONSOLE, Stopped, private_dirty};
use super::{Bench, Row, bytes, row, time};
use qemu_tests::packages::kvm_usable;

type Rows = Result<Vec<Row>, String>;

/// Runs of what takes seconds.
const RUNS: usize = 5;

/// All that can be plugged in beside what the board has, once each at least.
const DEVICES: [&str; 12] = [
    "isa-serial",
    "isa-serial",
    "isa-debug-exit",
    "ib700",
    "pvpanic",
    "pvpanic-pci",
    "vmcoreinfo",
    "pci-bridge,chassis_nr=1,shpc=off",
    "pci-serial",
    "pci-serial-4x",
    "i6300esb",
    "pci-testdev",
];

const SEABIOS: &str = "/usr/share/seabios/bios-256k.bin";
/// What it says last.
const LAST: &[u8] = b"No bootable device";

fn add_devices(options: &mut Vec<&str>) {
    for device in DEVICES {
        options.extend(["-device", device]);
    }
}

/// Private memory of a stopped machine, above guest RAM.
pub(super) fn memory(bench: &Bench) -> Rows {
    let stopped = Stopped::new(bench)?;
    let mut options = vec!["-S", "-bios", &stopped.rom];
    options.extend(CONSOLE);
    add_devices(&mut options);
    let socket = bench.folder.join("devices.sock");
    let chardev = format!("unix:{},server=on,wait=off", socket.display());
    options.extend(["-qmp", &chardev]);
    bench.announce("private dirty memory with all devices", &options);
    let results = bench.alternate(bench.runs.min(RUNS), |emulator| {
        // A stale socket would refuse, and be found before the new one.
        let _ = fs::remove_file(&socket);
        let mut running = emulator.spawn(&options)?;
        // It answers once all is there.
        running.qmp(&socket)?.command(super::QUERY_STATUS)?;
        let path = format!("/proc/{}/smaps", running.id());
        let smaps = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        Ok(private_dirty(&smaps, RAM_MIB << 10) as f64 * 1024.0)
    })?;
    let medians = results.medians();
    let most = 2.0 * 1024.0 * 1024.0;
    Ok(vec![row(
        "private dirty memory above guest RAM, all devices of the PC",
        &medians,
        bytes,
        Some(("at most 2 MiB", medians.thimble <= most)),
    )])
}

/// Spawn to where SeaBIOS gives up: under KVM and on the software CPU, with the board's own devices and with all.
pub(super) fn seabios(bench: &Bench) -> Rows {
    if !fs::exists(SEABIOS).unwrap_or(false) {
        println!("SeaBIOS is not measured: Debian's package seabios is missing");
        return Ok(Vec::new());
    }
    let mut rows = Vec::new();
    let accels = [
        ("kvm", "KVM", 1.0, "at most QEMU's"),
        ("tcg", "software CPU", 3.0, "at most 3 times QEMU's"),
    ];
    for (accel, name, most, target) in accels {
        if accel == "kvm" && !kvm_usable() {
            println!("SeaBIOS is not measured under KVM: /dev/kvm can't be used");
            continue;
        }
        for (what, all) in [("", false), (", all devices", true)] {
            let mut options = vec!["-accel", accel, "-bios", SEABIOS];
            options.extend(CONSOLE);
            if all {
                add_devices(&mut options);
            }
            bench.announce("start to SeaBIOS's last line", &options);
            let results = bench.alternate(bench.runs.min(RUNS), |emulator| {
                emulator.time_to(LAST, &options)
            })?;
            let medians = results.medians();
            let measure = format!("spawn to SeaBIOS's \"No bootable device\", {name}{what}");
            let kept = medians.ratio() <= most;
            rows.push(row(&measure, &medians, time, Some((target, kept))));
        }
    }
    Ok(rows)
}
