//! Debian's Linux with disks and a CD: what it finds beside QEMU's guest, file systems that the host's tools agree with, and media that
//! come and go while they are mounted.

use std::path::Path;
use std::time::Duration;

use qemu_tests::linux_guest::LinuxGuest;
use qemu_tests::{Emulator, Launcher, ask_both, media, packages, skip};
use serde_json::{Value, json};

/// A guest may take so long; other tests and emulators have the same processors.
const PATIENCE: Duration = Duration::from_secs(120);

const MISSING: &str = "something of the Debian packages qemu-system-x86, e2fsprogs, xorriso, busybox-static and \
                       linux-image-cloud-amd64 can't be had";

/// Makes a CD with a file `name`, which says the name.
fn cd(dir: &Path, name: &str) -> Option<()> {
    let files = dir.join(format!("{name}.files"));
    std::fs::create_dir(&files).expect("a folder");
    std::fs::write(files.join("name"), name).expect("a file");
    media::cd(&dir.join(name), &files)
}

/// What the kernel tells of a block device, with the parts of its messages that firmware decides about left out.
const FINDS: &str = r#"show() { for f in "$@"; do [ -f $f ] && echo ${f#/sys/block/} $(cat $f); done; }; \
cat /proc/partitions; \
for b in vda sda sr0; do d=/sys/block/$b; \
show $d/size $d/ro $d/removable $d/capability $d/events $d/serial $d/cache_type $d/range $d/device/model $d/device/vendor $d/device/rev \
$d/device/type $d/device/unload_heads $d/queue/logical_block_size $d/queue/physical_block_size $d/queue/minimum_io_size $d/queue/optimal_io_size \
$d/queue/max_sectors_kb $d/queue/max_hw_sectors_kb $d/queue/max_segments $d/queue/max_segment_size $d/queue/write_cache $d/queue/rotational $d/queue/fua \
$d/queue/discard_granularity $d/queue/discard_max_bytes $d/queue/discard_max_hw_bytes $d/queue/write_zeroes_max_bytes $d/queue/max_discard_segments; done; \
cat /proc/sys/dev/cdrom/info; \
dmesg | grep -E 'ata[0-9.]+:|sr 1|sd 0|virtio_blk|scsi' | sed 's/^\[[^]]*\] //; s/bmdma 0x[0-9a-f]* //' | sort"#;

#[test]
fn linux_finds_the_same_disks() {
    if packages::qemu().is_none() || packages::linux_with(packages::DISK_MODULES).is_none() {
        return skip(MISSING);
    }
    let [qemu, thimble] = ask_both(|emulator| {
        let launcher = emulator.launcher();
        media::empty(&launcher.dir().join("v"), 5 << 20);
        media::empty(&launcher.dir().join("i"), 37 << 20);
        cd(launcher.dir(), "cd").expect("xorriso");
        let launcher = launcher
            .args([
                "-drive",
                "if=none,id=v,file={dir}/v,format=raw,discard=unmap",
            ])
            .args(["-drive", "if=none,id=i,file={dir}/i,format=raw"])
            .args([
                "-drive",
                "if=none,id=c,file={dir}/cd,format=raw,media=cdrom",
            ])
            .args(["-device", "virtio-blk-pci,drive=v,serial=first"])
            .args([
                "-device",
                "ide-hd,drive=i,bus=ide.0,serial=second,model=A disk,ver=9.1",
            ])
            .args(["-device", "ide-cd,drive=c,bus=ide.1"]);
        let mut guest = LinuxGuest::start(launcher, packages::DISK_MODULES).expect("a kernel");
        let mut found = guest.run(&FINDS.replace("\\\n", ""));
        found += &guest.run("dd if=/dev/sr0 bs=2048 2>/dev/null | md5sum");
        found
    });
    // CDs of two runs carry different times.
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (qemu, thimble) = (lines(&qemu), lines(&thimble));
    let end = qemu.len() - 1;
    assert!(end > 60, "{qemu:#?}");
    for (theirs, ours) in qemu.iter().zip(&thimble).take(end) {
        assert_eq!(theirs, ours);
    }
    assert_eq!(qemu.len(), thimble.len());
}

/// Bytes that no compression or hole makes the same.
fn noise(length: usize, mut seed: u32) -> Vec<u8> {
    let mut byte = || {
        // Numerical Recipes' generator; the upper bits are the better ones.
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    };
    (0..length).map(|_| byte()).collect()
}

