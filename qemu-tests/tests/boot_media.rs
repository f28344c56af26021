//! Disks and CDs that boot: Debian's SeaBIOS tries them in the order that it is told, GRUB loads Debian's kernel from them, and speaks
//! on the serial port by itself and by SeaBIOS, memtest86+ starts, and Linux sleeps and is woken up by SeaBIOS.

use std::path::Path;
use std::time::Duration;

use qemu_tests::linux_guest::{self, LinuxGuest};
use qemu_tests::{Console, Emulator, Launcher, ask_both, media, packages, skip};
use serde_json::json;

/// A guest may take so long; other tests and emulators have the same processors.
const PATIENCE: Duration = Duration::from_secs(60);

/// What GRUB does before it loads something.
const GRUB_ON_SERIAL: &str = "
serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial
echo GRUB speaks
";
/// How GRUB loads Linux.
const GRUB_LINUX: &str = "
linux /boot/vmlinuz APPEND
initrd /boot/initrd
boot
";

/// What makes a medium.
type Make = fn(&Path, &Path, &str) -> Option<()>;

/// A launcher with SeaBIOS and `{dir}/image`, which boots Linux with these modules by GRUB. `None` where something can't be had.
fn with_grub(make: Make, modules: &[&str], linux: &str) -> Option<Launcher> {
    let bios = packages::seabios()?;
    let (kernel, modules) = packages::linux_with(modules)?;
    let launcher = Emulator::Thimble.launcher();
    let boot = launcher.dir().join("files/boot");
    std::fs::create_dir_all(&boot).expect("a folder");
    std::fs::copy(kernel, boot.join("vmlinuz")).expect("a copy");
    let initrd = linux_guest::initrd(&modules)?.finish();
    std::fs::write(boot.join("initrd"), initrd).expect("a file");
    let linux = linux.replace("APPEND", linux_guest::APPEND);
    let commands = format!("{GRUB_ON_SERIAL}{linux}");
    let (image, files) = (launcher.dir().join("image"), launcher.dir().join("files"));
    make(&image, &files, &commands)?;
    std::fs::remove_dir_all(files).expect("the folder");
    Some(launcher.args(["-bios", bios.to_str().expect("a plain path")]))
}

fn disk(image: &Path, files: &Path, commands: &str) -> Option<()> {
    let commands = format!("set root=(hd0,msdos1)\n{commands}");
    media::grub_disk(image, 48 << 20, files, &commands)
}

fn cd(image: &Path, files: &Path, commands: &str) -> Option<()> {
    media::grub_cd(image, files, &format!("set root=(cd)\n{commands}"))
}

const MISSING: &str = "something of the Debian packages seabios, grub-common, grub-pc-bin, e2fsprogs, xorriso, busybox-static and \
                       linux-image-cloud-amd64 can't be had";

/// Boots, and leaves the guest at its shell.
fn boot(launcher: Launcher) -> LinuxGuest {
    let mut guest = LinuxGuest::boot(launcher);
    let shown = guest.console.shown();
    assert!(shown.contains("GRUB speaks"), "{shown}");
    let line = guest.run("cat /proc/cmdline");
    let expected = format!("BOOT_IMAGE=/boot/vmlinuz {}\n", linux_guest::APPEND);
    assert_eq!(line, expected);
    guest
}

fn boots_linux(make: Make, drive: &str) {
    let Some(launcher) = with_grub(make, &[], GRUB_LINUX) else {
        return skip(MISSING);
    };
    let drive = format!("file={{dir}}/image,format=raw,{drive}");
    let mut guest = boot(launcher.args(["-drive", &drive]));
    guest.console.send("poweroff -f\n");
    assert!(guest.instance.wait(PATIENCE).success());
}

#[test]
fn grub_boots_linux_from_an_ide_disk() {
    boots_linux(disk, "if=ide");
}

#[test]
fn grub_boots_linux_from_a_virtio_disk() {
    boots_linux(disk, "if=virtio");
}

#[test]
fn grub_boots_linux_from_a_cd() {
    boots_linux(cd, "media=cdrom");
}

