//! What tests need from the machine they run on: Debian packages, and KVM.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock};

/// QEMU, the other emulator: its binary's path, or `None` where it can't be had.
pub fn qemu() -> Option<PathBuf> {
    program("qemu-system-x86_64", "qemu-system-x86")
}

/// SeaBIOS's image of 256 KiB, or `None` where it can't be had.
pub fn seabios() -> Option<PathBuf> {
    file("/usr/share/seabios/bios-256k.bin", "seabios")
}

/// The path of `name`, after installing `package` if it is missing and this may be done.
pub fn program(name: &str, package: &str) -> Option<PathBuf> {
    find_program(name).or_else(|| {
        install(package);
        find_program(name)
    })
}

/// `path` itself, after installing `package` if it is missing and this may be done.
pub fn file(path: &str, package: &str) -> Option<PathBuf> {
    let path = PathBuf::from(path);
    if !path.exists() {
        install(package);
    }
    path.exists().then_some(path)
}

/// What Thimble runs the guests of tests with that are not about one accelerator: `THIMBLE_ACCEL` in the environment, else KVM
/// where it can be used, else the software CPU.
///
/// # Panics
///
/// If the environment names something else.
pub fn accelerator() -> &'static str {
    match std::env::var("THIMBLE_ACCEL").as_deref() {
        Ok("kvm") => "kvm",
        Ok("tcg") => "tcg",
        Ok(other) => panic!("THIMBLE_ACCEL is {other}: kvm or tcg are possible"),
        Err(_) if kvm_usable() => "kvm",
        Err(_) => "tcg",
    }
}

/// Whether `/dev/kvm` can be opened for reading and writing.
pub fn kvm_usable() -> bool {
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok()
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
}

/// Installs a Debian package if this process is root and has apt; one at a time, each tried once.
fn install(package: &str) {
    static TRIED: Mutex<Vec<String>> = Mutex::new(Vec::new());
    static UPDATED: OnceLock<()> = OnceLock::new();
    let mut tried = TRIED
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if tried.iter().any(|name| name == package) {
        return;
    }
    tried.push(package.to_string());
    if !rustix::process::geteuid().is_root() || !Path::new("/usr/bin/apt-get").exists() {
        return;
    }
    eprintln!("installing the Debian package {package}");
    UPDATED.get_or_init(|| apt(&["update"]));
    apt(&["install", "-y", "--no-install-recommends", package]);
}

/// Runs apt-get; a failure shows as the package still missing.
fn apt(args: &[&str]) {
    let status = Command::new("apt-get")
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    if !status.is_ok_and(|status| status.success()) {
        eprintln!("apt-get {} failed", args.join(" "));
    }
}
