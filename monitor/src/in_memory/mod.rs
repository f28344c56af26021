//! An owner without a process: a machine in memory that nobody runs. For fuzzers, tests and bare-metal images.

mod boot;
mod clock;
mod debug;
mod descriptors;
mod dump;
mod input;
mod inspect;
mod objects;
mod sleep;
mod trace;
mod typing;

use core::num::NonZeroU64;

use thimble_core::cpu::{CpuState as Processors, Registers, models};
use thimble_core::devices::{ConsoleId, ShutdownCause};
use thimble_core::machine::actions::{ActionChanges, Actions};
use thimble_core::machine::{Host, Machine, RunState};
use thimble_core::qom::{Chardev, Outside, Processor, QomValue, Settings, Tree, UserObject};

use crate::hmp::Defaults;
use crate::schema::SysEmuTarget;
use crate::schema::results::{
    CommandLineOptionInfo, CpuInfoFast, CpuInstanceProperties, MachineInfo,
};
use crate::{CpuState, Event, JobId, KvmInfo, Owner, QmpError, Space, Timestamp, answers};

/// Events that wait to be told at most.
const EVENTS_MAX: usize = 16;

/// Bytes of a saved memory's file name at most.
const NAME_MAX: usize = 256;

/// What a command wrote to a file, where there are files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Which memory.
    pub space: Space,
    /// The first address.
    pub address: u64,
    /// How many bytes.
    pub size: u64,
    /// The file's name, or its beginning.
    pub filename: heapless::Vec<u8, NAME_MAX>,
}

/// A machine, the host it talks to, and what commands have made of it.
pub struct InMemory<'m, H: Host> {
    /// The machine.
    pub machine: Machine<'m>,
    /// Its host.
    pub host: H,
    /// What it is doing.
    pub run_state: RunState,
    /// Whether it is not built yet.
    pub preconfig: bool,
    /// The VM's name.
    pub name: Option<&'static str>,
    /// What `query-uuid` tells.
    pub uuid: [u8; 16],
    /// What `query-kvm` tells.
    pub kvm: KvmInfo,
    /// What the object tree shows of processors.
    pub processor: Processor,
    /// How many processors it is said to have.
    pub cpus: u32,
    /// What the human monitor sees of each of them.
    pub registers: Registers,
    /// What a debugger sees, and has set.
    pub debugged: debug::Debugged,
    /// What was last set.
    pub actions: Actions,
    /// What is to be written to a file. The caller ends the job by `Session::complete`.
    pub saving: Option<(JobId, Saved)>,
    /// What commands have done, a bit each: see [`InMemory::NMI`] and others.
    pub done: u32,
    /// Events that were lost because nobody took them.
    pub lost: u32,
    events: heapless::Deque<Event, EVENTS_MAX>,
    told: i64,
    jobs: u64,
    migration_events: bool,
    dump_defaults: Defaults,
    held_buttons: u8,
    objects: objects::Threads,
}

impl<'m, H: Host> InMemory<'m, H> {
    /// In [`InMemory::done`]: a non-maskable interrupt was sent.
    pub const NMI: u32 = 1;
    /// In [`InMemory::done`]: the end of the process was asked for.
    pub const QUIT: u32 = 2;
    /// In [`InMemory::done`]: the connection was yanked.
    pub const YANK: u32 = 4;

    /// The one character device that can be yanked.
    pub const CHARDEV: &'static str = "compat_monitor0";

    /// An owner of this machine, which waits for `cont`.
    pub fn new(machine: Machine<'m>, host: H) -> Self {
        Self {
            machine,
            host,
            run_state: RunState::Prelaunch,
            preconfig: false,
            name: None,
            uuid: [0; 16],
            kvm: KvmInfo {
                enabled: false,
                present: false,
            },
            processor: Processor::from_model(&models::MODELS[0]),
            cpus: 1,
            registers: Registers::from(&Processors::power_on(0, true, 0)),
            debugged: debug::Debugged::new(),
            actions: Actions::default(),
            saving: None,
            done: 0,
            lost: 0,
            events: heapless::Deque::new(),
            told: 0,
            jobs: 0,
            migration_events: false,
            dump_defaults: Defaults::default(),
            held_buttons: 0,
            objects: objects::Threads::default(),
        }
    }

    /// Lets an event happen.
    pub fn happen(&mut self, event: Event) {
        if self.events.push_back(event).is_err() {
            self.lost += 1;
        }
    }
}

/// Around the machine there is nothing but what users have made.
struct Nothing<'p>(&'p Processor, &'p objects::Threads);

