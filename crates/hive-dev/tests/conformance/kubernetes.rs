//! A Kubernetes API, as far as the logins of its service accounts need one.

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

/// The part of a Kubernetes API that Vault asks: whose token is this?
pub(crate) async fn token_reviews(good: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(review(stream, good));
        }
    });
    address
}

async fn review(stream: tokio::net::TcpStream, good: &str) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let (mut line, mut length) = (String::new(), 0);
    while stream.read_line(&mut line).await? > 2 {
        if let Some(said) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = said.trim().parse().unwrap_or(0);
        }
        line.clear();
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let asked: Value = serde_json::from_slice(&body)?;
    let user = json!({
        "username": "system:serviceaccount:shop:cart", "uid": "1", "groups": ["system:serviceaccounts"],
    });
    let status = match asked["spec"]["token"] == good {
        true => json!({ "authenticated": true, "user": user, "audiences": ["vault"] }),
        false => json!({ "authenticated": false, "error": "it is not good" }),
    };
    let answer = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status,
    });
    let answer = answer.to_string();
    let head = format!(
        "HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        answer.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// Not signed by anybody: whether it is good is for the API to say.
pub(crate) const SERVICE_ACCOUNT: &str = "eyJhbGciOiJSUzI1NiJ9.\
    eyJpc3MiOiJrdWJlcm5ldGVzL3NlcnZpY2VhY2NvdW50Iiwic3ViIjoic3lzdGVtOnNlcnZpY2VhY2NvdW50OnNob3A6Y2FydCIsImt1YmVy\
    bmV0ZXMuaW8iOnsibmFtZXNwYWNlIjoic2hvcCIsInNlcnZpY2VhY2NvdW50Ijp7Im5hbWUiOiJjYXJ0IiwidWlkIjoiMSJ9fX0.AAAA";
