//! What this machine is, for the header of a recording.

use std::fs;

use kpkeys_stats::record::Machine;
use serde_json::{Map, Value};

use super::backend::HostBackend;
use crate::emulation;

/// The machine this runs on: what decides how fast it is, as far as it says. `cpu` is the one to measure on, if it was chosen; `backend` what
/// windows are opened by here, if they are.
pub fn machine(cpu: Option<usize>, backend: Option<HostBackend>) -> Machine {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let cpuinfo = crate::host::cpuinfo();
    let mut extra = details(&cpuinfo);
    extra.extend(emulation::translated().map(|how| ("translated".to_owned(), how.into())));
    extra.insert("switch".into(), backend.unwrap_or_default().switch().into());
    extra.extend(emulation::emulator().map(|name| ("emulator".to_owned(), name.into())));
    extra.extend(setting("governor", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"));
    extra.extend(cpu.map(|cpu| ("measured_cpu".to_owned(), cpu.into())));
    let mitigations = mitigations();
    if !mitigations.is_empty() {
        extra.insert("mitigations".into(), Value::Object(mitigations));
    }
    Machine {
        cpu: cpu_name(&cpuinfo),
        cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32),
        arch: std::env::consts::ARCH.into(),
        os: format!("{} {release}", uname.sysname().to_string_lossy()),
        extra,
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn setting(name: &str, path: &str) -> Option<(String, Value)> {
    let text = read(path);
    (!text.trim().is_empty()).then(|| (name.to_owned(), text.trim().into()))
}

/// What tells CPUs of one name apart, by our names and those of `/proc/cpuinfo` on x86-64 and arm64.
const DETAILS: [(&str, &str); 9] = [
    ("cpu_vendor", "vendor_id"),
    ("cpu_family", "cpu family"),
    ("cpu_model", "model"),
    ("cpu_stepping", "stepping"),
    ("microcode", "microcode"),
    ("cpu_implementer", "CPU implementer"),
    ("cpu_part", "CPU part"),
    ("cpu_variant", "CPU variant"),
    ("cpu_revision", "CPU revision"),
];

fn details(cpuinfo: &str) -> Map<String, Value> {
    let named = DETAILS.into_iter();
    named.filter_map(|(ours, theirs)| Some((ours.into(), field(cpuinfo, theirs)?.into()))).collect()
}

/// The value of a field for the first CPU.
fn field<'t>(cpuinfo: &'t str, name: &str) -> Option<&'t str> {
    let mut fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(found, _)| found.trim() == name).map(|(_, value)| value.trim())
}

/// What the kernel does about each fault of the CPU. Those the CPU does not have are left out.
fn mitigations() -> Map<String, Value> {
    let folder = fs::read_dir("/sys/devices/system/cpu/vulnerabilities");
    let files = folder.into_iter().flatten().filter_map(Result::ok);
    let mut found: Vec<_> = files
        .filter_map(|file| setting(&file.file_name().to_string_lossy(), file.path().to_str()?))
        .filter(|(_, state)| state != "Not affected")
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found.into_iter().collect()
}

/// The processor's name in the text of `/proc/cpuinfo`, or the architecture's if it has none.
fn cpu_name(cpuinfo: &str) -> String {
    field(cpuinfo, "model name")
        .map(str::to_owned)
        .or_else(|| field(cpuinfo, "CPU part").map(|part| format!("CPU part {part}")))
        .unwrap_or_else(|| std::env::consts::ARCH.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_named_where_it_has_a_name() {
        assert_eq!(cpu_name("vendor_id : X\nmodel name\t: Some CPU @ 2 GHz\n"), "Some CPU @ 2 GHz");
        assert_eq!(cpu_name("CPU part\t: 0xd0c\n"), "CPU part 0xd0c");
        assert_eq!(cpu_name(""), std::env::consts::ARCH);
    }

    #[test]
    fn cpus_of_one_name_are_told_apart() {
        let cpuinfo = "vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 1\nmodel name\t: AMD EPYC\n\
                       stepping\t: 1\nmicrocode\t: 0x1000065\n\nprocessor : 1\nmodel : 9\n";
        let details = details(cpuinfo);
        let found =
            ["cpu_family", "cpu_model", "cpu_stepping", "microcode"].map(|name| &details[name]);
        assert_eq!(found, ["25", "1", "1", "0x1000065"]);
        assert_eq!(details.len(), 5);
    }
}
