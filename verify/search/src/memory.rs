//! The machine's memory as a file, by physical address.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};

/// Bytes of a page, and of a table.
pub const PAGE: u64 = 4096;
/// Words in a page.
pub const WORDS: usize = 512;

/// All RAM there is.
pub struct Memory {
    file: File,
    start: u64,
    len: u64,
}

impl Memory {
    /// The file, the address of its first byte, and its size.
    pub fn new(file: File, start: u64, mib: u32) -> Memory {
        Memory { file, start, len: u64::from(mib) << 20 }
    }

    /// The addresses there are.
    pub fn range(&self) -> std::ops::Range<u64> {
        self.start..self.start + self.len
    }

    /// Bytes from an address on.
    pub fn read(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        let offset = at.checked_sub(self.start);
        let offset = offset.with_context(|| format!("{at:#x} is no RAM"))?;
        self.file.read_exact_at(bytes, offset).with_context(|| format!("cannot read {at:#x}"))
    }

    /// Changes bytes from an address on.
    pub fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let offset = at.checked_sub(self.start).filter(|offset| offset + 8 <= self.len);
        let offset = offset.with_context(|| format!("{at:#x} is no RAM"))?;
        self.file.write_all_at(bytes, offset).with_context(|| format!("cannot write {at:#x}"))
    }

    /// A word.
    pub fn word(&self, at: u64) -> Result<u64> {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// The words of a page; none for what is no RAM.
    pub fn page(&self, at: u64) -> Option<[u64; WORDS]> {
        let mut bytes = [0; PAGE as usize];
        self.read(at & !(PAGE - 1), &mut bytes).ok()?;
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().ok()?);
        }
        Some(words)
    }
}
