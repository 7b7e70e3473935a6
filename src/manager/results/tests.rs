//! Sequences of events against what has to leave, and when.

use super::*;
use crate::journal::Run;
use bytes::Bytes;
use proptest::prelude::*;

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn timing() -> Timing {
    Timing { hold: 5 * MILLI, repeat: vec![2 * SECOND, 10 * SECOND] }
}

fn id(id: &str) -> TaskId {
    TaskId::new(id).expect("an id")
}

/// The result of a run, as the ledger has it published.
fn result(run: u64, task: &str, result: &'static str, arrived: Option<Instant>) -> Publication {
    let (run, id) = (Run(run), id(task));
    Publication { run, id, result: result.into(), arrived, replay: false }
}

/// What is to be done up to this time, and when.
fn until(results: &mut Results, from: Instant, to: Instant) -> Vec<(Duration, Action)> {
    let mut done = Vec::new();
    let mut now = from;
    loop {
        while let Some(action) = results.next(now) {
            match &action {
                Action::Publish(departure) => {
                    results.delivered(departure.clone(), now);
                }
                Action::Repeat(_) => results.written(),
            }
            done.push((now - from, action));
        }
        match results.due().filter(|due| *due <= to) {
            Some(due) => now = now.max(due),
            None => return done,
        }
    }
}

fn times(done: &[(Duration, Action)]) -> Vec<Duration> {
    done.iter().map(|(at, _)| *at).collect()
}

#[test]
fn a_quick_result_is_held_and_published_again_twice_the_same() {
    let (mut results, start) = (Results::new(timing()), Instant::now());
    results.publish(result(1, "a", "result", Some(start)), start + MILLI);
    let done = until(&mut results, start, start + 100 * SECOND);
    assert_eq!(times(&done), [5 * MILLI, 5 * MILLI + 2 * SECOND, 5 * MILLI + 10 * SECOND]);
    let departure = match &done[0].1 {
        Action::Publish(departure) => departure,
        Action::Repeat(_) => panic!("a repeat first"),
    };
    assert_eq!(departure.publication.result, "result");
    assert_eq!(done[1].1, Action::Repeat(departure.clone()));
    assert_eq!(done[2].1, Action::Repeat(departure.clone()));
    assert_eq!(results.due(), None);
}

#[test]
fn a_slow_result_leaves_at_once_and_is_not_repeated() {
    let (mut results, start) = (Results::new(timing()), Instant::now());
    let now = start + QUICK;
    results.publish(result(1, "slow", "r", Some(start)), now);
    results.publish(result(2, "of an earlier process", "r", None), now);
    assert_eq!(times(&until(&mut results, now, now + 100 * SECOND)), [Duration::ZERO; 2]);
    results.publish(result(3, "almost slow", "r", Some(start)), now - MILLI);
    assert_eq!(until(&mut results, now - MILLI, now + 100 * SECOND).len(), 3);
}

#[test]
fn nothing_is_held_or_repeated_where_that_is_not_wanted() {
    let now = Instant::now();
    let mut results = Results::new(Timing { hold: Duration::ZERO, repeat: vec![] });
    results.publish(result(1, "a", "r", Some(now)), now);
    assert_eq!(times(&until(&mut results, now, now + 100 * SECOND)), [Duration::ZERO]);
}

#[test]
fn a_task_that_is_started_again_stopped_or_ended_again_is_not_repeated() {
    let start = Instant::now();
    for when in [3 * MILLI, SECOND, 5 * SECOND] {
        let mut results = Results::new(timing());
        results.publish(result(1, "a", "old", Some(start)), start);
        let before = until(&mut results, start, start + when).len();
        results.supersede(&id("a"));
        let after = until(&mut results, start + when, start + 100 * SECOND);
        // A result that is held leaves all the same.
        assert_eq!(before + after.len(), if when > 2 * SECOND { 2 } else { 1 }, "{when:?}");
    }
    let mut results = Results::new(timing());
    results.publish(result(1, "a", "old", Some(start)), start);
    until(&mut results, start, start + SECOND);
    let now = start + SECOND;
    results.publish(result(2, "a", "new", Some(now)), now);
    let done = until(&mut results, now, now + 100 * SECOND);
    assert_eq!(done.len(), 3);
    let run = |(_, Action::Publish(departure) | Action::Repeat(departure)): &(_, Action)| {
        departure.publication.run
    };
    assert!(done.iter().all(|done| run(done) == Run(2)));
}

