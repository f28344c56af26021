//! query-commands, query-events and query-qmp-schema: consistent with each other, with what is executed, and with QEMU's schema.

use std::collections::{BTreeMap, BTreeSet};

use qemu_tests::{Emulator, QmpClient};
use serde_json::{Value, json};

use crate::identity::fill;
use crate::{ask, compare, emulators, negotiated, passive};

/// The schema's entities by name.
struct Schema(BTreeMap<String, Value>);

impl Schema {
    fn of(client: &mut QmpClient) -> Self {
        let list = ask(client, "query-qmp-schema");
        let mut entities = BTreeMap::new();
        for entity in list.as_array().expect("a list") {
            let name = entity["name"].as_str().expect("a name").to_string();
            let before = entities.insert(name, entity.clone());
            assert!(before.is_none(), "twice: {entity}");
        }
        Self(entities)
    }

    fn entity(&self, name: &Value) -> &Value {
        let name = name.as_str().expect("a name");
        self.0
            .get(name)
            .unwrap_or_else(|| panic!("the type {name} is not defined"))
    }

    /// The names of all entities of this meta-type.
    fn all(&self, meta: &str) -> BTreeSet<&str> {
        let of_meta = self.0.iter().filter(|(_, e)| e["meta-type"] == meta);
        of_meta.map(|(name, _)| name.as_str()).collect()
    }

    /// The types that an entity names.
    fn references(entity: &Value) -> Vec<&Value> {
        let mut types = Vec::new();
        for member in ["arg-type", "ret-type", "element-type"] {
            types.extend(entity.get(member));
        }
        for list in ["members", "variants"] {
            for entry in entity[list].as_array().into_iter().flatten() {
                // An enumeration's members are names and no types.
                types.extend(entry.get("type"));
            }
        }
        types
    }

    /// Every leaf below a type as path and description, into `leaves`.
    fn describe(&self, path: &str, name: &Value, above: &mut Vec<String>, leaves: &mut Leaves) {
        let entity = self.entity(name);
        let name = name.as_str().expect("a name").to_string();
        if above.contains(&name) {
            leaves.push((path.to_string(), "one of those above".to_string()));
            return;
        }
        above.push(name);
        let features = match entity.get("features") {
            Some(features) => format!(" features {features}"),
            None => String::new(),
        };
        match entity["meta-type"].as_str().expect("a meta-type") {
            "builtin" => {
                let kind = format!("{}{features}", entity["json-type"]);
                leaves.push((path.to_string(), kind));
            }
            "enum" => {
                // `values` is the old form of `members`.
                let names = entity["members"].as_array().into_iter().flatten();
                let mut names: Vec<&str> =
                    names.filter_map(|member| member["name"].as_str()).collect();
                let values = entity["values"].as_array().into_iter().flatten();
                let mut values: Vec<&str> = values.filter_map(Value::as_str).collect();
                names.sort_unstable();
                values.sort_unstable();
                assert_eq!(names, values);
                leaves.push((path.to_string(), format!("enum {names:?}{features}")));
            }
            "array" => {
                leaves.push((path.to_string(), format!("array{features}")));
                self.describe(&format!("{path}[]"), &entity["element-type"], above, leaves);
            }
            "object" => {
                let tag = entity
                    .get("tag")
                    .map_or(String::new(), |tag| format!(" by {tag}"));
                leaves.push((path.to_string(), format!("object{tag}{features}")));
                for member in entity["members"].as_array().expect("members") {
                    let name = member["name"].as_str().expect("a name");
                    let optional = match member.get("default") {
                        Some(default) => {
                            assert!(default.is_null());
                            "*"
                        }
                        None => "",
                    };
                    self.describe(
                        &format!("{path}.{optional}{name}"),
                        &member["type"],
                        above,
                        leaves,
                    );
                }
                for variant in entity["variants"].as_array().into_iter().flatten() {
                    let case = variant["case"].as_str().expect("a case");
                    let below = self.entity(&variant["type"]);
                    if below["members"].as_array().is_some_and(Vec::is_empty) {
                        continue;
                    }
                    self.describe(&format!("{path}({case})"), &variant["type"], above, leaves);
                }
            }
            "alternate" => {
                leaves.push((path.to_string(), format!("alternate{features}")));
                let mut below = Vec::new();
                for member in entity["members"].as_array().expect("members") {
                    let mut leaf = Vec::new();
                    self.describe("", &member["type"], above, &mut leaf);
                    below.push(leaf);
                }
                below.sort();
                for (number, leaf) in below.into_iter().enumerate() {
                    let leaf = leaf.into_iter();
                    leaves
                        .extend(leaf.map(|(rest, kind)| (format!("{path}|{number}{rest}"), kind)));
                }
            }
            other => panic!("{path} has the meta-type {other}"),
        }
        above.pop();
    }

