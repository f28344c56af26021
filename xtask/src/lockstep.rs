//! `cargo xtask lockstep`: the same instructions on the processor and on the software CPU. The crate `thimble-lockstep`
//! does it; it is built apart, with optimisation and checks.

use crate::{Outcome, build};

/// Builds it.
pub(crate) fn build() -> Outcome {
    build::cargo(&cargo("build"))
}

/// Builds it, and runs it with these arguments.
pub(crate) fn lockstep(arguments: &[&str]) -> Outcome {
    let mut all = cargo("run").to_vec();
    all.push("--");
    all.extend(arguments);
    build::cargo(&all)
}

fn cargo(task: &str) -> [&str; 7] {
    [
        task,
        "-q",
        "--locked",
        "--profile",
        "lockstep",
        "-p",
        "thimble-lockstep",
    ]
}
