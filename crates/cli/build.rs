//! Tells the program which commit it is built from: `KPKEYS_COMMIT`, or nothing where that is not known. `KPKEYS_VERSION` has it too.
//!
//! Known it is in a checkout of this repository, by git, and in a package, which carries the commit it was made from. A folder that
//! merely lies inside somebody else's repository is neither.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What the program and the reference kernel are built from, seen from the root of the repository.
const SOURCES: [&str; 5] = ["crates", "kernel", "Cargo.toml", "Cargo.lock", "rust-toolchain.toml"];

fn main() {
    let package = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    println!("cargo:rerun-if-changed=build.rs");
    let mut version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    if let Some(commit) = of_checkout(&package).or_else(|| of_package(&package)) {
        println!("cargo:rustc-env=KPKEYS_COMMIT={commit}");
        version += &format!(" (commit {commit})");
    }
    println!("cargo:rustc-env=KPKEYS_VERSION={version}");
}

fn of_checkout(package: &Path) -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").current_dir(package).args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    git(&["ls-files", "--error-unmatch", "build.rs"])?;
    let root = PathBuf::from(git(&["rev-parse", "--show-toplevel"])?);
    let head = git(&["rev-parse", "HEAD"])?;
    // Where HEAD moves, and whatever may differ from it.
    let moved = package.join(git(&["rev-parse", "--git-path", "logs/HEAD"])?);
    let watched = SOURCES.iter().map(|source| root.join(source)).chain([moved]);
    for path in watched.filter(|path| path.exists()) {
        println!("cargo:rerun-if-changed={}", path.display());
    }
    let root = root.to_str()?;
    let mut status = vec!["-C", root, "status", "--porcelain", "--"];
    status.extend(SOURCES);
    let clean = git(&status)?.is_empty();
    Some(if clean { head } else { format!("{head}-dirty") })
}

/// `cargo package` writes the commit beside the manifest.
fn of_package(package: &Path) -> Option<String> {
    let path = package.join(".cargo_vcs_info.json");
    println!("cargo:rerun-if-changed={}", path.display());
    let text = std::fs::read_to_string(path).ok()?;
    let (_, rest) = text.split_once("\"sha1\": \"")?;
    let commit = rest.get(..40)?;
    commit.chars().all(|digit| digit.is_ascii_hexdigit()).then(|| commit.to_owned())
}
