//! From options to nodes: `-blockdev`, `blockdev-add`, and what a `-drive` means.

use std::borrow::Cow;
use std::rc::{Rc, Weak};

use thimble_core::qmp::Parser;
use thimble_monitor::schema::arguments::{
    BlockdevOptions, BlockdevOptionsFile, BlockdevOptionsNull, BlockdevOptionsRaw,
    BlockdevOptionsThrottle, BlockdevOptionsVariant, BlockdevRef,
};
use thimble_monitor::schema::{
    BlockdevAioOptions, BlockdevDetectZeroesOptions, BlockdevDiscardOptions, BlockdevDriver,
    OnOffAuto, read_option,
};

use super::backend::{Backend, OnError};
use super::blkdebug::{self, Blkdebug};
use super::file::{self, File, errno_text};
use super::filters::{CopyOnRead, Verify};
use super::node::{
    Change, Child, Driver, GivenSettings, Need, Node, OptionValue, Permissions, Refusal, Settings,
};
use super::null::{self, Null};
use super::overlay::Overlay;
use super::raw::{self, Raw};
use super::throttle::{Group, Limits, Throttle};
use super::{Graph, NODE_NAME_MAX, NODES_MAX};

/// What a node that is made with its parent has from it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inherited {
    read_only: bool,
    auto_read_only: bool,
    force_share: bool,
    direct: bool,
    no_flush: bool,
    /// Formats respect what is said about discards, so that files may do them.
    discard: bool,
    copy_on_read: bool,
    aio: Option<BlockdevAioOptions>,
}

impl From<Settings> for Inherited {
    fn from(settings: Settings) -> Self {
        Self {
            read_only: settings.read_only,
            auto_read_only: settings.auto_read_only,
            force_share: settings.force_share,
            direct: settings.direct,
            no_flush: settings.no_flush,
            discard: true,
            copy_on_read: false,
            aio: settings.aio,
        }
    }
}

/// What `-drive` and `blockdev-change-medium` say of an image.
#[derive(Clone, Debug)]
pub struct DriveOptions {
    /// The image; nothing for a drive without a medium, unless its options name a driver.
    pub filename: Option<String>,
    /// Its format; guessed where there is none.
    pub format: Option<String>,
    /// Options of the driver, as they were given.
    pub options: Vec<(String, String)>,
    /// It takes no writes.
    pub read_only: bool,
    /// The host's page cache is not used.
    pub direct: Option<bool>,
    /// Flushes are ignored.
    pub no_flush: Option<bool>,
    /// Writes end before they are on stable storage.
    pub write_back: bool,
    /// What is no longer needed is told to the storage.
    pub discard: Option<bool>,
    /// What is done about zeros that are written.
    pub detect_zeroes: BlockdevDetectZeroesOptions,
    /// Writes go to a temporary file.
    pub snapshot: Option<bool>,
    /// What is read from below that is written there, too.
    pub copy_on_read: bool,
    /// How files are read and written.
    pub aio: Option<BlockdevAioOptions>,
    /// What happens about failed writes.
    pub on_write_error: OnError,
    /// What happens about failed reads.
    pub on_read_error: OnError,
    /// How fast it may be.
    pub limits: Limits,
    /// The group that shares that.
    pub group: Option<String>,
}

impl Default for DriveOptions {
    fn default() -> Self {
        Self {
            filename: None,
            format: None,
            options: Vec::new(),
            read_only: false,
            direct: None,
            no_flush: None,
            write_back: true,
            discard: None,
            detect_zeroes: BlockdevDetectZeroesOptions::Off,
            snapshot: None,
            copy_on_read: false,
            aio: None,
            on_write_error: OnError::Auto,
            on_read_error: OnError::Auto,
            limits: Limits::default(),
            group: None,
        }
    }
}

fn text(bytes: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(bytes).map_err(|_| "a name is not valid UTF-8".to_owned())
}

