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
    /// One bounded window per operation, page-table pages from a keyed pool.
    Fused,
}

impl Mode {
    /// All modes, the baseline first.
    pub const ALL: [Mode; 4] = [Mode::Off, Mode::Unbatched, Mode::Batched, Mode::Fused];

    /// The name used on command lines and in results.
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Off => "off",
            Mode::Unbatched => "unbatched",
            Mode::Batched => "batched",
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
}
