//! The configuration tree: layers, refusals, masking, and the default file as documentation.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use towpath::config::{Config, Environment, Error, Loaded, Override, Overrides};

const DEFAULTS: &str = include_str!("../../src/config.default.toml");

fn environment(variables: &[(&str, &str)]) -> Environment {
    let home = [("HOME", "/home/somebody")];
    let variables = home.iter().chain(variables);
    variables
        .map(|(name, value)| ((*name).to_owned(), OsString::from(value)))
        .collect()
}

fn flags(file: Option<&Path>, set: &[(&str, &str)]) -> Overrides {
    let set = set.iter().map(|(key, value)| Override {
        key: (*key).to_owned(),
        value: (*value).to_owned(),
        flag: "--set",
    });
    Overrides {
        file: file.map(Path::to_owned),
        set: set.collect(),
    }
}

fn with_variables(variables: &[(&str, &str)]) -> Result<Loaded, Error> {
    Config::load_from(&Overrides::default(), &environment(variables))
}

fn with_file(text: &str) -> Result<Loaded, Error> {
    let (_directory, path) = file(text);
    Config::load_from(&flags(Some(&path), &[]), &environment(&[]))
}

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("towpath.toml");
    std::fs::write(&path, text).unwrap();
    (directory, path)
}

#[track_caller]
fn refusal(loaded: Result<Loaded, Error>) -> String {
    match loaded {
        Ok(_) => panic!("the configuration was accepted"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_defaults_are_valid() {
    let loaded = with_variables(&[]).unwrap();
    let config = &loaded.config;
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:9324");
    assert_eq!(config.server.request_timeout, Duration::from_secs(30));
    assert_eq!(config.database.url, None);
    assert!(config.data.dir.is_absolute());
    assert!(loaded.warnings.is_empty());
}

#[test]
fn a_flag_beats_a_variable_beats_the_file_beats_the_default() {
    let (_directory, path) = file(
        "[broker]\nappend_batch = 1\nclaim_batch = 1\nack_batch = 1\n[log]\nfilter = \"debug\"\n",
    );
    let environment = environment(&[
        ("TOWPATH_BROKER_APPEND_BATCH", "2"),
        ("TOWPATH_BROKER_CLAIM_BATCH", "2"),
    ]);
    let flags = flags(Some(&path), &[("broker.append_batch", "3")]);
    let loaded = Config::load_from(&flags, &environment).unwrap();
    let broker = &loaded.config.broker;
    let batches = (broker.append_batch, broker.claim_batch, broker.ack_batch);
    assert_eq!(batches, (3, 2, 1));
    assert_eq!(broker.queue_length, 8192);

    let shown = loaded.show(true);
    for line in [
        "append_batch = 3  # flag --set".to_owned(),
        "claim_batch = 2  # environment variable TOWPATH_BROKER_CLAIM_BATCH".to_owned(),
        format!("ack_batch = 1  # file {}", path.display()),
        "queue_length = 8192  # default".to_owned(),
    ] {
        assert!(shown.contains(&line), "{line}\nis not in\n{shown}");
    }
}

#[test]
fn the_users_own_file_is_read_where_there_is_one() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join(".config/towpath");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("towpath.toml"), "[log]\nfilter = \"warn\"\n").unwrap();
    let home = home.path().to_str().unwrap();
    let loaded = with_variables(&[("HOME", home)]).unwrap();
    assert_eq!(loaded.config.log.filter, "warn");
}

#[test]
fn every_key_of_the_default_file_has_a_comment_and_a_variable() {
    let mut section = "";
    let mut commented = false;
    for line in DEFAULTS.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        } else if let Some((key, value)) = line.split_once(" = ").filter(|_| !line.starts_with('#'))
        {
            assert!(commented, "{section}.{key} has no comment");
            let variable = format!("TOWPATH_{section}_{key}").to_uppercase();
            let value = value.trim_matches(['"', '[', ']']);
            let value = if value.is_empty() { "127.0.0.1" } else { value };
            let value = if key == "url" {
                "postgres://h/d"
            } else {
                value
            };
            let loaded = with_variables(&[(&variable, value)]).unwrap();
            let origin = format!("# environment variable {variable}\n");
            assert!(loaded.show(true).contains(&origin), "{variable}");
        }
        commented = line.starts_with('#');
    }
}

