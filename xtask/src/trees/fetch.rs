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
    let depends = apt.dependencies(NEWEST)?;
    let package = kernel_in(&depends)
        .with_context(|| format!("{NEWEST} depends on no kernel; see --folder"))?;
    let trees = apt.unpacked(package)?.join("usr/lib").join(package);
    if !trees.is_dir() {
        bail!("{package} has no trees in {}", trees.display());
    }
    Ok(trees)
}

/// The first dependency that is a kernel.
fn kernel_in(depends: &str) -> Option<&str> {
    depends.lines().find_map(|line| {
        line.trim().strip_prefix("Depends: ").filter(|name| name.starts_with("linux-image-"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_what_the_newest_depends_on() {
        let depends = "linux-image-arm64\n  Depends: linux-image-6.1.0-1-arm64\n  Conflicts: x\n";
        assert_eq!(kernel_in(depends), Some("linux-image-6.1.0-1-arm64"));
        assert_eq!(kernel_in("linux-image-arm64\n  Depends: linux-base\n"), None);
    }
}
