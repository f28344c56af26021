//! What unit tests of points share: the lines that a call causes.

use std::cell::RefCell;
use std::string::String;
use std::sync::{Mutex, PoisonError};
use std::vec::Vec;

use super::events::Event;
use super::{Sink, install, matches};

std::thread_local! {
    /// Lines of this thread: others' tests go through the same points.
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

static COLLECTOR: Sink = Sink(|line| {
    let line = String::from_utf8_lossy(line).into_owned();
    LINES.with_borrow_mut(|lines| lines.push(line));
});

/// Events are switched for the whole process: one test at a time does.
static SWITCHES: Mutex<()> = Mutex::new(());

/// The lines that `call` causes on this thread while the events of a pattern are on.
pub(crate) fn traced(pattern: &str, call: impl FnOnce()) -> Vec<String> {
    let switched = SWITCHES.lock().unwrap_or_else(PoisonError::into_inner);
    install(&COLLECTOR);
    let wanted = |event: &Event| matches(pattern.as_bytes(), event.name().as_bytes());
    LINES.take();
    Event::all()
        .filter(wanted)
        .for_each(|event| event.set(true));
    call();
    Event::all().for_each(|event| event.set(false));
    drop(switched);
    LINES.take()
}
