//! Drives, their media, and the nodes that these are.

use core::fmt::{self, Write as _};

use super::parse::is_space;
use super::table::{Command, Kind, Names, command, flag, optional, required};
use super::{Call, Done, Failed, Text};
use crate::error::Fail;
use crate::handlers::{self, Outcome};
use crate::owner::block::DriveName;
use crate::schema::results::{BlockDeviceInfo, BlockInfo, ImageInfo};
use crate::schema::{
    BlockDeviceIoStatus, BlockdevChangeReadOnlyMode, BlockdevDetectZeroesOptions, arguments,
};

pub(super) static COMMANDS: &[Command] = &[
    command(
        "block_resize",
        "device size",
        &[required(Kind::Drive), required(Kind::Size)],
        "change the length of a drive's image",
        block_resize,
    ),
    command(
        "block_set_io_throttle",
        "device bps bps_rd bps_wr iops iops_rd iops_wr",
        &[
            required(Kind::Drive),
            required(Kind::Int64),
            required(Kind::Int64),
            required(Kind::Int64),
            required(Kind::Int64),
            required(Kind::Int64),
            required(Kind::Int64),
        ],
        "set how fast a drive may be, in bytes and requests a second; 0: no limit",
        block_set_io_throttle,
    ),
    command(
        "change",
        "device [-f] filename [format [read-only-mode]]",
        &[
            required(Kind::Drive),
            flag(b'f'),
            required(Kind::File),
            optional(Kind::Text),
            optional(Kind::Text).of(Names::Words(&["read-only", "read-write", "retain"])),
        ],
        "put another medium into a drive\n-f: even if the guest has locked its tray",
        change,
    ),
    command(
        "drive_add",
        "[-n] [[<domain>:]<bus>:]<slot> [file=file][,if=type][,option=value][,...]",
        &[flag(b'n'), required(Kind::Text), required(Kind::Text)],
        "make a drive for a device that is still to come; what is said of a slot is ignored\n\
         -n: a block node instead",
        drive_add,
    ),
    command(
        "drive_del",
        "device",
        &[required(Kind::Drive)],
        "take a drive, or a block node, away",
        |call| {
            let name = call.arguments.text(0);
            said(call.context.owner.drive_del(name), &mut call.text)
        },
    ),
    command(
        "eject",
        "[-f] device",
        &[flag(b'f'), required(Kind::Drive)],
        "take the medium out of a drive\n-f: even if the guest has locked its tray",
        |call| {
            let arguments = arguments::Eject {
                device: Some(call.arguments.text(1)),
                id: None,
                force: Some(call.arguments.flag(0)),
            };
            handlers::eject(&mut call.context, arguments)?;
            Ok(Outcome::Done)
        },
    ),
    command(
        "qemu-io",
        "[-d] [device] \"[command]\"",
        &[flag(b'd'), required(Kind::Drive), required(Kind::Text)],
        "read and write a drive or a block node, with the commands of the program of that name; what\n\
         these show goes to the process' standard output ('help' lists them)\n\
         -d: the name is that of a device",
        qemu_io,
    ),
];

pub(super) static INFO: &[Command] = &[
    command(
        "block",
        "[-n] [-v] [device]",
        &[flag(b'n'), flag(b'v'), optional(Kind::Drive)],
        "show drives\n-n: block nodes instead\n-v: more of each",
        info_block,
    ),
    command(
        "blockstats",
        "",
        &[],
        "show what drives have done",
        info_blockstats,
    ),
];

/// What failed is said without any words before it.
fn said<'l>(result: Result<(), crate::QmpError>, text: &mut Text<'_>) -> Done<'l> {
    if let Err(error) = result {
        writeln!(text, "{error}")?;
    }
    Ok(Outcome::Done)
}

fn block_resize<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let arguments = arguments::BlockResize {
        device: Some(call.arguments.text(0)),
        node_name: None,
        size: call.arguments.int(1),
    };
    handlers::block_resize(&mut call.context, arguments)?;
    Ok(Outcome::Done)
}

