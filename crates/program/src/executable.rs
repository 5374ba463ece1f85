//! ELF files: which pieces of one go where in memory.
//!
//! [`Executable::parse`] reads the header and the program headers and promises of every [`Segment`]: it lies inside the file, inside the
//! addresses programs may use, behind the one before it, and its place in memory and in the file are the same within a page. So whoever
//! maps it has nothing left to check. How long a page is, in bytes, is a parameter: a file made for short pages may not fit long ones.

use arrayvec::ArrayVec;
use core::fmt;
use elf::abi;
use elf::endian::LittleEndian;
use elf::file::{FileHeader, parse_ident};
use elf::parse::ParseAt;
use elf::segment::{ProgramHeader, SegmentTable};

/// Most segments that are loaded.
pub const MAX_SEGMENTS: usize = 16;
/// Longest name of an interpreter.
const MAX_INTERPRETER: usize = 4096;
/// First address behind those that a program may be loaded to.
const END: u64 = 1 << 46;

/// The machine a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// 64-bit PCs.
    X86_64,
    /// 64-bit Arm.
    Aarch64,
}

impl Machine {
    fn code(self) -> u16 {
        match self {
            Self::X86_64 => abi::EM_X86_64,
            Self::Aarch64 => abi::EM_AARCH64,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86-64",
            Self::Aarch64 => "arm64",
        }
    }
}

/// What is wrong with a file that is to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It does not begin as an ELF file does.
    NotElf,
    /// Its headers cannot be read: it is cut short, of 32 bits, of the other byte order, or damaged.
    BadHeaders,
    /// It is for another machine: the number it has, and what was expected.
    OtherMachine(u16, Machine),
    /// It is no program: the type it has.
    NotAProgram(u16),
    /// Nothing in it is to be loaded.
    NoSegments,
    /// It has more segments than are taken.
    TooManySegments,
    /// A segment, by its number, does not lie in the file, or in the addresses of programs; or not behind the one before; or it is smaller in
    /// memory than in the file.
    BadSegment(usize),
    /// A segment lies elsewhere within its page in the file than in memory.
    Misaligned(usize),
    /// The name of the interpreter is empty, too long, or not terminated.
    BadInterpreter,
    /// Execution would begin outside of what is loaded.
    BadEntry(u64),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf => f.write_str("not an ELF file"),
            Self::BadHeaders => {
                f.write_str("its headers are no complete ones of a little-endian 64-bit ELF file")
            }
            Self::OtherMachine(found, expected) => {
                write!(f, "it is for ELF machine {found}, not for {}", expected.name())
            }
            Self::NotAProgram(kind) => write!(f, "it is of ELF type {kind}, which is no program"),
            Self::NoSegments => f.write_str("it has nothing to load"),
            Self::TooManySegments => write!(f, "it has more than {MAX_SEGMENTS} segments to load"),
            Self::BadSegment(number) => write!(
                f,
                "program header {number} does not fit: into the file, into a program's addresses, or behind the one before"
            ),
            Self::Misaligned(number) => {
                write!(f, "program header {number} has file and memory disagree within a page")
            }
            Self::BadInterpreter => {
                f.write_str("the name of its interpreter is no terminated text")
            }
            Self::BadEntry(at) => write!(f, "its entry {at:#x} is in none of its code"),
        }
    }
}

impl core::error::Error for Error {}

/// A piece that is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<const PAGE: u64> {
    /// Its first address, before the whole is moved.
    pub address: u64,
    /// Where it begins in the file; the same as the address within a page.
    pub offset: u64,
    /// Bytes in the file.
    pub in_file: u64,
    /// Bytes in memory, at least as many; the rest are zeroes.
    pub in_memory: u64,
    /// Stores are allowed.
    pub write: bool,
    /// It is code.
    pub execute: bool,
}

impl<const PAGE: u64> Segment<PAGE> {
    /// First address behind it.
    pub fn end(&self) -> u64 {
        self.address + self.in_memory
    }

    /// The address of its first page.
    pub fn first_page(&self) -> u64 {
        page_of::<PAGE>(self.address)
    }

    /// First address behind its last page.
    pub fn last_page_end(&self) -> u64 {
        self.end().next_multiple_of(PAGE)
    }
}

/// A program, or an interpreter of programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executable<'a, const PAGE: u64> {
    /// What is loaded, by address.
    pub segments: ArrayVec<Segment<PAGE>, MAX_SEGMENTS>,
    /// Where it begins.
    pub entry: u64,
    /// Where its program headers are in memory; zero if they are not loaded.
    pub headers: u64,
    /// How many there are.
    pub header_count: u64,
    /// It may be loaded anywhere.
    pub movable: bool,
    /// The program that is to load what it needs besides.
    pub interpreter: Option<&'a [u8]>,
}

