//! The limit: one read of the Runtime API, one Redis GET, one write of the Runtime API, by blocking
//! sockets and without any library. It understands just as much of HTTP and of RESP as it is told here.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

fn main() -> io::Result<()> {
    let variable = |name| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let mut lambda = BufReader::new(connect(&variable("AWS_LAMBDA_RUNTIME_API"))?);
    let redis_url = variable("REDIS_URL");
    let mut redis = BufReader::new(connect(redis_url.trim_start_matches("redis://"))?);
    let key = variable("KEY");
    let get = format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len());
    let (mut line, mut event, mut body, mut reply) =
        (String::new(), Vec::new(), Vec::new(), Vec::new());
    loop {
        lambda.get_mut().write_all(
            b"GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nhost: lambda\r\n\r\n",
        )?;
        let id = message(&mut lambda, &mut line, &mut event)?;

        redis.get_mut().write_all(get.as_bytes())?;
        line.clear();
        redis.read_line(&mut line)?;
        let length = line.trim_start_matches('$').trim_end().parse().map_err(io::Error::other)?;
        body.resize(length, 0);
        redis.read_exact(&mut body)?;
        redis.read_exact(&mut [0; 2])?;

        reply.clear();
        reply.extend_from_slice(
            br#"{"statusCode":200,"headers":{"content-type":"application/json"},"body":""#,
        );
        for &byte in &body {
            if byte == b'"' || byte == b'\\' {
                reply.push(b'\\');
            }
            reply.push(byte);
        }
        reply.extend_from_slice(br#"","isBase64Encoded":false}"#);
        let mut post = format!(
            "POST /2018-06-01/runtime/invocation/{id}/response HTTP/1.1\r\nhost: lambda\r\n\
             content-length: {}\r\n\r\n",
            reply.len(),
        )
        .into_bytes();
        post.append(&mut reply);
        lambda.get_mut().write_all(&post)?;
        reply = post;
        message(&mut lambda, &mut line, &mut event)?;
    }
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Reads an answer of the Runtime API, and gives the id of its invocation if it has one.
fn message(
    from: &mut BufReader<TcpStream>,
    line: &mut String,
    body: &mut Vec<u8>,
) -> io::Result<String> {
    let (mut length, mut id) = (0, String::new());
    loop {
        line.clear();
        if from.read_line(line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match line.trim_end().split_once(": ") {
            Some(("content-length", value)) => length = value.parse().map_err(io::Error::other)?,
            Some(("lambda-runtime-aws-request-id", value)) => value.clone_into(&mut id),
            _ if line == "\r\n" => break,
            _ => {}
        }
    }
    body.resize(length, 0);
    from.read_exact(body)?;
    Ok(id)
}
