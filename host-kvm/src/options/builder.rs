//! From arguments to [`Options`]: one method an option, then what only the whole tells.

use thimble_core::devices::class::DeviceClass;
use thimble_core::machine::actions::{
    ActionChanges, PanicAction, RebootAction, ShutdownAction, WatchdogAction,
};

use super::descriptors;
use super::device::{self, Classes, DeviceText};
use super::machine::{self, ACCEL_HELP, MachineOptions};
use thimble_core::qmp::Parser;
use thimble_monitor::schema::arguments::Audiodev;
use thimble_monitor::schema::{AudiodevDriver, read_option};

use super::opts::{self, Kind, OptsTable, Reason, SubOption};
use super::table::{self, ABSENT, Action, OPTIONS};
use super::values;
use super::{Accel, ChardevOption, MachineKind, OptionError, Options, Parsed, QmpOption};
use crate::chardev::spec::{self, Backend, ChardevSpec, ShortForm};
use crate::log::Items;

/// Serial ports of a board at most.
const SERIALS_MAX: usize = 4;

/// The id of the character device on standard input and output that `-nographic` makes.
const DEFAULT_SERIAL: &str = "serial0";

/// Options while they are being parsed.
pub(super) struct Builder {
    classes: Vec<&'static DeviceClass>,
    options: Options,
    /// The option being handled, as given: `-m 12q`.
    origin: String,
    /// Whether `-accel` was given.
    accel_given: bool,
    monitor_given: bool,
    serial_given: bool,
    qmp_count: usize,
    devices: Vec<(DeviceText, String)>,
    /// Who wants which `-chardev`, to be checked when all are known.
    references: Vec<(String, String)>,
    /// What to print instead of running.
    print: Option<String>,
    /// Default devices that were switched off.
    without: Vec<&'static str>,
    initrd_origin: String,
    append_origin: String,
}

type Done = Result<(), Reason>;

/// Parses the arguments after the program's name.
pub(super) fn parse(
    arguments: impl Iterator<Item = Result<String, String>>,
    classes: Classes<'_>,
) -> Result<Parsed, OptionError> {
    let mut builder = Builder {
        classes: classes.to_vec(),
        options: Options::default(),
        origin: String::new(),
        accel_given: false,
        monitor_given: false,
        serial_given: false,
        qmp_count: 0,
        devices: Vec::new(),
        references: Vec::new(),
        print: None,
        without: Vec::new(),
        initrd_origin: String::new(),
        append_origin: String::new(),
    };
    let mut arguments = arguments
        .map(|argument| argument.map_err(|text| OptionError::new(&text, "is not valid UTF-8")));
    while let Some(argument) = arguments.next() {
        let argument = argument?;
        builder.origin.clone_from(&argument);
        let name = argument
            .strip_prefix("--")
            .or_else(|| argument.strip_prefix('-'))
            .filter(|name| !name.is_empty());
        let Some(name) = name else {
            return Err(builder.error("disk images are not available"));
        };
        let Some(row) = OPTIONS.iter().find(|row| row.names.contains(&name)) else {
            return Err(builder.error(if ABSENT.contains(&name) {
                "this option of QEMU is not available"
            } else {
                "invalid option"
            }));
        };
        let done = match row.action {
            Action::Flag(run) => run(&mut builder),
            Action::Value(_, run) => match arguments.next().transpose()? {
                None => Err("requires an argument".to_owned()),
                Some(value) => {
                    builder.origin = format!("{argument} {value}");
                    run(&mut builder, &value)
                }
            },
        };
        done.map_err(|reason| builder.error(&reason))?;
        if let Some(text) = builder.print.take() {
            return Ok(Parsed::Print(text));
        }
    }
    builder.finish()
}

pub(super) static NAME: OptsTable = OptsTable {
    name: "name",
    implied: Some("guest"),
    options: &[
        SubOption::new("guest", Kind::Text, "name of the guest"),
        SubOption::new("process", Kind::Text, "name of the process"),
        SubOption::new("debug-threads", Kind::Bool, "name the threads"),
    ],
};

pub(super) static OVERCOMMIT: OptsTable = OptsTable {
    name: "overcommit",
    implied: None,
    options: &[
        SubOption::new("mem-lock", Kind::Bool, "lock all memory"),
        SubOption::new("cpu-pm", Kind::Bool, "leave idling to the guest"),
    ],
};

