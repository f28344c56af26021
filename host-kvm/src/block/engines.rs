//! Who moves the bytes of files: the kernel on its own, or threads that wait for it.
//!
//! There are three ways, by the values of `aio=`, and all come into being with the first request that needs them and go when there was
//! none for a while. What one of the kernel's ways does not do at a time, threads do.
//!
//! Where nothing is said, threads do it all. Small direct requests one at a time are faster by the kernel's ways, large ones by
//! threads, and what comes by the page cache makes no difference. But threads die last: a process that was killed has ended when its
//! threads have, while what the kernel has got by io_uring goes on for some milliseconds, with the image's locks, in which the next
//! process can't have the image.

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

/// The requests that the kernel has got by one of its ways, by the numbers it knows them by.
#[derive(Default)]
pub(super) struct UnderWay {
    transfers: Vec<Option<Box<Transfer>>>,
    free: Vec<usize>,
}

impl UnderWay {
    /// How many there are; numbers that are reserved count, too.
    pub(super) fn len(&self) -> usize {
        self.transfers.len() - self.free.len()
    }

    /// A number for a request that is about to be handed on: it is to be put there, or the number given back.
    pub(super) fn reserve(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.transfers.push(None);
            self.transfers.len() - 1
        })
    }

    /// Keeps the request of a reserved number until its end.
    pub(super) fn put(&mut self, number: usize, transfer: Box<Transfer>) {
        self.transfers[number] = Some(transfer);
    }

    /// Takes the request of a number that the kernel tells the end of; the number stays reserved.
    pub(super) fn take(&mut self, number: usize) -> Option<Box<Transfer>> {
        self.transfers.get_mut(number)?.take()
    }

    /// Gives a reserved number back.
    pub(super) fn release(&mut self, number: usize) {
        self.free.push(number);
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::super::buffer::Buffer;
    use super::super::executor::Executor;
    use super::super::handle::Handle;
    use super::*;
    use crate::files::{self, OFlags};

    #[test]
    fn what_a_way_needs_comes_with_requests_and_goes_without() {
        let path = std::env::temp_dir().join(format!("thimble-way-{}", std::process::id()));
        std::fs::write(&path, [7; 100]).unwrap();
        let file = files::open(&path, OFlags::RDONLY).unwrap();
        let handle = Arc::new(Handle::new(file, false, false));
        let engines = Engines::default();
        let are_gone = || engines.uring.is_gone() && engines.native.is_gone();
        assert!(are_gone());
        for aio in [BlockdevAioOptions::IoUring, BlockdevAioOptions::Native].repeat(3) {
            let buffer = Buffer::new(200);
            let (transfer, end) =
                Transfer::new(handle.clone(), Kind::Read, 10, buffer.clone(), None);
            engines.start(Some(aio), transfer);
            let result = Executor::new(|| {}).block_on(&|| 0, end);
            assert_eq!(result, Ok(()));
            assert_eq!(buffer.to_vec(), [[7; 90].to_vec(), vec![0; 110]].concat());
            let late = Instant::now() + Duration::from_secs(20);
            while !are_gone() {
                assert!(Instant::now() < late);
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        // Nothing keeps the file.
        assert_eq!(Arc::strong_count(&handle), 1);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_the_kernel_was_not_ready_for_is_told_from_failures() {
        for error in [Errno::AGAIN, Errno::INTR, Errno::CANCELED] {
            assert!(is_refused(-i64::from(error.raw_os_error())));
        }
        for result in [0, 4, -i64::from(Errno::IO.raw_os_error())] {
            assert!(!is_refused(result));
        }
    }
}
