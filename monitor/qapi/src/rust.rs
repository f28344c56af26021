//! Rust source for the monitor: the schema as tables of plain integers over one text, and the types that handlers use.
//!
//! The tables hold no pointers, so they need no relocation and stay shared pages of the binary.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::{Builtin, Command, Default, Error, Member, Schema, Type, TypeId, Value};

/// The whole source file.
pub(crate) fn source(schema: &Schema) -> Result<String, Error> {
    let mut out = tables(schema);
    let types = Types::of(schema);
    types.enums(&mut out);
    types.module(&mut out, Role::Arguments);
    types.module(&mut out, Role::Results);
    types.events(&mut out);
    types.commands(&mut out);
    types.options(&mut out);
    Ok(out)
}

/// The tables alone.
pub(crate) fn tables(schema: &Schema) -> String {
    let mut tables = Tables::default();
    tables.fill(schema);
    tables.print()
}

/// Rows of the tables, as `monitor/src/schema/tables.rs` declares them.
#[derive(Default)]
struct Tables {
    text: String,
    names: BTreeMap<String, usize>,
    types: Vec<String>,
    members: Vec<String>,
    values: Vec<String>,
    variants: Vec<String>,
    features: Vec<String>,
    commands: Vec<String>,
    by_name: Vec<usize>,
    events: Vec<String>,
}

impl Tables {
    fn name(&mut self, name: &str) -> String {
        let at = match self.names.get(name) {
            Some(at) => *at,
            None => {
                // A name inside another one is found there.
                let at = self.text.find(name).unwrap_or_else(|| {
                    self.text.push_str(name);
                    self.text.len() - name.len()
                });
                self.names.insert(name.into(), at);
                at
            }
        };
        format!("Name::new({at}, {})", name.len())
    }

    fn features(&mut self, features: &[String]) -> String {
        let start = self.features.len();
        for feature in features {
            let name = self.name(feature);
            self.features.push(name);
        }
        range(start, features.len())
    }

    fn members(&mut self, members: &[Member]) -> String {
        let start = self.members.len();
        for member in members {
            let name = self.name(&member.name);
            let features = self.features(&member.features);
            let (kind, optional) = (member.kind.0, member.optional);
            self.members.push(format!(
                "MemberRow {{ name: {name}, kind: TypeId({kind}), optional: {optional}, features: {features} }}"
            ));
        }
        range(start, members.len())
    }

    fn fill(&mut self, schema: &Schema) {
        // The longest first, so that others are found inside.
        let mut words: Vec<&str> = schema.dictionary().into_iter().collect();
        words.sort_by_key(|word| std::cmp::Reverse(word.len()));
        for word in words {
            self.name(word);
        }
        for kind in &schema.types {
            let row = match kind {
                Type::Builtin(builtin) => format!("TypeRow::Builtin(Builtin::{builtin:?})"),
                Type::Array(element) => format!("TypeRow::Array(TypeId({}))", element.0),
                Type::Enum { name, values } => {
                    let start = self.values.len();
                    for value in values {
                        let name = self.name(&value.name);
                        let features = self.features(&value.features);
                        self.values
                            .push(format!("ValueRow {{ name: {name}, features: {features} }}"));
                    }
                    let values = range(start, values.len());
                    let name = self.name(name);
                    format!("TypeRow::Enum {{ name: {name}, values: {values} }}")
                }
                Type::Alternate { name, branches } => {
                    let branches = self.members(branches);
                    let name = self.name(name);
                    format!("TypeRow::Alternate {{ name: {name}, branches: {branches} }}")
                }
                Type::Object {
                    members,
                    tag,
                    variants,
                    features,
                    ..
                } => {
                    let members = self.members(members);
                    let start = self.variants.len();
                    for variant in variants {
                        let case = self.name(&variant.case);
                        self.variants.push(format!(
                            "VariantRow {{ case: {case}, kind: TypeId({}) }}",
                            variant.kind.0
                        ));
                    }
                    let variants = range(start, variants.len());
                    let features = self.features(features);
                    let tag = tag.map_or("NO_TAG".into(), |tag| tag.to_string());
                    format!(
                        "TypeRow::Object {{ members: {members}, tag: {tag}, variants: {variants}, features: {features} }}"
                    )
                }
            };
            self.types.push(row);
        }
        for command in &schema.commands {
            let name = self.name(&command.name);
            let features = self.features(&command.features);
            let (arguments, result) = (command.arguments.0, command.result.0);
            let (oob, preconfig) = (command.allow_oob, command.allow_preconfig);
            self.commands.push(format!(
                "CommandRow {{ name: {name}, arguments: TypeId({arguments}), result: TypeId({result}), \
                 allow_oob: {oob}, allow_preconfig: {preconfig}, features: {features} }}"
            ));
        }
        self.by_name = (0..schema.commands.len()).collect();
        self.by_name
            .sort_by_key(|index| &schema.commands[*index].name);
        for event in &schema.events {
            let name = self.name(&event.name);
            let features = self.features(&event.features);
            self.events.push(format!(
                "EventRow {{ name: {name}, data: TypeId({}), rate_limit: {}, features: {features} }}",
                event.data.0, event.rate_limit
            ));
        }
    }

