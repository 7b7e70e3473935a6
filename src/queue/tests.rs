use super::*;
use proptest::prelude::*;
use std::collections::HashSet;

fn id(n: u8) -> TaskId {
    TaskId::new(&n.to_string()).expect("an id")
}

fn bounds(tasks: usize, bytes: usize) -> QueueBounds {
    QueueBounds { tasks, bytes, memory: Some(usize::MAX) }
}

const HERE: Takers = Takers { alone: false, large: true };
const APART: Takers = Takers { alone: true, large: true };

fn weight(own: usize, module: u8, bytes: usize) -> Weight {
    Weight { own, module: Some((Digest::of(&[module]), bytes)) }
}

fn admit(queue: &mut Queue<u8, ()>, n: u8) -> Result<Option<Taker>, QueueRefusal> {
    queue.admit(&id(n), weight(1, n % 3, 10), true, Admission::Ready, |_| n)
}

fn take(queue: &mut Queue<u8, ()>) -> Option<u8> {
    queue.take(Taker::Quick, |_| ()).map(|(task, ())| task)
}

#[test]
fn a_held_task_is_passed_over_until_it_is_released() {
    let mut queue = Queue::new(bounds(4, 100), HERE);
    queue.admit(&id(1), Weight::default(), true, Admission::Held, |_| 1).expect("room");
    assert_eq!(take(&mut queue), None);
    admit(&mut queue, 2).expect("room");
    assert_eq!(take(&mut queue), Some(2));
    assert_eq!((queue.release(&id(1)), queue.release(&id(3))), (Some(Taker::Quick), None));
    assert_eq!(take(&mut queue), Some(1));
}

#[test]
fn bytes_are_bounded_and_what_is_shared_counts_once() {
    let mut queue = Queue::new(bounds(9, 100), HERE);
    let admit = |queue: &mut Queue<u8, ()>, n, weight| {
        queue.admit(&id(n), weight, true, Admission::Ready, |_| n)
    };
    let quick = Ok(Some(Taker::Quick));
    assert_eq!(admit(&mut queue, 1, weight(500, 1, 50)), quick, "the only one may be any size");
    let heavy = QueueRefusal::Heavy { running: 0, queued: 1, bytes: 550 };
    assert_eq!(admit(&mut queue, 2, weight(0, 1, 50)), Err(heavy));
    assert_eq!(take(&mut queue), Some(1));
    assert_eq!(admit(&mut queue, 2, weight(10, 1, 50)), quick);
    assert_eq!(admit(&mut queue, 3, weight(10, 1, 50)), quick);
    assert_eq!(queue.load.bytes(), 70);
    assert!(admit(&mut queue, 4, weight(10, 2, 50)).is_err());
    assert_eq!(queue.admit(&id(4), weight(10, 2, 50), true, Admission::Again, |_| 4), quick);
    queue.drain();
    assert_eq!(queue.load.bytes(), 0);
}

#[test]
fn memory_keeps_what_it_has_room_for_and_everything_where_there_is_no_disk() {
    let kept = |memory, whole| {
        let mut queue = Queue::<bool, ()>::new(QueueBounds { tasks: 9, bytes: 999, memory }, HERE);
        let mut kept = Vec::new();
        for n in 0..3 {
            let admission = Admission::Ready;
            queue.admit(&id(n), weight(10, n, 50), whole, admission, |keep| keep).expect("room");
        }
        while let Some((in_memory, ())) = queue.take(Taker::Quick, |_| ()) {
            kept.push(in_memory);
        }
        kept
    };
    assert_eq!(kept(Some(100), true), [true, false, false]);
    assert_eq!(kept(Some(100), false), [false; 3]);
    assert_eq!(kept(None, true), [true; 3]);
}

#[test]
fn a_full_queue_says_how_full() {
    let mut queue = Queue::new(bounds(1, 100), HERE);
    admit(&mut queue, 1).expect("room");
    assert_eq!(take(&mut queue), Some(1));
    admit(&mut queue, 2).expect("room");
    assert_eq!(admit(&mut queue, 3), Err(QueueRefusal::Full { running: 1, queued: 1 }));
}

#[test]
fn an_id_may_come_again_after_it_ended() {
    let mut queue = Queue::new(bounds(4, 100), HERE);
    admit(&mut queue, 1).expect("room");
    take(&mut queue);
    queue.finish(&id(1));
    admit(&mut queue, 1).expect("it ended");
}

#[derive(Debug, Clone)]
enum Step {
    Admit(u8, Admission),
    Release(u8),
    Take,
    Finish(u8),
    Stop(u8),
    Drain,
}

