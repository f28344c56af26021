//! Raw mode of the controlling terminal, undone on every way out of the process.
//!
//! The saved settings live in a static, so that they can be put back from `exit` and from signal
//! handlers: fatal signals (a panic ends in SIGABRT), termination signals that nobody handles,
//! SIGTSTP. After SIGCONT raw mode is entered again. SIGKILL and `_exit` are the two ways that
//! nothing can be done about. Specification: termios(3), signal-safety(7).

use std::cell::UnsafeCell;
use std::ffi::c_int;
use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::os::fd::AsFd;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::termios::{ControlModes, OptionalActions};

/// The descriptor whose terminal is switched.
const FD: c_int = libc::STDIN_FILENO;

/// Signals that end a process; those that a user of this module handles itself stay his.
const FATAL: [c_int; 12] = [
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGSEGV,
    libc::SIGSYS,
    libc::SIGTRAP,
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGXCPU,
];

struct Saved {
    cooked: UnsafeCell<MaybeUninit<libc::termios>>,
    raw: UnsafeCell<MaybeUninit<libc::termios>>,
    actions: UnsafeCell<[MaybeUninit<libc::sigaction>; FATAL.len()]>,
}

// SAFETY: the cells are written by `enter_raw` before `RAW` or a handler is published, by one
// thread at a time (see there), and only read while `RAW` is set.
unsafe impl Sync for Saved {}

static SAVED: Saved = Saved {
    cooked: UnsafeCell::new(MaybeUninit::uninit()),
    raw: UnsafeCell::new(MaybeUninit::uninit()),
    actions: UnsafeCell::new([const { MaybeUninit::uninit() }; FATAL.len()]),
};
/// Whether the terminal is in raw mode now.
static RAW: AtomicBool = AtomicBool::new(false);
static HANDLERS: Once = Once::new();

/// Raw mode for as long as this value lives.
#[derive(Debug)]
pub struct RawMode(());

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal on standard input into raw mode: no echo, no line editing, no flow control,
/// eight bits; output is still processed. With `signals` the keys for SIGINT, SIGQUIT and SIGTSTP
/// keep their meaning. `None` if standard input is not a terminal.
///
/// # Errors
/// EBUSY if raw mode is on already; else whatever tcsetattr(3) says.
pub fn enter_raw(signals: bool) -> io::Result<Option<RawMode>> {
    // SAFETY: plain libc calls on a descriptor number; `termios` is valid when zero.
    unsafe {
        if libc::isatty(FD) == 0 {
            return Ok(None);
        }
        let mut cooked: libc::termios = zeroed();
        if libc::tcgetattr(FD, &raw mut cooked) != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut raw = cooked;
        raw.c_iflag &= !(libc::IGNBRK
            | libc::BRKINT
            | libc::PARMRK
            | libc::ISTRIP
            | libc::INLCR
            | libc::IGNCR
            | libc::ICRNL
            | libc::IXON);
        raw.c_oflag |= libc::OPOST;
        raw.c_lflag &= !(libc::ECHO | libc::ECHONL | libc::ICANON | libc::IEXTEN);
        if !signals {
            raw.c_lflag &= !libc::ISIG;
        }
        raw.c_cflag &= !(libc::CSIZE | libc::PARENB);
        raw.c_cflag |= libc::CS8;
        raw.c_cc[libc::VMIN] = 1;
        raw.c_cc[libc::VTIME] = 0;
        if RAW.load(Ordering::Acquire) {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        (*SAVED.cooked.get()).write(cooked);
        (*SAVED.raw.get()).write(raw);
        if RAW.swap(true, Ordering::AcqRel) {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        HANDLERS.call_once(install);
        if libc::tcsetattr(FD, libc::TCSANOW, &raw const raw) != 0 {
            let error = io::Error::last_os_error();
            RAW.store(false, Ordering::Release);
            return Err(error);
        }
    }
    Ok(Some(RawMode(())))
}

/// Puts the terminal back into the mode it had before [`enter_raw`]. Harmless when it is not raw,
/// and safe in signal handlers.
pub fn restore() {
    if RAW.swap(false, Ordering::AcqRel) {
        // SAFETY: `RAW` was set, so the settings have been written.
        unsafe { set_quietly((*SAVED.cooked.get()).as_ptr()) };
    }
}

/// tcsetattr from a background process raises SIGTTOU, which would stop us on the way out.
///
/// # Safety
/// `settings` points to a valid `termios`.
unsafe fn set_quietly(settings: *const libc::termios) {
    // SAFETY: `sigset_t` is valid when zero and initialised by sigemptyset; the rest are plain
    // calls that signal-safety(7) allows in handlers.
    unsafe {
        let mut block: libc::sigset_t = zeroed();
        let mut old: libc::sigset_t = zeroed();
        libc::sigemptyset(&raw mut block);
        libc::sigaddset(&raw mut block, libc::SIGTTOU);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const block, &raw mut old);
        libc::tcsetattr(FD, libc::TCSANOW, settings);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const old, ptr::null_mut());
    }
}

/// Makes a line for bytes of a terminal, if it is one: raw, 115200 bits a second, modem control lines
/// are not looked at. It stays so.
pub fn make_line(fd: impl AsFd) {
    let fd = fd.as_fd();
    if let Ok(mut mode) = rustix::termios::tcgetattr(fd) {
        mode.make_raw();
        mode.control_modes |= ControlModes::CREAD | ControlModes::CLOCAL;
        // A line that has no such speed keeps the one it has.
        let _ = mode.set_speed(115_200);
        let _ = rustix::termios::tcsetattr(fd, OptionalActions::Now, &mode);
    }
}

