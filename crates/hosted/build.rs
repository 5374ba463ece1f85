//! Says in one line what this crate, and the command with it, cannot be built for. The compiler would say it in fifty.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_CFG_UNIX").is_none() {
        let target = env::var("TARGET").unwrap_or_default();
        println!(
            "cargo::error=the machine in a process, and the `kpkeys` command, need Linux or macOS, not {target}: on Windows build and run them in WSL2"
        );
    }
}
