//! The Rust components and targets that `rust-toolchain.toml` names, and getting them.
//!
//! rustup reads that file itself, but installs nothing where automatic installation is turned off
//! (`RUSTUP_AUTO_INSTALL=0`), and a Rust that did not come from rustup never reads it. So we look at
//! what is really there and ask rustup only for what is not.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::{command, workspace};

/// The part of `rust-toolchain.toml` that can be installed into a toolchain.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Toolchain {
    components: Vec<String>,
    /// The bare targets that the `no_std` crates are built for, and those of UEFI that the loader is.
    targets: Vec<String>,
}

#[derive(Deserialize)]
struct ToolchainFile {
    toolchain: Toolchain,
}

impl Toolchain {
    /// Reads `rust-toolchain.toml`.
    pub fn of_workspace() -> Result<Self> {
        let file = workspace::root().join("rust-toolchain.toml");
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Self::parse(&text).with_context(|| format!("cannot understand {}", file.display()))
    }

    /// Targets alone.
    pub fn of_targets(targets: &[&str]) -> Self {
        let targets = targets.iter().map(|&target| target.to_owned()).collect();
        Toolchain { components: Vec::new(), targets }
    }

    fn parse(text: &str) -> Result<Self> {
        Ok(toml::from_str::<ToolchainFile>(text)?.toolchain)
    }

    /// The targets that have no `std` at all.
    pub fn bare_targets(&self) -> impl Iterator<Item = &str> {
        self.targets.iter().map(String::as_str).filter(|target| !target.ends_with("-uefi"))
    }

    /// Has rustup install what is missing, and checks that it is there afterwards.
    pub fn install_missing(&self) -> Result<()> {
        let missing = self.missing()?;
        if missing.is_empty() {
            println!("Rust components and targets: all installed");
            return Ok(());
        }
        if command::find("rustup").is_none() {
            bail!(
                "missing: {missing}. There is no rustup on PATH to install it: get rustup from \
                 https://rustup.rs, or install these with what your Rust came from"
            );
        }
        missing.install()?;
        let still_missing = self.missing()?;
        if !still_missing.is_empty() {
            bail!("still missing after rustup ran: {still_missing}");
        }
        Ok(())
    }

    fn missing(&self) -> Result<Missing> {
        let mut missing = Missing::default();
        for component in &self.components {
            if !component_works(component)? {
                missing.components.push(component.clone());
            }
        }
        for target in &self.targets {
            if !target_is_there(target)? {
                missing.targets.push(target.clone());
            }
        }
        Ok(missing)
    }
}

/// What is to be installed.
#[derive(Default)]
struct Missing {
    components: Vec<String>,
    targets: Vec<String>,
}

impl Missing {
    fn is_empty(&self) -> bool {
        self.components.is_empty() && self.targets.is_empty()
    }

    fn install(&self) -> Result<()> {
        for (kind, names) in [("component", &self.components), ("target", &self.targets)] {
            if !names.is_empty() {
                let names = names.iter().map(String::as_str);
                let arguments: Vec<_> = [kind, "add"].into_iter().chain(names).collect();
                command::run(&mut command::program("rustup", &arguments))?;
            }
        }
        Ok(())
    }
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let components = self.components.iter().map(|name| format!("component {name}"));
        let targets = self.targets.iter().map(|name| format!("target {name}"));
        f.write_str(&components.chain(targets).collect::<Vec<_>>().join(", "))
    }
}

/// rustup leaves a `cargo-fmt` on `PATH` even where the component is not installed, so only running
/// it tells.
fn component_works(component: &str) -> Result<bool> {
    let subcommand = match component {
        "rustfmt" => "fmt",
        "clippy" => "clippy",
        other => bail!("rust-toolchain.toml asks for `{other}`, which xtask cannot look for"),
    };
    Ok(command::succeeds(&mut command::cargo(&[subcommand, "--version"])))
}

fn target_is_there(target: &str) -> Result<bool> {
    let arguments = ["--print", "target-libdir", "--target", target];
    let folder = command::output(&mut command::program("rustc", &arguments))?;
    Ok(Path::new(folder.trim()).is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_this_workspace_names_both_bare_targets() {
        let toolchain = Toolchain::of_workspace().unwrap();
        let targets: Vec<&str> = toolchain.bare_targets().collect();
        assert_eq!(targets, ["x86_64-unknown-none", "aarch64-unknown-none-softfloat"]);
    }

    #[test]
    fn a_file_without_targets_is_an_error_that_names_the_field() {
        let error = Toolchain::parse("[toolchain]\ncomponents = []").unwrap_err().to_string();
        assert!(error.contains("targets"), "{error}");
    }

    #[test]
    fn what_is_missing_is_listed_by_kind_and_name() {
        let missing = Missing {
            components: vec!["clippy".into()],
            targets: vec!["x86_64-unknown-none".into()],
        };
        assert_eq!(missing.to_string(), "component clippy, target x86_64-unknown-none");
    }

    #[test]
    fn the_target_this_test_was_built_for_is_there() {
        let verbose = command::output(&mut command::program("rustc", &["-vV"])).unwrap();
        let host = verbose.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
        assert!(target_is_there(host).unwrap());
        assert!(target_is_there("no-such-target").is_err());
    }
}
