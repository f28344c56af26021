//! What tests need from the machine they run on: Debian packages, and KVM.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock};

use kvm_ioctls::Kvm;

/// QEMU, the other emulator: its binary's path, or `None` where it can't be had.
pub fn qemu() -> Option<PathBuf> {
    program("qemu-system-x86_64", "qemu-system-x86")
}

/// SeaBIOS's image of 256 KiB, or `None` where it can't be had.
pub fn seabios() -> Option<PathBuf> {
    file("/usr/share/seabios/bios-256k.bin", "seabios")
}

/// Debian's busybox, linked statically, or `None` where it can't be had.
pub fn busybox() -> Option<PathBuf> {
    file("/bin/busybox", "busybox-static")
}

/// gdb's path, or `None` where it can't be had.
pub fn gdb() -> Option<PathBuf> {
    program("gdb", "gdb")
}

/// memtest86+ for processors with long mode, or `None` where it can't be had.
pub fn memtest() -> Option<PathBuf> {
    file("/boot/memtest86+x64.bin", "memtest86+")
}

/// GRUB for PCs: the program that makes its images, and the folder with its parts, or `None` where they can't be had.
pub fn grub() -> Option<(PathBuf, PathBuf)> {
    let program = program("grub-mkimage", "grub-common")?;
    let boot = file("/usr/lib/grub/i386-pc/boot.img", "grub-pc-bin")?;
    Some((program, boot.parent()?.to_path_buf()))
}

/// A program of ext4's, by its name, or `None` where it can't be had.
pub fn ext4_program(name: &str) -> Option<PathBuf> {
    file(&format!("/usr/sbin/{name}"), "e2fsprogs")
}

/// What makes CD images, or `None` where it can't be had.
pub fn xorriso() -> Option<PathBuf> {
    program("xorriso", "xorriso")
}

/// Debian's Linux for virtual machines (`linux-image-cloud-amd64`): its `vmlinuz`, or `None` where it can't be had.
///
/// The package isn't installed, which would make an initial RAM disk for the host, but unpacked below `target/`.
pub fn linux() -> Option<PathBuf> {
    linux_files(&CLOUD, &[])
}

/// Debian's Linux for any machine (`linux-image-amd64`), which has a driver for floppy disks, and that module, `floppy.ko`.
pub fn linux_with_floppy() -> Option<(PathBuf, PathBuf)> {
    let kernel = linux_files(&GENERIC, GENERIC.modules)?;
    let module = module_file(&kernel, "floppy");
    Some((kernel, module))
}

/// The same with its module for fw_cfg, `qemu_fw_cfg.ko`, which tells a host where the kernel's note for dumps is.
pub fn linux_with_fw_cfg() -> Option<(PathBuf, PathBuf)> {
    let (kernel, modules) = linux_with(&["qemu_fw_cfg"])?;
    Some((kernel, modules.into_iter().next()?))
}

/// The same with its modules for the power button and for the devices of which users read buttons: `button.ko` and `evdev.ko`.
pub fn linux_with_buttons() -> Option<(PathBuf, [PathBuf; 2])> {
    let (kernel, modules) = linux_with(&["button", "evdev"])?;
    Some((kernel, modules.try_into().ok()?))
}

/// The same with modules by name, of those that are known here: the kernel's path and theirs, in this order.
///
/// # Panics
///
/// If one is not in the list.
pub fn linux_with(names: &[&str]) -> Option<(PathBuf, Vec<PathBuf>)> {
    let modules: Vec<_> = names
        .iter()
        .map(|name| {
            let known = MODULES.iter().find(|(module, _)| module == name);
            *known.unwrap_or_else(|| panic!("{name} is not among the modules that are unpacked"))
        })
        .collect();
    let kernel = linux_files(&CLOUD, &modules)?;
    let paths = names.iter().map(|name| module_file(&kernel, name));
    let paths = paths.collect();
    Some((kernel, paths))
}

/// A module's place beside the kernel.
fn module_file(kernel: &Path, name: &str) -> PathBuf {
    kernel.with_file_name(format!("{name}.ko"))
}

/// Modules for disks and CDs, each behind those that it needs.
pub const DISK_MODULES: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "scsi_common",
    "scsi_mod",
    "sd_mod",
    "cdrom",
    "sr_mod",
    "isofs",
    "libata",
    "ata_piix",
];

