//! Where the kernel's source is: in the checkout this program was built from, or in the program itself.
//!
//! `bundle` has the kernel's package and those of the crates it is made of, as links into the repository; packaging follows them, so a published
//! package has the files. Their manifests go by another name there, since Cargo packages nothing below a manifest of its own. A program that is used
//! without a checkout writes them out once, into the user's cache, and builds there.

use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};

use include_dir::{Dir, DirEntry, include_dir};

use crate::Error;

static BUNDLE: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/bundle");

/// What a manifest is called in the bundle.
const MANIFEST_THERE: &str = "manifest.toml";

/// The folder of the kernel's package: the checkout's, or else the one in the user's cache, which is made if it is not there.
///
/// # Errors
///
/// [`Error::NoCache`], or [`Error::Io`] if the source cannot be written.
pub fn folder() -> Result<PathBuf, Error> {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernel");
    if checkout.join("Cargo.toml").is_file() {
        return Ok(checkout);
    }
    let [cache, home] = ["XDG_CACHE_HOME", "HOME"].map(std::env::var_os);
    Ok(unpacked(&cache_folder(cache, home).ok_or(Error::NoCache)?)?.join("kernel"))
}

/// The XDG base directory specification has relative ones ignored.
fn cache_folder(cache: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let absolute = |path: Option<OsString>| path.map(PathBuf::from).filter(|p| p.is_absolute());
    let cache = absolute(cache).or_else(|| Some(absolute(home)?.join(".cache")))?;
    Some(cache.join("kpkeys"))
}

/// The source below `cache`, by version and content: programs of two versions do not build each other's kernel.
fn unpacked(cache: &Path) -> Result<PathBuf, Error> {
    let name = format!("kernel-{}-{:016x}", env!("CARGO_PKG_VERSION"), fingerprint());
    let folder = cache.join(name);
    if folder.is_dir() {
        return Ok(folder);
    }
    let failed = |source| Error::Io { program: folder.clone(), source };
    // Under a name of our own first: another process may be at it, and a half-written one must not be taken for whole.
    let ours = folder.with_extension(std::process::id().to_string());
    write_below(&ours, &BUNDLE).map_err(failed)?;
    match fs::rename(&ours, &folder) {
        // The other process was faster, with the same files.
        Err(_) if folder.is_dir() => fs::remove_dir_all(&ours).map_err(failed)?,
        renamed => renamed.map_err(failed)?,
    }
    Ok(folder)
}

fn write_below(root: &Path, directory: &Dir<'_>) -> std::io::Result<()> {
    for entry in directory.entries() {
        match entry {
            DirEntry::Dir(below) => write_below(root, below)?,
            DirEntry::File(file) => {
                let path = root.join(path_of(file.path()));
                path.parent().map_or(Ok(()), fs::create_dir_all)?;
                fs::write(path, file.contents())?;
            }
        }
    }
    Ok(())
}

fn path_of(there: &Path) -> PathBuf {
    match there.file_name() {
        Some(name) if name == MANIFEST_THERE => there.with_file_name("Cargo.toml"),
        _ => there.to_owned(),
    }
}

fn fingerprint() -> u64 {
    let mut hasher = DefaultHasher::new();
    add(&mut hasher, &BUNDLE);
    hasher.finish()
}

fn add(hasher: &mut DefaultHasher, directory: &Dir<'_>) {
    for entry in directory.entries() {
        match entry {
            DirEntry::Dir(below) => add(hasher, below),
            DirEntry::File(file) => {
                hasher.write(file.path().as_os_str().as_encoded_bytes());
                hasher.write(file.contents());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn files_below(root: &Path) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => _ = found.insert(path.strip_prefix(root).unwrap().to_owned()),
                }
            }
        }
        found
    }

    /// Every crate of the repository that the kernel and its loader are made of, by their lock files, is in the bundle, whole.
    #[test]
    fn the_bundle_is_the_kernel_and_its_crates() {
        let cache = tempfile::tempdir().unwrap();
        let folder = unpacked(cache.path()).unwrap();
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let lock = |of: &str| fs::read_to_string(repository.join(of)).unwrap();
        let locks = ["kernel/Cargo.lock", "kernel/loader/Cargo.lock"].map(lock).concat();
        let ours = locks.lines().filter_map(|line| line.strip_prefix("name = \"kpkeys"));
        let mut crates = 0;
        for name in ours.filter(|rest| !["-kernel\"", "-loader\""].contains(rest)) {
            let name = name.trim_end_matches('"').trim_start_matches('-');
            let place = Path::new("crates").join(if name.is_empty() { "kpkeys" } else { name });
            for part in [place.join("src"), place.join("Cargo.toml")] {
                assert_same(&folder.join(&part), &repository.join(&part));
            }
            crates += 1;
        }
        assert_eq!(fs::read_dir(folder.join("crates")).unwrap().count(), crates);
        let of_kernel =
            ["Cargo.toml", "Cargo.lock", "build.rs", ".cargo", "src"].map(str::to_owned);
        let of =
            |package| ["Cargo.toml", "Cargo.lock", "src"].map(|part| format!("{package}/{part}"));
        for part in of_kernel.into_iter().chain(of("exploits")).chain(of("loader")) {
            let part = part.as_str();
            assert_same(&folder.join("kernel").join(part), &repository.join("kernel").join(part));
        }
        assert_same(&folder.join("Cargo.toml"), &repository.join("Cargo.toml"));
    }

    fn assert_same(here: &Path, there: &Path) {
        if there.is_file() {
            assert_eq!(fs::read(here).unwrap(), fs::read(there).unwrap(), "{}", there.display());
            return;
        }
        let files = files_below(there);
        assert!(!files.is_empty(), "{}", there.display());
        assert_eq!(files_below(here), files, "{}", there.display());
        files.iter().for_each(|file| assert_same(&here.join(file), &there.join(file)));
    }

    #[test]
    fn what_was_written_out_is_not_written_again() {
        let cache = tempfile::tempdir().unwrap();
        let folder = unpacked(cache.path()).unwrap();
        fs::write(folder.join("kernel/target"), "what was built").unwrap();
        assert_eq!(unpacked(cache.path()).unwrap(), folder);
        assert!(folder.join("kernel/target").is_file());
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 1, "nothing is left over");
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_named() {
        let cache = tempfile::tempdir().unwrap();
        let file = cache.path().join("file");
        fs::write(&file, "").unwrap();
        let error = unpacked(&file).unwrap_err().to_string();
        assert!(error.starts_with(file.to_str().unwrap()), "{error}");
    }

    #[test]
    fn the_cache_is_where_the_user_wants_it() {
        let of = |cache: Option<&str>, home: Option<&str>| {
            cache_folder(cache.map(Into::into), home.map(Into::into))
        };
        assert_eq!(of(Some("/c"), Some("/h")), Some("/c/kpkeys".into()));
        assert_eq!(of(Some("c"), Some("/h")), Some("/h/.cache/kpkeys".into()));
        assert_eq!(of(None, Some("/h")), Some("/h/.cache/kpkeys".into()));
        assert_eq!(of(Some(""), None), None);
    }
}
