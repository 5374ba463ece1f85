//! From the boot loader to a machine whose CPUs run on page tables of our own: what the loader told, the kernel's own image, the
//! early tables, the other CPUs, and what is written now and never again.

pub mod boot_info;
pub mod command_line;
pub mod early_tables;
pub mod image;
pub mod settled;
pub mod smp;
