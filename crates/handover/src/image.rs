//! A kernel for arm64: a Linux Image, which is a flat file that begins with a header (Linux, `Documentation/arch/arm64/booting.rst`).

use core::fmt;

/// It is placed at a multiple of this, and the offset that it asks for.
pub const ALIGN: u64 = 2 << 20;
const HEADER_LEN: usize = 64;
const MAGIC: &[u8] = b"ARM\x64";
/// Bit 0 of the flags: big-endian. Bit 3: it may lie anywhere in memory.
const BIG_ENDIAN: u64 = 1;
const ANYWHERE: u64 = 1 << 3;
/// Larger than any kernel.
const MAX_LEN: u64 = 1 << 30;

/// What is wrong with the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It does not begin with the header of a Linux Image for arm64.
    NotAnImage,
    /// The header asks for what the loader does not do: big-endian code, or a place at the start of memory.
    Flags(u64),
    /// It is longer than it says that it needs, or needs more than 1 GiB.
    Size(u64),
    /// It is to lie so many bytes behind a multiple of [`ALIGN`], which is [`ALIGN`] or more.
    Offset(u64),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnImage => f.write_str("it is no Linux Image for arm64"),
            Self::Flags(flags) => {
                write!(f, "its flags {flags:#x} ask for what this loader does not do")
            }
            Self::Size(size) => write!(f, "its header says that it needs {size} bytes"),
            Self::Offset(offset) => {
                write!(f, "its header asks for {offset:#x} bytes behind a multiple of 2 MiB")
            }
        }
    }
}

impl core::error::Error for Error {}

/// A kernel: the file goes to [`offset`](Self::offset) behind a multiple of [`ALIGN`], and is entered at its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// Bytes from the multiple of [`ALIGN`] to the first byte.
    pub offset: u64,
    /// Bytes that the kernel needs from there, more than the file has.
    pub size: u64,
}

impl Image {
    /// Reads the header of a file.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn parse(file: &[u8]) -> Result<Self, Error> {
        let header = file.get(..HEADER_LEN).ok_or(Error::NotAnImage)?;
        if &header[56..60] != MAGIC {
            return Err(Error::NotAnImage);
        }
        let [offset, size, flags] = [8, 16, 24].map(|at| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&header[at..at + 8]);
            u64::from_le_bytes(bytes)
        });
        if flags & BIG_ENDIAN != 0 || flags & ANYWHERE == 0 {
            return Err(Error::Flags(flags));
        }
        if size < file.len() as u64 || size > MAX_LEN {
            return Err(Error::Size(size));
        }
        if offset >= ALIGN {
            return Err(Error::Offset(offset));
        }
        Ok(Self { offset, size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;

    fn file(size: u64, flags: u64) -> vec::Vec<u8> {
        let mut file = vec![0; 128];
        file[16..24].copy_from_slice(&size.to_le_bytes());
        file[24..32].copy_from_slice(&flags.to_le_bytes());
        file[56..60].copy_from_slice(MAGIC);
        file
    }

    #[test]
    fn a_header_says_how_much_memory_is_needed() {
        assert_eq!(Image::parse(&file(4096, 0xa)), Ok(Image { offset: 0, size: 4096 }));
    }

    #[test]
    fn a_kernel_may_need_as_much_as_its_file_has_and_as_much_as_is_allowed() {
        for size in [128, MAX_LEN] {
            assert_eq!(Image::parse(&file(size, 0xa)), Ok(Image { offset: 0, size }));
        }
        assert_eq!(Image::parse(&file(MAX_LEN + 1, 0xa)), Err(Error::Size(MAX_LEN + 1)));
    }

    #[test]
    fn a_place_behind_a_multiple_is_less_than_a_multiple() {
        let at = |offset: u64| {
            let mut file = file(4096, 0xa);
            file[8..16].copy_from_slice(&offset.to_le_bytes());
            Image::parse(&file)
        };
        assert_eq!(at(ALIGN - 1), Ok(Image { offset: ALIGN - 1, size: 4096 }));
        assert_eq!(at(ALIGN), Err(Error::Offset(ALIGN)));
    }

    #[test]
    fn an_error_says_what_the_header_has() {
        for (error, has) in [
            (Error::NotAnImage, "Linux Image"),
            (Error::Flags(0x2b), "0x2b"),
            (Error::Size(777), "777 bytes"),
            (Error::Offset(ALIGN), "0x200000"),
        ] {
            assert!(error.to_string().contains(has), "{error}");
        }
    }

    #[test]
    fn what_cannot_be_started_is_refused() {
        assert_eq!(Image::parse(&file(4096, 0x2)), Err(Error::Flags(2)));
        assert_eq!(Image::parse(&file(4096, 0xb)), Err(Error::Flags(0xb)));
        assert_eq!(Image::parse(&file(127, 0xa)), Err(Error::Size(127)));
        assert_eq!(Image::parse(&file(u64::MAX, 0xa)), Err(Error::Size(u64::MAX)));
        assert_eq!(Image::parse(&file(4096, 0xa)[..63]), Err(Error::NotAnImage));
        assert_eq!(Image::parse(b"MZ"), Err(Error::NotAnImage));
    }
}
