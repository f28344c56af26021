//! Schemas with faults, and what is made of those without.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A file that goes with its value.
struct File(PathBuf);

impl File {
    fn new(text: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("thimble-qapi-{}-{number}.json", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).expect("a temporary file");
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

fn read(text: &str) -> Result<Schema, String> {
    let file = File::new(text);
    let name = file.0.display().to_string();
    Schema::read(&file.0).map_err(|error| error.to_string().replace(&name, "s"))
}

/// A definition with the documentation that it needs.
fn described(name: &str, members: &[&str], definition: &str) -> String {
    let mut text = format!("##\n# @{name}:\n#\n# What it is.\n");
    for member in members {
        text += &format!("#\n# @{member}: What that is.\n");
    }
    text + "##\n" + definition + "\n"
}

#[test]
fn faults_are_named() {
    for (text, error) in [
        (
            "{ 'struct': 'A', 'data': {} }".to_string(),
            "s:1: documentation that begins '@A:' is missing",
        ),
        (
            "{ 'thing': 'A' }".to_string(),
            "s:1: 'thing' is no kind of definition",
        ),
        (
            described("A", &[], "{ 'struct': 'A', 'data': { 'a': 'int' } }"),
            "s:6: 'a' is not described",
        ),
        (
            described(
                "A",
                &["a", "b"],
                "{ 'struct': 'A', 'data': { 'a': 'int' } }",
            ),
            "s:10: 'b' is described, but not there",
        ),
        (
            described("A", &["a"], "{ 'struct': 'A', 'data': { 'a': 'nope' } }"),
            "s:8: 'A': there is no type 'nope'",
        ),
        (
            described(
                "A",
                &["a"],
                "{ 'struct': 'A', 'data': { 'a': 'int' }, 'if': 'X' }",
            ),
            "s:8: 'A' has an unknown key 'if'",
        ),
        (
            described("A", &["b"], "{ 'enum': 'A', 'data': [ 'b', 'b' ] }"),
            "s:8: 'A': 'b' is there twice",
        ),
        (
            described(
                "A",
                &["a"],
                "{ 'struct': 'A', 'data': { '*a': { 'type': 'int', 'default': 'x' } } }",
            ),
            "s:8: 'A': the default of 'a' does not fit",
        ),
        (
            described(
                "A",
                &["a"],
                "{ 'struct': 'A', 'data': { 'a': { 'type': 'int', 'default': 1 } } }",
            ),
            "s:8: 'A': the default of 'a' does not fit",
        ),
        (
            described(
                "A",
                &["a", "b"],
                "{ 'alternate': 'A', 'data': { 'a': 'int', 'b': 'number' } }",
            ),
            "s:10: 'A': two branches are of type number",
        ),
        (
            described("A", &[], "{ 'command': 'A', 'returns': 'B' }"),
            "s:6: 'A': there is no type 'B'",
        ),
        (
            described(
                "A",
                &[],
                "{ 'command': 'A', 'allow-oob': true, 'coroutine': true }",
            ),
            "s:6: 'A': a coroutine can't be out of band",
        ),
        (
            described("A", &[], "{ 'event': 'A', 'rate-limit': 0 }"),
            "s:6: 'A': 'rate-limit' is 1 to 60000 ms",
        ),
        (
            described("E", &["x"], "{ 'enum': 'E', 'data': [ 'x' ] }")
                + &described(
                    "U",
                    &["t"],
                    "{ 'union': 'U', 'base': { 't': 'E' }, 'discriminator': 't', 'data': { 'y': 'E' } }",
                ),
            "s:16: 'U': 'y' is no value of the tag",
        ),
        (
            described("A", &[], "{ 'command': 'A' }") + &described("A", &[], "{ 'command': 'A' }"),
            "s:12: 'A': is defined twice",
        ),
        (
            "{ 'pragma': { 'x': {} } }".to_string(),
            "s:1: unknown pragma 'x'",
        ),
        (
            "{ 'include': 'not-there.json' }".to_string(),
            "No such file",
        ),
    ] {
        let found = read(&text).expect_err(&text);
        assert!(
            found.ends_with(error) || found.contains("No such file"),
            "{found} instead of {error}"
        );
    }
}

#[test]
fn a_schema_becomes_tables_types_and_a_page() {
    let text = described("E", &["x", "2y"], "{ 'enum': 'E', 'data': [ 'x', '2y' ] }")
        + &described("B", &["id"], "{ 'struct': 'B', 'data': { 'id': 'str' } }")
        + &described(
            "X",
            &["n"],
            "{ 'struct': 'X', 'base': 'B', 'data': { '*n': { 'type': 'int', 'default': 7 } } }",
        )
        + &described(
            "Only",
            &["t", "z"],
            "{ 'union': 'Only', 'base': { 't': 'E', '*z': 'bool' }, 'discriminator': 't', 'data': { 'x': 'X' } }",
        )
        + &described(
            "do-it",
            &["a", "type"],
            "{ 'command': 'do-it', 'data': { 'a': [ 'Only' ], '*type': 'E' }, 'returns': 'X', 'allow-oob': true }",
        )
        + &described(
            "DONE",
            &["how"],
            "{ 'event': 'DONE', 'data': { 'how': 'E' }, 'rate-limit': 1000 }",
        );
    let schema = read(&text).unwrap();
    assert_eq!(schema.commands.len(), 1);
    assert!(schema.commands[0].allow_oob);
    assert_eq!(schema.events[0].rate_limit, 1000);
    let words: Vec<&str> = schema.dictionary().into_iter().collect();
    assert_eq!(
        words,
        ["2y", "a", "do-it", "id", "n", "t", "type", "x", "z"]
    );
    let rust = schema.rust().unwrap();
    for piece in [
        "pub enum E {",
        "    N2y,",
        "pub struct DoIt<'a> {",
        "pub r#type: Option<E>,",
        "pub a: List<'a, Only<'a>>,",
        ".unwrap_or(7)",
        "pub enum OnlyVariant<'a> {",
        "X(X<'a>),",
        "handlers::do_it(context, FromValue::from_value(arguments))?",
        "Done {",
        "allow_oob: true",
    ] {
        assert!(rust.contains(piece), "{piece} is not in\n{rust}");
    }
    let page = schema.page();
    for piece in [
        "### do-it\n\nWhat it is.",
        "| `a` | list of [Only](#only) | What that is. |",
        "Returns [X](#x)",
        "May be executed out of band.",
        "At most one in 1000 ms",
        "| `n` | int (default 7) |",
        "By `t` it also has:",
    ] {
        assert!(page.contains(piece), "{piece} is not in\n{page}");
    }
}
