//! Packages of the operating system: the two emulators that the reference kernel runs in, and valgrind, which counts instructions.
//!
//! They are installed only where that needs no question: on Debian and its relatives, as root. Anywhere
//! else the user is told what to install, and what needs none of them still runs.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Result, bail};
use kpkeys_emulator::Target;

use crate::command;
use crate::step::Outcome;

/// A program that counts instructions, and the package of the same name.
const VALGRIND: &str = "valgrind";

/// What is not on `PATH`.
#[derive(PartialEq, Eq)]
struct Missing {
    emulators: Vec<Target>,
    valgrind: bool,
}

/// Installs what is missing, or says how to.
pub fn install_missing() -> Outcome {
    let missing = missing();
    if missing.packages().is_empty() {
        println!("emulators and valgrind: all installed");
        return Outcome::Done;
    }
    let advice = advice(&missing);
    if !can_install() {
        println!("{advice}");
        return Outcome::Incomplete(advice);
    }
    match install(&missing.packages()) {
        Ok(()) => Outcome::Done,
        Err(error) => {
            println!("{error:#}\n{advice}");
            Outcome::Incomplete(advice)
        }
    }
}

fn missing() -> Missing {
    Missing {
        emulators: Target::ALL.into_iter().filter(|t| t.find_emulator().is_err()).collect(),
        valgrind: command::find(VALGRIND).is_none(),
    }
}

impl Missing {
    fn packages(&self) -> Vec<&'static str> {
        let emulators = self.emulators.iter().map(|target| target.debian_package());
        emulators.chain(self.valgrind.then_some(VALGRIND)).collect()
    }
}

/// Whether packages can be installed without a question.
pub fn can_install() -> bool {
    is_root() && is_debian_like()
}

/// A program, and the package of Debian that has it.
pub type Needed = (&'static str, &'static str);

/// Installs what of it is not on `PATH`.
pub fn install_needed(needed: &[Needed]) -> Result<()> {
    let missing = needed.iter().filter(|(program, _)| command::find(program).is_none());
    let missing: Vec<&str> = missing.map(|(_, package)| *package).collect();
    install_or_say(&missing)
}

/// Installs packages of Debian, or says how that is done.
pub fn install_or_say(missing: &[&str]) -> Result<()> {
    match missing {
        [] => Ok(()),
        _ if can_install() => install(missing),
        _ => bail!("as root, on Debian or Ubuntu: apt-get install {}", missing.join(" ")),
    }
}

/// Installs packages of Debian, as [`Target::install_advice`] says.
pub fn install(packages: &[&str]) -> Result<()> {
    command::run(&mut apt_get(&["update", "--quiet"]))?;
    let install = ["install", "--quiet", "--yes", "--no-install-recommends"];
    command::run(&mut apt_get(&[&install, packages].concat()))
}

fn apt_get(arguments: &[&str]) -> std::process::Command {
    let mut command = command::program("apt-get", arguments);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn advice(missing: &Missing) -> String {
    let emulators = missing.emulators.iter().map(|target| target.program());
    let programs: Vec<_> = emulators.chain(missing.valgrind.then_some(VALGRIND)).collect();
    let mut install = Vec::new();
    if !missing.emulators.is_empty() {
        install.push(Target::install_advice(&missing.emulators));
    }
    if missing.valgrind {
        install.push("your system's valgrind package".to_owned());
    }
    format!("not on PATH: {}; {}", programs.join(", "), install.join("; "))
}

/// The owner of our own process entry: no unsafe call and no crate for one number.
fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|entry| entry.uid() == 0)
}

fn is_debian_like() -> bool {
    fs::read_to_string("/etc/os-release").is_ok_and(|text| names_debian(&text))
}

/// `ID` names the distribution, `ID_LIKE` its relatives: see os-release(5).
fn names_debian(os_release: &str) -> bool {
    os_release
        .lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(key, _)| matches!(*key, "ID" | "ID_LIKE"))
        .flat_map(|(_, value)| value.trim_matches(['"', '\'']).split_whitespace())
        .any(|name| matches!(name, "debian" | "ubuntu"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_and_its_relatives_are_told_from_others() {
        assert!(names_debian("PRETTY_NAME=\"Debian GNU/Linux 12\"\nID=debian\n"));
        assert!(names_debian("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!names_debian("ID=fedora\nNAME=\"not debian\"\n"));
        assert!(!names_debian(""));
    }

    #[test]
    fn the_advice_names_exactly_what_is_missing() {
        let advice = advice(&Missing { emulators: vec![Target::Aarch64], valgrind: false });
        assert!(advice.contains("not on PATH: qemu-system-aarch64;"), "{advice}");
        assert!(advice.contains("--no-install-recommends qemu-system-arm;"), "{advice}");
        assert!(!advice.contains("x86") && !advice.contains("valgrind"), "{advice}");
        let only = Missing { emulators: vec![], valgrind: true };
        assert_eq!(super::advice(&only), "not on PATH: valgrind; your system's valgrind package");
    }
}