    fn print(&self) -> String {
        let list = |rows: &[String]| rows.join(",\n        ");
        let by_name: Vec<_> = self.by_name.iter().map(ToString::to_string).collect();
        format!(
            "/// The schema.\npub static SCHEMA: Tables = Tables {{\n    text: {:?},\n    types: &[\n        {}],\n    \
             members: &[{}],\n    values: &[{}],\n    variants: &[{}],\n    features: &[{}],\n    \
             commands: &[{}],\n    by_name: &[{}],\n    events: &[{}],\n}};\n\n",
            self.text,
            list(&self.types),
            list(&self.members),
            list(&self.values),
            list(&self.variants),
            list(&self.features),
            list(&self.commands),
            by_name.join(", "),
            list(&self.events),
        )
    }
}

fn range(start: usize, count: usize) -> String {
    let start = if count == 0 { 0 } else { start };
    format!("Rows::new({start}, {count})")
}

/// What a type is used for: what is read borrows from a message, what is written from the machine.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Arguments,
    Results,
}

struct Types<'s> {
    schema: &'s Schema,
    arguments: BTreeSet<TypeId>,
    results: BTreeSet<TypeId>,
}

impl<'s> Types<'s> {
    fn of(schema: &'s Schema) -> Self {
        let mut types = Self {
            schema,
            arguments: BTreeSet::new(),
            results: BTreeSet::new(),
        };
        for command in &schema.commands {
            types.reach(command.arguments, Role::Arguments);
            types.reach(command.result, Role::Results);
        }
        for (id, _) in &schema.option_types {
            types.reach(*id, Role::Arguments);
        }
        for event in &schema.events {
            types.reach(event.data, Role::Results);
            // The data itself is in the event.
            if types.name(event.data).starts_with("q_obj_") {
                types.results.remove(&event.data);
            }
        }
        types
    }

