//! What the CPU offers: the register that the mock switches, and the backends a kernel could use.
//!
//! On x86-64 the features are read from CPUID, since Linux lists in `/proc/cpuinfo` only those it uses
//! itself, and it does not use PKS. On arm64 the ID registers are hidden from user space where they
//! concern the kernel (PAN, E0PD); the features that Linux does list date the CPU, which is a hint.

use std::collections::BTreeSet;

use super::{Finding, Status};

/// What `/proc/cpuinfo` says of the first CPU.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Cpu {
    pub(super) vendor: String,
    pub(super) model: String,
    /// The `flags` (x86-64) or `Features` (arm64).
    features: BTreeSet<String>,
}

impl Cpu {
    pub(super) fn parse(cpuinfo: &str) -> Self {
        let field = |name: &str| {
            cpuinfo
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(key, _)| key.trim() == name)
                .map(|(_, value)| value.trim().to_owned())
        };
        let arm_vendor = || field("CPU implementer").map(|code| implementer(&code));
        let arm_model = || field("CPU part").map(|part| format!("part {part}"));
        let features = field("flags").or_else(|| field("Features")).unwrap_or_default();
        Self {
            vendor: field("vendor_id").or_else(arm_vendor).unwrap_or("unknown vendor".into()),
            model: field("model name").or_else(arm_model).unwrap_or("unknown CPU".into()),
            features: features.split_whitespace().map(str::to_owned).collect(),
        }
    }

    fn has(&self, feature: &str) -> bool {
        self.features.contains(feature)
    }
}

/// The company behind an implementer code (Arm ARM DDI 0487, `MIDR_EL1.Implementer`), as far as its
/// CPUs run Linux often.
fn implementer(code: &str) -> String {
    let name = match code {
        "0x41" => "Arm",
        "0x46" => "Fujitsu",
        "0x48" => "HiSilicon",
        "0x4e" => "NVIDIA",
        "0x51" => "Qualcomm",
        "0x61" => "Apple",
        "0x6d" => "Microsoft",
        "0xc0" => "Ampere",
        other => return format!("implementer {other}"),
    };
    name.to_owned()
}

/// CPUID leaf 7: structured extended features (Intel SDM vol. 2A, CPUID).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Leaf7 {
    ebx_0: u32,
    ecx_0: u32,
    eax_1: u32,
}

impl Leaf7 {
    /// Bit 31 of ECX, sub-leaf 0.
    fn pks(self) -> bool {
        self.ecx_0 >> 31 & 1 == 1
    }

    /// Bit 3 of ECX, sub-leaf 0.
    fn pku(self) -> bool {
        self.ecx_0 >> 3 & 1 == 1
    }

    /// Bit 4 of ECX, sub-leaf 0: the operating system has turned PKU on.
    fn ospke(self) -> bool {
        self.ecx_0 >> 4 & 1 == 1
    }

    /// Bit 20 of EBX, sub-leaf 0.
    fn smap(self) -> bool {
        self.ebx_0 >> 20 & 1 == 1
    }

    /// Bit 6 of EAX, sub-leaf 1.
    fn lass(self) -> bool {
        self.eax_1 >> 6 & 1 == 1
    }
}

/// Leaf 7 of this CPU; all features absent where there is no such leaf.
#[cfg(target_arch = "x86_64")]
pub(super) fn leaf_7() -> Leaf7 {
    use core::arch::x86_64::{__cpuid, __cpuid_count};
    if __cpuid(0).eax < 7 {
        return Leaf7::default();
    }
    let first = __cpuid_count(7, 0);
    let eax_1 = if first.eax >= 1 { __cpuid_count(7, 1).eax } else { 0 };
    Leaf7 { ebx_0: first.ebx, ecx_0: first.ecx, eax_1 }
}

/// There is no CPUID on other architectures.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn leaf_7() -> Leaf7 {
    Leaf7::default()
}

