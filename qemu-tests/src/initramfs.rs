//! Initial RAM disks for Linux guests: archives in cpio's "newc" format, as the kernel's `Documentation/driver-api/early-userspace/
//! buffer-format.rst` describes it, without compression.
//!
//! Not offered: hard links, checksums, and times; each file has the time 0 and belongs to root.

use std::path::Path;

use crate::packages;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CONSOLE: u32 = 0o020_600;

/// An archive that is being written.
#[derive(Default)]
pub struct Initramfs {
    bytes: Vec<u8>,
    /// Number of the last file.
    inode: u32,
}

impl Initramfs {
    /// A system of busybox alone, with `init` as the script that its shell runs first. `None` where Debian's package
    /// busybox-static can't be had.
    ///
    /// # Panics
    ///
    /// If busybox can't be read.
    pub fn busybox(init: &str) -> Option<Self> {
        let busybox = packages::busybox()?;
        let mut archive = Self::default();
        for name in ["bin", "dev", "proc", "sys", "tmp"] {
            archive.entry(name, DIRECTORY, (0, 0), &[]);
        }
        // What the kernel opens for init before init can do anything.
        archive.entry("dev/console", CONSOLE, (5, 1), &[]);
        archive.program_file("bin/busybox", &busybox);
        archive.program("init", format!("#!/bin/busybox sh\n{init}").as_bytes());
        Some(archive)
    }

    /// Adds a file that can be run.
    pub fn program(&mut self, name: &str, bytes: &[u8]) {
        self.entry(name, PROGRAM, (0, 0), bytes);
    }

    /// Adds a copy of a file of the host, which can be run.
    ///
    /// # Panics
    ///
    /// If it can't be read.
    pub fn program_file(&mut self, name: &str, path: &Path) {
        let bytes =
            std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        self.program(name, &bytes);
    }

    /// Adds a copy of a file of the host at the same path, which can be run, with the folders above it.
    ///
    /// # Panics
    ///
    /// If it can't be read.
    pub fn program_at_its_place(&mut self, path: &Path) {
        let name = path.to_string_lossy();
        let name = name.trim_start_matches('/');
        for (at, _) in name.match_indices('/') {
            self.entry(&name[..at], DIRECTORY, (0, 0), &[]);
        }
        self.program_file(name, path);
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), contents: &[u8]) {
        self.inode += 1;
        let size = u32::try_from(contents.len()).expect("less than 4 GiB");
        let name_size = name.len() as u32 + 1;
        self.bytes.extend_from_slice(b"070701");
        let (owner, group, links, time, checksum) = (0, 0, 1, 0, 0);
        for field in [
            self.inode, mode, owner, group, links, time, size, 0, 0, device.0, device.1, name_size,
            checksum,
        ] {
            self.bytes
                .extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(contents);
        self.align();
    }

    /// Names and contents begin at multiples of 4 bytes.
    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_cpios_form() {
        let mut archive = Initramfs::default();
        archive.entry("dev/console", CONSOLE, (5, 1), &[]);
        archive.program("init", b"hello");
        let bytes = archive.finish();
        let device =
            b"070701000000010000218000000000000000000000000100000000000000000000000000000000\
            00000005000000010000000C00000000dev/console\0";
        assert_eq!(bytes[..device.len()], device[..]);
        let file = device.len().next_multiple_of(4);
        let field = |index: usize| {
            let at = file + 6 + 8 * index;
            let digits = std::str::from_utf8(&bytes[at..at + 8]).expect("digits");
            u32::from_str_radix(digits, 16).expect("digits")
        };
        assert_eq!(
            (field(0), field(1), field(6), field(11)),
            (2, PROGRAM, 5, 5)
        );
        let name = file + 110;
        assert_eq!(&bytes[name..name + 5], b"init\0");
        let contents = (name + 5).next_multiple_of(4);
        assert_eq!(&bytes[contents..contents + 8], b"hello\0\0\0");
        assert_eq!(&bytes[contents + 8..contents + 14], b"070701");
        assert!(bytes.len().is_multiple_of(4));
    }

    /// cpio itself, where it is installed, reads what is written.
    #[test]
    fn cpio_reads_it() {
        let Some(cpio) = packages::program("cpio", "cpio") else {
            return crate::skip("the Debian package cpio is missing");
        };
        let mut archive = Initramfs::default();
        archive.entry("bin", DIRECTORY, (0, 0), &[]);
        archive.program("bin/x", b"#!");
        archive.program("init", b"hello");
        let path = std::env::temp_dir().join(format!("thimble-cpio-{}", std::process::id()));
        std::fs::write(&path, archive.finish()).expect("a temporary file");
        let output = std::process::Command::new(cpio)
            .args(["-t", "-F"])
            .arg(&path)
            .output();
        std::fs::remove_file(&path).expect("it is there");
        let output = output.expect("cpio runs");
        assert_eq!(output.stdout, b"bin\nbin/x\ninit\n");
    }
}
