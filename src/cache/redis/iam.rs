//! Sign-in to ElastiCache with IAM: a token in the place of the password.
//!
//! A token is a request to connect, signed in its URL (Signature Version 4), without the scheme.
//! ElastiCache takes it for 15 minutes, so one is made for each connection and none is kept.
//! <https://docs.aws.amazon.com/AmazonElastiCache/latest/dg/auth-iam.html>

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials as _;
use aws_sigv4::http_request::{
    SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign,
};
use aws_sigv4::sign::v4;
use redis::{ErrorKind, RedisError};
use url::Url;

use crate::aws;

/// The longest that ElastiCache takes a token for.
const EXPIRES_IN: Duration = Duration::from_mins(15);

/// Who signs in to which cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IamSettings {
    user: IamName,
    cache: IamName,
    is_serverless: bool,
}

/// The name (not the address) of a cache or of a user of ElastiCache, which has them in lower case.
#[derive(Clone, PartialEq, Eq)]
pub struct IamName(String);

/// What an [`IamName`] was refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name as ElastiCache gives them: a letter, then letters, digits and hyphens")]
pub struct InvalidIamName;

impl IamName {
    /// Checks a name, and puts it into lower case.
    pub fn parse(text: &str) -> Result<Self, InvalidIamName> {
        let is_name = text.starts_with(|first: char| first.is_ascii_alphabetic())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if is_name { Ok(Self(text.to_ascii_lowercase())) } else { Err(InvalidIamName) }
    }
}

impl fmt::Debug for IamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It may be a user's, which is not to be shown anywhere.
        f.debug_struct("IamName").finish_non_exhaustive()
    }
}

impl IamSettings {
    /// Signs in as `user` to `cache`; whether that is serverless is part of what is signed.
    #[must_use]
    pub fn new(user: IamName, cache: IamName, is_serverless: bool) -> Self {
        Self { user, cache, is_serverless }
    }

    /// The name to sign in with.
    pub(super) fn user(&self) -> &str {
        &self.user.0
    }

    /// A fresh token.
    pub(super) async fn token(&self) -> Result<String, RedisError> {
        let aws = aws::config().await;
        let failed = |what, error: &dyn fmt::Display| {
            RedisError::from((ErrorKind::AuthenticationFailed, what, error.to_string()))
        };
        let region = aws.region().ok_or_else(|| failed("no AWS region is set", &"AWS_REGION"))?;
        let provider = aws
            .credentials_provider()
            .ok_or_else(|| failed("no AWS credentials", &"nothing provides any"))?;
        let credentials = provider
            .provide_credentials()
            .await
            .map_err(|error| failed("no AWS credentials", &error))?;
        self.sign(credentials, region.as_ref(), SystemTime::now())
            .map_err(|error| failed("the token could not be signed", &error))
    }

    fn sign(
        &self,
        credentials: Credentials,
        region: &str,
        time: SystemTime,
    ) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
        let mut url = Url::parse(&format!("http://{}/", self.cache.0))?;
        url.query_pairs_mut().append_pair("Action", "connect").append_pair("User", self.user());
        if self.is_serverless {
            url.query_pairs_mut().append_pair("ResourceType", "ServerlessCache");
        }

