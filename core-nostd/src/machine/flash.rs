//! The system flash of the PC board: where its chips are, and how accesses come to them.

use core::sync::atomic::Ordering;

use super::board::BuildError;
use super::ports::piece;
use super::{Board, Config, Host, Machine};
use crate::devices::pflash::{Pflash, SECTOR, SIZE_MAX, UNITS_MAX};
use crate::devices::{Context, Width};
use crate::pci::i440fx::Firmware;

use super::config::HIGH_RAM_BASE;

/// The chips that a configuration asks for.
pub(super) fn chips<'m>(
    config: &Config<'m>,
) -> Result<[Option<Pflash<'m>>; UNITS_MAX], BuildError> {
    let mut chips = [const { None }; UNITS_MAX];
    let mut size = 0;
    for (unit, given) in config.flash.iter().enumerate() {
        let Some(given) = given else { continue };
        let length = given.cells.len();
        size += length;
        let first = unit == 0 || config.flash[0].is_some();
        let fits = length > 0 && length.is_multiple_of(SECTOR) && size <= SIZE_MAX;
        if config.board != Board::Pc || !first || !fits {
            return Err(BuildError::Invalid("flash chip"));
        }
        chips[unit] = Some(Pflash::new(unit as u8, given.cells, given.read_only));
    }
    Ok(chips)
}

impl Machine<'_> {
    /// Bytes of a chip; 0 if there is none.
    fn flash_length(&self, unit: usize) -> u64 {
        let chip = self.flash.get(unit).and_then(Option::as_ref);
        chip.map_or(0, |chip| chip.cells().len() as u64)
    }

    /// The chips, the one below 4 GiB first.
    pub fn flash(&self) -> impl Iterator<Item = &Pflash<'_>> {
        self.flash.iter().flatten()
    }

    /// Whose byte is at an offset in the memory that holds the firmware: what it is called, the byte's offset there, and how
    /// many follow. `None` for the ROM's.
    pub(super) fn rom_part(&self, offset: u64) -> Option<(&Pflash<'_>, u64, u64)> {
        let mut at = offset;
        for unit in [1, 0] {
            let length = self.flash_length(unit);
            if at < length {
                return Some((self.flash.get(unit)?.as_ref()?, at, length - at));
            }
            at -= length;
        }
        None
    }

    /// Bytes of all chips.
    pub(super) fn flash_size(&self) -> u64 {
        self.flash_length(0) + self.flash_length(1)
    }

    /// The first address of a chip.
    pub(super) fn flash_address(&self, unit: u8) -> u64 {
        match unit {
            0 => HIGH_RAM_BASE - self.flash_length(0),
            _ => self.flash_begin(),
        }
    }

    /// Where the firmware is: in ROM, or in flash with the copy of its end behind it.
    pub(super) fn firmware(&self) -> Firmware {
        let rom = self.rom.len() as u64;
        if self.flash[0].is_none() {
            return Firmware::rom(rom);
        }
        let lengths = [1, 0].map(|unit| self.flash_length(unit));
        let is_memory = |unit: usize| self.flash[unit].as_ref().is_some_and(Pflash::is_array);
        Firmware {
            begin: 0,
            parts: [(lengths[0], is_memory(1)), (lengths[1], is_memory(0))],
            below: (self.flash_size() + rom, rom),
        }
    }

    /// The lowest address of the chips; 4 GiB without any.
    fn flash_begin(&self) -> u64 {
        HIGH_RAM_BASE - self.flash_size()
    }

    /// Whether a chip is at this address.
    pub(super) fn is_flash(&self, gpa: u64) -> bool {
        (self.flash_begin()..HIGH_RAM_BASE).contains(&gpa)
    }

    /// How many bytes are before the next address where a chip begins or ends.
    pub(super) fn flash_border(&self, gpa: u64) -> u64 {
        let borders = [
            self.flash_begin(),
            HIGH_RAM_BASE - self.flash_length(0),
            HIGH_RAM_BASE,
        ];
        let next = borders.into_iter().find(|border| *border > gpa);
        next.map_or(u64::MAX, |next| next - gpa)
    }

    /// The number of the chip at an address, and the offset in it.
    fn flash_place(&self, gpa: u64) -> (usize, u32) {
        let first = HIGH_RAM_BASE - self.flash_length(0);
        match gpa >= first {
            true => (0, (gpa - first) as u32),
            false => (1, gpa.wrapping_sub(self.flash_begin()) as u32),
        }
    }

    /// Reads of the memory that holds the firmware, from an offset on.
    pub(super) fn read_rom(&self, offset: u64, to: &mut [u8]) {
        if let Some((chip, at, _)) = self.rom_part(offset) {
            let cells = chip.cells().get(at as usize..).unwrap_or(&[]);
            for (byte, cell) in to.iter_mut().zip(cells) {
                *byte = cell.load(Ordering::Relaxed);
            }
            return;
        }
        let at = offset.wrapping_sub(self.flash_size());
        let bytes = usize::try_from(at).ok().and_then(|at| self.rom.get(at..));
        if let Some(bytes) = bytes.and_then(|bytes| bytes.get(..to.len())) {
            to.copy_from_slice(bytes);
        }
    }

    /// Reads a chip, whose all bytes are.
    pub(super) fn flash_read(&self, gpa: u64, to: &mut [u8]) {
        let (unit, offset) = self.flash_place(gpa);
        let Some(chip) = self.flash.get(unit).and_then(Option::as_ref) else {
            return;
        };
        let mut done = 0;
        while done < to.len() {
            let at = offset + done as u32;
            let width = piece(at.into(), to.len() - done, Width::Dword);
            let next = done + width as usize;
            let value = chip.read(at, width).to_le_bytes();
            to[done..next].copy_from_slice(&value[..width as usize]);
            done = next;
        }
    }

    /// Writes a chip, to which all bytes go.
    pub(super) fn flash_write<H: Host>(&mut self, host: &mut H, now: u64, gpa: u64, from: &[u8]) {
        let (unit, offset) = self.flash_place(gpa);
        let mut done = 0;
        while done < from.len() {
            let Some(chip) = self.flash.get_mut(unit).and_then(Option::as_mut) else {
                return;
            };
            let at = offset + done as u32;
            let width = piece(at.into(), from.len() - done, Width::Dword);
            let next = done + width as usize;
            let mut bytes = [0; 4];
            bytes[..width as usize].copy_from_slice(&from[done..next]);
            let value = u32::from_le_bytes(bytes);
            chip.write(context!(self, now), at, width, value);
            self.drain(host, now, None);
            done = next;
        }
    }

    /// Hands what has changed of a chip to the host.
    pub(super) fn flash_changed<H: Host>(
        &mut self,
        host: &mut H,
        unit: u8,
        offset: u32,
        length: u16,
    ) {
        let chip = self.flash.get_mut(usize::from(unit));
        let Some(chip) = chip.and_then(Option::as_mut) else {
            return;
        };
        let cells = chip.cells().get(offset as usize..).unwrap_or(&[]);
        let cells = cells.get(..length.into()).unwrap_or(cells);
        if !host.flash_changed(unit, offset, cells) {
            chip.store_failed();
        }
    }
}