pub(super) static MSG: OptsTable = OptsTable {
    name: "msg",
    implied: None,
    options: &[
        SubOption::new("timestamp", Kind::Bool, "the time before messages"),
        SubOption::new("guest-name", Kind::Bool, "the guest's name before messages"),
    ],
};

pub(super) static ACTION: OptsTable = OptsTable {
    name: "action",
    implied: None,
    options: &[
        SubOption::new(
            "panic",
            Kind::Word(PanicAction::NAMES),
            "what a panic of the guest does",
        ),
        SubOption::new(
            "reboot",
            Kind::Word(RebootAction::NAMES),
            "what a reset does",
        ),
        SubOption::new(
            "shutdown",
            Kind::Word(ShutdownAction::NAMES),
            "what a power-off does",
        ),
        SubOption::new(
            "watchdog",
            Kind::Word(WatchdogAction::NAMES),
            "what a watchdog does that the guest left alone",
        ),
    ],
};

pub(super) static MON: OptsTable = OptsTable {
    name: "mon",
    implied: Some("chardev"),
    options: &[
        SubOption::new("chardev", Kind::Text, "the character device"),
        SubOption::new(
            "mode",
            Kind::Only(&["control"], "there is no human monitor"),
            "control: QMP",
        ),
        SubOption::new(
            "pretty",
            Kind::Only(&["off"], "replies are on one line"),
            "pretty-print replies",
        ),
        SubOption::new("id", Kind::Text, "name of the monitor"),
    ],
};

pub(super) static DISPLAY: OptsTable = OptsTable {
    name: "display",
    implied: Some("type"),
    options: &[SubOption::new(
        "type",
        Kind::Only(&["none"], "there is no display"),
        "the display",
    )],
};

impl Builder {
    fn error(&self, reason: &str) -> OptionError {
        OptionError::new(&self.origin, reason)
    }

    pub(super) fn set(&mut self, set: fn(&mut Options)) -> Done {
        set(&mut self.options);
        Ok(())
    }

    pub(super) fn text(
        &mut self,
        value: &str,
        field: fn(&mut Options) -> &mut Option<String>,
    ) -> Done {
        *field(&mut self.options) = Some(value.to_owned());
        match self.origin.trim_start_matches('-').split(' ').next() {
            Some("initrd") => self.initrd_origin.clone_from(&self.origin),
            Some("append") => self.append_origin.clone_from(&self.origin),
            _ => {}
        }
        Ok(())
    }

    fn print(&mut self, text: String) -> Done {
        self.print = Some(text);
        Ok(())
    }

    pub(super) fn help(&mut self) -> Done {
        self.print(table::help())
    }

    pub(super) fn version(&mut self) -> Done {
        self.print(super::version())
    }

    pub(super) fn machine(&mut self, value: &str) -> Done {
        if OptsTable::wants_help(value) {
            return self.print(MachineOptions::help(value));
        }
        let files = self.options.machine.set(value)?;
        let options = &mut self.options;
        if files.initrd.is_some() {
            self.initrd_origin.clone_from(&self.origin);
        }
        if files.append.is_some() {
            self.append_origin.clone_from(&self.origin);
        }
        for (field, file) in [
            (&mut options.kernel, files.kernel),
            (&mut options.initrd, files.initrd),
            (&mut options.append, files.append),
            (&mut options.bios, files.firmware),
        ] {
            if file.is_some() {
                *field = file;
            }
        }
        self.accel_conflict(value.contains("accel="))
    }

    fn accel_conflict(&self, machine_accel: bool) -> Done {
        if self.accel_given && machine_accel {
            return Err("-accel and -machine accel= can't be used together".to_owned());
        }
        Ok(())
    }

    pub(super) fn accel(&mut self, value: &str) -> Done {
        if OptsTable::wants_help(value) {
            return self.print(ACCEL_HELP.to_owned());
        }
        let machine_accel = !self.accel_given && !self.options.machine.accels.is_empty();
        self.accel_given = true;
        self.accel_conflict(machine_accel)?;
        self.options.machine.add_accel(value)
    }

    pub(super) fn smp(&mut self, value: &str) -> Done {
        self.options.smp = machine::parse_smp(value)?;
        Ok(())
    }

    pub(super) fn memory(&mut self, value: &str) -> Done {
        self.options.memory = machine::parse_memory(value)?;
        Ok(())
    }

