//! The block layer: images, what is stacked on them, and the drives that devices see.
//!
//! Three kinds of things make a graph. A [`Node`] is an image, or a filter on one; its driver reads and
//! writes by what is below it, at last by files. A [`Backend`] is a drive: a device's side of a node, with
//! its medium, statistics and error policy. A [`Child`] is a use of a node by another, by a drive or by whatever comes
//! later, with the permissions that go with it.
//!
//! Requests are futures, driven by one [`Executor`]: on the main thread, or, while that sleeps, on a thread that serves a
//! disk ([`turn`]). Files are read and written by the kernel on its own or by threads ([`engines`]), straight from and to guest memory. So nothing waits
//! for a disk: neither processors nor the main loop, but for commands that have to (a resize, a drain). All state is of one
//! thread at a time and needs no locks. In tests time and storage are handed in, and a run is the same each time.
//!
//! What is to come sits on the same three things. A format (qcow2) is a driver whose children are `file` and `backing`: its
//! `read` cuts the buffer by clusters and awaits the parts; metadata that must not change meanwhile is guarded by ranges
//! that a request waits for. A job (mirror, commit, backup) is a task of the executor that holds a `Child` of each of its
//! nodes with the permissions it needs; it pauses where [`Graph::drain`] waits for drives. A dirty bitmap is a field of the node,
//! marked where [`Node::write`] notes what was written highest. An export is a parent like a drive.

pub mod backend;
pub mod blkdebug;
pub mod buffer;
pub mod engines;
pub mod executor;
pub mod file;
pub mod filters;
pub mod handle;
mod info;
mod locks;
pub mod native;
pub mod node;
pub mod null;
mod open;
pub mod overlay;
pub mod raw;
mod rules;
pub mod storage_commands;
pub mod throttle;
pub mod transfer;
pub mod turn;
pub mod uring;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use rustix::io::Errno;
use thimble_core::devices::block::{DriveId, Medium, Outcome, SECTOR};
use thimble_core::memory::GuestRam;
use thimble_monitor::Event;
use thimble_monitor::schema::{BlockDeviceIoStatus, BlockErrorAction, EventText, IoOperationType};

use crate::clock::monotonic;
use backend::{Backend, Device, Place, Queued};
use buffer::Buffer;
use engines::Engines;
use executor::Executor;
use node::{Child, Node, Permissions, Refusal};
use storage_commands::Target;
use throttle::Group;

pub use info::{DriveInfo, NodeInfo, StatsInfo};
pub use open::{DriveOptions, Inherited};

/// Bytes of a request at most.
pub const REQUEST_MAX: u64 = 1 << 30;

/// Nodes at most.
pub const NODES_MAX: usize = 4096;

/// Bytes of a node's name at most.
pub const NODE_NAME_MAX: usize = 31;

/// A request that has ended.
pub struct Ended {
    /// What was asked for.
    pub request: Queued,
    /// What it came to.
    pub outcome: Outcome,
    /// What was read for the controller's own buffer.
    pub bytes: Vec<u8>,
}

/// All images and drives of a machine.
pub struct Graph {
    /// What drives requests.
    pub executor: Rc<Executor>,
    engines: Engines,
    ram: Cell<Option<&'static dyn GuestRam>>,
    /// All nodes, the oldest first, as long as they live.
    nodes: RefCell<Vec<Weak<Node>>>,
    /// Nodes that users have made, who alone may end them.
    owned: RefCell<Vec<Rc<Node>>>,
    drives: RefCell<Vec<Rc<Backend>>>,
    groups: RefCell<Vec<Rc<Group>>>,
    ended: RefCell<VecDeque<Ended>>,
    events: RefCell<VecDeque<Event>>,
    /// A failed request is to stop the machine.
    stop: Cell<bool>,
    last_name: Cell<u64>,
    /// Requests of commands that are under way.
    outside: Cell<usize>,
    outside_changed: executor::Changed,
}

impl Graph {
    /// An empty graph.
    pub fn new(executor: Rc<Executor>) -> Rc<Self> {
        Rc::new(Self {
            executor,
            engines: Engines::default(),
            ram: Cell::new(None),
            nodes: RefCell::default(),
            owned: RefCell::default(),
            drives: RefCell::default(),
            groups: RefCell::default(),
            ended: RefCell::default(),
            events: RefCell::default(),
            stop: Cell::new(false),
            last_name: Cell::new(0),
            outside: Cell::new(0),
            outside_changed: executor::Changed::default(),
        })
    }

