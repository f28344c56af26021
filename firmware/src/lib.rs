//! What images share: port I/O, the console, fw_cfg, a driver of virtio disks, exceptions, and ways to end.
//!
//! Images with Rust run it in ring 3 of long mode with IOPL 3, over an identity map of the low 4 GiB. Ring 0 is
//! assembly (`asm/ring0.s`), reached by exceptions and by the service calls in [`trap`].
#![no_std]

pub mod console;
pub mod fw_cfg;
pub mod io;
pub mod power;
#[cfg(feature = "core-proof")]
pub mod replay;
pub mod start_info;
pub mod trap;
pub mod virtio_disk;

/// Makes a function the main function of a ROM: `image!(main)`.
#[macro_export]
macro_rules! image {
    ($main:path) => {
        #[path = "../runtime.rs"]
        mod runtime;

        core::arch::global_asm!(
            ".set CODE_BASE, 0xF0000; .set TABLES, 0",
            include_str!("../asm/ring0.s"),
            include_str!("../asm/start.s"),
            // The compiler puts functions in assembly behind this.
            ".code64",
            options(att_syntax)
        );

        #[unsafe(no_mangle)]
        extern "C" fn image_main() -> ! {
            let main: fn() -> ! = $main;
            main()
        }
    };
}

/// Makes a function the main function of a kernel that is entered by PVH: `kernel!(main)`. It gets what the loader tells.
#[macro_export]
macro_rules! kernel {
    ($main:path) => {
        #[path = "../runtime.rs"]
        mod runtime;

        core::arch::global_asm!(
            ".set CODE_BASE, 0x110000; .set TABLES, 0x100000",
            include_str!("../asm/ring0.s"),
            include_str!("../asm/pvh.s"),
            // The compiler puts functions in assembly behind this.
            ".code64",
            options(att_syntax)
        );

        #[unsafe(no_mangle)]
        extern "C" fn image_main(start_info: u64) -> ! {
            let main: fn($crate::start_info::StartInfo) -> ! = $main;
            // SAFETY: the entry hands over the address that PVH's loader gave.
            main(unsafe { $crate::start_info::StartInfo::at(start_info) })
        }
    };
}

/// Makes an image of assembly alone, of files in `asm/`, with a symbol set before them or not:
/// `assembly!(".set TICKS, 1"; "bare.s", "idle.s")`.
#[macro_export]
macro_rules! assembly {
    ($($file:literal),+) => {
        $crate::assembly!(""; $($file),+);
    };
    ($setting:literal; $($file:literal),+) => {
        core::arch::global_asm!(
            $setting,
            $(include_str!(concat!("../asm/", $file)),)+
            options(att_syntax)
        );

        /// Never called: there is no Rust code in this image.
        #[panic_handler]
        fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
            loop {}
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
