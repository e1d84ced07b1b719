//! Access to AWS: credentials, region and HTTPS, for everything that needs them.
//!
//! They are found like in all AWS tools, on first use. Functions that use neither IAM nor DynamoDB never look for them,
//! and neither do most environments that only serve hits.

use std::time::{Duration, SystemTime};

use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::provider::ProvideCredentials as _;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::http::HttpConnector as _;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use response_boost::AwsCredentials;
use tokio::sync::OnceCell;

/// The time limit of a [`call`].
const TIME_LIMIT: Duration = Duration::from_secs(15);

/// Why a service was not called, or its error.
pub type CallError = Box<dyn std::error::Error + Send + Sync>;

/// The configuration of AWS clients. Its credentials provider refreshes credentials itself.
pub async fn config() -> &'static SdkConfig {
    static CONFIG: OnceCell<SdkConfig> = OnceCell::const_new();
    CONFIG
        .get_or_init(|| async {
            let https = aws_smithy_http_client::Builder::new()
                .tls_provider(Provider::Rustls(CryptoMode::Ring))
                .build_https();
            aws_config::defaults(BehaviorVersion::latest()).http_client(https).load().await
        })
        .await
}

/// The credentials that sign an IAM token.
pub async fn credentials() -> Result<AwsCredentials, Box<dyn std::error::Error + Send + Sync>> {
    let aws = config().await;
    let region = aws.region().ok_or("no AWS region is set (AWS_REGION)")?;
    let provider = aws.credentials_provider().ok_or("nothing provides AWS credentials")?;
    let found = provider.provide_credentials().await?;
    let credentials =
        AwsCredentials::new(found.access_key_id(), found.secret_access_key(), region.as_ref());
    Ok(match found.session_token() {
        Some(token) => credentials.with_session_token(token),
        None => credentials,
    })
}

/// A successful reply of a service.
#[derive(Debug)]
#[non_exhaustive]
pub struct Answer {
    /// Whether the function that Lambda invoked failed.
    pub is_function_error: bool,
    /// The body.
    pub body: Vec<u8>,
}

/// Calls a service that a process needs only once. An SDK for each such service would enlarge the programs by more than
/// everything else does. It posts `body` to `path`; `target` is the operation, for services that speak JSON.
pub async fn call(
    service: &str,
    path: &str,
    target: Option<&str>,
    body: String,
) -> Result<Answer, CallError> {
    // Boxed: the credentials provider's future is large.
    let asked = Box::pin(post(service, path, target, body));
    let asked = tokio::time::timeout(TIME_LIMIT, asked).await;
    asked.map_err(|_| format!("{service} did not answer within {} s", TIME_LIMIT.as_secs()))?
}

async fn post(
    service: &str,
    path: &str,
    target: Option<&str>,
    body: String,
) -> Result<Answer, CallError> {
    let aws = config().await;
    let region = aws.region().ok_or("no AWS region is set (AWS_REGION)")?;
    let endpoint = match aws.endpoint_url() {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None if region.as_ref().starts_with("cn-") => {
            format!("https://{service}.{region}.amazonaws.com.cn")
        }
        None => format!("https://{service}.{region}.amazonaws.com"),
    };
    let mut request = http::Request::post(format!("{endpoint}{path}"))
        .header("content-type", "application/x-amz-json-1.1");
    if let Some(target) = target {
        request = request.header("x-amz-target", target);
    }
    let mut request = request.body(SdkBody::from(body.clone()))?;

    let provider = aws.credentials_provider().ok_or("nothing provides AWS credentials")?;
    let identity = provider.provide_credentials().await?.into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region.as_ref())
        .name(service)
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()?
        .into();
    let headers = request.headers().iter();
    let headers = headers.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    let url = request.uri().to_string();
    let signable =
        SignableRequest::new("POST", url, headers, SignableBody::Bytes(body.as_bytes()))?;
    let (instructions, _) = sign(signable, &parameters)?.into_parts();
    instructions.apply_to_request_http1x(&mut request);

    let connector = Connector::builder().tls_provider(Provider::Rustls(CryptoMode::Ring)).build();
    let answered = connector.call(request.try_into()?).await?;
    let status = answered.status().as_u16();
    let is_function_error = answered.headers().get("x-amz-function-error").is_some();
    let body = ByteStream::new(answered.into_body()).collect().await?.to_vec();
    if !(200..300).contains(&status) {
        // AWS sends the kind of error and the reason, but no secret.
        let said = String::from_utf8_lossy(&body);
        return Err(format!("{service} answered {status}: {said}").into());
    }
    Ok(Answer { is_function_error, body })
}

/// An SDK error and all its causes, in one line; its own text has only the last of them.
pub fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