    /// The guest memory that requests name.
    pub fn set_ram(&self, ram: &'static dyn GuestRam) {
        self.ram.set(Some(ram));
    }

    /// All nodes, the oldest first.
    pub fn nodes(&self) -> Vec<Rc<Node>> {
        let mut nodes = self.nodes.borrow_mut();
        nodes.retain(|node| node.strong_count() > 0);
        nodes.iter().filter_map(Weak::upgrade).collect()
    }

    /// The node of a name.
    pub fn node(&self, name: &str) -> Option<Rc<Node>> {
        self.nodes().into_iter().find(|node| node.name() == name)
    }

    /// The node of a name that has to be there.
    ///
    /// # Errors
    /// In QEMU's words.
    pub fn known_node(&self, name: &str) -> Result<Rc<Node>, Refusal> {
        self.node(name)
            .ok_or_else(|| format!("Cannot find device='' nor node-name='{name}'"))
    }

    /// All drives.
    pub fn drives(&self) -> Vec<Rc<Backend>> {
        self.drives.borrow().clone()
    }

    /// The drive of a name.
    pub fn drive(&self, name: &str) -> Option<Rc<Backend>> {
        let drives = self.drives.borrow();
        let found = drives.iter().find(|drive| drive.name() == name);
        found.filter(|_| !name.is_empty()).cloned()
    }

    /// The drive that a device has, by its id or its path.
    pub fn drive_of(&self, device: &str) -> Option<Rc<Backend>> {
        let is_it = |drive: &&Rc<Backend>| {
            let of = drive.device.borrow();
            of.as_ref()
                .is_some_and(|of| of.shown == device || of.path == device)
        };
        self.drives.borrow().iter().find(is_it).cloned()
    }

    /// The drive that a controller knows by this number.
    pub fn drive_by_id(&self, id: DriveId) -> Option<Rc<Backend>> {
        let is_it = |drive: &&Rc<Backend>| {
            let of = drive.device.borrow();
            of.as_ref().is_some_and(|of| of.drive == id)
        };
        self.drives.borrow().iter().find(is_it).cloned()
    }

    /// The drive with a name that has this node in it.
    fn drive_with(&self, node: &Rc<Node>) -> Option<Rc<Backend>> {
        let is_it = |drive: &&Rc<Backend>| {
            let root = drive.root.borrow();
            let is_in = root
                .as_ref()
                .is_some_and(|root| Rc::ptr_eq(&root.node(), node));
            is_in && !drive.name().is_empty()
        };
        self.drives.borrow().iter().find(is_it).cloned()
    }

    /// The group of a name.
    pub fn group(&self, name: &str) -> Option<Rc<Group>> {
        let groups = self.groups.borrow();
        groups.iter().find(|group| group.name() == name).cloned()
    }

    /// The group of a name, which is made if there is none.
    pub fn group_or_new(&self, name: &str) -> Rc<Group> {
        self.groups
            .borrow_mut()
            .retain(|group| Rc::strong_count(group) > 1);
        self.group(name).unwrap_or_else(|| {
            let limits = throttle::Limits::default();
            let group = Group::new(name, limits, self.executor.clone());
            self.groups.borrow_mut().push(group.clone());
            group
        })
    }

    /// Ends the life of a node that a user has made.
    ///
    /// # Errors
    /// If somebody uses it, in QEMU's words.
    pub fn remove(&self, name: &str) -> Result<(), Refusal> {
        let node = self
            .node(name)
            .ok_or_else(|| format!("Failed to find node with node-name='{name}'"))?;
        let users = node.users();
        if users.iter().any(|(_, role)| *role == "root") {
            return Err(format!("Node {name} is in use"));
        }
        let mut owned = self.owned.borrow_mut();
        let at = owned.iter().position(|other| Rc::ptr_eq(other, &node));
        match at {
            None => Err(format!("Node {name} is not owned by the monitor")),
            Some(_) if !users.is_empty() => Err(format!("Block device {name} is in use")),
            Some(at) => {
                owned.remove(at);
                drop(owned);
                self.wait(node.flush()).ok();
                Ok(())
            }
        }
    }

