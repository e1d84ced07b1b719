//! How AWS is reached: credentials, region and HTTPS, for all that needs them.
//!
//! They are found as all AWS tools find them, when they are first needed: most functions that only
//! ever hit, and all that use neither IAM nor DynamoDB, never do.

use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::provider::ProvideCredentials as _;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use response_boost::AwsCredentials;
use tokio::sync::OnceCell;

/// What a client of an AWS service is made from. What finds the credentials knows itself when to look
/// again.
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

/// What an IAM token is signed with.
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

/// An error of the SDK and all that led to it, in one line; its own text is only the last of these.
pub fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
