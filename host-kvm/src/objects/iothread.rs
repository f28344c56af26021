//! Threads for input and output: each waits for work of its own, away from the main thread and the machine's lock.
//!
//! Work is of two kinds. What is handed to [`IoThread::run`] is done once. A [`Handler`] that is lent to the thread is asked for work
//! again and again, and can be taken back at any time, as the machine has to for a reset or when it is saved.
//!
//! A thread that has run out of work looks for more before it sleeps, for a time that adapts: waking up from sleep costs more than
//! short work takes. The time grows as long as work came later than the thread had looked for it, but within `poll-max-ns`; when
//! work comes even later than that, looking was of no use, and the time shrinks.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use thimble_monitor::owner::objects::IOTHREAD_PROPERTIES;

use crate::clock::monotonic;
use crate::event_loop::poller::{Interest, Poller, Waker};

/// Nanoseconds that the time to look for work starts with, once it is not zero.
const FIRST_POLL: i64 = 4000;

/// Pieces of work between two looks at descriptors where `aio-max-batch` is 0.
const BATCH: usize = 64;

/// Busy turns between two looks at descriptors.
const LOOK: u32 = 64;

/// The token of a thread's own waker; handlers have those above.
const WAKER: u64 = 0;

/// What is done for a device again and again.
pub trait Handler: Send {
    /// Does what there is to do, in at most `most` pieces, without waiting for anything, and tells whether there was any.
    fn work(&mut self, most: usize) -> bool;

    /// The thread is about to sleep until the doorbell rings: whoever was not asked to ring it so far is asked now. Tells whether
    /// there is work after all.
    fn rest(&mut self) -> bool {
        false
    }
}

/// A handler that a thread has; see [`IoThread::take_back`].
#[derive(Debug, PartialEq, Eq)]
pub struct Loan(u64);

/// The values of [`IOTHREAD_PROPERTIES`], none negative.
pub type Parameters = [i64; IOTHREAD_PROPERTIES.len()];

/// What a thread is to do, other than to ask its handlers.
enum Task {
    Run(Box<dyn FnOnce() + Send>),
    Lend(u64, OwnedFd, Box<dyn Handler>),
    /// The answer goes into the slot.
    TakeBack(u64, Arc<Slot>),
}

/// Where someone waits for a handler.
#[derive(Default)]
struct Slot {
    /// The answer, once there is one.
    answer: Mutex<Option<Option<Box<dyn Handler>>>>,
    answered: Condvar,
}

/// A handler, and the eventfd by which a sleeping thread learns that it has work.
struct Lent {
    token: u64,
    doorbell: OwnedFd,
    handler: Box<dyn Handler>,
}

/// What both sides of a thread know.
struct Inner {
    poller: Poller,
    waker: Waker,
    parameters: [AtomicI64; IOTHREAD_PROPERTIES.len()],
    tasks: Mutex<VecDeque<Task>>,
    /// How many they are.
    pending: AtomicUsize,
    /// The thread sleeps or is about to: who has work for it wakes it up.
    asleep: AtomicBool,
    stop: AtomicBool,
    /// For how long it looks for work before it sleeps.
    poll_ns: AtomicI64,
    /// The host's number of the thread, once it is there.
    thread_id: Mutex<Option<i32>>,
    started: Condvar,
    next_token: AtomicUsize,
}

