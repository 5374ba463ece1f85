//! No library: what one would write for x86-64 and nothing else. It checks nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::peer::{ADDRESS, PAGE, Peer, Tables, entry_below, index};

const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const TABLE: u64 = 0b10_0111;
const LEAF: u64 = 1 << 63 | 0b110_0111;

/// With plain stores, or with an atomic read-modify-write for each entry that is changed.
pub struct Hand<const ATOMIC: bool> {
    root: u64,
    tables: Tables,
}

impl<const ATOMIC: bool> Hand<ATOMIC> {
    /// Empty tables.
    pub fn new(tables: usize) -> Self {
        let mut tables = Tables::new(tables);
        Hand { root: tables.take_zeroed(), tables }
    }

    #[inline(always)]
    fn entry_at(table: u64, index: usize) -> &'static AtomicU64 {
        // SAFETY: `table` is the root or what a present entry above the last level refers to, a table in memory that lives as long as `self`; the
        // reference does not leave these methods.
        unsafe { &*(table as *const AtomicU64).add(index) }
    }

    #[inline(always)]
    fn table_of(&self, va: u64) -> u64 {
        let mut table = self.root;
        for level in [3, 2, 1] {
            table = Self::entry_at(table, index(va, level)).load(Ordering::Relaxed) & ADDRESS;
        }
        table
    }

    #[inline(always)]
    fn table_for(&mut self, va: u64) -> u64 {
        let mut table = self.root;
        for level in [3, 2, 1] {
            let entry = Self::entry_at(table, index(va, level));
            let mut now = entry.load(Ordering::Relaxed);
            if now & PRESENT == 0 {
                now = self.tables.take_zeroed() | TABLE;
                entry.store(now, Ordering::Release);
            }
            table = now & ADDRESS;
        }
        table
    }

    #[inline(always)]
    fn protect(entry: &AtomicU64) {
        if ATOMIC {
            entry.fetch_and(!WRITE, Ordering::AcqRel);
        } else {
            entry.store(entry.load(Ordering::Relaxed) & !WRITE, Ordering::Release);
        }
    }

    #[inline(always)]
    fn clear(entry: &AtomicU64) {
        if ATOMIC {
            entry.swap(0, Ordering::AcqRel);
        } else {
            entry.store(0, Ordering::Release);
        }
    }

    /// Passes the entries of a range table by table, found as told.
    #[inline(always)]
    fn by_table(va: u64, pages: usize, mut f: impl FnMut(u64, usize, usize, usize)) {
        let mut done = 0;
        while done < pages {
            let at = va + done as u64 * PAGE;
            let first = index(at, 0);
            let count = (512 - first).min(pages - done);
            f(at, done, first, count);
            done += count;
        }
    }
}

impl<const ATOMIC: bool> Peer for Hand<ATOMIC> {
    #[inline]
    fn map_one(&mut self, va: u64, pa: u64) {
        let table = self.table_for(va);
        Self::entry_at(table, index(va, 0)).store(pa | LEAF, Ordering::Release);
    }

    #[inline]
    fn walk(&self, va: u64) -> u64 {
        Self::entry_at(self.table_of(va), index(va, 0)).load(Ordering::Relaxed) & ADDRESS
    }

    #[inline]
    fn protect_one(&mut self, va: u64) {
        Self::protect(Self::entry_at(self.table_of(va), index(va, 0)));
    }

    #[inline]
    fn unmap_one(&mut self, va: u64) {
        Self::clear(Self::entry_at(self.table_of(va), index(va, 0)));
    }

    fn map_range(&mut self, va: u64, pa: u64, pages: usize) {
        Self::by_table(va, pages, |at, done, first, count| {
            let table = self.table_for(at);
            for i in 0..count {
                let frame = pa + (done + i) as u64 * PAGE;
                Self::entry_at(table, first + i).store(frame | LEAF, Ordering::Release);
            }
        });
    }

    fn protect_range(&mut self, va: u64, pages: usize) {
        Self::by_table(va, pages, |at, _, first, count| {
            let table = self.table_of(at);
            (0..count).for_each(|i| Self::protect(Self::entry_at(table, first + i)));
        });
    }

    fn unmap_range(&mut self, va: u64, pages: usize) {
        Self::by_table(va, pages, |at, _, first, count| {
            let table = self.table_of(at);
            (0..count).for_each(|i| Self::clear(Self::entry_at(table, first + i)));
        });
    }

    fn entry(&self, va: u64) -> u64 {
        entry_below(self.root, va)
    }
}
