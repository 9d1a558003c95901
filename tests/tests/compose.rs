//! The compose files, as far as they can be tried without a container engine: they are what the specification
//! has, everything they name is there, and their parts agree with each other, with the server and with the page
//! that tells how to use them.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use forebay_config::load;
use forebay_tests::ask_peer;
use forebay_tests::documents::{Document, root};
use serde_json::Value;

struct Composed {
    folder: PathBuf,
    compose: Value,
    /// Grafana's data source, and where it looks for dashboards.
    grafana: [Value; 2],
}

impl Composed {
    fn read() -> Result<Self> {
        let folder = root().join("sync-server/compose");
        let grafana = root().join("sync-server/grafana/provisioning");
        let only = |folder: &str| -> Result<String> {
            let files = fs::read_dir(grafana.join(folder))?.collect::<std::io::Result<Vec<_>>>()?;
            ensure!(files.len() == 1, "{folder}: {files:?}");
            Ok(files[0].path().to_string_lossy().into_owned())
        };
        let compose = folder.join("compose.yaml").to_string_lossy().into_owned();
        let read = ask_peer("compose_check.py", &[&compose, &only("datasources")?, &only("dashboards")?])?;
        ensure!(read["faults"] == serde_json::json!([]), "{:#}", read["faults"]);
        let grafana = [read["others"][0].clone(), read["others"][1].clone()];
        Ok(Self { folder, compose: read["compose"].clone(), grafana })
    }

    fn services(&self) -> Result<impl Iterator<Item = (&String, &Value)>> {
        Ok(self.compose["services"].as_object().context("services")?.iter())
    }

    /// Source, target and whether it is only read, of a service's volumes.
    fn mounts(service: &Value) -> Vec<(String, String, bool)> {
        let volumes = list(&service["volumes"]);
        volumes
            .iter()
            .filter_map(|volume| {
                let mut parts = volume.split(':');
                let (source, target) = (parts.next()?, parts.next()?);
                Some((source.to_owned(), target.to_owned(), parts.next() == Some("ro")))
            })
            .collect()
    }
}

fn list(value: &Value) -> Vec<String> {
    value
        .as_array()
        .map_or(&[][..], Vec::as_slice)
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().map(|object| object.keys().cloned().collect()).unwrap_or_default()
}

/// The names in `${NAME}` and `${NAME:?words}`.
fn variables(text: &str) -> BTreeSet<String> {
    let name = |rest: &str| {
        rest.chars()
            .take_while(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || *c == '_')
            .collect::<String>()
    };
    text.split("${").skip(1).map(name).filter(|name| !name.is_empty()).collect()
}

#[test]
fn what_is_mounted_is_there_and_lands_where_it_is_looked_for() -> Result<()> {
    let composed = Composed::read()?;
    let declared = keys(&composed.compose["volumes"]);
    let mut used = BTreeSet::new();
    for (name, service) in composed.services()? {
        for (source, target, is_read_only) in Composed::mounts(service) {
            if source.starts_with('.') {
                ensure!(composed.folder.join(&source).exists(), "{name}: there is no {source}");
                ensure!(is_read_only, "{name}: {source} is the repository's, and may be written there");
            } else {
                used.insert(source);
            }
            ensure!(target.starts_with('/'), "{name}: {target}");
        }
    }
    ensure!(declared == used, "declared {declared:?}, used {used:?}");

    // The server looks for its configuration there and keeps its state there, as nothing else is said.
    let server = &composed.compose["services"]["server"];
    let mounts = Composed::mounts(server);
    let target =
        |end: &str| mounts.iter().find(|(source, ..)| source.ends_with(end)).map(|(_, to, _)| to.as_str());
    ensure!(target("server.toml") == Some("/etc/forebay/server.toml"), "{mounts:?}");
    let defaults = load::server(None).map_err(|findings| anyhow::anyhow!("{findings}"))?;
    ensure!(target("server") == defaults.state_dir.to_str(), "{mounts:?}, {:?}", defaults.state_dir);
    let recipe = fs::read_to_string(composed.folder.join("server/Dockerfile"))?;
    let says = |line: &str| recipe.lines().any(|said| said == line);
    ensure!(says(&format!("VOLUME {}", defaults.state_dir.display())), "{recipe}");
    ensure!(says(&format!("EXPOSE {}", defaults.sync.listen.port())), "{recipe}");

    // Grafana finds its dashboards and its data.
    let grafana = Composed::mounts(&composed.compose["services"]["grafana"]);
    let looked_for = composed.grafana[1]["providers"][0]["options"]["path"].as_str().context("a path")?;
    ensure!(grafana.iter().any(|(_, target, _)| target == looked_for), "{looked_for}: {grafana:?}");
    let source = &composed.grafana[0]["datasources"][0];
    let (host, _) = source["url"].as_str().and_then(|url| url.split_once(':')).context("a host")?;
    let database = &composed.compose["services"][host]["environment"];
    ensure!(database["POSTGRES_DB"] == source["jsonData"]["database"], "{source:#}");
    let password = source["secureJsonData"]["password"].as_str().context("a password")?;
    let known = keys(&composed.compose["services"]["grafana"]["environment"]);
    ensure!(known.contains(password.trim_start_matches('$')), "{password}: {known:?}");
    Ok(())
}

