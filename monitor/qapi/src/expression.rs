//! The syntax: a file is a sequence of expressions, each with the documentation before it.
//!
//! Expressions are JSON with single quotes and without null and fractions; `#` begins a comment, and a comment that begins
//! with a line of `##` alone is documentation.

use std::path::{Path, PathBuf};

use crate::Error;
use crate::error::Place;

/// A part of an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expression {
    Text(String),
    Bool(bool),
    Number(i64),
    List(Vec<Expression>),
    Dict(Vec<(String, Expression)>),
}

/// A top-level expression.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) place: Place,
    pub(crate) members: Vec<(String, Expression)>,
    /// The lines of the documentation before it, without the leading `#`.
    pub(crate) docs: Vec<String>,
}

/// Reads a file and those that it includes, each once.
pub(crate) fn read(path: &Path, seen: &mut Vec<PathBuf>) -> Result<Vec<Item>, Error> {
    let start = Place::new(path, 0);
    let text = std::fs::read_to_string(path).map_err(|e| Error::at(&start, e.to_string()))?;
    let mut items = Vec::new();
    for item in parse(path, &text)? {
        let [(key, Expression::Text(name))] = item.members.as_slice() else {
            items.push(item);
            continue;
        };
        if key != "include" {
            items.push(item);
            continue;
        }
        let included = path.parent().unwrap_or(Path::new("")).join(name);
        if !seen.contains(&included) {
            seen.push(included.clone());
            items.extend(read(&included, seen)?);
        }
    }
    Ok(items)
}

pub(crate) fn parse(path: &Path, text: &str) -> Result<Vec<Item>, Error> {
    let mut reader = Reader {
        path,
        rest: text,
        line: 1,
        docs: Vec::new(),
    };
    let mut items = Vec::new();
    while reader.skip_blank()? {
        let place = reader.place();
        let docs = std::mem::take(&mut reader.docs);
        match reader.expression()? {
            Expression::Dict(members) => items.push(Item {
                place,
                members,
                docs,
            }),
            _ => return Err(Error::at(&place, "an expression is an object")),
        }
    }
    Ok(items)
}

struct Reader<'t> {
    path: &'t Path,
    rest: &'t str,
    line: usize,
    docs: Vec<String>,
}

impl<'t> Reader<'t> {
    fn place(&self) -> Place {
        Place::new(self.path, self.line)
    }

    fn fail<T>(&self, text: impl Into<String>) -> Result<T, Error> {
        Err(Error::at(&self.place(), text))
    }

