//! Drives for CDs: all packets, by the data port and by the bus master, with and without a medium, and what happens to the tray.

use qemu_tests::{packages, skip};
use serde_json::json;

use super::ide::{DATA, LAST, MASTER, SECOND, TABLE, bring_up, registers, settle, settle_dma};
use super::{Script, Step, dice, image};

/// A drive with a medium, as the second channel's first one, and one without beside it.
const ARGS: &str = "-M pc -m 16 -drive if=none,id=c,file={dir}/disk.img,format=raw,media=cdrom,readonly=on \
    -device ide-cd,drive=c,bus=ide.1,unit=0,id=full -device ide-cd,bus=ide.1,unit=1,id=empty";

/// Blocks of the medium.
const BLOCKS: u32 = 40;

const FULL: u8 = 0xa0;
const EMPTY: u8 = 0xb0;

/// The command PACKET, and a packet; `limit` is how many bytes the guest takes at a time.
fn packet(script: &mut Script, device: u8, feature: u8, limit: u16, bytes: &[u8]) {
    let [low, high] = limit.to_le_bytes();
    for (register, value) in [
        (6, device),
        (1, feature),
        (2, 0),
        (3, 0),
        (4, low),
        (5, high),
        (7, 0xa0),
    ] {
        script.outb(SECOND + register, value);
    }
    settle(script, SECOND);
    registers(script, SECOND);
    let mut whole = [0; 12];
    whole[..bytes.len()].copy_from_slice(bytes);
    for word in whole.chunks(2) {
        script.outw(SECOND, u16::from_le_bytes([word[0], word[1]]));
    }
    if feature & 1 == 0 {
        settle(script, SECOND);
    } else {
        // The drive stays busy until the bus master is started.
        script.inb(SECOND + 0x206);
    }
}

/// A packet whose data go by the data port.
fn ask(script: &mut Script, device: u8, limit: u16, bytes: &[u8]) {
    packet(script, device, 0, limit, bytes);
    script.steps.push(Step::Drain(SECOND));
}

/// Why the last packet has failed.
fn sense(script: &mut Script, device: u8) {
    ask(script, device, 0xfffe, &[0x03, 0, 0, 0, 18]);
}

fn ready() -> bool {
    let found = packages::qemu().is_some();
    if !found {
        skip("qemu-system-x86 is missing");
    }
    found
}

fn script() -> Script {
    let mut script = Script::new(ARGS, image(BLOCKS as usize * 2048));
    bring_up(&mut script);
    script
}

