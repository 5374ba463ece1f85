//! What the machine and its settings allow: CPUs, memory, perf events and ptrace.

use kpkeys_trace::record::{Allowed, RecordError, missing};

use super::{Finding, Status};

const GIB: u64 = 1 << 30;

/// The rows that measure the host kernel itself touch a mapping of 1 GiB; the rest is for tables and
/// frame metadata of the arena, samples and the program.
const BENCH_BYTES: u64 = GIB + GIB / 2;

/// Part of `/proc/meminfo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) total_bytes: u64,
    available_bytes: u64,
}

impl Memory {
    /// `None` if the text lacks one of the two lines.
    pub(super) fn parse(meminfo: &str) -> Option<Self> {
        let bytes = |name: &str| {
            let value = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
            let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
            kibibytes.checked_mul(1024)
        };
        Some(Self { total_bytes: bytes("MemTotal:")?, available_bytes: bytes("MemAvailable:")? })
    }
}

/// A size for people.
pub(super) fn gibibytes(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / GIB as f64)
}

/// Whether there are two CPUs: one to measure on, one for everything else.
pub(super) fn cpus(count: usize) -> Finding {
    const COMMANDS: &[&str] = &["bench", "bench --trace"];
    match count {
        0 | 1 => Finding::new(
            "CPUs",
            Status::Unavailable,
            "1",
            COMMANDS,
            "whatever else runs disturbs the measurement: expect wide intervals",
        ),
        _ => Finding::new(
            "CPUs",
            Status::Ok,
            count.to_string(),
            COMMANDS,
            "one is left for the rest of the system while another measures",
        ),
    }
}

/// Whether the rows that need most memory can run.
pub(super) fn memory(memory: Option<Memory>) -> Finding {
    const COMMANDS: &[&str] = &["bench"];
    let Some(memory) = memory else {
        return Finding::new(
            "memory",
            Status::Unavailable,
            "how much is available could not be read",
            COMMANDS,
            "whether the host kernel's own rows fit is not known",
        );
    };
    let found = format!("{} available", gibibytes(memory.available_bytes));
    if memory.available_bytes >= BENCH_BYTES {
        return Finding::new("memory", Status::Ok, found, COMMANDS, "every row can run");
    }
    Finding::new(
        "memory",
        Status::Missing,
        found,
        COMMANDS,
        "the fork and munmap rows of the host kernel, which touch 1 GiB, may fail",
    )
    .with_remedy(format!("free memory until {} are available", gibibytes(BENCH_BYTES)))
}

/// The effective capabilities of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Capabilities(u64);

impl Capabilities {
    // Its number from capability.h of Linux.
    const SYS_PTRACE: u32 = 19;

    /// From the `CapEff` line of `/proc/self/status`; none if there is no such line.
    pub(super) fn parse(status: &str) -> Self {
        let hexadecimal = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        Self(hexadecimal.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0))
    }

    fn has(self, capability: u32) -> bool {
        self.0 >> capability & 1 == 1
    }
}

/// What a recording through perf events would have. It is tried, by what a recording begins with.
pub(super) fn perf_events(allowed: Result<Allowed, RecordError>) -> Finding {
    const NAME: &str = "perf events";
    const COMMANDS: &[&str] = &["trace record"];
    let finding = |status, found: String, consequence: String| {
        Finding::new(NAME, status, found, COMMANDS, consequence)
    };
    let allowed = match allowed {
        Ok(allowed) => allowed,
        Err(error) => {
            return finding(Status::Unavailable, error.to_string(), "nothing is recorded".into());
        }
    };
    let (reason, remedy) = match allowed.perf {
        Ok(kinds) => {
            let consequence = match missing(kinds).as_slice() {
                [] => "every page fault can be recorded".to_owned(),
                missing => missing.join("; "),
            };
            let found = "system calls, page faults and their durations".to_owned();
            return finding(Status::Ok, found, consequence);
        }
        Err(RecordError::NoPerf { reason, remedy }) => (reason, remedy),
        Err(error) => (error.to_string(), "see `kpkeys trace record --method perf`".to_owned()),
    };
    let left = match allowed.faults_for_ptrace {
        Ok(kinds) => missing(kinds).join("; "),
        Err(refusal) => refusal,
    };
    let consequence = format!("`trace record` takes ptrace, without durations; {left}");
    finding(Status::Missing, reason, consequence).with_remedy(remedy)
}

