#![doc = include_str!("../README.md")]
#![no_std]

#[cfg(target_arch = "x86_64")]
mod adopt;
#[cfg(target_arch = "x86_64")]
mod frames;
#[cfg(target_arch = "x86_64")]
mod table;

#[cfg(target_arch = "x86_64")]
pub use adopt::adopt;
#[cfg(target_arch = "x86_64")]
pub use frames::Stock;
#[cfg(target_arch = "x86_64")]
pub use table::{Batch, HardenedPageTable};