/// Packets, none with an answer of an odd length: QEMU's drives have no end of those. They are asked of each drive, with what they have for data.
const PACKETS: &[(&str, &[u8])] = &[
    ("ready", &[0x00]),
    ("sense", &[0x03, 0, 0, 0, 18]),
    ("sense, short", &[0x03, 0, 0, 0, 6]),
    ("sense, nothing", &[0x03]),
    ("inquiry", &[0x12, 0, 0, 0, 36]),
    ("inquiry, long", &[0x12, 0, 0, 0, 255]),
    ("inquiry, short", &[0x12, 0, 0, 0, 8]),
    ("inquiry, pages", &[0x12, 1, 0, 0, 64]),
    ("inquiry, identity", &[0x12, 1, 0x83, 0, 255]),
    ("inquiry, identity, short", &[0x12, 1, 0x83, 0, 20]),
    ("inquiry, serial number", &[0x12, 1, 0x80, 0, 64]),
    ("inquiry, page without its flag", &[0x12, 0, 0x83, 0, 64]),
    ("capacity", &[0x25]),
    ("seek", &[0x2b, 0, 0, 0, 0, 39]),
    ("seek, behind the end", &[0x2b, 0, 0, 0, 0, 40]),
    ("contents", &[0x43, 0, 0, 0, 0, 0, 0, 3, 0x24]),
    ("contents, minutes", &[0x43, 2, 0, 0, 0, 0, 0, 3, 0x24]),
    ("contents, track 1", &[0x43, 0, 0, 0, 0, 0, 1, 0, 12]),
    ("contents, track 2", &[0x43, 0, 0, 0, 0, 0, 2, 0, 12]),
    ("contents, lead-out", &[0x43, 2, 0, 0, 0, 0, 0xaa, 0, 100]),
    ("contents, sessions", &[0x43, 0, 0, 0, 0, 0, 0, 0, 12, 0x40]),
    ("contents, all", &[0x43, 0, 0, 0, 0, 0, 0, 0, 64, 0x80]),
    (
        "contents, all, minutes",
        &[0x43, 2, 0, 0, 0, 0, 0, 0, 64, 0x80],
    ),
    (
        "contents, other format",
        &[0x43, 0, 0, 0, 0, 0, 0, 0, 64, 0xc0],
    ),
    ("configuration", &[0x46, 0, 0, 0, 0, 0, 0, 0, 64]),
    ("configuration, one", &[0x46, 2, 0, 0, 0, 0, 0, 0, 8]),
    ("configuration, from 1", &[0x46, 0, 0, 1, 0, 0, 0, 0, 64]),
    ("configuration, from 256", &[0x46, 0, 1, 0, 0, 0, 0, 0, 64]),
    ("events, none asked for", &[0x4a, 1, 0, 0, 0, 0, 0, 0, 8]),
    ("events", &[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8]),
    ("events, all", &[0x4a, 1, 0, 0, 0xff, 0, 0, 0, 32]),
    ("events, short", &[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 4]),
    ("events, later", &[0x4a, 0, 0, 0, 0x10, 0, 0, 0, 8]),
    ("disc", &[0x51, 0, 0, 0, 0, 0, 0, 0, 34]),
    ("disc, long", &[0x51, 0, 0, 0, 0, 0, 0, 1, 0]),
    ("disc, tracks", &[0x51, 1, 0, 0, 0, 0, 0, 0, 34]),
    ("mode, errors", &[0x5a, 0, 0x01, 0, 0, 0, 0, 0, 64]),
    ("mode, capabilities", &[0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 64]),
    ("mode, all", &[0x5a, 0, 0x3f, 0, 0, 0, 0, 0, 64]),
    ("mode, changeable", &[0x5a, 0, 0x6a, 0, 0, 0, 0, 0, 64]),
    ("mode, default", &[0x5a, 0, 0xaa, 0, 0, 0, 0, 0, 64]),
    ("mode, saved", &[0x5a, 0, 0xea, 0, 0, 0, 0, 0, 64]),
    ("speed", &[0xbb, 0, 0xff, 0xff]),
    ("mechanism", &[0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8]),
    ("structure, formats", &[0xad, 0, 0, 0, 0, 0, 0, 0xff, 0, 32]),
    ("structure, physical", &[0xad, 0, 0, 0, 0, 0, 0, 0, 8, 4]),
    (
        "structure, of another medium",
        &[0xad, 1, 0, 0, 0, 0, 0, 0xff, 0, 32],
    ),
    ("read", &[0x28, 0, 0, 0, 0, 3, 0, 0, 1]),
    ("read, nothing", &[0x28, 0, 0, 0, 0, 3, 0, 0, 0]),
    ("read, the last", &[0x28, 0, 0, 0, 0, 39, 0, 0, 1]),
    ("read, behind the end", &[0x28, 0, 0, 0, 0, 39, 0, 0, 2]),
    (
        "read, far",
        &[0x28, 0, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff],
    ),
    ("read, 12 bytes", &[0xa8, 0, 0, 0, 0, 5, 0, 0, 0, 2]),
    (
        "read, 12 bytes, far",
        &[0xa8, 0, 0, 0, 0, 5, 0, 0xff, 0xff, 0xff],
    ),
    ("read CD", &[0xbe, 0, 0, 0, 0, 6, 0, 0, 1, 0x10]),
    ("read CD, raw", &[0xbe, 0, 0, 0, 0, 6, 0, 0, 1, 0xf8]),
    ("read CD, no data", &[0xbe, 0, 0, 0, 0, 6, 0, 0, 1, 0]),
    ("read CD, no blocks", &[0xbe, 0, 0, 0, 0, 6, 0, 0, 0, 0x10]),
    ("read CD, other data", &[0xbe, 0, 0, 0, 0, 6, 0, 0, 1, 0x20]),
    ("lock", &[0x1e, 0, 0, 0, 1]),
    ("open, locked", &[0x1b, 0, 0, 0, 2]),
    ("close, locked", &[0x1b, 0, 0, 0, 3]),
    ("unlock", &[0x1e, 0, 0, 0, 0]),
    ("spin", &[0x1b, 0, 0, 0, 1]),
    ("sleep", &[0x1b, 0, 0, 0, 0x30]),
    ("open", &[0x1b, 0, 0, 0, 2]),
    ("ready, open", &[0x00]),
    ("configuration, open", &[0x46, 0, 0, 0, 0, 0, 0, 0, 64]),
    ("events, open", &[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8]),
    ("read, open", &[0x28, 0, 0, 0, 0, 3, 0, 0, 1]),
    ("close", &[0x1b, 0, 0, 0, 3]),
    ("ready, closed", &[0x00]),
    ("sense, closed", &[0x03, 0, 0, 0, 18]),
    ("events, closed", &[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8]),
    ("ready, again", &[0x00]),
];

