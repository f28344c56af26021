//! What `-kernel` names, and what goes with it, read before the guest runs.

use std::path::Path;

use thimble_core::firmware::acpi::VirtioPlace;
use thimble_core::firmware::boot::{self, Module, Request};
use thimble_core::firmware::loader::{self, Plan, Protocol};
use thimble_core::machine::{Machine, RamLayout};

use super::{cmdline, open, read_file};
use crate::memory::PAGE;
use crate::options::{OptionError, Options};
use crate::{error_text, report};

/// A kernel and what goes with it.
#[derive(Default)]
pub(super) struct Kernel {
    pub(super) file: &'static [u8],
    pub(super) initrd: &'static [u8],
    /// Its command line.
    pub(super) append: &'static str,
    /// What the boot ROM does; empty where other firmware is to start the kernel in its own way.
    pub(super) table: &'static [u8],
    start: Option<Start>,
}

/// How the boot ROM starts a kernel.
struct Start {
    plan: Plan,
    modules: Vec<Module<'static>>,
    layout: RamLayout,
    /// Bytes of ACPI tables.
    acpi: usize,
    /// Ticks a second of the processor's counter, for a kernel that is to be told.
    tsc_hz: Option<u64>,
}

impl Kernel {
    /// Reads `-kernel` and `-initrd`, and finds out how the kernel is to be started.
    /// Its memory ends with so many bytes of ACPI tables. The processor's counter has so many ticks a second, where a guest can't
    /// find that out for sure.
    pub(super) fn load(
        options: &Options,
        layout: RamLayout,
        acpi: usize,
        tsc_hz: Option<u64>,
    ) -> Result<Self, OptionError> {
        let Some(path) = options.kernel.as_deref() else {
            return Ok(Self::default());
        };
        let file = kernel_file(path, options.memory)?;
        let plan = match loader::plan(file, layout.low) {
            Ok(plan) => plan,
            // The firmware may know kernels that we do not.
            Err(_) if options.has_own_firmware() => {
                let mut kernel = Self {
                    file,
                    initrd: initrd_file(options)?,
                    ..Self::default()
                };
                let append = kernel.command_line(options, &[]);
                kernel.prepare(options, append)?;
                return Ok(kernel);
            }
            Err(error) => {
                return Err(OptionError::new(
                    &format!("-kernel {path}"),
                    &error.to_string(),
                ));
            }
        };
        if plan.wants_video {
            report(format_args!("warning: multiboot knows VBE. we don't"));
        }
        let mut modules = Vec::new();
        let initrd = match (plan.protocol, options.initrd.as_deref()) {
            (Protocol::Multiboot, Some(list)) => {
                let texts: &'static [String] = module_texts(list).leak();
                read_modules(texts, options.memory, &mut modules)?
            }
            _ => {
                let initrd = initrd_file(options)?;
                if options.initrd.is_some() {
                    let size = initrd.len() as u32;
                    let (offset, text) = (0, &b""[..]);
                    modules.push(Module { offset, size, text });
                }
                initrd
            }
        };
        let start = Start {
            plan,
            modules,
            layout,
            acpi,
            // Other kernels would not know the word.
            tsc_hz: tsc_hz.filter(|_| plan.protocol == Protocol::Linux),
        };
        let mut kernel = Self {
            file,
            initrd,
            start: Some(start),
            ..Self::default()
        };
        let append = kernel.command_line(options, &[]);
        kernel.prepare(options, append)?;
        Ok(kernel)
    }

    /// The command line for a kernel that is told of devices at these places.
    fn command_line(&self, options: &Options, devices: &[VirtioPlace]) -> String {
        let tsc_hz = self.start.as_ref().and_then(|start| start.tsc_hz);
        cmdline::of(options, devices, tsc_hz)
    }

    /// Takes a command line, and writes what the boot ROM does about it.
    fn prepare(&mut self, options: &Options, append: String) -> Result<(), OptionError> {
        self.append = append.leak();
        let (Some(start), Some(path)) = (&self.start, &options.kernel) else {
            return Ok(());
        };
        let request = Request {
            path: path.as_bytes(),
            append: self.append.as_bytes(),
            modules: &start.modules,
            modules_size: self.initrd.len() as u32,
            low_ram: start.layout.low,
            high_ram: start.layout.high,
            acpi: start.acpi,
        };
        let mut table = vec![0; boot::TABLE_MAX];
        let length = request.prepare(&start.plan, &mut table).map_err(|error| {
            use loader::Error::{InitrdTooLarge, LinuxCommandLine, LinuxVideo};
            let origin = match (&error, &options.initrd) {
                (InitrdTooLarge, Some(initrd)) => format!("-initrd {initrd}"),
                (LinuxCommandLine(_) | LinuxVideo, _) => "-append".to_string(),
                _ => format!("-kernel {path}"),
            };
            OptionError::new(&origin, &error.to_string())
        })?;
        table.truncate(length);
        self.table = table.leak();
        Ok(())
    }

