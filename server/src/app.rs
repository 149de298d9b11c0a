//! The life of the process: flags, socket, model, warm step, ready, drain, exit code.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use swiftlm_runtime::request::{Delivery, Event, Request, Sampling};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use crate::bench::bench;
use crate::events::Events;
use crate::flags::{Cli, Command, LogFormat, ServeFlags};
use crate::load::{LoadError, LoadedModel};
use crate::progress::Progress;
use crate::quality::QualityError;
use crate::quality::kv_report::kv_report;
use crate::quality::perplexity::perplexity;
use crate::router::router;
use crate::state::{AppState, Config};
use crate::{absent, commands, signals};

const BAD_FLAGS: u8 = 2;
const PORT_IN_USE: u8 = 3;

/// Why serving ended before it was asked to.
#[derive(Debug, thiserror::Error)]
enum AppError {
    #[error("port {port} of {host} is in use; take another with --port, or 0 for any free one")]
    PortInUse { host: String, port: u16 },
    #[error("cannot listen at {host}:{port}: {error}; correct --host or --port")]
    Listen { host: String, port: u16, error: std::io::Error },
    #[error("cannot read --api-key-file {path}: {error}")]
    KeyFile { path: String, error: std::io::Error },
    #[error("--api-key-file {path} holds no key")]
    NoKey { path: String },
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Quality(#[from] QualityError),
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
    #[error("the warm step failed: {0}")]
    Warm(String),
}

impl AppError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::PortInUse { .. } => PORT_IN_USE,
            Self::Listen { .. } | Self::KeyFile { .. } | Self::NoKey { .. } => BAD_FLAGS,
            Self::Load(error) => error.exit_code(),
            Self::Quality(error) => error.exit_code(),
            Self::System(_) => 1,
            Self::Warm(_) => 4,
        }
    }
}

/// What makes a model of the flags; tests have one of their own.
pub type Loader = fn(&ServeFlags, &Progress) -> Result<LoadedModel, LoadError>;

/// Runs the command line.
pub fn run(arguments: Vec<String>, load: Loader) -> ExitCode {
    let plain = Events::new(LogFormat::Text);
    if let Some(refusal) = absent::refusal(&arguments, |name| std::env::var_os(name).is_some()) {
        plain.exiting(&refusal, BAD_FLAGS);
        return BAD_FLAGS.into();
    }
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output with code 0, the rest to standard error with code 2.
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(BAD_FLAGS).into();
        }
    };
    let (events, result) = match cli.command {
        Some(Command::Bench(flags)) => {
            (plain, bench(&flags, &Progress::new(plain)).map(|text| plain.text(&text)).map_err(AppError::from))
        }
        Some(Command::Perplexity(flags)) => {
            let measured = perplexity(&flags, &Progress::new(plain));
            (plain, measured.map(|text| plain.text(&text)).map_err(AppError::from))
        }
        Some(Command::KvReport(flags)) => {
            let measured = kv_report(&flags, &Progress::new(plain));
            (plain, measured.map(|text| plain.text(&text)).map_err(AppError::from))
        }
        Some(Command::Iobench(flags)) => {
            (plain, commands::iobench(&flags).map(|text| plain.text(&text)).map_err(AppError::from))
        }
        Some(Command::Experts(flags)) => {
            (plain, commands::experts(&flags).map(|text| plain.text(&text)).map_err(AppError::from))
        }
        Some(Command::Pull(flags)) => {
            let pulled = commands::pull(&flags, &Progress::new(plain));
            (plain, pulled.map(|text| plain.text(&text)).map_err(AppError::from))
        }
        Some(Command::Notices) => {
            plain.text(commands::NOTICES);
            (plain, Ok(()))
        }
        Some(Command::Serve(flags)) => start(&flags, load),
        None => start(&cli.serve, load),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            events.exiting(&error.to_string(), error.exit_code());
            error.exit_code().into()
        }
    }
}

fn start(flags: &ServeFlags, load: Loader) -> (Events, Result<(), AppError>) {
    let events = Events::new(flags.process.log_format);
    log(flags);
    if flags.info {
        return (events, crate::load::plan(flags).map(|plan| events.text(&plan)).map_err(AppError::from));
    }
    let result = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(AppError::from);
    let result = result.and_then(|runtime| {
        let result = runtime.block_on(serve(flags, events, load));
        // A loading thread or a stuck client must not hold the process.
        runtime.shutdown_background();
        result
    });
    (events, result)
}

