//! The software TLB: what linear addresses stand for, remembered twice.
//!
//! - The *hot* table answers accesses to plain memory: a direct-mapped table for each [`Mode`],
//!   whose entries have a tag for each kind of [`Access`] and a host pointer. A tag is set only
//!   if that access needs nothing but the load or store: permission is given, the dirty flag is set,
//!   and neither a device nor the dirty log nor decoded code wants to know. So a hit is one compare.
//! - The *translations* are what a processor's TLB holds: pages with their flags by linear address and
//!   process context, two-way, small and large pages apart. Rights are checked when a hot entry
//!   is made of them, so changes of CR0.WP, CR4.SMAP, PKRU or EFLAGS.AC empty the hot table at
//!   most, and MOV to CR3 keeps what the manual lets it keep.
//!
//! Source for what must go when: Intel SDM volume 3, section 4.10 "Caching Translation
//! Information", 4.10.4.1 "Operations that Invalidate TLBs and Paging-Structure Caches".
//! Paging-structure caches are not modelled.
//!
//! The hot table is emptied by counting its generation up, which is part of each tag; a new process
//! context empties only what is not global, of which there is a list. Large pages lie in it by 4 KiB; a
//! small filter remembers which have ever come, so that INVLPG knows when one page of 4 KiB is not
//! all.
//!
//! A [`Tlb`] is valid when all of its bytes are zero, so that it may be placed in mapped memory.

use core::ptr::{self, NonNull};

use super::physical::{HostPage, PAGE_BYTES};
use super::tables::PAGE_BITS;
use super::walk::{Access, Mode, Page, PageFlags};

/// Entries of the hot table of one mode: 16 MiB of pages. A Linux that starts uses more than four.
pub const HOT_ENTRIES: usize = 4096;
/// Sets of translations of 4 KiB pages.
pub const SMALL_SETS: usize = 1024;
/// Sets of translations of large pages, each of which covers 2 MiB.
pub const LARGE_SETS: usize = 64;
/// Entries of a set.
const WAYS: usize = 2;
/// Bits of the address within what one large entry covers.
const LARGE_BITS: u32 = 21;
/// Bits of an address within a page of 4 KiB, as a mask.
const OFFSET: u64 = PAGE_BYTES as u64 - 1;
/// Generations of the hot table: what tags have room for below the page's address, less zero.
const GENERATIONS: u64 = OFFSET;
/// Sizes of large pages, in bits of an address.
const LARGE_SIZES: [u8; 3] = [21, 22, 30];
/// Bits of the filter of large pages.
const FILTER_BITS: u64 = 256;

/// What the hot table knows of a page in one mode.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Hot {
    /// By [`Access`]: [`Tlb::tag`], or 0.
    tags: [u64; 3],
    /// What is added to a linear address, wrapping, for the host address.
    host: usize,
}

/// A translation.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Cached {
    /// Linear address of what the entry covers, and the process context in the low 12 bits.
    key: u64,
    /// Guest physical address of the page's first byte.
    gpa: u64,
    /// Whose: the epoch of local or of global translations, plus 1; 0 is nobody's.
    epoch: u32,
    bits: u8,
    flags: PageFlags,
    protection: u8,
}

/// The translations that one processor remembers.
#[repr(C)]
pub struct Tlb {
    hot: [[Hot; HOT_ENTRIES]; Mode::COUNT],
    /// Guest physical addresses of the pages in `hot`, A20 masked.
    frames: [[u64; HOT_ENTRIES]; Mode::COUNT],
    small: [[Cached; WAYS]; SMALL_SETS],
    large: [[Cached; WAYS]; LARGE_SETS],
    /// Large pages that have come into `hot` since it was emptied.
    filter: [u64; FILTER_BITS as usize / 64],
    /// Of `hot`, from 0.
    generation: u64,
    /// Of translations of one process context, and of global ones.
    epoch: u32,
    global_epoch: u32,
    /// Which of `hot` have been made of translations that are not global, a bit each; others may be
    /// among them.
    local: [[u64; HOT_ENTRIES / 64]; Mode::COUNT],
}

/// Where translated code finds the hot table: offsets in [`Tlb`], and in an entry.
pub(in crate::cpu) mod layout {
    use super::{HOT_ENTRIES, Hot, Tlb};
    use core::mem::offset_of;