#[test]
fn what_is_shown_reads_back_as_the_same_configuration() {
    let first = with_variables(&[("TOWPATH_ACCESS_ALLOWED_IPS", "10.0.0.0/8, ::1")]).unwrap();
    let again = with_file(&first.show(true)).unwrap();
    assert_eq!(first.show(false), again.show(false));
}

#[test]
fn a_refusal_names_the_key_its_origin_and_what_would_be_right() {
    let mut refusals = String::new();
    for (variable, value) in [
        ("TOWPATH_SERVER_LISTEN", "nowhere"),
        ("TOWPATH_SERVER_REQUEST_TIMEOUT", "20s"),
        ("TOWPATH_SERVER_REQUEST_TIMEOUT", "30"),
        ("TOWPATH_SERVER_BODY_TIMEOUT", "30s"),
        ("TOWPATH_SERVER_IDLE_TIMEOUT", "0s"),
        ("TOWPATH_SERVER_MAX_BUFFERED_BYTES", "8388607"),
        ("TOWPATH_SERVER_MAX_CONNECTIONS", "many"),
        ("TOWPATH_SERVER_MAX_CONNECTIONS", "-1"),
        ("TOWPATH_SERVER_MAX_CONNECTIONS", "0"),
        ("TOWPATH_SERVER_MAX_IN_FLIGHT_REQUESTS", "20000"),
        ("TOWPATH_ACCESS_ALLOWED_IPS", "10.0.0.0/8,10.0.0.0/33"),
        ("TOWPATH_ACCESS_TRUSTED_PROXIES", "0.0.0.0/0"),
        ("TOWPATH_ACCESS_TRUSTED_PROXIES", "10.0.0.1,::/0"),
        ("TOWPATH_ACCESS_TOKEN_LIFETIME", "31d"),
        ("TOWPATH_DATABASE_URL", "mysql://root:hunter2@localhost/db"),
        ("TOWPATH_DATABASE_URL", "postgres://root:hunter2@[/db"),
        ("TOWPATH_DATABASE_ALLOW_UNSAFE_DURABILITY", "yes"),
        ("TOWPATH_LOG_FORMAT", "xml"),
        ("TOWPATH_LOG_FILTER", "info,=,="),
        ("PORT", "http"),
    ] {
        let refused = refusal(with_variables(&[(variable, value)]));
        writeln!(refusals, "{refused}").unwrap();
    }
    assert!(!refusals.contains("hunter2"));
    insta::assert_snapshot!(refusals);
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    let mut refusals = String::new();
    for text in [
        "[server]\nlisten_on = \"127.0.0.1:1\"\n",
        "[brokr]\nappend_batch = 1\n",
        "[log]\nwhatever = 1\n",
        "listen = \"127.0.0.1:1\"\n",
        "server = 1\n",
        "[server]\nlisten = { port = 1 }\n",
    ] {
        let refused = refusal(with_file(text));
        let (before, after) = refused.split_once("(file ").unwrap();
        let (_path, after) = after.split_once(')').unwrap();
        writeln!(refusals, "{before}(file …){after}").unwrap();
    }
    insta::assert_snapshot!(refusals);

    let flags = flags(None, &[("sever.listen", "127.0.0.1:1")]);
    let refused = refusal(Config::load_from(&flags, &environment(&[])));
    assert!(
        refused.contains("did you mean `server.listen`?"),
        "{refused}"
    );
}

#[test]
fn an_unknown_variable_is_only_a_warning() {
    let loaded = with_variables(&[
        ("TOWPATH_SERVICE_HOST", "10.0.0.1"),
        ("TOWPATH_URL", "http://127.0.0.1:9324"),
        ("TOWPATH_DATABASE_URL_FILE", ""),
    ])
    .unwrap();
    let expected = "the environment variable TOWPATH_SERVICE_HOST sets nothing";
    assert_eq!(loaded.warnings, [expected]);
    let loaded = with_variables(&[("TOWPATH_SERVER_LISTN", "127.0.0.1:1")]).unwrap();
    let expected = "the environment variable TOWPATH_SERVER_LISTN sets nothing; \
                    did you mean TOWPATH_SERVER_LISTEN?";
    assert_eq!(loaded.warnings, [expected]);
}

#[test]
fn a_syntax_error_names_the_line_and_does_not_quote_it() {
    let refused = refusal(with_file("[database]\nurl = \"postgres://u:hunter2@h/d\n"));
    assert!(refused.contains("line 2"), "{refused}");
    assert!(!refused.contains("hunter2"), "{refused}");
}