fn log(flags: &ServeFlags) {
    let builder = tracing_subscriber::fmt().with_max_level(flags.process.log_level).with_writer(std::io::stderr);
    // A logger that is already there, as in a test, is as good.
    let _ = match flags.process.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

async fn serve(flags: &ServeFlags, events: Events, load: Loader) -> Result<(), AppError> {
    let started = Instant::now();
    let keys = keys(flags)?;
    let listener = bind(&flags.host, flags.port).await?;
    let address = listener.local_addr()?;
    let progress = Progress::new(events);
    let state = AppState::new(config(flags, keys, address), progress.clone());
    let (stop, stopped) = watch::channel(false);
    let server = tokio::spawn(listen(listener, state.clone(), stopped));
    let mut signals = signals::listen()?;

    let model = tokio::select! {
        model = load_aside(flags.clone(), progress.clone(), load) => model?,
        _ = signals.recv() => {
            events.exiting("stopped while loading", 0);
            return Ok(());
        }
    };
    progress.report("warm", 0.0);
    warm(&model).await.map_err(AppError::Warm)?;
    progress.report("warm", 1.0);
    let id = model.info.id.clone();
    state.set_model(model);
    events.ready(&url(&flags.host, address), &id, started.elapsed().as_secs_f64(), !state.config().keys.is_empty());

    signals.recv().await;
    tracing::info!("draining");
    state.drain();
    tokio::select! {
        () = drain(&state, Duration::from_secs(flags.process.drain_seconds)) => {}
        _ = signals.recv() => {
            events.exiting("stopped at once", 0);
            return Ok(());
        }
    }
    stop.send_replace(true);
    // Idle connections close by themselves; those that do not are cut by the end of the process.
    let _ = tokio::time::timeout(Duration::from_millis(500), server).await;
    events.exiting("requested", 0);
    Ok(())
}

/// Serves until told to stop.
pub async fn listen(listener: TcpListener, state: AppState, mut stop: watch::Receiver<bool>) {
    let stopped = async move {
        // A sender that is gone is a process that ends.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    if let Err(error) = axum::serve(listener, router(state)).with_graceful_shutdown(stopped).await {
        tracing::error!(%error, "the listener failed");
    }
}

/// Waits for running requests, and calls them off when their time is over.
async fn drain(state: &AppState, patience: Duration) {
    let idle = async {
        while state.metrics().requests_active() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(patience, idle).await.is_err() {
        state.abort();
        // Long enough for the last words of each stream.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn bind(host: &str, port: u16) -> Result<TcpListener, AppError> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    TcpListener::bind((host, port)).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => AppError::PortInUse { host: host.to_owned(), port },
        _ => AppError::Listen { host: host.to_owned(), port, error },
    })
}

fn url(host: &str, address: SocketAddr) -> String {
    let host = if address.ip().is_unspecified() { "127.0.0.1" } else { host.trim_matches(['[', ']']) };
    if host.contains(':') {
        format!("http://[{host}]:{}", address.port())
    } else {
        format!("http://{host}:{}", address.port())
    }
}

fn config(flags: &ServeFlags, keys: Vec<String>, address: SocketAddr) -> Config {
    Config {
        keys,
        cors: flags.process.cors.clone(),
        loopback: address.ip().is_loopback(),
        aliases: flags.alias.clone(),
        strict_model: flags.strict_model,
        sampling: flags.sampling.clone(),
        thinking: flags.thinking,
        max_prompt_tokens: flags.max_prompt_tokens.map(|most| most as usize),
        ..Config::default()
    }
}

fn keys(flags: &ServeFlags) -> Result<Vec<String>, AppError> {
    let mut keys: Vec<String> = flags.process.api_key.iter().filter(|key| !key.is_empty()).cloned().collect();
    if let Some(file) = &flags.process.api_key_file {
        let path = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|error| AppError::KeyFile { path: path.clone(), error })?;
        let before = keys.len();
        keys.extend(
            text.lines().map(str::trim).filter(|key| !key.is_empty() && !key.starts_with('#')).map(str::to_owned),
        );
        // An empty file would open the server to all.
        if keys.len() == before {
            return Err(AppError::NoKey { path });
        }
    }
    Ok(keys)
}

/// On a thread of its own, which nothing waits for if the process is told to end.
async fn load_aside(flags: ServeFlags, progress: Progress, load: Loader) -> Result<LoadedModel, AppError> {
    let (sender, receiver) = oneshot::channel();
    let name = flags.model.clone().unwrap_or_else(|| "the demo model".to_owned());
    std::thread::Builder::new().name("load".to_owned()).spawn(move || {
        // The receiver is gone if the process ends.
        let _ = sender.send(load(&flags, &progress));
    })?;
    let crashed = |_| LoadError::Model { model: name, reason: "the loader crashed; see the log".to_owned() };
    Ok(receiver.await.map_err(crashed)??)
}

/// One step, so that the first request does not pay for what is made on first use.
pub async fn warm(model: &LoadedModel) -> Result<(), String> {
    let (sender, receiver) = oneshot::channel();
    let mut sender = Some(sender);
    let request = Request {
        prompt: vec![0],
        sampling: Sampling::default(),
        max_new_tokens: 1,
        stop_tokens: Vec::new(),
        logprobs: None,
        prompt_logprobs: None,
        cached: false,
    };
    let sink = Box::new(move |event| {
        let result = match event {
            Event::Done(..) => Ok(()),
            Event::Failed(message) => Err(message),
            _ => return Delivery::Taken,
        };
        if let Some(sender) = sender.take() {
            // Nobody waits any more if the process ends.
            let _ = sender.send(result);
        }
        Delivery::Taken
    });
    let ticket = model.engine.submit(request, sink).map_err(|error| error.to_string())?;
    let result = receiver.await.unwrap_or_else(|_| Err("the engine ended".to_owned()));
    drop(ticket);
    result
}
