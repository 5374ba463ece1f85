//! The flat image of a kernel: its bytes as they lie in memory, without the ELF file around them.
//!
//! QEMU passes a device tree in X0 only to what starts with the header of a Linux Image, which is a flat file.

use crate::Error;
use object::Endianness;
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use std::fs;
use std::path::{Path, PathBuf};

/// Larger than any kernel: what lies further apart was not meant to be one image.
const MAX_LEN: u64 = 64 << 20;

/// Writes the flat image of an ELF file beside it and returns its path.
///
/// # Errors
///
/// [`Error::BadImage`] or [`Error::Io`].
pub fn write_beside(elf: &Path) -> Result<PathBuf, Error> {
    let io = |program: &Path| {
        let program = program.to_owned();
        move |source| Error::Io { program, source }
    };
    let file = fs::read(elf).map_err(io(elf))?;
    let bad = |reason: String| Error::BadImage { file: elf.to_owned(), reason };
    let bytes = flatten(&file).map_err(bad)?;
    let image = elf.with_extension("image");
    // Another process may be starting an emulator from the same file: it gets the old one or the new one, whole.
    let unfinished = elf.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&unfinished, bytes).map_err(io(&unfinished))?;
    fs::rename(&unfinished, &image).map_err(io(&image))?;
    Ok(image)
}

/// Loaded segments by address, zeroes between them. Memory behind the last byte that the file has is the kernel's own to clear.
fn flatten(file: &[u8]) -> Result<Vec<u8>, String> {
    let segments = segments(file)?;
    let Some(start) = segments.iter().map(|(address, _)| *address).min() else {
        return Err("it has no segment to load".to_owned());
    };
    let mut image = Vec::new();
    for (address, bytes) in segments {
        let offset = address - start;
        if offset > MAX_LEN {
            return Err(format!("a segment at {address:#x} lies far from the first at {start:#x}"));
        }
        let end = offset as usize + bytes.len();
        image.resize(end.max(image.len()), 0);
        image[offset as usize..end].copy_from_slice(bytes);
    }
    Ok(image)
}

/// Address and bytes of each segment that is loaded from the file.
fn segments(file: &[u8]) -> Result<Vec<(u64, &[u8])>, String> {
    let text = |error: object::read::Error| error.to_string();
    let header = FileHeader64::<Endianness>::parse(file).map_err(text)?;
    let endian = header.endian().map_err(text)?;
    let mut loaded = Vec::new();
    for segment in header.program_headers(endian, file).map_err(text)? {
        let is_loaded = segment.p_type(endian) == PT_LOAD && segment.p_filesz(endian) > 0;
        if is_loaded {
            let bytes =
                segment.data(endian, file).map_err(|()| "a segment lies outside the file")?;
            loaded.push((segment.p_vaddr(endian), bytes));
        }
    }
    Ok(loaded)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 64-bit little-endian ELF file with these segments: kind, address, bytes in the file, and how many it claims.
    fn elf(segments: &[(u32, u64, &[u8], u64)]) -> Vec<u8> {
        let (header_len, entry_len) = (64u64, 56u64);
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(16, 0);
        bytes.extend([2u16, 183].map(u16::to_le_bytes).concat()); // executable, AArch64
        bytes.extend(1u32.to_le_bytes());
        bytes.extend([0, header_len, 0].map(u64::to_le_bytes).concat());
        bytes.extend(0u32.to_le_bytes());
        let counts = [64, entry_len as u16, segments.len() as u16, 64, 0, 0];
        bytes.extend(counts.map(u16::to_le_bytes).concat());
        let mut offset = header_len + entry_len * segments.len() as u64;
        for (kind, address, data, claimed) in segments {
            bytes.extend([*kind, 4].map(u32::to_le_bytes).concat());
            let fields = [offset, *address, *address, *claimed, *claimed + 100, 1];
            bytes.extend(fields.map(u64::to_le_bytes).concat());
            offset += data.len() as u64;
        }
        segments.iter().for_each(|(_, _, data, _)| bytes.extend(*data));
        bytes
    }

    const TOP: u64 = 0xffff_ffff_8000_0000;

    #[test]
    fn segments_lie_as_far_apart_as_in_memory() {
        let file = elf(&[
            (PT_LOAD, TOP + 6, b"data", 4),
            (PT_LOAD, TOP, b"text", 4),
            (PT_LOAD, TOP + 0x1000, b"", 0), // memory that is zero at the start
            (4, TOP + 20, b"note", 4),
        ]);
        assert_eq!(flatten(&file).unwrap(), b"text\0\0data");
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let refused = |file: &[u8], why: &str| {
            let error = flatten(file).unwrap_err();
            assert!(error.contains(why), "{error}");
        };
        refused(b"#!/bin/sh", "");
        refused(&elf(&[]), "no segment");
        refused(&elf(&[(PT_LOAD, TOP, b"text", 400)]), "outside the file");
        refused(&elf(&[(PT_LOAD, 0, b"a", 1), (PT_LOAD, TOP, b"b", 1)]), "far from the first");
    }
}
