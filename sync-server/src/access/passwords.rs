//! Passwords: Argon2id, off the runtime's threads, and few at once.
//!
//! A hash costs 19 MiB and two passes (the least of OWASP's Password Storage Cheat Sheet): what a small
//! server can spare, for each of at most [`AT_ONCE`].

use std::time::Duration;

use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// KiB.
const MEMORY: u32 = 19 * 1024;
const PASSES: u32 = 2;
/// Hashes under way. More log-ins wait, for a while.
const AT_ONCE: usize = 2;
const WAIT: Duration = Duration::from_secs(10);

/// In characters.
const SHORTEST: usize = 10;
/// In bytes.
const LONGEST: usize = 256;
const LONGEST_NAME: usize = 64;

/// Makes and checks hashes.
#[derive(Debug)]
pub struct Passwords {
    room: Semaphore,
}

/// Why there is no hash and no verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Too many at once.
    #[error("too many log-ins at once")]
    Busy,
    /// Out of memory, or out of random numbers.
    #[error("a password could not be hashed")]
    Failed,
}

impl Passwords {
    /// Room for a few at once.
    pub fn new() -> Self {
        Self { room: Semaphore::new(AT_ONCE) }
    }

    /// The PHC string of a password, with a salt of its own.
    ///
    /// # Errors
    /// When there is no room, no memory or no random numbers.
    pub async fn hash(&self, password: &str) -> Result<String, PasswordError> {
        let password = password.to_owned();
        self.apart(move || hash(&password)).await?
    }

    /// Does it belong to this hash? Without a hash (there is no such user) it takes as long, and does not.
    ///
    /// # Errors
    /// When there is no room or no memory.
    pub async fn verify(&self, password: &str, hash: Option<&str>) -> Result<bool, PasswordError> {
        let (password, hash) = (password.to_owned(), hash.map(str::to_owned));
        self.apart(move || match hash {
            Some(hash) => Ok(hasher()?.verify_password(password.as_bytes(), hash.as_str()).is_ok()),
            None => self::hash(&password).map(|_| false),
        })
        .await?
    }

    async fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        let permit = timeout(WAIT, self.room.acquire()).await;
        let Ok(Ok(_permit)) = permit else { return Err(PasswordError::Busy) };
        tokio::task::spawn_blocking(work).await.map_err(|_| PasswordError::Failed)
    }
}

impl Default for Passwords {
    fn default() -> Self {
        Self::new()
    }
}

fn hasher() -> Result<Argon2<'static>, PasswordError> {
    let params = Params::new(MEMORY, PASSES, 1, None).map_err(|_| PasswordError::Failed)?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn hash(password: &str) -> Result<String, PasswordError> {
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(|_| PasswordError::Failed)?;
    let hash = hasher()?.hash_password_with_salt(password.as_bytes(), &salt);
    hash.map(|hash| hash.to_string()).map_err(|_| PasswordError::Failed)
}

/// Is it good for a password of this user? Long beats colourful: nothing is asked of its letters.
///
/// # Errors
/// Why not, in words.
pub fn judge_password(name: &str, password: &str) -> Result<(), String> {
    let letters: Vec<char> = password.chars().collect();
    if letters.len() < SHORTEST {
        return Err(format!("a password has {SHORTEST} characters at least; a few words make a good one"));
    }
    if password.len() > LONGEST {
        return Err(format!("a password has {LONGEST} bytes at most"));
    }
    if letters.windows(2).all(|two| matches!(two, [one, other] if one == other)) {
        return Err("a password is more than one character again and again".into());
    }
    if password.to_lowercase().contains(&name.to_lowercase())
        && letters.len() < name.chars().count() + SHORTEST
    {
        return Err(
            "a password that is the user's name, or little more, is the first one anybody tries".into()
        );
    }
    Ok(())
}

/// The name as it is kept, in lower case.
///
/// # Errors
/// Why it cannot be one.
pub fn judge_name(name: &str) -> Result<String, String> {
    let is_fit = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
    if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(is_fit) {
        return Err(format!(
            "`{name}` is not a name: 1 to {LONGEST_NAME} letters, digits, and `.`, `_`, `-`, `@`"
        ));
    }
    Ok(name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_belongs_to_its_hash_and_no_hash_is_like_another() {
        let passwords = Passwords::new();
        let one = passwords.hash("correct horse battery").await.unwrap();
        let other = passwords.hash("correct horse battery").await.unwrap();
        assert_ne!(one, other, "each has a salt of its own");
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{one}");
        assert_eq!(passwords.verify("correct horse battery", Some(&one)).await, Ok(true));
        assert_eq!(passwords.verify("correct horse batterz", Some(&one)).await, Ok(false));
        assert_eq!(passwords.verify("correct horse battery", None).await, Ok(false));
        assert_eq!(passwords.verify("x", Some("no hash at all")).await, Ok(false));
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_room_is_taken_a_log_in_waits_for_a_while_only() {
        let passwords = Passwords::new();
        let _taken = passwords.room.acquire_many(AT_ONCE as u32).await.unwrap();
        assert_eq!(passwords.verify("x", None).await, Err(PasswordError::Busy));
    }

    #[test]
    fn weak_passwords_are_refused_with_the_reason() {
        for (password, why) in [
            ("short", "10 characters"),
            ("aaaaaaaaaaaaaaa", "again and again"),
            ("Anna.Smith1", "the user's name"),
            (&*"x1".repeat(200), "256 bytes"),
        ] {
            let refused = judge_password("anna.smith", password).unwrap_err();
            assert!(refused.contains(why), "{password}: {refused}");
        }
        assert_eq!(judge_password("anna", "four words and a pear"), Ok(()));
    }

    #[test]
    fn names_are_kept_in_lower_case() {
        assert_eq!(judge_name("Anna.Smith@plant"), Ok("anna.smith@plant".into()));
        for wrong in ["", "a b", "anna/1", "ann\u{430}", &*"x".repeat(65)] {
            assert!(judge_name(wrong).is_err(), "{wrong}");
        }
    }
}