    fn take_line(&mut self) -> &'t str {
        let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
        self.rest = rest;
        self.line += 1;
        line
    }

    /// Skips white space and comments, and keeps documentation. Whether something follows.
    fn skip_blank(&mut self) -> Result<bool, Error> {
        loop {
            match self.rest.chars().next() {
                None => return Ok(false),
                Some('\n') => {
                    self.take_line();
                }
                Some(' ' | '\t' | '\r') => self.rest = &self.rest[1..],
                Some('#') => {
                    if self.take_line().trim_end() == "##" {
                        self.documentation()?;
                    }
                }
                Some(_) => return Ok(true),
            }
        }
    }

    fn documentation(&mut self) -> Result<(), Error> {
        self.docs.clear();
        loop {
            if self.rest.is_empty() {
                return self.fail("documentation without end");
            }
            let line = self.take_line().trim_end();
            match line.strip_prefix('#') {
                Some("#") => return Ok(()),
                Some(text) => self
                    .docs
                    .push(text.strip_prefix(' ').unwrap_or(text).into()),
                None => return self.fail("a line of documentation begins with '#'"),
            }
        }
    }

    fn peek(&mut self) -> Result<char, Error> {
        self.skip_blank()?;
        match self.rest.chars().next() {
            Some(next) => Ok(next),
            None => self.fail("an expression without end"),
        }
    }

    fn accept(&mut self, wanted: char) -> Result<bool, Error> {
        let found = self.peek()? == wanted;
        if found {
            self.rest = &self.rest[wanted.len_utf8()..];
        }
        Ok(found)
    }

    fn expect(&mut self, wanted: char) -> Result<(), Error> {
        match self.accept(wanted)? {
            true => Ok(()),
            false => {
                let found = self.peek()?;
                self.fail(format!("'{wanted}' expected, '{found}' found"))
            }
        }
    }

    fn text(&mut self) -> Result<String, Error> {
        self.expect('\'')?;
        let Some((text, rest)) = self.rest.split_once('\'') else {
            return self.fail("a string without end");
        };
        if !text.chars().all(|c| (' '..='~').contains(&c) && c != '\\') {
            return self.fail(format!(
                "'{text}': strings are plain ASCII, without backslashes"
            ));
        }
        self.rest = rest;
        Ok(text.into())
    }

    fn expression(&mut self) -> Result<Expression, Error> {
        match self.peek()? {
            '\'' => Ok(Expression::Text(self.text()?)),
            '[' => {
                self.expect('[')?;
                let mut list = Vec::new();
                while !self.accept(']')? {
                    if !list.is_empty() {
                        self.expect(',')?;
                    }
                    list.push(self.expression()?);
                }
                Ok(Expression::List(list))
            }
            '{' => {
                self.expect('{')?;
                let mut dict: Vec<(String, Expression)> = Vec::new();
                while !self.accept('}')? {
                    if !dict.is_empty() {
                        self.expect(',')?;
                    }
                    let key = self.text()?;
                    if dict.iter().any(|(other, _)| *other == key) {
                        return self.fail(format!("'{key}' is there twice"));
                    }
                    self.expect(':')?;
                    dict.push((key, self.expression()?));
                }
                Ok(Expression::Dict(dict))
            }
            _ => {
                let end = self
                    .rest
                    .find(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
                    .unwrap_or(self.rest.len());
                let (word, rest) = self.rest.split_at(end);
                let value = match (word, word.parse()) {
                    ("true", _) => Expression::Bool(true),
                    ("false", _) => Expression::Bool(false),
                    (_, Ok(number)) => Expression::Number(number),
                    _ => return self.fail(format!("'{word}' is no value")),
                };
                self.rest = rest;
                Ok(value)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(text: &str) -> Result<Vec<Item>, String> {
        parse(Path::new("s.json"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_expressions_with_their_documentation() {
        let items = items(
            "# a remark\n{ 'include': 'x.json' }\n##\n# @A:\n#\n#   Indented.\n##\n\
             { 'enum': 'A', 'data': [ 'b', # why\n 'c' ],\n 'n': -5, 'on': true }\n",
        )
        .unwrap();
        assert_eq!(items.len(), 2);
        assert_eq!(items[1].docs, ["@A:", "", "  Indented."]);
        assert_eq!(items[1].place.line, 8);
        assert_eq!(
            items[1].members[1].1,
            Expression::List(vec![
                Expression::Text("b".into()),
                Expression::Text("c".into())
            ])
        );
        assert_eq!(items[1].members[2].1, Expression::Number(-5));
    }

    #[test]
    fn names_the_line_at_fault() {
        for (text, error) in [
            ("\n[ 'a' ]", "s.json:2: an expression is an object"),
            ("{ 'a' 'b' }", "s.json:1: ':' expected, ''' found"),
            ("{ 'a': 1,\n'a': 2 }", "s.json:2: 'a' is there twice"),
            ("{ 'a': nul }", "s.json:1: 'nul' is no value"),
            ("{ 'a': 'b }", "s.json:1: a string without end"),
            (
                "{ 'a': 'b\u{e9}' }",
                "s.json:1: 'b\u{e9}': strings are plain ASCII, without backslashes",
            ),
            ("{", "s.json:1: an expression without end"),
            ("##\n# @a:\n", "s.json:3: documentation without end"),
            (
                "##\nx\n",
                "s.json:3: a line of documentation begins with '#'",
            ),
        ] {
            assert_eq!(items(text).map(|_| ()), Err(error.to_string()));
        }
    }
}
