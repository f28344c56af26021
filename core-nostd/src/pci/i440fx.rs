//! Intel 82441FX, the PCI and memory controller (PMC) of the 440FX chipset: the host bridge.
//!
//! After the datasheet, Intel order number 290549. What counts here is which memory answers
//! below 1 MiB: the PAM registers (section 3.2.16) and SMRAM (3.2.18). DRAM geometry, ECC and
//! timing registers keep what is written and do nothing.

use serde::{Deserialize, Serialize};

use super::{ConfigSpace, Identity, PciFunction, SavedSpace};
use crate::devices::class::DeviceClass;
use crate::devices::{Context, Effect, Width};
use crate::memory::{Backing, MapFull, MemoryMap, Region};
use crate::state::{SavedState, StateError};

/// The class, as the object model knows it.
pub static CLASS: DeviceClass = DeviceClass {
    name: "i440FX",
    parent: "pci-device",
    bus: Some("PCI"),
    doc: "Host bridge",
    user_creatable: false,
    properties: &[],
};

const IDENTITY: Identity = Identity {
    vendor: 0x8086,
    device: 0x1237,
    revision: 0x02,
    class: 0x06_0000,
    header: 0,
};

/// DRAM control. QEMU keeps the size of RAM there, in units of 8 MiB, for firmware that asks no other way (coreboot).
const DRAMC: u8 = 0x57;
/// Its unit.
const DRAMC_UNIT: u64 = 8 << 20;
/// PAM0, of which the high half counts; PAM1 to PAM6 follow.
const PAM0: u8 = 0x59;
/// System management RAM control.
const SMRAM: u8 = 0x72;
/// The last of the registers that say which memory is where.
const PAM6: u8 = PAM0 + 6;

/// In each half of a PAM register: reads go to RAM.
const PAM_READ: u8 = 1;
/// In each half of a PAM register: writes go to RAM.
const PAM_WRITE: u8 = 2;

/// SMRAM: the space at A0000h is open to all processors.
const SMRAM_OPEN: u8 = 1 << 6;
/// SMRAM: the space at A0000h is closed to data.
const SMRAM_CLOSED: u8 = 1 << 5;
/// SMRAM: D_OPEN and D_CLS keep their values until reset.
const SMRAM_LOCKED: u8 = 1 << 4;
/// SMRAM: the feature is enabled.
const SMRAM_ENABLED: u8 = 1 << 3;
/// SMRAM: what can be written. The base segment always reads 010b: A0000h.
const SMRAM_WRITABLE: u8 = SMRAM_OPEN | SMRAM_CLOSED | SMRAM_LOCKED | SMRAM_ENABLED;
/// SMRAM: its value after reset.
const SMRAM_RESET: u8 = 0x02;

/// Base of the VGA and SMRAM space.
const VGA_BASE: u64 = 0xa_0000;
/// Base of the space that the PAM registers rule.
const PAM_BASE: u64 = 0xc_0000;
/// Its end.
const PAM_END: u64 = 0x10_0000;
/// Bytes of each of the first twelve areas; the thirteenth is F0000h to FFFFFh.
const PAM_AREA: u64 = 0x4000;
/// Areas that the PAM registers rule.
const PAM_AREAS: u8 = 13;
/// Bytes below 1 MiB where the end of the firmware image shows through.
pub const ROM_ALIAS: u64 = 0x2_0000;
/// The end of 32-bit space, where the firmware image ends.
const ROM_END: u64 = 1 << 32;

/// The host bridge.
#[derive(Clone, Debug)]
pub struct I440Fx {
    /// What DRAMC shows after reset.
    dramc: u8,
    space: ConfigSpace,
}

/// Saved form, version 1.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    space: SavedSpace,
}

impl I440Fx {
    /// The bridge after power-on, in a machine with `ram_size` bytes of RAM.
    pub fn new(ram_size: u64) -> Self {
        let dramc = (ram_size / DRAMC_UNIT).min(0xff) as u8;
        Self {
            dramc,
            space: Self::power_on(dramc),
        }
    }

    fn power_on(dramc: u8) -> ConfigSpace {
        let mut space = ConfigSpace::new(IDENTITY);
        space.put(DRAMC.into(), &[dramc]);
        space.put(SMRAM.into(), &[SMRAM_RESET]);
        space
    }

    /// Puts all registers back.
    pub fn reset(&mut self, cx: &mut Context<'_>) {
        self.space = Self::power_on(self.dramc);
        cx.effects.push(Effect::RemapMemory);
    }

