//! What SPIRE reads at start: the smallest configuration, with short intervals so that tests need not wait.

use std::path::Path;

/// The kernel takes socket paths of up to 107 bytes.
const SOCKET_PATH_MAX: usize = 107;

pub(super) fn write(directory: &Path, trust_domain: &str, port: u16, bundle_port: u16) {
    let at = |name: &str| directory.join(name).display().to_string();
    let longest = at("server.sock").len();
    assert!(longest <= SOCKET_PATH_MAX, "{} is too long for a socket", directory.display());
    let server = server(trust_domain, port, bundle_port, &at);
    let agent = agent(trust_domain, port, &at);
    for (name, text) in [("server.conf", server), ("agent.conf", agent)] {
        std::fs::write(directory.join(name), text).expect("a file");
    }
    std::fs::create_dir(directory.join("agent")).expect("a directory");
    std::fs::create_dir(directory.join("server")).expect("a directory");
}

fn server(trust_domain: &str, port: u16, bundle_port: u16, at: &impl Fn(&str) -> String) -> String {
    let (data, keys) = (at("server"), at("server/keys.json"));
    let (socket, database) = (at("server.sock"), at("server/datastore.sqlite3"));
    format!(
        r#"
server {{
  bind_address = "127.0.0.1"
  bind_port = "{port}"
  trust_domain = "{trust_domain}"
  data_dir = "{data}"
  socket_path = "{socket}"
  log_level = "WARN"
  agent_ttl = "1h"
  federation {{
    bundle_endpoint {{
      address = "127.0.0.1"
      port = {bundle_port}
      profile "https_spiffe" {{}}
    }}
  }}
  experimental {{ cache_reload_interval = "1s" }}
}}
plugins {{
  DataStore "sql" {{
    plugin_data {{
      database_type = "sqlite3"
      connection_string = "{database}"
    }}
  }}
  KeyManager "disk" {{ plugin_data {{ keys_path = "{keys}" }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
}}
"#
    )
}

fn agent(trust_domain: &str, port: u16, at: &impl Fn(&str) -> String) -> String {
    let (data, socket) = (at("agent"), at("agent.sock"));
    // Workloads are told apart by their path; hashing test programs of 100 MB would take seconds.
    format!(
        r#"
agent {{
  trust_domain = "{trust_domain}"
  server_address = "127.0.0.1"
  server_port = {port}
  data_dir = "{data}"
  socket_path = "{socket}"
  insecure_bootstrap = true
  log_level = "DEBUG"
  experimental {{ sync_interval = "1s" }}
}}
plugins {{
  KeyManager "disk" {{ plugin_data {{ directory = "{data}" }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  WorkloadAttestor "unix" {{
    plugin_data {{
      discover_workload_path = true
      workload_size_limit = -1
    }}
  }}
}}
"#
    )
}
