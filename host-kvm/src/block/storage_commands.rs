//! Commands of QEMU's program `qemu-io` on drives and nodes of a machine: what the human monitor's `qemu-io` does.
//!
//! What commands show goes to the process' standard output and error, in the formats that scripts expect there. Those of
//! a request of their own (`aio_*`) end while others go on, and show what came of it then. Left out are `abort` and
//! `sigraise`, which end the process. What needs a format that is not there (compression, a machine's state within the image,
//! preallocation) fails as it does with `raw`.

use std::fmt::Write;
use std::io::Write as _;
use std::rc::Rc;
use std::sync::Arc;

use rustix::io::Errno;
use thimble_core::devices::block::{DriveId, Operation, SECTOR};
use thimble_monitor::schema::{BlkdebugEvent, BlockdevDetectZeroesOptions};

use super::backend::{Backend, Place, Queued};
use super::buffer::Buffer;
use super::file::errno_text;
use super::node::{Breakpoint, Child, GivenSettings, Need, Node, Permissions};
use super::{Graph, REQUEST_MAX};
use crate::clock::monotonic;

use crate::options::opts::{NumberError, parse_bool, parse_number, parse_size, split};
use crate::options::{cache_mode, discard_mode};

/// The byte that writes are made of, unless they have a pattern.
const WRITTEN: u8 = 0xcd;

/// Nanoseconds between two looks at something that is waited for.
const STEP: u64 = 1_000_000;

/// Milliseconds that a command sleeps at most: nothing else is served meanwhile.
const SLEEP_MAX: u64 = 60_000;

/// What commands are done with.
#[derive(Clone)]
pub enum Target {
    /// A drive, with its limits and statistics.
    Drive(Rc<Backend>),
    /// A node, which this use keeps.
    Node(Rc<Child>),
}

impl Target {
    /// A node by itself.
    ///
    /// # Errors
    /// If it can't be used.
    pub fn of_node(node: &Rc<Node>) -> Result<Self, String> {
        let name = "an unnamed block device".to_owned();
        let child = Child::new(node, name, "root", Need::NONE)?;
        Ok(Self::Node(Rc::new(child)))
    }

    fn node(&self) -> Result<Rc<Node>, Errno> {
        match self {
            Self::Drive(drive) => {
                let root = drive.root.borrow();
                root.as_ref().map(|root| root.node()).ok_or(Errno::NOMEDIUM)
            }
            Self::Node(child) => Ok(child.node()),
        }
    }

    /// Lets the node be used otherwise. Who wants it read-only does not write to it any more; whose device does, may again.
    fn reopen(
        &self,
        graph: &Graph,
        node: &Rc<Node>,
        given: GivenSettings,
        read_only: Option<bool>,
    ) -> Result<(), String> {
        let change = |child: &Child| {
            let old = child.need();
            let writes = Permissions::WRITE | Permissions::WRITE_UNCHANGED;
            let keeps = Need {
                uses: old.uses - writes,
                ..old
            };
            if read_only == Some(true) {
                child.set_need(keeps)?;
            }
            let changed = graph.change_settings(node, given);
            let wanted = match (&changed, self) {
                (Err(_), _) => old,
                (Ok(()), Self::Drive(drive)) if read_only == Some(false) => {
                    let need = drive.need(false);
                    Need {
                        uses: need.uses | old.uses,
                        ..need
                    }
                }
                _ => return changed,
            };
            changed.and(child.set_need(wanted))
        };
        match self {
            Self::Drive(drive) => drive.root.borrow().as_ref().map_or(Ok(()), change),
            Self::Node(child) => change(child),
        }
    }

    /// Asks for what a command needs beside what there is.
    fn need(&self, more: Permissions) -> Result<(), String> {
        let ask = |child: &Child| {
            let need = child.need();
            if more.contains(Permissions::WRITE) && child.node().settings().read_only {
                return Err("Block node is read-only".to_owned());
            }
            match need.uses.contains(more) {
                true => Ok(()),
                false => child.set_need(Need {
                    uses: need.uses | more,
                    ..need
                }),
            }
        };
        match self {
            Self::Drive(drive) => drive.root.borrow().as_ref().map_or(Ok(()), ask),
            Self::Node(child) => ask(child),
        }
    }
}

