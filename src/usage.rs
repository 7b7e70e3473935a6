//! What the process and its threads use of the machine, as the system tells.
//!
//! Reads `/proc` and the control group's files where there are any; elsewhere
//! processor time and resident memory alone are known.

use std::fs;
use std::path::Path;
use std::time::Duration;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// The kernel counts time for user programs in hundredths of a second,
/// whatever it counts itself in.
const TICK: Duration = Duration::from_millis(10);

/// What the process has used so far and holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time in user mode; all of it where the two can't be told apart.
    pub user: Duration,
    /// Processor time in the kernel.
    pub system: Duration,
    /// Resident memory in bytes.
    pub resident: u64,
    /// Of that, what is not backed by a file: heap and stacks. 0 if unknown.
    pub anonymous: u64,
    /// Address space for data, whether touched or not. 0 if unknown.
    pub data: u64,
    /// What the control group uses and may use, in bytes.
    pub container: Container,
}

/// What a control group uses and may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// Bytes in use.
    pub usage: Option<u64>,
    /// The limit in bytes, if there is one.
    pub limit: Option<u64>,
}

impl Usage {
    /// This process's, now.
    pub fn now() -> Usage {
        let stat = fs::read_to_string("/proc/self/stat").ok();
        let Some((user, system)) = stat.as_deref().and_then(times) else { return elsewhere() };
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let kib = |name: &str| field(&status, name).map_or(0, |kib| kib << 10);
        Usage {
            user,
            system,
            resident: kib("VmRSS:"),
            anonymous: kib("RssAnon:"),
            data: kib("VmData:"),
            container: Container::now(),
        }
    }

    /// The processor time and the resident memory of another process, while it is
    /// there and the system tells.
    pub fn of(process: u32) -> Option<Usage> {
        let folder = Path::new("/proc").join(process.to_string());
        let (user, system) = times(&fs::read_to_string(folder.join("stat")).ok()?)?;
        let status = fs::read_to_string(folder.join("status")).unwrap_or_default();
        let resident = field(&status, "VmRSS:").map_or(0, |kib| kib << 10);
        Some(Usage { user, system, resident, ..Usage::default() })
    }

    /// Processor time altogether.
    pub fn processor(&self) -> Duration {
        self.user + self.system
    }
}

impl Container {
    /// That of this process, now. Inside a container its own group is the root
    /// of what is mounted there.
    pub fn now() -> Container {
        let number = |path: &str| {
            fs::read_to_string(Path::new("/sys/fs/cgroup").join(path)).ok()?.trim().parse().ok()
        };
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Container {
            usage: number("memory.current").or_else(|| number("memory/memory.usage_in_bytes")),
            limit: memory_limit(&groups, number),
        }
    }
}

/// The least limit of the control groups that `/proc/self/cgroup` names and
/// of those around them. `number` reads a file below the place where groups
/// are mounted; in a container that is often its own, whatever the name says.
fn memory_limit(groups: &str, number: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    const ROOTS: [&str; 2] = ["0::/", "0:memory:/"];
    let limits = groups.lines().chain(ROOTS).flat_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap_or("-"), fields.next().unwrap_or_default());
        let (folder, file) = match controllers {
            "" => ("", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("memory", "memory.limit_in_bytes")
            }
            _ => return Vec::new(),
        };
        let around = Path::new(path.trim_start_matches('/')).ancestors();
        let files = around.map(|group| Path::new(folder).join(group).join(file));
        files.filter_map(|file| number(file.to_str()?)).collect()
    });
    // The first version of control groups writes a page less than 2^63 for none.
    limits.filter(|limit| *limit < 1 << 60).min()
}

/// Files that this process has open, where the system tells.
pub fn open_files() -> Option<u32> {
    // One of them is the folder that is read here.
    let open = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
    u32::try_from(open).ok()
}

/// Where there is no `/proc`.
fn elsewhere() -> Usage {
    let pid = Pid::from_u32(std::process::id());
    let mut system = System::new();
    let what = ProcessRefreshKind::nothing().with_cpu().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, what);
    system.process(pid).map_or_else(Usage::default, |process| Usage {
        user: Duration::from_millis(process.accumulated_cpu_time()),
        resident: process.memory(),
        ..Usage::default()
    })
}

/// A thread of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread(String);

impl Thread {
    /// The one that calls, where the system tells.
    pub fn current() -> Option<Thread> {
        let link = fs::read_link("/proc/thread-self").ok()?;
        Some(Thread(link.file_name()?.to_str()?.to_owned()))
    }

    /// Its number in the system.
    pub fn number(&self) -> Option<u32> {
        self.0.rsplit('/').next()?.parse().ok()
    }

    /// A thread of another process.
    pub fn of(process: u32, thread: u32) -> Thread {
        Thread(format!("/proc/{process}/task/{thread}"))
    }

    /// What the one that calls has used so far, its processor time to the
    /// nanosecond. `None` where the system does not tell of threads.
    pub fn own_usage() -> Option<ThreadUsage> {
        let usage = Thread::current()?.usage()?;
        Some(ThreadUsage { processor: own_processor_time().unwrap_or(usage.processor), ..usage })
    }

