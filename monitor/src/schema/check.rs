//! The check of arguments against the schema, with QEMU's sentences.
//!
//! Members are checked in the schema's order, depth first, and the first fault is told; members that
//! should not be there are looked for last, object by object. Most sentences name the culprit by its
//! path; QEMU 7.2 names values outside an enumeration and numbers outside a range by the member alone,
//! and a list's element by the word `null`.

use core::fmt::Write as _;

use thimble_core::qmp::{Kind, Value};

use super::tables::{Builtin, MemberRow, NO_TAG, Tables, TypeId, TypeRow};
use crate::error::{Fail, PathText};

/// Where a value is, from the arguments inwards.
#[derive(Clone, Copy)]
struct Path<'p> {
    outer: Option<&'p Path<'p>>,
    step: Step,
}

#[derive(Clone, Copy)]
enum Step {
    Member(&'static str),
    Element(usize),
}

/// How elements of lists are written in paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paths {
    /// `list[0]`
    Json,
    /// `list.0`
    Keyval,
}

impl Path<'_> {
    /// The path as text; what does not fit is left out.
    fn text(&self, paths: Paths) -> PathText {
        let mut text = PathText::new();
        self.write(paths, &mut text);
        text
    }

    fn write(&self, paths: Paths, text: &mut PathText) {
        if let Some(outer) = self.outer {
            outer.write(paths, text);
        }
        let dot = if text.is_empty() { "" } else { "." };
        // An error is the cut.
        let _ = match (self.step, paths) {
            (Step::Member(name), _) => write!(text, "{dot}{name}"),
            (Step::Element(index), Paths::Json) => write!(text, "[{index}]"),
            (Step::Element(index), Paths::Keyval) => write!(text, ".{index}"),
        };
    }

    /// The member's name alone.
    fn name(&self) -> &'static [u8] {
        match self.step {
            Step::Member(name) => name.as_bytes(),
            Step::Element(_) => b"null",
        }
    }
}

/// Checks arguments against the object type that a command declares.
pub(crate) fn check<'m>(
    tables: &Tables,
    kind: TypeId,
    given: Option<Value<'m>>,
) -> Result<(), Fail<'m>> {
    check_with(tables, kind, given, Paths::Json)
}

/// The same, with paths written in one of two ways.
pub(super) fn check_with<'m>(
    tables: &Tables,
    kind: TypeId,
    given: Option<Value<'m>>,
    paths: Paths,
) -> Result<(), Fail<'m>> {
    Checker { tables, paths }.object(kind, given, None)
}

struct Checker<'t> {
    tables: &'t Tables,
    paths: Paths,
}

fn out_of_range<'m>(path: &Path<'_>, expected: &'static str) -> Fail<'m> {
    Fail::generic(&[
        b"Parameter '",
        path.name(),
        b"' expects ",
        expected.as_bytes(),
    ])
}