#[test]
fn passwords_of_the_database_are_masked() {
    let url = "postgres://app:hunter2@db:5432/towpath?sslmode=require&password=hunter3";
    let loaded = with_variables(&[("DATABASE_URL", url)]).unwrap();
    let database = loaded.config.database.url.as_ref().unwrap();
    assert_eq!(database.expose(), url);
    for shown in [loaded.show(true), format!("{:?}", loaded.config)] {
        assert!(!shown.contains("hunter"), "{shown}");
        assert!(shown.contains("postgres://app:***@db:5432/towpath?sslmode=require"));
    }
}

#[test]
fn what_may_be_a_password_at_an_odd_place_is_refused_or_hidden() {
    for url in [
        "postgres:app:hunter2@db/q",
        "postgres://app:12/hunter2@db/q",
        "postgres://app:12#hunter2@db/q",
    ] {
        let refused = refusal(with_variables(&[("DATABASE_URL", url)]));
        assert!(refused.contains("write / as %2F"), "{refused}");
        assert!(!refused.contains("hunter2"), "{refused}");
    }
    for url in [
        "postgres://db/q?passwd=hunter2&PASSWORD=hunter2&sslkey=hunter2&sslmode=require",
        "postgres://app:12?hunter2@db/q&sslmode=require",
    ] {
        let shown = with_variables(&[("DATABASE_URL", url)]).unwrap().show(true);
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("***&sslmode=require"), "{shown}");
    }
}

#[test]
fn a_users_own_file_that_cannot_be_looked_for_is_an_error() {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join(".config")).unwrap();
    let around = home.path().join(".config/towpath");
    std::os::unix::fs::symlink(&around, &around).unwrap();
    let path = home.path().to_str().unwrap();
    let refused = refusal(with_variables(&[("HOME", path)]));
    assert!(
        refused.contains(".config/towpath/towpath.toml"),
        "{refused}"
    );
    with_variables(&[("HOME", "/dev/null")]).unwrap();
}

#[test]
fn a_variable_may_name_the_file_and_an_empty_one_names_none() {
    let (_directory, path) = file("[log]\nfilter = \"warn\"\n");
    let named = [("TOWPATH_CONFIG", path.to_str().unwrap())];
    let loaded = with_variables(&named).unwrap();
    assert_eq!(loaded.config.log.filter, "warn");
    let loaded = with_variables(&[("TOWPATH_CONFIG", "")]).unwrap();
    assert_eq!(loaded.config.log.filter, "info");
    let flags = flags(Some(Path::new("/nowhere/at/all")), &[]);
    let refused = refusal(Config::load_from(&flags, &environment(&named)));
    assert!(refused.contains("/nowhere/at/all"), "{refused}");
}

#[test]
fn a_secret_is_read_from_the_file_that_its_variable_names() {
    let (_directory, path) = file("postgres://db/towpath\n");
    let path = path.to_str().unwrap();
    for variable in ["DATABASE_URL_FILE", "TOWPATH_DATABASE_URL_FILE"] {
        let loaded = with_variables(&[(variable, path)]).unwrap();
        let url = loaded.config.database.url.unwrap();
        assert_eq!(url.expose(), "postgres://db/towpath");
    }
    let both = [
        ("DATABASE_URL", "postgres://db/x"),
        ("DATABASE_URL_FILE", path),
    ];
    let refused = refusal(with_variables(&both));
    assert!(
        refused.contains("DATABASE_URL and DATABASE_URL_FILE"),
        "{refused}"
    );
    let refused = refusal(with_variables(&[("DATABASE_URL_FILE", "/nowhere/at/all")]));
    assert!(refused.contains("/nowhere/at/all"), "{refused}");
}

#[test]
fn port_keeps_the_address_and_yields_to_the_variable_of_the_key() {
    let loaded = with_variables(&[("PORT", "80")]).unwrap();
    assert_eq!(loaded.config.server.listen.to_string(), "127.0.0.1:80");
    let both = [("PORT", "80"), ("TOWPATH_SERVER_LISTEN", "0.0.0.0:81")];
    let loaded = with_variables(&both).unwrap();
    assert_eq!(loaded.config.server.listen.to_string(), "0.0.0.0:81");
}
