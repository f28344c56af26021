//! The images behind the board's flash chips: read at the start, written to with each change.
//!
//! Contents are in [`Rom`], from where processors read them; an image is never mapped, so that a short
//! one can't stop the process. What changes is noted by its sector, under the machine's lock, and written by the main thread, which
//! owns the block layer: at once, and the newest contents, however often they have changed meanwhile. The guest
//! learns from the next change of its chip that one could not be written.

use std::rc::Rc;
use std::sync::atomic::{AtomicU8, Ordering};

use thimble_core::devices::pflash::{Pflash, SECTOR, SIZE_MAX, UNITS_MAX};
use thimble_core::machine::FlashUnit;

use crate::block::Graph;
use crate::block::backend::{Backend, Device};
use crate::block::buffer::Buffer;
use crate::block::file::errno_text;
use crate::block::node::{Need, Node, Permissions};
use crate::memory::Rom;
use crate::options::{BlockOption, Interface, OptionError, Options};
use crate::report;

/// Bytes of the firmware's end that are seen below 1 MiB.
const BELOW: usize = 128 << 10;

/// Sectors of all chips.
const SECTORS: usize = SIZE_MAX / SECTOR;

/// Sectors of chips that have changed, until they are written.
#[derive(Debug)]
pub struct FlashChanges {
    /// A bit each, in all the memory of chips, the first one's first.
    sectors: [u64; SECTORS / 64],
    /// Whether there is one.
    any: bool,
    /// The first sector of each chip.
    first: [usize; UNITS_MAX],
    /// Whether the last change of each chip could not be written.
    pub failed: [bool; UNITS_MAX],
}

impl Default for FlashChanges {
    fn default() -> Self {
        Self {
            sectors: [0; SECTORS / 64],
            any: false,
            first: [0; UNITS_MAX],
            failed: [false; UNITS_MAX],
        }
    }
}

impl FlashChanges {
    /// Notes that bytes of a chip have changed. False if changes before could not be written.
    pub fn note(&mut self, unit: u8, offset: u32, length: usize) -> bool {
        let unit = usize::from(unit);
        let (Some(first), true) = (self.first.get(unit), length > 0) else {
            return true;
        };
        let offset = offset as usize;
        let sectors = offset / SECTOR..=(offset + length - 1) / SECTOR;
        for sector in sectors.map(|sector| first + sector) {
            if let Some(word) = self.sectors.get_mut(sector / 64) {
                *word |= 1 << (sector % 64);
                self.any = true;
            }
        }
        !self.failed[unit]
    }

    /// Whether the main thread has to look.
    pub fn any(&self) -> bool {
        self.any
    }

    /// The sectors that have changed, which are forgotten here.
    pub fn take(&mut self) -> Vec<usize> {
        if !std::mem::take(&mut self.any) {
            return Vec::new();
        }
        let sectors = std::mem::replace(&mut self.sectors, [0; SECTORS / 64]);
        let is_set = |sector: &usize| sectors[sector / 64] >> (sector % 64) & 1 != 0;
        (0..SECTORS).filter(is_set).collect()
    }
}

/// A chip.
#[derive(Clone)]
struct Chip {
    drive: Rc<Backend>,
    /// Who asked for it, for messages.
    origin: String,
    length: usize,
    read_only: bool,
}

/// The chips of a board.
#[derive(Clone, Default)]
pub struct Flash {
    chips: Vec<Chip>,
    /// The chips' memory, the second one's first.
    cells: &'static [AtomicU8],
}