/// A command.
struct Command {
    name: &'static str,
    arguments: &'static str,
    /// Words behind the options, at least and at most.
    words: (usize, usize),
    /// Letters of options; a colon follows one that has a value.
    options: &'static str,
    needs: Permissions,
    help: &'static str,
    run: fn(&Call<'_>) -> Result<(), Wrong>,
}

/// Why a command was not done.
enum Wrong {
    /// It is not as its help says.
    Usage,
    /// For this reason.
    Reason(String),
    /// For this reason, which the monitor hears.
    Said(String),
}

impl From<String> for Wrong {
    fn from(reason: String) -> Self {
        Self::Reason(reason)
    }
}

const READ: Permissions = Permissions::CONSISTENT_READ;

static COMMANDS: [Command; 21] = [
    Command {
        name: "aio_flush",
        arguments: "",
        words: (0, 0),
        options: "",
        needs: Permissions::empty(),
        help: "waits for all requests of aio_read and aio_write",
        run: |call| {
            let began = monotonic();
            call.graph.wait(call.graph.outside_end());
            if let Target::Drive(drive) = &call.target {
                let request = queued(Operation::Flush, 0, 0);
                drive.count(&request, began, monotonic(), Ok(()));
            }
            Ok(())
        },
    },
    Command {
        name: "aio_read",
        arguments: "[-Ciqv] [-P pattern] off len [len..]",
        words: (2, usize::MAX),
        options: "CiqvP:",
        needs: READ,
        help: "begins to read",
        run: |call| call.move_bytes(false, true),
    },
    Command {
        name: "aio_write",
        arguments: "[-Cfiquz] [-P pattern] off len [len..]",
        words: (2, usize::MAX),
        options: "CfiquzP:",
        needs: Permissions::WRITE,
        help: "begins to write",
        run: |call| call.move_bytes(true, true),
    },
    Command {
        name: "alloc",
        arguments: "offset [count]",
        words: (1, 2),
        options: "",
        needs: Permissions::empty(),
        help: "tells how much of a range is in the image, and not only in one below",
        run: alloc,
    },
    Command {
        name: "break",
        arguments: "event tag",
        words: (2, 2),
        options: "",
        needs: Permissions::empty(),
        help: "lets the next request that comes to this step of blkdebug's stop there",
        run: set_break,
    },
    Command {
        name: "discard",
        arguments: "[-Cq] off len",
        words: (2, 2),
        options: "Cq",
        needs: Permissions::WRITE,
        help: "gives a range up",
        run: |call| call.change(Operation::Discard, "discard"),
    },
    Command {
        name: "flush",
        arguments: "",
        words: (0, 0),
        options: "",
        needs: Permissions::empty(),
        help: "waits until what was written is on stable storage",
        run: flush,
    },
    Command {
        name: "help",
        arguments: "[command]",
        words: (0, 1),
        options: "",
        needs: Permissions::empty(),
        help: "lists commands",
        run: help,
    },
    Command {
        name: "info",
        arguments: "",
        words: (0, 0),
        options: "",
        needs: Permissions::empty(),
        help: "shows the image's format",
        run: |call| {
            let node = call.node("get info")?;
            let name = node.driver().name();
            let cluster = bytes(node.driver().cluster_size().unwrap_or(0) as f64);
            show(&format!(
                "format name: {name}\ncluster size: {cluster}\nvm state offset: 0 bytes\n"
            ));
            Ok(())
        },
    },
    Command {
        name: "length",
        arguments: "",
        words: (0, 0),
        options: "",
        needs: Permissions::empty(),
        help: "shows the image's length",
        run: |call| {
            let node = call.target.node();
            let node = node.map_err(|error| format!("getlength: {}", errno_text(error)))?;
            show(&format!("{}\n", bytes(node.length() as f64)));
            Ok(())
        },
    },
    Command {
        name: "map",
        arguments: "",
        words: (0, 0),
        options: "",
        needs: Permissions::empty(),
        help: "shows which parts are in the image",
        run: map,
    },
    Command {
        name: "read",
        arguments: "[-bCqv] [-P pattern [-s off] [-l len]] off len",
        words: (2, 2),
        options: "bCpqvP:s:l:",
        needs: READ,
        help: "reads",
        run: |call| call.move_bytes(false, false),
    },
    Command {
        name: "readv",
        arguments: "[-Cqv] [-P pattern] off len [len..]",
        words: (2, usize::MAX),
        options: "CqvP:",
        needs: READ,
        help: "reads into several places",
        run: |call| call.move_bytes(false, false),
    },
    Command {
        name: "remove_break",
        arguments: "tag",
        words: (1, 1),
        options: "",
        needs: Permissions::empty(),
        help: "takes a break away; what has stopped there goes on",
        run: |call| {
            let tag = call.word(0);
            let gone = call.breakpoint(Breakpoint::Remove(tag));
            gone.map_err(|error| {
                format!("Could not remove breakpoint {tag}: {}", errno_text(error)).into()
            })
        },
    },
    Command {
        name: "reopen",
        arguments: "[(-r|-w)] [-c cache] [-o options]",
        words: (0, 0),
        options: "c:o:rw",
        needs: Permissions::empty(),
        help: "lets the image be used otherwise: read-only or not, by this cache mode",
        run: reopen,
    },
    Command {
        name: "resume",
        arguments: "tag",
        words: (1, 1),
        options: "",
        needs: Permissions::empty(),
        help: "lets a request go on that has stopped",
        run: |call| {
            let resumed = call.breakpoint(Breakpoint::Resume(call.word(0)));
            // What it comes to is shown first.
            call.graph.run();
            resumed
                .map_err(|error| format!("Could not resume request: {}", errno_text(error)).into())
        },
    },
    Command {
        name: "sleep",
        arguments: "milliseconds",
        words: (1, 1),
        options: "",
        needs: Permissions::empty(),
        help: "waits, for a minute at most",
        run: sleep,
    },
    Command {
        name: "truncate",
        arguments: "[-m off] off",
        words: (1, 1),
        options: "m:",
        needs: Permissions::WRITE.union(Permissions::RESIZE),
        help: "changes the image's length",
        run: |call| {
            match call.option('m') {
                None | Some("off") => {}
                Some(mode @ ("metadata" | "falloc" | "full")) => {
                    let text = format!("Unsupported preallocation mode: {mode}");
                    return Err(Wrong::Said(text));
                }
                Some(mode) => {
                    return Err(Wrong::Said(format!("Invalid preallocation mode '{mode}'")));
                }
            }
            let length = call.size(0)?;
            let node = call.node("truncate")?;
            let resized = call.graph.wait(node.resize(length));
            resized.map_err(Wrong::Said)
        },
    },
    Command {
        name: "wait_break",
        arguments: "tag",
        words: (1, 1),
        options: "",
        needs: Permissions::empty(),
        help: "waits until a request under way has stopped",
        run: wait_break,
    },
    Command {
        name: "write",
        arguments: "[-bcCfnquz] [-P pattern | -s source_file] off len",
        words: (2, 2),
        options: "bcCfnpquzP:s:",
        needs: Permissions::WRITE,
        help: "writes, bytes of 0xcd unless there is a pattern, with -z zeros",
        run: |call| call.move_bytes(true, false),
    },
    Command {
        name: "writev",
        arguments: "[-Cfq] [-P pattern] off len [len..]",
        words: (2, usize::MAX),
        options: "CfqP:",
        needs: Permissions::WRITE,
        help: "writes from several places",
        run: |call| call.move_bytes(true, false),
    },
];

fn usage(command: &Command) -> String {
    let Command {
        name,
        arguments,
        help,
        ..
    } = command;
    match arguments.is_empty() {
        true => format!("{name} -- {help}\n"),
        false => format!("{name} {arguments} -- {help}\n"),
    }
}

fn help(call: &Call<'_>) -> Result<(), Wrong> {
    let Some(name) = call.words.first() else {
        let all: String = COMMANDS.iter().map(usage).collect();
        show(&format!(
            "{all}\nUse 'help commandname' for extended help.\n"
        ));
        return Ok(());
    };
    let found = COMMANDS.iter().find(|command| command.name == *name);
    match found {
        Some(command) => show(&usage(command)),
        None => show(&format!("command {name} not found\n")),
    }
    Ok(())
}

// Whether it failed is not shown.
fn flush(call: &Call<'_>) -> Result<(), Wrong> {
    if let Ok(node) = call.target.node() {
        call.graph.wait(node.flush()).ok();
    }
    Ok(())
}

/// Visits the parts of a range, each as long as all of it is in the image or not.
fn parts(node: &Node, from: u64, to: u64, mut visit: impl FnMut(bool, u64, u64)) {
    let mut at = from;
    while at < to {
        let (is_there, mut length) = node.driver().status(at, to - at);
        loop {
            let next = at + length;
            match node.driver().status(next, to.saturating_sub(next)) {
                (same, more) if next < to && same == is_there && more > 0 => length += more,
                _ => break,
            }
        }
        // Whatever a driver says, there is an end.
        let length = length.clamp(1, to - at);
        visit(is_there, at, length);
        at += length;
    }
}

fn alloc(call: &Call<'_>) -> Result<(), Wrong> {
    let at = call.size(0)?;
    let count = match call.words.get(1) {
        Some(count) => size(count)?,
        None => SECTOR,
    };
    let node = call.node("alloc")?;
    let end = at.saturating_add(count).min(node.length());
    let mut there = 0;
    parts(&node, at, end, |is_there, _, length| {
        there += if is_there { length } else { 0 };
    });
    let (all, at) = (end.saturating_sub(at), bytes(at as f64));
    show(&format!("{there}/{all} bytes allocated at offset {at}\n"));
    Ok(())
}

fn map(call: &Call<'_>) -> Result<(), Wrong> {
    let failed = |error| {
        let reason = errno_text(error);
        Wrong::Said(format!("Failed to query image length: {reason}"))
    };
    let node = call.target.node().map_err(failed)?;
    parts(&node, 0, node.length(), |is_there, at, length| {
        let not = if is_there { "   " } else { "not" };
        let (long, place) = (bytes(length as f64), bytes(at as f64));
        show(&format!(
            "{long} ({length:#x}) bytes {not} allocated at offset {place} ({at:#x})\n"
        ));
    });
    Ok(())
}

/// Reads an option `-o`: what settings are to be.
fn read_settings(text: &str, given: &mut GivenSettings) -> Result<(), String> {
    for (key, value) in split(text) {
        let value = value.as_deref().unwrap_or("on");
        let on = || {
            let on = parse_bool(value);
            let on = on.ok_or_else(|| format!("Parameter '{key}' expects 'on' or 'off'"));
            on.map(Some)
        };
        match key.as_str() {
            "read-only" => given.read_only = on()?,
            "auto-read-only" => given.auto_read_only = on()?,
            "cache.direct" => given.direct = on()?,
            "cache.no-flush" => given.no_flush = on()?,
            "discard" => given.discard = Some(discard_mode(value)?),
            "detect-zeroes" => {
                let mut known = BlockdevDetectZeroesOptions::ALL.iter().copied();
                let known = known.find(|known| known.name() == value);
                let unknown = || format!("Invalid parameter '{value}'");
                given.detect_zeroes = Some(known.ok_or_else(unknown)?);
            }
            _ => return Err(format!("Cannot change the option '{key}'")),
        }
    }
    Ok(())
}

fn reopen(call: &Call<'_>) -> Result<(), Wrong> {
    let node = call.node("reopen")?;
    let (mut given, mut cache) = (GivenSettings::default(), None);
    for (letter, value) in &call.options {
        match letter {
            'r' | 'w' if given.read_only.is_some() => {
                let text = "Only one -r/-w option may be given";
                return Err(Wrong::Said(text.to_owned()));
            }
            'r' | 'w' => given.read_only = Some(*letter == 'r'),
            'c' => {
                let invalid = || Wrong::Said(format!("Invalid cache option: {value}"));
                cache = Some(cache_mode(value).ok_or_else(invalid)?);
            }
            _ => {}
        }
    }
    let mut options = GivenSettings::default();
    for (_, text) in call.options.iter().filter(|(letter, _)| *letter == 'o') {
        read_settings(text, &mut options).map_err(Wrong::Said)?;
    }
    if let (Target::Drive(drive), Some(cache)) = (&call.target, cache)
        && drive.write_cache.get() != cache.write_back
        && drive.device.borrow().is_some()
    {
        let text = "Cannot change cache.writeback: Device attached";
        return Err(Wrong::Said(text.to_owned()));
    }
    if options.read_only.is_some() && given.read_only.is_some() {
        let text = "Cannot set both -r/-w and 'read-only'";
        return Err(Wrong::Said(text.to_owned()));
    }
    if cache.is_some() && options.direct.or(options.no_flush).is_some() {
        let text = "Cannot set both -c and the cache options";
        return Err(Wrong::Said(text.to_owned()));
    }
    if let Some(cache) = cache {
        (given.direct, given.no_flush) = (Some(cache.direct), Some(cache.no_flush));
    }
    let wanted = options.or(given).or(node.settings().into());
    call.target
        .reopen(call.graph, &node, wanted, given.read_only)
        .map_err(Wrong::Said)?;
    if let (Target::Drive(drive), Some(cache)) = (&call.target, cache) {
        drive.write_cache.set(cache.write_back);
    }
    Ok(())
}

fn set_break(call: &Call<'_>) -> Result<(), Wrong> {
    let failed = |error| format!("Could not set breakpoint: {}", errno_text(error));
    let events = BlkdebugEvent::ALL.iter().copied();
    let mut events = events.filter(|event| event.name() == call.word(0));
    // Only who can stop requests knows where.
    let event = events.next().unwrap_or(BlkdebugEvent::None);
    let is_there = call.breakpoint(Breakpoint::HasStopped(""));
    if is_there == Err(Errno::OPNOTSUPP) {
        return Err(failed(Errno::OPNOTSUPP).into());
    }
    if event == BlkdebugEvent::None {
        return Err(failed(Errno::NOENT).into());
    }
    let set = call.breakpoint(Breakpoint::Set(event, call.word(1)));
    set.map_err(|error| failed(error).into())
}

fn wait_break(call: &Call<'_>) -> Result<(), Wrong> {
    let tag = call.word(0);
    let has_stopped = || call.breakpoint(Breakpoint::HasStopped(tag));
    // Others of its kind go on.
    let drives = call.graph.drives();
    let is_busy = || call.graph.is_busy() || drives.iter().any(|drive| drive.busy.get() > 0);
    call.graph.run();
    while has_stopped() == Err(Errno::NOENT) && is_busy() {
        let executor = &call.graph.executor;
        let soon = monotonic() + STEP;
        call.graph.wait(executor.sleep_until(soon));
    }
    match has_stopped() {
        // With others nobody can wait for it.
        Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
        Err(_) => Err(format!("No request is under way that could stop at {tag}").into()),
    }
}

fn sleep(call: &Call<'_>) -> Result<(), Wrong> {
    let word = call.word(0);
    let time = parse_number(word).map_err(|_| format!("{word} is not a valid number"))?;
    let time = time.min(SLEEP_MAX).saturating_mul(1_000_000);
    let executor = &call.graph.executor;
    let end = monotonic().saturating_add(time);
    call.graph.wait(executor.sleep_until(end));
    Ok(())
}

/// Writes to standard output. If that is gone nobody reads it.
pub(super) fn show(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// A command that is being done.
struct Call<'c> {
    graph: &'c Rc<Graph>,
    target: Target,
    command: &'static Command,
    options: Vec<(char, &'c str)>,
    words: Vec<&'c str>,
}

/// Does a command. `say` hears what keeps it from being done at all.
///
/// # Errors
/// That of `say`.
pub fn run(graph: &Rc<Graph>, target: Target, line: &str, say: &mut dyn Write) -> std::fmt::Result {
    let mut words = line.split(' ').filter(|word| !word.is_empty());
    let Some(name) = words.next() else {
        return Ok(());
    };
    if let "abort" | "sigraise" = name {
        return writeln!(say, "{name} ends the process and is not available");
    }
    let Some(command) = COMMANDS.iter().find(|command| command.name == name) else {
        complain(&format!("command \"{name}\" not found\n"));
        return Ok(());
    };
    let given: Vec<&str> = words.collect();
    let (least, most) = command.words;
    // Options count here, as with QEMU.
    let has_options = !command.options.is_empty();
    if given.len() < least || (given.len() > most && !has_options) {
        let count = given.len();
        let expected = match (least, most) {
            (least, most) if least == most => format!("{least} arguments"),
            (least, usize::MAX) => format!("at least {least} arguments"),
            (least, most) => format!("between {least} and {most} arguments"),
        };
        let expected = match has_options {
            true => format!("at least {least} arguments"),
            false => expected,
        };
        complain(&format!(
            "bad argument count {count} to {name}, expected {expected}\n"
        ));
        return Ok(());
    }
    if let Err(reason) = target.need(command.needs) {
        return writeln!(say, "{reason}");
    }
    let options = match options(command, &given) {
        Ok(options) => options,
        Err((letter, wrong)) => {
            complain(&format!("{name}: {wrong} -- '{letter}'\n"));
            show(&usage(command));
            return Ok(());
        }
    };
    let (options, words) = options;
    if words.len() < least || words.len() > most {
        show(&usage(command));
        return Ok(());
    }
    let call = Call {
        graph,
        target,
        command,
        options,
        words,
    };
    match (command.run)(&call) {
        Ok(()) => {}
        Err(Wrong::Usage) => show(&usage(command)),
        Err(Wrong::Reason(reason)) => show(&format!("{reason}\n")),
        Err(Wrong::Said(reason)) => writeln!(say, "{reason}")?,
    }
    Ok(())
}

/// Writes to standard error.
fn complain(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Options with their values, and the words that are none.
type Given<'g> = (Vec<(char, &'g str)>, Vec<&'g str>);

/// Takes options out of the words; or the letter of one that is wrong, and what is wrong.
fn options<'g>(command: &Command, given: &[&'g str]) -> Result<Given<'g>, (char, &'static str)> {
    let (mut options, mut words) = (Vec::new(), Vec::new());
    if command.options.is_empty() {
        return Ok((options, given.to_vec()));
    }
    let mut rest = given.iter().copied();
    while let Some(word) = rest.next() {
        let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
            words.push(word);
            continue;
        };
        for (at, letter) in letters.char_indices() {
            let known = command.options.find(letter).filter(|_| letter != ':');
            let known = known.ok_or((letter, "invalid option"))?;
            if !command.options[known..].starts_with(&format!("{letter}:")) {
                options.push((letter, ""));
                continue;
            }
            let value = &letters[at + letter.len_utf8()..];
            let value = match value.is_empty() {
                true => {
                    let missing = (letter, "option requires an argument");
                    rest.next().ok_or(missing)?
                }
                false => value,
            };
            options.push((letter, value));
            break;
        }
    }
    Ok((options, words))
}

