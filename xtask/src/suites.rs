//! The programs that hold tests: built at once, and run beside each other.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::Value;

use crate::build;

/// Suites that take longest: they are started first, so that no lane is left with one at the end.
const LONGEST: [&str; 3] = ["commands", "actions", "images"];

/// A program with tests.
#[derive(Clone, Debug)]
pub(crate) struct Suite {
    /// Its target's name.
    pub(crate) name: String,
    program: PathBuf,
    /// Its package's folder.
    folder: PathBuf,
    /// What its environment has besides.
    pub(crate) environment: Vec<(&'static str, &'static str)>,
    /// Arguments for the harness.
    pub(crate) arguments: Vec<String>,
}

/// Builds all tests of the workspace, with one choice of features, so that each library is compiled once.
///
/// Examples in documentation are tests, too, but rustdoc would read everything again to find that there are none.
pub(crate) fn build() -> Result<Vec<Suite>, String> {
    let output = build::cargo_command(&["test", "--profile", "suites", "--workspace", "--no-run"])
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(output.status.to_string());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut suites: Vec<_> = text.lines().filter_map(built).collect();
    let rank = |suite: &Suite| LONGEST.iter().position(|name| *name == suite.name);
    suites.sort_by_key(|suite| rank(suite).unwrap_or(LONGEST.len()));
    Ok(suites)
}

/// The suite that a message of cargo's tells of.
fn built(message: &str) -> Option<Suite> {
    let message: Value = serde_json::from_str(message).ok()?;
    if message["profile"]["test"] != true {
        return None;
    }
    let manifest = PathBuf::from(message["manifest_path"].as_str()?);
    Some(Suite {
        name: message["target"]["name"].as_str()?.to_string(),
        program: message["executable"].as_str()?.into(),
        folder: manifest.parent()?.to_path_buf(),
        environment: Vec::new(),
        arguments: Vec::new(),
    })
}

impl Suite {
    /// Whether this is one of the package in this folder of the source tree.
    pub(crate) fn is_of(&self, package: &str) -> bool {
        self.folder == build::root().join(package)
    }

    /// What the closing lines call it.
    pub(crate) fn title(&self) -> String {
        let environment = self.environment.iter();
        let words = environment.map(|(name, value)| format!("{name}={value} "));
        words.collect::<String>() + &self.name
    }

    /// Runs it, and shows what it wrote when it has ended, and how long that took.
    pub(crate) fn run(&self) -> Result<Output, String> {
        static SHOWN: Mutex<()> = Mutex::new(());
        let start = Instant::now();
        let output = Command::new(&self.program)
            .args(&self.arguments)
            .current_dir(&self.folder)
            .envs(self.environment.iter().copied())
            .env("CARGO_MANIFEST_DIR", &self.folder)
            .env("THIMBLE", build::thimble())
            .env("THIMBLE_SKIPS", build::target().join("skips.txt"))
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| format!("{}: {error}", self.program.display()))?;
        let seconds = start.elapsed().as_secs_f32();
        let _whole = SHOWN.lock().map_err(|error| error.to_string())?;
        println!("\nSuite {}: {seconds:.1} s", self.title());
        print!("{}", String::from_utf8_lossy(&output.stdout));
        Ok(output)
    }
}

/// Does all jobs in their order, so many at a time: their results, in the same order.
pub(crate) fn in_lanes<J: Sync, R: Send>(
    lanes: usize,
    jobs: &[J],
    work: impl Fn(&J) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let lane = || {
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = jobs.get(number) else {
                return done;
            };
            done.push((number, work(job)));
        }
    };
    let mut results = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
        let lanes = lanes.into_iter().map(|lane| lane.join());
        lanes
            .flat_map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<Vec<_>>()
    });
    results.sort_by_key(|(number, _)| *number);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_what_cargo_built_for_tests() {
        let message = |test: bool| {
            let text = r#"{"reason":"compiler-artifact","manifest_path":"/a/b/Cargo.toml","target":{"name":"c"},
                "profile":{"test":TEST},"executable":"/d/c-1"}"#;
            text.replace("TEST", &test.to_string())
        };
        let suite = built(&message(true)).unwrap();
        assert_eq!((suite.name.as_str(), suite.title()), ("c", "c".to_string()));
        assert_eq!(suite.folder, PathBuf::from("/a/b"));
        assert!(built(&message(false)).is_none());
        assert!(built(r#"{"reason":"build-finished","success":true}"#).is_none());
    }

    #[test]
    fn lanes_do_each_job_once() {
        let jobs: Vec<_> = (0..100).collect();
        let busy = (AtomicUsize::new(0), AtomicUsize::new(0));
        let results = in_lanes(3, &jobs, |job| {
            let now = busy.0.fetch_add(1, Ordering::SeqCst) + 1;
            busy.1.fetch_max(now, Ordering::SeqCst);
            std::thread::yield_now();
            busy.0.fetch_sub(1, Ordering::SeqCst);
            job * 2
        });
        let expected: Vec<_> = jobs.iter().map(|job| job * 2).collect();
        assert_eq!(results, expected);
        assert!(busy.1.into_inner() <= 3);
    }

    /// Nothing would run them: see [`super::build`].
    #[test]
    fn documentation_has_no_examples() {
        let mut folders = vec![build::root().to_path_buf()];
        let mut files = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy();
                if path.is_dir() && name != "target" && !name.starts_with('.') {
                    folders.push(path);
                } else if name.ends_with(".rs") {
                    files += 1;
                    assert_eq!(example(&std::fs::read_to_string(&path).unwrap()), None);
                }
            }
        }
        assert!(files > 100);
        assert_eq!(example("//! ```text\n//! a\n//! ```\n"), None);
        assert!(example("/// ```\n/// let a = 1;\n/// ```\n").is_some());
    }

    /// The line with which an example in the documentation of this source begins.
    fn example(source: &str) -> Option<&str> {
        let comments = source.lines().map(str::trim_start);
        let mut fences = comments.filter(|line| {
            let text = line.strip_prefix("//!").or(line.strip_prefix("///"));
            text.is_some_and(|text| text.trim_start().starts_with("```"))
        });
        while let Some(fence) = fences.next() {
            if !fence.ends_with("```text") {
                return Some(fence);
            }
            fences.next();
        }
        None
    }
}
