//! Asynchronous events: their lines, and how often those may come that guests can cause at will.

use thimble_core::qmp::{Sink, SinkFull, Writer};
use thimble_core::trace::events;

pub use crate::schema::Event;
use crate::schema::{EventRow, SCHEMA};

/// Wall-clock time of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub seconds: i64,
    /// Microseconds, below 1,000,000.
    pub microseconds: u32,
}

impl Event {
    fn row(&self) -> Option<&'static EventRow> {
        SCHEMA.events.get(self.index())
    }

    /// QMP's name.
    pub fn name(&self) -> &'static str {
        self.row().map_or("", |row| SCHEMA.name(row.name))
    }

    /// Writes the event as a line.
    pub(crate) fn write<S: Sink>(&self, time: Timestamp, sink: &mut S) -> Result<(), SinkFull> {
        let mut w = Writer::new(sink);
        w.begin_object()?;
        w.key(b"timestamp")?;
        w.begin_object()?;
        w.key(b"seconds")?;
        w.int(time.seconds)?;
        w.key(b"microseconds")?;
        w.uint(time.microseconds.into())?;
        w.end_object()?;
        w.key(b"event")?;
        w.str(self.name())?;
        self.write_data(&mut w)?;
        w.end_object()?;
        sink.put(b"\r\n")
    }
}

/// Nanoseconds in a millisecond, the unit of the schema's limits.
const MILLISECOND: u64 = 1_000_000;

/// The rate limits of events: one of a kind is told at once, and then, until its time has passed, only the last of those
/// that came meanwhile.
#[derive(Debug, Default)]
pub struct RateLimits {
    running: heapless::Vec<Running, LIMITED_MAX>,
}

/// Kinds of events with a limit at most.
const LIMITED_MAX: usize = 8;

const _: () = {
    let (mut limited, mut index) = (0, 0);
    while index < SCHEMA.events.len() {
        if SCHEMA.events[index].rate_limit > 0 {
            limited += 1;
        }
        index += 1;
    }
    assert!(limited <= LIMITED_MAX);
};

/// A kind of event of which one was told a short time ago.
#[derive(Debug)]
struct Running {
    kind: usize,
    until: u64,
    held: Option<(Event, Timestamp)>,
}

impl RateLimits {
    /// Whether an event is to be told now; else it is held. `now` is in nanoseconds of a clock that never stands.
    pub fn admit(&mut self, event: Event, time: Timestamp, now: u64) -> Option<(Event, Timestamp)> {
        let limit = event.row().map_or(0, |row| row.rate_limit);
        let name = event.name().as_bytes();
        events::monitor_protocol_event_queue(event.index(), limit.into(), name);
        if limit == 0 {
            return Some((event, time));
        }
        let kind = event.index();
        if let Some(running) = self.running.iter_mut().find(|running| running.kind == kind) {
            running.held = Some((event, time));
            return None;
        }
        let running = Running {
            kind,
            until: now.saturating_add(u64::from(limit) * MILLISECOND),
            held: None,
        };
        // There is room for every kind.
        let _ = self.running.push(running);
        Some((event, time))
    }

    /// The next event whose time has come.
    pub fn expired(&mut self, now: u64) -> Option<(Event, Timestamp)> {
        while let Some(index) = self.running.iter().position(|running| running.until <= now) {
            let Running { held, .. } = self.running.swap_remove(index);
            if let Some((event, time)) = held {
                return self.admit(event, time, now);
            }
        }
        None
    }

    /// When [`RateLimits::expired`] has something to do next.
    pub fn next_deadline(&self) -> Option<u64> {
        self.running.iter().map(|running| running.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::WatchdogAction;

    fn watchdog(action: WatchdogAction) -> Event {
        Event::Watchdog { action }
    }

    #[test]
    fn the_last_of_a_second_is_told() {
        const SECOND: u64 = 1_000_000_000;
        let mut limits = RateLimits::default();
        let at = |seconds| Timestamp {
            seconds,
            microseconds: 0,
        };
        let none = watchdog(WatchdogAction::None);
        let pause = watchdog(WatchdogAction::Pause);
        assert_eq!(
            limits.admit(none.clone(), at(1), 0),
            Some((none.clone(), at(1)))
        );
        assert_eq!(limits.admit(none.clone(), at(2), 5), None);
        assert_eq!(limits.admit(pause.clone(), at(3), 6), None);
        // Others are not held.
        assert!(limits.admit(Event::Stop, at(3), 7).is_some());
        assert_eq!(limits.next_deadline(), Some(SECOND));
        assert_eq!(limits.expired(SECOND - 1), None);
        assert_eq!(limits.expired(SECOND), Some((pause, at(3))));
        assert_eq!(limits.expired(SECOND), None);
        // What was told late begins a new second.
        assert_eq!(limits.admit(none.clone(), at(4), SECOND + 1), None);
        assert!(limits.expired(2 * SECOND).is_some());
        assert_eq!(limits.expired(3 * SECOND), None);
        assert_eq!(limits.next_deadline(), None);
        assert!(limits.admit(none, at(5), 3 * SECOND).is_some());
    }
}
