//! Finds every instruction of an image that can write a protection register, or a control register that protection depends on.
//!
//! Keys protect page tables from an attacker who can write memory, as long as no instruction opens a window for him. Which ones could
//! is a finite list, and this crate makes it: for a linked ELF or PE image for x86-64 or arm64, of any kernel, hypervisor, unikernel,
//! firmware or program. Each [`Site`] has its address, the function and the source line it is in, the value it writes as far as the
//! code before it tells, and whether it is on the path that decoding the functions takes, or hidden in other bytes.
//!
//! ```no_run
//! let bytes = std::fs::read("vmlinux")?;
//! let report = kpkeys_audit::audit(&bytes)?;
//! for site in &report.sites {
//!     println!("{:#x} {} {}", site.address, site.kind.name(), site.function);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A [`Known`] list, kept beside the sources, says which sites there may be; [`Known::compare`] says where an image differs from it.
//!
//! What the bytes are is not trusted: no input makes this crate panic or read outside it.

mod aarch64;
mod error;
mod found;
mod image;
mod kind;
mod known;
mod report;
mod source;
mod value;
mod x86_64;

pub use error::Error;
pub use found::Path;
pub use image::Architecture;
pub use kind::Kind;
pub use known::{Difference, Known, KnownError};
pub use report::{Report, Site, SourceLine};
pub use value::Value;
pub use x86_64::msr_name;

use found::Scan;
use image::Image;

/// Finds what is in an image.
///
/// # Errors
///
/// [`Error`] where the bytes are no image that can be audited.
pub fn audit(bytes: &[u8]) -> Result<Report, Error> {
    let image = Image::parse(bytes)?;
    let starts = image.starts();
    let mut all = Scan::default();
    for text in &image.text {
        all.extend(match image.architecture {
            Architecture::X86_64 => x86_64::scan(text, &starts),
            Architecture::Aarch64 => aarch64::scan(text, &starts, |address| image.is_data(address)),
        });
    }
    Ok(Report::new(&image, all))
}

/// Every kind of instruction that is looked for on an architecture.
pub fn kinds(architecture: Architecture) -> Vec<Kind> {
    match architecture {
        Architecture::X86_64 => x86_64::ALL.to_vec(),
        Architecture::Aarch64 => aarch64::all().collect(),
    }
}
