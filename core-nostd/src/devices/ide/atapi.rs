//! Packet commands of drives for CDs and DVDs.
//!
//! Follows ATA/ATAPI-7 (T13 1532D), volume 2, section 9.8, for how packets and data pass the channel, and MMC-5
//! (T10 1675D) for the commands. Which commands there are, and what they answer, is as in QEMU's
//! drive. A piece of data that the data port moves is at most as long as the channel's buffer, also
//! where the guest would take more at once.

use serde::{Deserialize, Serialize};

use super::channel::{
    BUFFER, BUSY, Channel, DRQ, Done, ERR, Job, Place, Planned, Port, READY, SEEK, Unit,
};
use super::drive::Drive;
use crate::devices::block::{Failure, Operation, Outcome, Segments};
use crate::devices::{Context, Effect};
use crate::state::StateError;
use crate::trace::events as trace;
use crate::virtio::queue::copy_to;

/// Bytes of a packet.
const PACKET: usize = 12;

/// Bytes of a block.
const BLOCK: usize = 2048;
/// Bytes of a block with all that is around its data: synchronization and header, and error codes.
const RAW_BLOCK: usize = 2352;
/// Bytes before a raw block's data.
const RAW_HEADER: usize = 16;

/// Blocks of a medium that is still a CD.
const CD_BLOCKS: u64 = 80 * 60 * 75;
/// Frames, which are blocks, of a second, and those before block 0.
const FRAMES: (u32, u32) = (75, 150);

/// Features: data go by the bus master.
const FEATURE_DMA: u8 = 1 << 0;
/// Features: commands overlap.
const FEATURE_OVERLAP: u8 = 1 << 1;

/// Interrupt reason, in the count register: a command, or its status.
const REASON_COMMAND: u32 = 1 << 0;
/// Interrupt reason: to the guest.
const REASON_IN: u32 = 1 << 1;

/// Sense keys.
mod key {
    pub(super) const NONE: u8 = 0;
    pub(super) const NOT_READY: u8 = 2;
    pub(super) const ILLEGAL_REQUEST: u8 = 5;
    pub(super) const UNIT_ATTENTION: u8 = 6;
}

/// Additional sense codes.
mod code {
    pub(super) const ILLEGAL_OPCODE: u8 = 0x20;
    pub(super) const OUT_OF_RANGE: u8 = 0x21;
    pub(super) const INVALID_FIELD: u8 = 0x24;
    pub(super) const MEDIUM_CHANGED: u8 = 0x28;
    pub(super) const INCOMPATIBLE_FORMAT: u8 = 0x30;
    pub(super) const SAVING_NOT_SUPPORTED: u8 = 0x39;
    pub(super) const NO_MEDIUM: u8 = 0x3a;
    pub(super) const DATA_PHASE: u8 = 0x4b;
    pub(super) const REMOVAL_PREVENTED: u8 = 0x53;
}

/// Operation codes.
mod operation {
    pub(super) const TEST_UNIT_READY: u8 = 0x00;
    pub(super) const REQUEST_SENSE: u8 = 0x03;
    pub(super) const INQUIRY: u8 = 0x12;
    pub(super) const START_STOP_UNIT: u8 = 0x1b;
    pub(super) const PREVENT_ALLOW: u8 = 0x1e;
    pub(super) const READ_CAPACITY: u8 = 0x25;
    pub(super) const READ_10: u8 = 0x28;
    pub(super) const SEEK: u8 = 0x2b;
    pub(super) const READ_TOC: u8 = 0x43;
    pub(super) const GET_CONFIGURATION: u8 = 0x46;
    pub(super) const GET_EVENT_STATUS: u8 = 0x4a;
    pub(super) const READ_DISC_INFORMATION: u8 = 0x51;
    pub(super) const MODE_SENSE_10: u8 = 0x5a;
    pub(super) const READ_12: u8 = 0xa8;
    pub(super) const READ_DISC_STRUCTURE: u8 = 0xad;
    pub(super) const SET_CD_SPEED: u8 = 0xbb;
    pub(super) const MECHANISM_STATUS: u8 = 0xbd;
    pub(super) const READ_CD: u8 = 0xbe;
}

