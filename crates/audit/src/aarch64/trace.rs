//! What registers hold, by carrying out the few instructions that constants are made by. Everything else that may write a register
//! is told by its encoding group (Arm ARM, C4.1), rather once too often.

use super::kinds::Operand;
use crate::value::Value;

/// The number that is zero as a source and nothing as a destination.
const ZERO: usize = 31;

/// X0 to X30, and zero.
#[derive(Clone)]
pub struct Registers([Value; 32]);

impl Registers {
    /// Nothing is known.
    pub fn unknown() -> Self {
        let mut registers = [Value::Unknown; 32];
        registers[ZERO] = Value::Constant(0);
        Registers(registers)
    }

    /// What an operand holds.
    pub fn value(&self, operand: Operand) -> Value {
        match operand {
            Operand::Register(number) => self.0[usize::from(number & 31)],
            Operand::Immediate(number) => Value::Constant(number),
            Operand::Saved => Value::Register,
        }
    }

    fn get(&self, number: u32) -> Value {
        self.0[(number & 31) as usize]
    }

    fn set(&mut self, number: u32, value: Value) {
        let number = (number & 31) as usize;
        if number != ZERO {
            self.0[number] = value;
        }
    }

    /// Carries out an instruction.
    pub fn step(&mut self, word: u32) {
        match bits(word, 25, 4) {
            0b1000 | 0b1001 => self.immediate(word),
            0b1010 | 0b1011 => self.branch_or_system(word),
            0b0101 | 0b1101 => self.register(word),
            0b0100 | 0b0110 | 0b1100 | 0b1110 => self.load_or_store(word),
            // A SIMD instruction may move into a general register.
            0b0111 | 0b1111 => self.set(word, Value::Unknown),
            _ => {}
        }
    }

    /// Data processing with an immediate.
    fn immediate(&mut self, word: u32) {
        let wide = word >> 31 == 1;
        let narrow = |value: u64| if wide { value } else { value & 0xffff_ffff };
        match bits(word, 23, 3) {
            // ADR, ADRP.
            0b000 | 0b001 => self.set(word, Value::Address),
            // MOVN, MOVZ, MOVK.
            0b101 => {
                let shift = 16 * bits(word, 21, 2);
                let part = u64::from(bits(word, 5, 16)) << shift;
                let value = match (bits(word, 29, 2), self.get(word)) {
                    (0b00, _) => Value::Constant(narrow(!part)),
                    (0b10, _) => Value::Constant(narrow(part)),
                    (0b11, Value::Constant(old)) => {
                        Value::Constant(narrow(old & !(0xffff << shift) | part))
                    }
                    (0b11, old) => old,
                    _ => Value::Unknown,
                };
                self.set(word, value);
            }
            // AND, ORR, EOR with a mask; ANDS.
            0b100 => {
                let source = self.get(word >> 5);
                let value = match (source, mask(word), bits(word, 29, 2)) {
                    (Value::Constant(source), Some(mask), 0b00 | 0b11) => {
                        Value::Constant(narrow(source & mask))
                    }
                    (Value::Constant(source), Some(mask), 0b01) => {
                        Value::Constant(narrow(source | mask))
                    }
                    (Value::Constant(source), Some(mask), 0b10) => {
                        Value::Constant(narrow(source ^ mask))
                    }
                    (source, ..) => source.computed(),
                };
                self.set(word, value);
            }
            // ADD, SUB: register 31 is the stack pointer here. BFM and EXTR: the old value is a source too.
            0b010 => {
                let from = word >> 5 & 31;
                let source = if from == 31 { Value::Unknown } else { self.get(from) };
                let shift = 12 * bits(word, 22, 1);
                let number = u64::from(bits(word, 10, 12)) << shift;
                let value = match (source, bits(word, 30, 1)) {
                    (Value::Constant(source), 0) => {
                        Value::Constant(narrow(source.wrapping_add(number)))
                    }
                    (Value::Constant(source), _) => {
                        Value::Constant(narrow(source.wrapping_sub(number)))
                    }
                    (source, _) => source.computed(),
                };
                self.set(word, value);
            }
            _ => {
                let (old, source, other) =
                    (self.get(word), self.get(word >> 5), self.get(word >> 16));
                let reads_old = bits(word, 23, 3) == 0b110 && bits(word, 29, 2) == 0b01;
                let extracts = bits(word, 23, 3) == 0b111;
                let value = match (reads_old, extracts) {
                    (true, _) => source.with(old),
                    (_, true) => source.with(other),
                    _ => source,
                };
                self.set(word, value.computed());
            }
        }
    }

