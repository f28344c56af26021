//! The command line: QEMU's options, spelled as in QEMU 7.2, with one or two hyphens.
//!
//! [`parse`] gives a plain typed struct. One table of options is the source of parsing and of
//! `-help`, tables of sub-options check what options take, and `-device` and `-global` are
//! checked against the device classes. What QEMU has and we lack is refused by name; every error
//! is one line that names the option as given and the reason.

mod acpitable;
mod block;
mod boot;
mod builder;
mod descriptors;
mod device;
mod introspect;
mod machine;
mod numa;
pub mod opts;
mod smbios;
mod table;
mod values;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use thimble_core::devices::class::{DeviceClass, PropertyValues};
use thimble_core::devices::{kernel, rtc};
use thimble_core::machine::actions::Actions;

use crate::chardev::spec::ChardevSpec;
use crate::log::Wanted;
use crate::log::filter::Filter;
use crate::monitors::Language;
use crate::soft::Icount;

pub use acpitable::AcpiTable;
pub use block::{
    BlockOption, DiskOption, Interface, cache_mode, discard_mode, parse as parse_drive,
};
pub use boot::{BootOptions, OptionRom};
pub use builder::parse_gdb;
pub use descriptors::AddFd;
pub use device::{DeviceOption, Global, set as set_property};
pub use introspect::visit_options;
pub use machine::{
    Accel, CPUS_MAX, DEFAULT_CPU, KernelIrqchip, MEMORY_DEFAULT, MEMORY_MAX, MEMORY_UNIT,
    MachineKind, MachineOptions, Smp, visit_machines,
};
pub use numa::NumaOptions;
pub use smbios::{SmbiosGiven, SmbiosOption, parse_release};
pub use values::{Rtc, RtcBase, RtcClock};

/// Where firmware is looked for after the directories of `-L`.
pub const DATA_DIRS: &[&str] = &["/usr/share/seabios", "/usr/share/qemu"];

/// A character device and the option that asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChardevOption {
    /// What to open.
    pub spec: ChardevSpec,
    /// The option as given, for messages.
    pub origin: String,
}

/// An object to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectOption {
    /// `TYPE,id=ID[,...]` or JSON.
    pub text: String,
    /// The option as given, for messages.
    pub origin: String,
}

/// A monitor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonitorOption {
    /// The id of its character device.
    pub chardev: String,
    /// What is spoken there.
    pub language: Language,
    /// Its own id, from `-mon id=`.
    pub id: Option<String>,
    /// The option as given, for messages.
    pub origin: String,
}

/// `-trace`.
#[derive(Clone, Debug, Default)]
pub struct TraceOptions {
    /// Names and patterns of events.
    pub patterns: Vec<String>,
    /// Files of such.
    pub events: Vec<String>,
    /// Where to trace, if not where the log goes.
    pub file: Option<String>,
}

