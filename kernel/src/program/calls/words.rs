//! Structures as programs have them.

use alloc::vec::Vec;

/// Bytes of a structure, field by field.
#[derive(Default)]
pub struct Words(pub Vec<u8>);

impl Words {
    /// Adds a field.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Adds a field.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }
}
