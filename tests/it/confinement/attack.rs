//! What a native library would try that a model has taken over. Needs nothing
//! but the standard library, so that it can be built as such a library, too.

use std::ffi::{c_int, c_long};
use std::fs;
use std::io;
use std::net::TcpStream;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The worker, as far as its runtime could know it.
pub struct Victim {
    /// Its process.
    pub pid: u32,
    /// A file that only it may read.
    pub secret: PathBuf,
    /// A folder that the process may not write to.
    pub elsewhere: PathBuf,
    /// A port that it listens on, of this machine.
    pub port: u16,
    /// A socket that it listens on.
    pub socket: PathBuf,
    /// Bytes of its memory.
    pub address: usize,
}

#[cfg(target_arch = "x86_64")]
mod numbers {
    pub const PTRACE: i64 = 101;
    pub const PROCESS_VM_READV: i64 = 310;
    pub const PIDFD_OPEN: i64 = 434;
    pub const KILL: i64 = 62;
    pub const TKILL: i64 = 200;
    pub const FORK: i64 = 57;
    pub const UNSHARE: i64 = 272;
    pub const IO_URING_SETUP: i64 = 425;
    pub const PRLIMIT: i64 = 302;
    pub const FCNTL: i64 = 72;
    pub const MEMFD_CREATE: i64 = 319;
}
#[cfg(target_arch = "aarch64")]
mod numbers {
    pub const PTRACE: i64 = 117;
    pub const PROCESS_VM_READV: i64 = 270;
    pub const PIDFD_OPEN: i64 = 434;
    pub const KILL: i64 = 129;
    pub const TKILL: i64 = 130;
    pub const FORK: i64 = -1;
    pub const UNSHARE: i64 = 97;
    pub const IO_URING_SETUP: i64 = 425;
    pub const PRLIMIT: i64 = 261;
    pub const FCNTL: i64 = 25;
    pub const MEMFD_CREATE: i64 = 279;
}
use numbers::*;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn _exit(code: c_int) -> !;
}

/// Each attempt with what it got: what it read, or that it succeeded.
pub fn attempts(victim: &Victim) -> Vec<(&'static str, io::Result<String>)> {
    let pid = i64::from(victim.pid);
    let entry = |name: &str| Path::new("/proc").join(victim.pid.to_string()).join(name);
    let done = |_: c_long| "done".to_owned();
    let read = |path: &Path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into());
    let stray = victim.elsewhere.join("stray");
    vec![
        ("read the state", read(&victim.secret)),
        (
            "list the state",
            victim
                .secret
                .parent()
                .expect("a folder")
                .read_dir()
                .map(|all| format!("{}", all.count())),
        ),
        ("write elsewhere", fs::write(&stray, "x").map(|()| "done".into())),
        (
            "open its permissions",
            fs::metadata(&victim.elsewhere)
                .and_then(|all| fs::set_permissions(&victim.elsewhere, all.permissions()))
                .map(|()| "done".into()),
        ),
        // Not shown: it is the environment of whoever runs the test.
        ("read its environment", read(&entry("environ")).map(|all| format!("{} bytes", all.len()))),
        ("read its command line", read(&entry("cmdline"))),
        ("list its descriptors", entry("fd").read_dir().map(|all| all.count().to_string())),
        ("open its memory", fs::File::open(entry("mem")).map(|_| "done".into())),
        ("read its memory", read_memory(pid, victim.address)),
        // PTRACE_SEIZE, which does not stop it.
        ("trace it", call(PTRACE, [0x4206, pid, 0, 0, 0, 0]).map(done)),
        ("hold it by a descriptor", call(PIDFD_OPEN, [pid, 0, 0, 0, 0, 0]).map(done)),
        ("signal it", call(KILL, [pid, 0, 0, 0, 0, 0]).map(done)),
        ("signal its thread", call(TKILL, [pid, 0, 0, 0, 0, 0]).map(done)),
        ("have its signals sent", send_signals(pid)),
        ("read its limits", call(PRLIMIT, [pid, 7, 0, 0, 0, 0]).map(done)),
        ("connect", TcpStream::connect(("127.0.0.1", victim.port)).map(|_| "done".into())),
        ("connect to its socket", UnixStream::connect(&victim.socket).map(|_| "done".into())),
        ("make a datagram socket", UnixDatagram::unbound().map(|_| "done".into())),
        ("make two of them", UnixDatagram::pair().map(|_| "done".into())),
        ("start a program", Command::new("/bin/true").status().map(|status| status.to_string())),
        ("fork", fork()),
        ("leave the namespace", call(UNSHARE, [0x1000_0000, 0, 0, 0, 0, 0]).map(done)),
        ("use io_uring", io_uring()),
    ]
}

/// What has to work all the same: without it, nothing else shows anything.
pub fn needs() -> io::Result<()> {
    std::thread::spawn(|| ()).join().expect("it does nothing");
    call(MEMFD_CREATE, [c"x".as_ptr() as i64, 0, 0, 0, 0, 0])?;
    fs::read("/proc/self/status")?;
    fs::read("/proc/meminfo").map(drop)
}

fn call(number: i64, arguments: [i64; 6]) -> io::Result<c_long> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the calls here take numbers, or addresses that their callers
    // vouch for.
    match unsafe { syscall(number, a, b, c, d, e, f) } {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

fn read_memory(pid: i64, address: usize) -> io::Result<String> {
    let mut bytes = [0_u8; 6];
    let ours = [bytes.as_mut_ptr().addr(), bytes.len()];
    let its = [address, bytes.len()];
    let list = |vector: &[usize; 2]| vector.as_ptr().addr() as i64;
    call(PROCESS_VM_READV, [pid, list(&ours), 1, list(&its), 1, 0])?;
    Ok(String::from_utf8_lossy(&std::hint::black_box(bytes)).into())
}

/// A file whose owner the other process becomes would have the system send it
/// any signal.
fn send_signals(pid: i64) -> io::Result<String> {
    const F_SETOWN: i64 = 8;
    let pair = UnixStream::pair()?;
    let descriptor = i64::from(std::os::fd::AsRawFd::as_raw_fd(&pair.0));
    call(FCNTL, [descriptor, F_SETOWN, pid, 0, 0, 0]).map(|_| "done".into())
}

fn fork() -> io::Result<String> {
    const ENOSYS: i32 = 38;
    if FORK < 0 {
        return Err(io::Error::from_raw_os_error(ENOSYS));
    }
    match call(FORK, [0; 6])? {
        // SAFETY: ends the child without anything of its parent's.
        0 => unsafe { _exit(0) },
        _ => Ok("done".into()),
    }
}

fn io_uring() -> io::Result<String> {
    let parameters = [0_u64; 16];
    call(IO_URING_SETUP, [1, parameters.as_ptr().addr() as i64, 0, 0, 0, 0])?;
    std::hint::black_box(parameters);
    Ok("done".into())
}
