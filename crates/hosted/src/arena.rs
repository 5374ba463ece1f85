//! The arena: a range of this process's memory that plays physical memory.
//!
//! Frames cost nothing until they are written. In a guarded arena the same memory is mapped more than once, and data is reached
//! through a view that stays writable. What it guards by depends on how page tables are protected:
//!
//! | | by key | by alias |
//! |---|---|---|
//! | page tables are loaded through | a view that is read-only outside windows | a view that is read-only, once [sealed](Arena::seal) |
//! | and stored through | the same | a view that is out of reach outside windows |
//!
//! A view is closed by its protection, which is the whole process's and takes a system call; or, where the host has keys for user pages, by a key that
//! all of it has, which is each thread's and takes an instruction.

use std::io;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
use std::ops::Range;
use std::ptr::NonNull;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
use kpkeys::context::PageTables;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
use kpkeys::pku::Pku;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
use kpkeys::{Backend, Pkey};
use kpkeys_pgtable::PhysAddr;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
use rustix::mm::Advice;
use rustix::mm::{MprotectFlags, ProtFlags};

use crate::shared;

/// Bytes of a page that an arena's size is counted in, whatever pages the tables in it have. All views of one begin at multiples of 64 KiB.
pub const HOST_PAGE: usize = 4096;

/// Memory that plays physical memory.
#[derive(Debug)]
pub struct Arena {
    tables: NonNull<u8>,
    /// What tables are stored through, if that is another view.
    alias: Option<NonNull<u8>>,
    data: NonNull<u8>,
    bytes: usize,
    guard: Guard,
}

/// What closes the view that tables are stored through, if something does.
#[derive(Clone, Copy, Debug)]
enum Guard {
    /// Its protection.
    Protection,
    /// The key of page tables, which each of its pages has.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    Key(Pku),
}

// SAFETY: the arena is memory at fixed addresses, owned until it is dropped; what threads may do with its contents at once is
// governed by whoever hands out frames.
unsafe impl Send for Arena {}
// SAFETY: as for `Send`: shared references give out addresses and nothing else.
unsafe impl Sync for Arena {}

/// Where an arena's views have physical address zero, which need not be theirs, for a machine that owns the arena: one addition from a frame to its
/// table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Views {
    /// See [`Arena::tables`].
    pub(crate) tables: *mut u8,
    /// See [`Arena::data`].
    pub(crate) data: *mut u8,
}

// SAFETY: addresses alone; as for the arena.
unsafe impl Send for Views {}
// SAFETY: as for `Send`.
unsafe impl Sync for Views {}

const READ_WRITE: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

impl Arena {
    /// An arena of `pages` pages of 4 KiB, of zeroes.
    ///
    /// # Errors
    ///
    /// What the kernel says if it has no such range of addresses.
    pub fn new(pages: usize) -> io::Result<Arena> {
        let bytes = pages * HOST_PAGE;
        let base = non_null(shared::private(bytes, READ_WRITE)?)?;
        Ok(Arena { tables: base, alias: None, data: base, bytes, guard: Guard::Protection })
    }