/// What Yama leaves of ptrace on one's own children (Linux, admin-guide/LSM/Yama.rst).
pub(super) fn ptrace(scope: Option<&str>, capabilities: Capabilities) -> Finding {
    const NAME: &str = "ptrace";
    const COMMANDS: &[&str] = &["trace record"];
    let allowed = |found: String| {
        Finding::new(NAME, Status::Ok, found, COMMANDS, "system calls of a command can be recorded")
    };
    let refused = |found: String| {
        Finding::new(NAME, Status::Missing, found, COMMANDS, "system calls cannot be recorded")
    };
    let Some(level) = scope.and_then(|text| text.trim().parse::<i32>().ok()) else {
        return allowed("not restricted by Yama".into());
    };
    let found = format!("kernel.yama.ptrace_scope is {level}");
    match level {
        ..=1 => allowed(found),
        2 if capabilities.has(Capabilities::SYS_PTRACE) => {
            allowed(format!("{found}, and this process is exempt"))
        }
        2 => refused(found).with_remedy("sudo sysctl kernel.yama.ptrace_scope=1"),
        _ => refused(found).with_remedy(
            "set kernel.yama.ptrace_scope to 1 and reboot: this value cannot be lowered at run time",
        ),
    }
}

#[cfg(test)]
mod tests {
    use kpkeys_trace::Kinds;

    use super::*;

    const NONE: Capabilities = Capabilities(0);
    const SYS_PTRACE: Capabilities = Capabilities(1 << Capabilities::SYS_PTRACE);

    #[test]
    fn meminfo_is_read_in_bytes() {
        let memory = Memory::parse("MemTotal:  2048 kB\nMemFree: 1 kB\nMemAvailable: 1024 kB\n");
        assert_eq!(memory, Some(Memory { total_bytes: 2 << 20, available_bytes: 1 << 20 }));
        assert_eq!(Memory::parse("MemTotal: 2048 kB\n"), None);
        assert_eq!(Memory::parse("MemTotal: many kB\nMemAvailable: 1 kB\n"), None);
    }

    #[test]
    fn memory_is_judged_by_what_is_available() {
        let with = |available_bytes| Some(Memory { total_bytes: 64 * GIB, available_bytes });
        assert_eq!(memory(with(BENCH_BYTES)).status, Status::Ok);
        assert_eq!(memory(with(BENCH_BYTES - 1)).status, Status::Missing);
        assert_eq!(memory(None).status, Status::Unavailable);
    }

    #[test]
    fn capabilities_are_read_from_the_effective_set() {
        let status = "CapPrm:\t0000000000000000\nCapEff:\t0000004000080000\n";
        let capabilities = Capabilities::parse(status);
        assert!(capabilities.has(Capabilities::SYS_PTRACE));
        assert!(!NONE.has(Capabilities::SYS_PTRACE));
        assert_eq!(Capabilities::parse("CapEff: zz\n"), NONE);
    }

    #[test]
    fn perf_events_are_judged_by_what_a_recording_would_get() {
        let refused = || {
            let reason = "No such file or directory".to_owned();
            Err(RecordError::NoPerf { reason, remedy: "Mount tracefs.".to_owned() })
        };
        let judge = |perf, faults_for_ptrace| perf_events(Ok(Allowed { perf, faults_for_ptrace }));

        let all = judge(Ok(Kinds::all()), Ok(Kinds::FAULTS));
        assert_eq!((all.status, all.remedy), (Status::Ok, None));
        let no_flags = judge(Ok(Kinds::all() - Kinds::FAULT_WRITES), Ok(Kinds::FAULTS));
        assert!(no_flags.consequence.contains("was a write is not recorded"));

        let falls_back = judge(refused(), Ok(Kinds::FAULTS));
        assert_eq!(falls_back.status, Status::Missing);
        assert!(falls_back.found.contains("No such file"));
        assert_eq!(falls_back.remedy.as_deref(), Some("Mount tracefs."));
        assert!(falls_back.consequence.contains("takes ptrace"));
        let no_faults = judge(refused(), Err("page faults are not recorded".to_owned()));
        assert!(no_faults.consequence.contains("page faults are not recorded"));

        let elsewhere = perf_events(Err(RecordError::Architecture("s390x")));
        assert_eq!(elsewhere.status, Status::Unavailable);
    }

    #[test]
    fn ptrace_follows_yama() {
        for (scope, capabilities, expected) in [
            (None, NONE, Status::Ok),
            (Some("0"), NONE, Status::Ok),
            (Some("1"), NONE, Status::Ok),
            (Some("2"), NONE, Status::Missing),
            (Some("2"), SYS_PTRACE, Status::Ok),
            (Some("3"), SYS_PTRACE, Status::Missing),
        ] {
            assert_eq!(ptrace(scope, capabilities).status, expected, "{scope:?}");
        }
    }

    #[test]
    fn one_cpu_is_too_few_for_quiet_measurements() {
        assert_eq!(cpus(1).status, Status::Unavailable);
        assert_eq!(cpus(2).status, Status::Ok);
    }
}
