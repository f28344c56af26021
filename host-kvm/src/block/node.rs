//! Block nodes: what reads and writes, and who may.
//!
//! A [`Node`] is a [`Driver`] with a name, settings, and parents. A parent holds a [`Child`], which names what it needs of the
//! node (its permissions) and what it lets others do meanwhile. A change that two parents do not agree about is refused
//! before it is made.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bitflags::bitflags;
use rustix::io::Errno;
use thimble_monitor::schema::{BlkdebugEvent, BlockdevAioOptions, BlockdevDetectZeroesOptions};

use super::buffer::Buffer;
use super::executor::{Boxed, Changed};
use super::throttle::Group;

/// What a request comes to.
pub type Io<'a> = Boxed<'a, Result<(), Errno>>;

/// A sentence that says why something is refused.
pub type Refusal = String;

/// Bytes that are written at once where a driver has no way to write zeros.
const ZEROS: u64 = 1 << 20;

bitflags! {
    /// What is done with a node, or may be. The bits are those of the lock bytes of image files, too.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Permissions: u32 {
        /// To read what was written, and not a state in between.
        const CONSISTENT_READ = 1 << 0;
        /// To write.
        const WRITE = 1 << 1;
        /// To write what is there already.
        const WRITE_UNCHANGED = 1 << 2;
        /// To change the length.
        const RESIZE = 1 << 3;
    }
}

impl Permissions {
    /// QEMU's names, in the order of the bits.
    pub const NAMES: [(Self, &str); 4] = [
        (Self::CONSISTENT_READ, "consistent read"),
        (Self::WRITE, "write"),
        (Self::WRITE_UNCHANGED, "write unchanged"),
        (Self::RESIZE, "resize"),
    ];

    fn text(self) -> String {
        let names = Self::NAMES.iter().filter(|(bit, _)| self.contains(*bit));
        let names: Vec<_> = names.map(|(_, name)| *name).collect();
        names.join(", ")
    }
}

/// What a parent needs, and what it lets others do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Needed.
    pub uses: Permissions,
    /// What others may do.
    pub shares: Permissions,
}

impl Need {
    /// Nothing, and whatever others like.
    pub const NONE: Self = Self {
        uses: Permissions::empty(),
        shares: Permissions::all(),
    };
}

/// What a node is to do beside its driver's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// It takes no writes.
    pub read_only: bool,
    /// It may become read-only where it can't be written, or as long as nobody writes.
    pub auto_read_only: bool,
    /// Others may use the image as they like.
    pub force_share: bool,
    /// What is no longer needed is told to the storage.
    pub discard: bool,
    /// What is done about zeros that are written.
    pub detect_zeroes: BlockdevDetectZeroesOptions,
    /// The host's page cache is not used.
    pub direct: bool,
    /// Nothing is flushed to stable storage.
    pub no_flush: bool,
    /// What is read from an image below is written to this one: so it has to take writes.
    pub copy_on_read: bool,
    /// How files are read and written whose options do not say.
    pub aio: Option<BlockdevAioOptions>,
}

impl Settings {
    /// Those of a node of which nothing is said.
    pub const PLAIN: Self = Self {
        read_only: false,
        auto_read_only: false,
        force_share: false,
        discard: false,
        detect_zeroes: BlockdevDetectZeroesOptions::Off,
        direct: false,
        no_flush: false,
        copy_on_read: false,
        aio: None,
    };
}

/// What options say of [`Settings`]; about the rest a node does as the one that it was made with, or as is usual.
#[derive(Clone, Copy, Debug, Default)]
pub struct GivenSettings {
    /// See [`Settings::read_only`].
    pub read_only: Option<bool>,
    /// See [`Settings::auto_read_only`].
    pub auto_read_only: Option<bool>,
    /// See [`Settings::force_share`].
    pub force_share: Option<bool>,
    /// See [`Settings::discard`].
    pub discard: Option<bool>,
    /// See [`Settings::detect_zeroes`].
    pub detect_zeroes: Option<BlockdevDetectZeroesOptions>,
    /// See [`Settings::direct`].
    pub direct: Option<bool>,
    /// See [`Settings::no_flush`].
    pub no_flush: Option<bool>,
}

