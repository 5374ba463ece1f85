//! Contexts: symbolic configurations of all managed keys, one type each.
//!
//! A context is a type, not a value, so which one is entered is known when the code is compiled: no data in
//! memory selects it, and the register value it stands for is an immediate operand of the code that enters it.

use crate::key::{Access, AccessMap, Pkey};

/// A symbolic configuration of all managed keys.
///
/// Implement it for a unit type of your own by changing the map of [`struct@Default`]; entering a context checks
/// its map at compile time.
///
/// ```
/// use kpkeys::{Access, AccessMap, Context, Pkey};
///
/// /// Credentials may be written, page tables may not.
/// struct Credentials;
/// impl Context for Credentials {
///     const ACCESS: AccessMap =
///         AccessMap::PROTECTED.with(Pkey::WRITE_RARELY, Access::ReadWrite);
/// }
/// ```
pub trait Context {
    /// What this context allows, key by key.
    const ACCESS: AccessMap;
}

/// Key 0 read-write, every managed key read-only: the context a CPU is in unless it opened a window.
#[derive(Clone, Copy, Debug)]
pub struct Default;

impl Context for Default {
    const ACCESS: AccessMap = AccessMap::PROTECTED;
}

/// [`struct@Default`], and page tables may be written: all of them, or, where those of address spaces have a key of their own, the others, and
/// what is guarded as page tables are.
#[derive(Clone, Copy, Debug)]
pub struct PageTables;

impl Context for PageTables {
    const ACCESS: AccessMap = AccessMap::PROTECTED.with(Pkey::PAGE_TABLES, Access::ReadWrite);
}

/// [`struct@Default`], and the tables of address spaces may be written, where they have a key of their own. The kernel's stay closed.
#[derive(Clone, Copy, Debug)]
pub struct UserTables;

impl Context for UserTables {
    const ACCESS: AccessMap = AccessMap::PROTECTED.with(Pkey::USER_TABLES, Access::ReadWrite);
}
