//! README and docs/ as a test sees them: blocks of code, code in the text, links, headings, and the lines of
//! shell in them.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::tests_folder;

/// One page.
#[derive(Clone, Debug)]
pub struct Document {
    /// From the root of the repository: `docs/join.md`.
    pub name: String,
    /// As it is written.
    pub text: String,
}

/// What stands between two lines of three backticks.
#[derive(Clone, Debug)]
pub struct Block {
    /// `page.md:LINE` of its first line.
    pub place: String,
    /// What the fence says: `sh`, `toml`, `text`, `json`.
    pub language: String,
    /// The number of its first line in the page, from 1.
    pub line: usize,
    /// Its lines.
    pub text: String,
}

/// A command line of ours.
#[derive(Clone, Debug)]
pub struct Command {
    /// `page.md:LINE`.
    pub place: String,
    /// The program first.
    pub words: Vec<String>,
    /// What the page shows below it, up to the next command; nothing in blocks of shell.
    pub shown: Vec<String>,
}

/// The root of the repository.
pub fn root() -> PathBuf {
    tests_folder().parent().map_or_else(tests_folder, Path::to_owned)
}

/// README.md and all of docs/.
///
/// # Errors
/// When they cannot be read.
pub fn documents() -> Result<Vec<Document>> {
    let folder = fs::read_dir(root().join("docs"))?.collect::<std::io::Result<Vec<_>>>()?;
    let mut names: Vec<String> =
        folder.iter().map(|entry| format!("docs/{}", entry.file_name().to_string_lossy())).collect();
    names.retain(|name| name.ends_with(".md"));
    names.push("README.md".into());
    names.sort();
    ensure!(names.len() > 5, "{names:?} are all there is");
    names.iter().map(|name| Document::read(name)).collect()
}

impl Document {
    /// The page of this name.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(name: &str) -> Result<Self> {
        let text = fs::read_to_string(root().join(name)).with_context(|| format!("read {name}"))?;
        Ok(Self { name: name.into(), text })
    }

    /// Its lines with their numbers, and whether they stand in a block of code. Fences are left out.
    fn lines(&self) -> impl Iterator<Item = (usize, &str, Option<(&str, usize)>)> {
        let mut fence = None;
        self.text.lines().enumerate().filter_map(move |(index, line)| match line.strip_prefix("```") {
            Some(language) => {
                fence = if fence.is_some() { None } else { Some((language, index + 2)) };
                None
            }
            None => Some((index + 1, line, fence)),
        })
    }

    /// Its blocks of code, in order.
    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        for (_, text, fence) in self.lines() {
            let Some((language, line)) = fence else { continue };
            if blocks.last().is_none_or(|block| block.line != line) {
                let place = format!("{}:{line}", self.name);
                blocks.push(Block { place, language: language.into(), line, text: String::new() });
            }
            if let Some(block) = blocks.last_mut() {
                block.text.push_str(text);
                block.text.push('\n');
            }
        }
        blocks
    }

    /// Code within the text, with its place.
    pub fn code(&self) -> Vec<(String, String)> {
        let text = self.lines().filter(|(_, _, fence)| fence.is_none());
        text.flat_map(|(number, line, _)| {
            let inside = line.split('`').skip(1).step_by(2);
            inside.map(move |code| (format!("{}:{number}", self.name), code.to_owned()))
        })
        .collect()
    }

    /// Where its links lead, with their place.
    pub fn links(&self) -> Vec<(String, String)> {
        let mut links = Vec::new();
        for (number, line, _) in self.lines().filter(|(_, _, fence)| fence.is_none()) {
            for rest in line.split("](").skip(1) {
                let target = rest.split(')').next().unwrap_or_default();
                links.push((format!("{}:{number}", self.name), target.to_owned()));
            }
        }
        links
    }

    /// What a link may have behind `#`.
    pub fn anchors(&self) -> Vec<String> {
        let text = self.lines().filter(|(_, _, fence)| fence.is_none());
        let headings = text.filter_map(|(_, line, _)| line.trim_start_matches('#').strip_prefix(' '));
        let slug = |heading: &str| {
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.collect::<String>().trim().to_lowercase().replace(' ', "-")
        };
        headings.map(slug).collect()
    }

    /// The command lines of its blocks, with what is shown below them.
    pub fn commands(&self) -> Vec<Command> {
        let mut commands: Vec<Command> = Vec::new();
        for block in self.blocks() {
            let here = commands.len();
            for (index, line) in block.text.lines().enumerate() {
                let place = format!("{}:{}", self.name, block.line + index);
                let prompt = ["server$ ", "gateway# ", "$ "].iter().find_map(|p| line.strip_prefix(p));
                let typed = prompt.or((block.language == "sh").then_some(line));
                if let Some(typed) = typed {
                    let new = shell(typed).into_iter();
                    commands.extend(new.map(|words| Command { place: place.clone(), words, shown: vec![] }));
                } else if let Some(command) = commands[here..].last_mut() {
                    command.shown.push(line.to_owned());
                }
            }
        }
        commands
    }

    /// The one command of its blocks that begins with these words, wrappers left out.
    ///
    /// # Errors
    /// When there is none.
    pub fn command(&self, begins: &str) -> Result<Command> {
        let wanted = shell(begins).into_iter().flatten().collect::<Vec<_>>();
        let found = self.commands().into_iter().find(|command| command.words.starts_with(&wanted));
        found.with_context(|| format!("{} has no command `{begins}`", self.name))
    }
}

