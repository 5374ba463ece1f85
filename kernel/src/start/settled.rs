//! What is written during start and never again: descriptor tables, the selected backend, where the kernel's root is.
//!
//! A static that belongs here carries `#[unsafe(link_section = ".settled")]`. Its pages are ordinary memory on the early tables. On the
//! final ones the image maps them read-only, and in the linear map they are protected as page tables are, so that from the moment
//! protection is on no store reaches them. A value is filled in through its [`Settled`] before the final tables are loaded.

use core::ops::Deref;

/// A value that is set once, during start.
pub struct Settled<T>(spin::Once<T>);

impl<T> Settled<T> {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self(spin::Once::new())
    }

    /// Sets the value, if that has not been done, and returns it. Once start is over this must have been done.
    pub fn settle(&self, value: impl FnOnce() -> T) -> &T {
        self.0.call_once(value)
    }

    /// The value, if it is set.
    #[inline(always)]
    pub fn get(&self) -> Option<&T> {
        self.0.get()
    }
}

impl<T> Deref for Settled<T> {
    type Target = T;

    /// # Panics
    ///
    /// Before the value is set.
    fn deref(&self) -> &T {
        self.get().expect("start sets this before anything uses it")
    }
}
