//! Where the workspace is, and where Cargo builds it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::command;

/// The root of the checkout: the parent of this package's folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace")
}

#[derive(Deserialize)]
struct Metadata {
    target_directory: PathBuf,
}

/// Cargo's target directory: `CARGO_TARGET_DIR`, what a configuration says, or `target`; Cargo knows.
pub fn target_dir() -> Result<PathBuf> {
    let arguments = ["metadata", "--no-deps", "--format-version", "1"];
    let metadata = command::output(&mut command::cargo(&arguments))?;
    let metadata: Metadata =
        serde_json::from_str(&metadata).context("cannot understand `cargo metadata`")?;
    Ok(metadata.target_directory)
}
