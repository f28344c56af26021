//! What images share: port I/O, the console, fw_cfg, exceptions, ways to end, and the loader of kernel files.
//!
//! Images run their Rust in ring 3 of long mode with IOPL 3, over an identity map of the low 4 GiB. Ring 0 is
//! assembly (`asm/start.s`), reached by exceptions and by the service calls in [`trap`].
#![no_std]

pub mod console;
pub mod fw_cfg;
pub mod io;
pub mod loader;
pub mod power;
pub mod trap;

/// Makes a function the image's main function: `image!(main)`.
#[macro_export]
macro_rules! image {
    ($main:path) => {
        #[path = "../runtime.rs"]
        mod runtime;

        #[unsafe(no_mangle)]
        extern "C" fn image_main() -> ! {
            let main: fn() -> ! = $main;
            main()
        }
    };
}

/// Prints a line on the debug port and the serial port.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => {{
        use core::fmt::Write as _;
        let _ = writeln!($crate::console::Console, $($argument)*);
    }};
}
