//! The page: everything in one file, so that it can be mailed, archived and opened without a network.

use anyhow::Result;
use kpkeys_stats::record::Mode;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde::Serialize;

use super::figures::{self, Figure};
use super::source::Source;
use super::{canvas, tables};

const STYLE: &str = include_str!("page.css");
/// What makes tables sort and modes come and go.
const SCRIPT: &str = include_str!("page.js");

/// The page of these runs.
///
/// # Errors
///
/// A table that cannot be made into JSON.
pub fn page(sources: &[Source]) -> Result<String> {
    let all: Vec<&kpkeys_stats::table::Table> =
        sources.iter().map(|source| &source.table).collect();
    let modes = modes(sources);
    let names: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
    let body = html! {
        a.skip href="#runs" { "to the results" }
        header {
            h1 { "What hardened page tables cost" }
            p { "Page tables that a stray or hostile kernel write cannot change, and what each way to get there adds to an operation." }
            (toggles(&modes))
        }
        main #runs {
            @for (index, source) in sources.iter().enumerate() { (run(source, index)) }
            (method())
        }
    };
    document(&names.join(", "), &all, &body)
}

/// A page that needs nothing but itself: its style, its script, and the data that it shows.
///
/// # Errors
///
/// Data that cannot be made into JSON.
pub fn document(title: &str, data: &impl Serialize, body: &Markup) -> Result<String> {
    // Inside a script element only its end could be mistaken.
    let data = serde_json::to_string(data)?.replace("</", "<\\/");
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                link rel="icon" href="data:,";
                title { "kpkeys: " (title) }
                style { (PreEscaped(style())) }
            }
            body {
                (body)
                script type="application/json" id="data" { (PreEscaped(data)) }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    Ok(page.into_string())
}

fn modes(sources: &[Source]) -> Vec<Mode> {
    let shown = |mode: &Mode| {
        sources.iter().any(|source| source.table.rows.iter().any(|row| row.effect(*mode).is_some()))
    };
    Mode::ALL.into_iter().filter(shown).collect()
}

/// The style sheet, colours by day and by night included.
fn style() -> String {
    let [day, night] = canvas::variables();
    format!(
        ":root{{{day}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{night}}}}}\n{STYLE}"
    )
}

fn toggles(modes: &[Mode]) -> Markup {
    html! {
        fieldset.toggles {
            legend { "modes shown" }
            @for mode in modes {
                label {
                    input type="checkbox" data-toggle=(mode.name()) checked;
                    " " (if *mode == Mode::Aa { "A/A" } else { mode.name() })
                }
            }
        }
    }
}

fn run(source: &Source, index: usize) -> Markup {
    let id = format!("/{index}");
    let figures = figures::all(source);
    let (effects, others): (Vec<&Figure>, Vec<&Figure>) =
        figures.iter().partition(|figure| figure.mode.is_some());
    let counted =
        source.table.rows.iter().any(|row| row.modes.values().any(|cell| cell.counts.is_some()));
    html! {
        section {
            h2 { (source.name) }
            @if !source.table.gates_hold() {
                p.void role="alert" { "The A/A gate failed: the machine was not steady enough, and this table is void." }
            }
            (tables::machine(&source.table))
            h3 { "Effects" }
            (tables::effects(source, &id))
            @for figure in effects { (picture(figure)) }
            h3 { "Exposure and growth" }
            @for figure in others { (picture(figure)) }
            @if counted {
                h3 { "Counts" }
                (tables::counts(source, &id))
            }
            @if !source.attacks.is_empty() {
                h3 { "Attacks" }
                @for attacks in &source.attacks { (tables::attacks(attacks)) }
            }
        }
    }
}

fn picture(figure: &Figure) -> Markup {
    html! {
        figure data-mode=[figure.mode.map(Mode::name)] {
            div.scroll tabindex="0" role="img" aria-label=(figure.caption) { (PreEscaped(&figure.svg)) }
            figcaption { (figure.caption) }
        }
    }
}

fn method() -> Markup {
    html! {
        section {
            h2 { "Method" }
            ol {
                li { "A block runs every mode once, each in a process or boot of its own; the processes of a row take turns, iteration by iteration, in random order." }
                li { "An iteration is compared with the baseline's of the same turn; a block is the median of these ratios, an effect the mean over blocks." }
                li { "Intervals are Student's t at 95 %. p-values are of the exact sign-flip permutation over blocks, corrected by Holm over the table." }
                li { "(R) slower and (I) faster need p < 0.05 and an interval without 0; (=) means that the 90 % interval lies within ±1 %; without a mark nothing is proven." }
                li { "A/A is the baseline against its own twin. If it shows an effect, the table is void." }
                li { "linux here is what the host's own kernel takes for the same operation, in the same run." }
                li { "Counts are exact, of a build that counts, and do not depend on the machine." }
                li { "An interval covers the noise of one program. Where compiler and linker put the code moves small rows by percents: a headline needs several layouts." }
                li { "backend mock opens windows by an unused register: costs are real, protection is not; attacks are run in a kernel that enforces." }
                li { "† marks a baseline that was mostly recorded on another machine. The JSON of everything is in this page." }
            }
        }
    }
}
