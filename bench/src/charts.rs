//! Charts of a results file: drawn from what is written there, and nothing else.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::combinators::LogCoord;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use serde::Deserialize;

use crate::results::say;

const WIDTH: u32 = 900;
const HEIGHT: u32 = 520;
/// Labels along an axis at most.
const LABELS: u8 = 20;
const FONT: &str = "sans-serif";
/// Colours that differ for the colour-blind too (Okabe and Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

/// What is drawn of a row.
#[derive(Debug, Deserialize)]
struct Figure {
    name: String,
    value: f64,
}

#[derive(Debug, Deserialize)]
struct Facts {
    tsc_mhz: f64,
}

#[derive(Debug, Deserialize)]
struct Results {
    machine: Facts,
    rows: Vec<Figure>,
}

/// A line of a chart.
#[derive(Debug)]
struct Series {
    name: String,
    points: Vec<(f64, f64)>,
}

/// Draws a results file's charts beside it, those that it has rows for.
pub(crate) fn draw(results: &Path) -> Result<()> {
    let text = fs::read_to_string(results)
        .with_context(|| format!("cannot read {}", results.display()))?;
    let read: Results = serde_json::from_str(&text)
        .with_context(|| format!("{} is no results file", results.display()))?;
    let file = |chart: &str| results.with_extension(format!("{chart}.svg"));
    let title = "One worker in memory, 64-byte packets, flows in random order";
    let flows = Chart { title, x: "established flows", series: read.in_memory() };
    flows.draw_logarithmic(&file("throughput"))?;
    let title = "One worker, net_pcap to net_null, 64-byte packets, flows in random order";
    let devices = Chart { title, x: "established flows", series: read.on_devices() };
    devices.draw_logarithmic(&file("devices"))?;
    let title = "Workers on their own CPUs, the source included";
    let scaling = Chart { title, x: "workers", series: read.scaling() };
    scaling.draw_linear(&file("scaling"))?;
    draw_bars(&read.stages(), "Where the cycles go: TSC cycles per packet", &file("stages"))
}

impl Results {
    /// The director and plain forwarding, by what they cost beside a source in memory.
    fn in_memory(&self) -> Vec<Series> {
        self.over_flows("loop/", |subject, what, cycles| {
            let is_drawn = (what == "director" && !subject.ends_with("_vlan"))
                || (what, subject) == ("macswap", "ipv4_udp");
            is_drawn.then(|| (format!("{subject} {what}"), self.machine.tsc_mhz / cycles))
        })
    }

    fn on_devices(&self) -> Vec<Series> {
        self.over_flows("devices/", |_, what, mpps| {
            what.strip_suffix("/rate").map(|subject| (subject.to_owned(), mpps))
        })
    }

    /// Rows named `<prefix><subject>/<number>_flows/<what>`.
    fn over_flows(
        &self,
        prefix: &str,
        pick: impl Fn(&str, &str, f64) -> Option<(String, f64)>,
    ) -> Vec<Series> {
        let mut all = Vec::new();
        for Figure { name, value } in &self.rows {
            let parts = name.strip_prefix(prefix).and_then(|rest| rest.split_once('/'));
            let Some((subject, (flows, what))) =
                parts.and_then(|(subject, rest)| Some((subject, rest.split_once("_flows/")?)))
            else {
                continue;
            };
            if let (Some(flows), Some((name, y))) = (unscale(flows), pick(subject, what, *value)) {
                add(&mut all, name, (flows, y));
            }
        }
        all
    }

    /// Workers together, and what they were if none cost another anything.
    fn scaling(&self) -> Vec<Series> {
        let mut all = Vec::new();
        for Figure { name, value } in &self.rows {
            let workers = name
                .strip_prefix("workers/")
                .and_then(|rest| rest.strip_suffix("_workers/rate"))
                .and_then(|rest| rest.rsplit('/').next()?.parse::<f64>().ok());
            if let Some(workers) = workers {
                add(&mut all, "measured".to_owned(), (workers, *value));
            }
        }
        let one = all.first().and_then(|series| series.points.first().copied());
        if let (Some((_, one)), Some(measured)) = (one, all.first()) {
            let points = measured.points.iter().map(|(workers, _)| (*workers, one * workers));
            all.push(Series {
                name: "one worker's rate times workers".to_owned(),
                points: points.collect(),
            });
        }
        all
    }

