//! A server that is a script on a socket of its own.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::{Arc, Mutex};

use secrecy::SecretString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::vault::{VaultClient, VaultConfig};

pub(crate) const TOKEN: &str = "s.token-of-a-test";
pub(crate) const SECRET: &str = "s3cr3t-of-a-test";

/// A server that answers each request as a function says.
pub(crate) struct Script {
    pub(crate) address: String,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Script {
    pub(crate) async fn serve(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (heard, answer) = (Arc::<Mutex<Vec<String>>>::default(), Arc::new(answer));
        let hearing = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(talk(stream, Arc::clone(&answer), Arc::clone(&hearing)));
            }
        });
        Self { address, heard }
    }

    pub(crate) async fn saying(answer: Vec<u8>) -> Self {
        Self::serve(move |_| answer.clone()).await
    }

    pub(crate) fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    /// The requests whose first line holds this.
    pub(crate) fn count(&self, part: &str) -> usize {
        let first = |text: &String| text.lines().next().is_some_and(|line| line.contains(part));
        self.heard().iter().filter(|text| first(text)).count()
    }

    /// The bodies of the requests whose first line holds this.
    pub(crate) fn bodies(&self, part: &str) -> Vec<String> {
        let body = |text: &String| {
            let first = text.lines().next().is_some_and(|line| line.contains(part));
            first.then(|| text.split_once("\r\n\r\n").unwrap().1.to_owned())
        };
        self.heard().iter().filter_map(body).collect()
    }

    pub(crate) fn client(&self) -> VaultClient {
        VaultClient::new(VaultConfig::at(&self.address)).unwrap()
    }
}

pub(crate) async fn talk(
    mut stream: TcpStream,
    answer: Arc<impl Fn(&str) -> Vec<u8>>,
    heard: Arc<Mutex<Vec<String>>>,
) {
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while !is_whole(&text) {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => text.push_str(&String::from_utf8_lossy(&buffer[..count])),
        }
    }
    heard.lock().unwrap().push(text.clone());
    let _ = stream.write_all(&answer(&text)).await;
    let _ = stream.shutdown().await;
}

/// Whether a request has come with its body.
fn is_whole(text: &str) -> bool {
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    length.is_none_or(|length| body.len() >= length.parse().unwrap())
}

pub(crate) fn answer(status: u16, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} Said\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}"
    )
    .into_bytes()
}

pub(crate) fn json_answer(status: u16, body: &str) -> Vec<u8> {
    answer(status, "content-type: application/json\r\n", body)
}

pub(crate) fn token() -> SecretString {
    SecretString::from(TOKEN)
}
