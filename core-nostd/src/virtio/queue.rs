//! Virtqueues: rings of descriptors in guest memory.
//!
//! Follows Virtual I/O Device (VIRTIO) 1.2, sections 2.7 (split virtqueues), 2.8 (packed ones, see
//! module `packed`) and, for where the parts of a legacy queue lie, 2.7.2. Indirect descriptors are taken whether or not they were
//! negotiated, as QEMU's devices take them. The guest may be hostile: a chain is read once, each
//! of its descriptors is copied before it is looked at, loops end where a chain would have more
//! descriptors than its table, and what breaks a rule is a [`QueueError`], upon which the device
//! stops until it is reset.
//!
//! A [`VirtQueue`] knows nothing of the device that it belongs to: it can be lent to another
//! thread together with guest memory.

mod packed;

use core::sync::atomic::{Ordering, fence};

use serde::{Deserialize, Serialize};

use crate::devices::block::{Segment, Segments};
use crate::memory::{GuestRam, RamError};
use crate::state::StateError;

/// Descriptors that a queue has at most (QEMU's limit; the specification's is 32,768).
pub const SIZE_MAX: u16 = 1024;

/// Feature: the device tells of used buffers whenever no available ones are left (legacy).
pub const NOTIFY_ON_EMPTY: u64 = 1 << 24;
/// Feature: a descriptor may point to a table of descriptors.
pub const RING_INDIRECT_DESC: u64 = 1 << 28;
/// Feature: each side says behind which index it wants to be told.
pub const RING_EVENT_IDX: u64 = 1 << 29;
/// Feature: queues are packed.
pub const RING_PACKED: u64 = 1 << 34;

/// Bytes of a descriptor: address, length, flags, next.
const DESCRIPTOR: u64 = 16;
/// Descriptor flags: `next` is the number of the chain's next one.
const NEXT: u16 = 1 << 0;
/// Descriptor flags: the device writes.
const WRITE: u16 = 1 << 1;
/// Descriptor flags: the buffer is a table of descriptors.
const INDIRECT: u16 = 1 << 2;

/// Available ring, flags: the driver wants no interrupts.
const NO_INTERRUPT: u16 = 1 << 0;
/// Used ring, flags: the device wants no notifications.
const NO_NOTIFY: u16 = 1 << 0;
/// Offset of `idx` in both rings; flags are before it.
const INDEX: u64 = 2;
/// Offset of the entries of both rings.
const ENTRIES: u64 = 4;
/// Bytes of an entry of the used ring: number of the first descriptor, and bytes written.
const USED_ENTRY: u64 = 8;

/// Alignment of a legacy queue's used ring on PCI.
pub const LEGACY_ALIGN: u64 = 4096;

/// What a driver must not do with a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueError {
    /// A ring, a table or a buffer is not wholly in RAM.
    Memory,
    /// More buffers are available than there are descriptors.
    Index,
    /// A chain begins or goes on behind the end of its table.
    Descriptor,
    /// A table of descriptors has no whole number of them, or none.
    Table,
    /// A chain is longer than its table, or than [`SIZE_MAX`]: it may have a loop.
    Loop,
    /// What the device reads comes behind what it writes.
    Order,
    /// A buffer has no bytes.
    Empty,
    /// More buffers are under way than there are descriptors.
    InUse,
}

impl From<RamError> for QueueError {
    fn from(_: RamError) -> Self {
        Self::Memory
    }
}

/// A buffer that was taken from a queue: what it is looked at and given back by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffer {
    /// The number of its first descriptor.
    pub head: u16,
    /// What the driver knows it by: in a split queue, `head`.
    pub id: u16,
    /// Descriptors that it has in a packed ring; 1 in a split queue.
    pub descriptors: u16,
}

/// Where the parts of a queue are: guest physical addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rings {
    /// The table of descriptors, or the packed ring.
    pub descriptors: u64,
    /// What the driver writes: the available ring, or what it wants to be told of.
    pub available: u64,
    /// What the device writes: the used ring, or what it wants to be told of.
    pub used: u64,
}

