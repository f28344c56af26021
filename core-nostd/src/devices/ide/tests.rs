//! Drives beside what QEMU 7.2 showed, with a block layer that does what it is asked for.

use super::*;
use crate::devices::block::{Data, Failure, Operation};
use crate::devices::class::PropertyValues;
use crate::devices::testing::Bench;
use crate::devices::{Effect, Width};
use crate::memory::GuestRam;
use crate::pci::config::assert_registers;
use crate::state::{lifecycle_tests, load, save};
use drive::{CD_CLASS, HD_CLASS, Kind, Settings};
use std::vec::Vec;

const DISK: DriveId = DriveId(1);
const CDROM: DriveId = DriveId(2);
const SECTORS: u64 = 131_072;

/// A disk as first drive, and a drive for CDs as second one of the second channel.
fn controller() -> Ide {
    let mut ide = Ide::new();
    for (number, id, kind, class) in [
        (0, DISK, Kind::Disk, &HD_CLASS),
        (3, CDROM, Kind::Cdrom, &CD_CLASS),
    ] {
        let values = PropertyValues::new(class);
        let settings = Settings::new(kind, &values, number).unwrap();
        ide.add(number, Drive::new(id, settings));
        let medium = Medium {
            bytes: SECTORS * 512,
            read_only: kind == Kind::Cdrom,
            write_cache: true,
        };
        ide.medium_changed(&mut Bench::new().context(), id, Some(medium));
    }
    ide
}

lifecycle_tests!(Ide, controller(), |ide, bench| {
    command(ide, bench, 0x20, 5, 1);
    serve(ide, bench);
});

fn out(ide: &mut Ide, bench: &mut Bench, channel: u8, register: u16, value: u8) {
    let channel = ide.channel(channel);
    channel.write(&mut bench.context(), register, Width::Byte, value.into());
}

fn inb(ide: &mut Ide, bench: &mut Bench, channel: u8, register: u16) -> u8 {
    let channel = ide.channel(channel);
    channel.read(&mut bench.context(), register, Width::Byte) as u8
}

fn data(ide: &mut Ide, bench: &mut Bench, channel: u8) -> u16 {
    let channel = ide.channel(channel);
    channel.read(&mut bench.context(), 0, Width::Word) as u16
}

fn put(ide: &mut Ide, bench: &mut Bench, channel: u8, word: u16) {
    let channel = ide.channel(channel);
    channel.write(&mut bench.context(), 0, Width::Word, word.into());
}

/// Error, count, LBA, device and status.
fn registers(ide: &mut Ide, bench: &mut Bench, channel: u8) -> [u8; 7] {
    core::array::from_fn(|register| inb(ide, bench, channel, register as u16 + 1))
}

/// A command of the disk, with 28-bit addresses.
fn command(ide: &mut Ide, bench: &mut Bench, code: u8, sector: u32, count: u8) {
    let [low, middle, high, top] = sector.to_le_bytes();
    for (register, value) in [
        (6, 0xe0 | top),
        (2, count),
        (3, low),
        (4, middle),
        (5, high),
        (7, code),
    ] {
        out(ide, bench, 0, register, value);
    }
}

type Work = (DriveId, u32, Operation, u64, u64, Vec<(u64, u32)>, usize);

fn request(ide: &mut Ide, bench: &mut Bench) -> Option<Work> {
    let mut segments = Segments::new();
    let request = ide.next_request(&mut bench.context(), &mut segments)?;
    let (pieces, written) = match request.data {
        Data::Guest(pieces) => (pieces.iter().map(|p| (p.gpa, p.length)).collect(), 0),
        Data::Write(bytes) => (Vec::new(), bytes.len()),
        _ => (Vec::new(), 0),
    };
    Some((
        request.drive,
        request.tag,
        request.operation,
        request.offset,
        request.length,
        pieces,
        written,
    ))
}

