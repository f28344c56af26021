//! The controller beside what QEMU 7.2 showed, with a block layer that does what it is asked for.

use super::*;
use crate::devices::testing::Bench;
use crate::memory::GuestRam;
use crate::state::{lifecycle_tests, load, save};
use std::vec::Vec;

const A: DriveId = DriveId(3);
const FLOPPY: usize = 1440 << 10;
/// Where DMA goes.
const BUFFER: u64 = 0x1000;

fn wiring() -> FdcWiring {
    FdcWiring {
        irq: IrqLine::new(IRQ),
        timer: TimerId::new(5),
    }
}

/// A controller with an empty drive A.
fn empty() -> Fdc {
    let mut fdc = Fdc::new(wiring(), Kind::Inch3Extra);
    let values = PropertyValues::new(&drive::CLASS);
    assert_eq!(fdc.add(A, &values), Ok(0));
    fdc
}

fn medium(bytes: usize, read_only: bool) -> Option<Medium> {
    Some(Medium {
        bytes: bytes as u64,
        read_only,
        write_cache: true,
    })
}

lifecycle_tests!(Fdc, empty(), |fdc, bench| {
    fdc.pio_write(&mut bench.context(), register::FIFO, Width::Byte, 0x13);
    fdc.pio_write(&mut bench.context(), register::DOR, Width::Byte, 0x1d);
});

/// A machine's worth of parts.
struct Rig {
    fdc: Fdc,
    dma: Dma,
    bench: Bench,
    disk: Vec<u8>,
    /// How storage fails.
    failure: Option<Failure>,
}

impl Rig {
    fn new(bytes: usize) -> Self {
        let mut rig = Self {
            fdc: empty(),
            dma: Dma::new(),
            bench: Bench::new(),
            disk: (0..bytes).map(|at| (at / 512) as u8).collect(),
            failure: None,
        };
        rig.insert(medium(bytes, false));
        rig.out(register::DOR, 0x1c);
        let rate = rig.fdc.drive().rate();
        rig.out(register::DIR, rate);
        rig
    }

    fn insert(&mut self, medium: Option<Medium>) {
        self.fdc
            .medium_changed(&mut self.bench.context(), A, medium);
    }

    fn out(&mut self, offset: u16, value: u8) {
        self.bench.out(&mut self.fdc, offset, value);
        self.serve();
    }

    fn inb(&mut self, offset: u16) -> u8 {
        let value = self.bench.inb(&mut self.fdc, offset);
        self.serve();
        value
    }

    /// Whatever is wanted of storage and of the DMA controller happens.
    fn serve(&mut self) {
        loop {
            self.fdc
                .move_by_dma(&mut self.bench.context(), &mut self.dma);
            let mut segments = Segments::new();
            let request = self
                .fdc
                .next_request(&mut self.bench.context(), &mut segments);
            let Some(request) = request else { return };
            let (drive, tag, at) = (request.drive, request.tag, request.offset as usize);
            assert_eq!((drive, request.length), (A, 512));
            let mut read = Vec::new();
            let mut outcome = self.failure.map_or(Ok(()), Err);
            match (self.disk.get_mut(at..at + 512), request.data) {
                (None, _) => outcome = Err(Failure::Range),
                (Some(sector), Data::Write(bytes)) if outcome.is_ok() => {
                    sector.copy_from_slice(bytes);
                }
                (Some(sector), _) if outcome.is_ok() => read.extend_from_slice(sector),
                _ => {}
            }
            self.fdc
                .request_done(&mut self.bench.context(), drive, tag, outcome, &read);
        }
    }

    /// Sets the channel up for so many bytes.
    fn channel(&mut self, mode: u8, bytes: u16) {
        let [low, high] = (bytes - 1).to_le_bytes();
        let base = (BUFFER as u16).to_le_bytes();
        for (port, value) in [
            (0x0a, 6),
            (0x0c, 0),
            (0x0b, mode | 2),
            (0x04, base[0]),
            (0x04, base[1]),
            (0x05, low),
            (0x05, high),
            (0x81, 0),
            (0x0a, 2),
        ] {
            self.bench.out(&mut self.dma, port, value);
        }
        self.serve();
    }

