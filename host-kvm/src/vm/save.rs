//! Guest memory into files: `pmemsave` and `memsave`, as jobs in the background.
//!
//! A job is a thread that opens the file and writes guest RAM to it from where it lies, without
//! the machine's lock; what is ROM or a device is read under the lock, [`CHUNK`] bytes at a time.
//! The guest may run meanwhile: a file is no snapshot, unless the VM is stopped.
//!
//! A file that exists is truncated and written over. If the job fails, or the process ends before
//! it is done, the file is removed, whether or not it existed before: what is left of it is
//! neither the old nor the new. Only a regular file is: a device or a FIFO stays, and what was
//! passed to us.
//!
//! open(2) of a FIFO waits for a reader, and a write for room. Nothing waits for a job that hangs
//! there, not even the end of the process.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io;
use std::num::NonZeroU64;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use thimble_core::cpu::PagingRegisters;
use thimble_core::memory::{Backing, Block, GuestRam, MemoryMap, RamError};
use thimble_monitor::{JobId, QmpError};

use super::Shared;
use crate::error_text;
use crate::files::{self, Opened};

/// Jobs at a time. More are refused: each costs a thread and a descriptor.
pub const SAVE_JOBS_MAX: usize = 16;

/// Bytes that are copied under the machine's lock at a time, in about two microseconds.
const CHUNK: usize = 64 << 10;

/// Bytes that are written from guest RAM at a time, before a job looks whether to go on.
const WRITE_MAX: u64 = 1 << 20;

/// How long the end of the process waits for files that are just being created.
const LAST_OPENS: Duration = Duration::from_secs(1);

/// Bytes of a worker's stack.
const STACK: usize = 128 << 10;

/// Which addresses are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Guest physical ones: `pmemsave`. What nothing answers reads as zeros.
    Physical,
    /// Linear ones, as a processor with these registers understands them: `memsave`. What nothing
    /// answers is an error. The page tables are read as the job comes to them.
    Virtual(PagingRegisters),
}

/// How a job has ended.
pub type Outcome = (JobId, Result<(), QmpError>);

/// All jobs of the process. The main thread owns it, and asks [`SaveJobs::finished`] whenever it
/// was woken.
#[derive(Default)]
pub struct SaveJobs {
    last: Option<JobId>,
    jobs: Vec<(JobId, Arc<Progress>)>,
    outcomes: Arc<Mutex<VecDeque<Outcome>>>,
}

impl SaveJobs {
    /// Starts to write `size` bytes from `address` on to a file. Addresses wrap at 2^64.
    /// `filename` is a path in the file system's bytes, without zero bytes. Takes the machine's
    /// lock for a moment.
    ///
    /// # Errors
    /// If there are [`SAVE_JOBS_MAX`] jobs already, or no thread can be started. All else, such as
    /// a file that can't be opened, is the job's outcome.
    pub fn start(
        &mut self,
        shared: &Arc<Shared>,
        space: Space,
        address: u64,
        size: u64,
        filename: &[u8],
    ) -> Result<JobId, QmpError> {
        if self.jobs.len() >= SAVE_JOBS_MAX {
            return Err(QmpError::generic(format_args!(
                "No more than {SAVE_JOBS_MAX} files of memory can be written at a time"
            )));
        }
        let task = Task::new(shared, space, address, size, filename);
        let progress = task.progress.clone();
        let id = self.last.map_or(JobId(NonZeroU64::MIN), |JobId(last)| {
            JobId(last.saturating_add(1))
        });
        let outcomes = self.outcomes.clone();
        let work = move || {
            block_signals();
            let result = task.run();
            lock(&outcomes).push_back((id, result));
            task.shared.wake();
        };
        thread::Builder::new()
            .name(format!("save {}", id.0))
            .stack_size(STACK)
            .spawn(work)
            .map_err(|error| {
                let reason = error_text(&error);
                QmpError::generic(format_args!(
                    "Could not start a thread that writes memory: {reason}"
                ))
            })?;
        self.last = Some(id);
        self.jobs.push((id, progress));
        Ok(id)
    }

    /// A job that has ended since the last call, in the order in which they do.
    pub fn finished(&mut self) -> Option<Outcome> {
        let outcome = lock(&self.outcomes).pop_front()?;
        self.jobs.retain(|(id, _)| *id != outcome.0);
        Some(outcome)
    }

