//! Commands from the fuzzer's bytes, as the schema has them or nearly so, and the check that replies
//! and events are what the schema says.

use thimble_monitor::SCHEMA;
use thimble_monitor::schema::{Builtin, MemberRow, NO_TAG, Name, Rows, TypeId, TypeRow};

use crate::Source;
use crate::reference::Tree;

/// Levels of arguments made here; a type may contain itself.
const DEPTH: usize = 6;
/// Elements of a list.
const ELEMENTS: u8 = 4;

/// How well something fits its type. The larger one of two holds for both together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fit {
    /// It must be taken for what it is.
    Right,
    /// It may be taken or refused.
    Doubtful,
    /// It must be refused.
    Wrong,
}

/// A name's text.
pub fn name(name: Name) -> &'static str {
    SCHEMA.name(name)
}

/// A string in quotes: JSON that every parser takes.
fn quote(text: &str) -> String {
    serde_json::to_string(text).expect("text is JSON")
}

/// What strings mean something to some command.
const WORDS: [&str; 57] = [
    "",
    "/",
    "/machine",
    "/machine/",
    "/machine/unattached",
    "/machine/unattached/device[0]",
    "/machine/unattached/device[3]",
    "/machine/unattached/device[10]",
    "/machine/unattached/device[13]",
    "/machine/unattached/sysbus",
    "/machine/peripheral",
    "/machine/peripheral-anon",
    "/machine/peripheral-anon/device[0]",
    "/machine/peripheral-anon/device[3]",
    "/machine/i440fx",
    "/machine/i440fx/pci.0",
    "/machine/fw_cfg",
    "/objects",
    "/chardevs",
    "machine",
    "unattached",
    "device[1]",
    "i440fx",
    "type",
    "rtc-time",
    "date",
    "realized",
    "hotplugged",
    "parent_bus",
    "iobase",
    "chardev",
    "kernel",
    "memory",
    "smp",
    "acpi",
    "apic-id",
    "container",
    "object",
    "bus",
    "device",
    "drive",
    "isa-serial",
    "isa-debugcon",
    "isa-debug-exit",
    "isa-parallel",
    "mc146818rtc",
    "pc-i440fx-7.2-machine",
    "i440FX-pcihost",
    "qemu64-x86_64-cpu",
    "x86_64-cpu",
    "memory-backend",
    "compat_monitor0",
    "/dev/null/x",
    "/tmp/../x",
    "caf\u{e9} \u{1f600}",
    "a\u{0}b",
    "%s%n",
];

/// A string that may mean something, or nothing.
fn word(source: &mut Source<'_>) -> String {
    let choice = usize::from(source.byte());
    if let Some(word) = WORDS.get(choice) {
        return (*word).to_owned();
    }
    let (names, values) = (SCHEMA.members.len(), SCHEMA.values.len());
    match choice % 4 {
        0 => name(SCHEMA.members[usize::from(source.byte()) % names].name).to_owned(),
        1 => name(SCHEMA.values[usize::from(source.byte()) % values].name).to_owned(),
        // Paths, long ones too.
        2 => {
            let parts =
                (0..source.byte() % 8).map(|_| WORDS[usize::from(source.byte()) % WORDS.len()]);
            let path = parts.fold(String::new(), |path, part| path + part + "/");
            path.trim_end_matches('/').to_owned()
        }
        _ => {
            let count = usize::from(source.byte()) % 12;
            (0..count)
                .map(|_| char::from(source.byte() % 0x5f + b' '))
                .collect()
        }
    }
}

/// An integer near a limit, or any.
fn integer(source: &mut Source<'_>) -> i128 {
    const LIMITS: [i128; 12] = [
        0,
        1,
        -1,
        2,
        127,
        255,
        4096,
        65_535,
        i32::MAX as i128,
        u32::MAX as i128,
        i64::MAX as i128,
        u64::MAX as i128,
    ];
    match source.byte() {
        small @ 0..=99 => small.into(),
        100..=149 => i128::from(source.number(8) as i64),
        150..=169 => source.number(3).into(),
        170..=189 => i128::from(i64::MIN) + i128::from(source.byte()),
        choice => LIMITS[usize::from(choice) % LIMITS.len()] + i128::from(source.byte() % 3) - 1,
    }
}