/// The simple commands of a line of shell, each as its words: without comments, redirections, variables,
/// and what only says who runs it or where (`sudo -u forebay`).
pub fn shell(line: &str) -> Vec<Vec<String>> {
    let mut commands: Vec<Vec<String>> = vec![vec![]];
    let mut skip = false;
    for (word, is_quoted) in words(line) {
        match word.as_str() {
            "&&" | "||" | ";" | "|" if !is_quoted => commands.push(vec![]),
            ">" | ">>" | "<" | "<<<" if !is_quoted => skip = true,
            _ if std::mem::take(&mut skip) => {}
            _ => {
                if let Some(command) = commands.last_mut() {
                    command.push(word);
                }
            }
        }
    }
    commands.iter_mut().for_each(unwrap);
    commands.retain(|command| !command.is_empty());
    commands
}

/// Words and whether they stand in quotes. Operators are words of their own.
fn words(line: &str) -> Vec<(String, bool)> {
    let mut words: Vec<(String, bool)> = Vec::new();
    let mut open: Option<(String, bool)> = None;
    let mut quote = None;
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (Some(mark), _) if letter == mark => quote = None,
            (Some(_), _) => open.get_or_insert_default().0.push(letter),
            (None, '\'' | '"') => {
                quote = Some(letter);
                open.get_or_insert_default().1 = true;
            }
            (None, '#') if open.is_none() => break,
            (None, _) if letter.is_whitespace() => words.extend(open.take()),
            (None, '|' | '&' | ';' | '<' | '>') => {
                words.extend(open.take());
                let mut operator = String::from(letter);
                while let Some(more) = letters.next_if(|more| "|&<>".contains(*more)) {
                    operator.push(more);
                }
                words.push((operator, false));
            }
            (None, _) => open.get_or_insert_default().0.push(letter),
        }
    }
    words.extend(open);
    words
}

/// Takes away what stands before the program.
fn unwrap(command: &mut Vec<String>) {
    loop {
        let drop: Range<usize> = match command.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["sudo" | "runuser", "-u", _, "--", ..] => 0..4,
            ["sudo" | "runuser", "-u", ..] => 0..3,
            ["sudo", ..] => 0..1,
            ["docker", "compose", "exec", _, ..] => 0..4,
            [first, ..] if first.split_once('=').is_some_and(|(name, _)| is_variable(name)) => 0..1,
            _ => return,
        };
        command.drain(drop.start..drop.end.min(command.len()));
    }
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
}