/// What a drive keeps of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// Sectors of a disk's command that move at a time.
    pub(super) at_once: u8,
    sense: (u8, u8),
    tray_open: bool,
    locked: bool,
    /// The medium was changed: 2 until the guest hears that there is none, then 1 until it hears
    /// that there is another one.
    changed: u8,
    /// Events for the guest: a new medium, and the eject button.
    new_medium: bool,
    eject: bool,
    /// Data go by the bus master.
    dma: bool,
    /// Blocks are read, from this one on; else what is in the buffer is the answer.
    blocks: Option<u32>,
    /// Blocks have all that is around their data.
    raw: bool,
    /// Bytes that are still to move to the guest.
    left: u64,
    /// Of the bytes in the buffer, those that have moved.
    taken: u16,
    /// Bytes that have moved by the bus master.
    moved: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            at_once: 1,
            sense: (0, 0),
            tray_open: false,
            locked: false,
            changed: 0,
            new_medium: false,
            eject: false,
            dma: false,
            blocks: None,
            raw: false,
            left: 0,
            taken: 0,
            moved: 0,
        }
    }
}

impl State {
    /// A reset of the drive: it forgets all but events.
    pub(super) fn reset(&mut self) {
        let Self {
            new_medium, eject, ..
        } = *self;
        *self = Self {
            new_medium,
            eject,
            ..Self::default()
        };
    }

    pub(super) fn check(&self) -> Result<(), StateError> {
        let fits = usize::from(self.taken) <= BUFFER && self.changed <= 2;
        match fits && (1..=super::identify::MULTIPLE_MAX).contains(&self.at_once) {
            true => Ok(()),
            false => Err(StateError::Invalid("packet")),
        }
    }

    pub(super) fn tray(&self) -> (bool, bool) {
        (self.tray_open, self.locked)
    }

    fn block_bytes(&self) -> usize {
        if self.raw { RAW_BLOCK } else { BLOCK }
    }
}

/// How a packet command has ended, or goes on.
enum Reply {
    /// It is done.
    Ok,
    /// So many bytes of the buffer are the answer, at most as many as the guest wants.
    Bytes(usize, usize),
    /// Blocks are read: the first one, how many, and whether with all that is around their data.
    Blocks(u32, u32, bool),
    /// It has failed: key and code.
    Error(u8, u8),
    /// The guest has left no room for data: the ATA command is aborted.
    Aborted,
}

const NO_MEDIUM: Reply = Reply::Error(key::NOT_READY, code::NO_MEDIUM);
const INVALID_FIELD: Reply = Reply::Error(key::ILLEGAL_REQUEST, code::INVALID_FIELD);

/// What the drive is to find before a command is carried out.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Needs {
    /// A medium.
    ready: bool,
    /// Room for data that go by the data port.
    room: bool,
    /// It goes on although the guest has not heard of a change.
    whatever: bool,
}

fn needs(opcode: u8) -> Needs {
    use operation::*;
    Needs {
        ready: matches!(
            opcode,
            TEST_UNIT_READY
                | READ_CAPACITY
                | READ_10
                | READ_12
                | SEEK
                | READ_TOC
                | READ_DISC_INFORMATION
                | READ_DISC_STRUCTURE
                | READ_CD
        ),
        room: matches!(
            opcode,
            REQUEST_SENSE
                | INQUIRY
                | READ_CAPACITY
                | READ_10
                | READ_12
                | READ_TOC
                | GET_CONFIGURATION
                | GET_EVENT_STATUS
                | READ_DISC_INFORMATION
                | READ_DISC_STRUCTURE
                | MODE_SENSE_10
                | MECHANISM_STATUS
        ),
        whatever: matches!(
            opcode,
            REQUEST_SENSE | INQUIRY | GET_CONFIGURATION | GET_EVENT_STATUS
        ),
    }
}

/// The command PACKET: the guest writes one.
pub(super) fn begin(channel: &mut Channel) -> Done {
    let Unit {
        registers,
        drive: Some(drive),
    } = channel.unit_mut()
    else {
        return Done::Aborted;
    };
    if registers.feature & FEATURE_OVERLAP != 0 {
        return Done::Aborted;
    }
    drive.state.packet.dma = registers.feature & FEATURE_DMA != 0;
    registers.status = READY | SEEK;
    registers.count = REASON_COMMAND;
    channel.buffer.clear();
    channel.transfer(Port::Packet, 0..PACKET);
    Done::Later
}

