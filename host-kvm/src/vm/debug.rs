//! What a debugger does to the VM: breakpoints and steps, and the processors' state.
//!
//! Its wishes are handed to the processors each time that the VM goes on. With KVM, breakpoints in RAM are instructions
//! INT3; they are there only while the VM runs, so that whoever looks at a stopped VM's memory sees the guest's own.

use thimble_core::cpu::CpuState;
use thimble_core::cpu::debugger::{Break, Breakpoint, Breaks, Resume};
use thimble_core::machine::RunState;
use thimble_core::memory::Backing;
use thimble_monitor::{
    BreakRefused, DebugStop, Debugger, JobId, Owner, QmpError, Stepping, gdb, write_ram,
};

use super::{Event, Processors, Vm};
use crate::chardev::ChardevId;
use crate::chardev::spec::ShortForm;
use crate::gdb::{LABEL, OUT_MAX};
use crate::kvm::Plan;
use crate::{options, report};

/// INT3.
const INT3: u8 = 0xcc;

/// A breakpoint that is an instruction.
struct Patch {
    /// The linear address.
    address: u64,
    /// Where that was in guest physical memory when it was set.
    gpa: u64,
    /// The byte that INT3 stands for, while it does.
    replaced: Option<u8>,
}

/// What a debugger has set, and what came of it.
#[derive(Default)]
pub(super) struct Debug {
    breaks: Breaks,
    patches: Vec<Patch>,
    plan: Plan,
    /// How processors go on, by index; those that are not in it run.
    resume: Vec<Resume>,
    /// The virtual clock stands still while they do.
    clock_stands: bool,
    /// The processors know of something that was set.
    known: bool,
    stop: Option<DebugStop>,
    /// Where debuggers come by from now on.
    device: Option<Option<ChardevId>>,
    /// The end of a command that goes on in the background, whoever waits for it.
    finished: Option<(JobId, Result<(), QmpError>)>,
}

impl Debug {
    fn resume(&self, index: u32) -> Resume {
        let resume = self.resume.get(index as usize);
        resume.copied().unwrap_or_default()
    }

    /// Lets all processors run, as far as nothing else stops them.
    pub(super) fn run_all(&mut self) {
        self.resume.clear();
        self.clock_stands = false;
        self.stop = None;
    }

    /// Whether the virtual clock is to stand still while processors run.
    pub(super) fn clock_stands(&self) -> bool {
        self.clock_stands
    }

    /// Plans what KVM needs.
    fn plan(&self, breaks: &Breaks) -> Result<Plan, BreakRefused> {
        let patched = |address| self.patches.iter().any(|patch| patch.address == address);
        Plan::new(breaks, patched).map_err(|_| BreakRefused)
    }
}

impl Vm {
    /// Hands the debugger's wishes to the processors, before they run.
    pub(super) fn arm_debugger(&mut self) {
        let debug = &mut self.debug;
        let wishes = !debug.breaks.is_empty() || !debug.resume.is_empty();
        let Some(processors) = self.processors.as_ref().filter(|_| wishes || debug.known) else {
            return;
        };
        debug.known = wishes;
        let (breaks, plan) = (&debug.breaks, &debug.plan);
        let set = processors.set_debugger(breaks, plan, &|index| debug.resume(index));
        if let Err(error) = set {
            report(format_args!("the debugger: {error}"));
        }
        if debug.patches.is_empty() {
            return;
        }
        let guarded = self.shared.lock();
        for patch in &mut debug.patches {
            let mut byte = [0];
            if guarded.machine.ram().read(patch.gpa, &mut byte).is_ok()
                && write_ram(&guarded.machine, patch.gpa, &[INT3])
            {
                patch.replaced = Some(byte[0]);
            }
        }
    }

    /// Takes instructions away that are breakpoints; no processor runs.
    pub(super) fn disarm_debugger(&mut self) {
        if self.debug.patches.is_empty() {
            return;
        }
        let guarded = self.shared.lock();
        for patch in &mut self.debug.patches {
            let Some(byte) = patch.replaced.take() else {
                continue;
            };
            let mut now = [0];
            // The guest may have stored something else.
            if guarded.machine.ram().read(patch.gpa, &mut now).is_ok() && now[0] == INT3 {
                write_ram(&guarded.machine, patch.gpa, &[byte]);
            }
        }
    }

    /// A processor has stopped as the debugger wishes.
    pub(super) fn debugged(&mut self, stop: DebugStop) {
        // Who has stopped the VM meanwhile did so first.
        if self.run_state == RunState::Running {
            self.debug.stop = Some(stop);
            self.halt(RunState::Debug);
        }
    }

    /// A command in the background has ended that no QMP session waits for.
    pub fn finished_elsewhere(&mut self, job: JobId, result: Result<(), QmpError>) {
        self.debug.finished = Some((job, result));
    }

    /// What [`Vm::finished_elsewhere`] was told last.
    pub fn take_finished(&mut self) -> Option<(JobId, Result<(), QmpError>)> {
        self.debug.finished.take()
    }

    /// Opens the device where debuggers come by; none for `none`.
    fn open_gdb_device(&mut self, device: &str) -> Result<Option<ChardevId>, String> {
        let form = options::parse_gdb(device)?;
        if self.settings.cpus == 0 {
            return Err(
                "gdbstub: meaningless to attach gdb to a machine without any CPU.".to_owned(),
            );
        }
        let chardevs = &mut self.shared.lock().chardevs;
        // The one that was made for this before.
        if let Some(old) = chardevs.find(LABEL) {
            chardevs.retire(old);
        }
        match form {
            ShortForm::None => Ok(None),
            ShortForm::Reference(id) => match chardevs.find(&id) {
                Some(found) => Ok(Some(found)),
                None => Err(format!("chardev \"{id}\" not found")),
            },
            ShortForm::New(spec) => chardevs.open(&spec, OUT_MAX).map(Some),
        }
    }

