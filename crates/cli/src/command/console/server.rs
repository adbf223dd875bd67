//! The addresses of the page, and what stands before all of them.

use super::api::{self, About};
use super::guard::{Guard, Refused};
use crate::target::Target;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Most requests at a time; others are told to come again.
const REQUESTS_MAX: usize = 32;
/// Most files that are saved at a time.
pub const DOWNLOADS_MAX: usize = 4;
/// Threads that wait for the daemon: each question or piece of a file takes one, even when nobody waits for it any more.
pub const THREADS_MAX: usize = REQUESTS_MAX + DOWNLOADS_MAX;
/// Longest body of a request, in bytes: a path, and a little more.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// A question may take so long, with what the daemon and the quorum take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Nothing but what this server gives: no script in the page itself, nothing from elsewhere, no frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; \
     frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    // Not no-referrer: browsers would then say of our own forms that they come from nowhere (Origin: null).
    (header::REFERRER_POLICY, "same-origin"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// What all requests share.
pub struct Shared {
    /// The daemon and the volume.
    pub target: Target,
    /// What they are called.
    pub about: About,
    /// Who may ask.
    pub guard: Guard,
    /// Room for files that are saved.
    pub downloads: Arc<Semaphore>,
    requests: Semaphore,
}

macro_rules! page {
    ($path:literal, $file:literal, $kind:literal) => {
        ($path, include_str!(concat!("page/", $file)), concat!("text/", $kind, "; charset=utf-8"))
    };
}

/// What the browser loads. There is nothing secret in it.
const PAGE: [(&str, &str, &str); 9] = [
    page!("/page/style.css", "style.css", "css"),
    page!("/page/main.js", "main.js", "javascript"),
    page!("/page/api.js", "api.js", "javascript"),
    page!("/page/compare.js", "compare.js", "javascript"),
    page!("/page/diff.js", "diff.js", "javascript"),
    page!("/page/dom.js", "dom.js", "javascript"),
    page!("/page/file.js", "file.js", "javascript"),
    page!("/page/place.js", "place.js", "javascript"),
    page!("/page/time.js", "time.js", "javascript"),
];
const INDEX: &str = include_str!("page/index.html");

/// Serves the page until the process ends.
///
/// # Errors
/// If connections can't be taken any more.
pub async fn serve(listener: TcpListener, guard: Guard, target: Target, about: About) -> std::io::Result<()> {
    let downloads = Arc::new(Semaphore::new(DOWNLOADS_MAX));
    let requests = Semaphore::new(REQUESTS_MAX);
    axum::serve(listener, router(Arc::new(Shared { target, about, guard, downloads, requests }))).await
}

fn router(shared: Arc<Shared>) -> Router {
    let questions = Router::new()
        .route("/about", get(api::told))
        .route("/browse", get(api::browse))
        .route("/snapshots", get(api::snapshots))
        .route("/history", get(api::history))
        .route("/removed", get(api::removed))
        .route("/text", get(api::text))
        .route("/restore", post(api::restore))
        .layer(from_fn_with_state(shared.clone(), keyed));
    let mut router = Router::new()
        .nest("/api", questions)
        .route("/download", post(api::download))
        .route("/", get(index))
        .route("/favicon.ico", get(StatusCode::NO_CONTENT));
    for (path, text, kind) in PAGE {
        router = router.route(path, get(async move || ([(header::CONTENT_TYPE, kind)], text)));
    }
    router
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn_with_state(shared.clone(), guarded))
        .with_state(shared)
}

fn refused(refused: Refused) -> Response {
    said(StatusCode::FORBIDDEN, refused.words())
}

fn said(status: StatusCode, words: &str) -> Response {
    (status, axum::Json(serde_json::json!({ "error": words }))).into_response()
}

/// Before and behind everything.
async fn guarded(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let checked =
        shared.guard.host(request.headers()).and_then(|()| shared.guard.origin(request.method(), request.headers()));
    let mut response = match (checked, shared.requests.try_acquire()) {
        (Err(why), _) => refused(why),
        (Ok(()), Err(_)) => said(StatusCode::SERVICE_UNAVAILABLE, "too many requests at a time: try again"),
        (Ok(()), Ok(_permit)) => match tokio::time::timeout(PATIENCE, next.run(request)).await {
            Ok(response) => response,
            Err(_) => said(StatusCode::GATEWAY_TIMEOUT, "the daemon does not answer; gavel status says how it is"),
        },
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Before all questions.
async fn keyed(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    match shared.guard.key_in(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(why) => refused(why),
    }
}

#[derive(Deserialize)]
struct Opened {
    key: Option<String>,
}

/// The page. With a key that is not ours it says so at once; without one the page knows it from before, or not.
async fn index(State(shared): State<Arc<Shared>>, Query(opened): Query<Opened>) -> Response {
    match opened.key.map_or(Ok(()), |key| shared.guard.is_key(&key)) {
        Ok(()) => ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], INDEX).into_response(),
        Err(why) => refused(why),
    }
}
