//! What is measured, in the order in which it is.

mod boundary;
mod growth;
mod hints;
mod http;
mod latency;
mod living;
mod memory;
mod messages;
mod onnx;
mod start;
mod steps;
mod throughput;
#[cfg(feature = "pytorch")]
mod torch;

use crate::place::Place;
use crate::report::Report;
use std::fmt;

/// A part of the benchmark that can be asked for alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Section {
    /// One task after the other.
    Latency,
    /// The steps of one.
    Steps,
    /// ONNX models by each engine for them.
    Onnx,
    /// TorchScript models.
    #[cfg(feature = "pytorch")]
    Torch,
    /// All executors busy.
    Throughput,
    /// A process of its own for guests and models, against none.
    Boundary,
    /// OpenVINO's modes against the number of executors.
    Hints,
    /// Tasks that do nothing.
    Messages,
    /// HTTP servers.
    Http,
    /// Deployed tasks and their invocations.
    Living,
    /// Tasks in flight on one graph.
    Memory,
    /// From nothing to the first result.
    Start,
    /// What else is there, and how much comes out.
    Growth,
}

impl Section {
    pub const ALL: &[Section] = &[
        Section::Latency,
        Section::Steps,
        Section::Onnx,
        #[cfg(feature = "pytorch")]
        Section::Torch,
        Section::Throughput,
        Section::Boundary,
        Section::Hints,
        Section::Messages,
        Section::Http,
        Section::Living,
        Section::Memory,
        Section::Start,
        Section::Growth,
    ];

    pub fn run(self, place: &Place, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
        match self {
            Section::Latency => latency::measure(place, rounds, report),
            Section::Steps => steps::measure(place, rounds, report),
            Section::Onnx => onnx::measure(place, rounds, report),
            #[cfg(feature = "pytorch")]
            Section::Torch => torch::measure(place, rounds, report),
            Section::Throughput => throughput::measure(place, rounds, report),
            Section::Boundary => boundary::measure(place, rounds, report),
            Section::Hints => hints::measure(place, report),
            Section::Messages => messages::measure(place, rounds, report),
            Section::Http => http::measure(place, rounds, report),
            Section::Living => living::measure(place, rounds, report),
            Section::Memory => memory::measure(place, report),
            Section::Start => start::measure(place, rounds, report),
            Section::Growth => growth::measure(place, report),
        }
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", format!("{self:?}").to_lowercase())
    }
}