/// The register that hosted measurements switch. `hwcap2` is `AT_HWCAP2`, whose bit 1 on x86-64 says
/// that the kernel has set CR4.FSGSBASE (Linux, `arch/x86/include/uapi/asm/hwcap2.h`); none if this is not Linux.
pub(super) fn mock_register(architecture: &str, hwcap2: Option<usize>) -> Finding {
    const HWCAP2_FSGSBASE: usize = 1 << 1;
    const COMMANDS: &[&str] = &["bench"];
    match architecture {
        "x86_64" if hwcap2.is_none() => Finding::new(
            "FSGSBASE",
            Status::Unavailable,
            "this system keeps thread-local storage behind the GS base",
            COMMANDS,
            "the mock switches another register, whose cost differs; the result names it",
        ),
        "x86_64" if hwcap2.is_some_and(|bits| bits & HWCAP2_FSGSBASE != 0) => Finding::new(
            "FSGSBASE",
            Status::Ok,
            "user space may write the GS base",
            COMMANDS,
            "the mock switches by WRGSBASE and LFENCE",
        ),
        "x86_64" => Finding::new(
            "FSGSBASE",
            Status::Missing,
            "user space may not write the GS base (AT_HWCAP2 bit 1 is clear)",
            COMMANDS,
            "the mock switches another register, whose cost differs; the result names it",
        )
        .with_remedy("Linux 5.9 or newer, booted without nofsgsbase, on a CPU that has FSGSBASE"),
        "aarch64" => Finding::new(
            "mock register",
            Status::Ok,
            "user space may write some system registers",
            COMMANDS,
            "the mock switches one of them and issues ISB; the result names it",
        ),
        other => Finding::new(
            "mock register",
            Status::Unavailable,
            format!("none is known on {other}"),
            COMMANDS,
            "nothing can be measured natively",
        ),
    }
}

/// Keys for the pages of a process, which a machine in a process can have for its page tables. They do not bind a kernel's own pages.
pub(super) fn host_keys(architecture: &str, leaf_7: Leaf7) -> Option<Finding> {
    const NAME: &str = "PKU";
    const COMMANDS: &[&str] = &["bench --backend pku"];
    let finding = match (leaf_7.pku(), leaf_7.ospke()) {
        (true, true) => Finding::new(
            NAME,
            Status::Ok,
            "CPUID.7.0:ECX bits 3 and 4 are set",
            COMMANDS,
            "switches by WRPKRU, and the CPU refuses stray stores to page tables in a process",
        ),
        (true, false) => Finding::new(
            NAME,
            Status::Missing,
            "the kernel has not turned it on (CPUID.7.0:ECX bit 4 is clear)",
            COMMANDS,
            "is refused; --backend mock measures",
        )
        .with_remedy(
            "Linux 4.9 or newer with X86_INTEL_MEMORY_PROTECTION_KEYS, booted without nopku",
        ),
        (false, _) => Finding::new(
            NAME,
            Status::Unavailable,
            "this CPU has none, or a hypervisor hides it (CPUID.7.0:ECX bit 3 is clear)",
            COMMANDS,
            "is refused; --backend mock measures",
        ),
    };
    (architecture == "x86_64").then_some(finding)
}

/// What follows from this machine being an emulator, if it is one.
pub(super) fn emulated(emulator: Option<&str>) -> Option<Finding> {
    let emulator = emulator?;
    Some(Finding::new(
        "emulator",
        Status::Unavailable,
        format!("this machine is {emulator}, by CPUID"),
        &["bench"],
        "runs as on hardware, and its times say nothing of hardware",
    ))
}

/// Which backends a kernel on this CPU could use. A hypervisor may hide what the CPU has.
pub(super) fn backends(architecture: &str, cpu: &Cpu, leaf_7: Leaf7) -> Vec<Finding> {
    match architecture {
        "x86_64" => vec![pks(leaf_7), smap(leaf_7)],
        "aarch64" => vec![poe(cpu), pan(cpu), ttbr0(cpu)],
        _ => Vec::new(),
    }
}