impl Rings {
    /// Those of a legacy queue of `size` descriptors, one behind the other from `base` on.
    pub const fn legacy(base: u64, size: u16, align: u64) -> Self {
        let available = base.wrapping_add(DESCRIPTOR * size as u64);
        let end = available.wrapping_add(ENTRIES + 2 * size as u64);
        Self {
            descriptors: base,
            available,
            // `align` is a power of two.
            used: end.wrapping_add(align - 1) & !(align - 1),
        }
    }
}

/// A queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtQueue {
    state: State,
    /// The driver need not notify: see [`VirtQueue::hush`].
    is_quiet: bool,
}

/// What changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    size: u16,
    rings: Rings,
    is_packed: bool,
    /// How many buffers were taken from the available ring, modulo 2^16. Packed: the place of the next
    /// descriptor, and the wrap counter in bit 15.
    taken: u16,
    /// How many were put into the used ring, modulo 2^16. Packed: as of `taken`.
    returned: u16,
    /// What `returned` was when the driver was last interrupted, or might have been.
    told: Option<u16>,
    /// Buffers that were taken and not returned yet. Packed: their descriptors.
    in_use: u16,
}

/// Saved form of a [`VirtQueue`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedQueue(State);

impl VirtQueue {
    /// A queue of `size` descriptors, at most [`SIZE_MAX`], that is nowhere yet.
    pub fn new(size: u16) -> Self {
        let state = State {
            size: size.min(SIZE_MAX),
            ..State::default()
        };
        Self {
            state,
            is_quiet: false,
        }
    }

    /// Makes it a packed queue, or a split one, that nothing was taken from.
    pub fn set_packed(&mut self, is_packed: bool) {
        if is_packed != self.state.is_packed {
            let begin = if is_packed { packed::BEGIN } else { 0 };
            self.state = State {
                is_packed,
                size: self.state.size,
                rings: self.state.rings,
                taken: begin,
                returned: begin,
                ..State::default()
            };
        }
    }

    /// Descriptors of the queue.
    pub fn size(&self) -> u16 {
        self.state.size
    }

    /// Changes the number of descriptors. Nothing happens where it is 0 or above [`SIZE_MAX`], nor while
    /// buffers are in use, or places behind the new end: no driver does that.
    pub fn set_size(&mut self, size: u16) {
        let state = &self.state;
        let fits = !state.is_packed
            || packed::place(state.taken) < size && packed::place(state.returned) < size;
        if (1..=SIZE_MAX).contains(&size) && state.in_use == 0 && fits {
            self.state.size = size;
        }
    }

    /// Where the queue is.
    pub fn rings(&self) -> Rings {
        self.state.rings
    }

    /// Says where the queue is. It works unless its table is at address 0.
    pub fn set_rings(&mut self, rings: Rings) {
        self.state.rings = rings;
    }

    /// Whether it is somewhere.
    pub fn is_ready(&self) -> bool {
        self.state.rings.descriptors != 0
    }

    /// Buffers that were taken and not returned yet; of a packed queue, their descriptors.
    pub fn in_use(&self) -> u16 {
        self.state.in_use
    }

    /// Whether a buffer can be given back now. Of a packed queue they go back in the order in which they were
    /// taken: else descriptors would be written over that belong to buffers which are still in use, and
    /// those could not be read again after loading saved state.
    pub fn is_next(&self, buffer: Buffer) -> bool {
        !self.state.is_packed || buffer.head == packed::place(self.state.returned)
    }

    /// Whether the driver has made no more buffers available.
    ///
    /// # Errors
    /// [`QueueError::Memory`].
    pub fn is_empty(&self, ram: &dyn GuestRam) -> Result<bool, QueueError> {
        if !self.is_ready() || self.state.size == 0 {
            return Ok(true);
        }
        if self.state.is_packed {
            return Ok(!self.state.is_available(ram)?);
        }
        Ok(self.available_index(ram)? == self.state.taken)
    }

    fn available_index(&self, ram: &dyn GuestRam) -> Result<u16, QueueError> {
        Ok(ram.load16(self.state.rings.available.wrapping_add(INDEX))?)
    }

    /// Where an entry of the available ring is; behind the last one is what the driver wants to be
    /// told behind.
    fn available_entry(&self, index: u16) -> u64 {
        let offset = ENTRIES + 2 * u64::from(index);
        self.state.rings.available.wrapping_add(offset)
    }

