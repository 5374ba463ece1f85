//! What goes to a registry: every library, and the command.
//!
//! The step `package` makes the packages and looks at what is in them, which takes seconds. On request, `cargo xtask package` builds each from its packaged files,
//! installs the command from them, and uses it and the library as somebody would who has no checkout.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use kpkeys_emulator::Target;
use serde::Deserialize;

use crate::step::Outcome;
use crate::{command, tutorial, workspace};

/// What a package must have besides its code.
const FILES: [&str; 4] = ["Cargo.toml", "LICENSE-APACHE", "LICENSE-MIT", "README.md"];
/// A registry takes no more.
const KEYWORDS_AT_MOST: usize = 5;
/// The one package with a program in it.
const COMMAND: &str = "kpkeys-cli";

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

/// A package as `cargo metadata` has it.
#[derive(Clone, Deserialize)]
struct Package {
    name: String,
    version: String,
    description: Option<String>,
    license: Option<String>,
    repository: Option<String>,
    rust_version: Option<String>,
    #[serde(default)]
    categories: Vec<String>,
    #[serde(default)]
    keywords: Vec<String>,
    /// Registries that it may go to; none at all if this is empty.
    publish: Option<Vec<String>>,
    #[serde(default)]
    metadata: serde_json::Value,
}

impl Package {
    fn is_published(&self) -> bool {
        self.publish.as_ref().is_none_or(|registries| !registries.is_empty())
    }

    /// What the manifest lacks, or has too much of.
    fn problems(&self) -> Vec<String> {
        let said = [
            ("description", self.description.is_some()),
            ("license", self.license.is_some()),
            ("repository", self.repository.is_some()),
            ("rust-version", self.rust_version.is_some()),
            ("categories", !self.categories.is_empty()),
            ("keywords", !self.keywords.is_empty() && self.keywords.len() <= KEYWORDS_AT_MOST),
            ("metadata.docs.rs.targets", self.metadata["docs"]["rs"]["targets"].is_array()),
        ];
        said.iter()
            .filter(|(_, good)| !good)
            .map(|(field, _)| format!("{}: no good `{field}` in its manifest", self.name))
            .collect()
    }

    /// Where its packaged files are, below the folder they were unpacked in.
    fn folder(&self, below: &Path) -> PathBuf {
        below.join(format!("{}-{}", self.name, self.version))
    }
}

/// The step: every package can be made, says what it is, and has what it must.
pub fn check() -> Result<Outcome> {
    let all = packages()?;
    make(&all, &["--no-verify", "--allow-dirty"])?;
    let published: Vec<_> = all.iter().filter(|package| package.is_published()).collect();
    let mut problems: Vec<_> = published.iter().flat_map(|package| package.problems()).collect();
    for package in &published {
        let files = files_in(&archive(package)?)?;
        let missing = FILES.iter().filter(|name| !files.iter().any(|file| file == *name));
        problems.extend(missing.map(|name| format!("{}: no {name} in the package", package.name)));
    }
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    println!("{} packages, each with its licences and a README", published.len());
    Ok(Outcome::Done)
}

/// The task: packages are built, installed and used without the repository. Takes minutes.
pub fn run() -> Result<()> {
    check()?;
    let all = packages()?;
    // The command is built once, by being installed.
    make(&all, &["--allow-dirty", "--exclude", COMMAND])?;
    make(&all, &["--allow-dirty", "--no-verify"])?;
    let place = Place::new(&all)?;
    place.install()?;
    place.use_command()?;
    tutorial::walk(&place.patches())
}

fn packages() -> Result<Vec<Package>> {
    let arguments = ["metadata", "--no-deps", "--format-version", "1"];
    let metadata = command::output(&mut command::cargo(&arguments))?;
    let metadata: Metadata =
        serde_json::from_str(&metadata).context("cannot understand `cargo metadata`")?;
    Ok(metadata.packages)
}

fn make(all: &[Package], options: &[&str]) -> Result<()> {
    let mut arguments = vec!["package", "--workspace", "--quiet"];
    let unpublished = all.iter().filter(|package| !package.is_published());
    arguments.extend(unpublished.flat_map(|package| ["--exclude", package.name.as_str()]));
    arguments.extend(options);
    command::run(&mut command::cargo(&arguments))
}

fn archive(package: &Package) -> Result<PathBuf> {
    let name = format!("{}-{}.crate", package.name, package.version);
    Ok(workspace::target_dir()?.join("package").join(name))
}

/// The packaged files, without the folder they are all in.
fn files_in(archive: &Path) -> Result<Vec<String>> {
    let listing = command::output(command::program("tar", &["-tzf"]).arg(archive))?;
    let inner = |line: &str| line.split_once('/').map(|(_, file)| file.to_owned());
    Ok(listing.lines().filter_map(inner).collect())
}