    pub(super) fn data_dir(&mut self, value: &str) -> Done {
        if value == "help" || value == "?" {
            let mut text = String::new();
            for dir in self.options.search_path() {
                text.push_str(dir);
                text.push('\n');
            }
            return self.print(text);
        }
        self.options.data_dirs.push(value.to_owned());
        Ok(())
    }

    pub(super) fn device(&mut self, value: &str) -> Done {
        if value == "help" || value == "?" {
            let text = device::list(&self.classes);
            return self.print(text);
        }
        let taken = device::take_apart(value)?;
        let class = device::find(&self.classes, &taken.driver)?;
        if !value.starts_with('{') && OptsTable::wants_help(value) {
            return self.print(device::describe(class));
        }
        self.devices.push((taken, self.origin.clone()));
        Ok(())
    }

    /// There are no sound cards that could refer to it, so that it stands is all.
    pub(super) fn audiodev(&mut self, value: &str) -> Done {
        if value == "help" {
            let mut text = String::from("Available audio drivers:\n");
            for driver in AudiodevDriver::ALL {
                text.push_str(driver.name());
                text.push('\n');
            }
            return self.print(text);
        }
        let mut parser = Box::new(Parser::new());
        let audiodev = read_option::<Audiodev<'_>>(&mut parser, value);
        audiodev.map(drop).map_err(|error| error.to_string())
    }

    pub(super) fn global(&mut self, value: &str) -> Done {
        let global = device::parse_global(value)?;
        if let Some(warning) = device::check_global(&global, &self.classes)? {
            self.options.warnings.push(warning);
        }
        self.options.globals.push(global);
        Ok(())
    }

    fn add_chardev(&mut self, spec: ChardevSpec) -> Done {
        let taken = |other: &ChardevOption| other.spec.id == spec.id;
        if self.options.chardevs.iter().any(taken) {
            return Err(format!("Duplicate ID '{}' for chardev", spec.id));
        }
        let stdio = |spec: &ChardevSpec| matches!(spec.backend, Backend::Stdio { .. });
        if stdio(&spec) && self.options.chardevs.iter().any(|other| stdio(&other.spec)) {
            return Err("cannot use stdio by multiple character devices".to_owned());
        }
        self.options.chardevs.push(ChardevOption {
            spec,
            origin: self.origin.clone(),
        });
        Ok(())
    }

    pub(super) fn chardev(&mut self, value: &str) -> Done {
        if OptsTable::wants_help(value) {
            return self.print(spec::help());
        }
        self.add_chardev(spec::parse(value)?)
    }

    /// A short form: the id of its character device, or `None` for `none`.
    fn short(&mut self, value: &str, id: &str) -> Result<Option<String>, Reason> {
        match spec::parse_short(value, id)? {
            ShortForm::None => Ok(None),
            ShortForm::Reference(id) => {
                self.references.push((id.clone(), self.origin.clone()));
                Ok(Some(id))
            }
            ShortForm::New(spec) => {
                self.add_chardev(spec)?;
                self.references.push((id.to_owned(), self.origin.clone()));
                Ok(Some(id.to_owned()))
            }
        }
    }

    pub(super) fn console(
        &mut self,
        value: &str,
        label: &str,
        field: fn(&mut Options) -> &mut Vec<Option<String>>,
    ) -> Done {
        self.serial_given |= label == "serial";
        let number = field(&mut self.options).len();
        if number == SERIALS_MAX {
            return Err(format!("there can be {SERIALS_MAX} of them at most"));
        }
        let id = self.short(value, &format!("{label}{number}"))?;
        field(&mut self.options).push(id);
        Ok(())
    }

    pub(super) fn qmp(&mut self, value: &str) -> Done {
        let label = format!("compat_monitor{}", self.qmp_count);
        self.qmp_count += 1;
        if value.starts_with("mon:") {
            return Err("the escape key has no place in QMP".to_owned());
        }
        if let Some(chardev) = self.short(value, &label)? {
            self.options.qmp.push(QmpOption { chardev, id: None });
        }
        Ok(())
    }