/// The range of an integer type.
fn range(builtin: Builtin) -> Option<(i128, i128)> {
    Some(match builtin {
        Builtin::Int8 => (i8::MIN.into(), i8::MAX.into()),
        Builtin::Int16 => (i16::MIN.into(), i16::MAX.into()),
        Builtin::Int32 => (i32::MIN.into(), i32::MAX.into()),
        Builtin::Int | Builtin::Int64 => (i64::MIN.into(), i64::MAX.into()),
        Builtin::Uint8 => (0, u8::MAX.into()),
        Builtin::Uint16 => (0, u16::MAX.into()),
        Builtin::Uint32 => (0, u32::MAX.into()),
        Builtin::Uint64 | Builtin::Size => (0, u64::MAX.into()),
        Builtin::Str | Builtin::Number | Builtin::Bool | Builtin::Null | Builtin::Any => {
            return None;
        }
    })
}

/// Appends the arguments of a command, an object.
pub fn arguments(source: &mut Source<'_>, kind: TypeId, out: &mut String) -> Fit {
    value(source, kind, out, DEPTH)
}

/// Appends a value that is meant for a type.
fn value(source: &mut Source<'_>, kind: TypeId, out: &mut String, depth: usize) -> Fit {
    let row = SCHEMA.kind(kind);
    // Seldom something else altogether.
    if depth < DEPTH && source.byte() > 0xf6 {
        return other(source, row, out);
    }
    match row {
        TypeRow::Builtin(builtin) => self::builtin(source, builtin, out),
        TypeRow::Enum { values, .. } => {
            let values = SCHEMA.values(values);
            match values.get(usize::from(source.byte()) % values.len().max(1)) {
                Some(value) if source.byte() < 0xf0 => {
                    out.push_str(&quote(name(value.name)));
                    Fit::Right
                }
                _ => {
                    let word = word(source);
                    out.push_str(&quote(&word));
                    match values.iter().any(|value| name(value.name) == word) {
                        true => Fit::Right,
                        false => Fit::Wrong,
                    }
                }
            }
        }
        TypeRow::Array(element) => {
            let mut fit = Fit::Right;
            let count = if depth == 0 {
                0
            } else {
                source.byte() % ELEMENTS
            };
            out.push('[');
            for index in 0..count {
                out.push_str(if index > 0 { ", " } else { "" });
                fit = fit.max(value(source, element, out, depth - 1));
            }
            out.push(']');
            fit
        }
        TypeRow::Alternate { branches, .. } => {
            let branches = SCHEMA.members(branches);
            match branches.get(usize::from(source.byte()) % branches.len().max(1)) {
                Some(branch) if depth > 0 => value(source, branch.kind, out, depth - 1),
                _ => {
                    out.push_str("null");
                    Fit::Doubtful
                }
            }
        }
        TypeRow::Object {
            members,
            tag,
            variants,
            ..
        } => {
            let mut object = Object {
                out,
                first: true,
                fit: Fit::Right,
            };
            object.out.push('{');
            object.object(source, (members, tag, variants), depth);
            // Seldom one that there is not.
            if source.byte() > 0xf4 {
                object.member("no-such-member", |out| {
                    out.push_str("true");
                    Fit::Wrong
                });
            }
            object.out.push('}');
            object.fit
        }
    }
}

/// An object that is being written.
struct Object<'o> {
    out: &'o mut String,
    first: bool,
    fit: Fit,
}

