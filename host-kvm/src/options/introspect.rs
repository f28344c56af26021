//! The option tables as QMP tells them: `query-command-line-options`.

use thimble_monitor::schema::CommandLineParameterType as Type;
use thimble_monitor::schema::results::{CommandLineOptionInfo, CommandLineParameterInfo};

use super::opts::{Kind, OptsTable};
use super::{builder, machine, values};
use crate::chardev::spec;

/// All options that take `name=value` pairs of a table.
static TABLES: [&OptsTable; 12] = [
    &machine::MACHINE,
    &machine::ACCEL,
    &machine::SMP,
    &machine::MEMORY,
    &spec::CHARDEV,
    &builder::MON,
    &builder::DISPLAY,
    &builder::NAME,
    &builder::OVERCOMMIT,
    &builder::MSG,
    &builder::ACTION,
    &values::RTC,
];

/// Options whose parameters depend on their first one.
static OPEN: [&str; 2] = ["device", "global"];

/// Tells of every option.
pub fn visit_options(visit: &mut dyn FnMut(&CommandLineOptionInfo<'_>)) {
    for table in TABLES {
        let parameters: Vec<_> = table
            .options
            .iter()
            .filter_map(|option| {
                let switch =
                    |words: &[&str]| words.iter().all(|word| matches!(*word, "on" | "off"));
                let r#type = match option.kind {
                    Kind::Word(words) | Kind::Only(words, _) if switch(words) => Type::Boolean,
                    Kind::Text | Kind::Word(_) | Kind::Only(..) => Type::String,
                    Kind::Bool => Type::Boolean,
                    Kind::Number => Type::Number,
                    Kind::Size(_) => Type::Size,
                    Kind::Absent(_) => return None,
                };
                Some(CommandLineParameterInfo {
                    name: option.name,
                    r#type,
                    help: Some(option.doc).filter(|doc| !doc.is_empty()),
                    default: None,
                })
            })
            .collect();
        visit(&CommandLineOptionInfo {
            option: table.name,
            parameters: &parameters,
        });
    }
    for option in OPEN {
        visit(&CommandLineOptionInfo {
            option,
            parameters: &[],
        });
    }
}
