//! The smallest static binary.

use std::process::Command;

use crate::{Outcome, build};

/// Builds `target/dist/thimble`, and prints its size beside that of an empty static Rust program.
pub(crate) fn dist() -> Outcome {
    build::cargo(&[
        "build",
        "--profile",
        "dist",
        "-p",
        "thimble-host",
        "--locked",
    ])?;
    let empty = build::target().join("dist/empty");
    let source = empty.with_extension("rs");
    std::fs::write(&source, "fn main() {}\n").map_err(|error| error.to_string())?;
    let mut rustc = Command::new("rustc");
    rustc.args([
        "--edition=2024",
        "-Clto=fat",
        "-Ccodegen-units=1",
        "-Cpanic=abort",
    ]);
    rustc.args([
        "-Copt-level=z",
        "-Cstrip=symbols",
        "-Ctarget-feature=+crt-static",
    ]);
    rustc.args(["-Crelocation-model=static", "-o"]);
    build::succeed(rustc.arg(&empty).arg(&source))?;
    let thimble = build::target().join("dist/thimble");
    let size = |path| {
        std::fs::metadata(path)
            .map(|data| data.len())
            .map_err(|e| format!("{e}"))
    };
    let (thimble_size, empty_size) = (size(&thimble)?, size(&empty)?);
    println!("{}: {thimble_size} bytes", thimble.display());
    println!("an empty static program: {empty_size} bytes");
    println!("above that: {}", thimble_size.saturating_sub(empty_size));
    Ok(())
}