    /// The device where debuggers come by from now on, if that is another one since the last look.
    pub fn take_gdb_device(&mut self) -> Option<Option<ChardevId>> {
        self.debug.device.take()
    }

    /// Where a linear address is in RAM, for a processor's page tables.
    fn ram_address(&mut self, cpu: u32, address: u64) -> Option<u64> {
        let paging = Owner::registers(self, cpu).ok()?.paging;
        let (gpa, _) = gdb::translate(self, &paging, address)?;
        let guarded = self.shared.lock();
        let region = guarded.machine.memory_map().find(gpa)?;
        (region.read == Backing::Ram).then_some(gpa)
    }

    /// With KVM, whether a step's processor can run at all without the virtual clock.
    fn halted(&self, resume: &dyn Fn(u32) -> Resume) -> bool {
        let Some(processors) = &self.processors else {
            return false;
        };
        let steps = (0..processors.count()).filter(|index| resume(*index).steps());
        let mut idle = steps.map(|index| processors.glance(index).is_ok_and(|cpu| cpu.halted));
        idle.any(|halted| halted)
    }
}

impl Debugger for Vm {
    fn change_processor(
        &mut self,
        index: u32,
        change: &mut dyn FnMut(&mut CpuState) -> bool,
    ) -> bool {
        let Some(processors) = self.processors.as_ref() else {
            return false;
        };
        let Ok(mut state) = processors.state(index) else {
            return false;
        };
        !change(&mut state)
            || state.validate().is_ok() && processors.set_state(index, &state).is_ok()
    }

    fn write_ram(&mut self, gpa: u64, from: &[u8]) -> bool {
        write_ram(&self.shared.lock().machine, gpa, from)
    }

    fn set_break(&mut self, cpu: u32, what: Break) -> Result<(), BreakRefused> {
        let mut breaks = self.debug.breaks.clone();
        breaks.insert(what).map_err(|_| BreakRefused)?;
        if !matches!(self.processors, Some(Processors::Kvm(_))) {
            self.debug.breaks = breaks;
            return Ok(());
        }
        let known = self.debug.patches.len();
        if let Break::Code(Breakpoint {
            address,
            hardware: false,
        }) = what
            && !self.debug.patches.iter().any(|p| p.address == address)
            && let Some(gpa) = self.ram_address(cpu, address)
        {
            self.debug.patches.push(Patch {
                address,
                gpa,
                replaced: None,
            });
        }
        match self.debug.plan(&breaks) {
            Ok(plan) => {
                self.debug.plan = plan;
                self.debug.breaks = breaks;
                Ok(())
            }
            Err(refused) => {
                self.debug.patches.truncate(known);
                Err(refused)
            }
        }
    }

    fn remove_break(&mut self, what: Break) {
        let debug = &mut self.debug;
        debug.breaks.remove(what);
        if let Break::Code(Breakpoint {
            address,
            hardware: false,
        }) = what
        {
            debug.patches.retain(|patch| patch.address != address);
        }
        // Less never needs more.
        debug.plan = debug.plan(&debug.breaks).unwrap_or_default();
    }

    fn clear_breaks(&mut self) {
        if self.run_state == RunState::Running && !self.debug.breaks.is_empty() {
            // The debugger has gone while the guest ran: processors forget what it set, and go on.
            self.pause();
            self.debug.forget();
            self.resume();
        } else {
            self.debug.forget();
        }
    }

    fn stepping(&self) -> Stepping {
        // Where a run can be repeated a step must not change it.
        let repeats = self.settings.icount;
        Stepping {
            no_interrupts: !repeats
                && match &self.processors {
                    Some(Processors::Kvm(cpus)) => cpus.blocks_interrupts(),
                    Some(Processors::Soft(_)) | None => true,
                },
            no_timers: !repeats && !self.settings.kvm,
        }
    }

    fn resume_processors(&mut self, stepping: Stepping, resume: &dyn Fn(u32) -> Resume) -> bool {
        let asleep = self.run_state == RunState::Suspended;
        if asleep || self.run_state.needs_reset() || self.settings.preconfig {
            return false;
        }
        if self.processors.is_none() {
            return false;
        }
        if self.not_while_dumping().is_err() {
            return false;
        }
        if self.run_state == RunState::Running {
            self.pause();
        }
        self.debug.run_all();
        let all: Vec<Resume> = (0..self.settings.cpus).map(resume).collect();
        if all.iter().any(|resume| *resume != Resume::Run) {
            let steps = all.iter().any(|resume| resume.steps());
            self.debug.clock_stands = stepping.no_timers && steps && !self.halted(resume);
            self.debug.resume = all;
        }
        if self.run_state == RunState::Running {
            self.resume();
        } else {
            self.run_state = RunState::Running;
            self.event(Event::Resume);
            self.resume();
        }
        true
    }

    fn take_debug_stop(&mut self) -> Option<DebugStop> {
        self.debug.stop.take()
    }

    fn kill(&mut self) {
        report(format_args!("terminated by the debugger"));
        self.pause();
        self.end(0);
    }

    fn serve_debugger(&mut self, device: &[u8]) -> Result<(), QmpError> {
        let device = String::from_utf8_lossy(device);
        let opened = self.open_gdb_device(&device);
        let refused = |reason| QmpError::generic(format_args!("{reason}"));
        self.debug.device = Some(opened.map_err(refused)?);
        Ok(())
    }
}

impl Debug {
    fn forget(&mut self) {
        self.breaks.clear();
        self.patches.clear();
        self.plan = Plan::default();
    }
}
