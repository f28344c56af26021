//! Tests that could not run say so where nobody can overlook it.
//!
//! The plain test harness knows no skipped tests: such a test returns early and counts as passed. So every skip
//! is a line on stderr and in the file that `THIMBLE_SKIPS` names, and `cargo xtask test` moves it from the passed
//! to the skipped in its closing line.

use std::fs::OpenOptions;
use std::io::Write;

/// Says that the whole running test is skipped. The caller returns right after.
pub fn skip(reason: &str) {
    record("SKIPPED", reason);
}

/// Says that a part of the running test is skipped, and the rest of it counts as usual.
pub fn skip_part(reason: &str) {
    record("SKIPPED PART", reason);
}

fn record(kind: &str, reason: &str) {
    let thread = std::thread::current();
    let line = format!("{kind}: {}: {reason}\n", thread.name().unwrap_or("test"));
    eprint!("{line}");
    if let Some(path) = std::env::var_os("THIMBLE_SKIPS") {
        let written = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .and_then(|mut file| file.write_all(line.as_bytes()));
        written.expect("THIMBLE_SKIPS can be appended to");
    }
}