fn block_set_io_throttle<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let given = &call.arguments;
    let name = given.text(0);
    let mut is_drive = false;
    call.context
        .owner
        .visit_drives(&mut |drive| is_drive |= drive.device.as_bytes() == name);
    let arguments = arguments::BlockIOThrottle {
        device: is_drive.then_some(name),
        id: (!is_drive).then_some(name),
        bps: given.int(1),
        bps_rd: given.int(2),
        bps_wr: given.int(3),
        iops: given.int(4),
        iops_rd: given.int(5),
        iops_wr: given.int(6),
        bps_max: None,
        bps_rd_max: None,
        bps_wr_max: None,
        iops_max: None,
        iops_rd_max: None,
        iops_wr_max: None,
        bps_max_length: None,
        bps_rd_max_length: None,
        bps_wr_max_length: None,
        iops_max_length: None,
        iops_rd_max_length: None,
        iops_wr_max_length: None,
        iops_size: None,
        group: None,
    };
    handlers::block_set_io_throttle(&mut call.context, arguments)?;
    Ok(Outcome::Done)
}

fn change<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let given = &call.arguments;
    let mode = given.optional_text(4).map(|name| {
        let all = BlockdevChangeReadOnlyMode::ALL.iter().copied();
        let mut known = all.filter(|known| known.name().as_bytes() == name);
        let wrong: [&[u8]; 2] = [b"invalid parameter value: ", name];
        known.next().ok_or_else(|| Fail::generic(&wrong))
    });
    let arguments = arguments::BlockdevChangeMedium {
        device: Some(given.text(0)),
        id: None,
        filename: given.text(2),
        format: given.optional_text(3),
        read_only_mode: mode.transpose()?,
        force: Some(given.flag(1)),
    };
    handlers::blockdev_change_medium(&mut call.context, arguments)?;
    Ok(Outcome::Done)
}

fn drive_add<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let (node, options) = (call.arguments.flag(0), call.arguments.text(2));
    let owner = &mut *call.context.owner;
    if node {
        return said(owner.node_add(options), &mut call.text);
    }
    match owner.drive_add(options) {
        Ok(()) => writeln!(call.text, "OK")?,
        Err(error) => writeln!(call.text, "{error}")?,
    }
    Ok(Outcome::Done)
}

fn qemu_io<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let (name, words) = (call.arguments.text(1), call.arguments.text(2));
    let drive = match call.arguments.flag(0) {
        true => DriveName::Device(name),
        false => DriveName::Drive(name),
    };
    let Call { context, text, .. } = call;
    context.owner.storage_command(drive, words, text)?;
    Ok(Outcome::Done)
}

fn info_blockstats<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let Call { context, text, .. } = call;
    let mut written = Ok(());
    context.owner.visit_block_stats(false, &mut |drive| {
        let stats = &drive.stats;
        let line = [
            ("rd_bytes", stats.rd_bytes),
            ("wr_bytes", stats.wr_bytes),
            ("rd_operations", stats.rd_operations),
            ("wr_operations", stats.wr_operations),
            ("flush_operations", stats.flush_operations),
            ("wr_total_time_ns", stats.wr_total_time_ns),
            ("rd_total_time_ns", stats.rd_total_time_ns),
            ("flush_total_time_ns", stats.flush_total_time_ns),
            ("rd_merged", stats.rd_merged),
            ("wr_merged", stats.wr_merged),
            ("idle_time_ns", stats.idle_time_ns.unwrap_or(0)),
        ];
        if written.is_ok() {
            written = numbers(drive.device.unwrap_or_default(), &line, text);
        }
    });
    written?;
    Ok(Outcome::Done)
}

fn numbers(name: &str, line: &[(&str, i64)], text: &mut Text<'_>) -> fmt::Result {
    write!(text, "{name}:")?;
    for (name, number) in line {
        write!(text, " {name}={number}")?;
    }
    writeln!(text)
}

