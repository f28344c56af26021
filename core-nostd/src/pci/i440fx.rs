//! The 82441FX PMC: host bridge of the PC board, function 00:00.0.
//!
//! Follows Intel 290549 (82441FX and 82442FX), chapter 3. Its programmable attribute map (PAM) and
//! SMRAM control decide whether RAM, ROM or the bus answers between A0000h and FFFFFh.
//!
//! Registers without effect in a machine whose RAM is configured by the VMM (DRAM timing, row
//! boundaries, error reporting) hold what is written and do nothing. As in QEMU's bridge 40h to
//! FFh are writable throughout, status reads 0, and 57h tells firmware the RAM size in units of 8
//! MiB. SMRAM's D_LCK does not lock (290549, 3.2.20 has it lock), and D_OPEN alone opens. A reset
//! takes PAM and SMRAM to their defaults as the datasheet says; QEMU keeps them.

use serde::{Deserialize, Serialize};

use super::config::{ConfigSpace, Identity, PciFunction, SavedConfig};
use super::mechanism::Address;
use crate::devices::class::DeviceClass;
use crate::devices::{Context, Effect, Width};
use crate::memory::{Backing, MemoryMap, Region};
use crate::state::{SavedState, StateError};

/// The host bridge's function. QEMU's properties of this class are those of any PCI device and do
/// nothing for a fixed one, so that none is offered.
pub static CLASS: DeviceClass = DeviceClass {
    name: "i440FX",
    parent: "pci-device",
    bus: Some("PCI"),
    doc: "Host bridge 82441FX",
    user_creatable: false,
    properties: &[],
};

/// Where the host bridge stands.
pub const ADDRESS: Address = Address::new(0, 0, 0);

/// RAM size in units of 8 MiB, at most 255, as QEMU tells it to firmware. The datasheet has DRAM
/// control here (DRAMC, 3.2.17).
const DRAMC: u8 = 0x57;

/// The first of seven programmable attribute map registers (290549, 3.2.18).
const PAM0: u8 = 0x59;

/// System management RAM control (290549, 3.2.20).
const SMRAM: u8 = 0x72;

/// SMRAM: RAM answers at A0000h to BFFFFh.
const SMRAM_D_OPEN: u8 = 1 << 6;

/// SMRAM: the compatible segment, A0000h to BFFFFh.
const SMRAM_C_BASE: u8 = 0b010;

/// Areas that the PAM registers rule.
pub const PAM_AREAS: usize = 13;

/// PAM: reads go to RAM.
const PAM_RE: u8 = 1 << 0;
/// PAM: writes go to RAM.
const PAM_WE: u8 = 1 << 1;

/// Where the window of video memory and of SMRAM begins.
const VGA: u64 = 0xa_0000;
/// Where the areas of 16 KiB begin.
const EXPANSION: u64 = 0xc_0000;
/// Where the end of the firmware image is seen below 1 MiB.
const BIOS: u64 = 0xe_0000;
/// Where the last area, 64 KiB long, begins.
const SYSTEM_BIOS: u64 = 0xf_0000;
const MIB: u64 = 1 << 20;
const GIB_4: u64 = 1 << 32;

/// Whether RAM answers in an area; ROM or the bus does otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pam {
    /// Reads go to RAM.
    pub read: bool,
    /// Writes go to RAM.
    pub write: bool,
}

/// What the bridge says about memory below 1 MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shadow {
    /// Attributes of each area, numbered as [`pam_area`] says.
    pub pam: [Pam; PAM_AREAS],
    /// Whether RAM answers at A0000h to BFFFFh.
    pub smram_open: bool,
}

/// What of the firmware is seen where; offsets are into the memory that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Firmware {
    /// Offset of the first part.
    pub begin: u64,
    /// What ends at 4 GiB, in two parts, the lower one first: bytes, and whether it is memory now; a device's registers
    /// otherwise. Both together at most 4 GiB less 1 MiB.
    pub parts: [(u64, bool); 2],
    /// What ends at 1 MiB: the offset of its end, and its bytes.
    pub below: (u64, u64),
}

impl Firmware {
    /// An image of this length, all of which is ROM.
    pub fn rom(length: u64) -> Self {
        let mapped = length.min(GIB_4 - MIB);
        Self {
            begin: length - mapped,
            parts: [(0, true), (mapped, true)],
            below: (length, length),
        }
    }
}

/// First address and bytes of a PAM area: area 0 is F0000h to FFFFFh, areas 1 to 12 are 16 KiB each
/// from C0000h on (290549, table 3-1). `None` for other numbers.
pub fn pam_area(area: usize) -> Option<(u64, u64)> {
    match area {
        0 => Some((SYSTEM_BIOS, 0x1_0000)),
        1..PAM_AREAS => Some((EXPANSION + 0x4000 * (area as u64 - 1), 0x4000)),
        _ => None,
    }
}

