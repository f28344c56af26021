//! A signal a few times a second, so that a case that never ends is noticed: it interrupts KVM_RUN and native code.

use std::io;
use std::{mem, ptr};

/// A case is begun so many times before it is taken for endless.
pub(crate) const ATTEMPTS: u32 = 3;

/// Between alarms.
const INTERVAL_MICROSECONDS: libc::suseconds_t = 20_000;

extern "C" fn ignore(_signal: libc::c_int) {}

/// Starts the clock. The handler does nothing until someone puts another in its place.
pub(crate) fn start() -> Result<(), String> {
    // SAFETY: `sigaction` is plain data for which zero is valid.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = ignore as extern "C" fn(libc::c_int) as usize;
    let interval = libc::timeval {
        tv_sec: 0,
        tv_usec: INTERVAL_MICROSECONDS,
    };
    let timer = libc::itimerval {
        it_interval: interval,
        it_value: interval,
    };
    // SAFETY: both structures are whole, and the handler does nothing.
    let done = unsafe {
        libc::sigaction(libc::SIGALRM, &action, ptr::null_mut()) == 0
            && libc::setitimer(libc::ITIMER_REAL, &timer, ptr::null_mut()) == 0
    };
    match done {
        true => Ok(()),
        false => Err(format!("the alarm: {}", io::Error::last_os_error())),
    }
}
