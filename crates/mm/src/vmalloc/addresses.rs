//! Free ranges of kernel addresses, by address.
//!
//! A treap (Seidel and Aragon, "Randomized Search Trees", 1996): a search tree by address that is a heap by random priorities, so its
//! depth is logarithmic whatever comes and goes. Each node knows the largest free range below it, which leads to the lowest
//! one that is large enough. Nodes are extents of the callers', so nothing here needs the heap.
//!
//! # Alignment
//!
//! A free range of `pages + align - 1` pages holds an aligned one for certain and is found like any other. A smaller one may do, if it
//! happens to lie well: the few lowest that are large enough are looked at first, and all of them only where the answer is
//! "none" otherwise.

use alloc::boxed::Box;

use kpkeys_pgtable::{Format, PageRange};

use super::extent::{Extent, Link, Links};

/// Free ranges looked at for one that happens to be aligned.
const TRIES: usize = 8;

/// The addresses that belong to nobody. Neighbouring free ranges are always merged.
#[derive(Debug)]
pub struct FreeAddresses<E: Format> {
    root: Link<E>,
    /// The state of a generator of priorities (xorshift32).
    random: u32,
}

impl<E: Format> FreeAddresses<E> {
    /// All of `range` is free. `node` has no addresses.
    pub fn new(range: PageRange<E>, mut node: Box<Extent<E>>) -> Self {
        let mut free = FreeAddresses { root: None, random: 0x9e37_79b9 };
        (node.start, node.pages) = (range.start().0, range.pages());
        free.put(node);
        free
    }

    /// The lowest free range of at least `least` pages, or the first `most` pages of it, in `node`.
    ///
    /// # Errors
    ///
    /// Hands `node` back if no free range is large enough.
    pub fn take(
        &mut self,
        least: usize,
        most: usize,
        node: Box<Extent<E>>,
    ) -> Result<Box<Extent<E>>, Box<Extent<E>>> {
        let Some((start, pages)) = lowest(&self.root, least) else { return Err(node) };
        Ok(self.cut(start, pages.min(most), node, None))
    }

    /// A range of `pages` pages whose start is a multiple of `align` bytes, a power of two, in `node`. `rest` is for what is left
    /// above it.
    ///
    /// # Errors
    ///
    /// Hands `node` back if no free range holds such a one.
    pub fn take_aligned(
        &mut self,
        pages: usize,
        align: u64,
        node: Box<Extent<E>>,
        rest: Box<Extent<E>>,
    ) -> Result<Box<Extent<E>>, Box<Extent<E>>> {
        let Some(start) = self.find_aligned(pages, align) else { return Err(node) };
        Ok(self.cut(start, pages, node, Some(rest)))
    }

    /// Frees a range that was taken, or part of it.
    pub fn put(&mut self, mut range: Box<Extent<E>>) {
        if let Some(above) = remove(&mut self.root, range.end()) {
            range.join(&above);
        }
        if !extend(&mut self.root, &range) {
            self.insert(range);
        }
    }

    fn find_aligned(&self, pages: usize, align: u64) -> Option<u64> {
        let slack = (align / E::PAGE_SIZE) as usize - 1;
        let mut tries = TRIES;
        let lucky = first_aligned(&self.root, pages, align, &mut tries);
        let certain = || {
            let (start, _) = lowest(&self.root, pages.checked_add(slack)?)?;
            start.checked_next_multiple_of(align)
        };
        lucky.or_else(certain).or_else(|| {
            // Rather slow than refused.
            first_aligned(&self.root, pages, align, &mut usize::MAX.clone())
        })
    }

    /// Takes `pages` pages from `start` out of the free range they lie in.
    fn cut(
        &mut self,
        start: u64,
        pages: usize,
        mut node: Box<Extent<E>>,
        rest: Option<Box<Extent<E>>>,
    ) -> Box<Extent<E>> {
        (node.start, node.pages) = (start, pages);
        let above = shrink(&mut self.root, &node);
        if let (Some(mut rest), true) = (rest, above.pages > 0) {
            (rest.start, rest.pages) = (above.start, above.pages);
            self.insert(rest);
        }
        node
    }

    fn insert(&mut self, mut node: Box<Extent<E>>) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        node.links = Links { priority: self.random, ..Links::default() };
        insert(&mut self.root, node);
    }
}