impl GivenSettings {
    /// These, and what they do not say as others do.
    pub fn or(self, other: Self) -> Self {
        Self {
            read_only: self.read_only.or(other.read_only),
            auto_read_only: self.auto_read_only.or(other.auto_read_only),
            force_share: self.force_share.or(other.force_share),
            discard: self.discard.or(other.discard),
            detect_zeroes: self.detect_zeroes.or(other.detect_zeroes),
            direct: self.direct.or(other.direct),
            no_flush: self.no_flush.or(other.no_flush),
        }
    }
}

impl From<Settings> for GivenSettings {
    fn from(settings: Settings) -> Self {
        Self {
            read_only: Some(settings.read_only),
            auto_read_only: Some(settings.auto_read_only),
            force_share: Some(settings.force_share),
            discard: Some(settings.discard),
            detect_zeroes: Some(settings.detect_zeroes),
            direct: Some(settings.direct),
            no_flush: Some(settings.no_flush),
        }
    }
}

/// What a node can do about the option of a driver: see [`Driver::describe`].
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// The image's name, where it has one that says all.
    pub filename: Option<String>,
    /// What it is made of, as members of JSON.
    pub options: Vec<(Cow<'static, str>, OptionValue)>,
}

/// A value of [`Description::options`].
#[derive(Clone, Debug)]
pub enum OptionValue {
    /// A text.
    Text(String),
    /// A text that is the image's user's affair, and no part of its name.
    Unnamed(&'static str),
    /// A number.
    Number(u64),
    /// A truth value.
    Bool(bool),
}

impl OptionValue {
    /// The value as a text.
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Unnamed(text) => (*text).to_owned(),
            Self::Number(number) => number.to_string(),
            Self::Bool(on) => on.to_string(),
        }
    }
}

/// What a reopen changes of a driver.
pub enum Change {
    /// The part of a file that the image is.
    Part {
        /// Its first byte.
        offset: u64,
        /// Its bytes; all that follow where there is no number.
        size: Option<u64>,
    },
    /// The limits.
    Limits(Rc<Group>),
}

