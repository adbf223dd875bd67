//! Questions of this node when all that others have answered in a volume has landed: see "A whole volume as of now" in docs/protocols/write-behind.md.
//!
//! ```text
//!   confirming ──the quorum──> confirmed ──applied──> landing ──nobody is in the way, and the last entry is applied──> landed
//! ```

use gavel_client::Token;
use gavel_lease::LeaseTable;
use gavel_types::{KeyRange, LogIndex, Moment, SessionId, VolumeId};
use gavel_wire::Mode;
use std::collections::{BTreeMap, BTreeSet};

/// Who has not said that all has landed is asked again after this.
const LAND_AGAIN_NS: u64 = 50_000_000;

#[derive(Debug)]
struct Wait {
    token: Token,
    volume: VolumeId,
    since: Moment,
    /// The entry from which on a view has all; none: the quorum has not said it yet.
    index: Option<LogIndex>,
    /// Sessions that hold exclusive leases in the volume and have not answered; none: the table was not looked at yet.
    holders: Option<BTreeSet<SessionId>>,
    asked_at: Option<Moment>,
}

impl Wait {
    fn is_applied(&self, applied: LogIndex) -> bool {
        self.index.is_some_and(|index| index <= applied)
    }
}

/// All such questions, by their tickets.
#[derive(Debug)]
pub(crate) struct Landing {
    waits: BTreeMap<u64, Wait>,
    next_ticket: u64,
    /// Who holds what has changed.
    leases_changed: bool,
}

impl Landing {
    /// `incarnation`: the life of this node, so that no answer to an earlier one is taken for an answer to this.
    pub(crate) fn new(incarnation: u64) -> Landing {
        Landing { waits: BTreeMap::new(), next_ticket: incarnation, leases_changed: false }
    }

    /// A question, about which the quorum is being asked.
    pub(crate) fn begin(&mut self, now: Moment, token: Token, volume: VolumeId) {
        let wait = Wait { token, volume, since: now, index: None, holders: None, asked_at: None };
        self.waits.insert(self.next_ticket, wait);
        self.next_ticket = self.next_ticket.wrapping_add(1);
    }

    /// The quorum says from which entry on a view is current. False: no question of here.
    pub(crate) fn on_confirmed(&mut self, token: Token, index: LogIndex) -> bool {
        let wait = self.waits.values_mut().find(|wait| wait.token == token);
        wait.map(|wait| wait.index = Some(index)).is_some()
    }

    /// The quorum says nothing.
    pub(crate) fn give_up(&mut self, token: Token) {
        self.waits.retain(|_, wait| wait.token != token);
    }

    /// All that `session` had answered when it was asked is in the log up to `index`.
    pub(crate) fn on_landed(&mut self, session: SessionId, ticket: u64, index: LogIndex) {
        let Some(wait) = self.waits.get_mut(&ticket) else { return };
        if wait.holders.as_mut().is_some_and(|holders| holders.remove(&session)) {
            wait.index = wait.index.max(Some(index));
        }
    }

    /// Who holds what has changed.
    pub(crate) fn on_leases(&mut self) {
        self.leases_changed = true;
    }

    /// Gives those that have waited longer than this: they are not here any more.
    pub(crate) fn on_tick(&mut self, now: Moment, patience_ns: u64) -> Vec<Token> {
        let late = |wait: &Wait| now.since_ns(wait.since) >= patience_ns;
        self.waits.extract_if(.., |_, wait| late(wait)).map(|(_, wait)| wait.token).collect()
    }

    /// Takes out those for which a view with `applied` has all. `table` is as of that entry; `session` is this node's own.
    pub(crate) fn take_landed(&mut self, table: &LeaseTable, session: SessionId, applied: LogIndex) -> Vec<Token> {
        let changed = std::mem::take(&mut self.leases_changed);
        for wait in self.waits.values_mut().filter(|wait| wait.is_applied(applied)) {
            let in_the_way = || -> BTreeSet<SessionId> {
                table.in_the_way(session, &KeyRange::volume(wait.volume), Mode::Shared).into_iter().collect()
            };
            match &mut wait.holders {
                None => wait.holders = Some(in_the_way()),
                // What a session had answered is in front of what gave its leases up, and that is applied.
                Some(holders) if changed && !holders.is_empty() => *holders = &*holders & &in_the_way(),
                Some(_) => {}
            }
        }
        let has_landed =
            |wait: &Wait| wait.is_applied(applied) && wait.holders.as_ref().is_some_and(BTreeSet::is_empty);
        self.waits.extract_if(.., |_, wait| has_landed(wait)).map(|(_, wait)| wait.token).collect()
    }

