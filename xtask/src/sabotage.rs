//! Does a test notice when a command does nothing?

use std::process::Stdio;

use crate::{Outcome, build};

/// The tests of QMP.
const TESTS: [&str; 3] = ["commands", "qmp", "qom"];

/// Commands whose true answer is the smallest of its type, so far: there is one architecture, no Arm interrupt
/// controller, and no sleep.
const TRUE_ANYWAY: [&str; 3] = [
    "query-target",
    "query-gic-capabilities",
    "query-current-machine",
];

/// Runs the QMP tests once for each command, with that command sabotaged; an error names those nobody noticed.
pub(crate) fn all() -> Outcome {
    let folder = build::target().join("sabotage");
    let folder = folder.to_string_lossy();
    build::cargo(&[
        "build",
        "--release",
        "-p",
        "thimble-host",
        "--features",
        "sabotage",
        "--target-dir",
        &folder,
    ])?;
    let binary = format!("{folder}/release/thimble");
    let tests = || {
        let mut command = build::cargo_command(&["test", "-q", "-p", "qemu-tests"]);
        for test in TESTS {
            command.args(["--test", test]);
        }
        command
            .env("THIMBLE", &binary)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    };
    build::succeed(&mut tests()).map_err(|_| "the QMP tests fail without sabotage".to_string())?;
    let mut unnoticed = Vec::new();
    for command in commands(&binary)? {
        let passed = build::succeed(tests().env("THIMBLE_SABOTAGE", &command)).is_ok();
        let told = TRUE_ANYWAY.contains(&command.as_str());
        let text = match (passed, told) {
            (false, false) => "noticed",
            (true, true) => "answers the same either way",
            (true, false) => "UNNOTICED",
            (false, true) => "NOTICED, though it is said to answer the same either way",
        };
        println!("{command}: {text}");
        if passed != told {
            unnoticed.push(command);
        }
    }
    match unnoticed.is_empty() {
        true => Ok(()),
        false => Err(format!("not as expected: {}", unnoticed.join(", "))),
    }
}

/// The commands that the binary lists.
fn commands(binary: &str) -> Result<Vec<String>, String> {
    let output = build::cargo_command(&["run", "-q", "-p", "qemu-tests", "--bin", "qmp-commands"])
        .env("THIMBLE", binary)
        .output()
        .map_err(|error| error.to_string())?;
    let names = String::from_utf8_lossy(&output.stdout);
    let names: Vec<String> = names.lines().map(String::from).collect();
    match names.is_empty() {
        true => Err("query-commands lists nothing".to_string()),
        false => Ok(names),
    }
}
