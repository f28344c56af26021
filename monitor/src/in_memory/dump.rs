//! Where there is no process there are no files, and no dumps.

use thimble_core::machine::Host;

use super::InMemory;
use crate::owner::{DumpKind, DumpTarget, Dumps};
use crate::schema::DumpStatus;
use crate::schema::results::DumpQueryResult;
use crate::{JobId, QmpError};

impl<H: Host> Dumps for InMemory<'_, H> {
    fn dumping(&self) -> bool {
        false
    }

    fn dump(
        &mut self,
        _target: DumpTarget<'_>,
        _kind: DumpKind,
        _detach: bool,
    ) -> Result<JobId, QmpError> {
        Err(QmpError::generic(format_args!(
            "There are no files that a dump could go to"
        )))
    }

    fn dump_status(&self) -> DumpQueryResult {
        DumpQueryResult {
            status: DumpStatus::None,
            completed: 0,
            total: 0,
        }
    }
}
