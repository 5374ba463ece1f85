//! Table memory, and which of its pages are free.
//!
//! # Protocol
//!
//! - Every page carries the protection from the start, free or not: no page becomes a table, or stops being one, by a change of the
//!   linear map. So nothing can be planted in a page before it is one.
//! - A call reserves what it may need before its window opens: [`allocate_table`](aarch64_paging::paging::Translation::allocate_table)
//!   cannot fail, and must not.
//! - Free pages are linked through their own first words, which are protected; what is kept outside is the first of them, and counts.
//! - The lock is held for a few loads, inside windows too, never over a flush. It leaves interrupts alone: not for interrupt handlers.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};

use aarch64_paging::descriptor::PhysicalAddress;
use aarch64_paging::paging::PAGE_SIZE;
use kpkeys::context::{Default, PageTables};
use kpkeys::{Backend, Guard, Scheme};
use spin::Mutex;

use crate::layout::Layout;
use crate::{Error, Views};

/// Table memory, shared by all tables that are made of it.
#[derive(Debug)]
pub struct Pool<B> {
    layout: Layout,
    views: Views,
    backend: B,
    free: Mutex<Free>,
    pub(crate) linear_mapped: AtomicBool,
    pub(crate) alias_mapped: AtomicBool,
    protected: AtomicBool,
}

/// Which pages are free.
#[derive(Debug)]
struct Free {
    /// One more than the number of the first page that was given back; 0 if there is none.
    first: usize,
    given_back: usize,
    /// Pages from here on were never used.
    fresh: usize,
    /// Of all these, promised to calls that are under way.
    reserved: usize,
}

impl<B: Backend> Pool<B> {
    /// Table memory of a kernel that runs where the layout says: the linear map's addresses can be stored to until protection is on.
    ///
    /// # Errors
    ///
    /// What is wrong with the layout.
    ///
    /// # Safety
    ///
    /// - The memory is RAM, zero or not, that is the pool's alone for as long as the pool or anything made of it is used.
    /// - The linear map has it, and all other tables that are to be [adopted](crate::Tables::adopt), at a constant distance from their
    ///   physical addresses, writable; once protection is on, readable there, and writable inside windows as the backend's scheme says.
    /// - The backend is initialised on every CPU that changes tables, before protection is on.
    pub unsafe fn new(layout: Layout, backend: B) -> Result<Self, Error> {
        let views = Views {
            linear: core::ptr::with_exposed_provenance_mut(layout.linear.0),
            alias: core::ptr::with_exposed_provenance_mut(layout.alias.map_or(0, |alias| alias.0)),
        };
        // SAFETY: the caller's promise; the views are the layout's own addresses.
        unsafe { Self::through(layout, views, backend) }
    }

    /// [`new`](Self::new), for who reaches table memory at other addresses than the tables will: an early stage with mappings of its own, or
    /// a test on another machine.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    ///
    /// # Safety
    ///
    /// As for [`new`](Self::new), of the views in place of the layout's addresses.
    pub unsafe fn through(layout: Layout, views: Views, backend: B) -> Result<Self, Error> {
        layout.check(backend.scheme())?;
        Ok(Pool {
            layout,
            views,
            backend,
            free: Mutex::new(Free { first: 0, given_back: 0, fresh: 0, reserved: 0 }),
            linear_mapped: AtomicBool::new(false),
            alias_mapped: AtomicBool::new(false),
            protected: AtomicBool::new(false),
        })
    }

    /// Where it is.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The backend that opens windows.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Pages that are free.
    pub fn free_pages(&self) -> usize {
        let free = self.free.lock();
        free.given_back + (self.layout.pages - free.fresh) - free.reserved
    }

    /// Whether tables are stored through what windows open alone.
    pub fn is_protected(&self) -> bool {
        self.protected.load(Ordering::Acquire)
    }

    /// From here on tables can be stored to inside windows alone. Refused while an item of the checklist is not met: all table memory
    /// in the linear map of some tables, the alias in some, this CPU outside of windows; and on arm64 itself, with an alias, that it cannot
    /// store to the one and has the other.
    ///
    /// # Errors
    ///
    /// The item that is not met.
    ///
    /// # Safety
    ///
    /// Those tables are active on every CPU that changes tables, no TLB has an older mapping of table memory, and the backend is initialised
    /// on each. No call on [`Tables`](crate::Tables) of this pool is under way.
    pub unsafe fn protect(&self) -> Result<(), Error> {
        if !self.linear_mapped.load(Ordering::Acquire) {
            return Err(Error::LinearMapMissing);
        }
        if !self.backend.is_in::<Default>() {
            return Err(Error::CpuOpen);
        }
        if self.backend.scheme() == Scheme::Alias {
            self.check_alias()?;
        }
        self.protected.store(true, Ordering::Release);
        Ok(())
    }

    fn check_alias(&self) -> Result<(), Error> {
        if !self.alias_mapped.load(Ordering::Acquire) {
            return Err(Error::AliasMissing);
        }
        #[cfg(target_arch = "aarch64")]
        self.ask_the_walker()?;
        Ok(())
    }

