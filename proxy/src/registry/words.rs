//! What a session does, and why it keeps its backends, in words.

/// What a client's session does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Activity {
    /// It is being let in.
    Login,
    /// It waits for its client, outside of a transaction.
    Idle,
    /// It waits for its client, in a transaction.
    IdleInTransaction,
    /// It works on a request.
    Active,
    /// Its request waits: for its turn to have backends, for a connection to a group's leader, or for RESUME.
    Waiting,
}

impl Activity {
    pub(super) const ALL: [Activity; 5] = [
        Activity::Login,
        Activity::Idle,
        Activity::IdleInTransaction,
        Activity::Active,
        Activity::Waiting,
    ];

    /// As `SHOW CLIENTS` and `pg_stat_activity` have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Activity::Login => "login",
            Activity::Idle => "idle",
            Activity::IdleInTransaction => "idle in transaction",
            Activity::Active => "active",
            Activity::Waiting => "waiting",
        }
    }
}

/// Why a session's backends cannot be given to others. A new reason is a line in [`Pin::ALL`] and one in
/// `Session::pin_of` or `Session::pins`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Pin {
    /// A transaction block.
    Transaction = 1,
    /// A cursor WITH HOLD; others are a part of their transaction.
    Cursor = 1 << 1,
    /// A pipeline without its Sync.
    Pipeline = 1 << 2,
    /// COPY FROM STDIN.
    Copy = 1 << 3,
    /// A temporary table, or another temporary relation.
    TemporaryTable = 1 << 4,
    /// An advisory lock that outlives its transaction.
    AdvisoryLock = 1 << 5,
    /// LISTEN.
    Listen = 1 << 6,
}

impl Pin {
    const ALL: [(Pin, &'static str); 7] = [
        (Pin::Transaction, "transaction"),
        (Pin::Cursor, "cursor"),
        (Pin::Pipeline, "pipeline"),
        (Pin::Copy, "copy"),
        (Pin::TemporaryTable, "temporary table"),
        (Pin::AdvisoryLock, "advisory lock"),
        (Pin::Listen, "listen"),
    ];
}

/// The reasons that hold at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pins(pub(super) u32);

impl Pins {
    /// With this reason, where it holds.
    #[must_use]
    pub(crate) fn with(self, pin: Pin, holds: bool) -> Pins {
        if holds { Pins(self.0 | pin as u32) } else { self }
    }

    pub(super) fn names(self) -> Vec<&'static str> {
        let held = |(pin, _): &&(Pin, &'static str)| self.0 & *pin as u32 != 0;
        Pin::ALL.iter().filter(held).map(|(_, name)| *name).collect()
    }
}
