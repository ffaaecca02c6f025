//! The command line. `serve` hands over to `app`; every other command prints what this program
//! knows by itself or asks a running server over HTTP, and touches neither service, broker nor store.

mod access;
mod apply;
mod bench;
mod client;
mod context;
mod dlq;
mod doctor;
mod http;
mod message;
mod output;
mod peek;
mod queue;
mod receive;
mod send;
mod token;
mod watch;
mod work;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use hyper::Method;

use crate::config::{self, Config, Override, Overrides};
use crate::http::rest::openapi;
use crate::{app, postgres, telemetry};

use self::http::Server;

/// A server that takes longer to say that it is alive is not.
const HEALTH_LIMIT: Duration = Duration::from_secs(5);

/// A message queue over HTTP, on PostgreSQL.
#[derive(Parser)]
#[command(
    name = "towpath",
    version,
    arg_required_else_help = true,
    after_help = "\
Examples:
  towpath serve                              start everything, with nothing configured
  towpath queue create letters               make a queue
  towpath send orders 'hello'                send a message
  towpath receive orders                     receive it, and delete it
  towpath work orders -- ./handle-order      run a command for each message
  towpath token --scope \"send receive\"       print a token for an application
  towpath config show --origin               what is in force, and who said so

Durations are written as 30s, 5m or 4d. What is printed is a table on a terminal and JSON lines
elsewhere. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 something must be
installed."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a server
    #[command(after_help = "\
Examples:
  towpath serve
  towpath serve --listen 0.0.0.0:9324 --set access.allowed_ips=10.0.0.0/8
  DATABASE_URL=postgres://towpath@db/towpath towpath serve

Without a database URL, Towpath runs a PostgreSQL of its own in the data directory. Every setting
is also a variable, TOWPATH_<SECTION>_<KEY>; `towpath config show` lists the settings.")]
    Serve(Settings),

    /// Create, change, watch and remove queues
    #[command(subcommand, after_help = queue::EXAMPLES)]
    Queue(queue::Command),

    /// Send messages
    #[command(after_help = send::EXAMPLES)]
    Send(send::Arguments),

    /// Receive messages, print them and delete them
    #[command(after_help = receive::EXAMPLES)]
    Receive(receive::Arguments),

    /// Run a command for each message
    #[command(after_help = work::EXAMPLES)]
    Work(work::Arguments),

    /// Look at messages without receiving them
    #[command(after_help = peek::EXAMPLES)]
    Peek(peek::Arguments),

    /// Print messages as they arrive, without receiving them
    #[command(after_help = peek::TAIL_EXAMPLES)]
    Tail(peek::TailArguments),

    /// Write a queue's messages as lines of JSON, without receiving them
    #[command(after_help = peek::DUMP_EXAMPLES)]
    Dump(peek::DumpArguments),

    /// Send what `dump` wrote
    #[command(after_help = send::LOAD_EXAMPLES)]
    Load(send::LoadArguments),

    /// Look after dead letters
    #[command(subcommand, after_help = dlq::EXAMPLES)]
    Dlq(dlq::Command),

    /// Move messages from one queue to another
    #[command(after_help = dlq::MOVE_EXAMPLES)]
    Mv(dlq::Move),

    /// Make queues as a file says
    #[command(after_help = apply::EXAMPLES)]
    Apply(apply::Arguments),

    /// Print queues as a file for `apply`
    #[command(after_help = apply::EXPORT_EXAMPLES)]
    Export(apply::ExportArguments),

    /// Say whether queues are within limits, for monitoring
    #[command(after_help = watch::CHECK_EXAMPLES)]
    Check(watch::CheckArguments),

    /// Watch what queues hold
    #[command(after_help = watch::TOP_EXAMPLES)]
    Top(watch::TopArguments),

    /// Find out what is wrong, and what to do
    #[command(after_help = doctor::EXAMPLES)]
    Doctor(doctor::Arguments),

    /// Give servers names
    #[command(subcommand, after_help = context::EXAMPLES)]
    Context(context::Command),

    /// Look at the configuration
    #[command(
        subcommand,
        after_help = "\
Example:
  towpath config show --origin"
    )]
    Config(ConfigCommand),

    /// Print a token for an application
    #[command(after_help = token::EXAMPLES)]
    Token(token::Arguments),

    /// Measure a running server, and check that it loses and repeats nothing
    #[command(after_help = bench::EXAMPLES)]
    Bench(bench::Arguments),

    /// Ask a server whether it is alive, for container health checks: exit code 0 or 1
    #[command(after_help = "\
