//! The program as a stranger meets it: its help, its exit codes, and what it prints where.

mod bench;
mod comparisons;
mod completion;
mod dead_letters;
mod definitions;
mod examples;
mod fake;
mod looking;
mod queues;
mod sends;
mod served;
mod watching;
mod work;

use std::process::{Command, Output};

use serde_json::json;

use self::fake::{ADMIN_TOKEN, Fake, Fault};

/// The program in an environment of nothing but what a test gives it.
fn towpath(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_towpath"))
        .args(arguments)
        .env_clear()
        .env("HOME", "/nonexistent")
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

#[track_caller]
fn assert_exit(output: &Output, code: i32) {
    let (out, err) = (stdout(output), stderr(output));
    assert_eq!(
        output.status.code(),
        Some(code),
        "stdout: {out}\nstderr: {err}"
    );
}

/// All commands that help lists, with those below them: `""`, `queue`, `queue ls`, and so on.
fn commands() -> Vec<String> {
    let mut commands = vec![String::new()];
    let mut next = 0;
    while let Some(command) = commands.get(next).cloned() {
        next += 1;
        let help = help(&command);
        let listed = help.split("Commands:\n").nth(1).unwrap_or_default();
        let names = listed
            .lines()
            .take_while(|line| !line.is_empty())
            .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
            .filter(|name| !["", "help"].contains(name));
        let below: Vec<_> = names
            .map(|name| format!("{command} {name}").trim_start().to_owned())
            .collect();
        commands.extend(below);
    }
    commands
}

fn help(command: &str) -> String {
    let mut arguments = Vec::from_iter(command.split_whitespace());
    arguments.push("--help");
    let output = towpath(&arguments, &[]);
    assert_exit(&output, 0);
    stdout(&output).to_owned()
}

#[test]
fn every_command_explains_itself_with_examples() {
    let commands = commands();
    assert!(commands.iter().any(|command| command == "queue create"));
    for command in commands {
        let help = help(&command);
        assert!(help.contains("\nExample"), "{command}");
        let name = format!("help {command}").trim_end().replace(' ', "_");
        insta::assert_snapshot!(name, help);
    }
}

#[test]
fn usage_and_configuration_errors_exit_with_2() {
    for (arguments, variables) in [
        (&["serve", "--nonsense"][..], &[][..]),
        (&["serve", "--set", "broker.append_batch"][..], &[][..]),
        (&["serve", "--set", "broker.append_batch=0"][..], &[][..]),
        (&["bench", "--batch", "1001"][..], &[][..]),
        (&["healthcheck", "--url", "https://localhost"][..], &[][..]),
        (
            &["config", "show", "--config", "/nonexistent/file"][..],
            &[][..],
        ),
        (
            &["config", "show"][..],
            &[("TOWPATH_SERVER_LISTEN", "x")][..],
        ),
    ] {
        let output = towpath(arguments, variables);
        assert_exit(&output, 2);
        assert_eq!(stdout(&output), "");
        assert!(
            stderr(&output).starts_with("error: "),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn an_error_is_printed_with_its_causes() {
    let output = towpath(&["config", "show", "--config", "/nonexistent/file"], &[]);
    let expected = "error: cannot read /nonexistent/file\n  cause: No such file or directory";
    assert!(stderr(&output).starts_with(expected), "{}", stderr(&output));
}

#[test]
fn config_show_tells_origins_and_hides_the_password() {
    let output = towpath(
        &["config", "show", "--origin", "--listen", "127.0.0.1:1"],
        &[
            ("DATABASE_URL", "postgres://app:hunter2@db/towpath"),
            ("TOWPATH_SERVER_LISTEN", "127.0.0.1:2"),
            ("TOWPATH_DATA_DIR", "/srv/towpath"),
        ],
    );
    assert_exit(&output, 0);
    for line in [
        "listen = \"127.0.0.1:1\"  # flag --listen",
        "url = \"postgres://app:***@db/towpath\"  # environment variable DATABASE_URL",
        "dir = \"/srv/towpath\"  # environment variable TOWPATH_DATA_DIR",
    ] {
        assert!(stdout(&output).contains(line), "{}", stdout(&output));
    }
    assert!(!stdout(&output).contains("hunter2"));
}

#[test]
fn openapi_prints_a_document_of_the_version_that_is_wanted() {
    for (arguments, version) in [
        (&["openapi"][..], "3.1.0"),
        (&["openapi", "--version", "3.0"][..], "3.0.3"),
    ] {
        let output = towpath(arguments, &[]);
        assert_exit(&output, 0);
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["openapi"], version);
    }
    assert_exit(&towpath(&["openapi", "--version", "2.0"], &[]), 2);
}

#[test]
fn healthcheck_tells_a_living_server_from_none() {
    let fake = Fake::start(Fault::None);
    let url = fake.url();
    assert_exit(&towpath(&["healthcheck"], &[("TOWPATH_URL", &url)]), 0);
    drop(fake);
    let output = towpath(&["healthcheck", "--url", &url], &[]);
    assert_exit(&output, 1);
    let expected = format!("error: cannot reach a server at {url}; start one with `towpath serve`");
    assert!(
        stderr(&output).starts_with(&expected),
        "{}",
        stderr(&output)
    );
}

#[test]
fn healthcheck_asks_where_the_configuration_listens_unless_told_otherwise() {
    let fake = Fake::start(Fault::None);
    let port = fake.address.port().to_string();
    let (local, everywhere) = (fake.address.to_string(), format!("0.0.0.0:{port}"));
    for variable in [
        ("TOWPATH_SERVER_LISTEN", &local),
        ("TOWPATH_SERVER_LISTEN", &everywhere),
        ("PORT", &port),
    ] {
        let (name, value) = variable;
        let output = towpath(&["healthcheck"], &[(name, value), ("TOWPATH_URL", "")]);
        assert_exit(&output, 0);
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("[server]\nlisten = \"{local}\"\n")).unwrap();
    let path = file.path().to_str().unwrap();
    assert_exit(&towpath(&["healthcheck", "--config", path], &[]), 0);
    let output = towpath(&["healthcheck"], &[("TOWPATH_URL", "nonsense")]);
    assert_exit(&output, 2);
    assert!(
        stderr(&output).contains("TOWPATH_URL"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn healthcheck_gives_up_on_a_server_that_says_nothing() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let output = towpath(&["healthcheck", "--url", &url], &[]);
    assert_exit(&output, 1);
    let expected = format!("error: {url} did not answer within 5s");
    assert!(
        stderr(&output).starts_with(&expected),
        "{}",
        stderr(&output)
    );
}

#[test]
fn config_show_warns_of_variables_that_set_nothing() {
    let output = towpath(
        &["config", "show"],
        &[("TOWPATH_CONFIG", ""), ("TOWPATH_LOG_FITLER", "debug")],
    );
    assert_exit(&output, 0);
    let expected = "warning: the environment variable TOWPATH_LOG_FITLER sets nothing; \
                    did you mean TOWPATH_LOG_FILTER?\n";
    assert_eq!(stderr(&output), expected);
}

#[test]
fn token_prints_the_token_and_nothing_else() {
    let fake = Fake::start(Fault::None);
    let data = tempfile::tempdir().unwrap();
    std::fs::write(data.path().join("admin.token"), format!("{ADMIN_TOKEN}\n")).unwrap();
    let (url, data_dir) = (fake.url(), data.path().to_str().unwrap());
    let (here, there) = (["--url", &url], ["--data-dir", data_dir]);
    let wishes = [
        "--subject",
        "shop",
        "--scope",
        "send receive",
        "--lifetime",
        "2h",
    ];

    let arguments = [&["token"][..], &here, &there, &wishes].concat();
    let output = towpath(&arguments, &[]);
    assert_exit(&output, 0);
    assert_eq!((stdout(&output), stderr(&output)), ("issued.to.you\n", ""));
    let output = towpath(
        &["token"],
        &[("TOWPATH_URL", &url), ("TOWPATH_TOKEN", ADMIN_TOKEN)],
    );
    assert_exit(&output, 0);

    let asked = json!({ "subject": "shop", "lifetime_seconds": 7200, "scope": "send receive" });
    let plain = json!({ "subject": "developer" });
    let bodies: Vec<_> = fake.requests().into_iter().map(|(_, body)| body).collect();
    assert_eq!(bodies, [asked, plain]);
}

#[test]
fn token_says_what_is_missing_or_refused() {
    let fake = Fake::start(Fault::None);
    let (url, data) = (fake.url(), tempfile::tempdir().unwrap());
    let data_dir = data.path().to_str().unwrap();
    let output = towpath(&["token", "--url", &url, "--data-dir", data_dir], &[]);
    assert_exit(&output, 1);
    assert!(stderr(&output).contains("admin.token does not exist; start a server"));

    let output = towpath(&["token", "--url", &url], &[("TOWPATH_TOKEN", "wrong")]);
    assert_exit(&output, 1);
    let expected = "error: the server answered 401 Unauthorized: the token is not one of ours; \
                    code unauthorized; request r1\n";
    assert_eq!(stderr(&output), expected);
}