fn step() -> impl Strategy<Value = Step> {
    let admission = prop_oneof![
        4 => Just(Admission::Ready),
        2 => Just(Admission::Held),
        2 => Just(Admission::Early),
        1 => Just(Admission::Again),
        1 => Just(Admission::Alone),
    ];
    prop_oneof![
        8 => (0u8..12, admission).prop_map(|(n, admission)| Step::Admit(n, admission)),
        3 => (0u8..12).prop_map(Step::Release),
        6 => Just(Step::Take),
        4 => (0u8..12).prop_map(Step::Finish),
        3 => (0u8..12).prop_map(Step::Stop),
        1 => Just(Step::Drain),
    ]
}

/// A waiting task of the model.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Model {
    n: u8,
    held: bool,
    alone: bool,
    kept: bool,
}

/// What these take up, a module once.
fn load(tasks: impl Iterator<Item = Model> + Clone) -> usize {
    let modules: HashSet<_> = tasks.clone().map(|task| task.n % 3).collect();
    tasks.count() + 10 * modules.len()
}

proptest! {
    /// Against a model that searches lists: each admitted task leaves exactly
    /// once, in order, alone if it has to be, and the bounds hold.
    #[test]
    fn every_admitted_task_leaves_exactly_once(steps in prop::collection::vec(step(), 0..200)) {
        const TASKS: usize = 5;
        const MEMORY: usize = 13;
        let bounds = QueueBounds { tasks: TASKS, bytes: 100, memory: Some(MEMORY) };
        let mut queue = Queue::<(u8, bool), u8>::new(bounds, HERE);
        let mut waiting: Vec<Model> = Vec::new();
        let mut running: HashSet<u8> = HashSet::new();
        let (mut alone, mut draining) = (false, false);
        for step in steps {
            match step {
                Step::Admit(n, admission) => {
                    if running.contains(&n) || waiting.iter().any(|task| task.n == n) {
                        continue;
                    }
                    let kept = waiting.iter().copied().filter(|task| task.kept);
                    let new = Model {
                        n,
                        held: false,
                        alone: admission == Admission::Alone,
                        kept: true,
                    };
                    let fits = load(kept.chain([new])) <= MEMORY;
                    let again = matches!(admission, Admission::Again | Admission::Alone);
                    let admitted =
                        queue.admit(&id(n), weight(1, n % 3, 10), true, admission, |keep| (n, keep));
                    let room = again || waiting.len() < TASKS;
                    prop_assert_eq!(admitted.is_ok(), !draining && room);
                    if admitted.is_ok() {
                        let first = |task: &Model| new.alone && !task.alone;
                        let at = waiting.iter().position(first).unwrap_or(waiting.len());
                        let held = match admission {
                            Admission::Held => true,
                            Admission::Early => !fits,
                            _ => false,
                        };
                        waiting.insert(at, Model { held, kept: fits, ..new });
                    }
                }
                Step::Release(n) => {
                    let known = waiting.iter_mut().find(|task| task.n == n);
                    let taker = known.as_ref().map(|_| Taker::Quick);
                    prop_assert_eq!(queue.release(&id(n)), taker);
                    known.into_iter().for_each(|task| task.held = false);
                }
                Step::Take => {
                    let at = waiting.iter().position(|task| !task.held);
                    let at = at.filter(|at| !(alone || waiting[*at].alone && !running.is_empty()));
                    let taken = at.map(|at| waiting.remove(at));
                    let expected = taken.map(|task| ((task.n, task.kept), task.n));
                    prop_assert_eq!(queue.take(Taker::Quick, |(n, _)| *n), expected);
                    if let Some(task) = taken {
                        running.insert(task.n);
                        alone = task.alone;
                    }
                    prop_assert!(!alone || running.len() == 1);
                }
                Step::Finish(n) => {
                    if running.remove(&n) {
                        prop_assert_eq!(queue.finish(&id(n)), alone);
                        alone = false;
                    }
                }
                Step::Stop(n) => {
                    let at = waiting.iter().position(|task| task.n == n);
                    let expected = match at.map(|at| waiting.remove(at)) {
                        Some(task) => Stopped::Queued((n, task.kept)),
                        None if running.contains(&n) => Stopped::Running(n),
                        None => Stopped::Unknown,
                    };
                    prop_assert_eq!(queue.stop(&id(n)), expected);
                }
                Step::Drain => {
                    draining = true;
                    let left: Vec<_> = waiting.drain(..).map(|task| (task.n, task.kept)).collect();
                    prop_assert_eq!(queue.drain(), left);
                }
            }
            prop_assert_eq!(queue.len(), (waiting.len(), running.len()));
            prop_assert_eq!(queue.load.bytes(), load(waiting.iter().copied()));
            let kept = waiting.iter().copied().filter(|task| task.kept);
            prop_assert_eq!(queue.in_memory.bytes(), load(kept));
            prop_assert_eq!(queue.is_drained(), draining && running.is_empty());
        }
    }
}

