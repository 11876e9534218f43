//! Consumer groups: who reads which partitions, and how far they are.
//!
//! Each change of members or partitions begins a generation with a new target assignment. Nobody
//! is interrupted: a member goes on with what it owns until it has taken up the new generation
//! ([`sync`]), and a partition that moves is owned by its new member only once the old one has let
//! go of it, or was declared dead. So no partition has two live owners. A member is declared dead
//! when its heartbeats stop for its session timeout, or when it does not take up a generation
//! that takes something away from it; from then on its commits are refused, also those inside
//! transactions (`UnknownMember`, `IllegalGeneration`): what it did since its last commit, its
//! successor does again.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Limits;
use super::layout::{Committed, Group, Member, Table, offset_key, offsets_prefix};
use super::maintain::pick;
use super::request::{Answer, CommitOffsets, Join, Sync};
use super::transactions::{check_id, is_late};
use super::view::{Step, View, Work, decode};
use crate::{Detail, Error, ErrorKind, Result};

/// Members of one group.
const MAX_MEMBERS: usize = 1000;

/// Groups of this name belong to sinks of jobs: what they commit is no position but the marker of what
/// a job has written, without which it would write its last checkpoint again. They are never forgotten,
/// however long a job stands still.
const SINKS: &str = "onceflow/";

/// Longest text that a consumer may note with an offset.
const MAX_METADATA_BYTES: usize = 4096;

/// How partitions are shared out among members.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Strategy {
    /// Evenly, and everybody keeps as much as possible of what it has.
    #[default]
    Sticky,
    /// Of each topic neighbouring partitions: topics of equal partitions stay together.
    Range,
    /// One after the other, over all topics.
    RoundRobin,
}

/// What a member may read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    /// The generation that it has taken up now.
    pub generation: u64,
    /// Topic numbers and partitions.
    pub partitions: Vec<(u32, u32)>,
}

/// Joins, or changes what a member subscribes to. What it owned it goes on owning.
pub(super) fn join(work: &mut Work<'_, '_>, request: &Join) -> Step<Answer> {
    check_id("group", &request.group)?;
    check_id("member id", &request.member)?;
    if request.session_timeout_ms == 0 || request.rebalance_timeout_ms == 0 {
        let text = "session_timeout_ms and rebalance_timeout_ms must be above 0";
        return Err(Error::new(ErrorKind::InvalidArgument, text).into());
    }
    let mut group = find(work, &request.group)?.unwrap_or_default();
    if !group.members.contains_key(&request.member) && group.members.len() >= MAX_MEMBERS {
        let text = format!("group {:?} has {MAX_MEMBERS} members already", request.group);
        let (needed, limit) = (MAX_MEMBERS as u64 + 1, MAX_MEMBERS as u64);
        return Err(Error::new(ErrorKind::CapacityExceeded, text)
            .with_bound(None, needed, limit)
            .into());
    }
    let known = group.members.remove(&request.member);
    let known = known.map(|member| (member.generation, member.owned, member.target));
    let (generation, owned, target) = known.unwrap_or_default();
    let mut topics = request.topics.clone();
    topics.sort();
    topics.dedup();
    let member = Member {
        topics,
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms: request.rebalance_timeout_ms,
        generation,
        owned,
        target,
        rebalance_deadline_ms: None,
        joined_ms: request.now_ms,
    };
    group.strategy = request.strategy;
    group.members.insert(request.member.clone(), member);
    group.generation += 1;
    rebalance(work, &mut group, request.now_ms)?;
    let answer = take_up(&mut group, &request.member);
    put(work, &request.group, &group)?;
    Ok(Answer::Assigned(answer))
}

/// A member takes up the present generation: it has let go of everything that is not in its target.
pub(super) fn sync(work: &mut Work<'_, '_>, request: &Sync) -> Step<Answer> {
    let mut group = of_member(work, &request.group, &request.member)?;
    let member = member(&group, &request.group, &request.member)?;
    if member.generation != request.generation {
        return Err(illegal(
            &request.group,
            &request.member,
            member.generation,
            request.generation,
        )
        .into());
    }
    group.updated_ms = request.now_ms;
    let answer = take_up(&mut group, &request.member);
    put(work, &request.group, &group)?;
    Ok(Answer::Assigned(answer))
}

pub(super) fn leave(
    work: &mut Work<'_, '_>,
    name: &str,
    member: &str,
    now_ms: i64,
) -> Step<Answer> {
    let mut group = of_member(work, name, member)?;
    group.members.remove(member);
    group.generation += 1;
    rebalance(work, &mut group, now_ms)?;
    put(work, name, &group)?;
    Ok(Answer::Done)
}

