//! Building the UEFI application that starts the kernel on a machine, and what it takes of a kernel.

use std::fs;
use std::path::PathBuf;

use crate::build::{build, check_rust_target, target_dir};
use crate::slim::slim;
use crate::{Error, Kernel, Target, source};

/// Builds the application; its file.
///
/// # Errors
///
/// As [`Kernel::build`].
pub fn loader(target: Target) -> Result<PathBuf, Error> {
    let rust_target = target.loader_target();
    let kernel = source::folder()?;
    let folder = kernel.join("loader");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    check_rust_target(&rustc, &folder, rust_target)?;
    Ok(build(&folder, &target_dir(&kernel), rust_target, &[])?.join("kpkeys-loader.efi"))
}

impl Kernel {
    /// What the application takes: a Linux Image, or an ELF file with nothing that is not loaded.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] or [`Error::BadImage`].
    pub fn for_loader(&self) -> Result<Vec<u8>, Error> {
        let file = self.image().to_owned();
        let bytes =
            fs::read(&file).map_err(|source| Error::Io { program: file.clone(), source })?;
        match self.target().loads_flat_images() {
            true => Ok(bytes),
            false => slim(&bytes).map_err(|reason| Error::BadImage { file, reason }),
        }
    }
}
