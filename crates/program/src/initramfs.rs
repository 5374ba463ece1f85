//! Initramfs archives: cpio in the "newc" format (Linux, `Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! A file is a header of 110 ASCII bytes, its name and its contents, name and contents each padded to four bytes; a file named
//! `TRAILER!!!` ends an archive. Archives follow one another, with zeroes between.

use alloc::format;
use alloc::vec::Vec;
use core::fmt;

const HEADER_LEN: usize = 110;
const MAGIC: &[u8] = b"070701";
/// The same with checksums, which nobody has filled in for decades.
const MAGIC_CHECKED: &[u8] = b"070702";
const TRAILER: &str = "TRAILER!!!";
const ALIGN: usize = 4;
/// The longest name taken, as Linux's `PATH_MAX`.
const MAX_NAME: usize = 4096;

/// A file of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its path, without leading `/` or `./`; empty for the root.
    pub path: &'a str,
    /// Type and permissions, as `st_mode` has them.
    pub mode: u32,
    /// Its number in the archive. Files with more than one link share it.
    pub number: u32,
    /// How many names it has.
    pub links: u32,
    /// Its owner.
    pub user: u32,
    /// Its group.
    pub group: u32,
    /// When it was changed, in seconds since 1970.
    pub modified_s: u32,
    /// Contents, or the target of a symbolic link.
    pub data: &'a [u8],
}

/// What is wrong with an archive, and at which byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    /// Where the header of the file begins.
    pub at: usize,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What can be wrong with a file of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// It does not begin as a header does. Compressed archives do not either.
    NoHeader,
    /// The archive ends before its header, name or contents do, or without a trailer.
    CutShort,
    /// A field of the header is no number in hexadecimal.
    NotANumber(&'static str),
    /// The name is empty, too long, not terminated, or not UTF-8.
    BadName,
    /// The name leads out of the archive.
    Climbs,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "initramfs, byte {}: ", self.at)?;
        match self.problem {
            Problem::NoHeader => {
                f.write_str("no cpio header in the newc format (compressed archives are not taken)")
            }
            Problem::CutShort => f.write_str("the archive is cut short"),
            Problem::NotANumber(field) => {
                write!(f, "the field `{field}` is no hexadecimal number")
            }
            Problem::BadName => {
                f.write_str("the name is empty, too long, not terminated, or no UTF-8")
            }
            Problem::Climbs => f.write_str("the name has a component `..`"),
        }
    }
}

impl core::error::Error for Error {}

/// The files of an archive, in its order. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    archive: &'a [u8],
    at: usize,
    /// Whether files may follow without a trailer: not at all once one is read.
    inside: bool,
    failed: bool,
}

/// Reads an archive.
pub fn entries(archive: &[u8]) -> Entries<'_> {
    Entries { archive, at: 0, inside: true, failed: false }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.read().transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}