/// Does what the controller wants, and says what it was. Bytes that are read count up.
fn serve(ide: &mut Ide, bench: &mut Bench) -> Vec<(Operation, u64, u64)> {
    let mut all = Vec::new();
    while let Some((drive, tag, operation, offset, length, pieces, _)) = request(ide, bench) {
        let bytes: Vec<u8> = match operation {
            Operation::Read if pieces.is_empty() => (0..length).map(|at| at as u8).collect(),
            _ => Vec::new(),
        };
        ide.request_done(&mut bench.context(), drive, tag, Ok(()), &bytes);
        all.push((operation, offset, length));
    }
    all
}

fn interrupts(bench: &mut Bench) -> Vec<(u8, bool)> {
    let changes = core::iter::from_fn(|| bench.lines.take_change());
    changes
        .map(|change| (change.line.number(), change.level))
        .collect()
}

/// Observed with QEMU 7.2.
#[test]
fn configuration_space_after_power_on() {
    let set = [
        (0x00, 0x7010_8086),
        (0x04, 0x0280_0000),
        (0x08, 0x0101_8000),
        (0x20, 0x0000_0001),
        (0x2c, 0x1100_1af4),
    ];
    assert_registers(&Ide::new(), &set);
    // Where no firmware has run before; SeaBIOS leaves it so.
    let (mut ide, mut bench) = (Ide::new(), Bench::new());
    ide.enable_channels();
    ide.config_mut().write(0x40, Width::Dword, 0);
    PciFunction::reset(&mut ide, &mut bench.context());
    assert_registers(&ide, &[&set[..], &[(0x40, 0x8000_8000)]].concat());
}

/// Observed with QEMU 7.2.
#[test]
fn registers_tell_drives_apart() {
    let (mut ide, mut bench) = (controller(), Bench::new());
    let none = [0, 1, 1, 0xff, 0xff, 0xa0, 0x50];
    assert_eq!(
        registers(&mut ide, &mut bench, 0),
        [0, 1, 1, 0, 0, 0xa0, 0x50]
    );
    assert_eq!(registers(&mut ide, &mut bench, 1), none);
    out(&mut ide, &mut bench, 1, 6, 0xb0);
    assert_eq!(
        registers(&mut ide, &mut bench, 1),
        [0, 1, 1, 0x14, 0xeb, 0xb0, 0x50]
    );
    out(&mut ide, &mut bench, 0, 6, 0xb0);
    assert_eq!(
        registers(&mut ide, &mut bench, 0),
        [0, 1, 1, 0xff, 0xff, 0xb0, 0]
    );
    let (mut empty, mut bench) = (Ide::new(), Bench::new());
    assert_eq!(registers(&mut empty, &mut bench, 0), [0; 7]);
    out(&mut empty, &mut bench, 0, 7, 0xec);
    assert_eq!(registers(&mut empty, &mut bench, 0), [0; 7]);
}

/// Observed with QEMU 7.2, with a disk of 64 MiB.
#[test]
fn identify() {
    let (mut ide, mut bench) = (controller(), Bench::new());
    out(&mut ide, &mut bench, 0, 7, 0xec);
    assert_eq!(interrupts(&mut bench), [(14, true)]);
    let words: Vec<u16> = (0..256).map(|_| data(&mut ide, &mut bench, 0)).collect();
    assert_eq!(inb(&mut ide, &mut bench, 0, 7), 0x50);
    assert_eq!(interrupts(&mut bench), [(14, false)]);
    for (word, value) in [
        (0, 0x40),
        (1, 130),
        (10, 0x514d),
        (13, 0x3120),
        (27, 0x5145),
        (49, 0xb00),
        (57, 0xffe0),
        (61, 2),
        (63, 7),
        (83, 0x7400),
        (85, 0x4021),
        (88, 0x203f),
        (101, 2),
        (169, 1),
    ] {
        assert_eq!(words[word], value, "word {word}");
    }
    assert_eq!(data(&mut ide, &mut bench, 0), 0);
}

