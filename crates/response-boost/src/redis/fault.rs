//! Classifies failures: what one means for later requests, and how the log describes it.

use std::fmt;
use std::io;

use redis::{Cmd, ErrorKind, RedisError};

use super::link::Link;
use super::settings::{Address, RedisSettings};
use crate::StoreError;

/// The longest part of a server's message that is logged.
const MOST_WORDS: usize = 200;
/// Anything shorter is hardly a secret, and would be found in many words.
const SHORTEST_SECRET: usize = 4;

/// Error replies that concern this command alone and say nothing about the server.
const OF_THE_COMMAND: [&str; 7] =
    ["OOM", "NOPERM", "WRONGTYPE", "NOSCRIPT", "TRYAGAIN", "NOREPLICAS", "MISCONF"];
/// Error replies of a server that is up but cannot serve requests yet.
const NOT_YET: [&str; 4] = ["LOADING", "CLUSTERDOWN", "BUSY", "MASTERDOWN"];
/// Error replies by which a cluster redirects a key or says that a slot is not settled.
const OF_A_CLUSTER: [&str; 5] = ["MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "CROSSSLOT"];

/// Why a command has no usable reply.
pub(super) struct Failed {
    pub(super) error: RedisError,
    /// The connection over which it was sent. `None`: no connection could be opened.
    pub(super) link: Option<Link>,
    /// Whether the connection was open before.
    pub(super) was_open: bool,
    /// Whether the reply was still arriving.
    pub(super) is_slow: bool,
}

/// What a failure means for later requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The connection must be dropped.
    pub(super) throws_away: bool,
    /// The breaker opens, because an immediate retry would fail too.
    pub(super) opens: bool,
}

/// Where a cluster redirects a key.
pub(super) struct Redirection {
    pub(super) slot: u16,
    pub(super) address: Address,
    /// For this command alone (`ASK`), or from now on (`MOVED`).
    pub(super) is_ask: bool,
}

impl Failed {
    pub(super) fn verdict(&self, reads: bool, is_large: bool) -> Verdict {
        let verdict = |throws_away, opens| Verdict { throws_away, opens };
        let Some(code) = self.error.code().filter(|_| self.link.is_some()) else {
            return match self.error.is_timeout() {
                true if self.is_slow => verdict(false, false),
                // The command may still be in flight, and other requests would queue behind it.
                true if is_large => verdict(true, false),
                // The server is down, or not known to be up.
                _ => verdict(true, true),
            };
        };
        match code {
            _ if is_sign_in(&self.error) => verdict(true, true),
            // The name may resolve to another server by now.
            "READONLY" | "MOVED" | "ASK" => verdict(true, false),
            code if NOT_YET.contains(&code) => verdict(false, true),
            code if OF_THE_COMMAND.contains(&code) => verdict(false, false),
            // A proxy's error, or one that a server sends before it accepts any client: the command was not read.
            _ => verdict(false, reads),
        }
    }

    /// Whether the connection turned out to be closed.
    pub(super) fn is_closed(&self) -> bool {
        self.error.is_connection_dropped() && !self.error.is_timeout()
    }

    /// Whether a cluster replied that it has not run the command, here or yet.
    pub(super) fn is_unsettled(&self) -> bool {
        self.link.is_some()
            && self.error.code().is_some_and(|code| OF_A_CLUSTER[..4].contains(&code))
    }

    /// The target of a `MOVED` or `ASK`. If the reply omits the host, it is the answering server's.
    pub(super) fn redirection(&self, answering: &Address) -> Option<Redirection> {
        let (address, slot) = self.error.redirect_node()?;
        let (host, port) = address.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host = if is_host(host) { host } else { &answering.host };
        let address = Address { host: host.to_owned(), port: port.parse().ok()? };
        Some(Redirection { slot, address, is_ask: self.error.code() == Some("ASK") })
    }

