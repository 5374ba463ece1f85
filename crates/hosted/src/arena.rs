//! The arena: a range of this process's memory that plays physical memory.
//!
//! Frames cost nothing until they are written. In the guarded arena the same memory is mapped twice: page tables are reached
//! through one view, which is made read-only outside windows, data through the other, which stays writable.

use std::io;
use std::ptr::NonNull;

use kpkeys_pgtable::PAGE_SIZE;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};

/// Memory that plays physical memory.
#[derive(Debug)]
pub struct Arena {
    tables: NonNull<u8>,
    data: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the arena is memory at fixed addresses, owned until it is dropped; what threads may do with its contents at once is
// governed by whoever hands out frames.
unsafe impl Send for Arena {}
// SAFETY: as for `Send`: shared references give out addresses and nothing else.
unsafe impl Sync for Arena {}

const READ_WRITE: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

impl Arena {
    /// An arena of `pages` pages of zeroes.
    ///
    /// # Errors
    ///
    /// What the kernel says if it has no such range of addresses.
    pub fn new(pages: usize) -> io::Result<Arena> {
        let bytes = pages * PAGE_SIZE as usize;
        // SAFETY: a new private mapping at an address the kernel chooses touches no memory of ours.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                bytes,
                READ_WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let base = non_null(base)?;
        Ok(Arena { tables: base, data: base, bytes })
    }

    /// An arena whose tables and data have a view each; the tables' starts read-only.
    ///
    /// # Errors
    ///
    /// What the kernel says if it refuses the memory or the addresses.
    pub fn guarded(pages: usize) -> io::Result<Arena> {
        let bytes = pages * PAGE_SIZE as usize;
        let memory = rustix::fs::memfd_create("kpkeys-arena", rustix::fs::MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&memory, bytes as u64)?;
        let view = |protection| {
            // SAFETY: a new shared mapping at an address the kernel chooses touches no memory of ours.
            unsafe {
                rustix::mm::mmap(
                    std::ptr::null_mut(),
                    bytes,
                    protection,
                    MapFlags::SHARED,
                    &memory,
                    0,
                )
            }
        };
        Ok(Arena {
            tables: non_null(view(ProtFlags::READ)?)?,
            data: non_null(view(READ_WRITE)?)?,
            bytes,
        })
    }

    /// Address of the view that page tables are reached through.
    pub fn tables(&self) -> NonNull<u8> {
        self.tables
    }

    /// Address of the view that data is reached through: the same, unless the arena is guarded.
    pub fn data(&self) -> NonNull<u8> {
        self.data
    }

    /// Size in pages.
    pub fn pages(&self) -> usize {
        self.bytes / PAGE_SIZE as usize
    }

    /// Lets this process write the tables' view, or not.
    ///
    /// # Panics
    ///
    /// If the kernel refuses: going on would make every result worthless.
    pub(crate) fn set_tables_writable(&self, writable: bool) {
        let protection =
            if writable { MprotectFlags::READ | MprotectFlags::WRITE } else { MprotectFlags::READ };
        // SAFETY: the range is this arena's own mapping; no reference of Rust's claims to write it while it is read-only, since all
        // access is by atomics whose stores stand behind windows.
        let changed =
            unsafe { rustix::mm::mprotect(self.tables.as_ptr().cast(), self.bytes, protection) };
        changed.expect("a process may change the protection of its own mapping");
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: both ranges were mapped by this arena, and nothing refers to it any more: machines own their arena.
        unsafe {
            let _ = rustix::mm::munmap(self.tables.as_ptr().cast(), self.bytes);
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
