//! What every frame is: one word each, in blocks of guarded memory that a directory leads to.
//!
//! The directory is one page. Its last four words decide as much as a frame's type does: whether protection is on, whether tables are stored
//! through their alias, and how many sweeps were begun and have ended.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::frame_type::{FrameType, Kind, TYPE_BITS};
use super::rules::Violations;
use crate::addr::{Level, PhysAddr};
use crate::entry::Format;
use crate::error::Error;
use crate::linear::Linear;
use crate::machine::{Frames, Machine, Memory};
use crate::section::Space;
use crate::section::TypesWindow;
use crate::table::{Slot, displaced};

/// Entries of the directory, which a page of any size has room for.
const DIRECTORY: usize = 512;
/// The largest block of words: those of 2 GiB.
const LARGEST_ORDER: u8 = 9;
/// Blocks that the directory has entries for: memory up to almost 1 TiB, where blocks of the largest order are to be had.
const BLOCKS: usize = DIRECTORY - 4;
const SWEEPS_BEGUN: usize = DIRECTORY - 4;
const SWEEPS_ENDED: usize = DIRECTORY - 3;
const PROTECTED: usize = DIRECTORY - 2;
const THROUGH_ALIAS: usize = DIRECTORY - 1;

/// What no frame has: the word of no type.
pub(super) const NO_WORD: u32 = u32::MAX;

/// How many sweeps there can be: what a word has room for.
const MAX_SWEEPS: u64 = (1 << (u32::BITS - TYPE_BITS)) - 2;

/// Where the types begin, and where the linear map is: empty, until page tables are built in a mode that checks. A kernel keeps it where it is
/// read-only afterwards.
#[derive(Debug)]
pub struct Anchor<E: Format> {
    types: spin::Once<Types<E>>,
    linear: spin::Once<Linear<E>>,
}

impl<E: Format> Default for Anchor<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E: Format> Anchor<E> {
    /// Nothing yet.
    pub const fn new() -> Self {
        Anchor { types: spin::Once::new(), linear: spin::Once::new() }
    }

    /// The types, if there are any.
    #[inline(always)]
    pub fn get(&self) -> Option<&Types<E>> {
        self.types.get()
    }

    /// The linear map, if there are types.
    #[inline(always)]
    pub(crate) fn linear(&self) -> Option<&Linear<E>> {
        self.linear.get()
    }

    pub(crate) fn lay(&self, types: Types<E>) {
        self.types.call_once(|| types);
    }

    pub(crate) fn lay_linear(&self, linear: Linear<E>) {
        self.linear.call_once(|| linear);
    }
}

/// The types of all frames. See the module. They live as long as the machine, so that nobody but this crate has copies.
#[derive(Debug)]
pub struct Types<E: Format> {
    memory: Memory<E>,
    directory: NonNull<[AtomicU64; DIRECTORY]>,
    /// Where the first frame's entries are, if it is a table.
    tables: usize,
    /// A frame's number without so many low bits is that of its block.
    shift: u32,
    /// What becomes of a leaf that is not admitted.
    violations: Violations,
}

// SAFETY: the directory and the blocks are never freed or moved, and accessed by atomic operations alone.
unsafe impl<E: Format> Send for Types<E> {}
// SAFETY: as for `Send`.
unsafe impl<E: Format> Sync for Types<E> {}

impl<E: Format> Types<E> {
    /// The same by value, for as long as the machine lives.
    #[inline(always)]
    pub(crate) const fn by_value(&self) -> Self {
        let Types { memory, directory, tables, shift, violations } = *self;
        Types { memory, directory, tables, shift, violations }
    }

    /// Words in a page.
    const WORDS: usize = E::PAGE_SIZE as usize / size_of::<u32>();

    /// Types for all of a machine's memory, where every frame is data. `taken` gets the blocks that they are kept in: first page and number of
    /// pages. They are not protected yet.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`] if there are no blocks for them; those that were taken are lost.
    pub(crate) fn new<M: Machine<Format = E>, F: Frames>(
        machine: &M,
        frames: &F,
        mut taken: impl FnMut(PhysAddr, usize) -> Result<(), Error>,
    ) -> Result<Types<E>, Error> {
        let memory = machine.memory();
        let allocate = |order: u8| {
            let start = frames.allocate(order)?;
            // SAFETY: the block was just allocated, is nobody else's, and is not protected.
            unsafe { machine.data(start).write_bytes(0, (E::PAGE_SIZE as usize) << order) };
            Some(start)
        };
        let pages = memory.pages.div_ceil(Self::WORDS).max(1);
        let wanted = pages.next_power_of_two().trailing_zeros().min(LARGEST_ORDER.into()) as u8;
        let directory = allocate(0).ok_or(Error::OutOfMemory)?;
        taken(directory, 1)?;
        let (order, first) = (0..=wanted)
            .rev()
            .find_map(|order| Some((order, allocate(order)?)))
            .ok_or(Error::OutOfMemory)?;
        let blocks = pages.div_ceil(1 << order);
        if blocks > BLOCKS {
            return Err(Error::OutOfMemory);
        }
        for block in 0..blocks {
            let start = if block == 0 { Some(first) } else { allocate(order) };
            let start = start.ok_or(Error::OutOfMemory)?;
            taken(start, 1 << order)?;
            let address = machine.table(start).as_ptr().expose_provenance() as u64;
            // SAFETY: the directory was allocated above, is nobody else's yet, and has this many entries.
            unsafe { machine.data(directory).cast::<u64>().add(block).write(address) };
        }
        let shift = Self::WORDS.trailing_zeros() + u32::from(order);
        let tables = machine.table(memory.start).addr().get();
        let (directory, violations) = (machine.table(directory).cast(), machine.violations());
        Ok(Types { memory, directory, tables, shift, violations })
    }

