//! A journal, a manager and an executor around the deployments, and whatever
//! may happen between them, in any order.

use super::*;
use std::collections::{HashMap, HashSet};

struct World {
    worker: Worker,
    /// Runs that are deployed by the journal: their task and content.
    disk: BTreeMap<Run, (TaskId, u8)>,
    /// Beside it.
    marks: Vec<InvocationKey>,
    runs: u64,
    /// What is being prepared.
    preparing: HashMap<TaskId, (Run, u8)>,
    loading: Vec<(Run, TaskId)>,
    executor: Vec<(NonZeroU64, Run)>,
    /// Preparations that were asked for, in the order of their numbers.
    prepared: Vec<(u64, TaskId)>,
    /// Invocations that were sent, by when; and what was answered to each.
    sent: BTreeMap<String, Instant>,
    answers: BTreeMap<String, Vec<(Instant, Option<String>)>>,
    crashed_with: HashSet<String>,
}

/// Whether the invocation was not taken, so that it may come again.
fn may_come_again(error: Option<&str>) -> bool {
    let again = ["has not been precompiled", "busy", "is gone"];
    error.is_some_and(|error| again.iter().any(|text| error.contains(text)))
}

#[derive(Clone, Debug)]
enum Deed {
    Start(u8, u8),
    Prepared(u8, bool),
    Stop(u8),
    Invoke(u8),
    /// One that was sent before comes again.
    Again(usize),
    Load(u8),
    /// The runtime has another process.
    Renew,
    /// A preparation ends.
    Warm(usize, bool),
    End(usize),
    Pass(u64),
    Crash,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => (0..4_u8, 0..3_u8).prop_map(|(id, content)| Deed::Start(id, content)),
        4 => (0..4_u8, prop::bool::weighted(0.8)).prop_map(|(id, ok)| Deed::Prepared(id, ok)),
        2 => (0..4_u8).prop_map(Deed::Stop),
        8 => (0..4_u8).prop_map(Deed::Invoke),
        2 => (0..30_usize).prop_map(Deed::Again),
        5 => (0..4_u8).prop_map(Deed::Load),
        1 => Just(Deed::Renew),
        3 => (0..3_usize, any::<bool>()).prop_map(|(n, ended)| Deed::Warm(n, ended)),
        6 => (0..4_usize).prop_map(Deed::End),
        2 => (0..20_u64).prop_map(Deed::Pass),
        1 => Just(Deed::Crash),
    ]
}

impl World {
    fn new() -> World {
        World {
            worker: Worker::new(bounds()),
            disk: BTreeMap::new(),
            marks: Vec::new(),
            runs: 0,
            preparing: HashMap::new(),
            loading: Vec::new(),
            executor: Vec::new(),
            prepared: Vec::new(),
            sent: BTreeMap::new(),
            answers: BTreeMap::new(),
            crashed_with: HashSet::new(),
        }
    }

    fn on(&mut self, event: DeployEvent) {
        let now = self.worker.now;
        let mut effects = VecDeque::from(self.worker.on(event));
        while let Some(effect) = effects.pop_front() {
            match effect {
                DeployEffect::Note(Step::Forgotten(run)) => {
                    assert!(self.disk.remove(&run).is_some(), "{run:?} is forgotten twice");
                }
                DeployEffect::Note(step) => panic!("{step:?}"),
                DeployEffect::Mark(key) => self.marks.push(key),
                DeployEffect::Load { run, id } => self.loading.push((run, id)),
                DeployEffect::Submit { number, run, spec } => {
                    let (id, content) = &self.disk[&run];
                    assert_eq!(spec.grant().args[1], content.to_string(), "another one's code");
                    assert_eq!(spec.id(), &id.with_invocation(number));
                    let verdict = if self.executor.len() > 2 {
                        Err(Rejection::Busy { running: 0, queued: 3, limit: 3 })
                    } else {
                        self.executor.push((number, run));
                        Ok(())
                    };
                    effects.extend(self.worker.on(DeployEvent::Submitted { number, verdict }));
                }
                DeployEffect::Prepare { number, spec } => {
                    let last = self.prepared.last().map_or(0, |(number, _)| *number);
                    assert!(number > last, "{number} after {last}");
                    assert_eq!(spec.life(), Life::Latent);
                    let content = &spec.grant().args[1];
                    let known = |(id, on_disk): &(TaskId, u8)| {
                        id == spec.id() && on_disk.to_string() == *content
                    };
                    assert!(self.disk.values().any(known), "{} is not deployed", spec.id());
                    self.prepared.push((number, spec.id().clone()));
                }
                DeployEffect::Cancel(id) => {
                    let number = id.invocation().expect("an invocation");
                    assert!(self.executor.iter().any(|(known, _)| *known == number));
                }
                DeployEffect::Answer { answer, .. } => {
                    let json: Value = serde_json::from_slice(&answer).expect("JSON");
                    let call = json["invocation_id"].as_str().expect("an id").to_owned();
                    let error = json["error"].as_str().map(str::to_owned);
                    self.answers.entry(call).or_default().push((now, error));
                }
                DeployEffect::Notice(_) => {}
            }
        }
    }

    fn send(&mut self, name: &str, call: String) {
        let preparing = self.preparing.contains_key(&id(name));
        self.sent.entry(call.clone()).or_insert(self.worker.now);
        self.on(DeployEvent::Invoke { invoke: super::call(name, &call), preparing });
    }

