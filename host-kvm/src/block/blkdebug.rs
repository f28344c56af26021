//! `blkdebug`: requests fail by rules.
//!
//! A rule waits for an event of the image's work. From then on it is active: one that injects errors fails requests of its
//! kinds and sectors, one that sets the state changes which rules can become active next. The parent tells of most
//! events: a rule that waits for a read or a write needs a format above, if only `raw`.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use rustix::io::Errno;
use thimble_monitor::schema::arguments::BlockdevOptionsBlkdebug;
use thimble_monitor::schema::{BlkdebugEvent, BlkdebugIOType, BlockPermission};

use super::buffer::Buffer;
use super::executor::{Boxed, Changed};
use super::node::{
    Breakpoint, Child, Description, Driver, Io, Need, OptionValue, Permissions, Refusal,
};
use super::storage_commands::show;

/// A rule that fails requests.
pub(super) struct Inject {
    event: BlkdebugEvent,
    /// Only in this state, 0 for any.
    state: i64,
    /// None: reads, writes and flushes.
    kind: Option<BlkdebugIOType>,
    error: Errno,
    sector: Option<u64>,
    once: bool,
    active: bool,
}

impl Inject {
    /// A rule; without an error it is EIO, without a sector it means all.
    ///
    /// # Errors
    /// If there is no such error.
    pub(super) fn new(
        event: BlkdebugEvent,
        state: i64,
        kind: Option<BlkdebugIOType>,
        error: Option<i64>,
        sector: Option<i64>,
        once: bool,
    ) -> Result<Self, Refusal> {
        let error = i32::try_from(error.unwrap_or(5)).ok();
        let error = error.filter(|error| (1..4096).contains(error));
        Ok(Self {
            event,
            state,
            kind,
            error: Errno::from_raw_os_error(error.ok_or("Invalid errno value")?),
            sector: u64::try_from(sector.unwrap_or(-1)).ok(),
            once,
            active: event == BlkdebugEvent::None,
        })
    }
}

/// A rule that changes the state.
pub(super) struct SetState {
    pub(super) event: BlkdebugEvent,
    pub(super) state: i64,
    pub(super) new_state: i64,
}

/// All rules.
#[derive(Default)]
pub(super) struct Rules {
    pub(super) injects: Vec<Inject>,
    pub(super) set_states: Vec<SetState>,
}

/// What requests of a kind have to be multiples of, and how many bytes they have at most; 0: whatever they like.
#[derive(Clone, Copy)]
struct Pieces {
    unit: u64,
    most: u64,
}

impl Pieces {
    /// The whole units in a range, in pieces that are not too long: where each begins, and its length.
    fn of(self, at: u64, length: u64) -> impl Iterator<Item = (u64, u64)> {
        let unit = self.unit.max(1);
        let most = match self.most {
            0 => u64::MAX,
            most => most,
        };
        let end = at + length;
        let end = end - end % unit;
        let mut next = at.next_multiple_of(unit);
        std::iter::from_fn(move || {
            let length = end.checked_sub(next)?.min(most);
            let piece = (next, length);
            next += length;
            (length > 0).then_some(piece)
        })
    }
}

/// Bytes of zeros that are written at once.
const FILL: u64 = 1 << 20;

/// Where requests are to stop, and those that have.
#[derive(Default)]
struct Stops {
    /// By their tags.
    wanted: RefCell<Vec<(BlkdebugEvent, String)>>,
    /// By tags and numbers.
    stopped: RefCell<Vec<(String, u64)>>,
    last: Cell<u64>,
    /// How many wait for all requests, so that none stops.
    hurried: Cell<usize>,
    changed: Changed,
}

