//! README and docs/ hold what they say: commands and flags are there, configuration is accepted, links lead
//! somewhere, names are those of the code. What they show of a running house is held against one in
//! `documents_shown.rs`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::error::ErrorKind;
use forebay_tests::documents::{Document, documents, root, shell};
use forebay_tests::programs;

/// Every fault of all pages at once.
fn none(faults: Vec<String>) -> Result<()> {
    ensure!(faults.is_empty(), "{} places are wrong:\n{}", faults.len(), faults.join("\n"));
    Ok(())
}

/// Our programs by their command lines, as they are built.
fn parser(program: &str) -> Option<clap::Command> {
    match program {
        "forebay-agent" => Some(forebay_agent::cli::command()),
        "forebay-server" => Some(forebay_server::cli::command()),
        _ => None,
    }
}

/// What the program's own parser has against these words.
fn refusal(words: &[String]) -> Option<clap::Error> {
    parser(words.first()?)?.try_get_matches_from(words).err()
}

fn first_line(error: &impl ToString) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

#[test]
fn every_command_of_ours_in_a_block_is_one_the_programs_take() -> Result<()> {
    let (mut faults, mut seen) = (Vec::new(), 0);
    for page in documents()? {
        for command in page.commands() {
            seen += usize::from(command.words.first().is_some_and(|word| parser(word).is_some()));
            if let Some(error) = refusal(&command.words) {
                faults.push(format!("{}: {:?}: {}", command.place, command.words, first_line(&error)));
            }
        }
    }
    ensure!(seen > 35, "{seen} commands were found; the pages had more");
    none(faults)
}

#[test]
fn every_command_and_flag_named_in_the_text_is_there() -> Result<()> {
    let subcommands: Vec<(String, &str)> = ["forebay-agent", "forebay-server"]
        .iter()
        .filter_map(|program| Some((parser(program)?, *program)))
        .flat_map(|(parser, program)| {
            let names: Vec<_> = parser.get_subcommands().map(|one| one.get_name().to_owned()).collect();
            names.into_iter().map(move |name| (name, program))
        })
        .collect();
    let (mut faults, mut seen) = (Vec::new(), 0);
    for page in documents()? {
        for (place, code) in page.code().into_iter().filter(|(_, code)| !REASONS.contains(&code.as_str())) {
            // What may be left out, and what is left out.
            let bare = code.replace(['[', ']', '…'], "");
            let Some(words) = shell(&bare).into_iter().next() else { continue };
            let takers: Vec<Vec<String>> = match words.as_slice() {
                [first, ..] if parser(first).is_some() => vec![words],
                // "`tenant = …`": a line of a configuration.
                [_, second, ..] if second == "=" => continue,
                // "`token create`": the program is clear from what stands around.
                [first, _, ..] => {
                    let of = subcommands.iter().filter(|(name, _)| name == first);
                    of.map(|(_, program)| [&[(*program).to_owned()], words.as_slice()].concat()).collect()
                }
                _ => continue,
            };
            if takers.is_empty() {
                continue;
            }
            seen += 1;
            let refused: Vec<String> = takers.iter().filter_map(|words| unknown(words)).collect();
            if refused.len() == takers.len() {
                faults.push(format!("{place}: `{code}`: {}", refused.join("; ")));
            }
        }
    }
    ensure!(seen > 40, "{seen} commands were found; the pages had more");
    none(faults)
}

/// Reasons of gaps, which begin like a command.
const REASONS: [&str; 2] = ["buffer full", "buffer wiped"];

/// Text may leave values out. What it names must be there.
fn unknown(words: &[String]) -> Option<String> {
    use ErrorKind::*;
    let error = refusal(words)?;
    let is_short = matches!(
        error.kind(),
        InvalidValue
            | ValueValidation
            | MissingRequiredArgument
            | MissingSubcommand
            | DisplayHelp
            | DisplayVersion
            | DisplayHelpOnMissingArgumentOrSubcommand
    );
    (!is_short).then(|| first_line(&error))
}

