//! The emulator is killed while its guest writes: what the guest was told is durable is in the image, no record is torn, nobody
//! holds the image's locks any more, and the next run goes on.
//!
//! The guest is `firmware/src/bin/records.rs`. That the host itself fails is not tried here: what the kernel has taken is safe from the
//! death of a process, so this finds acknowledgements that came too early and writes that were not whole.

use std::path::Path;
use std::time::{Duration, Instant};

use qemu_tests::{Emulator, Instance, Launcher, images, packages, skip_part};
use rustix::process::Signal;

/// How long a guest may take to begin.
const PATIENCE: Duration = Duration::from_secs(40);

/// Bytes of a record, and of the image.
const RECORD: usize = 4096;
const IMAGE: usize = 64 * RECORD;
/// See the guest.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Kills in a usual run, and in one with `--long`.
const KILLS: u32 = 20;
const KILLS_LONG: u32 = 100;
/// Kills of QEMU, which show that the test asks for no more than there can be.
const KILLS_QEMU: u32 = 3;

/// What a drive may be like. Where the file system has no direct I/O, or the kernel not what a drive asks for, the emulator says so and
/// the test goes on without.
const DRIVES: [&str; 7] = [
    "cache=writeback",
    "cache=none,aio=native",
    "cache=writethrough,aio=io_uring",
    "cache=writeback,detect-zeroes=on,throttling.iops-total=20000",
    "cache=none,aio=io_uring",
    "cache=none,aio=threads",
    "cache=writethrough,aio=threads",
];

/// What an emulator says of a drive that can't be here.
const REFUSALS: [&str; 2] = ["O_DIRECT", "Unable to use"];

/// The words of a record.
fn record(bytes: &[u8]) -> Vec<u64> {
    let words = bytes.chunks_exact(8);
    words
        .map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes")))
        .collect()
}

/// Checks an image: the highest number in it. Up to `durable` nothing may be missing.
fn check(image: &[u8], durable: u64) -> u64 {
    let slots = (image.len() / RECORD) as u64;
    let mut last = 0;
    for (slot, bytes) in (0..).zip(image.chunks_exact(RECORD)) {
        let words = record(bytes);
        let number = words[0];
        if number == 0 {
            assert!(words.iter().all(|word| *word == 0), "slot {slot} is torn");
        } else {
            assert_eq!(number % slots, slot, "a record in a wrong place");
            for (index, word) in (0..).zip(&words).skip(1) {
                let expected = number.wrapping_mul(STEP).wrapping_add(index);
                assert_eq!(*word, expected, "record {number} is torn at word {index}");
            }
        }
        // The highest number up to the durable ones that belongs here.
        let newest = durable.saturating_sub((durable + slots - slot) % slots);
        assert!(
            number >= newest,
            "slot {slot}: {number}, but {durable} are durable"
        );
        last = last.max(number);
    }
    last
}

/// The number behind the last whole line that begins so.
fn told(instance: &Instance, start: &str) -> Option<u64> {
    let output = String::from_utf8_lossy(&instance.stdout()).into_owned();
    let whole = output.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let mut lines = whole.lines().rev();
    lines.find_map(|line| line.strip_prefix(start)?.parse().ok())
}

