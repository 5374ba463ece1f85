#![doc = include_str!("../README.md")]
#![no_std]

#[cfg(target_arch = "x86_64")]
mod ops;
#[cfg(target_arch = "x86_64")]
mod tables;

#[cfg(target_arch = "x86_64")]
pub use ops::Reader;
#[cfg(target_arch = "x86_64")]
pub use tables::{HardenedTables, MapError};
