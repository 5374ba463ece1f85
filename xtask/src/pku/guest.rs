//! The distribution's kernel, with programs of ours in the archive it starts from, in an emulator.
//!
//! The programs are the ones this machine builds and runs, with the shared libraries they name. A static busybox of the distribution is what Linux starts
//! first; it runs one script, which runs each command and says where its output begins and ends, and how it ended.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kpkeys_emulator::{Error, Kernel, Line, Machine, Target};
use kpkeys_program::initramfs::Writer;

use crate::debian::Apt;
use crate::{command, workspace};

/// The package that depends on the newest kernel without drivers for real machines.
const KERNEL: &str = "linux-image-cloud-amd64";
const SHELL: &str = "busybox-static";
const TIME_LIMIT: Duration = Duration::from_secs(900);

/// What a command is, and what it is called with.
pub struct Call<'c> {
    /// A name for it.
    pub name: &'c str,
    /// The program's name in the archive, and its arguments, as a shell takes them.
    pub line: String,
}

/// What came of a call.
#[derive(Default)]
pub struct Outcome {
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub complaints: String,
    /// The exit status; none if it did not come to its end.
    pub status: Option<u32>,
}

/// A kernel, and what its archives have in common.
pub struct Guest {
    kernel: Kernel,
    shell: Vec<u8>,
    folder: PathBuf,
}

impl Guest {
    /// Fetches kernel and shell.
    pub fn fetch() -> Result<Guest> {
        Target::X86_64.find_emulator()?;
        let folder = workspace::target_dir()?.join("pku");
        let apt = Apt::new("amd64", folder.clone())?;
        let package = apt.newest_kernel(KERNEL)?;
        let boot = apt.unpacked(&package)?.join("boot");
        let version = package.trim_start_matches("linux-image-");
        let image = boot.join(format!("vmlinuz-{version}"));
        if !image.is_file() {
            bail!("{package} has no {}", image.display());
        }
        let shell = read(&apt.unpacked(SHELL)?.join("bin/busybox"))?;
        Ok(Guest { kernel: Kernel::prebuilt(Target::X86_64, image), shell, folder })
    }

