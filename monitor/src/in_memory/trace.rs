//! Without processors and files there is nothing to log but trace events.

use thimble_core::machine::Host;

use super::InMemory;
use crate::owner::Traces;
use crate::{QmpError, trace};

impl<H: Host> Traces for InMemory<'_, H> {
    fn set_log(&mut self, items: &[u8]) -> Result<bool, QmpError> {
        if items == b"none" {
            return Ok(true);
        }
        let patterns = || {
            items
                .split(|byte| *byte == b',')
                .map(|item| item.strip_prefix(b"trace:"))
        };
        let known = patterns().all(|pattern| pattern.is_some());
        if known {
            for pattern in patterns().flatten() {
                trace::set(pattern, true);
            }
        }
        Ok(known)
    }

    fn visit_log_items(&self, visit: &mut dyn FnMut(&str)) {
        visit("trace:PATTERN   trace events\n");
    }

    fn set_log_file(&mut self, name: &[u8]) -> Result<(), QmpError> {
        let name = core::str::from_utf8(name).unwrap_or_default();
        Err(QmpError::generic(format_args!(
            "Error opening logfile {name}: there are no files here"
        )))
    }
}
