//! Sequences of events against what is asked, and what becomes of it.

use super::*;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn id(id: &str) -> TaskId {
    TaskId::new(id).expect("an id")
}

fn again() -> Decision {
    Decision::AskAgain("no answer".into())
}

#[test]
fn a_result_that_is_missed_is_asked_about_for_three_quarters_of_an_hour() {
    for decision in [Decision::PublishAgain, again()] {
        let (mut confirmations, start) = (Confirmations::default(), Instant::now());
        assert_eq!(confirmations.left(Run(1), id("a"), Duration::ZERO, 1, None, start), []);
        let (mut asked, mut published) = (Vec::new(), 0);
        let mut over = None;
        while let Some(due) = confirmations.due() {
            assert_eq!(confirmations.question(due - Duration::from_millis(1)), None);
            let question = confirmations.question(due).expect("it is time");
            assert_eq!((question.run, question.age), (Run(1), due - start));
            asked.push(question.age.as_secs());
            match confirmations.answered(Run(1), &decision, due) {
                NextStep::PublishAgain { last, .. } => {
                    published += 1;
                    over = last;
                }
                NextStep::Over(finished) => over = Some(finished),
                NextStep::Wait => {}
            }
        }
        assert_eq!(asked, [15, 45, 105, 225, 465, 945, 1845, 2745]);
        assert_eq!(published, if decision == Decision::PublishAgain { 8 } else { 0 });
        assert_eq!(over.map(|over| over.why), Some(Resolution::GivenUp));
        assert!(confirmations.is_empty());
    }
}

#[test]
fn a_result_that_arrived_is_over() {
    let (mut confirmations, start) = (Confirmations::default(), Instant::now());
    confirmations.left(Run(1), id("a"), Duration::ZERO, 1, None, start);
    confirmations.question(start + FIRST).expect("a question");
    let step = confirmations.answered(Run(1), &Decision::Over(Resolution::Ended), start + FIRST);
    assert_eq!(
        step,
        NextStep::Over(Concluded { run: Run(1), why: Resolution::Ended, forget: false })
    );
    assert_eq!(confirmations.due(), None);
}

#[test]
fn an_answer_that_comes_after_a_new_start_is_not_heeded() {
    let (mut confirmations, start) = (Confirmations::default(), Instant::now());
    confirmations.left(Run(1), id("a"), Duration::ZERO, 1, None, start);
    confirmations.question(start + FIRST).expect("a question");
    let replaced = confirmations.replaced(&id("a"));
    assert_eq!(replaced.map(|over| over.why), Some(Resolution::Replaced));
    let now = start + FIRST;
    assert_eq!(confirmations.answered(Run(1), &Decision::PublishAgain, now), NextStep::Wait);
    // The next result of the task is another matter.
    confirmations.left(Run(2), id("a"), Duration::ZERO, 1, None, now);
    assert_eq!(confirmations.due(), Some(now + FIRST));
}

#[test]
fn a_result_of_an_earlier_process_is_asked_about_by_its_age() {
    let (mut confirmations, now) = (Confirmations::default(), Instant::now());
    confirmations.left(Run(1), id("a"), 10 * SECOND, 1, None, now);
    confirmations.left(Run(2), id("b"), 100 * SECOND, 1, None, now);
    assert_eq!(confirmations.question(now).map(|question| question.age), Some(100 * SECOND));
    confirmations.answered(Run(2), &Decision::Over(Resolution::Ended), now);
    assert_eq!(confirmations.due(), Some(now + 5 * SECOND));
    let question = confirmations.question(now + 5 * SECOND).expect("a question");
    assert_eq!((question.run, question.age), (Run(1), FIRST));
}

#[test]
fn no_more_than_ten_questions_are_asked_within_a_second() {
    let (mut confirmations, start) = (Confirmations::default(), Instant::now());
    for run in 0..35 {
        confirmations.left(Run(run), id(&run.to_string()), FIRST, 1, None, start);
    }
    let mut now = start;
    let mut asked = Vec::new();
    while let Some(due) = confirmations.due() {
        now = now.max(due);
        let question = confirmations.question(now).expect("it is time");
        assert_eq!(confirmations.question(now), None, "one at a time");
        confirmations.answered(question.run, &Decision::Over(Resolution::Ended), now);
        asked.push(now);
    }
    assert_eq!(asked.len(), 35);
    for (at, later) in asked.iter().zip(&asked[RATE..]) {
        assert!(*later - *at >= SECOND);
    }
}