    /// Adds a drive.
    pub fn add_drive(&self, drive: Rc<Backend>) {
        self.drives.borrow_mut().push(drive);
    }

    /// Takes a drive away, and its medium. A device that has it keeps it, without a name and a medium.
    pub fn remove_drive(&self, drive: &Backend) {
        self.take_out(drive);
        drive.group.replace(None);
        if drive.device.borrow().is_some() {
            drive.gone.set(true);
            drive.on_read_error.set(backend::OnError::Report);
            drive.on_write_error.set(backend::OnError::Report);
            return;
        }
        let is_it = |other: &Rc<Backend>| std::ptr::eq(&**other, drive);
        self.drives.borrow_mut().retain(|other| !is_it(other));
    }

    /// Puts a node into a drive.
    ///
    /// # Errors
    /// If the node can't be used so.
    pub fn insert(&self, drive: &Backend, node: &Rc<Node>) -> Result<(), Refusal> {
        let read_only = node.settings().read_only;
        let child = Child::new(node, drive.described(), "root", drive.need(read_only))?;
        drive.root.replace(Some(child));
        Ok(())
    }

    /// Takes the medium out of a drive, once its requests have ended.
    pub fn take_out(&self, drive: &Backend) {
        self.hold(drive);
        let root = drive.root.take();
        if let Some(root) = root {
            drive.last.set(root.node().settings());
            self.wait(root.node().flush()).ok();
        }
        self.release(drive);
    }

    /// Puts a node in place of the one that is in a drive, which is used as that one was.
    ///
    /// # Errors
    /// If there is none, or the node can't be used so.
    pub fn replace(&self, drive: &Backend, node: &Rc<Node>) -> Result<(), Refusal> {
        let root = drive.root.borrow();
        let root = root.as_ref().ok_or("Device has no medium")?;
        if Rc::ptr_eq(&root.node(), node) {
            return Ok(());
        }
        if root.need().uses.contains(Permissions::WRITE) && node.settings().read_only {
            return Err("Block node is read-only".to_owned());
        }
        self.hold(drive);
        // The next flush is for the new one.
        self.wait(root.node().flush()).ok();
        let old = root.replace(node);
        // To need less is never refused, and both may be on the same file.
        let _ = old.refresh();
        let replaced = node.refresh();
        if replaced.is_err() {
            root.replace(&old);
            // So it was before.
            let _ = node.refresh().and(old.refresh());
        }
        self.release(drive);
        replaced
    }

    /// Gives a drive to a device. The medium, if there is one, is used as the device needs it from now on.
    ///
    /// # Errors
    /// If it can't be used so.
    pub fn attach(&self, drive: &Backend, device: Device) -> Result<(), Refusal> {
        drive.has_status.set(true);
        drive.device.replace(Some(device));
        let root = drive.root.borrow();
        if let Some(root) = root.as_ref() {
            root.set_parent(drive.described());
            root.set_need(drive.need(root.node().settings().read_only))?;
        }
        Ok(())
    }

    /// The medium in a drive.
    pub fn medium(&self, id: DriveId) -> Option<Medium> {
        self.drive_by_id(id)?.medium()
    }

    /// Takes requests of controllers.
    pub fn submit(self: &Rc<Self>, requests: impl IntoIterator<Item = Queued>) {
        for request in requests {
            match self.drive_by_id(request.drive) {
                Some(drive) => {
                    let graph = self.clone();
                    self.executor.spawn(graph.serve(drive, request));
                }
                None => self.end(request, Err(Errno::NOMEDIUM), Vec::new()),
            }
        }
    }

    fn end(&self, request: Queued, result: Result<(), Errno>, bytes: Vec<u8>) {
        let outcome = result.map_err(backend::failure);
        self.ended.borrow_mut().push_back(Ended {
            request,
            outcome,
            bytes,
        });
    }

