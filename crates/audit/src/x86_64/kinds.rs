//! Which instructions are looked for, by Intel's manual (SDM) and AMD's (APM volume 3).

use iced_x86::{Code, Instruction, Mnemonic, Register};

use crate::kind::Kind;
use crate::value::Value;
use Mnemonic as M;

macro_rules! kinds {
    ($($name:ident = $text:literal, $writes:literal;)*) => {
        $(
            #[doc = $writes]
            pub const $name: Kind = Kind::new($text, $writes);
        )*
        /// Every kind.
        pub const ALL: &[Kind] = &[$($name),*];
    };
}

kinds! {
    // SDM volume 2, WRMSR: 0F 30. PKRS is MSR 6E1h (SDM volume 4, table 2-2).
    WRMSR = "wrmsr", "the model-specific register in ECX: IA32_PKRS, EFER, PAT, entry points";
    // SDM volume 2, WRMSRNS: NP 0F 01 C6, and with the register as an immediate VEX.128.F3.M7.W0 F6 /0.
    WRMSRNS = "wrmsrns", "the same, not serialising";
    // SDM volume 2, WRMSRLIST: F3 0F 01 C6.
    WRMSRLIST = "wrmsrlist", "a list of model-specific registers, from memory";
    // SDM volume 2, MOV - Move to/from Control Registers: 0F 22 /r. What each holds: volume 3, section 2.5.
    MOV_CR0 = "mov cr0", "CR0.WP and paging";
    MOV_CR3 = "mov cr3", "the root of the page tables";
    MOV_CR4 = "mov cr4", "CR4.PKS, SMAP, SMEP, PKE, CET";
    MOV_CR8 = "mov cr8", "which interrupts wait";
    // SDM volume 2, LMSW: 0F 01 /6.
    LMSW = "lmsw", "the low bits of CR0, of which it cannot clear PE and reaches not WP";
    // SDM volume 2, XRSTOR: NP 0F AE /5. State component 9 is PKRU (volume 1, section 13.1).
    XRSTOR = "xrstor", "PKRU, from memory";
    // SDM volume 2, XRSTORS: NP 0F C7 /3.
    XRSTORS = "xrstors", "PKRU and supervisor states such as CET's, from memory";
    // SDM volume 2, WRPKRU: NP 0F 01 EF.
    WRPKRU = "wrpkru", "PKRU: keys of pages that user mode may access";
    // SDM volume 2, STAC: NP 0F 01 CB; CLAC: NP 0F 01 CA.
    STAC = "stac", "EFLAGS.AC: ends SMAP's protection";
    CLAC = "clac", "EFLAGS.AC: begins SMAP's protection";
    // SDM volume 2, POPF/POPFD/POPFQ: 9D.
    POPF = "popf", "EFLAGS.AC and IF, from the stack";
    // SDM volume 2, IRET/IRETD/IRETQ: CF, and FRED's ERETS (F2 0F 01 CA) and ERETU (F3 0F 01 CA).
    IRET = "iret", "EFLAGS.AC and IF, and where to go on, from the stack";
    // SDM volume 2, LGDT/LIDT: 0F 01 /2 and /3; LLDT/LTR: 0F 00 /2 and /3.
    LIDT = "lidt", "where exceptions and interrupts enter, from memory";
    LGDT = "lgdt", "segments, from memory";
    LLDT = "lldt", "the local descriptor table";
    LTR = "ltr", "the TSS: stacks of exceptions";
    // SDM volume 3, section 28.5 (loading host state); APM volume 2, section 15.5.
    VM_ENTRY = "vm entry", "on the way back CR0, CR3, CR4 and PKRS, from the VMCS or the VMCB";
    // SDM volume 2, RSM: 0F AA.
    RSM = "rsm", "every register, from SMRAM";
}

