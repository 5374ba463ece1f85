//! The seccomp filter of a ptrace recording: it lets the kernel stop the command at the calls of a trace
//! and nowhere else (seccomp(2), SECCOMP_RET_TRACE). Everything else is allowed, at full speed.

use seccompiler::{BpfProgram, sock_filter};

use super::calls::{self, Call};

/// AUDIT_ARCH_ of this architecture (linux/audit.h).
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;
#[cfg(target_arch = "riscv64")]
const ARCHITECTURE: u32 = 0xc000_00f3;

/// Offsets in struct seccomp_data.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;

/// Classic BPF: load a word, jump if equal, return (linux/filter.h).
const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const TRACE: u32 = libc::SECCOMP_RET_TRACE;

/// The filter. Calls in another ABI (32-bit programs) are allowed and not seen.
pub(super) fn filter() -> BpfProgram {
    let mut program = vec![
        step(LOAD, 0, 0, ARCHITECTURE_AT),
        step(JUMP_EQUAL, 1, 0, ARCHITECTURE),
        step(RETURN, 0, 0, ALLOW),
        step(LOAD, 0, 0, NUMBER_AT),
    ];
    // Exits are reported anyway, and a process that is no longer traced must be able to exit.
    for number in calls::numbers().filter(|&number| Call::from_number(number) != Some(Call::Exit)) {
        program.push(step(JUMP_EQUAL, 0, 1, number as u32));
        program.push(step(RETURN, 0, 0, TRACE));
    }
    program.push(step(RETURN, 0, 0, ALLOW));
    program
}

fn step(code: u16, jump_true: u8, jump_false: u8, operand: u32) -> sock_filter {
    sock_filter { code, jt: jump_true, jf: jump_false, k: operand }
}
