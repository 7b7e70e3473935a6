//! System calls by a seccomp filter: those that are listed, and no other.
//!
//! A list of what is allowed, since a list of what is forbidden is out of date
//! with the next kernel: io_uring passed by each one of its day. What is not
//! listed fails as if the kernel did not have it (`ENOSYS`): libraries are
//! written to do without a call that is new, while `EPERM` and a signal are
//! surprises to them. So a library that tries one fails in an orderly way, as
//! its task does, and the tasks beside it go on.

use anyhow::Context as _;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;

/// May be called with any argument: they reach this process alone, or what
/// Landlock lets it open.
const ANY: &[libc::c_long] = &[
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mbind,
    libc::SYS_get_mempolicy,
    libc::SYS_set_mempolicy,
    libc::SYS_membarrier,
    libc::SYS_memfd_create,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_msync,
    libc::SYS_munlock,
    libc::SYS_munmap,
    libc::SYS_pkey_alloc,
    libc::SYS_pkey_free,
    libc::SYS_pkey_mprotect,
    // Threads and their signals.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_get_robust_list,
    libc::SYS_getcpu,
    libc::SYS_gettid,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sigaltstack,
    // Time and chance.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_times,
    // What is told of this process and the machine.
    libc::SYS_getcwd,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getpriority,
    libc::SYS_getrusage,
    libc::SYS_getuid,
    libc::SYS_sysinfo,
    libc::SYS_umask,
    libc::SYS_uname,
    // Children, of which there is one at most from before the filter.
    libc::SYS_wait4,
    libc::SYS_waitid,
    // Files by descriptor.
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getdents64,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readahead,
    libc::SYS_readv,
    libc::SYS_sendfile,
    libc::SYS_sync_file_range,
    libc::SYS_write,
    libc::SYS_writev,
    // Files by path: all of it goes by Landlock, but for looking at what is
    // there and for times. `chmod`, `chown`, `truncate` and attributes, which
    // Landlock lets pass or once did, are missing.
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_linkat,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_readlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    // Waiting for descriptors, and sockets that are connected already or that the
    // worker listens on.
    libc::SYS_accept4,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_gettime,
    libc::SYS_timerfd_settime,
    // As it asks for memory on its stack, its arguments can't be looked at;
    // `confine` takes it away again.
    libc::SYS_clone3,
];

/// The names that the same calls had before, which some systems still use.
#[cfg(target_arch = "x86_64")]
const OLDER: &[libc::c_long] = &[
    libc::SYS_access,
    // Also how the processor's matrix unit is asked for.
    libc::SYS_arch_prctl,
    libc::SYS_dup2,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd,
    libc::SYS_getdents,
    libc::SYS_getrlimit,
    libc::SYS_link,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_select,
    libc::SYS_stat,
    libc::SYS_symlink,
    libc::SYS_time,
    libc::SYS_unlink,
];
#[cfg(target_arch = "aarch64")]
const OLDER: &[libc::c_long] = &[libc::SYS_getrlimit];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const OLDER: &[libc::c_long] = &[];

/// What makes a thread of this process, and what else belongs to one. Without any
/// other flag there is neither a process nor a namespace.
const THREAD_MUST: libc::c_int = libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND;
const THREAD_MAY: libc::c_int = libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_SETTID
    | libc::CLONE_CHILD_CLEARTID
    | libc::CLONE_DETACHED;

/// Of `fcntl`. The ones that send a signal to another process are missing.
const FCNTL: &[libc::c_int] = &[
    libc::F_ADD_SEALS,
    libc::F_DUPFD,
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETFD,
    libc::F_GETFL,
    libc::F_GETLK,
    libc::F_GET_SEALS,
    libc::F_OFD_GETLK,
    libc::F_OFD_SETLK,
    libc::F_OFD_SETLKW,
    libc::F_SETFD,
    libc::F_SETFL,
    libc::F_SETLK,
    libc::F_SETLKW,
];

/// Of `ioctl`. The ones of devices and terminals, `TIOCSTI` first of all, are
/// missing.
const IOCTL: &[u64] =
    &[libc::FIOCLEX, libc::FIONBIO, libc::FIONCLEX, libc::FIONREAD, libc::TCGETS, libc::TIOCGWINSZ];

/// Of `prctl`.
const PRCTL: &[libc::c_int] = &[
    libc::PR_CAPBSET_READ,
    libc::PR_GET_DUMPABLE,
    libc::PR_GET_NAME,
    libc::PR_GET_NO_NEW_PRIVS,
    libc::PR_GET_PDEATHSIG,
    libc::PR_GET_SECCOMP,
    libc::PR_SET_NAME,
    libc::PR_SET_NO_NEW_PRIVS,
    libc::PR_SET_VMA,
];