    /// Boots it on a CPU with these programs, and runs the calls one after the other.
    pub fn run(
        &self,
        cpu_model: &str,
        parameters: &str,
        programs: &[(&str, PathBuf)],
        calls: &[Call<'_>],
    ) -> Result<Vec<Outcome>> {
        let archive = self.folder.join("root.cpio");
        fs::write(&archive, self.archive(programs, calls)?)?;
        let machine = Machine {
            memory_mib: 3072,
            cpus: 2,
            cpu_model: cpu_model.to_owned(),
            initramfs: Some(archive),
            // Of the kernel's own messages emergencies alone; and it ends instead of waiting if there is one.
            command_line: format!("console=ttyS0 loglevel=1 panic=-1 {parameters}"),
            time_limit: TIME_LIMIT,
            ..Machine::default()
        };
        let mut printed = Vec::new();
        let run = self.kernel.run(&machine, &mut |line| {
            let (Line::Log(text) | Line::Record(text)) = line;
            printed.push(text.to_owned());
        });
        match run {
            // Linux ends the machine by its reset, which is no status of ours.
            Err(Error::Died { status, .. }) if status.success() => {}
            Err(error) => return Err(error.into()),
            Ok(run) => bail!("the emulator ended as the reference kernel does: {:?}", run.outcome),
        }
        Ok(calls.iter().map(|call| outcome(&printed, call.name)).collect())
    }

    fn archive(&self, programs: &[(&str, PathBuf)], calls: &[Call<'_>]) -> Result<Vec<u8>> {
        let mut files = vec![("bin/busybox".to_owned(), self.shell.clone())];
        let mut libraries = BTreeSet::new();
        for (name, file) in programs {
            files.push((format!("bin/{name}"), read(file)?));
            libraries.extend(libraries_of(file)?);
        }
        for library in libraries {
            let inside = library.trim_start_matches('/').to_owned();
            files.push((inside, read(Path::new(&library))?));
        }
        let mut archive = Writer::new();
        let paths = files.iter().map(|(path, _)| path.as_str());
        for folder in folders(paths.chain(["dev/x", "proc/x", "sys/x", "tmp/x"])) {
            archive.directory(&folder);
        }
        for (path, contents) in &files {
            archive.program(path, contents);
        }
        archive.program("init", script(calls).as_bytes());
        Ok(archive.finish())
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// The shared libraries of a program, the one that loads them too, as `ldd` names them.
fn libraries_of(program: &Path) -> Result<Vec<String>> {
    let program = program.to_str().context("a path that is no text")?;
    let listed = command::output(&mut command::program("ldd", &[program]))?;
    Ok(paths_in(&listed))
}

fn paths_in(listed: &str) -> Vec<String> {
    let path =
        |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(str::to_owned);
    listed.lines().filter_map(path).collect()
}

/// The folders above paths, the upper first.
fn folders<'p>(paths: impl Iterator<Item = &'p str>) -> BTreeSet<String> {
    let above = |path: &'p str| path.match_indices('/').map(move |(end, _)| path[..end].to_owned());
    paths.flat_map(above).collect()
}

const BEGINS: &str = "kpkeys-begins ";
const ENDS: &str = "kpkeys-ends ";
const OUTPUT: &str = "| ";
const COMPLAINT: &str = "! ";

/// What the guest runs first.
fn script(calls: &[Call<'_>]) -> String {
    let mut script = "#!/bin/busybox sh\n\
        mount() { /bin/busybox mount -t $1 $1 /$2; }\n\
        mount proc proc; mount sysfs sys; mount devtmpfs dev; mount tmpfs tmp\n\
        export PATH=/bin HOME=/tmp\n\
        say() { /bin/busybox sed \"s/^/$1/\" $2; }\n"
        .to_owned();
    for Call { name, line } in calls {
        script += &format!(
            "echo '{BEGINS}{name}'; {line} </dev/null >/tmp/output 2>/tmp/complaints; status=$?\n\
             say '{OUTPUT}' /tmp/output; say '{COMPLAINT}' /tmp/complaints; echo \"{ENDS}{name} $status\"\n"
        );
    }
    script + "/bin/busybox reboot -f\n"
}

/// What came of the call with this name, in all that was printed.
fn outcome(printed: &[String], name: &str) -> Outcome {
    let begin = format!("{BEGINS}{name}");
    let mut outcome = Outcome::default();
    for line in printed.iter().skip_while(|line| **line != begin).skip(1) {
        if let Some(text) = line.strip_prefix(OUTPUT) {
            outcome.output += &format!("{text}\n");
        } else if let Some(text) = line.strip_prefix(COMPLAINT) {
            outcome.complaints += &format!("{text}\n");
        } else if let Some(end) = line.strip_prefix(ENDS) {
            let status = end.strip_prefix(name).map(str::trim);
            outcome.status = status.and_then(|status| status.parse().ok());
            break;
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_the_paths_that_ldd_names() {
        let listed = "\tlinux-vdso.so.1 (0x7f)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        assert_eq!(
            paths_in(listed),
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]
        );
        assert_eq!(paths_in("\tstatically linked\n"), [""; 0]);
    }

    #[test]
    fn folders_come_before_what_is_in_them() {
        let folders: Vec<_> =
            folders(["lib/a/b.so", "bin/sh", "init"].into_iter()).into_iter().collect();
        assert_eq!(folders, ["bin", "lib", "lib/a"]);
    }

    #[test]
    fn an_outcome_is_read_between_its_marks() {
        let calls = ["one", "two"].map(|name| Call { name, line: "true".into() });
        let script = script(&calls);
        assert!(
            script.starts_with("#!/bin/busybox sh\n") && script.contains("'kpkeys-begins two'")
        );
        let printed = "noise\nkpkeys-begins one\n| a\n! b\n| c\nkpkeys-ends one 3\n\
                       kpkeys-begins two\n| d\n";
        let printed: Vec<String> = printed.lines().map(str::to_owned).collect();
        let [one, two] = ["one", "two"].map(|name| outcome(&printed, name));
        assert_eq!((one.output.as_str(), one.complaints.as_str()), ("a\nc\n", "b\n"));
        assert_eq!((one.status, two.status), (Some(3), None));
        assert_eq!(two.output, "d\n");
        assert_eq!(outcome(&printed, "three").status, None);
    }
}
