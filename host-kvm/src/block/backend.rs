//! Drives: what a device has of the block layer, whatever medium is in it.
//!
//! A [`Backend`] counts requests, slows them down, and says what happens about those that fail.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use rustix::io::Errno;
use thimble_core::devices::block::{DriveId, Failure, Medium, Operation, Segment};
use thimble_monitor::schema::{BlockDeviceIoStatus, BlockErrorAction};

use super::buffer::{Buffer, Gate};
use super::executor::Changed;
use super::node::{Child, Need, Permissions, Settings};
use super::throttle::Group;

/// Kinds of requests, by which they are counted.
pub const READ: usize = 0;
/// Writes, zeros among them.
pub const WRITE: usize = 1;
/// Flushes.
pub const FLUSH: usize = 2;
/// Discards.
pub const UNMAP: usize = 3;

/// What is to happen about failed requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// The guest is told.
    Report,
    /// They count as done.
    Ignore,
    /// The machine stops if there is no space; else the guest is told.
    Enospc,
    /// The machine stops.
    Stop,
    /// As `report` for reads, as `enospc` for writes.
    #[default]
    Auto,
}

impl OnError {
    /// That of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "report" => Self::Report,
            "ignore" => Self::Ignore,
            "enospc" => Self::Enospc,
            "stop" => Self::Stop,
            "auto" => Self::Auto,
            _ => return None,
        })
    }
}

/// What has been done of a kind.
#[derive(Clone, Debug, Default)]
pub struct Count {
    /// Bytes.
    pub bytes: u64,
    /// Requests.
    pub operations: u64,
    /// Nanoseconds in all.
    pub time: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests that made no sense.
    pub invalid: u64,
    /// How long they took, if that is counted: the inner borders of intervals, and the requests in each.
    pub histogram: Option<(Vec<u64>, Vec<u64>)>,
}

impl Count {
    fn done(&mut self, time: u64) {
        self.time += time;
        if let Some((borders, bins)) = &mut self.histogram {
            let bin = borders.partition_point(|border| *border <= time);
            if let Some(bin) = bins.get_mut(bin) {
                *bin += 1;
            }
        }
    }
}

/// What a drive has done.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    /// By kind.
    pub counts: [Count; 4],
    /// When the last request ended, in nanoseconds.
    pub last: Option<u64>,
}

/// Whose drive it is.
#[derive(Clone, Debug)]
pub struct Device {
    /// The controller's name for it.
    pub drive: DriveId,
    /// The device's path in the object tree.
    pub path: String,
    /// Its id, or its path where it has none: what clients are told.
    pub shown: String,
    /// Whether media can be changed.
    pub removable: bool,
    /// Whether it has a tray.
    pub has_tray: bool,
    /// What it needs of a medium that takes writes.
    pub need: Need,
    /// Whether it may be used without a medium that takes writes.
    pub read_only: bool,
    /// The id of the thread that serves it.
    pub thread: Option<String>,
}

impl Device {
    /// Another path. It is told to clients where they are told a path.
    pub fn set_path(&mut self, path: &str) {
        if self.shown == self.path {
            path.clone_into(&mut self.shown);
        }
        path.clone_into(&mut self.path);
    }
}

/// Where the bytes of a request are.
#[derive(Clone, Debug)]
pub enum Place {
    /// There are none.
    None,
    /// In guest memory.
    Guest(Vec<Segment>),
    /// The controller has handed them out.
    Bytes(Vec<u8>),
    /// The controller wants them at the end.
    Wanted,
}

/// A request of a controller.
#[derive(Clone, Debug)]
pub struct Queued {
    /// Whose it is.
    pub drive: DriveId,
    /// The controller's name for it.
    pub tag: u32,
    /// What is to be done.
    pub operation: Operation,
    /// The first byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Where they are.
    pub place: Place,
    /// Closed when nobody wants it any more.
    pub gate: Arc<Gate>,
}

