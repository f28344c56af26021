//! Guest RAM and firmware ROM: page-aligned anonymous mappings that the kernel hands to the
//! guest as they are.
//!
//! RAM is reached as the core's [`GuestRam`] says: by raw pointer, never as a slice. The
//! mappings are reserved, not filled: a page costs memory from its first touch on.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use thimble_core::memory::{Block, CodeMarks, GuestRam, RamError};
use thimble_core::trace::events;
use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MmapRegion, VolatileSlice,
};

use crate::objects::Mapping;
use crate::soft::Zeroed;

/// Bytes of a page of the host and of the guest's smallest page.
pub const PAGE: u64 = 4096;

/// Gives the pages back that this thread's stack has grown by: a start-up moves the machine and the
/// options through it, which is ten times what it needs afterwards.
pub fn release_stack() {
    /// Below the caller: this function's frame, the kernel's own, and what moves on with them.
    const KEPT: usize = 16 << 10;
    /// As far down as start-up may have come. The kernel keeps other mappings farther away than that
    /// (mmap(2): the stack's gap), so that nothing else is in reach.
    const DEEPEST: usize = 1 << 20;

    let here = 0u8;
    let top = ((&raw const here).addr() - KEPT) & !(PAGE as usize - 1);
    let bottom = (top - DEEPEST) as *mut libc::c_void;
    // SAFETY: below the stack pointer and the red zone nothing is alive. Where the stack has not come the
    // call fails for those pages alone, and without it the memory is merely not given back.
    unsafe { libc::madvise(bottom, DEEPEST, libc::MADV_DONTNEED) };
}

/// Guest RAM by guest physical address.
#[derive(Debug)]
pub struct Ram {
    memory: GuestMemoryMmap<()>,
    /// What it is made of, if not of mappings of its own.
    _backings: Vec<Arc<Mapping>>,
    /// Which pages hold decoded code, with the software CPU.
    code_marks: Option<&'static CodeMarks>,
}

impl Ram {
    /// Maps RAM at ranges of (guest physical address, bytes), both multiples of [`PAGE`],
    /// ascending. Empty ranges are passed over.
    pub fn new(ranges: &[(u64, u64)]) -> io::Result<Self> {
        Self::with(ranges, |_, length| {
            MmapRegion::new(length).map_err(io::Error::other)
        })
    }

    /// RAM at such ranges that is made of memory backends, one after the other: the first range of their beginning, the next of
    /// what follows.
    ///
    /// # Errors
    /// As above, or if the ranges are longer than the backends.
    pub fn of(backings: Vec<Arc<Mapping>>, ranges: &[(u64, u64)]) -> io::Result<Self> {
        let ranges = cut(&backings, ranges);
        let mut ram = Self::with(&ranges, |mut offset, length| {
            let backing = backings.iter().find(|backing| {
                let here = offset < backing.length();
                if !here {
                    offset -= backing.length();
                }
                here
            });
            let larger = || io::Error::other("guest RAM is larger than its backend");
            let backing = backing.ok_or_else(larger)?;
            if offset
                .checked_add(length)
                .is_none_or(|end| end > backing.length())
            {
                return Err(larger());
            }
            let (protection, flags) = (
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_NORESERVE | libc::MAP_PRIVATE,
            );
            // SAFETY: the part is the mapping's, and stays as long as `self`, which holds the mapping.
            unsafe {
                let start = backing.start().as_ptr().add(offset);
                MmapRegion::build_raw(start, length, protection, flags).map_err(io::Error::other)
            }
        })?;
        ram._backings = backings;
        Ok(ram)
    }

    /// RAM at ranges, each of a mapping for an offset, from the first range's beginning on, and a length.
    fn with(
        ranges: &[(u64, u64)],
        mut map: impl FnMut(usize, usize) -> io::Result<MmapRegion<()>>,
    ) -> io::Result<Self> {
        let mut offset = 0;
        let ranges = ranges.iter().filter(|range| range.1 != 0);
        let mut regions = Vec::new();
        for &(gpa, length) in ranges {
            let length = usize::try_from(length).map_err(io::Error::other)?;
            if gpa % PAGE != 0 || !(length as u64).is_multiple_of(PAGE) {
                return Err(io::Error::other("guest RAM must be made of whole pages"));
            }
            let mapping = map(offset, length)?;
            events::qemu_anon_ram_alloc(length, mapping.as_ptr().addr());
            offset += length;
            let region = GuestRegionMmap::new(mapping, GuestAddress(gpa))
                .ok_or_else(|| io::Error::other("guest RAM passes the end of the address space"))?;
            regions.push(region);
        }
        Ok(Self {
            memory: GuestMemoryMmap::from_regions(regions).map_err(io::Error::other)?,
            _backings: Vec::new(),
            code_marks: None,
        })
    }

