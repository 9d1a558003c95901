//! `join --offline FOLDER`: the same without a network. The folder, on a USB stick say, goes to the server and
//! comes back: the first run writes a request into it, the second one takes the answer that an operator had
//! `forebay-server agents answer` write.
//!
//! The key is kept here from the first run to the second. Nothing in the folder is believed: the answer must
//! fit the key, and the CA of the join string where there is one.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::private_files;
use forebay_protocols::sync::join::JoinString;
use forebay_protocols::sync::offline::{
    ANSWER_ENDS, LONGEST, OfflineAnswer, OfflineRequest, REQUEST_ENDS, pin_words, stem,
};
use forebay_protocols::sync::tls::{self, Application, Errand, FreshKey, Identity};
use rustls::RootCertStore;

use super::checklist::Checklist;
use super::{Applicant, JoinError, identity_folder, prepare};
use crate::uplink::admission;

/// Writes the request, or takes the answer that is there.
pub(super) fn attempt(
    applicant: Applicant<'_>,
    folder: &Path,
    text: Option<&str>,
) -> (Checklist, Result<(), JoinError>) {
    let mut checklist = Checklist::default();
    let outcome = steps(&mut checklist, applicant, folder, text);
    if let Err(error) = &outcome {
        checklist.fail(error.to_string());
    }
    (checklist, outcome)
}

fn steps(
    list: &mut Checklist,
    applicant: Applicant<'_>,
    folder: &Path,
    text: Option<&str>,
) -> Result<(), JoinError> {
    let Applicant { state_dir, site, gateway, proxy: _ } = applicant;
    let mut join: Option<JoinString> = None;
    if let Some(text) = text {
        list.begin("join string");
        let string: JoinString = text.parse()?;
        list.pass(format!("for the server at {}", string.address));
        join = Some(string);
    }

    list.begin("state directory");
    let own = identity_folder(state_dir);
    let former = prepare(&own)?;
    list.pass(match former {
        true => format!("{} (the identity in it will be replaced)", own.display()),
        false => own.display().to_string(),
    });

    list.begin("key");
    let name = format!("{site}/{gateway}");
    let kept = Errand::load(&own).ok().flatten().filter(|kept| kept.name == name);
    let asked_before = kept.is_some();
    let mut errand = match kept {
        Some(kept) => kept,
        None => Errand::new(name.clone(), None, FreshKey::generate()?),
    };
    errand.join = join.or(errand.join);
    let key = errand.key()?;
    let words = tls::key_words(&key.fingerprint());
    list.pass(match asked_before {
        true => format!("{words}, the one it asked with before; it stays here"),
        false => format!("{words}, made on this gateway; it stays here"),
    });

    list.begin("answer");
    let path = folder.join(stem(site, gateway) + ANSWER_ENDS);
    let found = read(&path).map_err(|source| JoinError::cannot("read", &path, &source))?;
    let answer = found.map(|text| OfflineAnswer::read(&text)).transpose();
    let answer = answer.map_err(|why| JoinError::Folder(format!("{}: {why}", path.display())))?;
    match answer {
        Some(answer) if is_joined_by(&own, &answer) => {
            list.pass(format!("{}: this gateway has joined with it", path.display()));
            Ok(())
        }
        Some(answer) if asked_before => {
            if answer.name != name || answer.key != words {
                return Err(JoinError::ForAnother {
                    path,
                    whom: format!("{} (key {})", answer.name, answer.key),
                    us: format!("{name} (key {words})"),
                });
            }
            list.pass(path.display().to_string());
            take(list, &own, answer, &errand, key)
        }
        other => {
            match other {
                None => list.pass(format!("none in {} yet", folder.display())),
                Some(old) => list.warn(format!(
                    "{} is for another key ({}), an earlier one; the server replaces it",
                    path.display(),
                    old.key
                )),
            }
            ask(list, applicant, folder, &errand, &key)
        }
    }
}

