//! The threat model and the matrix of attacks say the same: what is not promised in `fused` stands there by name, and nothing else does.

use std::collections::BTreeSet;
use std::path::Path;

use kpkeys::Scheme;
use kpkeys_pgtable::{Keys, Mode};
use kpkeys_workloads::attack::{Primitive, Promise, Protection, Target, promise};

/// The heading under which the threat model lists them.
const HEADING: &str = "### What types do not stop";

/// `way` on `target`, for every attack that nothing is promised of, with any backend that enforces.
fn not_promised() -> BTreeSet<String> {
    let pairs = Target::all().flat_map(|target| {
        let ways = Primitive::ALL.into_iter().filter(move |way| way.applies_to(target));
        ways.map(move |way| (way, target))
    });
    let is_open = |&(way, target): &(Primitive, Target)| {
        [Scheme::Keys, Scheme::Alias].into_iter().any(|scheme| {
            let (mode, keys) = (Mode::Fused, Keys::One);
            let protection = Protection { mode, enforced: true, scheme, pool: true, keys };
            let is_made = scheme == Scheme::Alias || !way.needs_alias();
            is_made && promise::of(target, way, protection) == Promise::None
        })
    };
    pairs.filter(is_open).map(|(way, target)| format!("`{way}` on `{target}`")).collect()
}

/// The same as the threat model has it.
fn documented() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src/threat-model.md");
    let text = std::fs::read_to_string(&path).expect("the threat model is part of the book");
    let (_, section) = text.split_once(HEADING).expect("the threat model has this section");
    let section = section.split("\n## ").next().unwrap_or(section);
    let words: Vec<&str> = section.split('`').collect();
    let is_pair = |three: &&[&str]| three[1] == " on ";
    words
        .windows(3)
        .filter(is_pair)
        .map(|three| format!("`{}` on `{}`", three[0], three[2]))
        .collect()
}

#[test]
fn what_is_not_promised_stands_in_the_threat_model_by_name() {
    assert_eq!(documented(), not_promised());
}

#[test]
fn what_is_named_is_an_attack() {
    assert!(!not_promised().is_empty(), "if nothing is left, the section goes");
}
