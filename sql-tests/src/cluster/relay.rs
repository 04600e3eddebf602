//! The network between the nodes, so that each direction of each pair can be cut, held back,
//! delayed, or made to stutter.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use rand::Rng;
use shard::id::NodeId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::Result;

/// Bytes that a pump has in hand at the most; a slow link carries that much per delay.
const PIECE: usize = 64 << 10;
/// How long a lossy link holds a piece back that a real network would have sent again.
const RESEND: Duration = Duration::from_millis(200);

/// What bytes from one node to another meet. The later, the worse: where two rules name one
/// direction, the worse one holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    /// They arrive late by this much.
    Slow(Duration),
    /// One piece in ten is late by 200 ms, and one in a thousand ends its connection.
    Lossy,
    /// They are held back half of the time, in turns of this length.
    Flapping(Duration),
    /// They are held back until the rule is gone, and then arrive.
    Held,
    /// Connections end, and new ones end at once. What was under way is lost.
    Cut,
}

/// What holds for some directions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkRule {
    /// From whom to whom.
    pub directions: Vec<(NodeId, NodeId)>,
    /// What happens there.
    pub link: Link,
}

/// The name of a rule in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleId(u64);

type Rules = BTreeMap<RuleId, LinkRule>;

/// One relay for each ordered pair of nodes. They end with the test's runtime.
#[derive(Debug)]
pub(super) struct Relays {
    addresses: BTreeMap<(NodeId, NodeId), SocketAddr>,
    nodes: Vec<NodeId>,
    rules: watch::Sender<Rules>,
}

impl Relays {
    pub(super) async fn start(nodes: &BTreeMap<NodeId, SocketAddr>) -> Result<Relays> {
        let (rules, watched) = watch::channel(Rules::new());
        let mut addresses = BTreeMap::new();
        // All links of a flapping node flap together.
        let epoch = Instant::now();
        for from in nodes.keys() {
            for (to, target) in nodes.iter().filter(|(to, _)| *to != from) {
                let listener = TcpListener::bind("127.0.0.1:0").await?;
                addresses.insert((*from, *to), listener.local_addr()?);
                tokio::spawn(relay(listener, (*from, *to), *target, watched.clone(), epoch));
            }
        }
        Ok(Relays {
            addresses,
            nodes: nodes.keys().copied().collect(),
            rules,
        })
    }

    /// Where `from` finds `to`.
    pub(super) fn address(&self, from: NodeId, to: NodeId) -> Option<SocketAddr> {
        self.addresses.get(&(from, to)).copied()
    }

    pub(super) fn impose(&self, rule: LinkRule) -> RuleId {
        let mut id = RuleId(0);
        self.rules.send_modify(|rules| {
            id = RuleId(rules.last_key_value().map_or(0, |(last, _)| last.0 + 1));
            rules.insert(id, rule);
        });
        id
    }

    pub(super) fn lift(&self, id: RuleId) {
        self.rules.send_modify(|rules| {
            rules.remove(&id);
        });
    }

    pub(super) fn isolate(&self, node: NodeId) {
        let others = self.nodes.iter().filter(|other| **other != node);
        self.impose(LinkRule {
            directions: others
                .flat_map(|other| [(node, *other), (*other, node)])
                .collect(),
            link: Link::Cut,
        });
    }

    pub(super) fn heal(&self) {
        self.rules.send_modify(Rules::clear);
    }

    /// Whether any rule is in force.
    pub(super) fn are_disturbed(&self) -> bool {
        !self.rules.borrow().is_empty()
    }
}

/// What holds for a direction now; `None` where nothing disturbs it.
fn link_of(rules: &Rules, direction: (NodeId, NodeId)) -> Option<Link> {
    let named = rules.values().filter(|rule| rule.directions.contains(&direction));
    named.map(|rule| rule.link).max()
}

