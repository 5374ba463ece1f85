#![doc = include_str!("../README.md")]
#![no_std]

mod adopt;
mod entry;
mod error;
mod for_adapters;
mod frames;
mod key;
mod linear;
mod machine;
mod mapper;
pub mod pieces;
mod protection;

pub use error::{AdoptError, OutOfFrames};
pub use for_adapters::Within;
pub use linear::{Linear, LinearMap};
pub use machine::Machine;
#[cfg(target_arch = "x86_64")]
pub use machine::OneCpu;
pub use mapper::{Batch, HardenedPageTable};
pub use protection::Protection;
