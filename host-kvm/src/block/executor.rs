//! What drives requests: tasks of one thread, which wait for workers, for the clock and for each other.
//!
//! A task is a future. It is polled only in [`Executor::run`], in the order in which tasks became ready, and time is handed
//! in: a run over memory can be repeated. Workers wake tasks from their own threads.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// A future in a box.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Which tasks are to be polled.
struct Ready {
    queue: Mutex<VecDeque<usize>>,
    changed: Condvar,
    /// Wakes the thread that calls [`Executor::run`].
    call: Box<dyn Fn() + Send + Sync>,
}

impl Ready {
    fn lock(&self) -> MutexGuard<'_, VecDeque<usize>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells from any thread whether [`Executor::run`] has something to do.
#[derive(Clone)]
pub struct Readiness(Arc<Ready>);

impl Readiness {
    /// Whether a task is to be polled.
    pub fn is_any(&self) -> bool {
        !self.0.lock().is_empty()
    }
}

struct TaskWaker {
    task: usize,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut queue = self.ready.lock();
        if queue.contains(&self.task) {
            return;
        }
        let first = queue.is_empty();
        queue.push_back(self.task);
        drop(queue);
        if first {
            self.ready.changed.notify_all();
            (self.ready.call)();
        }
    }
}

enum Slot {
    Free,
    /// It is being polled.
    Out,
    Task(Boxed<'static, ()>),
}

/// The tasks of a thread.
pub struct Executor {
    tasks: RefCell<Vec<Slot>>,
    ready: Arc<Ready>,
    timers: RefCell<BTreeMap<(u64, u64), Waker>>,
    last_timer: Cell<u64>,
    now: Cell<u64>,
}

impl Executor {
    /// Without tasks. `call` is called, from any thread, when there is something to run.
    pub fn new(call: impl Fn() + Send + Sync + 'static) -> Rc<Self> {
        Rc::new(Self {
            tasks: RefCell::default(),
            ready: Arc::new(Ready {
                queue: Mutex::default(),
                changed: Condvar::new(),
                call: Box::new(call),
            }),
            timers: RefCell::default(),
            last_timer: Cell::new(0),
            now: Cell::new(0),
        })
    }

    /// Starts a task, which first runs in the next [`Executor::run`].
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let task = Slot::Task(Box::pin(task));
        let mut tasks = self.tasks.borrow_mut();
        let free = tasks.iter().position(|slot| matches!(slot, Slot::Free));
        let index = match free {
            Some(index) => {
                tasks[index] = task;
                index
            }
            None => {
                tasks.push(task);
                tasks.len() - 1
            }
        };
        drop(tasks);
        self.ready.lock().push_back(index);
    }

    /// What tells other threads whether there is something to do.
    pub fn readiness(&self) -> Readiness {
        Readiness(self.ready.clone())
    }

    /// The time of the last run, in nanoseconds.
    pub fn now(&self) -> u64 {
        self.now.get()
    }

    /// Runs what is ready at `now`, and what becomes ready by that.
    pub fn run(&self, now: u64) {
        self.now.set(now.max(self.now.get()));
        self.expire();
        loop {
            let next = self.ready.lock().pop_front();
            let Some(index) = next else { return };
            self.poll(index);
        }
    }

    fn expire(&self) {
        loop {
            let mut timers = self.timers.borrow_mut();
            match timers.first_key_value() {
                Some(((at, _), _)) if *at <= self.now.get() => {}
                _ => return,
            }
            let first = timers.pop_first();
            drop(timers);
            if let Some((_, waker)) = first {
                waker.wake();
            }
        }
    }

    fn poll(&self, index: usize) {
        let taken = match self.tasks.borrow_mut().get_mut(index) {
            Some(slot @ Slot::Task(_)) => mem::replace(slot, Slot::Out),
            _ => return,
        };
        let Slot::Task(mut task) = taken else { return };
        let waker = self.waker(index);
        let ended = task
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_ready();
        let slot = match ended {
            true => Slot::Free,
            false => Slot::Task(task),
        };
        if let Some(place) = self.tasks.borrow_mut().get_mut(index) {
            *place = slot;
        }
    }

