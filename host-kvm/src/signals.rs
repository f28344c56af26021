//! Which signals threads take.

/// While it lives, threads are born with signals blocked: signals are the main thread's.
pub(crate) struct Blocked(libc::sigset_t);

impl Blocked {
    /// Every signal.
    pub(crate) fn all() -> Self {
        Self::all_but(&[])
    }

    /// Every signal but these.
    pub(crate) fn all_but(open: &[libc::c_int]) -> Self {
        // SAFETY: the sets are initialised by the calls before they are used.
        unsafe {
            let mut mask: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut mask);
            for signal in open {
                libc::sigdelset(&mut mask, *signal);
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &mask, &mut before);
            Self(before)
        }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: the set was filled in by the call above.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
    }
}
