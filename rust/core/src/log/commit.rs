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
//!
//! Among processes it is the same, through inboxes instead of a queue (see `inbox`).

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::gate::Passed;
use super::inbox::{self, Gone, Letter, Posted};
use super::request::{Answer, Request};
use super::shared::Shared;
use super::view::{Step, Work};
use super::{Limits, append, compact, groups, maintain, topics, transactions};
use crate::environment::lmdb::Failure;
use crate::random::random_id;
use crate::{Error, ErrorKind, Result};

/// A group is closed when its records have so many bytes.
const MAX_GROUP_BYTES: usize = 64 << 20;

/// The manifest's lower bounds are raised every so many commits (and when the log is closed).
const MANIFEST_COMMITS: u64 = 1024;

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
    commits: u64,
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

    fn count_commit(&self) -> u64 {
        let mut state = self.committer.queue.lock();
        state.commits += 1;
        state.commits
    }

    /// Has a group of requests applied: by ourselves, or by whoever passes the gate before us.
    fn lead(&self, requests: &[Arc<Request>]) -> Vec<Result<Answer>> {
        self.try_lead(requests).unwrap_or_else(|error| refuse(requests, &error))
    }

    fn try_lead(&self, requests: &[Arc<Request>]) -> Result<Vec<Result<Answer>>> {
        let gate = self.gate()?;
        if let Some(passed) = gate.try_pass()? {
            return self.serve(passed, requests, None);
        }
        let start = Instant::now();
        let deadline = super::wake::deadline(self.options.commit_timeout);
        let mut seen = self.wake.commits()?;
        let posted = self.inboxes.post(requests, random_id())?;
        loop {
            let passed = gate.try_pass()?;
            let answers = inbox::answers(&self.writable()?.read()?, posted);
            if let Some(answers) = answers.map_err(|failure| failure.error)? {
                self.inboxes.withdraw();
                return Ok(answers);
            }
            if let Some(passed) = passed {
                return self.serve(passed, requests, Some(posted));
            }
            let now = Instant::now();
            if now >= deadline {
                self.inboxes.withdraw();
                return Err(gate.stuck(now - start));
            }
            // Whoever is killed inside wakes nobody.
            self.wake.wait(seen, deadline.min(now + super::LOOK_AGAIN));
            seen = self.wake.commits()?;
        }
    }

    /// Inside the gate: applies our requests, and what others have in their inboxes.
    fn serve(
        &self,
        passed: Passed<'_>,
        requests: &[Arc<Request>],
        posted: Option<Posted>,
    ) -> Result<Vec<Result<Answer>>> {
        let own: usize = requests.iter().map(|request| request.bytes()).sum();
        let (letters, gone) = self.inboxes.collect(MAX_GROUP_BYTES.saturating_sub(own))?;
        let mut group = Group::new(requests, posted, &letters, &gone);
        let outcome = self.apply_group(&mut group);
        self.inboxes.withdraw();
        if outcome.is_ok() {
            self.inboxes.applied(&letters);
            gone.iter().for_each(Gone::remove);
            if self.count_commit().is_multiple_of(MANIFEST_COMMITS) {
                // What was committed stands; a manifest that is not raised is still a lower bound.
                let _ = self.raise_manifest();
            }
        }
        drop(passed);
        crate::crash_point!("log.commit.pre_wake");
        self.wake.touch();
        outcome.map(|()| group.answers_to(requests.len()))
    }

    /// Applies requests in one transaction; all that succeed are durable together.
    fn apply_group(&self, group: &mut Group<'_>) -> Result<()> {
        loop {
            let mut culprit = None;
            let outcome = self.writable().map_err(Failure::from).and_then(|environment| {
                environment.write(|txn| {
                    let mut work = Work::begin(txn)?;
                    culprit = group.apply(&mut work, &self.options.limits).err();
                    if let Some((_, failure)) = culprit.take_if(|(_, failure)| failure.poisons) {
                        return Err(failure);
                    }
                    if let Some((_, failure)) = &culprit {
                        return Err(Failure::from(failure.error.clone()));
                    }
                    group.note(&mut work)?;
                    work.finish()?;
                    crate::crash_point!("log.append.pre_sync");
                    Ok(())
                })
            });
            match (outcome, culprit) {
                (Ok(()), _) => break,
                (Err(_), Some((at, failure))) => group.exclude(at, plain(failure.error)),
                (Err(failure), None) => return Err(plain(failure.error)),
            }
        }
        crate::crash_point!("log.append.pre_ack");
        Ok(())
    }
}

