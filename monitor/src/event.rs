//! Asynchronous events.

use thimble_core::qmp::{Sink, SinkFull, Writer};

/// Wall-clock time of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub seconds: i64,
    /// Microseconds, below 1,000,000.
    pub microseconds: u32,
}

/// Why a VM is reset or shut down: QMP's ShutdownCause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownCause {
    /// An error on the host.
    HostError,
    /// The command `quit`.
    HostQmpQuit,
    /// The command `system_reset`.
    HostQmpSystemReset,
    /// A signal to the process.
    HostSignal,
    /// A window was closed.
    HostUi,
    /// The guest switched itself off.
    GuestShutdown,
    /// The guest reset itself.
    GuestReset,
    /// The guest panicked.
    GuestPanic,
}

impl ShutdownCause {
    /// QMP's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HostError => "host-error",
            Self::HostQmpQuit => "host-qmp-quit",
            Self::HostQmpSystemReset => "host-qmp-system-reset",
            Self::HostSignal => "host-signal",
            Self::HostUi => "host-ui",
            Self::GuestShutdown => "guest-shutdown",
            Self::GuestReset => "guest-reset",
            Self::GuestPanic => "guest-panic",
        }
    }

    /// Whether the guest is the cause.
    pub const fn guest(self) -> bool {
        matches!(
            self,
            Self::GuestShutdown | Self::GuestReset | Self::GuestPanic
        )
    }
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
            w.bool(cause.guest())?;
            w.key(b"reason")?;
            w.str(cause.name())?;
            w.end_object()?;
        }
        w.end_object()?;
        sink.put(b"\r\n")
    }
}