/// A thread. It ends, with all that was handed to it done, when this is dropped.
pub struct IoThread {
    inner: Arc<Inner>,
    join: Option<JoinHandle<()>>,
    thread_id: i32,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl IoThread {
    /// The values of its properties where nothing else is said.
    pub const DEFAULTS: Parameters = [32768, 0, 0, 0];

    /// Starts a thread that is called `IO` and its id.
    ///
    /// # Errors
    /// The system's, when it has no more threads or descriptors.
    pub fn new(id: &str, parameters: Parameters) -> io::Result<Self> {
        let inner = Arc::new(Inner {
            poller: Poller::new()?,
            waker: Waker::new()?,
            parameters: parameters.map(AtomicI64::new),
            tasks: Mutex::default(),
            pending: AtomicUsize::new(0),
            asleep: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            poll_ns: AtomicI64::new(0),
            thread_id: Mutex::default(),
            started: Condvar::new(),
            next_token: AtomicUsize::new(WAKER as usize + 1),
        });
        inner.poller.add(&inner.waker, WAKER, Interest::READ)?;
        let theirs = inner.clone();
        let mask = crate::signals::Blocked::all();
        let join = thread::Builder::new()
            .name(format!("IO {id}"))
            .stack_size(256 << 10)
            .spawn(move || theirs.main())?;
        drop(mask);
        let mut started = lock(&inner.thread_id);
        let thread_id = loop {
            match *started {
                Some(id) => break id,
                None => {
                    let waited = inner.started.wait(started);
                    started = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        };
        drop(started);
        Ok(Self {
            inner,
            join: Some(join),
            thread_id,
        })
    }

    /// The host's number of the thread.
    pub fn thread_id(&self) -> i32 {
        self.thread_id
    }

    /// The values of its properties.
    pub fn parameters(&self) -> Parameters {
        let value = |at: usize| self.inner.parameter(at);
        std::array::from_fn(value)
    }

    /// Sets the property at this position; the thread heeds it from its next wait on.
    pub fn set_parameter(&self, at: usize, value: i64) {
        if let Some(parameter) = self.inner.parameters.get(at) {
            parameter.store(value, Ordering::Relaxed);
        }
    }

    /// Lets the thread do something once, behind what it was handed before.
    pub fn run(&self, work: impl FnOnce() + Send + 'static) {
        self.push(Task::Run(Box::new(work)));
    }

    /// Lends a handler to the thread. From now on it is asked for work whenever there may be some: at once, whenever it had some just
    /// before, and when `doorbell`, an eventfd, has been written to.
    pub fn lend(&self, doorbell: OwnedFd, handler: Box<dyn Handler>) -> Loan {
        let token = self.inner.next_token.fetch_add(1, Ordering::Relaxed) as u64;
        self.push(Task::Lend(token, doorbell, handler));
        Loan(token)
    }

    /// Takes a handler back, with which the thread has nothing to do any more when this returns; `None` if epoll did not take
    /// its doorbell. Not to be called from the thread itself.
    pub fn take_back(&self, loan: Loan) -> Option<Box<dyn Handler>> {
        let slot = Arc::new(Slot::default());
        self.push(Task::TakeBack(loan.0, slot.clone()));
        let mut answer = lock(&slot.answer);
        loop {
            if let Some(handler) = answer.take() {
                return handler;
            }
            let waited = slot.answered.wait(answer);
            answer = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn push(&self, task: Task) {
        lock(&self.inner.tasks).push_back(task);
        self.inner.pending.fetch_add(1, Ordering::SeqCst);
        self.inner.wake();
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        self.inner.stop.store(true, Ordering::SeqCst);
        self.inner.wake();
        if let Some(join) = self.join.take()
            && join.thread().id() != thread::current().id()
        {
            let _ = join.join();
        }
    }
}

impl Inner {
    fn parameter(&self, at: usize) -> i64 {
        self.parameters[at].load(Ordering::Relaxed)
    }

    fn wake(&self) {
        if self.asleep.load(Ordering::SeqCst) {
            self.waker.wake();
        }
    }

    fn main(&self) {
        *lock(&self.thread_id) = Some(rustix::thread::gettid().as_raw_nonzero().get());
        self.started.notify_all();
        let mut handlers: Vec<Lent> = Vec::new();
        let mut turns = 0_u32;
        loop {
            let most = match usize::try_from(self.parameter(3)) {
                Ok(most) if most > 0 => most,
                _ => BATCH,
            };
            let mut busy = self.do_tasks(most, &mut handlers);
            busy |= ask(&mut handlers, most);
            if !busy && self.stop.load(Ordering::SeqCst) {
                break;
            }
            if busy {
                // Who is busy finds out by itself what the doorbell tells.
                turns = turns.wrapping_add(1);
                if turns.is_multiple_of(LOOK) {
                    self.look(Some(0), &handlers);
                }
            } else {
                self.wait(most, &mut handlers);
            }
        }
    }

    /// Does up to `most` of what was handed over, and tells whether there was any.
    fn do_tasks(&self, most: usize, handlers: &mut Vec<Lent>) -> bool {
        for done in 0..most {
            let Some(task) = lock(&self.tasks).pop_front() else {
                return done > 0;
            };
            self.pending.fetch_sub(1, Ordering::SeqCst);
            match task {
                Task::Run(work) => work(),
                Task::Lend(token, doorbell, handler) => {
                    if self.poller.add(&doorbell, token, Interest::READ).is_ok() {
                        handlers.push(Lent {
                            token,
                            doorbell,
                            handler,
                        });
                    }
                }
                Task::TakeBack(token, slot) => {
                    let at = handlers.iter().position(|lent| lent.token == token);
                    let handler = at.map(|at| {
                        let lent = handlers.swap_remove(at);
                        let _ = self.poller.remove(&lent.doorbell);
                        lent.handler
                    });
                    *lock(&slot.answer) = Some(handler);
                    slot.answered.notify_all();
                }
            }
        }
        true
    }

    /// Looks for work for a while, then sleeps until there is some.
    fn wait(&self, most: usize, handlers: &mut [Lent]) {
        let poll_ns = self.poll_ns.load(Ordering::Relaxed);
        let start = monotonic();
        let passed = || (monotonic() - start) as i64;
        while passed() < poll_ns {
            if self.called() || ask(handlers, most) {
                self.adapt(passed(), poll_ns);
                return;
            }
            std::hint::spin_loop();
        }
        let mut busy = false;
        for lent in &mut *handlers {
            busy |= lent.handler.rest();
        }
        if busy {
            return self.adapt(passed(), poll_ns);
        }
        self.asleep.store(true, Ordering::SeqCst);
        // Who comes from now on wakes us up; who came before must not be overlooked.
        let timeout = self.called().then_some(0);
        self.look(timeout, handlers);
        self.asleep.store(false, Ordering::SeqCst);
        self.adapt(passed(), poll_ns);
    }

    fn called(&self) -> bool {
        self.pending.load(Ordering::SeqCst) > 0 || self.stop.load(Ordering::SeqCst)
    }

    /// Waits for descriptors, for at most so many nanoseconds.
    fn look(&self, timeout: Option<u64>, handlers: &[Lent]) {
        for event in self.poller.wait(timeout).unwrap_or_default() {
            if event.token == WAKER {
                self.waker.drain();
            } else if let Some(lent) = handlers.iter().find(|lent| lent.token == event.token) {
                // All handlers are asked in each turn.
                let _ = rustix::io::read(&lent.doorbell, &mut [0; 8]);
            }
        }
    }

    /// Chooses the next time to look for work by how long it took until there was some.
    fn adapt(&self, took: i64, poll_ns: i64) {
        let [most, grow, shrink] = [0, 1, 2].map(|at| self.parameter(at));
        self.poll_ns.store(
            adapted(took, poll_ns, most, grow, shrink),
            Ordering::Relaxed,
        );
    }
}

/// The time to look for work after one of `poll_ns`, when there was some after `took`.
fn adapted(took: i64, poll_ns: i64, most: i64, grow: i64, shrink: i64) -> i64 {
    let next = if took <= poll_ns {
        // It was enough.
        poll_ns
    } else if took > most {
        match shrink {
            0 => 0,
            shrink => poll_ns / shrink,
        }
    } else if poll_ns == 0 {
        FIRST_POLL
    } else {
        poll_ns.saturating_mul(if grow == 0 { 2 } else { grow })
    };
    next.min(most)
}

/// Asks all handlers for work, and tells whether one had some.
fn ask(handlers: &mut [Lent], most: usize) -> bool {
    let mut busy = false;
    for lent in handlers {
        busy |= lent.handler.work(most);
    }
    busy
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    const SOON: Duration = Duration::from_secs(20);
    const DEFAULTS: Parameters = [32768, 0, 0, 0];

    fn exists(thread: i32) -> bool {
        std::path::Path::new(&format!("/proc/self/task/{thread}")).exists()
    }

    #[test]
    fn work_is_done_in_order_by_the_thread_until_its_end() {
        let thread = IoThread::new("a", DEFAULTS).unwrap();
        let id = thread.thread_id();
        assert!(exists(id));
        let name = std::fs::read_to_string(format!("/proc/self/task/{id}/comm")).unwrap();
        assert_eq!(name, "IO a\n");
        let (send, receive) = mpsc::channel();
        for number in 0..100 {
            let send = send.clone();
            thread.run(move || {
                let by = rustix::thread::gettid().as_raw_nonzero().get();
                let _ = send.send((number, by));
            });
            if number == 50 {
                // Also from sleep.
                thread::sleep(Duration::from_millis(20));
            }
        }
        drop(thread);
        drop(send);
        let done: Vec<_> = receive.iter().collect();
        assert_eq!(done, (0..100).map(|n| (n, id)).collect::<Vec<_>>());
        assert!(!exists(id), "it has ended");
    }

    #[test]
    fn the_last_owner_may_be_the_thread_itself() {
        let thread = Arc::new(IoThread::new("self", DEFAULTS).unwrap());
        let own = thread.clone();
        let (send, receive) = mpsc::channel();
        let id = thread.thread_id();
        thread.run(move || {
            thread::sleep(Duration::from_millis(20));
            drop(own);
            let _ = send.send(());
        });
        drop(thread);
        receive.recv_timeout(SOON).unwrap();
        let deadline = Instant::now() + SOON;
        while exists(id) {
            assert!(Instant::now() < deadline);
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Takes one piece at a time from a count that others add to.
    struct Counter {
        left: Arc<AtomicUsize>,
        done: usize,
        most_seen: usize,
    }

    impl Handler for Counter {
        fn work(&mut self, most: usize) -> bool {
            let mut any = false;
            for _ in 0..most {
                let taken = self
                    .left
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                        left.checked_sub(1)
                    });
                if taken.is_err() {
                    break;
                }
                any = true;
                self.done += 1;
            }
            self.most_seen = most;
            any
        }
    }

    #[test]
    fn a_handler_works_when_its_doorbell_rings_and_comes_back() {
        for poll_max in [0, 32768, 2_000_000] {
            let thread = IoThread::new("b", [poll_max, 0, 0, 7]).unwrap();
            let left = Arc::new(AtomicUsize::new(5));
            let doorbell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
            let ring = doorbell.try_clone().unwrap();
            let loan = thread.lend(
                doorbell,
                Box::new(Counter {
                    left: left.clone(),
                    done: 0,
                    most_seen: 0,
                }),
            );
            let emptied = || {
                let deadline = Instant::now() + SOON;
                while left.load(Ordering::SeqCst) > 0 {
                    assert!(Instant::now() < deadline);
                    thread::yield_now();
                }
            };
            // What is there already needs no ringing.
            emptied();
            for _ in 0..50 {
                left.fetch_add(20, Ordering::SeqCst);
                rustix::io::write(&ring, &1_u64.to_ne_bytes()).unwrap();
                emptied();
            }
            assert!(thread.take_back(loan).is_some());
            left.fetch_add(1, Ordering::SeqCst);
            rustix::io::write(&ring, &1_u64.to_ne_bytes()).unwrap();
            thread::sleep(Duration::from_millis(5));
            assert_eq!(left.load(Ordering::SeqCst), 1, "it is not asked any more");
            assert!(thread.take_back(Loan(99)).is_none());
        }
    }

    #[test]
    fn the_time_to_look_adapts() {
        // It grows by 2, from its first value, up to the most.
        assert_eq!(adapted(100, 0, 32768, 0, 0), 4000);
        assert_eq!(adapted(5000, 4000, 32768, 0, 0), 8000);
        assert_eq!(adapted(5000, 4000, 32768, 3, 0), 12000);
        assert_eq!(adapted(30000, 20000, 32768, 0, 0), 32768);
        // It stays while it is enough.
        assert_eq!(adapted(3000, 4000, 32768, 0, 0), 4000);
        // It shrinks when work comes too late for any.
        assert_eq!(adapted(40000, 32768, 32768, 0, 0), 0);
        assert_eq!(adapted(40000, 32768, 32768, 0, 4), 8192);
        // A new limit holds at once; without one nothing is looked for.
        assert_eq!(adapted(3000, 30000, 5000, 0, 0), 5000);
        assert_eq!(adapted(1, 0, 0, 0, 0), 0);
        assert_eq!(
            adapted(i64::MAX, i64::MAX - 1, i64::MAX, i64::MAX, 0),
            i64::MAX
        );
    }

    #[test]
    fn parameters_hold_from_the_next_wait_on() {
        let thread = IoThread::new("c", [0, 0, 0, 0]).unwrap();
        let step = || {
            let (send, receive) = mpsc::channel();
            thread.run(move || {
                let _ = send.send(());
            });
            receive.recv_timeout(SOON).unwrap();
        };
        let poll_ns = || thread.inner.poll_ns.load(Ordering::Relaxed);
        for _ in 0..5 {
            step();
        }
        assert_eq!(poll_ns(), 0);
        // The thread adapts when it has waited, which it does between two steps, soon or late.
        let steps_until = |done: &dyn Fn() -> bool| {
            let deadline = Instant::now() + SOON;
            while !done() {
                assert!(Instant::now() < deadline);
                thread::sleep(Duration::from_millis(1));
                step();
            }
        };
        thread.set_parameter(0, i64::MAX);
        assert_eq!(thread.parameters(), [i64::MAX, 0, 0, 0]);
        steps_until(&|| poll_ns() >= FIRST_POLL);
        thread.set_parameter(0, 0);
        steps_until(&|| poll_ns() == 0);
    }
}
