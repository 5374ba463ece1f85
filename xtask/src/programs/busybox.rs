//! Scripts for a static busybox, in every mode.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kpkeys_emulator::Kernel;
use kpkeys_pgtable::Mode;
use kpkeys_program::initramfs::Writer;

use super::architecture;
use super::boot::Boot;
use crate::debian::Apt;
use crate::workspace;

/// The package, and the source it is made of.
const PACKAGE: &str = "busybox-static";
pub const SOURCE: &str = "busybox";
/// Applets that are there by their own names.
const APPLETS: [&str; 25] = [
    "awk", "cat", "cp", "dd", "echo", "env", "find", "grep", "head", "id", "kill", "ls", "mkdir",
    "mv", "ps", "readlink", "rm", "sed", "seq", "sh", "sleep", "sort", "tr", "uname", "wc",
];

/// What is run, and the lines that it must print.
struct Case {
    script: &'static str,
    prints: &'static [&'static str],
    /// What it must exit with.
    status: u32,
}

const CASES: [Case; 6] = [
    Case {
        script: "echo one two; ls -1 /; readlink /proc/self/exe; exit 7",
        prints: &["one two", "bin", "dev", "proc", "sys", "tmp", "/bin/busybox"],
        status: 7,
    },
    Case {
        script: "seq 1 1000 | grep 7 | wc -l; echo $(( $(seq 1 100 | tr '\\n' +) 0 ))",
        prints: &["271", "5050"],
        status: 0,
    },
    Case {
        script: "mkdir /tmp/a; echo x > /tmp/a/b; cp /tmp/a/b /tmp/c; mv /tmp/c /tmp/d; cat /tmp/d; rm -r /tmp/a; ls /tmp",
        prints: &["x", "d"],
        status: 0,
    },
    Case {
        script: "trap 'echo caught' USR1; kill -USR1 $$; sh -c 'kill -SEGV $$'; echo $?; sleep 5 & kill $!; wait $!; echo $?",
        prints: &["caught", "Segmentation fault", "139", "Terminated", "143"],
        status: 0,
    },
    Case {
        script: "for i in 1 2 3 4 5 6 7 8; do (seq 1 200 | sort -n | awk '{s+=$1} END {print s}') & done; wait",
        prints: &["20100", "20100", "20100", "20100", "20100", "20100", "20100", "20100"],
        status: 0,
    },
    Case {
        script: "busybox mkfifo /tmp/p; (echo through a name > /tmp/p) & cat /tmp/p; wait; dd if=/dev/zero bs=1M count=1 2>/dev/null | wc -c",
        prints: &["through a name", "1048576"],
        status: 0,
    },
];

/// Runs them all.
pub fn run(kernel: &Kernel) -> Result<()> {
    let target = kernel.target();
    let archive = archive(architecture(target))?;
    for mode in Mode::ALL {
        for case in &CASES {
            check(kernel, &archive, mode, case)?;
        }
        println!("{}, {}: {} scripts as on Linux", target.name(), mode.name(), CASES.len());
    }
    Ok(())
}

fn check(kernel: &Kernel, archive: &Path, mode: Mode, case: &Case) -> Result<()> {
    let ended = Boot::new(kernel, archive, mode).run(case.script)?;
    if ended.printed != case.prints || !ended.is_well(case.status) {
        bail!(
            "mode {}: `{}` came to {ended:?}; expected {:?} and status {}",
            mode.name(),
            case.script,
            case.prints,
            case.status
        );
    }
    Ok(())
}

/// An archive with busybox and links to it.
fn archive(architecture: &'static str) -> Result<PathBuf> {
    let folder = workspace::target_dir()?.join("programs").join(architecture);
    let apt = Apt::new(architecture, folder.clone())?;
    let mut archive = Writer::new();
    archive.directory("bin");
    archive.program("bin/busybox", &program(&apt)?);
    for applet in APPLETS {
        archive.link(&format!("bin/{applet}"), "busybox");
    }
    let file = folder.join("root.cpio");
    fs::write(&file, archive.finish())?;
    println!("{}", file.display());
    Ok(file)
}

/// The program.
pub fn program(apt: &Apt) -> Result<Vec<u8>> {
    let busybox = apt.unpacked(PACKAGE)?.join("bin/busybox");
    fs::read(&busybox).with_context(|| format!("cannot read {}", busybox.display()))
}
