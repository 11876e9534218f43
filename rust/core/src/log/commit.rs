//! Group commit: the requests of all threads that wait go into one LMDB transaction, and share its
//! sync.
//!
//! A thread puts its request into the queue. If nobody leads, it leads: 1. it takes what is in the
//! queue; 2. it passes the gate; 3. it applies the requests in order, in one transaction; 4. the
//! commit makes all of them durable at once; 5. it hands out the answers, and the lead to whoever
//! has queued meanwhile. Requests that queue during a sync make the next group.
//!
//! A request that is refused before it has written anything leaves its group alone. One that fails
//! later takes the transaction down; the group is applied again without it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::request::{Answer, Request};
use super::view::{Step, Work};
use super::{Limits, Shared, append, groups, maintain, topics, transactions};
use crate::store::lmdb::Failure;
use crate::{Error, ErrorKind, Result};

/// A group is closed when its records have so many bytes.
const MAX_GROUP_BYTES: usize = 64 << 20;

#[derive(Debug, Default)]
pub(super) struct Committer {
    queue: Mutex<Queue>,
    /// A group is done, or the lead is free.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<(u64, Arc<Request>)>,
    answers: HashMap<u64, Result<Answer>>,
    next: u64,
    led: bool,
}

impl Shared {
    /// Has a request applied; returns when it is durable.
    pub(super) fn submit(&self, request: Arc<Request>) -> Result<Answer> {
        self.check_writable()?;
        let Committer { queue, changed } = &self.committer;
        let mut state = queue.lock();
        let ticket = state.next;
        state.next += 1;
        state.waiting.push((ticket, request));
        loop {
            if let Some(answer) = state.answers.remove(&ticket) {
                return answer;
            }
            if state.led {
                changed.wait(&mut state);
                continue;
            }
            state.led = true;
            let group = take_group(&mut state.waiting);
            drop(state);
            let (tickets, requests): (Vec<u64>, Vec<Arc<Request>>) = group.into_iter().unzip();
            let answers = self.lead(&requests);
            drop(requests);
            state = queue.lock();
            state.answers.extend(tickets.into_iter().zip(answers));
            state.led = false;
            changed.notify_all();
        }
    }

    /// Commits a group of requests.
    fn lead(&self, requests: &[Arc<Request>]) -> Vec<Result<Answer>> {
        match self.pass_gate() {
            Ok(passed) => {
                let answers = self.apply_group(requests);
                drop(passed);
                self.wake.touch();
                answers
            }
            Err(error) => requests.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    fn pass_gate(&self) -> Result<super::gate::Passed<'_>> {
        let start = Instant::now();
        let deadline = super::wake::deadline(self.options.commit_timeout);
        loop {
            let seen = self.wake.commits()?;
            if let Some(passed) = self.gate()?.try_pass()? {
                return Ok(passed);
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(self.gate()?.stuck(now - start));
            }
            // Whoever is killed inside wakes nobody.
            self.wake.wait(seen, deadline.min(now + super::LOOK_AGAIN));
        }
    }

    /// Applies requests in one transaction; all that succeed are durable together.
    fn apply_group(&self, requests: &[Arc<Request>]) -> Vec<Result<Answer>> {
        let mut answers: Vec<Option<Result<Answer>>> = requests.iter().map(|_| None).collect();
        // Requests that took a transaction down; they are not tried again.
        let mut failed = vec![false; requests.len()];
        loop {
            let mut culprit = None;
            let outcome = self.writable().map_err(Failure::from).and_then(|environment| {
                environment.write(|txn| {
                    let mut work = Work::begin(txn)?;
                    for (at, request) in requests.iter().enumerate() {
                        if failed[at] {
                            continue;
                        }
                        let before = work.writes();
                        match apply(&mut work, request, &self.options.limits) {
                            Ok(answer) => answers[at] = Some(Ok(answer)),
                            Err(failure) if work.writes() == before && !failure.poisons => {
                                answers[at] = Some(Err(failure.error));
                            }
                            Err(failure) => {
                                culprit = Some(at);
                                return Err(failure);
                            }
                        }
                    }
                    work.finish()?;
                    crate::crash_point!("log.append.pre_sync");
                    Ok(())
                })
            });
            match (outcome, culprit) {
                (Ok(()), _) => break,
                (Err(failure), Some(at)) if !failure.poisons => {
                    failed[at] = true;
                    answers[at] = Some(Err(plain(failure.error)));
                }
                (Err(failure), _) => {
                    let error = plain(failure.error);
                    return requests.iter().map(|_| Err(error.clone())).collect();
                }
            }
        }
        crate::crash_point!("log.append.pre_ack");
        let lost = || Err(Error::new(ErrorKind::Io, "the request was not answered"));
        answers.into_iter().map(|answer| answer.unwrap_or_else(lost)).collect()
    }
}

/// The first requests of the queue, as many as make a group.
fn take_group(waiting: &mut Vec<(u64, Arc<Request>)>) -> Vec<(u64, Arc<Request>)> {
    let mut bytes = 0;
    let mut count = 0;
    for (_, request) in waiting.iter() {
        bytes += request.bytes();
        if count > 0 && bytes > MAX_GROUP_BYTES {
            break;
        }
        count += 1;
    }
    waiting.drain(..count).collect()
}

/// To the store it means that a newer owner grew the file.
fn plain(error: Error) -> Error {
    if error.kind() != ErrorKind::Fenced {
        return error;
    }
    let text = "another process has opened this log with a larger map_size_bytes and written past \
                the end of ours; close the log and open it with that size";
    Error::new(ErrorKind::StoreFull, text)
}

fn apply(work: &mut Work<'_, '_>, request: &Request, limits: &Limits) -> Step<Answer> {
    match request {
        Request::CreateTopic { name, settings } => topics::create(work, name, settings),
        Request::AlterTopic { name, settings } => topics::alter(work, name, settings),
        Request::DeleteTopic { name } => topics::delete(work, name),
        Request::InitProducer(request) => transactions::init(work, request, limits),
        Request::Append(request) => append::append(work, request, limits),
        Request::Stage(request) => transactions::stage(work, request, limits),
        Request::End(request) => transactions::end(work, request, limits),
        Request::CommitOffsets(request) => groups::commit_offsets(work, request),
        Request::DeleteGroup { group } => groups::delete(work, group),
        Request::Join(request) => groups::join(work, request),
        Request::Sync(request) => groups::sync(work, request),
        Request::Leave { group, member, now_ms } => groups::leave(work, group, member, *now_ms),
        Request::ExpireMembers { group, dead, now_ms } => {
            groups::expire(work, group, dead, *now_ms)
        }
        Request::Discard { batches } => {
            let mut left = *batches;
            let discarded = maintain::discard(work, &mut left)?;
            let more = left == 0;
            Ok(Answer::Maintained(maintain::Maintained { discarded, more, ..Default::default() }))
        }
        Request::Maintain { now_ms, budget, cursor } => {
            maintain::maintain(work, *now_ms, *budget, cursor, limits)
        }
    }
}
