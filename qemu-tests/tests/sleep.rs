//! Debian's Linux goes to sleep and wakes up: by command, by the alarm of its clock, and its power button is pressed.
//!
//! It is started by the boot ROM, which is to find its waking vector; SeaBIOS's part is among the tests of commands.

use std::time::Duration;

use qemu_tests::initramfs::Initramfs;
use qemu_tests::{Emulator, Instance, packages, skip};
use serde_json::json;

/// A guest may take so long; other tests and emulators have the same processors.
const PATIENCE: Duration = Duration::from_secs(600);

const BEGIN: &str = "
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
dmesg -n 1
insmod /bin/button.ko
insmod /bin/evdev.ko
for device in /sys/class/input/event*; do
    grep -q 'Power Button' $device/device/name && button=/dev/input/${device##*/}
done
";

const SLEEP: &str = "
echo $(cat /sys/power/mem_sleep)
before=$(date +%s)
echo mem > /sys/power/state
echo woken $?
[ $(($(date +%s) - before)) -ge 3 ] && echo the clock went on
echo +2 > /sys/class/rtc/rtc0/wakealarm
echo mem > /sys/power/state
echo rung $?
dmesg | grep -iE 'ACPI.*(error|warning|exception|firmware bug)|BUG:|WARNING:|Call Trace'
echo cpus $(grep -c ^processor /proc/cpuinfo)
";

const BUTTON: &str = "
echo waiting
dd if=$button bs=24 count=1 of=/tmp/press 2> /dev/null
echo pressed
poweroff -f
";

/// Starts a guest with this script on a board.
fn start(board: &str, cpus: usize, script: &str) -> Option<Instance> {
    let (kernel, [button, evdev]) = packages::linux_with_buttons()?;
    let mut archive = Initramfs::busybox(&format!("{BEGIN}{script}{BUTTON}"))?;
    archive.program_file("bin/button.ko", &button);
    archive.program_file("bin/evdev.ko", &evdev);
    let launcher = Emulator::Thimble.launcher();
    let initrd = launcher.dir().join("initrd");
    std::fs::write(&initrd, archive.finish()).expect("a file");
    let guest = launcher
        .args(["-accel", "tcg", "-nodefaults", "-display", "none"])
        .args(["-M", board, "-m", "256", "-smp", &cpus.to_string()])
        .args(["-serial", "stdio"])
        .args(["-kernel", kernel.to_str().expect("a plain path")])
        .args(["-initrd", initrd.to_str().expect("a plain path")])
        .args(["-append", "console=ttyS0 quiet panic=-1 no_timer_check"])
        .with_qmp()
        .lifetime(PATIENCE)
        .start();
    Some(guest)
}

/// Presses the power button of a guest that waits for it, and waits for its end.
fn press(guest: &Instance, client: &mut qemu_tests::QmpClient) {
    assert!(guest.wait_stdout("waiting", PATIENCE), "{}", guest.report());
    // The program that reads the button has to be there.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(client.execute("system_powerdown", json!({})), Ok(json!({})));
    client.wait_event("POWERDOWN", PATIENCE);
    let shutdown = client.wait_event("SHUTDOWN", PATIENCE);
    let expected = json!({"guest": true, "reason": "guest-shutdown"});
    assert_eq!(shutdown["data"], expected);
    assert!(guest.wait(PATIENCE).success(), "{}", guest.report());
}

#[test]
fn linux_sleeps_and_wakes_up() {
    const MISSING: &str =
        "the Debian packages linux-image-cloud-amd64 and busybox-static can't be had";
    let Some(guest) = start("pc", 2, SLEEP) else {
        return skip(MISSING);
    };
    let mut client = guest.qmp();
    client.negotiate();
    client.wait_event("SUSPEND", PATIENCE);
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(client.execute("system_wakeup", json!({})), Ok(json!({})));
    client.wait_event("WAKEUP", PATIENCE);
    client.wait_event("SUSPEND", PATIENCE);
    client.wait_event("WAKEUP", PATIENCE);
    press(&guest, &mut client);
    let text = String::from_utf8_lossy(&guest.stdout()).replace('\r', "");
    let expected = "s2idle [deep]\nwoken 0\nthe clock went on\nrung 0\ncpus 2\nwaiting\npressed\n";
    assert!(text.contains(expected), "{}", guest.report());
}

/// The button of the board without PCI, which does not sleep.
#[test]
fn linux_on_microvm_hears_the_power_button() {
    let Some(guest) = start("microvm", 1, "cat /sys/power/state\n") else {
        return skip("the Debian packages linux-image-cloud-amd64 and busybox-static can't be had");
    };
    let mut client = guest.qmp();
    client.negotiate();
    press(&guest, &mut client);
    let text = String::from_utf8_lossy(&guest.stdout()).replace('\r', "");
    assert!(
        text.contains("freeze mem disk\nwaiting\npressed\n"),
        "{}",
        guest.report()
    );
}
