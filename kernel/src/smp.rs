//! What starting the other CPUs has in common on all architectures: one after the other, each with its number and a stack.

use crate::arch;
use crate::cpu::{Cpu, CpuId};
use crate::stack::Stack;
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
