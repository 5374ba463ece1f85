//! PVH's start information: `hvm_start_info` of version 1, as laid out in Xen's public header `arch-x86/hvm/start_info.h`, with its memory map
//! and its command line behind it, as bytes for one place in memory.

use crate::ranges::Usable;
use alloc::vec::Vec;

/// First word: "xEn3" with the top bit of the "E" set.
const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;
const HEADER_LEN: u32 = 56;
const ENTRY_LEN: u32 = 24;
/// Memory map entries of this type are RAM.
const RAM: u32 = 1;

/// How many bytes [`write()`] makes of a map with so many ranges.
pub const fn len(ranges: usize, command_line: &str) -> usize {
    HEADER_LEN as usize + ENTRY_LEN as usize * ranges + command_line.len() + 1
}

/// The bytes for physical address `at`. A command line ends at its first NUL.
pub fn write(at: u32, memory: &Usable, command_line: &str, rsdp: u64) -> Vec<u8> {
    let entries = memory.ranges().len() as u32;
    let map = at + HEADER_LEN;
    let text = map + ENTRY_LEN * entries;
    let mut bytes = Vec::with_capacity(len(memory.ranges().len(), command_line));
    for word in [MAGIC, VERSION, 0, 0] {
        bytes.extend(word.to_le_bytes()); // no flags, no modules
    }
    for address in [0, u64::from(text), rsdp, u64::from(map)] {
        bytes.extend(address.to_le_bytes());
    }
    bytes.extend(entries.to_le_bytes());
    bytes.extend(0u32.to_le_bytes());
    for range in memory.ranges() {
        bytes.extend(range.start.to_le_bytes());
        bytes.extend((range.end - range.start).to_le_bytes());
        bytes.extend(RAM.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
    }
    bytes.extend(command_line.bytes().take_while(|&byte| byte != 0));
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_where_the_header_says() {
        let memory = Usable::new([0x1000..0x9f000, 0x10_0000..0x4000_0000]);
        let bytes = write(0x8000, &memory, "attack", 0xf_0000);
        assert_eq!(bytes.len(), len(2, "attack"));
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!((word(0), word(4), word(12), word(48)), (MAGIC, 1, 0, 2));
        let (text, map) = (long(24) as usize - 0x8000, long(40) as usize - 0x8000);
        assert_eq!(long(32), 0xf_0000);
        assert_eq!(&bytes[text..], b"attack\0");
        assert_eq!((long(map), long(map + 8), word(map + 16)), (0x1000, 0x9e000, 1));
        assert_eq!((long(map + 24), long(map + 32)), (0x10_0000, 0x3ff0_0000));
    }
}
