//! Fuzz targets, with cargo-fuzz on a nightly toolchain. They lie in `core-nostd/fuzz`.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use qemu_tests::packages;

use crate::{Outcome, build};

/// The names of all targets, or why they can't run here.
pub(crate) fn targets() -> Result<Vec<String>, String> {
    ready()?;
    let output = cargo_fuzz("list")
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_string());
    }
    let names = String::from_utf8_lossy(&output.stdout);
    Ok(names.lines().map(|name| name.trim().to_string()).collect())
}

/// Builds all targets.
pub(crate) fn build_all() -> Outcome {
    build::succeed(cargo_fuzz("build").arg(NO_COMPARES))
}

/// To watch each comparison takes most of the time: what inputs are made of is in dictionaries and seeds.
const NO_COMPARES: &str = "--no-trace-compares";
/// Seconds in which a target must find its planted panic.
const SELF_TEST: u32 = 180;
/// What the planted panic says.
const PLANTED: &str = "the planted panic";

/// Runs one target for so many seconds, on what earlier runs found and on the seeds that lie beside the targets.
pub(crate) fn one(target: &str, seconds: u32) -> Outcome {
    build::succeed(&mut run(target, seconds, &[])?)
}

/// Does the same, and shows of the output what counts: the last line of the progress, or all if the target fails.
pub(crate) fn quietly(target: &str, seconds: u32) -> Outcome {
    let output = run(target, seconds, &[])?
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{}\n{text}", output.status));
    }
    let last = text.lines().rfind(|line| line.contains("\tDONE"));
    println!("fuzz {target}: {}", last.unwrap_or("done"));
    Ok(())
}

/// Plants a panic in a target and expects the fuzzer to find it.
pub(crate) fn self_test(target: &str) -> Outcome {
    let output = run(target, SELF_TEST, &["--features", "planted"])?
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stderr);
    if output.status.success() || !text.contains(PLANTED) {
        return Err(format!(
            "the planted panic was not found in {SELF_TEST} seconds"
        ));
    }
    println!("fuzz {target}: found the planted panic");
    Ok(())
}

fn run(target: &str, seconds: u32, options: &[&str]) -> Result<Command, String> {
    let known = targets()?;
    if !known.iter().any(|name| name == target) {
        let known = known.join(", ");
        return Err(format!("there is no fuzz target '{target}': {known}"));
    }
    let corpus = folder().join("corpus").join(target);
    fs::create_dir_all(&corpus).map_err(|error| format!("{}: {error}", corpus.display()))?;
    let mut command = cargo_fuzz("run");
    command.arg(NO_COMPARES);
    command.args(options).arg(target).arg(&corpus);
    let seeds = folder().join("seeds").join(target);
    if seeds.is_dir() {
        command.arg(&seeds);
    }
    command
        .arg("--")
        .arg(format!("-max_total_time={seconds}"))
        // To weigh inputs by how rare their features are takes most of the time of a short run.
        .arg("-entropic=0")
        .arg("-print_final_stats=1");
    if let Some(dictionary) = dictionary(target)? {
        command.arg(format!("-dict={}", dictionary.display()));
    }
    Ok(command)
}

/// Targets whose input is QMP's text.
const QMP_TEXT: [&str; 2] = ["qmp_session", "qmp_differential"];

/// The dictionary of a target: the file beside the targets or, for [`QMP_TEXT`], JSON's words and the schema's.
fn dictionary(target: &str) -> Result<Option<PathBuf>, String> {
    if !QMP_TEXT.contains(&target) {
        let own = folder().join(format!("{target}.dict"));
        return Ok(own.is_file().then_some(own));
    }
    let json = folder().join("json.dict");
    let mut words =
        fs::read_to_string(&json).map_err(|error| format!("{}: {error}", json.display()))?;
    for word in build::schema()?.dictionary() {
        words += &entry(word);
    }
    let made = build::target().join("fuzz");
    let path = made.join(format!("{target}.dict"));
    fs::create_dir_all(&made)
        .and_then(|()| fs::write(&path, words))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Some(path))
}

/// A word as libFuzzer's dictionaries have it: as a JSON string, in quotes once more.
fn entry(word: &str) -> String {
    let word = word.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"\\\"{word}\\\"\"\n")
}

fn folder() -> PathBuf {
    build::root().join("core-nostd/fuzz")
}

fn cargo_fuzz(task: &str) -> Command {
    let mut command = Command::new("cargo");
    command
        .args(["+nightly", "fuzz", task])
        .current_dir(build::root().join("core-nostd"));
    // The toolchain that runs xtask names itself to its children.
    for variable in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(variable);
    }
    command
}

/// Gets what is missing: a C++ compiler for libFuzzer, the nightly toolchain, and cargo-fuzz.
fn ready() -> Outcome {
    let works = |args: &[&str]| {
        let mut command = Command::new("cargo");
        command.args(args).env_remove("RUSTUP_TOOLCHAIN");
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if packages::program("c++", "g++").is_none() {
        return Err("no C++ compiler".to_string());
    }
    if !works(&["+nightly", "--version"]) {
        let mut rustup = Command::new("rustup");
        rustup.args(["toolchain", "install", "nightly", "--profile", "minimal"]);
        build::succeed(&mut rustup).map_err(|error| format!("no nightly toolchain: {error}"))?;
    }
    if !works(&["fuzz", "--version"]) {
        // It only calls others: without optimisation it is there sooner.
        build::cargo(&["install", "cargo-fuzz", "--locked", "--debug"])
            .map_err(|error| format!("no cargo-fuzz: {error}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_twice() {
        assert_eq!(entry("query-status"), "\"\\\"query-status\\\"\"\n");
        assert_eq!(entry("a\"b"), "\"\\\"a\\\"b\\\"\"\n");
    }

    #[test]
    fn the_dictionary_has_what_the_schema_has() {
        let path = dictionary("qmp_session").unwrap().unwrap();
        let words = fs::read_to_string(path).unwrap();
        for word in ["query-status", "enable", "oob", "filename"] {
            assert!(
                words.lines().any(|line| line == entry(word).trim_end()),
                "{word}"
            );
        }
        assert_eq!(dictionary("machine_storm").unwrap(), None);
    }
}