/// How the end of a request is shown.
#[derive(Clone)]
struct Report {
    /// What was done, in the past tense.
    verb: &'static str,
    /// The request, in an error message.
    what: &'static str,
    offset: u64,
    length: u64,
    quiet: bool,
    for_machines: bool,
    dump: bool,
    /// What was read should be this, from one place on, for so many bytes.
    pattern: Option<(u8, u64, u64)>,
}

impl Call<'_> {
    fn has(&self, letter: char) -> bool {
        self.options.iter().any(|(other, _)| *other == letter)
    }

    fn option(&self, letter: char) -> Option<&str> {
        let found = self.options.iter().rev();
        let mut found = found.filter(|(other, _)| *other == letter);
        found.next().map(|(_, value)| *value)
    }

    fn word(&self, place: usize) -> &str {
        self.words.get(place).copied().unwrap_or_default()
    }

    fn breakpoint(&self, what: Breakpoint<'_>) -> Result<(), Errno> {
        self.target.node()?.breakpoint(what)
    }

    fn node(&self, what: &str) -> Result<Rc<Node>, Wrong> {
        let failed = |error| Wrong::Reason(format!("{what} failed: {}", errno_text(error)));
        self.target.node().map_err(failed)
    }

    fn size(&self, place: usize) -> Result<u64, Wrong> {
        size(self.words.get(place).copied().unwrap_or_default())
    }

    /// The bytes that the words from this one on add up to.
    fn lengths(&self, first: usize) -> Result<u64, Wrong> {
        let mut all = 0_u64;
        for word in self.words.iter().skip(first) {
            all = all.saturating_add(size(word)?);
            if all > REQUEST_MAX {
                return Err(format!("length cannot exceed {REQUEST_MAX}, given {word}").into());
            }
        }
        Ok(all)
    }

    fn report(&self, verb: &'static str, what: &'static str, offset: u64, length: u64) -> Report {
        Report {
            verb,
            what,
            offset,
            length,
            quiet: self.has('q'),
            for_machines: self.has('C'),
            dump: self.has('v'),
            pattern: None,
        }
    }

    fn move_bytes(&self, write: bool, alone: bool) -> Result<(), Wrong> {
        let pattern = self.option('P').map(|text| {
            let number = parse_number(text).ok();
            let byte = number.and_then(|number| u8::try_from(number).ok());
            byte.ok_or_else(|| format!("{text} is not a valid pattern byte"))
        });
        let pattern = pattern.transpose()?;
        let zeros = self.has('z');
        for (letter, what) in [('n', "-n"), ('u', "-u")] {
            if self.has(letter) && !zeros {
                return Err(format!("{what} requires -z to be specified").into());
            }
        }
        let in_state = self.has('b');
        if in_state && zeros {
            let text = "-b and -z cannot be specified at the same time";
            return Err(text.to_owned().into());
        }
        let source = self.option('s').filter(|_| write);
        let kinds = [zeros, pattern.is_some(), source.is_some()];
        if kinds.iter().filter(|given| **given).count() > 1 {
            let text = "Only one of -z, -P, and -s can be specified at the same time";
            return Err(text.to_owned().into());
        }
        if zeros && self.words.len() > 2 {
            let text = "-z supports only a single length parameter";
            return Err(text.to_owned().into());
        }
        let offset = self.size(0)?;
        let length = self.lengths(1)?;
        if alone && self.has('i') {
            if let Target::Drive(drive) = &self.target {
                let operation = operation(write);
                let request = queued(operation, offset, length);
                let now = monotonic();
                drive.count(&request, now, now, Err(Errno::INVAL));
            }
            return Ok(());
        }
        let (verb, what) = match (write, alone) {
            (true, false) => ("wrote", "write"),
            (false, false) => ("read", "read"),
            (true, true) => ("wrote", "aio_write"),
            (false, true) => ("read", "readv"),
        };
        let mut report = self.report(verb, what, offset, length);
        if in_state || self.has('c') {
            // Nor is there a format with either.
            report.show(Err(Errno::OPNOTSUPP), 0);
            return Ok(());
        }
        let part = |letter: char| self.option(letter).filter(|_| !write).map(size).transpose();
        let (skip, many) = (part('s')?, part('l')?);
        if (skip.is_some() || many.is_some()) && pattern.is_none() {
            return Err(Wrong::Usage);
        }
        if !write && let Some(byte) = pattern {
            let skip = skip.unwrap_or(0);
            let many = many.unwrap_or_else(|| length.saturating_sub(skip));
            if skip.checked_add(many).is_none_or(|end| end > length) {
                return Err("pattern verification range exceeds end of read data"
                    .to_owned()
                    .into());
            }
            report.pattern = Some((byte, skip, many));
        }
        let operation = match (write, zeros) {
            (false, _) => Operation::Read,
            (true, false) => Operation::Write {
                force_unit_access: self.has('f'),
            },
            (true, true) => Operation::WriteZeroes {
                may_unmap: self.has('u'),
            },
        };
        let memory = Buffer::new(if zeros { 0 } else { length as usize });
        if write && !zeros {
            match source {
                None => memory.fill(pattern.unwrap_or(WRITTEN)),
                Some(path) => match read_source(path) {
                    Ok(content) => repeat(&content, &memory),
                    Err(reason) => {
                        complain(&format!("{path}: {reason}\n"));
                        return Ok(());
                    }
                },
            }
        }
        if self.has('n') {
            // Never by writing zeros.
            let node = self.node("write")?;
            let zeroed = node.write_zeroes_at_once(offset, length, self.has('u'));
            let (result, taken) = timed(self.graph, zeroed);
            report.show(result.map(|()| memory), taken);
            return Ok(());
        }
        let flush = zeros && self.has('f');
        let target = self.target.clone();
        if !alone {
            let future = perform(&target, operation, offset, length, memory, flush);
            let (result, taken) = timed(self.graph, future);
            report.show(result, taken);
            return Ok(());
        }
        let graph = self.graph.clone();
        graph.outside_begins(&target);
        self.graph.executor.spawn(async move {
            let began = monotonic();
            let result = perform(&target, operation, offset, length, memory, flush).await;
            let now = monotonic();
            if let Target::Drive(drive) = &target {
                let status = result.as_ref().map(drop).map_err(|error| *error);
                drive.count(&queued(operation, offset, length), began, now, status);
            }
            report.show(result, now.saturating_sub(began));
            graph.outside_ends(target);
        });
        Ok(())
    }

    fn change(&self, operation: Operation, verb: &'static str) -> Result<(), Wrong> {
        let (offset, length) = (self.size(0)?, self.lengths(1)?);
        let report = self.report(verb, self.command.name, offset, length);
        let memory = Buffer::new(0);
        let future = perform(&self.target, operation, offset, length, memory, false);
        let (result, taken) = timed(self.graph, future);
        report.show(result, taken);
        Ok(())
    }
}

