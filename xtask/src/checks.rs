//! `cargo xtask test`: everything that must hold before a change goes in, as a list of steps.
//!
//! A new check is one more [`Step`] in [`steps`]. The cheap ones come first.

use anyhow::Result;
use clap::Args;

use crate::step::{self, AfterFailure, Outcome, Step};
use crate::{
    audit, bare, command, docs, hosts, instructions, kernel, oldest, package, programs, results,
    setup, test, verify,
};

#[derive(Args)]
pub struct Arguments {
    /// Run only these steps (repeat, or separate by commas)
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// List the steps and run nothing
    #[arg(long)]
    list: bool,
    /// Run the remaining steps after one has failed; always on when CI is set
    #[arg(long)]
    keep_going: bool,
}

/// Runs the steps that the arguments select.
pub fn run(arguments: &Arguments) -> Result<()> {
    let steps = step::select(steps(), &arguments.only)?;
    if arguments.list {
        print!("{}", step::list(&steps));
        return Ok(());
    }
    let go_on = arguments.keep_going || command::in_ci();
    step::run_all(&steps, if go_on { AfterFailure::GoOn } else { AfterFailure::Stop })
}

fn steps() -> Vec<Step> {
    vec![
        Step {
            name: "setup",
            about: "install what is missing: Rust components and targets, emulators, valgrind",
            run: setup::run,
        },
        Step { name: "fmt", about: "the sources are formatted", run: fmt },
        Step {
            name: "links",
            about: "no broken relative link in the book and the README",
            run: docs::check_book,
        },
        Step {
            name: "no-deps",
            about: "the bottom crate depends on nothing, and no kernel library turns the mock on",
            run: bare::no_dependencies,
        },
        Step {
            name: "package",
            about: "every published crate can be packaged, with README, licences and metadata",
            run: package::check,
        },
        Step { name: "clippy", about: "no warning in any target of any crate", run: clippy },
        Step {
            name: "bare",
            about: "the no_std crates build for both bare targets",
            run: bare::build,
        },
        Step {
            name: "hosts",
            about: "the command compiles for macOS, and says in one line that it does not for Windows",
            run: hosts::check,
        },
        Step {
            name: "oldest",
            about: "everything compiles with the oldest Rust the manifests promise",
            run: oldest::check,
        },
        Step { name: "rustdoc", about: "the API documentation has no warning", run: docs::rustdoc },
        Step {
            name: "kernel",
            about: "the reference kernel is formatted and has no warning",
            run: kernel::lint,
        },
        Step {
            name: "audit",
            about: "the kernel's images can write protection registers where the lists say, and nowhere else",
            run: audit::check,
        },
        Step {
            name: "instructions",
            about: "no operation executes more or fewer instructions than the file says, by 2 %",
            run: instructions::check,
        },
        Step {
            name: "results",
            about: "the tables and pictures of results are what the kept runs give",
            run: results::check,
        },
        Step {
            name: "verify",
            about: "a part of the model's explorations and two planted faults, which the commit chooses",
            run: || verify::run_short().map(|()| Outcome::Done),
        },
        Step {
            name: "programs",
            about: "stressors of the distribution's stress-ng run on both machines, beside an attacker",
            run: programs::short::run,
        },
        Step {
            name: "test",
            about: "unit, property, compile-fail, documentation and in-kernel tests, and every attack",
            run: test::run,
        },
    ]
}

fn fmt() -> Result<Outcome> {
    cargo(&["fmt", "--all", "--check"])
}

fn clippy() -> Result<Outcome> {
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])
}

fn cargo(arguments: &[&str]) -> Result<Outcome> {
    command::run(&mut command::cargo(arguments))?;
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_has_its_own_name() {
        let mut names: Vec<_> = steps().iter().map(|step| step.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn setup_comes_before_what_needs_it() {
        assert_eq!(steps()[0].name, "setup");
    }
}
