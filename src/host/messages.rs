//! What the worker and the runtime's process say to each other. Plain data.
//!
//! ```text
//! control:  Setup, then a descriptor for each lane ─▶      ◀─ Ready or Failed
//!           Stop, LogLevel, End ─▶
//!           Levels ─▶                                      ◀─ Levels
//!           Paused ─▶                                      ◀─ Paused
//!           Connected, with the connection ─▶              ◀─ Connect
//! a lane:   Run ─▶   (◀─ Code   Code ─▶)   (◀─ Began)   ◀─ Ended
//!           Run, with the listener of a server ─▶   (◀─ Served, ◀─ Stuck)   ◀─ Ended
//! ```
//!
//! A lane is a thread of the runtime with a socket of its own, and has one task
//! at a time, so a task costs two packets and two threads that wake up.

use super::caches::CacheFolders;
use super::confine::Confinement;
use super::levels::Levels;
use crate::cancel::Reason;
use crate::network::ConnectError;
use crate::nn::{NnConfig, PausedModel};
use crate::runtime::{InstancePool, Requests, Served};
use crate::task::{Outcome, TaskSpec};
use crate::usage::ThreadUsage;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// What a runtime is made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    /// Bytes of compiled code that are kept.
    pub module_cache: u64,
    /// Bytes of files' contents that are kept in memory.
    pub file_cache: u64,
    /// Modules of either size that are compiled at the same time.
    pub compilers: usize,
    /// Bytes that a compile may take.
    pub compile_memory: u64,
    /// Slots for instances.
    pub pool: InstancePool,
    /// Requests of HTTP servers.
    pub requests: Requests,
    /// Whom guests' requests trust, in the binary form; none: they send none.
    pub trusted: Option<Vec<Vec<u8>>>,
    /// wasi-nn.
    pub nn: NnConfig,
    /// Models that are not compiled for a while; given to each process that is started.
    pub paused: Vec<PausedModel>,
    /// Where it keeps what it compiles; given to each process that is started.
    pub disk: Option<CacheFolders>,
    /// Whether the configuration's graphs are loaded at the start.
    pub preload: bool,
    /// What the process may reach.
    pub confinement: Confinement,
    /// How it logs; without, it does not.
    pub log: Option<LogSetup>,
}

/// How the runtime logs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogSetup {
    /// What is logged.
    pub directives: String,
    /// As lines of JSON.
    pub json: bool,
}

/// From the worker, beside the lanes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// The first: what the runtime is made of, with its notes and so many lanes,
    /// one each in the [`Order::Lane`] that follow.
    Setup(Box<Setup>, u32),
    Lane,
    /// The run on this lane is to end.
    Stop(u32, u64, Reason),
    /// How the runtime stands is asked for, by the number of the question.
    Levels(u64),
    /// Another process was compiling this model when its task ended.
    Paused(PausedModel),
    /// What is logged from now on.
    LogLevel(String),
    /// The connection that was asked for with this number, or why there is none.
    Connected(u64, Result<(), ConnectError>),
    /// The process is to end in order.
    End,
}

/// To the worker, beside the lanes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// It takes tasks: the threads of its lanes, and what its system lacks.
    Ready(Vec<u32>, Vec<String>),
    /// It can't.
    Failed(String),
    /// How it stands, by the number of the question.
    Levels(u64, Box<Levels>),
    /// No task waits any more for this model, which it compiles, or has compiled after all.
    Paused(PausedModel),
    /// A guest wants a connection to this host and port: a number for the answer.
    Connect(u64, String, u16),
}

/// To a lane.
#[derive(Debug, Serialize, Deserialize)]
#[allow(
    clippy::large_enum_variant,
    reason = "it is moved once; a box would be an allocation for each task"
)]
pub(super) enum LaneWork<'a> {
    /// A task, by the number of its run.
    Run(u64, Cow<'a, TaskSpec>),
    /// The code that was asked for.
    Code(#[serde(with = "crate::task::serialization::bytes")] Vec<u8>),
}

/// From a lane.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum LaneAnswer {
    /// The task's code is not here.
    Code,
    /// Its guest begins.
    Began,
    /// What a server has served so far.
    Served(Box<Served>),
    /// One of a server's requests will never end.
    Stuck,
    /// It has ended.
    Ended(Box<EndMessage>),
}

/// The end of a run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct EndMessage {
    pub(super) outcome: Outcome,
    /// Bytes of the guest's memories.
    pub(super) memory: u64,
    /// Of its thread, if it is asked for.
    pub(super) used: Option<ThreadUsage>,
}