/// Waits until nobody has locks of an image. The kernel does what it has got by io_uring even when the process is no more, and keeps
/// the process' locks for as long.
fn wait_released(image: &Path) {
    let end = Instant::now() + PATIENCE;
    loop {
        let file = std::fs::File::options().read(true).write(true).open(image);
        let whole = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        if rustix::fs::fcntl_lock(file.expect("the image"), whole).is_ok() {
            return;
        }
        assert!(Instant::now() < end, "the image is still locked");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn launcher(emulator: Emulator, rom: &Path, image: &str, drive: &str) -> Launcher {
    let accel = match emulator {
        Emulator::Qemu => "tcg",
        Emulator::Thimble => packages::accelerator(),
    };
    emulator
        .launcher()
        .args([
            "-accel",
            accel,
            "-nodefaults",
            "-display",
            "none",
            "-m",
            "16",
        ])
        .args(["-bios", rom.to_str().expect("a plain path")])
        .args(["-debugcon", "stdio", "-global", "isa-debugcon.iobase=0x402"])
        .args([
            "-drive",
            &format!("file={image},format=raw,if=virtio,{drive}"),
        ])
}

/// Kills an emulator so often. How long it lives each time is decided by the number of the kill.
fn kill(emulator: Emulator, kills: u32) {
    let rom = images::rom("records");
    let folder = Emulator::Thimble.launcher();
    let path = folder.dir().join("image");
    std::fs::write(&path, vec![0; IMAGE]).expect("an image");
    let name = path.to_str().expect("a plain path");
    let (mut last, mut records) = (0, 0);
    for number in 0..kills {
        let drive = DRIVES[number as usize % DRIVES.len()];
        let instance = launcher(emulator, &rom, name, drive).start();
        let end = Instant::now() + PATIENCE;
        while told(&instance, "durable ").is_none() && instance.try_wait().is_none() {
            assert!(Instant::now() < end, "{}", instance.report());
            std::thread::sleep(Duration::from_millis(1));
        }
        if instance.try_wait().is_some() {
            let said = instance.stderr();
            let refused = REFUSALS.iter().any(|refusal| said.contains(refusal));
            assert!(refused, "{}", instance.report());
            skip_part("the host has not got what a drive asks for");
            continue;
        }
        // What the last check found is what the guest finds.
        assert_eq!(
            told(&instance, "found "),
            Some(last),
            "{}",
            instance.report()
        );
        std::thread::sleep(Duration::from_micros(u64::from(number) * 34_567 % 150_000));
        instance.signal(Signal::KILL);
        assert_eq!(instance.wait(PATIENCE).code(), None);
        if drive.contains("io_uring") {
            wait_released(&path);
        }
        let durable = told(&instance, "durable ").expect("a line");
        let image = std::fs::read(&path).expect("the image");
        assert_eq!(image.len(), IMAGE);
        let found = check(&image, durable);
        assert!(found >= last, "{last} {found}");
        records += found - last;
        last = found;
    }
    assert!(records > 0);
    eprintln!("{emulator:?} was killed {kills} times while it wrote {records} records");
}

#[test]
fn nothing_durable_is_lost_when_the_emulator_is_killed() {
    kill(Emulator::Thimble, KILLS);
    if packages::qemu().is_none() {
        return skip_part("qemu-system-x86 is missing");
    }
    kill(Emulator::Qemu, KILLS_QEMU);
}

#[test]
#[ignore = "long"]
fn nothing_durable_is_lost_when_the_emulator_is_killed_often() {
    kill(Emulator::Thimble, KILLS_LONG);
}

#[test]
fn checks_find_what_is_wrong() {
    let write = |image: &mut Vec<u8>, number: u64| {
        let slots = (image.len() / RECORD) as u64;
        let at = (number % slots) as usize * RECORD;
        for (index, word) in (0..).zip(image[at..at + RECORD].chunks_exact_mut(8)) {
            let value = number.wrapping_mul(STEP).wrapping_add(index);
            word.copy_from_slice(&if index == 0 { number } else { value }.to_le_bytes());
        }
    };
    let mut image = vec![0; 4 * RECORD];
    assert_eq!(check(&image, 0), 0);
    for number in 1..=6 {
        write(&mut image, number);
    }
    assert_eq!(check(&image, 6), 6);
    assert_eq!(check(&image, 5), 6);
    let fails = |image: &[u8], durable| {
        std::panic::catch_unwind(|| check(image, durable)).expect_err("a fault");
    };
    // Record 7 is not there, and a torn one is not one.
    fails(&image, 7);
    image[2 * RECORD + 100] ^= 1;
    fails(&image, 6);
}