/// What is to be done about requests that stop at a step of their work. Each is known by a tag.
#[derive(Clone, Copy, Debug)]
pub enum Breakpoint<'b> {
    /// The next that comes to this step stops.
    Set(BlkdebugEvent, &'b str),
    /// None is to stop any more, and those that have stopped go on.
    Remove(&'b str),
    /// One that has stopped goes on.
    Resume(&'b str),
    /// Whether one has stopped.
    HasStopped(&'b str),
}

/// How many discards a file has seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Discards {
    /// They were done.
    pub done: u64,
    /// They were not.
    pub failed: u64,
    /// Bytes of those that were.
    pub bytes: u64,
}

/// What images are read and written by. Requests come one beside the other; each is a future that the driver makes of those of
/// its children.
pub trait Driver {
    /// The name in the schema.
    fn name(&self) -> &'static str;

    /// Bytes.
    fn length(&self) -> u64;

    /// Reads; what lies behind the end reads as zeros.
    fn read<'a>(&'a self, at: u64, to: Buffer) -> Io<'a>;

    /// Writes.
    fn write<'a>(&'a self, at: u64, from: Buffer) -> Io<'a>;

    /// Lets a range read as zeros; `EOPNOTSUPP` where only writing does that.
    fn write_zeroes<'a>(&'a self, at: u64, length: u64, may_unmap: bool) -> Io<'a>;

    /// Gives a range up.
    fn discard<'a>(&'a self, at: u64, length: u64) -> Io<'a>;

    /// Ends when all that was written before is on stable storage, as far as it is not for children to do that.
    fn flush(&self) -> Io<'_> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Changes the length.
    ///
    /// # Errors
    /// In QEMU's words.
    fn resize<'a>(&'a self, length: u64) -> Boxed<'a, Result<(), Refusal>>;

    /// The children, by their roles.
    fn children(&self) -> Vec<&Child> {
        Vec::new()
    }

    /// The children that a flush is for, too.
    fn flushed(&self) -> Vec<&Child> {
        self.children()
    }

    /// What a child is needed for when this node is needed so.
    fn child_need(&self, role: &str, need: Need) -> Need {
        let _ = role;
        need
    }

    /// The node is to be used so from now on: locks are taken, files opened to be written.
    ///
    /// # Errors
    /// In QEMU's words; nothing has changed then.
    fn adapt(&self, need: Need, settings: Settings) -> Result<(), Refusal> {
        let _ = (need, settings);
        Ok(())
    }

    /// Changes what a reopen may change, while no request is under way. Returns what it was.
    ///
    /// # Errors
    /// If it can't be; nothing has changed then.
    fn change(&self, change: Change) -> Result<Change, Refusal> {
        let _ = change;
        Err(format!("{} can't be changed", self.name()))
    }

    /// A parent has come to a step of its work: for those who wait for it. Where there is something to wait for before the next
    /// one, that is returned.
    fn event(&self, event: BlkdebugEvent) -> Option<Boxed<'static, ()>> {
        let _ = event;
        None
    }

    /// Lets requests stop at a step of their work, and go on.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where that is not for this driver, `ENOENT` for what isn't there.
    fn breakpoint(&self, what: Breakpoint<'_>) -> Result<(), Errno> {
        let _ = what;
        Err(Errno::OPNOTSUPP)
    }

    /// Somebody waits for all requests, so that none is to be held back; or that is over.
    fn hurry(&self, on: bool) {
        let _ = on;
    }

    /// Whether what is at an offset is in this image, and not only in one below; and for how many bytes, of so many, that
    /// is so.
    fn status(&self, at: u64, length: u64) -> (bool, u64) {
        let _ = at;
        (true, length)
    }

    /// What the node is called by users.
    fn describe(&self) -> Description;

    /// Bytes of storage that it takes, if that is known.
    fn allocated(&self) -> Option<u64>;

    /// Whether it is an image that could need a repair.
    fn has_dirty_flag(&self) -> bool {
        false
    }

    /// Bytes that are in the image or not together.
    fn cluster_size(&self) -> Option<u64> {
        None
    }

    /// What it has discarded, for files.
    fn discards(&self) -> Option<Discards> {
        None
    }

    /// Whether it stands for its child, wherever what is below is shown.
    fn is_filter(&self) -> bool {
        false
    }
}

/// The future of what a node is asked for, which keeps the node.
macro_rules! of_node {
    ($child:expr, $method:ident($($argument:expr),*)) => {
        Box::pin(async move { $child.node().$method($($argument),*).await })
    };
}
pub(super) use of_node;

/// A use of a node.
struct Edge {
    /// Who uses it, as error messages name it.
    parent: RefCell<String>,
    /// What for: `file`, `root`.
    role: &'static str,
    need: Cell<Need>,
}

/// A node that somebody uses. The use ends with it.
pub struct Child {
    edge: Rc<Edge>,
    node: RefCell<Rc<Node>>,
}

impl Child {
    /// Uses a node.
    ///
    /// # Errors
    /// If somebody else does not allow that, or the node can't be used so; in QEMU's words.
    pub fn new(
        node: &Rc<Node>,
        parent: String,
        role: &'static str,
        need: Need,
    ) -> Result<Self, Refusal> {
        let edge = Rc::new(Edge {
            parent: RefCell::new(parent),
            role,
            need: Cell::new(need),
        });
        node.parents.borrow_mut().push(edge.clone());
        let child = Self {
            edge,
            node: RefCell::new(node.clone()),
        };
        // If it is refused, dropping the use sets everything back.
        node.refresh()?;
        Ok(child)
    }

    /// The node. A request keeps the one that it has begun with.
    pub fn node(&self) -> Rc<Node> {
        self.node.borrow().clone()
    }

