//! A reply as server-sent events. Headers go out before the prompt is computed; silence is filled with comments; a client
//! that goes away ends the run.

use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::poll_fn;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::reply::Reply;
use super::run::{Output, Run};
use crate::error::ApiError;

/// What the client asked for besides the text.
#[derive(Clone, Copy, Debug)]
pub struct Extras {
    /// A last chunk with the usage.
    pub usage: bool,
    /// Events that say how far the prompt is.
    pub progress: bool,
    /// Silence after which a comment is sent.
    pub keepalive: Duration,
}

/// Chunks that may wait for a slow reader.
const WAITING: usize = 32;

/// The response; its body is written by a task of its own.
pub fn respond(reply: Reply, run: Run, extras: Extras) -> Response {
    let (sender, mut receiver) = mpsc::channel(WAITING);
    let mut headers = reply.headers();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Asks proxies not to collect the events.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    tokio::spawn(async move {
        let mut writer = Writer { sender, extras };
        // An error here is a client that went away: the run ends with this task.
        let _ = writer.write(&reply, run).await;
    });
    let body =
        poll_fn(move |context| receiver.poll_recv(context).map(|bytes| bytes.map(Ok::<_, std::convert::Infallible>)));
    (headers, Body::from_stream(body)).into_response()
}

struct Writer {
    sender: mpsc::Sender<Bytes>,
    extras: Extras,
}

struct Gone;

impl Writer {
    async fn write(&mut self, reply: &Reply, mut run: Run) -> Result<(), Gone> {
        let started = Instant::now();
        let mut opened = vec![false; run.len()];
        let mut calls = vec![0; run.len()];
        self.send(": connected\n\n".to_owned()).await?;
        loop {
            let output = match self.wait(&mut run).await? {
                Ok(Some(output)) => output,
                Ok(None) => break,
                Err(error) => {
                    self.data(error.body()).await?;
                    return self.send("data: [DONE]\n\n".to_owned()).await;
                }
            };
            let index = match &output {
                Output::Progress { done, total } => {
                    self.progress(*done, *total, started).await?;
                    continue;
                }
                Output::Piece(piece) => piece.index,
                Output::Finished { index, .. } => *index,
            };
            if let Some(open) = opened.get_mut(index).filter(|open| !**open) {
                *open = true;
                if let Some(first) = reply.first(index) {
                    self.chunk(first).await?;
                }
            }
            match output {
                Output::Progress { .. } => {}
                Output::Piece(piece) => {
                    let Some(calls) = calls.get_mut(piece.index) else { continue };
                    for chunk in reply.piece(&piece, calls) {
                        self.chunk(chunk).await?;
                    }
                }
                Output::Finished { index, reason } => {
                    let mut last = reply.last(index, reason);
                    if run.is_over() && !self.extras.usage {
                        reply.add_numbers(&mut last, &run.totals());
                    }
                    self.chunk(last).await?;
                }
            }
        }
        if self.extras.usage {
            self.data(reply.usage(&run.totals())).await?;
        }
        self.send("data: [DONE]\n\n".to_owned()).await
    }

    /// The next output, with comments while there is none.
    async fn wait(&mut self, run: &mut Run) -> Result<Result<Option<Output>, ApiError>, Gone> {
        loop {
            tokio::select! {
                output = run.next() => return Ok(output),
                () = self.sender.closed() => return Err(Gone),
                () = tokio::time::sleep(self.extras.keepalive) => {}
            }
            self.send(": keepalive\n\n".to_owned()).await?;
        }
    }

    async fn progress(&mut self, done: usize, total: usize, started: Instant) -> Result<(), Gone> {
        if !self.extras.progress {
            return Ok(());
        }
        let event = json!({
            "status": if done < total { "processing" } else { "done" },
            "n_past": done,
            "n_prompt_tokens": total,
            "fraction": if total == 0 { 1.0 } else { done as f64 / total as f64 },
            "elapsed_seconds": (started.elapsed().as_secs_f64() * 1e3).round() / 1e3,
            "choices": [],
        });
        self.send(format!("event: prefill_progress\ndata: {event}\n\n")).await
    }

    /// A chunk before the last one says that the usage is still to come.
    async fn chunk(&mut self, mut chunk: Value) -> Result<(), Gone> {
        if self.extras.usage {
            chunk["usage"] = Value::Null;
        }
        self.data(chunk).await
    }

    async fn data(&mut self, data: Value) -> Result<(), Gone> {
        self.send(format!("data: {data}\n\n")).await
    }

    async fn send(&mut self, text: String) -> Result<(), Gone> {
        self.sender.send(Bytes::from(text)).await.map_err(|_| Gone)
    }
}
