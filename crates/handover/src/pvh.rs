//! A kernel for x86-64: which pieces of its ELF file go where in physical memory, and where it is entered.
//!
//! The entry is that of the PVH protocol (Xen's "x86/HVM direct boot ABI"): the descriptor of an ELF note of type 18, name "Xen". It is
//! 32-bit code, so everything lies below 4 GiB.

use crate::ranges::Addresses;
use alloc::vec::Vec;
use core::fmt;
use elf::endian::LittleEndian;
use elf::note::Note;
use elf::segment::ProgramHeader;
use elf::{ElfBytes, abi};

const ENTRY_NOTE: u64 = 18;
const LIMIT: u64 = 1 << 32;

/// What is wrong with the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It is no complete little-endian 64-bit ELF file for x86-64.
    NotElf,
    /// It has no note that says where it is entered.
    NoEntry,
    /// Nothing in it is to be loaded.
    NoSegments,
    /// This program header does not fit into the file, or below 4 GiB; or it overlaps another.
    BadSegment(usize),
    /// It is entered outside of what is loaded.
    BadEntry(u64),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf => f.write_str("it is no whole ELF file for x86-64"),
            Self::NoEntry => f.write_str("it has no PVH entry (an ELF note of type 18, \"Xen\")"),
            Self::NoSegments => f.write_str("it has nothing to load"),
            Self::BadSegment(number) => write!(
                f,
                "program header {number} does not fit: into the file, below 4 GiB, or beside the others"
            ),
            Self::BadEntry(at) => write!(f, "its entry {at:#x} is in none of its code"),
        }
    }
}

impl core::error::Error for Error {}

/// A piece of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Its physical address.
    pub address: u32,
    /// What the file has of it.
    pub bytes: &'a [u8],
    /// Bytes in memory, at least as many; the rest are zeroes.
    pub in_memory: u32,
}

/// A kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel<'a> {
    /// What is loaded, by rising address, without overlaps. Never empty.
    pub segments: Vec<Segment<'a>>,
    /// Where it is entered.
    pub entry: u32,
}

impl<'a> Kernel<'a> {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// [`Error`], whichever comes first.
    pub fn parse(file: &'a [u8]) -> Result<Self, Error> {
        let elf = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(|_| Error::NotElf)?;
        let headers = elf.segments().ok_or(Error::NotElf)?;
        if elf.ehdr.e_machine != abi::EM_X86_64 {
            return Err(Error::NotElf);
        }
        let mut segments = Vec::new();
        for (number, header) in headers.iter().enumerate() {
            if header.p_type == abi::PT_LOAD && header.p_memsz > 0 {
                segments.push(segment(file, &header).ok_or(Error::BadSegment(number))?);
            }
        }
        segments.sort_unstable_by_key(|segment| segment.address);
        let overlap =
            segments.windows(2).position(|two| two[0].addresses().end > two[1].addresses().start);
        if let Some(number) = overlap {
            return Err(Error::BadSegment(number));
        }
        let entry = headers.iter().find_map(|header| entry(&elf, &header)).ok_or(Error::NoEntry)?;
        if segments.is_empty() {
            return Err(Error::NoSegments);
        }
        let code = |segment: &Segment<'_>| {
            let start = u64::from(segment.address);
            (start..start + segment.bytes.len() as u64).contains(&entry)
        };
        match u32::try_from(entry) {
            Ok(entry) if segments.iter().any(code) => Ok(Self { segments, entry }),
            _ => Err(Error::BadEntry(entry)),
        }
    }

    /// From the first byte of the first piece to the last of the last.
    pub fn extent(&self) -> Addresses {
        let start = self.segments.first().map_or(0, |first| u64::from(first.address));
        start..self.segments.last().map_or(start, |last| last.addresses().end)
    }
}

impl Segment<'_> {
    /// Where it lies in memory.
    pub fn addresses(&self) -> Addresses {
        let start = u64::from(self.address);
        start..start + u64::from(self.in_memory)
    }
}

fn segment<'a>(file: &'a [u8], header: &ProgramHeader) -> Option<Segment<'a>> {
    let end = header.p_offset.checked_add(header.p_filesz)?;
    let bytes = file.get(usize::try_from(header.p_offset).ok()?..usize::try_from(end).ok()?)?;
    let fits = header.p_filesz <= header.p_memsz
        && header.p_paddr.checked_add(header.p_memsz).is_some_and(|end| end < LIMIT);
    let (address, in_memory) = (header.p_paddr as u32, header.p_memsz as u32);
    fits.then_some(Segment { address, bytes, in_memory })
}

fn entry(elf: &ElfBytes<'_, LittleEndian>, header: &ProgramHeader) -> Option<u64> {
    if header.p_type != abi::PT_NOTE {
        return None;
    }
    elf.segment_data_as_notes(header).ok()?.find_map(|note| match note {
        Note::Unknown(note) if note.n_type == ENTRY_NOTE && is_xen(note.name) => number(note.desc),
        _ => None,
    })
}

/// With the NUL that ends it or without.
fn is_xen(name: &[u8]) -> bool {
    name.strip_suffix(b"\0").unwrap_or(name) == b"Xen"
}

/// Four bytes or eight: the protocol allows both.
fn number(bytes: &[u8]) -> Option<u64> {
    match *bytes {
        [a, b, c, d] => Some(u32::from_le_bytes([a, b, c, d]).into()),
        [a, b, c, d, e, f, g, h] => Some(u64::from_le_bytes([a, b, c, d, e, f, g, h])),
        _ => None,
    }
}