/// Bytes that the guest takes at a time.
fn limit(channel: &mut Channel) -> usize {
    let [_, low, high] = channel.registers().lba;
    match u16::from_le_bytes([low, high]) {
        u16::MAX => 0xfffe,
        limit => limit.into(),
    }
}

/// The guest has written a packet.
pub(super) fn command(channel: &mut Channel, cx: &mut Context<'_>) {
    let mut packet = [0; PACKET];
    for (to, byte) in packet.iter_mut().zip(&channel.buffer) {
        *to = *byte;
    }
    trace::ide_atapi_cmd(packet[0]);
    let room = limit(channel) != 0;
    let Some(drive) = &mut channel.unit_mut().drive else {
        return;
    };
    let needs = needs(packet[0]);
    let is_inserted = drive.medium().is_some();
    let is_ready = is_inserted && !drive.state.packet.tray_open && drive.sectors() != 0;
    let state = &mut drive.state.packet;
    let room = room || state.dma;
    if state.sense.0 == key::UNIT_ATTENTION && !needs.whatever {
        let registers = channel.registers();
        registers.error = 0x20 | key::UNIT_ATTENTION << 4;
        registers.status = ERR;
        registers.count = 0;
        return channel.interrupt(cx);
    }
    let reply = if !needs.whatever && !state.tray_open && is_inserted && state.changed != 0 {
        state.changed -= 1;
        match state.changed {
            0 => Reply::Error(key::UNIT_ATTENTION, code::MEDIUM_CHANGED),
            _ => NO_MEDIUM,
        }
    } else if needs.ready && !is_ready {
        NO_MEDIUM
    } else if needs.room && !room {
        Reply::Aborted
    } else {
        // Answers are made where the packet was.
        let mut buffer = core::mem::take(&mut channel.buffer);
        let _ = buffer.resize_default(BUFFER);
        buffer.fill(0);
        let reply = match &mut channel.unit_mut().drive {
            Some(drive) => carry_out(drive, cx, &packet, room, &mut buffer),
            None => Reply::Aborted,
        };
        channel.buffer = buffer;
        reply
    };
    answer(channel, cx, reply);
}

fn answer(channel: &mut Channel, cx: &mut Context<'_>, reply: Reply) {
    match reply {
        Reply::Ok => succeed(channel, cx),
        Reply::Error(key, code) => fail(channel, cx, key, code),
        Reply::Aborted => channel.registers().abort(),
        Reply::Bytes(bytes, most) => {
            let bytes = bytes.min(most).min(BUFFER);
            channel.buffer.truncate(bytes);
            start(channel, cx, None, false, bytes as u64);
        }
        Reply::Blocks(_, 0, _) => succeed(channel, cx),
        Reply::Blocks(first, count, raw) => {
            channel.buffer.clear();
            let bytes = if raw { RAW_BLOCK } else { BLOCK };
            let left = u64::from(count) * bytes as u64;
            start(channel, cx, Some(first), raw, left);
        }
    }
}

/// Begins to move data to the guest.
fn start(channel: &mut Channel, cx: &mut Context<'_>, blocks: Option<u32>, raw: bool, left: u64) {
    let Unit {
        registers,
        drive: Some(drive),
    } = channel.unit_mut()
    else {
        return;
    };
    let state = &mut drive.state.packet;
    *state = State {
        blocks,
        raw,
        left,
        taken: 0,
        moved: 0,
        ..*state
    };
    registers.status = READY | SEEK;
    if state.dma {
        registers.status |= DRQ;
        if blocks.is_some() {
            registers.status |= BUSY;
        }
        channel.wait(Job::BlocksDma);
    } else {
        reply_end(channel, cx);
    }
}

fn reason(channel: &mut Channel, reason: u32) {
    let registers = channel.registers();
    registers.count = registers.count & !7 | reason;
}

fn succeed(channel: &mut Channel, cx: &mut Context<'_>) {
    let registers = channel.registers();
    registers.error = 0;
    registers.status = READY | SEEK;
    reason(channel, REASON_IN | REASON_COMMAND);
    channel.interrupt(cx);
}

