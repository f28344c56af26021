//! Packed virtqueues: one ring that the driver and the device both write.
//!
//! Follows VIRTIO 1.2, section 2.8. Whose a descriptor is follows from two of its flags and from how often, modulo
//! two, either side has been round the ring. Buffers go back in the order in which they came; with
//! `VIRTIO_F_IN_ORDER` (section 2.9), which is not offered, a driver would know that.

use core::sync::atomic::{Ordering, fence};

use super::{
    Buffer, DESCRIPTOR, Descriptor, INDIRECT, NEXT, QueueError, RING_EVENT_IDX, State, descriptor,
};
use crate::devices::block::Segments;
use crate::memory::GuestRam;

/// Of a place: the wrap counter. The other bits are the number of a descriptor.
const WRAP: u16 = 1 << 15;

/// Where both sides begin: at descriptor 0, the wrap counter 1.
pub(super) const BEGIN: u16 = WRAP;

/// Descriptor flags: the driver's wrap counter when it made it available.
const AVAILABLE: u16 = 1 << 7;
/// Descriptor flags: the device's wrap counter when it was used, else the other value.
const USED: u16 = 1 << 15;
/// Descriptor flags: the device has written to the buffer.
const WRITE: u16 = super::WRITE;

/// Offsets in a descriptor.
const LENGTH: u64 = 8;
const FLAGS: u64 = 14;

/// What one side wants to be told of: at once a place and, behind it, flags.
const EVENT_FLAGS: u64 = 2;
/// Tell of everything.
const ENABLE: u16 = 0;
/// Tell of nothing.
const DISABLE: u16 = 1;
/// Tell of the descriptor at the place.
const AT_PLACE: u16 = 2;

/// The number of the descriptor at a place.
pub(super) fn place(at: u16) -> u16 {
    at & !WRAP
}

impl State {
    /// So many descriptors behind a place.
    fn behind(&self, at: u16, descriptors: u16) -> u16 {
        let next = u32::from(place(at)) + u32::from(descriptors);
        let size = u32::from(self.size.max(1));
        let wrapped = if next >= size { WRAP } else { 0 };
        // Below the size, which is far below 2^15.
        (next % size) as u16 | (at ^ wrapped) & WRAP
    }

    fn at(&self, number: u16) -> u64 {
        let offset = DESCRIPTOR * u64::from(number);
        self.rings.descriptors.wrapping_add(offset)
    }

    /// A descriptor of the ring.
    fn descriptor(&self, ram: &dyn GuestRam, number: u16) -> Result<Descriptor, QueueError> {
        let read = descriptor(ram, self.rings.descriptors, self.size.into(), number.into())?;
        Ok(packed(read))
    }

    /// Whether the driver has made the next descriptor available.
    pub(super) fn is_available(&self, ram: &dyn GuestRam) -> Result<bool, QueueError> {
        let flags = ram.load16(self.at(place(self.taken)).wrapping_add(FLAGS))?;
        let turn = self.taken & WRAP != 0;
        let is_available = (flags & AVAILABLE != 0) == turn && (flags & USED != 0) != turn;
        // All else of the chain is read after this.
        fence(Ordering::Acquire);
        Ok(is_available)
    }

    /// See [`super::VirtQueue::take`].
    pub(super) fn take(&mut self, ram: &dyn GuestRam) -> Result<Option<Buffer>, QueueError> {
        if !self.is_available(ram)? {
            return Ok(None);
        }
        let head = place(self.taken);
        let mut current = self.descriptor(ram, head)?;
        let mut descriptors = 1;
        let is_indirect = current.flags & INDIRECT != 0;
        while current.flags & NEXT != 0 && !is_indirect {
            if descriptors == self.size {
                return Err(QueueError::Loop);
            }
            let number = place(self.behind(self.taken, descriptors));
            current = self.descriptor(ram, number)?;
            descriptors += 1;
        }
        if descriptors > self.size - self.in_use {
            return Err(QueueError::InUse);
        }
        self.in_use += descriptors;
        self.taken = self.behind(self.taken, descriptors);
        Ok(Some(Buffer {
            head,
            // That of the chain's last one.
            id: current.next,
            descriptors,
        }))
    }

    /// See [`super::VirtQueue::chain`].
    pub(super) fn chain(
        &self,
        ram: &dyn GuestRam,
        buffer: Buffer,
        segments: &mut Segments,
    ) -> Result<usize, QueueError> {
        let mut readable = 0;
        let first = self.descriptor(ram, buffer.head)?;
        if first.flags & INDIRECT != 0 {
            // All of a table is one chain.
            let (table, length) = first.table()?;
            for index in 0..length {
                let current = packed(descriptor(ram, table, length, index)?);
                current.add_to(ram, segments, &mut readable)?;
            }
            return Ok(readable);
        }
        first.add_to(ram, segments, &mut readable)?;
        for next in 1..buffer.descriptors {
            let number = place(self.behind(buffer.head, next));
            let current = self.descriptor(ram, number)?;
            current.add_to(ram, segments, &mut readable)?;
        }
        Ok(readable)
    }

