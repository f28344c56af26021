//! Guest memory into files: `pmemsave` and `memsave`, as jobs in the background.
//!
//! A job is a thread that opens the file and writes guest RAM to it from where it lies, without
//! the machine's lock; what is ROM or a device is read under the lock, [`CHUNK`] bytes at a time.
//! The guest may run meanwhile: a file is no snapshot, unless the VM is stopped.

use std::fmt;
use std::fs::File;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use thimble_core::cpu::PagingRegisters;
use thimble_core::memory::{Backing, Block, GuestRam, MemoryMap, RamError};
use thimble_monitor::{JobId, QmpError};

use super::Shared;
use super::jobs::{Cancelled, Jobs, Progress, write_block};
use crate::error_text;
use crate::files;

/// Bytes that are copied under the machine's lock at a time, in about two microseconds.
const CHUNK: usize = 64 << 10;

/// Bytes that are written from guest RAM at a time, before a job looks whether to go on.
const WRITE_MAX: u64 = 1 << 20;

/// Which addresses are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Guest physical ones: `pmemsave`. What nothing answers reads as zeros.
    Physical,
    /// Linear ones, as a processor with these registers understands them: `memsave`. What nothing
    /// answers is an error. The page tables are read as the job comes to them.
    Virtual(PagingRegisters),
}

/// Starts to write `size` bytes from `address` on to a file. Addresses wrap at 2^64.
/// `filename` is a path in the file system's bytes, without zero bytes. Takes the machine's
/// lock for a moment.
///
/// # Errors
/// Those of [`Jobs::start`]. All else, such as a file that can't be opened, is the job's end.
pub(super) fn start(
    jobs: &mut Jobs,
    shared: &Arc<Shared>,
    space: Space,
    address: u64,
    size: u64,
    filename: &[u8],
) -> Result<JobId, QmpError> {
    let task = Task {
        shared: shared.clone(),
        ram: shared.lock().machine.ram(),
        space,
        address,
        size,
        progress: Progress::new(filename),
    };
    let progress = task.progress.clone();
    jobs.start("save", shared, progress, Box::new(move |_| task.run()))
}

/// Copies guest memory as a debugger sees it: RAM as it is, ROM under the machine's lock, and what nothing answers is an error.
pub(super) fn read_memory(
    shared: &Shared,
    ram: &dyn GuestRam,
    map: &MemoryMap,
    gpa: u64,
    to: &mut [u8],
) -> Result<(), RamError> {
    match map.find(gpa).map(|region| region.read) {
        Some(Backing::Ram) => ram.read(gpa, to),
        Some(_) => {
            shared.call(|machine, bridge, now| machine.physical_read(bridge, now, gpa, to));
            Ok(())
        }
        None => Err(RamError { gpa }),
    }
}

/// Why memory is not in its file.
enum SaveError {
    Open(io::Error),
    Write,
    /// Nothing answers at some address of the range.
    Address,
    Cancelled,
}

impl From<Cancelled> for SaveError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

impl From<io::Error> for SaveError {
    fn from(_: io::Error) -> Self {
        Self::Write
    }
}

/// A job, as its thread sees it.
struct Task {
    shared: Arc<Shared>,
    ram: &'static dyn GuestRam,
    space: Space,
    address: u64,
    size: u64,
    progress: Arc<Progress>,
}

impl Task {
    fn run(&self) -> Result<(), QmpError> {
        let result = self.progress.end(self.write());
        result.map_err(|error| QmpError::generic(format_args!("{}", self.explain(error))))
    }

    fn explain(&self, error: SaveError) -> impl fmt::Display {
        let path = self.progress.path.display();
        match error {
            SaveError::Open(error) => format!("Could not open '{path}': {}", error_text(&error)),
            SaveError::Write => "An IO error has occurred".to_owned(),
            SaveError::Address => format!(
                "Invalid addr {:#018x}/size {} specified",
                self.address, self.size
            ),
            SaveError::Cancelled => format!("Writing memory to '{path}' was given up"),
        }
    }

    fn write(&self) -> Result<(), SaveError> {
        let opened = self.progress.open(files::create).map_err(SaveError::Open)?;
        let file = opened.ok_or(SaveError::Cancelled)?;
        let (mut address, mut left) = (self.address, self.size);
        let mut chunk = Vec::new();
        while left > 0 {
            self.progress.check()?;
            // As it is now: the guest may remap what follows at any time.
            let map = self.shared.lock().machine.memory_map().clone();
            let (gpa, length) = self.physical(&map, address, left)?;
            let length = self.write_piece(&file, &map, gpa, length, &mut chunk)?;
            address = address.wrapping_add(length);
            left -= length;
        }
        Ok(())
    }

