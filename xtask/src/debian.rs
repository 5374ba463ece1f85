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

/// What a package's source consists of.
#[derive(Clone, Copy)]
pub enum SourcePart {
    /// The source as its authors packed it.
    Original,
    /// What Debian adds.
    Packaging,
}

impl SourcePart {
    /// What is in the name of the archive.
    fn mark(self) -> &'static str {
        match self {
            Self::Original => ".orig.tar.",
            Self::Packaging => ".debian.tar.",
        }
    }
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

    /// Unpacks packages and all that they depend on into one folder.
    pub fn unpack_with_dependencies(&self, packages: &[&str], to: &Path) -> Result<()> {
        let download =
            ["install", "--yes", "--quiet", "--download-only", "--no-install-recommends"];
        command::run(self.command("apt-get", &download).args(packages))?;
        for entry in fs::read_dir(self.folder.join("cache/archives"))? {
            let file = entry?.path();
            if file.extension().is_some_and(|ending| ending == "deb") {
                let (file, to) = (path(&file)?, path(to)?);
                let mut unpack = command::program("dpkg-deb", &["--extract", file, to]);
                command::output(&mut unpack)?;
            }
        }
        Ok(())
    }

    /// An archive of a package's source.
    pub fn source(&self, package: &str, part: SourcePart) -> Result<PathBuf> {
        let folder = self.folder.join("source");
        fs::create_dir_all(folder.join("state/lists/partial"))?;
        let sources = folder.join("sources.list");
        fs::write(&sources, source_lists()?)?;
        let options = [
            format!("Dir::Etc::sourcelist={}", path(&sources)?),
            "Dir::Etc::sourceparts=-".to_owned(),
            format!("Dir::State={}/state", path(&folder)?),
        ];
        for words in
            [&["update", "--quiet"][..], &["source", "--quiet", "--download-only", package]]
        {
            let mut apt = self.command("apt-get", &[]);
            apt.args(options.iter().flat_map(|option| ["-o", option])).args(words);
            command::run(apt.current_dir(&folder))?;
        }
        let files = fs::read_dir(&folder)?.filter_map(|entry| Some(entry.ok()?.path()));
        let is_it = |file: &PathBuf| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(package) && name.contains(part.mark())
        };
        let mut files = files;
        let mark = part.mark();
        files.find(is_it).with_context(|| format!("apt-get left no {package}*{mark}*"))
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

/// The system's lists of Debian's packages, of sources in place of binaries.
fn source_lists() -> Result<String> {
    let mut lists = String::new();
    for file in ["/etc/apt/sources.list", "/etc/apt/sources.list.d/debian.sources"] {
        // Either may be missing.
        lists += &of_sources(&fs::read_to_string(file).unwrap_or_default());
    }
    if lists.is_empty() {
        bail!(
            "neither /etc/apt/sources.list nor /etc/apt/sources.list.d/debian.sources names archives"
        );
    }
    Ok(lists)
}

/// The archives of a list, a line each: `deb-src [OPTIONS] URI SUITE COMPONENTS`.
fn of_sources(list: &str) -> String {
    let mut lines = String::new();
    for stanza in list.split("\n\n") {
        let field = |name: &str| {
            let value = stanza.lines().find_map(|line| line.strip_prefix(name));
            value.map(str::trim).unwrap_or_default()
        };
        let options = match field("Signed-By:") {
            "" => String::new(),
            key => format!("[signed-by={key}] "),
        };
        for (uri, suite) in field("URIs:")
            .split(' ')
            .flat_map(|uri| field("Suites:").split(' ').map(move |suite| (uri, suite)))
        {
            if !uri.is_empty() && !suite.is_empty() {
                lines += &format!("deb-src {options}{uri} {suite} {}\n", field("Components:"));
            }
        }
        let old = stanza.lines().filter_map(|line| line.strip_prefix("deb "));
        old.for_each(|rest| lines += &format!("deb-src {rest}\n"));
    }
    lines
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
    fn sources_are_where_binaries_are() {
        let old = "# x\ndeb http://a/debian bookworm main\ndeb-src http://a/debian bookworm main\n";
        assert_eq!(of_sources(old), "deb-src http://a/debian bookworm main\n");
        let new =
            "Types: deb\nURIs: http://a/debian\nSuites: b c\nComponents: main\nSigned-By: /k\n";
        let expected = "deb-src [signed-by=/k] http://a/debian b main\ndeb-src [signed-by=/k] http://a/debian c main\n";
        assert_eq!(of_sources(new), expected);
    }

    #[test]
    fn the_kernel_is_what_the_newest_depends_on() {
        let depends = "linux-image-arm64\n  Depends: linux-image-6.1.0-1-arm64\n  Conflicts: x\n";
        assert_eq!(kernel_in(depends), Some("linux-image-6.1.0-1-arm64"));
        assert_eq!(kernel_in("linux-image-arm64\n  Depends: linux-base\n"), None);
    }
}