/// Removes members that are dead, and shares out anew if anything has changed since.
pub(super) fn expire(
    work: &mut Work<'_, '_>,
    name: &str,
    dead: &[String],
    now_ms: i64,
) -> Step<Answer> {
    let Some(mut group) = find(work, name)? else { return Ok(Answer::Done) };
    let before = group.members.len();
    group.members.retain(|id, _| !dead.contains(id));
    if group.members.len() == before && targets(work, &group)? == current(&group) {
        return Ok(Answer::Done);
    }
    group.generation += 1;
    rebalance(work, &mut group, now_ms)?;
    put(work, name, &group)?;
    Ok(Answer::Done)
}

/// Removes a group and its offsets; refused while it has members.
pub(super) fn delete(work: &mut Work<'_, '_>, name: &str) -> Step<Answer> {
    if find(work, name)?.is_some_and(|group| !group.members.is_empty()) {
        let text = format!("group {name:?} has members; let them leave first");
        return Err(Error::new(ErrorKind::InvalidArgument, text).into());
    }
    remove(work, name)?;
    Ok(Answer::Done)
}

/// Deletes a group and its offsets.
fn remove(work: &mut Work<'_, '_>, name: &str) -> Step<()> {
    let prefix = offsets_prefix(name);
    let mut keys = Vec::new();
    for entry in work.scan(Table::Offsets, &prefix, &prefix)? {
        keys.push(entry?.0.to_vec());
    }
    for key in keys {
        work.delete(Table::Offsets, &key)?;
    }
    work.delete(Table::Groups, name.as_bytes())?;
    Ok(())
}

/// Forgets groups that have had no members, and have committed nothing, for long; looks at `limit` of
/// them from `cursor` on, and says how many went. A group goes as a whole: of a partition in which
/// nothing happens the position stays as long as any other of the group moves.
pub(super) fn forget(
    work: &mut Work<'_, '_>,
    now_ms: i64,
    limits: &Limits,
    limit: usize,
    cursor: &mut Vec<u8>,
) -> Step<u64> {
    let Some(expiry_ms) = limits.group_expiry_ms else { return Ok(0) };
    let silent = pick(work, Table::Groups, limit, cursor, |key, payload| {
        let group: Group = decode(Table::Groups, key, payload)?;
        let of_sink = key.starts_with(SINKS.as_bytes());
        let silent = group.members.is_empty() && is_late(group.updated_ms, expiry_ms, now_ms);
        Ok((!of_sink && silent).then(|| String::from_utf8_lossy(key).into_owned()))
    })?;
    let mut count = 0;
    for name in silent {
        let prefix = offsets_prefix(&name);
        let mut moved = false;
        for entry in work.scan(Table::Offsets, &prefix, &prefix)? {
            let (key, payload) = entry?;
            let committed: Committed = decode(Table::Offsets, key, payload)?;
            moved |= !is_late(committed.committed_ms, expiry_ms, now_ms);
        }
        if !moved {
            remove(work, &name)?;
            count += 1;
        }
    }
    Ok(count)
}

pub(super) fn commit_offsets(work: &mut Work<'_, '_>, request: &CommitOffsets) -> Step<Answer> {
    check_offsets(work, request)?;
    write_offsets(work, request)?;
    Ok(Answer::Done)
}

/// Refuses offsets of whoever may not commit them.
pub(super) fn check_offsets(work: &Work<'_, '_>, request: &CommitOffsets) -> Step<()> {
    check_id("group", &request.group)?;
    let group = find(work, &request.group)?;
    let member = match (&request.membership, &group) {
        (Some(membership), _) => {
            let group = of_member(work, &request.group, &membership.member)?;
            let found = member(&group, &request.group, &membership.member)?;
            if found.generation != membership.generation {
                let (id, ours) = (&membership.member, membership.generation);
                return Err(illegal(&request.group, id, found.generation, ours).into());
            }
            Some(found.clone())
        }
        (None, Some(group)) if !group.members.is_empty() => {
            let text = format!(
                "group {:?} has {} members: only they may commit its offsets (give the member's \
                 id and generation)",
                request.group,
                group.members.len()
            );
            return Err(Error::new(ErrorKind::UnknownMember, text).into());
        }
        (None, _) => None,
    };
    for commit in &request.offsets {
        let topic = work.topic(&commit.topic)?;
        work.partition(topic.number, commit.partition)?;
        if commit.metadata.len() > MAX_METADATA_BYTES {
            let text = format!(
                "the metadata of an offset has {} bytes, at most {MAX_METADATA_BYTES} are kept",
                commit.metadata.len()
            );
            return Err(Error::new(ErrorKind::InvalidArgument, text).into());
        }
        let place = (topic.number, commit.partition);
        if let Some(member) = &member
            && !member.owned.contains(&place)
        {
            let text = format!(
                "partition {} of {:?} is not assigned to this member of group {:?} in generation \
                 {}: its offset belongs to another one",
                commit.partition, commit.topic, request.group, member.generation
            );
            let id = request.membership.as_ref().map(|membership| membership.member.clone());
            let detail = Detail::Generations {
                group: request.group.clone(),
                member: id.unwrap_or_default(),
                current: member.generation,
                got: member.generation,
            };
            return Err(Error::new(ErrorKind::IllegalGeneration, text).with(detail).into());
        }
    }
    Ok(())
}

