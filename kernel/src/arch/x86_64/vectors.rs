//! The registers of x87, SSE and AVX: switched on, kept while another thread runs, and kept in the frame of a signal.
//!
//! Where the CPU has XSAVE and AVX, programs have both; the area is in XSAVE's standard form then (Intel SDM vol. 1, 13.4), and AVX-512 and
//! what else a CPU may have stays off, PKRU too, so that XRSTOR changes no register that protection rests on. Elsewhere programs have SSE, and the first 512 bytes
//! are as FXSAVE lays them out.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::sync::atomic::{AtomicBool, Ordering};
use x86_64::registers::control::{Cr4, Cr4Flags};
use x86_64::registers::xcontrol::XCr0;

/// Bytes that FXSAVE stores.
const LEGACY: usize = 512;
/// Bytes that XSAVE stores of x87, SSE and AVX: FXSAVE's, a head, and the upper halves of sixteen registers (Intel SDM vol. 1, 13.4.1 to 13.4.3).
const WHOLE: usize = LEGACY + 64 + 256;
/// XCR0, and what an instruction is to save or load: x87, SSE, AVX.
const COMPONENTS: u64 = 0b111;
/// The control and status register of SSE, before the mask of what it may have.
const MXCSR: usize = 24;
/// In the head: which components are not as after a reset, and the form.
const IN_USE: usize = LEGACY;
const FORM: usize = LEGACY + 8;

/// How Linux says in a signal's frame that more than FXSAVE's bytes are there (`struct _fpx_sw_bytes`): in FXSAVE's bytes for software, and behind the last one.
mod linux {
    pub const MAGIC_AT: usize = 464;
    pub const MAGIC: u32 = 0x4650_5853;
    pub const END_MAGIC: u32 = 0x4650_5845;
}

/// Whether XSAVE is used. Written before there are programs.
static HAS_XSAVE: AtomicBool = AtomicBool::new(false);

/// Switches AVX on, on the running CPU, if it has it, with its registers where [`WHOLE`] has them. All CPUs of a machine are taken to be alike.
pub fn switch_on() {
    let features = __cpuid(1).ecx;
    let (xsave, avx) = (features >> 26 & 1 != 0, features >> 28 & 1 != 0);
    // Enumeration: Intel SDM vol. 1, 13.2.
    let is_there = || {
        let upper_halves = __cpuid_count(0xd, 2);
        (upper_halves.eax, upper_halves.ebx) == (256, LEGACY as u32 + 64)
    };
    if !(xsave && avx && is_there()) {
        return;
    }
    // SAFETY: the CPU has XSAVE and AVX; the kernel is built without vector registers, and programs' are kept by XSAVE from now on.
    unsafe {
        Cr4::update(|bits| bits.insert(Cr4Flags::OSXSAVE));
        XCr0::write_raw(COMPONENTS);
    }
    HAS_XSAVE.store(true, Ordering::Relaxed);
}

/// The registers of a thread.
#[repr(C, align(64))]
#[derive(Clone)]
pub struct Vectors([u8; WHOLE]);

impl Vectors {
    /// Bytes that a signal's frame keeps of them: the registers, and Linux's mark of their end.
    pub const KEPT: usize = WHOLE + 4;

    /// As a program starts: the control words of the ABI (System V ABI, AMD64 supplement, 3.2.1).
    pub fn new() -> Self {
        let mut bytes = [0; WHOLE];
        bytes[..2].copy_from_slice(&0x37f_u16.to_le_bytes());
        bytes[MXCSR..MXCSR + 4].copy_from_slice(&0x1f80_u32.to_le_bytes());
        Self(bytes)
    }

    /// Takes the CPU's.
    pub fn save(&mut self) {
        let area = self.0.as_mut_ptr();
        if HAS_XSAVE.load(Ordering::Relaxed) {
            // SAFETY: the area is as large and aligned as XSAVE wants it for these components, and CR4.OSXSAVE is set.
            unsafe {
                asm!("xsave64 [{}]", in(reg) area, in("eax") COMPONENTS as u32, in("edx") 0, options(nostack, preserves_flags))
            };
        } else {
            // SAFETY: the area is larger than FXSAVE wants it, aligned, and CR4.OSFXSR is set.
            unsafe { asm!("fxsave64 [{}]", in(reg) area, options(nostack, preserves_flags)) };
        }
    }

