//! One caller at a time against a model of it, and many at once.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// For what takes milliseconds, on machines of any speed.
const SOON: Duration = Duration::from_secs(60);

fn cache(bytes: u64, entries: usize, flights: usize) -> Cache<u8, u32> {
    Cache::new(CacheLimits { bytes, entries, flights })
}

/// Looks up a value that is not to be waited for, and makes it as this; gives
/// what it is, and whether it was there.
fn get(cache: &Cache<u8, u32>, key: u8, value: u32, weight: u64) -> (u32, bool) {
    match cache.look_up(key, |other| *other == value, &Cancel::default()) {
        Ok(LookUp::Found(value)) => (value, true),
        Ok(LookUp::Claimed(flight)) => {
            flight.land(value, weight);
            (value, false)
        }
        Err(reason) => panic!("nobody said {reason:?}"),
    }
}

fn claimed(cache: &Cache<u8, u32>, key: u8) -> Flight<u8, u32> {
    match cache.look_up(key, |_| true, &Cancel::default()) {
        Ok(LookUp::Claimed(flight)) => flight,
        _ => panic!("{key} is there"),
    }
}

/// A thread that looks a key up, and what it got.
fn asks(
    cache: &Cache<u8, u32>,
    key: u8,
    cancel: &Arc<Cancel>,
) -> mpsc::Receiver<Result<Option<u32>, Reason>> {
    let (cache, cancel, (tell, told)) = (cache.clone(), cancel.clone(), mpsc::channel());
    thread::spawn(move || {
        let got = cache.look_up(key, |_| true, &cancel).map(|got| match got {
            LookUp::Found(value) => Some(value),
            LookUp::Claimed(_) => None,
        });
        tell.send(got).ok();
    });
    told
}

/// Waits until a thread waits, which its cancellation knows.
fn until_it_waits(cancel: &Cancel) {
    while !cancel.wakes_somebody() {
        thread::yield_now();
    }
}

#[test]
fn who_waits_gets_what_lands_although_it_is_not_kept() {
    let cache = cache(10, 10, 1);
    let flight = claimed(&cache, 1);
    let cancel = Arc::default();
    let told = asks(&cache, 1, &cancel);
    until_it_waits(&cancel);
    flight.land(7, 11);
    assert_eq!(told.recv_timeout(SOON), Ok(Ok(Some(7))));
    assert_eq!(cache.stats(), CacheStats { hits: 1, ..CacheStats::default() });
}

#[test]
fn a_flight_that_is_dropped_goes_to_one_who_waits() {
    let cache = cache(10, 10, 1);
    let flight = claimed(&cache, 1);
    let cancel = Arc::default();
    let told = asks(&cache, 1, &cancel);
    until_it_waits(&cancel);
    drop(flight);
    assert_eq!(told.recv_timeout(SOON), Ok(Ok(None)), "it is to make the value");
    assert!(!cache.is_in_flight(&1));
}

/// Nothing else happens that could wake it.
#[test]
fn a_task_that_is_to_end_stops_waiting_by_itself() {
    let cache = cache(10, 10, 1);
    let _flight = claimed(&cache, 1);
    for key in [1, 2] {
        let cancel = Arc::<Cancel>::default();
        let told = asks(&cache, key, &cancel);
        until_it_waits(&cancel);
        cancel.cancel(Reason::Stopped);
        assert_eq!(told.recv_timeout(SOON), Ok(Err(Reason::Stopped)), "key {key}");
    }
    let ended = Arc::<Cancel>::default();
    ended.cancel(Reason::ShuttingDown);
    assert_eq!(asks(&cache, 1, &ended).recv_timeout(SOON), Ok(Err(Reason::ShuttingDown)));
}

#[test]
fn no_more_are_made_at_a_time_than_may_be() {
    let cache = cache(10, 10, 2);
    let (one, two) = (claimed(&cache, 1), claimed(&cache, 2));
    let cancel = Arc::default();
    let told = asks(&cache, 3, &cancel);
    until_it_waits(&cancel);
    assert!(told.try_recv().is_err());
    two.land(2, 1);
    assert_eq!(told.recv_timeout(SOON), Ok(Ok(None)));
    drop(one);
}

