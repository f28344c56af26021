//! Trace lines on their way out: `-trace`, `-d trace:`, and what switches events while the VM runs.
//!
//! Lines go where the log goes: to standard error, or to the file that `-D` or `-trace file=` names. With `-msg timestamp=on` the
//! process number and the time stand before each.

use std::fs;

use thimble_core::machine::RunState;
use thimble_core::trace::events::{self, Event};
use thimble_core::trace::{Sink, install};
use thimble_monitor::trace;

use crate::log::{self, output};
use crate::messages;
use crate::options::{OptionError, Options};
use crate::vm::since_epoch;
use crate::{error_text, report};

static PLAIN: Sink = Sink(|line| output().offer(&[line]));

static STAMPED: Sink = Sink(|line| {
    let since = since_epoch();
    let (seconds, micros) = (since.as_secs(), since.subsec_micros());
    let stamp = format!("{}@{seconds}.{micros:06}:", std::process::id());
    output().offer(&[stamp.as_bytes(), line]);
});

/// Names the file of log and traces, and switches on what the command line asks for. Before anything that may be traced, and once
/// the process is in the background, if it is to be: threads would not get there.
///
/// # Errors
/// If a file can't be had.
pub fn start(options: &Options) -> Result<(), OptionError> {
    install(if messages::has_timestamps() {
        &STAMPED
    } else {
        &PLAIN
    });
    let (path, origin) = match (&options.log_file, &options.trace.file) {
        (Some(log), Some(trace)) if log != trace => {
            return Err(OptionError::new(
                &format!("-trace file={trace}"),
                &format!("log and traces go to one file, which is '{log}' by -D"),
            ));
        }
        (Some(log), _) => (Some(log), format!("-D {log}")),
        (None, Some(trace)) => (Some(trace), format!("-trace file={trace}")),
        (None, None) => (None, String::new()),
    };
    if let Some(path) = path {
        let path = log::file_name(path, std::process::id()).ok_or_else(|| {
            OptionError::new(
                &origin,
                "its name has a % other than one %d, the process number",
            )
        })?;
        log::open_file(&path).map_err(|error| OptionError::new(&origin, &error_text(&error)))?;
    }
    for pattern in &options.log.events {
        switch(pattern);
    }
    for pattern in &options.trace.patterns {
        if switch(pattern) == 0 && !is_pattern(pattern) {
            report(format_args!(
                "warning: -trace {pattern}: trace event '{pattern}' does not exist"
            ));
        }
    }
    for file in &options.trace.events {
        let text = fs::read_to_string(file).map_err(|error| {
            OptionError::new(&format!("-trace events={file}"), &error_text(&error))
        })?;
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let pattern = line.strip_prefix('-').unwrap_or(line);
            if switch(line) == 0 && !is_pattern(pattern) {
                report(format_args!(
                    "warning: {file}:{number}: trace event '{pattern}' does not exist"
                ));
            }
        }
    }
    Ok(())
}

/// Switches events on, or off if the pattern begins with `-`; tells how many they are.
pub fn switch(pattern: &str) -> usize {
    match pattern.strip_prefix('-') {
        Some(pattern) => trace::set(pattern.as_bytes(), false),
        None => trace::set(pattern.as_bytes(), true),
    }
}

fn is_pattern(text: &str) -> bool {
    text.contains('*')
}

/// The text of `-trace help`: the name of each event.
pub fn help() -> String {
    let mut text = String::new();
    trace::visit(b"*", |_, name| {
        text.push_str(name);
        text.push('\n');
    });
    text
}

/// The states of a VM in QMP's order, which is the order of the numbers in QEMU's log.
const STATES: [&str; 16] = [
    "debug",
    "inmigrate",
    "internal-error",
    "io-error",
    "paused",
    "postmigrate",
    "prelaunch",
    "finish-migrate",
    "restore-vm",
    "running",
    "save-vm",
    "shutdown",
    "suspended",
    "watchdog",
    "guest-panicked",
    "colo",
];

fn number(state: RunState) -> u32 {
    let at = STATES.iter().position(|name| *name == state.name());
    at.unwrap_or(STATES.len()) as u32
}

/// The VM is to do something else from now on.
pub fn run_state(old: RunState, new: RunState) {
    if Event::runstate_set.is_on() {
        let (before, after) = (old.name().as_bytes(), new.name().as_bytes());
        events::runstate_set(number(old), number(new), before, after);
    }
    let runs = new == RunState::Running;
    if runs != (old == RunState::Running) {
        events::vm_state_notify(runs, number(new), new.name().as_bytes());
    }
}
