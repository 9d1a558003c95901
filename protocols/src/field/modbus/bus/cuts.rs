//! What a refusal leads to: the request is cut, its pieces are judged, and what they tell is learnt.
//!
//! Nothing is learnt for ever: the whole is tried again after an hour, and after pauses that double up
//! to a week; after an hour at most where the device may be another one since, because it was away or
//! the connection was. A trial costs one request: a whole that is refused again makes way for the
//! pieces it had before. What was learnt in an earlier life is tried in the same way.

use std::time::Duration;

use tokio::time::Instant;

use super::{Bus, Job};
use crate::field::modbus::planner::{self, Learnt, Request};

/// How long a cut request stays cut at first. Some devices refuse everything while they start.
const TRIED_AFTER: Duration = Duration::from_secs(3_600);
/// How long at last.
const TRIED_AT_LAST: Duration = Duration::from_secs(7 * 86_400);

/// A request as planned.
pub(super) struct Whole {
    pub(super) unit: usize,
    pub(super) request: Request,
    pub(super) cut: Option<Cut>,
    /// It was refused and is tried again. If it is refused once more these take its place; where there
    /// are none it is taken apart anew.
    trial: Option<Vec<Request>>,
    /// Its last cut was about its length.
    was_about_length: bool,
    /// How long it stays cut when it is refused next.
    patience: Duration,
}

impl Whole {
    pub(super) fn new(unit: usize, request: Request) -> Self {
        let (was_about_length, patience) = (false, TRIED_AFTER);
        Self { unit, request, cut: None, trial: None, was_about_length, patience }
    }
}

/// How a whole was taken apart.
pub(super) struct Cut {
    /// When the device last refused the whole, or another one for the same reason.
    at: Instant,
    /// When the whole is tried again.
    until: Instant,
    /// The device refused an address, and not a number.
    by_address: bool,
    /// Each piece was given or refused, and what that tells is learnt.
    is_understood: bool,
    /// The whole was too long. That is the same fact for all requests to the device.
    is_about_length: bool,
    /// A piece was refused since it was understood.
    is_outdated: bool,
    /// What will take the place of the pieces when none of them is under way any more. Until then
    /// no further piece is asked, or that moment might never come.
    pub(super) joined: Vec<Request>,
}

impl Cut {
    fn new(by_address: bool, patience: Duration) -> Self {
        let at = Instant::now();
        let (is_understood, is_about_length, is_outdated) = (false, false, false);
        let until = at + patience;
        Self { at, until, by_address, is_understood, is_about_length, is_outdated, joined: Vec::new() }
    }
}

impl Bus {
    /// What is known of a device, by its number, that the configuration does not say.
    pub fn learnt(&self, device: usize) -> Learnt {
        self.known.get(device).cloned().unwrap_or_default()
    }

    /// Grows whenever [`Bus::learnt`] of some device may tell something else than before.
    pub fn lessons(&self) -> u64 {
        self.lessons
    }

    /// Makes the jobs of a whole that was never asked: its pieces, if an earlier life learnt that it
    /// would be refused.
    pub(super) fn begin(&mut self, number: usize) {
        let Whole { request, patience, .. } = &self.wholes[number];
        let device = request.device;
        let pieces = match (self.known.get(device), self.limits.get(device)) {
            (Some(known), Some(limits)) if !known.is_empty() => {
                request.replanned(self.settings.cost, &limits.narrowed(known))
            }
            _ => Vec::new(),
        };
        if pieces.len() < 2 {
            return self.restore(number);
        }
        let most = self.known.get(device).and_then(|known| known.max_registers);
        let is_about_length = most.is_some_and(|most| request.count > most);
        let cut = Cut { is_understood: true, is_about_length, ..Cut::new(!is_about_length, *patience) };
        self.wholes[number].cut = Some(cut);
        pieces.into_iter().for_each(|piece| self.add_job(number, piece, Instant::now()));
    }

    /// A request was given. Whatever was known that says it would not be is forgotten, and what was cut
    /// because of that is tried.
    pub(super) fn refuted(&mut self, number: usize) {
        let Job { whole, request, .. } = &self.jobs[number];
        let Request { device, table, address, count, .. } = *request;
        let whole = &mut self.wholes[*whole];
        if whole.trial.take().is_some() {
            whole.patience = TRIED_AFTER;
        }
        let Some(known) = self.known.get_mut(device).filter(|known| !known.is_empty()) else { return };
        let past = u32::from(address) + u32::from(count);
        let before = (known.max_registers, known.holes.len());
        known
            .holes
            .retain(|hole| hole.table != table || hole.last < address || u32::from(hole.first) >= past);
        if planner::is_of_registers(table) {
            known.max_registers = known.max_registers.filter(|most| count <= *most);
        }
        if before != (known.max_registers, known.holes.len()) {
            self.lessons += 1;
            let now = Instant::now();
            self.cuts_of(device).filter(|cut| cut.is_understood).for_each(|cut| cut.until = now);
        }
    }

