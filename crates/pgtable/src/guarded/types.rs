//! What every frame is: one word each, in blocks of guarded memory that a directory leads to.
//!
//! The directory is one page. Its last two words are flags that decide as much as a frame's type does: whether protection is on, and
//! whether tables are stored through their alias.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use kpkeys::Window;

use super::frame_type::{DATA, FrameType, Kind};
use crate::addr::{ENTRIES, Level, PAGE_SIZE, PhysAddr};
use crate::error::Error;
use crate::machine::{Frames, Machine, Memory};
use crate::table::{Slot, displaced};

/// Words in a page.
const WORDS: usize = PAGE_SIZE as usize / size_of::<u32>();
/// The largest block of words: those of 2 GiB.
const LARGEST_ORDER: u8 = 9;
/// Blocks that the directory has entries for: memory up to almost 1 TiB, where blocks of the largest order are to be had.
const BLOCKS: usize = ENTRIES - 2;
const PROTECTED: usize = ENTRIES - 2;
const THROUGH_ALIAS: usize = ENTRIES - 1;

/// Where the types begin: empty, until page tables are built in a mode that checks. A kernel keeps it where it is read-only afterwards.
#[derive(Debug, Default)]
pub struct Anchor(spin::Once<Types>);

impl Anchor {
    /// Nothing yet.
    pub const fn new() -> Self {
        Anchor(spin::Once::new())
    }

    /// The types, if there are any.
    #[inline(always)]
    pub fn get(&self) -> Option<&Types> {
        self.0.get()
    }

    pub(crate) fn lay(&self, types: Types) {
        self.0.call_once(|| types);
    }
}

/// The types of all frames. See the module.
#[derive(Clone, Copy, Debug)]
pub struct Types {
    memory: Memory,
    directory: NonNull<[AtomicU64; ENTRIES]>,
    /// Where the first frame's entries are, if it is a table.
    tables: usize,
    /// A frame's number without so many low bits is that of its block.
    shift: u32,
}

// SAFETY: the directory and the blocks are never freed or moved, and accessed by atomic operations alone.
unsafe impl Send for Types {}
// SAFETY: as for `Send`.
unsafe impl Sync for Types {}

impl Types {
    /// Types for all of a machine's memory, where every frame is data. `taken` gets the blocks that they are kept in: first page and number of
    /// pages. They are not protected yet.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`] if there are no blocks for them; those that were taken are lost.
    pub(crate) fn new<M: Machine, F: Frames>(
        machine: &M,
        frames: &F,
        mut taken: impl FnMut(PhysAddr, usize) -> Result<(), Error>,
    ) -> Result<Types, Error> {
        let memory = machine.memory();
        let allocate = |order: u8| {
            let start = frames.allocate(order)?;
            // SAFETY: the block was just allocated, is nobody else's, and is not protected.
            unsafe { machine.data(start).write_bytes(0, (PAGE_SIZE as usize) << order) };
            Some(start)
        };
        let pages = memory.pages.div_ceil(WORDS).max(1);
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
        let shift = WORDS.trailing_zeros() + u32::from(order);
        let tables = machine.table(memory.start).addr().get();
        Ok(Types { memory, directory: machine.table(directory).cast(), tables, shift })
    }

    /// What a frame is; [`FrameType::NotRam`] outside memory.
    #[inline]
    pub fn of(&self, frame: PhysAddr) -> FrameType {
        self.word(frame)
            .map_or(FrameType::NotRam, |word| FrameType::of_word(word.load(Ordering::Relaxed)))
    }

    /// Whether a frame is data.
    #[inline(always)]
    pub(super) fn is_data(&self, frame: PhysAddr) -> bool {
        self.word(frame).is_some_and(|word| word.load(Ordering::Relaxed) == DATA)
    }

    /// The frame that an entry is in.
    #[inline(always)]
    pub(super) fn frame_of(&self, slot: Slot<'_>) -> PhysAddr {
        let offset = core::ptr::from_ref(slot.0).addr().wrapping_sub(self.tables) as u64;
        PhysAddr(self.memory.start.0.wrapping_add(offset & !(PAGE_SIZE - 1)))
    }

    /// Whether a frame is a table of a level that is in use, a program's or the kernel's.
    #[inline(always)]
    pub(super) fn is_table(&self, frame: PhysAddr, level: Level, user: bool) -> bool {
        self.word(frame)
            .is_some_and(|word| FrameType::is_table_word(word.load(Ordering::Relaxed), level, user))
    }

    /// Whether a frame is a root of this kind that is in use: one that a root register may be loaded with.
    pub fn is_root(&self, frame: PhysAddr, kind: Kind) -> bool {
        frame.is_aligned(PAGE_SIZE) && self.of(frame) == FrameType::linked(Level::Pgd, kind)
    }

    /// Whether protection is on.
    #[inline(always)]
    pub(crate) fn is_protected(&self) -> bool {
        self.flag(PROTECTED).load(Ordering::Acquire) != 0
    }

    /// Whether tables are stored through their alias.
    #[inline(always)]
    pub(crate) fn through_alias(&self) -> bool {
        self.flag(THROUGH_ALIAS).load(Ordering::Relaxed) != 0
    }

    /// Where it is kept whether protection is on. For attacks.
    pub(crate) fn protected_address(&self) -> *const u64 {
        self.flag(PROTECTED).as_ptr()
    }

    pub(crate) fn set_protected(&self, window: &Window<'_>, to_alias: usize) {
        self.raise(window, to_alias, PROTECTED);
    }

    pub(crate) fn set_through_alias(&self, window: &Window<'_>) {
        self.raise(window, 0, THROUGH_ALIAS);
    }

    /// Changes what a frame is, if it is what it is said to be; otherwise returns what it is. `to_alias` is how far behind its address a
    /// word is stored.
    #[inline]
    pub(super) fn change(
        &self,
        _window: &Window<'_>,
        to_alias: usize,
        frame: PhysAddr,
        from: FrameType,
        to: FrameType,
    ) -> Result<(), FrameType> {
        let word = self.word(frame).ok_or(FrameType::NotRam)?;
        // SAFETY: guarded memory is stored as tables are: `to_alias` is zero, or leads to the alias that it has as they do.
        let word = unsafe { &*displaced(word, to_alias) };
        word.compare_exchange(from.word(), to.word(), Ordering::AcqRel, Ordering::Relaxed)
            .map(|_| ())
            .map_err(FrameType::of_word)
    }

    #[inline(always)]
    fn word(&self, frame: PhysAddr) -> Option<&AtomicU32> {
        let number = self.memory.frame_number(frame);
        if number >= self.memory.pages {
            return None;
        }
        let block = self.directory()[(number >> self.shift) % ENTRIES].load(Ordering::Relaxed);
        let words = core::ptr::with_exposed_provenance::<AtomicU32>(block as usize);
        // SAFETY: the directory has the address of a block of words for every frame of memory; they live as long as the machine.
        Some(unsafe { &*words.add(number & ((1 << self.shift) - 1)) })
    }

    #[inline(always)]
    fn directory(&self) -> &[AtomicU64; ENTRIES] {
        // SAFETY: the directory is a page that is never freed, of atomics, for which every value is valid.
        unsafe { self.directory.as_ref() }
    }

    #[inline(always)]
    fn flag(&self, index: usize) -> &AtomicU64 {
        &self.directory()[index]
    }

    fn raise(&self, _window: &Window<'_>, to_alias: usize, index: usize) {
        // SAFETY: as in `change`.
        let flag = unsafe { &*displaced(self.flag(index), to_alias) };
        flag.store(1, Ordering::Release);
    }
}
