//! The book's way in, walked outside of the repository: a new package is made of the chapters' snippets alone, in their order, and run.
//!
//! A snippet is a code block. `toml` goes to the manifest and `rust` to the program; blocks marked `ignore` are for reading. `{{#include FILE:ANCHOR}}` is
//! resolved as mdBook does. What the program prints must be what the chapter says it does, in its block `text`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{command, workspace};

/// The chapter that is a program.
const CHAPTER: &str = "docs/src/first-machine.md";

/// `cargo xtask tutorial`: with the crates of this checkout where a registry would be asked.
pub fn run() -> Result<()> {
    let crates = ["kpkeys", "pgtable", "mm", "hosted"].map(|folder| {
        let name = if folder == "kpkeys" { folder.to_owned() } else { format!("kpkeys-{folder}") };
        (name, workspace::root().join("crates").join(folder))
    });
    walk(&crates)
}

/// Makes the package, with these crates in the place of a registry's, and runs it.
pub fn walk(crates: &[(String, PathBuf)]) -> Result<()> {
    let chapter = Chapter::read(workspace::root())?;
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let said = run_in(folder.path(), &chapter, crates)?;
    if said.trim() != chapter.says.trim() {
        bail!("the program of {CHAPTER} prints\n{said}\nand the chapter says\n{}", chapter.says);
    }
    println!(
        "{CHAPTER}: a new crate of its snippets builds, runs and prints what it says:\n{said}"
    );
    Ok(())
}

fn run_in(folder: &Path, chapter: &Chapter, crates: &[(String, PathBuf)]) -> Result<String> {
    fs::create_dir_all(folder.join("src"))?;
    let package = "[package]\nname = \"my-kernel\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n";
    let of = |(name, at): &(String, PathBuf)| format!("{name}.path = '{}'\n", at.display());
    let used = crates.iter().filter(|(name, _)| chapter.manifest.contains(name.as_str()));
    // What they depend on in turn, too: a library is not in the manifest, and is one of ours all the same.
    let needed = crates.iter().filter(|(name, _)| name == "kpkeys-mm");
    let patches: String = used.chain(needed).map(of).collect();
    let manifest = format!("{package}{}\n[patch.crates-io]\n{patches}", chapter.manifest);
    fs::write(folder.join("Cargo.toml"), manifest)?;
    fs::write(folder.join("src/main.rs"), &chapter.program)?;
    let mut cargo = command::cargo(&["run", "--quiet", "--target-dir"]);
    cargo.arg(workspace::target_dir()?.join("tutorial")).current_dir(folder);
    command::output(&mut cargo)
}

/// What a chapter's blocks say.
#[derive(Debug, Default)]
struct Chapter {
    manifest: String,
    program: String,
    says: String,
}

impl Chapter {
    fn read(root: &Path) -> Result<Self> {
        let file = root.join(CHAPTER);
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {CHAPTER}"))?;
        let mut chapter = Chapter::default();
        for (language, block) in blocks(&text) {
            let block = included(&block, file.parent().unwrap_or(root))?;
            match language {
                "toml" => chapter.manifest += &block,
                "rust" => chapter.program += &format!("{block}\n"),
                "text" => chapter.says += &block,
                _ => {}
            }
        }
        Ok(chapter)
    }
}

/// The fenced blocks, each with what its fence says.
fn blocks(text: &str) -> Vec<(&str, String)> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let inside: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            found.push((language, inside.join("\n") + "\n"));
        }
    }
    found
}

/// The block, with what it includes in its place.
fn included(block: &str, folder: &Path) -> Result<String> {
    let mut whole = String::new();
    for line in block.lines() {
        let include = line.strip_prefix("{{#include ").and_then(|rest| rest.strip_suffix("}}"));
        match include.and_then(|include| include.rsplit_once(':')) {
            Some((file, anchor)) => whole += &anchored(&folder.join(file), anchor)?,
            None => whole += &format!("{line}\n"),
        }
    }
    Ok(whole)
}

fn anchored(file: &Path, anchor: &str) -> Result<String> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let [begin, end] = ["ANCHOR", "ANCHOR_END"].map(|word| format!("// {word}: {anchor}"));
    let inside = text.lines().skip_while(|line| *line != begin).skip(1);
    let inside: Vec<_> = inside.take_while(|line| *line != end).collect();
    if inside.is_empty() {
        bail!("{} has no anchor `{anchor}`", file.display());
    }
    Ok(inside.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So that the program of the chapter is the one that the tests run.
    #[test]
    fn the_chapter_is_the_example_whole_and_in_order() {
        let root = workspace::root();
        let chapter = Chapter::read(root).unwrap();
        let example = root.join("examples/hosted/src/bin/first_machine.rs");
        let example = fs::read_to_string(example).unwrap();
        let code = |text: &str| -> Vec<String> {
            let kept = |line: &&str| !line.starts_with("//!") && !line.starts_with("// ANCHOR");
            text.lines().filter(kept).filter(|l| !l.is_empty()).map(str::to_owned).collect()
        };
        assert_eq!(code(&chapter.program), code(&example));
        assert!(chapter.says.contains("the store faulted"), "{}", chapter.says);
    }

    #[test]
    fn an_anchor_that_is_not_there_is_named() {
        let example = workspace::root().join("examples/hosted/src/bin/first_machine.rs");
        let error = anchored(&example, "nonesuch").unwrap_err().to_string();
        assert!(error.ends_with("has no anchor `nonesuch`"), "{error}");
    }

    #[test]
    fn blocks_are_found_with_their_language() {
        let text = "a\n```toml\nx = 1\n```\nb\n```rust,ignore\nfn f() {}\n```\n";
        let found = blocks(text);
        assert_eq!(found, [("toml", "x = 1\n".into()), ("rust,ignore", "fn f() {}\n".into())]);
    }
}