impl Object<'_> {
    fn member(&mut self, name: &str, value: impl FnOnce(&mut String) -> Fit) {
        if !self.first {
            self.out.push_str(", ");
        }
        self.first = false;
        self.out.push_str(&quote(name));
        self.out.push_str(": ");
        self.fit = self.fit.max(value(self.out));
    }

    fn object(
        &mut self,
        source: &mut Source<'_>,
        (members, tag, variants): (Rows, u8, Rows),
        depth: usize,
    ) {
        let mut case = None;
        for (index, member) in SCHEMA.members(members).iter().enumerate() {
            if tag != NO_TAG && index == usize::from(tag) {
                case = self.tag(source, member);
            } else {
                self.ordinary(source, member, depth);
            }
        }
        let variant = SCHEMA
            .variants(variants)
            .iter()
            .find(|v| Some(name(v.case)) == case);
        if let Some(variant) = variant
            && let TypeRow::Object {
                members,
                tag,
                variants,
                ..
            } = SCHEMA.kind(variant.kind)
            && depth > 0
        {
            self.object(source, (members, tag, variants), depth - 1);
        }
    }

    /// The member that chooses the variant.
    fn tag(&mut self, source: &mut Source<'_>, member: &MemberRow) -> Option<&'static str> {
        let TypeRow::Enum { values, .. } = SCHEMA.kind(member.kind) else {
            panic!("a union's tag is an enumeration");
        };
        let values = SCHEMA.values(values);
        let case = name(values[usize::from(source.byte()) % values.len()].name);
        match source.byte() {
            0..=0xf3 => self.member(name(member.name), |out| {
                out.push_str(&quote(case));
                Fit::Right
            }),
            0xf4..=0xf9 => self.member(name(member.name), |out| {
                out.push_str("\"no-such-case\"");
                Fit::Wrong
            }),
            _ if member.optional => self.fit = self.fit.max(Fit::Doubtful),
            _ => self.fit = Fit::Wrong,
        }
        Some(case)
    }

    fn ordinary(&mut self, source: &mut Source<'_>, member: &MemberRow, depth: usize) {
        let choice = source.byte();
        let given = if member.optional {
            choice & 1 == 0
        } else {
            choice < 0xf4
        };
        if !given || depth == 0 {
            if !member.optional {
                self.fit = Fit::Wrong;
            }
            return;
        }
        // Nearly the right name.
        let mut name = name(member.name).to_owned();
        if choice == 0xee {
            name.push('x');
            self.fit = Fit::Wrong;
        }
        self.member(&name, |out| value(source, member.kind, out, depth - 1));
    }
}

fn builtin(source: &mut Source<'_>, builtin: Builtin, out: &mut String) -> Fit {
    if let Some((least, most)) = range(builtin) {
        let number = integer(source);
        out.push_str(&number.to_string());
        return match (least..=most).contains(&number) {
            true => Fit::Right,
            // Unsigned numbers are taken as negative ones, too.
            false if least == 0 && most == u64::MAX.into() && number >= i64::MIN.into() => {
                Fit::Doubtful
            }
            false => Fit::Wrong,
        };
    }
    match builtin {
        Builtin::Str => out.push_str(&quote(&word(source))),
        Builtin::Number => {
            let number = integer(source) as f64 / 8.0;
            out.push_str(&format!("{number:?}"));
        }
        Builtin::Bool => out.push_str(if source.byte() & 1 == 0 {
            "false"
        } else {
            "true"
        }),
        Builtin::Null => out.push_str("null"),
        _ => {
            return match other(source, TypeRow::Builtin(Builtin::Any), out) {
                Fit::Wrong => Fit::Doubtful,
                fit => fit,
            };
        }
    }
    Fit::Right
}

/// A value of any type.
fn other(source: &mut Source<'_>, row: TypeRow, out: &mut String) -> Fit {
    let is =
        |kinds: &[Builtin]| matches!(row, TypeRow::Builtin(builtin) if kinds.contains(&builtin));
    let (text, right) = match source.byte() % 8 {
        0 => ("null", is(&[Builtin::Null])),
        1 => ("true", is(&[Builtin::Bool])),
        2 => ("-0.5", is(&[Builtin::Number])),
        3 => ("\"\"", is(&[Builtin::Str])),
        4 => ("[]", matches!(row, TypeRow::Array(_))),
        5 => ("{}", false),
        6 => ("[[null, {\"a\": [1.5]}]]", false),
        _ => ("1e300", is(&[Builtin::Number])),
    };
    out.push_str(text);
    match row {
        _ if right || is(&[Builtin::Any]) => Fit::Right,
        TypeRow::Alternate { .. } | TypeRow::Object { .. } => Fit::Doubtful,
        _ => Fit::Wrong,
    }
}

