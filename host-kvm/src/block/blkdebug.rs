//! `blkdebug`: requests fail by rules.
//!
//! A rule waits for an event of the image's work. From then on it is active: one that injects errors fails requests of its
//! kinds and sectors, one that sets the state changes which rules can become active next. The parent tells of most
//! events: a rule that waits for a read or a write needs a format above, if only `raw`.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};

use rustix::io::Errno;
use thimble_monitor::schema::arguments::BlockdevOptionsBlkdebug;
use thimble_monitor::schema::{BlkdebugEvent, BlkdebugIOType, BlockPermission};

use super::buffer::Buffer;
use super::executor::Boxed;
use super::node::{Child, Description, Driver, Io, Need, OptionValue, Permissions, Refusal};

/// A rule that fails requests.
struct Inject {
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

/// A rule that changes the state.
struct SetState {
    event: BlkdebugEvent,
    state: i64,
    new_state: i64,
}

/// See the module.
pub struct Blkdebug {
    image: Child,
    align: u64,
    max_transfer: u64,
    injects: RefCell<Vec<Inject>>,
    set_states: Vec<SetState>,
    state: Cell<i64>,
    takes: Permissions,
    unshares: Permissions,
    /// What was given, for users.
    options: Vec<(Cow<'static, str>, OptionValue)>,
}

/// The options as they were given, with the places of rules in their names.
fn described(given: &BlockdevOptionsBlkdebug<'_>) -> Vec<(Cow<'static, str>, OptionValue)> {
    let mut options: Vec<(Cow<'static, str>, OptionValue)> = Vec::new();
    let number = |value: i64| match u64::try_from(value) {
        Ok(value) => OptionValue::Number(value),
        Err(_) => OptionValue::Text(value.to_string()),
    };
    for (name, value) in [
        ("align", given.align),
        ("max-transfer", given.max_transfer.map(i64::from)),
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
        if options.config.is_some() {
            return Err("blkdebug: files of rules are not available".to_owned());
        }
        for (name, value) in [
            ("opt-write-zero", options.opt_write_zero),
            ("max-write-zero", options.max_write_zero),
            ("opt-discard", options.opt_discard),
            ("max-discard", options.max_discard),
        ] {
            if value.is_some_and(|value| value != 0) {
                return Err(format!("blkdebug: '{name}' is not available"));
            }
        }
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
        let mut injects = Vec::new();
        for rule in options.inject_error.clone().into_iter().flatten() {
            let number = rule.errno.unwrap_or(5);
            let error = i32::try_from(number).ok().filter(|n| (1..4096).contains(n));
            let sector = rule.sector.unwrap_or(-1);
            injects.push(Inject {
                event: rule.event,
                state: rule.state.unwrap_or(0),
                kind: rule.iotype,
                error: Errno::from_raw_os_error(error.ok_or("Invalid errno value")?),
                sector: u64::try_from(sector).ok(),
                once: rule.once.unwrap_or(false),
                active: rule.event == BlkdebugEvent::None,
            });
        }
        let set_states = options.set_state.clone().into_iter().flatten();
        let set_states = set_states.map(|rule| SetState {
            event: rule.event,
            state: rule.state.unwrap_or(0),
            new_state: rule.new_state,
        });
        Ok(Self {
            image,
            align: align.max(1),
            max_transfer: max_transfer as u64,
            injects: RefCell::new(injects),
            set_states: set_states.collect(),
            state: Cell::new(1),
            takes: permissions(options.take_child_perms.clone().into_iter().flatten()),
            unshares: permissions(options.unshare_child_perms.clone().into_iter().flatten()),
            options: described(options),
        })
    }

    /// An event comes: rules that wait for it in this state become active, and the state may change.
    fn comes(&self, event: BlkdebugEvent) {
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
                self.comes(BlkdebugEvent::Pwritev);
                self.moves(at, &from, true).await?;
            } else {
                let (start, whole) = self.around(at, length);
                let whole = Buffer::new(whole);
                self.comes(BlkdebugEvent::PwritevRmwHead);
                self.moves(start, &whole, false).await?;
                self.comes(BlkdebugEvent::PwritevRmwAfterHead);
                whole
                    .slice((at - start) as usize, from.len())
                    .copy_from(&from);
                self.comes(BlkdebugEvent::Pwritev);
                self.moves(start, &whole, true).await?;
            }
            self.comes(BlkdebugEvent::PwritevDone);
            Ok(())
        })
    }

    fn write_zeroes<'a>(&'a self, at: u64, length: u64, may_unmap: bool) -> Io<'a> {
        Box::pin(async move {
            if !self.is_aligned(at, length) {
                return Err(Errno::OPNOTSUPP);
            }
            self.comes(BlkdebugEvent::PwritevZero);
            self.check(BlkdebugIOType::WriteZeroes, at, length)?;
            self.image
                .node()
                .write_zeroes(at, length, may_unmap)
                .await?;
            self.comes(BlkdebugEvent::PwritevDone);
            Ok(())
        })
    }

    fn discard<'a>(&'a self, at: u64, length: u64) -> Io<'a> {
        Box::pin(async move {
            if !self.is_aligned(at, length) {
                // What is less than a block can't be given up.
                return Ok(());
            }
            self.check(BlkdebugIOType::Discard, at, length)?;
            self.image.node().discard(at, length).await
        })
    }

    fn flush(&self) -> Io<'_> {
        Box::pin(async move {
            // A rule of a sector can't mean a flush.
            self.check(BlkdebugIOType::Flush, 0, 0)?;
            self.image.node().flush().await
        })
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

    fn event(&self, event: BlkdebugEvent) {
        self.comes(event);
    }

    fn describe(&self) -> Description {
        Description {
            filename: None,
            options: self.options.clone(),
        }
    }

    // Rules may fail whatever would be asked for.
    fn allocated(&self) -> Option<u64> {
        None
    }
}