    pub(in crate::cpu) const HOT: usize = offset_of!(Tlb, hot);
    pub(in crate::cpu) const FRAMES: usize = offset_of!(Tlb, frames);
    pub(in crate::cpu) const GENERATION: usize = offset_of!(Tlb, generation);
    /// Bytes of an entry.
    pub(in crate::cpu) const ENTRY: usize = size_of::<Hot>();
    /// Bytes of a mode's entries, and of its frames.
    pub(in crate::cpu) const MODE: usize = HOT_ENTRIES * ENTRY;
    pub(in crate::cpu) const MODE_FRAMES: usize = HOT_ENTRIES * 8;
    pub(in crate::cpu) const TAGS: usize = offset_of!(Hot, tags);
    pub(in crate::cpu) const HOST: usize = offset_of!(Hot, host);
}

const NO_HOT: Hot = Hot {
    tags: [0; 3],
    host: 0,
};

const NO_TRANSLATION: Cached = Cached {
    key: 0,
    gpa: 0,
    epoch: 0,
    bits: 0,
    flags: PageFlags::empty(),
    protection: 0,
};

#[inline]
const fn hot_index(linear: u64) -> usize {
    (linear >> PAGE_BITS) as usize % HOT_ENTRIES
}

const fn small_set(linear: u64) -> usize {
    (linear >> PAGE_BITS) as usize % SMALL_SETS
}

const fn large_set(linear: u64) -> usize {
    (linear >> LARGE_BITS) as usize % LARGE_SETS
}

/// The bit of the filter that stands for the page of this size around an address.
const fn filter_bit(linear: u64, bits: u8) -> u64 {
    let number = linear >> bits;
    (number ^ number >> 8 ^ (bits as u64) << 3) % FILTER_BITS
}

impl Cached {
    /// Whether it has not been forgotten.
    fn alive(&self, epoch: u32, global_epoch: u32) -> bool {
        if self.flags.contains(PageFlags::GLOBAL) {
            self.epoch == global_epoch
        } else {
            self.epoch == epoch
        }
    }

    /// Whether this is the translation of what `key` covers, for its process context.
    fn answers(&self, key: u64, epoch: u32, global_epoch: u32) -> bool {
        let global = self.flags.contains(PageFlags::GLOBAL);
        // A global one is all contexts'.
        let compared = if global { !OFFSET } else { u64::MAX };
        self.alive(epoch, global_epoch) && (self.key ^ key) & compared == 0
    }
}

impl Default for Tlb {
    fn default() -> Self {
        Self::new()
    }
}

impl Tlb {
    /// An empty one. It is large: use this to initialise a `static`, and zeroed memory elsewhere.
    pub const fn new() -> Self {
        Self {
            hot: [[NO_HOT; HOT_ENTRIES]; Mode::COUNT],
            frames: [[0; HOT_ENTRIES]; Mode::COUNT],
            small: [[NO_TRANSLATION; WAYS]; SMALL_SETS],
            large: [[NO_TRANSLATION; WAYS]; LARGE_SETS],
            filter: [0; FILTER_BITS as usize / 64],
            generation: 0,
            epoch: 0,
            global_epoch: 0,
            local: [[0; HOT_ENTRIES / 64]; Mode::COUNT],
        }
    }

    /// The tag of a page of the current generation: its last byte's address less the generation.
    #[inline]
    const fn tag(&self, linear: u64) -> u64 {
        (linear | OFFSET) - self.generation
    }

    /// Host address of a byte that may be accessed at once, up to the end of its page of 4 KiB.
    #[inline]
    pub(super) fn hit(&self, linear: u64, mode: Mode, access: Access) -> Option<*mut u8> {
        let hot = &self.hot[mode as usize][hot_index(linear)];
        if hot.tags[access as usize] != self.tag(linear) {
            return None;
        }
        Some(ptr::with_exposed_provenance_mut(
            hot.host.wrapping_add(linear as usize),
        ))
    }

    /// Guest physical address of a byte that instructions may be fetched from at once.
    #[inline]
    pub(super) fn hit_frame(&self, linear: u64, mode: Mode) -> Option<u64> {
        let (mode, index) = (mode as usize, hot_index(linear));
        (self.hot[mode][index].tags[Access::Execute as usize] == self.tag(linear))
            .then(|| self.frames[mode][index] | linear & OFFSET)
    }

