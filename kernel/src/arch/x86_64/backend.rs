//! The backends this architecture has, one of which is selected at boot.

use super::control;
use crate::protection::selected::backends;
use core::fmt;
use kpkeys::context::Default;
use kpkeys::encoding::Pkrs;
use kpkeys::keyed::Keyed;
use kpkeys::mock::TscAux;
use kpkeys::null::Null;
use kpkeys::pks::{self, Pks};
use kpkeys::smap::{self, AC, Smap};
use kpkeys::{Access, Backend, Pkey};
use kpkeys_workloads::attack::site::SavedIn;

backends! {
    /// Protection keys for supervisor pages.
    Pks(Pks) = "pks",
    /// EFLAGS.AC under SMAP, and an alias that they block.
    Smap(Smap) = "smap",
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

    /// Whether it has keys that page tables do not need.
    pub const fn has_spare_keys(self) -> bool {
        matches!(self, Self::Pks | Self::Mock)
    }

    /// The best that the running CPU has.
    pub fn best() -> Self {
        if Pks::supported() {
            Self::Pks
        } else if Smap::supported().is_ok() {
            Self::Smap
        } else {
            Self::None
        }
    }
}

/// Why a backend cannot be used on a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// PKS cannot be, for this reason.
    Pks(pks::InitError),
    /// SMAP cannot be, for this reason.
    Smap(smap::InitError),
    /// The mock's register, `IA32_TSC_AUX`, does not exist.
    NoTscAux,
    /// The register does not say what it should outside windows.
    NotReset,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pks(error) => write!(f, "backend pks: {error}"),
            Self::Smap(error) => write!(f, "backend smap: {error}"),
            Self::NoTscAux => {
                f.write_str("backend mock: this CPU has no RDTSCP, so no IA32_TSC_AUX")
            }
            Self::NotReset => {
                f.write_str("the protection register allows writing page tables outside windows")
            }
        }
    }
}

/// Whether programs must run on a second root of the kernel's half: their roots have one of their own here.
pub fn need_programs_root() -> bool {
    false
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
        // SAFETY: ring 0; every entry executes CLAC, programs run on roots without the alias, and so does what reaches their memory (`root`).
        Choice::Smap => unsafe { Smap::init() }.map(Selected::Smap).map_err(Unusable::Smap),
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
    /// Whether hardware refuses stores to page tables.
    pub fn enforces(&self) -> bool {
        matches!(self, Self::Pks(_) | Self::Smap(_))
    }

    /// Whether this backend refuses the kernel's stores to an address by not having it mapped.
    pub fn hides(&self, _address: u64) -> bool {
        false
    }

    /// What the running CPU's register allows to page tables now; `None` where there is no register.
    pub fn page_table_access(&self) -> Option<Access> {
        match self {
            Self::Pks(pks) => pks.access(Pkey::PAGE_TABLES),
            Self::Smap(smap) => smap.access(Pkey::PAGE_TABLES),
            Self::Mock(mock) => mock.access(Pkey::PAGE_TABLES),
            Self::None(_) => None,
        }
    }

    /// What an attacker would write over a register that a frame or a suspended thread keeps: the value that allows everything. With `smap` a
    /// frame keeps AC in its RFLAGS, and a thread nothing but AC.
    pub fn forged(&self, saved: u64, kept_in: SavedIn) -> u64 {
        match (self, kept_in) {
            (Self::Smap(_), SavedIn::Frame) => saved | AC,
            (Self::Smap(_), SavedIn::Thread) => AC,
            _ => 0,
        }
    }

    /// What undoes [`forged`](Self::forged) in a later frame of the same code, given that frame's value and the first one's: the rest of its
    /// RFLAGS is the later frame's.
    pub fn restored(&self, saved: u64, original: u64) -> u64 {
        match self {
            Self::Smap(_) => saved & !AC | original & AC,
            _ => original,
        }
    }

    /// Whether the running CPU's control bits make hardware refuse what this backend says it does.
    ///
    /// # Errors
    ///
    /// What does not.
    pub fn verify_control(&self) -> Result<(), Unusable> {
        // SAFETY: ring 0.
        unsafe {
            match self {
                Self::Pks(_) => Pks::verify().map_err(Unusable::Pks),
                Self::Smap(smap) => smap.verify().map_err(Unusable::Smap),
                Self::Mock(_) | Self::None(_) => Ok(()),
            }
        }
    }

    /// Whether the running CPU, outside any window, is as [`init`] left it.
    ///
    /// # Errors
    ///
    /// What is not.
    pub fn verify(&self) -> Result<(), Unusable> {
        self.verify_control()?;
        if self.is_in::<Default>() { Ok(()) } else { Err(Unusable::NotReset) }
    }
}