/// Writes offsets that were checked.
pub(super) fn write_offsets(work: &mut Work<'_, '_>, request: &CommitOffsets) -> Step<()> {
    if find(work, &request.group)?.is_none() {
        let group = Group { updated_ms: request.now_ms, ..Group::default() };
        put(work, &request.group, &group)?;
    }
    for commit in &request.offsets {
        let topic = work.topic(&commit.topic)?;
        let committed = Committed {
            offset: commit.offset,
            metadata: commit.metadata.clone(),
            committed_ms: request.now_ms,
        };
        let key = offset_key(&request.group, topic.number, commit.partition);
        work.put(Table::Offsets, &key, &committed)?;
    }
    Ok(())
}

pub(super) fn find(view: &impl View, name: &str) -> Step<Option<Group>> {
    view.value(Table::Groups, name.as_bytes())
}

/// The group, if the consumer is one of its members.
pub(super) fn of_member(view: &impl View, name: &str, id: &str) -> Step<Group> {
    match find(view, name)? {
        Some(group) if group.members.contains_key(id) => Ok(group),
        _ => Err(unknown_member(name, id).into()),
    }
}

pub(super) fn member<'g>(group: &'g Group, name: &str, id: &str) -> Result<&'g Member> {
    group.members.get(id).ok_or_else(|| unknown_member(name, id))
}

fn unknown_member(name: &str, id: &str) -> Error {
    let text = format!(
        "{id:?} is not a member of group {name:?} (any more): it left, or was declared dead because \
         its heartbeats stopped. Its partitions are others' now; join again"
    );
    Error::new(ErrorKind::UnknownMember, text)
        .with(Detail::Member { group: name.to_owned(), member: id.to_owned() })
}

fn illegal(name: &str, id: &str, expected: u64, found: u64) -> Error {
    let text = format!(
        "this member of group {name:?} has taken up generation {expected}, but the call is of \
         generation {found}; use the assignment of its newest sync"
    );
    Error::new(ErrorKind::IllegalGeneration, text).with(Detail::Generations {
        group: name.to_owned(),
        member: id.to_owned(),
        current: expected,
        got: found,
    })
}

fn put(work: &mut Work<'_, '_>, name: &str, group: &Group) -> Step<()> {
    work.put(Table::Groups, name.as_bytes(), group)
}

/// What a member owns after it has let go of what it must.
fn take_up(group: &mut Group, id: &str) -> Assigned {
    let generation = group.generation;
    let others: BTreeSet<(u32, u32)> = group
        .members
        .iter()
        .filter(|(other, _)| *other != id)
        .flat_map(|(_, member)| member.owned.iter().copied())
        .collect();
    let Some(member) = group.members.get_mut(id) else {
        return Assigned { generation, partitions: Vec::new() };
    };
    member.owned = member.target.iter().copied().filter(|place| !others.contains(place)).collect();
    member.generation = generation;
    member.rebalance_deadline_ms = None;
    Assigned { generation, partitions: member.owned.clone() }
}

/// Whether a sync would change what a member owns now.
pub(super) fn needs_sync(group: &Group, id: &str) -> bool {
    let mut after = group.clone();
    let owned = take_up(&mut after, id).partitions;
    group.members.get(id).is_some_and(|member| member.owned != owned)
}

fn current(group: &Group) -> BTreeMap<String, Vec<(u32, u32)>> {
    group.members.iter().map(|(id, member)| (id.clone(), member.target.clone())).collect()
}

