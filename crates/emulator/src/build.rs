//! Building the kernel: a Cargo package of its own, for a bare target.

use crate::{Error, Target, flat};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A kernel image and the machine it is for.
#[derive(Clone, Debug)]
pub struct Kernel {
    target: Target,
    elf: PathBuf,
    image: PathBuf,
}

/// Flags that a caller's environment may carry for its own build. The kernel's own
/// `.cargo/config.toml` must decide, or it would not link at its address.
const FOREIGN_FLAGS: [&str; 5] = [
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_TARGET_DIR",
];

impl Kernel {
    /// Builds the kernel from the checkout this program was built from; quick when nothing has
    /// changed. Cargo's messages go to standard error.
    ///
    /// # Errors
    ///
    /// [`Error::SourceMissing`], [`Error::Build`], [`Error::BadImage`], or [`Error::Io`] when Cargo does not start.
    pub fn build(target: Target) -> Result<Self, Error> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernel");
        if !folder.join("Cargo.toml").is_file() {
            return Err(Error::SourceMissing { folder });
        }
        let program = PathBuf::from(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        let mut cargo = Command::new(&program);
        // In the kernel's folder, where Cargo finds the kernel's configuration.
        cargo.current_dir(&folder).stdin(Stdio::null()).stdout(Stdio::null());
        cargo.args(["build", "--quiet", "--release", "--target", target.rust_target()]);
        cargo.args(["--target-dir", "target"]);
        for variable in FOREIGN_FLAGS {
            cargo.env_remove(variable);
        }
        let status = cargo.status().map_err(|source| Error::Io { program, source })?;
        if !status.success() {
            return Err(Error::Build { status });
        }
        let elf = folder.join("target").join(target.rust_target()).join("release/kpkeys-kernel");
        let image =
            if target.loads_flat_images() { flat::write_beside(&elf)? } else { elf.clone() };
        Ok(Self { target, elf, image })
    }

    /// An image that was built before, in the form the emulator takes.
    pub fn prebuilt(target: Target, image: PathBuf) -> Self {
        Self { target, elf: image.clone(), image }
    }

    /// The machine it is for.
    pub fn target(&self) -> Target {
        self.target
    }

    /// The file the linker made, with symbols and debug information; of an image that was built before, the image itself.
    pub fn elf(&self) -> &Path {
        &self.elf
    }

    /// The file the emulator is given: the ELF file, or the flat image made of it.
    pub fn image(&self) -> &Path {
        &self.image
    }
}
