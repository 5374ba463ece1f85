//! An ELF file with what is loaded of it alone: no symbols and no debug information, which are most of a kernel's file.

use object::Endianness;
use object::elf::FileHeader64;
use object::read::elf::{FileHeader, ProgramHeader};
use std::ops::Range;

/// Where the header of an ELF64 file says where the section headers are, and how many (System V ABI, "ELF header").
const SECTIONS_AT: Range<usize> = 40..48;
const SECTION_COUNT_AND_NAMES: Range<usize> = 60..64;

/// The file up to the end of its last segment, with no sections.
pub fn slim(file: &[u8]) -> Result<Vec<u8>, String> {
    let text = |error: object::read::Error| error.to_string();
    let header = FileHeader64::<Endianness>::parse(file).map_err(text)?;
    let endian = header.endian().map_err(text)?;
    let segments = header.program_headers(endian, file).map_err(text)?;
    let ends = segments.iter().map(|segment| {
        let (offset, len) = segment.file_range(endian);
        offset.checked_add(len).filter(|&end| end <= file.len() as u64)
    });
    let end = ends.collect::<Option<Vec<u64>>>().ok_or("a segment lies outside the file")?;
    let end = end.into_iter().max().ok_or("it has no segment to load")?;
    let headers = header.e_phoff.get(endian) + size_of_val(segments) as u64;
    let mut slim = file[..end.max(headers) as usize].to_vec();
    slim[SECTIONS_AT].fill(0);
    slim[SECTION_COUNT_AND_NAMES].fill(0);
    Ok(slim)
}
