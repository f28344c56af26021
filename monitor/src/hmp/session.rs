//! The human monitor as a session: one connection of a terminal, or of a program that types.
//!
//! Keys in, what the terminal shows out. The wire is QEMU 7.2's, as observed: a greeting, the prompt `(qemu) ` that scripts
//! wait for, an echo of what is typed, a command's text, and the prompt again once the command has done its work. A carriage
//! return ends a line, and so does a line feed; an empty line does nothing. Events are not shown. What is typed behind a
//! command that goes on in the background waits for its end.
//!
//! A terminal may be shared with others: while it belongs to them the session is [`blurred`](HmpSession::blur), and begins a
//! new line when it gets it back.
//!
//! What was typed, and the processor that is meant, outlive a connection.
//!
//! Limits: [`LINE_MAX`](super::LINE_MAX), [`HISTORY_MAX`](super::HISTORY_MAX), [`HISTORY_BYTES`](super::HISTORY_BYTES). A
//! command whose text does not fit into what [`Out`] holds is answered with an error that names the limit. A session whose
//! client does not read is not served.

use thimble_core::qmp::{Sink, SinkFull};

use super::completion::{self, List};
use super::editor::{Editor, Key};
use super::history::History;
use super::{Text, complete, execute_typed};
use crate::error::Fail;
use crate::handlers::Outcome;
use crate::reply::Full;
use crate::{JobId, Out, Owner, QmpError};

/// What stands where a command may be typed.
pub const PROMPT: &str = "(qemu) ";

/// What a connection begins with.
const GREETING: &str = concat!(
    "Thimble ",
    env!("CARGO_PKG_VERSION"),
    " monitor - type 'help' for more information\r\n"
);

/// Bytes of the longest name that is completed.
const NAME_MAX: usize = 1024;

/// One connection. About 40 KiB large.
#[derive(Debug)]
pub struct HmpSession {
    /// The terminal belongs to others.
    blurred: bool,
    broken: bool,
    /// The command that goes on in the background.
    pending: Option<JobId>,
    /// The processor that commands mean.
    cpu: u32,
    /// How many lines back from the newest the shown one is; 0: it is none of them.
    back: usize,
    editor: Editor,
    history: History,
}

impl Default for HmpSession {
    fn default() -> Self {
        Self::new()
    }
}

impl HmpSession {
    /// A fresh session. Large.
    pub const fn new() -> Self {
        Self {
            blurred: false,
            broken: false,
            pending: None,
            cpu: 0,
            back: 0,
            editor: Editor::new(),
            history: History::new(),
        }
    }

    /// Starts a connection: greets and asks for a command.
    pub fn open(&mut self, out: &mut dyn Out) {
        self.broken = false;
        self.pending = None;
        let greeted = out.put(GREETING.as_bytes());
        self.note(greeted);
        self.focus(out);
    }

    /// The terminal belongs to this session again: an empty line.
    pub fn focus(&mut self, out: &mut dyn Out) {
        self.blurred = false;
        self.prompt(out);
    }

    /// The terminal belongs to others from now on.
    pub fn blur(&mut self, out: &mut dyn Out) {
        if !self.blurred {
            self.blurred = true;
            let ended = out.put(b"\r\n");
            self.note(ended);
        }
    }

    /// The command that goes on in the background.
    pub fn pending(&self) -> Option<JobId> {
        self.pending
    }

    /// Whether output was lost, so that the connection must be closed.
    pub fn broken(&self) -> bool {
        self.broken
    }

    /// Takes input and executes the commands in it, and returns how many bytes it took. It takes none while `out` has
    /// output pending, or a command goes on in the background.
    pub fn feed(&mut self, bytes: &[u8], owner: &mut dyn Owner, out: &mut dyn Out) -> usize {
        let mut used = 0;
        for byte in bytes {
            if self.broken || self.pending.is_some() || owner.quits() || out.pending() {
                break;
            }
            used += 1;
            let done = self.key(*byte, owner, out);
            self.note(done);
        }
        used
    }

