//! Messages a second at QoS 0 through the MQTT source, beside a bare client, by Mosquitto. Prints a
//! table, or with --json one object per row.
//!
//!   bench_mqtt [--json] [--messages 300000] [--rounds 3]

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use anyhow::{Context, Result, bail};
use forebay_tests::bench_mqtt::measure;

#[tokio::main]
async fn main() -> Result<()> {
    let (mut json, mut messages, mut rounds) = (false, 300_000, 3);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number =
            || words.next().and_then(|n| n.parse().ok()).with_context(|| format!("{word} takes a number"));
        match word.as_str() {
            "--json" => json = true,
            "--messages" => messages = number()?,
            "--rounds" => rounds = number()? as u32,
            other => bail!("there is no option {other}: --json, --messages, --rounds"),
        }
    }
    let measured = measure(messages, rounds).await?;
    if json {
        measured.iter().for_each(|row| println!("{}", row.json()));
        return Ok(());
    }
    println!("{:<10}{:>12}{:>12}{:>14}{:>12}", "who", "published", "received", "messages/s", "CPU us each");
    for row in &measured {
        println!(
            "{:<10}{:>12}{:>12}{:>14.0}{:>12.2}",
            row.who, row.published, row.received, row.rate, row.cpu_us
        );
    }
    let [source, bare] = &measured;
    println!(
        "the source reaches {:.2} of the bare client's rate, at {:.2} of its processor time",
        source.rate / bare.rate,
        source.cpu_us / bare.cpu_us
    );
    Ok(())
}