/// A list of drives or nodes that is being written.
struct Listing<'t, 's> {
    /// The only one that is wanted.
    wanted: Option<&'t [u8]>,
    verbose: bool,
    /// None has been visited.
    first: bool,
    /// One has been written.
    any: bool,
    written: fmt::Result,
    text: &'t mut Text<'s>,
}

impl Listing<'_, '_> {
    fn show(
        &mut self,
        name: &str,
        drive: Option<&BlockInfo<'_>>,
        node: Option<&BlockDeviceInfo<'_>>,
    ) {
        let is_first = core::mem::take(&mut self.first);
        let wanted = self.wanted.is_none_or(|wanted| wanted == name.as_bytes());
        if !wanted || self.written.is_err() {
            return;
        }
        self.any = true;
        self.written = match is_first {
            true => Ok(()),
            // Even if none before it was wanted.
            false => writeln!(self.text),
        }
        .and_then(|()| one(drive, node, self.verbose, self.text));
    }
}

fn info_block<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let (nodes, wanted) = (call.arguments.flag(0), call.arguments.optional_text(2));
    let mut list = Listing {
        wanted,
        verbose: call.arguments.flag(1),
        first: true,
        any: false,
        written: Ok(()),
        text: &mut call.text,
    };
    let owner = &*call.context.owner;
    if !nodes {
        owner.visit_drives(&mut |drive| {
            list.show(drive.device, Some(drive), drive.inserted.as_ref());
        });
    }
    if nodes || (wanted.is_some() && !list.any) {
        list.first = true;
        owner.visit_block_nodes(false, &mut |node| {
            list.show(node.node_name.unwrap_or_default(), None, Some(node));
        });
    }
    list.written?;
    Ok(Outcome::Done)
}

/// A drive, or a node.
fn one(
    drive: Option<&BlockInfo<'_>>,
    node: Option<&BlockDeviceInfo<'_>>,
    verbose: bool,
    text: &mut Text<'_>,
) -> fmt::Result {
    let node_name = node.and_then(|node| node.node_name);
    match drive
        .map(|drive| drive.device)
        .filter(|name| !name.is_empty())
    {
        Some(name) => {
            text.write_str(name)?;
            if let Some(node) = node_name {
                write!(text, " ({node})")?;
            }
        }
        None => {
            let device = drive.and_then(|drive| drive.qdev);
            text.write_str(node_name.or(device).unwrap_or("<anonymous>"))?;
        }
    }
    match node {
        Some(node) => {
            let read_only = if node.ro { ", read-only" } else { "" };
            writeln!(text, ": {} ({}{read_only})", node.file, node.drv)?;
        }
        None => writeln!(text, ": [not inserted]")?,
    }
    if let Some(drive) = drive {
        if let Some(device) = drive.qdev {
            writeln!(text, "    Attached to:      {device}")?;
        }
        if let Some(status) = drive.io_status
            && status != BlockDeviceIoStatus::Ok
        {
            writeln!(text, "    I/O status:       {}", status.name())?;
        }
        if drive.removable {
            let locked = if drive.locked { "" } else { "not " };
            let tray = match drive.tray_open {
                Some(true) => "open",
                _ => "closed",
            };
            writeln!(text, "    Removable device: {locked}locked, tray {tray}")?;
        }
    }
    let Some(node) = node else {
        return Ok(());
    };
    let cache = &node.cache;
    let mode = match cache.writeback {
        true => "writeback",
        false => "writethrough",
    };
    let direct = if cache.direct { ", direct" } else { "" };
    let flushes = match cache.no_flush {
        true => ", ignore flushes",
        false => "",
    };
    writeln!(text, "    Cache mode:       {mode}{direct}{flushes}")?;
    if let Some(below) = node.backing_file {
        let depth = node.backing_file_depth;
        writeln!(text, "    Backing file:     {below} (chain depth: {depth})")?;
    }
    if node.detect_zeroes != BlockdevDetectZeroesOptions::Off {
        let how = node.detect_zeroes.name();
        writeln!(text, "    Detect zeroes:    {how}")?;
    }
    limits(node, text)?;
    if verbose {
        text.write_str("\nImages:\n")?;
        let mut image = Some(node.image);
        while let Some(this) = image {
            show_image(this, text)?;
            image = this.backing_image;
        }
    }
    Ok(())
}

