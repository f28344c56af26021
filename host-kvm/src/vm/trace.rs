//! The log while the VM runs: the human monitor's `log` and `logfile`.

use thimble_core::machine::RunState;
use thimble_monitor::{QmpError, Traces};

use super::{Processors, Vm};
use crate::log::{self, Items, Wanted};
use crate::{error_text, trace};

impl Traces for Vm {
    fn set_log(&mut self, items: &[u8]) -> Result<bool, QmpError> {
        let mut wanted = Wanted::default();
        if items != b"none" {
            let known = std::str::from_utf8(items).is_ok_and(|items| wanted.add(items).is_ok());
            if !known {
                return Ok(false);
            }
        }
        let unseen = wanted.items & Items::SOFTWARE;
        let software = matches!(self.processors, Some(Processors::Soft(_)));
        if !unseen.is_empty() && !software {
            let names = unseen.names();
            return Err(QmpError::generic(format_args!(
                "{names}: nothing to log, as only the software CPU sees each instruction"
            )));
        }
        self.settings.log.set_items(wanted.items);
        for pattern in Wanted::own_events() {
            thimble_monitor::trace::set(pattern.as_bytes(), false);
        }
        for pattern in &wanted.events {
            trace::switch(pattern);
        }
        // Processors look at the log when they begin to run.
        if software && self.run_state == RunState::Running {
            self.pause();
            self.resume();
        }
        Ok(true)
    }

    fn visit_log_items(&self, visit: &mut dyn FnMut(&str)) {
        Items::texts(visit);
    }

    fn set_log_file(&mut self, name: &[u8]) -> Result<(), QmpError> {
        let shown = String::from_utf8_lossy(name);
        let path = std::str::from_utf8(name).ok();
        let path = path.and_then(|path| log::file_name(path, std::process::id()));
        let path =
            path.ok_or_else(|| QmpError::generic(format_args!("Bad logfile template: {shown}")))?;
        log::open_file(&path).map_err(|error| {
            let error = error_text(&error);
            QmpError::generic(format_args!("Error opening logfile {shown}: {error}"))
        })
    }
}
