//! Every input that was kept, once more: those that reach what no other does, and those that found something.

use kpkeys_fuzz::TARGETS;
use std::fs;
use std::path::Path;

#[test]
fn kept_inputs_find_nothing() {
    for target in &TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
        let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
        let mut inputs = 0;
        for file in files {
            let file = file.unwrap().path();
            eprintln!("{}", file.display());
            (target.run)(&fs::read(&file).unwrap());
            inputs += 1;
        }
        assert!(inputs > 0, "{} has no inputs", target.name);
    }
}
