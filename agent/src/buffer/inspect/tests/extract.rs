//! What comes out is what went in, and only what was asked for.

use super::*;

#[test]
fn every_reading_of_the_backlog_comes_out_once_and_as_it_went_in() {
    let mut plant = Plant::new();
    plant.append(30);
    plant.store().acknowledge(&[3..=4]);
    plant.store().tick();
    let mut rows = 0;
    let mut last = 0;
    let extracted = plant
        .look()
        .extract(&Wanted::default(), &mut |row| {
            if row.sequence != last {
                assert_eq!(rows % (2 * EACH), 0, "all of batch {last} came");
                last = row.sequence;
            }
            let mut expected = readings(row.sequence);
            expected.sort_by_key(|reading| (reading.point.0, reading.stamp));
            let expected = &expected[(rows % (2 * EACH)) as usize];
            assert_eq!(row.reading, expected);
            assert_eq!(row.wall_us, expected.stamp.micros + BOOTED_US);
            assert_eq!((&*row.point.device, row.time), ("boiler", TimeSource::Synchronised));
            rows += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!((rows, extracted.readings), (28 * 2 * EACH, 28 * 2 * EACH));
    assert_eq!((extracted.believed, extracted.damaged), (0, 0));
}

#[test]
fn acknowledged_batches_come_out_only_when_asked_for() {
    let mut plant = Plant::new();
    plant.append(10);
    plant.store().acknowledge(&[1..=4]);
    let plant = plant.close();
    assert_eq!(extract(&plant.look(), &Wanted::default()).0, (5..=10).collect::<Vec<_>>());
    let all = Wanted { all: true, ..Wanted::default() };
    let sequences = extract(&plant.look(), &all).0;
    assert!(sequences.len() > 6 && sequences.ends_with(&[5, 6, 7, 8, 9, 10]), "{sequences:?}");
}

#[test]
fn readings_are_chosen_by_time_device_and_point() {
    let mut plant = Plant::new();
    plant.append(10);
    let inspection = plant.look();
    let at = |second: i64| Some(BOOTED_US + second * SECOND_US);
    let chosen = |wanted: Wanted| {
        let (sequences, extracted) = extract(&inspection, &wanted);
        (sequences, extracted.readings, extracted.unknown)
    };
    let none: Vec<String> = Vec::new();
    assert_eq!(
        chosen(Wanted { from_us: at(120), to_us: at(181), ..Wanted::default() }),
        (vec![2, 3], 2 * EACH + 2, none.clone()),
        "the first moment is in, the last is not"
    );
    let flow = Wanted { points: vec!["flow".into()], ..Wanted::default() };
    assert_eq!(chosen(flow.clone()), ((1..=10).collect(), 10 * EACH, none));
    let other = Wanted { devices: vec!["pump".into()], ..flow };
    assert_eq!(chosen(other), (vec![], 0, vec!["device `pump`".to_owned()]));
}

#[test]
fn times_say_which_clock_they_are_from() {
    let mut plant = Plant::new();
    plant.append(1);
    plant.synchronised = false;
    plant.append(1);
    let (epoch, sequence) = (plant.opening.epoch, plant.store().next_sequence());
    let boot = Boot { counter: 1, id: [7; 8], wall_offset_us: BOOTED_US, synchronised: false };
    let stated = Reading {
        point: PointId(1),
        stamp: Stamp::device(42),
        value: None,
        quality: Quality::from_code(130),
    };
    let batch = Encoder::new().encode(&Head { epoch, sequence, boot }, &mut [stated]);
    plant.store().append(&[batch]).unwrap();
    let mut clocks = Vec::new();
    let extracted = plant
        .look()
        .extract(&Wanted::default(), &mut |row| {
            clocks.push((row.sequence, row.time.word()));
            if row.sequence == 3 {
                assert_eq!(row.wall_us, 42, "a device's own time is left as it is");
            }
            Ok(())
        })
        .unwrap();
    clocks.dedup();
    assert_eq!(clocks, [(1, "synchronised"), (2, "believed"), (3, "device")]);
    assert_eq!(extracted.believed, 2 * EACH);
}

#[test]
fn a_reader_that_goes_away_ends_it() {
    let mut plant = Plant::new();
    plant.append(3);
    let mut rows = 0;
    let result = plant.look().extract(&Wanted::default(), &mut |_| {
        rows += 1;
        if rows == 5 { Err(ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    });
    assert_eq!((result.unwrap_err().kind(), rows), (ErrorKind::BrokenPipe, 5));
}