    /// Remembers that a page may be accessed through host memory. `allowed` is indexed by
    /// [`Access`]; `page` is the guest's, of which this is a part, and `frame` where it is.
    pub(super) fn heat(
        &mut self,
        linear: u64,
        mode: Mode,
        page: &Page,
        frame: u64,
        host: HostPage,
        allowed: [bool; 3],
    ) {
        let Some(pointer) = host.pointer else {
            return;
        };
        let tag = self.tag(linear);
        let [read, write, execute] = allowed;
        let tag_if = |allowed: bool| if allowed { tag } else { 0 };
        let index = hot_index(linear);
        self.hot[mode as usize][index] = Hot {
            tags: [tag_if(read), tag_if(write && host.write), tag_if(execute)],
            host: NonNull::as_ptr(pointer)
                .expose_provenance()
                .wrapping_sub((linear & !OFFSET) as usize),
        };
        self.frames[mode as usize][index] = frame;
        if !page.flags.contains(PageFlags::GLOBAL) {
            self.local[mode as usize][index / 64] |= 1 << (index % 64);
        }
        if u32::from(page.bits) > PAGE_BITS {
            let bit = filter_bit(linear, page.bits);
            self.filter[(bit / 64) as usize] |= 1 << (bit % 64);
        }
    }

    /// The translation of an address in a process context.
    pub(super) fn find(&self, linear: u64, context: u16) -> Option<Page> {
        let (epoch, global_epoch) = (self.epoch + 1, self.global_epoch + 1);
        let context = u64::from(context);
        let key = linear & !OFFSET | context;
        let large_key = linear & !((1 << LARGE_BITS) - 1) | context;
        let small = self.small[small_set(linear)].iter();
        let large = self.large[large_set(linear)].iter();
        let cached = small
            .clone()
            .find(|cached| cached.answers(key, epoch, global_epoch))
            .or_else(|| {
                large
                    .clone()
                    .find(|cached| cached.answers(large_key, epoch, global_epoch))
            })?;
        Some(Page {
            gpa: cached.gpa,
            bits: cached.bits,
            flags: cached.flags,
            key: cached.protection,
        })
    }

    /// Remembers a translation.
    pub(super) fn insert(&mut self, linear: u64, context: u16, page: &Page) {
        let (epoch, global_epoch) = (self.epoch + 1, self.global_epoch + 1);
        let is_large = u32::from(page.bits) > PAGE_BITS;
        let covered = if is_large { LARGE_BITS } else { PAGE_BITS };
        let key = linear & !((1 << covered) - 1) | u64::from(context);
        let global = page.flags.contains(PageFlags::GLOBAL);
        let cached = Cached {
            key,
            gpa: page.gpa,
            epoch: if global { global_epoch } else { epoch },
            bits: page.bits,
            flags: page.flags,
            protection: page.key,
        };
        let set = if is_large {
            &mut self.large[large_set(linear)]
        } else {
            &mut self.small[small_set(linear)]
        };
        // There is one translation of an address at most. A free place is taken, or that of the
        // older translation.
        let mut place = WAYS - 1;
        for (way, old) in set.iter_mut().enumerate().rev() {
            let alive = old.alive(epoch, global_epoch);
            if !alive || old.answers(key, epoch, global_epoch) {
                *old = NO_TRANSLATION;
                place = way;
            }
        }
        set[..=place].rotate_right(1);
        set[0] = cached;
    }

    /// Forgets all host pointers and rights, but no translation: for changes of rights that are not
    /// part of translations.
    pub(super) fn cool(&mut self) {
        self.filter = [0; FILTER_BITS as usize / 64];
        self.generation += 1;
        if self.generation >= GENERATIONS {
            self.generation = 0;
            self.hot.as_flattened_mut().fill(NO_HOT);
        }
    }

    /// The same but for global translations: the process context changes.
    pub(super) fn cool_local(&mut self) {
        for (hot, local) in self.hot.iter_mut().zip(&mut self.local) {
            for (hot, bits) in hot.chunks_exact_mut(64).zip(local) {
                while *bits != 0 {
                    hot[bits.trailing_zeros() as usize] = NO_HOT;
                    *bits &= *bits - 1;
                }
            }
        }
    }

    /// Forgets all pointers to host memory: what is mapped at guest physical addresses has changed,
    /// or the dirty log was taken and wants to hear of first stores again.
    pub fn forget_host(&mut self) {
        self.cool();
    }