impl Outside for Nothing<'_> {
    fn settings(&self) -> Settings<'_> {
        Settings::default()
    }

    fn processor(&self) -> &Processor {
        self.0
    }

    fn chardevs(&self, _visit: &mut dyn FnMut(Chardev<'_>)) {}

    fn console(&self, _console: ConsoleId) -> Option<&str> {
        None
    }

    fn qtest(&self) -> Option<(&str, &str)> {
        None
    }

    fn objects(&self, visit: &mut dyn FnMut(UserObject<'_>)) {
        self.1.visit(visit);
    }

    fn object_value(&self, position: usize, property: &str, take: &mut dyn FnMut(QomValue<'_>)) {
        self.1.value(position, property, take);
    }
}

impl<H: Host> Owner for InMemory<'_, H> {
    fn run_state(&self) -> RunState {
        self.run_state
    }

    fn stop(&mut self) -> Result<(), QmpError> {
        if self.run_state == RunState::Running {
            self.run_state = RunState::Paused;
            self.happen(Event::Stop);
        }
        Ok(())
    }

    fn cont(&mut self) -> Result<(), QmpError> {
        if self.run_state != RunState::Running {
            self.run_state = RunState::Running;
            self.happen(Event::Resume);
        }
        Ok(())
    }

    fn system_reset(&mut self) -> Result<(), QmpError> {
        self.machine.reset(&mut self.host, 0);
        let reason = ShutdownCause::HostQmpSystemReset;
        let guest = reason.by_guest();
        self.happen(Event::Reset { guest, reason });
        Ok(())
    }

    fn system_powerdown(&mut self) -> Result<(), QmpError> {
        self.machine.press_power_button(&mut self.host, 0);
        self.happen(Event::Powerdown);
        Ok(())
    }

    fn quit(&mut self) {
        self.done |= Self::QUIT;
        let reason = ShutdownCause::HostQmpQuit;
        let guest = reason.by_guest();
        self.happen(Event::Shutdown { guest, reason });
    }

    fn inject_nmi(&mut self) -> Result<(), QmpError> {
        self.done |= Self::NMI;
        Ok(())
    }

    fn set_actions(&mut self, changes: ActionChanges) {
        self.actions.change(changes);
    }

    fn save_memory(
        &mut self,
        space: Space,
        address: u64,
        size: u64,
        filename: &[u8],
    ) -> Result<JobId, QmpError> {
        if self.saving.is_some() {
            return Err(QmpError::generic(format_args!(
                "Memory is being saved already"
            )));
        }
        self.jobs += 1;
        let job = JobId(NonZeroU64::MIN.saturating_add(self.jobs));
        let saved = Saved {
            space,
            address,
            size,
            filename: filename.iter().copied().take(NAME_MAX).collect(),
        };
        self.saving = Some((job, saved));
        Ok(job)
    }

    fn name(&self) -> Option<&str> {
        self.name
    }

    fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    fn kvm(&self) -> KvmInfo {
        self.kvm.clone()
    }

    fn preconfig(&self) -> bool {
        self.preconfig
    }

    fn exit_preconfig(&mut self) -> Result<(), QmpError> {
        self.preconfig = false;
        Ok(())
    }

    fn cpus(&self) -> u32 {
        self.cpus
    }

    fn visit_cpu(&self, index: u32, visit: &mut dyn FnMut(&CpuInfoFast<'_>)) {
        visit(&CpuInfoFast {
            cpu_index: index.into(),
            qom_path: "/machine/unattached/device[0]",
            thread_id: 0,
            props: Some(CpuInstanceProperties {
                node_id: None,
                socket_id: Some(index.into()),
                die_id: None,
                core_id: Some(0),
                thread_id: Some(0),
            }),
            target: SysEmuTarget::X8664,
        });
    }

    fn cpu_state(&mut self, index: u32) -> Result<CpuState, QmpError> {
        Ok(CpuState {
            halted: index > 0,
            pc: 0xffff_fff0,
            thread_id: 0,
        })
    }

    fn registers(&mut self, _index: u32) -> Result<Registers, QmpError> {
        Ok(self.registers)
    }

    fn read_physical(&mut self, gpa: u64, to: &mut [u8]) -> bool {
        let answers = answers(&self.machine, gpa, to.len());
        if answers {
            self.machine.physical_read(&mut self.host, 0, gpa, to);
        }
        answers
    }

    fn dump_defaults(&mut self) -> &mut Defaults {
        &mut self.dump_defaults
    }

    fn visit_objects(&self, look: &mut dyn FnMut(Tree<'_>)) {
        look(Tree {
            machine: &self.machine,
            outside: &Nothing(&self.processor, &self.objects),
        });
    }

    fn visit_machines(&self, visit: &mut dyn FnMut(&MachineInfo<'_>)) {
        visit(&MachineInfo {
            name: self.machine.board().name(),
            alias: None,
            is_default: None,
            cpu_max: self.cpus.into(),
            hotpluggable_cpus: false,
            numa_mem_supported: false,
            deprecated: false,
            default_cpu_type: None,
            default_ram_id: None,
        });
    }

    fn visit_options(&self, _visit: &mut dyn FnMut(&CommandLineOptionInfo<'_>)) {}

    fn migration_events(&mut self) -> &mut bool {
        &mut self.migration_events
    }

    fn visit_yankable(&self, visit: &mut dyn FnMut(&str)) {
        visit(Self::CHARDEV);
    }

    fn yank(&mut self, id: &[u8]) -> bool {
        let known = id == Self::CHARDEV.as_bytes();
        if known {
            self.done |= Self::YANK;
        }
        known
    }

    fn take_event(&mut self) -> Option<(Event, Timestamp)> {
        let event = self.events.pop_front()?;
        self.told += 1;
        let time = Timestamp {
            seconds: self.told,
            microseconds: 0,
        };
        Some((event, time))
    }
}