    fn send(&mut self, bytes: &[u8]) {
        bytes
            .iter()
            .for_each(|byte| self.out(register::FIFO, *byte));
    }

    /// The result of a command, as far as there is one.
    fn command(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.send(bytes);
        let mut result = Vec::new();
        while self.inb(register::MSR) & 0xe0 == 0xc0 {
            result.push(self.inb(register::FIFO));
        }
        result
    }

    fn memory(&self, bytes: usize) -> Vec<u8> {
        let mut memory = std::vec![0; bytes];
        self.bench.ram.read(BUFFER, &mut memory).unwrap();
        memory
    }

    /// Whether the interrupt line is high.
    fn irq(&self) -> bool {
        self.bench.lines.level(wiring().irq)
    }
}

/// Reads of one sector, 3 of track 5 on head 0 and on all sides.
const READ: [u8; 9] = [0xe6, 0, 5, 0, 3, 2, 18, 0x1b, 0xff];
/// The same of a write.
const WRITE: [u8; 9] = [0xc5, 0, 5, 0, 3, 2, 18, 0x1b, 0xff];
/// Where that sector is.
const THIRD: usize = (5 * 2 * 18 + 2) * 512;

#[test]
fn a_reset_is_sensed_four_times() {
    let mut rig = Rig::new(FLOPPY);
    rig.out(register::DOR, 0);
    rig.out(register::DOR, 0x1c);
    assert!(rig.irq());
    for drive in 0..4 {
        assert_eq!(rig.command(&[0x08]), [0xc0 | drive, 0]);
        assert!(!rig.irq());
    }
    assert_eq!(rig.command(&[0x08]), [0x80]);
    // Whoever reads MSR ends the reset, without a word.
    rig.out(register::DOR, 0);
    assert_eq!(rig.inb(register::MSR), 0x80);
    rig.out(register::DOR, 0x1c);
    assert_eq!(rig.command(&[0x08]), [0x80]);
}

#[test]
fn sectors_are_read_by_dma() {
    let mut rig = Rig::new(FLOPPY);
    rig.channel(0x44, 1024);
    assert_eq!(rig.inb(register::DIR), 0x80);
    assert_eq!(rig.command(&READ), [0x20, 0, 0, 5, 0, 5, 2]);
    assert_eq!(rig.memory(1024), rig.disk[THIRD..THIRD + 1024]);
    assert_eq!(rig.inb(register::DIR), 0);
    // The other side follows, and what the channel would still take stays.
    rig.channel(0x44, 0x8000);
    assert_eq!(
        rig.command(&[0xe6, 0, 5, 0, 18, 2, 18, 0x1b, 0xff]),
        [0x20, 0, 0, 6, 0, 1, 2]
    );
    assert_eq!(rig.memory(512), [197; 512]);
    assert_eq!(rig.memory(1024)[512..], [198; 512]);
}

#[test]
fn the_channel_may_come_later_and_in_pieces() {
    let mut rig = Rig::new(FLOPPY);
    rig.channel(0x44, 1024);
    rig.bench.out(&mut rig.dma, 0x0a, 6);
    rig.send(&READ);
    assert_eq!((rig.inb(register::MSR), rig.irq()), (0x10, false));
    rig.bench.out(&mut rig.dma, 0x0a, 2);
    rig.serve();
    assert_eq!((rig.inb(register::MSR), rig.irq()), (0xd0, true));
    assert_eq!(rig.memory(1024), rig.disk[THIRD..THIRD + 1024]);
}