/// Gives everybody a new target; whoever must let go of something has a deadline for it.
fn rebalance(work: &Work<'_, '_>, group: &mut Group, now_ms: i64) -> Step<()> {
    let mut targets = targets(work, group)?;
    group.updated_ms = now_ms;
    for (id, member) in &mut group.members {
        member.target = targets.remove(id).unwrap_or_default();
        let loses = member.owned.iter().any(|place| !member.target.contains(place));
        if !loses {
            member.rebalance_deadline_ms = None;
        } else if member.rebalance_deadline_ms.is_none() {
            let timeout = i64::try_from(member.rebalance_timeout_ms).unwrap_or(i64::MAX);
            member.rebalance_deadline_ms = Some(now_ms.saturating_add(timeout));
        }
    }
    Ok(())
}

/// Whether the members' targets are not what they should be (partitions came or went).
pub(super) fn is_stale(view: &impl View, group: &Group) -> Step<bool> {
    Ok(targets(view, group)? != current(group))
}

/// The assignment that a group should have.
fn targets(view: &impl View, group: &Group) -> Step<BTreeMap<String, Vec<(u32, u32)>>> {
    let mut topics: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    for name in group.members.values().flat_map(|member| &member.topics) {
        if let Some(topic) = view.value::<super::layout::Topic>(Table::Topics, name.as_bytes())? {
            topics.insert(name, (topic.number, topic.settings.partitions));
        }
    }
    let mut shares: Shares<'_> = group.members.keys().map(|id| (id.as_str(), Vec::new())).collect();
    match group.strategy {
        Strategy::Range => range(group, &topics, &mut shares),
        Strategy::RoundRobin => spread(group, &topics, &mut shares),
        Strategy::Sticky => {
            keep(group, &topics, &mut shares);
            spread(group, &topics, &mut shares);
        }
    }
    Ok(shares
        .into_iter()
        .map(|(id, mut places)| {
            places.sort_unstable();
            (id.to_owned(), places)
        })
        .collect())
}

type Shares<'g> = BTreeMap<&'g str, Vec<(u32, u32)>>;

fn range<'g>(group: &'g Group, topics: &BTreeMap<&str, (u32, u32)>, shares: &mut Shares<'g>) {
    for (name, (topic, partitions)) in topics {
        let readers: Vec<&str> = readers(group, name).collect();
        let (each, more) = (
            *partitions as usize / readers.len().max(1),
            *partitions as usize % readers.len().max(1),
        );
        let mut first = 0;
        for (at, reader) in readers.iter().enumerate() {
            let end = first + each + usize::from(at < more);
            if let Some(share) = shares.get_mut(reader) {
                share.extend((first..end).map(|partition| (*topic, partition as u32)));
            }
            first = end;
        }
    }
}

/// Members that subscribe to a topic, in order.
fn readers<'g>(group: &'g Group, topic: &str) -> impl Iterator<Item = &'g str> {
    let subscribes =
        move |member: &Member| member.topics.iter().any(|subscribed| subscribed == topic);
    group.members.iter().filter(move |(_, m)| subscribes(m)).map(|(id, _)| id.as_str())
}

/// Everybody keeps what it has, as far as it is no more than its even share.
fn keep<'g>(group: &'g Group, topics: &BTreeMap<&str, (u32, u32)>, shares: &mut Shares<'g>) {
    let total: usize = topics.values().map(|(_, partitions)| *partitions as usize).sum();
    let members = group.members.len().max(1);
    let (each, mut more) = (total / members, total % members);
    let mut taken = BTreeSet::new();
    for (id, member) in &group.members {
        let Some(share) = shares.get_mut(id.as_str()) else { continue };
        let still = |place: &(u32, u32)| {
            member.topics.iter().any(|name| {
                let topic = topics.get(name.as_str());
                topic.is_some_and(|(number, count)| *number == place.0 && place.1 < *count)
            })
        };
        for place in member.target.iter().filter(|place| still(place)) {
            if share.len() == each {
                if more == 0 {
                    break;
                }
                more -= 1;
            } else if share.len() > each {
                break;
            }
            if taken.insert(*place) {
                share.push(*place);
            }
        }
    }
}

/// Gives each partition that nobody has to the reader that has fewest.
fn spread<'g>(group: &'g Group, topics: &BTreeMap<&str, (u32, u32)>, shares: &mut Shares<'g>) {
    let taken: BTreeSet<(u32, u32)> = shares.values().flatten().copied().collect();
    for (name, (topic, partitions)) in topics {
        for partition in 0..*partitions {
            let place = (*topic, partition);
            if taken.contains(&place) {
                continue;
            }
            let least = readers(group, name).min_by_key(|id| shares.get(id).map_or(0, Vec::len));
            if let Some(share) = least.and_then(|id| shares.get_mut(id)) {
                share.push(place);
            }
        }
    }
}