    /// The error for the caller, whose source names the node and the server's message for the log.
    pub(super) fn told(
        &self,
        command: Option<&Cmd>,
        node: &Address,
        settings: &RedisSettings,
    ) -> StoreError {
        let error = &self.error;
        let cause = || {
            let words = words(error, command, settings);
            let hint = self.hint(settings);
            Box::new(Cause { node: node.to_string(), words, hint })
        };
        if error.is_timeout() {
            StoreError::Timeout(cause())
        } else if error.is_connection_refusal() {
            StoreError::Refused(cause())
        } else if is_sign_in(error) {
            StoreError::Auth(cause())
        } else if let Some(code) = error.code().filter(|_| self.link.is_some()) {
            StoreError::Reply { code: code.to_owned(), cause: cause() }
        } else {
            StoreError::Failed(cause())
        }
    }

    /// Advice for the operator about the likely cause.
    fn hint(&self, settings: &RedisSettings) -> Option<&'static str> {
        let error = &self.error;
        let code = error.code().unwrap_or_default();
        let text = error.to_string();
        let is_silent = error.is_timeout() || self.is_closed() || error.kind() == ErrorKind::Parse;
        let is_first = self.link.as_ref().is_none_or(|link| !link.has_answered()) && !self.is_slow;
        if OF_A_CLUSTER.contains(&code) && !settings.is_cluster {
            return Some("the server is a node of a cluster; is REDIS_CLUSTER=true missing?");
        }
        if code == "NOAUTH" {
            return Some("the server wants a user and a password");
        }
        if !settings.is_tls() {
            let was_connected = self.link.is_some();
            return (was_connected && is_first && is_silent)
                .then_some("does the port want TLS? then the URL begins with rediss://");
        }
        if text.contains("not valid for name") {
            return Some(
                "the certificate is for another name than that of this node; a cluster must announce the \
                 names that its certificates have",
            );
        }
        if text.contains("UnknownIssuer") {
            return Some("REDIS_TLS_CA_FILE names the authority to trust");
        }
        // The server says so in an alert, which is lost if the client was sending at the time.
        if text.contains("ertificateRequired")
            || (self.link.is_some() && is_first && self.is_closed())
        {
            return Some(
                "does the server want a client certificate? REDIS_TLS_CERT_FILE, REDIS_TLS_KEY_FILE",
            );
        }
        // A port without TLS takes the start of a handshake for a command. It waits for the rest, or replies in plain
        // text.
        let is_no_tls = error.is_timeout() || text.contains("InvalidContentType");
        (self.link.is_none() && is_no_tls).then_some("does the port speak TLS?")
    }
}

pub(super) fn timed_out(waited_for: &'static str) -> RedisError {
    io::Error::new(io::ErrorKind::TimedOut, waited_for).into()
}

/// Whether this is a host, and not a placeholder that a server sends for an unknown one.
pub(super) fn is_host(host: &str) -> bool {
    !["", "?"].contains(&host)
}

/// Whether the server rejects the credentials or requires some.
fn is_sign_in(error: &RedisError) -> bool {
    let is_about_password = || {
        let detail = error.detail().unwrap_or_default();
        detail.contains("AUTH") || detail.contains("password")
    };
    error.kind() == ErrorKind::AuthenticationFailed
        || error.code().is_some_and(|code| match code {
            "NOAUTH" | "WRONGPASS" => true,
            // The reply of servers before version 6.
            "ERR" => is_about_password(),
            _ => false,
        })
}

