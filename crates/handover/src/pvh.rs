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
    /// This program header does not fit into the file, or below 4 GiB; or it begins in the memory of another.
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
        let mut numbered = Vec::new();
        for (number, header) in headers.iter().enumerate() {
            if header.p_type == abi::PT_LOAD && header.p_memsz > 0 {
                let segment = segment(file, &header).ok_or(Error::BadSegment(number))?;
                numbered.push((number, segment));
            }
        }
        numbered.sort_unstable_by_key(|(_, segment)| segment.address);
        for two in numbered.windows(2) {
            if two[0].1.addresses().end > two[1].1.addresses().start {
                return Err(Error::BadSegment(two[1].0));
            }
        }
        let segments: Vec<_> = numbered.into_iter().map(|(_, segment)| segment).collect();
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

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    const NOTE: &[u8] = b"\x04\0\0\0\x08\0\0\0\x12\0\0\0Xen\0\0\0\x20\0\0\0\0\0";

    /// A note with a name of four bytes, and a number of any length.
    fn note(name: &[u8; 4], kind: u32, number: &[u8]) -> Vec<u8> {
        let words = [4, number.len() as u32, kind].map(u32::to_le_bytes).concat();
        [&words, &name[..], number].concat()
    }

    /// What is found of a kernel whose code is `CODE`, and whose notes are these.
    fn entered(notes: &[u8]) -> Result<u32, Error> {
        Kernel::parse(&elf(&[CODE, (abi::PT_NOTE, 0, notes, 0)])).map(|kernel| kernel.entry)
    }

    /// An ELF file with these program headers: type, physical address, bytes in the file, and how many more there are in memory.
    fn elf(segments: &[(u32, u64, &[u8], u64)]) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend([2u16, abi::EM_X86_64].map(u16::to_le_bytes).concat());
        file.extend(1u32.to_le_bytes());
        file.extend([0u64, 64, 0].map(u64::to_le_bytes).concat());
        file.extend(0u32.to_le_bytes());
        let counts = [64, 56, segments.len() as u16, 64, 0, 0];
        file.extend(counts.map(u16::to_le_bytes).concat());
        let mut offset = (64 + 56 * segments.len()) as u64;
        for (kind, address, bytes, more) in segments {
            let len = bytes.len() as u64;
            file.extend([*kind, 5].map(u32::to_le_bytes).concat());
            let fields = [offset, *address, *address, len, len.wrapping_add(*more), 4];
            file.extend(fields.map(u64::to_le_bytes).concat());
            offset += len;
        }
        segments.iter().for_each(|(_, _, bytes, _)| file.extend(*bytes));
        file
    }

    const CODE: (u32, u64, &[u8], u64) = (abi::PT_LOAD, 0x20_0000, b"code", 0);
    const DATA: (u32, u64, &[u8], u64) = (abi::PT_LOAD, 0x40_0000, b"data", 0x1000);
    const ENTRY: (u32, u64, &[u8], u64) = (abi::PT_NOTE, 0, NOTE, 0);

    #[test]
    fn pieces_and_entry_are_found() {
        let file = elf(&[DATA, CODE, ENTRY]);
        let kernel = Kernel::parse(&file).unwrap();
        let pieces: Vec<_> =
            kernel.segments.iter().map(|it| (it.address, it.bytes, it.in_memory)).collect();
        assert_eq!(pieces, [(0x20_0000, &b"code"[..], 4), (0x40_0000, &b"data"[..], 0x1004)]);
        assert_eq!((kernel.entry, kernel.extent()), (0x20_0000, 0x20_0000..0x40_1004));
    }

    #[test]
    fn the_entry_is_in_a_note_of_xens_of_its_type_in_four_bytes_or_eight() {
        let right = note(b"Xen\0", 18, &0x20_0003_u32.to_le_bytes());
        assert_eq!(entered(&right), Ok(0x20_0003));
        assert_eq!(entered(&note(b"Xen\0", 18, &0x20_0003_u64.to_le_bytes())), Ok(0x20_0003));
        for other in [note(b"Xen\0", 17, &[7; 4]), note(b"GNU\0", 18, &[7; 4])] {
            assert_eq!(entered(&[&other[..], &right].concat()), Ok(0x20_0003));
        }
        assert_eq!(entered(&note(b"Xen\0", 18, &[0; 12])), Err(Error::NoEntry));
    }

    #[test]
    fn the_entry_lies_in_code_that_the_file_has() {
        let at = |entry: u32| entered(&note(b"Xen\0", 18, &entry.to_le_bytes()));
        assert_eq!(at(0x20_0004), Err(Error::BadEntry(0x20_0004)));
        assert_eq!(at(0x1f_ffff), Err(Error::BadEntry(0x1f_ffff)));
    }

    #[test]
    fn pieces_may_touch_and_empty_ones_are_left_out() {
        let touching = (abi::PT_LOAD, 0x20_0004, &b"more"[..], 0);
        let empty = (abi::PT_LOAD, 0x20_0002, &b""[..], 0);
        let file = elf(&[touching, empty, CODE, ENTRY]);
        let kernel = Kernel::parse(&file).unwrap();
        let pieces: Vec<_> = kernel.segments.iter().map(|it| (it.address, it.bytes)).collect();
        assert_eq!(pieces, [(0x20_0000, &b"code"[..]), (0x20_0004, &b"more"[..])]);
    }

    #[test]
    fn an_error_says_which_part_of_the_file_is_wrong() {
        for (error, part) in [
            (Error::NotElf, "ELF"),
            (Error::NoEntry, "PVH entry"),
            (Error::NoSegments, "nothing to load"),
            (Error::BadSegment(7), "program header 7"),
            (Error::BadEntry(0x1234), "0x1234"),
        ] {
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = |segments: &[_], why| assert_eq!(Kernel::parse(&elf(segments)), Err(why));
        refused(&[CODE, DATA], Error::NoEntry);
        refused(&[ENTRY], Error::NoSegments);
        refused(&[DATA, ENTRY], Error::BadEntry(0x20_0000));
        let high = (abi::PT_LOAD, LIMIT - 4, &b"code"[..], 0);
        refused(&[CODE, high, ENTRY], Error::BadSegment(1));
        let shrunk = (abi::PT_LOAD, 0x20_0000, &b"code"[..], u64::MAX);
        refused(&[shrunk, ENTRY], Error::BadSegment(0));
        let over = (abi::PT_LOAD, 0x1f_ffff, &b"over"[..], 0);
        refused(&[CODE, over, ENTRY], Error::BadSegment(0));
        let inside = (abi::PT_LOAD, 0x40_0fff, &b"late"[..], 0);
        refused(&[inside, ENTRY, CODE, DATA], Error::BadSegment(0));
        refused(&[ENTRY, CODE, DATA, inside], Error::BadSegment(3));
        assert_eq!(Kernel::parse(b"MZ"), Err(Error::NotElf));
    }

    #[test]
    fn no_file_cut_short_is_taken_for_whole_or_ends_in_a_panic() {
        let file = elf(&[ENTRY, CODE, DATA]);
        for len in 0..file.len() {
            assert!(Kernel::parse(&file[..len]).is_err(), "{len}");
        }
    }
}
