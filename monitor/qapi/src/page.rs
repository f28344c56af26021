//! The reference page: every command, event and type with its documentation, in Markdown.

use std::fmt::Write as _;

use crate::docs::Docs;
use crate::{Default, Member, Schema, Type, TypeId};

pub(crate) fn page(schema: &Schema) -> String {
    let mut page = Page {
        schema,
        text: String::new(),
    };
    page.line("# QMP reference\n\n## Commands\n");
    let mut commands: Vec<_> = schema.commands.iter().collect();
    commands.sort_by_key(|command| &command.name);
    for command in commands {
        page.heading(&command.name);
        page.members("Argument", command.arguments);
        if command.result != TypeId::EMPTY {
            let result = page.link(command.result);
            let returns = &page.docs(&command.name).returns;
            let colon = if returns.is_empty() { "" } else { ": " };
            page.line(&format!("Returns {result}{colon}{returns}\n"));
        }
        if command.allow_oob {
            page.line("May be executed out of band.\n");
        }
        if command.allow_preconfig {
            page.line("Available before the machine is built.\n");
        }
        page.footer(&command.name);
    }
    page.line("## Events\n");
    for event in &schema.events {
        page.heading(&event.name);
        page.members("Member", event.data);
        if event.rate_limit > 0 {
            let limit = event.rate_limit;
            page.line(&format!(
                "At most one in {limit} ms is sent; of several, the last.\n"
            ));
        }
        page.footer(&event.name);
    }
    page.line("## Types\n");
    let mut types: Vec<_> = (0..schema.types.len())
        .map(TypeId)
        .filter(|id| schema.docs.contains_key(schema.types[id.0].name()))
        .collect();
    types.sort_by_key(|id| schema.types[id.0].name());
    for id in types {
        let name = schema.types[id.0].name();
        page.heading(name);
        match &schema.types[id.0] {
            Type::Enum { values, .. } => {
                page.line("| Value | Meaning |\n|---|---|");
                for value in values {
                    page.line(&format!("| `{}` | {} |", value.name, value.docs));
                }
                page.line("");
            }
            Type::Object {
                members,
                tag,
                variants,
                ..
            } => {
                page.members("Member", id);
                if let (Some(tag), false) = (tag, variants.is_empty()) {
                    page.line(&format!("By `{}` it also has:\n", members[*tag].name));
                    for variant in variants {
                        let link = page.link(variant.kind);
                        page.line(&format!("- `{}`: {link}", variant.case));
                    }
                    page.line("");
                }
            }
            Type::Alternate { branches, .. } => {
                for branch in branches {
                    let link = page.link(branch.kind);
                    page.line(&format!("- {link}: {}", branch.docs));
                }
                page.line("");
            }
            Type::Builtin(_) | Type::Array(_) => {}
        }
        page.footer(name);
    }
    page.text
}

struct Page<'s> {
    schema: &'s Schema,
    text: String,
}

impl<'s> Page<'s> {
    fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    fn docs(&self, name: &str) -> &'s Docs {
        &self.schema.docs[name]
    }

    fn heading(&mut self, name: &str) {
        let body = &self.docs(name).body;
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "### {name}\n\n{body}\n");
    }

    fn footer(&mut self, name: &str) {
        let docs = self.docs(name);
        for (feature, text) in &docs.features {
            self.line(&format!("Feature `{feature}`: {text}\n"));
        }
        if !docs.since.is_empty() {
            self.line(&format!("Since QMP {}\n", docs.since));
        }
    }

    fn link(&self, id: TypeId) -> String {
        match &self.schema.types[id.0] {
            Type::Array(element) => format!("list of {}", self.link(*element)),
            Type::Builtin(builtin) => builtin.name().into(),
            other => format!("[{0}](#{1})", other.name(), other.name().to_lowercase()),
        }
    }

    fn members(&mut self, title: &str, id: TypeId) {
        let Type::Object { members, .. } = &self.schema.types[id.0] else {
            return;
        };
        if members.is_empty() {
            return;
        }
        self.line(&format!("| {title} | Type | Meaning |\n|---|---|---|"));
        for Member {
            name,
            kind,
            optional,
            default,
            docs,
            features,
        } in members
        {
            let optional = match default {
                Some(Default::Bool(value)) => format!(" (default {value})"),
                Some(Default::Number(value)) => format!(" (default {value})"),
                Some(Default::Text(value)) => format!(" (default {value})"),
                None if *optional => " (optional)".into(),
                None => String::new(),
            };
            let features: String = features.iter().map(|name| format!(" ({name})")).collect();
            let link = self.link(*kind);
            self.line(&format!(
                "| `{name}` | {link}{optional}{features} | {docs} |"
            ));
        }
        self.line("");
    }
}
