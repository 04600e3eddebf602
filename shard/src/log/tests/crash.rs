//! Torn tails: what was not acknowledged may go, the rest stays.

use super::*;

#[test]
fn a_tail_torn_at_any_byte_of_the_last_record_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 1 << 16);
    append(&log.group(G1), [record(0, 1, "first")]);
    append(&log.group(G1), [record(1, 1, "second")]);
    append(
        &log.group(G1),
        [record(2, 1, "the last record, in a batch of its own")],
    );
    log.close();

    let whole = crashed_copy(dir.path());
    let (number, path) = last_segment(whole.path());
    let (start, end, _) = *frames(number, &path).last().unwrap();
    let bytes = fs::read(&path).unwrap();
    for cut in start..end {
        // As preallocation leaves it, and with something else behind the cut.
        for rest in [vec![0; bytes.len() - cut], vec![0xA5; bytes.len() - cut]] {
            let torn = tempfile::tempdir().unwrap();
            let torn_path = torn.path().join(path.file_name().unwrap());
            fs::write(&torn_path, [&bytes[..cut], &rest].concat()).unwrap();
            let padding_only = bytes[..cut].len() + rest.len() >= end && rest.iter().all(|b| *b == 0) && {
                bytes[cut..end].iter().all(|b| *b == 0)
            };
            let expected = if padding_only { 3 } else { 2 };

            let log = open(torn.path(), 1 << 16);
            assert_eq!(
                positions(&log.group(G1)).len(),
                expected,
                "cut at {cut} of {start}..{end}"
            );
            append(&log.group(G1), [record(expected as u64, 2, "goes on")]);
            log.close();
            let log = open(torn.path(), 1 << 16);
            assert_eq!(
                all(&log.group(G1)).last().unwrap(),
                &record(expected as u64, 2, "goes on")
            );
        }
    }
}

#[test]
fn a_batch_of_which_only_the_end_reached_the_disk_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 1 << 16);
    append(&log.group(G1), [record(0, 1, "first")]);
    append(&log.group(G1), (1..5).map(|index| long_record(index, 1, 600)));
    log.close();
    let torn = crashed_copy(dir.path());
    let (number, path) = last_segment(torn.path());
    let (start, ..) = frames(number, &path)[2];
    let mut bytes = fs::read(&path).unwrap();
    bytes[start..start + 512].fill(0);
    fs::write(&path, bytes).unwrap();
    assert_eq!(positions(&open(torn.path(), 1 << 16).group(G1)), [(0, 1)]);
}

#[test]
fn a_segment_that_was_never_finished_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 1 << 16);
    append(&log.group(G1), [record(0, 1, "first")]);
    log.close();
    let left_over = segment::path(dir.path(), 77).with_extension("tmp");
    fs::write(&left_over, b"HOWDA").unwrap();
    let log = open(dir.path(), 1 << 16);
    assert_eq!(positions(&log.group(G1)), [(0, 1)]);
    assert!(!left_over.exists());
}
