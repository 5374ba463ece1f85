//! Building the kernel: a Cargo package of its own, for a bare target.

use crate::{Error, Target, flat, source};
use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A kernel image and the machine it is for.
#[derive(Clone, Debug)]
pub struct Kernel {
    target: Target,
    elf: PathBuf,
    image: PathBuf,
}

/// Flags that a caller's environment may carry for its own build. The kernel's own
/// `.cargo/config.toml` must decide, or it would not link at its address.
const FOREIGN_FLAGS: [&str; 4] =
    ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS", "CARGO_BUILD_TARGET"];

/// Where a caller says that Cargo is to build.
const TARGET_DIRS: [&str; 2] = ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR"];

/// Where the kernel in `folder` is built: apart from what else is where the environment says, or in a folder of its own.
pub fn target_dir(folder: &Path) -> PathBuf {
    let said = TARGET_DIRS.into_iter().find_map(std::env::var_os);
    target_dir_in(said, std::env::current_exe().ok().as_deref(), folder)
}

/// A relative one is relative to where Cargo was called, which `cargo test` has left since: this program was built there too.
fn target_dir_in(said: Option<OsString>, program: Option<&Path>, folder: &Path) -> PathBuf {
    let Some(said) = said.map(PathBuf::from) else { return folder.join("target") };
    let built_in =
        program.and_then(|program| program.ancestors().find(|above| above.ends_with(&said)));
    let absolute = || std::path::absolute(&said).unwrap_or(said.clone());
    built_in.map_or_else(absolute, Path::to_owned).join("kernel")
}

/// Whether this compiler has the target's libraries; the compiler's own complaint says nothing of how to get them.
pub(crate) fn check_rust_target(
    rustc: &OsStr,
    folder: &Path,
    rust_target: &'static str,
) -> Result<(), Error> {
    let mut rustc = Command::new(rustc);
    rustc.current_dir(folder).args(["--print", "target-libdir", "--target", rust_target]);
    // A compiler that cannot be asked is Cargo's to complain of.
    let Ok(said) = rustc.stdin(Stdio::null()).output() else { return Ok(()) };
    let libraries = String::from_utf8_lossy(&said.stdout);
    match said.status.success() && !Path::new(libraries.trim()).is_dir() {
        true => Err(Error::RustTargetMissing { rust_target }),
        false => Ok(()),
    }
}

/// Runs Cargo on a package for a bare target, quickly when nothing has changed; where what it builds is. Its messages go to standard error, its progress too
/// if that is a terminal.
///
/// # Errors
///
/// [`Error::Build`], or [`Error::Io`] when Cargo does not start.
pub(crate) fn build(
    folder: &Path,
    target_dir: &Path,
    rust_target: &str,
    what: &[&str],
) -> Result<PathBuf, Error> {
    let program = PathBuf::from(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let mut cargo = Command::new(&program);
    // In the package's folder, where Cargo finds the kernel's configuration.
    cargo.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null());
    cargo.args(["build", "--release", "--target", rust_target]).args(what);
    if !std::io::stderr().is_terminal() {
        cargo.arg("--quiet");
    }
    cargo.arg("--target-dir").arg(target_dir);
    for variable in FOREIGN_FLAGS.iter().chain(&TARGET_DIRS) {
        cargo.env_remove(variable);
    }
    let status = cargo.status().map_err(|source| Error::Io { program, source })?;
    if !status.success() {
        return Err(Error::Build { status });
    }
    Ok(target_dir.join(rust_target).join("release"))
}

/// Page tables of another format than a machine's usual, which there is a build of the kernel with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tables {
    /// x86-64 with five levels.
    X86_64La57,
    /// arm64 with pages of 16 KiB.
    Aarch64Pages16K,
    /// arm64 with pages of 64 KiB.
    Aarch64Pages64K,
}

impl Tables {
    /// All of them.
    pub const ALL: [Tables; 3] =
        [Tables::X86_64La57, Tables::Aarch64Pages16K, Tables::Aarch64Pages64K];

