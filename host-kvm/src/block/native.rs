//! `aio=native`: the older way in which the kernel does requests on its own (io_submit(2)), for direct requests only.
//!
//! Requests go to the kernel from the thread that has them. A thread waits for their ends, and has nothing else to do: a request's
//! memory is lent to the kernel until the thread has seen its end.
//!
//! Source of the structures: linux/aio_abi.h.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

use super::engines::{UnderWay, is_refused, wait_for};
use super::executor::{IDLE, Pool, start_thread};
use super::handle::last_error;
use super::transfer::{Kind, Transfer};

/// Requests that the kernel has at a time.
const UNDER_WAY_MAX: usize = 128;

/// Ends that are taken from the kernel at once.
const BATCH: usize = 32;

/// How long to wait where the kernel does not tell of ends.
const BREATH: Duration = Duration::from_millis(1);

const IOCB_CMD_PREADV: u16 = 7;
const IOCB_CMD_PWRITEV: u16 = 8;

/// What the kernel is asked to do.
#[repr(C)]
#[derive(Default)]
struct Iocb {
    aio_data: u64,
    aio_key: u32,
    aio_rw_flags: i32,
    aio_lio_opcode: u16,
    aio_reqprio: i16,
    aio_fildes: u32,
    aio_buf: u64,
    aio_nbytes: u64,
    aio_offset: i64,
    aio_reserved2: u64,
    aio_flags: u32,
    aio_resfd: u32,
}

/// What has come of it.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct IoEvent {
    data: u64,
    obj: u64,
    res: i64,
    res2: i64,
}

/// The kernel's context of requests, which ends with it.
struct Context(libc::c_ulong);

impl Context {
    fn new() -> Result<Self, Errno> {
        let mut context: libc::c_ulong = 0;
        // SAFETY: the call writes the context's number.
        let made = unsafe { libc::syscall(libc::SYS_io_setup, UNDER_WAY_MAX, &raw mut context) };
        match made {
            0 => Ok(Self(context)),
            _ => Err(last_error()),
        }
    }

    /// Hands a call over. Its memory must stay until its end has come.
    fn submit(&self, transfer: &Transfer, data: u64) -> Result<(), Errno> {
        let (fd, call) = transfer.call();
        let mut iocb = Iocb {
            aio_data: data,
            aio_lio_opcode: match call.kind {
                Kind::Read => IOCB_CMD_PREADV,
                Kind::Write => IOCB_CMD_PWRITEV,
                Kind::Flush => return Err(Errno::INVAL),
            },
            aio_fildes: fd as u32,
            aio_buf: call.vectors.as_ptr().addr() as u64,
            aio_nbytes: call.vectors.len() as u64,
            aio_offset: call.at as i64,
            ..Iocb::default()
        };
        let mut list = [&raw mut iocb];
        // SAFETY: the kernel copies the structure and the vectors; the memory that they name is kept by the request.
        let taken = unsafe { libc::syscall(libc::SYS_io_submit, self.0, 1, list.as_mut_ptr()) };
        match taken {
            1 => Ok(()),
            _ => Err(last_error()),
        }
    }

    /// Waits for ends, or until there was none for a while.
    fn wait(&self, ends: &mut [IoEvent]) -> Result<usize, Errno> {
        let mut idle = libc::timespec {
            tv_sec: IDLE.as_secs() as libc::time_t,
            tv_nsec: IDLE.subsec_nanos().into(),
        };
        let (most, to) = (ends.len(), ends.as_mut_ptr());
        // SAFETY: the kernel writes as many structures at most.
        let count =
            unsafe { libc::syscall(libc::SYS_io_getevents, self.0, 1, most, to, &raw mut idle) };
        usize::try_from(count).map_err(|_| last_error())
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: ends the context.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.0) };
    }
}

/// Whether the kernel has it and lets us use it.
///
/// # Errors
/// Whatever io_setup(2) says.
pub fn check() -> Result<(), Errno> {
    Context::new().map(drop)
}

#[derive(Default)]
struct Queue {
    /// As long as there is a thread.
    context: Option<Arc<Context>>,
    waiting: VecDeque<Box<Transfer>>,
    under_way: UnderWay,
}

impl Queue {
    /// Hands the kernel what waits, as far as it has room.
    fn submit(&mut self, pool: &Pool) {
        let Some(context) = self.context.clone() else {
            return;
        };
        while self.under_way.len() < UNDER_WAY_MAX {
            let Some(transfer) = self.waiting.pop_front() else {
                return;
            };
            let Some(transfer) = transfer.begin() else {
                continue;
            };
            let number = self.under_way.reserve();
            match context.submit(&transfer, number as u64) {
                Ok(()) => self.under_way.put(number, transfer),
                Err(error) => {
                    self.under_way.release(number);
                    if error == Errno::AGAIN && self.under_way.len() > 0 {
                        self.waiting.push_front(transfer);
                        return;
                    }
                    wait_for(transfer, pool);
                }
            }
        }
    }

    /// Takes an end.
    fn ended(&mut self, end: &IoEvent) -> Option<Box<Transfer>> {
        let number = end.data as usize;
        let transfer = self.under_way.take(number)?;
        self.under_way.release(number);
        Some(transfer)
    }
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
pub struct Native(Arc<State>);

impl Native {
    /// Does a request that reads or writes.
    pub fn start(&self, transfer: Box<Transfer>, pool: &Pool) {
        let mut queue = self.0.lock();
        if queue.context.is_none() {
            queue.context = self.begin(pool).ok();
        }
        if queue.context.is_none() {
            drop(queue);
            return wait_for(transfer, pool);
        }
        queue.waiting.push_back(transfer);
        queue.submit(pool);
    }

    /// Whether there is no thread.
    #[cfg(test)]
    pub fn is_gone(&self) -> bool {
        self.0.lock().context.is_none()
    }

    /// Starts the thread.
    fn begin(&self, pool: &Pool) -> Result<Arc<Context>, Errno> {
        let context = Arc::new(Context::new()?);
        let (state, pool, served) = (self.0.clone(), pool.clone(), context.clone());
        match start_thread("block aio", move || serve(&state, &pool, &served)) {
            Ok(()) => Ok(context),
            Err(_) => Err(Errno::AGAIN),
        }
    }
}

fn serve(state: &State, pool: &Pool, context: &Context) {
    let mut ends = [IoEvent::default(); BATCH];
    loop {
        let count = match context.wait(&mut ends) {
            Ok(0) => {
                let mut queue = state.lock();
                if queue.under_way.len() == 0 && queue.waiting.is_empty() {
                    queue.context = None;
                    return;
                }
                0
            }
            Ok(count) => count,
            Err(Errno::INTR) => 0,
            Err(_) => {
                std::thread::sleep(BREATH);
                0
            }
        };
        for end in &ends[..count] {
            let transfer = state.lock().ended(end);
            let Some(transfer) = transfer else { continue };
            if is_refused(end.res) {
                wait_for(transfer, pool);
            } else if let Some(transfer) = transfer.moved(end.res) {
                state.lock().waiting.push_front(transfer);
            }
        }
        state.lock().submit(pool);
    }
}