#[test]
fn sectors_pass_the_data_port() {
    let (mut ide, mut bench) = (controller(), Bench::new());
    command(&mut ide, &mut bench, 0x20, 5, 2);
    for round in 0..2 {
        let expected = (Operation::Read, (5 + round) * 512, 512);
        assert_eq!(serve(&mut ide, &mut bench), [expected]);
        assert_eq!(interrupts(&mut bench), [(14, true)]);
        assert_eq!(inb(&mut ide, &mut bench, 0, 7), 0x58);
        let words: Vec<u16> = (0..256).map(|_| data(&mut ide, &mut bench, 0)).collect();
        assert_eq!((words[0], words[255]), (0x0100, 0xfffe));
        interrupts(&mut bench);
    }
    let after = [0, 0, 7, 0, 0, 0xe0, 0x50];
    assert_eq!(registers(&mut ide, &mut bench, 0), after);
    command(&mut ide, &mut bench, 0x30, 9, 1);
    assert_eq!(interrupts(&mut bench), [], "the first block is just taken");
    for word in 0..256 {
        put(&mut ide, &mut bench, 0, word);
    }
    let write = Operation::Write {
        force_unit_access: false,
    };
    assert_eq!(serve(&mut ide, &mut bench), [(write, 9 * 512, 512)]);
    assert_eq!(interrupts(&mut bench), [(14, true)]);
    // Behind the end, and with a block layer that fails.
    command(&mut ide, &mut bench, 0x20, SECTORS as u32, 1);
    assert_eq!(serve(&mut ide, &mut bench), []);
    assert_eq!(registers(&mut ide, &mut bench, 0)[0], 4);
    assert_eq!(inb(&mut ide, &mut bench, 0, 7), 0x41);
    command(&mut ide, &mut bench, 0x20, 0, 1);
    let (drive, tag, ..) = request(&mut ide, &mut bench).unwrap();
    let failed = Err(Failure::Io);
    ide.request_done(&mut bench.context(), drive, tag, failed, &[]);
    assert_eq!(inb(&mut ide, &mut bench, 0, 7), 0x41);
}

/// The table of the first channel's bus master: pieces, and whether it ends.
fn table(ide: &mut Ide, bench: &mut Bench, pieces: &[(u32, u32)]) {
    for (index, (gpa, length)) in pieces.iter().enumerate() {
        let at = 0x1000 + 8 * index as u64;
        bench.ram.write(at, &gpa.to_le_bytes()).unwrap();
        bench.ram.write(at + 4, &length.to_le_bytes()).unwrap();
    }
    ide.bar_write(&mut bench.context(), 4, 4, Width::Dword, 0x1000);
}

fn master(ide: &mut Ide, bench: &mut Bench) -> u8 {
    ide.bar_read(&mut bench.context(), 4, 2, Width::Byte) as u8
}

fn start(ide: &mut Ide, bench: &mut Bench) {
    ide.bar_write(&mut bench.context(), 4, 0, Width::Byte, 0);
    ide.bar_write(&mut bench.context(), 4, 2, Width::Byte, 6);
    ide.bar_write(&mut bench.context(), 4, 0, Width::Byte, 9);
}

