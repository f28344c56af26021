//! How fast requests may be: groups of limits, and the driver `throttle`.
//!
//! Each of the six limits is a leaky bucket. It leaks at the limit's rate; each request fills it by its bytes, or by one. A
//! bucket that is full lets requests wait. With a burst, the bucket is as large as the burst, and a second one beside it,
//! which leaks at the burst's rate, keeps the burst from being faster than that.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use rustix::io::Errno;

use super::buffer::Buffer;
use super::executor::{Boxed, Executor};
use super::node::{Change, Child, Description, Driver, Io, OptionValue, Refusal};

/// Nanoseconds of a second.
const SECOND: f64 = 1e9;

/// The largest number of a limit.
pub const LIMIT_MAX: i64 = 1_000_000_000_000_000;

/// A limit of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Bytes or requests a second; 0: no limit.
    pub average: u64,
    /// The same in a burst; 0: no burst but a tenth of a second's worth.
    pub maximum: u64,
    /// Seconds of a burst.
    pub length: u64,
}

impl Default for Limit {
    fn default() -> Self {
        Self {
            average: 0,
            maximum: 0,
            length: 1,
        }
    }
}

/// The kinds, by their places in [`Limits::each`].
pub const BPS: usize = 0;
/// Bytes read.
pub const BPS_READ: usize = 1;
/// Bytes written.
pub const BPS_WRITE: usize = 2;
/// Requests.
pub const IOPS: usize = 3;
/// Requests that read.
pub const IOPS_READ: usize = 4;
/// Requests that write.
pub const IOPS_WRITE: usize = 5;

/// All limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// By kind.
    pub each: [Limit; 6],
    /// Bytes that count as a request; 0: however many.
    pub request_size: u64,
}

impl Limits {
    /// Whether there is any.
    pub fn any(&self) -> bool {
        self.each.iter().any(|limit| limit.average > 0)
    }

