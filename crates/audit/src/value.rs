//! Where the value comes from that an instruction writes: what straight-line code before it tells.
//!
//! Only code from the nearest place that a direct branch may enter at is looked at, so a constant is one on every path a direct branch
//! takes. A jump table that enters in between is not seen.

use serde::{Serialize, Serializer};

/// The value of a register, as far as it is known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Value {
    /// The instruction has no operand: what it does is fixed.
    Fixed,
    /// This value.
    Constant(u64),
    /// An address relative to the code.
    Address,
    /// Read from a system register, perhaps with bits changed.
    Register,
    /// An argument, a result, or set before the code that was looked at.
    Unknown,
    /// Loaded from memory.
    Memory,
}

impl Value {
    /// What can be said of something computed from both.
    #[must_use]
    pub(crate) fn with(self, other: Value) -> Value {
        match (self, other) {
            (Value::Constant(a), Value::Constant(b)) if a == b => self,
            (Value::Constant(_), Value::Constant(_)) => Value::Unknown,
            // The order of the variants: what an attacker may choose wins.
            _ => self.max(other),
        }
    }

    /// What can be said of something computed from it in a way that is not followed.
    #[must_use]
    pub(crate) fn computed(self) -> Value {
        match self {
            Value::Constant(_) | Value::Fixed => Value::Unknown,
            other => other,
        }
    }

    /// Its name in tables and known lists.
    pub const fn name(self) -> &'static str {
        match self {
            Value::Fixed => "fixed",
            Value::Constant(_) => "constant",
            Value::Address => "address",
            Value::Register => "register",
            Value::Unknown => "unknown",
            Value::Memory => "memory",
        }
    }
}

/// A number as a string in hexadecimal, since JSON's numbers do not hold 64 bits everywhere; otherwise the name.
impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Constant(value) => serializer.collect_str(&format_args!("{value:#x}")),
            other => serializer.serialize_str(other.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_attacker_may_choose_wins() {
        assert_eq!(Value::Constant(1).with(Value::Memory), Value::Memory);
        assert_eq!(Value::Memory.with(Value::Register), Value::Memory);
        assert_eq!(Value::Register.with(Value::Unknown), Value::Unknown);
        assert_eq!(Value::Constant(1).with(Value::Constant(2)), Value::Unknown);
        assert_eq!(Value::Constant(7).with(Value::Constant(7)), Value::Constant(7));
        assert_eq!(Value::Register.with(Value::Constant(7)), Value::Register);
    }
}