impl From<&BlockdevOptions<'_>> for GivenSettings {
    fn from(options: &BlockdevOptions<'_>) -> Self {
        let cache = options.cache.as_ref();
        Self {
            read_only: options.read_only,
            auto_read_only: options.auto_read_only,
            force_share: options.force_share,
            discard: options
                .discard
                .map(|discard| discard == BlockdevDiscardOptions::Unmap),
            detect_zeroes: options.detect_zeroes,
            direct: cache.and_then(|cache| cache.direct),
            no_flush: cache.and_then(|cache| cache.no_flush),
        }
    }
}

fn settings(given: GivenSettings, inherited: Inherited) -> Result<Settings, Refusal> {
    let detect_zeroes = given.detect_zeroes;
    let settings = Settings {
        read_only: given.read_only.unwrap_or(inherited.read_only),
        auto_read_only: given.auto_read_only.unwrap_or(inherited.auto_read_only),
        force_share: given.force_share.unwrap_or(inherited.force_share),
        discard: given.discard.unwrap_or(inherited.discard),
        detect_zeroes: detect_zeroes.unwrap_or(BlockdevDetectZeroesOptions::Off),
        direct: given.direct.unwrap_or(inherited.direct),
        no_flush: given.no_flush.unwrap_or(inherited.no_flush),
        copy_on_read: inherited.copy_on_read,
        aio: inherited.aio,
    };
    if settings.detect_zeroes == BlockdevDetectZeroesOptions::Unmap && !settings.discard {
        return Err(
            "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap"
                .to_owned(),
        );
    }
    if settings.force_share && !settings.read_only {
        return Err("force-share=on can only be used with read-only images".to_owned());
    }
    Ok(settings)
}

/// What a file is told by.
fn described_file(
    file: &BlockdevOptionsFile<'_>,
) -> Result<Vec<(Cow<'static, str>, OptionValue)>, Refusal> {
    let locking = file.locking.unwrap_or(OnOffAuto::Auto);
    Ok(file::described(text(file.filename)?, locking, file.aio))
}

/// The part of a file that an image is.
fn part(raw: &BlockdevOptionsRaw<'_>) -> Result<(u64, Option<u64>), Refusal> {
    let number = |name: &str, value: i64| {
        let sentence = format!("Parameter '{name}' expects a non-negative number below 2^64");
        u64::try_from(value).map_err(|_| sentence)
    };
    let offset = number("offset", raw.offset.unwrap_or(0))?;
    let size = raw.size.map(|size| number("size", size)).transpose()?;
    Ok((offset, size))
}

impl Graph {
    fn name_of(&self, options: &BlockdevOptions<'_>) -> Result<String, Refusal> {
        let Some(name) = options.node_name else {
            // Two digits at the end keep users from counting on the number.
            let number = self.last_name.get();
            self.last_name.set(number + 1);
            let tail = (number.wrapping_mul(37) + u64::from(std::process::id())) % 100;
            return Ok(format!("#block{number}{tail:02}"));
        };
        let name = text(name)?;
        if !crate::options::opts::is_id(name) {
            return Err(format!("Invalid node-name: '{name}'"));
        }
        if self.drive(name).is_some() {
            return Err(format!("node-name={name} is conflicting with a device id"));
        }
        if self.node(name).is_some() {
            return Err(format!("Duplicate nodes with node-name='{name}'"));
        }
        if name.len() > NODE_NAME_MAX {
            return Err("Node name too long".to_owned());
        }
        Ok(name.to_owned())
    }

    /// Makes a node that stays until [`Graph::remove`].
    ///
    /// # Errors
    /// In QEMU's words where it has some.
    pub fn add(&self, options: &BlockdevOptions<'_>) -> Result<(), Refusal> {
        if options.node_name.is_none() {
            return Err("'node-name' must be specified for the root node".to_owned());
        }
        let node = self.open(options, Inherited::default(), false)?;
        self.owned.borrow_mut().push(node);
        Ok(())
    }

