//! What commands ask of the machine's owner.

use thimble_core::machine::RunState;

use crate::{Event, QmpError, Timestamp};

/// Whether KVM is used: QMP's KvmInfo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct KvmInfo {
    /// The VM runs on KVM.
    pub enabled: bool,
    /// KVM is compiled in.
    pub present: bool,
}

/// The machine's owner: the process, or memory in tests. Methods must not block.
///
/// A method that causes events reports them through [`Owner::take_event`]; the session that
/// executes the command writes them before its reply (after it if the command has a result), and the owner sends them to its other
/// sessions with `Session::event`.
pub trait Owner {
    /// What the VM is doing.
    fn run_state(&self) -> RunState;

    /// Stops the VM. Nothing happens if it does not run.
    fn stop(&mut self) -> Result<(), QmpError>;

    /// Lets the VM run. Called only in states that allow it. Nothing happens if it runs.
    fn cont(&mut self) -> Result<(), QmpError>;

    /// Resets the VM.
    fn system_reset(&mut self) -> Result<(), QmpError>;

    /// Ends the process once replies are written.
    fn quit(&mut self);

    /// Writes guest physical memory to a file, which is removed again on error.
    /// `filename` is a path in the file system's bytes, without zero bytes.
    fn pmemsave(&mut self, address: u64, size: u64, filename: &[u8]) -> Result<(), QmpError>;

    /// The VM's name, if it was given one.
    fn name(&self) -> Option<&str>;

    /// The VM's UUID, in the order in which it is printed. All zeros if none was given.
    fn uuid(&self) -> [u8; 16];

    /// Whether KVM is used.
    fn kvm(&self) -> KvmInfo;

    /// Whether the machine is not built yet (`--preconfig`).
    fn preconfig(&self) -> bool {
        false
    }

    /// The next event that the command just executed has caused, oldest first.
    fn take_event(&mut self) -> Option<(Event, Timestamp)>;
}
