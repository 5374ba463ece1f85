//! `cargo xtask results`: every table and picture of measurements that README and book show, made from runs that are kept.
//!
//! Runs are kept whole, as archives in `docs/results/runs`: what a page shows can be made again from samples, by the commands that it names, and
//! nothing is pasted. The step `results` of `cargo xtask test` makes all of it and compares. New runs take the place of the old by
//! `--layouts DIR`, `--parts DIR`, `--integrity DIR` and `--kernbench FILES`.
//!
//! A headline is what stands in the README. It comes from `kpkeys spread --headline`, which refuses fewer than three layouts of the code.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::programs::kernbench;
use crate::step::Outcome;
use crate::{command, instructions, workspace};

#[derive(clap::Args)]
pub struct Arguments {
    /// Keep this folder of `kpkeys bench --layouts N --out DIR`, instead of the run that is kept
    #[arg(long, value_name = "DIR")]
    layouts: Option<PathBuf>,
    /// Keep this folder of `kpkeys bench --parts --out DIR`, instead of the run that is kept
    #[arg(long, value_name = "DIR")]
    parts: Option<PathBuf>,
    /// Keep this folder of `kpkeys bench --modes fused-lean,fused --out DIR`, instead of the run that is kept
    #[arg(long, value_name = "DIR")]
    integrity: Option<PathBuf>,
    /// Keep these files of `cargo xtask programs kernbench`, instead of those that are kept
    #[arg(long, value_name = "FILE", num_args = 1..)]
    kernbench: Vec<PathBuf>,
}

/// Where runs are kept, and under which names.
const RUNS: &str = "docs/results/runs";
const LAYOUTS: &str = "layouts";
const PARTS: &str = "parts";
const INTEGRITY: &str = "integrity";
/// The figures of an executed and replayed build, which are no archive.
const KERNBENCH: &str = "kernbench.jsonl";
/// The layout that whole tables and pictures are of.
const ONE_LAYOUT: &str = "as-built";
/// The file of a run with its samples.
const SAMPLES: &str = "samples.jsonl";
/// Beside the samples of the parts: what modes executed at that commit.
const INSTRUCTIONS: &str = "instructions.toml";

/// Rows that the README shows.
const HEADLINE_ROWS: [&str; 6] = [
    "fork*",
    "munmap*",
    "fix_size_alloc_test: p:1, h:0",
    "fix_size_alloc_test: p:64, h:0",
    "fix_size_alloc_test: p:256, h:1",
    "vm_map_ram*",
];
/// Pictures that README and book show.
const PICTURES: [&str; 3] =
    ["effects-batched.svg", "effects-fused-lean.svg", "exposure-against-overhead.svg"];

