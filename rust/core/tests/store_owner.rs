//! One owner: locks between processes, take-over, and owners that were paused and wake up.

mod store_support;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout};
#[cfg(feature = "crash-points")]
use std::time::{Duration, Instant};

use onceflow_core::ErrorKind;
use onceflow_core::store::{ChunkStore, RecordStore, Store, StoreOptions, verify};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use store_support::*;

fn taker() -> StoreOptions {
    StoreOptions { take_over: true, ..options() }
}

/// A child that owns a store and does what it is told, line by line.
struct Peer {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    fn spawn(name: &str, state: &Path, stop_at: Option<&str>) -> Self {
        let mut command = child(name, state.to_str().unwrap());
        if let Some(point) = stop_at {
            command.env("STOP_AT", point);
        }
        let mut child = command.spawn().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self { child, answers }
    }

    fn say(&mut self, order: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{order}").unwrap();
    }

    fn answer(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.answers.read_line(&mut line).unwrap(), 0, "the peer has ended");
            if let Some(answer) = line.trim().strip_prefix('@') {
                return answer.to_owned();
            }
        }
    }

    fn ask(&mut self, order: &str) -> String {
        self.say(order);
        self.answer()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Waits until the peer is stopped.
    fn wait_stopped(&self) {
        let (_, status) = waitpid(Some(self.pid()), WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(status.stopped());
    }

    fn end(mut self) {
        self.say("end");
        assert!(self.child.wait().unwrap().success());
    }
}

/// The child's part.
fn peer(state: &Path) {
    let mut out = std::io::stdout();
    let mut say = |text: String| {
        writeln!(out, "\n@{text}").unwrap();
        out.flush().unwrap();
    };
    let describe = |outcome: onceflow_core::Result<String>| match outcome {
        Ok(text) => text,
        Err(error) => format!("{} {error}", error.kind().as_str()),
    };
    let mut store: Option<Store> = None;
    for order in std::io::stdin().lines() {
        let open = |options: &StoreOptions| Store::open(state, options);
        let order = order.unwrap();
        let answer = match (order.as_str(), &store) {
            ("end", _) => break,
            ("open" | "take over", _) => {
                let options = if order == "open" { options() } else { taker() };
                match open(&options) {
                    Ok(opened) => format!("epoch {}", store.insert(opened).job_epoch()),
                    Err(error) => describe(Err(error)),
                }
            }
            ("commit", Some(store)) => {
                describe(commit(store, &[1000], &[], &[]).map(|id| format!("done {id}")))
            }
            ("id", Some(store)) => {
                describe(store.allocate_checkpoint_id().map(|id| format!("id {id}")))
            }
            ("note", Some(store)) => {
                describe(store.put_note("n", b"peer").map(|()| "noted".to_owned()))
            }
            ("collect", Some(store)) => {
                describe(store.collect(&ids(store), &[]).map(|()| "collected".to_owned()))
            }
            ("busy", Some(store)) => {
                let mut kept = Vec::new();
                for _ in 0..3000 {
                    let gone: Vec<u64> = if kept.len() > 2 { vec![kept.remove(0)] } else { vec![] };
                    let keys: Vec<_> =
                        gone.iter().flat_map(|id| chunks(*id, &BUSY)).map(|(key, _)| key).collect();
                    kept.push(commit(store, &BUSY, &gone, &keys).unwrap());
                }
                "was busy".to_owned()
            }
            ("check", Some(store)) => describe(store.check_epoch().map(|()| "current".to_owned())),
            ("close", Some(_)) => {
                describe(store.take().unwrap().close().map(|()| "closed".to_owned()))
            }
            ("drop", Some(_)) => {
                drop(store.take());
                "dropped".to_owned()
            }
            other => panic!("{other:?}"),
        };
        say(answer);
    }
}

const BUSY: [usize; 4] = [100, 5000, 20_000, 3000];

/// Runs the child's part if this is the child.
macro_rules! peer {
    ($name:ident) => {
        if let Some(state) = role() {
            return peer(Path::new(&state));
        }
        const NAME: &str = stringify!($name);
    };
}

#[test]
fn a_second_owner_is_told_who_the_first_is() {
    peer!(a_second_owner_is_told_who_the_first_is);
    let root = scratch();
    let state = root.path().canonicalize().unwrap().join("state");
    let mut other = Peer::spawn(NAME, &state, None);
    assert_eq!(other.ask("open"), "epoch 1");
    let error = Store::open(&state, &options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StoreLocked);
    let text = error.to_string();
    let pid = format!("process {}", other.child.id());
    assert!(text.contains(&pid) && text.contains(state.to_str().unwrap()), "{text}");
    // Reading and verifying go on beside it.
    assert_eq!(other.ask("commit"), "done 1");
    assert_eq!(verify(&state).unwrap().checkpoints, [1]);
    let reading = Store::open(&state, &reader()).unwrap();
    assert_eq!(other.ask("commit"), "done 2");
    assert_eq!(ids(&reading), [1, 2]);
    drop(reading);
    // A killed owner leaves no lock behind, and no half of anything.
    other.signal(Signal::KILL);
    other.child.wait().unwrap();
    let store = open(&state);
    assert_eq!((store.job_epoch(), ids(&store)), (2, vec![1, 2]));
    let mut other = Peer::spawn(NAME, &state, None);
    assert!(other.ask("open").starts_with("store_locked"));
    store.close().unwrap();
    assert_eq!(other.ask("open"), "epoch 3");
    other.end();
}

#[test]
fn verifying_beside_a_busy_owner_finds_no_damage() {
    peer!(verifying_beside_a_busy_owner_finds_no_damage);
    let root = scratch();
    let state = root.path().join("state");
    let mut owner = Peer::spawn(NAME, &state, None);
    assert_eq!(owner.ask("open"), "epoch 1");
    owner.say("busy");
    let (mut rounds, mut seen) = (0, std::collections::BTreeSet::new());
    loop {
        // Each round opens the file anew, and walks pages that the owner is about to recycle.
        let report = verify(&state).unwrap();
        assert_eq!(report.damage, [], "round {rounds}");
        rounds += 1;
        seen.extend(report.checkpoints.last().copied());
        if seen.last() == Some(&3000) {
            break;
        }
    }
    assert_eq!(owner.answer(), "was busy");
    assert!(rounds > 20 && seen.len() > 10, "{rounds} rounds, {} states", seen.len());
    owner.end();
}

#[test]
fn one_process_opens_a_directory_once() {
    let root = scratch();
    let state = root.path().join("state");
    let store = open(&state);
    std::os::unix::fs::symlink(&state, root.path().join("link")).unwrap();
    for path in [state.clone(), root.path().join("link"), state.join("../state")] {
        for options in [options(), taker()] {
            let error = Store::open(&path, &options).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::StoreLocked);
            assert!(
                error.to_string().contains(&format!("process {}", std::process::id())),
                "{error}"
            );
        }
    }
    // The refusals took nothing away from the first.
    commit(&store, &[100], &[], &[]).unwrap();
    // A reader shares what the owner has open, and may outlive it.
    let reading = Store::open(&state, &reader()).unwrap();
    store.close().unwrap();
    let again = open(&state);
    commit(&again, &[100], &[], &[]).unwrap();
    assert_eq!(ids(&reading).len(), 2);
    drop((again, reading));
    // A reader that came first must go first.
    let reading = Store::open(&state, &reader()).unwrap();
    assert_eq!(kind(Store::open(&state, &options())), ErrorKind::StoreLocked);
    drop(reading);
    assert_eq!(open(&state).job_epoch(), 3);
}

