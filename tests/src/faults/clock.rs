//! Clocks that lie. A gateway lives through up to six boots on a time line of its own: its system
//! clock begins in 1970, in the stale past, ten years ahead or right, is set by hand by seconds or
//! years, is caught by NTP or never; its crystal drifts; it is suspended, its agent restarted and
//! killed, its power cut; its server is heard in some boots, or only in the last. Store, clock, the
//! solving of boots and the packing of requests are the real ones; disk and clocks are simulated, so
//! that nobody waits. Whenever the backlog could be sent it is held against the truth.
//!
//! Beyond knowing: a clock that says that it is synchronised, was set by hand since, and whose boot
//! never hears the server. The readings of such a boot are counted, but their times not judged. Nor is
//! the word of other clocks in the same history a promise: one that was set by less than an hour is
//! believed against the server, whose own may be wrong, and then a clock that NTP keeps well seems to
//! lie over the end of the boot before.

mod gateway;
mod judge;

use self::gateway::{Contact, DAY, Gateway, HOUR, SECOND, YEAR};
use super::{Broken, Dice, Order, Tally};

pub fn run(order: &Order) -> Tally {
    order.each(scenario)
}

fn scenario(dice: &mut Dice) -> Tally {
    let mut gateway = match Gateway::new(dice) {
        Ok(gateway) => gateway,
        Err(error) => {
            let mut tally = Tally { faults: 1, ..Tally::default() };
            tally.add(Broken::Other(format!("no place to play: {error}")));
            return tally;
        }
    };
    let boots = dice.within(1, 6);
    for number in 1..=boots {
        let contact = match dice.below(3) {
            _ if number == boots => Contact::Sure,
            0 => Contact::Now,
            _ => Contact::Never,
        };
        if !one_boot(&mut gateway, contact, dice) {
            break;
        }
    }
    gateway.tally
}

/// False after a broken promise: what follows would only repeat it.
fn one_boot(gateway: &mut Gateway, contact: Contact, dice: &mut Dice) -> bool {
    gateway.boot(dice);
    gateway.start(dice);
    let has_ntp = dice.once_in(4);
    for _ in 0..dice.within(2, 9) {
        match dice.below(14) {
            0..5 => {
                gateway.pass(upto(HOUR, dice), dice);
                gateway.read(dice);
            }
            5 | 6 => gateway.step(step(dice), dice),
            7 | 8 if has_ntp => gateway.synchronise(dice),
            9 => gateway.suspend(upto(3 * DAY, dice), dice),
            10 => gateway.restart(true, dice),
            11 => gateway.restart(false, dice),
            12 | 13 if contact != Contact::Never => {
                gateway.hear(dice);
                if dice.once_in(2) {
                    gateway.send(dice.once_in(2));
                }
            }
            _ => gateway.read(dice),
        }
        gateway.pass(upto(60 * SECOND, dice), dice);
        gateway.look(dice);
        if gateway.tally.failures() > 0 {
            return false;
        }
    }
    if contact == Contact::Sure {
        gateway.hear(dice);
        gateway.look(dice);
        gateway.send(false);
    } else {
        gateway.end(dice.once_in(2), upto(60 * DAY, dice), dice);
    }
    gateway.tally.failures() == 0
}

/// Any span up to this one, short ones as likely as long ones.
fn upto(longest_us: i64, dice: &mut Dice) -> i64 {
    let bits = 63 - (longest_us / SECOND).max(1).leading_zeros();
    let most = (SECOND << dice.below(u64::from(bits) + 1)).min(longest_us);
    1_000 + dice.below(most as u64) as i64
}

/// Somebody sets the clock: by seconds up to ten years, both ways.
fn step(dice: &mut Dice) -> i64 {
    let by = if dice.once_in(4) { 10 * YEAR } else { SECOND + upto(10 * YEAR, dice) };
    if dice.once_in(2) { by } else { -by }
}
