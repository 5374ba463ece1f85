//! The backends this architecture has, one of which is selected at boot.

use super::control;
use crate::protection::selected::backends;
use core::fmt;
use kpkeys::encoding::Pkrs;
use kpkeys::keyed::Keyed;
use kpkeys::mock::TscAux;
use kpkeys::null::Null;
use kpkeys::pks::{InitError, Pks};
use kpkeys::{Access, Pkey};
use kpkeys_workloads::attack::site::SavedIn;

backends! {
    /// Protection keys for supervisor pages.
    Pks(Pks) = "pks",
    /// An unused register in their place; nothing is enforced.
    Mock(Mock) = "mock",
    /// No register at all.
    None(Null) = "none",
}

impl Choice {
    /// Whether it switches the CPU's key feature on.
    pub const fn is_of_keys(self) -> bool {
        matches!(self, Self::Pks)
    }

    /// The best that the running CPU has.
    pub fn best() -> Self {
        if Pks::supported() { Self::Pks } else { Self::None }
    }
}

/// Why a backend cannot be used on a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// PKS cannot be, for this reason.
    Pks(InitError),
    /// The mock's register, `IA32_TSC_AUX`, does not exist.
    NoTscAux,
    /// The register does not say what it should outside windows.
    NotReset,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pks(error) => write!(f, "backend pks: {error}"),
            Self::NoTscAux => {
                f.write_str("backend mock: this CPU has no RDTSCP, so no IA32_TSC_AUX")
            }
            Self::NotReset => {
                f.write_str("the protection register allows writing page tables outside windows")
            }
        }
    }
}

type Mock = Keyed<TscAux, Pkrs>;

/// Makes the running CPU ready for a backend and verifies it.
///
/// # Errors
///
/// [`Unusable`] says what the CPU lacks.
///
/// # Safety
///
/// Interrupts must be off, and from now on every exception of this CPU must go through `protection`.
pub unsafe fn init(choice: Choice) -> Result<Selected, Unusable> {
    match choice {
        // SAFETY: ring 0; the rest is the caller's promise.
        Choice::Pks => unsafe { Pks::init() }.map(Selected::Pks).map_err(Unusable::Pks),
        Choice::Mock if !control::has_tsc_aux() => Err(Unusable::NoTscAux),
        Choice::Mock => {
            // SAFETY: ring 0, the register exists, and this kernel uses neither RDTSCP nor RDPID.
            let mock = Mock::new(unsafe { TscAux::new() });
            mock.reset();
            Ok(Selected::Mock(mock))
        }
        Choice::None => Ok(Selected::None(Null::new())),
    }
}

impl Selected {
    /// Whether hardware refuses stores to keyed pages.
    pub fn enforces(&self) -> bool {
        matches!(self, Self::Pks(_))
    }

    /// What the running CPU's register allows to page tables now; `None` where there is no register.
    pub fn page_table_access(&self) -> Option<Access> {
        match self {
            Self::Pks(pks) => pks.access(Pkey::PAGE_TABLES),
            Self::Mock(mock) => mock.access(Pkey::PAGE_TABLES),
            Self::None(_) => None,
        }
    }

    /// What an attacker would write over a register that a frame or a suspended thread keeps: the value that allows everything.
    pub fn forged(&self, _saved: u64, _in: SavedIn) -> u64 {
        0
    }

    /// What undoes [`forged`](Self::forged) in a later frame of the same code: the first one's value.
    pub fn restored(&self, _saved: u64, original: u64) -> u64 {
        original
    }

    /// Whether the running CPU's control bits make hardware refuse what this backend says it does.
    ///
    /// # Errors
    ///
    /// What does not.
    pub fn verify_control(&self) -> Result<(), Unusable> {
        if self.enforces() {
            // SAFETY: ring 0.
            unsafe { Pks::verify() }.map_err(Unusable::Pks)?;
        }
        Ok(())
    }

    /// Whether the running CPU, outside any window, is as [`init`] left it.
    ///
    /// # Errors
    ///
    /// What is not.
    pub fn verify(&self) -> Result<(), Unusable> {
        self.verify_control()?;
        match self.page_table_access() {
            None | Some(Access::ReadOnly) => Ok(()),
            Some(_) => Err(Unusable::NotReset),
        }
    }
}
