//! Which machine operations run on.

/// Runs an expression with a kernel on the machine, and in the mode, that a byte says.
macro_rules! on_machine {
    ($byte:expr, $pages:expr, |$kernel:ident| $run:expr) => {{
        use crate::support::{guarded, guarded_pan};
        use kpkeys_pgtable::Mode;
        use kpkeys_pgtable::entry::{Aarch64, X86_64};
        let mode = Mode::ALL[usize::from($byte >> 2) % Mode::ALL.len()];
        match $byte & 3 {
            0 => on_machine!($run, $kernel = guarded::<Aarch64>(mode, $pages)),
            1 => on_machine!($run, $kernel = guarded_pan::<Aarch64>(mode, $pages)),
            2 => on_machine!($run, $kernel = guarded_pan::<X86_64>(mode, $pages)),
            _ => on_machine!($run, $kernel = guarded::<X86_64>(mode, $pages)),
        }
    }};
    ($run:expr, $kernel:ident = $boot:expr) => {{
        let $kernel = $boot;
        $run
    }};
}
pub(crate) use on_machine;