/// A module's name, and its folder in the package.
type Module = (&'static str, &'static str);

/// A package with a kernel, and what is unpacked of it, into a folder below `target/`.
struct Kernel {
    package: &'static str,
    folder: &'static str,
    modules: &'static [Module],
}

const CLOUD: Kernel = Kernel {
    package: "linux-image-cloud-amd64",
    folder: "target/linux",
    modules: MODULES,
};

const GENERIC: Kernel = Kernel {
    package: "linux-image-amd64",
    folder: "target/linux-amd64",
    modules: &[("floppy", "kernel/drivers/block")],
};

/// The modules that are unpacked.
const MODULES: &[Module] = &[
    ("ata_piix", "kernel/drivers/ata"),
    ("button", "kernel/drivers/acpi"),
    ("cdrom", "kernel/drivers/cdrom"),
    ("evdev", "kernel/drivers/input"),
    ("isofs", "kernel/fs/isofs"),
    ("libata", "kernel/drivers/ata"),
    ("qemu_fw_cfg", "kernel/drivers/firmware"),
    ("scsi_common", "kernel/drivers/scsi"),
    ("scsi_mod", "kernel/drivers/scsi"),
    ("sd_mod", "kernel/drivers/scsi"),
    ("sr_mod", "kernel/drivers/scsi"),
    ("virtio", "kernel/drivers/virtio"),
    ("virtio_blk", "kernel/drivers/block"),
    ("virtio_mmio", "kernel/drivers/virtio"),
    ("virtio_pci", "kernel/drivers/virtio"),
    ("virtio_pci_legacy_dev", "kernel/drivers/virtio"),
    ("virtio_pci_modern_dev", "kernel/drivers/virtio"),
    ("virtio_ring", "kernel/drivers/virtio"),
];

fn linux_files(wanted: &Kernel, modules: &[Module]) -> Option<PathBuf> {
    let _alone = alone("linux");
    let folder = crate::workspace_dir().join(wanted.folder);
    let kernel = folder.join("vmlinuz");
    let there = || {
        let mut modules = modules.iter();
        kernel.is_file() && modules.all(|(name, _)| module_file(&kernel, name).is_file())
    };
    if !there() {
        // Files appear whole, whatever ends this process.
        let own = folder.join(format!("new-{}", std::process::id()));
        std::fs::create_dir_all(&own).ok()?;
        if let Some(unpacked) = unpack_linux(&own, wanted.package) {
            for module in wanted.modules {
                if let Some(unpacked) = find_module(&own, *module) {
                    std::fs::rename(unpacked, module_file(&kernel, module.0)).ok()?;
                }
            }
            std::fs::rename(unpacked, &kernel).ok()?;
        }
        std::fs::remove_dir_all(&own).ok()?;
    }
    there().then_some(kernel)
}

/// The module among the package's files.
fn find_module(folder: &Path, (name, place): Module) -> Option<PathBuf> {
    let versions = std::fs::read_dir(folder.join("lib/modules")).ok()?;
    let file = format!("{name}.ko");
    let path = |version: PathBuf| version.join(place).join(&file);
    let mut modules = versions.flatten().map(|entry| path(entry.path()));
    modules.find(|path| path.is_file())
}

