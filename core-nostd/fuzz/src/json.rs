//! JSON of all kinds from the fuzzer's bytes: what raw bytes seldom are is nested and correct.

use crate::Source;

/// Levels of a value made here.
const DEPTH: usize = 12;
/// Members or elements of one level.
const WIDTH: u8 = 9;

/// Appends a value: mostly correct, in QMP's dialect or in plain JSON.
pub fn value(source: &mut Source<'_>, out: &mut Vec<u8>) {
    nested(source, out, DEPTH);
}

fn nested(source: &mut Source<'_>, out: &mut Vec<u8>, depth: usize) {
    let choice = source.byte();
    match choice & 0x1f {
        0..=5 if depth > 0 => {
            out.push(b'{');
            for index in 0..source.byte() % WIDTH {
                separate(source, out, index);
                // Few names, so that some occur twice.
                match source.byte() {
                    letter @ 0..=0xdf => out.extend([b'"', b'a' + letter % 24, b'"']),
                    _ => string(source, out),
                }
                out.push(b':');
                nested(source, out, depth - 1);
            }
            out.push(b'}');
        }
        6..=10 if depth > 0 => {
            out.push(b'[');
            for index in 0..source.byte() % WIDTH {
                separate(source, out, index);
                nested(source, out, depth - 1);
            }
            out.push(b']');
        }
        0..=13 => string(source, out),
        14 => out.extend(b"null"),
        15 => out.extend(b"true"),
        16 => out.extend(b"false"),
        17..=19 => out.extend((source.byte() as i8).to_string().into_bytes()),
        20 => out.extend((source.number(8) as i64).to_string().into_bytes()),
        21 => out.extend(source.number(8).to_string().into_bytes()),
        22 => float(source, out),
        23 => out.extend(
            [i64::MIN, i64::MAX, 0][usize::from(source.byte() % 3)]
                .to_string()
                .bytes(),
        ),
        24 => out.extend(
            [&b"18446744073709551616"[..], b"-0", b"-9223372036854775809"]
                [usize::from(source.byte() % 3)],
        ),
        25 => digits(source, out),
        // Seldom something that is no JSON.
        26 if choice > 0xe0 => {
            let count = source.byte() % 5;
            out.extend((0..count).map(|_| source.byte()));
        }
        _ => out.push(b'0' + source.byte() % 10),
    }
}

/// A comma, and white space.
fn separate(source: &mut Source<'_>, out: &mut Vec<u8>, index: u8) {
    if index > 0 {
        out.push(b',');
    }
    match source.byte() {
        space @ 0..=3 => out.push(b" \t\r\n"[usize::from(space)]),
        0xfe => out.push(b','),
        _ => {}
    }
}

/// A double, written in one of several ways.
fn float(source: &mut Source<'_>, out: &mut Vec<u8>) {
    let way = source.byte();
    let value = f64::from_bits(source.number(8));
    let value = if value.is_finite() { value } else { 1e300 };
    let text = match way % 3 {
        0 => format!("{value:e}"),
        1 => format!("{value:.3E}"),
        _ => format!("{:.4}", value % 1e9),
    };
    out.extend(text.into_bytes());
}

/// A number by its characters.
fn digits(source: &mut Source<'_>, out: &mut Vec<u8>) {
    const PARTS: [&[u8]; 16] = [
        b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8", b"9", b".", b"e", b"-", b"e-", b"E+",
        b"000",
    ];
    for _ in 0..=source.byte() % 24 {
        out.extend(PARTS[usize::from(source.byte() % 16)]);
    }
}

/// A string, quoted in either way, with escapes and bytes as they come.
pub fn string(source: &mut Source<'_>, out: &mut Vec<u8>) {
    const ESCAPES: &[u8] = b"\"'\\/bfnrtx";
    let shape = source.byte();
    let quote = if shape & 0xf0 == 0xf0 { b'\'' } else { b'"' };
    out.push(quote);
    for _ in 0..shape % 12 {
        match source.byte() {
            plain @ 0..=0x7e => out.push(match plain.max(b' ') {
                b'"' | b'\'' | b'\\' => b'_',
                other => other,
            }),
            0x7f..=0xaf => {
                let code = source.number(3) as u32;
                let c = char::from_u32(code % 0x11_0000).unwrap_or('\u{e4}');
                match c {
                    '"' | '\'' | '\\' => {}
                    c => out.extend(c.to_string().into_bytes()),
                }
            }
            0xb0..=0xcf => {
                out.push(b'\\');
                out.push(ESCAPES[usize::from(source.byte()) % ESCAPES.len()]);
            }
            0xd0..=0xe7 => out.extend(format!("\\u{:04x}", source.number(2)).into_bytes()),
            0xe8..=0xf7 => {
                let (high, low) = (source.number(2) & 0x3ff, source.number(2) & 0x3ff);
                out.extend(format!("\\ud{:03X}\\ud{:03x}", 0x800 | high, 0xc00 | low).into_bytes());
            }
            0xf8..=0xfb => out.extend([0xc0, 0x80]),
            _ => out.push(source.byte()),
        }
    }
    out.push(quote);
}
