//! QMP's run states.

use core::fmt;

/// What the VM is doing: QMP's RunState, as far as states are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Built, and waiting for `cont` because of `-S`, or for `x-exit-preconfig`.
    Prelaunch,
    /// The guest runs.
    Running,
    /// `stop` paused it.
    Paused,
    /// It is stopped while its memory is dumped.
    SaveVm,
    /// The guest shut down and `-no-shutdown` keeps the process.
    Shutdown,
    /// A processor met what the accelerator can not run.
    InternalError,
    /// The guest panicked, and the panic action paused it.
    GuestPanicked,
    /// The guest sleeps, its state in memory.
    Suspended,
    /// A watchdog expired, and the watchdog action paused the guest.
    Watchdog,
    /// A debugger's breakpoint, watchpoint or single step stopped the guest.
    Debug,
}

impl RunState {
    /// All states, in the order of their names.
    pub const ALL: &[Self] = &[
        Self::Debug,
        Self::GuestPanicked,
        Self::InternalError,
        Self::Paused,
        Self::Prelaunch,
        Self::Running,
        Self::SaveVm,
        Self::Shutdown,
        Self::Suspended,
        Self::Watchdog,
    ];

    /// QMP's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prelaunch => "prelaunch",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::SaveVm => "save-vm",
            Self::Shutdown => "shutdown",
            Self::Suspended => "suspended",
            Self::InternalError => "internal-error",
            Self::GuestPanicked => "guest-panicked",
            Self::Watchdog => "watchdog",
            Self::Debug => "debug",
        }
    }

    /// Whether the guest can only run on after a reset.
    pub const fn needs_reset(self) -> bool {
        matches!(self, Self::Shutdown | Self::InternalError)
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
