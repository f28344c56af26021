//! The memory of a request: pieces of guest RAM, or of the block layer's own.
//!
//! Guest RAM is written by others at the same time, so nothing here makes a Rust slice of it: bytes are copied by raw
//! pointer, or the kernel moves them. A [`Buffer`] is cheap to cut, which is how formats spread a request over their
//! clusters.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use thimble_core::devices::block::Segment;
use thimble_core::memory::GuestRam;

/// What own memory is aligned to: enough for direct I/O everywhere.
pub const ALIGNMENT: usize = 4096;

/// Memory of the block layer's own, zeroed, and freed with the last buffer that names it.
struct Owned {
    pointer: NonNull<u8>,
    layout: Layout,
}

impl Owned {
    fn new(length: usize) -> Arc<Self> {
        let length = length.max(1);
        // A request has at most `REQUEST_MAX` bytes, and an alignment that is a power of two.
        let layout = Layout::from_size_align(length, ALIGNMENT)
            .unwrap_or_else(|_| handle_alloc_error(Layout::new::<u8>()));
        // SAFETY: the layout is not empty.
        let pointer = NonNull::new(unsafe { alloc_zeroed(layout) });
        let pointer = pointer.unwrap_or_else(|| handle_alloc_error(layout));
        Arc::new(Self { pointer, layout })
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and nobody names it any more.
        unsafe { dealloc(self.pointer.as_ptr(), self.layout) };
    }
}

// SAFETY: its bytes are reached by raw pointer only.
unsafe impl Send for Owned {}
// SAFETY: the same.
unsafe impl Sync for Owned {}

/// Who is inside of a gate.
#[derive(Debug, Default)]
struct Inside {
    count: usize,
    closed: bool,
}