/// Is every line that a page shows said, in this order? Names, words and the form are compared; numbers,
/// times, keys and the units they come with are not. `…` stands for the rest of a line, or for lines.
///
/// # Errors
/// With the first line that is not.
pub fn is_said(shown: &[String], said: &str) -> Result<()> {
    let mut rest = said.lines();
    for line in shown.iter().filter(|line| !matches!(line.trim(), "" | "…")) {
        let form = form(line);
        let is_it = |said: &str| {
            let said = self::form(said);
            match form.split_last() {
                Some((last, head)) if last == "…" => said.starts_with(head),
                _ => said == form,
            }
        };
        ensure!(
            rest.any(is_it),
            "the page shows\n  {line}\nand what was said, from there on, does not:\n{said}"
        );
    }
    Ok(())
}

/// A line as far as it is compared.
fn form(line: &str) -> Vec<String> {
    const UNITS: [&str; 11] = ["B", "KiB", "MiB", "GiB", "us", "ms", "s", "min", "h", "days", "ago"];
    let parts = line.split(|c: char| c.is_whitespace() || "(),;".contains(c)).filter(|part| !part.is_empty());
    let mut form: Vec<String> = Vec::new();
    for part in parts {
        // A dash stands for a number that is not known.
        let part = if part == "-" || part.chars().any(|c| c.is_ascii_digit()) { "0" } else { part };
        // Neither its unit nor its thousands (131, and 1,310) make it another number.
        let goes_on = part == "0" || UNITS.contains(&part);
        if !(goes_on && form.last().is_some_and(|last| last == "0")) {
            form.push(part.to_owned());
        }
    }
    form
}

#[cfg(test)]
mod tests {
    use super::*;

    fn simple(line: &str) -> Vec<String> {
        shell(line).iter().map(|command| command.join(" ")).collect()
    }

    #[test]
    fn a_line_of_shell_is_taken_apart() {
        assert_eq!(
            simple("sudo -u forebay forebay-agent join 'fbj1.…'  # once"),
            ["forebay-agent join fbj1.…"]
        );
        assert_eq!(simple("editor a.toml && A=1 b --c > d | e"), ["editor a.toml", "b --c", "e"]);
        assert_eq!(shell("x 'a b' \"c;d\""), [["x", "a b", "c;d"]]);
        assert_eq!(simple("docker compose exec server forebay-server check"), ["forebay-server check"]);
        assert_eq!(simple("# only words"), Vec::<String>::new());
    }

    #[test]
    fn a_page_is_taken_apart() {
        let text = "# The head, of it\n[x](y.md#z) `a b`\n```text\n$ p q\nsaid\n$ r\n```\n```sh\ns; t\n```\n";
        let page = Document { name: "x.md".into(), text: text.into() };
        assert_eq!(page.anchors(), ["the-head-of-it"]);
        assert_eq!(page.links(), [("x.md:2".to_owned(), "y.md#z".to_owned())]);
        assert_eq!(page.code(), [("x.md:2".to_owned(), "a b".to_owned())]);
        let commands = page.commands();
        let told: Vec<_> = commands.iter().map(|one| (one.place.as_str(), one.words.join(" "))).collect();
        let wanted = [("x.md:4", "p q"), ("x.md:6", "r"), ("x.md:9", "s"), ("x.md:9", "t")];
        assert_eq!(told, wanted.map(|(place, words)| (place, words.to_owned())));
        assert_eq!((commands[0].shown.as_slice(), commands[1].shown.len()), (&["said".to_owned()][..], 0));
        assert_eq!(page.blocks()[1].line, 9);
    }

    #[test]
    fn numbers_may_differ_and_words_may_not() {
        let shown = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let said = "Buffer  nothing waits; 1,234 KiB of 1.0 GiB\nlink  x is down: cannot reach 1: refused\n";
        is_said(&shown("Buffer nothing waits; 3.5 MiB of 2.0 GiB\n…\nlink  x is down: cannot …"), said)
            .unwrap();
        assert!(is_said(&shown("Buffer nothing waits; 3 MiB of it"), said).is_err());
        assert!(is_said(&shown("link …\nBuffer …"), said).is_err(), "in another order");
    }
}
