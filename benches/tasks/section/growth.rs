//! Cost grows with work only: what a task costs beside more and more models
//! and modules in the caches, and for more and more output and company.

use crate::ours::Ours;
use crate::place::{Place, fixtures, pad, task, wat};
use crate::report::Report;
use crate::stats::Samples;
use anyhow::Context as _;
use proplet::task::TaskRequest;
use std::fs;
use std::time::Duration;

const RUNS: usize = 60;
const LASTING: Duration = Duration::from_millis(700);

pub fn measure(place: &Place, report: &mut Report) -> anyhow::Result<()> {
    models(place, report)?;
    modules(place, report)?;
    output(place, report)?;
    company(place, report)
}

fn models(place: &Place, report: &mut Report) -> anyhow::Result<()> {
    let mut ours = Ours::start(place, &[("executors", "1")])?;
    let (by_bytes, by_name) = (place.by_bytes()?, place.by_name()?);
    let guest = wat("nn-tiny")?;
    let xml = fs::read_to_string(fixtures().join("models/tiny/model.xml"))?;
    let mut loaded = 1;
    for count in [1, 10, 100] {
        while loaded < count {
            let folder = place.scratch.path().join(format!("models/{loaded}/tiny"));
            fs::create_dir_all(&folder)?;
            fs::copy(fixtures().join("models/tiny/model.bin"), folder.join("model.bin"))?;
            let name = format!("name=\"variant-{loaded}\"");
            fs::write(
                folder.join("model.xml"),
                xml.replacen("name=\"", &format!("{name} was=\""), 1),
            )?;
            let graph = format!("nn,nn-graph=openvino::{}", folder.display());
            ours.run(&task(guest.clone(), &["-S", &graph]))?;
            loaded += 1;
        }
        report.say(format!("by_name_of_{count}_models_ms"), median(&mut ours, &by_name)?, "ms");
        report.say(format!("by_bytes_of_{count}_models_ms"), median(&mut ours, &by_bytes)?, "ms");
    }
    Ok(())
}

fn modules(place: &Place, report: &mut Report) -> anyhow::Result<()> {
    let mut ours = Ours::start(place, &[("executors", "1")])?;
    let first = Place::empty(100_000)?;
    let mut loaded = 1;
    for count in [1u8, 10, 100] {
        while loaded < count {
            let mut other = wat("hello")?;
            pad(&mut other, 100_000, loaded)?;
            ours.run(&task(other, &[]))?;
            loaded += 1;
        }
        let took = median(&mut ours, &first)? * 1e3;
        report.say(format!("empty_of_{count}_modules_us"), took, "µs");
    }
    Ok(())
}

fn output(place: &Place, report: &mut Report) -> anyhow::Result<()> {
    let mut ours = Ours::start(place, &[("executors", "1")])?;
    let guest = wat("stdout-large-write")?;
    for kib in [1, 64, 1024, 8192] {
        let mut request = task(guest.clone(), &[]);
        request.inputs = vec![(kib * 1024).to_string()];
        let took = median(&mut ours, &request)? * 1e3;
        report.say(format!("stdout_of_{kib}_kib_us"), took, "µs");
    }
    Ok(())
}

fn company(place: &Place, report: &mut Report) -> anyhow::Result<()> {
    let mut ours = Ours::start(place, &[])?;
    let (empty, by_name) = (Place::empty(100_000)?, place.by_name()?);
    ours.run(&by_name)?;
    for in_flight in [1, 4, 16, 64] {
        let (none, some) =
            (ours.flow(&empty, in_flight, LASTING)?, ours.flow(&by_name, in_flight, LASTING)?);
        report.say(format!("empty_{in_flight}_in_flight_per_second"), none, "/s");
        report.say(format!("by_name_{in_flight}_in_flight_per_second"), some, "/s");
    }
    Ok(())
}

fn median(ours: &mut Ours, request: &TaskRequest) -> anyhow::Result<f64> {
    let mut samples = Samples::new();
    ours.run(request).context("the first one")?;
    for _ in 0..RUNS {
        samples.add(ours.run(request)?);
    }
    Ok(samples.median())
}