    /// What `address` stands for, and how far physical memory goes on as the range does, at most
    /// `left` and about [`WRITE_MAX`].
    fn physical(&self, map: &MemoryMap, address: u64, left: u64) -> Result<(u64, u64), SaveError> {
        let Space::Virtual(registers) = &self.space else {
            return Ok((address, left));
        };
        let most = left.min(WRITE_MAX);
        let translate = |address| registers.translate(address, |gpa, to| self.read(map, gpa, to));
        let start = translate(address).map_err(|_| SaveError::Address)?;
        let mut length = start.length;
        while length < most {
            match translate(address.wrapping_add(length)) {
                Ok(next) if next.gpa == start.gpa.wrapping_add(length) => length += next.length,
                // Another place, or none: that is the next piece's.
                _ => break,
            }
        }
        Ok((start.gpa, length.min(left)))
    }

    /// Writes some bytes from `gpa` on, at least one and at most `most`, and tells how many.
    fn write_piece(
        &self,
        file: &File,
        map: &MemoryMap,
        gpa: u64,
        most: u64,
        chunk: &mut Vec<u8>,
    ) -> Result<u64, SaveError> {
        let (region, ram) = (map.find(gpa), self.ram.block(gpa));
        let end = match region {
            Some(region) => region.length - (gpa - region.gpa),
            None => {
                let next = map.regions().iter().find(|region| region.gpa > gpa);
                let last = (u64::MAX - gpa).saturating_add(1);
                next.map_or(last, |next| next.gpa - gpa)
            }
        };
        let most = most.min(end);
        match (region.map(|region| region.read), ram) {
            (Some(Backing::Ram), Some(block)) => {
                let length = most.min(block.length as u64).min(WRITE_MAX);
                write_block(file, block, length as usize)?;
                Ok(length)
            }
            (None, None) if self.space != Space::Physical => Err(SaveError::Address),
            // The hole in RAM that video memory has is answered for, by the bus.
            (_, block) => {
                let most = block.map_or(most, |block| most.min(block.length as u64));
                let length = most.min(CHUNK as u64);
                chunk.resize(length as usize, 0);
                self.shared
                    .call(|machine, bridge, now| machine.physical_read(bridge, now, gpa, chunk));
                let block = Block {
                    pointer: NonNull::from(&mut chunk[..]).cast(),
                    length: chunk.len(),
                };
                write_block(file, block, chunk.len())?;
                Ok(length)
            }
        }
    }

    /// Reads a page table's entry.
    fn read(&self, map: &MemoryMap, gpa: u64, to: &mut [u8]) -> Result<(), RamError> {
        read_memory(&self.shared, self.ram, map, gpa, to)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Read;
    use std::os::unix::ffi::OsStrExt;
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;
    use std::time::{Duration, Instant};

    use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
    use thimble_core::machine::{Config, Machine};

    use super::super::jobs::{FileId, JOBS_MAX, LAST_OPENS, Step, remove};
    use super::super::{Accelerator, BridgeState, Clock, Guarded};
    use super::*;
    use crate::chardev::Chardevs;
    use crate::event_loop::poller::{Poller, Waker};
    use crate::memory::{Ram, Rom};

    const MIB: u64 = 1 << 20;
    const RAM: u64 = 4 * MIB;
    const ROM: usize = 0x2_0000;
    /// Longer than anything here takes on the slowest machine.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// A PC that does not run, whose RAM and ROM hold other bytes everywhere.
    fn machine() -> Arc<Shared> {
        let ram: &'static Ram = Box::leak(Box::new(Ram::new(&[(0, RAM)]).unwrap()));
        for at in (0..RAM).step_by(8) {
            ram.write(at, &(at ^ 0x7468_696d_0000_0000).to_le_bytes())
                .unwrap();
        }
        let image: Vec<u8> = (0..ROM).map(|at| (at >> 4) as u8 ^ at as u8).collect();
        let rom: &'static Rom = Box::leak(Box::new(Rom::new(&image).unwrap()));
        let machine = Machine::new(Config {
            rom: rom.bytes(),
            ..Config::new(ram, RAM)
        })
        .unwrap();
        let poller = Arc::new(Poller::new().unwrap());
        let guarded = Guarded {
            machine: Box::new(machine),
            chardevs: Chardevs::new(poller, 1 << 32).unwrap(),
            bridge_state: BridgeState::default(),
            clock: Clock::Stopped { now: 0 },
            input_waits: false,
            timer_at: 0,
        };
        let waker = Arc::new(Waker::new().unwrap());
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC).unwrap();
        Shared::new(guarded, Accelerator::None, waker, timer)
    }

