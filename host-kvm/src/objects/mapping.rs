//! Memory that a guest can be given, mapped into this process: anonymous, of a file, or of a file without a name.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::thread;

use rustix::fs::FallocateFlags;
use rustix::mm::{MapFlags, ProtFlags};

use crate::memory::PAGE;

/// `statfs` of a file of huge pages (Linux, `magic.h`).
const HUGETLBFS: i64 = 0x9584_58f6;

/// How memory is mapped.
#[derive(Debug)]
pub struct Plan {
    /// Bytes, more than 0.
    pub size: u64,
    /// What it is the memory of; `None`: of the process.
    pub file: Option<File>,
    /// Whether writes reach the file, and other processes.
    pub share: bool,
    /// Whether swap space or huge pages are set aside for it.
    pub reserve: bool,
    /// Whether it can't be written.
    pub readonly: bool,
    /// What its address is a multiple of: a multiple of pages, or 0.
    pub align: u64,
}

/// Mapped memory, whole pages of it.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    length: usize,
    /// What is unmapped in the end: around the memory, where its address was to be aligned.
    all: (NonNull<u8>, usize),
    file: Option<File>,
    share: bool,
    readonly: bool,
}

// SAFETY: it is memory that any thread may reach, by raw pointers only, for as long as the mapping lives.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

/// Bytes of the pages that a file's memory is made of.
pub(super) fn page_of(file: &File) -> u64 {
    match rustix::fs::fstatfs(file) {
        Ok(stat) if stat.f_type == HUGETLBFS => stat.f_bsize as u64,
        _ => PAGE,
    }
}

fn pointer(start: *mut std::ffi::c_void) -> io::Result<NonNull<u8>> {
    NonNull::new(start.cast()).ok_or_else(|| io::Error::other("a mapping at address zero"))
}

impl Mapping {
    /// Maps memory.
    ///
    /// # Errors
    /// Whatever mmap(2) says.
    pub fn new(plan: Plan) -> io::Result<Self> {
        let Plan { size, file, .. } = plan;
        let unit = file.as_ref().map_or(PAGE, page_of);
        let no_memory = || io::Error::from_raw_os_error(libc::ENOMEM);
        let length = size.checked_next_multiple_of(unit).ok_or_else(no_memory)?;
        let length = usize::try_from(length).map_err(|_| no_memory())?;
        let mut flags = match plan.share {
            true => MapFlags::SHARED,
            false => MapFlags::PRIVATE,
        };
        flags.set(MapFlags::NORESERVE, !plan.reserve);
        let mut protection = ProtFlags::READ;
        protection.set(ProtFlags::WRITE, !plan.readonly);
        let map = |at: *mut std::ffi::c_void, flags: MapFlags| {
            // SAFETY: the kernel chooses the place, or it is within a reservation of our own.
            let start = unsafe {
                match &file {
                    Some(file) => rustix::mm::mmap(at, length, protection, flags, file, 0),
                    None => rustix::mm::mmap_anonymous(at, length, protection, flags),
                }
            };
            start.map_err(io::Error::from).and_then(pointer)
        };
        let align = usize::try_from(plan.align).map_err(|_| no_memory())?;
        let (start, all) = if align <= PAGE as usize {
            let start = map(std::ptr::null_mut(), flags)?;
            (start, (start, length))
        } else {
            let whole = length.checked_add(align).ok_or_else(no_memory)?;
            let reserved = MapFlags::PRIVATE | MapFlags::NORESERVE;
            // SAFETY: the kernel chooses the place.
            let reserved = unsafe {
                let none = ProtFlags::empty();
                rustix::mm::mmap_anonymous(std::ptr::null_mut(), whole, none, reserved)
            };
            let reserved = pointer(reserved?)?;
            let skipped = reserved.as_ptr().align_offset(align);
            // SAFETY: less than `align` is skipped, by which the reservation is longer.
            let at = unsafe { reserved.as_ptr().add(skipped) };
            match map(at.cast(), flags | MapFlags::FIXED) {
                Ok(start) => (start, (reserved, whole)),
                Err(error) => {
                    // SAFETY: nobody knows of the reservation.
                    let _ = unsafe { rustix::mm::munmap(reserved.as_ptr().cast(), whole) };
                    return Err(error);
                }
            }
        };
        Ok(Self {
            start,
            length,
            all,
            file,
            share: plan.share,
            readonly: plan.readonly,
        })
    }

    /// Its first byte. Valid, as all its [`Mapping::length`] bytes, for as long as the mapping lives.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Bytes, whole pages.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Whether it can't be written.
    pub fn is_readonly(&self) -> bool {
        self.readonly
    }

    /// The file whose memory it is, where others that map it see the same.
    pub fn shared_file(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().filter(|_| self.share).map(File::as_fd)
    }

    /// Gives the kernel advice about all of it; one that it does not know it does without.
    pub fn advise(&self, advice: i32) {
        // SAFETY: the range is the mapping's. No advice that is given changes bytes that someone has a use for.
        let _ = unsafe { libc::madvise(self.start.as_ptr().cast(), self.length, advice) };
    }

    /// Frees the file's space: its content is of no use any more.
    pub fn discard(&self) {
        self.advise(libc::MADV_REMOVE);
    }