/// Linux comes by the kernel's own way through SeaBIOS, which is to find its waking vector.
#[test]
fn seabios_wakes_linux_up() {
    let modules = packages::DISK_MODULES;
    let Some(launcher) = with_grub(disk, modules, GRUB_LINUX) else {
        return skip(MISSING);
    };
    let drive = "file={dir}/image,format=raw,if=virtio";
    let mut guest = boot(launcher.args(["-drive", drive, "-smp", "2"]));
    guest.run("mkdir /mnt && mount -t ext4 /dev/vda1 /mnt && cd /mnt && echo before > written");
    for round in 0..2 {
        guest.console.send("echo mem > /sys/power/state\n");
        guest.qmp.wait_event("SUSPEND", PATIENCE);
        let woken = guest.qmp.execute("system_wakeup", json!({}));
        assert_eq!(woken, Ok(json!({})));
        guest.qmp.wait_event("WAKEUP", PATIENCE);
        // The status of the line that put it to sleep, and a disk that it finds where it was.
        guest.console.wait("== done 0\n", PATIENCE);
        guest.run(&format!(
            "echo {round} >> written && sync && echo 3 > /proc/sys/vm/drop_caches"
        ));
    }
    assert_eq!(guest.run("cat written"), "before\n0\n1\n");
    assert_eq!(guest.run("grep -c ^processor /proc/cpuinfo"), "2\n");
    let faults = "dmesg | grep -iE 'ACPI.*(error|exception)|BUG:|WARNING:|I/O error|Call Trace'";
    assert_eq!(guest.status(faults), (String::new(), 1));
    guest.console.send("cd /; umount /mnt; poweroff -f\n");
    assert!(guest.instance.wait(PATIENCE).success());
}

/// GRUB's menu is on SeaBIOS's console, which is the serial port; memtest86+ is chosen there by keys.
#[test]
fn memtest_is_chosen_from_grubs_menu_on_seabios_console() {
    let menu: Make = |image, files, _| {
        let memtest = packages::memtest()?;
        std::fs::copy(memtest, files.join("boot/memtest")).expect("a copy");
        let grub = files.join("boot/grub");
        std::fs::create_dir_all(&grub).expect("a folder");
        let menu = "set timeout=-1\n\
            menuentry \"Something else\" {\nhalt\n}\n\
            menuentry \"Memory test\" {\nlinux /boot/memtest console=ttyS0,115200\n}\n";
        std::fs::write(grub.join("grub.cfg"), menu).expect("a file");
        media::grub_cd(image, files, "set root=(cd)\nnormal\n")
    };
    let Some(launcher) = with_grub(menu, &[], "") else {
        return skip(MISSING);
    };
    let guest = launcher
        .args([
            "-accel",
            "tcg",
            "-nodefaults",
            "-display",
            "none",
            "-m",
            "64",
        ])
        .args(["-machine", "graphics=off"])
        .args(["-drive", "file={dir}/image,format=raw,media=cdrom"])
        .args(Console::ARGS)
        .lifetime(PATIENCE)
        .start();
    let mut console = Console::connect(&guest);
    for text in [
        "SeaBIOS (version",
        "Booting from DVD/CD",
        "GNU GRUB",
        "Memory test",
    ] {
        console.wait(text, PATIENCE);
    }
    // Down, and return.
    console.send("\x1b[B\r");
    for text in ["Memtest86+", "Testing"] {
        console.wait(text, PATIENCE);
    }
}

/// The first sector of a medium that prints its letter on port E9h, and gives the turn to the next one.
fn letter(letter: u8) -> Vec<u8> {
    // mov al, LETTER; out e9h, al; int 18h
    media::boot_sector(&[0xb0, letter, 0xe6, 0xe9, 0xcd, 0x18])
}