/// A thread that waits for what another one makes, as its claimer does.
fn waits(
    waiter: Waiter<u8, u32>,
    cancel: &Arc<Cancel>,
) -> mpsc::Receiver<Result<Option<u32>, Reason>> {
    let (cancel, (tell, told)) = (cancel.clone(), mpsc::channel());
    thread::spawn(move || tell.send(waiter.wait(&cancel)).ok());
    told
}

#[test]
fn what_is_given_is_had_by_all_who_wait_and_not_kept() {
    let cache = cache(10, 10, 1);
    let flight = claimed(&cache, 1);
    let (one, two) = (Arc::default(), Arc::default());
    let told = [waits(flight.join(), &one), asks(&cache, 1, &two)];
    until_it_waits(&one);
    until_it_waits(&two);
    flight.give(7);
    for told in told {
        assert_eq!(told.recv_timeout(SOON), Ok(Ok(Some(7))));
    }
    assert_eq!(cache.stats().entries, 0);
}

#[test]
fn who_waits_for_a_flight_that_is_dropped_gets_nothing() {
    let cache = cache(10, 10, 1);
    let flight = claimed(&cache, 1);
    let cancel = Arc::default();
    let told = waits(flight.join(), &cancel);
    until_it_waits(&cancel);
    drop(flight);
    assert_eq!(told.recv_timeout(SOON), Ok(Ok(None)));
}

#[test]
fn a_maker_is_told_when_the_last_who_waits_has_left() {
    let cache = cache(10, 10, 2);
    let flight = claimed(&cache, 1);
    let calls = Arc::new(AtomicUsize::new(0));
    flight.when_deserted({
        let calls = calls.clone();
        move || calls.fetch_add(1, Ordering::SeqCst) == 0
    });
    let (one, two) = (Arc::<Cancel>::default(), Arc::<Cancel>::default());
    let claimer = waits(flight.join(), &one);
    let other = asks(&cache, 1, &two);
    until_it_waits(&one);
    until_it_waits(&two);
    one.cancel(Reason::Stopped);
    assert_eq!(claimer.recv_timeout(SOON), Ok(Err(Reason::Stopped)));
    assert_eq!(calls.load(Ordering::SeqCst), 0, "one still waits");
    two.cancel(Reason::Stopped);
    assert_eq!(other.recv_timeout(SOON), Ok(Err(Reason::Stopped)));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    // It was given up: the next one claims it, and has it to itself.
    let next = claimed(&cache, 1);
    flight.land(7, 1);
    assert!(cache.is_in_flight(&1));
    assert_eq!(cache.stats().entries, 0);
    next.land(8, 1);
    assert_eq!(get(&cache, 1, 8, 1), (8, true));
}

#[test]
fn what_goes_on_without_anyone_is_found_by_the_next() {
    let cache = cache(10, 10, 1);
    let flight = claimed(&cache, 1);
    flight.when_deserted(|| false);
    drop(flight.join());
    let cancel = Arc::default();
    let told = asks(&cache, 1, &cancel);
    until_it_waits(&cancel);
    flight.land(7, 1);
    assert_eq!(told.recv_timeout(SOON), Ok(Ok(Some(7))));
    assert_eq!(get(&cache, 1, 7, 1), (7, true));
}

#[test]
fn a_value_that_is_there_is_given_to_who_is_to_end() {
    let cache = cache(10, 10, 1);
    get(&cache, 1, 7, 1);
    let ended = Cancel::default();
    ended.cancel(Reason::Stopped);
    assert!(matches!(cache.look_up(1, |_| true, &ended), Ok(LookUp::Found(7))));
}