    pub(super) fn mon(&mut self, value: &str) -> Done {
        let given = MON.parse(value)?;
        let chardev = given
            .owned("chardev")
            .ok_or("Parameter 'chardev' is missing")?;
        if given.text("mode").is_none() {
            return Err("there is no human monitor: mode=control is missing".to_owned());
        }
        self.references.push((chardev.clone(), self.origin.clone()));
        let id = given.text("id").map(opts::id).transpose()?;
        let id = id.map(str::to_owned);
        self.options.qmp.push(QmpOption { chardev, id });
        Ok(())
    }

    pub(super) fn monitor(&mut self, value: &str) -> Done {
        if value != "none" {
            return Err("there is no human monitor: only 'none' is available".to_owned());
        }
        self.monitor_given = true;
        Ok(())
    }

    pub(super) fn qtest(&mut self, value: &str) -> Done {
        if self.options.qtest.is_some() {
            return Err("there can be one only".to_owned());
        }
        self.options.qtest = self.short(value, "qtest")?;
        Ok(())
    }

    pub(super) fn escape_key(&mut self, value: &str) -> Done {
        let key = opts::parse_number(value).ok();
        self.options.escape_key = key
            .and_then(|key| u8::try_from(key).ok())
            .ok_or("expects the code of a key, 0 to 255")?;
        Ok(())
    }

    pub(super) fn display(&mut self, value: &str) -> Done {
        DISPLAY.parse(value).map(drop)
    }

    pub(super) fn only_none(&mut self, value: &str, what: &'static str) -> Done {
        if value != "none" {
            return Err(format!("there is no {what}: only 'none' is available"));
        }
        self.without.push(what);
        Ok(())
    }

    pub(super) fn name(&mut self, value: &str) -> Done {
        let given = NAME.parse(value)?;
        let options = &mut self.options;
        options.name = given.owned("guest").or(options.name.take());
        options.process_name = given.owned("process").or(options.process_name.take());
        options.debug_threads = given.bool("debug-threads").unwrap_or(options.debug_threads);
        Ok(())
    }

    pub(super) fn uuid(&mut self, value: &str) -> Done {
        self.options.uuid = Some(values::parse_uuid(value)?);
        Ok(())
    }

    pub(super) fn add_fd(&mut self, value: &str) -> Done {
        self.options.add_fds.push(descriptors::parse_add_fd(value)?);
        Ok(())
    }

    pub(super) fn rtc(&mut self, value: &str) -> Done {
        self.options.rtc = values::parse_rtc(value)?;
        Ok(())
    }

    pub(super) fn icount(&mut self, value: &str) -> Done {
        self.options.icount = values::parse_icount(value)?;
        Ok(())
    }

    pub(super) fn seed(&mut self, value: &str) -> Done {
        self.options.seed = Some(values::parse_seed(value)?);
        Ok(())
    }

    pub(super) fn overcommit(&mut self, value: &str) -> Done {
        let given = OVERCOMMIT.parse(value)?;
        let options = &mut self.options;
        options.mem_lock = given.bool("mem-lock").unwrap_or(options.mem_lock);
        options.cpu_pm = given.bool("cpu-pm").unwrap_or(options.cpu_pm);
        Ok(())
    }

    pub(super) fn msg(&mut self, value: &str) -> Done {
        let given = MSG.parse(value)?;
        let options = &mut self.options;
        options.msg_timestamp = given.bool("timestamp").unwrap_or(options.msg_timestamp);
        options.msg_guest_name = given.bool("guest-name").unwrap_or(options.msg_guest_name);
        Ok(())
    }

    pub(super) fn action(&mut self, value: &str) -> Done {
        if OptsTable::wants_help(value) {
            return self.print(ACTION.help());
        }
        let given = ACTION.parse(value)?;
        // The table lets no other names through.
        self.options.actions.change(ActionChanges {
            reboot: given.text("reboot").and_then(RebootAction::from_name),
            shutdown: given.text("shutdown").and_then(ShutdownAction::from_name),
            panic: given.text("panic").and_then(PanicAction::from_name),
            watchdog: given.text("watchdog").and_then(WatchdogAction::from_name),
        });
        Ok(())
    }

    pub(super) fn watchdog_action(&mut self, value: &str) -> Done {
        let action = WatchdogAction::from_name(value)
            .ok_or_else(|| format!("expects one of {}", WatchdogAction::NAMES.join(", ")))?;
        self.options.actions.watchdog = action;
        Ok(())
    }