    /// Which of reads and writes of a PAM area reach RAM.
    fn pam(&self, area: u8) -> (bool, bool) {
        // Area 12 is the high half of PAM0, then come two areas a register, the low half first.
        let half = match area {
            12 => self.space.byte(PAM0) >> 4,
            _ => self.space.byte(PAM0 + 1 + area / 2) >> (area % 2 * 4),
        };
        (half & PAM_READ != 0, half & PAM_WRITE != 0)
    }

    /// What is mapped where on a board with this bridge: `low_ram` bytes of RAM from 0 on,
    /// `high_ram` from 4 GiB on, and a firmware image of `rom` bytes that ends at 4 GiB.
    pub fn memory_map(&self, low_ram: u64, high_ram: u64, rom: u64) -> Result<MemoryMap, MapFull> {
        let mut map = MemoryMap::new();
        let ram = |gpa: u64, end: u64| Region {
            gpa,
            length: end.min(low_ram).saturating_sub(gpa),
            read: Backing::Ram,
            write_ram: true,
        };
        map.push(ram(0, VGA_BASE))?;
        if self.space.byte(SMRAM) & (SMRAM_OPEN | SMRAM_ENABLED) == SMRAM_OPEN | SMRAM_ENABLED {
            map.push(ram(VGA_BASE, PAM_BASE))?;
        }
        for area in 0..PAM_AREAS {
            let gpa = PAM_BASE + u64::from(area) * PAM_AREA;
            let end = if area + 1 == PAM_AREAS {
                PAM_END
            } else {
                gpa + PAM_AREA
            };
            map.push(self.pam_region(area, gpa, end, low_ram, rom))?;
        }
        map.push(ram(PAM_END, u64::MAX))?;
        let read = Backing::Rom { offset: 0 };
        map.push(Region {
            gpa: ROM_END - rom,
            length: rom,
            read,
            write_ram: false,
        })?;
        let read = Backing::Ram;
        map.push(Region {
            gpa: ROM_END,
            length: high_ram,
            read,
            write_ram: true,
        })?;
        Ok(map)
    }

    fn pam_region(&self, area: u8, gpa: u64, end: u64, low_ram: u64, rom: u64) -> Region {
        let (read_ram, write_ram) = self.pam(area);
        let exists = end <= low_ram;
        let read = if read_ram && exists {
            Backing::Ram
        } else {
            // The image's last bytes, as far as it reaches.
            match (rom + gpa).checked_sub(PAM_END) {
                Some(offset) if gpa >= PAM_END - ROM_ALIAS => Backing::Rom { offset },
                _ => Backing::Bus,
            }
        };
        Region {
            gpa,
            length: end - gpa,
            read,
            write_ram: write_ram && exists,
        }
    }
}

impl PciFunction for I440Fx {
    fn config_read(&self, at: u8, width: Width) -> u32 {
        self.space.read(at, width)
    }

    fn config_write(&mut self, cx: &mut Context<'_>, at: u8, width: Width, value: u32) {
        let before = self.space.clone();
        self.space.write(at, width, value);
        let (old, new) = (before.byte(SMRAM), self.space.byte(SMRAM));
        if old != new {
            let kept = if old & SMRAM_LOCKED != 0 {
                SMRAM_WRITABLE
            } else {
                !SMRAM_WRITABLE
            };
            let mut smram = old & kept | new & !kept;
            if smram & SMRAM_LOCKED != 0 {
                smram &= !SMRAM_OPEN;
            }
            self.space
                .put(SMRAM.into(), &[smram & SMRAM_WRITABLE | SMRAM_RESET]);
        }
        let mut rulers = (PAM0..=PAM6).chain([SMRAM]);
        if rulers.any(|at| before.byte(at) != self.space.byte(at)) {
            cx.effects.push(Effect::RemapMemory);
        }
    }
}

impl SavedState for I440Fx {
    const NAME: &'static str = CLASS.name;
    const VERSION: u16 = 1;
    type Saved = Saved;

    fn save(&self) -> Saved {
        let Self { dramc: _, space } = self;
        Saved {
            space: SavedSpace::new(space),
        }
    }

