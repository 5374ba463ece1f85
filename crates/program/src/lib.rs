//! What a kernel reads before it runs a Linux program: initramfs archives, ELF files, and the first stack.
//!
//! | module | concept |
//! |---|---|
//! | [`initramfs`] | the archive a boot loader hands over, file by file |
//! | [`executable`] | which pieces of an ELF file go where in memory |
//! | [`stack`] | what a program finds on its stack when it starts |
//!
//! None of the input is trusted: lengths, sums and alignments are checked, and what does not add up is an error that says where. Nothing
//! here touches memory that it was not given, so all of it is tested on any host.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod executable;
pub mod initramfs;
pub mod stack;
