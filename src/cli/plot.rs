//! A picture of what was found: throughput and peak memory by batch size.

use std::path::Path;

use plotters::prelude::{
    BLUE, ChartBuilder, Color, IntoDrawingArea, LineSeries, PathElement, RED, SVGBackend, WHITE,
};

use crate::plan::amounts::{bytes_text, count_text};
use crate::{Error, Result, Trial, Tuned};

const SIZE: (u32, u32) = (800, 450);

/// A place on an axis.
#[allow(clippy::cast_precision_loss, reason = "a picture need not be exact to the byte")]
fn place(bytes: u64) -> f64 {
    bytes as f64
}

/// Draws the trials of `tuned` that differ in their batch size alone into `file`, as SVG.
///
/// # Errors
/// `Failed`, when the file cannot be written.
pub(super) fn draw(tuned: &Tuned, file: &Path) -> Result<()> {
    let mut svg = String::new();
    let drawn = svg_of(tuned, &mut svg);
    let name = file.display();
    let cannot = || Error::failed(format!("cannot draw {name}"));
    drawn.map_err(|error| cannot().caused_by(Error::failed(error.to_string())))?;
    std::fs::write(file, svg).map_err(|error| cannot().caused_by(error))
}

/// The first trials, which differ in their batch size alone.
fn by_batch_size(tuned: &Tuned) -> Vec<&Trial> {
    let first = tuned.trials.first().map(|trial| (trial.knobs.workers, trial.knobs.queue));
    let mut found: Vec<&Trial> = Vec::new();
    for trial in &tuned.trials {
        let same = Some((trial.knobs.workers, trial.knobs.queue)) == first;
        let grows =
            found.last().is_none_or(|last| last.knobs.batch_bytes < trial.knobs.batch_bytes);
        if !(same && grows) {
            break;
        }
        found.push(trial);
    }
    found
}

fn svg_of(tuned: &Tuned, svg: &mut String) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let trials = by_batch_size(tuned);
    let x_of = |trial: &&Trial| place(trial.knobs.batch_bytes).log2();
    let rates: Vec<(f64, f64)> =
        trials.iter().map(|trial| (x_of(trial), trial.bytes_per_second / 1e6)).collect();
    let peaks =
        trials.iter().filter_map(|trial| Some((x_of(trial), place(trial.peak_bytes?) / 1e6)));
    let peaks: Vec<(f64, f64)> = peaks.collect();
    let top = |points: &[(f64, f64)]| points.iter().map(|(_, y)| *y).fold(1.0, f64::max) * 1.15;
    let (from, to) = match (rates.first(), rates.last()) {
        (Some(first), Some(last)) => (first.0 - 0.2, last.0 + 0.2),
        _ => (0.0, 1.0),
    };
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let rows = count_text(tuned.sample_rows);
    let title = format!("{}: {rows} rows of {} bytes", tuned.table, tuned.row_bytes);
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .right_y_label_area_size(60)
        .build_cartesian_2d(from..to, 0.0..top(&rates))?
        .set_secondary_coord(from..to, 0.0..top(&peaks));
    chart
        .configure_mesh()
        .x_desc("batch size")
        .y_desc("MB/s")
        .x_labels(rates.len().max(2))
        .x_label_formatter(&|x| batch_text(*x))
        .draw()?;
    chart.configure_secondary_axes().y_desc("peak memory, MB").draw()?;
    let legend = |x, y| vec![(x, y), (x + 20, y)];
    chart
        .draw_series(LineSeries::new(rates, BLUE.stroke_width(2)))?
        .label("throughput, MB/s")
        .legend(move |(x, y)| PathElement::new(legend(x, y), BLUE));
    chart
        .draw_secondary_series(LineSeries::new(peaks, RED.stroke_width(2)))?
        .label("peak memory, MB")
        .legend(move |(x, y)| PathElement::new(legend(x, y), RED));
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(RED.mix(0.2))
        .draw()?;
    area.present()?;
    Ok(())
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a label of an axis")]
fn batch_text(log2: f64) -> String {
    bytes_text(log2.exp2().round() as u64)
}