/// The server's message, or the system's, without keys, values and credentials of the client.
fn words(error: &RedisError, command: Option<&Cmd>, settings: &RedisSettings) -> String {
    let Some(code) = error.code() else { return shortened(&error.to_string()) };
    let mut words = code.to_owned();
    if let Some(detail) = error.detail() {
        // The rest repeats the command that was sent.
        let detail = detail.split(", with args beginning").next().unwrap_or_default();
        words = [&words, " ", detail].concat();
    }
    let arguments = command.into_iter().flat_map(|command| command.args_iter().skip(1));
    let arguments = arguments.filter_map(|argument| match argument {
        redis::Arg::Simple(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    });
    let credentials = [&settings.credentials.user, &settings.credentials.password];
    let credentials = credentials.into_iter().filter_map(|secret| secret.as_deref());
    let secrets: Vec<&str> = arguments.chain(credentials).collect();
    let is_separator = |c: char| c.is_whitespace() || "'\"`,".contains(c);
    let is_secret = |word: &str| {
        secrets.iter().any(|&secret| {
            word == secret || (secret.len() >= SHORTEST_SECRET && word.contains(secret))
        })
    };
    let words: String = words
        .split_inclusive(is_separator)
        .map(|part| {
            let word = part.trim_end_matches(is_separator);
            if is_secret(word) { part.replacen(word, "<redacted>", 1) } else { part.to_owned() }
        })
        .collect();
    shortened(&words)
}

fn shortened(words: &str) -> String {
    words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST_WORDS).collect()
}

/// The cause of a [`StoreError`], for the log only.
#[derive(Debug)]
struct Cause {
    node: String,
    words: String,
    hint: Option<&'static str>,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.node, self.words)?;
        self.hint.map_or(Ok(()), |hint| write!(f, " ({hint})"))
    }
}

impl std::error::Error for Cause {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_words_are_told_without_what_is_a_clients_own() {
        let settings = RedisSettings::parse("redis://alice:hunter2@h").unwrap();
        let mut command = Cmd::new();
        command.arg("GET").arg("users:user:1").arg("a long value");
        let told = |reply: &str| {
            let reply = redis::parse_redis_value(format!("-{reply}\r\n").as_bytes()).unwrap();
            words(&reply.extract_error().unwrap_err(), Some(&command), &settings)
        };
        for (reply, words) in [
            ("OOM command not allowed", "OOM command not allowed"),
            ("NOPERM User alice may not 'get' it", "NOPERM User <redacted> may not 'get' it"),
            (
                "NOPERM no access to the 'users:user:1' key",
                "NOPERM no access to the '<redacted>' key",
            ),
            ("ERR hunter2, is it?", "ERR <redacted>, is it?"),
            (
                "ERR unknown command 'GET', with args beginning with: 'users:user:1' 'a long'",
                "ERR unknown command 'GET'",
            ),
        ] {
            assert_eq!(told(reply), words);
        }
        assert_eq!(told(&format!("ERR {}", "long ".repeat(1_000))).len(), MOST_WORDS);
    }

    #[test]
    fn a_redirection_without_a_host_leads_to_who_answers() {
        let answering = Address { host: "10.0.0.1".to_owned(), port: 1 };
        for (words, found) in [
            ("MOVED 7 10.0.0.2:6379", Some((7, "10.0.0.2:6379", false))),
            ("MOVED 7 cache.example:6379", Some((7, "cache.example:6379", false))),
            ("MOVED 7 ::1:6379", Some((7, "[::1]:6379", false))),
            ("MOVED 7 :6379", Some((7, "10.0.0.1:6379", false))),
            ("MOVED 7 ?:6379", Some((7, "10.0.0.1:6379", false))),
            ("ASK 7 :6379", Some((7, "10.0.0.1:6379", true))),
            ("MOVED 7 nowhere", None),
            ("MOVED", None),
            ("CLUSTERDOWN for now", None),
        ] {
            let reply = redis::parse_redis_value(format!("-{words}\r\n").as_bytes()).unwrap();
            let error = reply.extract_error().unwrap_err();
            let failed = Failed { error, link: None, was_open: true, is_slow: false };
            let redirection = failed.redirection(&answering).map(|to| {
                let Redirection { slot, address, is_ask } = to;
                (slot, address.to_string(), is_ask)
            });
            assert_eq!(redirection, found.map(|(slot, to, is_ask)| (slot, to.to_owned(), is_ask)));
        }
    }
}