    /// Lists a node at a place, or as the newest.
    fn register(&self, node: Rc<Node>, place: usize) -> Rc<Node> {
        let mut nodes = self.nodes.borrow_mut();
        let place = place.min(nodes.len());
        nodes.insert(place, Rc::downgrade(&node));
        drop(nodes);
        node
    }

    /// Makes a node. `probed` says that nobody has told its format.
    ///
    /// # Errors
    /// In QEMU's words where it has some.
    pub fn open(
        &self,
        options: &BlockdevOptions<'_>,
        inherited: Inherited,
        probed: bool,
    ) -> Result<Rc<Node>, Refusal> {
        if self.nodes().len() >= NODES_MAX {
            return Err(format!("there are {NODES_MAX} block nodes already"));
        }
        let mut settings = settings(options.into(), inherited)?;
        let name = self.name_of(options)?;
        // As with QEMU those that test others are older than what is made with them.
        let place = match options.variant {
            BlockdevOptionsVariant::Blkdebug(_) | BlockdevOptionsVariant::Blkverify(_) => {
                self.nodes().len()
            }
            _ => usize::MAX,
        };
        let for_children = settings.into();
        let child = |reference: &BlockdevRef<'_>, role: &'static str| {
            self.child(reference, role, &name, for_children)
        };
        let driver: Box<dyn Driver> = match &options.variant {
            BlockdevOptionsVariant::File(file) => self.file("file", file, &mut settings)?,
            BlockdevOptionsVariant::HostDevice(file) => {
                self.file("host_device", file, &mut settings)?
            }
            BlockdevOptionsVariant::NullCo(null) => self.null("null-co", null)?,
            BlockdevOptionsVariant::NullAio(null) => self.null("null-aio", null)?,
            BlockdevOptionsVariant::Raw(raw) => {
                let (offset, size) = part(raw)?;
                let file = child(&raw.file, "file")?;
                Box::new(Raw::new(file, offset, size, probed)?)
            }
            BlockdevOptionsVariant::CopyOnRead(filter) => {
                if filter.bottom.is_some() {
                    return Err("copy-on-read: 'bottom' is not available".to_owned());
                }
                let file = child(&filter.file, "file")?;
                Box::new(CopyOnRead { file })
            }
            BlockdevOptionsVariant::Throttle(throttle) => {
                let group = self.group_of(throttle)?;
                let file = child(&throttle.file, "file")?;
                Box::new(Throttle::new(file, group))
            }
            BlockdevOptionsVariant::Blkverify(verify) => {
                let raw = child(&verify.raw, "raw")?;
                let test = child(&verify.test, "test")?;
                Box::new(Verify { test, raw })
            }
            BlockdevOptionsVariant::Blkdebug(debug) => {
                let image = child(&debug.image, "image")?;
                Box::new(Blkdebug::new(image, debug)?)
            }
        };
        if settings.copy_on_read && settings.read_only {
            return Err("Can't use copy-on-read on read-only device".to_owned());
        }
        Ok(self.register(Node::new(name, driver, settings)?, place))
    }

    fn group_of(&self, throttle: &BlockdevOptionsThrottle<'_>) -> Result<Rc<Group>, Refusal> {
        let group = text(throttle.throttle_group)?;
        let found = self.group(group);
        found.ok_or_else(|| format!("Throttle group '{group}' does not exist"))
    }

    fn child(
        &self,
        reference: &BlockdevRef<'_>,
        role: &'static str,
        parent: &str,
        inherited: Inherited,
    ) -> Result<Child, Refusal> {
        let node = match reference {
            BlockdevRef::Definition(options) => {
                let options = options.get();
                let node = self.open(&options, inherited, false)?;
                node.follow((&options).into());
                node
            }
            BlockdevRef::Reference(name) => {
                let name = text(name)?;
                let missing = || format!("Cannot find device='{name}' nor node-name='{name}'");
                self.node(name).ok_or_else(missing)?
            }
        };
        Child::new(&node, format!("node '{parent}'"), role, Need::NONE)
    }