/// A folder outside of any checkout, with the packages unpacked in it.
struct Place {
    folder: tempfile::TempDir,
    packages: Vec<Package>,
}

impl Place {
    fn new(all: &[Package]) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let packages: Vec<_> =
            all.iter().filter(|package| package.is_published()).cloned().collect();
        let place = Place { folder, packages };
        fs::create_dir_all(place.unpacked())?;
        for package in &place.packages {
            let archive = archive(package)?;
            let mut tar = command::program("tar", &["-xzf"]);
            command::run(tar.arg(archive).arg("-C").arg(place.unpacked()))?;
        }
        Ok(place)
    }

    fn unpacked(&self) -> PathBuf {
        self.folder.path().join("packages")
    }

    fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// What has Cargo take these packages where it would ask a registry.
    fn patches(&self) -> Vec<(String, PathBuf)> {
        let of = |package: &Package| (package.name.clone(), package.folder(&self.unpacked()));
        self.packages.iter().map(of).collect()
    }

    fn install(&self) -> Result<()> {
        let target = workspace::target_dir()?.join("installed");
        let command_package = self.packages.iter().find(|package| package.name == COMMAND);
        let folder = command_package.context("the command is published")?.folder(&self.unpacked());
        let mut cargo = command::cargo(&["install", "--quiet", "--force", "--path"]);
        cargo.arg(folder).arg("--root").arg(self.folder.path().join("root"));
        cargo.arg("--target-dir").arg(target).current_dir(&self.folder);
        for (name, folder) in self.patches().iter().filter(|(name, _)| name != COMMAND) {
            let patch = format!("patch.crates-io.{name}.path='{}'", folder.display());
            cargo.args(["--config", &patch]);
        }
        command::run(&mut cargo)
    }

    /// Runs the installed command where there is nothing but it.
    fn use_command(&self) -> Result<()> {
        fs::create_dir_all(self.home())?;
        let said = command::output(&mut self.command(&["completions", "bash"]))?;
        if !said.contains("_kpkeys") {
            bail!("`kpkeys completions bash` printed no completions:\n{said}");
        }
        command::run(&mut self.command(&["--version"]))?;
        command::run(&mut self.command(&["man", "man1"]))?;
        command::run(&mut self.command(&["reference", "v5-amended"]))?;
        for target in Target::ALL {
            match command::find(target.program()) {
                Some(_) => command::run(&mut self.command(&[
                    "run",
                    "tests=protection",
                    "--on",
                    target.name(),
                ]))?,
                None => println!("skipped: {}: no {}", target.name(), target.program()),
            }
        }
        Ok(())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let program: OsString = self.folder.path().join("root/bin/kpkeys").into();
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.home()).env("XDG_CACHE_HOME", self.home());
        command.env_remove("CARGO_TARGET_DIR").env_remove("CARGO_BUILD_TARGET_DIR");
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete() -> Package {
        Package {
            name: "x".into(),
            version: "1.0.0".into(),
            description: Some("does something".into()),
            license: Some("MIT".into()),
            repository: Some("https://example.org".into()),
            rust_version: Some("1.94".into()),
            categories: vec!["no-std".into()],
            keywords: vec!["kernel".into()],
            publish: None,
            metadata: serde_json::json!({ "docs": { "rs": { "targets": ["x86_64-unknown-none"] } } }),
        }
    }

    #[test]
    fn what_a_manifest_lacks_is_named() {
        assert!(complete().problems().is_empty());
        let lacks = |change: fn(&mut Package)| {
            let mut package = complete();
            change(&mut package);
            package.problems().join("; ")
        };
        assert_eq!(lacks(|p| p.license = None), "x: no good `license` in its manifest");
        assert_eq!(
            lacks(|p| p.keywords = vec!["k".into(); 6]),
            "x: no good `keywords` in its manifest"
        );
        assert_eq!(
            lacks(|p| p.metadata = serde_json::Value::Null),
            "x: no good `metadata.docs.rs.targets` in its manifest"
        );
    }

    #[test]
    fn what_is_for_the_repository_alone_is_not_published() {
        assert!(complete().is_published());
        assert!(!Package { publish: Some(Vec::new()), ..complete() }.is_published());
        let published: Vec<_> =
            packages().unwrap().into_iter().filter(Package::is_published).collect();
        let is = |name: &str| published.iter().any(|package| package.name == name);
        assert!(is("kpkeys") && is("kpkeys-pgtable") && is(COMMAND));
        assert!(!is("xtask") && !is("kpkeys-skips") && !is("kpkeys-examples"));
    }
}
