//! A worker of the Propeller WebAssembly orchestrator. Wasmtime and wasi-nn are linked
//! in, so that no task spawns a process, writes a temporary file or loads a model twice;
//! guests and models run in one long-lived process of the worker's own ([`host`]).
//!
//! # The way of a task
//!
//! ```text
//! mqtt ──bytes──▶ protocol ──TaskRequest──▶ policy ──TaskSpec──▶ ledger ──effects──▶ queue ──▶ executor
//!   ▲                                         │ Rejection          │                             │
//!   │                                         ▼                    ▼ journal      runtime: engines, modules, sandbox
//!   └──bytes── protocol ◀──TaskResult── worker ◀───────Outcome─────┴─────────────────────────────┤
//!                     ▲ manager: when a result leaves, and whether it arrived                    └── nn: abi, graphs, backends
//! ```
//!
//! What follows from what happens to a task the [`ledger`] decides, without
//! doing any of it; the worker carries it out. Between message and queue, and
//! between outcome and publish, that has the [`journal`] write what must
//! survive the process.
//!
//! # What lives how long
//!
//! | lifetime | what |
//! |---|---|
//! | disk | the journal; compiled modules and the configuration's compiled graphs, which only save time ([`disk`]) |
//! | process | the engines for small and for large code, their linkers, epoch ticker, the one OpenVINO core, executor threads |
//! | artefact, shared by tasks | compiled module by digest; compiled graph by content or by name; inference requests of a graph |
//! | task | store, WASI context, wasi-nn context, output pipes, limiter, deadline: always fresh |
//!
//! # Invariants
//!
//! 1. Every task that was acknowledged to the broker ends in one result that
//!    the broker has acknowledged, whatever happens to the guest, the broker or
//!    the process. The same result may be seen more than once; a run
//!    never has two different results.
//! 2. A guest can harm only its own task.
//! 3. A module is compiled once and a graph is loaded once for all tasks that
//!    use it, also when they arrive at the same time.
//! 4. The MQTT poll loop never waits for a task, and the executor never waits
//!    for the broker.
//! 5. What a task was told (`cli_args`, `env`, `inputs`) means what it means to
//!    `wasmtime run`.
//! 6. Every error that reaches a user says what was tried, what was found, and
//!    what to do.
//!
//! Arrows point one way: which module may use which other one is the table of
//! `tests/it/layers.rs`, which is held against the sources. [`runtime`] and
//! [`nn`] never see [`mqtt`], [`protocol`], [`config`] or [`journal`]; what
//! crosses between them and the worker is plain data. Only [`worker`],
//! [`client`] and [`cli`] wire everything.

#[cfg(feature = "broker")]
pub mod broker;
pub mod cache;
pub mod cancel;
mod certificates;
pub mod cli;
pub mod client;
pub mod config;
mod cooldown;
pub mod deploy;
pub mod digest;
mod directory;
pub mod disk;
mod doctor;
pub mod escape;
pub mod executor;
pub mod flags;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod host;
pub mod journal;
pub mod ledger;
mod machine;
pub mod manager;
pub mod metrics;
pub mod mqtt;
pub mod network;
pub mod nn;
pub mod policy;
pub mod process;
pub mod protocol;
pub mod queue;
pub mod runtime;
pub mod sources;
mod status;
pub mod task;
pub mod usage;
pub mod version;
pub mod worker;
