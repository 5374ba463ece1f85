//! What a refused access reports.

use core::fmt;

/// Why an access was refused, as far as the CPU says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Nothing is mapped there.
    NotMapped,
    /// The page is mapped and the write is not allowed.
    Write,
    /// The page is mapped and reading it is not allowed.
    Read,
    /// The page is mapped and must not be executed.
    Execute,
    /// The protection key forbids the access.
    Key,
    /// Not a page fault.
    Other,
}

/// A fault that the faulting code expected and survived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Fault {
    /// Decoded cause.
    pub cause: Cause,
    /// The address accessed, as the CPU reported it.
    pub address: u64,
    /// The error code (x86-64) or syndrome (arm64).
    pub code: u64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} fault at {:#x}, code {:#x}", self.cause, self.address, self.code)
    }
}
