//! The compiler of the QAPI schema language, as QEMU's developers' manual describes it ("How to use the
//! QAPI code generator"): struct, enum, union, alternate, command, event, include, features and documentation.
//!
//! It runs while Thimble is built: [`Schema::read`] parses and checks a schema; `rust` makes tables and types of it,
//! `page` the reference page and `dictionary` the words for fuzzers.
//!
//! Two things go beyond the language: a member may have a `default`, which typed arguments then carry, and an event may
//! have a `rate-limit` in milliseconds. `if` conditions are refused: there is one build.

mod docs;
mod error;
mod expression;
mod model;
mod page;
mod rust;

use std::collections::BTreeSet;

pub use error::Error;
pub use model::{Builtin, Command, Default, Event, Member, Schema, Type, TypeId, Value, Variant};

impl Schema {
    /// The reference page, in Markdown.
    pub fn page(&self) -> String {
        page::page(self)
    }

    /// Rust source: the tables, and the types of arguments, results and events.
    ///
    /// # Errors
    ///
    /// If the schema uses what has no Rust form yet.
    pub fn rust(&self) -> Result<String, Error> {
        rust::source(self)
    }

    /// Rust source: the tables alone.
    pub fn tables(&self) -> String {
        rust::tables(self)
    }

    /// Every name that a client writes: commands, members, values.
    pub fn dictionary(&self) -> BTreeSet<&str> {
        let mut words = BTreeSet::new();
        let mut seen = BTreeSet::new();
        for command in &self.commands {
            words.insert(&*command.name);
            self.words(command.arguments, &mut words, &mut seen);
        }
        words
    }

    fn words<'s>(&'s self, id: TypeId, words: &mut BTreeSet<&'s str>, seen: &mut BTreeSet<TypeId>) {
        if !seen.insert(id) {
            return;
        }
        match &self.types[id.0] {
            Type::Builtin(_) => {}
            Type::Enum { values, .. } => words.extend(values.iter().map(|value| &*value.name)),
            Type::Array(element) => self.words(*element, words, seen),
            Type::Alternate { branches, .. } => {
                for branch in branches {
                    self.words(branch.kind, words, seen);
                }
            }
            Type::Object {
                members, variants, ..
            } => {
                for member in members {
                    words.insert(&member.name);
                    self.words(member.kind, words, seen);
                }
                for variant in variants {
                    self.words(variant.kind, words, seen);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
