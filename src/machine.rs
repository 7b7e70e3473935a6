//! What the manager is told about the machine.

use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use sysinfo::System;

/// What can be told of this machine.
pub(crate) struct Machine {
    /// `kubernetes`, `container` or `host`.
    pub(crate) environment: &'static str,
    /// The operating system's name as Rust has it.
    pub(crate) os: &'static str,
    /// The processor's architecture as Rust has it.
    pub(crate) cpu_arch: &'static str,
    /// All of it.
    pub(crate) memory_bytes: u64,
    /// Its name, if there is one.
    pub(crate) hostname: Option<String>,
    /// The address that the broker sees it under, if that can be told.
    pub(crate) ip: Option<IpAddr>,
}

/// All of its memory in bytes; 0 if it can't be told.
pub(crate) fn memory() -> u64 {
    let mut system = System::new();
    system.refresh_memory();
    system.total_memory()
}

/// Describes this machine; its name and its address only if `identify` says
/// so, towards a broker at `broker` (host and port).
pub(crate) fn describe(identify: bool, broker: (&str, u16)) -> Machine {
    Machine {
        environment: environment(),
        os: std::env::consts::OS,
        cpu_arch: std::env::consts::ARCH,
        memory_bytes: memory(),
        hostname: identify.then(System::host_name).flatten(),
        ip: identify.then(|| address_towards(broker)).flatten(),
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
