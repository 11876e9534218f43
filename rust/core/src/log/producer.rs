//! The client's side: sequences, the records of a transaction until its end, and what may follow
//! an error.
//!
//! | state         | produce     | commit            | abort             | begin   |
//! |---------------|-------------|-------------------|-------------------|---------|
//! | new           | refused     | refused           | refused           | refused, until `init_transactions` |
//! | ready         | refused     | refused           | refused           | in a transaction |
//! | in a transaction | kept     | ready             | ready             | refused |
//! | failed (a record of it was refused) | refused | refused | ready     | refused |
//! | committing (no answer came)  | refused | repeats it | refused         | refused |
//! | aborting (no answer came)    | refused | refused    | repeats it      | refused |
//! | fenced        | the error, for ever | …         | …                 | … (timed out: until `init_transactions`) |
//!
//! A producer without a transactional id has only `produce`. A call that got no answer is kept and
//! repeated by the next call, before anything else: so the order is kept, and the log recognises
//! the repetition.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::batch::Rows;
use super::clock::Now;
use super::layout::{Placed, Topic};
use super::partition::{Partitioning, split};
use super::producing::{check_call, encode_part};
use super::records::Records;
use super::request::{Append, CommitOffsets, End, Part, Request, Stage};
use super::view::View;
use super::{Log, Write, plain, window};
use crate::{Error, ErrorKind, Result};

/// How to produce.
#[derive(Debug, Clone)]
pub struct ProducerOptions {
    /// With one: transactions. Without: idempotent only.
    pub transactional_id: Option<String>,
    /// A transaction that is open for longer is aborted, and its producer fenced.
    pub transaction_timeout_ms: u64,
    /// Records of a transaction kept in memory; what is more is staged in the log.
    pub max_buffered_bytes: usize,
}

