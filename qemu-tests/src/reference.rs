//! Reads references of QMP commands: what they say of a command's arguments and reply, and their examples.
//!
//! Two kinds of text are understood: the older manuals, where a command is a heading with a line of hyphens below it and its members are
//! a list of bullets, and schema files, where the same stands in comments and in definitions. Both have examples of the form
//! `-> request` and `<- reply`, in a JSON that people wrote: commas are missing, and `...` stands for more.
//!
//! What is taken from them are facts: names, what is optional, requests as they are, and replies as shapes. [`write()`] makes a list of
//! them and [`read`] reads it, since the texts themselves are no part of this project.
//!
//! A shape is JSON, too: the name of a type (`int`, `number`, `bool`, `str`, `null`, or `any` where examples differ), a list of no or one
//! shape, or an object of shapes, whose optional members end with `?`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

/// What one text says of one command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// Its name.
    pub name: String,
    /// The QEMU version whose text it is.
    pub source: String,
    /// Arguments by name, and whether they are optional.
    pub arguments: BTreeMap<String, bool>,
    /// Members of the reply at any depth by name, and whether they are optional.
    pub members: BTreeMap<String, bool>,
    /// Requests, and the shapes of their replies; `null` where the text shows none.
    pub examples: Vec<(Value, Value)>,
}

/// Takes the facts out of a text: of a schema file if its definitions are there, else of a manual.
pub fn parse(text: &str, source: &str) -> Vec<Command> {
    let commands = if text.contains("{ 'command':") || text.contains("{'command':") {
        schema_file(text)
    } else {
        manual(text)
    };
    // An example may show another command than the one that it is with.
    let mut sorted: Vec<Command> = Vec::new();
    let of = |sorted: &mut Vec<Command>, name: &str| -> usize {
        let known = sorted.iter().position(|command| command.name == name);
        known.unwrap_or_else(|| {
            sorted.push(Command {
                name: name.to_string(),
                source: source.to_string(),
                ..Command::default()
            });
            sorted.len() - 1
        })
    };
    for command in commands {
        if !command.name.contains(char::is_whitespace) {
            let index = of(&mut sorted, &command.name);
            sorted[index].arguments.extend(command.arguments);
            sorted[index].members.extend(command.members);
        }
        for (request, reply) in command.examples {
            let index = of(&mut sorted, request["execute"].as_str().unwrap_or_default());
            sorted[index].examples.push((request, reply));
        }
    }
    sorted
}

/// The commands of a manual: from each heading to the next.
fn manual(text: &str) -> Vec<Command> {
    let lines: Vec<&str> = text.lines().collect();
    let is_heading = |index: usize| {
        let under = lines.get(index + 1).map_or("", |line| line.trim_end());
        let name = lines[index].trim_end();
        under.len() > 2 && under.bytes().all(|byte| byte == b'-') && !name.is_empty()
    };
    let headings: Vec<usize> = (0..lines.len())
        .filter(|index| is_heading(*index))
        .collect();
    let mut commands = Vec::new();
    for (number, &start) in headings.iter().enumerate() {
        let next = headings.get(number + 1).copied().unwrap_or(lines.len());
        let body = &lines[start + 2..next];
        let end = body.iter().position(|line| line.starts_with("EQMP"));
        let body = &body[..end.unwrap_or(body.len())];
        let (arguments, members) = bullets(body);
        commands.push(Command {
            name: lines[start].trim_end().to_string(),
            source: String::new(),
            arguments,
            members,
            examples: examples(&body.join("\n")),
        });
    }
    commands
}

type Fields = BTreeMap<String, bool>;

/// Adds a field; what is optional once, is.
fn add(fields: &mut Fields, name: &str, optional: bool) {
    *fields.entry(name.to_string()).or_default() |= optional;
}

