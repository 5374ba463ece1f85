//! An operation, and with it its window, stays on the CPU that began it.
//! expect: E0277

use kpkeys_pgtable::{Machine, Section};

fn on_another_thread<T: Send>(_value: T) {}

pub fn send<M: Machine>(section: Section<'_, M>) {
    #[cfg(feature = "misuse")]
    on_another_thread(section);
    #[cfg(not(feature = "misuse"))]
    drop(section);
    on_another_thread(());
}

fn main() {}
