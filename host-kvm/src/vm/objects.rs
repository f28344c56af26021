//! What the object tree shows of the process: command line, character devices, processors, and what users have made.

use thimble_core::cpu::{features, models};
use thimble_core::devices::ConsoleId;
use thimble_core::devices::block::DriveId;
use thimble_core::firmware::smbios::EntryPoint;
use thimble_core::qmp::Parser;
use thimble_core::qom::{
    BehindDrive, Chardev, ChardevKind, Outside, Processor, QomValue, Settings, Tree, UserObject,
};
use thimble_monitor::QmpError;
use thimble_monitor::owner::objects::{Changeable, NewValue};
use thimble_monitor::schema::arguments::ObjectOptions;
use thimble_monitor::schema::read_json;
use thimble_monitor::schema::results::{IOThreadInfo, Memdev};

use super::{BridgeState, Guarded, Vm};
use crate::block::Graph;
use crate::chardev::Chardevs;
use crate::chardev::spec::Backend;
use crate::objects;
use crate::options::{DEFAULT_CPU, MachineKind, Options};

/// What stays the same as long as the process lives.
#[derive(Clone, Debug)]
pub struct ObjectFacts {
    append: String,
    firmware: String,
    initrd: String,
    kernel: String,
    dump_guest_core: bool,
    graphics: bool,
    isa_serial: bool,
    option_roms: bool,
    auto_kernel_cmdline: bool,
    mem_merge: bool,
    smbios_64: bool,
    lost_tick_policy: String,
    memory: u64,
    smp: crate::options::Smp,
    processor: Processor,
    qtest: Option<(String, String)>,
}

impl ObjectFacts {
    /// What the command line says, with the name of the firmware that is used. `processor` is what
    /// the accelerator shows; without one it is the model as it is described.
    pub fn new(options: &Options, firmware: &str, processor: Option<Processor>) -> Self {
        let text = |option: &Option<String>| option.clone().unwrap_or_default();
        let machine = &options.machine;
        let log = options.qtest_log.as_deref().filter(|log| *log != "none");
        let processor = processor.unwrap_or_else(|| {
            let model = options.cpu.as_deref().unwrap_or(DEFAULT_CPU);
            let model = model.split(',').next().and_then(models::find);
            let model = model.or_else(|| models::find(DEFAULT_CPU));
            let mut shown = Processor::from_model(model.unwrap_or(&models::MODELS[0]));
            // Every guest's processor tells that it is one.
            let always = features::find("hypervisor").unwrap_or_default();
            for (bits, always) in shown.features.iter_mut().zip(always) {
                *bits |= always;
            }
            shown
        });
        let empty = machine.kind == MachineKind::None;
        Self {
            append: text(&options.append),
            firmware: if empty { "" } else { firmware }.to_owned(),
            initrd: text(&options.initrd),
            kernel: text(&options.kernel),
            dump_guest_core: machine.dump_guest_core,
            graphics: machine.graphics && !options.nographic,
            isa_serial: machine.isa_serial,
            option_roms: machine.option_roms,
            auto_kernel_cmdline: machine.auto_kernel_cmdline,
            mem_merge: machine.mem_merge,
            smbios_64: machine.smbios == EntryPoint::Bits64,
            lost_tick_policy: options.lost_tick_policy(),
            memory: if empty { 0 } else { options.memory },
            smp: options.smp,
            processor,
            qtest: options
                .qtest
                .clone()
                .map(|chardev| (chardev, log.unwrap_or_default().to_owned())),
        }
    }
}

/// The host's part of the tree, while the machine is locked.
struct Objects<'g> {
    built: bool,
    now: u64,
    facts: &'g ObjectFacts,
    chardevs: &'g Chardevs,
    bridge: &'g BridgeState,
    made: &'g objects::Objects,
    blocks: &'g Graph,
}

