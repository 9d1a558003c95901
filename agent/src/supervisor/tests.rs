use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, watch};

use super::*;

const GRACE: Grace = Grace { append: Duration::from_millis(200), uplink: Duration::from_millis(200) };
const NEVER_LATE: Grace = Grace { append: Duration::from_secs(60), uplink: Duration::from_secs(60) };

/// Who ended, in order.
#[derive(Clone, Default)]
struct Diary(Arc<Mutex<Vec<&'static str>>>);

impl Diary {
    fn note(&self, who: &'static str) {
        self.0.lock().unwrap().push(who);
    }
    fn entries(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().clone()
    }
}

fn pauses() -> Backoff {
    Backoff::new(Duration::from_millis(1), Duration::from_millis(2)).unwrap()
}

fn post(ending: &Ending, birth: Birth) -> Post {
    Post { index: 0, name: "hall".into(), backoff: pauses(), stop: ending.stop_links.child_token(), birth }
}

/// Ends when `token` is cancelled.
fn until(token: CancellationToken, who: &'static str, diary: &Diary) -> Life {
    let diary = diary.clone();
    Box::pin(async move {
        token.cancelled().await;
        diary.note(who);
        Ok(())
    })
}

#[tokio::test]
async fn the_end_goes_from_the_field_to_the_server() {
    let (ending, diary) = (Ending::default(), Diary::default());
    let mut supervisor = Supervisor::new(ending.clone());
    // The batcher ends when the last link hangs up, restarts included, and the links close after it.
    let (sender, mut receiver) = mpsc::channel::<()>(1);
    let births = {
        let (ending, diary) = (ending.clone(), diary.clone());
        move || {
            let (sender, stop) = (sender.clone(), ending.stop_links.clone());
            let close = until(ending.close_links.clone(), "link", &diary);
            Box::pin(async move {
                stop.cancelled().await;
                drop(sender);
                close.await
            }) as Life
        }
    };
    supervisor.uplink(until(ending.finish_uplink.clone(), "uplink", &diary));
    supervisor.attendant("telemetry", until(ending.give_up.clone(), "telemetry", &diary));
    let batcher_diary = diary.clone();
    supervisor.batcher(async move {
        assert!(receiver.recv().await.is_none());
        batcher_diary.note("batcher");
        Ok(())
    });
    supervisor.link(post(&ending, Box::new(births)));
    ending.asked.cancel();
    assert_eq!(supervisor.run(NEVER_LATE).await, Verdict::Drained);
    let mut entries = diary.entries();
    entries[1..3].sort_unstable();
    assert_eq!(entries, ["batcher", "link", "uplink", "telemetry"]);
}

#[tokio::test]
async fn a_link_task_that_panics_is_started_again_and_the_others_never_notice() {
    let (ending, diary) = (Ending::default(), Diary::default());
    let mut supervisor = Supervisor::new(ending.clone());
    let (lives, mut seen) = watch::channel(0);
    let stop = ending.stop_links.clone();
    let birth: Birth = Box::new(move || {
        let (lives, stop) = (lives.clone(), stop.clone());
        Box::pin(async move {
            lives.send_modify(|lives| *lives += 1);
            assert!(*lives.borrow() >= 3, "a driver's mistake");
            stop.cancelled().await;
            Ok(())
        })
    });
    supervisor.link(post(&ending, birth));
    supervisor.batcher(until(ending.stop_links.clone(), "batcher", &diary));
    supervisor.uplink(until(ending.finish_uplink.clone(), "uplink", &diary));
    let running = tokio::spawn(supervisor.run(NEVER_LATE));
    seen.wait_for(|lives| *lives == 3).await.unwrap();
    assert_eq!(diary.entries(), Vec::<&str>::new());
    ending.asked.cancel();
    assert_eq!(running.await.unwrap(), Verdict::Drained);
}

#[tokio::test]
async fn a_batcher_that_ends_by_itself_ends_the_agent_with_a_fault() {
    for fault in [Ok(()), Err(anyhow::anyhow!("the buffer has stopped"))] {
        let (ending, diary) = (Ending::default(), Diary::default());
        let mut supervisor = Supervisor::new(ending.clone());
        let words =
            fault.as_ref().err().map_or("it ended before it was asked to".into(), ToString::to_string);
        supervisor.batcher(async move { fault });
        supervisor.uplink(until(ending.finish_uplink.clone(), "uplink", &diary));
        assert_eq!(supervisor.run(NEVER_LATE).await, Verdict::Failed(format!("batcher: {words}")));
        assert_eq!(diary.entries(), ["uplink"], "the others end in order all the same");
    }
}

#[tokio::test]
async fn an_attendant_is_missed_and_not_mourned() {
    let (ending, diary) = (Ending::default(), Diary::default());
    let mut supervisor = Supervisor::new(ending.clone());
    supervisor.batcher(until(ending.stop_links.clone(), "batcher", &diary));
    supervisor.uplink(until(ending.finish_uplink.clone(), "uplink", &diary));
    let asked = ending.asked.clone();
    supervisor.attendant("telemetry", async move {
        // The last thing it does is to let the test go on.
        asked.cancel();
        anyhow::bail!("the port is taken")
    });
    assert_eq!(supervisor.run(NEVER_LATE).await, Verdict::Drained);
}

#[tokio::test]
async fn nobody_holds_the_end_up_for_longer_than_its_grace() {
    let ending = Ending::default();
    let mut supervisor = Supervisor::new(ending.clone());
    supervisor.link(post(&ending, Box::new(|| Box::pin(std::future::pending()))));
    supervisor.batcher(std::future::pending());
    supervisor.uplink(std::future::pending());
    ending.asked.cancel();
    let begun = Instant::now();
    let verdict = supervisor.run(GRACE).await;
    assert_eq!(verdict, Verdict::Failed("not everything could be written in time".into()));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(ending.finish_uplink.is_cancelled() && ending.give_up.is_cancelled());
}

#[tokio::test]
async fn a_server_that_takes_too_long_is_no_fault() {
    let ending = Ending::default();
    let mut supervisor = Supervisor::new(ending.clone());
    let give_up = ending.give_up.clone();
    supervisor.uplink(until(give_up, "uplink", &Diary::default()));
    ending.asked.cancel();
    assert_eq!(supervisor.run(GRACE).await, Verdict::Drained);
}

#[tokio::test]
async fn links_come_and_go_while_the_agent_runs() {
    let (ending, diary) = (Ending::default(), Diary::default());
    let mut supervisor = Supervisor::new(ending.clone());
    let (orders, to_supervisor) = mpsc::channel(4);
    supervisor.takes_orders(to_supervisor);
    let (lives, mut seen) = watch::channel(0);
    let post = |index: usize, falls: bool| {
        let (lives, stop) = (lives.clone(), ending.stop_links.child_token());
        let token = stop.clone();
        let birth: Birth = Box::new(move || {
            lives.send_modify(|lives| *lives += 1);
            let stop = token.clone();
            Box::pin(async move {
                stop.cancelled().await;
                assert!(!falls, "a driver's mistake");
                Ok(())
            })
        });
        Post { index, name: format!("link {index}"), backoff: pauses(), stop, birth }
    };
    supervisor.link(post(0, false));
    supervisor.link(post(1, true));
    supervisor.batcher(until(ending.stop_links.clone(), "batcher", &diary));
    let running = tokio::spawn(supervisor.run(NEVER_LATE));
    let end = async |index| {
        let (sender, ended) = oneshot::channel();
        assert!(orders.send(Order::End(index, sender)).await.is_ok());
        ended.await.expect("it has ended");
    };
    end(1).await;
    end(7).await;
    assert!(orders.send(Order::Start(post(1, false))).await.is_ok());
    seen.wait_for(|lives| *lives == 3).await.unwrap();
    end(0).await;
    assert_eq!(*seen.borrow(), 3, "none is born again");
    ending.asked.cancel();
    assert_eq!(running.await.unwrap(), Verdict::Drained);
}