    fn kind(&self, id: TypeId) -> &'s Type {
        &self.schema.types[id.0]
    }

    fn name(&self, id: TypeId) -> &'s str {
        self.kind(id).name()
    }

    fn reach(&mut self, id: TypeId, role: Role) {
        let set = match role {
            Role::Arguments => &mut self.arguments,
            Role::Results => &mut self.results,
        };
        if id == TypeId::EMPTY || !set.insert(id) {
            return;
        }
        match self.kind(id) {
            Type::Builtin(_) | Type::Enum { .. } => {}
            Type::Array(element) => self.reach(*element, role),
            Type::Alternate { branches, .. } => {
                for branch in branches {
                    self.reach(branch.kind, role);
                }
            }
            Type::Object {
                members, variants, ..
            } => {
                for member in members {
                    self.reach(member.kind, role);
                }
                for variant in variants {
                    self.reach(variant.kind, role);
                }
            }
        }
    }

    /// Whether values of a type borrow.
    fn borrows(&self, id: TypeId, above: &mut Vec<TypeId>) -> bool {
        if above.contains(&id) {
            return false;
        }
        above.push(id);
        let borrows = match self.kind(id) {
            Type::Builtin(builtin) => matches!(builtin, Builtin::Str | Builtin::Any),
            Type::Enum { .. } => false,
            Type::Array(_) => true,
            Type::Alternate { branches, .. } => branches
                .iter()
                .any(|branch| self.borrows(branch.kind, above)),
            Type::Object {
                members, variants, ..
            } => {
                members
                    .iter()
                    .any(|member| self.borrows(member.kind, above))
                    || variants.iter().any(|v| self.borrows(v.kind, above))
            }
        };
        above.pop();
        borrows
    }

    fn lifetime(&self, id: TypeId) -> &'static str {
        match self.borrows(id, &mut Vec::new()) {
            true => "<'a>",
            false => "",
        }
    }

    /// The Rust name of an object or alternate.
    fn rust_name(&self, id: TypeId) -> String {
        let name = self.name(id);
        camel(owner(name).unwrap_or(name))
    }

    /// The Rust type of a member.
    fn rust_type(&self, id: TypeId, role: Role) -> String {
        match self.kind(id) {
            Type::Builtin(builtin) => match (builtin, role) {
                (Builtin::Str, Role::Arguments) => "&'a [u8]",
                (Builtin::Str, Role::Results) => "&'a str",
                (Builtin::Number, _) => "f64",
                (Builtin::Int | Builtin::Int64, _) => "i64",
                (Builtin::Int8, _) => "i8",
                (Builtin::Int16, _) => "i16",
                (Builtin::Int32, _) => "i32",
                (Builtin::Uint8, _) => "u8",
                (Builtin::Uint16, _) => "u16",
                (Builtin::Uint32, _) => "u32",
                (Builtin::Uint64 | Builtin::Size, _) => "u64",
                (Builtin::Bool, _) => "bool",
                (Builtin::Null, _) => "()",
                (Builtin::Any, Role::Arguments) => "Value<'a>",
                (Builtin::Any, Role::Results) => "Any<'a>",
            }
            .into(),
            Type::Enum { name, .. } => camel(name),
            Type::Array(element) => match role {
                Role::Arguments => format!("List<'a, {}>", self.rust_type(*element, role)),
                Role::Results => format!("&'a [{}]", self.rust_type(*element, role)),
            },
            Type::Object { .. } if id == TypeId::EMPTY => "()".into(),
            Type::Object { .. } | Type::Alternate { .. } => {
                format!("{}{}", self.rust_name(id), self.lifetime(id))
            }
        }
    }

    /// Whether a type has values of itself within.
    fn recursive(&self, id: TypeId) -> bool {
        let mut seen = BTreeSet::new();
        let mut next = vec![id];
        while let Some(at) = next.pop() {
            let below: Vec<TypeId> = match self.kind(at) {
                Type::Builtin(_) | Type::Enum { .. } => Vec::new(),
                Type::Array(element) => vec![*element],
                Type::Alternate { branches, .. } => branches.iter().map(|b| b.kind).collect(),
                Type::Object {
                    members, variants, ..
                } => {
                    let members = members.iter().map(|member| member.kind);
                    members.chain(variants.iter().map(|v| v.kind)).collect()
                }
            };
            for kind in below {
                if kind == id {
                    return true;
                }
                if seen.insert(kind) {
                    next.push(kind);
                }
            }
        }
        false
    }

    /// The Rust type of an alternate's branch: what would hold itself is read when it is asked for.
    fn branch_type(&self, id: TypeId, role: Role) -> String {
        let kind = self.rust_type(id, role);
        let object = matches!(self.kind(id), Type::Object { .. });
        match object && role == Role::Arguments && self.recursive(id) {
            true => format!("Later<'a, {kind}>"),
            false => kind,
        }
    }

    fn field_type(&self, member: &Member, role: Role) -> String {
        let kind = self.rust_type(member.kind, role);
        let object = matches!(self.kind(member.kind), Type::Object { .. });
        let kind = match object && role == Role::Results && self.recursive(member.kind) {
            true => format!("&'a {kind}"),
            false => kind,
        };
        match member.optional && (member.default.is_none() || role == Role::Results) {
            true => format!("Option<{kind}>"),
            false => kind,
        }
    }

    fn docs_of(&self, id: TypeId) -> String {
        let name = self.name(id);
        match owner(name) {
            Some(owner) => format!("Of `{owner}`."),
            None => self.schema.docs[name].body.clone(),
        }
    }

    fn enums(&self, out: &mut String) {
        for id in self.arguments.union(&self.results) {
            let Type::Enum { name, values } = self.kind(*id) else {
                continue;
            };
            let rust = camel(name);
            let names: Vec<_> = values
                .iter()
                .map(|value| format!("{:?}", value.name))
                .collect();
            let reader = format!(
                "impl<'m> FromValue<'m> for {rust} {{\n    fn from_value(value: Option<Value<'m>>) -> Self {{\n        \
                 let name = value.and_then(Value::bytes).unwrap_or_default();\n        \
                 let found = {rust}::ALL.iter().find(|value| value.name().as_bytes() == name);\n        \
                 found.copied().unwrap_or({rust}::ALL[0])\n    }}\n}}\n"
            );
            if let Some(path) = self.schema.rust_enums.get(name) {
                line(out, &format!("pub use {path};\n\n{reader}"));
                line(
                    out,
                    &format!(
                        "#[test]\nfn {}_is_the_same_everywhere() {{\n    \
                         let names = {rust}::ALL.iter().map(|value| value.name());\n    \
                         assert!(names.eq([{}]));\n}}\n",
                        name.to_lowercase(),
                        names.join(", ")
                    ),
                );
                continue;
            }
            doc(out, "", &self.docs_of(*id));
            line(
                out,
                &format!("#[derive(Clone, Copy, Debug, PartialEq, Eq)]\npub enum {rust} {{"),
            );
            for value in values {
                doc(out, "    ", &value.docs);
                line(out, &format!("    {},", camel(&value.name)));
            }
            line(out, "}\n");
            let all = join(values, |value| format!("Self::{}", camel(&value.name)));
            let names = join(values, |Value { name, .. }| {
                format!("Self::{} => {name:?}", camel(name))
            });
            line(
                out,
                &format!(
                    "impl {rust} {{\n    /// All values, in the schema's order.\n    pub const ALL: &[Self] = &[{all}];\n\n    \
                     /// The name on the wire.\n    pub const fn name(self) -> &'static str {{\n        \
                     match self {{ {names} }}\n    }}\n}}\n\n\
                     impl serde::Serialize for {rust} {{\n    \
                     fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {{\n        \
                     to.serialize_str(self.name())\n    }}\n}}\n\n{reader}"
                ),
            );
        }
    }

    fn module(&self, out: &mut String, role: Role) {
        let (name, text, set) = match role {
            Role::Arguments => (
                "arguments",
                "What commands are given, once it has been checked.",
                &self.arguments,
            ),
            Role::Results => ("results", "What commands answer.", &self.results),
        };
        line(
            out,
            &format!(
                "/// {text}\npub mod {name} {{\n    #[allow(unused_imports)]\n    use super::*;\n"
            ),
        );
        for id in set {
            match self.kind(*id) {
                Type::Object { .. } => self.object(out, *id, role),
                Type::Alternate { .. } => self.alternate(out, *id, role),
                Type::Builtin(_) | Type::Enum { .. } | Type::Array(_) => {}
            }
        }
        line(out, "}\n");
    }

    fn object(&self, out: &mut String, id: TypeId, role: Role) {
        let Type::Object {
            members,
            tag,
            variants,
            ..
        } = self.kind(id)
        else {
            return;
        };
        let (name, lifetime) = (self.rust_name(id), self.lifetime(id));
        doc(out, "    ", &self.docs_of(id));
        line(
            out,
            // Events are compared, and may have such a one.
            &format!(
                "    #[derive(Clone, Debug{})]\n    pub struct {name}{lifetime} {{",
                if role == Role::Results && lifetime.is_empty() && tag.is_none() {
                    ", PartialEq"
                } else {
                    ""
                }
            ),
        );
        // The variant says what the tag is.
        let own = |index: usize| variants.is_empty() || Some(index) != *tag;
        for (index, member) in members.iter().enumerate() {
            if own(index) {
                doc(out, "        ", &member.docs);
                let kind = self.field_type(member, role);
                line(
                    out,
                    &format!("        pub {}: {kind},", snake(&member.name)),
                );
            }
        }
        if !variants.is_empty() {
            line(
                out,
                &format!("        /// The variant.\n        pub variant: {name}Variant{lifetime},"),
            );
        }
        line(out, "    }\n");
        let tag = tag.filter(|_| !variants.is_empty());
        if let Some(tag) = tag {
            self.variants(out, id, &members[tag], role);
        }
        match role {
            Role::Arguments => self.reader(out, id, tag),
            Role::Results => self.writer(out, id, tag),
        }
    }

    /// The enum of a union's variants: one for each value of the tag.
    fn variants(&self, out: &mut String, id: TypeId, tag: &Member, role: Role) {
        let (Type::Object { variants, .. }, Type::Enum { values, .. }) =
            (self.kind(id), self.kind(tag.kind))
        else {
            return;
        };
        let (name, lifetime) = (self.rust_name(id), self.lifetime(id));
        doc(out, "    ", &format!("The variants of [`{name}`]."));
        line(
            out,
            // There is no heap to box the large ones.
            &format!(
                "    #[allow(clippy::large_enum_variant)]\n    #[derive(Clone, Debug)]\n    pub enum {name}Variant{lifetime} {{"
            ),
        );
        for value in values {
            doc(out, "        ", &value.docs);
            let variant = variants.iter().find(|variant| variant.case == value.name);
            let content = variant.map_or(String::new(), |variant| {
                format!("({})", self.rust_type(variant.kind, role))
            });
            line(out, &format!("        {}{content},", camel(&value.name)));
        }
        line(out, "    }\n");
    }

    fn reader(&self, out: &mut String, id: TypeId, tag: Option<usize>) {
        let Type::Object {
            members, variants, ..
        } = self.kind(id)
        else {
            return;
        };
        let (name, lifetime) = (self.rust_name(id), self.lifetime(id));
        let mut fields = String::new();
        for (index, member) in members.iter().enumerate() {
            if Some(index) == tag {
                continue;
            }
            let value = format!("FromValue::from_value(member(value, {:?}))", member.name);
            let value = match &member.default {
                None => value,
                Some(default) => {
                    let kind = self.rust_type(member.kind, Role::Arguments);
                    let default = match (default, self.kind(member.kind)) {
                        (Default::Bool(value), _) => value.to_string(),
                        (Default::Number(value), _) => value.to_string(),
                        (Default::Text(text), Type::Enum { .. }) => {
                            format!("{kind}::{}", camel(text))
                        }
                        (Default::Text(text), _) => format!("b{text:?}"),
                    };
                    format!(
                        "<Option<{kind}>>::from_value(member(value, {:?})).unwrap_or({default})",
                        member.name
                    )
                }
            };
            let _ = write!(fields, "{}: {value}, ", snake(&member.name));
        }
        if let Some(tag) = tag {
            let tag = &members[tag];
            let Type::Enum { name: kind, values } = self.kind(tag.kind) else {
                return;
            };
            let cases = join(values, |value| {
                let case = camel(&value.name);
                let content = match variants.iter().any(|v| v.case == value.name) {
                    true => "(FromValue::from_value(value))",
                    false => "",
                };
                format!("{}::{case} => {name}Variant::{case}{content}", camel(kind))
            });
            let _ = write!(
                fields,
                "variant: match FromValue::from_value(member(value, {:?})) {{ {cases} }}, ",
                tag.name
            );
        }
        line(
            out,
            &format!(
                "    impl<'a> FromValue<'a> for {name}{lifetime} {{\n        \
                 fn from_value(value: Option<Value<'a>>) -> Self {{\n            Self {{ {fields} }}\n        }}\n    }}\n"
            ),
        );
    }

    fn writer(&self, out: &mut String, id: TypeId, tag: Option<usize>) {
        let Type::Object {
            members, variants, ..
        } = self.kind(id)
        else {
            return;
        };
        let (name, lifetime) = (self.rust_name(id), self.lifetime(id));
        let elided = if lifetime.is_empty() { "" } else { "<'_>" };
        let mut fields = String::new();
        for (index, member) in members.iter().enumerate() {
            let key = &member.name;
            let field = snake(key);
            let text = if Some(index) == tag {
                let Type::Enum { values, .. } = self.kind(member.kind) else {
                    return;
                };
                let names = join(values, |value| {
                    let content = match variants.iter().any(|v| v.case == value.name) {
                        true => "(_)",
                        false => "",
                    };
                    let case = camel(&value.name);
                    format!("{name}Variant::{case}{content} => {:?}", value.name)
                });
                format!("to.serialize_field({key:?}, match &self.variant {{ {names} }})?;")
            } else {
                let by_name = match self.kind(member.kind) {
                    Type::Enum { .. } => ".name()",
                    _ => "",
                };
                match member.optional {
                    true => format!(
                        "if let Some(value) = &self.{field} {{ to.serialize_field({key:?}, &value{by_name})?; }}"
                    ),
                    false => format!("to.serialize_field({key:?}, &self.{field}{by_name})?;"),
                }
            };
            let _ = write!(fields, "\n            {text}");
        }
        if tag.is_some() {
            let cases = join(variants, |variant| {
                format!(
                    "{name}Variant::{}(variant) => variant.fields(to)?",
                    camel(&variant.case)
                )
            });
            let _ = write!(
                fields,
                "\n            #[allow(unreachable_patterns)]\n            match &self.variant {{ {cases}, _ => {{}} }}"
            );
        }
        line(
            out,
            &format!(
                "    impl {name}{elided} {{\n        \
                 fn fields<S: serde::ser::SerializeStruct>(&self, to: &mut S) -> Result<(), S::Error> {{{fields}\n            Ok(())\n        }}\n    }}\n\n    \
                 impl serde::Serialize for {name}{elided} {{\n        \
                 fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {{\n            \
                 let mut to = to.serialize_struct({name:?}, 0)?;\n            self.fields(&mut to)?;\n            \
                 serde::ser::SerializeStruct::end(to)\n        }}\n    }}\n"
            ),
        );
    }

    fn alternate(&self, out: &mut String, id: TypeId, role: Role) {
        let Type::Alternate { branches, .. } = self.kind(id) else {
            return;
        };
        let (name, lifetime) = (self.rust_name(id), self.lifetime(id));
        doc(out, "    ", &self.docs_of(id));
        line(
            out,
            &format!("    #[derive(Clone, Debug)]\n    pub enum {name}{lifetime} {{"),
        );
        for branch in branches {
            doc(out, "        ", &branch.docs);
            let kind = self.branch_type(branch.kind, role);
            line(out, &format!("        {}({kind}),", camel(&branch.name)));
        }
        line(out, "    }\n");
        if role == Role::Results {
            let cases = join(branches, |branch| {
                format!(
                    "Self::{}(value) => value.serialize(to)",
                    camel(&branch.name)
                )
            });
            let elided = if lifetime.is_empty() { "" } else { "<'_>" };
            line(
                out,
                &format!(
                    "    impl serde::Serialize for {name}{elided} {{\n        \
                     fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {{\n            \
                     match self {{ {cases} }}\n        }}\n    }}\n"
                ),
            );
            return;
        }
        let mut cases: Vec<String> = branches
            .iter()
            .map(|branch| {
                let kinds = match self.schema.json_type(branch.kind) {
                    "string" => "String",
                    "boolean" => "True | thimble_core::qmp::Kind::False",
                    "null" => "Null",
                    "array" => "Array",
                    "object" => "Object",
                    _ => "Integer | thimble_core::qmp::Kind::Unsigned | thimble_core::qmp::Kind::Float",
                };
                format!(
                    "Some(thimble_core::qmp::Kind::{kinds}) => Self::{}(FromValue::from_value(value))",
                    camel(&branch.name)
                )
            })
            .collect();
        if let Some(first) = branches.first() {
            cases.push(format!(
                "_ => Self::{}(FromValue::from_value(value))",
                camel(&first.name)
            ));
        }
        line(
            out,
            &format!(
                "    impl<'a> FromValue<'a> for {name}{lifetime} {{\n        \
                 fn from_value(value: Option<Value<'a>>) -> Self {{\n            \
                 match value.map(Value::kind) {{ {} }}\n        }}\n    }}\n",
                cases.join(", ")
            ),
        );
    }

    /// The events, whose data they own.
    fn events(&self, out: &mut String) {
        line(
            out,
            "/// What happened.\n#[derive(Clone, Debug, PartialEq)]\npub enum Event {",
        );
        let mut names = String::new();
        let mut data = String::new();
        for (index, event) in self.schema.events.iter().enumerate() {
            doc(out, "    ", &self.schema.docs[&event.name].body);
            let rust = camel(&event.name.to_lowercase());
            let Type::Object { members, .. } = self.kind(event.data) else {
                continue;
            };
            if members.is_empty() {
                line(out, &format!("    {rust},"));
                let _ = writeln!(names, "            Self::{rust} => {index},");
                continue;
            }
            line(out, &format!("    {rust} {{"));
            let mut fields = String::new();
            let mut writes = String::new();
            for member in members {
                doc(out, "        ", &member.docs);
                let kind = self.rust_type(member.kind, Role::Results);
                let kind = match self.kind(member.kind) {
                    Type::Builtin(Builtin::Str) => "EventText".into(),
                    Type::Object { .. } => format!("results::{kind}"),
                    _ => kind,
                };
                let field = snake(&member.name);
                let key = format!("w.key(b{:?})?;", member.name);
                let write = self.event_value(member.kind);
                if member.optional {
                    line(out, &format!("        {field}: Option<{kind}>,"));
                    let _ = write!(writes, "if let Some({field}) = {field} {{ {key} ");
                    let _ = writeln!(writes, "{} }}", write.replace("$", &field));
                } else {
                    line(out, &format!("        {field}: {kind},"));
                    let _ = writeln!(writes, "{key} {}", write.replace("$", &field));
                }
                let _ = write!(fields, "{field}, ");
            }
            line(out, "    },");
            let _ = writeln!(names, "            Self::{rust} {{ .. }} => {index},");
            let _ = writeln!(
                data,
                "            Self::{rust} {{ {fields} }} => {{ w.key(b\"data\")?; w.begin_object()?;\n{writes}w.end_object() }}"
            );
        }
        line(
            out,
            &format!(
                "}}\n\nimpl Event {{\n    /// Its row in the schema.\n    pub fn index(&self) -> usize {{\n        match self {{\n{names}        }}\n    }}\n\n    \
                 /// Writes its data, if it has any, as a member.\n    \
                 pub(crate) fn write_data<S: Sink>(&self, w: &mut Writer<'_, S>) -> Result<(), SinkFull> {{\n        match self {{\n{data}            _ => Ok(()),\n        }}\n    }}\n}}\n"
            ),
        );
    }

    fn options(&self, out: &mut String) {
        for (id, implied) in &self.schema.option_types {
            let name = self.rust_name(*id);
            line(
                out,
                &format!(
                    "impl<'a> OptionType<'a> for arguments::{name}{} {{\n    \
                     const KIND: TypeId = TypeId({});\n    const IMPLIED: &'static str = {implied:?};\n\n    \
                     fn read(value: Value<'a>) -> Self {{\n        FromValue::from_value(Some(value))\n    }}\n}}\n",
                    self.lifetime(*id),
                    id.0
                ),
            );
        }
    }

    fn event_value(&self, id: TypeId) -> String {
        match self.kind(id) {
            Type::Builtin(Builtin::Str) => "w.str($)?;",
            Type::Builtin(Builtin::Bool) => "w.bool(*$)?;",
            Type::Builtin(Builtin::Uint64 | Builtin::Size) => "w.uint(*$)?;",
            Type::Builtin(Builtin::Int | Builtin::Int64) => "w.int(*$)?;",
            Type::Builtin(_) => "w.int((*$).into())?;",
            Type::Object { .. } => "put_member(w, $)?;",
            _ => "w.str($.name())?;",
        }
        .into()
    }

    /// From a checked command to its handler.
    fn commands(&self, out: &mut String) {
        let commands = &self.schema.commands;
        let mut cases = String::new();
        for (index, command) in commands.iter().enumerate() {
            let _ = writeln!(cases, "        {index} => {}", self.call(command));
        }
        line(
            out,
            &format!(
                "/// Hands a checked command to its handler.\n\
                 pub(crate) fn execute<'m, O: Owner, T: Sink>(\n    command: usize,\n    arguments: Option<Value<'m>>,\n    \
                 context: &mut Context<'_, O>,\n    reply: &mut Reply<'_, T>,\n) -> Result<Outcome, Fail<'m>> {{\n    match command {{\n{cases}        \
                 _ => {{}}\n    }}\n    Ok(Outcome::Done)\n}}\n"
            ),
        );
        let empty = join(commands, |command| {
            format!("{:?}", self.empty(command.result))
        });
        line(
            out,
            &format!(
                "/// The smallest result of each command.\n#[cfg(feature = \"sabotage\")]\n\
                 pub(crate) static EMPTY_RESULTS: [&str; {}] = [{empty}];",
                commands.len()
            ),
        );
    }

    fn call(&self, command: &Command) -> String {
        let handler = snake(&command.name);
        let arguments = match command.arguments {
            TypeId::EMPTY => "",
            _ => ", FromValue::from_value(arguments)",
        };
        if command.coroutine {
            return match self.kind(command.result) {
                // Where there is nothing to wait for, it has written its text.
                Type::Builtin(Builtin::Str) => {
                    format!("return handlers::{handler}(context{arguments}, reply),")
                }
                _ => {
                    format!("return handlers::{handler}(context{arguments}).map(Outcome::Pending),")
                }
            };
        }
        match self.kind(command.result) {
            _ if command.result == TypeId::EMPTY => {
                format!("handlers::{handler}(context{arguments})?,")
            }
            Type::Array(_) => format!(
                "{{ let mut list = reply.list()?; handlers::{handler}(context{arguments}, &mut list)?; list.end()?; }}"
            ),
            // Texts are written piece by piece.
            Type::Builtin(Builtin::Any | Builtin::Str) => {
                format!("handlers::{handler}(context{arguments}, reply)?,")
            }
            _ => format!(
                "{{ let result = handlers::{handler}(context{arguments})?; reply.value(&result)?; }}"
            ),
        }
    }

    /// The smallest JSON text of a type.
    fn empty(&self, id: TypeId) -> String {
        match self.kind(id) {
            Type::Builtin(Builtin::Str) => "\"\"".into(),
            Type::Builtin(Builtin::Bool) => "false".into(),
            Type::Builtin(Builtin::Any) => "{}".into(),
            Type::Builtin(Builtin::Null) => "null".into(),
            Type::Builtin(_) => "0".into(),
            Type::Enum { values, .. } => {
                format!("{:?}", values.first().map_or("", |value| &value.name))
            }
            Type::Array(_) => "[]".into(),
            Type::Alternate { branches, .. } => branches
                .first()
                .map_or(String::new(), |branch| self.empty(branch.kind)),
            Type::Object { members, .. } => {
                let members: Vec<&Member> = members.iter().filter(|m| !m.optional).collect();
                let members = join(&members, |member| {
                    format!("\"{}\": {}", member.name, self.empty(member.kind))
                });
                format!("{{{members}}}")
            }
        }
    }
}

