//! A Redis behind TLS: with the right certificate, and with wrong ones.

/// In a module, so that `make test` can leave it out by name if the redis-server has no TLS.
mod tls {
    use std::time::Duration;

    use rcgen::{CertificateParams, date_time_ymd};

    use crate::support::STORED;
    use crate::support::lambda::{BY_DEFAULT, Function, command};
    use test_peers::Folder;
    use test_peers::proxy::{Mode, Proxy};
    use test_peers::redis::free_port;
    use test_peers::tls::{Ca, TlsServer};

    async fn function(url: &str, ca_file: &str) -> Function {
        Function::start(&[("REDIS_URL", url), ("REDIS_TLS_CA_FILE", ca_file)]).await
    }

    /// Asserts that the response is correct and the log says what is wrong with the certificate.
    async fn assert_refused(url: &str, ca_file: &str, reason: &str) {
        let function = function(url, ca_file).await;
        let reply = function.get("/users/1").await;
        reply.assert_correct();
        assert_eq!(reply.cache_status(), "response-boost; fwd=bypass; detail=redis-error");
        function.output_with(reason, 1).await;
    }

    #[tokio::test]
    async fn answers_are_kept_over_one_encrypted_connection() {
        let server = TlsServer::good().await;
        let function = function(&server.url(), server.ca_file()).await;
        assert_eq!(function.get("/users/1").await.cache_status(), STORED);
        for _ in 0..20 {
            let reply = function.get("/users/1").await;
            assert!(reply.cache_status().contains("; hit; "), "{}", reply.cache_status());
        }
        let clients: String = server.redis.command(&["CLIENT", "LIST"]);
        assert_eq!(clients.lines().count(), 2, "this one and the function's:\n{clients}");
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_is_opened_again() {
        let server = TlsServer::good().await;
        let function = function(&server.url(), server.ca_file()).await;
        function.get_until_hit("/users/1").await;
        for _ in 0..5 {
            server.redis.command::<u64>(&["CLIENT", "KILL", "TYPE", "normal"]);
            let reply = function.get("/users/1").await;
            assert!(reply.cache_status().contains("; hit; "), "{}", reply.cache_status());
        }
    }

    #[tokio::test]
    async fn user_and_password_go_with_it() {
        let server = TlsServer::good().await;
        server.redis.command::<()>(&["ACL", "SETUSER", "cache", "on", ">p@ss", "~*", "+@all"]);
        let url = server.url().replace("://", "://cache:p%40ss@");
        let function = function(&url, server.ca_file()).await;
        assert_eq!(function.get("/users/1").await.cache_status(), STORED);
        let clients: String = server.redis.command(&["CLIENT", "LIST"]);
        assert!(clients.contains("user=cache"), "{clients}");
    }

    #[tokio::test]
    async fn a_certificate_of_another_ca_is_refused() {
        let (server, other) = (TlsServer::good().await, TlsServer::good().await);
        assert_refused(&server.url(), other.ca_file(), "UnknownIssuer").await;
        // The public roots do not include this CA either.
        assert_refused(&server.url(), "", "UnknownIssuer").await;
    }

    #[tokio::test]
    async fn a_certificate_for_another_name_is_refused() {
        let server = TlsServer::start(&["cache.example"], |_| (), &[]).await;
        assert_refused(&server.url(), server.ca_file(), "not valid for name").await;
    }

    #[tokio::test]
    async fn an_expired_certificate_is_refused() {
        let expired = |params: &mut CertificateParams| {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        };
        let server = TlsServer::start(&["localhost"], expired, &[]).await;
        assert_refused(&server.url(), server.ca_file(), "xpired").await;
    }

    #[tokio::test]
    async fn a_port_without_tls_is_told_from_one_with_it() {
        let server = TlsServer::good().await;
        let plain = format!("rediss://localhost:{}", server.redis.port());
        let variables = [("REDIS_URL", &*plain), ("REDIS_TLS_CA_FILE", server.ca_file())];
        let function = Function::start(&[&variables[..], &BY_DEFAULT].concat()).await;
        let reply = function.get("/users/1").await;
        reply.assert_correct();
        assert_eq!(reply.cache_status(), "response-boost; fwd=bypass; detail=redis-timeout");
        function.output_with("does the port speak TLS?", 1).await;
    }

    #[tokio::test]
    async fn a_handshake_slower_than_a_request_waits_serves_those_after_it() {
        let server = TlsServer::good().await;
        let proxy = Proxy::before(server.tls_port).await;
        // Each of the server's flights takes longer than a request may wait in total.
        proxy.set(Mode::Late(Duration::from_millis(400)));
        let url = format!("rediss://localhost:{}", proxy.port());
        let function = Function::start(&[
            ("REDIS_URL", &url),
            ("REDIS_TLS_CA_FILE", server.ca_file()),
            ("REDIS_CONNECT_TIMEOUT_MS", "100"),
        ])
        .await;
        let reply = function.get("/users/1").await;
        reply.assert_correct();
        assert_eq!(reply.cache_status(), "response-boost; fwd=bypass; detail=redis-timeout");
        function.get_until_hit("/users/1").await;
        let mut connection = server.redis.connect();
        let received = test_peers::redis::info(&mut connection, "total_connections_received");
        // The fixture's own connections are counted too, but the function must have opened exactly one.
        let clients: String = server.redis.command(&["CLIENT", "LIST"]);
        let of_function = clients.lines().filter(|line| line.contains("cmd=get"));
        assert_eq!(of_function.count(), 1, "{received} so far, now\n{clients}");
    }

    /// A function that signs in with IAM, as a user whom the server accepts with any password. (Unit tests compare
    /// tokens with known ones.)
    async fn iam_function(server: &TlsServer, more: &[(&str, &str)]) -> Function {
        let user = ["ACL", "SETUSER", "cache-user", "on", "nopass", "~*", "+@all"];
        server.redis.command::<()>(&user);
        let url = server.url();
        let variables = [
            ("REDIS_URL", url.as_str()),
            ("REDIS_TLS_CA_FILE", server.ca_file()),
            ("REDIS_IAM_USER", "cache-user"),
            ("REDIS_IAM_CACHE", "my-cache"),
            ("AWS_REGION", "eu-west-1"),
            ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
            ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI"),
        ];
        Function::start(&[&variables, more].concat()).await
    }

    fn assert_signed_in(server: &TlsServer) {
        let clients: String = server.redis.command(&["CLIENT", "LIST"]);
        assert!(clients.contains("user=cache-user"), "{clients}");
    }

    #[tokio::test]
    async fn an_iam_user_signs_in_with_a_token() {
        let server = TlsServer::good().await;
        let more = [("AWS_SESSION_TOKEN", "session-token"), ("RUST_LOG", "trace")];
        let function = iam_function(&server, &more).await;
        assert_eq!(function.get("/users/1").await.cache_status(), STORED);
        assert_signed_in(&server);

        // Each connection signs in with a new token.
        server.redis.command::<u64>(&["CLIENT", "KILL", "TYPE", "normal"]);
        let reply = function.get("/users/1").await;
        assert!(reply.cache_status().contains("; hit; "), "{}", reply.cache_status());

        let output = function.output_with("\n", 1).await;
        for secret in ["wJalrXUtnFEMI", "session-token", "X-Amz-Signature"] {
            let line = output.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "{secret} is in the log");
        }
    }

