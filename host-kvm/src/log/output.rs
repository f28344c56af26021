//! Where log and traces go: text that waits in memory, and a thread that writes it.
//!
//! Processors and the main thread only put text down. A file or a pipe that is slow makes the log wait ([`Output::put`]), or loses
//! trace lines, which are counted ([`Output::offer`]): they come from under the machine's lock. A file that can't be written ends
//! the output, with one line that says so, and harms nothing else.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::error_text;
use crate::messages::report;
use crate::signals::Blocked;

/// Bytes that wait at most, and a piece, before the log waits, too.
const PUT_MAX: usize = 64 << 10;
/// Bytes that wait at most before trace lines are lost.
const OFFER_MAX: usize = 1 << 20;
/// Bytes of the thread's stack.
const STACK: usize = 64 << 10;

/// How long the end of the process waits for what is not written yet.
pub const LAST_WORDS: Duration = Duration::from_secs(1);

/// A place for text, with a thread of its own once there is some.
pub struct Output {
    state: Mutex<State>,
    /// There is text to write, or somebody waits for the other one.
    filled: Condvar,
    /// Text was written.
    drained: Condvar,
}

struct State {
    /// `None` once a write has failed.
    to: Option<Box<dyn io::Write + Send>>,
    waiting: Vec<u8>,
    /// The thread is writing.
    busy: bool,
    /// There is a thread.
    started: bool,
    /// Trace lines that found no room.
    lost: u64,
}

impl State {
    /// Whether nothing will be written any more. While the thread writes, it has `to`.
    fn has_ended(&self) -> bool {
        self.to.is_none() && !self.busy
    }
}

