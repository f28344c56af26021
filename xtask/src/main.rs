//! The project's tasks: `cargo xtask run | test | images | dist | size | bench | fuzz | sabotage | lockstep`.

mod bench;
mod build;
mod dist;
mod fuzz;
mod images;
mod lockstep;
mod sabotage;
mod size;
mod suites;
mod test;

use std::process::{Command, ExitCode};

/// What a task ends with: nothing, or a sentence for the user.
type Outcome = Result<(), String>;

const USAGE: &str = "\
usage: cargo xtask TASK
  run [-- ARGS]              builds everything and boots the demo image, or runs thimble with ARGS
  test [--long]              runs every test; the last line counts passed, failed and skipped
  images                     builds the firmware images into target/firmware
  dist                       builds the smallest static binary into target/dist
  size                       what takes the bytes of that binary, a crate a line
  bench [--runs N] [--only NAME] [--binary FILE]
                             measures it, or FILE, against QEMU, and prints a table
  fuzz TARGET [--seconds N]  runs one fuzz target
  fuzz TARGET --self-test    plants a panic in it, which the fuzzer must find
  sabotage                   checks that the QMP tests notice each command that does nothing
  lockstep [OPTIONS]         runs every form of every instruction on the processor and on the software CPU, and
                             compares; --help lists the options";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args.as_slice() {
        ["run"] => run(&[]),
        ["run", "--", rest @ ..] => run(rest),
        ["test"] => test::all(false),
        ["test", "--long"] => test::all(true),
        ["images"] => images::build_all().map(drop),
        ["dist"] => dist::dist(),
        ["size"] => size::size(),
        ["bench", rest @ ..] => bench::bench(rest),
        ["fuzz", target] => fuzz::one(target, 60),
        ["fuzz", target, "--self-test"] => fuzz::self_test(target),
        ["fuzz", target, "--seconds", seconds] => match seconds.parse() {
            Ok(seconds) => fuzz::one(target, seconds),
            Err(_) => Err(format!("--seconds: '{seconds}' is no number")),
        },
        ["sabotage"] => sabotage::all(),
        ["lockstep", rest @ ..] => lockstep::lockstep(rest),
        _ => Err(USAGE.to_string()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("{sentence}");
            ExitCode::FAILURE
        }
    }
}

/// Builds, then runs thimble on this terminal, and ends with its exit status.
fn run(args: &[&str]) -> Outcome {
    build::cargo(&["build", "-q", "--release", "--locked"])?;
    let demo = ["-bios", "demo.rom", "-nographic", "-no-reboot"];
    let mut command = Command::new(build::thimble());
    command.args(if args.is_empty() { &demo } else { args });
    let status = command
        .status()
        .map_err(|error| format!("{command:?}: {error}"))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => std::process::exit(code),
        None => Err(format!("thimble: {status}")),
    }
}