Example:
  towpath healthcheck --url http://127.0.0.1:9324")]
    Healthcheck(Target),

    /// Bring the database's schema up to date, as `serve` does when it starts
    #[command(after_help = "\
Examples:
  towpath migrate
  towpath migrate --check
  towpath migrate --database-url postgres://towpath@db/towpath

With --check nothing is changed, and the exit code is 1 when something is missing.")]
    Migrate {
        /// Only say what is missing
        #[arg(long)]
        check: bool,
        #[command(flatten)]
        settings: Settings,
    },

    /// Print what completes commands in a shell
    #[command(after_help = "\
Examples:
  towpath completion bash > towpath.bash
  towpath completion zsh > _towpath
  towpath completion fish > towpath.fish")]
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },

    /// Print the OpenAPI document of the REST API
    #[command(after_help = "\
Examples:
  towpath openapi > openapi.json
  towpath openapi --version 3.0              for generators that read nothing newer")]
    Openapi {
        /// Version of OpenAPI
        #[arg(long, value_enum, default_value_t)]
        version: OpenapiVersion,
    },

    #[command(hide = true)]
    InternalPostgres {
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },

    #[command(hide = true)]
    InternalEcho,

    #[command(hide = true)]
    InternalBaseline,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Print what is in force as TOML, secrets masked
    #[command(after_help = "\
Examples:
  towpath config show
  towpath config show --origin
  TOWPATH_LOG_FILTER=debug towpath config show --set broker.ack_batch=512 --origin")]
    Show {
        /// Say where each value came from
        #[arg(long)]
        origin: bool,
        #[command(flatten)]
        settings: Settings,
    },
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum OpenapiVersion {
    #[default]
    #[value(name = "3.1")]
    V3_1,
    #[value(name = "3.0")]
    V3_0,
}

/// The flags that set the configuration.
#[derive(Args)]
struct Settings {
    #[arg(
        long,
        value_name = "FILE",
        help = "Configuration file [env: TOWPATH_CONFIG] [default: towpath/towpath.toml in the user's configuration directory]"
    )]
    config: Option<PathBuf>,
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        help = "Address and port to listen on [env: TOWPATH_SERVER_LISTEN]"
    )]
    listen: Option<String>,
    #[arg(
        long,
        value_name = "URL",
        help = "PostgreSQL to use; the variable hides a password from other users [env: DATABASE_URL]"
    )]
    database_url: Option<String>,
    #[arg(
        long,
        value_name = "DIRECTORY",
        help = "Directory of the administrator's token and of the managed PostgreSQL [env: TOWPATH_DATA_DIR]"
    )]
    data_dir: Option<String>,
    #[arg(
        long,
        value_name = "SECTION.KEY=VALUE",
        value_parser = parse_setting,
        help = "Any setting, such as broker.append_batch=256; may be repeated"
    )]
    set: Vec<(String, String)>,
}

impl Settings {
    /// A flag with a name of its own wins over `--set`, which is read first.
    fn overrides(self) -> Overrides {
        let pairs = self.set.into_iter().map(|(key, value)| Override {
            key,
            value,
            flag: "--set",
        });
        let named = [
            ("server.listen", self.listen, "--listen"),
            ("database.url", self.database_url, "--database-url"),
            ("data.dir", self.data_dir, "--data-dir"),
        ];
        let named = named.into_iter().filter_map(|(key, value, flag)| {
            let (key, value) = (key.to_owned(), value?);
            Some(Override { key, value, flag })
        });
        Overrides {
            file: self.config,
            set: pairs.chain(named).collect(),
        }
    }
}

/// Which server a command talks to.
#[derive(Args)]
struct Target {
    #[arg(
        long,
        value_name = "URL",
        help = "Where the server is [env: TOWPATH_URL] [default: where one of this configuration listens]"
    )]
    url: Option<Server>,
    #[arg(
        long,
        value_name = "FILE",
        help = "The server's configuration file [env: TOWPATH_CONFIG]"
    )]
    config: Option<PathBuf>,
}