#[test]
fn the_bus_master_reads_and_writes_memory() {
    const LAST: u32 = 1 << 31;
    let (mut ide, mut bench) = (controller(), Bench::new());
    for (pieces, status, work) in [
        (&[(0x2000, 512), (0x3000, LAST | 512)][..], 4, true),
        // More room than needed: it stays active. Less: nothing happens, and nobody is told.
        (&[(0x2000, LAST | 2048)], 5, true),
        (&[(0x2000, LAST | 512)], 0, false),
    ] {
        table(&mut ide, &mut bench, pieces);
        ide.bar_write(&mut bench.context(), 4, 0, Width::Byte, 0);
        command(&mut ide, &mut bench, 0xc8, 8, 2);
        assert_eq!(request(&mut ide, &mut bench), None, "it was not started");
        assert_eq!(inb(&mut ide, &mut bench, 0, 7), 0x58);
        start(&mut ide, &mut bench);
        interrupts(&mut bench);
        let served = serve(&mut ide, &mut bench);
        assert_eq!(served.len(), usize::from(work));
        assert_eq!(interrupts(&mut bench).len(), usize::from(work));
        assert_eq!(master(&mut ide, &mut bench), status);
        assert_eq!(inb(&mut ide, &mut bench, 0, 7), 0x50);
    }
    table(&mut ide, &mut bench, &[(0x2000, 512), (0x3000, LAST | 512)]);
    ide.bar_write(&mut bench.context(), 4, 0, Width::Byte, 0);
    command(&mut ide, &mut bench, 0xca, 8, 2);
    start(&mut ide, &mut bench);
    let (drive, tag, operation, offset, length, pieces, _) = request(&mut ide, &mut bench).unwrap();
    let write = Operation::Write {
        force_unit_access: false,
    };
    assert_eq!((operation, offset, length), (write, 4096, 1024));
    assert_eq!(pieces, [(0x2000, 512), (0x3000, 512)]);
    let failed = Err(Failure::Memory);
    ide.request_done(&mut bench.context(), drive, tag, failed, &[]);
    assert_eq!(inb(&mut ide, &mut bench, 0, 7), 0x41);
    assert_eq!(master(&mut ide, &mut bench), 4);
}

#[test]
fn ranges_are_trimmed() {
    let (mut ide, mut bench) = (controller(), Bench::new());
    for (index, range) in [8 | 2 << 48, 0, 100 | 1 << 48].into_iter().enumerate() {
        let at = 0x2000 + 8 * index as u64;
        bench.ram.write(at, &u64::to_le_bytes(range)).unwrap();
    }
    table(&mut ide, &mut bench, &[(0x2000, 1 << 31 | 512)]);
    out(&mut ide, &mut bench, 0, 1, 1);
    command(&mut ide, &mut bench, 0x06, 0, 1);
    start(&mut ide, &mut bench);
    let expected = [
        (Operation::Discard, 4096, 1024),
        (Operation::Discard, 51_200, 512),
    ];
    assert_eq!(serve(&mut ide, &mut bench), expected);
    assert_eq!(inb(&mut ide, &mut bench, 0, 7), 0x50);
    // A range that is not on the disk.
    let range = (SECTORS - 1) | 2 << 48;
    bench.ram.write(0x2000, &range.to_le_bytes()).unwrap();
    command(&mut ide, &mut bench, 0x06, 0, 1);
    start(&mut ide, &mut bench);
    assert_eq!(serve(&mut ide, &mut bench), []);
    assert_eq!(inb(&mut ide, &mut bench, 0, 7), 0x41);
}

/// Writes a packet to the drive for CDs.
fn packet(ide: &mut Ide, bench: &mut Bench, features: u8, bytes: &[u8]) {
    for (register, value) in [(6, 0xb0), (1, features), (4, 0xfe), (5, 0xff), (7, 0xa0)] {
        out(ide, bench, 1, register, value);
    }
    let mut whole = [0; 12];
    whole[..bytes.len()].copy_from_slice(bytes);
    for word in whole.chunks_exact(2) {
        put(ide, bench, 1, u16::from_le_bytes([word[0], word[1]]));
    }
}

/// Sense key and code of the last failure.
fn sense(ide: &mut Ide, bench: &mut Bench) -> (u8, u8) {
    packet(ide, bench, 0, &[0x03, 0, 0, 0, 18]);
    let words: Vec<u16> = (0..9).map(|_| data(ide, bench, 1)).collect();
    (words[1] as u8, words[6] as u8)
}

