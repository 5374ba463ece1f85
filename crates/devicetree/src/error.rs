//! What was wrong, where, and what was expected there.

use crate::memory::Region;
use arrayvec::ArrayString;
use core::fmt;

/// A device tree that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Name of the node; empty when the blob as a whole is meant.
    pub node: ArrayString<NAME_LEN>,
    /// Name of the property; empty when the node as a whole is meant.
    pub property: &'static str,
    /// What was wrong with it.
    pub problem: Problem,
}

/// How much of a node's name is kept: an error is returned by value everywhere.
const NAME_LEN: usize = 48;

/// What was wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The blob cannot be walked.
    Malformed {
        /// Where in it.
        at: usize,
        /// What was expected there.
        expected: &'static str,
    },
    /// Bytes given and bytes needed, where a blob ends too early.
    Truncated {
        /// How many there are.
        given: usize,
        /// How many there should be.
        needed: usize,
    },
    /// A blob larger than the boot protocol allows, with its length.
    TooLarge(usize),
    /// Something is not there; holds what was looked for.
    Missing(&'static str),
    /// A property has a length that no value of its kind has.
    Length {
        /// Its length in bytes.
        bytes: usize,
        /// What was expected.
        expected: &'static str,
    },
    /// A property has a value outside what is understood.
    Value {
        /// The value.
        found: u64,
        /// What was expected.
        expected: &'static str,
    },
    /// A property is not the text that was expected.
    Text(&'static str),
    /// A list has more entries than the kernel can keep; holds that number.
    TooMany(usize),
    /// Two ranges share addresses and must not.
    Overlap(Region, Region),
}

impl Error {
    /// About the blob as a whole.
    pub(crate) fn blob(problem: Problem) -> Self {
        Self { node: ArrayString::new(), property: "", problem }
    }

    /// About a property of the node with this name, or about the node if `property` is empty.
    pub(crate) fn at(node: &[u8], property: &'static str, problem: Problem) -> Self {
        Self { node: clipped(node), property, problem }
    }
}

/// The start of `name` that fits, cut between characters. A name may hold any bytes; those that are no text are left out.
fn clipped(name: &[u8]) -> ArrayString<NAME_LEN> {
    let mut kept = ArrayString::new();
    for character in name.utf8_chunks().flat_map(|chunk| chunk.valid().chars()) {
        if kept.try_push(character).is_err() {
            break;
        }
    }
    kept
}

impl core::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("device tree: ")?;
        if !self.node.is_empty() {
            write!(f, "node `{}`: ", self.node)?;
        }
        if !self.property.is_empty() {
            write!(f, "property `{}`: ", self.property)?;
        }
        self.problem.fmt(f)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed { at, expected } => {
                write!(f, "damaged at byte {at}, expected {expected}")
            }
            Self::Truncated { given, needed } => {
                write!(f, "{given} bytes given, {needed} expected")
            }
            Self::TooLarge(len) => {
                write!(f, "{len} bytes, expected at most {}", crate::flat::MAX_LEN)
            }
            Self::Missing(what) => write!(f, "missing, expected {what}"),
            Self::Length { bytes, expected } => write!(f, "{bytes} bytes, expected {expected}"),
            Self::Value { found, expected } => write!(f, "{found:#x}, expected {expected}"),
            Self::Text(expected) => write!(f, "expected {expected}"),
            Self::TooMany(limit) => write!(f, "more than {limit} entries"),
            Self::Overlap(first, second) => write!(f, "{first} and {second} overlap"),
        }
    }
}