impl Flash {
    /// Takes the drives that `-drive if=pflash` and `-machine pflash0=` name. Gives the chips and all contents: the second
    /// chip's, the first one's, and a copy of what is seen below 1 MiB; nothing where there are none.
    ///
    /// # Errors
    /// What can't be had, in QEMU's words.
    pub fn open(options: &Options, blocks: &Graph) -> Result<(Self, Vec<u8>), OptionError> {
        let mut chips = Vec::new();
        let mut contents = Vec::new();
        let mut total = 0;
        for unit in 0..UNITS_MAX {
            let Some((drive, origin)) = drive_of(unit, options, blocks)? else {
                continue;
            };
            let refused = |reason: &str| OptionError::new(&origin, reason);
            if chips.len() < unit {
                return Err(refused("pflash1 requires pflash0"));
            }
            let device = device(unit);
            let name = match drive.name() {
                "" => device.path.clone(),
                name => name.to_owned(),
            };
            let attached = blocks.attach(&drive, device);
            attached.map_err(|reason| refused(&reason.replace('\n', ". ")))?;
            // No request of its stops the machine.
            drive.has_status.set(false);
            let node = node_of(&drive).ok_or_else(|| {
                refused(&format!(
                    "can't get size of block device {name}: No medium found"
                ))
            })?;
            let length = node.length();
            if length == 0 || !length.is_multiple_of(SECTOR as u64) {
                return Err(refused(&format!(
                    "system firmware block device {name} has invalid size {length}: \
                     its size must be a non-zero multiple of {SECTOR:#x}"
                )));
            }
            total += length;
            if total > SIZE_MAX as u64 {
                return Err(refused(&format!(
                    "combined size of system firmware exceeds {SIZE_MAX} bytes"
                )));
            }
            let buffer = Buffer::new(length as usize);
            let read = blocks.wait(node.read(0, buffer.clone()));
            read.map_err(|error| refused(&errno_text(error)))?;
            contents.push(buffer.to_vec());
            chips.push(Chip {
                drive,
                origin,
                length: length as usize,
                read_only: node.settings().read_only,
            });
        }
        let first = contents.first();
        let below = first.map_or(Vec::new(), |first| {
            first[first.len().saturating_sub(BELOW)..].to_vec()
        });
        contents.reverse();
        contents.push(below);
        let flash = Self { chips, cells: &[] };
        Ok((flash, contents.concat()))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.chips.is_empty()
    }

    /// Puts the chips into memory made of their contents: the board's, and the copy of what is seen below 1 MiB.
    pub fn place(
        &mut self,
        rom: &'static Rom,
    ) -> ([Option<FlashUnit<'static>>; UNITS_MAX], &'static [u8]) {
        let all = self.chips.iter().map(|chip| chip.length).sum();
        self.cells = rom.cells(0, all);
        let unit = |unit: usize| {
            Some(FlashUnit {
                cells: self.cells_of(unit)?,
                read_only: self.chips.get(unit)?.read_only,
            })
        };
        ([unit(0), unit(1)], rom.bytes_from(all))
    }

    /// Where what changes is to be noted.
    pub fn changes(&self) -> FlashChanges {
        let first = self.chips.first().map_or(0, |chip| chip.length / SECTOR);
        FlashChanges {
            first: [0, first],
            ..FlashChanges::default()
        }
    }

    fn cells_of(&self, unit: usize) -> Option<&'static [AtomicU8]> {
        let after: usize = self.chips.get(unit + 1..)?.iter().map(|c| c.length).sum();
        self.cells.get(after..after + self.chips.get(unit)?.length)
    }

    /// Writes sectors that have changed to the images. The user is told once of a chip whose sectors can't be written.
    pub fn write(&self, blocks: &Graph, sectors: &[usize], failed: &mut [bool; UNITS_MAX]) {
        let mut first = 0;
        for (unit, chip) in self.chips.iter().enumerate() {
            let range = first..first + chip.length / SECTOR;
            first = range.end;
            let own = sectors.iter().filter(|sector| range.contains(sector));
            let mut result = Ok(());
            let mut any = false;
            for sector in own.map(|sector| sector - range.start) {
                let at = sector * SECTOR;
                let cells = self.cells_of(unit).and_then(|all| all.get(at..at + SECTOR));
                let (Some(cells), Some(node)) = (cells, node_of(&chip.drive)) else {
                    continue;
                };
                any = true;
                let bytes: Vec<u8> = cells
                    .iter()
                    .map(|cell| cell.load(Ordering::Relaxed))
                    .collect();
                result = result.and(blocks.wait(node.write(at as u64, Buffer::of(&bytes))));
            }
            if let (Err(error), false) = (result, failed[unit]) {
                let (origin, text) = (&chip.origin, errno_text(error));
                report(format_args!("{origin}: Could not update PFLASH: {text}"));
            }
            if any {
                failed[unit] = result.is_err();
            }
        }
    }
}

