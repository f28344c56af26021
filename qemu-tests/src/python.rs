//! A Python that has the package `qemu.qmp`.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The Python to use: the system's if it has the package, else one of a virtual environment in `target/`, which is
/// made on the first call. `None` where that fails.
pub fn with_qemu_qmp() -> Option<PathBuf> {
    let system = crate::packages::program("python3", "python3")?;
    if has_package(&system) {
        return Some(system);
    }
    let environment = crate::workspace_dir().join("target/python");
    let python = environment.join("bin/python3");
    let _alone = crate::packages::alone("python");
    if !has_package(&python) {
        eprintln!("installing the Python package qemu.qmp into target/python");
        if !quiet(Command::new(&system).args(["-m", "venv"]).arg(&environment)) {
            // Debian keeps the parts that make an environment in a package of their own.
            crate::packages::file("/usr/share/doc/python3-venv", "python3-venv");
            quiet(Command::new(&system).args(["-m", "venv"]).arg(&environment));
        }
        quiet(Command::new(&python).args(["-m", "pip", "install", "-q", "qemu.qmp==0.0.6"]));
    }
    has_package(&python).then_some(python)
}

fn has_package(python: &PathBuf) -> bool {
    quiet(Command::new(python).args(["-c", "import qemu.qmp"]))
}

fn quiet(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs a program to its end and captures its output; it is killed at the timeout.
///
/// # Panics
///
/// If it doesn't start, or at the timeout.
pub fn program_output(command: &mut Command, timeout: Duration) -> Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let deadline = Instant::now() + timeout;
    while child.try_wait().expect("a child").is_none() {
        if Instant::now() >= deadline {
            child.kill().expect("a child");
            let output = child.wait_with_output().expect("a child");
            panic!("{command:?} didn't end within {timeout:?}: {output:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().expect("a child")
}