    /// Checks them.
    ///
    /// # Errors
    /// In QEMU's words.
    pub fn check(&self) -> Result<(), Refusal> {
        let both = |all: usize, read: usize, write: usize, field: fn(&Limit) -> u64| {
            field(&self.each[all]) > 0
                && (field(&self.each[read]) > 0 || field(&self.each[write]) > 0)
        };
        let conflict = |field: fn(&Limit) -> u64| {
            both(BPS, BPS_READ, BPS_WRITE, field) || both(IOPS, IOPS_READ, IOPS_WRITE, field)
        };
        if conflict(|limit| limit.average) || conflict(|limit| limit.maximum) {
            return Err(
                "bps/iops/max total values and read/write values cannot be used at the same time"
                    .to_owned(),
            );
        }
        if self.request_size > 0 && self.each[IOPS..].iter().all(|limit| limit.average == 0) {
            return Err("iops size requires an iops value to be set".to_owned());
        }
        for limit in &self.each {
            if limit.average > LIMIT_MAX as u64 || limit.maximum > LIMIT_MAX as u64 {
                return Err(format!(
                    "bps/iops/max values must be within [0, {LIMIT_MAX}]"
                ));
            }
            if limit.length == 0 {
                return Err("the burst length cannot be 0".to_owned());
            }
            if limit.length > 1 && limit.maximum == 0 {
                return Err("burst length set without burst rate".to_owned());
            }
            if limit.maximum > 0 && limit.length > LIMIT_MAX as u64 / limit.maximum {
                return Err("burst length too high for this burst rate".to_owned());
            }
            if limit.maximum > 0 && limit.average == 0 {
                return Err("bps_max/iops_max require corresponding bps/iops values".to_owned());
            }
            if limit.maximum > 0 && limit.maximum < limit.average {
                return Err("bps_max/iops_max cannot be lower than bps/iops".to_owned());
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    level: f64,
    burst: f64,
}

impl Bucket {
    fn leak(&mut self, limit: &Limit, passed: f64) {
        self.level = (self.level - limit.average as f64 * passed / SECOND).max(0.0);
        if limit.length > 1 {
            self.burst = (self.burst - limit.maximum as f64 * passed / SECOND).max(0.0);
        }
    }

    /// Nanoseconds until there is room.
    fn wait(&self, limit: &Limit) -> f64 {
        if limit.average == 0 {
            return 0.0;
        }
        let average = limit.average as f64;
        if limit.maximum == 0 {
            return ((self.level - average / 10.0) / average * SECOND).max(0.0);
        }
        let maximum = limit.maximum as f64;
        let over = self.level - maximum * limit.length as f64;
        if over > 0.0 {
            return over / average * SECOND;
        }
        match limit.length > 1 {
            true => ((self.burst - maximum / 10.0) / maximum * SECOND).max(0.0),
            false => 0.0,
        }
    }

    fn fill(&mut self, limit: &Limit, units: f64) {
        self.level += units;
        if limit.length > 1 {
            self.burst += units;
        }
    }
}

#[derive(Default)]
struct Buckets {
    each: [Bucket; 6],
    last: u64,
}

/// Limits that drives and nodes share, who take turns.
pub struct Group {
    name: String,
    limits: Cell<Limits>,
    buckets: RefCell<Buckets>,
    executor: Rc<Executor>,
    /// Readers and writers that wait.
    queues: [Queue; 2],
    /// How often those who wait had reason to look again.
    changes: Cell<u64>,
}

impl Group {
    /// A group.
    pub fn new(name: &str, limits: Limits, executor: Rc<Executor>) -> Rc<Self> {
        Rc::new(Self {
            name: name.to_owned(),
            limits: Cell::new(limits),
            buckets: RefCell::default(),
            executor,
            queues: Default::default(),
            changes: Cell::new(0),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its limits.
    pub fn limits(&self) -> Limits {
        self.limits.get()
    }

    /// Changes them. The buckets begin empty.
    pub fn set_limits(&self, limits: Limits) {
        self.limits.set(limits);
        *self.buckets.borrow_mut() = Buckets {
            last: self.executor.now(),
            ..Buckets::default()
        };
        self.stir();
    }

    /// When a request may go, if not now.
    fn deadline(&self, write: bool) -> Option<u64> {
        let (limits, now) = (self.limits.get(), self.executor.now());
        let mut buckets = self.buckets.borrow_mut();
        let passed = now.saturating_sub(buckets.last) as f64;
        buckets.last = now;
        let mut wait: f64 = 0.0;
        for (index, (bucket, limit)) in buckets.each.iter_mut().zip(&limits.each).enumerate() {
            bucket.leak(limit, passed);
            if concerns(index, write) {
                wait = wait.max(bucket.wait(limit));
            }
        }
        (wait > 0.0).then(|| now.saturating_add(wait.ceil() as u64).max(now + 1))
    }

    fn account(&self, write: bool, bytes: u64) {
        let limits = self.limits.get();
        let mut buckets = self.buckets.borrow_mut();
        let requests = match limits.request_size {
            size if size > 0 && bytes > size => bytes as f64 / size as f64,
            _ => 1.0,
        };
        for (index, (bucket, limit)) in buckets.each.iter_mut().zip(&limits.each).enumerate() {
            if concerns(index, write) {
                let units = if index < IOPS { bytes as f64 } else { requests };
                bucket.fill(limit, units);
            }
        }
    }

    /// Lets all who wait look again whether they still have to.
    pub fn stir(&self) {
        self.changes.set(self.changes.get() + 1);
        for queue in &self.queues {
            queue.wake(usize::MAX);
        }
    }

    /// Waits until a request of so many bytes may go. `free` says that it may at once, as somebody waits for it; who changes that
    /// calls [`Group::stir`].
    pub async fn admit(&self, write: bool, bytes: u64, free: &dyn Fn() -> bool) {
        if !self.limits.get().any() {
            return;
        }
        let queue = &self.queues[usize::from(write)];
        let turn = Turn::new(queue);
        poll_fn(|context| match free() || turn.has_come() {
            true => Poll::Ready(()),
            false => turn.waits(context),
        })
        .await;
        while !free()
            && let Some(at) = self.deadline(write)
        {
            // Limits may change meanwhile.
            let changes = self.changes.get();
            let mut sleep = pin!(self.executor.sleep_until(at));
            poll_fn(|context| match self.changes.get() == changes {
                true if sleep.as_mut().poll(context).is_pending() => turn.waits(context),
                _ => Poll::Ready(()),
            })
            .await;
        }
        self.account(write, bytes);
    }
}

/// Requests that wait, the oldest first: each by its number, with what wakes it.
#[derive(Default)]
struct Queue {
    next: Cell<u64>,
    waiting: RefCell<VecDeque<(u64, Option<Waker>)>>,
}

impl Queue {
    /// Wakes so many of the oldest.
    fn wake(&self, count: usize) {
        let mut waiting = self.waiting.borrow_mut();
        for (_, waker) in waiting.iter_mut().take(count) {
            if let Some(waker) = waker.take() {
                waker.wake();
            }
        }
    }
}

/// A place in a queue, which is given up in the end.
struct Turn<'q> {
    queue: &'q Queue,
    number: u64,
}

impl<'q> Turn<'q> {
    fn new(queue: &'q Queue) -> Self {
        let number = queue.next.get();
        queue.next.set(number + 1);
        queue.waiting.borrow_mut().push_back((number, None));
        Self { queue, number }
    }

    fn has_come(&self) -> bool {
        let waiting = self.queue.waiting.borrow();
        waiting
            .front()
            .is_none_or(|(first, _)| *first == self.number)
    }

    fn waits(&self, context: &Context<'_>) -> Poll<()> {
        let mut waiting = self.queue.waiting.borrow_mut();
        // Numbers rise.
        if let Ok(place) = waiting.binary_search_by_key(&self.number, |(number, _)| *number) {
            waiting[place].1 = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut waiting = self.queue.waiting.borrow_mut();
        if let Ok(place) = waiting.binary_search_by_key(&self.number, |(number, _)| *number) {
            waiting.remove(place);
        }
        drop(waiting);
        self.queue.wake(1);
    }
}

/// Whether a bucket is one of reads, or of writes.
fn concerns(index: usize, write: bool) -> bool {
    match index % 3 {
        0 => true,
        1 => !write,
        _ => write,
    }
}

/// The driver `throttle`.
pub struct Throttle {
    /// What is below.
    pub file: Child,
    group: RefCell<Rc<Group>>,
    /// How many wait for all requests.
    hurried: Cell<usize>,
}

impl Throttle {
    /// The driver, with these limits.
    pub fn new(file: Child, group: Rc<Group>) -> Self {
        Self {
            file,
            group: RefCell::new(group),
            hurried: Cell::new(0),
        }
    }

    async fn admit(&self, write: bool, bytes: u64) {
        let group = self.group.borrow().clone();
        let free = || self.hurried.get() > 0;
        group.admit(write, bytes, &free).await;
    }

    fn paced<'a>(&'a self, write: bool, bytes: u64, then: Io<'a>) -> Io<'a> {
        Box::pin(async move {
            self.admit(write, bytes).await;
            then.await
        })
    }
}

impl Driver for Throttle {
    fn name(&self) -> &'static str {
        "throttle"
    }

    fn length(&self) -> u64 {
        self.file.node().length()
    }

    fn read<'a>(&'a self, at: u64, to: Buffer) -> Io<'a> {
        let bytes = to.len() as u64;
        Box::pin(async move {
            self.admit(false, bytes).await;
            self.file.node().read(at, to).await
        })
    }

    fn write<'a>(&'a self, at: u64, from: Buffer) -> Io<'a> {
        let bytes = from.len() as u64;
        Box::pin(async move {
            self.admit(true, bytes).await;
            self.file.node().write(at, from).await
        })
    }

    fn write_zeroes<'a>(&'a self, at: u64, length: u64, may_unmap: bool) -> Io<'a> {
        let then = async move { self.file.node().write_zeroes(at, length, may_unmap).await };
        self.paced(true, length, Box::pin(then))
    }

    fn discard<'a>(&'a self, at: u64, length: u64) -> Io<'a> {
        let then = async move { self.file.node().discard(at, length).await };
        self.paced(true, length, Box::pin(then))
    }

    fn resize<'a>(&'a self, _length: u64) -> Boxed<'a, Result<(), Refusal>> {
        Box::pin(std::future::ready(Err(
            "Image format driver does not support resize".to_owned(),
        )))
    }

    fn change(&self, change: Change) -> Result<Change, Refusal> {
        let mut old = self.group.borrow().clone();
        if let Change::Limits(group) = change {
            old = self.group.replace(group);
        }
        Ok(Change::Limits(old))
    }

    fn status(&self, at: u64, length: u64) -> (bool, u64) {
        self.file.node().driver().status(at, length)
    }

    fn hurry(&self, on: bool) {
        let held = match on {
            true => self.hurried.get() + 1,
            false => self.hurried.get().saturating_sub(1),
        };
        self.hurried.set(held);
        self.group.borrow().stir();
    }

    fn children(&self) -> Vec<&Child> {
        vec![&self.file]
    }

    fn describe(&self) -> Description {
        let name = self.group.borrow().name().to_owned();
        Description {
            filename: None,
            options: vec![("throttle-group".into(), OptionValue::Text(name))],
        }
    }

    fn allocated(&self) -> Option<u64> {
        self.file.node().driver().allocated()
    }

    fn has_dirty_flag(&self) -> bool {
        self.file.node().driver().has_dirty_flag()
    }

    fn is_filter(&self) -> bool {
        true
    }
}

