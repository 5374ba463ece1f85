//! What the boot loader told, copied out of its memory.

use crate::memory::boot::BootMemory;
use arrayvec::ArrayString;
use core::fmt;

/// Longest command line taken.
const MAX_COMMAND_LINE: usize = 2048;

/// Memory and command line.
pub struct BootInfo {
    /// Physical memory.
    pub memory: BootMemory,
    /// The kernel's command line.
    pub command_line: ArrayString<MAX_COMMAND_LINE>,
}

/// The command line does not fit; holds its length.
#[derive(Clone, Copy, Debug)]
pub struct CommandLineTooLong(usize);

impl fmt::Display for CommandLineTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the command line has {} bytes; at most {MAX_COMMAND_LINE} are taken", self.0)
    }
}

impl BootInfo {
    /// Copies `command_line`.
    ///
    /// # Errors
    ///
    /// [`CommandLineTooLong`].
    pub fn new(memory: BootMemory, command_line: &str) -> Result<Self, CommandLineTooLong> {
        let command_line =
            ArrayString::from(command_line).map_err(|_| CommandLineTooLong(command_line.len()))?;
        Ok(Self { memory, command_line })
    }
}
