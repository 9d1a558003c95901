//! The uplink's words for people.

use tracing::{error, info, warn};

use super::line::shown;
use super::state::Notice;
use crate::buffer::Revived;

/// What a person must do about a copied or restored buffer.
pub fn of_fork(fork: u32) -> String {
    format!(
        "this buffer was copied to another gateway, or an older copy of it was put back. Nothing is lost: the \
         server keeps what this gateway recorded since then apart, as fork {fork}. If two gateways run with \
         copies of one card, stop the agent on one of them, delete the folder `buffer` in its state directory, \
         and join it under a name of its own"
    )
}

/// What the status says while the day's budget is spent.
pub fn of_spent_budget(daily: impl std::fmt::Display) -> String {
    format!(
        "the day's budget of {daily} (uplink.daily) is spent: readings stay in the buffer, and only a heartbeat \
         an hour goes, until the first of the last 24 hours have passed"
    )
}

/// Logs a notice. Trouble comes back in words for the status.
pub fn tell(notice: &Notice) -> Option<String> {
    let trouble = match notice {
        Notice::WorksAgain => {
            info!("The server takes readings again.");
            return None;
        }
        Notice::SetAside { sequence, words } => {
            error!(sequence, "The server could not read a batch and keeps it aside: {}.", shown(words));
            return None;
        }
        Notice::Fork(fork) => {
            error!(fork, "A person must come: {}.", of_fork(*fork));
            return None;
        }
        Notice::Unreachable(words) => format!("the server is out of reach: {words}"),
        Notice::Busy => "the server is busy".into(),
        Notice::Forbidden(Some(words)) => {
            format!(
                "the server refuses this gateway: {words}. It goes on collecting. To let it in again, make a join \
                 string on the server with `forebay-server token create`, and run `forebay-agent join` here"
            )
        }
        Notice::Forbidden(None) => {
            "the server, or something before it, refuses this gateway. If its certificate was revoked, join again with `forebay-agent join`"
                .into()
        }
        Notice::Strange(words) => format!("the server gives a strange answer: {words}"),
        Notice::BatchTooLarge { sequence, bytes } => format!(
            "batch {sequence} ({bytes} bytes) is more than the server or a proxy takes in a request; raise its limit"
        ),
        Notice::Retry { batches, words } => format!("the server put off {batches} batches: {}", shown(words)),
    };
    warn!("Readings stay in the buffer: {trouble}. Trying again.");
    Some(trouble)
}

/// Logs that a server had lost what it had acknowledged.
pub fn tell_revived(Revived { batches, lost }: Revived) {
    let all = batches.saturating_add(lost);
    if all == 0 {
        return;
    }
    if lost == 0 {
        warn!(
            "The server had lost {all} batches that it had acknowledged (a backup was restored?). All of them are \
             sent again."
        );
    } else {
        error!(
            "The server had lost {all} batches that it had acknowledged (a backup was restored?). {batches} are \
             sent again, {lost} are gone: a gap says where. A larger buffer.tail keeps more."
        );
    }
}
