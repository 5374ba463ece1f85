//! Who owns what is mapped: found from its first address by arithmetic, without a search or a lock.
//!
//! The range of kernel addresses is cut into regions of 4 MiB. A region that something was ever mapped in has one word for each page,
//! which says what starts there: an area, a range of `vm_map_ram`, or nothing; or which frame is held for the page. Whoever swaps the word for nothing has what it stood for, so
//! of two who give back the same range one is refused. Regions, like the tables that translate their addresses and as large as these, are never freed.

use alloc::boxed::Box;
use core::ptr::{null_mut, without_provenance_mut};
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicPtr, AtomicUsize};

use kpkeys_pgtable::{Format, PageRange, VirtAddr};

use super::extent::Extent;
use crate::error::Error;
use crate::heap;

/// Pages of a region.
pub(super) const REGION_PAGES: usize = 1024;

/// A word with this bit is a range of `vm_map_ram`: its pages, and whether it holds their frames.
const RAM: usize = 1;
/// A word with this bit, and not the other, is the extent of the range of `vm_map_ram` that starts one page below.
const RAM_EXTENT: usize = 2;
/// A word with this bit, and neither of those, is a page whose frame is [held](super::held) until a flush.
pub(super) const HELD_PAGE: usize = 4;
/// In a word of a range: its frames are held.
const HELD: usize = 2;
const PAGES_SHIFT: u32 = 2;
/// No word of an area has any of these.
const NO_AREA: usize = RAM | RAM_EXTENT | HELD_PAGE;
const _: () = assert!(align_of::<Extent<kpkeys_pgtable::entry::X86_64>>() > NO_AREA);

/// All regions.
pub(super) struct Owners<E: Format> {
    first: VirtAddr,
    regions: Box<[AtomicPtr<Region<E>>]>,
}

/// What is known of 4 MiB of addresses. Two CPUs' blocks share no cache line.
#[repr(align(128))]
struct Region<E: Format> {
    /// For each page, who owns what starts there.
    words: Box<[AtomicPtr<Extent<E>>]>,
    /// As a block of `vm_map_ram`: its extent, and how many of its pages are done with.
    block: AtomicPtr<Extent<E>>,
    done: AtomicUsize,
}

/// What a range of `vm_map_ram` was.
pub(super) struct Ram<E: Format> {
    /// Whether its frames are held.
    pub(super) held: bool,
    /// Its addresses, unless they are slots of a block.
    pub(super) extent: Option<Box<Extent<E>>>,
}

impl<E: Format> Owners<E> {
    /// Bytes of a region.
    pub(super) const REGION_BYTES: u64 = REGION_PAGES as u64 * E::PAGE_SIZE;

    /// Nobody owns anything of `range`.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`]: it takes 8 bytes of heap for each 4 MiB.
    pub(super) fn new(range: PageRange<E>) -> Result<Self, Error> {
        let first = VirtAddr(range.start().0 / Self::REGION_BYTES * Self::REGION_BYTES);
        let regions = (range.end().0 - first.0).div_ceil(Self::REGION_BYTES) as usize;
        Ok(Owners { first, regions: filled(regions, || AtomicPtr::new(null_mut()))? })
    }

    /// The address that the words are counted from.
    #[inline(always)]
    pub(super) fn first(&self) -> VirtAddr {
        self.first
    }

