//! Who may do what: rights, roles that hold them, identities that have rights, and the gate that finds out
//! who asks. docs/security.md has the model.

mod gate;
mod limits;
mod passwords;
mod secrets;

use std::fmt;

pub use gate::{Asked, Gate, Openness, Refusal, Rules};
pub use passwords::{Passwords, judge_name, judge_password};
pub use secrets::{KEY_PREFIX, cookie, hash, no_cookie, random};

use crate::store::{KeyKey, KeyRow, SessionRow, TenantKey, UserKey, UserRow};

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
    /// Whose things it sees.
    pub tenant: TenantKey,
    /// The user's or key's name; empty where nobody logged in.
    pub name: String,
    /// How it is known.
    pub proof: Proof,
    rights: Vec<Right>,
}

/// How it is known who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Not at all: the page is open.
    Open,
    /// A cookie.
    Session {
        /// SHA-256 of it.
        hash: [u8; 32],
        /// Whose.
        user: UserKey,
        /// What that user is.
        role: Role,
    },
    /// An API key.
    Key {
        /// SHA-256 of it.
        hash: [u8; 32],
        /// Which.
        key: KeyKey,
    },
}

impl Identity {
    /// Whoever reaches a page that is open. May look and run the plant; who else may do so is not theirs
    /// to say, so that nobody on the machine makes an admin of themselves.
    pub fn open() -> Self {
        let rights = Role::Operator.rights().to_vec();
        Self { tenant: TenantKey::MAIN, name: String::new(), proof: Proof::Open, rights }
    }

    /// Whoever has this session's cookie.
    pub fn of_session(hash: [u8; 32], row: &SessionRow) -> Self {
        let UserRow { user, tenant, ref name, role, .. } = row.user;
        let proof = Proof::Session { hash, user, role };
        Self { tenant, name: name.clone(), proof, rights: role.rights().to_vec() }
    }

    /// Whoever has this key.
    pub fn of_key(hash: [u8; 32], row: &KeyRow) -> Self {
        let proof = Proof::Key { hash, key: row.key };
        Self { tenant: row.tenant, name: row.name.clone(), proof, rights: row.rights.clone() }
    }

    /// May it?
    pub fn may(&self, right: Right) -> bool {
        self.rights.contains(&right)
    }

    /// All it may.
    pub fn rights(&self) -> &[Right] {
        &self.rights
    }

    /// Who, for the audit.
    pub fn who(&self) -> String {
        match self.proof {
            Proof::Open => "somebody, without a log-in".into(),
            Proof::Session { .. } => format!("user {}", self.name),
            Proof::Key { .. } => format!("key {}", self.name),
        }
    }
}
