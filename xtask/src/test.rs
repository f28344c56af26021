//! Every test, and closing lines that name what failed and was skipped, and count.
//!
//! Many tests run whole emulators beside each other, with deadlines. Where a host is so busy that one of them is missed,
//! the test alone, run once more, tells whether it was that: if it passes now it counts as passed, and the closing lines
//! name it as unsteady, with what it said the first time.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use qemu_tests::packages;

use crate::suites::{self, Suite, in_lanes};
use crate::{Outcome, build, fuzz, images, lockstep};

/// How long each fuzz target runs in a usual test run, in seconds, and in a long one.
const FUZZ_SECONDS: (u32, u32) = (20, 300);
/// What the targets of a usual run may take together, in seconds of one processor.
const FUZZ_BUDGET: u32 = 300;

/// Suites that run at a time. Tests wait more than they compute, and each suite ends with few of them.
const SUITES_AT_A_TIME: usize = 2;

/// Suites with guests, which run once more, on the other accelerator.
const ON_BOTH: [&str; 3] = ["actions", "commands", "process"];

/// Failed tests that are run once more at most: if there are more, a busy host is not the reason.
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
///
/// Compilers that have one crate left, and what waits for the network, leave processors idle: all is built at once, in folders
/// that don't wait for each other. Tests have deadlines: they run when that is done.
pub(crate) fn all(long: bool) -> Outcome {
    let begin = Instant::now();
    let counts = Mutex::new(Counts::default());
    let skips = build::target().join("skips.txt");
    std::fs::create_dir_all(build::target()).map_err(|error| error.to_string())?;
    std::fs::write(&skips, "").map_err(|error| error.to_string())?;
    let (suites, targets) = std::thread::scope(|scope| {
        scope.spawn(packages::get_all);
        let targets = scope.spawn(|| {
            let targets = fuzz::targets()?;
            step(&counts, "fuzz targets", fuzz::build_all);
            Ok::<_, String>(targets)
        });
        scope.spawn(|| checks(&counts));
        (programs(&counts), joined(targets.join()))
    });
    let mut jobs = Vec::new();
    for suite in &suites {
        let mut suite = suite.clone();
        if suite.is_of("qemu-tests") {
            if long {
                suite.arguments.push("--include-ignored".to_string());
            }
            if ON_BOTH.contains(&suite.name.as_str()) {
                let mut other = suite.clone();
                other.environment.push(("THIMBLE_ACCEL", "tcg"));
                jobs.push(other);
            }
        }
        jobs.push(suite);
    }
    lock(&counts).suites(&jobs);
    let text = std::fs::read_to_string(&skips).map_err(|error| error.to_string())?;
    for line in text.lines() {
        let mut counts = lock(&counts);
        // The plain harness has counted a test that skipped itself as passed.
        if line.starts_with("SKIPPED: ") {
            counts.passed = counts.passed.saturating_sub(1);
        }
        counts.skipped.push(line.to_string());
    }
    let mut last = vec![Last::Lockstep];
    match &targets {
        Err(reason) => {
            let skipped = format!("SKIPPED: fuzz targets: {reason}");
            lock(&counts).skipped.push(skipped);
        }
        Ok(targets) => last.extend(targets.iter().map(|target| Last::Fuzz(target))),
    }
    let share = FUZZ_BUDGET / (last.len() - 1).max(1) as u32;
    let seconds = match long {
        true => FUZZ_SECONDS.1,
        false => FUZZ_SECONDS.0.min(share).max(1),
    };
    // Each computes all the time, on one processor.
    in_lanes(processors(), &last, |job| match job {
        Last::Lockstep => {
            let options: &[&str] = if long { &["--minutes", "5"] } else { &[] };
            // Says itself what it skips.
            step(&counts, "lockstep", || lockstep::lockstep(options));
        }
        Last::Fuzz(target) => {
            step(&counts, &format!("fuzz {target}"), || {
                fuzz::quietly(target, seconds)
            });
        }
    });
    // Another build, which would wait for those that run.
    for target in targets.iter().flatten().filter(|_| long) {
        let name = format!("fuzz {target} --self-test");
        step(&counts, &name, || fuzz::self_test(target));
    }
    let minutes = begin.elapsed().as_secs_f32() / 60.0;
    println!("all took {minutes:.1} minutes");
    let counts = counts.into_inner().unwrap_or_else(PoisonError::into_inner);
    counts.conclude()
}