/// Writes the pages, after keeping new runs.
pub fn run(arguments: &Arguments) -> Result<()> {
    if let Some(folder) = &arguments.layouts {
        keep_layouts(folder)?;
    }
    if let Some(folder) = &arguments.parts {
        keep_parts(folder)?;
    }
    if let Some(folder) = &arguments.integrity {
        keep_integrity(folder)?;
    }
    if !arguments.kernbench.is_empty() {
        keep_kernbench(&arguments.kernbench)?;
    }
    let pages = pages()?;
    for (path, text) in &pages {
        let path = workspace::root().join(path);
        let parent = path.parent().context("a page lies in a folder")?;
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("{} files written", pages.len());
    Ok(())
}

/// The step: what is committed is what the runs give.
pub fn check() -> Result<Outcome> {
    let pages = pages()?;
    let differs = |(path, text): &(&PathBuf, &String)| {
        fs::read_to_string(workspace::root().join(path)).ok().as_ref() != Some(*text)
    };
    let differing: Vec<String> =
        pages.iter().filter(differs).map(|(path, _)| path.display().to_string()).collect();
    if differing.is_empty() {
        println!("{} files are what the kept runs give", pages.len());
        return Ok(Outcome::Done);
    }
    bail!("not what the kept runs give: {}; cargo xtask results", differing.join(", "))
}

/// Every file, by its path from the root.
fn pages() -> Result<BTreeMap<PathBuf, String>> {
    let temporary = tempfile::tempdir().context("cannot make a temporary folder")?;
    let [layouts, parts, integrity] =
        [LAYOUTS, PARTS, INTEGRITY].map(|name| temporary.path().join(name));
    unpack(LAYOUTS, &layouts)?;
    unpack(PARTS, &parts)?;
    unpack(INTEGRITY, &integrity)?;
    let kpkeys = Kpkeys::build()?;
    let all = folders(&layouts)?;
    let one = layouts.join(ONE_LAYOUT);
    let counted = parts.join(INSTRUCTIONS);

    let spread = |first: &[&str]| kpkeys.says(&["spread"], first, &all);
    let rows = HEADLINE_ROWS.map(|row| format!("--rows={row}"));
    let headline: Vec<&str> =
        ["--headline"].into_iter().chain(rows.iter().map(String::as_str)).collect();
    let of = |call: &[&str], folder: &Path| kpkeys.says(call, &[], &[folder.to_owned()]);
    let counted = format!("--instructions={}", counted.display());
    let mut pages = BTreeMap::from([
        ("docs/results/spread-table.md".into(), spread(&["--format=markdown"])?),
        ("docs/results/results-table.txt".into(), of(&["table"], &one)?),
        (
            "docs/results/integrity-table.md".into(),
            of(&["table", "--modes=fused-lean,fused", "--format=markdown"], &integrity)?,
        ),
        ("docs/results/parts-table.md".into(), of(&["parts", "--format=markdown"], &parts)?),
        (
            "docs/results/estimate-table.md".into(),
            of(&["estimate", &counted, "--format=markdown", "--validate"], &parts)?,
        ),
        ("docs/results/kernbench-table.md".into(), kernbench_table()?),
        ("README.md".into(), with_headline(&spread(&headline)?)?),
    ]);
    let pictures = temporary.path().join("pictures");
    let svg = format!("--svg={}", pictures.display());
    of(&["report", &svg], &one)?;
    for name in PICTURES {
        let picture = fs::read_to_string(pictures.join(name))
            .with_context(|| format!("the report drew no {name}"))?;
        pages.insert(Path::new("docs/src/pictures").join(name), picture);
    }
    Ok(pages)
}

/// The command, as it is now.
struct Kpkeys(PathBuf);

impl Kpkeys {
    /// With all tests, whose step needs it next: alone it would be compiled once more, with other features of what it depends on.
    fn build() -> Result<Kpkeys> {
        command::run(&mut command::cargo(&["test", "--workspace", "--no-run"]))?;
        Ok(Kpkeys(workspace::target_dir()?.join("debug/kpkeys")))
    }

    /// What a call prints.
    fn says(&self, call: &[&str], options: &[&str], folders: &[PathBuf]) -> Result<String> {
        let program = self.0.display().to_string();
        command::output(command::program(&program, call).args(options).args(folders))
    }
}

/// The folders in a folder, by name.
fn folders(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut folders: Vec<PathBuf> = paths.filter(|path| path.is_dir()).collect();
    folders.sort();
    Ok(folders)
}

const BEGIN: &str = "<!-- headline: written by `cargo xtask results` -->\n";
const END: &str = "<!-- end of headline -->\n";

fn with_headline(table: &str) -> Result<String> {
    let readme = fs::read_to_string(workspace::root().join("README.md"))
        .context("cannot read the README")?;
    replaced(&readme, &format!("```text\n{}\n```\n", table.trim_end()))
}

/// Puts something between the marks.
fn replaced(text: &str, between: &str) -> Result<String> {
    let marks = text.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) =
        marks.context("the README lacks the marks that its headline stands between")?;
    Ok(format!("{before}{BEGIN}{between}{END}{after}"))
}

fn archive(name: &str) -> PathBuf {
    workspace::root().join(RUNS).join(format!("{name}.tar.gz"))
}

fn unpack(name: &str, to: &Path) -> Result<()> {
    fs::create_dir(to).with_context(|| format!("cannot make {}", to.display()))?;
    let archive = archive(name);
    let tar = command::output(command::program("tar", &["-xzf"]).arg(&archive).arg("-C").arg(to));
    tar.map(drop).with_context(|| format!("cannot unpack {}", archive.display()))
}

