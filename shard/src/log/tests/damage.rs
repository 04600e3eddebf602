//! Damage to what was acknowledged is told, never passed over.

use super::*;

/// Several segments of two groups, closed cleanly.
fn written() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 2000);
    for index in 0..20 {
        append(&log.group(G1), [long_record(index, 1, 200)]);
        append(&log.group(G2), [long_record(index, 1, 33)]);
        durable(|done| log.group(G1).save_vote(Bytes::from(vec![7; 5]), done));
    }
    log.close();
    dir
}

type Everything = (Vec<Record>, Vec<Record>, Option<Bytes>);

fn everything(log: &NodeLog) -> Everything {
    (all(&log.group(G1)), all(&log.group(G2)), log.group(G1).vote())
}

/// Whether the damage was told; nothing may be lost where it was not.
fn told_or_harmless(dir: &Path, whole: &Everything, what: &str) -> bool {
    match try_open(dir, 2000) {
        Err(LogError::Damaged { .. } | LogError::Version { .. }) => true,
        Err(other) => panic!("{what}: {other}"),
        Ok(log) => {
            assert_eq!(&everything(&log), whole, "{what}: passed over");
            false
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_is_told_or_harmless() {
    let dir = written();
    let whole = everything(&open(copy(dir.path()).path(), 2000));
    let last = last_segment(dir.path()).0;
    for (number, path) in segments(dir.path()) {
        let bytes = fs::read(&path).unwrap();
        let end = frames(number, &path)
            .iter()
            .rev()
            .find(|(_, _, head)| head.kind != Kind::Marker)
            .unwrap()
            .1;
        let last_mark = frames(number, &path).last().unwrap().2.kind;
        assert_eq!(last_mark == Kind::End, number != last);
        for at in (0..bytes.len()).step_by(13) {
            let damaged = copy(dir.path());
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(damaged.path().join(path.file_name().unwrap()), bytes).unwrap();
            let what = format!("bit {} of byte {at} of segment {number}", at % 8);
            let told = told_or_harmless(damaged.path(), &whole, &what);
            assert_eq!(told, number != last || at < end, "{what}");
        }
    }
}

#[test]
fn after_a_crash_a_flipped_bit_before_the_last_batch_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 1 << 16);
    for index in 0..5 {
        append(&log.group(G1), [long_record(index, 1, 50)]);
    }
    log.close();
    let crashed = crashed_copy(dir.path());
    let (number, path) = last_segment(crashed.path());
    let (last_batch, ..) = *frames(number, &path).last().unwrap();
    let whole = fs::read(&path).unwrap();
    for at in 0..last_batch {
        let damaged = tempfile::tempdir().unwrap();
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(damaged.path().join(path.file_name().unwrap()), bytes).unwrap();
        let result = try_open(damaged.path(), 1 << 16);
        assert!(
            matches!(result, Err(LogError::Damaged { .. } | LogError::Version { .. })),
            "byte {at}"
        );
    }
}

/// Also the last one, also between two frames: nothing behind the cut can tell, but the length does.
#[test]
fn a_file_cut_anywhere_is_told() {
    let dir = written();
    for (number, path) in segments(dir.path()) {
        let bytes = fs::read(&path).unwrap();
        let between = frames(number, &path).into_iter().map(|(start, ..)| start);
        for cut in (0..bytes.len()).step_by(7).chain(between) {
            let damaged = copy(dir.path());
            fs::write(damaged.path().join(path.file_name().unwrap()), &bytes[..cut]).unwrap();
            let result = try_open(damaged.path(), 2000);
            assert!(
                matches!(result, Err(LogError::Damaged { .. })),
                "segment {number} cut at {cut}"
            );
        }
    }
}

#[test]
fn a_missing_or_shortened_file_is_told() {
    let dir = written();
    let whole = everything(&open(copy(dir.path()).path(), 2000));
    let files = segments(dir.path());
    let mut told = 0;
    for (number, path) in &files[..files.len() - 1] {
        let damaged = copy(dir.path());
        fs::remove_file(damaged.path().join(path.file_name().unwrap())).unwrap();
        told += usize::from(told_or_harmless(
            damaged.path(),
            &whole,
            &format!("segment {number} missing"),
        ));
        for (start, ..) in &frames(*number, path)[1..] {
            let damaged = copy(dir.path());
            let bytes = fs::read(path).unwrap();
            fs::write(damaged.path().join(path.file_name().unwrap()), &bytes[..*start]).unwrap();
            told_or_harmless(
                damaged.path(),
                &whole,
                &format!("segment {number} ends at {start}"),
            );
        }
    }
    assert!(
        told >= 3,
        "only {told} of {} missing files were missed",
        files.len()
    );
}

#[test]
fn frames_of_another_segment_or_place_are_not_taken_for_this_ones() {
    let dir = written();
    let files = segments(dir.path());
    let damaged = copy(dir.path());
    fs::copy(&files[0].1, damaged.path().join(files[1].1.file_name().unwrap())).unwrap();
    assert!(matches!(
        try_open(damaged.path(), 2000),
        Err(LogError::Damaged { .. })
    ));
}

#[test]
fn a_read_finds_damage_that_came_after_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 1 << 16);
    append(&log.group(G1), [record(0, 1, "sound"), record(1, 1, "hurt")]);
    let (number, path) = last_segment(dir.path());
    let (start, ..) = frames(number, &path)[2];
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", (start + frame::HEAD) as u64).unwrap();
    assert_eq!(
        log.group(G1).read(LogIndex(0)..LogIndex(1), 100).unwrap().len(),
        1
    );
    let error = log.group(G1).read(LogIndex(0)..LogIndex(2), 100).unwrap_err();
    assert!(error.to_string().contains("record 1 of group 1"), "{error}");
}

#[test]
fn a_file_of_another_version_is_refused_by_name() {
    let dir = written();
    let (_, path) = last_segment(dir.path());
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 1;
    fs::write(&path, bytes).unwrap();
    assert!(matches!(
        try_open(dir.path(), 2000),
        Err(LogError::Version {
            found: 1,
            known: 2,
            ..
        })
    ));
}
