//! The barrier rules B1 to B26: a table that Python's tests run too, and a random soak.

use std::collections::{BTreeSet, HashMap, VecDeque};

use onceflow_core::align::{Action, Aligner, AlignerOptions, FinishedChannels, Mode};
use onceflow_core::{Error, ErrorKind};
use proptest::prelude::*;
use serde_json::{Value, json};

// ---- the table ---------------------------------------------------------------------------

fn table() -> Value {
    serde_json::from_str(include_str!("../../../tests/native/barrier_rules.json")).unwrap()
}

fn rules_of(table: &Value, list: &str) -> BTreeSet<String> {
    table[list].as_array().unwrap().iter().map(|entry| text(&entry["rule"])).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a string")).to_owned()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is not a number"))
}

fn channel(value: &Value) -> usize {
    usize::try_from(number(value)).unwrap()
}

fn seconds(times: Option<&Value>, name: &str) -> f64 {
    times.and_then(|times| times.get(name)).map_or(0.0, |value| value.as_f64().unwrap())
}

fn aligner(case: &Value, mode: &str) -> Aligner<String> {
    let mut options = AlignerOptions::new(channel(&case["channels"]));
    options.mode = match mode {
        "aligned" => Mode::Aligned,
        "at_least_once" => Mode::AtLeastOnce,
        other => panic!("unknown mode {other}"),
    };
    if let Some(bound) = case.get("max_buffered_bytes") {
        options.max_buffered_bytes = number(bound);
    }
    options.finished_channels = match case.get("finished_channels").and_then(Value::as_str) {
        None => FinishedChannels::CountAsBarrier,
        Some("abort") => FinishedChannels::Abort,
        Some(other) => panic!("unknown finished_channels {other}"),
    };
    Aligner::new(options).unwrap()
}

fn call(aligner: &mut Aligner<String>, event: &Value) -> Result<Vec<Action<String>>, Error> {
    let on = channel(&event[1]);
    match event[0].as_str().unwrap() {
        "item" => {
            let size = event.get(3).map_or(0, number);
            aligner.receive(on, text(&event[2]), size).map_err(|refused| {
                assert_eq!(refused.item, text(&event[2]), "a refused item comes back");
                refused.error
            })
        }
        "barrier" => {
            let times = event.get(3);
            let id = number(&event[2]);
            aligner.barrier(on, id, seconds(times, "created_s"), seconds(times, "now_s"))
        }
        "cancel" => aligner.cancel(on, number(&event[2]), seconds(event.get(3), "now_s")),
        "end" => aligner.end(on, seconds(event.get(2), "now_s")),
        other => panic!("unknown event {other}"),
    }
}

fn check_action(action: &Action<String>, expected: &Value, place: &str) {
    match action {
        Action::Deliver { channel, item } => {
            assert_eq!(&json!(["deliver", channel, item]), expected, "{place}");
        }
        Action::Abort { checkpoint_id, reason } => {
            assert_eq!(&json!(["abort", checkpoint_id, reason.as_str()]), expected, "{place}");
        }
        Action::End => assert_eq!(&json!(["end"]), expected, "{place}"),
        Action::Trigger(trigger) => {
            assert_eq!(expected[0], "trigger", "{place}: {trigger:?}");
            assert_eq!(expected[1], trigger.checkpoint_id, "{place}");
            let measures = expected.get(2).and_then(Value::as_object).cloned().unwrap_or_default();
            for (name, value) in measures {
                let got = match name.as_str() {
                    "start_delay_s" => trigger.start_delay_s,
                    "alignment_s" => trigger.alignment_s,
                    "alignment_bytes" => trigger.alignment_bytes as f64,
                    other => panic!("{place}: unknown measure {other}"),
                };
                assert_eq!(Some(got), value.as_f64(), "{place}: {name}");
            }
        }
    }
}

/// The call of a step, and the actions that it must give.
fn event_and_expected(step: &Value) -> (Value, Vec<Value>) {
    let as_event = |item: &Value| {
        let mut event = vec![json!("item")];
        event.extend(item.as_array().unwrap().iter().cloned());
        Value::from(event)
    };
    if let Some(item) = step.get("pass") {
        (as_event(item), vec![json!(["deliver", item[0], item[1]])])
    } else if let Some(item) = step.get("hold") {
        (as_event(item), vec![])
    } else {
        let out = step.get("out").map(|out| out.as_array().unwrap().clone());
        (step["in"].clone(), out.unwrap_or_default())
    }
}

