//! `forebay-server run`.

use anyhow::{Context, Result};
use forebay_config::server::Server;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::app::{self, App};
use crate::{files, identity, logs, store};

/// Runs the server in this process until a signal ends it.
pub(super) fn run(config: Server) -> Result<()> {
    logs::start(&config.log).context("start logging (`[log]`)")?;
    files::raise_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("start the runtime")?.block_on(serve(config))
}

async fn serve(config: Server) -> Result<()> {
    let stop = CancellationToken::new();
    let mut signals = [SignalKind::terminate(), SignalKind::interrupt()]
        .map(|kind| signal(kind).context("listen for signals"));
    let [Ok(terminate), Ok(interrupt)] = &mut signals else {
        return signals.into_iter().find_map(Result::err).map_or(Ok(()), Err);
    };
    let serving = async {
        identity::make_state_folder(&config.state_dir)?;
        let open = || store::open(&config.store);
        let Some(store) = app::wait_for_store(open, &stop).await? else { return Ok(()) };
        let kept = store.describe();
        let app = App::build(config.clone(), store).await?;
        let (sync, page) = (app.sync_address()?, app.page_address()?);
        info!(%sync, %page, store = kept, "Ready.");
        app::ready(&format!("Agents at {sync}, page at {page}, {kept}"));
        if let Some(link) = app.setup_link().await? {
            // Not in the log, which others may read and which is sent elsewhere.
            super::print(&format!(
                "There are no users yet. Make the first one, an admin, at\n  {link}\nThis is shown once and good \
                 until it is used or the server stops; `forebay-server user add NAME --role admin` does the same.\n"
            ))?;
        }
        app.run(stop.clone()).await
    };
    let stopping = async {
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM: stopping."),
            _ = interrupt.recv() => info!("SIGINT: stopping."),
        }
        app::stopping();
        stop.cancel();
    };
    // The signals' side never ends the server itself, it only asks it to.
    let (outcome, ()) = tokio::join!(
        async {
            let outcome = serving.await;
            stop.cancel();
            outcome
        },
        async {
            tokio::select! {
                () = stopping => {}
                () = stop.cancelled() => {}
            }
        }
    );
    outcome
}
