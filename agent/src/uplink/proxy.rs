//! Through an HTTP proxy to the server: CONNECT (RFC 9110, 9.3.6). The proxy sees the server's
//! address and encrypted bytes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use forebay_config::agent::Proxy;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::line::shown;

/// A proxy's answer has no reason to be longer; its page, if any, is not read.
const LONGEST_ANSWER: usize = 16 << 10;

/// Asks the proxy at the other end of `stream` for a tunnel to `server` (`host:port`). The words of
/// an error are for people.
pub async fn tunnel<S>(stream: &mut S, proxy: &Proxy, server: &str) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Proxy { address, user } = proxy;
    let credentials = user.as_ref().map_or_else(String::new, |(name, password)| {
        let pair = BASE64.encode(format!("{name}:{}", password.reveal()));
        format!("Proxy-Authorization: Basic {pair}\r\n")
    });
    let request = format!("CONNECT {server} HTTP/1.1\r\nHost: {server}\r\n{credentials}\r\n");
    let asked = async {
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        head(stream).await
    };
    let head = asked.await.map_err(|error| format!("the proxy {address} hung up: {error}"))?;
    match status(&head) {
        Some(200..=299) => Ok(()),
        Some(407) if user.is_some() => Err(format!(
            "the proxy {address} does not accept the user name and password of uplink.proxy (407)"
        )),
        Some(407) => Err(format!(
            "the proxy {address} wants a user name and password (407): uplink.proxy = \"http://user:password@{address}\""
        )),
        Some(403) => Err(format!("the proxy {address} does not let us reach {server} (403)")),
        Some(status @ (502..=504)) => Err(format!("the proxy {address} cannot reach {server} ({status})")),
        Some(status) => Err(format!("the proxy {address} refuses ({status})")),
        None => Err(format!("{address} is no HTTP proxy: it answers {:?}", shown(&first_line(&head)))),
    }
}

/// Reads up to the empty line and not a byte more: what follows belongs to TLS.
async fn head<S: AsyncRead + Unpin>(stream: &mut S) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(256);
    while !head.ends_with(b"\r\n\r\n") && head.len() < LONGEST_ANSWER {
        // Byte by byte: it happens once a connection, and nothing has to be given back.
        head.push(stream.read_u8().await?);
        if head.len() == 5 && head != b"HTTP/" {
            break;
        }
    }
    Ok(head)
}

/// The status of a whole answer.
fn status(head: &[u8]) -> Option<u16> {
    let head = head.strip_suffix(b"\r\n\r\n")?;
    let line = first_line(head);
    let mut words = line.split(' ');
    words.next()?.strip_prefix("HTTP/1.")?;
    words.next()?.parse().ok().filter(|status| (100..600).contains(status))
}

fn first_line(head: &[u8]) -> String {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    String::from_utf8_lossy(line).into_owned()
}

#[cfg(test)]
mod tests {
    use forebay_config::units::Secret;

    use super::*;

    async fn ask(user: Option<(&str, &str)>, answer: &'static [u8]) -> (Result<(), String>, String, Vec<u8>) {
        let (mut near, mut far) = tokio::io::duplex(64 << 10);
        let user = user.map(|(name, password)| (name.to_owned(), Secret::new(password)));
        let proxy = Proxy { address: "10.0.0.1:3128".into(), user };
        let peer = async {
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(far.read_u8().await.unwrap());
            }
            far.write_all(answer).await.unwrap();
            drop(far);
            String::from_utf8(asked).unwrap()
        };
        let (result, asked) = tokio::join!(tunnel(&mut near, &proxy, "forebay.example:8443"), peer);
        let mut rest = Vec::new();
        near.read_to_end(&mut rest).await.unwrap();
        (result, asked, rest)
    }

    #[tokio::test]
    async fn a_proxy_is_asked_in_its_own_words_and_the_bytes_behind_its_answer_are_left_alone() {
        let (result, asked, rest) =
            ask(None, b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nTLS").await;
        assert_eq!((result, rest.as_slice()), (Ok(()), &b"TLS"[..]));
        assert_eq!(asked, "CONNECT forebay.example:8443 HTTP/1.1\r\nHost: forebay.example:8443\r\n\r\n");
        let (result, asked, _) = ask(Some(("Aladdin", "open sesame")), b"HTTP/1.0 200 OK\r\n\r\n").await;
        assert_eq!(result, Ok(()));
        // The example of RFC 7617, 2.
        assert!(asked.contains("\r\nProxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n"), "{asked}");
    }

    #[tokio::test]
    async fn a_refusal_says_what_to_do_and_never_the_password() {
        let user = Some(("u", "hunter2"));
        let table: [(_, &'static [u8], &str); 8] = [
            (
                None,
                b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
                "wants a user name and password (407)",
            ),
            (user, b"HTTP/1.1 407 No\r\n\r\n", "does not accept the user name and password"),
            (user, b"HTTP/1.1 403 Forbidden\r\n\r\n", "does not let us reach forebay.example:8443"),
            (user, b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "cannot reach forebay.example:8443 (502)"),
            (user, b"HTTP/1.1 500 x\r\n\r\n", "refuses (500)"),
            (user, b"SSH-2.0-OpenSSH_9.2\r\n", "is no HTTP proxy"),
            (user, b"HTTP/1.1 many\r\n\r\n", "is no HTTP proxy"),
            (user, b"HTTP/1.1 200 OK\r\n", "hung up"),
        ];
        for (user, answer, words) in table {
            let said = ask(user, answer).await.0.unwrap_err();
            assert!(said.contains(words) && said.contains("10.0.0.1:3128"), "{said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
    }

    #[tokio::test]
    async fn an_endless_answer_ends() {
        const ENDLESS: &[u8] = &[b'H'; 5];
        let long: &'static [u8] =
            Box::leak([b"HTTP/", [b'x'; LONGEST_ANSWER].as_slice()].concat().into_boxed_slice());
        for answer in [ENDLESS, long] {
            assert!(ask(None, answer).await.0.unwrap_err().contains("is no HTTP proxy"));
        }
    }
}
