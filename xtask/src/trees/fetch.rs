//! The distribution's arm64 kernel package, whose trees are of real boards.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::debian::Apt;
use crate::workspace;

/// The package that depends on the newest kernel.
const NEWEST: &str = "linux-image-arm64";

/// Fetches and unpacks it; the folder with its trees.
pub fn arm64_kernel() -> Result<PathBuf> {
    let apt = Apt::new("arm64", workspace::target_dir()?.join("trees"))
        .context("other trees can be read with --folder")?;
    let package = apt.newest_kernel(NEWEST).context("other trees can be read with --folder")?;
    let trees = apt.unpacked(&package)?.join("usr/lib").join(&package);
    if !trees.is_dir() {
        bail!("{package} has no trees in {}", trees.display());
    }
    Ok(trees)
}
