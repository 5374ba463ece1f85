//! What a scan of code finds.

use serde::Serialize;

use crate::kind::Kind;
use crate::value::Value;

/// How an instruction was come upon.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    /// By decoding from the start of a function on: the compiler or the author meant it.
    Decoded,
    /// Inside another instruction, or in data among code: it is executed only by who jumps there.
    Hidden,
}

/// An instruction of a kind that is looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// Where it begins.
    pub address: u64,
    /// Its kind.
    pub kind: Kind,
    /// How it was come upon.
    pub path: Path,
    /// What it writes.
    pub value: Value,
    /// Which model-specific register it writes, if it writes one.
    pub msr: Option<Value>,
}

/// All there is in a text.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scan {
    /// The instructions.
    pub found: Vec<Found>,
    /// One-byte instructions that are hidden, which are only counted.
    pub hidden_one_byte: u64,
}

impl Scan {
    /// Adds another text's.
    pub(crate) fn extend(&mut self, other: Scan) {
        self.found.extend(other.found);
        self.hidden_one_byte += other.hidden_one_byte;
    }
}
