//! QMP's run states.

use core::fmt;

/// What the VM is doing: QMP's RunState, as far as states are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Built, and waiting for `cont` because of `-S`.
    Prelaunch,
    /// The guest runs.
    Running,
    /// `stop` paused it.
    Paused,
    /// The guest shut down and `-no-shutdown` keeps the process.
    Shutdown,
    /// A processor met what the accelerator can not run.
    InternalError,
}

impl RunState {
    /// All states, in the order of their names.
    pub const ALL: &[Self] = &[
        Self::InternalError,
        Self::Paused,
        Self::Prelaunch,
        Self::Running,
        Self::Shutdown,
    ];

    /// Whether only a reset leads out of it.
    pub const fn needs_reset(self) -> bool {
        matches!(self, Self::InternalError | Self::Shutdown)
    }

    /// QMP's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prelaunch => "prelaunch",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Shutdown => "shutdown",
            Self::InternalError => "internal-error",
        }
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