/// The bullets before the first example: of arguments behind that heading, and of the reply's members elsewhere.
fn bullets(lines: &[&str]) -> (Fields, Fields) {
    let (mut arguments, mut members) = (Fields::new(), Fields::new());
    let mut of_arguments = false;
    let mut index = 0;
    while index < lines.len() {
        let line = lines[index].trim();
        index += 1;
        if line.starts_with("Example") || line.starts_with("->") {
            break;
        }
        if line.starts_with("Argument") {
            of_arguments = true;
        } else if line.contains("json-object") && !line.starts_with("- ")
            || line.starts_with("Return")
        {
            of_arguments = false;
        }
        let quoted = line.strip_prefix("- ").unwrap_or(line);
        let bullet = line.starts_with("- ");
        let Some((name, rest)) = field(quoted, bullet) else {
            continue;
        };
        // The lines up to the next bullet belong to this one.
        let mut about = rest.to_string();
        while let Some(more) = lines.get(index).map(|line| line.trim()) {
            if more.is_empty() || more.starts_with("- ") || more.starts_with('"') {
                break;
            }
            about.push(' ');
            about.push_str(more);
            index += 1;
        }
        // A quoted word without a type is a value of the member above it.
        if !bullet && !about.contains("(json-") {
            continue;
        }
        let optional = about.contains("optional") || about.contains("only present");
        let fields = if of_arguments {
            &mut arguments
        } else {
            &mut members
        };
        add(fields, name, optional);
    }
    (arguments, members)
}

/// `"name": about`, and as a bullet also `name: about`.
fn field(line: &str, bullet: bool) -> Option<(&str, &str)> {
    if let Some(quoted) = line.strip_prefix('"') {
        return quoted.split_once('"');
    }
    let (name, rest) = line.split_once(':')?;
    let word = !name.is_empty() && !name.contains(char::is_whitespace);
    (bullet && word).then_some((name, rest))
}

/// The commands of a schema file: definitions, and the examples in the comment before each.
fn schema_file(text: &str) -> Vec<Command> {
    let mut definitions = Vec::new();
    let (mut comment, mut code) = (String::new(), String::new());
    for line in text.lines().chain(["##"]) {
        match line.strip_prefix('#') {
            Some(rest) => {
                if !code.trim().is_empty() {
                    definitions.push((std::mem::take(&mut comment), std::mem::take(&mut code)));
                }
                comment.push_str(rest.strip_prefix(' ').unwrap_or(rest));
                comment.push('\n');
            }
            None => {
                code.push_str(line);
                code.push('\n');
            }
        }
    }
    let mut types = BTreeMap::new();
    let mut commands = Vec::new();
    for (comment, code) in &definitions {
        let mut reader = Reader(code);
        while reader.find("{") {
            let Some(definition) = reader.value() else {
                break;
            };
            for kind in ["struct", "union", "enum", "alternate"] {
                if let Some(name) = definition[kind].as_str() {
                    types.insert(name.to_string(), definition.clone());
                }
            }
            if definition["command"].is_string() {
                commands.push((comment.as_str(), definition));
            }
        }
    }
    let of_command = |(comment, definition): (&str, Value)| {
        let mut command = Command {
            name: definition["command"]
                .as_str()
                .unwrap_or_default()
                .to_string(),
            examples: examples(comment),
            ..Command::default()
        };
        let data = match &definition["data"] {
            Value::String(name) => types.get(name).map_or(&Value::Null, |of| &of["data"]),
            data => data,
        };
        for name in data.as_object().into_iter().flat_map(Map::keys) {
            add(
                &mut command.arguments,
                name.trim_start_matches('*'),
                name.starts_with('*'),
            );
        }
        let mut above = Vec::new();
        members(
            &definition["returns"],
            &types,
            &mut above,
            &mut command.members,
        );
        command
    };
    commands.into_iter().map(of_command).collect()
}

/// The members of a type that a schema file names, at any depth.
fn members(
    of: &Value,
    types: &BTreeMap<String, Value>,
    above: &mut Vec<String>,
    fields: &mut Fields,
) {
    match of {
        Value::Array(list) => list.iter().for_each(|of| members(of, types, above, fields)),
        Value::Object(data) => {
            for (name, of) in data {
                add(fields, name.trim_start_matches('*'), name.starts_with('*'));
                members(of, types, above, fields);
            }
        }
        Value::String(name) if !above.contains(name) => {
            above.push(name.clone());
            if let Some(definition) = types.get(name).filter(|of| of["enum"].is_null()) {
                members(&definition["base"], types, above, fields);
                members(&definition["data"], types, above, fields);
            }
        }
        _ => {}
    }
}

