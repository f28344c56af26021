//! The files behind the board's flash chips: read at the start, written to with each change.
//!
//! Contents are in [`Rom`], from where processors read them; a file is never mapped, so that a short
//! one can't stop the process. Changes are small and go to the page cache of the host as they come: the guest
//! learns from the next read of its chip whether that was possible.
//!
//! A file is locked as QEMU locks it, byte by byte on the open file: others may share it as far as they allow that.

use std::fmt;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

use thimble_core::devices::pflash::{SECTOR, SIZE_MAX, UNITS_MAX};
use thimble_core::machine::FlashUnit;

use crate::block::locks;
use crate::block::node::Permissions;
use crate::files::{self, OFlags, Opened};
use crate::memory::Rom;
use crate::options::{FlashOption, OptionError};
use crate::{error_text, report};

/// Bytes of the firmware's end that are seen below 1 MiB.
const BELOW: usize = 128 << 10;

/// The file behind a chip.
#[derive(Debug)]
struct ChipFile {
    file: Opened,
    origin: String,
    /// Its last change could not be written.
    failed: bool,
}

/// The files behind all chips that keep changes.
#[derive(Debug, Default)]
pub struct FlashFiles([Option<ChipFile>; UNITS_MAX]);

impl FlashFiles {
    /// Writes what has changed of a chip, from an offset on. False if that can't be done, which the user is told once.
    pub fn write(&mut self, unit: u8, offset: u32, cells: &[AtomicU8]) -> bool {
        let chip = self.0.get_mut(usize::from(unit)).and_then(Option::as_mut);
        let Some(chip) = chip else {
            // Changes are for this run only.
            return true;
        };
        let mut bytes = [0; SECTOR];
        let mut offset = u64::from(offset);
        for part in cells.chunks(SECTOR) {
            for (byte, cell) in bytes.iter_mut().zip(part) {
                *byte = cell.load(Ordering::Relaxed);
            }
            let bytes = &bytes[..part.len()];
            if let Err(error) = chip.file.write_all_at(bytes, offset) {
                if !chip.failed {
                    let text = error_text(&error);
                    report(format_args!(
                        "{}: Could not update PFLASH: {text}",
                        chip.origin
                    ));
                }
                chip.failed = true;
                return false;
            }
            offset += part.len() as u64;
        }
        chip.failed = false;
        true
    }
}

/// The chips of a board.
#[derive(Debug)]
pub struct Flash {
    /// All contents: the second chip's, the first one's, and a copy of what is seen below 1 MiB.
    contents: Vec<u8>,
    lengths: [usize; UNITS_MAX],
    read_only: [bool; UNITS_MAX],
    /// Where changes go.
    pub files: FlashFiles,
}

impl Flash {
    /// Opens, locks and reads the files of drives; `None` where there are none.
    ///
    /// # Errors
    /// What can't be had, mostly in QEMU's words.
    pub fn open(drives: &[FlashOption]) -> Result<Option<Self>, OptionError> {
        let mut flash = Self {
            contents: Vec::new(),
            lengths: [0; UNITS_MAX],
            read_only: [false; UNITS_MAX],
            files: FlashFiles::default(),
        };
        let find = |unit| drives.iter().find(|drive| drive.unit == unit);
        let Some(first) = find(0) else {
            return match find(1) {
                Some(second) => Err(OptionError::new(&second.origin, "pflash1 requires pflash0")),
                None => Ok(None),
            };
        };
        let mut total = 0;
        let mut chips = Vec::new();
        for drive in [Some(first), find(1)].into_iter().flatten() {
            let refused = |reason: &str| OptionError::new(&drive.origin, reason);
            let file = open(drive)?;
            let length = file
                .metadata()
                .map_err(|error| refused(&error_text(&error)))?;
            let length = length.len();
            if length == 0 || !length.is_multiple_of(SECTOR as u64) {
                let id = &drive.id;
                let reason = format!(
                    "system firmware block device {id} has invalid size {length}: \
                     its size must be a non-zero multiple of {SECTOR:#x}"
                );
                return Err(refused(&reason));
            }
            total += length;
            if total > SIZE_MAX as u64 {
                let reason = format!("combined size of system firmware exceeds {SIZE_MAX} bytes");
                return Err(refused(&reason));
            }
            let mut bytes = vec![0; length as usize];
            let read = file.read_exact_at(&mut bytes, 0);
            read.map_err(|error| refused(&error_text(&error)))?;
            flash.lengths[drive.unit] = bytes.len();
            flash.read_only[drive.unit] = drive.read_only;
            if !drive.read_only && !drive.snapshot {
                flash.files.0[drive.unit] = Some(ChipFile {
                    file,
                    origin: drive.origin.clone(),
                    failed: false,
                });
            }
            chips.push(bytes);
        }
        let below = chips[0].len().saturating_sub(BELOW);
        let below = chips[0][below..].to_vec();
        for bytes in chips.into_iter().rev() {
            flash.contents.extend(bytes);
        }
        flash.contents.extend(below);
        Ok(Some(flash))
    }

