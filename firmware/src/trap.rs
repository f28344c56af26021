//! Exceptions, interrupts and the service calls of the ring-0 assembly.

use core::arch::asm;
use core::fmt;

/// An exception as the processor gave it.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Trap {
    /// Vector, below 32.
    pub vector: u64,
    /// Error code, 0 for a vector without one.
    pub error: u64,
    /// CR2, which only a page fault changes.
    pub cr2: u64,
    /// The saved instruction pointer.
    pub rip: u64,
    /// The saved flags.
    pub rflags: u64,
}

impl fmt::Display for Trap {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        write!(
            to,
            "vector {} error {:#x} cr2 {:#x} rip {:#x}",
            self.vector, self.error, self.cr2, self.rip
        )
    }
}

/// What makes `ud2` a service call (`asm/start.s`).
const SERVICE_MARK: u64 = 0x6372_7673;

unsafe extern "C" {
    static mut trap_record: Trap;
    static mut trap_counts: [u32; 48];
}

/// The last exception.
pub fn last() -> Trap {
    // SAFETY: written by assembly only while this code is interrupted.
    unsafe { (&raw const trap_record).read_volatile() }
}

/// The vector of [`last`] when none came since [`forget`].
pub const NONE: u64 = 255;

/// Forgets the last exception.
pub fn forget() {
    // SAFETY: read by assembly never, and by this code only through `last`.
    unsafe {
        (&raw mut trap_record).write_volatile(Trap {
            vector: NONE,
            ..Trap::default()
        })
    };
}

/// How often a vector below 48 has been taken.
pub fn count(vector: usize) -> u32 {
    if vector >= 48 {
        return 0;
    }
    // SAFETY: in bounds; written by assembly only.
    unsafe { (&raw const trap_counts[vector]).read_volatile() }
}

/// Lets interrupts in and halts until one came. Interrupts are off again afterwards.
pub fn wait() {
    // SAFETY: service 0 changes no register.
    unsafe { asm!("ud2", in("r11") SERVICE_MARK, in("eax") 0) };
}

/// Reads a model-specific register; one that does not exist faults in ring 0.
pub fn read_msr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: service 2 changes eax and edx only.
    unsafe {
        asm!("ud2", in("r11") SERVICE_MARK, inout("eax") 2 => low, in("ecx") register, out("edx") high)
    };
    u64::from(high) << 32 | u64::from(low)
}

/// Makes the processor shut down.
pub fn triple_fault() -> ! {
    // SAFETY: service 3 does not return.
    unsafe { asm!("ud2", in("r11") SERVICE_MARK, in("eax") 3, options(noreturn)) }
}

/// Lets interrupts in, until the next one: its handler counts it and leaves them off.
pub fn enable_interrupts() {
    // SAFETY: the handlers are in place from the start; service 4 changes no register.
    unsafe { asm!("ud2", in("r11") SERVICE_MARK, in("eax") 4) };
}

/// Keeps interrupts out.
pub fn disable_interrupts() {
    // SAFETY: service 5 changes the flag only.
    unsafe { asm!("ud2", in("r11") SERVICE_MARK, in("eax") 5) };
}
