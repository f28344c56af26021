//! Virtio disks on PCI: configuration space, registers of both kinds, and requests in rings of both kinds.

use qemu_tests::{Emulator, packages, skip};

use super::{Script, assert_same_image, dice, image};

const DISK: &str = "-M pc -m 16 -drive if=none,id=d,file={dir}/disk.img,format=raw,discard=unmap -device virtio-blk-pci,drive=d,addr=9,serial=thimble-0123456789abcdef";

const IMAGE: usize = 256 << 10;

/// Where the function is, and where its registers are put.
const DEVFN: u32 = 9 << 3;
const LEGACY: u16 = 0xc100;
const MODERN: u64 = 0xfe01_0000;
const NOTIFY: u64 = MODERN + 0x3000;

/// Rings and buffers.
const DESCRIPTORS: u64 = 0x1_0000;
const AVAILABLE: u64 = 0x1_1000;
const USED: u64 = 0x1_2000;
const HEADER: u64 = 0x2_0000;
const STATUS: u64 = 0x2_0100;
const TABLE: u64 = 0x2_1000;
const DATA: u64 = 0x3_0000;

/// Descriptor flags.
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Kinds of requests.
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const ZEROES: u32 = 13;

/// Features: notifications by index, packed rings.
const EVENT_IDX: u64 = 1 << 29;
const PACKED: u64 = 1 << 34;
const VERSION_1: u64 = 1 << 32;

fn ready() -> bool {
    let found = packages::qemu().is_some();
    if !found {
        skip("qemu-system-x86 is missing");
    }
    found
}

fn script(args: &'static str) -> Script {
    let mut script = Script::new(args, image(IMAGE));
    let s = &mut script;
    s.configure(DEVFN, 0x10, LEGACY.into());
    s.configure(DEVFN, 0x14, 0xfe00_0000);
    s.configure(DEVFN, 0x20, MODERN as u32);
    s.configure(DEVFN, 0x24, 0);
    s.configure(DEVFN, 0x04, 7);
    s.ask("irq_intercept_in ioapic");
    script
}

fn memory(s: &mut Script, letter: char, address: u64, value: u64) {
    s.ask(format!("write{letter} {address:#x} {value:#x}"));
}

fn status(s: &mut Script, value: u8) {
    memory(s, 'b', MODERN + 0x14, value.into());
    s.ask(format!("readb {:#x}", MODERN + 0x14));
}

/// Brings the device up by its modern registers, with these features of those that it has.
fn start(s: &mut Script, features: u64, size: u16) {
    status(s, 0);
    status(s, 3);
    for half in 0..2 {
        memory(s, 'l', MODERN + 8, half);
        memory(s, 'l', MODERN + 12, features >> (32 * half) & 0xffff_ffff);
    }
    status(s, 11);
    memory(s, 'w', MODERN + 0x16, 0);
    memory(s, 'w', MODERN + 0x18, size.into());
    for (offset, address) in [(0x20, DESCRIPTORS), (0x28, AVAILABLE), (0x30, USED)] {
        memory(s, 'l', MODERN + offset, address);
        memory(s, 'l', MODERN + offset + 4, 0);
    }
    s.fill(DESCRIPTORS, 0x3000, 0);
    memory(s, 'w', MODERN + 0x1c, 1);
    status(s, 15);
}

fn descriptor(address: u64, length: u32, flags: u16, next: u16) -> Vec<u8> {
    [
        &address.to_le_bytes()[..],
        &length.to_le_bytes(),
        &flags.to_le_bytes(),
        &next.to_le_bytes(),
    ]
    .concat()
}

fn header(s: &mut Script, kind: u32, sector: u64) {
    let bytes = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
    s.write(HEADER, &bytes);
    s.fill(STATUS, 4, 0xee);
}

/// A piece of a request: address, bytes, flags.
type Piece = (u64, u32, u16);