    /// Uses another node from now on, while no request is under way. Returns the one before. Nobody is asked:
    /// that is for [`Node::refresh`], of both and of whose child it is.
    pub fn replace(&self, node: &Rc<Node>) -> Rc<Node> {
        let old = self.node.replace(node.clone());
        let mut parents = old.parents.borrow_mut();
        parents.retain(|edge| !Rc::ptr_eq(edge, &self.edge));
        drop(parents);
        node.parents.borrow_mut().push(self.edge.clone());
        old
    }

    /// What it is used for.
    pub fn role(&self) -> &'static str {
        self.edge.role
    }

    /// Changes what is needed.
    ///
    /// # Errors
    /// As [`Child::new`]; nothing has changed then.
    pub fn set_need(&self, need: Need) -> Result<(), Refusal> {
        let old = self.edge.need.replace(need);
        let node = self.node();
        let result = node.refresh();
        if result.is_err() {
            self.edge.need.set(old);
            // What was allowed is allowed.
            let _ = node.refresh();
        }
        result
    }

    /// What is needed.
    pub fn need(&self) -> Need {
        self.edge.need.get()
    }

    /// Names the user otherwise.
    pub fn set_parent(&self, parent: String) {
        self.edge.parent.replace(parent);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let node = self.node.get_mut();
        let mut parents = node.parents.borrow_mut();
        parents.retain(|edge| !Rc::ptr_eq(edge, &self.edge));
        drop(parents);
        // To need less is never refused.
        let _ = node.refresh();
    }
}

/// A block node.
pub struct Node {
    name: String,
    driver: Box<dyn Driver>,
    settings: Cell<Settings>,
    /// What its options say, if it was made with a parent whose settings it follows.
    follows: Cell<Option<GivenSettings>>,
    parents: RefCell<Vec<Rc<Edge>>>,
    /// The end of what was written highest.
    highest: Cell<u64>,
    /// Where a write is told of, 0 for none.
    threshold: Cell<u64>,
    /// A write that was to be told of, and by how many bytes it went too far.
    crossed: Cell<Option<(u64, u64)>>,
    /// Requests that have ended and may have changed something.
    changes: Cell<u64>,
    /// As many of them as the flushes that succeeded were for.
    flushed: Cell<u64>,
    flushing: Cell<bool>,
    flush_ended: Changed,
}

/// The flush that a node is at; there is one at a time.
struct Flushing<'a>(&'a Node);

impl Drop for Flushing<'_> {
    fn drop(&mut self) {
        self.0.flushing.set(false);
        self.0.flush_ended.tell();
    }
}

