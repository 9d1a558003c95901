//! A simulated OPC UA server: sixty signals of twelve machines, and a robot's array and structure, that move each
//! second.
//!
//! Speaks without security and with each policy that the standard did not give up, signed or
//! encrypted too; lets in anybody or the user `demo` with the password `demo`. What real servers do to a client can be asked of it: another
//! place for its namespace after a restart, a host name that nobody can resolve, few sessions.

pub mod link;
mod robot;
mod signals;

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use opcua::crypto::SecurityPolicy;
use opcua::server::address_space::VariableBuilder;
use opcua::server::diagnostics::NamespaceMetadata;
use opcua::server::node_manager::memory::{SimpleNodeManager, simple_node_manager};
use opcua::server::{ANONYMOUS_USER_TOKEN_ID, ServerBuilder, ServerHandle, ServerUserToken};
use opcua::types::{DataValue, MessageSecurityMode, NodeId, QualifiedName, StatusCode};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use self::robot::Robot;
use self::signals::{MACHINES, Signal};

/// The namespace of the plant's nodes.
pub const NAMESPACE: &str = "urn:forebay:demo:plant";
/// User name and password that are let in, besides anonymous clients.
pub const USER: (&str, &str) = ("demo", "demo");

/// How the server is to behave.
#[derive(Clone, Debug)]
pub struct PlantOptions {
    /// Where to listen. Port 0, the default, is any free port of loopback.
    pub address: SocketAddr,
    /// Folder of the server's key and certificate, made there if missing (so start the first
    /// plant of a folder alone). Default: a new one that goes with the plant.
    pub pki_dir: Option<PathBuf>,
    /// The host name in the server's endpoints. Default: the address.
    pub advertised_host: Option<String>,
    /// Foreign namespaces before the plant's own: its index moves by as many.
    pub namespaces_before: usize,
    /// What every node's id begins with: `s=Press.Temp` is `s=PREFIXPress.Temp`. Browse names stay.
    pub node_prefix: String,
    /// The most nodes in one request to read; 0, the default, is the library's own limit.
    pub max_nodes_per_read: usize,
    /// The most nodes in one request to browse; 0, the default, is the library's own limit.
    pub max_nodes_per_browse: usize,
    /// The most items in one subscription. Default 100,000.
    pub max_items: usize,
    /// The most sessions at a time. Default 20.
    pub max_sessions: usize,
    /// Time between two updates of the values. Default 1 s.
    pub tick: Duration,
}

impl Default for PlantOptions {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            pki_dir: None,
            advertised_host: None,
            namespaces_before: 0,
            node_prefix: String::new(),
            max_nodes_per_read: 0,
            max_nodes_per_browse: 0,
            max_items: 100_000,
            max_sessions: 20,
            tick: Duration::from_secs(1),
        }
    }
}

/// A running server. Dropped, it ends at once, like a server that loses power.
pub struct OpcUaPlant {
    address: SocketAddr,
    handle: ServerHandle,
    nodes: Arc<SimpleNodeManager>,
    namespace: u16,
    shutdown: CancellationToken,
    /// The server and its signals: end on `shutdown`, or with this value.
    tasks: JoinSet<()>,
    _pki: Option<tempfile::TempDir>,
}

