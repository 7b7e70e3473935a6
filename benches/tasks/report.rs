//! What was measured, held against its target.

use crate::plot::{self, Plot};
use crate::stats::{Samples, Steal, load};
use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// More than this, and the machine was too noisy to tell.
const SPREAD: f64 = 0.10;
const STEAL: f64 = 0.02;
const LOAD: f64 = 0.7;

/// Which side of its target a measure should be on.
#[derive(Clone, Copy)]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// For information.
    None,
}

impl Target {
    fn met(self, value: f64) -> Option<bool> {
        match self {
            Target::AtMost(limit) => Some(value <= limit),
            Target::AtLeast(limit) => Some(value >= limit),
            Target::None => None,
        }
    }

    fn text(self) -> String {
        match self {
            Target::AtMost(limit) => format!("≤ {limit}"),
            Target::AtLeast(limit) => format!("≥ {limit}"),
            Target::None => String::new(),
        }
    }
}

struct Measure {
    name: String,
    value: f64,
    unit: &'static str,
    target: Target,
}

/// All of it so far.
pub struct Report {
    measures: Vec<Measure>,
    plots: Vec<Plot>,
    notes: Vec<String>,
    /// How far repeated inferences of OpenVINO's own lie apart.
    spread: Option<f64>,
    load: Option<f64>,
    steal: Option<Steal>,
}

impl Report {
    pub fn new() -> Report {
        let (measures, plots, notes) = (Vec::new(), Vec::new(), Vec::new());
        Report { measures, plots, notes, spread: None, load: load(), steal: Steal::now() }
    }

    pub fn len(&self) -> usize {
        self.measures.len()
    }

    /// A value for information.
    pub fn say(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.hold(name, value, unit, Target::None);
    }

    /// A value with a target.
    pub fn hold(
        &mut self,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        target: Target,
    ) {
        self.measures.push(Measure { name: name.into(), value, unit, target });
    }

    /// Bars of some of it.
    pub fn draw(&mut self, plot: Plot) {
        self.plots.push(plot);
    }

    /// Something that the reader has to know.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// What is known to take the same time, whenever it runs.
    pub fn steady(&mut self, samples: &Samples) {
        self.spread = Some(self.spread.unwrap_or(0.0).max(samples.spread()));
    }

    /// Prints what came since there were `from` measures, for who watches.
    pub fn tell(&self, from: usize) {
        for measure in &self.measures[from..] {
            eprintln!("    {}: {}{}", measure.name, number(measure.value), unit(measure.unit));
        }
    }

    /// Writes the bars as SVG.
    pub fn plot(&self, file: &Path) -> anyhow::Result<()> {
        ensure!(!self.plots.is_empty(), "no section that was measured draws: `steps` does");
        fs::write(file, plot::svg(&self.plots)?).with_context(|| file.display().to_string())
    }

    /// Prints all of it.
    pub fn finish(self, as_json: bool) -> anyhow::Result<()> {
        let noise = self.noise();
        if as_json {
            println!("{}", serde_json::to_string_pretty(&self.json(&noise))?);
            return Ok(());
        }
        let width = self.measures.iter().map(|measure| measure.name.len()).max().unwrap_or(0);
        println!(
            "\n| {:width$} | value | target | |\n|{:-<2$}|---|---|---|",
            "measure",
            "",
            width + 2
        );
        for Measure { name, value, unit: of, target } in &self.measures {
            let verdict = match target.met(*value) {
                Some(true) => "met",
                Some(false) => "MISSED",
                None => "",
            };
            println!(
                "| {name:width$} | {}{} | {} | {verdict} |",
                number(*value),
                unit(of),
                target.text()
            );
        }
        println!();
        for Measure { name, value, .. } in &self.measures {
            println!("{name}: {}", number(*value));
        }
        println!();
        for note in self.notes.iter().chain(&noise) {
            println!("{note}");
        }
        Ok(())
    }

    /// Why the figures may not be believed; nothing if they may.
    fn noise(&self) -> Vec<String> {
        let mut noise = Vec::new();
        if let Some(load) = self.load.filter(|load| *load > LOAD) {
            noise.push(format!("{load} processes were running already when this began"));
        }
        if let Some(spread) = self.spread.filter(|spread| *spread > SPREAD) {
            noise.push(format!(
                "half of OpenVINO's own inferences lie {:.0} % of their time apart",
                spread * 1e2
            ));
        }
        let steal = self.steal.as_ref().and_then(|before| Some(Steal::now()?.since(before)));
        if let Some(steal) = steal.filter(|steal| *steal > STEAL) {
            noise.push(format!("other machines took {:.1} % of the processors", steal * 1e2));
        }
        if !noise.is_empty() {
            noise.push("this machine was too noisy to tell: run it again when it is quiet".into());
        }
        noise
    }

    fn json(&self, noise: &[String]) -> Value {
        let measure = |measure: &Measure| {
            let Measure { name, value, unit, target } = measure;
            let target_of = target.text();
            let target_of = (!target_of.is_empty()).then_some(target_of);
            json!({
                "name": name,
                "value": value,
                "unit": unit,
                "target": target_of,
                "met": target.met(*value),
            })
        };
        json!({
            "version": proplet::version::LONG,
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "measures": self.measures.iter().map(measure).collect::<Vec<_>>(),
            "notes": self.notes,
            "noise": noise,
        })
    }
}

fn unit(unit: &str) -> String {
    if unit.is_empty() { String::new() } else { format!(" {unit}") }
}

fn number(value: f64) -> String {
    match value.abs() {
        1000.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}
