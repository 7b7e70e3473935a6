/// What the manager's record of a task said when it sent the start: the state
/// that the task had before. The numbers are the manager's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ManagerState {
    /// 0: never started.
    Pending,
    /// 1: waits for its time.
    Scheduled,
    /// 2: started, and no result is known.
    Running,
    /// 3: ended well.
    Completed,
    /// 4: ended badly.
    Failed,
    /// 5: not run, because of another task of its job.
    Skipped,
    /// 6: stopped by the manager's own end.
    Interrupted,
    /// A number that a later manager may give a meaning.
    Other(u8),
}

impl From<u8> for ManagerState {
    fn from(number: u8) -> ManagerState {
        match number {
            0 => ManagerState::Pending,
            1 => ManagerState::Scheduled,
            2 => ManagerState::Running,
            3 => ManagerState::Completed,
            4 => ManagerState::Failed,
            5 => ManagerState::Skipped,
            6 => ManagerState::Interrupted,
            other => ManagerState::Other(other),
        }
    }
}

impl From<ManagerState> for u8 {
    fn from(state: ManagerState) -> u8 {
        match state {
            ManagerState::Pending => 0,
            ManagerState::Scheduled => 1,
            ManagerState::Running => 2,
            ManagerState::Completed => 3,
            ManagerState::Failed => 4,
            ManagerState::Skipped => 5,
            ManagerState::Interrupted => 6,
            ManagerState::Other(other) => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_states_number_is_kept_whatever_it_is() {
        for number in 0..=u8::MAX {
            assert_eq!(u8::from(ManagerState::from(number)), number);
        }
    }
}
