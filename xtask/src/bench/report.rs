//! Tables for people, JSON for programs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::{Value, json};

use super::families::FAMILIES;
use super::measure::{Summary, Unit, digits};
use super::random::SEED;
use super::session::{Results, Sample, Session};

/// The directory whose ratio gets a column of its own.
const FLOOR: &str = "passthrough";

/// The version of the JSON's shape.
const JSON_VERSION: u64 = 1;

/// A line of the table: a workload, and what of it.
type Line = (&'static str, &'static str);

/// Prints what came out.
pub(super) fn print(results: &Results) {
    println!("{}", costs(results));
    println!("Each figure is the median (smallest..largest); each ratio is a cost: 2.00 is twice as slow.\n");
    println!("{}", resources(results));
    for (name, cold) in results.places.iter().zip(&results.cold) {
        println!("Cold in {name}: {cold}.");
    }
    let reasons = |title: &str, reasons: &BTreeMap<(&'static str, usize), String>| {
        for ((id, place), why) in reasons {
            println!("{title} {id} in {}: {why}", results.places[*place]);
        }
    };
    reasons("Skipped", &results.skipped);
    reasons("FAILED", &results.failures);
}

/// The lines in the order of the families, with their units; also of workloads that have no sample anywhere.
fn lines(results: &Results) -> Vec<(Line, Option<Unit>)> {
    let mut lines: Vec<(Line, Option<Unit>)> = Vec::new();
    for id in FAMILIES.iter().flat_map(|family| family.ids) {
        for sample in results.samples.iter().filter(|sample| sample.id == *id) {
            let line = ((*id, sample.measure.metric), Some(sample.measure.unit));
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        let mentioned = |reasons: &BTreeMap<(&'static str, usize), String>| reasons.keys().any(|(of, _)| of == id);
        let measured = lines.iter().any(|((of, _), _)| of == id);
        if !measured && (mentioned(&results.failures) || mentioned(&results.skipped)) {
            lines.push(((*id, ""), None));
        }
    }
    lines
}

fn samples_of(results: &Results, line: Line, place: usize) -> impl Iterator<Item = &Sample> {
    results.samples.iter().filter(move |s| (s.id, s.measure.metric) == line && s.place == place)
}

fn summary(results: &Results, line: Line, place: usize) -> Option<Summary> {
    let values: Vec<_> = samples_of(results, line, place).map(|sample| sample.measure.value).collect();
    Summary::of(&values)
}

fn costs(results: &Results) -> Table {
    let floor = results.places.iter().position(|name| name == FLOOR);
    let baselines = |place: usize| {
        let first = (place != 0).then_some(0);
        let floor = floor.filter(|floor| *floor != 0 && place != 0 && place != *floor);
        first.into_iter().chain(floor).collect::<Vec<_>>()
    };
    let mut header = vec!["workload".to_owned(), "unit".to_owned()];
    for (place, name) in results.places.iter().enumerate() {
        header.push(name.clone());
        header.extend(baselines(place).into_iter().map(|of| format!("/ {}", results.places[of])));
    }
    let mut table = table(header);
    for (line, unit) in lines(results) {
        let mut row = vec![title(line), unit.map_or("", Unit::label).to_owned()];
        for place in 0..results.places.len() {
            row.push(figure(results, line, place));
            row.extend(baselines(place).into_iter().map(|of| ratio(results, line, unit, place, of)));
        }
        table.add_row(row);
    }
    align(&mut table);
    table
}

fn title((id, metric): Line) -> String {
    format!("{id} {metric}").trim_end().to_owned()
}

fn figure(results: &Results, line: Line, place: usize) -> String {
    if let Some(of) = summary(results, line, place) {
        return format!("{} ({}..{})", digits(of.median), digits(of.min), digits(of.max));
    }
    let failed = results.failures.contains_key(&(line.0, place));
    if failed { "FAILED".to_owned() } else { "-".to_owned() }
}

fn ratio(results: &Results, line: Line, unit: Option<Unit>, place: usize, baseline: usize) -> String {
    let of = |place| summary(results, line, place).map(|summary| summary.median);
    match (unit, of(place), of(baseline)) {
        (Some(unit), Some(value), Some(baseline)) => digits(unit.cost_ratio(value, baseline)),
        _ => String::new(),
    }
}

/// What the daemons used, where there are any.
fn resources(results: &Results) -> Table {
    let served: Vec<_> = (0..results.places.len()).filter(|place| results.peak_bytes[*place] > 0).collect();
    let header = served.iter().map(|place| format!("{} CPU s", results.places[*place]));
    let mut table = table(std::iter::once("daemons".to_owned()).chain(header).collect());
    for (line, _) in lines(results) {
        let cpu = |place: &usize| {
            let used: Vec<_> = samples_of(results, line, *place).filter_map(|s| s.daemon_cpu_seconds).collect();
            Summary::of(&used).map(|summary| format!("{:.2}", summary.median))
        };
        let cells: Vec<_> = served.iter().map(cpu).collect();
        if cells.iter().any(Option::is_some) {
            let cells = cells.into_iter().map(Option::unwrap_or_default);
            table.add_row(std::iter::once(title(line)).chain(cells).collect::<Vec<_>>());
        }
    }
    let peaks = served.iter().map(|place| format!("{} MiB", results.peak_bytes[*place] >> 20));
    table.add_row(std::iter::once("peak memory".to_owned()).chain(peaks).collect::<Vec<_>>());
    align(&mut table);
    table
}

fn table(header: Vec<String>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    table
}

fn align(table: &mut Table) {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

/// Writes every sample, and what is needed to judge it.
pub(super) fn write_json(results: &Results, session: &Session, path: &Path) -> Result<()> {
    let place = |at: &usize| results.places[*at].as_str();
    let sample = |s: &Sample| {
        json!({"workload": s.id, "metric": s.measure.metric, "unit": s.measure.unit.label(), "directory": place(&s.place),
            "round": s.round, "value": s.measure.value, "daemon_cpu_seconds": s.daemon_cpu_seconds})
    };
    let reasons = |reasons: &BTreeMap<(&'static str, usize), String>| -> Vec<Value> {
        let one =
            |((id, at), why): (&(&str, usize), &String)| json!({"workload": id, "directory": place(at), "why": why});
        reasons.iter().map(one).collect()
    };
    let directory = |(at, name): (usize, &String)| {
        let kind = session.places[at].mount().to_string_lossy();
        json!({"name": name, "path": kind, "cold": results.cold[at], "daemons_peak_bytes": results.peak_bytes[at]})
    };
    let document = json!({
        "version": JSON_VERSION,
        "seed": SEED,
        "rounds": session.rounds,
        "sizes": format!("{:?}", session.sizes),
        "machine": machine(),
        "directories": results.places.iter().enumerate().map(directory).collect::<Vec<_>>(),
        "samples": results.samples.iter().map(sample).collect::<Vec<_>>(),
        "skipped": reasons(&results.skipped),
        "failures": reasons(&results.failures),
    });
    fs::write(path, format!("{document:#}\n"))?;
    Ok(())
}

/// What the figures depend on, as far as it can be asked.
fn machine() -> Value {
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    json!({
        "kernel": said("uname", &["-rm"]),
        "cores": std::thread::available_parallelism().map(usize::from).ok(),
        "commit": said("git", &["describe", "--always", "--dirty", "--abbrev=12"]),
        "time": said("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::measure::Measure;

    fn results() -> Results {
        let sample = |place, round, value| Sample {
            id: "create",
            place,
            round,
            measure: Measure::new("1 thread", Unit::PerSecond, value),
            daemon_cpu_seconds: (place > 0).then_some(0.25),
        };
        Results {
            places: ["local", "passthrough", "gavel"].map(str::to_owned).to_vec(),
            cold: vec!["cold"; 3],
            samples: vec![sample(0, 1, 1000.0), sample(0, 2, 3000.0), sample(1, 1, 500.0), sample(2, 1, 250.0)],
            failures: BTreeMap::from([(("git", 2), "no space".to_owned())]),
            skipped: BTreeMap::new(),
            peak_bytes: vec![0, 5 << 20, 6 << 20],
        }
    }

    #[test]
    fn the_table_shows_medians_ratios_and_failures() {
        let table = costs(&results()).to_string();
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split('|').map(str::trim).collect()).collect();
        assert_eq!(
            lines[0][1..9],
            ["workload", "unit", "local", "passthrough", "/ local", "gavel", "/ local", "/ passthrough"]
        );
        assert_eq!(
            lines[2][1..9],
            [
                "create 1 thread",
                "/s",
                "2,000 (1,000..3,000)",
                "500 (500..500)",
                "4.00",
                "250 (250..250)",
                "8.00",
                "2.00"
            ]
        );
        assert_eq!(lines[3][1..7], ["git", "", "-", "-", "", "FAILED"]);
    }

    #[test]
    fn resources_are_those_of_places_with_daemons() {
        let table = resources(&results()).to_string();
        assert!(!table.contains("local"));
        assert!(table.contains("0.25") && table.contains("5 MiB") && table.contains("6 MiB"));
    }
}
