//! Decoded code: blocks of instructions by guest physical address.
//!
//! A block is a piece of straight code within one page: it ends with the first instruction that may
//! jump or change what later ones mean, or where the page ends. Blocks lie in fixed storage; when
//! that is full all are forgotten. They are found by a table of sets; a block that finds its set full
//! displaces the oldest there. A page with blocks is marked in RAM's
//! [`CodeMarks`](crate::memory::CodeMarks); a store to it makes all its blocks stale by counting
//! the page's generation up, before the next instruction runs.
#![allow(unsafe_code)]

use core::mem::MaybeUninit;

use super::execute::ends_block;
use super::micro::{GENERAL, Micro, translate};
use super::translate::Translations;
use crate::cpu::decode::{CodeSize, Instruction};
use crate::memory::{CodeMarks, Written};
use crate::trace::events as trace;

/// Blocks that are kept, a power of two.
pub(super) const BLOCKS: usize = 1 << 15;
/// Those of a set, a power of two. With one, a tenth of what a system call runs displaces each other.
pub(super) const WAYS: usize = 4;
/// Micro-operations of all blocks. A Linux kernel runs about 300000 different instructions until it
/// has started its first program.
pub(super) const MICROS: usize = 1 << 18;
/// Instructions that they name.
const INSTRUCTIONS: usize = 1 << 16;
/// Instructions of a block at most.
pub(super) const BLOCK_MAX: usize = 64;
/// Generations; pages share them.
pub(super) const GENERATIONS: usize = 1 << 12;

/// A block.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Block {
    /// [`key`] of its first byte; 0 for none.
    pub(super) key: u64,
    /// Generation of its page when it was made.
    pub(super) generation: u32,
    /// Its micro-operations.
    pub(super) first: u32,
    pub(super) count: u16,
    /// Bytes of code.
    pub(super) length: u16,
    /// How warm it is, then where its translation is: see `translate`.
    pub(super) host: u32,
}

/// Blocks and what they are made of. It is valid when all bytes are zero, and large: it belongs in
/// zeroed memory.
#[repr(C)]
pub struct CodeCache {
    /// In sets: see [`set`].
    pub(super) blocks: [[Block; WAYS]; BLOCKS / WAYS],
    pub(super) generations: [u32; GENERATIONS],
    micros: [Micro; MICROS],
    /// Micro-operations that are in use.
    micros_used: usize,
    instructions: [MaybeUninit<Instruction>; INSTRUCTIONS],
    /// Instructions that are in use, all of them initialised.
    instructions_used: usize,
    /// Counts pages that were marked, so that each processor learns of it.
    marked: u64,
    translations: Translations,
}

/// What a block is found by.
const fn key(gpa: u64, size: CodeSize) -> u64 {
    gpa << 2 | (size as u64 + 1)
}

/// The number of the set that a block is in.
const fn set(key: u64) -> usize {
    ((key >> 2 ^ key >> 14) as usize ^ (key & 3) as usize) / WAYS % (BLOCKS / WAYS)
}

const fn generation_of(gpa: u64) -> usize {
    (gpa >> 12) as usize % GENERATIONS
}

impl CodeCache {
    /// The block at a guest physical address.
    #[inline]
    pub(super) fn find(&self, gpa: u64, size: CodeSize) -> Option<Block> {
        let key = key(gpa, size);
        let block = self.blocks[set(key)]
            .iter()
            .find(|block| block.key == key)?;
        (block.generation == self.generations[generation_of(gpa)]).then_some(*block)
    }

    /// Notes how warm a block is, or where its translation is.
    pub(super) fn set_host(&mut self, gpa: u64, size: CodeSize, host: u32) {
        let key = key(gpa, size);
        let mut set = self.blocks[set(key)].iter_mut();
        if let Some(block) = set.find(|block| block.key == key) {
            block.host = host;
        }
    }

    /// What has been translated.
    #[inline]
    pub(super) fn translations(&self) -> &Translations {
        &self.translations
    }

    pub(super) fn translations_mut(&mut self) -> &mut Translations {
        &mut self.translations
    }

    /// Forgets all translations, but no block.
    pub(super) fn forget_translations(&mut self) {
        for block in self.blocks.as_flattened_mut() {
            block.host = 0;
        }
        self.translations.forget();
    }

    /// A micro-operation of a block.
    #[inline]
    pub(super) fn micro(&self, index: u32) -> &Micro {
        &self.micros[index as usize % MICROS]
    }

    /// The instruction that a micro-operation names.
    #[inline]
    pub(super) fn instruction(&self, index: u32) -> &Instruction {
        let index = index as usize;
        assert!(index < self.instructions_used);
        // SAFETY: those below `instructions_used` were written by `insert`.
        unsafe { self.instructions[index].assume_init_ref() }
    }

