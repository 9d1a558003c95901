//! One server's web side in a folder of its own, and readings for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, Response, StatusCode, header, request};
use forebay_config::{load, server};
use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::reading::{DataType, Point, PointId, PointKind, Quality, Value};
use forebay_protocols::sync::batch::{Epoch, Sequence};
use forebay_protocols::sync::wire;
use forebay_server::access::{Gate, Openness, Rules};
use forebay_server::api::{self, About, Api, Roster};
use forebay_server::identity::Authority;
use forebay_server::invitation::Inviter;
use forebay_server::live::{Committed, Feed};
use forebay_server::store::{
    self, AgentKey, Arrived, Content, Delivery, Micros, NewToken, PointKey, Store, TenantKey, Timed,
};
use forebay_server::{headers, health, ui};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value as Json;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub const SECOND: Micros = 1_000_000;
/// Longer than anything here may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct House {
    pub store: Arc<dyn Store>,
    pub feed: Feed,
    pub gate: Arc<Gate>,
    pub stop: CancellationToken,
    pub address: SocketAddr,
    pub serving: JoinHandle<std::io::Result<()>>,
    /// When it was built: the readings of the tests lie around this moment.
    pub now: Micros,
    pub authority: Arc<Authority>,
    _folder: TempDir,
}

/// An answer, read to its end.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: impl header::AsHeaderName) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn json(&self) -> Json {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

impl House {
    pub async fn build() -> Self {
        Self::over(|store| store).await
    }

    /// With a store that is made of the real one.
    pub async fn over(wrap: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>) -> Self {
        Self::with(wrap, Openness::UntilUsers).await
    }

    /// Where everybody logs in.
    pub async fn closed() -> Self {
        Self::with(|store| store, Openness::Never).await
    }

    async fn with(wrap: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>, open: Openness) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = server::Store::Sqlite { path: folder.path().join("forebay.db") };
        let store = wrap(store::open(&config).await.unwrap());
        let (feed, stop) = (Feed::new(), CancellationToken::new());
        let rules = Rules { open, session: Duration::from_secs(3_600), requests: 60_000, is_tls: false };
        let gate = Arc::new(Gate::new(store.access(), rules));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let authority = Arc::new(Authority::open(folder.path()).unwrap());
        let router = router(&store, &feed, &gate, &stop, &authority);
        let asked = stop.clone().cancelled_owned();
        let serving = axum::serve(listener, router).with_graceful_shutdown(asked);
        let serving = tokio::spawn(serving.into_future());
        Self { store, feed, gate, stop, address, serving, now: wall_micros(), authority, _folder: folder }
    }

    /// The same router without a socket: nothing is read from it unless the test reads.
    pub fn router(&self) -> Router {
        router(&self.store, &self.feed, &self.gate, &self.stop, &self.authority)
    }

    /// The same with another roster.
    pub fn router_with(&self, fleet: Roster) -> Router {
        api::router(Api {
            store: self.store.clone(),
            fleet,
            feed: self.feed.clone(),
            gate: self.gate.clone(),
            stop: self.stop.clone(),
        })
    }

    /// The head of an answer; the body is still to be read.
    pub async fn ask(&self, request: Request<Body>) -> Response<Incoming> {
        ask(request).await
    }

    pub async fn answer(&self, request: Request<Body>) -> Answer {
        let (head, body) = self.ask(request).await.into_parts();
        let body = timeout(PATIENCE, body.collect()).await.unwrap().unwrap().to_bytes();
        Answer {
            status: head.status,
            headers: head.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        }
    }

    pub fn request(&self, path: &str) -> request::Builder {
        Request::get(format!("http://{}{path}", self.address))
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.answer(self.request(path).body(Body::empty()).unwrap()).await
    }

    /// The JSON of an answer that must be a good one.
    pub async fn json(&self, path: &str) -> Json {
        let answer = self.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.body);
        assert_eq!(answer.header(header::CONTENT_TYPE), "application/json");
        answer.json()
    }

    /// An agent of the site `hall` that has joined.
    pub async fn agent(&self, gateway: &str) -> AgentKey {
        self.agent_of(TenantKey::MAIN, gateway).await
    }

    /// The same, of a tenant.
    pub async fn agent_of(&self, tenant: TenantKey, gateway: &str) -> AgentKey {
        let mut hash = [0; 32];
        getrandom::fill(&mut hash).unwrap();
        let expires = self.now + 1_000 * SECOND;
        let token = NewToken {
            secret_hash: hash,
            expires,
            uses: 1,
            note: "test".into(),
            approval: false,
            created: self.now,
        };
        self.store.add_token(token).await.unwrap();
        self.gate.access().give_token(hash, tenant).await.unwrap();
        let joined = self.store.join(hash, "hall", gateway, hash, expires, self.now).await.unwrap();
        joined.1.unwrap()
    }

    pub async fn ingest(&self, delivery: Delivery) -> Vec<(PointId, PointKey)> {
        self.store.ingest(vec![delivery]).await.unwrap().remove(0).points
    }

    /// What an agent sends that has nothing to say.
    pub fn delivery(&self, agent: AgentKey) -> Delivery {
        Delivery::empty(agent, Epoch([7; 16]), self.now)
    }

    /// Stores these readings of points p1, p2 … of a boiler, and gives the points' keys.
    pub async fn stored(&self, agent: AgentKey, points: u32, readings: Vec<Timed>) -> Vec<PointKey> {
        let dictionary = (1..=points).map(|n| (PointId(n), point("boiler", &format!("p{n}")))).collect();
        let batches = vec![batch(1, readings)];
        let keys = self.ingest(Delivery { dictionary, batches, ..self.delivery(agent) }).await;
        keys.into_iter().map(|(_, key)| key).collect()
    }

    /// Shows live what ingest would.
    pub fn show(&self, agent: AgentKey, keys: &[PointKey], readings: Vec<Timed>) {
        self.feed.publish(committed(agent, keys, readings));
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.stop.cancel();
        self.serving.abort();
    }
}