    /// Tells what came of the command that went on in the background.
    pub fn complete(&mut self, result: &Result<(), QmpError>, out: &mut dyn Out) {
        if self.pending.take().is_some() {
            let told = complete(result, &mut Text::new(out));
            self.note(told);
            self.prompt(out);
        }
    }

    fn note(&mut self, done: Result<(), SinkFull>) {
        self.broken |= done.is_err();
    }

    /// Asks for a command, if it is this session's turn.
    fn prompt(&mut self, out: &mut dyn Out) {
        self.editor.clear();
        self.back = 0;
        if !self.blurred && self.pending.is_none() {
            let shown = out.put(PROMPT.as_bytes());
            self.note(shown);
        }
    }

    fn key(&mut self, byte: u8, owner: &mut dyn Owner, out: &mut dyn Out) -> Result<(), SinkFull> {
        match self.editor.take(byte, out)? {
            Key::Done => Ok(()),
            Key::Enter => self.enter(owner, out),
            Key::Complete => self.complete_word(owner, out),
            Key::Previous => self.recall(self.back + 1, out),
            Key::Next => self.recall(self.back.saturating_sub(1), out),
            Key::Redraw => {
                out.put(b"\x1b[2J\x1b[1;1H")?;
                self.show(out)
            }
        }
    }

    /// Shows the prompt and the line.
    fn show(&self, out: &mut dyn Out) -> Result<(), SinkFull> {
        out.put(PROMPT.as_bytes())?;
        self.editor.show(out)
    }

    /// Shows the line so many lines back; beyond the newest one, none.
    fn recall(&mut self, back: usize, out: &mut dyn Out) -> Result<(), SinkFull> {
        if back == self.back || back > self.history.len() {
            return Ok(());
        }
        self.back = back;
        let mut lines = self.history.lines();
        let line = match back {
            0 => None,
            _ => lines.nth(self.history.len() - back),
        };
        self.editor.set(line.unwrap_or_default(), out)
    }

    fn enter(&mut self, owner: &mut dyn Owner, out: &mut dyn Out) -> Result<(), SinkFull> {
        out.put(b"\r\n")?;
        let line = self.editor.line();
        self.history.add(line);
        let mark = out.mark();
        let history = Some(&self.history);
        match execute_typed(line, owner, &mut self.cpu, history, &mut Text::new(out)) {
            Ok(Outcome::Done) => {}
            Ok(Outcome::Pending(job)) => self.pending = Some(job),
            Err(SinkFull) => {
                out.truncate(mark);
                out.put(b"Error: ")?;
                for piece in Fail::from(Full::Output).parts().1 {
                    out.put(piece)?;
                }
                out.put(b"\r\n")?;
            }
        }
        if !owner.quits() {
            self.prompt(out);
        }
        Ok(())
    }

    fn complete_word(&mut self, owner: &mut dyn Owner, out: &mut dyn Out) -> Result<(), SinkFull> {
        let Some(completion) = completion::at(self.editor.before()) else {
            return Ok(());
        };
        // What all names begin with, how many they are, and how long the longest is.
        let mut common = heapless::Vec::<u8, NAME_MAX>::new();
        let (mut count, mut longest) = (0_usize, 0);
        completion.names(owner, &mut |name| {
            if name.len() > NAME_MAX {
                return;
            }
            longest = longest.max(name.len());
            if count == 0 {
                // It fits, as was just looked.
                let _ = common.extend_from_slice(name);
            }
            let same = common.iter().zip(name).take_while(|(a, b)| a == b);
            let same = same.count();
            common.truncate(same);
            count += 1;
        });
        let typed = completion.word.len();
        let Some(new) = common.get(typed..).filter(|_| count > 0) else {
            return Ok(());
        };
        if count == 1 {
            self.editor.insert(new, out)?;
            if common.last() != Some(&b'/') {
                self.editor.insert(b" ", out)?;
            }
            return Ok(());
        }
        let mut list = List::new(longest);
        let mut shown = Ok(());
        completion.names(owner, &mut |name| {
            if name.len() > NAME_MAX || shown.is_err() {
                return;
            }
            if let Some((before, spaces)) = list.place(name) {
                shown = out.put(before).and_then(|()| out.put(name));
                for _ in 0..spaces {
                    shown = shown.and_then(|()| out.put(b" "));
                }
            }
        });
        shown?;
        out.put(b"\r\n")?;
        // Shown as it was, and then changed, it would flicker.
        self.editor.insert(new, &mut Nowhere)?;
        self.show(out)
    }
}

