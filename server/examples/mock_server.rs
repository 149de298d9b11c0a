//! The server with an engine that has no model, for trying clients: `mock_server [PORT]`.

#[path = "../tests/common/mock.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests")]
mod mock;

use swiftlm_server::app;
use swiftlm_server::events::Events;
use swiftlm_server::flags::LogFormat;
use swiftlm_server::progress::Progress;
use swiftlm_server::state::{AppState, Config};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok()).unwrap_or(0_u16);
    let events = Events::new(LogFormat::Json);
    let config = Config { keys: std::env::var("SWIFTLM_API_KEY").into_iter().collect(), ..Config::default() };
    let state = AppState::new(config, Progress::new(events));
    let (model, _) = mock::model(64);
    app::warm(&model).await.map_err(std::io::Error::other)?;
    state.set_model(model);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    events.ready(&format!("http://{}", listener.local_addr()?), "makers/mock-1", 0.0, false);
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    app::listen(listener, state, stopped).await;
    Ok(())
}