    fn load(&mut self, saved: Saved, cx: &mut Context<'_>) -> Result<(), StateError> {
        let Saved { space } = saved;
        if !self.space.can_become(space.bytes()) {
            return Err(StateError::Invalid("space"));
        }
        self.space.put(0, space.bytes());
        cx.effects.push(Effect::RemapMemory);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;
    use crate::pci::register;

    const MIB: u64 = 1 << 20;

    crate::state::lifecycle_tests!(I440Fx, I440Fx::new(128 << 20), |device, bench| {
        device.config_write(&mut bench.context(), PAM0, Width::Byte, 0x30);
    });

    fn at(map: &MemoryMap, gpa: u64) -> (Backing, bool) {
        map.find(gpa).map_or((Backing::Bus, false), |region| {
            let read = match region.read {
                Backing::Rom { offset } => Backing::Rom {
                    offset: offset + gpa - region.gpa,
                },
                other => other,
            };
            (read, region.write_ram)
        })
    }

    #[test]
    fn after_reset_rom_shows_below_one_mebibyte() {
        let map = I440Fx::new(128 << 20)
            .memory_map(64 * MIB, MIB, 0x4_0000)
            .unwrap();
        assert_eq!(at(&map, 0x9_ffff), (Backing::Ram, true));
        assert_eq!(at(&map, 0xa_0000), (Backing::Bus, false));
        assert_eq!(at(&map, 0xd_ffff), (Backing::Bus, false));
        assert_eq!(
            at(&map, 0xe_0000),
            (Backing::Rom { offset: 0x2_0000 }, false)
        );
        assert_eq!(
            at(&map, 0xf_fff0),
            (Backing::Rom { offset: 0x3_fff0 }, false)
        );
        assert_eq!(
            at(&map, 0xffff_fff0),
            (Backing::Rom { offset: 0x3_fff0 }, false)
        );
        assert_eq!(at(&map, 64 * MIB), (Backing::Bus, false));
        assert_eq!(at(&map, ROM_END), (Backing::Ram, true));
    }

    #[test]
    fn small_rom_shows_at_the_end() {
        let map = I440Fx::new(128 << 20)
            .memory_map(64 * MIB, 0, 0x1_0000)
            .unwrap();
        assert_eq!(at(&map, 0xe_0000), (Backing::Bus, false));
        assert_eq!(at(&map, 0xf_0000), (Backing::Rom { offset: 0 }, false));
    }

    #[test]
    fn pam_registers_choose_ram() {
        let mut bench = Bench::new();
        let mut bridge = I440Fx::new(128 << 20);
        bridge.config_write(&mut bench.context(), PAM0, Width::Byte, 0x30);
        assert_eq!(bench.effects.take(), Some(Effect::RemapMemory));
        bridge.config_write(&mut bench.context(), PAM0, Width::Byte, 0x30);
        assert_eq!(bench.effects.take(), None, "nothing changed");
        // PAM1: C0000h read only, C4000h write only.
        bridge.config_write(&mut bench.context(), PAM0 + 1, Width::Byte, 0x21);
        let map = bridge.memory_map(64 * MIB, 0, 0x2_0000).unwrap();
        assert_eq!(at(&map, 0xf_0000), (Backing::Ram, true));
        assert_eq!(at(&map, 0xc_0000), (Backing::Ram, false));
        assert_eq!(at(&map, 0xc_4000), (Backing::Bus, true));
        assert_eq!(at(&map, 0xe_c000), (Backing::Rom { offset: 0xc000 }, false));
    }

    #[test]
    fn every_pam_setting_fits_the_map() {
        let mut bench = Bench::new();
        for pattern in 0..=0xffu32 {
            let mut bridge = I440Fx::new(128 << 20);
            for register in 0..7 {
                let value = if register % 2 == 0 { pattern } else { !pattern };
                bridge.config_write(&mut bench.context(), PAM0 + register, Width::Byte, value);
            }
            bridge.config_write(&mut bench.context(), SMRAM, Width::Byte, 0x48);
            while bench.effects.take().is_some() {}
            assert!(bridge.memory_map(0xe000_0000, MIB, 0x100_0000).is_ok());
        }
    }

    #[test]
    fn locked_smram_keeps_closed() {
        let mut bench = Bench::new();
        let mut bridge = I440Fx::new(128 << 20);
        bridge.config_write(&mut bench.context(), SMRAM, Width::Byte, 0x4a);
        let map = bridge.memory_map(MIB, 0, 0x1_0000).unwrap();
        assert_eq!(at(&map, 0xa_0000), (Backing::Ram, true));
        bridge.config_write(&mut bench.context(), SMRAM, Width::Byte, 0x1a);
        bridge.config_write(&mut bench.context(), SMRAM, Width::Byte, 0x4a);
        assert_eq!(bridge.config_read(SMRAM, Width::Byte), 0x1a);
    }

    #[test]
    fn identity() {
        let bridge = I440Fx::new(128 << 20);
        assert_eq!(bridge.config_read(0, Width::Dword), 0x1237_8086);
        assert_eq!(
            bridge.config_read(register::REVISION_ID as u8, Width::Dword),
            0x0600_0002
        );
        assert_eq!(bridge.config_read(0x54, Width::Dword), 0x1000_0000);
        assert_eq!(bridge.config_read(0x70, Width::Dword), 0x0002_0000);
    }
}
