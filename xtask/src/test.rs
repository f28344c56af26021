//! Every test, and one closing line that counts them.

use std::process::Stdio;

use crate::{Outcome, build, fuzz, images, lockstep};

/// How long each fuzz target runs in a usual test run, in seconds, and in a long one.
const FUZZ_SECONDS: (u32, u32) = (20, 300);
/// How long all targets of a usual run may take together, in seconds.
const FUZZ_BUDGET: u32 = 300;

#[derive(Default)]
struct Counts {
    passed: usize,
    failed: usize,
    skipped: Vec<String>,
}

/// Runs everything even if something fails; an error if anything did.
pub(crate) fn all(long: bool) -> Outcome {
    let mut counts = Counts::default();
    let skips = build::target().join("skips.txt");
    std::fs::create_dir_all(build::target()).map_err(|error| error.to_string())?;
    std::fs::write(&skips, "").map_err(|error| error.to_string())?;
    let steps: [&[&str]; 4] = [
        &["fmt", "--all", "--check"],
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
        // A feature of its own, because serde would get std from the tools of the workspace.
        &[
            "clippy",
            "-p",
            "thimble-firmware",
            "--features",
            "core-proof",
            "--bins",
            "--",
            "-D",
            "warnings",
        ],
        &["build", "--release"],
    ];
    for step in steps {
        counts.step(&format!("cargo {}", step.join(" ")), build::cargo(step));
    }
    let mut doc = build::cargo_command(&["doc", "--workspace", "--no-deps", "-q"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    counts.step("cargo doc", build::succeed(&mut doc));
    counts.step("firmware images", images::build_all().map(drop));
    counts.tests(&[
        "test",
        "--workspace",
        "--exclude",
        "qemu-tests",
        "--no-fail-fast",
    ]);
    let mut guests = vec!["test", "-p", "qemu-tests", "--no-fail-fast"];
    if long {
        guests.extend(["--", "--include-ignored"]);
    }
    counts.tests(&guests);
    // Those with guests once more, on the other accelerator.
    counts.tests_with(
        &[
            "test",
            "-p",
            "qemu-tests",
            "--no-fail-fast",
            "--test",
            "actions",
            "--test",
            "commands",
            "--test",
            "process",
        ],
        &[("THIMBLE_ACCEL", "tcg")],
    );
    // Says itself what it skips.
    let seed: &[&str] = if long { &["--minutes", "5"] } else { &[] };
    counts.step("lockstep", lockstep::lockstep(seed));
    let text = std::fs::read_to_string(&skips).map_err(|error| error.to_string())?;
    for line in text.lines() {
        // The plain harness has counted a test that skipped itself as passed.
        if line.starts_with("SKIPPED: ") {
            counts.passed = counts.passed.saturating_sub(1);
        }
        counts.skipped.push(line.to_string());
    }
    match fuzz::targets() {
        Err(reason) => counts
            .skipped
            .push(format!("SKIPPED: fuzz targets: {reason}")),
        Ok(targets) => {
            let share = FUZZ_BUDGET / targets.len().max(1) as u32;
            let seconds = match long {
                true => FUZZ_SECONDS.1,
                false => FUZZ_SECONDS.0.min(share).max(1),
            };
            for target in targets {
                counts.step(&format!("fuzz {target}"), fuzz::one(&target, seconds));
                if long {
                    counts.step(
                        &format!("fuzz {target} --self-test"),
                        fuzz::self_test(&target),
                    );
                }
            }
        }
    }
    for line in &counts.skipped {
        println!("{line}");
    }
    let Counts {
        passed,
        failed,
        skipped,
    } = &counts;
    println!(
        "{passed} passed, {failed} failed, {} skipped",
        skipped.len()
    );
    match failed {
        0 => Ok(()),
        _ => Err("some tests failed".to_string()),
    }
}

impl Counts {
    /// Counts a step that is one check.
    fn step(&mut self, name: &str, outcome: Outcome) {
        match outcome {
            Ok(()) => self.passed += 1,
            Err(error) => {
                println!("FAILED: {name}: {error}");
                self.failed += 1;
            }
        }
    }

    /// Runs cargo's tests, shows their output, and counts by their summary lines.
    fn tests(&mut self, args: &[&str]) {
        self.tests_with(args, &[]);
    }

    /// The same, in another environment.
    fn tests_with(&mut self, args: &[&str], environment: &[(&str, &str)]) {
        let output = build::cargo_command(args)
            .envs(environment.iter().copied())
            .env("THIMBLE", build::thimble())
            .env("THIMBLE_IMAGES", build::target().join("firmware"))
            .env("THIMBLE_SKIPS", build::target().join("skips.txt"))
            .stderr(Stdio::inherit())
            .output();
        let output = match output {
            Ok(output) => output,
            Err(error) => return self.step("cargo test", Err(error.to_string())),
        };
        let text = String::from_utf8_lossy(&output.stdout);
        print!("{text}");
        let failed = self.failed;
        for line in text.lines() {
            let (passed, failed) = summary(line).unwrap_or((0, 0));
            self.passed += passed;
            self.failed += failed;
        }
        // What doesn't compile, or dies, has no summary line.
        if !output.status.success() && self.failed == failed {
            self.step("cargo test", Err(output.status.to_string()));
        }
    }
}

/// The numbers of a line like `test result: ok. 9 passed; 0 failed; ...`.
fn summary(line: &str) -> Option<(usize, usize)> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let mut parts = counts.split("; ");
    let mut next = |end: &str| parts.next()?.strip_suffix(end)?.trim().parse().ok();
    Some((next(" passed")?, next(" failed")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_counted() {
        let line = "test result: FAILED. 4 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(summary(line), Some((4, 3)));
        assert_eq!(summary("test x ... ok"), None);
    }
}
