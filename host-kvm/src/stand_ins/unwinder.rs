//! Stand-ins for the unwinder, which nothing here runs and which would bring 0.2 MB with it.
//!
//! The binary has no unwind tables (see `.cargo/rustc-static`) and panics abort, so there is nothing to
//! walk. And as [`_Unwind_Backtrace`] is seen to call nothing back, the linker drops the standard library's
//! readers of debug information, compression and mangled names. A panic's message and place stay.
//!
//! Source of the names: Itanium C++ ABI, Exception Handling, section 1.

use core::ffi::{c_int, c_void};

/// `_URC_END_OF_STACK`.
const END_OF_STACK: c_int = 5;

/// No frame is known.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Backtrace(_trace: *const c_void, _argument: *mut c_void) -> c_int {
    END_OF_STACK
}

// What could be asked of a frame or of an exception under way: there is none.
never_called! {
    _Unwind_DeleteException
    _Unwind_FindEnclosingFunction
    _Unwind_ForcedUnwind
    _Unwind_GetCFA
    _Unwind_GetDataRelBase
    _Unwind_GetIP
    _Unwind_GetIPInfo
    _Unwind_GetLanguageSpecificData
    _Unwind_GetRegionStart
    _Unwind_GetTextRelBase
    _Unwind_RaiseException
    _Unwind_Resume
    _Unwind_SetGR
    _Unwind_SetIP
}