impl Queued {
    /// Its kind, by which it is counted.
    pub fn kind(&self) -> usize {
        match self.operation {
            Operation::Read => READ,
            Operation::Write { .. } | Operation::WriteZeroes { .. } => WRITE,
            Operation::Flush => FLUSH,
            Operation::Discard => UNMAP,
        }
    }
}

/// What a request that failed comes to.
pub fn failure(error: Errno) -> Failure {
    match error {
        Errno::NOSPC => Failure::NoSpace,
        Errno::INVAL => Failure::Range,
        Errno::NOMEDIUM => Failure::NoMedium,
        Errno::PERM | Errno::ROFS => Failure::ReadOnly,
        Errno::FAULT => Failure::Memory,
        Errno::OPNOTSUPP => Failure::Unsupported,
        _ => Failure::Io,
    }
}

/// A drive.
pub struct Backend {
    /// Its name; empty for one that came with its device.
    name: String,
    /// A command has taken it away, though its device is still there: it has no name any more.
    pub gone: Cell<bool>,
    /// Its device.
    pub device: RefCell<Option<Device>>,
    /// The medium.
    pub root: RefCell<Option<Child>>,
    /// What the medium that was in it last had to do.
    pub last: Cell<Settings>,
    /// What happens about failed reads.
    pub on_read_error: Cell<OnError>,
    /// What happens about failed writes.
    pub on_write_error: Cell<OnError>,
    /// How requests fare.
    pub status: Cell<BlockDeviceIoStatus>,
    /// Whether that is of interest to its device.
    pub has_status: Cell<bool>,
    /// Whether writes end before they are on stable storage.
    pub write_cache: Cell<bool>,
    /// What it has done.
    pub statistics: RefCell<Statistics>,
    /// Its limits.
    pub group: RefCell<Option<Rc<Group>>>,
    /// Requests under way.
    pub busy: Cell<usize>,
    /// How many want no requests to begin.
    pub held: Cell<usize>,
    /// One of these two has changed.
    pub changed: Changed,
    /// Requests that have failed, to be tried again.
    pub failed: RefCell<Vec<Queued>>,
}

impl Backend {
    /// A drive without a medium.
    pub fn new(name: &str) -> Rc<Self> {
        Rc::new(Self {
            name: name.to_owned(),
            gone: Cell::new(false),
            device: RefCell::default(),
            root: RefCell::default(),
            last: Cell::new(Settings::PLAIN),
            on_read_error: Cell::new(OnError::Auto),
            on_write_error: Cell::new(OnError::Auto),
            status: Cell::new(BlockDeviceIoStatus::Ok),
            has_status: Cell::new(false),
            write_cache: Cell::new(true),
            statistics: RefCell::default(),
            group: RefCell::default(),
            busy: Cell::new(0),
            held: Cell::new(0),
            changed: Changed::default(),
            failed: RefCell::default(),
        })
    }

    /// Whether it is told how requests fare: some errors stop the machine.
    pub fn has_status(&self) -> bool {
        let stops = |policy: OnError| matches!(policy, OnError::Stop | OnError::Enospc);
        let write = self.on_write_error.get();
        let stops = stops(write) || write == OnError::Auto || stops(self.on_read_error.get());
        self.has_status.get() && stops
    }

    /// Its name.
    pub fn name(&self) -> &str {
        match self.gone.get() {
            true => "",
            false => &self.name,
        }
    }

    /// Who it is in error messages.
    pub fn described(&self) -> String {
        let device = self.device.borrow();
        match device.as_ref() {
            _ if !self.name.is_empty() => format!("block device '{}'", self.name),
            Some(device) => format!("block device '{}'", device.shown),
            None => "an unnamed block device".to_owned(),
        }
    }

    /// Tells those who hold requests back that somebody waits for all of them, or no more.
    pub fn hurry(&self, on: bool) {
        if let Some(group) = self.group.borrow().as_ref() {
            group.stir();
        }
        if let Some(root) = self.root.borrow().as_ref() {
            root.node().hurry(on);
        }
    }