/// Keeps the samples of every layout.
fn keep_layouts(folder: &Path) -> Result<()> {
    let samples = |run: &PathBuf| run.join(SAMPLES).exists();
    let runs: Vec<PathBuf> = folders(folder)?.into_iter().filter(samples).collect();
    if !runs.contains(&folder.join(ONE_LAYOUT)) {
        let folder = folder.display();
        bail!("{folder} is no folder of `bench --layouts N --out DIR`: it has no {ONE_LAYOUT}");
    }
    let temporary = tempfile::tempdir().context("cannot make a temporary folder")?;
    for run in &runs {
        let name = run.file_name().context("a folder has a name")?;
        copy(&run.join(SAMPLES), &temporary.path().join(name).join(SAMPLES))?;
    }
    pack(temporary.path(), LAYOUTS)
}

/// Keeps the samples of a run of parts, with what modes execute now: it was made by this version.
fn keep_parts(folder: &Path) -> Result<()> {
    let temporary = tempfile::tempdir().context("cannot make a temporary folder")?;
    copy(&folder.join(SAMPLES), &temporary.path().join(SAMPLES))?;
    let counted = workspace::root().join(instructions::FILE);
    copy(&counted, &temporary.path().join(INSTRUCTIONS))?;
    pack(temporary.path(), PARTS)
}

/// The table of the kept figures of a build.
fn kernbench_table() -> Result<String> {
    let file = workspace::root().join(RUNS).join(KERNBENCH);
    let figures =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    kernbench::table(&figures)
}

/// Keeps the figures of a build, of one machine after the other.
fn keep_kernbench(files: &[PathBuf]) -> Result<()> {
    let figures: Vec<String> =
        files.iter().map(fs::read_to_string).collect::<Result<_, _>>().context("new figures")?;
    fs::write(workspace::root().join(RUNS).join(KERNBENCH), figures.concat())?;
    Ok(())
}

/// Keeps the samples of a run of `fused` beside `fused-lean`.
fn keep_integrity(folder: &Path) -> Result<()> {
    let temporary = tempfile::tempdir().context("cannot make a temporary folder")?;
    copy(&folder.join(SAMPLES), &temporary.path().join(SAMPLES))?;
    pack(temporary.path(), INTEGRITY)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = fs::create_dir_all(to.parent().unwrap_or(to)).and_then(|()| fs::copy(from, to));
    copied.map(drop).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

/// Packs a folder so that the same samples give the same bytes.
fn pack(folder: &Path, name: &str) -> Result<()> {
    let archive = archive(name);
    fs::create_dir_all(archive.parent().unwrap_or(&archive))
        .with_context(|| format!("cannot make {RUNS}"))?;
    let same = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"];
    let mut tar = command::program("tar", &same);
    tar.args(["--use-compress-program=gzip -9n", "-cf"]).arg(&archive);
    tar.arg("-C").arg(folder).arg(".");
    command::run(&mut tar)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headline_stands_between_its_marks() {
        let text = format!("before\n{BEGIN}old\n{END}after\n");
        let new = replaced(&text, "new\n").unwrap();
        assert_eq!(new, format!("before\n{BEGIN}new\n{END}after\n"));
        assert_eq!(replaced(&new, "new\n").unwrap(), new);
        assert!(replaced("before\nafter\n", "new\n").is_err());
    }

    #[test]
    fn the_table_of_a_build_is_what_the_kept_figures_give() {
        let kept = workspace::root().join("docs/results/kernbench-table.md");
        assert_eq!(fs::read_to_string(kept).unwrap(), kernbench_table().unwrap());
    }

    #[test]
    fn what_the_book_shows_of_kept_runs_is_included() {
        let book =
            |page: &str| fs::read_to_string(workspace::root().join("docs/src").join(page)).unwrap();
        for (page, table) in [
            ("spread.md", "spread-table.md"),
            ("results.md", "results-table.txt"),
            ("results.md", "integrity-table.md"),
            ("parts.md", "parts-table.md"),
            ("estimate.md", "estimate-table.md"),
            ("programs.md", "kernbench-table.md"),
        ] {
            let include = format!("{{{{#include ../results/{table}}}}}");
            assert!(book(page).contains(&include), "{page} does not include {table}");
        }
    }
}
