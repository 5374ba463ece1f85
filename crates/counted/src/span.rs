//! What is counted: from entering one function, `kpkeys_counted_span`, to leaving it.

use crate::Error;

/// Says what is counted next, and does it.
pub fn count(
    name: &str,
    operations: u64,
    mut work: impl FnMut() -> Result<(), Error>,
) -> Result<(), Error> {
    println!("{name}\t{operations}");
    kpkeys_counted_span(&mut work)
}

// SAFETY: nothing else in this program has the name. It keeps one, so that callgrind finds it, and is a function, so that it is
// entered and left.
#[unsafe(no_mangle)]
#[inline(never)]
fn kpkeys_counted_span(work: &mut dyn FnMut() -> Result<(), Error>) -> Result<(), Error> {
    let result = work();
    // Something to come back for: a jump to `work` in the place of a call would leave the function right away.
    std::hint::black_box(());
    result
}
