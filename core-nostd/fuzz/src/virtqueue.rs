//! Virtqueues under a hostile driver, and in the hands of a device that returns buffers in any order.

use thimble_core::devices::block::{SEGMENTS_MAX, Segments};
use thimble_core::memory::{ArrayRam, GuestRam};
use thimble_core::virtio::queue::{
    Buffer, NOTIFY_ON_EMPTY, RING_EVENT_IDX, Rings, SavedQueue, VirtQueue, length,
};

use crate::{Source, plant};

/// Bytes of guest memory.
const RAM: usize = 0x1_0000;
/// Where rings like to be, near each other.
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x1400;
const USED: u64 = 0x1800;
const TABLE: u64 = 0x2000;

/// A place: mostly near the rings, sometimes anywhere.
fn place(source: &mut Source<'_>) -> u64 {
    let what = source.byte();
    let near = DESCRIPTORS + source.number(2) % 0x1800;
    match what >> 4 {
        0 => source.number(8),
        1 => RAM as u64 - u64::from(what & 15),
        2 => TABLE,
        _ => near,
    }
}

/// A descriptor of a chain, as drivers make them.
fn describe(ram: &ArrayRam<RAM>, source: &mut Source<'_>, at: u64) {
    let control = source.byte();
    let address = match control >> 6 {
        0 => place(source),
        1 => TABLE,
        _ => 0x8000 + source.number(1) * 16,
    };
    let length = match control >> 4 & 3 {
        0 => source.number(4) as u32,
        1 => 16 * u32::from(source.byte() & 7),
        _ => source.byte().into(),
    };
    let mut bytes = Vec::from(address.to_le_bytes());
    bytes.extend(length.to_le_bytes());
    // Split rings have flags first, packed ones a number.
    bytes.extend(u16::to_le_bytes((control & 15).into()));
    bytes.extend((source.number(2) as u16).to_le_bytes());
    // It may lie outside.
    let _ = ram.write(at, &bytes);
}

/// Changes a number somewhere in saved state; what comes of it may be no state any more.
fn spoil(saved: &SavedQueue, source: &mut Source<'_>) -> Option<SavedQueue> {
    let mut text = serde_json::to_value(saved).expect("a tree");
    let fields = text.as_object_mut().expect("fields");
    let which = usize::from(source.byte()) % fields.len();
    let value = fields.values_mut().nth(which)?;
    if value.is_number() || value.is_null() {
        *value = source.number(2).into();
    } else if value.is_boolean() {
        *value = (source.byte() & 1 != 0).into();
    }
    serde_json::from_value(text).ok()
}

/// Does what the bytes say.
pub fn run(bytes: &[u8]) {
    let mut source = Source(bytes);
    let ram = ArrayRam::<RAM>::new();
    let mut queue = VirtQueue::new(1 + source.byte() as u16 % 32);
    queue.set_rings(Rings {
        descriptors: DESCRIPTORS,
        available: AVAILABLE,
        used: USED,
    });
    queue.set_packed(source.byte() & 1 != 0);
    let mut taken: Vec<Buffer> = Vec::new();
    let mut segments = Segments::new();
    while !source.is_empty() {
        let operation = source.byte();
        let features = match operation >> 6 {
            0 => 0,
            1 => NOTIFY_ON_EMPTY,
            _ => RING_EVENT_IDX,
        };
        match operation & 15 {
            0 | 1 => {
                let at = place(&mut source);
                let value = source.number(8).to_le_bytes();
                let length = 1 << (operation >> 4 & 3);
                // It may lie outside.
                let _ = ram.write(at, &value[..length]);
            }
            2 | 3 => {
                let number = u64::from(source.byte() & 31);
                describe(&ram, &mut source, DESCRIPTORS + 16 * number);
            }
            4 => {
                let number = u64::from(source.byte() & 7);
                describe(&ram, &mut source, TABLE + 16 * number);
            }
            5 | 6 => {
                // As many as the driver has room for are available.
                let entry = AVAILABLE + 2 * (source.number(1) & 31);
                let _ = ram.store16(entry + 4, source.number(1) as u16);
                let index = ram.load16(AVAILABLE + 2).expect("RAM");
                let _ = ram.store16(AVAILABLE + 2, index.wrapping_add(1));
            }
            7 | 8 => {
                let before = queue.in_use();
                if let Ok(Some(buffer)) = queue.take(&ram, features) {
                    assert!(buffer.head < queue.size(), "{buffer:?}");
                    assert!(queue.in_use() > before && queue.in_use() <= queue.size());
                    taken.push(buffer);
                }
            }
            9 | 10 => {
                let which = usize::from(source.byte()).checked_rem(taken.len());
                let Some(buffer) = which.map(|which| taken[which]) else {
                    continue;
                };
                if let Ok(readable) = queue.chain(&ram, buffer, &mut segments) {
                    assert!(readable <= segments.len() && segments.len() <= SEGMENTS_MAX);
                    for piece in &segments {
                        let end = piece.gpa.checked_add(piece.length.into());
                        assert!(piece.length != 0 && end.is_some_and(|end| end <= RAM as u64));
                    }
                    plant(segments.len() > 3 && length(&segments) > 300);
                }
            }
            11 | 12 => {
                let which = usize::from(source.byte()).checked_rem(taken.len());
                let Some(buffer) = which.map(|which| taken.swap_remove(which)) else {
                    continue;
                };
                let _ = queue.is_next(buffer);
                let _ = queue.give_back(&ram, buffer, source.number(4) as u32);
                let _ = queue.wants_interrupt(&ram, features);
            }
            13 => {
                let _ = queue.wait(&ram, features);
                let _ = queue.is_empty(&ram);
            }
            14 => {
                let saved = queue.save();
                let mut other = VirtQueue::new(queue.size());
                other.load(&saved).expect("its own state");
                assert_eq!(other, queue);
                if let Some(spoilt) = spoil(&saved, &mut source) {
                    // It may be refused.
                    let _ = queue.load(&spoilt);
                }
            }
            _ => match source.byte() & 3 {
                0 => queue.set_size(source.number(2) as u16),
                1 => {
                    queue.set_packed(operation & 16 != 0);
                    taken.clear();
                }
                _ => {
                    let [descriptors, available, used] = [(); 3].map(|()| place(&mut source));
                    queue.set_rings(Rings {
                        descriptors,
                        available,
                        used,
                    });
                }
            },
        }
    }
}
