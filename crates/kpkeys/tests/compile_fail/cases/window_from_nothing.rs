//! A window cannot be made without a guard, except by promising, in `unsafe`, that one is open.
//! expect: E0133

use kpkeys::Window;

fn main() {
    #[cfg(feature = "misuse")]
    let _window = Window::assume_open();
    // SAFETY: there are no page tables in this program.
    #[cfg(not(feature = "misuse"))]
    let _window = unsafe { Window::assume_open() };
}