/// What is left of a free range above what was taken from its middle.
#[derive(Default)]
struct Above {
    start: u64,
    pages: usize,
}

/// A node was looked at. Tests count them.
#[inline(always)]
fn step() {
    #[cfg(test)]
    tests::STEPS.set(tests::STEPS.get() + 1);
}

fn largest<E: Format>(tree: &Link<E>) -> usize {
    tree.as_ref().map_or(0, |node| node.links.largest)
}

/// Restores what a node knows of the tree below it.
fn refresh<E: Format>(node: &mut Extent<E>) {
    let below = largest(&node.links.left).max(largest(&node.links.right));
    node.links.largest = node.pages.max(below);
}

/// Start and pages of the lowest free range of at least `pages` pages.
fn lowest<E: Format>(tree: &Link<E>, pages: usize) -> Option<(u64, usize)> {
    let mut node = tree.as_deref().filter(|node| node.links.largest >= pages)?;
    loop {
        step();
        let below = node.links.left.as_deref().filter(|left| left.links.largest >= pages);
        node = match below {
            Some(left) => left,
            None if node.pages >= pages => return Some((node.start, node.pages)),
            None => node.links.right.as_deref()?,
        };
    }
}

/// The first aligned start in the lowest `tries` free ranges that are large enough.
fn first_aligned<E: Format>(
    tree: &Link<E>,
    pages: usize,
    align: u64,
    tries: &mut usize,
) -> Option<u64> {
    let node = tree.as_deref().filter(|node| node.links.largest >= pages)?;
    step();
    let here = |tries: &mut usize| {
        if node.pages < pages || *tries == 0 {
            return None;
        }
        *tries -= 1;
        let start = node.start.checked_next_multiple_of(align)?;
        let fits =
            start.checked_add(pages as u64 * E::PAGE_SIZE).is_some_and(|end| end <= node.end());
        fits.then_some(start)
    };
    first_aligned(&node.links.left, pages, align, tries).or_else(|| here(tries)).or_else(|| {
        if *tries == 0 {
            return None;
        }
        first_aligned(&node.links.right, pages, align, tries)
    })
}

/// Takes a range out of the free one that holds it. What is left below stays in the tree, or, if there is nothing, what is left above.
/// Returns what is left above beside it.
fn shrink<E: Format>(tree: &mut Link<E>, taken: &Extent<E>) -> Above {
    let Some(node) = tree.as_deref_mut() else { return Above::default() };
    step();
    if taken.start < node.start || taken.start >= node.end() {
        let side =
            if taken.start < node.start { &mut node.links.left } else { &mut node.links.right };
        let above = shrink(side, taken);
        refresh(node);
        return above;
    }
    let below = ((taken.start - node.start) / E::PAGE_SIZE) as usize;
    let above = Above { start: taken.end(), pages: node.pages - below - taken.pages };
    match (below, above.pages) {
        (0, 0) => {
            remove_root(tree);
            above
        }
        (0, _) => {
            (node.start, node.pages) = (above.start, above.pages);
            refresh(node);
            Above::default()
        }
        _ => {
            node.pages = below;
            refresh(node);
            above
        }
    }
}

/// Adds a range to the free one that ends where it starts; false if there is none.
fn extend<E: Format>(tree: &mut Link<E>, range: &Extent<E>) -> bool {
    let Some(node) = tree.as_deref_mut() else { return false };
    step();
    let extended = if range.start < node.start {
        extend(&mut node.links.left, range)
    } else if range.start == node.end() {
        node.pages += range.pages;
        true
    } else {
        extend(&mut node.links.right, range)
    };
    if extended {
        refresh(node);
    }
    extended
}

/// Takes out the free range that starts at an address.
fn remove<E: Format>(tree: &mut Link<E>, start: u64) -> Link<E> {
    let node = tree.as_deref_mut()?;
    step();
    if node.start == start {
        return remove_root(tree);
    }
    let side = if start < node.start { &mut node.links.left } else { &mut node.links.right };
    let removed = remove(side, start);
    if removed.is_some() {
        refresh(node);
    }
    removed
}

fn remove_root<E: Format>(tree: &mut Link<E>) -> Link<E> {
    let mut node = tree.take()?;
    *tree = merged(node.links.left.take(), node.links.right.take());
    Some(node)
}