impl OpcUaPlant {
    /// Starts a server; when this returns it can be connected to. Without a key in `pki_dir` one
    /// is made first, which takes a second or two.
    pub async fn start(options: PlantOptions) -> Result<Self> {
        let listener = TcpListener::bind(options.address).await.context("listen for OPC UA clients")?;
        let address = listener.local_addr().context("listen for OPC UA clients")?;
        let own_pki = match options.pki_dir {
            Some(_) => None,
            None => Some(tempfile::tempdir().context("make a folder for the server's key")?),
        };
        let pki_dir = match (&options.pki_dir, &own_pki) {
            (Some(path), _) => path.clone(),
            (None, Some(folder)) => folder.path().to_owned(),
            (None, None) => return Err(anyhow!("no folder for the server's key")),
        };
        let shutdown = CancellationToken::new();
        let (token, tick, prefix) = (shutdown.clone(), options.tick, options.node_prefix.clone());
        // Making an RSA key is no work for a task among others.
        let build = move || builder(&options, address, pki_dir).token(token).build();
        let (server, handle) = tokio::task::spawn_blocking(build)
            .await
            .context("set up the OPC UA server")?
            .map_err(|why| anyhow!("set up the OPC UA server: {why}"))?;
        let plant = Plant::build(handle.clone(), &prefix)?;

        let (nodes, namespace) = (plant.nodes.clone(), plant.namespace);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            if let Err(why) = server.run_with(listener).await {
                tracing::error!(why, "The OPC UA server ended.");
            }
        });
        tasks.spawn(plant.run(tick, shutdown.clone()));
        Ok(Self { address, handle, nodes, namespace, shutdown, tasks, _pki: own_pki })
    }

    /// `opc.tcp://127.0.0.1:PORT/`.
    pub fn endpoint(&self) -> String {
        format!("opc.tcp://{}/", self.address)
    }

    /// Where the server listens: to start another one in its place.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Configuration of a link named `name` that reads every signal, without security.
    pub fn link_toml(&self, name: &str) -> String {
        let mut toml = format!("[link.{name}]\n[link.{name}.opcua]\nendpoint = \"{}\"\n", self.endpoint());
        for machine in MACHINES {
            let _ = writeln!(toml, "\n[link.{name}.device.{}.points]", machine.name);
            for (signal, movement, unit) in machine.signals {
                let (data_type, kind) = movement.type_and_kind();
                let _ = writeln!(
                    toml,
                    "\"{signal}\" = {{ node = \"nsu={NAMESPACE};s={}.{signal}\", type = \"{data_type}\", \
                     kind = \"{kind}\", unit = \"{unit}\" }}",
                    machine.name
                );
            }
        }
        toml + &Robot::device_toml(name, NAMESPACE)
    }

    /// Adds a node `s=name` to the plant's namespace while it runs, as engineers do.
    pub fn add_node(&self, name: &str, value: f64) {
        self.add_node_at(NodeId::objects_folder_id(), name, value);
    }

    /// As [`OpcUaPlant::add_node`], below the node `s=parent`.
    pub fn add_node_below(&self, parent: &str, name: &str, value: f64) {
        self.add_node_at(NodeId::new(self.namespace, parent), name, value);
    }

    fn add_node_at(&self, parent: NodeId, name: &str, value: f64) {
        let node = NodeId::new(self.namespace, name);
        VariableBuilder::new(&node, QualifiedName::new(self.namespace, name), name)
            .data_type(opcua::types::DataTypeId::Double)
            .value(value)
            .organized_by(parent)
            .insert(&mut *self.nodes.address_space().write());
    }

    /// Takes the node `s=name` away, as engineers do. Was there one?
    pub fn remove_node(&self, name: &str) -> bool {
        let node = NodeId::new(self.namespace, name);
        self.nodes.address_space().write().delete(&node, true).is_some()
    }

    /// Gives nodes of [`OpcUaPlant::add_node`] new values, and tells who is subscribed to them.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn set_nodes<'a>(&self, values: impl Iterator<Item = (&'a str, f64)>) -> Result<()> {
        let values: Vec<_> = values
            .map(|(name, value)| (NodeId::new(self.namespace, name), DataValue::new_now(value)))
            .collect();
        let told = values.iter().map(|(node, value)| (node, None, value.clone()));
        self.nodes
            .set_values(self.handle.subscriptions(), told)
            .map_err(|status| anyhow!("set the values of nodes: {status}"))
    }

    /// Closes all connections and ends.
    pub async fn shutdown(mut self) {
        self.shutdown.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        // A client that does not go is cut off when the tasks are dropped.
        let _ = timeout(Duration::from_secs(5), ended).await;
    }
}

