//! Sets of descriptors: files by the name of `/dev/fdset/N`.
//!
//! A set holds descriptors for one file, opened for reading, writing, or both. Who opens the set's
//! name gets a copy of the one whose access mode is right, and while copies are out the set stays,
//! even if all its descriptors were removed. There is one table for the process, as descriptors'
//! numbers are the process', too, and files are opened in many places and threads.
//!
//! Behaviour is QEMU 7.2's, as observed: a descriptor that is removed while the VM stands still
//! stays until a descriptor of its set is removed while it runs; and when the last monitor's client
//! leaves a running VM, descriptors that nobody uses are closed.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FileType, OFlags, SeekFrom};
use rustix::io::Errno;

/// Descriptors in all sets together at most.
pub const DESCRIPTORS_MAX: usize = 256;

/// Bytes of a descriptor's [`Descriptor::opaque`] at most.
pub const OPAQUE_MAX: usize = 4096;

/// One of a set's descriptors.
#[derive(Debug)]
pub struct Descriptor {
    fd: OwnedFd,
    opaque: Option<Box<[u8]>>,
    removed: bool,
}

impl Descriptor {
    /// Its number in this process.
    pub fn number(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// What its giver wants to be told about it.
    pub fn opaque(&self) -> Option<&[u8]> {
        self.opaque.as_deref()
    }
}

/// A set.
#[derive(Debug)]
pub struct Set {
    id: i64,
    descriptors: Vec<Descriptor>,
    /// Copies that are in use.
    copies: usize,
}

impl Set {
    /// Its number.
    pub fn id(&self) -> i64 {
        self.id
    }

    /// Its descriptors, oldest first.
    pub fn descriptors(&self) -> &[Descriptor] {
        &self.descriptors
    }
}

/// All sets.
#[derive(Debug)]
pub struct Sets {
    /// By ascending number.
    sets: Vec<Set>,
    /// Whether the VM runs.
    running: bool,
    /// Clients of monitors.
    clients: usize,
}

static SETS: Mutex<Sets> = Mutex::new(Sets {
    sets: Vec::new(),
    running: false,
    clients: 0,
});

/// The sets of this process.
pub fn lock() -> MutexGuard<'static, Sets> {
    SETS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a descriptor is not in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddError {
    /// The set's number is negative.
    Id,
    /// There are [`DESCRIPTORS_MAX`] already.
    Count,
    /// What to tell about it has more than [`OPAQUE_MAX`] bytes.
    Opaque,
}

impl fmt::Display for AddError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id => f.write_str("Parameter 'fdset-id' expects a non-negative value"),
            Self::Count => write!(
                f,
                "No more than {DESCRIPTORS_MAX} file descriptors can be in sets at a time"
            ),
            Self::Opaque => write!(
                f,
                "A file descriptor's opaque text has at most {OPAQUE_MAX} bytes"
            ),
        }
    }
}

/// There is no such set or descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFound;

impl Sets {
    /// Puts a descriptor into a set, which is made if there is none; without a number: into a new
    /// one with the lowest number that is free. Tells the set's number and the descriptor's.
    ///
    /// # Errors
    /// For bad numbers, and at the limits; the descriptor is closed then.
    pub fn add(
        &mut self,
        id: Option<i64>,
        fd: OwnedFd,
        opaque: Option<&[u8]>,
    ) -> Result<(i64, i32), AddError> {
        if id.is_some_and(|id| id < 0) {
            return Err(AddError::Id);
        }
        if opaque.is_some_and(|opaque| opaque.len() > OPAQUE_MAX) {
            return Err(AddError::Opaque);
        }
        let count = |set: &Set| set.descriptors.len();
        if self.sets.iter().map(count).sum::<usize>() >= DESCRIPTORS_MAX {
            return Err(AddError::Count);
        }
        let id = id.unwrap_or_else(|| {
            let used = self.sets.iter().map(Set::id).zip(0..);
            used.take_while(|(used, index)| used == index).count() as i64
        });
        let index = self.sets.partition_point(|set| set.id < id);
        if self.sets.get(index).is_none_or(|set| set.id != id) {
            let set = Set {
                id,
                descriptors: Vec::new(),
                copies: 0,
            };
            self.sets.insert(index, set);
        }
        let number = fd.as_raw_fd();
        self.sets[index].descriptors.push(Descriptor {
            fd,
            opaque: opaque.map(Box::from),
            removed: false,
        });
        Ok((id, number))
    }