/// One after the other: a virtio disk and an IDE disk, both with a file of the host's, and a CD with the same file.
#[test]
fn the_host_agrees_with_what_linux_wrote() {
    let modules = [packages::DISK_MODULES, &["button", "evdev"]].concat();
    if packages::linux_with(&modules).is_none() || packages::xorriso().is_none() {
        return skip(MISSING);
    }
    let launcher = Emulator::Thimble.launcher();
    let dir = launcher.dir().to_path_buf();
    let files = dir.join("files");
    std::fs::create_dir(&files).expect("a folder");
    let given = noise(3_000_001, 1);
    std::fs::write(files.join("given"), &given).expect("a file");
    for name in ["v", "i"] {
        let image = dir.join(name);
        media::empty(&image, 32 << 20);
        if media::ext4(&image, 0, 32 << 20, Some(&files)).is_none() {
            return skip(MISSING);
        }
    }
    media::cd(&dir.join("cd"), &files).expect("xorriso");
    let launcher = launcher
        .args(["-drive", "if=virtio,file={dir}/v,format=raw"])
        .args(["-drive", "if=ide,file={dir}/i,format=raw"])
        .args(["-drive", "media=cdrom,file={dir}/cd,format=raw"]);
    let Some(mut guest) = LinuxGuest::start(launcher, &modules) else {
        return skip(MISSING);
    };
    guest.run("mkdir /v /i /c && mount -t ext4 /dev/vda /v && mount -t ext4 /dev/sda /i && mount -t iso9660 /dev/sr0 /c");
    guest.run("cmp /v/given /c/given && cmp /i/given /c/given");
    // Both disks at once, with reads between writes, files that go again, and one that is written in the middle.
    let work = "(for n in 1 2 3 4 5 6 7 8; do cp /c/given $d/copy$n; rm -f $d/copy$((n - 2)); done; \
                dd if=/c/given of=$d/copy7 bs=1000 seek=1000 count=500 conv=notrunc 2>/dev/null; mkdir $d/many; \
                for n in $(seq 200); do echo $n > $d/many/$n; done; rm $d/many/*7; cat $d/many/* | md5sum > $d/sum; sync)";
    let run = ["/v", "/i"].map(|mounted| work.replace("$d", mounted));
    guest.run(&format!("{} & {} ; wait", run[0], run[1]));
    guest.run("echo 3 > /proc/sys/vm/drop_caches; cmp /v/copy8 /c/given && cmp /i/copy8 /c/given && cmp /v/copy7 /i/copy7 && cmp /v/sum /i/sum");
    let faults =
        "dmesg | grep -iE 'I/O error|EXT4-fs error|BUG:|WARNING:|Call Trace|exception Emask|reset'";
    assert_eq!(guest.status(faults), (String::new(), 1));
    // The guest's own end, as its power button asks for it.
    guest.run("for e in /sys/class/input/event*; do grep -q 'Power Button' $e/device/name && button=/dev/input/${e##*/}; done; ls $button");
    guest.run(
        "(dd if=$button bs=24 count=1 of=/pressed 2>/dev/null; umount /v /i /c; poweroff -f) &",
    );
    // The program that reads the button has to be there.
    guest.run("while ! ls -l /proc/*/fd 2>/dev/null | grep -q $button; do sleep 0.1; done");
    assert_eq!(
        guest.qmp.execute("system_powerdown", json!({})),
        Ok(json!({}))
    );
    guest.qmp.wait_event("POWERDOWN", PATIENCE);
    let shutdown = guest.qmp.wait_event("SHUTDOWN", PATIENCE);
    assert_eq!(
        shutdown["data"],
        json!({"guest": true, "reason": "guest-shutdown"})
    );
    assert!(guest.instance.wait(PATIENCE).success());
    let mut middle = given.clone();
    middle[1_000_000..1_500_000].copy_from_slice(&given[..500_000]);
    for name in ["v", "i"] {
        let image = dir.join(name);
        assert_eq!(media::e2fsck(&image).as_deref(), Some(""), "{name}");
        for (file, expected) in [("given", &given), ("copy8", &given), ("copy7", &middle)] {
            let found = media::ext4_file(&image, file).expect("debugfs");
            assert!(
                found == *expected,
                "{name}: {file} has {} bytes",
                found.len()
            );
        }
        assert_eq!(media::ext4_file(&image, "copy6").as_deref(), Some(&[][..]));
        assert_eq!(
            media::ext4_file(&image, "many/200").as_deref(),
            Some(&b"200\n"[..])
        );
    }
}

/// What a client sees of the CD drive.
fn seen(guest: &mut LinuxGuest) -> Value {
    let drives = guest
        .qmp
        .execute("query-block", json!({}))
        .expect("an answer");
    let drives = drives.as_array().expect("a list");
    let drive = drives.iter().find(|drive| drive["qdev"] == "cd0");
    let drive = drive.expect("the drive");
    let name = drive["inserted"]["file"].as_str().unwrap_or_default();
    let name = name.rsplit('/').next();
    json!([drive["locked"], drive["tray_open"], name])
}

