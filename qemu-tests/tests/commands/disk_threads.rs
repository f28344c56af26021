//! Disks that threads serve while commands stop the machine, reset it, slow it down and look at it: a guest that writes and reads
//! a virtio disk for ever sees no error and no byte that it has not written.

use std::path::Path;
use std::time::Duration;

use qemu_tests::{Emulator, Instance, QmpClient, images, packages, skip_part};
use serde_json::{Value, json};

use crate::{
    ask, command_with, compare, console, emulators, events, negotiated, status, wait_until,
    with_rom_under,
};

/// What a disk is plugged in with, each way after the other.
const WAYS: [&[&str]; 4] = [
    &["-device", "virtio-blk-pci,drive=disk,id=vd"],
    &[
        "-object",
        "iothread,id=io0",
        "-device",
        "virtio-blk-pci,drive=disk,id=vd,iothread=io0",
    ],
    &[
        "-device",
        "virtio-blk-pci,drive=disk,id=vd,ioeventfd=off,event_idx=off",
    ],
    &[
        "-M",
        "microvm",
        "-device",
        "virtio-blk-device,drive=disk,id=vd",
    ],
];

/// The drives of each of these, whose images are read and written in ways of their own.
const DRIVES: [[&str; 2]; 4] = [
    [
        "-drive",
        "file={dir}/disk.img,format=raw,if=none,id=disk,aio=threads",
    ],
    [
        "-drive",
        "file={dir}/disk.img,format=raw,if=none,id=disk,cache=none,aio=io_uring",
    ],
    [
        "-drive",
        "file={dir}/disk.img,format=raw,if=none,id=disk,cache=none,aio=native",
    ],
    ["-drive", "file={dir}/disk.img,format=raw,if=none,id=disk"],
];

/// Whether files in a folder can be read and written past the page cache.
fn has_direct(folder: &Path) -> bool {
    let path = folder.join("disk.img");
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::DIRECT;
    rustix::fs::open(path, flags, rustix::fs::Mode::empty()).is_ok()
}

/// A guest that writes and reads its disk, a new one of 1 MiB.
fn stressed(emulator: Emulator, accelerator: &str, options: &[&str]) -> Instance {
    let rom = std::fs::read(images::rom("disk_stress")).expect("the image");
    let launcher = with_rom_under(emulator, &rom, accelerator);
    std::fs::write(launcher.dir().join("disk.img"), vec![0; 1 << 20]).expect("a file");
    let direct = has_direct(launcher.dir());
    let options = options.iter().map(|option| match direct {
        true => (*option).to_owned(),
        false => option
            .replace(",cache=none", "")
            .replace("=native", "=threads"),
    });
    let launcher = launcher.args(options);
    if !direct {
        skip_part("the file system has no direct I/O");
    }
    launcher.lifetime(Duration::from_secs(120)).start()
}

/// The accelerators that Thimble has here.
fn accelerators(emulator: Emulator) -> Vec<&'static str> {
    match emulator {
        Emulator::Thimble if packages::accelerator() != "tcg" => {
            vec![packages::accelerator(), "tcg"]
        }
        _ => vec!["tcg"],
    }
}

/// Rounds that the guest has made; it has met nothing wrong.
fn rounds(instance: &Instance) -> usize {
    let printed = console(instance);
    assert!(
        !printed.contains(['E', 'f']),
        "{printed}\n{}",
        instance.report()
    );
    printed.matches('.').count()
}

/// Waits until the guest has made so many more rounds.
fn more_rounds(instance: &Instance, count: usize) {
    let from = rounds(instance);
    wait_until("the guest goes on with its disk", || {
        rounds(instance) >= from + count
    });
}

/// What the disk has done so far.
fn operations(client: &mut QmpClient) -> Value {
    let stats = ask(client, "query-blockstats")[0]["stats"].clone();
    json!([
        stats["rd_operations"],
        stats["wr_operations"],
        stats["failed_rd_operations"],
        stats["failed_wr_operations"],
        stats["invalid_rd_operations"]
    ])
}

/// Whether all of the image is of two rounds, one after the other: what a guest that was stopped leaves.
fn is_whole(image: &Path) -> bool {
    let image = std::fs::read(image).expect("the image");
    let words = |page: &[u8]| -> Vec<u64> {
        let words = page.chunks_exact(8);
        words
            .map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes")))
            .collect()
    };
    let pages: Vec<_> = image.chunks_exact(4096).map(words).collect();
    let last = pages.iter().map(|page| page[0] >> 32).max().unwrap_or(0);
    (0..).zip(&pages).all(|(number, page)| {
        let round = page[0] >> 32;
        let is_own = |(index, word): (u64, &u64)| *word == (round << 32 | number << 16) + index;
        (round + 1 == last || round == last) && (round == 0 || (0..).zip(page).all(is_own))
    })
}

