//! What the boot loader told, copied out of its memory.

use crate::console::screen;
use crate::memory::boot::{BootMemory, PhysRange};
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
    /// Where the loader put an archive of files, if it did.
    pub initramfs: Option<PhysRange>,
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
    /// Copies `command_line`, settles on the screen that it names, and keeps the archive from being used as memory.
    ///
    /// # Errors
    ///
    /// [`CommandLineTooLong`].
    pub fn new(
        mut memory: BootMemory,
        command_line: &str,
        initramfs: Option<PhysRange>,
    ) -> Result<Self, CommandLineTooLong> {
        let command_line =
            ArrayString::from(command_line).map_err(|_| CommandLineTooLong(command_line.len()))?;
        if let Some(archive) = initramfs {
            memory.reserve(archive);
        }
        screen::settle(&command_line, memory.ram());
        Ok(Self { memory, command_line, initramfs })
    }
}
