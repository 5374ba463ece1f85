//! The firmware's power calls (PSCI, DEN 0022).

use core::sync::atomic::{AtomicU8, Ordering};
use kpkeys_devicetree::Conduit;
use smccc::{Hvc, Smc, psci};

/// 0 for none, 1 for HVC, 2 for SMC.
static CONDUIT: AtomicU8 = AtomicU8::new(0);

/// Remembers how the firmware is called, once.
pub fn set_conduit(conduit: Option<Conduit>) {
    let number = match conduit {
        None => 0,
        Some(Conduit::Hvc) => 1,
        Some(Conduit::Smc) => 2,
    };
    CONDUIT.store(number, Ordering::Relaxed);
}

/// Starts a CPU at a physical address, with this value in X0.
///
/// # Errors
///
/// What the firmware says. Without firmware: that it does not support it.
pub fn cpu_on(mpidr: u64, entry: u64, argument: u64) -> Result<(), psci::Error> {
    match CONDUIT.load(Ordering::Relaxed) {
        1 => psci::cpu_on::<Hvc>(mpidr, entry, argument),
        2 => psci::cpu_on::<Smc>(mpidr, entry, argument),
        _ => Err(psci::Error::NotSupported),
    }
}

/// Switches the machine off. Returns where there is no firmware that could.
pub fn system_off() {
    let refused = match CONDUIT.load(Ordering::Relaxed) {
        1 => psci::system_off::<Hvc>(),
        2 => psci::system_off::<Smc>(),
        _ => return,
    };
    if let Err(error) = refused {
        log::error!("the firmware does not switch the machine off: {error}");
    }
}

/// Restarts the machine. Returns where there is no firmware that could.
pub fn system_reset() {
    let refused = match CONDUIT.load(Ordering::Relaxed) {
        1 => psci::system_reset::<Hvc>(),
        2 => psci::system_reset::<Smc>(),
        _ => return,
    };
    if let Err(error) = refused {
        log::error!("the firmware does not restart the machine: {error}");
    }
}
