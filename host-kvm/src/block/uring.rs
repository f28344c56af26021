//! `aio=io_uring`: the kernel takes requests from a ring and puts their ends into another (io_uring(7)).
//!
//! Both rings are of one thread, which sleeps in the kernel until a request has ended or a doorbell rings. Whoever has requests puts
//! them into a queue and rings the doorbell if the thread sleeps. That the thread has nothing else to do matters: a request's memory
//! is lent to the kernel until the thread has seen its end, and who takes guest memory back waits for that with whatever locks he
//! has.
//!
//! Rings whose owner may be any thread would spare a request one change of threads, but their ends come by way of the thread that has
//! begun them: the main thread would be interrupted for each, wherever it is.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::engines::{UnderWay, is_refused, wait_for};
use super::executor::{IDLE, Pool, start_thread};
use super::transfer::{Kind, Transfer};

/// Entries of the ring of requests.
const ENTRIES: u32 = 128;

/// Requests that the kernel has at a time; the doorbell needs an entry, too.
const UNDER_WAY_MAX: usize = ENTRIES as usize - 1;

/// The number of the doorbell; requests have those of [`UnderWay`].
const BELL: u64 = u64::MAX;

/// How long to wait where the kernel has no memory for a request.
const BREATH: Duration = Duration::from_millis(1);

/// What the thread and those who have requests share.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Box<Transfer>>,
    /// The doorbell of the thread, if there is one.
    bell: Option<Arc<OwnedFd>>,
    /// The thread sleeps, or is about to.
    asleep: bool,
    /// The kernel does not let us have a ring, and won't.
    refused: bool,
}

#[derive(Default)]
struct State(Mutex<Queue>);

impl State {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module.
#[derive(Clone, Default)]
pub struct Uring(Arc<State>);

/// Makes a ring, for the thread that enables it.
fn ring() -> Result<IoUring, Errno> {
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun();
    builder.setup_r_disabled();
    let ring = match builder.build(ENTRIES) {
        // Linux before 6.1.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => IoUring::new(ENTRIES),
        ring => ring,
    };
    let ring = ring.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    // A wait with an end, a doorbell that needs to be armed once: Linux 5.13.
    match ring.params().is_feature_resource_tagging() {
        true => Ok(ring),
        false => Err(Errno::NOSYS),
    }
}

/// Whether the kernel has it and lets us use it.
///
/// # Errors
/// Whatever io_uring_setup(2) says; `ENOSYS` if the kernel is older than 5.13.
pub fn check() -> Result<(), Errno> {
    ring().map(drop)
}

impl Uring {
    /// Does a request.
    pub fn start(&self, transfer: Box<Transfer>, pool: &Pool) {
        let mut queue = self.0.lock();
        if queue.bell.is_none() && !queue.refused {
            match self.begin(pool) {
                Ok(bell) => queue.bell = Some(bell),
                Err(Errno::NOSYS | Errno::PERM | Errno::ACCESS) => queue.refused = true,
                // No descriptors or no memory now.
                Err(_) => {}
            }
        }
        let Some(bell) = queue.bell.clone() else {
            drop(queue);
            return wait_for(transfer, pool);
        };
        queue.waiting.push_back(transfer);
        if std::mem::take(&mut queue.asleep) {
            drop(queue);
            // It counts up to 2^64.
            let _ = rustix::io::write(&*bell, &1_u64.to_ne_bytes());
        }
    }

    /// Whether there is no thread.
    #[cfg(test)]
    pub fn is_gone(&self) -> bool {
        self.0.lock().bell.is_none()
    }

