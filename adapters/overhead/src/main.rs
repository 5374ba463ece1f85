//! The same calls through a page-table crate and through its adapter, without a register: what the adapter's own code costs.
//!
//! `overhead ADAPTER bare|hardened|batch PAGES`, each page mapped, changed and unmapped. Instructions a page are the difference of two runs under
//! callgrind, which `cargo xtask overhead` makes of all adapters.

#[cfg(target_arch = "x86_64")]
mod hyperlight;
#[cfg(target_arch = "x86_64")]
mod machine;
#[cfg(target_arch = "x86_64")]
mod multiarch;
#[cfg(target_arch = "x86_64")]
mod patina;
#[cfg(target_arch = "x86_64")]
mod table_generic;
#[cfg(target_arch = "x86_64")]
mod x86_64_crate;

use std::process::ExitCode;

/// Through what the calls go.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
enum Who {
    /// The crate as it is.
    Bare,
    /// Its adapter, a call for each page.
    Hardened,
    /// Its adapter, in windows of 512 pages.
    Batch,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [adapter, who, pages] = arguments.as_slice() else { return usage() };
    let who = match who.as_str() {
        "bare" => Who::Bare,
        "hardened" => Who::Hardened,
        "batch" => Who::Batch,
        _ => return usage(),
    };
    match pages.parse() {
        Ok(pages) if run(adapter, who, pages) => ExitCode::SUCCESS,
        _ => usage(),
    }
}

/// Returns whether there is such an adapter.
#[cfg(target_arch = "x86_64")]
fn run(adapter: &str, who: Who, pages: usize) -> bool {
    match adapter {
        "x86_64" => x86_64_crate::run(who, pages),
        "page_table_multiarch" => multiarch::run(who, pages),
        "page-table-generic" => table_generic::run(who, pages),
        "patina_paging" => patina::run(who, pages),
        "hyperlight-common" => hyperlight::run(who, pages),
        _ => return false,
    }
    true
}

#[cfg(not(target_arch = "x86_64"))]
fn run(_: &str, _: Who, _: usize) -> bool {
    false
}

fn usage() -> ExitCode {
    eprintln!("usage: overhead ADAPTER bare|hardened|batch PAGES (on x86-64)");
    ExitCode::from(2)
}