    /// Notes from now on which pages hold decoded code, for the software CPU. The marks stay for the
    /// life of the process, whose machine is never taken apart.
    ///
    /// # Errors
    /// If there is no memory for them.
    pub fn keep_code_marks(&mut self) -> io::Result<()> {
        let marks: &'static Zeroed<CodeMarks> = Box::leak(Box::new(Zeroed::new()?));
        self.code_marks = Some(marks);
        Ok(())
    }

    /// The marks, if they are kept.
    pub fn code_marks(&self) -> Option<&'static CodeMarks> {
        self.code_marks
    }

    /// Bytes in all.
    pub fn length(&self) -> u64 {
        self.memory.iter().map(GuestMemoryRegion::len).sum()
    }

    /// Lets the kernel forget how the page at `gpa` is mapped, in this process and in its guests,
    /// without touching its bytes: access faults it in again. Addresses without RAM are passed over.
    pub fn flush_page(&self, gpa: u64) {
        let Some(block) = self.block(gpa & !(PAGE - 1)) else {
            return;
        };
        let readable = libc::PROT_READ | libc::PROT_WRITE;
        // Each change of protection drops the guest's mappings. No access is ever forbidden by it:
        // other processors go on meanwhile. A host that allows no such change keeps the mapping.
        for protection in [readable | libc::PROT_EXEC, readable] {
            // SAFETY: the page is one of the mapping's, and stays readable and writable; nothing
            // that this process runs comes from there.
            let _ =
                unsafe { libc::mprotect(block.pointer.as_ptr().cast(), PAGE as usize, protection) };
        }
    }

    /// Asks for huge pages from now on, where the kernel has some: copies from and to files take a fifth less time. Not at the start,
    /// since the first touch of a huge page clears all of it.
    pub fn use_huge_pages(&self) {
        for region in self.memory.iter() {
            // SAFETY: the range is the mapping's. Its bytes stay as they are, whatever the kernel does about it.
            unsafe { libc::madvise(region.as_ptr().cast(), region.size(), libc::MADV_HUGEPAGE) };
        }
    }

    fn slice(&self, gpa: u64, most: usize) -> Result<VolatileSlice<'_>, RamError> {
        let block = self.block(gpa).ok_or(RamError { gpa })?;
        // SAFETY: the block is valid for as long as `self`, which the slice borrows.
        Ok(unsafe { VolatileSlice::new(block.pointer.as_ptr(), block.length.min(most)) })
    }
}

/// Cuts ranges where a backend ends.
fn cut(backings: &[Arc<Mapping>], ranges: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut pieces = Vec::new();
    let mut lengths = backings.iter().map(|backing| backing.length() as u64);
    let mut left = lengths.next().unwrap_or(0);
    for &(mut gpa, mut length) in ranges {
        while length > 0 {
            if left == 0
                && let Some(next) = lengths.next()
            {
                left = next;
                continue;
            }
            // What no backend is left for stays whole, to be refused.
            let piece = if left == 0 { length } else { length.min(left) };
            pieces.push((gpa, piece));
            left = left.saturating_sub(piece);
            gpa += piece;
            length -= piece;
        }
    }
    pieces
}

// SAFETY: a block lies in a mapping that lives as long as `self`, and no reference to the
// mapping's bytes is ever made.
unsafe impl GuestRam for Ram {
    fn block(&self, gpa: u64) -> Option<Block> {
        let region = self.memory.find_region(GuestAddress(gpa))?;
        let offset = usize::try_from(gpa - region.start_addr().0).ok()?;
        // SAFETY: `find_region` says that the offset is inside the mapping.
        let pointer = NonNull::new(unsafe { region.as_ptr().add(offset) })?;
        Some(Block {
            pointer,
            length: region.size() - offset,
        })
    }

