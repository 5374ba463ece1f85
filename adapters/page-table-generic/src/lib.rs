#![doc = include_str!("../README.md")]
#![no_std]

#[cfg(target_arch = "x86_64")]
mod frames;
#[cfg(target_arch = "x86_64")]
mod pieces;
#[cfg(target_arch = "x86_64")]
mod quiet;
#[cfg(target_arch = "x86_64")]
mod table;

#[cfg(target_arch = "x86_64")]
pub use frames::{Stock, adopt};
#[cfg(target_arch = "x86_64")]
pub use quiet::Quiet;
#[cfg(target_arch = "x86_64")]
pub use table::{Batch, HardenedPageTable};