/// Downloads the kernel's package into a folder and unpacks it there: the kernel's path.
fn unpack_linux(folder: &Path, package: &str) -> Option<PathBuf> {
    if !Path::new("/usr/bin/apt-get").exists() {
        return None;
    }
    eprintln!("downloading the kernel of the Debian package {package}");
    // The package is an empty one that depends on that of the newest version.
    let newest = || {
        let output = Command::new("apt-cache")
            .args(["depends", package])
            .output();
        let text = String::from_utf8(output.ok()?.stdout).ok()?;
        let mut names = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "));
        names
            .find(|name| name.starts_with("linux-image-"))
            .map(str::to_string)
    };
    let download = |name: &str| {
        let output = Command::new("apt-get")
            .args(["download", "-q", name])
            .current_dir(folder)
            .output();
        output.is_ok_and(|output| output.status.success())
    };
    // Lists that are out of date name what is no longer there.
    if !newest().is_some_and(|name| download(&name)) {
        let _alone = alone("packages");
        apt(&["update"]);
        if !newest().is_some_and(|name| download(&name)) {
            return None;
        }
    }
    let first = |folder: &Path, start: &str| {
        let mut entries = std::fs::read_dir(folder).ok()?.flatten();
        let named =
            |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with(start);
        entries.find(named).map(|entry| entry.path())
    };
    let package = first(folder, "linux-image-")?;
    let unpacked = Command::new("dpkg-deb")
        .arg("-x")
        .args([&package, folder])
        .status();
    unpacked.ok().filter(|status| status.success())?;
    first(&folder.join("boot"), "vmlinuz-")
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

/// Whether `/dev/kvm` is there for us and makes virtual machines; asked once.
pub fn kvm_usable() -> bool {
    static USABLE: OnceLock<bool> = OnceLock::new();
    *USABLE.get_or_init(|| Kvm::new().and_then(|kvm| kvm.create_vm()).is_ok())
}

/// What guests can be run with that any accelerator runs: the software CPU, and KVM with each way to model interrupt
/// controllers, where it can be used; says so if not.
pub fn accelerators() -> Vec<&'static str> {
    let mut accelerators = vec!["tcg"];
    if kvm_usable() {
        accelerators.extend([
            "kvm,kernel-irqchip=on",
            "kvm,kernel-irqchip=split",
            "kvm,kernel-irqchip=off",
        ]);
    } else {
        crate::skip_part("/dev/kvm can't be used");
    }
    accelerators
}

/// Whether QEMU can be had and `/dev/kvm` be used; says so if not.
pub fn qemu_and_kvm() -> bool {
    if qemu().is_none() {
        crate::skip("qemu-system-x86 is missing");
        return false;
    }
    if !kvm_usable() {
        crate::skip("/dev/kvm can't be used");
        return false;
    }
    true
}

/// All Debian packages that tests ask for.
const ALL: &[&str] = &[
    "acpica-tools",
    "binutils",
    "busybox-static",
    "cpio",
    "e2fsprogs",
    "gcc",
    "gdb",
    "grub-common",
    "grub-pc-bin",
    "libvirt-clients",
    "libvirt-daemon-system",
    "makedumpfile",
    "memtest86+",
    "ovmf",
    "python3",
    "python3-venv",
    "qemu-system-x86",
    "qemu-utils",
    "seabios",
    "xorriso",
];

/// Gets all that tests may ask for at once, which takes far less time than one after the other. What can't be had is left to
/// the test that needs it.
pub fn get_all() {
    let missing: Vec<_> = ALL.iter().filter(|name| !is_installed(name)).collect();
    if may_install() && !missing.is_empty() {
        let _alone = alone("packages");
        eprintln!("installing {} Debian packages", missing.len());
        apt(&["update"]);
        let mut install = INSTALL.to_vec();
        install.extend(missing);
        apt(&install);
    }
    // These say so where they are needed.
    drop((linux(), linux_with_floppy(), crate::python::with_qemu_qmp()));
}

fn is_installed(package: &str) -> bool {
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status}", package])
        .output();
    output.is_ok_and(|output| output.stdout == b"installed")
}

/// Waits until no other thread or process makes the same in `target/`, and keeps them out as long as the value lives.
pub(crate) fn alone(what: &str) -> Option<File> {
    let target = crate::workspace_dir().join("target");
    std::fs::create_dir_all(&target).ok()?;
    let file = File::create(target.join(format!("{what}.lock"))).ok()?;
    file.lock().ok()?;
    Some(file)
}

/// Whether this process is root and has apt.
fn may_install() -> bool {
    rustix::process::geteuid().is_root() && Path::new("/usr/bin/apt-get").exists()
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
}

/// Installs a Debian package if that may be done; one at a time, each tried once.
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
    if !may_install() {
        return;
    }
    let _alone = alone("packages");
    eprintln!("installing the Debian package {package}");
    UPDATED.get_or_init(|| apt(&["update"]));
    let mut install = INSTALL.to_vec();
    install.push(package);
    apt(&install);
}

/// How packages are installed.
const INSTALL: [&str; 3] = ["install", "-y", "--no-install-recommends"];

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