impl Checker<'_> {
    fn wrong_type<'m>(&self, path: &Path<'_>, expected: &'static str) -> Fail<'m> {
        Fail::at(
            "Invalid parameter type for '",
            path.text(self.paths),
            &[b"', expected: ", expected.as_bytes()],
        )
    }

    fn value<'m>(&self, kind: TypeId, value: Value<'m>, path: &Path<'_>) -> Result<(), Fail<'m>> {
        match self.tables.kind(kind) {
            TypeRow::Builtin(builtin) => self.scalar(builtin, value, path),
            TypeRow::Enum { values, .. } => {
                let Some(text) = value.bytes() else {
                    return Err(self.wrong_type(path, "string"));
                };
                let known = self.tables.values(values);
                if known
                    .iter()
                    .any(|row| self.tables.name(row.name).as_bytes() == text)
                {
                    return Ok(());
                }
                Err(Fail::generic(&[
                    b"Parameter '",
                    path.name(),
                    b"' does not accept value '",
                    text,
                    b"'",
                ]))
            }
            TypeRow::Array(element) => {
                if value.kind() != Kind::Array {
                    return Err(self.wrong_type(path, "array"));
                }
                for (index, value) in value.elements().enumerate() {
                    let path = Path {
                        outer: Some(path),
                        step: Step::Element(index),
                    };
                    self.value(element, value, &path)?;
                }
                Ok(())
            }
            TypeRow::Object { .. } => {
                if value.kind() != Kind::Object {
                    return Err(self.wrong_type(path, "object"));
                }
                self.object(kind, Some(value), Some(path))
            }
            TypeRow::Alternate { name, branches } => {
                let branches = self.tables.members(branches);
                let branch = branches
                    .iter()
                    .find(|branch| self.fits(branch.kind, value.kind()));
                match branch {
                    Some(branch) => self.value(branch.kind, value, path),
                    None => Err(Fail::generic(&[
                        b"Invalid parameter type for '",
                        path.name(),
                        b"', expected: ",
                        self.tables.name(name).as_bytes(),
                    ])),
                }
            }
        }
    }

    /// Whether an alternate's branch is meant by a value of this JSON type.
    fn fits(&self, kind: TypeId, given: Kind) -> bool {
        match self.tables.kind(kind) {
            TypeRow::Builtin(Builtin::Str) | TypeRow::Enum { .. } => given == Kind::String,
            TypeRow::Builtin(Builtin::Bool) => matches!(given, Kind::True | Kind::False),
            TypeRow::Builtin(Builtin::Null) => given == Kind::Null,
            TypeRow::Builtin(Builtin::Any) => true,
            TypeRow::Builtin(_) => {
                matches!(given, Kind::Integer | Kind::Unsigned | Kind::Float)
            }
            TypeRow::Array(_) => given == Kind::Array,
            TypeRow::Object { .. } => given == Kind::Object,
            TypeRow::Alternate { .. } => false,
        }
    }

    /// Checks an object's members. Absent arguments are an object without members.
    fn object<'m>(
        &self,
        kind: TypeId,
        given: Option<Value<'m>>,
        path: Option<&Path<'_>>,
    ) -> Result<(), Fail<'m>> {
        let TypeRow::Object {
            members,
            tag,
            variants,
            ..
        } = self.tables.kind(kind)
        else {
            return Ok(());
        };
        let members = self.tables.members(members);
        self.members(members, given, path)?;
        let variant = members.get(usize::from(tag)).and_then(|tag| {
            let name = self.tables.name(tag.name).as_bytes();
            let chosen = given?.get(name)?.bytes()?;
            let variants = self.tables.variants(variants);
            variants
                .iter()
                .find(|variant| self.tables.name(variant.case).as_bytes() == chosen)
        });
        debug_assert!(tag == NO_TAG || usize::from(tag) < members.len());
        let more = match variant.map(|variant| self.tables.kind(variant.kind)) {
            Some(TypeRow::Object { members, .. }) => self.tables.members(members),
            _ => &[],
        };
        self.members(more, given, path)?;
        let known = |name: &[u8]| {
            let mut all = members.iter().chain(more);
            all.any(|member| self.tables.name(member.name).as_bytes() == name)
        };
        let unexpected = given
            .into_iter()
            .flat_map(Value::members)
            .map(|(name, _)| name)
            .filter(|name| !known(name))
            .min_by_key(|name| bucket(name));
        let Some(name) = unexpected else {
            return Ok(());
        };
        let path = path.map_or(PathText::new(), |path| path.text(self.paths));
        let dot: &[u8] = if path.is_empty() { b"" } else { b"." };
        Err(Fail::at(
            "Parameter '",
            path,
            &[dot, name, b"' is unexpected"],
        ))
    }

    fn scalar<'m>(
        &self,
        builtin: Builtin,
        value: Value<'m>,
        path: &Path<'_>,
    ) -> Result<(), Fail<'m>> {
        let signed = |fits: fn(i64) -> bool, name| match value.kind() {
            Kind::Integer if fits(value.int().unwrap_or_default()) => Ok(()),
            Kind::Integer => Err(out_of_range(path, name)),
            _ => Err(self.wrong_type(path, "integer")),
        };
        // Negative numbers count as the two's complement that they are.
        let unsigned = |most: u64, name| match value.kind() {
            Kind::Integer | Kind::Unsigned => {
                let number = value.uint().unwrap_or(u64::MAX);
                match number <= most {
                    true => Ok(()),
                    false => Err(out_of_range(path, name)),
                }
            }
            _ => Err(Fail::at(
                "Parameter '",
                path.text(self.paths),
                &[b"' expects uint64"],
            )),
        };
        let plain = |fits: bool, name| match fits {
            true => Ok(()),
            false => Err(self.wrong_type(path, name)),
        };
        let kind = value.kind();
        match builtin {
            Builtin::Str => plain(kind == Kind::String, "string"),
            Builtin::Bool => plain(matches!(kind, Kind::True | Kind::False), "boolean"),
            Builtin::Null => plain(kind == Kind::Null, "null"),
            Builtin::Number => plain(
                matches!(kind, Kind::Integer | Kind::Unsigned | Kind::Float),
                "number",
            ),
            Builtin::Any => Ok(()),
            Builtin::Int | Builtin::Int64 => plain(kind == Kind::Integer, "integer"),
            Builtin::Int8 => signed(|n| i8::try_from(n).is_ok(), "int8_t"),
            Builtin::Int16 => signed(|n| i16::try_from(n).is_ok(), "int16_t"),
            Builtin::Int32 => signed(|n| i32::try_from(n).is_ok(), "int32_t"),
            Builtin::Uint8 => unsigned(u8::MAX.into(), "uint8_t"),
            Builtin::Uint16 => unsigned(u16::MAX.into(), "uint16_t"),
            Builtin::Uint32 => unsigned(u32::MAX.into(), "uint32_t"),
            Builtin::Uint64 | Builtin::Size => unsigned(u64::MAX, "uint64"),
        }
    }

    fn members<'m>(
        &self,
        members: &[MemberRow],
        given: Option<Value<'m>>,
        outer: Option<&Path<'_>>,
    ) -> Result<(), Fail<'m>> {
        for member in members {
            let name = self.tables.name(member.name);
            let path = Path {
                outer,
                step: Step::Member(name),
            };
            match given.and_then(|given| given.get(name.as_bytes())) {
                Some(value) => self.value(member.kind, value, &path)?,
                None if member.optional => {}
                None => {
                    return Err(Fail::at(
                        "Parameter '",
                        path.text(self.paths),
                        &[b"' is missing"],
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Which of several unexpected members is told: QEMU keeps them in GLib's hash table, whose order
/// follows from the string hash (djb2) and, for up to seven members, the prime 7.
fn bucket(name: &[u8]) -> u32 {
    let hash = name.iter().fold(5381_u32, |hash, &byte| {
        hash.wrapping_mul(33)
            .wrapping_add_signed(i32::from(byte as i8))
    });
    hash.wrapping_mul(11) % 7
}

#[cfg(test)]
#[allow(unreachable_pub)]
mod tests {
    use std::boxed::Box;
    use std::string::String;

    use thimble_core::qmp::Parser;

    use super::super::tables::*;
    use super::*;

    include!(concat!(env!("OUT_DIR"), "/checks.rs"));

    /// What the check says of a command's arguments.
    fn answer(parser: &mut Parser, command: &str, arguments: &str) -> String {
        parser.reset();
        let progress = parser.push(arguments.as_bytes());
        assert_eq!(progress.message, Some(Ok(())), "{arguments}");
        let index = SCHEMA.command(command.as_bytes()).expect(command);
        let kind = SCHEMA.commands[index].arguments;
        match check(&SCHEMA, kind, Some(parser.message())) {
            Ok(()) => "ok".into(),
            Err(fail) => {
                let (_, pieces) = fail.parts();
                String::from_utf8(pieces.concat()).expect("text")
            }
        }
    }

    #[test]
    fn says_what_was_observed() {
        let mut parser = Box::new(Parser::new());
        let mut count = 0;
        for line in include_str!("../../tests/checks.list").lines() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (command, rest) = line.split_once(' ').expect("a command");
            let (arguments, expected) = rest.rsplit_once(" => ").expect("an answer");
            assert_eq!(answer(&mut parser, command, arguments), expected, "{line}");
            count += 1;
        }
        assert!(count > 70);
    }
}