/// The host bridge.
#[derive(Clone, Debug)]
pub struct I440fx {
    config: ConfigSpace,
}

/// Saved form of [`I440fx`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedI440fx {
    config: SavedConfig,
}

impl I440fx {
    /// The bridge of a machine with `ram` bytes of memory.
    pub fn new(ram: u64) -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x8086,
            device: 0x1237,
            revision: 2,
            class: 0x06_0000,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
            multifunction: false,
            interrupt_pin: 0,
        });
        config.allow_from(0x40);
        config.preset(DRAMC, &[(ram >> 23).min(0xff) as u8]);
        config.preset(SMRAM, &[SMRAM_C_BASE]);
        Self { config }
    }

    /// Attributes of an area, 0 to 12, numbered as [`pam_area`] says; none for other numbers.
    pub fn pam(&self, area: usize) -> Pam {
        if area >= PAM_AREAS {
            return Pam::default();
        }
        // Area 0 is the high half of PAM0; each later register holds two areas, the lower one first.
        let register = self.config.byte(PAM0 + area.div_ceil(2) as u8);
        let bits = if area.is_multiple_of(2) {
            register >> 4
        } else {
            register
        };
        Pam {
            read: bits & PAM_RE != 0,
            write: bits & PAM_WE != 0,
        }
    }

    /// Whether RAM answers at A0000h to BFFFFh outside of system management mode.
    pub fn is_smram_open(&self) -> bool {
        self.config.byte(SMRAM) & SMRAM_D_OPEN != 0
    }

    /// All that decides on the memory map.
    pub fn shadow(&self) -> Shadow {
        Shadow {
            pam: core::array::from_fn(|area| self.pam(area)),
            smram_open: self.is_smram_open(),
        }
    }

    /// Changes registers and asks for a new memory map if they rule another one now.
    fn change<R>(&mut self, cx: &mut Context<'_>, change: impl FnOnce(&mut ConfigSpace) -> R) -> R {
        let before = self.shadow();
        let result = change(&mut self.config);
        if self.shadow() != before {
            cx.effects.push(Effect::RemapMemory);
        }
        result
    }
}

impl PciFunction for I440fx {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    /// All registers go to their defaults.
    fn reset(&mut self, cx: &mut Context<'_>) {
        self.change(cx, ConfigSpace::reset);
    }

    fn config_write(&mut self, cx: &mut Context<'_>, offset: u8, width: Width, value: u32) {
        self.change(cx, |config| config.write(offset, width, value));
    }
}

impl SavedState for I440fx {
    const NAME: &'static str = "i440FX";
    const VERSION: u16 = 1;
    type Saved = SavedI440fx;

    fn save(&self) -> SavedI440fx {
        let Self { config } = self;
        SavedI440fx {
            config: config.save(),
        }
    }

    fn load(&mut self, saved: SavedI440fx, cx: &mut Context<'_>) -> Result<(), StateError> {
        let SavedI440fx { config } = saved;
        self.change(cx, |own| own.load(config))
    }
}