/// What a request that can't be ends with.
pub(super) fn refuse<'a>(error: Errno) -> Io<'a> {
    Box::pin(std::future::ready(Err(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that pass within so many seconds, in requests of 4 KiB that come as fast as they may.
    fn passed(limits: Limits, seconds: u64) -> u64 {
        let executor = Executor::new(|| {});
        let group = Group::new("g", limits, executor.clone());
        let bytes = Rc::new(Cell::new(0));
        for _ in 0..4 {
            let (group, bytes) = (group.clone(), bytes.clone());
            executor.spawn(async move {
                loop {
                    group.admit(false, 4096, &|| false).await;
                    bytes.set(bytes.get() + 4096);
                }
            });
        }
        let end = seconds * 1_000_000_000;
        let mut now = 0;
        while now < end {
            executor.run(now);
            now = executor.next_deadline().unwrap_or(end);
        }
        bytes.get()
    }

    fn near(got: u64, wanted: u64) -> bool {
        got.abs_diff(wanted) * 20 <= wanted
    }

    #[test]
    fn rates_are_kept() {
        let mut limits = Limits::default();
        limits.each[BPS].average = 10 << 20;
        let got = passed(limits, 10);
        assert!(near(got, 100 << 20), "{got}");
        let mut limits = Limits::default();
        limits.each[IOPS_READ].average = 200;
        let got = passed(limits, 10);
        assert!(near(got, 2000 * 4096), "{got}");
        limits.request_size = 1024;
        let got = passed(limits, 10);
        assert!(near(got, 500 * 4096), "{got}");
    }

    #[test]
    fn bursts_are_as_long_and_as_fast_as_they_may_be() {
        let mut limits = Limits::default();
        limits.each[BPS_READ] = Limit {
            average: 1 << 20,
            maximum: 10 << 20,
            length: 2,
        };
        // A burst fills the bucket, which leaks meanwhile, at ten times the rate.
        let got = passed(limits, 2);
        assert!(near(got, 20 << 20), "{got}");
        let got = passed(limits, 12);
        assert!(near(got, 32 << 20), "{got}");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let mut limits = Limits::default();
        limits.each[BPS].average = 1;
        limits.each[BPS_READ].average = 1;
        assert!(limits.check().is_err());
        limits.each[BPS].average = 0;
        assert_eq!(limits.check(), Ok(()));
        limits.request_size = 1;
        assert!(limits.check().is_err());
        limits.request_size = 0;
        limits.each[BPS_READ].length = 2;
        assert!(limits.check().is_err());
        limits.each[BPS_READ].maximum = 5;
        assert_eq!(limits.check(), Ok(()));
        limits.each[BPS_READ].average = 6;
        assert!(limits.check().is_err());
    }
}
