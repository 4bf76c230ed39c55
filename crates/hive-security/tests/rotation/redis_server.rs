//! A real Redis, and users who may do what a service does.

use std::time::{Duration, Instant};

use hive_dev::redis::Redis;
use hive_security::SecretJson;
use hive_security::credentials::Credential;
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, Client, RedisResult};
use secrecy::ExposeSecret;
use serde_json::json;
use tempfile::TempDir;

use crate::postgres::username;
use crate::rotation::Users;

/// The server and its administrator.
pub(crate) struct Cache {
    pub(crate) root: MultiplexedConnection,
    /// Whether users may ask who is connected, and end connections.
    pub(crate) may_list: bool,
    server: Redis,
    _directory: TempDir,
}

impl Cache {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let program = hive_dev::tools::program("redis-server")
            .expect("`cargo xtask real` has made redis-server");
        let server = Redis::start(&program, directory.path()).await.expect("Redis starts");
        let url = format!(
            "redis://{}:{}@{}:{}",
            server.username,
            server.password.expose_secret(),
            server.host,
            server.port
        );
        let root = Client::open(url).expect("an address");
        let root = root.get_multiplexed_async_connection().await.expect("it lets us in");
        Self { root, may_list: true, server, _directory: directory }
    }

    /// Its address, without a login.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}:{}", self.server.host, self.server.port)
    }

    /// Host, port, its administrator, and that one's password.
    pub(crate) fn administrator(&self) -> (&str, u16, &str, &str) {
        let server = &self.server;
        (&server.host, server.port, &server.username, server.password.expose_secret())
    }

    pub(crate) fn client(&self) -> Client {
        Client::open(self.url()).expect("an address")
    }

    /// The users whom the test created and nobody removed.
    pub(crate) async fn users(&self) -> Vec<String> {
        let users: RedisResult<Vec<String>> =
            redis::cmd("ACL").arg("USERS").query_async(&mut self.root.clone()).await;
        let mut users = users.expect("the administrator may ask");
        users.retain(|user| user != "default");
        users
    }

    /// Waits until nobody is connected but this user and the administrator.
    pub(crate) async fn only_connections_of(&self, user: Option<&Credential>) {
        let name = user.map(username).unwrap_or_default();
        let allowed = ["user=default".to_owned(), format!("user={name}")];
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let list: RedisResult<String> =
                redis::cmd("CLIENT").arg("LIST").query_async(&mut self.root.clone()).await;
            let list = list.expect("the administrator may ask");
            let is_allowed =
                |line: &str| line.split(' ').any(|field| allowed.iter().any(|a| a == field));
            if list.lines().all(is_allowed) {
                return;
            }
            assert!(Instant::now() < deadline, "somebody stays connected: {list}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn count(&self, key: &str) -> u64 {
        let count: Option<u64> = self.root.clone().get(key).await.expect("a number");
        count.unwrap_or_default()
    }

    pub(crate) async fn stop(self) {
        drop(self.root);
        self.server.stop().await;
    }
}

impl Users for Cache {
    async fn create(&self, generation: u64) -> Credential {
        let password = format!("p{:032x}", rand::random::<u128>());
        let user = format!("u{generation}");
        let mut command = redis::cmd("ACL");
        command.arg("SETUSER").arg(&user).arg("on").arg(format!(">{password}"));
        command.arg("~*").arg("&*").arg("+@all").arg("-@dangerous");
        if self.may_list {
            command.arg("+client|list").arg("+client|kill");
        }
        let made: RedisResult<()> = command.query_async(&mut self.root.clone()).await;
        made.expect("the administrator may make users");
        let data = SecretJson::new(json!({ "username": user, "password": password }));
        Credential::new("cache", generation, data)
    }

    async fn revoke(&self, credential: &Credential) {
        let mut command = redis::cmd("ACL");
        command.arg("DELUSER").arg(username(credential));
        let gone: RedisResult<u64> = command.query_async(&mut self.root.clone()).await;
        assert_eq!(gone.expect("the administrator may remove users"), 1);
    }
}
