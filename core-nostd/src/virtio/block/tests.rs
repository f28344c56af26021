//! A driver by hand: rings in memory, and a block layer that does what it is asked for.

use super::*;
use crate::devices::testing::Bench;
use crate::devices::{Effect, block::Failure};
use crate::irq::Msi;
use crate::pci::config::assert_registers;
use crate::pci::{PciFunction, reg};
use crate::state::{lifecycle_tests, load, save};
use std::string::String;
use std::vec::Vec;

const DRIVE: DriveId = DriveId(3);
const SIZE: u64 = 64 << 10;
const LEGACY: usize = 0;
const MSIX: usize = 1;
const MODERN: usize = 4;

/// Where the driver has its rings, its request and its data.
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const HEADER_AT: u64 = 0x4000;
const STATUS_AT: u64 = 0x4100;
const DATA_AT: u64 = 0x5000;

fn disk(settings: &[(&str, &str)]) -> VirtioBlkPci {
    let mut values = PropertyValues::new(&PCI_CLASS);
    for (name, text) in settings {
        values.set(name, text).unwrap();
    }
    let mut disk = pci(&values, 1, DRIVE).unwrap();
    let medium = Medium {
        bytes: SIZE,
        read_only: false,
        write_cache: true,
    };
    disk.medium_changed(&mut Bench::new().context(), DRIVE, Some(medium));
    disk
}

lifecycle_tests!(VirtioBlkPci, disk(&[]), |disk, bench| {
    start(disk, bench);
});

fn write(
    disk: &mut VirtioBlkPci,
    bench: &mut Bench,
    bar: usize,
    offset: u64,
    width: Width,
    value: u64,
) {
    disk.bar_write(&mut bench.context(), bar, offset, width, value);
}

fn read(disk: &mut VirtioBlkPci, bench: &mut Bench, bar: usize, offset: u64, width: Width) -> u64 {
    disk.bar_read(&mut bench.context(), bar, offset, width)
}

/// Brings the disk up by its modern registers, with one queue and MSI-X.
fn start(disk: &mut VirtioBlkPci, bench: &mut Bench) {
    start_with(disk, bench, u64::MAX);
}

fn start_with(disk: &mut VirtioBlkPci, bench: &mut Bench, features: u64) {
    use Width::{Byte, Dword, Word};
    disk.config_write(&mut bench.context(), reg::COMMAND, Word, 6);
    disk.config_write(&mut bench.context(), 0x9a, Word, 0x8000);
    for (vector, offset) in [(0, 0), (1, 16)] {
        write(disk, bench, MSIX, offset, Dword, 0xfee0_0000);
        write(disk, bench, MSIX, offset + 8, Dword, 0x40 + vector);
        write(disk, bench, MSIX, offset + 12, Dword, 0);
    }
    let mut common = |offset, width, value| write(disk, bench, MODERN, offset, width, value);
    common(0x14, Byte, 3);
    for half in 0..2 {
        common(0x08, Dword, half);
        common(0x0c, Dword, features >> (32 * half) & 0xffff_ffff);
    }
    common(0x14, Byte, 11);
    common(0x10, Word, 0);
    common(0x16, Word, 0);
    common(0x18, Word, 8);
    common(0x1a, Word, 1);
    for (offset, address) in [(0x20, DESCRIPTORS), (0x28, AVAILABLE), (0x30, USED)] {
        common(offset, Dword, address);
    }
    common(0x1c, Word, 1);
    common(0x14, Byte, 15);
}

/// Messages that the function has sent: their data.
fn messages(bench: &mut Bench) -> Vec<u32> {
    core::iter::from_fn(|| bench.effects.take())
        .map(|effect| match effect {
            Effect::Message(Msi { data, .. }) => data,
            other => panic!("{other:?}"),
        })
        .collect()
}

