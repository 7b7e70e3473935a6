//! How much memory the process with the guests and models may take.
//!
//! The limit is `RLIMIT_DATA`: it counts what can be written to and is this
//! process's alone, touched or not, huge pages like small ones. Address space
//! that is only reserved does not count, but the pool of instances has gigabytes
//! of tables that it makes writable at once: so what the process has when it is
//! ready is not charged. Beyond the limit an allocation fails: in a native library
//! that is an error of the call, in a guest one of `memory.grow`, in our own
//! code the process's end, which the worker gets over.

use std::fmt;

/// Bytes, and what they follow from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// On top of what the process starts with.
    pub bytes: u64,
    /// What they follow from.
    pub bound: Bound,
}

/// What a budget follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// It was set.
    Set,
    /// What tasks and caches may take together.
    Settings,
    /// Three quarters of the machine's memory.
    Machine,
    /// Three quarters of the control group's limit.
    Group,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Bound::Set => "as set",
            Bound::Settings => "what tasks and caches may take together",
            Bound::Machine => "three quarters of the machine's memory",
            Bound::Group => "three quarters of the control group's limit",
        })
    }
}

/// What is there of the memory: the machine's and, if it has one, the control
/// group's limit. 0 is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Of the machine.
    pub machine: u64,
    /// Of the control group.
    pub group: Option<u64>,
}

/// The budget: what was set, or else the least of what the settings add up to
/// and three quarters of what there is. The last quarter is for the worker,
/// what the process starts with and what is not charged.
pub fn budget(set: Option<u64>, settings: u64, there: Memory) -> Budget {
    if let Some(bytes) = set {
        return Budget { bytes, bound: Bound::Set };
    }
    let three_quarters = |bytes: u64| bytes / 4 * 3;
    let machine = Some(there.machine).filter(|bytes| *bytes > 0);
    [
        Some((settings, Bound::Settings)),
        machine.map(|bytes| (three_quarters(bytes), Bound::Machine)),
        there.group.map(|bytes| (three_quarters(bytes), Bound::Group)),
    ]
    .into_iter()
    .flatten()
    .min_by_key(|(bytes, _)| *bytes)
    .map(|(bytes, bound)| Budget { bytes, bound })
    .expect("the settings' sum is always there")
}

/// Limits the process `pid`, which is ready and has no task yet, to `budget` on
/// top of what it has. From outside: the process itself may change no limit.
///
/// # Errors
///
/// It is gone, or not this user's.
#[cfg(target_os = "linux")]
pub fn enforce(pid: u32, budget: u64) -> anyhow::Result<()> {
    use anyhow::Context as _;
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let has = data(pid).with_context(|| format!("reading the memory use of process {pid}"))?;
    let limit = has.saturating_add(budget);
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw).context("no process's number")?;
    let data = Rlimit { current: Some(limit), maximum: Some(limit) };
    prlimit(Some(process), Resource::Data, data)
        .with_context(|| format!("limiting the memory of process {pid} to {limit} bytes"))?;
    Ok(())
}

/// Bytes that a process has of what `RLIMIT_DATA` counts.
#[cfg(target_os = "linux")]
fn data(pid: u32) -> anyhow::Result<u64> {
    use anyhow::Context as _;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmData:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).context("no line `VmData:`")?;
    Ok(kib.parse::<u64>()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_least_of_settings_machine_and_group_is_the_budget() {
        let of = |settings, machine, group| budget(None, settings, Memory { machine, group });
        let is = |bytes, bound| Budget { bytes, bound };
        assert_eq!(of(6 * GIB, 16 * GIB, None), is(6 * GIB, Bound::Settings));
        assert_eq!(of(60 * GIB, 16 * GIB, None), is(12 * GIB, Bound::Machine));
        assert_eq!(of(60 * GIB, 16 * GIB, Some(4 * GIB)), is(3 * GIB, Bound::Group));
        assert_eq!(of(60 * GIB, 16 * GIB, Some(32 * GIB)), is(12 * GIB, Bound::Machine));
        // A system that does not tell sets no bound.
        assert_eq!(of(6 * GIB, 0, None), is(6 * GIB, Bound::Settings));
        let set = budget(Some(GIB), 6 * GIB, Memory { machine: 16 * GIB, group: None });
        assert_eq!(set, is(GIB, Bound::Set));
    }
}
