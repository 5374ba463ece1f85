//! Axes and marks of a picture, drawn by plotters' SVG backend.
//!
//! A picture is drawn in colours that stand for what they mean, and each is then replaced by a variable of the style sheet: so one picture
//! is right by day, by night and in print.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// What a colour is for: the colour drawn, its variable, and its value by day and by night.
const COLOURS: [(RGBColor, &str, &str, &str); 8] = [
    (INK, "--ink", "#1b1f24", "#e6e8eb"),
    (FAINT, "--faint", "#c9ced6", "#454c56"),
    (PUBLISHED, "--published", "#6a737d", "#9aa4b0"),
    (SERIES[0], "--series-0", "#b3261e", "#ff8a80"),
    (SERIES[1], "--series-1", "#0b62c4", "#6cb2ff"),
    (SERIES[2], "--series-2", "#1a7f37", "#63d483"),
    (SERIES[3], "--series-3", "#7a3db8", "#c79bff"),
    (SERIES[4], "--series-4", "#9a6700", "#e3b341"),
];

/// Text and axes.
pub const INK: RGBColor = RGBColor(1, 1, 1);
/// Lines of the grid.
pub const FAINT: RGBColor = RGBColor(2, 2, 2);
/// What others published.
pub const PUBLISHED: RGBColor = RGBColor(3, 3, 3);
const SERIES: [RGBColor; 5] =
    [RGBColor(4, 4, 4), RGBColor(5, 5, 5), RGBColor(6, 6, 6), RGBColor(7, 7, 7), RGBColor(8, 8, 8)];

/// The colour of the mode at that place in the columns.
pub fn series(index: usize) -> RGBColor {
    SERIES[index % SERIES.len()]
}

/// The variables by day, and by night, as a style sheet has them.
pub fn variables() -> [String; 2] {
    let day = COLOURS.iter().map(|(_, name, day, _)| format!("{name}:{day};"));
    let night = COLOURS.iter().map(|(_, name, _, night)| format!("{name}:{night};"));
    [day.collect(), night.collect()]
}

/// A picture as a file of its own, which follows the reader's colour scheme.
pub fn by_itself(svg: &str) -> String {
    let [day, night] = variables();
    let style = format!(
        "<style>svg{{{day}font-family:sans-serif}}@media(prefers-color-scheme:dark){{svg{{{night}}}}}</style>"
    );
    match svg.find('>') {
        Some(end) => format!("{}{style}{}\n", &svg[..=end], &svg[end + 1..]),
        None => svg.to_owned(),
    }
}

/// How values become places.
#[derive(Clone, Copy)]
pub enum Scale {
    /// In proportion.
    Linear,
    /// By logarithm, of values above 0.
    Log,
    /// By logarithm in both directions from 0, in proportion between -1 and 1.
    Symlog,
}

impl Scale {
    fn of(self, value: f64) -> f64 {
        match self {
            Scale::Linear => value,
            Scale::Log => value.max(f64::MIN_POSITIVE).log10(),
            Scale::Symlog if value.abs() <= 1.0 => value,
            Scale::Symlog => value.signum() * (1.0 + value.abs().log10()),
        }
    }

    /// Round values between these, for the lines of a grid.
    fn ticks(self, low: f64, high: f64) -> Vec<f64> {
        let inside = |tick: &f64| *tick >= low && *tick <= high;
        match self {
            Scale::Linear => {
                let step = 10_f64.powf((high - low).max(1e-9).log10().floor());
                let step = if (high - low) / step < 3.0 { step / 4.0 } else { step };
                let first = (low / step).ceil() as i64;
                (first..first + 24).map(|n| n as f64 * step).filter(inside).collect()
            }
            Scale::Log => (-3..=15).map(|n| 10_f64.powi(n)).filter(inside).collect(),
            Scale::Symlog => {
                let sizes = (0..=6).map(|n| 10_f64.powi(n)).flat_map(|size| [-size, size]);
                let mut ticks: Vec<f64> = sizes.chain([0.0]).filter(inside).collect();
                ticks.sort_by(f64::total_cmp);
                ticks
            }
        }
    }
}

/// Values from left to right, or from bottom to top.
#[derive(Clone, Copy)]
pub struct Axis {
    /// How they become places.
    pub scale: Scale,
    /// The smallest.
    pub low: f64,
    /// The largest.
    pub high: f64,
}

impl Axis {
    /// An axis that holds all of these, 0 too where the scale has one, with a little room.
    pub fn holding(scale: Scale, values: impl Iterator<Item = f64>) -> Axis {
        let origin = (!matches!(scale, Scale::Log)).then_some(0.0);
        let values: Vec<f64> = values.chain(origin).filter(|value| value.is_finite()).collect();
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (low, high) = match scale {
            _ if values.is_empty() => (0.0, 1.0),
            Scale::Log => (low / 1.3, high * 1.3),
            Scale::Linear => (low, high + (high - low).max(1e-6) * 0.05),
            Scale::Symlog => (low.min(-1.0) * 1.2, high.max(1.0) * 1.4),
        };
        Axis { scale, low, high }
    }

    fn share(&self, value: f64) -> f64 {
        let [low, high, value] = [self.low, self.high, value].map(|value| self.scale.of(value));
        (value - low) / (high - low)
    }
}

/// Where a picture's field lies between its margins.
pub struct Field {
    /// The picture's width.
    pub width: u32,
    /// Its height.
    pub height: u32,
    /// Left, right, top and bottom.
    pub margins: [u32; 4],
}

/// A picture that is being drawn.
pub struct Canvas<'s> {
    root: DrawingArea<SVGBackend<'s>, plotters::coord::Shift>,
    field: Field,
}

