//! Protection modes.

/// Where windows are opened and where page-table pages come from. Chosen once, at run time, so that one binary can
/// compare them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Mode {
    /// No protection: the baseline.
    Off,
    /// A window around each store.
    Unbatched,
    /// The Linux series' design: a window per lazy-MMU section, the key set and reset on each page-table page.
    Batched,
    /// One bounded window per operation, page-table pages from a keyed pool, and nothing checked: what [`Fused`](Self::Fused) costs without
    /// integrity.
    FusedLean,
    /// The same with integrity: every frame has a type in [guarded memory](crate::guarded), and what is stored is held against it.
    Fused,
}

impl Mode {
    /// All modes, the baseline first.
    pub const ALL: [Mode; 5] =
        [Mode::Off, Mode::Unbatched, Mode::Batched, Mode::FusedLean, Mode::Fused];

    /// The name used on command lines and in results.
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Off => "off",
            Mode::Unbatched => "unbatched",
            Mode::Batched => "batched",
            Mode::FusedLean => "fused-lean",
            Mode::Fused => "fused",
        }
    }

    /// The mode with this name.
    pub fn from_name(name: &str) -> Option<Mode> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }

    /// Whether page tables carry a key.
    #[inline(always)]
    pub const fn protects(self) -> bool {
        !matches!(self, Mode::Off)
    }

    /// Whether an operation has its window for itself, as long as it needs one, and page-table pages come from the pool.
    #[inline(always)]
    pub const fn fuses(self) -> bool {
        matches!(self, Mode::FusedLean | Mode::Fused)
    }

    /// Whether frames have types, which what is stored is held against.
    #[inline(always)]
    pub const fn checks(self) -> bool {
        matches!(self, Mode::Fused)
    }
}
