//! Every test, and closing lines that name what failed and was skipped, and count.
//!
//! Many tests run whole emulators beside each other, with deadlines. Where a host is so busy that one of them is missed,
//! the test alone, run once more, tells whether it was that: if it passes now it counts as passed, and the closing lines
//! name it as unsteady, with what it said the first time.

use std::process::{Output, Stdio};

use crate::{Outcome, build, fuzz, images, lockstep};

/// How long each fuzz target runs in a usual test run, in seconds, and in a long one.
const FUZZ_SECONDS: (u32, u32) = (20, 300);
/// How long all targets of a usual run may take together, in seconds.
const FUZZ_BUDGET: u32 = 300;

/// Failed tests of one run of cargo that are run once more at most: if there are more, a busy host is not the reason.
const ONCE_MORE_MAX: usize = 5;

#[derive(Default)]
struct Counts {
    passed: usize,
    failed: usize,
    /// What failed said.
    failures: Vec<String>,
    /// What failed, and passed when it ran once more.
    unsteady: Vec<String>,
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
                counts.step(&format!("fuzz {target}"), fuzz::quietly(&target, seconds));
                if long {
                    counts.step(
                        &format!("fuzz {target} --self-test"),
                        fuzz::self_test(&target),
                    );
                }
            }
        }
    }
    for line in counts.failures.iter().chain(&counts.skipped) {
        println!("{line}");
    }
    for name in &counts.unsteady {
        println!("UNSTEADY: {name}: failed, and passed when it ran once more");
    }
    let Counts {
        passed,
        failed,
        unsteady,
        skipped,
        ..
    } = &counts;
    let unsteady = match unsteady.len() {
        0 => String::new(),
        count => format!(" ({count} of them unsteady)"),
    };
    println!(
        "{passed} passed{unsteady}, {failed} failed, {} skipped",
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
                let failure = format!("FAILED: {name}: {error}");
                println!("{failure}");
                self.failures.push(failure);
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
        let output = match run_tests(args, environment) {
            Ok(output) => output,
            Err(error) => return self.step("cargo test", Err(error)),
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let (passed, failed) = count(&text);
        let report = failures(&text);
        self.passed += passed;
        self.failures.push(report.said);
        // What doesn't compile, or dies, has no summary line.
        if !output.status.success() && failed == 0 {
            return self.step("cargo test", Err(output.status.to_string()));
        }
        let names = report.names;
        if failed == 0 || names.len() != failed || failed > ONCE_MORE_MAX {
            self.failed += failed;
            return;
        }
        let mut once_more = args.to_vec();
        if !args.contains(&"--") {
            once_more.push("--");
        }
        once_more.extend(["--exact", "--test-threads=1"]);
        once_more.extend(names.iter().map(String::as_str));
        let still = match run_tests(&once_more, environment) {
            Ok(output) if output.status.success() => Vec::new(),
            Ok(output) => match failures(&String::from_utf8_lossy(&output.stdout)).names {
                // What doesn't end as tests do has shown nothing.
                names_now if names_now.is_empty() => names.clone(),
                names_now => names_now,
            },
            Err(_) => names.clone(),
        };
        self.failed += still.len();
        let (_, steady): (Vec<_>, Vec<_>) =
            names.into_iter().partition(|name| still.contains(name));
        self.passed += steady.len();
        self.unsteady.extend(steady);
    }
}

/// Runs cargo's tests and shows their output.
fn run_tests(args: &[&str], environment: &[(&str, &str)]) -> Result<Output, String> {
    let output = build::cargo_command(args)
        .envs(environment.iter().copied())
        .env("THIMBLE", build::thimble())
        .env("THIMBLE_IMAGES", build::target().join("firmware"))
        .env("THIMBLE_SKIPS", build::target().join("skips.txt"))
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| error.to_string())?;
    print!("{}", String::from_utf8_lossy(&output.stdout));
    Ok(output)
}

/// How many tests passed and failed, by all summary lines of a text.
fn count(text: &str) -> (usize, usize) {
    let counts = text.lines().filter_map(summary);
    counts.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

/// What the harness tells of failed tests.
#[derive(Debug, Default, PartialEq, Eq)]
struct Failures {
    names: Vec<String>,
    /// Their output, as the harness shows it.
    said: String,
}

/// Finds what stands between `failures:` and the summary: first the output of each failed test, then a list of their names.
fn failures(text: &str) -> Failures {
    let mut found = Failures::default();
    let mut inside = false;
    for line in text.lines() {
        if line == "failures:" {
            inside = true;
        } else if summary(line).is_some() {
            inside = false;
        } else if inside {
            found.said += line;
            found.said.push('\n');
            // The list comes after the output, indented; the headings of the output have the same names.
            if let Some(name) = line.strip_prefix("    ") {
                let heading = format!("---- {name} stdout ----");
                let listed = found.said.lines().any(|line| line == heading);
                if listed && !found.names.iter().any(|known| known == name) {
                    found.names.push(name.to_string());
                }
            }
        }
    }
    found
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

    #[test]
    fn failures_are_named_with_what_they_said() {
        let text = "running 2 tests\ntest a ... ok\ntest m::b ... FAILED\n\nfailures:\n\n---- m::b stdout ----\nwanted:\n    a\n\n\n\
                    failures:\n    m::b\n\ntest result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n";
        let found = failures(text);
        assert_eq!(found.names, ["m::b"]);
        assert!(found.said.contains("wanted:\n    a\n"));
        assert_eq!(count(text), (1, 1));
        assert_eq!(
            failures("test result: ok. 9 passed; 0 failed; 0 ignored"),
            Failures::default()
        );
    }
}
