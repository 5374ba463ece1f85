//! What the operating system says of the CPU, in the form of Linux's `/proc/cpuinfo`; and whether this program runs on it at all.
//!
//! macOS has no such file. There the same is asked of `sysctl`, and written in the same words, so that every machine's judgement is tested on any machine.
//!
//! A program for another architecture can be *translated*: by QEMU's user mode, FEX, Rosetta. Its times are the translator's. The kernel beneath is the
//! host's own and says so in `/proc/sys/kernel/arch` (Linux 6.1), which translators pass on; macOS says it in `sysctl.proc_translated`. A translator of
//! the host's own architecture would not be seen.

use std::env::consts::ARCH;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Of the first CPU at least; empty if nothing is known.
pub fn cpuinfo() -> String {
    match cfg!(target_os = "macos") {
        true => of_sysctl(&sysctl(&["machdep.cpu", "hw.optional"])),
        false => read("/proc/cpuinfo"),
    }
}

/// How this program is translated for a CPU that cannot run it; none if it runs as it is, as far as the system says.
pub fn translated() -> Option<String> {
    match cfg!(target_os = "macos") {
        true => translated_on(ARCH, sysctl_says_so(&sysctl(&["sysctl.proc_translated"]))),
        false => translated_on(ARCH, Some(read("/proc/sys/kernel/arch").trim())),
    }
}

/// What starts a program of this one's architecture: by the program that `KPKEYS_RUNNER` names, with the arguments that follow in it, if it is set. A
/// translated program needs that where the kernel was not told what translates its files.
pub fn command(program: &Path) -> Command {
    command_by(&std::env::var("KPKEYS_RUNNER").unwrap_or_default(), program)
}

fn command_by(runner: &str, program: &Path) -> Command {
    let mut words = runner.split_whitespace();
    let Some(first) = words.next() else {
        return Command::new(program);
    };
    let mut command = Command::new(first);
    command.args(words).arg(program);
    command
}

/// The architecture of the kernel, if `sysctl` says that the program is of another.
fn sysctl_says_so(printed: &str) -> Option<&'static str> {
    (printed.trim() == "sysctl.proc_translated: 1").then_some("arm64")
}

/// Whether a program of one architecture is translated on a kernel of another. Nothing is known if the kernel does not say.
fn translated_on(program: &str, kernel: Option<&str>) -> Option<String> {
    let kernel = kernel.filter(|name| !name.is_empty() && *name != program)?;
    Some(format!("this program is for {program}, and the kernel runs on {kernel}"))
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// What it prints, nothing if it cannot be started.
fn sysctl(names: &[&str]) -> String {
    let output = Command::new("sysctl").args(names).output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

/// Fields of `/proc/cpuinfo` and the names of `sysctl`.
const FIELDS: [(&str, &str); 5] = [
    ("vendor_id", "machdep.cpu.vendor"),
    ("model name", "machdep.cpu.brand_string"),
    ("cpu family", "machdep.cpu.family"),
    ("model", "machdep.cpu.model"),
    ("stepping", "machdep.cpu.stepping"),
];

/// Features of arm64 that date a CPU: Linux's names and those of `sysctl`.
const FEATURES: [(&str, &str); 3] = [
    ("atomics", "hw.optional.arm.FEAT_LSE"),
    ("sb", "hw.optional.arm.FEAT_SB"),
    ("frint", "hw.optional.arm.FEAT_FRINTTS"),
];

/// What `sysctl` printed, one `name: value` a line, as `/proc/cpuinfo` has it.
fn of_sysctl(printed: &str) -> String {
    let value = |name: &str| {
        let mut values = printed.lines().filter_map(|line| line.split_once(": "));
        values.find(|(found, _)| *found == name).map(|(_, value)| value.trim())
    };
    let fields =
        FIELDS.iter().filter_map(|(ours, theirs)| Some((*ours, value(theirs)?.to_owned())));
    let arm = value("machdep.cpu.vendor").is_none() && value("machdep.cpu.brand_string").is_some();
    let features = FEATURES.iter().filter(|(_, theirs)| value(theirs) == Some("1"));
    let features: Vec<&str> = features.map(|(ours, _)| *ours).collect();
    let of_arm =
        arm.then(|| [("CPU implementer", "0x61".to_owned()), ("Features", features.join(" "))]);
    let lines = fields.chain(of_arm.into_iter().flatten());
    lines.map(|(name, value)| format!("{name}\t: {value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apples_own_cpus_are_named_with_what_dates_them() {
        let printed = "machdep.cpu.cores_per_package: 8\nmachdep.cpu.brand_string: Apple M1\n\
                       hw.optional.arm.FEAT_LSE: 1\nhw.optional.arm.FEAT_SB: 1\nhw.optional.arm.FEAT_FRINTTS: 0\n";
        assert_eq!(
            of_sysctl(printed),
            "model name\t: Apple M1\nCPU implementer\t: 0x61\nFeatures\t: atomics sb\n"
        );
    }

    #[test]
    fn intels_are_named_as_they_are_on_linux() {
        let printed = "machdep.cpu.vendor: GenuineIntel\nmachdep.cpu.family: 6\nmachdep.cpu.model: 158\n\
                       machdep.cpu.stepping: 10\nmachdep.cpu.brand_string: Intel(R) Core(TM) i7\n";
        assert_eq!(
            of_sysctl(printed),
            "vendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Core(TM) i7\ncpu family\t: 6\nmodel\t: 158\nstepping\t: 10\n"
        );
        assert_eq!(of_sysctl("sysctl: unknown oid"), "");
    }

    #[test]
    fn a_program_is_translated_where_the_kernel_is_of_another_architecture() {
        let told = translated_on("aarch64", Some("x86_64")).unwrap();
        assert_eq!(told, "this program is for aarch64, and the kernel runs on x86_64");
        assert_eq!(translated_on("aarch64", Some("aarch64")), None);
        assert_eq!(translated_on("aarch64", Some("")), None, "before Linux 6.1");
        assert_eq!(translated_on("x86_64", sysctl_says_so("sysctl.proc_translated: 0\n")), None);
        assert!(translated_on("x86_64", sysctl_says_so("sysctl.proc_translated: 1\n")).is_some());
    }

    #[test]
    fn programs_are_started_by_what_runs_them() {
        let started = |runner| {
            let command = command_by(runner, Path::new("/bin/kpkeys"));
            let words = std::iter::once(command.get_program()).chain(command.get_args());
            words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(started(""), ["/bin/kpkeys"]);
        assert_eq!(started("qemu -L /usr"), ["qemu", "-L", "/usr", "/bin/kpkeys"]);
    }

    #[test]
    fn this_machine_says_something() {
        assert!(!cpuinfo().is_empty());
    }
}