    /// Takes a refused request apart; its parts are due at once. False if it is a single span.
    pub(super) fn split(&mut self, number: usize, by_address: bool) -> bool {
        let Some(smaller) = self.jobs[number].request.split() else { return false };
        let Job { whole: number, .. } = self.jobs.swap_remove(number);
        let whole = &mut self.wholes[number];
        let mut pieces = smaller;
        if let Some(before) = whole.trial.take() {
            whole.patience = (whole.patience * 2).min(TRIED_AT_LAST);
            let is_as_before = !before.is_empty();
            if is_as_before {
                pieces = before;
            }
            let is_about_length = is_as_before && whole.was_about_length;
            let cut =
                Cut { is_understood: is_as_before, is_about_length, ..Cut::new(by_address, whole.patience) };
            let (at, until, device) = (cut.at, cut.until, whole.request.device);
            whole.cut = Some(cut);
            if is_about_length {
                let others = self.cuts_of(device).filter(|cut| cut.is_about_length);
                others.for_each(|cut| (cut.at, cut.until) = (at, cut.until.max(until)));
            }
        } else {
            let patience = whole.patience;
            let cut = whole.cut.get_or_insert_with(|| Cut::new(by_address, patience));
            cut.is_outdated |= cut.is_understood;
        }
        pieces.into_iter().for_each(|request| self.add_job(number, request, Instant::now()));
        true
    }

    /// A request was given or refused for good. When that is known of all pieces of a whole, their
    /// fate is learnt from and they are joined as far as that allows.
    pub(super) fn judged(&mut self, number: usize, is_given: bool) {
        let job = &mut self.jobs[number];
        let was_given = job.is_given.replace(is_given);
        let number = job.whole;
        let whole = &mut self.wholes[number];
        let Some(cut @ Cut { is_understood: false, .. }) = &mut whole.cut else { return };
        if was_given.is_some_and(|was| was != is_given) {
            // It refuses now this and now that. Nothing follows from it.
            cut.is_understood = true;
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
        let (asked, device) = (pieces.len(), whole.request.device);
        let joined = match (self.limits.get(device), self.known.get_mut(device)) {
            (Some(limits), Some(known)) if !learnt.is_empty() => {
                self.lessons += 1;
                known.add(&learnt);
                whole.request.replanned(self.settings.cost, &limits.narrowed(known))
            }
            _ => Vec::new(),
        };
        cut.is_understood = true;
        cut.is_about_length = learnt.max_registers.is_some();
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

    /// Puts wholes cut long ago in the place of their parts, unless a part is being waited for; of a
    /// device one at a time, for the first may tell of all.
    pub(super) fn restore_old_cuts(&mut self, now: Instant) {
        for number in 0..self.wholes.len() {
            let Whole { unit, cut, request, .. } = &self.wholes[number];
            if cut.as_ref().is_none_or(|cut| now < cut.until) || self.units[*unit].breaker.is_silent() {
                continue;
            }
            let is_on_trial = |whole: &Whole| whole.trial.is_some() && whole.request.device == request.device;
            let is_awaited = self.jobs.iter().any(|job| job.whole == number && self.is_under_way(job));
            if !is_awaited && !self.wholes.iter().any(is_on_trial) {
                self.restore(number);
            }
        }
    }

    /// Puts a whole in the place of its parts.
    fn restore(&mut self, number: usize) {
        let (pieces, others) =
            std::mem::take(&mut self.jobs).into_iter().partition(|job| job.whole == number);
        self.jobs = others;
        let pieces: Vec<Job> = pieces;
        let whole = &mut self.wholes[number];
        whole.trial = whole.cut.take().map(|cut| {
            whole.was_about_length = cut.is_about_length;
            match cut.is_understood && !cut.is_outdated {
                true if !cut.joined.is_empty() => cut.joined,
                true => pieces.into_iter().map(|job| job.request).collect(),
                false => Vec::new(),
            }
        });
        let request = whole.request.clone();
        self.add_job(number, request, Instant::now());
    }

    /// A unit was away, or with `None` the connection was: what is there now may be another device, or
    /// have another program. What was learnt is tried soon, but no sooner than if it were new: some
    /// connections break every minute.
    pub(super) fn may_have_changed(&mut self, unit: Option<usize>) {
        let wholes = self.wholes.iter_mut().filter(|whole| unit.is_none_or(|unit| unit == whole.unit));
        for cut in wholes.filter_map(|whole| whole.cut.as_mut()) {
            cut.until = cut.until.min(cut.at + TRIED_AFTER);
        }
    }

    fn cuts_of(&mut self, device: usize) -> impl Iterator<Item = &mut Cut> {
        let wholes = self.wholes.iter_mut().filter(move |whole| whole.request.device == device);
        wholes.filter_map(|whole| whole.cut.as_mut())
    }

    fn add_job(&mut self, whole: usize, request: Request, due: Instant) {
        let (id, unit) = (self.next_id, self.wholes[whole].unit);
        self.next_id += 1;
        self.jobs.push(Job { id, whole, unit, request, due, is_given: None });
    }
}
