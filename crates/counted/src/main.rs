//! The operations whose instructions are counted, for callgrind to count.
//!
//! `cargo xtask instructions` runs this program under `valgrind --tool=callgrind`, once for each mode, and tells callgrind to collect
//! inside of one function only ([`span`]) and to write what it counted whenever that is left. What is printed is a line for each of
//! those spans, in order: a name, and how many operations it did. Run alone it does the same and nothing is counted.
//!
//! `kpkeys-counted MODE --largest` counts growth alone, up to the largest sizes; `cargo xtask growth` makes a table of it.
//!
//! Every span has a kernel of its own, booted afresh, so that adding one changes no other's count.
//!
//! | module | counts |
//! |---|---|
//! | [`rows`] | the rows of the table, in every mode |
//! | [`ranges`] | map, walk, protect and unmap, of a page and of ranges of two sizes, both formats, in every mode |
//! | [`growth`] | what should not depend on how much there is, with little and with much |

mod growth;
mod ranges;
mod rows;
mod span;

use std::process::ExitCode;

use kpkeys_hosted::boot::{Timed, boot};
use kpkeys_hosted::{HostedFormat, Setup};
use kpkeys_mm::Kernel;
use kpkeys_pgtable::entry::{Aarch64, X86_64};
use kpkeys_pgtable::{Config, Mode};

use growth::Sizes;

/// What went wrong, for people.
type Error = Box<dyn std::error::Error>;

/// Physical memory of a kernel: 256 MiB, of which little is touched.
const MEMORY_PAGES: usize = 1 << 16;
/// As in the evaluation: one thread runs.
const CPUS: usize = 2;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kpkeys-counted: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Error> {
    let (mode, sizes) = arguments(std::env::args().skip(1))?;
    if sizes == Sizes::Largest {
        return growth::count(mode, sizes);
    }
    rows::count(mode)?;
    ranges::count::<Aarch64>("aarch64", mode)?;
    ranges::count::<X86_64>("x86_64", mode)?;
    growth::count(mode, sizes)
}

fn arguments(mut arguments: impl Iterator<Item = String>) -> Result<(Mode, Sizes), Error> {
    let named = arguments.next().and_then(|name| Mode::from_name(&name));
    match (named, arguments.next().as_deref(), arguments.next()) {
        (Some(mode), None, None) => Ok((mode, Sizes::Gate)),
        (Some(mode), Some("--largest"), None) => Ok((mode, Sizes::Largest)),
        _ => {
            let modes = Mode::ALL.map(Mode::name).join(", ");
            Err(format!("give one mode ({modes}), and --largest or nothing").into())
        }
    }
}

fn kernel<F: HostedFormat>(mode: Mode) -> Result<Kernel<Timed<F>>, Error> {
    kernel_of(mode, MEMORY_PAGES)
}

fn kernel_of<F: HostedFormat>(mode: Mode, pages: usize) -> Result<Kernel<Timed<F>>, Error> {
    Ok(boot::<F>(Setup { pages, cpus: CPUS, config: Config::of(mode) })?)
}
