//! The sweep as a drawing: recall and attention mass above bytes per key.

use anyhow::anyhow;
use keysieve::Metric;
use plotters::coord::ranged1d::{KeyPointHint, Ranged};
use plotters::prelude::*;

use super::sweep::{BITS, METRICS, Point};

/// Width and height of a drawing, in pixels.
const SIZE: (u32, u32) = (960, 420);
/// Colours that are told apart without seeing red and green, one for each of [`BITS`].
const COLOURS: [RGBColor; 3] = [
    RGBColor(230, 159, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 0, 0),
];

/// An SVG drawing of two panels. Numbers that are not finite are left out.
pub(super) fn draw(points: &[Point]) -> anyhow::Result<String> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    panels(&area, points).map_err(|error| anyhow!("--svg: {error}"))?;
    drop(area);
    Ok(svg)
}

type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn panels<'a>(
    area: &DrawingArea<SVGBackend<'a>, plotters::coord::Shift>,
    points: &[Point],
) -> Drawn<'a> {
    area.fill(&WHITE)?;
    let (left, right) = area.split_horizontally(SIZE.0 / 2);
    panel(&left, "recall", points, |point| point.recall, None)?;
    let exact = points.iter().map(|point| point.mass_exact).next();
    panel(&right, "attention mass", points, |point| point.mass, exact)?;
    area.present()
}

/// One figure above the bytes, a line for each metric and number of bits; `limit` is what no format passes.
fn panel<'a>(
    area: &DrawingArea<SVGBackend<'a>, plotters::coord::Shift>,
    name: &str,
    points: &[Point],
    figure: fn(&Point) -> f64,
    limit: Option<f64>,
) -> Drawn<'a> {
    let bytes = points.iter().map(|point| point.bytes_per_key);
    let (least, most) = bytes.fold((f64::INFINITY, 0.0f64), |(least, most), bytes| {
        (least.min(bytes), most.max(bytes))
    });
    let top = points.iter().map(figure).chain(limit);
    let top = top.filter(|y| y.is_finite()).fold(0.0, f64::max);
    let top = if top > 0.0 { 1.05 * top } else { 1.0 };
    let mut chart = ChartBuilder::on(area)
        .caption(name, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(44)
        .build_cartesian_2d(Octaves(least..most), 0.0..top)?;
    chart
        .configure_mesh()
        .x_desc("bytes per key")
        .x_label_formatter(&|bytes| bytes.to_string())
        .y_label_formatter(&|y| format!("{y:.2}"))
        .light_line_style(TRANSPARENT)
        .draw()?;
    if let Some(limit) = limit.filter(|limit| limit.is_finite()) {
        let style = RGBColor(120, 120, 120).stroke_width(1);
        chart
            .draw_series(LineSeries::new([(least, limit), (most, limit)], style))?
            .label("exact scores")
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
    }
    for metric in METRICS {
        for (bits, colour) in BITS.into_iter().zip(COLOURS) {
            let of_series = |point: &&Point| point.metric == metric && point.bits == bits;
            let series: Vec<(f64, f64)> = points
                .iter()
                .filter(of_series)
                .map(|point| (point.bytes_per_key, figure(point)))
                .filter(|(_, y)| y.is_finite())
                .collect();
            let is_l2 = metric == Metric::L2;
            let style = colour.stroke_width(1);
            // The inner product's lines are dashed, its marks hollow.
            let mark = if is_l2 { colour.filled() } else { style };
            let drawn = if is_l2 {
                chart.draw_series(LineSeries::new(series.clone(), style))?
            } else {
                chart.draw_series(DashedLineSeries::new(series.clone(), 6, 4, style))?
            };
            drawn
                .label(format!("{}, {bits} bits", metric.name()))
                .legend(move |(x, y)| Circle::new((x + 10, y), 4, mark));
            chart.draw_series(series.into_iter().map(|at| Circle::new(at, 4, mark)))?;
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(200, 200, 200))
        .draw()
}

/// Positive numbers, each doubling the same step, with a label at every power of two.
struct Octaves(std::ops::Range<f64>);

impl Octaves {
    fn powers(&self) -> impl Iterator<Item = f64> + use<> {
        let (first, last) = (self.0.start.log2().floor(), self.0.end.log2().ceil());
        (first as i32..=last as i32).map(|power| f64::from(power).exp2())
    }
}

impl Ranged for Octaves {
    type FormatOption = plotters::coord::ranged1d::NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (low, high): (i32, i32)) -> i32 {
        let ends = self.range();
        let share = (value / ends.start).log2() / (ends.end / ends.start).log2();
        low + (share * f64::from(high - low)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.powers().collect()
    }

    /// From one power of two to another.
    fn range(&self) -> std::ops::Range<f64> {
        let first = self.powers().next().unwrap_or(1.0);
        first..self.powers().last().unwrap_or(2.0).max(2.0 * first)
    }
}

impl plotters::coord::ranged1d::ValueFormatter<f64> for Octaves {
    fn format(value: &f64) -> String {
        value.to_string()
    }
}