#[test]
fn sectors_are_written_by_dma() {
    let mut rig = Rig::new(FLOPPY);
    rig.bench.ram.write(BUFFER, &[0x77; 600]).unwrap();
    rig.channel(0x48, 600);
    assert_eq!(rig.command(&WRITE), [0x20, 0, 0, 5, 0, 4, 2]);
    assert_eq!(rig.disk[THIRD..THIRD + 600], [0x77; 600]);
    let next = rig.disk[THIRD + 1024];
    assert_eq!(rig.disk[THIRD + 600..THIRD + 1024], [next - 1; 424]);
}

#[test]
fn protected_media_are_not_written() {
    let mut rig = Rig::new(FLOPPY);
    rig.insert(medium(FLOPPY, true));
    let before = rig.disk.clone();
    rig.channel(0x48, 512);
    assert_eq!(rig.command(&WRITE), [0x60, 2, 0, 5, 0, 3, 2]);
    assert_eq!(rig.command(&[0x04, 0]), [0x68]);
    assert_eq!(rig.command(&[0x4d, 0, 2, 18, 0x54, 0xf6])[..2], [0x40, 2]);
    // Its contents are the same ones: nobody has changed it.
    rig.command(&[0x0f, 0, 1]);
    assert_eq!(rig.inb(register::DIR), 0);
    assert_eq!(rig.disk, before);
}

#[test]
fn bytes_go_through_the_fifo_without_dma() {
    let mut rig = Rig::new(FLOPPY);
    rig.out(register::DOR, 0x14);
    let mut read = READ;
    (read[0], read[6]) = (0x46, 4);
    rig.send(&read);
    assert_eq!((rig.inb(register::MSR), rig.irq()), (0xf0, true));
    let bytes: Vec<u8> = (0..1024).map(|_| rig.inb(register::FIFO)).collect();
    assert_eq!(bytes, rig.disk[THIRD..THIRD + 1024]);
    assert_eq!(rig.command(&[]), [0x20, 0, 0, 5, 0, 4, 2]);
    let mut write = WRITE;
    (write[0], write[6]) = (0x45, 4);
    rig.send(&write);
    assert_eq!(rig.inb(register::MSR), 0xb0);
    (0..1024).for_each(|at| rig.out(register::FIFO, (at / 300) as u8));
    assert_eq!(rig.command(&[]), [0x20, 0, 0, 6, 0, 1, 2]);
    let expected: Vec<u8> = (0..1024).map(|at| (at / 300) as u8).collect();
    assert_eq!(rig.disk[THIRD..THIRD + 1024], expected);
}

#[test]
fn a_short_read_ends_with_its_count_and_none_never() {
    let mut rig = Rig::new(FLOPPY);
    rig.out(register::DOR, 0x14);
    rig.send(&[0x46, 0, 5, 0, 3, 0, 18, 0x1b, 16]);
    (0..16).for_each(|_| assert_eq!(rig.inb(register::FIFO), rig.disk[THIRD]));
    assert_eq!(rig.command(&[]), [0x20, 0, 0, 5, 0, 3, 2]);
    // A count of none runs off the track: a byte that is none, and the next track.
    rig.send(&[0x46, 0, 5, 0, 18, 2, 17, 0x1b, 0]);
    let bytes: Vec<u8> = (0..514).map(|_| rig.inb(register::FIFO)).collect();
    let last = (5 * 2 * 18 + 17) as u8;
    assert_eq!(bytes[..512], [last; 512]);
    assert_eq!(bytes[512], 0);
    assert_eq!(rig.inb(register::MSR), 0xf0);
    rig.out(register::FIFO, 1);
    rig.out(register::DOR, 0);
    rig.out(register::DOR, 0x1c);
    assert_eq!(rig.command(&[0x08]), [0xc0, 0]);
}