    fn waker(&self, task: usize) -> Waker {
        let ready = self.ready.clone();
        Waker::from(Arc::new(TaskWaker { task, ready }))
    }

    /// When [`Executor::run`] has something to do next, if nobody wakes a task before.
    pub fn next_deadline(&self) -> Option<u64> {
        self.timers
            .borrow()
            .first_key_value()
            .map(|((at, _), _)| *at)
    }

    /// Waits for a future while other tasks go on, and sleeps where there is nothing to do: for what a command has to
    /// wait for. `clock` tells the time.
    pub fn block_on<T>(&self, clock: &dyn Fn() -> u64, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        // A number that no task has: being woken ends the sleep, and that is all that is needed.
        let waker = self.waker(usize::MAX);
        loop {
            if let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return result;
            }
            self.run(clock());
            if let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return result;
            }
            let queue = self.ready.lock();
            if !queue.is_empty() {
                continue;
            }
            let wait = self
                .next_deadline()
                .map_or(Duration::from_millis(100), |at| {
                    Duration::from_nanos(at.saturating_sub(clock())).min(Duration::from_millis(100))
                });
            drop(self.ready.changed.wait_timeout(queue, wait));
        }
    }

    /// Waits until a time.
    pub fn sleep_until(self: &Rc<Self>, at: u64) -> Sleep {
        let number = self.last_timer.get();
        self.last_timer.set(number + 1);
        Sleep {
            executor: self.clone(),
            key: (at, number),
        }
    }
}

/// See [`Executor::sleep_until`].
pub struct Sleep {
    executor: Rc<Executor>,
    key: (u64, u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.executor.now() >= self.key.0 {
            return Poll::Ready(());
        }
        let mut timers = self.executor.timers.borrow_mut();
        timers.insert(self.key, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.executor.timers.borrow_mut().remove(&self.key);
    }
}

/// Tasks that wait for a change of something that they then look at again.
#[derive(Default)]
pub struct Changed(RefCell<Vec<Waker>>);

impl Changed {
    /// Wakes all who wait.
    pub fn tell(&self) {
        for waker in self.0.take() {
            waker.wake();
        }
    }

