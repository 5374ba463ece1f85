//! The blob as a whole: its length, and the checks that make walking it cheap and safe.

use crate::error::{Error, Problem};
use dtoolkit::fdt::Fdt;

/// Bytes of a blob's header that [`blob_len`] looks at.
pub const HEADER_LEN: usize = 40;

/// The largest blob the arm64 boot protocol lets a loader pass (Linux,
/// `Documentation/arch/arm64/booting.rst`, "Setup the device tree").
pub(crate) const MAX_LEN: usize = 2 << 20;

const MAGIC: u32 = 0xd00d_feed;

/// Longest name of a property (Devicetree Specification v0.4, 2.2.4.1).
const MAX_PROPERTY_NAME: usize = 31;

/// How many bytes the blob has that starts with `header`, so that a kernel with nothing but its
/// address knows how much to look at.
///
/// # Errors
///
/// [`Problem::Missing`] if no blob starts here, [`Problem::TooLarge`] if it says to be larger
/// than a loader may pass.
pub fn blob_len(header: &[u8; HEADER_LEN]) -> Result<usize, Error> {
    if u32_at(header, 0) != MAGIC {
        return Err(Error::blob(Problem::Missing("a blob that starts with 0xd00dfeed")));
    }
    match u32_at(header, 4) as usize {
        len if len > MAX_LEN => Err(Error::blob(Problem::TooLarge(len))),
        len => Ok(len),
    }
}

/// The blob at the start of `bytes`, checked so that walking it cannot panic.
pub(crate) fn open(bytes: &[u8]) -> Result<Fdt<'_>, Error> {
    let truncated = |needed| Error::blob(Problem::Truncated { given: bytes.len(), needed });
    let header = bytes.first_chunk().ok_or_else(|| truncated(HEADER_LEN))?;
    let len = blob_len(header)?;
    let blob = bytes.get(..len).ok_or_else(|| truncated(len))?;
    refuse_long_names(blob, header)?;
    Fdt::new(blob).map_err(|error| Error::blob(Problem::Malformed(error)))
}

/// Refuses a strings block with a name that is longer than a property's may be. Every property
/// makes the walk look for the end of its name, so that a block without ends, and many
/// properties, would take time that grows with their product.
fn refuse_long_names(blob: &[u8], header: &[u8; HEADER_LEN]) -> Result<(), Error> {
    let start = u32_at(header, 12) as usize;
    let end = start.saturating_add(u32_at(header, 32) as usize);
    // A block outside the blob is named by the check of the header that follows.
    let strings = blob.get(start..end).unwrap_or_default();
    if strings.split(|byte| *byte == 0).any(|name| name.len() > MAX_PROPERTY_NAME) {
        return Err(Error::blob(Problem::LongName));
    }
    Ok(())
}

fn u32_at(header: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}