/// What it looks after: for everybody, at gateways of one, for one tenant.
pub const RULES: &str = "[alarm.clock]\nenabled = false\n[alarm.backlog]\nleast = 5000\n\
    [alarm.cold]\nwhen = \"value\"\npoints = [\"*/p1\"]\nbelow = 1\ndeadband = 0.5\ndelay = \"5m\"\n\
    [alarm.hot]\nwhen = \"value\"\nagents = [\"hall/gate-plain\"]\npoints = [\"boiler-plain/*\"]\nabove = 90\n\
    [alarm.theirs]\nwhen = \"value\"\npoints = [\"boiler-verborgen/*\"]\nabove = 7\ntenants = [\"other\"]\n";

/// Where agents reach the house, if there were one.
pub const ADDRESS: &str = "plant.example:8443";

fn router(
    store: &Arc<dyn Store>,
    feed: &Feed,
    gate: &Arc<Gate>,
    stop: &CancellationToken,
    authority: &Arc<Authority>,
) -> Router {
    // Tests look at once at what they did.
    let fleet = Roster::fresh_for(store.clone(), Duration::ZERO);
    let api = Api { store: store.clone(), fleet, feed: feed.clone(), gate: gate.clone(), stop: stop.clone() };
    let metrics = api::guarded(health::metrics_router(Arc::default()), &api, api::METRICS);
    let text = "[retention]\nreadings = \"90d\"\n[retention.class.alarms]\npoints = [\"*/alarm_*\"]\nreadings = \"365d\"\n";
    let retention = load::server_text("server.toml", text).unwrap().retention;
    let rules = load::server_text("server.toml", RULES).unwrap().alarms.rules;
    let inviter = Some(Inviter { authority: authority.clone(), address: ADDRESS.into() });
    let api = api::router_about(api, About { retention, rules, inviter });
    headers::secure(metrics.merge(api).merge(ui::router()), false)
}

pub async fn ask(request: Request<Body>) -> Response<Incoming> {
    let client: Client<_, Body> = Client::builder(TokioExecutor::new()).build_http();
    timeout(PATIENCE, client.request(request)).await.expect("an answer in time").unwrap()
}

pub fn committed(agent: AgentKey, keys: &[PointKey], readings: Vec<Timed>) -> Committed {
    let points = (1..).map(PointId).zip(keys.iter().copied()).collect();
    Committed { agent, points, readings: Arc::new(readings), backlog: false }
}

pub fn point(device: &str, name: &str) -> Arc<Point> {
    Arc::new(Point {
        device: device.into(),
        name: name.into(),
        unit: "°C".into(),
        kind: PointKind::Gauge,
        data_type: DataType::Float,
    })
}

pub fn batch(sequence: u64, readings: Vec<Timed>) -> Arrived {
    let highest = readings.iter().map(|reading| reading.point).max().unwrap_or(PointId(0));
    let content = Content::Readings(Arc::new(readings));
    Arrived::plain(Sequence(sequence), highest, content)
}

pub fn float(point: u32, time: Micros, value: f64) -> Timed {
    reading(point, time, Some(Value::Float(value)), Quality::Good)
}

pub fn reading(point: u32, time: Micros, value: Option<Value>, quality: Quality) -> Timed {
    Timed { point: PointId(point), time, value, quality }
}

/// What is kept of a report that came in at `received_us`.
pub fn report(wall_us: i64, received_us: i64) -> wire::Report {
    wire::Report { version: "0.1.0".into(), wall_us, received_us, synchronised: true, ..Default::default() }
}
