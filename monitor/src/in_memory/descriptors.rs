//! Where there is no process there are no descriptors: none ever comes with a command.

use thimble_core::machine::Host;

use super::InMemory;
use crate::QmpError;
use crate::owner::{Descriptors, SetMember};

impl<H: Host> Descriptors for InMemory<'_, H> {
    fn swap_monitor(&mut self) {}

    fn getfd(&mut self, _name: &[u8], _valid: bool) -> Result<bool, QmpError> {
        Ok(false)
    }

    fn closefd(&mut self, _name: &[u8]) -> bool {
        false
    }

    fn add_fd(
        &mut self,
        _set: Option<i64>,
        _opaque: Option<&[u8]>,
    ) -> Result<Option<(i64, i32)>, QmpError> {
        Ok(None)
    }

    fn remove_fd(&mut self, _set: i64, _fd: Option<i64>) -> bool {
        false
    }

    fn visit_fdsets(&self, _visit: &mut dyn FnMut(i64, &mut dyn Iterator<Item = SetMember<'_>>)) {}
}
