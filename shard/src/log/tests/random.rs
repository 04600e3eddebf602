//! Seeded runs against a model, with a crash after every burst.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;

const SEGMENT: u64 = 4096;
const GROUPS: [GroupId; 3] = [GroupId(1), GroupId(2), GroupId(3)];

/// What a group should hold.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    vote: Option<Bytes>,
    committed: Option<Bytes>,
    purged: Option<(LogIndex, Bytes)>,
    purged_term: u64,
    records: Vec<Record>,
}

type Models = BTreeMap<GroupId, Model>;

impl Model {
    fn read(log: &GroupLog) -> Model {
        let purged_term = match (log.first(), log.last()) {
            (None, Some((_, term))) => term.0,
            _ => 0,
        };
        let records = all(log);
        Model {
            vote: log.vote(),
            committed: log.committed(),
            purged: log.purged(),
            purged_term,
            records,
        }
    }

    fn next(&self) -> u64 {
        let after = self.purged.as_ref().map(|(index, _)| index.0 + 1);
        self.records
            .last()
            .map(|record| record.index.0 + 1)
            .or(after)
            .unwrap_or(0)
    }

    /// The term is visible only where no record is held.
    fn seen(&self) -> Model {
        let purged_term = if self.records.is_empty() {
            self.purged_term
        } else {
            0
        };
        Model {
            purged_term,
            ..self.clone()
        }
    }
}

fn read_all(log: &NodeLog) -> Models {
    GROUPS
        .iter()
        .map(|group| (*group, Model::read(&log.group(*group))))
        .collect()
}

fn seen(models: &Models) -> Models {
    models
        .iter()
        .map(|(group, model)| (*group, model.seen()))
        .collect()
}

/// One operation on the log and the model; every change that is a frame of its own adds a state to `history`.
fn operate(rng: &mut StdRng, log: &NodeLog, term: u64, history: &mut Vec<Models>) {
    let group = *GROUPS.choose(rng).unwrap();
    let handle = log.group(group);
    let mut now = history.last().unwrap().clone();
    let model = now.get_mut(&group).unwrap();
    let note = Bytes::from(vec![rng.random_range(1..=255); rng.random_range(0..40)]);
    let ignore: Done = Box::new(|result| result.unwrap());
    match rng.random_range(0..100) {
        0..60 => {
            let first = model.next();
            let count = rng.random_range(1..4);
            let records: Vec<_> = (first..first + count)
                .map(|index| long_record(index, term, rng.random_range(0..300)))
                .collect();
            handle.append(records.clone(), ignore).unwrap();
            for record in records {
                now.get_mut(&group).unwrap().records.push(record);
                history.push(now.clone());
            }
            return;
        }
        60..75 => {
            let keep = rng.random_range(0..=model.records.len());
            let last = match keep {
                0 => model.purged.as_ref().map(|(index, _)| *index),
                keep => Some(model.records[keep - 1].index),
            };
            model.records.truncate(keep);
            handle.truncate_after(last, ignore).unwrap();
        }
        75..90 => {
            let from = model.purged.as_ref().map_or(0, |(index, _)| index.0 + 1);
            let upto = LogIndex(rng.random_range(from..model.next() + 2));
            handle.purge(upto, Term(term), note.clone(), ignore).unwrap();
            model.records.retain(|record| record.index > upto);
            (model.purged, model.purged_term) = (Some((upto, note)), term);
        }
        90..95 => {
            handle.save_vote(note.clone(), ignore).unwrap();
            model.vote = Some(note);
        }
        _ => {
            handle.save_committed(note.clone()).unwrap();
            model.committed = Some(note);
        }
    }
    history.push(now);
}

/// Where a crash can have happened, and how many of the last changes it may and may not have lost.
struct Crash {
    torn: std::ops::Range<usize>,
    changes_after_start: usize,
    changes_after_end: usize,
}