impl Stops {
    /// A request comes to a step: what it has to wait for, if anything.
    fn comes(self: &Rc<Self>, event: BlkdebugEvent) -> Option<Boxed<'static, ()>> {
        let mut wanted = self.wanted.borrow_mut();
        if self.hurried.get() > 0 || wanted.iter().all(|(other, _)| *other != event) {
            return None;
        }
        let mut numbers = Vec::new();
        // The latest comes first.
        for (_, tag) in wanted.iter().rev().filter(|(other, _)| *other == event) {
            show(&format!("blkdebug: Suspended request '{tag}'\n"));
            self.last.set(self.last.get() + 1);
            numbers.push(self.last.get());
            let stopped = (tag.clone(), self.last.get());
            self.stopped.borrow_mut().push(stopped);
        }
        // Each stops one request.
        wanted.retain(|(other, _)| *other != event);
        let stops = self.clone();
        Some(Box::pin(async move {
            let goes = || {
                let stopped = stops.stopped.borrow();
                stopped.iter().all(|(_, number)| !numbers.contains(number))
            };
            stops.changed.until(goes).await;
        }))
    }

    /// Lets requests that have stopped go on, those of a tag or all, one or as many as there are. Whether there was any.
    fn resume(&self, tag: Option<&str>, all: bool) -> bool {
        let mut any = false;
        self.stopped.borrow_mut().retain(|(other, _)| {
            let meant = tag.is_none_or(|tag| tag == other) && (all || !any);
            if meant {
                show(&format!("blkdebug: Resuming request '{other}'\n"));
                any = true;
            }
            !meant
        });
        self.changed.tell();
        any
    }
}