/// The beginning of a file, of which writes can be made.
fn read_source(path: &str) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let said = |error: std::io::Error| crate::error_text(&error);
    let file = crate::files::open(std::path::Path::new(path), crate::files::OFlags::RDONLY);
    let mut content = Vec::new();
    let file = file.map_err(said)?;
    let read = (&*file).take(REQUEST_MAX).read_to_end(&mut content);
    match read.map_err(said)? {
        0 => Err("file is empty".to_owned()),
        _ => Ok(content),
    }
}

/// Fills memory with a content, over and over.
fn repeat(content: &[u8], memory: &Buffer) {
    let mut done = 0;
    while done < memory.len() {
        let part = content.len().min(memory.len() - done);
        memory.slice(done, part).write(&content[..part]);
        done += part;
    }
}

fn operation(write: bool) -> Operation {
    match write {
        true => Operation::Write {
            force_unit_access: false,
        },
        false => Operation::Read,
    }
}

/// A request as statistics know it.
fn queued(operation: Operation, offset: u64, length: u64) -> Queued {
    Queued {
        drive: DriveId(0),
        tag: 0,
        operation,
        offset,
        length,
        place: Place::None,
        gate: Arc::default(),
    }
}

fn timed<T>(graph: &Graph, future: impl Future<Output = T>) -> (T, u64) {
    let began = monotonic();
    let result = graph.wait(future);
    (result, monotonic().saturating_sub(began))
}