    /// What a frame is; [`FrameType::NotRam`] outside memory.
    #[inline]
    pub fn of(&self, frame: PhysAddr) -> FrameType {
        self.word(frame)
            .map_or(FrameType::NotRam, |word| self.meaning(word.load(Ordering::Relaxed)))
    }

    /// What a word says.
    fn meaning(&self, word: u32) -> FrameType {
        match FrameType::of_word(word) {
            FrameType::Data if self.is_marked(word) => FrameType::Mapped,
            is => is,
        }
    }

    /// Whether data with this word may be mapped.
    fn is_marked(&self, word: u32) -> bool {
        u64::from(word >> TYPE_BITS) > self.flag(SWEEPS_ENDED).load(Ordering::Acquire)
    }

    /// The word of data that is mapped now. For the length of a gate: a sweep that begins meanwhile waits for that.
    #[inline(always)]
    pub(crate) fn mapped_word(&self) -> u32 {
        (self.flag(SWEEPS_BEGUN).load(Ordering::Acquire) as u32 + 1) << TYPE_BITS
    }

    /// Whether a frame is data, mapped or not.
    #[inline(always)]
    pub(super) fn is_data(&self, frame: PhysAddr) -> bool {
        self.word(frame).is_some_and(|word| FrameType::is_data_word(word.load(Ordering::Relaxed)))
    }

    /// Whether a frame has this word.
    #[inline(always)]
    pub(crate) fn has_word(&self, frame: PhysAddr, word: u32) -> bool {
        self.word(frame).is_some_and(|now| now.load(Ordering::Relaxed) == word)
    }

    /// Whether a sweep is under way.
    #[inline(always)]
    pub(crate) fn is_sweeping(&self) -> bool {
        let [begun, ended] = [SWEEPS_BEGUN, SWEEPS_ENDED].map(|index| self.flag(index));
        begun.load(Ordering::Acquire) != ended.load(Ordering::Acquire)
    }

    /// Marks a frame as one that an entry maps, if it is data, with what [`mapped_word`](Self::mapped_word) says; otherwise returns what it is.
    pub(super) fn mark(
        &self,
        _window: &TypesWindow<'_>,
        to_alias: usize,
        frame: PhysAddr,
        mapped: u32,
    ) -> Result<(), FrameType> {
        let word = self.word(frame).ok_or(FrameType::NotRam)?;
        // SAFETY: as in `change`.
        let stored = unsafe { &*displaced(word, to_alias) };
        let mut now = word.load(Ordering::Relaxed);
        loop {
            if !FrameType::is_data_word(now) {
                return Err(FrameType::of_word(now));
            }
            // Marked by a sweep that has begun since: that mark holds longer.
            if now >= mapped {
                return Ok(());
            }
            match stored.compare_exchange(now, mapped, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(changed) => now = changed,
            }
        }
    }

    /// Whether a frame is data that has the mark which [`mark`](Self::mark) would make, or a newer one.
    pub(super) fn is_marked_as(&self, frame: PhysAddr, mapped: u32) -> bool {
        self.word(frame).is_some_and(|word| {
            let now = word.load(Ordering::Relaxed);
            FrameType::is_data_word(now) && now >= mapped
        })
    }

    /// Begins a sweep and returns its number, if there can be one more.
    pub(super) fn begin_sweep(&self, _window: &TypesWindow<'_>, to_alias: usize) -> Option<u64> {
        // SAFETY: as in `change`.
        let begun = unsafe { &*displaced(self.flag(SWEEPS_BEGUN), to_alias) };
        let more = |begun| (begun < MAX_SWEEPS).then_some(begun + 1);
        begun.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok().map(|before| before + 1)
    }

    /// Ends a sweep: what was not marked since it began is not mapped.
    pub(super) fn end_sweep(&self, _window: &TypesWindow<'_>, to_alias: usize, number: u64) {
        // SAFETY: as in `change`.
        let ended = unsafe { &*displaced(self.flag(SWEEPS_ENDED), to_alias) };
        ended.fetch_max(number, Ordering::AcqRel);
    }

    /// Every table in use but the linear map's and the alias's, with the level of its entries.
    pub(super) fn tables(&self) -> impl Iterator<Item = (PhysAddr, Level)> {
        (0..self.memory.pages).filter_map(|number| {
            let frame = self.memory.frame(number);
            match self.of(frame) {
                FrameType::Table { level, kind: Kind::User | Kind::Kernel, linked: true } => {
                    Some((frame, level))
                }
                _ => None,
            }
        })
    }