    fn one(&mut self, deed: &Deed) {
        match deed {
            Deed::Start(n, content) => {
                let name = n.to_string();
                if self.preparing.contains_key(&id(&name))
                    || self.worker.deployments.has(&id(&name), &fingerprint(*content))
                {
                    return;
                }
                let reserved =
                    self.worker.deployments.reserve(&id(&name), weight(10, *content), None);
                if reserved.is_ok() {
                    self.preparing.insert(id(&name), (Run(self.runs), *content));
                    self.runs += 1;
                }
            }
            Deed::Prepared(n, success) => {
                let id = id(&n.to_string());
                let Some((run, content)) = self.preparing.remove(&id) else { return };
                if *success {
                    self.disk.insert(run, (id.clone(), content));
                    self.on(DeployEvent::Deployed { run, id, fingerprint: fingerprint(content) });
                } else {
                    self.on(DeployEvent::NotDeployed(id));
                }
            }
            Deed::Stop(n) => {
                let id = id(&n.to_string());
                self.on(DeployEvent::Stop(id.clone()));
                assert!(self.disk.values().all(|(deployed, _)| *deployed != id), "it is removed");
                if self.preparing.remove(&id).is_some() {
                    self.on(DeployEvent::NotDeployed(id));
                }
            }
            Deed::Invoke(n) => self.send(&n.to_string(), format!("call {}", self.sent.len())),
            Deed::Again(n) => {
                if let Some(call) = self.sent.keys().nth(*n).cloned() {
                    self.send("0", call);
                }
            }
            Deed::Load(how) => {
                if self.loading.is_empty() {
                    return;
                }
                let (run, id) = self.loading.remove(0);
                let verdict = match self.disk.get(&run) {
                    Some((_, content)) if *how > 0 => Ok(spec(id.as_str(), *content)),
                    Some(_) => Err(LoadError::Failed("the directory is gone".into())),
                    None => Err(LoadError::Lost("it is gone".into())),
                };
                self.on(DeployEvent::Loaded { run, id, verdict });
            }
            Deed::Renew => self.on(DeployEvent::Renewed),
            Deed::Warm(n, ended) => {
                if !self.prepared.is_empty() {
                    // The thread of an earlier one may be slow.
                    let (number, id) = self.prepared.remove(n % self.prepared.len());
                    self.on(DeployEvent::Prepared { number, id, ended: *ended });
                }
            }
            Deed::End(n) => {
                if !self.executor.is_empty() {
                    let (number, _) = self.executor.remove(n % self.executor.len());
                    self.on(DeployEvent::Ended { number, outcome: printed("done") });
                }
            }
            Deed::Pass(seconds) => {
                self.worker.now += Duration::from_secs(*seconds);
                if self.worker.deployments.due().is_some_and(|due| due <= self.worker.now) {
                    self.on(DeployEvent::Due);
                }
            }
            Deed::Crash => self.crash(),
        }
    }

    fn crash(&mut self) {
        let unanswered = self.sent.keys().filter(|call| !self.answers.contains_key(*call));
        self.crashed_with.extend(unanswered.cloned());
        self.worker.deployments = Deployments::new("w", bounds());
        self.loading.clear();
        self.executor.clear();
        self.prepared.clear();
        let deployed = self.disk.iter().map(|(run, (id, content))| Deployed {
            run: *run,
            arrival: Arrival { id: id.clone(), fingerprint: fingerprint(*content), state: None },
            weight: weight(10, *content),
        });
        let deployed = deployed.collect();
        let preparing = self.preparing.iter().map(|(id, (_, c))| (id.clone(), weight(10, *c)));
        let preparing = preparing.collect();
        let invoked = self.marks.clone();
        self.on(DeployEvent::Recovered { deployed, preparing, invoked });
    }

    /// Everything comes to its end.
    fn settle(&mut self) {
        while !self.preparing.is_empty()
            || !self.loading.is_empty()
            || !self.executor.is_empty()
            || !self.prepared.is_empty()
        {
            (0..4).for_each(|n| self.one(&Deed::Prepared(n, true)));
            self.one(&Deed::Warm(0, true));
            self.one(&Deed::Load(1));
            self.one(&Deed::End(0));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Whatever happens in whatever order: an invocation that was taken has one
    /// answer, in time, unless the process died with it, and then none; no
    /// invocation runs another code than that of its task; the journal has each
    /// deployed task once.
    #[test]
    fn each_invocation_that_was_taken_has_one_answer(
        deeds in prop::collection::vec(deed(), 1..120),
    ) {
        let mut world = World::new();
        for deed in &deeds {
            world.one(deed);
            let mut deployed = HashSet::new();
            prop_assert!(world.disk.values().all(|(id, _)| deployed.insert(id.clone())));
            prop_assert_eq!(deployed.len(), world.worker.deployments.len());
        }
        world.settle();
        for call in world.sent.keys() {
            let answers = world.answers.get(call).map(Vec::as_slice).unwrap_or_default();
            let last = answers.iter().filter(|(_, error)| !may_come_again(error.as_deref()));
            prop_assert!(last.count() <= 1, "{call}: {answers:?}");
            let died = world.crashed_with.contains(call);
            prop_assert_eq!(answers.is_empty(), died, "{}: {:?}", call, answers);
        }
        prop_assert_eq!(world.worker.deployments.due(), None);
        prop_assert!(world.worker.deployments.invocations.is_empty());
        prop_assert_eq!(world.worker.deployments.waits, (0, 0));
        let preparing = &world.worker.deployments.preparing;
        prop_assert!(preparing.now.is_none() && preparing.next.is_empty(), "{:?}", preparing);
    }
}
