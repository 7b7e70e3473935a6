//! How tasks that waited on the disk are read back when their turn comes.

use super::reload::SharedPolicy;
use super::servers::Servers;
use crate::cancel::Cancel;
use crate::executor::Recall;
use crate::journal::{JournalReader, ReadError, Run};
use crate::policy::Policy;
use crate::task::{Failure, TaskSpec};
use std::time::{Duration, Instant};

/// Time between attempts while the disk fails.
const RETRY: Duration = Duration::from_secs(1);

/// From the journal, admitted by the policy as it is now.
pub(super) fn recall(
    reader: Option<JournalReader>,
    policy: SharedPolicy,
    servers: Servers,
) -> Box<Recall> {
    Box::new(move |run, cancel| {
        let reader = reader.as_ref().ok_or_else(|| {
            Failure::Internal("a task is neither in memory nor in a journal".into())
        })?;
        read(reader, &policy.now(), run, cancel).map(|spec| servers.as_known(spec))
    })
}

fn read(
    reader: &JournalReader,
    policy: &Policy,
    run: Run,
    cancel: &Cancel,
) -> Result<TaskSpec, Failure> {
    loop {
        match reader.request(run) {
            Ok(request) => {
                return policy.admit(request).map_err(|e| Failure::Recall(e.to_string()));
            }
            // The journal says so in the log. It can't record a result either.
            Err(ReadError::Disk(_)) => cancel.wait_until(Instant::now() + RETRY)?,
            Err(e) => return Err(Failure::Recall(e.to_string())),
        }
    }
}
