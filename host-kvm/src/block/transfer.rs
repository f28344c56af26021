//! Bytes on their way between a file and the memory of a request.
//!
//! The kernel may move fewer bytes than it is asked to, and takes so many pieces at once and no more: a request is as many calls as it
//! needs, one after the other. Who makes them (a thread of the pool, or the kernel on its own: see [`super::engines`]) makes no difference
//! to what they come to.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

use rustix::io::Errno;

use super::buffer::{Buffer, Entered};
use super::executor::Promise;
use super::handle::{Handle, last_error};

/// Pieces that the kernel takes at once.
const VECTORS_MAX: usize = 1024;

/// What is asked of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes from the file.
    Read,
    /// Bytes to the file.
    Write,
    /// That what was written is on stable storage.
    Flush,
}

/// The calls that a request needs: what they have moved so far, and the one that is being made.
pub struct Calls {
    kind: Kind,
    at: u64,
    rest: Buffer,
    done: usize,
    /// What each call moves a multiple of, where the file does not end.
    alignment: usize,
    vectors: Vec<libc::iovec>,
    entered: Option<Entered>,
}

// SAFETY: the vectors name memory of `rest`, which may be sent.
unsafe impl Send for Calls {}

/// What all calls came to, if there is no other: the bytes moved.
type End = Option<Result<usize, Errno>>;

impl Calls {
    /// Of a request.
    pub fn new(kind: Kind, at: u64, buffer: Buffer, alignment: usize) -> Self {
        Self {
            kind,
            at,
            rest: buffer,
            done: 0,
            alignment,
            vectors: Vec::new(),
            entered: None,
        }
    }

    /// Gets the next call ready, from which on guest memory is in use.
    pub fn prepare(&mut self) -> End {
        if self.kind == Kind::Flush {
            return None;
        }
        if self.rest.is_empty() {
            return Some(Ok(self.done));
        }
        if libc::off_t::try_from(self.at).is_err() {
            return Some(Err(Errno::FBIG));
        }
        self.entered = self.rest.enter();
        if self.entered.is_none() {
            return Some(Err(Errno::CANCELED));
        }
        (self.vectors, _) = self.rest.vectors(VECTORS_MAX);
        None
    }

    /// Takes what the call has moved, and gets the next one ready.
    pub fn moved(&mut self, result: Result<usize, Errno>) -> End {
        self.entered = None;
        let moved = match result {
            Err(error) => return Some(Err(error)),
            Ok(moved) => moved.min(self.rest.len()),
        };
        match self.kind {
            Kind::Flush => return Some(Ok(0)),
            Kind::Write if moved == 0 => return Some(Err(Errno::NOSPC)),
            Kind::Read if moved == 0 => return Some(Ok(self.done)),
            Kind::Read | Kind::Write => {}
        }
        self.done += moved;
        self.at += moved as u64;
        self.rest = self.rest.slice(moved, self.rest.len());
        // Only the file's end is in the middle of a block, and not every file system would be asked for what follows.
        if self.kind == Kind::Read && !moved.is_multiple_of(self.alignment) {
            return Some(Ok(self.done));
        }
        self.prepare()
    }

    /// The call that is ready.
    pub fn call(&self) -> Call<'_> {
        Call {
            kind: self.kind,
            vectors: &self.vectors,
            // `prepare` has seen that it fits.
            at: self.at,
        }
    }

    /// Makes all calls that are still to be made, and waits for each.
    ///
    /// # Errors
    /// What one of them came to.
    pub fn perform(&mut self, fd: BorrowedFd<'_>) -> Result<usize, Errno> {
        let mut end = self.prepare();
        loop {
            if let Some(result) = end {
                return result;
            }
            end = match self.call().wait(fd.as_raw_fd()) {
                Err(Errno::INTR) => None,
                result => self.moved(result),
            };
        }
    }

    /// Sets what is still to be moved to zeros: it lies behind the file's end.
    fn fill(&self) {
        self.rest.fill(0);
    }
}

