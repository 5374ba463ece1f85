//! The bytes of a file: where the initramfs has them until the file is written, then pages.

use crate::program::errno::{Errno, Outcome};
use crate::program::memory::Pages;
use alloc::borrow::Cow;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// The bytes of a file.
pub struct Data {
    bytes: Bytes,
    /// All of them as pages, once somebody has mapped or written them.
    pages: Option<Arc<Pages>>,
}

enum Bytes {
    /// In the archive, and the pages hold the same.
    Archive(&'static [u8]),
    /// In the pages, so many.
    Own(u64),
}

impl Data {
    /// No bytes yet.
    pub fn empty() -> Self {
        Self { bytes: Bytes::Own(0), pages: None }
    }

    /// Bytes of the initramfs.
    pub fn archive(bytes: &'static [u8]) -> Self {
        Self { bytes: Bytes::Archive(bytes), pages: None }
    }

    /// How many.
    pub fn len(&self) -> u64 {
        match self.bytes {
            Bytes::Archive(bytes) => bytes.len() as u64,
            Bytes::Own(len) => len,
        }
    }

    /// Copies from an offset; how much there was.
    pub fn read(&self, offset: u64, to: &mut [u8]) -> usize {
        let len = self.len().saturating_sub(offset).min(to.len() as u64) as usize;
        let to = &mut to[..len];
        match (&self.bytes, &self.pages) {
            (Bytes::Archive(bytes), _) if len > 0 => {
                to.copy_from_slice(&bytes[offset as usize..][..len]);
            }
            (_, Some(pages)) => pages.read(offset, to),
            (_, None) => to.fill(0),
        }
        len
    }

    /// The first bytes: all that are in one piece, and `most` at least if there are so many.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOMEM`].
    pub fn beginning(&self, most: usize) -> Outcome<Cow<'static, [u8]>> {
        if let Bytes::Archive(bytes) = self.bytes {
            return Ok(bytes.into());
        }
        let len = self.len().min(most as u64) as usize;
        let mut beginning = Vec::new();
        beginning.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
        beginning.resize(len, 0);
        self.read(0, &mut beginning);
        Ok(beginning.into())
    }

    /// As pages, with zeroes behind the end. Those who map them see later writes.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOMEM`].
    pub fn pages(&mut self) -> Outcome<Arc<Pages>> {
        if let Some(pages) = &self.pages {
            return Ok(pages.clone());
        }
        let pages = Arc::new(match self.bytes {
            Bytes::Archive(bytes) => Pages::holding(bytes)?,
            Bytes::Own(len) => Pages::zeroes(len)?,
        });
        self.pages = Some(pages.clone());
        Ok(pages)
    }

    /// As pages that may be written, by whoever maps them.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOMEM`].
    pub fn own_pages(&mut self) -> Outcome<Arc<Pages>> {
        let pages = self.pages()?;
        self.bytes = Bytes::Own(self.len());
        Ok(pages)
    }

    /// Writes at an offset.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOSPC`], [`Errno::EFBIG`].
    pub fn write(&mut self, offset: u64, from: &[u8]) -> Outcome<()> {
        let end = offset.checked_add(from.len() as u64).ok_or(Errno::EFBIG)?;
        let old = self.len();
        if end > old {
            self.resize(end)?;
        }
        let written = self.own_pages().map_err(no_space)?.write(offset, from);
        if written.is_err() && end > old {
            // What makes it shorter needs no memory.
            let _ = self.resize(old);
        }
        written
    }

    /// Makes it so long.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOSPC`].
    pub fn resize(&mut self, len: u64) -> Outcome<()> {
        let old = self.len();
        if len == old {
            return Ok(());
        }
        if len == 0 && self.is_private() {
            *self = Self::empty();
        } else if len > old {
            self.own_pages().map_err(no_space)?.extend(len)?;
        } else {
            self.own_pages().map_err(no_space)?;
            self.shorten(len);
        }
        self.bytes = Bytes::Own(len);
        Ok(())
    }

    fn shorten(&mut self, len: u64) {
        let old = self.len();
        let Some(pages) = &mut self.pages else { return };
        match Arc::get_mut(pages) {
            Some(pages) => pages.shorten(len),
            None => pages.shorten_shared(len, old),
        }
    }

    /// Whether nobody has it mapped.
    fn is_private(&self) -> bool {
        self.pages.as_ref().is_none_or(|pages| Arc::strong_count(pages) == 1)
    }
}

fn no_space(_: Errno) -> Errno {
    Errno::ENOSPC
}