/// Checks that a value is of a type, with all that must be there and nothing else.
///
/// # Panics
/// If it is not.
pub fn conforms(value: &Tree, kind: TypeId) {
    if let Err(why) = check(value, kind) {
        panic!("{why}: {value:?}");
    }
}

fn check(value: &Tree, kind: TypeId) -> Result<(), String> {
    let ok = |good: bool, expected: &str| {
        if good {
            Ok(())
        } else {
            Err(format!("no {expected}"))
        }
    };
    match SCHEMA.kind(kind) {
        TypeRow::Builtin(builtin) => {
            let number = match value {
                Tree::Int(number) => Some(i128::from(*number)),
                Tree::Uint(number) => Some(i128::from(*number)),
                _ => None,
            };
            let good = match (range(builtin), builtin) {
                (Some((least, most)), _) => number.is_some_and(|n| (least..=most).contains(&n)),
                (None, Builtin::Str) => matches!(value, Tree::Text(_)),
                (None, Builtin::Number) => number.is_some() || matches!(value, Tree::Float(_)),
                (None, Builtin::Bool) => matches!(value, Tree::Bool(_)),
                (None, Builtin::Null) => matches!(value, Tree::Null),
                _ => true,
            };
            ok(good, &format!("{builtin:?}"))
        }
        TypeRow::Enum { name: kind, values } => {
            let is = |text: &str| {
                SCHEMA
                    .values(values)
                    .iter()
                    .any(|value| name(value.name) == text)
            };
            ok(matches!(value, Tree::Text(text) if is(text)), name(kind))
        }
        TypeRow::Array(element) => match value {
            Tree::List(list) => list.iter().try_for_each(|value| check(value, element)),
            _ => Err("no list".into()),
        },
        TypeRow::Alternate {
            name: kind,
            branches,
        } => {
            let mut branches = SCHEMA.members(branches).iter();
            ok(
                branches.any(|branch| check(value, branch.kind).is_ok()),
                name(kind),
            )
        }
        TypeRow::Object { .. } => {
            let Tree::Object(members) = value else {
                return Err("no object".into());
            };
            let mut expected = Vec::new();
            gather(members, kind, &mut expected);
            for member in &expected {
                let name = name(member.name);
                match members.iter().find(|(other, _)| other == name) {
                    Some((_, value)) => {
                        check(value, member.kind).map_err(|why| format!("{name}: {why}"))?
                    }
                    None => ok(member.optional, name)?,
                }
            }
            let known = |text: &str| expected.iter().any(|member| name(member.name) == text);
            match members.iter().find(|(name, _)| !known(name)) {
                Some((name, _)) => Err(format!("there should be no {name}")),
                None => Ok(()),
            }
        }
    }
}

/// The members that an object of a type has, those of its variant too.
fn gather(object: &[(String, Tree)], kind: TypeId, all: &mut Vec<&'static MemberRow>) {
    let TypeRow::Object {
        members,
        tag,
        variants,
        ..
    } = SCHEMA.kind(kind)
    else {
        return;
    };
    let members = SCHEMA.members(members);
    all.extend(members);
    let Some(tag) = members.get(usize::from(tag)).map(|tag| name(tag.name)) else {
        return;
    };
    let case = object.iter().find_map(|member| match member {
        (name, Tree::Text(case)) if name == tag => Some(case),
        _ => None,
    });
    let variant = SCHEMA
        .variants(variants)
        .iter()
        .find(|v| case.is_some_and(|case| case == name(v.case)));
    if let Some(variant) = variant {
        gather(object, variant.kind, all);
    }
}
