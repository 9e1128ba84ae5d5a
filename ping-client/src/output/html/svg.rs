//! The parts of a chart: axes, shapes and their values under the pointer, as SVG text.
//!
//! Charts are written by hand, because a plotting library gives shapes neither titles nor classes, which readers with a
//! pointer, a screen reader or a dark page need; and it takes longer to build than the rest of the report.

use std::fmt::{self, Display, Write};

use crate::units::digits;

use super::escape;

/// The width of a chart in its own units; the page scales it to the window.
pub(super) const WIDTH: f64 = 860.0;

const LEFT: f64 = 58.0;
const RIGHT: f64 = 18.0;
const BOTTOM: f64 = 40.0;

/// How many marks an axis has, about.
const MARKS: f64 = 6.0;

/// No axis has more.
const MAX_MARKS: u32 = 100;

/// How values become places on an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scale {
    Linear {
        from: f64,
        to: f64,
    },
    /// Both ends are above zero.
    Log {
        from: f64,
        to: f64,
    },
}

impl Scale {
    /// A scale from zero for times up to `max`; or a logarithmic one from `min`, if the highest would make the usual
    /// ones too small to see.
    pub(super) fn of_times(min: f64, usual: f64, max: f64) -> Self {
        let min = min.max(1e-6);
        match max > 20.0 * usual && usual > 0.0 {
            true => Self::Log { from: min / 1.2, to: max * 1.2 },
            false => Self::Linear { from: 0.0, to: (max * 1.08).max(1e-6) },
        }
    }

    /// The place of a value, from 0 to 1.
    fn place(self, value: f64) -> f64 {
        match self {
            Self::Linear { from, to } => (value - from) / (to - from),
            Self::Log { from, to } => (value.max(from) / from).ln() / (to / from).ln(),
        }
        .clamp(0.0, 1.0)
    }

    /// Round values along the axis.
    fn marks(self) -> Vec<f64> {
        match self {
            Self::Linear { from, to } if to <= from => Vec::new(),
            Self::Linear { from, to } => {
                let rough = (to - from) / MARKS;
                let magnitude = 10_f64.powf(rough.log10().floor());
                let step =
                    [1.0, 2.0, 5.0, 10.0].map(|factor| factor * magnitude).into_iter().find(|step| *step >= rough);
                let step = step.unwrap_or(10.0 * magnitude);
                let first = (from / step).ceil();
                let marks = (0..MAX_MARKS).map(|n| (first + f64::from(n)) * step);
                marks.take_while(|mark| *mark <= to * (1.0 + 1e-9)).collect()
            }
            Self::Log { from, to } => {
                let decades = from.log10().floor() as i32..=to.log10().ceil() as i32;
                let factors: &[f64] = match to / from {
                    1e3.. => &[1.0],
                    10.0.. => &[1.0, 2.0, 5.0],
                    _ => &[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0],
                };
                let marks = decades.flat_map(|decade| factors.iter().map(move |factor| factor * 10_f64.powi(decade)));
                marks.filter(|mark| (from..=to).contains(mark)).collect()
            }
        }
    }
}

/// A chart that is being drawn: panels above each other, with one axis below.
pub(super) struct Chart {
    title: String,
    body: String,
    height: f64,
    x: Scale,
}

/// A part of a chart, with an axis at its left.
#[derive(Clone, Copy)]
pub(super) struct Panel {
    top: f64,
    height: f64,
    x: Scale,
    y: Scale,
}

impl Panel {
    pub(super) fn x(&self, value: f64) -> f64 {
        LEFT + self.x.place(value) * (WIDTH - LEFT - RIGHT)
    }

    pub(super) fn y(&self, value: f64) -> f64 {
        self.top + self.height * (1.0 - self.y.place(value))
    }

    pub(super) fn top(&self) -> f64 {
        self.top
    }

    pub(super) fn bottom(&self) -> f64 {
        self.top + self.height
    }
}

impl Chart {
    /// A chart with this axis below; `title` says what it shows to those who cannot see it.
    pub(super) fn new(title: impl Display, x: Scale) -> Self {
        Self { title: title.to_string(), body: String::new(), height: 14.0, x }
    }

    /// Adds SVG text.
    pub(super) fn draw(&mut self, shape: fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.body.write_fmt(shape);
        self.body.push('\n');
    }

    /// Adds a panel below the others, with the marks of its axis, and `name` above them.
    pub(super) fn panel(&mut self, name: &str, height: f64, y: Scale) -> Panel {
        let panel = Panel { top: self.height + 14.0, height, x: self.x, y };
        self.draw(format_args!("<text x=\"4\" y=\"{:.1}\" class=\"name\">{}</text>", self.height + 6.0, escape(name)));
        for mark in y.marks() {
            let at = panel.y(mark);
            self.draw(format_args!("<path class=\"grid\" d=\"M{LEFT} {at:.1}H{:.1}\"/>", WIDTH - RIGHT));
            let label = digits_short(mark);
            self.draw(format_args!("<text x=\"{:.1}\" y=\"{:.1}\" class=\"end\">{label}</text>", LEFT - 6.0, at + 4.0));
        }
        self.height = panel.bottom() + 22.0;
        panel
    }