/// What needs no quiet machine and is done behind the tests.
enum Last<'a> {
    Lockstep,
    Fuzz(&'a str),
}

/// Looks at the source alone.
fn checks(counts: &Mutex<Counts>) {
    let checks: [&[&str]; 3] = [
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
    ];
    for check in checks {
        let name = format!("cargo {}", check.join(" "));
        step(counts, &name, || build::cargo(check));
    }
    step(counts, "cargo doc", || {
        let mut doc = build::cargo_command(&["doc", "--workspace", "--no-deps", "-q"]);
        build::succeed(doc.env("RUSTDOCFLAGS", "-D warnings"))
    });
    // A step of its own runs it.
    step(counts, "lockstep's build", lockstep::build);
}

/// Builds what runs in tests, and the tests.
fn programs(counts: &Mutex<Counts>) -> Vec<Suite> {
    step(counts, "cargo build --release", || {
        build::cargo(&["build", "--release"])
    });
    let suites = step(counts, "tests of the workspace", suites::build);
    step(counts, "firmware images", images::build_all);
    suites.unwrap_or_default()
}

/// Does and counts a step that is one check, and says how long it took: what it makes.
fn step<T>(
    counts: &Mutex<Counts>,
    name: &str,
    work: impl FnOnce() -> Result<T, String>,
) -> Option<T> {
    let start = Instant::now();
    let result = work();
    println!("{name}: {:.1} s", start.elapsed().as_secs_f32());
    let mut counts = lock(counts);
    match result {
        Ok(made) => {
            counts.passed += 1;
            Some(made)
        }
        Err(error) => {
            counts.fail(name, &error);
            None
        }
    }
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a thread made; it panics as that did.
fn joined<T>(end: std::thread::Result<T>) -> T {
    end.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl Counts {
    fn fail(&mut self, name: &str, error: &str) {
        let failure = format!("FAILED: {name}: {error}");
        println!("{failure}");
        self.failures.push(failure);
        self.failed += 1;
    }

    /// Runs suites, and counts by their summary lines.
    fn suites(&mut self, suites: &[Suite]) {
        let results = in_lanes(SUITES_AT_A_TIME, suites, Suite::run);
        let mut failed = Vec::new();
        for (suite, result) in suites.iter().zip(results) {
            let output = match result {
                Ok(output) => output,
                Err(error) => {
                    self.fail(&suite.title(), &error);
                    continue;
                }
            };
            let text = String::from_utf8_lossy(&output.stdout);
            let (passed_here, failed_here) = count(&text);
            let report = failures(&text);
            self.passed += passed_here;
            if !report.said.is_empty() {
                self.failures.push(report.said);
            }
            if report.names.len() != failed_here {
                self.failed += failed_here;
            } else if failed_here > 0 {
                failed.push((suite, report.names));
            } else if !output.status.success() {
                // What dies has no summary line.
                self.fail(&suite.title(), &output.status.to_string());
            }
        }
        let all: usize = failed.iter().map(|(_, names)| names.len()).sum();
        for (suite, names) in failed {
            match all <= ONCE_MORE_MAX {
                true => self.once_more(suite, names),
                false => self.failed += names.len(),
            }
        }
    }

    /// Runs tests of a suite once more, alone.
    fn once_more(&mut self, suite: &Suite, names: Vec<String>) {
        let mut alone = suite.clone();
        let options = ["--exact", "--test-threads=1"].map(str::to_string);
        alone.arguments.extend(options);
        alone.arguments.extend(names.iter().cloned());
        let still = match alone.run() {
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

    /// Says what failed and was skipped, and counts.
    fn conclude(self) -> Outcome {
        for line in self.failures.iter().chain(&self.skipped) {
            println!("{line}");
        }
        for name in &self.unsteady {
            println!("UNSTEADY: {name}: failed, and passed when it ran once more");
        }
        let unsteady = match self.unsteady.len() {
            0 => String::new(),
            count => format!(" ({count} of them unsteady)"),
        };
        println!(
            "{} passed{unsteady}, {} failed, {} skipped",
            self.passed,
            self.failed,
            self.skipped.len()
        );
        match self.failed {
            0 => Ok(()),
            _ => Err("some tests failed".to_string()),
        }
    }
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
