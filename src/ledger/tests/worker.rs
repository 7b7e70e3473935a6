//! A worker of which the test does each step. Messages are acknowledged by their
//! receipt.

use super::*;

/// A worker of which the test does each step.
pub(super) struct Worker {
    pub(super) ledger: Ledger<Receipt>,
    pub(super) effects: Effects<Receipt>,
    pub(super) now: Now,
    pub(super) last: Receipt,
}

/// What a start got.
#[derive(Debug, PartialEq)]
pub(super) enum Got {
    /// A run, which is being admitted.
    Run(Run),
    /// A result again.
    Again(Bytes),
    /// Nothing of its own.
    Ignored,
    /// A result: it was refused.
    Refused(String),
}

impl Worker {
    pub(super) fn new(journaled: bool) -> Worker {
        let now = Now { instant: Instant::now(), wall: SystemTime::UNIX_EPOCH };
        let now = Now { wall: now.wall + Duration::from_secs(1_000_000), ..now };
        let last = Receipt { connection: 1, number: 0 };
        Worker { ledger: Ledger::new("w", 1 << 26, journaled), effects: Effects::new(), now, last }
    }

    pub(super) fn pass(&mut self, seconds: u64) {
        self.now.instant += Duration::from_secs(seconds);
        self.now.wall += Duration::from_secs(seconds);
    }

    pub(super) fn on(&mut self, event: LedgerEvent<Receipt>) -> Vec<LedgerEffect<Receipt>> {
        self.ledger.on(event, self.now, &mut self.effects);
        self.effects.drain(..).collect()
    }

    /// A start comes, and all that is recorded is on the disk at once.
    pub(super) fn start(&mut self, arrival: Arrival, content: &str, duplicate: bool) -> Got {
        self.last.number += 1;
        let content = Ok(request(arrival.id.as_str(), content));
        let (receipt, ack) = (Some(self.last), self.last);
        let effects =
            self.on(LedgerEvent::Start(Start { arrival, content, duplicate, receipt, ack }));
        self.got(effects, ack)
    }

    pub(super) fn got(&mut self, effects: Vec<LedgerEffect<Receipt>>, ack: Receipt) -> Got {
        for effect in effects {
            match effect {
                LedgerEffect::Admit { run, .. } => return Got::Run(run),
                LedgerEffect::Record { then, .. } => {
                    let after = self.on(LedgerEvent::Durable(then));
                    assert_eq!(after[0], LedgerEffect::Acknowledge(ack));
                    return match after.into_iter().nth(1) {
                        Some(LedgerEffect::Publish(publication)) if publication.replay => {
                            self.on(LedgerEvent::Delivered {
                                run: publication.run,
                                id: publication.id,
                            });
                            Got::Again(publication.result)
                        }
                        Some(LedgerEffect::Publish(publication)) => {
                            let result = TaskResult::decode(&publication.result);
                            Got::Refused(result.expect("a result").error.expect("an error"))
                        }
                        _ => Got::Ignored,
                    };
                }
                _ => {}
            }
        }
        panic!("a start without any consequence");
    }

    /// The run is admitted, accepted and released.
    pub(super) fn accept(&mut self, run: Run, name: &str) {
        let verdict = Ok((request(name, ""), spec(&id(name))));
        let admitted = self.on(LedgerEvent::Admitted { run, id: id(name), verdict });
        let [LedgerEffect::Submit { .. }] = &admitted[..] else { panic!("{admitted:?}") };
        self.submitted(run, name);
    }

    pub(super) fn submitted(&mut self, run: Run, name: &str) {
        let request = Some(request(name, ""));
        let submitted = LedgerEvent::Submitted { run, id: id(name), request, verdict: Ok(()) };
        let mut effects = self.on(submitted);
        let Some(LedgerEffect::Record { step: Step::Accepted { .. }, then }) = effects.pop() else {
            panic!("{effects:?}")
        };
        let effects = self.on(LedgerEvent::Durable(then));
        assert!(effects.contains(&LedgerEffect::Release(id(name))), "{effects:?}");
    }

    /// The run ends, and the broker gets its result.
    pub(super) fn end(&mut self, name: &str, outcome: Outcome) -> Bytes {
        let publication = self.ended(name, outcome);
        self.on(LedgerEvent::Delivered { run: publication.run, id: id(name) });
        publication.result
    }

    pub(super) fn ended(&mut self, name: &str, outcome: Outcome) -> Publication {
        let effects = self.on(LedgerEvent::Ended { id: id(name), outcome });
        self.publication(effects)
    }

    /// The result that is recorded and then published.
    pub(super) fn publication(&mut self, effects: Vec<LedgerEffect<Receipt>>) -> Publication {
        let mut records = effects.into_iter().filter_map(|effect| match effect {
            LedgerEffect::Record { step: Step::Finished { .. }, then } => Some(then),
            _ => None,
        });
        let then = records.next().expect("a result is recorded");
        match self.on(LedgerEvent::Durable(then)).pop() {
            Some(LedgerEffect::Publish(publication)) => publication,
            other => panic!("{other:?}"),
        }
    }

    /// A start that runs and ends.
    pub(super) fn run(&mut self, arrival: Arrival, outcome: Outcome) -> Bytes {
        let name = arrival.id.as_str().to_owned();
        let Got::Run(run) = self.start(arrival, "same", false) else { panic!("not run") };
        self.accept(run, &name);
        self.end(&name, outcome)
    }

    pub(super) fn stop(&mut self, name: &str) -> Vec<LedgerEffect<Receipt>> {
        self.last.number += 1;
        let ack = self.last;
        self.on(LedgerEvent::Stop { id: id(name), ack })
    }

    pub(super) fn known(&mut self) -> Vec<LedgerEffect<Receipt>> {
        self.on(LedgerEvent::Acknowledged(self.last))
    }
}

pub(super) fn same(number: u8) -> Arrival {
    arrival("a", "same", state(number))
}

/// That the task `a` is admitted.
pub(super) fn granted(run: Run) -> LedgerEvent<Receipt> {
    LedgerEvent::Admitted { run, id: id("a"), verdict: Ok((request("a", "same"), spec(&id("a")))) }
}

/// That the queue has taken it.
pub(super) fn submitted(run: Run) -> LedgerEvent<Receipt> {
    let request = Some(request("a", "same"));
    LedgerEvent::Submitted { run, id: id("a"), request, verdict: Ok(()) }
}

pub(super) fn failed() -> Outcome {
    Outcome::failed(Failure::Exit(1))
}
