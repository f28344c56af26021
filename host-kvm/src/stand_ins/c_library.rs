//! Stand-ins for glibc's streams, locales, name resolution and dynamic loader, 0.45 MB together.
//!
//! Start-up, threads and the allocator name them for uses that this program does not make of them: `malloc_stats`
//! prints, a thread that ends frees what resolving names has left, an assertion's text is translated.
//!
//! Source of the names: glibc 2.36; they are its interface between members, not a public one.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr;

unsafe extern "C" {
    /// The text of an error number, untranslated; null for an unknown one.
    fn strerrordesc_np(number: c_int) -> *const c_char;
    /// Fork without handlers and streams' locks.
    fn _Fork() -> libc::pid_t;
}

/// An assertion of the C library has failed.
#[unsafe(no_mangle)]
extern "C" fn __assert_fail(text: *const c_char) -> ! {
    // SAFETY: the caller hands in a C string, which is written as it is.
    unsafe {
        libc::write(2, text.cast(), libc::strlen(text));
        libc::abort()
    }
}

/// The text of an error number, as the standard library asks for it (POSIX, strerror_r).
#[unsafe(no_mangle)]
extern "C" fn __xpg_strerror_r(number: c_int, to: *mut c_char, size: usize) -> c_int {
    // SAFETY: the description is a constant string; `to` has `size` bytes.
    unsafe {
        let text = match strerrordesc_np(number) {
            text if text.is_null() => c"Unknown error",
            text => CStr::from_ptr(text),
        };
        let bytes = text.to_bytes_with_nul();
        if bytes.len() > size {
            return libc::ERANGE;
        }
        ptr::copy_nonoverlapping(bytes.as_ptr().cast(), to, bytes.len());
    }
    0
}

/// There are no shared objects: the standard library then makes the system call itself.
#[unsafe(no_mangle)]
extern "C" fn dlsym(_handle: *mut c_void, _name: *const c_char) -> *mut c_void {
    ptr::null_mut()
}

/// Where the stack lies is asked only to say that it has overflowed, which a guard page ends in any case.
#[unsafe(no_mangle)]
extern "C" fn pthread_getattr_np(_thread: libc::pthread_t, _to: *mut c_void) -> c_int {
    libc::ENOSYS
}

/// Threads name themselves only.
#[unsafe(no_mangle)]
extern "C" fn pthread_setname_np(_thread: libc::pthread_t, name: *const c_char) -> c_int {
    // SAFETY: the caller hands in a C string.
    unsafe { libc::prctl(libc::PR_SET_NAME, name) }
}

/// There are no streams that could be locked.
#[unsafe(no_mangle)]
extern "C" fn fork() -> libc::pid_t {
    // SAFETY: as `fork`.
    unsafe { _Fork() }
}

/// Makes the tables that start-up has relocated read-only.
#[unsafe(no_mangle)]
extern "C" fn _dl_protect_relro(_of: *const c_void) {
    // SAFETY: the kernel tells where the program's headers are, which stay mapped and unchanged.
    unsafe {
        let headers = libc::getauxval(libc::AT_PHDR) as *const libc::Elf64_Phdr;
        let count = libc::getauxval(libc::AT_PHNUM) as usize;
        for header in core::slice::from_raw_parts(headers, count) {
            if header.p_type == libc::PT_GNU_RELRO {
                let end = (header.p_vaddr + header.p_memsz) & !0xfff;
                let start = header.p_vaddr & !0xfff;
                libc::mprotect(
                    start as *mut c_void,
                    (end - start) as usize,
                    libc::PROT_READ,
                );
            }
        }
    }
}

/// Streams never need locks, nor resolving names any clean-up.
macro_rules! nothing_to_do {
    ($($name:ident)+) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name() -> c_int {
            0
        }
    )+};
}

nothing_to_do! {
    _IO_enable_locks
    __ctype_init
    __malloc_default_thp_pagesize
    __malloc_hugepage_config
    __malloc_thp_mode
    __res_iclose
    __res_randomid
    __res_thread_freeres
    __res_vinit
    _dl_init_paths
}

never_called! {
    _IO_fputs
    __assert_perror_fail
    __nptl_change_stack_perm
    __strerror_r
    _dl_make_stack_executable
    fprintf
    fputs
    fwrite
}

/// Streams, named by what prints statistics, and how the locale "C" converts wide characters.
macro_rules! never_read {
    ($($name:ident)+) => {$(
        #[unsafe(no_mangle)]
        #[allow(non_upper_case_globals)]
        static $name: [usize; 8] = [0; 8];
    )+};
}

never_read! {
    __wcsmbs_gconv_fcts_c
    stderr
    stdout
}