    /// All contents, in the order in which the machine looks for them.
    pub fn contents(&self) -> &[u8] {
        &self.contents
    }

    /// The chips, over memory made of [`Flash::contents`], and the copy of what is seen below 1 MiB.
    pub fn units<'m>(&self, rom: &'m Rom) -> ([Option<FlashUnit<'m>>; UNITS_MAX], &'m [u8]) {
        let [first, second] = self.lengths;
        let unit = |unit: usize, offset: usize| {
            let length = self.lengths[unit];
            (length > 0).then(|| FlashUnit {
                cells: rom.cells(offset, length),
                read_only: self.read_only[unit],
            })
        };
        let units = [unit(0, second), unit(1, 0)];
        (units, rom.bytes_from(first + second))
    }
}

/// Opens and locks the file of a drive.
fn open(drive: &FlashOption) -> Result<Opened, OptionError> {
    let refused = |reason: &dyn fmt::Display| OptionError::new(&drive.origin, &reason.to_string());
    let path = Path::new(&drive.file);
    let writes = !drive.read_only && !drive.snapshot;
    let access = match writes {
        true => OFlags::RDWR,
        false => OFlags::RDONLY,
    };
    // A FIFO or a device must not hold up the start.
    let opened = files::open(path, access | OFlags::NONBLOCK);
    let not_regular = || {
        let file = &drive.file;
        refused(&format_args!(
            "'file' driver requires '{file}' to be a regular file"
        ))
    };
    let opened = opened.map_err(|error| {
        if path.is_dir() {
            return not_regular();
        }
        let text = error_text(&error);
        refused(&format_args!("Could not open '{}': {text}", drive.file))
    })?;
    let is_file = opened.metadata().is_ok_and(|metadata| metadata.is_file());
    if !is_file {
        return Err(not_regular());
    }
    for (permission, name) in [
        (Permissions::CONSISTENT_READ, "consistent read"),
        (Permissions::WRITE, "write"),
    ] {
        if permission == Permissions::WRITE && !writes {
            continue;
        }
        if !locks::take_one(opened.as_fd(), permission) {
            let file = &drive.file;
            return Err(refused(&format_args!(
                "Failed to get \"{name}\" lock: is another process using the image [{file}]?"
            )));
        }
    }
    Ok(opened)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct Scratch(std::path::PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let process = std::process::id();
            let path = std::env::temp_dir().join(format!("thimble-flash-{name}-{process}"));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn drive(&self, unit: usize, length: usize) -> FlashOption {
            let path = self.0.join(format!("chip{unit}"));
            let bytes: Vec<u8> = (0..length).map(|at| (at >> 8) as u8 ^ unit as u8).collect();
            fs::write(&path, bytes).unwrap();
            FlashOption {
                id: format!("pflash{unit}"),
                unit,
                file: path.to_str().unwrap().to_owned(),
                read_only: false,
                snapshot: false,
                origin: format!("-drive {unit}"),
            }
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn contents_are_laid_out_and_changes_written() {
        let scratch = Scratch::new("layout");
        let drives = [scratch.drive(1, 0x2000), scratch.drive(0, 0x3_0000)];
        let mut flash = Flash::open(&drives).unwrap().unwrap();
        let rom = Rom::new(flash.contents()).unwrap();
        let (units, below) = flash.units(&rom);
        let cells = |unit: usize| units[unit].unwrap().cells;
        assert_eq!([cells(0).len(), cells(1).len()], [0x3_0000, 0x2000]);
        assert_eq!(cells(1)[0x100].load(Ordering::Relaxed), 0);
        assert_eq!(cells(0)[0x100].load(Ordering::Relaxed), 1);
        assert_eq!(below.len(), BELOW);
        assert_eq!(below[0x300], 0x03);
        cells(1)[0x1801].store(0x77, Ordering::Relaxed);
        assert!(flash.files.write(1, 0x1801, &cells(1)[0x1801..0x1803]));
        let written = fs::read(&drives[0].file).unwrap();
        assert_eq!(written[0x1801..0x1803], [0x77, 0x19]);
        assert_eq!(written.len(), 0x2000);
    }

    #[test]
    fn what_is_read_only_or_lost_in_the_end_is_not_written() {
        let scratch = Scratch::new("lost");
        let drive = FlashOption {
            snapshot: true,
            ..scratch.drive(0, 0x1000)
        };
        let mut flash = Flash::open(std::slice::from_ref(&drive)).unwrap().unwrap();
        assert!(flash.files.write(0, 0, &[AtomicU8::new(0x55)]));
        assert_eq!(fs::read(&drive.file).unwrap()[0], 0);
        let unit = flash.units(&Rom::new(flash.contents()).unwrap()).0[0]
            .unwrap()
            .read_only;
        assert!(!unit);
    }

    #[test]
    fn sizes_and_gaps_are_refused() {
        let scratch = Scratch::new("sizes");
        let refused = |drives: &[FlashOption]| Flash::open(drives).unwrap_err().to_string();
        let text = refused(&[scratch.drive(1, 0x1000)]);
        assert!(text.ends_with("pflash1 requires pflash0"), "{text}");
        for length in [0, 5000] {
            let text = refused(&[scratch.drive(0, length)]);
            assert!(
                text.contains(&format!("pflash0 has invalid size {length}:")),
                "{text}"
            );
        }
        let text = refused(&[scratch.drive(0, SIZE_MAX), scratch.drive(1, 0x1000)]);
        assert!(text.ends_with("exceeds 8388608 bytes"), "{text}");
        let missing = FlashOption {
            file: "/nowhere/x".into(),
            ..scratch.drive(0, 0x1000)
        };
        let text = refused(&[missing]);
        assert!(
            text.contains("Could not open '/nowhere/x': No such file"),
            "{text}"
        );
        assert!(Flash::open(&[]).unwrap().is_none());
    }

    #[test]
    fn locks_of_others_are_respected() {
        let scratch = Scratch::new("locks");
        let drive = scratch.drive(0, 0x1000);
        let other = fs::File::open(&drive.file).unwrap();
        // Somebody who shares reading only.
        assert!(locks::unshare(other.as_fd(), Permissions::WRITE));
        let text = Flash::open(std::slice::from_ref(&drive))
            .unwrap_err()
            .to_string();
        assert!(text.contains("Failed to get \"write\" lock"), "{text}");
        let reader = FlashOption {
            read_only: true,
            ..drive
        };
        assert!(Flash::open(&[reader]).is_ok());
    }

    #[test]
    fn a_full_disk_is_told() {
        let file = files::open(Path::new("/dev/full"), OFlags::RDWR).unwrap();
        let chip = ChipFile {
            file,
            origin: "-drive x".into(),
            failed: false,
        };
        let mut files = FlashFiles([Some(chip), None]);
        assert!(!files.write(0, 0, &[AtomicU8::new(0)]));
        assert!(files.0[0].as_ref().unwrap().failed);
    }
}