    /// The name of the format.
    pub const fn name(self) -> &'static str {
        match self {
            Tables::X86_64La57 => "x86_64-la57",
            Tables::Aarch64Pages16K => "aarch64-16k",
            Tables::Aarch64Pages64K => "aarch64-64k",
        }
    }

    /// The machine that has them.
    pub const fn target(self) -> Target {
        match self {
            Tables::X86_64La57 => Target::X86_64,
            Tables::Aarch64Pages16K | Tables::Aarch64Pages64K => Target::Aarch64,
        }
    }

    /// Memory, in MiB, that all tests of the kernel have enough of.
    pub const fn memory_mib(self) -> u32 {
        match self {
            Tables::X86_64La57 | Tables::Aarch64Pages16K => 256,
            Tables::Aarch64Pages64K => 2048,
        }
    }

    /// The binary, and the feature that it is built with.
    pub const fn binary(self) -> [&'static str; 2] {
        match self {
            Tables::X86_64La57 => ["kpkeys-la57", "la57"],
            Tables::Aarch64Pages16K => ["kpkeys-16k", "pages-16k"],
            Tables::Aarch64Pages64K => ["kpkeys-64k", "pages-64k"],
        }
    }
}

impl Kernel {
    /// Builds the kernel from the checkout this program was built from, or from the source in this program if there is none any more;
    /// quick when nothing has changed. Cargo's messages go to standard error, its progress too if that is a terminal.
    ///
    /// # Errors
    ///
    /// [`Error::NoCache`], [`Error::RustTargetMissing`], [`Error::Build`], [`Error::BadImage`], or [`Error::Io`] when Cargo does not
    /// start.
    pub fn build(target: Target) -> Result<Self, Error> {
        Self::build_binary(target, "kpkeys-kernel", &["--bin", "kpkeys-kernel"])
    }

    /// The same kernel with page tables of another format, for the machine that has them. It has a file of its own.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build).
    pub fn build_with(tables: Tables) -> Result<Self, Error> {
        let [name, feature] = tables.binary();
        Self::build_binary(tables.target(), name, &["--bin", name, "--features", feature])
    }

    /// The same kernel with a driver that has planted faults, for [`exploits`](crate::exploits) to be shown on. It has a file of its own.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build).
    pub fn build_vulnerable(target: Target) -> Result<Self, Error> {
        let what = ["--bin", "kpkeys-vulnerable", "--features", "vulnerable"];
        Self::build_binary(target, "kpkeys-vulnerable", &what)
    }

    fn build_binary(target: Target, name: &str, what: &[&str]) -> Result<Self, Error> {
        let folder = source::folder()?;
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let rust_target = target.rust_target();
        check_rust_target(&rustc, &folder, rust_target)?;
        let elf = build(&folder, &target_dir(&folder), rust_target, what)?.join(name);
        let image =
            if target.loads_flat_images() { flat::write_beside(&elf)? } else { elf.clone() };
        Ok(Self { target, elf, image })
    }

    /// An image that was built before, in the form the emulator takes.
    pub fn prebuilt(target: Target, image: PathBuf) -> Self {
        Self { target, elf: image.clone(), image }
    }

    /// The machine it is for.
    pub fn target(&self) -> Target {
        self.target
    }

    /// The file the linker made, with symbols and debug information; of an image that was built before, the image itself.
    pub fn elf(&self) -> &Path {
        &self.elf
    }

    /// The file the emulator is given: the ELF file, or the flat image made of it.
    pub fn image(&self) -> &Path {
        &self.image
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_environment_says_where_the_kernel_is_built() {
        let (folder, program) = (Path::new("/src/kernel"), Path::new("/work/out/debug/deps/boot"));
        let built = |said: Option<&str>| target_dir_in(said.map(Into::into), Some(program), folder);
        assert_eq!(built(None), Path::new("/src/kernel/target"));
        assert_eq!(built(Some("/elsewhere")), Path::new("/elsewhere/kernel"));
        assert_eq!(built(Some("out")), Path::new("/work/out/kernel"));
        let here = std::env::current_dir().unwrap();
        assert_eq!(built(Some("other")), here.join("other/kernel"));
    }

    #[test]
    fn a_missing_rust_target_is_named_with_what_installs_it() {
        let folder = tempfile::tempdir().unwrap();
        let rustc = folder.path().join("rustc");
        std::fs::write(&rustc, "#!/bin/sh\necho /nonesuch/lib\n").unwrap();
        std::fs::set_permissions(&rustc, std::fs::Permissions::from_mode(0o755)).unwrap();
        let check = |rustc: &Path| {
            check_rust_target(rustc.as_os_str(), folder.path(), "x86_64-unknown-none")
        };
        let error = check(&rustc).unwrap_err().to_string();
        assert_eq!(
            error,
            "Rust's target x86_64-unknown-none is not installed; `rustup target add x86_64-unknown-none` installs it"
        );
        std::fs::write(&rustc, format!("#!/bin/sh\necho {}\n", folder.path().display())).unwrap();
        check(&rustc).unwrap();
        check(Path::new("/nonesuch/rustc")).unwrap();
    }
}
