//! What people do: keys, buttons and movements on their way to the machine's keyboard and mouse, at once or, for keys that are typed for
//! someone, in the rhythm of the virtual clock.
//!
//! Typed keys go down one after the other, stay so for a while, and go up in the opposite order; the same time passes
//! after each of these, as observed of QEMU 7.2. What is typed later comes later. A reset changes nothing about it.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::board::timer;
use super::{Board, Host, Machine};
use crate::devices::Context;
use crate::devices::input::{InputEvent, QKeyCode};
use crate::state::{SavedState, StateError};

/// Keys going down or up that wait to be typed at most.
pub const TYPED_MAX: usize = 340;

/// Nanoseconds in a millisecond.
const MILLISECOND: u64 = 1_000_000;

/// More waits to be typed than there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypedFull;

impl fmt::Display for TypedFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "more than {TYPED_MAX} key events would wait to be typed")
    }
}

/// A key that is typed.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Typed {
    key: QKeyCode,
    down: bool,
    /// Milliseconds until the next one.
    pause: u32,
}

/// Keys that wait to be typed.
#[derive(Debug, Default)]
pub(super) struct Typing {
    /// When the next one is typed, on the virtual clock. With nothing due, nothing waits.
    due: Option<u64>,
    waiting: heapless::Deque<Typed, TYPED_MAX>,
}

impl Typing {
    /// The next key that is to be typed now.
    fn next(&mut self, cx: &mut Context<'_>) -> Option<Typed> {
        if self.due.is_some() {
            return None;
        }
        let typed = self.waiting.pop_front()?;
        self.pause(cx, typed.pause);
        Some(typed)
    }

    /// Lets nothing be typed for so many milliseconds.
    fn pause(&mut self, cx: &mut Context<'_>, milliseconds: u32) {
        if milliseconds > 0 {
            let length = u64::from(milliseconds) * MILLISECOND;
            self.wait_until(cx, cx.now.saturating_add(length));
        }
    }

    fn wait_until(&mut self, cx: &mut Context<'_>, due: u64) {
        self.due = Some(due);
        cx.timers.arm(timer::TYPING, due);
    }
}

/// Saved form, version 1.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Saved {
    due: Option<u64>,
    waiting: heapless::Vec<Typed, TYPED_MAX>,
}

impl SavedState for Typing {
    const NAME: &'static str = "typing";
    const VERSION: u16 = 1;
    type Saved = Saved;

    fn save(&self) -> Saved {
        let Self { due, waiting } = self;
        Saved {
            due: *due,
            waiting: waiting.iter().copied().collect(),
        }
    }

    fn load(&mut self, saved: Saved, cx: &mut Context<'_>) -> Result<(), StateError> {
        let Saved { due, waiting } = saved;
        if due.is_none() && !waiting.is_empty() {
            return Err(StateError::Invalid("due"));
        }
        cx.timers.disarm(timer::TYPING);
        self.due = None;
        self.waiting.clear();
        self.waiting.extend(waiting);
        if let Some(due) = due {
            self.wait_until(cx, due);
        }
        Ok(())
    }
}