/// Pieces as a chain of descriptors from 0 on.
fn chain(pieces: &[Piece]) -> Vec<u8> {
    let last = pieces.len() - 1;
    let descriptors = pieces
        .iter()
        .enumerate()
        .map(|(at, (address, length, flags))| {
            let next = if at == last { 0 } else { NEXT };
            descriptor(*address, *length, flags | next, at as u16 + 1)
        });
    descriptors.flatten().collect()
}

/// Makes descriptor 0 available as the buffer of this number, and notifies.
fn offer(s: &mut Script, index: u16, size: u16) {
    memory(s, 'w', AVAILABLE + 4 + 2 * u64::from(index % size), 0);
    memory(s, 'w', AVAILABLE + 2, index.wrapping_add(1).into());
    memory(s, 'w', NOTIFY, 0);
}

/// What has come of it: the used ring, the request's status, and registers.
fn outcome(s: &mut Script) {
    s.read(USED, 80);
    s.read(STATUS, 4);
    s.ask(format!("readb {:#x}", MODERN + 0x14));
    s.ask(format!("readb {:#x}", MODERN + 0x1000));
    s.ask(format!("readb {:#x}", MODERN + 0x15));
}

/// A whole request with these pieces of data, and what comes of it.
fn request(s: &mut Script, index: &mut u16, kind: u32, sector: u64, data: &[Piece]) {
    header(s, kind, sector);
    let mut pieces = vec![(HEADER, 16, 0)];
    pieces.extend(data);
    pieces.push((STATUS, 1, WRITE));
    s.write(DESCRIPTORS, &chain(&pieces));
    offer(s, *index, 8);
    *index += 1;
    let expected = u64::from(*index);
    s.until(format!("readw {:#x}", USED + 2), move |used| {
        used == expected
    });
    outcome(s);
}