/// Requests that share a transaction: ours first, then those of each letter.
struct Group<'g> {
    requests: Vec<&'g Request>,
    answers: Vec<Option<Result<Answer>>>,
    /// Requests that took a transaction down; they are not tried again.
    excluded: Vec<bool>,
    /// Inboxes, and which of the requests are theirs.
    letters: Vec<(Posted, Range<usize>)>,
    /// Letters that had been applied before.
    stale: Vec<bool>,
    gone: &'g [Gone],
}

impl<'g> Group<'g> {
    fn new(
        requests: &'g [Arc<Request>],
        posted: Option<Posted>,
        letters: &'g [Letter],
        gone: &'g [Gone],
    ) -> Self {
        let mut all: Vec<&Request> = requests.iter().map(AsRef::as_ref).collect();
        let mut ranges: Vec<(Posted, Range<usize>)> = Vec::new();
        ranges.extend(posted.map(|posted| (posted, 0..all.len())));
        for Letter { id, number, requests } in letters {
            let start = all.len();
            all.extend(requests.iter().map(AsRef::as_ref));
            ranges.push((Posted { id: *id, number: *number }, start..all.len()));
        }
        Self {
            answers: all.iter().map(|_| None).collect(),
            excluded: vec![false; all.len()],
            requests: all,
            stale: vec![false; ranges.len()],
            letters: ranges,
            gone,
        }
    }

    /// Applies everything in order; an error names the request that took the transaction down.
    fn apply(
        &mut self,
        work: &mut Work<'_, '_>,
        limits: &Limits,
    ) -> std::result::Result<(), (usize, Failure)> {
        let mut skipped = vec![false; self.requests.len()];
        for ((posted, range), stale) in self.letters.iter().zip(&mut self.stale) {
            let applied = inbox::last_applied(work, posted.id);
            *stale = applied.map_err(|failure| (range.start, failure))? >= posted.number;
            skipped[range.clone()].fill(*stale);
            if !*stale {
                continue;
            }
            // A process that is killed between writing LMDB's meta page and announcing it has
            // committed what readers do not see yet: the next writer finds it, and the answers.
            let answers = inbox::answers(work, *posted);
            if let Some(answers) = answers.map_err(|failure| (range.start, failure))? {
                for (slot, answer) in self.answers[range.clone()].iter_mut().zip(answers) {
                    *slot = Some(answer);
                }
            }
        }
        for (at, request) in self.requests.iter().enumerate() {
            if skipped[at] || self.excluded[at] {
                continue;
            }
            let before = work.writes();
            match apply(work, request, limits) {
                Ok(answer) => self.answers[at] = Some(Ok(answer)),
                Err(failure) if work.writes() == before && !failure.poisons => {
                    self.answers[at] = Some(Err(failure.error));
                }
                Err(failure) => return Err((at, failure)),
            }
        }
        Ok(())
    }

    /// Notes the answers for the inboxes.
    fn note(&mut self, work: &mut Work<'_, '_>) -> Step<()> {
        for gone in self.gone {
            inbox::forget(work, gone.id)?;
        }
        for ((posted, range), stale) in self.letters.iter().zip(&self.stale) {
            if !stale {
                let answers: Vec<Result<Answer>> =
                    self.answers[range.clone()].iter().map(|one| given(one.as_ref())).collect();
                inbox::note(work, *posted, &answers)?;
            }
        }
        Ok(())
    }

    fn exclude(&mut self, at: usize, error: Error) {
        self.excluded[at] = true;
        self.answers[at] = Some(Err(error));
    }

    /// The answers to the first so many requests.
    fn answers_to(self, count: usize) -> Vec<Result<Answer>> {
        self.answers.iter().take(count).map(|answer| given(answer.as_ref())).collect()
    }
}

fn given(answer: Option<&Result<Answer>>) -> Result<Answer> {
    answer
        .cloned()
        .unwrap_or_else(|| Err(Error::new(ErrorKind::Io, "the log has not answered this request")))
}

fn refuse(requests: &[Arc<Request>], error: &Error) -> Vec<Result<Answer>> {
    requests.iter().map(|_| Err(error.clone())).collect()
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
        Request::Replace(request) => compact::replace(work, request),
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