fn node_of(drive: &Backend) -> Option<Rc<Node>> {
    drive.root.borrow().as_ref().map(|root| root.node())
}

/// What a chip is to the block layer.
fn device(unit: usize) -> Device {
    let path = format!("/machine/system.flash{unit}");
    Device {
        // No controller asks by these.
        drive: Pflash::drive(unit as u8),
        shown: path.clone(),
        path,
        removable: false,
        has_tray: false,
        need: Need {
            uses: Permissions::CONSISTENT_READ | Permissions::WRITE,
            shares: Permissions::all(),
        },
        read_only: true,
        thread: None,
    }
}

/// The drive of a chip, and who asked for it.
fn drive_of(
    unit: usize,
    options: &Options,
    blocks: &Graph,
) -> Result<Option<(Rc<Backend>, String)>, OptionError> {
    let given = options.blocks.iter().find_map(|option| match option {
        BlockOption::Drive(drive)
            if drive.interface == Interface::Pflash && drive.unit == unit as u64 =>
        {
            Some(drive)
        }
        _ => None,
    });
    let named = options.machine.pflash[unit].as_deref();
    match (given, named) {
        (Some(drive), Some(_)) => Err(OptionError::new(&drive.origin, "clashes with -machine")),
        (Some(drive), None) => {
            let backend = blocks.drive(&drive.id);
            Ok(backend.map(|backend| (backend, drive.origin.clone())))
        }
        (None, Some(name)) => {
            let origin = format!("-machine pflash{unit}={name}");
            let refused = |reason: &str| OptionError::new(&origin, reason);
            let drive = match (blocks.drive(name), blocks.node(name)) {
                (Some(drive), _) if drive.device.borrow().is_some() => {
                    let reason = format!("Drive '{name}' is already in use by another device");
                    return Err(refused(&reason));
                }
                (Some(drive), _) => drive,
                (None, Some(node)) => {
                    let drive = Backend::new("");
                    let inserted = blocks.insert(&drive, &node);
                    inserted.map_err(|reason| refused(&reason))?;
                    blocks.add_drive(drive.clone());
                    drive
                }
                (None, None) => {
                    let reason = format!("Property 'cfi.pflash01.drive' can't find value '{name}'");
                    return Err(refused(&reason));
                }
            };
            Ok(Some((drive, origin)))
        }
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_noted_by_sector_and_taken_once() {
        let mut changes = FlashChanges {
            first: [0, 16],
            ..FlashChanges::default()
        };
        assert!(!changes.any());
        assert!(changes.note(0, 0xfff, 2));
        assert!(changes.note(1, 0x5000, 1));
        assert!(changes.note(1, 0x5001, 0xfff));
        assert!(changes.any());
        assert_eq!(changes.take(), [0, 1, 21]);
        assert!(changes.take().is_empty());
        // The last sector of all, and none behind it.
        assert!(changes.note(0, SIZE_MAX as u32 - 1, 5));
        assert_eq!(changes.take(), [SECTORS - 1]);
        assert!(changes.note(0, 0, 0) && changes.note(7, 0, 1));
        assert!(!changes.any());
        changes.failed[1] = true;
        assert!(changes.note(0, 0, 1) && !changes.note(1, 0, 1));
    }
}
