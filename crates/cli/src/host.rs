//! What the operating system says of the CPU, in the form of Linux's `/proc/cpuinfo`.
//!
//! macOS has no such file. There the same is asked of `sysctl`, and written in the same words, so that every machine's judgement is tested on any machine.

use std::fs;
use std::process::Command;

/// Of the first CPU at least; empty if nothing is known.
pub fn cpuinfo() -> String {
    match cfg!(target_os = "macos") {
        true => of_sysctl(&sysctl(&["machdep.cpu", "hw.optional"])),
        false => read("/proc/cpuinfo"),
    }
}

/// The file's text; empty if there is none.
pub fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// What it prints, nothing if it cannot be started.
pub fn sysctl(names: &[&str]) -> String {
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
    fn this_machine_says_something() {
        assert!(!cpuinfo().is_empty());
    }
}
