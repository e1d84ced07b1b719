//! How AWS is reached: credentials, region and HTTPS, for all that needs them.
//!
//! They are found as all AWS tools find them, when they are first needed: most functions that only
//! ever hit, and all that use neither IAM nor DynamoDB, never do.

use aws_config::{BehaviorVersion, SdkConfig};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use tokio::sync::OnceCell;

/// What a client of an AWS service is made from. What finds the credentials knows itself when to look
/// again.
pub(crate) async fn config() -> &'static SdkConfig {
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
