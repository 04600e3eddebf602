//! A disk that refuses: the log stops at the first failure, for good and for everyone.

use std::io;
use std::process::Command;

use super::*;

const DIR: &str = "HOWDAH_LOG_TEST_DIR";

/// Runs [`on_a_disk_that_fills_up`] in a process whose files may not grow beyond 64 KiB (`ulimit -f`, with the
/// signal ignored, so that writes fail with EFBIG): a write that really fails, in the middle of a batch.
#[test]
fn a_failed_write_poisons_the_log_and_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let script = "trap '' XFSZ; ulimit -f 128; exec \"$0\" \"$@\"";
    let program = std::env::current_exe().unwrap();
    let output = Command::new("sh")
        .args(["-c", script])
        .arg(program)
        .args([
            "--exact",
            "log::tests::failing_disk::on_a_disk_that_fills_up",
            "--ignored",
            "--nocapture",
        ])
        .env(DIR, dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");

    let log = open(dir.path(), 16 * 1024);
    let found = positions(&log.group(G1));
    assert_eq!(&found[..2], [(0, 1), (1, 1)]);
    assert_eq!(log.group(G2).vote().unwrap(), "before");
}

#[test]
#[ignore = "only in the process that the test above starts"]
fn on_a_disk_that_fills_up() {
    let dir = PathBuf::from(std::env::var_os(DIR).unwrap());
    let log = open(&dir, 16 * 1024);
    let (one, two) = (log.group(G1), log.group(G2));
    append(&one, [record(0, 1, "a"), record(1, 1, "b")]);
    durable(|done| two.save_vote(Bytes::from_static(b"before"), done));

    let (tell, told) = sync_channel::<io::Result<()>>(10);
    let done = || -> Done {
        let tell = tell.clone();
        Box::new(move |result| tell.send(result).unwrap())
    };
    one.append(vec![long_record(2, 1, 100 * 1024)], done()).unwrap();
    // Queued behind it, or refused already.
    let queued = two.save_vote(Bytes::from_static(b"after"), done()).is_ok();
    for _ in 0..1 + usize::from(queued) {
        let error = told.recv().unwrap().unwrap_err();
        assert!(error.to_string().contains("cannot write"), "{error}");
    }
    for refused in [
        one.append(vec![record(3, 1, "")], done()),
        two.save_vote(Bytes::new(), done()),
        two.save_committed(Bytes::new()),
        one.truncate_after(None, done()),
        one.purge(LogIndex(0), Term(1), Bytes::new(), done()),
        one.read(LogIndex(0)..LogIndex(1), 100).map(|_| ()),
    ] {
        assert!(matches!(refused, Err(LogError::Poisoned(_))));
    }
    log.close();
}
