//! Nodes by the way to them.

use super::*;

fn path(to: &str) -> String {
    let steps: String = to.split('/').map(|name| format!("/nsu={NAMESPACE};{name}")).collect();
    format!("/Objects{steps}")
}

#[tokio::test(flavor = "multi_thread")]
async fn browse_paths_lead_to_the_same_nodes_after_a_restart_that_numbered_all_of_them_anew() {
    for polls in [false, true] {
        let first = plant(|o| o.node_prefix = "7.".into()).await;
        let address = first.address();
        let link = link(&first.endpoint(), |o| {
            if polls {
                o.reading = OpcUaReading::Poll;
            }
            o.devices[0].points = vec![
                point("temp", &path("Press/Temp"), DataType::Float),
                point("flow", &path("Boiler/Flow.Temp"), DataType::Float),
                point("by-id", &format!("nsu={NAMESPACE};s=7.Press.Temp"), DataType::Float),
                point("name", "/Objects/Server/NamespaceArray", DataType::Text),
                point("namespace", "/Objects/nsu=urn:nobody;Press", DataType::Float),
            ];
        });
        let mut source = source(&keys("client"), &link);
        source.connect().await.unwrap();
        let qualities: Vec<_> = gather(&mut source, |_| true).await.iter().map(|s| s.quality).collect();
        let (good, gone) = (Quality::Good, Quality::Bad(Fault::NotFound));
        // A property of the standard's own is found, and an array is no reading.
        let array = Quality::Bad(Fault::WrongType);
        assert_eq!(qualities, [good, good, good, array, gone]);
        first.shutdown().await;
        while timeout(PATIENCE, source.next()).await.expect("the loss was not noticed").is_ok() {}

        let second = plant(|o| {
            o.address = address;
            o.namespaces_before = 2;
            o.node_prefix = "12.".into();
        })
        .await;
        source.connect().await.unwrap();
        let qualities: Vec<_> = gather(&mut source, |_| true).await.iter().map(|s| s.quality).collect();
        assert_eq!(qualities, [good, good, gone, array, gone]);
        source.close().await;
        second.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_leads_nowhere_concerns_its_own_point_and_is_gone_again_from_time_to_time() {
    for polls in [false, true] {
        let plant = plant(|_| {}).await;
        let link = link(&plant.endpoint(), |o| {
            if polls {
                o.reading = OpcUaReading::Poll;
            }
            o.devices[0].points.insert(0, point("late", &path("No.Such"), DataType::Float));
        });
        let mut source = source(&keys("client"), &link);
        source.connect().await.unwrap();
        let samples = gather(&mut source, |_| true).await;
        assert_eq!(samples[0].quality, Quality::Bad(Fault::NotFound), "{samples:?}");
        assert!(samples[1..].iter().all(is_good), "{samples:?}");
        // Told once: what comes now comes because the node is there.
        let begun = tokio::time::Instant::now();
        while begun.elapsed() < Duration::from_secs(2) {
            let harvest = timeout(PATIENCE, source.next()).await.unwrap().unwrap();
            assert!(harvest.samples.iter().all(|sample| sample.slot != 0), "told twice: {harvest:?}");
        }
        plant.add_node("No.Such", 4.5);
        let found = loop {
            let harvest = timeout(PATIENCE, source.next()).await.expect("the node was not found").unwrap();
            if let Some(sample) = harvest.samples.into_iter().find(|sample| sample.slot == 0) {
                break sample;
            }
        };
        assert_eq!((found.value, found.quality), (Some(Value::Float(4.5)), Quality::Good));
        source.close().await;
        plant.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_fewer_items_than_there_are_points_reports_as_many_as_it_takes() {
    let plant = plant(|o| o.max_items = 3).await;
    let link = link(&plant.endpoint(), |_| {});
    let mut source = source(&keys("client"), &link);
    source.connect().await.unwrap();
    let qualities: Vec<_> = gather(&mut source, |_| true).await.iter().map(|s| s.quality).collect();
    let good = Quality::Good;
    assert_eq!(qualities, [good, good, good, Quality::Bad(Fault::Refused)]);
    source.close().await;
    plant.shutdown().await;
}