fn insert<E: Format>(tree: &mut Link<E>, mut node: Box<Extent<E>>) {
    step();
    match tree.as_deref_mut() {
        Some(root) if root.links.priority >= node.links.priority => {
            let side =
                if node.start < root.start { &mut root.links.left } else { &mut root.links.right };
            insert(side, node);
            refresh(root);
        }
        _ => {
            (node.links.left, node.links.right) = split(tree.take(), node.start);
            refresh(&mut node);
            *tree = Some(node);
        }
    }
}

/// The parts of a tree below and above an address.
fn split<E: Format>(tree: Link<E>, at: u64) -> (Link<E>, Link<E>) {
    let Some(mut node) = tree else { return (None, None) };
    step();
    if node.start < at {
        let (below, above) = split(node.links.right.take(), at);
        node.links.right = below;
        refresh(&mut node);
        (Some(node), above)
    } else {
        let (below, above) = split(node.links.left.take(), at);
        node.links.left = above;
        refresh(&mut node);
        (below, Some(node))
    }
}

/// Two trees in one; all of `below` lies below `above`.
fn merged<E: Format>(below: Link<E>, above: Link<E>) -> Link<E> {
    step();
    match (below, above) {
        (Some(mut below), Some(above)) if below.links.priority >= above.links.priority => {
            below.links.right = merged(below.links.right.take(), Some(above));
            refresh(&mut below);
            Some(below)
        }
        (Some(below), Some(mut above)) => {
            above.links.left = merged(Some(below), above.links.left.take());
            refresh(&mut above);
            Some(above)
        }
        (below, above) => below.or(above),
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use alloc::vec::Vec;
    use core::cell::Cell;

    use kpkeys_pgtable::VirtAddr;

    use kpkeys_pgtable::entry::X86_64;

    use super::*;

    const P: u64 = X86_64::PAGE_SIZE;

    std::thread_local! {
        pub(super) static STEPS: Cell<usize> = const { Cell::new(0) };
    }

    fn node() -> Box<Extent<X86_64>> {
        Extent::new().unwrap()
    }

    fn free(pages: usize) -> FreeAddresses<X86_64> {
        FreeAddresses::new(PageRange::new(VirtAddr(0), pages).unwrap(), node())
    }

    fn take(free: &mut FreeAddresses<X86_64>, pages: usize) -> Option<Box<Extent<X86_64>>> {
        free.take(pages, pages, node()).ok()
    }

    fn take_aligned(
        free: &mut FreeAddresses<X86_64>,
        pages: usize,
        align: u64,
    ) -> Option<Box<Extent<X86_64>>> {
        free.take_aligned(pages, align * P, node(), node()).ok()
    }

    #[test]
    fn takes_the_lowest_range_that_is_large_enough() {
        let mut free = free(100);
        let a = take(&mut free, 10).unwrap();
        let b = take(&mut free, 5).unwrap();
        let _c = take(&mut free, 10).unwrap();
        assert_eq!((a.start(), b.start()), (VirtAddr(0), VirtAddr(10 * P)));
        free.put(a);
        free.put(b);
        assert_eq!(take(&mut free, 12).unwrap().start, 0, "the 15 pages below, not the 75 above");
        let rest = free.take(1, 30, node()).unwrap();
        assert_eq!((rest.start, rest.pages), (12 * P, 3), "no more than there is in one piece");
    }

    #[test]
    fn aligns_and_loses_nothing() {
        let mut free = free(64);
        let one = take(&mut free, 1).unwrap();
        let aligned = take_aligned(&mut free, 16, 16).unwrap();
        assert_eq!(aligned.start, 16 * P);
        free.put(aligned);
        free.put(one);
        assert_eq!(take(&mut free, 64).unwrap().start, 0, "all merged again");
        assert!(take(&mut free, 1).is_none());
    }

    /// Each range that is taken last fits exactly and is aligned, beyond the first few, and none is large enough to be certain.
    #[test]
    fn an_aligned_range_is_found_wherever_it_is() {
        let mut free = free(64 * 64);
        let all: Vec<_> = (0..64 * 16).map(|_| take(&mut free, 4).unwrap()).collect();
        // Ranges of four pages at 4 mod 16, and one of them at 0 mod 16.
        for (i, range) in all.into_iter().enumerate() {
            if i % 4 == 1 || i == 4 * 40 + 4 * 16 {
                free.put(range);
            }
        }
        assert_eq!(take_aligned(&mut free, 4, 16).unwrap().start, 56 * 16 * P);
        assert!(take_aligned(&mut free, 4, 16).is_none());
    }

    /// A plain model: one flag a page.
    #[test]
    fn does_what_a_bitmap_does() {
        const PAGES: usize = 512;
        let (mut tree, mut taken, mut used) = (free(PAGES), Vec::new(), [false; PAGES]);
        let mut random = 1_u64;
        for round in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (pages, align) = ((random >> 33) as usize % 24 + 1, 1 << ((random >> 40) % 6));
            if (random >> 60).is_multiple_of(2) && !taken.is_empty() {
                let range: Box<Extent<X86_64>> =
                    taken.swap_remove((random >> 33) as usize % taken.len());
                let first = (range.start / P) as usize;
                used[first..first + range.pages].fill(false);
                tree.put(range);
                continue;
            }
            let fits = |first: usize| {
                first + pages <= PAGES && used[first..first + pages].iter().all(|used| !used)
            };
            let possible = (0..PAGES).step_by(align).any(fits);
            let range = if align == 1 {
                take(&mut tree, pages)
            } else {
                take_aligned(&mut tree, pages, align as u64)
            };
            assert_eq!(range.is_some(), possible, "round {round}: {pages} pages by {align}");
            let Some(range) = range else { continue };
            let first = (range.start / P) as usize;
            assert!(
                range.pages == pages && first.is_multiple_of(align) && fits(first),
                "{range:?}"
            );
            used[first..first + pages].fill(true);
            taken.push(range);
        }
    }

    /// `holes` free ranges of six pages, none at a multiple of 128 pages, and one of many pages above them.
    fn with_holes(holes: usize) -> FreeAddresses<X86_64> {
        let mut free = free(holes * 128 + (1 << 20));
        let ranges: Vec<_> = (0..holes * 2).map(|_| take(&mut free, 64).unwrap()).collect();
        for (i, mut range) in ranges.into_iter().enumerate() {
            if i % 2 == 1 {
                let mut hole = node();
                range.split_off_first(6, &mut node());
                range.split_off_first(6, &mut hole);
                free.put(hole);
            }
        }
        free
    }

    /// Ranges taken at once when steps are counted: each may leave a free range more.
    const PAIRS: usize = 1000;

    /// Nodes looked at by one call, on average over pairs of a taking and a giving back.
    fn steps(
        free: &mut FreeAddresses<X86_64>,
        take: impl Fn(&mut FreeAddresses<X86_64>) -> Box<Extent<X86_64>>,
    ) -> f64 {
        STEPS.set(0);
        let taken: Vec<_> = (0..PAIRS).map(|_| take(free)).collect();
        taken.into_iter().for_each(|range| free.put(range));
        STEPS.get() as f64 / PAIRS as f64
    }

    /// The tries, and at most seven passes down the tree for a taking and a giving back: among ten free ranges and among 200,000.
    #[test]
    fn searches_take_a_logarithm_of_steps() {
        type Take = fn(&mut FreeAddresses<X86_64>) -> Box<Extent<X86_64>>;
        let takes: [(&str, Take); 4] = [
            ("a page", |free| take(free, 1).unwrap()),
            ("seven pages", |free| take(free, 7).unwrap()),
            ("five pages at 128", |free| take_aligned(free, 5, 128).unwrap()),
            ("nine pages at 16", |free| take_aligned(free, 9, 16).unwrap()),
        ];
        for holes in [10, 1000, 200_000] {
            let mut free = with_holes(holes);
            for (what, take) in takes {
                let all = (holes + PAIRS) as f64;
                let steps = steps(&mut free, take);
                let most = TRIES as f64 + 7.0 * all.log2();
                assert!(steps <= most, "{what}: {steps} steps among {holes} free ranges");
            }
        }
    }

    /// Holes come in an order that a plain search tree would make a list of.
    #[test]
    fn is_as_deep_as_a_logarithm() {
        fn depth(tree: &Link<X86_64>) -> usize {
            let below =
                |node: &Extent<X86_64>| depth(&node.links.left).max(depth(&node.links.right));
            tree.as_ref().map_or(0, |node| 1 + below(node))
        }
        let depth = depth(&with_holes(200_000).root);
        assert!(depth < 4 * 18, "{depth} deep for 2^17.6 nodes");
    }
}