    /// As on ElastiCache Serverless: TLS, the cluster protocol, IAM.
    #[tokio::test]
    async fn an_iam_user_signs_in_to_a_cluster_behind_tls() {
        let bus_port = free_port().to_string();
        let cluster = ["--cluster-enabled", "yes", "--tls-cluster", "yes"];
        let arguments = [&cluster[..], &["--cluster-port", &bus_port]].concat();
        let server = TlsServer::start(&["localhost", "127.0.0.1"], |_| (), &arguments).await;
        server.redis.command::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
        let function = iam_function(&server, &[("REDIS_CLUSTER", "true")]).await;
        function.get_until_hit("/users/1").await;
        assert_signed_in(&server);
    }

    #[tokio::test]
    async fn iam_without_credentials_is_a_fault_like_others() {
        let server = TlsServer::good().await;
        let url = server.url();
        let function = Function::start(&[
            ("REDIS_URL", &url),
            ("REDIS_TLS_CA_FILE", server.ca_file()),
            ("REDIS_IAM_USER", "cache-user"),
            ("REDIS_IAM_CACHE", "my-cache"),
            ("AWS_REGION", "eu-west-1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ])
        .await;
        let reply = function.get("/users/1").await;
        reply.assert_correct();
        assert!(reply.cache_status().contains("fwd=bypass"), "{}", reply.cache_status());
    }

    #[tokio::test]
    async fn variables_that_do_not_go_together_stop_the_start() {
        let folder = Folder::new();
        let no_pem = folder.write("no.pem", "no certificate");
        let ca_file = folder.write("ca.pem", &Ca::new().pem);
        let tls = ("REDIS_URL", "rediss://localhost");
        let plain = ("REDIS_URL", "redis://localhost");
        for (variables, said) in [
            (
                vec![tls, ("REDIS_TLS_CA_FILE", "/nowhere/ca.pem")],
                "REDIS_TLS_CA_FILE: /nowhere/ca.pem; accepted: a file that can be read",
            ),
            (vec![tls, ("REDIS_TLS_CA_FILE", &no_pem)], "accepted: certificates in PEM form"),
            (vec![plain, ("REDIS_TLS_CA_FILE", &ca_file)], "accepted: only with rediss://"),
            (
                vec![tls, ("REDIS_TLS_CERT_FILE", &ca_file)],
                "accepted: only together with REDIS_TLS_KEY_FILE",
            ),
            (
                vec![tls, ("REDIS_TLS_KEY_FILE", &ca_file)],
                "accepted: only together with REDIS_TLS_CERT_FILE",
            ),
            (
                vec![tls, ("REDIS_TLS_CERT_FILE", &ca_file), ("REDIS_TLS_KEY_FILE", &no_pem)],
                "accepted: a certificate in PEM form, and its private key in PEM form",
            ),
            (
                vec![tls, ("REDIS_IAM_SERVICE", "dynamodb")],
                "REDIS_IAM_SERVICE: dynamodb; accepted: elasticache or memorydb",
            ),
            (
                vec![tls, ("REDIS_IAM_USER", "u")],
                "REDIS_IAM_USER: u; accepted: only together with REDIS_IAM_CACHE",
            ),
            (
                vec![tls, ("REDIS_IAM_CACHE", "c")],
                "REDIS_IAM_CACHE: c; accepted: only together with REDIS_IAM_USER",
            ),
            (
                vec![plain, ("REDIS_IAM_USER", "u"), ("REDIS_IAM_CACHE", "c")],
                "accepted: only with rediss://",
            ),
            (
                vec![tls, ("REDIS_IAM_USER", "1"), ("REDIS_IAM_CACHE", "c")],
                "a letter, then letters",
            ),
            (
                vec![("REDIS_CLUSTER", "yes"), ("WARM_UP", "1")],
                "REDIS_CLUSTER: yes; accepted: true or false",
            ),
        ] {
            let output = command(&variables).output().await.unwrap();
            assert!(!output.status.success());
            let error = String::from_utf8(output.stderr).unwrap();
            assert!(error.contains(said), "{variables:?}: {error}");
        }
    }
}