    fn written(&self, gpa: u64, length: usize) {
        if let Some(marks) = self.code_marks {
            marks.stored(gpa, length);
        }
    }

    // By volatile slices, which copy large pieces faster than byte by byte.
    fn read(&self, mut gpa: u64, mut to: &mut [u8]) -> Result<(), RamError> {
        while !to.is_empty() {
            let length = self.slice(gpa, to.len())?.copy_to(to);
            to = &mut to[length..];
            gpa = gpa.wrapping_add(length as u64);
        }
        Ok(())
    }

    fn write(&self, mut gpa: u64, mut from: &[u8]) -> Result<(), RamError> {
        while !from.is_empty() {
            let slice = self.slice(gpa, from.len())?;
            slice.copy_from(from);
            let length = slice.len();
            self.written(gpa, length);
            from = &from[length..];
            gpa = gpa.wrapping_add(length as u64);
        }
        Ok(())
    }
}

/// A firmware image in whole pages; what is behind its end reads FFh, as an empty socket does.
#[derive(Debug)]
pub struct Rom(MmapRegion<()>);

impl Rom {
    /// A page-aligned copy of an image that is not empty.
    pub fn new(image: &[u8]) -> io::Result<Self> {
        if image.is_empty() {
            return Err(io::Error::other("the firmware image is empty"));
        }
        let length = image.len().next_multiple_of(PAGE as usize);
        let mapping = MmapRegion::new(length).map_err(io::Error::other)?;
        // SAFETY: the mapping is at least that long, new, and known to nobody else yet.
        unsafe {
            mapping.as_ptr().copy_from(image.as_ptr(), image.len());
            let rest = mapping.as_ptr().add(image.len());
            rest.write_bytes(0xff, length - image.len());
        }
        Ok(Self(mapping))
    }

    /// Bytes, a multiple of [`PAGE`].
    pub fn length(&self) -> u64 {
        self.0.size() as u64
    }

    /// The whole image, of which no part may be had as [`Rom::cells`]. It is written once, before anyone else knows of it, and
    /// the kernel maps it read-only into the guest.
    pub fn bytes(&self) -> &[u8] {
        self.bytes_from(0)
    }

    /// The image from `offset` on, where nothing changes from there on.
    pub fn bytes_from(&self, offset: usize) -> &[u8] {
        let length = self.0.size().saturating_sub(offset);
        // SAFETY: the part is inside the mapping, as long as `self`, and not written again: the part that is written ends
        // before it.
        unsafe {
            std::slice::from_raw_parts(self.0.as_ptr().add(offset.min(self.0.size())), length)
        }
    }

    /// A part of the image that changes; empty if it is not all there.
    pub fn cells(&self, offset: usize, length: usize) -> &[AtomicU8] {
        let end = offset.checked_add(length);
        if end.is_none_or(|end| end > self.0.size()) {
            return &[];
        }
        // SAFETY: the part is inside the mapping, and as long as `self`; all access to it is atomic or volatile from now on.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().add(offset).cast(), length) }
    }

    /// Host memory from `offset` on.
    pub fn block(&self, offset: u64) -> Option<Block> {
        let offset = usize::try_from(offset)
            .ok()
            .filter(|offset| *offset < self.0.size())?;
        // SAFETY: the offset is inside the mapping.
        let pointer = NonNull::new(unsafe { self.0.as_ptr().add(offset) })?;
        Some(Block {
            pointer,
            length: self.0.size() - offset,
        })
    }