fn limits(node: &BlockDeviceInfo<'_>, text: &mut Text<'_>) -> fmt::Result {
    let most = |value: Option<i64>| value.unwrap_or(0);
    let all = [
        ("bps", node.bps),
        ("bps_rd", node.bps_rd),
        ("bps_wr", node.bps_wr),
        ("bps_max", most(node.bps_max)),
        ("bps_rd_max", most(node.bps_rd_max)),
        ("bps_wr_max", most(node.bps_wr_max)),
        ("iops", node.iops),
        ("iops_rd", node.iops_rd),
        ("iops_wr", node.iops_wr),
        ("iops_max", most(node.iops_max)),
        ("iops_rd_max", most(node.iops_rd_max)),
        ("iops_wr_max", most(node.iops_wr_max)),
        ("iops_size", most(node.iops_size)),
    ];
    if all.iter().all(|(_, value)| *value == 0) {
        return Ok(());
    }
    text.write_str("    I/O throttling:  ")?;
    for (name, value) in all {
        write!(text, " {name}={value}")?;
    }
    writeln!(text, " group={}", node.group.unwrap_or_default())
}

fn show_image(image: &ImageInfo<'_>, text: &mut Text<'_>) -> fmt::Result {
    writeln!(text, "image: {}", image.filename)?;
    writeln!(text, "file format: {}", image.format)?;
    let bytes = image.virtual_size;
    text.write_str("virtual size: ")?;
    write_size(bytes as u64, text)?;
    write!(text, " ({bytes} bytes)\ndisk size: ")?;
    match image.actual_size {
        Some(bytes) => write_size(bytes as u64, text)?,
        None => text.write_str("unavailable")?,
    }
    writeln!(text)?;
    if image.dirty_flag == Some(true) {
        writeln!(text, "cleanly shut down: no")?;
    }
    if let Some(below) = image.backing_filename {
        writeln!(text, "backing file: {below}")?;
    }
    Ok(())
}

