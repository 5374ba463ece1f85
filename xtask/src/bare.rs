//! What keeps the lower crates fit for a kernel: they build where there is no operating system, and
//! the bottom one depends on nothing.

use anyhow::{Result, bail};

use crate::command;
use crate::step::Outcome;
use crate::toolchain::Toolchain;

/// Those of the crates below that wrap nobody else's.
pub const OWN_CRATES: [&str; 7] = [
    "kpkeys",
    "kpkeys-pgtable",
    "kpkeys-mm",
    "kpkeys-workloads",
    "kpkeys-devicetree",
    "kpkeys-program",
    "kpkeys-handover",
];

/// Adapters that a kernel links.
const ADAPTERS: [&str; 5] = [
    "kpkeys-aarch64-paging",
    "kpkeys-x86_64",
    "kpkeys-page_table_multiarch",
    "kpkeys-page-table-generic",
    "kpkeys-patina_paging",
];

/// The crates that a kernel links.
fn no_std_crates() -> impl Iterator<Item = &'static str> {
    OWN_CRATES.into_iter().chain(ADAPTERS)
}

/// Builds them for both bare targets. Those have no `std` at all, so that a use of it anywhere in the
/// dependencies ends the build.
pub fn build() -> Result<Outcome> {
    let toolchain = Toolchain::of_workspace()?;
    let mut arguments = vec!["build"];
    arguments.extend(no_std_crates().flat_map(|name| ["--package", name]));
    arguments.extend(toolchain.bare_targets().flat_map(|target| ["--target", target]));
    command::run(&mut command::cargo(&arguments))?;
    Ok(Outcome::Done)
}

/// Checks that `kpkeys` has no dependency on any target. Test-only dependencies do not count: no user
/// builds them.
pub fn no_dependencies() -> Result<Outcome> {
    let arguments =
        ["tree", "--package=kpkeys", "--edges=normal,build", "--target=all", "--prefix=none"];
    let tree = command::output(&mut command::cargo(&arguments))?;
    let dependencies: Vec<_> = tree.lines().skip(1).collect();
    if !dependencies.is_empty() {
        bail!("`kpkeys` must depend on nothing, but pulls in: {}", dependencies.join(", "));
    }
    println!("kpkeys depends on nothing");
    no_mock()
}

/// Checks that no library that a kernel links turns on the mock, which protects nothing: who wants it says so.
fn no_mock() -> Result<Outcome> {
    for name in no_std_crates() {
        let package = format!("--package={name}");
        let arguments = ["tree", &package, "--edges=normal,features", "--target=all"];
        let tree = command::output(&mut command::cargo(&arguments))?;
        if tree.contains(r#"kpkeys feature "mock""#) {
            bail!("`{name}` turns on the feature `mock` of `kpkeys`, which protects nothing");
        }
    }
    println!("no library of a kernel turns on the mock");
    Ok(Outcome::Done)
}