    /// A request, from its beginning to its end.
    async fn serve(self: Rc<Self>, drive: Rc<Backend>, request: Queued) {
        drive.changed.until(|| drive.held.get() == 0).await;
        if request.gate.is_closed() {
            return;
        }
        let memory = match &request.place {
            Place::None => None,
            Place::Guest(segments) => match self.ram.get() {
                Some(ram) => match Buffer::guest(ram, segments, request.gate.clone()) {
                    Some(memory) => Some(memory),
                    None => return self.end(request, Err(Errno::FAULT), Vec::new()),
                },
                None => return self.end(request, Err(Errno::FAULT), Vec::new()),
            },
            Place::Bytes(bytes) => Some(Buffer::of(bytes)),
            Place::Wanted if request.length <= REQUEST_MAX => {
                Some(Buffer::new(request.length as usize))
            }
            Place::Wanted => return self.end(request, Err(Errno::INVAL), Vec::new()),
        };
        let began = monotonic();
        drive.busy.set(drive.busy.get() + 1);
        let result = match fits(&drive, &request, memory.as_ref()) {
            Ok(()) => drive.perform(&request, memory).await,
            Err(error) => Err(error),
        };
        drive.busy.set(drive.busy.get() - 1);
        drive.changed.tell();
        if let (Place::Guest(segments), Some(ram)) = (&request.place, self.ram.get())
            && request.operation == thimble_core::devices::block::Operation::Read
        {
            for segment in segments {
                ram.written(segment.gpa, segment.length as usize);
            }
        }
        let status = result.as_ref().map(drop).map_err(|error| *error);
        let read = request.kind() == backend::READ;
        let counted = match status {
            Ok(()) | Err(Errno::INVAL | Errno::NOMEDIUM) => Some(status),
            Err(error) => match drive.action(read, error) {
                BlockErrorAction::Report => Some(status),
                BlockErrorAction::Ignore => Some(Ok(())),
                // It is tried again, and counted then.
                BlockErrorAction::Stop => None,
            },
        };
        if let Some(status) = counted {
            drive.count(&request, began, monotonic(), status);
        }
        self.tell_threshold(&drive);
        match result {
            Ok(memory) => {
                let bytes = match request.place {
                    Place::Wanted => memory.to_vec(),
                    _ => Vec::new(),
                };
                self.end(request, Ok(()), bytes);
            }
            Err(_) if request.gate.is_closed() => {}
            Err(error @ (Errno::INVAL | Errno::NOMEDIUM)) => {
                self.end(request, Err(error), Vec::new());
            }
            Err(error) => self.failed(&drive, request, error),
        }
    }

    /// Does what the drive's policy says about a request that has failed.
    fn failed(&self, drive: &Backend, request: Queued, error: Errno) {
        let read = request.kind() == backend::READ;
        let action = drive.action(read, error);
        let name = |text: &str| EventText::try_from(text).unwrap_or_default();
        let node = drive.root.borrow();
        let node = node.as_ref().map(|root| name(root.node().name()));
        self.events.borrow_mut().push_back(Event::BlockIoError {
            device: name(drive.name()),
            node_name: node,
            operation: match read {
                true => IoOperationType::Read,
                false => IoOperationType::Write,
            },
            action,
            nospace: drive.has_status().then_some(error == Errno::NOSPC),
            reason: name(&file::errno_text(error)),
        });
        match action {
            BlockErrorAction::Ignore => {
                let bytes = match request.place {
                    Place::Wanted => vec![0; request.length as usize],
                    _ => Vec::new(),
                };
                self.end(request, Ok(()), bytes);
            }
            BlockErrorAction::Report => self.end(request, Err(error), Vec::new()),
            BlockErrorAction::Stop => {
                if drive.has_status() && drive.status.get() == BlockDeviceIoStatus::Ok {
                    drive.status.set(match error {
                        Errno::NOSPC => BlockDeviceIoStatus::Nospace,
                        _ => BlockDeviceIoStatus::Failed,
                    });
                }
                drive.failed.borrow_mut().push(request);
                self.stop.set(true);
            }
        }
    }

    fn tell_threshold(&self, drive: &Backend) {
        let root = drive.root.borrow();
        let mut below: Vec<Rc<Node>> = root.iter().map(|root| root.node()).collect();
        while let Some(node) = below.pop() {
            if let Some((threshold, exceeded)) = node.take_crossed() {
                let name = EventText::try_from(node.name()).unwrap_or_default();
                self.events
                    .borrow_mut()
                    .push_back(Event::BlockWriteThreshold {
                        node_name: name,
                        amount_exceeded: exceeded,
                        write_threshold: threshold,
                    });
            }
            below.extend(node.driver().children().iter().map(|child| child.node()));
        }
    }

