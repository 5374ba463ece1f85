//! The kpkeys command: bench, reference, doctor.

#[allow(dead_code, reason = "called by the commands")]
mod reference;
#[allow(dead_code, reason = "called by the commands")]
mod render;

fn main() {}