#[test]
fn blocks_of_a_cd() {
    let (mut ide, mut bench) = (controller(), Bench::new());
    packet(&mut ide, &mut bench, 0, &[0x28, 0, 0, 0, 0, 5, 0, 0, 5]);
    let mut words = 0;
    for blocks in [4, 1] {
        let served = serve(&mut ide, &mut bench);
        assert_eq!(served.len(), 1);
        assert_eq!(served[0].2, blocks * 2048);
        while inb(&mut ide, &mut bench, 1, 7) == 0x58 {
            assert_eq!(data(&mut ide, &mut bench, 1) as u8, (2 * words) as u8);
            words += 1;
        }
    }
    assert_eq!(words, 5 * 1024);
    assert_eq!(inb(&mut ide, &mut bench, 1, 7), 0x50);
    // Behind the end.
    packet(&mut ide, &mut bench, 0, &[0x28, 0, 0, 0, 0x80, 0, 0, 0, 1]);
    assert_eq!(sense(&mut ide, &mut bench), (5, 0x21));
    packet(
        &mut ide,
        &mut bench,
        0,
        &[0x28, 0, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff],
    );
    assert_eq!(sense(&mut ide, &mut bench), (5, 0x21));
    packet(&mut ide, &mut bench, 0, &[0xff]);
    assert_eq!(sense(&mut ide, &mut bench), (5, 0x20));
    // To memory, with and without what is around the data.
    let last = 1_u32 << 31;
    bench.ram.write(0x1000, &0x2000_u32.to_le_bytes()).unwrap();
    bench
        .ram
        .write(0x1004, &(last | 0x4000).to_le_bytes())
        .unwrap();
    for (bytes, blocks, moved) in [
        (&[0x28, 0, 0, 0, 0, 0, 0, 0, 2][..], 2, 4096),
        (&[0xbe, 0, 0, 0, 0, 0, 0, 0, 4, 0xf8], 4, 0),
    ] {
        packet(&mut ide, &mut bench, 1, bytes);
        for (register, value) in [(12, 0x1000), (8, 0), (8, 9)] {
            let width = if register == 12 {
                Width::Dword
            } else {
                Width::Byte
            };
            ide.bar_write(&mut bench.context(), 4, register, width, value);
        }
        let served = serve(&mut ide, &mut bench);
        let length: u64 = served.iter().map(|work| work.2).sum();
        assert_eq!(length, blocks * 2048);
        assert_eq!(served[0].2 == moved, moved != 0, "straight to memory");
        assert_eq!(inb(&mut ide, &mut bench, 1, 7), 0x50);
    }
    let mut raw = [0; 18];
    bench.ram.read(0x2000 + 3 * 2352, &mut raw).unwrap();
    let expected = [
        0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 2, 3, 1, 0, 1,
    ];
    assert_eq!(raw, expected);
}