    /// Lets stores to the page of 4 KiB at a guest physical address be noticed again: it holds
    /// decoded code from now on.
    pub fn forget_writes(&mut self, gpa: u64) {
        let frame = gpa & !OFFSET;
        for (hot, frames) in self.hot.iter_mut().zip(&self.frames) {
            for (hot, _) in hot.iter_mut().zip(frames).filter(|(_, f)| **f == frame) {
                hot.tags[Access::Write as usize] = 0;
            }
        }
    }

    /// Forgets everything.
    pub fn forget_all(&mut self) {
        self.cool();
        self.global_epoch += 1;
        self.next_epoch();
    }

    /// Forgets all translations but global ones, of all process contexts.
    pub(super) fn forget_local(&mut self) {
        self.cool_local();
        self.next_epoch();
    }

    /// Begins a new epoch; entries of older ones are gone. When numbers run out, really.
    fn next_epoch(&mut self) {
        self.epoch += 1;
        if self.epoch >= u32::MAX - 1 || self.global_epoch >= u32::MAX - 1 {
            self.small = [[NO_TRANSLATION; WAYS]; SMALL_SETS];
            self.large = [[NO_TRANSLATION; WAYS]; LARGE_SETS];
            (self.epoch, self.global_epoch) = (0, 0);
        }
    }

    /// Forgets the translations of one process context but global ones.
    pub(super) fn forget_context(&mut self, context: u16) {
        self.cool_local();
        let small = self.small.as_flattened_mut();
        let large = self.large.as_flattened_mut();
        for cached in small.iter_mut().chain(large) {
            let local = !cached.flags.contains(PageFlags::GLOBAL);
            if local && cached.key & OFFSET == u64::from(context) {
                *cached = NO_TRANSLATION;
            }
        }
    }