fn fail(channel: &mut Channel, cx: &mut Context<'_>, key: u8, code: u8) {
    let Unit { registers, drive } = channel.unit_mut();
    registers.error = key << 4;
    registers.status = READY | ERR;
    if let Some(drive) = drive {
        drive.state.packet.sense = (key, code);
    }
    reason(channel, REASON_IN | REASON_COMMAND);
    channel.interrupt(cx);
}

/// The guest has taken a piece of the answer: the next one, or the end.
pub(super) fn reply_end(channel: &mut Channel, cx: &mut Context<'_>) {
    let limit = limit(channel);
    let held = channel.buffer.len();
    let Some(drive) = &mut channel.unit_mut().drive else {
        return;
    };
    let state = &mut drive.state.packet;
    if state.left == 0 {
        return succeed(channel, cx);
    }
    let from = usize::from(state.taken);
    let ready = held.saturating_sub(from);
    if ready == 0 {
        if state.blocks.is_none() {
            // Saved state that promised more than it holds.
            state.left = 0;
            return succeed(channel, cx);
        }
        channel.registers().status |= BUSY;
        return channel.wait(Job::ReadBlocks);
    }
    let mut size = ready.min(usize::try_from(state.left).unwrap_or(ready));
    if size > limit {
        // Pieces that others follow are even.
        size = (limit & !1).max(2).min(size);
    }
    state.taken += size as u16;
    state.left -= size as u64;
    let registers = channel.registers();
    let [low, high] = (size as u16).to_le_bytes();
    registers.lba[1] = low;
    registers.lba[2] = high;
    reason(channel, REASON_IN);
    channel.transfer(Port::Reply, from..from + size);
    channel.interrupt(cx);
}

/// Blocks that are read next into the buffer.
fn next_blocks(drive: &Drive) -> u64 {
    let state = &drive.state.packet;
    let bytes = state.block_bytes() as u64;
    (state.left / bytes).min(BUFFER as u64 / bytes)
}

/// The request of a job that reads a CD, if there is one.
pub(super) fn plan(
    channel: &mut Channel,
    cx: &mut Context<'_>,
    segments: &mut Segments,
    job: Job,
) -> Option<Planned> {
    let is_active = channel.master.is_active();
    let master = channel.master;
    let drive = channel.unit().drive.as_ref()?;
    let state = drive.state.packet;
    let planned = |blocks: u64, place| {
        state.blocks.map(|first| Planned {
            drive: drive.id(),
            operation: Operation::Read,
            offset: u64::from(first) * BLOCK as u64,
            bytes: blocks * BLOCK as u64,
            place,
        })
    };
    let first = state.blocks.map(u64::from);
    let all = state.left / state.block_bytes() as u64;
    let end = first.unwrap_or(0).saturating_add(all);
    if (job == Job::ReadBlocks || first.is_some())
        && (first.is_none() || all == 0 || end > drive.sectors() / 4)
    {
        // Only a medium that has changed, or saved state, has nothing there.
        done(channel, cx, job, Err(Failure::Range), &[]);
        return None;
    }
    if job == Job::ReadBlocks {
        return planned(next_blocks(drive), Place::Read);
    }
    if !is_active {
        return None;
    }
    let (room, _) = master.regions(cx.ram, state.left, segments);
    if room < state.left && state.moved == 0 {
        // The table is too short: nobody is told.
        channel.end_dma();
        return None;
    }
    match state.blocks {
        None => {
            // What is no memory takes nothing.
            let _ = copy_to(cx.ram, segments, &channel.buffer);
            end_of_dma(channel, cx);
            None
        }
        Some(_) if state.raw => planned(next_blocks(drive), Place::Read),
        Some(_) => planned(state.left / BLOCK as u64, Place::Guest),
    }
}

fn end_of_dma(channel: &mut Channel, cx: &mut Context<'_>) {
    if let Some(drive) = &mut channel.unit_mut().drive {
        drive.state.packet.left = 0;
    }
    channel.registers().status = READY | SEEK;
    reason(channel, REASON_IN | REASON_COMMAND);
    channel.interrupt(cx);
    channel.end_dma();
}

