//! What commands about descriptors do.

use thimble_monitor::{Descriptors, QmpError, SetMember};

use super::Vm;
use crate::descriptors::sets;

impl Descriptors for Vm {
    fn swap_monitor(&mut self) {
        std::mem::swap(&mut self.passed, &mut self.passed_aside);
    }

    fn getfd(&mut self, name: &[u8], valid: bool) -> Result<bool, QmpError> {
        let Some(fd) = self.passed.received() else {
            return Ok(false);
        };
        if !valid {
            return Ok(true);
        }
        let named = self.passed.name(name, fd).map(|()| true);
        named.map_err(|error| QmpError::generic(format_args!("{error}")))
    }

    fn closefd(&mut self, name: &[u8]) -> bool {
        self.passed.take(name).is_some()
    }

    fn add_fd(
        &mut self,
        set: Option<i64>,
        opaque: Option<&[u8]>,
    ) -> Result<Option<(i64, i32)>, QmpError> {
        let Some(fd) = self.passed.received() else {
            return Ok(None);
        };
        let added = sets::lock().add(set, fd, opaque).map(Some);
        added.map_err(|error| QmpError::generic(format_args!("{error}")))
    }

    fn remove_fd(&mut self, set: i64, fd: Option<i64>) -> bool {
        sets::lock().remove(set, fd).is_ok()
    }

    fn visit_fdsets(&self, visit: &mut dyn FnMut(i64, &mut dyn Iterator<Item = SetMember<'_>>)) {
        for set in sets::lock().iter() {
            let mut members = set.descriptors().iter().map(|member| SetMember {
                fd: member.number(),
                opaque: member.opaque(),
            });
            visit(set.id(), &mut members);
        }
    }
}
