//! Whose turn it is to touch the block layer.
//!
//! All of a [`Graph`] is of one thread at a time, and made of cells and counts that need no locks. The main thread has the turn
//! but while it sleeps. Threads that serve queues of disks take it then, for as long as it takes to begin requests and to
//! settle what has ended; they never wait for it, and are called when they can have it.
//!
//! Who has the turn may take the machine's lock, never the other way round.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::Graph;

/// Calls who waits for the turn.
pub trait Caller: Send + Sync {
    /// The turn is free, or may be.
    fn call(&self);
}

#[derive(Default)]
struct State {
    taken: bool,
    /// The main thread waits, before whom all others stand back.
    main_waits: bool,
    callers: Vec<Arc<dyn Caller>>,
}

/// The turn, and what it is about.
pub struct Turn {
    graph: Rc<Graph>,
    state: Mutex<State>,
    freed: Condvar,
    /// There are callers, or the main thread waits: whoever has the turn gives it up soon.
    wanted: AtomicBool,
}

// SAFETY: `graph`, and all that is reached from it, is touched only by the thread that has the turn: `Taken` is the only way to it
// from here, and the main thread, which has it by other ways, has the turn whenever it is not in `Turn::without`. Taking and giving
// the turn go by a mutex, which orders what two threads do one after the other.
unsafe impl Send for Turn {}
// SAFETY: as above.
unsafe impl Sync for Turn {}

/// The turn, until it is dropped.
pub struct Taken<'a>(&'a Turn);

impl Turn {
    /// The turn of the thread that calls this: the main thread.
    pub fn new(graph: Rc<Graph>) -> Arc<Self> {
        let state = State {
            taken: true,
            ..State::default()
        };
        Arc::new(Self {
            graph,
            state: Mutex::new(state),
            freed: Condvar::new(),
            wanted: AtomicBool::new(false),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self) {
        let mut state = self.lock();
        state.taken = false;
        if state.main_waits {
            self.freed.notify_one();
            return;
        }
        self.wanted.store(false, Ordering::Relaxed);
        let callers = std::mem::take(&mut state.callers);
        drop(state);
        for caller in callers {
            caller.call();
        }
    }

    /// Gives the turn up for as long as the main thread does something that does not touch the block layer: it sleeps.
    pub fn without<R>(&self, sleep: impl FnOnce() -> R) -> R {
        self.give();
        let result = sleep();
        let mut state = self.lock();
        while state.taken {
            state.main_waits = true;
            self.wanted.store(true, Ordering::Relaxed);
            state = self
                .freed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.main_waits = false;
        state.taken = true;
        result
    }

    /// Takes the turn if it is free; else `caller` is called once it is.
    pub fn try_take(&self, caller: &Arc<impl Caller + 'static>) -> Option<Taken<'_>> {
        let mut state = self.lock();
        if !state.taken && !state.main_waits {
            state.taken = true;
            return Some(Taken(self));
        }
        let is_it =
            |other: &Arc<dyn Caller>| Arc::as_ptr(other).addr() == Arc::as_ptr(caller).addr();
        if !state.callers.iter().any(is_it) {
            let caller: Arc<dyn Caller> = caller.clone();
            state.callers.push(caller);
        }
        self.wanted.store(true, Ordering::Relaxed);
        None
    }
}

impl Taken<'_> {
    /// What the turn is about.
    pub fn graph(&self) -> &Rc<Graph> {
        &self.0.graph
    }

    /// Whether somebody waits for it.
    pub fn is_wanted(&self) -> bool {
        self.0.wanted.load(Ordering::Relaxed)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.give();
    }
}

#[cfg(test)]
mod tests {
    use super::super::executor::Executor;
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Calls(AtomicUsize);

    impl Caller for Calls {
        fn call(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn one_has_it_and_the_others_are_called() {
        let turn = Turn::new(Graph::new(Executor::new(|| {})));
        let calls = Arc::new(Calls::default());
        let called = || calls.0.load(Ordering::SeqCst);
        assert!(turn.try_take(&calls).is_none());
        assert!(turn.try_take(&calls).is_none());
        assert_eq!(called(), 0);
        turn.without(|| {
            assert_eq!(called(), 1, "once, however often it has asked");
            let taken = turn.try_take(&calls).unwrap();
            assert!(!taken.is_wanted());
            assert!(turn.try_take(&calls).is_none());
            assert!(taken.is_wanted());
            drop(taken);
            assert_eq!(called(), 2);
        });
        assert!(turn.try_take(&calls).is_none());
    }

    #[test]
    fn the_main_thread_comes_first() {
        let turn = Turn::new(Graph::new(Executor::new(|| {})));
        let calls = Arc::new(Calls::default());
        let took = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                let taken = loop {
                    if let Some(taken) = turn.try_take(&calls) {
                        break taken;
                    }
                    std::thread::yield_now();
                };
                took.store(true, Ordering::SeqCst);
                while !taken.is_wanted() {
                    std::thread::yield_now();
                }
                drop(taken);
            });
            turn.without(|| {
                while !took.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
            });
            assert!(turn.try_take(&calls).is_none());
            assert!(other.join().is_ok());
        });
    }
}
