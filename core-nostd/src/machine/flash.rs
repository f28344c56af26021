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

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicU8;
    use std::vec::Vec;

    use super::*;
    use crate::devices::{ConsoleId, GuestEvent, PowerRequest};
    use crate::machine::{FlashUnit, STATE_MAX};
    use crate::memory::{ArrayRam, Backing};
    use crate::state::StateError;

    /// Keeps what it is told of chips.
    #[derive(Default)]
    struct Keeper {
        changes: Vec<(u8, u32, usize)>,
        is_full: bool,
    }

    impl Host for Keeper {
        fn console_write(&mut self, _console: ConsoleId, bytes: &[u8]) -> usize {
            bytes.len()
        }
        fn set_gsi(&mut self, _gsi: u8, _level: bool) {}
        fn set_intr(&mut self, _level: bool) {}
        fn power(&mut self, _request: PowerRequest) {}
        fn guest_event(&mut self, _event: GuestEvent) {}
        fn memory_remapped(&mut self) {}
        fn set_a20(&mut self, _enabled: bool) {}
        fn flash_changed(&mut self, unit: u8, offset: u32, bytes: &[AtomicU8]) -> bool {
            self.changes.push((unit, offset, bytes.len()));
            !self.is_full
        }
    }

    const FIRST: u64 = HIGH_RAM_BASE - 0x4000;
    const SECOND: u64 = FIRST - 0x2000;
    static RAM: ArrayRam<0x20_0000> = ArrayRam::new();

    fn cells(length: usize, byte: u8) -> &'static [AtomicU8] {
        let cells: Vec<AtomicU8> = (0..length).map(|_| AtomicU8::new(byte)).collect();
        cells.leak()
    }

    fn config() -> Config<'static> {
        let unit = |cells, read_only| Some(FlashUnit { cells, read_only });
        Config {
            rom: &[0x33; 0x4000],
            flash: [
                unit(cells(0x4000, 0x11), true),
                unit(cells(0x2000, 0x22), false),
            ],
            ..Config::new(&RAM, 0x20_0000)
        }
    }

    fn read<const N: usize>(machine: &mut Machine<'_>, gpa: u64) -> [u8; N] {
        let mut bytes = [0; N];
        machine.physical_read(&mut Keeper::default(), 0, gpa, &mut bytes);
        bytes
    }

    #[test]
    fn chips_lie_below_4_gib_and_leave_the_map_one_by_one() {
        let (mut machine, mut host) = (Machine::new(config()).unwrap(), Keeper::default());
        assert_eq!(read(&mut machine, SECOND - 2), [0, 0, 0x22, 0x22]);
        assert_eq!(read(&mut machine, FIRST - 2), [0x22, 0x22, 0x11, 0x11]);
        assert_eq!(read(&mut machine, HIGH_RAM_BASE - 2), [0x11, 0x11, 0, 0]);
        assert_eq!(read(&mut machine, 0xf_fffe), [0x33, 0x33, 0, 0]);
        assert_eq!(read(&mut machine, 0xf_bffe), [0, 0, 0x33, 0x33]);
        machine.physical_write(&mut host, 0, SECOND, &[0x70]);
        assert_eq!(machine.memory_map().find(SECOND), None);
        let first = machine.memory_map().find(FIRST).unwrap();
        assert_eq!(
            (first.read, first.write_ram),
            (Backing::Rom { offset: 0x2000 }, false)
        );
        assert_eq!(read(&mut machine, SECOND - 2), [0, 0, 0x80, 0]);
        assert_eq!(read(&mut machine, FIRST - 2), [0x80, 0, 0x11, 0x11]);
        machine.physical_write(&mut host, 0, FIRST - 1, &[0xff, 0x70]);
        assert_eq!(read(&mut machine, FIRST - 2), [0x22, 0x22, 0x80, 0]);
        assert_eq!(read(&mut machine, 0xf_fffe), [0x33, 0x33, 0, 0]);
        machine.reset(&mut host, 0);
        assert_eq!(read(&mut machine, FIRST - 2), [0x22, 0x22, 0x11, 0x11]);
        assert_eq!(host.changes, []);
    }

    #[test]
    fn changes_are_handed_over_and_failures_come_back() {
        let (mut machine, mut host) = (Machine::new(config()).unwrap(), Keeper::default());
        machine.physical_write(&mut host, 0, SECOND + 8, &[0x40]);
        machine.physical_write(&mut host, 0, SECOND + 8, &[1, 2, 3, 4]);
        machine.physical_write(&mut host, 0, SECOND + 0x1234, &[0x20]);
        machine.physical_write(&mut host, 0, SECOND, &[0xd0]);
        assert_eq!(host.changes, [(1, 8, 4), (1, 0x1000, 0x1000)]);
        assert_eq!(read(&mut machine, SECOND), [0x80]);
        host.is_full = true;
        machine.physical_write(&mut host, 0, SECOND, &[0x10]);
        machine.physical_write(&mut host, 0, SECOND, &[0]);
        assert_eq!(read(&mut machine, SECOND), [0x90]);
        // The first chip is read-only.
        machine.physical_write(&mut host, 0, FIRST, &[0x20]);
        assert_eq!(read(&mut machine, FIRST), [0xa0]);
        assert_eq!(host.changes.len(), 3);
    }

    #[test]
    fn a_write_that_goes_on_moves_with_the_machine() {
        let (mut machine, mut host) = (Machine::new(config()).unwrap(), Keeper::default());
        for byte in [0xe8, 1, 0x55] {
            machine.physical_write(&mut host, 0, SECOND + 0x100, &[byte]);
        }
        let mut state = std::vec![0; STATE_MAX];
        let length = machine.save(&mut state).unwrap();
        let mut other = Machine::new(config()).unwrap();
        other.load(&mut host, 0, &state[..length]).unwrap();
        assert_eq!(other.memory_map().find(SECOND), None);
        for byte in [0x66, 0xd0] {
            other.physical_write(&mut host, 0, SECOND + 0x101, &[byte]);
        }
        other.physical_write(&mut host, 0, SECOND, &[0xff]);
        assert_eq!(read(&mut other, SECOND + 0xff), [0x22, 0x55, 0x66, 0x22]);
        assert_eq!(host.changes, [(1, 0x100, 0x100)]);
        // One without chips can't take it.
        let mut none = Machine::new(Config::new(&RAM, 0x20_0000)).unwrap();
        let error = none.load(&mut host, 0, &state[..length]).unwrap_err();
        assert_eq!(error, StateError::Name);
    }

    #[test]
    fn impossible_chips_are_refused() {
        let unit = |length| {
            Some(FlashUnit {
                cells: cells(length, 0),
                read_only: false,
            })
        };
        let refused = |flash, board| {
            let config = Config {
                flash,
                board,
                ..Config::new(&RAM, 0x20_0000)
            };
            matches!(Machine::new(config), Err(BuildError::Invalid("flash chip")))
        };
        assert!(!refused([unit(0x1000), unit(0x1000)], Board::Pc));
        assert!(refused([unit(0x1000), None], Board::Microvm));
        assert!(refused([None, unit(0x1000)], Board::Pc));
        assert!(refused([unit(0), None], Board::Pc));
        assert!(refused([unit(0x1800), None], Board::Pc));
        assert!(refused([unit(SIZE_MAX), unit(0x1000)], Board::Pc));
    }
}
