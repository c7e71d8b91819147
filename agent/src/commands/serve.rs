//! `pullback-agent serve`: binds, says where, tells systemd, and stops on a signal.

use crate::cli::Cli;
use pullback_agent::serve::Ready;
use pullback_shared::fault::{Fault, Kind};
use std::io::Write;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

pub(crate) fn run(cli: &Cli) -> Result<u8, Fault> {
    let config = super::config(cli)?;
    if config.tls {
        super::check_owner(&config)?;
    }
    let (listen, databases) = (config.listen, config.databases.len());
    let internal = |error: std::io::Error| Fault::new(Kind::Internal, error.to_string());
    let runtime = super::runtime()?;
    runtime.block_on(async {
        let agent = Ready::new(config)?;
        let listener = TcpListener::bind(listen).await.map_err(|error| {
            Fault::new(Kind::Io, format!("`{listen}` cannot be listened on: {error}"))
                .hint("another agent may run already; port 0 takes a free one")
        })?;
        let address = listener.local_addr().map_err(internal)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(internal)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(internal)?;
        match cli.common.json {
            true => println!("{}", serde_json::json!({"v": 1, "listening": address.to_string()})),
            false => println!("listening on {address}"),
        }
        // Whoever started the agent may not read on; that is no reason not to serve.
        let _ = std::io::stdout().flush();
        notify(&[sd_notify::NotifyState::Ready]);
        tracing::info!(%address, databases, "serving");
        let stop = async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            notify(&[sd_notify::NotifyState::Stopping]);
            tracing::info!("stopping");
        };
        if let Some(limit) = sd_notify::watchdog_enabled() {
            tokio::spawn(keep_alive(limit));
        }
        agent.serve(listener, stop).await
    })?;
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    Ok(0)
}

/// Tells systemd that connections are carried still; without that for `limit`, it starts the agent anew.
async fn keep_alive(limit: std::time::Duration) {
    loop {
        notify(&[sd_notify::NotifyState::Watchdog]);
        tokio::time::sleep(limit / 2).await;
    }
}

fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}
