//! A Linux guest that does what its serial port tells it: Debian's kernel, and a shell that runs each line and says how it ended.

use std::path::Path;
use std::time::Duration;

use crate::initramfs::Initramfs;
use crate::{Console, Instance, Launcher, QmpClient, packages};

/// A guest may take so long; other tests and emulators have the same processors.
const PATIENCE: Duration = Duration::from_secs(240);

/// What stands before the status of a line that was run, and before the first line can come.
const DONE: &str = "== done ";

/// Words for the kernel's command line.
pub const APPEND: &str = "console=ttyS0 quiet panic=-1 no_timer_check";

/// A guest that has come to its shell.
pub struct LinuxGuest {
    /// The emulator.
    pub instance: Instance,
    /// The serial port.
    pub console: Console,
    /// A QMP connection.
    pub qmp: QmpClient,
}

/// The initial RAM disk of such a guest, with the modules of these files in the kernel before its shell asks. `None` where
/// Debian's package busybox-static can't be had.
///
/// # Panics
///
/// If a file can't be read.
pub fn initrd(modules: &[impl AsRef<Path>]) -> Option<Initramfs> {
    let names: Vec<_> = modules
        .iter()
        .map(|path| path.as_ref().file_name().expect("a name").to_string_lossy())
        .collect();
    let init = format!(
        r#"
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
dmesg -n 1
for module in {}; do insmod /bin/$module; done
stty -echo -onlcr
echo "{DONE}0"
while read -r line; do
    eval "$line"
    echo "{DONE}$?"
done
"#,
        names.join(" ")
    );
    let mut archive = Initramfs::busybox(&init)?;
    for (path, name) in modules.iter().zip(&names) {
        archive.program_file(&format!("bin/{name}"), path.as_ref());
    }
    Some(archive)
}

impl LinuxGuest {
    /// Starts a guest with these modules by the emulator's own loader of kernels. Nothing but its serial port and what the launcher
    /// has is in the machine. `None` where the Debian packages linux-image-cloud-amd64 and busybox-static can't be had.
    ///
    /// # Panics
    ///
    /// If the guest doesn't come to its shell; shows what it wrote.
    pub fn start(launcher: Launcher, modules: &[&str]) -> Option<Self> {
        let (kernel, modules) = packages::linux_with(modules)?;
        let path = launcher.dir().join("initrd");
        std::fs::write(&path, initrd(&modules)?.finish()).expect("a file");
        let kernel = kernel.to_str().expect("a plain path");
        let options = [
            "-kernel",
            kernel,
            "-initrd",
            "{dir}/initrd",
            "-append",
            APPEND,
        ];
        Some(Self::boot(launcher.args(options)))
    }

    /// Starts a guest that boots by itself.
    ///
    /// # Panics
    ///
    /// If the guest doesn't come to its shell; shows what it wrote.
    pub fn boot(launcher: Launcher) -> Self {
        let instance = launcher
            .args(["-accel", "tcg", "-nodefaults", "-display", "none"])
            .args(["-vga", "none", "-m", "256", "-no-reboot"])
            .args(Console::ARGS)
            .with_qmp()
            .lifetime(PATIENCE)
            .start();
        let console = Console::connect(&instance);
        let mut qmp = instance.qmp();
        qmp.negotiate();
        let mut guest = Self {
            instance,
            console,
            qmp,
        };
        assert_eq!(guest.end_of_line().1, 0);
        guest
    }

    /// Runs a line of the shell, which must succeed: what it wrote.
    ///
    /// # Panics
    ///
    /// If it fails, or takes too long; shows what the guest wrote.
    pub fn run(&mut self, line: &str) -> String {
        let (output, status) = self.status(line);
        assert_eq!(status, 0, "{line}: {output}\n{}", self.console.shown());
        output
    }

    /// Runs a line of the shell: what it wrote, and its status.
    ///
    /// # Panics
    ///
    /// If it takes too long; shows what the guest wrote.
    pub fn status(&mut self, line: &str) -> (String, u32) {
        self.console.send(&format!("{line}\n"));
        self.end_of_line()
    }

    fn end_of_line(&mut self) -> (String, u32) {
        let output = self.console.wait(DONE, PATIENCE);
        let status = self.console.wait("\n", PATIENCE);
        let status = status.parse().expect("a status");
        (output, status)
    }
}