impl Target {
    /// The server.
    ///
    /// # Errors
    /// The variable or the configuration is not valid.
    fn server(&self) -> Result<Server, config::Error> {
        if let Some(url) = &self.url {
            return Ok(url.clone());
        }
        if let Some(url) = config::client_url()? {
            return url.parse().map_err(|rule| config::Error::Invalid {
                setting: url,
                origin: "environment variable TOWPATH_URL".to_owned(),
                rule,
            });
        }
        let overrides = Overrides {
            file: self.config.clone(),
            set: Vec::new(),
        };
        let listen = Config::load(&overrides)?.config.server.listen;
        Ok(Server::at(app::reachable(listen)))
    }
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("must be SECTION.KEY=VALUE, such as log.filter=debug")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

/// Parses this process's arguments and does what they say, printing results to `out`.
///
/// Wrong arguments, `--help` and `--version` end the process here, as clap does it.
///
/// # Errors
/// What failed, for the caller to print and to turn into an exit code.
pub fn run(out: &mut impl Write) -> anyhow::Result<()> {
    match perform(Cli::parse().command, out) {
        Err(error) if error.is::<output::Closed>() => Ok(()),
        done => done,
    }
}

fn perform(command: Command, out: &mut impl Write) -> anyhow::Result<()> {
    match command {
        Command::Serve(settings) => {
            let loaded = Config::load(&settings.overrides())?;
            telemetry::init(&loaded.config.log)?;
            for warning in &loaded.warnings {
                tracing::warn!("{warning}");
            }
            app::serve(loaded)
        }
        Command::Config(ConfigCommand::Show { origin, settings }) => {
            let loaded = Config::load(&settings.overrides())?;
            for warning in &loaded.warnings {
                writeln!(std::io::stderr(), "warning: {warning}")?;
            }
            Ok(out.write_all(loaded.show(origin).as_bytes())?)
        }
        Command::Queue(command) => queue::run(command, out),
        Command::Send(arguments) => send::run(arguments, out),
        Command::Receive(arguments) => receive::run(arguments, out),
        Command::Work(arguments) => work::run(arguments),
        Command::Peek(arguments) => peek::run(arguments, out),
        Command::Tail(arguments) => peek::tail(arguments, out),
        Command::Dump(arguments) => peek::dump(arguments, out),
        Command::Load(arguments) => send::load(arguments, out),
        Command::Context(command) => context::run(command, out),
        Command::Dlq(command) => dlq::run(command, out),
        Command::Mv(arguments) => dlq::mv(arguments, out),
        Command::Apply(arguments) => apply::run(&arguments, out),
        Command::Export(arguments) => apply::export(&arguments, out),
        Command::Check(arguments) => watch::check(arguments, out),
        Command::Top(arguments) => watch::top(arguments, out),
        Command::Doctor(arguments) => doctor::run(&arguments, out),
        Command::Migrate { check, settings } => migrate(check, settings, out),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "towpath", &mut script);
            output::print(out, &String::from_utf8_lossy(&script))
        }
        Command::Token(arguments) => token::run(arguments, out),
        Command::Bench(arguments) => bench::run(arguments, out),
        Command::Healthcheck(target) => healthcheck(&target.server()?),
        Command::Openapi { version } => {
            let document = match version {
                OpenapiVersion::V3_1 => openapi::document(),
                OpenapiVersion::V3_0 => openapi::document_3_0(),
            };
            Ok(out.write_all(document.as_bytes())?)
        }
        Command::InternalPostgres { arguments } => {
            Err(postgres::exec_with_parent(arguments)).context("cannot become PostgreSQL")
        }
        Command::InternalEcho => bench::serve_echo(out),
        Command::InternalBaseline => bench::serve_baseline(out),
    }
}

fn migrate(only_check: bool, settings: Settings, out: &mut impl Write) -> anyhow::Result<()> {
    let missing = app::migrate(Config::load(&settings.overrides())?, only_check)?;
    if missing.is_empty() {
        return output::print(out, "the schema is up to date\n");
    }
    let names = missing.join(", ");
    if only_check {
        return Err(Exit::with(
            1,
            format!("not applied yet: {names}; run `towpath migrate`"),
        )
        .into());
    }
    output::print(out, &format!("applied: {names}\n"))
}

fn healthcheck(server: &Server) -> anyhow::Result<()> {
    let answer = block_on(async {
        let asked = server.call(Method::GET, "/healthz", None, None);
        let answered = tokio::time::timeout(HEALTH_LIMIT, asked).await;
        answered.with_context(|| format!("{server} did not answer within {HEALTH_LIMIT:?}"))?
    })?;
    ensure!(
        answer.status.is_success(),
        "{server} answered {}",
        answer.status
    );
    Ok(())
}

/// The command line asks for what is not possible.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(String);

impl Usage {
    fn new(rule: impl Into<String>) -> Self {
        Self(rule.into())
    }
}

/// The end of a command that says something by its exit code.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Exit {
    /// The code.
    pub code: u8,
    text: String,
}

impl Exit {
    fn with(code: u8, text: String) -> Self {
        Self { code, text }
    }
}

/// Runs a command's few requests on this thread.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?
        .block_on(work)
}