    /// Puts them into the CPU. Not inlined: the one place that has XRSTOR.
    #[inline(never)]
    pub fn load(&self) {
        let area = self.0.as_ptr();
        if HAS_XSAVE.load(Ordering::Relaxed) {
            // SAFETY: the area was saved by XSAVE, or made as it does, with reserved bits of MXCSR and of the head clear (`set_kept`).
            unsafe {
                asm!("xrstor64 [{}]", in(reg) area, in("eax") COMPONENTS as u32, in("edx") 0, options(nostack, preserves_flags))
            };
        } else {
            // SAFETY: the area was saved by FXSAVE, or made as it does, with reserved bits of MXCSR clear (`set_kept`).
            unsafe { asm!("fxrstor64 [{}]", in(reg) area, options(nostack, preserves_flags)) };
        }
    }

    /// What a signal's frame keeps.
    pub fn kept(&self) -> [u8; Self::KEPT] {
        let mut kept = [0; Self::KEPT];
        kept[..WHOLE].copy_from_slice(&self.0);
        kept[linux::MAGIC_AT..LEGACY].fill(0);
        if HAS_XSAVE.load(Ordering::Relaxed) {
            let mut put =
                |at: usize, value: u32| kept[at..at + 4].copy_from_slice(&value.to_le_bytes());
            put(linux::MAGIC_AT, linux::MAGIC);
            put(linux::MAGIC_AT + 4, Self::KEPT as u32);
            put(linux::MAGIC_AT + 8, COMPONENTS as u32);
            put(linux::MAGIC_AT + 16, WHOLE as u32);
            put(WHOLE, linux::END_MAGIC);
        }
        kept
    }

    /// Reads what a frame kept at an address: fewer bytes if the first ones have no mark, since programs may make frames of their own.
    ///
    /// # Errors
    ///
    /// What `read` says.
    pub fn read_kept<E>(
        at: u64,
        read: impl Fn(u64, &mut [u8]) -> Result<(), E>,
    ) -> Result<[u8; Self::KEPT], E> {
        let mut kept = [0; Self::KEPT];
        let (legacy, rest) = kept.split_at_mut(LEGACY);
        read(at, legacy)?;
        if number(legacy, linux::MAGIC_AT) == linux::MAGIC {
            read(at.wrapping_add(LEGACY as u64), rest)?;
        }
        Ok(kept)
    }

    /// Takes back what a signal's frame kept. Bits that may not be set are cleared; where a mark is missing, the upper halves are as a program starts.
    pub fn set_kept(&mut self, kept: &[u8; Self::KEPT]) {
        /// What MXCSR may have where FXSAVE does not say (Intel SDM vol. 1, 11.6.6).
        const MXCSR_BITS: u32 = 0xffbf;
        let may_have = match number(&self.0, MXCSR + 4) {
            0 => MXCSR_BITS,
            says => says,
        };
        let is_whole = number(kept, linux::MAGIC_AT) == linux::MAGIC
            && number(kept, WHOLE) == linux::END_MAGIC;
        let (bytes, in_use) = match is_whole {
            true => (WHOLE, number(kept, IN_USE) & COMPONENTS as u32),
            false => (LEGACY, 0b11),
        };
        self.0 = [0; WHOLE];
        self.0[..bytes].copy_from_slice(&kept[..bytes]);
        self.0[MXCSR..MXCSR + 4].copy_from_slice(&(number(kept, MXCSR) & may_have).to_le_bytes());
        // The standard form, and reserved bytes as XRSTOR wants them (Intel SDM vol. 1, 13.8.1).
        self.0[IN_USE..FORM].copy_from_slice(&u64::from(in_use).to_le_bytes());
        self.0[FORM..LEGACY + 64].fill(0);
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(core::array::from_fn(|byte| bytes[at + byte]))
}