#[test]
fn disks_go_on_through_stops_and_resets() {
    for emulator in emulators() {
        for accelerator in accelerators(emulator) {
            for (drive, way) in DRIVES.iter().zip(WAYS) {
                let options = [drive, way].concat();
                let instance = stressed(emulator, accelerator, &options);
                let mut client = negotiated(&instance);
                more_rounds(&instance, 1);
                for _ in 0..8 {
                    command_with(&mut client, "stop", json!({}));
                    assert_eq!(status(&mut client), "paused");
                    let (before, printed) = (operations(&mut client), console(&instance));
                    let image = std::fs::read(instance.dir().join("disk.img")).expect("the image");
                    std::thread::sleep(Duration::from_millis(5));
                    assert_eq!(operations(&mut client), before, "it stands still");
                    assert_eq!(console(&instance), printed);
                    let after = std::fs::read(instance.dir().join("disk.img")).expect("the image");
                    assert!(image == after, "it stands still");
                    assert!(is_whole(&instance.dir().join("disk.img")));
                    command_with(&mut client, "cont", json!({}));
                }
                more_rounds(&instance, 1);
                for _ in 0..3 {
                    let starts = console(&instance).matches('R').count();
                    command_with(&mut client, "system_reset", json!({}));
                    wait_until("the guest starts again", || {
                        console(&instance).matches('R').count() > starts
                    });
                }
                more_rounds(&instance, 1);
                let done = operations(&mut client);
                assert_eq!(json!([done[2], done[3], done[4]]), json!([0, 0, 0]));
                command_with(&mut client, "quit", json!({}));
                assert!(instance.wait(crate::SOON).success());
            }
        }
    }
}

#[test]
fn limits_hold_for_disks_of_threads() {
    for emulator in emulators() {
        for (drive, way) in DRIVES.iter().zip(WAYS) {
            let options = [drive, way].concat();
            let accelerator = accelerators(emulator)[0];
            let instance = stressed(emulator, accelerator, &options);
            let mut client = negotiated(&instance);
            more_rounds(&instance, 1);
            let limit = |client: &mut QmpClient, pages: i64| {
                let limits = json!({
                    "device": "disk", "bps": pages * 4096, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0
                });
                command_with(client, "block_set_io_throttle", limits);
            };
            limit(&mut client, 200);
            // What is under way, and what a bucket of a tenth of a second holds.
            std::thread::sleep(Duration::from_millis(50));
            let count = |client: &mut QmpClient| {
                let done = operations(client);
                done[0].as_u64().expect("a number") + done[1].as_u64().expect("a number")
            };
            // An answer may be late: the time is that from before the first question until after the last answer.
            let begin = std::time::Instant::now();
            let from = count(&mut client);
            std::thread::sleep(Duration::from_secs(1));
            let done = count(&mut client) - from;
            let seconds = begin.elapsed().as_secs_f64();
            assert!(
                done > 50 && (done as f64) < 200.0 * seconds + 60.0,
                "{emulator:?}: {done}"
            );
            limit(&mut client, 0);
            more_rounds(&instance, 1);
        }
    }
}

#[test]
fn errors_stop_disks_of_threads_until_they_go_on() {
    let rules = "blkdebug,node-name=bd,image.driver=file,image.filename={dir}/disk.img,inject-error.0.event=write_aio,\
                 inject-error.0.iotype=write,inject-error.0.sector=800,inject-error.0.errno=28,inject-error.0.once=on";
    let mut answers = Vec::new();
    for emulator in emulators() {
        for way in &WAYS[1..2] {
            let mut options = vec![
                "-blockdev",
                rules,
                "-blockdev",
                "raw,node-name=disk,file=bd",
            ];
            options.extend(*way);
            let instance = stressed(emulator, accelerators(emulator)[0], &options);
            let mut client = negotiated(&instance);
            wait_until("the error stops the machine", || {
                status(&mut client) == "io-error"
            });
            // QEMU puts neighbours into one request, of which each is told then.
            let mut told = events(&mut client);
            told.dedup();
            let told = json!(told);
            // Nothing is lost, however often the machine stops over it.
            let printed = console(&instance);
            assert!(
                !printed.contains('E') && !printed.contains('.'),
                "{printed}"
            );
            command_with(&mut client, "cont", json!({}));
            more_rounds(&instance, 2);
            answers.push(vec![("an error".to_owned(), told.to_string())]);
        }
    }
    compare("disk-threads-stop", &answers);
}

#[test]
fn images_change_size_and_are_looked_at_under_load() {
    for emulator in emulators() {
        for (drive, way) in DRIVES.iter().zip(WAYS) {
            let options = [drive, way].concat();
            let instance = stressed(emulator, accelerators(emulator)[0], &options);
            let mut client = negotiated(&instance);
            more_rounds(&instance, 1);
            for size in [2 << 20, 3 << 20] {
                let arguments = json!({"device": "disk", "size": size});
                command_with(&mut client, "block_resize", arguments);
                for command in ["query-block", "query-named-block-nodes", "query-blockstats"] {
                    assert!(
                        !ask(&mut client, command)
                            .as_array()
                            .expect("a list")
                            .is_empty()
                    );
                }
            }
            let length = std::fs::metadata(instance.dir().join("disk.img"))
                .expect("the image")
                .len();
            assert_eq!(length, 3 << 20);
            more_rounds(&instance, 1);
        }
    }
}

#[test]
fn threads_are_found_by_their_ids() {
    let mut answers = Vec::new();
    for emulator in emulators() {
        let options = [&DRIVES[1][..], WAYS[1]].concat();
        let instance = stressed(emulator, accelerators(emulator)[0], &options);
        let mut client = negotiated(&instance);
        more_rounds(&instance, 1);
        let threads = ask(&mut client, "query-iothreads");
        let shown: Vec<_> = [&threads[0]["id"], &threads[0]["poll-max-ns"]]
            .map(Value::to_string)
            .into();
        let at = |property: &str| json!({"path": "/machine/peripheral/vd", "property": property});
        let on = command_with(&mut client, "qom-get", at("ioeventfd"));
        answers.push(vec![
            ("query-iothreads".to_owned(), shown.join(" ")),
            ("ioeventfd".to_owned(), on.to_string()),
        ]);
        // The thread goes on as long as a disk has it.
        command_with(&mut client, "object-del", json!({"id": "io0"}));
        more_rounds(&instance, 1);
    }
    compare("disk-threads-ids", &answers);
}
