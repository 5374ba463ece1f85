//! What every library is asked to do, and the memory that its tables are in.

use kpkeys_hosted::arena::Arena;

/// Where the entries are mapped: aligned to 1 GiB, in the user's half.
pub const START: u64 = 0x5555_4000_0000;
/// The frame that the first page is mapped to. One page off any larger alignment, so that no library can use a block.
pub const FIRST_FRAME: u64 = 0x10_0000_1000;
/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Bits of an entry that hold the address of a 4 KiB frame, in both formats.
pub const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// A library that changes page tables: each call as one of its users would make it, on 4 KiB pages.
pub trait Peer {
    /// Whether it has calls for ranges.
    const RANGES: bool = true;

    /// Maps one page, writable.
    #[inline(always)]
    fn map_one(&mut self, va: u64, pa: u64) {
        self.map_range(va, pa, 1);
    }

    /// The frame that an address is translated to, or zero. (Where a library does not tell, something else that is not.)
    fn walk(&self, va: u64) -> u64;

    /// Takes write permission from one page.
    #[inline(always)]
    fn protect_one(&mut self, va: u64) {
        self.protect_range(va, 1);
    }

    /// Unmaps one page.
    #[inline(always)]
    fn unmap_one(&mut self, va: u64) {
        self.unmap_range(va, 1);
    }

    /// Maps `pages` pages to consecutive frames, writable, by one call.
    fn map_range(&mut self, va: u64, pa: u64, pages: usize);
    /// Takes write permission from them, by one call.
    fn protect_range(&mut self, va: u64, pages: usize);
    /// Unmaps them, by one call.
    fn unmap_range(&mut self, va: u64, pages: usize);

    /// The entry that translates an address now, as it is in memory: zero if there is none. To check what the library did.
    fn entry(&self, va: u64) -> u64;
}

/// Memory for tables where physical addresses are addresses of this process, as most of the libraries like it best. It has been touched, so that
/// the host's page faults are in nobody's time.
pub struct Tables {
    _arena: Arena,
    base: u64,
    bytes: usize,
    used: usize,
    free: Vec<u64>,
}

impl Tables {
    /// Memory for this many tables.
    pub fn new(tables: usize) -> Tables {
        let arena = Arena::new(tables).expect("the host has memory for the tables");
        let base = arena.tables();
        let bytes = tables * PAGE as usize;
        // SAFETY: the arena is that long, writable, and nobody else has it.
        unsafe { base.write_bytes(0, bytes) };
        Tables {
            _arena: arena,
            base: base.as_ptr() as u64,
            bytes,
            used: 0,
            free: Vec::with_capacity(tables),
        }
    }

    /// A page, its contents undefined.
    #[inline]
    pub fn take(&mut self) -> u64 {
        if let Some(page) = self.free.pop() {
            return page;
        }
        assert!(self.used < self.bytes, "more tables than the entries need");
        let page = self.base + self.used as u64;
        self.used += PAGE as usize;
        page
    }

    /// A page of zeroes.
    #[inline]
    pub fn take_zeroed(&mut self) -> u64 {
        let page = self.take();
        // SAFETY: the page is this arena's and nobody else has it now.
        unsafe { (page as *mut u8).write_bytes(0, PAGE as usize) };
        page
    }

    /// Takes a page back.
    #[inline]
    pub fn give(&mut self, page: u64) {
        self.free.push(page);
    }
}

/// Which entry of a table at `level` (0 is that of PTEs) translates an address.
#[inline(always)]
pub fn index(va: u64, level: u32) -> usize {
    (va >> (12 + 9 * level)) as usize & 511
}

/// The entry that translates an address, in tables whose physical addresses are addresses of this process.
pub fn entry_below(root: u64, va: u64) -> u64 {
    let mut table = root;
    for level in [3, 2, 1] {
        // SAFETY: callers pass a root of tables that their library made in memory of this process, and a present entry above the last
        // level refers to another one.
        let entry = unsafe { *(table as *const u64).add(index(va, level)) };
        if entry & 1 == 0 {
            return 0;
        }
        table = entry & ADDRESS;
    }
    // SAFETY: as above.
    unsafe { *(table as *const u64).add(index(va, 0)) }
}
