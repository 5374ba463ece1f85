//! The kernel's way to a program's memory.
//!
//! An address that a program names is a [`UserAddress`], which nothing can follow but the copies here. Each looks whether the range lies in the
//! half that is the program's, has the memory manager make the page accessible as the program's own access would, asks the tables which
//! frame that is, and copies through the linear map, whose mapping of it is ordinary data. So no copy ever follows a program's address,
//! none needs SMAP or PAN out of the way, and none happens in a window: the memory manager's are closed before.

use super::{Inner, Memory};
use crate::arch::{Format as Tables, layout};
use crate::memory::boot::PAGE_SIZE;
use crate::program::errno::{Errno, Outcome};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};
use kpkeys_pgtable::{Format, Level, VirtAddr};

/// First address behind those of programs.
pub const USER_END: u64 = 1 << 47;

/// An address as a program gave it: any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserAddress(pub u64);

impl UserAddress {
    /// Whether it is the null pointer.
    pub fn is_null(self) -> bool {
        self.0 == 0
    }

    /// So many bytes further on.
    pub fn offset(self, bytes: u64) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// Whether so many bytes from it on lie in the program's half.
    pub fn holds(self, bytes: u64) -> bool {
        self.0.checked_add(bytes).is_some_and(|end| end <= USER_END)
    }
}

/// Longest text read: a path, or an argument of a program.
const MAX_TEXT: usize = 128 * 1024;

impl Memory {
    /// Copies from a program.
    ///
    /// # Errors
    ///
    /// [`Errno::EFAULT`].
    pub fn read(&self, from: UserAddress, to: &mut [u8]) -> Outcome<()> {
        let mut done = 0;
        self.inner.lock().each_piece(from, to.len(), false, |piece, len| {
            // SAFETY: the piece is `len` bytes of a frame that the locked address space maps, in the linear map; `to` has as many left.
            unsafe {
                core::ptr::copy_nonoverlapping(piece, to[done..done + len].as_mut_ptr(), len)
            };
            done += len;
        })
    }

    /// Copies to a program.
    ///
    /// # Errors
    ///
    /// [`Errno::EFAULT`].
    pub fn write(&self, to: UserAddress, from: &[u8]) -> Outcome<()> {
        let mut done = 0;
        self.inner.lock().each_piece(to, from.len(), true, |piece, len| {
            // SAFETY: the piece is `len` bytes of a frame that the locked address space maps writable: memory of programs, to which nothing in
            // the kernel holds a reference.
            unsafe { core::ptr::copy_nonoverlapping(from[done..done + len].as_ptr(), piece, len) };
            done += len;
        })
    }

    /// Reads a number.
    ///
    /// # Errors
    ///
    /// [`Errno::EFAULT`].
    pub fn read_u64(&self, from: UserAddress) -> Outcome<u64> {
        let mut bytes = [0; 8];
        self.read(from, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Reads a number.
    ///
    /// # Errors
    ///
    /// [`Errno::EFAULT`].
    pub fn read_u32(&self, from: UserAddress) -> Outcome<u32> {
        let mut bytes = [0; 4];
        self.read(from, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Reads bytes up to a zero.
    ///
    /// # Errors
    ///
    /// [`Errno::EFAULT`]; [`Errno::ENAMETOOLONG`] if there is none soon.
    pub fn read_text(&self, from: UserAddress) -> Outcome<Vec<u8>> {
        let mut text = Vec::new();
        let mut at = from;
        while text.len() < MAX_TEXT {
            let mut piece = [0; 64];
            // Not over the end of a page: what follows may not be mapped, and need not be.
            let left = (PAGE_SIZE - at.0 % PAGE_SIZE).min(piece.len() as u64) as usize;
            self.read(at, &mut piece[..left])?;
            let end = piece[..left].iter().position(|&byte| byte == 0);
            text.try_reserve(left).map_err(|_| Errno::ENOMEM)?;
            text.extend_from_slice(&piece[..end.unwrap_or(left)]);
            if end.is_some() {
                return Ok(text);
            }
            at = at.offset(left as u64);
        }
        Err(Errno::ENAMETOOLONG)
    }

    /// Reads a word that other threads of the program may change meanwhile, as one.
    ///
    /// # Errors
    ///
    /// [`Errno::EFAULT`]; [`Errno::EINVAL`] if it is not aligned.
    pub fn load_word(&self, at: UserAddress) -> Outcome<u32> {
        if !at.0.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        let mut value = 0;
        self.inner.lock().each_piece(at, 4, false, |word, _| {
            // SAFETY: the word is aligned, in a frame that the locked address space maps.
            value = unsafe { AtomicU32::from_ptr(word.cast()) }.load(Ordering::SeqCst);
        })?;
        Ok(value)
    }

    /// Changes such a word, if it is what is expected; else says what it is. Either may be no more so at once.
    ///
    /// # Errors
    ///
    /// As [`load_word`](Self::load_word).
    pub fn exchange_word(
        &self,
        at: UserAddress,
        expected: u32,
        new: u32,
    ) -> Outcome<Result<u32, u32>> {
        if !at.0.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        let mut result = Err(expected);
        self.inner.lock().each_piece(at, 4, true, |word, _| {
            // SAFETY: the word is aligned, in a frame that the locked address space maps writable.
            let word = unsafe { AtomicU32::from_ptr(word.cast()) };
            result = word.compare_exchange(expected, new, Ordering::SeqCst, Ordering::SeqCst);
        })?;
        Ok(result)
    }
}

impl Inner {
    /// Calls `f` with the pieces of a range, each within a page, where the linear map has them.
    fn each_piece(
        &mut self,
        start: UserAddress,
        len: usize,
        write: bool,
        mut f: impl FnMut(*mut u8, usize),
    ) -> Outcome<()> {
        if !start.holds(len as u64) {
            return Err(Errno::EFAULT);
        }
        let mut at = start.0;
        let end = start.0 + len as u64;
        while at < end {
            let piece = (PAGE_SIZE - at % PAGE_SIZE).min(end - at);
            f(self.reach(at, write)?, piece as usize);
            at += piece;
        }
        Ok(())
    }

    /// Where the linear map has a byte of the program's, which may be read, or written.
    fn reach(&mut self, at: u64, write: bool) -> Outcome<*mut u8> {
        let va = VirtAddr(at);
        self.fault(va, write).map_err(|_| Errno::EFAULT)?;
        let paging = self.space.kernel().paging();
        let found = paging.walk(self.space.root(), va).ok_or(Errno::EFAULT)?;
        let (Level::Pte, _, entry) = found else { return Err(Errno::EFAULT) };
        let attrs = Tables::attrs(entry);
        if !attrs.user || write && !attrs.write {
            return Err(Errno::EFAULT);
        }
        let page = layout::linear(Tables::frame(Level::Pte, entry));
        Ok(page.wrapping_add((at % PAGE_SIZE) as usize))
    }
}