impl Output {
    /// An output to wherever `to` leads.
    pub fn new(to: Box<dyn io::Write + Send>) -> Arc<Self> {
        let state = State {
            to: Some(to),
            waiting: Vec::new(),
            busy: false,
            started: false,
            lost: 0,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            filled: Condvar::new(),
            drained: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts text down, and waits for room behind it where much waits already.
    pub fn put(self: &Arc<Self>, text: &str) {
        let mut state = self.lock();
        self.add(&mut state, &[text.as_bytes()]);
        while !state.has_ended() && state.waiting.len() > PUT_MAX {
            state = self
                .drained
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Puts a line of pieces down, with a newline, if there is room.
    pub fn offer(self: &Arc<Self>, pieces: &[&[u8]]) {
        let mut state = self.lock();
        if state.waiting.len() >= OFFER_MAX {
            state.lost += 1;
            return;
        }
        self.add(&mut state, pieces);
        self.add(&mut state, &[b"\n"]);
    }

    fn add(self: &Arc<Self>, state: &mut State, pieces: &[&[u8]]) {
        if state.has_ended() {
            return;
        }
        if !state.started {
            state.started = true;
            let output = self.clone();
            let _mask = Blocked::all();
            let thread = thread::Builder::new()
                .name("log".to_owned())
                .stack_size(STACK)
                .spawn(move || output.write_all());
            if thread.is_err() {
                // Without one there is nobody who would write.
                state.to = None;
                return;
            }
        }
        if state.waiting.is_empty() {
            self.filled.notify_one();
        }
        for piece in pieces {
            state.waiting.extend_from_slice(piece);
        }
    }

    /// The thread: writes what comes, for ever.
    fn write_all(&self) {
        let mut text = Vec::new();
        let mut state = self.lock();
        loop {
            while state.waiting.is_empty() {
                state = self
                    .filled
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            std::mem::swap(&mut text, &mut state.waiting);
            let lost = std::mem::take(&mut state.lost);
            let Some(mut to) = state.to.take() else {
                state.waiting.clear();
                continue;
            };
            state.busy = true;
            drop(state);
            if lost > 0 {
                text.extend_from_slice(format!("({lost} trace lines are lost here)\n").as_bytes());
            }
            let done = to.write_all(&text);
            text.clear();
            // Most of the time it is short.
            text.shrink_to(PUT_MAX);
            if let Err(error) = &done {
                let error = error_text(error);
                report(format_args!(
                    "the log ends, as it can't be written: {error}"
                ));
            }
            state = self.lock();
            state.busy = false;
            if done.is_ok() {
                // Unless it was redirected meanwhile.
                state.to.get_or_insert(to);
            }
            self.drained.notify_all();
        }
    }

    /// Waits until all is written, but not for longer than this.
    pub fn flush(&self, most: Duration) {
        let state = self.lock();
        let unwritten = |state: &mut State| state.busy || !state.waiting.is_empty();
        let _ = self.drained.wait_timeout_while(state, most, unwritten);
    }

    /// Writes to somewhere else from now on; what was put down before is written to where it was meant for, unless that takes too
    /// long.
    pub fn redirect(&self, to: Box<dyn io::Write + Send>) {
        self.flush(LAST_WORDS);
        self.lock().to = Some(to);
    }

    /// Whether it has ended, because it could not be written.
    pub fn has_ended(&self) -> bool {
        self.lock().has_ended()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A place that takes a piece whenever it is let.
    struct Slow(mpsc::Receiver<()>, Arc<Mutex<Vec<u8>>>);

    impl io::Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0
                .recv()
                .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
            self.1.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn slow() -> (Arc<Output>, mpsc::Sender<()>, Arc<Mutex<Vec<u8>>>) {
        let (sender, receiver) = mpsc::channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let output = Output::new(Box::new(Slow(receiver, written.clone())));
        (output, sender, written)
    }

    #[test]
    fn lines_are_lost_and_counted_while_nobody_reads() {
        let (output, sender, written) = slow();
        let line = [b'x'; 1000];
        for _ in 0..3000 {
            output.offer(&[&line]);
        }
        assert!(output.lock().waiting.len() < OFFER_MAX + 1001);
        assert!(output.lock().waiting.capacity() < 4 * OFFER_MAX);
        for _ in 0..10 {
            sender.send(()).unwrap();
        }
        output.flush(Duration::from_secs(10));
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        let whole = text.lines().filter(|line| line.len() == 1000).count();
        let lost = text.lines().find(|line| line.starts_with('(')).unwrap();
        assert_eq!(
            lost,
            format!("({} trace lines are lost here)", 3000 - whole)
        );
    }

    #[test]
    fn a_broken_pipe_ends_it() {
        let (output, sender, written) = slow();
        drop(sender);
        output.put("a");
        output.flush(Duration::from_secs(10));
        assert!(output.has_ended());
        // Nobody waits for what will never be written.
        for _ in 0..100 {
            output.put(&"b".repeat(PUT_MAX));
            output.offer(&[b"c"]);
        }
        assert!(output.lock().waiting.is_empty());
        assert_eq!(*written.lock().unwrap(), b"");
        let (next, sender) = (Arc::new(Mutex::new(Vec::new())), mpsc::channel());
        output.redirect(Box::new(Slow(sender.1, next.clone())));
        sender.0.send(()).unwrap();
        output.put("d");
        output.flush(Duration::from_secs(10));
        assert_eq!(*next.lock().unwrap(), b"d");
    }

    #[test]
    fn the_end_does_not_wait_for_ever() {
        let (output, _sender, _) = slow();
        output.put("a");
        output.flush(Duration::from_millis(10));
    }

    #[test]
    fn the_log_waits_for_room() {
        let (output, sender, written) = slow();
        let writer = output.clone();
        let thread = thread::spawn(move || {
            for _ in 0..10 {
                writer.put(&"y".repeat(PUT_MAX));
            }
        });
        for _ in 0..20 {
            sender.send(()).unwrap();
        }
        thread.join().unwrap();
        output.flush(Duration::from_secs(10));
        assert_eq!(written.lock().unwrap().len(), 10 * PUT_MAX);
    }
}
