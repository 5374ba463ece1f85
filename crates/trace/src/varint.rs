//! Variable-length integers, the only number coding inside a block.
//!
//! Unsigned numbers are LEB128: seven bits a byte, least significant first, the top bit says that
//! another byte follows. Signed numbers are zigzag-coded first, so that small negative steps stay
//! short. A number has at most ten bytes and may not exceed 64 bits.

use crate::error::Malformed;

/// Appends `value` in LEB128.
pub fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends `value` zigzag-coded: 0, -1, 1, -2, ... become 0, 1, 2, 3, ...
pub fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Appends a length and the bytes.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A read position in decoded bytes; every read is checked against the end.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.at
    }

    /// True when nothing is left.
    pub fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// One byte.
    pub fn byte(&mut self) -> Result<u8, Malformed> {
        let byte = *self.bytes.get(self.at).ok_or(Malformed::Short)?;
        self.at += 1;
        Ok(byte)
    }

    /// An unsigned number.
    pub fn number(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                return Err(Malformed::NumberTooLong);
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed::NumberTooLong)
    }

    /// An unsigned number that must fit 32 bits.
    pub fn number32(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.number()?).map_err(|_| Malformed::NumberTooLong)
    }

    /// A zigzag-coded number.
    pub fn signed(&mut self) -> Result<i64, Malformed> {
        let coded = self.number()?;
        Ok((coded >> 1) as i64 ^ -((coded & 1) as i64))
    }

    /// A length and that many bytes, at most `limit`.
    pub fn bytes(&mut self, limit: usize) -> Result<&'a [u8], Malformed> {
        let length = self.number()?;
        let length = usize::try_from(length).ok().filter(|&length| length <= limit);
        let length = length.ok_or(Malformed::StringTooLong { limit })?;
        let end = self.at.checked_add(length).ok_or(Malformed::Short)?;
        let bytes = self.bytes.get(self.at..end).ok_or(Malformed::Short)?;
        self.at = end;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_beyond_64_bits_are_refused() {
        let too_big = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert_eq!(Cursor::new(&too_big).number(), Err(Malformed::NumberTooLong));
        let endless = [0x80; 11];
        assert_eq!(Cursor::new(&endless).number(), Err(Malformed::NumberTooLong));
    }

    proptest! {
        #[test]
        fn numbers_come_back(value: u64, signed: i64) {
            let mut out = Vec::new();
            put(&mut out, value);
            put_signed(&mut out, signed);
            let mut cursor = Cursor::new(&out);
            prop_assert_eq!(cursor.number(), Ok(value));
            prop_assert_eq!(cursor.signed(), Ok(signed));
            prop_assert!(cursor.is_empty());
        }
    }
}
