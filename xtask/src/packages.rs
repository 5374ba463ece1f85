//! Packages of the operating system: the two emulators that the reference kernel runs in.
//!
//! They are installed only where that needs no question: on Debian and its relatives, as root. Anywhere
//! else the user is told what to install, and what needs no emulator still runs.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::Result;
use kpkeys_emulator::Target;

use crate::command;
use crate::step::Outcome;

/// Installs the emulators that are missing, or says how to.
pub fn install_missing() -> Outcome {
    let missing = missing();
    if missing.is_empty() {
        println!("emulators: all installed");
        return Outcome::Done;
    }
    let advice = advice(&missing);
    if !(is_root() && is_debian_like()) {
        println!("{advice}");
        return Outcome::Incomplete(advice);
    }
    match apt_install(&missing) {
        Ok(()) => Outcome::Done,
        Err(error) => {
            println!("{error:#}\n{advice}");
            Outcome::Incomplete(advice)
        }
    }
}

fn missing() -> Vec<Target> {
    Target::ALL.into_iter().filter(|target| target.find_emulator().is_err()).collect()
}

/// As [`Target::install_advice`] says.
fn apt_install(missing: &[Target]) -> Result<()> {
    command::run(&mut apt_get(&["update", "--quiet"]))?;
    let install = ["install", "--quiet", "--yes", "--no-install-recommends"];
    let packages = missing.iter().map(|target| target.debian_package());
    command::run(&mut apt_get(&install.into_iter().chain(packages).collect::<Vec<_>>()))
}

fn apt_get(arguments: &[&str]) -> std::process::Command {
    let mut command = command::program("apt-get", arguments);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn advice(missing: &[Target]) -> String {
    let programs: Vec<_> = missing.iter().map(|target| target.program()).collect();
    format!("not on PATH: {}; {}", programs.join(", "), Target::install_advice(missing))
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
        let advice = advice(&[Target::Aarch64]);
        assert!(advice.contains("not on PATH: qemu-system-aarch64;"), "{advice}");
        assert!(advice.contains("--no-install-recommends qemu-system-arm;"), "{advice}");
        assert!(!advice.contains("x86"), "{advice}");
    }
}