/// Picks one of the batches of the last segment as the one that was being written.
fn pick_crash(rng: &mut StdRng, number: u64, path: &Path) -> Crash {
    let frames = frames(number, path);
    let durable: Vec<usize> = frames[1..]
        .iter()
        .map(|(_, _, head)| head.durable as usize)
        .collect();
    let head_end = frames[0].1;
    let start = durable.choose(rng).copied().unwrap_or(head_end);
    let batch = frames[1..]
        .iter()
        .filter(|(_, _, head)| head.durable as usize == start);
    let end = batch.map(|(_, end, _)| *end).max().unwrap_or(head_end);
    let changes_from = |from: usize| {
        let own = [Kind::State, Kind::Marker, Kind::Moved, Kind::End];
        frames
            .iter()
            .filter(|(at, _, head)| *at >= from && !own.contains(&head.kind))
            .count()
    };
    Crash {
        torn: start..end,
        changes_after_start: changes_from(start),
        changes_after_end: changes_from(end),
    }
}

fn tear(rng: &mut StdRng, path: &Path, torn: &std::ops::Range<usize>) {
    let mut bytes = fs::read(path).unwrap();
    bytes[torn.end..].fill(0);
    let loss = *[0.0, 0.2, 1.0].choose(rng).unwrap();
    for sector in torn.start / 512..torn.end.div_ceil(512) {
        if rng.random_bool(loss) {
            bytes[(sector * 512).max(torn.start)..((sector + 1) * 512).min(torn.end)].fill(0);
        }
    }
    if rng.random_bool(0.3) {
        let from = rng.random_range(torn.clone().start..=torn.end);
        bytes[from..].fill(0);
    }
    fs::write(path, bytes).unwrap();
}

/// Hard links keep what is removed: after a crash a removal may be undone.
fn keep_files(dir: &Path, kept: &Path) {
    for (_, path) in segments(dir) {
        let link = kept.join(path.file_name().unwrap());
        match fs::hard_link(&path, &link) {
            Err(_) if link.exists() || !path.exists() => {}
            result => result.unwrap(),
        }
    }
}

fn run(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut dir = tempfile::tempdir().unwrap();
    let mut known: Models = GROUPS.iter().map(|group| (*group, Model::default())).collect();
    for burst in 1..40 {
        // Before, for opening already tidies; and after, for the segment that it makes.
        let kept = tempfile::tempdir().unwrap();
        keep_files(dir.path(), kept.path());
        let log = open(dir.path(), SEGMENT);
        keep_files(dir.path(), kept.path());
        let newest = last_segment(dir.path()).0;
        let found = read_all(&log);
        assert_eq!(found, seen(&known), "seed {seed}, burst {burst}: reopened");
        let mut history = vec![known];
        for _ in 0..rng.random_range(1..12) {
            operate(&mut rng, &log, burst, &mut history);
            if rng.random_bool(0.3) {
                durable(|done| {
                    log.group(GROUPS[0])
                        .truncate_after(Some(LogIndex(u64::MAX - 1)), done)
                });
                history.push(history.last().unwrap().clone());
            }
        }
        assert_eq!(
            read_all(&log),
            seen(history.last().unwrap()),
            "seed {seed}, burst {burst}: before the crash"
        );
        log.close();

        let crashed = copy(dir.path());
        let (number, path) = last_segment(crashed.path());
        let gone_within_the_burst =
            (newest..number).any(|n| n > newest && !segment::path(crashed.path(), n).exists());
        if gone_within_the_burst {
            // Its removal cannot be undone here, so a crash before what led to it cannot be played.
            known = history.pop().unwrap();
            continue;
        }
        for (n, file) in segments(kept.path()) {
            let back = segment::path(crashed.path(), n);
            if !back.exists() {
                fs::copy(file, back).unwrap();
            }
        }
        let crash = pick_crash(&mut rng, number, &path);
        tear(&mut rng, &path, &crash.torn);

        let recovered = read_all(&open(crashed.path(), SEGMENT));
        let last = history.len() - 1;
        let acknowledged = last.saturating_sub(crash.changes_after_start);
        let written = last - crash.changes_after_end;
        let possible = history[acknowledged..=written]
            .iter()
            .rev()
            .find(|models| seen(models) == recovered);
        known = possible
            .unwrap_or_else(|| {
                panic!("seed {seed}, burst {burst}: acknowledged changes are gone: {recovered:#?}")
            })
            .clone();
        dir = crashed;
    }
}

#[test]
fn what_was_acknowledged_survives_any_crash() {
    for seed in 0..12 {
        run(seed);
    }
}
