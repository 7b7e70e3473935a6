//! What is not counted as it happens, but asked of its owner at each look: the
//! runtime's caches and inferences, memory, the journal.

use super::levels::RuntimeLevels;
use super::propeller::{self, LastLook};
use super::servers;
use crate::journal::{JOURNAL_BUCKETS, JournalLevels};
use crate::nn::{INFERENCE_BUCKETS, InferenceTimes};
use crate::usage::Usage;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByGraph {
    graph: String,
    backend: String,
}

/// The runtime, asked at each look.
pub(super) struct AskedRuntime<F> {
    levels: F,
    last: LastLook,
}

impl<F> AskedRuntime<F> {
    pub(super) fn new(levels: F) -> AskedRuntime<F> {
        AskedRuntime { levels, last: LastLook::new() }
    }
}

impl<F> fmt::Debug for AskedRuntime<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AskedRuntime")
    }
}

impl<F: Fn() -> RuntimeLevels + Send + Sync + 'static> Collector for AskedRuntime<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut levels = (self.levels)();
        encode_inferences(std::mem::take(&mut levels.inferences), &mut encoder)?;
        servers::encode(&levels.servers, &mut encoder)?;
        let nn = levels.nn;
        for (name, help, count) in [
            ("proplet_modules_compiled", "Modules compiled", levels.modules_compiled),
            ("proplet_graphs_compiled", "Graphs compiled", nn.graphs_compiled),
            ("proplet_graph_cache_hits", "Loads that found their graph compiled", nn.cache_hits),
            ("proplet_graph_cache_evictions", "Graphs that made room for others", nn.evicted),
        ] {
            let counter = ConstCounter::new(count);
            counter.encode(encoder.encode_descriptor(
                name,
                help,
                None,
                counter.metric_type(),
            )?)?;
        }
        let usage = Usage::now();
        propeller::encode(&levels, &usage, &self.last, &mut encoder)?;
        for (name, help, unit, level) in [
            (
                "proplet_module_cache",
                "Compiled modules kept",
                Some(&Unit::Bytes),
                levels.module_bytes,
            ),
            ("proplet_graph_cache", "Compiled graphs kept", Some(&Unit::Bytes), nn.cached_bytes),
            ("proplet_graph_cache_graphs", "Compiled graphs kept", None, nn.cached_graphs),
            ("process_resident_memory", "Resident memory", Some(&Unit::Bytes), usage.resident),
        ] {
            let gauge = ConstGauge::new(level);
            gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)?;
        }
        let processor = ConstCounter::new(usage.processor().as_secs_f64());
        processor.encode(encoder.encode_descriptor(
            "process_cpu",
            "Processor time",
            Some(&Unit::Seconds),
            processor.metric_type(),
        )?)
    }
}

/// The journal, asked at each look.
pub(super) struct AskedJournal<F>(pub(super) F);

impl<F> fmt::Debug for AskedJournal<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AskedJournal")
    }
}

impl<F: Fn() -> JournalLevels + Send + Sync + 'static> Collector for AskedJournal<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let JournalLevels { bytes, total, counts, .. } = (self.0)();
        let size = ConstGauge::new(bytes);
        size.encode(encoder.encode_descriptor(
            "proplet_journal",
            "The journal's file, without modules",
            Some(&Unit::Bytes),
            size.metric_type(),
        )?)?;
        let bounds = JOURNAL_BUCKETS.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(counts).collect();
        encoder
            .encode_descriptor(
                "proplet_journal_write",
                "Time of the journal's transactions, until they are on the disk",
                Some(&Unit::Seconds),
                MetricType::Histogram,
            )?
            .encode_histogram::<NoLabelSet>(
                total.as_secs_f64(),
                counts.iter().sum(),
                &buckets,
                None,
            )
    }
}

fn encode_inferences(
    graphs: Vec<InferenceTimes>,
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), fmt::Error> {
    let mut series = encoder.encode_descriptor(
        "proplet_inference",
        "Time of inferences by graph and backend, failed ones included (bytes: models that guests brought \
         along; other: what has one name too many)",
        Some(&Unit::Seconds),
        MetricType::Histogram,
    )?;
    let bounds = INFERENCE_BUCKETS.into_iter().chain([f64::INFINITY]);
    for InferenceTimes { graph, backend, total, counts } in graphs {
        let buckets: Vec<_> = bounds.clone().zip(counts).collect();
        series.encode_family(&ByGraph { graph, backend })?.encode_histogram::<NoLabelSet>(
            total.as_secs_f64(),
            counts.iter().sum(),
            &buckets,
            None,
        )?;
    }
    Ok(())
}
