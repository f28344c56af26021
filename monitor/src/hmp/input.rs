//! Keys, buttons and movements.

use core::fmt::Write as _;

use thimble_core::devices::input::{InputAxis, InputButton, InputEvent, QKeyCode};

use super::table::{Command, Kind, Names, command, optional, required};
use super::{Call, Done};
use crate::error::Fail;
use crate::handlers::{self, KEYBOARD, Keys, MOUSE, Outcome};

pub(super) static COMMANDS: &[Command] = &[
    command(
        "mouse_button",
        "state",
        &[required(Kind::Int32)],
        "hold these buttons of the mouse down, and no others (1: left, 2: right, 4: middle)",
        mouse_button,
    ),
    command(
        "mouse_move",
        "dx dy [dz]",
        &[
            required(Kind::Text),
            required(Kind::Text),
            optional(Kind::Text),
        ],
        "move the mouse to the right and down (dz: turn its wheel away from the user, or towards the user if negative)",
        mouse_move,
    ),
    command(
        "mouse_set",
        "index",
        &[required(Kind::Int32)],
        "choose the mouse that is moved (see 'info mice')",
        mouse_set,
    ),
    command(
        "sendkey",
        "keys [hold_ms]",
        &[required(Kind::Text).of(Names::Keys), optional(Kind::Int32)],
        "type keys together, such as 'ctrl-alt-f1' or '0x1e' (hold_ms: milliseconds after each, 10 if 0 or missing)",
        sendkey,
    ),
];

pub(super) static INFO: &[Command] = &[command(
    "mice",
    "",
    &[],
    "show which mice there are, and which is moved",
    info_mice,
)];

fn info_mice<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let (index, name) = MOUSE;
    match handlers::has_keyboard(call.context.owner) {
        true => writeln!(call.text, "* Mouse #{index}: {name}")?,
        false => writeln!(call.text, "No mouse devices connected")?,
    }
    Ok(Outcome::Done)
}

fn mouse_set<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    // QEMU's number has a sign.
    let index = i64::from(call.arguments.int(0) as i32);
    let there = handlers::has_keyboard(call.context.owner);
    if there && index == KEYBOARD.0 {
        writeln!(call.text, "Input device '{}' is not a mouse", KEYBOARD.1)?;
    } else if !there || index != MOUSE.0 {
        writeln!(call.text, "Mouse at index '{index}' not found")?;
    }
    Ok(Outcome::Done)
}

fn mouse_button<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let buttons = call.arguments.int(0) as u8 & 7;
    handlers::hold_buttons(call.context.owner, buttons);
    Ok(Outcome::Done)
}

fn mouse_move<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let [x, y, z] = [0, 1, 2].map(|place| number(call.arguments.text(place)));
    let moved =
        [(InputAxis::X, x), (InputAxis::Y, y)].map(|(axis, by)| InputEvent::Move { axis, by });
    let button = match z {
        0 => {
            handlers::do_input(call.context.owner, &moved);
            return Ok(Outcome::Done);
        }
        1.. => InputButton::WheelUp,
        _ => InputButton::WheelDown,
    };
    let [turn, release] = [true, false].map(|down| InputEvent::Button { button, down });
    handlers::do_input(call.context.owner, &[moved[0], moved[1], turn]);
    handlers::do_input(call.context.owner, &[release]);
    Ok(Outcome::Done)
}

/// A number as C's `strtol` reads it, cut to 32 bits: what follows it, and what is none at all, does not matter.
fn number(text: &[u8]) -> i32 {
    let (negative, text) = match text {
        [b'-', text @ ..] => (true, text),
        [b'+', text @ ..] => (false, text),
        _ => (false, text),
    };
    let (radix, digits) = match text {
        [b'0', b'x' | b'X', digits @ ..] => (16, digits),
        [b'0', digits @ ..] => (8, digits),
        _ => (10, text),
    };
    let digits = digits
        .iter()
        .map_while(|byte| char::from(*byte).to_digit(radix));
    let value = digits.fold(0_i64, |value, digit| {
        let value = value.checked_mul(radix.into());
        let digit = i64::from(digit);
        let value = value.and_then(|value| match negative {
            true => value.checked_sub(digit),
            false => value.checked_add(digit),
        });
        value.unwrap_or(if negative { i64::MIN } else { i64::MAX })
    });
    value as i32
}

fn sendkey<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let text = call.arguments.text(0);
    let mut keys = Keys::new();
    for name in text.split(|byte| *byte == b'-') {
        let Some(key) = key(name) else {
            call.text.pieces(&[b"invalid parameter: ", name, b"\n"])?;
            return Ok(Outcome::Done);
        };
        keys.push(key)
            .map_err(|_| Fail::generic(&[b"more keys than can be typed"]))?;
    }
    let hold_time = call.arguments.optional_int(1);
    handlers::type_keys(call.context.owner, keys.iter().copied(), hold_time)?;
    Ok(Outcome::Done)
}

/// A key by its name, or by its number behind `0x`.
fn key(name: &[u8]) -> Option<QKeyCode> {
    let Some(digits) = name.strip_prefix(b"0x") else {
        return QKeyCode::from_name(if name == b"<" { b"less" } else { name });
    };
    if digits.is_empty() {
        return None;
    }
    let number = digits.iter().try_fold(0_i64, |number, byte| {
        let digit = char::from(*byte).to_digit(16)?;
        Some(number.saturating_mul(16).saturating_add(digit.into()))
    })?;
    Some(QKeyCode::from_number(number))
}
