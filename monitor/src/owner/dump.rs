//! What commands ask about dumps of the guest.

use crate::schema::results::DumpQueryResult;
use crate::{JobId, QmpError};

/// Where a dump goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpTarget<'a> {
    /// A file, by a path in the file system's bytes, without zero bytes.
    File(&'a [u8]),
    /// The descriptor that a client has passed and given this name.
    Descriptor(&'a [u8]),
}

/// The contents of a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpKind {
    /// An ELF core file.
    Elf {
        /// Whether memory is told by linear addresses, too.
        paging: bool,
        /// The physical addresses that it has: the first one, and how many.
        part: Option<(u64, u64)>,
    },
    /// A compressed file of all memory.
    Kdump,
}

/// Dumps: the guest's memory and processors in a file.
pub trait Dumps {
    /// Whether one is being written, or its file is being opened.
    fn dumping(&self) -> bool;

    /// Begins to write one; the VM is stopped meanwhile. Called only while none is written. The job ends with the dump, or
    /// if `detach`, as soon as its file is open and the VM stopped.
    ///
    /// # Errors
    /// If there is nothing to write, or no such descriptor. What fails later is the job's end.
    fn dump(
        &mut self,
        target: DumpTarget<'_>,
        kind: DumpKind,
        detach: bool,
    ) -> Result<JobId, QmpError>;

    /// How far the last one is.
    fn dump_status(&self) -> DumpQueryResult;
}
