//! Files of `blkdebug`'s rules: what its option `config` names.
//!
//! Each `[inject-error]` or `[set-state]` begins a rule, and lines `name = "value"` below it have its members, by
//! the names of the options. Lines that begin with `#` say nothing.

use std::io::Read as _;
use std::path::Path;

use thimble_monitor::schema::{BlkdebugEvent, BlkdebugIOType};

use super::blkdebug::{Inject, Rules, SetState};
use super::node::Refusal;
use crate::options::opts::{parse_bool, parse_number};

/// Bytes of a file at most.
const FILE_MAX: u64 = 64 << 10;

/// What can be said of a rule of either kind.
const OF_INJECT: [&str; 7] = [
    "event",
    "state",
    "iotype",
    "errno",
    "sector",
    "once",
    "immediately",
];
/// The same for a rule that changes the state.
const OF_SET_STATE: [&str; 3] = ["event", "state", "new_state"];

/// A rule as it stands.
struct Group<'t> {
    name: &'t str,
    members: Vec<(&'t str, &'t str)>,
}

/// Reads a file.
///
/// # Errors
/// In QEMU's words where it has some.
pub(super) fn read(path: &str) -> Result<Rules, Refusal> {
    let failed = |error: std::io::Error| {
        let error = crate::error_text(&error);
        format!("Could not read blkdebug config file: {error}")
    };
    let file = crate::files::open(Path::new(path), crate::files::OFlags::RDONLY).map_err(failed)?;
    let mut text = String::new();
    (&*file)
        .take(FILE_MAX)
        .read_to_string(&mut text)
        .map_err(failed)?;
    parse(&text)
}

fn parse(text: &str) -> Result<Rules, Refusal> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(header) = line.strip_prefix('[') {
            let name = header.split(|c: char| c == ']' || c.is_whitespace());
            let name = name.clone().next().unwrap_or_default();
            if !matches!(name, "inject-error" | "set-state") {
                return Err(format!("There is no option group '{name}'"));
            }
            groups.push(Group {
                name,
                members: Vec::new(),
            });
            continue;
        }
        let group = groups.last_mut().ok_or("no group defined")?;
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let value = rest.trim_start().strip_prefix('=').map(str::trim_start);
        let value = value.and_then(|value| value.strip_prefix('"'));
        let value = value.and_then(|value| value.split('"').next());
        let known: &[&str] = match group.name {
            "set-state" => &OF_SET_STATE,
            _ => &OF_INJECT,
        };
        if !known.contains(&name) {
            return Err(format!("Invalid parameter '{name}'"));
        }
        // One without quotes is empty.
        group.members.push((name, value.unwrap_or_default()));
    }
    let mut rules = Rules::default();
    for group in &groups {
        group.add_to(&mut rules)?;
    }
    Ok(rules)
}

impl Group<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        let found = self.members.iter().rev().find(|(known, _)| *known == name);
        found.map(|(_, value)| *value)
    }

    fn number(&self, name: &str) -> Result<Option<i64>, Refusal> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let number = parse_number(text).ok();
        let number = number.and_then(|number| i64::try_from(number).ok());
        let number = number.ok_or_else(|| format!("Parameter '{name}' expects a number"))?;
        Ok(Some(number))
    }

    fn is_on(&self, name: &str) -> Result<Option<bool>, Refusal> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let on = parse_bool(text);
        on.map(Some)
            .ok_or_else(|| format!("Parameter '{name}' expects 'on' or 'off'"))
    }

    fn add_to(&self, rules: &mut Rules) -> Result<(), Refusal> {
        let unknown = |value: &str| format!("invalid parameter value: {value}");
        let event = self.get("event").ok_or("Missing event name for rule")?;
        let known = BlkdebugEvent::ALL.iter().copied();
        let event = known
            .clone()
            .find(|known| known.name() == event)
            .ok_or_else(|| unknown(event))?;
        let state = self.number("state")?.unwrap_or(0);
        if self.name == "set-state" {
            let new_state = self.number("new_state")?.unwrap_or(0);
            rules.set_states.push(SetState {
                event,
                state,
                new_state,
            });
            return Ok(());
        }
        let kind = self.get("iotype").map(|name| {
            let mut known = BlkdebugIOType::ALL.iter().copied();
            known
                .find(|known| known.name() == name)
                .ok_or_else(|| unknown(name))
        });
        self.is_on("immediately")?;
        rules.injects.push(Inject::new(
            event,
            state,
            kind.transpose()?,
            self.number("errno")?,
            self.number("sector")?,
            self.is_on("once")?.unwrap_or(false),
        )?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read() {
        let rules = parse(
            "# rules\n\n[inject-error]\nevent = \"read_aio\"\nerrno = \"28\"\nonce = \"on\"\n\n\
             [set-state \"x\"]\nevent = \"write_aio\"\nnew_state = \"2\"\n",
        );
        let rules = rules.unwrap();
        assert_eq!(rules.injects.len(), 1);
        assert_eq!(rules.set_states.len(), 1);
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (text, error) in [
            ("[nix]", "There is no option group 'nix'"),
            ("event = \"x\"", "no group defined"),
            ("[inject-error]\nnix = \"x\"", "Invalid parameter 'nix'"),
            ("[set-state]\nerrno = \"5\"", "Invalid parameter 'errno'"),
            ("[inject-error]", "Missing event name for rule"),
            ("[inject-error]\nevent = x", "invalid parameter value: "),
            (
                "[inject-error]\nevent = \"nix\"",
                "invalid parameter value: nix",
            ),
            (
                "[inject-error]\nevent = \"none\"\nsector = \"x\"",
                "Parameter 'sector' expects a number",
            ),
        ] {
            assert_eq!(parse(text).err().as_deref(), Some(error), "{text}");
        }
    }
}
