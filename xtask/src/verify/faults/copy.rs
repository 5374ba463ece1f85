//! A copy of the sources in the target folder. It shares what is built of other packages with the checkout, and what is built of its own is its own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{Fault, Planted};
use crate::workspace;

/// What is copied: all packages of both workspaces, and what their tests read.
const FOLDERS: [&str; 6] = ["crates", "adapters", "examples/hosted", "xtask", "verify", "docs/src"];
const FILES: [&str; 2] = ["Cargo.toml", "Cargo.lock"];

/// A copy of the sources.
pub struct Copy {
    root: PathBuf,
    /// Where the checkout's own workspace is built.
    pub target: PathBuf,
    /// Where that of `verify` is.
    pub verify_target: PathBuf,
}

impl Copy {
    /// Makes the copy, or brings it up to date.
    pub fn make() -> Result<Copy> {
        let (target, verify_target) =
            (workspace::target_dir()?, workspace::target_dir_of("verify/Cargo.toml")?);
        let copy = Copy { root: target.join("verify-faults"), target, verify_target };
        FOLDERS.iter().chain(&FILES).try_for_each(|path| copy.copy(Path::new(path)))?;
        Ok(copy)
    }

    /// The root of the copy.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Runs `f` with a fault planted, and takes it out again.
    pub fn with<R>(&self, fault: &Fault, f: impl FnOnce() -> Result<R>) -> Result<R> {
        let Planted::Source { file, .. } = &fault.planted else { return f() };
        let path = self.root.join(file);
        let source =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        self.write(file, planted(&source, fault)?)?;
        let result = f();
        self.write(file, source)?;
        result
    }

    /// Copies a file, or a folder but for what was built in it. What is the same already is left, so that it is not built again; what is not there any
    /// more goes.
    fn copy(&self, path: &Path) -> Result<()> {
        let from = workspace::root().join(path);
        if !from.is_dir() {
            let text =
                fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
            return self.write(path, text);
        }
        for name in names_in(&from)?.filter(|name| name != "target") {
            self.copy(&path.join(name))?;
        }
        let to = self.root.join(path);
        if !to.is_dir() {
            return Ok(());
        }
        for name in names_in(&to)?.filter(|name| !from.join(name).exists()) {
            let gone = to.join(name);
            let removed =
                if gone.is_dir() { fs::remove_dir_all(&gone) } else { fs::remove_file(&gone) };
            removed.with_context(|| format!("cannot remove {}", gone.display()))?;
        }
        Ok(())
    }

    fn write(&self, path: impl AsRef<Path>, text: impl AsRef<[u8]>) -> Result<()> {
        let to = self.root.join(path);
        if fs::read(&to).is_ok_and(|is| is == text.as_ref()) {
            return Ok(());
        }
        let folder = to.parent().context("a file is in a folder")?;
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&to, text))
            .with_context(|| format!("cannot write {}", to.display()))
    }
}

fn names_in(folder: &Path) -> Result<impl Iterator<Item = std::ffi::OsString>> {
    let entries: Result<Vec<_>, _> =
        fs::read_dir(folder).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let entries = entries.with_context(|| format!("cannot list {}", folder.display()))?;
    Ok(entries.into_iter().map(|entry| entry.file_name()))
}

/// A source with a fault in it.
pub fn planted(source: &str, fault: &Fault) -> Result<String> {
    let Planted::Source { file, find, replace } = &fault.planted else {
        bail!("{} is no fault of the source", fault.name)
    };
    match source.matches(find.as_str()).count() {
        1 => Ok(source.replacen(find.as_str(), replace, 1)),
        count => {
            bail!("{}: {file} has {count} places like `{find}`; it is to have one", fault.name)
        }
    }
}
