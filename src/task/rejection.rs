//! Why a task was not taken.

/// Why a task was not admitted. The text is the task's `error`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// A start message that can't be read: which field, and why.
    #[error("malformed start message: {0}")]
    Malformed(String),
    /// An argument that is unknown, malformed or not allowed here.
    #[error("{0}")]
    Argument(String),
    /// Something this worker does not do yet.
    #[error("{0}")]
    Unsupported(String),
    /// The module is missing, too large or not decodable.
    #[error("{0}")]
    Module(String),
    /// A directory outside the allowed roots, or one that is not there.
    #[error("{0}")]
    Directory(String),
    /// The queue is full.
    #[error(
        "busy: {running} tasks running, {queued} queued (limit {limit}); try again later or raise --queue"
    )]
    Busy {
        /// Tasks in execution.
        running: usize,
        /// Tasks waiting.
        queued: usize,
        /// The queue's capacity.
        limit: usize,
    },
    /// The waiting tasks take up too much of the disk.
    #[error(
        "busy: {running} tasks running, {queued} queued with {bytes} bytes (limit {limit}); try again later or raise --queue-bytes"
    )]
    BusyBytes {
        /// Tasks in execution.
        running: usize,
        /// Tasks waiting.
        queued: usize,
        /// Bytes that those hold.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The waiting tasks take up too much memory, and there is no journal.
    #[error(
        "busy: {running} tasks running, {queued} queued with {bytes} bytes in memory (limit {limit}); try again later, raise --queue-memory, or let the worker keep a journal (--state-dir)"
    )]
    BusyMemory {
        /// Tasks in execution.
        running: usize,
        /// Tasks waiting.
        queued: usize,
        /// Bytes that those hold.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// As many latent tasks are deployed as may be.
    #[error(
        "busy: {deployed} latent tasks are deployed (limit {limit}); stop one that is not needed, or raise --deployments"
    )]
    Deployments {
        /// Those that are deployed or being prepared.
        deployed: usize,
        /// The limit.
        limit: usize,
    },
    /// As many daemons run as may.
    #[error(
        "busy: {running} daemons run (limit {limit}); stop one that is not needed, or raise --daemons"
    )]
    Daemons {
        /// Those that run, or wait for it.
        running: usize,
        /// The limit.
        limit: usize,
    },
    /// The deployed tasks take up too much room.
    #[error(
        "busy: {deployed} latent tasks are deployed with {bytes} bytes (limit {limit}); stop one that is not needed, or raise --deployment-bytes"
    )]
    DeploymentBytes {
        /// Those that are deployed or being prepared.
        deployed: usize,
        /// Bytes that those hold.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Too many tasks wait for their admission.
    #[error(
        "busy: {waiting} tasks wait for their directories to be looked up; try again later, and see \
         whether an allowed directory hangs (a network mount whose server is gone?)"
    )]
    Admission {
        /// How many.
        waiting: usize,
    },
    /// The worker is on its way out.
    #[error("shutting down: the worker takes no new tasks")]
    ShuttingDown,
}