        let mut settings = SigningSettings::default();
        settings.signature_location = SignatureLocation::QueryParams;
        settings.expires_in = Some(EXPIRES_IN);
        let identity = credentials.into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(region)
            .name("elasticache")
            .time(time)
            .settings(settings)
            .build()?
            .into();
        let request = SignableRequest::new(
            "GET",
            url.as_str(),
            std::iter::empty(),
            SignableBody::Bytes(&[]),
        )?;
        let (instructions, _) = sign(request, &parameters)?.into_parts();
        for (name, value) in instructions.params() {
            url.query_pairs_mut().append_pair(name, value);
        }
        let token = url.as_str().strip_prefix("http://").unwrap_or(url.as_str());
        Ok(token.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn iam(user: &str, cache: &str, is_serverless: bool) -> IamSettings {
        let name = |text| IamName::parse(text).unwrap();
        IamSettings::new(name(user), name(cache), is_serverless)
    }

    /// What stands in a token, whatever its order and however it is escaped.
    fn parts(token: &str) -> (String, BTreeMap<String, String>) {
        let url = Url::parse(&format!("http://{token}")).unwrap();
        assert_eq!(url.path(), "/");
        (url.host_str().unwrap().to_owned(), url.query_pairs().into_owned().collect())
    }

    /// The first is the answer that AWS's own examples give, and all of them are what the signer of
    /// botocore, an independent witness, makes of the same (`SigV4QueryAuth`, service `elasticache`).
    #[test]
    fn tokens_are_the_known_answers() {
        // 2024-08-02T12:11:50Z and 2026-02-28T23:59:59Z.
        let (august, february) = (1_722_600_710, 1_772_323_199);
        let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
        for ((key, secret, session), region, (cache, user, is_serverless), time, token) in [
            (
                ("accessKey", "secretKey", None),
                "eu-west-1",
                ("my-cache", "user123", true),
                august,
                "my-cache/?Action=connect&User=user123&ResourceType=ServerlessCache&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=accessKey%2F20240802%2Feu-west-1%2Felasticache%2Faws4_request&X-Amz-Date=20240802T121150Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Signature=5dda5db919b1337db6596b2a608924bc10197fb39289b933b60bdb114d5a70dc",
            ),
            (
                ("AKIDEXAMPLE", secret, Some("IQoJb3JpZ2luX2Vj/+abc==")),
                "us-east-1",
                ("prod-cache-2", "app-user", true),
                august,
                "prod-cache-2/?Action=connect&User=app-user&ResourceType=ServerlessCache&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20240802%2Fus-east-1%2Felasticache%2Faws4_request&X-Amz-Date=20240802T121150Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Security-Token=IQoJb3JpZ2luX2Vj%2F%2Babc%3D%3D&X-Amz-Signature=2bfbe0663d48e377a27442e76f546e8d198d1dd65006a35a5877a5316566493b",
            ),
            (
                ("AKIDEXAMPLE", secret, None),
                "ap-southeast-2",
                ("my-replication-group", "reader", false),
                august,
                "my-replication-group/?Action=connect&User=reader&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20240802%2Fap-southeast-2%2Felasticache%2Faws4_request&X-Amz-Date=20240802T121150Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Signature=83a126b52229cc85652b92bee427a1964d46c1ba45a1f856e321189e7e6b7606",
            ),
            (
                ("AKIDEXAMPLE", "s p&a=c?e/ö", Some("tok~en*with (odd) chars: ü%20")),
                "us-gov-west-1",
                ("c", "u", false),
                february,
                "c/?Action=connect&User=u&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20260228%2Fus-gov-west-1%2Felasticache%2Faws4_request&X-Amz-Date=20260228T235959Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Security-Token=tok~en%2Awith%20%28odd%29%20chars%3A%20%C3%BC%2520&X-Amz-Signature=7fc786e578238b406e5a0fa0615c206b387befbe0f29aea661e7fd081da60b87",
            ),
        ] {
            let session = session.map(ToOwned::to_owned);
            let credentials = Credentials::new(key, secret, session, None, "test");
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(time);
            let signed = iam(user, cache, is_serverless).sign(credentials, region, time).unwrap();
            assert_eq!(parts(&signed), parts(token));
        }
    }

    #[test]
    fn names_are_names_and_in_lower_case() {
        assert_eq!(iam("User-1", "My-Cache", true).user(), "user-1");
        for bad in ["", "1user", "a.b", "user name", "a/b", "ä"] {
            assert_eq!(IamName::parse(bad), Err(InvalidIamName), "{bad}");
        }
    }

    #[test]
    fn no_name_is_shown() {
        let shown = format!("{:?}", iam("alice", "alice", true));
        assert!(!shown.contains("alice"), "{shown}");
    }
}
