//! What commands ask of the machine's owner.

mod boot;
mod clock;
mod debug;
mod descriptors;
mod dump;
mod input;
mod inspect;
pub mod objects;
mod sleep;
mod trace;
mod typing;

use core::num::NonZeroU64;

use thimble_core::cpu::Registers;
use thimble_core::machine::actions::ActionChanges;
use thimble_core::machine::{Machine, RunState};
use thimble_core::qom::Tree;

use crate::hmp::Defaults;
use crate::schema::results::{CommandLineOptionInfo, CpuInfoFast, MachineInfo};
use crate::{Event, QmpError, Timestamp};

pub use objects::Objects;

/// Whether KVM is used: QMP's KvmInfo.
pub use crate::schema::results::KvmInfo;
pub use boot::Booting;
pub use clock::RealTimeClock;
pub use debug::{BreakRefused, DebugStop, Debugger, Stepping, write_ram};
pub use descriptors::{Descriptors, SetMember};
pub use dump::{DumpKind, DumpTarget, Dumps};
pub use input::Inputs;
pub use inspect::Inspection;
pub use sleep::Sleep;
pub use trace::Traces;
pub use typing::Typing;

/// A command that goes on in the background. The owner tells its end by `Session::complete`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub NonZeroU64);

/// Which guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// By physical addresses.
    Physical,
    /// By linear addresses, as this processor translates them.
    Linear {
        /// The processor's index.
        cpu: u32,
    },
}

/// What a processor is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuState {
    /// Whether it waits for an interrupt.
    pub halted: bool,
    /// The linear address of its next instruction.
    pub pc: u64,
    /// The host's id of its thread.
    pub thread_id: i32,
}

/// Whether something answers at each of these physical addresses.
pub fn answers(machine: &Machine<'_>, mut gpa: u64, length: usize) -> bool {
    let mut left = length as u64;
    while left > 0 {
        let known = match (machine.memory_map().find(gpa), machine.ram().block(gpa)) {
            (Some(region), _) => region.length - (gpa - region.gpa),
            // The hole in RAM that video memory has is answered for, by the bus.
            (None, Some(block)) => block.length as u64,
            (None, None) => return false,
        };
        let known = known.min(left);
        left -= known;
        gpa = match gpa.checked_add(known) {
            Some(gpa) => gpa,
            None => return left == 0,
        };
    }
    true
}

/// The machine's owner: the process, or memory in tests. Methods must not block.
///
/// A method that causes events reports them through [`Owner::take_event`]; the session that
/// executes the command writes them before its reply (after it if the command has a result), and the owner sends them to its other
/// sessions with `Session::event`.
pub trait Owner:
    Booting
    + Debugger
    + Descriptors
    + Dumps
    + Inputs
    + Inspection
    + Objects
    + RealTimeClock
    + Sleep
    + Traces
    + Typing
{
    /// What the VM is doing.
    fn run_state(&self) -> RunState;

    /// Stops the VM. Nothing happens if it does not run.
    fn stop(&mut self) -> Result<(), QmpError>;

    /// Lets the VM run. Called only in states that allow it. Nothing happens if it runs.
    fn cont(&mut self) -> Result<(), QmpError>;

    /// Resets the VM.
    fn system_reset(&mut self) -> Result<(), QmpError>;

    /// Presses the power button.
    fn system_powerdown(&mut self) -> Result<(), QmpError>;

    /// Ends the process once replies are written.
    fn quit(&mut self);

    /// Sends a non-maskable interrupt to all processors.
    fn inject_nmi(&mut self) -> Result<(), QmpError>;

    /// Sets what happens on power events.
    fn set_actions(&mut self, changes: ActionChanges);

    /// Writes `size` bytes of guest memory from `address` on to a file, which is removed again on error.
    /// `filename` is a path in the file system's bytes, without zero bytes.
    fn save_memory(
        &mut self,
        space: Space,
        address: u64,
        size: u64,
        filename: &[u8],
    ) -> Result<JobId, QmpError>;

    /// The VM's name, if it was given one.
    fn name(&self) -> Option<&str>;

    /// The VM's UUID, in the order in which it is printed. All zeros if none was given.
    fn uuid(&self) -> [u8; 16];

    /// Whether KVM is used.
    fn kvm(&self) -> KvmInfo;

    /// Whether the machine is not built yet (`--preconfig`).
    fn preconfig(&self) -> bool;

    /// Ends that state. Called only in it.
    fn exit_preconfig(&mut self) -> Result<(), QmpError>;

    /// How many processors there are.
    fn cpus(&self) -> u32;

    /// Tells of a processor without disturbing it; `index` is below [`Owner::cpus`].
    fn visit_cpu(&self, index: u32, visit: &mut dyn FnMut(&CpuInfoFast<'_>));

    /// What a processor is doing; `index` is below [`Owner::cpus`].
    fn cpu_state(&mut self, index: u32) -> Result<CpuState, QmpError>;

    /// A processor's registers, for the human monitor; `index` is below [`Owner::cpus`].
    fn registers(&mut self, index: u32) -> Result<Registers, QmpError>;

    /// Reads guest memory by physical addresses, devices too. False if nothing answers at some of them.
    fn read_physical(&mut self, gpa: u64, to: &mut [u8]) -> bool;

    /// What the human monitor's `x` and `print` did last.
    fn dump_defaults(&mut self) -> &mut Defaults;

    /// Shows the tree of objects.
    fn visit_objects(&self, look: &mut dyn FnMut(Tree<'_>));

    /// Tells of every board that there is.
    fn visit_machines(&self, visit: &mut dyn FnMut(&MachineInfo<'_>));

    /// Tells of every option of the command line.
    fn visit_options(&self, visit: &mut dyn FnMut(&CommandLineOptionInfo<'_>));

    /// Whether migration is told by events.
    fn migration_events(&mut self) -> &mut bool;

    /// Tells the id of every character device with a connection that [`Owner::yank`] can shut down.
    fn visit_yankable(&self, visit: &mut dyn FnMut(&str));

    /// Shuts down the connection of a character device; false if there is no such device.
    fn yank(&mut self, id: &[u8]) -> bool;

    /// The next event that the command just executed has caused, oldest first.
    fn take_event(&mut self) -> Option<(Event, Timestamp)>;
}
