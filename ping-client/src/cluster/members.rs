//! `ping-client members`: the directory of the cluster as one member sees it.

use std::{
    collections::HashMap,
    io::{self, Write},
    process::ExitCode,
    time::SystemTime,
};

use anyhow::Result;
use clap::Args as ClapArgs;
use humantime::format_rfc3339_millis;
use libp2p::{Multiaddr, PeerId};
use ping_core::{
    PeerText,
    cluster::{MemberInfo, State, list, next_digest},
    program::datable,
};
use serde::Serialize;

use super::{MemberArgs, with_member};
use crate::{error::Error, output::table_of_words};

/// The arguments of `members`.
#[derive(Debug, ClapArgs)]
pub(crate) struct MembersArgs {
    #[command(flatten)]
    member: MemberArgs,

    /// Print JSON: the list as one object, and with --watch one line for every change
    #[arg(long)]
    json: bool,

    /// Go on, and print who comes and goes until Ctrl-C
    #[arg(long)]
    watch: bool,
}

/// Lists the members of a cluster.
pub(crate) fn members(args: &MembersArgs) -> Result<ExitCode> {
    with_member(&args.member, async |node, connection| {
        let peer = connection.peer;
        let failed = |error| Error::NoDirectory { peer, error };
        let mut listing = list(node, peer, None).await.map_err(failed)?;
        print(&text_of(&listing.members, args.json))?;
        if !args.watch {
            return Ok(());
        }
        loop {
            next_digest(node, peer, listing.digest).await.map_err(failed)?;
            let now = list(node, peer, None).await.map_err(failed)?;
            for change in changes(&listing.members, &now.members) {
                let line = if args.json {
                    json(&change)
                } else {
                    format!("{} {change}\n", format_rfc3339_millis(datable(SystemTime::now())))
                };
                print(&line)?;
            }
            listing = now;
        }
    })
}

fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| Error::output(&error))
}

/// A member in JSON.
#[derive(Serialize)]
struct Row<'a> {
    node: &'a PeerText,
    peer_id: String,
    addresses: &'a [Multiaddr],
    actors: Vec<PeerText>,
    state: State,
}

impl<'a> From<&'a MemberInfo> for Row<'a> {
    fn from(member: &'a MemberInfo) -> Self {
        let MemberInfo { node, peer, addresses, state, .. } = member;
        Self { node, peer_id: peer.to_string(), addresses, actors: member.actor_names(), state: *state }
    }
}

fn json(value: &impl Serialize) -> String {
    // Text and numbers always have a form in JSON.
    serde_json::to_string(value).unwrap_or_default() + "\n"
}

#[derive(Serialize)]
struct List<'a> {
    members: Vec<Row<'a>>,
}

fn text_of(members: &[MemberInfo], is_json: bool) -> String {
    if is_json {
        return json(&List { members: members.iter().map(Into::into).collect() });
    }
    let row = |member: &MemberInfo| {
        let actors: Vec<_> = member.actor_names().iter().map(ToString::to_string).collect();
        let address = member.addresses.first().map_or_else(|| "-".into(), ToString::to_string);
        vec![member.node.to_string(), member.state.to_string(), actors.join(","), address, member.peer.to_string()]
    };
    let mut rows = vec![["NODE", "STATE", "ACTORS", "ADDRESS", "PEER ID"].map(String::from).into()];
    rows.extend(members.iter().map(row));
    let alive = members.iter().filter(|member| member.state == State::Alive).count();
    let guests = members.iter().filter(|member| member.state == State::Guest).count();
    let and_guests = match guests {
        0 => String::new(),
        1 => ", 1 guest".into(),
        _ => format!(", {guests} guests"),
    };
    table_of_words(&rows) + &format!("{alive} of {} members are alive{and_guests}\n", members.len() - guests)
}