#[test]
fn registers() {
    if !ready() {
        return;
    }
    for args in [
        DISK,
        "-M pc -m 16 -drive if=none,id=d,file={dir}/disk.img,format=raw -device virtio-blk-pci,drive=d,addr=9,disable-modern=on,num-queues=2,queue-size=128",
        "-M pc -m 16 -drive if=none,id=d,file={dir}/disk.img,format=raw,readonly=on -device virtio-blk-pci,drive=d,addr=9,disable-legacy=on,packed=on,num-queues=3",
        "-M pc -m 16 -drive if=none,id=d,file={dir}/disk.img,format=raw -device virtio-blk-pci,drive=d,addr=9,logical_block_size=4096,physical_block_size=4096,config-wce=off,vectors=0",
    ] {
        let mut script = script(args);
        let s = &mut script;
        s.part("configuration space");
        for register in (0..256).step_by(4) {
            s.outl(0xcf8, 1 << 31 | DEVFN << 8 | register);
            s.inl(0xcfc);
        }
        s.part("ranges");
        for bar in 0..6 {
            s.configure(DEVFN, 0x10 + 4 * bar, u32::MAX);
            s.inl(0xcfc);
        }
        s.configure(DEVFN, 0x10, LEGACY.into());
        s.configure(DEVFN, 0x14, 0xfe00_0000);
        s.configure(DEVFN, 0x20, MODERN as u32);
        s.configure(DEVFN, 0x24, 0);
        if !args.contains("disable-modern") {
            s.part("modern registers");
            for select in 0..3 {
                memory(s, 'l', MODERN, select);
                s.ask(format!("readl {:#x}", MODERN + 4));
            }
            for queue in [0, 1, 2, 3, 1023, 1024, 0xffff] {
                memory(s, 'w', MODERN + 0x16, queue);
                for offset in (0..0x40).step_by(4) {
                    s.ask(format!("readl {:#x}", MODERN + offset));
                }
                for offset in (0x10..0x20).step_by(2) {
                    s.ask(format!("readw {:#x}", MODERN + offset));
                }
            }
            s.part("the device's own");
            for offset in 0..0x44 {
                s.ask(format!("readb {:#x}", MODERN + 0x2000 + offset));
            }
            for offset in (0..0x40).step_by(2) {
                s.ask(format!("readw {:#x}", MODERN + 0x2000 + offset));
                s.ask(format!("readl {:#x}", MODERN + 0x2000 + offset));
            }
            for value in [0, 1, 0x55] {
                memory(s, 'b', MODERN + 0x2020, value);
                s.ask(format!("readl {:#x}", MODERN + 0x2020));
            }
            for register in [0x10, 0x1a] {
                for vector in [0, 1, 2, 3, 4, 17, 0xffff] {
                    memory(s, 'w', MODERN + 0x16, 0);
                    memory(s, 'w', MODERN + register, vector);
                    s.ask(format!("readw {:#x}", MODERN + register));
                }
            }
            s.part("other parts");
            for offset in [0x1000, 0x1004, 0x3000, 0x3ffc] {
                s.ask(format!("readl {:#x}", MODERN + offset));
            }
        }
        if !args.contains("disable-legacy") {
            s.part("legacy registers");
            for queue in [0, 1, 2, 16, 0xffff] {
                s.outw(LEGACY + 0x0e, queue);
                for (letter, offsets) in [
                    ("l", &[0, 4, 8][..]),
                    ("w", &[0x0c, 0x0e, 0x10]),
                    ("b", &[0x12, 0x13]),
                ] {
                    for offset in offsets {
                        s.ask(format!("in{letter} {:#x}", LEGACY + offset));
                    }
                }
            }
            for offset in 0x14..0x60 {
                s.inb(LEGACY + offset);
            }
            for features in [0, u32::MAX, 0x4000_0000, 0x30] {
                s.outb(LEGACY + 0x12, 0);
                s.outl(LEGACY + 4, features);
                s.inl(LEGACY + 4);
            }
            for value in [1, 3, 7, 0x87, 0xff, 0] {
                s.outb(LEGACY + 0x12, value);
                s.inb(LEGACY + 0x12);
            }
            for page in [0x10, 0, 0xffff_ffff, 0] {
                s.outw(LEGACY + 0x0e, 0);
                s.outl(LEGACY + 8, page);
                s.inl(LEGACY + 8);
                s.inb(LEGACY + 0x12);
            }
        }
        script.compare("disk-registers/virtio");
    }
}

