//! A cable between Vault and its database, which can be pulled while users of the database notice nothing.

use std::net::{Ipv4Addr, TcpListener as Bound};
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone)]
pub(crate) struct Cable {
    pub(crate) port: u16,
    is_whole: Arc<watch::Sender<bool>>,
}

impl Cable {
    /// To a port of this machine.
    pub(crate) fn to(port: u16) -> Self {
        let bound = Bound::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback can be listened on");
        bound.set_nonblocking(true).expect("a socket");
        let own = bound.local_addr().expect("it is bound").port();
        let listener = TcpListener::from_std(bound).expect("a runtime");
        let is_whole = Arc::new(watch::Sender::new(true));
        tokio::spawn(carry(listener, port, Arc::clone(&is_whole)));
        Self { port: own, is_whole }
    }

    pub(crate) fn pull(&self) {
        self.is_whole.send_replace(false);
    }

    pub(crate) fn plug_in(&self) {
        self.is_whole.send_replace(true);
    }
}

async fn carry(listener: TcpListener, port: u16, is_whole: Arc<watch::Sender<bool>>) {
    while let Ok((mut near, _)) = listener.accept().await {
        let mut whole = is_whole.subscribe();
        tokio::spawn(async move {
            let carried = async {
                let mut far = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
                copy_bidirectional(&mut near, &mut far).await
            };
            // One way or the other the connection ends here.
            tokio::select! {
                _ = whole.wait_for(|whole| !*whole) => {}
                _ = carried => {}
            }
        });
    }
}
