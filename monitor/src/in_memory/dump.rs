//! Where there is no process there are no files: a dump is asked for, and its caller ends it.

use core::num::NonZeroU64;

use thimble_core::machine::Host;

use super::InMemory;
use crate::owner::{DumpKind, DumpTarget, Dumps};
use crate::schema::DumpStatus;
use crate::schema::results::DumpQueryResult;
use crate::{JobId, QmpError};

impl<H: Host> Dumps for InMemory<'_, H> {
    fn dumping(&self) -> bool {
        self.dumping.is_some()
    }

    fn dump(
        &mut self,
        target: DumpTarget<'_>,
        kind: DumpKind,
        _detach: bool,
    ) -> Result<JobId, QmpError> {
        if let DumpTarget::Descriptor(name) = target {
            let name = name.escape_ascii();
            return Err(QmpError::generic(format_args!(
                "File descriptor named '{name}' has not been found"
            )));
        }
        self.jobs += 1;
        let job = JobId(NonZeroU64::MIN.saturating_add(self.jobs));
        self.dumping = Some((job, kind));
        Ok(job)
    }

    fn dump_status(&self) -> DumpQueryResult {
        DumpQueryResult {
            status: match self.dumping {
                Some(_) => DumpStatus::Active,
                None => DumpStatus::None,
            },
            completed: 0,
            total: 0,
        }
    }
}