fn check_state(aligner: &Aligner<String>, step: &Value, place: &str) {
    if let Some(blocked) = step.get("blocked") {
        let got: Vec<usize> =
            (0..aligner.channels()).filter(|on| aligner.is_blocked(*on)).collect();
        assert_eq!(&json!(got), blocked, "{place}: blocked");
    }
    if let Some(pending) = step.get("pending") {
        assert_eq!(&json!(aligner.pending_checkpoint()), pending, "{place}: pending");
    }
    if let Some(bytes) = step.get("buffered_bytes") {
        assert_eq!(aligner.buffered_bytes(), number(bytes), "{place}: buffered_bytes");
    }
}

fn run_case(case: &Value, mode: &str) {
    let name = format!("{} {} ({mode})", text(&case["rule"]), text(&case["name"]));
    let mut aligner = aligner(case, mode);
    if let Some(repeat) = case.get("repeat_barriers") {
        for id in number(&repeat["first_id"])..=number(&repeat["last_id"]) {
            let got = aligner.barrier(channel(&repeat["channel"]), id, 0.0, 0.0).unwrap();
            assert_eq!(got, [], "{name}: barrier {id}");
        }
    }
    for (index, step) in case["steps"].as_array().unwrap().iter().enumerate() {
        let place = format!("{name}, step {index} {step}");
        let (event, expected) = event_and_expected(step);
        let result = call(&mut aligner, &event);
        if let Some(kind) = step.get("error") {
            let error = result.expect_err(&place);
            assert_eq!(Some(error.kind().as_str()), kind.as_str(), "{place}: {error}");
        } else {
            let actions = result.unwrap_or_else(|error| panic!("{place}: {error}"));
            assert_eq!(actions.len(), expected.len(), "{place}: {actions:?}");
            for (action, expected) in actions.iter().zip(&expected) {
                check_action(action, expected, &place);
            }
        }
        check_state(&aligner, step, &place);
    }
}

fn run_rule(rule: &str) {
    let table = table();
    let mut runs = 0;
    for case in table["cases"].as_array().unwrap().iter().filter(|case| case["rule"] == rule) {
        for mode in case["modes"].as_array().unwrap() {
            run_case(case, mode.as_str().unwrap());
            runs += 1;
        }
    }
    assert!(runs > 0, "no case of rule {rule} in the table");
}

