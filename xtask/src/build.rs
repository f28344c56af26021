//! Running cargo, and where things lie.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Outcome;

/// The top folder of the source tree.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    root().join("target")
}

/// The binary under test.
pub(crate) fn thimble() -> PathBuf {
    target().join("release/thimble")
}

/// The schema of all QMP commands.
pub(crate) fn schema() -> Result<thimble_qapi::Schema, String> {
    let path = root().join("monitor/schema/qmp.json");
    thimble_qapi::Schema::read(&path).map_err(|error| error.to_string())
}

/// A cargo command at the top folder.
pub(crate) fn cargo_command(args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(args).current_dir(root());
    command
}

/// Runs cargo; an error if it fails.
pub(crate) fn cargo(args: &[&str]) -> Outcome {
    succeed(&mut cargo_command(args))
}

/// Runs a program on this terminal; an error if it fails.
pub(crate) fn succeed(command: &mut Command) -> Outcome {
    let status = command
        .status()
        .map_err(|error| format!("{command:?}: {error}"))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{command:?}: {status}")),
    }
}

/// A program on the search path.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}
