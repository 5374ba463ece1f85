//! Packages of the distribution for another architecture.
//!
//! `apt-get` fetches and checks them, with lists of its own in the target directory: nothing of the system's changes, and no root is
//! needed. They are unpacked beside them and not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command;

/// apt for an architecture, with its own state.
pub struct Apt {
    architecture: &'static str,
    folder: PathBuf,
}

impl Apt {
    /// With its state in a folder, and its lists as new as they can be.
    pub fn new(architecture: &'static str, folder: PathBuf) -> Result<Self> {
        for program in ["apt-get", "dpkg-deb"] {
            if command::find(program).is_none() {
                bail!("there is no {program}: packages come from Debian");
            }
        }
        for part in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))?;
        }
        fs::write(folder.join("status"), "")?;
        let apt = Self { architecture, folder };
        command::run(&mut apt.command("apt-get", &["update", "--quiet"]))?;
        Ok(apt)
    }

    /// The package of the newest kernel, which one that has nothing else in it depends on.
    pub fn newest_kernel(&self, package: &str) -> Result<String> {
        let depends = command::output(&mut self.command("apt-cache", &["depends", package]))?;
        let kernel =
            kernel_in(&depends).with_context(|| format!("{package} depends on no kernel"))?;
        Ok(kernel.to_owned())
    }

    /// The files of a package: the folder they are unpacked in.
    pub fn unpacked(&self, package: &str) -> Result<PathBuf> {
        let file = self.folder.join(format!("{package}.deb"));
        let unpacked = self.folder.join(package);
        if !unpacked.is_dir() {
            command::run(
                self.command("apt-get", &["download", "--quiet", package])
                    .current_dir(&self.folder),
            )?;
            fs::rename(downloaded(&self.folder, package)?, &file)?;
            let (file, unpacked) = (path(&file)?, path(&unpacked)?);
            command::run(&mut command::program("dpkg-deb", &["--extract", file, unpacked]))?;
        }
        Ok(unpacked)
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let (folder, architecture) = (self.folder.display(), self.architecture);
        let options = [
            format!("APT::Architecture={architecture}"),
            format!("APT::Architectures={architecture}"),
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

/// The first dependency that is a kernel.
fn kernel_in(depends: &str) -> Option<&str> {
    depends.lines().find_map(|line| {
        line.trim().strip_prefix("Depends: ").filter(|name| name.starts_with("linux-image-"))
    })
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
