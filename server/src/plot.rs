//! Curves and points as a PNG: panels beside one another, one colour for a series in all of them.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use plotters::backend::RGBPixel;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::register_font;

/// Pixels of a panel.
const WIDTH: u32 = 1000;
const HEIGHT: u32 = 760;
/// Height of the strip above a panel that names its series.
const LEGEND: u32 = 56;
/// Roboto, reduced to Latin letters; its licence lies beside it.
const FONT: &[u8] = include_bytes!("../assets/Roboto-Latin.ttf");
const FAMILY: &str = "roboto";
/// Colours that people who see fewer of them tell apart, too (Okabe and Ito, 2008).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
    RGBColor(204, 121, 167),
    RGBColor(0, 0, 0),
];
const GREY: RGBColor = RGBColor(215, 215, 215);

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// It could not be drawn.
    #[error("the plot cannot be drawn: {0}")]
    Draw(String),
    /// It could not be written.
    #[error("cannot write --png {}: {error}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's words.
        error: std::io::Error,
    },
}

/// Where values lie along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scale {
    /// From zero on.
    Linear,
    /// By their logarithm; what has none lies below all others.
    Log,
    /// Side by side, whatever is between them.
    Steps,
}

/// An axis and what it is called.
#[derive(Clone, Debug)]
pub struct Axis {
    name: String,
    scale: Scale,
}

impl Axis {
    /// Values from zero on.
    pub fn linear(name: &str) -> Self {
        Self { name: name.to_owned(), scale: Scale::Linear }
    }

    /// Values by their logarithm; zero lies below all others.
    pub fn log(name: &str) -> Self {
        Self { name: name.to_owned(), scale: Scale::Log }
    }

    /// Values side by side, such as powers of two.
    pub fn steps(name: &str) -> Self {
        Self { name: name.to_owned(), scale: Scale::Steps }
    }

    /// The axis for these values.
    fn ruler(&self, values: impl Iterator<Item = f64>) -> Ruler {
        let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        values.dedup();
        let largest = values.last().copied().unwrap_or(0.0);
        let (low, high, ticks) = match self.scale {
            Scale::Linear => {
                let high = if largest > 0.0 { largest * 1.08 } else { 1.0 };
                let low = values.first().copied().unwrap_or(0.0).min(0.0);
                let step = round_step((high - low) / 6.0);
                let ticks = (0..).map(|i| f64::from(i) * step + (low / step).ceil() * step);
                (low, high, ticks.take_while(|tick| *tick <= high).collect())
            }
            Scale::Log => {
                let least = values.iter().copied().find(|value| *value > 0.0).unwrap_or(1.0);
                let (low, high) = (least.log10().floor(), largest.max(least).log10().ceil());
                let high = high.max(low + 1.0);
                let ticks = (low as i32..=high as i32).map(|power| 10f64.powi(power));
                let below = if values.first().is_some_and(|value| *value <= 0.0) { 0.5 } else { 0.0 };
                (low - below, high, ticks.collect())
            }
            Scale::Steps => (-0.25, values.len().max(1) as f64 - 0.75, values),
        };
        Ruler { scale: self.scale, low, high, ticks }
    }
}

/// 1, 2 or 5 times a power of ten, not below `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= step);
    factor.unwrap_or(10.0) * power
}

/// An axis with its ends and ticks.
struct Ruler {
    scale: Scale,
    low: f64,
    high: f64,
    /// Values, in increasing order.
    ticks: Vec<f64>,
}

impl Ruler {
    /// Where a value lies between the ends.
    fn place(&self, value: f64) -> f64 {
        let place = match self.scale {
            Scale::Linear => value,
            Scale::Log if value > 0.0 => value.log10(),
            Scale::Log => self.low + 0.25,
            Scale::Steps => self.ticks.iter().position(|tick| *tick >= value).unwrap_or(0) as f64,
        };
        place.clamp(self.low, self.high)
    }
}

impl Ranged for Ruler {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (self.place(*value) - self.low) / (self.high - self.low);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { vec![] } else { self.ticks.clone() }
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.ticks.first().copied().unwrap_or(0.0)..self.ticks.last().copied().unwrap_or(0.0)
    }
}

impl ValueFormatter<f64> for Ruler {
    fn format_ext(&self, tick: &f64) -> String {
        match self.scale {
            Scale::Log => format!("{tick:e}"),
            Scale::Linear | Scale::Steps => format!("{}", (tick * 1e6).round() / 1e6),
        }
    }
}

/// Points of one kind, joined by a line where there are several.
#[derive(Clone, Debug)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Points, in the order in which they are joined.
    pub points: Vec<(f64, f64)>,
}

/// One chart.
#[derive(Clone, Debug)]
pub struct Panel {
    /// What it shows.
    pub title: String,
    /// Horizontal axis.
    pub x: Axis,
    /// Vertical axis.
    pub y: Axis,
    /// What is drawn.
    pub series: Vec<Series>,
}

/// A file for a picture, made before the picture is: nobody measures for hours and then learns of a wrong path.
#[derive(Debug)]
pub struct Picture {
    path: PathBuf,
    file: File,
}

impl Picture {
    /// Makes the file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn create(path: &Path) -> Result<Self, PlotError> {
        let file = File::create(path).map_err(|error| PlotError::Write { path: path.to_owned(), error })?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Draws panels side by side into it.
    ///
    /// # Errors
    /// They cannot be drawn or written.
    pub fn write(mut self, panels: &[Panel]) -> Result<(), PlotError> {
        let bytes = png(panels)?;
        self.file.write_all(&bytes).map_err(|error| PlotError::Write { path: self.path, error })
    }
}

