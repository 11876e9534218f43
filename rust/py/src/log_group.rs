//! `LogGroup` and its `LogMember`.

use std::collections::{BTreeMap, HashMap};

use onceflow_core::log::{Committed, GroupInfo, Strategy};
use pyo3::prelude::*;

/// A consumer group, as it is listed: its members, and what it has committed.
#[pyclass(name = "LogGroup", module = "onceflow._native", frozen, get_all)]
pub(crate) struct PyLogGroup {
    group: String,
    generation: u64,
    strategy: &'static str,
    members: Vec<PyLogMember>,
    /// (topic, partition) -> (offset, metadata, committed_ms).
    offsets: BTreeMap<(String, u32), (u64, String, i64)>,
}

impl PyLogGroup {
    pub(crate) fn new(info: GroupInfo, names: &HashMap<u32, String>) -> Self {
        let named = |place: &(u32, u32)| names.get(&place.0).map(|name| (name.clone(), place.1));
        let members = info.members.into_iter().map(|member| PyLogMember {
            partitions: member.owned.iter().filter_map(named).collect(),
            member: member.member,
            topics: member.topics,
            generation: member.generation,
            last_heartbeat_ms: member.last_heartbeat_ms,
            session_timeout_ms: member.session_timeout_ms,
        });
        let offsets = info.offsets.into_iter().map(|(topic, partition, committed)| {
            let Committed { offset, metadata, committed_ms } = committed;
            ((topic, partition), (offset, metadata, committed_ms))
        });
        Self {
            group: info.group,
            generation: info.generation,
            strategy: strategy_name(info.strategy),
            members: members.collect(),
            offsets: offsets.collect(),
        }
    }
}

/// A member of a consumer group, as it is listed. Times are by the log's clock.
#[pyclass(name = "LogMember", module = "onceflow._native", frozen, get_all)]
#[derive(Clone)]
pub(crate) struct PyLogMember {
    member: String,
    topics: Vec<String>,
    generation: u64,
    partitions: Vec<(String, u32)>,
    last_heartbeat_ms: i64,
    session_timeout_ms: u64,
}

fn strategy_name(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::Sticky => "sticky",
        Strategy::Range => "range",
        Strategy::RoundRobin => "roundrobin",
    }
}