/// The requests in a text with the shapes of their replies: `null` where no reply is shown.
fn examples(text: &str) -> Vec<(Value, Value)> {
    let mut found = Vec::new();
    let mut reader = Reader(text);
    while reader.find("->") {
        let Some(request) = reader.value().filter(|value| value["execute"].is_string()) else {
            continue;
        };
        // Events may come before the reply.
        let mut next = Reader(reader.0);
        let end = if next.find("->") { next.0.len() } else { 0 };
        let mut reply = Value::Null;
        let mut answered = false;
        while reply.get("return").is_none() && reader.find("<-") && reader.0.len() > end {
            answered = true;
            reply = reader.value().unwrap_or_default();
        }
        reader.0 = next.0;
        if end > 0 {
            reader.0 = &text[text.len() - end - "->".len()..];
        }
        if reply.get("return").is_some() {
            found.push((request, shape(&reply)));
        } else if reply.is_null() && !answered {
            found.push((request, Value::Null));
        }
    }
    found
}

/// A cursor over JSON that people wrote.
struct Reader<'t>(&'t str);

impl Reader<'_> {
    /// Goes behind the next `mark` that begins a line; false if there is none.
    fn find(&mut self, mark: &str) -> bool {
        let mut rest = self.0;
        while !rest.is_empty() {
            let line = rest.trim_start();
            if let Some(behind) = line.strip_prefix(mark) {
                // A definition's brace belongs to its value.
                self.0 = if mark == "{" { line } else { behind };
                return true;
            }
            rest = rest.split_once('\n').map_or("", |(_, behind)| behind);
        }
        false
    }

    /// Drops space, commas and what stands for more.
    fn skip(&mut self) {
        let idle = |c: char| c.is_whitespace() || c == ',' || c == '.';
        self.0 = self.0.trim_start_matches(idle);
    }

    fn eat(&mut self, mark: char) -> bool {
        self.skip();
        let rest = self.0.strip_prefix(mark);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    /// Drops `[...]` and `{...}` with any words in it, which stand for more.
    fn eat_more(&mut self) -> bool {
        self.skip();
        for (open, close) in [('[', ']'), ('{', '}')] {
            let inner = self.0.strip_prefix(open).map(str::trim_start);
            if inner.is_some_and(|inner| inner.starts_with("...")) {
                self.0 = self.0.split_once(close).map_or("", |(_, rest)| rest);
                return true;
            }
        }
        false
    }

    /// One value, or `None` where there is none.
    fn value(&mut self) -> Option<Value> {
        if self.eat('{') {
            let mut object = Map::new();
            while !self.eat('}') {
                if self.eat_more() {
                    continue;
                }
                let start = self.0;
                let mut name = self.text()?;
                if name.ends_with(':') {
                    // A name whose closing quote was forgotten: the quote that was found opens the value.
                    self.0 = start.get(name.len() + 1..)?;
                    name.pop();
                } else if !self.eat(':') {
                    return None;
                }
                let value = self.value()?;
                object.insert(name, value);
            }
            return Some(Value::Object(object));
        }
        if self.eat('[') {
            let mut list = Vec::new();
            while !self.eat(']') {
                if !self.eat_more() {
                    list.push(self.value()?);
                }
            }
            return Some(Value::Array(list));
        }
        if self.0.starts_with(['"', '\'']) {
            return self.text().map(Value::String);
        }
        let word = |c: char| c.is_alphanumeric() || "+-._".contains(c);
        let end = self.0.find(|c| !word(c)).unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        serde_json::from_str(word).ok()
    }

    /// A quoted string.
    fn text(&mut self) -> Option<String> {
        self.skip();
        let quote = self.0.chars().next().filter(|c| "\"'".contains(*c))?;
        let (text, rest) = self.0[1..].split_once(quote)?;
        self.0 = rest;
        Some(text.to_string())
    }
}

/// The shape of a value.
pub fn shape(value: &Value) -> Value {
    match value {
        Value::Null => json!("null"),
        Value::Bool(_) => json!("bool"),
        Value::Number(number) if number.is_f64() => json!("number"),
        Value::Number(_) => json!("int"),
        Value::String(_) => json!("str"),
        Value::Array(list) => {
            let shapes = list.iter().map(shape);
            shapes.reduce(merge).map_or(json!([]), |one| json!([one]))
        }
        Value::Object(object) => {
            let members = object
                .iter()
                .map(|(name, value)| (name.clone(), shape(value)));
            Value::Object(members.collect())
        }
    }
}