#[test]
fn packets() {
    if !ready() {
        return;
    }
    let mut script = script();
    let s = &mut script;
    s.part("power-on");
    registers(s, SECOND);
    for (name, device) in [("medium", FULL), ("none", EMPTY)] {
        s.outb(SECOND + 6, device);
        s.part(format!("{name}: identify"));
        for code in [0xa1, 0xec, 0x20, 0xe7, 0x90, 0x08, 0xe5, 0xef] {
            s.outb(SECOND + 7, code);
            settle(s, SECOND);
            if code == 0xa1 {
                for _ in 0..128 {
                    s.inl(SECOND);
                }
            }
            registers(s, SECOND);
            s.outb(SECOND + 6, device);
        }
        for (what, bytes) in PACKETS {
            s.part(format!("{name}: {what}"));
            ask(s, device, 2048, bytes);
            s.part(format!("{name}: {what}, then"));
            sense(s, device);
        }
    }
    script.compare("disk-registers/atapi");
}

/// Every operation code, once with room for data and once without.
#[test]
fn every_packet() {
    if !ready() {
        return;
    }
    let mut script = script();
    let s = &mut script;
    for (name, device) in [("medium", FULL), ("none", EMPTY)] {
        for code in 0..=255 {
            s.part(format!("{name}: {code:#x}"));
            ask(s, device, 2048, &[code, 0, 0, 0, 0, 1, 0, 0, 2, 0x10]);
            sense(s, device);
            s.part(format!("{name}: {code:#x}, no room"));
            packet(s, device, 0, 0, &[code, 0, 0, 0, 0, 1, 0, 0, 2, 0x10]);
            registers(s, SECOND);
            s.outb(SECOND + 0x206, 4);
            settle(s, SECOND);
            s.outb(SECOND + 0x206, 0);
            settle(s, SECOND);
        }
    }
    script.compare("disk-registers/atapi-packets");
}

/// Data in pieces of all sizes, and what a guest must not ask for.
#[test]
fn pieces_of_data() {
    if !ready() {
        return;
    }
    let mut script = script();
    let s = &mut script;
    for limit in [4, 11, 12, 64, 2047, 2048, 2050, 4096] {
        s.part(format!("at most {limit}"));
        ask(s, FULL, limit, &[0x12, 0, 0, 0, 36]);
        ask(s, FULL, limit, &[0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 26]);
        if limit >= 64 && (limit < 2048 || limit % 2048 == 0) {
            ask(s, FULL, limit, &[0x28, 0, 0, 0, 0, 8, 0, 0, 2]);
        }
    }
    for feature in [2, 3] {
        s.part(format!("feature {feature}"));
        s.outb(SECOND + 6, FULL);
        s.outb(SECOND + 1, feature);
        s.outb(SECOND + 7, 0xa0);
        settle(s, SECOND);
        registers(s, SECOND);
    }
    s.part("a reset between packet and data");
    packet(s, FULL, 0, 2048, &[0x28, 0, 0, 0, 0, 8, 0, 0, 2]);
    s.inl(SECOND);
    s.outb(SECOND + 7, 0x08);
    settle(s, SECOND);
    registers(s, SECOND);
    sense(s, FULL);
    script.compare("disk-registers/atapi-pieces");
}

#[test]
fn packets_by_the_bus_master() {
    if !ready() {
        return;
    }
    let mut script = script();
    let s = &mut script;
    let data = DATA as u32;
    let tables: &[(&str, &[(u32, u32)])] = &[
        ("enough", &[(data, LAST | 0x2000)]),
        ("exact", &[(data, LAST | 4096)]),
        ("short", &[(data, LAST | 2048)]),
        (
            "in pieces",
            &[
                (data, 1000),
                (data + 2000, 3000),
                (data + 6000, LAST | 5000),
            ],
        ),
    ];
    for (name, regions) in tables {
        let bytes: Vec<u8> = regions
            .iter()
            .flat_map(|(address, control)| [address.to_le_bytes(), control.to_le_bytes()].concat())
            .collect();
        s.write(TABLE.into(), &bytes);
        for (what, bytes) in [
            ("read", &[0x28, 0, 0, 0, 0, 8, 0, 0, 2][..]),
            ("read CD, raw", &[0xbe, 0, 0, 0, 0, 6, 0, 0, 1, 0xf8]),
            ("read, behind the end", &[0x28, 0, 0, 0, 0, 39, 0, 0, 2]),
            ("inquiry", &[0x12, 0, 0, 0, 36]),
        ] {
            s.part(format!("{name}, {what}"));
            s.fill(DATA, 0x3000, 0xee);
            s.outb(MASTER + 8 + 2, 0x66);
            packet(s, FULL, 1, 0, bytes);
            s.outl(MASTER + 8 + 4, TABLE);
            s.outb(MASTER + 8, 9);
            settle_dma(s, SECOND);
            registers(s, SECOND);
            s.inb(MASTER + 8 + 2);
            s.outb(MASTER + 8, 0);
            s.inb(MASTER + 8 + 2);
            if *name != "short" {
                // How much comes before it is known that the room does not suffice is nobody's business.
                s.read(DATA, 0x3000);
            }
            s.outb(SECOND + 7, 0x08);
            settle(s, SECOND);
        }
    }
    script.compare("disk-registers/atapi-dma");
}