    /// Says which NUMA nodes the memory comes from: by a mode of mbind(2) and a mask of nodes.
    ///
    /// # Errors
    /// Whatever mbind(2) says.
    pub fn bind(&self, mode: i32, nodes: u128) -> io::Result<()> {
        const MPOL_MF_STRICT: u64 = 1;
        const MPOL_MF_MOVE: u64 = 2;
        let mask = [nodes as u64, (nodes >> 64) as u64];
        // SAFETY: the range is the mapping's; the mask has as many bits as is said, and one, as the call counts.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.start.as_ptr(),
                self.length,
                mode,
                mask.as_ptr(),
                u128::BITS as u64 + 1,
                MPOL_MF_STRICT | MPOL_MF_MOVE,
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Sees to it that all of the memory is there, with so many threads.
    ///
    /// # Errors
    /// If it can't be had: the file system is full, or there is no more memory.
    pub fn populate(&self, threads: u32) -> io::Result<()> {
        if let Some(file) = self.shared_file() {
            // Says what is missing. Where the file system can't do this, the pages tell.
            let length = self.length as u64;
            let space = rustix::fs::fallocate(file, FallocateFlags::empty(), 0, length);
            if space == Err(rustix::io::Errno::NOSPC) {
                return Ok(space?);
            }
        }
        let pages = self.length / PAGE as usize;
        let part = pages.div_ceil(threads.max(1) as usize).max(1) * PAGE as usize;
        let mut results = Vec::new();
        thread::scope(|scope| {
            let mut waiting = Vec::new();
            for from in (part..self.length).step_by(part) {
                let length = part.min(self.length - from);
                let work = move || self.populate_part(from, length);
                match thread::Builder::new().spawn_scoped(scope, work) {
                    Ok(thread) => waiting.push(thread),
                    // Alone it takes longer.
                    Err(_) => results.push(self.populate_part(from, length)),
                }
            }
            results.push(self.populate_part(0, part.min(self.length)));
            let died = |_| Err(io::Error::other("a thread has died"));
            let joined = waiting
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(died));
            results.extend(joined);
        });
        results.into_iter().collect()
    }

    fn populate_part(&self, from: usize, length: usize) -> io::Result<()> {
        let advice = match self.readonly {
            true => libc::MADV_POPULATE_READ,
            false => libc::MADV_POPULATE_WRITE,
        };
        // SAFETY: callers keep within the mapping.
        let start = unsafe { self.start.as_ptr().add(from) };
        // SAFETY: as above; this advice changes no bytes.
        if unsafe { libc::madvise(start.cast(), length, advice) } == 0 {
            return Ok(());
        }
        match io::Error::last_os_error() {
            // Kernels before 5.14. What a file has no room for is known from above, so that touching is safe.
            error if error.raw_os_error() == Some(libc::EINVAL) && !self.readonly => {
                for at in (0..length).step_by(PAGE as usize) {
                    // SAFETY: it is within the part; the byte is written as it was read, and nobody else writes it: a
                    // guest has the memory only later.
                    unsafe {
                        let byte = start.add(at);
                        byte.write_volatile(byte.read_volatile());
                    }
                }
                Ok(())
            }
            error => Err(error),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let (start, length) = self.all;
        // SAFETY: it is ours, and who had pointers into it has borrowed the mapping or shares it.
        let _ = unsafe { rustix::mm::munmap(start.as_ptr().cast(), length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(size: u64) -> Plan {
        Plan {
            size,
            file: None,
            share: false,
            reserve: true,
            readonly: false,
            align: 0,
        }
    }

    #[test]
    fn memory_is_whole_pages_and_aligned() {
        let mapping = Mapping::new(plan(1)).unwrap();
        assert_eq!(mapping.length(), 4096);
        for shift in [12, 13, 21, 30] {
            let align = 1 << shift;
            let mapping = Mapping::new(Plan {
                align,
                ..plan(8192)
            });
            let mapping = mapping.unwrap();
            assert_eq!(mapping.start().as_ptr() as u64 % align, 0);
            mapping.populate(3).unwrap();
            // SAFETY: the byte is the mapping's last one.
            unsafe { mapping.start().as_ptr().add(8191).write_volatile(1) };
        }
        assert!(Mapping::new(plan(u64::MAX)).is_err());
        assert!(Mapping::new(plan(1 << 62)).is_err());
        let far = Plan {
            align: 1 << 62,
            ..plan(4096)
        };
        assert!(Mapping::new(far).is_err());
    }

    /// How many pages of a mapping are there.
    fn resident(mapping: &Mapping) -> usize {
        let mut pages = vec![0; mapping.length() / PAGE as usize];
        // SAFETY: there is a byte for each page of the mapping.
        let result = unsafe {
            let start = mapping.start().as_ptr();
            libc::mincore(start.cast(), mapping.length(), pages.as_mut_ptr())
        };
        assert_eq!(result, 0);
        pages.iter().filter(|page| **page & 1 != 0).count()
    }

    #[test]
    fn populated_memory_is_there() {
        let size = 16 << 20;
        for threads in [1, 2, 7, 64] {
            let mapping = Mapping::new(plan(size)).unwrap();
            assert!(resident(&mapping) < 4096);
            mapping.populate(threads).unwrap();
            assert_eq!(resident(&mapping), 4096, "{threads}");
        }
    }

    #[test]
    fn policies_are_the_kernels() {
        let mapping = Mapping::new(plan(4096)).unwrap();
        // MPOL_BIND to the first node, which there is everywhere.
        mapping.bind(2, 1).unwrap();
        assert!(mapping.bind(2, 1 << 127).is_err());
        assert!(mapping.bind(99, 1).is_err());
    }
}
