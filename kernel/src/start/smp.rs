//! What starting the other CPUs has in common on all architectures: one after the other, each with its number and a stack; and that
//! all of them must have what protection rests on before anything ticks.

use crate::arch;
use crate::cpu::stack::Stack;
use crate::cpu::{Cpu, CpuId};
use crate::exit;
use crate::protection::control;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

/// Stack of the CPU being started; read by the boot assembly.
pub static STARTING_STACK: AtomicU64 = AtomicU64::new(0);

/// How long a CPU may take. Generous, because an emulated CPU shares a busy host's.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A CPU that did not start.
#[derive(Debug)]
pub enum StartError {
    /// It did not come online in time.
    Silent(CpuId),
    /// No stack was left for it.
    NoStack(CpuId),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(id) => {
                write!(f, "CPU {id} did not start within {} s", PATIENCE.as_secs())
            }
            Self::NoStack(id) => write!(f, "no stack is left for CPU {id}"),
        }
    }
}

/// The last of starting the machine, on the boot CPU: the `used` CPUs there are, by `start_others`, and the clock's ticks. Refuses to go
/// on if a CPU does not start, or has not all required features.
pub fn start_machine<E: fmt::Display>(
    used: usize,
    left_out: usize,
    start_others: impl FnOnce() -> Result<(), E>,
) {
    if left_out > 0 {
        log::warn!("{left_out} CPUs stay off: this kernel uses at most {used}");
    }
    if let Err(error) = start_others() {
        exit::refuse(format_args!("{error}"));
    }
    if let Some((id, has)) = control::first_without_required() {
        exit::refuse(format_args!("CPU {id} has only {has} switched on"));
    }
    arch::time::start_ticks();
    debug_assert_eq!(arch::cpu_state::current_index(), 0);
}

/// Gives the next CPU to start a stack, for ever.
///
/// # Errors
///
/// [`StartError::NoStack`].
pub fn prepare_stack(id: CpuId) -> Result<(), StartError> {
    let stack = Stack::take().ok_or(StartError::NoStack(id))?;
    STARTING_STACK.store(stack.top() as u64, Ordering::Release);
    core::mem::forget(stack); // the CPU's idle thread has it for ever
    Ok(())
}

/// Waits for a CPU; false if it does not come online in time.
pub fn comes_online(cpu: &Cpu, patience: Duration) -> bool {
    let end = arch::time::since_boot() + patience;
    while !cpu.is_online() && arch::time::since_boot() < end {
        arch::irq::relax();
    }
    cpu.is_online()
}