fn trays(guest: &mut LinuxGuest) -> Value {
    let mut events = Vec::new();
    while let Ok(event) = guest.qmp.event(Duration::from_millis(50)) {
        if event["event"] == "DEVICE_TRAY_MOVED" {
            events.push(event["data"].clone());
        }
    }
    json!(events)
}

/// What is done with the CD: in the guest, or by a command.
enum Step {
    Guest(&'static str),
    Command(&'static str, Value),
}

fn steps(dir: &str) -> Vec<Step> {
    use Step::{Command, Guest};
    let change = |name: &str| {
        let file = format!("{dir}/{name}");
        Command(
            "blockdev-change-medium",
            json!({"id": "cd0", "filename": file, "format": "raw"}),
        )
    };
    let id = || json!({"id": "cd0"});
    vec![
        Guest("mkdir /cd; mount -t iso9660 /dev/sr0 /cd && cat /cd/name"),
        // Linux has locked it.
        Command("eject", id()),
        Command("eject", json!({"device": "cd"})),
        change("two"),
        Command("blockdev-open-tray", id()),
        Command("blockdev-remove-medium", id()),
        Guest("cat /cd/name && umount /cd"),
        // Nobody locks it now.
        Guest("eject /dev/sr0"),
        Guest("mount -t iso9660 /dev/sr0 /cd"),
        change("two"),
        Guest("mount -t iso9660 /dev/sr0 /cd && cat /cd/name"),
        // It goes though it is locked and in use.
        Command("eject", json!({"id": "cd0", "force": true})),
        Guest("echo 3 > /proc/sys/vm/drop_caches; cat /cd/name"),
        Guest("umount /cd; mount -t iso9660 /dev/sr0 /cd"),
        change("nowhere"),
        change("one"),
        Guest("mount -t iso9660 /dev/sr0 /cd && cat /cd/name; umount /cd"),
        Command("blockdev-open-tray", id()),
        Command("blockdev-remove-medium", id()),
        Command("blockdev-close-tray", id()),
        Guest("mount -t iso9660 /dev/sr0 /cd"),
        Command("blockdev-open-tray", id()),
        Command(
            "blockdev-insert-medium",
            json!({"id": "cd0", "node-name": "three"}),
        ),
        // QEMU's guest doesn't see a medium that was put into an open tray if it closes the tray itself.
        Command("blockdev-close-tray", id()),
        Guest("mount -t iso9660 /dev/sr0 /cd && cat /cd/name"),
        Guest("eject /dev/sr0"),
        Guest("umount /cd; eject -t /dev/sr0; eject /dev/sr0; eject -T /dev/sr0"),
    ]
}

#[test]
fn media_come_and_go_while_linux_uses_them() {
    if packages::qemu().is_none() || packages::linux_with(packages::DISK_MODULES).is_none() {
        return skip(MISSING);
    }
    if packages::xorriso().is_none() {
        return skip(MISSING);
    }
    let [qemu, thimble] = ask_both(|emulator| {
        let launcher = with_cds(emulator);
        let dir = launcher.dir().to_str().expect("a plain path").to_owned();
        let mut guest = LinuxGuest::start(launcher, packages::DISK_MODULES).expect("a kernel");
        let mut told = Vec::new();
        for step in steps(&dir) {
            let (name, answer) = match step {
                Step::Guest(line) => {
                    let (output, status) = guest.status(&format!("({line}) 2>&1"));
                    (line.to_owned(), format!("{status}: {output}"))
                }
                Step::Command(name, arguments) => {
                    let answer = match guest.qmp.execute(name, arguments.clone()) {
                        Ok(value) => value.to_string(),
                        Err(error) => format!("{error:?}"),
                    };
                    (format!("{name} {arguments}"), answer)
                }
            };
            let line = format!(
                "{name}: {answer}: {} {}",
                trays(&mut guest),
                seen(&mut guest)
            );
            told.push(line.replace(&dir, "DIR"));
        }
        told
    });
    for (theirs, ours) in qemu.iter().zip(&thimble) {
        assert_eq!(theirs, ours);
    }
}

/// A drive with the first of three CDs; the last one is a node.
fn with_cds(emulator: Emulator) -> Launcher {
    let launcher = emulator.launcher();
    for name in ["one", "two", "three"] {
        cd(launcher.dir(), name).expect("xorriso");
    }
    launcher
        .args([
            "-blockdev",
            "file,filename={dir}/three,node-name=file,read-only=on",
        ])
        .args(["-blockdev", "raw,file=file,node-name=three,read-only=on"])
        .args([
            "-drive",
            "if=none,id=cd,file={dir}/one,format=raw,media=cdrom",
        ])
        .args(["-device", "ide-cd,drive=cd,id=cd0"])
}
