//! Completion: which words can stand at the cursor, by the table of commands.
//!
//! What stands before the cursor is cut into words as a command's arguments are, but an expression counts as one
//! word. The names that a word may be are visited in order, each time anew: nothing is collected.

use thimble_core::devices::input::QKeyCode;

use super::parse::{command_name, is_space, skip_spaces, split};
use super::table::{Argument, COMMANDS, Kind, Menu, Names, find};
use crate::{Owner, trace};

/// Columns of a list of names.
const COLUMNS: usize = 80;

/// Names that a list shows at most.
pub(super) const SHOWN_MAX: usize = 256;

/// Names that are put in order at a time.
const BATCH: usize = 16;

/// A name that is not the user's: longer ones are not completed.
type Name = heapless::Vec<u8, 64>;

/// What can stand in a word.
#[derive(Clone, Copy)]
enum Expected {
    /// A command of this menu.
    Command(&'static Menu),
    /// The first of these arguments.
    Argument(&'static [Argument]),
}

/// What completes a word.
pub(super) struct Completion<'l> {
    /// The word, as far as it stands before the cursor.
    pub(super) word: &'l [u8],
    expected: Expected,
}

/// Looks for the word at the end of `before`. `None` if nothing is known of what it may be.
pub(super) fn at(before: &[u8]) -> Option<Completion<'_>> {
    let mut expected = Expected::Command(COMMANDS);
    let mut rest = before;
    loop {
        rest = skip_spaces(rest);
        let (word, behind) = word(rest);
        if let Expected::Argument(arguments) = expected {
            // A flag or a format that does not stand here does not stand at all.
            let absent = arguments.iter().take_while(|argument| match argument.kind {
                Kind::Flag(letter) => word != [b'-', letter] && !word.starts_with(b"-"),
                Kind::Format => !word.starts_with(b"/"),
                _ => false,
            });
            expected = Expected::Argument(&arguments[absent.count()..]);
        }
        if let Expected::Argument([argument, ..]) = expected
            && argument.names == Names::Commands
        {
            expected = Expected::Command(COMMANDS);
        }
        let Some(behind) = behind else {
            let word = word.strip_prefix(b"\"").unwrap_or(word);
            return Some(Completion { word, expected });
        };
        expected = match expected {
            Expected::Command(menu) => {
                let command = find(menu, command_name(word).0)?;
                match command.menu {
                    Some(menu) => Expected::Command(menu),
                    None => Expected::Argument(command.arguments),
                }
            }
            // The rest of the line is one word, of which nothing is known.
            Expected::Argument([argument, ..]) if argument.kind == Kind::Rest => return None,
            Expected::Argument([_, rest @ ..]) => Expected::Argument(rest),
            Expected::Argument([]) => return None,
        };
        rest = behind;
    }
}

/// Takes the first word. What is behind it, if it has an end.
fn word(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    let mut end = 0;
    if text.first() == Some(&b'"') {
        end = 1;
        while let Some(byte) = text.get(end) {
            end += match byte {
                b'"' => break,
                b'\\' => 2,
                _ => 1,
            };
        }
        end = end.min(text.len());
    }
    let (_, behind) = split(&text[end..], is_space);
    let word = &text[..text.len() - behind.len()];
    (word, Some(behind).filter(|behind| !behind.is_empty()))
}

/// Visits names, of which there may be many, in any order.
type Each<'e> = &'e dyn Fn(&mut dyn FnMut(&[u8]));