/// The shape that covers both.
fn merge(one: Value, other: Value) -> Value {
    match (one, other) {
        (Value::Object(one), Value::Object(mut other)) => {
            let mut both = Map::new();
            for (key, value) in one {
                let name = key.trim_end_matches('?').to_string();
                let optional = format!("{name}?");
                let (same, key) = match other.remove(&name) {
                    Some(same) => (Some(same), key),
                    None => (other.remove(&optional), optional),
                };
                let value = match same {
                    Some(same) => merge(value, same),
                    None => value,
                };
                both.insert(key, value);
            }
            for (key, value) in other {
                both.insert(format!("{}?", key.trim_end_matches('?')), value);
            }
            Value::Object(both)
        }
        (Value::Array(one), Value::Array(other)) => {
            let shapes = one.into_iter().chain(other);
            shapes.reduce(merge).map_or(json!([]), |one| json!([one]))
        }
        (one, other) if one == other => one,
        _ => json!("any"),
    }
}

/// What is wrong with a value of which a text has this shape: a member that is missing and not in `optional`, or of another type.
pub fn mismatches(value: &Value, shape: &Value, optional: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    compare(value, shape, optional, "", &mut found);
    found
}

fn compare(
    value: &Value,
    shape: &Value,
    optional: &dyn Fn(&str) -> bool,
    path: &str,
    found: &mut Vec<String>,
) {
    match (value, shape) {
        (Value::Object(object), Value::Object(members)) => {
            for (key, shape) in members {
                let name = key.trim_end_matches('?');
                match object.get(name) {
                    Some(value) => {
                        compare(value, shape, optional, &format!("{path}.{name}"), found)
                    }
                    None if key.ends_with('?') || optional(name) => {}
                    None => found.push(format!("{path}.{name} is missing")),
                }
            }
        }
        (Value::Array(list), Value::Array(shapes)) => {
            for (value, shape) in list.iter().flat_map(|v| shapes.first().map(|s| (v, s))) {
                compare(value, shape, optional, &format!("{path}[]"), found);
            }
        }
        (_, Value::String(kind)) if kind == "any" => {}
        (_, Value::Null) => {}
        (value, shape) => {
            let is = self::shape(value);
            if is != *shape {
                found.push(format!("{path} is {is} and not {shape}"));
            }
        }
    }
}

/// The names of all members of a value, at any depth.
pub fn names(value: &Value) -> Vec<&str> {
    match value {
        Value::Array(list) => list.iter().flat_map(names).collect(),
        Value::Object(object) => {
            let below = object.values().flat_map(names);
            let here = object.keys().map(|key| key.trim_end_matches('?'));
            here.chain(below).collect()
        }
        _ => Vec::new(),
    }
}

/// Writes the list that [`read`] reads.
pub fn write(commands: &[Command]) -> String {
    let mut text = String::new();
    for command in commands {
        let fields = |fields: &Fields| {
            let names = fields.iter().map(|(name, optional)| {
                let mark = if *optional { "?" } else { "" };
                format!(" {name}{mark}")
            });
            names.collect::<String>()
        };
        let mut line = |text_line: String| {
            writeln!(text, "{}", text_line.trim_end()).expect("a String takes text");
        };
        line(format!("\ncommand: {}", command.name));
        line(format!("source: {}", command.source));
        line(format!("arguments:{}", fields(&command.arguments)));
        line(format!("members:{}", fields(&command.members)));
        for (request, reply) in &command.examples {
            line(format!("request: {request}"));
            line(format!("reply: {reply}"));
        }
    }
    text
}

/// Reads what [`write()`] has written; lines that start with `#` are comments.
///
/// # Errors
///
/// The first line that is none.
pub fn read(text: &str) -> Result<Vec<Command>, String> {
    let mut commands: Vec<Command> = Vec::new();
    for line in text.lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = || format!("not a line of the list: {line}");
        let (key, rest) = line.split_once(':').ok_or_else(wrong)?;
        let rest = rest.trim();
        let fields = || -> Fields {
            let words = rest.split_whitespace();
            words
                .map(|word| (word.trim_end_matches('?').to_string(), word.ends_with('?')))
                .collect()
        };
        let value = || serde_json::from_str(rest).map_err(|_| wrong());
        if key == "command" {
            commands.push(Command {
                name: rest.to_string(),
                ..Command::default()
            });
            continue;
        }
        let command = commands.last_mut().ok_or_else(wrong)?;
        match key {
            "source" => command.source = rest.to_string(),
            "arguments" => command.arguments = fields(),
            "members" => command.members = fields(),
            "request" => command.examples.push((value()?, Value::Null)),
            "reply" => command.examples.last_mut().ok_or_else(wrong)?.1 = value()?,
            _ => return Err(wrong()),
        }
    }
    Ok(commands)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANUAL: &str = r#"