impl Node {
    /// A node whose driver stands.
    ///
    /// # Errors
    /// If its children can't be used as it needs them.
    pub fn new(
        name: String,
        driver: Box<dyn Driver>,
        settings: Settings,
    ) -> Result<Rc<Self>, Refusal> {
        let node = Rc::new(Self {
            name,
            driver,
            settings: Cell::new(settings),
            follows: Cell::new(None),
            parents: RefCell::default(),
            highest: Cell::new(0),
            threshold: Cell::new(0),
            crossed: Cell::new(None),
            changes: Cell::new(0),
            flushed: Cell::new(0),
            flushing: Cell::new(false),
            flush_ended: Changed::default(),
        });
        node.refresh()?;
        Ok(node)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What does its work.
    pub fn driver(&self) -> &dyn Driver {
        &*self.driver
    }

    /// What it is to do beside.
    pub fn settings(&self) -> Settings {
        self.settings.get()
    }

    /// Changes that. Returns what it was. Nobody is asked: that is for [`Node::refresh`].
    pub fn replace_settings(&self, settings: Settings) -> Settings {
        self.settings.replace(settings)
    }

    /// What its own options say, if its other settings are those of the node that it was made with.
    pub fn follows(&self) -> Option<GivenSettings> {
        self.follows.get()
    }

    /// Lets it follow the node that it was made with in all that its own options do not say.
    pub fn follow(&self, given: GivenSettings) {
        self.follows.set(Some(given));
    }

    /// Whether another node is this one or below it.
    pub fn contains(self: &Rc<Self>, other: &Rc<Self>) -> bool {
        Rc::ptr_eq(self, other) || {
            let children = self.driver.children();
            children.iter().any(|child| child.node().contains(other))
        }
    }

    /// Whether somebody uses it.
    pub fn is_used(&self) -> bool {
        !self.parents.borrow().is_empty()
    }

    /// Who uses it, and as what.
    pub fn users(&self) -> Vec<(String, &'static str)> {
        let parents = self.parents.borrow();
        let users = parents
            .iter()
            .map(|edge| (edge.parent.borrow().clone(), edge.role));
        users.collect()
    }

    /// All needs together.
    fn need(&self) -> Need {
        let mut all = Need::NONE;
        for edge in self.parents.borrow().iter() {
            let need = edge.need.get();
            all.uses |= need.uses;
            all.shares &= need.shares;
        }
        all
    }

    /// Looks whether all parents agree, and lets driver and children follow.
    ///
    /// # Errors
    /// If they don't, or the node can't be used as they need it; in QEMU's words.
    pub fn refresh(&self) -> Result<(), Refusal> {
        self.check_conflicts()?;
        let (need, settings) = (self.need(), self.settings.get());
        let writes = Permissions::WRITE | Permissions::WRITE_UNCHANGED;
        if need.uses.intersects(writes) && settings.read_only {
            return Err(match need.uses.contains(Permissions::WRITE) {
                true => format!(
                    "Read-only block node '{}' cannot support read-write users",
                    self.name
                ),
                false => "Block node is read-only".to_owned(),
            });
        }
        for child in self.driver.children() {
            child.set_need(self.driver.child_need(child.role(), need))?;
        }
        self.driver.adapt(need, settings)
    }

    fn check_conflicts(&self) -> Result<(), Refusal> {
        let parents = self.parents.borrow();
        for (at, a) in parents.iter().enumerate() {
            for (other, b) in parents.iter().enumerate() {
                let conflict = a.need.get().uses - b.need.get().shares;
                if at == other || conflict.is_empty() {
                    continue;
                }
                let (permissions, name) = (conflict.text(), &self.name);
                let (first, second) = (a.parent.borrow(), b.parent.borrow());
                let (as_first, as_second) = (a.role, b.role);
                return Err(format!(
                    "Permission conflict on node '{name}': permissions '{permissions}' are both required by {first} \
                     (uses node '{name}' as '{as_first}' child) and unshared by {second} (uses node '{name}' as \
                     '{as_second}' child)."
                ));
            }
        }
        Ok(())
    }

    /// Bytes, in whole sectors.
    pub fn length(&self) -> u64 {
        self.driver.length().next_multiple_of(512)
    }

    /// The end of what was written highest.
    pub fn highest(&self) -> u64 {
        self.highest.get()
    }

    /// Where a write is told of, 0 for none.
    pub fn threshold(&self) -> u64 {
        self.threshold.get()
    }

    /// Lets the first write beyond an offset be told of; 0: none.
    pub fn set_threshold(&self, threshold: u64) {
        self.threshold.set(threshold);
    }

    /// A write beyond the threshold since the last call: the threshold, and by how much.
    pub fn take_crossed(&self) -> Option<(u64, u64)> {
        self.crossed.take()
    }

    /// Reads.
    pub fn read(&self, at: u64, to: Buffer) -> Io<'_> {
        self.driver.read(at, to)
    }

    fn note_write(&self, at: u64, length: u64) {
        let end = at.saturating_add(length);
        self.highest.set(self.highest.get().max(end));
        let threshold = self.threshold.get();
        if threshold > 0 && end > threshold {
            self.threshold.set(0);
            self.crossed.set(Some((threshold, end - threshold)));
        }
    }