    fn stages(&self) -> Vec<(String, f64)> {
        let stage = |row: &Figure| Some((row.name.strip_prefix("stages/")?.to_owned(), row.value));
        self.rows.iter().filter_map(stage).collect()
    }
}

fn add(all: &mut Vec<Series>, name: String, point: (f64, f64)) {
    match all.iter_mut().find(|series| series.name == name) {
        Some(series) => series.points.push(point),
        None => all.push(Series { name, points: vec![point] }),
    }
}

/// 64k as 65536.
fn unscale(text: &str) -> Option<f64> {
    let (digits, factor) = match (text.strip_suffix('k'), text.strip_suffix('M')) {
        (Some(digits), _) => (digits, 1024.0),
        (_, Some(digits)) => (digits, 1_048_576.0),
        _ => (text, 1.0),
    };
    Some(digits.parse::<f64>().ok()? * factor)
}

/// What an axis says of a number of flows.
fn label(flows: f64) -> String {
    match flows {
        flows if flows >= 1e6 => format!("{:.0}M", flows / 1e6),
        flows if flows >= 1e3 => format!("{:.0}k", flows / 1e3),
        flows => format!("{flows:.0}"),
    }
}

/// Lines over an axis.
#[derive(Debug)]
struct Chart {
    title: &'static str,
    x: &'static str,
    series: Vec<Series>,
}

impl Chart {
    /// Over a logarithmic axis.
    fn draw_logarithmic(&self, file: &Path) -> Result<()> {
        let Some((least, most, top)) = self.bounds() else { return Ok(()) };
        let axis: LogCoord<f64> = (least..most).log_scale().into();
        self.draw(axis, LABELS, top, file)
    }

    /// Over whole numbers.
    fn draw_linear(&self, file: &Path) -> Result<()> {
        let Some((_, most, top)) = self.bounds() else { return Ok(()) };
        let axis: RangedCoordf64 = (0.0..most).into();
        let numbers = (0..LABELS).take_while(|number| f64::from(*number) <= most);
        self.draw(axis, u8::try_from(numbers.count())?, top, file)
    }

    /// Least and most along the axis, and most above it; nothing without points.
    fn bounds(&self) -> Option<(f64, f64, f64)> {
        let points = || self.series.iter().flat_map(|series| &series.points);
        points().next()?;
        let least = points().map(|point| point.0).fold(f64::INFINITY, f64::min);
        let most = points().map(|point| point.0).fold(0.0, f64::max);
        let top = points().map(|point| point.1).fold(0.0, f64::max);
        Some((least, most * 1.05, top * 1.1))
    }

    fn draw<X>(&self, axis: X, labels: u8, top: f64, file: &Path) -> Result<()>
    where
        X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let canvas = canvas(file, HEIGHT)?;
        let mut chart = ChartBuilder::on(&canvas)
            .caption(self.title, (FONT, 20))
            .margin(12)
            .x_label_area_size(45)
            .y_label_area_size(60)
            .build_cartesian_2d(axis, 0.0..top)
            .map_err(drawing)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc(self.x)
            .y_desc("million packets per second")
            .x_labels(usize::from(labels))
            .x_label_formatter(&|flows| label(*flows))
            .label_style((FONT, 14))
            .draw()
            .map_err(drawing)?;
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            let points = series.points.iter().copied();
            let line = LineSeries::new(points, colour.stroke_width(2)).point_size(3);
            chart
                .draw_series(line)
                .map_err(drawing)?
                .label(&series.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour));
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .label_font((FONT, 14))
            .draw()
            .map_err(drawing)?;
        canvas.present().map_err(drawing)?;
        drop(chart);
        say(&format!("drawn: {}", file.display()));
        Ok(())
    }
}

