//! What is told of HTTP servers, each by its task's id.

use crate::runtime::{Served, TIMES};
use crate::task::TaskId;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use std::fmt;

const STATUSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

#[derive(Clone, Debug, EncodeLabelSet)]
struct ByServer {
    server: String,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct ByStatus {
    server: String,
    status: &'static str,
}

pub(super) fn encode(
    servers: &[(TaskId, Served)],
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), fmt::Error> {
    let named = |id: &TaskId| ByServer { server: id.as_str().to_owned() };
    let mut series = encoder.encode_descriptor(
        "proplet_http_requests",
        "Requests answered, by server and class of status",
        None,
        MetricType::Counter,
    )?;
    for (id, served) in servers {
        for (status, count) in STATUSES.into_iter().zip(served.statuses) {
            let labels = ByStatus { server: id.as_str().to_owned(), status };
            ConstCounter::new(count).encode(series.encode_family(&labels)?)?;
        }
    }
    let mut series = encoder.encode_descriptor(
        "proplet_http_request",
        "Time from a request's head to the end of its answer, by server",
        Some(&Unit::Seconds),
        MetricType::Histogram,
    )?;
    let bounds = TIMES.into_iter().chain([f64::INFINITY]);
    for (id, served) in servers {
        let buckets: Vec<_> = bounds.clone().zip(served.times).collect();
        series.encode_family(&named(id))?.encode_histogram::<NoLabelSet>(
            served.total.as_secs_f64(),
            served.times.iter().sum(),
            &buckets,
            None,
        )?;
    }
    let mut series = encoder.encode_descriptor(
        "proplet_http_requests_in_flight",
        "Requests whose guests run or wait to, by server",
        None,
        MetricType::Gauge,
    )?;
    for (id, served) in servers {
        ConstGauge::new(served.in_flight).encode(series.encode_family(&named(id))?)?;
    }
    Ok(())
}
