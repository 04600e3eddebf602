//! The name of a transaction across groups.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use shard::id::{GroupId, NodeId};

/// What all names begin with: no other prepared transaction is ours to settle.
pub(crate) const PREFIX: &str = "howdah:";

/// A transaction across groups, as PostgreSQL knows its prepared parts (at most 200 bytes, `PREPARE TRANSACTION`). It
/// says where its decision is, so that whoever finds a part can settle it.
///
/// As text: `howdah:ANCHOR:NODE:NUMBER`, the number as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Gid {
    /// The group whose own commit is the decision.
    pub anchor: GroupId,
    /// The node whose session it is.
    pub node: NodeId,
    /// Random: never used twice.
    pub number: u128,
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}:{}:{:032x}", self.anchor, self.node, self.number)
    }
}

/// A text that is no [`Gid`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a transaction across groups")]
pub struct NotAGid;

impl FromStr for Gid {
    type Err = NotAGid;

    fn from_str(text: &str) -> Result<Gid, NotAGid> {
        let mut parts = text.strip_prefix(PREFIX).ok_or(NotAGid)?.split(':');
        let mut part = || parts.next().ok_or(NotAGid);
        let (anchor, node, number) = (part()?, part()?, part()?);
        let gid = Gid {
            anchor: GroupId(anchor.parse().map_err(|_| NotAGid)?),
            node: NodeId(node.parse().map_err(|_| NotAGid)?),
            number: u128::from_str_radix(number, 16).map_err(|_| NotAGid)?,
        };
        // One text for one name: `+1` or a missing zero is somebody else's.
        if gid.to_string() == text {
            Ok(gid)
        } else {
            Err(NotAGid)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_back_and_no_other_text_is_one() {
        let gid = Gid {
            anchor: GroupId(7),
            node: NodeId(3),
            number: 255,
        };
        let text = "howdah:7:3:000000000000000000000000000000ff";
        assert_eq!(gid.to_string(), text);
        assert_eq!(text.parse(), Ok(gid));
        for other in [
            "",
            "howdah:",
            "howdah:7:3",
            "howdah:7:3:ff",
            "howdah:+7:3:000000000000000000000000000000ff",
        ] {
            assert_eq!(other.parse::<Gid>(), Err(NotAGid), "{other:?}");
        }
        assert_eq!(format!("{text}:").parse::<Gid>(), Err(NotAGid));
        assert_eq!(text.to_uppercase().parse::<Gid>(), Err(NotAGid));
    }
}