    /// Keeps a block. The page must have been marked before its bytes were read.
    pub(super) fn insert(
        &mut self,
        gpa: u64,
        size: CodeSize,
        instructions: &[Instruction],
    ) -> Block {
        if self.micros_used + instructions.len() > MICROS
            || self.instructions_used + instructions.len() > INSTRUCTIONS
        {
            self.forget_all();
        }
        let first = self.micros_used;
        let mut length = 0;
        for instruction in instructions {
            length += u16::from(instruction.length());
            let micro = translate(instruction, size, length.into());
            self.micros[self.micros_used] = micro.unwrap_or_else(|| {
                let index = self.instructions_used;
                self.instructions[index].write(*instruction);
                self.instructions_used += 1;
                Micro {
                    handler: GENERAL,
                    length: instruction.length(),
                    a: ends_block(instruction.operation()).into(),
                    immediate: index as i32,
                    ..Micro::default()
                }
            });
            self.micros_used += 1;
        }
        let key = key(gpa, size);
        let block = Block {
            key,
            generation: self.generations[generation_of(gpa)],
            first: first as u32,
            count: instructions.len() as u16,
            length,
            host: 0,
        };
        // The newest is first, and there is one of a key.
        let set = &mut self.blocks[set(key)];
        let same = set.iter().position(|block| block.key == key);
        set[..=same.unwrap_or(WAYS - 1)].rotate_right(1);
        set[0] = block;
        block
    }

    /// Forgets all blocks: their storage is full, or memory is mapped elsewhere now.
    pub fn forget_all(&mut self) {
        if self.micros_used == 0 {
            // There are none, and the host need not find memory for their table.
            return;
        }
        for block in self.blocks.as_flattened_mut() {
            block.key = 0;
        }
        self.translations.forget();
        self.micros_used = 0;
        self.instructions_used = 0;
    }

    /// Forgets the blocks of pages that were stored to.
    pub(super) fn forget_written(&mut self, marks: &CodeMarks) {
        marks.take_written(|written| match written {
            Written::Page(gpa) => {
                trace::tb_invalidate_page(gpa);
                let generation = &mut self.generations[generation_of(gpa)];
                *generation = generation.wrapping_add(1);
                if *generation == 0 {
                    // Old blocks would seem new.
                    self.forget_all();
                }
            }
            Written::Everything => self.forget_all(),
        });
    }

    /// Marks the page around `gpa`: true if stores went unnoticed before.
    pub(super) fn mark(&mut self, marks: &CodeMarks, gpa: u64) -> bool {
        let new = marks.mark(gpa);
        self.marked += u64::from(new);
        new
    }

    /// How many pages were marked so far.
    pub(super) fn marked(&self) -> u64 {
        self.marked
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::vec::Vec;

    use super::*;
    use crate::cpu::decode::decode;

    const SIZE: CodeSize = CodeSize::Bits64;

    /// An empty cache, a block, and addresses in as many pages, more than its set has room for.
    fn full_set() -> (Box<CodeCache>, [Instruction; 1], Vec<u64>) {
        // SAFETY: valid when zero.
        let cache = unsafe { Box::<CodeCache>::new_zeroed().assume_init() };
        let nop = decode(&[0x90], SIZE).unwrap();
        let pages = (0..).step_by(0x1000);
        let alike = pages.filter(|gpa| set(key(*gpa, SIZE)) == set(key(0, SIZE)));
        (cache, [nop], alike.take(WAYS + 1).collect())
    }

    #[test]
    fn a_set_keeps_the_newest() {
        let (mut cache, nop, alike) = full_set();
        for gpa in &alike[..WAYS] {
            cache.insert(*gpa, SIZE, &nop);
        }
        cache.set_host(alike[0], SIZE, 5);
        let is_found = |cache: &CodeCache, gpa: &u64| cache.find(*gpa, SIZE).is_some();
        assert!(alike[..WAYS].iter().all(|gpa| is_found(&cache, gpa)));
        assert_eq!(cache.find(alike[0], SIZE).unwrap().host, 5);
        cache.insert(alike[WAYS], SIZE, &nop);
        assert!(!is_found(&cache, &alike[0]), "the oldest");
        assert!(alike[1..].iter().all(|gpa| is_found(&cache, gpa)));
    }

    #[test]
    fn a_block_made_again_displaces_no_other() {
        let (mut cache, nop, alike) = full_set();
        for gpa in &alike[..WAYS] {
            cache.insert(*gpa, SIZE, &nop);
        }
        cache.generations[generation_of(alike[1])] += 1;
        assert!(cache.find(alike[1], SIZE).is_none(), "stale");
        for gpa in &alike[..WAYS] {
            if cache.find(*gpa, SIZE).is_none() {
                cache.insert(*gpa, SIZE, &nop);
            }
        }
        let mut found = alike[..WAYS].iter().map(|gpa| cache.find(*gpa, SIZE));
        assert!(found.all(|block| block.is_some()));
    }
}