/// Blocks of a CD have been read, or not.
pub(super) fn done(
    channel: &mut Channel,
    cx: &mut Context<'_>,
    job: Job,
    outcome: Outcome,
    bytes: &[u8],
) {
    if let Err(failure) = outcome {
        let (key, code) = match failure {
            Failure::NoMedium => (key::NOT_READY, code::NO_MEDIUM),
            _ => (key::ILLEGAL_REQUEST, code::OUT_OF_RANGE),
        };
        channel.state.job = None;
        fail(channel, cx, key, code);
        if job == Job::BlocksDma {
            channel.end_dma();
        }
        return;
    }
    let Some(drive) = &mut channel.unit_mut().drive else {
        return;
    };
    let state = drive.state.packet;
    if job == Job::BlocksDma && !state.raw {
        return end_of_dma(channel, cx);
    }
    let first = state.blocks.unwrap_or(0);
    let count = (bytes.len() / BLOCK) as u32;
    drive.state.packet.blocks = Some(first.wrapping_add(count));
    drive.state.packet.taken = 0;
    channel.buffer.clear();
    for (number, block) in (first..).zip(bytes.chunks_exact(BLOCK)) {
        if state.raw {
            let _ = channel.buffer.extend_from_slice(&raw_header(number));
        }
        // It fits: no more blocks were asked for.
        let _ = channel.buffer.extend_from_slice(block);
        if state.raw {
            let codes = [0; RAW_BLOCK - RAW_HEADER - BLOCK];
            let _ = channel.buffer.extend_from_slice(&codes);
        }
    }
    if job == Job::ReadBlocks {
        channel.state.job = None;
        channel.registers().status &= !BUSY;
        return reply_end(channel, cx);
    }
    // Raw blocks by the bus master: behind those that have moved.
    let mut segments = Segments::new();
    let end = state.moved + channel.buffer.len() as u64;
    let (room, _) = channel.master.regions(cx.ram, end, &mut segments);
    let skip = u32::try_from(state.moved).unwrap_or(u32::MAX);
    let at = crate::virtio::queue::skip(&mut segments, skip);
    if room >= end {
        let _ = copy_to(cx.ram, &segments[at..], &channel.buffer);
    }
    let moved = channel.buffer.len() as u64;
    if let Some(drive) = &mut channel.unit_mut().drive {
        let state = &mut drive.state.packet;
        state.moved += moved;
        state.left = state.left.saturating_sub(moved);
        if state.left == 0 || moved == 0 || room < end {
            end_of_dma(channel, cx);
        }
    }
}

/// What stands before the data of a raw block: synchronization, address and mode.
fn raw_header(block: u32) -> [u8; RAW_HEADER] {
    let mut header = [0xff; RAW_HEADER];
    header[0] = 0;
    header[11] = 0;
    header[12..15].copy_from_slice(&minutes(block));
    header[15] = 1;
    header
}

/// Minute, second and frame of a block.
fn minutes(block: u32) -> [u8; 3] {
    let frame = block.wrapping_add(FRAMES.1);
    let second = frame / FRAMES.0;
    [
        (second / 60) as u8,
        (second % 60) as u8,
        (frame % FRAMES.0) as u8,
    ]
}

fn be16(bytes: &[u8], at: usize) -> usize {
    usize::from(bytes[at]) << 8 | usize::from(bytes[at + 1])
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    (be16(bytes, at) as u32) << 16 | be16(bytes, at + 2) as u32
}

/// Puts bytes one behind the other.
struct Writer<'b> {
    buffer: &'b mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        if let Some(room) = self.buffer.get_mut(self.at..self.at + bytes.len()) {
            room.copy_from_slice(bytes);
        }
        self.at += bytes.len();
    }

    /// Text, padded with blanks.
    fn text(&mut self, text: &str, length: usize) {
        let mut text = text.bytes();
        for _ in 0..length {
            self.put(&[text.next().unwrap_or(b' ')]);
        }
    }
}

