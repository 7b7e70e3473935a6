//! The runtime as a process of its own: how it is started, kept and ended, what
//! it and the worker say to each other, what it may do, and what it may take.
//!
//! ```text
//! executor ─ Run ─▶ lane (a socket) ─▶ thread of the runtime ─▶ Runtime::run
//!    ▲                                        │
//!    └──────────── Ended, or the end of the socket: a crash
//! keeper: starts the process, starts another one when it crashed, retires one with stuck tasks
//! ```

#[cfg(target_os = "linux")]
mod caches;
#[cfg(target_os = "linux")]
mod channel;
#[cfg(target_os = "linux")]
pub mod child;
pub mod confine;
#[cfg(target_os = "linux")]
mod connections;
#[cfg(target_os = "linux")]
mod keeper;
#[cfg(target_os = "linux")]
mod levels;
pub mod memory;
#[cfg(target_os = "linux")]
mod messages;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
mod reach;
#[cfg(target_os = "linux")]
mod task_states;

#[cfg(target_os = "linux")]
pub use caches::Caches;
#[cfg(target_os = "linux")]
pub use keeper::{Keeper, Launch, RunEnd, RuntimeCondition, TaskPlace};
#[cfg(target_os = "linux")]
pub use levels::Levels;
#[cfg(target_os = "linux")]
pub use messages::{LogSetup, Setup};
#[cfg(target_os = "linux")]
pub use process::VERB;