/// Where nobody looks.
struct Nowhere;

impl Sink for Nowhere {
    fn put(&mut self, _bytes: &[u8]) -> Result<(), SinkFull> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::string::String;
    use std::vec::Vec;

    use super::super::tests::{Deaf, machine};
    use super::*;
    use crate::InMemory;

    /// Takes everything, and lets one look.
    #[derive(Default)]
    struct Paper {
        bytes: Vec<u8>,
        pending: bool,
    }

    /// Bytes that fit on it.
    const PAPER: usize = 1 << 16;

    impl Sink for Paper {
        fn put(&mut self, bytes: &[u8]) -> Result<(), SinkFull> {
            if self.bytes.len() + bytes.len() > PAPER {
                return Err(SinkFull);
            }
            self.bytes.extend_from_slice(bytes);
            Ok(())
        }
    }

    impl Out for Paper {
        fn pending(&mut self) -> bool {
            self.pending
        }

        fn mark(&self) -> usize {
            self.bytes.len()
        }

        fn truncate(&mut self, mark: usize) {
            self.bytes.truncate(mark);
        }

        fn put_since(&self, mark: usize) -> &[u8] {
            self.bytes.get(mark..).unwrap_or_default()
        }
    }

    struct Bench {
        session: HmpSession,
        owner: InMemory<'static, Deaf>,
        paper: Paper,
    }

    impl Bench {
        fn new() -> Self {
            let mut bench = Self {
                session: HmpSession::new(),
                owner: machine(&[]),
                paper: Paper::default(),
            };
            bench.session.open(&mut bench.paper);
            bench.shown();
            bench
        }

        /// Types, and tells what is shown for it.
        fn types(&mut self, keys: &str) -> String {
            let Self {
                session,
                owner,
                paper,
            } = self;
            assert_eq!(session.feed(keys.as_bytes(), owner, paper), keys.len());
            self.shown()
        }

        fn shown(&mut self) -> String {
            assert!(!self.session.broken());
            String::from_utf8(core::mem::take(&mut self.paper.bytes)).expect("text")
        }
    }

    #[test]
    fn a_connection_greets_and_asks() {
        let mut bench = Bench::new();
        bench.session.open(&mut bench.paper);
        let shown = bench.shown();
        assert!(shown.starts_with("Thimble "));
        assert!(shown.ends_with(" monitor - type 'help' for more information\r\n(qemu) "));
        assert_eq!(bench.types("p 1+1\n"), "p 1+1\r\n0x2\r\n(qemu) ");
        // Each of the two ends a line.
        assert_eq!(bench.types("\r\n"), "\r\n(qemu) \r\n(qemu) ");
        // A new connection has a new line, and knows the old ones.
        bench.types("left over");
        bench.session.open(&mut bench.paper);
        bench.shown();
        assert_eq!(bench.types("\x1b[A\n"), "p 1+1\r\n0x2\r\n(qemu) ");
    }

    #[test]
    fn lines_are_recalled() {
        let mut bench = Bench::new();
        assert_eq!(bench.types("\x1b[A\x1b[B"), "");
        bench.types("p 1\np 2\np 1\n");
        assert_eq!(bench.types("\x10\x10\x10"), "p 1\x1b[3Dp 2");
        assert_eq!(bench.types("\n"), "\r\n0x2\r\n(qemu) ");
        assert_eq!(bench.types("p 9\x10\x0e"), "p 9\x1b[3Dp 2\x1b[3D\x1b[K");
        assert_eq!(
            bench.types("info history\n"),
            "info history\r\n0: 'p 1'\r\n1: 'p 2'\r\n2: 'info history'\r\n(qemu) "
        );
    }

