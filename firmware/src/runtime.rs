//! What every image with Rust in it links once, besides its start-up assembly: the panic handler and the memory functions
//! that the compiler calls. Included by each image as a module, because a library would drag it into host tests.

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    use core::fmt::Write as _;
    let line = info.location().map_or(0, |location| location.line());
    let _ = writeln!(thimble_firmware::console::Console, "panic at line {line}");
    thimble_firmware::power::end(0x7f)
}

/// Where assembly goes in ring 3 when an exception comes that nobody waits for.
#[unsafe(no_mangle)]
extern "C" fn image_trap() -> ! {
    use core::fmt::Write as _;
    let trap = thimble_firmware::trap::last();
    let _ = writeln!(thimble_firmware::console::Console, "unexpected exception {trap}");
    thimble_firmware::power::end(0x7e)
}

/// # Safety
/// C's contract.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller's ranges are valid; the direction flag is clear by the ABI.
    unsafe {
        core::arch::asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") count => _);
    }
    to
}

/// # Safety
/// C's contract.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= count {
        // SAFETY: a forward copy is right for these ranges.
        return unsafe { memcpy(to, from, count) };
    }
    // SAFETY: as for memcpy, backwards from the last byte; the flag is put back.
    unsafe {
        core::arch::asm!("std", "rep movsb", "cld",
            inout("rdi") to.add(count).wrapping_sub(1) => _,
            inout("rsi") from.add(count).wrapping_sub(1) => _,
            inout("rcx") count => _);
    }
    to
}

/// # Safety
/// C's contract.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
    // SAFETY: the caller's range is valid.
    unsafe {
        core::arch::asm!("rep stosb", inout("rdi") to => _, in("al") value as u8, inout("rcx") count => _);
    }
    to
}

/// # Safety
/// C's contract.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    for at in 0..count {
        // SAFETY: within the caller's ranges; volatile, so that this loop is not turned into a call to itself.
        let (x, y) = unsafe { (a.add(at).read_volatile(), b.add(at).read_volatile()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
    }
    0
}

/// # Safety
/// C's contract.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(a, b, count) }
}
