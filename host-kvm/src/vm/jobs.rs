//! Files that are written in the background, each by a thread of its own.
//!
//! A job opens its file and writes it without the machine's lock. A file that exists is truncated and written over. If the
//! job fails, or the process ends before it is done, the file is removed, whether or not it existed before: what is left of
//! it is neither the old nor the new. Only a regular file is: a device or a FIFO stays, and what was passed to us.
//!
//! open(2) of a FIFO waits for a reader, and a write for room. Nothing waits for a job that hangs
//! there, not even the end of the process.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use thimble_core::memory::Block;
use thimble_monitor::{JobId, QmpError};

use super::Shared;
use crate::error_text;
use crate::files::Opened;
use crate::signals::Blocked;

/// Jobs at a time. More are refused: each costs a thread and a descriptor.
pub const JOBS_MAX: usize = 16;

/// How long the end of the process waits for files that are just being created.
pub(super) const LAST_OPENS: Duration = Duration::from_secs(1);

/// Bytes of a worker's stack.
const STACK: usize = 128 << 10;

/// How far a job has come.
// There are no more of them at a time than jobs.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Its file is open, and it waits for what is to be written.
    Opened,
    /// It has ended.
    Ended(Result<(), QmpError>),
}

/// All jobs of the process. The main thread owns it, and asks [`Jobs::next_step`] whenever it
/// was woken.
#[derive(Default)]
pub struct Jobs {
    last: Option<JobId>,
    jobs: Vec<(JobId, Arc<Progress>)>,
    steps: Arc<Mutex<VecDeque<(JobId, Step)>>>,
}

/// What a job's thread tells the main thread by.
pub(super) struct Reporter {
    job: JobId,
    steps: Arc<Mutex<VecDeque<(JobId, Step)>>>,
    shared: Arc<Shared>,
}

impl Reporter {
    pub(super) fn tell(&self, step: Step) {
        lock(&self.steps).push_back((self.job, step));
        self.shared.wake();
    }
}

/// What a job does. What it returns is its end.
pub(super) type Work = Box<dyn FnOnce(&Reporter) -> Result<(), QmpError> + Send>;

impl Jobs {
    /// Starts a job, whose thread gets this name and the job's number.
    ///
    /// # Errors
    /// If there are [`JOBS_MAX`] jobs already, or no thread can be started.
    pub(super) fn start(
        &mut self,
        name: &str,
        shared: &Arc<Shared>,
        progress: Arc<Progress>,
        work: Work,
    ) -> Result<JobId, QmpError> {
        if self.jobs.len() >= JOBS_MAX {
            return Err(QmpError::generic(format_args!(
                "No more than {JOBS_MAX} files of memory can be written at a time"
            )));
        }
        let id = self.last.map_or(JobId(NonZeroU64::MIN), |JobId(last)| {
            JobId(last.saturating_add(1))
        });
        let reporter = Reporter {
            job: id,
            steps: self.steps.clone(),
            shared: shared.clone(),
        };
        let work = move || {
            let result = work(&reporter);
            reporter.tell(Step::Ended(result));
        };
        // A write beyond RLIMIT_FSIZE raises a signal in the thread that writes, too: it is to fail instead.
        let _blocked = Blocked::all();
        thread::Builder::new()
            .name(format!("{name} {}", id.0))
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

    /// What a job has come to since the last call, in the order in which they do.
    pub fn next_step(&mut self) -> Option<(JobId, Step)> {
        let step = lock(&self.steps).pop_front()?;
        if let Step::Ended(_) = step.1 {
            self.jobs.retain(|(id, _)| *id != step.0);
        }
        Some(step)
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

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which file it is, whatever its name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(super) fn of(data: &Metadata) -> Self {
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

/// The job is given up.
#[derive(Debug)]
pub(super) struct Cancelled;

/// How far a job is: what it and the main thread share.
pub(super) struct Progress {
    pub(super) path: PathBuf,
    state: Mutex<State>,
    /// The stage is no longer [`Stage::Creating`].
    created: Condvar,
}

impl Progress {
    /// Of a file that is still to be opened. `filename` is a path in the file system's bytes, without zero bytes.
    pub(super) fn new(filename: &[u8]) -> Arc<Self> {
        let state = State {
            stage: Stage::New,
            cancelled: false,
        };
        Arc::new(Self {
            path: OsStr::from_bytes(filename).into(),
            state: Mutex::new(state),
            created: Condvar::new(),
        })
    }

    /// Opens the file by a function of [`files`](crate::files).
    ///
    /// # Errors
    /// What open(2) says; `Ok(None)` if the job is given up.
    pub(super) fn open(
        &self,
        create: fn(&Path) -> io::Result<Opened>,
    ) -> io::Result<Option<Opened>> {
        if self.enter_open().is_err() {
            return Ok(None);
        }
        let file = create(&self.path)?;
        self.opened(&file);
        Ok(Some(file))
    }

    /// Enters the stage of opening, unless the job is given up.
    fn enter_open(&self) -> Result<(), Cancelled> {
        let special = fs::metadata(&self.path).is_ok_and(|data| !data.is_file());
        let mut state = lock(&self.state);
        if state.cancelled {
            state.stage = Stage::Ended;
            return Err(Cancelled);
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

    /// Asked often while the job writes.
    pub(super) fn check(&self) -> Result<(), Cancelled> {
        match lock(&self.state).cancelled {
            true => Err(Cancelled),
            false => Ok(()),
        }
    }

    /// The job touches nothing any more, and if it has failed, its file goes.
    pub(super) fn end<E: From<Cancelled>>(&self, mut result: Result<(), E>) -> Result<(), E> {
        let mut state = lock(&self.state);
        if state.cancelled {
            // Even with its last byte written: the main thread has counted on it.
            result = Err(Cancelled.into());
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
pub(super) fn remove(path: &Path, id: FileId) {
    let Ok(path) = fs::canonicalize(path) else {
        return;
    };
    if fs::symlink_metadata(&path).is_ok_and(|data| FileId::of(&data) == id) {
        let _ = fs::remove_file(path);
    }
}

/// Writes the first `length` bytes of a block straight from where they are: there is no slice of
/// guest RAM, which the guest may change meanwhile.
///
/// # Errors
/// What write(2) says; a file that takes nothing is full.
pub(super) fn write_block(file: impl AsFd, block: Block, length: usize) -> io::Result<()> {
    let mut done = 0;
    while done < length {
        // SAFETY: `done` stays below the block's length; the kernel only reads, and checks the
        // whole range itself.
        let written = unsafe {
            let from = block.pointer.as_ptr().add(done).cast();
            libc::write(file.as_fd().as_raw_fd(), from, length - done)
        };
        match usize::try_from(written) {
            Ok(0) => return Err(io::ErrorKind::StorageFull.into()),
            Ok(written) => done += written,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}