    /// Waits until a condition holds, which is looked at after each [`Changed::tell`].
    pub async fn until(&self, condition: impl Fn() -> bool) {
        std::future::poll_fn(|context| {
            if condition() {
                return Poll::Ready(());
            }
            self.0.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// A result that another thread will have, and who waits for it.
pub struct Promise<T>(Arc<Mutex<Promised<T>>>);

struct Promised<T> {
    result: Option<T>,
    waker: Option<Waker>,
}

impl<T> Promise<T> {
    /// A promise, and what ends when it is kept.
    pub fn new() -> (Self, impl Future<Output = T> + use<T>) {
        let promised = Arc::new(Mutex::new(Promised {
            result: None,
            waker: None,
        }));
        let waited_for = Self(promised.clone());
        let end = std::future::poll_fn(move |context| {
            let mut promised = waited_for.lock();
            match promised.result.take() {
                Some(result) => Poll::Ready(result),
                None => {
                    promised.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        });
        (Self(promised), end)
    }

    fn lock(&self) -> MutexGuard<'_, Promised<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Here is the result.
    pub fn keep(self, result: T) {
        let mut promised = self.lock();
        promised.result = Some(result);
        let waker = promised.waker.take();
        drop(promised);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Starts a thread that takes no signals.
///
/// # Errors
/// Whatever clone(2) says.
pub fn start_thread(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let _blocked = crate::signals::Blocked::all();
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK)
        .spawn(work)
        .map(drop)
}

/// Work that a thread of the pool does.
pub type Work = Box<dyn FnOnce() + Send>;

/// Threads of the pool at most.
const THREADS_MAX: usize = 16;

/// Bytes of their stacks.
const STACK: usize = 128 << 10;

/// For how long a thread without work stays.
pub const IDLE: Duration = Duration::from_millis(if cfg!(test) { 30 } else { 10_000 });

#[derive(Default)]
struct Queue {
    work: VecDeque<Work>,
    threads: usize,
    idle: usize,
}

#[derive(Default)]
struct PoolState {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl PoolState {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Threads for calls that may take long. They come when there is work, and go when there is none for a while.
#[derive(Clone, Default)]
pub struct Pool(Arc<PoolState>);

impl Pool {
    /// Lets a thread do something, and waits for its result.
    pub fn run<T: Send + 'static, W: FnOnce() -> T + Send + 'static>(
        &self,
        work: W,
    ) -> impl Future<Output = T> + use<T, W> {
        let (promise, end) = Promise::new();
        self.start(Box::new(move || promise.keep(work())));
        end
    }

    /// Lets a thread do something.
    pub fn start(&self, work: Work) {
        let mut queue = self.0.lock();
        queue.work.push_back(work);
        if queue.idle >= queue.work.len() || queue.threads == THREADS_MAX {
            drop(queue);
            self.0.changed.notify_one();
            return;
        }
        queue.threads += 1;
        drop(queue);
        let state = self.0.clone();
        if start_thread("block worker", move || serve(&state)).is_err() {
            let mut queue = self.0.lock();
            queue.threads -= 1;
            if queue.threads == 0 {
                // Without any thread the caller has to do it all.
                let work = mem::take(&mut queue.work);
                drop(queue);
                work.into_iter().for_each(|work| work());
            }
        }
    }
}

fn serve(state: &PoolState) {
    let mut queue = state.lock();
    loop {
        if let Some(work) = queue.work.pop_front() {
            drop(queue);
            work();
            queue = state.lock();
            continue;
        }
        queue.idle += 1;
        let (again, waited) = match state.changed.wait_timeout(queue, IDLE) {
            Ok((queue, waited)) => (queue, waited),
            Err(poisoned) => poisoned.into_inner(),
        };
        queue = again;
        queue.idle -= 1;
        if waited.timed_out() && queue.work.is_empty() {
            queue.threads -= 1;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_run_in_order_and_by_the_clock() {
        let executor = Executor::new(|| {});
        let log = Rc::new(RefCell::new(Vec::new()));
        for (name, at) in [("late", 20), ("early", 10), ("now", 0)] {
            let (log, sleep) = (log.clone(), executor.sleep_until(at));
            executor.spawn(async move {
                sleep.await;
                log.borrow_mut().push(name);
            });
        }
        executor.run(0);
        assert_eq!(*log.borrow(), ["now"]);
        assert_eq!(executor.next_deadline(), Some(10));
        executor.run(9);
        executor.run(25);
        assert_eq!(*log.borrow(), ["now", "early", "late"]);
        assert_eq!(executor.next_deadline(), None);
    }

    #[test]
    fn workers_wake_who_waits() {
        let executor = Executor::new(|| {});
        let pool = Pool::default();
        let sum = executor.block_on(&|| 0, async {
            let (a, b) = (pool.run(|| 2), pool.run(|| 3));
            a.await + b.await
        });
        assert_eq!(sum, 5);
    }

    #[test]
    fn who_waits_for_a_change_looks_again() {
        let executor = Executor::new(|| {});
        let (changed, number) = (Rc::new(Changed::default()), Rc::new(Cell::new(0)));
        let done = Rc::new(Cell::new(false));
        let (c, n, d) = (changed.clone(), number.clone(), done.clone());
        executor.spawn(async move {
            c.until(|| n.get() == 2).await;
            d.set(true);
        });
        for expected in [false, false, true] {
            executor.run(0);
            assert_eq!(done.get(), expected && number.get() == 2);
            number.set(number.get() + 1);
            changed.tell();
        }
        executor.run(0);
        assert!(done.get());
    }
}
