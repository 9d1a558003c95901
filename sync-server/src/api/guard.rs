//! Who asks, and may they: before any handler runs.
//!
//! [`guard`] stands before every route of the list. It finds out who asks, refuses with 401 or 403, and
//! hands the handler a [`Caller`]. A route without the guard has no caller, and its handler answers 500.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use tokio_util::sync::CancellationToken;

use super::problem::Problem;
use super::{Api, Roster};
use crate::access::{Identity, Right};
use crate::live::Feed;
use crate::store::Store;

/// What the guard passes callers through to. Private to the API, so that no handler goes round it.
#[derive(Clone)]
pub(crate) struct Doors(pub(super) Arc<Api>);

/// What it takes to be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: whoever asks.
    Nothing,
    /// To be known, whatever one may do.
    Identity,
    /// A right, which roles and keys have or have not.
    Right(Right),
}

impl From<Right> for Needs {
    fn from(right: Right) -> Self {
        Self::Right(right)
    }
}

/// Who asks, and what of the server they may see.
#[derive(Clone)]
pub(crate) struct Caller {
    /// Who it is.
    pub(super) identity: Identity,
    /// The store as the caller's tenant sees it.
    pub(super) store: Arc<dyn Store>,
    /// Its fleet, as it was a moment ago.
    pub(super) fleet: Roster,
    /// What is being committed, of all tenants: see `live.rs`.
    pub(super) feed: Feed,
    /// Ends what would hang on.
    pub(super) stop: CancellationToken,
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or(Problem::Unguarded)
    }
}

/// Lets a request through to its handler, or not.
pub(crate) async fn guard(
    State((doors, needs)): State<(Doors, Needs)>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let Doors(api) = doors;
    if needs != Needs::Nothing {
        let identity = Identity::open();
        if let Needs::Right(right) = needs
            && !identity.may(right)
        {
            return Err(Problem::Forbidden(format!("this needs the right to {right}")));
        }
        let caller = Caller {
            identity,
            store: api.store.clone(),
            fleet: api.fleet.clone(),
            feed: api.feed.clone(),
            stop: api.stop.clone(),
        };
        request.extensions_mut().insert(caller);
    }
    Ok(next.run(request).await)
}
