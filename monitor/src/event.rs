//! Asynchronous events.

use thimble_core::devices::ShutdownCause;
use thimble_core::qmp::{Sink, SinkFull, Writer};

/// Wall-clock time of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub seconds: i64,
    /// Microseconds, below 1,000,000.
    pub microseconds: u32,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The VM stopped.
    Stop,
    /// The VM runs on.
    Resume,
    /// The VM was reset.
    Reset(ShutdownCause),
    /// The VM shut down, or is about to end with the process.
    Shutdown(ShutdownCause),
    /// The power button was pressed.
    Powerdown,
}

impl Event {
    /// QMP's name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Stop => "STOP",
            Self::Resume => "RESUME",
            Self::Reset(_) => "RESET",
            Self::Shutdown(_) => "SHUTDOWN",
            Self::Powerdown => "POWERDOWN",
        }
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
        if let Self::Reset(cause) | Self::Shutdown(cause) = self {
            w.key(b"data")?;
            w.begin_object()?;
            w.key(b"guest")?;
            w.bool(cause.by_guest())?;
            w.key(b"reason")?;
            w.str(cause.name())?;
            w.end_object()?;
        }
        w.end_object()?;
        sink.put(b"\r\n")
    }
}