    /// A directory of one test, which goes with it.
    struct Directory(PathBuf);

    impl Directory {
        fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("thimble-save-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }

        fn fifo(&self, name: &str) -> PathBuf {
            let path = self.path(name);
            let c = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
            // SAFETY: the name ends in a zero byte.
            assert_eq!(unsafe { libc::mkfifo(c.as_ptr(), 0o600) }, 0);
            path
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn start(
        jobs: &mut Jobs,
        shared: &Arc<Shared>,
        space: Space,
        address: u64,
        size: u64,
        path: &Path,
    ) -> Result<JobId, QmpError> {
        super::start(
            jobs,
            shared,
            space,
            address,
            size,
            path.as_os_str().as_bytes(),
        )
    }

    /// How a job has ended.
    type Outcome = (JobId, Result<(), QmpError>);

    fn wait(jobs: &mut Jobs) -> Outcome {
        let start = Instant::now();
        loop {
            if let Some((job, step)) = jobs.next_step() {
                let Step::Ended(result) = step else {
                    panic!("{step:?}");
                };
                return (job, result);
            }
            assert!(start.elapsed() < PATIENCE, "no job has ended");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Runs one job to its end.
    fn save(
        shared: &Arc<Shared>,
        space: Space,
        address: u64,
        size: u64,
        path: &Path,
    ) -> Result<(), String> {
        let mut jobs = Jobs::default();
        let id = start(&mut jobs, shared, space, address, size, path).unwrap();
        let (ended, result) = wait(&mut jobs);
        assert_eq!(ended, id);
        result.map_err(|error| error.to_string())
    }

    /// The same by the machine's own way.
    fn expected(shared: &Shared, gpa: u64, size: u64) -> Vec<u8> {
        let mut bytes = vec![0xee; size as usize];
        shared.call(|machine, bridge, now| machine.physical_read(bridge, now, gpa, &mut bytes));
        bytes
    }

    #[test]
    fn physical_memory_of_all_kinds() {
        let (shared, directory) = (machine(), Directory::new());
        let path = directory.path("memory");
        for (address, size) in [
            (0, 0),
            (0, 1),
            (5, 0x1234),
            // RAM, the hole, ROM in its place below 1 MiB, RAM.
            (0x9_fff1, 0x7_0123),
            (0, RAM),
            // Behind RAM, and into the ROM below 4 GiB and out of it.
            (RAM - 3, 0x1_0003),
            ((1 << 32) - ROM as u64 - 7, ROM as u64 + 0x2_0000),
            (1 << 40, 77),
            // Around the end of all addresses.
            (u64::MAX - 3, 0x10_0000),
        ] {
            assert_eq!(save(&shared, Space::Physical, address, size, &path), Ok(()));
            let bytes = fs::read(&path).unwrap();
            assert!(
                bytes == expected(&shared, address, size),
                "{address:#x} {size:#x}"
            );
        }
        let rom = expected(&shared, (1 << 32) - 16, 32);
        assert_ne!(rom[..16], [0; 16]);
        assert_eq!(rom[16..], [0; 16]);
    }

    #[test]
    fn linear_memory_by_its_tables() {
        let (shared, directory) = (machine(), Directory::new());
        let (ram, path) = (shared.lock().machine.ram(), directory.path("memory"));
        let put = |at: u64, entry: u64| ram.write(at, &entry.to_le_bytes()).unwrap();
        // 4 levels at 1000h to 4fffh; the lowest in a place of its own, and one in the ROM's.
        for at in (0x1000..0x5000).step_by(8) {
            put(at, 0);
        }
        put(0x1000, 0x2001);
        put(0x2000, 0x3001);
        put(0x3000, 0x4001);
        put(0x3008, 0x20_0000 | 0x81);
        for (page, at) in [
            0x10_0000, 0x10_1000, 0x10_3000, 0x9_f000, 0xa_0000, 0xf_f000,
        ]
        .into_iter()
        .enumerate()
        {
            put(0x4000 + 8 * page as u64, at | 1);
        }
        put(0x4000 + 8 * 511, 0x9_0001);
        let space = Space::Virtual(PagingRegisters {
            cr0: 1 << 31 | 1,
            cr3: 0x1000,
            cr4: 1 << 5,
            efer: 1 << 10,
        });
        let parts = |parts: &[(u64, u64)]| -> Vec<u8> {
            let parts = parts
                .iter()
                .map(|(gpa, size)| expected(&shared, *gpa, *size));
            parts.flatten().collect()
        };
        for (address, size, from) in [
            (0x123, 0x10, &[(0x10_0123, 0x10)][..]),
            (
                0x800,
                0x5800,
                &[
                    (0x10_0800, 0x1800),
                    (0x10_3000, 0x1000),
                    (0x9_f000, 0x2000),
                    (0xf_f000, 0x1000),
                ],
            ),
            // From a small page into a large one, over several pieces.
            (
                0x1f_f000,
                0x1000 + 0x20_0000,
                &[(0x9_0000, 0x1000), (0x20_0000, 0x20_0000)],
            ),
        ] {
            assert_eq!(save(&shared, space, address, size, &path), Ok(()));
            assert!(fs::read(&path).unwrap() == parts(from), "{address:#x}");
        }
        fs::remove_file(&path).unwrap();
        for (address, size, error) in [
            (
                0x5ff0,
                0x11,
                "Invalid addr 0x0000000000005ff0/size 17 specified",
            ),
            (
                0x20_0000,
                0x20_0001,
                "Invalid addr 0x0000000000200000/size 2097153 specified",
            ),
            (
                0x8000_0000_0000,
                1,
                "Invalid addr 0x0000800000000000/size 1 specified",
            ),
            (
                u64::MAX - 15,
                32,
                "Invalid addr 0xfffffffffffffff0/size 32 specified",
            ),
        ] {
            assert_eq!(
                save(&shared, space, address, size, &path),
                Err(error.into())
            );
            assert!(!path.exists(), "{address:#x}");
        }
        // Nothing is asked of an address when nothing is to be written.
        assert_eq!(save(&shared, space, u64::MAX, 0, &path), Ok(()));
        assert_eq!(fs::read(&path).unwrap(), []);
    }

    #[test]
    fn linear_memory_without_paging() {
        let (shared, directory) = (machine(), Directory::new());
        let path = directory.path("memory");
        let space = Space::Virtual(PagingRegisters::default());
        for (address, size) in [(0, MIB), ((1 << 32) - 16, 16), (RAM - 1, 1)] {
            assert_eq!(save(&shared, space, address, size, &path), Ok(()));
            assert!(fs::read(&path).unwrap() == expected(&shared, address, size));
        }
        for (address, size) in [(RAM, 1), (RAM - 1, 2), ((1 << 32) - 16, 17), (1 << 32, 1)] {
            let error = format!("Invalid addr {address:#018x}/size {size} specified");
            assert_eq!(save(&shared, space, address, size, &path), Err(error));
            assert!(!path.exists());
        }
    }

    #[test]
    fn files_that_can_not_be_written() {
        let (shared, directory) = (machine(), Directory::new());
        let fails = |path: &Path, size, error: &str| {
            let result = save(&shared, Space::Physical, 0, size, path);
            assert_eq!(result, Err(error.to_owned()));
        };
        let missing = directory.path("none/memory");
        let text = format!("Could not open '{}': ", missing.display());
        fails(&missing, 1, &(text + "No such file or directory"));
        let text = format!("Could not open '{}': ", directory.0.display());
        fails(&directory.0, 1, &(text + "Is a directory"));
        fails(
            Path::new(""),
            1,
            "Could not open '': No such file or directory",
        );
        let full = Path::new("/dev/full");
        if full.exists() {
            fails(full, 1, "An IO error has occurred");
            fails(full, i64::MAX as u64, "An IO error has occurred");
            assert!(full.exists());
        }
        assert!(directory.0.is_dir());
    }

    #[test]
    fn the_file_goes_that_was_made_and_no_other() {
        let (shared, directory) = (machine(), Directory::new());
        let (file, link) = (directory.path("file"), directory.path("link"));
        let fail = |path: &Path| {
            let space = Space::Virtual(PagingRegisters::default());
            assert!(save(&shared, space, RAM - 0x1000, 0x2000, path).is_err());
        };
        fs::write(&file, vec![7; 0x10_0000]).unwrap();
        assert_eq!(save(&shared, Space::Physical, 0, 3, &file), Ok(()));
        assert_eq!(fs::read(&file).unwrap().len(), 3);
        fail(&file);
        assert!(!file.exists());
        // What a symbolic link leads to is the file.
        std::os::unix::fs::symlink(&file, &link).unwrap();
        fail(&link);
        assert!(!file.exists() && link.is_symlink());
        // Another one that has taken its name is not.
        fs::write(&file, "mine").unwrap();
        let id = FileId::of(&fs::metadata(&file).unwrap());
        let other = directory.path("other");
        fs::rename(&file, &other).unwrap();
        fs::write(&file, "another's").unwrap();
        remove(&file, id);
        assert_eq!(fs::read(&file).unwrap(), b"another's");
        remove(&other, id);
        assert!(!other.exists());
    }

    #[test]
    fn a_fifo_holds_up_nothing() {
        let (shared, directory) = (machine(), Directory::new());
        let fifo = directory.fifo("fifo");
        let mut jobs = Jobs::default();
        let stuck = start(&mut jobs, &shared, Space::Physical, 0, 100, &fifo).unwrap();
        let file = directory.path("file");
        let quick = start(&mut jobs, &shared, Space::Physical, 0, 100, &file).unwrap();
        assert!(quick > stuck);
        assert_eq!(wait(&mut jobs), (quick, Ok(())));
        assert_eq!(jobs.next_step(), None);
        let mut bytes = Vec::new();
        File::open(&fifo).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, expected(&shared, 0, 100));
        assert_eq!(wait(&mut jobs), (stuck, Ok(())));
        // Given up in open(2): it ends when it can, without a byte.
        let stuck = start(&mut jobs, &shared, Space::Physical, 0, 100, &fifo).unwrap();
        // And one that waits for its reader to read.
        let other = directory.fifo("other");
        start(&mut jobs, &shared, Space::Physical, 0, MIB, &other).unwrap();
        let lazy = File::open(&other).unwrap();
        let begin = Instant::now();
        thread::sleep(Duration::from_millis(20));
        jobs.cancel();
        assert!(begin.elapsed() < LAST_OPENS, "{:?}", begin.elapsed());
        assert!(fifo.exists() && other.exists());
        bytes.clear();
        File::open(&fifo).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, []);
        let (ended, result) = wait(&mut jobs);
        assert_eq!(ended, stuck);
        let text = format!("Writing memory to '{}' was given up", fifo.display());
        assert_eq!(result.unwrap_err().to_string(), text);
        drop(lazy);
        assert!(wait(&mut jobs).1.is_err());
    }

    #[test]
    fn what_is_given_up_leaves_no_file() {
        let (shared, directory) = (machine(), Directory::new());
        let space = Space::Virtual(PagingRegisters {
            cr0: 1 << 31 | 1,
            cr3: 0x1000,
            cr4: 1 << 5,
            efer: 1 << 10,
        });
        // One entry that maps all addresses to the table itself: no size is too large.
        let ram = shared.lock().machine.ram();
        for at in (0x1000..0x2000).step_by(8) {
            ram.write(at, &0x1001_u64.to_le_bytes()).unwrap();
        }
        for space in [Space::Physical, space] {
            for wait_for in [0, 1, MIB] {
                let path = directory.path("file");
                let mut jobs = Jobs::default();
                start(&mut jobs, &shared, space, 0, i64::MAX as u64, &path).unwrap();
                let begin = Instant::now();
                while wait_for != 0 && fs::metadata(&path).map_or(0, |data| data.len()) < wait_for {
                    assert!(begin.elapsed() < PATIENCE);
                    thread::yield_now();
                }
                jobs.cancel();
                assert!(!path.exists());
                assert!(wait(&mut jobs).1.is_err());
                assert!(!path.exists());
            }
        }
    }

    #[test]
    fn only_so_many_at_a_time() {
        let (shared, directory) = (machine(), Directory::new());
        let fifos: Vec<_> = (0..JOBS_MAX)
            .map(|i| directory.fifo(&i.to_string()))
            .collect();
        let mut jobs = Jobs::default();
        for fifo in &fifos {
            start(&mut jobs, &shared, Space::Physical, 0, 1, fifo).unwrap();
        }
        let file = directory.path("file");
        let refused = start(&mut jobs, &shared, Space::Physical, 0, 1, &file).unwrap_err();
        assert!(refused.to_string().contains("16"), "{refused}");
        let mut byte = Vec::new();
        File::open(&fifos[3])
            .unwrap()
            .read_to_end(&mut byte)
            .unwrap();
        let (fourth, outcome) = wait(&mut jobs);
        assert_eq!((fourth.0.get(), outcome), (4, Ok(())));
        let next = start(&mut jobs, &shared, Space::Physical, 0, 1, &file).unwrap();
        assert_eq!(next.0.get(), JOBS_MAX as u64 + 1);
        assert_eq!(wait(&mut jobs), (next, Ok(())));
        jobs.cancel();
    }
}
