//! The password of Redis, if Secrets Manager has it.
//!
//! It is read once, while Lambda initialises the environment, and is in no environment variable. After a rotation,
//! existing environments keep their connections; a new environment reads the new password.

use std::ffi::OsString;

use serde::Deserialize;
use serde_json::Value;

use crate::aws::{self, CallError};
use crate::config::{Config, variable};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Secret {
    secret_string: String,
}

/// Adds the password from its secret to the configuration, if it names one. `lookup` is the source of the
/// configuration.
pub async fn completed(
    config: Config,
    lookup: impl Fn(&str) -> Option<OsString>,
) -> Result<Config, CallError> {
    let Some(name) = &config.redis_password_secret else {
        return Ok(config);
    };
    let asked = serde_json::json!({ "SecretId": name }).to_string();
    let answer =
        aws::call("secretsmanager", "/", Some("secretsmanager.GetSecretValue"), asked).await;
    let answer =
        answer.map_err(|error| format!("{} not read: {error}", variable::REDIS_PASSWORD_SECRET))?;
    let Secret { secret_string } = serde_json::from_slice(&answer.body)
        .map_err(|_| format!("the secret of {} is no text", variable::REDIS_PASSWORD_SECRET))?;
    let sign_in = sign_in(&secret_string).ok_or_else(|| {
        format!("the secret of {} has no password", variable::REDIS_PASSWORD_SECRET)
    })?;
    let config = Config::from_lookup(|name| {
        let value = lookup(name);
        if name == variable::REDIS_URL { value.map(|url| with(&url, &sign_in)) } else { value }
    })?;
    Ok(config)
}

/// `user:password`, escaped for a URL. The secret is the password itself, or JSON with `password` and optionally
/// `username`, as Secrets Manager's own rotations write it.
fn sign_in(secret: &str) -> Option<String> {
    let escaped = |text: &str| {
        percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    let (user, password) = match serde_json::from_str(secret) {
        Ok(Value::Object(members)) => {
            let member = |name| members.get(name).and_then(Value::as_str).map(ToOwned::to_owned);
            (member("username").unwrap_or_default(), member("password")?)
        }
        _ => (String::new(), secret.to_owned()),
    };
    (!password.is_empty()).then(|| format!("{}:{}", escaped(&user), escaped(&password)))
}

fn with(url: &OsString, sign_in: &str) -> OsString {
    let url = url.to_string_lossy();
    match url.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{sign_in}@{rest}").into(),
        None => url.into_owned().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_a_password_or_has_one() {
        assert_eq!(sign_in("p@ss/word").unwrap(), ":p%40ss%2Fword");
        assert_eq!(sign_in("12345").unwrap(), ":12345");
        let json = r#"{"username": "ann", "password": "a:b", "host": "h"}"#;
        assert_eq!(sign_in(json).unwrap(), "ann:a%3Ab");
        assert_eq!(sign_in(r#"{"password": "p"}"#).unwrap(), ":p");
        assert_eq!(sign_in(r#"{"token": "p"}"#), None);
        assert_eq!(sign_in(""), None);
    }
}
