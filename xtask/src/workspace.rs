//! Where the workspace is.

use std::path::Path;

/// The root of the checkout: the parent of this package's folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace")
}