    /// The frame that an entry is in.
    #[inline(always)]
    pub(super) fn frame_of(&self, slot: Slot<'_>) -> PhysAddr {
        let offset = core::ptr::from_ref(slot.0).addr().wrapping_sub(self.tables) as u64;
        PhysAddr(self.memory.start.0.wrapping_add(offset & !(E::PAGE_SIZE - 1)))
    }

    /// Whether a frame is a table of a level that is in use, and one that sections of this space store to.
    #[inline(always)]
    pub(super) fn is_table(&self, frame: PhysAddr, level: Level, space: Space) -> bool {
        let is = |word| FrameType::is_table_word(word, level, space);
        self.word(frame).is_some_and(|word| is(word.load(Ordering::Relaxed)))
    }

    /// Whether a frame is a root of this kind that is in use: one that a root register may be loaded with.
    pub fn is_root(&self, frame: PhysAddr, kind: Kind) -> bool {
        frame.is_aligned(E::PAGE_SIZE) && self.of(frame) == FrameType::linked(E::ROOT, kind)
    }

    /// Whether leaves that are not admitted are stored all the same.
    #[inline]
    pub(crate) fn audits(&self) -> bool {
        self.violations == Violations::Audit
    }

    /// How often all tables were looked at, to find what is not mapped any more.
    pub fn sweeps(&self) -> u64 {
        self.flag(SWEEPS_ENDED).load(Ordering::Relaxed)
    }

    /// Whether protection is on.
    #[inline(always)]
    pub(crate) fn is_protected(&self) -> bool {
        self.flag(PROTECTED).load(Ordering::Acquire) != 0
    }

    /// Whether tables are stored through their alias.
    #[inline(always)]
    pub fn through_alias(&self) -> bool {
        self.flag(THROUGH_ALIAS).load(Ordering::Relaxed) != 0
    }

    /// Where it is kept whether protection is on. For attacks.
    pub(crate) fn protected_address(&self) -> *const u64 {
        self.flag(PROTECTED).as_ptr()
    }

    pub(crate) fn set_protected(&self, window: &TypesWindow<'_>, to_alias: usize) {
        self.raise(window, to_alias, PROTECTED);
    }

    pub(crate) fn set_through_alias(&self, window: &TypesWindow<'_>) {
        self.raise(window, 0, THROUGH_ALIAS);
    }

    /// Changes what a frame is, if it is what it is said to be; otherwise returns what it is. Data that may be mapped is not
    /// [`FrameType::Data`]; what is said to be [`FrameType::Mapped`] may as well be not mapped. `to_alias` is how far behind its address a word is stored.
    #[inline]
    pub(super) fn change(
        &self,
        _window: &TypesWindow<'_>,
        to_alias: usize,
        frame: PhysAddr,
        from: FrameType,
        to: FrameType,
    ) -> Result<(), FrameType> {
        let word = self.word(frame).ok_or(FrameType::NotRam)?;
        // What was data and is not mapped any more still has its mark.
        let before = match (from, word.load(Ordering::Relaxed)) {
            (FrameType::Data, now) if FrameType::is_data_word(now) && !self.is_marked(now) => now,
            (FrameType::Mapped, now) if FrameType::is_data_word(now) => now,
            (FrameType::Data | FrameType::Mapped, now) => return Err(self.meaning(now)),
            (from, _) => from.word(),
        };
        // SAFETY: guarded memory is stored as tables are: `to_alias` is zero, or leads to the alias that it has as they do.
        let word = unsafe { &*displaced(word, to_alias) };
        word.compare_exchange(before, to.word(), Ordering::AcqRel, Ordering::Relaxed)
            .map(|_| ())
            .map_err(|now| self.meaning(now))
    }

    #[inline(always)]
    fn word(&self, frame: PhysAddr) -> Option<&AtomicU32> {
        let number = self.memory.frame_number(frame);
        if number >= self.memory.pages {
            return None;
        }
        let block = self.directory()[(number >> self.shift) % DIRECTORY].load(Ordering::Relaxed);
        let words = core::ptr::with_exposed_provenance::<AtomicU32>(block as usize);
        // SAFETY: the directory has the address of a block of words for every frame of memory; they live as long as the machine.
        Some(unsafe { &*words.add(number & ((1 << self.shift) - 1)) })
    }

    #[inline(always)]
    fn directory(&self) -> &[AtomicU64; DIRECTORY] {
        // SAFETY: the directory is a page that is never freed, of atomics, for which every value is valid.
        unsafe { self.directory.as_ref() }
    }

    #[inline(always)]
    fn flag(&self, index: usize) -> &AtomicU64 {
        &self.directory()[index]
    }

    fn raise(&self, _window: &TypesWindow<'_>, to_alias: usize, index: usize) {
        // SAFETY: as in `change`.
        let flag = unsafe { &*displaced(self.flag(index), to_alias) };
        flag.store(1, Ordering::Release);
    }
}