    /// Where an entry of the used ring is; behind the last one is what the device wants to be told
    /// behind.
    fn used_entry(&self, index: u16) -> u64 {
        let offset = ENTRIES + USED_ENTRY * u64::from(index);
        self.state.rings.used.wrapping_add(offset)
    }

    /// Takes the next available buffer, or `None` if there is none. Its first descriptor's number is below
    /// [`VirtQueue::size`].
    ///
    /// # Errors
    /// See [`QueueError`].
    pub fn take(
        &mut self,
        ram: &dyn GuestRam,
        features: u64,
    ) -> Result<Option<Buffer>, QueueError> {
        let State { size, taken, .. } = self.state;
        if !self.is_ready() || size == 0 {
            return Ok(None);
        }
        if self.state.is_packed {
            return self.state.take(ram);
        }
        let waiting = self.available_index(ram)?.wrapping_sub(taken);
        if waiting == 0 {
            return Ok(None);
        }
        if waiting > size {
            return Err(QueueError::Index);
        }
        if self.state.in_use >= size {
            return Err(QueueError::InUse);
        }
        // The index was loaded before all that follows.
        let head = ram.load16(self.available_entry(taken % size))?;
        if head >= size {
            return Err(QueueError::Descriptor);
        }
        self.state.taken = taken.wrapping_add(1);
        self.state.in_use += 1;
        if features & RING_EVENT_IDX != 0 && !self.is_quiet {
            ram.store16(self.used_entry(size), self.state.taken)?;
        }
        Ok(Some(Buffer {
            head,
            id: head,
            descriptors: 1,
        }))
    }

    /// Wants to be told of the next buffer that becomes available, after there were none. The caller
    /// looks for one once more: it may have come in between.
    ///
    /// # Errors
    /// [`QueueError::Memory`].
    pub fn wait(&self, ram: &dyn GuestRam, features: u64) -> Result<(), QueueError> {
        if self.state.is_packed {
            self.state.wait(ram, features)?;
        } else if features & RING_EVENT_IDX != 0 && self.is_ready() {
            ram.store16(self.used_entry(self.state.size), self.available_index(ram)?)?;
        }
        // The driver sees the index before the device looks again.
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// Says whether the driver need not notify the device, which looks for buffers by itself. Once it
    /// need again, the caller goes on with [`VirtQueue::wait`]. Drivers of packed queues go on notifying.
    ///
    /// # Errors
    /// [`QueueError::Memory`].
    pub fn hush(
        &mut self,
        ram: &dyn GuestRam,
        features: u64,
        is_quiet: bool,
    ) -> Result<(), QueueError> {
        if !self.is_ready() || self.state.is_packed || is_quiet == self.is_quiet {
            return Ok(());
        }
        self.is_quiet = is_quiet;
        // With indices, the driver notifies once when it passes the one that was wanted last.
        if features & RING_EVENT_IDX == 0 {
            let flags = if is_quiet { NO_NOTIFY } else { 0 };
            ram.store16(self.state.rings.used, flags)?;
        }
        Ok(())
    }

    /// Whether the driver need not notify the device.
    pub fn is_quiet(&self) -> bool {
        self.is_quiet
    }

    /// Puts the pieces of a buffer into `segments`, first those that the device reads, and says how many
    /// these are.
    ///
    /// # Errors
    /// See [`QueueError`].
    pub fn chain(
        &self,
        ram: &dyn GuestRam,
        buffer: Buffer,
        segments: &mut Segments,
    ) -> Result<usize, QueueError> {
        segments.clear();
        if self.state.is_packed {
            return self.state.chain(ram, buffer, segments);
        }
        let (mut table, mut length) = (self.state.rings.descriptors, u32::from(self.state.size));
        let mut current = descriptor(ram, table, length, buffer.head.into())?;
        if current.flags & INDIRECT != 0 {
            (table, length) = current.table()?;
            current = descriptor(ram, table, length, 0)?;
        }
        let mut readable = 0;
        loop {
            current.add_to(ram, segments, &mut readable)?;
            if segments.len() as u32 > length {
                return Err(QueueError::Loop);
            }
            if current.flags & NEXT == 0 {
                return Ok(readable);
            }
            current = descriptor(ram, table, length, current.next.into())?;
        }
    }

    /// Returns a buffer that was taken, and says how many bytes the device has written into it. It is the next
    /// one, see [`VirtQueue::is_next`].
    ///
    /// # Errors
    /// [`QueueError::Memory`].
    pub fn give_back(
        &mut self,
        ram: &dyn GuestRam,
        buffer: Buffer,
        written: u32,
    ) -> Result<(), QueueError> {
        let State { size, returned, .. } = self.state;
        if size == 0 {
            return Err(QueueError::Memory);
        }
        if self.state.is_packed {
            return self.state.give_back(ram, buffer, written);
        }
        let mut entry = [0; USED_ENTRY as usize];
        entry[..4].copy_from_slice(&u32::from(buffer.id).to_le_bytes());
        entry[4..].copy_from_slice(&written.to_le_bytes());
        self.state.in_use = self.state.in_use.saturating_sub(1);
        ram.write(self.used_entry(returned % size), &entry)?;
        let returned = returned.wrapping_add(1);
        self.state.returned = returned;
        ram.store16(self.state.rings.used.wrapping_add(INDEX), returned)?;
        // An interrupt that was asked for long ago, with all indices since, is none any more.
        if self.state.told.is_some_and(|told| returned == told) {
            self.state.told = None;
        }
        Ok(())
    }

    /// Whether the driver wants to be interrupted because of what was returned since the last time that
    /// this was asked.
    ///
    /// # Errors
    /// [`QueueError::Memory`].
    pub fn wants_interrupt(
        &mut self,
        ram: &dyn GuestRam,
        features: u64,
    ) -> Result<bool, QueueError> {
        // The driver sees the used ring before the device looks at what it wants.
        fence(Ordering::SeqCst);
        if self.state.is_packed {
            return self.state.wants_interrupt(ram);
        }
        if features & NOTIFY_ON_EMPTY != 0 && self.state.in_use == 0 && self.is_empty(ram)? {
            return Ok(true);
        }
        if features & RING_EVENT_IDX == 0 {
            let flags = ram.load16(self.state.rings.available)?;
            return Ok(flags & NO_INTERRUPT == 0);
        }
        let new = self.state.returned;
        let Some(old) = self.state.told.replace(new) else {
            return Ok(true);
        };
        let event = ram.load16(self.available_entry(self.state.size))?;
        // Whether `event` is from `old` on and before `new`.
        Ok(new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old))
    }