    fn file(
        &self,
        name: &'static str,
        options: &BlockdevOptionsFile<'_>,
        settings: &mut Settings,
    ) -> Result<Box<dyn Driver>, Refusal> {
        if options.x_check_cache_dropped == Some(true) {
            return Err("x-check-cache-dropped=on is not available".to_owned());
        }
        let filename = text(options.filename)?;
        let engines = self.engines.clone();
        let file = File::open(name, filename, options, settings, engines)?;
        Ok(Box::new(file))
    }

    fn null(
        &self,
        name: &'static str,
        options: &BlockdevOptionsNull,
    ) -> Result<Box<dyn Driver>, Refusal> {
        let size = options.size.map(u64::try_from).transpose();
        let size = size
            .map_err(|_| "Parameter 'size' expects a non-negative number below 2^64".to_owned())?;
        Ok(Box::new(Null {
            name,
            length: size.unwrap_or(null::LENGTH),
            latency: options.latency_ns.unwrap_or(0),
            read_zeroes: options.read_zeroes.unwrap_or(false),
            executor: self.executor.clone(),
        }))
    }

    /// Changes what can be changed of nodes that stand: their settings. Either all of them change or none.
    ///
    /// # Errors
    /// In QEMU's words where it has some.
    pub fn reopen<'m>(
        &self,
        all: &mut dyn Iterator<Item = BlockdevOptions<'m>>,
    ) -> Result<(), Refusal> {
        self.change(&mut |done| self.reopen_all(all, done))
    }

    /// Changes settings of a node, and of those that follow it.
    ///
    /// # Errors
    /// In QEMU's words.
    pub fn change_settings(&self, node: &Rc<Node>, given: GivenSettings) -> Result<(), Refusal> {
        self.change(&mut |done| self.change_node(node, given, done))
    }

    /// Lets nodes be changed, and asks then all whom that concerns. If it can't be done, what is in the list is undone.
    fn change(
        &self,
        change: &mut dyn FnMut(&mut Vec<Undo>) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let mut done = Vec::new();
        self.drained(|| {
            // Who is asked only now may have given something up in favour of another one.
            let result = change(&mut done).and_then(|()| done.iter().try_for_each(Undo::refresh));
            if result.is_err() {
                for undo in done.iter_mut().rev() {
                    undo.undo();
                }
                for undo in &done {
                    // So it was with what everybody needs.
                    let _ = undo.refresh();
                }
            }
            result
        })
    }

    /// Changes nodes; what was done so far is in `done`, also if the rest can't be done.
    fn reopen_all<'m>(
        &self,
        all: &mut dyn Iterator<Item = BlockdevOptions<'m>>,
        done: &mut Vec<Undo>,
    ) -> Result<(), Refusal> {
        for options in all {
            let name = options.node_name.ok_or("node-name not specified")?;
            let name = text(name)?;
            let node = self.node(name);
            let node =
                node.ok_or_else(|| format!("Failed to find node with node-name='{name}'"))?;
            let mut other = None;
            let change = self.same_image(&node, &options, &mut other)?;
            let at = done.len();
            self.change_node(&node, (&options).into(), done)?;
            let Some(undo) = done.get_mut(at) else {
                continue;
            };
            if let Some((role, other)) = other {
                let child = role_of(&node, role);
                undo.child = child.map(|child| (role, child.replace(&other)));
            }
            if let Some(change) = change {
                undo.driver = Some(node.driver().change(change)?);
            }
        }
        Ok(())
    }

    /// Changes the settings of a node and of those that follow it, the node first in what is in `done` then.
    fn change_node(
        &self,
        node: &Rc<Node>,
        given: GivenSettings,
        done: &mut Vec<Undo>,
    ) -> Result<(), Refusal> {
        // What was never an option of the node stays.
        let Settings {
            copy_on_read, aio, ..
        } = node.settings();
        let inherited = Inherited {
            copy_on_read,
            aio,
            ..Inherited::default()
        };
        let settings = settings(given, inherited)?;
        if settings.copy_on_read && settings.read_only {
            let drive = self.drive_with(node);
            let shown = drive.as_ref().map_or(node.name(), |drive| drive.name());
            return Err(format!(
                "Can't set node '{shown}' to r/o with copy-on-read enabled"
            ));
        }
        // Who can't be written any more could not be flushed either.
        let flushed = self.wait(node.flush());
        flushed.map_err(|error| format!("Error flushing drive: {}", errno_text(error)))?;
        done.push(Undo {
            node: node.clone(),
            settings: node.replace_settings(settings),
            follows: node.follows(),
            child: None,
            driver: None,
        });
        if node.follows().is_some() {
            node.follow(given);
        }
        self.change_followers(node, given, done)
    }

    /// Changes the settings of those that follow a node as far as something was said of its own.
    fn change_followers(
        &self,
        node: &Rc<Node>,
        given: GivenSettings,
        done: &mut Vec<Undo>,
    ) -> Result<(), Refusal> {
        let passed_on = GivenSettings {
            discard: None,
            detect_zeroes: None,
            ..given
        };
        for child in node.driver().children() {
            let follower = child.node();
            let Some(own) = follower.follows() else {
                continue;
            };
            let (given, old) = (own.or(passed_on), follower.settings());
            let settings = settings(given.or(old.into()), old.into())?;
            done.push(Undo {
                node: follower.clone(),
                settings: follower.replace_settings(settings),
                follows: Some(own),
                child: None,
                driver: None,
            });
            self.change_followers(&follower, given, done)?;
        }
        Ok(())
    }

    /// What a reopen changes of a node's driver, if anything. Most options have to stay as they are.
    fn same_image(
        &self,
        node: &Rc<Node>,
        options: &BlockdevOptions<'_>,
        other: &mut Option<(&'static str, Rc<Node>)>,
    ) -> Result<Option<Change>, Refusal> {
        let driver = node.driver();
        let described = driver.describe().options;
        let was = |name: &str| {
            let found = described.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.text())
        };
        let changed = |name: &str, now: Option<String>| match (was(name), now) {
            (old, now) if old == now => Ok(()),
            (Some(_), None) => Err(format!(
                "Option '{name}' cannot be reset to its default value"
            )),
            _ => Err(format!("Cannot change the option '{name}'")),
        };
        // Another child is possible by its name; `movable` says whether the driver can have another one.
        let mut child = |role: &'static str, reference: &BlockdevRef<'_>, movable: bool| {
            let below = role_of(node, role).map(Child::node);
            let fixed = |what: &str| Err(format!("Cannot change the option '{what}'"));
            let name = match reference {
                BlockdevRef::Reference(name) => text(name)?,
                BlockdevRef::Definition(_) => return fixed(&format!("{role}.driver")),
            };
            if below.is_some_and(|below| below.name() == name) {
                return Ok(());
            }
            if !movable {
                return fixed(role);
            }
            let found = self.known_node(name)?;
            if found.contains(node) {
                let own = node.name();
                return Err(format!(
                    "Making '{name}' a {role} child of '{own}' would create a cycle"
                ));
            }
            *other = Some((role, found));
            Ok(())
        };
        let is = |name: &str| driver.name() == name;
        let same = |options: &[(Cow<'static, str>, OptionValue)]| {
            let names = described.iter().chain(options).map(|(name, _)| name);
            for name in names {
                let found = options.iter().find(|(other, _)| other == name);
                changed(name, found.map(|(_, value)| value.text()))?;
            }
            Ok::<(), Refusal>(())
        };
        let unchangeable = || {
            Err(format!(
                "Block format '{}' used by node '{}' does not support reopening files",
                driver.name(),
                node.name()
            ))
        };
        match &options.variant {
            BlockdevOptionsVariant::File(file) if is("file") => {
                same(&described_file(file)?)?;
            }
            BlockdevOptionsVariant::HostDevice(file) if is("host_device") => {
                same(&described_file(file)?)?;
            }
            BlockdevOptionsVariant::Raw(raw) if is("raw") => {
                let (offset, size) = part(raw)?;
                child("file", &raw.file, true)?;
                return Ok(Some(Change::Part { offset, size }));
            }
            BlockdevOptionsVariant::Throttle(throttle) if is("throttle") => {
                let group = self.group_of(throttle)?;
                child("file", &throttle.file, true)?;
                return Ok(Some(Change::Limits(group)));
            }
            BlockdevOptionsVariant::CopyOnRead(_) if is("copy-on-read") => return unchangeable(),
            BlockdevOptionsVariant::Blkverify(_) if is("blkverify") => return unchangeable(),
            BlockdevOptionsVariant::Blkdebug(debug) if is("blkdebug") => {
                child("image", &debug.image, false)?;
                same(&blkdebug::described(debug))?;
            }
            BlockdevOptionsVariant::NullCo(null) if is("null-co") => {
                same(&self.null("null-co", null)?.describe().options)?
            }
            BlockdevOptionsVariant::NullAio(null) if is("null-aio") => {
                same(&self.null("null-aio", null)?.describe().options)?
            }
            _ if is("file") => {
                return Err("Option 'filename' cannot be reset to its default value".to_owned());
            }
            _ => return Err("Cannot change the option 'driver'".to_owned()),
        }
        Ok(None)
    }

    /// Does something while no request is under way.
    pub fn drained<T>(&self, act: impl FnOnce() -> T) -> T {
        for drive in self.drives() {
            self.hold(&drive);
        }
        let result = act();
        for drive in self.drives() {
            self.release(&drive);
        }
        result
    }

    /// Opens what a drive is to have in it; nothing if it has no medium.
    ///
    /// # Errors
    /// In QEMU's words where it has some.
    pub fn open_medium(&self, given: &DriveOptions) -> Result<Option<Rc<Node>>, Refusal> {
        let snapshot = given.snapshot.unwrap_or(false);
        let option = |name: &str| {
            let found = given.options.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.as_str())
        };
        let named = given.format.as_deref().or(option("driver"));
        let filename = given.filename.as_deref().filter(|name| !name.is_empty());
        // A name may say that it is a file's, or of what is none.
        let filename = filename.map(|name| name.strip_prefix("file:").unwrap_or(name));
        if let Some(null) = filename.and_then(|name| name.strip_suffix("://"))
            && matches!(null, "null-co" | "null-aio")
        {
            let mut given = given.clone();
            given.filename = None;
            let key = match given.format.as_deref() {
                Some(format) if format.starts_with("null-") => "driver",
                _ => "file.driver",
            };
            given.options.push((key.to_owned(), null.to_owned()));
            return self.open_medium(&given);
        }
        let below = given
            .options
            .iter()
            .any(|(key, _)| key == "file" || key.starts_with("file."));
        if filename.is_none() && named.is_none() && !below {
            let said = given.direct.or(given.no_flush).or(given.discard);
            return match given.options.is_empty() && said.is_none() {
                true => Ok(None),
                false => Err("Must specify either driver or file".to_owned()),
            };
        }
        if let Some(driver) = named
            && !BlockdevDriver::ALL
                .iter()
                .any(|known| known.name() == driver)
        {
            let known = raw::MAGICS.iter().any(|(_, format)| *format == driver) || driver == "vdi";
            return Err(match known {
                true => format!("format={driver} is not available"),
                false => format!("Unknown driver '{driver}'"),
            });
        }
        if named == Some("raw") && filename.is_none() && !below {
            return Err("A block device must be specified for \"file\"".to_owned());
        }
        if let Some(filename) = filename
            && std::path::Path::new(filename).is_dir()
        {
            return Err(format!(
                "'file' driver requires '{filename}' to be a regular file"
            ));
        }
        let (driver, probed) = match named {
            Some(driver) => (driver.to_owned(), false),
            None => (self.probe(filename)?, true),
        };
        let mut keys = format!("driver={driver}");
        let mut put = |key: &str, value: &str| {
            keys.push_str(&format!(",{key}={}", value.replace(',', ",,")));
        };
        let on = |on: bool| if on { "on" } else { "off" };
        put("read-only", on(given.read_only || snapshot));
        put("cache.direct", on(given.direct == Some(true)));
        put("cache.no-flush", on(given.no_flush == Some(true)));
        // Who wants zeros given up wants that, too, as with QEMU's option.
        let discard = given.discard == Some(true)
            || given.detect_zeroes == BlockdevDetectZeroesOptions::Unmap;
        put("discard", if discard { "unmap" } else { "ignore" });
        put("detect-zeroes", given.detect_zeroes.name());
        let is_file = matches!(driver.as_str(), "file" | "host_device");
        if let Some(filename) = filename {
            if is_file {
                put("filename", filename);
            } else if !driver.starts_with("null-") && !below {
                let device = std::fs::metadata(filename).is_ok_and(|facts| {
                    use std::os::unix::fs::FileTypeExt as _;
                    facts.file_type().is_block_device()
                });
                put("file.driver", if device { "host_device" } else { "file" });
                put("file.filename", filename);
            } else if option("file.driver").is_none() && !driver.starts_with("null-") {
                put("file.driver", "file");
                put("file.filename", filename);
            }
        }
        for (key, value) in &given.options {
            // Options of drives have sizes where those of nodes have numbers.
            let size = match key.as_str() {
                "size" | "offset" => crate::options::opts::parse_size(value, 0).ok(),
                _ => None,
            };
            match size {
                Some(size) => put(key, &size.to_string()),
                None if key != "driver" => put(key, value),
                None => {}
            }
        }
        let mut parser = Box::new(Parser::new());
        let options = read_option::<BlockdevOptions<'_>>(&mut parser, &keys);
        let options = options.map_err(|error| unexpected(&driver, &error.to_string()))?;
        let inherited = Inherited {
            copy_on_read: given.copy_on_read && !snapshot,
            aio: given.aio,
            ..Inherited::default()
        };
        let node = self.open(&options, inherited, probed)?;
        if probed && driver == "raw" && !given.read_only && !snapshot {
            let name = filename.unwrap_or_default();
            crate::report(format_args!(
                "WARNING: Image format was not specified for '{name}' and probing guessed raw.\n         \
                 Automatically detecting the format is dangerous for raw images, write operations on block 0 will be \
                 restricted.\n         Specify the 'raw' format explicitly to remove the restrictions."
            ));
        }
        if !snapshot {
            return Ok(Some(node));
        }
        let length = node.length();
        let mut settings = node.settings();
        (settings.read_only, settings.no_flush) = (given.read_only, true);
        settings.direct = false;
        settings.copy_on_read = given.copy_on_read;
        // Not without direct requests.
        settings.aio = settings
            .aio
            .filter(|aio| *aio != BlockdevAioOptions::Native);
        let name = format!("#block{}", self.last_name.get());
        self.last_name.set(self.last_name.get() + 1);
        let backing = Child::new(&node, format!("node '{name}'"), "backing", Need::NONE)?;
        let overlay = Overlay::new(
            backing,
            length,
            given.copy_on_read,
            self.engines.pool.clone(),
        )?;
        let overlay = Node::new(name, Box::new(overlay), settings)?;
        Ok(Some(self.register(overlay, usize::MAX)))
    }

    /// The format of an image that nobody has told.
    fn probe(&self, filename: Option<&str>) -> Result<String, Refusal> {
        use std::os::unix::fs::FileExt as _;
        let Some(filename) = filename else {
            return Ok("raw".to_owned());
        };
        let failed = |error: std::io::Error| {
            format!("Could not open '{filename}': {}", crate::error_text(&error))
        };
        let file = crate::files::open(std::path::Path::new(filename), crate::files::OFlags::RDONLY);
        let file = file.map_err(failed)?;
        let mut beginning = [0; 512];
        // What is shorter has no header.
        let _ = file.read_at(&mut beginning, 0);
        match raw::probe(&beginning) {
            "raw" => Ok("raw".to_owned()),
            format => Err(format!(
                "'{filename}' is an image of format '{format}', which is not available"
            )),
        }
    }

    /// Makes the drive of a `-drive`.
    ///
    /// # Errors
    /// In QEMU's words where it has some.
    pub fn open_drive(&self, name: &str, given: &DriveOptions) -> Result<Rc<Backend>, Refusal> {
        if self.drive(name).is_some() {
            return Err(format!("Device with id '{name}' already exists"));
        }
        if self.node(name).is_some() {
            return Err(format!(
                "Device name '{name}' conflicts with an existing node name"
            ));
        }
        given.limits.check()?;
        let drive = Backend::new(name);
        drive.on_read_error.set(given.on_read_error);
        drive.on_write_error.set(given.on_write_error);
        drive.write_cache.set(given.write_back);
        drive.last.set(Settings {
            read_only: given.read_only,
            detect_zeroes: given.detect_zeroes,
            copy_on_read: given.copy_on_read,
            aio: given.aio,
            ..Settings::PLAIN
        });
        if let Some(node) = self.open_medium(given)? {
            self.insert(&drive, &node)?;
        }
        if given.limits.any() {
            let group = self.group_or_new(given.group.as_deref().unwrap_or(name));
            group.set_limits(given.limits);
            drive.group.replace(Some(group));
        }
        self.add_drive(drive.clone());
        Ok(drive)
    }

    /// Nodes below which nothing lives any more are forgotten.
    pub fn forget(&self) {
        self.nodes
            .borrow_mut()
            .retain(|node: &Weak<Node>| node.strong_count() > 0);
    }
}

