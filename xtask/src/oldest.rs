//! The oldest Rust that the manifests promise (`rust-version`): every library and program is checked with it.
//!
//! rustup gets it. Where there is none the promise stays untested, which the summary says: no other Rust can stand in for it.

use anyhow::Result;

use crate::command;
use crate::step::Outcome;
use crate::workspace;

/// `rust-version` of the workspace, which this program has too.
const VERSION: &str = env!("CARGO_PKG_RUST_VERSION");
const _: () = assert!(!VERSION.is_empty(), "the manifest promises one");

/// Checks the workspace with it, in a target directory of its own: two compilers in one would drive each other's files out.
pub fn check() -> Result<Outcome> {
    if command::find("rustup").is_none() {
        return Ok(Outcome::Incomplete(format!("there is no rustup to get Rust {VERSION} with")));
    }
    let install = ["toolchain", "install", VERSION, "--profile", "minimal", "--no-self-update"];
    command::run(&mut command::program("rustup", &install))?;
    let target = format!("--target-dir={}", workspace::target_dir()?.join("oldest").display());
    let check = ["run", VERSION, "cargo", "check", "--workspace", &target];
    command::run(&mut command::program("rustup", &check))?;
    Ok(Outcome::Done)
}