    /// The saved form.
    pub fn save(&self) -> SavedQueue {
        SavedQueue(self.state)
    }

    /// Takes over a saved form.
    ///
    /// # Errors
    /// If there is no such queue.
    pub fn load(&mut self, saved: &SavedQueue) -> Result<(), StateError> {
        let SavedQueue(state) = saved;
        let is_there = self.state.size != 0;
        let is_inside =
            |place| !state.is_packed || state.size == 0 || packed::place(place) < state.size;
        if state.size > SIZE_MAX
            || state.in_use > state.size
            || (state.size != 0) != is_there
            || !is_inside(state.taken)
            || !is_inside(state.returned)
        {
            return Err(StateError::Invalid("queue"));
        }
        self.state = *state;
        Ok(())
    }
}

/// A copy of a descriptor.
struct Descriptor {
    address: u64,
    length: u32,
    flags: u16,
    /// Packed: the buffer's identity.
    next: u16,
}

impl Descriptor {
    /// The table that it points to: where it is, and how many descriptors it has.
    fn table(&self) -> Result<(u64, u32), QueueError> {
        if self.length == 0 || !u64::from(self.length).is_multiple_of(DESCRIPTOR) {
            return Err(QueueError::Table);
        }
        Ok((self.address, self.length / DESCRIPTOR as u32))
    }

    /// Adds its piece of memory to those of its chain, of which `readable` are read.
    fn add_to(
        &self,
        ram: &dyn GuestRam,
        segments: &mut Segments,
        readable: &mut usize,
    ) -> Result<(), QueueError> {
        let segment = Segment {
            gpa: self.address,
            length: self.length,
        };
        if segment.length == 0 {
            return Err(QueueError::Empty);
        }
        if self.flags & WRITE == 0 {
            if *readable != segments.len() {
                return Err(QueueError::Order);
            }
            *readable += 1;
        }
        if !is_ram(ram, segment) {
            return Err(QueueError::Memory);
        }
        segments.push(segment).map_err(|_| QueueError::Loop)
    }
}