#[test]
fn requests() {
    if !ready() {
        return;
    }
    let mut script = script(DISK);
    let s = &mut script;
    for features in [
        VERSION_1,
        VERSION_1 | EVENT_IDX,
        !(PACKED | 1 << 30 | 1 << 24),
    ] {
        s.part(format!("features {features:#x}"));
        start(s, features, 8);
        let mut index = 0;
        s.fill(DATA, 0x4000, 0x11);
        let all = [
            ("read", IN, 3, &[(DATA, 512, WRITE)][..]),
            (
                "read in pieces",
                IN,
                4,
                &[(DATA, 100, WRITE), (DATA + 0x1000, 924, WRITE)],
            ),
            ("write", OUT, 8, &[(DATA, 1024, 0)]),
            ("read none", IN, 3, &[]),
            ("write none", OUT, 3, &[]),
            ("half a sector", IN, 3, &[(DATA, 256, WRITE)]),
            ("behind the end", IN, 511, &[(DATA, 1024, WRITE)]),
            ("far behind", OUT, u64::MAX, &[(DATA, 512, 0)]),
            ("the other way", IN, 3, &[(DATA, 512, 0)]),
            ("written to nowhere", OUT, 3, &[(DATA, 512, WRITE)]),
            ("flush", FLUSH, 0, &[]),
            ("flush with data", FLUSH, 3, &[(DATA, 512, WRITE)]),
            ("identity", GET_ID, 0, &[(DATA, 20, WRITE)]),
            ("identity, short", GET_ID, 0, &[(DATA, 7, WRITE)]),
            ("identity, long", GET_ID, 0, &[(DATA, 64, WRITE)]),
            ("identity, no room", GET_ID, 0, &[]),
            (
                "SCSI",
                2,
                0,
                &[
                    (DATA, 6, 0),
                    (DATA + 64, 96, WRITE),
                    (DATA + 512, 16, WRITE),
                ],
            ),
            ("SCSI, short", 2, 0, &[]),
            ("barrier", 1 << 31 | OUT, 9, &[(DATA, 512, 0)]),
            ("unknown", 5, 0, &[(DATA, 512, WRITE)]),
            ("unknown, out", 7, 0, &[(DATA, 512, 0)]),
            ("unknown, large", 0x1234_5678, 0, &[]),
        ];
        for (name, kind, sector, data) in all {
            s.part(format!("features {features:#x}, {name}"));
            request(s, &mut index, kind, sector, data);
            s.read(DATA, 1024);
        }
        let ranges = [
            (8_u64, 8_u32, 0_u32),
            (16, 8, 1),
            (24, 8, 2),
            (0, 0, 0),
            (600, 1, 0),
            (511, 2, 0),
            (0, 0x40_0000, 0),
            (u64::MAX, 1, 0),
        ];
        for (kind, name) in [
            (DISCARD, "discard"),
            (ZEROES, "zeros"),
            (DISCARD & !1, "discard, in"),
        ] {
            for (sector, sectors, flags) in ranges {
                s.part(format!(
                    "features {features:#x}, {name} {sector} {sectors} {flags}"
                ));
                let bytes = [
                    &sector.to_le_bytes()[..],
                    &sectors.to_le_bytes(),
                    &flags.to_le_bytes(),
                ];
                s.write(DATA, &bytes.concat());
                request(s, &mut index, kind, 0, &[(DATA, 16, 0)]);
            }
            s.part(format!("features {features:#x}, {name}, two ranges"));
            request(s, &mut index, kind, 0, &[(DATA, 32, 0)]);
        }
    }
    script.compare("disk-registers/virtio-requests");
}