#[test]
fn only_the_last_publication_of_a_result_is_repeated() {
    let (mut results, start) = (Results::new(timing()), Instant::now());
    results.publish(result(1, "a", "r", Some(start)), start);
    let Some(Action::Publish(first)) = results.next(start + 5 * MILLI) else { panic!() };
    // The same result, for a start that came again before it was delivered.
    results.publish(result(1, "a", "r", Some(start)), start + 6 * MILLI);
    assert!(!results.delivered(first, start + 7 * MILLI));
    assert_eq!(until(&mut results, start + 7 * MILLI, start + 100 * SECOND).len(), 3);
}

#[test]
fn of_more_than_500_repeats_a_second_the_oldest_are_let_go() {
    let (mut results, start) = (Results::new(timing()), Instant::now());
    for n in 0..3_000_u64 {
        results.publish(result(n, &n.to_string(), "r", Some(start)), start);
    }
    let done = until(&mut results, start, start + 100 * SECOND);
    let repeats: Vec<_> = times(&done).split_off(3_000);
    for (at, later) in repeats.iter().zip(&repeats[RATE..]) {
        assert!(*later - *at >= SECOND, "{at:?} {later:?}");
    }
    // Of each of the two rounds: those of the moment, and those that waited.
    assert_eq!(repeats.len(), 2 * READY);
    assert_eq!(results.take_let_go(), 2 * 3_000 - 2 * READY as u64);
    assert_eq!(results.take_let_go(), 0);
}

#[test]
fn a_connection_that_does_not_write_holds_up_repeats_alone() {
    let (mut results, start) = (Results::new(timing()), Instant::now());
    for n in 0..100 {
        results.publish(result(n, &n.to_string(), "r", None), start);
    }
    for n in 100..200 {
        results.publish(result(n, &n.to_string(), "r", Some(start)), start);
    }
    assert_eq!(until(&mut results, start, start + SECOND).len(), 200);
    let now = start + 3 * SECOND;
    let unwritten = std::iter::from_fn(|| results.next(now)).count();
    assert_eq!(unwritten, UNWRITTEN);
    assert!(results.due().is_some_and(|due| due > now));
    results.publish(result(200, "200", "r", None), now);
    assert!(matches!(results.next(now), Some(Action::Publish(_))));
    results.written();
    assert!(matches!(results.next(now), Some(Action::Repeat(_))));
}

#[test]
fn the_bytes_that_are_held_and_repeated_are_bounded() {
    let (mut results, start) = (Results::new(timing()), Instant::now());
    let large = Bytes::from(vec![0; BYTES / 4 + 1]);
    for n in 0..4 {
        let large =
            Publication { result: large.clone(), ..result(n, &n.to_string(), "", Some(start)) };
        results.publish(large, start);
    }
    // The first one leaves too early rather than not at all.
    let Some(Action::Publish(first)) = results.next(start) else { panic!("all are held") };
    assert_eq!((first.publication.run, results.next(start)), (Run(0), None));
    results.delivered(first, start);
    assert_eq!(until(&mut results, start, start + 100 * SECOND).len(), 3 + 2 * 3);
    assert_eq!((results.repeat_bytes, results.take_let_go()), (0, 2));
}

#[test]
fn at_the_end_all_leave_and_none_is_repeated() {
    let (mut results, start) = (Results::new(timing()), Instant::now());
    results.publish(result(1, "a", "r", Some(start)), start);
    until(&mut results, start, start + SECOND);
    let now = start + SECOND;
    results.publish(result(2, "b", "r", Some(now)), now);
    results.close();
    results.publish(result(3, "c", "r", Some(now)), now);
    assert_eq!(times(&until(&mut results, now, now + 100 * SECOND)), [Duration::ZERO; 2]);
    assert_eq!(results.due(), None);
}

#[derive(Clone, Debug)]
enum Step {
    Publish { task: usize, age: u64 },
    Started(usize),
    Deliver,
    Written,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..4_usize, 0..3_000_u64).prop_map(|(task, age)| Step::Publish { task, age }),
        1 => (0..4_usize).prop_map(Step::Started),
        3 => Just(Step::Deliver),
        2 => Just(Step::Written),
        4 => (0..4_000_u64).prop_map(Step::Pass),
    ]
}