/// What has changed between two lists.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Change<'a> {
    MemberJoined(Row<'a>),
    MemberLeft(Row<'a>),
    MemberDied(Row<'a>),
    ActorCame { node: &'a PeerText, peer_id: String, name: PeerText },
    ActorGone { node: &'a PeerText, peer_id: String, name: PeerText },
}

impl std::fmt::Display for Change<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::MemberJoined(Row { node, peer_id, .. }) => write!(f, "joined      {node} ({peer_id})"),
            Self::MemberLeft(Row { node, peer_id, .. }) => write!(f, "left        {node} ({peer_id})"),
            Self::MemberDied(Row { node, peer_id, .. }) => write!(f, "died        {node} ({peer_id})"),
            Self::ActorCame { node, name, .. } => write!(f, "actor came  {name} on {node}"),
            Self::ActorGone { node, name, .. } => write!(f, "actor gone  {name} on {node}"),
        }
    }
}

fn changes<'a>(before: &'a [MemberInfo], after: &'a [MemberInfo]) -> Vec<Change<'a>> {
    let by_peer = |members: &'a [MemberInfo]| -> HashMap<PeerId, &'a MemberInfo> {
        members.iter().map(|member| (member.peer, member)).collect()
    };
    let (known_before, known_after) = (by_peer(before), by_peer(after));
    let live_actors = |member: &MemberInfo| if member.is_there() { member.actor_names() } else { Vec::new() };
    let mut changes = Vec::new();
    // Guests that are gone are not listed. Members are, for a day.
    for gone in before.iter().filter(|member| !known_after.contains_key(&member.peer)) {
        let (node, peer_id) = (&gone.node, || gone.peer.to_string());
        let names = live_actors(gone).into_iter();
        changes.extend(names.map(|name| Change::ActorGone { node, peer_id: peer_id(), name }));
    }
    for member in after {
        let known = known_before.get(&member.peer);
        let was = known.map_or(State::Left, |known| known.state);
        match (was, member.state) {
            (State::Left | State::Died, State::Alive) => changes.push(Change::MemberJoined(member.into())),
            (State::Alive, State::Left) => changes.push(Change::MemberLeft(member.into())),
            (State::Alive, State::Died) => changes.push(Change::MemberDied(member.into())),
            _ => {}
        }
        let (had, has) = (known.map(|known| live_actors(known)).unwrap_or_default(), live_actors(member));
        let (node, peer_id) = (&member.node, || member.peer.to_string());
        let gone = had.iter().filter(|name| !has.contains(name)).cloned();
        changes.extend(gone.map(|name| Change::ActorGone { node, peer_id: peer_id(), name }));
        let came = has.iter().filter(|name| !had.contains(name)).cloned();
        changes.extend(came.map(|name| Change::ActorCame { node, peer_id: peer_id(), name }));
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use ping_core::cluster::record::HostedActor;

    fn member(node: &str, peer: PeerId, state: State, actor: &str) -> MemberInfo {
        let actor = HostedActor { name: actor.into(), sequence: 1, remote_id: "ping".into() };
        MemberInfo { peer, node: node.into(), addresses: Vec::new(), actors: vec![actor], since: 0, state }
    }

    #[test]
    fn two_lists_differ_by_who_came_and_went() {
        let [one, two, three] = [(); 3].map(|()| PeerId::random());
        let before = [member("one", one, State::Alive, "a"), member("two", two, State::Alive, "a")];
        let after = [
            member("one", one, State::Died, "a"),
            member("two", two, State::Alive, "b"),
            member("three", three, State::Alive, "c"),
        ];
        let lines: Vec<_> = changes(&before, &after).iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                format!("died        one ({one})"),
                "actor gone  a on one".into(),
                "actor gone  a on two".into(),
                "actor came  b on two".into(),
                format!("joined      three ({three})"),
                "actor came  c on three".into(),
            ]
        );
        assert!(changes(&before, &before).is_empty());
        let guest = [member("guest", one, State::Guest, "a")];
        let words = |before: &[MemberInfo], after: &[MemberInfo]| changes(before, after)[0].to_string();
        assert_eq!(words(&[], &guest), "actor came  a on guest");
        assert_eq!(words(&guest, &[]), "actor gone  a on guest");
    }

    #[test]
    fn a_list_is_a_table() {
        let peer = PeerId::random();
        let text = text_of(&[member("one", peer, State::Alive, "ping_actor")], false);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "NODE  STATE  ACTORS      ADDRESS  PEER ID");
        assert_eq!(lines[1], format!("one   alive  ping_actor  -        {peer}"));
        assert_eq!(lines[2], "1 of 1 members are alive");
    }
}