#[test]
fn a_running_owner_is_fenced_by_a_take_over() {
    peer!(a_running_owner_is_fenced_by_a_take_over);
    let root = scratch();
    let state = root.path().join("state");
    let mut old = Peer::spawn(NAME, &state, None);
    assert_eq!(old.ask("take over"), "epoch 1");
    assert_eq!(old.ask("commit"), "done 1");
    let store = Store::open(&state, &taker()).unwrap();
    assert_eq!((store.job_epoch(), ids(&store)), (2, vec![1]));
    changes_nothing(&mut old, &store, &state);
    commit(&store, &[500], &[], &[]).unwrap();
    changes_nothing(&mut old, &store, &state);
    assert_eq!(old.ask("close"), "closed");
    // The lock is the new owner's, and the old one has not released it.
    assert!(old.ask("open").starts_with("store_locked"));
    old.end();
}

/// Whatever a fenced owner tries, it is told so, and no file changes.
fn changes_nothing(old: &mut Peer, store: &Store, state: &Path) {
    let before = (ids(store), store.chunk_keys().unwrap(), store.note("n").unwrap());
    let image = Image::of(state);
    for order in ["commit", "note", "collect", "check"] {
        let answer = old.ask(order);
        assert!(answer.starts_with("fenced"), "{order}: {answer}");
    }
    assert_eq!(before, (ids(store), store.chunk_keys().unwrap(), store.note("n").unwrap()));
    let after = Image::of(state);
    assert!(image.data == after.data && image.manifest == after.manifest);
}

#[test]
fn a_paused_owner_wakes_up_fenced() {
    peer!(a_paused_owner_wakes_up_fenced);
    let root = scratch();
    let state = root.path().join("state");
    let mut old = Peer::spawn(NAME, &state, None);
    assert_eq!(old.ask("open"), "epoch 1");
    assert_eq!(old.ask("commit"), "done 1");
    old.signal(Signal::STOP);
    old.wait_stopped();
    // Without take_over the paused owner is an owner.
    assert_eq!(kind(Store::open(&state, &options())), ErrorKind::StoreLocked);
    let store = Store::open(&state, &taker()).unwrap();
    assert_eq!(store.job_epoch(), 2);
    let second = commit(&store, &[700], &[], &[]).unwrap();
    assert!(second > 1);
    store.put_note("n", b"new owner").unwrap();
    old.signal(Signal::CONT);
    changes_nothing(&mut old, &store, &state);
    assert_eq!(old.ask("drop"), "dropped");
    assert_eq!(ids(&store), [1, second]);
    // Fenced for ever, also when the new owner is gone.
    drop(store);
    assert_eq!(old.ask("open"), "epoch 3");
    old.end();
}

