//! Files that an operator names.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// More than any of them needs, in bytes: the longest chain of certificates that a client would take, or the rules of thousands.
const LONGEST: u64 = 1 << 20;

/// All of a file.
///
/// # Errors
/// When it cannot be read, is no regular file (reading one of another kind may never end), or is longer than such a file is.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let refused = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why);
    if !std::fs::metadata(path)?.is_file() {
        return Err(refused("it is no regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(refused("it is longer than 1 MiB"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_or_is_too_long_is_refused() {
        let why = |path: &Path| read(path).expect_err("refused").to_string();
        assert_eq!(why(Path::new("/dev/zero")), "it is no regular file");
        let folder = tempfile::tempdir().expect("temporary directory");
        assert_eq!(why(folder.path()), "it is no regular file");
        let path = folder.path().join("file");
        std::fs::write(&path, vec![b'x'; 1 << 20]).expect("it can be written");
        assert_eq!(read(&path).expect("just short enough").len(), 1 << 20);
        std::fs::write(&path, vec![b'x'; (1 << 20) + 1]).expect("it can be written");
        assert_eq!(why(&path), "it is longer than 1 MiB");
    }
}
