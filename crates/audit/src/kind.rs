//! The kinds of instructions that are looked for.

use serde::{Serialize, Serializer};
use std::fmt;

/// A kind of instruction: what it writes, under the name that reports and known lists use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind {
    name: &'static str,
    writes: &'static str,
}

impl Kind {
    /// A kind. Names are in lower case, and unique within an architecture.
    pub(crate) const fn new(name: &'static str, writes: &'static str) -> Self {
        Kind { name, writes }
    }

    /// Its name, as `wrmsr` or `msr pan`.
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// What it writes that protection depends on.
    pub const fn writes(self) -> &'static str {
        self.writes
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}