/// Carries out a command for which all is there. `room` says whether data may go.
fn carry_out(
    drive: &mut Drive,
    cx: &mut Context<'_>,
    packet: &[u8; PACKET],
    room: bool,
    buffer: &mut [u8],
) -> Reply {
    use operation::*;
    let blocks = drive.sectors() / 4;
    let is_present = drive.medium().is_some() && !drive.state.packet.tray_open && blocks != 0;
    let is_dvd = blocks > CD_BLOCKS;
    let most = be16(packet, 7);
    let mut out = Writer { buffer, at: 0 };
    match packet[0] {
        TEST_UNIT_READY | SET_CD_SPEED => return Reply::Ok,
        REQUEST_SENSE => {
            let (key, code) = drive.state.packet.sense;
            out.put(&[
                0xf0, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, code, 0, 0, 0, 0, 0,
            ]);
            if key == key::UNIT_ATTENTION {
                drive.state.packet.sense.0 = key::NONE;
            }
            return Reply::Bytes(out.at, packet[4].into());
        }
        INQUIRY => return inquiry(drive, packet, out),
        GET_CONFIGURATION => {
            if packet[2] != 0 || packet[3] != 0 {
                return INVALID_FIELD;
            }
            let (dvd, cd) = (is_present && is_dvd, is_present && !is_dvd);
            let profile = match (dvd, cd) {
                (true, _) => 0x10,
                (_, true) => 0x08,
                _ => 0,
            };
            out.put(&[0, 0, 0, 16, 0, 0, 0, profile]);
            out.put(&[0, 0, 3, 8, 0, 0x10, dvd.into(), 0, 0, 8, cd.into(), 0]);
        }
        MECHANISM_STATUS => {
            out.put(&[0, 0, 0, 0, 0, 1, 0, 0]);
            return Reply::Bytes(out.at, be16(packet, 8));
        }
        MODE_SENSE_10 => return mode_sense(drive, packet, out),
        PREVENT_ALLOW => {
            drive.state.packet.locked = packet[4] & 1 != 0;
            return Reply::Ok;
        }
        START_STOP_UNIT => return start_stop(drive, cx, packet),
        GET_EVENT_STATUS => {
            if packet[1] & 1 == 0 {
                return INVALID_FIELD;
            }
            event_status(drive, packet, &mut out);
        }
        READ_CAPACITY => {
            out.put(&(blocks.saturating_sub(1) as u32).to_be_bytes());
            out.put(&(BLOCK as u32).to_be_bytes());
            return Reply::Bytes(out.at, out.at);
        }
        SEEK if u64::from(be32(packet, 2)) < blocks => return Reply::Ok,
        SEEK => return Reply::Error(key::ILLEGAL_REQUEST, code::OUT_OF_RANGE),
        READ_10 | READ_12 => {
            let first = be32(packet, 2);
            let count = match packet[0] {
                READ_10 => be16(packet, 7) as u32,
                _ => be32(packet, 6),
            };
            return read(blocks, first, count, false);
        }
        READ_CD => {
            let first = be32(packet, 2);
            let count = be32(packet, 5) & 0xff_ffff;
            let raw = match packet[9] & 0xf8 {
                _ if count == 0 => return Reply::Ok,
                0x00 => return Reply::Ok,
                0x10 => false,
                0xf8 => true,
                _ => return INVALID_FIELD,
            };
            if !room {
                return Reply::Aborted;
            }
            return read(blocks, first, count, raw);
        }
        READ_TOC => return read_toc(blocks as u32, packet, out),
        READ_DISC_INFORMATION => {
            if packet[1] & 7 != 0 {
                return INVALID_FIELD;
            }
            // One finished session with one track, for unrestricted use.
            out.put(&[0, 32, 0x0e, 1, 1, 1, 1, 0x20]);
            return Reply::Bytes(34, most);
        }
        READ_DISC_STRUCTURE => return disc_structure(blocks as u32, is_dvd, packet, out),
        _ => return Reply::Error(key::ILLEGAL_REQUEST, code::ILLEGAL_OPCODE),
    }
    Reply::Bytes(out.at, most)
}

fn read(blocks: u64, first: u32, count: u32, raw: bool) -> Reply {
    if count != 0 && u64::from(first) + u64::from(count) > blocks {
        return Reply::Error(key::ILLEGAL_REQUEST, code::OUT_OF_RANGE);
    }
    Reply::Blocks(first, count, raw)
}