#[test]
fn a_suspect_with_a_process_of_its_own_waits_for_nobody_and_nobody_for_it() {
    let mut queue = Queue::new(bounds(9, 100), APART);
    let take = |queue: &mut Queue<u8, ()>, taker| queue.take(taker, |_| ()).map(|(n, ())| n);
    for n in [1, 2, 3] {
        admit(&mut queue, n).expect("room");
    }
    assert_eq!(take(&mut queue, Taker::Quick), Some(1));
    assert_eq!(take(&mut queue, Taker::Quick), Some(2));
    assert_eq!(take(&mut queue, Taker::Alone), None);
    for n in [1, 2] {
        assert_eq!(queue.suspect(&id(n), weight(1, 1, 10), n), Ok(Taker::Alone));
    }
    assert_eq!(queue.len(), (3, 0));
    assert_eq!(take(&mut queue, Taker::Alone), Some(1));
    // New ones go on.
    assert_eq!(take(&mut queue, Taker::Quick), Some(3));
    assert_eq!(take(&mut queue, Taker::Quick), None);
    assert_eq!(queue.stop(&id(2)), Stopped::Queued(2));
    queue.drain();
    assert_eq!(queue.suspect(&id(1), Weight::default(), 1), Err(1));
    queue.finish(&id(3));
    assert!(queue.is_drained());
}

fn invocation(n: u8) -> TaskId {
    id(9).with_invocation(std::num::NonZeroU64::new(n.into()).expect("not 0"))
}

fn invoke(queue: &mut Queue<u8, ()>, n: u8) -> Result<Option<Taker>, QueueRefusal> {
    let weight = Weight { own: 10, module: None };
    queue.admit(&invocation(n), weight, true, Admission::Ready, |keep| {
        assert!(keep, "it can't be read back");
        n
    })
}

#[test]
fn tasks_and_invocations_are_taken_by_turns() {
    let mut queue = Queue::new(bounds(4, 100), HERE);
    for n in [1, 2, 3] {
        admit(&mut queue, n).expect("room");
    }
    for n in [11, 12, 13, 14] {
        invoke(&mut queue, n).expect("room");
    }
    let order: Vec<_> = std::iter::from_fn(|| take(&mut queue)).collect();
    assert_eq!(order, [1, 11, 2, 12, 3, 13, 14]);
}

#[test]
fn neither_tasks_nor_invocations_take_the_places_of_the_others() {
    let bounds = QueueBounds { tasks: 2, bytes: 25, memory: Some(15) };
    let mut queue = Queue::new(bounds, HERE);
    for n in [11, 12] {
        let room = invoke(&mut queue, n);
        assert_eq!(room.is_ok(), n == 11, "15 bytes of memory");
    }
    admit(&mut queue, 1).expect("room");
    admit(&mut queue, 4).expect("room");
    assert_eq!(admit(&mut queue, 7), Err(QueueRefusal::Full { running: 0, queued: 2 }));
    let heavy = QueueRefusal::Heavy { running: 0, queued: 1, bytes: 10 };
    assert_eq!(invoke(&mut queue, 12), Err(heavy));
    assert_eq!(queue.stop(&invocation(11)), Stopped::Queued(11));
    invoke(&mut queue, 13).expect("there is room again");
    assert_eq!(queue.len(), (3, 0));
    assert_eq!(queue.drain(), [1, 4, 13]);
    assert_eq!((queue.load.bytes(), queue.invoked), (0, (0, 0)));
}

