//! Sign-in to ElastiCache and `MemoryDB` with IAM: a token instead of a password.
//!
//! A token is the URL of a signed request to connect (Signature Version 4), without its scheme. ElastiCache accepts it
//! for 15 minutes, so each connection gets a new one and none is stored.
//! <https://docs.aws.amazon.com/AmazonElastiCache/latest/dg/auth-iam.html>
//! <https://docs.aws.amazon.com/memorydb/latest/devguide/auth-iam.html>

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign,
};
use aws_sigv4::sign::v4;
use redis::{ErrorKind, RedisError};
use url::Url;

/// How long ElastiCache accepts a token.
const EXPIRES_IN: Duration = Duration::from_mins(15);

/// The user, the cache and the credentials for an IAM sign-in.
#[derive(Clone)]
pub struct IamSettings {
    user: IamName,
    cache: IamName,
    is_serverless: bool,
    /// The service that the signature names.
    service: &'static str,
    provider: Arc<Provider>,
}

type BoxError = Box<dyn Error + Send + Sync>;
type Provider = dyn Fn() -> Pin<Box<dyn Future<Output = Result<AwsCredentials, BoxError>> + Send>>
    + Send
    + Sync;

/// The credentials that sign a token, and their region.
///
/// `Debug` shows none of these fields.
#[derive(Clone)]
#[non_exhaustive]
pub struct AwsCredentials {
    /// `AWS_ACCESS_KEY_ID`.
    pub access_key_id: String,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret_access_key: String,
    /// `AWS_SESSION_TOKEN`. All credentials have one, except those of an IAM user.
    pub session_token: Option<String>,
    /// `AWS_REGION`.
    pub region: String,
}

/// The name (not the address) of an ElastiCache cache or user. ElastiCache stores names in lower case.
#[derive(Clone, PartialEq, Eq)]
pub struct IamName(String);

/// Why an [`IamName`] was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name as ElastiCache gives them: a letter, then letters, digits and hyphens")]
pub struct InvalidIamName;

impl IamName {
    /// Parses a name and converts it to lower case.
    pub fn parse(text: &str) -> Result<Self, InvalidIamName> {
        let is_name = text.starts_with(|first: char| first.is_ascii_alphabetic())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if is_name { Ok(Self(text.to_ascii_lowercase())) } else { Err(InvalidIamName) }
    }
}

impl fmt::Debug for IamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The name may be a user's, which no log may show.
        f.debug_struct("IamName").finish_non_exhaustive()
    }
}

impl AwsCredentials {
    /// Credentials without a session token.
    #[must_use]
    pub fn new(
        access_key_id: impl Into<String>,
        secret_access_key: impl Into<String>,
        region: impl Into<String>,
    ) -> Self {
        Self {
            access_key_id: access_key_id.into(),
            secret_access_key: secret_access_key.into(),
            session_token: None,
            region: region.into(),
        }
    }

    /// Adds the session token of temporary credentials.
    #[must_use]
    pub fn with_session_token(mut self, token: impl Into<String>) -> Self {
        self.session_token = Some(token.into());
        self
    }

    /// Reads the credentials of a Lambda function from its environment; pass a function such as `std::env::var`.
    ///
    /// `Err`: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` or `AWS_REGION` is not set.
    pub fn from_lookup<E>(
        lookup: impl Fn(&'static str) -> Result<String, E>,
    ) -> Result<Self, MissingVariable> {
        let variable = |name| lookup(name).map_err(|_| MissingVariable(name));
        Ok(Self {
            access_key_id: variable("AWS_ACCESS_KEY_ID")?,
            secret_access_key: variable("AWS_SECRET_ACCESS_KEY")?,
            session_token: lookup("AWS_SESSION_TOKEN").ok(),
            region: variable("AWS_REGION")?,
        })
    }
}

/// A required environment variable is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not set")]
pub struct MissingVariable(&'static str);

impl fmt::Debug for AwsCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsCredentials").finish_non_exhaustive()
    }
}

impl fmt::Debug for IamSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IamSettings")
            .field("is_serverless", &self.is_serverless)
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

