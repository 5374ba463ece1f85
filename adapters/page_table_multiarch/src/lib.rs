#![doc = include_str!("../README.md")]
#![no_std]

#[cfg(target_arch = "x86_64")]
mod handler;
#[cfg(target_arch = "x86_64")]
mod table;

#[cfg(target_arch = "x86_64")]
pub use handler::{Kernel, Protected};
#[cfg(target_arch = "x86_64")]
pub use table::{Cursor, HardenedPageTable, PAGES};