#[test]
fn trays_move_and_lock() {
    let (mut ide, mut bench) = (controller(), Bench::new());
    let tray = |ide: &Ide| ide.tray(CDROM).map(|tray| (tray.open, tray.locked));
    assert_eq!((tray(&ide), ide.tray(DISK)), (Some((false, false)), None));
    packet(&mut ide, &mut bench, 0, &[0x1e, 0, 0, 0, 1]);
    packet(&mut ide, &mut bench, 0, &[0x1b, 0, 0, 0, 2]);
    assert_eq!(sense(&mut ide, &mut bench), (2, 0x53));
    assert_eq!(
        (tray(&ide), bench.effects.take()),
        (Some((false, true)), None)
    );
    // The button is pressed: the guest hears of it, and lets the medium go.
    ide.eject_requested(&mut bench.context(), CDROM);
    packet(&mut ide, &mut bench, 0, &[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8]);
    let words: Vec<u16> = (0..4).map(|_| data(&mut ide, &mut bench, 1)).collect();
    assert_eq!(words[2], 0x0201);
    packet(&mut ide, &mut bench, 0, &[0x1e]);
    packet(&mut ide, &mut bench, 0, &[0x1b, 0, 0, 0, 2]);
    let moved = |open| Some(Effect::Tray { drive: CDROM, open });
    assert_eq!(bench.effects.take(), moved(true));
    packet(&mut ide, &mut bench, 0, &[0]);
    assert_eq!(sense(&mut ide, &mut bench), (2, 0x3a));
    packet(&mut ide, &mut bench, 0, &[0x1b, 0, 0, 0, 3]);
    assert_eq!(bench.effects.take(), moved(false));
    packet(&mut ide, &mut bench, 0, &[0]);
    assert_eq!(inb(&mut ide, &mut bench, 1, 7), 0x50);
    // From outside: the guest first hears that the medium has gone, then that there is another one. The lock is gone.
    packet(&mut ide, &mut bench, 0, &[0x1e, 0, 0, 0, 1]);
    ide.move_tray(&mut bench.context(), CDROM, true);
    assert_eq!(tray(&ide), Some((true, false)));
    ide.move_tray(&mut bench.context(), CDROM, false);
    for expected in [(2, 0x3a), (6, 0x28)] {
        packet(&mut ide, &mut bench, 0, &[0]);
        assert_eq!(sense(&mut ide, &mut bench), expected);
    }
    packet(&mut ide, &mut bench, 0, &[0]);
    assert_eq!(inb(&mut ide, &mut bench, 1, 7), 0x50);
}

#[test]
fn a_reset_gives_requests_up() {
    let (mut ide, mut bench) = (controller(), Bench::new());
    command(&mut ide, &mut bench, 0xe7, 0, 0);
    let (drive, tag, ..) = request(&mut ide, &mut bench).unwrap();
    ide.channel(0).control_write(&mut bench.context(), 4);
    assert_eq!(ide.take_cancelled(), Some(DISK));
    assert_eq!(ide.take_cancelled(), None);
    ide.channel(0).control_write(&mut bench.context(), 0);
    interrupts(&mut bench);
    ide.request_done(&mut bench.context(), drive, tag, Ok(()), &[]);
    assert_eq!(interrupts(&mut bench), []);
    let after = [1, 1, 1, 0, 0, 0xa0, 0x50];
    assert_eq!(registers(&mut ide, &mut bench, 0), after);
}

#[test]
fn what_is_under_way_is_handed_out_again_after_loading() {
    let (mut ide, mut bench) = (controller(), Bench::new());
    command(&mut ide, &mut bench, 0xc4, 5, 3);
    let before = request(&mut ide, &mut bench).unwrap();
    let mut bytes = std::vec![0; 0x10000];
    let length = save(&ide, &mut bytes).unwrap();
    let mut other = controller();
    load(&mut other, &bytes[..length], &mut bench.context()).unwrap();
    let after = request(&mut other, &mut bench).unwrap();
    assert_eq!((before.2, before.3, before.4), (after.2, after.3, after.4));
    let (drive, tag, length) = (after.0, after.1, after.4);
    let data = std::vec![7; length as usize];
    other.request_done(&mut bench.context(), drive, tag, Ok(()), &data);
    assert_eq!(self::data(&mut other, &mut bench, 0), 0x0707);
}

#[test]
fn impossible_state_is_refused() {
    let mut ide = controller();
    let (mut saved, mut bench) = (ide.save(), Bench::new());
    saved.channels.swap(0, 1);
    let result = ide.load(saved, &mut bench.context());
    assert_eq!(result, Err(StateError::Invalid("drives")));
}

