//! Reading in turn.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn polled_points_come_at_their_interval_changed_or_not_with_one_stamp_a_round() {
    // Nothing moves: a subscription would tell each value once.
    let plant = plant(|o| o.tick = Duration::from_secs(3600)).await;
    let link = link(&plant.endpoint(), |o| {
        o.reading = OpcUaReading::Poll;
        for point in &mut o.devices[0].points {
            point.sampling_interval = Duration::from_millis(200);
        }
        o.devices[0].points[3].sampling_interval = Duration::from_millis(600);
    });
    let mut source = source(&keys("client"), &link);
    source.connect().await.unwrap();
    let mut stamps: Vec<Vec<i64>> = vec![Vec::new(); 4];
    while stamps[3].len() < 6 {
        let harvest = timeout(PATIENCE, source.next()).await.expect("no sample came").unwrap();
        if let Some(first) = harvest.samples.first() {
            assert!(harvest.samples.iter().all(|sample| sample.stamp == first.stamp), "{harvest:?}");
        }
        for sample in harvest.samples {
            assert!(is_good(&sample), "{sample:?}");
            stamps[sample.slot].push(sample.stamp.micros);
        }
    }
    source.close().await;
    // 3 s of readings: 15 of the quick ones, but for rounds a busy machine leaves out, never more.
    for quick in &stamps[..3] {
        assert!((8..=18).contains(&quick.len()), "{} readings in {:?}", quick.len(), stamps[3]);
    }
    let span = stamps[3].last().unwrap() - stamps[3][0];
    assert!(span >= 2_900_000, "6 readings 600 ms apart came within {span} µs");
    plant.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_keep_to_what_the_server_reads_at_once() {
    let plant = plant(|o| o.max_nodes_per_read = 7).await;
    let toml = plant.link_toml("hall");
    let whole = toml.lines().filter(|line| !line.contains("Robot."));
    let nodes: Vec<&str> =
        whole.filter_map(|line| line.split("node = \"").nth(1)?.split('"').next()).collect();
    assert_eq!(nodes.len(), 60);
    let link = link(&plant.endpoint(), |o| {
        o.reading = OpcUaReading::Poll;
        o.timestamp = Timestamp::Source;
        let point = |(index, node): (usize, &&str)| point(&format!("p{index}"), node, DataType::Text);
        o.devices[0].points = nodes.iter().enumerate().map(point).collect();
    });
    let mut source = source(&keys("client"), &link);
    source.connect().await.unwrap();
    let samples = gather(&mut source, is_good).await;
    assert!(samples.iter().all(|sample| sample.stamp.clock == Clock::Device), "{samples:?}");
    source.close().await;
    plant.shutdown().await;
}