impl<'a> Entries<'a> {
    fn read(&mut self) -> Result<Option<Entry<'a>>, Error> {
        loop {
            if !self.inside && !self.skip_zeroes() {
                return Ok(None);
            }
            self.inside = true;
            let entry = self.read_one()?;
            if entry.path != TRAILER {
                return Ok(Some(entry));
            }
            self.inside = false;
        }
    }

    /// Whether something follows the zeroes behind a trailer.
    fn skip_zeroes(&mut self) -> bool {
        let rest = self.archive.get(self.at..).unwrap_or_default();
        let zeroes = rest.iter().take_while(|&&byte| byte == 0).count();
        self.at += zeroes;
        zeroes < rest.len()
    }

    fn read_one(&mut self) -> Result<Entry<'a>, Error> {
        let start = self.at;
        let failed = |problem| Error { at: start, problem };
        let header = self.take(HEADER_LEN).ok_or(failed(Problem::CutShort))?;
        if ![MAGIC, MAGIC_CHECKED].contains(&&header[..MAGIC.len()]) {
            return Err(failed(Problem::NoHeader));
        }
        let field = |place: usize, name| {
            number(&header[MAGIC.len() + 8 * place..][..8]).ok_or(failed(Problem::NotANumber(name)))
        };
        let (data_len, name_len) = (field(6, "filesize")?, field(11, "namesize")? as usize);
        if name_len == 0 || name_len > MAX_NAME {
            return Err(failed(Problem::BadName));
        }
        let name = self.take_padded(start, name_len).ok_or(failed(Problem::CutShort))?;
        let data = self.take_padded(start, data_len as usize).ok_or(failed(Problem::CutShort))?;
        let name = name.strip_suffix(&[0]).filter(|name| !name.is_empty() && !name.contains(&0));
        let name = name.and_then(|name| core::str::from_utf8(name).ok());
        let path = cleaned(name.ok_or(failed(Problem::BadName))?);
        if path.split('/').any(|part| part == "..") {
            return Err(failed(Problem::Climbs));
        }
        Ok(Entry {
            path,
            number: field(0, "ino")?,
            mode: field(1, "mode")?,
            user: field(2, "uid")?,
            group: field(3, "gid")?,
            links: field(4, "nlink")?,
            modified_s: field(5, "mtime")?,
            data,
        })
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(len)?;
        let taken = self.archive.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    /// Takes bytes and the padding behind them, counted from the file's header. The very last padding may be missing.
    fn take_padded(&mut self, start: usize, len: usize) -> Option<&'a [u8]> {
        let taken = self.take(len)?;
        self.at += (self.at - start).next_multiple_of(ALIGN) - (self.at - start);
        self.at = self.at.min(self.archive.len());
        Some(taken)
    }
}

/// Eight hexadecimal digits.
fn number(digits: &[u8]) -> Option<u32> {
    digits
        .iter()
        .try_fold(0, |value: u32, &digit| Some(16 * value + char::from(digit).to_digit(16)?))
}

/// The path without what stands for the root before it.
fn cleaned(name: &str) -> &str {
    let mut rest = name;
    loop {
        let shorter = rest.strip_prefix("./").unwrap_or(rest).trim_start_matches('/');
        if shorter == rest {
            return if rest == "." { "" } else { rest };
        }
        rest = shorter;
    }
}

/// An archive that is being written.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
    files: u32,
}

impl Writer {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory.
    pub fn directory(&mut self, path: &str) {
        self.add(path, 0o040_755, &[]);
    }

    /// Adds a file that may be run.
    pub fn program(&mut self, path: &str, contents: &[u8]) {
        self.add(path, 0o100_755, contents);
    }

    /// Adds a file with these permissions, changed at this time.
    pub fn file(&mut self, path: &str, permissions: u32, modified_s: u32, contents: &[u8]) {
        self.add_of(path, 0o100_000 | permissions & 0o7777, modified_s, contents);
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.add(path, 0o120_777, target.as_bytes());
    }

    /// The archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.add(TRAILER, 0, &[]);
        self.bytes
    }

    fn add(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.add_of(name, mode, 0, data);
    }

    fn add_of(&mut self, name: &str, mode: u32, modified_s: u32, data: &[u8]) {
        self.files += 1;
        let (name_len, data_len) = (name.len() as u32 + 1, data.len() as u32);
        let fields = [self.files, mode, 0, 0, 1, modified_s, data_len, 0, 0, 0, 0, name_len, 0];
        self.bytes.extend(MAGIC);
        self.bytes.extend(fields.iter().flat_map(|field| format!("{field:08x}").into_bytes()));
        self.bytes.extend(name.bytes().chain([0]));
        self.pad();
        self.bytes.extend(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let mut writer = Writer::new();
        writer.directory("bin");
        writer.program("bin/a", b"odd");
        writer.link("bin/b", "a");
        let archive = writer.finish();
        let read: Result<Vec<_>, _> = entries(&archive).collect();
        let read: Vec<_> =
            read.unwrap().iter().map(|it| (it.number, it.path, it.mode, it.data)).collect();
        // Files of one number would be links to one another.
        let expected: [(u32, &str, u32, &[u8]); 3] = [
            (1, "bin", 0o040_755, b""),
            (2, "bin/a", 0o100_755, b"odd"),
            (3, "bin/b", 0o120_777, b"a"),
        ];
        assert_eq!(read, expected);
    }
}