    /// Whom to ask with which ticket, as far as it is time to ask (again).
    pub(crate) fn take_questions(&mut self, now: Moment) -> Vec<(SessionId, u64)> {
        let is_due = |at: Option<Moment>| at.is_none_or(|at| now.since_ns(at) >= LAND_AGAIN_NS);
        let mut questions = Vec::new();
        for (ticket, wait) in self.waits.iter_mut().filter(|(_, wait)| is_due(wait.asked_at)) {
            if let Some(holders) = &wait.holders {
                wait.asked_at = Some(now);
                questions.extend(holders.iter().map(|holder| (*holder, *ticket)));
            }
        }
        questions
    }

    /// For whom how many of these wait.
    pub(crate) fn waits_for(&self) -> BTreeMap<SessionId, usize> {
        let mut waits = BTreeMap::new();
        for holder in self.waits.values().filter_map(|wait| wait.holders.as_ref()).flatten() {
            *waits.entry(*holder).or_default() += 1;
        }
        waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_lease::table::Existing;
    use gavel_types::{ObjectId, Tid};
    use gavel_wire::Want;

    const V: VolumeId = VolumeId(1);
    const ME: SessionId = SessionId(1);
    const OTHER: SessionId = SessionId(2);
    const NOW: Moment = Moment(1_000_000_000);

    fn held(holder: SessionId, volume: VolumeId, mode: Mode) -> LeaseTable {
        let mut table = LeaseTable::default();
        let want = Want { range: KeyRange::object(volume, ObjectId(9)), mode, urgent: true };
        let existing = Existing { first_free: ObjectId(100), theirs: &[] };
        table.grant(holder, &want, Tid(1), existing).unwrap();
        table
    }

    /// A question that the quorum has answered with entry 7.
    fn asked() -> Landing {
        let mut landing = Landing::new(50);
        landing.begin(NOW, 3, V);
        assert!(landing.on_confirmed(3, LogIndex(7)) && !landing.on_confirmed(4, LogIndex(7)));
        landing
    }

    #[test]
    fn who_holds_nothing_exclusively_is_not_asked() {
        for table in [
            LeaseTable::default(),
            held(ME, V, Mode::Exclusive),
            held(OTHER, V, Mode::Shared),
            held(OTHER, VolumeId(2), Mode::Exclusive),
        ] {
            let mut landing = asked();
            assert_eq!(landing.take_landed(&table, ME, LogIndex(6)), [], "what is confirmed is not applied yet");
            assert_eq!(landing.take_questions(NOW), []);
            assert_eq!(landing.take_landed(&table, ME, LogIndex(7)), [3]);
        }
    }

    #[test]
    fn a_holder_is_asked_until_it_says_so_and_its_entry_is_awaited() {
        let (mut landing, table) = (asked(), held(OTHER, V, Mode::Exclusive));
        assert_eq!(landing.take_landed(&table, ME, LogIndex(7)), []);
        assert_eq!(landing.take_questions(NOW), [(OTHER, 50)]);
        assert_eq!(landing.take_questions(NOW), []);
        assert_eq!(landing.take_questions(Moment(NOW.0 + LAND_AGAIN_NS)), [(OTHER, 50)]);
        assert_eq!(landing.waits_for(), [(OTHER, 1)].into());
        landing.on_landed(OTHER, 49, LogIndex(8));
        landing.on_landed(SessionId(3), 50, LogIndex(8));
        assert_eq!(landing.take_landed(&table, ME, LogIndex(9)), [], "another question's answer, another session's");
        landing.on_landed(OTHER, 50, LogIndex(12));
        assert_eq!(landing.take_landed(&table, ME, LogIndex(11)), []);
        assert_eq!(landing.take_landed(&table, ME, LogIndex(12)), [3], "although it holds its lease still");
    }

    #[test]
    fn who_gives_its_leases_up_is_waited_for_no_more() {
        let (mut landing, table) = (asked(), held(OTHER, V, Mode::Exclusive));
        assert_eq!(landing.take_landed(&table, ME, LogIndex(7)), []);
        landing.on_leases();
        assert_eq!(landing.take_landed(&table, ME, LogIndex(8)), [], "it holds them still");
        landing.on_leases();
        assert_eq!(landing.take_landed(&LeaseTable::default(), ME, LogIndex(9)), [3]);
    }

    #[test]
    fn who_waits_too_long_is_given_up() {
        let (mut landing, table) = (asked(), held(OTHER, V, Mode::Exclusive));
        assert_eq!(landing.take_landed(&table, ME, LogIndex(7)), []);
        assert_eq!(landing.on_tick(Moment(NOW.0 + 9), 10), []);
        assert_eq!(landing.on_tick(Moment(NOW.0 + 10), 10), [3]);
        assert_eq!(landing.take_questions(Moment(NOW.0 + LAND_AGAIN_NS)), []);
    }
}
