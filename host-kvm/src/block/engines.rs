//! Who moves the bytes of files: the kernel on its own, or threads that wait for it.
//!
//! There are three ways, by the values of `aio=`, and all come into being with the first request that needs them and go when there was
//! none for a while. What one of the kernel's ways does not do at a time, threads do.

use rustix::io::Errno;
use thimble_monitor::schema::BlockdevAioOptions;

use super::executor::Pool;
use super::file::errno_text;
use super::native::{self, Native};
use super::node::Refusal;
use super::transfer::{Kind, Transfer};
use super::uring::{self, Uring};

/// The ways of a graph. All copies are the same.
#[derive(Clone, Default)]
pub struct Engines {
    /// Threads, for this and other work.
    pub pool: Pool,
    uring: Uring,
    native: Native,
}

impl Engines {
    /// Does a request as `aio=` says.
    pub fn start(&self, aio: Option<BlockdevAioOptions>, transfer: Box<Transfer>) {
        match (aio, transfer.kind()) {
            (Some(BlockdevAioOptions::IoUring), _) => {
                self.uring.start(transfer, &self.pool);
            }
            (Some(BlockdevAioOptions::Native), Kind::Read | Kind::Write) => {
                self.native.start(transfer, &self.pool);
            }
            (Some(BlockdevAioOptions::Native | BlockdevAioOptions::Threads) | None, _) => {
                wait_for(transfer, &self.pool);
            }
        }
    }
}

/// Lets a thread do a request.
pub(super) fn wait_for(transfer: Box<Transfer>, pool: &Pool) {
    pool.start(Box::new(move || transfer.perform()));
}

/// Whether the kernel was only not ready to do a request on its own, and a thread can.
pub(super) fn is_refused(result: i64) -> bool {
    let errors = [Errno::AGAIN, Errno::INTR, Errno::CANCELED];
    errors
        .iter()
        .any(|error| result == -i64::from(error.raw_os_error()))
}

/// Tries what was asked for.
///
/// # Errors
/// If the kernel hasn't got it, in QEMU's words.
pub fn check(aio: Option<BlockdevAioOptions>, direct: bool) -> Result<(), Refusal> {
    let (way, what, result) = match aio {
        Some(BlockdevAioOptions::Native) if !direct => {
            return Err(
                "aio=native was specified, but it requires cache.direct=on, which was not specified."
                    .to_owned(),
            );
        }
        Some(BlockdevAioOptions::Native) => (
            "native AIO",
            "failed to create linux AIO context",
            native::check(),
        ),
        Some(BlockdevAioOptions::IoUring) => (
            "io_uring",
            "failed to init linux io_uring ring",
            uring::check(),
        ),
        Some(BlockdevAioOptions::Threads) | None => return Ok(()),
    };
    result.map_err(|error| format!("Unable to use {way}: {what}: {}", errno_text(error)))
}
