//! The backends this architecture has, one of which is selected at boot.

use super::control::{self, Features};
use super::indirection;
use crate::protection::selected::backends;
use crate::start::settled::Settled;
use core::fmt;
use kpkeys::encoding::Por;
use kpkeys::keyed::Keyed;
use kpkeys::mock::ContextIdr;
use kpkeys::null::Null;
use kpkeys::pan::{self, PAN, Pan};
use kpkeys::poe::{self, Poe};
use kpkeys::{Access, Pkey};
use kpkeys_workloads::attack::site::SavedIn;

backends! {
    /// Permission overlays.
    Poe(Poe) = "poe",
    /// PSTATE.PAN, and an alias that it blocks.
    Pan(Pan) = "pan",
    /// An unused register in the place of the overlays'; nothing is enforced.
    Mock(Mock) = "mock",
    /// No register at all.
    None(Null) = "none",
}

impl Choice {
    /// Whether it switches the CPU's key feature on.
    pub const fn is_of_keys(self) -> bool {
        matches!(self, Self::Poe)
    }

    /// The best that the running CPU has.
    pub fn best() -> Self {
        let supported = control::supported();
        if supported.contains(Features::POE) {
            Self::Poe
        } else if supported.contains(Features::PAN) {
            Self::Pan
        } else {
            Self::None
        }
    }
}

/// Why a backend cannot be used on a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// POE cannot be, for this reason.
    Poe(poe::InitError),
    /// PAN cannot be, for this reason.
    Pan(pan::InitError),
    /// The register does not say what it should outside windows.
    NotReset,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Poe(error) => write!(f, "backend poe: {error}"),
            Self::Pan(error) => write!(f, "backend pan: {error}"),
            Self::NotReset => {
                f.write_str("the protection register allows writing page tables outside windows")
            }
        }
    }
}

type Mock = Keyed<ContextIdr, Por>;

/// Whether the boot CPU lacks E0PD, so that EL0 must be kept out of an alias by its tables.
#[unsafe(link_section = ".settled")]
static NO_E0PD: Settled<bool> = Settled::new();

/// Whether programs must run on tables that lack the alias: where there is one, and the boot CPU, which asks first, has no E0PD.
pub fn are_programs_apart() -> bool {
    *NO_E0PD.settle(|| !control::supported().contains(Features::E0PD))
}

/// The value of `POR_EL1`, and of the mock, that allows everything.
const ALL_ALLOWED: u64 = 0x7777_7777;

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
        Choice::Poe if !control::supported().contains(Features::POE) => {
            Err(Unusable::Poe(poe::InitError::NotSupported))
        }
        Choice::Poe => {
            // SAFETY: EL1, on a CPU with overlays, on the early tables; indirection is turned on where it exists. The rest is the
            // caller's promise.
            let poe = unsafe {
                if control::has_indirection() {
                    indirection::enable();
                }
                Poe::init()
            };
            poe.map(Selected::Poe).map_err(Unusable::Poe)
        }
        Choice::Pan => {
            // SAFETY: EL1; user memory is reached by LDTR and STTR alone. Where tables keep EL0 out, `root` loads none of the alias's for it.
            // The rest is the caller's promise.
            let pan =
                unsafe { if are_programs_apart() { Pan::init_by_tables() } else { Pan::init() } };
            pan.map(Selected::Pan).map_err(Unusable::Pan)
        }
        Choice::Mock => {
            // SAFETY: EL1, and this kernel does not use the register otherwise.
            let mock = Mock::new(unsafe { ContextIdr::new() });
            mock.reset();
            Ok(Selected::Mock(mock))
        }
        Choice::None => Ok(Selected::None(Null::new())),
    }
}

impl Selected {
    /// Whether hardware refuses stores to page tables.
    pub fn enforces(&self) -> bool {
        matches!(self, Self::Poe(_) | Self::Pan(_))
    }

    /// What the running CPU's register allows to page tables now; `None` where there is no register.
    pub fn page_table_access(&self) -> Option<Access> {
        match self {
            Self::Poe(poe) => poe.access(Pkey::PAGE_TABLES),
            Self::Pan(pan) => pan.access(Pkey::PAGE_TABLES),
            Self::Mock(mock) => mock.access(Pkey::PAGE_TABLES),
            Self::None(_) => None,
        }
    }

    /// What an attacker would write over a register that a frame or a suspended thread keeps, so that everything is allowed. With `pan` a
    /// frame keeps PAN in its SPSR, set where the window is closed, and a thread keeps the opposite.
    pub fn forged(&self, saved: u64, kept_in: SavedIn) -> u64 {
        match (self, kept_in) {
            (Self::Pan(_), SavedIn::Frame) => saved & !PAN,
            (Self::Pan(_), SavedIn::Thread) => PAN,
            _ => ALL_ALLOWED,
        }
    }

    /// What undoes [`forged`](Self::forged) in a later frame of the same code, given that frame's value and the first one's: the rest of an SPSR
    /// is the later frame's.
    pub fn restored(&self, saved: u64, original: u64) -> u64 {
        match self {
            Self::Pan(_) => saved & !PAN | original & PAN,
            _ => original,
        }
    }

    /// Whether the running CPU's control bits make hardware refuse what this backend says it does.
    ///
    /// # Errors
    ///
    /// What does not.
    pub fn verify_control(&self) -> Result<(), Unusable> {
        // SAFETY: EL1, on a CPU that has the feature.
        unsafe {
            match self {
                Self::Poe(_) => Poe::verify().map_err(Unusable::Poe),
                Self::Pan(pan) if are_programs_apart() => {
                    pan.verify_by_tables().map_err(Unusable::Pan)
                }
                Self::Pan(pan) => pan.verify().map_err(Unusable::Pan),
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
        match self.page_table_access() {
            None | Some(Access::ReadOnly) => Ok(()),
            Some(_) => Err(Unusable::NotReset),
        }
    }
}