/// Chains and rings that no driver makes: the device stops, and works again after a reset. Buffers that are no RAM are not
/// among them: they break the rules here, and QEMU's disks reach devices by them.
#[test]
fn hostile_rings() {
    if !ready() {
        return;
    }
    let good: Piece = (STATUS, 1, WRITE);
    let head: Piece = (HEADER, 16, 0);
    let chains: &[(&str, bool, &[Piece])] = &[
        ("no status", false, &[head]),
        ("no header", false, &[good]),
        ("a short header", false, &[(HEADER, 15, 0), good]),
        (
            "a header in pieces",
            true,
            &[(HEADER, 7, 0), (HEADER + 7, 9, 0), (DATA, 512, WRITE), good],
        ),
        ("an empty piece", false, &[head, (DATA, 0, WRITE), good]),
        (
            "out behind in",
            false,
            &[head, (DATA, 512, WRITE), (DATA, 16, 0), good],
        ),
        ("4 GiB", false, &[head, (DATA, u32::MAX, WRITE), good]),
        (
            "status in a larger piece",
            true,
            &[head, (DATA, 513, WRITE)],
        ),
    ];
    let mut script = script(DISK);
    let s = &mut script;
    let settle = |s: &mut Script| {
        s.until(format!("readb {:#x}", MODERN + 0x14), |status| {
            status & 0x40 != 0
        });
    };
    for (name, is_good, pieces) in chains {
        s.part(*name);
        start(s, VERSION_1, 8);
        header(s, IN, 2);
        s.fill(DATA, 1024, 0x77);
        s.write(DESCRIPTORS, &chain(pieces));
        offer(s, 0, 8);
        match is_good {
            true => s.until(format!("readw {:#x}", USED + 2), |used| used == 1),
            false => settle(s),
        }
        outcome(s);
        s.read(DATA, 516);
    }
    let raw: &[(&str, Vec<u8>)] = &[
        ("a loop", descriptor(HEADER, 16, NEXT, 0)),
        ("next behind the table", descriptor(HEADER, 16, NEXT, 8)),
        ("next far behind", descriptor(HEADER, 16, NEXT, 0xffff)),
        ("an empty table", descriptor(TABLE, 0, INDIRECT, 0)),
        (
            "a table of no whole descriptors",
            descriptor(TABLE, 40, INDIRECT, 0),
        ),
        (
            "a table where no memory is",
            descriptor(0x1000_0000, 48, INDIRECT, 0),
        ),
        (
            "a table at the end",
            descriptor(u64::MAX - 15, 48, INDIRECT, 0),
        ),
    ];
    for (name, bytes) in raw {
        s.part(*name);
        start(s, VERSION_1 | 1 << 28, 8);
        header(s, IN, 2);
        s.write(DESCRIPTORS, bytes);
        offer(s, 0, 8);
        settle(s);
        outcome(s);
    }
    s.part("a table");
    start(s, VERSION_1 | 1 << 28, 8);
    header(s, IN, 2);
    s.write(TABLE, &chain(&[head, (DATA, 512, WRITE), good]));
    s.write(DESCRIPTORS, &descriptor(TABLE, 48, INDIRECT, 0));
    offer(s, 0, 8);
    s.until(format!("readw {:#x}", USED + 2), |used| used == 1);
    outcome(s);
    s.part("a table in a table");
    start(s, VERSION_1 | 1 << 28, 8);
    s.write(TABLE, &descriptor(TABLE + 0x100, 48, INDIRECT, 0));
    s.write(TABLE + 0x100, &chain(&[head, (DATA, 512, WRITE), good]));
    offer(s, 0, 8);
    s.until(format!("readb {:#x}", MODERN + 0x14), |status| {
        status & 0x40 != 0
    });
    outcome(s);
    for (name, head, index) in [
        ("a head behind the table", 8, 1),
        ("an index far ahead", 0, 9),
    ] {
        s.part(name);
        start(s, VERSION_1, 8);
        memory(s, 'w', AVAILABLE + 4, head);
        memory(s, 'w', AVAILABLE + 2, index);
        memory(s, 'w', NOTIFY, 0);
        settle(s);
        outcome(s);
    }
    s.part("without being master");
    start(s, VERSION_1, 8);
    s.configure(DEVFN, 0x04, 3);
    outcome(s);
    header(s, IN, 2);
    s.write(DESCRIPTORS, &chain(&[head, (DATA, 512, WRITE), good]));
    offer(s, 0, 8);
    outcome(s);
    s.configure(DEVFN, 0x04, 7);
    outcome(s);
    s.part("a queue's reset");
    start(s, VERSION_1 | 1 << 40, 8);
    memory(s, 'w', MODERN + 0x3a, 1);
    s.ask(format!("readl {:#x}", MODERN + 0x38));
    s.ask(format!("readw {:#x}", MODERN + 0x1c));
    s.ask(format!("readw {:#x}", MODERN + 0x18));
    memory(s, 'w', MODERN + 0x1c, 1);
    s.ask(format!("readw {:#x}", MODERN + 0x1c));
    script.compare("disk-registers/virtio-hostile");
}

