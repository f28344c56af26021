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

static SETS: Mutex<Sets> = Mutex::new(Sets::NONE);

/// The sets of this process.
pub fn lock() -> MutexGuard<'static, Sets> {
    lock_of(&SETS)
}

fn lock_of(sets: &'static Mutex<Sets>) -> MutexGuard<'static, Sets> {
    sets.lock().unwrap_or_else(PoisonError::into_inner)
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
    const NONE: Self = Self {
        sets: Vec::new(),
        running: false,
        clients: 0,
    };

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
    fn open(&mut self, id: i64, flags: OFlags) -> io::Result<OwnedFd> {
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
        Ok(copy)
    }
}

/// Keeps a set as long as a copy of one of its descriptors is in use: to be dropped with that.
#[derive(Debug)]
pub struct Lease {
    sets: &'static Mutex<Sets>,
    id: i64,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut sets = lock_of(self.sets);
        if let Some(set) = sets.sets.iter_mut().find(|set| set.id == self.id) {
            set.copies -= 1;
            if set.copies == 0 {
                sets.clean(Some(self.id));
            }
        }
    }
}

/// Opens what a file's name stands for, if that is a set's.
///
/// # Errors
/// EINVAL if behind `/dev/fdset/` there is no number, ENOENT if there is no such set, EACCES if none
/// of its descriptors has the access mode of `flags`; else what the system says.
pub(crate) fn open(name: &[u8], flags: OFlags) -> Option<io::Result<(OwnedFd, Lease)>> {
    open_of(&SETS, name, flags)
}