/// Bars, one below the other, each with its name and value.
fn draw_bars(bars: &[(String, f64)], title: &str, file: &Path) -> Result<()> {
    let top = bars.iter().map(|bar| bar.1).fold(0.0, f64::max);
    if top <= 0.0 {
        return Ok(());
    }
    let rows = u32::try_from(bars.len())?;
    let canvas = canvas(file, 100 + 26 * rows)?;
    let rows = f64::from(rows);
    let mut chart = ChartBuilder::on(&canvas)
        .caption(title, (FONT, 20))
        .margin(12)
        .x_label_area_size(30)
        .build_cartesian_2d(0.0..top * 1.8, rows..0.0)
        .map_err(drawing)?;
    chart.configure_mesh().disable_y_mesh().disable_y_axis().draw().map_err(drawing)?;
    let colour = COLOURS[0];
    let places = (0..).map(f64::from);
    let rectangles = places.clone().zip(bars).map(|(place, (_, value))| {
        Rectangle::new([(0.0, place + 0.15), (*value, place + 0.85)], colour.filled())
    });
    chart.draw_series(rectangles).map_err(drawing)?;
    let words = places.zip(bars).map(|(place, (name, value))| {
        Text::new(format!("{name}: {value:.1}"), (value + top * 0.02, place + 0.35), (FONT, 13))
    });
    chart.draw_series(words).map_err(drawing)?;
    canvas.present().map_err(drawing)?;
    drop(chart);
    say(&format!("drawn: {}", file.display()));
    Ok(())
}

fn canvas(file: &Path, height: u32) -> Result<DrawingArea<SVGBackend<'_>, Shift>> {
    let canvas = SVGBackend::new(file, (WIDTH, height)).into_drawing_area();
    canvas.fill(&WHITE).map_err(drawing)?;
    Ok(canvas)
}

/// The library's errors hold what may not be sent between threads.
fn drawing(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(rows: &[(&str, f64)]) -> Results {
        let rows =
            rows.iter().map(|(name, value)| Figure { name: (*name).to_owned(), value: *value });
        Results { machine: Facts { tsc_mhz: 2000.0 }, rows: rows.collect() }
    }

    #[test]
    fn rows_become_lines_over_the_number_of_flows() {
        let read = results(&[
            ("loop/ipv4_udp/1k_flows/director", 100.0),
            ("loop/ipv4_udp/64k_flows/director", 200.0),
            ("loop/ipv4_udp/64k_flows/added", 150.0),
            ("devices/ipv4_udp/64k_flows/testpmd_io/rate", 9.0),
        ]);
        let lines = read.in_memory();
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].name, "ipv4_udp director");
        assert_eq!(lines[0].points, [(1024.0, 20.0), (65_536.0, 10.0)]);
        assert_eq!(read.on_devices()[0].points, [(65_536.0, 9.0)]);
    }

    #[test]
    fn scaling_is_drawn_beside_what_it_would_be_at_best() {
        let name = "workers/ipv4_udp/64k_flows";
        let (one, two) = (format!("{name}/1_workers/rate"), format!("{name}/2_workers/rate"));
        let lines = results(&[(&one, 10.0), (&two, 19.0)]).scaling();
        assert_eq!(lines[0].points, [(1.0, 10.0), (2.0, 19.0)]);
        assert_eq!(lines[1].points, [(1.0, 10.0), (2.0, 20.0)]);
    }

    #[test]
    fn charts_are_written_for_the_rows_there_are() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("day-commit.json");
        let text = r#"{"machine": {"tsc_mhz": 2000.0}, "rows": [
            {"name": "loop/ipv4_udp/1k_flows/director", "value": 100.0},
            {"name": "stages/ipv4_udp/64k_flows/classify", "value": 21.0}]}"#;
        fs::write(&file, text).unwrap();
        draw(&file).unwrap();
        let read = |chart: &str| fs::read_to_string(file.with_extension(format!("{chart}.svg")));
        assert!(read("throughput").unwrap().contains("ipv4_udp director"));
        assert!(read("stages").unwrap().contains("classify: 21.0"));
        assert!(read("scaling").is_err());
    }
}
