//! What a monitor lists of a machine: memory and ports, by addresses.

use super::{Board, Machine, Port};
use crate::devices::hpet;
use crate::irq::ioapic;
use crate::memory::{Backing, Region};

/// Messages to local APICs are written here.
const MESSAGES: (u64, u64) = (0xfee0_0000, 0xfeef_ffff);

/// What stands at some addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// RAM that is read and written.
    Ram,
    /// Memory that is read only.
    Rom,
    /// Memory that is read, and takes writes as commands.
    Romd,
    /// A device's registers.
    Device,
}

impl Kind {
    /// As QEMU's monitor names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ram => "ram",
            Self::Rom => "rom",
            Self::Romd => "romd",
            Self::Device => "i/o",
        }
    }
}

/// A range of addresses with something at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first address.
    pub first: u64,
    /// The last one.
    pub last: u64,
    /// What stands there.
    pub kind: Kind,
    /// Its name.
    pub name: &'static str,
    /// Which byte of it the first one is.
    pub offset: u64,
}

/// Where the host has a guest's byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostMemory {
    /// Nothing is there.
    Nothing,
    /// A device's registers are.
    Device,
    /// Memory is.
    At {
        /// Its name.
        name: &'static str,
        /// The byte's address in the process.
        address: usize,
    },
}

