//! What the process says on stderr: one line behind its name, and behind the time and the guest's
//! name where `-msg` asks for them.

use std::fmt;
use std::sync::OnceLock;

use thimble_core::time::calendar::date_from_days;

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
    let minutes = since.as_secs() / 60;
    let (year, month, day) = date_from_days((minutes / (24 * 60)) as i64);
    let (hour, minute, second) = (minutes / 60 % 24, minutes % 60, since.as_secs() % 60);
    let micros = since.subsec_micros();
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z ")
}
