//! The option tables as QMP tells them: `query-command-line-options`.

use thimble_monitor::schema::CommandLineParameterType as Type;
use thimble_monitor::schema::results::{CommandLineOptionInfo, CommandLineParameterInfo};

use super::opts::{Kind, OptsTable};
use super::{block, boot, builder, descriptors, machine, values};
use crate::chardev::spec;

/// All options that take `name=value` pairs of a table.
static TABLES: &[&OptsTable] = &[
    &machine::MACHINE,
    &machine::ACCEL,
    &machine::SMP,
    &machine::MEMORY,
    &spec::CHARDEV,
    &block::DRIVE,
    &descriptors::ADD_FD,
    &boot::BOOT,
    &boot::OPTION_ROM,
    &builder::MON,
    &builder::DISPLAY,
    &builder::NAME,
    &builder::OVERCOMMIT,
    &builder::MSG,
    &builder::TRACE,
    &builder::ACTION,
    &values::RTC,
    &values::ICOUNT,
];

/// Options whose parameters depend on their first one, or that take none yet.
static OPEN: [&str; 9] = [
    "acpi", "device", "global", "net", "nic", "numa", "object", "smbios", "vnc",
];

/// What values are of which only these words are there.
fn of_words(words: &[&str]) -> Type {
    if words.iter().all(|word| matches!(*word, "on" | "off")) {
        Type::Boolean
    } else if words.iter().all(|word| word.parse::<u64>().is_ok()) {
        Type::Number
    } else {
        Type::String
    }
}

/// Tells of every option.
pub fn visit_options(visit: &mut dyn FnMut(&CommandLineOptionInfo<'_>)) {
    for table in TABLES {
        let parameters: Vec<_> = table
            .options
            .iter()
            .filter_map(|option| {
                let r#type = match option.kind {
                    Kind::Text => Type::String,
                    Kind::Word(words) | Kind::Only(words, _) => of_words(words),
                    Kind::Bool => Type::Boolean,
                    Kind::Number | Kind::Integer => Type::Number,
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
