//! The mappings of an address space, kept by address.
//!
//! A red-black tree whose nodes are allocated before they are needed: an operation cuts mappings and makes room
//! for new ones while it can still be refused, and nothing it does afterwards can fail. Cut mappings are the same mappings, so
//! an operation that is refused after all only joins them again.

use alloc::boxed::Box;
use core::cell::Cell;

use arrayvec::ArrayVec;
use intrusive_collections::{Bound, KeyAdapter, RBTree, RBTreeLink, intrusive_adapter};
use kpkeys_pgtable::{Format, PageRange, VirtAddr};

use super::vma::{Backing, OnFork, Vma, intersection, last_page, part};
use crate::error::Error;
use crate::heap;

/// What must stay unmapped below a stack, so that a program cannot step over it into what lies there: Linux's 256 pages.
const STACK_GUARD_PAGES: u64 = 256;

/// How long a stack may become: Linux's default limit.
const LONGEST_STACK_BYTES: u64 = 8 << 20;

/// Nodes that are kept for mappings to come: as many as one operation may need, which is a move with its three ranges.
const SPARES: usize = 7;

/// A place for a mapping: in the tree with one, spare without.
struct Node<'k, E: Format> {
    link: RBTreeLink,
    /// Changed in place, but never so that the order in the tree would change.
    vma: Cell<Option<Vma<'k, E>>>,
}

intrusive_adapter!(ByStart<'k, E> = Box<Node<'k, E>>: Node<'k, E> { link => RBTreeLink } where E: Format);

impl<'a, 'k, E: Format> KeyAdapter<'a> for ByStart<'k, E> {
    type Key = u64;

    #[inline(always)]
    fn get_key(&self, node: &'a Node<'k, E>) -> u64 {
        node.vma.get().map_or(0, |vma| vma.range.start().0)
    }
}

/// Mappings that do not overlap, by start address.
#[derive(Default)]
pub(super) struct Vmas<'k, E: Format> {
    tree: RBTree<ByStart<'k, E>>,
    spare: Spares<'k, E>,
}

/// Nodes without a mapping.
#[derive(Default)]
struct Spares<'k, E: Format>(ArrayVec<Box<Node<'k, E>>, SPARES>);

impl<'k, E: Format> Spares<'k, E> {
    /// Makes sure of `nodes` nodes, at most [`SPARES`].
    fn reserve(&mut self, nodes: usize) -> Result<(), Error> {
        while self.0.len() < nodes.min(SPARES) {
            self.0.push(heap::boxed(Node { link: RBTreeLink::new(), vma: Cell::new(None) })?);
        }
        Ok(())
    }

    /// A node for a mapping that there was made room for.
    fn take(&mut self, vma: Vma<'k, E>) -> Box<Node<'k, E>> {
        let node = self.0.pop().expect("room is reserved before a mapping is cut or added");
        node.vma.set(Some(vma));
        node
    }

    /// Keeps a node, unless there are enough.
    fn keep(&mut self, node: Option<Box<Node<'k, E>>>) {
        if let Some(node) = node {
            let _ = self.0.try_push(node);
        }
    }
}

impl<'k, E: Format> Vmas<'k, E> {
    /// Makes sure that a mapping can be [added](Self::add).
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub(super) fn make_room(&mut self) -> Result<(), Error> {
        self.spare.reserve(1)
    }

    /// Adds a mapping that there was [made room](Self::make_room) for, as part of its neighbours where they are alike.
    pub(super) fn add(&mut self, vma: Vma<'k, E>) {
        self.insert(vma);
        self.join_in(vma.range);
    }

    /// Adds a mapping that there was [made room](Self::make_room) for, and joins it with nothing yet.
    pub(super) fn insert(&mut self, vma: Vma<'k, E>) {
        self.tree.insert(self.spare.take(vma));
    }

    /// Joins what is alike among the mappings in a range and beside it.
    pub(super) fn join_in(&mut self, range: PageRange<E>) {
        let mut cursor = self.tree.upper_bound_mut(Bound::Excluded(&range.start().0));
        if cursor.is_null() {
            cursor.move_next();
        }
        while let Some(node) = cursor.get()
            && let Some(vma) = node.vma.get()
            && vma.range.start() <= range.end()
        {
            let next = cursor.peek_next().get().and_then(|next| next.vma.get());
            if let Some(both) = next.and_then(|next| vma.joined(&next)) {
                node.vma.set(Some(both));
                cursor.move_next();
                self.spare.keep(cursor.remove());
                cursor.move_prev();
            } else {
                cursor.move_next();
            }
        }
    }