    /// Adds a line through points, in parts.
    pub(super) fn line(&mut self, class: &str, parts: &[Vec<(f64, f64)>]) {
        let mut path = String::new();
        for part in parts {
            for (n, (x, y)) in part.iter().enumerate() {
                let _ = write!(path, "{}{x:.1} {y:.1}", if n == 0 { 'M' } else { 'L' });
            }
        }
        self.draw(format_args!("<path class=\"{class}\" d=\"{path}\"/>"));
        for (x, y) in parts.iter().filter(|part| part.len() == 1).flatten() {
            self.draw(format_args!("<circle class=\"{class} dot\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"1.8\"/>"));
        }
    }

    /// Fills between two lines, in parts.
    pub(super) fn band(&mut self, class: &str, parts: &[Vec<(f64, f64, f64)>]) {
        let mut path = String::new();
        for part in parts.iter().filter(|part| part.len() > 1) {
            let upper = part.iter().map(|(x, _, upper)| (x, upper));
            let lower = part.iter().rev().map(|(x, lower, _)| (x, lower));
            for (n, (x, y)) in upper.chain(lower).enumerate() {
                let _ = write!(path, "{}{x:.1} {y:.1}", if n == 0 { 'M' } else { 'L' });
            }
            path.push('Z');
        }
        self.draw(format_args!("<path class=\"{class}\" d=\"{path}\"/>"));
        for (x, lower, upper) in parts.iter().filter(|part| part.len() == 1).flatten() {
            self.draw(format_args!("<path class=\"{class} stick\" d=\"M{x:.1} {lower:.1}V{upper:.1}\"/>"));
        }
    }

    /// Adds a rectangle with a value under the pointer.
    pub(super) fn rect(&mut self, class: &str, (x, y): (f64, f64), (width, height): (f64, f64), value: &str) {
        let value = escape(value);
        self.draw(format_args!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\">\
             <title>{value}</title></rect>",
            width.max(0.7),
            height.max(0.0),
        ));
    }

    /// The chart, with the axis below named, and these marks on it or round ones.
    pub(super) fn finish(mut self, name: &str, marks: Option<Vec<(f64, String)>>) -> String {
        let y = self.height - 2.0;
        let x = |value: f64| LEFT + self.x.place(value) * (WIDTH - LEFT - RIGHT);
        let round = || self.x.marks().into_iter().map(|mark| (mark, digits_short(mark))).collect();
        let places: Vec<_> = marks.unwrap_or_else(round).into_iter().map(|(value, label)| (x(value), label)).collect();
        for (at, label) in places {
            self.draw(format_args!("<path class=\"grid\" d=\"M{at:.1} {:.1}v5\"/>", y - 20.0));
            // At the edge, a label in the middle of its mark would be cut.
            let class = if at > WIDTH - 40.0 { "end" } else { "middle" };
            let at = if at > WIDTH - 40.0 { at + 6.0 } else { at };
            self.draw(format_args!("<text x=\"{at:.1}\" y=\"{:.1}\" class=\"{class}\">{label}</text>", y - 1.0));
        }
        let middle = LEFT + (WIDTH - LEFT - RIGHT) / 2.0;
        self.draw(format_args!(
            "<text x=\"{middle:.1}\" y=\"{:.1}\" class=\"middle name\">{}</text>",
            y + 18.0,
            escape(name)
        ));
        format!(
            "<svg viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\" aria-label=\"{}\">\n{}</svg>",
            self.height + BOTTOM - 18.0,
            escape(&self.title),
            self.body
        )
    }
}

/// A number on an axis, without zeros that say nothing.
fn digits_short(number: f64) -> String {
    let text = digits(number);
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_marks() {
        assert_eq!(Scale::Linear { from: 0.0, to: 10.0 }.marks(), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        let marks = Scale::Log { from: 0.5, to: 30.0 }.marks();
        assert_eq!(
            marks.iter().map(|mark| digits_short(*mark)).collect::<Vec<_>>(),
            ["0.5", "1", "2", "5", "10", "20"]
        );
        assert_eq!(Scale::Log { from: 0.05, to: 3000.0 }.marks().len(), 5);
        assert!(Scale::Linear { from: 0.0, to: f64::MAX }.marks().len() <= MAX_MARKS as usize);
    }

    #[test]
    fn an_outlier_makes_the_scale_logarithmic() {
        assert!(matches!(Scale::of_times(0.1, 0.2, 3.9), Scale::Linear { .. }));
        let scale = Scale::of_times(0.1, 0.2, 700.0);
        assert!(matches!(scale, Scale::Log { .. }));
        assert!((scale.place(700.0) - scale.place(7.0)) < (scale.place(7.0) - scale.place(0.2)) * 2.0);
    }
}
