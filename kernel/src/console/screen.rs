//! The screen: what is said on the serial line, for a machine that has none to look at.
//!
//! The loader says by the word `screen=ADDRESS,WIDTH,HEIGHT,STRIDE` where the firmware left a frame buffer of 32-bit pixels; [`settle`] checks
//! it, the early tables and the final ones map it at [`SCREEN`] as a device's registers, and [`Screen`] draws. It
//! never reads: lines go round from the last row to the first, with a gap behind the newest, so that nothing is moved.

use super::frame_buffer::{FrameBuffer, GLYPH};
use crate::arch::layout::SCREEN;
use crate::memory::boot::{PAGE_SIZE, PhysRange};
use crate::start::settled::Settled;
use font8x8::legacy::BASIC_LEGACY;

/// The word's name, with what follows it.
const WORD: &str = "screen=";
/// Wider screens get larger characters.
const WIDE: u32 = 2560;
const WHITE: u32 = 0x00ff_ffff;
const BLACK: u32 = 0;

#[unsafe(link_section = ".settled")]
static FRAME_BUFFER: Settled<Option<FrameBuffer>> = Settled::new();

/// Finds the word, once, before any table maps the screen. One that lies in RAM is no screen: whoever said so was wrong.
pub fn settle(command_line: &str, ram: &[PhysRange]) {
    let words = command_line.split_once("-- ").map_or(command_line, |(words, _)| words);
    let value = words.split_whitespace().find_map(|word| word.strip_prefix(WORD));
    let found = value.and_then(FrameBuffer::parse);
    FRAME_BUFFER.settle(|| found.filter(|it| !ram.iter().any(|ram| ram.overlaps(&memory_of(*it)))));
}

/// Its memory, in whole pages.
fn memory_of(screen: FrameBuffer) -> PhysRange {
    let bytes = u64::from(screen.stride) * u64::from(screen.height) * 4;
    PhysRange::new(screen.address, bytes).rounded_out(PAGE_SIZE)
}

/// What is to be mapped at [`SCREEN`], if there is one.
pub fn memory() -> Option<PhysRange> {
    FRAME_BUFFER.get().copied().flatten().map(memory_of)
}

/// A screen that is mapped.
pub struct Screen {
    frame_buffer: FrameBuffer,
    scale: u32,
    row: u32,
    column: u32,
}

impl Screen {
    /// The screen, black. `None` where there is none.
    ///
    /// # Safety
    ///
    /// The tables in use must map it, and at most one `Screen` be in use at a time.
    pub unsafe fn new() -> Option<Self> {
        let frame_buffer = FRAME_BUFFER.get().copied().flatten()?;
        let scale = if frame_buffer.width > WIDE { 2 } else { 1 };
        let screen = Self { frame_buffer, scale, row: 0, column: 0 };
        for line in 0..frame_buffer.height {
            screen.fill(line, 0..frame_buffer.width, BLACK);
        }
        Some(screen)
    }

    /// Draws text. What is not ASCII, or has no shape, is left out.
    pub fn write(&mut self, text: &[u8]) {
        for &byte in text {
            match byte {
                b'\n' => self.next_row(),
                b' '..=b'~' => {
                    if self.column == self.columns() {
                        self.next_row();
                    }
                    self.draw(byte);
                    self.column += 1;
                }
                _ => {}
            }
        }
    }

    fn columns(&self) -> u32 {
        self.frame_buffer.width / (GLYPH.0 * self.scale)
    }

    fn rows(&self) -> u32 {
        self.frame_buffer.height / (GLYPH.1 * self.scale)
    }

    fn next_row(&mut self) {
        self.row = (self.row + 1) % self.rows();
        self.column = 0;
        self.clear_row(self.row);
        self.clear_row((self.row + 1) % self.rows());
    }

    fn clear_row(&self, row: u32) {
        let height = GLYPH.1 * self.scale;
        for line in row * height..(row + 1) * height {
            self.fill(line, 0..self.frame_buffer.width, BLACK);
        }
    }

    fn draw(&self, byte: u8) {
        let (left, top) = (self.column * GLYPH.0 * self.scale, self.row * GLYPH.1 * self.scale);
        let shape = BASIC_LEGACY[usize::from(byte & 0x7f)];
        for line in 0..GLYPH.1 * self.scale {
            let dots = shape[(line / (2 * self.scale)) as usize];
            for dot in 0..GLYPH.0 {
                let start = left + dot * self.scale;
                let color = if dots >> dot & 1 != 0 { WHITE } else { BLACK };
                self.fill(top + line, start..start + self.scale, color);
            }
        }
    }

    fn fill(&self, line: u32, columns: core::ops::Range<u32>, color: u32) {
        if line >= self.frame_buffer.height || columns.end > self.frame_buffer.width {
            return;
        }
        let start = u64::from(line) * u64::from(self.frame_buffer.stride);
        let first = SCREEN + self.frame_buffer.address % PAGE_SIZE;
        for column in columns {
            let pixel = (first + 4 * (start + u64::from(column))) as *mut u32;
            // SAFETY: the line and the column are on the screen, which the caller of `new` has mapped from `SCREEN` up.
            unsafe { pixel.write_volatile(color) };
        }
    }
}
