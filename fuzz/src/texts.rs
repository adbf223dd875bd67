//! Configuration, requests on the control socket and their answers, certificates.

use gavel_runtime::config::Config;
use gavel_runtime::host::control::{Reply, Request};
use gavel_runtime::trust::Identity;
use gavel_types::{ClusterId, NodeId, VolumeId};
use std::path::Path;

/// A node's and an authority's certificate, made once by `gavel init`; the keys are gone.
const CERTIFICATES: [&[u8]; 2] = [include_bytes!("../seeds/node.der"), include_bytes!("../seeds/authority.der")];

const CONFIG: &str = r#"
cluster = "07070707070707070707070707070707"
node = 1
name = "alpha"
data_dir = "data"
listen = "0.0.0.0:7400"

[[peers]]
id = 1
name = "alpha"
address = "10.0.0.1:7400"

[[peers]]
id = 2
name = "beta"
address = "beta.example:7400"

[[mounts]]
path = "/mnt/gavel"
options = ["sync", "ro"]

[tuning]
term_ms = 6000
"#;

/// Reads `bytes` as each of them.
///
/// # Panics
/// If a decoder panics, or a value that it accepted does not survive being written and read again.
pub fn run(bytes: &[u8]) -> bool {
    let certified = Identity::of_certificate(bytes).inspect(check_identity).is_ok();
    let Ok(text) = std::str::from_utf8(bytes) else { return certified };
    let named = Identity::parse(text).inspect(check_identity).is_some();
    let asked = serde_json::from_str::<Request>(text).inspect(|request| {
        let again = serde_json::to_string(request).expect("a request that was text is text again");
        assert_eq!(serde_json::from_str::<Request>(&again).ok().as_ref(), Some(request));
    });
    let answered = serde_json::from_str::<Reply>(text);
    certified || named || config(text) || asked.is_ok() || answered.is_ok()
}

fn check_identity(identity: &Identity) {
    assert_eq!(Identity::parse(&identity.to_string()).as_ref(), Some(identity));
}

fn config(text: &str) -> bool {
    let path = Path::new("/etc/gavel/gavel.toml");
    match Config::parse(text, path) {
        Ok(config) => {
            let again = Config::parse(&config.to_toml(), path);
            assert_eq!(again.as_ref().ok(), Some(&config), "{again:?}");
            true
        }
        // What is told to the person must not panic either.
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    }
}

/// One of everything.
pub fn seeds() -> Vec<Vec<u8>> {
    let requests = [
        Request::Status {},
        Request::Mount {
            path: "/mnt/gavel".into(),
            volume: VolumeId::FIRST.into(),
            options: vec!["ro".into()],
            at: Some("2h".into()),
        },
        Request::Umount { path: "/mnt/gavel".into() },
        Request::Stop {},
    ];
    let identity = Identity::Node { cluster: ClusterId([7; 16]), node: NodeId(3) };
    let mut seeds: Vec<Vec<u8>> = CERTIFICATES.iter().map(|der| der.to_vec()).collect();
    seeds.extend(requests.iter().map(|request| serde_json::to_vec(request).expect("a request is text")));
    seeds.push(br#"{"error":"no such mount"}"#.to_vec());
    seeds.push(br#""done""#.to_vec());
    seeds.push(CONFIG.as_bytes().to_vec());
    seeds.push(identity.to_string().into_bytes());
    seeds
}