fn inquiry(drive: &Drive, packet: &[u8; PACKET], mut out: Writer<'_>) -> Reply {
    let most = usize::from(packet[4]);
    let settings = drive.settings();
    if packet[1] & 1 == 0 {
        // A removable CD-ROM drive.
        out.put(&[0x05, 0x80, 0, 0x21, 31, 0, 0, 0]);
        out.text("QEMU", 8);
        out.text("QEMU DVD-ROM", 16);
        out.text(&settings.version, 4);
        return Reply::Bytes(out.at, most);
    }
    match packet[2] {
        0x00 => out.put(&[0x05, 0, 0, 2, 0x00, 0x83]),
        0x83 => {
            // Text of the vendor's own: the serial number.
            out.put(&[0x05, 0x83, 0, 0, 2, 0, 0, 20]);
            if 28 > most {
                return Reply::Error(key::ILLEGAL_REQUEST, code::DATA_PHASE);
            }
            out.text(&settings.serial, 20);
            if out.at + 72 <= most {
                // Vendor, model and serial number.
                out.put(&[2, 1, 0, 68]);
                out.text("ATA", 8);
                out.text(&settings.model, 40);
                out.text(&settings.serial, 20);
                if settings.wwn != 0 && out.at + 12 <= most {
                    out.put(&[1, 3, 0, 8]);
                    out.put(&settings.wwn.to_be_bytes());
                }
            }
            out.buffer[3] = (out.at - 4) as u8;
        }
        _ => return INVALID_FIELD,
    }
    Reply::Bytes(out.at, most)
}

fn mode_sense(drive: &Drive, packet: &[u8; PACKET], mut out: Writer<'_>) -> Reply {
    let most = be16(packet, 7);
    match packet[2] >> 6 {
        0 => {}
        3 => return Reply::Error(key::ILLEGAL_REQUEST, code::SAVING_NOT_SUPPORTED),
        _ => return INVALID_FIELD,
    }
    let head = |length: u8| [0, length - 2, 0x70, 0, 0, 0, 0, 0];
    match packet[2] & 0x3f {
        // Errors of reading and writing.
        0x01 => {
            out.put(&head(16));
            out.put(&[0x01, 6, 0, 5, 0, 0, 0, 0]);
        }
        // Audio.
        0x0e => {
            out.put(&head(24));
            out.put(&[0x0e, 14]);
            out.put(&[0; 14]);
        }
        // What it can do: a tray that opens and locks; 4 times the speed, a buffer of 512 KiB.
        0x2a => {
            let lock = u8::from(drive.state.packet.locked) << 1;
            out.put(&head(30));
            out.put(&[0x2a, 20, 0x3b, 0, 0x71, 0x60, 0x29 | lock, 0]);
            out.put(&[0x02, 0xc0, 0, 2, 2, 0, 0x02, 0xc0]);
            out.put(&[0; 6]);
        }
        _ => return INVALID_FIELD,
    }
    Reply::Bytes(out.at, most)
}

fn start_stop(drive: &mut Drive, cx: &mut Context<'_>, packet: &[u8; PACKET]) -> Reply {
    let (start, moves, power) = (packet[4] & 1 != 0, packet[4] & 2 != 0, packet[4] & 0xf0);
    if power != 0 || !moves {
        return Reply::Ok;
    }
    let is_inserted = drive.medium().is_some();
    let id = drive.id();
    let state = &mut drive.state.packet;
    if !start && !state.tray_open && state.locked {
        let key = match is_inserted {
            true => key::NOT_READY,
            false => key::ILLEGAL_REQUEST,
        };
        return Reply::Error(key, code::REMOVAL_PREVENTED);
    }
    if state.tray_open == start {
        state.tray_open = !start;
        cx.effects.push(Effect::Tray {
            drive: id,
            open: !start,
        });
    }
    Reply::Ok
}

