//! Dumps of Linux, read by makedumpfile: the kernel tells a host by fw_cfg where its note is, and with that note makedumpfile finds the
//! kernel's log in the dump.
//!
//! crash needs the kernel's debug data, which is no package of this distribution's usual archive; it is not tried.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use qemu_tests::initramfs::Initramfs;
use qemu_tests::{Emulator, packages, skip};
use serde_json::json;

/// A guest may take so long; other tests and emulators have the same processors.
const PATIENCE: Duration = Duration::from_secs(600);

/// What init writes into the kernel's log.
const MARK: &str = "a mark for whoever reads the dump";

const INIT: &str = "
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox insmod /fw_cfg.ko && echo == module
echo 'a mark for whoever reads the dump' > /dev/kmsg
echo == ready
while :; do /bin/busybox sleep 1000; done
";

#[test]
fn makedumpfile_finds_linux_s_log() {
    let (Some((kernel, module)), Some(makedumpfile), Some(mut archive)) = (
        packages::linux_with_fw_cfg(),
        packages::program("makedumpfile", "makedumpfile"),
        Initramfs::busybox(INIT),
    ) else {
        return skip("there is no Linux with its module, no makedumpfile or no busybox");
    };
    archive.program_file("fw_cfg.ko", &module);
    let launcher = Emulator::Thimble.launcher();
    std::fs::write(launcher.dir().join("initrd"), archive.finish()).expect("a file");
    let kernel = kernel.to_str().expect("a plain path").to_string();
    let instance = launcher
        .args([
            "-accel",
            "tcg",
            "-nodefaults",
            "-display",
            "none",
            "-M",
            "pc",
        ])
        .args(["-m", "128", "-smp", "2", "-serial", "stdio", "-no-reboot"])
        .args([
            "-device",
            "vmcoreinfo",
            "-kernel",
            &kernel,
            "-initrd",
            "{dir}/initrd",
        ])
        .args(["-append", "console=ttyS0 quiet panic=-1 no_timer_check"])
        .with_qmp()
        .lifetime(PATIENCE)
        .start();
    let start = Instant::now();
    assert!(
        instance.wait_stdout("== ready", PATIENCE),
        "{}",
        instance.report()
    );
    println!("Linux is ready after {:?}", start.elapsed());
    let output = String::from_utf8_lossy(&instance.stdout()).into_owned();
    assert!(output.contains("== module"), "{output}");
    let mut client = instance.qmp();
    client.negotiate();
    // The log as it is in the guest's memory; and the processors' notes, before and behind which there may be anything.
    let log = |dump: &Path, what: &str| {
        let log = instance.dir().join(format!("{what}.log"));
        let run = Command::new(&makedumpfile)
            .args(["--dump-dmesg".as_ref(), dump, &log])
            .output()
            .expect("it runs");
        assert!(run.status.success(), "{what}: {run:?}");
        let text = std::fs::read(log).expect("the log");
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(text.contains("Linux version 6."), "{what}: {text}");
        assert!(text.contains(MARK), "{what}: {text}");
    };
    for (format, paging) in [("elf", false), ("elf", true), ("kdump-zlib", false)] {
        let what = format!("{format}-{paging}");
        let path = instance.dir().join(&what);
        let arguments = json!({
            "paging": paging,
            "format": format,
            "protocol": format!("file:{}", path.display()),
        });
        let start = Instant::now();
        assert_eq!(
            client.execute("dump-guest-memory", arguments),
            Ok(json!({}))
        );
        let size = std::fs::metadata(&path).expect("the dump").len();
        println!("{what}: {size} bytes after {:?}", start.elapsed());
        if format == "elf" {
            log(&path, &what);
            continue;
        }
        // It reads the flattened format from its standard input only, to put it in order.
        let ordered = instance.dir().join("ordered");
        let run = Command::new(&makedumpfile)
            .arg("-R")
            .arg(&ordered)
            .stdin(std::fs::File::open(&path).expect("the dump"))
            .output()
            .expect("it runs");
        assert!(run.status.success(), "{run:?}");
        log(&ordered, &what);
    }
}