SQMP
read-things
-----------

Reads.

Arguments:

- "which": what to read (json-string)
- count: how many
         of them (json-int, optional)

Each json-object contains the following:

- "name": its name (json-string)
- "state": how it is (json-string)
    "good" - it is good
- "parts": a list of json-objects
    - "part": its number (json-int,
              optional)

Example:

-> { "execute": "read-things",
"arguments": { "which": "all" } }
<- { "return": [
      { "name": "one", "state": "good" "parts": [ { "part": 1.5 }, ... ] },
      { "name": "two", "state:"bad", },
      { ... more ... },
   ] }

EQMP

next
----

-> { "execute": "next" }
<- { "error": { "class": "x" } }

-> { "execute": "next" }
<- { "event": "X" }
-> { "execute": "next" }
<- { "return": {} }
-> { "execute": "next" }
"#;

    #[test]
    fn manuals_are_understood() {
        let commands = parse(MANUAL, "1");
        let [things, next] = commands.as_slice() else {
            panic!("{commands:?}");
        };
        let fields = |list: &[(&str, bool)]| -> Fields {
            list.iter()
                .map(|(name, optional)| ((*name).to_string(), *optional))
                .collect()
        };
        assert_eq!(
            things.arguments,
            fields(&[("which", false), ("count", true)])
        );
        assert_eq!(
            things.members,
            fields(&[
                ("name", false),
                ("state", false),
                ("parts", false),
                ("part", true)
            ])
        );
        assert_eq!(
            things.examples,
            [(
                json!({"execute": "read-things", "arguments": {"which": "all"}}),
                json!({"return": [{"name": "str", "state": "str", "parts?": [{"part": "number"}]}]}),
            )]
        );
        let request = json!({"execute": "next"});
        assert_eq!(
            next.examples,
            [
                (request.clone(), json!({"return": {}})),
                (request, Value::Null)
            ]
        );
    }

    const SCHEMA: &str = r#"
##
# @Thing:
#
# A thing.
##
{ 'struct': 'Thing', 'base': 'Named',
'data': {'*parts': ['Part'] } }
{ 'struct': 'Named', 'data': {'name': 'str'} }
{ 'struct': 'Part', 'data': {'part': 'int', 'of': 'Thing' } }
##
# @read-things:
#
# Example:
#
# -> { "execute": "read-things" }
# <- { "return": [] }
#
##
{ 'command': 'read-things', 'data': {'which': 'str', '*count': 'int'},
'returns': ['Thing'] }
"#;

    #[test]
    fn schema_files_are_understood() {
        let commands = parse(SCHEMA, "2");
        let [things] = commands.as_slice() else {
            panic!("{commands:?}");
        };
        let names = |fields: &Fields| -> Vec<String> {
            let names = fields
                .iter()
                .map(|(name, optional)| format!("{name} {optional}"));
            names.collect()
        };
        assert_eq!(names(&things.arguments), ["count true", "which false"]);
        assert_eq!(
            names(&things.members),
            ["name false", "of false", "part false", "parts true"]
        );
        assert_eq!(
            things.examples,
            [(json!({"execute": "read-things"}), json!({"return": []}))]
        );
    }

    #[test]
    fn what_is_written_is_read() {
        let mut commands = parse(MANUAL, "1");
        commands.extend(parse(SCHEMA, "2"));
        assert_eq!(read(&write(&commands)), Ok(commands));
        for text in [
            "nonsense",
            "source: 1",
            "command: x\nreply: {}",
            "command: x\nrequest: {",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn replies_are_held_to_shapes() {
        let shape = json!({"return": [{"name": "str", "state?": "str", "size": "int"}]});
        let wrong = |value: Value| mismatches(&value, &shape, &|name| name == "size");
        assert_eq!(wrong(json!({"return": []})), [""; 0]);
        assert_eq!(wrong(json!({"return": [{"name": "x"}]})), [""; 0]);
        assert_eq!(
            wrong(json!({"return": [{"name": "x", "size": 1, "state": "y", "more": 1}]})),
            [""; 0]
        );
        assert_eq!(
            wrong(json!({"return": [{}]})),
            [".return[].name is missing"]
        );
        assert_eq!(
            wrong(json!({"return": [{"name": 1, "size": 1.5}]})).len(),
            2
        );
        assert_eq!(wrong(json!({"return": {}})).len(), 1);
        assert_eq!(wrong(json!({})), [".return is missing"]);
    }
}