#[test]
fn every_variable_is_set_read_and_documented() -> Result<()> {
    let composed = Composed::read()?;
    let config = fs::read_to_string(composed.folder.join("server/server.toml"))?;
    let given = keys(&composed.compose["services"]["server"]["environment"]);
    ensure!(given == variables(&config), "given {given:?}, read {:?}", variables(&config));
    let asked = variables(&fs::read_to_string(composed.folder.join("compose.yaml"))?);
    let page = Document::read("docs/install.md")?;
    let line = page.text.lines().find(|line| line.contains(">.env")).context("install.md makes .env")?;
    let before = |part: &str| {
        let name = part.rsplit(|c: char| !c.is_ascii_uppercase() && c != '_').next().unwrap_or_default();
        name.to_owned()
    };
    let mut told: BTreeSet<String> = line.split('=').map(before).collect();
    told.remove("");
    ensure!(asked == told, "compose.yaml wants {asked:?}, install.md gives {told:?}");
    for (name, service) in composed.services()? {
        // A secret in the file would be in everybody's copy.
        let environment = service["environment"].as_object().context("environment")?;
        for (key, value) in environment.iter().filter(|(key, _)| key.ends_with("PASSWORD")) {
            let value = value.as_str().context("a word")?;
            ensure!(value.starts_with("${") && value.contains(":?"), "{name}: {key} is {value}");
        }
    }
    Ok(())
}

#[test]
fn services_depend_publish_and_are_named_as_the_page_says() -> Result<()> {
    let composed = Composed::read()?;
    let names: BTreeSet<String> = composed.services()?.map(|(name, _)| name.clone()).collect();
    for (name, service) in composed.services()? {
        match service["image"].as_str() {
            Some(image) => {
                let tag = image.rsplit_once(':').map(|(_, tag)| tag);
                let is_exact = tag.is_some_and(|tag| tag.starts_with(|c: char| c.is_ascii_digit()));
                ensure!(is_exact, "{name}: {image} is another one tomorrow");
            }
            None => {
                let folder = service["build"].as_str().context("an image or a recipe")?;
                ensure!(composed.folder.join(folder).join("Dockerfile").exists(), "{name}: {folder}");
            }
        }
        for (other, how) in service["depends_on"].as_object().into_iter().flatten() {
            let is_looked_at = composed.compose["services"][other]["healthcheck"].is_object();
            ensure!(how["condition"] != "service_healthy" || is_looked_at, "{name} waits for {other}");
        }
        ensure!(service["restart"] == "always", "{name} does not come back by itself");
    }
    // Agents come in from outside; pages are for this machine.
    let defaults = load::server(None).map_err(|findings| anyhow::anyhow!("{findings}"))?;
    let port = defaults.sync.listen.port();
    ensure!(list(&composed.compose["services"]["server"]["ports"]) == [format!("{port}:{port}")]);
    for published in list(&composed.compose["services"]["grafana"]["ports"]) {
        ensure!(published.starts_with("127.0.0.1:"), "{published}");
    }

    let page = Document::read("docs/install.md")?;
    let called = page.text.split("docker compose exec ").skip(1).filter_map(|rest| rest.split(' ').next());
    let called: Vec<&str> = called.collect();
    ensure!(called.len() > 1 && called.iter().all(|name| names.contains(*name)), "{called:?} of {names:?}");
    ensure!(page.text.contains("-f /reader.sql "), "install.md makes Grafana's role");
    let mounts = Composed::mounts(&composed.compose["services"]["database"]);
    ensure!(mounts.iter().any(|(_, target, _)| target == "/reader.sql"), "{mounts:?}");

    // The image is made of the package, and runs what is in it.
    let recipe = fs::read_to_string(composed.folder.join("server/Dockerfile"))?;
    ensure!(recipe.contains("COPY forebay-server_*.deb /tmp/"), "{recipe}");
    ensure!(page.text.contains("cp target/packages/forebay-server_*_amd64.deb sync-server/compose/server/"));
    let command = recipe.lines().find_map(|line| line.strip_prefix("CMD ")).context("a command")?;
    let words: Vec<String> = serde_json::from_str(command)?;
    ensure!(words[0] == "/usr/bin/forebay-server", "{words:?}");
    forebay_server::cli::command().try_get_matches_from(&words)?;
    Ok(())
}