/// A descriptor of a table of `length`.
fn descriptor(
    ram: &dyn GuestRam,
    table: u64,
    length: u32,
    index: u32,
) -> Result<Descriptor, QueueError> {
    if index >= length {
        return Err(QueueError::Descriptor);
    }
    let mut bytes = [0; DESCRIPTOR as usize];
    let at = table.wrapping_add(DESCRIPTOR * u64::from(index));
    ram.read(at, &mut bytes)?;
    let word = u128::from_le_bytes(bytes);
    Ok(Descriptor {
        address: word as u64,
        length: (word >> 64) as u32,
        flags: (word >> 96) as u16,
        next: (word >> 112) as u16,
    })
}

/// Whether all of a piece of guest memory is RAM.
fn is_ram(ram: &dyn GuestRam, segment: Segment) -> bool {
    let (mut gpa, mut left) = (segment.gpa, u64::from(segment.length));
    while left != 0 {
        let Some(block) = ram.block(gpa) else {
            return false;
        };
        let length = left.min(block.length as u64);
        left -= length;
        match gpa.checked_add(length) {
            Some(end) => gpa = end,
            None => return left == 0,
        }
    }
    true
}

/// Bytes of pieces of guest memory together.
pub fn length(segments: &[Segment]) -> u64 {
    segments.iter().map(|piece| u64::from(piece.length)).sum()
}

/// Copies the first bytes of pieces of guest memory, and says how many there were.
///
/// # Errors
/// [`QueueError::Memory`].
pub fn copy_from(
    ram: &dyn GuestRam,
    segments: &[Segment],
    to: &mut [u8],
) -> Result<usize, QueueError> {
    let mut done = 0;
    for piece in segments {
        let length = (piece.length as usize).min(to.len() - done);
        if length == 0 {
            break;
        }
        ram.read(piece.gpa, &mut to[done..done + length])?;
        done += length;
    }
    Ok(done)
}

/// Copies bytes to the begin of pieces of guest memory, and says how many had room.
///
/// # Errors
/// [`QueueError::Memory`].
pub fn copy_to(ram: &dyn GuestRam, segments: &[Segment], from: &[u8]) -> Result<usize, QueueError> {
    let mut done = 0;
    for piece in segments {
        let length = (piece.length as usize).min(from.len() - done);
        if length == 0 {
            break;
        }
        ram.write(piece.gpa, &from[done..done + length])?;
        done += length;
    }
    Ok(done)
}

