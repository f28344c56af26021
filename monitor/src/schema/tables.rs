//! The form of the schema's tables: rows of small integers over one text.
//!
//! They hold no pointers, so that they need no relocation, and a row names others by their numbers.

/// A piece of the schema's text.
#[derive(Clone, Copy, Debug)]
pub struct Name {
    at: u16,
    length: u8,
}

impl Name {
    /// `length` bytes from `at` on.
    pub const fn new(at: u16, length: u8) -> Self {
        Self { at, length }
    }
}

/// Consecutive rows of a table.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    start: u16,
    count: u16,
}

impl Rows {
    /// `count` rows from `start` on.
    pub const fn new(start: u16, count: u16) -> Self {
        Self { start, count }
    }

    fn of<T>(self, table: &'static [T]) -> &'static [T] {
        let start = usize::from(self.start);
        let rows = table.get(start..start + usize::from(self.count));
        rows.unwrap_or_default()
    }
}

/// The number of a type: its row in [`Tables::types`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeId(pub u16);

impl TypeId {
    /// The object without members: the type of no arguments and of no result.
    pub const EMPTY: Self = Self(0);
}

/// The language's own types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Builtin {
    /// A string.
    Str,
    /// A double.
    Number,
    /// 64 bits, signed.
    Int,
    /// 8 bits, signed.
    Int8,
    /// 16 bits, signed.
    Int16,
    /// 32 bits, signed.
    Int32,
    /// 64 bits, signed.
    Int64,
    /// 8 bits.
    Uint8,
    /// 16 bits.
    Uint16,
    /// 32 bits.
    Uint32,
    /// 64 bits.
    Uint64,
    /// 64 bits, with suffixes where it is written as text.
    Size,
    /// `true` or `false`.
    Bool,
    /// `null`.
    Null,
    /// Any value.
    Any,
}

/// [`TypeRow::Object`]'s `tag` if it has none.
pub const NO_TAG: u8 = u8::MAX;

/// A type.
#[derive(Clone, Copy, Debug)]
pub enum TypeRow {
    /// One of the language's own.
    Builtin(Builtin),
    /// One of several strings.
    Enum {
        /// What the schema calls it.
        name: Name,
        /// Rows of [`Tables::values`].
        values: Rows,
    },
    /// A list.
    Array(TypeId),
    /// An object.
    Object {
        /// Rows of [`Tables::members`].
        members: Rows,
        /// Which member chooses the variant, or [`NO_TAG`].
        tag: u8,
        /// Rows of [`Tables::variants`].
        variants: Rows,
        /// Rows of [`Tables::features`].
        features: Rows,
    },
    /// One of several types, told apart by their JSON types.
    Alternate {
        /// What the schema calls it.
        name: Name,
        /// Rows of [`Tables::members`].
        branches: Rows,
    },
}

/// A member of an object.
#[derive(Clone, Copy, Debug)]
pub struct MemberRow {
    /// Its name.
    pub name: Name,
    /// Its type.
    pub kind: TypeId,
    /// Whether it may be left out.
    pub optional: bool,
    /// Rows of [`Tables::features`].
    pub features: Rows,
}

/// A value of an enumeration.
#[derive(Clone, Copy, Debug)]
pub struct ValueRow {
    /// Its name.
    pub name: Name,
    /// Rows of [`Tables::features`].
    pub features: Rows,
}

/// What an object has more for one value of its tag.
#[derive(Clone, Copy, Debug)]
pub struct VariantRow {
    /// The value.
    pub case: Name,
    /// The object.
    pub kind: TypeId,
}

/// A command.
#[derive(Clone, Copy, Debug)]
pub struct CommandRow {
    /// Its name.
    pub name: Name,
    /// The object of its arguments.
    pub arguments: TypeId,
    /// The type of its result.
    pub result: TypeId,
    /// Whether it may be executed out of band.
    pub allow_oob: bool,
    /// Whether it is there before the machine is built.
    pub allow_preconfig: bool,
    /// Rows of [`Tables::features`].
    pub features: Rows,
}

/// An event.
#[derive(Clone, Copy, Debug)]
pub struct EventRow {
    /// Its name.
    pub name: Name,
    /// The object of its data.
    pub data: TypeId,
    /// Milliseconds between two of them at least.
    pub rate_limit: u32,
    /// Rows of [`Tables::features`].
    pub features: Rows,
}

/// A schema.
#[derive(Debug)]
pub struct Tables {
    /// All names.
    pub text: &'static str,
    /// All types. The first is [`TypeId::EMPTY`].
    pub types: &'static [TypeRow],
    /// Members of all objects, and branches of all alternates.
    pub members: &'static [MemberRow],
    /// Values of all enumerations.
    pub values: &'static [ValueRow],
    /// Variants of all unions.
    pub variants: &'static [VariantRow],
    /// Names of features.
    pub features: &'static [Name],
    /// All commands, in the schema's order.
    pub commands: &'static [CommandRow],
    /// The numbers of all commands, in the order of their names.
    pub by_name: &'static [u16],
    /// All events, in the schema's order.
    pub events: &'static [EventRow],
}

impl Tables {
    /// A name's text.
    pub fn name(&self, name: Name) -> &'static str {
        let at = usize::from(name.at);
        let text = self.text.get(at..at + usize::from(name.length));
        text.unwrap_or_default()
    }

    /// A type.
    pub fn kind(&self, id: TypeId) -> TypeRow {
        let row = self.types.get(usize::from(id.0)).copied();
        row.unwrap_or(TypeRow::Builtin(Builtin::Any))
    }

    /// Members of an object, or branches of an alternate.
    pub fn members(&self, rows: Rows) -> &'static [MemberRow] {
        rows.of(self.members)
    }

    /// Values of an enumeration.
    pub fn values(&self, rows: Rows) -> &'static [ValueRow] {
        rows.of(self.values)
    }

    /// Variants of a union.
    pub fn variants(&self, rows: Rows) -> &'static [VariantRow] {
        rows.of(self.variants)
    }

    /// Names of features.
    pub fn features(&self, rows: Rows) -> &'static [Name] {
        rows.of(self.features)
    }

    /// The number of a command: its row in [`Tables::commands`].
    pub fn command(&self, name: &[u8]) -> Option<usize> {
        let of = |index: &u16| {
            let row = self.commands.get(usize::from(*index));
            row.map_or("", |row| self.name(row.name)).as_bytes()
        };
        let found = self
            .by_name
            .binary_search_by(|index| of(index).cmp(name))
            .ok()?;
        Some(usize::from(self.by_name[found]))
    }
}
