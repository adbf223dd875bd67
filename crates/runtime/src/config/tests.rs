//! Absurd configurations, and what is said about them.

use super::*;

const GOOD: &str = r#"
cluster = "000102030405060708090a0b0c0d0e0f"
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

[[peers]]
id = 3
name = "gamma"
address = "[fd00::3]:7400"

[[mounts]]
path = "/mnt/gavel"
options = ["sync", "ro"]

[tuning]
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/etc/gavel/gavel.toml"))
}

#[test]
fn a_good_config_is_understood() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.data_dir, Path::new("/etc/gavel/data"));
    assert_eq!(config.control_socket, Path::new("/etc/gavel/data/control.sock"));
    assert_eq!(config.trust, TrustPaths::in_dir(Path::new("/etc/gavel/trust")));
    assert_eq!(config.mounts[0].options, [MountOption::ReadOnly, MountOption::Sync]);
    assert_eq!(config.mounts[0].volume, VolumeId::FIRST.into());
    assert_eq!(config.tuning, Tuning::default());
    assert_eq!(config.peer_addresses().len(), 3);
    config.transport_limits().check().unwrap();
}

#[test]
fn what_is_written_is_read_again() {
    let mut config = parse(GOOD).unwrap();
    config.tuning.term_ms = 9_000;
    assert_eq!(parse(&config.to_toml()).unwrap(), config);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gavel.toml");
    config.save(&path).unwrap();
    config.save(&path).unwrap();
    assert_eq!(Config::load(&path).unwrap(), config);
}

#[test]
fn every_range_is_consistent_with_the_transports_limits() {
    for (dial, silence) in [(DIAL_TIMEOUT_MS.start(), SILENCE_MS.start()), (DIAL_TIMEOUT_MS.end(), SILENCE_MS.end())] {
        let text = format!("{GOOD}dial_timeout_ms = {dial}\nsilence_ms = {silence}\n");
        parse(&text).unwrap().transport_limits().check().unwrap();
    }
}

/// (the fault, text of the good config, what stands there instead)
const ABSURD: &[(&str, &str, &str)] = &[
    ("empty file", GOOD, ""),
    ("not toml", GOOD, "cluster = [\n"),
    ("misspelt key", "data_dir =", "datadir ="),
    ("misspelt tunable", "[tuning]", "[tuning]\nelection_msec = 5"),
    ("missing node", "node = 1\n", ""),
    ("text for a number", "node = 1\n", "node = \"one\"\n"),
    ("negative node", "node = 1\n", "node = -1\n"),
    ("short cluster id", "cluster = \"0001", "cluster = \""),
    ("node zero", "node = 1\n", "node = 0\n"),
    ("self not among the peers", "node = 1\n", "node = 4\n"),
    (
        "no peers at all",
        GOOD,
        "cluster = \"000102030405060708090a0b0c0d0e0f\"\nnode = 1\nname = \"a\"\ndata_dir = \"d\"\nlisten = \"1.2.3.4:5\"\n",
    ),
    ("another name than among the peers", "node = 1\nname = \"alpha\"", "node = 1\nname = \"omega\""),
    ("a name with a slash", "name = \"beta\"", "name = \"../beta\""),
    ("duplicate peer id", "id = 2", "id = 3"),
    ("duplicate peer name", "\"beta\"", "\"gamma\""),
    ("duplicate peer address", "beta.example:7400", "10.0.0.1:7400"),
    ("peer port 0", "beta.example:7400", "beta.example:0"),
    ("peer without port", "beta.example:7400", "beta.example"),
    ("peer port too large", "beta.example:7400", "beta.example:70000"),
    ("peer address of nobody", "10.0.0.1:7400", "0.0.0.0:7400"),
    ("peer address with too many numbers", "10.0.0.1:7400", "10.0.0.1.5:7400"),
    ("listen port 0", "0.0.0.0:7400", "0.0.0.0:0"),
    ("listen on a name", "0.0.0.0:7400", "localhost:7400"),
    ("empty data_dir", "data_dir = \"data\"", "data_dir = \"\""),
    (
        "control socket too long",
        "listen =",
        "control_socket = \"/run/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.sock\"\nlisten =",
    ),
    ("mount over the data", "/mnt/gavel", "/etc/gavel"),
    ("mount inside the data", "/mnt/gavel", "data/mnt"),
    ("mount of a volume without a name", "path = \"/mnt/gavel\"", "path = \"/mnt/gavel\"\nvolume = \"a/b\""),
    ("mount of volume 0", "path = \"/mnt/gavel\"", "path = \"/mnt/gavel\"\nvolume = 0"),
    ("unknown mount option", "\"sync\", \"ro\"", "\"sync\", \"rw,fast\""),
    ("one mount point twice", "[tuning]", "[[mounts]]\npath = \"/mnt//gavel/.\"\n[tuning]"),
    ("heartbeat of zero", "[tuning]", "[tuning]\nheartbeat_ms = 0"),
    ("negative term", "[tuning]", "[tuning]\nterm_ms = -5000"),
    ("term of a day", "[tuning]", "[tuning]\nterm_ms = 86400000"),
    ("number beyond all numbers", "[tuning]", "[tuning]\nterm_ms = 99999999999999999999"),
    ("election below 3 heartbeats", "[tuning]", "[tuning]\nelection_ms = 200"),
    ("term below 2 elections", "[tuning]", "[tuning]\nterm_ms = 1500"),
    ("inline beyond a record", "[tuning]", "[tuning]\ninline_bytes_max = 16385"),
    ("several at once", "node = 1\n", "node = 0\ncontrol_socket = \"\"\n"),
];

