//! Damage to the files of a node's log.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::BoxFuture;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use shard::id::NodeId;

use super::fault::{Fault, World, node_value};
use super::kinds::Kind;
use super::schedule::Strike;
use crate::Result;
use crate::history::Edn;

/// How long a strike waits for the cluster to be whole before it strikes nobody.
const SOON: Duration = Duration::from_secs(15);

/// For how long it must have been seen whole.
const WHOLE_FOR: Duration = Duration::from_secs(1);

/// A node that is killed and finds its log cut or flipped when it is started again.
///
/// **Only where the cluster is whole.** What was acknowledged is on a majority, and in the servers of the leader and of those
/// that follow it. A former leader that is rewound, or a replica that is rebuilt, has nothing to give until that is done: where the
/// others then forget, nobody has all, no system keeps it, and the group rightly waits for an operator. Up to the moment when
/// the one that was struck is a voter again (not only: follows) the others are all there is. Other faults may strike
/// meanwhile: they make nobody forget.
#[derive(Debug, Default)]
pub(super) struct CorruptLog(Option<NodeId>);

impl Fault for CorruptLog {
    fn name(&self) -> &'static str {
        Kind::CorruptLog.name()
    }

    fn lasts(&self) -> bool {
        true
    }

    /// So that the cluster can become whole, where it must be.
    fn ends_others(&self) -> bool {
        true
    }

    fn start<'a>(
        &'a mut self,
        world: &'a mut World,
        strike: &'a Strike,
    ) -> BoxFuture<'a, Result<Option<Edn>>> {
        Box::pin(async move {
            // Twice: what one look sees may be a change that has not committed.
            let mut whole = world.cluster.wait_voting(SOON).await.is_ok();
            tokio::time::sleep(WHOLE_FOR).await;
            whole &= world.cluster.wait_voting(Duration::ZERO).await.is_ok();
            world.cluster.complain_if_ended()?;
            if !whole {
                return Ok(None);
            }
            self.0 = world.hold(strike.aim).await;
            let Some(node) = self.0 else {
                return Ok(None);
            };
            world.cluster.kill_node(node)?;
            let damage = damage(&world.cluster.raft_log(node)?, strike.pick)?;
            let what = [("node", node_value(node)), ("damage", Edn::Text(damage))];
            Ok(Some(Edn::map(what)))
        })
    }

    fn heal<'a>(&'a mut self, world: &'a mut World) -> BoxFuture<'a, Result<Edn>> {
        Box::pin(async move {
            let Some(node) = self.0.take() else {
                return Ok(Edn::Nil);
            };
            world.cluster.restart_node(node)?;
            world.release(node);
            Ok(node_value(node))
        })
    }
}

/// Damages one of the files of the log in `dir`, in the middle of what is written; says what it did.
///
/// The log cannot tell damage to its last batch from a torn write, where the crash came before its mark (10 ms). So bits
/// are flipped in the first three quarters of a file; a cut is told anywhere.
fn damage(dir: &Path, pick: u64) -> Result<String> {
    let mut rng = StdRng::seed_from_u64(pick);
    let mut files: Vec<PathBuf> = fs::read_dir(dir)?
        .map(|file| file.map(|file| file.path()))
        .collect::<std::io::Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    files.sort();
    // Mostly the file that is being written.
    let place = if rng.random_bool(0.7) {
        files.len().checked_sub(1)
    } else {
        rng.random_range(0..files.len().max(1)).into()
    };
    let path = place.and_then(|place| files.get(place));
    let path = path.ok_or_else(|| format!("there is no log in {}", dir.display()))?;
    let mut bytes = fs::read(path)?;
    let used = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    if rng.random() {
        let cut = rng.random_range(0..used.max(1));
        fs::OpenOptions::new()
            .write(true)
            .open(path)?
            .set_len(cut as u64)?;
        return Ok(format!("{name} cut to {cut} of {used} bytes"));
    }
    let flips = rng.random_range(1..=8);
    for _ in 0..flips {
        let at = rng.random_range(0..(used * 3 / 4).max(1));
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << rng.random_range(0..8);
        }
    }
    fs::write(path, bytes)?;
    Ok(format!(
        "{flips} bits of the first {} bytes of {name} flipped",
        used * 3 / 4
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_does_the_same_damage_again_and_every_seed_some() {
        let whole: Vec<u8> = (1..=255).cycle().take(5000).chain([0; 5000]).collect();
        let mut cut = 0;
        for seed in 0..40 {
            let damaged = || {
                let dir = tempfile::tempdir().unwrap();
                let file = dir.path().join("00000000000000000001.seg");
                fs::write(&file, &whole).unwrap();
                let what = damage(dir.path(), seed).unwrap();
                (what, fs::read(file).unwrap())
            };
            let (what, bytes) = damaged();
            assert_eq!((what.clone(), bytes.clone()), damaged());
            assert_ne!(bytes, whole, "{what}");
            cut += usize::from(bytes.len() < whole.len());
        }
        assert!((10..30).contains(&cut), "{cut} of 40 were cuts");
    }
}
