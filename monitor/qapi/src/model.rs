//! The schema as it is meant: definitions checked, and names resolved to types.

use std::collections::HashMap;
use std::path::Path;

use crate::Error;
use crate::docs::Docs;
use crate::error::Place;
use crate::expression::{self, Expression, Item};

/// An index into [`Schema::types`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(pub usize);

impl TypeId {
    /// The object without members: the type of no arguments and of no result.
    pub const EMPTY: Self = Self(0);
}

/// The types that the language brings along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Builtin {
    /// `str`
    Str,
    /// `number`: a double.
    Number,
    /// `int`: 64 bits, signed.
    Int,
    /// `int8`
    Int8,
    /// `int16`
    Int16,
    /// `int32`
    Int32,
    /// `int64`
    Int64,
    /// `uint8`
    Uint8,
    /// `uint16`
    Uint16,
    /// `uint32`
    Uint32,
    /// `uint64`
    Uint64,
    /// `size`: as `uint64`, with suffixes where it is written as text.
    Size,
    /// `bool`
    Bool,
    /// `null`
    Null,
    /// `any`
    Any,
}

impl Builtin {
    /// Each, with its name in the language.
    pub const ALL: [(Self, &'static str); 15] = [
        (Self::Str, "str"),
        (Self::Number, "number"),
        (Self::Int, "int"),
        (Self::Int8, "int8"),
        (Self::Int16, "int16"),
        (Self::Int32, "int32"),
        (Self::Int64, "int64"),
        (Self::Uint8, "uint8"),
        (Self::Uint16, "uint16"),
        (Self::Uint32, "uint32"),
        (Self::Uint64, "uint64"),
        (Self::Size, "size"),
        (Self::Bool, "bool"),
        (Self::Null, "null"),
        (Self::Any, "any"),
    ];

    /// The language's name.
    pub fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(builtin, _)| *builtin == self);
        found.map_or("", |(_, name)| name)
    }
}

/// A type.
#[derive(Clone, Debug)]
pub enum Type {
    /// One of the language's own.
    Builtin(Builtin),
    /// One of several names.
    Enum {
        /// The type's name.
        name: String,
        /// Its values.
        values: Vec<Value>,
    },
    /// A list of one type.
    Array(TypeId),
    /// A struct or a union.
    Object {
        /// The type's name.
        name: String,
        /// All members, those of the base first.
        members: Vec<Member>,
        /// Which member of a union chooses the variant.
        tag: Option<usize>,
        /// A union's variants. Values of the tag without one add no members.
        variants: Vec<Variant>,
        /// Its features.
        features: Vec<String>,
    },
    /// One of several types, told apart by their JSON types.
    Alternate {
        /// The type's name.
        name: String,
        /// The types.
        branches: Vec<Member>,
    },
}

impl Type {
    /// The type's name; a list has that of its element.
    pub fn name(&self) -> &str {
        match self {
            Self::Builtin(builtin) => builtin.name(),
            Self::Enum { name, .. } | Self::Object { name, .. } | Self::Alternate { name, .. } => {
                name
            }
            Self::Array(_) => "",
        }
    }
}

/// A value of an enumeration.
#[derive(Clone, Debug)]
pub struct Value {
    /// Its name.
    pub name: String,
    /// What it means.
    pub docs: String,
    /// Its features.
    pub features: Vec<String>,
}

/// What an argument is taken for when it is not given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Default {
    /// A boolean.
    Bool(bool),
    /// A number.
    Number(i64),
    /// A string or the name of a value.
    Text(String),
}

/// A member of an object, or a branch of an alternate.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: TypeId,
    /// Whether it may be left out.
    pub optional: bool,
    /// What it is taken for then.
    pub default: Option<Default>,
    /// Its features.
    pub features: Vec<String>,
    /// What it means.
    pub docs: String,
}

/// A variant of a union.
#[derive(Clone, Debug)]
pub struct Variant {
    /// The tag's value.
    pub case: String,
    /// The object whose members the union has then.
    pub kind: TypeId,
}