    /// Cuts the mappings that reach over either end of a range, so that each lies inside or outside.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`]; nothing is cut then.
    pub(super) fn split_at_ends_of(&mut self, range: PageRange<E>) -> Result<(), Error> {
        let ends = [range.start(), range.end()];
        let cuts = ends.into_iter().filter(|&end| self.is_cut_at(end)).count();
        self.spare.reserve(cuts)?;
        ends.into_iter().for_each(|end| self.split_at(end));
        Ok(())
    }

    /// [Splits](Self::split_at_ends_of) at the ends of the ranges of a move, and makes room for the mapping that moves.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`]; nothing is cut then.
    pub(super) fn split_for_move(&mut self, ranges: [PageRange<E>; 3]) -> Result<(), Error> {
        self.spare.reserve(2 * ranges.len() + 1)?;
        ranges.into_iter().for_each(|range| {
            self.split_at(range.start());
            self.split_at(range.end());
        });
        Ok(())
    }

    /// Whether an address lies inside a mapping, and not at its start.
    fn is_cut_at(&self, va: VirtAddr) -> bool {
        self.find(va).is_some_and(|vma| vma.range.start() < va)
    }

    /// Cuts the mapping that an address lies inside of, if there is one.
    fn split_at(&mut self, va: VirtAddr) {
        let mut cursor = self.tree.upper_bound_mut(Bound::Excluded(&va.0));
        let Some(node) = cursor.get() else { return };
        let parts = node.vma.get().map(|vma| (vma.up_to(va), vma.from(va)));
        if let Some((Some(below), Some(above))) = parts {
            node.vma.set(Some(below));
            cursor.insert_after(self.spare.take(above));
        }
    }

    /// Changes the mappings that reach into a range.
    pub(super) fn change_in(
        &mut self,
        range: PageRange<E>,
        mut change: impl FnMut(&mut Vma<'k, E>),
    ) {
        for node in self.nodes_touching(range) {
            if let Some(mut vma) = node.vma.get() {
                change(&mut vma);
                node.vma.set(Some(vma));
            }
        }
    }

    /// Notes that pages are made for every mapping that reaches into a range.
    pub(super) fn own_pages_in(&mut self, range: PageRange<E>) {
        self.change_in(range, |vma| vma.owns_pages = true);
    }

    /// Replaces the mapping that ends where this one does. It may begin lower down only where nothing else is.
    pub(super) fn update(&mut self, vma: Vma<'k, E>) {
        let last = last_page(vma.range).0;
        if let Some(node) = self.tree.upper_bound(Bound::Included(&last)).get() {
            node.vma.set(Some(vma));
        }
    }

    /// Extends the mapping that holds `va` up to `end`, and joins it with what begins there.
    pub(super) fn extend(&mut self, va: VirtAddr, end: VirtAddr) {
        if let Some(node) = self.tree.upper_bound(Bound::Included(&va.0)).get()
            && let Some(vma) = node.vma.get()
            && let Some(range) = part(vma.range.start(), end)
        {
            node.vma.set(Some(Vma { range, ..vma }));
            self.join_in(range);
        }
    }

    /// The stack above an address as it is when it has grown down to it, if there is one, it may be so long, and the mapping below keeps its distance.
    /// [`update`](Self::update) makes it so.
    pub(super) fn grown_stack(&self, va: VirtAddr) -> Option<Vma<'k, E>> {
        let page = VirtAddr(va.0 & !(E::PAGE_SIZE - 1));
        let cursor = self.tree.lower_bound(Bound::Included(&page.0));
        let stack = cursor.get()?.vma.get()?;
        let below = cursor.peek_prev().get().and_then(|node| node.vma.get());
        let below = below.map_or(0, |vma| vma.range.end().0);
        let is_too_long = stack.range.end().0 - page.0 > LONGEST_STACK_BYTES;
        if stack.backing != Backing::Stack
            || page.0 < below + STACK_GUARD_PAGES * E::PAGE_SIZE
            || is_too_long
        {
            return None;
        }
        Some(Vma { range: part(page, stack.range.end())?, ..stack })
    }

