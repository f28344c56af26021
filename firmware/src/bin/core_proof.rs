//! The core on bare metal: a kernel that plays recorded sessions to a machine and a monitor, and prints what they answer.
//!
//! There is no operating system, no std and no allocator in it. First it prints what its loader told it. Output goes to the debug port
//! only, a line at a time.
#![no_std]
#![no_main]

use core::fmt::{self, Write};

use thimble_firmware::console::DEBUG_PORT;
use thimble_firmware::replay::{Memory, replay};
use thimble_firmware::start_info::{COMMAND_LINE_MAX, StartInfo};
use thimble_firmware::{io, power};

thimble_firmware::kernel!(main);

static mut MEMORY: Memory = Memory::new();

/// The debug port, written to in pieces as large as they come: each costs one way out of the guest.
struct Output(heapless::Vec<u8, 512>);

impl Output {
    fn flush(&mut self) {
        io::outsb(DEBUG_PORT, &self.0);
        self.0.clear();
    }
}

impl fmt::Write for Output {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.0.is_full() {
                self.flush();
            }
            let _ = self.0.push(byte);
        }
        if text.ends_with('\n') {
            self.flush();
        }
        Ok(())
    }
}

/// Prints what the loader told, and returns whether the replay is wanted: a command line that starts with `tell` asks for
/// nothing more.
fn tell(info: StartInfo, out: &mut Output) -> Result<bool, fmt::Error> {
    let mut buffer = [0; COMMAND_LINE_MAX];
    let line = info.command_line(&mut buffer);
    writeln!(out, "start information: {}", info.is_valid())?;
    writeln!(out, "command line: {}", line.escape_ascii())?;
    match info.initrd() {
        Some((size, sum)) => writeln!(out, "initrd: {size} bytes, sum {sum:#x}")?,
        None => writeln!(out, "initrd: none")?,
    }
    Ok(!line.starts_with(b"tell"))
}

fn main(info: StartInfo) -> ! {
    let mut out = Output(heapless::Vec::new());
    let memory = &raw mut MEMORY;
    // SAFETY: there is one processor and this function, which runs once.
    let memory = unsafe { &mut *memory };
    let outcome = tell(info, &mut out).and_then(|wanted| match wanted {
        true => replay(memory, &mut out),
        false => Ok(()),
    });
    out.flush();
    power::end(match outcome {
        Ok(()) => power::DONE,
        Err(fmt::Error) => 0x7d,
    })
}