/// Whose arguments or data an object without a name of its own is.
fn owner(name: &str) -> Option<&str> {
    let name = name.strip_prefix("q_obj_")?;
    Some(name.trim_end_matches("-arg"))
}

fn join<T>(items: &[T], text: impl Fn(&T) -> String) -> String {
    items.iter().map(text).collect::<Vec<_>>().join(", ")
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn doc(out: &mut String, indent: &str, text: &str) {
    for text in text.lines() {
        line(
            out,
            &format!("{indent}/// {text}").replace("/// \n", "///\n"),
        );
    }
}

/// `query-cpus-fast` to `QueryCpusFast`.
fn camel(name: &str) -> String {
    let mut camel = String::new();
    let mut upper = true;
    for c in name.chars() {
        if c == '-' || c == '_' || c == '.' || c == ' ' {
            upper = true;
        } else {
            camel.push(if upper { c.to_ascii_uppercase() } else { c });
            upper = false;
        }
    }
    if camel.starts_with(|c: char| c.is_ascii_digit()) {
        camel.insert(0, 'N');
    }
    camel
}

/// `cpu-index` to `cpu_index`.
fn snake(name: &str) -> String {
    const KEYWORDS: [&str; 9] = [
        "abstract", "type", "static", "in", "final", "virtual", "match", "loop", "override",
    ];
    let snake = name.replace(['-', '.'], "_").to_lowercase();
    match KEYWORDS.contains(&&*snake) {
        true => format!("r#{snake}"),
        false => snake,
    }
}