    /// The mappings a fork gives to the child.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub(super) fn for_child(&self) -> Result<Self, Error> {
        let mut child = Vmas::default();
        for vma in self.iter().filter(|vma| vma.on_fork != OnFork::Skip) {
            let owns_pages = vma.owns_pages && vma.on_fork == OnFork::Copy;
            child.make_room()?;
            let node = child.spare.take(Vma { owns_pages, ..vma });
            child.tree.back_mut().insert_after(node);
        }
        Ok(child)
    }

    /// Takes out the mappings inside a range that was split at.
    pub(super) fn remove_inside(&mut self, range: PageRange<E>) {
        let mut cursor = self.tree.lower_bound_mut(Bound::Included(&range.start().0));
        while cursor.get().is_some_and(|node| ByStart::new().get_key(node) < range.end().0) {
            let node = cursor.remove();
            self.spare.keep(node);
        }
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = Vma<'k, E>> {
        self.tree.iter().filter_map(|node| node.vma.get())
    }

    /// The mapping that holds an address.
    #[inline]
    pub(super) fn find(&self, va: VirtAddr) -> Option<Vma<'k, E>> {
        let vma = self.tree.upper_bound(Bound::Included(&va.0)).get()?.vma.get()?;
        vma.range.contains(va).then_some(vma)
    }

    pub(super) fn overlaps(&self, range: PageRange<E>) -> bool {
        self.touching(range).next().is_some()
    }

    /// Whether mappings cover a range without a gap.
    pub(super) fn covered(&self, range: PageRange<E>) -> Result<(), Error> {
        let mut next = range.start();
        for vma in self.touching(range) {
            if vma.range.start() > next {
                break;
            }
            next = vma.range.end();
        }
        if next > last_page(range) { Ok(()) } else { Err(Error::NotMapped(next)) }
    }

    /// The parts of a range that are mapped.
    pub(super) fn parts_in(&self, range: PageRange<E>) -> impl Iterator<Item = PageRange<E>> {
        self.touching(range).filter_map(move |vma| intersection(vma.range, range))
    }

    /// The parts of a range that are not, each as what lies between its neighbours.
    pub(super) fn gaps_in(
        &self,
        range: PageRange<E>,
        end_of_space: u64,
    ) -> impl Iterator<Item = (VirtAddr, VirtAddr)> {
        let mut at = Some(range.start());
        core::iter::from_fn(move || {
            while let Some(vma) = self.find(at?) {
                at = Some(vma.range.end()).filter(|&next| next <= last_page(range));
            }
            let gap = self.around(at?, end_of_space);
            at = Some(gap.1).filter(|&next| next <= last_page(range));
            Some(gap)
        })
    }

    /// The end of the mapping before a range, and the start of the one behind it: what page tables may be freed between.
    pub(super) fn neighbours(
        &self,
        range: PageRange<E>,
        end_of_space: u64,
    ) -> (VirtAddr, VirtAddr) {
        let before = self.tree.upper_bound(Bound::Excluded(&range.start().0)).get();
        let behind = self.tree.lower_bound(Bound::Included(&range.end().0)).get();
        let before = before.and_then(|node| node.vma.get()).map(|vma| vma.range.end());
        let behind = behind.and_then(|node| node.vma.get()).map(|vma| vma.range.start());
        (before.unwrap_or(VirtAddr(0)), behind.unwrap_or(VirtAddr(end_of_space)))
    }

    fn around(&self, va: VirtAddr, end_of_space: u64) -> (VirtAddr, VirtAddr) {
        PageRange::new(va, 1).map_or((va, va), |page| self.neighbours(page, end_of_space))
    }

    /// The mappings that reach into a range.
    pub(super) fn touching(&self, range: PageRange<E>) -> impl Iterator<Item = Vma<'k, E>> {
        self.nodes_touching(range).filter_map(|node| node.vma.get())
    }

    /// The nodes of the mappings that reach into a range.
    fn nodes_touching(&self, range: PageRange<E>) -> impl Iterator<Item = &Node<'k, E>> {
        let first = self.find(range.start()).map_or(range.start(), |vma| vma.range.start());
        let mut cursor = self.tree.lower_bound(Bound::Included(&first.0));
        core::iter::from_fn(move || {
            let node = cursor.get()?;
            cursor.move_next();
            (ByStart::new().get_key(node) <= last_page(range).0).then_some(node)
        })
    }
}