#[test]
fn of_many_that_take_over_at_once_one_stays() {
    peer!(of_many_that_take_over_at_once_one_stays);
    let root = scratch();
    let state = root.path().join("state");
    open(&state).close().unwrap();
    for _ in 0..10 {
        let mut peers: Vec<Peer> = (0..4).map(|_| Peer::spawn(NAME, &state, None)).collect();
        for peer in &mut peers {
            peer.say("take over");
        }
        let opened: Vec<bool> =
            peers.iter_mut().map(|peer| peer.answer().starts_with("epoch")).collect();
        let mut current = 0;
        for (peer, opened) in peers.iter_mut().zip(opened) {
            if opened {
                let answer = peer.ask("commit");
                current += usize::from(answer.starts_with("done"));
                assert!(answer.starts_with("done") || answer.starts_with("fenced"), "{answer}");
            }
        }
        assert_eq!(current, 1);
        peers.into_iter().for_each(Peer::end);
    }
    let report = verify(&state).unwrap();
    assert_eq!((report.checkpoints.len(), report.damage), (10, vec![]));
}

/// Paused at a point between the checks of a write and its commit, where it holds the writer lock.
#[cfg(feature = "crash-points")]
#[test]
fn an_owner_paused_within_a_commit_is_named_and_nobody_hangs() {
    peer!(an_owner_paused_within_a_commit_is_named_and_nobody_hangs);
    let root = scratch();
    let state = root.path().join("state");

    // Paused, then going on: it was never fenced, and its commit counts.
    let mut old = Peer::spawn(NAME, &state, Some("decide.pre_sync"));
    assert_eq!(old.ask("open"), "epoch 1");
    old.say("commit");
    old.wait_stopped();
    let start = Instant::now();
    let error = Store::open(&state, &taker()).unwrap_err();
    let waited = start.elapsed();
    assert_eq!(error.kind(), ErrorKind::StoreLocked);
    assert!(
        error.to_string().contains(&format!("process {} is paused", old.child.id())),
        "{error}"
    );
    assert!(waited > Duration::from_secs(4) && waited < Duration::from_secs(20), "{waited:?}");
    // The attempt waits on in the background: this process must not open the directory meanwhile.
    assert_eq!(kind(Store::open(&state, &taker())), ErrorKind::StoreLocked);
    // And it has taken nothing away from the paused owner.
    let mut third = Peer::spawn(NAME, &state, None);
    let answer = third.ask("open");
    assert!(answer.contains(&format!("owned by process {}", old.child.id())), "{answer}");
    third.end();
    old.signal(Signal::CONT);
    assert_eq!(old.answer(), "done 1");
    let store = open_patiently(&state);
    assert_eq!((store.job_epoch(), ids(&store)), (2, vec![1]));
    assert!(old.ask("commit").starts_with("fenced"));
    store.close().unwrap();
    old.end();

    // Paused, then killed: its commit never was.
    let mut old = Peer::spawn(NAME, &state, Some("decide.pre_sync"));
    assert_eq!(old.ask("open"), "epoch 3");
    old.say("commit");
    old.wait_stopped();
    assert_eq!(kind(Store::open(&state, &taker())), ErrorKind::StoreLocked);
    old.signal(Signal::KILL);
    old.child.wait().unwrap();
    let store = open_patiently(&state);
    assert_eq!((store.job_epoch(), ids(&store)), (4, vec![1]));
    commit(&store, &[100], &[], &[]).unwrap();
}

#[cfg(feature = "crash-points")]
#[test]
fn a_take_over_that_is_killed_leaves_the_owner_alone() {
    peer!(a_take_over_that_is_killed_leaves_the_owner_alone);
    let root = scratch();
    let state = root.path().join("state");
    for point in ["recover.pre_fence", "owner.replace.pre_rename"] {
        let store = open(&state);
        let before = ids(&store).len();
        let mut taker = child(NAME, state.to_str().unwrap());
        let mut taker = taker.env("CRASH_AT", point).spawn().unwrap();
        writeln!(taker.stdin.as_mut().unwrap(), "take over").unwrap();
        let status = taker.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{point}");
        commit(&store, &[100], &[], &[]).unwrap();
        assert_eq!(ids(&store).len(), before + 1);
        let mut third = Peer::spawn(NAME, &state, None);
        assert!(third.ask("open").starts_with("store_locked"));
        third.end();
        store.close().unwrap();
    }
    drop(open(&state));
    let names = std::fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.filter(|name| name.to_string_lossy().starts_with('.')).count(), 0);
}

/// Takes over as soon as the attempt before has ended.
#[cfg(feature = "crash-points")]
fn open_patiently(state: &Path) -> Store {
    for _ in 0..200 {
        match Store::open(state, &taker()) {
            Ok(store) => return store,
            Err(error) => assert_eq!(error.kind(), ErrorKind::StoreLocked, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the directory stays locked");
}