#[test]
fn a_thread_of_their_own_takes_invocations_alone_and_lets_suspects_go_first() {
    for takers in [HERE, APART] {
        let mut queue = Queue::new(bounds(9, 100), takers);
        let take = |queue: &mut Queue<u8, ()>, taker| queue.take(taker, |_| ()).map(|(n, ())| n);
        admit(&mut queue, 1).expect("room");
        assert_eq!(take(&mut queue, Taker::Invocations), None, "a task is not for it");
        assert_eq!(invoke(&mut queue, 11), Ok(Some(Taker::Invocations)));
        assert_eq!(take(&mut queue, Taker::Invocations), Some(11));
        // It crashed the process, and is to run alone.
        let weight = Weight { own: 10, module: None };
        let alone = if takers.alone { Taker::Alone } else { Taker::Quick };
        assert_eq!(queue.suspect(&invocation(11), weight, 11), Ok(alone));
        invoke(&mut queue, 12).expect("room");
        if takers.alone {
            assert_eq!(take(&mut queue, Taker::Invocations), Some(12));
            assert_eq!(take(&mut queue, Taker::Alone), Some(11));
            continue;
        }
        assert_eq!(take(&mut queue, Taker::Invocations), None);
        assert_eq!(take(&mut queue, Taker::Quick), Some(11));
        assert_eq!(take(&mut queue, Taker::Invocations), None, "it is alone");
        assert!(queue.finish(&invocation(11)));
        assert_eq!(take(&mut queue, Taker::Invocations), Some(12));
    }
}

#[test]
fn where_nobody_takes_large_modules_apart_they_are_taken_like_others() {
    let mut queue = Queue::new(bounds(9, usize::MAX), Takers { large: false, ..HERE });
    let large = queue.admit(&id(1), weight(1, 1, LARGE), true, Admission::Ready, |_| 1);
    assert_eq!(large, Ok(Some(Taker::Quick)));
    assert_eq!(take(&mut queue), Some(1));
}

const LARGE: usize = SMALL + 1;

/// ARCHITECTURE.md, case 65.
#[test]
fn a_large_module_is_for_takers_of_its_own_until_it_is_compiled() {
    for takers in [HERE, APART] {
        let mut queue = Queue::new(bounds(9, usize::MAX), takers);
        let take = |queue: &mut Queue<u8, ()>, taker| queue.take(taker, |_| ()).map(|(n, ())| n);
        let large = weight(1, 1, LARGE);
        let mut admit = |n, weight, admission| {
            queue.admit(&id(n), weight, true, admission, |_| n).expect("room")
        };
        assert_eq!(admit(1, large, Admission::Ready), Some(Taker::Large));
        assert_eq!(admit(2, large, Admission::Ready), Some(Taker::Large));
        assert_eq!(admit(3, large, Admission::Held), None);
        assert_eq!(admit(4, weight(1, 2, SMALL), Admission::Ready), Some(Taker::Quick));
        assert_eq!(take(&mut queue, Taker::Large), Some(1));
        assert_eq!(take(&mut queue, Taker::Quick), Some(4));
        assert_eq!(take(&mut queue, Taker::Quick), None);
        assert!(queue.compiled(large) && !queue.compiled(large), "told once");
        assert_eq!(take(&mut queue, Taker::Large), None);
        assert_eq!(take(&mut queue, Taker::Quick), Some(2));
        assert_eq!(queue.release(&id(3)), Some(Taker::Quick));
        queue.forget_compiled();
        queue.finish(&id(1));
        let again = queue.admit(&id(1), large, true, Admission::Ready, |_| 1);
        assert_eq!(again, Ok(Some(Taker::Large)));
        assert_eq!(queue.stop(&id(1)), Stopped::Queued(1));
        assert_eq!(take(&mut queue, Taker::Large), None);
        assert_eq!(queue.drain(), [3]);
    }
}

#[test]
fn a_suspect_with_a_large_module_is_alone_all_the_same() {
    let mut queue = Queue::new(bounds(9, usize::MAX), HERE);
    let take = |queue: &mut Queue<u8, ()>, taker| queue.take(taker, |_| ()).map(|(n, ())| n);
    for (n, admission) in [(1, Admission::Ready), (2, Admission::Ready), (3, Admission::Alone)] {
        queue.admit(&id(n), weight(1, n, LARGE), true, admission, |_| n).expect("room");
        if n == 1 {
            assert_eq!(take(&mut queue, Taker::Large), Some(1));
        }
    }
    // One runs: the suspect waits for it, and the next one for the suspect.
    for taker in [Taker::Large, Taker::Quick] {
        assert_eq!(take(&mut queue, taker), None);
    }
    assert!(!queue.finish(&id(1)));
    assert_eq!(take(&mut queue, Taker::Large), None);
    assert_eq!(take(&mut queue, Taker::Quick), Some(3));
    assert_eq!(take(&mut queue, Taker::Large), None);
    assert!(queue.finish(&id(3)));
    assert_eq!(take(&mut queue, Taker::Large), Some(2));
}