/// Tables of regions that no driver makes: each transfer ends in some way, and the drive takes the next command.
#[test]
fn hostile_tables_end_transfers() {
    const LAST: u32 = 1 << 31;
    let (mut ide, mut bench) = (controller(), Bench::new());
    // Regions of a few bytes without an end, so that a table of 4 KiB has less than is wanted.
    let endless: Vec<(u32, u32)> = (0..512).map(|_| (0x2000, 2)).collect();
    let odd: Vec<(u32, u32)> = (0..512).map(|_| (0xffff_ffff, 3)).collect();
    for pieces in [
        &endless[..],
        &odd,
        &[(u32::MAX, LAST)],
        &[(0, LAST | 0xffff)],
        &[(0xffff_fffe, 4), (0xfee0_0000, LAST | 0xfffe)],
    ] {
        for code in [0xc8, 0xca, 0x06] {
            table(&mut ide, &mut bench, pieces);
            out(&mut ide, &mut bench, 0, 1, 1);
            command(&mut ide, &mut bench, code, 8, 16);
            start(&mut ide, &mut bench);
            for _ in 0..2000 {
                let Some((drive, tag, _, _, length, pieces, _)) = request(&mut ide, &mut bench)
                else {
                    break;
                };
                let described: u64 = pieces.iter().map(|piece| u64::from(piece.1)).sum();
                assert!(pieces.is_empty() || described == length);
                let outcome = Err(Failure::Memory);
                ide.request_done(&mut bench.context(), drive, tag, outcome, &[]);
            }
            assert_eq!(request(&mut ide, &mut bench), None);
            let status = inb(&mut ide, &mut bench, 0, 7);
            assert_eq!(status & 0x88, 0, "{code:#x}, {pieces:?}: {status:#x}");
        }
    }
    // A table that is nowhere is one of zeros: regions of 64 KiB at 0.
    ide.bar_write(&mut bench.context(), 4, 4, Width::Dword, 0xffff_fffc);
    command(&mut ide, &mut bench, 0xc8, 8, 1);
    start(&mut ide, &mut bench);
    assert_eq!(serve(&mut ide, &mut bench), [(Operation::Read, 4096, 512)]);
    assert_eq!(inb(&mut ide, &mut bench, 0, 7), 0x50);
}

/// The medium is gone when what was asked of it ends; also where the machine has moved meanwhile.
#[test]
fn media_leave_while_they_are_read() {
    for is_moved in [false, true] {
        for dma in [0, 1] {
            let (mut ide, mut bench) = (controller(), Bench::new());
            table(&mut ide, &mut bench, &[(0x2000, 1 << 31)]);
            packet(&mut ide, &mut bench, dma, &[0x28, 0, 0, 0, 0, 5, 0, 0, 2]);
            ide.bar_write(&mut bench.context(), 4, 12, Width::Dword, 0x1000);
            ide.bar_write(&mut bench.context(), 4, 8, Width::Byte, 9);
            let (drive, mut tag, ..) = request(&mut ide, &mut bench).unwrap();
            ide.move_tray(&mut bench.context(), CDROM, true);
            ide.medium_changed(&mut bench.context(), CDROM, None);
            if is_moved {
                let mut bytes = [0; 32768];
                let length = save(&ide, &mut bytes).unwrap();
                load(&mut ide, &bytes[..length], &mut bench.context()).unwrap();
                // There is nothing to hand out again.
                assert_eq!(request(&mut ide, &mut bench), None);
                tag += 1;
            }
            let outcome = Err(Failure::NoMedium);
            ide.request_done(&mut bench.context(), drive, tag, outcome, &[]);
            assert_eq!(inb(&mut ide, &mut bench, 1, 7), 0x41);
            let code = if is_moved { (5, 0x21) } else { (2, 0x3a) };
            assert_eq!(sense(&mut ide, &mut bench), code);
            packet(&mut ide, &mut bench, 0, &[0x28, 0, 0, 0, 0, 5, 0, 0, 2]);
            assert_eq!(request(&mut ide, &mut bench), None);
            assert_eq!(sense(&mut ide, &mut bench), (2, 0x3a));
        }
    }
}
