//! The asynchronous handles over the store's thread.

use forebay_config::units::ByteSize;

use super::super::{Buffer, BufferError, Settings};
use super::*;

fn settings(dir: &Path) -> Settings {
    Settings {
        dir: dir.join("buffer"),
        max_size: ByteSize(ROOMY.limit),
        reserve: ByteSize(0),
        when_full: WhenFull::DropOldest,
        tail: ByteSize(ROOMY.tail),
        classes: Vec::new(),
    }
}

#[tokio::test]
async fn what_was_appended_is_read_acknowledged_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let (buffer, mut appender, opening) = Buffer::open(settings(dir.path())).await.unwrap();
    assert_eq!((opening.boot_counter, appender.next_sequence()), (1, Sequence(1)));
    assert_eq!(appender.define(&[point("flow")]).await.unwrap(), [PointId(1)]);
    appender.append(vec![batch(1, 100), batch(2, 200)]).await.unwrap();
    assert_eq!(appender.next_sequence(), Sequence(3));
    assert_eq!(buffer.status().backlog_batches, 2);
    assert_eq!(buffer.newest(Sequence(9), 1).await.unwrap()[0].sequence, Sequence(2));
    buffer.acknowledge(vec![1..=1]).await.unwrap();
    buffer.record_gap(Default::default()).await.unwrap();
    buffer.close().await.unwrap();
    assert!(matches!(appender.append(vec![batch(3, 10)]).await, Err(BufferError::Stopped)));
    assert!(matches!(buffer.oldest(Sequence(0), 1).await, Err(BufferError::Stopped)));

    let (buffer, appender, again) = Buffer::open(settings(dir.path())).await.unwrap();
    assert_eq!((again.epoch, again.repairs, appender.next_sequence()), (opening.epoch, vec![], Sequence(3)));
    assert_eq!(again.counts, buffer.status().counts);
    assert_eq!(again.counts.acknowledged, u64::from(batch(1, 0).count));
    let read = buffer.oldest(Sequence(0), usize::MAX).await.unwrap();
    assert_eq!((read.len(), &read[0].bytes), (1, &batch(2, 200).bytes));
    assert_eq!(buffer.gaps(0, 10).await.unwrap().len(), 1);
    assert_eq!(buffer.dictionary(PointId(0)).await.unwrap(), [(PointId(1), point("flow"))]);
}

#[tokio::test]
async fn an_append_wakes_the_uplink_even_if_it_was_not_waiting_yet() {
    let dir = tempfile::tempdir().unwrap();
    let (buffer, mut appender, _) = Buffer::open(settings(dir.path())).await.unwrap();
    appender.append(vec![batch(1, 100)]).await.unwrap();
    buffer.appended().await;
    let waiting = buffer.appended();
    tokio::pin!(waiting);
    assert!(futures::poll!(&mut waiting).is_pending(), "nothing new yet");
    appender.append(vec![batch(2, 100)]).await.unwrap();
    waiting.await;
}

#[tokio::test]
async fn a_batch_out_of_order_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (buffer, mut appender, _) = Buffer::open(settings(dir.path())).await.unwrap();
    appender.append(vec![batch(1, 100)]).await.unwrap();
    let refused = appender.append(vec![batch(2, 100), batch(1, 100)]).await.unwrap_err();
    assert!(refused.to_string().contains("batch 1 was offered where 3 comes next"), "{refused}");
    assert_eq!((buffer.status().backlog_batches, appender.next_sequence()), (1, Sequence(2)));
}
