//! Stand-ins for glibc's string functions that only start-up, `realpath` and the allocator's settings call.
//!
//! glibc brings each in up to eight forms, one for every generation of vector instructions: 60 KB for
//! strings of a few bytes. Copies, comparisons and searches of memory stay glibc's, as does `strlen`.
//!
//! Source: ISO C23, section 7.26 (and 7.24.1.7 for [`strtoul`]); POSIX for `stpcpy` and `strnlen`; glibc's manual
//! for `strchrnul` and `rawmemchr`.

use core::ffi::{c_char, c_int, c_long, c_ulong};
use core::ptr;

// SAFETY, in all of this file: callers are the C library's own; they hand in C strings, and room for what is copied.

/// Bytes of a string up to and without its NUL, by address.
unsafe fn bytes(text: *const c_char) -> impl Iterator<Item = *const c_char> {
    (0..)
        .map(move |at| text.wrapping_add(at))
        .take_while(|&at| unsafe { *at } != 0)
}

unsafe fn compare(a: *const c_char, b: *const c_char, most: usize) -> c_int {
    for at in 0..most {
        let (a, b) = unsafe { (*a.add(at) as u8, *b.add(at) as u8) };
        if a != b || a == 0 {
            return c_int::from(a) - c_int::from(b);
        }
    }
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn strcmp(a: *const c_char, b: *const c_char) -> c_int {
    unsafe { compare(a, b, usize::MAX) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn strncmp(a: *const c_char, b: *const c_char, most: usize) -> c_int {
    unsafe { compare(a, b, most) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn __strnlen(text: *const c_char, most: usize) -> usize {
    unsafe { bytes(text).take(most).count() }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn __stpcpy(to: *mut c_char, from: *const c_char) -> *mut c_char {
    unsafe {
        let length = libc::strlen(from);
        ptr::copy_nonoverlapping(from, to, length + 1);
        to.add(length)
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn strcpy(to: *mut c_char, from: *const c_char) -> *mut c_char {
    unsafe { __stpcpy(to, from) };
    to
}

/// Where a character stands, or else the NUL.
#[unsafe(no_mangle)]
unsafe extern "C" fn __strchrnul(text: *const c_char, wanted: c_int) -> *const c_char {
    unsafe {
        bytes(text)
            .find(|&at| *at == wanted as c_char)
            .unwrap_or_else(|| text.add(libc::strlen(text)))
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn strchr(text: *const c_char, wanted: c_int) -> *const c_char {
    let at = unsafe { __strchrnul(text, wanted) };
    if unsafe { *at } == wanted as c_char {
        at
    } else {
        ptr::null()
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn strrchr(text: *const c_char, wanted: c_int) -> *const c_char {
    let end = unsafe { text.add(libc::strlen(text)) };
    if wanted == 0 {
        return end;
    }
    unsafe { bytes(text).filter(|&at| *at == wanted as c_char).last() }.unwrap_or(ptr::null())
}

/// Where a byte stands that is known to be there.
#[unsafe(no_mangle)]
unsafe extern "C" fn __rawmemchr(from: *const c_char, wanted: c_int) -> *const c_char {
    let mut at = from;
    while unsafe { *at } != wanted as c_char {
        at = at.wrapping_add(1);
    }
    at
}

/// Reads decimal digits; what asks for numbers here counts processors.
#[unsafe(no_mangle)]
unsafe extern "C" fn strtoul(
    text: *const c_char,
    end: *mut *const c_char,
    _base: c_int,
) -> c_ulong {
    let mut value: c_ulong = 0;
    let mut at = text;
    while let digit @ b'0'..=b'9' = unsafe { *at } as u8 {
        value = value
            .saturating_mul(10)
            .saturating_add(c_ulong::from(digit - b'0'));
        at = at.wrapping_add(1);
    }
    if !end.is_null() {
        unsafe { *end = at };
    }
    value
}

/// As [`strtoul`]: no number here has a sign.
#[unsafe(no_mangle)]
unsafe extern "C" fn strtol(text: *const c_char, end: *mut *const c_char, base: c_int) -> c_long {
    unsafe { strtoul(text, end, base) as c_long }
}
