//! How connections are opened, whatever TLS is used.

use deadpool_postgres::{ConfigConnectImpl, Connect};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{CancelToken, Client, Config, Error, Socket};

pub(super) trait Door: Send + Sync {
    /// A client, and the task that carries its connection.
    fn open(&self, config: &Config) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), Error>>;

    /// Asks the server to give up what it does for a connection. Whether it does is not known.
    fn cancel(&self, what: CancelToken) -> BoxFuture<'static, ()>;
}

pub(super) struct WithTls<T>(pub(super) T);

impl<T> Door for WithTls<T>
where
    T: MakeTlsConnect<Socket> + Clone + Sync + Send + 'static,
    T::Stream: Sync + Send,
    T::TlsConnect: Sync + Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    fn open(&self, config: &Config) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), Error>> {
        let (connect, config) = (ConfigConnectImpl { tls: self.0.clone() }, config.clone());
        async move { connect.connect(&config).await }.boxed()
    }

    fn cancel(&self, what: CancelToken) -> BoxFuture<'static, ()> {
        let tls = self.0.clone();
        async move {
            let _ = what.cancel_query(tls).await;
        }
        .boxed()
    }
}