proptest! {
    /// Whatever comes in whatever order: each result is published once, in
    /// time, and repeated only as the last word on its task.
    #[test]
    fn each_result_leaves_once_and_repeats_are_its_own(
        steps in prop::collection::vec(step(), 0..200),
    ) {
        let mut results = Results::new(timing());
        let start = Instant::now();
        // Far from the clock's beginning, so that starts can lie before.
        let mut now = start + 10 * SECOND;
        let mut run = 0;
        let mut expected: HashMap<u64, (usize, Instant)> = HashMap::new();
        let mut under_way = VecDeque::new();
        // By task: its last run, when that was delivered, and its repeats.
        let mut last: HashMap<usize, (u64, Option<Instant>, usize)> = HashMap::new();
        for step in steps.into_iter().chain([Step::Pass(100_000)]) {
            match step {
                Step::Publish { task, age } => {
                    run += 1;
                    let arrived = now - age as u32 * MILLI;
                    let publication = Publication {
                        result: run.to_string().into(),
                        ..result(run, &task.to_string(), "", Some(arrived))
                    };
                    results.publish(publication, now);
                    expected.insert(run, (task, now.max(arrived + 5 * MILLI)));
                    last.insert(task, (run, None, 0));
                }
                Step::Started(task) => {
                    results.supersede(&id(&task.to_string()));
                    last.remove(&task);
                }
                Step::Deliver => {
                    if let Some((run, task, departure)) = under_way.pop_front() {
                        let last = last.get_mut(&task).filter(|(last, ..)| *last == run);
                        prop_assert_eq!(results.delivered(departure, now), last.is_some());
                        last.into_iter().for_each(|(_, at, _)| *at = Some(now));
                    }
                }
                Step::Written => results.written(),
                Step::Pass(millis) => {
                    let end = now + millis as u32 * MILLI;
                    loop {
                        while let Some(action) = results.next(now) {
                            let (Action::Publish(departure) | Action::Repeat(departure)) = &action;
                            let p = &departure.publication;
                            prop_assert_eq!(&p.result, &Bytes::from(p.run.0.to_string()));
                            if matches!(action, Action::Publish(_)) {
                                let (task, leaves) = expected.remove(&p.run.0).expect("once");
                                prop_assert_eq!(now, leaves);
                                under_way.push_back((p.run.0, task, departure.clone()));
                                continue;
                            }
                            let task: usize = p.id.as_str().parse().expect("a number");
                            let (run, at, repeats) = last.get_mut(&task).expect("not dropped");
                            prop_assert_eq!(*run, p.run.0);
                            prop_assert!(now >= at.expect("delivered") + timing().repeat[*repeats]);
                            *repeats += 1;
                        }
                        match results.due().filter(|due| *due <= end) {
                            Some(due) => now = now.max(due),
                            None => break,
                        }
                    }
                    now = end;
                }
            }
        }
        prop_assert!(expected.is_empty(), "{:?} never left", expected);
        prop_assert_eq!(results.held_bytes, 0);
        let bytes = |repeats: &BTreeMap<DueKey, PendingRepeat>| {
            repeats.values().map(PendingRepeat::size).sum::<usize>()
        };
        prop_assert_eq!(results.repeat_bytes, bytes(&results.waiting) + bytes(&results.ready));
        // Only those that nobody has delivered or written are left.
        prop_assert!(results.last.len() <= under_way.len() + results.ready.len());
    }
}

#[test]
fn no_more_leave_than_are_worth_having_under_way_until_the_worker_ends() {
    let (mut results, now) = (Results::new(timing()), Instant::now());
    let all = UNDELIVERED as u64 + 3;
    (0..all).for_each(|run| results.publish(result(run, &format!("task-{run}"), "r", None), now));
    let mut left = Vec::new();
    while let Some(Action::Publish(departure)) = results.next(now) {
        left.push(departure);
    }
    assert_eq!(left.len(), UNDELIVERED);
    assert_eq!(results.due(), None, "nothing is due until one is decided");
    results.delivered(left.remove(0), now);
    results.undelivered(&left.remove(0));
    assert_eq!(results.due(), Some(now));
    let next = [results.next(now), results.next(now)].map(|action| match action {
        Some(Action::Publish(departure)) => departure.publication.run,
        other => panic!("expected a departure: {other:?}"),
    });
    assert_eq!(next, [Run(all - 3), Run(all - 2)], "in their order");
    assert_eq!(results.next(now), None);
    results.close();
    assert!(matches!(results.next(now), Some(Action::Publish(_))), "the last one");
    assert_eq!(results.next(now), None);
}