fn for_kernels(name: &'static str, there: bool, found: &str, consequence: &str) -> Finding {
    let status = if there { Status::Ok } else { Status::Unavailable };
    Finding::new(name, status, found, &[], consequence)
}

fn pks(leaf_7: Leaf7) -> Finding {
    match leaf_7.pks() {
        true => for_kernels("PKS", true, "CPUID.7.0:ECX bit 31 is set", "backend Pks enforces"),
        false => for_kernels(
            "PKS",
            false,
            "CPUID.7.0:ECX bit 31 is clear",
            "backend Pks refuses to start; an emulator enforces it (attack --backend pks)",
        ),
    }
}

fn smap(leaf_7: Leaf7) -> Finding {
    match (leaf_7.smap(), leaf_7.lass()) {
        (true, true) => for_kernels(
            "SMAP",
            true,
            "SMAP and LASS",
            "backend Smap enforces; with LASS it could, with one set of tables",
        ),
        (true, false) => for_kernels(
            "SMAP",
            true,
            "SMAP, without LASS",
            "backend Smap enforces, with user tables that lack the alias",
        ),
        (false, _) => for_kernels("SMAP", false, "no SMAP", "backend Smap refuses to start"),
    }
}

fn poe(cpu: &Cpu) -> Finding {
    match cpu.has("poe") {
        true => for_kernels("POE", true, "Linux lists poe", "backend Poe enforces"),
        false => for_kernels(
            "POE",
            false,
            "Linux lists no poe (6.12 and newer would)",
            "backend Poe refuses to start",
        ),
    }
}

/// FEAT_PAN is mandatory from Armv8.1 on, as is FEAT_LSE ("atomics"); FEAT_E0PD from Armv8.5 on, as are
/// FEAT_SB ("sb") and FEAT_FRINTTS ("frint"). A CPU may have features of the next version early, so that this is a hint: the
/// backend itself reads the ID registers.
fn pan(cpu: &Cpu) -> Finding {
    let (v8_1, v8_5) = (cpu.has("atomics"), cpu.has("sb") && cpu.has("frint"));
    match (v8_1, v8_5) {
        (_, true) => for_kernels(
            "PAN",
            true,
            "PAN and E0PD, to judge by other features of Armv8.5",
            "backend Pan could enforce",
        ),
        (true, false) => for_kernels(
            "PAN",
            true,
            "PAN without E0PD, to judge by other features of Armv8.1",
            "backend Pan could enforce, with tables for programs that lack the alias",
        ),
        (false, false) => {
            for_kernels("PAN", false, "no sign of Armv8.1", "backend Pan refuses to start")
        }
    }
}