macro_rules! rules {
    ($($name:ident: $rule:literal,)*) => {
        $(#[test] fn $name() { run_rule($rule); })*
        const TESTED: &[&str] = &[$($rule),*];
    };
}

rules! {
    b1_without_barriers_elements_pass_in_order: "B1",
    b2_one_channel_triggers_at_once: "B2",
    b3_blocked_until_the_last_barrier: "B3",
    b4_newer_barrier_subsumes_the_pending_one: "B4",
    b5_late_barriers_are_ignored_and_block_nothing: "B5",
    b6_cancel_of_the_pending_one_aborts_once: "B6",
    b7_cancelled_before_any_barrier_never_starts: "B7",
    b8_cancel_of_a_future_one_drops_the_pending: "B8",
    b9_cancel_of_a_subsumed_one_is_ignored: "B9",
    b10_missing_cancels_leave_nothing_blocked: "B10",
    b11_interleaved_cancels_abort_each_once: "B11",
    b12_closed_channels_are_not_waited_for: "B12",
    b13_end_during_alignment_aborts: "B13",
    b14_end_during_alignment_counts_as_barrier: "B14",
    b15_barrier_and_end_count_once: "B15",
    b16_last_open_channel_finishes_the_pending_one: "B16",
    b24_at_least_once_tracks_several: "B24",
    b25_measures: "B25",
}

#[test]
fn every_rule_is_tested_or_excused() {
    let table = table();
    let in_table = rules_of(&table, "cases");
    let excused = rules_of(&table, "not_applicable");
    let elsewhere = rules_of(&table, "tested_elsewhere");
    assert_eq!(in_table, TESTED.iter().map(|rule| (*rule).to_owned()).collect());
    assert!(in_table.is_disjoint(&excused));
    let all: BTreeSet<String> = (1..=26).map(|number| format!("B{number}")).collect();
    let listed: BTreeSet<String> = [in_table, excused, elsewhere].into_iter().flatten().collect();
    assert_eq!(listed, all);
}

#[test]
fn arguments_that_cannot_be_are_refused() {
    let kind = |result: Result<Vec<Action<u8>>, Error>| result.unwrap_err().kind();
    let no_channel = Aligner::<u8>::new(AlignerOptions::new(0)).unwrap_err();
    assert_eq!(no_channel.kind(), ErrorKind::InvalidArgument);

    let mut aligner = Aligner::new(AlignerOptions::new(2)).unwrap();
    assert_eq!(kind(aligner.barrier(2, 1, 0.0, 0.0)), ErrorKind::InvalidArgument);
    assert_eq!(kind(aligner.barrier(0, 1, f64::NAN, 0.0)), ErrorKind::InvalidArgument);
    assert_eq!(kind(aligner.barrier(0, 1, 0.0, f64::INFINITY)), ErrorKind::InvalidArgument);
    assert_eq!(kind(aligner.cancel(0, 1, f64::NAN)), ErrorKind::InvalidArgument);
    assert_eq!(aligner.receive(9, 7, 0).unwrap_err().item, 7);
    assert_eq!(aligner.pending_checkpoint(), None, "a refused barrier starts nothing");

    assert_eq!(aligner.end(0, 0.0).unwrap(), []);
    assert_eq!(kind(aligner.end(0, 0.0)), ErrorKind::InvalidArgument);
    assert_eq!(kind(aligner.cancel(0, 1, 0.0)), ErrorKind::InvalidArgument);
    assert_eq!(aligner.end(1, 0.0).unwrap(), [Action::End]);
}

// ---- B26: random soak --------------------------------------------------------------------

#[derive(Debug, Clone, Copy, PartialEq)]
enum Sent {
    Item(u64),
    Barrier(u64),
    Cancel(u64),
}

/// What one channel sends, in order. Ids mostly grow; some repeat or fall back.
fn script() -> impl Strategy<Value = Vec<Sent>> {
    let step = prop_oneof![
        6 => (1..60_u64).prop_map(|size| (0, size)),
        4 => (0..3_u64).prop_map(|skip| (1, skip)),
        1 => (0..3_u64).prop_map(|skip| (2, skip)),
        1 => (1..4_u64).prop_map(|back| (3, back)),
    ];
    prop::collection::vec(step, 0..60).prop_map(|steps: Vec<(u8, u64)>| {
        let mut newest = 0;
        let to_sent = |(kind, value)| match kind {
            0 => Sent::Item(value),
            1 => {
                newest += 1 + value / 2;
                Sent::Barrier(newest)
            }
            2 => {
                newest += value;
                Sent::Cancel(newest)
            }
            _ => Sent::Barrier(u64::saturating_sub(newest, value)),
        };
        steps.into_iter().map(to_sent).collect()
    })
}

/// For each barrier id of a script, the number of items before its first barrier.
fn cuts(script: &[Sent]) -> HashMap<u64, usize> {
    let mut items = 0;
    let mut cuts = HashMap::new();
    for sent in script {
        match sent {
            Sent::Item(_) => items += 1,
            Sent::Barrier(id) => {
                cuts.entry(*id).or_insert(items);
            }
            Sent::Cancel(_) => {}
        }
    }
    cuts
}

/// An item says where it comes from, its number there and its size.
type Item = (usize, usize, u64);

/// Checks what an aligner does with the scripts of its channels.
struct Soak {
    aligner: Aligner<Item>,
    mode: Mode,
    max_buffered_bytes: u64,
    /// What each channel has yet to send; `None` is its end.
    queues: Vec<VecDeque<Option<Sent>>>,
    cuts: Vec<HashMap<u64, usize>>,
    sent: Vec<usize>,
    delivered: Vec<usize>,
    notices: BTreeSet<u64>,
    triggers: usize,
    ends: usize,
}

impl Soak {
    fn new(scripts: &[Vec<Sent>], options: AlignerOptions) -> Self {
        let channels = scripts.len();
        Self {
            aligner: Aligner::new(AlignerOptions { channels, ..options }).unwrap(),
            mode: options.mode,
            max_buffered_bytes: options.max_buffered_bytes,
            queues: scripts
                .iter()
                .map(|script| script.iter().copied().map(Some).chain([None]).collect())
                .collect(),
            cuts: scripts.iter().map(|script| cuts(script)).collect(),
            sent: vec![0; channels],
            delivered: vec![0; channels],
            notices: BTreeSet::new(),
            triggers: 0,
            ends: 0,
        }
    }

    /// Sends in an order that `pick` chooses; a channel whose event is refused lets the next try.
    fn run(&mut self, mut pick: impl FnMut(usize) -> usize) {
        let mut now_s = 0.0;
        loop {
            let sending: Vec<usize> =
                (0..self.queues.len()).filter(|on| !self.queues[*on].is_empty()).collect();
            if sending.is_empty() {
                break;
            }
            now_s += 1.0;
            let first = pick(sending.len());
            let accepted = (0..sending.len())
                .find_map(|offset| self.send(sending[(first + offset) % sending.len()], now_s));
            let actions = accepted.expect("every channel refuses: nothing can go on");
            assert!(self.aligner.buffered_bytes() <= self.max_buffered_bytes);
            for action in actions {
                self.check(action);
            }
        }
        assert_eq!(self.delivered, self.sent, "an item was lost");
        assert_eq!(self.ends, 1);
        assert_eq!(self.aligner.buffered_bytes(), 0);
        assert_eq!(self.aligner.pending_checkpoint(), None);
        let blocked = (0..self.queues.len()).any(|on| self.aligner.is_blocked(on));
        assert!(!blocked, "blocked for ever");
    }

    fn send(&mut self, on: usize, now_s: f64) -> Option<Vec<Action<Item>>> {
        let event = *self.queues[on].front().unwrap();
        let result = match event {
            Some(Sent::Item(size)) => self
                .aligner
                .receive(on, (on, self.sent[on], size), size)
                .map_err(|refused| refused.error),
            Some(Sent::Barrier(id)) => self.aligner.barrier(on, id, 0.0, now_s),
            Some(Sent::Cancel(id)) => self.aligner.cancel(on, id, now_s),
            None => self.aligner.end(on, now_s),
        };
        match result {
            Ok(actions) => {
                self.queues[on].pop_front();
                if let Some(Sent::Item(_)) = event {
                    self.sent[on] += 1;
                }
                Some(actions)
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::CapacityExceeded, "{error}");
                assert!(self.aligner.is_blocked(on), "only a blocked channel may refuse");
                None
            }
        }
    }

    fn check(&mut self, action: Action<Item>) {
        match action {
            Action::Deliver { channel, item: (from, number, _) } => {
                assert_eq!((channel, self.delivered[channel]), (from, number), "order");
                self.delivered[channel] += 1;
            }
            Action::Trigger(trigger) => {
                assert!(self.notices.insert(trigger.checkpoint_id), "a second notice");
                self.triggers += 1;
                for (channel, cuts) in self.cuts.iter().enumerate() {
                    let delivered = self.delivered[channel];
                    match (cuts.get(&trigger.checkpoint_id), self.mode) {
                        (Some(cut), Mode::Aligned) => assert_eq!(delivered, *cut),
                        (Some(cut), Mode::AtLeastOnce) => assert!(delivered >= *cut),
                        // Without a barrier it took part by its end.
                        (None, _) => assert!(self.queues[channel].is_empty()),
                    }
                }
            }
            Action::Abort { checkpoint_id, .. } => {
                assert!(self.notices.insert(checkpoint_id), "a second notice");
            }
            Action::End => self.ends += 1,
        }
    }
}

