//! Bars of what was measured, as an SVG file.

use std::fmt::Write as _;

/// The colours of the parts, from the first one on: told apart by who sees no colours, too.
const COLOURS: [&str; 5] = ["#4e79a7", "#a0cbe8", "#59a14f", "#f1ce63", "#e15759"];
const WIDTH: f64 = 860.0;
/// Where the bars begin, and how long the longest one is.
const LEFT: f64 = 130.0;
const LONGEST: f64 = 660.0;
const BAR: f64 = 24.0;
const LINE: f64 = 34.0;
/// A part that is narrower has no number in it.
const NARROWEST: f64 = 34.0;
/// What a character of the font takes, roughly.
const CHARACTER: f64 = 7.0;

/// A bar of parts that add up.
pub struct Bar {
    name: String,
    parts: Vec<f64>,
}

impl Bar {
    pub fn new(name: impl Into<String>, parts: impl Into<Vec<f64>>) -> Bar {
        Bar { name: name.into(), parts: parts.into() }
    }

    fn sum(&self) -> f64 {
        self.parts.iter().sum()
    }
}

/// Bars of the same parts and scale.
pub struct Plot {
    title: &'static str,
    parts: &'static [&'static str],
    bars: Vec<Bar>,
}

impl Plot {
    pub fn new(title: &'static str, parts: &'static [&'static str]) -> Plot {
        Plot { title, parts, bars: Vec::new() }
    }

    pub fn add(&mut self, bar: Bar) {
        self.bars.push(bar);
    }

    fn height(&self) -> f64 {
        LINE * (self.bars.len() as f64 + 2.5)
    }

    /// Draws it from this height on.
    fn draw(&self, top: f64, svg: &mut String) -> std::fmt::Result {
        writeln!(
            svg,
            r#"<text x="10" y="{}" font-weight="bold">{}</text>"#,
            top + 16.0,
            self.title
        )?;
        let mut x = LEFT;
        // The last ones in the last colours: an inference looks the same everywhere.
        let colours = &COLOURS[COLOURS.len() - self.parts.len()..];
        for (name, colour) in self.parts.iter().zip(colours) {
            let y = top + LINE;
            writeln!(
                svg,
                r#"<rect x="{x}" y="{}" width="12" height="12" fill="{colour}"/>"#,
                y - 10.0
            )?;
            writeln!(svg, r#"<text x="{}" y="{y}">{name}</text>"#, x + 18.0)?;
            x += 36.0 + CHARACTER * name.len() as f64;
        }
        let longest = self.bars.iter().map(Bar::sum).fold(f64::MIN_POSITIVE, f64::max);
        for (line, bar) in (2u16..).zip(&self.bars) {
            let y = top + LINE * f64::from(line) - LINE / 2.0;
            let middle = y + BAR / 2.0 + 4.0;
            writeln!(svg, r#"<text x="10" y="{middle}">{}</text>"#, bar.name)?;
            let mut x = LEFT;
            for (part, colour) in bar.parts.iter().zip(colours) {
                let width = part / longest * LONGEST;
                writeln!(
                    svg,
                    r#"<rect x="{x:.1}" y="{y}" width="{width:.1}" height="{BAR}" fill="{colour}"/>"#
                )?;
                if width >= NARROWEST {
                    let at = x + width / 2.0;
                    writeln!(
                        svg,
                        r#"<text x="{at:.1}" y="{middle}" text-anchor="middle">{part:.2}</text>"#
                    )?;
                }
                x += width;
            }
            writeln!(svg, r#"<text x="{:.1}" y="{middle}">{:.2}</text>"#, x + 8.0, bar.sum())?;
        }
        Ok(())
    }
}

/// All of them, one below the other.
pub fn svg(plots: &[Plot]) -> Result<String, std::fmt::Error> {
    let height: f64 = plots.iter().map(Plot::height).sum();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let mut top = 10.0;
    for plot in plots {
        plot.draw(top, &mut svg)?;
        top += plot.height();
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}