async fn perform(
    target: &Target,
    operation: Operation,
    offset: u64,
    length: u64,
    memory: Buffer,
    flush: bool,
) -> Result<Buffer, Errno> {
    let node = target.node()?;
    // What is behind the end is no part of a drive.
    let end = offset.checked_add(length);
    if end.is_none_or(|end| end > node.length()) {
        return Err(Errno::IO);
    }
    if let Target::Drive(drive) = target {
        let request = queued(operation, offset, length);
        let memory = drive.perform(&request, Some(memory)).await?;
        if flush {
            node.flush().await?;
        }
        return Ok(memory);
    }
    match operation {
        Operation::Read => node.read(offset, memory.clone()).await?,
        Operation::Write { force_unit_access } => {
            node.write(offset, memory.clone()).await?;
            if force_unit_access {
                node.flush().await?;
            }
        }
        Operation::WriteZeroes { may_unmap } => {
            node.write_zeroes(offset, length, may_unmap).await?;
        }
        Operation::Discard => node.discard(offset, length).await?,
        Operation::Flush => node.flush().await?,
    }
    if flush {
        node.flush().await?;
    }
    Ok(memory)
}

impl Report {
    /// Shows how a request ended that took so many nanoseconds.
    fn show(&self, result: Result<Buffer, Errno>, taken: u64) {
        let memory = match result {
            Ok(memory) => memory,
            Err(error) => {
                let reason = errno_text(error);
                return show(&format!("{} failed: {reason}\n", self.what));
            }
        };
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&memory, taken, &mut text);
        show(&text);
    }

    fn write(&self, memory: &Buffer, taken: u64, out: &mut String) -> std::fmt::Result {
        if let Some((byte, skip, many)) = self.pattern {
            let read = memory.slice(skip as usize, many as usize).to_vec();
            if read.iter().any(|other| *other != byte) {
                let place = self.offset + skip;
                writeln!(
                    out,
                    "Pattern verification failed at offset {place}, {many} bytes"
                )?;
            }
        }
        if self.quiet {
            return Ok(());
        }
        if self.dump {
            dump(&memory.to_vec(), self.offset, out)?;
        }
        let Self {
            verb,
            offset,
            length,
            ..
        } = self;
        let seconds = taken.max(1) as f64 / 1e9;
        let (rate, each) = (*length as f64 / seconds, 1.0 / seconds);
        let hundredths = taken / 10_000_000;
        let (minutes, second, part) = (hundredths / 6000, hundredths / 100 % 60, hundredths % 100);
        let (hours, minute) = (minutes / 60, minutes % 60);
        let long = format!("{hours}:{minute:02}:{second:02}.{part:02}");
        if self.for_machines {
            return writeln!(out, "{length},1,{long},{rate:.3},{each:.3}");
        }
        let time = match minutes {
            0 => format!("{second:02}.{part:02} sec"),
            _ => long,
        };
        let (all, rate) = (bytes(*length as f64), bytes(rate));
        writeln!(out, "{verb} {length}/{length} bytes at offset {offset}")?;
        writeln!(
            out,
            "{all}, 1 ops; {time} ({rate}/sec and {each:.4} ops/sec)"
        )
    }
}