/// The kind of a decoded instruction.
pub fn kind(instruction: &Instruction) -> Option<Kind> {
    Some(match instruction.mnemonic() {
        M::Wrmsr => WRMSR,
        M::Wrmsrns => WRMSRNS,
        M::Wrmsrlist => WRMSRLIST,
        M::Mov => return to_control_register(instruction),
        M::Lmsw => LMSW,
        M::Xrstor | M::Xrstor64 => XRSTOR,
        M::Xrstors | M::Xrstors64 => XRSTORS,
        M::Wrpkru => WRPKRU,
        M::Stac => STAC,
        M::Clac => CLAC,
        M::Popf | M::Popfd | M::Popfq => POPF,
        M::Iret | M::Iretd | M::Iretq | M::Erets | M::Eretu => IRET,
        M::Lidt => LIDT,
        M::Lgdt => LGDT,
        M::Lldt => LLDT,
        M::Ltr => LTR,
        M::Vmlaunch | M::Vmresume | M::Vmrun => VM_ENTRY,
        M::Rsm => RSM,
        _ => return None,
    })
}

fn to_control_register(instruction: &Instruction) -> Option<Kind> {
    if !matches!(instruction.code(), Code::Mov_cr_r64 | Code::Mov_cr_r32) {
        return None;
    }
    match instruction.op0_register() {
        Register::CR0 => Some(MOV_CR0),
        Register::CR3 => Some(MOV_CR3),
        Register::CR4 => Some(MOV_CR4),
        Register::CR8 => Some(MOV_CR8),
        _ => None,
    }
}

/// WRMSRNS with the register as an immediate, which the decoder does not know: VEX.128.F3.M7.W0 F6 /0 id (SDM volume 2, WRMSRNS).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WrmsrnsImmediate {
    /// The model-specific register.
    pub msr: Value,
    /// The number of the general register it is written from.
    pub from: u8,
}

impl WrmsrnsImmediate {
    /// Bytes of it.
    pub const LEN: usize = 9;

    /// Whether bytes begin with it.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        // VEX with three bytes: not R, not X, B, map 7; W 0, vvvv 1111, L 0, pp F3.
        let &[0xc4, rxb, 0x7a, 0xf6, modrm @ 0xc0..=0xc7, a, b, c, d, ..] = bytes else {
            return None;
        };
        let extended = match rxb {
            0xe7 => 0,
            0xc7 => 8,
            _ => return None,
        };
        let msr = Value::Constant(u32::from_le_bytes([a, b, c, d]).into());
        Some(WrmsrnsImmediate { msr, from: modrm - 0xc0 + extended })
    }
}

/// Names of model-specific registers that matter here (SDM volume 4, tables 2-2 and 2-3; APM volume 2, appendix A).
pub fn msr_name(msr: u64) -> Option<&'static str> {
    Some(match msr {
        0x1b => "IA32_APIC_BASE",
        0x174 => "IA32_SYSENTER_CS",
        0x175 => "IA32_SYSENTER_ESP",
        0x176 => "IA32_SYSENTER_EIP",
        0x1a0 => "IA32_MISC_ENABLE",
        0x1d9 => "IA32_DEBUGCTL",
        0x277 => "IA32_PAT",
        0x2ff => "IA32_MTRR_DEF_TYPE",
        0x6a0 => "IA32_U_CET",
        0x6a2 => "IA32_S_CET",
        0x6a4..=0x6a7 => "IA32_PLx_SSP",
        0x6a8 => "IA32_INTERRUPT_SSP_TABLE_ADDR",
        0x6e0 => "IA32_TSC_DEADLINE",
        0x6e1 => "IA32_PKRS",
        0x800..=0x8ff => "x2APIC",
        0xda0 => "IA32_XSS",
        0xc000_0080 => "IA32_EFER",
        0xc000_0081 => "IA32_STAR",
        0xc000_0082 => "IA32_LSTAR",
        0xc000_0083 => "IA32_CSTAR",
        0xc000_0084 => "IA32_FMASK",
        0xc000_0100 => "IA32_FS_BASE",
        0xc000_0101 => "IA32_GS_BASE",
        0xc000_0102 => "IA32_KERNEL_GS_BASE",
        0xc000_0103 => "IA32_TSC_AUX",
        0xc001_0010 => "SYSCFG",
        0xc001_0117 => "VM_HSAVE_PA",
        _ => return None,
    })
}
