//! Free ranges of kernel addresses, by address and by size.

use alloc::collections::{BTreeMap, BTreeSet};

use kpkeys_pgtable::{PAGE_SIZE, PageRange, VirtAddr};

/// The addresses that belong to nobody. Neighbouring free ranges are always merged.
#[derive(Debug)]
pub struct FreeAddresses {
    /// Pages of the free range that starts at an address.
    by_start: BTreeMap<u64, usize>,
    /// The same ranges, smallest first, then lowest first.
    by_size: BTreeSet<(usize, u64)>,
}

impl FreeAddresses {
    /// All of `range` is free.
    pub fn new(range: PageRange) -> Self {
        let mut free = FreeAddresses { by_start: BTreeMap::new(), by_size: BTreeSet::new() };
        free.insert(range.start().0, range.pages());
        free
    }

    /// A range of `pages` pages whose start is a multiple of `align` bytes, a power of two: from the smallest free range that
    /// can hold it, its lowest part.
    pub fn take(&mut self, pages: usize, align: u64) -> Option<VirtAddr> {
        let fits = |&(size, start): &(usize, u64)| {
            start
                .checked_next_multiple_of(align)
                .is_some_and(|aligned| ((aligned - start) / PAGE_SIZE) as usize + pages <= size)
        };
        let (size, start) = self.by_size.range((pages, 0)..).copied().find(fits)?;
        self.remove(start, size);
        let taken = start.next_multiple_of(align);
        let below = ((taken - start) / PAGE_SIZE) as usize;
        self.insert(start, below);
        self.insert(taken + pages as u64 * PAGE_SIZE, size - below - pages);
        Some(VirtAddr(taken))
    }

    /// Frees a range that was taken.
    pub fn put(&mut self, start: VirtAddr, pages: usize) {
        let (mut start, mut pages) = (start.0, pages);
        if let Some((&below, &size)) = self.by_start.range(..start).next_back()
            && below + size as u64 * PAGE_SIZE == start
        {
            self.remove(below, size);
            (start, pages) = (below, pages + size);
        }
        let end = start + pages as u64 * PAGE_SIZE;
        if let Some(&size) = self.by_start.get(&end) {
            self.remove(end, size);
            pages += size;
        }
        self.insert(start, pages);
    }

    fn insert(&mut self, start: u64, pages: usize) {
        if pages > 0 {
            self.by_start.insert(start, pages);
            self.by_size.insert((pages, start));
        }
    }

    fn remove(&mut self, start: u64, pages: usize) {
        self.by_start.remove(&start);
        self.by_size.remove(&(pages, start));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: u64 = PAGE_SIZE;

    fn free(pages: usize) -> FreeAddresses {
        FreeAddresses::new(PageRange::new(VirtAddr(0), pages).unwrap())
    }

    #[test]
    fn takes_the_lowest_part_of_the_smallest_range() {
        let mut free = free(100);
        let a = free.take(10, P).unwrap();
        let b = free.take(5, P).unwrap();
        let _c = free.take(10, P).unwrap();
        assert_eq!((a, b), (VirtAddr(0), VirtAddr(10 * P)));
        free.put(a, 10);
        free.put(b, 5);
        assert_eq!(free.take(12, P), Some(VirtAddr(0)), "the 15 pages below, not the 75 above");
    }

    #[test]
    fn aligns_and_loses_nothing() {
        let mut free = free(64);
        let one = free.take(1, P).unwrap();
        let aligned = free.take(16, 16 * P).unwrap();
        assert_eq!(aligned, VirtAddr(16 * P));
        free.put(aligned, 16);
        free.put(one, 1);
        assert_eq!(free.take(64, P), Some(VirtAddr(0)), "all merged again");
        assert_eq!(free.take(1, P), None);
    }
}
