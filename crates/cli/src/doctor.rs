//! `kpkeys doctor`: what this machine and its tools can run, and what to do about the rest.
//!
//! Nothing is changed and nothing is measured. Reading the machine happens in [`examine`] alone; what
//! was read is judged by functions that take it as text or numbers ([`cpu`], [`limits`], [`tools`]), so
//! that the judgement of every machine is tested on any machine.

mod cpu;
mod limits;
mod tools;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::{env, fs, thread};

use anyhow::Result;
use clap::ValueEnum;
use kpkeys_emulator::Target;
use serde::Serialize;

use crate::bench::cpu::measured;
use crate::emulation;
use crate::host;
use crate::noise::{Disturbance, Settings};
use cpu::Cpu;

/// How the findings are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A list to read
    Text,
    /// One JSON object
    Json,
}

/// Examines this machine and prints what was found to standard output.
///
/// # Errors
///
/// If the findings cannot be made into JSON, or printed.
pub fn run(format: Format) -> Result<()> {
    let report = examine();
    match format {
        Format::Text => io::stdout().write_all(text(&report).as_bytes())?,
        Format::Json => writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&report)?)?,
    }
    Ok(())
}

/// Everything there is to say about a machine.
#[derive(Serialize)]
struct Report {
    machine: Machine,
    findings: Vec<Finding>,
}

/// What the machine is, without judgement.
#[derive(Serialize)]
struct Machine {
    architecture: &'static str,
    cpu_vendor: String,
    cpu_model: String,
    cpus: usize,
    memory_bytes: Option<u64>,
    system: String,
    kernel_release: String,
}

/// One thing looked at, and what follows from it.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Finding {
    name: &'static str,
    status: Status,
    /// What is there.
    found: String,
    /// The calls of the `kpkeys` command that it matters to; none if only a kernel cares.
    commands: Vec<String>,
    /// What follows for them.
    consequence: String,
    /// What would put it right, if something can.
    remedy: Option<String>,
}

impl Finding {
    fn new(
        name: &'static str,
        status: Status,
        found: impl Into<String>,
        commands: &[&str],
        consequence: impl Into<String>,
    ) -> Self {
        let (found, consequence) = (found.into(), consequence.into());
        let commands = commands.iter().map(|&command| command.to_owned()).collect();
        Self { name, status, found, commands, consequence, remedy: None }
    }

    fn with_remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    /// There, and enough.
    Ok,
    /// Not there or not enough, and the user can change that.
    Missing,
    /// Not there, and nothing on this machine changes that.
    Unavailable,
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Missing => "missing",
            Status::Unavailable => "unavailable",
        }
    }
}

/// Reads the machine, and has each part judged.
fn examine() -> Report {
    let architecture = env::consts::ARCH;
    let cpu = Cpu::parse(&host::cpuinfo());
    let memory = limits::Memory::parse(&read("/proc/meminfo"));
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let capabilities = limits::Capabilities::parse(&read("/proc/self/status"));
    let yama = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok();

    let uname = rustix::system::uname();

    let mut findings = vec![cpu::mock_register(architecture, hwcap2())];
    findings.extend(cpu::host_keys(architecture, cpu::leaf_7()));
    findings.extend(cpu::emulated(emulation::emulator()));
    findings.push(limits::cpus(cpus));
    findings.push(limits::memory(memory));
    findings.extend(noise(Settings::read(measured(None).unwrap_or(0)).disturbances()));
    findings.extend(Target::ALL.into_iter().map(tools::examine_emulator));
    findings.extend(Target::ALL.into_iter().map(tools::examine_rust_target));
    findings.push(limits::perf_events(kpkeys_trace::record::allowed()));
    if cfg!(target_os = "linux") {
        findings.push(limits::ptrace(yama.as_deref(), capabilities));
    }
    // A translator has no kernel's features, and the CPU beneath it is of another architecture.
    if emulation::translated().is_none() {
        findings.extend(cpu::backends(architecture, &cpu, cpu::leaf_7()));
    }

    let machine = Machine {
        architecture,
        cpu_vendor: cpu.vendor,
        cpu_model: cpu.model,
        cpus,
        memory_bytes: memory.map(|memory| memory.total_bytes),
        system: uname.sysname().to_string_lossy().into_owned(),
        kernel_release: uname.release().to_string_lossy().into_owned(),
    };
    Report { machine, findings }
}

