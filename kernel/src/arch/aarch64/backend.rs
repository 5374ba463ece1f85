//! The backends this architecture has, one of which is selected at boot.

use super::control::{self, Features};
use super::root::{self, WindowRoots};
use super::{indirection, layout};
use crate::protection;
use crate::protection::selected::backends;
use crate::start::settled::Settled;
use core::fmt;
use kpkeys::context::Default;
use kpkeys::encoding::Por;
use kpkeys::keyed::Keyed;
use kpkeys::mock::ContextIdr;
use kpkeys::null::Null;
use kpkeys::pan::{self, PAN, Pan};
use kpkeys::poe::{self, Poe};
use kpkeys::ttbr0::{self, RootRegister};
use kpkeys::{Access, Backend, Pkey};
use kpkeys_workloads::attack::site::SavedIn;

backends! {
    /// Permission overlays.
    Poe(Poe) = "poe",
    /// PSTATE.PAN, and an alias that it blocks.
    Pan(Pan) = "pan",
    /// An alias that `TTBR0_EL1` leads to in windows alone.
    Ttbr0(Ttbr0) = "ttbr0",
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

    /// Whether it has keys that page tables do not need.
    pub const fn has_spare_keys(self) -> bool {
        matches!(self, Self::Poe | Self::Mock)
    }

    /// The best that the running CPU has.
    pub fn best() -> Self {
        let supported = control::supported();
        if supported.contains(Features::POE) {
            Self::Poe
        } else if supported.contains(Features::PAN) {
            Self::Pan
        } else {
            Self::Ttbr0
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
    /// `TTBR0_EL1` cannot be, for this reason.
    Ttbr0(ttbr0::InitError),
    /// The register does not say what it should outside windows.
    NotReset,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Poe(error) => write!(f, "backend poe: {error}"),
            Self::Pan(error @ pan::InitError::NoPan) => {
                write!(f, "backend pan: {error}; backend ttbr0 needs none")
            }
            Self::Pan(error) => write!(f, "backend pan: {error}"),
            Self::Ttbr0(error) => write!(f, "backend ttbr0: {error}"),
            Self::NotReset => {
                f.write_str("the protection register allows writing page tables outside windows")
            }
        }
    }
}

type Mock = Keyed<ContextIdr, Por>;
type Ttbr0 = ttbr0::Ttbr0<RootRegister<WindowRoots>>;

/// What the boot CPU has, which asks first.
#[unsafe(link_section = ".settled")]
static SUPPORTED: Settled<Features> = Settled::new();

fn lacks(feature: Features) -> bool {
    !SUPPORTED.settle(control::supported).contains(feature)
}

/// Whether there is no PAN to keep the kernel from user memory.
pub fn lacks_pan() -> bool {
    lacks(Features::PAN)
}

/// Whether EL0 must be kept out of an alias in the kernel's half by its tables.
fn lacks_e0pd() -> bool {
    lacks(Features::E0PD)
}

/// Whether programs must run on a second root of the kernel's half: where that half has an alias, and there is no E0PD.
pub fn need_programs_root() -> bool {
    lacks_e0pd() && !protection::backend().has_window_root()
}

/// Whether the kernel runs without the user half of the thread that it is in: for want of PAN; or where there is an alias, because that is in the same half in windows, or
/// its identifiers keep the two halves apart.
pub fn are_programs_apart() -> bool {
    lacks_pan()
        || protection::has_alias() && (lacks_e0pd() || protection::backend().has_window_root())
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
            let pan = unsafe { if lacks_e0pd() { Pan::init_by_tables() } else { Pan::init() } };
            pan.map(Selected::Pan).map_err(Unusable::Pan)
        }
        Choice::Ttbr0 => {
            root::settle_windows();
            // SAFETY: EL1, on the early tables, with the table that translates nothing loaded. `root` takes away what it loads for a program first thing
            // in every exception, and loads the window root nowhere. The rest is the caller's promise.
            let ttbr0 = unsafe { Ttbr0::init() };
            ttbr0.map(Selected::Ttbr0).map_err(Unusable::Ttbr0)
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
        matches!(self, Self::Poe(_) | Self::Pan(_) | Self::Ttbr0(_))
    }

    /// Whether the CPU saves what says that a window is open in SPSR, closes, and restores it by ERET.
    #[inline(always)]
    pub fn is_kept_in_spsr(&self) -> bool {
        matches!(self, Self::Pan(_))
    }

    /// Whether this backend refuses the kernel's stores to an address by not having it mapped.
    pub fn hides(&self, address: u64) -> bool {
        layout::is_alias_of_windows(address)
    }

    /// What the running CPU's register allows to page tables now; `None` where there is no register.
    pub fn page_table_access(&self) -> Option<Access> {
        match self {
            Self::Poe(poe) => poe.access(Pkey::PAGE_TABLES),
            Self::Pan(pan) => pan.access(Pkey::PAGE_TABLES),
            Self::Ttbr0(ttbr0) => ttbr0.access(Pkey::PAGE_TABLES),
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
                Self::Pan(pan) if lacks_e0pd() => pan.verify_by_tables().map_err(Unusable::Pan),
                Self::Pan(pan) => pan.verify().map_err(Unusable::Pan),
                // On the early tables identifiers are those of the other register, and nothing has an alias.
                Self::Ttbr0(_) if !root::is_final() => Ok(()),
                Self::Ttbr0(ttbr0) => ttbr0.verify().map_err(Unusable::Ttbr0),
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