/// `--help` behind them makes the programs look at the words and do nothing.
#[test]
fn what_is_said_of_the_demo_and_of_our_scripts_is_so() -> Result<()> {
    let own = std::env::current_exe()?;
    let demo = own.ancestors().nth(2).context("a test lies below target/")?.join("forebay-demo");
    let read = |path: &str| fs::read_to_string(root().join(path)).with_context(|| format!("read {path}"));
    let families = read("tests/src/faults.rs")?;
    let benches = read("tests/bench")?;
    let alias: toml::Table = read(".cargo/config.toml")?.parse()?;
    let (mut faults, mut seen) = (Vec::new(), 0);
    for page in documents()? {
        let typed = page.commands().into_iter().map(|one| (one.place, one.words));
        let named = page.code().into_iter().flat_map(|(place, code)| {
            shell(&code.replace(['[', ']', '…'], "")).into_iter().map(move |words| (place.clone(), words))
        });
        for (place, words) in typed.chain(named) {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let options = |from: usize| words[from..].iter().filter(|word| word.starts_with("--"));
            match words.as_slice() {
                ["cargo", "demo", rest @ ..] => {
                    // All that is typed behind it reaches the program, a `--` too.
                    let alias = alias["alias"]["demo"].as_str().context("cargo demo")?;
                    ensure!(alias.ends_with("--bin forebay-demo --"), "cargo demo is {alias}");
                    let out = Command::new(&demo).args(rest).arg("--help").output().context("the demo")?;
                    if !out.status.success() {
                        let why = String::from_utf8_lossy(&out.stderr).into_owned();
                        faults.push(format!("{place}: {words:?}: {}", first_line(&why)));
                    }
                }
                [script @ ("tests/faults" | "tests/fuzz" | "tests/run" | "tests/bench"), rest @ ..] => {
                    let bin = format!("{}.rs", script.replace("tests/", "tests/src/bin/"));
                    let text = read(script)? + &read(&bin).unwrap_or_default();
                    for option in options(1) {
                        let name = option.trim_start_matches('-').replace('-', "_");
                        if *option != "--" && !text.contains(*option) && !text.contains(&format!(" {name}: "))
                        {
                            faults.push(format!("{place}: {script} has no {option}"));
                        }
                    }
                    let names = rest.iter().take_while(|word| !word.starts_with("--"));
                    for name in
                        names.flat_map(|word| word.split('|')).filter(|word| word.starts_with(is_small))
                    {
                        let known = match *script {
                            "tests/bench" => {
                                benches.contains(&format!("|{name}|"))
                                    || benches.contains(&format!("[{name}|"))
                                    || benches.contains(&format!("|{name}]"))
                            }
                            _ => families.contains(&format!("name: \"{name}\"")),
                        };
                        if !known {
                            faults.push(format!("{place}: {script} has no {name}"));
                        }
                    }
                }
                [script @ ("cross/build" | "cross/package" | "cross/test"), rest @ ..] => {
                    let (text, choices) = (read(script)?, read("cross/choose")?);
                    for option in options(1).filter(|option| !text.contains(**option)) {
                        faults.push(format!("{place}: {script} has no {option}"));
                    }
                    for target in
                        rest.iter().filter(|word| word.contains("-unknown-") && !choices.contains(**word))
                    {
                        faults.push(format!("{place}: {target} is no target of ours"));
                    }
                }
                _ => continue,
            }
            seen += 1;
        }
    }
    ensure!(seen > 30, "{seen} mentions were found; the pages had more");
    none(faults)
}

fn is_small(letter: char) -> bool {
    letter.is_ascii_lowercase()
}

/// Sections of the server's configuration that the agent's has not.
const OF_SERVER: [&str; 8] =
    ["[server", "[store", "[sync", "[web", "[access", "[retention", "[alarm.", "[webhook."];

/// By the programs themselves, so that a mistake is told as an operator sees it; blank lines above make its
/// line the page's.
#[test]
fn every_piece_of_configuration_is_accepted() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let credentials = folder.path().join("credentials");
    fs::create_dir(&credentials)?;
    let (mut faults, mut seen) = (Vec::new(), 0);
    for page in documents()? {
        for block in page.blocks().into_iter().filter(|block| block.language == "toml") {
            seen += 1;
            for secret in block.text.split("${credential:").skip(1) {
                let name = secret.split('}').next().unwrap_or_default();
                fs::write(credentials.join(name), "a secret of more than sixteen letters")?;
            }
            let is_server =
                block.text.lines().any(|line| OF_SERVER.iter().any(|head| line.starts_with(head)));
            let mut text = "\n".repeat(block.line - 1) + &block.text;
            if !is_server && !block.text.contains("[agent]") {
                text += "[agent]\nsite = \"t\"\ngateway = \"g\"\n";
            }
            let file = folder.path().join(page.name.replace('/', "-")).with_extension("toml");
            fs::write(&file, text)?;
            let programs = programs()?;
            let program = if is_server { programs.server } else { programs.agent };
            let out = Command::new(&program.words()[0])
                .args(["check".as_ref(), "--config".as_ref(), file.as_os_str()])
                .env("CREDENTIALS_DIRECTORY", &credentials)
                .output()?;
            if !out.status.success() {
                let why = String::from_utf8_lossy(&out.stderr).replace(&*file.to_string_lossy(), &page.name);
                faults.push(format!("{}: {why}", block.place));
            }
        }
        for block in page.blocks().into_iter().filter(|block| block.language == "json") {
            if let Err(why) = serde_json::from_str::<serde_json::Value>(&block.text) {
                faults.push(format!("{}: {why}", block.place));
            }
        }
    }
    ensure!(seen >= 3, "{seen} pieces were found; the pages had more");
    none(faults)
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() -> Result<()> {
    let (mut faults, mut seen) = (Vec::new(), 0);
    for page in documents()? {
        let here = root().join(&page.name);
        for (place, target) in page.links() {
            if target.starts_with("https://") {
                continue;
            }
            seen += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let path = if file.is_empty() { here.clone() } else { here.with_file_name("").join(file) };
            if !path.exists() {
                faults.push(format!("{place}: there is no {file}"));
            } else if !anchor.is_empty() {
                let name = path.canonicalize()?;
                let name = name.strip_prefix(root().canonicalize()?)?.to_string_lossy().into_owned();
                if !Document::read(&name)?.anchors().iter().any(|known| known == anchor) {
                    faults.push(format!("{place}: {name} has no heading #{anchor}"));
                }
            }
        }
    }
    ensure!(seen > 30, "{seen} links were found; the pages had more");
    none(faults)
}