impl Default for ProducerOptions {
    /// Idempotent; transactions of a minute; 16 MiB.
    fn default() -> Self {
        Self {
            transactional_id: None,
            transaction_timeout_ms: 60_000,
            max_buffered_bytes: 16 << 20,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Producer {
    log: Log,
    options: ProducerOptions,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Id and epoch.
    identity: Option<(i64, i32)>,
    phase: Phase,
    /// Idempotent: the next sequence of each partition.
    sequences: HashMap<(u32, u32), i32>,
    /// Idempotent: an append that got no answer.
    unanswered: Option<Arc<Request>>,
    last_append_ms: i64,
    /// Where records without a key go.
    unkeyed: u32,
}

#[derive(Debug)]
enum Phase {
    New,
    Ready,
    Open(Transaction),
    /// Part of the transaction was refused, so it must not be committed.
    Failed(Transaction, Error),
    /// The end was asked for, but no answer came.
    Ending(Arc<Request>),
    Fenced(Error),
}

/// In which row of the module's table a producer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProducerPhase {
    /// It has a transactional id, and `init_transactions` was not called.
    New,
    /// No transaction is open; one without a transactional id is always ready.
    Ready,
    /// A transaction is open.
    Open,
    /// Part of the transaction was refused.
    Failed,
    /// The commit got no answer.
    Committing,
    /// The abort got no answer.
    Aborting,
    /// A newer producer has taken over.
    Fenced,
    /// The transaction was open for too long.
    TimedOut,
}

/// A transaction that is open.
#[derive(Debug, Default)]
struct Transaction {
    started_ms: i64,
    /// Sequence of the first record in `parts`.
    sequence: i32,
    parts: Vec<Part>,
    bytes: usize,
    records: u64,
    offsets: Vec<CommitOffsets>,
    /// Whether something of it may be staged.
    staged: bool,
    /// A stage that got no answer.
    unanswered: Option<(Arc<Request>, u64)>,
}

impl Producer {
    /// A producer. Idempotent: it has an id at once. Transactional: after `init_transactions`.
    pub fn new(log: &Log, options: ProducerOptions, now_ms: i64) -> Result<Self> {
        log.shared.check_writable()?;
        let (identity, phase) = match &options.transactional_id {
            None => (Some(log.init_producer(None, 0, None, now_ms)?), Phase::Ready),
            Some(_) => (None, Phase::New),
        };
        let state = State {
            identity,
            phase,
            sequences: HashMap::new(),
            unanswered: None,
            last_append_ms: now_ms,
            unkeyed: 0,
        };
        Ok(Self { log: log.clone(), options, state: Mutex::new(state) })
    }

    /// Its options.
    pub fn options(&self) -> &ProducerOptions {
        &self.options
    }

    /// Id and epoch, once it has them.
    pub fn identity(&self) -> Option<(i64, i32)> {
        self.state.lock().identity
    }

    /// Fences every older producer of the same transactional id, and aborts what it left open.
    ///
    /// # Errors
    /// `ProducerFenced` if another producer has taken over since this one was initialised.
    pub fn init_transactions(&self, now_ms: i64) -> Result<()> {
        let id = self.transactional_id()?;
        let mut state = self.state.lock();
        match &state.phase {
            Phase::New | Phase::Ready => {}
            Phase::Fenced(error) if error.kind() == ErrorKind::TransactionTimedOut => {}
            Phase::Fenced(error) => return Err(error.clone()),
            _ => return Err(wrong("init_transactions", "a transaction is open; end it first")),
        }
        let timeout_ms = self.options.transaction_timeout_ms;
        match self.log.init_producer(Some(id), timeout_ms, state.identity, now_ms) {
            Ok(identity) => {
                state.identity = Some(identity);
                state.phase = Phase::Ready;
                drop(state);
                self.log.discard()
            }
            Err(error) => Err(fail(&mut state, error)),
        }
    }

    /// Begins a transaction. It costs nothing until there is something in it.
    pub fn begin_transaction(&self, now_ms: i64) -> Result<()> {
        self.transactional_id()?;
        let mut state = self.state.lock();
        match &state.phase {
            Phase::Ready => {
                state.phase =
                    Phase::Open(Transaction { started_ms: now_ms, ..Transaction::default() });
                Ok(())
            }
            Phase::New => Err(wrong("begin_transaction", "call init_transactions first")),
            Phase::Fenced(error) => Err(error.clone()),
            _ => Err(wrong("begin_transaction", "a transaction is open; end it first")),
        }
    }

    /// Produces records. Outside of transactions they are durable when it returns, and it says
    /// where they are, by partition; inside they are kept until the end, and it says nothing.
    ///
    /// # Errors
    /// `UnknownTopicOrPartition`, `RecordTooLarge`, `LengthMismatch` and others that refuse all
    /// records of the call. `LogTimeout` and `Io`: the call is kept and repeated by the next one
    /// (or by `flush`); do not produce its records again. `BufferFull`: the call before it still has
    /// no answer, and of this one nothing was taken; `flush`, then produce its records again.
    pub fn produce(
        &self,
        topic: &str,
        partitioning: Partitioning<'_>,
        records: &Records<'_>,
        now: impl Into<Now>,
    ) -> Result<Vec<Placed>> {
        let now = now.into();
        let mut state = self.state.lock();
        match &state.phase {
            Phase::Open(_) => {}
            Phase::Ready if self.options.transactional_id.is_none() => {}
            Phase::New => return Err(wrong("produce", "call init_transactions first")),
            Phase::Ready => return Err(wrong("produce", "call begin_transaction first")),
            Phase::Failed(_, error) => {
                return Err(wrong("produce", &format!("abort the transaction: {error}")));
            }
            Phase::Ending(_) => return Err(wrong("produce", ENDING)),
            Phase::Fenced(error) => return Err(error.clone()),
        }
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let outcome = self.produce_in(&mut state, topic, partitioning, records, now);
        outcome.map_err(|error| fail(&mut state, error))
    }

    fn produce_in(
        &self,
        state: &mut State,
        topic: &str,
        partitioning: Partitioning<'_>,
        records: &Records<'_>,
        now: Now,
    ) -> Result<Vec<Placed>> {
        let known = self.log.read().and_then(|view| plain(view.topic(topic)));
        let known: Topic = known.map_err(|error| match error.kind() {
            ErrorKind::Io => self.untaken("the log cannot be read", error),
            _ => error,
        })?;
        let partitions = known.settings.partitions;
        state.unkeyed = (state.unkeyed + 1) % partitions;
        let (mut parts, mut bytes) = (Vec::new(), 0);
        for (partition, rows) in split(records, partitioning, partitions, state.unkeyed)? {
            let write = Write { topic, partition, records: *records, first_sequence: 0 };
            let rows = match &rows {
                None => Rows::Range(0, records.len()),
                Some(rows) => Rows::Listed(rows),
            };
            let part = encode_part(&known, &write, rows, now)?;
            check_call(&mut bytes, &part)?;
            parts.push(part);
        }
        let State { phase, identity, .. } = state;
        match phase {
            Phase::Open(transaction) => {
                transaction.keep(parts);
                if transaction.bytes > self.options.max_buffered_bytes {
                    let identity = identity.ok_or_else(not_initialised)?;
                    self.stage(transaction, identity, now.log_ms)?;
                }
                Ok(Vec::new())
            }
            _ => self.append(state, parts, now.log_ms),
        }
    }

    /// Repeats what got no answer; returns when nothing is unanswered. Of records outside of
    /// transactions it says where they are.
    pub fn flush(&self, now_ms: i64) -> Result<Vec<Placed>> {
        let mut state = self.state.lock();
        let outcome = match &mut state.phase {
            Phase::Open(transaction) => self.restage(transaction, now_ms).map(|()| Vec::new()),
            Phase::Fenced(error) => Err(error.clone()),
            _ => self.reappend(&mut state),
        };
        outcome.map_err(|error| fail(&mut state, error))
    }

    /// Offsets of a consumer group that become committed with the transaction.
    pub fn send_offsets(&self, offsets: CommitOffsets) -> Result<()> {
        let mut state = self.state.lock();
        match &mut state.phase {
            Phase::Open(transaction) => {
                transaction.offsets.push(offsets);
                Ok(())
            }
            Phase::Failed(_, error) => {
                Err(wrong("send_offsets", &format!("abort the transaction: {error}")))
            }
            Phase::Ending(_) => Err(wrong("send_offsets", ENDING)),
            Phase::Fenced(error) => Err(error.clone()),
            Phase::New | Phase::Ready => Err(wrong("send_offsets", "call begin_transaction first")),
        }
    }

    /// Makes the transaction visible, durably; says where its records are.
    ///
    /// # Errors
    /// `ProducerFenced`, `TransactionTimedOut`: nothing of it is there. `InvalidTransactionState`: part
    /// of it was refused before; abort it. `UnknownMember`, `IllegalGeneration`,
    /// `UnknownTopicOrPartition`, `CapacityExceeded`: abort it. `LogTimeout`, `Io`: call it again.
    pub fn commit_transaction(&self, now_ms: i64) -> Result<Vec<Placed>> {
        let mut state = self.state.lock();
        let request = match &mut state.phase {
            Phase::Open(_) => None,
            Phase::Ending(request) if is_commit(request) => Some(Arc::clone(request)),
            Phase::Ending(_) => return Err(wrong("commit_transaction", ENDING)),
            Phase::Failed(_, error) => {
                let text = format!("part of the transaction was refused, so abort it: {error}");
                return Err(wrong("commit_transaction", &text));
            }
            Phase::Fenced(error) => return Err(error.clone()),
            Phase::New | Phase::Ready => return Err(wrong("commit_transaction", NONE_OPEN)),
        };
        let request = match request {
            Some(request) => request,
            None => {
                let identity = state.identity.ok_or_else(not_initialised)?;
                let Phase::Open(transaction) = &mut state.phase else {
                    return Err(wrong("commit_transaction", NONE_OPEN));
                };
                if let Err(error) = self.restage(transaction, now_ms) {
                    return Err(fail(&mut state, error));
                }
                if transaction.is_empty() {
                    state.phase = Phase::Ready;
                    return Ok(Vec::new());
                }
                self.end(transaction, identity, true, now_ms)?
            }
        };
        self.finish(&mut state, request).map_err(|error| fail(&mut state, error))
    }

    /// Ends the transaction without a trace.
    ///
    /// # Errors
    /// `LogTimeout`, `Io`: call it again. `ProducerFenced`: it was aborted by another producer.
    pub fn abort_transaction(&self, now_ms: i64) -> Result<()> {
        let mut state = self.state.lock();
        let identity = state.identity;
        let request = match &mut state.phase {
            Phase::Open(transaction) | Phase::Failed(transaction, _) => {
                if !transaction.staged {
                    // Nobody else knows of it.
                    state.phase = Phase::Ready;
                    return Ok(());
                }
                let identity = identity.ok_or_else(not_initialised)?;
                self.end(transaction, identity, false, now_ms)?
            }
            Phase::Ending(request) if !is_commit(request) => Arc::clone(request),
            Phase::Ending(_) => return Err(wrong("abort_transaction", ENDING)),
            Phase::Fenced(error) => return Err(error.clone()),
            Phase::New | Phase::Ready => return Err(wrong("abort_transaction", NONE_OPEN)),
        };
        let outcome = self.finish(&mut state, request);
        outcome.map(|_| ()).map_err(|error| fail(&mut state, error))
    }

    /// What may be called now.
    pub fn phase(&self) -> ProducerPhase {
        match &self.state.lock().phase {
            Phase::New => ProducerPhase::New,
            Phase::Ready => ProducerPhase::Ready,
            Phase::Open(_) => ProducerPhase::Open,
            Phase::Failed(..) => ProducerPhase::Failed,
            Phase::Ending(request) if is_commit(request) => ProducerPhase::Committing,
            Phase::Ending(_) => ProducerPhase::Aborting,
            Phase::Fenced(error) if error.kind() == ErrorKind::TransactionTimedOut => {
                ProducerPhase::TimedOut
            }
            Phase::Fenced(_) => ProducerPhase::Fenced,
        }
    }

    /// Whether a transaction is open (or its end unanswered).
    pub fn in_transaction(&self) -> bool {
        use ProducerPhase::{Aborting, Committing, Failed, Open};
        matches!(self.phase(), Open | Failed | Committing | Aborting)
    }

    fn transactional_id(&self) -> Result<&str> {
        self.options
            .transactional_id
            .as_deref()
            .ok_or_else(|| wrong("this call", "the producer has no transactional_id; give it one"))
    }

    /// Appends parts outside of a transaction, after what got no answer before.
    fn append(&self, state: &mut State, mut parts: Vec<Part>, now_ms: i64) -> Result<Vec<Placed>> {
        self.reappend(state)
            .map_err(|error| self.untaken("the call before this one has no answer", error))?;
        let expiry_ms = self.log.options().limits.producer_expiry_ms;
        let silent_ms = now_ms.saturating_sub(state.last_append_ms);
        if expiry_ms.is_some_and(|expiry| silent_ms > (expiry / 2) as i64) {
            // The log may have forgotten it; everything was answered, so a new id is as good.
            let identity = self.log.init_producer(None, 0, None, now_ms);
            let identity =
                identity.map_err(|error| self.untaken("the producer needs a new id", error))?;
            state.identity = Some(identity);
            state.sequences.clear();
        }
        for part in &mut parts {
            let place = (part.topic, part.partition);
            part.first_sequence = state.sequences.get(&place).copied().unwrap_or(0);
        }
        let producer = state.identity;
        let request = Arc::new(Request::Append(Append { producer, parts, now_ms }));
        state.unanswered = Some(Arc::clone(&request));
        let outcome = self.log.submit_append(request);
        self.answered(state, outcome)
    }

    fn reappend(&self, state: &mut State) -> Result<Vec<Placed>> {
        let Some(request) = state.unanswered.clone() else { return Ok(Vec::new()) };
        let outcome = self.log.submit_append(request);
        self.answered(state, outcome)
    }

    /// The error of a call that failed before its records were taken: it must not look like one whose
    /// records are kept and repeated.
    fn untaken(&self, why: &str, error: Error) -> Error {
        let kind = match error.kind() {
            ErrorKind::StorePoisoned => return error,
            _ if self.is_indefinite(&error) => ErrorKind::BufferFull,
            kind => kind,
        };
        let advice = if kind == ErrorKind::BufferFull {
            "flush until it succeeds, then produce them again"
        } else {
            "correct what it names, then produce them again"
        };
        Error::new(kind, format!("these records were not taken, for {why}: {error}; {advice}"))
    }

    fn answered(
        &self,
        state: &mut State,
        outcome: Result<Vec<(Placed, bool)>>,
    ) -> Result<Vec<Placed>> {
        match outcome {
            Ok(placed) => {
                if let Some(request) = state.unanswered.take()
                    && let Request::Append(append) = &*request
                {
                    state.last_append_ms = append.now_ms;
                    for part in &append.parts {
                        let next = window::after(part.first_sequence, part.records);
                        state.sequences.insert((part.topic, part.partition), next);
                    }
                }
                crate::crash_point!("log.append.post_ack");
                Ok(placed.into_iter().map(|(placed, _)| placed).collect())
            }
            Err(error) => {
                if !self.is_indefinite(&error) {
                    state.unanswered = None;
                }
                Err(error)
            }
        }
    }

    /// Stages what a transaction has in memory, after what got no answer before.
    fn stage(
        &self,
        transaction: &mut Transaction,
        (id, epoch): (i64, i32),
        now_ms: i64,
    ) -> Result<()> {
        self.restage(transaction, now_ms)?;
        let request = Stage {
            transactional_id: self.transactional_id()?.to_owned(),
            id,
            epoch,
            started_ms: transaction.started_ms,
            first_sequence: transaction.sequence,
            parts: std::mem::take(&mut transaction.parts),
            now_ms,
        };
        let records = std::mem::take(&mut transaction.records);
        transaction.bytes = 0;
        transaction.staged = true;
        transaction.unanswered = Some((Arc::new(Request::Stage(request)), records));
        self.restage(transaction, now_ms)
    }

    fn restage(&self, transaction: &mut Transaction, _now_ms: i64) -> Result<()> {
        let Some((request, records)) = &transaction.unanswered else { return Ok(()) };
        self.log.submit_stage(Arc::clone(request))?;
        transaction.sequence = window::after(transaction.sequence, *records);
        transaction.unanswered = None;
        Ok(())
    }

    fn end(
        &self,
        transaction: &mut Transaction,
        (id, epoch): (i64, i32),
        commit: bool,
        now_ms: i64,
    ) -> Result<Arc<Request>> {
        Ok(Arc::new(Request::End(End {
            transactional_id: self.transactional_id()?.to_owned(),
            id,
            epoch,
            started_ms: transaction.started_ms,
            commit,
            first_sequence: transaction.sequence,
            parts: if commit { std::mem::take(&mut transaction.parts) } else { Vec::new() },
            offsets: if commit { std::mem::take(&mut transaction.offsets) } else { Vec::new() },
            now_ms,
        })))
    }

    fn finish(&self, state: &mut State, request: Arc<Request>) -> Result<Vec<Placed>> {
        state.phase = Phase::Ending(Arc::clone(&request));
        match self.log.submit_end(request) {
            Ok(ended) => {
                state.identity = Some((ended.id, ended.epoch));
                state.phase = Phase::Ready;
                Ok(ended.placed)
            }
            Err(error) if self.is_indefinite(&error) => Err(error),
            Err(error) => {
                // Refused as a whole: nothing of it is there, and it can only be aborted.
                let staged = true;
                let left = Transaction { staged, ..Transaction::default() };
                state.phase = Phase::Failed(left, error.clone());
                Err(error)
            }
        }
    }

    /// Whether the call may have been applied nevertheless.
    fn is_indefinite(&self, error: &Error) -> bool {
        let poisoned = || self.log.shared.check_writable().is_err();
        matches!(error.kind(), ErrorKind::LogTimeout | ErrorKind::Io | ErrorKind::StorePoisoned)
            || error.kind() == ErrorKind::StoreFull && poisoned()
    }
}

impl Transaction {
    fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.offsets.is_empty() && !self.staged
    }

    /// Keeps records until they are staged or committed.
    fn keep(&mut self, parts: Vec<Part>) {
        for part in parts {
            self.records += part.records;
            self.bytes += part.batches.iter().map(|batch| batch.0.len()).sum::<usize>();
            let place = (part.topic, part.partition);
            match self.parts.iter_mut().find(|known| (known.topic, known.partition) == place) {
                Some(known) => {
                    known.records += part.records;
                    known.batches.extend(part.batches);
                }
                None => self.parts.push(part),
            }
        }
    }
}

const NONE_OPEN: &str = "no transaction is open; call begin_transaction first";
const ENDING: &str = "the end of the transaction was asked for, but no answer came: repeat that \
                      same call until it is answered, it is recognised";

/// What an error does to the state of a producer.
fn fail(state: &mut State, error: Error) -> Error {
    match error.kind() {
        ErrorKind::ProducerFenced | ErrorKind::TransactionTimedOut => {
            state.phase = Phase::Fenced(error.clone());
        }
        // What got no answer is repeated.
        ErrorKind::LogTimeout | ErrorKind::Io | ErrorKind::StorePoisoned => {}
        _ => {
            if let Phase::Open(transaction) = &mut state.phase {
                let transaction = std::mem::take(transaction);
                state.phase = Phase::Failed(transaction, error.clone());
            }
        }
    }
    error
}

fn is_commit(request: &Request) -> bool {
    matches!(request, Request::End(End { commit: true, .. }))
}

fn wrong(call: &str, advice: &str) -> Error {
    Error::new(ErrorKind::InvalidTransactionState, format!("{call}: {advice}"))
}

fn not_initialised() -> Error {
    wrong("this call", "call init_transactions first")
}