    /// Data processing with registers.
    fn register(&mut self, word: u32) {
        let (first, second) = (self.get(word >> 5), self.get(word >> 16));
        // ORR without shift, of zero: MOV.
        let is_move = word & 0x7fe0_ffe0 == 0x2a00_03e0;
        let value = if is_move {
            match (second, word >> 31) {
                (Value::Constant(value), 0) => Value::Constant(value & 0xffff_ffff),
                (value, _) => value,
            }
        } else if bits(word, 24, 5) == 0b11011 {
            first.with(second).with(self.get(word >> 10)).computed()
        } else {
            first.with(second).computed()
        };
        self.set(word, value);
    }

    fn branch_or_system(&mut self, word: u32) {
        if word >> 26 == 0b100101 || word & 0xffff_fc1f == 0xd63f_0000 || word >> 24 == 0xd4 {
            // BL, BLR, SVC and the like: X19 to X29 are the callee's to keep (AAPCS64, 6.1.1).
            let called = (0..19).chain([30]);
            called.for_each(|number| self.set(number, Value::Unknown));
        } else if word >> 20 == 0xd53 {
            self.set(word, Value::Register);
        } else if word >> 26 == 0b000101 || word >> 25 == 0b1101011 {
            // B, and what branches to a register: what follows is reached from elsewhere.
            *self = Registers::unknown();
        }
    }

    /// Loads and stores. Where an encoding does not tell in one bit whether it loads, it is taken to.
    fn load_or_store(&mut self, word: u32) {
        let vector = bits(word, 26, 1) == 1;
        let (group, opc) = (bits(word, 28, 2), bits(word, 22, 2));
        let base = word >> 5;
        match group {
            // Exclusives, ordered, compare and swap: status and pairs too.
            0b00 => {
                for number in [word, word >> 10, word >> 16, (word >> 16) + 1] {
                    self.set(number, Value::Memory);
                }
            }
            // LDR (literal).
            0b01 => self.set_unless(vector, word),
            0b10 => {
                if opc & 1 == 1 {
                    self.set_unless(vector, word);
                    self.set_unless(vector, word >> 10);
                }
                if bits(word, 23, 1) == 1 {
                    self.set(base, self.get(base).computed());
                }
            }
            _ => {
                let unsigned_offset = bits(word, 24, 1) == 1;
                let atomic = !unsigned_offset && bits(word, 21, 1) == 1 && bits(word, 10, 2) == 0;
                if opc != 0 || atomic {
                    self.set_unless(vector, word);
                }
                if !unsigned_offset && bits(word, 21, 1) == 0 && bits(word, 10, 1) == 1 {
                    self.set(base, self.get(base).computed());
                }
            }
        }
    }

    fn set_unless(&mut self, vector: bool, number: u32) {
        if !vector {
            self.set(number, Value::Memory);
        }
    }
}

/// Where a direct branch or call at `address` goes: B, BL, B.cond, CBZ, CBNZ, TBZ, TBNZ.
pub fn branch_target(word: u32, address: u64) -> Option<u64> {
    let count = if word >> 26 & 0b11111 == 0b00101 {
        26
    } else if word >> 25 & 0b0111_1111 == 0b0101010 || word >> 25 & 0b0011_1111 == 0b011010 {
        19
    } else if word >> 25 & 0b0011_1111 == 0b011011 {
        14
    } else {
        return None;
    };
    let field = if count == 26 { word } else { word >> 5 };
    // Words, sign-extended.
    let offset = i64::from(field << (32 - count)) << 32 >> (64 - count) << 2;
    Some(address.wrapping_add_signed(offset))
}