    /// A command or an event, leaf by leaf.
    fn leaves(&self, name: &str) -> Leaves {
        let entity = &self.0[name];
        let mut leaves = Vec::new();
        let shown = format!(
            "{} oob {} features {}",
            entity["meta-type"],
            entity.get("allow-oob").unwrap_or(&Value::Bool(false)),
            entity.get("features").unwrap_or(&json!([])),
        );
        leaves.push((name.to_string(), shown));
        for member in ["arg-type", "ret-type"] {
            if let Some(kind) = entity.get(member) {
                self.describe(
                    &format!("{name} {member}"),
                    kind,
                    &mut Vec::new(),
                    &mut leaves,
                );
            }
        }
        leaves
    }
}

/// Paths below a command or event, and what is there.
type Leaves = Vec<(String, String)>;

/// The names of an enumeration's leaf.
fn enumerators(kind: &str) -> Option<BTreeSet<&str>> {
    let list = kind.strip_prefix("enum [")?.strip_suffix(']')?;
    Some(list.split(", ").collect())
}

/// Arguments that are refused by name, because what they set is not there, and a feature of the same kind.
const NOT_THERE: [&str; 2] = [".*aio-max-batch", ".*pr-manager"];
const NO_FEATURE: &str = " features [\"dynamic-auto-read-only\"]";

/// Takes from QEMU's description what a program may leave out that does less: names of an enumeration, the cases of a union that
/// belong to them, and optional members of what is sent. What is left has to be the same.
fn reduce(theirs: Leaves, ours: &Leaves) -> Leaves {
    let find = |path: &str| {
        ours.iter()
            .find(|(other, _)| other == path)
            .map(|(_, kind)| kind)
    };
    let has_cases = |path: &str| {
        let start = format!("{path}(");
        ours.iter().any(|(other, _)| other.starts_with(&start))
    };
    let unions: Vec<_> = theirs
        .iter()
        .filter_map(|(path, kind)| {
            let (_, tag) = kind.split_once("object by \"")?;
            let (tag, _) = tag.split_once('"')?;
            let cases = enumerators(find(&format!("{path}.{tag}"))?)?;
            Some((format!("{path}("), cases.clone()))
        })
        .collect();
    let kept = theirs.iter().filter(|(path, _)| {
        let other_case = unions.iter().any(|(start, cases)| {
            let case = path
                .strip_prefix(start)
                .and_then(|rest| rest.split(')').next());
            case.is_some_and(|case| !cases.contains(format!("{case:?}").as_str()))
        });
        // The result of a command, or an event's data.
        let sent = path.contains(" ret-type")
            || path.split(' ').next().is_some_and(|name| {
                name.bytes()
                    .all(|byte| byte.is_ascii_uppercase() || byte == b'_')
            });
        let optional = path.match_indices(".*").any(|(at, _)| {
            let end = path[at + 1..]
                .find(['.', '(', '[', '|'])
                .map_or(path.len(), |end| at + 1 + end);
            find(&path[..end]).is_none()
        });
        let not_there = NOT_THERE.iter().any(|name| path.ends_with(name)) && find(path).is_none();
        !(other_case || sent && optional || not_there)
    });
    kept.map(|(path, kind)| {
        let fewer = find(path).filter(|ours| {
            let (Some(ours), Some(theirs)) = (enumerators(ours), enumerators(kind)) else {
                return false;
            };
            ours.is_subset(&theirs)
        });
        let kind = match (fewer, kind.split_once(" by ")) {
            (Some(fewer), _) => fewer.clone(),
            (None, Some((object, _))) if !has_cases(path) => object.to_string(),
            _ => kind.clone(),
        };
        let kind = match kind.strip_suffix(NO_FEATURE) {
            Some(rest) if find(path).is_some_and(|ours| ours == rest) => rest.to_string(),
            _ => kind,
        };
        (path.clone(), kind)
    })
    .collect()
}

