//! What is kept of users, sessions, keys and changes.

use crate::access::{Right, Role};
use crate::store::Micros;

/// The store's number of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantKey(pub i64);

impl TenantKey {
    /// The tenant that is always there: whoever runs the server. All that came before there were tenants
    /// is its own, and so is what the server says of itself.
    pub const MAIN: Self = Self(1);
}

/// The store's number of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UserKey(pub i64);

/// The store's number of an API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyKey(pub i64);

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantRow {
    /// Its number.
    pub tenant: TenantKey,
    /// Its name, unique on the server.
    pub name: String,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRow {
    /// Its number.
    pub user: UserKey,
    /// Whose.
    pub tenant: TenantKey,
    /// The name it logs in by, in lower case, unique on the server.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// When it was made.
    pub created: Micros,
    /// When it last logged in.
    pub seen: Option<Micros>,
}

/// A session, with its user as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// Whose.
    pub user: UserRow,
    /// When it began.
    pub created: Micros,
    /// When it was last used, to about a minute.
    pub seen: Micros,
    /// The moment from which it is no longer good.
    pub expires: Micros,
}

/// An API key. What it is itself is nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    /// Its number.
    pub key: KeyKey,
    /// Whose.
    pub tenant: TenantKey,
    /// What it is called, unique in the tenant.
    pub name: String,
    /// Its first letters.
    pub hint: String,
    /// What it may do.
    pub rights: Vec<Right>,
    /// Who made it.
    pub maker: String,
    /// When.
    pub created: Micros,
    /// The moment from which it is no longer good.
    pub expires: Micros,
    /// When it was last used, to about a minute.
    pub seen: Option<Micros>,
}

/// An entry of the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// Its number; later entries have higher ones.
    pub entry: i64,
    /// Whose.
    pub tenant: TenantKey,
    /// When.
    pub at: Micros,
    /// Who did it: `user anna`, `key grafana`, `command line (uid 0)`.
    pub who: String,
    /// From which address; empty where there is none.
    pub origin: String,
    /// What was done.
    pub note: Note,
}

/// What was done, in short.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// `user added`, `batch replayed` …
    pub action: String,
    /// To whom or what.
    pub subject: String,
    /// How it was; empty where there was nothing.
    pub was: String,
    /// How it is now; empty where there is nothing.
    pub became: String,
}

impl Note {
    /// Something was done to something.
    pub fn new(action: &str, subject: impl Into<String>) -> Self {
        Self { action: action.into(), subject: subject.into(), ..Self::default() }
    }

    /// How it was, and how it is.
    pub fn from_to(self, was: impl Into<String>, became: impl Into<String>) -> Self {
        Self { was: was.into(), became: became.into(), ..self }
    }
}

/// Who changes something, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// Within which tenant: nothing of another one can be changed.
    pub tenant: TenantKey,
    /// Who, in words.
    pub who: String,
    /// From which address; empty where there is none.
    pub origin: String,
    /// Now.
    pub at: Micros,
}

/// A change of who may do what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A tenant more.
    AddTenant {
        /// Its name.
        name: String,
    },
    /// A user more.
    AddUser {
        /// The name, in lower case.
        name: String,
        /// What it is.
        role: Role,
        /// The hash of its password.
        password: String,
        /// Only if there is no user yet on the whole server.
        only_first: bool,
    },
    /// Another role.
    SetRole {
        /// Whose.
        user: UserKey,
        /// Which.
        role: Role,
    },
    /// Another password. Ends the user's sessions.
    SetPassword {
        /// Whose.
        user: UserKey,
        /// The hash of it.
        password: String,
        /// The session that goes on.
        keep: Option<[u8; 32]>,
    },
    /// A user less, and its sessions. Keys it made stay: they are the tenant's.
    RemoveUser {
        /// Which.
        user: UserKey,
        /// Even the tenant's last admin.
        even_last: bool,
    },
    /// A key more.
    AddKey {
        /// SHA-256 of it.
        hash: [u8; 32],
        /// Its first letters.
        hint: String,
        /// What it is called.
        name: String,
        /// What it may do.
        rights: Vec<Right>,
        /// Until when.
        expires: Micros,
    },
    /// A key less.
    RemoveKey {
        /// Which.
        key: KeyKey,
    },
    /// A user logs in.
    OpenSession {
        /// Who.
        user: UserKey,
        /// SHA-256 of the cookie.
        hash: [u8; 32],
        /// Until when, if it is not used.
        expires: Micros,
    },
    /// A user logs out.
    CloseSession {
        /// SHA-256 of the cookie.
        hash: [u8; 32],
    },
}

/// What came of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done; the number of what was made or changed.
    Done(i64),
    /// There is one of that name.
    NameTaken,
    /// There is none, or it is another tenant's.
    Unknown,
    /// A tenant without an admin would be left.
    LastAdmin,
    /// There are users already.
    NotFirst,
}
