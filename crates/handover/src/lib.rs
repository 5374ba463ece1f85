//! What a UEFI loader reads to start the reference kernel on a machine, and what it hands over.
//!
//! | module | concept |
//! |---|---|
//! | [`medium`] | which file lies where on a boot medium |
//! | [`settings`] | `kpkeys.txt`: the command lines that the kernel is started with, one after the other |
//! | [`menu`] | what is offered where no settings say it |
//! | [`ranges`] | the memory that firmware leaves |
//! | [`pvh`] | a kernel for x86-64: which pieces of its ELF file go where, and its 32-bit entry |
//! | [`start_info`] | PVH's start information, which that kernel is given |
//! | [`image`] | a kernel for arm64: the header of a Linux Image |
//! | [`tree`] | the device tree, which that kernel is given |
//! | [`acpi`] | what an arm64 machine without one says of itself |
//! | [`described`] | a device tree made of that |
//!
//! None of the input is trusted: what does not add up is an error that says what to do. Nothing here touches memory that it was not given, so
//! all of it is tested on any host.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod acpi;
pub mod described;
pub mod image;
pub mod medium;
pub mod menu;
pub mod pvh;
pub mod ranges;
pub mod settings;
pub mod start_info;
pub mod tree;
