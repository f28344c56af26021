//! Fuzz targets, with cargo-fuzz on a nightly toolchain.

use std::process::Command;

use crate::{Outcome, build};

/// The names of all targets, or why they can't run here.
pub(crate) fn targets() -> Result<Vec<String>, String> {
    let folder = build::root().join("core-nostd/fuzz");
    if !folder.is_dir() {
        return Err("core-nostd/fuzz is missing".to_string());
    }
    let output = Command::new("cargo")
        .args(["+nightly", "fuzz", "list", "--fuzz-dir"])
        .arg(&folder)
        .current_dir(build::root().join("core-nostd"))
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err("cargo-fuzz or a nightly toolchain is missing".to_string());
    }
    let names = String::from_utf8_lossy(&output.stdout);
    Ok(names.lines().map(|name| name.trim().to_string()).collect())
}

/// Runs one target for so many seconds.
pub(crate) fn one(target: &str, seconds: u32) -> Outcome {
    let mut command = Command::new("cargo");
    command
        .args(["+nightly", "fuzz", "run", target, "--"])
        .arg(format!("-max_total_time={seconds}"))
        .current_dir(build::root().join("core-nostd"));
    build::succeed(&mut command)
}
