//! How often: log-ins by name and address, requests by whoever asks. Each has a bucket that fills at its
//! rate; an attempt takes one out. Buckets are kept in memory, and at most [`MOST`] of them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Proof;
use crate::store::{KeyKey, UserKey};

/// Beyond it the fullest half goes: nobody who is held up is let off before all others are.
const MOST: usize = 20_000;

/// How many at once, and how many a second after that.
#[derive(Clone, Copy, Debug)]
struct Rate {
    burst: f64,
    a_second: f64,
}

/// One name from one address: someone who mistypes.
const LOGIN: Rate = Rate { burst: 6.0, a_second: 1.0 / 30.0 };
/// One address, any name: someone who tries names.
const LOGIN_FROM: Rate = Rate { burst: 30.0, a_second: 1.0 / 6.0 };
/// One name, any address: many who try one name. The user may be held up too, by some seconds.
const LOGIN_NAME: Rate = Rate { burst: 60.0, a_second: 1.0 / 5.0 };
/// One address, cookies and keys that are nobody's.
const STRANGER: Rate = Rate { burst: 120.0, a_second: 1.0 };

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    Login(String, Option<IpAddr>),
    LoginFrom(Option<IpAddr>),
    LoginName(String),
    Stranger(Option<IpAddr>),
    User(i64),
    Key(i64),
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
    rate: Rate,
}

impl Bucket {
    fn level(&self, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        (self.left + since * self.rate.a_second).min(self.rate.burst)
    }
}

/// All buckets.
#[derive(Debug)]
pub(super) struct Limits {
    requests: Rate,
    buckets: Mutex<HashMap<Subject, Bucket>>,
}

impl Limits {
    /// `requests` a minute of one user or key.
    pub(super) fn new(requests: u32) -> Self {
        let a_second = f64::from(requests) / 60.0;
        let requests = Rate { burst: (a_second * 15.0).max(1.0), a_second };
        Self { requests, buckets: Mutex::default() }
    }

    /// An attempt to log in. `Err`: how long to wait.
    pub(super) fn log_in(&self, name: &str, from: Option<IpAddr>, now: Instant) -> Result<(), Duration> {
        let from = from.map(network);
        self.take(Subject::LoginFrom(from), LOGIN_FROM, now)?;
        self.take(Subject::Login(name.into(), from), LOGIN, now)?;
        self.take(Subject::LoginName(name.into()), LOGIN_NAME, now)
    }

    /// It was the right password: mistakes before it are forgiven.
    pub(super) fn logged_in(&self, name: &str, from: Option<IpAddr>) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.remove(&Subject::Login(name.into(), from.map(network)));
    }

    /// May somebody from here be looked up?
    pub(super) fn stranger(&self, from: Option<IpAddr>, now: Instant) -> Result<(), Duration> {
        self.peek(&Subject::Stranger(from.map(network)), now)
    }

    /// Somebody from here turned out to be nobody.
    pub(super) fn was_stranger(&self, from: Option<IpAddr>, now: Instant) {
        // At the bound the next one is refused; this one is so already.
        let _ = self.take(Subject::Stranger(from.map(network)), STRANGER, now);
    }

    /// A request of somebody who is known.
    pub(super) fn request(&self, proof: Proof, now: Instant) -> Result<(), Duration> {
        match proof {
            Proof::Open => Ok(()),
            Proof::Session { user: UserKey(user), .. } => self.take(Subject::User(user), self.requests, now),
            Proof::Key { key: KeyKey(key), .. } => self.take(Subject::Key(key), self.requests, now),
        }
    }

    fn peek(&self, subject: &Subject, now: Instant) -> Result<(), Duration> {
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        match buckets.get(subject) {
            Some(bucket) if bucket.level(now) < 1.0 => Err(wait(bucket.level(now), bucket.rate)),
            _ => Ok(()),
        }
    }

    fn take(&self, subject: Subject, rate: Rate, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MOST && !buckets.contains_key(&subject) {
            make_room(&mut buckets, now);
        }
        let bucket = buckets.entry(subject).or_insert(Bucket { left: rate.burst, at: now, rate });
        let level = bucket.level(now);
        (bucket.at, bucket.left) = (now, level);
        if level < 1.0 {
            return Err(wait(level, rate));
        }
        bucket.left -= 1.0;
        Ok(())
    }
}