proptest! {
    /// One caller: the cache against a list, the value used last at its end.
    #[test]
    fn it_holds_what_was_used_last_within_its_limits(
        steps in proptest::collection::vec((0..4_u8, 0..4_u32, 0..8_u64), 0..200),
        bytes in 1..20_u64,
        entries in 0..6_usize,
    ) {
        let cache = cache(bytes, entries, 1);
        let mut model: Vec<(u8, u32, u64)> = Vec::new();
        let (mut hits, mut evicted) = (0, 0);
        for (key, value, weight) in steps {
            let known = model.iter().position(|(k, v, _)| (*k, *v) == (key, value));
            let got = get(&cache, key, value, weight);
            prop_assert_eq!(got, (value, known.is_some()));
            match known {
                Some(place) => {
                    hits += 1;
                    let entry = model.remove(place);
                    model.push(entry);
                }
                None if weight > bytes || entries == 0 => {}
                None => {
                    let held = |model: &[(u8, u32, u64)]| model.iter().map(|entry| entry.2).sum::<u64>();
                    while held(&model) + weight > bytes || model.len() >= entries {
                        model.remove(0);
                        evicted += 1;
                    }
                    model.push((key, value, weight));
                }
            }
            let held = model.iter().map(|entry| entry.2).sum();
            let is = CacheStats { hits, evicted, bytes: held, entries: model.len() as u64 };
            prop_assert_eq!(cache.stats(), is);
        }
    }
}

/// Many callers: some are stopped, some fail, some panic. Each that gets a value
/// gets one of its key; no key is made twice at a time; all end.
#[test]
fn many_at_once_get_their_values_and_all_end() {
    const KEYS: usize = 5;
    const CALLERS: u64 = 8;
    const FLIGHTS: usize = 3;
    let cache = cache(3, 3, FLIGHTS);
    let making: [AtomicBool; KEYS] = Default::default();
    let flying = AtomicUsize::new(0);
    let round = |random: &mut fastrand::Rng| {
        let key = random.u8(0..KEYS as u8);
        let cancel = Arc::new(Cancel::default());
        let stopper = random.bool().then(|| {
            let cancel = cancel.clone();
            thread::spawn(move || cancel.cancel(Reason::Stopped))
        });
        match cache.look_up(key, |value| value / 100 == u32::from(key), &cancel) {
            Ok(LookUp::Found(value)) => assert_eq!(value / 100, u32::from(key)),
            Ok(LookUp::Claimed(flight)) => {
                let mine = &making[usize::from(key)];
                assert!(!mine.swap(true, Ordering::SeqCst), "{key} is made twice");
                assert!(flying.fetch_add(1, Ordering::SeqCst) < FLIGHTS);
                for _ in 0..random.u32(0..50) {
                    thread::yield_now();
                }
                flying.fetch_sub(1, Ordering::SeqCst);
                mine.store(false, Ordering::SeqCst);
                match random.u8(0..5) {
                    0 => drop(flight),
                    // On another thread, which gives up if nobody waits.
                    4 => {
                        let left = Arc::new(Mutex::new(false));
                        let (waiter, value) = (flight.join(), u32::from(key) * 100);
                        flight.when_deserted({
                            let left = left.clone();
                            move || {
                                *left.lock().expect("no panic") = true;
                                true
                            }
                        });
                        let maker = thread::spawn(move || {
                            if !*left.lock().expect("no panic") {
                                flight.land(value, 1);
                            }
                        });
                        let got = waiter.wait(&cancel);
                        assert!(matches!(got, Ok(Some(_)) | Err(Reason::Stopped)), "{got:?}");
                        maker.join().expect("no panic");
                    }
                    1 => {
                        let panics = move || {
                            let _flight = flight;
                            std::panic::resume_unwind(Box::new("while it is made"));
                        };
                        assert!(thread::spawn(panics).join().is_err());
                    }
                    _ => flight.land(u32::from(key) * 100 + random.u32(0..100), random.u64(0..5)),
                }
            }
            Err(reason) => assert_eq!(reason, Reason::Stopped),
        }
        if let Some(stopper) = stopper {
            stopper.join().expect("no panic");
        }
        assert!(!cancel.wakes_somebody(), "who is woken is forgotten");
    };
    thread::scope(|scope| {
        for seed in 0..CALLERS {
            let round = &round;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                (0..500).for_each(|_| round(&mut random));
            });
        }
    });
    let stats = cache.stats();
    assert!(stats.bytes <= 3 && stats.entries <= 3, "{stats:?}");
    assert!((0..KEYS as u8).all(|key| !cache.is_in_flight(&key)));
}