/// splitmix64: an interleaving that is known by its seed alone.
fn random_below(state: &mut u64, bound: usize) -> usize {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) % bound as u64) as usize
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn b26_random_soak(
        scripts in prop::collection::vec(script(), 1..6),
        seed in any::<u64>(),
        aligned in any::<bool>(),
        count in any::<bool>(),
        // From room for a single event to far more than is ever held back.
        max_buffered_bytes in prop_oneof![Just(124_u64), 124..2_000_u64, Just(1 << 20)],
    ) {
        let mut state = seed;
        let mut options = AlignerOptions::new(1);
        options.mode = if aligned { Mode::Aligned } else { Mode::AtLeastOnce };
        options.max_buffered_bytes = max_buffered_bytes;
        options.finished_channels =
            if count { FinishedChannels::CountAsBarrier } else { FinishedChannels::Abort };
        Soak::new(&scripts, options).run(|bound| random_below(&mut state, bound));
    }
}

/// The soak means little if its checkpoints hardly ever complete: long, well-behaved channels.
#[test]
fn b26_regular_checkpoints_complete_under_random_interleaving() {
    for seed in 0..50 {
        let mut state = seed;
        let scripts: Vec<Vec<Sent>> = (0..5)
            .map(|_| {
                (1..=40)
                    .flat_map(|id| {
                        let items = random_below(&mut state, 20);
                        let items = (0..items).map(|_| Sent::Item(8)).collect::<Vec<_>>();
                        items.into_iter().chain([Sent::Barrier(id)])
                    })
                    .collect()
            })
            .collect();
        for mode in [Mode::Aligned, Mode::AtLeastOnce] {
            let options = AlignerOptions { mode, ..AlignerOptions::new(5) };
            let mut soak = Soak::new(&scripts, options);
            soak.run(|bound| random_below(&mut state, bound));
            assert_eq!(soak.notices.len(), soak.triggers, "nothing was aborted");
            if mode == Mode::Aligned {
                assert_eq!(soak.triggers, 40, "a channel held back at its barrier cannot overtake");
            } else {
                assert!(soak.triggers > 0);
            }
        }
    }
}