#[test]
fn what_is_not_there_is_not_found() {
    let mut rig = Rig::new(FLOPPY);
    let mut end = |change: fn(&mut [u8; 9])| {
        let mut command = READ;
        change(&mut command);
        rig.command(&command)
    };
    assert_eq!(end(|c| c[4] = 19), [0x40, 0x80, 0, 5, 0, 19, 2]);
    assert_eq!(end(|c| c[2] = 81), [0x40, 0, 0, 81, 0, 3, 2]);
    assert_eq!(end(|c| c[6] = 1), [0x60, 1, 0, 5, 0, 3, 2]);
    assert_eq!(end(|c| c[0] = 0x0c), [0x60, 0, 0, 5, 0, 3, 2]);
    // There is no drive B.
    assert_eq!(end(|c| c[1] = 1), [0x41, 0, 0, 5, 0, 3, 2]);
    // At another data rate there is no mark.
    rig.out(register::DIR, 1);
    assert_eq!(rig.command(&READ), [0x40, 1, 0, 5, 0, 3, 2]);
}

#[test]
fn the_sector_before_the_first_is_of_zeros() {
    let mut rig = Rig::new(FLOPPY);
    rig.bench.ram.write(BUFFER, &[1; 1024]).unwrap();
    rig.channel(0x44, 1024);
    let first = [0xe6, 0, 0, 0, 0, 2, 18, 0x1b, 0xff];
    assert_eq!(rig.command(&first), [0, 0, 0, 0, 0, 2, 2]);
    assert_eq!(rig.memory(512), [0; 512]);
    assert_eq!(rig.memory(1024)[512..], rig.disk[..512]);
    rig.channel(0x48, 1024);
    let first = [0xc5, 0, 0, 0, 0, 2, 18, 0x1b, 0xff];
    assert_eq!(rig.command(&first), [0x60, 0, 0, 0, 0, 0, 2]);
}

#[test]
fn without_a_medium_heads_move() {
    let mut rig = Rig::new(FLOPPY);
    rig.insert(None);
    assert_eq!(rig.command(&[0x0e]), [0, 0, 0, 0, 0, 1, 0xff, 0, 0x60, 0]);
    assert!(rig.command(&[0x0f, 0, 200]).is_empty());
    assert_eq!(rig.command(&[0x08]), [0x20, 200]);
    assert_eq!(rig.command(&READ), [0x40, 0, 0, 5, 0, 3, 2]);
    assert_eq!(rig.inb(register::DIR), 0x80);
    rig.insert(medium(720 << 10, false));
    rig.command(&[0x0f, 0, 1]);
    assert_eq!(rig.inb(register::DIR), 0);
    assert_eq!(rig.command(&[0x0e])[6], 9);
}

#[test]
fn storage_that_fails_is_told_of() {
    let mut rig = Rig::new(FLOPPY);
    rig.failure = Some(Failure::Io);
    rig.channel(0x44, 512);
    assert_eq!(rig.command(&READ), [0x60, 0x20, 0x20, 5, 0, 3, 2]);
    rig.channel(0x48, 512);
    assert_eq!(rig.command(&WRITE), [0x60, 0, 0, 5, 0, 3, 2]);
    // Behind the end of an image that is too short there are zeros.
    let mut rig = Rig::new(100 * 512);
    assert_eq!(rig.fdc.kind(0), Kind::Inch3Extra);
    rig.bench.ram.write(BUFFER, &[1; 512]).unwrap();
    rig.channel(0x44, 512);
    assert_eq!(rig.command(&READ), [0x20, 0, 0, 5, 0, 4, 2]);
    assert_eq!(rig.memory(512), [0; 512]);
}

