//! Files by Landlock: what is listed, and nothing else.

use super::Confinement;
use anyhow::Context as _;
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd,
    RestrictSelf, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus, Scope,
};
use std::path::Path;

/// What of it is known here; an older kernel has less. What Linux 5.13 has is
/// enough beside the filter of system calls: that forbids what came later
/// (`truncate`, sockets, `ioctl`, signals) by itself.
const KNOWN: ABI = ABI::V6;

/// What the system's loader reads, and the libraries that others depend on.
const LIBRARIES: &[&str] = &[
    "/lib",
    "/lib32",
    "/lib64",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/local/lib64",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
];

/// What OpenVINO, its TBB and Rust's library ask of the machine: how many
/// processors, nodes and bytes there are, and how many of them for this process;
/// of processes only this one.
const MACHINE: &[&str] = &[
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/version",
    "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system",
    "/sys/fs/cgroup",
    "/sys/kernel/mm/hugepages",
    "/sys/kernel/mm/transparent_hugepage",
    "/dev/null",
    "/dev/urandom",
];

/// What drivers of devices ask of the system, beside the device.
const DRIVERS: &[&str] = &["/sys/class", "/sys/devices", "/sys/dev", "/etc/OpenCL"];

const READ: BitFlags<AccessFs> = landlock::make_bitflags!(AccessFs::{ReadFile | ReadDir});

/// No device, socket or FIFO: guests make none.
const WRITE: BitFlags<AccessFs> = landlock::make_bitflags!(AccessFs::{
    ReadFile | ReadDir | WriteFile | Truncate | Refer
    | MakeReg | MakeDir | MakeSym | RemoveFile | RemoveDir
});

const DEVICE: BitFlags<AccessFs> =
    landlock::make_bitflags!(AccessFs::{ReadFile | ReadDir | WriteFile | IoctlDev});

/// Rights that a single file can have.
const OF_FILES: BitFlags<AccessFs> =
    landlock::make_bitflags!(AccessFs::{ReadFile | WriteFile | Truncate | IoctlDev});

/// Confines this thread and those that it will start.
pub(super) fn confine(confinement: &Confinement) -> anyhow::Result<Option<String>> {
    let rules = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(KNOWN)))
        .and_then(|rules| rules.scope(Scope::from_all(KNOWN)))
        .and_then(Ruleset::create)
        .context("making Landlock's rules")?;
    let mut grants = Vec::new();
    let mut grant = |path: &Path, rights: BitFlags<AccessFs>| {
        // What is not there needs no right.
        let Ok(opened) = PathFd::new(path) else { return };
        let rights = if path.is_dir() { rights } else { rights & OF_FILES };
        grants.push((path.to_owned(), PathBeneath::new(opened, rights)));
    };
    for path in LIBRARIES.iter().chain(MACHINE) {
        grant(Path::new(path), READ);
    }
    for root in &confinement.roots {
        grant(&root.path, if root.writable { WRITE } else { READ });
    }
    for path in &confinement.caches {
        grant(path, WRITE);
    }
    for path in &confinement.libraries {
        grant(path, READ);
    }
    for path in &confinement.devices {
        grant(path, DEVICE);
    }
    if !confinement.devices.is_empty() {
        for path in DRIVERS {
            grant(Path::new(path), READ);
        }
    }
    let rules = grants.into_iter().try_fold(rules, |rules, (path, rule)| {
        rules.add_rule(rule).with_context(|| format!("granting {}", path.display()))
    })?;
    let status = rules.restrict_self().context("applying Landlock's rules")?;
    Ok((status.ruleset == RulesetStatus::NotEnforced).then(|| UNCONFINED.into()))
}

const UNCONFINED: &str = "this kernel has no Landlock (Linux 5.13 and later do, if `landlock` is in \
    /sys/kernel/security/lsm), so the runtime reads and writes what this user can: give the worker a \
    user of its own";

/// Whether this kernel has it.
pub(super) fn missing() -> Option<String> {
    // Nothing is asked for, so nothing changes but what it says.
    let asked = RestrictSelf::default().no_new_privs(false).apply().map(|status| status.landlock);
    match asked {
        Ok(LandlockStatus::Available { .. }) => None,
        _ => Some(UNCONFINED.into()),
    }
}
