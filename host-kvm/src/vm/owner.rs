//! What QMP commands do to the VM.

use thimble_core::cpu::{CpuState as Processor, Registers};
use thimble_core::devices::ShutdownCause;
use thimble_core::machine::RunState;
use thimble_core::machine::actions::ActionChanges;
use thimble_core::qom::Tree;
use thimble_monitor::hmp::Defaults;
use thimble_monitor::schema::SysEmuTarget;
use thimble_monitor::schema::results::{
    CommandLineOptionInfo, CpuInfoFast, CpuInstanceProperties, MachineInfo,
};
use thimble_monitor::{
    CpuState, Event, JobId, KvmInfo, Owner, QmpError, Space, Timestamp, answers,
};

use super::{ProcessorError, Processors, Vm, save};
use crate::options;

/// Where processors start (Intel SDM volume 3, "First Instruction Executed").
const RESET_VECTOR: u64 = 0xffff_fff0;

pub(super) fn refused(error: ProcessorError) -> QmpError {
    QmpError::generic(format_args!("{error}"))
}

impl Vm {
    /// The host's number of a processor's thread. Where no accelerator runs it, that is the main one.
    fn cpu_thread(&self, processors: Option<&Processors>, index: u32) -> i64 {
        let thread = processors.and_then(|processors| processors.thread_id(index).ok());
        thread.unwrap_or_else(std::process::id).into()
    }
}

impl Owner for Vm {
    fn run_state(&self) -> RunState {
        self.run_state
    }

    fn stop(&mut self) -> Result<(), QmpError> {
        self.not_while_dumping()?;
        if self.run_state == RunState::Running {
            self.halt(RunState::Paused);
        }
        Ok(())
    }

    fn cont(&mut self) -> Result<(), QmpError> {
        self.not_while_dumping()?;
        if self.run_state != RunState::Running {
            self.start();
        }
        Ok(())
    }

    fn system_reset(&mut self) -> Result<(), QmpError> {
        self.not_while_dumping()?;
        self.reset(ShutdownCause::HostQmpSystemReset);
        Ok(())
    }

    fn system_powerdown(&mut self) -> Result<(), QmpError> {
        self.press_power_button();
        Ok(())
    }

    fn quit(&mut self) {
        self.shut_down(ShutdownCause::HostQmpQuit);
    }

    fn inject_nmi(&mut self) -> Result<(), QmpError> {
        Self::inject_nmi(self).map_err(refused)
    }

    fn set_actions(&mut self, changes: ActionChanges) {
        self.settings.actions.change(changes);
    }

    fn save_memory(
        &mut self,
        space: Space,
        address: u64,
        size: u64,
        filename: &[u8],
    ) -> Result<JobId, QmpError> {
        let space = match space {
            Space::Physical => save::Space::Physical,
            Space::Linear { cpu } => {
                let processors = self.processors.as_ref();
                let registers = processors.map(|processors| processors.paging(cpu));
                // A processor that nobody runs is as after a reset: without paging.
                save::Space::Virtual(registers.transpose().map_err(refused)?.unwrap_or_default())
            }
        };
        let shared = &self.shared;
        save::start(&mut self.jobs, shared, space, address, size, filename)
    }

    fn name(&self) -> Option<&str> {
        self.settings.name.as_deref()
    }

    fn uuid(&self) -> [u8; 16] {
        self.settings.uuid
    }

    fn kvm(&self) -> KvmInfo {
        KvmInfo {
            enabled: self.settings.kvm,
            present: true,
        }
    }

    fn preconfig(&self) -> bool {
        self.settings.preconfig
    }

    fn exit_preconfig(&mut self) -> Result<(), QmpError> {
        self.settings.preconfig = false;
        self.settings.made.show_ram();
        if self.settings.autostart {
            self.start();
        }
        Ok(())
    }

    fn cpus(&self) -> u32 {
        self.settings.cpus
    }

    fn visit_cpu(&self, index: u32, visit: &mut dyn FnMut(&CpuInfoFast<'_>)) {
        let mut qom_path = String::new();
        self.visit_objects(&mut |tree| {
            // Writing to a string does not fail.
            let _ = tree.cpu_path(index as u16, &mut qom_path);
        });
        let place = self.settings.topology.place(index);
        visit(&CpuInfoFast {
            cpu_index: index.into(),
            qom_path: &qom_path,
            thread_id: self.cpu_thread(self.processors.as_ref(), index),
            props: Some(CpuInstanceProperties {
                node_id: self.settings.numa.node_of(index).map(i64::from),
                socket_id: Some(place.socket.into()),
                die_id: None,
                core_id: Some(place.core.into()),
                thread_id: Some(place.thread.into()),
            }),
            target: SysEmuTarget::X8664,
        });
    }

    fn cpu_state(&mut self, index: u32) -> Result<CpuState, QmpError> {
        let processors = self.processors.as_ref();
        let thread_id = self.cpu_thread(processors, index) as i32;
        let (halted, pc) = match processors.map(|processors| processors.glance(index)) {
            Some(glance) => {
                let glance = glance.map_err(refused)?;
                (glance.halted, glance.pc)
            }
            // As after a reset: all but the first wait to be started.
            None => (index > 0, RESET_VECTOR),
        };
        Ok(CpuState {
            halted,
            pc,
            thread_id,
        })
    }

    fn registers(&mut self, index: u32) -> Result<Registers, QmpError> {
        match self.processors.as_ref() {
            Some(processors) => processors.registers(index).map_err(refused),
            // As after a reset.
            None => Ok(Registers::from(&Processor::power_on(0, index == 0, 0))),
        }
    }

    fn read_physical(&mut self, gpa: u64, to: &mut [u8]) -> bool {
        self.shared.call(|machine, bridge, now| {
            let answers = answers(machine, gpa, to.len());
            if answers {
                machine.physical_read(bridge, now, gpa, to);
            }
            answers
        })
    }

    fn dump_defaults(&mut self) -> &mut Defaults {
        &mut self.dump_defaults
    }

    fn visit_objects(&self, look: &mut dyn FnMut(Tree<'_>)) {
        let built = !self.settings.preconfig;
        let guarded = self.shared.lock();
        let settings = &self.settings;
        guarded.objects(
            &settings.objects,
            &settings.made,
            &settings.blocks,
            built,
            look,
        );
    }

    fn visit_machines(&self, visit: &mut dyn FnMut(&MachineInfo<'_>)) {
        options::visit_machines(visit);
    }

    fn visit_options(&self, visit: &mut dyn FnMut(&CommandLineOptionInfo<'_>)) {
        options::visit_options(visit);
    }

    fn migration_events(&mut self) -> &mut bool {
        &mut self.migration_events
    }

    fn visit_yankable(&self, visit: &mut dyn FnMut(&str)) {
        let chardevs = &self.shared.lock().chardevs;
        for id in chardevs.ids().filter(|id| chardevs.is_socket(*id)) {
            visit(chardevs.label(id));
        }
    }

    fn yank(&mut self, id: &[u8]) -> bool {
        let chardevs = &mut self.shared.lock().chardevs;
        let found = std::str::from_utf8(id)
            .ok()
            .and_then(|id| chardevs.find(id))
            .filter(|found| chardevs.is_socket(*found));
        if let Some(found) = found {
            chardevs.hang_up(found);
        }
        found.is_some()
    }

    fn take_event(&mut self) -> Option<(Event, Timestamp)> {
        let event = self.events.pop_front()?;
        self.told.push_back(event.clone());
        Some(event)
    }
}