extern "C" fn at_exit() {
    restore();
}

/// Restores the terminal, then lets the signal do what it did before.
extern "C" fn on_fatal(signal: c_int) {
    restore();
    // SAFETY: `install` wrote the old actions before it installed this handler. The signal is
    // blocked while its handler runs, so the raised one is delivered on return, to the old action.
    unsafe {
        if let Some(index) = FATAL.iter().position(|&fatal| fatal == signal) {
            let old = (*SAVED.actions.get())[index].as_ptr();
            libc::sigaction(signal, old, ptr::null_mut());
        }
        libc::raise(signal);
    }
}

/// SIGTSTP: stops with the terminal restored; SIGCONT: raw mode again.
extern "C" fn on_stop(signal: c_int) {
    if !RAW.load(Ordering::Acquire) {
        if signal == libc::SIGTSTP {
            // SAFETY: a plain call.
            unsafe { libc::raise(libc::SIGSTOP) };
        }
        return;
    }
    // SAFETY: `RAW` is set, so both settings have been written.
    unsafe {
        if signal == libc::SIGTSTP {
            set_quietly((*SAVED.cooked.get()).as_ptr());
            libc::raise(libc::SIGSTOP);
        }
        set_quietly((*SAVED.raw.get()).as_ptr());
    }
}

fn install() {
    // SAFETY: sigaction with a zeroed, then filled structure; the handlers only make calls that
    // signal-safety(7) allows. `Once` makes this the only writer of the old actions.
    unsafe {
        libc::atexit(at_exit);
        for (index, &signal) in FATAL.iter().enumerate() {
            let old = &mut (*SAVED.actions.get())[index];
            old.write(zeroed());
            if libc::sigaction(signal, ptr::null(), old.as_mut_ptr()) != 0 {
                continue;
            }
            // Signals that the main loop takes care of, or that are ignored, are left alone;
            // std's handler for stack overflow is kept behind ours.
            let handled = (*old.as_ptr()).sa_sigaction != libc::SIG_DFL;
            if handled && signal != libc::SIGSEGV && signal != libc::SIGBUS {
                continue;
            }
            act(signal, on_fatal, libc::SA_ONSTACK);
        }
        for signal in [libc::SIGTSTP, libc::SIGCONT] {
            act(signal, on_stop, libc::SA_RESTART);
        }
    }
}

/// # Safety
/// `handler` may be called at any time.
unsafe fn act(signal: c_int, handler: extern "C" fn(c_int), flags: c_int) {
    // SAFETY: a zeroed `sigaction` is valid, and so is the one filled here.
    unsafe {
        let mut action: libc::sigaction = zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = flags;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(signal, &raw const action, ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `child` in a forked process whose standard input is a new pseudo-terminal, and tells
    /// whether the terminal was raw in between and cooked at the end, and how the child ended.
    fn with_terminal(child: fn()) -> (bool, bool, c_int) {
        // SAFETY: plain calls; the child only uses functions that work after fork and leaves
        // through a signal or exit.
        unsafe {
            let (mut master, mut slave) = (0, 0);
            let made = libc::openpty(
                &raw mut master,
                &raw mut slave,
                ptr::null_mut(),
                ptr::null(),
                ptr::null(),
            );
            assert_eq!(made, 0);
            let canonical = || {
                let mut settings: libc::termios = zeroed();
                assert_eq!(libc::tcgetattr(slave, &raw mut settings), 0);
                settings.c_lflag & libc::ICANON != 0
            };
            assert!(canonical());
            let mut pipe = [0; 2];
            assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
            let mut go = [0; 2];
            assert_eq!(libc::pipe(go.as_mut_ptr()), 0);
            let pid = libc::fork();
            if pid == 0 {
                libc::dup2(slave, 0);
                let mode = enter_raw(false);
                let ok = u8::from(matches!(mode, Ok(Some(_))));
                std::mem::forget(mode);
                libc::write(pipe[1], (&raw const ok).cast(), 1);
                let mut byte = 0_u8;
                libc::read(go[0], (&raw mut byte).cast(), 1);
                child();
                libc::_exit(99);
            }
            let mut ok = 0_u8;
            assert_eq!(libc::read(pipe[0], (&raw mut ok).cast(), 1), 1);
            assert_eq!(ok, 1);
            let raw = !canonical();
            libc::write(go[1], (&raw const ok).cast(), 1);
            let mut status = 0;
            assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
            let restored = canonical();
            for fd in [master, slave, pipe[0], pipe[1], go[0], go[1]] {
                libc::close(fd);
            }
            (raw, restored, status)
        }
    }

    #[test]
    fn restores_at_exit_and_on_fatal_signals() {
        // SAFETY: plain calls that end the forked child.
        let ways: [(fn(), c_int); 4] = unsafe_ways();
        for (index, (way, expected)) in ways.into_iter().enumerate() {
            let (raw, restored, status) = with_terminal(way);
            assert!(raw, "way {index}");
            assert!(restored, "way {index}");
            assert_eq!(status & 0xff7f, expected, "way {index}");
        }
    }

    fn unsafe_ways() -> [(fn(), c_int); 4] {
        [
            // SAFETY: ends the forked child.
            (|| unsafe { libc::exit(3) }, 3 << 8),
            // SAFETY: as above.
            (|| unsafe { libc::abort() }, libc::SIGABRT),
            (
                || {
                    // SAFETY: as above.
                    unsafe { libc::raise(libc::SIGTERM) };
                },
                libc::SIGTERM,
            ),
            (
                || {
                    // SAFETY: as above.
                    unsafe { libc::raise(libc::SIGILL) };
                },
                libc::SIGILL,
            ),
        ]
    }
}
