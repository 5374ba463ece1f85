//! What [`Paging::protect`](crate::Paging::protect) makes of leaves.
//!
//! It is done in a window, for each leaf. So a caller says *what*, and this crate's code does it: no code of a caller's runs there, and none can make an entry of its own.

use crate::addr::Level;
use crate::entry::{Attrs, Entry, Format};

mod sealed {
    use crate::entry::{Entry, Format};

    /// See [`Change`](super::Change).
    pub trait Apply {
        /// What a valid leaf becomes.
        fn apply<F: Format>(&self, leaf: Entry) -> Entry;
    }
}

pub(crate) use sealed::Apply;

/// What becomes of valid leaves.
pub trait Change: Apply {}

impl<T: Apply> Change for T {}

/// No more stores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteProtect;

impl Apply for WriteProtect {
    #[inline(always)]
    fn apply<F: Format>(&self, leaf: Entry) -> Entry {
        F::write_protected(leaf)
    }
}

/// Instruction fetches, or none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Executable(pub bool);

impl Apply for Executable {
    #[inline(always)]
    fn apply<F: Format>(&self, leaf: Entry) -> Entry {
        let attrs = Attrs { execute: self.0, ..F::attrs(leaf) };
        // What was mapped at this level can be.
        F::leaf(Level::Pte, F::frame(Level::Pte, leaf), attrs).unwrap_or(leaf)
    }
}

/// Not used of late.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unused;

impl Apply for Unused {
    #[inline(always)]
    fn apply<F: Format>(&self, leaf: Entry) -> Entry {
        F::old(leaf)
    }
}

/// Whatever a function makes of them: for attacks, and for tests of what is refused.
#[derive(Clone, Copy, Debug)]
pub struct By<C>(C);

impl<C: Fn(Entry) -> Entry> By<C> {
    /// # Safety
    ///
    /// The function runs inside windows: whatever it stores to page tables is stored, and if it panics the window stays open. In modes that check nothing, what it returns is what CPUs
    /// translate by.
    pub const unsafe fn new(change: C) -> Self {
        By(change)
    }
}

impl<C: Fn(Entry) -> Entry> Apply for By<C> {
    #[inline(always)]
    fn apply<F: Format>(&self, leaf: Entry) -> Entry {
        (self.0)(leaf)
    }
}
