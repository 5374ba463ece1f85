//! Every example runs, says what it showed, and exits with success.

use std::process::Command;

fn shows(program: &str, blocked: &str) {
    let output = Command::new(program).output().expect("an example that was just built");
    let [said, complaint] =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{program}: {}\n{said}{complaint}", output.status);
    assert!(said.contains(blocked), "{program} does not say `{blocked}`:\n{said}");
}

macro_rules! examples {
    ($($name:ident says $blocked:literal),* $(,)?) => {
        $(#[test] fn $name() { shows(env!(concat!("CARGO_BIN_EXE_", stringify!($name))), $blocked); })*

        #[test]
        fn none_is_left_out() {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bin");
            assert_eq!(std::fs::read_dir(folder).unwrap().count(), [$(stringify!($name)),*].len());
        }
    };
}

examples! {
    first_machine says "fused: the store faulted: Err(Key(Pkey(1)))",
    early_table says "recorded: the store faulted: Err(Key(Pkey(1)))",
    several_cpus says "while CPU 1 had a window open: the store faulted: Err(Key(Pkey(1)))",
    page_fault says "fused: 8 faults handled, and the store faulted: Some(Attack(",
    user_space says "both processes' tables: the store faulted: Err(Key(Pkey(1)))",
    guarded_data says "with a key: the store faulted: Err(Key(Pkey(2)))",
    own_attack says "was refused by fused",
}
