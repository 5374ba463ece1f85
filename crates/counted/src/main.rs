//! The operations whose instructions are counted, for callgrind to count.
//!
//! `cargo xtask instructions` runs this program under `valgrind --tool=callgrind`, once for each mode, and tells callgrind to collect
//! inside of one function only ([`span`]) and to write what it counted whenever that is left. What is printed is a line for each of
//! those spans, in order: a name, and how many operations it did. Run alone it does the same and nothing is counted.
//!
//! `kpkeys-counted fused --keys separate` counts the mode with a key of their own for the tables of address spaces.
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

use kpkeys_hosted::boot::{Measuring, MockBackend, SeparateMock, boot_measured};
use kpkeys_hosted::parts::Measured;
use kpkeys_hosted::{HostedFormat, Setup};
use kpkeys_mm::Kernel;
use kpkeys_pgtable::entry::{Aarch64, X86_64};
use kpkeys_pgtable::{Config, Keys, Mode, NoProbe};

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
    let (mode, keys, sizes) = arguments(std::env::args().skip(1))?;
    match keys {
        Keys::One => count::<MockBackend<Aarch64>, MockBackend<X86_64>>((mode, keys), sizes),
        Keys::Separate => count::<SeparateMock<Aarch64>, SeparateMock<X86_64>>((mode, keys), sizes),
    }
}

fn count<Arm: Measured, X86: Measured>(how: How, sizes: Sizes) -> Result<(), Error> {
    if sizes == Sizes::Largest {
        return growth::count::<Arm>(how, sizes);
    }
    rows::count::<Arm>(how)?;
    ranges::count::<Aarch64, Arm>("aarch64", how)?;
    ranges::count::<X86_64, X86>("x86_64", how)?;
    growth::count::<Arm>(how, sizes)
}

/// The mode, and the keys that page tables carry in it.
type How = (Mode, Keys);

/// What a count's name ends with.
fn name_of((mode, keys): How) -> String {
    match keys {
        Keys::One => mode.name().to_owned(),
        Keys::Separate => format!("{} with separate keys", mode.name()),
    }
}

fn arguments(arguments: impl Iterator<Item = String>) -> Result<(Mode, Keys, Sizes), Error> {
    let arguments: Vec<String> = arguments.collect();
    let (named, options) = arguments.split_first().ok_or("give a mode")?;
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    match (Mode::from_name(named), &options[..]) {
        (Some(mode), []) => Ok((mode, Keys::One, Sizes::Gate)),
        (Some(mode), ["--largest"]) => Ok((mode, Keys::One, Sizes::Largest)),
        (Some(Mode::Fused), ["--keys", "separate"]) => {
            Ok((Mode::Fused, Keys::Separate, Sizes::Gate))
        }
        _ => {
            let modes = Mode::ALL.map(Mode::name).join(", ");
            Err(format!(
                "give one mode ({modes}), and --largest or nothing, or fused --keys separate"
            )
            .into())
        }
    }
}

/// A kernel to be counted on.
type Counted<F, B> = Kernel<Measuring<F, B, NoProbe>>;

fn kernel<F: HostedFormat, B: Measured>(mode: Mode) -> Result<Counted<F, B>, Error> {
    kernel_of(mode, MEMORY_PAGES)
}

fn kernel_of<F: HostedFormat, B: Measured>(
    mode: Mode,
    pages: usize,
) -> Result<Counted<F, B>, Error> {
    Ok(boot_measured::<F, B>(Setup { pages, cpus: CPUS, config: Config::of(mode) })?)
}