/// A call. Its vectors and the memory that they name stay until its end is told to [`Calls::moved`].
pub struct Call<'a> {
    /// What for.
    pub kind: Kind,
    /// The pieces of memory.
    pub vectors: &'a [libc::iovec],
    /// The first byte in the file; below 2^63.
    pub at: u64,
}

impl Call<'_> {
    /// Makes a call that reads, as far as nothing has to be waited for: the bytes that it has moved.
    pub fn at_once(&self, fd: BorrowedFd<'_>) -> usize {
        let (vectors, count) = (self.vectors.as_ptr(), self.vectors.len() as libc::c_int);
        let (fd, at) = (fd.as_raw_fd(), self.at as libc::off_t);
        // SAFETY: the vectors name memory that the request keeps.
        let moved = unsafe { libc::preadv2(fd, vectors, count, at, libc::RWF_NOWAIT) };
        usize::try_from(moved).unwrap_or(0)
    }

    fn wait(&self, fd: RawFd) -> Result<usize, Errno> {
        let (vectors, count) = (self.vectors.as_ptr(), self.vectors.len() as libc::c_int);
        let at = self.at as libc::off_t;
        // SAFETY: the vectors name memory that the request keeps.
        let moved = unsafe {
            match self.kind {
                Kind::Read => libc::preadv(fd, vectors, count, at),
                Kind::Write => libc::pwritev(fd, vectors, count, at),
                Kind::Flush => libc::fdatasync(fd) as isize,
            }
        };
        usize::try_from(moved).map_err(|_| last_error())
    }
}

/// A request that is done by whoever has it, and whose end somebody waits for, or does not any more: it keeps all that the kernel
/// needs.
pub struct Transfer {
    handle: Arc<Handle>,
    calls: Calls,
    /// Nobody writes parts of blocks meanwhile.
    blocks: Option<Entered>,
    end: Promise<Result<(), Errno>>,
}

impl Transfer {
    /// A request, and its end. `blocks` is for writes of whole blocks.
    pub fn new(
        handle: Arc<Handle>,
        kind: Kind,
        at: u64,
        buffer: Buffer,
        blocks: Option<Entered>,
    ) -> (Box<Self>, impl Future<Output = Result<(), Errno>> + use<>) {
        let (promise, end) = Promise::new();
        let calls = Calls::new(kind, at, buffer, handle.alignment);
        let transfer = Self {
            handle,
            calls,
            blocks,
            end: promise,
        };
        (Box::new(transfer), end)
    }

    /// What it is about.
    pub fn kind(&self) -> Kind {
        self.calls.kind
    }

    /// Gets the first call ready; nothing if there is none, and it has ended.
    pub fn begin(mut self: Box<Self>) -> Option<Box<Self>> {
        let end = self.calls.prepare();
        self.go_on(end)
    }

    /// The call that is ready, and the file that it goes to.
    pub fn call(&self) -> (RawFd, Call<'_>) {
        (self.handle.fd().as_raw_fd(), self.calls.call())
    }

    /// Takes the result of a call, as the kernel gives it: a negative number is an error's. Nothing if it was the last.
    pub fn moved(mut self: Box<Self>, result: i64) -> Option<Box<Self>> {
        let result = usize::try_from(result)
            .map_err(|_| Errno::from_raw_os_error((result as i32).wrapping_neg()));
        let end = self.calls.moved(result);
        self.go_on(end)
    }

    fn go_on(self: Box<Self>, end: End) -> Option<Box<Self>> {
        match end {
            None => Some(self),
            Some(result) => {
                self.ended(result);
                None
            }
        }
    }

    fn ended(self, result: Result<usize, Errno>) {
        let Self {
            handle,
            calls,
            blocks,
            end,
        } = self;
        if calls.kind == Kind::Read && result.is_ok() {
            calls.fill();
        }
        // Who waits may close the file at once.
        drop((handle, calls, blocks));
        end.keep(result.map(drop));
    }

    /// Does all that is still to be done.
    pub fn perform(mut self) {
        let result = self.calls.perform(self.handle.fd());
        self.ended(result);
    }
}