    /// What this CPU's own tables say of each page.
    #[cfg(target_arch = "aarch64")]
    fn ask_the_walker(&self) -> Result<(), Error> {
        use aarch64_paging::descriptor::VirtualAddress;
        for offset in (0..self.layout.bytes()).step_by(PAGE_SIZE) {
            let linear = VirtualAddress(self.views.linear.addr() + offset);
            let alias = VirtualAddress(self.views.alias.addr() + offset);
            if translates_for_stores(linear) {
                return Err(Error::StillWritable(linear));
            }
            if !translates_for_stores(alias) {
                return Err(Error::AliasNotActive(alias));
            }
        }
        Ok(())
    }

    /// The window of a call.
    ///
    /// # Safety
    ///
    /// No other guard lives on this CPU, but one that an exception interrupted; what runs in it is the wrapped crate's code.
    pub(crate) unsafe fn open(&self) -> Guard<'_, B, PageTables> {
        // SAFETY: the caller's promise.
        unsafe { Guard::enter(&self.backend) }
    }

    /// Promises `pages` pages to the caller.
    pub(crate) fn reserve(&self, pages: usize) -> Result<(), Error> {
        let mut free = self.free.lock();
        let left = free.given_back + (self.layout.pages - free.fresh) - free.reserved;
        if pages > left {
            return Err(Error::OutOfTables { needed: pages, free: left });
        }
        free.reserved += pages;
        Ok(())
    }

    /// Takes back what of a promise was not used.
    pub(crate) fn unreserve(&self, pages: usize) {
        self.free.lock().reserved -= pages;
    }

    /// A page that was promised, zeroed. Inside a window.
    pub(crate) fn take(&self) -> usize {
        let mut free = self.free.lock();
        assert!(free.reserved > 0, "every call reserves what it may need");
        free.reserved -= 1;
        let page = match free.first.checked_sub(1) {
            Some(first) => {
                free.first = self.next_of(first);
                free.given_back -= 1;
                first
            }
            None => {
                free.fresh += 1;
                free.fresh - 1
            }
        };
        drop(free);
        // SAFETY: a whole page of table memory (`Pool::new`), in no list and no table, so ours alone; the window is open.
        unsafe { self.stored(page).write_bytes(0, PAGE_SIZE) };
        page
    }

    /// Puts back a page that no table and no TLB refers to. Inside a window.
    pub(crate) fn give(&self, page: usize) {
        let mut free = self.free.lock();
        // SAFETY: as for `take`: the page is free now, and its first word is aligned; the window is open.
        unsafe { self.stored(page).cast::<usize>().write(free.first) };
        free.first = page + 1;
        free.given_back += 1;
    }

    fn next_of(&self, page: usize) -> usize {
        let first = self.within(self.views.linear, self.layout.address(page));
        // SAFETY: a free page's first word, written by `give` under the lock that the caller holds.
        let next = unsafe { first.cast::<usize>().read() };
        assert!(next <= self.layout.pages, "the list of free pages leads out of the table memory");
        next
    }

    /// Where a page is stored to, now.
    pub(crate) fn stored(&self, page: usize) -> NonNull<u8> {
        self.stored_at(self.layout.address(page))
    }

    /// Where table memory is stored to, now.
    #[inline(always)]
    pub(crate) fn stored_at(&self, pa: PhysicalAddress) -> NonNull<u8> {
        let aliased = self.backend.scheme() == Scheme::Alias && self.is_protected();
        self.within(if aliased { self.views.alias } else { self.views.linear }, pa)
    }

    /// Where any memory of the linear map is loaded from.
    pub(crate) fn loaded_at(&self, pa: PhysicalAddress) -> *mut u8 {
        self.views.linear.wrapping_add(pa.0.wrapping_sub(self.layout.start.0))
    }

    /// The page that is stored to here.
    pub(crate) fn page_stored_at(&self, address: *mut u8) -> usize {
        let first = self.stored(0).addr().get();
        let page = address.addr().wrapping_sub(first) / PAGE_SIZE;
        assert!(page < self.layout.pages, "a table that is none of this pool was given back");
        page
    }

    #[inline(always)]
    fn within(&self, view: *mut u8, pa: PhysicalAddress) -> NonNull<u8> {
        let offset = pa.0.wrapping_sub(self.layout.start.0);
        assert!(offset < self.layout.bytes(), "every table is in the table memory");
        // SAFETY: the view covers all pages (`Pool::new`), so the address is inside it, and it is not at zero.
        unsafe { NonNull::new_unchecked(view.wrapping_add(offset)) }
    }
}

/// Whether EL1 may store here, PAN aside.
#[cfg(target_arch = "aarch64")]
fn translates_for_stores(va: aarch64_paging::descriptor::VirtualAddress) -> bool {
    let par: u64;
    // SAFETY: AT writes PAR_EL1 alone, which nobody keeps across exceptions; the barrier makes it readable.
    unsafe {
        core::arch::asm!(
            "at s1e1w, {va}", "isb", "mrs {par}, par_el1",
            va = in(reg) va.0, par = out(reg) par, options(nostack, preserves_flags)
        );
    }
    par & 1 == 0
}
