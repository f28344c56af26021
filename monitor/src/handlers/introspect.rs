//! The schema as clients see it.
//!
//! Types are told under numbers, in the order in which they are first named, so that nobody relies on
//! their names; all integers are one type; and only what commands and events use is told.

use core::fmt::Write as _;

use thimble_core::qmp::{Sink, SinkFull, Writer};

use super::Context;
use crate::Owner;
use crate::error::Fail;
use crate::reply::ListReply;
use crate::schema::{
    Builtin, MemberRow, NO_TAG, Rows, SCHEMA, SchemaMetaType, Tables, TypeId, TypeRow,
};

/// Types that are told at most.
const TYPES_MAX: usize = 1024;

const _: () = assert!(SCHEMA.types.len() <= TYPES_MAX);

pub(crate) fn query_qmp_schema<O: Owner, S: Sink>(
    _context: &mut Context<'_, O>,
    list: &mut ListReply<'_, S>,
) -> Result<(), Fail<'static>> {
    tell(&SCHEMA, list);
    Ok(())
}

fn tell<S: Sink>(tables: &'static Tables, list: &mut ListReply<'_, S>) {
    let mut names = Names {
        tables,
        told: heapless::Vec::new(),
        masks: 0,
    };
    for command in tables.commands {
        list.stream(|w| {
            let name = tables.name(command.name);
            begin(w, name, SchemaMetaType::Command)?;
            names.member(w, b"arg-type", command.arguments)?;
            names.member(w, b"ret-type", command.result)?;
            if command.allow_oob {
                w.key(b"allow-oob")?;
                w.bool(true)?;
            }
            features(tables, w, command.features)?;
            w.end_object()
        });
    }
    for event in tables.events {
        list.stream(|w| {
            begin(w, tables.name(event.name), SchemaMetaType::Event)?;
            names.member(w, b"arg-type", event.data)?;
            features(tables, w, event.features)?;
            w.end_object()
        });
    }
    // Telling a type may name others, which come to the list's end.
    let mut index = 0;
    while let Some(&Told { kind, name }) = names.told.get(index) {
        list.stream(|w| names.kind(w, kind, name));
        index += 1;
    }
}

/// How a type is named.
#[derive(Clone, Copy)]
enum TypeName {
    /// By JSON's word for it.
    Builtin(&'static str),
    /// By a number.
    Masked(u16),
    /// By its element's name in brackets.
    Array,
}

#[derive(Clone, Copy)]
struct Told {
    kind: TypeId,
    name: TypeName,
}

/// The types that have been named, in order.
struct Names {
    tables: &'static Tables,
    told: heapless::Vec<Told, TYPES_MAX>,
    masks: u16,
}

type NameText = heapless::String<32>;

impl Names {
    /// Names a type, now for the first time or as before.
    fn name(&mut self, kind: TypeId) -> NameText {
        let kind = self.one_integer(kind);
        let element = match self.tables.kind(kind) {
            TypeRow::Array(element) => Some(self.name(element)),
            _ => None,
        };
        let before = self.told.iter().find(|told| told.kind == kind);
        let name = match (before, self.tables.kind(kind)) {
            (Some(told), _) => told.name,
            (None, TypeRow::Builtin(builtin)) => TypeName::Builtin(builtin_name(builtin)),
            (None, TypeRow::Array(_)) => TypeName::Array,
            (None, _) => {
                self.masks += 1;
                TypeName::Masked(self.masks - 1)
            }
        };
        if before.is_none() {
            // There is room for all.
            let _ = self.told.push(Told { kind, name });
        }
        let mut text = NameText::new();
        // A number, a word, or either in brackets: always fits.
        let _ = match name {
            TypeName::Builtin(name) => text.write_str(name),
            TypeName::Masked(number) => write!(text, "{number}"),
            TypeName::Array => write!(text, "[{}]", element.unwrap_or_default()),
        };
        text
    }

    /// All integer types are told as one, and so are lists of them.
    fn one_integer(&self, kind: TypeId) -> TypeId {
        let is_int = |kind: TypeRow| match kind {
            TypeRow::Builtin(builtin) => builtin_name(builtin) == "int",
            _ => false,
        };
        let is_list = |kind: TypeRow| match kind {
            TypeRow::Array(element) => is_int(self.tables.kind(element)),
            _ => false,
        };
        let row = self.tables.kind(kind);
        let mut rows = self.tables.types.iter();
        let first = if is_int(row) {
            rows.position(|row| is_int(*row))
        } else if is_list(row) {
            rows.position(|row| is_list(*row))
        } else {
            None
        };
        first.map_or(kind, |index| TypeId(index as u16))
    }

    fn member<S: Sink>(
        &mut self,
        w: &mut Writer<'_, S>,
        key: &[u8],
        kind: TypeId,
    ) -> Result<(), SinkFull> {
        w.key(key)?;
        w.str(&self.name(kind))
    }