    /// Forgets the translations of the page around an address, in one process context and, if asked
    /// for, global ones.
    pub(super) fn forget_page(&mut self, linear: u64, context: u16, global: bool) {
        let context = u64::from(context);
        let gone = |cached: &Cached| {
            let shift = u32::from(cached.bits).max(PAGE_BITS);
            if (cached.key ^ linear) >> shift != 0 {
                return false;
            }
            if cached.flags.contains(PageFlags::GLOBAL) {
                global
            } else {
                cached.key & OFFSET == context
            }
        };
        let small = self.small[small_set(linear)].iter_mut();
        // A page of more than 2 MiB may lie in any set.
        for cached in small.chain(self.large.as_flattened_mut()) {
            if gone(cached) {
                *cached = NO_TRANSLATION;
            }
        }
        let mut whole = false;
        for bits in LARGE_SIZES {
            let bit = filter_bit(linear, bits);
            whole |= self.filter[(bit / 64) as usize] >> (bit % 64) & 1 != 0;
        }
        if whole {
            self.cool();
        } else {
            for hot in &mut self.hot {
                hot[hot_index(linear)] = NO_HOT;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::boxed::Box;

    const KERNEL: Mode = Mode::Supervisor;
    const SMALL: Page = Page {
        gpa: 0,
        bits: 12,
        flags: PageFlags::empty(),
        key: 0,
    };

    fn tlb() -> Box<Tlb> {
        Box::new(Tlb::new())
    }

    fn page(gpa: u64, bits: u8, flags: PageFlags) -> Page {
        Page {
            gpa,
            bits,
            flags,
            key: 0,
        }
    }

    fn host(write: bool) -> HostPage {
        HostPage {
            pointer: NonNull::new(ptr::without_provenance_mut(0x7000)),
            write,
        }
    }

    #[test]
    fn an_empty_one_knows_nothing() {
        let tlb = tlb();
        for linear in [0, 1, 0xfff, u64::MAX] {
            assert!(tlb.hit(linear, KERNEL, Access::Read).is_none());
            assert!(tlb.hit_frame(linear, KERNEL).is_none());
            assert_eq!(tlb.find(linear, 0), None);
        }
        assert!(size_of::<Tlb>() < 1 << 20, "{}", size_of::<Tlb>());
        assert_eq!(size_of::<Hot>(), 32);
    }

    #[test]
    fn each_access_of_each_mode_has_its_tag() {
        for chosen in 0..3 {
            let mut tlb = tlb();
            let mut allowed = [false; 3];
            allowed[chosen] = true;
            tlb.heat(0x5123, KERNEL, &SMALL, 0x9000, host(true), allowed);
            for access in [Access::Read, Access::Write, Access::Execute] {
                let hit = tlb
                    .hit(0x5456, KERNEL, access)
                    .map(|pointer| pointer.addr());
                assert_eq!(hit, (access as usize == chosen).then_some(0x7456));
                assert!(tlb.hit(0x5456, Mode::User, access).is_none());
                assert!(tlb.hit(0x6456, KERNEL, access).is_none());
                // The same place in the table.
                let far = 0x5456 + (HOT_ENTRIES as u64) * 0x1000;
                assert!(tlb.hit(far, KERNEL, access).is_none());
            }
            assert_eq!(
                tlb.hit_frame(0x5fff, KERNEL),
                (chosen == 2).then_some(0x9fff)
            );
        }
        let mut tlb = tlb();
        tlb.heat(0, KERNEL, &SMALL, 0, host(false), [true; 3]);
        assert!(
            tlb.hit(0, KERNEL, Access::Write).is_none(),
            "not to be stored to"
        );
        assert!(tlb.hit(0, KERNEL, Access::Read).is_some());
    }

    #[test]
    fn a_new_context_leaves_what_is_global() {
        let mut tlb = tlb();
        let global = Page {
            flags: PageFlags::GLOBAL,
            ..SMALL
        };
        let all = [true; 3];
        tlb.heat(0x5000, KERNEL, &global, 0x1000, host(true), all);
        tlb.heat(0x6000, KERNEL, &SMALL, 0x2000, host(true), all);
        tlb.heat(0x4_5000, Mode::User, &SMALL, 0x2000, host(true), all);
        tlb.cool_local();
        for access in [Access::Read, Access::Write, Access::Execute] {
            assert!(tlb.hit(0x5000, KERNEL, access).is_some());
            assert!(tlb.hit(0x6000, KERNEL, access).is_none());
            assert!(tlb.hit(0x4_5000, Mode::User, access).is_none());
        }
        tlb.forget_all();
        assert!(tlb.hit(0x5000, KERNEL, Access::Read).is_none());
    }

    #[test]
    fn sets_keep_the_younger() {
        let mut tlb = tlb();
        let at = |i: u64| 0x5000 + i * SMALL_SETS as u64 * 0x1000;
        for i in 0..3 {
            tlb.insert(at(i), 1, &page(i << 12, 12, PageFlags::empty()));
        }
        let found = |tlb: &Tlb, i| tlb.find(at(i), 1).map(|page| page.gpa >> 12);
        assert_eq!([0, 1, 2].map(|i| found(&tlb, i)), [None, Some(1), Some(2)]);
        // The same address takes its own place.
        tlb.insert(at(1), 1, &page(7 << 12, 12, PageFlags::empty()));
        assert_eq!([1, 2].map(|i| found(&tlb, i)), [Some(7), Some(2)]);
        assert_eq!(tlb.find(at(1), 2), None, "another context");
        tlb.insert(at(1), 2, &page(8 << 12, 12, PageFlags::GLOBAL));
        assert_eq!(tlb.find(at(1), 3).unwrap().gpa, 8 << 12, "all contexts");
    }

    #[test]
    fn forgotten_translations_do_not_come_back_when_numbers_run_out() {
        let mut tlb = tlb();
        let local = page(0x1000, 12, PageFlags::empty());
        let global = page(0x2000, 21, PageFlags::GLOBAL);
        tlb.insert(0x5000, 0, &local);
        tlb.insert(0x20_0000, 0, &global);
        (tlb.epoch, tlb.global_epoch) = (u32::MAX - 3, u32::MAX - 3);
        assert_eq!(tlb.find(0x5000, 0), None);
        for _ in 0..4 {
            tlb.insert(0x6000, 0, &local);
            tlb.insert(0x40_0000, 0, &global);
            assert_eq!(tlb.find(0x6000, 0), Some(local));
            assert_eq!(tlb.find(0x40_0000, 0), Some(global));
            tlb.forget_all();
            for linear in [0x5000, 0x6000, 0x20_0000, 0x40_0000] {
                assert_eq!(tlb.find(linear, 0), None);
            }
        }
        for _ in 0..2 * GENERATIONS {
            tlb.heat(0x5000, KERNEL, &SMALL, 0, host(true), [true; 3]);
            tlb.cool();
            assert!(tlb.hit(0x5000, KERNEL, Access::Read).is_none());
        }
    }
}
