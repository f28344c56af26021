//! From arguments to [`Options`]: one method an option, then what only the whole tells.

use thimble_core::devices::class::DeviceClass;
use thimble_core::devices::parallel;
use thimble_core::machine::actions::{
    ActionChanges, PanicAction, RebootAction, ShutdownAction, WatchdogAction,
};

use super::acpitable;
use super::block::{self, BlockOption};
use super::boot::{BOOT, OPTION_ROM, OptionRom};
use super::descriptors;
use super::device::{self, Classes, DeviceText};
use super::machine::{self, ACCEL_HELP, MachineOptions};
use thimble_core::qmp::Parser;
use thimble_monitor::owner::objects::{write_properties, write_types};
use thimble_monitor::schema::arguments::Audiodev;
use thimble_monitor::schema::{AudiodevDriver, read_option};

use super::numa::NumaBuilder;
use super::opts::{self, Kind, OptsTable, Reason, SubOption};
use super::smbios;
use super::table::{self, ABSENT, Action, OPTIONS};
use super::values;
use super::{
    Accel, ChardevOption, MachineKind, MonitorOption, ObjectOption, OptionError, Options, Parsed,
    SmbiosOption,
};
use crate::chardev::USERS_MAX;
use crate::chardev::spec::{self, Backend, ChardevSpec, ShortForm};
use crate::log::Items;
use crate::monitors::Language;
use crate::trace;

/// Serial ports of a board at most.
const SERIALS_MAX: usize = 4;

/// Parallel ports of a board at most.
const PARALLELS_MAX: usize = 3;

/// What is said to who has not said `-vga none`.
const VGA_MISSING: &str = "VGA (as with -vga none)";
/// The same where there is a serial port.
const VGA_ON_SERIAL: &str = "VGA (as with -vga none; firmware is on the serial port)";

/// The id of the character device behind the parallel port that every PC has.
const DEFAULT_PARALLEL: &str = "parallel0";

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
    parallel_given: bool,
    monitor_count: usize,
    devices: Vec<(DeviceText, String)>,
    /// Who wants which `-chardev`, to be checked when all are known.
    references: Vec<(String, String)>,
    /// What to print instead of running.
    print: Option<String>,
    /// Default devices that were switched off.
    without: Vec<&'static str>,
    gdb_origin: String,
    initrd_origin: String,
    append_origin: String,
    /// Arguments of `-numa`, and the options as given.
    numa: Vec<(String, String)>,
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
        parallel_given: false,
        monitor_count: 0,
        devices: Vec::new(),
        references: Vec::new(),
        print: None,
        without: Vec::new(),
        gdb_origin: String::new(),
        initrd_origin: String::new(),
        append_origin: String::new(),
        numa: Vec::new(),
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