impl Machine<'_> {
    /// Whether there are a keyboard and a mouse.
    pub fn has_keyboard(&self) -> bool {
        self.board == Board::Pc
    }

    /// Lets someone do something, at once. What is done with the mouse is one movement.
    pub fn input<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        events: &mut dyn Iterator<Item = InputEvent>,
    ) {
        if !self.has_keyboard() {
            return;
        }
        let mut moves = false;
        for event in events {
            moves |= !matches!(event, InputEvent::Key { .. });
            self.i8042.input(context!(self, now), event);
            self.drain(host, now, None);
        }
        if moves {
            self.i8042.sync(context!(self, now));
            self.drain(host, now, None);
        }
    }

    /// Types keys: all go down, then all go up in the opposite order, with `pause` milliseconds after each. While the VM is stopped
    /// (`pause` is `None`) keys only join those that wait already.
    ///
    /// # Errors
    /// If there is no room for all of them; then none is typed.
    pub fn type_keys<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        keys: &[QKeyCode],
        pause: Option<u32>,
    ) -> Result<(), TypedFull> {
        let typing = &mut self.typing;
        if self.board != Board::Pc || pause.is_none() && typing.due.is_none() {
            return Ok(());
        }
        let room = TYPED_MAX - typing.waiting.len();
        if keys.len() > room / 2 {
            return Err(TypedFull);
        }
        let down = keys.iter().map(|key| (*key, true));
        let up = keys.iter().rev().map(|key| (*key, false));
        typing
            .waiting
            .extend(down.chain(up).map(|(key, down)| Typed {
                key,
                down,
                pause: pause.unwrap_or(0),
            }));
        self.type_next(now);
        self.drain(host, now, None);
        Ok(())
    }

    /// The pause behind a typed key is over.
    pub(super) fn typing_timer(&mut self, now: u64) {
        self.typing.due = None;
        self.type_next(now);
    }

    /// Types what is to be typed now.
    fn type_next(&mut self, now: u64) {
        while let Some(Typed { key, down, .. }) = self.typing.next(context!(self, now)) {
            let event = InputEvent::Key { key, down };
            self.i8042.input(context!(self, now), event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;
    use crate::state::{load, save};
    use std::vec::Vec;

    fn key(name: &str) -> QKeyCode {
        QKeyCode::from_name(name.as_bytes()).unwrap()
    }

    fn typing(bench: &mut Bench) -> Typing {
        let mut typing = Typing::default();
        for (name, down, pause) in [("a", true, 30), ("b", false, 0)] {
            let key = key(name);
            typing
                .waiting
                .push_back(Typed { key, down, pause })
                .unwrap();
        }
        typing.wait_until(&mut bench.context(), 40 * MILLISECOND);
        typing
    }

    fn section(typing: &Typing) -> Vec<u8> {
        let mut buffer = std::vec![0; 8192];
        let length = save(typing, &mut buffer).unwrap();
        buffer.truncate(length);
        buffer
    }

    #[test]
    fn what_waits_is_saved_and_goes_on() {
        let bytes = section(&typing(&mut Bench::new()));
        let (mut bench, mut other) = (Bench::new(), Typing::default());
        assert_eq!(load(&mut other, &bytes, &mut bench.context()), Ok(&[][..]));
        assert_eq!(section(&other), bytes);
        assert_eq!(bench.timers.next_deadline(), Some(40 * MILLISECOND));
        assert!(other.next(&mut bench.context()).is_none());
        other.due = None;
        let typed = other.next(&mut bench.context()).unwrap();
        assert_eq!((typed.key, typed.down), (key("a"), true));
        assert_eq!(other.due, Some(30 * MILLISECOND));
        // Nothing waits in a machine whose user types nothing.
        load(
            &mut other,
            &section(&Typing::default()),
            &mut bench.context(),
        )
        .unwrap();
        assert_eq!((other.due, bench.timers.next_deadline()), (None, None));
    }

    #[test]
    fn impossible_state_is_refused() {
        let mut bench = Bench::new();
        let mut saved = typing(&mut bench).save();
        saved.due = None;
        let refused = Typing::default().load(saved, &mut bench.context());
        assert_eq!(refused, Err(StateError::Invalid("due")));
        // A key that there is not.
        let mut buffer = [0; 64];
        let bytes = postcard::to_slice(&typing(&mut bench).save(), &mut buffer).unwrap();
        assert!(postcard::from_bytes::<Saved>(bytes).is_ok());
        let at = bytes.iter().position(|byte| *byte == key("a").index());
        bytes[at.unwrap()] = 150;
        assert!(postcard::from_bytes::<Saved>(bytes).is_err());
    }

    #[test]
    fn the_fullest_state_has_room() {
        let mut bench = Bench::new();
        let mut typing = Typing::default();
        let (key, down, pause) = (key("lang2"), true, u32::MAX);
        while typing.waiting.push_back(Typed { key, down, pause }).is_ok() {}
        typing.wait_until(&mut bench.context(), u64::MAX);
        assert!(section(&typing).len() < 8 * TYPED_MAX);
    }
}
