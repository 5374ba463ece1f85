//! What windows are opened by in a process.

use anyhow::Result;
use kpkeys_hosted::register::MockRegister;
use kpkeys_pgtable::entry::{Aarch64, X86_64};

use super::plan::Paging;
use crate::usage::UsageError;

/// A backend of the machine in a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HostBackend {
    /// A register that protects nothing.
    #[default]
    Mock,
    /// The keys that this CPU has for the pages of a process.
    Pku,
}

impl HostBackend {
    /// Every one.
    pub const ALL: [HostBackend; 2] = [HostBackend::Mock, HostBackend::Pku];

    /// Its name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            HostBackend::Mock => "mock",
            HostBackend::Pku => "pku",
        }
    }

    /// The backend with this name.
    ///
    /// # Errors
    ///
    /// [`UsageError`] with the names there are.
    pub fn from_name(name: &str) -> Result<HostBackend, UsageError> {
        let unknown =
            || UsageError::unknown("backend on the host", name, Self::ALL.map(HostBackend::name));
        Self::ALL.into_iter().find(|backend| backend.name() == name).ok_or_else(unknown)
    }

    /// Refuses what this machine does not have.
    ///
    /// # Errors
    ///
    /// [`UsageError`] with the reason, and what works instead.
    pub fn check(self) -> Result<(), UsageError> {
        let refused = match self {
            HostBackend::Mock => return Ok(()),
            HostBackend::Pku => pku::check(),
        };
        refused.map_err(|why| {
            UsageError(format!(
                "backend pku: {why}. `--backend mock` measures here what a register write costs, and protects nothing; `cargo kpkeys attack` shows \
                 keys that protect, in an emulator"
            ))
        })
    }

    /// The instructions of a switch, for people.
    pub fn switch(self) -> &'static str {
        match self {
            HostBackend::Mock => MockRegister::detect().describe(),
            HostBackend::Pku => "RDPKRU + WRPKRU",
        }
    }

    /// What a switch costs, in nanoseconds.
    ///
    /// # Errors
    ///
    /// The machine does not have the backend.
    pub fn switch_ns(self, paging: Paging) -> Result<f64> {
        match (self, paging) {
            (HostBackend::Mock, Paging::Aarch64) => Ok(kpkeys_hosted::switch_ns::<Aarch64>()),
            (HostBackend::Mock, Paging::X86_64) => Ok(kpkeys_hosted::switch_ns::<X86_64>()),
            (HostBackend::Pku, _) => pku::switch_ns(),
        }
    }

    /// What a reader of times by it must know.
    pub fn caveat(self) -> Option<String> {
        match self {
            HostBackend::Mock => None,
            HostBackend::Pku => Some(format!(
                "backend pku: the host is told of each changed key by a system call ({}), which the times contain: `unbatched` and `batched` change the key of each \
                 page-table page that is allocated or freed, `fused-lean` and `fused` that of a block of the pool, before anything is timed as a rule (--counts has \
                 key_changes)",
                pku::key_change()
            )),
        }
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod pku {
    use anyhow::Result;
    use kpkeys_hosted::pku::Pku;

    pub fn check() -> Result<(), String> {
        kpkeys_hosted::pku::check().map_err(|refused| refused.to_string())
    }

    pub fn switch_ns() -> Result<f64> {
        Ok(kpkeys_hosted::switch_ns_by::<Pku>()?)
    }

    pub fn key_change() -> String {
        match kpkeys_hosted::key_change_ns() {
            Ok(ns) => format!("{ns:.0} ns here"),
            Err(error) => error.to_string(),
        }
    }
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
mod pku {
    use anyhow::{Result, bail};

    pub fn check() -> Result<(), String> {
        Err("it is x86-64's".to_owned())
    }

    pub fn switch_ns() -> Result<f64> {
        bail!("backend pku is x86-64's")
    }

    pub fn key_change() -> String {
        "not measured".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_backend_lists_those_of_a_process() {
        let error = HostBackend::from_name("pks").unwrap_err().to_string();
        assert_eq!(error, "unknown backend on the host `pks`; expected one of: mock, pku");
        for backend in HostBackend::ALL {
            assert_eq!(HostBackend::from_name(backend.name()), Ok(backend));
        }
    }
}
