//! A value for the register cannot be made from a number, so a register's `write` sets no caller-chosen value.
//! expect: E0423

use kpkeys::keyed::Value;

#[cfg(feature = "misuse")]
fn forge() -> Value {
    Value(0)
}

fn main() {
    #[cfg(feature = "misuse")]
    forge();
    let _reads_only = Value::bits;
}
