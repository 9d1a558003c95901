//! Who may do what: rights, roles that hold them, and identities that have a role.

use std::fmt;

/// What can be allowed. Every route of the API needs one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Right {
    /// Read what the API tells of the tenant's gateways.
    Read,
    /// Read `/metrics`.
    Metrics,
    /// Acknowledge, replay, release: what runs a plant.
    Operate,
    /// Users, keys, tokens, settings, audit.
    Manage,
}

impl Right {
    /// All of them, the least first.
    pub const ALL: [Self; 4] = [Self::Read, Self::Metrics, Self::Operate, Self::Manage];

    /// Its word, as it stands in the database and in the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Metrics => "metrics",
            Self::Operate => "operate",
            Self::Manage => "manage",
        }
    }

    /// The right of a word.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|right| right.word() == word)
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What a user is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Looks.
    Viewer,
    /// Looks, and runs the plant.
    Operator,
    /// Everything.
    Admin,
}

impl Role {
    /// All of them, the least first.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// Its word, as it stands in the database, in the API and on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// The role of a word.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.word() == word)
    }

    /// What it may do.
    pub fn rights(self) -> &'static [Right] {
        match self {
            Self::Viewer => &Right::ALL[..2],
            Self::Operator => &Right::ALL[..3],
            Self::Admin => &Right::ALL,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    rights: Vec<Right>,
}

impl Identity {
    /// Whoever reaches a server that has no users.
    pub fn open() -> Self {
        Self { rights: Role::Admin.rights().to_vec() }
    }

    /// May it?
    pub fn may(&self, right: Right) -> bool {
        self.rights.contains(&right)
    }
}