impl Machine<'_> {
    /// Whether bit 20 of physical addresses passes.
    pub fn a20(&self) -> bool {
        self.a20.open
    }

    /// How often each line of the board has risen, by its number, whoever models the controllers. A timer in the host's kernel
    /// has no line here.
    pub fn raised_lines(&self) -> &[u64] {
        &self.raised
    }

    /// The firmware's image; empty where there is none.
    pub fn rom(&self) -> &[u8] {
        self.rom
    }

    /// Visits the names and sizes of the files that firmware is offered, ascending by name.
    pub fn visit_files(&self, visit: &mut dyn FnMut(&str, usize)) {
        self.fw_cfg.visit_files(visit);
    }

    /// Visits what stands where in physical memory. Ascending, but for PCI functions' ranges, which come first, and the
    /// controllers' registers, which come last.
    pub fn visit_memory(&self, visit: &mut dyn FnMut(&Range)) {
        self.visit_pci_memory(&mut |first, last, offset, name| {
            // Memory that lies over it hides it.
            if self.map.find(first).is_none() {
                visit(&Range {
                    first,
                    last,
                    kind: Kind::Device,
                    name,
                    offset,
                });
            }
        });
        for chip in self.flash().filter(|chip| !chip.is_array()) {
            let first = self.flash_address(chip.unit());
            visit(&Range {
                first,
                last: first + (chip.cells().len() as u64 - 1),
                kind: Kind::Device,
                name: chip.name(),
                offset: 0,
            });
        }
        for region in self.map.regions() {
            if let Backing::Rom { offset } = region.read
                && self.rom_part(offset).is_some()
            {
                self.visit_flash(region, offset, visit);
                continue;
            }
            let (kind, name, offset) = match region.read {
                Backing::Ram if region.write_ram => (Kind::Ram, "pc.ram", region.gpa),
                Backing::Ram => (Kind::Rom, "pc.ram", region.gpa),
                Backing::Rom { offset } => match self.flash_size() {
                    0 => (Kind::Rom, "pc.bios", offset),
                    flash => (Kind::Rom, "isa-bios", offset - flash),
                },
                Backing::Bus => continue,
            };
            let (first, last) = (region.gpa, region.gpa + (region.length - 1));
            visit(&Range {
                first,
                last,
                kind,
                name,
                offset,
            });
        }
        if self.board == Board::None {
            return;
        }
        self.visit_microvm(&mut |first, last, name| {
            visit(&Range {
                first,
                last,
                kind: Kind::Device,
                name,
                offset: 0,
            });
        });
        let second = (
            ioapic::SECOND_BASE,
            ioapic::SECOND_BASE + (ioapic::LENGTH - 1),
            "ioapic",
        );
        let second = self.has_second_ioapic().then_some(second);
        let hpet = (hpet::BASE, hpet::BASE + (hpet::LENGTH - 1), "hpet");
        let hpet = self.has_hpet().then_some(hpet);
        for (first, last, name) in [
            (ioapic::BASE, ioapic::BASE + (ioapic::LENGTH - 1), "ioapic"),
            (MESSAGES.0, MESSAGES.1, "apic-msi"),
        ]
        .into_iter()
        .chain(hpet)
        .chain(second)
        {
            visit(&Range {
                first,
                last,
                kind: Kind::Device,
                name,
                offset: 0,
            });
        }
    }

    /// Visits the chips of a region that is made of them, from an offset in them on.
    fn visit_flash(&self, region: &Region, offset: u64, visit: &mut dyn FnMut(&Range)) {
        let mut done = 0;
        while let Some((chip, at, left)) = self.rom_part(offset + done)
            && done < region.length
        {
            let length = left.min(region.length - done);
            let first = region.gpa + done;
            visit(&Range {
                first,
                last: first + (length - 1),
                kind: Kind::Romd,
                name: chip.name(),
                offset: at,
            });
            done += length;
        }
    }

    /// Visits what stands at which ports, ascending.
    pub fn visit_ports(&self, visit: &mut dyn FnMut(&Range)) {
        self.decoded.visit(&mut |first, last, offset, port| {
            let (name, begin) = match port {
                Port::Function { claim, .. } => self.port_claim(claim),
                _ => (port.name(), 0),
            };
            visit(&Range {
                first: first.into(),
                last: last.into(),
                kind: Kind::Device,
                name,
                offset: u64::from(offset) + begin,
            });
        });
    }

    /// Where the host has a byte of guest memory.
    pub fn host_memory(&self, gpa: u64) -> HostMemory {
        let mut found = HostMemory::Nothing;
        self.visit_memory(&mut |range| {
            if !(range.first..=range.last).contains(&gpa) {
                return;
            }
            let offset = range.offset + (gpa - range.first);
            let address = match (range.kind, range.name) {
                (Kind::Device, _) => None,
                (Kind::Romd, _) => {
                    let mut chips = self.flash();
                    chips
                        .find(|chip| chip.name() == range.name)
                        .and_then(|chip| chip.cells().get(offset as usize))
                        .map(|cell| core::ptr::from_ref(cell).addr())
                }
                (_, "pc.ram") => self.ram.block(gpa).map(|block| block.pointer.addr().get()),
                _ => usize::try_from(offset)
                    .ok()
                    .and_then(|offset| self.rom.get(offset..))
                    .map(|bytes| bytes.as_ptr().addr()),
            };
            found = match address {
                Some(address) => HostMemory::At {
                    name: range.name,
                    address,
                },
                None => HostMemory::Device,
            };
        });
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Config;
    use crate::memory::{ArrayRam, GuestRam};

    #[test]
    fn memory_is_where_the_map_says() {
        // Too large for a test's stack.
        static RAM: ArrayRam<0x20_0000> = ArrayRam::new();
        let ram = &RAM;
        static ROM: [u8; 0x1_0000] = [0x90; 0x1_0000];
        let config = Config {
            rom: &ROM,
            ..Config::new(ram, 0x20_0000)
        };
        let machine = Machine::new(config).unwrap();
        let at = |gpa| machine.host_memory(gpa);
        let address = |gpa| match at(gpa) {
            HostMemory::At { address, .. } => address,
            other => panic!("{gpa:#x}: {other:?}"),
        };
        assert_eq!(
            address(0x1234),
            ram.block(0x1234).unwrap().pointer.addr().get()
        );
        assert_eq!(address(0xffff_fff0), ROM[0xfff0..].as_ptr().addr());
        assert_eq!(address(0xf_fff0), ROM[0xfff0..].as_ptr().addr());
        assert_eq!(at(0xfec0_0000), HostMemory::Device);
        assert_eq!(at(0xfee0_0010), HostMemory::Device);
        assert_eq!(at(0x20_0000), HostMemory::Nothing);
        assert_eq!(at(u64::MAX), HostMemory::Nothing);
        let mut ports = std::vec::Vec::new();
        machine.visit_ports(&mut |range| ports.push(*range));
        assert!(ports.windows(2).all(|pair| pair[0].last < pair[1].first));
        let serial = |range: &Range| (range.first, range.name) == (0x70, "rtc");
        assert!(ports.iter().any(serial), "{ports:?}");
    }
}
