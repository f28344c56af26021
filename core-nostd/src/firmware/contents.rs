//! What every PC puts into fw_cfg: the facts that SeaBIOS, OVMF and boot ROMs ask for.
//!
//! ACPI tables, SMBIOS structures and the power-management file come with their models; kernel,
//! command line and initial RAM disk are added by whoever loads them.

use super::fw_cfg::{Content, FwCfg, FwCfgError};
use super::{e820, keys};

/// Facts about a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineFacts<'m> {
    /// UUID, in the order it is written in.
    pub uuid: [u8; 16],
    /// Bytes of RAM below 4 GiB.
    pub low_ram: u64,
    /// Bytes of RAM from 4 GiB on.
    pub high_ram: u64,
    /// Processors present at start.
    pub cpus: u16,
    /// One more than the highest APIC ID that a processor may get.
    pub apic_ids: u16,
    /// Whether the user asked for a machine without display (`-nographic`).
    pub nographic: bool,
    /// Whether firmware offers a boot menu (`-boot menu=on`).
    pub boot_menu: bool,
    /// NUMA nodes, as [`super::numa::write_item`] writes them; empty without any.
    pub numa: &'m [u8],
}

impl<'m> FwCfg<'m> {
    /// Adds the facts that every PC tells. Only before the guest runs, and once.
    pub fn add_machine(&mut self, facts: &MachineFacts<'m>) -> Result<(), FwCfgError> {
        let MachineFacts {
            uuid,
            low_ram,
            high_ram,
            cpus,
            apic_ids,
            nographic,
            boot_menu,
            numa,
        } = *facts;
        self.add(keys::UUID, Content::inline(&uuid))?;
        self.add_u64(keys::RAM_SIZE, low_ram.saturating_add(high_ram))?;
        self.add_u16(keys::NOGRAPHIC, nographic.into())?;
        self.add_u16(keys::NB_CPUS, cpus)?;
        self.add_u16(keys::MAX_CPUS, apic_ids)?;
        self.add_u16(keys::BOOT_MENU, boot_menu.into())?;
        // Nothing reads as zero: no nodes.
        self.add(keys::NUMA, Content::Lent(numa))?;
        self.add_u32(keys::IRQ0_OVERRIDE, 1)?;
        // No reserved range beyond the file's.
        self.add_u32(keys::E820_TABLE, 0)?;
        self.add_file(e820::FILE, e820::table(low_ram, high_ram))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;
    use crate::devices::{PortDevice, Width};

    /// Observed with QEMU 7.2: `-M pc -m 5G -smp 2,maxcpus=4 -boot menu=on`.
    #[test]
    fn facts_read_back() {
        let (mut device, mut bench) = (FwCfg::new(true), Bench::new());
        let facts = MachineFacts {
            uuid: *b"0123456789abcdef",
            low_ram: 3 << 30,
            high_ram: 2 << 30,
            cpus: 2,
            apic_ids: 4,
            nographic: false,
            boot_menu: true,
            numa: &[2, 0, 0, 0, 0, 0, 0, 0],
        };
        device.add_machine(&facts).unwrap();
        assert_eq!(device.add_machine(&facts), Err(FwCfgError::Taken));
        let table = device.file_key(e820::FILE).unwrap();
        let expected: [(u16, &[u8]); 7] = [
            (keys::UUID, b"0123456789abcdef\0"),
            (keys::RAM_SIZE, &[0, 0, 0, 0x40, 1, 0, 0, 0, 0]),
            (keys::NB_CPUS, &[2, 0, 0]),
            (keys::MAX_CPUS, &[4, 0, 0]),
            (keys::BOOT_MENU, &[1, 0, 0]),
            (keys::NUMA, &[2, 0, 0, 0, 0, 0, 0, 0, 0]),
            (table, &[0, 0, 0, 0, 0xfd]),
        ];
        for (key, bytes) in expected {
            device.pio_write(&mut bench.context(), 0, Width::Word, key.into());
            let mut buffer = [0; 17];
            let buffer = &mut buffer[..bytes.len()];
            device.read_data(buffer);
            assert_eq!(buffer, bytes, "{key:#x}");
        }
    }
}