    #[test]
    fn words_are_completed() {
        let mut bench = Bench::new();
        for (keys, line) in [
            ("inf\t", "info "),
            ("info histo\t", "info history "),
            ("  info \thist\t", "  info history "),
            ("help inf\tstatu\t", "help info status "),
            ("? pr\t", "? print "),
            ("watchdog_action paus\t", "watchdog_action pause "),
            ("nothing pr\t", "nothing pr"),
            ("stop pr\t", "stop pr"),
            ("xyz\t", "xyz"),
            ("stx\x1b[D\t", "stop x"),
            ("\"inf\t", "\"info "),
            ("logfile /di\t", "logfile /disk "),
            ("logfile \"/du\tx\t", "logfile \"/dump/x"),
            (
                "trace-event guest_cpu_res\tof\t",
                "trace-event guest_cpu_reset off ",
            ),
            ("info registers -\t", "info registers -"),
        ] {
            bench.types(keys);
            // The line as it is, wherever the cursor stands.
            let shown = bench.types("\x0c\x15\x0b");
            let shown = shown.split_once("(qemu) ").expect("a prompt").1;
            let shown = shown.split('\x1b').next().expect("a line");
            assert_eq!(shown, line, "{keys:?}");
        }
    }

    #[test]
    fn several_completions_are_listed() {
        let mut bench = Bench::new();
        assert_eq!(
            bench.types("watchdog_action p\t"),
            "watchdog_action p\r\npause     poweroff  \r\n(qemu) watchdog_action p"
        );
        bench.types("\x15");
        // What they have in common is taken.
        assert_eq!(
            bench.types("sy\t"),
            "sy\r\nsystem_powerdown  system_reset      system_wakeup     \r\n(qemu) system_"
        );
        bench.types("\x15");
        let all = bench.types("\t");
        assert!(all.starts_with("\r\n?  "), "{all}");
        assert!(all.lines().all(|line| line.len() <= 80));
        assert!(all.contains("xp "), "{all}");
    }

    #[test]
    fn a_terminal_that_is_shared() {
        let mut bench = Bench::new();
        bench.types("typed");
        bench.session.blur(&mut bench.paper);
        bench.session.blur(&mut bench.paper);
        assert_eq!(bench.shown(), "\r\n");
        bench.session.focus(&mut bench.paper);
        assert_eq!(bench.shown(), PROMPT);
        assert_eq!(bench.types("\n"), "\r\n(qemu) ");
    }

    #[test]
    fn commands_in_the_background_hold_the_input_up() {
        let mut bench = Bench::new();
        let keys = "pmemsave 0 16 file\np 1\n";
        let Bench {
            session,
            owner,
            paper,
        } = &mut bench;
        let taken = session.feed(keys.as_bytes(), owner, paper);
        assert!(keys[taken..].starts_with("p 1"));
        assert_eq!(session.feed(b"p 1\n", owner, paper), 0);
        assert_eq!(bench.shown(), "pmemsave 0 16 file\r\n");
        assert!(bench.session.pending().is_some());
        bench.session.complete(&Ok(()), &mut bench.paper);
        assert_eq!(bench.shown(), PROMPT);
        assert_eq!(bench.types("p 1\n"), "p 1\r\n0x1\r\n(qemu) ");
    }

    #[test]
    fn an_end_says_nothing_more() {
        let mut bench = Bench::new();
        let Bench {
            session,
            owner,
            paper,
        } = &mut bench;
        assert_eq!(session.feed(b"q\nstop\n", owner, paper), 2);
        assert_eq!(bench.shown(), "q\r\n");
    }

    #[test]
    fn a_client_that_does_not_read_is_not_served() {
        let mut bench = Bench::new();
        bench.paper.pending = true;
        let Bench {
            session,
            owner,
            paper,
        } = &mut bench;
        assert_eq!(session.feed(b"p 1\n", owner, paper), 0);
        assert_eq!(bench.shown(), "");
    }

    #[test]
    fn too_much_text_is_an_error() {
        let mut bench = Bench::new();
        assert_eq!(
            bench.types("x/20000xb 0\n"),
            "x/20000xb 0\r\nError: The reply is larger than the output limit (4194304 bytes)\r\n(qemu) "
        );
    }
}