/// See the module.
pub struct Blkdebug {
    image: Child,
    align: u64,
    max_transfer: u64,
    zeroes: Pieces,
    discards: Pieces,
    injects: RefCell<Vec<Inject>>,
    set_states: Vec<SetState>,
    state: Cell<i64>,
    stops: Rc<Stops>,
    takes: Permissions,
    unshares: Permissions,
    /// What was given, for users.
    options: Vec<(Cow<'static, str>, OptionValue)>,
}

/// The options as they were given, with the places of rules in their names.
pub(super) fn described(
    given: &BlockdevOptionsBlkdebug<'_>,
) -> Vec<(Cow<'static, str>, OptionValue)> {
    let mut options: Vec<(Cow<'static, str>, OptionValue)> = Vec::new();
    let number = |value: i64| match u64::try_from(value) {
        Ok(value) => OptionValue::Number(value),
        Err(_) => OptionValue::Text(value.to_string()),
    };
    if let Some(config) = given.config {
        let config = String::from_utf8_lossy(config).into_owned();
        options.push(("config".into(), OptionValue::Text(config)));
    }
    for (name, value) in [
        ("align", given.align),
        ("max-transfer", given.max_transfer.map(i64::from)),
        ("opt-write-zero", given.opt_write_zero.map(i64::from)),
        ("max-write-zero", given.max_write_zero.map(i64::from)),
        ("opt-discard", given.opt_discard.map(i64::from)),
        ("max-discard", given.max_discard.map(i64::from)),
    ] {
        if let Some(value) = value {
            options.push((name.into(), number(value)));
        }
    }
    for (at, rule) in given.inject_error.clone().into_iter().flatten().enumerate() {
        let text = |name: &str| OptionValue::Text(name.to_owned());
        for (name, value) in [
            ("event", Some(text(rule.event.name()))),
            ("state", rule.state.map(number)),
            ("iotype", rule.iotype.map(|kind| text(kind.name()))),
            ("errno", rule.errno.map(number)),
            ("sector", rule.sector.map(number)),
            ("once", rule.once.map(OptionValue::Bool)),
            ("immediately", rule.immediately.map(OptionValue::Bool)),
        ] {
            if let Some(value) = value {
                options.push((format!("inject-error.{at}.{name}").into(), value));
            }
        }
    }
    for (at, rule) in given.set_state.clone().into_iter().flatten().enumerate() {
        let event = OptionValue::Text(rule.event.name().to_owned());
        options.push((format!("set-state.{at}.event").into(), event));
        if let Some(state) = rule.state {
            options.push((format!("set-state.{at}.state").into(), number(state)));
        }
        let next = number(rule.new_state);
        options.push((format!("set-state.{at}.new_state").into(), next));
    }
    options
}

fn permissions(list: impl Iterator<Item = BlockPermission>) -> Permissions {
    list.map(|permission| match permission {
        BlockPermission::ConsistentRead => Permissions::CONSISTENT_READ,
        BlockPermission::Write => Permissions::WRITE,
        BlockPermission::WriteUnchanged => Permissions::WRITE_UNCHANGED,
        BlockPermission::Resize => Permissions::RESIZE,
    })
    .fold(Permissions::empty(), |all, one| all | one)
}

impl Blkdebug {
    /// The rules of its options.
    ///
    /// # Errors
    /// In QEMU's words where it has some.
    pub fn new(image: Child, options: &BlockdevOptionsBlkdebug<'_>) -> Result<Self, Refusal> {
        let mut rules = match options.config {
            None => Rules::default(),
            Some(path) => super::rules::read(&String::from_utf8_lossy(path))?,
        };
        let align = options.align.unwrap_or(0);
        let align = u64::try_from(align)
            .ok()
            .filter(|align| *align == 0 || (align.is_power_of_two() && *align < i32::MAX as u64));
        let align = align.ok_or_else(|| {
            let align = options.align.unwrap_or(0);
            format!("Cannot meet constraints with align {align}")
        })?;
        let max_transfer = options.max_transfer.unwrap_or(0);
        let fits = u64::try_from(max_transfer)
            .is_ok_and(|most| most == 0 || most.is_multiple_of(align.max(1)));
        if !fits {
            return Err(format!(
                "Cannot meet constraints with max-transfer {max_transfer}"
            ));
        }
        let pieces = |unit: (&str, Option<i32>), most: (&str, Option<i32>)| {
            let check = |(name, value): (&str, Option<i32>), unit: u64| {
                let value = value.unwrap_or(0);
                let number = u64::try_from(value).map_err(|_| {
                    format!("Parameter '{name}' expects a non-negative number below 2^64")
                })?;
                match number.is_multiple_of(unit) {
                    true => Ok(number),
                    false => Err(format!("Cannot meet constraints with {name} {value}")),
                }
            };
            let unit = check(unit, align.max(1))?;
            let most = check(most, align.max(unit).max(1))?;
            Ok::<Pieces, Refusal>(Pieces { unit, most })
        };
        let zeroes = pieces(
            ("opt-write-zero", options.opt_write_zero),
            ("max-write-zero", options.max_write_zero),
        )?;
        let discards = pieces(
            ("opt-discard", options.opt_discard),
            ("max-discard", options.max_discard),
        )?;
        for rule in options.inject_error.clone().into_iter().flatten() {
            rules.injects.push(Inject::new(
                rule.event,
                rule.state.unwrap_or(0),
                rule.iotype,
                rule.errno,
                rule.sector,
                rule.once.unwrap_or(false),
            )?);
        }
        for rule in options.set_state.clone().into_iter().flatten() {
            rules.set_states.push(SetState {
                event: rule.event,
                state: rule.state.unwrap_or(0),
                new_state: rule.new_state,
            });
        }
        Ok(Self {
            image,
            align: align.max(1),
            max_transfer: max_transfer as u64,
            zeroes,
            discards,
            injects: RefCell::new(rules.injects),
            set_states: rules.set_states,
            state: Cell::new(1),
            stops: Rc::default(),
            takes: permissions(options.take_child_perms.clone().into_iter().flatten()),
            unshares: permissions(options.unshare_child_perms.clone().into_iter().flatten()),
            options: described(options),
        })
    }

    /// An event comes: rules that wait for it in this state become active, the state may change, and the request may have to
    /// wait.
    async fn comes(&self, event: BlkdebugEvent) {
        if let Some(stop) = self.event(event) {
            stop.await;
        }
    }

    fn follow(&self, event: BlkdebugEvent) {
        let state = self.state.get();
        let here = |wanted: i64| wanted == 0 || wanted == state;
        let mut rules = self.injects.borrow_mut();
        let meant = |rule: &Inject| rule.event == event && here(rule.state);
        if rules.iter().any(meant) {
            // Those of an earlier event have had their time.
            for rule in rules.iter_mut() {
                rule.active = meant(rule);
            }
        }
        drop(rules);
        for rule in &self.set_states {
            if rule.event == event && here(rule.state) {
                self.state.set(rule.new_state);
            }
        }
    }

    /// Whether a request fails.
    fn check(&self, kind: BlkdebugIOType, at: u64, length: u64) -> Result<(), Errno> {
        let sectors = at / 512..(at + length).div_ceil(512);
        let concerns = |rule: &Inject| {
            let usual = matches!(
                kind,
                BlkdebugIOType::Read | BlkdebugIOType::Write | BlkdebugIOType::Flush
            );
            let kind = rule.kind.map_or(usual, |wanted| wanted == kind);
            let sector = rule.sector;
            let sector = sector.is_none_or(|sector| sectors.contains(&sector));
            rule.active && kind && sector
        };
        let mut rules = self.injects.borrow_mut();
        let Some(found) = rules.iter().position(concerns) else {
            return Ok(());
        };
        let error = rules[found].error;
        if rules[found].once {
            rules.remove(found);
        }
        Err(error)
    }

    /// Whether a request is made of whole blocks, as the image is said to want them.
    fn is_aligned(&self, at: u64, length: u64) -> bool {
        at.is_multiple_of(self.align) && length.is_multiple_of(self.align)
    }

    async fn moves(&self, at: u64, memory: &Buffer, write: bool) -> Result<(), Errno> {
        let kind = match write {
            true => BlkdebugIOType::Write,
            false => BlkdebugIOType::Read,
        };
        let most = match self.max_transfer {
            0 => memory.len(),
            most => most as usize,
        };
        let mut done = 0;
        while done < memory.len() {
            let part = memory.slice(done, most);
            let here = at + done as u64;
            self.check(kind, here, part.len() as u64)?;
            done += part.len();
            match write {
                true => self.image.node().write(here, part).await?,
                false => self.image.node().read(here, part).await?,
            }
        }
        Ok(())
    }

    /// Writes zeros where a request for zeros can't be.
    async fn fill(&self, from: u64, to: u64) -> Result<(), Errno> {
        let mut at = from;
        while at < to {
            let part = (to - at).min(FILL);
            self.moves(at, &Buffer::new(part as usize), true).await?;
            at += part;
        }
        Ok(())
    }

    /// The whole blocks around a range.
    fn around(&self, at: u64, length: u64) -> (u64, usize) {
        let start = at - at % self.align;
        let end = (at + length).next_multiple_of(self.align);
        (start, (end - start) as usize)
    }
}

impl Driver for Blkdebug {
    fn name(&self) -> &'static str {
        "blkdebug"
    }

    fn length(&self) -> u64 {
        self.image.node().length()
    }

    fn read<'a>(&'a self, at: u64, to: Buffer) -> Io<'a> {
        Box::pin(async move {
            let length = to.len() as u64;
            if self.is_aligned(at, length) {
                return self.moves(at, &to, false).await;
            }
            let (start, whole) = self.around(at, length);
            let whole = Buffer::new(whole);
            self.moves(start, &whole, false).await?;
            to.copy_from(&whole.slice((at - start) as usize, to.len()));
            Ok(())
        })
    }

    fn write<'a>(&'a self, at: u64, from: Buffer) -> Io<'a> {
        Box::pin(async move {
            let length = from.len() as u64;
            if self.is_aligned(at, length) {
                self.comes(BlkdebugEvent::Pwritev).await;
                self.moves(at, &from, true).await?;
            } else {
                let (start, whole) = self.around(at, length);
                let whole = Buffer::new(whole);
                self.comes(BlkdebugEvent::PwritevRmwHead).await;
                self.moves(start, &whole, false).await?;
                self.comes(BlkdebugEvent::PwritevRmwAfterHead).await;
                whole
                    .slice((at - start) as usize, from.len())
                    .copy_from(&from);
                self.comes(BlkdebugEvent::Pwritev).await;
                self.moves(start, &whole, true).await?;
            }
            self.comes(BlkdebugEvent::PwritevDone).await;
            Ok(())
        })
    }

    fn write_zeroes<'a>(&'a self, at: u64, length: u64, may_unmap: bool) -> Io<'a> {
        Box::pin(async move {
            if !self.is_aligned(at, length) {
                return Err(Errno::OPNOTSUPP);
            }
            self.comes(BlkdebugEvent::PwritevZero).await;
            let mut done = at;
            for (start, part) in self.zeroes.of(at, length) {
                self.fill(done, start).await?;
                self.check(BlkdebugIOType::WriteZeroes, start, part)?;
                let node = self.image.node();
                node.write_zeroes(start, part, may_unmap).await?;
                done = start + part;
            }
            self.fill(done, at + length).await?;
            self.comes(BlkdebugEvent::PwritevDone).await;
            Ok(())
        })
    }

    fn discard<'a>(&'a self, at: u64, length: u64) -> Io<'a> {
        Box::pin(async move {
            if !self.is_aligned(at, length) {
                // What is less than a block can't be given up.
                return Ok(());
            }
            for (start, part) in self.discards.of(at, length) {
                self.check(BlkdebugIOType::Discard, start, part)?;
                self.image.node().discard(start, part).await?;
            }
            Ok(())
        })
    }

    fn flush(&self) -> Io<'_> {
        // A rule of a sector can't mean a flush.
        let checked = self.check(BlkdebugIOType::Flush, 0, 0);
        Box::pin(std::future::ready(checked))
    }

    fn resize<'a>(&'a self, _length: u64) -> Boxed<'a, Result<(), Refusal>> {
        Box::pin(std::future::ready(Err(
            "Image format driver does not support resize".to_owned(),
        )))
    }

    fn children(&self) -> Vec<&Child> {
        vec![&self.image]
    }

    fn child_need(&self, _role: &str, need: Need) -> Need {
        Need {
            uses: need.uses | self.takes,
            shares: need.shares - self.unshares,
        }
    }

    fn event(&self, event: BlkdebugEvent) -> Option<Boxed<'static, ()>> {
        self.follow(event);
        self.stops.comes(event)
    }

    fn breakpoint(&self, what: Breakpoint<'_>) -> Result<(), Errno> {
        let stops = &self.stops;
        let is_there = match what {
            Breakpoint::Set(event, tag) => {
                stops.wanted.borrow_mut().push((event, tag.to_owned()));
                true
            }
            Breakpoint::Remove(tag) => {
                let mut wanted = stops.wanted.borrow_mut();
                let before = wanted.len();
                wanted.retain(|(_, other)| other != tag);
                stops.resume(Some(tag), true);
                wanted.len() < before
            }
            Breakpoint::Resume(tag) => stops.resume(Some(tag), false),
            Breakpoint::HasStopped(tag) => {
                let stopped = stops.stopped.borrow();
                stopped.iter().any(|(other, _)| other == tag)
            }
        };
        match is_there {
            true => Ok(()),
            false => Err(Errno::NOENT),
        }
    }

    fn hurry(&self, on: bool) {
        let hurried = self.stops.hurried.get();
        self.stops.hurried.set(match on {
            true => hurried + 1,
            false => hurried.saturating_sub(1),
        });
        self.stops.resume(None, true);
    }

    fn status(&self, at: u64, length: u64) -> (bool, u64) {
        self.image.node().driver().status(at, length)
    }

    fn describe(&self) -> Description {
        let mut config = "";
        for (name, value) in &self.options {
            match (&**name, value) {
                ("config", OptionValue::Text(text)) => config = text,
                // A name can't tell of it.
                _ => {
                    return Description {
                        filename: None,
                        options: self.options.clone(),
                    };
                }
            }
        }
        let below = self.image.node().driver().describe().filename;
        Description {
            filename: below.map(|below| format!("blkdebug:{config}:{below}")),
            options: self.options.clone(),
        }
    }

    fn has_dirty_flag(&self) -> bool {
        self.image.node().driver().has_dirty_flag()
    }

    fn is_filter(&self) -> bool {
        true
    }

    // Rules may fail whatever would be asked for.
    fn allocated(&self) -> Option<u64> {
        None
    }
}
