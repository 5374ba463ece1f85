//! Which keys page tables carry.

/// Which keys page tables carry in mode [`Fused`](crate::Mode::Fused), on a backend that has keys to spare. It is the backend that has them: what a
/// command line chooses by this name is a backend that [says so](kpkeys::Backend::separates_user_tables).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Keys {
    /// One for all.
    #[default]
    One,
    /// One for the tables of address spaces, below their roots, and one for all others and what is guarded as they are.
    Separate,
}

impl Keys {
    /// Both.
    pub const ALL: [Keys; 2] = [Keys::One, Keys::Separate];

    /// The name used on command lines and in results.
    pub const fn name(self) -> &'static str {
        match self {
            Keys::One => "one",
            Keys::Separate => "separate",
        }
    }

    /// The one with this name.
    pub fn from_name(name: &str) -> Option<Keys> {
        Self::ALL.into_iter().find(|keys| keys.name() == name)
    }
}