/// Confines this thread and those that it will start. With `devices` every
/// `ioctl` may be called.
pub(super) fn confine(devices: bool) -> anyhow::Result<()> {
    let allowed = filter(allowed(devices)?, SeccompAction::Errno(ENOSYS), SeccompAction::Allow)?;
    // Its flags lie in memory, where a filter does not look; without it the
    // threads' library uses `clone`.
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let clone3 = filter(clone3, SeccompAction::Allow, SeccompAction::Errno(ENOSYS))?;
    // The outer one last, since it forbids to install any.
    for program in [clone3, allowed] {
        seccompiler::apply_filter(&program).context("installing the filter of system calls")?;
    }
    Ok(())
}

const ENOSYS: u32 = libc::ENOSYS.unsigned_abs();

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn filter(
    rules: Rules,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> anyhow::Result<BpfProgram> {
    let arch = std::env::consts::ARCH.try_into().context("a filter of system calls")?;
    SeccompFilter::new(rules, otherwise, matched, arch)
        .and_then(TryInto::try_into)
        .context("making the filter of system calls")
}

/// A call may be made if one of its rules holds; without any, always.
fn allowed(devices: bool) -> anyhow::Result<Rules> {
    let mut rules: Rules = ANY.iter().chain(OLDER).map(|call| (*call, Vec::new())).collect();
    for (call, argument, values) in [
        (libc::SYS_fcntl, 1, FCNTL),
        (libc::SYS_prctl, 0, PRCTL),
        // To this process, as `abort` does; its number is nobody else's while
        // it lives.
        (libc::SYS_tgkill, 0, &[std::process::id().cast_signed()]),
    ] {
        let alternatives = values.iter().map(|value| rule(&[is(argument, bits(*value))]));
        rules.insert(call, alternatives.collect::<anyhow::Result<_>>()?);
    }
    let ioctl = IOCTL.iter().filter(|_| !devices).map(|request| rule(&[is(1, *request)]));
    rules.insert(libc::SYS_ioctl, ioctl.collect::<anyhow::Result<_>>()?);
    for (call, conditions) in [
        // Of Unix and in a stream: the one end is the other's only address.
        (
            libc::SYS_socketpair,
            vec![
                is(0, bits(libc::AF_UNIX)),
                (1, Length::Dword, Op::MaskedEq(0xf), bits(libc::SOCK_STREAM)),
            ],
        ),
        // With no address but that, and none that a connection is made to on the way.
        (libc::SYS_sendto, vec![(4, Length::Qword, Op::Eq, 0), no_flag(3, libc::MSG_FASTOPEN)]),
        (libc::SYS_sendmsg, vec![no_flag(2, libc::MSG_FASTOPEN)]),
        // Of the thread itself, which can only go down.
        (libc::SYS_setpriority, vec![is(0, bits(libc::PRIO_PROCESS.cast_signed())), is(1, 0)]),
        // This process's own limits, to be read.
        (libc::SYS_prlimit64, vec![is(0, 0), (2, Length::Qword, Op::Eq, 0)]),
        (
            libc::SYS_clone,
            vec![(0, Length::Qword, Op::MaskedEq(!bits(THREAD_MAY)), bits(THREAD_MUST))],
        ),
    ] {
        rules.insert(call, vec![rule(&conditions)?]);
    }
    Ok(rules)
}

type SyscallCondition = (u8, Length, Op, u64);

/// That the lower half of an argument, an `int`, has this value.
fn is(argument: u8, value: u64) -> SyscallCondition {
    (argument, Length::Dword, Op::Eq, value)
}

/// That an argument does not have this flag.
fn no_flag(argument: u8, flag: libc::c_int) -> SyscallCondition {
    (argument, Length::Dword, Op::MaskedEq(bits(flag)), 0)
}

/// Holds if all of the conditions do.
fn rule(conditions: &[SyscallCondition]) -> anyhow::Result<SeccompRule> {
    let conditions = conditions
        .iter()
        .cloned()
        .map(|(argument, length, op, value)| SeccompCondition::new(argument, length, op, value));
    let conditions = conditions.collect::<Result<_, _>>();
    conditions.and_then(SeccompRule::new).context("a rule for a system call")
}

/// As the kernel sees an `int` in an argument.
fn bits(value: libc::c_int) -> u64 {
    u64::from(value.cast_unsigned())
}

/// What there is to say if this kernel has no such filters. It reads a file that
/// Landlock's rules hide.
pub(super) fn missing() -> Option<String> {
    // Says which actions there are; each kernel with filters has a list.
    let there = std::path::Path::new("/proc/sys/kernel/seccomp/actions_avail").exists();
    (!there).then(|| {
        "this kernel has no seccomp filters, so the runtime may make any system call: it can start \
         programs and open connections"
            .into()
    })
}
