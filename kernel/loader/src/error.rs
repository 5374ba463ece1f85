//! Why the kernel was not started, in words for whoever stands before the machine.

use alloc::string::String;
use core::fmt;
use kpkeys_handover::medium::{Machine, STARTED};
#[cfg(target_arch = "x86_64")]
use kpkeys_handover::ranges::Addresses;
use uefi::Status;

/// Why not.
#[derive(Debug)]
pub enum Error {
    /// The firmware does not give the medium that this program was started from.
    NoMedium(Status),
    /// A file of the medium could not be read or written.
    File(String, Status),
    /// There is no kernel for this machine.
    NoKernel(Machine),
    /// The kernel is damaged, or of another kind.
    BadKernel(String),
    /// The count of started lines is no number.
    BadCount,
    /// The firmware has no memory for this.
    NoMemory(&'static str, Status),
    /// The firmware keeps memory that the kernel must have.
    #[cfg(target_arch = "x86_64")]
    Taken(&'static str, Addresses),
    /// The machine lacks a description that the kernel needs.
    #[cfg(target_arch = "x86_64")]
    NoAcpi,
    /// The root of ACPI's tables is where the kernel cannot read it.
    #[cfg(target_arch = "x86_64")]
    AcpiTooHigh(u64),
    /// Nothing describes the machine.
    #[cfg(target_arch = "aarch64")]
    NoTree,
    /// ACPI's tables describe one that the kernel cannot be started on, or are damaged.
    #[cfg(target_arch = "aarch64")]
    Acpi(kpkeys_handover::acpi::Error),
    /// The device tree is none that can be handed over.
    #[cfg(target_arch = "aarch64")]
    BadTree(kpkeys_handover::tree::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMedium(status) => {
                write!(f, "the firmware does not give the medium this was started from: {status}")
            }
            Self::File(name, status) => write!(f, "{name}: {status}"),
            Self::NoKernel(machine) => write!(
                f,
                "there is no {} on this medium; make it with --arch {} or both",
                machine.kernel(),
                machine.name()
            ),
            Self::BadKernel(reason) => {
                write!(f, "the kernel cannot be started: {reason}; write the medium anew")
            }
            Self::BadCount => write!(f, "{STARTED} is no number; delete it"),
            Self::NoMemory(what, status) => write!(f, "no memory for {what}: {status}"),
            #[cfg(target_arch = "x86_64")]
            Self::Taken(what, range) => write!(
                f,
                "the firmware keeps memory in {:#x}..{:#x}, {what}; this machine cannot be used",
                range.start, range.end
            ),
            #[cfg(target_arch = "x86_64")]
            Self::NoAcpi => f.write_str("the firmware has no ACPI tables, by which CPUs are found"),
            #[cfg(target_arch = "x86_64")]
            Self::AcpiTooHigh(at) => {
                write!(f, "the root of the ACPI tables is at {at:#x}, beyond 4 GiB")
            }
            #[cfg(target_arch = "aarch64")]
            Self::NoTree => f.write_str("the firmware has neither a device tree nor ACPI tables"),
            #[cfg(target_arch = "aarch64")]
            Self::Acpi(error) => {
                write!(f, "{error}; some firmware has a setting for a device tree")
            }
            #[cfg(target_arch = "aarch64")]
            Self::BadTree(error) => write!(f, "{error}"),
        }
    }
}