    /// Starts the thread.
    fn begin(&self, pool: &Pool) -> Result<Arc<OwnedFd>, Errno> {
        let ring = ring()?;
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let server = Server {
            state: self.0.clone(),
            pool: pool.clone(),
            bell: bell.clone(),
            under_way: UnderWay::default(),
            armed: false,
            given_up: false,
        };
        match start_thread("block ring", move || server.serve(ring)) {
            Ok(()) => Ok(bell),
            Err(_) => Err(Errno::AGAIN),
        }
    }
}

/// The thread.
struct Server {
    state: Arc<State>,
    pool: Pool,
    bell: Arc<OwnedFd>,
    under_way: UnderWay,
    /// The kernel looks at the doorbell.
    armed: bool,
    /// The kernel has let us make a ring, but not use it.
    given_up: bool,
}

/// What the kernel is asked to do.
fn entry(transfer: &Transfer) -> squeue::Entry {
    let (fd, call) = transfer.call();
    let (fd, vectors) = (Fd(fd), call.vectors.as_ptr());
    let count = call.vectors.len() as u32;
    match call.kind {
        Kind::Read => opcode::Readv::new(fd, vectors, count)
            .offset(call.at)
            .build(),
        Kind::Write => opcode::Writev::new(fd, vectors, count)
            .offset(call.at)
            .build(),
        Kind::Flush => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
    }
}

impl Server {
    fn serve(mut self, mut ring: IoUring) {
        if ring.params().is_setup_single_issuer()
            && ring.submitter().register_enable_rings().is_err()
        {
            return self.give_up();
        }
        let idle = Timespec::from(IDLE);
        loop {
            if !self.take(&mut ring) {
                return;
            }
            let arguments = match self.under_way.len() {
                0 => SubmitArgs::new().timespec(&idle),
                _ => SubmitArgs::new(),
            };
            let entered = ring.submitter().submit_with_args(1, &arguments);
            let ended: Vec<_> = ring.completion().collect();
            match entered.as_ref().map_err(|error| error.raw_os_error()) {
                Err(Some(libc::ETIME)) if ended.is_empty() => {
                    let mut queue = self.state.lock();
                    if queue.waiting.is_empty() && self.under_way.len() == 0 {
                        queue.bell = None;
                        return;
                    }
                }
                Ok(_) | Err(Some(libc::ETIME | libc::EINTR)) => {}
                Err(Some(libc::EAGAIN | libc::EBUSY)) => {
                    if ended.is_empty() {
                        std::thread::sleep(BREATH);
                    }
                }
                Err(_) if self.under_way.len() == 0 => return self.give_up(),
                Err(_) => std::thread::sleep(BREATH),
            }
            for end in ended {
                self.ended(&end, &mut ring);
            }
        }
    }

    /// Hands the kernel what waits, as far as it has room. Tells whether the thread goes on.
    fn take(&mut self, ring: &mut IoUring) -> bool {
        if !self.armed && !self.given_up {
            let bell = opcode::PollAdd::new(Fd(self.bell.as_raw_fd()), libc::POLLIN as u32);
            self.armed = true;
            self.push(ring, &bell.multi(true).build().user_data(BELL));
            // What the kernel says to the first entry decides about all others.
            if self.under_way.len() == 0 && ring.submit().is_err() {
                self.give_up();
            }
        }
        if self.given_up {
            return self.under_way.len() > 0;
        }
        while self.under_way.len() < UNDER_WAY_MAX {
            let mut queue = self.state.lock();
            let Some(transfer) = queue.waiting.pop_front() else {
                queue.asleep = true;
                break;
            };
            queue.asleep = false;
            drop(queue);
            if let Some(transfer) = transfer.begin() {
                let number = self.under_way.reserve();
                self.submit(transfer, number, ring);
            }
        }
        true
    }

    fn submit(&mut self, transfer: Box<Transfer>, number: usize, ring: &mut IoUring) {
        self.push(ring, &entry(&transfer).user_data(number as u64));
        self.under_way.put(number, transfer);
    }

    fn push(&self, ring: &mut IoUring, entry: &squeue::Entry) {
        // SAFETY: what the entry names is kept in `under_way` until its end has come. There is room: each request has one entry at
        // most, and so has the doorbell.
        let pushed = unsafe { ring.submission().push(entry) };
        debug_assert!(pushed.is_ok());
    }

    fn ended(&mut self, end: &cqueue::Entry, ring: &mut IoUring) {
        if end.user_data() == BELL {
            self.armed = cqueue::more(end.flags());
            if end.result() < 0 {
                self.give_up();
            }
            return;
        }
        let number = end.user_data() as usize;
        let Some(transfer) = self.under_way.take(number) else {
            return;
        };
        let result = i64::from(end.result());
        if is_refused(result) {
            wait_for(transfer, &self.pool);
        } else if let Some(transfer) = transfer.moved(result) {
            return self.submit(transfer, number, ring);
        }
        self.under_way.release(number);
    }

    /// The pool is to do all that the kernel has not got, from now on.
    fn give_up(&mut self) {
        self.given_up = true;
        let mut queue = self.state.lock();
        queue.refused = true;
        queue.bell = None;
        let waiting = std::mem::take(&mut queue.waiting);
        drop(queue);
        for transfer in waiting {
            wait_for(transfer, &self.pool);
        }
    }
}
