//! What the host has made for firmware and guests to read: SMBIOS structures, ACPI tables of the
//! user's, and a ROM.

use super::{Machine, Place};
use crate::firmware::smbios::{ENTRY_FILE, TABLES_FILE, Table};
use crate::firmware::{Content, FwCfgError, Numa, keys};
use crate::pci::BusId;

/// Where a PCI device stands that SMBIOS structures are to name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRoot {
    /// Device and function number on the root bus.
    Devfn(u8),
    /// It is behind a bridge, whose bus has no number yet.
    Behind,
    /// There is no PCI device with this id.
    Missing,
}

impl<'m> Machine<'m> {
    /// Gives SMBIOS structures to the firmware, before the guest runs.
    ///
    /// # Errors
    /// If there is no room for their files.
    pub fn add_smbios(&mut self, table: &Table, structures: &'m [u8]) -> Result<(), FwCfgError> {
        let entry = Content::inline(&table.entry(None));
        self.fw_cfg.add_file(ENTRY_FILE, entry)?;
        self.fw_cfg.add_file(TABLES_FILE, Content::Lent(structures))
    }

    /// Gives the firmware tables of the user's in the old form, before the guest runs: a count, then
    /// each behind its length, 16 bits each.
    ///
    /// # Errors
    /// If there is no room for the item.
    pub fn add_user_tables(&mut self, tables: &'m [u8]) -> Result<(), FwCfgError> {
        self.fw_cfg.add(keys::ACPI_TABLES, Content::Lent(tables))
    }

    /// The NUMA nodes.
    pub fn numa(&self) -> &Numa<'m> {
        &self.numa
    }

    /// Gives the kernel of [`super::Config::kernel`] another command line, without a final NUL, and the boot ROM what to do about it:
    /// what [`crate::firmware::boot::Request::prepare`] has written, of no other length than 0 where [`super::Config::boot`] has none.
    /// Before the guest runs: for what only the machine knows once its devices are there.
    ///
    /// # Errors
    /// If there is no room for the items.
    pub fn set_command_line(
        &mut self,
        cmdline: &'m [u8],
        boot: &'m [u8],
    ) -> Result<(), FwCfgError> {
        // With the final NUL, as at the start.
        let size = Content::inline(&(cmdline.len() as u32 + 1).to_le_bytes());
        self.fw_cfg.set(keys::CMDLINE_SIZE, size)?;
        let line = Content::Lent(cmdline);
        self.fw_cfg.set(keys::CMDLINE_DATA, line)?;
        if boot.is_empty() {
            return Ok(());
        }
        self.fw_cfg.set(keys::BOOT, Content::Lent(boot))
    }

    /// Lends another firmware image, before the guest runs. One of another length than
    /// [`super::Config::rom`] is not taken.
    pub fn set_rom(&mut self, rom: &'m [u8]) {
        if rom.len() == self.rom.len() {
            self.rom = rom;
        }
    }

    /// Where the PCI device with this id stands.
    pub fn find_on_root(&self, id: &str) -> OnRoot {
        let mut devices = self.plugged.iter();
        let device = devices.find(|device| device.place() == Place::Id(id));
        let function = device.and_then(|device| device.function());
        match function.and_then(|index| self.buses.functions.get(index)) {
            None => OnRoot::Missing,
            Some(placed) if placed.bus == BusId::Root => OnRoot::Devfn(placed.devfn),
            Some(_) => OnRoot::Behind,
        }
    }
}