/// Bytes with a unit and three digits behind the point, if they say anything.
fn bytes(value: f64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut value, mut unit, mut digits) = (value, "bytes", 6);
    for larger in UNITS {
        if value < 1024.0 {
            break;
        }
        (value, unit, digits) = (value / 1024.0, larger, 3);
    }
    let text = format!("{value:.digits$}");
    let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
    match part.bytes().all(|digit| digit == b'0') {
        true => format!("{whole} {unit}"),
        false => format!("{text} {unit}"),
    }
}

fn dump(all: &[u8], offset: u64, out: &mut String) -> std::fmt::Result {
    for (line, bytes) in all.chunks(16).enumerate() {
        write!(out, "{:08x}:  ", offset + line as u64 * 16)?;
        for byte in bytes {
            write!(out, "{byte:02x} ")?;
        }
        let shown = |byte: &u8| match byte.is_ascii_alphanumeric() {
            true => char::from(*byte),
            false => '.',
        };
        let text: String = bytes.iter().map(shown).collect();
        writeln!(out, " {text}")?;
    }
    Ok(())
}

/// A number of bytes.
fn size(text: &str) -> Result<u64, Wrong> {
    let size = parse_size(text, 0).map_err(|error| match error {
        NumberError::NotANumber => {
            format!(
                "Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- {text}"
            )
        }
        NumberError::TooLarge => format!("Parsing error: argument too large -- {text}"),
    })?;
    match i64::try_from(size) {
        Ok(_) => Ok(size),
        Err(_) => Err(format!("Parsing error: argument too large -- {text}").into()),
    }
}
