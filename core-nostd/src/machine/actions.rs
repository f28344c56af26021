//! What is done when the guest resets, powers off, panics or lets its watchdog expire: QMP's
//! RebootAction, ShutdownAction, PanicAction and WatchdogAction, and GuestPanicAction for what was
//! done.

use crate::names::named;

named! {
    /// What a reset does, whoever asks for it.
    RebootAction {
        /// Resets the machine.
        #[default]
        Reset = "reset",
        /// Powers it off.
        Shutdown = "shutdown",
    }
}

named! {
    /// What a power-off does, unless `quit` or a signal asks for it.
    ShutdownAction {
        /// Ends the process.
        #[default]
        Poweroff = "poweroff",
        /// Pauses the VM.
        Pause = "pause",
    }
}

named! {
    /// What a panic of the guest does.
    PanicAction {
        /// Pauses the VM.
        Pause = "pause",
        /// Powers it off; pauses it where [`ShutdownAction::Pause`] rules.
        #[default]
        Shutdown = "shutdown",
        /// Powers it off, and lets the process end with status 1.
        ExitFailure = "exit-failure",
        /// Lets the guest go on.
        None = "none",
    }
}

named! {
    /// What a watchdog that expires does.
    WatchdogAction {
        /// Resets the machine.
        #[default]
        Reset = "reset",
        /// Presses the power button.
        Shutdown = "shutdown",
        /// Ends the process at once.
        Poweroff = "poweroff",
        /// Pauses the VM.
        Pause = "pause",
        /// Writes a line to the log.
        Debug = "debug",
        /// Lets the guest go on.
        None = "none",
        /// Sends all processors an NMI.
        InjectNmi = "inject-nmi",
    }
}

named! {
    /// What was done about a panic of the guest, as events tell it.
    GuestPanicAction {
        /// The VM was paused.
        Pause = "pause",
        /// It is being powered off.
        Poweroff = "poweroff",
        /// It runs on.
        #[default]
        Run = "run",
    }
}

/// The settings of all four.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Actions {
    /// For a reset.
    pub reboot: RebootAction,
    /// For a power-off.
    pub shutdown: ShutdownAction,
    /// For a panic.
    pub panic: PanicAction,
    /// For an expired watchdog.
    pub watchdog: WatchdogAction,
}

/// New settings: those that are not named stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActionChanges {
    /// For a reset.
    pub reboot: Option<RebootAction>,
    /// For a power-off.
    pub shutdown: Option<ShutdownAction>,
    /// For a panic.
    pub panic: Option<PanicAction>,
    /// For an expired watchdog.
    pub watchdog: Option<WatchdogAction>,
}

impl Actions {
    /// Takes over new settings.
    pub fn change(&mut self, changes: ActionChanges) {
        let ActionChanges {
            reboot,
            shutdown,
            panic,
            watchdog,
        } = changes;
        self.reboot = reboot.unwrap_or(self.reboot);
        self.shutdown = shutdown.unwrap_or(self.shutdown);
        self.panic = panic.unwrap_or(self.panic);
        self.watchdog = watchdog.unwrap_or(self.watchdog);
    }

    /// What a panic comes to. A power-off that only pauses is told as a pause, but where the
    /// status of the process was asked for.
    pub const fn on_panic(self) -> GuestPanicAction {
        match (self.panic, self.shutdown) {
            (PanicAction::Pause, _) | (PanicAction::Shutdown, ShutdownAction::Pause) => {
                GuestPanicAction::Pause
            }
            (PanicAction::Shutdown | PanicAction::ExitFailure, _) => GuestPanicAction::Poweroff,
            (PanicAction::None, _) => GuestPanicAction::Run,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for name in RebootAction::NAMES {
            assert_eq!(RebootAction::from_name(name).unwrap().name(), *name);
        }
        for name in ShutdownAction::NAMES {
            assert_eq!(ShutdownAction::from_name(name).unwrap().name(), *name);
        }
        for name in PanicAction::NAMES {
            assert_eq!(PanicAction::from_name(name).unwrap().name(), *name);
        }
        for name in WatchdogAction::NAMES {
            assert_eq!(WatchdogAction::from_name(name).unwrap().name(), *name);
        }
        assert_eq!(WatchdogAction::NAMES.len(), 7);
        assert_eq!(PanicAction::from_name("Pause"), None);
        assert_eq!(WatchdogAction::from_name(""), None);
    }

    #[test]
    fn changes_leave_the_rest_alone() {
        let mut actions = Actions::default();
        actions.change(ActionChanges {
            panic: Some(PanicAction::None),
            ..ActionChanges::default()
        });
        actions.change(ActionChanges {
            shutdown: Some(ShutdownAction::Pause),
            ..ActionChanges::default()
        });
        let expected = Actions {
            panic: PanicAction::None,
            shutdown: ShutdownAction::Pause,
            ..Actions::default()
        };
        assert_eq!(actions, expected);
    }

    #[test]
    fn a_panic_does_what_both_settings_say() {
        use GuestPanicAction::{Pause, Poweroff, Run};
        for (panic, poweroff, pause) in [
            (PanicAction::Pause, Pause, Pause),
            (PanicAction::Shutdown, Poweroff, Pause),
            (PanicAction::ExitFailure, Poweroff, Poweroff),
            (PanicAction::None, Run, Run),
        ] {
            for (shutdown, expected) in [
                (ShutdownAction::Poweroff, poweroff),
                (ShutdownAction::Pause, pause),
            ] {
                let actions = Actions {
                    panic,
                    shutdown,
                    ..Actions::default()
                };
                assert_eq!(actions.on_panic(), expected, "{actions:?}");
            }
        }
    }
}