    fn kind<S: Sink>(
        &mut self,
        w: &mut Writer<'_, S>,
        kind: TypeId,
        name: TypeName,
    ) -> Result<(), SinkFull> {
        let tables = self.tables;
        let own = self.name(kind);
        match tables.kind(kind) {
            TypeRow::Builtin(builtin) => {
                begin(w, &own, SchemaMetaType::Builtin)?;
                w.key(b"json-type")?;
                let TypeName::Builtin(name) = name else {
                    return w.end_object();
                };
                let json = match builtin {
                    Builtin::Str => "string",
                    Builtin::Bool => "boolean",
                    Builtin::Any => "value",
                    _ => name,
                };
                w.str(json)?;
            }
            TypeRow::Enum { values, .. } => {
                begin(w, &own, SchemaMetaType::Enum)?;
                w.key(b"members")?;
                w.begin_array()?;
                for value in tables.values(values) {
                    w.begin_object()?;
                    w.key(b"name")?;
                    w.str(tables.name(value.name))?;
                    features(tables, w, value.features)?;
                    w.end_object()?;
                }
                w.end_array()?;
                w.key(b"values")?;
                w.begin_array()?;
                for value in tables.values(values) {
                    w.str(tables.name(value.name))?;
                }
                w.end_array()?;
            }
            TypeRow::Array(element) => {
                begin(w, &own, SchemaMetaType::Array)?;
                self.member(w, b"element-type", element)?;
            }
            TypeRow::Alternate { branches, .. } => {
                begin(w, &own, SchemaMetaType::Alternate)?;
                w.key(b"members")?;
                w.begin_array()?;
                for branch in tables.members(branches) {
                    w.begin_object()?;
                    self.member(w, b"type", branch.kind)?;
                    w.end_object()?;
                }
                w.end_array()?;
            }
            TypeRow::Object {
                members,
                tag,
                variants,
                features: of,
            } => {
                begin(w, &own, SchemaMetaType::Object)?;
                let members = tables.members(members);
                self.members(w, members)?;
                if let Some(tag) = members.get(usize::from(tag)).filter(|_| tag != NO_TAG) {
                    self.variants(w, tag, variants)?;
                }
                features(tables, w, of)?;
            }
        }
        w.end_object()
    }

    fn members<S: Sink>(
        &mut self,
        w: &mut Writer<'_, S>,
        members: &[MemberRow],
    ) -> Result<(), SinkFull> {
        w.key(b"members")?;
        w.begin_array()?;
        for member in members {
            w.begin_object()?;
            w.key(b"name")?;
            w.str(self.tables.name(member.name))?;
            if member.optional {
                w.key(b"default")?;
                w.null()?;
            }
            self.member(w, b"type", member.kind)?;
            features(self.tables, w, member.features)?;
            w.end_object()?;
        }
        w.end_array()
    }

    /// A variant for each value of the tag: of an empty object where the union has no more members.
    fn variants<S: Sink>(
        &mut self,
        w: &mut Writer<'_, S>,
        tag: &MemberRow,
        variants: Rows,
    ) -> Result<(), SinkFull> {
        let tables = self.tables;
        w.key(b"tag")?;
        w.str(tables.name(tag.name))?;
        w.key(b"variants")?;
        w.begin_array()?;
        let TypeRow::Enum { values, .. } = tables.kind(tag.kind) else {
            return w.end_array();
        };
        let variants = tables.variants(variants);
        let named = |case: &str| {
            let found = variants.iter().find(|v| tables.name(v.case) == case);
            found.map(|variant| variant.kind)
        };
        for value in tables.values(values) {
            let case = tables.name(value.name);
            w.begin_object()?;
            w.key(b"case")?;
            w.str(case)?;
            self.member(w, b"type", named(case).unwrap_or(TypeId::EMPTY))?;
            w.end_object()?;
        }
        w.end_array()
    }
}

fn begin<S: Sink>(w: &mut Writer<'_, S>, name: &str, kind: SchemaMetaType) -> Result<(), SinkFull> {
    w.begin_object()?;
    w.key(b"name")?;
    w.str(name)?;
    w.key(b"meta-type")?;
    w.str(kind.name())
}

fn features<S: Sink>(
    tables: &Tables,
    w: &mut Writer<'_, S>,
    features: Rows,
) -> Result<(), SinkFull> {
    let features = tables.features(features);
    if features.is_empty() {
        return Ok(());
    }
    w.key(b"features")?;
    w.begin_array()?;
    for feature in features {
        w.str(tables.name(*feature))?;
    }
    w.end_array()
}

/// JSON's word for a builtin type.
fn builtin_name(builtin: Builtin) -> &'static str {
    match builtin {
        Builtin::Str => "str",
        Builtin::Number => "number",
        Builtin::Bool => "bool",
        Builtin::Null => "null",
        Builtin::Any => "any",
        _ => "int",
    }
}