    /// Writes.
    pub fn write(&self, at: u64, from: Buffer) -> Io<'_> {
        let settings = self.settings.get();
        if settings.read_only {
            return Box::pin(std::future::ready(Err(Errno::PERM)));
        }
        self.note_write(at, from.len() as u64);
        if settings.detect_zeroes != BlockdevDetectZeroesOptions::Off && from.is_zero() {
            let unmap = settings.detect_zeroes == BlockdevDetectZeroesOptions::Unmap;
            let zeroed = self.zero(at, from.len() as u64, unmap && settings.discard);
            return Box::pin(self.changes(zeroed));
        }
        Box::pin(self.changes(self.driver.write(at, from)))
    }

    /// Counts a request that changes something. As far as a flush is concerned that is so from its end on, whatever that is.
    async fn changes<T>(&self, request: impl Future<Output = T>) -> T {
        let result = request.await;
        self.changes.set(self.changes.get() + 1);
        result
    }

    /// Lets a range read as zeros.
    pub fn write_zeroes(&self, at: u64, length: u64, may_unmap: bool) -> Io<'_> {
        self.zeroes(at, length, may_unmap, true)
    }

    /// The same where the driver has a way of its own; `EOPNOTSUPP` where only writing them does it.
    pub fn write_zeroes_at_once(&self, at: u64, length: u64, may_unmap: bool) -> Io<'_> {
        self.zeroes(at, length, may_unmap, false)
    }

    fn zeroes(&self, at: u64, length: u64, may_unmap: bool, by_writing: bool) -> Io<'_> {
        let settings = self.settings.get();
        if settings.read_only {
            return Box::pin(std::future::ready(Err(Errno::PERM)));
        }
        self.note_write(at, length);
        let may_unmap = may_unmap && settings.discard;
        match by_writing {
            true => Box::pin(self.changes(self.zero(at, length, may_unmap))),
            false => Box::pin(self.changes(self.driver.write_zeroes(at, length, may_unmap))),
        }
    }

    async fn zero(&self, at: u64, length: u64, may_unmap: bool) -> Result<(), Errno> {
        let result = self.driver.write_zeroes(at, length, may_unmap).await;
        if result != Err(Errno::OPNOTSUPP) {
            return result;
        }
        let zeros = Buffer::new(length.min(ZEROS) as usize);
        let mut done = 0;
        while done < length {
            let part = (length - done).min(ZEROS);
            self.driver
                .write(at.saturating_add(done), zeros.slice(0, part as usize))
                .await?;
            done += part;
        }
        Ok(())
    }

    /// Gives a range up, if that is to be told.
    pub fn discard(&self, at: u64, length: u64) -> Io<'_> {
        let settings = self.settings.get();
        if settings.read_only {
            return Box::pin(std::future::ready(Err(Errno::PERM)));
        }
        if !settings.discard {
            return Box::pin(std::future::ready(Ok(())));
        }
        Box::pin(self.changes(self.driver.discard(at, length)))
    }

    /// Ends when what was written before is on stable storage, unless that is not wanted. What nobody has changed since it was
    /// flushed is not flushed again.
    pub fn flush(&self) -> Io<'_> {
        if self.settings.get().read_only {
            return Box::pin(std::future::ready(Ok(())));
        }
        Box::pin(async move {
            // What ends from here on is for the next one, even if this one has to wait.
            let changes = self.changes.get();
            self.flush_ended.until(|| !self.flushing.get()).await;
            self.flushing.set(true);
            let _alone = Flushing(self);
            // Whoever wants flushes later wants them of this, too.
            let is_wanted = !self.settings.get().no_flush;
            let has_changed = self.flushed.get() < changes;
            self.flush_all(is_wanted && has_changed).await?;
            if is_wanted && has_changed {
                self.flushed.set(changes);
            }
            Ok(())
        })
    }

    async fn flush_all(&self, own: bool) -> Result<(), Errno> {
        self.step(BlkdebugEvent::FlushToOs).await;
        if own {
            self.step(BlkdebugEvent::FlushToDisk).await;
            self.driver.flush().await?;
        }
        let mut result = Ok(());
        for child in self.driver.flushed() {
            // Somebody else may have changed it.
            let flushed = child.node().flush().await;
            result = result.and(flushed);
        }
        result
    }

    /// Tells the first child of a step of a flush, and waits if that is wanted.
    async fn step(&self, event: BlkdebugEvent) {
        let child = self.driver.children().first().map(|child| child.node());
        let stop = child.and_then(|child| child.driver.event(event));
        if let Some(stop) = stop {
            stop.await;
        }
    }

    /// Changes the length.
    ///
    /// # Errors
    /// In QEMU's words.
    pub async fn resize(&self, length: u64) -> Result<(), Refusal> {
        if self.settings.get().read_only {
            return Err("Image is read-only".to_owned());
        }
        self.changes(self.driver.resize(length)).await
    }

    /// The child whose storage this one's is, wherever what was changed since isn't in it: what a filter is on, or the
    /// image below.
    pub fn below(&self) -> Option<&Child> {
        let is_filter = self.driver.is_filter();
        let is_it = |role: &str| match is_filter {
            true => matches!(role, "file" | "image" | "raw"),
            false => role == "backing",
        };
        let mut children = self.driver.children().into_iter();
        children.find(|child| is_it(child.role()))
    }

    /// Lets requests stop, here or in the first node below that can do so.
    ///
    /// # Errors
    /// As [`Driver::breakpoint`].
    pub fn breakpoint(&self, what: Breakpoint<'_>) -> Result<(), Errno> {
        match (self.driver.breakpoint(what), self.driver.children().first()) {
            (Err(Errno::OPNOTSUPP), Some(child)) => child.node().breakpoint(what),
            (result, _) => result,
        }
    }

    /// Tells this node and all below it that somebody waits for all requests, or no more.
    pub fn hurry(&self, on: bool) {
        self.driver.hurry(on);
        for child in self.driver.children() {
            child.node().hurry(on);
        }
    }

    /// Its name for users: that of the image, or in JSON what it is made of.
    pub fn filename(&self) -> String {
        let description = self.driver.describe();
        match description.filename {
            Some(filename) => filename,
            None => format!("json:{}", self.json()),
        }
    }

    /// What it is made of, in JSON.
    pub fn json(&self) -> String {
        let mut members = vec![(Cow::from("driver"), quoted(self.driver.name()))];
        for (key, value) in self.driver.describe().options {
            let value = match value {
                OptionValue::Unnamed(_) => continue,
                OptionValue::Text(value) => quoted(&value),
                OptionValue::Number(value) => value.to_string(),
                OptionValue::Bool(value) => value.to_string(),
            };
            members.push((key, value));
        }
        for child in self.driver.children() {
            members.push((child.role().into(), child.node().json()));
        }
        members.sort_by_key(|(key, _)| place(key));
        let members = members
            .iter()
            .map(|(key, value)| format!("\"{key}\": {value}"));
        format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
    }
}

/// Where QEMU has a member in JSON that is a text itself, and so is compared as one: by a hash of its name, in a table of 512
/// (the hash is that of the TDB library).
fn place(key: &str) -> u32 {
    let start = 0x238f_13af_u32.wrapping_mul(key.len() as u32);
    let sum = key.bytes().enumerate().fold(start, |sum, (at, byte)| {
        sum.wrapping_add(u32::from(byte) << (at * 5 % 24))
    });
    sum.wrapping_mul(1_103_515_243).wrapping_add(12345) % 512
}

/// A text in JSON.
fn quoted(text: &str) -> String {
    use std::fmt::Write as _;
    let mut quoted = String::from("\"");
    for c in text.chars() {
        // Writing to a string does not fail.
        let _ = match c {
            '"' | '\\' => write!(quoted, "\\{c}"),
            c if c.is_control() => write!(quoted, "\\u{:04x}", u32::from(c)),
            c => write!(quoted, "{c}"),
        };
    }
    quoted.push('"');
    quoted
}
