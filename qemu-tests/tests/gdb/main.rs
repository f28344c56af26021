//! Debuggers: gdb itself with the same script on both emulators, and packets by hand.
//!
//! The guest is the image `debugged`, whose ELF file tells gdb where its places are.

mod packets;
mod remote;
mod scripts;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use qemu_tests::{Emulator, Instance, Launcher, images, packages};

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// A stopped guest with a debugger's socket and a QMP one.
fn launcher(emulator: Emulator, accel: &str) -> Launcher {
    emulator
        .launcher()
        .args(["-accel", accel, "-S", "-M", "pc", "-m", "16"])
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
        .args([
            "-bios",
            images::rom("debugged").to_str().expect("a plain path"),
        ])
        .args(["-gdb", "unix:{dir}/gdb.sock,server=on,wait=off"])
        .with_qmp()
}

/// Waits until a file is there.
fn wait_for(path: &Path, instance: &Instance) {
    let deadline = Instant::now() + PATIENCE;
    while !path.exists() {
        assert!(Instant::now() < deadline, "{}", instance.report());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Starts gdb on an emulator, which executes a script's lines and ends.
fn start_gdb(instance: &Instance, script: &str) -> Child {
    let socket = instance.dir().join("gdb.sock");
    wait_for(&socket, instance);
    let path = instance.dir().join("script.gdb");
    std::fs::write(&path, script).expect("a file in the run's folder");
    let mut gdb = Command::new(packages::gdb().expect("gdb is installed"));
    gdb.args(["-nx", "-q", "-batch"]);
    for command in [
        "set pagination off".to_string(),
        "set confirm off".to_string(),
        "set remotetimeout 20".to_string(),
        format!("file {}", images::elf("debugged").display()),
        format!("target remote {}", socket.display()),
    ] {
        gdb.args(["-ex", &command]);
    }
    gdb.arg("-x").arg(path);
    gdb.stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("gdb starts")
}

/// What gdb has printed by its end, line by line, messages about errors too.
fn printed(gdb: Child) -> Vec<String> {
    let output = gdb.wait_with_output().expect("gdb ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    // Where the script lies is another place each time.
    let errors = errors.lines().map(|line| match line.split_once(".gdb:") {
        Some((_, rest)) => rest.to_string(),
        None => line.to_string(),
    });
    let lines = text.lines().map(str::to_string);
    lines
        .chain(errors)
        .filter(|line| !line.is_empty())
        .collect()
}

/// Runs a script on a fresh guest.
fn run_script(emulator: Emulator, accel: &str, options: &[&str], script: &str) -> Vec<String> {
    let instance = launcher(emulator, accel).args(options).start();
    printed(start_gdb(&instance, script))
}