#[test]
fn every_file_that_is_named_is_there() -> Result<()> {
    let mut folders: Vec<String> = Vec::new();
    for entry in fs::read_dir(root())?.flatten().filter(|entry| entry.path().is_dir()) {
        folders.push(entry.file_name().to_string_lossy().into_owned());
    }
    // What only a build or a test makes.
    folders.retain(|name| !name.starts_with('.') && name != "target");
    let (mut faults, mut seen) = (Vec::new(), 0);
    for page in documents()? {
        let named = page
            .code()
            .into_iter()
            .map(|(place, code)| (place, code.split(' ').next().unwrap_or_default().to_owned()));
        let typed = page.commands().into_iter().flat_map(|one| {
            let place = one.place;
            one.words.into_iter().map(move |word| {
                (place.clone(), word.rsplit_once('=').map_or(word.clone(), |(_, path)| path.to_owned()))
            })
        });
        for (place, path) in named.chain(typed) {
            let Some((first, _)) = path.split_once('/') else { continue };
            let is_pattern = path.contains(['*', '<', '[', '{', '(']) || path.contains("NAME");
            if is_pattern || !folders.iter().any(|folder| folder == first) {
                continue;
            }
            seen += 1;
            if !root().join(path.trim_end_matches([',', '.'])).exists() {
                faults.push(format!("{place}: there is no {path}"));
            }
        }
    }
    ensure!(seen > 30, "{seen} files were found; the pages had more");
    none(faults)
}

/// All that is written below these folders.
fn sources(folders: &[&str]) -> Result<String> {
    let mut text = String::new();
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if !is_document(&path) {
                text.push_str(&fs::read_to_string(&path).unwrap_or_default());
            }
        }
    }
    Ok(text)
}

fn is_document(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "md" || end == "png")
}

/// Metrics are API, and so is what the environment says.
#[test]
fn metrics_variables_and_settings_go_by_the_names_they_are_given() -> Result<()> {
    let code = sources(&["agent/src", "sync-server/src", "tests", "cross", "sync-server/compose"])?;
    let names: BTreeSet<&str> = code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    let examples = [sources(&["config/examples"])?, sources(&["config/src"])?];
    let (mut faults, mut seen) = (Vec::new(), 0);
    for page in documents()? {
        for (number, line) in page.text.lines().enumerate() {
            let place = format!("{}:{}", page.name, number + 1);
            let words = line.split(|c: char| !c.is_ascii_alphanumeric() && !"_.".contains(c));
            for word in words.map(|word| word.trim_end_matches(['.', '_'])) {
                let is_metric = word.starts_with("forebay_agent_") || word.starts_with("forebay_server_");
                if is_metric || word.starts_with("FOREBAY_") {
                    seen += 1;
                    if !names.contains(word) {
                        faults.push(format!("{place}: nothing in the code goes by {word}"));
                    }
                }
            }
        }
        for (place, code) in page.code() {
            let Some((section, key)) = code.split_once('.') else { continue };
            let is_setting =
                SECTIONS.contains(&section) && key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            if !is_setting || FILES.contains(&code.as_str()) {
                continue;
            }
            seen += 1;
            let is_there = |line: &str| {
                let line = line.trim_start_matches(['#', ' ']);
                line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='))
            };
            // Of the sections of links and rules an example stands below a name.
            if !examples[0].lines().any(is_there) && !examples[1].contains(&format!("\"{key}\"")) {
                faults.push(format!("{place}: no example has `{key}` of [{section}]"));
            }
        }
    }
    ensure!(seen > 10, "{seen} names were found; the pages had more");
    none(faults)
}

const SECTIONS: [&str; 11] = [
    "agent",
    "buffer",
    "uplink",
    "telemetry",
    "log",
    "server",
    "store",
    "sync",
    "web",
    "access",
    "retention",
];
const FILES: [&str; 6] = ["agent.toml", "server.toml", "agent.d", "server.d", "log.txt", "buffer.txt"];

/// The table of docs/join.md, the help of the command and the codes it ends with are one list.
#[test]
fn the_exit_codes_of_join_are_those_of_its_help() -> Result<()> {
    let page = Document::read("docs/join.md")?;
    let cells =
        page.text.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next()?.parse().ok());
    let documented: Vec<u8> = cells.collect();
    let help = forebay_agent::cli::join::HELP;
    let numbers = help.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok());
    let told: Vec<u8> = numbers.collect();
    ensure!(
        documented.len() > 10 && documented == told,
        "docs/join.md has {documented:?}, the help {told:?}"
    );
    Ok(())
}
