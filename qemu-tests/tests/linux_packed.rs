//! Debian's Linux with a virtio disk whose queue is a packed ring: what it writes is what the host finds, and what it reads.

use qemu_tests::linux_guest::LinuxGuest;
use qemu_tests::{Emulator, media, packages, skip};

const MISSING: &str =
    "something of the Debian packages busybox-static and linux-image-cloud-amd64 can't be had";
const BYTES: u64 = 8 << 20;

#[test]
fn linux_drives_a_packed_ring() {
    if packages::linux_with(packages::DISK_MODULES).is_none() {
        return skip(MISSING);
    }
    let launcher = Emulator::Thimble.launcher();
    let image = launcher.dir().join("v");
    media::empty(&image, BYTES);
    let launcher = launcher
        .args(["-drive", "if=none,id=v,file={dir}/v,format=raw"])
        .args(["-device", "virtio-blk-pci,drive=v,packed=on,queue-size=64"]);
    let Some(mut guest) = LinuxGuest::start(launcher, packages::DISK_MODULES) else {
        return skip(MISSING);
    };
    // Bit 34 of the features that the driver has taken.
    let taken = guest.run("cut -c 35 /sys/bus/virtio/devices/virtio0/features");
    assert_eq!(taken.trim(), "1");
    // Writers and readers side by side, with more under way than the ring has room for.
    guest.run(
        "for n in 0 1 2 3; do \
         (yes packed$n | dd of=/dev/vda bs=4096 seek=$((n * 512)) count=512 iflag=fullblock conv=notrunc 2>/dev/null; sync) & done; wait; \
         echo 3 > /proc/sys/vm/drop_caches",
    );
    let differ = guest.run(
        "for n in 0 1 2 3; do \
         dd if=/dev/vda bs=4096 skip=$((n * 512)) count=512 of=/read 2>/dev/null; \
         yes packed$n | head -c 2097152 | cmp - /read || echo $n; done",
    );
    assert_eq!(differ.trim(), "");
    let faults = "dmesg | grep -iE 'I/O error|BUG:|WARNING:|Call Trace|is not a head'";
    assert_eq!(guest.status(faults), (String::new(), 1));
    let written = std::fs::read(&image).expect("the image");
    for (number, part) in written.chunks(BYTES as usize / 4).enumerate() {
        let line = format!("packed{number}\n");
        let same = part.iter().zip(line.bytes().cycle());
        assert_eq!(same.filter(|(one, other)| **one != *other).count(), 0);
    }
}