/// A command.
#[derive(Clone, Debug)]
pub struct Command {
    /// Its name.
    pub name: String,
    /// The object of its arguments.
    pub arguments: TypeId,
    /// Its result; [`TypeId::EMPTY`] for none.
    pub result: TypeId,
    /// Whether it may be executed out of band.
    pub allow_oob: bool,
    /// Whether it is there before the machine is built.
    pub allow_preconfig: bool,
    /// Whether it may go on while other commands are executed.
    pub coroutine: bool,
    /// Its features.
    pub features: Vec<String>,
}

/// An event.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its name.
    pub name: String,
    /// The object of its data.
    pub data: TypeId,
    /// Milliseconds between two of them at least; 0 for no limit.
    pub rate_limit: u32,
    /// Its features.
    pub features: Vec<String>,
}

/// A schema that has been checked.
#[derive(Clone, Debug)]
pub struct Schema {
    /// All types.
    pub types: Vec<Type>,
    /// All commands, in their order.
    pub commands: Vec<Command>,
    /// All events, in their order.
    pub events: Vec<Event>,
    /// Documentation of types, commands and events by name.
    pub(crate) docs: HashMap<String, Docs>,
    /// Enumerations whose Rust type is elsewhere, with its path: it must have `ALL`, `name()` and the same values.
    pub(crate) rust_enums: HashMap<String, String>,
    /// Types that command line options take, each with the key of a first value without one.
    pub(crate) option_types: Vec<(TypeId, String)>,
    /// Files that were read.
    pub files: Vec<std::path::PathBuf>,
    names: HashMap<String, TypeId>,
}

/// What is being defined, with its documentation.
struct Definition<'i> {
    item: &'i Item,
    meta: Meta,
    name: String,
    docs: Docs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meta {
    Enum,
    Struct,
    Union,
    Alternate,
    Command,
    Event,
}

impl Meta {
    const ALL: [(&'static str, Self, &'static [&'static str]); 6] = [
        ("enum", Self::Enum, &["data"]),
        ("struct", Self::Struct, &["data", "base", "features"]),
        ("union", Self::Union, &["base", "discriminator", "data"]),
        ("alternate", Self::Alternate, &["data"]),
        (
            "command",
            Self::Command,
            &[
                "data",
                "returns",
                "allow-oob",
                "allow-preconfig",
                "coroutine",
                "features",
            ],
        ),
        ("event", Self::Event, &["data", "rate-limit", "features"]),
    ];
}

impl<'i> Definition<'i> {
    fn of(item: &'i Item) -> Result<Self, Error> {
        let fail = |text: String| Err(Error::at(&item.place, text));
        let Some((key, Expression::Text(name))) = item.members.first() else {
            return fail("a definition begins with its kind and name".into());
        };
        let Some((_, meta, allowed)) = Meta::ALL.iter().find(|(word, ..)| word == key) else {
            return fail(format!("'{key}' is no kind of definition"));
        };
        if let Some((key, _)) = item.members[1..]
            .iter()
            .find(|(key, _)| !allowed.contains(&&**key))
        {
            return fail(format!("'{name}' has an unknown key '{key}'"));
        }
        let docs = Docs::of(item, name)?;
        Ok(Self {
            item,
            meta: *meta,
            name: name.clone(),
            docs,
        })
    }

    fn place(&self) -> &Place {
        &self.item.place
    }

    fn fail<T>(&self, text: String) -> Result<T, Error> {
        Err(Error::at(self.place(), format!("'{}': {text}", self.name)))
    }

    fn get(&self, key: &str) -> Option<&'i Expression> {
        let found = self.item.members.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value)
    }

    fn flag(&self, key: &str) -> Result<bool, Error> {
        match self.get(key) {
            None => Ok(false),
            Some(Expression::Bool(value)) => Ok(*value),
            Some(_) => self.fail(format!("'{key}' must be true or false")),
        }
    }

    fn features(&self) -> Result<Vec<String>, Error> {
        self.names_of(self.get("features"))
    }

