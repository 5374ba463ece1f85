//! What this machine is, for the header of a recording.

use kpkeys_hosted::register::MockRegister;
use kpkeys_pgtable::entry::{Aarch64, X86_64};
use kpkeys_stats::record::{FORMAT, Machine, Run};

use super::plan::{Effort, Paging, Place, Plan};

/// The header of a run of this plan with this backend, here and now. Measures what a switch costs.
pub fn run_header(plan: &Plan, backend: String) -> Run {
    Run {
        format: FORMAT,
        machine: machine(),
        on: plan.place.name().into(),
        backend,
        paging: plan.paging.name().into(),
        // In an emulator a switch's cost is the emulator's.
        switch_ns: (plan.place == Place::Host).then(|| match plan.paging {
            Paging::Aarch64 => kpkeys_hosted::switch_ns::<Aarch64>(),
            Paging::X86_64 => kpkeys_hosted::switch_ns::<X86_64>(),
        }),
        seed: plan.seed,
        blocks: plan.blocks,
        quick: plan.effort == Effort::Quick,
        build: format!(
            "{} {}, {} effort{}",
            env!("CARGO_PKG_VERSION"),
            if cfg!(debug_assertions) { "debug" } else { "release" },
            plan.effort.name(),
            plan.trace_name.as_ref().map_or(String::new(), |name| format!(", trace {name}"))
        ),
    }
}

fn machine() -> Machine {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    Machine {
        cpu: cpu_name(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
        cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32),
        arch: std::env::consts::ARCH.into(),
        os: format!("{} {release}", uname.sysname().to_string_lossy()),
        extra: [("switch".to_owned(), MockRegister::detect().describe().into())]
            .into_iter()
            .collect(),
    }
}

/// The processor's name in the text of `/proc/cpuinfo`, or the architecture's if it has none.
fn cpu_name(cpuinfo: &str) -> String {
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    field("model name")
        .or_else(|| field("CPU part").map(|part| format!("CPU part {part}")))
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
}
