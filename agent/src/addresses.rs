//! Where an agent can be reached: what a pairing code names.

use crate::config::{Config, host};
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::pairing::ADDRESSES_MAX;
use std::net::{IpAddr, SocketAddr};

/// Each `HOST:PORT` that may lead to the agent with this configuration, the likeliest first.
pub fn of(config: &Config) -> Result<Vec<String>, Fault> {
    if !config.addresses.is_empty() {
        return Ok(config.addresses.clone());
    }
    if config.listen.port() == 0 {
        return Err(Fault::new(Kind::Config, "`listen` takes any free port, so nobody can be told which")
            .hint("give `listen` a port, or say in `addresses` where this agent can be reached"));
    }
    // A system that does not say which addresses it has may still be reached by its name.
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    Ok(worked_out(config.listen, &host(), interfaces.iter().map(if_addrs::Interface::ip).collect()))
}

fn worked_out(listen: SocketAddr, host: &str, mut own: Vec<IpAddr>) -> Vec<String> {
    if !listen.ip().is_unspecified() {
        return vec![listen.to_string()];
    }
    own.retain(|ip| !ip.is_loopback() && !ip.is_unspecified() && !is_link_local(ip));
    // What is heard on `0.0.0.0` is IPv4 alone.
    own.retain(|ip| listen.is_ipv6() || ip.is_ipv4());
    own.sort_by_key(IpAddr::is_ipv6);
    own.dedup();
    let is_named = !host.is_empty() && host != "localhost" && host.is_ascii();
    let name = is_named.then(|| format!("{host}.local:{}", listen.port()));
    let numbers = own.into_iter().map(|ip| SocketAddr::new(ip, listen.port()).to_string());
    let mut found: Vec<String> = name.into_iter().chain(numbers).take(ADDRESSES_MAX).collect();
    if found.is_empty() {
        found.push(SocketAddr::from(([127, 0, 0, 1], listen.port())).to_string());
    }
    found
}

/// Means another machine on each line, so it is of no use away from here.
fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(listen: &str, host: &str, own: &[&str], expected: &[&str]) {
        let own = own.iter().map(|ip| ip.parse().unwrap()).collect();
        assert_eq!(worked_out(listen.parse().unwrap(), host, own), expected);
    }

    #[test]
    fn a_code_names_what_leads_here_from_elsewhere() {
        let own = ["127.0.0.1", "::1", "fd00::7", "fe80::1", "169.254.1.1", "192.168.1.7", "10.0.0.2"];
        check("192.168.1.7:7420", "pi", &own, &["192.168.1.7:7420"]);
        check("127.0.0.1:7420", "pi", &own, &["127.0.0.1:7420"]);
        check("0.0.0.0:7420", "pi", &own, &["pi.local:7420", "192.168.1.7:7420", "10.0.0.2:7420"]);
        let all = ["pi.local:1", "192.168.1.7:1", "10.0.0.2:1", "[fd00::7]:1"];
        check("[::]:1", "pi", &own, &all);
        check("0.0.0.0:1", "localhost", &["127.0.0.1"], &["127.0.0.1:1"]);
        let many: Vec<String> = (0..99).map(|number| format!("10.0.0.{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(
            worked_out(
                "0.0.0.0:1".parse().unwrap(),
                "pi",
                many.iter().map(|ip| ip.parse().unwrap()).collect()
            )
            .len(),
            ADDRESSES_MAX
        );
    }

    #[test]
    fn what_is_configured_is_what_is_said() {
        let said = |text: &str| of(&Config::parse(text).unwrap());
        assert_eq!(said("addresses = [\"pi.lan:1\"]\nlisten = \"127.0.0.1:0\"").unwrap(), ["pi.lan:1"]);
        assert_eq!(said("listen = \"127.0.0.1:0\"").unwrap_err().kind, Kind::Config);
    }
}