    /// Gives all jobs up and removes what they have written, because the process ends. Waits for
    /// files that are just being created, for a second in all, but for nothing else.
    pub fn cancel(&mut self) {
        for (_, job) in &self.jobs {
            job.cancel();
        }
        let deadline = Instant::now() + LAST_OPENS;
        for (_, job) in &self.jobs {
            job.wait_created(deadline);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Signals are the main thread's; and a write beyond RLIMIT_FSIZE, which raises one in the thread
/// that writes, is to fail instead of ending the process.
fn block_signals() {
    // SAFETY: the set is initialised before it is used.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut set);
        libc::pthread_sigmask(libc::SIG_SETMASK, &set, ptr::null_mut());
    }
}

/// Which file it is, whatever its name.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(data: &Metadata) -> Self {
        Self {
            device: data.dev(),
            inode: data.ino(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing has been touched.
    New,
    /// In open(2) of a file, which does not take long.
    Creating,
    /// In open(2) of something that is no file, perhaps for ever.
    Opening,
    /// Open, with the file that is to be removed on failure.
    Writing(Option<FileId>),
    /// Nothing more will be touched.
    Ended,
}

struct State {
    stage: Stage,
    cancelled: bool,
}

/// How far a job is: what it and the main thread share.
struct Progress {
    path: PathBuf,
    state: Mutex<State>,
    /// The stage is no longer [`Stage::Creating`].
    created: Condvar,
}

impl Progress {
    /// Enters the stage of opening, unless the job is given up.
    fn enter_open(&self) -> Result<(), SaveError> {
        let special = fs::metadata(&self.path).is_ok_and(|data| !data.is_file());
        let mut state = lock(&self.state);
        if state.cancelled {
            state.stage = Stage::Ended;
            return Err(SaveError::Cancelled);
        }
        state.stage = if special {
            Stage::Opening
        } else {
            Stage::Creating
        };
        Ok(())
    }

    fn opened(&self, file: &Opened) {
        let id = file
            .metadata()
            .ok()
            .filter(|data| data.is_file() && !file.is_passed())
            .map(|data| FileId::of(&data));
        lock(&self.state).stage = Stage::Writing(id);
        self.created.notify_all();
    }

    fn check(&self) -> Result<(), SaveError> {
        match lock(&self.state).cancelled {
            true => Err(SaveError::Cancelled),
            false => Ok(()),
        }
    }

    /// The job touches nothing any more, and if it has failed, its file goes.
    fn end(&self, mut result: Result<(), SaveError>) -> Result<(), SaveError> {
        let mut state = lock(&self.state);
        if state.cancelled {
            // Even with its last byte written: the main thread has counted on it.
            result = Err(SaveError::Cancelled);
        }
        match result {
            Ok(()) => state.stage = Stage::Ended,
            Err(_) => self.give_up(&mut state),
        }
        self.created.notify_all();
        result
    }

    fn cancel(&self) {
        let mut state = lock(&self.state);
        state.cancelled = true;
        if matches!(state.stage, Stage::Writing(_)) {
            self.give_up(&mut state);
        }
    }

    fn give_up(&self, state: &mut State) {
        if let Stage::Writing(Some(id)) = state.stage {
            remove(&self.path, id);
        }
        state.stage = Stage::Ended;
    }

    /// Waits for a file that is being created although the job is given up, and removes it.
    fn wait_created(&self, deadline: Instant) {
        let mut state = lock(&self.state);
        while state.stage == Stage::Creating {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = match self.created.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        if matches!(state.stage, Stage::Writing(_)) {
            self.give_up(&mut state);
        }
    }
}

/// Removes the file, wherever symbolic links lead to it, if it still has that name.
fn remove(path: &Path, id: FileId) {
    let Ok(path) = fs::canonicalize(path) else {
        return;
    };
    if fs::symlink_metadata(&path).is_ok_and(|data| FileId::of(&data) == id) {
        let _ = fs::remove_file(path);
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
    fn new(shared: &Arc<Shared>, space: Space, address: u64, size: u64, filename: &[u8]) -> Self {
        let state = State {
            stage: Stage::New,
            cancelled: false,
        };
        Self {
            shared: shared.clone(),
            ram: shared.lock().machine.ram(),
            space,
            address,
            size,
            progress: Arc::new(Progress {
                path: OsStr::from_bytes(filename).into(),
                state: Mutex::new(state),
                created: Condvar::new(),
            }),
        }
    }

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
        self.progress.enter_open()?;
        let file = files::create(&self.progress.path).map_err(SaveError::Open)?;
        self.progress.opened(&file);
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
        match map.find(gpa).map(|region| region.read) {
            Some(Backing::Ram) => self.ram.read(gpa, to),
            Some(_) => {
                self.shared
                    .call(|machine, bridge, now| machine.physical_read(bridge, now, gpa, to));
                Ok(())
            }
            None => Err(RamError { gpa }),
        }
    }
}

/// Writes the first `length` bytes of a block straight from where they are: there is no slice of
/// guest RAM, which the guest may change meanwhile.
fn write_block(file: &File, block: Block, length: usize) -> Result<(), SaveError> {
    let mut done = 0;
    while done < length {
        // SAFETY: `done` stays below the block's length; the kernel only reads, and checks the
        // whole range itself.
        let written = unsafe {
            let from = block.pointer.as_ptr().add(done).cast();
            libc::write(file.as_raw_fd(), from, length - done)
        };
        match usize::try_from(written) {
            Ok(0) => return Err(SaveError::Write),
            Ok(written) => done += written,
            Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(SaveError::Write),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::atomic::{AtomicU32, Ordering};

    use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
    use thimble_core::machine::{Config, Machine};

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
        jobs: &mut SaveJobs,
        shared: &Arc<Shared>,
        space: Space,
        address: u64,
        size: u64,
        path: &Path,
    ) -> Result<JobId, QmpError> {
        jobs.start(shared, space, address, size, path.as_os_str().as_bytes())
    }

    fn wait(jobs: &mut SaveJobs) -> Outcome {
        let start = Instant::now();
        loop {
            if let Some(outcome) = jobs.finished() {
                return outcome;
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
        let mut jobs = SaveJobs::default();
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
        let mut jobs = SaveJobs::default();
        let stuck = start(&mut jobs, &shared, Space::Physical, 0, 100, &fifo).unwrap();
        let file = directory.path("file");
        let quick = start(&mut jobs, &shared, Space::Physical, 0, 100, &file).unwrap();
        assert!(quick > stuck);
        assert_eq!(wait(&mut jobs), (quick, Ok(())));
        assert_eq!(jobs.finished(), None);
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
                let mut jobs = SaveJobs::default();
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
        let fifos: Vec<_> = (0..SAVE_JOBS_MAX)
            .map(|i| directory.fifo(&i.to_string()))
            .collect();
        let mut jobs = SaveJobs::default();
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
        assert_eq!(next.0.get(), SAVE_JOBS_MAX as u64 + 1);
        assert_eq!(wait(&mut jobs), (next, Ok(())));
        jobs.cancel();
    }
}
