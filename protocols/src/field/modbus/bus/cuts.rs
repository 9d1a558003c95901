//! What a refusal leads to: the request is cut, its pieces are judged, and what they tell is learnt.

use std::time::Duration;

use tokio::time::Instant;

use super::{Bus, Job};
use crate::field::modbus::planner::{self, Learnt, Limits, Request};

/// How long a cut request stays cut.
const CUT_KEPT: Duration = Duration::from_secs(3_600);

/// A request as planned.
pub(super) struct Whole {
    pub(super) unit: usize,
    pub(super) request: Request,
    pub(super) cut: Option<Cut>,
    /// It was refused and is tried again: what was learnt may hold no more.
    is_doubted: bool,
}

impl Whole {
    pub(super) fn new(unit: usize, request: Request) -> Self {
        Self { unit, request, cut: None, is_doubted: false }
    }
}

/// How a whole was taken apart.
pub(super) struct Cut {
    at: Instant,
    /// The device refused an address, and not a number.
    by_address: bool,
    /// What it taught; `None` until each piece was given or refused.
    learnt: Option<Learnt>,
    /// What will take the place of the pieces when none of them is under way any more. Until then
    /// no further piece is asked, or that moment might never come.
    pub(super) joined: Vec<Request>,
}

impl Bus {
    /// What was learnt of a device, by its number, and still holds.
    pub fn learnt(&self, device: usize) -> Learnt {
        let own = self.wholes.iter().filter(|whole| whole.request.device == device);
        let mut all = Learnt::default();
        if let Some(limits) = self.limits.get(device) {
            all.holes.clone_from(&limits.forbidden);
        }
        own.filter_map(|whole| whole.cut.as_ref()?.learnt.as_ref()).for_each(|learnt| all.add(learnt));
        all
    }

    /// Grows whenever [`Bus::learnt`] of some device may tell something else than before.
    pub fn lessons(&self) -> u64 {
        self.lessons
    }

    /// A request was given. Whatever was known that says it would not be is forgotten.
    pub(super) fn refuted(&mut self, number: usize) {
        let Job { whole, request, .. } = &self.jobs[number];
        let Request { device, table, address, count, .. } = *request;
        let whole = &mut self.wholes[*whole];
        if whole.cut.is_none() && std::mem::take(&mut whole.is_doubted) {
            self.lessons += 1;
        }
        let Some(Limits { forbidden, .. }) = self.limits.get_mut(device) else { return };
        let past = u32::from(address) + u32::from(count);
        let before = forbidden.len();
        forbidden.retain(|hole| hole.table != table || hole.last < address || u32::from(hole.first) >= past);
        self.lessons += u64::from(forbidden.len() < before);
    }

    /// Takes a refused request apart; its parts are due at once. False if it is a single span.
    pub(super) fn split(&mut self, number: usize, by_address: bool) -> bool {
        let Some(smaller) = self.jobs[number].request.split() else { return false };
        let Job { whole, .. } = self.jobs.swap_remove(number);
        self.wholes[whole].cut.get_or_insert_with(|| Cut {
            at: Instant::now(),
            by_address,
            learnt: None,
            joined: Vec::new(),
        });
        smaller.into_iter().for_each(|request| self.add_job(whole, request, Instant::now()));
        true
    }

    /// A request was given or refused for good. When that is known of all pieces of a whole, their
    /// fate is learnt from and they are joined as far as that allows.
    pub(super) fn judged(&mut self, number: usize, is_given: bool) {
        let job = &mut self.jobs[number];
        let was_given = job.is_given.replace(is_given);
        let number = job.whole;
        let whole = &mut self.wholes[number];
        let Some(cut @ Cut { learnt: None, .. }) = &mut whole.cut else { return };
        if was_given.is_some_and(|was| was != is_given) {
            // It refuses now this and now that. Nothing follows from it.
            cut.learnt = Some(Learnt::default());
            return;
        }
        let of_whole = || self.jobs.iter().filter(|job| job.whole == number);
        let Some(pieces) =
            of_whole().map(|job| Some((&job.request, job.is_given?))).collect::<Option<Vec<_>>>()
        else {
            return;
        };
        if pieces.iter().all(|(_, is_given)| !is_given) {
            return;
        }
        let learnt = planner::learn(&pieces, cut.by_address);
        let asked = pieces.len();
        let joined = match self.limits.get(whole.request.device) {
            Some(limits) if !learnt.is_empty() => {
                whole.request.replanned(self.settings.cost, &limits.narrowed(&learnt))
            }
            _ => Vec::new(),
        };
        self.lessons += u64::from(!learnt.is_empty());
        cut.learnt = Some(learnt);
        if joined.len() < asked {
            cut.joined = joined;
        }
        self.rejoin(number);
    }

    /// Puts joined requests in the place of the pieces they were learnt from, unless one of these
    /// is under way and must find its job when it lands.
    pub(super) fn rejoin(&mut self, number: usize) {
        let is_awaited = self.jobs.iter().any(|job| job.whole == number && self.is_under_way(job));
        let Some(cut) = self.wholes[number].cut.as_mut().filter(|cut| !is_awaited && !cut.joined.is_empty())
        else {
            return;
        };
        let joined = std::mem::take(&mut cut.joined);
        let of_whole = self.jobs.iter().filter(|job| job.whole == number);
        let due = of_whole.map(|job| job.due).min().unwrap_or_else(Instant::now);
        self.jobs.retain(|job| job.whole != number);
        joined.into_iter().for_each(|request| self.add_job(number, request, due));
    }

    /// Puts wholes cut long ago in the place of their parts, unless a part is being waited for.
    pub(super) fn restore_old_cuts(&mut self, now: Instant) {
        for number in 0..self.wholes.len() {
            let Whole { unit, cut, .. } = &self.wholes[number];
            let is_old = cut.as_ref().is_some_and(|cut| now.saturating_duration_since(cut.at) >= CUT_KEPT);
            let is_awaited = self.jobs.iter().any(|job| job.whole == number && self.is_under_way(job));
            if is_old && !is_awaited && !self.units[*unit].breaker.is_silent() {
                self.restore(number);
            }
        }
    }

    pub(super) fn restore(&mut self, whole: usize) {
        self.jobs.retain(|job| job.whole != whole);
        let cut = self.wholes[whole].cut.take();
        self.wholes[whole].is_doubted |= cut.and_then(|cut| cut.learnt).is_some_and(|l| !l.is_empty());
        self.add_job(whole, self.wholes[whole].request.clone(), Instant::now());
    }

    fn add_job(&mut self, whole: usize, request: Request, due: Instant) {
        let (id, unit) = (self.next_id, self.wholes[whole].unit);
        self.next_id += 1;
        self.jobs.push(Job { id, whole, unit, request, due, is_given: None });
    }
}
