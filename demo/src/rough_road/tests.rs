use super::*;

/// A server that answers every byte with the same byte, and its number in front of all.
async fn echo(number: u8) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut peer, _)) = listener.accept().await {
            tokio::spawn(async move {
                peer.write_all(&[number]).await?;
                let (mut from, mut to) = peer.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    address
}

async fn whom(road: &RoughRoad) -> u8 {
    let mut peer = TcpStream::connect(road.address()).await.expect("connects");
    peer.read_u8().await.expect("a number")
}

#[tokio::test]
async fn a_smooth_road_leads_to_its_servers_in_turn() {
    let (one, two) = (echo(1).await, echo(2).await);
    let road = RoughRoad::start(1, vec![one, two]).await.expect("a road");
    let met = [whom(&road).await, whom(&road).await, whom(&road).await, whom(&road).await];
    assert_eq!(met, [1, 2, 1, 2]);
    road.lead_to(vec![two]);
    assert_eq!([whom(&road).await, whom(&road).await], [2, 2]);
    assert_eq!(road.faults(), 0);
}

/// Sends kilobytes and reads them back until the connection ends or all came.
async fn travel(road: &RoughRoad) -> usize {
    let peer = TcpStream::connect(road.address()).await.expect("connects");
    let (mut from, mut to) = peer.into_split();
    let sending = async {
        for _ in 0..40 {
            to.write_all(&[7; 1_024]).await?;
        }
        to.shutdown().await
    };
    let hearing = async {
        let mut heard = Vec::new();
        // A reset is an end as well.
        let _ = from.read_to_end(&mut heard).await;
        heard.len()
    };
    let (_, heard) = tokio::join!(sending, hearing);
    heard
}

#[tokio::test]
async fn a_rough_road_harms_most_connections_and_a_mended_one_none() {
    let road = RoughRoad::start(3, vec![echo(1).await]).await.expect("a road");
    road.roughen();
    let mut whole = 0;
    for _ in 0..40 {
        whole += usize::from(travel(&road).await == 1 + 40 * 1_024);
    }
    assert!((1..35).contains(&whole), "{whole} of 40 arrived whole");
    assert!(road.faults() > 40, "{:?}", road.struck().collect::<Vec<_>>());
    let kinds = road.struck().filter(|(_, count)| *count > 0).count();
    assert!(kinds >= 6, "{:?}", road.struck().collect::<Vec<_>>());

    road.mend();
    let faults = road.faults();
    for _ in 0..10 {
        assert_eq!(travel(&road).await, 1 + 40 * 1_024);
    }
    assert_eq!(road.faults(), faults);
}

#[tokio::test]
async fn everybody_on_the_road_can_be_cut_at_once() {
    let road = RoughRoad::start(1, vec![echo(1).await]).await.expect("a road");
    let mut peer = TcpStream::connect(road.address()).await.expect("connects");
    assert_eq!(peer.read_u8().await.expect("open"), 1);
    road.cut_all();
    assert!(peer.read_u8().await.is_err());
}