/// Pieces of a request: address, length, and whether the device writes.
fn describe(bench: &Bench, first: u16, pieces: &[(u64, u32, bool)]) {
    for (index, (address, length, writes)) in pieces.iter().enumerate() {
        let at = first + index as u16;
        let is_last = index + 1 == pieces.len();
        let flags = u16::from(!is_last) | u16::from(*writes) << 1;
        let mut bytes = Vec::from(address.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend((at + 1).to_le_bytes());
        bench
            .ram
            .write(DESCRIPTORS + 16 * u64::from(at), &bytes)
            .unwrap();
    }
}

fn header(bench: &Bench, kind: u32, sector: u64) {
    let mut bytes = Vec::from(kind.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(sector.to_le_bytes());
    bench.ram.write(HEADER_AT, &bytes).unwrap();
    bench.ram.write(STATUS_AT, &[0xee]).unwrap();
}

fn offer(bench: &Bench, head: u16) {
    let index = bench.ram.load16(AVAILABLE + 2).unwrap();
    let entry = AVAILABLE + 4 + 2 * u64::from(index % 8);
    bench.ram.store16(entry, head).unwrap();
    bench.ram.store16(AVAILABLE + 2, index + 1).unwrap();
}

/// What a request comes to: what the block layer is asked for, if anything.
type Work = (u32, Operation, u64, u64, Vec<(u64, u32)>);

fn kick(disk: &mut VirtioBlkPci, bench: &mut Bench) -> Vec<Work> {
    write(disk, bench, MODERN, 0x3000, Width::Word, 0);
    requests(disk, bench)
}

fn requests(disk: &mut VirtioBlkPci, bench: &mut Bench) -> Vec<Work> {
    let mut segments = Segments::new();
    let mut all = Vec::new();
    while let Some(request) = disk.next_request(&mut bench.context(), &mut segments) {
        let pieces = match request.data {
            Data::Guest(pieces) => pieces.iter().map(|p| (p.gpa, p.length)).collect(),
            _ => Vec::new(),
        };
        assert_eq!(request.drive, DRIVE);
        all.push((
            request.tag,
            request.operation,
            request.offset,
            request.length,
            pieces,
        ));
    }
    all
}

fn status_byte(bench: &Bench) -> u8 {
    let mut byte = [0];
    bench.ram.read(STATUS_AT, &mut byte).unwrap();
    byte[0]
}

/// One request with these data pieces; the answer of a disk that does all it is asked for.
fn ask(
    disk: &mut VirtioBlkPci,
    bench: &mut Bench,
    kind: u32,
    sector: u64,
    data: &[(u64, u32, bool)],
) -> (u8, Option<(Operation, u64, u64)>) {
    header(bench, kind, sector);
    let mut pieces = std::vec![(HEADER_AT, 16, false)];
    pieces.extend(data);
    pieces.push((STATUS_AT, 1, true));
    describe(bench, 0, &pieces);
    offer(bench, 0);
    let work = kick(disk, bench);
    let work = work
        .into_iter()
        .next()
        .map(|(tag, operation, offset, length, _)| {
            disk.request_done(&mut bench.context(), DRIVE, tag, Ok(()), &[]);
            (operation, offset, length)
        });
    assert_eq!(messages(bench), [0x41]);
    (status_byte(bench), work)
}

/// Observed with QEMU 7.2.
#[test]
fn registers_after_power_on() {
    let set = [
        (0x00, 0x1001_1af4),
        (0x04, 0x0010_0000),
        (0x08, 0x0100_0000),
        (0x10, 0x0000_0001),
        (0x20, 0x0000_000c),
        (0x2c, 0x0002_1af4),
        (0x34, 0x98),
        (0x3c, 0x100),
        (0x40, 0x0110_0009),
        (0x44, 4),
        (0x4c, 0x1000),
        (0x50, 0x0310_4009),
        (0x54, 4),
        (0x58, 0x1000),
        (0x5c, 0x1000),
        (0x60, 0x0410_5009),
        (0x64, 4),
        (0x68, 0x2000),
        (0x6c, 0x1000),
        (0x70, 0x0214_6009),
        (0x74, 4),
        (0x78, 0x3000),
        (0x7c, 0x1000),
        (0x80, 4),
        (0x84, 0x0514_7009),
        (0x98, 0x0001_8411),
        (0x9c, 1),
        (0xa0, 0x801),
    ];
    assert_registers(&disk(&[]), &set);
    let bars = |settings: &[_]| {
        let disk = disk(settings);
        let kinds = (0..6).map(|bar| disk.config().bar_kind(bar).map_or(0, |(_, size)| size));
        kinds.collect::<Vec<_>>()
    };
    assert_eq!(bars(&[]), [128, 0x1000, 0, 0, 0x4000, 0]);
    assert_eq!(
        bars(&[("disable-legacy", "on")]),
        [0, 0x1000, 0, 0, 0x4000, 0]
    );
    assert_eq!(bars(&[("disable-modern", "on")]), [128, 0x1000, 0, 0, 0, 0]);
    assert_eq!(bars(&[("vectors", "0")]), [128, 0, 0, 0, 0x4000, 0]);
}

/// Observed with QEMU 7.2, with a disk of 1 GiB.
#[test]
fn configuration_and_features() {
    let medium = |write_cache| Medium {
        bytes: 1 << 30,
        read_only: false,
        write_cache,
    };
    let seen = |settings: &[_], write_cache| {
        let (mut disk, mut bench) = (disk(settings), Bench::new());
        disk.medium_changed(&mut bench.context(), DRIVE, Some(medium(write_cache)));
        let words: Vec<u32> = (0..14)
            .map(|i| read(&mut disk, &mut bench, MODERN, 0x2000 + 4 * i, Width::Dword) as u32)
            .collect();
        let legacy = read(&mut disk, &mut bench, LEGACY, 0, Width::Dword) as u32;
        let features = [0, 1].map(|half| {
            write(&mut disk, &mut bench, MODERN, 0, Width::Dword, half);
            read(&mut disk, &mut bench, MODERN, 4, Width::Dword) as u32
        });
        assert_eq!(
            read(&mut disk, &mut bench, MODERN, 0x2039, Width::Byte),
            0xff
        );
        let last = read(&mut disk, &mut bench, MODERN, 0x2038, Width::Byte);
        assert_eq!(last, 1);
        (words, features, legacy)
    };
    let (words, features, legacy) = seen(&[], true);
    let expected = [
        0x20_0000,
        0,
        0,
        0xfe,
        0x3f10_0820,
        0x200,
        0,
        0,
        0x1_0001,
        0x3f_ffff,
        1,
        1,
        0x3f_ffff,
        1,
    ];
    assert_eq!(words, expected);
    assert_eq!((features, legacy), ([0x3000_6e54, 0x101], 0x7900_6e54));
    let settings = [
        ("num-queues", "2"),
        ("logical_block_size", "4096"),
        ("physical_block_size", "8192"),
        ("min_io_size", "16384"),
        ("opt_io_size", "65536"),
        ("discard_granularity", "8192"),
        ("config-wce", "off"),
        ("queue-size", "128"),
    ];
    let (words, features, legacy) = seen(&settings, false);
    let expected = [
        0x20_0000,
        0,
        0,
        0x7e,
        0x3810_0820,
        0x1000,
        0x4_0001,
        0x10,
        0x2_0000,
        0x3f_ffff,
        1,
        0x10,
        0x3f_ffff,
        1,
    ];
    assert_eq!(words, expected);
    assert_eq!((features, legacy), ([0x3000_7454, 0x101], 0x7900_7454));
}

#[test]
fn impossible_settings_are_refused() {
    for (name, text) in [
        ("num-queues", "0"),
        ("num-queues", "17"),
        ("queue-size", "100"),
        ("queue-size", "2048"),
        ("logical_block_size", "1000"),
        ("physical_block_size", "4M"),
        ("min_io_size", "100"),
        ("discard_granularity", "100"),
        ("max-discard-sectors", "0"),
        ("cyls", "3"),
        ("vectors", "65"),
    ] {
        let mut values = PropertyValues::new(&PCI_CLASS);
        values.set(name, text).unwrap();
        assert_eq!(pci(&values, 1, DRIVE).err(), Some(name));
    }
}

#[test]
fn requests_reach_the_block_layer() {
    let (mut disk, mut bench) = (disk(&[("serial", "thimble")]), Bench::new());
    start(&mut disk, &mut bench);
    let data = [(DATA_AT, 512, true), (DATA_AT + 0x800, 1024, true)];
    header(&bench, kind::IN, 2);
    describe(
        &bench,
        0,
        &[
            (HEADER_AT, 16, false),
            data[0],
            data[1],
            (STATUS_AT, 1, true),
        ],
    );
    offer(&bench, 0);
    let work = kick(&mut disk, &mut bench);
    let pieces = std::vec![(DATA_AT, 512), (DATA_AT + 0x800, 1024)];
    let (tag, ..) = work[0];
    assert_eq!(work, [(tag, Operation::Read, 1024, 1536, pieces)]);
    assert_eq!(
        (messages(&mut bench), status_byte(&bench)),
        (Vec::new(), 0xee)
    );
    disk.request_done(&mut bench.context(), DRIVE, tag, Err(Failure::Io), &[]);
    assert_eq!(
        (messages(&mut bench), status_byte(&bench)),
        (std::vec![0x41], IOERR)
    );
    let mut used = [0; 12];
    bench.ram.read(USED, &mut used).unwrap();
    assert_eq!(used, [0, 0, 1, 0, 0, 0, 0, 0, 1, 6, 0, 0], "1537 bytes");
    // An end that nobody waits for changes nothing.
    disk.request_done(&mut bench.context(), DRIVE, tag, Ok(()), &[]);
    disk.request_done(&mut bench.context(), DRIVE, u32::MAX, Ok(()), &[]);
    assert_eq!(
        (messages(&mut bench), status_byte(&bench)),
        (Vec::new(), IOERR)
    );

    let mut asks = |kind, sector, data: &[_]| ask(&mut disk, &mut bench, kind, sector, data);
    let write = Operation::Write {
        force_unit_access: false,
    };
    let out = [(DATA_AT, 512, false)];
    assert_eq!(asks(kind::OUT, 7, &out), (OK, Some((write, 3584, 512))));
    assert_eq!(asks(kind::OUT | kind::BARRIER, 0, &out).0, OK);
    assert_eq!(
        asks(kind::FLUSH, 0, &[]),
        (OK, Some((Operation::Flush, 0, 0)))
    );
    let short = [(DATA_AT, 20, true)];
    assert_eq!(asks(kind::GET_ID, 0, &short), (OK, None));
    // What the disk does not have.
    let last = SIZE / SECTOR;
    let block = [(DATA_AT, 512, true)];
    for (kind, sector, data) in [
        (kind::IN, last, &block),
        (kind::IN, u64::MAX, &block),
        (kind::IN, u64::MAX / SECTOR, &block),
        (kind::IN, 0, &[(DATA_AT, 100, true)]),
        (kind::OUT, last, &out),
    ] {
        assert_eq!(asks(kind, sector, data), (IOERR, None), "{sector:#x}");
    }
    assert_eq!(asks(kind::IN, last, &[]), (OK, None));
    assert_eq!(asks(99, 0, &[]), (UNSUPP, None));
    assert_eq!(asks(kind::SCSI, 0, &[]), (IOERR, None));
    let scsi = [
        (DATA_AT, 16, false),
        (DATA_AT, 16, true),
        (DATA_AT + 32, 16, true),
    ];
    assert_eq!(asks(kind::SCSI, 0, &scsi), (UNSUPP, None));
    let mut id = [0; 36];
    bench.ram.read(DATA_AT, &mut id).unwrap();
    assert_eq!(String::from_utf8_lossy(&id[..7]), "thimble");
    assert_eq!(id[32..], [255, 0, 0, 0]);
}

#[test]
fn ranges_are_discarded_and_zeroed() {
    let (mut disk, mut bench) = (disk(&[]), Bench::new());
    start(&mut disk, &mut bench);
    let discard = kind::DISCARD | kind::OUT;
    let zeroes = kind::WRITE_ZEROES | kind::OUT;
    let range = |bench: &Bench, sector: u64, sectors: u32, flags: u32| {
        let bytes = u128::from(sector) | u128::from(sectors) << 64 | u128::from(flags) << 96;
        bench.ram.write(DATA_AT, &bytes.to_le_bytes()).unwrap();
    };
    let one = [(DATA_AT, 16, false)];
    for (kind, (sector, sectors, flags), answer) in [
        (
            discard,
            (2, 4, 0),
            (OK, Some((Operation::Discard, 1024, 2048))),
        ),
        (
            zeroes,
            (2, 4, 1),
            (
                OK,
                Some((Operation::WriteZeroes { may_unmap: true }, 1024, 2048)),
            ),
        ),
        (discard, (2, 4, 1), (UNSUPP, None)),
        (zeroes, (2, 4, 2), (UNSUPP, None)),
        (discard, (2, 0, 0), (OK, None)),
        (zeroes, (SIZE / SECTOR - 1, 2, 0), (IOERR, None)),
        (zeroes, (0, u32::MAX, 0), (IOERR, None)),
        (kind::DISCARD, (2, 4, 0), (UNSUPP, None)),
    ] {
        range(&bench, sector, sectors, flags);
        let answered = ask(&mut disk, &mut bench, kind, 0, &one);
        assert_eq!(answered, answer, "{kind} {sector} {sectors} {flags}");
    }
    let two = [(DATA_AT, 32, false)];
    assert_eq!(ask(&mut disk, &mut bench, discard, 0, &two), (UNSUPP, None));
}

#[test]
fn a_rule_that_is_broken_stops_the_disk_until_it_is_reset() {
    for pieces in [
        &[(HEADER_AT, 16, false)][..],
        &[(STATUS_AT, 1, true)],
        &[(HEADER_AT, 15, false), (STATUS_AT, 1, true)],
        &[(HEADER_AT, 16, false), (u64::MAX - 1, 1, true)],
        &[(HEADER_AT, 0, false), (STATUS_AT, 1, true)],
        &[(STATUS_AT, 1, true), (HEADER_AT, 16, false)],
    ] {
        let (mut disk, mut bench) = (disk(&[]), Bench::new());
        start(&mut disk, &mut bench);
        header(&bench, kind::FLUSH, 0);
        describe(&bench, 0, pieces);
        offer(&bench, 0);
        assert_eq!(kick(&mut disk, &mut bench), []);
        assert_eq!(messages(&mut bench), [0x40], "a change of configuration");
        let common = |disk: &mut _, bench: &mut _, at| read(disk, bench, MODERN, at, Width::Byte);
        assert_eq!(common(&mut disk, &mut bench, 0x14), 0x4f);
        assert_eq!(common(&mut disk, &mut bench, 0x15), 1);
        assert_eq!(kick(&mut disk, &mut bench), []);
        write(&mut disk, &mut bench, MODERN, 0x14, Width::Byte, 0);
        bench.ram.write(AVAILABLE, &[0; 32]).unwrap();
        start(&mut disk, &mut bench);
        let answer = ask(&mut disk, &mut bench, kind::GET_ID, 0, &[]);
        assert_eq!(answer, (OK, None));
    }
}

#[test]
fn the_write_cache_can_be_switched_off() {
    let (mut disk, mut bench) = (disk(&[]), Bench::new());
    start(&mut disk, &mut bench);
    let forced = |disk: &mut _, bench: &mut _| match ask(
        disk,
        bench,
        kind::OUT,
        0,
        &[(DATA_AT, 512, false)],
    )
    .1
    {
        Some((Operation::Write { force_unit_access }, ..)) => force_unit_access,
        other => panic!("{other:?}"),
    };
    assert!(!forced(&mut disk, &mut bench));
    write(&mut disk, &mut bench, MODERN, 0x2020, Width::Byte, 0);
    assert!(forced(&mut disk, &mut bench));
    assert_eq!(read(&mut disk, &mut bench, MODERN, 0x2020, Width::Byte), 0);
    write(&mut disk, &mut bench, MODERN, 0x14, Width::Byte, 0);
    assert_eq!(read(&mut disk, &mut bench, MODERN, 0x2020, Width::Byte), 1);
    // A driver that knows neither of flushes nor of the switch.
    bench.ram.write(AVAILABLE, &[0; 32]).unwrap();
    start_with(&mut disk, &mut bench, feature::VERSION_1);
    assert!(forced(&mut disk, &mut bench));
}

#[test]
fn legacy_drivers_have_pins_and_ports() {
    use Width::{Byte, Dword, Word};
    let (mut disk, mut bench) = (disk(&[]), Bench::new());
    let mut out = |offset, width, value| {
        write(&mut disk, &mut bench, LEGACY, offset, width, value);
    };
    out(0x12, Byte, 3);
    out(0x04, Dword, 0);
    out(0x0e, Word, 0);
    out(0x08, Dword, 8);
    out(0x12, Byte, 7);
    assert!(disk.config().is_bus_master(), "as old drivers expect it");
    assert_eq!(read(&mut disk, &mut bench, LEGACY, 0x08, Dword), 8);
    assert_eq!(read(&mut disk, &mut bench, LEGACY, 0x0c, Word), 256);
    header(&bench, kind::IN, 1);
    let pieces = [
        (HEADER_AT, 16, 0, 1),
        (DATA_AT, 512, 2, 2),
        (STATUS_AT, 1, 2, 0),
    ];
    for (index, (address, length, writes, next)) in pieces.into_iter().enumerate() {
        let flags = writes | u16::from(next != 0);
        let mut bytes = Vec::from(u64::to_le_bytes(address));
        bytes.extend(u32::to_le_bytes(length));
        bytes.extend(flags.to_le_bytes());
        bytes.extend(u16::to_le_bytes(next));
        bench.ram.write(0x8000 + 16 * index as u64, &bytes).unwrap();
    }
    bench.ram.store16(0x9002, 1).unwrap();
    write(&mut disk, &mut bench, LEGACY, 0x10, Word, 0);
    let work = requests(&mut disk, &mut bench);
    assert_eq!(work.len(), 1);
    assert!(!disk.config().intx());
    disk.request_done(&mut bench.context(), DRIVE, work[0].0, Ok(()), &[]);
    assert!(disk.config().intx());
    assert_eq!((status_byte(&bench), bench.ram.load16(0xa002)), (OK, Ok(1)));
    assert_eq!(read(&mut disk, &mut bench, LEGACY, 0x13, Byte), 1);
    assert!(!disk.config().intx());
    assert_eq!(read(&mut disk, &mut bench, LEGACY, 0x13, Byte), 0);
}

#[test]
fn a_reset_gives_requests_up() {
    let (mut disk, mut bench) = (disk(&[]), Bench::new());
    start(&mut disk, &mut bench);
    header(&bench, kind::FLUSH, 0);
    describe(&bench, 0, &[(HEADER_AT, 16, false), (STATUS_AT, 1, true)]);
    offer(&bench, 0);
    let work = kick(&mut disk, &mut bench);
    assert_eq!(disk.take_cancelled(), None);
    write(&mut disk, &mut bench, MODERN, 0x14, Width::Byte, 0);
    assert_eq!(BlockController::take_cancelled(&mut disk), Some(DRIVE));
    assert_eq!(BlockController::take_cancelled(&mut disk), None);
    disk.request_done(&mut bench.context(), DRIVE, work[0].0, Ok(()), &[]);
    assert_eq!(
        (status_byte(&bench), messages(&mut bench)),
        (0xee, Vec::new())
    );
}

#[test]
fn what_is_under_way_is_handed_out_again_after_loading() {
    let (mut disk, mut bench) = (disk(&[]), Bench::new());
    start(&mut disk, &mut bench);
    header(&bench, kind::IN, 5);
    describe(
        &bench,
        0,
        &[
            (HEADER_AT, 16, false),
            (DATA_AT, 512, true),
            (STATUS_AT, 1, true),
        ],
    );
    offer(&bench, 0);
    let work = kick(&mut disk, &mut bench);
    let mut bytes = [0; 0x4000];
    let length = save(&disk, &mut bytes).unwrap();
    let mut other = self::disk(&[]);
    load(&mut other, &bytes[..length], &mut bench.context()).unwrap();
    let again = requests(&mut other, &mut bench);
    assert_eq!(again.len(), 1);
    let what = |work: &Work| (work.1, work.2, work.3, work.4.clone());
    assert_eq!(what(&again[0]), what(&work[0]));
    other.request_done(&mut bench.context(), DRIVE, again[0].0, Ok(()), &[]);
    assert_eq!(
        (status_byte(&bench), messages(&mut bench)),
        (OK, std::vec![0x41])
    );
    assert_eq!(bench.ram.load16(USED + 2), Ok(1));
}

#[test]
fn more_requests_than_places_wait() {
    let (mut disk, mut bench) = (disk(&[]), Bench::new());
    start(&mut disk, &mut bench);
    write(&mut disk, &mut bench, MODERN, 0x14, Width::Byte, 0);
    // A larger queue, whose available ring names one chain over and over.
    start(&mut disk, &mut bench);
    write(&mut disk, &mut bench, MODERN, 0x18, Width::Word, 512);
    header(&bench, kind::FLUSH, 0);
    describe(&bench, 0, &[(HEADER_AT, 16, false), (STATUS_AT, 1, true)]);
    bench.ram.store16(AVAILABLE + 2, 300).unwrap();
    let work = kick(&mut disk, &mut bench);
    assert_eq!(work.len(), REQUESTS_MAX);
    let mut done = 0;
    let mut waiting: Vec<u32> = work.iter().map(|work| work.0).collect();
    while let Some(tag) = waiting.pop() {
        disk.request_done(&mut bench.context(), DRIVE, tag, Ok(()), &[]);
        messages(&mut bench);
        done += 1;
        waiting.extend(requests(&mut disk, &mut bench).iter().map(|work| work.0));
    }
    assert_eq!(done, 300);
}

#[test]
fn a_new_size_is_told() {
    let (mut disk, mut bench) = (disk(&[]), Bench::new());
    start(&mut disk, &mut bench);
    let medium = Medium {
        bytes: 2 * SIZE,
        read_only: false,
        write_cache: true,
    };
    disk.medium_changed(&mut bench.context(), DRIVE, Some(medium));
    assert_eq!(messages(&mut bench), [0x40]);
    let sectors = read(&mut disk, &mut bench, MODERN, 0x2000, Width::Dword);
    assert_eq!(sectors, 2 * SIZE / SECTOR);
    disk.medium_changed(&mut bench.context(), DRIVE, Some(medium));
    assert!(messages(&mut bench).is_empty());
}

/// A request for sector 2, one page, in slots 0 to 2, which nobody is notified of.
fn read_offered(bench: &Bench) {
    header(bench, kind::IN, 2);
    describe(
        bench,
        0,
        &[
            (HEADER_AT, 16, false),
            (DATA_AT, 512, true),
            (STATUS_AT, 1, true),
        ],
    );
    offer(bench, 0);
}

fn take_back(disk: &mut VirtioBlkPci, bench: &mut Bench, lent: &VirtioBlock) {
    disk.with_device(&mut bench.context(), |disk, cx| {
        disk.take_back(cx.ram, lent)
    });
}

#[test]
fn lent_queues_are_served_by_the_copy_alone() {
    let mut bench = Bench::new();
    let mut disk = disk(&[]);
    assert!(disk.lend().is_none(), "no driver drives it");
    start_with(&mut disk, &mut bench, !RING_EVENT_IDX);
    let mut lent = disk.lend().unwrap();
    assert!(disk.lend().is_none(), "it is lent already");
    assert!(!lent.poll(&bench.ram));
    // While it looks by itself the driver need not notify.
    lent.hush(&bench.ram, true);
    assert_eq!(bench.ram.load16(USED), Ok(1));
    read_offered(&bench);
    assert!(lent.poll(&bench.ram));
    let mut segments = Segments::new();
    let tag = lent.next_request(&bench.ram, &mut segments).unwrap().tag;
    assert!(lent.next_request(&bench.ram, &mut segments).is_none());
    // The disk leaves its queues alone and passes notifications on.
    assert!(kick(&mut disk, &mut bench).is_empty());
    assert_eq!(disk.take_notified(), Some(DRIVE));
    assert_eq!(disk.take_notified(), None);
    lent.request_done(&bench.ram, tag, Ok(()));
    assert_eq!(status_byte(&bench), 0);
    assert_eq!(bench.ram.load16(USED + 2), Ok(1));
    assert!(lent.wants_machine());
    assert_eq!(lent.take_interrupt(|_| false), None);
    assert_eq!(lent.take_interrupt(|_| true), Some(0));
    assert!(!lent.wants_machine() && messages(&mut bench).is_empty());
    assert_eq!(disk.message(0).map(|message| message.data), Some(0x41));
    // Back again the driver notifies, and the ISR status shows the interrupt.
    take_back(&mut disk, &mut bench, &lent);
    assert_eq!(bench.ram.load16(USED), Ok(0));
    assert_eq!(read(&mut disk, &mut bench, MODERN, 0x1000, Width::Byte), 1);
    read_offered(&bench);
    assert_eq!(kick(&mut disk, &mut bench).len(), 1);
}

#[test]
fn what_is_under_way_comes_back_with_the_queues() {
    let mut bench = Bench::new();
    let mut disk = disk(&[]);
    start(&mut disk, &mut bench);
    let mut segments = Segments::new();
    // One request that the disk has handed out, and one of the copy.
    read_offered(&bench);
    let first = kick(&mut disk, &mut bench)[0].0;
    let mut lent = disk.lend().unwrap();
    read_offered(&bench);
    assert!(lent.poll(&bench.ram));
    let second = lent.next_request(&bench.ram, &mut segments).unwrap().tag;
    lent.request_done(&bench.ram, first, Ok(()));
    // A third comes just before: it must not be overlooked.
    lent.hush(&bench.ram, true);
    read_offered(&bench);
    take_back(&mut disk, &mut bench, &lent);
    assert_eq!(messages(&mut bench), [0x41]);
    assert_eq!(requests(&mut disk, &mut bench).len(), 1);
    disk.request_done(&mut bench.context(), DRIVE, second, Ok(()), &[]);
    assert_eq!(bench.ram.load16(USED + 2), Ok(2));
    // A reset of the function ends it all.
    disk.reset(&mut bench.context());
    assert!(disk.lend().is_none());
    assert_eq!(disk.take_cancelled(), Some(DRIVE));
}

#[test]
fn a_copy_that_meets_a_bad_ring_tells_by_the_machine() {
    let mut bench = Bench::new();
    let mut disk = disk(&[]);
    start(&mut disk, &mut bench);
    let mut lent = disk.lend().unwrap();
    offer(&bench, 99);
    assert!(lent.poll(&bench.ram));
    assert!(
        lent.next_request(&bench.ram, &mut Segments::new())
            .is_none()
    );
    assert!(lent.wants_machine() && !lent.poll(&bench.ram));
    take_back(&mut disk, &mut bench, &lent);
    assert_eq!(messages(&mut bench), [0x40], "the configuration's");
    let status = read(&mut disk, &mut bench, MODERN, 0x14, Width::Byte) as u8;
    assert_eq!(status & status::NEEDS_RESET, status::NEEDS_RESET);
    assert!(disk.lend().is_none(), "until it is reset");
}

#[test]
fn doorbells_follow_the_base_address_registers() {
    use crate::virtio::transport::Doorbell;
    let mut bench = Bench::new();
    let mut disk = disk(&[]);
    start(&mut disk, &mut bench);
    let doorbells = |disk: &VirtioBlkPci| {
        let mut all = Vec::new();
        disk.visit_doorbells(&mut |doorbell| all.push(doorbell));
        all
    };
    disk.config_write(&mut bench.context(), 0x10, Width::Dword, 0xc000);
    disk.config_write(&mut bench.context(), 0x20, Width::Dword, 0xfe00_0000);
    disk.config_write(&mut bench.context(), reg::COMMAND, Width::Word, 7);
    let port = Doorbell::Port {
        port: 0xc010,
        queue: 0,
    };
    assert_eq!(doorbells(&disk), [port, Doorbell::Memory(0xfe00_3000)]);
    assert!(disk.is_doorbell(LEGACY, 0x10) && disk.is_doorbell(MODERN, 0x3000));
    assert!(!disk.is_doorbell(LEGACY, 0x12) && !disk.is_doorbell(MODERN, 0x2fff));
    assert!(!disk.is_doorbell(MSIX, 0x10));
    disk.config_write(&mut bench.context(), reg::COMMAND, Width::Word, 6);
    assert_eq!(doorbells(&disk), [Doorbell::Memory(0xfe00_3000)]);
}

/// Describes a request of one data piece at a place of a packed ring of eight, in its first round.
fn offer_packed(bench: &Bench, at: u16, id: u16, sector: u64) {
    let header = HEADER_AT + 16 * u64::from(id);
    let mut bytes = Vec::from([0; 8]);
    bytes.extend(sector.to_le_bytes());
    bench.ram.write(header, &bytes).unwrap();
    let pieces = [
        (header, 16, 1),
        (DATA_AT, 512, 3),
        (STATUS_AT + u64::from(id), 1, 2),
    ];
    for (index, (address, length, flags)) in pieces.into_iter().enumerate() {
        let mut bytes = Vec::from(u64::to_le_bytes(address));
        bytes.extend(u32::to_le_bytes(length));
        bytes.extend(id.to_le_bytes());
        bytes.extend(u16::to_le_bytes(flags | 1 << 7));
        let place = DESCRIPTORS + 16 * (u64::from(at) + index as u64);
        bench.ram.write(place, &bytes).unwrap();
    }
}

/// Identities of the buffers that were used, by their first descriptors.
fn used_packed(bench: &Bench) -> Vec<(u16, u16)> {
    let word = |at: u16, offset| bench.ram.load16(DESCRIPTORS + 16 * u64::from(at) + offset);
    let used = |at: &u16| word(*at, 14).unwrap() & 0x8080 == 0x8080;
    let places = (0..8).filter(used);
    places.map(|at| (at, word(at, 12).unwrap())).collect()
}

#[test]
fn packed_queues_give_back_in_order() {
    let settings = [("packed", "on"), ("queue-size", "8")];
    let (mut disk, mut bench) = (disk(&settings), Bench::new());
    // Without notifications by place, which the driver then has to ask for.
    start_with(&mut disk, &mut bench, !RING_EVENT_IDX);
    bench.ram.write(STATUS_AT, &[0xee; 16]).unwrap();
    offer_packed(&bench, 0, 5, 1);
    offer_packed(&bench, 3, 2, 3);
    let work = kick(&mut disk, &mut bench);
    let offsets: Vec<u64> = work.iter().map(|work| work.2).collect();
    assert_eq!(offsets, [512, 1536]);
    // The second one ends first, and waits; over a move of the machine, too.
    disk.request_done(&mut bench.context(), DRIVE, work[1].0, Ok(()), &[]);
    assert_eq!(used_packed(&bench), []);
    assert!(messages(&mut bench).is_empty());
    let mut bytes = [0; 4096];
    let length = save(&disk, &mut bytes).unwrap();
    load(&mut disk, &bytes[..length], &mut bench.context()).unwrap();
    let again = requests(&mut disk, &mut bench);
    let offsets: Vec<u64> = again.iter().map(|work| work.2).collect();
    assert_eq!(offsets, [512], "what has not ended");
    disk.request_done(&mut bench.context(), DRIVE, again[0].0, Ok(()), &[]);
    assert_eq!(used_packed(&bench), [(0, 5), (3, 2)]);
    assert_eq!(messages(&mut bench), [0x41]);
    let mut status = [0; 6];
    bench.ram.read(STATUS_AT, &mut status).unwrap();
    assert_eq!((status[5], status[2]), (0, 0));
}

#[test]
fn an_answer_waits_for_those_before_it_in_a_packed_queue() {
    let settings = [("packed", "on"), ("queue-size", "8")];
    let (mut disk, mut bench) = (disk(&settings), Bench::new());
    start_with(&mut disk, &mut bench, !RING_EVENT_IDX);
    offer_packed(&bench, 0, 0, 1);
    // Behind the end of the disk.
    offer_packed(&bench, 3, 1, 1 << 40);
    let work = kick(&mut disk, &mut bench);
    assert_eq!((work.len(), used_packed(&bench).len()), (1, 0));
    // A reset of the queue forgets both.
    let queue_reset = 0x3a;
    write(&mut disk, &mut bench, MODERN, queue_reset, Width::Word, 1);
    assert_eq!(disk.take_cancelled(), Some(DRIVE));
    disk.request_done(&mut bench.context(), DRIVE, work[0].0, Ok(()), &[]);
    assert_eq!(used_packed(&bench), []);
    assert_eq!(requests(&mut disk, &mut bench), []);
}

/// Whatever the rings hold while a copy serves them, and whenever it is taken back, no request is done twice or forgotten by both.
#[test]
fn lent_queues_survive_hostile_rings() {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        // Marsaglia's xorshift.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut bench = Bench::new();
    let mut segments = Segments::new();
    for features in [u64::MAX, !RING_EVENT_IDX] {
        let mut disk = disk(&[]);
        let mut under_way = Vec::new();
        for _ in 0..400 {
            if disk.device().common().status() & status::NEEDS_RESET != 0
                || !under_way.is_empty() && next() % 50 == 0
            {
                disk.reset(&mut bench.context());
                assert_eq!(disk.take_cancelled().is_some(), !under_way.is_empty());
                under_way.clear();
            }
            if disk.device().common().status() == 0 {
                bench.ram.write(DESCRIPTORS, &[0; 0x3000]).unwrap();
                start_with(&mut disk, &mut bench, features);
            }
            let Some(mut lent) = disk.lend() else {
                continue;
            };
            for _ in 0..next() % 12 {
                match next() % 8 {
                    0 => lent.hush(&bench.ram, next() & 1 != 0),
                    1 => {
                        let at = DESCRIPTORS + next() % 0x2100;
                        bench.ram.write(at, &[next() as u8]).unwrap();
                    }
                    2 | 3 => {
                        let kind = [kind::IN, kind::OUT, kind::FLUSH, next() as u32]
                            [(next() & 3) as usize];
                        header(&bench, kind, next() % 140);
                        let data = (DATA_AT, 512, kind == kind::IN);
                        describe(
                            &bench,
                            0,
                            &[(HEADER_AT, 16, false), data, (STATUS_AT, 1, true)],
                        );
                        offer(&bench, 0);
                    }
                    4 | 5 => {
                        if lent.poll(&bench.ram)
                            && let Some(request) = lent.next_request(&bench.ram, &mut segments)
                        {
                            assert!(!under_way.contains(&request.tag));
                            under_way.push(request.tag);
                        }
                    }
                    6 if !under_way.is_empty() => {
                        let at = next() as usize % under_way.len();
                        let tag = under_way.swap_remove(at);
                        lent.request_done(&bench.ram, tag, Ok(()));
                    }
                    _ => while lent.take_interrupt(|_| true).is_some() {},
                }
            }
            take_back(&mut disk, &mut bench, &lent);
            messages(&mut bench);
            if next() % 3 == 0 {
                let more = requests(&mut disk, &mut bench);
                under_way.extend(more.iter().map(|work| work.0));
            }
        }
    }
}