fn event_status(drive: &mut Drive, packet: &[u8; PACKET], out: &mut Writer<'_>) {
    /// The class of events of the medium, and its bit.
    const MEDIA: (u8, u8) = (4, 1 << 4);
    if packet[4] & MEDIA.1 == 0 {
        return out.put(&[0, 0, 0x80, MEDIA.1]);
    }
    let is_inserted = drive.medium().is_some();
    let state = &mut drive.state.packet;
    let status = match (state.tray_open, is_inserted) {
        (true, _) => 1,
        (false, true) => 2,
        (false, false) => 0,
    };
    let mut event = 0;
    if !state.tray_open {
        if core::mem::take(&mut state.new_medium) {
            event = 2;
        } else if core::mem::take(&mut state.eject) {
            event = 1;
        }
    }
    out.put(&[0, 4, MEDIA.0, MEDIA.1, event, status, 0, 0]);
}

fn read_toc(blocks: u32, packet: &[u8; PACKET], mut out: Writer<'_>) -> Reply {
    let most = be16(packet, 7);
    let msf = packet[1] & 2 != 0;
    let place = |block: u32| match msf {
        true => {
            let [minute, second, frame] = minutes(block);
            [0, minute, second, frame]
        }
        false => block.to_be_bytes(),
    };
    match packet[9] >> 6 {
        0 => {
            let first = packet[6];
            if first > 1 && first != 0xaa {
                return INVALID_FIELD;
            }
            out.put(&[0, 0, 1, 1]);
            if first <= 1 {
                out.put(&[0, 0x14, 1, 0]);
                out.put(&place(0));
            }
            // The lead-out.
            out.put(&[0, 0x16, 0xaa, 0]);
            out.put(&place(blocks));
        }
        1 => out.put(&[0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
        2 => {
            out.put(&[0, 0, 1, 1]);
            for point in [0xa0, 0xa1] {
                out.put(&[1, 0x14, 0, point, 0, 0, 0, 0, 1, 0, 0]);
            }
            out.put(&[1, 0x14, 0, 0xa2, 0, 0, 0]);
            out.put(&place(blocks));
            out.put(&[1, 0x14, 0, 1, 0, 0, 0]);
            out.put(&place(0));
        }
        _ => return INVALID_FIELD,
    }
    out.buffer[1] = (out.at - 2) as u8;
    Reply::Bytes(out.at, most)
}

fn disc_structure(blocks: u32, is_dvd: bool, packet: &[u8; PACKET], mut out: Writer<'_>) -> Reply {
    /// Bytes of an answer of a whole block.
    const WHOLE: [u8; 2] = [0x08, 0x02];
    let most = be16(packet, 8);
    let (layer, format) = (packet[6], packet[7]);
    if format != 0xff && !is_dvd {
        return Reply::Error(key::ILLEGAL_REQUEST, code::INCOMPATIBLE_FORMAT);
    }
    if packet[1] & 0xf != 0 {
        return INVALID_FIELD;
    }
    let last = blocks.saturating_sub(1).to_be_bytes();
    match format {
        // The physical format: DVD-ROM, 120 mm, one layer.
        0x00 if layer == 0 => {
            out.put(&WHOLE);
            out.put(&[0, 0, 1, 0x0f, 1, 0, 0, 0, 0, 0]);
            out.put(&last);
            out.put(&last);
            Reply::Bytes(BLOCK + 4, most)
        }
        // No protection.
        0x01 => {
            out.put(&[0, 6, 0, 0, 0, 0, 0, 0]);
            Reply::Bytes(out.at, most)
        }
        0x04 => {
            out.put(&WHOLE);
            Reply::Bytes(BLOCK + 4, most)
        }
        // All formats that there are, and how long they are.
        0xff => {
            out.put(&[0, 18, 0, 0]);
            out.put(&[0, 0x40, 0x08, 0x04, 1, 0x40, 0, 8]);
            out.put(&[3, 0x40, 0, 0xc0, 4, 0x40, 0x08, 0x04]);
            Reply::Bytes(out.at, most)
        }
        _ => INVALID_FIELD,
    }
}

/// The tray is moved from outside: the guest hears of a medium that has gone, then of a new one.
pub(super) fn move_tray(drive: &mut Drive, open: bool) {
    let state = &mut drive.state.packet;
    state.tray_open = open;
    if open {
        // What the guest had locked is not there any more.
        state.locked = false;
    }
    state.changed = 2;
    state.new_medium = true;
    state.eject = false;
}

/// Somebody presses the eject button.
pub(super) fn eject_requested(drive: &mut Drive) {
    drive.state.packet.eject = true;
}