fn wait(level: f64, rate: Rate) -> Duration {
    Duration::from_secs_f64(((1.0 - level) / rate.a_second.max(1e-6)).clamp(1.0, 3_600.0))
}

/// Half of them go, the fullest first.
fn make_room(buckets: &mut HashMap<Subject, Bucket>, now: Instant) {
    let level = |bucket: &Bucket| bucket.level(now) / bucket.rate.burst;
    let mut levels: Vec<f64> = buckets.values().map(level).collect();
    levels.sort_by(f64::total_cmp);
    let middle = levels.get(levels.len() / 2).copied().unwrap_or_default();
    buckets.retain(|_, bucket| level(bucket) < middle);
}

/// Whoever has one IPv6 address has all of its /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn guessing_one_name_is_held_up_and_mistyping_is_not() {
        let (limits, now) = (Limits::new(60), Instant::now());
        let tries = || limits.log_in("anna", address("10.0.0.1"), now);
        assert!((0..6).all(|_| tries().is_ok()));
        let wait = tries().unwrap_err();
        assert!(wait > Duration::from_secs(25) && wait <= Duration::from_secs(30), "{wait:?}");
        // The same name from elsewhere, and another name from here, go on.
        assert!(limits.log_in("anna", address("10.0.0.2"), now).is_ok());
        assert!(limits.log_in("bert", address("10.0.0.1"), now).is_ok());
        assert!(limits.log_in("anna", address("10.0.0.1"), now + wait).is_ok());
        limits.logged_in("anna", address("10.0.0.1"));
        assert!((0..6).all(|_| limits.log_in("anna", address("10.0.0.1"), now + wait).is_ok()));
    }

    #[test]
    fn trying_names_from_one_network_is_held_up() {
        let (limits, now) = (Limits::new(60), Instant::now());
        let tried = (0..100u32).filter(|n| {
            // A /64 is one network, however many addresses it has.
            limits.log_in(&format!("user{n}"), address(&format!("2001:db8::{n}")), now).is_ok()
        });
        assert_eq!(tried.count(), 30);
        assert!(limits.log_in("anna", address("2001:db8:0:1::1"), now).is_ok());
    }

    #[test]
    fn many_who_try_one_name_are_held_up() {
        let (limits, now) = (Limits::new(60), Instant::now());
        let from = |n: u32| address(&format!("10.1.{}.{}", n / 200, n % 200));
        assert_eq!((0..500).filter(|n| limits.log_in("anna", from(*n), now).is_ok()).count(), 60);
    }

    #[test]
    fn requests_are_counted_by_who_asks() {
        let (limits, now) = (Limits::new(60), Instant::now());
        let key = |number| Proof::Key { hash: [0; 32], key: KeyKey(number) };
        assert_eq!((0..100).filter(|_| limits.request(key(1), now).is_ok()).count(), 15);
        assert!(limits.request(key(2), now).is_ok() && limits.request(Proof::Open, now).is_ok());
        let later = now + Duration::from_secs(2);
        assert_eq!((0..100).filter(|_| limits.request(key(1), later).is_ok()).count(), 2);
    }

    #[test]
    fn buckets_are_bounded_and_who_is_held_up_stays_so() {
        let (limits, now) = (Limits::new(60), Instant::now());
        let held = address("10.0.0.1");
        (0..200).for_each(|_| limits.was_stranger(held, now));
        for n in 0..100_000u32 {
            limits.was_stranger(address(&std::net::Ipv4Addr::from(n + (11 << 24)).to_string()), now);
        }
        assert!(limits.buckets.lock().unwrap().len() <= MOST);
        assert!(limits.stranger(held, now).is_err());
        assert!(limits.stranger(address("10.0.0.2"), now).is_ok());
    }
}