/// What the command line asks for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The board and its accelerators.
    pub machine: MachineOptions,
    /// `-cpu`, not taken apart; may be `help`.
    pub cpu: Option<String>,
    /// Guest RAM in bytes, a multiple of 8 KiB.
    pub memory: u64,
    /// Whether it was asked for.
    pub memory_given: bool,
    /// File, or directory for a file, that guest RAM is made of.
    pub memory_path: Option<String>,
    /// Memory is there from the start, whole.
    pub memory_prealloc: bool,
    /// Objects to make, in order.
    pub objects: Vec<ObjectOption>,
    /// Processors.
    pub smp: Smp,
    /// Firmware image; see [`Options::find_firmware`].
    pub bios: Option<String>,
    /// Kernel image.
    pub kernel: Option<String>,
    /// Initial RAM disk; only with a kernel.
    pub initrd: Option<String>,
    /// Kernel command line; only with a kernel.
    pub append: Option<String>,
    /// What to boot from.
    pub boot: BootOptions,
    /// ROMs for the firmware to run.
    pub option_roms: Vec<OptionRom>,
    /// Firmware is to use the first serial port as screen and keyboard though nobody said that there is no display.
    pub serial_console: bool,
    /// Directories of `-L`, in order.
    pub data_dirs: Vec<String>,
    /// Character devices, in the order in which to open them. All other fields name them by id.
    pub chardevs: Vec<ChardevOption>,
    /// Inherited descriptors that go into sets.
    pub add_fds: Vec<AddFd>,
    /// Serial ports in order: the id of a character device, or `None` for no port.
    pub serials: Vec<Option<String>>,
    /// Parallel ports in order: the id of a character device, or `None` for no port.
    pub parallels: Vec<Option<String>>,
    /// Debug consoles (`isa-debugcon`): the id of a character device, or `None` for no console.
    pub debugcons: Vec<Option<String>>,
    /// Monitors.
    pub monitors: Vec<MonitorOption>,
    /// The id of the character device of the qtest protocol.
    pub qtest: Option<String>,
    /// The id of the character device of the debugger.
    pub gdb: Option<String>,
    /// Where to log the qtest protocol; `none`: nowhere.
    pub qtest_log: Option<String>,
    /// Code of the escape key.
    pub escape_key: u8,
    /// Block nodes and drives, in order.
    pub blocks: Vec<BlockOption>,
    /// Devices to add.
    pub devices: Vec<DeviceOption>,
    /// Defaults of properties, for [`Options::defaults_of`].
    pub globals: Vec<Global>,
    /// Do not start the guest.
    pub paused: bool,
    /// Drives write to temporary files, unless they say otherwise.
    pub snapshot: bool,
    /// Wait for a client's word before anything else.
    pub preconfig: bool,
    /// What is done about resets, power-offs, panics and expired watchdogs.
    pub actions: Actions,
    /// No display, the serial port on the terminal.
    pub nographic: bool,
    /// No default devices.
    pub nodefaults: bool,
    /// Name of the guest.
    pub name: Option<String>,
    /// Name of the process.
    pub process_name: Option<String>,
    /// Give threads names.
    pub debug_threads: bool,
    /// UUID of the guest, in the order of its text form.
    pub uuid: Option<[u8; 16]>,
    /// ACPI tables of the user's.
    pub acpi_tables: Vec<AcpiTable>,
    /// NUMA nodes.
    pub numa: NumaOptions,
    /// What SMBIOS structures tell, in order.
    pub smbios: Vec<SmbiosOption>,
    /// The real-time clock.
    pub rtc: Rtc,
    /// Time goes by instructions.
    pub icount: Option<Icount>,
    /// Where the guest's random numbers come from, if not from the host.
    pub seed: Option<u64>,
    /// Lock all memory.
    pub mem_lock: bool,
    /// Leave idling to the guest.
    pub cpu_pm: bool,
    /// The time before messages.
    pub msg_timestamp: bool,
    /// The guest's name before messages.
    pub msg_guest_name: bool,
    /// What to log.
    pub log: Wanted,
    /// Which addresses to log.
    pub log_filter: Filter,
    /// What to trace.
    pub trace: TraceOptions,
    /// Where to log; `None`: standard error.
    pub log_file: Option<String>,
    /// File for the process id.
    pub pidfile: Option<String>,
    /// Go to the background.
    pub daemonize: bool,
    /// Default devices of the board that are not available: for one line at the start.
    pub missing: Vec<&'static str>,
    /// Lines to print at the start, each behind `thimble: warning: `.
    pub warnings: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            machine: MachineOptions::default(),
            cpu: None,
            memory: MEMORY_DEFAULT,
            memory_given: false,
            memory_path: None,
            memory_prealloc: false,
            objects: Vec::new(),
            smp: Smp::default(),
            bios: None,
            kernel: None,
            initrd: None,
            append: None,
            boot: BootOptions::default(),
            option_roms: Vec::new(),
            serial_console: false,
            data_dirs: Vec::new(),
            chardevs: Vec::new(),
            add_fds: Vec::new(),
            serials: Vec::new(),
            parallels: Vec::new(),
            debugcons: Vec::new(),
            monitors: Vec::new(),
            qtest: None,
            gdb: None,
            qtest_log: None,
            escape_key: crate::chardev::DEFAULT_ESCAPE_KEY,
            blocks: Vec::new(),
            devices: Vec::new(),
            globals: Vec::new(),
            paused: false,
            snapshot: false,
            preconfig: false,
            actions: Actions::default(),
            nographic: false,
            nodefaults: false,
            name: None,
            process_name: None,
            debug_threads: false,
            uuid: None,
            acpi_tables: Vec::new(),
            numa: NumaOptions::default(),
            smbios: Vec::new(),
            rtc: Rtc::default(),
            icount: None,
            seed: None,
            mem_lock: false,
            cpu_pm: false,
            msg_timestamp: false,
            msg_guest_name: false,
            log: Wanted::default(),
            log_filter: Filter::default(),
            trace: TraceOptions::default(),
            log_file: None,
            pidfile: None,
            daemonize: false,
            missing: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

