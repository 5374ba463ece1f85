//! The kpkeys command: bench, reference, doctor.
fn main() {}
