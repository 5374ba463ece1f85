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
    target_dir_of("Cargo.toml")
}

/// The same of another workspace of the checkout.
pub fn target_dir_of(manifest: &str) -> Result<PathBuf> {
    let arguments = ["metadata", "--no-deps", "--format-version", "1", "--manifest-path", manifest];
    let metadata = command::output(&mut command::cargo(&arguments))?;
    let metadata: Metadata =
        serde_json::from_str(&metadata).context("cannot understand `cargo metadata`")?;
    Ok(metadata.target_directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A first build takes minutes.
    #[test]
    fn no_alias_builds_without_a_word() {
        let file = root().join(".cargo/config.toml");
        let config: toml::Table = toml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let aliases = config["alias"].as_table().unwrap();
        assert!(aliases.contains_key("kpkeys") && aliases.contains_key("xtask"));
        for (name, words) in aliases {
            let words = words.as_str().unwrap();
            assert!(
                !words.split(' ').any(|word| matches!(word, "--quiet" | "-q")),
                "{name}: {words}"
            );
        }
    }

    #[test]
    fn the_target_directory_is_the_one_this_program_is_in() {
        let target = target_dir().unwrap();
        assert!(std::env::current_exe().unwrap().starts_with(&target), "{}", target.display());
    }
}