/// Passes over the first bytes of pieces of guest memory: which of them is the first that remains.
pub fn skip(segments: &mut [Segment], mut bytes: u32) -> usize {
    let mut first = 0;
    for piece in segments.iter_mut() {
        if bytes < piece.length {
            piece.gpa = piece.gpa.wrapping_add(bytes.into());
            piece.length -= bytes;
            break;
        }
        bytes -= piece.length;
        first += 1;
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::ArrayRam;
    use std::vec::Vec;

    type Ram = ArrayRam<0x1_0000>;

    const RINGS: Rings = Rings {
        descriptors: 0x1000,
        available: 0x2000,
        used: 0x3000,
    };
    const SIZE: u16 = 8;

    fn queue() -> VirtQueue {
        let mut queue = VirtQueue::new(SIZE);
        queue.set_rings(RINGS);
        queue
    }

    fn describe(ram: &Ram, at: u64, address: u64, length: u32, flags: u16, next: u16) {
        let mut bytes = Vec::from(address.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        ram.write(at, &bytes).unwrap();
    }

    fn offer(ram: &Ram, index: u16, head: u16) {
        ram.store16(0x2004 + 2 * u64::from(index % SIZE), head)
            .unwrap();
        ram.store16(0x2002, index.wrapping_add(1)).unwrap();
    }

    fn buffer(head: u16) -> Buffer {
        Buffer {
            head,
            id: head,
            descriptors: 1,
        }
    }

    fn chain(ram: &Ram, head: u16) -> Result<(usize, Vec<(u64, u32)>), QueueError> {
        let mut segments = Segments::new();
        let readable = queue().chain(ram, buffer(head), &mut segments)?;
        let pieces = segments.iter().map(|piece| (piece.gpa, piece.length));
        Ok((readable, pieces.collect()))
    }

    #[test]
    fn legacy_rings_follow_each_other() {
        let rings = Rings::legacy(0x4000, 256, LEGACY_ALIGN);
        assert_eq!(
            (rings.descriptors, rings.available, rings.used),
            (0x4000, 0x5000, 0x6000)
        );
        let rings = Rings::legacy(u64::MAX - 15, 1, LEGACY_ALIGN);
        assert_eq!((rings.available, rings.used), (0, 0x1000));
    }

    #[test]
    fn buffers_go_round() {
        let (ram, mut queue) = (Ram::new(), queue());
        assert_eq!(queue.take(&ram, 0), Ok(None));
        for round in 0..0x1_0010_u32 {
            let (index, head) = (round as u16, (round * 3 % 8) as u16);
            offer(&ram, index, head);
            assert_eq!(queue.take(&ram, 0), Ok(Some(buffer(head))), "{round}");
            assert_eq!(queue.take(&ram, 0), Ok(None));
            assert_eq!(queue.in_use(), 1);
            queue.give_back(&ram, buffer(head), round).unwrap();
            assert_eq!(ram.load16(0x3002), Ok(index.wrapping_add(1)));
            let mut entry = [0; 8];
            ram.read(0x3004 + 8 * u64::from(index % SIZE), &mut entry)
                .unwrap();
            assert_eq!(entry[..2], head.to_le_bytes());
            assert_eq!(entry[4..], round.to_le_bytes());
        }
    }

    #[test]
    fn chains_are_copied_in_order() {
        let ram = Ram::new();
        describe(&ram, 0x1000, 0x5000, 16, NEXT, 3);
        describe(&ram, 0x1030, 0x6000, 512, NEXT, 5);
        describe(&ram, 0x1050, 0x7000, 1, WRITE, 0);
        let expected = std::vec![(0x5000, 16), (0x6000, 512), (0x7000, 1)];
        assert_eq!(chain(&ram, 0), Ok((2, expected.clone())));
        // The same in a table of its own.
        describe(&ram, 0x1010, 0x8000, 48, INDIRECT, 0);
        describe(&ram, 0x8000, 0x5000, 16, NEXT, 1);
        describe(&ram, 0x8010, 0x6000, 512, NEXT, 2);
        describe(&ram, 0x8020, 0x7000, 1, WRITE | INDIRECT, 0);
        assert_eq!(chain(&ram, 1), Ok((2, expected)));
    }

    #[test]
    fn hostile_chains_are_refused() {
        let ram = Ram::new();
        let with = |address, length, flags, next| {
            describe(&ram, 0x1000, address, length, flags, next);
            chain(&ram, 0)
        };
        assert_eq!(with(0x5000, 0, 0, 0), Err(QueueError::Empty));
        assert_eq!(with(0x5000, 16, NEXT, 0), Err(QueueError::Loop));
        assert_eq!(with(0x5000, 16, NEXT, 8), Err(QueueError::Descriptor));
        assert_eq!(with(0xffff, 2, 0, 0), Err(QueueError::Memory));
        assert_eq!(with(u64::MAX, 1, 0, 0), Err(QueueError::Memory));
        assert_eq!(with(0, u32::MAX, 0, 0), Err(QueueError::Memory));
        assert_eq!(with(0x8000, 0, INDIRECT, 0), Err(QueueError::Table));
        assert_eq!(with(0x8000, 24, INDIRECT, 0), Err(QueueError::Table));
        assert_eq!(
            with(0xfff8, 0xffff_fff0, INDIRECT, 0),
            Err(QueueError::Memory)
        );
        assert_eq!(with(u64::MAX - 3, 32, INDIRECT, 0), Err(QueueError::Memory));
        describe(&ram, 0x1010, 0x5000, 16, 0, 0);
        assert_eq!(with(0x5000, 16, NEXT | WRITE, 1), Err(QueueError::Order));
        // A table with more than any request has.
        for index in 0..2000 {
            describe(&ram, 0x8000 + 16 * index, 0x5000, 1, NEXT, index as u16 + 1);
        }
        assert_eq!(with(0x8000, 16 * 2000, INDIRECT, 0), Err(QueueError::Loop));
        assert_eq!(chain(&ram, 8), Err(QueueError::Descriptor));
    }

    #[test]
    fn hostile_rings_are_refused() {
        let (ram, mut queue) = (Ram::new(), queue());
        ram.store16(0x2002, SIZE + 1).unwrap();
        assert_eq!(queue.take(&ram, 0), Err(QueueError::Index));
        offer(&ram, 0, SIZE);
        assert_eq!(queue.take(&ram, 0), Err(QueueError::Descriptor));
        for index in 0..SIZE {
            offer(&ram, index, 0);
            assert_eq!(queue.take(&ram, 0), Ok(Some(buffer(0))));
        }
        offer(&ram, SIZE, 0);
        assert_eq!(queue.take(&ram, 0), Err(QueueError::InUse));
        queue.set_rings(Rings {
            descriptors: 1,
            available: 0x2_0000,
            used: u64::MAX - 7,
        });
        assert_eq!(queue.take(&ram, 0), Err(QueueError::Memory));
        assert_eq!(queue.give_back(&ram, buffer(0), 0), Err(QueueError::Memory));
        assert_eq!(queue.wants_interrupt(&ram, 0), Err(QueueError::Memory));
        queue.set_size(0);
        queue.set_size(SIZE_MAX + 1);
        assert_eq!(queue.size(), SIZE);
    }

    #[test]
    fn a_queue_in_use_keeps_its_size() {
        let (ram, mut queue) = (Ram::new(), queue());
        offer(&ram, 0, 3);
        queue.take(&ram, 0).unwrap();
        queue.set_size(1);
        assert_eq!(queue.size(), SIZE);
        let saved = queue.save();
        assert_eq!(queue.load(&saved), Ok(()));
        queue.give_back(&ram, buffer(3), 0).unwrap();
        queue.set_size(1);
        assert_eq!(queue.size(), 1);
    }

    #[test]
    fn interrupts_are_those_that_the_driver_wants() {
        let (ram, mut queue) = (Ram::new(), queue());
        queue.give_back(&ram, buffer(0), 0).unwrap();
        assert_eq!(queue.wants_interrupt(&ram, 0), Ok(true));
        ram.store16(0x2000, NO_INTERRUPT).unwrap();
        assert_eq!(queue.wants_interrupt(&ram, 0), Ok(false));
        assert_eq!(queue.wants_interrupt(&ram, NOTIFY_ON_EMPTY), Ok(true));
        ram.store16(0x2002, 1).unwrap();
        assert_eq!(queue.wants_interrupt(&ram, NOTIFY_ON_EMPTY), Ok(false));
        // Behind index 2: told of the third buffer, whatever the flags say.
        let event = |queue: &mut VirtQueue| queue.wants_interrupt(&ram, RING_EVENT_IDX);
        ram.store16(0x2004 + 2 * u64::from(SIZE), 2).unwrap();
        assert_eq!(event(&mut queue), Ok(true), "the first time");
        queue.give_back(&ram, buffer(0), 0).unwrap();
        assert_eq!(event(&mut queue), Ok(false));
        queue.give_back(&ram, buffer(0), 0).unwrap();
        assert_eq!(event(&mut queue), Ok(true));
        queue.give_back(&ram, buffer(0), 0).unwrap();
        assert_eq!(event(&mut queue), Ok(false));
        // And the device says where it is.
        offer(&ram, 0, 4);
        assert_eq!(queue.take(&ram, RING_EVENT_IDX), Ok(Some(buffer(4))));
        assert_eq!(ram.load16(0x3004 + 8 * u64::from(SIZE)), Ok(1));
    }

    #[test]
    fn pieces_are_cut_at_any_byte() {
        let pieces = |bytes| {
            let mut all = [(0x100, 4), (0x200, 8)].map(|(gpa, length)| Segment { gpa, length });
            let first = skip(&mut all, bytes);
            all[first..].to_vec()
        };
        assert_eq!(length(&pieces(0)), 12);
        assert_eq!((pieces(3)[0].gpa, length(&pieces(3))), (0x103, 9));
        assert_eq!((pieces(4)[0].gpa, pieces(4).len()), (0x200, 1));
        assert_eq!(pieces(12), []);
        assert_eq!(pieces(99), []);
        let ram = Ram::new();
        assert_eq!(copy_to(&ram, &pieces(2), b"thimble"), Ok(7));
        let mut back = [0; 20];
        assert_eq!(copy_from(&ram, &pieces(2), &mut back), Ok(10));
        assert_eq!(&back[..7], b"thimble");
    }
}
