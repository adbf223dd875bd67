use super::*;

const LIFE: u64 = 7;
const CONFIG: SessionConfig = SessionConfig { term_ns: 5_000_000_000, patience_ns: 20_000_000_000 };

fn at(ms: u64) -> Moment {
    Moment(1_000_000_000 + ms * 1_000_000)
}

fn news(change: impl FnOnce(&mut News)) -> News {
    let mut news = News {
        tid: Tid(1_000),
        index: LogIndex(10),
        outcomes: Vec::new(),
        opened: Vec::new(),
        ended: Vec::new(),
        orphaned: Vec::new(),
        leases: false,
        granted: Vec::new(),
        blobs: Default::default(),
    };
    change(&mut news);
    news
}

/// A session that holds a whole volume, and has shipped something that it answered.
fn shipped() -> Session {
    let mut session = Session::new(NodeId(1), LIFE, CONFIG, at(0));
    session.on_news(at(0), &news(|news| news.opened.push((SessionId(100), LIFE))));
    let held: RangeSet = [KeyRange::volume(VolumeId(1))].into_iter().collect();
    session.on_leases(at(0), held.clone(), held);
    let plan = Plan { mutations: Vec::new() };
    session.commit_behind(at(1), Batch { last: 3, plan, author: Author::user(0), stored_as_of: Tid(1) });
    assert!(
        session
            .take_effects(at(1))
            .iter()
            .any(|effect| matches!(effect, SessionEffect::Usable(usable) if !usable.reads.is_empty()))
    );
    session
}

fn opens(effects: &[SessionEffect]) -> Vec<Option<SessionId>> {
    let open = |effect: &SessionEffect| match effect {
        SessionEffect::Ship(Message::OpenSession { instead_of, .. }) => Some(*instead_of),
        _ => None,
    };
    effects.iter().filter_map(open).collect()
}

#[test]
fn a_session_that_its_own_commit_breaks_answers_nothing_more_and_is_followed_by_another() {
    let mut session = shipped();
    let seq =
        session.in_flight.iter().find(|wait| wait.owner == Owner::Behind(3)).map(|wait| wait.request.seq).unwrap();
    let before = session.in_flight.front().unwrap().request.seq.0;
    let mut outcomes: Vec<_> =
        (before..seq.0).map(|seq| (SessionId(100), Seq(seq), Outcome::Committed { tid: Tid(900) })).collect();
    outcomes.push((SessionId(100), seq, Outcome::Refused { refusal: Refusal::Collected }));
    session.on_news(at(2), &news(|news| news.outcomes = outcomes));
    let effects = session.take_effects(at(2));
    let usable = effects.iter().position(|effect| *effect == SessionEffect::Usable(Usable::default()));
    let lost = effects.iter().position(|effect| *effect == SessionEffect::Lost { cause: LostBecause::SessionEnded });
    assert!(usable.is_some() && usable < lost, "{effects:?}");
    session.on_tick(at(3));
    assert_eq!(
        opens(&session.take_effects(at(3))),
        [Some(SessionId(100))],
        "its leases go only when the quorum hears this"
    );
    // A question of before has found the broken one again.
    session.on_news(at(4), &news(|news| news.opened.push((SessionId(100), LIFE))));
    assert_eq!(session.id(), None);
    let next = |news: &mut News| (news.ended, news.opened) = (vec![SessionId(100)], vec![(SessionId(200), LIFE)]);
    session.on_news(at(5), &news(next));
    assert_eq!(session.id(), Some(SessionId(200)));
    session.check_invariants();
}

#[test]
fn an_operation_whose_bytes_were_collected_leaves_its_session_whole() {
    let mut session = shipped();
    let guard = Guard::Stable { range: KeyRange::volume(VolumeId(1)), at: Tid(1) };
    session.commit(at(2), 9, vec![guard], Plan { mutations: Vec::new() }, Author::user(0), Tid(1));
    session.take_effects(at(2));
    let outcomes = session.in_flight.iter().map(|wait| match wait.owner {
        Owner::Operation(_) => (SessionId(100), wait.request.seq, Outcome::Refused { refusal: Refusal::Collected }),
        _ => (SessionId(100), wait.request.seq, Outcome::Committed { tid: Tid(900) }),
    });
    let outcomes = outcomes.collect();
    session.on_news(at(3), &news(|news| news.outcomes = outcomes));
    let refused = SessionEffect::Outcome { token: 9, outcome: Some(Outcome::Refused { refusal: Refusal::Collected }) };
    assert!(session.take_effects(at(3)).contains(&refused));
    assert_eq!(session.id(), Some(SessionId(100)));
}