/// Buffers and rings that are no RAM: the disk stops and says so, the image stays as it is, and after a reset all is well.
#[test]
fn buffers_that_are_no_memory() {
    let good: Piece = (STATUS, 1, WRITE);
    let head: Piece = (HEADER, 16, 0);
    let chains: &[&[Piece]] = &[
        &[head, (0x1000_0000, 512, 0), good],
        &[head, (0xfee0_0000, 512, 0), good],
        &[head, (u64::MAX - 100, 512, 0), good],
        &[head, (0xff_fff0, 512, 0), good],
        &[(0xff_fff8, 16, 0), (DATA, 512, 0), good],
        &[head, (DATA, 512, 0), (0x1000_0000, 1, WRITE)],
    ];
    let mut script = script(DISK);
    let s = &mut script;
    for pieces in chains {
        start(s, VERSION_1, 8);
        header(s, OUT, 2);
        s.write(DESCRIPTORS, &chain(pieces));
        offer(s, 0, 8);
        s.ask(format!("readb {:#x}", MODERN + 0x14));
    }
    for ring in [0x20, 0x28, 0x30] {
        start(s, VERSION_1, 8);
        memory(s, 'l', MODERN + ring, 0x1000_0000);
        memory(s, 'w', MODERN + 0x1c, 1);
        header(s, FLUSH, 0);
        s.write(DESCRIPTORS, &chain(&[head, good]));
        offer(s, 0, 8);
        s.until(format!("readb {:#x}", MODERN + 0x14), |status| {
            status & 0x40 != 0
        });
    }
    start(s, VERSION_1, 8);
    request(s, &mut 0, IN, 2, &[(DATA, 512, WRITE)]);
    let (answers, after) = script.run(Emulator::Thimble);
    let broken = answers.iter().filter(|(_, answer)| answer.ends_with("4f"));
    assert_eq!(broken.count(), chains.len() + 3, "{answers:?}");
    let read = |end: &str| answers.iter().any(|(_, answer)| answer.ends_with(end));
    assert!(
        read("0x0000000000000001") && read("0x00eeeeee"),
        "{answers:?}"
    );
    assert_same_image(&script.image, &after);
}

/// A driver of a packed ring.
struct Packed {
    at: u16,
    size: u16,
    turn: bool,
}

impl Packed {
    fn offer(&mut self, s: &mut Script, id: u16, pieces: &[Piece]) {
        let first = (self.at, self.turn);
        for (index, (address, length, flags)) in pieces.iter().enumerate() {
            let next = if index + 1 == pieces.len() { 0 } else { NEXT };
            let turn = if self.turn { 1 << 7 } else { 1 << 15 };
            let flags = flags | next | turn;
            let bytes = descriptor(*address, *length, id, flags);
            s.write(DESCRIPTORS + 16 * u64::from(self.at), &bytes);
            self.at += 1;
            if self.at == self.size {
                (self.at, self.turn) = (0, !self.turn);
            }
        }
        memory(s, 'w', NOTIFY, 0);
        // Flags of a used descriptor: both as the turn; that the device wrote is not looked at.
        let (place, turn) = first;
        let flags = DESCRIPTORS + 16 * u64::from(place) + 14;
        s.until(format!("readb {:#x}", flags + 1), move |high| {
            (high & 0x80 != 0) == turn
        });
        s.read(DESCRIPTORS + 16 * u64::from(place) + 8, 6);
        s.ask(format!("readb {:#x}", flags + 1));
        s.read(USED, 4);
        s.read(STATUS, 4);
        s.ask(format!("readb {:#x}", MODERN + 0x14));
        s.ask(format!("readb {:#x}", MODERN + 0x1000));
    }
}

