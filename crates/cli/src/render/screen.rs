//! What a table is printed on: how wide it is, and whether it has colours.

use std::io;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

/// Where a table for people goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Screen {
    /// Its width; none where there is no terminal, and a table is as wide as it is.
    pub columns: Option<usize>,
    /// Whether it may be given colours.
    pub colour: bool,
}

impl Screen {
    /// A file or a pipe.
    pub const FULL: Screen = Screen { columns: None, colour: false };

    /// Standard output: a terminal, with colours unless `NO_COLOR` or `TERM` forbid them, or a pipe.
    pub fn of_stdout() -> Screen {
        let size = terminal_size::terminal_size_of(io::stdout());
        Screen {
            columns: size.map(|(width, _)| usize::from(width.0)),
            colour: AutoStream::choice(&io::stdout()) != ColorChoice::Never,
        }
    }

    /// Gives the flags in a table their colours: slower red, faster green. Not for prose, where names of CPUs have such marks too.
    pub fn paint(self, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let marks = [("(R)", AnsiColor::Red), ("(I)", AnsiColor::Green)];
        marks.into_iter().fold(text.to_owned(), |text, (mark, colour)| {
            text.replace(mark, &self.painted(mark, colour))
        })
    }

    /// A text in one colour, if there are any.
    pub fn painted(self, text: &str, colour: AnsiColor) -> String {
        let style = if self.colour { colour.on_default() } else { Style::new() };
        format!("{style}{text}{style:#}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_screens_that_have_them() {
        let colour = Screen { columns: Some(80), colour: true };
        assert_eq!(colour.paint("+1.0 (R)"), "+1.0 \u{1b}[31m(R)\u{1b}[0m");
        assert_eq!(Screen::FULL.paint("+1.0 (R)"), "+1.0 (R)");
        assert_eq!(Screen::FULL.painted("B", AnsiColor::Green), "B");
    }
}
