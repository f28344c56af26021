//! Stand-ins for parts of the C library and of the unwinder that the static binary names but never uses.
//!
//! A static library is linked member by member, for names that are not there yet. What is defined here is there, so
//! the members that have the real ones stay out, with everything that those name in turn: a third of the binary. Should a
//! C library be divided in another way, the linker takes the first definition (`-z muldefs`, see `.cargo/rustc-static`): then
//! the binary is larger, and works as well.

/// Functions that are named, but that nothing here comes to call.
macro_rules! never_called {
    ($($name:ident)+) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name() -> usize {
            // SAFETY: always allowed.
            unsafe { libc::abort() }
        }
    )+};
}

mod c_library;
mod strings;
mod unwinder;