/// What drawing into a string cannot do is fail: the only errors of the backend are of files.
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// Draws a picture and gives its text, colours replaced by variables.
pub fn picture(field: Field, draw: impl FnOnce(&Canvas<'_>) -> Drawn) -> Option<String> {
    let mut svg = String::new();
    let size = (field.width, field.height);
    let drawn = {
        let canvas =
            Canvas { root: SVGBackend::with_string(&mut svg, size).into_drawing_area(), field };
        draw(&canvas).and_then(|()| canvas.root.present())
    };
    drawn.ok()?;
    let themed = COLOURS.iter().fold(svg, |svg, (colour, variable, ..)| {
        let drawn = format!("\"#{:02X}{:02X}{:02X}\"", colour.0, colour.1, colour.2);
        svg.replace(&drawn, &format!("\"var({variable})\""))
    });
    Some(themed)
}

impl Canvas<'_> {
    /// The place of a value from left to right.
    pub fn x(&self, axis: &Axis, value: f64) -> i32 {
        let [left, right, ..] = self.field.margins;
        let room = f64::from(self.field.width - left - right);
        left as i32 + (axis.share(value) * room).round() as i32
    }

    /// The place of a value from bottom to top.
    pub fn y(&self, axis: &Axis, value: f64) -> i32 {
        let [_, _, top, bottom] = self.field.margins;
        let room = f64::from(self.field.height - top - bottom);
        (self.field.height - bottom) as i32 - (axis.share(value) * room).round() as i32
    }

    /// Lines of a grid with their values below, and what they are.
    pub fn x_axis(&self, axis: &Axis, title: &str, label: impl Fn(f64) -> String) -> Drawn {
        let [left, right, top, bottom] = self.field.margins.map(|margin| margin as i32);
        let floor = self.field.height as i32 - bottom;
        for tick in axis.scale.ticks(axis.low, axis.high) {
            let x = self.x(axis, tick);
            self.line((x, top), (x, floor), if tick == 0.0 { INK } else { FAINT }, 1)?;
            self.text((x, floor + 6), &label(tick), INK, HPos::Center, VPos::Top)?;
        }
        let middle = (left + self.field.width as i32 - right) / 2;
        self.text((middle, floor + 24), title, INK, HPos::Center, VPos::Top)
    }

    /// The same from bottom to top.
    pub fn y_axis(&self, axis: &Axis, title: &str, label: impl Fn(f64) -> String) -> Drawn {
        let [left, right, top, _] = self.field.margins.map(|margin| margin as i32);
        let end = self.field.width as i32 - right;
        for tick in axis.scale.ticks(axis.low, axis.high) {
            let y = self.y(axis, tick);
            self.line((left, y), (end, y), if tick == 0.0 { INK } else { FAINT }, 1)?;
            self.text((left - 6, y), &label(tick), INK, HPos::Right, VPos::Center)?;
        }
        self.text((left, top - 8), title, INK, HPos::Left, VPos::Bottom)
    }

    /// A straight line.
    pub fn line(&self, from: (i32, i32), to: (i32, i32), colour: RGBColor, width: u32) -> Drawn {
        self.root.draw(&PathElement::new([from, to], colour.stroke_width(width)))
    }

    /// A dot, filled or not, more or less opaque.
    pub fn dot(&self, at: (i32, i32), radius: i32, colour: RGBColor, opacity: f64) -> Drawn {
        self.root.draw(&Circle::new(at, radius, colour.mix(opacity).filled()))
    }

    /// A diamond.
    pub fn diamond(&self, (x, y): (i32, i32), size: i32, colour: RGBColor) -> Drawn {
        let corners = [(x - size, y), (x, y - size), (x + size, y), (x, y + size), (x - size, y)];
        self.root.draw(&PathElement::new(corners, colour.stroke_width(2)))
    }

    /// A text beside a place.
    pub fn text(&self, at: (i32, i32), text: &str, colour: RGBColor, h: HPos, v: VPos) -> Drawn {
        let style = ("sans-serif", 13).into_font().color(&colour).pos(Pos::new(h, v));
        self.root.draw(&Text::new(text.to_owned(), at, style))
    }

    /// A text that ends left of a place.
    pub fn label(&self, at: (i32, i32), text: &str) -> Drawn {
        self.text(at, text, INK, HPos::Right, VPos::Center)
    }

    /// A text that begins right of a place.
    pub fn note(&self, at: (i32, i32), text: &str) -> Drawn {
        self.text(at, text, INK, HPos::Left, VPos::Center)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_with_both_signs_is_smooth_at_one_and_keeps_order() {
        let places: Vec<f64> = [-100.0, -1.0, 0.0, 0.5, 1.0, 10.0, 1000.0]
            .map(|value| Scale::Symlog.of(value))
            .to_vec();
        assert_eq!(places, [-3.0, -1.0, 0.0, 0.5, 1.0, 2.0, 4.0]);
    }

    #[test]
    fn ticks_lie_inside() {
        assert_eq!(Scale::Symlog.ticks(-5.0, 200.0), [-1.0, 0.0, 1.0, 10.0, 100.0]);
        assert_eq!(Scale::Log.ticks(5.0, 2000.0), [10.0, 100.0, 1000.0]);
        assert_eq!(Scale::Linear.ticks(0.0, 100.0).len(), 5);
    }

    #[test]
    fn colours_become_variables() {
        let field = Field { width: 100, height: 50, margins: [10; 4] };
        let svg = picture(field, |canvas| canvas.line((0, 0), (9, 9), INK, 1)).unwrap();
        assert!(svg.contains("stroke=\"var(--ink)\"") && !svg.contains("#010101"), "{svg}");
        assert!(by_itself(&svg).contains("--ink:#1b1f24"));
    }
}
