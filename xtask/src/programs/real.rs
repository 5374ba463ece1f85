//! What is done with real programs.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use kpkeys_emulator::Kernel;
use kpkeys_pgtable::Mode;

use super::boot::{Boot, Ended};
use crate::command;

/// stress-ng's stressors of what page tables are for.
const STRESSORS: [&str; 13] = [
    "fork", "vfork", "clone", "mmap", "mmapfork", "mremap", "madvise", "mprotect", "vm", "brk",
    "stack", "fault", "shm",
];
/// Our C programs. Each says that all is as it expects, which it does on Linux too.
const C_PROGRAMS: [&str; 6] = ["memory", "threads", "cloning", "exhaustion", "usage", "vectors"];
/// How each of our C programs is compiled; a name for it first.
const COMPILERS: [(&str, &str); 3] = [
    ("glibc, static", "gcc -O1 -static -pthread"),
    ("glibc, dynamic", "gcc -O1 -pthread"),
    ("musl, static", "musl-gcc -O1 -static -pthread"),
];
/// musl's packages of the two machines differ in where a dynamic program finds its loader; the script says so if there is none.
const DYNAMIC_MUSL: &str = "musl-gcc -O1 -pthread -w -o m /work/memory.c && ./m";

/// Memory of the machine: the archive, what is mapped of it, and what is asked for.
const MEMORY_MIB: u32 = 1024;

/// A kernel, and an archive of [`super::root`].
pub struct Real<'a> {
    pub kernel: &'a Kernel,
    pub archive: &'a Path,
    pub mode: Mode,
}

impl Real<'_> {
    fn run(&self, script: &str, limit_s: u64) -> Result<Ended> {
        self.boot(limit_s).run(script)
    }

    fn boot(&self, limit_s: u64) -> Boot<'_> {
        let limit = Duration::from_secs(limit_s);
        Boot { memory_mib: MEMORY_MIB, limit, ..Boot::new(self.kernel, self.archive, self.mode) }
    }

    /// Says that something was as it should be.
    fn say(&self, what: &str) {
        println!("{}, {}: {what}", self.kernel.target().name(), self.mode.name());
    }

    /// Our C programs, compiled there.
    pub fn c_programs(&self) -> Result<()> {
        for (name, compiler) in COMPILERS {
            let mut script = "cd /tmp".to_owned();
            for program in C_PROGRAMS {
                script +=
                    &format!(" && {compiler} -w -o {program} /work/{program}.c && ./{program}");
            }
            let expected = C_PROGRAMS.map(|program| format!("{program}: as expected"));
            let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
            self.expect(&format!("C programs, {name}"), &script, &expected)?;
        }
        let script = format!("cd /tmp && {DYNAMIC_MUSL}");
        self.expect("C program, musl, dynamic", &script, &["memory: as expected"])
    }

    fn expect(&self, what: &str, script: &str, expected: &[&str]) -> Result<()> {
        let ended = self.run(script, 600)?;
        ensure!(ended.printed == expected && ended.is_well(0), "{what}: {ended:?}");
        self.say(what);
        Ok(())
    }

    /// The script prints what it prints on this host.
    pub fn python(&self) -> Result<()> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/programs/guest/script.py");
        let expected = command::output(&mut command::program("python3", &[script]))?;
        let expected: Vec<&str> = expected.lines().collect();
        self.expect(
            "the Python script prints what it prints here",
            "python3 /work/script.py",
            &expected,
        )
    }

    /// The library is built, and its test says so.
    pub fn build(&self) -> Result<()> {
        let ended = self.run("sh /work/build.sh", 1200)?;
        let says = |line: &str| ended.printed.iter().any(|printed| printed == line);
        let is_built = says("large_inflate(): OK") && says("through and back");
        ensure!(is_built && ended.is_well(0), "zlib: {ended:?}");
        self.say("zlib is built, and its test passes");
        Ok(())
    }

    /// Every stressor, four of each, with an attacker in the kernel beside them.
    pub fn stress(&self, seconds: u32) -> Result<()> {
        for stressor in STRESSORS {
            let script =
                format!("stress-ng --{stressor} 4 --verify --timeout {seconds} --temp-path /tmp");
            let boot = Boot { attacked: true, ..self.boot(240 + 4 * u64::from(seconds)) };
            let ended = boot.run(&script)?;
            let failed = ended.printed.iter().find(|line| line.contains("stress-ng: fail"));
            if failed.is_some() || !ended.is_well(0) {
                bail!("stress-ng {stressor}: {ended:?}");
            }
            let attacks = ended.attacks;
            self.say(&format!("stress-ng {stressor}, {seconds} s, beside {attacks} attacks"));
        }
        Ok(())
    }
}

/// The series' fork and munmap, in instructions with the whole path of a system call in it, in every mode.
pub fn series(kernel: &Kernel, archive: &Path) -> Result<()> {
    /// The mapping is as large as the series has it.
    const MEMORY_MIB: u32 = 3072;
    let script = "cd /tmp && gcc -O1 -static -o series /work/series.c && ./series";
    for mode in Mode::ALL {
        let boot = Boot {
            memory_mib: MEMORY_MIB,
            limit: Duration::from_secs(900),
            counts_instructions: true,
            ..Boot::new(kernel, archive, mode)
        };
        let ended = boot.run(script)?;
        let figures = ended.printed.iter().find(|line| line.starts_with("fork "));
        let Some(figures) = figures.filter(|_| ended.is_well(0)) else {
            bail!("fork and munmap in mode {}: {ended:?}", mode.name())
        };
        println!("{}, {}: instructions: {figures}", kernel.target().name(), mode.name());
    }
    Ok(())
}