/// Writes the request.
fn ask(
    list: &mut Checklist,
    applicant: Applicant<'_>,
    folder: &Path,
    errand: &Errand,
    key: &FreshKey,
) -> Result<(), JoinError> {
    let Applicant { state_dir, site, gateway, proxy: _ } = applicant;
    list.begin("request");
    let token = errand.join.as_ref().map(|join| join.secret.hash());
    let told = (env!("CARGO_PKG_VERSION"), wall_micros());
    let text = OfflineRequest::write(key, (site, gateway), token, told)?;
    // The key first: an answer to one that is gone is worth nothing.
    errand.save(&identity_folder(state_dir))?;
    let path = folder.join(stem(site, gateway) + REQUEST_ENDS);
    private_files::replace(&path, text.as_bytes(), 0o644)
        .map_err(|source| JoinError::cannot("write", &path, &source))?;
    list.pass(path.display().to_string());
    list.begin("let in");
    Err(JoinError::ToBeCarried { folder: folder.to_owned(), key: tls::key_words(&key.fingerprint()) })
}

/// Makes the answer this gateway's identity, if it is good.
fn take(
    list: &mut Checklist,
    own: &Path,
    answer: OfflineAnswer,
    errand: &Errand,
    key: FreshKey,
) -> Result<(), JoinError> {
    list.begin("server known");
    let OfflineAnswer { made_us, server, ca_pin, answer, .. } = answer;
    let pin = match &errand.join {
        Some(join) => {
            // A CA that took the place of the string's shows its proof in the answer; `certified` wants it.
            if ca_pin != join.ca_pin && tls::fingerprint(&answer.former) != join.ca_pin {
                return Err(JoinError::WrongServer { server });
            }
            list.pass(format!("{server}, by its CA the one that made the join string"));
            join.ca_pin
        }
        None => {
            list.pass(format!(
                "{server}, CA {}…: compare it with `forebay-server ca status` there",
                pin_words(&ca_pin)
            ));
            ca_pin
        }
    };

    list.begin("let in");
    let agent = answer.agent.clone();
    let refused = |why: String| JoinError::Refused { server: server.clone(), why };
    if agent != errand.name {
        return Err(refused("its answer is for another gateway".into()));
    }
    let identity = admission::certified(&server, pin, answer, key).map_err(refused)?;
    let (from, until) = identity.validity().ok_or_else(|| refused("its certificate has no dates".into()))?;
    signed(&identity, from).map_err(|why| refused(format!("its CA did not sign the certificate: {why}")))?;
    let now_us = wall_micros();
    if now_us.div_euclid(1_000_000) >= until {
        return Err(JoinError::Ended { until: moment(until), now: moment(now_us.div_euclid(1_000_000)) });
    }
    list.pass(format!("as {agent}"));

    list.begin("identity kept");
    identity.save(own)?;
    Errand::forget(own)?;
    Application::forget(own)?;
    list.pass(own.display().to_string());

    list.begin("clock");
    // How long the answer was on its way nobody knows; it was not carried into the past.
    match made_us.saturating_sub(now_us) / 1_000_000 {
        ..5 => list.pass("not behind the answer".into()),
        seconds => list.warn(format!(
            "{seconds} s behind the answer at least; readings are corrected on their way, but set it if you can"
        )),
    }
    Ok(())
}

fn signed(identity: &Identity, from: i64) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.ca.clone()).map_err(|error| error.to_string())?;
    let certificate = identity.chain.first().ok_or("there is none")?;
    tls::signed_under(roots, certificate, from)
}

/// Is it the one that this gateway has its identity from?
fn is_joined_by(own: &Path, answer: &OfflineAnswer) -> bool {
    let Ok(Some(identity)) = Identity::load(own) else { return false };
    let (ours, theirs) = (identity.chain.first(), answer.answer.chain.first());
    ours.zip(theirs).is_some_and(|(ours, theirs)| ours.as_ref() == theirs.as_ref())
}

/// All of a small file; nothing if it is not there.
fn read(path: &Path) -> io::Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

fn moment(second: i64) -> String {
    jiff::Timestamp::from_second(second).map_or_else(|_| "unknown".into(), |time| time.to_string())
}

impl JoinError {
    fn cannot(doing: &str, path: &Path, source: &io::Error) -> Self {
        let path: PathBuf = path.into();
        Self::Folder(format!(
            "cannot {doing} {}: {source}; is the stick there, and may it be written?",
            path.display()
        ))
    }
}
