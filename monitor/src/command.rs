//! The table of commands, and the checker of their arguments.

#[cfg(feature = "sabotage")]
use core::sync::atomic::AtomicUsize;

use thimble_core::qmp::{Kind, Value};

use crate::error::Fail;
use crate::handlers::Handler;

/// Index in [`COMMANDS`] of the command that answers an empty success instead of acting;
/// `usize::MAX` for none.
#[cfg(feature = "sabotage")]
pub static SABOTAGED: AtomicUsize = AtomicUsize::new(usize::MAX);

/// A command as the schema declares it.
#[derive(Debug)]
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// Whether it is available before the machine is built.
    pub allow_preconfig: bool,
    /// Whether it can be executed out of band.
    pub allow_oob: bool,
    pub(crate) args: &'static [Arg],
    pub(crate) handler: Handler,
    /// The smallest JSON text of its result's type.
    #[cfg_attr(not(feature = "sabotage"), allow(dead_code))]
    pub(crate) empty: &'static str,
}

/// An argument.
#[derive(Debug)]
pub(crate) struct Arg {
    pub(crate) name: &'static str,
    pub(crate) kind: ArgKind,
    pub(crate) optional: bool,
}

/// An argument's type.
#[derive(Debug)]
pub(crate) enum ArgKind {
    /// `int`: the range of `i64`.
    Int,
    /// `str`
    Str,
    /// A list of an enumeration with these values.
    EnumList(&'static [&'static str]),
}

const fn command(name: &'static str, handler: Handler, empty: &'static str) -> Command {
    Command {
        name,
        allow_preconfig: false,
        allow_oob: false,
        args: &[],
        handler,
        empty,
    }
}

const fn required(name: &'static str, kind: ArgKind) -> Arg {
    Arg {
        name,
        kind,
        optional: false,
    }
}

/// All commands.
pub static COMMANDS: &[Command] = &[
    Command {
        allow_preconfig: true,
        args: &[Arg {
            name: "enable",
            kind: ArgKind::EnumList(&["oob"]),
            optional: true,
        }],
        ..command("qmp_capabilities", Handler::QmpCapabilities, "{}")
    },
    Command {
        allow_preconfig: true,
        ..command(
            "query-version",
            Handler::QueryVersion,
            "{\"qemu\": {\"major\": 0, \"minor\": 0, \"micro\": 0}, \"package\": \"\"}",
        )
    },
    Command {
        allow_preconfig: true,
        ..command("query-commands", Handler::QueryCommands, "[]")
    },
    Command {
        allow_preconfig: true,
        ..command(
            "query-status",
            Handler::QueryStatus,
            "{\"running\": false, \"singlestep\": false, \"status\": \"running\"}",
        )
    },
    Command {
        allow_preconfig: true,
        ..command("query-name", Handler::QueryName, "{}")
    },
    Command {
        allow_preconfig: true,
        ..command("query-uuid", Handler::QueryUuid, "{\"UUID\": \"\"}")
    },
    command(
        "query-kvm",
        Handler::QueryKvm,
        "{\"enabled\": false, \"present\": false}",
    ),
    command("stop", Handler::Stop, "{}"),
    command("cont", Handler::Cont, "{}"),
    command("system_reset", Handler::SystemReset, "{}"),
    Command {
        args: &[
            required("val", ArgKind::Int),
            required("size", ArgKind::Int),
            required("filename", ArgKind::Str),
        ],
        ..command("pmemsave", Handler::Pmemsave, "{}")
    },
    Command {
        allow_preconfig: true,
        ..command("quit", Handler::Quit, "{}")
    },
];

/// The index in [`COMMANDS`] of a command.
pub fn command_index(name: &str) -> Option<usize> {
    COMMANDS.iter().position(|command| command.name == name)
}

/// Checks arguments in the order of the declaration, then that there are no others.
pub(crate) fn check<'m>(args: &[Arg], given: Option<Value<'m>>) -> Result<(), Fail<'m>>
where
    'static: 'm,
{
    for arg in args {
        match given.and_then(|given| given.get(arg.name.as_bytes())) {
            Some(value) => check_kind(arg_static(arg), value)?,
            None if arg.optional => {}
            None => {
                let name = arg.name.as_bytes();
                return Err(Fail::generic(&[b"Parameter '", name, b"' is missing"]));
            }
        }
    }
    let unexpected = given
        .into_iter()
        .flat_map(Value::members)
        .map(|(name, _)| name)
        .filter(|name| args.iter().all(|arg| arg.name.as_bytes() != *name))
        .min_by_key(|name| bucket(name));
    match unexpected {
        Some(name) => Err(Fail::generic(&[b"Parameter '", name, b"' is unexpected"])),
        None => Ok(()),
    }
}

fn arg_static(arg: &Arg) -> (&'static str, &ArgKind) {
    (arg.name, &arg.kind)
}

fn check_kind<'m>(
    (name, kind): (&'static str, &ArgKind),
    value: Value<'m>,
) -> Result<(), Fail<'m>> {
    let wrong = |expected: &'static str| {
        Fail::generic(&[
            b"Invalid parameter type for '",
            name.as_bytes(),
            b"', expected: ",
            expected.as_bytes(),
        ])
    };
    match kind {
        ArgKind::Int if value.kind() != Kind::Integer => Err(wrong("integer")),
        ArgKind::Str if value.kind() != Kind::String => Err(wrong("string")),
        ArgKind::Int | ArgKind::Str => Ok(()),
        ArgKind::EnumList(_) if value.kind() != Kind::Array => Err(wrong("array")),
        ArgKind::EnumList(allowed) => {
            for (index, element) in value.elements().enumerate() {
                let Some(text) = element.bytes() else {
                    return Err(wrong_element(name, index));
                };
                if allowed.iter().all(|value| value.as_bytes() != text) {
                    // QEMU 7.2 has no name for a list's element here and says so.
                    return Err(Fail::generic(&[
                        b"Parameter 'null' does not accept value '",
                        text,
                        b"'",
                    ]));
                }
            }
            Ok(())
        }
    }
}

/// The index is part of a text that is not input, so this one is formatted.
fn wrong_element<'m>(name: &str, index: usize) -> Fail<'m> {
    crate::QmpError::generic(format_args!(
        "Invalid parameter type for '{name}[{index}]', expected: string"
    ))
    .into()
}

/// Which of several unexpected arguments is told: QEMU keeps them in GLib's hash table, whose
/// order follows from the string hash (djb2) and, for up to seven members, the prime 7.
fn bucket(name: &[u8]) -> u32 {
    let hash = name.iter().fold(5381_u32, |hash, &byte| {
        hash.wrapping_mul(33)
            .wrapping_add_signed(i32::from(byte as i8))
    });
    hash.wrapping_mul(11) % 7
}
