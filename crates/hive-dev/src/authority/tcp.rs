//! The Workload API on loopback TCP. TCP names no process, but the kernel's table of connections names the socket at
//! the other end, and `/proc` the process that holds it.
//!
//! A connection that several processes hold is nobody's, and so is one of a process whose files may not be listed.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::net::{TcpListener, TcpStream};

use super::process::Process;
use super::socket::{Caller, Door};

impl Door for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _) = Self::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn caller(&self, stream: &TcpStream) -> Option<Caller> {
        let (theirs, ours) = (stream.peer_addr().ok()?, stream.local_addr().ok()?);
        // Every process of the machine is looked at: that takes a moment.
        tokio::task::spawn_blocking(move || find(theirs, ours)).await.ok().flatten()
    }
}

/// The process whose end of the connection is at `theirs`.
fn find(theirs: SocketAddr, ours: SocketAddr) -> Option<Caller> {
    let (uid, inode) = socket(theirs, ours)?;
    let link = format!("socket:[{inode}]");
    let holder = only_holder(&link)?;
    let process = Process::open(holder).ok()?;
    // Looked at again now that the process is held on to: the number may have been used again in between.
    let gid = effective_group(holder)?;
    (holds(holder, &link) && process.is_running()).then(|| Caller::new(Some(process), uid, gid))
}

/// Owner and inode of the socket at the other end.
fn socket(theirs: SocketAddr, ours: SocketAddr) -> Option<(u32, u64)> {
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    tables.into_iter().find_map(|table| {
        let text = fs::read_to_string(table).ok()?;
        text.lines().skip(1).find_map(|line| parse_row(line, theirs, ours))
    })
}

/// proc_net_tcp(5): the addresses are fields 1 and 2, the owner is field 7, the inode is field 9.
fn parse_row(line: &str, theirs: SocketAddr, ours: SocketAddr) -> Option<(u32, u64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let is = |field: usize, address| {
        fields.get(field).is_some_and(|text| spellings(address).iter().any(|one| one == text))
    };
    if !is(1, theirs) || !is(2, ours) {
        return None;
    }
    Some((fields.get(7)?.parse().ok()?, fields.get(9)?.parse().ok()?))
}

/// How the kernel writes an address: words in the machine's own order. One of IPv4 may be in either table.
fn spellings(address: SocketAddr) -> Vec<String> {
    let word = |bytes: &[u8]| {
        let word: [u8; 4] = bytes.try_into().expect("four bytes");
        format!("{:08X}", u32::from_ne_bytes(word))
    };
    let write = |bytes: &[u8]| {
        let words: String = bytes.chunks(4).map(word).collect();
        format!("{words}:{:04X}", address.port())
    };
    match address.ip() {
        IpAddr::V4(ip) => vec![write(&ip.octets()), write(&ip.to_ipv6_mapped().octets())],
        IpAddr::V6(ip) => vec![write(&ip.octets())],
    }
}

/// The process that has the socket open, if it is exactly one.
fn only_holder(link: &str) -> Option<u32> {
    let numbers = fs::read_dir("/proc").ok()?.flatten();
    let pids = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut holders = pids.filter(|pid| holds(*pid, link));
    let found = holders.next()?;
    holders.next().is_none().then_some(found)
}

fn holds(pid: u32, link: &str) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let is = |path| fs::read_link(path).is_ok_and(|found| found.as_os_str() == link);
    files.flatten().any(|file| is(file.path()))
}

/// proc_pid_status(5): real, effective, saved, and that of the file system.
fn effective_group(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Gid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_row_is_ours_only_if_both_ends_are() {
        let row = "  3: 0100007F:A3D2 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 20 4 30 10 -1";
        let (theirs, ours) = (address("127.0.0.1:41938"), address("127.0.0.1:8080"));
        assert_eq!(parse_row(row, theirs, ours), Some((1000, 4711)));
        assert_eq!(parse_row(row, ours, theirs), None);
        assert_eq!(parse_row(row, address("127.0.0.2:41938"), ours), None);
        assert_eq!(parse_row("", theirs, ours), None);
        let mapped = "0000000000000000FFFF00000100007F:1F90";
        assert!(spellings(ours).iter().any(|one| one == mapped));
        assert_eq!(spellings(address("[::1]:8080")), ["00000000000000000000000001000000:1F90"]);
    }

    #[test]
    fn a_connection_of_this_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
        let ours = listener.local_addr().expect("bound");
        let client = std::net::TcpStream::connect(ours).expect("it listens");
        let caller = find(client.local_addr().expect("connected"), ours).expect("it is ours");
        let this = Process::open(std::process::id()).expect("it runs");
        assert_eq!(caller.process.map(|process| process.key()), Some(this.key()));
        assert_eq!(
            (caller.uid, caller.gid),
            (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
        );
    }
}
