//! The distribution's arm64 kernel package, whose trees are of real boards.
//!
//! `apt-get` fetches and checks it, with lists of its own in the target directory: nothing of the system's changes, and no root is
//! needed. The package is unpacked beside them and not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{command, workspace};

/// The package that depends on the newest kernel.
const NEWEST: &str = "linux-image-arm64";

/// Fetches and unpacks it; the folder with its trees.
pub fn arm64_kernel() -> Result<PathBuf> {
    for program in ["apt-get", "dpkg-deb"] {
        if command::find(program).is_none() {
            bail!(
                "there is no {program}: the package comes from Debian. Other trees can be read with --folder"
            );
        }
    }
    let apt = Apt::in_folder(workspace::target_dir()?.join("trees"))?;
    command::run(&mut apt.command("apt-get", &["update", "--quiet"]))?;
    let depends = command::output(&mut apt.command("apt-cache", &["depends", NEWEST]))?;
    let package = kernel_in(&depends)
        .with_context(|| format!("{NEWEST} depends on no kernel; see --folder"))?;
    let (file, unpacked) = (apt.folder.join(format!("{package}.deb")), apt.folder.join(package));
    if !unpacked.is_dir() {
        command::run(
            apt.command("apt-get", &["download", "--quiet", package]).current_dir(&apt.folder),
        )?;
        fs::rename(downloaded(&apt.folder, package)?, &file)?;
        let (file, unpacked) = (path(&file)?, path(&unpacked)?);
        command::run(&mut command::program("dpkg-deb", &["--extract", file, unpacked]))?;
    }
    let trees = unpacked.join("usr/lib").join(package);
    if !trees.is_dir() {
        bail!("{package} has no trees in {}", trees.display());
    }
    Ok(trees)
}

/// The first dependency that is a kernel.
fn kernel_in(depends: &str) -> Option<&str> {
    depends.lines().find_map(|line| {
        line.trim().strip_prefix("Depends: ").filter(|name| name.starts_with("linux-image-"))
    })
}

fn downloaded(folder: &Path, package: &str) -> Result<PathBuf> {
    let start = format!("{package}_");
    let files = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    let is_it = |file: &PathBuf| {
        file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&start))
    };
    files.into_iter().find(is_it).with_context(|| format!("apt-get left no {start}*.deb"))
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

/// apt for another architecture, with its own state.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn in_folder(folder: PathBuf) -> Result<Self> {
        for part in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))?;
        }
        fs::write(folder.join("status"), "")?;
        Ok(Self { folder })
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let folder = self.folder.display();
        let options = [
            "APT::Architecture=arm64".to_owned(),
            "APT::Architectures=arm64".to_owned(),
            // As root apt fetches as another user, which may not write here.
            "APT::Sandbox::User=root".to_owned(),
            format!("Dir::State={folder}/state"),
            format!("Dir::State::status={folder}/status"),
            format!("Dir::Cache={folder}/cache"),
        ];
        let mut command = command::program(program, &[]);
        command.args(options.iter().flat_map(|option| ["-o", option])).args(arguments);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_what_the_newest_depends_on() {
        let depends = "linux-image-arm64\n  Depends: linux-image-6.1.0-1-arm64\n  Conflicts: x\n";
        assert_eq!(kernel_in(depends), Some("linux-image-6.1.0-1-arm64"));
        assert_eq!(kernel_in("linux-image-arm64\n  Depends: linux-base\n"), None);
    }
}