    /// What it needs of a medium.
    pub fn need(&self, read_only: bool) -> Need {
        match self.device.borrow().as_ref() {
            Some(device) => {
                let mut need = device.need;
                if read_only {
                    need.uses -= Permissions::WRITE;
                }
                need
            }
            // Nobody reads or writes it.
            None => Need::NONE,
        }
    }

    /// The medium, as its controller sees it.
    pub fn medium(&self) -> Option<Medium> {
        let root = self.root.borrow();
        let root = root.as_ref()?;
        let node = root.node();
        let (wanted, allowed) = (self.need(false).uses, root.need().uses);
        Some(Medium {
            bytes: node.length(),
            // It may have taken the place of one that took no writes.
            read_only: node.settings().read_only || (wanted - allowed).contains(Permissions::WRITE),
            write_cache: self.write_cache.get(),
        })
    }

    /// What the medium has to do, or what the last one had where there is none.
    pub fn settings(&self) -> Settings {
        let root = self.root.borrow();
        root.as_ref()
            .map_or(self.last.get(), |root| root.node().settings())
    }

    /// What happens about a failed request.
    pub fn action(&self, read: bool, error: Errno) -> BlockErrorAction {
        let policy = match read {
            true => self.on_read_error.get(),
            false => self.on_write_error.get(),
        };
        let policy = match (policy, read) {
            (OnError::Auto, true) => OnError::Report,
            (OnError::Auto, false) => OnError::Enospc,
            (policy, _) => policy,
        };
        match policy {
            OnError::Stop => BlockErrorAction::Stop,
            OnError::Enospc if error == Errno::NOSPC => BlockErrorAction::Stop,
            OnError::Ignore => BlockErrorAction::Ignore,
            _ => BlockErrorAction::Report,
        }
    }

    /// Does a request. What was to be read for the controller's own buffer is in the result.
    pub async fn perform(&self, queued: &Queued, memory: Option<Buffer>) -> Result<Buffer, Errno> {
        let group = self.group.borrow().clone();
        let Queued {
            operation,
            offset,
            length,
            ..
        } = *queued;
        if let Some(group) = group
            && operation != Operation::Flush
        {
            let write = operation != Operation::Read;
            group.admit(write, length, &|| self.held.get() > 0).await;
        }
        let node = match self.root.borrow().as_ref() {
            Some(root) => root.node(),
            None => return Err(Errno::NOMEDIUM),
        };
        let memory = memory.unwrap_or_else(|| Buffer::new(0));
        match operation {
            Operation::Read => node.read(offset, memory.clone()).await?,
            Operation::Write { force_unit_access } => {
                node.write(offset, memory.clone()).await?;
                if force_unit_access || !self.write_cache.get() {
                    node.flush().await?;
                }
            }
            Operation::Flush => node.flush().await?,
            Operation::Discard => node.discard(offset, length).await?,
            Operation::WriteZeroes { may_unmap } => {
                node.write_zeroes(offset, length, may_unmap).await?;
                if !self.write_cache.get() {
                    node.flush().await?;
                }
            }
        }
        Ok(memory)
    }

    /// Counts a request that has ended.
    pub fn count(&self, queued: &Queued, began: u64, now: u64, result: Result<(), Errno>) {
        let mut statistics = self.statistics.borrow_mut();
        let count = &mut statistics.counts[queued.kind()];
        match result {
            Ok(()) => {
                count.operations += 1;
                if queued.kind() != FLUSH {
                    count.bytes += queued.length;
                }
                count.done(now.saturating_sub(began));
            }
            Err(Errno::INVAL | Errno::NOMEDIUM) => count.invalid += 1,
            Err(_) => {
                count.failed += 1;
                count.done(now.saturating_sub(began));
            }
        }
        statistics.last = Some(now);
    }
}