/// The mask of a logical instruction (Arm ARM, shared pseudocode `DecodeBitMasks`).
fn mask(word: u32) -> Option<u64> {
    let (n, rotate, ones) = (bits(word, 22, 1), bits(word, 16, 6), bits(word, 10, 6));
    let combined = n << 6 | (!ones & 0x3f);
    let length = 31u32.checked_sub(combined.leading_zeros())?;
    if length == 0 {
        return None;
    }
    let size = 1u32 << length;
    let (ones, rotate) = (ones & (size - 1), rotate & (size - 1));
    if ones == size - 1 {
        return None;
    }
    let element = (1u64 << (ones + 1)) - 1;
    let within = if size == 64 { u64::MAX } else { (1 << size) - 1 };
    let rotated = match rotate {
        0 => element,
        _ => (element >> rotate | element << (size - rotate)) & within,
    };
    Some((0..64 / size).fold(0, |mask, copy| mask | rotated << (copy * size)))
}

fn bits(word: u32, low: u32, count: u32) -> u32 {
    (word >> low) & ((1 << count) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(words: &[u32]) -> Registers {
        let mut registers = Registers::unknown();
        words.iter().for_each(|&word| registers.step(word));
        registers
    }

    /// As an assembler encodes them.
    #[test]
    fn constants_are_followed_through_the_moves_that_make_them() {
        // mov x1, #0x5550; movk x1, #0x1234, lsl #16
        assert_eq!(after(&[0xd28a_aa01, 0xf2a2_4681]).get(1), Value::Constant(0x1234_5550));
        // mov w2, #-1; mov x3, x2
        assert_eq!(after(&[0x1280_0002, 0xaa02_03e3]).get(3), Value::Constant(0xffff_ffff));
        // mov x4, #0x400000 (ORR of a mask)
        assert_eq!(after(&[0xb26a_03e4]).get(4), Value::Constant(0x40_0000));
        // mov x5, xzr; add x5, x5, #16
        assert_eq!(after(&[0xaa1f_03e5, 0x9100_40a5]).get(5), Value::Constant(16));
        // orr x6, xzr, #0x5555555555555555
        assert_eq!(after(&[0xb200_f3e6]).get(6), Value::Constant(0x5555_5555_5555_5555));
    }

    #[test]
    fn what_is_not_a_constant_is_told_by_its_origin() {
        // mov x1, #1; ldr x1, [x0]
        assert_eq!(after(&[0xd280_0021, 0xf940_0001]).get(1), Value::Memory);
        // ldp x1, x2, [sp], #16
        let pair = after(&[0xa8c1_0be1]);
        assert_eq!((pair.get(1), pair.get(2)), (Value::Memory, Value::Memory));
        // mrs x3, sctlr_el1; orr x3, x3, #1
        assert_eq!(after(&[0xd538_1003, 0xb240_0063]).get(3), Value::Register);
        // adrp x4, ...
        assert_eq!(after(&[0x9000_0004]).get(4), Value::Address);
        // mov x0, #1; bl ...
        assert_eq!(after(&[0xd280_0020, 0x9400_0010]).get(0), Value::Unknown);
        // mov x1, #1; str x1, [x0]
        assert_eq!(after(&[0xd280_0021, 0xf900_0001]).get(1), Value::Constant(1));
        // mov x1, #1; ldr x2, [x0], #8; x0 has changed, x1 has not
        assert_eq!(after(&[0xd280_0021, 0xf840_8402]).get(1), Value::Constant(1));
        // mov x1, #1; ldadd x2, x1, [x0]
        assert_eq!(after(&[0xd280_0021, 0xf822_0001]).get(1), Value::Memory);
    }

    #[test]
    fn branches_go_where_their_offset_says() {
        assert_eq!(branch_target(0x1400_0002, 0x1000), Some(0x1008));
        assert_eq!(branch_target(0x97ff_ffff, 0x1000), Some(0xffc));
        assert_eq!(branch_target(0x5400_0041, 0x1000), Some(0x1008));
        assert_eq!(branch_target(0xb4ff_ffe0, 0x1000), Some(0xffc));
        assert_eq!(branch_target(0x3700_0040, 0x1000), Some(0x1008));
        assert_eq!(branch_target(0xd65f_03c0, 0x1000), None);
    }
}
