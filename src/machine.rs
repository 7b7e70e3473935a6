//! What the manager is told about the machine.

use crate::protocol::WorkerMetadata;
use crate::version;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use sysinfo::System;

/// Describes this machine; its name and its address only if `identify` says
/// so, towards a broker at `broker` (host and port).
pub(crate) fn describe(identify: bool, broker: (&str, u16)) -> WorkerMetadata {
    let mut system = System::new();
    system.refresh_memory();
    WorkerMetadata {
        ip: identify.then(|| address_towards(broker)).flatten().map(|ip| ip.to_string()),
        environment: environment().to_owned(),
        os: std::env::consts::OS.to_owned(),
        hostname: identify.then(System::host_name).flatten(),
        cpu_arch: std::env::consts::ARCH.to_owned(),
        total_memory_bytes: system.total_memory(),
        proplet_version: version::VERSION.to_owned(),
        wasm_runtime: version::WASMTIME.to_owned(),
        ..WorkerMetadata::default()
    }
}

/// The address that the broker sees us come from, as far as it can be told
/// from here. Connecting a datagram socket sends nothing.
fn address_towards(broker: (&str, u16)) -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").or_else(|_| UdpSocket::bind("[::]:0")).ok()?;
    socket.connect(broker).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn environment() -> &'static str {
    if Path::new("/var/run/secrets/kubernetes.io").exists() {
        "kubernetes"
    } else if Path::new("/.dockerenv").exists() || Path::new("/run/.containerenv").exists() {
        "container"
    } else {
        "host"
    }
}