fn open_of(
    sets: &'static Mutex<Sets>,
    name: &[u8],
    flags: OFlags,
) -> Option<io::Result<(OwnedFd, Lease)>> {
    let id = name.strip_prefix(b"/dev/fdset/")?;
    let id = std::str::from_utf8(id).ok();
    let id = id
        .and_then(|id| id.parse::<i32>().ok())
        .filter(|id| *id >= 0);
    Some(match id {
        Some(id) => {
            let id = id.into();
            let opened = lock_of(sets).open(id, flags);
            opened.map(|fd| (fd, Lease { sets, id }))
        }
        None => Err(Errno::INVAL.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Seek, Write};

    /// A table of its own, with a client and a VM that runs or not.
    fn table(running: bool) -> &'static Mutex<Sets> {
        let sets: &'static _ = Box::leak(Box::new(Mutex::new(Sets::NONE)));
        lock_of(sets).set_running(running);
        lock_of(sets).client_came();
        sets
    }

    fn pipe() -> (OwnedFd, OwnedFd) {
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
    }

    /// Whether the writing end is closed everywhere.
    fn closed(reader: &OwnedFd) -> bool {
        rustix::io::ioctl_fionbio(reader, true).unwrap();
        rustix::io::read(reader, &mut [0]) == Ok(0)
    }

    fn listed(sets: &'static Mutex<Sets>) -> Vec<(i64, usize)> {
        let sets = lock_of(sets);
        sets.iter()
            .map(|set| (set.id(), set.descriptors().len()))
            .collect()
    }

    /// An empty file without a name, for reading and writing.
    fn nameless() -> File {
        rustix::fs::memfd_create("sets", rustix::fs::MemfdFlags::CLOEXEC)
            .unwrap()
            .into()
    }

    #[test]
    fn sets_are_numbered_and_sorted() {
        let sets = table(true);
        let add = |id, opaque| lock_of(sets).add(id, nameless().into(), opaque);
        assert_eq!(add(None, None).unwrap().0, 0);
        assert_eq!(add(None, None).unwrap().0, 1);
        assert_eq!(add(Some(5), None).unwrap().0, 5);
        assert_eq!(add(Some(1), Some(b"text")).unwrap().0, 1);
        assert_eq!(add(None, None).unwrap().0, 2);
        assert_eq!(add(Some(-1), None), Err(AddError::Id));
        assert_eq!(add(None, Some(&[0; OPAQUE_MAX + 1])), Err(AddError::Opaque));
        assert_eq!(listed(sets), [(5, 1), (2, 1), (1, 2), (0, 1)]);
        let opaques: Vec<_> = lock_of(sets)
            .iter()
            .flat_map(|set| set.descriptors().iter().map(|d| d.opaque().map(Vec::from)))
            .collect();
        assert_eq!(opaques[3].as_deref(), Some(&b"text"[..]));
        assert_eq!(opaques.iter().flatten().count(), 1);
        for _ in 5..DESCRIPTORS_MAX {
            add(Some(9), None).unwrap();
        }
        let (reader, writer) = pipe();
        assert_eq!(lock_of(sets).add(None, writer, None), Err(AddError::Count));
        assert!(closed(&reader));
    }

    #[test]
    fn what_is_removed_from_a_running_vm_is_closed() {
        let sets = table(true);
        let (reader, writer) = pipe();
        let (_, number) = lock_of(sets).add(Some(3), writer, None).unwrap();
        lock_of(sets).add(Some(3), nameless().into(), None).unwrap();
        let remove = |id, number| lock_of(sets).remove(id, number);
        assert_eq!(remove(4, None), Err(NotFound));
        assert_eq!(remove(3, Some(i64::from(number) + 5000)), Err(NotFound));
        assert_eq!(remove(3, Some(1 << 32 | i64::from(number))), Err(NotFound));
        assert!(!closed(&reader));
        assert_eq!(remove(3, Some(number.into())), Ok(()));
        assert!(closed(&reader));
        assert_eq!(listed(sets), [(3, 1)]);
        assert_eq!(remove(3, None), Ok(()));
        assert_eq!(listed(sets), []);
    }

    #[test]
    fn what_is_removed_from_a_vm_that_stands_still_waits() {
        let sets = table(false);
        let (reader, writer) = pipe();
        lock_of(sets).add(Some(3), writer, None).unwrap();
        lock_of(sets).remove(3, None).unwrap();
        lock_of(sets).client_left();
        assert_eq!(listed(sets), [(3, 1)]);
        lock_of(sets).set_running(true);
        assert!(!closed(&reader));
        lock_of(sets).remove(3, None).unwrap();
        assert_eq!(listed(sets), []);
        assert!(closed(&reader));
    }

    #[test]
    fn the_last_client_takes_unused_descriptors_along() {
        let sets = table(true);
        lock_of(sets).client_came();
        let (reader, writer) = pipe();
        lock_of(sets).add(Some(1), writer, None).unwrap();
        lock_of(sets).add(Some(2), nameless().into(), None).unwrap();
        let used = open_of(sets, b"/dev/fdset/2", OFlags::RDWR)
            .unwrap()
            .unwrap();
        lock_of(sets).client_left();
        assert_eq!(listed(sets), [(2, 1), (1, 1)]);
        lock_of(sets).client_left();
        assert_eq!(listed(sets), [(2, 1)]);
        assert!(closed(&reader));
        drop(used);
        assert_eq!(listed(sets), []);
    }

    #[test]
    fn a_set_lives_while_copies_are_used() {
        let sets = table(true);
        let (reader, writer) = pipe();
        lock_of(sets).add(Some(7), writer, None).unwrap();
        let name = b"/dev/fdset/7";
        let one = open_of(sets, name, OFlags::WRONLY).unwrap().unwrap();
        let two = open_of(sets, name, OFlags::WRONLY | OFlags::TRUNC)
            .unwrap()
            .unwrap();
        lock_of(sets).remove(7, None).unwrap();
        assert_eq!(listed(sets), [(7, 0)]);
        let gone = open_of(sets, name, OFlags::WRONLY).unwrap().unwrap_err();
        assert_eq!(gone.raw_os_error(), Some(libc::EACCES));
        rustix::io::write(&one.0, b"x").unwrap();
        drop(one);
        assert_eq!(listed(sets), [(7, 0)]);
        drop(two);
        assert_eq!(listed(sets), []);
        assert_eq!(rustix::io::read(&reader, &mut [0; 2]), Ok(1));
        assert!(closed(&reader));
    }

    #[test]
    fn the_access_mode_chooses_the_descriptor() {
        let sets = table(true);
        let add = |fd: OwnedFd| lock_of(sets).add(Some(0), fd, None).unwrap();
        let error = |name: &[u8], flags| {
            let error = open_of(sets, name, flags).unwrap().unwrap_err();
            error.raw_os_error().unwrap()
        };
        let name = b"/dev/fdset/0";
        assert_eq!(error(name, OFlags::RDONLY), libc::ENOENT);
        for bad in [
            &b"/dev/fdset/"[..],
            b"/dev/fdset/x",
            b"/dev/fdset/-1",
            b"/dev/fdset/0/",
        ] {
            assert_eq!(error(bad, OFlags::RDONLY), libc::EINVAL);
        }
        assert!(open_of(sets, b"/dev/fdset", OFlags::RDONLY).is_none());
        let mut file = nameless();
        file.write_all(b"content").unwrap();
        add(file.try_clone().unwrap().into());
        assert_eq!(error(name, OFlags::RDONLY), libc::EACCES);
        assert_eq!(error(name, OFlags::WRONLY), libc::EACCES);
        let (mut copy, keep) = open_of(sets, name, OFlags::RDWR)
            .unwrap()
            .map(|(fd, keep)| (File::from(fd), keep))
            .unwrap();
        // It shares the position.
        assert_eq!(copy.stream_position().unwrap(), 7);
        copy.rewind().unwrap();
        let mut text = String::new();
        copy.read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        drop(keep);
        let directory = File::open("/").unwrap();
        add(directory.into());
        assert!(open_of(sets, name, OFlags::RDONLY).unwrap().is_ok());
        // A descriptor that is only a place counts as one for reading, and can't be read.
        let place = rustix::fs::open("/", OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
        lock_of(sets).add(Some(1), place, None).unwrap();
        assert_eq!(error(b"/dev/fdset/1", OFlags::RDONLY), libc::EBADF);
    }

    #[test]
    fn flags_do_to_a_copy_what_they_do_to_a_file() {
        let sets = table(true);
        let mut file = nameless();
        file.write_all(b"content").unwrap();
        lock_of(sets)
            .add(Some(0), file.try_clone().unwrap().into(), None)
            .unwrap();
        let open = |flags| open_of(sets, b"/dev/fdset/0", OFlags::RDWR | flags).unwrap();
        let (copy, _keep) = open(OFlags::APPEND | OFlags::CREATE).unwrap();
        file.rewind().unwrap();
        rustix::io::write(&copy, b"!").unwrap();
        assert_eq!(file.metadata().unwrap().len(), 8);
        let (copy, _keep) = open(OFlags::TRUNC | OFlags::CREATE).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 0);
        rustix::io::write(&copy, b"new").unwrap();
        assert_eq!(file.metadata().unwrap().len(), 3);
    }
}
