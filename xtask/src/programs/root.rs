//! An archive of real programs for a machine: packages with all they depend on, unpacked, without what only people read.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kpkeys_emulator::Target;
use kpkeys_program::initramfs::Writer;

use super::architecture;
use crate::command;
use crate::debian::{Apt, SourcePart};
use crate::workspace;

const PACKAGES: [&str; 10] = [
    "bash",
    "busybox-static",
    "coreutils",
    "dash",
    "gcc",
    "libc6-dev",
    "make",
    "musl-tools",
    "python3",
    "stress-ng",
];
/// What no program here reads: documentation, translations, drivers of graphics cards, and parts of the compiler for other ends.
const LEFT_OUT: [&str; 17] = [
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/bash-completion",
    "usr/share/bug",
    "usr/share/X11",
    "usr/share/perl",
    "usr/share/fonts",
    "usr/share/python-wheels",
    "/dri/",
    "/gconv/",
    "san.",
    "lto1",
    "lto-dump",
    "gprofng",
];
/// Applets of busybox that stand in where a package is not there.
const APPLETS: [&str; 10] =
    ["awk", "cmp", "diff", "egrep", "find", "grep", "gzip", "sed", "which", "xargs"];
/// Our own files, in `/work`.
const GUEST: [(&str, &str); 12] = [
    ("hello.c", include_str!("guest/hello.c")),
    ("memory.c", include_str!("guest/memory.c")),
    ("threads.c", include_str!("guest/threads.c")),
    ("exhaustion.c", include_str!("guest/exhaustion.c")),
    ("usage.c", include_str!("guest/usage.c")),
    ("cloning.c", include_str!("guest/cloning.c")),
    ("vectors.c", include_str!("guest/vectors.c")),
    ("script.py", include_str!("guest/script.py")),
    ("series.c", include_str!("guest/series.c")),
    ("build.sh", include_str!("guest/build.sh")),
    ("kernbench.c", include_str!("guest/kernbench.c")),
    ("kernbench.sh", include_str!("guest/kernbench.sh")),
];

/// What the gate runs: a shell, and the stressors.
const SMALL: [&str; 2] = ["busybox-static", "stress-ng"];

/// The archive of everything for a machine.
pub fn archive(target: Target) -> Result<PathBuf> {
    let folder = folder(target)?;
    let root = folder.join("root");
    if !root.is_dir() {
        let apt = Apt::new(architecture(target), folder.clone())?;
        apt.unpack_with_dependencies(&PACKAGES, &root)?;
        add_source(&apt, &root)?;
        add_links(&root)?;
    }
    for (name, text) in GUEST {
        fs::write(root.join("work").join(name), text)?;
    }
    pack(&root, &folder.join("real.cpio"))
}

/// The archive of what the gate runs on a machine.
pub fn small_archive(target: Target) -> Result<PathBuf> {
    let folder = folder(target)?.join("small");
    let root = folder.join("root");
    if !root.is_dir() {
        Apt::new(architecture(target), folder.clone())?.unpack_with_dependencies(&SMALL, &root)?;
        fs::create_dir_all(root.join("tmp"))?;
        std::os::unix::fs::symlink("busybox", root.join("bin/sh"))?;
    }
    pack(&root, &folder.join("small.cpio"))
}

fn folder(target: Target) -> Result<PathBuf> {
    Ok(workspace::target_dir()?.join("programs").join(architecture(target)))
}

fn pack(root: &Path, file: &Path) -> Result<PathBuf> {
    let mut archive = Writer::new();
    add(&mut archive, root, Path::new(""))?;
    fs::write(file, archive.finish())?;
    println!("{}", file.display());
    Ok(file.to_owned())
}

/// The source of the library that is built.
fn add_source(apt: &Apt, root: &Path) -> Result<()> {
    let (work, zlib) = (root.join("work"), root.join("work/zlib"));
    fs::create_dir_all(&zlib)?;
    let source = apt.source("zlib", SourcePart::Original)?;
    let mut tar = command::program("tar", &["--strip-components=1", "-xf"]);
    command::run(tar.arg(&source).arg("-C").arg(&zlib)).context("the library's source")?;
    fs::create_dir_all(work)?;
    Ok(())
}

fn add_links(root: &Path) -> Result<()> {
    let link = |target: &str, name: &str| {
        let there = ["bin", "usr/bin"].map(|folder| root.join(folder).join(name));
        if there.iter().any(|path| path.symlink_metadata().is_ok()) {
            return Ok(());
        }
        std::os::unix::fs::symlink(target, &there[0])
    };
    link("/usr/bin/gcc", "cc")?;
    for applet in APPLETS {
        link("/bin/busybox", applet)?;
    }
    Ok(())
}

/// Adds a folder's contents, by name, so that two archives of the same are the same.
pub fn add(archive: &mut Writer, root: &Path, below: &Path) -> Result<()> {
    let mut names: Vec<_> = fs::read_dir(root.join(below))?.collect::<std::io::Result<Vec<_>>>()?;
    names.sort_by_key(fs::DirEntry::file_name);
    for entry in names {
        let path = below.join(entry.file_name());
        let name = path.to_str().context("a name that is no text")?;
        if LEFT_OUT.iter().any(|part| format!("{name}/").contains(part)) {
            continue;
        }
        let meta = entry.metadata()?;
        if meta.is_dir() {
            archive.directory(name);
            add(archive, root, &path)?;
        } else if meta.is_symlink() {
            let target = fs::read_link(entry.path())?;
            archive.link(name, target.to_str().context("a link to what is no text")?);
        } else if meta.is_file() {
            let contents = fs::read(entry.path())?;
            let modified_s = u32::try_from(meta.mtime()).unwrap_or(0);
            archive.file(name, meta.permissions().mode(), modified_s, &contents);
        }
    }
    Ok(())
}
