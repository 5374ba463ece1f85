//! The reference kernel's command line, from the kernel's own source. What that names of the kernel is here as far as a line can name it.

#![allow(dead_code, reason = "the kernel uses the rest")]

#[path = "../../../kernel/src/console/frame_buffer.rs"]
pub mod frame_buffer;
#[path = "../../../kernel/src/start/command_line.rs"]
mod words;

/// Words are refused by name, and every word that is none is named.
pub fn command_line(bytes: &[u8]) {
    let line = String::from_utf8_lossy(bytes);
    match words::parse(&line) {
        Ok(options) => {
            let _ = (options.mode(), options.backend());
        }
        Err(error) => {
            let text = error.to_string();
            let names = |word: &str| text.contains(&format!("`{word}`"));
            let is_named =
                line.split_whitespace().any(names) || text.contains("quotation without end");
            assert!(is_named, "{text}");
        }
    }
}

/// `crate::arch` of the kernel: the backends of x86-64, by name.
pub mod arch {
    /// As there.
    pub mod backend {
        /// Which backend.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Choice {
            /// Keys.
            Pks,
            /// Nothing.
            None,
        }

        impl Choice {
            /// Each.
            pub const ALL: [Choice; 2] = [Choice::Pks, Choice::None];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self {
                    Choice::Pks => "pks",
                    Choice::None => "none",
                }
            }

            /// The one of a name.
            pub fn from_name(name: &str) -> Option<Choice> {
                Choice::ALL.into_iter().find(|choice| choice.name() == name)
            }

            /// The best.
            pub fn best() -> Choice {
                Choice::Pks
            }
        }
    }
}

/// `crate::console` of the kernel.
pub mod console {
    pub use super::frame_buffer;
}

/// `crate::program` of the kernel.
pub mod program {
    /// As there.
    pub mod command {
        /// What is to be run.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Command {
            /// The program and its arguments.
            pub words: Vec<String>,
            /// A person is at the other end of the serial line.
            pub interactive: bool,
        }
    }
}

/// `crate::evidence` of the kernel.
pub mod evidence {
    /// As there.
    pub mod bench {
        /// What is timed or counted.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Request {
            /// Which rows.
            pub rows: Vec<usize>,
            /// What the number of loops is divided by.
            pub scale: u64,
            /// Iterations of each row.
            pub iterations: u32,
            /// Counts in place of times.
            pub count: bool,
        }
    }
}