#[test]
fn packed_rings() {
    if !ready() {
        return;
    }
    let mut script = script(
        "-M pc -m 16 -drive if=none,id=d,file={dir}/disk.img,format=raw,discard=unmap -device virtio-blk-pci,drive=d,addr=9,packed=on",
    );
    let s = &mut script;
    for (features, wanted) in [
        (0, [0, 0]),
        (0, [0, 1]),
        (EVENT_IDX, [0, 0]),
        (EVENT_IDX, [5 | 1 << 15, 2]),
        (EVENT_IDX, [2, 2]),
        (1 << 28, [0, 0]),
    ] {
        s.part(format!("features {features:#x}, {wanted:x?}"));
        let size = 8;
        start(s, VERSION_1 | PACKED | features, size);
        // What the driver wants to be told of.
        memory(s, 'w', AVAILABLE, wanted[0]);
        memory(s, 'w', AVAILABLE + 2, wanted[1]);
        let mut driver = Packed {
            at: 0,
            size,
            turn: true,
        };
        for round in 0..12 {
            let sector = u64::from(round);
            s.fill(DATA, 1024, round as u8);
            match round % 4 {
                0 => {
                    header(s, IN, sector);
                    driver.offer(
                        s,
                        round,
                        &[(HEADER, 16, 0), (DATA, 512, WRITE), (STATUS, 1, WRITE)],
                    );
                }
                1 => {
                    header(s, OUT, sector);
                    driver.offer(
                        s,
                        round,
                        &[(HEADER, 16, 0), (DATA, 1024, 0), (STATUS, 1, WRITE)],
                    );
                }
                2 => {
                    header(s, FLUSH, 0);
                    driver.offer(s, round, &[(HEADER, 16, 0), (STATUS, 1, WRITE)]);
                }
                _ => {
                    header(s, IN, sector);
                    let table: Vec<u8> = [(HEADER, 16, 0), (DATA, 512, WRITE), (STATUS, 1, WRITE)]
                        .iter()
                        .flat_map(|(address, length, flags)| {
                            descriptor(*address, *length, 0, *flags)
                        })
                        .collect();
                    s.write(TABLE, &table);
                    driver.offer(s, round, &[(TABLE, 48, INDIRECT)]);
                }
            }
            s.read(DATA, 1024);
        }
    }
    script.compare("disk-registers/virtio-packed");
}

/// Registers of all kinds in whatever order comes, without a queue that is anywhere.
#[test]
fn a_storm() {
    if !ready() {
        return;
    }
    let mut random = dice(0x5555_aaaa_1234_9876);
    let mut script = script(DISK);
    let s = &mut script;
    // Before the first of these QEMU's disks take zeros for all that is written around.
    s.ask(format!("readl {:#x}", MODERN + 0x2020));
    for _ in 0..1500 {
        let (letter, bytes) = [("b", 1), ("w", 2), ("l", 4)][random(3) as usize];
        let value = match random(4) {
            0 => 0,
            1 => random(4),
            _ => random(1 << 32),
        } & (u64::MAX >> (64 - 8 * bytes));
        match random(6) {
            0..3 => {
                let offset = random(0x40) & !(bytes - 1);
                // Whatever is enabled is somewhere; and the driver would have to be ready.
                let is_enable = (0x14..0x20).contains(&offset) && offset != 0x18;
                if random(2) == 0 && !is_enable {
                    memory(
                        s,
                        letter.chars().next().unwrap_or('b'),
                        MODERN + offset,
                        value,
                    );
                }
                s.ask(format!("read{letter} {:#x}", MODERN + offset));
            }
            3 => {
                let offset = 0x2000 + random(0x40);
                if random(3) == 0 {
                    memory(
                        s,
                        letter.chars().next().unwrap_or('b'),
                        MODERN + offset,
                        value,
                    );
                }
                s.ask(format!("read{letter} {:#x}", MODERN + offset));
            }
            4 => {
                let register = random(256) as u32 & !3;
                s.outl(0xcf8, 1 << 31 | DEVFN << 8 | register);
                let port = (0xcfc + random(4) as u16) & !(bytes as u16 - 1);
                if register >= 0x40 && random(2) == 0 {
                    s.ask(format!("out{letter} {port:#x} {value:#x}"));
                }
                s.ask(format!("in{letter} {port:#x}"));
            }
            _ => {
                let offset = random(0x60) as u16 & !(bytes as u16 - 1);
                s.ask(format!("in{letter} {:#x}", LEGACY + offset));
            }
        }
    }
    script.compare_in_order();
}
