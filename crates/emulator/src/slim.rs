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

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file with one segment of `len` bytes, four of which are there, and symbols behind it.
    fn elf(len: u64) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend([2u16, 62].map(u16::to_le_bytes).concat());
        file.extend(1u32.to_le_bytes());
        file.extend([0u64, 64, 124].map(u64::to_le_bytes).concat());
        file.extend(0u32.to_le_bytes());
        file.extend([64u16, 56, 1, 64, 9, 8].map(u16::to_le_bytes).concat());
        file.extend([1u32, 5].map(u32::to_le_bytes).concat());
        file.extend([120, 0, 0, len, len, 1].map(u64::to_le_bytes).concat());
        file.extend(*b"codesymbols");
        file
    }

    #[test]
    fn what_is_loaded_stays_and_nothing_else() {
        let file = elf(4);
        let slim = slim(&file).unwrap();
        assert!(slim.ends_with(b"code"));
        assert_eq!((slim.len(), &slim[..40]), (124, &file[..40]));
        assert_eq!((&slim[40..48], &slim[60..64]), (&[0; 8][..], &[0; 4][..]));
        assert_eq!(super::slim(&slim).unwrap(), slim);
    }

    #[test]
    fn what_is_cut_short_is_refused() {
        assert_eq!(slim(&elf(400)).unwrap_err(), "a segment lies outside the file");
        assert!(slim(b"MZ").is_err());
    }
}
