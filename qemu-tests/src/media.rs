//! Disks and CDs that guests use, made by Debian's tools: file systems, and GRUB to boot them.

use std::path::Path;
use std::process::Command;

use crate::packages;

/// Where the only partition of a disk begins, and a sector's size.
const PARTITION: u64 = 1 << 20;
const SECTOR: u64 = 512;

/// The table of partitions in a disk's first sector, behind the code.
const TABLE: usize = 446;

/// What GRUB knows without reading a file.
const GRUB_MODULES: &[&str] = &[
    "biosdisk",
    "boot",
    "echo",
    "ext2",
    "halt",
    "iso9660",
    "linux",
    "ls",
    "normal",
    "part_msdos",
    "serial",
    "sleep",
    "terminal",
];

/// A disk's first sector that firmware runs: code, and the mark that says so in the last two bytes.
pub fn boot_sector(code: &[u8]) -> Vec<u8> {
    let mut sector = code.to_vec();
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    sector
}

/// Runs a program that must succeed.
fn run(command: &mut Command) {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}: {text}",
        output.status
    );
}

/// Makes a file of holes.
///
/// # Panics
///
/// If it can't be made.
pub fn empty(path: &Path, bytes: u64) {
    let file = std::fs::File::create(path).expect("a file");
    file.set_len(bytes).expect("a file system with holes");
}

/// Makes an ext4 file system of these bytes, `offset` into the image, with a copy of a folder's files. `None` where Debian's package
/// e2fsprogs can't be had.
///
/// # Panics
///
/// If it can't be made.
pub fn ext4(image: &Path, offset: u64, bytes: u64, files: Option<&Path>) -> Option<()> {
    let mkfs = packages::ext4_program("mkfs.ext4")?;
    let mut command = Command::new(mkfs);
    command.args(["-q", "-F", "-b", "4096", "-E", &format!("offset={offset}")]);
    if let Some(files) = files {
        command.arg("-d").arg(files);
    }
    run(command.arg(image).arg(format!("{}k", bytes >> 10)));
    Some(())
}

/// What `e2fsck` finds wrong with a file system that nobody uses; empty if nothing. `None` where Debian's package e2fsprogs can't
/// be had.
///
/// # Panics
///
/// If it can't be run.
pub fn e2fsck(image: &Path) -> Option<String> {
    let program = packages::ext4_program("e2fsck")?;
    let output = Command::new(program).arg("-fn").arg(image).output();
    let output = output.expect("e2fsck runs");
    Some(match output.status.success() {
        true => String::new(),
        false => String::from_utf8_lossy(&output.stdout).into_owned(),
    })
}

/// A file of an ext4 file system. `None` where Debian's package e2fsprogs can't be had.
///
/// # Panics
///
/// If it can't be run.
pub fn ext4_file(image: &Path, name: &str) -> Option<Vec<u8>> {
    let program = packages::ext4_program("debugfs")?;
    let request = format!("cat {name}");
    let output = Command::new(program)
        .args(["-R", &request])
        .arg(image)
        .output();
    Some(output.expect("debugfs runs").stdout)
}

/// Makes a disk of these bytes that boots: GRUB with these commands, and a partition with an ext4 file system that has a
/// folder's files. `None` where the Debian packages grub-common, grub-pc-bin and e2fsprogs can't be had.
///
/// # Panics
///
/// If it can't be made.
pub fn grub_disk(image: &Path, bytes: u64, files: &Path, commands: &str) -> Option<()> {
    let core = grub_core(image, "(hd0,msdos1)", commands)?;
    empty(image, bytes);
    ext4(image, PARTITION, bytes - PARTITION, Some(files))?;
    let (_, parts) = packages::grub()?;
    let mut start = std::fs::read(parts.join("boot.img")).expect("GRUB's first sector");
    let [first, count] = [PARTITION, bytes - PARTITION].map(|at| (at / SECTOR) as u32);
    // Code for floppy disks is where the table goes.
    start[TABLE..TABLE + 64].fill(0);
    // Active, of the type of Linux's; cylinders, heads and sectors say that they don't reach so far.
    start[TABLE..TABLE + 8].copy_from_slice(&[0x80, 0xfe, 0xff, 0xff, 0x83, 0xfe, 0xff, 0xff]);
    start[TABLE + 8..TABLE + 12].copy_from_slice(&first.to_le_bytes());
    start[TABLE + 12..TABLE + 16].copy_from_slice(&count.to_le_bytes());
    start.extend(core);
    assert!(
        start.len() as u64 <= PARTITION,
        "GRUB fits before the partition"
    );
    let file = std::fs::OpenOptions::new().write(true).open(image);
    use std::os::unix::fs::FileExt as _;
    let written = file.and_then(|file| file.write_all_at(&start, 0));
    written.expect("the image can be written");
    Some(())
}

/// Makes a CD with a folder's files that boots: GRUB with these commands (El Torito, without emulation of a disk). `None` where the
/// Debian packages grub-common, grub-pc-bin and xorriso can't be had.
///
/// # Panics
///
/// If it can't be made.
pub fn grub_cd(image: &Path, files: &Path, commands: &str) -> Option<()> {
    let (_, parts) = packages::grub()?;
    let mut boot = std::fs::read(parts.join("cdboot.img")).expect("GRUB's first sector for CDs");
    boot.extend(grub_core(image, "(cd)", commands)?);
    std::fs::write(files.join("grub.img"), boot).expect("a file");
    let options = ["-b", "grub.img", "-no-emul-boot", "-boot-load-size", "4"];
    cd_with(
        image,
        files,
        &[&options[..], &["-boot-info-table"]].concat(),
    )
}

/// Makes a CD with a folder's files that boots one of them (El Torito, without emulation of a disk), of which the first sector of
/// 2048 bytes is loaded. `None` where the Debian package xorriso can't be had.
///
/// # Panics
///
/// If it can't be made.
pub fn bootable_cd(image: &Path, files: &Path, first: &str) -> Option<()> {
    let options = ["-b", first, "-no-emul-boot", "-boot-load-size", "4"];
    cd_with(image, files, &options)
}

/// Makes a CD with a folder's files (ISO 9660 with Rock Ridge). `None` where the Debian package xorriso can't be had.
///
/// # Panics
///
/// If it can't be made.
pub fn cd(image: &Path, files: &Path) -> Option<()> {
    cd_with(image, files, &[])
}

fn cd_with(image: &Path, files: &Path, options: &[&str]) -> Option<()> {
    let mut command = Command::new(packages::xorriso()?);
    command
        .args(["-as", "mkisofs", "-quiet", "-R"])
        .args(options);
    run(command.arg("-o").arg(image).arg(files));
    Some(())
}

/// GRUB without its first sector, which runs these commands and finds its own files on a drive.
fn grub_core(image: &Path, drive: &str, commands: &str) -> Option<Vec<u8>> {
    let (program, parts) = packages::grub()?;
    let [script, core] = ["grub", "core"].map(|end| image.with_extension(end));
    std::fs::write(&script, commands).expect("a file");
    let mut command = Command::new(program);
    command.args(["-O", "i386-pc", "-p", &format!("{drive}/boot/grub")]);
    command
        .arg("-d")
        .arg(parts)
        .arg("-c")
        .arg(&script)
        .arg("-o")
        .arg(&core);
    run(command.args(GRUB_MODULES));
    let bytes = std::fs::read(&core).expect("GRUB");
    for file in [script, core] {
        std::fs::remove_file(file).expect("a file");
    }
    Some(bytes)
}