    /// Lets tasks go on.
    pub fn run(&self) {
        self.executor.run(monotonic());
    }

    /// The oldest request that has ended since the last call.
    pub fn take_ended(&self) -> Option<Ended> {
        self.ended.borrow_mut().pop_front()
    }

    /// The oldest event since the last call.
    pub fn take_event(&self) -> Option<Event> {
        self.events.borrow_mut().pop_front()
    }

    /// Whether there is an event, or a reason to stop the machine.
    pub fn has_news(&self) -> bool {
        self.stop.get() || !self.events.borrow().is_empty()
    }

    /// Whether a request that has failed since the last call is to stop the machine.
    pub fn take_stop(&self) -> bool {
        self.stop.take()
    }

    /// Tries failed requests again: the machine goes on.
    pub fn resume(self: &Rc<Self>) {
        for drive in self.drives() {
            if !drive.name().is_empty() {
                // QEMU overlooks those without a name.
                drive.status.set(BlockDeviceIoStatus::Ok);
            }
            let failed = drive.failed.take();
            self.submit(failed);
        }
    }

    /// Waits for something that commands can't do without.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.executor.block_on(&monotonic, future)
    }

    /// Lets no request of a drive begin until [`Graph::release`], and waits for those under way.
    pub fn hold(&self, drive: &Backend) {
        drive.held.set(drive.held.get() + 1);
        drive.hurry(true);
        self.wait(drive.changed.until(|| drive.busy.get() == 0));
        drive.hurry(false);
    }

    /// Lets requests begin again.
    pub fn release(&self, drive: &Backend) {
        drive.held.set(drive.held.get().saturating_sub(1));
        drive.changed.tell();
    }

    /// Waits until no request is under way at any drive.
    pub fn settle(&self) {
        self.run();
        for drive in self.drives() {
            self.hold(&drive);
            self.release(&drive);
        }
    }

    /// A request of a command begins.
    fn outside_begins(&self, target: &Target) {
        self.outside.set(self.outside.get() + 1);
        if let Target::Drive(drive) = target {
            drive.busy.set(drive.busy.get() + 1);
        }
    }

    /// A request of a command has ended.
    fn outside_ends(&self, target: Target) {
        self.outside.set(self.outside.get().saturating_sub(1));
        if let Target::Drive(drive) = &target {
            drive.busy.set(drive.busy.get().saturating_sub(1));
            drive.changed.tell();
        }
        drop(target);
        self.outside_changed.tell();
    }

    /// Whether a request of a command is under way.
    fn is_busy(&self) -> bool {
        self.outside.get() > 0
    }

    /// Waits until no request of a command is under way.
    async fn outside_end(&self) {
        self.outside_changed.until(|| self.outside.get() == 0).await;
    }

    /// The same for all drives together, and for what was written to be on stable storage.
    pub fn drain(&self) {
        self.run();
        for drive in self.drives() {
            self.hold(&drive);
        }
        let nodes = self.nodes();
        for node in &nodes {
            node.driver().hurry(true);
        }
        self.wait(self.outside_end());
        for node in nodes {
            node.driver().hurry(false);
            // Whose flush fails has told the guest of it, or will.
            self.wait(node.flush()).ok();
        }
        for drive in self.drives() {
            self.release(&drive);
        }
    }
}

/// Whether a request can be done at all.
fn fits(drive: &Backend, request: &Queued, memory: Option<&Buffer>) -> Result<(), Errno> {
    use thimble_core::devices::block::Operation;
    let Some(medium) = drive.medium() else {
        return Err(Errno::NOMEDIUM);
    };
    if request.operation == Operation::Flush {
        return Ok(());
    }
    let end = request.offset.checked_add(request.length);
    let whole = request.offset.is_multiple_of(SECTOR) && request.length.is_multiple_of(SECTOR);
    if !whole || end.is_none_or(|end| end > medium.bytes) {
        return Err(Errno::INVAL);
    }
    let moves = matches!(request.operation, Operation::Read | Operation::Write { .. });
    if moves && memory.is_none_or(|memory| memory.len() as u64 != request.length) {
        return Err(Errno::INVAL);
    }
    Ok(())
}

#[cfg(test)]
mod file_tests;
#[cfg(test)]
mod tests;