    /// See [`super::VirtQueue::give_back`].
    pub(super) fn give_back(
        &mut self,
        ram: &dyn GuestRam,
        buffer: Buffer,
        written: u32,
    ) -> Result<(), QueueError> {
        self.in_use = self.in_use.saturating_sub(buffer.descriptors);
        let at = self.at(place(self.returned));
        let mut bytes = [0; (FLAGS - LENGTH) as usize];
        bytes[..4].copy_from_slice(&written.to_le_bytes());
        bytes[4..].copy_from_slice(&buffer.id.to_le_bytes());
        ram.write(at.wrapping_add(LENGTH), &bytes)?;
        let mut flags = if written == 0 { 0 } else { WRITE };
        if self.returned & WRAP != 0 {
            flags |= AVAILABLE | USED;
        }
        // The driver sees all else first.
        fence(Ordering::Release);
        ram.store16(at.wrapping_add(FLAGS), flags)?;
        let before = self.returned;
        self.returned = self.behind(before, buffer.descriptors);
        if (self.returned ^ before) & WRAP != 0 {
            // A place that is told of is compared within one round only.
            self.told = None;
        }
        Ok(())
    }

    /// See [`super::VirtQueue::wait`].
    pub(super) fn wait(&self, ram: &dyn GuestRam, features: u64) -> Result<(), QueueError> {
        if self.rings.descriptors == 0 {
            return Ok(());
        }
        let event = self.rings.used;
        let mut flags = ENABLE;
        if features & RING_EVENT_IDX != 0 {
            ram.store16(event, self.taken)?;
            // The place is there before the flags say so.
            fence(Ordering::Release);
            flags = AT_PLACE;
        }
        Ok(ram.store16(event.wrapping_add(EVENT_FLAGS), flags)?)
    }

    /// See [`super::VirtQueue::wants_interrupt`].
    pub(super) fn wants_interrupt(&mut self, ram: &dyn GuestRam) -> Result<bool, QueueError> {
        let event = self.rings.available;
        let new = self.returned;
        let old = self.told.replace(new);
        let flags = ram.load16(event.wrapping_add(EVENT_FLAGS))?;
        let wanted = ram.load16(event)?;
        let (Some(old), AT_PLACE) = (old, flags) else {
            return Ok(flags != DISABLE);
        };
        // Places of the round before lie below those of this one.
        let is_before = (wanted ^ new) & WRAP != 0;
        let back = if is_before { self.size } else { 0 };
        let wanted = place(wanted).wrapping_sub(back);
        let (new, old) = (place(new), place(old));
        Ok(new.wrapping_sub(wanted).wrapping_sub(1) < new.wrapping_sub(old))
    }
}

