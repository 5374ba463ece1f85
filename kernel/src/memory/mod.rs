//! Memory, from what the boot loader left to the kernel's final page tables.

pub mod boot;
pub mod heap;
pub mod paging;
