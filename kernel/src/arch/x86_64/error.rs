//! Asynchronous errors: machine checks, which no software of this kernel's can raise.

/// Whether [`raise`] works.
pub fn can_be_raised() -> bool {
    false
}

/// Never called.
pub fn raise() {
    unreachable!("`can_be_raised` says no");
}