    /// Removes a descriptor from a set, or all.
    ///
    /// # Errors
    /// If there is no such set, or not this descriptor in it.
    pub fn remove(&mut self, id: i64, number: Option<i64>) -> Result<(), NotFound> {
        let index = self.sets.iter().position(|set| set.id == id);
        let index = index.ok_or(NotFound)?;
        let meant = |fd: &Descriptor| number.is_none_or(|number| i64::from(fd.number()) == number);
        let descriptors = &mut self.sets[index].descriptors;
        if number.is_some() && !descriptors.iter().any(meant) {
            return Err(NotFound);
        }
        for descriptor in descriptors.iter_mut().filter(|fd| meant(fd)) {
            descriptor.removed = true;
        }
        self.clean(Some(id));
        Ok(())
    }

    /// All sets, the highest number first.
    pub fn iter(&self) -> impl Iterator<Item = &Set> {
        self.sets.iter().rev()
    }

    /// The VM runs from now on, or stands still.
    pub fn set_running(&mut self, running: bool) {
        self.running = running;
    }

    /// A monitor's client has connected.
    pub fn client_came(&mut self) {
        self.clients += 1;
    }

    /// A monitor's client has left.
    pub fn client_left(&mut self) {
        self.clients = self.clients.saturating_sub(1);
        self.clean(None);
    }

    /// Closes what was removed and what nobody can mean any more: in one set, or all.
    fn clean(&mut self, id: Option<i64>) {
        let (running, alone) = (self.running, self.clients == 0);
        self.sets.retain_mut(|set| {
            if id.is_some_and(|id| id != set.id) {
                return true;
            }
            let unused = alone && set.copies == 0;
            set.descriptors
                .retain(|fd| !running || !(fd.removed || unused));
            !set.descriptors.is_empty() || set.copies > 0
        });
    }

    /// A copy of a descriptor, for who opens `/dev/fdset/N` with these flags.
    fn open(&mut self, id: i64, flags: OFlags) -> io::Result<(OwnedFd, Copy)> {
        let set = self.sets.iter_mut().find(|set| set.id == id);
        let set = set.ok_or(Errno::NOENT)?;
        let mut found = Err(Errno::ACCESS);
        for descriptor in &set.descriptors {
            let mode = rustix::fs::fcntl_getfl(&descriptor.fd)?;
            if mode & OFlags::ACCMODE == flags & OFlags::ACCMODE {
                found = Ok((&descriptor.fd, mode));
                break;
            }
        }
        let (fd, mode) = found?;
        let copy = rustix::io::fcntl_dupfd_cloexec(fd, 0)?;
        // The giver's open file, and seen by all who share it: only what must be is changed.
        let wanted = mode & !OFlags::APPEND | flags & OFlags::APPEND;
        rustix::fs::fcntl_setfl(&copy, wanted)?;
        if flags.contains(OFlags::TRUNC) {
            let kind = FileType::from_raw_mode(rustix::fs::fstat(&copy)?.st_mode);
            // For these, open(2) passes over the flag.
            if !matches!(kind, FileType::Fifo | FileType::CharacterDevice) {
                rustix::fs::ftruncate(&copy, 0)?;
                rustix::fs::seek(&copy, SeekFrom::Start(0))?;
            }
        }
        set.copies += 1;
        Ok((copy, Copy(id)))
    }
}

/// Keeps a set as long as a copy of one of its descriptors is in use: to be dropped with that.
#[derive(Debug)]
pub struct Copy(i64);

impl Drop for Copy {
    fn drop(&mut self) {
        let mut sets = lock();
        if let Some(set) = sets.sets.iter_mut().find(|set| set.id == self.0) {
            set.copies -= 1;
            if set.copies == 0 {
                sets.clean(Some(self.0));
            }
        }
    }
}

/// Opens what a file's name stands for, if that is a set's.
///
/// # Errors
/// EINVAL if behind `/dev/fdset/` there is no number, ENOENT if there is no such set, EACCES if none
/// of its descriptors has the access mode of `flags`; else what the system says.
pub(crate) fn open(name: &[u8], flags: OFlags) -> Option<io::Result<(OwnedFd, Copy)>> {
    let id = name.strip_prefix(b"/dev/fdset/")?;
    let id = std::str::from_utf8(id).ok();
    let id = id
        .and_then(|id| id.parse::<i32>().ok())
        .filter(|id| *id >= 0);
    Some(match id {
        Some(id) => lock().open(id.into(), flags),
        None => Err(Errno::INVAL.into()),
    })
}
