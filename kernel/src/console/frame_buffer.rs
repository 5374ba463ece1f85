//! A frame buffer, as a word of the command line says where it is.

/// What addresses of frame buffers are multiples of: the pages of firmware.
const PAGE_SIZE: u64 = 4096;
/// As much as is mapped at most: more than 8192 by 4096 pixels.
pub const MAX_BYTES: u64 = 128 << 20;
/// Pixels of a character, before they are enlarged: eight lines, each drawn twice.
pub const GLYPH: (u32, u32) = (8, 16);

/// A frame buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameBuffer {
    /// Physical.
    pub address: u64,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Pixels from one line to the next.
    pub stride: u32,
}

impl FrameBuffer {
    /// The word's value; `None` if it is no frame buffer that can be drawn on.
    pub fn parse(value: &str) -> Option<Self> {
        let mut numbers = value.split(',').map(|number| match number.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => number.parse().ok(),
        });
        let address = numbers.next()??;
        let mut small = || u32::try_from(numbers.next()??).ok();
        let (width, height, stride) = (small()?, small()?, small()?);
        let screen = Self { address, width, height, stride };
        let is_one = width >= GLYPH.0 && height >= GLYPH.1 && stride >= width;
        let is_placed = address.is_multiple_of(PAGE_SIZE)
            && u64::from(stride).saturating_mul(u64::from(height)) <= MAX_BYTES / 4
            && address.checked_add(MAX_BYTES).is_some_and(|end| end < 1 << 48);
        (is_one && is_placed && numbers.next().is_none()).then_some(screen)
    }
}