/// What would disturb a measurement; of a quiet machine nothing.
fn noise(disturbances: Vec<Disturbance>) -> impl Iterator<Item = Finding> {
    disturbances.into_iter().map(|Disturbance { name, found, consequence, advice }| {
        Finding::new(name, Status::Missing, found, &["bench"], consequence).with_remedy(advice)
    })
}

/// The file's text, or nothing: every judgement copes with a text that lacks what it looks for.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// `AT_HWCAP2` of this process: CPU features that Linux lets user space use. None where there is no such thing.
fn hwcap2() -> Option<usize> {
    #[cfg(target_os = "linux")]
    return Some(rustix::param::linux_hwcap().1);
    #[cfg(not(target_os = "linux"))]
    None
}

/// The report as a list: of a finding its status, what follows, for which commands, and what to do.
fn text(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "{} ({}), {}, {} CPUs, {}, {} {}\n",
        machine.cpu_model,
        machine.cpu_vendor,
        machine.architecture,
        machine.cpus,
        machine.memory_bytes.map_or("memory unknown".to_owned(), limits::gibibytes),
        machine.system,
        machine.kernel_release
    );
    for (title, is_for_commands) in
        [("for the kpkeys command", true), ("for a kernel on this CPU", false)]
    {
        let _ = writeln!(text, "\n{title}");
        for finding in &report.findings {
            if finding.commands.is_empty() != is_for_commands {
                write_finding(&mut text, finding);
            }
        }
    }
    text
}

fn write_finding(text: &mut String, finding: &Finding) {
    let indent = " ".repeat(15);
    let Finding { name, status, found, consequence, .. } = finding;
    let _ = writeln!(text, "  {:<12} {name}: {found}", status.word());
    let _ = writeln!(text, "{indent}{consequence}");
    if !finding.commands.is_empty() {
        let _ = writeln!(text, "{indent}matters to: {}", finding.commands.join(", "));
    }
    if let Some(remedy) = &finding.remedy {
        let _ = writeln!(text, "{indent}-> {remedy}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let machine = Machine {
            architecture: "x86_64",
            cpu_vendor: "GenuineIntel".into(),
            cpu_model: "Xeon".into(),
            cpus: 2,
            memory_bytes: Some(3 << 30),
            system: "Linux".into(),
            kernel_release: "6.18.0".into(),
        };
        let findings = vec![
            Finding::new("FSGSBASE", Status::Ok, "usable", &["bench"], "the mock switches"),
            Finding::new("qemu", Status::Missing, "not on PATH", &["run", "attack"], "cannot run")
                .with_remedy("install it"),
            Finding::new("Pks", Status::Unavailable, "no PKS", &[], "cannot enforce"),
        ];
        Report { machine, findings }
    }

    #[test]
    fn the_list_names_status_consequence_and_remedy() {
        let expected = "\
Xeon (GenuineIntel), x86_64, 2 CPUs, 3.0 GiB, Linux 6.18.0

for the kpkeys command
  ok           FSGSBASE: usable
               the mock switches
               matters to: bench
  missing      qemu: not on PATH
               cannot run
               matters to: run, attack
               -> install it

for a kernel on this CPU
  unavailable  Pks: no PKS
               cannot enforce
";
        assert_eq!(text(&report()), expected);
    }

    #[test]
    fn the_json_object_has_a_stable_shape() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["machine"]["cpus"], 2);
        assert_eq!(json["machine"]["memory_bytes"], 3_u64 << 30);
        let missing = &json["findings"][1];
        assert_eq!(missing["status"], "missing");
        assert_eq!(missing["commands"], serde_json::json!(["run", "attack"]));
        assert_eq!(missing["remedy"], "install it");
        assert!(json["findings"][0]["remedy"].is_null());
    }

    #[test]
    fn this_machine_can_be_examined() {
        let report = examine();
        assert!(report.machine.cpus >= 1);
        assert!(report.findings.iter().all(|finding| !finding.consequence.is_empty()));
        let unhelpful = report
            .findings
            .iter()
            .find(|finding| finding.status == Status::Missing && finding.remedy.is_none());
        assert_eq!(unhelpful, None, "what is missing must come with a remedy");
    }
}