    /// An arena whose pages can be given keys of the host's, one by one: the host maps it by pages of this size whatever keys they have, so that
    /// what differs with the keys is the keys alone.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    pub fn keyed(pages: usize) -> io::Result<Arena> {
        let arena = Self::new(pages)?;
        let base = arena.tables.as_ptr().cast();
        // SAFETY: the range is this arena's own mapping; the advice changes only how it is backed. A kernel without huge pages refuses it,
        // and does not need it.
        let _ = unsafe { rustix::mm::madvise(base, arena.bytes, Advice::LinuxNoHugepage) };
        Ok(arena)
    }

    /// An arena whose tables and data have a view each; the tables' starts read-only.
    ///
    /// # Errors
    ///
    /// What the kernel says if it refuses the memory or the addresses.
    pub fn guarded(pages: usize) -> io::Result<Arena> {
        Self::of_views(pages, None, ProtFlags::READ, false)
    }

    /// [`guarded`](Self::guarded), by the best the host has: where it has keys for user pages the tables' view is closed for each thread by itself.
    ///
    /// # Errors
    ///
    /// As for [`guarded`](Self::guarded).
    pub fn well_guarded(pages: usize) -> io::Result<Arena> {
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        if let Ok(keys) = crate::pku::ready() {
            let mut arena = Self::of_views(pages, None, READ_WRITE, false)?;
            arena.set_key(0..pages, Pkey::PAGE_TABLES);
            arena.guard = Guard::Key(keys);
            return Ok(arena);
        }
        Self::guarded(pages)
    }

    /// The same with the tables' view where the caller says: for code that takes a physical address for a pointer.
    ///
    /// # Errors
    ///
    /// As for [`guarded`](Self::guarded), and if something is mapped there.
    pub fn guarded_at(address: PhysAddr, pages: usize) -> io::Result<Arena> {
        Self::of_views(pages, Some(address), ProtFlags::READ, false)
    }

    /// An arena whose tables have a view for loads, a view for stores, and whose data has a third. The one for loads can be
    /// written until it is [sealed](Self::seal), since page tables are made before they have an alias; the one for stores starts out
    /// of reach.
    ///
    /// # Errors
    ///
    /// What the kernel says if it refuses the memory or the addresses.
    pub fn aliased(pages: usize) -> io::Result<Arena> {
        Self::of_views(pages, None, READ_WRITE, true)
    }

    fn of_views(
        pages: usize,
        at: Option<PhysAddr>,
        tables: ProtFlags,
        alias: bool,
    ) -> io::Result<Arena> {
        let bytes = pages * HOST_PAGE;
        let memory = shared::memory(bytes)?;
        let view = |protection| shared::map(&memory, bytes, protection);
        let tables = match at {
            Some(at) => shared::map_at(at.0 as usize, &memory, bytes, tables),
            None => view(tables),
        };
        Ok(Arena {
            tables: non_null(tables?)?,
            alias: alias.then(|| non_null(view(ProtFlags::empty())?)).transpose()?,
            data: non_null(view(READ_WRITE)?)?,
            bytes,
            guard: Guard::Protection,
        })
    }

    /// The views, if memory starts at `start`.
    pub(crate) fn views(&self, start: PhysAddr) -> Views {
        let zero = |view: NonNull<u8>| view.as_ptr().wrapping_sub(start.0 as usize);
        Views { tables: zero(self.tables), data: zero(self.data) }
    }

    /// Address of the view that page tables are reached through; for loads alone, if the arena has an alias.
    pub fn tables(&self) -> NonNull<u8> {
        self.tables
    }

    /// Address of the view that page tables are stored through.
    pub fn alias(&self) -> NonNull<u8> {
        self.alias.unwrap_or(self.tables)
    }

    /// Address of the view that data is reached through: the same, unless the arena is guarded.
    pub fn data(&self) -> NonNull<u8> {
        self.data
    }

    /// Size in pages of 4 KiB.
    pub fn pages(&self) -> usize {
        self.bytes / HOST_PAGE
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lets this process, or the calling thread if the guard is a key, store to page tables, or not: opens or closes the view for it.
    pub(crate) fn set_tables_writable(&self, writable: bool) {
        match self.guard {
            Guard::Protection => self.set_tables_protection(writable),
            // SAFETY: a register that stands for a protection register is being opened, by whoever keeps its contract.
            #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
            Guard::Key(keys) if writable => unsafe { keys.enter::<PageTables>() },
            #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
            Guard::Key(keys) => keys.reset(),
        }
    }

    /// Ends the guard: anything may store to page tables from now on.
    pub(crate) fn unguard(&self) {
        match self.guard {
            Guard::Protection => self.set_tables_protection(true),
            #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
            Guard::Key(_) => self.set_key(0..self.pages(), Pkey::DEFAULT),
        }
    }

    fn set_tables_protection(&self, writable: bool) {
        const READ_WRITE: MprotectFlags = MprotectFlags::READ.union(MprotectFlags::WRITE);
        match (self.alias, writable) {
            (Some(alias), true) => self.set_protection(alias, READ_WRITE),
            (Some(alias), false) => self.set_protection(alias, MprotectFlags::empty()),
            (None, true) => self.set_protection(self.tables, READ_WRITE),
            (None, false) => self.set_protection(self.tables, MprotectFlags::READ),
        }
    }

    /// Gives pages a key of the host's.
    ///
    /// # Panics
    ///
    /// If the kernel refuses: going on would make every result worthless.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    pub(crate) fn set_key(&self, pages: Range<usize>, key: Pkey) {
        assert!(pages.end <= self.pages(), "{pages:?} are not all in the arena");
        // SAFETY: the pages are this arena's own mapping; no reference of Rust's claims that they can be accessed, as for protection.
        let set = unsafe { crate::pku::set_key(self.tables, pages.clone(), key) };
        set.unwrap_or_else(|error| {
            panic!("Linux does not give {} pages key {}: {error}", pages.len(), key.number())
        });
    }

    /// Makes the view that page tables are loaded through read-only, for ever. They are all stored through the alias by now.
    pub fn seal(&self) {
        self.set_protection(self.tables, MprotectFlags::READ);
    }

    /// # Panics
    ///
    /// If the kernel refuses: going on would make every result worthless.
    fn set_protection(&self, view: NonNull<u8>, protection: MprotectFlags) {
        // SAFETY: the range is this arena's own mapping; no reference of Rust's claims that it can be accessed while it cannot, since
        // all access is by atomics, whose stores stand behind windows, and whose loads are through a view that is always readable.
        let changed = unsafe { rustix::mm::mprotect(view.as_ptr().cast(), self.bytes, protection) };
        changed.expect("a process may change the protection of its own mapping");
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the ranges were mapped by this arena, and nothing refers to it any more: machines own their arena.
        unsafe {
            let _ = rustix::mm::munmap(self.tables.as_ptr().cast(), self.bytes);
            if let Some(alias) = self.alias {
                let _ = rustix::mm::munmap(alias.as_ptr().cast(), self.bytes);
            }
            if self.data != self.tables {
                let _ = rustix::mm::munmap(self.data.as_ptr().cast(), self.bytes);
            }
        }
    }
}

fn non_null(address: *mut std::ffi::c_void) -> io::Result<NonNull<u8>> {
    NonNull::new(address.cast())
        .ok_or_else(|| io::Error::other("the kernel mapped memory at address zero"))
}