pub(super) static TRACE: OptsTable = OptsTable {
    name: "trace",
    implied: Some("enable"),
    options: &[
        SubOption::new("enable", Kind::Text, "events to trace: a name or a pattern"),
        SubOption::new(
            "events",
            Kind::Text,
            "file of names or patterns, a line each",
        ),
        SubOption::new("file", Kind::Text, "where to trace"),
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
            Kind::Word(&["readline", "control"]),
            "readline: for people, the default; control: QMP",
        ),
        SubOption::new("pretty", Kind::Bool, "QMP: replies are spread over lines"),
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

    pub(super) fn boot(&mut self, value: &str) -> Done {
        if OptsTable::wants_help(value) {
            return self.print(BOOT.help());
        }
        self.options.boot.add(value, &self.origin)
    }

    pub(super) fn option_rom(&mut self, value: &str) -> Done {
        if OptsTable::wants_help(value) {
            return self.print(OPTION_ROM.help());
        }
        let rom = OptionRom::parse(value, &self.origin)?;
        self.options.option_roms.push(rom);
        Ok(())
    }

    pub(super) fn smp(&mut self, value: &str) -> Done {
        self.options.smp = machine::parse_smp(value)?;
        Ok(())
    }

    pub(super) fn memory(&mut self, value: &str) -> Done {
        let given = machine::parse_memory(value)?;
        self.options.memory = given.unwrap_or(machine::MEMORY_DEFAULT);
        self.options.memory_given = given.is_some();
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

    pub(super) fn blockdev(&mut self, value: &str) -> Done {
        block::check_node(value)?;
        self.options.blocks.push(BlockOption::Node {
            text: value.to_owned(),
            origin: self.origin.clone(),
        });
        Ok(())
    }

    pub(super) fn drive(&mut self, value: &str) -> Done {
        let drive = block::parse(value, &self.origin, &self.options.blocks)?;
        if let Some(warning) = drive.warning {
            self.options
                .warnings
                .push(format!("{}: {warning}", self.origin));
        }
        self.options
            .blocks
            .push(BlockOption::Drive(Box::new(drive)));
        Ok(())
    }

    /// A file, and where it goes.
    pub(super) fn short_drive(&mut self, file: &str, place: &str) -> Done {
        let file = file.replace(',', ",,");
        self.drive(&format!("{place},file={file}"))
    }

    pub(super) fn object(&mut self, value: &str) -> Done {
        if matches!(value, "help" | "?") {
            let mut text = String::new();
            // Writing to a string does not fail.
            let _ = write_types(&mut text);
            return self.print(text);
        }
        if !value.starts_with('{') && OptsTable::wants_help(value) {
            let name = value.split(',').next().unwrap_or_default();
            let name = name.strip_prefix("qom-type=").unwrap_or(name);
            let mut text = String::new();
            return match write_properties(name, &mut text) {
                Ok(true) => self.print(text),
                _ => Err(format!(
                    "Parameter 'qom-type' does not accept value '{name}'"
                )),
            };
        }
        self.options.objects.push(ObjectOption {
            text: value.to_owned(),
            origin: self.origin.clone(),
        });
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
        self.parallel_given |= label == "parallel";
        let number = field(&mut self.options).len();
        if label == "parallel" && number == PARALLELS_MAX {
            // QEMU's words.
            return Err("too many parallel ports".to_owned());
        }
        if number == SERIALS_MAX {
            return Err(format!("there can be {SERIALS_MAX} of them at most"));
        }
        let id = self.short(value, &format!("{label}{number}"))?;
        if let Some(id) = id.as_ref().filter(|_| value.starts_with("mon:")) {
            // A monitor is on it, too.
            self.monitor_given = true;
            self.add_monitor(id.clone(), Language::Human, None);
        }
        field(&mut self.options).push(id);
        Ok(())
    }

    /// Puts a monitor on a character device.
    fn add_monitor(&mut self, chardev: String, language: Language, id: Option<String>) {
        let origin = self.origin.clone();
        self.references.push((chardev.clone(), origin.clone()));
        self.options.monitors.push(MonitorOption {
            chardev,
            language,
            id,
            origin,
        });
    }

    pub(super) fn monitor(&mut self, value: &str, language: Language) -> Done {
        self.monitor_given = true;
        let label = format!("compat_monitor{}", self.monitor_count);
        let chardev = match spec::parse_short(value, &label)? {
            ShortForm::None => return Ok(()),
            ShortForm::Reference(id) => id,
            ShortForm::New(spec) => {
                self.monitor_count += 1;
                self.add_chardev(spec)?;
                label
            }
        };
        self.add_monitor(chardev, language, None);
        Ok(())
    }

    pub(super) fn mon(&mut self, value: &str) -> Done {
        let given = MON.parse(value)?;
        self.monitor_given = true;
        let chardev = given
            .owned("chardev")
            .ok_or("Parameter 'chardev' is missing")?;
        let pretty = given.bool("pretty");
        let language = match given.text("mode") {
            Some("control") => Language::Qmp {
                pretty: pretty.unwrap_or(false),
            },
            // QEMU's words.
            _ if pretty.is_some() => {
                return Err("'pretty' is not compatible with HMP monitors".to_owned());
            }
            _ => Language::Human,
        };
        let id = given.text("id").map(opts::id).transpose()?;
        let id = id.map(str::to_owned);
        self.add_monitor(chardev, language, id);
        Ok(())
    }

    pub(super) fn qtest(&mut self, value: &str) -> Done {
        if self.options.qtest.is_some() {
            return Err("there can be one only".to_owned());
        }
        if value.starts_with("mon:") {
            // QEMU's words.
            return Err("mon: isn't supported in this context".to_owned());
        }
        self.options.qtest = self.short(value, "qtest")?;
        Ok(())
    }

    pub(super) fn gdb(&mut self, value: &str) -> Done {
        if self.options.gdb.is_some() {
            return Err("there can be one only".to_owned());
        }
        self.options.gdb = self.short(&gdb_device(value), crate::gdb::LABEL)?;
        self.gdb_origin.clone_from(&self.origin);
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

    pub(super) fn acpi_table(&mut self, value: &str) -> Done {
        let table = acpitable::parse(value, &self.origin)?;
        self.options.acpi_tables.push(table);
        Ok(())
    }

    pub(super) fn numa(&mut self, value: &str) -> Done {
        // Which processors there are only the whole tells.
        self.numa.push((value.to_owned(), self.origin.clone()));
        Ok(())
    }

    pub(super) fn smbios(&mut self, value: &str) -> Done {
        let given = smbios::parse(value)?;
        if let Some(uuid) = given.text(smbios::UUID) {
            let uuid = values::parse_uuid(uuid).map_err(|_| "Invalid UUID")?;
            // As `-uuid`: the last one counts.
            self.options.uuid = Some(uuid);
        }
        self.options.smbios.push(SmbiosOption {
            given,
            origin: self.origin.clone(),
        });
        Ok(())
    }

    pub(super) fn pflash(&mut self, value: &str) -> Done {
        let file = value.replace(',', ",,");
        self.drive(&format!("if=pflash,file={file}"))
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
        if value == "trace:help" {
            return self.print(trace::help());
        }
        self.options
            .log
            .add(value)
            .map_err(|item| format!("there is no log item '{item}' ('-d help' lists them)"))
    }

    pub(super) fn log_filter(&mut self, value: &str) -> Done {
        self.options.log_filter.add(value)
    }

    pub(super) fn trace(&mut self, value: &str) -> Done {
        if OptsTable::wants_help(value) {
            return self.print(trace::help());
        }
        let given = TRACE.parse(value)?;
        let options = &mut self.options.trace;
        options.patterns.extend(given.owned("enable"));
        options.events.extend(given.owned("events"));
        options.file = given.owned("file").or(options.file.take());
        Ok(())
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
        if self.options.gdb.is_some() && self.options.machine.kind == MachineKind::None {
            // QEMU's sentence.
            let reason = "gdbstub: meaningless to attach gdb to a machine without any CPU.";
            return Err(OptionError::new(&self.gdb_origin, reason));
        }
        let cpus = self.options.smp.max_cpus;
        let room = self.options.machine.check_cpus(cpus);
        room.map_err(|reason| OptionError::new(&format!("-smp {cpus}"), &reason))?;
        self.nodes()?;
        if self.options.memory_path.is_some() && self.options.machine.memory_backend.is_some() {
            // QEMU's words.
            let text = [
                "'-mem-path' can't be used together with",
                "'-machine memory-backend'",
            ];
            return Err(OptionError::sentence(text[0], text[1]));
        }
        self.defaults()?;
        if self.options.snapshot {
            for option in &mut self.options.blocks {
                if let BlockOption::Drive(drive) = option {
                    drive.image.snapshot.get_or_insert(true);
                }
            }
        }
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
            let before = self.references[..index].iter();
            let before = before.filter(|(other, _)| other == id).count();
            let reason = match self.options.chardevs.iter().find(|c| c.spec.id == *id) {
                Some(shared) if shared.spec.mux && before < USERS_MAX => continue,
                // QEMU's words.
                Some(shared) if shared.spec.mux => format!("Device '{id}' is in use"),
                _ if before > 0 => format!("chardev \"{id}\" is already in use"),
                _ => continue,
            };
            return Err(OptionError::new(origin, &reason));
        }
        self.terminal()?;
        if self.options.qtest.is_some() && self.options.machine.accels.is_empty() {
            self.options.machine.accels.push(Accel::Qtest);
        }
        Ok(Parsed::Run(Box::new(self.options)))
    }

    /// NUMA nodes.
    fn nodes(&mut self) -> Result<(), OptionError> {
        let mut numa = NumaBuilder::default();
        for (value, origin) in &self.numa {
            if self.options.machine.kind == MachineKind::None {
                let reason = "NUMA is not supported by this machine-type";
                return Err(OptionError::new(origin, reason));
            }
            let added = numa.add(value, &self.options.smp);
            added.map_err(|reason| OptionError::new(origin, &reason))?;
        }
        let (numa, warning) = numa
            .finish(&self.options.smp)
            .map_err(|reason| OptionError::new("-numa", &reason))?;
        let is_backed = numa.memory.iter().any(Option::is_some);
        if is_backed && self.options.machine.memory_backend.is_some() {
            // QEMU's words.
            let text = "'-numa memdev' properties are mutually exclusive";
            return Err(OptionError::sentence("'-machine memory-backend' and", text));
        }
        self.options.numa = numa;
        self.options.warnings.extend(warning);
        Ok(())
    }

    /// Devices that nobody asked for.
    fn defaults(&mut self) -> Result<(), OptionError> {
        let kind = self.options.machine.kind;
        let serial = match kind {
            MachineKind::Pc => true,
            MachineKind::Microvm => self.options.machine.isa_serial,
            MachineKind::None => false,
        };
        if self.options.nodefaults {
            return Ok(());
        }
        let nographic = self.options.nographic;
        // A monitor that nobody asked for is in a window, except without one.
        let monitor = nographic && !self.monitor_given;
        let serial = serial && !self.serial_given;
        self.origin = "-nographic".to_owned();
        if serial {
            let backend = if nographic {
                Backend::Stdio { signal: None }
            } else {
                self.options
                    .missing
                    .push("a window for the serial port (its output is dropped)");
                Backend::Null
            };
            let added = self.add_chardev(ChardevSpec {
                id: DEFAULT_SERIAL.to_owned(),
                backend,
                mux: monitor,
            });
            added.map_err(|reason| self.error(&reason))?;
            self.references
                .push((DEFAULT_SERIAL.to_owned(), self.origin.clone()));
            self.options.serials.push(Some(DEFAULT_SERIAL.to_owned()));
        }
        let is_parallel = |(text, _): &(DeviceText, String)| text.driver == parallel::CLASS.name;
        let parallel = !self.parallel_given && !self.devices.iter().any(is_parallel);
        if kind == MachineKind::Pc && parallel {
            if !nographic {
                let what = "a window for the parallel port (its output is dropped)";
                self.options.missing.push(what);
            }
            let added = self.add_chardev(ChardevSpec {
                id: DEFAULT_PARALLEL.to_owned(),
                backend: Backend::Null,
                mux: false,
            });
            added.map_err(|reason| self.error(&reason))?;
            let id = Some(DEFAULT_PARALLEL.to_owned());
            self.references
                .extend(id.clone().map(|id| (id, self.origin.clone())));
            self.options.parallels.push(id);
        }
        if monitor {
            if serial {
                self.add_monitor(DEFAULT_SERIAL.to_owned(), Language::Human, None);
            } else {
                let added = self.monitor("stdio", Language::Human);
                added.map_err(|reason| self.error(&reason))?;
            }
        }
        if kind == MachineKind::Pc {
            // Whoever expects a display finds the firmware on the serial port until there is one.
            self.options.serial_console = !nographic
                && self.options.machine.graphics
                && !self.without.contains(&"VGA")
                && matches!(self.options.serials.first(), Some(Some(_)));
            let has_cd = self.default_cdrom();
            self.default_drive("if=floppy,index=0", &["floppy", "isa-fdc"]);
            // A slot for memory cards, which no device is behind.
            self.default_drive("if=none,id=sd0", &[]);
            for what in ["VGA", "network card", "CD-ROM"] {
                if what == "CD-ROM" && has_cd {
                    continue;
                }
                let graphics = what == "VGA" && self.options.nographic;
                if !graphics && !self.without.contains(&what) {
                    let is_said = match what {
                        "VGA" if self.options.serial_console => VGA_ON_SERIAL,
                        "VGA" => VGA_MISSING,
                        _ => what,
                    };
                    self.options.missing.push(is_said);
                }
            }
        }
        Ok(())
    }

    /// Adds the CD-ROM drive that a PC has unless its place is taken, or a disk was asked for as a device. Whether the board
    /// knows such drives.
    fn default_cdrom(&mut self) -> bool {
        if !self.classes.iter().any(|class| class.name == "ide-cd") {
            return false;
        }
        let others = ["ide-cd", "ide-hd", "scsi-cd", "scsi-hd"];
        self.default_drive("if=ide,index=2,media=cdrom", &others);
        true
    }

    /// Adds an empty drive unless its place is taken, or a device of one of these classes was asked for.
    fn default_drive(&mut self, place: &str, instead: &[&str]) {
        let asked = |(device, _): &(DeviceText, String)| instead.contains(&device.driver.as_str());
        if self.devices.iter().any(asked) {
            return;
        }
        // That the place is taken is no mistake.
        if let Ok(drive) = block::parse(place, place, &self.options.blocks) {
            self.options
                .blocks
                .push(BlockOption::Drive(Box::new(drive)));
        }
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

/// What `-gdb` and the human monitor's `gdbserver` mean: on TCP it is a server that does not wait.
fn gdb_device(value: &str) -> String {
    match value.starts_with("tcp:") {
        true => format!("{value},wait=off,nodelay=on,server=on"),
        false => value.to_owned(),
    }
}

/// The device of the human monitor's `gdbserver`.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn parse_gdb(value: &str) -> Result<ShortForm, Reason> {
    spec::parse_short(&gdb_device(value), crate::gdb::LABEL)
}
