//! Which context is entered is a type: no value in memory can choose it.
//! expect: E0038

use kpkeys::{Context, context};

#[cfg(feature = "misuse")]
fn choose(page_tables: bool) -> &'static dyn Context {
    if page_tables { &context::PageTables } else { &context::Default }
}

#[cfg(not(feature = "misuse"))]
fn choose<C: Context>(context: C) -> C {
    context
}

fn main() {
    #[cfg(feature = "misuse")]
    choose(std::env::args().count() > 1);
    #[cfg(not(feature = "misuse"))]
    let (_, _) = (choose(context::PageTables), choose(context::Default));
}
