//! The public API, as a program without an SDK would call it. Calls block.

use std::{
    sync::{LazyLock, mpsc},
    time::Duration,
};

use reqwest::{Client, Method};
use serde_json::Value;

static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
});

// Servers here are killed under their clients: no connection is kept.
static CLIENT: LazyLock<Client> = LazyLock::new(|| {
    let client = Client::builder().pool_max_idle_per_host(0).timeout(Duration::from_secs(60)).build();
    client.expect("an HTTP client")
});

/// An answer.
pub struct Answer {
    pub status: u16,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    /// The error's code, empty where it is none.
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// Fails the test unless the request was carried out.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "{}: {}", self.status, self.text());
        self.json()
    }

    /// Fails the test unless the request was refused exactly so, with a hint.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.code().as_str()), (status, code), "{}", self.text());
        assert!(self.json()["error"]["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{}", self.text());
    }
}

/// A server and a token for it.
#[derive(Clone)]
pub struct Api {
    pub url: String,
    pub token: String,
}

impl Api {
    pub fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None, None).unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// A mutation under a fresh idempotency key.
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_under(&fresh_key(), path, body)
    }

    /// A mutation under a given idempotency key.
    pub fn post_under(&self, key: &str, path: &str, body: &Value) -> Answer {
        self.request(Method::POST, path, Some(body), Some(key))
    }

    pub fn request(&self, method: Method, path: &str, body: Option<&Value>, key: Option<&str>) -> Answer {
        let named = format!("{method} {path}");
        self.send(method, path, body, key).unwrap_or_else(|error| panic!("{named}: {error}"))
    }

    fn send(&self, method: Method, path: &str, body: Option<&Value>, key: Option<&str>) -> Result<Answer, String> {
        let mut request = CLIENT.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let (sender, receiver) = mpsc::channel();
        RUNTIME.spawn(async move {
            let exchange = async {
                let response = request.send().await?;
                let status = response.status().as_u16();
                Ok::<_, reqwest::Error>(Answer { status, bytes: response.bytes().await?.to_vec() })
            };
            let _ = sender.send(exchange.await.map_err(|error| error.to_string()));
        });
        receiver.recv().expect("the exchange's task")
    }
}

pub fn fresh_key() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("random bytes");
    hex::encode(bytes)
}