    fn names_of(&self, list: Option<&Expression>) -> Result<Vec<String>, Error> {
        let list = match list {
            None => &[][..],
            Some(Expression::List(list)) => list,
            Some(_) => return self.fail("'features' must be a list".into()),
        };
        list.iter()
            .map(|feature| match feature {
                Expression::Text(name) => Ok(name.clone()),
                _ => self.fail("a feature is a name".into()),
            })
            .collect()
    }

    fn dict(&self, key: &str) -> Result<&'i [(String, Expression)], Error> {
        match self.get(key) {
            None => Ok(&[]),
            Some(Expression::Dict(dict)) => Ok(dict),
            Some(_) => self.fail(format!("'{key}' must be an object")),
        }
    }
}

impl Schema {
    /// Reads a schema file and what it includes, and checks it.
    ///
    /// # Errors
    ///
    /// The first fault with its file and line.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let mut files = vec![path.to_path_buf()];
        let items = expression::read(path, &mut files)?;
        let mut schema = Self {
            types: vec![Type::Object {
                name: "q_empty".into(),
                members: Vec::new(),
                tag: None,
                variants: Vec::new(),
                features: Vec::new(),
            }],
            commands: Vec::new(),
            events: Vec::new(),
            docs: HashMap::new(),
            rust_enums: HashMap::new(),
            option_types: Vec::new(),
            files,
            names: HashMap::new(),
        };
        for (builtin, name) in Builtin::ALL {
            schema.define(name, Type::Builtin(builtin));
        }
        let mut definitions = Vec::new();
        let mut pragmas = Vec::new();
        for item in &items {
            match item.members.as_slice() {
                [(key, pragma)] if key == "pragma" => pragmas.push((item, pragma)),
                _ => definitions.push(Definition::of(item)?),
            }
        }
        schema.declare(&definitions)?;
        for (item, pragma) in pragmas {
            schema.pragma(item, pragma)?;
        }
        for definition in &definitions {
            schema.resolve(definition)?;
        }
        for definition in &definitions {
            schema.check(definition)?;
        }
        for definition in definitions {
            let (name, docs) = (definition.name, definition.docs);
            schema.docs.insert(name, docs);
        }
        Ok(schema)
    }

    /// What the generator is told: `{ 'rust-enums': { 'Name': 'path::of::Type' } }` and
    /// `{ 'option-types': { 'Name': 'first-key' } }`.
    fn pragma(&mut self, item: &Item, pragma: &Expression) -> Result<(), Error> {
        let Expression::Dict(dict) = pragma else {
            return Err(Error::at(&item.place, "a pragma is an object"));
        };
        for (key, value) in dict {
            let (true, Expression::Dict(names)) =
                (matches!(&**key, "rust-enums" | "option-types"), value)
            else {
                return Err(Error::at(&item.place, format!("unknown pragma '{key}'")));
            };
            for (name, text) in names {
                let Expression::Text(text) = text else {
                    return Err(Error::at(
                        &item.place,
                        format!("'{name}': a string is missing"),
                    ));
                };
                if key == "rust-enums" {
                    self.rust_enums.insert(name.clone(), text.clone());
                    continue;
                }
                match self.names.get(name) {
                    Some(id) => self.option_types.push((*id, text.clone())),
                    None => {
                        let text = format!("there is no type '{name}'");
                        return Err(Error::at(&item.place, text));
                    }
                }
            }
        }
        Ok(())
    }

    fn define(&mut self, name: &str, kind: Type) -> TypeId {
        let id = TypeId(self.types.len());
        self.types.push(kind);
        self.names.insert(name.into(), id);
        id
    }

    /// Gives all types a place, so that they can be named before they are defined.
    fn declare(&mut self, definitions: &[Definition<'_>]) -> Result<(), Error> {
        let mut names = Vec::new();
        for definition in definitions {
            let name = &definition.name;
            if names.contains(&name) || self.names.contains_key(name) {
                return definition.fail("is defined twice".into());
            }
            names.push(name);
            let name = name.clone();
            let kind = match definition.meta {
                Meta::Command | Meta::Event => continue,
                Meta::Enum => Type::Enum {
                    name,
                    values: Vec::new(),
                },
                Meta::Alternate => Type::Alternate {
                    name,
                    branches: Vec::new(),
                },
                Meta::Struct | Meta::Union => Type::Object {
                    name,
                    members: Vec::new(),
                    tag: None,
                    variants: Vec::new(),
                    features: Vec::new(),
                },
            };
            self.define(&definition.name, kind);
        }
        Ok(())
    }

    fn named(&mut self, definition: &Definition<'_>, kind: &Expression) -> Result<TypeId, Error> {
        match kind {
            Expression::Text(name) => match self.names.get(name) {
                Some(id) => Ok(*id),
                None => definition.fail(format!("there is no type '{name}'")),
            },
            Expression::List(list) => match list.as_slice() {
                [element @ Expression::Text(name)] => {
                    let id = self.named(definition, element)?;
                    let name = format!("[{name}]");
                    match self.names.get(&name) {
                        Some(list) => Ok(*list),
                        None => Ok(self.define(&name, Type::Array(id))),
                    }
                }
                _ => definition.fail("a list names one type".into()),
            },
            _ => definition.fail("a type is a name, or a list of one".into()),
        }
    }

    fn members(
        &mut self,
        definition: &Definition<'_>,
        dict: &[(String, Expression)],
    ) -> Result<Vec<Member>, Error> {
        let mut members = Vec::new();
        for (name, value) in dict {
            let (name, optional) = match name.strip_prefix('*') {
                Some(name) => (name, true),
                None => (&**name, false),
            };
            if name.is_empty()
                || !name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            {
                return definition.fail(format!("'{name}' is no member's name"));
            }
            let (mut default, mut features) = (None, Vec::new());
            let kind = match value {
                Expression::Dict(details) => {
                    let mut kind = None;
                    for (key, value) in details {
                        match (key.as_str(), value) {
                            ("type", value) => kind = Some(value),
                            ("features", list) => features = definition.names_of(Some(list))?,
                            ("default", Expression::Bool(value)) => {
                                default = Some(Default::Bool(*value));
                            }
                            ("default", Expression::Number(value)) => {
                                default = Some(Default::Number(*value));
                            }
                            ("default", Expression::Text(value)) => {
                                default = Some(Default::Text(value.clone()));
                            }
                            _ => {
                                return definition
                                    .fail(format!("member '{name}' has an unknown key '{key}'"));
                            }
                        }
                    }
                    match kind {
                        Some(kind) => kind,
                        None => return definition.fail(format!("member '{name}' has no type")),
                    }
                }
                kind => kind,
            };
            let kind = self.named(definition, kind)?;
            members.push(Member {
                name: name.into(),
                kind,
                optional,
                default,
                features,
                docs: definition.docs.member(name),
            });
        }
        Ok(members)
    }

    /// The object that `key` names or holds.
    fn object(
        &mut self,
        definition: &Definition<'_>,
        key: &str,
        suffix: &str,
    ) -> Result<TypeId, Error> {
        match definition.get(key) {
            None => Ok(TypeId::EMPTY),
            Some(Expression::Dict(dict)) => {
                let members = self.members(definition, dict)?;
                let name = format!("q_obj_{}-{suffix}", definition.name);
                let object = Type::Object {
                    name: name.clone(),
                    members,
                    tag: None,
                    variants: Vec::new(),
                    features: Vec::new(),
                };
                Ok(self.define(&name, object))
            }
            Some(name) => {
                let id = self.named(definition, name)?;
                match self.types[id.0] {
                    Type::Object { .. } => Ok(id),
                    _ => definition.fail(format!("'{key}' must be an object type")),
                }
            }
        }
    }

    fn resolve(&mut self, definition: &Definition<'_>) -> Result<(), Error> {
        let place = self.names.get(&definition.name).copied();
        match definition.meta {
            Meta::Command => {
                let arguments = self.object(definition, "data", "arg")?;
                let result = match definition.get("returns") {
                    Some(kind) => self.named(definition, kind)?,
                    None => TypeId::EMPTY,
                };
                if definition.flag("allow-oob")? && definition.flag("coroutine")? {
                    return definition.fail("a coroutine can't be out of band".into());
                }
                self.commands.push(Command {
                    name: definition.name.clone(),
                    arguments,
                    result,
                    allow_oob: definition.flag("allow-oob")?,
                    allow_preconfig: definition.flag("allow-preconfig")?,
                    coroutine: definition.flag("coroutine")?,
                    features: definition.features()?,
                });
            }
            Meta::Event => {
                let data = self.object(definition, "data", "arg")?;
                let rate_limit = match definition.get("rate-limit") {
                    None => 0,
                    Some(Expression::Number(limit @ 1..=60_000)) => *limit as u32,
                    Some(_) => return definition.fail("'rate-limit' is 1 to 60000 ms".into()),
                };
                self.events.push(Event {
                    name: definition.name.clone(),
                    data,
                    rate_limit,
                    features: definition.features()?,
                });
            }
            Meta::Enum => {
                let Some(Expression::List(list)) = definition.get("data") else {
                    return definition.fail("'data' must be a list".into());
                };
                let values = list
                    .iter()
                    .map(|value| match value {
                        Expression::Text(name) => Ok(Value {
                            name: name.clone(),
                            docs: definition.docs.member(name),
                            features: Vec::new(),
                        }),
                        Expression::Dict(dict) => match dict.as_slice() {
                            [(name, Expression::Text(value)), (features, list)]
                                if name == "name" && features == "features" =>
                            {
                                Ok(Value {
                                    name: value.clone(),
                                    docs: definition.docs.member(value),
                                    features: definition.names_of(Some(list))?,
                                })
                            }
                            _ => definition.fail("a value has 'name' and 'features'".into()),
                        },
                        _ => definition.fail("a value is a name".into()),
                    })
                    .collect::<Result<_, _>>()?;
                self.put(place, |kind| {
                    if let Type::Enum { values: to, .. } = kind {
                        *to = values;
                    }
                });
            }
            Meta::Struct => {
                let mut all = match definition.get("base") {
                    Some(_) => self.base(definition)?,
                    None => Vec::new(),
                };
                all.extend(self.members(definition, definition.dict("data")?)?);
                let own_features = definition.features()?;
                self.put(place, |kind| {
                    if let Type::Object {
                        members, features, ..
                    } = kind
                    {
                        *members = all;
                        *features = own_features;
                    }
                });
            }
            Meta::Union => {
                let base = self.base(definition)?;
                let mut variants = Vec::new();
                for (case, kind) in definition.dict("data")? {
                    let kind = self.named(definition, kind)?;
                    let case = case.clone();
                    variants.push(Variant { case, kind });
                }
                let Some(Expression::Text(tag)) = definition.get("discriminator") else {
                    return definition.fail("a union has 'base' and 'discriminator'".into());
                };
                let Some(index) = base.iter().position(|member| member.name == *tag) else {
                    return definition.fail(format!("the base has no member '{tag}'"));
                };
                self.put(place, |kind| {
                    if let Type::Object {
                        members,
                        tag,
                        variants: to,
                        ..
                    } = kind
                    {
                        *members = base;
                        *tag = Some(index);
                        *to = variants;
                    }
                });
            }
            Meta::Alternate => {
                let all = self.members(definition, definition.dict("data")?)?;
                self.put(place, |kind| {
                    if let Type::Alternate { branches, .. } = kind {
                        *branches = all;
                    }
                });
            }
        }
        Ok(())
    }

    fn put(&mut self, place: Option<TypeId>, fill: impl FnOnce(&mut Type)) {
        if let Some(TypeId(index)) = place {
            fill(&mut self.types[index]);
        }
    }

    /// The members of the base that `key` names. It must be defined before those that build on it.
    fn base(&mut self, definition: &Definition<'_>) -> Result<Vec<Member>, Error> {
        let base = self.object(definition, "base", "base")?;
        match &self.types[base.0] {
            Type::Object {
                members, tag: None, ..
            } if !members.is_empty() => Ok(members.clone()),
            _ => definition.fail("'base' must be a struct that is defined before".into()),
        }
    }

    fn check(&self, definition: &Definition<'_>) -> Result<(), Error> {
        let features = definition.features()?;
        let features = features.iter().map(String::as_str);
        let own = |key: &str| -> Vec<&str> {
            match definition.get(key) {
                Some(Expression::Dict(dict)) => dict
                    .iter()
                    .map(|(n, _)| n.trim_start_matches('*'))
                    .collect(),
                _ => Vec::new(),
            }
        };
        let mut described: Vec<&str> = match definition.meta {
            Meta::Union => own("base"),
            _ => own("data"),
        };
        if let Some(id) = self.names.get(&definition.name) {
            match &self.types[id.0] {
                Type::Enum { values, .. } => {
                    described = values.iter().map(|value| &*value.name).collect();
                    unique(definition, &described)?;
                }
                object @ Type::Object { .. } => self.check_object(definition, object)?,
                Type::Alternate { branches, .. } => {
                    let mut seen = Vec::new();
                    for branch in branches {
                        let json = self.json_type(branch.kind);
                        if seen.contains(&json) {
                            return definition.fail(format!("two branches are of type {json}"));
                        }
                        seen.push(json);
                    }
                }
                _ => {}
            }
        }
        let members = described.iter().copied();
        definition.docs.check(definition.item, members, features)
    }

    fn check_object(&self, definition: &Definition<'_>, object: &Type) -> Result<(), Error> {
        let Type::Object {
            members,
            tag,
            variants,
            ..
        } = object
        else {
            return Ok(());
        };
        let mut names: Vec<&str> = members.iter().map(|member| &*member.name).collect();
        unique(definition, &names)?;
        for member in members {
            let fits = match (&member.default, &self.types[member.kind.0]) {
                (None, _) => true,
                (Some(_), _) if !member.optional => false,
                (Some(Default::Bool(_)), Type::Builtin(Builtin::Bool)) => true,
                (Some(Default::Text(_)), Type::Builtin(Builtin::Str)) => true,
                (Some(Default::Text(text)), Type::Enum { values, .. }) => {
                    values.iter().any(|value| value.name == *text)
                }
                (Some(Default::Number(_)), Type::Builtin(kind)) => !matches!(
                    kind,
                    Builtin::Str | Builtin::Bool | Builtin::Null | Builtin::Any
                ),
                _ => false,
            };
            if !fits {
                return definition.fail(format!("the default of '{}' does not fit", member.name));
            }
        }
        let Some(tag) = tag else { return Ok(()) };
        let Type::Enum { values, .. } = &self.types[members[*tag].kind.0] else {
            return definition.fail("the discriminator must be an enum".into());
        };
        for variant in variants {
            if values.iter().all(|value| value.name != variant.case) {
                return definition.fail(format!("'{}' is no value of the tag", variant.case));
            }
            let Type::Object { members, .. } = &self.types[variant.kind.0] else {
                return definition.fail(format!("variant '{}' must be an object", variant.case));
            };
            let base = names.len();
            names.extend(members.iter().map(|member| &*member.name));
            unique(definition, &names)?;
            names.truncate(base);
        }
        Ok(())
    }

    /// The JSON type of a type's values.
    pub(crate) fn json_type(&self, id: TypeId) -> &'static str {
        match &self.types[id.0] {
            Type::Builtin(Builtin::Str) | Type::Enum { .. } => "string",
            Type::Builtin(Builtin::Bool) => "boolean",
            Type::Builtin(Builtin::Null) => "null",
            Type::Builtin(Builtin::Any) | Type::Alternate { .. } => "value",
            Type::Builtin(_) => "number",
            Type::Array(_) => "array",
            Type::Object { .. } => "object",
        }
    }
}

fn unique(definition: &Definition<'_>, names: &[&str]) -> Result<(), Error> {
    let twice = (1..names.len()).find(|&index| names[..index].contains(&names[index]));
    match twice {
        Some(index) => definition.fail(format!("'{}' is there twice", names[index])),
        None => Ok(()),
    }
}
