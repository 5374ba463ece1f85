//! What this machine says it is run by: times of an emulator say nothing of hardware.

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
    fn an_emulator_is_known_by_its_signature() {
        let tcg = text([0x5447_4354, 0x4354_4743, 0x4743_5447]);
        assert_eq!(tcg.as_deref(), Some("TCGTCGTCGTCG"));
        assert_eq!(of(tcg.as_deref()), Some("QEMU TCG"));
        let kvm = text([0x4b4d_564b, 0x564b_4d56, 0x4d]);
        assert_eq!(kvm.as_deref(), Some("KVMKVMKVM"));
        assert_eq!((of(kvm.as_deref()), of(None), text([0; 3])), (None, None, None));
    }
}