#[test]
fn of_more_than_ten_thousand_the_oldest_is_let_go() {
    let (mut confirmations, now) = (Confirmations::default(), Instant::now());
    let mut over = Vec::new();
    for run in 0..=WAITING as u64 {
        let id = id(&run.to_string());
        over.extend(confirmations.left(Run(run), id, Duration::ZERO, 1, None, now));
    }
    assert_eq!(over, [Concluded { run: Run(0), why: Resolution::LetGo, forget: false }]);
    let (mut confirmations, half) = (Confirmations::default(), vec![0; HELD / 2]);
    for run in 0..3_u64 {
        let id = id(&run.to_string());
        let payload = Some(half.clone().into());
        let over = confirmations.left(Run(run), id, Duration::ZERO, HELD / 2, payload, now);
        assert_eq!(over.len(), usize::from(run == 2), "{over:?}");
    }
}

#[test]
fn what_waits_is_kept_in_the_journal_until_it_is_over() {
    let (mut confirmations, now) = (Confirmations::default(), Instant::now());
    confirmations.left(Run(1), id("a"), Duration::ZERO, 1, None, now);
    assert!(confirmations.keep(Run(1)) && !confirmations.keep(Run(2)));
    let over = confirmations.replaced(&id("a")).expect("it waited");
    assert!(over.forget);
    assert!(!confirmations.keep(Run(1)));
}

#[derive(Clone, Debug)]
enum Event {
    Left(u8, u16),
    Replaced(u8),
    Keep(u8),
    Answer(u8),
    Pass(u32),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0..5_u8, 0..100_u16).prop_map(|(task, size)| Event::Left(task, size)),
        1 => (0..5_u8).prop_map(Event::Replaced),
        1 => any::<u8>().prop_map(Event::Keep),
        4 => (0..4_u8).prop_map(Event::Answer),
        4 => (0..2_000_u32).prop_map(Event::Pass),
    ]
}

proptest! {
    /// Whatever comes: a result is over once, and only what waits is asked
    /// about, never sooner than it should be.
    #[test]
    fn every_result_is_over_once(events in prop::collection::vec(event(), 0..200)) {
        let mut confirmations = Confirmations::default();
        let mut now = Instant::now();
        let mut runs = 0_u64;
        let mut waiting: HashMap<Run, (u8, Instant, bool)> = HashMap::new();
        let mut asking = None;
        let mut over: Vec<Concluded> = Vec::new();
        for event in events {
            over.clear();
            match event {
                Event::Left(task, size) => {
                    runs += 1;
                    let payload = Some(Bytes::from(vec![0; size.into()]));
                    let id = id(&task.to_string());
                    let size = size.into();
                    over.extend(confirmations.left(Run(runs), id, Duration::ZERO, size, payload, now));
                    prop_assert!(over.iter().all(|over| waiting[&over.run].0 == task));
                    waiting.insert(Run(runs), (task, now, false));
                }
                Event::Replaced(task) => over.extend(confirmations.replaced(&id(&task.to_string()))),
                Event::Keep(run) => {
                    let waits = waiting.get_mut(&Run(run.into()));
                    prop_assert_eq!(confirmations.keep(Run(run.into())), waits.is_some());
                    waits.into_iter().for_each(|(.., forget)| *forget = true);
                }
                Event::Answer(kind) => {
                    let Some(run) = asking.take() else { continue };
                    let decision = match kind {
                        0 => Decision::Over(Resolution::Ended),
                        1 => again(),
                        _ => Decision::PublishAgain,
                    };
                    match confirmations.answered(run, &decision, now) {
                        NextStep::PublishAgain { last, payload, .. } => {
                            prop_assert!(waiting.contains_key(&run) && payload.is_some());
                            over.extend(last);
                        }
                        NextStep::Over(finished) => over.push(finished),
                        NextStep::Wait => {}
                    }
                }
                Event::Pass(seconds) => now += seconds * SECOND,
            }
            for finished in &over {
                let (.., forget) = waiting.remove(&finished.run).expect("over once");
                prop_assert_eq!(finished.forget, forget);
            }
            if asking.is_none()
                && let Some(question) = confirmations.question(now)
            {
                let (_, left, _) = waiting[&question.run];
                prop_assert!(now >= left + FIRST);
                prop_assert_eq!(question.age, now - left);
                asking = Some(question.run);
            }
            prop_assert_eq!(confirmations.len(), waiting.len());
            prop_assert_eq!(confirmations.by_id.len(), waiting.len());
            prop_assert_eq!(confirmations.by_run.len(), waiting.len());
            let bytes = confirmations.entries.values().filter_map(|entry| entry.payload.as_ref());
            prop_assert_eq!(confirmations.bytes, bytes.map(Bytes::len).sum::<usize>());
            // Those that nobody asks about right now have their time.
            prop_assert!(confirmations.due.len() + usize::from(asking.is_some()) >= waiting.len());
        }
    }
}
