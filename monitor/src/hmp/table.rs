//! What commands there are: a row each, in the file of its topic.
//!
//! A row is the one source of parsing, of errors, of the help and of completion. A new command is a row in its topic's
//! `COMMANDS` (or `INFO`, for what `info` shows) and a function; a new topic is a file and a line in each of the two menus here.

use super::{
    Call, Done, block, boot, cpus, debug, descriptors, devices, dump, help, history, input,
    machine, memory, numa, objects, pci, ports, power, trace,
};

/// Arguments of a command at most.
pub(super) const ARGUMENTS_MAX: usize = 10;

/// A command.
pub struct Command {
    /// Its names, apart by `|`.
    pub names: &'static str,
    /// What stands behind it in the help.
    pub parameters: &'static str,
    /// What it takes, in the order in which it stands in a line.
    pub arguments: &'static [Argument],
    /// What it does, in a sentence. Lines are apart by line feeds.
    pub help: &'static str,
    /// Whether it is there before the machine is (`--preconfig`).
    pub preconfig: bool,
    /// What its first argument chooses from, if that is commands again.
    pub menu: Option<&'static Menu>,
    pub(super) run: Run,
}

/// Commands by topics.
pub type Menu = [&'static [Command]];

/// What does a command's work.
pub(super) type Run = for<'c, 'l> fn(&mut Call<'c, 'l>) -> Done<'l>;

/// All commands.
pub static COMMANDS: &Menu = &[
    block::COMMANDS,
    boot::COMMANDS,
    cpus::COMMANDS,
    descriptors::COMMANDS,
    debug::COMMANDS,
    dump::COMMANDS,
    help::COMMANDS,
    input::COMMANDS,
    memory::COMMANDS,
    objects::COMMANDS,
    ports::COMMANDS,
    power::COMMANDS,
    trace::COMMANDS,
];

/// All that `info` shows.
pub static INFO: &Menu = &[
    block::INFO,
    cpus::INFO,
    devices::INFO,
    dump::INFO,
    history::INFO,
    input::INFO,
    machine::INFO,
    memory::INFO,
    numa::INFO,
    pci::INFO,
    trace::INFO,
    objects::INFO,
];

/// A command that is there once the machine is.
pub(super) const fn command(
    names: &'static str,
    parameters: &'static str,
    arguments: &'static [Argument],
    help: &'static str,
    run: Run,
) -> Command {
    Command {
        names,
        parameters,
        arguments,
        help,
        preconfig: false,
        menu: None,
        run,
    }
}

impl Command {
    /// The same, there before the machine is, too.
    pub(super) const fn in_preconfig(mut self) -> Self {
        self.preconfig = true;
        self
    }

    /// The same, with commands of its own.
    pub(super) const fn with(mut self, menu: &'static Menu) -> Self {
        self.menu = Some(menu);
        self
    }

    /// Whether this is one of its names.
    pub fn is(&self, name: &[u8]) -> bool {
        self.names.split('|').any(|known| known.as_bytes() == name)
    }
}

/// The command of this name.
pub fn find(menu: &'static Menu, name: &[u8]) -> Option<&'static Command> {
    menu.iter()
        .copied()
        .flatten()
        .find(|command| command.is(name))
}

/// Commands in the order of their names.
pub fn sorted(menu: &'static Menu) -> impl Iterator<Item = &'static Command> {
    let mut last: Option<&str> = None;
    core::iter::from_fn(move || {
        let rest = menu.iter().copied().flatten();
        let next = rest
            .filter(|command| last.is_none_or(|last| command.names > last))
            .min_by_key(|command| command.names)?;
        last = Some(next.names);
        Some(next)
    })
}

/// What a command takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argument {
    /// What it is.
    pub kind: Kind,
    /// Whether the line may end before it.
    pub optional: bool,
    /// What completes it.
    pub names: Names,
}

/// What an argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `-` and this letter, or nothing.
    Flag(u8),
    /// `/COUNT FORMAT SIZE`, each of which may be missing.
    Format,
    /// An expression whose value has 32 bits.
    Int32,
    /// An expression.
    Int64,
    /// `on` or `off`.
    Switch,
    /// A word, or a string in quotes.
    Text,
    /// The same, a file's name.
    File,
    /// The same, a drive's name.
    Drive,
    /// A number of bytes with a unit; of MiB where there is none.
    Size,
    /// The rest of the line as it stands.
    Rest,
}

/// What a name may be that stands in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// Anything.
    Any,
    /// `on` or `off`.
    Switch,
    /// A file's.
    Files,
    /// A drive's.
    Drives,
    /// A command's.
    Commands,
    /// Keys', apart by `-`.
    Keys,
    /// A trace event's.
    TraceEvents,
    /// One of these words.
    Words(&'static [&'static str]),
}

impl Argument {
    /// The same, completed by these names.
    pub(super) const fn of(mut self, names: Names) -> Self {
        self.names = names;
        self
    }
}

/// An argument that must be there.
pub(super) const fn required(kind: Kind) -> Argument {
    let names = match kind {
        Kind::Switch => Names::Switch,
        Kind::File => Names::Files,
        Kind::Drive => Names::Drives,
        _ => Names::Any,
    };
    Argument {
        kind,
        optional: false,
        names,
    }
}

/// One that may be missing.
pub(super) const fn optional(kind: Kind) -> Argument {
    let mut argument = required(kind);
    argument.optional = true;
    argument
}

/// A letter behind `-` that may be missing.
pub(super) const fn flag(letter: u8) -> Argument {
    optional(Kind::Flag(letter))
}