/// Bytes as people read them: three digits, and the unit that makes them a number below 1000.
///
/// # Errors
/// The writer's.
pub fn write_size(bytes: u64, out: &mut dyn fmt::Write) -> fmt::Result {
    const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let mut unit = 0;
    while unit + 1 < UNITS.len() && u128::from(bytes) >= 1000 << (10 * unit) {
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    let whole = u128::from(bytes) >> (10 * unit);
    // Digits behind the point, so that there are three that count.
    let mut digits: u32 = match whole {
        0 if bytes > 0 => 3,
        0..10 => 2,
        10..100 => 1,
        _ => 0,
    };
    let scale = 1_u128 << (10 * unit);
    let scaled = u128::from(bytes) * 10_u128.pow(digits);
    // A half goes to the even neighbour.
    let (down, rest) = (scaled / scale, scaled % scale);
    let up = rest * 2 > scale || (rest * 2 == scale && down % 2 == 1);
    let mut value = down + u128::from(up);
    if value >= 1000 {
        // As the language of the formats that scripts read writes what has more digits.
        return match digits {
            0 => write!(out, "1e+03 {name}B"),
            _ => write!(out, "{} {name}B", value / 10_u128.pow(digits)),
        };
    }
    while digits > 0 && value % 10 == 0 {
        (value, digits) = (value / 10, digits - 1);
    }
    let power = 10_u128.pow(digits);
    match digits {
        0 => write!(out, "{value} {name}B"),
        _ => write!(
            out,
            "{}.{:0width$} {name}B",
            value / power,
            value % power,
            width = digits as usize
        ),
    }
}

/// Takes a size from the beginning of a text: a number, with a fraction if it likes, and a unit from bytes to exabytes; MiB
/// where there is none. Returns it, below 2^63, and what stands behind.
pub(super) fn size(text: &[u8]) -> Option<(i64, &[u8])> {
    let (digits, rest) = super::parse::split(text, |byte| !byte.is_ascii_digit());
    let number = |digits: &[u8], radix: u64| {
        digits.iter().try_fold(0_u64, |sum, digit| {
            let digit = char::from(*digit).to_digit(16)?;
            sum.checked_mul(radix)?.checked_add(u64::from(digit))
        })
    };
    if digits == b"0"
        && let [b'x' | b'X', rest @ ..] = rest
    {
        // Its letters leave no room for units.
        let (digits, rest) = super::parse::split(rest, |byte| !byte.is_ascii_hexdigit());
        let value = number(digits, 16).filter(|_| !digits.is_empty())?;
        return in_units(value, (0, 1), rest);
    }
    let value = number(digits, 10).filter(|_| !digits.is_empty())?;
    let (mut fraction, mut rest) = ((0, 1), rest);
    if let [b'.', behind @ ..] = rest {
        let (digits, after) = super::parse::split(behind, |byte| !byte.is_ascii_digit());
        let digits = digits.get(..digits.len().min(18)).unwrap_or_default();
        fraction = (number(digits, 10)?, 10_u64.pow(digits.len() as u32));
        rest = after;
    }
    in_units(value, fraction, rest)
}

fn in_units(value: u64, fraction: (u64, u64), rest: &[u8]) -> Option<(i64, &[u8])> {
    let unit = rest.first().map(u8::to_ascii_lowercase);
    let place = unit.and_then(|unit| b"bkmgtpe".iter().position(|known| *known == unit));
    let (place, rest) = match place {
        Some(place) => (place, rest.get(1..)?),
        // Not a word that goes on.
        None if rest.first().is_none_or(|byte| is_space(*byte)) => (2, rest),
        None => return None,
    };
    let unit = 1_u128 << (10 * place);
    let part = u128::from(fraction.0) * unit / u128::from(fraction.1);
    let whole = u128::from(value).checked_mul(unit)?.checked_add(part)?;
    Some((i64::try_from(whole).ok()?, rest))
}

impl From<crate::owner::block::Unheard> for Failed<'_> {
    fn from(unheard: crate::owner::block::Unheard) -> Self {
        match unheard {
            crate::owner::block::Unheard::Refused(error) => error.into(),
            crate::owner::block::Unheard::Full => Self::Full,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;

    fn shown(bytes: u64) -> String {
        let mut text = String::new();
        write_size(bytes, &mut text).unwrap();
        text
    }

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1, "1 B"),
            (999, "999 B"),
            (1000, "0.977 KiB"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (200_704, "196 KiB"),
            (1 << 20, "1 MiB"),
            (1_000_000, "977 KiB"),
            ((1 << 20) - 1, "1 MiB"),
            (999 << 10 | 600, "1e+03 KiB"),
            (10 << 20 | 1 << 19, "10.5 MiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(shown(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn sizes_are_read() {
        assert_eq!(size(b"4096 x"), Some((4096 << 20, b" x".as_slice())));
        assert_eq!(size(b"4k"), Some((4096, b"".as_slice())));
        assert_eq!(size(b"1.5G"), Some((3 << 29, b"".as_slice())));
        assert_eq!(size(b"0x10"), Some((16 << 20, b"".as_slice())));
        assert_eq!(size(b"7b"), Some((7, b"".as_slice())));
        for wrong in [
            &b"-1"[..],
            b"",
            b"x",
            b"8E",
            b"99999999999999999999",
            b"4x",
            b"0x",
        ] {
            assert_eq!(size(wrong), None, "{wrong:?}");
        }
    }
}