/// A descriptor as packed rings have it: flags come last.
fn packed(read: Descriptor) -> Descriptor {
    Descriptor {
        flags: read.next,
        next: read.flags,
        ..read
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Rings, VirtQueue};
    use super::*;
    use crate::memory::ArrayRam;
    use std::vec::Vec;

    type Ram = ArrayRam<0x1_0000>;

    const RING: u64 = 0x1000;
    const DRIVER: u64 = 0x2000;
    const DEVICE: u64 = 0x3000;
    const SIZE: u16 = 7;

    fn queue() -> VirtQueue {
        let mut queue = VirtQueue::new(SIZE);
        queue.set_rings(Rings {
            descriptors: RING,
            available: DRIVER,
            used: DEVICE,
        });
        queue.set_packed(true);
        queue
    }

    fn describe(ram: &Ram, at: u64, address: u64, length: u32, id: u16, flags: u16) {
        let mut bytes = Vec::from(address.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        bytes.extend(id.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        ram.write(at, &bytes).unwrap();
    }

    /// A driver of the other side: makes chains available, one behind the other.
    struct Driver {
        at: u16,
        turn: bool,
    }

    impl Driver {
        fn new() -> Self {
            Self { at: 0, turn: true }
        }

        fn offer(&mut self, ram: &Ram, id: u16, pieces: &[(u64, u32, u16)]) {
            for (index, (address, length, flags)) in pieces.iter().enumerate() {
                let next = if index + 1 == pieces.len() { 0 } else { NEXT };
                let turn = if self.turn { AVAILABLE } else { USED };
                let at = RING + DESCRIPTOR * u64::from(self.at);
                describe(ram, at, *address, *length, id, flags | next | turn);
                self.at += 1;
                if self.at == SIZE {
                    (self.at, self.turn) = (0, !self.turn);
                }
            }
        }
    }

    fn pieces(queue: &VirtQueue, ram: &Ram, buffer: Buffer) -> (usize, Vec<(u64, u32)>) {
        let mut segments = Segments::new();
        let readable = queue.chain(ram, buffer, &mut segments).unwrap();
        let pieces = segments.iter().map(|piece| (piece.gpa, piece.length));
        (readable, pieces.collect())
    }

    #[test]
    fn buffers_go_round() {
        let (ram, mut queue, mut driver) = (Ram::new(), queue(), Driver::new());
        assert_eq!(queue.take(&ram, 0), Ok(None));
        assert_eq!(queue.is_empty(&ram), Ok(true));
        let mut returned = 0;
        for round in 0..1000_u32 {
            let id = (round * 5) as u16;
            let chain = [(0x5000, 16, 0), (0x6000, round + 1, 0), (0x7000, 1, WRITE)];
            let used = 1 + (round % 3) as usize;
            let chain = &chain[3 - used..];
            let first = driver.at;
            driver.offer(&ram, id, chain);
            assert_eq!(queue.is_empty(&ram), Ok(false));
            let buffer = queue.take(&ram, 0).unwrap().unwrap();
            assert_eq!((buffer.head, buffer.id), (first, id));
            assert_eq!(usize::from(buffer.descriptors), used);
            assert_eq!(queue.take(&ram, 0), Ok(None));
            assert_eq!(usize::from(queue.in_use()), used);
            let expected = chain.iter().map(|piece| (piece.0, piece.1)).collect();
            assert_eq!(pieces(&queue, &ram, buffer), (used - 1, expected));
            assert!(queue.is_next(buffer));
            queue.give_back(&ram, buffer, round).unwrap();
            let mut entry = [0; 8];
            let at = RING + DESCRIPTOR * u64::from(first);
            ram.read(at + LENGTH, &mut entry).unwrap();
            assert_eq!(entry[..4], round.to_le_bytes());
            assert_eq!(entry[4..6], id.to_le_bytes());
            let turn = if returned / usize::from(SIZE) % 2 == 0 {
                AVAILABLE | USED
            } else {
                0
            };
            let wrote = if round == 0 { 0 } else { WRITE };
            assert_eq!(entry[6..], (turn | wrote).to_le_bytes(), "{round}");
            returned += used;
        }
        assert_eq!(queue.in_use(), 0);
    }

    #[test]
    fn they_go_back_in_order() {
        let (ram, mut queue, mut driver) = (Ram::new(), queue(), Driver::new());
        driver.offer(&ram, 9, &[(0x5000, 16, 0), (0x7000, 1, WRITE)]);
        driver.offer(&ram, 8, &[(0x6000, 1, 0)]);
        let first = queue.take(&ram, 0).unwrap().unwrap();
        let second = queue.take(&ram, 0).unwrap().unwrap();
        assert!(queue.is_next(first) && !queue.is_next(second));
        queue.give_back(&ram, first, 1).unwrap();
        assert!(queue.is_next(second));
        assert_eq!(pieces(&queue, &ram, second), (1, [(0x6000, 1)].into()));
        queue.give_back(&ram, second, 0).unwrap();
    }

    #[test]
    fn a_table_is_one_chain() {
        let (ram, mut queue, mut driver) = (Ram::new(), queue(), Driver::new());
        driver.offer(&ram, 3, &[(0x8000, 48, INDIRECT)]);
        describe(&ram, 0x8000, 0x5000, 16, 77, NEXT);
        // Only who writes is said by these flags.
        describe(&ram, 0x8010, 0x6000, 512, 78, 0);
        describe(&ram, 0x8020, 0x7000, 1, 79, WRITE | INDIRECT);
        let buffer = queue.take(&ram, 0).unwrap().unwrap();
        assert_eq!((buffer.id, buffer.descriptors), (3, 1));
        let expected = [(0x5000, 16), (0x6000, 512), (0x7000, 1)];
        assert_eq!(pieces(&queue, &ram, buffer), (2, expected.into()));
    }

    #[test]
    fn hostile_rings_are_refused() {
        let with = |pieces: &[(u64, u32, u16)]| {
            let (ram, mut queue) = (Ram::new(), queue());
            Driver::new().offer(&ram, 0, pieces);
            let buffer = queue.take(&ram, 0)?.expect("a buffer");
            queue.chain(&ram, buffer, &mut Segments::new())
        };
        assert_eq!(with(&[(0x5000, 1, 0)]), Ok(1));
        assert_eq!(with(&[(0x5000, 0, 0)]), Err(QueueError::Empty));
        assert_eq!(with(&[(0xffff, 2, 0)]), Err(QueueError::Memory));
        assert_eq!(with(&[(u64::MAX, 1, 0)]), Err(QueueError::Memory));
        assert_eq!(
            with(&[(0x5000, 1, WRITE), (0x5000, 1, 0)]),
            Err(QueueError::Order)
        );
        assert_eq!(with(&[(0x8000, 0, INDIRECT)]), Err(QueueError::Table));
        assert_eq!(with(&[(0x8000, 17, INDIRECT)]), Err(QueueError::Table));
        assert_eq!(with(&[(0xfff8, 32, INDIRECT)]), Err(QueueError::Memory));
        // A ring that is one chain without an end.
        assert_eq!(with(&[(0x5000, 1, NEXT); 7]), Err(QueueError::Loop));
        // A table of more than any request has.
        let (ram, mut queue) = (Ram::new(), queue());
        for index in 0..2000 {
            describe(&ram, 0x8000 + 16 * index, 0x5000, 1, 0, 0);
        }
        Driver::new().offer(&ram, 0, &[(0x8000, 16 * 2000, INDIRECT)]);
        let buffer = queue.take(&ram, 0).unwrap().unwrap();
        let mut segments = Segments::new();
        let chain = queue.chain(&ram, buffer, &mut segments);
        assert_eq!(chain, Err(QueueError::Loop));
        // Descriptors that are in use already are offered once more.
        for number in 0..SIZE {
            let turn = if number == 0 { USED } else { AVAILABLE };
            let at = RING + DESCRIPTOR * u64::from(number);
            describe(&ram, at, 0x5000, 1, 0, turn);
        }
        for _ in 1..SIZE {
            assert!(matches!(queue.take(&ram, 0), Ok(Some(_))));
        }
        assert_eq!(queue.take(&ram, 0), Err(QueueError::InUse));
        // And where there is no memory.
        queue.set_rings(Rings {
            descriptors: 1,
            available: 0x2_0000,
            used: u64::MAX - 7,
        });
        assert_eq!(queue.wait(&ram, 0), Err(QueueError::Memory));
        assert_eq!(queue.wants_interrupt(&ram, 0), Err(QueueError::Memory));
        queue.set_rings(Rings {
            descriptors: u64::MAX - 40,
            ..queue.rings()
        });
        assert_eq!(queue.take(&ram, 0), Err(QueueError::Memory));
        assert_eq!(
            queue.give_back(&ram, buffer, 0),
            Err(QueueError::Memory),
            "it wraps"
        );
    }

    #[test]
    fn each_side_says_what_it_wants_to_be_told_of() {
        let (ram, mut queue, mut driver) = (Ram::new(), queue(), Driver::new());
        let mut one = |queue: &mut VirtQueue| {
            driver.offer(&ram, 1, &[(0x5000, 1, 0)]);
            let buffer = queue.take(&ram, 0).unwrap().unwrap();
            queue.give_back(&ram, buffer, 0).unwrap();
            queue.wants_interrupt(&ram, 0).unwrap()
        };
        assert!(one(&mut queue));
        ram.store16(DRIVER + EVENT_FLAGS, DISABLE).unwrap();
        assert!(!one(&mut queue));
        // Behind descriptor 3, of this round and of the next ones.
        ram.store16(DRIVER + EVENT_FLAGS, AT_PLACE).unwrap();
        ram.store16(DRIVER, 3 | WRAP).unwrap();
        let told: Vec<bool> = (0..4).map(|_| one(&mut queue)).collect();
        assert_eq!(told, [false, true, false, false]);
        ram.store16(DRIVER, 1).unwrap();
        // The first of a round is told of, since it is not known what went before.
        let told: Vec<bool> = (0..4).map(|_| one(&mut queue)).collect();
        assert_eq!(told, [true, false, true, false]);
        // The device's own wishes.
        queue.wait(&ram, 0).unwrap();
        assert_eq!(ram.load16(DEVICE + EVENT_FLAGS), Ok(ENABLE));
        queue.wait(&ram, RING_EVENT_IDX).unwrap();
        assert_eq!(ram.load16(DEVICE + EVENT_FLAGS), Ok(AT_PLACE));
        assert_eq!(ram.load16(DEVICE), Ok(3));
    }

    #[test]
    fn saved_state_is_checked() {
        let mut queue = queue();
        let good = queue.save();
        for bad in [SIZE, SIZE | WRAP] {
            let mut saved = good.clone();
            saved.0.taken = bad;
            assert!(queue.load(&saved).is_err());
            let mut saved = good.clone();
            saved.0.returned = bad;
            assert!(queue.load(&saved).is_err());
        }
        assert!(queue.load(&good).is_ok());
    }
}
