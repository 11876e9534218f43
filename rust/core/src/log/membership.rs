//! What a log does for consumer groups: offsets, members, heartbeats.

use super::groups::{self, Assigned};
use super::handle::{Log, place, unexpected};
use super::infos::{GroupInfo, Heartbeat, MemberInfo};
use super::layout::{self, Committed, Group, Table};
use super::plain;
use super::request::{Answer, CommitOffsets, Join, Request, Sync};
use super::view::{self, View};
use crate::Result;

impl Log {
    /// Commits offsets of a group.
    ///
    /// # Errors
    /// `UnknownMember`, `IllegalGeneration`, `UnknownTopicOrPartition`.
    pub fn commit_offsets(&self, commit: &CommitOffsets) -> Result<()> {
        self.submit(Request::CommitOffsets(commit.clone())).map(|_| ())
    }

    /// The committed offset of a group in a partition.
    pub fn committed(&self, group: &str, name: &str, partition: u32) -> Result<Option<Committed>> {
        let view = self.read()?;
        let number = place(&view, name, partition)?;
        plain(view.value(Table::Offsets, &layout::offset_key(group, number, partition)))
    }

    /// Joins a group as `join.member`, or changes the topics of that member. Read what is assigned;
    /// call `heartbeat` more often than the session timeout.
    pub fn join_group(&self, join: &Join) -> Result<Assigned> {
        self.shared.check_writable()?;
        self.expire_members(&join.group, join.now_ms)?;
        self.shared.heartbeats.beat(&join.group, &join.member, join.now_ms)?;
        self.assigned(Request::Join(join.clone()))
    }

    /// Says that a member is alive, declares those dead that are not, and tells whether the
    /// assignment has changed. No commit, unless somebody died. `UnknownMember`.
    pub fn heartbeat(&self, group: &str, member: &str, now_ms: i64) -> Result<Heartbeat> {
        self.shared.check_writable()?;
        plain(groups::of_member(&self.read()?, group, member))?;
        self.shared.heartbeats.beat(group, member, now_ms)?;
        self.expire_members(group, now_ms)?;
        let found = plain(groups::of_member(&self.read()?, group, member))?;
        let rebalance = groups::needs_sync(&found, member);
        Ok(Heartbeat { generation: found.generation, rebalance })
    }

    /// What the member shall own in the end: what it must stop reading is what it owns besides.
    pub fn target(&self, group: &str, member: &str) -> Result<Vec<(u32, u32)>> {
        let found = plain(groups::of_member(&self.read()?, group, member))?;
        Ok(groups::member(&found, group, member)?.target.clone())
    }

    /// Takes up the newest generation. The member has stopped reading what is not in its `target`.
    /// `UnknownMember`, `IllegalGeneration`.
    pub fn sync_group(
        &self,
        group: &str,
        member: &str,
        generation: u64,
        now_ms: i64,
    ) -> Result<Assigned> {
        let (group, member) = (group.to_owned(), member.to_owned());
        self.assigned(Request::Sync(Sync { group, member, generation, now_ms }))
    }

    /// Leaves a group: its partitions go to others at once. `UnknownMember`.
    pub fn leave_group(&self, group: &str, member: &str, now_ms: i64) -> Result<()> {
        let left = Request::Leave { group: group.to_owned(), member: member.to_owned(), now_ms };
        self.submit(left)?;
        self.shared.heartbeats.forget(group, member);
        Ok(())
    }

    /// Removes a group that has no members, and its offsets.
    pub fn delete_group(&self, group: &str) -> Result<()> {
        self.submit(Request::DeleteGroup { group: group.to_owned() }).map(|_| ())
    }

    /// All groups.
    pub fn groups(&self) -> Result<Vec<GroupInfo>> {
        let view = self.read()?;
        let mut names = std::collections::HashMap::new();
        for topic in self.topics()? {
            names.insert(topic.number, topic.name);
        }
        let mut groups = Vec::new();
        for entry in plain(view.scan(Table::Groups, &[], &[]))? {
            let (key, payload) = plain(entry)?;
            let group = String::from_utf8_lossy(key).into_owned();
            let found: Group = plain(view::decode(Table::Groups, key, payload))?;
            let mut offsets = Vec::new();
            let prefix = layout::offsets_prefix(&group);
            for entry in plain(view.scan(Table::Offsets, &prefix, &prefix))? {
                let (key, payload) = plain(entry)?;
                let rest = key.get(prefix.len()..).unwrap_or_default();
                let Some((number, partition)) = layout::parse_partition(rest) else { continue };
                // Of a topic that was deleted: the offset means nothing any more.
                let Some(name) = names.get(&number) else { continue };
                let committed = plain(view::decode(Table::Offsets, key, payload))?;
                offsets.push((name.clone(), partition, committed));
            }
            let members = found.members.iter().map(|(id, member)| MemberInfo {
                member: id.clone(),
                topics: member.topics.clone(),
                generation: member.generation,
                owned: member.owned.clone(),
                last_heartbeat_ms: self.last_heartbeat(&group, id, member),
                session_timeout_ms: member.session_timeout_ms,
            });
            groups.push(GroupInfo {
                generation: found.generation,
                strategy: found.strategy,
                members: members.collect(),
                group,
                offsets,
            });
        }
        Ok(groups)
    }

    pub(super) fn assigned(&self, request: Request) -> Result<Assigned> {
        match self.submit(request)? {
            Answer::Assigned(assigned) => Ok(assigned),
            other => Err(unexpected(&other)),
        }
    }

    pub(super) fn last_heartbeat(&self, group: &str, id: &str, member: &layout::Member) -> i64 {
        let said = self.shared.heartbeats.last(group, id);
        said.unwrap_or(member.joined_ms).max(member.joined_ms)
    }

    /// The same in all groups: of one whose members have all died nobody else would notice it.
    pub(super) fn expire_all_members(&self, now_ms: i64) -> Result<()> {
        let view = self.read()?;
        let mut peopled = Vec::new();
        for entry in plain(view.scan(Table::Groups, &[], &[]))? {
            let (key, payload) = plain(entry)?;
            let group: Group = plain(view::decode(Table::Groups, key, payload))?;
            if !group.members.is_empty() {
                peopled.push(String::from_utf8_lossy(key).into_owned());
            }
        }
        drop(view);
        peopled.iter().try_for_each(|name| self.expire_members(name, now_ms))
    }

    /// Declares members dead whose heartbeats have stopped, or who hold up a rebalance.
    pub(super) fn expire_members(&self, name: &str, now_ms: i64) -> Result<()> {
        let view = self.read()?;
        let Some(group) = plain(groups::find(&view, name))? else { return Ok(()) };
        let is_dead = |id: &str, member: &layout::Member| {
            let silent = now_ms.saturating_sub(self.last_heartbeat(name, id, member));
            silent > i64::try_from(member.session_timeout_ms).unwrap_or(i64::MAX)
                || member.rebalance_deadline_ms.is_some_and(|deadline| deadline < now_ms)
        };
        let dead: Vec<String> = group
            .members
            .iter()
            .filter(|(id, member)| is_dead(id, member))
            .map(|(id, _)| id.clone())
            .collect();
        if dead.is_empty() && !plain(groups::is_stale(&view, &group))? {
            return Ok(());
        }
        drop(view);
        let group = name.to_owned();
        self.submit(Request::ExpireMembers { group, dead: dead.clone(), now_ms })?;
        dead.iter().for_each(|member| self.shared.heartbeats.forget(name, member));
        Ok(())
    }
}