impl Outside for Objects<'_> {
    fn built(&self) -> bool {
        self.built
    }

    fn now(&self) -> u64 {
        self.now
    }

    fn settings(&self) -> Settings<'_> {
        let facts = self.facts;
        Settings {
            append: &facts.append,
            firmware: &facts.firmware,
            initrd: &facts.initrd,
            kernel: &facts.kernel,
            dump_guest_core: facts.dump_guest_core,
            graphics: facts.graphics,
            isa_serial: facts.isa_serial,
            option_roms: facts.option_roms,
            auto_kernel_cmdline: facts.auto_kernel_cmdline,
            mem_merge: facts.mem_merge,
            smbios_64: facts.smbios_64,
            lost_tick_policy: &facts.lost_tick_policy,
            memory: facts.memory,
            cpus: facts.smp.cpus,
            max_cpus: facts.smp.max_cpus,
            sockets: facts.smp.sockets,
            cores: facts.smp.cores,
            threads: facts.smp.threads,
        }
    }

    fn processor(&self) -> &Processor {
        &self.facts.processor
    }

    fn chardevs(&self, visit: &mut dyn FnMut(Chardev<'_>)) {
        for id in self.chardevs.ids() {
            let own = match self.chardevs.backend(id) {
                Backend::File { .. } => ChardevKind::File,
                Backend::Null => ChardevKind::Null,
                Backend::Pty => ChardevKind::Pty,
                Backend::Serial { .. } => ChardevKind::Serial,
                Backend::Socket(_) => ChardevKind::Socket {
                    connected: self.chardevs.is_open(id),
                },
                Backend::Stdio { .. } => ChardevKind::Stdio,
            };
            let label = self.chardevs.label(id);
            if self.chardevs.is_shared(id) {
                let kind = ChardevKind::Mux;
                visit(Chardev { id: label, kind });
                let id = &format!("{label}-base");
                visit(Chardev { id, kind: own });
            } else {
                let (id, kind) = (label, own);
                visit(Chardev { id, kind });
            }
        }
    }

    fn console(&self, console: ConsoleId) -> Option<&str> {
        let chardev = self.bridge.chardev(console);
        chardev.map(|id| self.chardevs.label(id))
    }

    fn qtest(&self) -> Option<(&str, &str)> {
        let (chardev, log) = self.facts.qtest.as_ref()?;
        Some((chardev, log))
    }

    fn objects(&self, visit: &mut dyn FnMut(UserObject<'_>)) {
        self.made.visit(visit);
    }

    fn object_value(&self, position: usize, property: &str, take: &mut dyn FnMut(QomValue<'_>)) {
        self.made.value(position, property, take);
    }

    fn drive(&self, drive: DriveId, take: &mut dyn FnMut(BehindDrive<'_>)) {
        let Some(drive) = self.blocks.drive_by_id(drive) else {
            return;
        };
        let (device, root) = (drive.device.borrow(), drive.root.borrow());
        let thread = device.as_ref().and_then(|device| device.thread.as_deref());
        let node = root.as_ref().map(|root| root.node());
        take(BehindDrive {
            name: match (drive.name(), &node) {
                ("", Some(node)) => node.name(),
                (name, _) => name,
            },
            thread: thread.and_then(|id| self.made.position(id)),
        });
    }

    fn memory_backend(&self) -> Option<usize> {
        self.made.ram_position()
    }
}

impl Guarded {
    /// Shows the tree of objects. Before `x-exit-preconfig` the machine is not `built`.
    pub fn objects<R>(
        &self,
        facts: &ObjectFacts,
        made: &objects::Objects,
        blocks: &Graph,
        built: bool,
        look: impl FnOnce(Tree<'_>) -> R,
    ) -> R {
        look(Tree {
            machine: &self.machine,
            outside: &Objects {
                built,
                now: self.clock.now(),
                facts,
                chardevs: &self.chardevs,
                bridge: &self.bridge_state,
                made,
                blocks,
            },
        })
    }
}

impl thimble_monitor::owner::Objects for Vm {
    fn object_add(&mut self, options: &ObjectOptions<'_>) -> Result<(), QmpError> {
        self.settings.made.add(options)
    }

    fn object_add_text(&mut self, text: &[u8]) -> Result<(), QmpError> {
        self.settings.made.add_text(&String::from_utf8_lossy(text))
    }

    fn object_del(&mut self, id: &[u8]) -> Result<(), QmpError> {
        self.settings.made.remove(id)
    }

    fn object_set(
        &mut self,
        whose: Changeable,
        property: &str,
        value: NewValue<'_>,
    ) -> Result<(), QmpError> {
        match whose {
            Changeable::Object(position) => self.settings.made.set(position, property, value),
            Changeable::Drive(drive) => self.replace_medium(drive, value.text(property)?),
        }
    }

    fn object_set_json(
        &mut self,
        whose: Changeable,
        property: &str,
        json: &[u8],
    ) -> Result<(), QmpError> {
        let mut parser = Box::new(Parser::new());
        let value = read_json(&mut parser, json);
        let value = value.map_err(|error| QmpError::generic(format_args!("{error}")))?;
        self.object_set(whose, property, NewValue::Json(value))
    }

    fn visit_iothreads(&self, visit: &mut dyn FnMut(&IOThreadInfo<'_>)) {
        self.settings.made.visit_iothreads(visit);
    }

    fn visit_memdevs(&self, visit: &mut dyn FnMut(&Memdev<'_>)) {
        self.settings.made.visit_memdevs(visit);
    }
}