/// Panels side by side as the bytes of a PNG file.
///
/// # Errors
/// They cannot be drawn.
pub fn png(panels: &[Panel]) -> Result<Vec<u8>, PlotError> {
    let wrong = |e: &dyn std::fmt::Display| PlotError::Draw(e.to_string());
    static FONTS: OnceLock<bool> = OnceLock::new();
    if !FONTS.get_or_init(|| register_font(FAMILY, FontStyle::Normal, FONT).is_ok()) {
        return Err(PlotError::Draw("the font is damaged".to_owned()));
    }
    let width = WIDTH * panels.len().max(1) as u32;
    let mut pixels = vec![0; (width * HEIGHT * 3) as usize];
    {
        let backend = BitMapBackend::<RGBPixel>::with_buffer_and_format(&mut pixels, (width, HEIGHT));
        let root = backend.map_err(|e| wrong(&e))?.into_drawing_area();
        root.fill(&WHITE).map_err(|e| wrong(&e))?;
        for (area, panel) in root.split_evenly((1, panels.len().max(1))).iter().zip(panels) {
            draw(area, panel).map_err(|e| wrong(&e))?;
        }
        root.present().map_err(|e| wrong(&e))?;
    }
    let mut bytes = vec![];
    let mut encoder = png::Encoder::new(&mut bytes, width, HEIGHT);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(&pixels));
    written.map_err(|e| wrong(&e))?;
    Ok(bytes)
}

type Area<'a> = DrawingArea<BitMapBackend<'a, RGBPixel>, Shift>;

fn draw(area: &Area<'_>, panel: &Panel) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let points = || panel.series.iter().flat_map(|series| series.points.iter().copied());
    let (x, y) = (panel.x.ruler(points().map(|point| point.0)), panel.y.ruler(points().map(|point| point.1)));
    let text = |size: u32| (FAMILY, size).into_font();
    let area = area.margin(16, 0, 0, 0).titled(&panel.title, text(32))?;
    let (legend, area) = area.split_vertically(LEGEND);
    let mut chart = ChartBuilder::on(&area)
        .margin_left(20)
        .margin_right(40)
        .margin_bottom(20)
        .x_label_area_size(70)
        .y_label_area_size(110)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .x_desc(panel.x.name.as_str())
        .y_desc(panel.y.name.as_str())
        .label_style(text(24))
        .axis_desc_style(text(26))
        .bold_line_style(GREY)
        .light_line_style(TRANSPARENT)
        .draw()?;
    let mut at = 130;
    for (i, series) in panel.series.iter().enumerate() {
        // Later series are thinner, so that those in the same place are all seen.
        let (colour, wider) = (COLOURS[i % COLOURS.len()], (panel.series.len() - 1 - i).min(6) as u32);
        chart.draw_series(LineSeries::new(series.points.iter().copied(), colour.stroke_width(2 + 3 * wider)))?;
        chart.draw_series(
            series.points.iter().map(|point| Circle::new(*point, 7 + 2 * wider as i32, colour.filled())),
        )?;
        let (label, middle) = (text(26).color(&BLACK), LEGEND as i32 / 2);
        legend.draw(&Circle::new((at, middle), 9, colour.filled()))?;
        legend.draw(&Text::new(series.name.as_str(), (at + 18, middle - 8), label.clone()))?;
        at += legend.estimate_text_size(&series.name, &label)?.0 as i32 + 60;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_values_lie_where_they_belong() {
        let linear = Axis::linear("").ruler([3072.0, 1632.0].into_iter());
        assert_eq!(linear.ticks, [0.0, 1000.0, 2000.0, 3000.0]);
        let log = Axis::log("").ruler([0.0, 3e-5, 2e-3].into_iter());
        assert_eq!((log.low, log.high, log.place(0.0), log.place(1e-4)), (-5.5, -2.0, -5.25, -4.0));
        assert_eq!(
            log.ticks.iter().map(|tick| log.format_ext(tick)).collect::<Vec<_>>(),
            ["1e-5", "1e-4", "1e-3", "1e-2"]
        );
        let steps = Axis::steps("").ruler([4096.0, 0.0, 512.0, 512.0].into_iter());
        assert_eq!((steps.place(512.0), steps.place(4096.0), steps.format_ext(&4096.0).as_str()), (1.0, 2.0, "4096"));
    }

    #[test]
    fn a_picture_has_its_colours_and_its_size() {
        let series = |name: &str, y: f64| Series { name: name.to_owned(), points: vec![(0.0, y), (512.0, y / 2.0)] };
        let panel = |series: Vec<Series>| Panel {
            title: "speed".to_owned(),
            x: Axis::steps("depth"),
            y: Axis::linear("tok/s"),
            series,
        };
        let bytes = png(&[panel(vec![series("f16", 10.0), series("q8", 20.0)]), panel(vec![])]).expect("it is drawn");
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().expect("a PNG");
        let mut pixels = vec![0; reader.output_buffer_size().expect("a size")];
        let info = reader.next_frame(&mut pixels).expect("a picture");
        assert_eq!((info.width, info.height), (2 * WIDTH, HEIGHT));
        let count = |colour: RGBColor| pixels.chunks_exact(3).filter(|p| **p == [colour.0, colour.1, colour.2]).count();
        assert!(count(COLOURS[0]) > 1000 && count(COLOURS[1]) > 1000 && count(COLOURS[2]) == 0);
        assert!(count(BLACK) > 500, "text is drawn");
    }

    #[test]
    fn a_folder_that_is_not_there() {
        let error = Picture::create(Path::new("no/such/folder/a.png")).expect_err("it cannot be written");
        assert!(error.to_string().contains("no/such/folder/a.png"), "{error}");
    }
}
