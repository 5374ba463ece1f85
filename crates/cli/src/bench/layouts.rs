//! `bench --layouts N`: one commit in several layouts of its code, measured block by block in turns.
//!
//! An interval covers the noise of one program, and not where compiler and linker put the code. So the sources are built several times,
//! with functions and loops aligned differently and in other orders, each into a target folder of its own, and every layout has one block
//! of the run before any has the next: what changes on the machine falls on all of them. `kpkeys spread` sets the folders side by side.

use std::ffi::OsStr;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use kpkeys_stats::table::Table;

use super::plan::Plan;
use super::program::Program;
use super::results::Results;
use super::run::{self, Machine};
use super::{Options, header};
use crate::usage::UsageError;
use crate::{reference, render, spread};

/// Fewest layouts that say something, and most that there are.
pub const RANGE: std::ops::RangeInclusive<u32> = 2..=16;

/// One way to lay the code out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Its name, also its folder's.
    pub name: String,
    /// What rustc is told.
    flags: Vec<String>,
}

impl Layout {
    fn new(name: &str, flags: &[&str]) -> Layout {
        Layout { name: name.to_owned(), flags: flags.iter().map(|&flag| flag.to_owned()).collect() }
    }

    /// The one there is without asking for another.
    pub fn as_built() -> Layout {
        Layout::new("as-built", &[])
    }
}

/// That many layouts: as it is built by default, functions and loops aligned, and functions in other orders.
///
/// # Errors
///
/// There is no compiler to ask what its linker can do, or the linker cannot give so many orders.
pub fn layouts(count: u32) -> Result<Vec<Layout>> {
    let shuffles = linker_shuffles()?;
    let all = [
        Layout::as_built(),
        Layout::new("functions-at-32", &["-Cllvm-args=-align-all-functions=5"]),
        Layout::new("functions-at-64", &["-Cllvm-args=-align-all-functions=6"]),
    ];
    let aligned = Layout::new("loops-at-32", &["-Cllvm-args=-align-loops=32"]);
    let orders: Vec<Layout> = if shuffles {
        let order = |seed| {
            let flag = format!("-Clink-arg=-Wl,--shuffle-sections=.text*={seed}");
            Layout::new(&format!("order-{seed}"), &[&flag])
        };
        (1..=*RANGE.end()).map(order).collect()
    } else {
        vec![Layout::new("order-by-name", &["-Clink-arg=-Wl,--sort-section=name"])]
    };
    let mut orders = orders.into_iter();
    let first = orders.next();
    let layouts: Vec<Layout> =
        all.into_iter().chain(first).chain([aligned]).chain(orders).take(count as usize).collect();
    if layouts.len() < count as usize {
        let most = layouts.len();
        let why = format!("the linker here cannot shuffle functions: --layouts {most} is the most");
        return Err(UsageError(why).into());
    }
    Ok(layouts)
}

/// Whether the linker that rustc takes by default can shuffle sections: it is tried.
fn linker_shuffles() -> Result<bool> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let source = folder.path().join("empty.rs");
    std::fs::write(&source, "fn main() {}\n")
        .context("cannot write a program to try the linker")?;
    let tried = Command::new("rustc")
        .args(["-Clink-arg=-Wl,--shuffle-sections=.text*=1", "-o"])
        .args([folder.path().join("empty").as_os_str(), source.as_os_str()])
        .stderr(Stdio::null())
        .status()
        .context("cannot start rustc; layouts are built from source")?;
    Ok(tried.success())
}

/// Builds the command from the sources in `root` in this layout, and gives its file.
///
/// # Errors
///
/// [`UsageError`] for a folder that does not hold the sources; sources that do not build.
pub fn build(root: &Path, layout: &Layout) -> Result<PathBuf> {
    let manifest = root.join("Cargo.toml");
    if !root.join("crates/cli/Cargo.toml").exists() {
        let root = root.display();
        return Err(UsageError(format!("{root} does not hold the sources of kpkeys")).into());
    }
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(target) => PathBuf::from(target),
        None => root.join("target"),
    };
    let target = target.join("layouts").join(&layout.name);
    let mut cargo =
        Command::new(std::env::var_os("CARGO").as_deref().unwrap_or(OsStr::new("cargo")));
    cargo.args(["build", "--release", "--package=kpkeys-cli", "--manifest-path"]).arg(&manifest);
    cargo.arg("--target-dir").arg(&target).stdin(Stdio::null()).stdout(Stdio::null());
    cargo.env("CARGO_ENCODED_RUSTFLAGS", layout.flags.join("\u{1f}"));
    if !io::stderr().is_terminal() {
        cargo.arg("--quiet");
    }
    eprintln_on_terminal(&format!("building {}", layout.name));
    if !cargo.status().context("cannot start cargo; layouts are built from source")?.success() {
        bail!("the layout {} does not build", layout.name);
    }
    Ok(target.join("release/kpkeys"))
}

/// The sources this program was built from.
pub fn sources() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).unwrap_or(package).to_owned()
}

/// Builds and runs the layouts and prints how far their effects lie apart. Returns whether the gates of all held.
///
/// # Errors
///
/// [`UsageError`] for what cannot be asked; sources that do not build; what went wrong in a run.
pub fn run(options: &Options, count: u32) -> Result<bool> {
    let plan = Plan::new(options)?;
    let Some(backend) = plan.place.host() else {
        return Err(UsageError("layouts are run on the host alone: leave --on out".into()).into());
    };
    backend.check()?;
    let temporary = tempfile::tempdir().context("cannot make a temporary folder")?;
    let root = options.out.clone().unwrap_or_else(|| temporary.path().to_owned());
    let mut runs = Vec::new();
    for layout in layouts(count)? {
        let program = Program::other(&build(&sources(), &layout)?)?;
        let machine = Machine::Processes(program.clone());
        let header = header::run_header(&plan, &machine, &program)?;
        runs.push((root.join(&layout.name), machine, header));
    }
    for block in 1..=plan.blocks {
        for (folder, machine, header) in &runs {
            let mut results = Results::open(Some(folder), header)?;
            eprintln_on_terminal(&format!(
                "block {block} of {}: {}",
                plan.blocks,
                folder.display()
            ));
            run::run(&plan, machine, &mut results, run::Share::AtMost(1))?;
        }
    }
    for (folder, _, header) in &runs {
        let results = Results::open(Some(folder), header)?;
        results.keep_table(&Table::build(&results.recording()?, &reference::graviton3())?)?;
    }
    let folders: Vec<PathBuf> = runs.into_iter().map(|(folder, ..)| folder).collect();
    let report = spread::of_folders(&folders)?;
    let out = &mut io::stdout().lock();
    render::write_spread(out, &report, options.format, render::Screen::of_stdout())?;
    Ok(report.gates_hold())
}

fn eprintln_on_terminal(text: &str) {
    if io::stderr().is_terminal() {
        eprintln!("{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_the_sources_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new("as-built", &[]);
        let error = build(folder.path(), &layout).unwrap_err();
        assert!(error.is::<UsageError>() && error.to_string().contains("sources"), "{error}");
        assert!(sources().join("crates/cli/Cargo.toml").exists());
    }

    #[test]
    fn layouts_differ_in_name_and_flags() {
        let layouts = layouts(4).unwrap();
        for (index, layout) in layouts.iter().enumerate() {
            let same = |other: &Layout| other.name == layout.name || other.flags == layout.flags;
            assert!(!layouts[..index].iter().any(same), "{layout:?}");
        }
        assert_eq!(layouts.len(), 4);
    }
}
