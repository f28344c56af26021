//! What commands there are, and what they do.

use core::fmt::Write as _;

use super::parse::{is_space, skip_spaces, split, unquote};
use super::table::{
    COMMANDS as ALL, Command, INFO, Kind, Menu, Names, command, find, optional, sorted,
};
use super::{Call, Done, STRING_MAX, unknown};
use crate::handlers::Outcome;

pub(super) static COMMANDS: &[Command] = &[
    command(
        "help|?",
        "[cmd]",
        &[optional(Kind::Rest).of(Names::Commands)],
        "show what a command does, or all of them",
        help,
    )
    .in_preconfig(),
    command(
        "info",
        "[subcommand]",
        &[],
        "show something of the machine, or all that can be shown",
        info,
    )
    .in_preconfig()
    .with(INFO),
];

/// Words that are looked at: a command and one of its own.
const WORDS: usize = 2;

fn help<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let mut buffer = [0; STRING_MAX];
    let mut buffer = buffer.as_mut_slice();
    let mut rest = call.arguments.text(0);
    let mut words: [&[u8]; WORDS] = [b""; WORDS];
    for place in &mut words {
        rest = skip_spaces(rest);
        (*place, rest) = match rest.strip_prefix(b"\"") {
            Some(quoted) => {
                // A word is quoted in vain where something is to be copied: no name has such a character.
                let (word, (rest, left)) = unquote(quoted, core::mem::take(&mut buffer))?;
                buffer = left;
                (word, rest)
            }
            None => split(rest, is_space),
        };
    }
    let [first, second] = words;
    if first.is_empty() {
        return list(call, "", ALL);
    }
    let preconfig = call.context.owner.preconfig();
    let known = |menu, name| find(menu, name).filter(|found| found.preconfig || !preconfig);
    let text = &mut call.text;
    match known(ALL, first) {
        None => unknown(&[first], text)?,
        Some(Command {
            menu: Some(menu), ..
        }) => match known(menu, second) {
            _ if second.is_empty() => return list(call, "info ", menu),
            None => unknown(&[first, b" ", second], text)?,
            Some(found) => describe("info ", found, text)?,
        },
        Some(found) => describe("", found, text)?,
    }
    Ok(Outcome::Done)
}

fn info<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    list(call, "info ", INFO)
}

fn list<'l>(call: &mut Call<'_, 'l>, before: &str, menu: &'static Menu) -> Done<'l> {
    let preconfig = call.context.owner.preconfig();
    for command in sorted(menu).filter(|command| command.preconfig || !preconfig) {
        describe(before, command, &mut call.text)?;
    }
    Ok(Outcome::Done)
}

fn describe(before: &str, command: &Command, text: &mut super::Text<'_>) -> core::fmt::Result {
    let Command {
        names,
        parameters,
        help,
        ..
    } = command;
    writeln!(text, "{before}{names} {parameters} -- {help}")
}
