//! A range of kernel addresses as a node: one piece of heap for its whole life.
//!
//! An extent is made when addresses are taken, which may fail for lack of heap. From then on it moves: it is the area, then waits for a
//! window, then for a flush, and ends as a free range or in a neighbour of one. None of these moves needs memory, so giving back
//! cannot fail. Whoever holds the box owns the addresses.

use alloc::boxed::Box;
use core::marker::PhantomData;

use kpkeys_pgtable::{Format, PageRange, VirtAddr};

use super::backing::AreaFrames;
use crate::error::Error;
use crate::heap;

/// Addresses, and what belongs to whoever has them.
#[derive(Debug)]
pub struct Extent<E: Format> {
    pub(super) start: u64,
    pub(super) pages: usize,
    /// The frames behind an area; empty in every other state.
    pub(super) frames: AreaFrames,
    pub(super) links: Links<E>,
    format: PhantomData<E>,
}

/// What links an extent to others: in the tree of free ranges, or, by `right` alone, in a list.
#[derive(Debug, Default)]
pub(super) struct Links<E: Format> {
    pub(super) left: Link<E>,
    pub(super) right: Link<E>,
    /// The largest number of pages in the tree below.
    pub(super) largest: usize,
    /// Its place in the tree: no child has a higher one.
    pub(super) priority: u32,
}

pub(super) type Link<E> = Option<Box<Extent<E>>>;

impl<E: Format> Extent<E> {
    /// An extent without addresses, to be given some.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub fn new() -> Result<Box<Extent<E>>, Error> {
        heap::boxed(Extent {
            start: 0,
            pages: 0,
            frames: AreaFrames::default(),
            links: Links::default(),
            format: PhantomData,
        })
    }

    /// Its first address.
    pub fn start(&self) -> VirtAddr {
        VirtAddr(self.start)
    }

    /// The address behind its last page.
    pub(super) fn end(&self) -> u64 {
        self.start + self.pages as u64 * E::PAGE_SIZE
    }

    /// Its first `pages` pages.
    pub(super) fn first(&self, pages: usize) -> PageRange<E> {
        PageRange::new(self.start(), pages).expect("part of the layout's range, and never empty")
    }

    /// The pages of an area, without the guard page behind them.
    pub(super) fn mapped(&self) -> PageRange<E> {
        self.first(self.pages - 1)
    }

    /// Gives its first pages to `to`, which has none.
    pub(super) fn split_off_first(&mut self, pages: usize, to: &mut Extent<E>) {
        (to.start, to.pages) = (self.start, pages);
        self.start += pages as u64 * E::PAGE_SIZE;
        self.pages -= pages;
    }

    /// Takes the pages of a neighbour; false if it is none.
    pub(super) fn join(&mut self, other: &Extent<E>) -> bool {
        if self.end() == other.start {
            self.pages += other.pages;
        } else if other.end() == self.start {
            (self.start, self.pages) = (other.start, self.pages + other.pages);
        } else {
            return false;
        }
        true
    }
}

/// Extents, the last pushed first.
#[derive(Debug, Default)]
pub(super) struct Extents<E: Format> {
    head: Link<E>,
}

impl<E: Format> Extents<E> {
    /// One.
    #[inline(always)]
    pub(super) fn of(extent: Box<Extent<E>>) -> Extents<E> {
        Extents { head: Some(extent) }
    }

    #[inline]
    pub(super) fn push(&mut self, mut extent: Box<Extent<E>>) {
        extent.links.right = self.head.take();
        self.head = Some(extent);
    }

    #[inline]
    pub(super) fn pop(&mut self) -> Link<E> {
        let mut extent = self.head.take()?;
        self.head = extent.links.right.take();
        Some(extent)
    }

    #[inline]
    pub(super) fn last_pushed(&mut self) -> Option<&mut Extent<E>> {
        self.head.as_deref_mut()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    #[inline(always)]
    pub(super) fn for_each_mut(&mut self, mut f: impl FnMut(&mut Extent<E>)) {
        let mut next = self.head.as_deref_mut();
        while let Some(extent) = next {
            f(extent);
            next = extent.links.right.as_deref_mut();
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Extent<E>> {
        core::iter::successors(self.head.as_deref(), |extent| extent.links.right.as_deref())
    }
}

impl<E: Format> Drop for Extents<E> {
    /// One by one: a list of thousands must not be dropped by recursion.
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}
