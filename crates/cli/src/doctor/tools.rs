//! The programs that the `kpkeys` command starts: emulators, and the compiler for the reference kernel.

use std::path::Path;
use std::process::Command;

use kpkeys_emulator::Target;

use super::{Finding, Status};

/// The calls that run the reference kernel.
const CALLS: [&str; 3] = ["attack", "bench", "run"];

/// Each of them as it is typed for this target.
fn commands(target: Target) -> [String; CALLS.len()] {
    CALLS.map(|call| format!("{call} --on {}", target.name()))
}

/// The oldest version that the reference kernel is tested with.
const OLDEST_TESTED: (u32, u32) = (7, 2);

/// Starts the emulator to ask its version.
pub(super) fn examine_emulator(target: Target) -> Finding {
    judge_emulator(target, output(Command::new(target.program()).arg("--version")).as_deref())
}

fn judge_emulator(target: Target, version_text: Option<&str>) -> Finding {
    let (program, commands) = (target.program(), commands(target));
    let commands = &commands.each_ref().map(String::as_str);
    let enforces =
        format!("enforces {}; counts mean something there, times do not", target.enforces());
    let remedy = Target::install_advice(&[target]);
    match version_text.map(version) {
        None => Finding::new(program, Status::Missing, "cannot be started", commands, "cannot run")
            .with_remedy(remedy),
        Some(None) => {
            let found = "started, but its version is not understood";
            Finding::new(program, Status::Ok, found, commands, enforces)
        }
        Some(Some(version)) if version < OLDEST_TESTED => {
            let found = format!("version {}.{}, older than tested", version.0, version.1);
            Finding::new(program, Status::Missing, found, commands, "may not run")
                .with_remedy(format!("version {}.{}; {remedy}", OLDEST_TESTED.0, OLDEST_TESTED.1))
        }
        Some(Some((major, minor))) => {
            let found = format!("version {major}.{minor}");
            Finding::new(program, Status::Ok, found, commands, enforces)
        }
    }
}

/// Major and minor number from "QEMU emulator version 7.2.22 (Debian ...)".
fn version(text: &str) -> Option<(u32, u32)> {
    let numbers = text.split_once(" version ")?.1;
    let mut numbers = numbers.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Asks the compiler where it keeps the target's library, and looks there.
pub(super) fn examine_rust_target(target: Target) -> Finding {
    let mut rustc = Command::new("rustc");
    let folder = output(rustc.args(["--print", "target-libdir", "--target", target.rust_target()]));
    judge_rust_target(target, folder.map(|folder| Path::new(folder.trim()).is_dir()))
}

/// `installed` is `None` where there is no compiler to ask.
fn judge_rust_target(target: Target, installed: Option<bool>) -> Finding {
    let (name, commands) = (target.rust_target(), commands(target));
    let commands = &commands.each_ref().map(String::as_str);
    match installed {
        Some(true) => {
            let consequence = "the reference kernel can be built";
            Finding::new(name, Status::Ok, "installed", commands, consequence)
        }
        Some(false) => {
            let consequence = "the reference kernel cannot be built";
            Finding::new(name, Status::Missing, "not installed", commands, consequence)
                .with_remedy(format!("rustup target add {name}"))
        }
        None => {
            let consequence = "the reference kernel cannot be built";
            Finding::new(name, Status::Missing, "no rustc on PATH", commands, consequence)
                .with_remedy("install Rust from https://rustup.rs")
        }
    }
}

/// What the command prints, or `None` if it cannot be started or fails.
fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_the_first_line() {
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright (c)\n";
        assert_eq!(version(debian), Some((7, 2)));
        assert_eq!(version("QEMU emulator version 10.0\n"), Some((10, 0)));
        assert_eq!(version("something else"), None);
        assert_eq!(version("QEMU emulator version x"), None);
    }

    #[test]
    fn an_emulator_is_judged_by_its_version() {
        let judge = |text| judge_emulator(Target::X86_64, text);
        assert_eq!(judge(Some("QEMU emulator version 7.2.0")).status, Status::Ok);
        assert_eq!(judge(Some("QEMU emulator version 10.0.2")).status, Status::Ok);
        assert_eq!(judge(Some("QEMU emulator version 6.9.0")).status, Status::Missing);
        let absent = judge(None);
        assert_eq!(absent.status, Status::Missing);
        assert!(absent.remedy.unwrap().contains("qemu-system-x86;"));
    }

    #[test]
    fn a_target_is_judged_by_what_the_compiler_has() {
        let judge = |installed| judge_rust_target(Target::Aarch64, installed);
        assert_eq!(judge(Some(true)).status, Status::Ok);
        let missing = judge(Some(false));
        assert_eq!(missing.status, Status::Missing);
        let remedy = missing.remedy.unwrap();
        assert_eq!(remedy, "rustup target add aarch64-unknown-none-softfloat");
        assert!(judge(None).found.contains("rustc"));
    }

    #[test]
    fn a_program_that_cannot_start_prints_nothing() {
        assert_eq!(output(&mut Command::new("no-such-program")), None);
        assert_eq!(output(&mut Command::new("false")), None);
    }
}
