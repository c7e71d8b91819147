//! A code for a machine that is to be paired, with where this agent may be reached.

use crate::addresses;
use crate::codes::Codes;
use crate::config::Config;
use crate::identity::Identity;
use jiff::Timestamp;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::identity::Role;
use pullback_shared::pairing::PairingCode;
use std::time::Duration;

/// Opens a code for `role` that holds for `ttl`; until when it does.
pub fn invite(config: &Config, role: Role, ttl: Duration) -> Result<(PairingCode, Timestamp), Fault> {
    if !config.tls {
        return Err(Fault::new(Kind::Config, "with `tls = \"off\"` this agent cannot be paired with")
            .hint("take that line out of its configuration and restart the agent; without TLS, pull through ssh: `puller pull HOST:PATH`"));
    }
    let state_dir = config.settings.state_dir.as_deref();
    let state_dir = state_dir.ok_or_else(|| Fault::new(Kind::Internal, "no state directory"))?;
    let identity = Identity::open(state_dir)?;
    let addresses = addresses::of(config)?;
    let opened = Codes::of(identity.dir()).open(role, ttl)?;
    let code = PairingCode {
        fingerprint: identity.fingerprint(),
        id: opened.id,
        secret: opened.secret,
        name: config.name.clone(),
        addresses,
    };
    Ok((code, opened.expires_at))
}

/// The same for whoever came through ssh: what ssh may not do here, a code from there may not either.
pub fn over_ssh(config: &Config, role: Role, ttl: Duration) -> Result<String, Fault> {
    if role == Role::Restore && !config.settings.allow_restore {
        return Err(Fault::new(Kind::Refused, "this agent's configuration does not allow that databases are restored through ssh, or that ssh asks for a code that would")
            .hint("type `pullback-agent pair --role restore` there; or write `allow_restore = true` into its configuration"));
    }
    invite(config, role, ttl).map(|(code, _)| code.encode())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_from_ssh_restores_only_where_ssh_does() {
        let state = tempfile::tempdir().unwrap();
        Identity::open_or_make(state.path()).unwrap();
        let config = |line: &str| {
            let text =
                format!("state_dir = '{}'\nlisten = \"127.0.0.1:7420\"\n{line}", state.path().display());
            Config::parse(&text).unwrap()
        };
        let asked = |line: &str, role| {
            over_ssh(&config(line), role, Duration::from_secs(60)).map(|_| ()).map_err(|fault| fault.kind)
        };
        assert_eq!(asked("", Role::Pull), Ok(()));
        assert_eq!(asked("", Role::Restore), Err(Kind::Refused));
        assert_eq!(asked("allow_restore = true", Role::Restore), Ok(()));
        assert_eq!(asked("tls = \"off\"", Role::Pull), Err(Kind::Config));
    }
}