    /// Copies bytes from `offset` on; what lies past the end reads FFh.
    pub fn read(&self, offset: u64, to: &mut [u8]) {
        to.fill(0xff);
        if let Some(block) = self.block(offset) {
            // SAFETY: the block is valid as long as `self`.
            let slice = unsafe { VolatileSlice::<()>::new(block.pointer.as_ptr(), block.length) };
            slice.copy_to(to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_core::memory::Exchange;

    #[test]
    fn copies_and_names_the_hole() {
        let ram = Ram::new(&[(0, 0x2000), (0x1_0000_0000, 0x1000), (0x2_0000_0000, 0)]).unwrap();
        assert_eq!(ram.length(), 0x3000);
        ram.write(0xffd, b"thimble").unwrap();
        let mut back = [0; 7];
        ram.read(0xffd, &mut back).unwrap();
        assert_eq!(&back, b"thimble");
        assert_eq!(ram.write(0x1ffe, b"abc"), Err(RamError { gpa: 0x2000 }));
        ram.read(0x1ffe, &mut back[..2]).unwrap();
        assert_eq!(&back[..2], b"ab");
        ram.write(0x1_0000_0fff, b"x").unwrap();
        assert!(ram.read(u64::MAX, &mut back).is_err());
        let exchange = Exchange::Bits32 { current: 0, new: 9 };
        assert_eq!(ram.compare_exchange(0x1_0000_0008, exchange), Ok(true));
        assert_eq!(ram.compare_exchange(0x1_0000_0008, exchange), Ok(false));
        assert!(ram.compare_exchange(0x1_0000_1000, exchange).is_err());
        ram.flush_page(0xffe);
        ram.flush_page(0x2000);
        ram.read(0xffd, &mut back).unwrap();
        assert_eq!(&back, b"thimble");
        assert!(ram.block(0x2000).is_none());
        assert!(Ram::new(&[(0x800, 0x1000)]).is_err());
        assert!(Ram::new(&[(0, 0x2000), (0x1000, 0x1000)]).is_err());
    }

    #[test]
    fn a_backend_is_cut_into_ranges() {
        let plan = |readonly| crate::objects::mapping::Plan {
            size: 0x3000,
            file: None,
            share: false,
            reserve: true,
            readonly,
            align: 0,
        };
        let backing = Arc::new(Mapping::new(plan(false)).unwrap());
        let ranges = [(0, 0x2000), (0x1_0000_0000, 0x1000)];
        let ram = Ram::of(vec![backing.clone()], &ranges).unwrap();
        assert_eq!(ram.length(), 0x3000);
        ram.write(0x1_0000_0ffe, b"ab").unwrap();
        ram.write(0x1fff, b"c").unwrap();
        let at = |offset| {
            // SAFETY: the offsets are within the mapping.
            unsafe { backing.start().as_ptr().add(offset).read_volatile() }
        };
        assert_eq!([at(0x1fff), at(0x2ffe), at(0x2fff)], *b"cab");
        assert!(Ram::of(vec![backing.clone()], &[(0, 0x4000)]).is_err());
        assert_eq!(Arc::strong_count(&backing), 2, "it is in use");
        drop(ram);
        assert_eq!(Arc::strong_count(&backing), 1);
        // One after the other.
        let second = Arc::new(Mapping::new(plan(false)).unwrap());
        let both = vec![backing.clone(), second.clone()];
        let ranges = [(0, 0x2000), (0x1_0000_0000, 0x4000)];
        let ram = Ram::of(both.clone(), &ranges).unwrap();
        assert_eq!(ram.length(), 0x6000);
        assert_eq!(ram.block(0x1_0000_0ffe).unwrap().length, 2);
        ram.write(0x1_0000_0ffe, b"cdef").unwrap();
        // SAFETY: the offset is within the mapping.
        let third = unsafe { second.start().as_ptr().add(1).read_volatile() };
        assert_eq!(third, b'f');
        let mut back = [0; 4];
        ram.read(0x1_0000_0ffe, &mut back).unwrap();
        assert_eq!(&back, b"cdef");
        assert!(Ram::of(both, &[(0, 0x6001)]).is_err());
        assert!(Ram::of(vec![], &[(0, 0x1000)]).is_err());
    }

    #[test]
    fn rom_is_padded() {
        assert!(Rom::new(&[]).is_err());
        let rom = Rom::new(&[0x55, 0xaa]).unwrap();
        assert_eq!(rom.length(), PAGE);
        let mut bytes = [0; 4];
        rom.read(1, &mut bytes);
        assert_eq!(bytes, [0xaa, 0xff, 0xff, 0xff]);
        rom.read(u64::MAX, &mut bytes);
        assert_eq!(bytes, [0xff; 4]);
    }
}
