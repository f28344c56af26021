//! What is handed out: the smallest static binary, and the reference of its QMP commands.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Outcome, build};

/// Builds `target/dist/thimble` and `target/dist/qmp-reference.md`, and prints the binary's size beside that of an empty
/// static Rust program.
pub(crate) fn dist() -> Outcome {
    let (thimble, empty) = (thimble()?, empty()?);
    let size = |path: &Path| {
        std::fs::metadata(path)
            .map(|data| data.len())
            .map_err(|error| format!("{}: {error}", path.display()))
    };
    let (thimble_size, empty_size) = (size(&thimble)?, size(&empty)?);
    println!("{}: {thimble_size} bytes", thimble.display());
    println!("an empty static program: {empty_size} bytes");
    println!("above that: {}", thimble_size.saturating_sub(empty_size));
    let reference = build::target().join("dist/qmp-reference.md");
    std::fs::write(&reference, build::schema()?.page())
        .map_err(|error| format!("{}: {error}", reference.display()))?;
    println!("{}: what it understands", reference.display());
    Ok(())
}

/// Builds the binary that is handed out.
pub(crate) fn thimble() -> Result<PathBuf, String> {
    build::cargo(&[
        "build",
        "-q",
        "--profile",
        "dist",
        "-p",
        "thimble-host",
        "--locked",
    ])?;
    Ok(build::target().join("dist/thimble"))
}

/// Builds an empty program with the same options.
pub(crate) fn empty() -> Result<PathBuf, String> {
    let path = build::target().join("dist/empty");
    compile_empty(&path, "symbols")?;
    Ok(path)
}

/// Compiles an empty program as the profile `dist` and `.cargo/rustc-static` do the binary; `strip` as rustc has it.
pub(crate) fn compile_empty(path: &Path, strip: &str) -> Outcome {
    let source = path.with_extension("rs");
    std::fs::write(&source, "fn main() {}\n")
        .map_err(|error| format!("{}: {error}", source.display()))?;
    let mut rustc = Command::new("rustc");
    rustc
        .args(["--edition=2024", "-Clto=fat", "-Ccodegen-units=1"])
        .args(["-Cpanic=abort", "-Copt-level=z"])
        .args(["-Ctarget-feature=+crt-static", "-Crelocation-model=static"])
        .arg(format!("-Cstrip={strip}"));
    build::succeed(rustc.arg("-o").arg(path).arg(&source))
}
