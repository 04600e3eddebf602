//! One test a claim about what a replica does next.

use bytes::Bytes;

use super::*;
use crate::entry::{Command, Genesis, TimelineSwitch, WalChunk};

const ME: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);
const START: Lsn = Lsn(0x100_0000);

fn unborn() -> WalHistory {
    WalHistory::default()
}

fn born_at(origin: NodeId) -> WalHistory {
    let mut history = unborn();
    let genesis = Genesis {
        system_id: "7".into(),
        start: START,
        origin,
    };
    history.apply(&Command::Genesis(genesis)).unwrap();
    grow(&mut history, 1, 100);
    history
}

fn grow(history: &mut WalHistory, timeline: u32, length: usize) {
    let bytes = Bytes::from(vec![0; length]);
    let chunk = WalChunk {
        timeline: TimelineId(timeline),
        start: history.end(),
        bytes,
    };
    history.apply(&Command::Wal(chunk)).unwrap();
}

fn switched(mut history: WalHistory, timeline: u32, origin: NodeId, back: u64) -> WalHistory {
    let after = history.end();
    let switch = TimelineSwitch {
        timeline: TimelineId(timeline),
        at: after - back,
        after,
        origin,
        history: Bytes::from_static(b"1\t0/1000064\tno recovery target specified\n"),
    };
    history.apply(&Command::Switch(switch)).unwrap();
    history
}

struct Scene {
    history: WalHistory,
    life: Life,
    server: Server,
    reached: Option<u32>,
}

impl Scene {
    fn new(history: WalHistory, life: Life, server: Server) -> Scene {
        Scene {
            history,
            life,
            server,
            reached: None,
        }
    }

    fn decide(&self, part: Part) -> Step {
        decide(&Facts {
            node: ME,
            part,
            history: &self.history,
            life: &self.life,
            server: self.server,
            reached: self.reached.map(TimelineId),
        })
    }

    fn leads(&self, term: u64) -> Step {
        self.decide(Part::Leader {
            term: Term(term),
            ready: true,
        })
    }

    fn follows(&self) -> Step {
        self.decide(Part::Follower { leader: Some(OTHER) })
    }
}

fn primary(term: u64) -> Server {
    Server::Primary { term: Term(term) }
}

fn life_primary(timeline: u32) -> Life {
    Life::Primary {
        timeline: TimelineId(timeline),
    }
}

#[test]
fn first_leader_makes_the_system_and_announces_it() {
    let mut scene = Scene::new(unborn(), Life::Empty, Server::Stopped);
    assert_eq!(scene.leads(1), Step::Create);
    scene.life = Life::Born {
        system_id: "7".into(),
    };
    assert_eq!(scene.leads(1), Step::StartPrimary { term: Term(1) });
    scene.server = primary(1);
    assert_eq!(scene.leads(1), Step::AnnounceBirth { term: Term(1) });
    scene.history = born_at(ME);
    assert_eq!(scene.leads(1), Step::Become(life_primary(1)));
    scene.life = life_primary(1);
    assert_eq!(scene.leads(1), Step::Lead { term: Term(1) });
}

#[test]
fn a_birth_that_lost_the_race_is_dropped() {
    let life = Life::Born {
        system_id: "8".into(),
    };
    let scene = Scene::new(born_at(OTHER), life, Server::Stopped);
    assert_eq!(scene.follows(), Step::Become(Life::Empty));
    assert_eq!(scene.leads(3), Step::Become(Life::Empty));
}

#[test]
fn an_empty_replica_is_rebuilt_and_never_leads() {
    let scene = Scene::new(born_at(OTHER), Life::Empty, Server::Stopped);
    assert_eq!(scene.follows(), Step::Rebuild { leader: OTHER });
    assert_eq!(scene.leads(2), Step::Resign { term: Term(2) });
    assert_eq!(
        scene.decide(Part::Follower { leader: None }),
        Step::Wait("empty, without a leader")
    );
}

#[test]
fn a_copy_starts_only_when_the_log_covers_it() {
    let mut scene = Scene::new(
        born_at(OTHER),
        Life::Copied {
            timeline: TimelineId(1),
            until: START + 150,
        },
        Server::Stopped,
    );
    assert!(matches!(scene.follows(), Step::Wait(_)));
    assert_eq!(
        scene.leads(2),
        Step::Become(Life::Empty),
        "the whole log does not hold it"
    );
    grow(&mut scene.history, 1, 50);
    assert_eq!(scene.follows(), Step::Become(Life::Standby));

    scene.history = switched(born_at(OTHER), 2, OTHER, 0);
    assert_eq!(
        scene.follows(),
        Step::Become(Life::Empty),
        "its end was cut off by a switch"
    );
}

