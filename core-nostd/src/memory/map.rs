//! The flat view of guest physical memory: which ranges are RAM, which are ROM, which may be
//! written. What no region covers is MMIO.

use core::fmt;

/// Regions that a map holds at most: 13 PAM areas, RAM on both sides of the holes, ROM, and room.
pub const REGIONS_MAX: usize = 40;

/// What answers when a guest reads a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// RAM at the same guest physical address.
    Ram,
    /// The firmware image, from this byte offset on.
    Rom {
        /// Offset into the image of the region's first byte.
        offset: u64,
    },
    /// Nothing: reads go to the device bus, as MMIO.
    Bus,
}

/// One contiguous range of guest physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First guest physical address.
    pub gpa: u64,
    /// Bytes, at least 1.
    pub length: u64,
    /// What answers reads.
    pub read: Backing,
    /// Whether writes reach the RAM at the same address; else they go to the device bus.
    pub write_ram: bool,
}

/// More than [`REGIONS_MAX`] regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapFull;

impl fmt::Display for MapFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "more than {REGIONS_MAX} memory regions")
    }
}

/// The regions of guest physical memory, ascending and without overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryMap {
    regions: heapless::Vec<Region, REGIONS_MAX>,
}

impl MemoryMap {
    /// An empty map: all is MMIO.
    pub const fn new() -> Self {
        Self {
            regions: heapless::Vec::new(),
        }
    }

    /// Appends a region behind all others, merging it with the last one where they are alike.
    /// Empty regions are passed over.
    pub fn push(&mut self, region: Region) -> Result<(), MapFull> {
        if region.length == 0 {
            return Ok(());
        }
        if let Some(last) = self.regions.last_mut() {
            debug_assert!(last.gpa + last.length <= region.gpa);
            let follows =
                last.gpa + last.length == region.gpa && last.write_ram == region.write_ram;
            let continues = match (last.read, region.read) {
                (Backing::Rom { offset: a }, Backing::Rom { offset: b }) => a + last.length == b,
                (a, b) => a == b,
            };
            if follows && continues {
                last.length += region.length;
                return Ok(());
            }
        }
        self.regions.push(region).map_err(|_| MapFull)
    }

    /// All regions, ascending.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The region that holds `gpa`.
    pub fn find(&self, gpa: u64) -> Option<&Region> {
        let after = self.regions.partition_point(|region| region.gpa <= gpa);
        let region = &self.regions[after.checked_sub(1)?];
        (gpa - region.gpa < region.length).then_some(region)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(gpa: u64, length: u64, read: Backing, write_ram: bool) -> Region {
        Region {
            gpa,
            length,
            read,
            write_ram,
        }
    }

    #[test]
    fn merges_neighbours_and_finds() {
        let mut map = MemoryMap::new();
        map.push(region(0, 0x1000, Backing::Ram, true)).unwrap();
        map.push(region(0x1000, 0x1000, Backing::Ram, true))
            .unwrap();
        map.push(region(0x3000, 0x1000, Backing::Rom { offset: 0 }, false))
            .unwrap();
        map.push(region(
            0x4000,
            0x1000,
            Backing::Rom { offset: 0x1000 },
            false,
        ))
        .unwrap();
        assert_eq!(map.regions().len(), 2);
        assert_eq!(map.find(0x1fff).unwrap().gpa, 0);
        assert_eq!(map.find(0x2000), None);
        assert_eq!(map.find(0x4fff).unwrap().gpa, 0x3000);
        assert_eq!(map.find(u64::MAX), None);
    }
}