/// Media with letters: `a` to `d` are disks, `x` is a CD.
fn letters(launcher: &Launcher) -> Option<()> {
    let dir = launcher.dir();
    for name in b'a'..=b'd' {
        let mut image = letter(name);
        // A floppy disk, too.
        image.resize(1440 << 10, 0);
        std::fs::write(dir.join(char::from(name).to_string()), image).expect("a file");
    }
    let files = dir.join("files");
    std::fs::create_dir(&files).expect("a folder");
    std::fs::write(files.join("boot"), [letter(b'x'), vec![0; 1536]].concat()).expect("a file");
    media::bootable_cd(&dir.join("x"), &files, "boot")
}

#[test]
fn seabios_tries_media_in_this_order() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let (Some(bios), Some(_)) = (packages::seabios(), packages::xorriso()) else {
        return skip("the Debian packages seabios and xorriso can't be had");
    };
    let bios = bios.to_str().expect("a plain path");
    const ALL: &str = "-drive id=a,file={dir}/a,format=raw,if=none -drive id=b,file={dir}/b,format=raw,if=none \
                       -drive id=c,file={dir}/c,format=raw,if=none -drive id=x,file={dir}/x,format=raw,if=none,media=cdrom";
    for options in [
        "-hda {dir}/a -hdb {dir}/b -cdrom {dir}/x -drive file={dir}/c,if=virtio,format=raw",
        "-hda {dir}/a -hdb {dir}/b -cdrom {dir}/x -boot d",
        "-hda {dir}/a -cdrom {dir}/x -boot once=d,order=c",
        "-fda {dir}/d -hda {dir}/a -cdrom {dir}/x",
        "-fda {dir}/d -hda {dir}/a -cdrom {dir}/x -boot acd",
        "-fda {dir}/d -hda {dir}/a -cdrom {dir}/x -boot order=ca,strict=on -global isa-fdc.bootindexA=7",
        "{all} -device ide-hd,drive=a -device virtio-blk-pci,drive=b,bootindex=1 -device ide-cd,drive=x,bootindex=0",
        "{all} -device ide-hd,drive=a,bootindex=2 -device ide-hd,drive=b,bootindex=1 -device ide-cd,drive=x,bus=ide.0 -boot d",
        "{all} -device ide-hd,drive=a,bootindex=5 -device virtio-blk-pci,drive=b -device ide-cd,drive=x -boot strict=on",
        "{all} -device pci-bridge,id=br,chassis_nr=1,shpc=off -device virtio-blk-pci,drive=a,bus=br,addr=2 \
         -device virtio-blk-pci,drive=b,bus=br,addr=4.1 -device virtio-blk-pci,drive=c,bus=br,addr=4,multifunction=on,bootindex=9",
        "{all} -device ide-hd,drive=a,bus=ide.1,unit=1,bootindex=1 -device ide-hd,drive=b,bus=ide.0,unit=1,bootindex=2 \
         -device ide-hd,drive=c,bus=ide.0,unit=0,bootindex=3 -device ide-cd,drive=x,bus=ide.1,unit=0,bootindex=4",
    ] {
        let options = options.replace("{all}", ALL);
        let [qemu, thimble] = ask_both(|emulator| {
            let launcher = emulator.launcher();
            letters(&launcher).expect("xorriso");
            let instance = launcher
                .args([
                    "-accel",
                    "tcg",
                    "-nodefaults",
                    "-display",
                    "none",
                    "-vga",
                    "none",
                ])
                .args(["-bios", bios, "-debugcon", "file:{dir}/e9"])
                .args(["-chardev", "stdio,id=said", "-device"])
                .args(["isa-debugcon,iobase=0x402,chardev=said"])
                .args(match emulator {
                    // It warns of images whose format it is to find out itself.
                    Emulator::Qemu => &["-global", "apic-common.vapic=off"][..],
                    Emulator::Thimble => &[],
                })
                .args(options.split_whitespace())
                .start();
            let end = "No bootable device";
            assert!(instance.wait_stdout(end, PATIENCE), "{}", instance.report());
            let letters = std::fs::read(instance.dir().join("e9")).expect("a file");
            String::from_utf8_lossy(&letters).into_owned()
        });
        assert_eq!(qemu, thimble, "{options}");
        assert!(!qemu.is_empty(), "{options}");
    }
}