impl IamSettings {
    /// Signs in as `user` to `cache`, a serverless cache unless [`without_serverless`] says otherwise.
    ///
    /// The store calls `provider` for each new connection, so that it can renew expiring credentials.
    ///
    /// ```
    /// use response_boost::{AwsCredentials, IamName, IamSettings};
    ///
    /// let (user, cache) = (IamName::parse("app")?, IamName::parse("my-cache")?);
    /// let iam = IamSettings::new(user, cache, async || {
    ///     Ok(AwsCredentials::from_lookup(|name| std::env::var(name))?)
    /// });
    /// # Ok::<(), response_boost::InvalidIamName>(())
    /// ```
    ///
    /// [`without_serverless`]: Self::without_serverless
    #[must_use]
    pub fn new<F>(
        user: IamName,
        cache: IamName,
        provider: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<AwsCredentials, BoxError>> + Send + 'static,
    {
        let provider = Arc::new(move || Box::pin(provider()) as Pin<Box<_>>);
        Self { user, cache, is_serverless: true, service: "elasticache", provider }
    }

    /// The cache is a replication group of nodes and not serverless. The signature covers this.
    #[must_use]
    pub fn without_serverless(mut self) -> Self {
        self.is_serverless = false;
        self
    }

    /// The cache is a `MemoryDB` cluster: the signature names another service, and it is never serverless.
    #[must_use]
    pub fn for_memorydb(mut self) -> Self {
        (self.is_serverless, self.service) = (false, "memorydb");
        self
    }

    /// The user to sign in as.
    pub(super) fn user(&self) -> &str {
        &self.user.0
    }

    /// Signs a new token.
    pub(super) async fn token(&self) -> Result<String, RedisError> {
        let failed = |what, error: BoxError| {
            RedisError::from((ErrorKind::AuthenticationFailed, what, error.to_string()))
        };
        let provided = (self.provider)().await;
        let credentials = provided.map_err(|error| failed("no AWS credentials", error))?;
        self.sign(credentials, SystemTime::now())
            .map_err(|error| failed("the token could not be signed", error))
    }

    fn sign(&self, credentials: AwsCredentials, time: SystemTime) -> Result<String, BoxError> {
        let AwsCredentials { access_key_id, secret_access_key, session_token, region } =
            credentials;
        let mut url = Url::parse(&format!("http://{}/", self.cache.0))?;
        url.query_pairs_mut().append_pair("Action", "connect").append_pair("User", self.user());
        if self.is_serverless {
            url.query_pairs_mut().append_pair("ResourceType", "ServerlessCache");
        }

        let mut settings = SigningSettings::default();
        settings.signature_location = SignatureLocation::QueryParams;
        settings.expires_in = Some(EXPIRES_IN);
        let name = "response-boost";
        let identity =
            Credentials::new(access_key_id, secret_access_key, session_token, None, name).into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&region)
            .name(self.service)
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
        let nobody = async || Err::<AwsCredentials, BoxError>("nobody is asked".into());
        let serverless = IamSettings::new(name(user), name(cache), nobody);
        if is_serverless { serverless } else { serverless.without_serverless() }
    }

    /// The parameters of a token, in any order and with any escaping.
    fn parts(token: &str) -> (String, BTreeMap<String, String>) {
        let url = Url::parse(&format!("http://{token}")).unwrap();
        assert_eq!(url.path(), "/");
        (url.host_str().unwrap().to_owned(), url.query_pairs().into_owned().collect())
    }

    /// The first expectation is the one in AWS's own examples. An independent implementation, the signer of botocore
    /// (`SigV4QueryAuth`, service `elasticache`), produces all of them from the same input.
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
            let mut credentials = AwsCredentials::new(key, secret, region);
            if let Some(session) = session {
                credentials = credentials.with_session_token(session);
            }
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(time);
            let signed = iam(user, cache, is_serverless).sign(credentials, time).unwrap();
            assert_eq!(parts(&signed), parts(token));
        }
    }

    #[test]
    fn a_token_of_memorydb_is_for_another_service() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_722_600_710);
        let credentials = AwsCredentials::new("accessKey", "secretKey", "eu-west-1");
        let signed =
            iam("user123", "my-cache", true).for_memorydb().sign(credentials, time).unwrap();
        // Produced by a script that follows AWS's documentation of Signature Version 4 and reproduces the token above
        // for ElastiCache.
        let token = "my-cache/?Action=connect&User=user123&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=accessKey%2F20240802%2Feu-west-1%2Fmemorydb%2Faws4_request&X-Amz-Date=20240802T121150Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Signature=1d84f42519a157c62107a4470cf2ce20e4126cf8b7e4f9f4f20567138b7ebc4b";
        assert_eq!(parts(&signed), parts(token));
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
        let credentials =
            AwsCredentials::new("alice", "alice", "alice").with_session_token("alice");
        let shown = format!("{:?} {credentials:?}", iam("alice", "alice", true));
        assert!(!shown.contains("alice"), "{shown}");
    }
}