    /// What it has used so far, if it still runs; its processor time in
    /// hundredths of a second.
    /// Only root is told what a process that hides its memory reads and writes:
    /// for others those are 0.
    pub fn usage(&self) -> Option<ThreadUsage> {
        let folder = Path::new("/proc/self/task").join(&self.0);
        let (user, system) = times(&fs::read_to_string(folder.join("stat")).ok()?)?;
        let io = fs::read_to_string(folder.join("io")).unwrap_or_default();
        Some(ThreadUsage {
            processor: user + system,
            read: field(&io, "read_bytes:"),
            written: field(&io, "write_bytes:"),
        })
    }
}

/// What a thread has used since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ThreadUsage {
    /// Processor time.
    pub processor: Duration,
    /// Bytes read from disks, if the kernel counts them.
    pub read: Option<u64>,
    /// Bytes written to disks, likewise.
    pub written: Option<u64>,
}

impl ThreadUsage {
    /// What was used since `earlier`.
    pub fn since(&self, earlier: &ThreadUsage) -> ThreadUsage {
        let bytes = |now: Option<u64>, then: Option<u64>| Some(now?.saturating_sub(then?));
        ThreadUsage {
            processor: self.processor.saturating_sub(earlier.processor),
            read: bytes(self.read, earlier.read),
            written: bytes(self.written, earlier.written),
        }
    }
}

#[cfg(target_os = "linux")]
fn own_processor_time() -> Option<Duration> {
    use rustix::time::{ClockId, clock_gettime};
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Some(Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?))
}

#[cfg(not(target_os = "linux"))]
fn own_processor_time() -> Option<Duration> {
    None
}

/// User and system time of `/proc/…/stat`: fields 14 and 15, of which the
/// second one, the name in parentheses, may hold anything.
fn times(stat: &str) -> Option<(Duration, Duration)> {
    let (_, behind) = stat.rsplit_once(')')?;
    let mut fields = behind.split_ascii_whitespace().skip(11);
    let mut next = || Some(TICK * fields.next()?.parse().ok()?);
    Some((next()?, next()?))
}

/// The number behind a name at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_whose_name_holds_parentheses_has_times() {
        let stat = "42 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0 100 1 1";
        let seconds = Duration::from_secs_f64;
        assert_eq!(times(stat), Some((seconds(2.5), seconds(0.5))));
        assert_eq!(times("nothing of the kind"), None);
    }

    #[test]
    fn this_process_uses_something() {
        let usage = Usage::now();
        assert!(usage.resident > 1 << 20, "{usage:?}");
        assert_eq!(elsewhere().resident >> 24 > 0, usage.resident >> 24 > 0);
        let same = Usage::of(std::process::id());
        assert_eq!(same.is_some_and(|same| same.resident > 1 << 20), cfg!(target_os = "linux"));
        if cfg!(target_os = "linux") {
            let thread = Thread::current().expect("a thread");
            assert!(thread.usage().is_some());
            // The three standard ones at least.
            assert!(open_files() >= Some(3));
            let before = Thread::own_usage().expect("a thread");
            while Thread::own_usage().expect("a thread").since(&before).processor.is_zero() {}
        }
    }

    /// Of both versions, with the group's own files and those around it.
    #[test]
    fn the_least_limit_of_the_groups_counts() {
        let limit = |groups: &str, files: &[(&str, u64)]| {
            memory_limit(groups, |name| {
                files.iter().find(|(file, _)| *file == name).map(|(_, limit)| *limit)
            })
        };
        let second = "0::/system.slice/proplet.service\n";
        assert_eq!(limit(second, &[]), None);
        assert_eq!(limit(second, &[("system.slice/proplet.service/memory.max", 5)]), Some(5));
        let around =
            [("system.slice/proplet.service/memory.max", 5), ("system.slice/memory.max", 4)];
        assert_eq!(limit(second, &around), Some(4));
        let first = "5:cpu:/a\n4:memory,hugetlb:/docker/1\n0::/x\n";
        assert_eq!(limit(first, &[("memory/docker/1/memory.limit_in_bytes", 3)]), Some(3));
        let none = [("memory/memory.limit_in_bytes", (1 << 63) - 4096), ("memory.max", 7)];
        assert_eq!(limit(first, &none), Some(7));
        assert_eq!(limit(first, &none[..1]), None);
        // A container's own group is the root of what it sees.
        assert_eq!(limit("4:memory:/elsewhere\n", &[("memory/memory.limit_in_bytes", 2)]), Some(2));
        assert_eq!(limit("", &[("memory.max", 1)]), Some(1));
    }

    #[test]
    fn fields_are_found_at_the_start_of_a_line() {
        let status = "Name:\tVmRSS:\nVmRSS:\t  1234 kB\n";
        assert_eq!(field(status, "VmRSS:"), Some(1234));
        assert_eq!(field(status, "VmSwap:"), None);
    }
}