/// Every CPU has the register; of some the write of it has an erratum, which the backend itself looks for.
fn ttbr0(cpu: &Cpu) -> Finding {
    let (found, enforces) = match cpu.vendor.as_str() {
        "Qualcomm" | "implementer 0x43" => (
            "the root register of programs' half; first versions of Falkor and ThunderX have an erratum",
            "backend Ttbr0 enforces, unless it finds one of these",
        ),
        _ => (
            "the root register of programs' half, as on every arm64 CPU",
            "backend Ttbr0 enforces, at an ISB more for each end of a window than Pan",
        ),
    };
    for_kernels("TTBR0", true, found, enforces)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPYC: &str = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\n\
                        flags\t\t: fpu fsgsbase smap\n\nprocessor\t: 1\nvendor_id\t: Other\n";
    const GRAVITON3: &str = "processor\t: 0\nFeatures\t: fp atomics sb frint bti\n\
                             CPU implementer\t: 0x41\nCPU part\t: 0xd40\n";

    fn status(findings: &[Finding], name: &str) -> Status {
        findings.iter().find(|finding| finding.name == name).unwrap().status
    }

    #[test]
    fn x86_cpuinfo_is_read_for_the_first_cpu() {
        let cpu = Cpu::parse(EPYC);
        assert_eq!((cpu.vendor.as_str(), cpu.model.as_str()), ("AuthenticAMD", "AMD EPYC"));
        assert!(cpu.has("smap") && !cpu.has("sma"));
    }

    #[test]
    fn arm_cpuinfo_is_read_by_implementer_and_part() {
        let cpu = Cpu::parse(GRAVITON3);
        assert_eq!((cpu.vendor.as_str(), cpu.model.as_str()), ("Arm", "part 0xd40"));
        assert_eq!(Cpu::parse("CPU implementer : 0x99").vendor, "implementer 0x99");
    }

    #[test]
    fn an_unreadable_cpuinfo_is_an_unknown_cpu() {
        assert_eq!(Cpu::parse("").model, "unknown CPU");
        assert_eq!(Cpu::parse("garbage\n:\n").vendor, "unknown vendor");
    }

    #[test]
    fn each_x86_feature_is_its_own_bit() {
        let none = Leaf7::default();
        let cpu = Cpu::default();
        for name in ["PKS", "SMAP"] {
            assert_eq!(status(&backends("x86_64", &cpu, none), name), Status::Unavailable);
        }
        let pks = backends("x86_64", &cpu, Leaf7 { ecx_0: 1 << 31, ..none });
        assert_eq!((status(&pks, "PKS"), status(&pks, "SMAP")), (Status::Ok, Status::Unavailable));
        let smap = backends("x86_64", &cpu, Leaf7 { ebx_0: 1 << 20, ..none });
        assert_eq!(status(&smap, "SMAP"), Status::Ok);
        assert!(smap[1].consequence.contains("lack the alias"));
        let lass = backends("x86_64", &cpu, Leaf7 { ebx_0: 1 << 20, eax_1: 1 << 6, ..none });
        assert!(lass[1].consequence.contains("one set of tables"));
    }

    #[test]
    fn keys_for_processes_want_cpu_and_kernel() {
        let status = |ecx_0| {
            let keys = host_keys("x86_64", Leaf7 { ecx_0, ..Leaf7::default() });
            keys.unwrap().status
        };
        assert_eq!(status(0b1_1000), Status::Ok);
        assert_eq!(status(0b0_1000), Status::Missing);
        assert_eq!(status(1 << 31), Status::Unavailable);
        assert_eq!(host_keys("aarch64", Leaf7::default()), None);
        assert!(emulated(Some("an emulator")).unwrap().found.contains("an emulator"));
    }

    #[test]
    fn arm_backends_follow_the_listed_features() {
        let found = backends("aarch64", &Cpu::parse(GRAVITON3), Leaf7::default());
        assert_eq!(status(&found, "POE"), Status::Unavailable);
        assert!(found[1].found.contains("PAN and E0PD"));
        let poe = Cpu::parse("Features : atomics poe");
        let found = backends("aarch64", &poe, Leaf7::default());
        assert_eq!(status(&found, "POE"), Status::Ok);
        assert!(found[1].found.contains("without E0PD"));
        let v8_0 = backends("aarch64", &Cpu::parse("Features : fp asimd"), Leaf7::default());
        assert_eq!(status(&v8_0, "PAN"), Status::Unavailable);
        assert_eq!(status(&v8_0, "TTBR0"), Status::Ok);
        let thunder = Cpu::parse("Features : fp asimd\nCPU implementer : 0x43\n");
        assert!(ttbr0(&thunder).found.contains("erratum"));
    }

    #[test]
    fn the_mock_register_follows_hwcap2() {
        assert_eq!(mock_register("x86_64", Some(0b10)).status, Status::Ok);
        assert_eq!(mock_register("x86_64", Some(0b01)).status, Status::Missing);
        assert_eq!(mock_register("x86_64", None).status, Status::Unavailable);
        assert_eq!(mock_register("aarch64", Some(0)).status, Status::Ok);
        assert_eq!(mock_register("aarch64", None).status, Status::Ok);
        assert_eq!(mock_register("riscv64", Some(0b10)).status, Status::Unavailable);
    }
}
