//! The pictures of anomalies.

use super::super::draw;
use super::{Example, examples};
use crate::history::{Edn, Process};

/// Whether every tag is closed in its order, and no text has what belongs to tags.
fn is_well_formed(svg: &str) -> bool {
    let mut open = Vec::new();
    for (place, piece) in svg.split('<').enumerate() {
        if place == 0 {
            continue;
        }
        let Some((tag, text)) = piece.split_once('>') else {
            return false;
        };
        let name = tag.split([' ', '/']).next().unwrap_or_default();
        match tag.strip_prefix('/') {
            Some(closed) if open.pop() != Some(closed) => return false,
            Some(_) => {}
            None if !tag.ends_with('/') => open.push(name),
            None => {}
        }
        if text.contains('>') || tag.matches('"').count() % 2 == 1 {
            return false;
        }
    }
    open.is_empty()
}

#[test]
fn every_anomaly_is_drawn() {
    for example in examples() {
        for anomaly in example.verdict().anomalies {
            let svg = draw::svg(&example.history, &anomaly).expect("it is of this history");
            assert!(is_well_formed(&svg), "{svg}");
            for edge in &anomaly.cycle {
                assert!(svg.contains(&format!("url(#{})", edge.kind)), "{svg}");
            }
        }
    }
}

#[test]
fn faults_are_drawn_and_their_words_escaped() {
    let mut example = Example::named("append.G-single-realtime.a-stale-read");
    let faults = example
        .history
        .ops
        .iter_mut()
        .filter(|op| op.process == Process::Nemesis);
    for fault in faults {
        fault.value = Edn::Text("<a> & \u{1}'b'".to_owned());
    }
    let svg = draw::svg(&example.history, &example.verdict().anomalies[0]).expect("it is of this history");
    assert!(is_well_formed(&svg), "{svg}");
    assert!(svg.contains("isolate-leader &quot;&lt;a&gt; &amp; "), "{svg}");
}

#[test]
fn an_anomaly_of_another_history_is_refused() {
    let one = Example::named("append.G-single-realtime.a-stale-read");
    let other = Example::named("bank.unknown.nobody-read");
    assert!(draw::svg(&other.history, &one.verdict().anomalies[0]).is_err());
}