impl Options {
    /// The directories that firmware is looked for in, in order.
    pub fn search_path(&self) -> impl Iterator<Item = &str> {
        let given = self.data_dirs.iter().map(String::as_str);
        given.chain(DATA_DIRS.iter().copied())
    }

    /// Whether the firmware is not ours, so that it starts kernels in its own way.
    pub fn has_own_firmware(&self) -> bool {
        let is_flash = |option: &BlockOption| matches!(option, BlockOption::Drive(drive) if drive.interface == Interface::Pflash);
        let has_flash = self.machine.pflash[0].is_some() || self.blocks.iter().any(is_flash);
        self.bios.is_some() || has_flash
    }

    /// The file that a firmware name means: itself if it exists, else the first one of that name
    /// in the search path, else itself, so that opening it gives the error.
    pub fn find_firmware(&self, name: &str) -> PathBuf {
        let plain = PathBuf::from(name);
        if plain.exists() || name.contains('/') {
            return plain;
        }
        self.search_path()
            .map(|dir| PathBuf::from(dir).join(name))
            .find(|path| path.exists())
            .unwrap_or(plain)
    }

    /// What the kernel's interval timer does about lost ticks, in the words of its class.
    pub fn lost_tick_policy(&self) -> String {
        let timer = self.defaults_of(&kernel::PIT_CLASS);
        let policy = timer.text(kernel::LOST_TICK_POLICY);
        policy.unwrap_or_default().to_owned()
    }

    /// Whether the real-time clock repeats periodic interrupts that the guest has lost: `-rtc driftfix=`, or the same by `-global`.
    ///
    /// # Errors
    /// If it is to do what it can't.
    pub fn rtc_slews(&self) -> Result<bool, OptionError> {
        let clock = self.defaults_of(&rtc::CLASS);
        match clock.text(kernel::LOST_TICK_POLICY) {
            Some("slew") => Ok(true),
            Some("delay") => Err(OptionError::new(
                "-global mc146818rtc.lost_tick_policy=delay",
                "Invalid lost tick policy.",
            )),
            _ => Ok(self.rtc.slew),
        }
    }

    /// The properties that a new device of a class starts with: its defaults and `-global`.
    pub fn defaults_of(&self, class: &'static DeviceClass) -> PropertyValues {
        let mut values = PropertyValues::new(class);
        device::apply(&self.globals, &mut values);
        values
    }
}

/// What the arguments come to.
#[derive(Debug)]
pub enum Parsed {
    /// Run a machine.
    Run(Box<Options>),
    /// Print this text on standard output and exit with status 0.
    Print(String),
}

/// Why the command line was refused: one line, without the program's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionError(String);

impl OptionError {
    /// An error of an option as given (`-m 12q`), also for what comes up after parsing.
    pub fn new(origin: &str, reason: &str) -> Self {
        Self::sentence(&format!("{origin}:"), reason)
    }

    /// An error that is a sentence of two parts, whatever was given.
    pub fn sentence(start: &str, end: &str) -> Self {
        let line = format!("{start} {end}");
        // An argument may hold line feeds and worse; an error is one line.
        Self(
            line.chars()
                .map(|c| if c.is_control() { '?' } else { c })
                .collect(),
        )
    }
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OptionError {}

/// The text of `-version`.
pub fn version() -> String {
    concat!(
        "Thimble ",
        env!("CARGO_PKG_VERSION"),
        " (command line and QMP of QEMU emulator version 7.2.0)\n"
    )
    .to_owned()
}

/// Parses the arguments that follow the program's name. `classes` are the device classes that
/// `-device` and `-global` know.
///
/// # Errors
/// The first option that is unknown, not available, or has a wrong argument.
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    classes: &[&'static DeviceClass],
) -> Result<Parsed, OptionError> {
    let arguments = arguments.into_iter().map(|argument| {
        argument
            .into_string()
            .map_err(|text| text.to_string_lossy().into_owned())
    });
    builder::parse(arguments, classes)
}

#[cfg(test)]
mod tests;
