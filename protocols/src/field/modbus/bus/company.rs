//! Several requests under way at once: which may be sent, what came of them, and when the link is
//! asked one at a time instead.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{Bus, Flight, exception, query};
use crate::field::modbus::frame::Reply;
use crate::field::modbus::transport::StreamLost;
use crate::field::source::{Harvest, LinkFault};

/// The longest a link is asked one request at a time before several are tried again.
const SINGLE_AT_LAST: Duration = Duration::from_secs(3_600);

impl Bus {
    /// As `turn`, with several requests under way: sends what may be sent, and gives what came of
    /// the first that ends.
    pub(super) async fn turn_in_company(&mut self) -> Result<Harvest, LinkFault> {
        loop {
            let now = Instant::now();
            self.restore_old_cuts(now);
            if let Some(number) = self.launchable(now) {
                self.launch(number).await?;
                continue;
            }
            let has_room = self.flights.len() < self.room(now);
            let ends = self.flights.iter().map(|flight| flight.deadline).min();
            let begins = self.admitted().map(|(at, _)| at).filter(|at| has_room && *at > now).min();
            let Some(until) = [ends, begins].into_iter().flatten().min() else {
                // A link without points has nothing to wait for but its end.
                return std::future::pending().await;
            };
            if self.flights.is_empty() {
                sleep_until(until).await;
                continue;
            }
            let waiting: Vec<_> = self.flights.iter().map(|f| (f.transaction, f.query)).collect();
            let Some(connection) = &mut self.connection else {
                return Err(self.lost("it was not connected"));
            };
            let received = connection.transport.receive(&waiting, until).await;
            let discarded = connection.transport.take_discarded();
            let ended = match received {
                Err(StreamLost(why)) => return Err(self.lost(&why)),
                Ok(Some((id, reply))) => {
                    self.flights.iter().position(|f| f.transaction == id).map(|at| (at, reply))
                }
                Ok(None) => {
                    let now = Instant::now();
                    let late = self.flights.iter().position(|flight| flight.deadline <= now);
                    late.map(|at| (at, Reply::Silent))
                }
            };
            if let Some((at, reply)) = ended {
                let flight = self.flights.remove(at);
                if self.flights.is_empty() {
                    self.occupancy.end();
                }
                let mut harvest = self.land(&flight, reply);
                harvest.discarded += discarded;
                return Ok(harvest);
            }
            if discarded > 0 {
                return Ok(Harvest { discarded, ..Harvest::default() });
            }
        }
    }

    /// How many requests may be under way now.
    fn room(&self, now: Instant) -> usize {
        let is_single = self.company.single_until.is_some_and(|until| now < until);
        match is_single || self.company.suspect.is_some() || self.flights.iter().any(|f| f.is_alone) {
            true => 1,
            false => self.settings.in_flight,
        }
    }

    /// The request to send next, if one is due and there is room for it.
    fn launchable(&mut self, now: Instant) -> Option<usize> {
        if let Some(suspect) = self.company.suspect
            && !self.admitted().any(|(_, number)| self.jobs[number].id == suspect)
            && self.flights.iter().all(|flight| flight.job != suspect)
        {
            // Its unit was found silent, or its request is no more.
            self.company.suspect = None;
        }
        if self.flights.len() >= self.room(now) {
            return None;
        }
        let suspect = self.company.suspect;
        let (_, number) = self.admitted().filter(|(at, _)| *at <= now).min_by_key(|&(at, number)| {
            let job = &self.jobs[number];
            (suspect != Some(job.id), self.units[job.unit].turn, at)
        })?;
        // Whoever must be asked alone is waited for, so that the others do not keep it out.
        (self.flights.is_empty() || !self.must_be_alone(number)).then_some(number)
    }

    /// A silent unit behind a gateway holds up everything asked after it.
    fn must_be_alone(&self, number: usize) -> bool {
        let job = &self.jobs[number];
        self.company.suspect == Some(job.id) || !self.units[job.unit].breaker.answers()
    }

    async fn launch(&mut self, number: usize) -> Result<(), LinkFault> {
        self.mark_asked(number);
        let query = query(&self.units, &self.jobs[number]);
        let timeout = self.settings.timeout;
        let Some(connection) = &mut self.connection else {
            return Err(self.lost("it was not connected"));
        };
        self.occupancy.begin();
        let transaction = match connection.transport.send(query, timeout).await {
            Ok(transaction) => transaction,
            Err(StreamLost(why)) => return Err(self.lost(&why)),
        };
        let is_in_company = !self.flights.is_empty();
        self.flights.iter_mut().for_each(|flight| flight.is_in_company |= is_in_company);
        self.flights.push(Flight {
            transaction,
            job: self.jobs[number].id,
            query,
            deadline: Instant::now() + timeout,
            is_in_company,
            is_alone: self.must_be_alone(number),
        });
        Ok(())
    }

    /// What came of a request that was under way.
    fn land(&mut self, flight: &Flight, reply: Reply) -> Harvest {
        let Some(number) = self.jobs.iter().position(|job| job.id == flight.job) else {
            return Harvest::default();
        };
        let has_failed = matches!(reply, Reply::Silent | Reply::Malformed(_) | Reply::Garbled);
        if has_failed && flight.is_in_company {
            self.company.suspect.get_or_insert(flight.job);
            self.jobs[number].due = Instant::now();
            self.rejoin(self.jobs[number].whole);
            return Harvest::default();
        }
        if self.company.suspect == Some(flight.job) {
            self.company.suspect = None;
            let is_unit_silent =
                matches!(reply, Reply::Exception(exception::GATEWAY_PATH | exception::GATEWAY_TARGET));
            if !has_failed && !is_unit_silent {
                self.ask_singly();
            }
        }
        let whole = self.jobs[number].whole;
        let harvest = self.settle(number, reply);
        self.rejoin(whole);
        harvest
    }

    /// The link does not bear several requests at once.
    pub(super) fn ask_singly(&mut self) {
        let time = self.company.next_single;
        tracing::debug!(peer = %self.settings.peer, ?time, "Asking one request at a time.");
        self.company.single_until = Some(Instant::now() + time);
        self.company.next_single = (time * 2).min(SINGLE_AT_LAST);
    }
}
