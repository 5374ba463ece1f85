//! Lists of known sites: what fits, and what does not.

use kpkeys_audit::{Difference, Known, audit};

use crate::support::{X86_64, named};

/// `open` writes a constant to PKRS, `any` what it is given, and one is hidden in `plain`.
fn code() -> (Vec<u8>, [(u64, &'static str); 3]) {
    let open = [0xb9, 0xe1, 0x06, 0, 0, 0x31, 0xc0, 0x31, 0xd2, 0x0f, 0x30, 0xc3];
    let any = [0xb9, 0xe1, 0x06, 0, 0, 0x8b, 0x07, 0x31, 0xd2, 0x0f, 0x30, 0xc3];
    let plain = [0xb8, 0x0f, 0x30, 0, 0, 0xc3];
    ([&open[..], &any, &plain].concat(), [(0, "open"), (12, "any \"quoted\""), (24, "plain")])
}

#[test]
fn an_image_fits_the_list_that_was_made_of_it() {
    let (code, names) = code();
    let report = audit(&named(X86_64, &code, &names)).unwrap();
    let text = Known::of(&report).to_toml();
    let expected =
        "\n[sites.\"wrmsr\"]\n'any \"quoted\"' = { memory = 1 }\n\"open\" = { constant = 1 }\n";
    assert_eq!(text, expected);
    let known = Known::parse(&text).unwrap();
    assert_eq!(known, Known::of(&report));
    assert_eq!(known.compare(&report), []);
}

#[test]
fn every_site_more_or_less_is_a_difference() {
    let (mut code, names) = code();
    let known = Known::of(&audit(&named(X86_64, &code, &names)).unwrap());
    // `open` takes its value from memory now; what is hidden in `plain` was never listed.
    code[5..7].copy_from_slice(&[0x8b, 0x07]);
    code[26] = 0;
    let report = audit(&named(X86_64, &code, &names)).unwrap();
    let difference = |function: &str, value: &str, found, listed| Difference {
        kind: "wrmsr".into(),
        function: function.into(),
        value: value.into(),
        found,
        listed,
    };
    assert_eq!(
        known.compare(&report),
        [difference("open", "constant", 0, 1), difference("open", "memory", 1, 0),]
    );
    let unknown: Vec<_> =
        known.compare(&report).into_iter().filter(Difference::is_unknown).collect();
    assert_eq!(report.count(|site| unknown.iter().any(|one| one.is_about(site))), 1);
}

#[test]
fn what_is_no_list_is_refused_with_its_line() {
    let error = Known::parse("sites = 3").unwrap_err().to_string();
    assert!(error.contains("line 1"), "{error}");
    let error = Known::parse("[sites.wrmsr]\nf = { memory = \"two\" }").unwrap_err().to_string();
    assert!(error.contains("line 2"), "{error}");
    let error = Known::parse("site = {}").unwrap_err().to_string();
    assert!(error.contains("unknown field `site`"), "{error}");
}