/// Somebody at the monitor moves trays and media, and the guest looks.
#[test]
fn trays() {
    if !ready() {
        return;
    }
    let mut script = script();
    let s = &mut script;
    let tray = |s: &mut Script, command, force: Option<bool>, device: &str| {
        let mut arguments = json!({"id": device});
        if let Some(force) = force {
            arguments["force"] = force.into();
        }
        s.steps.push(Step::Qmp(command, arguments));
    };
    let look = |s: &mut Script, device| {
        for (what, bytes) in [
            ("ready", &[0][..]),
            ("sense", &[0x03, 0, 0, 0, 18]),
            ("events", &[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8]),
            ("events", &[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8]),
            ("ready", &[0]),
            ("sense", &[0x03, 0, 0, 0, 18]),
            ("ready", &[0]),
            ("capacity", &[0x25]),
            ("sense", &[0x03, 0, 0, 0, 18]),
        ] {
            let _ = what;
            ask(s, device, 2048, bytes);
        }
    };
    for (name, device) in [("full", FULL), ("empty", EMPTY)] {
        for lock in [false, true] {
            s.part(format!("{name}, lock {lock}"));
            ask(s, device, 2048, &[0x1e, 0, 0, 0, u8::from(lock)]);
            look(s, device);
            for force in [None, Some(true), None] {
                s.part(format!("{name}, lock {lock}, open {force:?}"));
                tray(s, "blockdev-open-tray", force, name);
                settle(s, SECOND);
                look(s, device);
            }
            s.part(format!("{name}, lock {lock}, close"));
            tray(s, "blockdev-close-tray", None, name);
            settle(s, SECOND);
            look(s, device);
        }
        ask(s, device, 2048, &[0x1e, 0, 0, 0, 0]);
    }
    s.part("take out");
    tray(s, "blockdev-open-tray", None, "full");
    settle(s, SECOND);
    tray(s, "blockdev-remove-medium", None, "full");
    settle(s, SECOND);
    look(s, FULL);
    tray(s, "blockdev-close-tray", None, "full");
    settle(s, SECOND);
    look(s, FULL);
    s.part("eject without a medium");
    tray(s, "eject", None, "full");
    settle(s, SECOND);
    look(s, FULL);
    script.compare("disk-registers/atapi-trays");
}

/// Packets of random bytes, of the operation codes that there are.
#[test]
fn a_storm_of_packets() {
    if !ready() {
        return;
    }
    let mut random = dice(0x0fed_cba9_8765_4321);
    let codes = [
        0x00, 0x03, 0x12, 0x1b, 0x1e, 0x25, 0x28, 0x2b, 0x43, 0x46, 0x4a, 0x51, 0x5a, 0xa8, 0xad,
        0xbb, 0xbd, 0xbe,
    ];
    let mut script = script();
    let s = &mut script;
    for _ in 0..400 {
        let device = [FULL, FULL, EMPTY][random(3) as usize];
        let mut bytes = [0; 12];
        bytes[0] = codes[random(codes.len() as u64) as usize];
        for byte in &mut bytes[1..] {
            *byte = [0, 0, 0, 1, random(256) as u8, random(48) as u8][random(6) as usize];
        }
        if matches!(bytes[0], 0x28 | 0xa8 | 0xbe) {
            // Most of it near the medium, and no more blocks than there are.
            (bytes[2], bytes[3], bytes[4], bytes[6], bytes[7]) = (0, 0, 0, 0, 0);
            bytes[8] &= 3;
            if bytes[0] == 0xa8 {
                (bytes[8], bytes[9]) = (0, bytes[9] & 3);
            }
        } else {
            // Lengths of answers are even.
            for at in [4, 8, 9] {
                bytes[at] &= !1;
            }
        }
        let limit = [64, 128, 512, 1000, 2048][random(5) as usize];
        ask(s, device, limit, &bytes);
    }
    script.compare_in_order();
}