/// Accepts for ever. While a direction of the pair is cut, connections are accepted and dropped.
async fn relay(
    listener: TcpListener,
    pair: (NodeId, NodeId),
    target: SocketAddr,
    rules: watch::Receiver<Rules>,
    epoch: Instant,
) {
    let there = pair;
    let back = (pair.1, pair.0);
    let is_cut = move |rules: &Rules| {
        [there, back]
            .iter()
            .any(|way| link_of(rules, *way) == Some(Link::Cut))
    };
    while let Ok((accepted, _)) = listener.accept().await {
        if is_cut(&rules.borrow()) {
            continue;
        }
        let mut watched = rules.clone();
        tokio::spawn(async move {
            let Ok(onward) = TcpStream::connect(target).await else {
                return;
            };
            let _ = (accepted.set_nodelay(true), onward.set_nodelay(true));
            let (near_in, near_out) = accepted.into_split();
            let (far_in, far_out) = onward.into_split();
            let (forth, reply) = (watched.clone(), watched.clone());
            tokio::select! {
                _ = futures::future::try_join(
                    pump(near_in, far_out, there, forth, epoch),
                    pump(far_in, near_out, back, reply, epoch),
                ) => {}
                // What is in its buffers is lost with the connection, as in a real network.
                _ = watched.wait_for(is_cut) => {}
            }
        });
    }
}

/// Carries bytes one way until their source closes, and passes that on; an error ends both ways.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    direction: (NodeId, NodeId),
    mut rules: watch::Receiver<Rules>,
    epoch: Instant,
) -> std::io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let read = from.read(&mut piece).await?;
        let came = Instant::now();
        let link = link_of(&rules.borrow_and_update(), direction);
        match link {
            None => {}
            Some(Link::Slow(delay)) => sleep_until(came + delay).await,
            Some(Link::Lossy) => {
                if rand::rng().random_ratio(1, 1000) {
                    return Err(std::io::ErrorKind::ConnectionReset.into());
                }
                if rand::rng().random_ratio(1, 10) {
                    sleep(RESEND).await;
                }
            }
            Some(Link::Flapping(turn)) => {
                let turn = turn.as_millis().max(1);
                let since = epoch.elapsed().as_millis();
                if (since / turn) % 2 == 1 {
                    let left = u64::try_from(turn - since % turn).unwrap_or(0);
                    sleep(Duration::from_millis(left)).await;
                }
            }
            Some(Link::Held | Link::Cut) => {
                let free = |rules: &Rules| link_of(rules, direction).is_none_or(|link| link < Link::Held);
                if rules.wait_for(free).await.is_err() {
                    return Ok(());
                }
            }
        }
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&piece[..read]).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAY: (NodeId, NodeId) = (NodeId(1), NodeId(2));

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut input, mut output) = stream.split();
                    tokio::io::copy(&mut input, &mut output).await
                });
            }
        });
        address
    }

    async fn asks(stream: &mut TcpStream) -> bool {
        let mut answer = [0; 4];
        stream.write_all(b"ping").await.is_ok()
            && tokio::time::timeout(Duration::from_millis(300), stream.read_exact(&mut answer))
                .await
                .is_ok_and(|read| read.is_ok())
    }

    #[tokio::test]
    async fn one_way_is_held_back_and_then_arrives_and_a_cut_ends_the_connection() {
        let nodes = BTreeMap::from([(WAY.0, echo().await), (WAY.1, echo().await)]);
        let relays = Relays::start(&nodes).await.unwrap();
        let mut stream = TcpStream::connect(relays.address(WAY.0, WAY.1).unwrap())
            .await
            .unwrap();
        assert!(asks(&mut stream).await);
        let rule = |link| LinkRule {
            directions: vec![WAY],
            link,
        };
        let held = relays.impose(rule(Link::Held));
        let slow = relays.impose(rule(Link::Slow(Duration::from_millis(1))));
        assert!(!asks(&mut stream).await);
        relays.lift(held);
        let mut late = [0; 4];
        stream.read_exact(&mut late).await.unwrap();
        assert!(asks(&mut stream).await);
        relays.lift(slow);
        relays.isolate(WAY.1);
        assert!(!asks(&mut stream).await);
        relays.heal();
        let mut again = TcpStream::connect(relays.address(WAY.0, WAY.1).unwrap())
            .await
            .unwrap();
        assert!(asks(&mut again).await);
    }
}