fn builder(options: &PlantOptions, address: SocketAddr, pki_dir: PathBuf) -> ServerBuilder {
    let host = options.advertised_host.clone().unwrap_or_else(|| address.ip().to_string());
    let users = [ANONYMOUS_USER_TOKEN_ID, USER.0];
    let mut builder = ServerBuilder::new()
        .application_name("Forebay demo plant")
        .application_uri("urn:forebay:demo")
        .product_uri("urn:forebay:demo")
        .host(host)
        .port(address.port())
        .pki_dir(pki_dir)
        .create_sample_keypair(true)
        .trust_client_certs(true)
        .max_sessions(options.max_sessions)
        .subscription_poll_interval_ms(50)
        .discovery_urls(vec!["/".to_owned()])
        .add_user_token(USER.0, ServerUserToken::user_pass(USER.0, USER.1))
        .add_endpoint("none", ("/", SecurityPolicy::None, MessageSecurityMode::None, &users as &[&str]));
    for policy in [
        SecurityPolicy::Basic256Sha256,
        SecurityPolicy::Aes128Sha256RsaOaep,
        SecurityPolicy::Aes256Sha256RsaPss,
    ] {
        for mode in [MessageSecurityMode::Sign, MessageSecurityMode::SignAndEncrypt] {
            builder =
                builder.add_endpoint(format!("{policy} {mode:?}"), ("/", policy, mode, &users as &[&str]));
        }
    }
    let limits = &mut builder.limits_mut().subscriptions;
    limits.max_monitored_items_per_sub = options.max_items;
    // Of changes that come sooner the server would leave one out.
    limits.min_sampling_interval_ms = 10.0;
    if options.max_nodes_per_read > 0 {
        builder.limits_mut().operational.max_nodes_per_read = options.max_nodes_per_read;
    }
    if options.max_nodes_per_browse > 0 {
        builder.limits_mut().operational.max_nodes_per_browse = options.max_nodes_per_browse;
    }
    for index in 0..options.namespaces_before {
        builder = builder.with_node_manager(namespace(&format!("urn:forebay:demo:other:{index}")));
    }
    builder.with_node_manager(namespace(NAMESPACE))
}

fn namespace(uri: &str) -> impl opcua::server::node_manager::NodeManagerBuilder + 'static {
    let metadata = NamespaceMetadata { namespace_uri: uri.to_owned(), ..NamespaceMetadata::default() };
    simple_node_manager(metadata, uri)
}

/// The plant's nodes in the server.
struct Plant {
    handle: ServerHandle,
    nodes: Arc<SimpleNodeManager>,
    namespace: u16,
    signals: Vec<(NodeId, Signal)>,
    robot: Robot,
}

impl Plant {
    fn build(handle: ServerHandle, prefix: &str) -> Result<Self> {
        let namespace = handle.get_namespace_index(NAMESPACE).context("find the plant's namespace")?;
        let nodes = handle
            .node_managers()
            .get_by_name::<SimpleNodeManager>(NAMESPACE)
            .context("find the plant's nodes")?;
        let space = nodes.address_space().clone();
        let mut space = space.write();
        let seconds = seconds();
        let mut signals = Vec::new();
        for machine in MACHINES {
            let folder = NodeId::new(namespace, format!("{prefix}{}", machine.name));
            let browse_name = QualifiedName::new(namespace, machine.name);
            space.add_folder(&folder, browse_name, machine.name, &NodeId::objects_folder_id());
            for (name, signal, _) in machine.signals {
                let node = NodeId::new(namespace, format!("{prefix}{}.{name}", machine.name));
                let seed = signals.len() as u64;
                VariableBuilder::new(&node, QualifiedName::new(namespace, *name), *name)
                    .data_type(signal.data_type())
                    .value(signal.at(seconds, seed))
                    .organized_by(&folder)
                    .insert(&mut *space);
                signals.push((node, *signal));
            }
        }
        let robot = Robot::add(&mut space, namespace, prefix, seconds);
        drop(space);
        Ok(Self { handle, nodes, namespace, signals, robot })
    }

    async fn run(self, tick: Duration, shutdown: CancellationToken) {
        let mut ticks = interval(tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = shutdown.cancelled() => return,
            }
            let seconds = seconds();
            let values: Vec<_> = {
                let space = self.nodes.address_space().read();
                let signals = self.signals.iter().enumerate();
                let signals = signals.map(|(seed, (node, signal))| (node, signal.at(seconds, seed as u64)));
                signals
                    .chain(self.robot.at(seconds))
                    .filter(|(node, _)| space.node_exists(node))
                    .map(|(node, value)| (node, None, DataValue::new_now(value)))
                    .collect()
            };
            match self.nodes.set_values(self.handle.subscriptions(), values.into_iter()) {
                Ok(()) => {}
                // One of them was taken away in between.
                Err(StatusCode::BadNodeIdUnknown) => {}
                Err(status) => {
                    tracing::error!(%status, "The plant's values cannot be set.");
                    return;
                }
            }
        }
    }
}

/// Seconds since midnight of some day: small enough for floats, and the same after a restart.
fn seconds() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs_f64() % 86_400.0
}