    /// [`reserve`](Self::reserve) for every page of a range.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub(super) fn reserve_all(&self, range: PageRange<E>) -> Result<(), Error> {
        let in_regions = (0..range.pages()).step_by(REGION_PAGES);
        in_regions
            .chain([range.pages() - 1])
            .try_for_each(|page| self.reserve(range.start().offset_pages::<E>(page)))
    }

    /// Makes sure that what starts at an address can be given an owner.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    #[inline]
    pub(super) fn reserve(&self, va: VirtAddr) -> Result<(), Error> {
        match self.region(va) {
            Some(_) => Ok(()),
            None => self.add_region(va),
        }
    }

    /// Says that an area starts where its extent does. Its address was reserved.
    #[inline]
    pub(super) fn set_area(&self, area: Box<Extent<E>>) {
        let va = area.start();
        self.set(va, Box::into_raw(area));
    }

    /// Says that a range of `vm_map_ram` starts at an address that was reserved.
    #[inline]
    pub(super) fn set_ram(&self, start: VirtAddr, pages: usize, held: bool) {
        let word = pages << PAGES_SHIFT | RAM | if held { HELD } else { 0 };
        self.set(start, without_provenance_mut(word));
    }

    /// The same for a range of more than one page with addresses of its own, all of which were reserved.
    pub(super) fn set_ram_extent(&self, extent: Box<Extent<E>>, held: bool) {
        let (start, pages) = (extent.start(), extent.pages);
        let word = Box::into_raw(extent).map_addr(|address| address | RAM_EXTENT);
        self.set(start.offset_pages::<E>(1), word);
        self.set_ram(start, pages, held);
    }

    /// The area that starts at an address, which nobody owns from here on.
    #[inline]
    pub(super) fn take_area(&self, va: VirtAddr) -> Option<Box<Extent<E>>> {
        let word = self.word(va)?;
        let area = word.load(Relaxed);
        let is_area = !area.is_null() && area.addr() & NO_AREA == 0;
        if !is_area || !was_taken(word, area) {
            return None;
        }
        // SAFETY: only `set_area` stores such a word, from a box that it gave up. This call took the word away, so it is the only
        // one that makes a box of it again.
        Some(unsafe { Box::from_raw(area) })
    }

    /// The range of `vm_map_ram` that starts at an address and has this many pages. Nobody owns it from here on.
    #[inline]
    pub(super) fn take_ram(&self, start: VirtAddr, pages: usize) -> Option<Ram<E>> {
        let word = self.word(start)?;
        let ram = word.load(Relaxed);
        if ram.addr() & RAM == 0 || ram.addr() >> PAGES_SHIFT != pages || !was_taken(word, ram) {
            return None;
        }
        let extent = || self.take_ram_extent(start.offset_pages::<E>(1));
        Some(Ram {
            held: ram.addr() & HELD != 0,
            extent: if pages > super::blocks::MAX_SLOTS { extent() } else { None },
        })
    }

    /// Makes the region of `extent`, which it fills, a block of `vm_map_ram`.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`], and the extent.
    pub(super) fn set_block(&self, extent: Box<Extent<E>>) -> Result<(), (Error, Box<Extent<E>>)> {
        let region = match self.reserve(extent.start()) {
            Ok(()) => self.region(extent.start()),
            Err(error) => return Err((error, extent)),
        };
        let Some(region) = region else { return Err((Error::NotMapped(extent.start()), extent)) };
        region.done.store(0, Relaxed);
        region.block.store(Box::into_raw(extent), Release);
        Ok(())
    }

    /// Counts pages of a block that are done with. Returns the block if they were the last.
    #[inline]
    pub(super) fn count_done(&self, va: VirtAddr, pages: usize) -> Option<Box<Extent<E>>> {
        let region = self.region(va)?;
        // The last one must have seen what the others did.
        if region.done.fetch_add(pages, AcqRel) + pages < REGION_PAGES {
            return None;
        }
        let block = region.block.swap(null_mut(), Acquire);
        // SAFETY: only `set_block` stores a pointer there, from a box it gave up, and the swap took it away.
        (!block.is_null()).then(|| unsafe { Box::from_raw(block) })
    }

    fn take_ram_extent(&self, second: VirtAddr) -> Option<Box<Extent<E>>> {
        let extent = self.word(second)?.swap(null_mut(), Acquire);
        let extent = extent.map_addr(|address| address & !RAM_EXTENT);
        // SAFETY: the word belongs to the range whose first word was taken, and `set_ram_extent` stored a box in it before
        // that one.
        (!extent.is_null()).then(|| unsafe { Box::from_raw(extent) })
    }

    #[inline]
    fn set(&self, va: VirtAddr, word: *mut Extent<E>) {
        if let Some(place) = self.word(va) {
            place.store(word, Release);
        }
    }

    /// The word for an address that something may start at.
    #[inline]
    pub(super) fn word(&self, va: VirtAddr) -> Option<&AtomicPtr<Extent<E>>> {
        if !va.is_aligned(E::PAGE_SIZE) {
            return None;
        }
        let page = (va.0 / E::PAGE_SIZE) as usize % REGION_PAGES;
        self.region(va)?.words.get(page)
    }

    #[inline]
    fn region(&self, va: VirtAddr) -> Option<&Region<E>> {
        let region = self.place(va)?.load(Acquire);
        // SAFETY: null, or what `add_region` stored, which lives as long as `self`.
        unsafe { region.as_ref() }
    }

    #[inline]
    fn place(&self, va: VirtAddr) -> Option<&AtomicPtr<Region<E>>> {
        self.regions.get((va.0.checked_sub(self.first.0)? / Self::REGION_BYTES) as usize)
    }

    #[cold]
    fn add_region(&self, va: VirtAddr) -> Result<(), Error> {
        let place = self.place(va).ok_or(Error::NotMapped(va))?;
        let region = heap::boxed(Region {
            words: filled(REGION_PAGES, || AtomicPtr::new(null_mut()))?,
            block: AtomicPtr::new(null_mut()),
            done: AtomicUsize::new(0),
        })?;
        let region = Box::into_raw(region);
        if place.compare_exchange(null_mut(), region, AcqRel, Relaxed).is_err() {
            // SAFETY: from a box just now, and nobody else has seen it: another CPU was first.
            drop(unsafe { Box::from_raw(region) });
        }
        Ok(())
    }
}

/// Whether this call was the one that took `value` away. (The exchange fails only if another one was.)
#[inline(always)]
fn was_taken<E: Format>(word: &AtomicPtr<Extent<E>>, value: *mut Extent<E>) -> bool {
    word.compare_exchange(value, null_mut(), Acquire, Relaxed).is_ok()
}

fn filled<T>(len: usize, value: impl FnMut() -> T) -> Result<Box<[T]>, Error> {
    let mut vec = heap::with_room_for(len)?;
    vec.resize_with(len, value);
    Ok(vec.into_boxed_slice())
}

impl<E: Format> Drop for Owners<E> {
    fn drop(&mut self) {
        for region in &mut self.regions {
            let region = core::mem::replace(region.get_mut(), null_mut());
            if !region.is_null() {
                // SAFETY: from `add_region`, and nobody can reach it any more.
                drop(unsafe { Box::from_raw(region) });
            }
        }
    }
}

impl<E: Format> Drop for Region<E> {
    fn drop(&mut self) {
        let Region { words, block, .. } = self;
        for word in words.iter_mut().chain([block]) {
            let extent = core::mem::replace(word.get_mut(), null_mut());
            if extent.addr() & (RAM | HELD_PAGE) == 0 && !extent.is_null() {
                // SAFETY: from `set_area`, `set_ram_extent` or `set_block`, as in `take_area`.
                drop(unsafe { Box::from_raw(extent.map_addr(|address| address & !RAM_EXTENT)) });
            }
        }
    }
}