/// Compares with `absurd.txt`; GAVEL_UPDATE_SNAPSHOTS=1 writes it anew.
#[test]
fn absurd_configs_are_refused_in_these_words() {
    let mut said = String::new();
    for (fault, good, bad) in ABSURD {
        assert!(GOOD.contains(good), "{fault}: nothing was replaced");
        let error = parse(&GOOD.replacen(good, bad, 1)).expect_err(fault).to_string();
        assert!(error.contains("Hint: "), "{fault}: no hint in {error}");
        said.push_str(&format!("## {fault}\n{error}\n\n"));
    }
    let path = Path::new(file!()).with_file_name("absurd.txt");
    if std::env::var_os("GAVEL_UPDATE_SNAPSHOTS").is_some() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/absurd.txt");
        std::fs::write(here, &said).unwrap();
        return;
    }
    assert!(said == include_str!("absurd.txt"), "{} differs; now it is:\n{said}", path.display());
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none.toml");
    assert!(matches!(Config::load(&path), Err(ConfigError::Read { path: named, .. }) if named == path));
    assert!(matches!(Config::load(dir.path()), Err(ConfigError::Read { .. })));
    std::fs::write(&path, b"name = \"\xff\"").unwrap();
    assert!(matches!(Config::load(&path), Err(ConfigError::Syntax { .. })));
    std::fs::write(&path, vec![b'#'; 2 * 1024 * 1024]).unwrap();
    assert!(matches!(Config::load(&path), Err(ConfigError::Read { .. })));
}

#[test]
fn directories_that_cannot_be_used_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let path = dir.path().join("gavel.toml");
    let with = |data: &str, control: &str, mount: &str| {
        let text = GOOD
            .replacen("data_dir = \"data\"", &format!("data_dir = {data:?}\ncontrol_socket = {control:?}"), 1)
            .replacen("/mnt/gavel", mount, 1);
        Config::parse(&text, &path).unwrap().prepare(&path)
    };
    std::fs::create_dir(dir.path().join("mnt")).unwrap();
    with("data", "run/c.sock", "mnt").unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("data")).unwrap().count(), 0, "the probe was left behind");
    let keys = |result: Result<(), ConfigError>| match result {
        Err(ConfigError::Invalid { problems, .. }) => problems.into_iter().map(|p| p.key).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(keys(with("file", "c.sock", "mnt")), ["data_dir"]);
    assert_eq!(keys(with("file/below", "c.sock", "mnt")), ["data_dir"]);
    // Root may write anywhere on a disk, but nobody here.
    assert_eq!(keys(with("/proc/gavel", "c.sock", "mnt")), ["data_dir"]);
    assert_eq!(keys(with("data", "file/c.sock", "mnt")), ["control_socket"]);
    assert_eq!(keys(with("data", "c.sock", "file")), ["mounts[0].path"]);
    assert_eq!(keys(with("data", "c.sock", "nowhere")), ["mounts[0].path"]);
}

proptest::proptest! {
    #[test]
    fn arbitrary_text_never_panics(text: String) {
        let _ = parse(&text);
    }

    #[test]
    fn arbitrary_values_never_panic(node: u64, name: String, listen: String, address: String, ms: i64) {
        let text = GOOD
            .replace("node = 1\n", &format!("node = {node}\n"))
            .replace("\"gamma\"", &toml::Value::from(name).to_string())
            .replace("\"0.0.0.0:7400\"", &toml::Value::from(listen).to_string())
            .replace("\"beta.example:7400\"", &toml::Value::from(address).to_string());
        let _ = parse(&format!("{text}term_ms = {ms}\n"));
    }
}