/// What some use together until somebody takes it back: the guest memory that is lent to the requests of a drive. A reset of
/// its controller takes it back: from then on they read nothing and write nothing there, wherever they are.
///
/// Who is inside may leave by another thread.
#[derive(Debug, Default)]
pub struct Gate {
    inside: Mutex<Inside>,
    empty: Condvar,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets nobody in any more, and waits for those who are inside: the kernel may be just moving bytes.
    pub fn close(&self) {
        let mut inside = self.lock();
        inside.closed = true;
        while inside.count > 0 {
            inside = self
                .empty
                .wait(inside)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets in again.
    pub fn open(&self) {
        self.lock().closed = false;
    }

    /// Whether it has been closed.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Goes inside; nothing if it has been closed. Never waits.
    pub fn enter(self: &Arc<Self>) -> Option<Entered> {
        let mut inside = self.lock();
        if inside.closed {
            return None;
        }
        inside.count += 1;
        Some(Entered(Some(self.clone())))
    }
}

/// As long as it lives, its owner is inside of a gate, if there is one.
pub struct Entered(Option<Arc<Gate>>);

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(gate) = &self.0 {
            let mut inside = gate.lock();
            inside.count -= 1;
            if inside.count == 0 && inside.closed {
                gate.empty.notify_all();
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Piece {
    pointer: NonNull<u8>,
    length: usize,
}

/// The memory of a request.
#[derive(Clone)]
pub struct Buffer {
    pieces: Vec<Piece>,
    length: usize,
    _owned: Option<Arc<Owned>>,
    gate: Option<Arc<Gate>>,
}

// SAFETY: guest RAM is `Sync` and stays; own memory is held by `_owned`.
unsafe impl Send for Buffer {}

impl Buffer {
    /// Guest RAM, piece by piece; nothing if some of it is not RAM.
    pub fn guest(
        ram: &'static dyn GuestRam,
        segments: &[Segment],
        gate: Arc<Gate>,
    ) -> Option<Self> {
        let mut pieces: Vec<Piece> = Vec::with_capacity(segments.len());
        let mut total = 0;
        for segment in segments {
            let (mut gpa, mut left) = (segment.gpa, segment.length as usize);
            while left > 0 {
                let block = ram.block(gpa)?;
                let length = block.length.min(left);
                pieces.push(Piece {
                    pointer: block.pointer,
                    length,
                });
                total += length;
                left -= length;
                gpa = gpa
                    .checked_add(length as u64)
                    .or((left == 0).then_some(0))?;
            }
        }
        Some(Self {
            pieces,
            length: total,
            _owned: None,
            gate: Some(gate),
        })
    }

    /// Own memory, full of zeros.
    pub fn new(length: usize) -> Self {
        let owned = Owned::new(length);
        Self {
            pieces: vec![Piece {
                pointer: owned.pointer,
                length,
            }],
            length,
            _owned: Some(owned),
            gate: None,
        }
    }

    /// Own memory with these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let buffer = Self::new(bytes.len());
        buffer.write(bytes);
        buffer
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// A part of it: the same memory. What lies beyond its end is left out.
    pub fn slice(&self, mut offset: usize, length: usize) -> Self {
        let mut pieces = Vec::new();
        let mut left = length.min(self.length.saturating_sub(offset));
        let total = left;
        for piece in &self.pieces {
            if offset >= piece.length {
                offset -= piece.length;
                continue;
            }
            if left == 0 {
                break;
            }
            let part = (piece.length - offset).min(left);
            pieces.push(Piece {
                // SAFETY: `offset` is inside the piece.
                pointer: unsafe { piece.pointer.add(offset) },
                length: part,
            });
            left -= part;
            offset = 0;
        }
        Self {
            pieces,
            length: total,
            _owned: self._owned.clone(),
            gate: self.gate.clone(),
        }
    }

    /// Begins to use the memory; nothing if it was taken back. As long as the result lives, the memory stays lent.
    pub fn enter(&self) -> Option<Entered> {
        match &self.gate {
            None => Some(Entered(None)),
            Some(gate) => gate.enter(),
        }
    }

    /// Takes bytes over, as far as there is room.
    pub fn write(&self, mut bytes: &[u8]) {
        let Some(_entered) = self.enter() else {
            return;
        };
        for piece in &self.pieces {
            let (now, later) = bytes.split_at(piece.length.min(bytes.len()));
            // SAFETY: the piece is as long; others may see the bytes come, but nobody has a reference to them.
            unsafe { std::ptr::copy(now.as_ptr(), piece.pointer.as_ptr(), now.len()) };
            bytes = later;
        }
    }

    /// Gives bytes out, as many as are asked for and there.
    pub fn read(&self, mut bytes: &mut [u8]) {
        let Some(_entered) = self.enter() else {
            return;
        };
        for piece in &self.pieces {
            let length = piece.length.min(bytes.len());
            let (now, later) = bytes.split_at_mut(length);
            // SAFETY: the piece is as long; the bytes may change meanwhile, which shows in what is copied.
            unsafe { std::ptr::copy(piece.pointer.as_ptr(), now.as_mut_ptr(), length) };
            bytes = later;
        }
    }

    /// All bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.length];
        self.read(&mut bytes);
        bytes
    }

    /// Takes the bytes of another over.
    pub fn copy_from(&self, other: &Self) {
        let (Some(_entered), Some(_other)) = (self.enter(), other.enter()) else {
            return;
        };
        let mut at = 0;
        for piece in &other.pieces {
            let part = self.slice(at, piece.length);
            let mut from = piece.pointer;
            for to in &part.pieces {
                // SAFETY: both pieces are as long; they may overlap.
                unsafe {
                    std::ptr::copy(from.as_ptr(), to.pointer.as_ptr(), to.length);
                    from = from.add(to.length);
                }
            }
            at += piece.length;
        }
    }

    /// Sets all bytes to one value.
    pub fn fill(&self, value: u8) {
        let Some(_entered) = self.enter() else {
            return;
        };
        for piece in &self.pieces {
            // SAFETY: the piece is as long.
            unsafe { std::ptr::write_bytes(piece.pointer.as_ptr(), value, piece.length) };
        }
    }

    /// Whether all bytes are zero now.
    pub fn is_zero(&self) -> bool {
        let Some(_entered) = self.enter() else {
            return false;
        };
        self.pieces.iter().all(|piece| {
            let start = piece.pointer.as_ptr();
            let head = start.align_offset(8).min(piece.length);
            let words = (piece.length - head) / 8;
            let byte = |at: usize| {
                // SAFETY: inside the piece; all access is atomic.
                unsafe { AtomicU8::from_ptr(start.add(at)) }.load(Ordering::Relaxed) == 0
            };
            let word = |at: usize| {
                // SAFETY: inside the piece, and aligned by `head`.
                unsafe { AtomicU64::from_ptr(start.add(head).cast::<u64>().add(at)) }
                    .load(Ordering::Relaxed)
                    == 0
            };
            (0..head).all(byte)
                && (0..words).all(word)
                && (head + words * 8..piece.length).all(byte)
        })
    }

    /// Whether each piece begins and ends at a multiple of `alignment`.
    pub fn is_aligned(&self, alignment: usize) -> bool {
        let fits = |piece: &Piece| {
            piece.pointer.as_ptr().addr().is_multiple_of(alignment)
                && piece.length.is_multiple_of(alignment)
        };
        self.pieces.iter().all(fits)
    }

    /// The pieces as the kernel takes them, at most `most`, and the bytes that they have.
    pub fn vectors(&self, most: usize) -> (Vec<libc::iovec>, usize) {
        let pieces = &self.pieces[..self.pieces.len().min(most)];
        let vectors = pieces.iter().map(|piece| libc::iovec {
            iov_base: piece.pointer.as_ptr().cast(),
            iov_len: piece.length,
        });
        (
            vectors.collect(),
            pieces.iter().map(|piece| piece.length).sum(),
        )
    }
}

#[cfg(test)]
impl Buffer {
    /// The same memory, lent by a gate.
    pub fn gated(mut self, gate: &Arc<Gate>) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// Pieces of one memory, one behind the other.
    pub fn joined(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut joined = Self::new(0);
        for part in parts {
            joined.pieces.extend(part.pieces);
            joined.length += part.length;
            joined._owned = part._owned;
        }
        joined
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_same_memory() {
        let whole = Buffer::of(b"abcdefgh");
        let part = whole.slice(2, 3);
        assert_eq!(part.to_vec(), b"cde");
        part.write(b"xyz");
        assert_eq!(whole.to_vec(), b"abxyzfgh");
        assert_eq!(whole.slice(6, 9).to_vec(), b"gh");
        assert!(whole.slice(8, 1).is_empty());
        assert!(whole.slice(80, 1).is_empty());
    }

    #[test]
    fn copies_between_pieces() {
        let from = Buffer::of(&(0..100).collect::<Vec<u8>>());
        let mut cut = from.slice(0, 10);
        cut.pieces.extend(from.slice(50, 20).pieces);
        cut.length = 30;
        let to = Buffer::new(30);
        to.copy_from(&cut);
        assert_eq!(
            to.to_vec(),
            [(0..10).collect::<Vec<u8>>(), (50..70).collect()].concat()
        );
        to.fill(0);
        cut.copy_from(&to);
        assert!(from.slice(50, 20).is_zero() && from.slice(0, 10).is_zero());
        assert_eq!(from.slice(10, 1).to_vec(), [10]);
    }

    #[test]
    fn who_takes_memory_back_waits_for_those_who_use_it() {
        let gate = Arc::new(Gate::default());
        let (first, second) = (gate.enter(), gate.enter());
        let closer = gate.clone();
        let closing = std::thread::spawn(move || closer.close());
        while !gate.is_closed() {
            std::thread::yield_now();
        }
        assert!(gate.enter().is_none());
        drop(first);
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(!closing.is_finished());
        // It is another thread that leaves.
        std::thread::spawn(move || drop(second)).join().unwrap();
        closing.join().unwrap();
        gate.close();
        gate.open();
        assert!(gate.enter().is_some());
    }

    #[test]
    fn finds_every_byte_that_is_not_zero() {
        for length in [0, 1, 7, 8, 9, 40] {
            for start in 0..9 {
                let part = Buffer::new(64).slice(start, length);
                assert!(part.is_zero());
                for at in 0..length {
                    part.slice(at, 1).fill(1);
                    assert!(!part.is_zero(), "{start} {length} {at}");
                    part.slice(at, 1).fill(0);
                }
            }
        }
    }
}
