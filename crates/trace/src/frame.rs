//! The parts of a trace file around the events: signature, lengths, checksums.
//!
//! A file is a header frame, any number of block frames and a trailer frame. Every frame ends with a
//! CRC-32 over all its bytes before it, so that damage is found before its content is believed.
//! Numbers outside the bodies are little-endian and of fixed width. `docs/src/traces.md` is the
//! specification.

/// First bytes of every trace. The first is not ASCII and the last ones tell a text-mode transfer.
pub(crate) const SIGNATURE: [u8; 8] = *b"\x89KPTR\r\n\x1a";

/// The format version written and the newest one read. Version 1 had no gaps in its trailer.
pub const VERSION: u16 = 2;

/// First byte of a block.
pub(crate) const BLOCK: u8 = b'B';

/// First byte of the trailer.
pub(crate) const TRAILER: u8 = b'T';

/// Bytes of a block before its payload: tag, packing, events, first tick, unpacked and stored length.
pub(crate) const BLOCK_HEAD: usize = 1 + 1 + 4 + 8 + 4 + 4;

/// Largest header or trailer body.
pub(crate) const BODY_LIMIT: u32 = 16 << 20;

/// Largest block, packed or unpacked. An event has at least two bytes, so this also limits how many
/// events are in memory at once.
pub(crate) const BLOCK_LIMIT: u32 = 1 << 20;

/// Payload stored as it is.
pub(crate) const PLAIN: u8 = 0;

/// Payload is one LZ4 block.
pub(crate) const LZ4: u8 = 1;

/// The fixed fields of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockHead {
    pub packing: u8,
    pub events: u32,
    pub first_tick: u64,
    pub unpacked: u32,
    pub stored: u32,
}

impl BlockHead {
    pub(crate) fn to_bytes(self) -> [u8; BLOCK_HEAD] {
        let mut bytes = [0; BLOCK_HEAD];
        bytes[0] = BLOCK;
        bytes[1] = self.packing;
        bytes[2..6].copy_from_slice(&self.events.to_le_bytes());
        bytes[6..14].copy_from_slice(&self.first_tick.to_le_bytes());
        bytes[14..18].copy_from_slice(&self.unpacked.to_le_bytes());
        bytes[18..22].copy_from_slice(&self.stored.to_le_bytes());
        bytes
    }

    /// Reads the fields after the tag.
    pub(crate) fn from_bytes(bytes: &[u8; BLOCK_HEAD]) -> Self {
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]));
        Self {
            packing: bytes[1],
            events: word(2),
            first_tick: u64::from(word(6)) | u64::from(word(10)) << 32,
            unpacked: word(14),
            stored: word(18),
        }
    }
}