    pub(super) fn log_items(&mut self, value: &str) -> Done {
        if value == "help" || value == "?" {
            return self.print(Items::help());
        }
        values::parse_log_items(value, &mut self.options.log_items)
    }

    fn finish(mut self) -> Result<Parsed, OptionError> {
        for (value, origin) in [
            (&self.options.initrd, &self.initrd_origin),
            (&self.options.append, &self.append_origin),
        ] {
            if value.is_some() && self.options.kernel.is_none() {
                return Err(OptionError::new(origin, "only allowed with -kernel option"));
            }
        }
        let cpus = self.options.smp.max_cpus;
        let room = self.options.machine.check_cpus(cpus);
        room.map_err(|reason| OptionError::new(&format!("-smp {cpus}"), &reason))?;
        self.defaults()?;
        for (device, origin) in std::mem::take(&mut self.devices) {
            let built = device::build(device, &self.classes, &self.options.globals, origin.clone())
                .map_err(|reason| OptionError::new(&origin, &reason))?;
            let same = |other: &super::DeviceOption| built.id.is_some() && other.id == built.id;
            if self.options.devices.iter().any(same) {
                let id = built.id.unwrap_or_default();
                let reason = format!("Duplicate ID '{id}' for device");
                return Err(OptionError::new(&origin, &reason));
            }
            if let Some(chardev) = built.properties.text("chardev") {
                self.references.push((chardev.to_owned(), origin));
            }
            self.options.devices.push(built);
        }
        for (index, (id, origin)) in self.references.iter().enumerate() {
            if !self.options.chardevs.iter().any(|c| c.spec.id == *id) {
                let reason = format!("chardev \"{id}\" not found");
                return Err(OptionError::new(origin, &reason));
            }
            if self.references[..index]
                .iter()
                .any(|(other, _)| other == id)
            {
                let reason = format!("chardev \"{id}\" is already in use");
                return Err(OptionError::new(origin, &reason));
            }
        }
        self.terminal()?;
        if self.options.qtest.is_some() && self.options.machine.accels.is_empty() {
            self.options.machine.accels.push(Accel::Qtest);
        }
        Ok(Parsed::Run(Box::new(self.options)))
    }

    /// Devices that nobody asked for.
    fn defaults(&mut self) -> Result<(), OptionError> {
        let kind = self.options.machine.kind;
        let serial = match kind {
            MachineKind::Pc => true,
            MachineKind::Microvm => self.options.machine.isa_serial,
            MachineKind::None => false,
        };
        if self.options.nodefaults || kind == MachineKind::None {
            return Ok(());
        }
        if serial && !self.serial_given {
            let backend = if self.options.nographic {
                Backend::Stdio { signal: None }
            } else {
                self.options
                    .missing
                    .push("a window for the serial port (its output is dropped)");
                Backend::Null
            };
            // With the monitor given elsewhere, QEMU puts the serial port alone on the terminal.
            let mux = self.options.nographic && !self.monitor_given;
            self.origin = "-nographic".to_owned();
            let added = self.add_chardev(ChardevSpec {
                id: DEFAULT_SERIAL.to_owned(),
                backend,
                mux,
            });
            added.map_err(|reason| self.error(&reason))?;
            self.references
                .push((DEFAULT_SERIAL.to_owned(), self.origin.clone()));
            self.options.serials.push(Some(DEFAULT_SERIAL.to_owned()));
        }
        if kind == MachineKind::Pc {
            for what in ["VGA", "network card", "parallel port", "floppy", "CD-ROM"] {
                let graphics = what == "VGA" && self.options.nographic;
                if !graphics && !self.without.contains(&what) {
                    self.options.missing.push(what);
                }
            }
        }
        Ok(())
    }

    /// What standard input and output can be used for.
    fn terminal(&mut self) -> Result<(), OptionError> {
        if self.options.daemonize {
            for chardev in &self.options.chardevs {
                if matches!(chardev.spec.backend, Backend::Stdio { .. }) {
                    return Err(OptionError::new(
                        &chardev.origin,
                        "cannot use stdio with -daemonize",
                    ));
                }
            }
        }
        let nographic = self.options.nographic;
        for chardev in &mut self.options.chardevs {
            let mux = chardev.spec.mux;
            if let Backend::Stdio { signal } = &mut chardev.spec.backend {
                signal.get_or_insert(!nographic && !mux);
            }
        }
        Ok(())
    }
}