/// The child of a node in a role.
fn role_of<'n>(node: &'n Node, role: &str) -> Option<&'n Child> {
    let mut children = node.driver().children().into_iter();
    children.find(|child| child.role() == role)
}

/// How a node was before it changed.
struct Undo {
    node: Rc<Node>,
    settings: Settings,
    follows: Option<GivenSettings>,
    /// A child in a role.
    child: Option<(&'static str, Rc<Node>)>,
    driver: Option<Change>,
}

impl Undo {
    /// Asks all whom the change concerns.
    fn refresh(&self) -> Result<(), Refusal> {
        let Some((role, old)) = &self.child else {
            return self.node.refresh();
        };
        if let Some(child) = role_of(&self.node, role) {
            let writes = child.need().uses.contains(Permissions::WRITE);
            if writes && child.node().settings().read_only {
                return Err("Block node is read-only".to_owned());
            }
        }
        // This one's child follows it.
        self.node.refresh()?;
        old.refresh()
    }

    /// Makes it as it was.
    fn undo(&mut self) {
        self.node.replace_settings(self.settings);
        if let Some(given) = self.follows {
            self.node.follow(given);
        }
        if let Some((role, old)) = &mut self.child
            && let Some(child) = role_of(&self.node, role)
        {
            *old = child.replace(old);
        }
        if let Some(driver) = self.driver.take() {
            // It was so before.
            let _ = self.node.driver().change(driver);
        }
    }
}

/// Says of an option that a driver lacks what QEMU says of it in a `-drive`.
fn unexpected(driver: &str, error: &str) -> Refusal {
    let key = error
        .strip_prefix("Parameter '")
        .and_then(|rest| rest.strip_suffix("' is unexpected"));
    match key {
        Some(key) => format!("Block format '{driver}' does not support the option '{key}'"),
        None => error.to_owned(),
    }
}
