//! What the process says on stderr: one line behind its name, and behind the time and the guest's
//! name where `-msg` asks for them.

use std::fmt;
use std::sync::OnceLock;

use crate::options::Options;
use crate::vm::since_epoch;

struct Style {
    timestamp: bool,
    guest_name: Option<String>,
}

static STYLE: OnceLock<Style> = OnceLock::new();

/// Sets what `-msg` asks for. The first call counts.
pub fn configure(options: &Options) {
    let guest_name = options.name.clone().filter(|_| options.msg_guest_name);
    let _ = STYLE.set(Style {
        timestamp: options.msg_timestamp,
        guest_name,
    });
}

/// Whether `-msg timestamp=on` was given.
pub fn has_timestamps() -> bool {
    STYLE.get().is_some_and(|style| style.timestamp)
}

/// Prints a line for the user.
pub fn report(message: fmt::Arguments<'_>) {
    let mut prefix = String::new();
    if let Some(style) = STYLE.get() {
        if style.timestamp {
            prefix = timestamp();
        }
        if let Some(name) = &style.guest_name {
            prefix = format!("{prefix}{name} ");
        }
    }
    eprintln!("{prefix}thimble: {message}");
}

/// The time in UTC, as ISO 8601 has it, and a space.
fn timestamp() -> String {
    let since = since_epoch();
    let seconds = since.as_secs() as libc::time_t;
    // SAFETY: the structure is plain data that the call fills in from `seconds`.
    let utc = unsafe {
        let mut utc: libc::tm = std::mem::zeroed();
        libc::gmtime_r(&seconds, &mut utc);
        utc
    };
    let (year, month, day) = (utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday);
    let (hour, minute, second) = (utc.tm_hour, utc.tm_min, utc.tm_sec);
    let micros = since.subsec_micros();
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z ")
}