impl Completion<'_> {
    /// Visits the names that the word may become.
    pub(super) fn names(&self, owner: &dyn Owner, visit: &mut dyn FnMut(&[u8])) {
        match self.expected {
            Expected::Command(menu) => {
                let there = !owner.preconfig();
                let each: Each<'_> = &|visit| {
                    let commands = menu.iter().copied().flatten();
                    for command in commands.filter(|command| command.preconfig || there) {
                        command
                            .names
                            .split('|')
                            .for_each(|name| visit(name.as_bytes()));
                    }
                };
                self.sorted(each, visit);
            }
            Expected::Argument([argument, ..]) => match argument.names {
                Names::Any | Names::Commands => {}
                Names::Switch => self.words(&["off", "on"], visit),
                Names::Words(words) => self.words(words, visit),
                Names::Files => owner.visit_files(self.word, visit),
                Names::Drives => self.sorted(
                    &|visit| owner.visit_drives(&mut |drive| visit(drive.device.as_bytes())),
                    visit,
                ),
                Names::Keys => self.sorted(&|visit| self.keys(visit), visit),
                Names::TraceEvents => self.sorted(
                    &|visit| trace::visit(b"*", |_, name| visit(name.as_bytes())),
                    visit,
                ),
            },
            Expected::Argument([]) => {}
        }
    }

    /// Visits what the last key may be, behind those before it.
    fn keys(&self, visit: &mut dyn FnMut(&[u8])) {
        let before = self.word.iter().rposition(|byte| *byte == b'-');
        let before = self.word.get(..before.map_or(0, |at| at + 1));
        for key in QKeyCode::ALL {
            let mut name = Name::new();
            let pieces = [before.unwrap_or_default(), key.name().as_bytes()];
            if pieces
                .iter()
                .all(|piece| name.extend_from_slice(piece).is_ok())
            {
                visit(&name);
            }
        }
    }

    fn words(&self, words: &[&str], visit: &mut dyn FnMut(&[u8])) {
        let each: Each<'_> = &|visit| words.iter().for_each(|word| visit(word.as_bytes()));
        self.sorted(each, visit);
    }

    /// Visits those that fit, in order and once. It looks at all of them for each [`BATCH`] that it visits.
    fn sorted(&self, each: Each<'_>, visit: &mut dyn FnMut(&[u8])) {
        let mut last: Option<Name> = None;
        loop {
            // The least ones behind the last one.
            let mut batch = heapless::Vec::<Name, BATCH>::new();
            each(&mut |name| {
                if !name.starts_with(self.word) || last.as_ref().is_some_and(|last| name <= last) {
                    return;
                }
                let place = batch.binary_search_by(|known| known.as_slice().cmp(name));
                let (Err(at), Ok(name)) = (place, Name::from_slice(name)) else {
                    return;
                };
                if batch.is_full() && at < BATCH {
                    batch.pop();
                }
                // Where there is no room its turn comes later.
                let _ = batch.insert(at, name);
            });
            batch.iter().for_each(|name| visit(name));
            if !batch.is_full() {
                return;
            }
            last = batch.pop();
        }
    }
}

/// Puts names into columns.
pub(super) struct List {
    width: usize,
    per_line: usize,
    shown: usize,
}

impl List {
    /// For names of at most this length.
    pub(super) fn new(longest: usize) -> Self {
        let width = (longest + 2).clamp(10, COLUMNS);
        Self {
            width,
            per_line: COLUMNS / width,
            shown: 0,
        }
    }

    /// What stands before and behind the next name: line ends or nothing, and the number of spaces. `None` if the list is
    /// full.
    pub(super) fn place(&mut self, name: &[u8]) -> Option<(&'static [u8], usize)> {
        if self.shown == SHOWN_MAX {
            return None;
        }
        let first = self.shown.is_multiple_of(self.per_line);
        self.shown += 1;
        let before: &[u8] = if first { b"\r\n" } else { b"" };
        Some((before, self.width.saturating_sub(name.len())))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::vec::Vec;

    use super::*;
    use crate::hmp::tests::machine;

    #[test]
    fn many_names_are_visited_in_order_and_once() {
        let machine = machine(&[]);
        for (line, fewest) in [("trace-event ", 300), ("sendkey ctrl-", 100), ("", 40)] {
            let completion = at(line.as_bytes()).unwrap();
            let mut visited: Vec<Vec<u8>> = Vec::new();
            completion.names(&machine, &mut |name| visited.push(name.to_vec()));
            assert!(visited.len() >= fewest, "{line}: {}", visited.len());
            assert!(visited.is_sorted_by(|a, b| a < b), "{line}");
            if line.starts_with("trace") {
                let mut all = BTreeSet::new();
                trace::visit(b"*", |_, name| {
                    assert!(all.insert(name.as_bytes().to_vec()))
                });
                assert_eq!(visited, Vec::from_iter(all));
            }
        }
    }
}