#[test]
fn a_track_is_formatted() {
    let mut rig = Rig::new(FLOPPY);
    rig.command(&[0x0f, 0, 5]);
    rig.command(&[0x08]);
    let ids: Vec<u8> = (1..=18).flat_map(|sector| [5, 1, sector, 2]).collect();
    rig.bench.ram.write(BUFFER, &ids).unwrap();
    rig.channel(0x48, 72);
    let before = rig.disk.clone();
    let result = rig.command(&[0x4d, 4, 2, 18, 0x54, 0xf6]);
    assert_eq!(result, [4, 0, 0, 5, 1, 18, 2]);
    let track = 11 * 18 * 512;
    assert_eq!(rig.disk[track..track + 18 * 512], [0xf6; 18 * 512]);
    assert_eq!(rig.disk[..track], before[..track]);
    assert_eq!(rig.disk[track + 18 * 512..], before[track + 18 * 512..]);
    // By the processor; and a layout that the image can't have.
    rig.out(register::DOR, 0x14);
    rig.send(&[0x4d, 4, 2, 1, 0x54, 0xe5]);
    rig.send(&[5, 1, 7, 2]);
    assert_eq!(rig.command(&[])[..3], [4, 0, 0]);
    assert_eq!(rig.disk[track + 6 * 512..][..513], {
        let mut expected = [0xe5; 513];
        expected[512] = 0xf6;
        expected
    });
    rig.send(&[0x4d, 4, 2, 1, 0x54, 0xe5]);
    rig.send(&[5, 1, 7, 3]);
    assert_eq!(rig.command(&[])[..2], [0x44, 4]);
    assert_eq!(rig.command(&[0x4d, 4, 1, 1, 0x54, 0xe5])[..2], [0x44, 4]);
}

#[test]
fn headers_come_by() {
    let mut rig = Rig::new(FLOPPY);
    rig.send(&[0x4a, 4]);
    assert_eq!(rig.inb(register::MSR), 0x10);
    let mut bytes = std::vec![0; 0x1000];
    let length = save(&rig.fdc, &mut bytes).unwrap();
    rig.fdc = empty();
    rig.insert(medium(FLOPPY, false));
    load(&mut rig.fdc, &bytes[..length], &mut rig.bench.context()).unwrap();
    let deadline = rig.bench.timers.next_deadline().unwrap();
    assert_eq!(deadline, 20_000_000);
    let timer = rig.bench.timers.take_expired(deadline).unwrap();
    rig.fdc.timer(&mut rig.bench.context(), timer);
    assert_eq!(rig.command(&[]), [4, 0, 0, 0, 1, 2, 2]);
    rig.out(register::DIR, 3);
    rig.send(&[0x4a, 0]);
    rig.fdc.timer(&mut rig.bench.context(), timer);
    assert_eq!(rig.command(&[])[..3], [0x40, 1, 0]);
}

#[test]
fn what_is_under_way_is_handed_out_again_after_loading() {
    for is_write in [false, true] {
        let mut rig = Rig::new(FLOPPY);
        rig.bench.ram.write(BUFFER, &[0x42; 1024]).unwrap();
        let (mode, command) = match is_write {
            true => (0x48, WRITE),
            false => (0x44, READ),
        };
        rig.channel(mode, 1024);
        let (last, first) = command.split_last().unwrap();
        rig.send(first);
        rig.bench.out(&mut rig.fdc, register::FIFO, *last);
        rig.fdc.move_by_dma(&mut rig.bench.context(), &mut rig.dma);
        let mut segments = Segments::new();
        let request = |fdc: &mut Fdc, bench: &mut Bench, segments: &mut Segments| {
            let request = fdc.next_request(&mut bench.context(), segments);
            request.map(|request| (request.operation, request.offset))
        };
        let before = request(&mut rig.fdc, &mut rig.bench, &mut segments);
        assert!(before.is_some());
        let mut bytes = std::vec![0; 0x1000];
        let length = save(&rig.fdc, &mut bytes).unwrap();
        rig.fdc = empty();
        rig.insert(medium(FLOPPY, false));
        load(&mut rig.fdc, &bytes[..length], &mut rig.bench.context()).unwrap();
        let mut other = rig.fdc.clone();
        assert_eq!(request(&mut other, &mut rig.bench, &mut segments), before);
        rig.serve();
        assert_eq!(rig.command(&[]), [0x20, 0, 0, 5, 0, 5, 2]);
        assert_eq!(rig.memory(1024), rig.disk[THIRD..THIRD + 1024]);
    }
}