#[test]
fn the_schema_is_closed_and_nothing_in_it_is_idle() {
    for emulator in emulators() {
        let instance = passive(emulator).start();
        let mut client = negotiated(&instance);
        let schema = Schema::of(&mut client);
        let mut reached: BTreeSet<&str> = schema.all("command");
        reached.extend(schema.all("event"));
        let mut todo: Vec<&str> = reached.iter().copied().collect();
        while let Some(name) = todo.pop() {
            for kind in Schema::references(&schema.0[name]) {
                schema.entity(kind);
                let kind = kind.as_str().expect("a name");
                if reached.insert(kind) {
                    todo.push(kind);
                }
            }
        }
        let idle: Vec<_> = schema
            .0
            .keys()
            .filter(|name| !reached.contains(name.as_str()))
            .collect();
        // QEMU 7.2 has two types that nobody uses.
        let most = if emulator == Emulator::Qemu { 2 } else { 0 };
        assert!(idle.len() <= most, "{emulator:?}: nobody uses {idle:?}");
        for (name, entity) in &schema.0 {
            let meta = entity["meta-type"].as_str().expect("a meta-type");
            match meta {
                "command" => {
                    assert!(entity["arg-type"].is_string() && entity["ret-type"].is_string())
                }
                "event" => assert!(entity["arg-type"].is_string()),
                "builtin" => assert!(entity["json-type"].is_string()),
                // Users don't see the names of types.
                "array" => assert_eq!(
                    *name,
                    format!("[{}]", entity["element-type"].as_str().expect("a name"))
                ),
                "enum" | "object" | "alternate" => {
                    assert!(
                        name.bytes().all(|byte| byte.is_ascii_digit()),
                        "{emulator:?} {name}"
                    );
                }
                other => panic!("the meta-type {other}"),
            }
            if ["command", "event"].contains(&meta) {
                let arguments = schema.entity(&entity["arg-type"]);
                assert_eq!(arguments["meta-type"], "object", "{name}");
            }
        }
    }
}

#[test]
fn commands_and_events_are_those_of_the_schema() {
    for emulator in emulators() {
        let instance = passive(emulator).start();
        let mut client = negotiated(&instance);
        let schema = Schema::of(&mut client);
        let names = |list: &Value| -> Vec<String> {
            let entries = list.as_array().expect("a list").iter();
            let mut names: Vec<_> = entries
                .map(|entry| {
                    assert_eq!(
                        entry.as_object().map(serde_json::Map::len),
                        Some(1),
                        "{entry}"
                    );
                    entry["name"].as_str().expect("a name").to_string()
                })
                .collect();
            names.sort();
            names
        };
        let listed = names(&ask(&mut client, "query-commands"));
        let expected: Vec<_> = schema.all("command").into_iter().collect();
        assert_eq!(listed, expected, "{emulator:?}");
        if emulator == Emulator::Thimble {
            // QEMU has had no query-events since 6.0.
            let listed = names(&ask(&mut client, "query-events"));
            let expected: Vec<_> = schema.all("event").into_iter().collect();
            assert_eq!(listed, expected);
        }
    }
}

/// Each command's arguments are checked as the schema has them: what is not in it is refused, what it needs is missed.
#[test]
fn arguments_are_checked_by_the_schema() {
    for emulator in emulators() {
        let instance = passive(emulator).start();
        let mut client = negotiated(&instance);
        let schema = Schema::of(&mut client);
        for name in schema.all("command") {
            // device_add takes any argument; the schema says of it that it has none.
            if ["device_add", "netdev_add", "object-add"].contains(&name) {
                continue;
            }
            let arguments = schema.entity(&schema.0[name]["arg-type"]);
            let members = arguments["members"].as_array().expect("members");
            let needed: Vec<&str> = members
                .iter()
                .filter(|member| member.get("default").is_none())
                .filter_map(|member| member["name"].as_str())
                .collect();
            if arguments.get("variants").is_some() {
                continue;
            }
            let reply = client.execute(name, json!({"no-such-argument": 1}));
            let Err(error) = reply else {
                panic!("{emulator:?}: {name} takes any argument");
            };
            assert_eq!(error.class, "GenericError", "{emulator:?} {name}: {error}");
            match error.description.as_str() {
                "Parameter 'no-such-argument' is unexpected" => {
                    assert!(needed.is_empty(), "{emulator:?} {name}")
                }
                text => {
                    let missed = needed
                        .iter()
                        .any(|one| text == format!("Parameter '{one}' is missing"));
                    assert!(missed, "{emulator:?} {name} needs {needed:?}: {text}");
                }
            }
        }
        assert_eq!(crate::status(&mut client), "prelaunch");
    }
}

/// Commands and events of Thimble, member by member, against QEMU's of the same name.
#[test]
fn the_schema_is_qemus_where_it_has_the_command() {
    let mut schemas = Vec::new();
    for emulator in emulators() {
        let instance = passive(emulator).start();
        schemas.push(Schema::of(&mut negotiated(&instance)));
    }
    let [qemu, thimble] = schemas.as_slice() else {
        return;
    };
    let mut lists = [Vec::new(), Vec::new()];
    for meta in ["command", "event"] {
        for name in thimble.all(meta) {
            if !qemu.0.contains_key(name) {
                lists[0].push((name.to_string(), "absent".to_string()));
                lists[1].push((name.to_string(), meta.to_string()));
                continue;
            }
            let mut ours = thimble.leaves(name);
            let mut theirs = reduce(qemu.leaves(name), &ours);
            fill(&mut ours, &theirs);
            fill(&mut theirs, &ours);
            ours.sort();
            theirs.sort();
            lists[0].extend(theirs);
            lists[1].extend(ours);
        }
    }
    compare("commands-schema", &lists);
}