    /// Tells the kernel of the devices that a machine has and nothing else tells it of.
    ///
    /// # Errors
    /// If the command line gets too long.
    pub(super) fn tell_of_devices(
        mut self,
        options: &Options,
        machine: &mut Machine<'static>,
    ) -> Result<(), OptionError> {
        let devices: Vec<_> = machine.virtio_places().collect();
        if self.file.is_empty() || devices.is_empty() {
            return Ok(());
        }
        let append = self.command_line(options, &devices);
        if append == self.append {
            return Ok(());
        }
        self.prepare(options, append)?;
        let told = machine.set_command_line(self.append.as_bytes(), self.table);
        told.map_err(|error| OptionError::new("-append", &error.to_string()))
    }
}

/// A kernel's file; one that can't be opened is said in QEMU's words, which test suites look for.
fn kernel_file(path: &str, most: u64) -> Result<&'static [u8], OptionError> {
    if let Err(error) = open(Path::new(path)) {
        let reason = format!("'{path}': {}", error_text(&error));
        return Err(OptionError::sentence("could not open kernel file", &reason));
    }
    let bytes = read_file(&format!("-kernel {path}"), Path::new(path), most)?;
    Ok(bytes.leak())
}

/// The file of `-initrd`, whole; one that can't be opened is said in QEMU's words.
fn initrd_file(options: &Options) -> Result<&'static [u8], OptionError> {
    let Some(path) = options.initrd.as_deref() else {
        return Ok(&[]);
    };
    if let Err(error) = open(Path::new(path)) {
        let start = format!("error reading initrd {path}:");
        let error = error_text(&error);
        let reason = format!("Failed to open file \u{201c}{path}\u{201d}: open() failed: {error}");
        return Err(OptionError::sentence(&start, &reason));
    }
    let bytes = read_file(&format!("-initrd {path}"), Path::new(path), options.memory)?;
    Ok(bytes.leak())
}

/// The modules that `-initrd` lists for a multiboot kernel: apart by commas, of which two stand for
/// one in a name. Each text is a file's path and, behind a space, what else the kernel is told.
fn module_texts(list: &str) -> Vec<String> {
    let mut texts = vec![String::new()];
    let mut characters = list.chars().peekable();
    while let Some(character) = characters.next() {
        if character == ',' && characters.next_if_eq(&',').is_none() {
            texts.push(String::new());
        } else if let Some(text) = texts.last_mut() {
            text.push(character);
        }
    }
    // A comma at the end is none between two.
    if texts.len() > 1 && texts.last().is_some_and(String::is_empty) {
        texts.pop();
    }
    texts
}

/// Reads modules, each from a page on.
fn read_modules(
    texts: &'static [String],
    most: u64,
    modules: &mut Vec<Module<'static>>,
) -> Result<&'static [u8], OptionError> {
    let mut all: Vec<u8> = Vec::new();
    for text in texts {
        let path = text.split(' ').next().unwrap_or_default();
        let origin = format!("-initrd {path}");
        if !open(Path::new(path)).is_ok_and(|(_, metadata)| metadata.is_file()) {
            // QEMU's words.
            let line = format!("'{path}'");
            return Err(OptionError::sentence("Failed to open file", &line));
        }
        let bytes = read_file(&origin, Path::new(path), most)?;
        all.resize(all.len().next_multiple_of(PAGE as usize), 0);
        let place = u32::try_from(all.len() + bytes.len()).map(|end| (all.len() as u32, end));
        let (offset, end) = place.map_err(|_| {
            let reason = loader::Error::InitrdTooLarge.to_string();
            OptionError::new(&origin, &reason)
        })?;
        all.extend_from_slice(&bytes);
        modules.push(Module {
            offset,
            size: end - offset,
            text: text.as_bytes(),
        });
    }
    Ok(all.leak())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_apart_by_single_commas() {
        assert_eq!(module_texts("a"), ["a"]);
        assert_eq!(module_texts("a x=1 y,b"), ["a x=1 y", "b"]);
        assert_eq!(module_texts("a,,b,c"), ["a,b", "c"]);
        assert_eq!(module_texts("a,,,b"), ["a,", "b"]);
        assert_eq!(module_texts("a,"), ["a"]);
        assert_eq!(module_texts(","), [""]);
        assert_eq!(module_texts("a,,"), ["a,"]);
        assert_eq!(module_texts("a,b,"), ["a", "b"]);
    }
}
