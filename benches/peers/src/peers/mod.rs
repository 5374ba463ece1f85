//! The libraries: this one, six others, and a loop written by hand.

pub mod aarch64_paging;
pub mod generic;
pub mod hand;
pub mod hyperlight;
pub mod kpkeys;
pub mod multiarch;
pub mod patina;
pub mod x86_64;
