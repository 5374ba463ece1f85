//! The documentation: what rustdoc makes of the sources, and the book in `docs/`.
//!
//! The command is documented into a folder of its own: its binary is called `kpkeys` like the bottom
//! crate, and each would overwrite the other's pages. The build folder stays the shared one.

use std::process::Command;

use anyhow::{Result, bail};

use crate::step::Outcome;
use crate::{command, links, system_calls, workspace};

/// rustdoc over all crates, warnings denied.
pub fn rustdoc() -> Result<Outcome> {
    command::run(&mut denying_warnings(&[
        "doc",
        "--workspace",
        "--exclude=kpkeys-cli",
        "--no-deps",
    ]))?;
    let target = workspace::target_dir()?;
    let pages = format!("--target-dir={}", target.join("command").display());
    let build = format!("--config=build.build-dir='{}'", target.display());
    command::run(&mut denying_warnings(&[
        "doc",
        "--package=kpkeys-cli",
        "--no-deps",
        &pages,
        &build,
    ]))?;
    Ok(Outcome::Done)
}

fn denying_warnings(arguments: &[&str]) -> Command {
    let mut command = command::cargo(arguments);
    command.env("RUSTDOCFLAGS", "-D warnings");
    command
}

/// Checks the Markdown files, without mdbook.
pub fn check_book() -> Result<Outcome> {
    system_calls::check()?;
    let report = links::check(workspace::root())?;
    if !report.problems.is_empty() {
        bail!("{}", report.problems.join("\n"));
    }
    println!("{} Markdown files, {} relative links, none broken", report.files, report.links);
    Ok(Outcome::Done)
}

/// `cargo xtask docs`: everything, for reading.
pub fn build() -> Result<()> {
    system_calls::write()?;
    check_book()?;
    rustdoc()?;
    let pages = workspace::target_dir()?.join("doc/kpkeys/index.html");
    println!("API documentation: {}", pages.display());
    if command::find("mdbook").is_none() {
        println!("mdbook is not installed (cargo install mdbook): the book stays docs/src/*.md");
        return Ok(());
    }
    command::run(&mut command::program("mdbook", &["build", "docs"]))?;
    println!("the book: docs/book/index.html");
    Ok(())
}