#[test]
fn a_reset_gives_up_what_another_drive_was_asked_for() {
    let mut rig = Rig::new(FLOPPY);
    rig.out(register::DOR, 0x14);
    let (last, first) = READ.split_last().unwrap();
    rig.send(first);
    rig.bench.out(&mut rig.fdc, register::FIFO, *last);
    let mut segments = Segments::new();
    let cx = &mut rig.bench.context();
    assert!(rig.fdc.next_request(cx, &mut segments).is_some());
    rig.bench.out(&mut rig.fdc, register::DOR, 0x15);
    rig.bench.out(&mut rig.fdc, register::MSR, 0x80);
    assert_eq!(rig.fdc.take_cancelled(), Some(A));
}

#[test]
fn a_reset_gives_requests_up() {
    let mut rig = Rig::new(FLOPPY);
    rig.out(register::DOR, 0x14);
    let (last, first) = READ.split_last().unwrap();
    rig.send(first);
    rig.bench.out(&mut rig.fdc, register::FIFO, *last);
    let mut segments = Segments::new();
    let request = rig
        .fdc
        .next_request(&mut rig.bench.context(), &mut segments);
    let tag = request.unwrap().tag;
    rig.bench.out(&mut rig.fdc, register::MSR, 0x80);
    assert_eq!(rig.fdc.take_cancelled(), Some(A));
    assert_eq!(rig.fdc.take_cancelled(), None);
    rig.fdc
        .request_done(&mut rig.bench.context(), A, tag, Ok(()), &[0; 512]);
    assert_eq!(rig.inb(register::MSR), 0x80);
    assert_eq!(rig.command(&[0x08]), [0xc0, 0]);
}

#[test]
fn impossible_states_are_refused() {
    let mut bench = Bench::new();
    for spoil in [
        (|saved: &mut Saved| saved.fifo.truncate(511)) as fn(&mut Saved),
        |saved| saved.drives.swap(0, 1),
        |saved| saved.state.end = 19,
        |saved| saved.state.at = saved.state.end,
        |saved| saved.state.stage = Stage::Fetch,
        |saved| saved.state.transfer.limit = 1,
        |saved| saved.state.transfer.position = 1,
        |saved| saved.state.senses = 5,
    ] {
        let mut saved = empty().save();
        spoil(&mut saved);
        assert!(empty().load(saved, &mut bench.context()).is_err());
    }
}

#[test]
fn sizes_tell_formats() {
    let drive = |sectors: u64, kind: Option<Kind>| {
        let mut drive = Drive::new(A, kind, Kind::Inch3Extra);
        drive.set_medium(medium(sectors as usize * 512, false));
        (
            drive.kind().name(),
            drive.last_track(),
            drive.state.last_sector,
            drive.rate(),
        )
    };
    use Kind::{Inch3Extra, Inch3High, Inch5High};
    assert_eq!(drive(2880, None), ("144", 80, 18, 0));
    assert_eq!(drive(5760, None), ("288", 80, 36, 3));
    assert_eq!(drive(1440, None), ("144", 80, 9, 2));
    assert_eq!(drive(2400, None), ("120", 80, 15, 0));
    assert_eq!(drive(720, None), ("120", 40, 9, 1));
    assert_eq!(drive(720, Some(Inch3High)), ("144", 80, 9, 2));
    assert_eq!(drive(5760, Some(Inch3High)), ("144", 80, 36, 3));
    assert_eq!(drive(2880, Some(Inch3Extra)), ("288", 80, 18, 0));
    assert_eq!(drive(2880, Some(Inch5High)), ("120", 80, 18, 0));
    assert_eq!(drive(5760, Some(Inch5High)), ("120", 80, 15, 0));
    assert_eq!(drive(100, None), ("288", 80, 36, 3));
    assert_eq!(drive(2880, Some(Kind::None)), ("none", 0, 0, 0));
}