/// The PC's flat view of guest physical memory.
///
/// `low_ram` bytes of RAM begin at 0, `high_ram` bytes at 4 GiB; the firmware ends at 4 GiB, and its last 128 KiB (less if it is
/// shorter) are seen again below 1 MiB. RAM does not hide it: what of `low_ram` would reach into it is left out, as is what of
/// the firmware would reach below 1 MiB.
pub fn memory_map(low_ram: u64, high_ram: u64, firmware: &Firmware, shadow: &Shadow) -> MemoryMap {
    let length: u64 = firmware.parts.iter().map(|(length, _)| length).sum();
    let low_ram = low_ram.min(GIB_4 - length);
    let mut map = MemoryMap::new();
    let mut add = |gpa: u64, length: u64, read: Backing, write_ram: bool| {
        if read == Backing::Bus && !write_ram {
            return; // what no region covers is the bus
        }
        let region = Region {
            gpa,
            length,
            read,
            write_ram,
        };
        let full = map.push(region).is_err();
        debug_assert!(!full, "at most 20 regions");
    };

    add(0, low_ram.min(VGA), Backing::Ram, true);
    if shadow.smram_open {
        let length = low_ram.clamp(VGA, EXPANSION) - VGA;
        add(VGA, length, Backing::Ram, true);
    }
    let rom_begin = (MIB - firmware.below.1.min(MIB)).max(BIOS);
    for area in (1..PAM_AREAS).chain([0]) {
        let Some((begin, length)) = pam_area(area) else {
            continue;
        };
        let end = begin + length;
        let pam = match low_ram < end {
            true => Pam::default(),
            false => shadow.pam[area],
        };
        if pam.read {
            add(begin, length, Backing::Ram, pam.write);
            continue;
        }
        let split = rom_begin.clamp(begin, end);
        add(begin, split - begin, Backing::Bus, pam.write);
        if split < end {
            let offset = firmware.below.0 - (MIB - split);
            add(split, end - split, Backing::Rom { offset }, pam.write);
        }
    }
    add(MIB, low_ram.saturating_sub(MIB), Backing::Ram, true);
    let (mut gpa, mut offset) = (GIB_4 - length, firmware.begin);
    for (length, is_memory) in firmware.parts {
        let read = match is_memory {
            true => Backing::Rom { offset },
            false => Backing::Bus,
        };
        add(gpa, length, read, false);
        gpa += length;
        offset += length;
    }
    add(GIB_4, high_ram.min(u64::MAX - GIB_4), Backing::Ram, true);
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;
    use crate::pci::config::assert_registers;
    use crate::state::lifecycle_tests;

    const RAM: u64 = 128 << 20;
    const ROM: u64 = 256 << 10;

    fn write(device: &mut I440fx, bench: &mut Bench, offset: u8, value: u8) {
        device.config_write(&mut bench.context(), offset, Width::Byte, value.into());
    }

    lifecycle_tests!(I440fx, I440fx::new(RAM), |device, bench| {
        write(device, bench, PAM0, 0x30);
        write(device, bench, SMRAM, 0x4a);
        write(device, bench, 0x04, 0x07);
        bench.effects.take();
        bench.effects.take();
    });

    /// Observed with QEMU 7.2: `-M pc`, 128 MiB.
    #[test]
    fn registers_after_power_on() {
        let device = I440fx::new(RAM);
        let set = [
            (0x00, 0x1237_8086),
            (0x08, 0x0600_0002),
            (0x2c, 0x1100_1af4),
            (0x54, 0x1000_0000),
            (0x70, 0x0002_0000),
        ];
        assert_registers(&device, &set);
        assert_eq!(I440fx::new(u64::MAX).config_read(DRAMC, Width::Byte), 0xff);
    }

    /// Observed with QEMU 7.2: all ones written to all registers.
    #[test]
    fn registers_after_all_ones() {
        let (mut device, mut bench) = (I440fx::new(RAM), Bench::new());
        for offset in (0..=252).step_by(4) {
            device.config_write(&mut bench.context(), offset, Width::Dword, u32::MAX);
            let expected = match offset {
                0x00 => 0x1237_8086,
                0x04 => 0x0000_0507,
                0x08 => 0x0600_0002,
                0x0c | 0x3c => 0xff,
                0x2c => 0x1100_1af4,
                0x40.. => u32::MAX,
                _ => 0,
            };
            let value = device.config_read(offset, Width::Dword);
            assert_eq!(value, expected, "{offset:#x}");
        }
    }

    #[test]
    fn remaps_only_on_change() {
        let (mut device, mut bench) = (I440fx::new(RAM), Bench::new());
        write(&mut device, &mut bench, PAM0, 0x30);
        assert_eq!(bench.effects.take(), Some(Effect::RemapMemory));
        write(&mut device, &mut bench, PAM0, 0x30);
        write(&mut device, &mut bench, PAM0, 0x3f); // low half is reserved
        write(&mut device, &mut bench, 0x60, 0xff);
        assert_eq!(bench.effects.take(), None);
        write(&mut device, &mut bench, SMRAM, 0x4a);
        assert_eq!(bench.effects.take(), Some(Effect::RemapMemory));
        write(&mut device, &mut bench, SMRAM, 0x42);
        assert_eq!(bench.effects.take(), None);
        device.reset(&mut bench.context());
        assert_eq!(bench.effects.take(), Some(Effect::RemapMemory));
        device.reset(&mut bench.context());
        assert_eq!(bench.effects.take(), None);
    }

    #[test]
    fn loading_remaps() {
        let (mut device, mut bench) = (I440fx::new(RAM), Bench::new());
        write(&mut device, &mut bench, PAM0, 0x10);
        bench.effects.take();
        let mut other = I440fx::new(RAM);
        other.load(device.save(), &mut bench.context()).unwrap();
        assert_eq!(bench.effects.take(), Some(Effect::RemapMemory));
        assert_eq!(other.shadow(), device.shadow());
    }

    #[test]
    fn each_nibble_rules_its_area() {
        for area in 0..PAM_AREAS {
            let (mut device, mut bench) = (I440fx::new(RAM), Bench::new());
            let (begin, _) = pam_area(area).unwrap();
            let (register, shift) = match begin {
                SYSTEM_BIOS => (0x59, 4),
                _ => (
                    0x5a + ((begin - EXPANSION) >> 15) as u8,
                    (begin >> 14 & 1) * 4,
                ),
            };
            write(&mut device, &mut bench, register, 2 << shift);
            let (read, write) = (false, true);
            assert_eq!(device.pam(area), Pam { read, write });
            let others = (0..PAM_AREAS).filter(|a| device.pam(*a) != Pam::default());
            assert_eq!(others.count(), 1, "{area}");
        }
        assert_eq!(pam_area(PAM_AREAS), None);
        assert_eq!(I440fx::new(RAM).pam(PAM_AREAS), Pam::default());
    }

    fn listed(map: &MemoryMap) -> std::vec::Vec<(u64, u64, Backing, bool)> {
        let regions = map.regions().iter();
        regions
            .map(|r| (r.gpa, r.gpa + r.length, r.read, r.write_ram))
            .collect()
    }

    #[test]
    fn map_after_power_on() {
        let map = memory_map(RAM, 1 << 30, &Firmware::rom(ROM), &Shadow::default());
        assert_eq!(
            listed(&map),
            [
                (0, VGA, Backing::Ram, true),
                (BIOS, MIB, Backing::Rom { offset: 0x2_0000 }, false),
                (MIB, RAM, Backing::Ram, true),
                (GIB_4 - ROM, GIB_4, Backing::Rom { offset: 0 }, false),
                (GIB_4, 5 << 30, Backing::Ram, true),
            ]
        );
    }

    #[test]
    fn map_with_all_shadowed_is_whole() {
        let shadow = Shadow {
            pam: [Pam {
                read: true,
                write: true,
            }; PAM_AREAS],
            smram_open: true,
        };
        let map = memory_map(RAM, 0, &Firmware::rom(ROM), &shadow);
        assert_eq!(
            listed(&map),
            [
                (0, RAM, Backing::Ram, true),
                (GIB_4 - ROM, GIB_4, Backing::Rom { offset: 0 }, false),
            ]
        );
    }

    #[test]
    fn map_follows_each_attribute() {
        let mut shadow = Shadow::default();
        let (read, write) = (true, true);
        shadow.pam[0] = Pam { read, write: false };
        shadow.pam[1] = Pam { read: false, write };
        shadow.pam[3] = Pam { read, write };
        shadow.pam[12] = Pam { read: false, write };
        let map = memory_map(RAM, 0, &Firmware::rom(ROM), &shadow);
        assert_eq!(
            listed(&map)[1..6],
            [
                (0xc_0000, 0xc_4000, Backing::Bus, true),
                (0xc_8000, 0xc_c000, Backing::Ram, true),
                (0xe_0000, 0xe_c000, Backing::Rom { offset: 0x2_0000 }, false),
                (0xe_c000, 0xf_0000, Backing::Rom { offset: 0x2_c000 }, true),
                (0xf_0000, 0x10_0000, Backing::Ram, false),
            ]
        );
    }

    #[test]
    fn map_with_unusual_sizes() {
        let short = memory_map(RAM, 0, &Firmware::rom(0x1_0000), &Shadow::default());
        assert_eq!(short.find(0xe_ffff), None);
        assert_eq!(
            short.find(0xf_0000).unwrap().read,
            Backing::Rom { offset: 0 }
        );
        // A write-only area that the image begins in the middle of.
        let mut shadow = Shadow::default();
        shadow.pam[0].write = true;
        let odd = memory_map(RAM, 0, &Firmware::rom(0x3000), &shadow);
        assert_eq!(odd.find(0xf_cfff).unwrap().read, Backing::Bus);
        let tail = odd.find(0xf_d000).unwrap();
        assert_eq!(
            (tail.read, tail.write_ram),
            (Backing::Rom { offset: 0 }, true)
        );
        // Less RAM than an area needs: nothing to shadow with.
        shadow.pam[0].read = true;
        let small = memory_map(0x8_0000, 0, &Firmware::rom(ROM), &shadow);
        assert_eq!(
            small.find(0xf_0000).unwrap().read,
            Backing::Rom { offset: 0x2_0000 } // one region from E0000h on
        );
        assert_eq!(small.find(0x8_0000), None);
        // Nothing at all, and too much of everything.
        assert!(
            memory_map(0, 0, &Firmware::rom(0), &Shadow::default())
                .regions()
                .is_empty()
        );
        let much = memory_map(u64::MAX, u64::MAX, &Firmware::rom(u64::MAX), &shadow);
        assert_eq!(
            much.find(MIB).unwrap().read,
            Backing::Rom {
                offset: u64::MAX - (GIB_4 - MIB)
            }
        );
    }
}
