//! Asynchronous events.

use thimble_core::devices::ShutdownCause;
use thimble_core::machine::actions::{GuestPanicAction, WatchdogAction};
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
    /// The guest panicked, and this was done about it.
    GuestPanicked(GuestPanicAction),
    /// The guest panicked, and its crash kernel takes over.
    GuestCrashLoaded(GuestPanicAction),
    /// A watchdog expired, and this is done about it.
    Watchdog(WatchdogAction),
    /// The guest set its real-time clock.
    RtcChange {
        /// What the clock is ahead of the one that it was started with, in seconds.
        offset: i64,
        /// Path of the clock in the object tree.
        qom_path: &'static str,
    },
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
            Self::GuestPanicked(_) => "GUEST_PANICKED",
            Self::GuestCrashLoaded(_) => "GUEST_CRASHLOADED",
            Self::Watchdog(_) => "WATCHDOG",
            Self::RtcChange { .. } => "RTC_CHANGE",
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
        match self {
            Self::Stop | Self::Resume | Self::Powerdown => {}
            Self::Reset(cause) | Self::Shutdown(cause) => {
                w.key(b"data")?;
                w.begin_object()?;
                w.key(b"guest")?;
                w.bool(cause.by_guest())?;
                w.key(b"reason")?;
                w.str(cause.name())?;
                w.end_object()?;
            }
            Self::GuestPanicked(action) | Self::GuestCrashLoaded(action) => {
                write_action(&mut w, action.name())?;
            }
            Self::Watchdog(action) => write_action(&mut w, action.name())?,
            Self::RtcChange { offset, qom_path } => {
                w.key(b"data")?;
                w.begin_object()?;
                w.key(b"offset")?;
                w.int(*offset)?;
                w.key(b"qom-path")?;
                w.str(qom_path)?;
                w.end_object()?;
            }
        }
        w.end_object()?;
        sink.put(b"\r\n")
    }
}

/// The data of events that tell what is done about them.
fn write_action<S: Sink>(w: &mut Writer<'_, S>, action: &str) -> Result<(), SinkFull> {
    w.key(b"data")?;
    w.begin_object()?;
    w.key(b"action")?;
    w.str(action)?;
    w.end_object()
}