#[test]
fn a_standby_is_promoted_only_with_the_whole_log() {
    let mut scene = Scene::new(born_at(OTHER), Life::Standby, Server::Stopped);
    assert_eq!(scene.leads(2), Step::StartStandby);
    scene.server = Server::Standby(Feed::Behind);
    assert!(matches!(scene.leads(2), Step::Wait(_)));
    scene.server = Server::Standby(Feed::CaughtUp);
    assert!(matches!(
        scene.decide(Part::Leader {
            term: Term(2),
            ready: false
        }),
        Step::Wait(_)
    ));
    assert_eq!(scene.leads(2), Step::Promote { term: Term(2) });
    scene.server = Server::Standby(Feed::Lost);
    assert_eq!(scene.leads(2), Step::Resign { term: Term(2) });
    assert_eq!(scene.follows(), Step::Rebuild { leader: OTHER });
}

fn promoted() -> Life {
    Life::Promoted {
        from: TimelineId(1),
        after: START + 100,
    }
}

#[test]
fn a_promotion_ends_in_the_log() {
    let mut scene = Scene::new(born_at(OTHER), promoted(), primary(2));
    assert_eq!(scene.leads(2), Step::AnnounceSwitch { term: Term(2) });
    assert_eq!(
        scene.leads(3),
        Step::Stop,
        "a primary of another term begins again"
    );
    assert_eq!(scene.follows(), Step::Stop);

    scene.server = Server::Stopped;
    assert_eq!(scene.leads(3), Step::Inspect, "how far it got is not known yet");
    assert_eq!(scene.follows(), Step::Inspect);
    scene.reached = Some(2);
    scene.history = switched(born_at(OTHER), 2, ME, 8);
    assert_eq!(
        scene.leads(3),
        Step::Become(life_primary(2)),
        "only the reply was lost"
    );
    assert_eq!(scene.follows(), Step::Become(life_primary(2)));
}

#[test]
fn a_promotion_that_was_struck_down_is_taken_up_again_by_the_same_node() {
    let mut scene = Scene::new(born_at(OTHER), promoted(), Server::Stopped);
    scene.reached = Some(2);
    assert_eq!(scene.leads(3), Step::StartPrimary { term: Term(3) });
    assert!(
        matches!(scene.follows(), Step::Wait(_)),
        "kept: it may be the last one"
    );
    scene.reached = Some(1);
    assert_eq!(scene.leads(3), Step::Unpromote { to: TimelineId(1) });
    assert_eq!(scene.follows(), Step::Unpromote { to: TimelineId(1) });
}

#[test]
fn a_timeline_that_another_node_also_chose_is_not_trusted() {
    let mut scene = Scene::new(switched(born_at(OTHER), 2, OTHER, 8), promoted(), Server::Stopped);
    scene.reached = Some(2);
    assert_eq!(scene.follows(), Step::Rebuild { leader: OTHER });
    assert_eq!(scene.leads(4), Step::Resign { term: Term(4) });
}

#[test]
fn a_log_that_grew_past_the_promotion_voids_it() {
    let mut scene = Scene::new(born_at(OTHER), promoted(), Server::Stopped);
    scene.reached = Some(2);
    grow(&mut scene.history, 1, 1);
    assert_eq!(scene.leads(4), Step::Resign { term: Term(4) });
    assert_eq!(scene.follows(), Step::Rebuild { leader: OTHER });
}

#[test]
fn a_primary_that_restarts_goes_on_where_nobody_else_has_led() {
    let mut scene = Scene::new(born_at(ME), life_primary(1), Server::Stopped);
    assert!(matches!(scene.follows(), Step::Wait(_)));
    assert_eq!(scene.leads(5), Step::StartPrimary { term: Term(5) });
    scene.server = primary(5);
    assert_eq!(scene.leads(5), Step::Lead { term: Term(5) });
}

#[test]
fn a_deposed_primary_stops_and_is_rewound_by_the_next() {
    let mut scene = Scene::new(born_at(ME), life_primary(1), primary(1));
    assert_eq!(scene.follows(), Step::Stop);
    scene.server = Server::Stopped;
    scene.history = switched(born_at(ME), 2, OTHER, 0);
    assert_eq!(scene.follows(), Step::Rewind { leader: OTHER });
    assert_eq!(scene.leads(9), Step::Resign { term: Term(9) });
}

#[test]
fn a_failed_replica_stops_its_server() {
    let mut scene = Scene::new(born_at(ME), life_primary(1), primary(1));
    assert_eq!(scene.decide(Part::Dead), Step::Stop);
    scene.server = Server::Stopped;
    assert!(matches!(scene.decide(Part::Dead), Step::Wait(_)));
}
