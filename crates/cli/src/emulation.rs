//! Whether times that are taken here say anything of hardware: this program may be translated, and the machine it runs on emulated.
//!
//! A program for another architecture is *translated* by QEMU's user mode, FEX, Rosetta. Its times are the translator's. The kernel beneath is the
//! host's own and says so in `/proc/sys/kernel/arch` (Linux 6.1), which translators pass on; macOS says it in `sysctl.proc_translated`. A translator of
//! the host's own architecture would not be seen. A machine that is an emulator's says it by CPUID.

use std::env::consts::ARCH;
use std::path::Path;
use std::process::Command;

use crate::host::{read, sysctl};

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

/// What QEMU says of itself where it translates code (QEMU, `target/i386/cpu.c`, leaf 0x40000000).
const EMULATOR: &str = "TCGTCGTCGTCG";

/// The signature of the hypervisor, if there is one and it gives one: CPUID.1:ECX bit 31, and EBX, ECX and EDX of CPUID.0x40000000, which are
/// set aside for software (Intel SDM vol. 2A, CPUID; Linux, `arch/x86/include/asm/cpufeatures.h`).
#[cfg(target_arch = "x86_64")]
pub fn signature() -> Option<String> {
    use core::arch::x86_64::__cpuid;
    if __cpuid(1).ecx >> 31 == 0 {
        return None;
    }
    let leaf = __cpuid(0x4000_0000);
    text([leaf.ebx, leaf.ecx, leaf.edx])
}

/// Other architectures have no common place for it.
#[cfg(not(target_arch = "x86_64"))]
pub fn signature() -> Option<String> {
    None
}

#[cfg(any(target_arch = "x86_64", test))]
fn text(registers: [u32; 3]) -> Option<String> {
    let bytes = registers.map(u32::to_le_bytes).concat();
    let text = String::from_utf8_lossy(&bytes).trim_end_matches('\0').trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// The emulator this runs in, if it says that it is one.
pub fn emulator() -> Option<&'static str> {
    of(signature().as_deref())
}

fn of(signature: Option<&str>) -> Option<&'static str> {
    (signature == Some(EMULATOR)).then_some("QEMU TCG")
}

/// What a reader of times must know that were taken here.
pub fn caveat() -> Option<String> {
    emulator().map(|emulator| {
        format!("this machine is an emulator ({emulator}, by CPUID): what ran is real, and its times say nothing of hardware")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn an_emulator_is_known_by_its_signature() {
        let tcg = text([0x5447_4354, 0x4354_4743, 0x4743_5447]);
        assert_eq!(tcg.as_deref(), Some("TCGTCGTCGTCG"));
        assert_eq!(of(tcg.as_deref()), Some("QEMU TCG"));
        let kvm = text([0x4b4d_564b, 0x564b_4d56, 0x4d]);
        assert_eq!(kvm.as_deref(), Some("KVMKVMKVM"));
        assert_eq!((of(kvm.as_deref()), of(None), text([0; 3])), (None, None, None));
    }
}
