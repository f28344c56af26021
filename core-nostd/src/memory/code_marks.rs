//! Which pages of RAM hold decoded code, so that stores to them are noticed.
//!
//! A processor marks a page before it reads code from it; whoever stores to RAM asks with each
//! store ([`GuestRam::written`](super::GuestRam::written)). Pages beyond 4 GiB share their marks with
//! one below: then a store may be noticed that need not be, never the other way round.

#![cfg_attr(test, allow(unsafe_code))]

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Bits of a page's address within it.
const PAGE_BITS: u32 = 12;
/// Pages with a mark of their own: 4 GiB.
const MARKS: usize = 1 << 20;
/// Pages that were stored to and are told one by one; of more it is told that there were more.
const TOLD_MAX: usize = 32;

/// The marks. Valid when all bytes are zero.
#[derive(Debug)]
#[repr(C)]
pub struct CodeMarks {
    marks: [AtomicU64; MARKS / 64],
    /// Numbers of marked pages that were stored to, plus one; 0 is none.
    told: [AtomicU64; TOLD_MAX],
    /// Where the next one goes.
    next: AtomicUsize,
    /// One was pushed out before it was told.
    overflowed: AtomicBool,
    /// Whether there is one. It is set after all else, and taken before all else.
    written: AtomicBool,
}

/// What was stored to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// A page, by the guest physical address of its first byte.
    Page(u64),
    /// So many that all of them must be taken as stored to.
    Everything,
}

impl Default for CodeMarks {
    fn default() -> Self {
        Self::new()
    }
}

impl CodeMarks {
    /// No page is marked. It is large: use this to initialise a `static`, and zeroed memory
    /// elsewhere.
    pub const fn new() -> Self {
        Self {
            marks: [const { AtomicU64::new(0) }; MARKS / 64],
            told: [const { AtomicU64::new(0) }; TOLD_MAX],
            next: AtomicUsize::new(0),
            overflowed: AtomicBool::new(false),
            written: AtomicBool::new(false),
        }
    }

    const fn place(page: u64) -> (usize, u64) {
        let mark = page as usize % MARKS;
        (mark / 64, 1 << (mark % 64))
    }

    /// Marks the page of 4 KiB around `gpa`; false if it was marked before.
    pub fn mark(&self, gpa: u64) -> bool {
        let (word, bit) = Self::place(gpa >> PAGE_BITS);
        self.marks[word].fetch_or(bit, Ordering::SeqCst) & bit == 0
    }

    /// Whether the page around `gpa` is marked.
    #[inline]
    pub fn marked(&self, gpa: u64) -> bool {
        let (word, bit) = Self::place(gpa >> PAGE_BITS);
        self.marks[word].load(Ordering::Relaxed) & bit != 0
    }

    /// Bytes were stored: takes the marks from their pages and remembers those that had one.
    pub fn stored(&self, gpa: u64, length: usize) {
        let Some(last) = (length as u64).checked_sub(1) else {
            return;
        };
        let (first, last) = (gpa >> PAGE_BITS, gpa.saturating_add(last) >> PAGE_BITS);
        for page in first..=last {
            let (word, bit) = Self::place(page);
            if self.marks[word].load(Ordering::SeqCst) & bit == 0 {
                continue;
            }
            self.marks[word].fetch_and(!bit, Ordering::SeqCst);
            let at = self.next.fetch_add(1, Ordering::SeqCst) % TOLD_MAX;
            if self.told[at].swap(page + 1, Ordering::SeqCst) != 0 {
                self.overflowed.store(true, Ordering::SeqCst);
            }
            self.written.store(true, Ordering::SeqCst);
        }
    }

    /// The byte that is not zero while [`Self::written`].
    pub(crate) fn written_flag(&self) -> &AtomicBool {
        &self.written
    }

    /// Whether [`CodeMarks::take_written`] has something to tell.
    #[inline]
    pub fn written(&self) -> bool {
        self.written.load(Ordering::Relaxed)
    }

    /// Calls `tell` with what was stored to since the last call.
    pub fn take_written(&self, mut tell: impl FnMut(Written)) {
        if !self.written.swap(false, Ordering::SeqCst) {
            return;
        }
        for told in &self.told {
            if let Some(page) = told.swap(0, Ordering::SeqCst).checked_sub(1) {
                tell(Written::Page(page << PAGE_BITS));
            }
        }
        if self.overflowed.swap(false, Ordering::SeqCst) {
            tell(Written::Everything);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::boxed::Box;
    use std::vec::Vec;

    fn marks() -> Box<CodeMarks> {
        // SAFETY: integers and booleans, for which zero is valid.
        unsafe { Box::new_zeroed().assume_init() }
    }

    fn told(marks: &CodeMarks) -> Vec<Written> {
        let mut all = Vec::new();
        marks.take_written(|written| all.push(written));
        all
    }

    #[test]
    fn stores_to_marked_pages_are_told_once() {
        let marks = marks();
        assert!(marks.mark(0x5123));
        assert!(!marks.mark(0x5fff));
        assert!(marks.marked(0x5000) && !marks.marked(0x6000));
        marks.stored(0x4000, 0x1000);
        marks.stored(0x6000, 0);
        assert!(!marks.written());
        marks.stored(0x4fff, 2);
        marks.stored(0x5000, 1);
        assert!(marks.written() && !marks.marked(0x5000));
        assert_eq!(told(&marks), [Written::Page(0x5000)]);
        assert_eq!(told(&marks), []);
    }

    #[test]
    fn too_many_are_everything() {
        let marks = marks();
        for page in 0..40 {
            marks.mark(page << PAGE_BITS);
        }
        marks.stored(0, 40 << PAGE_BITS);
        assert_eq!(told(&marks).last(), Some(&Written::Everything));
        assert_eq!(told(&marks), []);
        // Far pages share a mark.
        marks.mark(0x1000);
        marks.stored(0x1_0000_1000, 1);
        assert_eq!(told(&marks), [Written::Page(0x1_0000_1000)]);
    }
}
