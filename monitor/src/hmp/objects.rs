//! Objects: the tree of all, and those that users make.

use core::fmt::{self, Write as _};

use thimble_core::qmp::write_escaped;
use thimble_core::qom::QomValue;

use super::table::{Command, Kind, command, flag, optional, required};
use super::{Call, Done, Text};
use crate::error::Fail;
use crate::handlers::{self, Outcome, settable};
use crate::owner::objects::{NewValue, write_properties, write_types};
use crate::schema::arguments;

pub(super) static COMMANDS: &[Command] = &[
    command(
        "object_add",
        "[qom-type=]type,id=str[,prop=value][,...]",
        &[required(Kind::Rest)],
        "make an object, also of JSON ('help' lists types, 'TYPE,help' properties)",
        object_add,
    )
    .in_preconfig(),
    command(
        "object_del",
        "id",
        &[required(Kind::Text)],
        "take an object away",
        |call| {
            let id = call.arguments.text(0);
            handlers::object_del(&mut call.context, arguments::ObjectDel { id })?;
            Ok(Outcome::Done)
        },
    )
    .in_preconfig(),
    command(
        "qom-get",
        "path property",
        &[required(Kind::Text), required(Kind::Text)],
        "show an object's property",
        qom_get,
    )
    .in_preconfig(),
    command(
        "qom-list",
        "path",
        &[optional(Kind::Text)],
        "list an object's properties",
        qom_list,
    )
    .in_preconfig(),
    command(
        "qom-set",
        "[-j] path property value",
        &[
            flag(b'j'),
            required(Kind::Text),
            required(Kind::Text),
            required(Kind::Rest),
        ],
        "change an object's property\n-j: the value is in JSON",
        qom_set,
    )
    .in_preconfig(),
];

pub(super) static INFO: &[Command] = &[
    command(
        "iothreads",
        "",
        &[],
        "show threads for input and output",
        iothreads,
    )
    .in_preconfig(),
    command("memdev", "", &[], "show memory backends", memdev).in_preconfig(),
];

/// A name from a line. One that is no text names nothing.
fn text(bytes: &[u8]) -> &str {
    core::str::from_utf8(bytes).unwrap_or("\u{0}")
}

fn object_add<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let given = call.arguments.text(0);
    let mut parts = given.split(|byte| *byte == b',');
    let first = parts.next().unwrap_or_default();
    let asked = |part: &[u8]| matches!(part, b"help" | b"?");
    if !given.starts_with(b"{") && (asked(first) || parts.any(asked)) {
        let name = first.strip_prefix(b"qom-type=").unwrap_or(first);
        if !write_properties(text(name), &mut call.text)? {
            write_types(&mut call.text)?;
        }
        return Ok(Outcome::Done);
    }
    call.context.owner.object_add_text(given)?;
    Ok(Outcome::Done)
}

fn qom_list<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let path = text(call.arguments.text(0));
    if path.is_empty() {
        // Where to begin.
        writeln!(call.text, "/")?;
        return Ok(Outcome::Done);
    }
    let Call { context, text, .. } = call;
    let (mut found, mut written) = (Ok(()), Ok(()));
    context.owner.visit_objects(&mut |tree| {
        found = tree.list(path, &mut |property| {
            if written.is_ok() {
                written = writeln!(text, "{} ({})", property.name, property.kind);
            }
        });
    });
    found.map_err(Fail::Object)?;
    written?;
    Ok(Outcome::Done)
}

fn qom_get<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let (path, property) = (text(call.arguments.text(0)), text(call.arguments.text(1)));
    let Call { context, text, .. } = call;
    let (mut found, mut written) = (Ok(()), Ok(()));
    context.owner.visit_objects(&mut |tree| {
        found = tree.get(path, property, &mut |value| written = show(text, value));
    });
    found.map_err(Fail::Object)?;
    written?;
    writeln!(call.text)?;
    Ok(Outcome::Done)
}

/// Writes a value as JSON: members and elements on lines of their own. None of them has members again.
fn show(text: &mut Text<'_>, value: QomValue<'_>) -> fmt::Result {
    match value {
        QomValue::Bool(value) => write!(text, "{value}"),
        QomValue::Int(value) => write!(text, "{value}"),
        QomValue::Uint(value) => write!(text, "{value}"),
        QomValue::Str(value) => {
            text.write_char('"')?;
            write_escaped(text.sink, value.as_bytes()).map_err(|_| fmt::Error)?;
            text.write_char('"')
        }
        QomValue::Numbers(numbers) => {
            text.write_char('[')?;
            for (index, number) in numbers.iter().enumerate() {
                let comma = if index > 0 { "," } else { "" };
                write!(text, "{comma}\n    {number}")?;
            }
            text.write_str("\n]")
        }
        QomValue::Members(members) => {
            text.write_char('{')?;
            for (index, (name, value)) in members.iter().enumerate() {
                let comma = if index > 0 { "," } else { "" };
                write!(text, "{comma}\n    \"{name}\": ")?;
                show(text, *value)?;
            }
            text.write_str("\n}")
        }
    }
}

fn qom_set<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let (path, property) = (text(call.arguments.text(1)), text(call.arguments.text(2)));
    let value = call.arguments.text(3);
    let owner = &mut *call.context.owner;
    let whose = settable(owner, path, property)?;
    match call.arguments.flag(0) {
        true => owner.object_set_json(whose, property, value)?,
        false => owner.object_set(whose, property, NewValue::Text(value))?,
    }
    Ok(Outcome::Done)
}

fn iothreads<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let Call { context, text, .. } = call;
    let mut written = Ok(());
    context.owner.visit_iothreads(&mut |thread| {
        if written.is_ok() {
            written = write!(
                text,
                "{}:\n  thread_id={}\n  poll-max-ns={}\n  poll-grow={}\n  poll-shrink={}\n  aio-max-batch={}\n",
                thread.id,
                thread.thread_id,
                thread.poll_max_ns,
                thread.poll_grow,
                thread.poll_shrink,
                thread.aio_max_batch
            );
        }
    });
    written?;
    Ok(Outcome::Done)
}

fn memdev<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let Call { context, text, .. } = call;
    let mut written = Ok(());
    context.owner.visit_memdevs(&mut |memory| {
        let mut write = || {
            write!(
                text,
                "memory backend: {}\n  size:  {}\n",
                memory.id.unwrap_or_default(),
                memory.size
            )?;
            for (name, value) in [
                ("merge", memory.merge),
                ("dump", memory.dump),
                ("prealloc", memory.prealloc),
                ("share", memory.share),
                ("reserve", memory.reserve.unwrap_or(true)),
            ] {
                writeln!(text, "  {name}: {value}")?;
            }
            write!(text, "  policy: {}\n  host nodes: ", memory.policy.name())?;
            for (index, node) in memory.host_nodes.iter().enumerate() {
                let comma = if index > 0 { "," } else { "" };
                write!(text, "{comma}{node}")?;
            }
            writeln!(text)
        };
        if written.is_ok() {
            written = write();
        }
    });
    written?;
    Ok(Outcome::Done)
}