impl<'a, const PAGE: u64> Executable<'a, PAGE> {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`Error`] says what is wrong with it.
    pub fn parse(file: &'a [u8], machine: Machine) -> Result<Self, Error> {
        Self::parse_beginning(file, file.len() as u64, machine)
    }

    /// Reads the beginning of a file that is `len` bytes long: headers and the name of the interpreter must be in it.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse).
    pub fn parse_beginning(beginning: &'a [u8], len: u64, machine: Machine) -> Result<Self, Error> {
        if !beginning.starts_with(&abi::ELFMAGIC) {
            return Err(Error::NotElf);
        }
        let header = header_of(beginning)?;
        if header.class != elf::file::Class::ELF64 {
            return Err(Error::BadHeaders);
        }
        if header.e_machine != machine.code() {
            return Err(Error::OtherMachine(header.e_machine, machine));
        }
        let movable = match header.e_type {
            abi::ET_EXEC => false,
            abi::ET_DYN => true,
            other => return Err(Error::NotAProgram(other)),
        };
        let mut found = Self {
            segments: ArrayVec::new(),
            entry: header.e_entry,
            headers: 0,
            header_count: u64::from(header.e_phnum),
            movable,
            interpreter: None,
        };
        for (number, header) in segments_of(&header, beginning)?.iter().enumerate() {
            match header.p_type {
                abi::PT_LOAD if header.p_memsz > 0 => found.add(number, &header, len)?,
                abi::PT_INTERP => found.interpreter = Some(interpreter(&header, beginning)?),
                _ => {}
            }
        }
        found.headers = found.loaded_at(header.e_phoff).unwrap_or(0);
        found.check_entry()?;
        Ok(found)
    }

    fn add(&mut self, number: usize, header: &ProgramHeader, file_len: u64) -> Result<(), Error> {
        let bad = Error::BadSegment(number);
        if header.p_filesz > header.p_memsz {
            return Err(bad);
        }
        let end_in_file = header.p_offset.checked_add(header.p_filesz).ok_or(bad)?;
        let end = header.p_vaddr.checked_add(header.p_memsz).ok_or(bad)?;
        let behind = self.segments.last().map_or(0, Segment::last_page_end);
        if end_in_file > file_len || end > END || page_of::<PAGE>(header.p_vaddr) < behind {
            return Err(bad);
        }
        if header.p_offset % PAGE != header.p_vaddr % PAGE {
            return Err(Error::Misaligned(number));
        }
        let segment = Segment {
            address: header.p_vaddr,
            offset: header.p_offset,
            in_file: header.p_filesz,
            in_memory: header.p_memsz,
            write: header.p_flags & abi::PF_W != 0,
            execute: header.p_flags & abi::PF_X != 0,
        };
        self.segments.try_push(segment).map_err(|_| Error::TooManySegments)
    }

    fn check_entry(&self) -> Result<(), Error> {
        if self.segments.is_empty() {
            return Err(Error::NoSegments);
        }
        let holds = |segment: &Segment<PAGE>| {
            segment.execute && (segment.address..segment.end()).contains(&self.entry)
        };
        if self.segments.iter().any(holds) { Ok(()) } else { Err(Error::BadEntry(self.entry)) }
    }

    /// Where a byte of the file is in memory.
    fn loaded_at(&self, offset: u64) -> Option<u64> {
        let segment = self.segments.iter().find(|segment| {
            offset >= segment.offset && offset - segment.offset < segment.in_file
        })?;
        Some(segment.address + (offset - segment.offset))
    }

    /// The same without the interpreter, which is part of the file.
    pub fn detached(self) -> Executable<'static, PAGE> {
        let Self { segments, entry, headers, header_count, movable, .. } = self;
        Executable { segments, entry, headers, header_count, movable, interpreter: None }
    }

    /// The pages it takes: the first address and the one behind the last.
    pub fn span(&self) -> (u64, u64) {
        let first = self.segments.first().map_or(0, Segment::first_page);
        (first, self.segments.last().map_or(0, Segment::last_page_end))
    }
}

/// The first address of the page that an address is in.
fn page_of<const PAGE: u64>(address: u64) -> u64 {
    address - address % PAGE
}

fn header_of(beginning: &[u8]) -> Result<FileHeader<LittleEndian>, Error> {
    let cut_short = Error::BadHeaders;
    let ident = beginning.get(..abi::EI_NIDENT).ok_or(cut_short)?;
    let ident = parse_ident::<LittleEndian>(ident).map_err(|_| Error::BadHeaders)?;
    let tail = beginning.get(abi::EI_NIDENT..).ok_or(cut_short)?;
    FileHeader::parse_tail(ident, tail).map_err(|_| Error::BadHeaders)
}

/// The program headers. What else the file has, such as section headers, nobody who runs it looks at.
fn segments_of<'a>(
    header: &FileHeader<LittleEndian>,
    beginning: &'a [u8],
) -> Result<SegmentTable<'a, LittleEndian>, Error> {
    if header.e_phoff == 0 {
        return Err(Error::NoSegments);
    }
    let size = ProgramHeader::validate_entsize(header.class, header.e_phentsize.into())
        .map_err(|_| Error::BadHeaders)?;
    let start = usize::try_from(header.e_phoff).map_err(|_| Error::BadHeaders)?;
    let end = start.checked_add(size * usize::from(header.e_phnum)).ok_or(Error::BadHeaders)?;
    let table = beginning.get(start..end).ok_or(Error::BadHeaders)?;
    Ok(SegmentTable::new(header.endianness, header.class, table))
}

fn interpreter<'a>(header: &ProgramHeader, file: &'a [u8]) -> Result<&'a [u8], Error> {
    let end = header.p_offset.checked_add(header.p_filesz).ok_or(Error::BadInterpreter)?;
    let range = usize::try_from(header.p_offset).ok().zip(usize::try_from(end).ok());
    let (start, end) = range.ok_or(Error::BadInterpreter)?;
    let name = file.get(start..end).and_then(|name| name.strip_suffix(&[0]));
    name.filter(|name| !name.is_empty() && name.len() < MAX_INTERPRETER && !name.contains(&0))
        .ok_or(Error::BadInterpreter)
}
